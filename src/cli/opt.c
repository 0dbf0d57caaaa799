/*
 * Options of the command line. getopt_long() is not used because `sealane run` has to stop at its command while options of
 * every verb may stand anywhere else, and because tables that name their variable need no switch in each verb.
 */
#include "cli/cli.h"
#include "cli/units.h"

#include <stdarg.h>

static void opt_complain(const struct cli *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void opt_complain(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sealane%s%s: ", c->verb ? " " : "", c->verb ? c->verb->name : "");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static int opt_append(struct opt_list *l, const char *value)
{
	if (l->n == ARRAY_SIZE(l->items))
		return -EINVAL;
	l->items[l->n++] = value;
	return 0;
}

/* @typed: the option as it stands on the command line, without its value. */
static int opt_store(const struct cli *c, const struct opt *o, const char *typed, int typed_len, const char *value)
{
	int r = 0;

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)o->to = true;
		break;
	case OPT_STRING:
		*(const char **)o->to = value;
		break;
	case OPT_LIST:
		r = opt_append(o->to, value);
		break;
	case OPT_BYTES:
		r = unit_parse_bytes(o->to, value);
		break;
	case OPT_COUNT:
		r = unit_parse_count(o->to, value);
		break;
	case OPT_COUNT_0:
		*(uint32_t *)o->to = 0;
		r = strcmp(value, "0") == 0 ? 0 : unit_parse_count(o->to, value);
		break;
	case OPT_DURATION:
		r = unit_parse_duration(o->to, value);
		break;
	}
	if (r < 0) {
		static const char *const expected[] = {
			[OPT_LIST] = "no more of them",
			[OPT_BYTES] = "a size like 4096, 10mb or 1.5g",
			[OPT_COUNT] = "a whole number of at least 1",
			[OPT_COUNT_0] = "a whole number",
			[OPT_DURATION] = "a time like 500ms, 90s or 1h30m",
		};

		opt_complain(c, "%.*s: expected %s, not \"%s\"", typed_len, typed, expected[o->kind], value);
	}
	return r;
}

static const struct opt *opt_find(const struct opt *opts, size_t n, const char *word, size_t len)
{
	for (size_t i = 0; i < n; i++) {
		if (word[1] == '-' && strlen(opts[i].name) == len - 2 && memcmp(word + 2, opts[i].name, len - 2) == 0)
			return &opts[i];
		if (len == 2 && opts[i].letter && word[1] == opts[i].letter)
			return &opts[i];
	}
	return NULL;
}

/* Take one option at argv[*i], and its value, which may be the next word. */
static int opt_take(const struct cli *c, const struct opt *const tables[2], const size_t sizes[2], int argc, char **argv, int *i)
{
	const char *word = argv[*i], *equals = word[1] == '-' ? strchr(word, '=') : NULL;
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	const char *value = equals ? equals + 1 : NULL;
	const struct opt *o = opt_find(tables[0], sizes[0], word, len);

	if (!o)
		o = opt_find(tables[1], sizes[1], word, len);
	if (!o) {
		opt_complain(c, "there is no option %.*s", (int)len, word);
		return -EINVAL;
	}
	if (o->kind == OPT_FLAG && value) {
		opt_complain(c, "--%s takes no value", o->name);
		return -EINVAL;
	}
	if (o->kind != OPT_FLAG && !value) {
		if (*i + 1 >= argc) {
			opt_complain(c, "%.*s needs a value", (int)len, word);
			return -EINVAL;
		}
		value = argv[++*i];
	}
	return opt_store(c, o, word, (int)len, value);
}

int opt_parse(struct cli *c, const struct opt *opts, size_t n_opts, int argc, char **argv, enum opt_operands operands)
{
	const struct opt common[] = {
		{ "json", 0, OPT_FLAG, &c->json },
		{ "socket", 0, OPT_STRING, &c->socket_path },
		{ "help", 'h', OPT_FLAG, &c->help },
	};
	const struct opt *const tables[2] = { opts, common };
	const size_t sizes[2] = { n_opts, ARRAY_SIZE(common) };
	bool ended = false;
	int n = 0;

	for (int i = 0; i < argc; i++) {
		char *word = argv[i];

		if (!ended && strcmp(word, "--") == 0) {
			ended = true;
			continue;
		}
		if (ended || word[0] != '-' || !word[1]) {
			argv[n++] = word;
			ended = ended || operands == OPT_OPERANDS_END_OPTIONS;
			continue;
		}
		int r = opt_take(c, tables, sizes, argc, argv, &i);

		if (r < 0)
			return r;
	}
	return n;
}

static void cli_print_usage(const struct cli *c, FILE *f)
{
	for (const char *s = c->verb->usage, *first = "usage: "; *s; first = "       ") {
		size_t n = strcspn(s, "\n");

		fprintf(f, "%ssealane %.*s\n", first, (int)n, s);
		s += n + (s[n] == '\n');
	}
}

void cli_help(const struct cli *c)
{
	cli_print_usage(c, stdout);
	printf("\n%s.\n", c->verb->summary);
	if (*c->verb->help)
		printf("\n%s", c->verb->help);
	printf("\nEvery verb takes --json, --socket PATH (default " CLI_DEFAULT_SOCKET ", or SEALANE_ADMIN) and --help.\n");
}

static enum cli_exit cli_usage_missing(const struct cli *c, int n)
{
	const char *s = c->verb->operands ? c->verb->operands : "an operand";

	for (; n > 0 && strchr(s, ' '); n--)
		s = strchr(s, ' ') + 1;
	return (enum cli_exit)cli_usage(c, "missing: %s", s);
}

int cli_begin(struct cli *c, const struct opt *opts, size_t n_opts, int argc, char **argv, enum opt_operands operands,
	      int min, int max)
{
	int n = opt_parse(c, opts, n_opts, argc, argv, operands);

	c->exit = CLI_OK;
	if (n < 0)
		c->exit = (enum cli_exit)cli_usage(c, NULL);
	else if (c->help)
		cli_help(c);
	else if (n < min)
		c->exit = cli_usage_missing(c, n);
	else if (n > max)
		c->exit = (enum cli_exit)cli_usage(c, "\"%s\" is one word too many", argv[max]);
	else
		return n;
	return -1;
}

int cli_usage(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	if (fmt) {
		fprintf(stderr, "sealane %s: ", c->verb->name);
		va_start(ap, fmt);
		vfprintf(stderr, fmt, ap);
		va_end(ap);
		fputc('\n', stderr);
	}
	cli_print_usage(c, stderr);
	return CLI_USAGE;
}

int cli_error(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sealane %s: ", c->verb->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return CLI_FAILED;
}
