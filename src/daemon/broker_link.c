/*
 * Theory of operation: what the broker knows of other hosts.
 *
 * Hosts come from the configuration and from the catalogue. One linker (the first) holds a session to each of them, dials again
 * when it breaks, and tells what the host announces. From that, what the catalogue says and what the configuration says
 * beforehand, link_host_has() makes one answer for a service at a host; whatever changes it has every route decided again and wakes
 * those who wait (hosts_changed(), once a turn of the loop, since one announcement changes many).
 *
 * A new linker knows nothing: it is told, in this order, who we are and whom we trust (ca_on_linker()), where to accept, which
 * hosts there are, what we offer. It opens no socket: it asks for one (LB_DIAL), the warden connects it, and it comes back with
 * BL_DIALED.
 *
 * Before this file: broker.c. After it: broker_carry.c and broker_welcome.c for lanes, broker_ca.c for certificates.
 * Must never: believe what a host announces further than that it says so. A lane to it is still the far host's to refuse.
 */
#include "daemon/broker_int.h"

#include "base/address.h"
#include "core/revoked.h"
#include "core/svid.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

enum {
	ANNOUNCE_MS = 50,	 /* several services that come up together are one announcement */
	ANNOUNCE_LANES_MS = 1000, /* and how many lanes there are may be a second old */
	LISTEN_RETRY_MS = 5000,	 /* an address that the machine does not have yet */
	TOLD_AGAIN_S = 60,	 /* the same failure of the same host, and what it announces and does not read, is logged once a minute */
	REFUSALS_LOGGED_PER_S = 10,
	/* Sessions of one host that are told, up and down: at once, as where a host with many services comes back; then in a second. */
	SESSIONS_LOGGED_AT_ONCE = 100,
	SESSIONS_LOGGED_PER_S = 10,
	TICKETS_MS = 3600 * 1000, /* a ticket is taken for one to two of these */
	KEEPS = 0, /* the linker that holds the sessions between hosts */
};

struct listening {
	char address[LIMIT_ADDRESS_SIZE]; /* "": free */
	int fd;				  /* -1: not yet */
	bool told;			  /* that it failed */
	int error;			  /* negative errno of the last try that did; 0: none did */
	char why[256];			  /* the warden's words */
};

static struct {
	uint32_t last_hid;
	bool wanted;	    /* linkers run, or are asked for */
	unsigned n_linkers; /* as asked for */
	struct listening listening[CONFIG_LISTEN_MAX];
	char *announcement; /* as it was sent last; NULL: never */
	size_t announcement_size;
	bool announce_armed, lanes_armed, changed_armed, retry_armed, tickets_armed;
	bool stats_out[LIMIT_LINKERS];
	struct role_tickets tickets; /* n 0: not drawn yet */
	struct bucket refusals;
	uint64_t n_unlogged;
} g_link;

const char *link_host_state_name(enum link_host_state s)
{
	static const char *const names[] = { "unknown", "up", "down" };
	static_assert(ARRAY_SIZE(names) == LINK_HOST_STATE_N, "a name for each");

	return names[s];
}

void link_tell(struct broker *b, uint32_t linker, const struct role_msg *m, int fd)
{
	broker_tell_linker(b, linker, m, fd);
}

void link_tell_all(struct broker *b, const struct role_msg *m, int fd)
{
	for (uint32_t i = 0; i < b->n_linkers; i++)
		link_tell(b, i, m, fd);
}

/* ------------------------------------------------------------------ hosts */

struct link_host *link_host(struct broker *b, uint32_t hid)
{
	struct link_host *h;

	HASH_FIND_INT(b->hosts, &hid, h);
	return h;
}

static struct link_host *find_host(struct broker *b, const char *name)
{
	for (struct link_host *h = b->hosts; h; h = h->hh.next)
		if (strcmp(h->name, name) == 0)
			return h;
	return NULL;
}

struct link_host *link_host_of(struct broker *b, const char *address, const char *serial)
{
	for (struct link_host *h = b->hosts; h; h = h->hh.next)
		if (address_same_host(h->address, address) && serial_is_of_host(serial, h->name))
			return h;
	return NULL;
}

static void on_changed(struct broker *b, void *arg)
{
	g_link.changed_armed = false;
	model_refresh_routes(b);
	lane_retry_waiting(b);
	port_retry_waiting(b);
}

static void hosts_changed(struct broker *b)
{
	if (g_link.changed_armed || !b->config)
		return;
	g_link.changed_armed = true;
	broker_after(b, 0, on_changed, NULL);
}

static void tell_host(struct broker *b, uint32_t linker, const struct link_host *h)
{
	struct role_msg m = { .type = BL_HOST, .u.host = { .hid = h->hid, .keep = linker == KEEPS } };

	memcpy(m.u.host.name, h->name, sizeof(m.u.host.name));
	memcpy(m.u.host.address, h->address, sizeof(m.u.host.address));
	memcpy(m.u.host.rdma, h->rdma, sizeof(m.u.host.rdma));
	link_tell(b, linker, &m, -1);
}

static void tell_host_to_all(struct broker *b, const struct link_host *h)
{
	for (uint32_t i = 0; i < b->n_linkers; i++)
		tell_host(b, i, h);
}

/* Is there an address that counts, and is it another than before? Return: it has changed. */
static bool settle_address(struct link_host *h)
{
	const char *now = "";

	for (int from = LINK_FROM_N - 1; from >= 0; from--)
		if (h->addresses[from][0])
			now = h->addresses[from];
	if (strcmp(h->address, now) == 0)
		return false;
	return str_copy(h->address, sizeof(h->address), now);
}

static struct link_host *add_host(struct broker *b, const char *name)
{
	struct link_host *h = calloc(1, sizeof(*h));

