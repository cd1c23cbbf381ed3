/* SPDX-License-Identifier: MIT */
/* tests/conform/attention_oracle.c - the numbers that the attention suite works on, what they
 * must give by plain softmax attention in double, and how near that is enough. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

/* ---- the numbers: a function of sequence, position, layer and column alone ---- */

double attn_number(int what, int seq, int layer, int32_t pos, int64_t col)
{
	struct rng r = { (uint64_t)what * 0x1000003u + (uint64_t)seq * 0x10000019u +
		(uint64_t)layer * 0x9E3779B1u + (uint64_t)pos * 0x85EBCA6Bu +
		(uint64_t)col * 0xC2B2AE35u };

	rng_u64(&r);
	return ref_round(attn_act, rng_unit(&r) * 1.5);
}

const struct nvllm_attn_layer *attn_kv_of(const struct geometry *g, int layer)
{
	int32_t from = g->layers[layer].kv_layer;

	return &g->layers[from >= 0 ? from : layer];
}

double attn_inv_freq(int i)
{
	return (double)(float)pow(10000, -2.0 * i / attn_raw.dims);
}

/* Weights of the norms of q (what 0) and k, and the bias of a column of qkv. */
double attn_norm_weight(int what, int layer, int64_t col)
{
	return (double)(float)(1 + 0.2 * attn_number(4 + what, 0, layer, 0, col));
}

double attn_bias(int layer, int64_t col)
{
	return (double)(float)(0.3 * attn_number(3, 0, layer, 0, col));
}

/* q (what 0), k or v of a row as it is attended with: n heads from column `from` of qkv. */
static void vector(const struct nvllm_attn_layer *l, int what, int seq, int layer, int32_t pos,
	int64_t n, int64_t from, double *out)
{
	struct nvllm_norm norm = { .kind = NVLLM_RMS_NORM, .eps = 1e-6, .w.cols = l->head_dim };
	double w[256], x[256], freq[128];

	for (int64_t i = 0; i < n * l->head_dim; i++)
		out[i] = attn_number(what, seq, layer, pos, i) + (attn_raw.on && attn_raw.bias ? attn_bias(layer, from + i) : 0);
	if (!attn_raw.on || what == 2)
		return;
	for (int i = 0; i < l->head_dim; i++)
		w[i] = attn_norm_weight(what, layer, i);
	for (int64_t h = 0; h < n && attn_raw.norms; h++) {
		memcpy(x, out + h * l->head_dim, sizeof(double) * (size_t)l->head_dim);
		ref_norm(&norm, w, NULL, x, out + h * l->head_dim, l->head_dim);
	}
	for (int i = 0; i < attn_raw.dims / 2; i++)
		freq[i] = attn_inv_freq(i);
	ref_rope(out, n, l->head_dim, attn_raw.dims, attn_raw.interleaved, 1, freq, pos);
}

/* What row (seq, pos) of a layer must give. */
void attn_oracle(const struct geometry *g, int seq, int32_t pos, int layer, double *y)
{
	const struct nvllm_attn_layer *l = &g->layers[layer];
	int source = l->kv_layer >= 0 ? l->kv_layer : layer;
	struct ref_attn a = { l->n_heads, l->n_kv_heads, l->head_dim, l->window, l->scale,
		l->softcap };
	int64_t row = a.kv_heads * a.head_dim;
	double *k = malloc(sizeof(double) * (size_t)(row * (pos + 1))),
	       *q = malloc(sizeof(double) * MAX_ROW);
	double *v = malloc(sizeof(double) * (size_t)(row * (pos + 1)));

	for (int32_t p = 0; p <= pos; p++) {
		vector(l, 1, seq, source, p, a.kv_heads, a.heads * a.head_dim, k + p * row);
		vector(l, 2, seq, source, p, a.kv_heads, a.heads * a.head_dim + row, v + p * row);
		for (int64_t i = p * row; i < (p + 1) * row; i++) {
			k[i] = ref_round(g->kv_dtype, k[i]);
			v[i] = ref_round(g->kv_dtype, v[i]);
		}
	}
	vector(l, 0, seq, layer, pos, a.heads, 0, q);
	ref_attend(&a, pos, q, k, v, y);
	free(k), free(v), free(q);
}

/* How far y may be off: weights of keys and sums in f32, or in bf16 as far as a product of
 * matrices takes them, and y itself. K that was normed and turned may be kept as the
 * neighbouring number of the cache's type; then q is rounded as well. Scores, whose scale here
 * is one for all, grow with the head, and with them what rounding does to a key's weight. */
double attn_tolerance(const struct geometry *g, int layer, double want)
{
	double t = attn_act == NVLLM_BF16 ? 8e-3 : 2e-4;
	bool coarse = g->kv_dtype != NVLLM_F32;

	if (coarse && t < 2e-3) /* q may be of the cache's type in products */
		t = mirror_on() ? g->kv_dtype == NVLLM_F16 ? 2e-3 : 8e-3 : t;
	if (attn_raw.on)
		t = coarse || attn_act == NVLLM_BF16 ? 2 * t + 4e-3 : 4 * t;
	if (g->kv_dtype == NVLLM_F8_E4M3)
		t += attn_raw.on ? 6e-2 : 4e-3;
	if (t > 1e-3 && g->layers[layer].head_dim > 64)
		t *= sqrt(g->layers[layer].head_dim / 64.0);
	return t * (1 + fabs(want));
}

/* ---- rows ---- */

struct nvllm_tensor rows_new(const char *name, int64_t rows, int64_t cols, int64_t pad)
{
	int64_t bytes = nvllm_row_bytes(attn_act, 1), align = mirror_on() ? 16 : bytes;
	struct nvllm_tensor t = { .rows = rows,
		.cols = cols,
		.stride = ((cols + pad) * bytes + align - 1) / align * align,
		.planes = 1,
		.dtype = attn_act };

	t.data = gmem_get(name, rows ? (rows - 1) * t.stride + cols * bytes : 0, align);
	return t;
}

void *rows_at(struct nvllm_tensor t, int64_t row)
{
	return (char *)t.data + row * t.stride;
}

double rows_get(struct nvllm_tensor t, int64_t row, int64_t col)
{
	const uint16_t *half = rows_at(t, row);
	const float *whole = rows_at(t, row);
	uint32_t u;
	float f;

	if (t.dtype == NVLLM_F32)
		return (double)whole[col];
	u = (uint32_t)half[col] << 16;
	memcpy(&f, &u, 4);
	return (double)f;
}

/* x is a number of the type already. */
void rows_set(struct nvllm_tensor t, int64_t row, int64_t col, double x)
{
	float f = (float)x;
	uint32_t u;

	memcpy(&u, &f, 4);
	if (t.dtype == NVLLM_F32)
		((float *)rows_at(t, row))[col] = f;
	else
		((uint16_t *)rows_at(t, row))[col] = (uint16_t)(u >> 16);
}

size_t rows_bytes(struct nvllm_tensor t)
{
	return (size_t)nvllm_row_bytes(t.dtype, t.cols);
}
