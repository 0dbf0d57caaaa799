/* The signer, run for real under its own isolation; this file plays the broker and linkers. */
#include "daemon/test_warden.h"

#include "base/chan.h"
#include "base/isolate.h"
#include "core/sha256.h"
#include "daemon/roles.h"
#include "link/test_pki_util.h"
#include "wire/role.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static char g_state[64];
static pid_t g_signer;
static struct chan g_broker;
static uint32_t g_seq;

static void signer_begin(void)
{
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	g_signer = fork();
	assert_true(g_signer >= 0);
	if (g_signer == 0) {
		struct daemon_options o = { .state_dir = g_state };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		if (fds[1] != ROLE_CHANNEL_FD) {
			if (dup2(fds[1], ROLE_CHANNEL_FD) < 0)
				_exit(9);
			close(fds[1]);
		}
		_exit(signer_main(&o));
	}
	close(fds[1]);
	chan_init(&g_broker, fds[0]);
}

/* Return: how it ended. */
static int signer_end(void)
{
	int status;

	chan_close(&g_broker);
	assert_int_equal(waitpid(g_signer, &status, 0), g_signer);
	g_signer = 0;
	return status;
}

static void signer_kill(void)
{
	kill(g_signer, SIGKILL);
	signer_end();
}

static int setup(void **state)
{
	if (geteuid() != 0)
		return 0;
	test_dir(g_state);
	assert_int_equal(chown(g_state, 65534, 65534), 0); /* as the daemon has it */
	signer_begin();
	return 0;
}

static int teardown(void **state)
{
	if (geteuid() != 0)
		return 0;
	if (g_signer)
		assert_int_equal(signer_end(), 0); /* it goes with the broker, in order */
	test_dir_remove(g_state);
	return 0;
}

/* ------------------------------------------------------------------ what a broker says */

static struct role_signed answer_on(struct chan *c, uint32_t type, uint32_t seq, int *ret_fd)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	struct role_msg m;
	int fd = -1;

	assert_int_equal(poll(&p, 1, 60000), 1);
	assert_int_equal(role_recv(c, &m, &fd), 1);
	assert_int_equal(m.type, type);
	assert_int_equal(m.seq, seq);
	assert_int_equal(m.u.signed_.why[0] != '\0', m.u.signed_.error != 0); /* whoever is refused is told why */
	if (ret_fd)
		*ret_fd = fd;
	else
		assert_int_equal(fd, -1);
	return m.u.signed_;
}

static struct role_signed ask(struct role_msg *m, int fd, int *ret_fd)
{
	m->seq = ++g_seq;
	assert_int_equal(role_send(&g_broker, m, fd), 0);
	return answer_on(&g_broker, SB_REPLY, m->seq, ret_fd);
}

static struct role_signed ask_key(uint32_t kid, const char *name, bool fresh, int fd)
{
	struct role_msg m = { .type = BS_KEY, .u.key = { .kid = kid, .fresh = fresh } };

	assert_true(str_copy(m.u.key.name, sizeof(m.u.key.name), name));
	return ask(&m, fd, NULL);
}

static struct role_signed ask_sign(uint32_t kid, const uint8_t digest[32])
{
	struct role_msg m = { .type = BS_SIGN, .u.sign = { .kid = kid } };

	memcpy(m.u.sign.digest, digest, 32);
	return ask(&m, -1, NULL);
}

static void forget(uint32_t kid)
{
	struct role_msg m = { .type = BS_FORGET, .u.id.id = kid };

	assert_int_equal(role_send(&g_broker, &m, -1), 0);
}

static X509 *cert_of(int fd)
{
	STACK_OF(X509) *certs;
	char pem[8192];
	ssize_t n = pread(fd, pem, sizeof(pem), 0);
	X509 *x;

	assert_true(n > 0);
	assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	close(fd);
	assert_int_equal(pki_from_pem(&certs, pem, (size_t)n), 0);
	assert_int_equal(sk_X509_num(certs), 1);
	x = sk_X509_shift(certs);
	sk_X509_free(certs);
	return x;
}

static struct role_signed ask_ca_at(uint32_t slot, uint32_t make, const char *trust_domain, X509 **ret)
{
	struct role_msg m = { .type = BS_CA, .u.ca_key = { .make = make, .slot = slot } };
	struct role_signed r;
	int fd = -1;

	assert_true(str_copy(m.u.ca_key.trust_domain, sizeof(m.u.ca_key.trust_domain), trust_domain));
	r = ask(&m, -1, &fd);
	assert_int_equal(fd >= 0, r.error == 0);
	if (r.error == 0)
		*ret = cert_of(fd);
	return r;
}

