/* SPDX-License-Identifier: MIT */
/* tests/emu/test_moe_formula.cc - the mixture of experts of backends/cuda/moe*.cu against its formula
 * (struct nvllm_moe) in double, which knows nothing of how they work: mixed types, odd shapes, strides and
 * starts, what must be refused. */
#include "mat.h"

#include <algorithm>
#include <vector>

static struct nvllm_device *dev;
static struct rnd rnd;

struct how {
	int64_t T, dim, ffn;
	int experts, n_top, norm, act, xd, wd, rd; /* types of x, of the experts, of the router */
	int odd;
	bool ties; /* the router knows no difference */
};

/* As store() keeps weights: rows begin at multiples of 16 bytes. */
static struct mat weight(int dtype, int64_t planes, int64_t rows, int64_t cols, double std)
{
	struct mat m = mat_strided(dtype, planes * rows, cols, (row_size(dtype, cols) + 15) / 16 * 16, 0);

	mat_fill(&m, &rnd, std);
	m.t.rows = rows, m.t.planes = (int32_t)planes, m.t.plane_stride = planes > 1 ? rows * m.t.stride : 0;
	return m;
}

/* All of a weight as doubles, [planes * rows][cols]. */
static std::vector<double> numbers(struct mat *m)
{
	int64_t rows = m->t.rows * m->t.planes;
	std::vector<double> v((size_t)(rows * m->t.cols));

	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < m->t.cols; c++)
			v[(size_t)(r * m->t.cols + c)] = mat_num(m, r, c);
	return v;
}

static double dot(const double *a, const double *b, int64_t n)
{
	double s = 0;

	for (int64_t i = 0; i < n; i++)
		s += a[i] * b[i];
	return s;
}

static double act_of(double x, int act)
{
	return act == NVLLM_SILU ? x / (1 + exp(-x)) : act == NVLLM_GELU_TANH ?
		x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) :
		act == NVLLM_GELU ? x / 2 * (1 + erf(x / sqrt(2))) : x > 0 ? x : 0;
}

/* The experts of a row, likeliest first; p: their probabilities. False: too close to call in f32. */
static bool chosen(const struct how *s, const double *x, const std::vector<double> &router, std::vector<int> *ids, std::vector<double> *p)
{
	double most = -INFINITY, sum = 0;

	ids->resize((size_t)s->experts), p->resize((size_t)s->experts);
	for (int e = 0; e < s->experts; e++) {
		(*ids)[(size_t)e] = e;
		(*p)[(size_t)e] = dot(x, &router[(size_t)(e * s->dim)], s->dim);
		most = std::max(most, (*p)[(size_t)e]);
	}
	for (double &v : *p)
		v = exp(v - most), sum += v;
	for (double &v : *p)
		v /= sum;
	std::stable_sort(ids->begin(), ids->end(), [p](int a, int b) { return (*p)[(size_t)a] > (*p)[(size_t)b]; });
	for (int k = 0; k < s->n_top && k + 1 < s->experts && !s->ties; k++)
		if ((*p)[(size_t)(*ids)[(size_t)k]] < (*p)[(size_t)(*ids)[(size_t)k + 1]] * 1.0005)
			return false;
	return true;
}

static void fill_row(struct mat *x, int64_t r, std::vector<double> *row)
{
	row->resize((size_t)x->t.cols);
	for (int64_t c = 0; c < x->t.cols; c++) {
		mat_set(x, r, c, rnd_normal(&rnd));
		(*row)[(size_t)c] = mat_get(x, r, c);
	}
}

static void row_of_moe(const struct how *s, const double *x, const std::vector<int> &ids, const std::vector<double> &p,
	const std::vector<double> &gu, const std::vector<double> &down, double *want)
{
	std::vector<double> h((size_t)s->ffn);
	double total = 0;

	for (int k = 0; k < s->n_top; k++)
		total += p[(size_t)ids[(size_t)k]];
	std::fill(want, want + s->dim, 0.0);
	for (int k = 0; k < s->n_top; k++) {
		int64_t e = ids[(size_t)k];
		const double *g = &gu[(size_t)(e * 2 * s->ffn * s->dim)], *d = &down[(size_t)(e * s->dim * s->ffn)];
		double w = p[(size_t)e] / (s->norm ? total : 1);

		for (int64_t i = 0; i < s->ffn; i++)
			h[(size_t)i] = act_of(dot(x, g + i * s->dim, s->dim), s->act) * dot(x, g + (s->ffn + i) * s->dim, s->dim);
		for (int64_t i = 0; i < s->dim; i++)
			want[i] += w * dot(h.data(), d + i * s->ffn, s->ffn);
	}
}

