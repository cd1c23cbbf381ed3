/* SPDX-License-Identifier: MIT */
/* The attention plugins naive and paged against softmax attention in double, and bit by
 * bit against themselves: whole prompts, chunks, batches, threads, shuffled pages in a
 * pool full of NaN. */
#include "attention_rig.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

static const struct subject subjects[] = {
	{ "attention_naive", "scalar" }, { "attention_paged", "scalar" },
	{ "attention_paged", "avx2 fma f16c" }, { "attention_paged", "avx512 f bw dq vl" },
};

/* ---- the oracle ---- */

/* x as kept with `bits` bits of mantissa after the leading one and exponents from min. */
static double rounded(float x, int bits, int min_exp)
{
	int e;
	double ulp;

	if (x == 0 || !isfinite(x))
		return (double)x;
	frexp((double)x, &e);
	e = e - 1 < min_exp ? min_exp : e - 1;
	ulp = ldexp(1, e - bits);
	return nearbyint((double)x / ulp) * ulp;
}

static double kept(float x, int32_t dtype)
{
	double y;

	if (dtype == NVLLM_F32)
		return (double)x;
	if (dtype == NVLLM_BF16)
		return rounded(x, 7, -126);
	y = rounded(x, 10, -14);
	return fabs(y) > 65504 ? copysign(INFINITY, y) : y;
}

static double *all_kept(const float *x, int64_t n, int32_t dtype)
{
	double *y = malloc((size_t)(n ? n : 1) * sizeof(*y));

	for (int64_t i = 0; i < n; i++)
		y[i] = kept(x[i], dtype);
	return y;
}

/* One head of a row, from K and V as kept. p: scratch of pos + 1. */
static void oracle(const struct nvllm_attn_layer *a, const float *q, const double *k,
	const double *v, int32_t pos, int32_t head, double *p, double *y)
{
	int64_t dim = a->head_dim, kd = a->n_kv_heads * dim;
	int64_t off = head / (a->n_heads / a->n_kv_heads) * dim;
	int32_t first = a->window && pos >= a->window ? pos - a->window + 1 : 0;
	double max = -INFINITY, sum = 0;

	for (int32_t t = first; t <= pos; t++) {
		double x = 0;

		for (int64_t d = 0; d < dim; d++)
			x += (double)q[d] * k[t * kd + off + d];
		x *= a->scale;
		p[t] = a->softcap > 0 ? a->softcap * tanh(x / a->softcap) : x;
		max = fmax(max, p[t]);
	}
	for (int32_t t = first; t <= pos; t++)
		sum += p[t] = exp(p[t] - max);
	for (int64_t d = 0; d < dim; d++) {
		y[d] = 0;
		for (int32_t t = first; t <= pos; t++)
			y[d] += p[t] / sum * v[t * kd + off + d];
	}
}

static void check_row(const struct rig *r, const struct seq *s, int layer, int32_t pos,
	const double *k, const double *v)
{
	const struct nvllm_attn_layer *a = &r->s.layers[layer];
	double y[1024], p[2048];

	for (int32_t h = 0; h < a->n_heads; h++) {
		int64_t at = ((int64_t)pos * a->n_heads + h) * a->head_dim;

		oracle(a, s->q[layer] + at, k, v, pos, h, p, y);
		for (int32_t d = 0; d < a->head_dim; d++)
			if (!(fabs((double)s->y[layer][at + d] - y[d]) <= 3e-5))
				fail_msg("layer %d position %d head %d element %d: %.8g, not %.8g",
					layer, pos, h, d, (double)s->y[layer][at + d], y[d]);
	}
}

/* Every row of a short sequence, and of a long one some and the last. */
static void check_seq(const struct rig *r, const struct seq *s)
{
	for (int l = 0; l < r->s.n_layers; l++) {
		int src = r->s.layers[l].kv_layer >= 0 ? r->s.layers[l].kv_layer : l;
		int64_t n = (int64_t)s->len * r->s.layers[src].n_kv_heads *
			r->s.layers[src].head_dim;
		double *k = all_kept(s->k[src], n, r->s.kv_dtype);
		double *v = all_kept(s->v[src], n, r->s.kv_dtype);

		for (int32_t pos = 0; pos < s->len; pos++)
			if (pos <= 34 || pos == s->len - 1 || pos % 61 == 0)
				check_row(r, s, l, pos, k, v);
		free(k), free(v);
	}
}

