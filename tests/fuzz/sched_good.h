/* SPDX-License-Identifier: MIT */
/* sched_good.h - the good policy of tests/broken/cache.c and a host for it: a second
 * policy, by another hand, for the scheduler's model. */
#ifndef SCHED_GOOD_H
#define SCHED_GOOD_H

#include <nvllm/plugin.h>

/* Kept until the next create: a session has one instance, which asks twice. */
static void *good_alloc(const struct nvllm_host *host, size_t bytes)
{
	static struct { void *p; } last[4];
	static unsigned n;
	void **p = &last[n++ % 4].p;

	free(*p);
	return *p = calloc(1, bytes);
}

static const struct nvllm_host good_host = { .size = sizeof(good_host), .abi = NVLLM_ABI, .world = 1,
	.alloc = good_alloc };

static struct other_policy good_policy(void)
{
	return (struct other_policy){ .vt = nvllm_plugin.components[0]->vt, .host = &good_host };
}
#endif