	if (!h || !str_copy(h->name, sizeof(h->name), name)) {
		free(h);
		return NULL;
	}
	h->hid = ++g_link.last_hid;
	h->since_unix_s = unix_now_s();
	HASH_ADD_INT(b->hosts, hid, h);
	return h;
}

int link_host_set(struct broker *b, const char *name, const char *address, enum link_from from)
{
	struct sockaddr_storage a;
	struct link_host *h;
	socklen_t size;

	if (!label_is_valid(name) || address_parse(address, &a, &size) < 0)
		return -EINVAL;
	if (strcmp(name, b->host) == 0)
		return 0; /* us, in a file or catalogue that all hosts share */
	h = find_host(b, name);
	if (!h && HASH_COUNT(b->hosts) >= LIMIT_HOSTS)
		return -ENOSPC;
	if (!h && !(h = add_host(b, name)))
		return -ENOMEM;
	address_format(h->addresses[from], &a);
	if (settle_address(h)) {
		log_info("host.set", LOG_STR("host", h->name), LOG_STR("address", h->address),
			 LOG_STR("from", from == LINK_FROM_CONFIG ? "config" : "catalogue"));
		tell_host_to_all(b, h);
		hosts_changed(b);
	}
	return 0;
}

static void free_host(struct broker *b, struct link_host *h)
{
	HASH_DEL(b->hosts, h);
	free(h->since);
	free(h->offers);
	free(h->said);
	free(h->listed);
	free(h);
}

/* Lanes to it end with its sessions, which the linker ends. */
static void remove_host(struct broker *b, struct link_host *h, const char *address)
{
	struct role_msg m = { .type = BL_HOST_GONE, .u.id.id = h->hid };

	log_info("host.gone", LOG_STR("host", h->name), LOG_STR("address", address));
	link_tell_all(b, &m, -1);
	free_host(b, h);
	hosts_changed(b);
}

void link_host_remove(struct broker *b, const char *name, enum link_from from)
{
	struct link_host *h = find_host(b, name);
	char address[LIMIT_ADDRESS_SIZE];

	if (!h || !h->addresses[from][0])
		return;
	memcpy(address, h->address, sizeof(address));
	h->addresses[from][0] = '\0';
	if (from == LINK_FROM_CATALOGUE)
		h->n_listed = 0;
	if (from == LINK_FROM_CONFIG)
		h->n_said = 0;
	if (settle_address(h) && h->address[0])
		tell_host_to_all(b, h);
	else if (!h->address[0])
		remove_host(b, h, address);
	hosts_changed(b);
}

static struct announced *find_listed(const struct link_host *h, const struct service_name *service)
{
	for (size_t i = 0; i < h->n_listed; i++)
		if (service_name_equal(&h->listed[i].service, service))
			return &h->listed[i];
	return NULL;
}

int link_host_lists(struct broker *b, const char *name, const struct announced *a)
{
	struct link_host *h = find_host(b, name);
	struct announced *at = h ? find_listed(h, &a->service) : NULL;
	bool same = at && at->kinds == a->kinds;

	if (!h)
		return strcmp(name, b->host) == 0 ? 0 : -ENOENT;
	if (!at && h->n_listed == h->cap_listed) {
		size_t cap = h->cap_listed ? 2 * h->cap_listed : 8;
		struct announced *bigger = h->n_listed < LIMIT_SERVICES ? reallocarray(h->listed, cap, sizeof(*bigger)) : NULL;

		if (!bigger)
			return h->n_listed < LIMIT_SERVICES ? -ENOMEM : -ENOSPC;
		h->listed = bigger;
		h->cap_listed = cap;
	}
	if (!at)
		at = &h->listed[h->n_listed++];
	*at = *a;
	if (!same)
		hosts_changed(b);
	return 0;
}

void link_host_unlists(struct broker *b, const char *name, const struct service_name *service)
{
	struct link_host *h = find_host(b, name);
	struct announced *at = h ? find_listed(h, service) : NULL;

	if (!at)
		return;
	*at = h->listed[--h->n_listed];
	hosts_changed(b);
}

static bool has_said(const struct link_host *h, const struct service_name *service)
{
	for (size_t i = 0; i < h->n_said; i++)
		if (service_name_equal(&h->said[i], service))
			return true;
	return false;
}

/* As it counted them, and what has changed here since: so a burst of connections is spread before the next announcement comes. */
static uint32_t lanes_told(const struct link_host *h, const struct announced *told)
{
	int64_t lanes = (int64_t)told->lanes + h->since[told - h->offers];

	return lanes < 0 ? 0 : lanes > UINT32_MAX ? UINT32_MAX : (uint32_t)lanes;
}

void link_host_count(struct link_host *h, const struct service_name *service, int change)
{
	const struct announced *told = announce_find(h->offers, h->n_offers, service);

	if (change > 0 || h->n_lanes > 0)
		h->n_lanes += (uint32_t)change;
	if (told)
		h->since[told - h->offers] += change;
}

/*
 * On a session that stands its own word counts. Without one: the catalogue's, where there is one that knows the host; else what was
 * said beforehand, else what it announced last, which is at most a maybe.
 */
/* One that has the service for other lanes may soon have it for these. */
static enum route_elsewhere has_up(const struct announced *a, enum link_kind kind)
{
	return a->up && a->kinds & 1u << kind ? ELSEWHERE_UP : ELSEWHERE_MAYBE;
}
static_assert(OFFER_SOCKET == 1 << LINK_SOCKET && OFFER_STREAMS == 1 << LINK_STREAM && OFFER_MESSAGES == 1 << LINK_MESSAGES, "a bit for each");

enum route_elsewhere link_host_has(const struct link_host *h, const struct service_name *service, enum link_kind kind, uint32_t *ret_lanes)
{
	const struct announced *told = announce_find(h->offers, h->n_offers, service);
	const struct announced *listed = find_listed(h, service);

