/* The warden's part in the catalogue (docs/design/catalogue.md): it starts the role, with the files that the role may not open itself. */
#ifndef DAEMON_WARDEN_CATALOGUE_H
#define DAEMON_WARDEN_CATALOGUE_H

#include "wire/role.h"

#include <event2/event.h>

struct warden;

struct warden_catalogue {
	char paths[ETCD_FILE_N][LIMIT_PATH_SIZE]; /* "": none */
	bool wanted;
	uint32_t run; /* which one is the present one: its index for the launcher; 0: none yet */
	uint64_t started_ns;
	unsigned delay_ms;
	struct event *restart;
};

MUST_CHECK int warden_catalogue_open(struct warden *w);
/* warden_catalogue_set_file() - BW_CATALOGUE_FILE: remembered, opened whenever a catalogue is started. */
int warden_catalogue_set_file(struct warden *w, const struct role_etcd_file *f);
/* warden_catalogue_want() - BW_CATALOGUE. Return: 0, or negative errno with a line for people in @why: nothing was started. */
int warden_catalogue_want(struct warden *w, bool wanted, char *why);
/* warden_catalogue_exited() - the catalogue with this index has ended, or could not be started. */
void warden_catalogue_exited(struct warden *w, uint32_t run);

#endif
