#include "rdma/verbs_lib.h"

#include <dlfcn.h>

struct name {
	const char *name;
	size_t offset; /* in struct verbs_lib */
};

#define VERBS_NAME(call) { #call, offsetof(struct verbs_lib, p_##call) },
static const struct name g_ibv[] = { VERBS_IBV_CALLS(VERBS_NAME) };
static const struct name g_cm[] = { VERBS_CM_CALLS(VERBS_NAME) };

static struct verbs_lib g_lib;
static bool g_loaded;

static bool take(void *library, const struct name *names, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		void *f = dlsym(library, names[i].name);

		if (!f)
			return false;
		memcpy((char *)&g_lib + names[i].offset, &f, sizeof(f));
	}
	return true;
}

const struct verbs_lib *verbs_lib_load(const char **ret_why)
{
	void *ibv, *cm;

	if (g_loaded)
		return &g_lib;
	ibv = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	cm = ibv ? dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL) : NULL;
	if (!ibv || !cm) {
		*ret_why = ibv ? "there is no librdmacm.so.1: install librdmacm1" : "there is no libibverbs.so.1: install libibverbs1 and ibverbs-providers";
	} else if (!take(ibv, g_ibv, ARRAY_SIZE(g_ibv)) || !take(cm, g_cm, ARRAY_SIZE(g_cm))) {
		*ret_why = "libibverbs or librdmacm is too old: rdma-core 25 or later is needed";
	} else {
		g_loaded = true; /* never unloaded: the libraries keep threads and descriptors of their own */
		return &g_lib;
	}
	if (cm)
		dlclose(cm);
	if (ibv)
		dlclose(ibv);
	return NULL;
}
