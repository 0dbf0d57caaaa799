/* What region_create() makes, and that region_check() refuses everything else a peer could send in its place. */
#include "shm/test_pair.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };

static off_t region_bytes(void)
{
	return (off_t)shm_region_size(CAP_LOG2);
}

/* A memfd of @size bytes, all there, with these seals. */
static int make_memfd(off_t size, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *base;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	base = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(base, MAP_FAILED);
	memset(base, 0, (size_t)size);
	munmap(base, (size_t)size);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* Closes it, too. */
static void expect_refused(int fd, const char *because)
{
	struct region r = { .base = NULL };
	const char *why = NULL;

	assert_true(fd >= 0);
	assert_int_equal(region_check(fd, CAP_LOG2, &why), -EPROTO);
	assert_non_null(why);
	if (!strstr(why, because))
		fail_msg("\"%s\" says nothing about \"%s\"", why, because);
	assert_int_equal(region_map_peer(&r, fd, CAP_LOG2), -EPROTO);
	assert_null(r.base);
	close(fd);
}

static void what_we_make_is_accepted(void **state)
{
	static const uint32_t caps[] = { SHM_CAP_LOG2_MIN, 15, 20, 23 };

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		struct region own = { .base = NULL }, peer = { .base = NULL };
		const char *why = "unset";
		int fd = -1;

		assert_int_equal(region_create(&own, &fd, caps[i], 0), 0);
		assert_int_equal(region_check(fd, caps[i], &why), 0);
		assert_null(why);
		assert_int_equal(region_check(fd, caps[i], NULL), 0);
		assert_int_equal(region_map_peer(&peer, fd, caps[i]), 0);
		assert_int_equal(peer.size, shm_region_size(caps[i]));
		assert_int_equal(peer.base->magic, SHM_MAGIC);
		assert_int_equal(peer.base->cap_log2, caps[i]);
		/* the owner still writes, and the other sees it */
		atomic_store(&own.base->head, 42);
		assert_int_equal(atomic_load(&peer.base->head), 42);
		region_unmap(&own);
		region_unmap(&peer);
		region_unmap(&peer);
		assert_null(peer.base);
		close(fd);
	}
}

static void another_ring_size_is_refused(void **state)
{
	struct region own;
	int fd = -1;

	assert_int_equal(region_create(&own, &fd, CAP_LOG2, 0), 0);
	for (uint32_t cap_log2 = 0; cap_log2 < 70; cap_log2++)
		assert_int_equal(region_check(fd, cap_log2, NULL), cap_log2 == CAP_LOG2 ? 0 : -EPROTO);
	assert_int_equal(region_check(fd, UINT32_MAX, NULL), -EPROTO);
	region_unmap(&own);
	close(fd);
}

static void another_file_size_is_refused(void **state)
{
	expect_refused(make_memfd(region_bytes() - 1, SEALS), "size");
	expect_refused(make_memfd(region_bytes() + 1, SEALS), "size");
	expect_refused(make_memfd(region_bytes() + 4096, SEALS), "size");
	expect_refused(make_memfd(4096, SEALS), "size");
}

static void every_seal_is_needed(void **state)
{
	static const int seals[] = { F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL };

	expect_refused(make_memfd(region_bytes(), 0), "sealed");
	for (size_t i = 0; i < ARRAY_SIZE(seals); i++)
		expect_refused(make_memfd(region_bytes(), SEALS & ~seals[i]), "sealed");
	/* WRITE would be stronger, yet it is not what we make */
	expect_refused(make_memfd(region_bytes(), (SEALS & ~F_SEAL_FUTURE_WRITE) | F_SEAL_WRITE), "sealed");
}

static void holes_are_refused(void **state)
{
	off_t size = region_bytes();
	int fd = memfd_create("test", MFD_ALLOW_SEALING);

	/* nothing there at all */
	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	expect_refused(fd, "holes");
	/* one page missing in the middle, at the start, at the end */
	for (off_t at = 0; at < size; at += size > 4096 ? 4096 : size) {
		fd = make_memfd(size, 0);
		assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 4096), 0);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
		expect_refused(fd, "holes");
	}
}

