/* SPDX-License-Identifier: MIT */
/* The samplers greedy and topk_topp: against a plain twin that sorts, and at the edges; and
 * the cache policy none, which has nothing to it. test_sampler_known.c has the exact
 * distributions of a reference run. */
#include <nvllm/cache.h>

#include "sampler_rig.h"

/* ---- against a twin that sorts ---- */

struct entry { double x, w, d; int32_t id; };

static int by_logit(const void *a, const void *b)
{
	const struct entry *p = a, *q = b;

	return p->x != q->x ? (p->x < q->x ? 1 : -1) : p->id < q->id ? -1 : 1;
}

static int by_distance(const void *a, const void *b)
{
	const struct entry *p = a, *q = b;

	return p->d != q->d ? (p->d > q->d ? 1 : -1) : by_logit(a, b);
}

static int by_id(const void *a, const void *b)
{
	const struct entry *p = a, *q = b;

	return p->id < q->id ? -1 : p->id > q->id;
}

/* Penalties by counting all tokens anew for each logit. */
static float twin_penalised(const struct nvllm_sample_row *row, const float *x, int id)
{
	double v = (double)x[id];
	int seen = 0, count = 0;

	for (int i = 0; i < row->n_tokens; i++) {
		seen += row->tokens[i] == id;
		count += i >= row->n_prompt && row->tokens[i] == id;
	}
	if (seen)
		v = v > 0 ? v / row->repetition : v * row->repetition;
	if (count)
		v -= row->frequency * count + row->presence;
	return (float)v;
}

/* The typical ones among e[0..kept), which are in the order of x: how many, and they come
 * first; -1 where rounding may decide. */
static int twin_typical(struct entry *e, int kept, double p)
{
	double sum = 0, h = 0, run = 0;
	int n = 0;

	for (int i = 0; i < kept; i++)
		sum += e[i].w;
	for (int i = 0; i < kept; i++)
		h -= e[i].w > 0 ? e[i].w / sum * log(e[i].w / sum) : 0;
	for (int i = 0; i < kept; i++)
		e[i].d = e[i].w > 0 ? fabs(-log(e[i].w / sum) - h) : HUGE_VAL;
	qsort(e, (size_t)kept, sizeof(*e), by_distance);
	while (n < kept && run < p * sum) {
		if (n && fabs(run - p * sum) < 1e-9 * sum)
			return -1;
		run += e[n++].w;
	}
	if (n < kept && fabs(run - p * sum) < 1e-9 * sum)
		return -1;
	for (; n < kept && e[n].x == e[n - 1].x; n++)
		;
	/* another logit as near, on the other side of the entropy */
	for (int i = 0; i < kept; i++)
		if (i >= n ? e[i].d - e[n - 1].d < 1e-9 * (1 + h) : e[n - 1].d - e[i].d < 0)
			return -1;
	return n;
}

/* The token the definition gives; -1 where rounding may decide. */
static int32_t twin(const float *x, int n, const struct nvllm_sample_row *row, struct entry *e)
{
	double sum = 0, run = 0, u = nvllm_uniform(row->seed, row->choice, row->position);
	int kept = 0, m = 0;

	for (int i = 0; i < n; i++) {
		float v = twin_penalised(row, x, i);

		if (v > -INFINITY)
			e[m++] = (struct entry){ .x = (double)v, .id = i };
	}
	if (m == 0)
		return 0;
	qsort(e, (size_t)m, sizeof(*e), by_logit);
	if (!(row->temperature > 0))
		return e[0].id;
	for (int i = 0; i < m; i++) {
		e[i].w = exp((e[i].x - e[0].x) / row->temperature);
		if (fabs(e[i].w - row->min_p) < 1e-9 * row->min_p && e[i].x != e[0].x)
			return -1;
		if (e[i].w < row->min_p ||
		    (row->top_k > 0 && i >= row->top_k && e[i].x != e[row->top_k - 1].x))
			break;
		sum += e[i].w, kept++;
	}
	for (int i = 0; i < kept && row->top_p < 1; run += e[i++].w) {
		if (i && fabs(run - row->top_p * sum) < 1e-9 * sum)
			return -1;
		if (i && run >= row->top_p * sum) {
			kept = i, sum = run;
			break;
		}
	}
	if (row->typical_p < 1)
		kept = twin_typical(e, kept, row->typical_p);
	if (kept < 0)
		return -1;
	qsort(e, (size_t)kept, sizeof(*e), by_id);
	sum = run = 0;
	for (int i = 0; i < kept; i++)
		sum += e[i].w;
	for (int i = 0; i < kept; i++) {
		run += e[i].w;
		if (fabs(run - u * sum) < 1e-9 * sum)
			return -1;
		if (run > u * sum)
			return e[i].id;
	}
	return -1;
}

