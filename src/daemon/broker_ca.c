/* The keys and certificates of this host: none yet, so no lane leaves it. */
#include "daemon/broker_link.h"

#include "daemon/broker_int.h"

static struct chan g_signer = { .fd = -1 };

void ca_on_signer(struct broker *b, int *fd)
{
	chan_close(&g_signer);
	chan_init(&g_signer, take_fd(fd));
}

void ca_on_linker(struct broker *b, uint32_t linker)
{
}

void ca_apply(struct broker *b)
{
}

uint32_t ca_credential(struct broker *b, const struct service_name *service, const char **why)
{
	*why = "this host has not joined other hosts: `sealane ca init` or `sealane join TOKEN`";
	return ROLE_NO_ID;
}

bool ca_is_member(const struct broker *b)
{
	return false;
}

bool ca_is_revoked(const struct broker *b, const char *spiffe_id)
{
	return false;
}

void ca_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd)
{
}

void ca_on_linker_lost(struct broker *b, uint32_t linker)
{
}

const char *ca_address(const struct broker *b, uint32_t req)
{
	return NULL;
}
