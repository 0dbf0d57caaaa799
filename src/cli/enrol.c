#include "cli/enrol.h"
#include "cli/api.h"
#include "cli/table.h"

#include <inttypes.h>

static json_t *enrol_body(const struct enrol_request *q)
{
	json_t *body = json_object();
	char id[24];

	snprintf(id, sizeof(id), "%" PRIu64, q->cgroup_id);
	json_object_set_new(body, "cgroup_id", json_string(id));
	if (q->workload)
		json_object_set_new(body, "workload", json_string(q->workload));
	if (q->service)
		json_object_set_new(body, "service", json_string(q->service));
	if (q->container_id)
		json_object_set_new(body, "container_id", json_string(q->container_id));
	if (q->label)
		json_object_set_new(body, "label", json_string(q->label));
	if (q->by)
		json_object_set_new(body, "by", json_string(q->by));
	return body;
}

int enrol_ask(const char *socket_path, const struct enrol_request *q, struct enrolment *ret, char *ret_why, size_t why_size)
{
	AUTO_REPLY reply = { 0 };
	const char *name, *dir;
	int r = api_request(socket_path, "POST", "/v1/workloads", enrol_body(q), ENROL_TIMEOUT_MS, &reply);

	ret_why[0] = '\0';
	if (r < 0)
		return r;
	if (reply.status != 200) {
		snprintf(ret_why, why_size, "%s", api_error_message(&reply));
		return reply.status == 404 ? -ENOENT : -EACCES;
	}
	name = api_str(reply.json, "name");
	dir = api_str(reply.json, "dir");
	if (!name || !dir || !str_copy(ret->name, sizeof(ret->name), name) || !str_copy(ret->dir, sizeof(ret->dir), dir)) {
		*ret = (struct enrolment){ 0 };
		snprintf(ret_why, why_size, "the daemon's answer makes no sense");
		return -EPROTO;
	}
	return 0;
}

int enrol(struct cli *c, const struct enrol_request *q, struct enrolment *ret)
{
	char why[1024];
	int r = enrol_ask(c->socket_path, q, ret, why, sizeof(why));

	if (r == 0)
		return CLI_OK;
	if (why[0] == '\0')
		return api_tell_unreachable(c, r, ENROL_TIMEOUT_MS);
	AUTO_FREE(char) safe = text_safe(why);

	return cli_error(c, "not enrolled: %s", safe);
}

/* A workload whose member @key is @value; borrowed from @reply. */
static const char *workload_with(const struct api_reply *reply, const char *key, const char *value)
{
	const json_t *w;
	size_t i;

	json_array_foreach(json_object_get(reply->json, "workloads"), i, w) {
		const char *have = api_str(w, key);

		if (have && strcmp(have, value) == 0)
			return api_str(w, "name");
	}
	return NULL;
}

static int unenrol_where(const char *socket_path, const char *key, const char *value)
{
	AUTO_REPLY list = { 0 };
	AUTO_REPLY done = { 0 };
	AUTO_FREE(char) escaped = NULL;
	AUTO_FREE(char) path = NULL;
	const char *name;
	int r = api_request(socket_path, "GET", "/v1/workloads", NULL, ENROL_TIMEOUT_MS / 2, &list);

	if (r < 0)
		return r;
	name = workload_with(&list, key, value);
	if (!name)
		return 0;
	escaped = api_escape(name);
	path = api_path("/v1/workloads/%s", escaped);
	r = api_request(socket_path, "DELETE", path, NULL, ENROL_TIMEOUT_MS / 2, &done);
	if (r < 0)
		return r;
	return done.status == 200 || done.status == 404 ? 0 : -EACCES;
}

void unenrol_own(struct cli *c, const char *workload, uint64_t cgroup_id)
{
	char id[24];
	int r;

	snprintf(id, sizeof(id), "%" PRIu64, cgroup_id);
	r = unenrol_where(c->socket_path, "cgroup_id", id);
	if (r < 0)
		cli_error(c, "workload %s could not be unenrolled (%s); the daemon will see that its cgroup is gone", workload, strerror(-r));
}

int unenrol_container(const char *socket_path, const char *container_id)
{
	return unenrol_where(socket_path, "container_id", container_id);
}
