/* SPDX-License-Identifier: MIT */
/* ref.c - every routine of struct isa in plain C: what the faster ones are checked
 * against, and what runs on a processor without them.
 *
 * Sums are kept in LANES partial sums, folded in one fixed order: element i goes to
 * lane i % LANES, as a vector register would have it. */
#include <math.h>

#include "cpu.h"

#define LANES 8

static float fold(const float *s)
{
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static float dot(const float *x, const float *w, int64_t n)
{
	float s[LANES] = { 0 };
	int64_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (int l = 0; l < LANES; l++)
			s[l] += x[i + l] * w[i + l];
	for (int l = 0; i + l < n; l++)
		s[l] += x[i + l] * w[i + l];
	return fold(s);
}

static void mul_f32(const struct product *p)
{
	for (int64_t i = 0; i < p->n_x; i++)
		for (int64_t j = 0; j < p->n_w; j++)
			p->out[i * PANEL_MAX + j] = dot((const float *)(p->x + i * p->x_stride),
				(const float *)(p->w + j * p->w_stride), p->cols);
}

/* A row of blocks times a row of activation blocks: the products of one block are
 * summed as integers, exactly; the blocks in order. */
static float dot_q4_0(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q8_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 18) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK / 2; i++)
			dot += x[b].q[i] * ((w[2 + i] & 15) - 8) +
				x[b].q[i + QK / 2] * ((w[2 + i] >> 4) - 8);
		sum += d * x[b].d * (float)dot;
	}
	return sum;
}

static float dot_q4_1(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q8_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 20) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		const float m = half_to_float((uint16_t)(w[2] | w[3] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK / 2; i++)
			dot += x[b].q[i] * (w[4 + i] & 15) + x[b].q[i + QK / 2] * (w[4 + i] >> 4);
		sum += d * x[b].d * (float)dot;
		sum += m * x[b].s;
	}
	return sum;
}

static float dot_q8_0(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q8_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 34) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK; i++)
			dot += x[b].q[i] * (int8_t)w[2 + i];
		sum += d * x[b].d * (float)dot;
	}
	return sum;
}

static int32_t element_of(const struct q16_block *x, int i)
{
	return 254 * x->high[i] + x->low[i];
}

/* The same with finer activations: a block's product is below 127 * 32258 * 32. */
static float dot_q4_0_q16(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q16_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 18) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK / 2; i++)
			dot += element_of(&x[b], i) * ((w[2 + i] & 15) - 8) +
				element_of(&x[b], i + QK / 2) * ((w[2 + i] >> 4) - 8);
		sum += d * x[b].d * (float)dot;
	}
	return sum;
}

static float dot_q4_1_q16(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q16_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 20) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		const float m = half_to_float((uint16_t)(w[2] | w[3] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK / 2; i++)
			dot += element_of(&x[b], i) * (w[4 + i] & 15) +
				element_of(&x[b], i + QK / 2) * (w[4 + i] >> 4);
		sum += d * x[b].d * (float)dot;
		sum += m * x[b].s;
	}
	return sum;
}

static float dot_q8_0_q16(const void *blocks, const uint8_t *w, int64_t n_blocks)
{
	const struct q16_block *x = blocks;
	float sum = 0;

	for (int64_t b = 0; b < n_blocks; b++, w += 34) {
		const float d = half_to_float((uint16_t)(w[0] | w[1] << 8));
		int32_t dot = 0;

		for (int i = 0; i < QK; i++)
			dot += x[b].word[i] * (int8_t)w[2 + PAIR(i)];
		sum += d * x[b].d * (float)dot;
	}
	return sum;
}

static void mul_rows(const struct product *p,
	float (*dot_row)(const void *, const uint8_t *, int64_t))
{
	for (int64_t i = 0; i < p->n_x; i++)
		for (int64_t j = 0; j < p->n_w; j++)
			p->out[i * PANEL_MAX + j] = dot_row(p->x + i * p->x_stride,
				(const uint8_t *)(p->w + j * p->w_stride), p->cols / QK);
}

static void mul_q4_0(const struct product *p)
{
	mul_rows(p, dot_q4_0);
}

