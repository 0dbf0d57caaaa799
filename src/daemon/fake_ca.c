/* What the admin interface asks of keys and certificates, for its tests: one certificate, one host, and answers as told. */
#include "daemon/broker_ca.h"
#include "daemon/fake_broker.h"

static void answer(struct broker *b, ca_done_fn done, void *arg, json_t *json)
{
	const struct fake_broker *f = (struct fake_broker *)b;

	done(arg, f->error, f->why, f->error ? NULL : json);
	json_decref(json);
}

void authority_init(struct broker *b, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:s,s:s,s:s,s:i}", "trust_domain", "example.org", "host", "a", "root_sha256", "ab12", "svid_life", 3600));
}

void authority_token(struct broker *b, const struct ca_token_ask *a, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:s,s:s,s:s,s:s,s:I,s:s,s:[]}", "token", "sl1.x", "id", "0badcafe", "host", a->host, "address", a->address, "expires",
				       (json_int_t)a->for_s, "services", a->services, "notes"));
}

void authority_token_withdraw(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:i,s:[s]}", "withdrawn", 1, "hosts", what));
}

void authority_grant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:b,s:[s]}", "ok", 1, "notes", "no host bb has joined"));
}

void authority_rotate_root(struct broker *b, int64_t after_s, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:s,s:I}", "root_sha256", "cd34", "signs", (json_int_t)(1700000000 + after_s)));
}

void authority_retire_root(struct broker *b, bool now, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:b}", "ok", 1));
}

void authority_ungrant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:b}", "ok", 1));
}

void authority_revoke(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:b,s:i,s:i,s:s}", "ok", 1, "entries", 1, "version", 2, "what", what));
}

void authority_unrevoke(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:b,s:i,s:s,s:s}", "ok", 1, "entries", 1, "version", "1-3", "what", what));
}

void member_join(struct broker *b, const char *token, bool again, ca_done_fn done, void *arg)
{
	answer(b, done, arg, json_pack("{s:s,s:s,s:s,s:s,s:i}", "trust_domain", "example.org", "host", "b", "authority", "a", "address", "10.0.0.1:7443",
				       "not_after", 1800000000));
}

json_t *ca_view_tokens(struct broker *b)
{
	return json_pack("{s:s,s:[{s:s,s:s,s:s,s:i,s:i}]}", "source", "self", "tokens", "id", "0badcafe", "host", "c", "services", "default/web", "expires",
			 1800000000, "used", 0);
}

json_t *ca_view_certificates(struct broker *b)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:b,s:[{s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i},{s:s,s:s,s:s,s:s}]}", "source", "authority", "trust_domain",
			 "example.org", "host", "b", "authority", "a", "address", "10.0.0.1:7443", "revoked_version", "1-4", "list_made", 1700000000, "list_stale", 0, "certificates", "name", "host",
			 "spiffe_id", "spiffe://example.org/host/b", "state", "valid", "why", "", "serial", "40ff", "not_before", 1700000000, "not_after",
			 1800000000, "renew", 1750000000, "name", "default/redis", "spiffe_id", "spiffe://example.org/ns/default/svc/redis", "state",
			 "missing", "why", "the authority cannot be reached");
}

json_t *ca_view_authority(struct broker *b)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:n,s:i,s:i,s:s,s:[{s:s,s:b,s:[s],s:[],s:[{s:s,s:s,s:i,s:i,s:b,s:i}]}],s:[{s:s,s:s,s:s,s:i,s:i}],s:[{s:s,s:s,s:i,s:i}]}", "source",
			 "self", "trust_domain", "example.org", "host", "a", "root_sha256", "ab12", "other_root_sha256", "cd34",
			 "signs", 1900000000, "retires", "root_not_after", 2000000000, "svid_life", 3600,
			 "revoked_version", "1-4", "hosts", "host", "b", "revoked", 0, "services", "default/redis", "denied", "certificates", "spiffe_id",
			 "spiffe://example.org/host/b", "serial", "40ff", "issued", 1700000000, "not_after", 1800000000, "revoked", 0, "older", 2, "tokens", "id", "0badcafe", "host", "c",
			 "services", "prod/*", "expires", 1700000600, "used", 0, "revoked", "what", "40aa", "entry",
			 "serial:40aa", "since", 1700000000, "until", 0);
}

const char *ca_failure_name(enum ca_failure f)
{
	static const char *const names[] = { "ok", "not-joined", "unreachable", "denied", "clock", "malformed", "signer", "state", "files" };

	return names[f];
}

const uint64_t *ca_failures(void)
{
	static const uint64_t counts[CA_FAILURE_N] = { [CA_DENIED] = 3 };

	return counts;
}

void ca_each_expiry(struct broker *b, void (*fn)(void *arg, const char *spiffe_id, int64_t not_after), void *arg)
{
	fn(arg, "spiffe://example.org/host/b", 1800000000);
}

struct ca_status ca_status(struct broker *b)
{
	return (struct ca_status){ .source = "authority", .n_wanted = 2, .n_usable = 1, .host_not_after = 1800000000, .first_not_after = 1790000000,
				   .authority = "a", .heard_unix_s = 1700000000, .why = "no session to a at 10.0.0.1:7443: ECONNREFUSED",
				   .list_made_unix_s = 1700000000, .list_stale = true };
}
