/* SPDX-License-Identifier: MIT */
/* tests/emu/test_kernels.cc - embed, norm, add, glu, rows, convert, rope, advance and random numbers of
 * backends/cuda/kernels.cu against their formulas (nvllm/device.h, ops.h) in double. */
#include "mat.h"
#include "../../backends/cuda/kernels.cu"

#include <vector>

static struct nvllm_device *dev;
static struct rnd rnd;
static const int acts[] = { NVLLM_F32, NVLLM_BF16 };
static const int64_t lengths[] = { 1, 2, 15, 16, 17, 31, 32, 100, 127, 128, 129, 576, 1023, 1024, 4096 };

static const char *name_of(int dtype)
{
	switch (dtype) {
	case NVLLM_F32: return "f32";
	case NVLLM_BF16: return "bf16";
	case NVLLM_F16: return "f16";
	case NVLLM_Q4_0: return "q4_0";
	case NVLLM_Q4_1: return "q4_1";
	case NVLLM_Q8_0: return "q8_0";
	case NVLLM_Q4_K: return "q4_k";
	case NVLLM_Q6_K: return "q6_k";
	default: return "?";
	}
}

/* A matrix of cols columns at a start and stride that are even (0), or odd in one of several ways. */
static struct mat some(int dtype, int64_t rows, int64_t cols, int odd)
{
	struct mat m = mat_new(dtype, rows, cols, odd == 1 ? 8 : odd == 2 ? 3 : 0, odd == 3 ? 1 : 0);

	return m;
}

/* ---- embed ---- */

static void embed_once(int dtype, int64_t rows, int64_t cols, int odd)
{
	const int64_t vocab = 37, first = 100;
	struct mat table = some(dtype, vocab, cols, nvllm_dtype_block(dtype, NULL) > 1 ? odd & 1 : odd), y = some(NVLLM_F32, rows, cols, odd ^ 3);
	int32_t *tokens = edges<int32_t>(rows), *last = edges<int32_t>(5);
	std::vector<double> want((size_t)(rows * cols));
	struct nvllm_slots st = {};
	struct nvllm_batch b = {};
	const float scale = rows % 2 ? 1.f : 33.941125f;
	int err;

	mat_fill(&table, &rnd, 1);
	for (int i = 0; i < 5; i++)
		last[i] = (int32_t)first + rnd_int(&rnd, -3, (int)vocab + 2);
	for (int64_t r = 0; r < rows; r++) {
		int64_t id;

		tokens[r] = r % 3 == 2 ? rnd_int(&rnd, -5, -1) : rnd_int(&rnd, (int)first - 4, (int)(first + vocab) + 3);
		id = (tokens[r] < 0 ? last[-1 - tokens[r]] : tokens[r]) - first;
		for (int64_t c = 0; c < cols; c++)
			want[(size_t)(r * cols + c)] = id >= 0 && id < vocab ? (double)scale * mat_num(&table, id, c) : 0;
	}
	st.size = sizeof(st), st.n_slots = 5, st.last_token = last;
	b.size = sizeof(b), b.n_tokens = (int32_t)rows, b.tokens = tokens, b.state = &st;
	err = cu_embed(dev, NULL, y.t, table.t, first, &b, (double)scale);
	CHECK(err == 0 && mat_wrong(&y, want.data(), 3e-7, 1e-6) == 0 && mat_gaps_ok(&y), "embed of %s, %d rows of %d, layout %d%s",
		name_of(dtype), (int)rows, (int)cols, odd, check_said());
	mat_free(&table), mat_free(&y), edges_free(tokens), edges_free(last);
}

