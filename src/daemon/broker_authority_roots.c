/*
 * Theory of operation: how an authority changes its root without anybody having to join again. There are one or two, each in a slot of the
 * signer; the first of g_ca.roots_pem is the one that signs certificates, and both are trusted by whoever has the list.
 *
 *   one        [old]        until somebody says `sealane ca rotate-root`: the signer makes another
 *   announced  [old, new]   members learn of the new one from the list, which both sign: that the old one signs it is why they believe it.
 *                           Until STATE_TIME_ROOT_SIGNS: by default as long as a host's certificate lives, since a host that was away for longer
 *                           has to join again anyway
 *   turned     [new, old]   certificates come from the new one; this host's own are renewed first, since who joins wants to see the root that its
 *                           token names. Until STATE_TIME_ROOT_RETIRES: when the last certificate by the old one is over, and a day
 *   one        [new]        by itself, or by `sealane ca retire-root`, which also takes an announced one back
 *
 * What is retired leaves the list, and so everybody's trust; its key stays with the signer until the next change takes its slot.
 * Each step is a new version of the list, and in the state before it is told.
 *
 * Before it: broker_api.c (people), the clock. After it: the state, the linkers (BL_TRUST), and members through the list.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include "core/base64.h"
#include "daemon/state_asker.h"

#include <stdarg.h>
#include <stdio.h>

enum {
	AFTER_MAX_S = 366 * 86400,
	LOOK_MS = 10 * 1000, /* the clock may be set at any time */
	KEEP_S = 86400, /* beyond the last certificate's end, for clocks that are late */
};

static struct {
	struct slot {
		bool there;
		uint8_t print[SHA256_SIZE]; /* of its certificate */
	} slots[ROLE_ROOT_SLOTS];
	int64_t signs_unix_s, retires_unix_s; /* 0: nothing is under way */
	bool making;
} g_change;

/* ------------------------------------------------------------------ which root is where */

static int slot_of(const char *pem)
{
	uint8_t print[SHA256_SIZE];

	if (svid_fingerprint(print, pem, strlen(pem)) == 0)
		for (int i = 0; i < ROLE_ROOT_SLOTS; i++)
			if (g_change.slots[i].there && memcmp(g_change.slots[i].print, print, sizeof(print)) == 0)
				return i;
	return -ENOENT;
}

uint8_t authority_root_slot(void)
{
	int slot = slot_of(g_ca.roots_pem);

	return (uint8_t)(slot < 0 ? 0 : slot);
}

size_t authority_root_slots(uint8_t slots[ROLE_ROOT_SLOTS], struct ca_list_signature ret_signatures[ROLE_ROOT_SLOTS])
{
	size_t n = 0;

	for (const char *at = g_ca.roots_pem; at && n < ROLE_ROOT_SLOTS; at = svid_rest(at, strlen(at))) {
		int slot = slot_of(at);

		if (slot < 0)
			continue;
		memcpy(ret_signatures[n].root, g_change.slots[slot].print, sizeof(ret_signatures[n].root));
		slots[n++] = (uint8_t)slot;
	}
	return n;
}

static void on_found(struct broker *b, void *arg, const struct role_signed *r, int cert_fd)
{
	struct slot *slot = arg;
	bool is_first = slot == &g_change.slots[0];
	AUTO_FD fd = cert_fd;
	AUTO_FREE(char) pem = NULL;
	size_t size;

	pem = r->error ? NULL : ca_read_fd(fd, LIMIT_CHAIN_SIZE, &size);
	slot->there = pem && svid_fingerprint(slot->print, pem, size) == 0;
	if (!slot->there && r->error != -EPIPE && (is_first || r->error != -ENOENT)) /* most have no second one */
		log_error("ca.failed", LOG_STR("why", r->why[0] ? r->why : "the signer's root is no certificate"),
			  LOG_STR("then", "this host, the authority, issues nothing by it"));
}

void authority_on_signer(struct broker *b)
{
	struct role_msg m = { .type = BS_CA };

	if (!g_ca.member || !g_ca.membership.is_authority || !signer_is_up())
		return;
	memcpy(m.u.ca_key.trust_domain, g_ca.trust_domain, sizeof(m.u.ca_key.trust_domain));
	for (uint32_t i = 0; i < ROLE_ROOT_SLOTS; i++) {
		m.u.ca_key.slot = i;
		signer_ask(b, &m, -1, on_found, &g_change.slots[i]);
	}
}

int authority_load_roots(struct broker *b)
{
	int r = state_get_time(b->state, STATE_TIME_ROOT_SIGNS, &g_change.signs_unix_s);

	return r < 0 ? r : state_get_time(b->state, STATE_TIME_ROOT_RETIRES, &g_change.retires_unix_s);
}