	*ret_lanes = told ? lanes_told(h, told) : listed ? listed->lanes + h->n_lanes : h->n_lanes;
	if (h->state == LINK_HOST_UP && h->announced)
		return told ? has_up(told, kind) : ELSEWHERE_NONE;
	if (listed)
		return has_up(listed, kind);
	if (has_said(h, service))
		return ELSEWHERE_UP;
	return ELSEWHERE_MAYBE;
}

bool link_host_knows(const struct link_host *h, const struct service_name *service)
{
	return announce_find(h->offers, h->n_offers, service) || find_listed(h, service) || has_said(h, service);
}

bool link_host_has_down(const struct link_host *h, const struct service_name *service)
{
	const struct announced *told = announce_find(h->offers, h->n_offers, service);

	return h->state == LINK_HOST_UP && h->announced && told && !told->up;
}

enum route_elsewhere link_elsewhere(struct broker *b, const struct service_name *service, enum link_kind kind)
{
	enum route_elsewhere best = ELSEWHERE_NONE;
	uint32_t lanes;

	for (const struct link_host *h = b->hosts; h && best != ELSEWHERE_UP; h = h->hh.next) {
		enum route_elsewhere has = link_host_has(h, service, kind, &lanes);

		best = has > best ? has : best;
	}
	return best;
}

/* ------------------------------------------------------------------ what we offer */

/* Lanes that stand, by service: those that the daemon sees. */
static void count_lanes(const struct broker *b, uint32_t *by_sid)
{
	for (const struct lane *l = b->lanes; l; l = l->hh.next)
		if (l->sid < b->n_services && !l->shm.pending && !l->link.opening)
			by_sid[l->sid]++;
	for (size_t i = 0; i < b->n_direct_lanes; i++)
		if (b->direct_lanes[i].sid < b->n_services)
			by_sid[b->direct_lanes[i].sid]++;
}

bool link_offer(const struct broker *b, const struct service *s, struct announced *ret)
{
	bool draining = s->wid < b->n_workloads && b->workloads[s->wid].draining;
	unsigned kinds = port_kinds(b, s) | (s->up && !draining ? OFFER_SOCKET : 0);

	if (s->health == HEALTH_FAILING)
		kinds = 0;
	*ret = (struct announced){ .service = s->name, .up = kinds != 0, .kinds = kinds };
	return !s->removed && (s->offered || (s->takes_lanes && s->was_listened));
}

static int format_offers(const struct broker *b, char **ret, size_t *ret_size)
{
	AUTO_FREE(uint32_t) lanes = calloc(b->n_services + 1, sizeof(*lanes));
	char line[ANNOUNCE_LINE_SIZE];
	FILE *f = lanes ? open_memstream(ret, ret_size) : NULL;
	bool failed;

	if (!f)
		return -ENOMEM;
	count_lanes(b, lanes);
	for (size_t i = 0; i < b->n_services; i++) {
		const struct service *s = &b->services[i];
		struct announced a;

		if (!link_offer(b, s, &a))
			continue;
		a.lanes = lanes[i];
		fwrite(line, 1, announce_format(line, &a), f);
	}
	failed = ferror(f);
	return fclose(f) != 0 || failed ? -ENOMEM : 0;
}

static void tell_offers(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_ANNOUNCE };
	AUTO_FD fd = memfd_create("sealane-announce", MFD_CLOEXEC);

	if (fd < 0 || write(fd, g_link.announcement, g_link.announcement_size) != (ssize_t)g_link.announcement_size) {
		log_error("link.announce_failed", LOG_STR("error", log_errno_name(errno)));
		return;
	}
	link_tell(b, linker, &m, fd);
}

static void announce(struct broker *b)
{
	AUTO_FREE(char) text = NULL;
	size_t size = 0;

	if (!b->config || b->n_linkers == 0)
		return;
	if (format_offers(b, &text, &size) < 0) {
		log_error("link.announce_failed", LOG_STR("error", "ENOMEM"));
		return;
	}
	if (g_link.announcement && size == g_link.announcement_size && memcmp(text, g_link.announcement, size) == 0)
		return;
	free(g_link.announcement);
	g_link.announcement = take_ptr(text);
	g_link.announcement_size = size;
	for (uint32_t i = 0; i < b->n_linkers; i++)
		if (b->linkers[i].fd >= 0)
			tell_offers(b, i);
}

static void on_announce_time(struct broker *b, void *arg)
{
	*(bool *)arg = false;
	announce(b);
}

static void arm_announce(struct broker *b, bool *armed, unsigned ms)
{
	if (*armed || b->n_linkers == 0)
		return;
	*armed = true;
	broker_after(b, ms, on_announce_time, armed);
}

void link_announce(struct broker *b)
{
	arm_announce(b, &g_link.announce_armed, ANNOUNCE_MS);
}

void link_announce_soon(struct broker *b)
{
	arm_announce(b, &g_link.lanes_armed, ANNOUNCE_LANES_MS);
}

/* ------------------------------------------------------------------ where we listen */

static void tell_listeners(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_LISTEN };

	for (size_t i = 0; i < CONFIG_LISTEN_MAX; i++)
		if (g_link.listening[i].fd >= 0 && g_link.listening[i].address[0])
			link_tell(b, linker, &m, g_link.listening[i].fd);
}

static struct listening *find_listening(const char *address)
{
	for (size_t i = 0; i < CONFIG_LISTEN_MAX; i++)
		if (strcmp(g_link.listening[i].address, address) == 0)
			return &g_link.listening[i];
	return NULL;
}

static void ask_to_listen(struct broker *b, struct listening *l);

static void on_listen_time(struct broker *b, void *arg)
{
	g_link.retry_armed = false;
	for (size_t i = 0; i < CONFIG_LISTEN_MAX; i++)
		if (g_link.listening[i].address[0] && g_link.listening[i].fd < 0)
			ask_to_listen(b, &g_link.listening[i]);
}

