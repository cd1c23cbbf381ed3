/* SPDX-License-Identifier: MIT */
/* tests/emu/test_moe.cc - the mixture of experts of backends/cuda/moe*.cu against its definition
 * (struct nvllm_moe) in double: every path (few rows, tiles of each size, f32 and bf16, blocks), sizes
 * that fill no tile, experts that nobody or everybody chooses, ties, rows that are no numbers. */
#include "mat.h"

#include <algorithm>
#include <vector>

static struct nvllm_device *dev;
static struct rnd rnd;

struct how {
	int T, E, n_top, dim, ffn;
	int x, router, gate_up, down; /* types */
	int act, norm;
	int to;                       /* -1, or the expert that all rows like best */
	int tie;                      /* experts e and e ^ 1 are equally likely */
	int nan_row;                  /* -1, or a row with a NaN */
};

static struct mat weight(int dtype, int64_t rows, int64_t cols, double std)
{
	const int64_t each = dtype == NVLLM_F32 ? 4 : 8;
	struct mat m = mat_new(dtype, rows, cols, nvllm_dtype_block(dtype, NULL) > 1 ? 0 : (each - cols % each) % each);

	mat_fill(&m, &rnd, std);
	return m;
}

static bool on_mma(const struct how *h)
{
	const bool g = h->gate_up != NVLLM_F32 && h->dim % 8 == 0, d = h->down != NVLLM_F32 && h->ffn % 8 == 0;

	return h->T > 8 && h->x == NVLLM_BF16 && g && d;
}

static double round_to(double x, bool bf) { return bf ? (double)to_f32(from_f32<bf16>((float)x)) : x; }

static double activation(double x, int act)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case NVLLM_GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
	default: return x < 0 ? 0 : x;
	}
}

struct model {
	struct mat x, router, gate_up, down;
};

/* The experts of a row, likeliest first, and their weights. */
static void choose(const struct how *h, const struct model *m, int t, std::vector<int> *ids, std::vector<double> *p)
{
	std::vector<double> l((size_t)h->E);
	double most = -INFINITY, sum = 0;

	for (int e = 0; e < h->E; e++) {
		double s = 0;

		for (int i = 0; i < h->dim; i++)
			s += mat_num(&m->x, t, i) * mat_num(&m->router, e, i);
		l[(size_t)e] = s, most = std::max(most, s);
	}
	ids->resize((size_t)h->E);
	for (int e = 0; e < h->E; e++)
		(*ids)[(size_t)e] = e, sum += exp(l[(size_t)e] - most);
	std::stable_sort(ids->begin(), ids->end(), [&l](int a, int b) { return l[(size_t)a] > l[(size_t)b]; });
	ids->resize((size_t)h->n_top);
	p->clear();
	for (int e : *ids)
		p->push_back(exp(l[(size_t)e] - most) / sum);
	if (h->norm) {
		sum = 0;
		for (double q : *p)
			sum += q;
		for (double &q : *p)
			q /= sum;
	}
}

static void want_row(const struct how *h, const struct model *m, int t, double *y)
{
	const bool mma = on_mma(h);
	std::vector<int> ids;
	std::vector<double> p, mid((size_t)h->ffn);

	choose(h, m, t, &ids, &p);
	for (int i = 0; i < h->dim; i++)
		y[i] = 0;
	for (int k = 0; k < h->n_top; k++) {
		const int64_t e = ids[(size_t)k];

		for (int f = 0; f < h->ffn; f++) {
			double g = 0, u = 0;

			for (int i = 0; i < h->dim; i++) {
				g += mat_num(&m->x, t, i) * round_to(mat_num(&m->gate_up, e * 2 * h->ffn + f, i), mma);
				u += mat_num(&m->x, t, i) * round_to(mat_num(&m->gate_up, e * 2 * h->ffn + h->ffn + f, i), mma);
			}
			mid[(size_t)f] = round_to(activation(g, h->act) * u, mma);
		}
		for (int i = 0; i < h->dim; i++) {
			double s = 0;

			for (int f = 0; f < h->ffn; f++)
				s += mid[(size_t)f] * round_to(mat_num(&m->down, e * h->dim + i, f), mma);
			y[i] += p[(size_t)k] * s;
		}
	}
}

