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

struct verbs_options {
	const char *address; /* "10.0.0.1:7444" */
	/*
	 * For tests: windows also on devices that do not hold an access to a window's bounds. rxe of Linux 6.1 is one: whoever has a window may reach
	 * the whole registration that it lies in. Such devices get a registration for each export.
	 */
	bool windows_anyway;
};

/*
 * remote_verbs_open() - the device that has o->address, and a listener there. remote_fd() is one descriptor for all of it.
 * *ret_why: one line for people, a constant: what is missing.
 * Return: 0; VERBS_E_NOT_HERE: no libraries, no RDMA in this kernel, no device with that address, no permission; -EINVAL: o->address is none;
 * -EADDRINUSE; -ENOMEM; other negative errno.
 */
MUST_CHECK int remote_verbs_open(struct remote **ret, const struct verbs_options *o, const char **ret_why);

#endif
