/* SPDX-License-Identifier: MIT */
/* test_cpu_moe.c - the kernel moe against a plain mixture of experts in double precision,
 * and the rule that a row's bits are its own. */
#include "test_cpu.h"

struct mix {
	struct nvllm_moe m;
	struct weight router, gate_up, down;
	int64_t dim, ffn, experts;
};

static void mix_make(struct mix *k, struct dev *dev, int router, int dtype, int64_t experts,
	int64_t dim, int64_t ffn)
{
	*k = (struct mix){ .dim = dim, .ffn = ffn, .experts = experts };
	k->router = make_weight(dev, router, experts, dim);
	k->gate_up = make_planes(dev, dtype, (int)experts, 2 * ffn, dim);
	k->down = make_planes(dev, dtype, (int)experts, dim, ffn);
	k->m = (struct nvllm_moe){ .size = sizeof(k->m), .n_top = 1, .router = k->router.t,
		.gate_up = k->gate_up.t, .down = k->down.t };
}

static void mix_free(struct mix *k, struct dev *dev)
{
	free_weight(dev, &k->router), free_weight(dev, &k->gate_up), free_weight(dev, &k->down);
}

/* As long as it must be, with something behind it. */
static struct nvllm_tensor scratch_for(int64_t rows, const struct nvllm_moe *m)
{
	const int64_t n = nvllm_moe_scratch(rows, m);
	struct nvllm_tensor t = { .rows = 1, .cols = n, .stride = n * 4, .planes = 1 };

	t.data = malloc((size_t)(n + 16) * 4);
	memset(t.data, 0xff, (size_t)(n + 16) * 4);
	return t;
}

static void scratch_free(struct nvllm_tensor t)
{
	for (int i = 0; i < 64; i++)
		assert_int_equal(((uint8_t *)t.data)[t.cols * 4 + i], 0xff);
	free(t.data);
}

static void run(struct dev *dev, const struct mix *k, struct nvllm_tensor y, struct nvllm_tensor x)
{
	struct nvllm_tensor scratch = scratch_for(x.rows, &k->m);

	poison(y);
	assert_int_equal(vt->kernels->moe(dev->d, NULL, y, x, &k->m, scratch), 0);
	check_gaps(y);
	scratch_free(scratch);
}

/* ---- in double precision ---- */

static double act_of(double x, int act)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU_TANH:
		return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case NVLLM_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
	default: return x < 0 ? 0 : x;
	}
}

/* w x, and how far it may be off where x is off by err[] already and rounded by step, a
 * share of its largest. */
static void product(const double *w, int64_t rows, int64_t cols, const double *x,
	const double *err, double step, double *y, double *y_err)
{
	double most = 0;

	for (int64_t i = 0; i < cols; i++)
		most = fmax(most, fabs(x[i]) + err[i]);
	for (int64_t r = 0; r < rows; r++) {
		y[r] = 0, y_err[r] = 1e-7;
		for (int64_t i = 0; i < cols; i++) {
			y[r] += w[r * cols + i] * x[i];
			y_err[r] += fabs(w[r * cols + i]) * (err[i] + step * most +
				4e-6 * fabs(x[i]));
		}
	}
}

/* down (act(gate x) * up x) of one expert, added weight times. */
static void expert(const struct mix *k, int64_t e, double weight, const double *x, double step,
	double *y, double *y_err)
{
	const int64_t ffn = k->ffn, dim = k->dim, most = 2 * ffn + dim;
	double *zero = calloc((size_t)most, 8), *h = calloc((size_t)most, 8);
	double *h_err = calloc((size_t)most, 8), *o = calloc((size_t)most, 8);
	double *o_err = calloc((size_t)most, 8);

	product(k->gate_up.value + e * 2 * ffn * dim, 2 * ffn, dim, x, zero, step, h, h_err);
	for (int64_t i = 0; i < ffn; i++) {
		const double a = act_of(h[i], k->m.act), up = h[ffn + i];

		h[i] = a * up;
		h_err[i] = 1.2 * h_err[i] * (fabs(up) + h_err[ffn + i]) +
			fabs(a) * h_err[ffn + i] + 2e-6 * (1 + fabs(a * up));
	}
	product(k->down.value + e * dim * ffn, dim, ffn, h, h_err, step, o, o_err);
	for (int64_t i = 0; i < dim; i++) {
		y[i] += weight * o[i];
		y_err[i] += weight * (o_err[i] + 4e-5 * fabs(o[i]));
	}
	free(zero), free(h), free(h_err), free(o), free(o_err);
}