static struct role_signed ask_ca(bool make, const char *trust_domain, X509 **ret)
{
	return ask_ca_at(0, make ? CA_MAKE_NEW : CA_MAKE_NOT, trust_domain, ret);
}

static struct role_signed ask_issue(const struct role_issue *i, X509 **ret)
{
	struct role_msg m = { .type = BS_ISSUE, .u.issue = *i };
	struct role_signed r;
	int fd = -1;

	r = ask(&m, -1, &fd);
	assert_int_equal(fd >= 0, r.error == 0);
	if (r.error == 0)
		*ret = cert_of(fd);
	return r;
}

static bool is_signed_by(const struct role_signed *s, const uint8_t public_key[KEY_POINT_SIZE], const uint8_t digest[32])
{
	EVP_PKEY *key;
	bool good;

	assert_int_equal(pki_public_key(&key, public_key), 0);
	good = pki_verify(key, digest, s->signature, s->signature_size) == 0;
	EVP_PKEY_free(key);
	return good;
}

static const uint8_t g_digest[32] = "0123456789abcdef0123456789abcde";

/* ------------------------------------------------------------------ keys */

static void test_keys(void **state)
{
	static const char *const bad[] = { "", ".", "..", "../x", "a/b", "/etc/x", "a.b.c.d", "a..b", ".a", "a.", "A", "a b", "ca", "-a", "host\n",
					   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
	struct role_signed host, again, fresh, r;
	struct stat st;
	char path[128];

	REQUIRE_ROOT();
	host = ask_key(0, "host", false, -1);
	assert_int_equal(host.error, 0);
	r = ask_sign(0, g_digest);
	assert_int_equal(r.error, 0);
	assert_true(is_signed_by(&r, host.public_key, g_digest));
	snprintf(path, sizeof(path), "%s/keys/host.key", g_state);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_uid, 0);
	snprintf(path, sizeof(path), "%s/keys", g_state);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);

	/* the same name is the same key, until a fresh one is asked for; the old one works under its kid */
	again = ask_key(1, "host", false, -1);
	assert_memory_equal(again.public_key, host.public_key, KEY_POINT_SIZE);
	fresh = ask_key(2, "host", true, -1);
	assert_memory_not_equal(fresh.public_key, host.public_key, KEY_POINT_SIZE);
	r = ask_sign(0, g_digest);
	assert_true(is_signed_by(&r, host.public_key, g_digest));
	r = ask_sign(2, g_digest);
	assert_true(is_signed_by(&r, fresh.public_key, g_digest));
	again = ask_key(3, "host", false, -1);
	assert_memory_equal(again.public_key, fresh.public_key, KEY_POINT_SIZE);
	forget(0);
	forget(0);
	forget(99);
	assert_int_equal(ask_sign(0, g_digest).error, -ENOKEY);
	assert_int_equal(ask_sign(1, g_digest).error, 0);

	/* a kid that is told again is another key */
	assert_int_equal(ask_key(1, "svc.default.web", false, -1).error, 0);
	r = ask_sign(1, g_digest);
	assert_false(is_signed_by(&r, host.public_key, g_digest));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (ask_key(7, bad[i], false, -1).error != -EINVAL)
			fail_msg("a key called \"%s\"", bad[i]);
	assert_int_equal(ask_sign(7, g_digest).error, -ENOKEY);
}

static void test_found_again(void **state)
{
	struct role_signed host, web, again;
	X509 *root, *same;

	REQUIRE_ROOT();
	host = ask_key(0, "host", false, -1);
	web = ask_key(1, "svc.default.web", false, -1);
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &root).error, 0);
	signer_kill();
	signer_begin();
	assert_int_equal(ask_sign(0, g_digest).error, -ENOKEY); /* the broker says which ones there are */
	again = ask_key(5, "svc.default.web", false, -1);
	assert_memory_equal(again.public_key, web.public_key, KEY_POINT_SIZE);
	again = ask_key(0, "host", false, -1);
	assert_memory_equal(again.public_key, host.public_key, KEY_POINT_SIZE);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &same).error, 0);
	assert_int_equal(X509_cmp(root, same), 0);
	X509_free(root);
	X509_free(same);
}

/* Killed while it writes, again and again: a key is there whole, or it is another one; never half of one. */
static void test_killed_while_writing(void **state)
{
	REQUIRE_ROOT();
	for (int i = 0; i < 20; i++) {
		struct role_msg m = { .type = BS_KEY, .u.key = { .kid = 1, .fresh = 1, .name = "host" } };

		for (int n = 0; n < 20; n++)
			assert_int_equal(role_send(&g_broker, &m, -1), 0);
		usleep((useconds_t)(i * 400));
		signer_kill();
		signer_begin();
		assert_int_equal(ask_key(0, "host", false, -1).error, 0);
	}
}

