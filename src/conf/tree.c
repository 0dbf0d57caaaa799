/*
 * Theory of operation
 *
 * One recursive-descent parser over one bounded text, for the native form, JSON and Consul's HCL. It knows no key and no
 * meaning; what comes out is a tree of nodes in which each remembers where it stood. config.c reads that tree next.
 *
 * The three forms differ in punctuation only, so the parser takes the union: "=" and ":" are the same, and so are newline,
 * "," and ";" between members; blanks will do as well, so that `limits { open_lanes = 5 bytes_per_s = 1mb }` fits on a line.
 * A value begins on its key's line, unless it is a block or a list or stands after ":" (JSON): a key whose value was
 * forgotten must not swallow the next line.
 *
 * A bare word that reads as a number is a number, `true` and `false` are booleans; everything keeps its text as written,
 * since `0660` is a mode and `123456789012` a container id, which only the reader of the key can know.
 *
 * What it must never do: recurse deeper than LIMIT_CONFIG_DEPTH, look beyond text + size (there is no NUL to stop at), make
 * strings that are not UTF-8 or hold a NUL (they end in JSON answers and in paths). Memory: one arena a tree, given back at
 * once; CONF_TREE_NODES_MAX bounds how much a small text such as "[0,0,0,..." can blow up to.
 */
#include "conf/tree.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { ARENA_CHUNK_SIZE = 64 << 10, KEY_SHOWN = 64 };

struct chunk {
	struct chunk *next;
	size_t used, cap;
	_Alignas(16) unsigned char bytes[];
};

/* Text that is being put together: a string after its escapes. */
struct text {
	size_t n;
	char bytes[LIMIT_CONFIG_STRING_SIZE];
};

struct conf_tree {
	struct chunk *chunks;
	const char *file;
	size_t n_nodes;
	struct conf_node *root;
	struct text scratch; /* of the one string that is being read: not on the stack, where each would be cleared first */
};

struct parser {
	const char *text;
	size_t size, pos;
	unsigned line;
	size_t line_start;
	unsigned depth;
	struct conf_tree *tree;
	struct conf_error *error;
};

/* What a caller gets is shown on terminals and in JSON: no control bytes, and UTF-8 or else ASCII. */
static bool utf8_is_valid(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + n;

	while (p < end) {
		unsigned c = *p++, more, min;

		if (c < 0x80)
			continue;
		if (c >= 0xc2 && c <= 0xdf)
			more = 1, min = 0x80, c &= 0x1f;
		else if (c >= 0xe0 && c <= 0xef)
			more = 2, min = 0x800, c &= 0x0f;
		else if (c >= 0xf0 && c <= 0xf4)
			more = 3, min = 0x10000, c &= 0x07;
		else
			return false;
		if (more > (size_t)(end - p))
			return false;
		for (; more > 0; more--, p++) {
			if ((*p & 0xc0) != 0x80)
				return false;
			c = c << 6 | (*p & 0x3fu);
		}
		if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
			return false;
	}
	return true;
}

static void error_clean(struct conf_error *e)
{
	bool utf8 = utf8_is_valid(e->text, strlen(e->text));

	for (char *s = e->text; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
			*s = '?';
	}
}

static PRINTF_LIKE(2, 0) void error_append(struct conf_error *e, const char *fmt, va_list args)
{
	size_t n = strlen(e->text);

	vsnprintf(e->text + n, sizeof(e->text) - n, fmt, args);
	error_clean(e);
}

int conf_fail(struct conf_error *e, const struct conf_node *at, const char *fmt, ...)
{
	va_list args;

	snprintf(e->text, sizeof(e->text), "%.*s:%u:%u: ", LIMIT_PATH_SIZE, at->file, at->line, at->column);
	if (at->key || at->list) {
		size_t n = strlen(e->text);

		snprintf(e->text + n, sizeof(e->text) - n, "key '%.*s': ", KEY_SHOWN, at->key ? at->key : at->list);
	}
	va_start(args, fmt);
	error_append(e, fmt, args);
	va_end(args);
	return -EINVAL;
}

/* A mistake in the syntax, at the place that was reached. */
static PRINTF_LIKE(2, 3) int parser_fail(struct parser *p, const char *fmt, ...)
{
	va_list args;

	snprintf(p->error->text, sizeof(p->error->text), "%.*s:%u:%zu: ", LIMIT_PATH_SIZE, p->tree->file, p->line,
		 p->pos - p->line_start + 1);
	va_start(args, fmt);
	error_append(p->error, fmt, args);
	va_end(args);
	return -EINVAL;
}

