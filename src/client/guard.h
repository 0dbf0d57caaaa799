/*
 * Inside libsealane: lanes and protection keys. guard.c tags a lane's two mappings, remembers where they lie, and says in a
 * signal handler whose memory a stray access met. component.c is the parts of a process; harden.c and scan.c are what makes it
 * harder to get round the keys (docs/design/keys.md).
 */
#ifndef CLIENT_GUARD_H
#define CLIENT_GUARD_H

#include "client/lane.h"

/* A part of the process with a key of its own. Never freed, as its key is not. */
struct sealane_component {
	struct keys_domain domain;
	struct sealane_component *next; /* under component.c's lock until linked, then fixed */
};

/*
 * guard_lane() - tag both mappings of a lane and remember them. Call before anybody else has the lane.
 * Return: 0, also when it stays unguarded for want of a key; -ENOMEM; with $SEALANE_KEYS=require also what keys_tag() said.
 */
MUST_CHECK int guard_lane(struct sealane_lane *lane);

/* guard_forget() - before the mapping goes. Safe for one that is not known. */
void guard_forget(const struct region *r);

/* guard_n_unguarded() - lanes that could not be tagged although there is a key: sealane_harden() came before them. */
unsigned guard_n_unguarded(void);

/* component_any() - has the process any component with a key? */
bool component_any(void);

/* guard_hardened() - sealane_harden() was done. */
bool guard_hardened(void);

/* guard_denied() - what a call says to a thread that is not of the lane's component. Return: -EACCES. */
int guard_denied(const struct sealane_lane *lane);

#endif
