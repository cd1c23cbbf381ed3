/* SPDX-License-Identifier: MIT */
/* test_skinny.cc - products of few rows against sums in double: every type of weight, both kinds of activations,
 * rows 1 to 16, norms, bias, activations, adding, odd shapes, strides and addresses, x in panels. */
#include "mat.h"
#include "../../backends/cuda/skinny.cu"
#include "../../backends/cuda/skinny_plain.cu"

static struct rnd rnd = rnd_seed(7);

struct test {
	int w_type, x_type, y_type;
	int m, n, k;
	int norm;           /* 0, 1 = RMS, 2 = layer with bias, 3 = RMS with offset */
	int bias, add, act; /* act -1: none */
	int w_pad, w_skip, x_pad, x_skip;
};

static double silu_like(double x, int act)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU_TANH: return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
	case NVLLM_GELU: return 0.5 * x * (1 + erf(x * M_SQRT1_2));
	default: return x < 0 ? 0 : x;
	}
}

/* x as the product sees it: normalised, and rounded where weights are no f32 and activations are bf16. */
static void seen_x(double *out, const struct test *t, const struct mat *x, int row, const float *nw, const float *nb,
	const struct nvllm_norm *norm, bool round)
{
	double mean = 0, var = 0;

	for (int k = 0; k < t->k; k++)
		mean += mat_get(x, row, k) / t->k;
	mean = t->norm == 2 ? mean : 0;
	for (int k = 0; k < t->k; k++)
		var += (mat_get(x, row, k) - mean) * (mat_get(x, row, k) - mean) / t->k;
	for (int k = 0; k < t->k; k++) {
		double v = mat_get(x, row, k);

		if (t->norm)
			v = (v - mean) / sqrt(var + norm->eps) * (norm->offset + (double)nw[k]) + (t->norm == 2 ? (double)nb[k] : 0);
		out[k] = round ? (double)to_f32(from_f32<bf16>((float)v)) : v;
	}
}

static void run_test(struct nvllm_device *dev, const struct test *t)
{
	const int parts = t->act >= 0 ? 2 : 1, w_rows = t->n * parts;
	struct mat w = mat_new(t->w_type, w_rows, t->k, t->w_pad, t->w_skip), x = mat_new(t->x_type, t->m, t->k, t->x_pad, t->x_skip);
	struct mat y = mat_new(t->y_type, t->m, t->n, 3), bias = mat_new(NVLLM_F32, 1, w_rows);
	struct mat nw = mat_new(NVLLM_F32, 1, t->k), nb = mat_new(NVLLM_F32, 1, t->k);
	struct nvllm_norm norm = { sizeof(norm), t->norm == 2 ? NVLLM_LAYER_NORM : NVLLM_RMS_NORM, 1e-5, t->norm == 3 ? 1. : 0., nw.t, nb.t };
	const bool round = t->w_type != NVLLM_F32 && dev->act == NVLLM_BF16;
	double *want = (double *)malloc(sizeof(double) * (size_t)(t->m * t->n)), *size = (double *)malloc(sizeof(double) * (size_t)(t->m * t->n));
	double *xs = (double *)malloc(sizeof(double) * (size_t)(t->k + 1));
	int64_t bad = 0;

	if (t->norm != 2)
		norm.b = {};
	mat_fill(&w, &rnd, 0.3), mat_fill(&x, &rnd, 1), mat_fill(&bias, &rnd, 1), mat_fill(&nw, &rnd, 1), mat_fill(&nb, &rnd, 0.5);
	if (t->add)
		mat_fill(&y, &rnd, 1);
	for (int i = 0; i < t->m; i++) {
		seen_x(xs, t, &x, i, (float *)nw.t.data, (float *)nb.t.data, &norm, round);
		for (int j = 0; j < t->n; j++) {
			double s[2] = { 0, 0 }, big[2] = { 0, 0 }, v;

			for (int p = 0; p < parts; p++) {
				for (int k = 0; k < t->k; k++) {
					const double e = xs[k] * mat_num(&w, p * t->n + j, k);

					s[p] += e, big[p] += fabs(e);
				}
				s[p] += t->bias ? mat_get(&bias, 0, p * t->n + j) : 0;
			}
			v = t->act >= 0 ? silu_like(s[0], t->act) * s[1] : s[0];
			size[i * t->n + j] = t->act >= 0 ? big[0] * (fabs(s[1]) + 1) + big[1] * (fabs(s[0]) + 1) : big[0];
			want[i * t->n + j] = v + (t->add ? mat_get(&y, i, j) : 0);
		}
	}
	CHECK_EQ(skinny(dev, NULL, y.t, x.t, t->norm ? &norm : NULL, w.t, t->bias ? &bias.t : NULL, t->add ? NVLLM_LINEAR_ADD : 0,
		t->act), 0, "a call");
	for (int i = 0; i < t->m; i++)
		for (int j = 0; j < t->n; j++) {
			const double got = mat_get(&y, i, j), v = want[i * t->n + j];
			/* sums of f32, and a rounded x that fell to the other side after a norm */
			const double tol = size[i * t->n + j] * (2e-6 + (round && t->norm ? 4e-4 : 0)) + 1e-5 +
				(t->y_type == NVLLM_BF16 ? fabs(v) * 0x1.02p-8 : fabs(v) * 1e-6);

			bad += !(fabs(got - v) <= tol);
		}
	CHECK_EQ(bad, 0, "w %d x %d y %d act %d: %d rows, [%d][%d], norm %d bias %d add %d glu %d pad %d skip %d", t->w_type, t->x_type,
		t->y_type, dev->act, t->m, t->n, t->k, t->norm, t->bias, t->add, t->act, t->w_pad, t->w_skip);
	CHECK(mat_gaps_ok(&y), "nothing else is written");
	mat_free(&w), mat_free(&x), mat_free(&y), mat_free(&bias), mat_free(&nw), mat_free(&nb);
	free(want), free(size), free(xs);
}

