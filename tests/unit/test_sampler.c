/* SPDX-License-Identifier: MIT */
/* The samplers greedy and topk_topp: against exact distributions of a reference run
 * (tests/data/sampling), against a plain twin that sorts, and at the edges; and the
 * cache policy none, which has nothing to it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <nvllm/cache.h>
#include <nvllm/random.h>
#include <nvllm/sampler.h>

#include "fake_device.h"

#define DATA "tests/data/sampling/"
#define ROWS 64
#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

/* ---- an instance ---- */

struct rig {
	struct fake_host host;
	struct nvllm_device dev;
	struct nvllm_sampler_env env;
	const struct nvllm_sampler_vt *vt;
	struct nvllm_sampler *s;
	void *workspace;
};

static void rig_open(struct rig *r, const char *plugin, int64_t vocab, int n_workers)
{
	const struct nvllm_component *c = fake_plugin(plugin);

	assert_non_null(c);
	assert_int_equal(c->kind, NVLLM_KIND_SAMPLER);
	memset(r, 0, sizeof(*r));
	fake_host_init(&r->host);
	fake_device_init(&r->dev, n_workers, "scalar");
	r->env = (struct nvllm_sampler_env){ .size = sizeof(r->env), .max_rows = ROWS,
		.dev = &r->dev.ref, .vocab = vocab, .vocab_n = vocab };
	r->vt = c->vt;
	assert_int_equal(r->vt->create(&r->host.h, &r->env, NULL, &r->s), NVLLM_OK);
	r->workspace = malloc((size_t)r->env.workspace_bytes + 1);
	memset(r->workspace, 0xff, (size_t)r->env.workspace_bytes);
}

static void rig_close(struct rig *r)
{
	free(r->workspace);
	fake_host_finish(&r->host);
}

static struct nvllm_sample_row plain_row(void)
{
	return (struct nvllm_sample_row){ .temperature = 1, .top_p = 1, .typical_p = 1,
		.repetition = 1 };
}

/* Logits [n_rows][vocab] with stride 0 if all rows are the same one. */
static void sample(struct rig *r, const float *x, int64_t stride,
	const struct nvllm_sample_row *rows, int32_t n, int32_t *tokens)
{
	struct nvllm_tensor t = { .data = (void *)(uintptr_t)x, .rows = n, .cols = r->env.vocab,
		.stride = stride, .planes = 1, .dtype = NVLLM_F32 };

	for (int32_t i = 0; i < n; i++)
		tokens[i] = -99;
	assert_int_equal(r->vt->sample(r->s, NULL, t, rows, n, tokens, r->workspace), NVLLM_OK);
	for (int32_t i = 0; i < n; i++)
		assert_in_range(tokens[i], 0, r->env.vocab - 1);
}

static int32_t one(const char *plugin, const float *x, int64_t vocab, struct nvllm_sample_row row)
{
	struct rig r;
	int32_t token;

	rig_open(&r, plugin, vocab, 1);
	sample(&r, x, 0, &row, 1, &token);
	rig_close(&r);
	return token;
}

/* ---- against the reference's distributions ---- */

struct known {
	char id[64], file[64];
	struct nvllm_sample_row row;
	int n;
	int32_t *token;
	double *prob;
};

static float *read_npy(const char *file, int64_t *n)
{
	char path[256], head[10];
	FILE *f;
	long size;
	float *x;

	snprintf(path, sizeof(path), DATA "%s", file);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fread(head, 1, sizeof(head), f), sizeof(head));
	fseek(f, 0, SEEK_END);
	size = ftell(f) - (long)sizeof(head) - (head[8] & 0xff) - (head[9] & 0xff) * 256;
	fseek(f, -size, SEEK_END);
	x = malloc((size_t)size);
	*n = size / (long)sizeof(float);
	assert_int_equal(fread(x, sizeof(float), (size_t)*n, f), *n);
	fclose(f);
	return x;
}

/* The next case of the file; 0 at its end. */
static int read_case(FILE *f, struct known *k)
{
	int c;

	while ((c = fgetc(f)) == '#')
		while ((c = fgetc(f)) != '\n')
			assert_int_not_equal(c, EOF);
	if (c == EOF)
		return 0;
	ungetc(c, f);
	memset(k, 0, sizeof(*k));
	k->row = plain_row();
	assert_int_equal(fscanf(f, "%63s %63s %lf %ld %lf %lf %d", k->id, k->file,
		&k->row.temperature, &k->row.top_k, &k->row.top_p, &k->row.min_p, &k->n), 7);
	k->token = calloc((size_t)k->n, sizeof(*k->token));
	k->prob = calloc((size_t)k->n, sizeof(*k->prob));
	for (int i = 0; i < k->n; i++)
		assert_int_equal(fscanf(f, "%d:%lf", &k->token[i], &k->prob[i]), 2);
	assert_int_equal(fgetc(f), '\n');
	return 1;
}

/* Pearson's statistic with cells below 5 pooled, against its mean and deviation. */
static void check_counts(const struct known *k, const int *count, int draws)
{
	double x2 = 0, pool = 0, dof = -1, got = 0;

	for (int i = 0; i < k->n; i++) {
		double want = k->prob[i] * draws, have = count[k->token[i]];

		if (want < 5) {
			pool += want, got += have;
			continue;
		}
		x2 += (have - want) * (have - want) / want;
		dof++;
	}
	if (pool >= 5)
		x2 += (got - pool) * (got - pool) / pool, dof++;
	else
		assert_true(got <= 20);
	if (x2 > dof + 4.5 * sqrt(2 * dof + 1) + 4)
		fail_msg("%s: chi-square %.1f with %.0f degrees of freedom", k->id, x2, dof);
}

