/*
 * Protection keys for real: runs inside the test machine (run.sh), whose emulated CPU has PKU. Every fault here is the CPU's own.
 *
 * test_keys_vm --NAME: one of the processes that the tests start, for what a process can do only once (g_modes).
 */
#include "client/guard.h"

#include <cpuid.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>

#include <cmocka.h>

static const struct sealane_options g_messages = { sizeof(g_messages), SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, 1 << 16, 0, NULL, NULL };

/* ---- faults, caught ---- */

static __thread sigjmp_buf g_back;
static __thread volatile bool g_expecting;
static __thread siginfo_t g_fault;
static struct sealane_fault g_report;
static char g_service[64], g_component[64];
static int g_n_reports;
static struct sigaction g_guard_handler; /* as sealane_guard_handler() installed it: cmocka puts its own in front of each test */

static void on_segv(int number, siginfo_t *info, void *context)
{
	if (!g_expecting)
		_exit(99);
	g_fault = *info;
	siglongjmp(g_back, 1);
}

static void on_report(const struct sealane_fault *f, void *arg)
{
	g_report = *f;
	strcpy(g_service, f->service);
	strcpy(g_component, f->component);
	*(int *)arg += 1;
}

/* Jumping out of the handler keeps its rights (all closed); going back needs ours. */
static uint32_t rdpkru(void)
{
	uint32_t pkru, zero;

	__asm__ volatile("rdpkru" : "=a"(pkru), "=d"(zero) : "c"(0));
	return pkru;
}

static void wrpkru(uint32_t pkru)
{
	__asm__ volatile("wrpkru" : : "a"(pkru), "c"(0), "d"(0) : "memory");
}

static void expect_fault(void)
{
	if (g_guard_handler.sa_sigaction)
		sigaction(SIGSEGV, &g_guard_handler, NULL);
	g_fault = (siginfo_t){ .si_code = 0 };
	g_expecting = true;
}

enum access { NONE, READ, WRITE };

/* Return: 0: it went through; else si_code. */
static int touch(const volatile void *p, enum access how)
{
	volatile uint8_t *byte = (volatile uint8_t *)(uintptr_t)p;
	volatile uint32_t pkru = rdpkru();

	expect_fault();
	if (sigsetjmp(g_back, 1) == 0) {
		uint8_t old = *byte;

		if (how == WRITE)
			*byte = old;
	}
	g_expecting = false;
	wrpkru(pkru);
	return g_fault.si_code;
}

/* A blind write: does not read first. */
static int scribble(volatile uint32_t *p)
{
	volatile uint32_t pkru = rdpkru();

	expect_fault();
	if (sigsetjmp(g_back, 1) == 0)
		*p = 0xdeadbeef;
	g_expecting = false;
	wrpkru(pkru);
	return g_fault.si_code;
}

static enum access rights_to(const volatile void *p)
{
	return touch(p, READ) ? NONE : touch(p, WRITE) ? READ : WRITE;
}

static int in_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;
	void *r;

	assert_int_equal(pthread_create(&thread, NULL, fn, arg), 0);
	assert_int_equal(pthread_join(thread, &r), 0);
	return (int)(intptr_t)r;
}

static void *rights_in_thread(void *p)
{
	return (void *)(intptr_t)rights_to(p);
}

static void pair(struct sealane_lane *ends[2], struct sealane_component *const components[2])
{
	assert_int_equal(sealane_pair(ends, components, &g_messages), 0);
}

static void close_pair(struct sealane_lane *ends[2])
{
	sealane_close(ends[0]);
	sealane_close(ends[1]);
}

static void *own(struct sealane_lane *lane)
{
	return lane->own.base;
}

/* ---- an ordinary lane ---- */

static void test_it_is_on(void **state)
{
	const char *text;

	assert_int_equal(sealane_guarded(&text), 1);
	assert_int_equal(keys_state(), KEYS_ON);
	print_message("%s; key %d\n", text, keys_process.key);
}