/* All the types, each with a mixture of everything. */
static void mixtures(struct nvllm_device *dev)
{
	static const int types[] = { NVLLM_F32, NVLLM_BF16, NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_F8_E4M3 };
	static const int ns[] = { 1, 7, 130, 24, 33, 8 };

	for (int type : types) {
		const int block = (int)nvllm_dtype_block(type, NULL), act = dev->act;

		for (int m = 1; m <= 16; m += m < 9 ? 1 : 3) {
			const int k = block == 256 ? 256 * (1 + m % 3) : block == 32 ? 32 * (1 + 5 * (m % 4)) : 64 * (1 + m % 5) + (m % 2) * (type == NVLLM_F8_E4M3 ? 16 : 8);
			struct test t = { type, m % 2 ? act : NVLLM_F32, m % 3 ? act : NVLLM_F32, m, ns[m % 6], k, m % 4, m % 3 == 1, m % 5 == 2,
				m % 2 ? -1 : m / 2 % 4, 0, 0, 0, 0 };

			run_test(dev, &t);
		}
	}
}

/* Shapes that no kernel likes. */
static void oddities(struct nvllm_device *dev)
{
	const int a = dev->act;
	const struct test tests[] = {
		{ NVLLM_F32, a, NVLLM_F32, 3, 7, 19, 1, 1, 0, -1, 0, 0, 0, 0 },
		{ NVLLM_F32, NVLLM_F32, a, 5, 9, 33, 2, 1, 0, 0, 0, 1, 1, 1 },
		{ NVLLM_F32, NVLLM_F32, NVLLM_F32, 1, 5, 1, 0, 0, 1, -1, 3, 0, 0, 0 },
		{ NVLLM_BF16, a, NVLLM_F32, 2, 1, 19, 1, 0, 0, -1, 0, 0, 0, 1 },
		{ NVLLM_BF16, a, a, 8, 130, 33, 0, 0, 1, -1, 1, 1, 0, 0 },
		{ NVLLM_BF16, a, NVLLM_F32, 4, 17, 64, 3, 0, 0, 1, 5, 0, 2, 1 },   /* rows of w not aligned */
		{ NVLLM_BF16, a, a, 1, 40, 72, 0, 0, 0, -1, 8, 8, 3, 3 },          /* w is, x is not */
		{ NVLLM_BF16, a, NVLLM_F32, 6, 20, 8, 1, 0, 0, -1, 0, 0, 0, 0 },
		{ NVLLM_Q4_0, a, a, 3, 11, 288, 1, 0, 0, -1, 3, 0, 0, 0 },         /* rows of blocks at any even address */
		{ NVLLM_Q4_1, a, a, 2, 19, 576, 0, 1, 1, -1, 1, 0, 0, 0 },
		{ NVLLM_Q8_0, a, NVLLM_F32, 8, 9, 544, 0, 0, 0, 0, 5, 0, 0, 1 },
		{ NVLLM_Q6_K, a, NVLLM_F32, 1, 21, 768, 1, 0, 0, 0, 1, 0, 0, 0 },
		{ NVLLM_Q6_K, a, NVLLM_F32, 1, 3, 256, 0, 0, 0, -1, 0, 1, 0, 0 },  /* its start not aligned */
		{ NVLLM_BF16, a, a, 13, 70, 200, 1, 0, 0, NVLLM_SILU, 0, 0, 0, 0 },
		{ NVLLM_BF16, a, NVLLM_F32, 11, 19, 75, 0, 1, 1, -1, 0, 0, 0, 0 },
		{ NVLLM_Q4_K, a, NVLLM_F32, 7, 10, 512, 0, 0, 0, -1, 1, 1, 0, 0 },
		{ NVLLM_F8_E4M3, a, a, 3, 11, 272, 1, 0, 0, -1, 3, 1, 0, 0 },      /* rows 48 bytes apart */
		{ NVLLM_F8_E4M3, a, NVLLM_F32, 1, 1, 16, 0, 1, 1, -1, 0, 0, 0, 1 },
		{ NVLLM_F8_E4M3, NVLLM_F32, a, 14, 37, 112, 2, 0, 0, NVLLM_SILU, 0, 0, 1, 1 },
	};

	for (const struct test &t : tests)
		run_test(dev, &t);
}