static void *arena_take(struct conf_tree *t, size_t size)
{
	struct chunk *c = t->chunks;
	void *mem;

	size = (size + 15) & ~(size_t)15;
	if (!c || size > c->cap - c->used) {
		size_t cap = size > ARENA_CHUNK_SIZE ? size : ARENA_CHUNK_SIZE;

		c = malloc(sizeof(*c) + cap);
		if (!c)
			return NULL;
		c->next = t->chunks;
		c->used = 0;
		c->cap = cap;
		t->chunks = c;
	}
	mem = c->bytes + c->used;
	c->used += size;
	return mem;
}

static const char *arena_string(struct conf_tree *t, const char *s, size_t n)
{
	char *copy = arena_take(t, n + 1);

	if (!copy)
		return NULL;
	memcpy(copy, s, n);
	copy[n] = '\0';
	return copy;
}

static int peek(const struct parser *p)
{
	return p->pos < p->size ? (unsigned char)p->text[p->pos] : -1;
}

static bool looking_at(const struct parser *p, const char *two)
{
	return p->size - p->pos >= 2 && p->text[p->pos] == two[0] && p->text[p->pos + 1] == two[1];
}

static void advance(struct parser *p)
{
	if (p->text[p->pos++] == '\n') {
		p->line++;
		p->line_start = p->pos;
	}
}

/* parser_expected() - "found '}', expected WHAT". */
static int parser_expected(struct parser *p, const char *what)
{
	int c = peek(p);

	if (c < 0)
		return parser_fail(p, "found the end of the file, expected %s", what);
	if (c == '\n')
		return parser_fail(p, "found the end of the line, expected %s", what);
	if (c == '\'')
		return parser_fail(p, "found a single quote, expected %s (strings stand in double quotes)", what);
	if (c < 0x20 || c >= 0x7f)
		return parser_fail(p, "found byte 0x%02x, expected %s", (unsigned)c, what);
	return parser_fail(p, "found '%c', expected %s", c, what);
}

static int skip_block_comment(struct parser *p)
{
	struct parser start = *p;

	advance(p);
	advance(p);
	while (!looking_at(p, "*/")) {
		if (p->pos >= p->size) {
			*p = start;
			return parser_fail(p, "this comment has no end, expected '*/'");
		}
		advance(p);
	}
	advance(p);
	advance(p);
	return 0;
}

/* Blanks and comments; with @newlines also newlines. */
static int skip_blank(struct parser *p, bool newlines)
{
	for (;;) {
		int c = peek(p);

		if (c == ' ' || c == '\t' || c == '\r' || (c == '\n' && newlines)) {
			advance(p);
		} else if (c == '#' || looking_at(p, "//")) {
			while (p->pos < p->size && peek(p) != '\n')
				advance(p);
		} else if (looking_at(p, "/*")) {
			int r = skip_block_comment(p);

			if (r < 0)
				return r;
		} else {
			return 0;
		}
	}
}

static int node_new(struct parser *p, struct conf_node **ret_n)
{
	struct conf_node *n;

	if (++p->tree->n_nodes > CONF_TREE_NODES_MAX) {
		(void)parser_fail(p, "found more than %d values in one file", CONF_TREE_NODES_MAX);
		return -E2BIG;
	}
	n = arena_take(p->tree, sizeof(*n));
	if (!n)
		return -ENOMEM;
	*n = (struct conf_node){ .kind = CONF_NULL,
				 .file = p->tree->file,
				 .line = p->line,
				 .column = (unsigned)(p->pos - p->line_start + 1) };
	*ret_n = n;
	return 0;
}

static int text_put(struct parser *p, struct text *t, char c)
{
	if (t->n >= sizeof(t->bytes))
		return parser_fail(p, "found a string of more than %d bytes", LIMIT_CONFIG_STRING_SIZE);
	t->bytes[t->n++] = c;
	return 0;
}