/* Pages beyond the end count in st_blocks as well as those inside do. */
static void holes_made_up_for_beyond_the_end_are_refused(void **state)
{
	off_t size = region_bytes();
	int fd = memfd_create("test", MFD_ALLOW_SEALING);
	struct stat st;

	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, size, size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks * 512 >= st.st_size);
	expect_refused(fd, "holes");
}

static void other_kinds_of_file_are_refused(void **state)
{
	char path[] = "/tmp/sealane-region-XXXXXX", shm[] = "/dev/shm/sealane-region-XXXXXX";
	int fds[2], fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(posix_fallocate(fd, 0, region_bytes()), 0);
	expect_refused(fd, "");
	fd = mkstemp(shm);
	if (fd >= 0) { /* a tmpfs, but nobody can seal files there */
		unlink(shm);
		assert_int_equal(posix_fallocate(fd, 0, region_bytes()), 0);
		expect_refused(fd, "sealed");
	}
	assert_int_equal(pipe(fds), 0);
	expect_refused(fds[0], "memfd");
	expect_refused(fds[1], "memfd");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	expect_refused(fds[0], "memfd");
	close(fds[1]);
	expect_refused(open("/tmp", O_RDONLY | O_DIRECTORY), "");
	expect_refused(open("/dev/zero", O_RDWR), "");
	expect_refused(open("/proc/self/mem", O_RDONLY), "memfd");
	expect_refused(open("/tmp", O_PATH), "memfd");
	assert_int_equal(region_check(-1, CAP_LOG2, NULL), -EPROTO);
}

/* A region with nothing wrong but the descriptor itself: it could not be mapped, which must not look like our own shortage. */
static void a_descriptor_for_writing_only_is_refused(void **state)
{
	int fd = make_memfd(region_bytes(), 0), only;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	only = open(path, O_WRONLY);
	assert_true(only >= 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	close(fd);
	expect_refused(only, "reading");
}

/* Returns the number that was there, or -1. */
static long set_huge_pages(long n)
{
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+");
	long was = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &was) != 1)
		was = -1;
	rewind(f);
	if (was >= 0 && (fprintf(f, "%ld\n", n) < 0 || fflush(f) != 0))
		was = -1;
	fclose(f);
	return was;
}

