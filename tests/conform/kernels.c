/* SPDX-License-Identifier: MIT */
/* tests/conform/kernels.c - the second half of the device suite: each kernel, the shapes
 * it is tried on, and its formula. Columns of x are rounded f32 numbers, so the only
 * difference left is the order and precision of the device's own sums. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

const struct weight_type weight_types[N_WEIGHT_TYPES] = {
	{ NVLLM_F32, "f32" }, { NVLLM_F16, "f16" }, { NVLLM_BF16, "bf16" }, { NVLLM_Q4_0, "q4_0" },
	{ NVLLM_Q4_1, "q4_1" }, { NVLLM_Q5_0, "q5_0" }, { NVLLM_Q5_1, "q5_1" },
	{ NVLLM_Q8_0, "q8_0" }, { NVLLM_Q2_K, "q2_k" }, { NVLLM_Q3_K, "q3_k" },
	{ NVLLM_Q4_K, "q4_k" }, { NVLLM_Q5_K, "q5_k" }, { NVLLM_Q6_K, "q6_k" },
	{ NVLLM_Q8_K, "q8_k" }, { NVLLM_IQ1_S, "iq1_s" }, { NVLLM_IQ1_M, "iq1_m" },
	{ NVLLM_IQ2_XXS, "iq2_xxs" }, { NVLLM_IQ2_XS, "iq2_xs" }, { NVLLM_IQ2_S, "iq2_s" },
	{ NVLLM_IQ3_XXS, "iq3_xxs" }, { NVLLM_IQ3_S, "iq3_s" }, { NVLLM_IQ4_NL, "iq4_nl" },
	{ NVLLM_IQ4_XS, "iq4_xs" }, { NVLLM_MXFP4, "mxfp4" }, { NVLLM_TQ1_0, "tq1_0" },
	{ NVLLM_TQ2_0, "tq2_0" },
};
#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

static void row_of(struct nvllm_tensor t, int64_t row, double *v)
{
	for (int64_t i = 0; i < t.cols; i++)
		v[i] = (double)mat_row(t, row)[i];
}

static double *doubles(int64_t n)
{
	return calloc((size_t)n, sizeof(double));
}

/* ---- linear ---- */

/* x wT for one row. The tolerance covers any order of an f32 sum; where activations are
 * rounded, eight sigma of that rounding: step / sqrt(12) for each product. Of activations in
 * bf16, a share of each product: that of the activation, and that of a block's weight, which
 * a device may turn into bf16 to multiply it. */
void ref_product(const struct dev *d, const double *w, int64_t rows, int64_t cols,
	const double *x, double *y, double *tol)
{
	double top = 0;

	for (int64_t i = 0; i < cols; i++)
		top = fmax(top, fabs(x[i]));
	for (int64_t n = 0; n < rows; n++) {
		const double *v = w + n * cols;
		double sum = 0, size = 0, sq = 0, xsq = 0;

		for (int64_t i = 0; i < cols; i++) {
			sum += x[i] * v[i];
			size += fabs(x[i] * v[i]);
			sq += v[i] * v[i];
			xsq += x[i] * x[i] * v[i] * v[i];
		}
		y[n] = sum;
		tol[n] = 1e-6 + 4e-6 * size + 8 * d->rounding * top * sqrt(sq / 12);
		tol[n] += d->act16 ? 8 * 2 * BF16_HALF * sqrt(xsq / 3) : 0;
	}
}

static void product(
	const struct dev *d, const struct weight *w, const double *x, double *y, double *tol)
{
	ref_product(d, w->v, w->t.rows, w->t.cols, x, y, tol);
}

static int run_linear(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return k->dev->k->linear(
		k->dev->d, k->dev->stream, y, mat_rows(k->xk, row, n), k->w->t, k->bias, k->flags);
}