/* Runs the scenario on each plugin and instruction set that this machine has. */
static void each(const struct setup *s, void (*fn)(struct rig *, const struct subject *))
{
	for (int i = 0; i < COUNT(subjects); i++) {
		struct rig r;

		if (!fake_isa_runs(subjects[i].isa))
			continue;
		rig_open(&r, &subjects[i], s, 11);
		fn(&r, &subjects[i]);
		rig_close(&r);
	}
}

static void mixed(struct rig *r, const struct subject *sub)
{
	static const int32_t lens[] = { 1, 15, 16, 17, 31, 100 };

	if (sub == &subjects[0] && r->s.layers[0].head_dim > 128)
		return; /* slow, and no other code */
	for (int i = 0; i < COUNT(lens); i++)
		add_seq(r, lens[i], (uint64_t)i + 1);
	feed_mixed(r, 5);
	for (int i = 0; i < r->n_seqs; i++)
		check_seq(r, &r->seqs[i]);
}

static void one_long(struct rig *r, const struct subject *sub)
{
	(void)sub;
	feed(r, add_seq(r, 1023, 3), 400);
	check_seq(r, &r->seqs[0]);
}

/* Over two segments of the paged attention. */
static void one_middling(struct rig *r, const struct subject *sub)
{
	(void)sub;
	feed(r, add_seq(r, 523, 3), 200);
	check_seq(r, &r->seqs[0]);
}

/* ---- tests: right ---- */

static const int32_t dtypes[] = { NVLLM_F32, NVLLM_F16, NVLLM_BF16 };

static void test_head_dims(void **state)
{
	static const int32_t dims[] = { 8, 16, 48, 64, 80, 96, 128, 256, 7, 33, 576 };

	(void)state;
	for (int i = 0; i < COUNT(dims); i++)
		for (int d = 0; d < COUNT(dtypes); d++) {
			struct setup s = setup_of(dtypes[d], 4, 2, dims[i]);

			each(&s, mixed);
		}
}

static void test_groups(void **state)
{
	(void)state;
	for (int32_t g = 1; g <= 8; g++) {
		struct setup s = setup_of(dtypes[g % 3], 2 * g, 2, 24);

		each(&s, mixed);
	}
	for (int d = 0; d < COUNT(dtypes); d++) { /* more heads to a group than rows in a task */
		struct setup s = setup_of(dtypes[d], 71, 1, 16);

		each(&s, mixed);
	}
}

static void test_long(void **state)
{
	(void)state;
	for (int d = 0; d < COUNT(dtypes); d++) {
		struct setup s = setup_of(dtypes[d], 3, 1, 64);

		s.n_workers = 2;
		each(&s, one_long);
	}
}

static void test_page_tokens(void **state)
{
	static const int32_t pages[] = { 1, 5, 16, 24, 32, 40, 64, 100, 128, 500, 4096 };

	(void)state;
	for (int i = 0; i < COUNT(pages); i++) {
		struct setup s = setup_of(dtypes[i % 3], 3, 1, 16);

		s.page_tokens = pages[i];
		each(&s, mixed);
		each(&s, one_middling);
	}
}

/* Layers that differ, one of which reads another's pages. */
static void test_layers(void **state)
{
	struct setup s = setup_of(NVLLM_F16, 6, 2, 32);

	(void)state;
	s.n_layers = 3;
	s.layers[0].window = 20;
	s.layers[1] = layer_of(4, 4, 48);
	s.layers[1].softcap = 3;
	s.layers[2] = layer_of(2, 2, 32);
	s.layers[2].kv_layer = 0;
	s.layers[2].scale = 0.37;
	each(&s, mixed);
	each(&s, one_middling);
	s.layers[0].window = 1;
	s.layers[1].window = 300;
	s.layers[1].softcap = 50;
	s.layers[2].window = 400;
	s.page_tokens = 64;
	each(&s, mixed);
	each(&s, one_middling);
}

/* A rank may hold no heads of a layer. */
static void test_no_heads(void **state)
{
	struct setup s = setup_of(NVLLM_F16, 2, 1, 32);

	(void)state;
	s.n_layers = 3;
	s.layers[1] = layer_of(0, 0, 32);
	s.layers[2] = layer_of(0, 3, 512);
	each(&s, mixed);
}