static int memfd_with(const char *text)
{
	int fd = memfd_create("key", MFD_CLOEXEC);

	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	return fd;
}

static struct role_signed ask_key_text(uint32_t kid, const char *name, const char *text)
{
	AUTO_FD fd = memfd_with(text);

	return ask_key(kid, name, false, fd);
}

/* Somebody else's key: used, and not stored. */
static void test_given_keys(void **state)
{
	EVP_PKEY *key, *p384 = EVP_EC_gen("P-384");
	uint8_t point[KEY_POINT_SIZE];
	struct role_signed r;
	char *pem, path[128], *big = malloc(LIMIT_CHAIN_SIZE + 2);
	int fds[2];

	REQUIRE_ROOT();
	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_point(point, key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	r = ask_key_text(4, "svc.default.web", pem);
	assert_int_equal(r.error, 0);
	assert_memory_equal(r.public_key, point, sizeof(point));
	r = ask_sign(4, g_digest);
	assert_true(is_signed_by(&r, point, g_digest));
	snprintf(path, sizeof(path), "%s/keys/svc.default.web.key", g_state);
	assert_int_equal(access(path, F_OK), -1);
	free(pem);

	assert_int_equal(pki_key_to_pem(&pem, p384), 0);
	assert_int_equal(ask_key_text(5, "x", pem).error, -EINVAL);
	assert_int_equal(ask_key_text(5, "x", "no key").error, -EBADMSG);
	assert_int_equal(ask_key_text(5, "x", "").error, -EBADMSG);
	memset(big, '\n', LIMIT_CHAIN_SIZE + 1);
	big[LIMIT_CHAIN_SIZE + 1] = '\0';
	assert_int_equal(ask_key_text(5, "x", big).error, -EFBIG);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(ask_key(5, "x", false, fds[0]).error, -EPERM); /* which would have no end */
	assert_int_equal(ask_sign(5, g_digest).error, -ENOKEY);
	close(fds[0]);
	close(fds[1]);
	free(big);
	free(pem);
	EVP_PKEY_free(key);
	EVP_PKEY_free(p384);
}

/* Some at a time, so that the two processes need not take turns for each. */
static void fill_table(int fd)
{
	enum { AT_A_TIME = 64 };

	for (uint32_t kid = 0; kid < LIMIT_KEYS; kid += AT_A_TIME) {
		uint32_t end = kid + AT_A_TIME < LIMIT_KEYS ? kid + AT_A_TIME : LIMIT_KEYS;

		for (uint32_t k = kid; k < end; k++) {
			struct role_msg m = { .type = BS_KEY, .seq = k, .u.key = { .kid = k, .name = "x" } };

			assert_int_equal(role_send(&g_broker, &m, fd), 0);
		}
		for (uint32_t k = kid; k < end; k++, (void)!chan_flush(&g_broker))
			assert_int_equal(answer_on(&g_broker, SB_REPLY, k, NULL).error, 0);
	}
}

/* As many as the limit says, and not one more. */
static void test_many_keys(void **state)
{
	AUTO_FD fd = -1;
	EVP_PKEY *key;
	char *pem;

	REQUIRE_ROOT();
	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	fd = memfd_with(pem);
	fill_table(fd);
	assert_int_equal(ask_key(LIMIT_KEYS, "x", false, fd).error, -EDQUOT);
	assert_int_equal(ask_key(3, "x", false, fd).error, 0);
	assert_int_equal(ask_sign(LIMIT_KEYS - 1, g_digest).error, 0);
	forget(0);
	assert_int_equal(ask_key(LIMIT_KEYS, "x", false, fd).error, 0);
	free(pem);
	EVP_PKEY_free(key);
}

/* ------------------------------------------------------------------ files that are not as they should be */

static void put_file(const char *name, const char *text, mode_t mode)
{
	char path[128];
	AUTO_FD fd = -1;

	snprintf(path, sizeof(path), "%s/keys/%s", g_state, name);
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void test_damaged_files(void **state)
{
	struct role_signed r;
	char path[128], before[64] = "", *pem;
	EVP_PKEY *key;
	AUTO_FD fd = -1;

	REQUIRE_ROOT();
	assert_int_equal(ask_key(1, "svc.default.web", false, -1).error, 0); /* now the directory is there */
	put_file("host.key", "not a key", 0600);
	r = ask_key(0, "host", false, -1);
	assert_int_equal(r.error, -EBADMSG);
	assert_non_null(strstr(r.why, "keys/host.key"));
	snprintf(path, sizeof(path), "%s/keys/host.key", g_state);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, before, sizeof(before)), 9); /* it is not written over */
	assert_string_equal(before, "not a key");

	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	put_file("host.key", pem, 0640);
	assert_int_equal(ask_key(0, "host", false, -1).error, -EPERM);
	put_file("host.key", pem, 0600);
	assert_int_equal(ask_key(0, "host", false, -1).error, 0);
	assert_int_equal(chown(path, 65534, 65534), 0);
	r = ask_key(0, "host", false, -1);
	assert_true(r.error == -EPERM || r.error == -EACCES);
	assert_non_null(strstr(r.why, "must belong to root"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(ask_key(0, "host", false, -1).error, -EPERM);
	put_file("svc.default.db.key.new", "half of a k", 0600); /* what one who was killed leaves behind */
	assert_int_equal(ask_key(2, "svc.default.db", false, -1).error, 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(ask_key(0, "host", false, -1).error, -EPERM);
	free(pem);
	EVP_PKEY_free(key);
}

/* The broker owns STATE, and may put another directory there. It is not used, and that is told. */
static void test_directory_of_another(void **state)
{
	struct role_signed r;
	EVP_PKEY *key;
	char path[128], *pem;

	REQUIRE_ROOT();
	assert_int_equal(ask_sign(0, g_digest).error, -ENOKEY); /* now the directory is there */
	signer_end();
	snprintf(path, sizeof(path), "%s/keys", g_state);
	assert_int_equal(chown(path, 65534, 65534), 0);
	signer_begin();
	r = ask_key(0, "host", false, -1);
	assert_int_equal(r.error, -EPERM);
	assert_non_null(strstr(r.why, "must belong to root"));
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, NULL).error, -EPERM);
	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	assert_int_equal(ask_key_text(1, "host", pem).error, 0); /* what needs no directory goes on */
	free(pem);
	EVP_PKEY_free(key);

	signer_end();
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("/etc", path), 0);
	signer_begin();
	assert_int_equal(ask_key(0, "host", false, -1).error, -ENOTDIR);
	assert_int_equal(unlink(path), 0);
}

