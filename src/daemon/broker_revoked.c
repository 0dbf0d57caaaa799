/*
 * Theory of operation: the list of what is revoked (core/revoked.h says what its lines mean). On the authority it is the authority's own; a
 * member has a copy, asked for every 30 s and kept in the state, so that a restart without the authority forgets nothing. What is in
 * force is always what the state says: a change is written there first, then the list is read again, then the linkers get it whole
 * (BL_REVOKED) and end what stands on an entry.
 *
 * Before it: broker_authority_revoke.c, broker_member.c. After it: the linkers.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include <stdio.h>
#include <sys/random.h>

static struct revoked_list *g_revoked; /* NULL: empty */

bool revoked_has_id(const char *spiffe_id)
{
	return g_revoked && revoked_list_has_id(g_revoked, spiffe_id);
}

const char *revoked_find(const char *spiffe_id, const char *serial, int64_t not_before)
{
	return g_revoked ? revoked_list_find(g_revoked, spiffe_id, serial, not_before) : NULL;
}

int64_t revoked_before(const char *spiffe_id, const char *host)
{
	return g_revoked ? revoked_list_before(g_revoked, spiffe_id, host) : 0;
}

int revoked_each(int (*fn)(void *arg, const char *line), void *arg)
{
	return g_revoked ? revoked_list_each(g_revoked, fn, arg) : 0;
}

size_t revoked_size(void)
{
	return g_revoked ? revoked_list_size(g_revoked) : 0;
}

char *revoked_word(char *ret, const char *line)
{
	char name[LIMIT_SERVICE_SIZE];
	struct service_name s;
	struct revocation e;

	if (revocation_parse(&e, line) < 0)
		snprintf(ret, REVOKED_LINE_SIZE, "%s", line);
	else if (e.kind == REVOKED_ID && e.host[0])
		snprintf(ret, REVOKED_LINE_SIZE, "host/%s", e.host);
	else if (e.kind == REVOKED_SERIAL || spiffe_id_parse(&s, e.what, g_ca.trust_domain) < 0)
		snprintf(ret, REVOKED_LINE_SIZE, "%s", e.what);
	else
		snprintf(ret, REVOKED_LINE_SIZE, "%s%s%s", service_name_format(name, &s), e.host[0] ? "@" : "", e.host);
	return ret;
}

/* ------------------------------------------------------------------ from the state */

static int load_one(void *arg, const struct state_revoked *r)
{
	return revoked_list_add(arg, r->entry);
}

int revoked_reload(struct broker *b)
{
	struct revoked_list *list = revoked_list_new();
	int r = list ? state_each_revoked(b->state, load_one, list) : -ENOMEM;

	if (r < 0) {
		revoked_list_free(list);
		return r;
	}
	revoked_list_free(g_revoked);
	g_revoked = list;
	ca_on_revoked(b);
	ca_soon(b); /* what is revoked here is asked for anew */
	return 0;
}

void revoked_forget(void)
{
	g_revoked = revoked_list_free(g_revoked);
}

/* The state may be one that was restored: what it says from now on is another epoch's. */
static int begin_epoch(struct revoked_version *v)
{
	do
		if (getrandom(&v->epoch, sizeof(v->epoch), 0) != sizeof(v->epoch))
			return -EIO;
	while (v->epoch == 0);
	return 0;
}

int revoked_load(struct broker *b)
{
	int r = g_ca.member && g_ca.membership.is_authority ? begin_epoch(&g_ca.membership.revoked) : 0;

	return r < 0 ? r : revoked_reload(b);
}

/* ------------------------------------------------------------------ what an authority told */

/* The new list in the database, in place of the old one. */
static int keep(struct broker *b, const struct ca_answer *a)
{
	struct state_membership m = g_ca.membership;
	struct state_revoked r = { .since_unix_s = unix_now_s() };
	const json_t *v;
	size_t i;
	int e = state_begin(b->state);

	if (e < 0)
		return e;
	e = state_clear_revoked(b->state);
	json_array_foreach(a->revoked, i, v) {
		if (e == 0)
			e = str_copy(r.entry, sizeof(r.entry), json_string_value(v)) ? state_put_revoked(b->state, &r) : -EINVAL;
	}
	m.revoked = a->version;
	m.roots = a->roots;
	if (e == 0)
		e = state_put_membership(b->state, &m);
	return state_end(b->state, e);
}

int revoked_replace(struct broker *b, const struct ca_answer *a)
{
	int r = keep(b, a);

	return r < 0 ? r : revoked_reload(b);
}

/* ------------------------------------------------------------------ to the linkers */

static int put_line(void *arg, const char *line)
{
	return fprintf(arg, "%s\n", line) < 0 ? -ENOMEM : 0;
}

void revoked_tell(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_REVOKED };
	AUTO_FREE(char) text = NULL;
	size_t size = 0;
	AUTO_FD fd = -1;
	FILE *f = open_memstream(&text, &size);
	int r;

	if (!f)
		return;
	r = revoked_each(put_line, f);
	if (fclose(f) != 0 || r < 0 || (fd = ca_text_fd(text, size)) < 0) {
		log_error("ca.failed", LOG_STR("why", "no memory for the list of what is revoked"));
		return;
	}
	if (linker == ROLE_NO_ID)
		link_tell_all(b, &m, fd);
	else
		link_tell(b, linker, &m, fd);
}
