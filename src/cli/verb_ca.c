/*
 * `sealane ca`: the authority of a trust domain, where this host is it: make it, let hosts in, say which services they may speak for,
 * take it back. What each is good for: docs/links.md.
 */
#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

/* A call that may have to wait for the signer to start. */
enum { INIT_MS = 20 * 1000 };

static int ca_init(struct cli *c)
{
	AUTO_REPLY reply = { 0 };
	char life[UNIT_TEXT_SIZE];
	int r = api_call_within(c, "POST", "/v1/ca", NULL, INIT_MS, &reply);

	if (r != CLI_OK || c->json)
		return r;
	printf("authority for ");
	text_put(stdout, api_str(reply.json, "trust_domain"));
	printf(" is on this host (");
	text_put(stdout, api_str(reply.json, "host"));
	printf("); root SHA-256 ");
	text_put(stdout, api_str(reply.json, "root_sha256"));
	printf("; certificates last %s\n", unit_format_age(life, api_i64(reply.json, "svid_life")));
	return CLI_OK;
}

struct ca_token_options {
	struct opt_list services;
	double for_s;
	const char *address;
};

/* @after_s: < 0: the daemon's own choice. */
static int ca_rotate_root(struct cli *c, double after_s)
{
	json_t *body = json_object();
	AUTO_REPLY reply = { 0 };
	char signs[UNIT_TEXT_SIZE];
	int r;

	if (after_s >= 0)
		json_object_set_new(body, "after_s", json_integer((json_int_t)after_s));
	r = api_call(c, "POST", "/v1/ca/roots", body, &reply);
	if (r != CLI_OK || c->json)
		return r;
	printf("a second root is there, SHA-256 ");
	text_put(stdout, api_str(reply.json, "root_sha256"));
	printf("; members trust it within half a minute, and it signs from %s on\n", unit_format_time(signs, api_i64(reply.json, "signs")));
	return CLI_OK;
}

static int ca_retire_root(struct cli *c, bool now)
{
	return api_do(c, "DELETE", now ? "/v1/ca/roots?now=1" : "/v1/ca/roots", NULL, "one root is left; members trust the other one no longer within half a minute");
}

/* What is odd about it, and is done all the same: not on standard output, where a script looks for the answer. */
static void ca_print_notes(const json_t *answer)
{
	const json_t *v;
	size_t i;

	fflush(stdout);
	json_array_foreach(json_object_get(answer, "notes"), i, v) {
		fputs("note: ", stderr);
		text_put(stderr, json_string_value(v));
		fputc('\n', stderr);
	}
}

static int ca_token(struct cli *c, const struct ca_token_options *o, const char *host)
{
	json_t *services = json_array(), *body;
	AUTO_REPLY reply = { 0 };
	int r;

	for (size_t i = 0; i < o->services.n; i++)
		json_array_append_new(services, json_string(o->services.items[i]));
	body = json_pack("{s:s, s:o}", "host", host, "services", services);
	if (!body)
		return cli_usage(c, "names are UTF-8");
	if (o->for_s > 0)
		json_object_set_new(body, "for_s", json_integer((json_int_t)(o->for_s < 1 ? 1 : o->for_s)));
	if (o->address)
		json_object_set_new(body, "address", json_string(o->address));
	r = api_call(c, "POST", "/v1/ca/tokens", body, &reply);
	if (r != CLI_OK || c->json)
		return r;
	text_put(stdout, api_str(reply.json, "token"));
	putchar('\n');
	ca_print_notes(reply.json);
	return CLI_OK;
}

static int ca_withdraw(struct cli *c, const char *what)
{
	AUTO_FREE(char) w = api_escape(what);
	AUTO_FREE(char) path = api_path("/v1/ca/tokens?what=%s", w);
	AUTO_REPLY reply = { 0 };
	int r = api_call(c, "DELETE", path, NULL, &reply);

	if (r != CLI_OK || c->json)
		return r;
	printf("%lld open token%s for host ", (long long)api_i64(reply.json, "withdrawn"), api_i64(reply.json, "withdrawn") == 1 ? "" : "s");
	text_put(stdout, json_string_value(json_array_get(json_object_get(reply.json, "hosts"), 0)));
	puts(api_i64(reply.json, "withdrawn") == 1 ? " lets nobody in any more" : " let nobody in any more");
	return CLI_OK;
}

