/*
 * Other hosts and the sessions with them, as JSON. Texts of a session come from another host by way of a linker: they are made
 * valid UTF-8 here (view_text()).
 *
 * Before this file: broker_api.c. After it: the same.
 */
#include "daemon/broker_views.h"

#include "base/log.h"
#include "daemon/broker_ca.h"
#include "daemon/broker_link.h"

#include <stdio.h>
#include <time.h>

static const struct link_host *host_of(const struct broker *b, uint32_t hid)
{
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (h->hid == hid)
			return h;
	return NULL;
}

static json_t *or_null(const char *s)
{
	return s && s[0] ? view_text(s) : json_null();
}

/* Append @item (taken), or give up the whole list. */
static json_t *append(json_t *list, json_t *item)
{
	if (!list || json_array_append_new(list, item) < 0) {
		if (!list)
			json_decref(item);
		json_decref(list);
		return NULL;
	}
	return list;
}

static json_t *offer(const struct service_name *name, const char *state, json_t *lanes)
{
	char buf[LIMIT_SERVICE_SIZE];

	return json_pack("{s:o,s:s,s:o}", "name", view_text(service_name_format(buf, name)), "state", state, "lanes", lanes);
}

static json_t *offers_of(const struct announced *list, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		array = append(array, offer(&list[i].service, list[i].up ? "up" : "down", json_integer(list[i].lanes)));
	return array;
}

/* The best that is known, and from whom: its own word, the catalogue's, the configuration's. */
static json_t *view_offers(const struct link_host *h, const char **ret_said_by)
{
	json_t *array;

	*ret_said_by = h->announced ? "host" : h->n_listed ? "catalogue" : h->n_said ? "config" : "nobody";
	if (h->announced)
		return offers_of(h->offers, h->n_offers);
	if (h->n_listed)
		return offers_of(h->listed, h->n_listed);
	array = json_array();
	for (size_t i = 0; i < h->n_said; i++)
		array = append(array, offer(&h->said[i], "unknown", json_null()));
	return array;
}

static const char *state_name(const struct link_host *h)
{
	static const char *const names[] = { "unknown", "up", "down" };
	static_assert(ARRAY_SIZE(names) == LINK_HOST_STATE_N, "a name for each");

	return names[h->state];
}

/* When it was heard last, Unix seconds; 0: never. A session between hosts that stands is asked for a sign of life every few seconds. */
static int64_t heard(const struct broker *b, const struct link_host *h)
{
	const struct link_session *s;

	HASH_FIND(hh, b->sessions, &h->session, sizeof(h->session), s);
	return s ? (int64_t)time(NULL) - s->stats.silent_ms / 1000 : h->heard_unix_s;
}

static void count_lanes_in(struct broker *b)
{
	for (struct link_host *h = b->hosts; h; h = h->hh.next)
		h->n_lanes_in = 0;
	for (const struct lane *l = b->lanes; l; l = l->hh.next) {
		struct link_host *h = NULL;

		if (l->path == LANE_PATH_LINK && l->link.inbound)
			HASH_FIND_INT(b->hosts, &l->link.hid, h);
		if (h)
			h->n_lanes_in++;
	}
}

static json_t *view_host(const struct broker *b, const struct link_host *h)
{
	int64_t heard_unix_s = heard(b, h);
	bool config = h->addresses[LINK_FROM_CONFIG][0];
	const char *said_by;
	json_t *offers = view_offers(h, &said_by);

	return json_pack("{s:o,s:o,s:s,s:s,s:o,s:o,s:I,s:o,s:o,s:s,s:I,s:I}", "name", view_text(h->name), "address", view_text(h->address), "from",
			 config ? "config" : "catalogue", "state", state_name(h), "reason",
			 h->reason == SESSION_OK ? json_null() : view_text(session_reason_name(h->reason)), "why", or_null(h->why), "since",
			 (json_int_t)h->since_unix_s, "heard", heard_unix_s ? json_integer(heard_unix_s) : json_null(), "services", offers,
			 "services_said_by", said_by, "lanes", (json_int_t)h->n_lanes, "lanes_in", (json_int_t)h->n_lanes_in);
}

json_t *view_hosts(struct broker *b)
{
	json_t *list = json_array();

	count_lanes_in(b);
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		list = append(list, view_host(b, h));
	return json_pack("{s:o,s:o}", "name", or_null(b->host), "hosts", list);
}

const char *view_session_path(const struct link_session *s, char *buf)
{
	if (s->path == SESSION_PATH_RDMA)
		snprintf(buf, VIEW_PATH_SIZE, "rdma (%s)", s->device);
	else
		snprintf(buf, VIEW_PATH_SIZE, "tls");
	return buf;
}

/* What this host lacks counts first: then the other one was not even asked. */
const char *view_session_path_why(const struct broker *b, const struct link_session *s)
{
	const struct link_device *d = &b->devices[(uint32_t)(s->key >> 32) % LIMIT_LINKERS];
	const char *lacks = device_lacks(d);

	if (s->path == SESSION_PATH_RDMA)
		return "";
	if (lacks[0])
		return lacks;
	return s->path_why;
}

const struct link_session *view_lane_session(const struct broker *b, uint64_t link_id)
{
	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		if (s->tag && s->tag == (uint32_t)(link_id >> 32))
			return s;
	return NULL;
}