static void say(const struct how *s, bool ok, double error, double most)
{
	static const char *const names[64] = { "f32", "f16", "bf16" };

	CHECK(ok && error <= most, "moe of %d rows of %d (%s), width %d, %d of %d experts (type %d; router type %d), act %d%s%s: %.2g <= %.2g %s",
		(int)s->T, (int)s->dim, names[s->xd], (int)s->ffn, s->n_top, s->experts, s->wd, s->rd, s->act, s->norm ? ", normed" : "",
		s->ties ? ", ties" : "", error, most, check_said());
}

static void once(struct how s)
{
	struct mat router = weight(s.rd, 1, s.experts, s.dim, 1.5 / sqrt((double)s.dim)), x = mat_new(s.xd, s.T, s.dim, s.odd == 1 ? 8 : s.odd == 2 ? 3 : 0, s.odd == 3);
	struct mat gu = weight(s.wd, s.experts, 2 * s.ffn, s.dim, 1 / sqrt((double)s.dim)), down = weight(s.wd, s.experts, s.dim, s.ffn, 1 / sqrt((double)s.ffn));
	struct mat y = mat_new(NVLLM_F32, s.T, s.dim, s.odd == 2 ? 5 : 0, s.odd == 1), scratch, again;
	std::vector<double> want((size_t)(s.T * s.dim)), row, p, r, g = numbers(&gu), d = numbers(&down);
	std::vector<int> ids;
	struct nvllm_moe m = {};
	double worst = 0, all = 0, most;
	bool ok;

	if (s.ties)
		for (int64_t i = 0; i < s.experts * s.dim; i++)
			mat_set(&router, i / s.dim, i % s.dim, 0);
	r = numbers(&router);
	for (int64_t t = 0; t < s.T; t++) {
		do {
			fill_row(&x, t, &row);
		} while (!chosen(&s, row.data(), r, &ids, &p));
		row_of_moe(&s, row.data(), ids, p, g, d, &want[(size_t)(t * s.dim)]);
	}
	m.size = sizeof(m), m.n_top = s.n_top, m.norm_topk = s.norm, m.act = s.act, m.router = router.t, m.gate_up = gu.t, m.down = down.t;
	scratch = mat_new(NVLLM_F32, 1, nvllm_moe_scratch(s.T, &m), 0, s.odd);
	ok = cu_moe(dev, NULL, y.t, x.t, &m, scratch.t) == 0 && mat_gaps_ok(&y) && mat_gaps_ok(&scratch);
	for (int64_t t = 0; t < s.T; t++) {
		double e = norm_ratio((const float *)mat_row(&y, t), &want[(size_t)(t * s.dim)], s.dim);

		worst = e <= worst ? worst : e;
		all += e * e / (double)s.T;
	}
	again = mat_new(NVLLM_F32, s.T, s.dim, s.odd == 2 ? 5 : 0, s.odd == 1);
	ok = ok && cu_moe(dev, NULL, again.t, x.t, &m, scratch.t) == 0 && !memcmp(again.mem, y.mem, (size_t)y.bytes);
	/* many rows of bf16 are multiplied as bf16: blocks and what is between the products are rounded to it */
	most = s.xd == NVLLM_BF16 && s.T > 8 && s.wd != NVLLM_F32 ? 8e-3 : 2e-5;
	say(&s, ok && worst <= 4 * most, sqrt(all), most); /* a row's result may be a small difference */
	mat_free(&router), mat_free(&x), mat_free(&gu), mat_free(&down), mat_free(&y), mat_free(&scratch), mat_free(&again);
}

static void refusals(void)
{
	struct mat x = mat_new(NVLLM_F32, 2, 64), y = mat_new(NVLLM_F32, 2, 64), small = mat_new(NVLLM_F32, 1, 10);
	struct mat router = weight(NVLLM_F32, 1, 4, 64, 1), gu = weight(NVLLM_F32, 4, 32, 64, 1), down = weight(NVLLM_F32, 4, 64, 16, 1);
	struct nvllm_moe m = {};
	bool zero = true;

	mat_fill(&x, &rnd, 1);
	m.size = sizeof(m), m.n_top = 2, m.router = router.t, m.gate_up = gu.t, m.down = down.t;
	CHECK(cu_moe(dev, NULL, y.t, x.t, &m, small.t) == NVLLM_EINVAL && *check_said(), "moe refuses a scratch that is too small");
	m.n_top = 5;
	CHECK(cu_moe(dev, NULL, y.t, x.t, &m, small.t) < 0 && *check_said(), "moe refuses to choose 5 of 4");
	m.n_top = 2, m.down.rows = 63;
	CHECK(cu_moe(dev, NULL, y.t, x.t, &m, small.t) == NVLLM_EINVAL && *check_said(), "moe refuses shapes that do not fit");
	m.down.rows = 64, m.down.cols = 0, m.gate_up.rows = 0, m.down.data = m.gate_up.data = NULL;
	CHECK(cu_moe(dev, NULL, y.t, x.t, &m, small.t) == 0, "a rank without experts %s", check_said());
	for (int i = 0; i < 128; i++)
		zero = zero && mat_get(&y, i / 64, i % 64) == 0;
	CHECK(zero && mat_gaps_ok(&y), "a rank without experts writes zeros");
	mat_free(&x), mat_free(&y), mat_free(&small), mat_free(&router), mat_free(&gu), mat_free(&down);
}

