/* SPDX-License-Identifier: MIT */
/* The samplers' kernels against the definition of sampler.h, written out plainly in double precision: each
 * row of many kinds, the same row beside others and alone, and how often each token is drawn. */
#include "check.h"
#include "sample_oracle.h"
#include "../../backends/cuda/sample_tiles.cu"
#include "../../backends/cuda/sample.cu"

/* ---- calling the kernels ---- */
static int unit_bits_of(int n)
{
	int bits = 62;

	for (int64_t k = 1; k < n; k *= 2)
		bits--;
	return bits < 50 ? bits : 50;
}

/* stride in floats. Everything lies in memory with edges. */
static void sample_rows(const float *x, int n_rows, int vocab, int stride, const struct nvllm_sample_row *rows, bool greedy,
	int32_t *tokens)
{
	struct sample_part *parts = edges<struct sample_part>((int64_t)n_rows * sample_tiles(vocab));
	uint8_t *codes = edges<uint8_t>(sample_codes_bytes(vocab, n_rows));
	int32_t *out = edges<int32_t>(n_rows);
	struct sample_job job = { x, stride * 4, rows, out, parts, greedy ? NULL : codes, n_rows, vocab, sample_tiles(vocab),
		unit_bits_of(vocab), greedy };

	if (sample_setup(job.n_tiles) || sample_enqueue(NULL, &job))
		CHECK(false, "the kernels start");
	memcpy(tokens, out, (size_t)n_rows * 4);
	edges_free(parts), edges_free(codes), edges_free(out);
}

static const struct nvllm_sample_row plain_row = { .temperature = 1, .top_p = 1, .min_p = 0, .typical_p = 1, .repetition = 1,
	.presence = 0, .frequency = 0, .top_k = 0, .seed = 0, .position = 0, .choice = 0, .slot = 0, .tokens = NULL,
	.n_prompt = 0, .n_tokens = 0, .params = NULL };

/* ---- logits ---- */
enum kind { NORMAL, PEAKED, TIES, EQUAL, MASKED, WEIRD, ALL_MASKED, ENDLESS, FLAT, SPIKE, HOLES, COARSE, HEAVY, N_KINDS,
	BLIND = N_KINDS };

/* As a head of bf16 leaves them. */
static float coarse_logit(double x)
{
	uint32_t u = f32_bits((float)x);

	return bits_f32((u + 0x8000) & 0xffff0000u);
}

/* The tokens that a long row's sample is made of (take_sample() of sample_cut.cuh) say nothing of the others. */
static void mislead(float *x, int n)
{
	for (int j = 0; j < FEW && n > FEW; j++) {
		int from = (int)((int64_t)j * n / FEW), to = (int)((int64_t)(j + 1) * n / FEW);

		x[from + (int)__umulhi((uint32_t)j * 0x9e3779b9u, (uint32_t)(to - from))] = j % 2 ? 4.f : -4.f;
	}
}

static void fill(struct rnd *r, float *x, int n, enum kind kind)
{
	for (int i = 0; i < n; i++) {
		double g = rnd_normal(r);

		x[i] = (float)(kind == PEAKED ? 6 * g : kind == TIES ? rint(2 * g) / 2 : kind == EQUAL ? -3.25 :
			kind == FLAT || kind == SPIKE || kind == HOLES || kind == BLIND ? 0.1 * g : kind == HEAVY ? 1.5 * g : 2.5 * g);
		if (kind == COARSE)
			x[i] = coarse_logit(0.3 * g);
		if (kind == HOLES && rnd_int(r, 0, 1))
			x[i] = rnd_int(r, 0, 1) ? NAN : -INFINITY;
		if (kind == MASKED && rnd_int(r, 0, 3))
			x[i] = -INFINITY;
		if (kind == WEIRD && rnd_int(r, 0, 2) == 0) {
			static const float odd[] = { NAN, -INFINITY, 0.f, -0.f, -3e38f, 1e-42f, -NAN };

			x[i] = odd[rnd_int(r, 0, 6)];
		}
		if (kind == ALL_MASKED)
			x[i] = rnd_int(r, 0, 1) ? NAN : -INFINITY;
	}
	if (kind == SPIKE)
		x[rnd_int(r, 0, n - 1)] = 9;
	if (kind == BLIND)
		mislead(x, n);
	if (kind == ENDLESS) /* +inf at a place or two */
		x[rnd_int(r, 0, n - 1)] = INFINITY, x[rnd_int(r, 0, n - 1)] = INFINITY;
}