/* Tokens of a history; the same memory for all, with some that are no columns. */
static int32_t said[1 << 16];

static void random_history(int n, struct nvllm_sample_row *row, uint64_t *s)
{
	static const double reps[] = { 1, 1, 1.2, 0.7, 3 };
	static int next;
	int from = next, some = n < 20 ? n : 20;

	next = next + 80 > COUNT(said) ? 0 : next + 40; /* many cases may be in use at once */

	if (fake_random(s) % 2)
		return;
	row->n_tokens = (int32_t)(fake_random(s) % 40);
	row->n_prompt = (int32_t)(fake_random(s) % (uint64_t)(row->n_tokens + 1));
	row->tokens = said + from;
	for (int i = from; i < from + 40; i++)
		said[i] = (int32_t)(fake_random(s) % (uint64_t)some) +
			(i % 17 == 3 ? -3 : i % 17 == 5 ? n : 0);
	row->repetition = reps[fake_random(s) % 5];
	row->presence = fake_random(s) % 2 ? 0 : (double)(fake_random(s) % 9) / 2 - 2;
	row->frequency = fake_random(s) % 2 ? 0 : (double)(fake_random(s) % 9) / 2 - 2;
}

static void random_case(float *x, int n, struct nvllm_sample_row *row, uint64_t *s)
{
	static const double temps[] = { 0.02, 0.3, 0.7, 1, 1.3, 5 };
	static const double ps[] = { 1e-9, 0.1, 0.5, 0.9, 0.999, 1 };
	static const double typ[] = { 1e-9, 0.2, 0.7, 0.99 };
	static const double mins[] = { 0, 0, 1e-6, 0.05, 0.3, 1 };
	int kind = (int)(fake_random(s) % 5);

	for (int i = 0; i < n; i++) {
		x[i] = fake_normal(s) * (kind == 4 ? 400 : 3);
		if (kind == 1) /* many ties */
			x[i] = roundf(x[i]);
		if (kind == 2 && fake_random(s) % 3 == 0)
			x[i] = fake_random(s) % 2 ? NAN : -INFINITY;
		if (kind == 3)
			x[i] = 1.5f;
	}
	*row = plain_row();
	row->temperature = temps[fake_random(s) % 6];
	row->top_p = ps[fake_random(s) % 6];
	row->min_p = mins[fake_random(s) % 6];
	row->top_k = fake_random(s) % 2 ? 0 : (int64_t)(fake_random(s) % (uint64_t)(2 * n));
	row->seed = fake_random(s), row->position = fake_random(s);
	row->choice = (int32_t)(fake_random(s) % 9);
	row->typical_p = fake_random(s) % 2 ? 1 : typ[fake_random(s) % 4];
	random_history(n, row, s);
}

