/* SPDX-License-Identifier: MIT */
/* core/graph_pool.h - which steps are replayed from a recorded graph: policy here,
 * mechanism in the device. A step is padded to a shape, its bucket: one of decode rows alone to
 * the next size, one with chunks of prompts to rounded counts of rows and sequences. Each
 * bucket has at most one graph. All graphs share the rank's arena and the batch's fixed
 * addresses, so a graph costs its nodes and no tensors. */
#ifndef NVLLM_GRAPH_POOL_H
#define NVLLM_GRAPH_POOL_H

#include <stdbool.h>

#include <nvllm/device.h>

struct graph_pool;

/* What a bucket fixes: rows, and sequences; as many rows of logits as sequences. Decode rows alone:
 * as many rows as sequences; with chunks: more. { 0, 0 } = none: run eagerly, unpadded. */
struct graph_shape { int32_t n_tokens, n_seqs; };

/* sizes: the batch sizes to record, any order, twice is once; those above max_seqs are
 * left out. max_mixed: most rows of a step with chunks that is recorded. A device without
 * NVLLM_DEV_GRAPHS, or capture false, gives a pool of capacity 0: every bucket is none. NULL
 * and fail_text() when there is no memory. [setup] */
struct graph_pool *graph_pool_create(const struct nvllm_device_ref *, nvllm_stream, bool capture,
	const int64_t *sizes, int64_t n_sizes, int32_t max_seqs, int32_t max_mixed);
/* Frees the graphs; before the group's comms and the device go. NULL is legal. [setup] */
void graph_pool_destroy(struct graph_pool *);
/* The smallest bucket that holds n_seqs decode rows. One whose recording failed runs eagerly,
 * and padded all the same: the other ranks pad. [step] */
struct graph_shape graph_pool_decode(const struct graph_pool *, int32_t n_seqs);
/* That of a step of n_tokens rows of n_seqs sequences, some with several. [step] */
struct graph_shape graph_pool_mixed(const struct graph_pool *, int32_t n_tokens, int32_t n_seqs);
/* The sizes there are, ascending; returns how many. For capture = startup. [setup] */
int graph_pool_sizes(const struct graph_pool *, const int32_t **sizes);
/* Runs one step in its bucket. With a graph: launches it, and *logits is what fn gave when
 * it was recorded. Without: calls fn(arg, logits), which enqueues the step at the batch's
 * fixed addresses, and then records a second call of it for the next time (a bucket with
 * chunks: when it comes up again, as long as there is room for more of them). A failure to
 * record drops the graph, leaves the bucket eager for good, and is one warning: never the
 * step's error. A failure of the eager call, or of a launch, is returned. *replayed says
 * which it was. [step] */
int graph_pool_run(struct graph_pool *, struct graph_shape,
	int (*fn)(void *arg, struct nvllm_tensor *logits), void *arg,
	struct nvllm_tensor *logits, bool *replayed);

#endif
