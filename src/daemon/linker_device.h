/*
 * A linker's RDMA device: what the broker says of it, opening it, and what may be called once it is open. Before the linker's loop; one thread.
 */
#ifndef DAEMON_LINKER_DEVICE_H
#define DAEMON_LINKER_DEVICE_H

#include "wire/role.h"

struct remote;

/* linker_device_memlock() - as root, first of all: room for what rings pin (RLIMIT_MEMLOCK). What cannot be had is told with LB_DEVICE. */
void linker_device_memlock(void);

/*
 * linker_device_hear() - wait for BL_RDMA, the first message on @channel_fd (borrowed). Blocks; nothing else is to be done before it.
 * Return: 1: *ret; 0: the broker has gone; -EBADMSG: it said something else; other negative errno.
 */
MUST_CHECK int linker_device_hear(int channel_fd, struct role_rdma *ret);

/*
 * linker_device_open() - as @m says. *ret: the device, or NULL, for the reason in @ret_told, which is LB_DEVICE's in any case. After isolate_user()
 * and linker_isolate_paths(): the kernel takes no order on a descriptor of RDMA from a process that changed what it may since it opened it.
 */
void linker_device_open(const struct role_rdma *m, struct remote **ret, struct role_device *ret_told);

/* linker_isolate_paths() - what a device needs to be opened, or no path at all. linker_isolate_calls() - from here on none can be opened. */
MUST_CHECK int linker_isolate_paths(bool wants_device);
MUST_CHECK int linker_isolate_calls(bool has_device);

#endif