/* Nor of all: then there is nothing to keep, and no scratch to do it in. */
static void test_idle_rank(void **state)
{
	struct setup s = setup_of(NVLLM_F16, 0, 0, 64);

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig r;

		assert_int_equal(rig_create(&r, &subjects[i], &s), NVLLM_OK);
		assert_int_equal(r.layout.page_tokens, 16);
		assert_int_equal(r.layout.layer_bytes[0], 0);
		assert_int_equal(r.layout.workspace_bytes, 0);
		assert_int_equal(r.vt->attach(r.a, r.kv, 7, NULL), NVLLM_OK);
		fake_host_finish(&r.host);
	}
}

/* A step of nothing but padding writes nothing, and its rows are finite. */
static void only_padding(struct rig *r, const struct subject *sub)
{
	size_t bytes = (size_t)(r->layout.layer_bytes[0] * r->n_pages);
	char *before = malloc(bytes);

	(void)sub;
	memcpy(before, r->kv[0], bytes);
	step(r, &(struct plan){ .n = 1, .seq = { PAD }, .rows = { 1 } });
	step(r, &(struct plan){ .n = 3, .seq = { PAD, PAD, PAD }, .rows = { 1, 1, 1 },
		.pad_rows = 2 });
	step(r, &(struct plan){ .pad_rows = 1 });
	assert_memory_equal(before, r->kv[0], bytes);
	free(before);
}

static void test_padding(void **state)
{
	(void)state;
	for (int d = 0; d < COUNT(dtypes); d++) {
		struct setup s = setup_of(dtypes[d], 6, 2, 32);

		s.n_workers = 1 + d;
		each(&s, only_padding);
	}
}

/* The softmax over one key is 1, so what comes back is V as the cache kept it. */
static void kept_bits(struct rig *r, const struct subject *sub)
{
	static const float special[] = { 0, -0.f, 1, 65504, 65519.996f, 65520, -1e9f, INFINITY,
		0x1p-14f, 0x1.ffcp-15f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f, 1e-38f,
		1.00048828125f, 1.00146484375f, 3.00390625f, 1.00390625f, 1.01171875f };
	int s = add_seq(r, 1, 9);
	uint64_t seed = 4;

	(void)sub;
	for (int i = 0; i < 512; i++)
		r->seqs[s].v[0][i] = i < COUNT(special) ? special[i] :
			ldexpf(fake_normal(&seed), (int)(fake_random(&seed) % 44) - 26);
	feed(r, s, 1);
	for (int i = 0; i < 512; i++)
		if ((double)r->seqs[s].y[0][i] != kept(r->seqs[s].v[0][i], r->s.kv_dtype))
			fail_msg("%a was kept as %a", (double)r->seqs[s].v[0][i],
				(double)r->seqs[s].y[0][i]);
}

static void test_rounding(void **state)
{
	(void)state;
	for (int d = 0; d < COUNT(dtypes); d++) {
		struct setup s = setup_of(dtypes[d], 1, 1, 512);

		each(&s, kept_bits);
	}
}

/* ---- tests: the same bits ---- */

static void same_bits(const struct rig *a, int i, const struct rig *b, int j, const char *what)
{
	for (int l = 0; l < a->s.n_layers; l++) {
		const struct nvllm_attn_layer *x = &a->s.layers[l];
		int64_t row = (int64_t)x->n_heads * x->head_dim;

		for (int32_t pos = 0; pos < a->seqs[i].len; pos++)
			if (memcmp(a->seqs[i].y[l] + pos * row, b->seqs[j].y[l] + pos * row,
			    (size_t)row * sizeof(float)))
				fail_msg("%s: layer %d, position %d has other bits", what, l, pos);
	}
}