static void test_stray_access_names_the_lane(void **state)
{
	struct control_identity who = { .service = "default/redis" };
	struct lane_parts parts[2] = { { .kind = SEALANE_MESSAGES, .identity = &who, .lane_id = 41 }, { .kind = SEALANE_MESSAGES } };
	struct sealane_lane *ends[2];
	int n_told = 0;

	assert_int_equal(lane_pair_parts(ends, parts, 14), 0);
	assert_int_equal(sealane_guard_handler(on_report, &n_told), 0); /* again: only the report is another */
	assert_int_equal(scribble((void *)((char *)own(ends[0]) + 5000)), SEGV_PKUERR);
	assert_ptr_equal(g_fault.si_addr, (char *)own(ends[0]) + 5000);
	assert_int_equal(g_fault.si_pkey, keys_process.key);
	assert_ptr_equal(g_report.address, g_fault.si_addr);
	assert_int_equal(g_report.is_write, 1);
	assert_int_equal(g_report.is_own, 1);
	assert_int_equal(g_report.lane_id, 41);
	assert_string_equal(g_service, "default/redis");
	assert_string_equal(g_component, "");

	assert_int_equal(touch(ends[0]->peer.base, READ), SEGV_PKUERR);
	assert_int_equal(g_report.is_write, 0);
	assert_int_equal(g_report.is_own, 0);
	assert_int_equal(g_report.lane_id, 41);
	assert_int_equal(n_told, 2);
	assert_int_equal(sealane_guard_handler(on_report, &g_n_reports), 0);
	close_pair(ends);
}

static void test_other_faults_are_not_ours(void **state)
{
	int n = g_n_reports;
	uint8_t *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_int_equal(touch(p, READ), SEGV_ACCERR);
	assert_int_equal(g_n_reports, n);
	munmap(p, 4096);
}

static void test_a_closed_lane_is_forgotten(void **state)
{
	struct sealane_lane *ends[2];
	int n = g_n_reports;
	uint8_t *p;

	pair(ends, NULL);
	p = own(ends[0]);
	close_pair(ends);
	p = mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(syscall(SYS_pkey_mprotect, p, 4096, PROT_READ | PROT_WRITE, keys_process.key), 0);
	assert_int_equal(touch(p, READ), SEGV_PKUERR);
	assert_int_equal(g_n_reports, n);
	munmap(p, 4096);
}

static void test_calls_open_and_close(void **state)
{
	struct sealane_lane *ends[2];
	char big[100000], got[sizeof(big)];

	pair(ends, NULL);
	for (size_t size = 0; size < sizeof(big); size = size * 3 + 1) {
		memset(big, (int)size, sizeof(big));
		if (size > sealane_reserve_max(ends[0]))
			break;
		assert_int_equal(sealane_send(ends[0], big, size, SEALANE_NOWAIT), 0);
		assert_int_equal(rights_to(own(ends[0])), NONE);
		assert_int_equal(sealane_recv(ends[1], got, sizeof(got), SEALANE_NOWAIT), size);
		assert_memory_equal(big, got, size);
		assert_int_equal(rights_to(ends[1]->peer.base), NONE);
	}
	assert_int_equal(sealane_recv(ends[1], got, sizeof(got), 2000000), -ETIMEDOUT); /* spins, sleeps on futex and bell */
	assert_int_equal(rights_to(own(ends[1])), NONE);
	assert_int_equal(sealane_shutdown(ends[0]), 0);
	assert_int_equal(rights_to(own(ends[0])), NONE);
	assert_int_equal(sealane_recv(ends[1], got, sizeof(got), SEALANE_NOWAIT), -ENODATA);
	close_pair(ends);
}