/* A small file system of this test's own, seen by nobody else. Return: false: this machine does not let us. */
static bool mount_small(void)
{
	static bool apart;
	char path[128];

	if (!apart && unshare(CLONE_NEWNS) < 0)
		return false;
	apart = true;
	snprintf(path, sizeof(path), "%s/keys", g_state);
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("tmpfs", path, "tmpfs", 0, "size=8k,mode=0700") == 0;
}

static void test_full_and_read_only(void **state)
{
	struct role_signed before, r;
	char path[128], fill[9000] = "";
	X509 *root = NULL;

	REQUIRE_ROOT();
	assert_int_equal(ask_sign(0, g_digest).error, -ENOKEY);
	signer_end();
	if (!mount_small()) {
		print_message("cannot mount here\n");
		signer_begin();
		skip();
	}
	signer_begin();
	before = ask_key(0, "host", false, -1);
	assert_int_equal(before.error, 0);
	memset(fill, 'x', 4096);
	put_file("fill", fill, 0600);
	r = ask_key(1, "svc.default.web", false, -1);
	assert_int_equal(r.error, -ENOSPC);
	assert_non_null(strstr(r.why, "keys/svc.default.web.key"));
	assert_non_null(strstr(r.why, "make room"));
	assert_int_equal(ask_key(1, "host", true, -1).error, -ENOSPC);
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &root).error, -ENOSPC);
	assert_int_equal(ask_sign(1, g_digest).error, -ENOKEY); /* not even in memory */
	snprintf(path, sizeof(path), "%s/keys/host.key.new", g_state);
	assert_int_equal(access(path, F_OK), -1);
	r = ask_key(2, "host", false, -1);
	assert_memory_equal(r.public_key, before.public_key, KEY_POINT_SIZE);
	snprintf(path, sizeof(path), "%s/keys/fill", g_state);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(ask_key(1, "svc.default.web", false, -1).error, 0);

	snprintf(path, sizeof(path), "%s/keys", g_state);
	assert_int_equal(mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	r = ask_key(3, "host", true, -1);
	assert_int_equal(r.error, -EROFS);
	assert_non_null(strstr(r.why, "read-only"));
	assert_int_equal(ask_key(3, "host", false, -1).error, 0);
	signer_end();
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

/* ------------------------------------------------------------------ the authority */

static struct role_issue issue_for(EVP_PKEY *key, const char *id)
{
	struct role_issue i = { .not_before = time(NULL) - 300, .not_after = time(NULL) + 3600, .serial = { 1, 2, 3 }, .proven = "proven" };
	int n;

	assert_true(str_copy(i.spiffe_id, sizeof(i.spiffe_id), id));
	assert_int_equal(pki_point(i.public_key, key), 0);
	n = pki_sign(i.proof, key, i.proven);
	assert_true(n > 0);
	i.proof_size = (uint8_t)n;
	return i;
}

static void test_authority(void **state)
{
	const char *id = "spiffe://example.org/ns/default/svc/web";
	struct role_issue i;
	struct pki_identity who;
	X509 *root = NULL, *x = NULL, *again = NULL;
	struct role_signed r;
	EVP_PKEY *key;
	char why[128];

	REQUIRE_ROOT();
	assert_int_equal(pki_new_key(&key), 0);
	i = issue_for(key, id);
	assert_int_equal(ask_issue(&i, &x).error, -ENOENT);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &root).error, -ENOENT);
	assert_int_equal(ask_ca(true, "Not.A.Domain", &root).error, -EINVAL);
	r = ask_ca(true, TEST_TRUST_DOMAIN, &root);
	assert_int_equal(r.error, 0);
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &again).error, -EEXIST);
	assert_int_equal(ask_ca(false, "example.com", &again).error, -EINVAL);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &again).error, 0);
	assert_int_equal(X509_cmp(root, again), 0);

	assert_int_equal(ask_issue(&i, &x).error, 0);
	assert_int_equal(X509_verify(x, X509_get0_pubkey(root)), 1);
	assert_int_equal(pki_identity(&who, x, TEST_TRUST_DOMAIN, why, sizeof(why)), 0);
	assert_string_equal(who.spiffe_id, id);
	assert_string_equal(who.serial, "01020300000000000000000000000000");
	assert_int_equal(who.not_before, i.not_before);
	assert_int_equal(who.not_after, i.not_after);
	assert_int_equal(ask_sign(0, g_digest).error, -ENOKEY); /* the root's key is nobody's to sign with */
	assert_int_equal(ask_sign(ROLE_NO_ID, g_digest).error, -ENOKEY);
	X509_free(x);
	X509_free(root);
	X509_free(again);
	EVP_PKEY_free(key);
}