static int ca_grant(struct cli *c, const char *host, const char *service)
{
	json_t *body = json_pack("{s:s, s:s}", "host", host, "service", service);
	AUTO_REPLY reply = { 0 };
	int r;

	if (!body)
		return cli_usage(c, "names are UTF-8");
	r = api_call(c, "POST", "/v1/ca/grants", body, &reply);
	if (r != CLI_OK || c->json)
		return r;
	printf("host ");
	text_put(stdout, host);
	printf(" may have certificates for ");
	text_put(stdout, service);
	putchar('\n');
	ca_print_notes(reply.json);
	return CLI_OK;
}

static int ca_ungrant(struct cli *c, const char *host, const char *service)
{
	AUTO_FREE(char) done = api_path("host %s gets no more certificates for %s; what it has ends by itself (now: sealane ca revoke)", host, service);
	AUTO_FREE(char) h = api_escape(host);
	AUTO_FREE(char) s = api_escape(service);
	AUTO_FREE(char) path = api_path("/v1/ca/grants?host=%s&service=%s", h, s);

	return api_do(c, "DELETE", path, NULL, done);
}

static int ca_revoke(struct cli *c, const char *what)
{
	AUTO_FREE(char) done = api_path("%s is revoked: here now, on other hosts within half a minute", what);

	return api_do(c, "POST", "/v1/ca/revoked", json_pack("{s:s}", "what", what), done);
}

static int ca_unrevoke(struct cli *c, const char *what)
{
	AUTO_FREE(char) done = api_path("%s is revoked no longer", what);
	AUTO_FREE(char) w = api_escape(what);
	AUTO_FREE(char) path = api_path("/v1/ca/revoked?what=%s", w);

	return api_do(c, "DELETE", path, NULL, done);
}

/* "a, b" of an array of texts; owned by the caller. */
static char *ca_join_texts(const json_t *list)
{
	char *text = NULL;
	size_t size, i;
	FILE *f = open_memstream(&text, &size);
	const json_t *v;

	if (!f)
		abort();
	json_array_foreach(list, i, v)
		fprintf(f, "%s%s", i ? ", " : "", json_string_value(v) ? json_string_value(v) : "?");
	if (fclose(f) != 0)
		abort();
	return text;
}

/* @authority: the host itself, which needs no grant. */
static void ca_print_hosts(const json_t *hosts, const char *authority)
{
	static const char *const heads[] = { "HOST", "STATE", "MAY SPEAK FOR", "BUT NOT FOR", NULL };
	struct table t;
	const json_t *o;
	size_t i;

	table_init(&t, heads);
	json_array_foreach(hosts, i, o) {
		AUTO_FREE(char) services = ca_join_texts(json_object_get(o, "services"));
		AUTO_FREE(char) denied = ca_join_texts(json_object_get(o, "denied"));
		const char *host = api_str(o, "host");
		bool own = host && authority && strcmp(host, authority) == 0;

		table_add(&t, host, own ? "authority" : api_bool(o, "revoked") ? "revoked" :
			  json_array_size(json_object_get(o, "certificates")) ? "joined" : "no certificate",
			  own ? "all services that it has" : services[0] ? services : NULL, denied[0] ? denied : NULL);
	}
	table_print(&t, stdout);
	table_free(&t);
}

static void ca_print_certificates(const json_t *hosts)
{
	static const char *const heads[] = { "CERTIFICATE", "HOST", "SERIAL", "UNTIL", "STATE", "OLDER", NULL };
	const json_t *o, *cert;
	struct table t;
	size_t i, k;

	table_init(&t, heads);
	json_array_foreach(hosts, i, o)
		json_array_foreach(json_object_get(o, "certificates"), k, cert) {
			char until[UNIT_TEXT_SIZE], older[UNIT_TEXT_SIZE];

			snprintf(older, sizeof(older), "%lld", (long long)api_i64(cert, "older"));
			table_add(&t, api_str(cert, "spiffe_id"), api_str(o, "host"), api_str(cert, "serial"), unit_format_time(until, api_i64(cert, "not_after")),
				  api_bool(cert, "revoked") ? "revoked" : "good", api_i64(cert, "older") > 0 ? older : NULL);
		}
	if (t.n_rows > 0) {
		putchar('\n');
		table_print(&t, stdout);
	}
	table_free(&t);
}