/* Draws, and checks each against the number that decides it; counts in count[]. */
static void draw_many(struct rig *r, const struct known *k, const float *x, int draws, int *count)
{
	struct nvllm_sample_row rows[ROWS];
	int32_t tokens[ROWS];
	int near = 0;

	for (int at = 0; at < draws; at += ROWS) {
		for (int i = 0; i < ROWS; i++) {
			rows[i] = k->row;
			rows[i].seed = 1234 + (uint64_t)(at + i) / 1000;
			rows[i].position = (uint64_t)(at + i) % 1000;
			rows[i].choice = (at + i) % 7;
		}
		sample(r, x, 0, rows, ROWS, tokens);
		for (int i = 0; i < ROWS; i++) {
			double u = nvllm_uniform(rows[i].seed, rows[i].choice, rows[i].position);
			double sum = 0;
			int j = 0;

			for (; j < k->n && k->token[j] != tokens[i]; j++)
				sum += k->prob[j];
			if (j == k->n)
				fail_msg("%s: token %d is not kept", k->id, tokens[i]);
			if (u < sum - 1e-9 || u > sum + k->prob[j] + 1e-9)
				fail_msg("%s: %.12g drew token %d, which has %.12g to %.12g", k->id,
					u, tokens[i], sum, sum + k->prob[j]);
			near += u < sum || u > sum + k->prob[j];
			count[tokens[i]]++;
		}
	}
	assert_true(near <= 1 + draws / 10000);
}

static void test_known(void **state)
{
	FILE *f = fopen(DATA "cases.txt", "r");
	struct known k;
	int cases = 0;

	(void)state;
	assert_non_null(f);
	for (; read_case(f, &k); cases++) {
		int draws = cases % 20 == 4 ? 100032 : 4800;
		int64_t vocab;
		float *x = read_npy(k.file, &vocab);
		int *count = calloc((size_t)vocab, sizeof(*count));
		struct rig r;

		rig_open(&r, "sampler_topk_topp", vocab, 1);
		r.dev.info.caps = NVLLM_DEV_HOST_MEM; /* no threads here: they are many calls */
		draw_many(&r, &k, x, draws, count);
		check_counts(&k, count, draws / ROWS * ROWS);
		rig_close(&r);
		free(x), free(count), free(k.token), free(k.prob);
	}
	fclose(f);
	assert_int_equal(cases, 53);
}

/* ---- against a twin that sorts ---- */

struct entry { double x, w; int32_t id; };

static int by_logit(const void *a, const void *b)
{
	const struct entry *p = a, *q = b;

	return p->x != q->x ? (p->x < q->x ? 1 : -1) : p->id < q->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
	const struct entry *p = a, *q = b;

	return p->id < q->id ? -1 : p->id > q->id;
}

/* The token the definition gives; -1 where rounding may decide. */
static int32_t twin(const float *x, int n, const struct nvllm_sample_row *row, struct entry *e)
{
	double sum = 0, run = 0, u = nvllm_uniform(row->seed, row->choice, row->position);
	int kept = 0, m = 0;

	for (int i = 0; i < n; i++)
		if (x[i] > -INFINITY)
			e[m++] = (struct entry){ (double)x[i], 0, i };
	if (m == 0)
		return 0;
	qsort(e, (size_t)m, sizeof(*e), by_logit);
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
	qsort(e, (size_t)kept, sizeof(*e), by_id);
	run = 0;
	for (int i = 0; i < kept; i++) {
		run += e[i].w;
		if (fabs(run - u * sum) < 1e-9 * sum)
			return -1;
		if (run > u * sum)
			return e[i].id;
	}
	return -1;
}

static void random_case(float *x, int n, struct nvllm_sample_row *row, uint64_t *s)
{
	static const double temps[] = { 0.02, 0.3, 0.7, 1, 1.3, 5 };
	static const double ps[] = { 1e-9, 0.1, 0.5, 0.9, 0.999, 1 };
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
}

static void test_twin(void **state)
{
	uint64_t seed = 77;
	int unsure = 0;

	(void)state;
	for (int t = 0; t < 3000; t++) {
		int n = 1 + (int)(fake_random(&seed) % (t % 3 ? 40 : 1500));
		float *x = malloc((size_t)n * sizeof(*x)), *copy = malloc((size_t)n * sizeof(*x));
		struct entry *e = malloc((size_t)n * sizeof(*e));
		struct nvllm_sample_row row;
		int32_t want, got;

		random_case(x, n, &row, &seed);
		memcpy(copy, x, (size_t)n * sizeof(*x));
		got = one("sampler_topk_topp", x, n, row);
		assert_memory_equal(copy, x, (size_t)n * sizeof(*x));
		want = twin(x, n, &row, e);
		unsure += want < 0;
		if (want >= 0 && want != got)
			fail_msg("case %d: %d, not %d (n %d temperature %g top_k %ld top_p %g "
				"min_p %g)", t, got, want, n, row.temperature, (long)row.top_k,
				row.top_p, row.min_p);
		free(x), free(copy), free(e);
	}
	if (unsure > 120) /* a nucleus of 0.5 among equals often falls between two */
		fail_msg("%d of 3000 cases were too close to call", unsure);
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
			NVLLM_TAKES_TOP_P | NVLLM_TAKES_MIN_P | NVLLM_TAKES_SEED : 0);
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
		cmocka_unit_test(test_known), cmocka_unit_test(test_twin),
		cmocka_unit_test(test_order), cmocka_unit_test(test_argmax),
		cmocka_unit_test(test_edges), cmocka_unit_test(test_tie),
		cmocka_unit_test(test_nonsense), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_cache_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