static void huge_pages_are_refused(void **state)
{
	int fd = memfd_create("test", MFD_HUGETLB | MFD_ALLOW_SEALING);
	long was;

	/* even without one: the kind of file is enough to know */
	if (fd < 0)
		skip();
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	expect_refused(fd, "memfd of ordinary pages");
	was = set_huge_pages(4);
	if (was < 0) {
		print_message("huge pages: not tried with pages behind them: vm.nr_hugepages cannot be set here\n");
		return;
	}
	fd = memfd_create("test", MFD_HUGETLB | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	if (fallocate(fd, 0, 0, 2 << 20) < 0)
		print_message("huge pages: not tried with pages behind them: %s\n", strerror(errno));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	expect_refused(fd, "memfd of ordinary pages");
	(void)set_huge_pages(was);
}

/* What whoever got the descriptor may try. */
static void the_receiver_can_not_write(void **state)
{
	struct region own, peer;
	char path[64];
	void *base;
	int fd = -1;

	assert_int_equal(region_create(&own, &fd, CAP_LOG2, 0), 0);
	assert_int_equal(region_map_peer(&peer, fd, CAP_LOG2), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);

	assert_ptr_equal(mmap(NULL, own.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_ptr_equal(mmap(NULL, own.size, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	assert_int_equal(mprotect(peer.base, peer.size, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(write(fd, "x", 1), -1);
	assert_int_equal(pwrite(fd, "x", 1, 4096), -1);
	/* the file can be opened again, but what comes of it can still not write */
	for (int flags = O_WRONLY; flags <= O_RDWR; flags++) {
		AUTO_FD again = open(path, flags | O_CLOEXEC);

		if (again < 0)
			continue;
		assert_int_equal(write(again, "x", 1), -1);
		assert_ptr_equal(mmap(NULL, own.size, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
		assert_int_equal(ftruncate(again, 0), -1);
	}
	assert_int_equal(open(path, O_RDWR | O_TRUNC), -1);
	/* a private copy may be written, and stays one */
	base = mmap(NULL, own.size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(base, MAP_FAILED);
	memset(base, 0xff, own.size);
	assert_int_equal(own.base->magic, SHM_MAGIC);
	munmap(base, own.size);
	region_unmap(&own);
	region_unmap(&peer);
	close(fd);
}

/* ... and what the owner may try, to pull the memory away from under its reader. */
static void nobody_can_take_memory_away(void **state)
{
	struct region own;
	int fd = -1;

	assert_int_equal(region_create(&own, &fd, CAP_LOG2, 0), 0);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(ftruncate(fd, region_bytes() - 4096), -1);
	assert_int_equal(ftruncate(fd, region_bytes() * 2), -1);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	assert_int_equal(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -1);
	assert_int_equal(fallocate(fd, 0, 0, region_bytes() + 4096), -1);
	assert_int_equal(madvise(own.base, own.size, MADV_REMOVE), -1);
	assert_int_equal(madvise(own.base, own.size, MADV_DONTNEED), 0); /* only this process's view of it */
	assert_int_equal(own.base->magic, SHM_MAGIC);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(region_check(fd, CAP_LOG2, NULL), 0);
	region_unmap(&own);
	close(fd);
}

/* A stray write of the reader ends the reader, not the lane. */
static void a_write_through_the_readers_mapping_faults(void **state)
{
	struct region own, peer;
	int fd = -1, status;
	pid_t pid;

	assert_int_equal(region_create(&own, &fd, CAP_LOG2, 0), 0);
	assert_int_equal(region_map_peer(&peer, fd, CAP_LOG2), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile uint64_t *)&peer.base->magic = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	region_unmap(&own);
	region_unmap(&peer);
	close(fd);
}

static void failing_leaves_nothing_behind(void **state)
{
	struct region r = { .base = NULL };
	struct rlimit was, none;
	int fd = -7;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = was;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(region_create(&r, &fd, CAP_LOG2, 0), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	assert_int_equal(fd, -7);
	assert_null(r.base);
}

static void on_alarm(int signo)
{
	(void)signo;
}

/* Some kernels give back all that fallocate() took when a signal comes: with a fast timer it must still end. */
static void a_fast_timer_does_not_stop_it(void **state)
{
	struct itimerspec every = { .it_interval.tv_nsec = 2000000, .it_value.tv_nsec = 2000000 }, never = { .it_value.tv_sec = 0 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	struct sigaction sa = { .sa_handler = on_alarm };
	struct region own;
	timer_t timer;
	int fd = -1;

	assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	assert_int_equal(region_create(&own, &fd, 26, 0), 0);
	assert_int_equal(timer_settime(timer, 0, &never, NULL), 0);
	timer_delete(timer);
	assert_int_equal(region_check(fd, 26, NULL), 0);
	region_unmap(&own);
	close(fd);
}

static void sizes_are_rounded_up(void **state)
{
	assert_int_equal(region_cap_log2(0), SHM_CAP_LOG2_MIN);
	assert_int_equal(region_cap_log2(4096), 12);
	assert_int_equal(region_cap_log2(4097), 13);
	assert_int_equal(region_cap_log2(1 << 20), 20);
	assert_int_equal(region_cap_log2(UINT64_MAX), SHM_CAP_LOG2_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_we_make_is_accepted),
		cmocka_unit_test(another_ring_size_is_refused),
		cmocka_unit_test(another_file_size_is_refused),
		cmocka_unit_test(every_seal_is_needed),
		cmocka_unit_test(holes_are_refused),
		cmocka_unit_test(holes_made_up_for_beyond_the_end_are_refused),
		cmocka_unit_test(other_kinds_of_file_are_refused),
		cmocka_unit_test(a_descriptor_for_writing_only_is_refused),
		cmocka_unit_test(huge_pages_are_refused),
		cmocka_unit_test(the_receiver_can_not_write),
		cmocka_unit_test(nobody_can_take_memory_away),
		cmocka_unit_test(a_write_through_the_readers_mapping_faults),
		cmocka_unit_test(failing_leaves_nothing_behind),
		cmocka_unit_test(a_fast_timer_does_not_stop_it),
		cmocka_unit_test(sizes_are_rounded_up),
	};

	return cmocka_run_group_tests_name("region", tests, NULL, NULL);
}