static void test_zero_copy_stays_open_for_its_thread(void **state)
{
	struct sealane_lane *ends[2], *more[2];
	const void *seen;
	void *place, *other;
	size_t size;

	pair(ends, NULL);
	pair(more, NULL);
	assert_int_equal(sealane_reserve(ends[0], 64, &place, SEALANE_NOWAIT), 0);
	assert_int_equal(rights_to(place), WRITE);
	assert_int_equal(sealane_reserve(ends[0], 32, &place, SEALANE_NOWAIT), 0); /* again: counted once */
	assert_int_equal(sealane_reserve(more[0], 64, &other, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_commit(ends[0], 32), 0);
	assert_int_equal(rights_to(other), WRITE); /* the other reservation goes on */
	assert_int_equal(sealane_commit(more[0], 64), 0);
	assert_int_equal(rights_to(other), NONE);

	assert_int_equal(sealane_peek(ends[1], &seen, &size, NULL, SEALANE_NOWAIT), 0);
	assert_int_equal(rights_to(seen), READ);
	assert_int_equal(rights_to(own(ends[1])), READ); /* what it may write stays closed for writing */
	sealane_release(ends[1]);
	assert_int_equal(rights_to(seen), NONE);
	assert_int_equal(sealane_peek(more[1], &seen, &size, NULL, SEALANE_NOWAIT), 0);
	close_pair(more); /* without release */
	assert_int_equal(rights_to(own(ends[1])), NONE);
	close_pair(ends);
}

/* A thread that begins and ends a call while its creator holds a reservation. */
static void *inherit(void *arg)
{
	struct sealane_lane *lane = arg;
	enum access before = rights_to(own(lane));

	if (before != WRITE)
		return (void *)1;
	if (sealane_flush(lane) != 0)
		return (void *)2;
	return (void *)(intptr_t)(rights_to(own(lane)) == NONE ? 0 : 3);
}

static void *wait_and_look(void *arg)
{
	void **p = arg;

	pthread_barrier_wait(p[0]);
	pthread_barrier_wait(p[0]);
	return (void *)(intptr_t)rights_to(p[1]);
}

static void test_rights_are_the_threads_own(void **state)
{
	struct sealane_lane *ends[2];
	pthread_barrier_t barrier;
	void *arg[2] = { &barrier }, *place, *r;
	pthread_t thread;

	pair(ends, NULL);
	assert_int_equal(in_thread(rights_in_thread, own(ends[0])), NONE);
	arg[1] = own(ends[0]);
	pthread_barrier_init(&barrier, NULL, 2);
	assert_int_equal(pthread_create(&thread, NULL, wait_and_look, arg), 0);
	pthread_barrier_wait(&barrier);
	assert_int_equal(sealane_reserve(ends[0], 64, &place, SEALANE_NOWAIT), 0);
	pthread_barrier_wait(&barrier);
	assert_int_equal(pthread_join(thread, &r), 0);
	assert_int_equal((intptr_t)r, NONE); /* while we have it open */
	assert_int_equal(in_thread(inherit, ends[0]), 0);
	assert_int_equal(sealane_commit(ends[0], 64), 0);
	close_pair(ends);
}

static void test_one_gate_for_many_calls(void **state)
{
	struct sealane_lane *ends[2];

	pair(ends, NULL);
	assert_int_equal(sealane_guard_open(ends[0]), 0);
	assert_int_equal(sealane_guard_open(ends[0]), 0);
	assert_int_equal(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT), 0);
	assert_int_equal(rights_to(own(ends[0])), WRITE);
	sealane_guard_close(ends[0]);
	assert_int_equal(rights_to(own(ends[0])), WRITE);
	sealane_guard_close(ends[0]);
	assert_int_equal(rights_to(own(ends[0])), NONE);
	close_pair(ends);
}

