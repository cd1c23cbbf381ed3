/* SPDX-License-Identifier: MIT */
/* plugins/comm/thread.h - what the two halves of comm thread share: the hub of a group, and
 * the barrier on it. */
#ifndef COMM_THREAD_H
#define COMM_THREAD_H

#include <stdatomic.h>
#include <stdbool.h>

#include <nvllm/comm.h>

#define MAX_WORLD 64

/* What one rank brings to a call. Its own until the first barrier, everyone's to read until
 * the second. */
struct offer {
	_Alignas(64) atomic_uint calls; /* it has come to: tells who is late */
	int32_t op;
	struct nvllm_tensor x, y;
};

struct hub {
	int32_t world;
	bool spin;
	atomic_uint refs;            /* ranks that have not left */
	atomic_ullong late, left;    /* bit r: rank r broke it so */
	_Alignas(64) atomic_uint word; /* 2 * barriers passed, + BROKEN; slept on */
	atomic_uint sleepers;
	_Alignas(64) atomic_uint arrived;
	struct offer offer[];        /* [world] */
};

struct nvllm_comm {
	const struct nvllm_host *host;
	struct hub *hub;
	int64_t timeout;     /* seconds */
	int64_t spin_ns;     /* before it sleeps, where it may spin at all */
	int32_t rank, world;
	unsigned calls;
};

/* ---- thread_hub.c ---- */
int  hub_make_id(const struct nvllm_host *, uint8_t id[NVLLM_COMM_ID_BYTES]);
/* Collective; n_threads: of this rank's device. Fills c->hub. */
int  hub_join(struct nvllm_comm *, const uint8_t id[NVLLM_COMM_ID_BYTES], int64_t n_threads);
/* The last one frees it. */
void hub_leave(struct nvllm_comm *);
/* Returns when all ranks have come: 0, or -1 when the group is broken. limit: it may give
 * up. Else the others are on their way here for certain. */
int  hub_barrier(struct nvllm_comm *, bool limit);
/* Why not, as a sentence that begins with `what`; NVLLM_ECOMM. */
int  hub_broken(const struct nvllm_comm *, const char *what);

#endif
