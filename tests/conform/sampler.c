/* SPDX-License-Identifier: MIT */
/* tests/conform/sampler.c - a sampler against exact distributions: penalties, temperature,
 * then min_p, top_k, top_p and typical_p, each on what the one before left, as vLLM orders
 * them and sampler.h says; greedy at temperature 0; the rule that a token hangs on its own
 * row alone; and, of one that runs on the host, that it runs beside any device. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../sanitized.h"
#include "check.h"

#define MAX_ROWS 8
#define N_PROMPT 20
#define N_HISTORY 50
#define PENALTIES (NVLLM_TAKES_REPETITION | NVLLM_TAKES_PRESENCE | NVLLM_TAKES_FREQUENCY)

struct sut {
	const struct nvllm_sampler_vt *vt;
	struct nvllm_sampler *s;
	int64_t vocab;
	void *workspace;
	float *logits;  /* [MAX_ROWS][stride] */
	int64_t stride; /* floats */
	int32_t *said;  /* [N_HISTORY] a history for rows with penalties */
};

/* A few tokens again and again, from all over the vocabulary. */
static void fill_history(int32_t *t, int64_t vocab)
{
	struct rng r = { 31 };

	for (int i = 0; i < N_HISTORY; i++)
		t[i] = (int32_t)(rng_int(&r, vocab < 9 ? vocab : 9) * (vocab < 9 ? 1 : vocab / 9));
}

static int sut_open_on(struct sut *u, const struct nvllm_component *c, int64_t vocab,
	const struct nvllm_device_ref *dev)
{
	struct nvllm_sampler_env env = { .size = sizeof(env),
		.max_rows = MAX_ROWS,
		.dev = dev,
		.vocab = vocab,
		.vocab_first = 0,
		.vocab_n = vocab };
	struct nvllm_sampler_env *kept = malloc(sizeof(env));
	int err;
	const void *conf = ck_conf(c, NULL, &err);

	memset(u, 0, sizeof(*u));
	if (err || !kept)
		return -1;
	*kept = env;
	u->vt = c->vt;
	fake_hush();
	if (ck_refusal(u->vt->create(fake_host(), kept, conf, &u->s), "create") < 0)
		return ck_bad("create refuses a vocabulary of %ld: %s", (long)vocab, fake_said());
	if (!u->s)
		return ck_bad("create returned 0 and no instance");
	u->vt = mirror_sampler(u->vt);
	u->vocab = vocab;
	u->stride = vocab + 5;
	u->logits = gmem_get("the logits", MAX_ROWS * u->stride * 4, 64);
	u->workspace = kept->workspace_bytes ?
		gmem_get("the sampler's workspace", kept->workspace_bytes, 256) : NULL;
	u->said = gmem_get("the rows' tokens", N_HISTORY * 4, 4);
	if (!u->logits || !u->said)
		return ck_bad("no memory");
	fill_history(u->said, vocab);
	return 0;
}

static const struct nvllm_device_ref *device; /* the suite's */

static int sut_open(struct sut *u, const struct nvllm_component *c, int64_t vocab)
{
	return sut_open_on(u, c, vocab, device);
}

static void sut_close(struct sut *u)
{
	if (u->s && NVLLM_HAS(u->vt, destroy) && u->vt->destroy)
		u->vt->destroy(u->s);
	gmem_put(u->logits);
	gmem_put(u->workspace);
	gmem_put(u->said);
}

static float *row_of(struct sut *u, int r)
{
	return u->logits + r * u->stride;
}

static struct nvllm_sample_row plain_row(uint64_t seed, uint64_t position)
{
	struct nvllm_sample_row row = { .temperature = 1,
		.top_p = 1,
		.typical_p = 1,
		.repetition = 1,
		.seed = seed,
		.position = position };

	return row;
}

static void with_history(struct nvllm_sample_row *row, const int32_t *said, int n)
{
	row->tokens = said;
	row->n_prompt = N_PROMPT;
	row->n_tokens = n;
}

