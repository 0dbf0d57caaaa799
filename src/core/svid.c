/*
 * Theory of operation: X.509 is DER, and DER is tag, length, value, nested. A `struct der` is a window on bytes; der_next() takes
 * one element off its front and nothing ever looks outside of a window. RFC 5280, section 4.1, says in which order they come:
 *
 *   Certificate { TBSCertificate { [0] version, serialNumber, signature, issuer, validity { notBefore, notAfter },
 *                                  subject, subjectPublicKeyInfo { algorithm, BIT STRING }, ... [3] extensions },
 *                 signatureAlgorithm, BIT STRING }
 *
 * Nothing recurses and every loop takes at least two bytes a turn. Lengths have at most three bytes here, since a certificate
 * has at most SVID_DER_MAX.
 */
#include "core/svid.h"

#include "core/base64.h"
#include "core/sha256.h"

#include <stdio.h>

enum {
	TAG_INTEGER = 0x02,
	TAG_BITS = 0x03,
	TAG_OCTETS = 0x04,
	TAG_OID = 0x06,
	TAG_UTC_TIME = 0x17,
	TAG_TIME = 0x18,
	TAG_SEQUENCE = 0x30,
	TAG_VERSION = 0xa0,
	TAG_EXTENSIONS = 0xa3,
	TAG_URI = 0x86, /* GeneralName [6] */
};

struct der {
	const uint8_t *p;
	size_t n;
};

/* ------------------------------------------------------------------ DER */

static bool der_length(struct der *d, size_t *ret)
{
	size_t n_bytes, n = 0;
	uint8_t first;

	if (d->n == 0)
		return false;
	first = d->p[0];
	d->p++, d->n--;
	*ret = first;
	if (first < 0x80)
		return true;
	n_bytes = first & 0x7f;
	if (n_bytes == 0 || n_bytes > 3 || n_bytes > d->n)
		return false;
	for (size_t i = 0; i < n_bytes; i++)
		n = n << 8 | d->p[i];
	d->p += n_bytes, d->n -= n_bytes;
	*ret = n;
	return true;
}

/* Take the next element off @d. Return: its tag, its value in @ret; 0: there is none, or it is malformed. */
static unsigned der_next(struct der *d, struct der *ret)
{
	unsigned tag;
	size_t n;

	if (d->n == 0)
		return 0;
	tag = d->p[0];
	d->p++, d->n--;
	if (!der_length(d, &n) || n > d->n)
		return 0;
	*ret = (struct der){ .p = d->p, .n = n };
	d->p += n, d->n -= n;
	return tag;
}

static bool der_want(struct der *d, unsigned tag, struct der *ret)
{
	return der_next(d, ret) == tag;
}

static bool der_skip(struct der *d)
{
	struct der unused;

	return der_next(d, &unused) != 0;
}

/* ------------------------------------------------------------------ its parts */

static int two_digits(const uint8_t *p)
{
	if (p[0] < '0' || p[0] > '9' || p[1] < '0' || p[1] > '9')
		return -1;
	return (p[0] - '0') * 10 + p[1] - '0';
}

/* Days from 1970-01-01; the Gregorian calendar's own rule, counted in years that begin in March. */
static int64_t days_of(int64_t year, int month, int day)
{
	int64_t y = month <= 2 ? year - 1 : year;
	int64_t months = month > 2 ? month - 3 : month + 9;

	return 365 * y + y / 4 - y / 100 + y / 400 + (153 * months + 2) / 5 + day - 1 - 719468;
}

/* RFC 5280, 4.1.2.5: YYMMDDHHMMSSZ until 2049, YYYYMMDDHHMMSSZ from then on. */
static bool read_time(struct der *d, int64_t *ret)
{
	struct der t;
	unsigned tag = der_next(d, &t);
	size_t n_year = tag == TAG_TIME ? 4 : 2;
	int part[6];
	int64_t year;

	if ((tag != TAG_TIME && tag != TAG_UTC_TIME) || t.n != n_year + 11 || t.p[t.n - 1] != 'Z')
		return false;
	for (size_t i = 0; i < 6; i++) {
		part[i] = two_digits(t.p + n_year - 2 + 2 * i);
		if (part[i] < 0)
			return false;
	}
	year = part[0] + (tag == TAG_TIME ? 100 * two_digits(t.p) : part[0] < 50 ? 2000 : 1900);
	if ((tag == TAG_TIME && two_digits(t.p) < 0) || part[1] < 1 || part[1] > 12 || part[2] < 1 || part[2] > 31 || part[3] > 23 ||
	    part[4] > 59 || part[5] > 60)
		return false;
	*ret = days_of(year, part[1], part[2]) * 86400 + part[3] * 3600 + part[4] * 60 + part[5];
	return true;
}

