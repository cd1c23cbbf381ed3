/* SPDX-License-Identifier: MIT */
/* backends/cuda/attn.h - the inside of the paged attention backend, which its files share: what it
 * knows of each layer, what lies in the workspace, and the work lists that are made once a step.
 *
 * A step of a layer: prep (norm, rope, K and V to their pages, q to the workspace), then decode for the
 * sequences with one row, then, if n_tokens != n_seqs, prefill for those with more. The lists are decode's. */
#ifndef NVLLM_CUDA_ATTN_H
#define NVLLM_CUDA_ATTN_H

#include <nvllm/plugin.h>
#include <nvllm/attention.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTN_PAGE 16           /* tokens; PAGE of kv.cuh */
#define ATTN_PLANS 8           /* most kinds of work lists in a model */
#define ATTN_WARPS 8           /* warps of the decode kernel that compute */
#define ATTN_MAX_GROUP 16      /* query heads to a KV head */
#define ATTN_MAX_DIM 256
#define ATTN_MAX_STAGES 24     /* of the decode kernel's ring */
#define ATTN_COUNTERS(n_sms) (4 * (n_sms) * ATTN_WARPS) /* two levels of merging, two places of a CTA */

/* ---- work lists, in device memory ---- */

/* A sequence of one row: its pages first .. end - 1 of its row of the page table hold what it sees. A unit
 * of work is one page of one group of KV heads; the units of a sequence are numbered from `unit`
 * on, by group, then page. */
struct attn_item {
	int32_t seq;    /* of the batch */
	int32_t row;    /* of q and y */
	int32_t first, end; /* pages */
	int32_t kv_len; /* tokens */
	int32_t low;    /* the first position it sees: those of page `first` before it are masked */
	int32_t unit;
	int32_t reserved;
};

/* What one CTA of the decode kernel does: units [start, start + count). An item (of a group) that several
 * CTAs share has its partial results in places 2c (where it is the first of CTA c) or 2c + 1. */
struct attn_cta {
	int32_t item, group, page; /* the first unit */
	int32_t count;
	int32_t a_place;           /* first item: place of its first part */
	int32_t a_end;             /* its last CTA */
	int32_t b_end;             /* last item, if another: its last CTA; its first is this one */
	int32_t reserved;
};

/* The lists of layers that have these in common. Pointers into the workspace. */
struct attn_plan {
	int32_t window;            /* 0 = all */
	int32_t groups;            /* of KV heads: units of a page */
	struct attn_cta *cta;      /* [n_sms]; those without work have count 0 */
	struct attn_item *item;    /* [max_seqs] */
};

/* ---- the instance ---- */

struct attn_layer {
	int32_t n_heads, n_kv, dim, group; /* this rank's; n_heads 0: none of the layer; group: q heads to a KV head */
	int32_t window;
	int32_t source;            /* whose pages: itself, or kv_layer */
	int32_t plan;              /* index of plans */
	int32_t row_bytes;         /* of one head's K of one token */
	int64_t page_bytes;
	float scale, cap;
	float q_scale;             /* what q is multiplied by in prep: scale * log2(e), or scale / cap with a cap */
	/* decode: */
	int32_t heads_at_once;     /* KV heads of a group */
	int32_t stages, stage_bytes, smem;
};

struct nvllm_attention {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
	const struct nvllm_attn_shape *shape;
	struct attn_layer *layers; /* [n_layers] */
	int64_t *layer_bytes;      /* [n_layers] */
	int32_t n_sms, cc;         /* cc: 90 = compute capability 9.0 */
	int32_t smem_max;          /* bytes of shared memory that a block may have */
	int32_t early;             /* decode loads pages before the kernels before it have ended */
	int32_t kv_dtype, act;     /* enum nvllm_dtype */
	int32_t q_dtype;           /* of q in the workspace: bf16 for bf16 KV, f16 for f16 and f8, f32 for f32 */
	int32_t n_plans;
	struct attn_plan plans[ATTN_PLANS];
	/* attach(): */
	void *const *kv;           /* [n_layers] */
	int64_t n_pages;
	void *q;                   /* [max_tokens][n_heads * dim] of the layer, rows without gaps */
	float *parts;              /* decode: places of partial results, see attn_decode.cu */
	uint32_t *counters;        /* [ATTN_COUNTERS(n_sms)] arrivals at a shared item; 0 between launches */
	int64_t part_floats;       /* floats of a place, the largest layer's */
};

/* Where q, k and v of a step come from, and what is done to them. */
struct attn_rows {
	struct nvllm_tensor q, k, v;  /* rows [T][heads * dim], strides in bytes; k and v unused if the layer reads another's */
	const float *q_bias, *k_bias, *v_bias; /* device, NULL = none */
	const struct nvllm_norm *q_norm, *k_norm;
	const struct nvllm_rotary *rotary;
};

/* All return cudaError_t as int; *_setup is [setup], the others are [step]. */
int attn_prep(const struct nvllm_attention *, nvllm_stream, int32_t layer, const struct nvllm_batch *,
	const struct attn_rows *, struct nvllm_tensor y);
int attn_plan(const struct nvllm_attention *, nvllm_stream, const struct nvllm_batch *);
int attn_plan_setup(const struct nvllm_attention *);
/* [setup] Which lists the layers want: sets plans and their layers' plan. The answer is the number
 * of kinds, which is too many above ATTN_PLANS. */
int attn_plan_kinds(struct nvllm_attention *);
/* [setup] Hands out the workspace from `base` on; the answer is its bytes. base NULL: just those. */
int64_t attn_workspace(struct nvllm_attention *, void *base);
int attn_decode(const struct nvllm_attention *, nvllm_stream, int32_t layer, const struct nvllm_batch *,
	struct nvllm_tensor y);
int attn_decode_setup(const struct nvllm_attention *);
/* Floats of a place of the layer. */
int64_t attn_decode_part(const struct attn_layer *);
/* Sets heads_at_once, stages, stage_bytes and smem of a layer from cc and smem_max; 0 = it does not fit. */
int attn_decode_shape(const struct nvllm_attention *, struct attn_layer *);
/* Rows of sequences with more than one row: f16, bf16 and f8 KV. attn_prefill.cu */
int attn_prefill(const struct nvllm_attention *, nvllm_stream, int32_t layer, const struct nvllm_batch *,
	struct nvllm_tensor y);
int attn_prefill_setup(const struct nvllm_attention *);
/* f32 KV: all rows, of sequences with one row and more. attn_plain.cu */
int attn_plain(const struct nvllm_attention *, nvllm_stream, int32_t layer, const struct nvllm_batch *,
	struct nvllm_tensor y);
int attn_plain_setup(const struct nvllm_attention *);

#ifdef __cplusplus
}
#endif
#endif