/* An argument: another seed. */
int main(int argc, char **argv)
{
	enum { F = NVLLM_F32, B = NVLLM_BF16, S = NVLLM_SILU };

	emu_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 1);
	dev = check_device(NVLLM_BF16);
	rnd = rnd_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 11);
	/* few rows: row by row */
	for (int64_t T : { 1, 2, 7, 8 }) {
		once({ T, 64, 32, 8, 2, 1, S, F, F, F, 0, false });
		once({ T, 61, 19, 5, 3, 0, NVLLM_GELU_TANH, F, F, F, 2, false });
		once({ T, 96, 24, 16, 4, 1, S, B, B, B, 1, false });
		once({ T, 130, 70, 64, 8, 1, S, B, B, F, 3, false });
		once({ T, 256, 256, 4, 2, 0, NVLLM_GELU, B, T % 2 ? NVLLM_Q4_K : NVLLM_Q6_K, F, 0, false });
		once({ T, 64, 96, 4, 4, 1, NVLLM_RELU, F, NVLLM_Q4_0, NVLLM_Q8_0, 0, false });
		once({ T, 528, 80, 5, 2, 1, S, T % 2 ? B : F, NVLLM_F8_E4M3, T % 2 ? B : F, 0, false });
	}
	once({ 1, 16, 1, 1, 1, 1, S, F, F, F, 0, false });
	once({ 8, 40, 3, 300, 8, 1, S, F, F, F, 1, false });
	once({ 3, 1040, 264, 3, 2, 1, S, B, B, B, 0, false });
	/* many: tiles in f32 */
	for (int64_t T : { 9, 33, 70 }) {
		once({ T, 64, 32, 8, 2, 1, S, F, F, F, 0, false });
		once({ T, 61, 19, 5, 3, 0, NVLLM_GELU, F, B, F, 2, false });
		once({ T, 64, 32, 3, 1, 1, S, F, NVLLM_Q4_1, B, 1, false });
		once({ T, 68, 20, 7, 2, 1, S, B, B, B, 2, false }); /* bf16 that the matrix units cannot have */
	}
	/* many rows of bf16: matrix units, tiles of 16, 64, 128 */
	for (int64_t T : { 9, 15, 16, 17, 64, 200 }) {
		once({ T, 64, 64, 8, 2, 1, S, B, B, F, 0, false });
		once({ T, 72, 40, 3, 2, 0, NVLLM_GELU_TANH, B, B, B, 1, false });
	}
	once({ 70, 136, 72, 16, 8, 1, S, B, B, F, 0, false });
	once({ 31, 256, 256, 4, 2, 1, S, B, NVLLM_Q4_K, F, 0, false });
	once({ 40, 256, 256, 2, 1, 1, S, B, NVLLM_Q6_K, B, 0, false });
	once({ 33, 96, 64, 4, 2, 1, S, B, NVLLM_Q4_0, F, 0, false });
	once({ 130, 64, 32, 4, 3, 1, S, B, NVLLM_Q8_0, F, 0, false });
	once({ 20, 64, 32, 64, 2, 1, S, B, NVLLM_Q4_1, F, 0, false });
	once({ 20, 80, 48, 64, 2, 1, S, B, NVLLM_F8_E4M3, B, 0, false });
	once({ 1100, 48, 16, 16, 2, 1, S, B, B, B, 0, false });
	/* all probabilities alike: the lowest numbers, in order */
	once({ 2, 64, 32, 8, 3, 1, S, F, F, F, 0, true });
	once({ 150, 64, 32, 9, 2, 0, S, B, B, F, 0, true });
	once({ 90, 64, 32, 2, 2, 1, S, F, F, F, 0, true });
	refusals();
	return check_done();
}
