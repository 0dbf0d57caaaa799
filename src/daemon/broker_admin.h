/* The broker's HTTP+JSON interface on admin.sock (docs/openapi.json), /metrics, and the events kept for `sealane logs`. */
#ifndef DAEMON_BROKER_ADMIN_H
#define DAEMON_BROKER_ADMIN_H

#include "base/log.h"
#include "daemon/broker.h"

/*
 * admin_start() - serve on @listen_fd (owned from now on: a listening Unix stream socket, made by the warden with its
 * mode and owner). Readers: whoever the file's permissions let in; changes: uid 0 and config->admin_uids, by SO_PEERCRED.
 * Return: 0 or negative errno.
 */
MUST_CHECK int admin_start(struct broker *b, int listen_fd);
void admin_stop(struct broker *b);

/* admin_log_sink() - log_set_sink() target (arg: the broker): keeps the last LIMIT_EVENTS_KEPT events, feeds followers. */
void admin_log_sink(void *arg, enum log_level level, const char *line, size_t n);

#endif