/* A rank that holds no row of the table gives zeros, whatever type the table would have. */
static void embed_nothing(int dtype)
{
	struct mat y = some(NVLLM_F32, 5, 256, 1);
	int32_t *tokens = edges<int32_t>(5);
	std::vector<double> want(5 * 256, 0.0);
	struct nvllm_tensor table = {};
	struct nvllm_batch b = {};
	int err;

	for (int i = 0; i < 5; i++)
		tokens[i] = i;
	table.cols = 256, table.dtype = dtype, table.planes = 1;
	b.size = sizeof(b), b.n_tokens = 5, b.tokens = tokens;
	err = cu_embed(dev, NULL, y.t, table, 3, &b, 1);
	CHECK(err == 0 && mat_wrong(&y, want.data(), 0, 0) == 0 && mat_gaps_ok(&y), "embed of no rows of %s%s", name_of(dtype), check_said());
	mat_free(&y), edges_free(tokens);
}

static void embeds(void)
{
	embed_nothing(NVLLM_F16);
	embed_nothing(NVLLM_Q5_K);
	embed_nothing(NVLLM_Q4_K);
	static const int blocks[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0, NVLLM_Q4_K, NVLLM_Q6_K };

	for (int d : acts)
		for (int64_t n : lengths)
			embed_once(d, 1 + n % 7, n, (int)(n % 4));
	for (int d : blocks)
		for (int64_t n : { 1, 3, 9 })
			embed_once(d, n, 256 * n, (int)(n & 1));
	embed_once(NVLLM_Q4_0, 3, 32, 0);
	embed_once(NVLLM_Q8_0, 4, 96, 1);
	embed_once(NVLLM_BF16, 6, 4096, 0);
}

/* ---- norm ---- */

/* heads: runs in a row. mean: of x, far from zero makes layer norm hard. */
static void norm_once(int xd, int yd, int kind, int64_t rows, int64_t heads, int64_t n, int odd, bool bias, bool in_place)
{
	struct mat x = some(xd, rows, heads * n, odd), y = in_place ? x : some(yd, rows, heads * n, odd ? 3 - odd : 0);
	struct mat w = some(NVLLM_F32, 1, n, odd == 3 ? 3 : 0), b = some(NVLLM_F32, 1, n, 0);
	std::vector<double> want((size_t)(rows * heads * n));
	struct nvllm_norm nm = {};
	const double eps = 1e-5, offset = kind == NVLLM_RMS_NORM && rows % 2 ? 1 : 0;
	int64_t wrong;
	int err;

	mat_fill(&x, &rnd, 2), mat_fill(&w, &rnd, 1), mat_fill(&b, &rnd, 1);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < heads * n; c++)
			mat_set(&x, r, c, mat_get(&x, r, c) + (double)(r % 3) * 10);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t h = 0; h < heads; h++) {
			double mean = 0, var = 0;

			for (int64_t c = 0; c < n && kind == NVLLM_LAYER_NORM; c++)
				mean += mat_get(&x, r, h * n + c) / (double)n;
			for (int64_t c = 0; c < n; c++)
				var += (mat_get(&x, r, h * n + c) - mean) * (mat_get(&x, r, h * n + c) - mean) / (double)n;
			for (int64_t c = 0; c < n; c++)
				want[(size_t)((r * heads + h) * n + c)] = (mat_get(&x, r, h * n + c) - mean) / sqrt(var + eps) *
					(offset + mat_get(&w, 0, c)) + (bias ? mat_get(&b, 0, c) : 0);
		}
	nm.size = sizeof(nm), nm.kind = kind, nm.eps = eps, nm.offset = offset, nm.w = w.t;
	if (bias)
		nm.b = b.t;
	err = cu_norm(dev, NULL, y.t, x.t, &nm);
	wrong = mat_wrong(&y, want.data(), 2e-6, kind == NVLLM_LAYER_NORM && n < 3 ? 2e-2 : 1e-5);
	CHECK(err == 0 && wrong == 0 && mat_gaps_ok(&y), "%s norm, %s to %s, %d rows of %d runs of %d, layout %d%s%s %s",
		kind == NVLLM_RMS_NORM ? "rms" : "layer", name_of(xd), name_of(in_place ? xd : yd), (int)rows, (int)heads, (int)n, odd,
		bias ? ", bias" : "", in_place ? ", in place" : "", check_said());
	mat_free(&x), mat_free(&w), mat_free(&b);
	if (!in_place)
		mat_free(&y);
}