static void want_linear(struct dcase *k, int64_t row, double *want, double *tol)
{
	double *x = doubles(k->x.cols);

	row_of(k->x, row, x);
	product(k->dev, k->w, x, want, tol);
	for (int64_t i = 0; i < k->cols; i++) {
		want[i] += k->bias ? (double)mat_row(*k->bias, 0)[i] : 0;
		want[i] += k->flags & NVLLM_LINEAR_ADD ? (double)mat_row(k->y0, row)[i] : 0;
	}
	free(x);
}

static void linear_case(struct dev *d, const struct weight *w, int64_t rows, bool bias, bool add)
{
	struct nvllm_tensor b = mat_random("the bias", 1, w->t.rows, 0, 31);
	struct dcase k = { .dev = d,
		.rows = rows,
		.cols = w->t.rows,
		.pad = rows % 3,
		.w = w,
		.x = mat_random("x", rows, w->t.cols, rows % 2, 30),
		.run = run_linear,
		.want = want_linear,
		.bias = bias ? &b : NULL,
		.may = add ? X16 : X16 | Y16, /* what is added to is f32 */
		.flags = add ? NVLLM_LINEAR_ADD : 0 };

	if (add)
		k.y0 = mat_random("y before", rows, w->t.rows, 0, 32);
	dcase_check(&k);
	gmem_put(b.data);
}

static void check_linear(struct dev *d)
{
	static const int64_t shapes[][3] = { /* rows of x, rows of w, blocks or odd columns of w */
		{ 1, 1, 1 }, { 1, 33, 3 }, { 2, 7, 2 }, { 5, 64, 6 }, { 17, 35, 9 }, { 33, 130, 18 }
	};

	for (int t = 0; t < N_WEIGHT_TYPES; t++)
		for (int i = 0; i < COUNT(shapes); i++) {
			int64_t block = nvllm_dtype_block(weight_types[t].dtype, NULL);
			int64_t m = shapes[i][0], n = shapes[i][1];
			int64_t cols = block == 1 ? shapes[i][2] * 19
				: cols_of(weight_types[t].dtype, shapes[i][2] * 32);
			bool bias = i % 2 == 1, add = i % 3 == 2;
			struct weight w;

			ck_begin("linear %s: x %ld x %ld, w %ld rows%s%s", weight_types[t].name,
				(long)m, (long)cols, (long)n, bias ? ", bias" : "",
				add ? ", added" : "");
			if (weight_make(d, weight_types[t].dtype, n, cols, (uint64_t)(t * 10 + i),
				&w) == 0) {
				linear_case(d, &w, m, bias, add);
			} else if (ck_good()) {
				ck_skip("the device does not store it");
				i = COUNT(shapes);
			} else {
				ck_end();
			}
			weight_free(&w);
		}
}

/* Shapes at which a device may change its way, and real ones: rows of x up to a large batch. */
static void check_linear_wide(struct dev *d)
{
	static const int64_t rows[] = { 1, 2, 3, 4, 8, 9, 16, 17, 32, 64, 65, 128, 200 };
	static const int32_t types[] = { NVLLM_F32, NVLLM_F16, NVLLM_BF16, NVLLM_Q4_0, NVLLM_Q4_1,
		NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_Q5_K };

	for (int t = 0; t < COUNT(types); t++)
		for (int i = 0; i < COUNT(rows); i++) {
			int64_t n = i % 2 ? 384 : 200, cols = i % 3 == 2 ? 1024 : 512;
			struct weight w;

			ck_begin("linear of type %d: x %ld x %ld, w %ld rows%s%s", types[t],
				(long)rows[i], (long)cols, (long)n, i % 4 == 1 ? ", bias" : "",
				i % 4 == 2 ? ", added" : "");
			if (weight_make(d, types[t], n, cols, 700 + (uint64_t)i, &w) == 0)
				linear_case(d, &w, rows[i], i % 4 == 1, i % 4 == 2);
			else
				ck_end();
			weight_free(&w);
		}
}

/* ---- embed ---- */

static int run_embed(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	struct nvllm_batch b = { .size = sizeof(b),
		.n_tokens = (int32_t)n,
		.tokens = k->index + row,
		.state = k->state };

	return k->dev->k->embed(k->dev->d, k->dev->stream, y, k->w->t, 0, &b, k->scale);
}