/* One call on rows [0, n): tokens checked for range, logits for being left alone. */
static int draw(struct sut *u, const struct nvllm_sample_row *rows, int n, int32_t *tokens)
{
	struct nvllm_tensor t = { .data = u->logits,
		.rows = n,
		.cols = u->vocab,
		.stride = u->stride * 4,
		.planes = 1,
		.dtype = NVLLM_F32 };
	struct nvllm_sample_row *r = gmem_get("the rows", n * (int64_t)sizeof(*r), 8);
	int32_t *out = gmem_get("the tokens", n * 4, 4), said[N_HISTORY];
	int status;

	fill_history(said, u->vocab);
	memcpy(r, rows, (size_t)n * sizeof(*r));
	ck_step_begin();
	status = u->vt->sample(u->s, NULL, t, r, n, out, u->workspace);
	ck_step_end();
	if (status)
		ck_bad("sample returned %d: %s", status, fake_said());
	if (memcmp(r, rows, (size_t)n * sizeof(*r)))
		ck_bad("sample wrote to the rows");
	if (memcmp(said, u->said, sizeof(said)))
		ck_bad("sample wrote to a row's tokens");
	for (int i = 0; i < n && !status; i++)
		if (out[i] < 0 || out[i] >= u->vocab)
			status = ck_bad("row %d of %d gave token %d, vocabulary %ld", i, n, out[i],
				(long)u->vocab);
	memcpy(tokens, out, (size_t)n * 4);
	gmem_put(r);
	gmem_put(out);
	return status;
}

static void random_rows(struct nvllm_sample_row *rows, uint64_t takes, const int32_t *said)
{
	for (int i = 0; i < MAX_ROWS; i++) {
		rows[i] = plain_row(100 + (uint64_t)i % 3, 1000 + (uint64_t)i);
		rows[i].choice = i % 2;
		if (takes & NVLLM_TAKES_TEMPERATURE)
			rows[i].temperature = 0.5 + 0.3 * i;
		if (takes & NVLLM_TAKES_TOP_K && i % 3 == 1)
			rows[i].top_k = 5;
		if (takes & NVLLM_TAKES_TOP_P && i % 3 == 2)
			rows[i].top_p = 0.8;
		if (takes & NVLLM_TAKES_MIN_P && i % 4 == 3)
			rows[i].min_p = 0.05;
		if (takes & NVLLM_TAKES_TYPICAL_P && i % 4 == 2)
			rows[i].typical_p = 0.6;
		if (i % 2)
			with_history(&rows[i], said, N_HISTORY - i);
		if (takes & NVLLM_TAKES_REPETITION)
			rows[i].repetition = 1 + 0.2 * (i % 3);
		if (takes & NVLLM_TAKES_PRESENCE)
			rows[i].presence = i % 3 - 0.7;
		if (takes & NVLLM_TAKES_FREQUENCY)
			rows[i].frequency = 0.3 - i % 2;
	}
}

/* ---- greedy ---- */

static int32_t argmax(const float *x, int64_t n)
{
	int32_t best = 0;
	float top = -INFINITY;

	for (int64_t i = 0; i < n; i++)
		if (x[i] > top)
			top = x[i], best = (int32_t)i;
	return best;
}

static void fill_random(struct sut *u, uint64_t seed)
{
	struct rng r = { seed };

	for (int64_t i = 0; i < MAX_ROWS * u->stride; i++)
		u->logits[i] = (float)(rng_unit(&r) * 8);
}

static void check_greedy(const struct nvllm_component *c, int64_t vocab)
{
	struct sut u;
	struct nvllm_sample_row rows[MAX_ROWS];
	int32_t got[MAX_ROWS];

	ck_begin("temperature 0 takes the largest logit, vocabulary %ld", (long)vocab);
	if (sut_open(&u, c, vocab) == 0) {
		for (int round = 0; round < 20; round++) {
			fill_random(&u, 7u + (unsigned)round);
			for (int i = 0; i < MAX_ROWS; i++) {
				rows[i] = plain_row(1, (uint64_t)i);
				rows[i].temperature = 0;
			}
			if (draw(&u, rows, MAX_ROWS, got))
				break;
			for (int i = 0; i < MAX_ROWS; i++)
				if (got[i] != argmax(row_of(&u, i), vocab))
					ck_bad("round %d, row %d: token %d, the largest logit is "
					       "%d's",
						round, i, got[i], argmax(row_of(&u, i), vocab));
		}
	}
	sut_close(&u);
	ck_end();
}