static void test_the_kernel_asks_the_key_too(void **state)
{
	struct sealane_lane *ends[2];
	const void *seen;
	int fds[2];
	size_t size;

	pair(ends, NULL);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], own(ends[0]), 16), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(write(fds[1], "0123456789abcdef", 16), 16);
	assert_int_equal(read(fds[0], own(ends[0]), 16), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(sealane_send(ends[0], "payload", 8, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_peek(ends[1], &seen, &size, NULL, SEALANE_NOWAIT), 0);
	assert_int_equal(write(fds[1], seen, size), 8);
	sealane_release(ends[1]);
	close(fds[0]);
	close(fds[1]);
	close_pair(ends);
}

static void *volatile g_look_at;
static volatile enum access g_seen_by_handler;

static void on_usr1(int number)
{
	g_seen_by_handler = rights_to(g_look_at);
}

static void test_signal_handlers_run_closed(void **state)
{
	struct sigaction sa = { .sa_handler = on_usr1 };
	struct sealane_lane *ends[2];
	void *place;

	pair(ends, NULL);
	assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
	assert_int_equal(sealane_reserve(ends[0], 64, &place, SEALANE_NOWAIT), 0);
	g_look_at = place;
	g_seen_by_handler = WRITE;
	raise(SIGUSR1);
	assert_int_equal(g_seen_by_handler, NONE);
	assert_int_equal(rights_to(place), WRITE);
	assert_int_equal(sealane_commit(ends[0], 64), 0);
	close_pair(ends);
}

/* ---- components ---- */

static struct sealane_component *g_codec, *g_parser;

static void *codec_tries(void *arg)
{
	struct sealane_lane **ends = arg;
	void *place;
	intptr_t r = 0;

	sealane_component_join(g_codec);
	if (sealane_reserve(ends[0], 64, &place, SEALANE_NOWAIT) != 0 || rights_to(place) != WRITE)
		r = 1;
	else if (rights_to(own(ends[1])) != NONE || rights_to(ends[1]->peer.base) != NONE)
		r = 2; /* the other end's two mappings: one of them shows the very bytes that we are writing */
	else if (sealane_send(ends[1], "forged", 7, SEALANE_NOWAIT) != -EACCES)
		r = 3;
	memcpy(place, "frame", 6);
	if (r == 0 && (sealane_commit(ends[0], 6) != 0 || rights_to(own(ends[0])) != NONE))
		r = 4;
	return (void *)r;
}

static void *parser_takes(void *arg)
{
	struct sealane_lane **ends = arg;
	char got[64];
	intptr_t r = 0;

	sealane_component_join(g_parser);
	if (sealane_recv(ends[1], got, sizeof(got), SEALANE_FOREVER) != 6 || strcmp(got, "frame") != 0)
		r = 1;
	else if (rights_to(own(ends[0])) != NONE || rights_to(own(ends[1])) != NONE)
		r = 2;
	return (void *)r;
}

static void test_components_have_keys_of_their_own(void **state)
{
	struct sealane_component *both[2];
	struct sealane_lane *ends[2];

	assert_int_equal(sealane_component(&g_codec, "codec"), 0);
	assert_int_equal(sealane_component(&g_parser, "parser"), 0);
	assert_int_equal(sealane_component_guarded(g_codec), 1);
	assert_int_equal(sealane_component_guarded(g_parser), 1);
	assert_true(g_codec->domain.key != g_parser->domain.key && g_codec->domain.key != keys_process.key);
	both[0] = g_codec;
	both[1] = g_parser;
	pair(ends, both);
	assert_int_equal(in_thread(codec_tries, ends), 0);
	assert_int_equal(in_thread(parser_takes, ends), 0);
	assert_int_equal(scribble((void *)own(ends[1])), SEGV_PKUERR);
	assert_string_equal(g_component, "parser");
	assert_string_equal(g_service, "codec");
	assert_int_equal(g_fault.si_pkey, g_parser->domain.key);
	close_pair(ends);
}

/* ---- calls ---- */

static int on_call(struct sealane_request *q, void *arg)
{
	struct sealane_lane *lane = sealane_request_lane(q);

	*(enum access *)arg = rights_to(own(lane));
	return 0;
}

static void test_handlers_of_calls_run_closed(void **state)
{
	static const struct sealane_method methods[] = { { .number = 1, .handler = on_call } };
	enum access seen = WRITE;
	struct sealane_lane *ends[2];
	uint64_t id;

	pair(ends, NULL);
	assert_int_equal(sealane_methods(ends[1], methods, 1, &seen), 0);
	assert_int_equal(sealane_call_begin(ends[0], 1, "x", 1, NULL, 0, 1000000000, &id), 0);
	assert_int_equal(sealane_serve(ends[1], SEALANE_NOWAIT), 1);
	assert_int_equal(seen, NONE);
	assert_int_equal(rights_to(own(ends[1])), NONE);
	close_pair(ends);
}

/* ---- ways round, which the documentation names: when one of these fails, it has become better ---- */

static void test_way_round_proc_mem(void **state)
{
	struct sealane_lane *ends[2];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	uint8_t byte;

	pair(ends, NULL);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(uintptr_t)own(ends[0])), 1);
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(uintptr_t)own(ends[0])), 1);
	close(fd);
	close_pair(ends);
}

