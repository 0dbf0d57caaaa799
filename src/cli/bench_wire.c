#include "cli/bench_wire.h"

enum { BODY = 8, HELLO_TOKENS = BODY + 2, HELLO_SECRET = HELLO_TOKENS + BENCH_CONNS * REMOTE_TOKEN_SIZE };

void bench_msg_put(uint8_t *to, const struct bench_msg *m)
{
	memset(to, 0, BENCH_MSG_SIZE);
	put_le(to, BENCH_MAGIC, 4);
	put_le(to + 4, m->kind, 4);
	switch (m->kind) {
	case BENCH_HELLO:
		put_le(to + BODY, m->u.hello.port, 2);
		memcpy(to + HELLO_TOKENS, m->u.hello.token, sizeof(m->u.hello.token));
		memcpy(to + HELLO_SECRET, m->u.hello.secret, BENCH_SECRET_SIZE);
		break;
	case BENCH_KEYS:
		remote_key_put(to + BODY, &m->u.keys.table);
		remote_key_put(to + BODY + REMOTE_KEY_SIZE, &m->u.keys.inbox);
		memcpy(to + BODY + 2 * REMOTE_KEY_SIZE, m->u.keys.ring, sizeof(m->u.keys.ring));
		break;
	case BENCH_PHASE:
		put_le(to + BODY, m->u.poll_size, 4);
		break;
	}
}

static int keys_get(struct bench_msg *m, const uint8_t *from)
{
	if (remote_key_get(&m->u.keys.table, from) < 0 || remote_key_get(&m->u.keys.inbox, from + REMOTE_KEY_SIZE) < 0)
		return -EPROTO;
	if (!(m->u.keys.table.rights & REMOTE_MAY_READ) || m->u.keys.inbox.rights != REMOTE_MAY_WRITE ||
	    m->u.keys.table.size != BENCH_MEMORY_SIZE || m->u.keys.inbox.size != BENCH_MEMORY_SIZE)
		return -EPROTO;
	memcpy(m->u.keys.ring, from + 2 * REMOTE_KEY_SIZE, sizeof(m->u.keys.ring));
	return 0;
}

int bench_msg_get(struct bench_msg *ret, const uint8_t *from)
{
	struct bench_msg m = { .kind = (enum bench_msg_kind)get_le(from + 4, 4) };
	int r = 0;

	if (get_le(from, 4) != BENCH_MAGIC)
		return -EPROTO;
	switch (m.kind) {
	case BENCH_HELLO:
		m.u.hello.port = (uint16_t)get_le(from + BODY, 2);
		memcpy(m.u.hello.token, from + HELLO_TOKENS, sizeof(m.u.hello.token));
		memcpy(m.u.hello.secret, from + HELLO_SECRET, BENCH_SECRET_SIZE);
		break;
	case BENCH_KEYS:
		r = keys_get(&m, from + BODY);
		break;
	case BENCH_PHASE:
		m.u.poll_size = (uint32_t)get_le(from + BODY, 4);
		r = m.u.poll_size > BENCH_MEMORY_SIZE ? -EPROTO : 0;
		break;
	default:
		r = -EPROTO;
	}
	if (r == 0)
		*ret = m;
	return r;
}