static void on_listening(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FREE(char) address = arg;
	struct listening *l = find_listening(address);
	struct role_msg m = { .type = BL_LISTEN };
	AUTO_FD sock = fd;

	if (!l)
		return; /* taken out meanwhile: BW_UNLISTEN_TCP is on its way */
	if (reply->error || sock < 0) {
		if (!l->told)
			log_error("link.listen_failed", LOG_STR("address", address), LOG_STR("error", log_errno_name(reply->error)),
				  LOG_STR("why", reply->why), LOG_STR("then", "it is tried again every 5 s"));
		l->told = true;
		l->error = reply->error ? reply->error : -EBADF;
		memcpy(l->why, reply->why, sizeof(l->why) < sizeof(reply->why) ? sizeof(l->why) : sizeof(reply->why));
		l->why[sizeof(l->why) - 1] = '\0';
		if (!g_link.retry_armed) {
			g_link.retry_armed = true;
			broker_after(b, LISTEN_RETRY_MS, on_listen_time, NULL);
		}
		return;
	}
	l->told = false;
	l->error = 0;
	if (l->fd >= 0)
		return; /* asked for twice */
	l->fd = take_fd(&sock);
	log_info("link.listen", LOG_STR("address", address));
	link_tell_all(b, &m, l->fd);
}

static void fill_dial(const struct broker *b, struct role_dial *d, const char *address)
{
	const struct config_link *c = &b->config->link;

	*d = (struct role_dial){ .timeout_ms = (uint32_t)(c->timeout_s * 1000) };
	memcpy(d->congestion, c->congestion, sizeof(d->congestion));
	if (!str_copy(d->address, sizeof(d->address), address))
		d->address[0] = '\0';
}
static_assert(sizeof(((struct role_dial *)0)->congestion) == sizeof(((struct config_link *)0)->congestion), "copied whole");

static void ask_to_listen(struct broker *b, struct listening *l)
{
	struct role_msg m = { .type = BW_LISTEN_TCP };
	char *address = strdup(l->address);

	if (!address) {
		log_error("link.listen_failed", LOG_STR("address", l->address), LOG_STR("error", "ENOMEM"));
		return;
	}
	fill_dial(b, &m.u.dial, l->address);
	broker_ask(b, &m, -1, on_listening, address);
}

bool link_listener(size_t i, const char **ret_address, bool *ret_listens, int *ret_error, const char **ret_why)
{
	for (size_t at = 0; at < CONFIG_LISTEN_MAX; at++) {
		const struct listening *l = &g_link.listening[at];

		if (!l->address[0] || i-- > 0)
			continue;
		*ret_address = l->address;
		*ret_listens = l->fd >= 0;
		*ret_error = l->error;
		*ret_why = l->error ? l->why : "";
		return true;
	}
	return false;
}

static bool is_configured(const struct broker *b, const char *address)
{
	for (size_t i = 0; i < b->config->link.n_listen; i++)
		if (strcmp(b->config->link.listen[i], address) == 0)
			return true;
	return false;
}

/* A linker cannot be told to leave one of several: it leaves all, and is told those that stay. */
static void drop_listeners(struct broker *b)
{
	struct role_msg unlisten = { .type = BL_UNLISTEN };
	bool dropped = false;

	for (size_t i = 0; i < CONFIG_LISTEN_MAX; i++) {
		struct listening *l = &g_link.listening[i];
		struct role_msg m = { .type = BW_UNLISTEN_TCP };

		if (!l->address[0] || is_configured(b, l->address))
			continue;
		fill_dial(b, &m.u.dial, l->address);
		broker_ask(b, &m, -1, NULL, NULL);
		if (l->fd >= 0)
			close(l->fd);
		*l = (struct listening){ .fd = -1 };
		dropped = true;
	}
	if (!dropped)
		return;
	link_tell_all(b, &unlisten, -1);
	for (uint32_t i = 0; i < b->n_linkers; i++)
		tell_listeners(b, i);
}

static void apply_listen(struct broker *b)
{
	drop_listeners(b);
	for (size_t i = 0; i < b->config->link.n_listen; i++) {
		const char *address = b->config->link.listen[i];
		struct listening *l = find_listening(address);

		/* Again also for one that stands: its options may be others now. */
		if (!l) {
			l = find_listening("");
			assert(l); /* as many as the configuration can have, and the others are dropped */
			l->fd = -1;
			if (!str_copy(l->address, sizeof(l->address), address))
				continue;
		}
		ask_to_listen(b, l);
	}
}

/* ------------------------------------------------------------------ configuration */

void link_want(struct broker *b)
{
	struct role_msg m = { .type = BW_LINKERS, .u.id.id = b->config ? b->config->link.n_linkers : 1 };

	if (g_link.wanted && g_link.n_linkers == m.u.id.id)
		return;
	g_link.wanted = true;
	g_link.n_linkers = m.u.id.id;
	broker_ask(b, &m, -1, NULL, NULL);
}

static void apply_said(struct link_host *h, const struct config_host *c)
{
	free(h->said);
	h->said = c->n_services ? calloc(c->n_services, sizeof(*h->said)) : NULL;
	h->n_said = h->said ? c->n_services : 0;
	if (h->n_said)
		memcpy(h->said, c->services, h->n_said * sizeof(*h->said));
}

static void apply_rdma(struct broker *b, struct link_host *h, const char *address)
{
	if (strcmp(h->rdma, address) == 0 || !str_copy(h->rdma, sizeof(h->rdma), address))
		return;
	tell_host_to_all(b, h);
}

static const struct config_host *config_host(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(c->hosts[i].name, name) == 0)
			return &c->hosts[i];
	return NULL;
}

