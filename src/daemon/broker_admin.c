/*
 * Theory of operation
 *
 * libevent's evhttp on the admin socket. This file knows connections, requests and followers; what a request means is
 * broker_api.c's. Per connection there is a slot (`struct conn`), per request that is not answered an exchange:
 *
 *   asked      the API owns it and will call on_answer() once. If the client leaves meanwhile, on_closed() takes the request
 *              away from it (req = NULL), and on_answer() only frees it.
 *   following  the slot owns it: it sends events until the client leaves (on_closed) or falls behind (follower_drop).
 *
 * Followers read from the kept events (broker_events.c) at their own pace, at most FOLLOW_BUFFER_SIZE bytes ahead of what
 * the kernel took. So a slow one costs no memory; when the event it wants has been overwritten, it is told so and dropped.
 * admin_log_sink() runs inside log_event(): it keeps the line and wakes the followers later, from the event loop. Neither it
 * nor what it wakes may log, or each line would bring forth another.
 *
 * evhttp 2.1 (Debian 12) cannot limit its connections and tells of a close only who asked for it. So the bufferevent of
 * each new connection is made here, and once evhttp has tied it to its connection object (the callbacks' argument), the
 * slot is made and asks to be told of the close. With all slots taken the listener pauses: clients wait in the backlog.
 *
 * Limits: see enum; an idle connection is closed after 60 s, a follower only if it does not read for as long.
 * Before it: the warden, which makes the socket with its mode and owner. After it: broker_api.c.
 */
#include "daemon/broker_admin.h"

#include "daemon/broker_api.h"
#include "daemon/broker_events.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
	IDLE_TIMEOUT_S = 60,
	HEADERS_MAX_SIZE = 16 << 10,
	/* evhttp answers 413 in HTML and closes; up to here the API can do it in JSON. */
	BODY_READ_MAX_SIZE = 4 * LIMIT_ADMIN_BODY_SIZE,
	/* Nobody reads while an answer is on its way; what a client sends then must not pile up. More than body and headers. */
	INPUT_MAX_SIZE = 2 * BODY_READ_MAX_SIZE,
	/* So that followers, which stay for days, leave room for everyone else. */
	FOLLOWERS_MAX = LIMIT_ADMIN_CONNS / 2,
	FOLLOW_BUFFER_SIZE = 64 << 10,
	ACCEPT_RETRY_S = 1,
};

struct exchange {
	struct conn *conn;	    /* NULL: the client left */
	struct evhttp_request *req; /* NULL: the client left */
	uint64_t seq;		    /* following: the next event to send */
};

struct conn {
	struct admin *admin;
	struct evhttp_connection *evcon; /* NULL: the slot is free */
	struct exchange *exchange;	 /* NULL: between requests, or the answer is on its way */
	bool following;			 /* the slot owns the exchange */
};

struct admin {
	struct broker *b;
	struct evhttp *http;
	struct evconnlistener *listener; /* NULL: we are ending */
	struct bufferevent *fresh;	 /* a reference: evhttp is just making its connection object */
	struct event *adopt, *pump, *retry;
	struct events *events;
	struct conn conns[LIMIT_ADMIN_CONNS];
	size_t n_conns, n_followers;
};

/* --- connections --- */

static void on_closed(struct evhttp_connection *evcon, void *arg)
{
	struct conn *conn = arg;
	struct admin *a = conn->admin;
	struct exchange *x = conn->exchange;

	if (conn->evcon != evcon)
		return;
	if (x) {
		/* A request that evhttp has parted from its connection is ours to free; else it goes with the connection. */
		if (!evhttp_request_get_connection(x->req))
			evhttp_request_free(x->req);
		x->req = NULL;
		x->conn = NULL;
		if (conn->following) {
			a->n_followers--;
			free(x);
		}
	}
	*conn = (struct conn){ .admin = a };
	a->n_conns--;
	if (a->listener && !event_pending(a->retry, EV_TIMEOUT, NULL))
		evconnlistener_enable(a->listener);
}

static struct conn *find_conn(struct admin *a, const struct evhttp_connection *evcon)
{
	for (size_t i = 0; i < ARRAY_SIZE(a->conns); i++)
		if (a->conns[i].evcon == evcon)
			return &a->conns[i];
	return NULL;
}

