// sealane.h alone, in the oldest C++ it promises to compile with, its macros and names used.
#include <sealane.h>

static int (*const g_connect)(sealane_lane **, const char *, const sealane_options *) = sealane_connect;

int main()
{
	sealane_options options = SEALANE_OPTIONS_INIT;
	sealane_lane *lane = nullptr;

	options.kind = SEALANE_MESSAGES;
	options.dir = "/nonexistent";
	return g_connect(&lane, "redis", &options) == -SEALANE_E_NO_DAEMON ? 0 : 1;
}