static void apply_hosts(struct broker *b)
{
	struct link_host *h, *tmp;

	HASH_ITER(hh, b->hosts, h, tmp)
		if (!config_host(b->config, h->name) || strcmp(h->name, b->host) == 0) {
			apply_rdma(b, h, "");
			link_host_remove(b, h->name, LINK_FROM_CONFIG);
		}
	for (size_t i = 0; i < b->config->n_hosts; i++) {
		const struct config_host *c = &b->config->hosts[i];
		int r = link_host_set(b, c->name, c->address, LINK_FROM_CONFIG);

		if (r < 0)
			log_error("host.skipped", LOG_STR("host", c->name), LOG_STR("error", log_errno_name(r)));
		else if ((h = find_host(b, c->name))) {
			apply_said(h, c);
			apply_rdma(b, h, c->rdma_listen);
		}
	}
	hosts_changed(b);
}

void link_apply(struct broker *b)
{
	if (b->config->link.wanted || ca_is_member(b))
		link_want(b);
	else if (g_link.wanted && g_link.n_linkers != b->config->link.n_linkers)
		link_want(b);
	apply_hosts(b);
	apply_listen(b);
	rdma_apply(b);
	link_announce(b);
}

/* ------------------------------------------------------------------ session tickets */

/* Whoever comes back finds any of our linkers, so all of them take a ticket that one of them has made. */
static void draw_tickets(void)
{
	struct role_tickets *t = &g_link.tickets;
	uint8_t secret[ROLE_TICKET_SECRET_SIZE];

	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret)) {
		log_error("link.no_tickets", LOG_STR("error", log_errno_name(errno)), LOG_STR("then", "linkers keep those that they have; tried again in an hour"));
		return;
	}
	memmove(t->secrets[1], t->secrets[0], sizeof(t->secrets[0]) * (ROLE_TICKET_SECRETS - 1));
	memcpy(t->secrets[0], secret, sizeof(secret));
	if (t->n < ROLE_TICKET_SECRETS)
		t->n++;
}

static void tell_tickets_to_all(struct broker *b)
{
	struct role_msg m = { .type = BL_TICKETS, .u.tickets = g_link.tickets };

	if (m.u.tickets.n > 0)
		link_tell_all(b, &m, -1);
}

static void on_tickets_time(struct broker *b, void *arg)
{
	broker_after(b, TICKETS_MS, on_tickets_time, NULL);
	draw_tickets();
	tell_tickets_to_all(b);
}

/* Whoever took a linker over has read them there, and could make tickets in anybody's name: those of before do not count any more. */
static void replace_tickets(struct broker *b)
{
	if (g_link.tickets.n == 0)
		return;
	memset(&g_link.tickets, 0, sizeof(g_link.tickets));
	draw_tickets();
	tell_tickets_to_all(b);
}

static void tell_tickets(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_TICKETS };

	if (g_link.tickets.n == 0)
		draw_tickets();
	if (!g_link.tickets_armed)
		broker_after(b, TICKETS_MS, on_tickets_time, NULL);
	g_link.tickets_armed = true;
	m.u.tickets = g_link.tickets;
	if (m.u.tickets.n > 0)
		link_tell(b, linker, &m, -1);
}

/* ------------------------------------------------------------------ linkers */

void link_on_linker(struct broker *b, uint32_t index)
{
	rdma_on_linker(b, index);
	ca_on_linker(b, index);
	tell_tickets(b, index);
	tell_listeners(b, index);
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		tell_host(b, index, h);
	if (g_link.announcement)
		tell_offers(b, index);
	else
		link_announce(b);
	hosts_changed(b); /* somebody may wait for a linker */
}

/* ------------------------------------------------------------------ sessions */

static uint64_t session_key(uint32_t linker, uint32_t session)
{
	return (uint64_t)linker << 32 | session;
}

static bool is_between_hosts(const struct broker *b, const struct link_session *s)
{
	char host[LIMIT_NAME_SIZE];

	return !s->inbound && s->hid != ROLE_NO_ID && host_id_parse(host, s->local, b->config->trust_domain) == 0;
}

static void set_state(struct broker *b, struct link_host *h, enum link_host_state state, uint32_t reason, const char *why)
{
	int64_t now = unix_now_s();

	if (h->state == LINK_HOST_UP || state == LINK_HOST_UP)
		h->heard_unix_s = now - (reason == SESSION_TIMEOUT ? (int64_t)b->config->link.timeout_s : 0);
	if (h->state != state)
		h->since_unix_s = now;
	h->state = state;
	h->reason = reason;
	snprintf(h->why, sizeof(h->why), "%s", why);
	hosts_changed(b);
}

/* NULL: too many, or no memory; then the session counts for nobody in particular. */
static struct link_peer *peer_of(struct broker *b, const struct link_session *s)
{
	struct link_peer_key key;
	struct link_peer *p;

	memset(&key, 0, sizeof(key));
	memcpy(key.local, s->local, strlen(s->local));
	memcpy(key.peer, s->peer, strlen(s->peer));
	key.inbound = s->inbound;
	HASH_FIND(hh, b->link_peers, &key, sizeof(key), p);
	if (p || HASH_COUNT(b->link_peers) >= LIMIT_LINK_PEERS || !(p = calloc(1, sizeof(*p))))
		return p;
	p->key = key;
	HASH_ADD(hh, b->link_peers, key, sizeof(p->key), p);
	return p;
}

static void end_session(struct broker *b, struct link_session *s)
{
	struct link_peer *p = s->between;

	if (p) {
		p->n_sessions--;
		p->bytes_in += s->stats.bytes_in;
		p->bytes_out += s->stats.bytes_out;
		p->rdma_in += s->stats.rdma_in;
		p->rdma_out += s->stats.rdma_out;
		p->n_opened += s->stats.n_opened;
		p->n_refused += s->stats.n_refused;
	}
	HASH_DEL(b->sessions, s);
	free(s);
}

