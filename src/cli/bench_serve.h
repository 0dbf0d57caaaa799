/* The end of `sealane bench rdma` that answers. */
#ifndef CLI_BENCH_SERVE_H
#define CLI_BENCH_SERVE_H

#include "cli/bench_side.h"

enum bench_tag { BENCH_TAG_SINK, BENCH_TAG_ECHO }; /* of ring records: dropped; sent back */

/* bench_serve() - until the client goes. @s: ready. Return: 0, or negative errno: it broke the rules, or s->status says what happened. */
MUST_CHECK int bench_serve(struct bench_side *s);

#endif
