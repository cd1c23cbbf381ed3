/* SPDX-License-Identifier: MIT */
/* kv.h - what the two host attention plugins share: which shapes they take, and how a
 * number is kept in the cache's type. */
#ifndef KV_H
#define KV_H

#include <string.h>

#include <nvllm/attention.h>

#define KV_MAX_DIM 1024
#define KV_MAX_HEADS 65536

/* One layer of the shape, checked, with what follows from it. n_heads 0: this rank holds
 * none of it; then n_kv and group are 0 too. */
struct kv_layer {
	int32_t n_heads, n_kv, dim;
	int32_t group;     /* query heads to a KV head */
	int32_t window;    /* 0 = all */
	int32_t source;    /* the layer whose pages it reads: itself, or kv_layer */
	float scale, cap;
};

/* IEEE 754 binary16 and bfloat16, rounded to nearest, ties to even. */
static inline float kv_from_bits(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static inline uint32_t kv_to_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

/* Without a branch, so that compilers make vectors of it: 2^112 moves the exponent to
 * where f32 has it, also of subnormals; infinity and NaN take f32's greatest. */
static inline float kv_from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, u = (uint32_t)(h & 0x7fffu) << 13;
	uint32_t most = u >= 0x0f800000u ? 0x7f800000u : 0;

	return kv_from_bits(kv_to_bits(kv_from_bits(u) * 0x1p112f) | most | sign);
}

static inline uint16_t kv_to_f16(float f)
{
	uint32_t u = kv_to_bits(f), sign = u >> 16 & 0x8000u;

	u &= 0x7fffffffu;
	if (u > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u);
	if (u >= 0x477ff000u) /* 65520 and up round to infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (u < 0x38800000u) /* below 2^-14: one addition rounds to units of 2^-24 */
		return (uint16_t)(sign | (kv_to_bits(kv_from_bits(u) + 0.5f) - 0x3f000000u));
	u += 0xfffu + (u >> 13 & 1u);
	return (uint16_t)(sign | (u - 0x38000000u) >> 13);
}

static inline float kv_from_bf16(uint16_t h)
{
	return kv_from_bits((uint32_t)h << 16);
}