static bool read_serial(struct der *tbs, char ret[SVID_SERIAL_SIZE])
{
	struct der v;

	if (!der_want(tbs, TAG_INTEGER, &v) || v.n == 0)
		return false;
	while (v.n > 1 && v.p[0] == 0)
		v.p++, v.n--;
	if (v.n > SVID_SERIAL_SIZE / 2)
		return false;
	hex_encode(ret, v.p, v.n);
	return true;
}

/* The last 65 bytes of a BIT STRING without unused bits; a longer or shorter one is no such key. */
static bool read_key(struct der *tbs, uint8_t ret[SVID_POINT_SIZE])
{
	struct der info, bits;

	if (!der_want(tbs, TAG_SEQUENCE, &info) || !der_skip(&info) || !der_want(&info, TAG_BITS, &bits))
		return false;
	if (bits.n == 1 + SVID_POINT_SIZE && bits.p[0] == 0 && bits.p[1] == 4)
		memcpy(ret, bits.p + 1, SVID_POINT_SIZE);
	return true;
}

static bool read_names(struct der names, char ret[LIMIT_SPIFFE_ID_SIZE])
{
	struct der list, v;
	unsigned tag;

	if (!der_want(&names, TAG_SEQUENCE, &list))
		return false;
	while (list.n > 0) {
		tag = der_next(&list, &v);
		if (tag == 0)
			return false;
		if (tag != TAG_URI)
			continue;
		if (v.n >= LIMIT_SPIFFE_ID_SIZE)
			return false;
		for (size_t i = 0; i < v.n; i++)
			if (v.p[i] <= ' ' || v.p[i] > '~')
				return false;
		memcpy(ret, v.p, v.n);
		ret[v.n] = '\0';
		return true;
	}
	return true;
}

/* Of all extensions only subjectAltName, 2.5.29.17. */
static bool read_extensions(struct der tbs, char ret[LIMIT_SPIFFE_ID_SIZE])
{
	static const uint8_t alt_name[] = { 0x55, 0x1d, 0x11 };
	struct der all, list, one, oid, value;
	unsigned tag = 0;

	while (tbs.n > 0 && tag != TAG_EXTENSIONS) {
		tag = der_next(&tbs, &all);
		if (tag == 0)
			return false;
	}
	if (tag != TAG_EXTENSIONS)
		return true;
	if (!der_want(&all, TAG_SEQUENCE, &list))
		return false;
	while (list.n > 0) {
		if (!der_want(&list, TAG_SEQUENCE, &one) || !der_want(&one, TAG_OID, &oid))
			return false;
		if (oid.n != sizeof(alt_name) || memcmp(oid.p, alt_name, sizeof(alt_name)) != 0)
			continue;
		while (one.n > 0) /* `critical` may stand before it */
			if (der_next(&one, &value) == TAG_OCTETS)
				return read_names(value, ret);
		return false;
	}
	return true;
}

/* @signed_: from the tag of TBSCertificate on. A signature that is no P-256 one leaves signature_size 0: no root of ours made it. */
static void read_signature(struct der rest, const uint8_t *signed_, struct svid *s)
{
	struct der bits;

	sha256(s->digest, signed_, (size_t)(rest.p - signed_));
	if (!der_skip(&rest) || !der_want(&rest, TAG_BITS, &bits) || bits.n < 2 || bits.n > 1 + SVID_SIGNATURE_SIZE || bits.p[0] != 0)
		return;
	s->signature_size = (uint8_t)(bits.n - 1);
	memcpy(s->signature, bits.p + 1, bits.n - 1);
}

static bool read_certificate(struct der d, struct svid *s)
{
	struct der certificate, tbs, validity;
	const uint8_t *signed_;

	if (!der_want(&d, TAG_SEQUENCE, &certificate))
		return false;
	signed_ = certificate.p;
	if (!der_want(&certificate, TAG_SEQUENCE, &tbs))
		return false;
	read_signature(certificate, signed_, s);
	if (tbs.n > 0 && tbs.p[0] == TAG_VERSION && !der_skip(&tbs))
		return false;
	return read_serial(&tbs, s->serial) && der_skip(&tbs) && der_skip(&tbs) && der_want(&tbs, TAG_SEQUENCE, &validity) &&
	       read_time(&validity, &s->not_before) && read_time(&validity, &s->not_after) && der_skip(&tbs) && read_key(&tbs, s->point) &&
	       read_extensions(tbs, s->spiffe_id);
}

