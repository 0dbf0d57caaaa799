/*
 * The processes of sealaned. One binary; the launcher starts the others by fork and re-exec of itself
 * (`sealaned --role=gate`), each with a channel on descriptor 3 and a fresh address space.
 *
 *   launcher root                         what the user starts: starts the roles, passes signals on (warden_spawn.c)
 *   warden   root with few capabilities   files, links, cgroups, connects, cuts; reads no byte from a container
 *   broker   ordinary user, state dir     decides; configuration, policy, admin interface
 *   gate     ordinary user, no paths      accepts containers' connections, learns who they are, relays bytes
 *   porter   ordinary user, no paths      joins libraries in containers: lanes in shared memory
 *   linker   ordinary user, no paths      carries lanes between hosts: TLS, without private keys
 *   checker  ordinary user                runs health check commands
 *   keeper   root without capabilities    holds listening sockets while the daemon is away
 *   catalogue  ordinary user, /etc alone  talks to etcd
 *   signer   root without capabilities    holds the private keys of links
 */
#ifndef DAEMON_ROLES_H
#define DAEMON_ROLES_H

#include "base/util.h"

enum { ROLE_CHANNEL_FD = 3 };

/* What the command line said; passed on to each role's argv by the launcher. */
struct daemon_options {
	const char *run_dir;	      /* default /run/sealane */
	const char *state_dir;	      /* default /var/lib/sealane */
	const char *user;	      /* default: sealane if there is one, else nobody */
	const char *config_paths[16]; /* files or directories (*.conf, *.hcl, *.json in them, sorted) */
	size_t n_config_paths;
	bool verbose;
};

/* Each role's main: returns the process's exit status. The warden's (warden_main()) is the launcher, the daemon as the user starts it. */
int warden_main(const struct daemon_options *o);
int broker_main(const struct daemon_options *o);
int gate_main(const struct daemon_options *o);
int porter_main(const struct daemon_options *o);
int linker_main(const struct daemon_options *o);
int checker_main(const struct daemon_options *o);
int keeper_main(const struct daemon_options *o);
int catalogue_main(const struct daemon_options *o);
int signer_main(const struct daemon_options *o);

#endif