static int text_put_rune(struct parser *p, struct text *t, unsigned c)
{
	static const struct {
		unsigned below;
		unsigned lead;
		int more;
	} forms[] = { { 0x80, 0, 0 }, { 0x800, 0xc0, 1 }, { 0x10000, 0xe0, 2 }, { 0x110000, 0xf0, 3 } };
	size_t i = 0;
	int r;

	while (c >= forms[i].below)
		i++;
	r = text_put(p, t, (char)(forms[i].lead | c >> 6 * forms[i].more));
	for (int k = forms[i].more - 1; r == 0 && k >= 0; k--)
		r = text_put(p, t, (char)(0x80 | (c >> 6 * k & 0x3f)));
	return r;
}

static int parse_hex4(struct parser *p, unsigned *ret)
{
	unsigned v = 0;

	for (int i = 0; i < 4; i++) {
		int c = peek(p);

		if (c < 0 || !isxdigit(c))
			return parser_expected(p, "four hexadecimal digits after \\u");
		v = v << 4 | (unsigned)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
		advance(p);
	}
	*ret = v;
	return 0;
}

/* After "\u". Two escapes make one character beyond U+FFFF (RFC 8259, section 7). */
static int parse_unicode_escape(struct parser *p, struct text *t)
{
	unsigned hi, lo;
	int r = parse_hex4(p, &hi);

	if (r < 0)
		return r;
	if (hi == 0)
		return parser_fail(p, "found \\u0000, which no string here can hold");
	if (hi < 0xd800 || hi > 0xdfff)
		return text_put_rune(p, t, hi);
	if (hi > 0xdbff || !looking_at(p, "\\u"))
		return parser_fail(p, "found half of a surrogate pair, expected \\uD8xx\\uDCxx");
	advance(p);
	advance(p);
	r = parse_hex4(p, &lo);
	if (r < 0)
		return r;
	if (lo < 0xdc00 || lo > 0xdfff)
		return parser_fail(p, "found half of a surrogate pair, expected \\uD8xx\\uDCxx");
	return text_put_rune(p, t, 0x10000 + ((hi - 0xd800) << 10 | (lo - 0xdc00)));
}

static int parse_escape(struct parser *p, struct text *t)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;
	int c;

	advance(p);
	c = peek(p);
	if (c == 'u') {
		advance(p);
		return parse_unicode_escape(p, t);
	}
	at = c > 0 ? strchr(from, c) : NULL;
	if (!at)
		return parser_expected(p, "one of \" \\ / b f n r t u after the backslash");
	advance(p);
	return text_put(p, t, to[at - from]);
}

static int parse_string(struct parser *p, const char **ret_s)
{
	struct parser start = *p;
	struct text *t = &p->tree->scratch;
	int r;

	t->n = 0;
	advance(p);
	while (peek(p) != '"') {
		int c = peek(p);

		if (c < 0 || c == '\n') {
			*p = start;
			return parser_fail(p, "this string has no end, expected '\"' on the same line");
		}
		if (c == '\\')
			r = parse_escape(p, t);
		else if (c < 0x20 && c != '\t')
			r = parser_expected(p, "a string without control characters (write \\n, \\t, \\u001b)");
		else {
			r = text_put(p, t, (char)c);
			advance(p);
		}
		if (r < 0)
			return r;
	}
	advance(p);
	if (!utf8_is_valid(t->bytes, t->n)) {
		*p = start;
		return parser_fail(p, "this string is not UTF-8");
	}
	*ret_s = arena_string(p->tree, t->bytes, t->n);
	return *ret_s ? 0 : -ENOMEM;
}

static bool is_key_char(int c)
{
	return c > 0 && c < 0x80 && (isalnum(c) || strchr("_-./", c));
}

/* In values also what times, patterns and engine names need: 2027-01-01T00:00:00Z, prod/ *, web@1. */
static bool is_word_char(int c)
{
	return is_key_char(c) || (c > 0 && c < 0x80 && strchr("*+:@%", c));
}

static int parse_word(struct parser *p, bool (*is_char)(int), const char **ret_s)
{
	size_t start = p->pos;

	while (is_char(peek(p)))
		advance(p);
	if (p->pos - start > LIMIT_CONFIG_STRING_SIZE)
		return parser_fail(p, "found a word of more than %d bytes", LIMIT_CONFIG_STRING_SIZE);
	*ret_s = arena_string(p->tree, p->text + start, p->pos - start);
	return *ret_s ? 0 : -ENOMEM;
}

static const char *skip_digits(const char *s)
{
	while (isdigit((unsigned char)*s))
		s++;
	return s;
}