/* Parameters: one bit of `what` for each. history: room for tokens. */
static struct nvllm_sample_row random_row(struct rnd *r, int what, int vocab, int32_t *history, int room)
{
	static const double temps[] = { 1, 0.6, 1.7, 0.05, 1e-9, 100 }, ps[] = { 0.9, 0.95, 0.5, 1e-9, 0.999 };
	struct nvllm_sample_row s = plain_row;

	s.temperature = temps[rnd_int(r, 0, 5)];
	s.seed = rnd_u32(r), s.position = rnd_u32(r) % 10000, s.choice = rnd_int(r, 0, 3), s.slot = rnd_int(r, 0, 9);
	if (what & 1)
		s.top_k = rnd_int(r, 0, 1) ? 20 : rnd_int(r, 1, vocab + 1);
	if (what & 2)
		s.top_p = ps[rnd_int(r, 0, 4)];
	if (what & 4)
		s.min_p = rnd_int(r, 0, 3) ? 0.3 * rnd_unit(r) * rnd_unit(r) : rnd_int(r, 0, 1);
	if (what & 8)
		s.typical_p = ps[rnd_int(r, 0, 4)];
	if (what & 16) {
		s.repetition = rnd_int(r, 0, 2) ? 1.0 + rnd_unit(r) : 0.8;
		s.presence = rnd_int(r, 0, 1) ? 1.5 : 0;
		s.frequency = rnd_int(r, 0, 1) ? 0.25 * rnd_normal(r) : 0;
		s.tokens = history;
		s.n_tokens = rnd_int(r, 0, room), s.n_prompt = rnd_int(r, 0, room);
		for (int i = 0; i < room; i++) /* some often, some no id at all */
			history[i] = rnd_int(r, 0, 2) ? rnd_int(r, -1, vocab) : 3 * rnd_int(r, 0, 1);
	}
	if (rnd_int(r, 0, 9) == 0)
		s.temperature = 0;
	return s;
}

/* ---- tests ---- */
struct tally { int draws, differ; double worst; };

static void compare_row(const float *x, int vocab, const struct nvllm_sample_row *row, bool greedy, int token, struct tally *t,
	const char *what)
{
	struct oracle o = oracle_new(x, vocab, row, greedy);
	double u = nvllm_uniform(row->seed, row->choice, row->position), miss = oracle_miss(&o, token, u);

	t->draws++;
	if (row->slot < 0) {
		if (token)
			CHECK(false, "%s: a row of padding gives token 0, not %d", what, token);
	} else if (miss > 0) {
		t->differ++;
		t->worst = fmax(t->worst, miss);
		if (miss > 1e-5)
			CHECK(false, "%s: token %d of %d: temperature %g, top_k %lld, top_p %g, min_p %g, typical_p %g, repetition %g, "
				"misses by %g", what, token, vocab, row->temperature, (long long)row->top_k, row->top_p,
				row->min_p, row->typical_p, row->repetition, miss);
	}
	oracle_free(&o);
}

/* Batches of mixed rows; then each row alone. */
static void test_batches(int vocab, int n_batches, int max_rows, int extra, uint64_t seed)
{
	struct rnd r = rnd_seed(seed);
	struct tally t = { 0, 0, 0 };
	int moved = 0;

	for (int b = 0; b < n_batches; b++) {
		int n = rnd_int(&r, 1, max_rows), stride = vocab + extra, room = 40 + 600 * rnd_int(&r, 0, 1);
		bool greedy = rnd_int(&r, 0, 7) == 0;
		float *x = edges<float>((int64_t)(n - 1) * stride + vocab);
		struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(n);
		int32_t *history = edges<int32_t>((int64_t)n * room), tokens[64], one;
		char what[80];

		emu_seed(seed * 1000 + (uint64_t)b);
		for (int i = 0; i < n; i++) {
			fill(&r, x + (int64_t)i * stride, vocab, (enum kind)rnd_int(&r, 0, N_KINDS - 1));
			rows[i] = random_row(&r, rnd_int(&r, 0, 31), vocab, history + i * room, room);
			if (rnd_int(&r, 0, 9) == 0)
				rows[i].slot = -1;
		}
		sample_rows(x, n, vocab, stride, rows, greedy, tokens);
		for (int i = 0; i < n; i++) {
			snprintf(what, sizeof(what), "batch %d, row %d", b, i);
			compare_row(x + (int64_t)i * stride, vocab, rows + i, greedy, tokens[i], &t, what);
		}
		for (int i = 0; i < n; i += 3) {
			float *copy = edges<float>(vocab); /* aligned otherwise, too */

			memcpy(copy, x + (int64_t)i * stride, (size_t)vocab * 4);
			sample_rows(copy, 1, vocab, vocab, rows + i, greedy, &one);
			moved += one != tokens[i];
			edges_free(copy);
		}
		edges_free(x), edges_free(rows), edges_free(history);
	}
	CHECK_EQ(moved, 0, "vocabulary %d: a row gives the same token whatever is beside it", vocab);
	CHECK(t.differ * 500 <= t.draws, "vocabulary %d: %d of %d draws differ, by %.2g at most", vocab, t.differ, t.draws, t.worst);
}