static void test_twin(void **state)
{
	uint64_t seed = 77;
	int unsure = 0;

	(void)state;
	for (int t = 0; t < 6000; t++) {
		int n = 1 + (int)(fake_random(&seed) % (t % 3 ? 40 : 1500));
		float *x = malloc((size_t)n * sizeof(*x)), *copy = malloc((size_t)n * sizeof(*x));
		struct entry *e = malloc((size_t)n * sizeof(*e));
		struct nvllm_sample_row row;
		int32_t want, got;

		random_case(x, n, &row, &seed);
		if (t % 10 == 7)
			row.temperature = 0;
		memcpy(copy, x, (size_t)n * sizeof(*x));
		got = one("sampler_topk_topp", x, n, row);
		assert_memory_equal(copy, x, (size_t)n * sizeof(*x));
		want = twin(x, n, &row, e);
		unsure += want < 0;
		if (want >= 0 && want != got)
			fail_msg("case %d: %d, not %d (n %d temperature %g top_k %ld top_p %g "
				"min_p %g typical_p %g repetition %g presence %g frequency %g)", t,
				got, want, n, row.temperature, (long)row.top_k, row.top_p, row.min_p,
				row.typical_p, row.repetition, row.presence, row.frequency);
		free(x), free(copy), free(e);
	}
	if (unsure > 350) /* a nucleus of 0.5 among equals often falls between two */
		fail_msg("%d of 6000 cases were too close to call", unsure);
}

/* ---- rows, order, threads ---- */

static void test_order(void **state)
{
	enum { N = 48, V = 700 };
	static float x[N * V], y[N * V];
	struct nvllm_sample_row rows[N], shuffled[N];
	int32_t alone[N], tokens[N];
	uint64_t seed = 5;

	(void)state;
	for (int i = 0; i < N; i++) {
		random_case(x + i * V, V, &rows[i], &seed);
		rows[i].slot = i % 11 == 3 ? -1 : i;
		alone[i] = one("sampler_topk_topp", x + i * V, V, rows[i]);
		if (rows[i].slot < 0)
			assert_int_equal(alone[i], 0);
	}
	for (int i = 0; i < N; i++) {
		memcpy(y + i * V, x + i * 31 % N * V, V * sizeof(float));
		shuffled[i] = rows[i * 31 % N];
	}
	for (int w = 1; w <= 4; w++) {
		struct rig r;

		rig_open(&r, "sampler_topk_topp", V, w);
		sample(&r, x, V * sizeof(float), rows, N, tokens);
		assert_memory_equal(tokens, alone, sizeof(alone));
		assert_int_equal(r.dev.n_calls, 1);
		sample(&r, y, V * sizeof(float), shuffled, N, tokens);
		for (int i = 0; i < N; i++)
			assert_int_equal(tokens[i], alone[i * 31 % N]);
		rig_close(&r);
	}
}

/* ---- edges ---- */

static const char *const both[] = { "sampler_greedy", "sampler_topk_topp" };

static void test_argmax(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (int t = 0; t < 600; t++) {
		int n = 1 + (int)(fake_random(&seed) % 70), want = 0;
		float x[70], max = -INFINITY;
		struct nvllm_sample_row row;

		random_case(x, n, &row, &seed);
		row.tokens = NULL; /* with penalties, greedy would be another's work */
		for (int i = 0; i < n; i++)
			if (x[i] > max)
				max = x[i], want = i;
		row.temperature = t % 2 ? 0 : 1e-310;
		if (t % 2 == 0)
			row.top_k = 1, row.seed = 0;
		assert_int_equal(one("sampler_greedy", x, n, row), want);
		if (t % 2 || n == 1)
			assert_int_equal(one("sampler_topk_topp", x, n, row), want);
	}
}

static void test_edges(void **state)
{
	static const float nan4[] = { NAN, NAN, NAN, NAN };
	static const float low4[] = { -INFINITY, -INFINITY, NAN, -INFINITY };
	static const float inf4[] = { 3, NAN, INFINITY, INFINITY };
	static const float top4[] = { NAN, -INFINITY, 7, 7 };
	static const float wide4[] = { -3e38f, 3e38f, -1, 3e38f };
	static const float near4[] = { 1, 2, 3, 2.9999998f };

	(void)state;
	for (int i = 0; i < 2; i++)
		for (int u = 0; u < 40; u++) {
			struct nvllm_sample_row row = plain_row();
			int32_t t;

			row.temperature = i ? 1 : 0;
			row.seed = (uint64_t)u;
			assert_int_equal(one(both[i], nan4, 4, row), 0);
			assert_int_equal(one(both[i], low4, 4, row), 0);
			assert_int_equal(one(both[i], inf4, 4, row), 2);
			t = one(both[i], top4, 4, row);
			assert_true(t == 2 || (i && t == 3));
			t = one(both[i], wide4, 4, row);
			assert_true(t == 1 || (i && t == 3));
			row.top_k = 1; /* ties are all kept, the nucleus takes the lowest */
			row.top_p = 1e-300;
			assert_int_equal(one(both[i], top4, 4, row), 2);
			row.top_k = INT64_MAX, row.top_p = 1, row.min_p = 1;
			assert_int_equal(one(both[i], near4, 4, row), 2);
			row.temperature = i ? 1e-300 : 0, row.min_p = 0;
			assert_int_equal(one(both[i], near4, 4, row), 2);
			row.temperature = i ? 1e-12 : 0;
			assert_int_equal(one(both[i], near4, 4, row), 2);
		}
}