static bool suffix_factor(const char *suffix, double *ret)
{
	static const struct {
		const char *name;
		double factor;
	} suffixes[] = { { "", 1 },	   { "k", 1e3 },       { "m", 1e6 },  { "g", 1e9 },
			 { "kb", 1024 },   { "mb", 1048576 },  { "gb", 1073741824 },
			 { "ms", 1e-3 },   { "s", 1 },	       { "min", 60 }, { "h", 3600 }, { "d", 86400 } };

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		if (strcasecmp(suffix, suffixes[i].name) == 0) {
			*ret = suffixes[i].factor;
			return true;
		}
	}
	return false;
}

/* The shape is checked by hand, since strtod() also takes "inf", "nan" and hexadecimal. */
static bool number_parse(const char *text, double *ret)
{
	const char *s = text + (*text == '-' || *text == '+'), *end;
	double factor, value;

	if (!isdigit((unsigned char)*s))
		return false;
	end = skip_digits(s);
	if (*end == '.' && isdigit((unsigned char)end[1]))
		end = skip_digits(end + 1);
	if (tolower((unsigned char)*end) == 'e') {
		const char *exp = end + 1;

		exp += *exp == '-' || *exp == '+';
		if (isdigit((unsigned char)*exp))
			end = skip_digits(exp);
	}
	if (!suffix_factor(end, &factor))
		return false;
	value = strtod(text, NULL) * factor;
	if (!isfinite(value))
		return false;
	*ret = value;
	return true;
}

static int parse_bare(struct parser *p, struct conf_node *n)
{
	int r = parse_word(p, is_word_char, &n->string);

	if (r < 0)
		return r;
	if (strcmp(n->string, "true") == 0 || strcmp(n->string, "false") == 0) {
		n->kind = CONF_BOOL;
		n->boolean = n->string[0] == 't';
	} else if (strcmp(n->string, "null") == 0) {
		n->kind = CONF_NULL;
	} else {
		n->kind = number_parse(n->string, &n->number) ? CONF_NUMBER : CONF_STRING;
	}
	return 0;
}

static int parse_members(struct parser *p, struct conf_node *parent, const struct parser *opened);
static int parse_array(struct parser *p, struct conf_node *n);

static int parse_value(struct parser *p, struct conf_node *n)
{
	struct parser opened = *p;
	int c = peek(p), r;

	if (c == '"') {
		n->kind = CONF_STRING;
		return parse_string(p, &n->string);
	}
	if (is_word_char(c))
		return parse_bare(p, n);
	if (c != '{' && c != '[')
		return parser_expected(p, "a value");
	if (++p->depth > LIMIT_CONFIG_DEPTH)
		return parser_fail(p, "found blocks nested more than %d deep", LIMIT_CONFIG_DEPTH);
	advance(p);
	n->kind = c == '{' ? CONF_OBJECT : CONF_ARRAY;
	r = c == '{' ? parse_members(p, n, &opened) : parse_array(p, n);
	p->depth--;
	return r;
}

static int parse_array(struct parser *p, struct conf_node *n)
{
	struct conf_node **tail = &n->first;
	int r = skip_blank(p, true);

	while (r == 0 && peek(p) != ']') {
		r = node_new(p, tail);
		if (r < 0)
			return r;
		(*tail)->list = n->key ? n->key : n->list;
		r = parse_value(p, *tail);
		if (r == 0)
			r = skip_blank(p, true);
		if (r < 0)
			return r;
		tail = &(*tail)->next;
		if (peek(p) == ',') {
			advance(p);
			r = skip_blank(p, true);
		} else if (peek(p) != ']') {
			return parser_expected(p, "',' or ']' in this list");
		}
	}
	if (r == 0)
		advance(p);
	return r;
}

/* The line ended after the key: only a block or a list may begin on another one. */
static int parse_on_next_line(struct parser *p, struct conf_node *n)
{
	struct parser here = *p;
	int r = skip_blank(p, true);

	if (r < 0)
		return r;
	if (peek(p) == '{' || peek(p) == '[')
		return parse_value(p, n);
	*p = here;
	return parser_fail(p, "found the end of the line after key '%.*s', expected '=' and a value, or '{'", KEY_SHOWN, n->key);
}