/* Give the connection that evhttp has made for a->fresh a slot. */
static void adopt_fresh(struct admin *a)
{
	struct bufferevent *bev = take_ptr(a->fresh);
	void *evcon = NULL;
	struct conn *conn;

	if (!bev)
		return;
	bufferevent_getcb(bev, NULL, NULL, NULL, &evcon); /* NULL: evhttp failed and freed it */
	conn = evcon ? find_conn(a, NULL) : NULL;
	if (conn) {
		conn->evcon = evcon;
		a->n_conns++;
		evhttp_connection_set_closecb(evcon, on_closed, conn);
	}
	bufferevent_decref(bev);
}

static void on_adopt(evutil_socket_t fd, short what, void *arg)
{
	struct admin *a = arg;

	adopt_fresh(a);
	if (a->n_conns < LIMIT_ADMIN_CONNS && !event_pending(a->retry, EV_TIMEOUT, NULL))
		evconnlistener_enable(a->listener);
}

/* evhttp asks for the bufferevent of a connection that was just accepted. */
static struct bufferevent *on_new_connection(struct event_base *base, void *arg)
{
	struct admin *a = arg;
	struct bufferevent *bev;

	adopt_fresh(a); /* several may be accepted in one go */
	bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
	if (!bev)
		return NULL;
	bufferevent_setwatermark(bev, EV_READ, 0, INPUT_MAX_SIZE);
	bufferevent_incref(bev);
	a->fresh = bev;
	event_active(a->adopt, EV_TIMEOUT, 0);
	if (a->n_conns + 1 >= LIMIT_ADMIN_CONNS)
		evconnlistener_disable(a->listener);
	return bev;
}

/* The one that listens; see on_accept_error(). A process has one admin interface. */
static struct admin *accepting;

/* No descriptor was left for accept(): the client is still in the backlog and would wake us at once, again and again. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
	struct admin *a = accepting; /* @arg is evhttp's, which took the listener over */
	struct timeval pause = { .tv_sec = ACCEPT_RETRY_S };

	evconnlistener_disable(listener);
	event_add(a->retry, &pause);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct admin *a = arg;

	if (a->n_conns < LIMIT_ADMIN_CONNS)
		evconnlistener_enable(a->listener);
}

static uid_t peer_uid(struct evhttp_connection *evcon)
{
	int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(evcon));
	struct ucred cred;
	socklen_t n = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0 && n == sizeof(cred) ? cred.uid : (uid_t)-1;
}

/* --- answers --- */

static void add_header(struct evhttp_request *req, const char *key, const char *value)
{
	/* Fails only for want of memory (or a line break, which none of ours has); the answer is still right without it. */
	if (evhttp_add_header(evhttp_request_get_output_headers(req), key, value) < 0)
		return;
}

static void send_body(struct evhttp_request *req, const struct api_answer *answer)
{
	struct evbuffer *buf = evbuffer_new();
	bool head = evhttp_request_get_command(req) == EVHTTP_REQ_HEAD;

	add_header(req, "Content-Type", answer->content_type);
	if (answer->allow)
		add_header(req, "Allow", answer->allow);
	/* evhttp sends a body with HEAD too; a client would take it for the next answer. */
	if (buf && !head && answer->n_body > 0) {
		if (evbuffer_add(buf, answer->body, answer->n_body) < 0)
			evbuffer_drain(buf, evbuffer_get_length(buf));
		else if (answer->body[answer->n_body - 1] != '\n' && evbuffer_add(buf, "\n", 1) < 0)
			evbuffer_drain(buf, evbuffer_get_length(buf));
	}
	if (head)
		add_header(req, "Connection", "close");
	evhttp_send_reply(req, answer->status, answer->status == 429 ? "Too Many Requests" : NULL, buf);
	if (buf)
		evbuffer_free(buf);
}

/* Append events from @seq on, up to @room bytes. Return: the number of the first that is not in @buf. */
static uint64_t add_events(struct evbuffer *buf, const struct events *e, uint64_t seq, size_t room)
{
	const char *line;
	size_t n;

	while (evbuffer_get_length(buf) < room && (line = events_get(e, seq, &n))) {
		if (evbuffer_add(buf, line, n) < 0 || evbuffer_add(buf, "\n", 1) < 0)
			break;
		seq++;
	}
	return seq;
}

static uint64_t last_events(const struct events *e, unsigned n)
{
	uint64_t first = events_first(e), next = events_next(e);

	return next - first > n ? next - n : first;
}

static void send_events(struct admin *a, struct evhttp_request *req, const struct api_answer *answer)
{
	struct evbuffer *buf = evbuffer_new();

	add_header(req, "Content-Type", answer->content_type);
	if (buf)
		(void)add_events(buf, a->events, last_events(a->events, answer->n_events), SIZE_MAX);
	evhttp_send_reply(req, 200, NULL, buf);
	if (buf)
		evbuffer_free(buf);
}

