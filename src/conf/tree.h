/*
 * The syntax of sealane's files, without their meaning: one parser for the native form (HCL/UCL style), JSON, and the HCL
 * that Consul's service definitions are written in. Every value remembers file, line and key, so that whoever checks the
 * meaning can say where a mistake is.
 *
 *   document := { member }                          (or one JSON object)
 *   member   := key [ "=" | ":" ] value  |  key { label } object      separated by newline, "," or ";" (blanks will do)
 *   value    := string | number | bool | object | array | word
 *   object   := "{" { member } "}"
 *   array    := "[" [ value { "," value } [ "," ] ] "]"
 *   comments := "#..." | "//..." | "/ *...* /"
 *
 * `service "web" { ... }` and `service web { ... }` give the object the label "web". A key may be repeated; each stands
 * for itself, in order. Numbers take the suffixes k m g (1000) and kb mb gb (1024) and ms s min h d (seconds as a fraction).
 * Blanks may stand for a separator; a value begins on its key's line, unless it is a block or list or stands after ":".
 * No heredocs.
 *
 * (libucl, which does much of this, is not packaged in Debian 12 - the libucl there is a compression library - and keeps
 * no line numbers of values.)
 *
 * Trust: the text is hostile: bounded in size, depth and string length (base/limits.h). No I/O.
 */
#ifndef CONF_TREE_H
#define CONF_TREE_H

#include "base/limits.h"
#include "base/util.h"

enum conf_kind { CONF_OBJECT, CONF_ARRAY, CONF_STRING, CONF_NUMBER, CONF_BOOL, CONF_NULL };

struct conf_node {
	enum conf_kind kind;
	const char *key;     /* NULL in an array */
	const char *list;    /* in an array: the array's key; for messages */
	const char *label;   /* `service web {`: "web"; else NULL */
	const char *string;  /* CONF_STRING (a bare word is one); numbers, booleans and null: as written. UTF-8 without NUL */
	double number;	     /* CONF_NUMBER: with its suffix applied (durations in seconds) */
	bool boolean;
	unsigned line, column; /* 1-based, of the key (or of the value in an array) */
	const char *file;
	struct conf_node *first, *next; /* children; siblings */
};

struct conf_tree;

/* Values in one file: 65,536 intentions have about 600,000; so a tree is never larger than about 110 MB. */
enum { CONF_TREE_NODES_MAX = 1 << 20 };

struct conf_error {
	char text[1024]; /* "FILE:LINE:COLUMN: what was found, what was expected" */
};

/*
 * conf_tree_parse() - parse @size bytes of text.
 * @file: its name, for messages (copied). @ret_error: filled on failure.
 * Return: 0, -EINVAL (see @ret_error), -E2BIG, -ENOMEM. *ret_tree: owned by the caller, conf_tree_free().
 */
MUST_CHECK int conf_tree_parse(struct conf_tree **ret_tree, const char *file, const char *text, size_t size,
			       struct conf_error *ret_error);
struct conf_tree *conf_tree_free(struct conf_tree *t);

/* conf_tree_trim() - give the values back; what stays is the root, without children, and the file's name. */
void conf_tree_trim(struct conf_tree *t);

/* conf_tree_root() - the document as an object. Lives as long as the tree. */
const struct conf_node *conf_tree_root(const struct conf_tree *t);

/*
 * conf_fail() - write "FILE:LINE:COLUMN: key 'KEY': text" into @e (control bytes become '?'). Returns -EINVAL, so that it
 * can be returned at once.
 */
int conf_fail(struct conf_error *e, const struct conf_node *at, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