/* Both tokens of a tie come, and about as often. */
static void test_tie(void **state)
{
	static const float x[] = { 1, 5, 2, 5 };
	struct nvllm_sample_row row = plain_row();
	int second = 0;

	(void)state;
	row.top_k = 1;
	for (int i = 0; i < 1000; i++) {
		int32_t t;

		row.position = (uint64_t)i;
		t = one("sampler_topk_topp", x, 4, row);
		assert_true(t == 1 || t == 3);
		second += t == 3;
	}
	assert_in_range(second, 420, 580);
}

/* typical_p keeps all that are as near as the last: of equals all, of two pairs both of a
 * pair; and a small one need not keep the likeliest. */
static void test_typical(void **state)
{
	static const float same[] = { 2, 2, 2, 2, 2 };
	static const float pairs[] = { 3, 1, 3, 1 };
	/* p = .45, then 55 of .01: H is near -log .02, so the small ones are the typical */
	float skew[56];
	int32_t seen[3] = { 0 };

	(void)state;
	skew[0] = logf(45);
	for (int i = 1; i < 56; i++)
		skew[i] = 0;
	for (int i = 0; i < 300; i++) {
		struct nvllm_sample_row row = plain_row();

		row.position = (uint64_t)i;
		row.typical_p = 0.1;
		seen[0] |= 1 << one("sampler_topk_topp", same, 5, row);
		seen[1] |= 1 << one("sampler_topk_topp", pairs, 4, row);
		seen[2] |= one("sampler_topk_topp", skew, 56, row) == 0;
	}
	assert_int_equal(seen[0], 31);
	assert_int_equal(seen[1], 5);
	assert_int_equal(seen[2], 0);
}

/* Ids as they come in a long history cost what they cost once: the marks are cleared. */
static void test_penalties(void **state)
{
	static const float x[] = { 4, 3.5f, -1, 0 };
	static const int32_t t[] = { 0, 0, 1, 0, 2, 2, -1, 4, INT32_MAX, INT32_MIN };
	struct { double r, p, f; int n_prompt, n; int32_t want; } cases[] = {
		{ 1, 0, 0, 2, 10, 0 }, { 1.2, 0, 0, 2, 2, 1 }, { 1.1, 0, 0, 1, 1, 0 },
		{ 1, 0.6, 0, 2, 2, 0 }, { 1, 0.6, 0, 0, 2, 1 }, { 1, 0, 0.3, 0, 1, 0 },
		{ 1, 0, 0.3, 0, 2, 1 }, { 1, 2, 2, 0, 10, 3 }, { 1e-9, 0, 0, 2, 5, 0 },
		{ 1e9, 0, 0, 2, 10, 0 }, { 1, 0, -2, 4, 10, 0 }, { 1, -1, -2.1, 4, 6, 2 } };
	struct rig r;

	(void)state;
	rig_open(&r, "sampler_topk_topp", 4, 1);
	for (int again = 0; again < 2; again++)
		for (int i = 0; i < COUNT(cases); i++) {
			struct nvllm_sample_row row = plain_row();
			int32_t token;

			row.temperature = 0;
			row.tokens = t, row.n_prompt = cases[i].n_prompt, row.n_tokens = cases[i].n;
			row.repetition = cases[i].r;
			row.presence = cases[i].p, row.frequency = cases[i].f;
			sample(&r, x, 0, &row, 1, &token);
			if (token != cases[i].want)
				fail_msg("case %d: token %d, not %d", i, token, cases[i].want);
		}
	rig_close(&r);
}