/* Penalties change what greedy takes. */
static void check_greedy_penalties(const struct nvllm_component *c, uint64_t takes)
{
	struct nvllm_sample_row rows[MAX_ROWS];
	int32_t got[MAX_ROWS], want;
	float x[61];
	struct sut u;

	ck_begin("temperature 0 takes the largest logit after the penalties it takes");
	if (sut_open(&u, c, 61) == 0)
		for (int round = 0; round < 40 && ck_good(); round++) {
			fill_random(&u, 40u + (unsigned)round);
			random_rows(rows, takes & PENALTIES, u.said);
			for (int64_t i = 0; i < MAX_ROWS * u.stride && round % 2; i++)
				u.logits[i] -= 30; /* below 0, where penalties multiply */
			for (int i = 0; i < MAX_ROWS; i++) {
				rows[i].temperature = 0;
				for (int j = 0; j < 9; j++) /* what was said is likely */
					row_of(&u, i)[u.said[N_HISTORY - 1 - j]] += round % 2 ? 2 : 8;
			}
			draw(&u, rows, MAX_ROWS, got);
			for (int i = 0; i < MAX_ROWS && ck_good(); i++) {
				ref_penalise(row_of(&u, i), 61, &rows[i], x);
				want = argmax(x, 61);
				if (got[i] != want)
					ck_bad("round %d, row %d: token %d, the largest logit is "
					       "%d's", round, i, got[i], want);
			}
		}
	sut_close(&u);
	ck_end();
}

/* Rows whose answer is known: name, logits by function, expected token. */
static void odd_row(int kind, float *x, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		x[i] = kind == 0 || kind == 4 ? -INFINITY
			: kind == 1           ? NAN
			: kind == 2           ? 3.5f
					      : (float)(i % 7);
	if (kind == 3)
		x[11] = x[29] = x[50] = 40;
	if (kind == 4)
		x[17] = -1e30f;
	if (kind == 5)
		x[3] = NAN, x[40] = NAN, x[41] = 20;
}

static void check_odd_rows(const struct nvllm_component *c)
{
	static const struct { const char *what; int32_t want; } odd[] = {
		{ "all -inf", 0 }, { "all NaN", 0 }, { "all equal", 0 }, { "a tie of three", 11 },
		{ "one finite logit", 17 }, { "NaN beside the largest", 41 } };
	struct nvllm_sample_row rows[6];
	int32_t got[6];
	struct sut u;

	ck_begin("ties, NaN and -inf: the lowest id of the largest");
	if (sut_open(&u, c, 61) == 0) {
		for (int i = 0; i < 6; i++) {
			odd_row(i, row_of(&u, i), u.vocab);
			rows[i] = plain_row(3, 9);
			rows[i].temperature = 0;
		}
		if (draw(&u, rows, 6, got) == 0)
			for (int i = 0; i < 6; i++)
				if (got[i] != odd[i].want)
					ck_bad("%s: token %d, expected %d", odd[i].what, got[i],
						odd[i].want);
	}
	sut_close(&u);
	ck_end();
	ck_begin("drawing from NaN, -inf and one finite logit");
	if (sut_open(&u, c, 61) == 0) {
		for (int i = 0; i < 6; i++) {
			odd_row(i, row_of(&u, i), u.vocab);
			rows[i] = plain_row(3, 9);
		}
		if (draw(&u, rows, 6, got) == 0 &&
			(got[0] != 0 || got[1] != 0 || got[4] != 17 || got[5] == 3 || got[5] == 40))
			ck_bad("all -inf gave %d, all NaN %d (0 expected), one finite %d (17 "
			       "expected), a "
			       "row with NaN %d",
				got[0], got[1], got[4], got[5]);
	}
	sut_close(&u);
	ck_end();
}

