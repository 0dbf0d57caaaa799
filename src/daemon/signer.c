/*
 * Theory of operation: the process that has the private keys: this host's, its services', and the authority's where this host is
 * one. The broker says which keys there are and what is to be certified (BS_*); linkers, which speak with other hosts, have
 * handshakes signed (LS_SIGN). Nothing leaves it but public keys, signatures and certificates.
 *
 * From a network it sees, through those two, digests, curve points, proofs and signatures, each of a fixed size, and a SPIFFE ID, which
 * is parsed again here. It decides nothing but what no broker may ask for: a certificate outside the authority's trust domain, for
 * longer than LIMIT_SVID_LIFE_S, or for a key whose holder gave no valid proof; and a signature of the root that could be taken for
 * another certificate: what else the root signs stands behind a label that is put there here (BS_SIGN_LIST).
 *
 *   key       of a kid: what linkers may have signed with. A new key for the kid takes the old one's place. The authority's key
 *             has no kid, so no linker and no BS_SIGN can ever reach it. While a new root takes an old one's place there are two,
 *             each in a slot of its own; which one signs is the broker's to say.
 *   apart     a key of a kid that linkers cannot reach either: this host's questions to its authority are signed by it, so that a
 *             linker which was taken over cannot ask in this host's name.
 *   stored    a key that is ours lies in STATE/keys under the name the broker gave, before anybody hears of it. A key that came
 *             with a descriptor is somebody else's file and is not stored.
 *
 * It stays root, so that no other process of the daemon can read the files, but without capabilities, with no path but
 * STATE/keys (Landlock), unable to make a socket or start a program, and its memory can neither be dumped nor traced. It must
 * never connect, log anything of a key, or write over a file that it could not read.
 *
 * One poll loop. A signature takes some 30 us, so each channel has a few messages a turn, and one whose answers are not
 * taken is not read from: a linker cannot keep the others waiting.
 *
 * Before this on a handshake's way: the linker's remote key. On a certificate's: the broker, link/pki.c. After it: nobody.
 */
#include "base/chan.h"
#include "base/foreign.h"
#include "base/isolate.h"
#include "base/log.h"
#include "core/name.h"
#include "core/sha256.h"
#include "daemon/roles.h"
#include "daemon/signer_files.h"
#include "link/pki.h"
#include "wire/role.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <uthash.h>

enum {
	/* Messages of one linker in a turn: half a millisecond of signatures. The broker's may each wait for a disk. */
	MESSAGES_PER_TURN = 16,
	BROKER_MESSAGES_PER_TURN = 4,
	/* Where OpenSSL keeps private numbers: locked into memory and left out of dumps. 64 bytes a key, and room for work. */
	SECURE_HEAP_SIZE = 4 << 20,
	SECURE_HEAP_LEAST = 32,
	ROOT_LIFE_S = 10 * 365 * 86400,
	/* Clocks of hosts differ: what is new here must not be of the future there. */
	BACKDATE_S = 300,
	/* "host", "svc.NS.NAME" */
	NAME_PARTS_MAX = 3,
	FILE_NAME_SIZE = NAME_PARTS_MAX * LIMIT_NAME_SIZE + 8,
};
static_assert(SECURE_HEAP_SIZE >= 2 * 64 * LIMIT_KEYS, "a place for each key");

/* By slot. */
static const struct root_files {
	const char *key, *cert;
} g_root_files[ROLE_ROOT_SLOTS] = { { "ca.key", "ca.crt" }, { "ca1.key", "ca1.crt" } };

struct key {
	uint32_t kid;
	bool apart;
	EVP_PKEY *pkey; /* owned */
	UT_hash_handle hh;
};

struct signer {
	struct chan broker;
	struct chan linkers[LIMIT_LINKERS];
	struct key *keys; /* by kid, at most LIMIT_KEYS */
	struct root {
		EVP_PKEY *key; /* NULL: there is none, or it was not asked for yet */
		X509 *cert;
	} roots[ROLE_ROOT_SLOTS];
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE]; /* the roots' */
	int dir_fd; /* STATE/keys; negative errno: why it cannot be used */
	bool stop;
	int error;
};