static void norms(void)
{
	static const int64_t more[] = { 64, 80, 96, 255, 256, 257, 1025, 2048, 2049, 5120, 8192, 8196, 12288, 16384 };
	int i = 0;

	for (int64_t n : lengths)
		for (int kind : { NVLLM_RMS_NORM, NVLLM_LAYER_NORM })
			for (int xd : acts) {
				norm_once(xd, acts[i / 2 % 2], kind, 1 + i % 5, n <= 256 ? 1 + i % 7 : 1, n, i / 2 % 4, i % 3 == 0, i % 5 == 0);
				i++;
			}
	for (int64_t n : more) {
		norm_once(acts[i % 2], acts[i / 2 % 2], i % 2, 3, n <= 256 ? 8 : 1, n, 0, i % 3 == 0, false);
		norm_once(acts[i % 2], acts[i / 2 % 2], i / 2 % 2, 2, 1, n, 2, true, false);
		i++;
	}
	norm_once(NVLLM_BF16, NVLLM_BF16, NVLLM_RMS_NORM, 9, 16, 128, 1, false, true);
	{
		struct mat x = mat_new(NVLLM_F32, 2, 20000), w = mat_new(NVLLM_F32, 1, 20000), v = mat_new(NVLLM_F16, 2, 64);
		struct nvllm_norm nm = {};

		nm.size = sizeof(nm), nm.w = w.t, nm.eps = 1e-6;
		CHECK(cu_norm(dev, NULL, x.t, x.t, &nm) < 0 && *check_said(), "norm refuses runs of 20000 with a sentence");
		nm.w.cols = 48;
		CHECK(cu_norm(dev, NULL, x.t, x.t, &nm) == NVLLM_EINVAL && *check_said(), "norm refuses runs that do not divide a row");
		nm.w.cols = 64;
		CHECK(cu_norm(dev, NULL, v.t, v.t, &nm) == NVLLM_ENOTSUP && *check_said(), "norm refuses f16");
		mat_free(&x), mat_free(&w), mat_free(&v);
	}
}

/* A row's bits do not depend on the rows beside it. */
static void norm_same(void)
{
	struct mat x = mat_new(NVLLM_F32, 9, 1000), y = mat_new(NVLLM_F32, 9, 1000), one = mat_new(NVLLM_F32, 1, 1000), w = mat_new(NVLLM_F32, 1, 1000);
	struct nvllm_norm nm = {};
	bool same = true;

	mat_fill(&x, &rnd, 1), mat_fill(&w, &rnd, 1);
	nm.size = sizeof(nm), nm.w = w.t, nm.eps = 1e-6;
	cu_norm(dev, NULL, y.t, x.t, &nm);
	for (int r = 0; r < 9; r++) {
		struct nvllm_tensor t = x.t;

		t.data = mat_row(&x, r), t.rows = 1;
		cu_norm(dev, NULL, one.t, t, &nm);
		same = same && !memcmp(one.mem, mat_row(&y, r), 4000);
	}
	CHECK(same, "a norm's row has the same bits alone and among others");
	mat_free(&x), mat_free(&y), mat_free(&one), mat_free(&w);
}

/* ---- add, glu, rows, convert ---- */

static void add_once(int xd, int dd, int64_t rows, int64_t n, int odd, bool one_row)
{
	struct mat x = some(xd, rows, n, odd), d = some(dd, one_row ? 1 : rows, n, 3 - odd);
	std::vector<double> want((size_t)(rows * n));
	int err;

	mat_fill(&x, &rnd, 1), mat_fill(&d, &rnd, 1);
	for (int64_t i = 0; i < rows * n; i++)
		want[(size_t)i] = mat_get(&x, i / n, i % n) + mat_get(&d, one_row ? 0 : i / n, i % n);
	if (one_row)
		d.t.rows = rows, d.t.stride = 0;
	err = cu_add(dev, NULL, x.t, d.t);
	CHECK(err == 0 && mat_wrong(&x, want.data(), 1e-7, 1e-7) == 0 && mat_gaps_ok(&x), "add %s to %s, %d rows of %d, layout %d%s %s",
		name_of(dd), name_of(xd), (int)rows, (int)n, odd, one_row ? ", one row to all" : "", check_said());
	mat_free(&x), mat_free(&d);
}