/* ------------------------------------------------------------------ PEM */

static const char *find(const char *text, size_t size, const char *what)
{
	return memmem(text, size, what, strlen(what));
}

static const char g_begin[] = "-----BEGIN CERTIFICATE-----", g_end[] = "-----END CERTIFICATE-----";

/* Where the first certificate's text begins and ends, between the two lines. */
static bool first_text(const char *pem, size_t size, const char **ret_from, const char **ret_to)
{
	const char *from = find(pem, size, g_begin), *to;

	if (!from)
		return false;
	from += sizeof(g_begin) - 1;
	to = find(from, size - (size_t)(from - pem), g_end);
	if (!to)
		return false;
	*ret_from = from;
	*ret_to = to;
	return true;
}

const char *svid_rest(const char *pem, size_t size)
{
	const char *from, *to;

	return first_text(pem, size, &from, &to) ? to + sizeof(g_end) - 1 : NULL;
}

/* The first certificate of @pem. Return: its size in @ret of SVID_DER_MAX, or -EINVAL. */
static ssize_t first_der(uint8_t *ret, const char *pem, size_t size)
{
	const char *from, *to;
	char text[(SVID_DER_MAX + 2) / 3 * 4];
	size_t n = 0;
	ssize_t r;

	if (!first_text(pem, size, &from, &to))
		return -EINVAL;
	for (const char *p = from; p < to; p++) {
		if (*p == '\n' || *p == '\r' || *p == ' ' || *p == '\t')
			continue;
		if (n == sizeof(text))
			return -EINVAL;
		text[n++] = *p;
	}
	r = base64_decode(ret, SVID_DER_MAX, text, n, BASE64_STD);
	return r > 0 ? r : -EINVAL;
}

int svid_read(struct svid *ret, const char *pem, size_t size)
{
	uint8_t der[SVID_DER_MAX];
	ssize_t n = first_der(der, pem, size);
	struct svid s = {};

	if (n < 0 || !read_certificate((struct der){ .p = der, .n = (size_t)n }, &s))
		return -EINVAL;
	*ret = s;
	return 0;
}

int svid_fingerprint(uint8_t ret[32], const char *pem, size_t size)
{
	uint8_t der[SVID_DER_MAX];
	ssize_t n = first_der(der, pem, size);

	if (n < 0)
		return -EINVAL;
	sha256(ret, der, (size_t)n);
	return 0;
}

/* ------------------------------------------------------------------ SPIFFE IDs */

char *host_id_format(char *buf, const char *trust_domain, const char *host)
{
	snprintf(buf, LIMIT_SPIFFE_ID_SIZE, "spiffe://%s/host/%s", trust_domain, host);
	return buf;
}

/* What stands behind "spiffe://TRUST-DOMAIN/"; NULL: another scheme or trust domain. */
static const char *path_of(const char *spiffe_id, const char *trust_domain)
{
	static const char scheme[] = "spiffe://";
	size_t n = strlen(trust_domain);

	if (strncmp(spiffe_id, scheme, sizeof(scheme) - 1) != 0)
		return NULL;
	spiffe_id += sizeof(scheme) - 1;
	return strncmp(spiffe_id, trust_domain, n) == 0 && spiffe_id[n] == '/' ? spiffe_id + n + 1 : NULL;
}

int host_id_parse(char *host, const char *spiffe_id, const char *trust_domain)
{
	const char *path = path_of(spiffe_id, trust_domain);

	if (!path || strncmp(path, "host/", 5) != 0 || !label_is_valid(path + 5))
		return -EINVAL;
	return str_copy(host, LIMIT_NAME_SIZE, path + 5) ? 0 : -EINVAL;
}

int spiffe_id_parse(struct service_name *ret, const char *spiffe_id, const char *trust_domain)
{
	const char *path = path_of(spiffe_id, trust_domain), *slash;
	char name[LIMIT_SERVICE_SIZE];

	if (!path || strncmp(path, "ns/", 3) != 0)
		return -EINVAL;
	slash = strchr(path + 3, '/');
	if (!slash || strncmp(slash, "/svc/", 5) != 0 || strchr(slash + 5, '/') ||
	    (size_t)snprintf(name, sizeof(name), "%.*s/%s", (int)(slash - path - 3), path + 3, slash + 5) >= sizeof(name))
		return -EINVAL;
	return service_name_parse(ret, name, NULL);
}
