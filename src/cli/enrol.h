/* Enrolling and unenrolling over the admin socket, for `run`, `enrol` and `hook`. */
#ifndef CLI_ENROL_H
#define CLI_ENROL_H

#include "base/limits.h"
#include "cli/cli.h"

struct enrol_request {
	const char *workload, *service, *container_id, *label, *by; /* NULL: not said */
	uint64_t cgroup_id;
};

struct enrolment {
	char name[LIMIT_NAME_SIZE];
	char dir[LIMIT_PATH_SIZE];
};

enum { ENROL_TIMEOUT_MS = 8000 }; /* engines and people wait for it; hooks must end within 10 s whatever happens */

/*
 * enrol_ask() - one POST /v1/workloads, nothing is printed.
 * Return: 0; -ENOENT: no workload fits; -EACCES: refused (@ret_why says why); -EPROTO; other negative errno: the daemon
 * does not answer. @ret_why: @why_size bytes.
 */
MUST_CHECK int enrol_ask(const char *socket_path, const struct enrol_request *q, struct enrolment *ret, char *ret_why, size_t why_size);

/* enrol() - the same, and failures are told. Return: enum cli_exit. */
MUST_CHECK int enrol(struct cli *c, const struct enrol_request *q, struct enrolment *ret);

/*
 * unenrol_own() - unenrol the workload if it is still this cgroup's: since ours has ended, somebody else may have been
 * enrolled under the same name. Quiet when there is nothing (any more) to do; the daemon also finds out by itself.
 */
void unenrol_own(struct cli *c, const char *workload, uint64_t cgroup_id);

/* unenrol_container() - the same for a container id. Return: 0 or negative errno, nothing is printed. */
MUST_CHECK int unenrol_container(const char *socket_path, const char *container_id);

#endif