static void log_session(struct broker *b, enum log_level level, const char *event, const struct role_session *s, uint64_t more)
{
	const struct link_host *h = link_host(b, s->hid);

	LOG_EVENT(level, event, LOG_STR("host", h ? h->name : NULL), LOG_STR("address", s->address),
		  LOG_STR("direction", s->inbound ? "in" : "out"), LOG_STR("local_id", s->local[0] ? s->local : NULL),
		  LOG_STR("peer_id", s->peer[0] ? s->peer : NULL), LOG_STR("cipher", s->cipher[0] ? s->cipher : NULL),
		  LOG_STR("reason", s->state == SESSION_UP ? NULL : session_reason_name(s->reason)), LOG_STR("why", s->why[0] ? s->why : NULL),
		  LOG_BOOL("resumed", s->resumed != 0), LOG_U64("more", more));
}

/*
 * Whoever has joined may begin sessions and end them all day long. How many of them are told is counted by whom its certificate was issued to, where the
 * serial says so, else by its address, with all ports. One that was told to be up is told to be down.
 */
struct teller {
	char of[LIMIT_ADDRESS_SIZE]; /* "": of all for whom there was no place */
	struct bucket sessions;
	uint64_t n_untold;
	UT_hash_handle hh;
};
static struct teller *g_tellers;

static struct teller *teller_new(const char *of)
{
	struct teller *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	snprintf(t->of, sizeof(t->of), "%s", of);
	bucket_init(&t->sessions, SESSIONS_LOGGED_PER_S, SESSIONS_LOGGED_AT_ONCE, clock_ns());
	HASH_ADD_STR(g_tellers, of, t);
	return t;
}

/* Of whom nothing was told for a while is as good as new. */
static void forget_tellers(void)
{
	struct teller *t, *tmp;

	HASH_ITER(hh, g_tellers, t, tmp) {
		if (bucket_available(&t->sessions, clock_ns()) < SESSIONS_LOGGED_AT_ONCE)
			continue;
		HASH_DEL(g_tellers, t);
		free(t);
	}
}

/* NULL: no memory. */
static struct teller *teller_of(const struct role_session *m)
{
	const char *part = serial_host_part(m->peer_serial), *port = strrchr(m->address, ':');
	char of[LIMIT_ADDRESS_SIZE];
	struct teller *t;

	snprintf(of, sizeof(of), "%.*s", part || !port ? (int)sizeof(of) - 1 : (int)(port - m->address), part ? part : m->address);
	HASH_FIND_STR(g_tellers, of, t);
	if (t)
		return t;
	if (HASH_COUNT(g_tellers) >= LIMIT_LINK_PEERS)
		forget_tellers();
	if (HASH_COUNT(g_tellers) >= LIMIT_LINK_PEERS) {
		of[0] = '\0';
		HASH_FIND_STR(g_tellers, of, t);
	}
	return t ? t : teller_new(of);
}

static bool may_log_session(const struct role_session *m, uint64_t *ret_more)
{
	struct teller *t = teller_of(m);

	*ret_more = 0;
	if (!t)
		return false;
	if (bucket_available(&t->sessions, clock_ns()) == 0) {
		t->n_untold++;
		return false;
	}
	bucket_take(&t->sessions, 1);
	*ret_more = t->n_untold;
	t->n_untold = 0;
	return true;
}

/* A question to an authority is told only where it ended by a fault. */
static void tell_session_up(struct broker *b, struct link_session *s, const struct role_session *m)
{
	uint64_t more = 0;

	s->told = !s->for_ca && may_log_session(m, &more);
	if (s->told || s->for_ca)
		log_session(b, s->for_ca ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "link.up", m, more);
}

static void tell_session_down(const struct link_session *s, const struct link_host *h, const struct role_session *m)
{
	bool fault = m->reason != SESSION_OK;
	struct role_session who = *m;
	uint64_t more = 0;

	memcpy(who.address, s->address, sizeof(who.address));
	memcpy(who.peer_serial, s->peer_serial, sizeof(who.peer_serial));
	if (!s->told && !(s->for_ca && (!fault || may_log_session(&who, &more))))
		return;
	LOG_EVENT(fault ? LOG_LEVEL_WARNING : s->for_ca ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "link.down", LOG_STR("host", h ? h->name : NULL),
		  LOG_STR("address", s->address), LOG_STR("direction", s->inbound ? "in" : "out"), LOG_STR("local_id", s->local),
		  LOG_STR("peer_id", s->peer), LOG_STR("reason", session_reason_name(m->reason)), LOG_STR("why", m->why[0] ? m->why : NULL),
		  LOG_U64("more", more));
}

static void session_up(struct broker *b, uint32_t linker, const struct role_session *m)
{
	struct link_session *s, *old;
	struct link_host *h;

	s = calloc(1, sizeof(*s));
	if (!s)
		return; /* its lanes go on; it is only not shown */
	*s = (struct link_session){ .key = session_key(linker, m->session), .inbound = m->inbound, .resumed = m->resumed, .hid = m->hid };
	s->for_ca = m->for_ca;
	s->up_unix_s = unix_now_s();
	memcpy(s->local, m->local, sizeof(s->local));
	memcpy(s->peer, m->peer, sizeof(s->peer));
	memcpy(s->peer_serial, m->peer_serial, sizeof(s->peer_serial));
	memcpy(s->address, m->address, sizeof(s->address));
	memcpy(s->cipher, m->cipher, sizeof(s->cipher));
	HASH_FIND(hh, b->sessions, &s->key, sizeof(s->key), old);
	if (old)
		end_session(b, old);
	HASH_ADD(hh, b->sessions, key, sizeof(s->key), s);
	s->between = peer_of(b, s);
	if (s->between)
		s->between->n_sessions++;
	b->link.sessions_up++;
	tell_session_up(b, s, m);
	h = is_between_hosts(b, s) ? link_host(b, s->hid) : NULL;
	if (h) {
		h->session = s->key;
		h->announced = false; /* until it has, what it said last time is a maybe */
		set_state(b, h, LINK_HOST_UP, SESSION_OK, "");
	}
}