static void test_way_round_process_vm(void **state)
{
	struct sealane_lane *ends[2];
	uint8_t bytes[16];
	struct iovec here = { bytes, sizeof(bytes) }, there;

	pair(ends, NULL);
	there = (struct iovec){ own(ends[0]), sizeof(bytes) };
	assert_int_equal(process_vm_readv(getpid(), &here, 1, &there, 1, 0), sizeof(bytes));
	close_pair(ends);
}

static void test_way_round_second_mapping(void **state)
{
	struct region r, second;
	struct keys_domain d;
	int fd;

	assert_int_equal(keys_domain_new(&d, "", false), 0);
	assert_int_equal(region_create(&r, &fd, 14, 0), 0);
	assert_int_equal(keys_tag(&d, r.base, r.size, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(region_map_peer(&second, fd, 14), 0); /* so descriptors of regions are closed at once */
	close(fd);
	assert_int_equal(rights_to(r.base), NONE);
	assert_int_equal(touch(second.base, READ), 0);
	region_unmap(&r);
	region_unmap(&second);
}

/* What a pipe was given while the lane was open can be read from it later. */
static void test_way_round_pinned_pages(void **state)
{
	struct sealane_lane *ends[2];
	struct iovec v;
	char got[8];
	int fds[2];

	pair(ends, NULL);
	assert_int_equal(pipe(fds), 0);
	v = (struct iovec){ own(ends[0]), sizeof(got) };
	assert_int_equal(vmsplice(fds[1], &v, 1, 0), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(sealane_guard_open(ends[0]), 0);
	assert_int_equal(vmsplice(fds[1], &v, 1, 0), sizeof(got));
	sealane_guard_close(ends[0]);
	assert_int_equal(rights_to(own(ends[0])), NONE);
	assert_int_equal(read(fds[0], got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, "SEALANE1", sizeof(got));
	close(fds[0]);
	close(fds[1]);
	close_pair(ends);
}

/* The frame of a signal lies in the program's memory, and PKRU in it. */
static void on_usr2(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint8_t *xsave = (uint8_t *)uc->uc_mcontext.fpregs;
	uint64_t *xstate_bv = (uint64_t *)(void *)(xsave + 512);
	unsigned size, offset, c, d;

	__cpuid_count(0xd, 9, size, offset, c, d);
	*xstate_bv |= 1u << 9;
	memset(xsave + offset, 0, 4);
}

static void test_way_round_signal_frame(void **state)
{
	struct sigaction sa = { .sa_sigaction = on_usr2, .sa_flags = SA_SIGINFO };
	struct sealane_lane *ends[2];

	pair(ends, NULL);
	assert_int_equal(sigaction(SIGUSR2, &sa, NULL), 0);
	assert_int_equal(rights_to(own(ends[0])), NONE);
	raise(SIGUSR2);
	assert_int_equal(rights_to(own(ends[0])), WRITE);
	assert_int_equal(sealane_flush(ends[0]), 0); /* the next call closes again */
	assert_int_equal(rights_to(own(ends[0])), NONE);
	close_pair(ends);
}

/* ---- what a process can do only once ---- */

#define MODE_CHECK(condition)                                                           \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition); \
			return 1;                                                       \
		}                                                                       \
	} while (0)

static int mode_taken(void)
{
	const char *text;
	struct sealane_lane *ends[2];

	while (syscall(SYS_pkey_alloc, 0, 0) > 0)
		;
	MODE_CHECK(sealane_guarded(&text) == 0 && keys_state() == KEYS_NO_KEY);
	MODE_CHECK(strstr(text, "taken") != NULL);
	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	MODE_CHECK(rights_to(own(ends[0])) == WRITE);
	MODE_CHECK(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT) == 0);
	MODE_CHECK(sealane_harden(0) == -ENOTSUP);
	return 0;
}

static int mode_require(void)
{
	struct sealane_component *c = NULL;
	struct sealane_lane *ends[2];
	char name[16];
	int r = 0, n = 0;

	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	for (; r == 0 && n < 20; n += r == 0) {
		snprintf(name, sizeof(name), "part %d", n);
		r = sealane_component(&c, name);
	}
	MODE_CHECK(n == 14 && r == -ENOSPC);
	MODE_CHECK(strstr(sealane_last_error(), "all 15") != NULL);
	return 0;
}

static int mode_require_taken(void)
{
	struct sealane_lane *ends[2];

	while (syscall(SYS_pkey_alloc, 0, 0) > 0)
		;
	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == -ENOTSUP);
	MODE_CHECK(ends[0] == NULL && ends[1] == NULL);
	return 0;
}