static void mul_q4_1(const struct product *p)
{
	mul_rows(p, dot_q4_1);
}

static void mul_q8_0(const struct product *p)
{
	mul_rows(p, dot_q8_0);
}

static void mul_q4_0_q16(const struct product *p)
{
	mul_rows(p, dot_q4_0_q16);
}

static void mul_q4_1_q16(const struct product *p)
{
	mul_rows(p, dot_q4_1_q16);
}

static void mul_q8_0_q16(const struct product *p)
{
	mul_rows(p, dot_q8_0_q16);
}

static float sum_of(const float *x, int64_t n, float minus, bool square)
{
	float s[LANES] = { 0 };

	for (int64_t i = 0; i < n; i++) {
		const float v = x[i] - minus;

		s[i % LANES] += square ? v * v : v;
	}
	return fold(s);
}

/* The formulas are at struct nvllm_norm in nvllm/ops.h. */
void norm_ref(float *y, const float *x, const struct nvllm_norm *norm, int64_t n)
{
	const float *w = norm->w.data, *b = norm->b.data;
	const float mean = norm->kind == NVLLM_LAYER_NORM ? sum_of(x, n, 0, false) / (float)n : 0;
	const float var = sum_of(x, n, mean, true) / (float)n;
	const float scale = 1 / sqrtf(var + (float)norm->eps), offset = (float)norm->offset;

	for (int64_t i = 0; i < n; i++)
		y[i] = (x[i] - mean) * scale * (offset + w[i]) + (b ? b[i] : 0);
}

static void add(float *x, const float *d, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		x[i] += d[i];
}

void rope_ref(float *x, const float *cs, int64_t dims, bool interleaved)
{
	const int64_t half = dims / 2, step = interleaved ? 2 : 1, other = interleaved ? 1 : half;

	for (int64_t i = 0; i < half; i++) {
		const float a = x[i * step], b = x[i * step + other];

		x[i * step] = a * cs[i] - b * cs[half + i];
		x[i * step + other] = b * cs[i] + a * cs[half + i];
	}
}

/* SiLU: Elfwing et al. 2017. GELU and its tanh form: Hendrycks and Gimpel 2016. */
static float activate(float x, int act)
{
	switch (act) {
	case NVLLM_SILU:
		return x / (1 + expf(-x));
	case NVLLM_GELU_TANH:
		return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
	case NVLLM_GELU:
		return 0.5f * x * (1 + erff(x * 0.7071067812f));
	default: /* NVLLM_RELU */
		return x < 0 ? 0 : x;
	}
}

void glu_ref(float *y, const float *gate, const float *up, int64_t n, int act)
{
	for (int64_t i = 0; i < n; i++)
		y[i] = activate(gate[i], act) * up[i];
}

static double sum_exp(const float *x, float max, int64_t n)
{
	double sum = 0;

	for (int64_t i = 0; i < n; i++)
		sum += expf(x[i] - max);
	return sum;
}

void isa_scalar(struct isa *isa)
{
	*isa = (struct isa){
		.name = "scalar",
		.rows_f32 = 4,
		.rows_q8 = 8,
		.to_q8 = {
			[FMT_Q4_0] = to_q8,
			[FMT_Q4_1] = to_q8,
			[FMT_Q8_0] = to_q8,
		},
		.to_q16 = {
			[FMT_Q4_0] = to_planes,
			[FMT_Q4_1] = to_planes,
			[FMT_Q8_0] = to_words,
		},
		.mul_f32 = mul_f32,
		.mul_q8 = {
			[FMT_Q4_0] = mul_q4_0,
			[FMT_Q4_1] = mul_q4_1,
			[FMT_Q8_0] = mul_q8_0,
		},
		.mul_q16 = {
			[FMT_Q4_0] = mul_q4_0_q16,
			[FMT_Q4_1] = mul_q4_1_q16,
			[FMT_Q8_0] = mul_q8_0_q16,
		},
		.norm = norm_ref,
		.add = add,
		.rope = rope_ref,
		.glu = glu_ref,
		.sum_exp = sum_exp,
	};
	decode_plain(isa);
}
