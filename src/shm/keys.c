/*
 * Theory of operation: the register PKRU holds two bits for each of 16 keys, "no access" and "no write", for the thread that
 * runs. WRPKRU sets all of them at once, so every change is read, change our bits, write. The kernel starts a process with all
 * keys but 0 closed, and gives new threads their creator's value.
 *
 * For each thread and key we count how deep in scopes it is and how many zero-copy holds it has; what the register should say
 * follows from that, and it is written only when it says otherwise. So nested scopes cost a counter, and a batch under one scope costs
 * one pair of writes.
 *
 * Only two WRPKRU exist in the library, in the assembly below, and a scan can tell them from others. The closing one is followed
 * by a check in the manner of ERIM (USENIX Security 2019): whoever jumps onto it with a value that leaves a domain open dies.
 * The other one opens, hence cannot be checked like that; after it comes the library's code, which closes.
 */
#include "shm/keys.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#if KEYS_HAVE_PKU
#include <cpuid.h>
#endif

enum {
	NO_ACCESS = 1,
	NO_WRITE = 2,
	CLOSED = NO_ACCESS | NO_WRITE,
};

/* What one thread does with one key. */
struct keys_use {
	uint32_t depth;	  /* of scopes */
	uint32_t n_write; /* holds */
	uint32_t n_read;
};

struct keys_thread {
	const struct keys_domain *component;
	struct keys_use use[KEYS_N];
};

struct keys_domain keys_process;
const struct keys_domain keys_denied_;
_Atomic bool keys_active;

static __thread struct keys_thread g_thread;
static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static _Atomic int g_state;				    /* enum keys_state */
static bool g_required;

#if KEYS_HAVE_PKU

/* Both bits of every key of ours; what the closing gate checks. */
KEYS_HIDDEN _Atomic uint32_t keys_closed_bits;

void keys_gate_set(uint32_t pkru) KEYS_HIDDEN;
void keys_gate_close(uint32_t pkru) KEYS_HIDDEN;

__asm__(".pushsection .text\n"
	".hidden keys_gate_set, keys_gate_close, keys_wrpkru_set, keys_wrpkru_close, keys_closed_bits\n"
	".globl keys_gate_set, keys_gate_close, keys_wrpkru_set, keys_wrpkru_close\n"
	".balign 16\n"
	".type keys_gate_set, @function\n"
	"keys_gate_set:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	movl %edi, %eax\n"
	"	xorl %ecx, %ecx\n"
	"	xorl %edx, %edx\n"
	"keys_wrpkru_set:\n"
	"	.byte 0x0f, 0x01, 0xef\n" /* wrpkru */
	"	ret\n"
	"	.cfi_endproc\n"
	".size keys_gate_set, . - keys_gate_set\n"
	".balign 16\n"
	".type keys_gate_close, @function\n"
	"keys_gate_close:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	movl %edi, %eax\n"
	"	xorl %ecx, %ecx\n"
	"	xorl %edx, %edx\n"
	"keys_wrpkru_close:\n"
	"	.byte 0x0f, 0x01, 0xef\n"
	"	notl %eax\n"
	"	testl %eax, keys_closed_bits(%rip)\n"
	"	jnz 1f\n"
	"	ret\n"
	"1:	ud2\n"
	"	.cfi_endproc\n"
	".size keys_gate_close, . - keys_gate_close\n"
	".popsection\n");

static uint32_t rdpkru(void)
{
	uint32_t pkru, zero;

	__asm__ volatile(".byte 0x0f, 0x01, 0xee" : "=a"(pkru), "=d"(zero) : "c"(0) : "memory");
	return pkru;
}

static void set_rights(int key, uint32_t rights)
{
	uint32_t now = rdpkru(), pkru = (now & ~((uint32_t)CLOSED << (2 * key))) | rights << (2 * key);
	uint32_t closed = atomic_load_explicit(&keys_closed_bits, memory_order_relaxed);

	if (pkru == now)
		return;
	if ((pkru & closed) == closed)
		keys_gate_close(pkru);
	else
		keys_gate_set(pkru);
	/* The calls above are opaque: the compiler moves no access to memory across them. */
}

/* Return: KEYS_ON when pkey_alloc() may succeed. */
static enum keys_state look_at_cpu(void)
{
	unsigned a, b, c = 0, d;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & (1u << 3)))
		return KEYS_NO_CPU;
	return c & (1u << 4) ? KEYS_ON : KEYS_NO_OS;
}

/* Not through the C library: musl has no functions for it. */
static int take_key(void)
{
	long key = syscall(SYS_pkey_alloc, 0, NO_ACCESS);

	if (key < 0)
		return -errno;
	atomic_fetch_or(&keys_closed_bits, (uint32_t)CLOSED << (2 * key));
	set_rights((int)key, CLOSED);
	return (int)key;
}

static int tag(void *base, size_t size, int prot, int key)
{
	return syscall(SYS_pkey_mprotect, base, size, prot, key) < 0 ? -errno : 0;
}

#else

const char keys_wrpkru_set[1], keys_wrpkru_close[1];

