#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

/* Starting a signer and a linker, connecting, the handshake, the authority's disk. */
enum { JOIN_MS = 60 * 1000 };

static void join_print(const json_t *o)
{
	char until[UNIT_TEXT_SIZE];

	printf("joined ");
	text_put(stdout, api_str(o, "trust_domain"));
	printf(" as host ");
	text_put(stdout, api_str(o, "host"));
	printf(" (authority ");
	text_put(stdout, api_str(o, "authority"));
	printf(" at ");
	text_put(stdout, api_str(o, "address"));
	printf("); certificate until %s\n", unit_format_time(until, api_i64(o, "not_after")));
}

/* From standard input, so that it stands in no list of processes. */
static int join_read(struct cli *c, char *buf, size_t size)
{
	size_t n = fread(buf, 1, size - 1, stdin);

	buf[n] = '\0';
	buf[strcspn(buf, "\r\n")] = '\0';
	return buf[0] ? 0 : cli_error(c, "no token came on standard input");
}

int verb_join(struct cli *c, int argc, char **argv)
{
	bool again = false;
	const struct opt opts[] = { { "again", 0, OPT_FLAG, &again } };
	AUTO_REPLY reply = { 0 };
	char typed[1024];
	json_t *body;
	int r;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 1, 1) < 0)
		return c->exit;
	r = strcmp(argv[0], "-") == 0 ? join_read(c, typed, sizeof(typed)) : 0;
	if (r)
		return r;
	body = json_pack("{s:s, s:b}", "token", strcmp(argv[0], "-") == 0 ? typed : argv[0], "again", again);
	if (!body)
		return cli_usage(c, "a token is sl1. and letters");
	r = api_call_within(c, "POST", "/v1/join", body, JOIN_MS, &reply);
	if (r == CLI_OK && !c->json)
		join_print(reply.json);
	return r;
}
