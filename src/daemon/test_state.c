/* What must survive, what must be forgotten, and that a damaged, foreign, full or read-only file is an error and nothing worse. */
#include "daemon/state.h"
#include "daemon/state_asker.h"
#include "daemon/state_catalogue.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { WHY_SIZE = 256 };

static char g_dir[64];
static char g_path[128];
static char g_why[WHY_SIZE];

static int setup(void **unused)
{
	(void)unused;
	snprintf(g_dir, sizeof(g_dir), "/tmp/sealane-state-XXXXXX");
	if (!mkdtemp(g_dir))
		return -1;
	snprintf(g_path, sizeof(g_path), "%s/state.db", g_dir);
	return 0;
}

static int teardown(void **unused)
{
	char path[160];

	(void)unused;
	unlink(g_path);
	snprintf(path, sizeof(path), "%s-wal", g_path);
	unlink(path);
	return rmdir(g_dir);
}

static struct state_db *must_open(const char *boot)
{
	struct state_db *db = NULL;
	int r = state_open(&db, g_dir, boot, g_why);

	if (r < 0)
		print_error("%d %s\n", r, g_why);
	assert_int_equal(r, 0);
	return db;
}

static struct intention an_intention(const char *source, const char *destination)
{
	struct intention i = { .action = INTENTION_ALLOW, .origin = INTENTION_FROM_RUNTIME, .where = "runtime, by uid 0" };

	assert_int_equal(service_pattern_parse(&i.source, source, "default"), 0);
	assert_int_equal(service_pattern_parse(&i.destination, destination, "default"), 0);
	return i;
}

static struct state_enrolment an_enrolment(const char *workload)
{
	struct state_enrolment e = { .cgroup_id = UINT64_MAX - 1, .cgroup_path = "/sealane/web", .by = "cli" };

	assert_true(str_copy(e.workload, sizeof(e.workload), workload));
	assert_int_equal(service_name_parse(&e.service, "web", "shop"), 0);
	return e;
}

struct seen {
	size_t n;
	struct intention intention;
	struct state_enrolment enrolment;
};

static int see_intention(void *arg, const struct intention *i)
{
	struct seen *s = arg;

	s->n++;
	s->intention = *i;
	return 0;
}

static int see_enrolment(void *arg, const struct state_enrolment *e)
{
	struct seen *s = arg;

	s->n++;
	s->enrolment = *e;
	return 0;
}

static size_t count_intentions(struct state_db *db)
{
	struct seen s = { 0 };

	assert_int_equal(state_each_intention(db, see_intention, &s), 0);
	return s.n;
}

static void test_survives_reopen(void **unused)
{
	struct intention i = an_intention("shop/*", "redis");
	struct state_enrolment e = an_enrolment("web");
	struct state_db *db = must_open("boot-1");
	struct seen s = { 0 };

	(void)unused;
	i.strict = true;
	i.limits = (struct intention_limits){ UINT32_MAX, 7, UINT64_MAX };
	i.expires_unix_s = INT64_MAX;
	assert_int_equal(state_put_intention(db, &i), 0);
	assert_int_equal(state_put_enrolment(db, &e), 0);
	assert_null(state_close(db));

	db = must_open("boot-1");
	assert_int_equal(state_each_intention(db, see_intention, &s), 0);
	assert_int_equal(s.n, 1);
	assert_memory_equal(&s.intention, &i, sizeof(i));
	assert_int_equal(state_each_enrolment(db, see_enrolment, &s), 0);
	assert_int_equal(s.n, 2);
	assert_memory_equal(&s.enrolment, &e, sizeof(e));
	state_close(db);
}

static void test_replace_and_delete(void **unused)
{
	struct intention i = an_intention("web", "redis"), other = an_intention("*", "*");
	struct state_enrolment e = an_enrolment("web");
	struct state_db *db = must_open("boot-1");
	struct seen s = { 0 };

	(void)unused;
	assert_int_equal(state_put_intention(db, &i), 0);
	i.action = INTENTION_DENY;
	assert_int_equal(state_put_intention(db, &i), 0);
	assert_int_equal(state_put_intention(db, &other), 0);
	assert_int_equal(count_intentions(db), 2);
	assert_int_equal(state_delete_intention(db, &other.source, &other.destination), 0);
	assert_int_equal(state_delete_intention(db, &other.source, &other.destination), 0);
	assert_int_equal(state_each_intention(db, see_intention, &s), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.intention.action, INTENTION_DENY);

	assert_int_equal(state_put_enrolment(db, &e), 0);
	assert_int_equal(state_put_enrolment(db, &e), 0);
	assert_int_equal(state_delete_enrolment(db, "web"), 0);
	s.n = 0;
	assert_int_equal(state_each_enrolment(db, see_enrolment, &s), 0);
	assert_int_equal(s.n, 0);
	state_close(db);
}

static void test_other_boot_forgets_enrolments(void **unused)
{
	struct intention i = an_intention("web", "redis");
	struct state_enrolment e = an_enrolment("web");
	struct state_db *db = must_open("boot-1");
	struct seen s = { 0 };

	(void)unused;
	assert_int_equal(state_put_intention(db, &i), 0);
	assert_int_equal(state_put_enrolment(db, &e), 0);
	state_close(db);
	state_close(must_open("boot-2"));
	db = must_open("boot-1");
	assert_int_equal(state_each_enrolment(db, see_enrolment, &s), 0);
	assert_int_equal(s.n, 0);
	assert_int_equal(count_intentions(db), 1);
	state_close(db);
}