static void set_rights(int key, uint32_t rights) {}
static enum keys_state look_at_cpu(void) { return KEYS_NO_CPU; }
static int take_key(void) { return -ENOSPC; }
static int tag(void *base, size_t size, int prot, int key) { return 0; }

#endif

static void apply(int key)
{
	const struct keys_use *u = &g_thread.use[key];

	if (key)
		set_rights(key, u->depth || u->n_write ? 0 : u->n_read ? NO_WRITE : CLOSED);
}

static enum keys_state state_of(int key)
{
	return key > 0 ? KEYS_ON : key == -ENOSPC ? KEYS_NO_KEY : KEYS_REFUSED;
}

/* The lock is held. */
static enum keys_state start(void)
{
	const char *want = secure_getenv("SEALANE_KEYS");
	enum keys_state state = look_at_cpu();
	int key;

	g_required = want && strcmp(want, "require") == 0;
	if (want && strcmp(want, "off") == 0)
		return KEYS_OFF;
	if (state != KEYS_ON)
		return state;
	key = take_key();
	if (key > 0) {
		keys_process.key = key;
		atomic_store(&keys_active, true);
	}
	return state_of(key);
}

int keys_start(void)
{
	int state = atomic_load_explicit(&g_state, memory_order_acquire);

	if (state == KEYS_UNKNOWN) {
		pthread_mutex_lock(&g_lock);
		state = atomic_load(&g_state);
		if (state == KEYS_UNKNOWN) {
			state = (int)start();
			atomic_store_explicit(&g_state, state, memory_order_release);
		}
		pthread_mutex_unlock(&g_lock);
	}
	return state != KEYS_ON && g_required ? -ENOTSUP : 0;
}

bool keys_are_required(void)
{
	return g_required;
}

enum keys_state keys_state(void)
{
	return (enum keys_state)atomic_load_explicit(&g_state, memory_order_acquire);
}

const char *keys_state_text(enum keys_state state)
{
	static const char *const texts[] = {
		[KEYS_UNKNOWN] = "not looked at yet",
		[KEYS_ON] = "lanes carry a memory protection key that is closed outside calls",
		[KEYS_OFF] = "off, as the environment says (SEALANE_KEYS=off)",
		[KEYS_NO_CPU] = "this CPU has no memory protection keys",
		[KEYS_NO_OS] = "the CPU has memory protection keys, the kernel does not enable them (nopku, or built without)",
		[KEYS_NO_KEY] = "the rest of the process has taken all memory protection keys",
		[KEYS_REFUSED] = "pkey_alloc() is refused, probably by a seccomp filter",
	};
	static_assert(ARRAY_SIZE(texts) == KEYS_STATE_N, "a text for each state");

	return (unsigned)state < KEYS_STATE_N ? texts[state] : "unknown";
}

int keys_domain_new(struct keys_domain *ret, const char *name, bool exclusive)
{
	int key = 0, r = keys_start();

	if (r < 0)
		return r;
	if (keys_state() == KEYS_ON) {
		pthread_mutex_lock(&g_lock);
		key = take_key();
		pthread_mutex_unlock(&g_lock);
		if (key < 0 && g_required)
			return key;
	}
	*ret = (struct keys_domain){ .key = key > 0 ? key : 0, .exclusive = exclusive };
	if (!str_copy(ret->name, sizeof(ret->name), name))
		return -ENAMETOOLONG;
	if (exclusive) /* also without a key: who may call is checked then, too */
		atomic_store(&keys_active, true);
	return 0;
}

int keys_tag(const struct keys_domain *d, void *base, size_t size, int prot)
{
	return d->key ? tag(base, size, prot, d->key) : 0;
}

const struct keys_domain *keys_join(const struct keys_domain *d)
{
	const struct keys_domain *before = g_thread.component;

	g_thread.component = d;
	return before;
}

const struct keys_domain *keys_enter_(const struct keys_domain *d, bool force)
{
	if (d->exclusive && !force && g_thread.component != d)
		return &keys_denied_;
	if (d->key && g_thread.use[d->key].depth++ == 0)
		apply(d->key);
	return d;
}

void keys_leave_(const struct keys_domain *d)
{
	if (d->key && --g_thread.use[d->key].depth == 0)
		apply(d->key);
}

void keys_hold_(const struct keys_domain *d, struct keys_hold *h, bool write)
{
	struct keys_use *u = &g_thread.use[d->key];

	if (h->thread == u || !d->key)
		return;
	*h = (struct keys_hold){ .thread = u, .write = write };
	if (write)
		u->n_write++;
	else
		u->n_read++;
}

void keys_drop_(const struct keys_domain *d, struct keys_hold *h)
{
	struct keys_use *u = &g_thread.use[d->key];
	uint32_t *n = h->write ? &u->n_write : &u->n_read;

	/* A thread that ended may have left its place to this one, with counts of 0. */
	if (h->thread == u && *n > 0)
		--*n;
	h->thread = NULL;
	if (u->depth == 0)
		apply(d->key);
}
