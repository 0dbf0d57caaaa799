/*
 * A message from another role, which may have been taken over: whatever its bytes, role_msg_check() answers 0 or -EBADMSG,
 * and once it said 0 every string that a role would read ends inside the message. The message lies at the end of its
 * memory, so that the sanitizer sees each byte that is read beyond the given size.
 */
#include "wire/role.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t g_sink;

static void touch(const char *s, size_t cap)
{
	size_t n = strlen(s);

	if (n >= cap)
		abort();
	g_sink += n;
}

static void touch_words(const struct role_check *c)
{
	const char *at = c->args, *end = c->args + sizeof(c->args);

	if (c->n_args > LIMIT_CHECK_ARGS || end[-1] != '\0')
		abort();
	/* As the checker walks them: the last byte is a NUL, so a word that starts inside also ends inside. */
	for (uint32_t n = 0; n < c->n_args && at < end; n++) {
		touch(at, (size_t)(end - at));
		at += strlen(at) + 1;
	}
}

#define TOUCH(a) touch((a), sizeof(a))

static void touch_strings(const struct role_msg *m)
{
	switch (m->type) {
	case BW_WORKLOAD_ADD:
		TOUCH(m->u.workload.name);
		break;
	case BW_ENROL:
	case BW_UNENROL:
	case WB_CGROUP_GONE:
		TOUCH(m->u.cgroup.path);
		break;
	case BW_LISTEN:
		TOUCH(m->u.listen.path);
		break;
	case BW_SERVER:
		TOUCH(m->u.server.path);
		break;
	case WB_REPLY:
		TOUCH(m->u.reply.path);
		TOUCH(m->u.reply.why);
		break;
	case WB_CONFIG:
		TOUCH(m->u.config.name);
		break;
	case WB_GUARD:
		TOUCH(m->u.guard.why);
		break;
	case BC_RUN:
		touch_words(&m->u.check);
		break;
	case CB_RESULT:
		TOUCH(m->u.check_result.output);
		break;
	case WK_STORE:
	case WK_DROP:
	case KW_ITEM:
		TOUCH(m->u.store.name);
		break;
	default:
		break;
	}
}

static void touch_enums(const struct role_msg *m)
{
	touch(role_msg_name(m->type), 64);
	if (strcmp(role_msg_name(m->type), "unknown") == 0)
		abort();
	if (m->type == GB_CLOSED && strcmp(lane_end_name(m->u.stats.end), "unknown") == 0)
		abort();
	if (m->type == GB_ACCEPT && strcmp(identity_method_name(m->u.accept.method), "unknown") == 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FREE(struct role_msg) m = NULL;
	int r;

	if (size > LIMIT_ROLE_MSG_SIZE)
		return 0;
	/* Exactly what was received, no more: a check that reads beyond it is caught. */
	m = malloc(size ? size : 1);
	if (!m)
		return 0;
	memcpy(m, data, size);
	r = role_msg_check(m, size);
	if (r != 0 && r != -EBADMSG)
		abort();
	if (r == 0) {
		if (role_msg_size(m->type) != size)
			abort();
		touch_enums(m);
		touch_strings(m);
	}
	return 0;
}
