/*
 * Theory of operation: health checks, as in Consul's service definitions. Every `interval` either a command is run (by the
 * checker role, as the daemon's ordinary user) or the warden connects to the service's socket; the result is shown in
 * `sealane ls services` and /metrics, and a change is one event. On one host there is one instance of a service, so there health
 * is told, not acted upon: a failing server still gets its connections, as it would without us. Other hosts are told that it is
 * not up, since they may have another one.
 */
#include "daemon/broker_int.h"

#include <stdio.h>

static void health_set(struct broker *b, struct service *s, bool passing, const char *output)
{
	enum health now = passing ? HEALTH_PASSING : HEALTH_FAILING;
	char name[LIMIT_SERVICE_SIZE];

	s->check_running = false;
	snprintf(s->health_output, sizeof(s->health_output), "%s", output);
	if (s->health == now)
		return;
	s->health = now;
	s->health_changed_unix_s = (uint64_t)unix_now_s();
	LOG_EVENT(passing ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "service.health",
		  LOG_STR("service", service_name_format(name, &s->name)), LOG_STR("health", health_name(now)),
		  LOG_STR("output", s->health_output));
	link_announce(b);
}

static void on_connected(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct service *s = model_service(b, (uint32_t)(uintptr_t)arg);

	fd_cleanup(&fd);
	if (s && s->check_running)
		health_set(b, s, reply->error == 0, reply->error ? reply->why : "the socket accepts connections");
}

void health_on_result(struct broker *b, const struct role_check_result *r)
{
	struct service *s = model_service(b, r->sid);
	char text[sizeof(s->health_output)];

	if (!s || !s->check_running)
		return;
	if (r->status == -ETIMEDOUT)
		snprintf(text, sizeof(text), "no answer within %gs", s->check.timeout_s);
	else if (r->status < 0)
		snprintf(text, sizeof(text), "%s: could not be started (%s)", s->check.args[0], log_errno_name(r->status));
	else if (r->status > 0)
		snprintf(text, sizeof(text), "status %d: %.200s", r->status, r->output);
	else
		snprintf(text, sizeof(text), "%s", r->output);
	health_set(b, s, r->status == 0, text);
}

void health_on_checker_lost(struct broker *b)
{
	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].check.socket)
			b->services[i].check_running = false;
}

static void run_command(struct broker *b, const struct service *s)
{
	struct role_msg m = { .type = BC_RUN };
	struct role_check *c = &m.u.check;
	size_t n = 0;

	c->sid = s->sid;
	c->timeout_ms = (uint32_t)(s->check.timeout_s * 1000);
	for (; s->check.args[c->n_args]; c->n_args++) {
		size_t len = strlen(s->check.args[c->n_args]) + 1;

		if (len > sizeof(c->args) - n) {
			log_warn("service.health", LOG_STR("service", s->name.name), LOG_STR("why", "the check's command line is over 1 KiB"));
			return;
		}
		memcpy(c->args + n, s->check.args[c->n_args], len);
		n += len;
	}
	broker_tell_checker(b, &m);
}

static void check_now(struct broker *b, void *arg)
{
	struct service *s = model_service(b, (uint32_t)(uintptr_t)arg);
	struct role_msg m = { .type = BW_CONNECT };

	if (!s || !s->check_timer || s->check_running)
		return;
	s->check_running = true;
	m.u.id.id = s->sid;
	if (!s->check.socket)
		run_command(b, s);
	else if (s->up)
		broker_ask(b, &m, -1, on_connected, arg);
	else
		health_set(b, s, false, "nobody listens on its socket");
}

struct timer {
	struct broker *b;
	uint32_t sid;
};

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct timer *t = arg;

	check_now(t->b, (void *)(uintptr_t)t->sid);
}

void health_start(struct broker *b, struct service *s)
{
	struct timeval interval = { .tv_sec = (time_t)s->check.interval_s,
				    .tv_usec = (suseconds_t)((s->check.interval_s - (double)(time_t)s->check.interval_s) * 1e6) };
	struct timer *t;

	if (!s->check.present)
		return;
	t = calloc(1, sizeof(*t));
	if (!t)
		return;
	*t = (struct timer){ .b = b, .sid = s->sid };
	s->check_timer = event_new(b->base, -1, EV_PERSIST, on_timer, t);
	if (!s->check_timer || event_add(s->check_timer, &interval) < 0) {
		log_error("service.health", LOG_STR("service", s->name.name), LOG_STR("why", "no memory for its timer"));
		free(t);
		return;
	}
	/* The first result should not take a whole interval. */
	broker_after(b, 1, check_now, (void *)(uintptr_t)s->sid);
}

void health_stop(struct service *s)
{
	if (!s->check_timer)
		return;
	free(event_get_callback_arg(s->check_timer));
	event_free(s->check_timer);
	s->check_timer = NULL;
	s->check_running = false;
	s->health = HEALTH_UNCHECKED;
}