static void test_survives_kill(void **unused)
{
	struct intention i = an_intention("web", "redis");
	int status;
	pid_t pid;

	(void)unused;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct state_db *db = NULL;

		if (state_open(&db, g_dir, "boot-1", g_why) < 0 || state_put_intention(db, &i) < 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	struct state_db *db = must_open("boot-1");
	assert_int_equal(count_intentions(db), 1);
	state_close(db);
}

static void test_refuses_unsound_writes(void **unused)
{
	struct intention i = an_intention("web", "redis");
	struct state_enrolment e = an_enrolment("web");
	struct state_db *db = must_open("boot-1");

	(void)unused;
	i.expires_unix_s = -1;
	assert_int_equal(state_put_intention(db, &i), -EINVAL);
	i.expires_unix_s = 0;
	strcpy(i.where, "line\nbreak");
	assert_int_equal(state_put_intention(db, &i), -EINVAL);
	memset(i.where, 'x', sizeof(i.where));
	assert_int_equal(state_put_intention(db, &i), -EINVAL);
	i = an_intention("web", "redis");
	strcpy(i.source.service.name, "WEB");
	assert_int_equal(state_put_intention(db, &i), -EINVAL);
	strcpy(e.cgroup_path, "/sealane/../web");
	assert_int_equal(state_put_enrolment(db, &e), -EINVAL);
	strcpy(e.cgroup_path, "sealane");
	assert_int_equal(state_put_enrolment(db, &e), -EINVAL);
	strcpy(e.cgroup_path, "/a..b/..c");
	assert_int_equal(state_put_enrolment(db, &e), 0);
	strcpy(e.workload, "../web");
	assert_int_equal(state_put_enrolment(db, &e), -EINVAL);
	assert_int_equal(count_intentions(db), 0);
	state_close(db);
}

static int stop_at_second(void *arg, const struct intention *i)
{
	size_t *n = arg;

	(void)i;
	return ++*n == 2 ? 42 : 0;
}

static void test_each_stops(void **unused)
{
	static const char *const names[] = { "a", "b", "c" };
	struct state_db *db = must_open("boot-1");
	size_t n = 0;

	(void)unused;
	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		struct intention i = an_intention(names[k], "redis");

		assert_int_equal(state_put_intention(db, &i), 0);
	}
	assert_int_equal(state_each_intention(db, stop_at_second, &n), 42);
	assert_int_equal(n, 2);
	assert_int_equal(count_intentions(db), 3);
	state_close(db);
}

/* --- certificates --- */

static const char g_pem[] = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

static struct state_membership a_membership(void)
{
	return (struct state_membership){ .trust_domain = "sealane.local", .host = "b", .authority = "a", .address = "10.0.0.1:7443",
					  .revoked = { UINT64_MAX, 7 }, .roots = g_pem };
}

static struct state_token a_token(void)
{
	struct state_token t = { .host = "b", .services = "default/redis prod/*", .made_unix_s = 100, .expires_unix_s = 700 };

	memset(t.known, 'a', 64);
	return t;
}

/* A row in each table. */
static void put_certificates(struct state_db *db)
{
	struct state_membership m = a_membership();
	struct state_certificate c = { .name = "prod/web", .key = "svc.prod.web.1", .issued_unix_s = 5, .pem = g_pem };
	struct state_certificate host = { .name = "host", .key = "host.0", .pem = g_pem };
	struct state_grant g = { .host = "b", .pattern = { .rank = PATTERN_NAMESPACE, .service.ns = "prod" }, .allow = true };
	struct state_token t = a_token();
	struct state_issued i = { .serial = "00ff", .spiffe_id = "spiffe://sealane.local/host/b", .host = "b", .not_after = 900 };
	struct state_revoked e = { .entry = "id:spiffe://sealane.local/host/c", .since_unix_s = 3 };
	struct state_asker asker = { .host = "b", .key = { 4, 0xab, 0xcd }, .since_unix_s = 2 };

	assert_int_equal(state_put_membership(db, &m), 0);
	assert_int_equal(state_put_certificate(db, &c), 0);
	assert_int_equal(state_put_certificate(db, &host), 0);
	assert_int_equal(state_put_grant(db, &g), 0);
	assert_int_equal(state_put_token(db, &t), 0);
	if (state_put_issued(db, &i) < 0)
		assert_int_equal(state_put_issued(db, &i), -EBADMSG); /* a number is given once */
	assert_int_equal(state_put_revoked(db, &e), 0);
	assert_int_equal(state_put_asker(db, &asker), 0);
	assert_int_equal(state_put_time(db, STATE_TIME_LIST, 800), 0);
}

static int see_membership(void *arg, const struct state_membership *m)
{
	assert_string_equal(m->authority, "a");
	assert_string_equal(m->address, "10.0.0.1:7443");
	assert_true(m->revoked.epoch == UINT64_MAX && m->revoked.counter == 7);
	assert_string_equal(m->roots, g_pem);
	++*(size_t *)arg;
	return 0;
}