static int mode_off(void)
{
	struct sealane_lane *ends[2];

	MODE_CHECK(sealane_guarded(NULL) == 0 && keys_state() == KEYS_OFF);
	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	MODE_CHECK(rights_to(own(ends[0])) == WRITE);
	return 0;
}

static int mode_many(void) /* more components than keys, without "require": the rest are unguarded, and say so */
{
	struct sealane_component *c = NULL, *both[2] = { NULL, NULL };
	struct sealane_lane *ends[2];
	char name[16];
	int n_guarded = 0;

	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "part %d", i);
		MODE_CHECK(sealane_component(&c, name) == 0);
		n_guarded += sealane_component_guarded(c);
	}
	MODE_CHECK(n_guarded == 14);
	both[0] = c;
	MODE_CHECK(sealane_pair(ends, both, &g_messages) == 0);
	MODE_CHECK(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT) == -EACCES);
	sealane_component_join(c);
	MODE_CHECK(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT) == 0);
	MODE_CHECK(rights_to(own(ends[0])) == WRITE && rights_to(own(ends[1])) == NONE);
	return 0;
}

/* Dies of the fault as it would have without us, after one line. */
static int mode_default(void)
{
	struct sealane_lane *ends[2];
	struct sigaction dfl = { .sa_handler = SIG_DFL };

	sigaction(SIGSEGV, &dfl, NULL);
	MODE_CHECK(sealane_guard_handler(NULL, NULL) == 0);
	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	*(volatile uint32_t *)own(ends[0]) = 1;
	return 0;
}

/* Jumps onto the closing WRPKRU with a value that opens everything: the check behind it ends the process. */
static int mode_jump(void)
{
	struct sealane_lane *ends[2];

	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	__asm__ volatile("call *%3" : : "a"(0), "c"(0), "d"(0), "r"(keys_wrpkru_close) : "memory");
	return 0;
}

static void *mprotect_in_thread(void *arg)
{
	void **p = arg;

	pthread_barrier_wait(p[0]);
	pthread_barrier_wait(p[0]);
	return (void *)(intptr_t)(mprotect(p[1], 4096, PROT_READ | PROT_EXEC) < 0 ? errno : 0);
}

static int frozen(void *page, void *heap)
{
	struct iovec v = { page, 8 };
	char *const argv[] = { (char *)"/bin/true", NULL };

	MODE_CHECK(syscall(SYS_pkey_mprotect, page, 4096, PROT_READ | PROT_WRITE, 0) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_pkey_mprotect, page, 4096, PROT_READ | PROT_WRITE, -1) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_pkey_alloc, 0, 0) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_pkey_free, keys_process.key) == -1 && errno == EPERM);
	MODE_CHECK(mprotect(heap, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EPERM);
	MODE_CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EPERM);
	MODE_CHECK(mremap(heap, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED && errno == EPERM);
	MODE_CHECK(process_vm_readv(getpid(), &v, 1, &v, 1, 0) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_ptrace, 0, 0, 0, 0) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_io_uring_setup, 1, NULL) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_userfaultfd, 0) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_seccomp, 1, 0, NULL) == -1 && errno == EPERM);
	MODE_CHECK(prctl(PR_SET_SECCOMP, 1) == -1 && errno == EPERM);
	MODE_CHECK(prctl(PR_SET_DUMPABLE, 1) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_personality, 0x0400000) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_personality, 0xffffffff) >= 0);
	MODE_CHECK(syscall(SYS_getpid | 0x40000000) == -1 && errno == ENOSYS);
	MODE_CHECK(execv(argv[0], argv) == -1 && errno == EPERM);
	/* mprotect() without a key leaves the one that is there. */
	MODE_CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
	MODE_CHECK(rights_to(page) == NONE);
	return 0;
}

