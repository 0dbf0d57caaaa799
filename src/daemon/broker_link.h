/*
 * What the broker does for links (docs/design/link.md): which hosts there are and what they offer (broker_link.c), and which keys
 * and certificates this host has, and where there is one, the authority (broker_ca.c). Part of broker_int.h.
 */
#ifndef DAEMON_BROKER_LINK_H
#define DAEMON_BROKER_LINK_H

#include "daemon/broker.h"

struct opening; /* broker_lane.c: a client that a gate accepted */

/* --- broker_link.c: hosts, sessions, lanes that cross them --- */

/* link_apply() - the configuration changed: hosts, where to listen, how many linkers. After model_apply() has its tables. */
void link_apply(struct broker *b);
/* link_on_linker() - a linker was (re)started. @fd: its channel, taken. */
void link_on_linker(struct broker *b, uint32_t index, int *fd);
/* link_tell(), link_tell_all() - to a linker; one that does not read any more is closed (the warden restarts it). */
void link_tell(struct broker *b, uint32_t linker, const struct role_msg *m, int fd);
void link_tell_all(struct broker *b, const struct role_msg *m, int fd);
/* link_offers() - does some other host offer @service, as far as is known, or may one that has not said yet? */
bool link_offers(struct broker *b, const struct service_name *service);
/* link_announce() - what we offer, or how it is, changed. */
void link_announce(struct broker *b);
/* link_recheck() - policy changed: end lanes in both directions that are not allowed any more. */
void link_recheck(struct broker *b);
/* link_on_credential() - a service's certificate came, was renewed or went: lanes that wait for it may go on. */
void link_on_credential(struct broker *b, const struct service_name *service);
void link_on_stats_end(struct broker *b);

/* --- broker_ca.c: keys, certificates, joining, the authority --- */

/* ca_on_signer() - the signer was (re)started: it knows no kid yet. @fd: its channel, taken. */
void ca_on_signer(struct broker *b, int *fd);
/* ca_on_linker() - hand a new linker the signer's channel, then BL_TRUST, BL_REVOKED and each BL_CREDENTIAL. Before all else it is told. */
void ca_on_linker(struct broker *b, uint32_t linker);
/* ca_apply() - the configuration changed: which services of this host need a certificate; `certificates`, `svid_life`, `authority`. */
void ca_apply(struct broker *b);
/* ca_credential() - the kid to show for @service; ROLE_NO_ID: there is no certificate (yet), and @why (a literal) says why. */
uint32_t ca_credential(struct broker *b, const struct service_name *service, const char **why);
/* ca_is_member() - this host has a certificate: links are possible. */
bool ca_is_member(const struct broker *b);
/* ca_is_revoked() - on the list: a SPIFFE ID as of now. */
bool ca_is_revoked(const struct broker *b, const char *spiffe_id);
/* ca_on_msg() - LB_CA_READY, LB_CA_ASK, LB_CA_ANSWER. @fd: taken if wanted. */
void ca_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd);
/* ca_on_linker_lost() - its questions will not be answered. */
void ca_on_linker_lost(struct broker *b, uint32_t linker);
/* ca_address() - where BL_CA_OPEN @req wants to go (LB_DIAL). NULL: no such question. */
const char *ca_address(const struct broker *b, uint32_t req);

#endif
