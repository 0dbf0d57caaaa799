/*
 * Other people's descriptors, and how long they may hold up a process that closes the last copy.
 *
 * Whoever can send a message on a Unix socket can put a descriptor into it (SCM_RIGHTS) and close their own copy. The last
 * copy then goes in the task that receives the message, refuses it, or closes the socket in whose queue it lies, received or
 * not; and close() of a TCP socket with SO_LINGER and bytes that nobody reads takes as long as its owner said. Two ways out:
 *
 *   refuse  SO_PASSRIGHTS (Linux 6.16): such a message fails where it is sent, with EPERM. Costs nothing afterwards, and also
 *           keeps out files whose close() no signal ends (FUSE, NFS).
 *   tick    where descriptors must be taken, or the kernel is older: a signal each millisecond ends that wait.
 *
 * Threads: the tick is the process's, so other threads must block SIGALRM.
 */
#ifndef BASE_FOREIGN_H
#define BASE_FOREIGN_H

#include "base/util.h"

/*
 * foreign_refuse() - no descriptor can be sent to @sock any more, nor to what it accepts when it was told before listen().
 * Return: 0: none ever could, if that was so when it was made; 1: from now on, but some may lie in the queue already;
 * negative errno: this kernel has no such option.
 */
MUST_CHECK int foreign_refuse(int sock);

/* foreign_tick_init() - before it, starting does nothing. From then on poll() and its like may be interrupted, nothing else is. */
MUST_CHECK int foreign_tick_init(void);

/*
 * foreign_tick_start(), foreign_tick_stop() - around work that may close what others sent. Starting what runs is no system
 * call, so a busy loop starts it on each turn and stops it when a tick interrupts its sleep (EINTR): it was idle then. A loop
 * that sleeps more than it works starts it where a descriptor is taken, and stops it at the end of the turn.
 */
void foreign_tick_start(void);
void foreign_tick_stop(void);

#endif