static inline uint16_t kv_to_bf16(float f)
{
	uint32_t u = kv_to_bits(f);

	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(u >> 16 | 0x40u);
	return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* Element i of an array in the cache's type. */
static inline float kv_get(const void *p, int64_t i, int32_t dtype)
{
	if (dtype == NVLLM_F32)
		return ((const float *)p)[i];
	if (dtype == NVLLM_F16)
		return kv_from_f16(((const uint16_t *)p)[i]);
	return kv_from_bf16(((const uint16_t *)p)[i]);
}

static inline void kv_put(void *p, int64_t i, int32_t dtype, float x)
{
	if (dtype == NVLLM_F32)
		((float *)p)[i] = x;
	else if (dtype == NVLLM_F16)
		((uint16_t *)p)[i] = kv_to_f16(x);
	else
		((uint16_t *)p)[i] = kv_to_bf16(x);
}

static inline int64_t kv_bytes(int32_t dtype)
{
	return dtype == NVLLM_F32 ? 4 : 2;
}

/* The first position that a row at position p sees. */
static inline int64_t kv_first(const struct kv_layer *l, int64_t p)
{
	return l->window > 0 && p >= l->window ? p - l->window + 1 : 0;
}

static inline int kv_check_layer(const struct nvllm_host *host,
	const struct nvllm_attn_shape *sh, int32_t i)
{
	const struct nvllm_attn_layer *l = sh->layers[i], *s;

	if (l->n_heads < 0 || l->n_heads > KV_MAX_HEADS || l->n_kv_heads < 0 ||
	    (l->n_kv_heads == 0 ? l->n_heads != 0 : l->n_heads % l->n_kv_heads != 0))
		return host->fail(host, NVLLM_ENOTSUP, "attention of layer %d: %d query heads "
			"cannot be shared out evenly to %d KV heads", i, l->n_heads, l->n_kv_heads);
	if (l->n_heads == 0)
		return NVLLM_OK;
	if (l->head_dim < 1 || l->head_dim > KV_MAX_DIM)
		return host->fail(host, NVLLM_ENOTSUP, "attention of layer %d: head_dim %d is "
			"not within 1 to %d", i, l->head_dim, KV_MAX_DIM);
	if (l->window < 0 || !(l->softcap >= 0))
		return host->fail(host, NVLLM_EINVAL, "attention of layer %d: a window of %d or "
			"a softcap of %g makes no sense; 0 turns each off", i, l->window,
			l->softcap);
	if (l->kv_layer < 0)
		return NVLLM_OK;
	s = l->kv_layer < sh->n_layers ? sh->layers[l->kv_layer] : NULL;
	if (!s || s->kv_layer >= 0 || s->n_heads == 0 || s->n_kv_heads != l->n_kv_heads ||
	    s->head_dim != l->head_dim)
		return host->fail(host, NVLLM_EINVAL, "attention of layer %d: cannot read the K "
			"and V of layer %d, which must exist, keep its own, and have %d heads "
			"of %d", i, l->kv_layer, l->n_kv_heads, l->head_dim);
	return NVLLM_OK;
}

/* Checks the whole shape; *out becomes [n_layers], of host->alloc. */
static inline int kv_layers(const struct nvllm_host *host, const struct nvllm_attn_shape *sh,
	struct kv_layer **out)
{
	struct kv_layer *v;

	if (sh->kv_dtype != NVLLM_F32 && sh->kv_dtype != NVLLM_F16 && sh->kv_dtype != NVLLM_BF16)
		return host->fail(host, NVLLM_ENOTSUP, "this attention keeps K and V as f32, f16 "
			"or bf16, not as type %d: set engine.kv_dtype", sh->kv_dtype);
	if (sh->n_layers < 1 || sh->max_tokens < 1 || sh->max_seqs < 1 || sh->max_len < 1)
		return host->fail(host, NVLLM_EINVAL, "attention for %d layers, %d rows, %d "
			"sequences of %lld tokens: each must be at least 1", sh->n_layers,
			sh->max_tokens, sh->max_seqs, (long long)sh->max_len);
	v = host->alloc(host, (size_t)sh->n_layers * sizeof(*v));
	if (!v)
		return host->fail(host, NVLLM_ENOMEM, "no memory for %d layers", sh->n_layers);
	for (int32_t i = 0; i < sh->n_layers; i++) {
		const struct nvllm_attn_layer *l = sh->layers[i];
		int err = kv_check_layer(host, sh, i);

		if (err)
			return err;
		v[i] = (struct kv_layer){
			.n_heads = l->n_heads, .n_kv = l->n_heads ? l->n_kv_heads : 0,
			.dim = l->n_heads ? l->head_dim : 0,
			.group = l->n_heads ? l->n_heads / l->n_kv_heads : 0,
			.window = l->window, .source = l->kv_layer >= 0 ? l->kv_layer : i,
			.scale = (float)l->scale, .cap = (float)l->softcap,
		};
	}
	*out = v;
	return NVLLM_OK;
}

/* True if this rank holds no head of any layer: nothing will be run. */
static inline int kv_idle(const struct kv_layer *l, int32_t n)
{
	int64_t heads = 0;

	for (int32_t i = 0; i < n; i++)
		heads += l[i].n_heads;
	return heads == 0;
}

static inline int kv_check_rows(const struct nvllm_host *host, const struct nvllm_batch *b,
	int32_t seq, int64_t n_slots)
{
	for (int32_t t = b->q_start[seq]; t < b->q_start[seq + 1]; t++)
		if (b->slots[t] >= 0 && (b->slots[t] >= n_slots || b->positions[t] < 0 ||
		    b->positions[t] >= b->kv_len[seq]))
			return host->fail(host, NVLLM_EINVAL, "row %d of the step, position %d of "
				"%d, writes to slot %d of %lld", t, b->positions[t],
				b->kv_len[seq], b->slots[t], (long long)n_slots);
	return NVLLM_OK;
}

/* A step that does not fit what create() was told, or the pool of n_slots, is refused
 * before anything is written. */
static inline int kv_check_batch(const struct nvllm_host *host,
	const struct nvllm_attn_shape *sh, const struct nvllm_batch *b, int64_t n_slots)
{
	int err = NVLLM_OK;

	if (b->n_tokens > sh->max_tokens || b->n_seqs > sh->max_seqs)
		return host->fail(host, NVLLM_EINVAL, "a step of %d rows and %d sequences; "
			"attention was made for %d and %d", b->n_tokens, b->n_seqs,
			sh->max_tokens, sh->max_seqs);
	for (int32_t i = 0; i < b->n_seqs && !err; i++) {
		if (b->kv_len[i] > sh->max_len || b->q_start[i] < 0 ||
		    b->q_start[i + 1] < b->q_start[i] || b->q_start[i + 1] > b->n_tokens)
			return host->fail(host, NVLLM_EINVAL, "sequence %d of the step has %d "
				"tokens (at most %lld) and rows %d to %d of %d", i, b->kv_len[i],
				(long long)sh->max_len, b->q_start[i], b->q_start[i + 1],
				b->n_tokens);
		err = kv_check_rows(host, b, i, n_slots);
	}
	return err;
}

#endif