/* The experts in the order of p, the lower number first. Returns the least lead, in logits,
 * of one that is taken over one that is left. */
static double order_of(const double *logit, int64_t n, int64_t n_top, int *order)
{
	double lead = INFINITY;

	for (int64_t i = 0; i < n; i++) {
		int64_t at = 0;

		for (int64_t j = 0; j < n; j++)
			at += logit[j] > logit[i] || (logit[j] == logit[i] && j < i);
		order[at] = (int)i;
	}
	if (n_top < n)
		lead = logit[order[n_top - 1]] - logit[order[n_top]];
	return lead;
}

/* 0: two experts are too close to say which. */
static int want_row(const struct mix *k, const float *row, double step, double router_step,
	double *y, double *y_err)
{
	double *x = calloc((size_t)k->dim, 8), *zero = calloc((size_t)k->dim, 8);
	double *logit = calloc((size_t)k->experts, 8), *err = calloc((size_t)k->experts, 8);
	double all = 0, kept = 0, lead, worst = 0;
	int order[256];

	for (int64_t i = 0; i < k->dim; i++)
		x[i] = row[i], y[i] = 0, y_err[i] = 1e-6;
	product(k->router.value, k->experts, k->dim, x, zero, router_step, logit, err);
	lead = order_of(logit, k->experts, k->m.n_top, order);
	for (int64_t i = 0; i < k->experts; i++) {
		all += exp(logit[i] - logit[order[0]]);
		worst = fmax(worst, err[i]);
	}
	for (int i = 0; i < k->m.n_top; i++)
		kept += exp(logit[order[i]] - logit[order[0]]);
	for (int i = 0; i < k->m.n_top; i++) {
		const double p = exp(logit[order[i]] - logit[order[0]]) /
			(k->m.norm_topk ? kept : all);
		double *o = calloc((size_t)k->dim, 8), *o_err = calloc((size_t)k->dim, 8);

		expert(k, order[i], 1, x, step, o, o_err);
		for (int64_t c = 0; c < k->dim; c++) {
			y[c] += p * o[c];
			y_err[c] += p * (o_err[c] + 3 * worst * fabs(o[c]));
		}
		free(o), free(o_err);
	}
	free(x), free(zero), free(logit), free(err);
	return lead == 0 || lead > 2 * worst;
}

/* How far an activation is rounded, as a share of its block's largest. */
static double step_of(int activations, int dtype)
{
	if (activations == F32 || (dtype != NVLLM_Q4_0 && dtype != NVLLM_Q4_1 &&
			dtype != NVLLM_Q8_0 && !is_k(dtype)))
		return 0;
	return activations == Q8 ? 0.51 / 127 : activations == Q12 ? 0.51 / (127 * 16) : 0.51 / (127 * 254);
}

static int check_values(const struct mix *k, struct nvllm_tensor y, struct nvllm_tensor x,
	double step)
{
	double *want = calloc((size_t)k->dim, 8), *err = calloc((size_t)k->dim, 8);
	int n = 0;

	for (int64_t t = 0; t < x.rows; t++) {
		if (!want_row(k, at(x, t), step, 0, want, err))
			continue;
		n++;
		for (int64_t i = 0; i < k->dim; i++)
			check_near(at(y, t)[i], want[i], err[i]);
	}
	free(want), free(err);
	return n;
}