static int mode_harden(void)
{
	void *heap = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *r, *arg[2];
	struct sealane_component *c;
	struct sealane_lane *ends[2];
	pthread_barrier_t barrier;
	pthread_t thread;
	int fd;

	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	pthread_barrier_init(&barrier, NULL, 2);
	arg[0] = &barrier;
	arg[1] = heap;
	MODE_CHECK(pthread_create(&thread, NULL, mprotect_in_thread, arg) == 0);
	pthread_barrier_wait(&barrier); /* it runs: the filter reaches it all the same */
	MODE_CHECK(sealane_harden(0) == 0 && sealane_harden(0) == 0);
	pthread_barrier_wait(&barrier);
	MODE_CHECK(pthread_join(thread, &r) == 0 && (intptr_t)r == EPERM);
	MODE_CHECK(frozen(own(ends[0]), heap) == 0);

	/* The program goes on: threads, memory, lanes, and new lanes are guarded as before. */
	MODE_CHECK(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT) == 0);
	sealane_close(ends[0]);
	sealane_close(ends[1]);
	MODE_CHECK(pthread_create(&thread, NULL, rights_in_thread, heap) == 0 && pthread_join(thread, &r) == 0 && (intptr_t)r == WRITE);
	heap = malloc(1 << 20);
	heap = realloc(heap, 1 << 22);
	MODE_CHECK(heap != NULL);
	free(heap);
	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	MODE_CHECK(sealane_guarded(NULL) == 1 && rights_to(own(ends[0])) == NONE);
	MODE_CHECK(sealane_component(&c, "late") == 0 && !sealane_component_guarded(c));

	/* What remains. */
	fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	MODE_CHECK(fd >= 0 && pwrite(fd, "x", 1, (off_t)(uintptr_t)own(ends[0])) == 1);
	return 0;
}

/* With components, no mapping changes its key any more: what could give one to another. */
static int mode_harden_components(void)
{
	struct sealane_component *both[2];
	struct sealane_lane *ends[2], *late[2];
	const char *text;

	MODE_CHECK(sealane_component(&both[0], "a") == 0 && sealane_component(&both[1], "b") == 0);
	MODE_CHECK(sealane_pair(ends, both, &g_messages) == 0);
	MODE_CHECK(sealane_harden(0) == 0);
	MODE_CHECK(syscall(SYS_pkey_mprotect, own(ends[0]), 4096, PROT_READ, both[1]->domain.key) == -1 && errno == EPERM);
	MODE_CHECK(syscall(SYS_pkey_mprotect, own(ends[0]), 4096, PROT_READ, keys_process.key) == -1 && errno == EPERM);
	MODE_CHECK(sealane_pair(late, both, &g_messages) == -EPERM);
	MODE_CHECK(strstr(sealane_last_error(), "EPERM") || strstr(sealane_last_error(), "not permitted"));
	MODE_CHECK(sealane_pair(late, NULL, &g_messages) == 0); /* an ordinary lane works, unguarded, and that is told */
	MODE_CHECK(sealane_guarded(&text) == 0 && strstr(text, "but for") != NULL);
	sealane_component_join(both[0]);
	MODE_CHECK(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT) == 0);
	MODE_CHECK(rights_to(own(ends[0])) == NONE && rights_to(own(ends[1])) == NONE);
	return 0;
}

static int mode_harden_nodump(void)
{
	struct sealane_lane *ends[2];

	MODE_CHECK(sealane_pair(ends, NULL, &g_messages) == 0);
	MODE_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	MODE_CHECK(prctl(PR_SET_DUMPABLE, 1) == 0); /* as in a program that was started by that user */
	MODE_CHECK(access("/proc/self/mem", R_OK | W_OK) == 0);
	MODE_CHECK(sealane_harden(SEALANE_HARDEN_NO_DUMP) == 0);
	MODE_CHECK(prctl(PR_GET_DUMPABLE) == 0);
	MODE_CHECK(open("/proc/self/mem", O_RDWR | O_CLOEXEC) == -1 && errno == EACCES);
	MODE_CHECK(open("/proc/thread-self/mem", O_RDONLY | O_CLOEXEC) == -1 && errno == EACCES);
	return 0;
}