static void want_embed(struct dcase *k, int64_t row, double *want, double *tol)
{
	int32_t t = k->index[row];

	(void)tol;
	if (t < 0)
		t = k->state->last_token[-1 - t];
	for (int64_t i = 0; i < k->cols; i++)
		want[i] = k->scale * k->w->v[t * k->cols + i];
}

static void check_embed(struct dev *d)
{
	static const int32_t tokens[] = { 0, 12, 3, 3, -1, 7, -3, -2, 11 }, last[] = { 5, 0, 12 };
	int32_t *t = gmem_get("the tokens", sizeof(tokens), 4),
		*l = gmem_get("last_token", sizeof(last), 4),
		*rest = gmem_get("n_left, done, stop_ids", 3 * (2 + NVLLM_STOP_IDS) * 4, 4);
	struct nvllm_slots state = { .size = sizeof(state), .n_slots = 3, .last_token = l,
		.n_left = rest, .done = rest + 3, .stop_ids = rest + 6 };

	memcpy(t, tokens, sizeof(tokens));
	memcpy(l, last, sizeof(last));
	for (int i = 0; i < N_WEIGHT_TYPES; i++) {
		int64_t cols = nvllm_dtype_block(weight_types[i].dtype, NULL) == 1 ? 37
			: cols_of(weight_types[i].dtype, 96);
		struct weight w;

		ck_begin("embed %s, and tokens still on the device", weight_types[i].name);
		if (weight_make(d, weight_types[i].dtype, 13, cols, 50 + (uint64_t)i, &w) == 0) {
			struct dcase k = { .dev = d,
				.rows = COUNT(tokens),
				.cols = cols,
				.pad = 3,
				.w = &w,
				.run = run_embed,
				.want = want_embed,
				.index = t,
				.state = &state,
				.scale = i % 2 ? 1.5 : 1 };

			dcase_check(&k);
		} else if (ck_good()) {
			ck_skip("the device does not store it");
		} else {
			ck_end();
		}
		weight_free(&w);
	}
	gmem_put(t), gmem_put(l), gmem_put(rest);
}

/* ---- norm and its fusions ---- */

static int run_norm(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return k->dev->k->norm(
		k->dev->d, k->dev->stream, y, k->y0.data ? y : mat_rows(k->xk, row, n), k->norm);
}

static void want_norm(struct dcase *k, int64_t row, double *want, double *tol)
{
	double *x = doubles(k->cols);

	(void)tol;
	row_of(k->y0.data ? k->y0 : k->x, row, x);
	ref_norm(k->norm, k->norm_w, k->norm_b, x, want, k->cols);
	free(x);
}

struct norm_kit { struct nvllm_norm n; struct weight w, b; };

static int norm_make(
	struct dev *d, struct norm_kit *k, int kind, int64_t cols, double offset, bool bias)
{
	memset(k, 0, sizeof(*k));
	if (weight_make(d, NVLLM_F32, 1, cols, 60, &k->w) ||
		(bias && weight_make(d, NVLLM_F32, 1, cols, 61, &k->b)))
		return ck_bad("the device does not store a vector of f32");
	k->n = (struct nvllm_norm){
		.size = sizeof(k->n), .kind = kind, .eps = 1e-5, .offset = offset, .w = k->w.t
	};
	if (bias)
		k->n.b = k->b.t;
	return 0;
}

static void norm_free(struct norm_kit *k)
{
	weight_free(&k->w);
	if (k->b.v)
		weight_free(&k->b);
}

