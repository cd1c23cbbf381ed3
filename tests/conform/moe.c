/* SPDX-License-Identifier: MIT */
/* tests/conform/moe.c - a device's mixture of experts against its formula (struct nvllm_moe
 * in nvllm/ops.h) in double: which experts a row goes to, and what they make of it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

struct mix {
	struct nvllm_moe m;
	struct weight router, gate_up, down;
	struct nvllm_tensor scratch; /* for all rows, an unreadable page behind it */
};

static double *doubles(int64_t n)
{
	return calloc((size_t)n, sizeof(double));
}

/* The last floats there are: one more is a fault. */
static int run_moe(struct dcase *k, int64_t row, int64_t n, struct nvllm_tensor y)
{
	struct nvllm_tensor scratch = k->mix->scratch;
	int64_t need = nvllm_moe_scratch(n, &k->mix->m);

	scratch.data = (float *)scratch.data + scratch.cols - need;
	scratch.cols = need;
	scratch.stride = need * 4;
	return k->dev->k->moe(k->dev->d, k->dev->stream, y, mat_rows(k->xk, row, n), &k->mix->m,
		scratch);
}

/* Experts in the order of their logits, ties to the lower number. */
static void order_of(const double *logit, int n, int *order)
{
	for (int i = 0; i < n; i++) {
		int before = 0;

		for (int j = 0; j < n; j++)
			before += logit[j] > logit[i] || (logit[j] == logit[i] && j < i);
		order[before] = i;
	}
}

/* One expert's answer and how far a device may be off. What rounds the product of `down`
 * is its input with its error. */
static void expert(struct dcase *k, int e, const double *x, double *y, double *tol)
{
	const struct mix *mix = k->mix;
	int64_t ffn = mix->down.t.cols, dim = k->cols;
	double *h = doubles(2 * ffn), *t = doubles(2 * ffn);

	ref_product(k->dev, mix->gate_up.v + e * 2 * ffn * dim, 2 * ffn, dim, x, h, t);
	for (int64_t i = 0; i < ffn; i++) {
		double a = ref_act(mix->m.act, h[i]), up = h[ffn + i];

		t[i] = 1.2 * t[i] * (fabs(up) + t[ffn + i]) + fabs(a) * t[ffn + i] +
			1e-5 * fabs(a * up) + 2e-6;
		h[i] = a * up;
	}
	ref_product(k->dev, mix->down.v + e * dim * ffn, dim, ffn, h, y, tol);
	for (int64_t i = 0; i < dim; i++)
		for (int64_t j = 0; j < ffn; j++)
			tol[i] += fabs(mix->down.v[(e * dim + i) * ffn + j]) * t[j];
	free(h), free(t);
}

/* Where two experts are too close for f32 to tell which is taken, anything goes. */
static void want_moe(struct dcase *k, int64_t row, double *want, double *tol)
{
	const struct nvllm_moe *m = &k->mix->m;
	int n = (int)m->router.rows, *order = calloc((size_t)n, sizeof(*order));
	double *x = doubles(k->cols), *logit = doubles(n), *err = doubles(n), *y = doubles(k->cols);
	double *t = doubles(k->cols), all = 0, kept = 0, worst = 0, lead = 1;

	for (int64_t i = 0; i < k->cols; i++)
		x[i] = (double)mat_row(k->x, row)[i], want[i] = 0, tol[i] = 1e-6;
	ref_product(k->dev, k->mix->router.v, n, k->cols, x, logit, err);
	order_of(logit, n, order);
	for (int i = 0; i < n; i++) {
		all += exp(logit[i] - logit[order[0]]);
		worst = fmax(worst, err[i]);
	}
	for (int i = 0; i < m->n_top; i++)
		kept += exp(logit[order[i]] - logit[order[0]]);
	if (m->n_top < n)
		lead = logit[order[m->n_top - 1]] - logit[order[m->n_top]];
	for (int e = 0; e < m->n_top; e++) {
		double p = exp(logit[order[e]] - logit[order[0]]) / (m->norm_topk ? kept : all);

		expert(k, order[e], x, y, t);
		for (int64_t i = 0; i < k->cols; i++) {
			want[i] += p * y[i];
			tol[i] += p * (t[i] + (2e-5 + 3 * worst) * fabs(y[i]));
		}
	}
	for (int64_t i = 0; i < k->cols && lead != 0 && lead < 2 * worst; i++)
		tol[i] = INFINITY;
	free(order), free(x), free(logit), free(err), free(y), free(t);
}

/* 1: the device does not store a weight of these types. */
static int mix_make(struct dev *d, struct mix *k, const int64_t *shape, int32_t router,
	int32_t type)
{
	int64_t experts = shape[0], dim = cols_of(type, shape[3]), ffn = cols_of(type, shape[4]);

	memset(k, 0, sizeof(*k));
	if (weight_make(d, router, experts, dim, 400, &k->router) ||
		weight_make_planes(d, type, (int)experts, 2 * ffn, dim, 401, &k->gate_up) ||
		weight_make_planes(d, type, (int)experts, dim, ffn, 402, &k->down))
		return 1;
	k->m = (struct nvllm_moe){ .size = sizeof(k->m), .n_top = (int32_t)shape[1],
		.router = k->router.t, .gate_up = k->gate_up.t, .down = k->down.t };
	k->scratch = (struct nvllm_tensor){ .rows = 1, .cols = nvllm_moe_scratch(shape[2], &k->m),
		.planes = 1, .dtype = NVLLM_F32 };
	k->scratch.stride = k->scratch.cols * 4;
	k->scratch.data = gmem_get("the scratch", k->scratch.stride, 4);
	return 0;
}

