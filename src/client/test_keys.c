/* Guarded lanes as far as any machine can show them: without PKU all of it works and says so. tests/vm/test_keys_vm.c has the faults. */
#include "client/guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <cmocka.h>

static const struct sealane_options g_messages = { sizeof(g_messages), SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, 1 << 16, 0, NULL, NULL };

static void test_state_is_told(void **state)
{
	const char *text = NULL;
	int on = sealane_guarded(&text);

	assert_non_null(text);
	assert_true(keys_state() != KEYS_UNKNOWN);
	assert_int_equal(on, keys_state() == KEYS_ON);
	assert_int_equal(on, keys_process.key != 0);
	assert_string_equal(text, keys_state_text(keys_state()));
	assert_int_equal(sealane_guarded(NULL), on);
	for (int i = 0; i <= KEYS_STATE_N; i++)
		assert_true(keys_state_text((enum keys_state)i)[0] != '\0');
}

static void say(struct sealane_lane *from, struct sealane_lane *to, const char *text)
{
	char buf[64];

	assert_int_equal(sealane_send(from, text, strlen(text) + 1, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_recv(to, buf, sizeof(buf), SEALANE_NOWAIT), strlen(text) + 1);
	assert_string_equal(buf, text);
}

static void test_pair_of_the_process(void **state)
{
	struct sealane_lane *ends[2];
	void *place;
	const void *seen;
	size_t size;

	assert_int_equal(sealane_pair(ends, NULL, &g_messages), 0);
	assert_string_equal(sealane_peer(ends[0])->service, "self");
	assert_string_equal(sealane_peer(ends[0])->path, "pair");
	say(ends[0], ends[1], "hello");
	say(ends[1], ends[0], "well");
	assert_int_equal(sealane_guard_open(ends[0]), 0);
	assert_int_equal(sealane_reserve(ends[0], 8, &place, SEALANE_NOWAIT), 0);
	memcpy(place, "in place", 8);
	assert_int_equal(sealane_commit(ends[0], 8), 0);
	sealane_guard_close(ends[0]);
	assert_int_equal(sealane_peek(ends[1], &seen, &size, NULL, SEALANE_NOWAIT), 0);
	assert_int_equal(size, 8);
	assert_memory_equal(seen, "in place", 8);
	sealane_release(ends[1]);
	sealane_close(ends[0]);
	assert_int_equal(sealane_recv(ends[1], &size, sizeof(size), SEALANE_NOWAIT), -ENODATA);
	sealane_close(ends[1]);
}

static void test_pair_refuses(void **state)
{
	struct sealane_options o = g_messages;
	struct sealane_lane *ends[2] = { (void *)1, (void *)1 };

	o.kind = SEALANE_FANOUT;
	assert_int_equal(sealane_pair(ends, NULL, &o), -EINVAL);
	assert_null(ends[0]);
	o.kind = SEALANE_STREAM;
	o.wait = 17;
	assert_int_equal(sealane_pair(ends, NULL, &o), -EINVAL);
	assert_int_equal(sealane_pair(ends, NULL, NULL), 0); /* the defaults: a stream */
	assert_int_equal(sealane_kind(ends[0]), SEALANE_STREAM);
	assert_int_equal(sealane_write(ends[0], "abc", 3, SEALANE_NOWAIT), 3);
	sealane_close(ends[0]);
	sealane_close(ends[1]);
}

/* Which component a thread works for is asked with and without keys. */
static void test_components_keep_apart(void **state)
{
	struct sealane_component *a, *b, *again, *both[2];
	struct sealane_lane *ends[2];
	char buf[8];
	void *place;

	assert_int_equal(sealane_component(&a, "decoder"), 0);
	assert_int_equal(sealane_component(&b, "parser"), 0);
	assert_int_equal(sealane_component(&again, "decoder"), 0);
	assert_ptr_equal(a, again);
	assert_ptr_not_equal(a, b);
	assert_int_equal(sealane_component(&again, ""), -EINVAL);
	assert_int_equal(sealane_component(&again, "a name of more than thirty-one bytes"), -EINVAL);
	assert_int_equal(sealane_component_guarded(a), keys_state() == KEYS_ON);
	both[0] = a;
	both[1] = b;
	assert_int_equal(sealane_pair(ends, both, &g_messages), 0);
	assert_string_equal(sealane_peer(ends[0])->service, "parser");
	assert_string_equal(sealane_peer(ends[1])->service, "decoder");

	assert_int_equal(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT), -EACCES);
	assert_non_null(strstr(sealane_last_error(), "decoder"));
	sealane_component_join(a);
	assert_int_equal(sealane_send(ends[0], "x", 1, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_recv(ends[1], buf, sizeof(buf), SEALANE_NOWAIT), -EACCES);
	assert_int_equal(sealane_reserve(ends[1], 8, &place, SEALANE_NOWAIT), -EACCES);
	assert_int_equal(sealane_commit(ends[1], 0), -EACCES);
	assert_int_equal(sealane_flush(ends[1]), -EACCES);
	assert_int_equal(sealane_shutdown(ends[1]), -EACCES);
	assert_int_equal(sealane_guard_open(ends[1]), -EACCES);
	sealane_release(ends[1]);
	sealane_component_join(b);
	assert_int_equal(sealane_recv(ends[1], buf, sizeof(buf), SEALANE_NOWAIT), 1);
	sealane_component_join(NULL);
	sealane_close(ends[0]);
	sealane_close(ends[1]);
}

static void *send_from_thread(void *arg)
{
	return (void *)(intptr_t)sealane_send(arg, "x", 1, SEALANE_NOWAIT);
}

static void test_new_threads_have_no_component(void **state)
{
	struct sealane_component *both[2];
	struct sealane_lane *ends[2];
	pthread_t thread;
	void *r;

	assert_int_equal(sealane_component(&both[0], "decoder"), 0);
	both[1] = NULL;
	assert_int_equal(sealane_pair(ends, both, &g_messages), 0);
	sealane_component_join(both[0]);
	assert_int_equal(pthread_create(&thread, NULL, send_from_thread, ends[0]), 0);
	assert_int_equal(pthread_join(thread, &r), 0);
	assert_int_equal((intptr_t)r, -EACCES);
	assert_int_equal(sealane_send(ends[1], "x", 1, SEALANE_NOWAIT), 0); /* the process's own end is everybody's */
	sealane_component_join(NULL);
	sealane_close(ends[0]);
	sealane_close(ends[1]);
}

static void test_hardening_without_keys_does_nothing(void **state)
{
	void *p;

	assert_int_equal(sealane_harden(0x80), -EINVAL);
	if (sealane_guarded(NULL))
		return; /* it cannot be taken back: tests/vm/test_keys_vm.c */
	assert_int_equal(sealane_harden(0), -ENOTSUP);
	assert_non_null(strstr(sealane_last_error(), "nothing to harden"));
	p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	munmap(p, 4096);
}

#if KEYS_HAVE_PKU

static size_t n_found(const void *at)
{
	struct sealane_gadget g[256];
	ssize_t n = sealane_guard_scan(g, ARRAY_SIZE(g));
	size_t found = 0;

	assert_true(n >= 0 && n <= (ssize_t)ARRAY_SIZE(g));
	for (ssize_t i = 0; i < n; i++)
		found += g[i].address == at;
	return found;
}

static void test_scan_finds(void **state)
{
	static const uint8_t wrpkru[] = { 0x0f, 0x01, 0xef }, xrstor[] = { 0x0f, 0xae, 0x6c }, lfence[] = { 0x0f, 0xae, 0xe8 };
	uint8_t *p = mmap(NULL, 3 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sealane_gadget g[256];
	size_t n_ours = 0;
	ssize_t n;

	assert_ptr_not_equal(p, MAP_FAILED);
	memcpy(p + 10, wrpkru, 3);
	memcpy(p + 100, xrstor, 3);
	memcpy(p + 200, lfence, 3);
	memcpy(p + (1 << 16) - 1, wrpkru, 3); /* over the border of what is read at once */
	memcpy(p + (2 << 16) - 2, wrpkru, 3); /* and over that of two mappings */
	assert_int_equal(n_found(p + 10), 0); /* not executable yet */
	assert_int_equal(mprotect(p, 2 << 16, PROT_READ | PROT_EXEC), 0);
	assert_int_equal(mprotect(p + (2 << 16), 1 << 16, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
	assert_int_equal(n_found(p + 10), 1);
	assert_int_equal(n_found(p + 100), 1);
	assert_int_equal(n_found(p + 200), 0);
	assert_int_equal(n_found(p + (1 << 16) - 1), 1);
	assert_int_equal(n_found(p + (2 << 16) - 2), 1);
	munmap(p, 3 << 16);

	n = sealane_guard_scan(g, ARRAY_SIZE(g));
	assert_in_range(n, 2, ARRAY_SIZE(g));
	for (ssize_t i = 0; i < n; i++) {
		n_ours += g[i].is_ours != 0;
		assert_true(g[i].file[0] != '\0');
		assert_true(!g[i].is_ours || !g[i].is_xrstor);
		print_message("%s %s+0x%llx%s\n", g[i].is_xrstor ? "XRSTOR" : "WRPKRU", g[i].file, (unsigned long long)g[i].offset,
			      g[i].is_ours ? " (ours)" : "");
	}
	assert_int_equal(n_ours, 2);
	assert_int_equal(sealane_guard_scan(NULL, 0), n);
}

#else

static void test_scan_finds(void **state)
{
	assert_int_equal(sealane_guard_scan(NULL, 0), 0);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_state_is_told),
		cmocka_unit_test(test_pair_of_the_process),
		cmocka_unit_test(test_pair_refuses),
		cmocka_unit_test(test_components_keep_apart),
		cmocka_unit_test(test_new_threads_have_no_component),
		cmocka_unit_test(test_hardening_without_keys_does_nothing),
		cmocka_unit_test(test_scan_finds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