/* The 32-bit way into the kernel: mprotect(0, 0, 0) by number 125. */
static int mode_harden_int80(void)
{
	long r = 125;

	MODE_CHECK(sealane_harden(0) == 0);
	__asm__ volatile("int $0x80" : "+a"(r) : "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
	return 0;
}

static const struct {
	const char *name, *keys; /* $SEALANE_KEYS */
	int (*run)(void);
	int signal; /* that is to end it */
	const char *says;
} g_modes[] = {
	{ "--taken", NULL, mode_taken, 0, NULL },
	{ "--off", "off", mode_off, 0, NULL },
	{ "--require", "require", mode_require, 0, NULL },
	{ "--require-taken", "require", mode_require_taken, 0, NULL },
	{ "--many", NULL, mode_many, 0, NULL },
	{ "--default", NULL, mode_default, SIGSEGV, "sealane: stray write at 0x" },
	{ "--jump", NULL, mode_jump, SIGILL, NULL },
	{ "--harden", NULL, mode_harden, 0, NULL },
	{ "--harden-components", NULL, mode_harden_components, 0, NULL },
	{ "--harden-nodump", NULL, mode_harden_nodump, 0, NULL },
	{ "--harden-int80", NULL, mode_harden_int80, SIGSYS, NULL },
};

static void run_mode(size_t i)
{
	char said[1024] = "";
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		if (g_modes[i].keys)
			setenv("SEALANE_KEYS", g_modes[i].keys, 1);
		else
			unsetenv("SEALANE_KEYS");
		dup2(fds[1], STDERR_FILENO);
		execl("/proc/self/exe", "test_keys_vm", g_modes[i].name, NULL);
		_exit(98);
	}
	close(fds[1]);
	n = read(fds[0], said, sizeof(said) - 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(fds[0]);
	said[n > 0 ? n : 0] = '\0';
	if (said[0])
		print_message("%s: %s", g_modes[i].name, said);
	if (g_modes[i].signal)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == g_modes[i].signal);
	else
		assert_int_equal(status, 0);
	if (g_modes[i].says)
		assert_non_null(strstr(said, g_modes[i].says));
}

static void test_processes(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_modes); i++) {
		print_message("process %s\n", g_modes[i].name);
		run_mode(i);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_is_on),
		cmocka_unit_test(test_stray_access_names_the_lane),
		cmocka_unit_test(test_other_faults_are_not_ours),
		cmocka_unit_test(test_a_closed_lane_is_forgotten),
		cmocka_unit_test(test_calls_open_and_close),
		cmocka_unit_test(test_zero_copy_stays_open_for_its_thread),
		cmocka_unit_test(test_rights_are_the_threads_own),
		cmocka_unit_test(test_one_gate_for_many_calls),
		cmocka_unit_test(test_the_kernel_asks_the_key_too),
		cmocka_unit_test(test_signal_handlers_run_closed),
		cmocka_unit_test(test_components_have_keys_of_their_own),
		cmocka_unit_test(test_handlers_of_calls_run_closed),
		cmocka_unit_test(test_way_round_proc_mem),
		cmocka_unit_test(test_way_round_process_vm),
		cmocka_unit_test(test_way_round_second_mapping),
		cmocka_unit_test(test_way_round_pinned_pages),
		cmocka_unit_test(test_way_round_signal_frame),
		cmocka_unit_test(test_processes),
	};
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &sa, NULL);
	for (size_t i = 0; argc == 2 && i < ARRAY_SIZE(g_modes); i++)
		if (strcmp(argv[1], g_modes[i].name) == 0)
			return g_modes[i].run();
	if (sealane_guard_handler(on_report, &g_n_reports) < 0 || sigaction(SIGSEGV, NULL, &g_guard_handler) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
