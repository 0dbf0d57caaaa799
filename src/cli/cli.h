/*
 * What the verbs of `sealane` share: the command line's state, options, and exit codes.
 *
 * One verb is one file and one function, struct cli_verb in main.c's table. A verb reads its options, asks the daemon over
 * the admin socket (cli/api.h), and prints either the daemon's JSON as it came (--json) or a table for people.
 *
 * Threads: one. Trust: what the daemon answers may hold strings that came from containers (ids, health output), so all
 * text for a terminal goes through text_put() (cli/table.h), which lets no control character by.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/util.h"

#include <stdio.h>

#define CLI_DEFAULT_SOCKET "/run/sealane/admin.sock"

/* What the process exits with; `sealane run` instead gives its command's status. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,	     /* refused, denied, or it did not work */
	CLI_USAGE = 2,	     /* the command line makes no sense */
	CLI_UNREACHABLE = 3, /* no daemon answers on the admin socket */
};

struct cli_verb;

struct cli {
	const char *socket_path;
	bool json;
	bool help;
	const struct cli_verb *verb;
	enum cli_exit exit; /* what to return when cli_begin() says to stop */
};

struct cli_verb {
	const char *name;
	int (*run)(struct cli *c, int argc, char **argv); /* argv[0] is the first word after the verb */
	const char *usage;				  /* one line for each form, without "sealane " */
	const char *summary;
	const char *help;     /* options and what else there is to know; "" if usage says it all */
	const char *operands; /* what each is called, in order, with blanks between; NULL: none */
};

enum opt_kind {
	OPT_FLAG,     /* bool: set to true */
	OPT_STRING,   /* const char * */
	OPT_LIST,     /* struct opt_list: may be given more than once */
	OPT_BYTES,    /* uint64_t: unit_parse_bytes() */
	OPT_COUNT,    /* uint32_t, at least 1 */
	OPT_COUNT_0,  /* uint32_t */
	OPT_DURATION, /* double, seconds: unit_parse_duration() */
};

struct opt_list {
	const char *items[64];
	size_t n;
};

struct opt {
	const char *name; /* "bytes-per-s": --bytes-per-s VALUE or --bytes-per-s=VALUE */
	char letter;	  /* -n VALUE; 0: none */
	enum opt_kind kind;
	void *to;
};

enum opt_operands { OPT_OPERANDS_ANYWHERE, OPT_OPERANDS_END_OPTIONS };

/*
 * opt_parse() - take the options of @opts, and those of every verb (--json, --socket, --help), out of @argv.
 * What is left (operands) moves to the front of @argv. "--" ends the options; with OPT_OPERANDS_END_OPTIONS the first
 * operand does too, so that a command to be run keeps its own options.
 * Return: number of operands; -EINVAL after a line on standard error.
 */
MUST_CHECK int opt_parse(struct cli *c, const struct opt *opts, size_t n_opts, int argc, char **argv,
			 enum opt_operands operands);

/*
 * cli_begin() - opt_parse(), --help, and between @min and @max operands. What is missing is called as the verb calls it.
 * Return: number of operands, now first in @argv; -1: the verb returns c->exit at once.
 */
MUST_CHECK int cli_begin(struct cli *c, const struct opt *opts, size_t n_opts, int argc, char **argv,
			 enum opt_operands operands, int min, int max);

/* cli_help() - the verb's usage and help on standard output. */
void cli_help(const struct cli *c);

/* cli_usage() - print @fmt (may be NULL) and the verb's usage on standard error. Returns CLI_USAGE. */
int cli_usage(const struct cli *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* cli_error() - "sealane VERB: ..." on standard error. Returns CLI_FAILED. */
int cli_error(const struct cli *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

int verb_status(struct cli *c, int argc, char **argv);
int verb_ls(struct cli *c, int argc, char **argv);
int verb_explain(struct cli *c, int argc, char **argv);
int verb_intention(struct cli *c, int argc, char **argv);
int verb_run(struct cli *c, int argc, char **argv);
int verb_enrol(struct cli *c, int argc, char **argv);
int verb_unenrol(struct cli *c, int argc, char **argv);
int verb_reload(struct cli *c, int argc, char **argv);
int verb_drain(struct cli *c, int argc, char **argv);
int verb_doctor(struct cli *c, int argc, char **argv);
int verb_catalogue(struct cli *c, int argc, char **argv);
int verb_logs(struct cli *c, int argc, char **argv);
int verb_top(struct cli *c, int argc, char **argv);
int verb_cdi(struct cli *c, int argc, char **argv);
int verb_hook(struct cli *c, int argc, char **argv);
int verb_bench(struct cli *c, int argc, char **argv);
int verb_ca(struct cli *c, int argc, char **argv);
int verb_join(struct cli *c, int argc, char **argv);

#endif