static struct model make(const struct how *h)
{
	struct model m;

	m.x = mat_new(h->x, h->T, h->dim, h->T % 3 ? 8 : 0);
	mat_fill(&m.x, &rnd, 1);
	m.router = weight(h->router, h->E, h->dim, 2 / sqrt((double)h->dim));
	m.gate_up = weight(h->gate_up, (int64_t)h->E * 2 * h->ffn, h->dim, 1 / sqrt((double)h->dim));
	m.down = weight(h->down, (int64_t)h->E * h->dim, h->ffn, 1 / sqrt((double)h->ffn));
	for (int t = 0; t < h->T && h->to >= 0; t++)
		mat_set(&m.x, t, 0, 2);
	for (int e = 0; e < h->E && h->to >= 0; e++)
		mat_set(&m.router, e, 0, e == h->to ? 6 : 0);
	for (int e = 1; e < h->E && h->tie; e += 2)
		memcpy(mat_row(&m.router, e), mat_row(&m.router, e - 1), (size_t)m.router.t.cols * (size_t)elem_bytes(h->router));
	if (h->nan_row >= 0)
		mat_set(&m.x, h->nan_row, h->dim / 2, NAN);
	return m;
}

static struct nvllm_moe moe_of(const struct how *h, const struct model *m)
{
	struct nvllm_moe o = {};

	o.size = sizeof(o), o.n_top = h->n_top, o.norm_topk = h->norm, o.act = h->act;
	o.router = m->router.t, o.gate_up = m->gate_up.t, o.down = m->down.t;
	o.gate_up.rows = 2 * h->ffn, o.down.rows = h->dim;
	o.gate_up.planes = o.down.planes = h->E;
	o.gate_up.plane_stride = h->E > 1 ? o.gate_up.rows * o.gate_up.stride : 0;
	o.down.plane_stride = h->E > 1 ? o.down.rows * o.down.stride : 0;
	return o;
}

static struct nvllm_tensor scratch_of(const struct nvllm_moe *o, int T)
{
	struct nvllm_tensor s = {};

	s.rows = 1, s.cols = nvllm_moe_scratch(T, o), s.stride = s.cols * 4, s.planes = 1, s.dtype = NVLLM_F32;
	s.data = edges<float>(s.cols);
	return s;
}

static const char *type_of(int t)
{
	static const char *const blocks[] = { "q4_0", "q4_1", "", "", "q8_0" };

	return t == NVLLM_F32 ? "f32" : t == NVLLM_BF16 ? "bf16" : t == NVLLM_Q4_K ? "q4_k" : t == NVLLM_Q6_K ? "q6_k" :
		t == NVLLM_F8_E4M3 ? "e4m3" : blocks[t - NVLLM_Q4_0];
}