static void check_norm(struct dev *d)
{
	static const struct {
		const char *what;
		int64_t rows, cols, run;
		int kind;
		double offset;
		bool bias, in_place;
	} c[] = {
		{ "rms norm, 1 x 1", 1, 1, 1, NVLLM_RMS_NORM, 0, false, false },
		{ "rms norm, 5 x 67", 5, 67, 67, NVLLM_RMS_NORM, 0, false, false },
		{ "rms norm, 3 x 576", 3, 576, 576, NVLLM_RMS_NORM, 0, false, false },
		{ "rms norm per head of 48, weights around zero", 4, 192, 48, NVLLM_RMS_NORM, 1,
			false, false },
		{ "rms norm in place", 4, 130, 130, NVLLM_RMS_NORM, 0, false, true },
		{ "layer norm, 7 x 67", 7, 67, 67, NVLLM_LAYER_NORM, 0, false, false },
		{ "layer norm with bias, in place", 2, 256, 256, NVLLM_LAYER_NORM, 0, true, true },
	};

	for (int i = 0; i < COUNT(c); i++) {
		struct dcase k = { .dev = d,
			.rows = c[i].rows,
			.cols = c[i].cols,
			.pad = 2,
			.may = c[i].in_place ? Y16 : X16 | Y16,
			.run = run_norm,
			.want = want_norm };
		struct norm_kit kit;

		ck_begin("%s", c[i].what);
		if (norm_make(d, &kit, c[i].kind, c[i].run, c[i].offset, c[i].bias)) {
			ck_end();
			continue;
		}
		k.norm = &kit.n, k.norm_w = kit.w.v, k.norm_b = kit.b.v;
		if (c[i].in_place)
			k.y0 = mat_random("y before", k.rows, k.cols, 0, 62);
		else
			k.x = mat_random("x", k.rows, k.cols, 1, 62);
		dcase_check(&k);
		norm_free(&kit);
	}
}

/* ---- add, rope, glu, rows ---- */

static int run_add(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return k->dev->k->add(k->dev->d, k->dev->stream, y, mat_rows(k->xk, row, n));
}

static void want_add(struct dcase *k, int64_t row, double *want, double *tol)
{
	(void)tol;
	for (int64_t i = 0; i < k->cols; i++)
		want[i] = (double)mat_row(k->y0, row)[i] + (double)mat_row(k->x, row)[i];
}

static void check_add(struct dev *d)
{
	struct dcase k = { .dev = d,
		.rows = 6,
		.cols = 53,
		.pad = 1,
		.may = X16,
		.run = run_add,
		.want = want_add,
		.x = mat_random("d", 6, 53, 4, 70),
		.y0 = mat_random("x", 6, 53, 0, 71) };

	ck_begin("add, 6 x 53");
	dcase_check(&k);
	k.x = mat_random("d", 1, 53, 0, 72);
	k.x.rows = 6, k.x.stride = 0;
	k.y0 = mat_random("x", 6, 53, 0, 73);
	ck_begin("add, one row to each (stride 0)");
	dcase_check(&k);
}

static int run_rope(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	(void)n;
	return k->dev->k->rope(
		k->dev->d, k->dev->stream, y, k->index + row, k->head_dim, k->rotary);
}

/* f32 angles: a position of p turns with an error of p * 2^-24 or so. */
static void want_rope(struct dcase *k, int64_t row, double *want, double *tol)
{
	row_of(k->y0, row, want);
	ref_rope(want, k->cols / k->head_dim, k->head_dim, k->rotary->dims, k->rotary->interleaved,
		k->rotary->mscale, k->inv_freq, k->index[row]);
	for (int64_t i = 0; i < k->cols; i++)
		tol[i] = 1e-5 + 2.5e-7 * k->index[row];
}

