/* What somebody may have meant who wrote a name that is not there. No I/O. */
#ifndef CONF_GUESS_H
#define CONF_GUESS_H

#include "base/util.h"

struct config_guess {
	const char *wanted; /* borrowed, as all that is added: until the text is made */
	const char *best;   /* NULL: nothing was added yet */
	size_t distance;
};

/* config_guess_add() - a name that is there; the nearest of all is kept. */
void config_guess_add(struct config_guess *g, const char *candidate);

/* config_guess_text() - "; did you mean 'x'?" in @buf, or "" if none is near. Returns @buf. */
const char *config_guess_text(const struct config_guess *g, char buf[160]);

#endif