/* Every set of parameters over one kind of logits. */
static void test_kind(int vocab, enum kind kind, int n_rows, int first, int step, const char *name)
{
	struct rnd r = rnd_seed(77 + kind + vocab);
	struct tally t = { 0, 0, 0 };
	float *x = edges<float>(vocab);
	int32_t *history = edges<int32_t>(900);

	fill(&r, x, vocab, kind);
	for (int set = first; set < 32; set += step) {
		struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(n_rows);
		int32_t tokens[64];

		for (int i = 0; i < n_rows; i++) {
			rows[i] = random_row(&r, set, vocab, history, 900);
			rows[i].temperature = fmax(rows[i].temperature, 0.3);
		}
		sample_rows(x, n_rows, vocab, 0, rows, false, tokens); /* one row for all */
		for (int i = 0; i < n_rows; i++)
			compare_row(x, vocab, rows + i, false, tokens[i], &t, name);
		edges_free(rows);
	}
	edges_free(x), edges_free(history);
	CHECK(t.differ * 500 <= t.draws, "%s logits, vocabulary %d: %d of %d draws differ, by %.2g at most", name, vocab,
		t.differ, t.draws, t.worst);
}

/* Draws of one row at many positions: as often as their probabilities say. The seed is fixed, so it fails or
 * does not. */
static void test_frequencies(struct nvllm_sample_row row, const char *name)
{
	enum { VOCAB = 40, DRAWS = 500, ROWS = 250 };
	struct rnd r = rnd_seed(5);
	float *x = edges<float>(VOCAB);
	struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(ROWS);
	int count[VOCAB] = { 0 };
	int32_t tokens[ROWS];
	struct oracle o;

	for (int i = 0; i < VOCAB; i++)
		x[i] = (float)rnd_normal(&r);
	for (int d = 0; d < DRAWS; d += ROWS) {
		for (int i = 0; i < ROWS; i++)
			rows[i] = row, rows[i].position = (uint64_t)(d + i), rows[i].seed = 99;
		sample_rows(x, ROWS, VOCAB, 0, rows, false, tokens);
		for (int i = 0; i < ROWS; i++)
			count[tokens[i]]++;
	}
	o = oracle_new(x, VOCAB, &row, false);
	CHECK_LE(fabs(oracle_sigmas(&o, count, DRAWS)), 5, "%s: sigmas of %d draws' chi-square", name, DRAWS);
	oracle_free(&o), edges_free(x), edges_free(rows);
}

