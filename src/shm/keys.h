/*
 * Memory protection keys around mapped regions (MPKLink's idea, where it is sound): the mappings of a lane carry a key that is
 * closed except while this library works on them, so that a stray read or write from elsewhere in the process faults
 * (SEGV_PKUERR) instead of reading or damaging a lane. docs/design/keys.md says what that is worth: it contains bugs, and is no
 * boundary between containers, which never share an address space.
 *
 * A key guards a domain: keys_process is that of every ordinary lane; a component (sealane_component_new()) has its own.
 * A public function of libsealane begins with KEYS_SCOPE(domain): opened there, closed where the scope ends. Scopes nest; only
 * the outermost one of a thread writes the register. Zero-copy calls leave the domain open on purpose: keys_hold(), keys_drop().
 *
 * Without PKU, or before the first domain, KEYS_SCOPE() costs one load and one branch that is always the same way.
 *
 * Threads: rights are the thread's own. A new thread inherits its creator's, so a thread that is created between reserve and
 * commit starts with the domain open, until its first call of the library. A signal handler runs with all keys closed (the
 * kernel sees to it). A scope must not be left by longjmp() or an exception, and must not call the application back: what calls
 * handlers of the application's has no scope of its own, but uses the calls that have.
 *
 * Keys are never given back: pkey_free() leaves the tag in the page tables, and the next owner of the number would have them too.
 */
#ifndef SHM_KEYS_H
#define SHM_KEYS_H

#include "base/util.h"

#include <stdatomic.h>

#if defined(__x86_64__) && !defined(__ILP32__)
#define KEYS_HAVE_PKU 1
#else
#define KEYS_HAVE_PKU 0
#endif

#define KEYS_HIDDEN __attribute__((visibility("hidden")))

enum {
	KEYS_N = 16, /* what the hardware has, key 0 (all other memory) among them */
};

enum keys_state {
	KEYS_UNKNOWN,  /* keys_start() was not called yet */
	KEYS_ON,
	KEYS_OFF,      /* $SEALANE_KEYS=off */
	KEYS_NO_CPU,   /* the CPU has no PKU, or this is another architecture */
	KEYS_NO_OS,    /* the CPU has it, the kernel does not enable it */
	KEYS_NO_KEY,   /* all 15 are taken by the rest of the process */
	KEYS_REFUSED,  /* pkey_alloc() failed otherwise: a seccomp filter */
	KEYS_STATE_N
};

struct keys_domain {
	int key;	/* 0: has none, so its memory is not guarded */
	bool exclusive; /* only a thread that keys_join()ed it may enter: a component */
	char name[32];	/* for people; "" for keys_process */
};

/* Which thread keeps a domain open between two calls. Lies in the lane; all zeros: nobody. */
struct keys_hold {
	const void *thread;
	bool write;
};

/* The domain of ordinary lanes. Its key is 0 until keys_start() found one. */
extern struct keys_domain keys_process KEYS_HIDDEN;

/* Is there any domain that has to be entered? Written once, before the first mapping is tagged. */
extern _Atomic bool keys_active KEYS_HIDDEN;

/* What keys_scope_begin() gives a thread that is not of the domain's component. */
extern const struct keys_domain keys_denied_ KEYS_HIDDEN;

/*
 * keys_start() - look for PKU and take the process's key, once. Every call that makes a mapping to be tagged does this first,
 * before its own KEYS_SCOPE(). Return: 0, also when there is none; -ENOTSUP: there is none and $SEALANE_KEYS=require.
 */
MUST_CHECK int keys_start(void);

/* keys_are_required() - $SEALANE_KEYS=require: rather no lane than one without a key. Known after keys_start(). */
bool keys_are_required(void);

enum keys_state keys_state(void);
/* keys_state_text() - one line for a person. Never NULL. */
const char *keys_state_text(enum keys_state state);

/*
 * keys_domain_new() - a key of its own. @ret->key is 0 when there is none to be had (and $SEALANE_KEYS is not "require").
 * Return: 0; -ENOSPC: all 15 are taken, and "require"; -ENOTSUP.
 */
MUST_CHECK int keys_domain_new(struct keys_domain *ret, const char *name, bool exclusive);

/*
 * keys_tag() - the mapping belongs to the domain from now on. @prot: as it was mapped.
 * Return: 0, also when the domain has no key; -EPERM: sealane_harden() or another filter forbids it; negative errno.
 */
MUST_CHECK int keys_tag(const struct keys_domain *d, void *base, size_t size, int prot);

/* keys_join() - this thread works for that component; NULL: for none. Return: the one before. Not inherited by new threads. */
const struct keys_domain *keys_join(const struct keys_domain *d);

/* Out of line, for the macros below. */
MUST_CHECK const struct keys_domain *keys_enter_(const struct keys_domain *d, bool force);
void keys_leave_(const struct keys_domain *d);
void keys_hold_(const struct keys_domain *d, struct keys_hold *h, bool write);
void keys_drop_(const struct keys_domain *d, struct keys_hold *h);

static inline bool keys_are_active(void)
{
	return __builtin_expect(atomic_load_explicit(&keys_active, memory_order_relaxed), 0);
}

static inline MUST_CHECK const struct keys_domain *keys_scope_begin(const struct keys_domain *d, bool force)
{
	return keys_are_active() ? keys_enter_(d, force) : NULL;
}

static inline void keys_scope_end(const struct keys_domain **scope)
{
	if (__builtin_expect(*scope != NULL, 0))
		keys_leave_(*scope);
}

/* KEYS_SCOPE() - @domain is open from here to the end of the block, unless KEYS_DENIED says that this thread may not. */
#define KEYS_SCOPE(domain) KEYS_SCOPE_(domain, false)
#define KEYS_DENIED (__builtin_expect(keys_scope_ == &keys_denied_, 0))
/* KEYS_SCOPE_ALWAYS() - for calls that every thread may make: giving a lane up. */
#define KEYS_SCOPE_ALWAYS(domain) KEYS_SCOPE_(domain, true)
#define KEYS_SCOPE_(domain, force)                                                                      \
	__attribute__((cleanup(keys_scope_end), unused)) const struct keys_domain *keys_scope_ = keys_scope_begin(domain, force)

/*
 * keys_hold() - inside a scope: leave the domain open for this thread when the scope ends; @write: for writing too.
 * keys_drop() - no longer. By another thread than the one that held: that one stays open (its rights are out of reach).
 */
static inline void keys_hold(const struct keys_domain *d, struct keys_hold *h, bool write)
{
	if (keys_are_active())
		keys_hold_(d, h, write);
}

static inline void keys_drop(const struct keys_domain *d, struct keys_hold *h)
{
	if (__builtin_expect(h->thread != NULL, 0))
		keys_drop_(d, h);
}

/*
 * Where the two instructions stand that write the register (WRPKRU), for the scan for others; NULL on other machines.
 * The closing one checks after itself that all our domains are closed: jumping onto it with another value is fatal.
 */
extern const char keys_wrpkru_set[] KEYS_HIDDEN, keys_wrpkru_close[] KEYS_HIDDEN;

#endif