static int see_certificate(void *arg, const struct state_certificate *c)
{
	assert_string_equal(c->pem, g_pem);
	assert_string_equal(c->key, strcmp(c->name, "host") == 0 ? "host.0" : "svc.prod.web.1");
	++*(size_t *)arg;
	return 0;
}

static int see_grant(void *arg, const struct state_grant *g)
{
	assert_int_equal(g->pattern.rank, PATTERN_NAMESPACE);
	assert_string_equal(g->pattern.service.ns, "prod");
	assert_true(g->allow);
	++*(size_t *)arg;
	return 0;
}

static int see_token(void *arg, const struct state_token *t)
{
	assert_string_equal(t->services, "default/redis prod/*");
	assert_int_equal(t->used_unix_s, 650);
	++*(size_t *)arg;
	return 0;
}

static int see_issued(void *arg, const struct state_issued *i)
{
	assert_string_equal(i->serial, "00ff");
	assert_int_equal(i->not_after, 900);
	++*(size_t *)arg;
	return 0;
}

static int see_revoked(void *arg, const struct state_revoked *e)
{
	assert_string_equal(e->entry, "id:spiffe://sealane.local/host/c");
	++*(size_t *)arg;
	return 0;
}

static size_t count_certificates(struct state_db *db)
{
	size_t n = 0;

	assert_int_equal(state_each_membership(db, see_membership, &n), 0);
	assert_int_equal(state_each_certificate(db, see_certificate, &n), 0);
	assert_int_equal(state_each_grant(db, see_grant, &n), 0);
	assert_int_equal(state_each_token(db, see_token, &n), 0);
	assert_int_equal(state_each_issued(db, see_issued, &n), 0);
	assert_int_equal(state_each_revoked(db, see_revoked, &n), 0);
	return n;
}

static void test_certificates_survive(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_token t = a_token();

	(void)unused;
	put_certificates(db);
	put_certificates(db); /* in place of what was there */
	assert_int_equal(state_use_token(db, t.known, 650), 0);
	state_close(db);
	db = must_open("boot-2");
	assert_int_equal(count_certificates(db), 7);
	/* What is over goes, what is not stays. */
	assert_int_equal(state_forget_tokens(db, 700), 0);
	assert_int_equal(state_forget_issued(db, 900), 0);
	assert_int_equal(state_forget_revoked(db, INT64_MAX), 0);
	assert_int_equal(count_certificates(db), 7);
	assert_int_equal(state_forget_tokens(db, 701), 0);
	assert_int_equal(state_forget_issued(db, 901), 0);
	assert_int_equal(state_delete_certificate(db, "host"), 0);
	assert_int_equal(state_delete_revoked(db, "id:spiffe://sealane.local/host/c"), 0);
	assert_int_equal(count_certificates(db), 3);
	state_close(db);
}

static int count_issued(void *arg, const struct state_issued *i)
{
	++*(size_t *)arg;
	return 0;
}

struct newest {
	size_t n_rows;
	uint64_t n_all;
	char last[STATE_SERIAL_SIZE];
};

static int see_newest(void *arg, const struct state_issued *i, uint64_t n)
{
	struct newest *see = arg;

	see->n_rows++;
	see->n_all += n;
	strcpy(see->last, i->serial);
	return 0;
}