/* While one root takes another's place there are two, and each signs what it is asked to. */
static void test_two_roots(void **state)
{
	struct role_msg list = { .type = BS_SIGN_LIST, .u.sign.kid = 1 };
	X509 *first = NULL, *second = NULL, *third = NULL, *x = NULL;
	uint8_t labelled[SHA256_SIZE], point[KEY_POINT_SIZE];
	struct role_signed r;
	struct role_issue i;
	EVP_PKEY *key;

	REQUIRE_ROOT();
	assert_int_equal(pki_new_key(&key), 0);
	i = issue_for(key, "spiffe://example.org/host/a");
	i.slot = 1;
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &first).error, 0);
	assert_int_equal(ask_ca_at(1, CA_MAKE_NOT, TEST_TRUST_DOMAIN, &second).error, -ENOENT);
	assert_int_equal(ask_issue(&i, &x).error, -ENOENT);
	assert_int_equal(ask(&list, -1, NULL).error, -ENOENT);
	assert_int_equal(ask_ca_at(1, CA_MAKE_ANEW, TEST_TRUST_DOMAIN, &second).error, 0);
	assert_int_equal(ask_issue(&i, &x).error, 0);
	assert_int_equal(X509_verify(x, X509_get0_pubkey(second)), 1);
	assert_int_not_equal(X509_verify(x, X509_get0_pubkey(first)), 1);
	X509_free(x);
	i.slot = 0;
	assert_int_equal(ask_issue(&i, &x).error, 0);
	assert_int_equal(X509_verify(x, X509_get0_pubkey(first)), 1);
	X509_free(x);
	memcpy(list.u.sign.digest, g_digest, sizeof(g_digest));
	r = ask(&list, -1, NULL);
	sha256_labelled(labelled, "sealane ca list v1", g_digest, sizeof(g_digest));
	assert_int_equal(pki_point(point, X509_get0_pubkey(second)), 0);
	assert_true(is_signed_by(&r, point, labelled));
	/* Both are found again; made anew it is another one, and the first stays as it was. */
	signer_kill();
	signer_begin();
	assert_int_equal(ask_ca_at(1, CA_MAKE_NOT, TEST_TRUST_DOMAIN, &third).error, 0);
	assert_int_equal(X509_cmp(second, third), 0);
	X509_free(third);
	assert_int_equal(ask_ca_at(1, CA_MAKE_ANEW, TEST_TRUST_DOMAIN, &third).error, 0);
	assert_int_not_equal(X509_cmp(second, third), 0);
	X509_free(third);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &third).error, 0);
	assert_int_equal(X509_cmp(first, third), 0);
	assert_int_equal(ask_key(1, "ca1", false, -1).error, -EINVAL);
	X509_free(first);
	X509_free(second);
	X509_free(third);
	ERR_clear_error();
	EVP_PKEY_free(key);
}