static double act_of(double x, int act)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU_TANH: return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case NVLLM_GELU: return x / 2 * (1 + erf(x / sqrt(2)));
	default: return x > 0 ? x : 0;
	}
}

static void glu_once(int xd, int yd, int act, int64_t rows, int64_t n, int odd)
{
	struct mat x = some(xd, rows, 2 * n, odd), y = some(yd, rows, n, 3 - odd);
	std::vector<double> want((size_t)(rows * n));
	int err;

	mat_fill(&x, &rnd, 4);
	mat_set(&x, 0, 0, 100), mat_set(&x, rows - 1, n - 1, -100); /* where a careless formula makes inf / inf */
	for (int64_t i = 0; i < rows * n; i++)
		want[(size_t)i] = act_of(mat_get(&x, i / n, i % n), act) * mat_get(&x, i / n, n + i % n);
	err = cu_glu(dev, NULL, y.t, x.t, act);
	CHECK(err == 0 && mat_wrong(&y, want.data(), 1e-5, 1e-5) == 0 && mat_gaps_ok(&y), "glu %d, %s to %s, %d rows of %d, layout %d %s",
		act, name_of(xd), name_of(yd), (int)rows, (int)n, odd, check_said());
	mat_free(&x), mat_free(&y);
}

static void rows_once(int xd, int yd, int64_t rows, int64_t n, int odd)
{
	struct mat x = some(xd, 11, n, odd), y = some(yd, rows, n, 3 - odd);
	std::vector<double> want((size_t)(rows * n));
	int32_t *index = edges<int32_t>(rows);
	int err;

	mat_fill(&x, &rnd, 1);
	for (int64_t r = 0; r < rows; r++) {
		index[r] = rnd_int(&rnd, 0, 10);
		for (int64_t c = 0; c < n; c++)
			want[(size_t)(r * n + c)] = mat_get(&x, index[r], c);
	}
	err = cu_rows(dev, NULL, y.t, x.t, index);
	CHECK(err == 0 && mat_wrong(&y, want.data(), 0, 0) == 0 && mat_gaps_ok(&y), "%d rows of %d, %s to %s, layout %d %s",
		(int)rows, (int)n, name_of(xd), name_of(yd), odd, check_said());
	mat_free(&x), mat_free(&y), edges_free(index);
}

static void convert_once(int xd, int yd, int64_t rows, int64_t n, int odd)
{
	struct mat x = some(xd, rows, n, odd), y = some(yd, rows, n, 3 - odd);
	std::vector<double> want((size_t)(rows * n));
	int err;

	mat_fill(&x, &rnd, 1);
	for (int64_t i = 0; i < rows * n; i++)
		want[(size_t)i] = mat_get(&x, i / n, i % n);
	err = cu_convert(dev, NULL, y.t.data, yd, y.t.stride, x.t.data, xd, x.t.stride, rows, n);
	CHECK(err == 0 && mat_wrong(&y, want.data(), 0, yd == NVLLM_F16 ? 3e-8 : 0) == 0 && mat_gaps_ok(&y), "convert %s to %s, %d rows of %d, layout %d %s",
		name_of(xd), name_of(yd), (int)rows, (int)n, odd, check_said());
	mat_free(&x), mat_free(&y);
}