static void mix_free(struct mix *k)
{
	weight_free(&k->router), weight_free(&k->gate_up), weight_free(&k->down);
	gmem_put(k->scratch.data);
}

/* Experts 1, 3, 5, ... route as the one before does, and answer otherwise. False: the device
 * keeps a router in a form of its own. */
static bool make_ties(struct mix *k)
{
	struct nvllm_tensor *r = &k->router.t;

	if (r->layout != 0 || r->dtype != NVLLM_F32)
		return false;

	for (int64_t e = 1; e < r->rows; e += 2) {
		memcpy((char *)r->data + e * r->stride, (char *)r->data + (e - 1) * r->stride,
			(size_t)r->stride);
		memcpy(k->router.v + e * r->cols, k->router.v + (e - 1) * r->cols,
			(size_t)r->cols * sizeof(double));
	}
	return true;
}

static void one_case(struct dev *d, const int64_t *shape, int32_t router, int32_t type, int norm,
	int act, bool ties)
{
	struct mix mix;

	if (mix_make(d, &mix, shape, router, type) == 0) {
		struct dcase k = { .dev = d, .rows = shape[2], .cols = mix.router.t.cols, .pad = 3,
			.may = X16, .run = run_moe, .want = want_moe, .mix = &mix,
			.x = mat_random("x", shape[2], mix.router.t.cols, 1, 403) };

		mix.m.norm_topk = norm;
		mix.m.act = act;
		if (!ties || make_ties(&mix)) {
			dcase_check(&k);
		} else {
			gmem_put(k.x.data);
			ck_skip("the device keeps the router in a form of its own");
		}
	} else if (ck_good()) {
		ck_skip("the device does not store it");
	} else {
		ck_end();
	}
	mix_free(&mix);
}

/* No column of any expert is this rank's. */
static void check_no_experts(struct dev *d)
{
	struct nvllm_tensor x = mat_random("x", 3, 64, 0, 404), y = mat_new("y", 3, 64, 2);
	struct nvllm_tensor scratch;
	struct weight router;
	int status;

	ck_begin("moe of nothing writes zeros");
	if (weight_make(d, NVLLM_F32, 4, 64, 405, &router) == 0) {
		struct nvllm_moe m = { .size = sizeof(m), .n_top = 2, .router = router.t,
			.gate_up = { .cols = 64, .planes = 4 },
			.down = { .rows = 64, .planes = 4 } };

		scratch = mat_new("the scratch", 1, nvllm_moe_scratch(3, &m), 0);
		ck_step_begin();
		status = d->k->moe(d->d, d->stream, y, x, &m, scratch);
		ck_step_end();
		d->vt->sync(d->d, d->stream);
		if (status)
			ck_bad("returned %d: %s", status, fake_said());
		for (int i = 0; i < 3 * 64 && ck_good(); i++)
			if (mat_row(y, i / 64)[i % 64] != 0)
				ck_bad("row %d, column %d: %g", i / 64, i % 64,
					(double)mat_row(y, i / 64)[i % 64]);
		gmem_put(scratch.data);
	}
	ck_end();
	weight_free(&router);
	gmem_put(x.data), gmem_put(y.data);
}

void check_moe(struct dev *d)
{
	static const int64_t shapes[][5] = { /* experts, chosen, rows, dim, ffn */
		{ 2, 1, 1, 32, 32 }, { 8, 2, 5, 64, 32 }, { 3, 3, 4, 96, 64 },
		{ 64, 8, 19, 32, 32 },
	};
	static const struct { int32_t dtype; const char *name; } types[] = {
		{ NVLLM_F32, "f32" }, { NVLLM_BF16, "bf16" }, { NVLLM_Q4_0, "q4_0" },
		{ NVLLM_Q8_0, "q8_0" }, { NVLLM_Q4_K, "q4_k" },
	};

	for (int i = 0; i < COUNT(shapes) * COUNT(types); i++) {
		const int64_t *s = shapes[i / COUNT(types)];
		int t = i % COUNT(types);

		if (s[0] == 64 && types[t].dtype == NVLLM_Q4_K)
			continue; /* takes long, shows nothing new */
		ck_begin("moe %s: %ld of %ld experts, x %ld rows%s", types[t].name, (long)s[1],
			(long)s[0], (long)s[2], i % 2 ? ", renormalised" : "");
		one_case(d, s, i % 3 ? NVLLM_F32 : NVLLM_BF16, types[t].dtype, i % 2, i % 4, false);
	}
	ck_begin("moe: ties go to the lower number");
	one_case(d, (const int64_t[]){ 9, 3, 7, 37, 11 }, NVLLM_F32, NVLLM_F32, 1, NVLLM_SILU,
		true);
	check_no_experts(d);
}
