/*
 * Theory of operation: which cgroup is which workload.
 *
 * A workload never enrols itself. It is enrolled by the configuration (`cgroup = ...`, `container = ...`), by an engine's
 * hook, by `sealane run`, or by whoever may change things at the admin socket; each time the warden looks whether the
 * cgroup is one that belongs to nobody else, and watches it from then on. A workload has one container at a time: who comes
 * second is told who was first, until the first one's cgroup is empty.
 *
 * An enrolment survives the daemon (state.c), since containers do; after a restart the warden looks at each again.
 */
#include "daemon/broker_int.h"

#include <stdio.h>

/* How often a configured cgroup that does not exist yet is looked for. */
enum { CONFIG_RETRY_MS = 1000 };

struct enrolling {
	uint32_t wid;
	struct broker_enrolment e;
	broker_enrol_fn done;
	void *arg;
	bool keep; /* write it to the state database */
};

static void workload_dir(const struct broker *b, const struct workload *w, char *buf, size_t size)
{
	snprintf(buf, size, "%s/w/%s", b->run_dir, w->name);
}

static void remember(struct broker *b, const struct workload *w)
{
	struct state_enrolment e = { .cgroup_id = w->cgroup_id };

	memcpy(e.workload, w->name, sizeof(e.workload));
	if (!w->configured)
		e.service = w->services[0];
	memcpy(e.cgroup_path, w->cgroup_path, sizeof(e.cgroup_path));
	memcpy(e.container_id, w->container_id, sizeof(e.container_id));
	memcpy(e.by, w->enrolled_by, sizeof(e.by));
	if (state_put_enrolment(b->state, &e) < 0)
		log_warn("state.failed", LOG_STR("workload", w->name),
			 LOG_STR("why", "the enrolment works, but will not survive a restart of the daemon"));
}

static void on_enrolled(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct enrolling *p = arg;
	struct workload *w = model_workload(b, p->wid);
	char dir[LIMIT_PATH_SIZE + 80] = "";

	fd_cleanup(&fd);
	if (w)
		w->enrolling = false;
	if (w && !reply->error) {
		w->cgroup_id = reply->cgroup_id;
		memcpy(w->cgroup_path, reply->path, sizeof(w->cgroup_path));
		memcpy(w->container_id, p->e.container_id, sizeof(w->container_id));
		memcpy(w->enrolled_by, p->e.by, sizeof(w->enrolled_by));
		if (p->keep)
			remember(b, w);
		log_info("workload.enrol", LOG_STR("workload", w->name), LOG_STR("cgroup", w->cgroup_path),
			 LOG_U64("cgroup_id", w->cgroup_id), LOG_STR("container", w->container_id[0] ? w->container_id : NULL),
			 LOG_STR("by", w->enrolled_by));
		model_refresh_workload(b, w->wid);
		shm_recheck_workload(b, w->wid);
		workload_dir(b, w, dir, sizeof(dir));
	}
	if (w && reply->error && !w->configured && !w->cgroup_id)
		model_remove_workload(b, w);
	if (p->done)
		p->done(p->arg, w ? reply->error : -ENOENT, w ? reply->why : "the workload was removed meanwhile",
			w ? w->name : "", dir);
	free(p);
}

static void enrol_now(struct broker *b, struct workload *w, const struct broker_enrolment *e, bool keep,
		      broker_enrol_fn done, void *arg)
{
	struct role_msg m = { .type = BW_ENROL, .u.cgroup = { .wid = w->wid, .cgroup_id = e->cgroup_id } };
	struct enrolling *p = calloc(1, sizeof(*p));

	if (!p) {
		if (done)
			done(arg, -ENOMEM, "no memory", "", "");
		return;
	}
	w->enrolling = true;
	*p = (struct enrolling){ .wid = w->wid, .e = *e, .done = done, .arg = arg, .keep = keep };
	if (!e->cgroup_id)
		memcpy(m.u.cgroup.path, e->cgroup_path, sizeof(m.u.cgroup.path));
	broker_ask(b, &m, -1, on_enrolled, p);
}