static void bits_of(const struct subject *sub, const struct setup *s, int32_t len)
{
	static const int32_t chunks[] = { 1, 7, 64 };
	struct rig ref;

	rig_open(&ref, sub, s, 1);
	feed(&ref, add_seq(&ref, len, 42), len);
	check_seq(&ref, &ref.seqs[0]);
	for (int w = 1; w <= 3; w++) {
		struct setup t = *s;
		struct rig r;

		t.n_workers = w;
		for (int c = 0; c < COUNT(chunks); c++) {
			rig_open(&r, sub, &t, (uint64_t)w * 10 + (uint64_t)c);
			feed(&r, add_seq(&r, len, 42), chunks[c]);
			same_bits(&ref, 0, &r, 0, "chunks");
			rig_close(&r);
		}
		rig_open(&r, sub, &t, 99);
		feed(&r, add_seq(&r, len, 42), len);
		same_bits(&ref, 0, &r, 0, "workers");
		add_seq(&r, 130, 6), add_seq(&r, len, 42), add_seq(&r, 3, 8);
		feed_mixed(&r, (uint64_t)w);
		same_bits(&ref, 0, &r, 2, "batch");
		rig_close(&r);
	}
	rig_close(&ref);
}

static void test_bits(void **state)
{
	(void)state;
	for (int i = 0; i < COUNT(subjects); i++)
		for (int d = 0; d < COUNT(dtypes); d++) {
			struct setup s = setup_of(dtypes[d], 3 + 5 * (d == 1), 1 + (d == 1), 64);

			if (!fake_isa_runs(subjects[i].isa))
				continue;
			s.n_layers = 2;
			s.layers[1] = layer_of(5, 5, 40);
			s.layers[1].window = 150;
			s.layers[1].softcap = 30;
			s.page_tokens = d == 2 ? 24 : 64;
			bits_of(&subjects[i], &s, 290);
		}
}

/* Sums so small that they are -0: every tenth key outweighs the others, and its V is -0,
 * the others' the least there is. */
static void add_least(struct rig *r, int32_t len)
{
	struct seq *s = &r->seqs[add_seq(r, len, 1)];

	for (int32_t i = 0; i < len * 16; i++) {
		s->q[0][i] = 1;
		s->k[0][i] = i / 16 % 10 ? 0 : 1;
		s->v[0][i] = i / 16 % 10 ? -0x1p-149f : -0.f;
	}
}

/* The rows of a window lie in other segments than those of the rows beside them: a sum
 * that begins with segments of which a row sees nothing keeps even the sign of a zero. */
static void test_least(void **state)
{
	struct setup s = setup_of(NVLLM_F32, 1, 1, 16);

	(void)state;
	s.layers[0].window = 20;
	for (int i = 0; i < COUNT(subjects); i++)
		for (int w = 1; w <= 3; w++) {
			struct rig whole, single;

			if (!fake_isa_runs(subjects[i].isa))
				continue;
			s.n_workers = w;
			rig_open(&whole, &subjects[i], &s, 1);
			rig_open(&single, &subjects[i], &s, 2);
			add_least(&whole, 300), add_least(&single, 300);
			feed(&whole, 0, 300), feed(&single, 0, 1);
			if (i > 1) /* double is finer, and a product by itself adds +0 to 0 */
				assert_true(signbit(single.seqs[0].y[0][280 * 16]) &&
					single.seqs[0].y[0][280 * 16] == 0);
			same_bits(&whole, 0, &single, 0, "the least sums");
			rig_close(&whole), rig_close(&single);
		}
}

/* What a row may not see may be NaN: later rows of its chunk, rows before its window,
 * other sequences. */
static void nan_beyond(struct rig *r, const struct subject *sub)
{
	int32_t kd = r->s.layers[0].n_kv_heads * r->s.layers[0].head_dim;
	struct rig clean;

	rig_open(&clean, sub, &r->s, 3);
	for (int i = 0; i < 2; i++) {
		add_seq(&clean, 90, (uint64_t)i + 1);
		add_seq(r, 90, (uint64_t)i + 1);
	}
	for (int32_t i = 70 * kd; i < 90 * kd; i++)
		r->seqs[0].k[0][i] = r->seqs[0].v[0][i] = i % 2 ? NAN : INFINITY;
	for (int32_t i = 0; i < 10 * kd; i++)
		r->seqs[0].k[0][i] = r->seqs[0].v[0][i] = NAN;
	step(r, &(struct plan){ .n = 2, .seq = { 0, 1 }, .rows = { 90, 90 }, .pad_rows = 1 });
	step(&clean, &(struct plan){ .n = 2, .seq = { 0, 1 }, .rows = { 90, 90 } });
	same_bits(&clean, 1, r, 1, "a neighbour's NaN");
	kd = r->s.layers[0].n_heads * r->s.layers[0].head_dim;
	assert_memory_equal(clean.seqs[0].y[0] + 29 * kd, r->seqs[0].y[0] + 29 * kd,
		(size_t)(41 * kd) * sizeof(float));
	assert_true(isnan(r->seqs[0].y[0][75 * kd]));
	rig_close(&clean);
}