static bool was_between_hosts(const struct link_host *h, uint64_t key)
{
	return h && h->session == key;
}

static void session_down(struct broker *b, uint32_t linker, const struct role_session *m)
{
	uint64_t key = session_key(linker, m->session);
	struct link_host *h = link_host(b, m->hid);
	struct link_session *s;

	HASH_FIND(hh, b->sessions, &key, sizeof(key), s);
	if (!s)
		return;
	b->link.ended[m->reason]++;
	tell_session_down(s, h, m);
	end_session(b, s);
	if (was_between_hosts(h, key)) {
		h->session = 0;
		set_state(b, h, LINK_HOST_DOWN, m->reason, m->why);
	}
}

/* Is it a minute since it was told last? If not it is one more that is untold. */
static bool is_told_again(int64_t *told_unix_s, uint64_t *n_untold, uint64_t *ret_more)
{
	int64_t now = unix_now_s();

	if (*told_unix_s && now - *told_unix_s < TOLD_AGAIN_S) {
		++*n_untold;
		return false;
	}
	*told_unix_s = now;
	*ret_more = *n_untold;
	*n_untold = 0;
	return true;
}

/* Whoever dials again every few seconds is told once a minute for each reason, whatever others there are in between; strangers ten a second, all together. */
static bool may_log_refusal(struct link_host *h, const struct role_session *m, uint64_t *ret_more)
{
	*ret_more = 0;
	if (h)
		return is_told_again(&h->told_unix_s[m->reason], &h->n_untold[m->reason], ret_more);
	if (g_link.refusals.rate_per_s == 0)
		bucket_init(&g_link.refusals, REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_PER_S, clock_ns());
	if (bucket_available(&g_link.refusals, clock_ns()) == 0) {
		g_link.n_unlogged++;
		return false;
	}
	bucket_take(&g_link.refusals, 1);
	*ret_more = g_link.n_unlogged;
	g_link.n_unlogged = 0;
	return true;
}

static void session_refused(struct broker *b, const struct role_session *m)
{
	struct link_host *h = link_host(b, m->hid);
	bool unreached = m->reason == SESSION_TIMEOUT || m->reason == SESSION_LOST;
	char host[LIMIT_NAME_SIZE];
	uint64_t more;

	b->link.refused[m->reason]++;
	if (m->for_ca && unreached)
		return; /* ca.* events tell it, and of how many tries */
	if (may_log_refusal(h, m, &more))
		log_session(b, LOG_LEVEL_WARNING, unreached ? "link.fail" : "link.refuse", m, more);
	/* A service's own session that fails says nothing about whether the host is reached. */
	if (h && h->state != LINK_HOST_UP && (!m->local[0] || host_id_parse(host, m->local, b->config->trust_domain) == 0))
		set_state(b, h, LINK_HOST_DOWN, m->reason, m->why);
}

static void on_session(struct broker *b, uint32_t linker, const struct role_session *m)
{
	if (m->state == SESSION_UP)
		session_up(b, linker, m);
	else if (m->state == SESSION_DOWN)
		session_down(b, linker, m);
	else
		session_refused(b, m);
}

/* Which way its frames go. */
static void on_path(struct broker *b, uint32_t linker, const struct role_path *m)
{
	uint64_t key = session_key(linker, m->session);
	const struct link_host *h;
	struct link_session *s;

	HASH_FIND(hh, b->sessions, &key, sizeof(key), s);
	if (!s)
		return;
	h = link_host(b, s->hid);
	s->path = m->path;
	s->tag = m->tag;
	memcpy(s->device, m->device, sizeof(s->device));
	memcpy(s->path_why, m->why, sizeof(s->path_why));
	if (!s->told)
		return; /* nor is it that the session is up */
	LOG_EVENT(m->path == SESSION_PATH_LOST ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
		  m->path == SESSION_PATH_LOST ? "link.rdma_lost" : m->path == SESSION_PATH_RDMA ? "link.rdma_up" : "link.rdma_off",
		  LOG_STR("host", h ? h->name : NULL), LOG_STR("address", s->address), LOG_STR("direction", s->inbound ? "in" : "out"), LOG_STR("local_id", s->local),
		  LOG_STR("peer_id", s->peer), LOG_STR("device", m->device[0] ? m->device : NULL), LOG_STR("why", m->why[0] ? m->why : NULL));
}

static void on_session_stats(struct broker *b, uint32_t linker, const struct role_session_stats *m)
{
	uint64_t key = session_key(linker, m->session);
	struct link_session *s;

	HASH_FIND(hh, b->sessions, &key, sizeof(key), s);
	if (s)
		s->stats = *m;
}

void link_linker_stays(struct broker *b, uint32_t index)
{
	tell_listeners(b, index);
	hosts_changed(b);
}

void link_on_linker_lost(struct broker *b, uint32_t index)
{
	struct link_session *s, *tmp;

	HASH_ITER(hh, b->sessions, s, tmp) {
		struct link_host *h = link_host(b, s->hid);

		if ((uint32_t)(s->key >> 32) != index)
			continue;
		b->link.ended[SESSION_LOST]++;
		if (was_between_hosts(h, s->key)) {
			h->session = 0;
			set_state(b, h, LINK_HOST_DOWN, SESSION_LOST, "the linker process has ended");
		}
		end_session(b, s);
	}
	replace_tickets(b);
	welcome_on_linker_lost(b, index);
	cross_on_linker_lost(b, index);
	ca_on_linker_lost(b, index);
	rdma_on_linker_lost(b, index);
	g_link.stats_out[index] = false;
	if (link_has_stats(b))
		lane_stats_of_linkers_end(b);
}

/* ------------------------------------------------------------------ what hosts announce */