static int one_mix(struct dev *dev, int activations, int dtype, const int shape[5])
{
	const int64_t block = nvllm_dtype_block(dtype, NULL), T = shape[2];
	const int64_t dim = block > 1 ? (shape[3] + block - 1) / block * block : shape[3];
	const int64_t ffn = block > 1 ? (shape[4] + block - 1) / block * block : shape[4];
	struct nvllm_tensor x = matrix(T, dim, 3), y = matrix(T, dim, 2);
	struct mix k;
	int n;

	mix_make(&k, dev, bits() & 1 ? NVLLM_F32 : NVLLM_BF16, dtype, shape[0], dim, ffn);
	k.m.n_top = shape[1];
	k.m.norm_topk = (int)(bits() & 1);
	k.m.act = (int)(bits() % 4);
	run(dev, &k, y, x);
	n = check_values(&k, y, x, step_of(activations, dtype));
	mix_free(&k, dev);
	free(x.data), free(y.data);
	return n;
}

void moe_is_right(void **state)
{
	static const int shapes[][5] = { /* experts, chosen, rows, dim, ffn */
		{ 2, 1, 1, 32, 32 }, { 8, 2, 5, 64, 32 }, { 3, 3, 7, 37, 11 },
		{ 128, 8, 9, 32, 32 }, { 16, 4, 70, 33, 32 }, { 1, 1, 3, 64, 64 },
		{ 60, 4, 2, 96, 160 }, { 5, 1, 33, 1, 1 },
	};
	static const int types[] = { NVLLM_F32, NVLLM_BF16, NVLLM_F16, NVLLM_Q4_0, NVLLM_Q4_1,
		NVLLM_Q8_0, NVLLM_Q5_0, NVLLM_IQ4_NL, NVLLM_MXFP4 };
	struct dev dev;
	int rows = 0, checked = 0;

	for (int isa = FIRST; isa < N_ISA; isa++)
		for (int act = F32; act <= Q12; act++) {
			if (!open_isa(&dev, 2, isa, act))
				continue;
			for (int i = 0; i < N(shapes) * N(types); i++) {
				if ((i + i / N(types) + act) % 3) /* a third of all, another each */
					continue;
				rows += shapes[i / N(types)][2];
				checked += one_mix(&dev, act, types[i % N(types)],
					shapes[i / N(types)]);
			}
			for (int i = 2; i < N_MORE; i += 3) { /* of 256 mostly */
				rows += 5;
				checked += one_mix(&dev, act, more_dtypes[(i + act) % N_MORE],
					shapes[1]);
			}
			close_dev(&dev);
		}
	assert_true(checked > rows - rows / 20);
}

/* ---- the same bits ---- */

static struct nvllm_tensor rows_of(struct nvllm_tensor t, int64_t row, int64_t n)
{
	t.data = at(t, row);
	t.rows = n;
	return t;
}

/* In cuts of up to `most` rows; backwards: the last row first. */
static void run_cut(struct dev *dev, const struct mix *k, struct nvllm_tensor y,
	struct nvllm_tensor x, int64_t most)
{
	for (int64_t row = 0, n; row < x.rows; row += n) {
		n = 1 + (int64_t)(bits() % (uint32_t)most);
		n = n < x.rows - row ? n : x.rows - row;
		run(dev, k, rows_of(y, row, n), rows_of(x, row, n));
	}
}

