/*
 * Other hosts and the sessions with them, as JSON. Texts of a session come from another host by way of a linker: they are made
 * valid UTF-8 here (view_text()).
 *
 * Before this file: broker_api.c. After it: the same.
 */
#include "daemon/broker_views.h"

#include "daemon/broker_link.h"

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

static json_t *view_host(const struct link_host *h)
{
	bool config = h->addresses[LINK_FROM_CONFIG][0];
	const char *said_by;
	json_t *offers = view_offers(h, &said_by);

	return json_pack("{s:o,s:o,s:s,s:s,s:o,s:o,s:I,s:o,s:s,s:I}", "name", view_text(h->name), "address", view_text(h->address), "from",
			 config ? "config" : "catalogue", "state", state_name(h), "reason",
			 h->reason == SESSION_OK ? json_null() : view_text(session_reason_name(h->reason)), "why", or_null(h->why), "since",
			 (json_int_t)h->since_unix_s, "services", offers, "services_said_by", said_by, "lanes", (json_int_t)h->n_lanes);
}

json_t *view_hosts(const struct broker *b)
{
	json_t *list = json_array();

	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		list = append(list, view_host(h));
	return json_pack("{s:o,s:o}", "name", or_null(b->host), "hosts", list);
}

static json_t *view_link(const struct broker *b, const struct link_session *s)
{
	const struct link_host *h = host_of(b, s->hid);
	const struct role_session_stats *st = &s->stats;

	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:s,s:o,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "direction", s->inbound ? "in" : "out", "host",
			 h ? view_text(h->name) : json_null(), "local_id", or_null(s->local), "peer_id", or_null(s->peer), "address",
			 or_null(s->address), "path", "tls", "cipher", or_null(s->cipher), "resumed", s->resumed, "up",
			 (json_int_t)s->up_unix_s, "lanes", (json_int_t)st->n_lanes, "opened", (json_int_t)st->n_opened, "refused",
			 (json_int_t)st->n_refused, "bytes_in", (json_int_t)st->bytes_in, "bytes_out", (json_int_t)st->bytes_out, "rtt_us",
			 (json_int_t)st->rtt_us);
}

json_t *view_links(const struct broker *b)
{
	json_t *list = json_array();

	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		list = append(list, view_link(b, s));
	return json_pack("{s:o}", "links", list);
}