static void simple(void)
{
	int i = 0;

	for (int64_t n : lengths)
		for (int a : acts)
			for (int b : acts) {
				add_once(a, b, 1 + i % 5, n, i % 4, i % 3 == 0);
				glu_once(a, b, i % 4, 1 + i % 5, n, i / 2 % 4);
				rows_once(a, b, 1 + i % 17, n, i % 4);
				i++;
			}
	for (int a : { NVLLM_F32, NVLLM_F16, NVLLM_BF16 })
		for (int b : { NVLLM_F32, NVLLM_F16, NVLLM_BF16 })
			for (int64_t n : { 1, 17, 4096, 4100 })
				convert_once(a, b, 3, n, i++ % 4);
	{
		struct mat x = mat_new(NVLLM_F32, 2, 64), y = mat_new(NVLLM_F32, 3, 32), v = mat_new(NVLLM_F16, 2, 32), none = y;

		CHECK(cu_add(dev, NULL, x.t, y.t) == NVLLM_EINVAL && *check_said(), "add refuses shapes that do not fit");
		CHECK(cu_glu(dev, NULL, y.t, x.t, 0) == NVLLM_EINVAL && *check_said(), "glu refuses shapes that do not fit");
		y.t.rows = 2;
		CHECK(cu_glu(dev, NULL, y.t, x.t, 9) < 0 && *check_said(), "glu refuses an activation it has not");
		CHECK(cu_glu(dev, NULL, v.t, x.t, 0) == NVLLM_ENOTSUP && *check_said(), "glu refuses f16");
		none.t.rows = 0, x.t.rows = 0;
		CHECK(cu_glu(dev, NULL, none.t, x.t, 0) == 0 && cu_add(dev, NULL, none.t, none.t) == 0, "no rows: nothing to do");
		mat_free(&x), mat_free(&y), mat_free(&v);
	}
}

/* ---- rope ---- */

static void rope_once(int dtype, int64_t rows, int64_t heads, int64_t hd, int dims, int inter, double mscale, int odd)
{
	struct mat x = some(dtype, rows, heads * hd, odd), f = mat_new(NVLLM_F32, 1, dims / 2);
	std::vector<double> want((size_t)(rows * heads * hd));
	int32_t *pos = edges<int32_t>(rows);
	struct nvllm_rotary ro = {};
	double far = 0;
	int err;

	mat_fill(&x, &rnd, 1);
	for (int i = 0; i < dims / 2; i++)
		mat_set(&f, 0, i, pow(1e4, -2.0 * i / dims));
	for (int64_t r = 0; r < rows; r++) {
		pos[r] = r == 0 ? 0 : rnd_int(&rnd, 0, 40000);
		far = pos[r] > far ? pos[r] : far;
		for (int64_t h = 0; h < heads; h++)
			for (int64_t c = 0; c < hd; c++) {
				int64_t pair = inter ? c / 2 : c % (dims / 2), first = h * hd + (inter ? 2 * pair : pair), second = first + (inter ? 1 : dims / 2);
				double a = pos[r] * mat_get(&f, 0, pair < dims / 2 ? pair : 0), v;

				v = c >= dims ? mat_get(&x, r, h * hd + c) :
					h * hd + c == first ? mscale * (mat_get(&x, r, first) * cos(a) - mat_get(&x, r, second) * sin(a)) :
					mscale * (mat_get(&x, r, second) * cos(a) + mat_get(&x, r, first) * sin(a));
				want[(size_t)((r * heads + h) * hd + c)] = v;
			}
	}
	ro.size = sizeof(ro), ro.dims = dims, ro.interleaved = inter, ro.mscale = mscale, ro.inv_freq = f.t;
	err = cu_rope(dev, NULL, x.t, pos, hd, &ro);
	/* the angle is a float: half an ulp of it is what |x| <= 6 turns too far */
	CHECK(err == 0 && mat_wrong(&x, want.data(), 1e-6, 1e-6 + 6 * mscale * far * 0x1p-24) == 0 && mat_gaps_ok(&x),
		"rope of %s, %d rows of %d heads of %d, %d turn%s, layout %d %s", name_of(dtype), (int)rows, (int)heads, (int)hd, dims,
		inter ? ", interleaved" : "", odd, check_said());
	mat_free(&x), mat_free(&f), edges_free(pos);
}