static void check_same(int isa, int act, int dtype, int64_t experts, int n_top, int64_t T)
{
	const int64_t block = nvllm_dtype_block(dtype, NULL), dim = block > 1 ? 2 * block : 45;
	const int64_t ffn = block > 1 ? block : 23;
	struct nvllm_tensor x = matrix(T, dim, 1), y = matrix(T, dim, 0), z = matrix(T, dim, 4);
	struct nvllm_tensor back = matrix(T, dim, 0);
	const uint64_t start = seed;

	for (int64_t i = 0; i < T; i++)
		memcpy(at(back, i), at(x, T - 1 - i), (size_t)dim * 4);
	for (int threads = 1; threads <= 3; threads++) {
		static const int cuts[] = { 1, 2, 9, 70 };
		struct dev dev;
		struct mix k;

		assert_true(open_isa(&dev, threads, isa, act));
		seed = start; /* the same weights */
		mix_make(&k, &dev, NVLLM_F32, dtype, experts, dim, ffn);
		k.m.n_top = n_top, k.m.norm_topk = n_top & 1;
		if (threads == 1)
			run(&dev, &k, y, x);
		for (int i = 0; i < N(cuts); i++) {
			run_cut(&dev, &k, z, x, cuts[i]);
			for (int64_t t = 0; t < T; t++)
				assert_memory_equal(at(z, t), at(y, t), dim * 4);
		}
		run(&dev, &k, z, back);
		for (int64_t t = 0; t < T; t++)
			assert_memory_equal(at(z, t), at(y, T - 1 - t), dim * 4);
		mix_free(&k, &dev);
		close_dev(&dev);
	}
	free(x.data), free(y.data), free(z.data), free(back.data);
}

void moe_gives_the_same_bits(void **state)
{
	static const int types[] = { NVLLM_F32, NVLLM_BF16, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q5_1,
		NVLLM_Q4_K };
	static const int rows[] = { 2, 17, 70 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 1, isa, AUTO))
			continue;
		close_dev(&dev);
		for (int i = 0; i < N(types) * N(rows); i++)
			check_same(isa, F32 + i % 4, types[i % N(types)], i % 2 ? 8 : 31, 1 + i % 5,
				rows[i / N(types)]);
	}
}

/* ---- odd rows, ties, refusals ---- */

/* What a NaN or an infinity does stays in its row, and the place it goes to exists. */
void moe_meets_odd_rows(void **state)
{
	static const float odd[] = { NAN, INFINITY, -INFINITY, 3e38f, 1e-40f, 0 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++)
		for (int i = 0; i < 2 * N(odd) && open_isa(&dev, 2, isa, F32 + 2 * (i % 2)); i++) {
			struct nvllm_tensor x = matrix(6, 64, 0), y = matrix(6, 64, 1);
			struct nvllm_tensor z = matrix(6, 64, 0);
			struct mix k;

			mix_make(&k, &dev, NVLLM_F32, NVLLM_Q8_0, 9, 64, 32);
			k.m.n_top = 9 - i % 3, k.m.norm_topk = 1;
			run(&dev, &k, z, x);
			for (int c = i & 4 ? 0 : 63; c < 64; c++)
				at(x, 3)[c] = odd[i / 2];
			run(&dev, &k, y, x);
			for (int t = 0; t < 6; t++)
				if (t != 3)
					assert_memory_equal(at(y, t), at(z, t), 64 * 4);
			assert_true(isnan(at(y, 3)[0]) || isfinite(odd[i / 2]));
			mix_free(&k, &dev);
			free(x.data), free(y.data), free(z.data);
			close_dev(&dev);
		}
}

/* Experts that the router cannot tell apart: the lower numbers are taken. */
void moe_breaks_ties_low(void **state)
{
	enum { E = 7, DIM = 24, FFN = 9 };
	static const int same_as[][E] = { { 0, 0, 0, 0, 0, 0, 0 }, { 0, 1, 2, 1, 0, 2, 1 },
		{ 0, 1, 2, 3, 3, 3, 3 } };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++)
		for (int i = 0; i < N(same_as) * E && open_isa(&dev, 1, isa, AUTO); i++) {
			struct nvllm_tensor x = matrix(8, DIM, 0), y = matrix(8, DIM, 0);
			struct mix k;

			mix_make(&k, &dev, NVLLM_F32, NVLLM_F32, E, DIM, FFN);
			k.m.n_top = 1 + i % E;
			for (int e = 0; e < E; e++) {
				const int from = same_as[i / E][e];

				float row[DIM];

				memmove(k.router.value + e * DIM, k.router.value + from * DIM,
					DIM * sizeof(double));
				for (int d = 0; d < DIM; d++)
					row[d] = (float)k.router.value[e * DIM + d];
				assert_int_equal(vt->upload(dev.d, &k.router.t, 0, e, 1, row, NVLLM_F32,
					sizeof(row)), 0);
			}
			run(&dev, &k, y, x);
			assert_int_equal(check_values(&k, y, x, 0), 8);
			mix_free(&k, &dev);
			free(x.data), free(y.data);
			close_dev(&dev);
		}
}

