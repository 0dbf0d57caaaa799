/* What went wrong, in words. */
#include "client/lane.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

static __thread char g_last[320];

static const struct {
	int error;
	const char *text;
} g_texts[] = {
	{ SEALANE_E_PROTOCOL, "the peer broke the rules of the lane" },
	{ SEALANE_E_CUT, "the lane was cut: by the daemon, or with its link" },
	{ SEALANE_E_DENIED, "no intention allows it" },
	{ SEALANE_E_NO_SERVICE, "nobody offers that service to this library" },
	{ SEALANE_E_NO_DAEMON, "no daemon answers" },
	{ SEALANE_E_VERSION, "library and daemon are of versions that do not fit" },
	{ SEALANE_E_LIMIT, "a limit is reached" },
	{ SEALANE_E_MISSED, "messages were missed" },
	{ SEALANE_E_REMOTE, "the peer answered the call with an error" },
};

/* Static texts that any thread may ask for. In glibc strerror() is not that. */
static const char *libc_text(int e)
{
#ifdef __GLIBC__
	return strerrordesc_np(e);
#else
	return strerror(e);
#endif
}

const char *sealane_strerror(int error)
{
	int e = error < -INT_MAX ? INT_MAX : -error;
	const char *text;

	if (error >= 0)
		return "no error";
	for (size_t i = 0; i < ARRAY_SIZE(g_texts); i++)
		if (g_texts[i].error == e)
			return g_texts[i].text;
	text = e < SEALANE_E_PROTOCOL ? libc_text(e) : NULL;
	return text ? text : "unknown error";
}

const char *sealane_last_error(void)
{
	return g_last;
}

const char *sealane_version(void)
{
	return SEALANE_VERSION;
}

int lane_fail(int error, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(g_last, sizeof(g_last), format, ap);
	va_end(ap);
	return error;
}