/* ------------------------------------------------------------------ from one state to the next */

static size_t count_roots(void)
{
	size_t n = 0;

	for (const char *at = g_ca.roots_pem; at && (at = svid_rest(at, strlen(at)));)
		n++;
	return n;
}

/* In the state, then here, then told: these are the roots, and that is when they change again. */
static int put_roots(struct broker *b, const char *roots, int64_t signs_unix_s, int64_t retires_unix_s)
{
	struct state_membership m = g_ca.membership;
	int r = state_begin(b->state);

	if (r < 0)
		return r;
	m.roots = roots;
	m.revoked.counter++;
	r = state_put_membership(b->state, &m);
	if (r == 0)
		r = state_put_time(b->state, STATE_TIME_ROOT_SIGNS, signs_unix_s);
	if (r == 0)
		r = state_put_time(b->state, STATE_TIME_ROOT_RETIRES, retires_unix_s);
	r = state_end(b->state, r);
	if (r == 0)
		r = ca_become(b, &m);
	if (r < 0)
		return r;
	g_change.signs_unix_s = signs_unix_s;
	g_change.retires_unix_s = retires_unix_s;
	ca_tell_trust(b);
	ca_soon(b);
	return 0;
}

/* The first root alone, the second alone, or the second before the first. Owned by the caller; NULL: no memory, or there is no second. */
static char *pick_roots(bool first, bool second)
{
	const char *rest = svid_rest(g_ca.roots_pem, strlen(g_ca.roots_pem));
	char *text = NULL;
	int n_first = rest ? (int)(rest - g_ca.roots_pem) : 0;

	if (!rest)
		return NULL;
	rest += strspn(rest, "\n");
	if (asprintf(&text, "%s%s%.*s%s", second ? rest : "", second && first ? "\n" : "", first ? n_first : 0, g_ca.roots_pem, first ? "\n" : "") < 0)
		return NULL;
	return text;
}

/* The second one signs from now on. */
static void turn_roots(struct broker *b)
{
	AUTO_FREE(char) roots = pick_roots(true, true);
	int64_t retires = unix_now_s() + authority_host_life_s(b) + KEEP_S;
	struct credential *c, *tmp;

	if (!roots || put_roots(b, roots, 0, retires) < 0) {
		log_error("state.failed", LOG_STR("why", "the change of roots could not be kept; it is tried again"));
		return;
	}
	log_info("ca.root_signs", LOG_I64("retires", retires));
	HASH_ITER(hh, g_ca.credentials, c, tmp)
		c->renew_unix_s = 0;
}

static int drop_root(struct broker *b)
{
	AUTO_FREE(char) roots = pick_roots(true, false);
	int r = roots ? put_roots(b, roots, 0, 0) : -ENOMEM;

	if (r == 0)
		log_info("ca.root_retired", LOG_STR("authority", g_ca.membership.host));
	return r;
}

unsigned authority_tick(struct broker *b)
{
	int64_t now = unix_now_s(), next;

	if (!g_ca.member || !g_ca.membership.is_authority || g_change.making || count_roots() < 2)
		return LOOK_MS;
	if (g_change.signs_unix_s && now >= g_change.signs_unix_s)
		turn_roots(b);
	else if (g_change.retires_unix_s && now >= g_change.retires_unix_s && drop_root(b) < 0)
		log_error("state.failed", LOG_STR("why", "the old root could not be retired; it is tried again"));
	next = g_change.signs_unix_s ? g_change.signs_unix_s : g_change.retires_unix_s;
	return next > now && next - now < LOOK_MS / 1000 ? (unsigned)(next - now) * 1000 : LOOK_MS;
}

json_t *authority_roots_view(void)
{
	const char *second = svid_rest(g_ca.roots_pem, strlen(g_ca.roots_pem));
	uint8_t print[SHA256_SIZE];
	char hex[65];
	bool two = second && svid_fingerprint(print, second, strlen(second)) == 0;

	return json_pack("{s:o,s:o,s:o}", "other_root_sha256", two ? json_string(hex_encode(hex, print, sizeof(print))) : json_null(), "signs",
			 g_change.signs_unix_s ? json_integer(g_change.signs_unix_s) : json_null(), "retires",
			 g_change.retires_unix_s ? json_integer(g_change.retires_unix_s) : json_null());
}

/* ------------------------------------------------------------------ what people say */

struct rotation {
	int64_t after_s;
	ca_done_fn done;
	void *arg;
};

