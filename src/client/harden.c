/*
 * Theory of operation: a key can be got round by changing it (pkey_mprotect), by executing another WRPKRU (so by making new
 * executable memory), or by having the kernel reach into memory in our stead. sealane_harden() takes those system calls away from
 * the whole process, with a seccomp filter and without any library for it. What is left is on the page docs/design/keys.md,
 * above all /proc/self/mem: seccomp sees no paths.
 *
 * The filter denies; it allows everything else, for it is the application's process and not ours.
 */
#include "client/guard.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static _Atomic bool g_hardened;

bool guard_hardened(void)
{
	return atomic_load(&g_hardened);
}

#if KEYS_HAVE_PKU

/* As in linux/filter.h, linux/seccomp.h and linux/audit.h, which a C library need not bring along (shm/kernel.h). */
struct instruction {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

struct program {
	unsigned short n;
	struct instruction *code;
};

struct call_data {
	int32_t nr;
	uint32_t arch;
	uint64_t ip;
	uint64_t args[6];
};

enum {
	OP_LOAD = 0x20,	  /* BPF_LD | BPF_W | BPF_ABS */
	OP_EQUAL = 0x15,  /* BPF_JMP | BPF_JEQ | BPF_K */
	OP_ATLEAST = 0x35, /* BPF_JMP | BPF_JGE | BPF_K */
	OP_ANY_BIT = 0x45, /* BPF_JMP | BPF_JSET | BPF_K */
	OP_RETURN = 0x06,

	RET_ERRNO = 0x00050000,
	RET_ALLOW = 0x7fff0000,

	SET_FILTER = 1,	     /* SECCOMP_SET_MODE_FILTER */
	ALL_THREADS = 1 << 0, /* SECCOMP_FILTER_FLAG_TSYNC */

