/*
 * Theory of operation: `certificates = DIR`: others put keys and certificates there (SPIRE, Vault, a script). The warden opens the files
 * (BW_CERTIFICATES, then WB_FILE for each); .key files go on to the signer as they are, unread; .crt and .pem are read here. Looked at
 * at the start, on reload and every minute. What has not changed is left alone, so a look costs no new key.
 *
 *   roots.pem                the roots
 *   host.crt, host.key       this host's
 *   NS.NAME.crt, NS.NAME.key a service's
 *
 * Whoever replaces a pair does it in two steps; when the key and the certificate do not belong together, the old pair stays in use,
 * and the next look sees more.
 *
 * Before it: the warden. After it: the signer (keys), broker_ca.c (certificates).
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include <stdio.h>

enum { LOOK_EVERY_MS = 60 * 1000 };

/* A pair as it was found in this look. */
struct found {
	char name[LIMIT_SERVICE_SIZE]; /* "host", "ns/name" */
	char *pem;		       /* owned */
	int key_fd;		       /* owned; -1 */
	UT_hash_handle hh;
};

static struct {
	bool looking;
	uint64_t due_ns;
	struct found *found;
	char *roots; /* owned */
	char told[256]; /* the last failure that was logged */
} g_files;

static void forget(void)
{
	struct found *f, *tmp;

	HASH_ITER(hh, g_files.found, f, tmp) {
		HASH_DEL(g_files.found, f);
		fd_cleanup(&f->key_fd);
		free(f->pem);
		free(f);
	}
	free(take_ptr(g_files.roots));
}

static void complain(const char *why)
{
	if (strcmp(g_files.told, why) == 0)
		return;
	snprintf(g_files.told, sizeof(g_files.told), "%s", why);
	log_error("certificate.files", LOG_STR("why", why), LOG_STR("then", "what was read before stays in use; looked at again every minute"));
}

/* "ns.name.crt" or "host.key". Return: the credential's name in @ret of LIMIT_SERVICE_SIZE, and if it is a key; false: not one of ours. */
static bool read_name(const char *file, char *ret, bool *ret_is_key)
{
	size_t n = strlen(file);
	char text[LIMIT_PATH_SIZE], *dot;
	struct service_name s;

	if (n < 5 || n >= sizeof(text) || (strcmp(file + n - 4, ".crt") != 0 && strcmp(file + n - 4, ".key") != 0))
		return false;
	*ret_is_key = file[n - 3] == 'k';
	memcpy(text, file, n - 4);
	text[n - 4] = '\0';
	if (strcmp(text, "host") == 0)
		return str_copy(ret, LIMIT_SERVICE_SIZE, text);
	dot = strchr(text, '.');
	if (!dot)
		return false;
	*dot = '/';
	if (service_name_parse(&s, text, NULL) < 0)
		return false;
	service_name_format(ret, &s);
	return true;
}

static struct found *find_or_make(const char *name)
{
	struct found *f;

	HASH_FIND_STR(g_files.found, name, f);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	memcpy(f->name, name, strlen(name) + 1);
	f->key_fd = -1;
	HASH_ADD_STR(g_files.found, name, f);
	return f;
}

void files_on_file(struct broker *b, const char *file, int *fd)
{
	char name[LIMIT_SERVICE_SIZE];
	struct found *f;
	bool is_key;
	size_t size;

	if (!g_files.looking)
		return;
	if (strcmp(file, "roots.pem") == 0) {
		free(g_files.roots);
		g_files.roots = ca_read_fd(*fd, LIMIT_CHAIN_SIZE - 1, &size);
		return;
	}
	if (!read_name(file, name, &is_key) || !ca_find(name) || !(f = find_or_make(name)))
		return;
	if (is_key) {
		fd_cleanup(&f->key_fd);
		f->key_fd = take_fd(fd);
	} else {
		free(f->pem);
		f->pem = ca_read_fd(*fd, LIMIT_CHAIN_SIZE - 1, &size);
	}
}

static void on_key(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct found *f = arg;
	struct credential *c = ca_find(f->name);

	fd_cleanup(&fd);
	if (c && c->renewing && r->error) {
		ca_failed(b, c, CA_FILES, r->why[0] ? r->why : "the signer does not take its .key file");
	} else if (c && c->renewing) {
		memcpy(c->next.svid.point, r->public_key, KEY_POINT_SIZE);
		(void)ca_take(b, c, f->pem); /* a failure is told there; the next look tries again */
	}
	free(f->pem);
	free(f);
}

static void take_pair(struct broker *b, const struct found *from)
{
	struct role_msg m = { .type = BS_KEY };
	struct credential *c = ca_find(from->name);
	struct found *f;

	if (!c || c->renewing || (c->now.pem && c->now.loaded && strcmp(c->now.pem, from->pem) == 0))
		return;
	f = calloc(1, sizeof(*f));
	if (!f || !(f->pem = strdup(from->pem))) {
		free(f);
		return;
	}
	memcpy(f->name, from->name, sizeof(f->name));
	c->renewing = true;
	c->next = CA_NO_PAIR;
	c->next.kid = ca_new_kid();
	c->next.key_fd = dup(from->key_fd); /* a copy for the kid that linkers know */
	m.u.key.kid = c->next.kid;
	snprintf(m.u.key.name, sizeof(m.u.key.name), "%s.key", c->name);
	signer_ask(b, &m, from->key_fd, on_key, f);
}

static void tell_missing(struct broker *b)
{
	struct credential *c, *tmp;
	struct found *f;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		HASH_FIND_STR(g_files.found, c->name, f);
		if (c->renewing || c->now.loaded || (f && f->pem && f->key_fd >= 0))
			continue;
		ca_failed(b, c, CA_FILES, !f ? "its .crt and .key are not in the directory that `certificates` names" :
					  !f->pem ? "its .crt is missing there, or cannot be read" : "its .key is missing there");
	}
}

static void take_roots(struct broker *b)
{
	if (g_ca.roots_pem && strcmp(g_ca.roots_pem, g_files.roots) == 0)
		return;
	free(g_ca.roots_pem);
	g_ca.roots_pem = take_ptr(g_files.roots);
	ca_tell_trust(b);
}

static void on_looked(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct found *f, *tmp;
	struct svid root;

	fd_cleanup(&fd);
	g_files.looking = false;
	if (!g_ca.external) {
		forget();
		return;
	}
	if (reply->error)
		complain(reply->why[0] ? reply->why : log_errno_name(reply->error));
	else if (!g_files.roots || svid_read(&root, g_files.roots, strlen(g_files.roots)) < 0)
		complain("roots.pem is missing there, or holds no certificate");
	else
		g_files.told[0] = '\0';
	if (reply->error == 0 && !g_files.told[0]) {
		take_roots(b);
		HASH_ITER(hh, g_files.found, f, tmp)
			if (f->pem && f->key_fd >= 0)
				take_pair(b, f);
		tell_missing(b);
	}
	forget();
}

void files_apply(struct broker *b)
{
	struct role_msg m = { .type = BW_CERTIFICATES };

	g_files.due_ns = clock_ns() + (uint64_t)LOOK_EVERY_MS * 1000000;
	if (g_files.looking || !signer_is_up())
		return;
	if (!str_copy(m.u.store.name, sizeof(m.u.store.name), b->config->link.certificates)) {
		complain("the path in `certificates` is too long");
		return;
	}
	g_files.looking = true;
	broker_ask(b, &m, -1, on_looked, NULL);
}

unsigned files_tick(struct broker *b)
{
	if (clock_ns() >= g_files.due_ns)
		files_apply(b);
	return LOOK_EVERY_MS / 10;
}