static void PRINTF_LIKE(4, 5) no(ca_done_fn done, void *arg, int error, const char *fmt, ...)
{
	char why[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	done(arg, error, why, NULL);
}

static bool is_authority(ca_done_fn done, void *arg)
{
	if (!g_ca.external && g_ca.member && g_ca.membership.is_authority)
		return true;
	no(done, arg, -EPERM, "this host is not the authority: ask there (`sealane ls certificates` names it)");
	return false;
}

/* Announced: [old, new]. */
static void announce_root(struct broker *b, const struct rotation *o, const char *pem)
{
	AUTO_FREE(char) roots = NULL;
	uint8_t print[SHA256_SIZE];
	char hex[65];
	int64_t signs = unix_now_s() + o->after_s;
	json_t *json;
	int r = asprintf(&roots, "%s%s%s", g_ca.roots_pem, g_ca.roots_pem[strlen(g_ca.roots_pem) - 1] == '\n' ? "" : "\n", pem);

	r = r < 0 ? -ENOMEM : svid_fingerprint(print, pem, strlen(pem));
	if (r == 0)
		r = put_roots(b, roots, signs, 0);
	if (r < 0) {
		no(o->done, o->arg, r, "the state directory does not take the new root (%s); the old one is the only one", log_errno_name(r));
		return;
	}
	hex_encode(hex, print, sizeof(print));
	log_info("ca.root_added", LOG_STR("root_sha256", hex), LOG_I64("signs", signs));
	json = json_pack("{s:s,s:I}", "root_sha256", hex, "signs", (json_int_t)signs);
	o->done(o->arg, json ? 0 : -ENOMEM, json ? "" : "the daemon has no memory", json);
	json_decref(json);
}

static void on_made(struct broker *b, void *arg, const struct role_signed *r, int cert_fd)
{
	struct rotation *o = arg;
	struct slot *slot = &g_change.slots[1 - authority_root_slot()];
	AUTO_FD fd = cert_fd;
	AUTO_FREE(char) pem = NULL;
	size_t size;

	g_change.making = false;
	pem = r->error ? NULL : ca_read_fd(fd, LIMIT_CHAIN_SIZE, &size);
	slot->there = pem && svid_fingerprint(slot->print, pem, size) == 0;
	if (slot->there)
		announce_root(b, o, pem);
	else
		no(o->done, o->arg, r->error ? r->error : -EIO, "the signer made no root: %s", r->why[0] ? r->why : "what came is no certificate");
	free(o);
}

void authority_rotate_root(struct broker *b, int64_t after_s, ca_done_fn done, void *arg)
{
	struct role_msg m = { .type = BS_CA, .u.ca_key.make = CA_MAKE_ANEW };
	struct rotation *o;

	if (!is_authority(done, arg))
		return;
	if (g_change.making || count_roots() != 1) {
		no(done, arg, -EEXIST, "the root is being changed already (`sealane ca ls`); `sealane ca retire-root` ends that");
		return;
	}
	if (after_s > AFTER_MAX_S) {
		no(done, arg, -EINVAL, "the new root signs after a year at the latest");
		return;
	}
	if (slot_of(g_ca.roots_pem) < 0) {
		no(done, arg, -EAGAIN, "the signer has not found the root yet; try again in a moment, or see the log");
		return;
	}
	o = malloc(sizeof(*o));
	if (!o) {
		no(done, arg, -ENOMEM, "the daemon has no memory");
		return;
	}
	*o = (struct rotation){ .after_s = after_s < 0 ? authority_host_life_s(b) : after_s, .done = done, .arg = arg };
	m.u.ca_key.slot = 1u - authority_root_slot();
	memcpy(m.u.ca_key.trust_domain, g_ca.trust_domain, sizeof(m.u.ca_key.trust_domain));
	g_change.making = true;
	signer_ask(b, &m, -1, on_made, o);
}

void authority_retire_root(struct broker *b, bool now, ca_done_fn done, void *arg)
{
	json_t *json;
	int r;

	if (!is_authority(done, arg))
		return;
	if (count_roots() < 2) {
		no(done, arg, -ENOENT, "there is one root only, which signs; `sealane ca rotate-root` makes another");
		return;
	}
	if (!now && g_change.retires_unix_s > unix_now_s()) {
		no(done, arg, -EBUSY, "certificates that the old root signed may be good for %lld more seconds, and hosts that have one would have to join "
				      "again: it retires by itself then; to do it now, say --now",
		   (long long)(g_change.retires_unix_s - unix_now_s()));
		return;
	}
	r = drop_root(b);
	if (r < 0) {
		no(done, arg, r, "the state directory does not take it (%s); nothing was changed", log_errno_name(r));
		return;
	}
	json = json_pack("{s:b}", "ok", 1);
	done(arg, json ? 0 : -ENOMEM, json ? "" : "the daemon has no memory", json);
	json_decref(json);
}
