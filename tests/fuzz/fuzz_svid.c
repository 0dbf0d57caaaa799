/*
 * A certificate that anybody may have sent: whatever its bytes, pki_identity() either refuses it with a reason, or says a form of
 * identity that reads back as itself. And there is one reading: what core/svid.c, which knows no OpenSSL, takes from the
 * same bytes must be the same. The bytes are tried as PEM as well.
 */
#include "core/svid.h"
#include "link/pki.h"

#include <openssl/err.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char g_domain[] = "example.org";

static void check(bool good)
{
	if (!good)
		abort();
}

/* The same, from the same bytes, by the reader that the broker has. */
static void compare(const struct pki_identity *i, X509 *cert)
{
	STACK_OF(X509) *certs = sk_X509_new_null();
	uint8_t point[KEY_POINT_SIZE];
	struct svid s;
	char *pem;

	check(certs && sk_X509_push(certs, cert) > 0);
	if (pki_to_pem(&pem, certs) == 0) {
		if (svid_read(&s, pem, strlen(pem)) == 0) { /* it may be pickier about encodings, never say something else */
			check(strcmp(s.spiffe_id, i->spiffe_id) == 0);
			check(strcmp(s.serial, i->serial) == 0);
			check(s.not_before == i->not_before && s.not_after == i->not_after);
			check(pki_point(point, X509_get0_pubkey(cert)) == 0);
			check(memcmp(s.point, point, sizeof(point)) == 0 || memcmp(s.point, (uint8_t[sizeof(point)]){}, sizeof(point)) == 0);
		}
		free(pem);
	}
	sk_X509_free(certs);
}

static void check_identity(const struct pki_identity *i)
{
	char id[LIMIT_SPIFFE_ID_SIZE];
	size_t n = strlen(i->serial);

	if (i->kind == PKI_HOST)
		pki_host_id(id, g_domain, i->host);
	else
		spiffe_id_format(id, g_domain, &i->service);
	check(strcmp(id, i->spiffe_id) == 0);
	check(n >= 2 && n % 2 == 0 && n <= 40 && strspn(i->serial, "0123456789abcdef") == n && strspn(i->serial, "0") < n);
	check(i->not_before <= i->not_after);
}

static void try_cert(X509 *cert)
{
	struct pki_identity i;
	char why[128] = "";

	if (pki_identity(&i, cert, g_domain, why, sizeof(why)) < 0) {
		check(why[0] != '\0');
	} else {
		check_identity(&i);
		compare(&i, cert);
	}
	check(ERR_peek_error() == 0);
}

static void try_pem(const uint8_t *data, size_t size)
{
	STACK_OF(X509) *certs = NULL;

	if (pki_from_pem(&certs, (const char *)data, size) < 0)
		return;
	check(sk_X509_num(certs) > 0);
	for (int i = 0; i < sk_X509_num(certs); i++)
		try_cert(sk_X509_value(certs, i));
	sk_X509_pop_free(certs, X509_free);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data;
	X509 *cert;

	if (size > LIMIT_CHAIN_SIZE)
		return 0;
	cert = d2i_X509(NULL, &at, (long)size);
	ERR_clear_error();
	if (cert)
		try_cert(cert);
	else
		try_pem(data, size);
	X509_free(cert);
	return 0;
}