/* --- followers --- */

/* The last line for whoever fell behind. @x is freed; its connection ends once the kernel took what is on its way. */
static void follower_drop(struct conn *conn)
{
	struct exchange *x = take_ptr(conn->exchange);
	struct admin *a = conn->admin;
	struct evhttp_request *req = x->req;
	struct evbuffer *buf = evbuffer_new();
	time_t t = time(NULL);
	char stamp[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
	conn->following = false;
	a->n_followers--;
	if (buf) {
		evbuffer_add_printf(buf, "{\"ts\":\"%s\",\"level\":\"warning\",\"role\":\"broker\",\"event\":\"events.dropped\","
				    "\"why\":\"the reader was too slow\",\"lost\":%llu}\n", stamp,
				    (unsigned long long)(events_first(a->events) - x->seq));
		evhttp_send_reply_chunk(req, buf);
		evbuffer_free(buf);
	}
	free(x);
	evhttp_send_reply_end(req);
}

static void on_drained(struct evhttp_connection *evcon, void *arg);

static void follower_pump(struct conn *conn)
{
	struct exchange *x = conn->exchange;
	struct admin *a = conn->admin;
	size_t ahead = evbuffer_get_length(bufferevent_get_output(evhttp_connection_get_bufferevent(conn->evcon)));
	struct evbuffer *buf;

	if (x->seq < events_first(a->events)) {
		follower_drop(conn);
		return;
	}
	if (ahead >= FOLLOW_BUFFER_SIZE)
		return;
	buf = evbuffer_new();
	if (!buf)
		return; /* tried again with the next event */
	x->seq = add_events(buf, a->events, x->seq, FOLLOW_BUFFER_SIZE - ahead);
	if (evbuffer_get_length(buf) > 0)
		evhttp_send_reply_chunk_with_cb(x->req, buf, on_drained, conn);
	evbuffer_free(buf);
}

/* evhttp keeps this callback until the next one is set, so it may come when the slot has moved on. */
static void on_drained(struct evhttp_connection *evcon, void *arg)
{
	struct conn *conn = arg;

	if (conn->evcon == evcon && conn->following)
		follower_pump(conn);
}

static void on_pump(evutil_socket_t fd, short what, void *arg)
{
	struct admin *a = arg;

	for (size_t i = 0; i < ARRAY_SIZE(a->conns); i++)
		if (a->conns[i].following)
			follower_pump(&a->conns[i]);
}

static void follower_start(struct conn *conn, struct exchange *x, const struct api_answer *answer)
{
	struct bufferevent *bev = evhttp_connection_get_bufferevent(conn->evcon);
	const struct timeval stalled = { .tv_sec = IDLE_TIMEOUT_S };
	struct admin *a = conn->admin;

	x->seq = last_events(a->events, answer->n_events);
	conn->exchange = x;
	conn->following = true;
	a->n_followers++;
	add_header(x->req, "Content-Type", answer->content_type);
	add_header(x->req, "Connection", "close");
	evhttp_send_reply_start(x->req, 200, "OK");
	/* A follower has nothing more to say, so only its not reading counts as idle. */
	bufferevent_set_timeouts(bev, NULL, &stalled);
	follower_pump(conn);
}

/* --- requests --- */

static void on_answer(void *arg, const struct api_answer *answer)
{
	struct exchange *x = arg;
	struct conn *conn = x->conn;

	if (!conn) { /* the client left */
		free(x);
		return;
	}
	if (answer->follow && conn->admin->n_followers >= FOLLOWERS_MAX) {
		api_refuse(429, "too_many_followers", on_answer, x, "%d clients follow the events already; end one of them",
			   FOLLOWERS_MAX);
		return;
	}
	if (answer->follow) {
		follower_start(conn, x, answer);
		return;
	}
	conn->exchange = NULL;
	if (answer->stream)
		send_events(conn->admin, x->req, answer);
	else
		send_body(x->req, answer);
	free(x);
}

static enum api_method method_of(struct evhttp_request *req)
{
	switch (evhttp_request_get_command(req)) {
	case EVHTTP_REQ_GET:
		return API_GET;
	case EVHTTP_REQ_POST:
		return API_POST;
	case EVHTTP_REQ_DELETE:
		return API_DELETE;
	default:
		return API_OTHER;
	}
}

static void on_request(struct evhttp_request *req, void *arg)
{
	struct admin *a = arg;
	struct evhttp_connection *evcon = evhttp_request_get_connection(req);
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	struct evbuffer *in = evhttp_request_get_input_buffer(req);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
	struct api_request r = { .method = method_of(req), .path = path ? path : "" };
	struct exchange *x = calloc(1, sizeof(*x));
	struct conn *conn;

	adopt_fresh(a);
	conn = find_conn(a, evcon);
	if (!x || !conn) {
		free(x);
		evhttp_send_error(req, HTTP_SERVUNAVAIL, NULL);
		return;
	}
	*x = (struct exchange){ .conn = conn, .req = req };
	conn->exchange = x;
	r.query = uri ? evhttp_uri_get_query(uri) : NULL;
	r.n_body = evbuffer_get_length(in);
	r.body = r.n_body ? (const char *)evbuffer_pullup(in, -1) : "";
	r.uid = peer_uid(evcon);
	if (r.body)
		api_handle(a->b, &r, on_answer, x);
	else
		api_refuse(503, "no_room", on_answer, x, "out of memory for the request's body");
}

/* --- start, stop, events --- */

/* The events come before the socket: what the daemon said while it started is asked for most. */
static struct admin *admin_of(struct broker *b)
{
	struct admin *a;

	if (b->admin)
		return b->admin;
	a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->b = b;
	a->events = events_new();
	if (!a->events) {
		free(a);
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(a->conns); i++)
		a->conns[i].admin = a;
	b->admin = a;
	return a;
}

void admin_log_sink(void *arg, enum log_level level, const char *line, size_t n)
{
	struct admin *a = admin_of(arg);

	if (!a)
		return;
	events_put(a->events, line, n);
	if (a->n_followers > 0)
		event_active(a->pump, EV_TIMEOUT, 0);
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static void free_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

/* Everything but the events, which a daemon without its admin socket still collects until it is asked for it again. */
static void admin_close(struct admin *a)
{
	a->listener = NULL; /* evhttp frees it; on_closed() must not wake it */
	if (a->http)
		evhttp_free(take_ptr(a->http));
	if (a->fresh)
		bufferevent_decref(take_ptr(a->fresh));
	free_event(take_ptr(a->adopt));
	free_event(take_ptr(a->pump));
	free_event(take_ptr(a->retry));
}

static bool admin_make_parts(struct admin *a, struct event_base *base)
{
	a->http = evhttp_new(base);
	a->adopt = event_new(base, -1, 0, on_adopt, a);
	a->pump = event_new(base, -1, 0, on_pump, a);
	a->retry = event_new(base, -1, 0, on_retry, a);
	return a->http && a->adopt && a->pump && a->retry;
}

/* jansson would open /dev/urandom for its hash seed, which this process cannot. */
static void seed_json(void)
{
	size_t seed = 0;

	if (getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed))
		json_object_seed(seed);
}

static void set_up_http(struct admin *a)
{
	evhttp_set_timeout(a->http, IDLE_TIMEOUT_S);
	evhttp_set_max_headers_size(a->http, HEADERS_MAX_SIZE);
	evhttp_set_max_body_size(a->http, BODY_READ_MAX_SIZE);
	/* All that evhttp knows, so that a wrong one is told (405, JSON) which there are. */
	evhttp_set_allowed_methods(a->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
						    EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_TRACE |
						    EVHTTP_REQ_CONNECT | EVHTTP_REQ_PATCH);
	evhttp_set_bevcb(a->http, on_new_connection, a);
	evhttp_set_gencb(a->http, on_request, a);
}

static bool listen_on(struct admin *a, struct event_base *base, int *fd)
{
	a->listener = evconnlistener_new(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, *fd);
	if (!a->listener)
		return false;
	take_fd(fd);
	accepting = a;
	evconnlistener_set_error_cb(a->listener, on_accept_error);
	if (evhttp_bind_listener(a->http, a->listener))
		return true;
	evconnlistener_free(take_ptr(a->listener));
	return false;
}

int admin_start(struct broker *b, int listen_fd)
{
	AUTO_FD fd = listen_fd;
	struct admin *a = admin_of(b);
	int r = set_nonblocking(fd);

	if (!a)
		return -ENOMEM;
	if (r < 0)
		return r;
	seed_json();
	if (admin_make_parts(a, b->base)) {
		set_up_http(a);
		if (listen_on(a, b->base, &fd))
			return 0;
	}
	admin_close(a);
	return -ENOMEM;
}

void admin_stop(struct broker *b)
{
	struct admin *a = take_ptr(b->admin);

	if (!a)
		return;
	admin_close(a);
	events_free(a->events);
	free(a);
}