/* ---- independence ---- */

/* All at once, each alone, backwards, twice: the same token for the same row. */
static void check_independent(const struct nvllm_component *c)
{
	const struct nvllm_sampler_vt *vt = c->vt;
	struct nvllm_sample_row rows[MAX_ROWS], back[MAX_ROWS];
	int32_t all[MAX_ROWS], got[MAX_ROWS];
	float *copy;
	struct sut u;

	ck_begin("a row gives the same token alone, in any batch and in any order");
	if (sut_open(&u, c, 257) == 0 &&
		(copy = malloc(sizeof(float) * MAX_ROWS * (size_t)u.stride))) {
		fill_random(&u, 99);
		memcpy(copy, u.logits, sizeof(float) * MAX_ROWS * (size_t)u.stride);
		random_rows(rows, vt->takes, u.said);
		draw(&u, rows, MAX_ROWS, all);
		if (memcmp(copy, u.logits, sizeof(float) * MAX_ROWS * (size_t)u.stride))
			ck_bad("sample wrote to the logits");
		fake_device_order(1);
		for (int i = 0; i < MAX_ROWS; i++) {
			back[i] = rows[MAX_ROWS - 1 - i];
			memcpy(row_of(&u, i), copy + (MAX_ROWS - 1 - i) * u.stride,
				sizeof(float) * (size_t)u.stride);
		}
		draw(&u, back, MAX_ROWS, got);
		for (int i = 0; i < MAX_ROWS && ck_good(); i++)
			if (got[i] != all[MAX_ROWS - 1 - i])
				ck_bad("row %d gave token %d, in a batch of the other order %d",
					MAX_ROWS - 1 - i, all[MAX_ROWS - 1 - i], got[i]);
		for (int i = 0; i < MAX_ROWS && ck_good(); i++) {
			memcpy(row_of(&u, 0), copy + i * u.stride,
				sizeof(float) * (size_t)u.stride);
			draw(&u, &rows[i], 1, got);
			if (got[0] != all[i])
				ck_bad("row %d gave token %d in a batch of %d, alone %d", i, all[i],
					MAX_ROWS, got[0]);
		}
		fake_device_order(0);
		free(copy);
	}
	sut_close(&u);
	ck_end();
}

/* Of a sampler that runs on the host: a device that lends neither its memory nor its
 * threads, and the same tokens. */
static void check_any_device(const struct nvllm_component *c)
{
	static struct nvllm_device_vt vt;
	static struct nvllm_device_info info;
	const struct nvllm_device_ref *fake = fake_device();
	struct nvllm_device_ref ref = *fake;
	struct nvllm_sample_row rows[MAX_ROWS];
	int32_t want[MAX_ROWS], got[MAX_ROWS];
	struct sut u;

	ck_begin("beside a device without parallel_for whose memory it cannot see: the same tokens");
	vt = *fake->vt;
	vt.parallel_for = NULL;
	info = *fake->info;
	info.caps = 0;
	info.n_workers = 1;
	ref.vt = &vt;
	ref.info = &info;
	for (int bare = 0; bare < 2; bare++) {
		if (sut_open_on(&u, c, 257, bare ? &ref : fake) == 0) {
			fill_random(&u, 99);
			random_rows(rows, ((const struct nvllm_sampler_vt *)c->vt)->takes, u.said);
			draw(&u, rows, MAX_ROWS, bare ? got : want);
		}
		sut_close(&u);
	}
	for (int i = 0; i < MAX_ROWS && ck_good(); i++)
		if (got[i] != want[i])
			ck_bad("row %d gave token %d, with parallel_for %d", i, got[i], want[i]);
	ck_end();
}