static void signer_fail(struct signer *s, int error)
{
	s->stop = true;
	if (s->error == 0 && error != -EPIPE && error != -ECONNRESET) /* those mean that the broker left */
		s->error = error;
}

/* ------------------------------------------------------------------ answers */

static struct role_msg answer_to(const struct role_msg *m, uint32_t type)
{
	return (struct role_msg){ .type = type, .seq = m->seq };
}

/* Return: @error, so that refusing is one line. */
static PRINTF_LIKE(3, 4) int refuse(struct role_msg *answer, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->u.signed_.why, sizeof(answer->u.signed_.why), format, args);
	va_end(args);
	return error;
}

/* The one sentence for whatever keeps a file from being read or written. */
static int refuse_file(struct role_msg *answer, int error, const char *what, const char *name)
{
	const char *hint = error == -EPERM || error == -EACCES ? "it must belong to root, and to nobody else (directories 0700, files 0600)" :
			   error == -ENOSPC || error == -EDQUOT ? "make room there" :
			   error == -EROFS			? "the file system is read-only" :
			   error == -EBADMSG || error == -EINVAL	? "what it holds is not what its name says: put the right one back, or move it away" :
								  "see that the state directory can be read and written";

	return refuse(answer, error, "%s keys/%s in the state directory failed (%s): %s", what, name, log_errno_name(error), hint);
}

static void text_free(char *text, size_t size)
{
	if (text)
		OPENSSL_cleanse(text, size);
	free(text);
}

/* ------------------------------------------------------------------ the table of keys */

static struct key *key_find(struct signer *s, uint32_t kid)
{
	struct key *k = NULL;

	HASH_FIND(hh, s->keys, &kid, sizeof(kid), k);
	return k;
}

static void key_drop(struct signer *s, uint32_t kid)
{
	struct key *k = key_find(s, kid);

	if (!k)
		return;
	HASH_DEL(s->keys, k);
	EVP_PKEY_free(k->pkey); /* OpenSSL overwrites it */
	free(k);
}

/* Takes @pkey on success. */
static int key_put(struct signer *s, uint32_t kid, bool apart, EVP_PKEY *pkey)
{
	struct key *k = key_find(s, kid);

	if (k) {
		EVP_PKEY_free(k->pkey);
		k->pkey = pkey;
		k->apart = apart;
		return 0;
	}
	if (HASH_COUNT(s->keys) >= LIMIT_KEYS)
		return -EDQUOT;
	k = malloc(sizeof(*k));
	if (!k)
		return -ENOMEM;
	*k = (struct key){ .kid = kid, .apart = apart, .pkey = pkey };
	HASH_ADD(hh, s->keys, kid, sizeof(k->kid), k);
	return 0;
}

/* ------------------------------------------------------------------ stored keys */

/* One file name, below STATE/keys, that is not the authority's: labels with dots between them. */
static bool name_is_valid(const char *name)
{
	char copy[FILE_NAME_SIZE], *rest = copy, *part;
	int n = 0;

	if (!str_copy(copy, sizeof(copy), name) || strcmp(name, "ca") == 0 || strcmp(name, "ca1") == 0)
		return false;
	while ((part = strsep(&rest, ".")))
		if (++n > NAME_PARTS_MAX || !label_is_valid(part))
			return false;
	return true;
}

static int load_key(struct signer *s, const char *file, EVP_PKEY **ret, struct role_msg *answer)
{
	char *pem = NULL;
	size_t size = 0;
	int r = s->dir_fd < 0 ? s->dir_fd : signer_file_read(s->dir_fd, file, &pem, &size);

	if (r == 0)
		r = pki_key_from_pem(ret, pem, size);
	text_free(pem, size);
	return r < 0 && r != -ENOENT ? refuse_file(answer, r, "reading", file) : r;
}

static int store_key(struct signer *s, const char *file, EVP_PKEY *key, struct role_msg *answer)
{
	char *pem = NULL;
	int r = s->dir_fd < 0 ? s->dir_fd : pki_key_to_pem(&pem, key);

	if (r == 0)
		r = signer_file_write(s->dir_fd, file, pem, strlen(pem));
	text_free(pem, pem ? strlen(pem) : 0);
	return r < 0 ? refuse_file(answer, r, "writing", file) : 0;
}