static void test_nan(void **state)
{
	(void)state;
	for (int d = 0; d < COUNT(dtypes); d++)
		for (int32_t g = 1; g < 4; g++) {
			struct setup s = setup_of(dtypes[d], g, 1, 16);

			s.layers[0].window = 20;
			each(&s, nan_beyond);
		}
}

/* ---- tests: refusals ---- */

static void refused(struct setup s, const char *word)
{
	for (int i = 0; i < 2; i++) {
		struct rig r;

		assert_true(rig_create(&r, &subjects[i], &s) < 0);
		if (!strstr(r.host.said, word))
			fail_msg("the refusal '%s' does not say '%s'", r.host.said, word);
		fake_host_finish(&r.host);
	}
}

static void test_refusals(void **state)
{
	const struct setup good = setup_of(NVLLM_F16, 4, 2, 32);
	struct setup s = good;

	(void)state;
	s.layers[0].n_heads = 5, refused(s, "5 query heads");
	s = good, s.layers[0].n_kv_heads = 0, refused(s, "0 KV heads");
	s = good, s.layers[0].n_kv_heads = -2, refused(s, "-2 KV heads");
	s = good, s.layers[0].head_dim = 0, refused(s, "head_dim 0");
	s = good, s.layers[0].head_dim = 1 << 30, refused(s, "head_dim");
	s = good, s.layers[0].window = -1, refused(s, "window of -1");
	s = good, s.layers[0].softcap = NAN, refused(s, "softcap");
	s = good, s.layers[0].kv_layer = 0, refused(s, "layer 0");
	s = good, s.layers[0].kv_layer = 7, refused(s, "layer 7");
	s = good, s.n_layers = 2, s.layers[1] = layer_of(0, 2, 32);
	s.layers[0].kv_layer = 1, refused(s, "layer 1");
	s = good, s.kv_dtype = NVLLM_Q8_0, refused(s, "kv_dtype");
	s = good, s.n_layers = 0, refused(s, "0 layers");
	s = good, s.max_len = 0, refused(s, "0 tokens");
}

static void refused_step(struct rig *r, const struct subject *sub)
{
	struct plan p = { .n = 1, .seq = { 0 }, .rows = { 4 } };
	struct step st;

	(void)sub;
	add_seq(r, 40, 1);
	step_build(&st, r, &p);
	st.slots[2] = (int32_t)(r->n_pages * r->s.page_tokens);
	assert_int_equal(run_layer(r, &p, &st, 0), NVLLM_EINVAL);
	assert_non_null(strstr(r->host.said, "row 2"));
	st.slots[2] = st.slots[1];
	st.positions[3] = 9;
	assert_int_equal(run_layer(r, &p, &st, 0), NVLLM_EINVAL);
	st.positions[3] = 3;
	st.kv_len[0] = (int32_t)r->s.max_len + 1;
	assert_int_equal(run_layer(r, &p, &st, 0), NVLLM_EINVAL);
	st.kv_len[0] = 4;
	assert_int_equal(run_layer(r, &p, &st, 0), NVLLM_OK);
	step_free(&st);
	p.rows[0] = 33;
	step_build(&st, r, &p);
	assert_int_equal(run_layer(r, &p, &st, 0), NVLLM_EINVAL);
	assert_non_null(strstr(r->host.said, "33 rows"));
	step_free(&st);
}

static void test_refused_steps(void **state)
{
	struct setup s = setup_of(NVLLM_F16, 4, 2, 32);

	(void)state;
	s.max_tokens = 32;
	each(&s, refused_step);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_head_dims), cmocka_unit_test(test_groups),
		cmocka_unit_test(test_long), cmocka_unit_test(test_page_tokens),
		cmocka_unit_test(test_layers), cmocka_unit_test(test_no_heads),
		cmocka_unit_test(test_idle_rank), cmocka_unit_test(test_padding),
		cmocka_unit_test(test_rounding), cmocka_unit_test(test_bits),
		cmocka_unit_test(test_least),
		cmocka_unit_test(test_nan), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_refused_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