/* @fd: a memfd of our own linker, with another host's bytes. */
static int read_text(int fd, char **ret, size_t *ret_size)
{
	AUTO_FREE(char) text = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -EBADF;
	if (st.st_size < 0 || st.st_size > LIMIT_ANNOUNCE_SIZE)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	if (pread(fd, text, (size_t)st.st_size, 0) != (ssize_t)st.st_size)
		return -EIO;
	*ret_size = (size_t)st.st_size;
	*ret = take_ptr(text);
	return 0;
}

static void bad_announcement(struct link_host *h, int error)
{
	uint64_t more;

	if (is_told_again(&h->bad_told_unix_s, &h->n_bad_untold, &more))
		log_warn("host.bad_announcement", LOG_STR("host", h->name), LOG_STR("error", log_errno_name(error)), LOG_U64("more", more),
			 LOG_STR("then", "what it said before still counts"));
}

static void on_announce(struct broker *b, uint32_t hid, int fd)
{
	struct link_host *h = link_host(b, hid);
	AUTO_FREE(char) text = NULL;
	AUTO_FREE(struct announced) offers = NULL;
	AUTO_FREE(int32_t) since = NULL;
	size_t size = 0, n = 0;
	int r;

	if (!h)
		return;
	r = read_text(fd, &text, &size);
	if (r == 0)
		r = announce_parse(text, size, &offers, &n);
	if (r == 0 && !(since = calloc(n + 1, sizeof(*since))))
		r = -ENOMEM;
	if (r < 0) {
		bad_announcement(h, r);
		return;
	}
	free(h->offers);
	free(h->since);
	h->offers = take_ptr(offers);
	h->since = take_ptr(since);
	h->n_offers = n;
	h->announced = true;
	log_debug("host.announced", LOG_STR("host", h->name), LOG_U64("services", n));
	hosts_changed(b);
}

/* ------------------------------------------------------------------ sockets */

struct dialing {
	uint32_t linker, session;
};

static void on_dialed(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FREE(struct dialing) d = arg;
	struct role_msg m = { .type = BL_DIALED, .u.dialed = { .session = d->session, .error = reply->error } };
	AUTO_FD sock = fd;

	if (!str_copy(m.u.dialed.why, sizeof(m.u.dialed.why), reply->why))
		m.u.dialed.why[0] = '\0';
	link_tell(b, d->linker, &m, reply->error ? -1 : sock);
}

static void on_dial(struct broker *b, uint32_t linker, const struct role_dial_ask *q)
{
	struct role_msg m = { .type = BW_DIAL };
	struct role_reply none = { .error = -ENOENT, .why = "this host is not known any more" };
	const struct link_host *h = link_host(b, q->hid);
	const char *address = q->hid == ROLE_NO_ID ? ca_address(b, q->req) : h ? h->address : NULL;
	struct dialing *d = malloc(sizeof(*d));

	if (!d) {
		log_error("link.dial_failed", LOG_STR("error", "ENOMEM")); /* the linker's own time limit ends it */
		return;
	}
	*d = (struct dialing){ .linker = linker, .session = q->session };
	if (!address) {
		on_dialed(b, d, &none, -1);
		return;
	}
	fill_dial(b, &m.u.dial, address);
	broker_ask(b, &m, -1, on_dialed, d);
}

/* ------------------------------------------------------------------ messages */

void link_ask_stats(struct broker *b)
{
	struct role_msg m = { .type = BL_STATS };

	for (size_t i = 0; i < b->n_linkers; i++)
		g_link.stats_out[i] = b->linkers[i].fd >= 0;
	link_tell_all(b, &m, -1);
}

bool link_has_stats(const struct broker *b)
{
	for (size_t i = 0; i < b->n_linkers; i++)
		if (g_link.stats_out[i])
			return false;
	return true;
}

static void on_stats(struct broker *b, uint32_t linker, const struct role_stats *s)
{
	if (s->lane_id != 0) {
		cross_on_stats(b, linker, s);
		return;
	}
	g_link.stats_out[linker] = false;
	if (link_has_stats(b))
		lane_stats_of_linkers_end(b);
}

void link_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case LB_DIAL:
		on_dial(b, linker, &m->u.dial_ask);
		break;
	case LB_ASK:
		welcome_on_ask(b, linker, &m->u.link_ask);
		break;
	case LB_GONE:
		welcome_on_gone(b, linker, m->u.id.id);
		break;
	case LB_OPENED:
		carry_on_opened(b, linker, &m->u.lane_ref);
		break;
	case LB_FAILED:
		carry_on_failed(b, linker, &m->u.link_failed, *fd);
		break;
	case LB_CLOSED:
		cross_on_closed(b, linker, &m->u.stats);
		break;
	case LB_STATS:
		on_stats(b, linker, &m->u.stats);
		break;
	case LB_SESSION:
		on_session(b, linker, &m->u.session);
		break;
	case LB_SESSION_STATS:
		on_session_stats(b, linker, &m->u.session_stats);
		break;
	case LB_DEVICE:
		rdma_on_device(b, linker, &m->u.device);
		break;
	case LB_RDMA_STATS:
		rdma_on_stats(b, linker, &m->u.rdma_stats);
		break;
	case LB_PATH:
		on_path(b, linker, &m->u.path);
		break;
	case LB_ANNOUNCE:
		on_announce(b, m->u.id.id, *fd);
		break;
	case LB_CA_READY:
	case LB_CA_ASK:
	case LB_CA_ANSWER:
		ca_on_msg(b, linker, m, fd);
		break;
	default:
		log_error("broker.unexpected_message", LOG_STR("from", "linker"), LOG_STR("type", role_msg_name(m->type)));
	}
}

void link_on_credential(struct broker *b, const struct service_name *service)
{
	hosts_changed(b);
	welcome_retry(b);
}

bool link_drain(struct broker *b)
{
	struct role_msg m = { .type = BL_DRAIN };

	link_tell_all(b, &m, -1);
	return b->sessions != NULL;
}