static void ca_print_tokens(const json_t *tokens)
{
	static const char *const heads[] = { "TOKEN FOR", "ID", "SERVICES", "UNTIL", "STATE", NULL };
	const json_t *o;
	struct table t;
	size_t i;

	table_init(&t, heads);
	json_array_foreach(tokens, i, o) {
		const char *services = api_str(o, "services");
		char until[UNIT_TEXT_SIZE];

		table_add(&t, api_str(o, "host"), api_str(o, "id"), services && services[0] ? services : NULL, unit_format_time(until, api_i64(o, "expires")),
			  api_i64(o, "used") ? "used" : api_i64(o, "expires") <= (int64_t)time(NULL) ? "over" : "open");
	}
	if (t.n_rows > 0) {
		putchar('\n');
		table_print(&t, stdout);
	}
	table_free(&t);
}

/* Which certificates an entry means; @buf has room for a time. */
static const char *ca_which(const char *entry, char *buf, size_t size)
{
	char time_text[UNIT_TEXT_SIZE];

	if (!entry || strncmp(entry, "serial:", 7) == 0)
		return "this one";
	if (strncmp(entry, "before:", 7) != 0)
		return "all";
	snprintf(buf, size, "from before %s", unit_format_time(time_text, strtoll(entry + 7, NULL, 10)));
	return buf;
}

static void ca_print_revoked(const json_t *revoked)
{
	static const char *const heads[] = { "REVOKED", "CERTIFICATES", "SINCE", "UNTIL", NULL };
	const json_t *o;
	struct table t;
	size_t i;

	table_init(&t, heads);
	json_array_foreach(revoked, i, o) {
		char since[UNIT_TEXT_SIZE], until[UNIT_TEXT_SIZE], which[2 * UNIT_TEXT_SIZE];
		int64_t end = api_i64(o, "until");

		table_add(&t, api_str(o, "what"), ca_which(api_str(o, "entry"), which, sizeof(which)), unit_format_time(since, api_i64(o, "since")),
			  end ? unit_format_time(until, end) : NULL);
	}
	if (t.n_rows > 0) {
		putchar('\n');
		table_print(&t, stdout);
	}
	table_free(&t);
}

static void ca_print_root(const json_t *o)
{
	char until[UNIT_TEXT_SIZE], life[UNIT_TEXT_SIZE];

	printf("authority for ");
	text_put(stdout, api_str(o, "trust_domain"));
	printf(" on ");
	text_put(stdout, api_str(o, "host"));
	printf("; root until %s, SHA-256 ", unit_format_time(until, api_i64(o, "root_not_after")));
	text_put(stdout, api_str(o, "root_sha256"));
	printf("; certificates last %s\n", unit_format_age(life, api_i64(o, "svid_life")));
	if (api_has(o, "other_root_sha256")) {
		printf("another root is trusted, SHA-256 ");
		text_put(stdout, api_str(o, "other_root_sha256"));
		if (api_has(o, "signs"))
			printf("; it signs from %s on\n", unit_format_time(until, api_i64(o, "signs")));
		else
			printf("; it signed before, and retires at %s\n", unit_format_time(until, api_i64(o, "retires")));
	}
	putchar('\n');
}

/* Return: CLI_OK, or another status and it was told: only an authority has what was asked for. */
static int ca_want_authority(struct cli *c, const json_t *answer)
{
	const char *source = api_str(answer, "source");

	if (source && strcmp(source, "self") == 0)
		return CLI_OK;
	return cli_error(c, "this host is not the authority: %s", source && strcmp(source, "files") == 0 ? "its certificates come from files" :
			 source && strcmp(source, "authority") == 0 ? "it has joined one (`sealane ls certificates`)" : "`sealane ca init` makes it one");
}