/* On the disk before anybody hears of it. */
static int make_key(struct signer *s, const char *file, EVP_PKEY **ret, struct role_msg *answer)
{
	EVP_PKEY *key = NULL;
	int r = pki_new_key(&key);

	if (r < 0)
		return refuse(answer, r, "making a key failed: out of memory, or no random numbers");
	r = store_key(s, file, key, answer);
	if (r < 0) {
		EVP_PKEY_free(key);
		return r;
	}
	*ret = key;
	return 0;
}

static int own_key(struct signer *s, const struct role_key *k, EVP_PKEY **ret, struct role_msg *answer)
{
	char file[FILE_NAME_SIZE];
	int r = -ENOENT;

	if (!name_is_valid(k->name))
		return refuse(answer, -EINVAL, "\"%.64s\" is no name for a key", k->name);
	snprintf(file, sizeof(file), "%s.key", k->name);
	if (!k->fresh)
		r = load_key(s, file, ret, answer);
	return r == -ENOENT ? make_key(s, file, ret, answer) : r;
}

static int foreign_key(const struct role_key *k, int fd, EVP_PKEY **ret, struct role_msg *answer)
{
	char *pem = NULL;
	size_t size = 0;
	int r = signer_text_read(fd, &pem, &size);

	if (r == 0)
		r = pki_key_from_pem(ret, pem, size);
	text_free(pem, size);
	if (r < 0)
		return refuse(answer, r, "the file given for key \"%.64s\" is no P-256 private key in PEM without a password (%s)", k->name,
			      log_errno_name(r));
	return 0;
}

static int on_key(struct signer *s, const struct role_key *k, int fd, struct role_msg *answer)
{
	EVP_PKEY *key = NULL;
	int r = fd >= 0 ? foreign_key(k, fd, &key, answer) : own_key(s, k, &key, answer);

	if (r < 0)
		return r;
	r = pki_point(answer->u.signed_.public_key, key);
	if (r == 0)
		r = key_put(s, k->kid, k->apart != 0, key);
	if (r < 0) {
		EVP_PKEY_free(key);
		return refuse(answer, r, "key \"%.64s\" cannot be held (%s): there may be %d", k->name, log_errno_name(r), LIMIT_KEYS);
	}
	return 0;
}

static int on_sign(struct signer *s, const struct role_sign *sign, bool is_linker, struct role_msg *answer)
{
	struct key *k = key_find(s, sign->kid);
	int r;

	if (!k || (is_linker && k->apart))
		return refuse(answer, -ENOKEY, "there is no key %u", sign->kid);
	r = pki_sign(answer->u.signed_.signature, k->pkey, sign->digest);
	if (r < 0)
		return refuse(answer, r, "signing with key %u failed", sign->kid);
	answer->u.signed_.signature_size = (uint32_t)r;
	return 0;
}

/* -EINVAL: @point is no point of the curve. */
static int verify(const uint8_t point[KEY_POINT_SIZE], const uint8_t digest[32], const uint8_t *signature, size_t size)
{
	EVP_PKEY *key = NULL;
	int r;

	if (pki_public_key(&key, point) < 0)
		return -EINVAL;
	r = pki_verify(key, digest, signature, size);
	EVP_PKEY_free(key);
	return r;
}

static int on_verify(const struct role_verify *v, struct role_msg *answer)
{
	int r = verify(v->public_key, v->digest, v->signature, v->signature_size);

	if (r < 0)
		return refuse(answer, r, r == -EINVAL ? "the key is not on the curve P-256" : "the signature is not by that key");
	return 0;
}

/* ------------------------------------------------------------------ the authority */

static void root_put(struct signer *s, EVP_PKEY *key, X509 *cert, const struct role_ca_key *ca)
{
	struct root *root = &s->roots[ca->slot];

	EVP_PKEY_free(root->key);
	X509_free(root->cert);
	*root = (struct root){ .key = key, .cert = cert };
	memcpy(s->trust_domain, ca->trust_domain, sizeof(s->trust_domain));
}