	X32_BIT = 0x40000000,
	SHM_EXECUTE = 0100000, /* SHM_EXEC */
	MAX_INSTRUCTIONS = 128,
};
#define RET_KILL 0x80000000u
#define ARCH_X86_64 0xc000003eu

/* Always denied. */
static const uint32_t g_denied[] = {
	330, /* pkey_alloc */
	331, /* pkey_free */
	25,  /* mremap: moves executable pages about; libcs fall back on copying */
	216, /* remap_file_pages */
	101, /* ptrace */
	310, 311, /* process_vm_readv, process_vm_writev */
	440, /* process_madvise */
	438, /* pidfd_getfd */
	425, 426, 427, /* io_uring_setup, _enter, _register: buffers registered while a key was open stay within reach */
	323, /* userfaultfd */
	154, /* modify_ldt */
	317, /* seccomp: a later filter could claim success for what was not done */
	59, 322, /* execve, execveat: the new program could map nothing executable */
};

/* Denied when an argument says so. */
static const struct {
	uint32_t nr;
	uint32_t arg;
	uint32_t op; /* OP_EQUAL, OP_ANY_BIT */
	uint32_t value;
	bool if_not;
} g_denied_if[] = {
	{ 9, 2, OP_ANY_BIT, PROT_EXEC, false },	  /* mmap */
	{ 10, 2, OP_ANY_BIT, PROT_EXEC, false },  /* mprotect: without it, it leaves the key as it is */
	{ 329, 2, OP_ANY_BIT, PROT_EXEC, false }, /* pkey_mprotect */
	{ 30, 2, OP_ANY_BIT, SHM_EXECUTE, false }, /* shmat */
	{ 135, 0, OP_EQUAL, UINT32_MAX, true },	  /* personality: READ_IMPLIES_EXEC; asking is allowed */
	{ 157, 0, OP_EQUAL, 22, false },	  /* prctl(PR_SET_SECCOMP) */
	{ 157, 0, OP_EQUAL, 35, false },	  /* prctl(PR_SET_MM) */
	{ 157, 0, OP_EQUAL, PR_SET_DUMPABLE, false },
};

struct writer {
	struct instruction code[MAX_INSTRUCTIONS];
	unsigned short n;
};

static void emit(struct writer *w, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
	assert(w->n < MAX_INSTRUCTIONS);
	w->code[w->n++] = (struct instruction){ .code = code, .jt = jt, .jf = jf, .k = k };
}

/* In each of these the accumulator holds the system call's number before and after. */
static void emit_denied(struct writer *w, uint32_t nr)
{
	emit(w, OP_EQUAL, nr, 0, 1);
	emit(w, OP_RETURN, RET_ERRNO | EPERM, 0, 0);
}

static void emit_denied_if(struct writer *w, uint32_t nr, uint32_t arg, uint32_t op, uint32_t value, bool if_not)
{
	emit(w, OP_EQUAL, nr, 0, 4);
	emit(w, OP_LOAD, (uint32_t)(offsetof(struct call_data, args) + 8 * arg), 0, 0); /* little-endian: the low half */
	emit(w, (uint16_t)op, value, if_not, !if_not);
	emit(w, OP_RETURN, RET_ERRNO | EPERM, 0, 0);
	emit(w, OP_LOAD, offsetof(struct call_data, nr), 0, 0);
}

static void write_filter(struct writer *w)
{
	emit(w, OP_LOAD, offsetof(struct call_data, arch), 0, 0);
	emit(w, OP_EQUAL, ARCH_X86_64, 1, 0);
	emit(w, OP_RETURN, RET_KILL, 0, 0);
	emit(w, OP_LOAD, offsetof(struct call_data, nr), 0, 0);
	emit(w, OP_ATLEAST, X32_BIT, 0, 1);
	emit(w, OP_RETURN, RET_ERRNO | ENOSYS, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(g_denied); i++)
		emit_denied(w, g_denied[i]);
	for (size_t i = 0; i < ARRAY_SIZE(g_denied_if); i++)
		emit_denied_if(w, g_denied_if[i].nr, g_denied_if[i].arg, g_denied_if[i].op, g_denied_if[i].value, g_denied_if[i].if_not);
	/* Lanes that are made later may still get the process's key, and no mapping any other; but not where components could
	 * lose theirs to it. */
	if (component_any())
		emit_denied(w, SYS_pkey_mprotect);
	else
		emit_denied_if(w, SYS_pkey_mprotect, 3, OP_EQUAL, (uint32_t)keys_process.key, true);
	emit(w, OP_RETURN, RET_ALLOW, 0, 0);
}
static_assert(SYS_pkey_mprotect == 329 && SYS_pkey_alloc == 330 && SYS_mprotect == 10 && SYS_mremap == 25 && SYS_execve == 59,
	      "numbers of x86-64");

static int install(void)
{
	struct writer w = { .n = 0 };
	struct program program = { .code = w.code };
	long r;

	write_filter(&w);
	program.n = w.n;
	r = syscall(SYS_seccomp, SET_FILTER, ALL_THREADS, &program);
	if (r > 0)
		return lane_fail(-ESRCH, "thread %ld has a seccomp filter of its own: call sealane_harden() before such threads are made", r);
	return r < 0 ? lane_fail(-errno, "the kernel takes no seccomp filter: %s", sealane_strerror(-errno)) : 0;
}

#else

static int install(void)
{
	return -ENOTSUP;
}

#endif

int sealane_harden(unsigned flags)
{
	const char *text;
	int r;

	if (flags & ~(unsigned)SEALANE_HARDEN_NO_DUMP)
		return lane_fail(-EINVAL, "sealane_harden() knows no flags 0x%x", flags & ~(unsigned)SEALANE_HARDEN_NO_DUMP);
	if (guard_hardened())
		return 0;
	if (!sealane_guarded(&text))
		return lane_fail(-ENOTSUP, "there is nothing to harden: %s", text);
	if (flags & SEALANE_HARDEN_NO_DUMP && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return lane_fail(-errno, "PR_SET_DUMPABLE: %s", sealane_strerror(-errno));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) /* or filters are root's alone */
		return lane_fail(-errno, "PR_SET_NO_NEW_PRIVS: %s", sealane_strerror(-errno));
	r = install();
	if (r == 0)
		atomic_store(&g_hardened, true);
	return r;
}