static void check_rope(struct dev *d)
{
	static const struct {
		const char *what;
		int64_t heads, head_dim, dims;
		int inter;
		double mscale;
	} c[] = { { "rope, half-split", 3, 64, 64, 0, 1 }, { "rope, interleaved", 2, 32, 32, 1, 1 },
		{ "rope, a part of the head", 3, 40, 24, 0, 1 },
		{ "rope, scaled", 1, 128, 128, 0, 1.1386 },
		{ "rope, interleaved part", 2, 20, 12, 1, 1 } };
	static const int32_t positions[] = { 0, 1, 2, 500, 7, 4095, 31 };
	int32_t *pos = gmem_get("the positions", sizeof(positions), 4);

	memcpy(pos, positions, sizeof(positions));
	for (int i = 0; i < COUNT(c); i++) {
		struct nvllm_tensor f = mat_new("inv_freq", 1, c[i].dims / 2, 0);
		struct nvllm_rotary r = { .size = sizeof(r),
			.dims = (int32_t)c[i].dims,
			.interleaved = c[i].inter,
			.mscale = c[i].mscale,
			.inv_freq = f };
		struct dcase k = { .dev = d,
			.rows = COUNT(positions),
			.cols = c[i].heads * c[i].head_dim,
			.pad = 5,
			.may = Y16,
			.run = run_rope,
			.want = want_rope,
			.index = pos,
			.rotary = &r,
			.head_dim = c[i].head_dim };
		double *inv = doubles(c[i].dims / 2);

		for (int64_t j = 0; j < c[i].dims / 2; j++) {
			mat_row(f, 0)[j] = (float)pow(10000, -2.0 * (double)j / (double)c[i].dims);
			inv[j] = (double)mat_row(f, 0)[j];
		}
		k.inv_freq = inv;
		k.y0 = mat_random("x", k.rows, k.cols, 0, 80);
		ck_begin("%s", c[i].what);
		dcase_check(&k);
		gmem_put(f.data);
		free(inv);
	}
	gmem_put(pos);
}

static int run_glu(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return k->dev->k->glu(k->dev->d, k->dev->stream, y, mat_rows(k->xk, row, n), k->act);
}

static void want_glu(struct dcase *k, int64_t row, double *want, double *tol)
{
	for (int64_t i = 0; i < k->cols; i++) {
		double gate = (double)mat_row(k->x, row)[i],
		       up = (double)mat_row(k->x, row)[i + k->cols];

		want[i] = ref_act(k->act, gate) * up;
		tol[i] = 2e-6 + 1e-5 * fabs(gate * up);
	}
}

static const char *const acts[] = { "silu", "gelu tanh", "gelu", "relu" };

/* Gates from -30 to 30, so that exp over- and underflows are met. */
static void check_glu(struct dev *d)
{
	for (int a = 0; a < COUNT(acts); a++) {
		struct dcase k = { .dev = d,
			.rows = 5,
			.cols = 41,
			.pad = 3,
			.may = X16 | Y16,
			.run = run_glu,
			.want = want_glu,
			.act = a,
			.x = mat_random("x", 5, 82, 1, 90) };

		for (int64_t i = 0; i < 41; i++)
			for (int r = 0; r < 5; r++)
				mat_row(k.x, r)[i] *= r == 4 ? 120 : 8;
		ck_begin("glu, %s", acts[a]);
		dcase_check(&k);
	}
}

static int run_rows(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	(void)n;
	return k->dev->k->rows(k->dev->d, k->dev->stream, y, k->xk, k->index + row);
}

static void want_rows(struct dcase *k, int64_t row, double *want, double *tol)
{
	row_of(k->x, k->index[row], want);
	for (int64_t i = 0; i < k->cols; i++)
		tol[i] = 0;
}

static void check_rows(struct dev *d)
{
	static const int32_t index[] = { 4, 0, 0, 8, 3 };
	int32_t *at = gmem_get("the row numbers", sizeof(index), 4);
	struct dcase k = { .dev = d, .rows = COUNT(index), .cols = 29, .pad = 2, .may = X16 | Y16, .run = run_rows,
		.want = want_rows, .x = mat_random("x", 9, 29, 3, 91), .index = at };

	memcpy(at, index, sizeof(index));
	ck_begin("rows");
	dcase_check(&k);
	gmem_put(at);
}

/* ---- fused, where offered ---- */

static int run_norm_linear(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	struct nvllm_tensor x = mat_rows(k->xk, row, n);

	if (k->act >= 0)
		return k->dev->k->norm_linear_glu(
			k->dev->d, k->dev->stream, y, x, k->norm, k->w->t, k->act);
	return k->dev->k->norm_linear(k->dev->d, k->dev->stream, y, x, k->norm, k->w->t, k->bias);
}

