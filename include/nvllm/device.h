/* SPDX-License-Identifier: MIT */
/* nvllm/device.h - a compute backend: memory, streams, graphs, kernels.
 *
 * Two tables for compute, on purpose. Models call struct nvllm_ops (ops.h), which
 * returns tensors. Devices implement struct nvllm_kernels, which writes to a tensor
 * it is given. core/ops.c stands between.
 *
 * The reproducibility rule, which every kernel keeps: the same call on the same input
 * gives the same bits. And unless the device says NVLLM_DEV_VARIES: a row of a result
 * depends on that row of the input alone, with a fixed order of reduction, whatever the
 * number of rows, their order, and the number of threads. */
#ifndef NVLLM_DEVICE_H
#define NVLLM_DEVICE_H

#include "host.h"
#include "ops.h"
#include "option.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_device;
typedef void *nvllm_stream; /* cudaStream_t on CUDA, NULL on the CPU */
typedef void *nvllm_graph;
typedef void *nvllm_mark; /* a place in a stream's work: cudaEvent_t on CUDA */

/* Capabilities. A component lists what it needs; the core refuses what is not met. */
#define NVLLM_DEV_HOST_MEM (1ull << 0) /* the CPU can read and write device addresses */
#define NVLLM_DEV_ASYNC    (1ull << 1) /* kernels return before they are done; the mark members work */
#define NVLLM_DEV_GRAPHS   (1ull << 2) /* the graph members work */
#define NVLLM_DEV_PARALLEL (1ull << 3) /* parallel_for works */
#define NVLLM_DEV_CUDA     (1ull << 4) /* device addresses and streams are CUDA's */
#define NVLLM_DEV_VARIES   (1ull << 5) /* the last bits of a row may depend on the shape of its step */

struct nvllm_device_info {
	uint32_t size;
	int32_t n_workers;        /* of parallel_for; 1 without it */
	uint64_t caps;            /* NVLLM_DEV_* */
	int64_t mem_free, mem_total; /* bytes this process may hope for, and all there are */
	char name[64];            /* "AMD EPYC ..." */
	char isa[64];             /* instructions in use: "avx2 f16c fma" */
	/* What activations are kept in: NVLLM_F32 or NVLLM_BF16. f32 whatever it says: the
	 * residual stream (what embed makes and what is added to), logits (products with a weight
	 * cut by the vocabulary), partial sums of a group, and the scratch of moe. */
	int32_t act_dtype;
	int32_t kv_dtype;         /* what [engine] kv_dtype = auto means here */
};

/* A device and how to call it: what a component that runs on a device is given.
 * Owned by the core, outlives the component. */
struct nvllm_device_ref {
	uint32_t size;
	const struct nvllm_device_vt *vt;
	struct nvllm_device *dev;
	const struct nvllm_device_info *info;
};

enum nvllm_linear_flag {
	NVLLM_LINEAR_ADD = 1u << 0, /* y += instead of y = */
};

/* One row of log probabilities to compute: of target, and of the n_top likeliest. */
struct nvllm_logprobs {
	uint32_t size;
	int32_t n_top;            /* entries a row in top_*; 0 = none */
	const int32_t *targets;   /* [rows] device; -1 = this row is not wanted, -2 = tokens[row] */
	const int32_t *tokens;    /* [rows] device: what the sampler drew; only read where a target is -2 */
	float *target_logprob;    /* [rows] device */
	int32_t *target_rank;     /* [rows] device: 1 = the likeliest */
	int32_t *top_ids;         /* [rows][n_top] device, likeliest first, ties to the lower id */
	float *top_logprobs;      /* [rows][n_top] device */
};

/* Floats of scratch that the kernel moe needs for T rows: probabilities of all experts,
 * and for each of the n_top choices a row of x, of gate and up, and four numbers. */
static inline int64_t nvllm_moe_scratch(int64_t T, const struct nvllm_moe *m)
{
	return T * m->router.rows + T * m->n_top * (m->router.cols + m->gate_up.rows + 4);
}

