/* Messages between a container's library and the daemon: the check, and descriptors on the way. */
#include "wire/control.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

static struct control_msg message(uint32_t type)
{
	return (struct control_msg){ .type = type, .version = CONTROL_VERSION };
}

static int check(const struct control_msg *m)
{
	return control_check(m, control_msg_size(m->type), control_n_fds(m->type));
}

static void test_sizes(void **state)
{
	assert_int_equal(control_msg_size(CTL_NONE), 0);
	assert_int_equal(control_msg_size(CTL_TYPE_N), 0);
	assert_int_equal(control_msg_size(UINT32_MAX), 0);
	assert_int_equal(control_n_fds(UINT32_MAX), 0);
	for (uint32_t t = CTL_NONE + 1; t < CTL_TYPE_N; t++) {
		struct control_msg m = message(t);

		assert_in_range(control_msg_size(t), offsetof(struct control_msg, u), sizeof(m));
		assert_in_range(control_n_fds(t), 0, CONTROL_FDS);
		assert_int_equal(check(&m), 0);
		assert_int_equal(control_check(&m, control_msg_size(t) - 1, control_n_fds(t)), -EBADMSG);
		assert_int_equal(control_check(&m, control_msg_size(t) + 1, control_n_fds(t)), -EBADMSG);
		assert_int_equal(control_check(&m, control_msg_size(t), control_n_fds(t) + 1), -EBADMSG);
		if (control_n_fds(t))
			assert_int_equal(control_check(&m, control_msg_size(t), control_n_fds(t) - 1), -EBADMSG);
	}
}

/* The version is told apart from a malformed message whatever else is wrong, as a later one may look different. */
static void test_version(void **state)
{
	struct control_msg m = message(CTL_CONNECT);

	m.version = CONTROL_VERSION + 1;
	assert_int_equal(check(&m), -EPROTONOSUPPORT);
	m.type = 4711;
	assert_int_equal(control_check(&m, sizeof(m), 2), -EPROTONOSUPPORT);
	m.version = 0;
	assert_int_equal(control_check(&m, offsetof(struct control_msg, u), 0), -EPROTONOSUPPORT);
	assert_int_equal(control_check(&m, offsetof(struct control_msg, u) - 1, 0), -EBADMSG);
	assert_int_equal(control_check(&m, 0, 0), -EBADMSG);
}

static void expect_unterminated(uint32_t type, size_t offset, size_t size)
{
	struct control_msg m = message(type);

	memset((char *)&m + offset, 'x', size);
	assert_int_equal(check(&m), -EBADMSG);
	((char *)&m)[offset + size - 1] = '\0';
	assert_int_equal(check(&m), 0);
}

#define UNTERMINATED(type, member) \
	expect_unterminated(type, offsetof(struct control_msg, member), sizeof(((struct control_msg *)0)->member))

