/*
 * Text for people: tables with aligned columns, and strings that cannot harm a terminal.
 *
 * Nothing is cut: a column is as wide as its widest cell. Control characters and bytes that are not UTF-8 are shown as
 * \xNN, because cells may hold what a container wrote (an id, a health check's output).
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include "base/util.h"

#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 12 };

struct table {
	const char *const *heads; /* borrowed literals; a leading '>' aligns the column to the right */
	size_t n_columns;
	char **cells; /* owned, row by row */
	size_t n_rows, cap_rows;
};

/* table_init() - @heads ends with NULL. */
void table_init(struct table *t, const char *const *heads);
void table_free(struct table *t);

/* table_add() - one row: as many strings as there are columns (copied, made safe); NULL is shown as "-". Aborts without memory. */
void table_add(struct table *t, ...);

void table_print(const struct table *t, FILE *f);

/* text_safe() - a copy of @s that is safe on a terminal; owned by the caller. Aborts without memory: the CLI has nothing to save. */
char *text_safe(const char *s);

/* text_put() - text_safe() to @f. */
void text_put(FILE *f, const char *s);

/* text_columns() - how many columns it takes on a terminal (code points; enough for names, ids and paths). */
size_t text_columns(const char *s);

#endif