/* Destination-passing, stream-ordered, no allocation, all [step]. Each returns a
 * status. NULL = not offered: the core finds out in its dry run, before weights are
 * read, and says which op needed it. Members from norm_linear on are optional: the
 * core composes them from those above.
 * T = rows; y is always written whole, unless said otherwise. Each of x and y is f32 or
 * info.act_dtype, as its dtype says (logits, and x of rows and add, may differ from the
 * others); vectors (norms, biases) are f32. 64-byte aligned starts of rows are not guaranteed. */
struct nvllm_kernels {
	uint32_t size;
	/* y [T][table.cols] = scale * row of table; a token t < 0 stands for
	 * state->last_token[-1 - t]. tokens: batch->tokens. Ids are in range. The table holds
	 * rows [first, first + table.rows) of the vocabulary: a token outside gives zeros
	 * (another rank has it, and the rows are summed). */
	int (*embed)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor table, int64_t first, const struct nvllm_batch *, double scale);
	/* y [T][w.rows] = x wT (+ bias) (+ y with NVLLM_LINEAR_ADD). w was placed by store()
	 * and upload(): a device sizes its scratch there. w.cols 0 (this rank holds nothing of
	 * the weight): x wT is zero. y's rows may lie further apart than y.cols (stride). */
	int (*linear)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, struct nvllm_tensor w, const struct nvllm_tensor *bias,
		uint32_t flags);
	/* y = norm of each run of n->w.cols elements of x; y may be x. */
	int (*norm)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, const struct nvllm_norm *n);
	/* x += d; where d.stride is 0, its one row is added to each of x's. */
	int (*add)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor x, struct nvllm_tensor d);
	/* x [T][n * head_dim]: turns each head in place. */
	int (*rope)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor x,
		const int32_t *positions, int64_t head_dim, const struct nvllm_rotary *);
	/* y [T][n] = act(x[.., 0..n)) * x[.., n..2n) */
	int (*glu)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, int act);
	/* y [n][x.cols] = x rows index[0..n), n = y.rows */
	int (*rows)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, const int32_t *index);
	/* Log softmax of logits [rows][vocab], raw: before temperature and penalties. */
	int (*logprobs)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor logits,
		const struct nvllm_logprobs *);
	/* Closes a step: for each i < n_logits with s = logit_slots[i] >= 0 and not
	 * done[s]: last_token[s] = tokens[i]; n_left[s] -= 1; done[s] = n_left[s] == 0
	 * or tokens[i] is one of stop_ids[s]. tokens: [n_logits] device, the sampler's. */
	int (*advance)(struct nvllm_device *, nvllm_stream, const struct nvllm_batch *,
		const int32_t *tokens);

	/* ---- optional, fused ---- */
	/* NVLLM_ENOTSUP, without a sentence: not for this shape, and nothing was enqueued. The core
	 * composes it. */
	int (*norm_linear)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, const struct nvllm_norm *, struct nvllm_tensor w,
		const struct nvllm_tensor *bias);
	int (*norm_linear_glu)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, const struct nvllm_norm *, struct nvllm_tensor w, int act);

	/* ---- optional: without it, models with experts are refused ---- */
	/* y [T][dim] = moe(x). scratch: f32 [1][nvllm_moe_scratch(T, m)], contents undefined. A
	 * rank that holds nothing of the experts' width (down.cols 0) writes zeros. */
	int (*moe)(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
		const struct nvllm_moe *, struct nvllm_tensor scratch);
};

struct nvllm_device_vt {
	uint32_t size;
	const struct nvllm_kernels *kernels;
	/* [setup] ordinal: which device of this kind, 0 = first. */
	int   (*create)(const struct nvllm_host *, int ordinal, const void *conf, struct nvllm_device **out);
	/* [setup] Everything made on it is gone already. NULL is legal input. */
	void  (*destroy)(struct nvllm_device *);
	/* [any] */
	int   (*info)(struct nvllm_device *, struct nvllm_device_info *);
	/* [setup] Device memory, 256-byte aligned, contents undefined; NULL = none left.
	 * Only the core calls it. */
	void *(*alloc)(struct nvllm_device *, int64_t bytes);
	/* [setup] NULL is legal. */
	void  (*free)(struct nvllm_device *, void *);
	/* [setup] [step] Stream-ordered, between host and device or within the device. With
	 * NVLLM_DEV_ASYNC it may return before it has read src: host memory on either side
	 * stays untouched until a mark after it was waited for. */
	int   (*copy)(struct nvllm_device *, nvllm_stream, void *dst, const void *src, int64_t bytes);
	/* [setup], and the end of a step on a device without NVLLM_DEV_ASYNC. Waits for all
	 * that was enqueued; reports earlier faults. */
	int   (*sync)(struct nvllm_device *, nvllm_stream);
	/* [setup] The rank's one compute stream. */
	nvllm_stream (*stream)(struct nvllm_device *);