static void test_strings(void **state)
{
	const uint32_t asks[] = { CTL_CONNECT, CTL_LISTEN }, lanes[] = { CTL_ACCEPT, CTL_OPEN, CTL_OFFER };
	const uint32_t errors[] = { CTL_REJECT, CTL_CUT, CTL_ERROR, CTL_LISTENING };

	for (size_t i = 0; i < ARRAY_SIZE(asks); i++) {
		UNTERMINATED(asks[i], u.ask.service);
		UNTERMINATED(asks[i], u.ask.as);
	}
	for (size_t i = 0; i < ARRAY_SIZE(lanes); i++) {
		UNTERMINATED(lanes[i], u.lane.peer.service);
		UNTERMINATED(lanes[i], u.lane.peer.spiffe_id);
		UNTERMINATED(lanes[i], u.lane.peer.workload);
		UNTERMINATED(lanes[i], u.lane.peer.host);
		UNTERMINATED(lanes[i], u.lane.path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		UNTERMINATED(errors[i], u.error.why);
}

static void test_values(void **state)
{
	struct control_msg m = message(CTL_CONNECT);

	m.u.ask.kind = CONTROL_KIND_N;
	assert_int_equal(check(&m), -EBADMSG);
	m.u.ask.kind = CONTROL_FANOUT;
	m.u.ask.flags = CONTROL_SPINS;
	assert_int_equal(check(&m), 0);
	m.u.ask.flags = CONTROL_SPINS | 2;
	assert_int_equal(check(&m), -EBADMSG);
	m = message(CTL_OFFER);
	m.u.lane.kind = UINT32_MAX;
	assert_int_equal(check(&m), -EBADMSG);
	m = message(CTL_ACCEPT);
	m.u.lane.flags = 1u << 31;
	assert_int_equal(check(&m), -EBADMSG);
}

static void make_pair(int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

static size_t count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void test_send_and_receive(void **state)
{
	size_t n_before = count_fds();
	int pair[2], fds[CONTROL_FDS];
	struct control_msg got;

	make_pair(pair);
	const int sent[CONTROL_FDS] = { pair[0], pair[1], pair[0] };
	for (uint32_t t = CTL_NONE + 1; t < CTL_TYPE_N; t++) {
		struct control_msg m = message(t);

		assert_int_equal(control_send(pair[0], &m, sent), 0);
		assert_int_equal(control_recv(pair[1], &got, fds), 1);
		assert_int_equal(got.type, t);
		for (size_t i = 0; i < CONTROL_FDS; i++) {
			assert_true((fds[i] >= 0) == (i < control_n_fds(t)));
			if (fds[i] >= 0) {
				assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
				close(fds[i]);
			}
		}
	}
	assert_int_equal(control_recv(pair[1], &got, fds), -EAGAIN);
	close(pair[0]);
	assert_int_equal(control_recv(pair[1], &got, fds), 0);
	close(pair[1]);
	assert_int_equal(count_fds(), n_before);
}

static void send_raw(int sock, const void *bytes, size_t size, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
			     .msg_controllen = CMSG_SPACE(n_fds * sizeof(int)) };
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
	for (size_t i = 0; i < n_fds; i++)
		memcpy(CMSG_DATA(cm) + i * sizeof(int), &sock, sizeof(int));
	assert_int_equal(sendmsg(sock, &mh, MSG_NOSIGNAL), size);
}

/* Nothing that came with a message that is refused stays open, however much it was. */
static void test_wrong_descriptors(void **state)
{
	size_t n_before = count_fds();
	struct control_msg got, m = message(CTL_OFFER);
	int pair[2], fds[CONTROL_FDS];

	make_pair(pair);
	for (size_t n = 1; n <= 16; n++) {
		send_raw(pair[0], &m, control_msg_size(m.type), n);
		assert_int_equal(control_recv(pair[1], &got, fds), n == CONTROL_FDS ? 1 : -EBADMSG);
		for (size_t i = 0; i < CONTROL_FDS; i++) {
			assert_true((fds[i] >= 0) == (n == CONTROL_FDS));
			if (fds[i] >= 0)
				close(fds[i]);
		}
	}
	send_raw(pair[0], &m, 0, 2); /* descriptors without a message */
	assert_int_equal(control_recv(pair[1], &got, fds), -EBADMSG);
	close(pair[0]);
	close(pair[1]);
	assert_int_equal(count_fds(), n_before);
}

static void test_full_and_gone(void **state)
{
	struct control_msg m = message(CTL_CUT);
	int pair[2], r, n = 0;

	make_pair(pair);
	while ((r = control_send(pair[0], &m, NULL)) == 0)
		n++;
	assert_int_equal(r, -EAGAIN);
	assert_true(n > 1);
	close(pair[1]);
	assert_int_equal(control_send(pair[0], &m, NULL), -ECONNRESET); /* with all that unread */
	assert_int_equal(control_send(pair[0], &m, NULL), -EPIPE);
	close(pair[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),		  cmocka_unit_test(test_version),	    cmocka_unit_test(test_strings),
		cmocka_unit_test(test_values),		  cmocka_unit_test(test_send_and_receive), cmocka_unit_test(test_wrong_descriptors),
		cmocka_unit_test(test_full_and_gone),
	};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