/* ------------------------------------------------------------------ by configuration */

static void config_retry(struct broker *b, void *arg)
{
	struct workload *w = model_workload(b, (uint32_t)(uintptr_t)arg);

	if (!w)
		return;
	w->enrol_retry = false;
	enrol_by_config(b, w);
}

struct config_enrol {
	struct broker *b;
	uint32_t wid;
};

static void config_enrol_done(void *arg, int error, const char *why, const char *name, const char *dir)
{
	struct config_enrol *c = arg;
	struct workload *w = model_workload(c->b, c->wid);

	/* Not there yet is the normal case before the unit or container starts; anything else is told once. */
	if (w && error && error != -ENOENT && !w->enrol_told) {
		log_warn("workload.refuse", LOG_STR("workload", w->name), LOG_STR("why", why));
		w->enrol_told = true;
	}
	if (w && error && !w->enrol_retry) {
		w->enrol_retry = true;
		broker_after(c->b, CONFIG_RETRY_MS, config_retry, (void *)(uintptr_t)w->wid);
	}
	free(c);
}

void enrol_by_config(struct broker *b, struct workload *w)
{
	struct broker_enrolment e = { .by = "config" };
	struct config_enrol *c;

	if (w->cgroup_id || w->enrolling || w->enrol_retry || (!w->match.cgroup && !w->match.container))
		return;
	if (w->match.cgroup)
		snprintf(e.cgroup_path, sizeof(e.cgroup_path), "%s", w->match.cgroup);
	else
		snprintf(e.cgroup_path, sizeof(e.cgroup_path), "*%s", w->match.container);
	c = calloc(1, sizeof(*c));
	if (!c)
		return;
	*c = (struct config_enrol){ .b = b, .wid = w->wid };
	enrol_now(b, w, &e, false, config_enrol_done, c);
}

/* ------------------------------------------------------------------ by hook, command line, API */

static bool label_matches(const struct workload *w, const char *label)
{
	return w->match.label && label[0] && strcmp(w->match.label, label) == 0;
}

static bool speaks_as(const struct workload *w, const struct service_name *s)
{
	for (size_t i = 0; i < w->n_services; i++)
		if (service_name_equal(&w->services[i], s))
			return true;
	return false;
}

static struct workload *find_for(struct broker *b, const struct broker_enrolment *e)
{
	if (e->workload[0])
		return model_find_workload(b, e->workload);
	for (size_t i = 0; i < b->n_workloads; i++) {
		struct workload *w = &b->workloads[i];

		if (w->removed || !w->configured)
			continue;
		if (label_matches(w, e->label) || (e->service.name[0] && speaks_as(w, &e->service)))
			return w;
	}
	return NULL;
}

static bool service_is_configured(const struct broker *b, const struct service_name *s)
{
	return config_find_service(b->config, s) != CONFIG_NONE;
}

static void give_up_cgroup(struct broker *b, struct workload *w, const char *why, bool is_empty);

struct succession {
	uint32_t wid;
	uint64_t cgroup_id; /* of the container that was there first */
	struct broker_enrolment e;
	broker_enrol_fn done;
	void *arg;
};

static void on_first_looked_at(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FREE(struct succession) s = arg;
	struct workload *w = model_workload(b, s->wid);
	struct role_msg m = { .type = BW_UNENROL, .u.cgroup = { .wid = s->wid, .cgroup_id = s->cgroup_id } };
	char why[LIMIT_PATH_SIZE + 256];

	fd_cleanup(&fd);
	if (w && w->cgroup_id == s->cgroup_id && reply->error) {
		snprintf(why, sizeof(why), "workload '%s' already runs in cgroup %s; end that one first, or give this one another name (--workload)",
			 w->name, w->cgroup_path);
		s->done(s->arg, -EBUSY, why, "", "");
		return;
	}
	if (w && w->cgroup_id == s->cgroup_id) {
		give_up_cgroup(b, w, "its cgroup is empty, and another container comes", true);
		broker_ask(b, &m, -1, NULL, NULL);
	}
	broker_enrol(b, &s->e, s->done, s->arg);
}

