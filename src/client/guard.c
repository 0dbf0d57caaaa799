/*
 * Theory of operation: every lane's mappings carry the key of the lane's domain (shm/keys.h). Where they lie is kept in a table that
 * a signal handler can read at any instant: entries are never freed, only emptied; an entry is filled before its start is stored,
 * and what the handler found it copies. What it can miss is a lane that is being closed at that moment.
 */
#include "client/guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifndef SEGV_PKUERR
#define SEGV_PKUERR 4
#endif

enum { CHUNK_ENTRIES = 64 };

struct entry {
	_Atomic uintptr_t start; /* 0: empty */
	_Atomic uintptr_t end;
	uint64_t lane_id;
	int is_own;
	char service[LIMIT_SERVICE_SIZE];
	char component[sizeof(((struct keys_domain *)NULL)->name)];
};

struct chunk {
	struct entry entries[CHUNK_ENTRIES];
	struct chunk *_Atomic next;
};

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; /* of who writes the table, and of the handler's installation */
static struct chunk *_Atomic g_chunks;
static _Atomic unsigned g_n_unguarded;

static void (*_Atomic g_report)(const struct sealane_fault *fault, void *arg);
static void *_Atomic g_report_arg;
static struct sigaction g_before;
static bool g_installed;

/* ---- the table ---- */

static struct entry *entry_find(uintptr_t address)
{
	for (struct chunk *c = atomic_load_explicit(&g_chunks, memory_order_acquire); c;
	     c = atomic_load_explicit(&c->next, memory_order_acquire))
		for (size_t i = 0; i < CHUNK_ENTRIES; i++) {
			struct entry *e = &c->entries[i];
			uintptr_t start = atomic_load_explicit(&e->start, memory_order_acquire);

			if (start && address >= start && address < atomic_load_explicit(&e->end, memory_order_relaxed))
				return e;
		}
	return NULL;
}

/* The lock is held. */
static struct entry *entry_free(void)
{
	struct chunk *new;

	for (struct chunk *c = atomic_load(&g_chunks); c; c = atomic_load(&c->next))
		for (size_t i = 0; i < CHUNK_ENTRIES; i++)
			if (atomic_load_explicit(&c->entries[i].start, memory_order_relaxed) == 0)
				return &c->entries[i];
	new = calloc(1, sizeof(*new));
	if (!new)
		return NULL;
	atomic_store(&new->next, atomic_load(&g_chunks));
	atomic_store_explicit(&g_chunks, new, memory_order_release);
	return &new->entries[0];
}

static int remember(const struct sealane_lane *lane, const struct region *r, bool is_own)
{
	struct entry *e;

	pthread_mutex_lock(&g_lock);
	e = entry_free();
	if (e) {
		e->lane_id = lane->who.lane_id;
		e->is_own = is_own;
		memcpy(e->service, lane->identity.service, sizeof(e->service));
		memcpy(e->component, lane->domain->name, sizeof(e->component));
		atomic_store_explicit(&e->end, (uintptr_t)r->base + r->size, memory_order_relaxed);
		atomic_store_explicit(&e->start, (uintptr_t)r->base, memory_order_release);
	}
	pthread_mutex_unlock(&g_lock);
	return e ? 0 : -ENOMEM;
}

void guard_forget(const struct region *r)
{
	struct entry *e;

	if (!r->base || !atomic_load(&g_chunks))
		return;
	pthread_mutex_lock(&g_lock);
	e = entry_find((uintptr_t)r->base);
	if (e)
		atomic_store_explicit(&e->start, 0, memory_order_release);
	pthread_mutex_unlock(&g_lock);
}

static int guard_region(const struct sealane_lane *lane, const struct region *r, bool is_own)
{
	int error = keys_tag(lane->domain, r->base, r->size, is_own ? PROT_READ | PROT_WRITE : PROT_READ);

	return error < 0 ? error : remember(lane, r, is_own);
}

int guard_lane(struct sealane_lane *lane)
{
	int r;

	if (!lane->domain->key)
		return 0;
	r = lane->own_shared ? 0 : guard_region(lane, &lane->own, true);
	if (r == 0)
		r = guard_region(lane, &lane->peer, false);
	if (r == 0 || r == -ENOMEM)
		return r;
	/* An ordinary lane works without as well as with; one of components has no other purpose. */
	if (keys_are_required() || lane->domain->exclusive)
		return lane_fail(r, "the lane's memory cannot be given a protection key (%s): make it before sealane_harden(), and let "
				    "seccomp filters allow pkey_mprotect", sealane_strerror(r));
	atomic_fetch_add(&g_n_unguarded, 1);
	return 0;
}

unsigned guard_n_unguarded(void)
{
	return atomic_load(&g_n_unguarded);
}