/* The shapes of a small model, which use other plans: teams of 1 to 16 warps, several rounds, panels. */
static void plans(struct nvllm_device *dev)
{
	static const int n_sms[] = { 1, 3, 40, 200 };
	const int cc = dev->cc, a = dev->act;

	for (int sms : n_sms) {
		const struct test t = { NVLLM_BF16, a, NVLLM_F32, 2, 300, 520, sms % 2, 0, 1, -1, 0, 0, 0, 0 };
		const struct test g = { NVLLM_BF16, NVLLM_F32, a, 3, 100, 520, 1, 0, 0, NVLLM_SILU, 0, 0, 0, 0 };
		const struct test q = { NVLLM_Q4_0, a, a, 5, 150, 1056, 0, 0, 0, -1, 0, 0, 0, 0 };
		const struct test f = { NVLLM_F8_E4M3, a, a, 4, 150, 1040, 1, 1, 1, -1, 0, 0, 0, 0 };
		const struct test u = { NVLLM_F8_E4M3, a, a, 10, 90, 528, 1, 1, 0, NVLLM_SILU, 0, 0, 0, 0 };

		/* units of 16 rows with a rest; all the rows of x, and one after eight */
		const struct test e = { NVLLM_F8_E4M3, a, a, 16, 300, 784, 0, 0, 1, -1, 1, 0, 0, 0 };
		const struct test h = { NVLLM_F8_E4M3, a, NVLLM_F32, 8, 61, 2064, 1, 1, 0, NVLLM_GELU, 0, 0, 0, 0 };
		const struct test n = { NVLLM_F8_E4M3, NVLLM_F32, a, 9, 17, 400, 3, 0, 0, NVLLM_SILU, 2, 0, 0, 0 };

		dev->n_sms = sms;
		run_test(dev, &e), run_test(dev, &h), run_test(dev, &n);
		run_test(dev, &t), run_test(dev, &g), run_test(dev, &q), run_test(dev, &f), run_test(dev, &u);
	}
	dev->cc = 89; /* less shared memory: panels of x */
	for (int m = 1; m <= 8; m += 7) {
		const struct test t = { NVLLM_BF16, a, NVLLM_F32, m, 30, 4096 * 3 / m + 8, m == 8 ? 2 : 0, 0, 1, -1, 0, 0, 0, 0 };
		const struct test g = { NVLLM_BF16, a, a, m, 40, 4096 * 5 / m, 1, 1, 0, NVLLM_GELU, 0, 0, 0, 0 };
		const struct test q = { NVLLM_Q8_0, a, NVLLM_F32, m, 24, 4096 * 4 / m, 3, 0, 0, -1, 0, 0, 0, 0 };
		const struct test f = { NVLLM_F8_E4M3, a, NVLLM_F32, m, 40, 4096 * 5 / m + 16, 1, 1, 1, NVLLM_SILU, 0, 0, 0, 0 };

		const struct test w = { NVLLM_F8_E4M3, a, a, m + 8, 45, 4096 * 2 / m + 48, 1, 0, 0, m == 8 ? NVLLM_SILU : -1, 0, 0, 0, 0 };

		dev->n_sms = m == 8 ? 2 : 1;
		run_test(dev, &t), run_test(dev, &g), run_test(dev, &f), run_test(dev, &w);
		if (m == 8)
			run_test(dev, &q);
	}
	dev->cc = cc;
}