static void test_not_issued(void **state)
{
	struct role_issue good, i;
	X509 *root, *x = NULL;
	EVP_PKEY *key, *other;

	REQUIRE_ROOT();
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &root).error, 0);
	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_new_key(&other), 0);
	good = issue_for(key, "spiffe://example.org/host/a");

	i = good;
	assert_int_equal(pki_point(i.public_key, other), 0); /* somebody else's key, with one's own proof */
	assert_int_equal(ask_issue(&i, &x).error, -EKEYREJECTED);
	i = good;
	i.proven[0] ^= 1; /* the proof of another session */
	assert_int_equal(ask_issue(&i, &x).error, -EKEYREJECTED);
	i = good;
	i.proof_size--;
	assert_int_equal(ask_issue(&i, &x).error, -EKEYREJECTED);
	i = good;
	i.public_key[64] ^= 1;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i = good;
	i.not_after = i.not_before;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i.not_after = i.not_before + LIMIT_SVID_LIFE_S + 1;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i.not_before = -1;
	i.not_after = 5;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i.not_before = INT64_MIN;
	i.not_after = INT64_MAX;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i.not_before = INT64_MAX - 1;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i = good;
	memset(i.serial, 0, sizeof(i.serial));
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i.serial[0] = 0x80;
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	i = good;
	assert_true(str_copy(i.spiffe_id, sizeof(i.spiffe_id), "spiffe://example.com/host/a"));
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);
	assert_true(str_copy(i.spiffe_id, sizeof(i.spiffe_id), "spiffe://example.org"));
	assert_int_equal(ask_issue(&i, &x).error, -EINVAL);

	i = good;
	i.proof_size = 0; /* this host's own: the broker asks for no proof */
	i.not_after = i.not_before + LIMIT_SVID_LIFE_S;
	assert_int_equal(ask_issue(&i, &x).error, 0);
	X509_free(x);
	X509_free(root);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

/* The two files of an authority, one of them missing or another's. */
static void test_half_an_authority(void **state)
{
	char path[128], aside[128];
	struct role_signed r;
	X509 *root, *x = NULL;
	EVP_PKEY *key;
	char *pem;

	REQUIRE_ROOT();
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &root).error, 0);
	snprintf(path, sizeof(path), "%s/keys/ca.key", g_state);
	snprintf(aside, sizeof(aside), "%s/keys/ca.key.aside", g_state);
	assert_int_equal(rename(path, aside), 0);
	r = ask_ca(false, TEST_TRUST_DOMAIN, &x);
	assert_int_equal(r.error, -ENOENT);
	assert_non_null(strstr(r.why, "keys/ca.key is gone"));
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &x).error, -EEXIST);
	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	put_file("ca.key", pem, 0600);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &x).error, -EKEYREJECTED);
	assert_int_equal(rename(aside, path), 0);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &x).error, 0);
	X509_free(x);

	/* a key without a certificate is no authority; what makes it one does not lose the key */
	snprintf(aside, sizeof(aside), "%s/keys/ca.crt", g_state);
	assert_int_equal(unlink(aside), 0);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &x).error, -ENOENT);
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &x).error, 0);
	assert_int_equal(X509_verify(root, X509_get0_pubkey(x)), 1);
	X509_free(x);
	X509_free(root);
	put_file("ca.crt", "no certificate", 0600);
	assert_int_equal(ask_ca(false, TEST_TRUST_DOMAIN, &x).error, -EBADMSG);
	free(pem);
	EVP_PKEY_free(key);
}

static struct role_signed ask_verify(const uint8_t point[KEY_POINT_SIZE], const struct role_signed *by, size_t size)
{
	struct role_msg m = { .type = BS_VERIFY, .u.verify.signature_size = (uint8_t)size };

	memcpy(m.u.verify.public_key, point, KEY_POINT_SIZE);
	memcpy(m.u.verify.digest, g_digest, sizeof(g_digest));
	memcpy(m.u.verify.signature, by->signature, sizeof(m.u.verify.signature));
	return ask(&m, -1, NULL);
}

static void test_verify(void **state)
{
	struct role_signed key, other, r;
	uint8_t point[KEY_POINT_SIZE];

	REQUIRE_ROOT();
	key = ask_key(1, "host0", false, -1);
	other = ask_key(2, "host1", false, -1);
	r = ask_sign(1, g_digest);
	assert_int_equal(ask_verify(key.public_key, &r, r.signature_size).error, 0);
	assert_int_equal(ask_verify(other.public_key, &r, r.signature_size).error, -EKEYREJECTED);
	assert_int_equal(ask_verify(key.public_key, &r, r.signature_size - 1).error, -EKEYREJECTED);
	assert_int_equal(ask_verify(key.public_key, &r, 0).error, -EKEYREJECTED);
	r.signature[10] ^= 1;
	assert_int_equal(ask_verify(key.public_key, &r, r.signature_size).error, -EKEYREJECTED);
	memcpy(point, key.public_key, sizeof(point));
	point[64] ^= 1;
	assert_int_equal(ask_verify(point, &r, r.signature_size).error, -EINVAL);
}

