/*
 * AES-128-GCM and AES-256-GCM: sealane's provider beside OpenSSL's own, on one core, by turns in one run: messages of a few sizes
 * through EVP as libssl does it (nonce, header, data, tag; the time of both calls for encrypting), and SSL_write() of 16 KiB into
 * memory, a TLS 1.3 record whole. Prints GB/s, medians over batches, and the ratio; without the provider, OpenSSL's alone.
 */
#include "link/test_pair.h"

#include <openssl/evp.h>

enum { N_BATCHES = 21, BATCH_BYTES = 16 << 20, RECORD = 16384, PLACE = 1 << 20 };

struct subject { /* one of the two */
	OSSL_LIB_CTX *libctx;
	const char *query;
};

/* What a batch needs. In place, going through @place, so that a message is not always in the first cache. */
struct work {
	EVP_CIPHER_CTX *evp;
	SSL *writer, *reader;
	size_t size;
	uint8_t *place;
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void seal_batch(struct work *w)
{
	uint8_t nonce[12] = {}, header[5] = { 23, 3, 3 }, tag[16];
	int n;

	for (size_t done = 0, at = 0; done < BATCH_BYTES; done += w->size, at = (at + w->size) % (PLACE - RECORD)) {
		nonce[done / w->size % 12]++;
		pair_must(EVP_CipherInit_ex(w->evp, NULL, NULL, NULL, nonce, 1) == 1 &&
				  EVP_CipherUpdate(w->evp, NULL, &n, header, sizeof(header)) == 1 &&
				  EVP_CipherUpdate(w->evp, w->place + at, &n, w->place + at, (int)w->size) == 1 &&
				  EVP_CipherFinal_ex(w->evp, w->place + at, &n) == 1 &&
				  EVP_CIPHER_CTX_ctrl(w->evp, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag) == 1,
			  "encrypting");
	}
}

static void write_batch(struct work *w)
{
	size_t n;

	for (size_t done = 0, at = 0; done < BATCH_BYTES; done += RECORD, at = (at + RECORD) % (PLACE - RECORD)) {
		pair_must(SSL_write_ex(w->writer, w->place + at, RECORD, &n) == 1, "SSL_write");
		pair_must(BIO_reset(SSL_get_wbio(w->writer)) == 1, "BIO_reset");
	}
}

static void prepare_evp(struct work *w, const struct subject *s, const char *cipher)
{
	static const uint8_t key[32] = { 1 };
	EVP_CIPHER *c = EVP_CIPHER_fetch(s->libctx, cipher, s->query);

	w->evp = EVP_CIPHER_CTX_new();
	pair_must(c && w->evp && EVP_CipherInit_ex(w->evp, c, NULL, key, NULL, 1) == 1, cipher);
	EVP_CIPHER_free(c);
}

static void prepare_tls(struct work *w, const struct subject *s, const char *suite)
{
	w->writer = pair_end(s->libctx, suite, false);
	w->reader = pair_end(s->libctx, suite, true);
	pair_connect(w->writer, w->reader, 2 * RECORD);
	SSL_set0_wbio(w->writer, BIO_new(BIO_s_mem()));
}

/* One line: @what of @size bytes with each subject by turns. */
static void line(const struct subject *subjects, size_t n_subjects, const char *name, const char *suite, size_t size)
{
	double gb[2][N_BATCHES];
	struct work w[2] = {};

	for (size_t k = 0; k < n_subjects; k++) {
		w[k].size = size;
		w[k].place = calloc(1, PLACE);
		pair_must(w[k].place, "calloc");
		if (suite)
			prepare_tls(&w[k], &subjects[k], suite);
		else
			prepare_evp(&w[k], &subjects[k], name);
	}
	for (int i = 0; i < N_BATCHES; i++)
		for (size_t k = 0; k < n_subjects; k++) {
			uint64_t began = clock_ns();

			if (suite)
				write_batch(&w[k]);
			else
				seal_batch(&w[k]);
			gb[k][i] = (double)BATCH_BYTES / (double)(clock_ns() - began);
		}
	printf("%-12s %-30s", name, suite ? "SSL_write, 16 KiB" : size < 1024 ? "64 B" : size == 1024 ? "1 KiB" : "16 KiB");
	for (size_t k = 0; k < n_subjects; k++) {
		qsort(gb[k], N_BATCHES, sizeof(double), compare);
		printf(" %9.2f", gb[k][N_BATCHES / 2]);
		SSL_free(w[k].writer);
		SSL_free(w[k].reader);
		EVP_CIPHER_CTX_free(w[k].evp);
		free(w[k].place);
	}
	if (n_subjects > 1)
		printf(" %7.2f", gb[1][N_BATCHES / 2] / gb[0][N_BATCHES / 2]);
	printf("\n");
}

int main(void)
{
	static const size_t sizes[] = { 64, 1024, RECORD };
	static const char *const names[][2] = { { "AES-128-GCM", "TLS_AES_128_GCM_SHA256" }, { "AES-256-GCM", "TLS_AES_256_GCM_SHA384" } };
	struct subject subjects[2] = { { OSSL_LIB_CTX_new(), "provider=default" }, { OSSL_LIB_CTX_new(), "provider=sealane" } };
	const char *why;
	size_t n = link_gcm_load(subjects[1].libctx, &why) == 0 ? 2 : 1;

	printf("%s, %s: %s\n", OpenSSL_version(OPENSSL_VERSION), n == 2 ? "the provider is loaded" : "the provider is not loaded", why);
	printf("%-12s %-30s %9s%s\n", "GB/s", "", "OpenSSL", n == 2 ? "   sealane   ratio" : "");
	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
			line(subjects, n, names[k][0], NULL, sizes[i]);
		line(subjects, n, names[k][0], names[k][1], RECORD);
	}
	pair_libctx_free(subjects[0].libctx);
	pair_libctx_free(subjects[1].libctx);
	return 0;
}
