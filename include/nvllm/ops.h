/* SPDX-License-Identifier: MIT */
/* nvllm/ops.h - what a model author calls.
 *
 * Implemented once, by core/ops.c, over the device's kernels. Results live in the
 * step's arena: nothing to free, no sizes to compute. The first failure sticks to
 * the step and later ops do nothing, so forward() needs no checks. Ops are coarse,
 * so that a device may fuse them; where it offers no fused kernel the core composes
 * it from the primitives. Tensor parallelism is inside: a product with a weight cut
 * along its columns is summed over the group. */
#ifndef NVLLM_OPS_H
#define NVLLM_OPS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_ops;

/* One forward pass on one rank. The core owns it; this is its public head. */
struct nvllm_step {
	const struct nvllm_ops *op;
	const struct nvllm_batch *batch;
};

enum nvllm_act { NVLLM_SILU = 0, NVLLM_GELU_TANH = 1, NVLLM_GELU = 2, NVLLM_RELU = 3 };

enum nvllm_norm_kind { NVLLM_RMS_NORM = 0, NVLLM_LAYER_NORM = 1 };

/* A normalisation of each run of w.cols elements: a row, or each head in a row.
 * RMS:   y = x / sqrt(mean(x^2) + eps) * (offset + w)      (Zhang and Sennrich 2019)
 * layer: y = (x - mean) / sqrt(var + eps) * (offset + w) + b   (Ba et al. 2016)
 * The sum is taken in f32 in one fixed order, so a row's result does not depend on
 * the rows beside it. */
struct nvllm_norm {
	uint32_t size;
	int32_t kind;            /* enum nvllm_norm_kind */
	double eps;              /* added under the root */
	double offset;           /* 0; 1 for weights stored around zero (Gemma) */
	struct nvllm_tensor w;   /* [1][n] */
	struct nvllm_tensor b;   /* [1][n]; data NULL = none */
};

/* Rotary embedding (Su et al. 2021), as a table: row i of the pair (x, y) turns by
 * position * inv_freq[i]; cos and sin are multiplied by mscale. Made in bind() by
 * weights->rope() from a struct nvllm_rope (model.h). */
struct nvllm_rotary {
	uint32_t size;
	int32_t dims;            /* elements of each head that turn, from its start; 0 = no rope */
	int32_t interleaved;     /* 0: pairs (i, i + dims/2), as Hugging Face; 1: pairs (2i, 2i + 1) */
	int32_t reserved;        /* 0 */
	double mscale;           /* 1, but for YaRN */
	struct nvllm_tensor inv_freq; /* [1][dims/2] f32, device */
};

/* What belongs to one attention layer besides q, k and v themselves. Pointers may be
 * NULL: then that part is absent. Filled by the model, read during the call. */
struct nvllm_attn_in {
	uint32_t size;
	int32_t layer;                     /* index into nvllm_attn_shape.layers */
	const struct nvllm_tensor *bias;   /* [1][qkv cols], added first */
	const struct nvllm_norm *q_norm;   /* per head, before the rope */
	const struct nvllm_norm *k_norm;
	const struct nvllm_rotary *rotary;
};

/* A mixture of experts, as in Hugging Face transformers, modeling_qwen3_moe.py: with
 * p = softmax(router x) over all experts, in f32, the n_top largest are kept, ties to the
 * lower number; with norm_topk they are divided by their sum. The result is the sum over
 * those experts e of p_e * down_e (act(gate_e x) * up_e x), e in the order of p. */
struct nvllm_moe {
	uint32_t size;
	int32_t n_top, norm_topk;
	int32_t act;                  /* enum nvllm_act */
	struct nvllm_tensor router;   /* [experts][dim], whole on each rank */
	struct nvllm_tensor gate_up;  /* planes of [2 * ffn][dim]: gate's rows, then up's */
	struct nvllm_tensor down;     /* planes of [dim][ffn] */
};

/* All [step]. Tensors returned belong to the step's arena. Shapes: T = batch's
 * n_tokens, L = its n_logits. The residual stream, which embed makes, and logits are f32;
 * other activations are of the device's own type (info.act_dtype). Models never look. */
struct nvllm_ops {
	uint32_t size;
	/* Arena: everything made after mark() is gone at reset(). */
	int64_t (*mark)(struct nvllm_step *);
	void    (*reset)(struct nvllm_step *, int64_t mark);

	/* [T][table.cols]: rows of the table, times scale (1 for most models). */
	struct nvllm_tensor (*embed)(struct nvllm_step *, struct nvllm_tensor table, double scale);
	/* [x.rows][x.cols] */
	struct nvllm_tensor (*norm)(struct nvllm_step *, struct nvllm_tensor x, const struct nvllm_norm *);
	/* x wT + bias, [x.rows][w.rows]; bias [1][w.rows] or NULL. */
	struct nvllm_tensor (*linear)(struct nvllm_step *, struct nvllm_tensor x,
		struct nvllm_tensor w, const struct nvllm_tensor *bias);
	/* linear(norm(x)) */
	struct nvllm_tensor (*norm_linear)(struct nvllm_step *, struct nvllm_tensor x,
		const struct nvllm_norm *, struct nvllm_tensor w, const struct nvllm_tensor *bias);
	/* x += linear(a), in place: the residual stream */
	void (*linear_add)(struct nvllm_step *, struct nvllm_tensor x, struct nvllm_tensor a,
		struct nvllm_tensor w, const struct nvllm_tensor *bias);
	/* act(gate) * up of [gate | up] = linear(norm(x)), [x.rows][w.rows / 2].
	 * w is gate's rows, then up's ("mlp.{gate,up}_proj"). */
	struct nvllm_tensor (*norm_linear_glu)(struct nvllm_step *, struct nvllm_tensor x,
		const struct nvllm_norm *, struct nvllm_tensor w, int act);
	/* qkv: [T][q | k | v]. Adds the bias, normalises, turns, writes k and v to the
	 * cache, attends causally: [T][q cols]. */
	struct nvllm_tensor (*attention)(struct nvllm_step *, struct nvllm_tensor qkv,
		const struct nvllm_attn_in *);
	/* The rows of x that make logits: [L][x.cols]. */
	struct nvllm_tensor (*logit_rows)(struct nvllm_step *, struct nvllm_tensor x);
	/* x += d, in place (for architectures that norm after the sublayer). */
	void (*add)(struct nvllm_step *, struct nvllm_tensor x, struct nvllm_tensor d);
	/* x += moe(norm(x)), in place */
	void (*moe_add)(struct nvllm_step *, struct nvllm_tensor x, const struct nvllm_norm *,
		const struct nvllm_moe *);
};

#ifdef __cplusplus
}
#endif
#endif
