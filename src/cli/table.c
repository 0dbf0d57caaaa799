#include "cli/table.h"

#include <stdarg.h>

void table_init(struct table *t, const char *const *heads)
{
	*t = (struct table){ .heads = heads };
	while (heads[t->n_columns])
		t->n_columns++;
	assert(t->n_columns > 0 && t->n_columns <= TABLE_COLUMNS_MAX);
}

void table_free(struct table *t)
{
	for (size_t i = 0; i < t->n_rows * t->n_columns; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){ 0 };
}

/* Length of the well-formed UTF-8 sequence at @s that is no C1 control; 0 if there is none. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = *s < 0x80 ? 1 : *s >= 0xc2 && *s < 0xe0 ? 2 : (*s & 0xf0) == 0xe0 ? 3 : *s >= 0xf0 && *s < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	if (n == 2 && *s == 0xc2 && s[1] < 0xa0)
		return 0;
	return n;
}

char *text_safe(const char *s)
{
	char *out = malloc(strlen(s) * 4 + 1), *o = out;
	const unsigned char *p = (const unsigned char *)s;

	if (!out)
		abort();
	while (*p) {
		size_t n = *p < 0x20 || *p == 0x7f ? 0 : utf8_length(p);

		if (n == 0) {
			o += sprintf(o, "\\x%02x", *p++);
			continue;
		}
		memcpy(o, p, n);
		o += n;
		p += n;
	}
	*o = '\0';
	return out;
}

void text_put(FILE *f, const char *s)
{
	AUTO_FREE(char) safe = text_safe(s);

	fputs(safe, f);
}

size_t text_columns(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void table_add(struct table *t, ...)
{
	va_list ap;

	if (t->n_rows == t->cap_rows) {
		t->cap_rows = t->cap_rows ? t->cap_rows * 2 : 16;
		t->cells = reallocarray(t->cells, t->cap_rows * t->n_columns, sizeof(*t->cells));
		if (!t->cells)
			abort();
	}
	va_start(ap, t);
	for (size_t i = 0; i < t->n_columns; i++) {
		const char *s = va_arg(ap, const char *);

		t->cells[t->n_rows * t->n_columns + i] = text_safe(s && *s ? s : "-");
	}
	va_end(ap);
	t->n_rows++;
}

static void table_print_cell(FILE *f, const char *s, size_t width, bool right, bool last)
{
	int pad = (int)(width - text_columns(s));

	if (right)
		fprintf(f, "%*s%s%s", pad, "", s, last ? "\n" : "  ");
	else if (last)
		fprintf(f, "%s\n", s); /* no blanks at the end of a line */
	else
		fprintf(f, "%s%*s", s, pad + 2, "");
}

void table_print(const struct table *t, FILE *f)
{
	size_t widths[TABLE_COLUMNS_MAX];

	for (size_t c = 0; c < t->n_columns; c++) {
		bool right = t->heads[c][0] == '>';

		widths[c] = text_columns(t->heads[c] + right);
		for (size_t r = 0; r < t->n_rows; r++) {
			size_t w = text_columns(t->cells[r * t->n_columns + c]);

			widths[c] = w > widths[c] ? w : widths[c];
		}
	}
	for (size_t c = 0; c < t->n_columns; c++) {
		bool right = t->heads[c][0] == '>';

		table_print_cell(f, t->heads[c] + right, widths[c], right, c + 1 == t->n_columns);
	}
	for (size_t i = 0; i < t->n_rows * t->n_columns; i++) {
		size_t c = i % t->n_columns;

		table_print_cell(f, t->cells[i], widths[c], t->heads[c][0] == '>', c + 1 == t->n_columns);
	}
}
