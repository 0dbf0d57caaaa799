/*
 * One-sided memory on an RDMA device: InfiniBand, RoCE, SoftRoCE. Needs libibverbs and librdmacm at run time only, and says so if they are
 * not there, as if there is no device.
 *
 * Everything that has to be opened is opened here (docs/design/rdma.md, "Which role holds the device"): call it before the process isolates itself.
 */
#ifndef RDMA_VERBS_H
#define RDMA_VERBS_H

#include "rdma/remote.h"

enum { VERBS_E_NOT_HERE = 1 };

/*
 * remote_verbs_open() - the device that has @address ("10.0.0.1:7444"), and a listener there. remote_fd() is one descriptor for all of it.
 * *ret_why: one line for people, a constant: what is missing.
 * Return: 0; VERBS_E_NOT_HERE: no libraries, no RDMA in this kernel, no device with that address, no permission; -EINVAL: @address is none;
 * -EADDRINUSE; -ENOMEM; other negative errno.
 */
MUST_CHECK int remote_verbs_open(struct remote **ret, const char *address, const char **ret_why);

#endif