static json_t *view_device(uint32_t linker, const struct link_device *d)
{
	const char *lacks = device_lacks(d);

	return json_pack("{s:I,s:o,s:o,s:o,s:b,s:b,s:o,s:I,s:I,s:I,s:I}", "linker", (json_int_t)linker, "device", or_null(d->is.device), "address", or_null(d->is.device[0] ? d->is.address : d->asked.address),
			 "why", or_null(lacks), "atomics", d->is.atomics, "windows", d->is.windows, "memlock_bytes",
			 d->known && d->is.memlock <= INT64_MAX ? json_integer((json_int_t)d->is.memlock) : json_null(), "connections", (json_int_t)d->stats.n_conns,
			 "quarantined", (json_int_t)d->stats.n_quarantined, "pinned_bytes", (json_int_t)d->stats.pinned, "offences", (json_int_t)d->stats.offences);
}

json_t *view_rdma(const struct broker *b)
{
	static const char *const modes[RDMA_MODE_N] = { [RDMA_OFF] = "off", [RDMA_AUTO] = "auto", [RDMA_PLAIN] = "plain" };
	json_t *list = json_array();

	if (b->n_linkers == 0) {
		json_decref(list);
		return json_null();
	}
	for (uint32_t i = 0; i < b->n_linkers; i++)
		list = append(list, view_device(i, &b->devices[i]));
	return json_pack("{s:s,s:o}", "mode", modes[b->devices[0].asked.mode], "linkers", list);
}

static json_t *view_link(const struct broker *b, const struct link_session *s)
{
	const struct link_host *h = host_of(b, s->hid);
	const struct role_session_stats *st = &s->stats;
	char path[VIEW_PATH_SIZE];

	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "direction", s->inbound ? "in" : "out", "host",
			 h ? view_text(h->name) : json_null(), "local_id", or_null(s->local), "peer_id", or_null(s->peer), "address",
			 or_null(s->address), "path", view_text(view_session_path(s, path)), "path_why", or_null(view_session_path_why(b, s)), "cipher", or_null(s->cipher), "resumed", s->resumed, "up",
			 (json_int_t)s->up_unix_s, "lanes", (json_int_t)st->n_lanes, "opened", (json_int_t)st->n_opened, "refused",
			 (json_int_t)st->n_refused, "bytes_in", (json_int_t)st->bytes_in, "bytes_out", (json_int_t)st->bytes_out, "rdma_bytes_in",
			 (json_int_t)st->rdma_in, "rdma_bytes_out", (json_int_t)st->rdma_out, "rtt_us",
			 (json_int_t)st->rtt_us);
}

json_t *view_links(const struct broker *b)
{
	json_t *list = json_array();

	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		list = append(list, view_link(b, s));
	return json_pack("{s:o}", "links", list);
}

static json_t *time_or_null(int64_t unix_s)
{
	return unix_s ? json_integer(unix_s) : json_null();
}

static json_t *view_certificates_status(const struct ca_status *c)
{
	json_t *authority = c->authority[0] ? json_pack("{s:o,s:o,s:o,s:o,s:b}", "host", view_text(c->authority), "heard", time_or_null(c->heard_unix_s),
							"why", or_null(c->why), "list_made", time_or_null(c->list_made_unix_s), "list_stale", c->list_stale) :
					      json_null();

	return json_pack("{s:s,s:I,s:I,s:o,s:o,s:o}", "source", c->source, "wanted", (json_int_t)c->n_wanted, "usable", (json_int_t)c->n_usable,
			 "host_not_after", time_or_null(c->host_not_after), "first_not_after", time_or_null(c->first_not_after), "authority",
			 authority);
}

static json_t *view_listeners(void)
{
	json_t *list = json_array();
	const char *address, *why;
	bool listens;
	int error;

	for (size_t i = 0; link_listener(i, &address, &listens, &error, &why); i++)
		list = append(list, json_pack("{s:o,s:b,s:o,s:o}", "address", view_text(address), "listens", listens, "error",
					      error ? view_text(log_errno_name(error)) : json_null(), "why", or_null(why)));
	return list;
}

json_t *view_links_status(struct broker *b)
{
	struct view_counts n = view_count(b);
	struct ca_status c = ca_status(b);
	json_int_t linkers = 0, hosts = 0, up = 0, sessions[2] = { 0 };

	for (size_t i = 0; i < b->n_linkers; i++)
		linkers += b->linkers[i].fd >= 0;
	for (const struct link_host *h = b->hosts; h; h = h->hh.next) {
		hosts++;
		up += h->state == LINK_HOST_UP;
	}
	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		sessions[s->inbound]++;
	if (linkers == 0 && hosts == 0 && strcmp(c.source, "none") == 0)
		return json_null(); /* one host alone */
	return json_pack("{s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "host", or_null(b->host), "listeners", view_listeners(), "linkers", linkers, "hosts", hosts, "hosts_up", up,
			 "sessions_out", sessions[0], "sessions_in", sessions[1], "lanes_out", (json_int_t)n.lanes_link[0], "lanes_in",
			 (json_int_t)n.lanes_link[1], "certificates", view_certificates_status(&c));
}