/* Nonsense that the engine would have refused may not crash. */
static void test_nonsense(void **state)
{
	static const double odd[] = { NAN, INFINITY, -INFINITY, -1, 0, 2, 1e308, -0., 5e-324 };
	float x[33];
	uint64_t seed = 8;

	(void)state;
	for (int i = 0; i < 33; i++)
		x[i] = fake_normal(&seed) * 5;
	for (int a = 0; a < COUNT(odd); a++)
		for (int b = 0; b < COUNT(odd); b++)
			for (int c = 0; c < COUNT(odd); c++) {
				struct nvllm_sample_row row = plain_row();

				row.temperature = odd[a], row.top_p = odd[b], row.min_p = odd[c];
				row.top_k = a - 4;
				one("sampler_topk_topp", x, 33, row);
				row = plain_row();
				row.typical_p = odd[a], row.repetition = odd[b];
				row.presence = odd[c], row.frequency = odd[(a + b) % COUNT(odd)];
				row.tokens = said, row.n_prompt = b - 2, row.n_tokens = 9 + a;
				one("sampler_topk_topp", x, 33, row);
			}
}

static void test_refusals(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		const struct nvllm_sampler_vt *vt;
		struct rig r;

		rig_open(&r, both[i], 100, 1);
		vt = r.vt;
		assert_int_equal(vt->flags, NVLLM_SAMPLER_HOST);
		assert_int_equal(vt->takes, i ? NVLLM_TAKES_TEMPERATURE | NVLLM_TAKES_TOP_K |
			NVLLM_TAKES_TOP_P | NVLLM_TAKES_MIN_P | NVLLM_TAKES_TYPICAL_P |
			NVLLM_TAKES_REPETITION | NVLLM_TAKES_PRESENCE | NVLLM_TAKES_FREQUENCY |
			NVLLM_TAKES_SEED : 0);
		assert_int_equal(vt->need, 0);
		r.env.vocab_n = 50;
		assert_int_equal(vt->create(&r.host.h, &r.env, NULL, &r.s), NVLLM_ENOTSUP);
		assert_non_null(strstr(r.host.said, "whole vocabulary"));
		rig_close(&r);
	}
}

/* ---- cache none ---- */

static void test_cache_none(void **state)
{
	const struct nvllm_component *c = fake_plugin("cache_none");
	struct nvllm_cache_stats st = { .size = sizeof(st), .held = 9, .hit_tokens = 9 };
	int32_t tokens[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, pages[2] = { 4, 5 };
	const struct nvllm_cache_vt *vt;
	struct nvllm_cache *cache = NULL;
	struct fake_host h;

	(void)state;
	assert_non_null(c);
	assert_int_equal(c->kind, NVLLM_KIND_CACHE);
	vt = c->vt;
	fake_host_init(&h);
	assert_int_equal(vt->create(&h.h, 10, 4, NULL, &cache), NVLLM_OK);
	assert_int_equal(vt->match(cache, 0, tokens, 8, pages, 1), 0);
	assert_int_equal(vt->insert(cache, 0, tokens, 2, pages), 0);
	assert_int_equal(vt->match(cache, 0, tokens, 8, pages, 1), 0);
	vt->release(cache, pages, 0);
	assert_int_equal(vt->evict(cache, 2, pages), 0);
	assert_true(pages[0] == 4 && pages[1] == 5);
	vt->stats(cache, &st);
	assert_true(st.held == 0 && st.pinned == 0 && st.hit_tokens == 0 && st.asked_tokens == 16);
	assert_int_equal(vt->check(cache), NVLLM_OK);
	fake_host_finish(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_twin),
		cmocka_unit_test(test_order), cmocka_unit_test(test_argmax),
		cmocka_unit_test(test_edges), cmocka_unit_test(test_tie),
		cmocka_unit_test(test_typical), cmocka_unit_test(test_penalties),
		cmocka_unit_test(test_nonsense), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_cache_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