int sealane_guarded(const char **ret_text)
{
	bool on = keys_start() == 0 && keys_state() == KEYS_ON, some = guard_n_unguarded() > 0;

	if (ret_text)
		*ret_text = on && some ? "lanes carry a memory protection key, but for those made after pkey_mprotect() was forbidden" :
					 keys_state_text(keys_state());
	return on && !some;
}

/* ---- one gate for many calls ---- */

int sealane_guard_open(struct sealane_lane *lane)
{
	const struct keys_domain *scope = keys_scope_begin(lane->domain, false);

	return scope == &keys_denied_ ? guard_denied(lane) : 0;
}

void sealane_guard_close(struct sealane_lane *lane)
{
	if (keys_are_active())
		keys_leave_(lane->domain);
}

int guard_denied(const struct sealane_lane *lane)
{
	return lane_fail(-EACCES, "this end of the lane belongs to the component \"%s\": sealane_component_join() it first",
			 lane->domain->name);
}

/* ---- telling of a fault: from here on everything runs in a signal handler ---- */

struct line {
	char text[320];
	size_t n;
};

static void put(struct line *l, const char *s)
{
	while (*s && l->n < sizeof(l->text))
		l->text[l->n++] = *s++;
}

static void put_number(struct line *l, uint64_t v, unsigned base)
{
	char digits[24];
	size_t i = sizeof(digits);

	digits[--i] = '\0';
	do
		digits[--i] = "0123456789abcdef"[v % base];
	while ((v /= base) > 0);
	put(l, &digits[i]);
}

static void report_to_stderr(const struct sealane_fault *f, void *arg)
{
	struct line l = { .n = 0 };

	put(&l, "sealane: stray ");
	put(&l, f->is_write > 0 ? "write" : f->is_write == 0 ? "read" : "access");
	put(&l, " at 0x");
	put_number(&l, (uintptr_t)f->address, 16);
	put(&l, " met lane ");
	put_number(&l, f->lane_id, 10);
	put(&l, " to ");
	put(&l, f->service[0] ? f->service : "(unnamed)");
	put(&l, f->is_own ? ", in what this side writes" : ", in what its peer writes");
	if (f->component[0]) {
		put(&l, ", an end of component ");
		put(&l, f->component);
	}
	put(&l, ", outside the library's calls (memory protection key)\n");
	if (write(STDERR_FILENO, l.text, l.n) < 0)
		return; /* nobody to tell that to */
}

static int is_write(const ucontext_t *context)
{
#if KEYS_HAVE_PKU
	return (context->uc_mcontext.gregs[REG_ERR] & 2) != 0; /* the CPU's page-fault error code */
#else
	return -1;
#endif
}

static void tell(const siginfo_t *info, const ucontext_t *context)
{
	void (*report)(const struct sealane_fault *, void *) = atomic_load(&g_report);
	struct entry *e = entry_find((uintptr_t)info->si_addr);
	char service[sizeof(e->service)], component[sizeof(e->component)];
	struct sealane_fault f = { .size = sizeof(f), .address = info->si_addr, .is_write = is_write(context) };

	if (!e || !report)
		return;
	f.lane_id = e->lane_id;
	f.is_own = e->is_own;
	memcpy(service, e->service, sizeof(service));
	memcpy(component, e->component, sizeof(component));
	service[sizeof(service) - 1] = component[sizeof(component) - 1] = '\0';
	f.service = service;
	f.component = component;
	report(&f, atomic_load(&g_report_arg));
}

/* As if we had not been there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	if (g_before.sa_flags & SA_SIGINFO) {
		g_before.sa_sigaction(number, info, context);
	} else if (g_before.sa_handler != SIG_DFL && g_before.sa_handler != SIG_IGN) {
		g_before.sa_handler(number);
	} else {
		struct sigaction dfl = { .sa_handler = SIG_DFL };

		/* A fault happens again on return, and is then fatal; a signal that somebody sent has to be sent again. */
		sigaction(number, &dfl, NULL);
		if (info->si_code <= 0)
			raise(number);
	}
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code == SEGV_PKUERR)
		tell(info, context);
	errno = saved;
	pass_on(number, info, context);
}

int sealane_guard_handler(void (*report)(const struct sealane_fault *fault, void *arg), void *arg)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	int r = 0;

	pthread_mutex_lock(&g_lock);
	atomic_store(&g_report, (void (*)(const struct sealane_fault *, void *))NULL);
	atomic_store(&g_report_arg, arg);
	atomic_store(&g_report, report ? report : report_to_stderr);
	if (!g_installed) {
		if (sigaction(SIGSEGV, NULL, &g_before) < 0 || sigaction(SIGSEGV, &sa, NULL) < 0)
			r = lane_fail(-errno, "SIGSEGV gets no handler: %s", sealane_strerror(-errno));
		g_installed = r == 0;
	}
	pthread_mutex_unlock(&g_lock);
	return r;
}