/* What the root signs beside certificates has a label before it, whatever the broker gives. */
static void test_sign_list(void **state)
{
	struct role_msg m = { .type = BS_SIGN_LIST };
	uint8_t labelled[SHA256_SIZE], point[KEY_POINT_SIZE];
	struct role_signed r;
	X509 *root;

	REQUIRE_ROOT();
	memcpy(m.u.sign.digest, g_digest, sizeof(g_digest));
	assert_int_equal(ask(&m, -1, NULL).error, -ENOENT);
	assert_int_equal(ask_ca(true, TEST_TRUST_DOMAIN, &root).error, 0);
	r = ask(&m, -1, NULL);
	assert_int_equal(r.error, 0);
	assert_int_equal(pki_point(point, X509_get0_pubkey(root)), 0);
	assert_false(is_signed_by(&r, point, g_digest));
	sha256_labelled(labelled, "sealane ca list v1", g_digest, sizeof(g_digest));
	assert_true(is_signed_by(&r, point, labelled));
	X509_free(root);
}

/* ------------------------------------------------------------------ linkers */

static void linker_begin(struct chan *c, uint32_t index)
{
	struct role_msg m = { .type = BS_LINKER, .u.id.id = index };
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	assert_int_equal(role_send(&g_broker, &m, fds[1]), 0);
	close(fds[1]);
	chan_init(c, fds[0]);
}

static void linker_ask(struct chan *c, uint32_t kid, uint32_t seq)
{
	struct role_msg m = { .type = LS_SIGN, .seq = seq, .u.sign = { .kid = kid } };

	memcpy(m.u.sign.digest, g_digest, 32);
	assert_int_equal(role_send(c, &m, -1), 0);
}

static void expect_closed(struct chan *c)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	struct role_msg m;
	int fd, r;

	assert_int_equal(poll(&p, 1, 20000), 1);
	r = role_recv(c, &m, &fd);
	assert_true(r == 0 || r == -ECONNRESET);
	chan_close(c);
}

static void test_linkers(void **state)
{
	struct chan linkers[LIMIT_LINKERS], successor;
	struct role_msg wrong = { .type = LS_SIGN };
	struct role_signed host, r;

	REQUIRE_ROOT();
	host = ask_key(0, "host", false, -1);
	for (uint32_t i = 0; i < LIMIT_LINKERS; i++)
		linker_begin(&linkers[i], i);
	for (uint32_t n = 0; n < 5; n++)
		for (uint32_t i = 0; i < LIMIT_LINKERS; i++)
			linker_ask(&linkers[i], 0, 100 * i + n);
	for (uint32_t i = 0; i < LIMIT_LINKERS; i++) {
		for (uint32_t n = 0; n < 5; n++) {
			r = answer_on(&linkers[i], SL_SIGNED, 100 * i + n, NULL);
			assert_int_equal(r.error, 0);
			assert_true(is_signed_by(&r, host.public_key, g_digest));
		}
	}
	linker_ask(&linkers[3], 77, 9);
	assert_int_equal(answer_on(&linkers[3], SL_SIGNED, 9, NULL).error, -ENOKEY);

	/* what no linker says costs it its channel, and nobody else theirs */
	wrong.type = BS_SIGN;
	assert_int_equal(role_send(&linkers[0], &wrong, -1), 0);
	expect_closed(&linkers[0]);
	assert_int_equal(chan_send(&linkers[1], "x", 1, -1), 0);
	expect_closed(&linkers[1]);
	linker_begin(&successor, 2); /* the earlier one is over */
	expect_closed(&linkers[2]);
	linker_ask(&successor, 0, 4);
	assert_int_equal(answer_on(&successor, SL_SIGNED, 4, NULL).error, 0);
	linker_ask(&linkers[3], 0, 10);
	assert_int_equal(answer_on(&linkers[3], SL_SIGNED, 10, NULL).error, 0);
	chan_close(&successor);
	for (uint32_t i = 3; i < LIMIT_LINKERS; i++)
		chan_close(&linkers[i]);
	assert_int_equal(ask_sign(0, g_digest).error, 0);
}

