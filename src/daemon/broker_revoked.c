/*
 * Theory of operation: the list of what is revoked, "serial:HEX" and "id:spiffe://...". On the authority it is the authority's own; a
 * member has a copy, asked for every 30 s and kept in the state, so that a restart without the authority forgets nothing. The linkers
 * get it whole at each change (BL_REVOKED) and end what stands on an entry.
 *
 * Before it: broker_authority.c, broker_member.c. After it: the linkers.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include <sys/random.h>

static struct revoked_entry *g_revoked;

struct revoked_entry *revoked_all(void)
{
	return g_revoked;
}

static struct revoked_entry *find(const char *entry)
{
	struct revoked_entry *e;

	HASH_FIND_STR(g_revoked, entry, e);
	return e;
}

bool revoked_has(const char *entry)
{
	return find(entry) != NULL;
}

int revoked_add(const char *entry, int64_t since, int64_t until)
{
	struct revoked_entry *e = find(entry);
	size_t n = strlen(entry) + 1;

	if (!e) {
		e = calloc(1, sizeof(*e) + n);
		if (!e)
			return -ENOMEM;
		memcpy(e->entry, entry, n);
		HASH_ADD_STR(g_revoked, entry, e);
		e->since_unix_s = since;
	}
	e->until_unix_s = until;
	return 0;
}

void revoked_remove(const char *entry)
{
	struct revoked_entry *e = find(entry);

	if (!e)
		return;
	HASH_DEL(g_revoked, e);
	free(e);
}

static void clear(struct revoked_entry *all)
{
	struct revoked_entry *e, *tmp;

	HASH_ITER(hh, all, e, tmp) {
		HASH_DEL(all, e);
		free(e);
	}
}

static int load_one(void *arg, const struct state_revoked *r)
{
	return revoked_add(r->entry, r->since_unix_s, r->until_unix_s);
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

	return r < 0 ? r : state_each_revoked(b->state, load_one, NULL);
}

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
		if (e == 0 && str_copy(r.entry, sizeof(r.entry), json_string_value(v)))
			e = state_put_revoked(b->state, &r);
	}
	m.revoked = a->version;
	m.roots = a->roots;
	if (e == 0)
		e = state_put_membership(b->state, &m);
	return state_end(b->state, e);
}

int revoked_replace(struct broker *b, const struct ca_answer *a)
{
	struct revoked_entry *old = g_revoked;
	const json_t *v;
	size_t i;
	int r = 0;

	g_revoked = NULL;
	json_array_foreach(a->revoked, i, v)
		r = r < 0 ? r : revoked_add(json_string_value(v), unix_now_s(), 0);
	if (r == 0)
		r = keep(b, a);
	if (r < 0) {
		clear(g_revoked);
		g_revoked = old;
		return r;
	}
	clear(old);
	return 0;
}

void revoked_tell(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_REVOKED };
	struct revoked_entry *e, *tmp;
	AUTO_FREE(char) text = NULL;
	size_t size = 0;
	AUTO_FD fd = -1;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return;
	HASH_ITER(hh, g_revoked, e, tmp)
		fprintf(f, "%s\n", e->entry);
	if (fclose(f) != 0 || (fd = ca_text_fd(text, size)) < 0) {
		log_error("ca.failed", LOG_STR("why", "no memory for the list of what is revoked"));
		return;
	}
	if (linker == ROLE_NO_ID)
		link_tell_all(b, &m, fd);
	else
		link_tell(b, linker, &m, fd);
}