/* NULL: there is none, and the answer says so. */
static const struct root *root_at(const struct signer *s, uint32_t slot, struct role_msg *answer)
{
	if (s->roots[slot].key)
		return &s->roots[slot];
	refuse(answer, -ENOENT, slot == 0 ? "this host is no authority: `sealane ca init` makes it one" : "this authority has no second root");
	return NULL;
}

/* The first certificate of a file. */
static int load_cert(struct signer *s, const char *file, X509 **ret)
{
	STACK_OF(X509) *certs = NULL;
	char *pem = NULL;
	size_t size = 0;
	int r = s->dir_fd < 0 ? s->dir_fd : signer_file_read(s->dir_fd, file, &pem, &size);

	if (r == 0)
		r = pki_from_pem(&certs, pem, size);
	if (r == 0) {
		*ret = sk_X509_shift(certs);
		sk_X509_pop_free(certs, X509_free);
	}
	free(pem);
	return r;
}

static int load_root(struct signer *s, const struct role_ca_key *ca, struct role_msg *answer)
{
	const struct root_files *f = &g_root_files[ca->slot];
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	int r = load_cert(s, f->cert, &cert);

	if (r == -ENOENT)
		return refuse(answer, r, "this host is no authority: `sealane ca init` makes it one");
	if (r < 0)
		return refuse_file(answer, r, "reading", f->cert);
	r = load_key(s, f->key, &key, answer);
	if (r == -ENOENT)
		refuse(answer, r, "keys/%s is gone from the state directory while keys/%s is there: put it back, or move both away", f->key, f->cert);
	if (r == 0 && (r = pki_check_root(cert, key, ca->trust_domain)) < 0)
		refuse(answer, r, "keys/%s in the state directory is no root of the trust domain %.200s, or not by keys/%s", f->cert,
		       ca->trust_domain, f->key);
	if (r == 0) {
		root_put(s, key, cert, ca);
		return 0;
	}
	EVP_PKEY_free(key);
	X509_free(cert);
	return r;
}

static int pem_of(X509 *cert, char **ret)
{
	STACK_OF(X509) *certs = sk_X509_new_null();
	int r = certs && sk_X509_push(certs, cert) ? pki_to_pem(ret, certs) : -ENOMEM;

	sk_X509_free(certs);
	return r;
}

static int store_cert(struct signer *s, const char *file, X509 *cert, struct role_msg *answer)
{
	AUTO_FREE(char) pem = NULL;
	int r = pem_of(cert, &pem);

	if (r == 0)
		r = signer_file_write(s->dir_fd, file, pem, strlen(pem));
	return r < 0 ? refuse_file(answer, r, "writing", file) : 0;
}

/* A key that is there already is used, never lost, unless another one is wanted. */
static int root_key_for(struct signer *s, const struct role_ca_key *ca, EVP_PKEY **ret, struct role_msg *answer)
{
	const struct root_files *f = &g_root_files[ca->slot];
	int r = ca->make == CA_MAKE_ANEW ? -ENOENT : load_key(s, f->key, ret, answer);

	return r == -ENOENT ? make_key(s, f->key, ret, answer) : r;
}

/*
 * The certificate last: without it there is no authority yet. Anew, the one that was there goes first: a certificate without its key
 * would be an authority that is damaged.
 */
static int make_root(struct signer *s, const struct role_ca_key *ca, struct role_msg *answer)
{
	const struct root_files *f = &g_root_files[ca->slot];
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	int64_t now = time(NULL);
	int r;

	if (s->dir_fd < 0)
		return refuse_file(answer, s->dir_fd, "opening", "");
	if (ca->make == CA_MAKE_NEW && signer_file_exists(s->dir_fd, f->cert))
		return refuse(answer, -EEXIST, "this host is an authority already: keys/%s is in the state directory", f->cert);
	if (ca->make == CA_MAKE_ANEW && unlinkat(s->dir_fd, f->cert, 0) < 0 && errno != ENOENT)
		return refuse_file(answer, -errno, "removing", f->cert);
	r = root_key_for(s, ca, &key, answer);
	if (r < 0)
		return r;
	r = pki_make_root(&cert, key, ca->trust_domain, now - BACKDATE_S, now + ROOT_LIFE_S);
	if (r < 0)
		refuse(answer, r, "making a root for \"%.200s\" failed: is that a trust domain?", ca->trust_domain);
	else
		r = store_cert(s, f->cert, cert, answer);
	if (r == 0) {
		root_put(s, key, cert, ca);
		log_info("signer.root_made", LOG_STR("trust_domain", ca->trust_domain));
		return 0;
	}
	EVP_PKEY_free(key);
	X509_free(cert);
	return r;
}