static void none_of_it(struct dev *dev)
{
	struct nvllm_tensor x = matrix(3, 64, 0), y = matrix(3, 64, 2), none = { .rows = 0 };
	struct nvllm_moe m = { .size = sizeof(m), .n_top = 2, .router = { .rows = 4, .cols = 64,
		.stride = 256, .planes = 1, .data = x.data },
		.gate_up = { .cols = 64, .planes = 4 }, .down = { .rows = 64, .planes = 4 } };

	poison(y);
	assert_int_equal(vt->kernels->moe(dev->d, NULL, y, x, &m, none), 0);
	for (int i = 0; i < 3 * 64; i++)
		assert_true(at(y, i / 64)[i % 64] == 0);
	check_gaps(y);
	free(x.data), free(y.data);
}

void moe_refuses(void **state)
{
	struct nvllm_tensor x = matrix(3, 64, 0), y = matrix(3, 64, 0), scratch, t;
	struct dev dev;
	struct mix k;

	assert_int_equal(open_dev(&dev, 1, AUTO, AUTO), 0);
	none_of_it(&dev); /* before anything was stored */
	mix_make(&k, &dev, NVLLM_F32, NVLLM_Q8_0, 4, 64, 32);
	k.m.n_top = 2;
	scratch = scratch_for(3, &k.m);
#define MOE(word) do { said[0] = 0; \
	assert_true(vt->kernels->moe(dev.d, NULL, y, x, &k.m, scratch) < 0); \
	assert_non_null(strstr(said, word)); } while (0)
#define WITH(member, value, word) do { __typeof__(member) old = member; member = value; \
	MOE(word); member = old; } while (0)
	WITH(k.m.n_top, 5, "chosen");
	WITH(k.m.n_top, 0, "chosen");
	WITH(k.m.act, 4, "activation");
	WITH(k.m.act, -1, "activation");
	WITH(k.m.router.cols, 32, "shapes");
	WITH(k.m.router.rows, 5, "shapes");
	WITH(k.m.gate_up.planes, 3, "shapes");
	WITH(k.m.gate_up.rows, 63, "shapes");
	WITH(k.m.gate_up.plane_stride, 64, "shapes");
	WITH(k.m.down.cols, 64, "shapes");
	WITH(k.m.down.rows, 32, "shapes");
	WITH(k.m.down.planes, 0, "shapes");
	WITH(k.m.down.layout, 1, "layout");
	WITH(k.m.gate_up.data, NULL, "no weights");
	WITH(k.m.down.data, NULL, "no weights");
	WITH(k.m.router.data, NULL, "lies at");
	WITH(scratch.cols, scratch.cols - 1, "scratch");
	WITH(scratch.data, NULL, "scratch");
	WITH(scratch.dtype, NVLLM_F16, "scratch");
	WITH(y.rows, 2, "shapes");
	WITH(x.dtype, NVLLM_BF16, "f32");
#undef WITH
#undef MOE
	t = x, t.rows = 0, t.data = NULL;
	assert_int_equal(vt->kernels->moe(dev.d, NULL, t, t, &k.m, scratch), 0);
	assert_int_equal(vt->kernels->moe(dev.d, NULL, y, x, &k.m, scratch), 0);
	scratch_free(scratch);
	mix_free(&k, &dev);
	close_dev(&dev);
	free(x.data), free(y.data);
}