/* Cases whose answer is known without an oracle. */
static void test_known(void)
{
	struct nvllm_sample_row rows[8];
	float x[8][1000];
	int32_t tokens[8], history[2000];

	for (int i = 0; i < 8; i++) {
		rows[i] = plain_row;
		for (int k = 0; k < 1000; k++)
			x[i][k] = 0;
	}
	x[0][999] = x[0][700] = 1, rows[0].temperature = 0;  /* ties: the lowest id */
	x[1][3] = NAN, rows[1].temperature = 0;
	x[2][512] = 50;                                      /* certain */
	rows[3].top_p = 1e-300;                              /* all alike: the first */
	x[4][600] = 1e-3f, rows[4].top_k = 1;
	rows[5].slot = -1, rows[5].temperature = 7;
	x[6][10] = 5, x[6][20] = 4, rows[6].temperature = 0; /* said 300 times: 5 - 0.01 * 300 < 4 */
	rows[6].tokens = history, rows[6].n_tokens = 300, rows[6].frequency = 0.01;
	for (int i = 0; i < 2000; i++)
		history[i] = 10;
	x[7][30] = 2, x[7][31] = 1.5f, rows[7] = rows[6]; /* a prompt's counts for repetition alone */
	rows[7].n_prompt = 300, rows[7].tokens = history, rows[7].repetition = 2, x[7][10] = 3.9f, rows[7].temperature = 1e-30;
	sample_rows(x[0], 8, 1000, 1000, rows, false, tokens);
	CHECK_EQ(tokens[0], 700, "the lowest id of the largest");
	CHECK_EQ(tokens[1], 0, "NaN is no number to win");
	CHECK_EQ(tokens[2], 512, "a certain token");
	CHECK_EQ(tokens[3], 0, "top_p near 0 keeps the first");
	CHECK_EQ(tokens[4], 600, "top_k 1");
	CHECK_EQ(tokens[5], 0, "padding");
	CHECK_EQ(tokens[6], 20, "a count beyond what a code holds, greedy");
	CHECK_EQ(tokens[7], 30, "repetition of a prompt's token");
	rows[0] = rows[6], rows[0].temperature = 1e-4, rows[0].top_k = 5, rows[0].frequency = 0.99 / 300, x[0][10] = 5, x[0][20] = 4;
	sample_rows(x[0], 1, 1000, 1000, rows, false, tokens);
	CHECK_EQ(tokens[0], 10, "counted again: 300, no more");
	rows[0].frequency = 1.01 / 300;
	sample_rows(x[0], 1, 1000, 1000, rows, false, tokens);
	CHECK_EQ(tokens[0], 20, "and no less");
}

/* Equal logits: top_p keeps as many ids from 0 up as it takes, so the token is known exactly, below and above
 * what is sorted and what lies in shared memory. */
static void test_equal(int vocab, float logit)
{
	enum { ROWS = 6 };
	static const double ps[ROWS] = { 0.5, 0.95, 0.25, 1e-6, 0.999, 1 };
	float *x = edges<float>(vocab);
	struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(ROWS);
	int32_t tokens[ROWS];

	for (int i = 0; i < vocab; i++)
		x[i] = logit;
	for (int i = 0; i < ROWS; i++) {
		rows[i] = plain_row;
		rows[i].top_p = ps[i], rows[i].seed = 7 + (uint64_t)i;
		rows[i].min_p = i == ROWS - 1 ? 0.5 : 0;
	}
	sample_rows(x, ROWS, vocab, 0, rows, false, tokens);
	for (int i = 0; i < ROWS; i++) {
		double u = nvllm_uniform(rows[i].seed, rows[i].choice, rows[i].position);

		CHECK_EQ(tokens[i], (int)(u * fmax(1, ceil(ps[i] * vocab))), "%d equal logits of %g, top_p %g", vocab, (double)logit, ps[i]);
	}
	edges_free(x), edges_free(rows);
}

/* The order in which threads run says nothing about the token: the gathered come in any. */
static void test_orders(int vocab, enum kind kind)
{
	enum { ROWS = 4 };
	struct rnd r = rnd_seed(31);
	float *x = edges<float>(vocab);
	struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(ROWS);
	int32_t tokens[ROWS], first[ROWS];
	int moved = 0;

	fill(&r, x, vocab, kind);
	for (int i = 0; i < ROWS; i++) {
		rows[i] = plain_row;
		rows[i].seed = (uint64_t)i;
		rows[i].top_p = i == 1 ? 1 : 0.9, rows[i].typical_p = i == 1 || i == 2 ? 0.8 : 1, rows[i].top_k = i == 3 ? vocab / 2 : 0;
	}
	for (int k = 0; k < 4; k++) {
		emu_seed(1000 + (uint64_t)k);
		emu_set_order(k == 1 ? EMU_UP : k == 2 ? EMU_DOWN : EMU_RANDOM);
		sample_rows(x, ROWS, vocab, 0, rows, false, k ? tokens : first);
		moved += k && memcmp(tokens, first, sizeof(first));
	}
	emu_set_order(EMU_RANDOM);
	CHECK_EQ(moved, 0, "vocabulary %d, logits of kind %d: one token in whatever order threads run", vocab, (int)kind);
	edges_free(x), edges_free(rows);
}

