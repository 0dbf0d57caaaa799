/* In the place of gcm.c where the multi-buffer library is not there to build with (meson -Dipsec_mb=...). */
#include "link/gcm.h"

int link_gcm_load(OSSL_LIB_CTX *ctx, const char **ret_why)
{
	*ret_why = "built without ipsec-mb";
	return GCM_E_NOT_HERE;
}

void link_gcm_unload(OSSL_LIB_CTX *ctx)
{
}