static void check_padding(const struct nvllm_component *c)
{
	struct nvllm_sample_row rows[3];
	int32_t got[3];
	struct sut u;

	ck_begin("a padding row gives token 0 and disturbs no other");
	if (sut_open(&u, c, 33) == 0) {
		fill_random(&u, 5);
		for (int i = 0; i < 3; i++) {
			rows[i] = plain_row(8, 2);
			rows[i].temperature = 0;
		}
		rows[1].slot = -1;
		for (int64_t j = 0; j < u.vocab; j++)
			row_of(&u, 1)[j] = NAN;
		if (draw(&u, rows, 3, got) == 0) {
			if (got[1] != 0)
				ck_bad("the padding row gave token %d", got[1]);
			for (int i = 0; i < 3; i += 2)
				if (got[i] != argmax(row_of(&u, i), u.vocab))
					ck_bad("row %d beside padding gave token %d", i, got[i]);
		}
	}
	sut_close(&u);
	ck_end();
}

/* ---- distributions ---- */

struct cut {
	double temperature, top_p, min_p;
	int64_t top_k;
	uint64_t needs;
	double typical_p, repetition, presence, frequency; /* 0 = off */
};

static void set_row(struct nvllm_sample_row *r, const struct cut *k, const int32_t *said)
{
	r->temperature = k->temperature;
	r->top_k = k->top_k;
	r->top_p = k->top_p;
	r->min_p = k->min_p;
	r->typical_p = k->typical_p > 0 ? k->typical_p : 1;
	r->repetition = k->repetition > 0 ? k->repetition : 1;
	r->presence = k->presence;
	r->frequency = k->frequency;
	with_history(r, said, N_HISTORY);
}

static void check_chi(const struct nvllm_component *c, const struct cut *k, int vocab, int n_draws)
{
	int64_t *count = calloc((size_t)vocab, sizeof(*count));
	double *p = calloc((size_t)vocab, sizeof(*p)), sigma;
	float *x = calloc((size_t)vocab, sizeof(*x));
	struct nvllm_sample_row rows[MAX_ROWS];
	int32_t got[MAX_ROWS];
	struct rng r = { 11 };
	struct sut u;

	char more[128] = "";

	if (k->needs & (PENALTIES | NVLLM_TAKES_TYPICAL_P))
		snprintf(more, sizeof(more),
			", typical_p %g, repetition %g, presence %g, frequency %g",
			k->typical_p > 0 ? k->typical_p : 1, k->repetition > 0 ? k->repetition : 1,
			k->presence, k->frequency);
	n_draws /= SANITIZED ? 4 : 1;
	ck_begin("draws: temperature %g, top_k %ld, top_p %g, min_p %g%s, vocabulary %d",
		k->temperature, (long)k->top_k, k->top_p, k->min_p, more, vocab);
	if (sut_open(&u, c, vocab) == 0 && count && p && x) {
		for (int i = 0; i < vocab; i++)
			row_of(&u, 0)[i] = (float)(rng_unit(&r) * 3);
		for (int i = 1; i < MAX_ROWS; i++)
			memcpy(row_of(&u, i), row_of(&u, 0), sizeof(float) * (size_t)vocab);
		rows[0] = plain_row(0, 0);
		set_row(&rows[0], k, u.said);
		ref_penalise(row_of(&u, 0), vocab, &rows[0], x);
		ref_distribution(x, vocab, &rows[0], p);
		for (int i = 0; i < n_draws && ck_good(); i += MAX_ROWS) {
			for (int j = 0; j < MAX_ROWS; j++) {
				rows[j] = plain_row((uint64_t)(i + j) % 5, (uint64_t)(i + j) / 10);
				rows[j].choice = (i + j) / 5 % 2;
				set_row(&rows[j], k, u.said);
			}
			if (draw(&u, rows, MAX_ROWS, got) == 0)
				for (int j = 0; j < MAX_ROWS; j++)
					count[got[j]]++;
		}
		sigma = ck_good() ? ref_chi_sigma(count, p, vocab, n_draws) : 0;
		if (isinf(sigma))
			ck_bad("drew tokens that the parameters rule out");
		else if (sigma > 5)
			ck_bad("the counts of %d draws are %.1f sigma away from the exact "
			       "distribution",
				n_draws, sigma);
	}
	sut_close(&u);
	free(count);
	free(p);
	free(x);
	ck_end();
}

