/*
 * What etcd, or whoever stands in its place, answers: whatever its bytes, each answer is taken or refused, what is handed on keeps
 * its bounds, and an entry that was taken is written back to something that is taken as the same. The first byte chooses which
 * answer it is read as; of entries the key ends with a newline.
 */
#include "catalogue/entry.h"
#include "catalogue/etcd.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char g_prefix[] = "/sealane";

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static void must_be_line(const char *s, size_t size)
{
	size_t n = strnlen(s, size);

	must(n < size, "a line is not terminated");
	for (size_t i = 0; i < n; i++)
		must((unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x7f, "a line holds what is not for people");
}

static bool same_intention(const struct intention *a, const struct intention *b)
{
	return memcmp(&a->source, &b->source, sizeof(a->source)) == 0 && memcmp(&a->destination, &b->destination, sizeof(a->destination)) == 0 &&
	       a->action == b->action && a->strict == b->strict && memcmp(&a->limits, &b->limits, sizeof(a->limits)) == 0 &&
	       a->expires_unix_s == b->expires_unix_s && strcmp(a->where, b->where) == 0;
}

static void check_entry(const char *key, const char *value, size_t size)
{
	char key_again[LIMIT_CATALOGUE_KEY_SIZE], value_again[LIMIT_CATALOGUE_VALUE_SIZE];
	struct entry e, again;

	entry_parse_key(&e, key);
	if (e.kind == ENTRY_OTHER)
		return;
	must(strcmp(entry_format_key(key_again, &e), key) == 0, "a key has two spellings");
	if (entry_parse_value(&e, value, size) < 0)
		return;
	if (e.kind == ENTRY_INTENTION)
		must(e.intention.origin == INTENTION_FROM_CLUSTER && e.intention.where[0], "an intention does not say where it is from");
	must(entry_format_value(value_again, &e) == 0, "what was read cannot be written");
	must(entry_parse(&again, key_again, value_again) == 0, "what was written cannot be read");
	must(again.kind == e.kind && strcmp(again.address, e.address) == 0 && again.up == e.up && again.lanes == e.lanes && again.kinds == e.kinds &&
		     memcmp(&again.epoch, &e.epoch, sizeof(e.epoch)) == 0 && same_intention(&again.intention, &e.intention) &&
		     strcmp(again.by, e.by) == 0,
	     "what was written is read as something else");
}

static void on_kv(void *arg, const struct etcd_kv *kv)
{
	must(strlen(kv->key) < LIMIT_CATALOGUE_KEY_SIZE, "a key is too long");
	must(!kv->gone || !kv->value, "what is gone has a value");
	must(!kv->value || (strlen(kv->value) == kv->size && kv->size < LIMIT_CATALOGUE_VALUE_SIZE), "a value is not one text");
	must(kv->mod_revision <= INT64_MAX, "a revision is out of range");
	if (kv->value)
		check_entry(kv->key, kv->value, kv->size);
}

static void read_range(const char *text, size_t size)
{
	struct etcd_page page = { .next_from = NULL };
	char *request;

	if (etcd_parse_range(&page, text, size, g_prefix, on_kv, NULL) < 0)
		return;
	must(page.header.cluster_id && page.header.revision, "a range is of no data");
	must(page.more == (page.next_from != NULL), "a page has no next");
	request = etcd_build_range(g_prefix, page.next_from ? page.next_from : "", 10, page.header.revision);
	must(request && strchr(request, '\n') == NULL, "no request");
	free(request);
	free(page.next_from);
}

static void read_watch(const char *text, size_t size)
{
	struct etcd_watch w = { .why = "" };

	if (etcd_parse_watch(&w, text, size, g_prefix, on_kv, NULL) == 0)
		must_be_line(w.why, sizeof(w.why));
}

static void read_small(const char *text, size_t size)
{
	char token[ETCD_TOKEN_SIZE], why[ETCD_WHY_SIZE];
	uint64_t lease = 0;
	int64_t ttl = -1;
	bool succeeded;

	if (etcd_parse_auth(token, text, size) == 0) {
		must_be_line(token, sizeof(token));
		must(token[0] && !strchr(token, ' '), "a token breaks a header");
	}
	if (etcd_parse_grant(&lease, text, size) == 0)
		must(lease != 0 && lease <= INT64_MAX, "a lease is none");
	if (etcd_parse_keepalive(&ttl, text, size) == 0)
		must(ttl >= 0, "a lease lasts negatively long");
	if (etcd_parse_txn(&succeeded, text, size) < 0)
		succeeded = false;
	must(etcd_judge(500, text, size, why) < ETCD_FAULT_N, "no judgement");
	must_be_line(why, sizeof(why));
	must(etcd_judge(0, text, size, why) < ETCD_FAULT_N, "no judgement");
	must_be_line(why, sizeof(why));
}

static void read_entry(const char *text, size_t size)
{
	const char *end = memchr(text, '\n', size);
	char key[1024];
	size_t n = end ? (size_t)(end - text) : size;

	if (n >= sizeof(key))
		return;
	memcpy(key, text, n);
	key[n] = '\0';
	if (end)
		check_entry(key, end + 1, size - n - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FREE(char) text = NULL;

	if (size == 0)
		return 0;
	/* Exactly the bytes there are: whoever reads beyond them is caught. */
	text = malloc(size > 1 ? size - 1 : 1);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	switch (data[0] % 4) {
	case 0:
		read_range(text, size - 1);
		break;
	case 1:
		read_watch(text, size - 1);
		break;
	case 2:
		read_small(text, size - 1);
		break;
	default:
		read_entry(text, size - 1);
	}
	return 0;
}
