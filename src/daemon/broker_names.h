/*
 * Names of hosts and services that the authority knows, and what somebody may have meant who said one that it does not know.
 *
 * Threads: the broker's one.
 */
#ifndef DAEMON_BROKER_NAMES_H
#define DAEMON_BROKER_NAMES_H

#include "daemon/broker.h"

#include <jansson.h>

/* Objects whose members are the names, so that each is there once. */
struct names {
	json_t *hosts, *services;
};

/* names_known() - those of the authority's book. Return: 0 or negative errno; names_free() in any case. */
MUST_CHECK int names_known(struct broker *b, struct names *ret);
void names_free(struct names *n);

/* names_add() - one more into a set. Return: 0 or negative. */
MUST_CHECK int names_add(json_t *set, const char *name);

/* names_near() - "; did you mean 'x'?" in @buf, or "" if none of the set is near. Returns @buf. */
const char *names_near(const json_t *set, const char *wanted, char buf[160]);

/* names_of_open_tokens() - the hosts that they are for, into a set. Return: 0 or negative errno. */
MUST_CHECK int names_of_open_tokens(struct broker *b, json_t *set);

/*
 * names_notes() - what is odd about a grant, or a token, for @host: names that are nearly one that is known. Before it is in the book.
 * @services: patterns, with blanks between. @grants: @host should be known, since what is granted to it waits for it.
 * Return: a new array of lines for people, empty if there is nothing to say; NULL: out of memory, or the book could not be read.
 */
json_t *names_notes(struct broker *b, const char *host, const char *services, bool grants);

#endif