/* One row of each sort of cut alone, and of two. */
static void test_alone(int vocab, enum kind kind, const char *name)
{
	enum { ROWS = 6 };
	static const struct { double top_p, min_p, typical_p; int top_k; } cuts[ROWS] = { { 0.9, 0, 1, 0 }, { 0.5, 0, 1, 0 },
		{ 1, 0, 0.9, 0 }, { 1, 0.05, 1, 0 }, { 1, 0, 1, 1000 }, { 0.95, 0, 0.6, 0 } };
	struct rnd r = rnd_seed(3 + (uint64_t)kind);
	struct tally t = { 0, 0, 0 };
	float *x = edges<float>(vocab);
	struct nvllm_sample_row *rows = edges<struct nvllm_sample_row>(ROWS);
	int32_t tokens[ROWS];

	fill(&r, x, vocab, kind);
	for (int i = 0; i < ROWS; i++) {
		rows[i] = plain_row;
		rows[i].top_p = cuts[i].top_p, rows[i].min_p = cuts[i].min_p, rows[i].typical_p = cuts[i].typical_p;
		rows[i].top_k = cuts[i].top_k, rows[i].seed = 50 + (uint64_t)i;
	}
	sample_rows(x, ROWS, vocab, 0, rows, false, tokens);
	for (int i = 0; i < ROWS; i++)
		compare_row(x, vocab, rows + i, false, tokens[i], &t, name);
	CHECK_EQ(t.differ, 0, "%s logits, vocabulary %d, cut in %d ways", name, vocab, (int)ROWS);
	edges_free(x), edges_free(rows);
}

int main(void)
{
	struct nvllm_sample_row s = plain_row;
	static const int32_t history[] = { 3, 5, 5, 7, 7, 7 }, equal[] = { 1, 31, 1025, 2048, 2049, 9001 };

	test_known();
	test_batches(1, 4, 33, 0, 1);
	test_batches(31, 40, 33, 0, 2);
	test_batches(31, 20, 33, 5, 3);
	test_batches(1000, 30, 20, 0, 4);
	test_batches(1000, 10, 20, 3, 5);
	test_batches(5000, 10, 8, 1, 6);
	test_kind(32000, NORMAL, 2, 0, 1, "normal");
	test_kind(32000, FLAT, 2, 0, 1, "flat");
	test_kind(20000, EQUAL, 2, 0, 1, "equal");
	test_kind(20000, TIES, 2, 0, 1, "tied");
	test_kind(262144, PEAKED, 1, 3, 9, "peaked");
	test_batches(1025, 8, 12, 0, 7);
	test_kind(9001, SPIKE, 1, 0, 1, "flat but for one");
	test_kind(9001, HOLES, 1, 0, 1, "half masked");
	test_kind(30000, COARSE, 1, 2, 3, "coarse");
	test_kind(30000, HEAVY, 1, 2, 3, "heavy-tailed");
	for (int i = 0; i < (int)(sizeof(equal) / sizeof(*equal)); i++)
		test_equal(equal[i], i % 2 ? 0.f : -7.5f);
	test_orders(20000, FLAT);
	test_orders(20000, COARSE);
	test_alone(1025, FLAT, "flat");
	test_alone(20000, BLIND, "misleading");
	test_alone(40000, SPIKE, "flat but for one");
	test_alone(151936, FLAT, "flat");

	s.temperature = 0.8;
	test_frequencies(s, "temperature");
	s.top_k = 9;
	test_frequencies(s, "top_k");
	s.top_k = 0, s.top_p = 0.7;
	test_frequencies(s, "top_p");
	s.top_p = 1, s.min_p = 0.2;
	test_frequencies(s, "min_p");
	s.min_p = 0, s.typical_p = 0.5;
	test_frequencies(s, "typical_p");
	s.typical_p = 1, s.repetition = 1.5, s.presence = 0.5, s.frequency = 0.25;
	s.tokens = history, s.n_prompt = 2, s.n_tokens = 6;
	test_frequencies(s, "penalties");
	s.top_k = 20, s.top_p = 0.9;
	test_frequencies(s, "penalties, top_k, top_p");
	return check_done();
}