static int ca_tokens(struct cli *c)
{
	static const char *const heads[] = { "ID", "HOST", "SERVICES", "UNTIL", NULL };
	AUTO_REPLY reply = { 0 };
	struct table t;
	const json_t *o;
	size_t i;
	int r = api_call(c, "GET", "/v1/ca/tokens", NULL, &reply);

	if (r != CLI_OK || c->json)
		return r;
	r = ca_want_authority(c, reply.json);
	if (r != CLI_OK)
		return r;
	table_init(&t, heads);
	json_array_foreach(json_object_get(reply.json, "tokens"), i, o) {
		char until[UNIT_TEXT_SIZE];
		const char *services = api_str(o, "services");

		table_add(&t, api_str(o, "id"), api_str(o, "host"), services && services[0] ? services : NULL, unit_format_time(until, api_i64(o, "expires")));
	}
	if (t.n_rows > 0)
		table_print(&t, stdout);
	else
		puts("no token is open");
	table_free(&t);
	return CLI_OK;
}

static int ca_ls(struct cli *c)
{
	AUTO_REPLY reply = { 0 };
	int r = api_call(c, "GET", "/v1/ca", NULL, &reply);

	if (r != CLI_OK || c->json)
		return r;
	r = ca_want_authority(c, reply.json);
	if (r != CLI_OK)
		return r;
	ca_print_root(reply.json);
	if (json_array_size(json_object_get(reply.json, "hosts")) == 0)
		puts("no host has joined yet");
	else
		ca_print_hosts(json_object_get(reply.json, "hosts"), api_str(reply.json, "host"));
	ca_print_certificates(json_object_get(reply.json, "hosts"));
	ca_print_tokens(json_object_get(reply.json, "tokens"));
	ca_print_revoked(json_object_get(reply.json, "revoked"));
	return CLI_OK;
}

int verb_ca(struct cli *c, int argc, char **argv)
{
	struct ca_token_options o = { 0 };
	double after_s = -1;
	bool now = false;
	const struct opt opts[] = {
		{ "service", 0, OPT_LIST, &o.services },
		{ "for", 0, OPT_DURATION, &o.for_s },
		{ "address", 0, OPT_STRING, &o.address },
		{ "after", 0, OPT_DURATION, &after_s },
		{ "now", 0, OPT_FLAG, &now },
	};
	int n = cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 1, 3);
	bool token;

	if (n < 0)
		return c->exit;
	token = strcmp(argv[0], "token") == 0;
	if (!token && (o.services.n || o.for_s > 0 || o.address))
		return cli_usage(c, "--service, --for and --address are for token");
	if ((after_s >= 0 && strcmp(argv[0], "rotate-root") != 0) || (now && strcmp(argv[0], "retire-root") != 0))
		return cli_usage(c, "--after is for rotate-root, --now for retire-root");
	if (strcmp(argv[0], "rotate-root") == 0 && n == 1)
		return ca_rotate_root(c, after_s);
	if (strcmp(argv[0], "retire-root") == 0 && n == 1)
		return ca_retire_root(c, now);
	if (token && n == 2)
		return ca_token(c, &o, argv[1]);
	if (strcmp(argv[0], "init") == 0 && n == 1)
		return ca_init(c);
	if (strcmp(argv[0], "ls") == 0 && n == 1)
		return ca_ls(c);
	if (strcmp(argv[0], "tokens") == 0 && n == 1)
		return ca_tokens(c);
	if (strcmp(argv[0], "withdraw") == 0 && n == 2)
		return ca_withdraw(c, argv[1]);
	if (strcmp(argv[0], "grant") == 0 && n == 3)
		return ca_grant(c, argv[1], argv[2]);
	if (strcmp(argv[0], "ungrant") == 0 && n == 3)
		return ca_ungrant(c, argv[1], argv[2]);
	if (strcmp(argv[0], "revoke") == 0 && n == 2)
		return ca_revoke(c, argv[1]);
	if (strcmp(argv[0], "unrevoke") == 0 && n == 2)
		return ca_unrevoke(c, argv[1]);
	return cli_usage(c, "\"%s\" with %d operands is none of these", argv[0], n - 1);
}