/* What this process took of a CPU: a busy machine does not add to it. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static void put_issued(struct state_db *db, unsigned serial, const char *host, const char *id, int64_t issued, int64_t not_after)
{
	struct state_issued i = { .issued_unix_s = issued, .not_after = not_after };

	snprintf(i.serial, sizeof(i.serial), "%08x", serial);
	snprintf(i.spiffe_id, sizeof(i.spiffe_id), "spiffe://sealane.local/%s", id);
	snprintf(i.host, sizeof(i.host), "%s", host);
	assert_int_equal(state_put_issued(db, &i), 0);
}

static void test_what_was_issued(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct newest see = {};
	int64_t last = -1;
	uint64_t n_issued = 99;
	size_t n = 0;

	(void)unused;
	put_issued(db, 0x40000001, "b", "host/b", 10, 100);
	put_issued(db, 0x40000002, "b", "host/b", 30, 120);
	put_issued(db, 0x40000003, "b", "host/b", 20, 110);
	put_issued(db, 0x40000013, "b", "ns/a/svc/x", 5, 50);
	put_issued(db, 0x50000003, "c", "ns/a/svc/x", 7, 200);
	assert_int_equal(state_find_issued(db, "4000000", count_issued, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(state_find_issued(db, "40000013", count_issued, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(state_find_issued(db, "41", count_issued, &n), 0);
	assert_int_equal(n, 4);
	/* What is over is not told of. */
	assert_int_equal(state_each_newest(db, 110, see_newest, &see), 0);
	assert_int_equal(see.n_rows, 2);
	assert_int_equal(see.n_all, 3);
	assert_int_equal(state_last_issued(db, "b", "spiffe://sealane.local/host/b", &last, &n_issued), 0);
	assert_int_equal(last, 30);
	assert_int_equal(n_issued, 3);
	assert_int_equal(state_last_issued(db, "c", "spiffe://sealane.local/host/b", &last, &n_issued), 0);
	assert_int_equal(last, 0);
	assert_int_equal(n_issued, 0);
	/* The last ones stay, and nobody else's go. */
	assert_int_equal(state_trim_issued(db, "b", 2), 0);
	n = 0;
	assert_int_equal(state_each_issued(db, count_issued, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(state_find_issued(db, "40000002", count_issued, &n), 0);
	assert_int_equal(state_find_issued(db, "40000003", count_issued, &n), 0);
	assert_int_equal(n, 5);
	state_close(db);
}

/* A host that asks without end: what the authority then has to do takes no longer for it. */
static void test_a_host_that_asks_without_end(void **unused)
{
	enum { N = 100000 };
	struct state_db *db = must_open("boot-1");
	struct state_revoked e = { .entry = "before:7:spiffe://sealane.local/ns/a/svc/x@b" };
	uint64_t n_issued = 0, from;
	struct newest see = {};
	int64_t last = 0;
	size_t n = 0;

	(void)unused;
	assert_int_equal(state_begin(db), 0);
	for (unsigned i = 0; i < N; i++)
		put_issued(db, 0x40000000 + i, "b", "host/b", i, 1000000);
	assert_int_equal(state_end(db, 0), 0);
	state_close(db);
	db = must_open("boot-1");
	from = cpu_ns();
	assert_int_equal(state_last_issued(db, "b", "spiffe://sealane.local/host/b", &last, &n_issued), 0);
	assert_int_equal(last, N - 1);
	assert_int_equal(n_issued, N);
	assert_int_equal(state_begin(db), 0);
	assert_int_equal(state_put_revoked(db, &e), 0);
	strcpy(e.entry, "id:spiffe://sealane.local/host/b");
	assert_int_equal(state_put_revoked(db, &e), 0);
	assert_int_equal(state_end(db, 0), 0);
	print_message("revoked, of %d: %.1f ms\n", N, (double)(cpu_ns() - from) / 1e6);
	assert_true(cpu_ns() - from < UINT64_C(5000000000));
	assert_int_equal(state_each_newest(db, 0, see_newest, &see), 0);
	assert_int_equal(see.n_rows, 1);
	assert_int_equal(see.n_all, N);
	assert_string_equal(see.last, "4001869f");
	assert_int_equal(state_trim_issued(db, "b", 1000), 0);
	assert_int_equal(state_each_issued(db, count_issued, &n), 0);
	assert_int_equal(n, 1000);
	state_close(db);
}

/* A full book: who has the most makes room. */
static void test_a_full_book(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_issued i = { .serial = "70000000", .spiffe_id = "spiffe://sealane.local/host/c", .host = "c", .not_after = 1000000 };
	char host[LIMIT_NAME_SIZE] = "";
	uint64_t n = 0;
	int64_t last = 0;

	(void)unused;
	assert_int_equal(state_halve_issued(db, host), -ENOENT);
	assert_int_equal(state_begin(db), 0);
	for (unsigned k = 0; k < LIMIT_CA_ISSUED; k++)
		put_issued(db, 0x40000000 + k, k % 4 ? "b" : "d", k % 4 ? "host/b" : "host/d", k, 1000000);
	assert_int_equal(state_end(db, 0), 0);
	assert_int_equal(state_put_issued(db, &i), -ENOSPC);
	assert_int_equal(state_halve_issued(db, host), 0);
	assert_string_equal(host, "b");
	assert_int_equal(state_halve_issued(db, host), -ENOENT);
	assert_int_equal(state_put_issued(db, &i), 0);
	assert_int_equal(state_last_issued(db, "b", "spiffe://sealane.local/host/b", &last, &n), 0);
	assert_int_equal(n, LIMIT_CA_ISSUED / 4 * 3 / 2);
	assert_int_equal(last, LIMIT_CA_ISSUED - 1);
	assert_int_equal(state_last_issued(db, "d", "spiffe://sealane.local/host/d", &last, &n), 0);
	assert_int_equal(n, LIMIT_CA_ISSUED / 4);
	state_close(db);
}

/* A member takes a list as long as they may be, without counting it at each line. */
static void test_a_full_list(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_revoked e = {};
	uint64_t from = cpu_ns();

	(void)unused;
	assert_int_equal(state_begin(db), 0);
	assert_int_equal(state_clear_revoked(db), 0);
	for (unsigned i = 0; i < LIMIT_REVOKED; i++) {
		snprintf(e.entry, sizeof(e.entry), "serial:%08x", i);
		assert_int_equal(state_put_revoked(db, &e), 0);
	}
	assert_int_equal(state_end(db, 0), 0);
	assert_true(cpu_ns() - from < UINT64_C(30000000000)); /* it took minutes */
	assert_int_equal(state_put_revoked(db, &e), -ENOSPC);
	assert_int_equal(state_delete_revoked(db, e.entry), 0);
	assert_int_equal(state_put_revoked(db, &e), 0);
	/* What was not written after all is counted anew. */
	assert_int_equal(state_begin(db), 0);
	assert_int_equal(state_clear_revoked(db), 0);
	assert_int_equal(state_put_revoked(db, &e), 0);
	assert_int_equal(state_end(db, -EIO), -EIO);
	assert_int_equal(state_put_revoked(db, &e), -ENOSPC);
	state_close(db);
	state_close(must_open("boot-1"));
}

static int see_stood(void *arg, const struct state_grant *g)
{
	assert_false(g->allow);
	assert_true(g->stood);
	++*(size_t *)arg;
	return 0;
}

static void test_a_grant_that_stood(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_grant g = { .host = "b", .pattern = { .rank = PATTERN_EXACT, .service = { "prod", "web" } }, .stood = true };
	size_t n = 0;

	(void)unused;
	assert_int_equal(state_put_grant(db, &g), 0);
	g.allow = true;
	assert_int_equal(state_put_grant(db, &g), -EINVAL);
	g.allow = false;
	g.pattern = (struct service_pattern){ .rank = PATTERN_NAMESPACE, .service.ns = "prod" };
	assert_int_equal(state_put_grant(db, &g), -EINVAL);
	state_close(db);
	db = must_open("boot-1");
	assert_int_equal(state_each_grant_of(db, "b", see_stood, &n), 0);
	assert_int_equal(n, 1);
	state_close(db);
}

static void test_whole_or_not_at_all(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_revoked e = { .entry = "serial:0a" };
	size_t n = 0;

	(void)unused;
	put_certificates(db);
	assert_int_equal(state_begin(db), 0);
	assert_int_equal(state_clear_revoked(db), 0);
	assert_int_equal(state_put_revoked(db, &e), 0);
	assert_int_equal(state_end(db, -EBADMSG), -EBADMSG);
	assert_int_equal(state_each_revoked(db, see_revoked, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(state_begin(db), 0);
	assert_int_equal(state_clear_revoked(db), 0);
	assert_int_equal(state_end(db, 0), 0);
	assert_int_equal(state_each_revoked(db, see_revoked, &n), 0);
	assert_int_equal(n, 1);
	state_close(db);
}

static void test_refuses_unsound_certificates(void **unused)
{
	struct state_db *db = must_open("boot-1");
	struct state_membership m = a_membership();
	struct state_certificate c = { .name = "host", .key = "../key", .pem = g_pem };
	struct state_token t = a_token();
	struct state_revoked e = { .entry = "serial:0a\nid:spiffe://x/host/a" };

	(void)unused;
	strcpy(m.address, "a.example:7443");
	assert_int_equal(state_put_membership(db, &m), -EINVAL);
	assert_int_equal(state_put_certificate(db, &c), -EINVAL);
	strcpy(c.key, "host.0");
	c.pem = "\x1b[2J";
	assert_int_equal(state_put_certificate(db, &c), -EINVAL);
	strcpy(t.services, "redis"); /* without its namespace */
	assert_int_equal(state_put_token(db, &t), -EINVAL);
	assert_int_equal(state_put_revoked(db, &e), -EINVAL);
	strcpy(e.entry, "id:https://x");
	assert_int_equal(state_put_revoked(db, &e), -EINVAL);
	strcpy(e.entry, "before:0:spiffe://x/ns/a/svc/b@c");
	assert_int_equal(state_put_revoked(db, &e), -EINVAL);
	assert_int_equal(count_certificates(db), 0);
	state_close(db);
}

static const struct state_change g_entries[] = {
	{ "hosts/b", "{\"address\":\"10.0.0.2:7443\"}" },
	{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"a/redis\",\"action\":\"allow\"}" },
	{ "services/a/redis/b", "{\"up\":true,\"lanes\":3}" },
};

static struct state_known a_known(void)
{
	return (struct state_known){ .prefix = "/sealane", .cluster_id = UINT64_MAX - 1, .revision = 7, .heard_unix_s = 1000,
				     .epoch = { .epoch = "00112233445566778899aabbccddeeff", .generation = 2 } };
}

static void put_entries(struct state_db *db)
{
	struct state_known k = a_known();

	assert_int_equal(state_catalogue_write(db, &k, g_entries, 3), 0);
}

static int see_entry(void *arg, const char *key, const char *value)
{
	size_t *n = arg;

	assert_string_equal(key, g_entries[*n].key);
	assert_string_equal(value, g_entries[*n].value);
	(*n)++;
	return 0;
}

static void assert_entries(struct state_db *db, size_t expected)
{
	size_t n = 0;

	assert_int_equal(state_catalogue_each(db, see_entry, &n), 0);
	assert_int_equal(n, expected);
}

static void test_keeps_the_catalogue(void **unused)
{
	const struct state_change change = { "services/a/redis/b", NULL };
	struct state_db *db = must_open("boot-1");
	struct state_known k = a_known(), got;

	(void)unused;
	assert_int_equal(state_catalogue_known(db, &got), -ENOENT);
	put_entries(db);
	state_close(db);
	db = must_open("boot-2");
	assert_int_equal(state_catalogue_known(db, &got), 0);
	assert_string_equal(got.prefix, k.prefix);
	assert_string_equal(got.epoch.epoch, k.epoch.epoch);
	assert_true(got.cluster_id == k.cluster_id && got.revision == 7 && got.epoch.generation == 2 && got.heard_unix_s == 1000);
	assert_entries(db, 3);
	k.reset_unix_s = 2000;
	assert_int_equal(state_catalogue_write(db, &k, &change, 1), 0);
	assert_entries(db, 2);
	assert_int_equal(state_catalogue_known(db, &got), 0);
	assert_int_equal(got.reset_unix_s, 2000);
	assert_int_equal(state_catalogue_forget(db), 0);
	assert_int_equal(state_catalogue_known(db, &got), -ENOENT);
	assert_entries(db, 0);
	state_close(db);
}

/* All of a write, or nothing. */
static void test_refuses_unsound_entries(void **unused)
{
	static const struct state_change changes[] = {
		{ "hosts/B", "{\"address\":\"\"}" }, { "hosts/b", "{\"address\":\"b:1\"}" }, { "hosts/b", "{}" }, { "other", "{}" }, { "hosts/b", "" },
	};
	struct state_db *db = must_open("boot-1");
	struct state_known k = a_known();

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		const struct state_change two[] = { g_entries[0], changes[i] };

		assert_int_equal(state_catalogue_write(db, &k, two, 2), -EINVAL);
	}
	k.epoch.epoch[0] = 'x';
	assert_int_equal(state_catalogue_write(db, &k, g_entries, 1), -EINVAL);
	assert_entries(db, 0);
	assert_int_equal(state_catalogue_known(db, &k), -ENOENT);
	state_close(db);
}

static int see_old_membership(void *arg, const struct state_membership *m)
{
	assert_string_equal(m->host, "b");
	assert_string_equal(m->address, "10.0.0.1:7443");
	assert_string_equal(m->roots, "R");
	assert_true(m->revoked.epoch == 0 && m->revoked.counter == 0);
	++*(size_t *)arg;
	return 0;
}

/* A file of the version before has no such tables: they are made, what was there stays. */
static void test_from_version_1(void **unused)
{
	struct intention i = an_intention("web", "redis");
	struct state_db *db = must_open("boot-1");
	sqlite3 *sql;

	(void)unused;
	assert_int_equal(state_put_intention(db, &i), 0);
	state_close(db);
	assert_int_equal(sqlite3_open(g_path, &sql), SQLITE_OK);
	assert_int_equal(sqlite3_exec(sql, "DROP TABLE membership; DROP TABLE certificate; DROP TABLE ca_grant; DROP TABLE ca_token;"
					   "DROP TABLE ca_issued; DROP TABLE revoked; DROP TABLE catalogue_entry; DROP TABLE catalogue_known;"
					   "DROP TABLE ca_asker; DROP TABLE ca_list;"
					   "PRAGMA user_version=1", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(sql), SQLITE_OK);
	db = must_open("boot-1");
	assert_int_equal(count_intentions(db), 1);
	put_certificates(db);
	state_close(db);
}

/* The version that was first given out for two hosts: its list had a number only, so it counts as none. */
static void test_from_version_3(void **unused)
{
	static const char back[] =
		"DROP TABLE membership; CREATE TABLE membership("
		"id INTEGER NOT NULL PRIMARY KEY, is_authority INTEGER NOT NULL, trust_domain TEXT NOT NULL, host TEXT NOT NULL, "
		"authority TEXT NOT NULL, address TEXT NOT NULL, revoked_version INTEGER NOT NULL, roots TEXT NOT NULL) STRICT, WITHOUT ROWID;"
		"INSERT INTO membership VALUES(1, 0, 'sealane.local', 'b', 'a', '10.0.0.1:7443', 7, 'R');"
		"DROP TABLE ca_asker; DROP TABLE ca_list; DROP INDEX ca_issued_host; PRAGMA user_version=3";
	struct state_db *db = must_open("boot-1");
	sqlite3 *sql;
	size_t n = 0;

	(void)unused;
	put_certificates(db);
	state_close(db);
	assert_int_equal(sqlite3_open(g_path, &sql), SQLITE_OK);
	assert_int_equal(sqlite3_exec(sql, back, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(sql), SQLITE_OK);
	db = must_open("boot-1");
	assert_int_equal(state_each_membership(db, see_old_membership, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(state_each_revoked(db, see_revoked, &n), 0);
	assert_int_equal(n, 2);
	state_close(db);
}

/* Make a good file with a row in each table, then let SQL of somebody else change it. */
static void spoil(const char *statement)
{
	struct intention i = an_intention("web", "redis");
	struct state_enrolment e = an_enrolment("web");
	struct state_db *db;
	sqlite3 *sql;

	unlink(g_path);
	db = must_open("boot-1");
	assert_int_equal(state_put_intention(db, &i), 0);
	assert_int_equal(state_put_enrolment(db, &e), 0);
	put_certificates(db);
	put_entries(db);
	state_close(db);
	assert_int_equal(sqlite3_open(g_path, &sql), SQLITE_OK);
	assert_int_equal(sqlite3_exec(sql, statement, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(sql), SQLITE_OK);
}

static void test_refuses_spoilt_content(void **unused)
{
	static const char *const statements[] = {
		"UPDATE intention SET source = 'WEB'",
		"UPDATE intention SET source = 'web'",
		"UPDATE intention SET source = '*/*'",
		"UPDATE intention SET source = 'a/b/c'",
		"UPDATE intention SET action = 2",
		"UPDATE intention SET strict = -1",
		"UPDATE intention SET open_lanes = 4294967296",
		"UPDATE intention SET connections_per_s = -1",
		"UPDATE intention SET expires_unix_s = -5",
		"UPDATE intention SET place = printf('%.600c', 'x')",
		"UPDATE intention SET place = 'a' || char(0) || 'b'",
		"UPDATE intention SET place = printf('%.100000c', 'x')",
		"UPDATE enrolment SET workload = '..'",
		"UPDATE enrolment SET service = ''",
		"UPDATE enrolment SET cgroup_path = '/a/..'",
		"UPDATE enrolment SET container_id = char(27) || '[2J'",
		"UPDATE membership SET address = 'a.example:1'",
		"UPDATE membership SET is_authority = 2",
		"UPDATE membership SET roots = ''",
		"INSERT INTO membership SELECT 2, 0, trust_domain, host, authority, address, 0, 0, roots FROM membership",
		"UPDATE certificate SET key = '../../etc/shadow'",
		"UPDATE catalogue_entry SET key = 'nonsense/' || key",
		"UPDATE catalogue_entry SET value = '{}'",
		"UPDATE catalogue_entry SET value = value || printf('%.1400c', ' ')",
		"UPDATE catalogue_known SET epoch = 'abc'",
		"UPDATE catalogue_known SET prefix = ''",
		"UPDATE catalogue_known SET heard_unix_s = -1",
		"UPDATE certificate SET name = 'HOST' WHERE name = 'host'",
		"UPDATE certificate SET pem = printf('%.70000c', 'x')",
		"UPDATE ca_grant SET pattern = 'prod/'",
		"UPDATE ca_grant SET allow = 2", "UPDATE ca_grant SET allow = 3", /* 2: only an exact one can have stood */
		"DROP INDEX ca_issued_host", "CREATE INDEX other ON ca_issued(host)",
		"UPDATE ca_token SET hash = 'A'",
		"UPDATE ca_token SET services = 'redis'",
		"UPDATE ca_token SET used_unix_s = -1",
		"UPDATE ca_issued SET serial = 'xyz'",
		"UPDATE revoked SET entry = 'all'",
		"DROP TABLE revoked",
		"UPDATE ca_asker SET host = 'B'",
		"UPDATE ca_asker SET key = key || '00'",
		"UPDATE ca_list SET made_unix_s = -1",
		"CREATE TRIGGER t AFTER INSERT ON intention BEGIN DELETE FROM intention; END",
		"CREATE VIEW v AS SELECT 1",
		"CREATE TABLE sqlx(a)",
		"DROP TABLE enrolment",
		"DROP TABLE enrolment; CREATE TABLE enrolment(workload TEXT)",
		"ALTER TABLE intention ADD COLUMN more TEXT",
		"PRAGMA application_id = 1",
		"PRAGMA user_version = 0",
		"PRAGMA user_version = -1",
	};
	struct state_db *db = NULL;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(statements); i++) {
		int r;

		spoil(statements[i]);
		r = state_open(&db, g_dir, "boot-1", g_why);
		if (r >= 0 || r == -EIO || g_why[0] == '\0')
			fail_msg("%s: %d %s", statements[i], r, g_why);
		assert_null(db);
	}
	spoil("PRAGMA user_version = 1000");
	assert_int_equal(state_open(&db, g_dir, "boot-1", g_why), -ENOTSUP);
}

static size_t read_file(unsigned char *buf, size_t cap)
{
	AUTO_FD fd = open(g_path, O_RDONLY);
	ssize_t n = read(fd, buf, cap);

	assert_true(n > 0 && (size_t)n < cap);
	return (size_t)n;
}

static void write_file(const unsigned char *buf, size_t n)
{
	AUTO_FD fd = open(g_path, O_WRONLY | O_TRUNC);

	assert_int_equal(write(fd, buf, n), n);
}

static void test_refuses_garbage_and_leaves_it_alone(void **unused)
{
	unsigned char text[] = "this is no database, but somebody may want to look at it before it goes away......................"
			       "..........";
	unsigned char again[1024];
	struct state_db *db = NULL;

	(void)unused;
	spoil("SELECT 1");
	write_file(text, sizeof(text));
	assert_int_equal(state_open(&db, g_dir, "boot-1", g_why), -EBADMSG);
	assert_int_equal(read_file(again, sizeof(again)), sizeof(text));
	assert_memory_equal(again, text, sizeof(text));
}

/* Damage anywhere: opening it may work (not every byte counts) or fail, and what is handed out is sound. */
static void test_random_damage(void **unused)
{
	static unsigned char whole[256 << 10], damaged[sizeof(whole)];
	size_t n;

	(void)unused;
	spoil("SELECT 1");
	n = read_file(whole, sizeof(whole));
	srandom(1);
	for (int round = 0; round < 300; round++) {
		struct state_db *db = NULL;
		size_t n_kept = round % 10 == 9 ? (size_t)random() % n : n;

		memcpy(damaged, whole, n);
		for (int k = 0; k < 1 + round % 8; k++)
			damaged[(size_t)random() % (round % 2 ? n : 512)] = (unsigned char)random();
		write_file(damaged, n_kept);
		if (state_open(&db, g_dir, "boot-1", g_why) < 0)
			assert_null(db);
		else
			assert_in_range(count_intentions(db), 0, 1);
		state_close(db);
	}
}

static void test_second_opener_is_refused(void **unused)
{
	struct intention i = an_intention("web", "redis");
	struct state_db *db = must_open("boot-1"), *second = NULL;
	int status;
	pid_t pid;

	(void)unused;
	assert_int_equal(state_put_intention(db, &i), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(state_open(&second, g_dir, "boot-1", g_why) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(state_put_intention(db, &i), 0);
	state_close(db);
}

/* The disk, as SQLite sees it: its own hook for tests of failing system calls. */
static int g_write_errno;
static ssize_t (*g_real_pwrite64)(int fd, const void *buf, size_t n, off64_t at);

static ssize_t failing_pwrite64(int fd, const void *buf, size_t n, off64_t at)
{
	if (g_write_errno == 0)
		return g_real_pwrite64(fd, buf, n, at);
	errno = g_write_errno;
	return -1;
}

static void test_failing_disk(void **unused)
{
	static const struct {
		int err, expected;
	} cases[] = { { ENOSPC, -ENOSPC }, { EROFS, -EIO }, { EDQUOT, -EIO } };
	struct intention i = an_intention("web", "redis"), j = an_intention("api", "redis");
	sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
	sqlite3_syscall_ptr real = vfs->xGetSystemCall(vfs, "pwrite64");
	struct state_db *db;

	(void)unused;
	if (!real)
		skip();
	memcpy(&g_real_pwrite64, &real, sizeof(real));
	assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)(void (*)(void))failing_pwrite64), SQLITE_OK);
	db = must_open("boot-1");
	assert_int_equal(state_put_intention(db, &i), 0);
	for (size_t k = 0; k < ARRAY_SIZE(cases); k++) {
		g_write_errno = cases[k].err;
		assert_int_equal(state_put_intention(db, &j), cases[k].expected);
		assert_int_equal(state_delete_intention(db, &i.source, &i.destination), cases[k].expected);
		g_write_errno = 0;
		assert_int_equal(count_intentions(db), 1);
	}
	assert_int_equal(state_put_intention(db, &j), 0);
	assert_int_equal(count_intentions(db), 2);
	state_close(db);

	unlink(g_path);
	g_write_errno = ENOSPC;
	assert_int_equal(state_open(&db, g_dir, "boot-1", g_why), -ENOSPC);
	g_write_errno = 0;
	assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite64", NULL), SQLITE_OK);
}

static void test_unusable_directory(void **unused)
{
	struct state_db *db = NULL;
	bool root = geteuid() == 0;

	(void)unused;
	assert_int_equal(state_open(&db, "/nonexistent", "boot-1", g_why), -ENOENT);
	assert_int_equal(state_open(&db, g_dir, "", g_why), -EINVAL);
	assert_int_equal(chmod(g_dir, 0555), 0);
	if (root)
		assert_int_equal(seteuid(65534), 0);
	assert_int_equal(state_open(&db, g_dir, "boot-1", g_why), -EACCES);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod(g_dir, 0755), 0);
	assert_int_equal(symlink("/etc/passwd", g_path), 0);
	assert_int_equal(state_open(&db, g_dir, "boot-1", g_why), -ELOOP);
	assert_null(db);
}

static void test_file_is_private(void **unused)
{
	struct stat st;

	(void)unused;
	umask(0);
	state_close(must_open("boot-1"));
	assert_int_equal(stat(g_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_who_may_ask(void **unused)
{
	struct state_asker a = { .host = "b", .key = { 4, 1, 2 }, .since_unix_s = 7 }, got = {};
	struct state_db *db = must_open("boot-1");
	int64_t made = -1;

	(void)unused;
	assert_int_equal(state_find_asker(db, "b", &got), -ENOENT);
	assert_int_equal(state_get_time(db, STATE_TIME_LIST, &made), 0);
	assert_int_equal(made, 0);
	assert_int_equal(state_put_asker(db, &a), 0);
	a.key[64] = 0xff; /* it joins again */
	assert_int_equal(state_put_asker(db, &a), 0);
	assert_int_equal(state_put_time(db, STATE_TIME_LIST, 1234), 0);
	assert_int_equal(state_put_asker(db, &(struct state_asker){ .host = "B" }), -EINVAL);
	assert_int_equal(state_put_time(db, STATE_TIME_LIST, -1), -EINVAL);
	state_close(db);
	db = must_open("boot-2");
	assert_int_equal(state_find_asker(db, "b", &got), 0);
	assert_memory_equal(&got, &a, sizeof(a));
	assert_int_equal(state_find_asker(db, "c", &got), -ENOENT);
	assert_int_equal(state_get_time(db, STATE_TIME_LIST, &made), 0);
	assert_int_equal(made, 1234);
	state_close(db);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_survives_reopen),
		TEST(test_replace_and_delete),
		TEST(test_other_boot_forgets_enrolments),
		TEST(test_survives_kill),
		TEST(test_refuses_unsound_writes),
		TEST(test_each_stops),
		TEST(test_certificates_survive),
		TEST(test_what_was_issued),
		TEST(test_a_host_that_asks_without_end),
		TEST(test_a_full_book),
		TEST(test_a_full_list),
		TEST(test_a_grant_that_stood),
		TEST(test_whole_or_not_at_all),
		TEST(test_who_may_ask),
		TEST(test_refuses_unsound_certificates),
		TEST(test_keeps_the_catalogue),
		TEST(test_refuses_unsound_entries),
		TEST(test_from_version_1),
		TEST(test_from_version_3),
		TEST(test_refuses_spoilt_content),
		TEST(test_refuses_garbage_and_leaves_it_alone),
		TEST(test_random_damage),
		TEST(test_second_opener_is_refused),
		TEST(test_failing_disk),
		TEST(test_unusable_directory),
		TEST(test_file_is_private),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