static void want_norm_linear(struct dcase *k, int64_t row, double *want, double *tol)
{
	int64_t n = k->w->t.rows;
	double *x = doubles(k->x.cols), *xn = doubles(k->x.cols), *y = doubles(n), *t = doubles(n);

	row_of(k->x, row, x);
	ref_norm(k->norm, k->norm_w, k->norm_b, x, xn, k->x.cols);
	product(k->dev, k->w, xn, y, t);
	for (int64_t i = 0; i < k->cols; i++) {
		want[i] = y[i] + (k->bias ? (double)mat_row(*k->bias, 0)[i] : 0);
		tol[i] = 4 * t[i] + 1e-5;
		if (k->act >= 0) {
			double up = y[i + k->cols], tu = t[i + k->cols];

			want[i] = ref_act(k->act, y[i]) * up;
			tol[i] = 4 * (1.2 * t[i] * (fabs(up) + tu) + (fabs(y[i]) + t[i]) * tu) +
				1e-5;
		}
	}
	free(x), free(xn), free(y), free(t);
}

static void check_fused(struct dev *d)
{
	bool nl = NVLLM_HAS(d->k, norm_linear) && d->k->norm_linear;
	bool nlg = NVLLM_HAS(d->k, norm_linear_glu) && d->k->norm_linear_glu;

	for (int i = 0; i < N_WEIGHT_TYPES * 2; i++) {
		int t = i / 2, glu = i % 2;
		int64_t cols = cols_of(weight_types[t].dtype, 96);
		struct nvllm_tensor b = mat_random("the bias", 1, 46, 0, 101);
		struct norm_kit kit;
		struct weight w;

		if (!(glu ? nlg : nl))
			continue;
		ck_begin("%s %s", glu ? "norm_linear_glu" : "norm_linear", weight_types[t].name);
		if (weight_make(d, weight_types[t].dtype, 46, cols, 100, &w) == 0 &&
			norm_make(d, &kit, NVLLM_RMS_NORM, cols, 0, false) == 0) {
			struct dcase k = { .dev = d,
				.rows = 5,
				.cols = glu ? 23 : 46,
				.pad = 1,
				.may = X16 | Y16,
				.w = &w,
				.run = run_norm_linear,
				.want = want_norm_linear,
				.act = glu ? NVLLM_SILU : -1,
				.x = mat_random("x", 5, cols, 1, 102),
				.norm = &kit.n,
				.norm_w = kit.w.v,
				.bias = glu ? NULL : &b };

			dcase_check(&k);
			norm_free(&kit);
		} else {
			ck_skip("the device does not store it");
		}
		weight_free(&w);
		gmem_put(b.data);
	}
}

void check_kernels(struct dev *d)
{
	const struct nvllm_kernels *k = d->k;
	static const struct { const char *name; void (*fn)(struct dev *); size_t at; } all[] = {
#define K(m) { #m, check_ ## m, offsetof(struct nvllm_kernels, m) }
		K(linear), K(embed), K(norm), K(add), K(rope), K(glu), K(rows), K(advance),
#undef K
	};

	for (int i = 0; i < COUNT(all); i++) {
		int (*fn)(void);

		ck_begin("has kernel %s", all[i].name);
		memcpy(&fn, (const char *)k + all[i].at, sizeof(fn));
		if (all[i].at + sizeof(fn) > k->size || !fn)
			ck_skip("not offered");
		else
			all[i].fn(d);
	}
	check_fused(d);
	if (d->info.caps & NVLLM_DEV_CUDA && mat_align >= 64 && k->linear)
		check_linear_wide(d);
	if (NVLLM_HAS(k, logprobs) && k->logprobs) {
		check_logprobs(d, 1, 0);
		check_logprobs(d, 101, 5);
		check_logprobs(d, 49152, 5);
		check_logprobs(d, 3, 3);
	}
	if (NVLLM_HAS(k, moe) && k->moe) {
		check_moe(d);
	} else {
		ck_begin("has kernel moe");
		ck_skip("not offered: models with experts are refused");
	}
	check_shares(d);
}