static void ropes(void)
{
	static const int64_t hds[] = { 2, 16, 32, 64, 80, 128, 256 };
	int i = 0;

	for (int64_t hd : hds)
		for (int dtype : acts)
			for (int inter = 0; inter < 2; inter++) {
				rope_once(dtype, 1 + i % 6, 1 + i % 9, hd, (int)(i % 3 == 2 && hd > 4 ? hd / 2 : hd), inter, i % 4 == 3 ? 1.25 : 1, i % 4);
				i++;
			}
	rope_once(NVLLM_F32, 17, 3, 96, 40, 0, 1, 2);
	{
		struct mat x = mat_new(NVLLM_F32, 2, 64), f = mat_new(NVLLM_F32, 1, 16), keep = mat_new(NVLLM_F32, 2, 64);
		struct nvllm_rotary ro = {};
		int32_t pos[2] = { 1, 2 };

		mat_fill(&x, &rnd, 1);
		memcpy(keep.mem, x.mem, 512);
		ro.size = sizeof(ro), ro.mscale = 1;
		CHECK(cu_rope(dev, NULL, x.t, pos, 32, &ro) == 0 && !memcmp(keep.mem, x.mem, 512), "no rope changes nothing");
		ro.dims = 34, ro.inv_freq = f.t;
		CHECK(cu_rope(dev, NULL, x.t, pos, 32, &ro) < 0 && *check_said(), "rope refuses more elements than a head has");
		ro.dims = 30;
		CHECK(cu_rope(dev, NULL, x.t, pos, 32, &ro) < 0 && *check_said(), "rope refuses a table that does not fit");
		mat_free(&x), mat_free(&f), mat_free(&keep);
	}
}

/* ---- advance ---- */

static void advance_once(int n_logits, int n_slots, bool history)
{
	const int len = 50;
	int32_t *slots = edges<int32_t>(n_logits), *rows = edges<int32_t>(n_logits), *tokens = edges<int32_t>(n_logits), *pos = edges<int32_t>(2 * n_logits);
	int32_t *st[4], *was[4]; /* last_token, n_left, done, history */
	int32_t *stop = edges<int32_t>(n_slots * NVLLM_STOP_IDS);
	const int64_t size[4] = { n_slots, n_slots, n_slots, n_slots * len };
	std::vector<int> free_slots;
	struct nvllm_slots s = {};
	struct nvllm_batch b = {};
	bool same = true, edge = true;

	for (int k = 0; k < 4; k++) {
		st[k] = edges<int32_t>(size[k]), was[k] = edges<int32_t>(size[k]);
		for (int64_t i = 0; i < size[k]; i++)
			was[k][i] = st[k][i] = k == 1 ? rnd_int(&rnd, 1, 3) : k == 2 ? rnd_int(&rnd, 0, 3) == 0 : rnd_int(&rnd, 0, 1000);
	}
	for (int i = 0; i < n_slots * NVLLM_STOP_IDS; i++)
		stop[i] = rnd_int(&rnd, 0, 2) ? -1 : rnd_int(&rnd, 0, 20);
	for (int i = 0; i < n_slots; i++)
		free_slots.push_back(i);
	for (int i = 0; i < 2 * n_logits; i++)
		pos[i] = rnd_int(&rnd, 0, len + 2);
	for (int i = 0; i < n_logits; i++) {
		slots[i] = -1;
		if (!free_slots.empty() && rnd_int(&rnd, 0, 4)) {
			size_t k = rnd_u32(&rnd) % free_slots.size();

			slots[i] = free_slots[k];
			free_slots.erase(free_slots.begin() + (long)k);
		}
		rows[i] = 2 * i + rnd_int(&rnd, 0, 1);
		tokens[i] = rnd_int(&rnd, 0, 20);
	}
	s.size = sizeof(s), s.n_slots = n_slots, s.last_token = st[0], s.n_left = st[1], s.done = st[2], s.stop_ids = stop;
	s.history = history ? st[3] : NULL, s.history_len = history ? len : 0;
	b.size = sizeof(b), b.n_logits = n_logits, b.n_tokens = 2 * n_logits, b.positions = pos, b.logit_rows = rows, b.logit_slots = slots, b.state = &s;
	CHECK(cu_advance(dev, NULL, &b, tokens) == 0, "advance runs %s", check_said());
	for (int i = 0; i < n_logits; i++) {
		int k = slots[i];
		bool end = false;

		if (k < 0 || was[2][k])
			continue;
		for (int j = 0; j < NVLLM_STOP_IDS; j++)
			end = end || stop[k * NVLLM_STOP_IDS + j] == tokens[i];
		was[0][k] = tokens[i];
		was[1][k]--;
		was[2][k] = -1 - (was[1][k] == 0 || end); /* -1: zero, -2: not zero */
		if (history && pos[rows[i]] + 1 < len)
			was[3][k * len + pos[rows[i]] + 1] = tokens[i];
	}
	for (int k = 0; k < 4; k++) {
		for (int64_t i = 0; i < size[k]; i++)
			same = same && (k == 2 && was[k][i] < 0 ? (st[k][i] != 0) == (was[k][i] == -2) : st[k][i] == was[k][i]);
		edge = edge && edges_ok(st[k]);
		edges_free(st[k]), edges_free(was[k]);
	}
	CHECK(same && edge, "advance of %d rows, %d slots%s", n_logits, n_slots, history ? ", with history" : "");
	edges_free(slots), edges_free(rows), edges_free(tokens), edges_free(pos), edges_free(stop);
}