/* A container that is started again at once comes before the kernel has told of the first one's end: look. */
static void succeed_or_refuse(struct broker *b, const struct workload *w, const struct broker_enrolment *e,
			      broker_enrol_fn done, void *arg)
{
	struct role_msg m = { .type = BW_IS_EMPTY, .u.cgroup = { .wid = w->wid, .cgroup_id = w->cgroup_id } };
	struct succession *s = calloc(1, sizeof(*s));

	if (!s) {
		done(arg, -ENOMEM, "no memory", "", "");
		return;
	}
	*s = (struct succession){ .wid = w->wid, .cgroup_id = w->cgroup_id, .e = *e, .done = done, .arg = arg };
	broker_ask(b, &m, -1, on_first_looked_at, s);
}

static void why_not_found(char *why, size_t size, const struct broker_enrolment *e)
{
	char name[LIMIT_SERVICE_SIZE];

	if (e->workload[0])
		snprintf(why, size, "no workload '%s' in the configuration; see `sealane ls workloads`", e->workload);
	else if (e->service.name[0])
		snprintf(why, size, "no service '%s' in the configuration; add `service %s { ... }` and `sealane reload`",
			 service_name_format(name, &e->service), e->service.name);
	else if (e->label[0])
		snprintf(why, size, "no workload has label '%s' in the configuration", e->label);
	else
		snprintf(why, size, "name a workload, a service or a label to enrol as");
}

void broker_enrol(struct broker *b, const struct broker_enrolment *e, broker_enrol_fn done, void *arg)
{
	struct workload *w = find_for(b, e);
	char why[LIMIT_PATH_SIZE + 256];

	if (!w && e->service.name[0] && service_is_configured(b, &e->service)) {
		w = model_add_runtime_workload(b, e->workload[0] ? e->workload : e->service.name, &e->service);
		if (!w) {
			done(arg, -ENOSPC, "too many workloads on this host", "", "");
			return;
		}
	}
	if (!w) {
		why_not_found(why, sizeof(why), e);
		done(arg, -ENOENT, why, "", "");
		return;
	}
	if (w->enrolling) {
		snprintf(why, sizeof(why), "another container is being enrolled as workload '%s' at this moment", w->name);
		done(arg, -EBUSY, why, "", "");
		return;
	}
	if (w->cgroup_id) {
		succeed_or_refuse(b, w, e, done, arg);
		return;
	}
	enrol_now(b, w, e, true, done, arg);
}

static void give_up_cgroup(struct broker *b, struct workload *w, const char *why, bool is_empty)
{
	if (is_empty)
		lane_leave_workload(b, w, why);
	else
		lane_cut_workload(b, w, why);
	lane_forget_workload_cgroups(b, w->wid);
	log_info("workload.leave", LOG_STR("workload", w->name), LOG_STR("cgroup", w->cgroup_path), LOG_STR("why", why));
	w->generation++;
	w->cgroup_id = 0;
	w->cgroup_path[0] = w->container_id[0] = w->enrolled_by[0] = '\0';
	w->draining = false;
	if (state_delete_enrolment(b->state, w->name) < 0)
		log_warn("state.failed", LOG_STR("workload", w->name));
	if (!w->configured) {
		model_remove_workload(b, w);
		return;
	}
	model_refresh_workload(b, w->wid);
	enrol_by_config(b, w);
}

struct unenrolment {
	uint32_t wid;
	uint64_t cgroup_id;
	broker_done_fn done;
	void *arg;
};