/* The same call gives the same bits, in whatever order its threads run. */
static void repeats(struct nvllm_device *dev, int type)
{
	struct mat w = mat_new(type, 100, 512), x = mat_new(NVLLM_BF16, 3, 512), y = mat_new(NVLLM_F32, 3, 100), z = mat_new(NVLLM_F32, 3, 100);

	mat_fill(&w, &rnd, 0.3), mat_fill(&x, &rnd, 1);
	dev->n_sms = 7;
	for (int i = 0; i < 3; i++) {
		emu_set_order(i % 2 ? EMU_UP : EMU_RANDOM);
		emu_seed((uint64_t)i + 10);
		CHECK_EQ(skinny(dev, NULL, i ? z.t : y.t, x.t, NULL, w.t, NULL, 0, -1), 0, "run %d", i);
		if (i)
			CHECK(!memcmp(y.t.data, z.t.data, 1200), "the same bits");
	}
	emu_set_order(EMU_RANDOM);
	mat_free(&w), mat_free(&x), mat_free(&y), mat_free(&z);
}

/* Each of the 254 numbers alone, exactly; and the scale of a row that was no number makes its product none. */
static void each_e4m3(struct nvllm_device *dev)
{
	struct mat w = mat_new(NVLLM_F8_E4M3, 256, 16), x = mat_new(dev->act, 1, 16), y = mat_new(NVLLM_F32, 1, 256);
	int64_t bad = 0;

	for (int r = 0; r < 256; r++) {
		float *head = (float *)mat_row(&w, r);

		memset(head, 0, 32);
		head[0] = 0x1p-20f;
		((uint8_t *)head)[FP8_HEAD + r % 16] = (uint8_t)(r & 0x7f) == 0x7f ? 0 : (uint8_t)r;
		if (r == 0x7f)
			head[0] = NAN;
	}
	for (int c = 0; c < 16; c++)
		mat_set(&x, 0, c, c + 1);
	CHECK_EQ(skinny(dev, NULL, y.t, x.t, NULL, w.t, NULL, 0, -1), 0, "each number");
	for (int r = 0; r < 256; r++) {
		const double got = mat_get(&y, 0, r), want = (r & 0x7f) == 0x7f ? 0 : 0x1p-20 * e4m3_num((uint8_t)r) * (r % 16 + 1);

		bad += r == 0x7f ? got == got : got != want;
	}
	CHECK_EQ(bad, 0, "every e4m3 is itself, act %d", dev->act);
	mat_free(&w), mat_free(&x), mat_free(&y);
}

static void refusals(struct nvllm_device *dev)
{
	struct mat w = mat_new(NVLLM_BF16, 16, 64), x = mat_new(NVLLM_BF16, 17, 64), y = mat_new(NVLLM_F32, 17, 16), v = mat_new(NVLLM_F32, 1, 9, 63);
	struct nvllm_tensor few = x.t, f16s = w.t;

	CHECK(skinny(dev, NULL, y.t, x.t, NULL, w.t, NULL, 0, -1) == NVLLM_EINVAL && *check_said(), "seventeen rows");
	few.rows = y.t.rows = 2;
	f16s.dtype = NVLLM_F16;
	CHECK(skinny(dev, NULL, y.t, few, NULL, f16s, NULL, 0, -1) == NVLLM_ENOTSUP && *check_said(), "weights of f16");
	CHECK(!skinny_has(dev, &f16s) && skinny_has(dev, &w.t), "skinny_has");
	CHECK(skinny(dev, NULL, y.t, few, NULL, w.t, &v.t, 0, -1) == NVLLM_EINVAL && *check_said(), "a bias of another length");
	CHECK(skinny(dev, NULL, y.t, few, NULL, w.t, NULL, 0, 0) == NVLLM_EINVAL && *check_said(), "y too wide for gate and up");
	f16s = w.t;
	f16s.dtype = NVLLM_F8_E4M3;
	CHECK(!skinny_has(dev, &f16s), "e4m3 without scales");
	f16s.layout = LAYOUT_FP8;
	CHECK(skinny_has(dev, &f16s), "e4m3 with scales");
	f16s.stride += 8;
	CHECK(!skinny_has(dev, &f16s), "e4m3, rows at multiples of 8");
	f16s.stride = 64;
	CHECK(!skinny_has(dev, &f16s), "e4m3, rows that overlap");
	y.t.rows = few.rows = 0;
	CHECK_EQ(skinny(dev, NULL, y.t, few, NULL, w.t, NULL, 0, -1), 0, "no rows");
	mat_free(&w), mat_free(&x), mat_free(&y), mat_free(&v);
}

int main(void)
{
	static const int acts[] = { NVLLM_BF16, NVLLM_F32 };

	for (int act : acts) {
		struct nvllm_device *dev = check_device(act);

		dev->n_sms = 3;
		CHECK_EQ(skinny_open(dev), 0, "open");
		mixtures(dev);
		oddities(dev);
		each_e4m3(dev);
		if (act == NVLLM_BF16)
			plans(dev), repeats(dev, NVLLM_BF16), repeats(dev, NVLLM_F8_E4M3), refusals(dev);
	}
	return check_done();
}