/* The key of this host's questions to its authority: the broker's to sign with, and no linker's. */
static void test_apart(void **state)
{
	struct role_msg m = { .type = BS_KEY, .u.key = { .kid = 5, .apart = 1, .name = "ask" } };
	struct role_signed key, r;
	struct chan c;

	REQUIRE_ROOT();
	key = ask(&m, -1, NULL);
	assert_int_equal(key.error, 0);
	linker_begin(&c, 0);
	linker_ask(&c, 5, 1);
	r = answer_on(&c, SL_SIGNED, 1, NULL);
	assert_int_equal(r.error, -ENOKEY);
	assert_int_equal(r.signature_size, 0);
	r = ask_sign(5, g_digest);
	assert_true(is_signed_by(&r, key.public_key, g_digest));
	/* Its number with another key, and the other way round. */
	assert_int_equal(ask_key(5, "host0", false, -1).error, 0);
	linker_ask(&c, 5, 2);
	assert_int_equal(answer_on(&c, SL_SIGNED, 2, NULL).error, 0);
	assert_int_equal(ask(&m, -1, NULL).error, 0);
	linker_ask(&c, 5, 3);
	assert_int_equal(answer_on(&c, SL_SIGNED, 3, NULL).error, -ENOKEY);
	chan_close(&c);
}

/* One that asks and never reads the answers: the others and the broker are served, and its questions wait with it. */
static void test_greedy_linker(void **state)
{
	enum { N = 20000 };
	struct chan greedy, other;

	REQUIRE_ROOT();
	assert_int_equal(ask_key(0, "host", false, -1).error, 0);
	linker_begin(&greedy, 0);
	linker_begin(&other, 1);
	for (uint32_t n = 0; n < N; n++)
		linker_ask(&greedy, 0, n);
	for (uint32_t n = 0; n < 20; n++) {
		linker_ask(&other, 0, n);
		assert_int_equal(answer_on(&other, SL_SIGNED, n, NULL).error, 0);
		assert_int_equal(ask_sign(0, g_digest).error, 0);
	}
	assert_true(chan_wants_write(&greedy)); /* it was not read from without end */
	for (uint32_t n = 0; n < 1000; n++) {	/* and gets its answers when it takes them */
		assert_int_equal(chan_flush(&greedy), 0);
		assert_int_equal(answer_on(&greedy, SL_SIGNED, n, NULL).error, 0);
	}
	chan_close(&greedy);
	chan_close(&other);
}

/* ------------------------------------------------------------------ what it is shut into */

static bool status_has(const char *key, const char *value)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", g_signer);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			found = strncmp(line + strlen(key) + strspn(line + strlen(key), " \t"), value, strlen(value)) == 0;
	fclose(f);
	return found;
}

/* In a child: 0 if @path cannot be opened, for lack of rights. */
static int is_closed_to(bool (*become)(void), const char *path)
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		if (!become())
			_exit(2);
		_exit(open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static bool become_user(void)
{
	return setgid(65534) == 0 && setuid(65534) == 0;
}

/* As another role that stays root: the keeper. */
static bool become_capless(void)
{
	return isolate_caps(NULL, 0) == 0;
}

static void test_isolation(void **state)
{
	char path[128];

	REQUIRE_ROOT();
	assert_int_equal(ask_key(0, "host", false, -1).error, 0);
	assert_true(status_has("CapEff:", "0000000000000000"));
	assert_true(status_has("CapPrm:", "0000000000000000"));
	assert_true(status_has("CapBnd:", "0000000000000000"));
	assert_true(status_has("NoNewPrivs:", "1"));
	assert_true(status_has("Seccomp:", "2"));
	snprintf(path, sizeof(path), "%s/keys/host.key", g_state);
	assert_int_equal(is_closed_to(become_user, path), 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", g_signer);
	assert_int_equal(is_closed_to(become_user, path), 0);
	assert_int_equal(is_closed_to(become_capless, path), 0); /* not even by its own user */
}

static void test_bad_broker(void **state)
{
	struct role_msg m = { .type = BG_STATS };
	int status;

	REQUIRE_ROOT();
	assert_int_equal(role_send(&g_broker, &m, -1), 0);
	status = signer_end();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	signer_begin();
	m = (struct role_msg){ .type = BS_LINKER, .u.id.id = LIMIT_LINKERS };
	assert_int_equal(role_send(&g_broker, &m, -1), 0);
	status = signer_end();
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_keys), TEST(test_found_again), TEST(test_killed_while_writing), TEST(test_given_keys), TEST(test_many_keys),
		TEST(test_damaged_files), TEST(test_directory_of_another), TEST(test_authority), TEST(test_two_roots), TEST(test_not_issued),
		TEST(test_half_an_authority), TEST(test_verify), TEST(test_sign_list), TEST(test_linkers), TEST(test_apart), TEST(test_greedy_linker), TEST(test_isolation), TEST(test_bad_broker),
		TEST(test_full_and_read_only),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("signer", tests, NULL, NULL);
}
