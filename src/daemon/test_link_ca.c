/* Certificates for tests of links: as many as the test says there are. */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

enum { FIRST_KID = 10 };

/* "default/nokey" has none, whatever it is asked for; all others do. */
static bool has_certificate(const struct service_name *s)
{
	return strcmp(s->name, "nokey") != 0;
}

void ca_on_signer(struct broker *b, int *fd)
{
}

void ca_on_linker(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_TRUST };

	link_tell(b, linker, &m, -1);
}

void ca_apply(struct broker *b)
{
}

uint32_t ca_credential(struct broker *b, const struct service_name *service, const char **why)
{
	const struct service *s = model_find_service(b, service);

	*why = "this host has not joined: see `sealane join`";
	return has_certificate(service) && s ? FIRST_KID + s->sid : ROLE_NO_ID;
}

bool ca_is_member(const struct broker *b)
{
	return true;
}

bool ca_is_revoked(const struct broker *b, const char *spiffe_id)
{
	return strstr(spiffe_id, "/svc/revoked") != NULL;
}

void ca_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd)
{
}

void ca_on_linker_lost(struct broker *b, uint32_t linker)
{
}

const char *ca_address(const struct broker *b, uint32_t req)
{
	return req == 77 ? "10.0.0.77:7443" : NULL;
}

void files_on_file(struct broker *b, const char *name, int *fd)
{
}