static void once(struct how h)
{
	struct model m = make(&h);
	struct nvllm_moe o = moe_of(&h, &m);
	struct nvllm_tensor s = scratch_of(&o, h.T);
	struct mat y = mat_new(NVLLM_F32, h.T, h.dim, h.T % 2 ? 3 : 0), again = mat_new(NVLLM_F32, h.T, h.dim);
	const int err = cu_moe(dev, NULL, y.t, m.x.t, &o, s);
	std::vector<double> want((size_t)h.dim);
	std::vector<int> rows;
	double d = 0, w = 0;
	bool nan = true, same = true;

	for (int t = 0; t < h.T; t++) /* of many, enough of them */
		if (h.T <= 40 || t < 4 || t >= h.T - 4 || t % (h.T / 16) == 0 || t == h.nan_row)
			rows.push_back(t);
	for (int t : rows) {
		if (t == h.nan_row) {
			for (int i = 0; i < h.dim; i++)
				nan &= mat_get(&y, t, i) != mat_get(&y, t, i);
			continue;
		}
		want_row(&h, &m, t, want.data());
		for (int i = 0; i < h.dim; i++) {
			double e = mat_get(&y, t, i) - want[(size_t)i];

			d += e * e, w += want[(size_t)i] * want[(size_t)i];
		}
	}
	for (int t = 0; t < h.T; t++)
		for (int i = 0; i < h.dim; i++)
			nan &= t == h.nan_row || mat_get(&y, t, i) == mat_get(&y, t, i);
	CHECK(!err && nan && mat_gaps_ok(&y) && mat_gaps_ok(&m.x) && edges_ok(s.data), "%d rows: all written, and nothing else %s", h.T, check_said());
	CHECK_LE(sqrt(d / w), on_mma(&h) ? 1e-3 : 1e-5, "%d rows to %d of %d experts, [%d][%d], x %s, router %s, gate and up %s, down %s, act %d%s%s", h.T, h.n_top,
		h.E, h.dim, h.ffn, type_of(h.x), type_of(h.router), type_of(h.gate_up), type_of(h.down), h.act, h.tie ? ", ties" : "",
		h.to >= 0 ? ", all to one" : "");
	/* again, in another order of threads */
	emu_seed((uint64_t)h.T * 7 + 3);
	memset(s.data, 0xff, (size_t)s.cols * 4);
	cu_moe(dev, NULL, again.t, m.x.t, &o, s);
	for (int t = 0; t < h.T; t++)
		same &= !memcmp(mat_row(&y, t), mat_row(&again, t), (size_t)h.dim * 4);
	CHECK(same, "and again: the same bits");
	edges_free(s.data);
	mat_free(&m.x), mat_free(&m.router), mat_free(&m.gate_up), mat_free(&m.down), mat_free(&y), mat_free(&again);
}

#define F NVLLM_F32
#define B NVLLM_BF16

static void paths(void)
{
	/* few rows */
	once({ 1, 8, 2, 64, 48, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 1, 16, 8, 520, 264, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 }); /* more than a warp reads at once */
	once({ 1, 4, 4, 33, 5, F, F, F, F, NVLLM_RELU, 0, -1, 0, -1 });
	once({ 3, 4, 3, 33, 1, B, B, B, B, NVLLM_GELU, 0, -1, 0, 1 });
	once({ 8, 8, 2, 64, 48, B, B, B, B, NVLLM_SILU, 1, 3, 0, -1 });     /* one expert has all eight */
	once({ 8, 6, 3, 70, 20, F, F, F, F, NVLLM_GELU_TANH, 1, -1, 1, 5 });
	once({ 5, 300, 9, 24, 8, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 7, 512, 500, 8, 8, F, F, F, F, NVLLM_SILU, 0, -1, 0, -1 });  /* too many choices for one block's sum */
	once({ 2, 1, 1, 16, 16, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 });
	/* more: f32 */
	once({ 9, 8, 2, 64, 48, F, F, F, F, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 40, 5, 2, 37, 11, F, F, F, F, NVLLM_GELU, 0, 4, 0, 7 });
	once({ 33, 8, 3, 33, 24, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 });   /* bf16, but no columns for the matrix units */
	once({ 12, 4, 2, 64, 32, B, F, F, B, NVLLM_SILU, 1, -1, 0, -1 });
	/* the matrix units: tiles of 16, 64, 128 rows */
	once({ 9, 8, 2, 64, 48, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 40, 64, 4, 72, 200, B, B, B, B, NVLLM_GELU_TANH, 1, -1, 0, 11 });
	once({ 40, 16, 3, 136, 72, B, B, B, B, NVLLM_SILU, 0, 15, 1, -1 });
	once({ 100, 8, 2, 264, 136, B, F, B, B, NVLLM_SILU, 1, -1, 0, 99 });
	once({ 100, 4, 1, 40, 8, B, B, B, B, NVLLM_RELU, 0, 2, 0, -1 });
	once({ 257, 5, 2, 72, 80, B, B, B, B, NVLLM_SILU, 1, 0, 0, 130 });
	once({ 1025, 4, 1, 64, 24, B, B, B, B, NVLLM_SILU, 1, -1, 1, -1 }); /* the router too */
}