	/* [setup] How this device wants to keep a weight. In: *t with rows, cols, planes,
	 * cut and dtype (and row-major layout) as in the checkpoint, data NULL. Out: dtype,
	 * layout and stride as it will be stored. Returns the bytes to allocate, or a
	 * negative status (NVLLM_ENOTSUP: no kernel for this dtype). A weight of which this rank
	 * holds nothing (0 rows or columns) is not stored: its data stays NULL. */
	int64_t (*store)(struct nvllm_device *, struct nvllm_tensor *t);
	/* [setup] Rows [row, row + n) of plane p: from host memory in the checkpoint's form
	 * (src_dtype, src_stride bytes a row) to t->data in the stored form. May use the
	 * device's own threads; has read src when it returns. A vector may come in pieces: then
	 * t is a view of what was stored, data moved on and fewer cols. */
	int   (*upload)(struct nvllm_device *, const struct nvllm_tensor *t, int32_t plane,
		int64_t row, int64_t n, const void *src, int32_t src_dtype, int64_t src_stride);

	/* [step] [setup] With NVLLM_DEV_PARALLEL, else NULL. Calls fn(arg, begin, end, worker)
	 * for disjoint ranges that cover [0, n), each of at most `grain` items, on the device's
	 * threads; returns when all are done. 0 <= worker < n_workers, no two at once with
	 * the same number. fn must not call parallel_for. */
	void  (*parallel_for)(struct nvllm_device *, int64_t n, int64_t grain,
		void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg);

	/* With NVLLM_DEV_GRAPHS, else NULL. The core's graph pool is the only caller.
	 * [step] What is enqueued between begin and end is recorded and not run; launch
	 * enqueues it all, as often as it is called, reading the same addresses each time.
	 * A call that cannot be recorded fails, or graph_end does; the stream is usable
	 * again after graph_end, whatever it returned. */
	int   (*graph_begin)(struct nvllm_device *, nvllm_stream);
	int   (*graph_end)(struct nvllm_device *, nvllm_stream, nvllm_graph *out);
	int   (*graph_launch)(struct nvllm_device *, nvllm_stream, nvllm_graph);
	void  (*graph_free)(struct nvllm_device *, nvllm_graph);

	/* With NVLLM_DEV_ASYNC, else NULL: how the host learns that a step is done while later
	 * ones are queued. */
	int   (*mark_create)(struct nvllm_device *, nvllm_mark *out);             /* [setup] */
	void  (*mark_free)(struct nvllm_device *, nvllm_mark);                    /* [setup] */
	/* [step] Marks what was enqueued so far; a mark may be set again once waited for. */
	int   (*mark_set)(struct nvllm_device *, nvllm_stream, nvllm_mark);
	/* [step] Returns when all before the mark is done; reports its faults. */
	int   (*mark_wait)(struct nvllm_device *, nvllm_mark);
	/* [setup] Host memory that the device copies to and from without stopping. Optional:
	 * NULL = malloc and free. */
	void *(*host_alloc)(struct nvllm_device *, int64_t bytes);
	void  (*host_free)(struct nvllm_device *, void *);
	/* [setup] Optional. As upload() of rows whose elements are numbers of the normal
	 * distribution with this mean and standard deviation, from a counter-based generator: the same
	 * seed gives the same numbers. For weights of which only shapes matter. */
	int   (*random)(struct nvllm_device *, const struct nvllm_tensor *t, int32_t plane,
		int64_t row, int64_t n, uint64_t seed, double mean, double std);
	/* [setup] Optional. All weights are in place, and no step has run: the device may choose
	 * between ways to compute a product, for the numbers of rows that steps will have. */
	int   (*prepare)(struct nvllm_device *, const int32_t *rows, int32_t n);
};

#ifdef __cplusplus
}
#endif
#endif