/* After a key without "=": an object, a list, a value, or a label and its object. */
static int parse_unsigned_value(struct parser *p, struct conf_node *n)
{
	int c = peek(p), r;

	if (c == '\n')
		return parse_on_next_line(p, n);
	if (c != '{' && c != '[' && c != '"' && !is_word_char(c))
		return parser_expected(p, "'=' and a value, or '{', after the key");
	r = parse_value(p, n);
	if (r < 0 || n->kind == CONF_OBJECT || n->kind == CONF_ARRAY)
		return r;
	r = skip_blank(p, true);
	if (r < 0 || peek(p) != '{')
		return r;
	n->label = n->string;
	n->string = NULL;
	return parse_value(p, n);
}

static int parse_member(struct parser *p, struct conf_node *n)
{
	int sign, r;

	if (peek(p) == '"')
		r = parse_string(p, &n->key);
	else if (is_key_char(peek(p)))
		r = parse_word(p, is_key_char, &n->key);
	else
		return parser_expected(p, "a key");
	if (r == 0)
		r = skip_blank(p, false);
	if (r < 0)
		return r;
	sign = peek(p);
	if (sign != '=' && sign != ':')
		return parse_unsigned_value(p, n);
	advance(p);
	r = skip_blank(p, sign == ':');
	if (r < 0 || peek(p) != '\n')
		return r < 0 ? r : parse_value(p, n);
	return parse_on_next_line(p, n);
}

/* @opened: where the "{" stood; NULL: the document, which ends with the text. */
static int parse_members(struct parser *p, struct conf_node *parent, const struct parser *opened)
{
	struct conf_node **tail = &parent->first;

	for (;;) {
		int r = skip_blank(p, true), c = peek(p);

		if (r < 0)
			return r;
		if (c == ',' || c == ';') {
			advance(p);
		} else if (c == '}' && opened) {
			advance(p);
			return 0;
		} else if (c < 0 && !opened) {
			return 0;
		} else if (c < 0) {
			return parser_fail(p, "found the end of the file, expected '}' for the '{' in line %u",
					   opened->line);
		} else {
			r = node_new(p, tail);
			if (r == 0)
				r = parse_member(p, *tail);
			if (r < 0)
				return r;
			tail = &(*tail)->next;
		}
	}
}

static int parse_document(struct parser *p)
{
	int r;

	if (p->size >= 3 && memcmp(p->text, "\xef\xbb\xbf", 3) == 0)
		p->pos = p->line_start = 3; /* a byte order mark, as some editors write */
	r = node_new(p, &p->tree->root);
	if (r == 0)
		r = skip_blank(p, true);
	if (r < 0)
		return r;
	p->tree->root->kind = CONF_OBJECT;
	if (peek(p) != '{')
		return parse_members(p, p->tree->root, NULL);
	r = parse_value(p, p->tree->root);
	if (r == 0)
		r = skip_blank(p, true);
	if (r == 0 && peek(p) >= 0)
		r = parser_expected(p, "nothing after the '}' that ends the document");
	return r;
}

int conf_tree_parse(struct conf_tree **ret_tree, const char *file, const char *text, size_t size,
		    struct conf_error *ret_error)
{
	struct conf_tree *t = calloc(1, sizeof(*t));
	struct parser p = { .text = text, .size = size, .line = 1, .tree = t, .error = ret_error };
	int r;

	ret_error->text[0] = '\0';
	if (!t)
		return -ENOMEM;
	t->file = arena_string(t, file, strnlen(file, LIMIT_PATH_SIZE - 1));
	if (!t->file) {
		r = -ENOMEM;
	} else if (size > LIMIT_CONFIG_SIZE) {
		(void)parser_fail(&p, "found a file of %zu bytes, expected at most %d", size, LIMIT_CONFIG_SIZE);
		r = -E2BIG;
	} else {
		r = parse_document(&p);
	}
	if (r < 0) {
		conf_tree_free(t);
		return r;
	}
	*ret_tree = t;
	return 0;
}

struct conf_tree *conf_tree_free(struct conf_tree *t)
{
	struct chunk *c = t ? t->chunks : NULL;

	while (c) {
		struct chunk *next = c->next;

		free(c);
		c = next;
	}
	free(t);
	return NULL;
}

void conf_tree_trim(struct conf_tree *t)
{
	struct chunk *c = t->chunks;

	/* The file's name and the root were taken first, so they lie in the oldest chunk, which is the last in the list. */
	while (c->next) {
		struct chunk *next = c->next;

		free(c);
		c = next;
	}
	t->chunks = c;
	t->root->first = NULL;
}

const struct conf_node *conf_tree_root(const struct conf_tree *t)
{
	return t->root;
}