/* Who ends in order is unenrolled when nobody is left: what was sent still arrives. Whoever is left is cut off. */
static void on_left_looked_at(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FREE(struct unenrolment) u = arg;
	struct workload *w = model_workload(b, u->wid);
	struct role_msg m = { .type = BW_UNENROL, .u.cgroup = { .wid = u->wid, .cgroup_id = u->cgroup_id } };

	fd_cleanup(&fd);
	if (w && w->cgroup_id == u->cgroup_id) {
		/* First the cut: the warden finds the lanes by the processes of a cgroup that it still knows. */
		give_up_cgroup(b, w, "unenrolled", reply->error == 0);
		broker_ask(b, &m, -1, NULL, NULL);
	}
	u->done(u->arg, 0, "");
}

void broker_unenrol(struct broker *b, const char *name, broker_done_fn done, void *arg)
{
	struct workload *w = model_find_workload(b, name);
	struct role_msg m = { .type = BW_IS_EMPTY };
	struct unenrolment *u;

	if (!w || !w->cgroup_id) {
		done(arg, -ENOENT, w ? "no container of this workload is enrolled" : "no workload of this name");
		return;
	}
	u = calloc(1, sizeof(*u));
	if (!u) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	*u = (struct unenrolment){ .wid = w->wid, .cgroup_id = w->cgroup_id, .done = done, .arg = arg };
	m.u.cgroup = (struct role_cgroup){ .wid = w->wid, .cgroup_id = w->cgroup_id };
	broker_ask(b, &m, -1, on_left_looked_at, u);
}

void enrol_cgroup_gone(struct broker *b, const struct role_cgroup *c)
{
	struct workload *w = model_workload(b, c->wid);

	if (w && w->cgroup_id == c->cgroup_id)
		give_up_cgroup(b, w, "its cgroup is empty", true);
}

/* ------------------------------------------------------------------ from the state database */

struct state_enrol {
	struct broker *b;
	char workload[LIMIT_NAME_SIZE];
};

static void on_state_enrolled(void *arg, int error, const char *why, const char *name, const char *dir)
{
	struct state_enrol *s = arg;

	if (error) {
		log_info("workload.leave", LOG_STR("workload", s->workload), LOG_STR("why", why));
		if (state_delete_enrolment(s->b->state, s->workload) < 0)
			log_warn("state.failed", LOG_STR("workload", s->workload));
	}
	free(s);
}

struct state_list {
	struct state_enrolment *items;
	size_t n;
};

static int collect(void *arg, const struct state_enrolment *e)
{
	struct state_list *l = arg;
	struct state_enrolment *bigger = reallocarray(l->items, l->n + 1, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	l->items = bigger;
	l->items[l->n++] = *e;
	return 0;
}

static void enrol_again(struct broker *b, const struct state_enrolment *e)
{
	struct workload *w = model_find_workload(b, e->workload);
	struct broker_enrolment be = { .cgroup_id = e->cgroup_id };
	struct state_enrol *s = calloc(1, sizeof(*s));

	if (!s)
		return;
	s->b = b;
	memcpy(s->workload, e->workload, sizeof(s->workload));
	memcpy(be.container_id, e->container_id, sizeof(be.container_id));
	memcpy(be.by, e->by, sizeof(be.by));
	if (!w && e->service.name[0] && service_is_configured(b, &e->service))
		w = model_add_runtime_workload(b, e->workload, &e->service);
	if (!w)
		on_state_enrolled(s, -ENOENT, "no longer in the configuration", "", "");
	else
		enrol_now(b, w, &be, false, on_state_enrolled, s);
}

void enrol_from_state(struct broker *b)
{
	struct state_list l = {};

	if (state_each_enrolment(b->state, collect, &l) != 0)
		log_error("state.failed", LOG_STR("why", "enrolments could not be read; running containers must be enrolled again"));
	for (size_t i = 0; i < l.n; i++)
		enrol_again(b, &l.items[i]);
	free(l.items);
}