/* ---- random numbers ---- */

static void random_numbers(int dtype)
{
	const int64_t rows = 37, cols = 1001;
	struct mat a = some(dtype, rows, cols, 2), b = some(dtype, rows, cols, 1), c = some(dtype, rows, cols, 0);
	double s1 = 0, s2 = 0, s4 = 0, pair = 0, down = 0, n = (double)(rows * cols);
	int64_t diff = 0, same = 0;

	CHECK(cu_fill_random(dev, NULL, a.t.data, dtype, a.t.stride, rows, cols, 5, 2, 77, 0.5, 0.02) == 0, "random numbers run %s", check_said());
	for (int64_t r = 0; r < rows; r += 7) { /* in pieces */
		int64_t k = rows - r < 7 ? rows - r : 7;

		cu_fill_random(dev, NULL, mat_row(&b, r), dtype, b.t.stride, k, cols, 5 + r, 2, 77, 0.5, 0.02);
	}
	cu_fill_random(dev, NULL, c.t.data, dtype, c.t.stride, rows, cols, 5, 3, 77, 0.5, 0.02);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++) {
			double z = (mat_get(&a, r, i) - 0.5) / 0.02;

			s1 += z, s2 += z * z, s4 += z * z * z * z;
			pair += z * (mat_get(&a, r, (i + 1) % cols) - 0.5) / 0.02;
			down += z * (mat_get(&a, (r + 1) % rows, i) - 0.5) / 0.02;
			diff += mat_get(&a, r, i) != mat_get(&b, r, i);
			same += dtype == NVLLM_F32 && mat_get(&a, r, i) == mat_get(&c, r, i);
		}
	CHECK(diff == 0 && mat_gaps_ok(&a) && mat_gaps_ok(&b), "random %s: in pieces the same", name_of(dtype));
	CHECK(same < 10, "random %s: another plane, other numbers", name_of(dtype));
	CHECK(fabs(s1 / n) < 0.03 && fabs(s2 / n - 1) < 0.03 && fabs(s4 / n - 3) < 0.15, "random %s: mean %.3g, variance %.4g, fourth moment %.4g",
		name_of(dtype), s1 / n, s2 / n, s4 / n);
	CHECK(fabs(pair / n) < 0.03 && fabs(down / n) < 0.03, "random %s: neighbours do not know each other (%.3g, %.3g)", name_of(dtype), pair / n, down / n);
	mat_free(&a), mat_free(&b), mat_free(&c);
}

/* An argument: another seed. */
int main(int argc, char **argv)
{
	dev = check_device(NVLLM_BF16);
	emu_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 1);
	rnd = rnd_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 6);
	embeds();
	norms();
	norm_same();
	simple();
	ropes();
	for (int n : { 1, 2, 31, 128, 129, 300 })
		for (int h = 0; h < 2; h++)
			advance_once(n, n + 3, h == 1);
	random_numbers(NVLLM_F32);
	random_numbers(NVLLM_BF16);
	return check_done();
}