/* A certificate as the broker gets it: PEM in a memfd that nobody can change any more. Return: the descriptor, or negative errno. */
static int memfd_of(X509 *cert)
{
	AUTO_FREE(char) pem = NULL;
	AUTO_FD fd = -1;
	int r = pem_of(cert, &pem);

	if (r < 0)
		return r;
	fd = memfd_create("certificate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (write(fd, pem, strlen(pem)) != (ssize_t)strlen(pem) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -EIO;
	return take_fd(&fd);
}

static int answer_cert(struct role_msg *answer, X509 *cert, int *ret_fd)
{
	int fd = memfd_of(cert);

	if (fd < 0)
		return refuse(answer, fd, "the certificate could not be handed over (%s)", log_errno_name(fd));
	*ret_fd = fd;
	return 0;
}

static int on_ca(struct signer *s, const struct role_ca_key *ca, struct role_msg *answer, int *ret_fd)
{
	int r = ca->make ? make_root(s, ca, answer) : load_root(s, ca, answer);

	if (r == 0)
		r = answer_cert(answer, s->roots[ca->slot].cert, ret_fd);
	if (r == 0)
		r = pki_point(answer->u.signed_.public_key, s->roots[ca->slot].key);
	return r;
}

/* Whoever is to get the certificate holds the key. */
static int check_proof(const struct role_issue *i)
{
	return i->proof_size == 0 ? 0 : verify(i->public_key, i->proven, i->proof, i->proof_size);
}

/* The label is put before it here, so that no digest which the broker gives can be that of a certificate. */
static int on_sign_list(struct signer *s, const struct role_sign *sign, struct role_msg *answer)
{
	const struct root *root = root_at(s, sign->kid, answer);
	uint8_t digest[SHA256_SIZE];
	int r;

	if (!root)
		return -ENOENT;
	sha256_labelled(digest, ROLE_LIST_LABEL, sign->digest, sizeof(sign->digest));
	r = pki_sign(answer->u.signed_.signature, root->key, digest);
	if (r < 0)
		return refuse(answer, r, "signing with the root's key failed");
	answer->u.signed_.signature_size = (uint32_t)r;
	return 0;
}

static int on_issue(struct signer *s, const struct role_issue *i, struct role_msg *answer, int *ret_fd)
{
	const struct root *root = root_at(s, i->slot, answer);
	struct pki_identity who;
	X509 *cert = NULL;
	int r;

	if (!root)
		return -ENOENT;
	if (pki_parse_id(&who, i->spiffe_id, s->trust_domain) < 0)
		return refuse(answer, -EINVAL, "\"%.160s\" names no host or service of the trust domain", i->spiffe_id);
	if (i->not_before < 0 || i->not_after <= i->not_before || i->not_after - i->not_before > LIMIT_SVID_LIFE_S)
		return refuse(answer, -EINVAL, "a certificate lives at least a second and at most %d days", LIMIT_SVID_LIFE_S / 86400);
	r = check_proof(i);
	if (r == -EKEYREJECTED)
		return refuse(answer, r, "the proof is not by the key that is to be certified");
	if (r == 0)
		r = pki_issue(&cert, root->key, root->cert, i);
	if (r < 0)
		return refuse(answer, r, "the key is not on the curve P-256, the serial number not positive, or the end after the root's (%s)",
			      log_errno_name(r));
	r = answer_cert(answer, cert, ret_fd);
	X509_free(cert);
	return r;
}

/* ------------------------------------------------------------------ channels */

static int on_linker(struct signer *s, uint32_t index, int *fd)
{
	if (index >= LIMIT_LINKERS || *fd < 0)
		return -EBADMSG;
	chan_close(&s->linkers[index]);
	(void)!foreign_refuse(*fd);
	chan_init(&s->linkers[index], take_fd(fd));
	return 0;
}

/* Return: what the answer says. -EBADMSG: no broker of ours says that. */
static int on_question(struct signer *s, const struct role_msg *m, int fd, struct role_msg *answer, int *ret_fd)
{
	switch (m->type) {
	case BS_KEY:
		return on_key(s, &m->u.key, fd, answer);
	case BS_SIGN:
		return on_sign(s, &m->u.sign, false, answer);
	case BS_SIGN_LIST:
		return on_sign_list(s, &m->u.sign, answer);
	case BS_VERIFY:
		return on_verify(&m->u.verify, answer);
	case BS_CA:
		return on_ca(s, &m->u.ca_key, answer, ret_fd);
	case BS_ISSUE:
		return on_issue(s, &m->u.issue, answer, ret_fd);
	default:
		return -EBADMSG;
	}
}

static bool is_question(uint32_t type)
{
	return type == BS_KEY || type == BS_SIGN || type == BS_SIGN_LIST || type == BS_VERIFY || type == BS_CA || type == BS_ISSUE;
}

static void broker_message(struct signer *s, const struct role_msg *m, int *fd)
{
	struct role_msg answer = answer_to(m, SB_REPLY);
	AUTO_FD answer_fd = -1;
	int r = 0;

	if (m->type == BS_LINKER) {
		r = on_linker(s, m->u.id.id, fd);
	} else if (m->type == BS_FORGET) {
		key_drop(s, m->u.id.id);
	} else if (is_question(m->type)) {
		answer.u.signed_.error = on_question(s, m, *fd, &answer, &answer_fd);
		r = role_send(&s->broker, &answer, answer_fd);
	} else {
		r = -EBADMSG;
	}
	if (r < 0)
		signer_fail(s, r);
}

static void read_broker(struct signer *s)
{
	struct role_msg m;

	for (int n = 0; n < BROKER_MESSAGES_PER_TURN && !s->stop && !chan_wants_write(&s->broker); n++) {
		AUTO_FD fd = -1;
		int r = role_recv(&s->broker, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r == 1)
			broker_message(s, &m, &fd);
		else
			signer_fail(s, r == 0 ? -EPIPE : r);
	}
}

/* Whatever a linker does wrong costs it its channel; it gets another one when it is started again. */
static void linker_fault(struct signer *s, struct chan *c, int error)
{
	if (error != -EPIPE && error != -ECONNRESET)
		log_warn("signer.linker_fault", LOG_U64("linker", (uint64_t)(c - s->linkers)), LOG_STR("error", log_errno_name(error)));
	chan_close(c);
}

static void read_linker(struct signer *s, struct chan *c)
{
	struct role_msg m, answer;

	for (int n = 0; n < MESSAGES_PER_TURN && c->fd >= 0 && !chan_wants_write(c); n++) {
		AUTO_FD fd = -1;
		int r = role_recv(c, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r == 1 && m.type == LS_SIGN) {
			answer = answer_to(&m, SL_SIGNED);
			answer.u.signed_.error = on_sign(s, &m.u.sign, true, &answer);
			r = role_send(c, &answer, -1);
		} else {
			r = r == 1 ? -EBADMSG : r == 0 ? -EPIPE : r;
		}
		if (r < 0)
			linker_fault(s, c, r);
	}
}

static struct pollfd wants(const struct chan *c)
{
	return (struct pollfd){ .fd = c->fd, .events = chan_wants_write(c) ? POLLOUT : POLLIN };
}

/* The broker first, so that a key it has just told of is there; poll() leaves out what is closed. */
static void turn(struct signer *s)
{
	struct pollfd p[1 + LIMIT_LINKERS];
	int r;

	p[0] = wants(&s->broker);
	for (size_t i = 0; i < LIMIT_LINKERS; i++)
		p[i + 1] = wants(&s->linkers[i]);
	if (poll(p, ARRAY_SIZE(p), -1) < 0) {
		if (errno != EINTR)
			signer_fail(s, -errno);
		return;
	}
	foreign_tick_start();
	if (p[0].revents && (r = chan_flush(&s->broker)) < 0)
		signer_fail(s, r);
	if (p[0].revents)
		read_broker(s);
	for (size_t i = 0; i < LIMIT_LINKERS; i++) {
		struct chan *c = &s->linkers[i];

		if (p[i + 1].fd != c->fd || !p[i + 1].revents) /* another one by now: its turn comes */
			continue;
		if ((r = chan_flush(c)) < 0)
			linker_fault(s, c, r);
		read_linker(s, c);
	}
	foreign_tick_stop();
}

/* ------------------------------------------------------------------ the process */

/*
 * Everything that OpenSSL would look for in files or ask the kernel for at its first use. No configuration file: what this
 * process does must not depend on one that it cannot read later.
 */
static int openssl_start(void)
{
	static const uint8_t digest[32];
	uint8_t signature[SIGNATURE_SIZE];
	EVP_PKEY *key = NULL;
	int n;

	if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
		return -ELIBACC;
	if (CRYPTO_secure_malloc_init(SECURE_HEAP_SIZE, SECURE_HEAP_LEAST) != 1)
		log_warn("signer.keys_not_locked", LOG_STR("why", "no memory could be locked (RLIMIT_MEMLOCK): keys may be swapped out"));
	if (pki_new_key(&key) < 0)
		return -ELIBACC;
	n = pki_sign(signature, key, digest);
	if (n > 0)
		n = pki_verify(key, digest, signature, (size_t)n);
	EVP_PKEY_free(key);
	return n;
}

static const struct isolate_call g_signer_calls[] = {
	{ .name = "openat" },	 { .name = "unlinkat" },     { .name = "renameat" }, { .name = "renameat2" }, { .name = "fsync" },
	{ .name = "pread64" },	 { .name = "memfd_create" }, { .name = "statx" },
	{ .name = NULL },
};

static int signer_isolate(int dir_fd)
{
	char path[32];
	const char *const dirs[] = { path };
	int r;

	tzset();
	/* Of what is open, not of whatever has the name by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir_fd);
	r = isolate_paths(dirs, dir_fd < 0 ? 0 : 1);
	if (r == 0)
		r = isolate_caps(NULL, 0);
	return r == 0 ? isolate_calls(g_signer_calls) : r;
}

static void signer_destroy(struct signer *s)
{
	struct key *k, *next;

	HASH_ITER(hh, s->keys, k, next) {
		HASH_DEL(s->keys, k);
		EVP_PKEY_free(k->pkey);
		free(k);
	}
	for (size_t i = 0; i < ROLE_ROOT_SLOTS; i++) {
		EVP_PKEY_free(s->roots[i].key);
		X509_free(s->roots[i].cert);
	}
	for (size_t i = 0; i < LIMIT_LINKERS; i++)
		chan_close(&s->linkers[i]);
	chan_close(&s->broker);
	fd_cleanup(&s->dir_fd);
}

static int signer_start(struct signer *s, const struct daemon_options *o)
{
	int r;

	*s = (struct signer){ .dir_fd = signer_dir_open(o->state_dir) };
	for (size_t i = 0; i < LIMIT_LINKERS; i++)
		s->linkers[i].fd = -1;
	chan_init(&s->broker, ROLE_CHANNEL_FD);
	if (s->dir_fd < 0) /* keys that come with a descriptor still work; whoever asks for one of ours is told */
		log_error("signer.no_directory", LOG_STR("state_dir", o->state_dir), LOG_STR("error", log_errno_name(s->dir_fd)),
			  LOG_STR("why", "keys/ in it must be a directory of root's with mode 0700"));
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return -errno;
	r = openssl_start();
	if (r == 0)
		r = foreign_tick_init();
	return r == 0 ? signer_isolate(s->dir_fd) : r;
}

int signer_main(const struct daemon_options *o)
{
	static struct signer s;
	int r;

	log_init("signer", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	r = signer_start(&s, o);
	while (r == 0 && !s.stop)
		turn(&s);
	if (r == 0)
		r = s.error;
	if (r < 0)
		log_error("signer.failed", LOG_STR("error", log_errno_name(r)));
	signer_destroy(&s);
	return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