static void blocks(void)
{
	static const int types[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_F8_E4M3 };

	for (int t : types) {
		const int n = t == NVLLM_Q4_K || t == NVLLM_Q6_K ? 256 : 96;

		once({ 1, 4, 2, n, n, B, B, t, t, NVLLM_SILU, 1, -1, 0, -1 });
		once({ 6, 4, 2, n, n, F, F, t, t, NVLLM_SILU, 1, -1, 0, -1 });
		once({ 11, 4, 2, n, n, F, F, t, t, NVLLM_SILU, 0, -1, 0, -1 });
		once({ 13, 4, 2, n, n, B, B, t, t, NVLLM_SILU, 1, -1, 0, -1 });
		once({ 40, 4, 2, n, n, B, B, t, B, NVLLM_SILU, 1, -1, 0, -1 });
	}
	once({ 3, 4, 2, 256, 256, B, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 130, 2, 1, 256, 256, B, B, NVLLM_Q4_K, NVLLM_Q6_K, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 2, 8, 2, 1040, 272, B, B, NVLLM_F8_E4M3, NVLLM_F8_E4M3, NVLLM_SILU, 1, -1, 0, -1 });
	once({ 130, 2, 1, 144, 80, B, B, NVLLM_F8_E4M3, NVLLM_F8_E4M3, NVLLM_SILU, 1, -1, 0, -1 });
}

/* A rank without any of the experts' width writes zeros, and what cannot be done is said. */
static void edges_of_it(void)
{
	struct how h = { 5, 4, 2, 40, 8, B, B, B, B, NVLLM_SILU, 1, -1, 0, -1 };
	struct model m = make(&h);
	struct nvllm_moe o = moe_of(&h, &m), bad = o;
	struct nvllm_tensor s = scratch_of(&o, h.T), small = s;
	struct mat y = mat_new(NVLLM_F32, h.T, h.dim, 3);
	bool zero = true;

	o.gate_up.rows = 0, o.gate_up.data = NULL, o.down.cols = 0, o.down.data = NULL;
	CHECK_EQ(cu_moe(dev, NULL, y.t, m.x.t, &o, s), 0, "no width");
	for (int t = 0; t < h.T; t++)
		for (int i = 0; i < h.dim; i++)
			zero &= mat_get(&y, t, i) == 0;
	CHECK(zero && mat_gaps_ok(&y), "gives zeros");
	small.cols--;
	CHECK(cu_moe(dev, NULL, y.t, m.x.t, &bad, small) == NVLLM_EINVAL && strstr(check_said(), "scratch"), "too little scratch is refused");
	bad.n_top = 5;
	CHECK(cu_moe(dev, NULL, y.t, m.x.t, &bad, s) < 0 && *check_said(), "5 of 4 experts are refused");
	bad.n_top = 2, bad.down.dtype = NVLLM_F16;
	CHECK(cu_moe(dev, NULL, y.t, m.x.t, &bad, s) == NVLLM_ENOTSUP && strstr(check_said(), "down"), "weights without a kernel are refused");
	bad.down.dtype = B, bad.down.rows = 39;
	CHECK(cu_moe(dev, NULL, y.t, m.x.t, &bad, s) == NVLLM_EINVAL && *check_said(), "shapes that do not fit are refused");
	edges_free(s.data);
	mat_free(&m.x), mat_free(&m.router), mat_free(&m.gate_up), mat_free(&m.down), mat_free(&y);
}

int main(void)
{
	dev = check_device(NVLLM_BF16);
	rnd = rnd_seed(5);
	paths();
	blocks();
	edges_of_it();
	return check_done();
}