static void check_distributions(const struct nvllm_component *c, uint64_t takes)
{
	static const struct cut cuts[] = {
		{ 1, 1, 0, 0, 0 }, { 0.7, 1, 0, 0, 0 }, { 2.5, 1, 0, 0, 0 },
		{ 1, 1, 0, 1, NVLLM_TAKES_TOP_K }, { 1, 1, 0, 7, NVLLM_TAKES_TOP_K },
		{ 1, 1, 0, 1000, NVLLM_TAKES_TOP_K }, { 1, 0.9, 0, 0, NVLLM_TAKES_TOP_P },
		{ 0.8, 0.35, 0, 0, NVLLM_TAKES_TOP_P }, { 1, 1e-6, 0, 0, NVLLM_TAKES_TOP_P },
		{ 1, 1, 0.1, 0, NVLLM_TAKES_MIN_P }, { 1.5, 1, 0.5, 0, NVLLM_TAKES_MIN_P },
		{ 1, 1, 1, 0, NVLLM_TAKES_MIN_P },
		{ 0.9, 0.8, 0, 12, NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P },
		{ 1.2, 0.95, 0.08, 30, NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P | NVLLM_TAKES_MIN_P },
		{ 1, 1, 0, 0, NVLLM_TAKES_TYPICAL_P, .typical_p = 0.9 },
		{ 1.4, 1, 0, 0, NVLLM_TAKES_TYPICAL_P, .typical_p = 0.3 },
		{ 1, 1, 0, 0, NVLLM_TAKES_TYPICAL_P, .typical_p = 1e-6 },
		{ 1, 0.9, 0, 0, NVLLM_TAKES_TYPICAL_P | NVLLM_TAKES_TOP_P, .typical_p = 0.6 },
		{ 1, 1, 0, 0, NVLLM_TAKES_REPETITION, .repetition = 1.3 },
		{ 1, 1, 0, 0, NVLLM_TAKES_REPETITION, .repetition = 0.7 },
		{ 1, 1, 0, 0, NVLLM_TAKES_PRESENCE, .presence = 1.1 },
		{ 1, 1, 0, 0, NVLLM_TAKES_PRESENCE, .presence = -0.8 },
		{ 1, 1, 0, 0, NVLLM_TAKES_FREQUENCY, .frequency = 0.4 },
		{ 1, 1, 0, 0, NVLLM_TAKES_FREQUENCY, .frequency = -0.2 },
		{ 0.9, 1, 0, 0, PENALTIES, .repetition = 1.2, .presence = 0.5, .frequency = 0.3 },
		{ 1.1, 0.95, 0.02, 25, PENALTIES | NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P |
			NVLLM_TAKES_MIN_P | NVLLM_TAKES_TYPICAL_P, .typical_p = 0.8,
			.repetition = 1.2, .presence = 0.5, .frequency = 0.3 },
	};
	size_t last = sizeof(cuts) / sizeof(*cuts) - 1;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++)
		if ((cuts[i].needs & takes) == cuts[i].needs)
			check_chi(c, &cuts[i], 50, 20000);
	check_chi(c, &cuts[0], 5003, 40000);
	for (size_t i = 4; i < 13; i += 4)
		if ((cuts[i].needs & takes) == cuts[i].needs)
			check_chi(c, &cuts[i], 5003, 4000);
	for (size_t i = last; i >= last - 10; i -= 10)
		if ((cuts[i].needs & takes) == cuts[i].needs)
			check_chi(c, &cuts[i], 5003, 4000);
}

void suite_sampler(const struct nvllm_component *c)
{
	const struct nvllm_sampler_vt *vt = c->vt;

	device = ck_device(vt->need);
	if (!device)
		return;
	check_greedy(c, 1);
	check_greedy(c, 61);
	check_greedy(c, 49152);
	check_odd_rows(c);
	check_padding(c);
	check_independent(c);
	if (vt->flags & NVLLM_SAMPLER_HOST && vt->need == 0)
		check_any_device(c);
	if (vt->takes & PENALTIES)
		check_greedy_penalties(c, vt->takes);
	if (vt->takes & NVLLM_TAKES_TEMPERATURE)
		check_distributions(c, vt->takes);
	mirror_close();
}
