/* SPDX-License-Identifier: MIT */
/* ref.c - every routine of struct isa in plain C: what the faster ones are checked
 * against, and what runs on a processor without them.
 *
 * But for products, sums are kept in LANES partial sums, folded in one fixed order: element i goes to
 * lane i % LANES, as a vector register would have it. */
#include <math.h>

#include "cpu.h"

#define LANES 8

static float fold(const float *s)
{
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* ---- products: see "panels" in cpu.h ---- */

/* Column k of lane r. */
static float element(const char *panel, enum fmt fmt, int64_t lanes, int64_t r, int64_t k)
{
	void (*const decode)(float *, const void *, int64_t) = fmt == FMT_F32 ? decode_f32 :
		fmt == FMT_F16 ? decode_f16 : decode_bf16;
	float v;

	panel += fmt == FMT_F32 ? 4 * (k * lanes + r) : 4 * (k / 2 * lanes + r) + 2 * (k % 2);
	decode(&v, panel, 1);
	return v;
}

static void mul_float(const struct product *p, enum fmt fmt)
{
	for (int64_t i = 0; i < p->n_x; i++)
		for (int64_t j = 0; j < p->n_w * p->lanes; j++) {
			const char *panel = p->w + j / p->lanes * p->panel_bytes;
			const float *x = (const float *)(p->x + i * p->x_stride);
			float sum = 0;

			for (int64_t k = 0; k < p->cols; k++)
				sum += x[k] * element(panel, fmt, p->lanes, j % p->lanes, k);
			p->out[i * GROUP + j] = sum;
		}
}

#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul_float(p, FMT_##form); \
	}
FLOATS(PRODUCT, F32)
#undef PRODUCT

/* Block b of lane r of a panel. */
static void load_lane(struct lane_block *k, const char *panel, enum fmt fmt, int64_t lanes, int64_t r, int64_t b)
{
	const int64_t words = fmt == FMT_Q8_0 ? 8 : 4;
	const char *block = panel + b * panel_bytes(fmt, lanes, QK), *scales = block + words * 4 * lanes + 2 * r;

	if (is_k(fmt)) {
		panel_k_block(k, fmt, lanes, r, panel, b);
		return;
	}
	for (int i = 0; i < QK; i++) {
		const int at = fmt == FMT_Q8_0 ? i : i % 16;
		const uint8_t v = (uint8_t)block[(at / 4 * lanes + r) * 4 + at % 4];

		k->q[i] = fmt == FMT_Q8_0 ? (int8_t)v : i < 16 ? v & 15 : v >> 4;
	}
	k->d[0] = k->d[1] = load_half(scales);
	k->m = fmt == FMT_Q4_1 ? load_half(scales + 2 * lanes) : fmt == FMT_Q4_0 ? -8 * k->d[0] : 0;
}

/* Element i of a block of activations, as products with the form have them. */
static int32_t element_of(const char *x, enum act act, enum fmt fmt, int i)
{
	const struct q16_block *b = (const struct q16_block *)x;

	if (act == ACT_Q8)
		return ((const struct q8_block *)x)->q[i];
	if (fmt == FMT_Q4_0 || fmt == FMT_Q4_1 || fmt == FMT_Q4_K)
		return 254 * b->high[i] + b->low[i];
	return b->word[PAIR(i)]; /* its own inverse */
}

/* Adds a block's products: those with one scale are summed as integers, exactly (below
 * 127 * 32258 * 32). */
static float add_block(float sum, const struct lane_block *k, const char *x, enum act act, enum fmt fmt)
{
	const float d = act == ACT_Q8 ? ((const struct q8_block *)x)->d : ((const struct q16_block *)x)->d;
	const float s = act == ACT_Q8 ? ((const struct q8_block *)x)->s : ((const struct q16_block *)x)->s;
	const int each = fmt == FMT_Q6_K ? 16 : QK;

	for (int first = 0; first < QK; first += each) {
		int32_t dot = 0;

		for (int i = first; i < first + each; i++)
			dot += element_of(x, act, fmt, i) * k->q[i];
		sum += k->d[first / 16] * d * (float)dot;
	}
	return fmt == FMT_Q8_0 || fmt == FMT_Q6_K ? sum : sum + k->m * s;
}

/* The blocks in order. */
static void mul_blocks(const struct product *p, enum act act, enum fmt fmt)
{
	const int64_t x_bytes = act == ACT_Q8 ? sizeof(struct q8_block) : sizeof(struct q16_block);

	for (int64_t j = 0; j < p->n_w * p->lanes; j++) {
		const char *panel = p->w + j / p->lanes * p->panel_bytes;
		float sum[X_ROWS] = { 0 };

		for (int64_t b = 0; b < p->cols / QK; b++) {
			struct lane_block k;

			load_lane(&k, panel, fmt, p->lanes, j % p->lanes, b);
			for (int64_t i = 0; i < p->n_x; i++)
				sum[i] = add_block(sum[i], &k, p->x + i * p->x_stride + b * x_bytes, act, fmt);
		}
		for (int64_t i = 0; i < p->n_x; i++)
			p->out[i * GROUP + j] = sum[i];
	}
}

#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul_blocks(p, ACT_##act, FMT_##form); \
	}
WHOLE_NUMBERS(PRODUCT, Q8)
WHOLE_NUMBERS(PRODUCT, Q16)
#undef PRODUCT

/* ---- the rest ---- */

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
		.lanes = 8,
		.round = {
			[ACT_Q8] = { [FMT_Q4_0] = to_q8, [FMT_Q4_1] = to_q8, [FMT_Q8_0] = to_q8, [FMT_Q4_K] = to_q8,
				[FMT_Q5_K] = to_q8, [FMT_Q6_K] = to_q8 },
			[ACT_Q16] = { [FMT_Q4_0] = to_planes, [FMT_Q4_1] = to_planes, [FMT_Q8_0] = to_words,
				[FMT_Q4_K] = to_planes, [FMT_Q5_K] = to_words, [FMT_Q6_K] = to_words },
			[ACT_Q12] = { [FMT_Q4_0] = to_planes_q12, [FMT_Q4_1] = to_planes_q12, [FMT_Q8_0] = to_words,
				[FMT_Q4_K] = to_planes_q12, [FMT_Q5_K] = to_words, [FMT_Q6_K] = to_words },
		},
		.norm = norm_ref,
		.add = add,
		.rope = rope_ref,
		.glu = glu_ref,
		.sum_exp = sum_exp,
	};
	FLOATS(TO_TABLE, F32)
	WHOLE_NUMBERS(TO_TABLE, Q8)
	WHOLE_NUMBERS(TO_TABLE, Q16)
	decode_plain(isa);
}
