/* SPDX-License-Identifier: MIT */
/* topk_topp, behind the processor `standard` where there is a bias, against exact
 * distributions of a reference run (tests/data/sampling): each draw against the number
 * that decides it, the counts by Pearson's chi-square test, the support exactly.
 * Some cases have 200,000 draws and the others fewer; with the argument `all`, each has
 * (five minutes). */
#include <nvllm/logits.h>

#include "../sanitized.h"
#include "sampler_rig.h"

#define DATA "tests/data/sampling/"
#define MANY 200000
#define FEW (SANITIZED ? 640 : 6400)
#define MANY_EVERY 15

struct history { char name[32]; int n_prompt, n; int32_t *tokens; };

struct known {
	char id[64], name[32], when[16];
	struct nvllm_sample_row row;
	int n_bias, n;
	struct nvllm_bias bias[8];
	int32_t *token;
	double *prob;
};

static struct history histories[4];
static int all_many;

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

static void read_history(FILE *f)
{
	struct history *h = histories;

	while (h->n)
		h++;
	assert_true(h < histories + COUNT(histories) - 1);
	assert_int_equal(fscanf(f, "%31s %d %d", h->name, &h->n_prompt, &h->n), 3);
	h->tokens = calloc((size_t)h->n, sizeof(*h->tokens));
	for (int i = 0; i < h->n; i++)
		assert_int_equal(fscanf(f, "%d", &h->tokens[i]), 1);
	assert_int_equal(fgetc(f), '\n');
}

static void set_history(struct known *k)
{
	const struct history *h = histories;

	while (h->n && strcmp(h->name, k->name))
		h++;
	assert_true(h->n > 0);
	k->row.tokens = h->tokens;
	k->row.n_prompt = h->n_prompt;
	k->row.n_tokens = strcmp(k->when, "later") ? h->n_prompt : h->n;
}

/* The next case of the file; 0 at its end. */
static int read_case(FILE *f, struct known *k)
{
	struct nvllm_sample_row *r = &k->row;
	int c, all, vocab = 0;

	for (c = fgetc(f); c == '#' || c == '@'; c = fgetc(f)) {
		if (c == '@')
			read_history(f);
		else
			while ((c = fgetc(f)) != '\n')
				assert_int_not_equal(c, EOF);
	}
	if (c == EOF)
		return 0;
	ungetc(c, f);
	memset(k, 0, sizeof(*k));
	assert_int_equal(fscanf(f, "%63s %31s %15s %lf %ld %lf %lf %lf %lf %lf %lf %d", k->id,
		k->name, k->when, &r->temperature, &r->top_k, &r->top_p, &r->min_p, &r->typical_p,
		&r->repetition, &r->presence, &r->frequency, &k->n_bias), 12);
	assert_in_range(k->n_bias, 0, COUNT(k->bias));
	for (int i = 0; i < k->n_bias; i++)
		assert_int_equal(fscanf(f, "%d:%f", &k->bias[i].token, &k->bias[i].bias), 2);
	assert_int_equal(fscanf(f, "%d", &k->n), 1);
	k->token = calloc((size_t)k->n, sizeof(*k->token));
	k->prob = calloc((size_t)k->n, sizeof(*k->prob));
	all = k->n > 1000;
	for (int i = 0; i < k->n && all; i++)
		assert_int_equal(fscanf(f, "%lf", &k->prob[k->token[i] = vocab++]), 1);
	for (int i = 0; i < k->n && !all; i++)
		assert_int_equal(fscanf(f, "%d:%lf", &k->token[i], &k->prob[i]), 2);
	assert_int_equal(fgetc(f), '\n');
	set_history(k);
	return 1;
}

/* The probability that chi-square with k degrees of freedom is above x (Abramowitz and
 * Stegun 26.4.4 and 26.4.5). */
static double chance_above(double x, int k)
{
	double q = k % 2 ? erfc(sqrt(x / 2)) : exp(-x / 2);
	double term = k % 2 ? sqrt(2 * x / M_PI) * exp(-x / 2) : exp(-x / 2) * x / 2;

	for (int i = k % 2 ? 3 : 4; i <= k; term *= x / i, i += 2)
		q += term;
	return q;
}

/* Pearson's statistic with cells below 5 pooled. */
static void check_counts(const struct known *k, const int *count, int draws)
{
	double x2 = 0, pool = 0, got = 0, p;
	int dof = -1;

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
	p = dof > 0 ? chance_above(x2, dof) : 1;
	if (!(p > 0.001))
		fail_msg("%s: chi-square %.1f with %d degrees of freedom: p = %.2g", k->id, x2, dof,
			p);
	/* what is expected ten times and more has come */
	for (int i = 0; i < k->n; i++)
		if (k->prob[i] * draws >= 10 && !count[k->token[i]])
			fail_msg("%s: token %d never came", k->id, k->token[i]);
}

/* The token's place among those kept. below: [n + 1] sums of the probabilities before each. */
static void check_draw(const struct known *k, const double *below, const int *place,
	const struct nvllm_sample_row *row, int32_t token)
{
	double u = nvllm_uniform(row->seed, row->choice, row->position);
	/* logits after penalties and bias are rounded to float again */
	double near = k->n_bias || row->repetition != 1 || row->presence != 0 ||
		row->frequency != 0 ? 3e-6 : 1e-8;
	int j = place[token];

	if (j < 0)
		fail_msg("%s: token %d is not kept", k->id, token);
	if (u < below[j] - near || u > below[j + 1] + near)
		fail_msg("%s: %.12g drew token %d, which has %.12g to %.12g", k->id, u, token,
			below[j], below[j + 1]);
}

static void draw_many(struct rig *r, const struct known *k, const float *x, int draws, int *count)
{
	double *below = calloc((size_t)k->n + 1, sizeof(*below));
	int *place = malloc((size_t)r->env.vocab * sizeof(*place));
	struct nvllm_sample_row rows[ROWS];
	int32_t tokens[ROWS];

	for (int64_t i = 0; i < r->env.vocab; i++)
		place[i] = -1;
	for (int i = 0; i < k->n; i++) {
		below[i + 1] = below[i] + k->prob[i];
		place[k->token[i]] = i;
	}
	for (int at = 0; at < draws; at += ROWS) {
		for (int i = 0; i < ROWS; i++) {
			rows[i] = k->row;
			rows[i].seed = 1234 + (uint64_t)(at + i) / 1000;
			rows[i].position = (uint64_t)(at + i) % 1000;
			rows[i].choice = (at + i) % 7;
		}
		sample(r, x, 0, rows, ROWS, tokens);
		for (int i = 0; i < ROWS; i++) {
			check_draw(k, below, place, &rows[i], tokens[i]);
			count[tokens[i]]++;
		}
	}
	free(below), free(place);
}

/* As the core does it: the processor changes the row, the sampler draws from it. */
static void apply_bias(const struct known *k, float *x, int64_t vocab)
{
	const struct nvllm_component *c = fake_plugin("logits_standard");
	const struct nvllm_logits_env env = { .size = sizeof(env), .vocab = vocab };
	struct nvllm_params params = nvllm_params_none();
	struct nvllm_logits_ask ask = { .size = sizeof(ask), .params = &params };
	struct nvllm_logits_state *s = NULL;
	const struct nvllm_logits_vt *vt;
	struct nvllm_logits *l = NULL;
	struct fake_host host;

	assert_non_null(c);
	vt = c->vt;
	fake_host_init(&host);
	params.min_tokens = 0;
	params.logit_bias = k->bias;
	params.n_logit_bias = k->n_bias;
	assert_int_equal(vt->create(&host.h, &env, NULL, &l), NVLLM_OK);
	assert_int_equal(vt->open(l, &ask, &s), NVLLM_OK);
	assert_int_equal(k->n_bias > 0, s != NULL);
	if (s) {
		assert_int_equal(vt->apply(l, s, x, k->row.tokens, k->row.n_prompt,
			k->row.n_tokens), NVLLM_OK);
		vt->close(l, s);
	}
	fake_host_finish(&host);
}

static void check_case(const struct known *k, int draws)
{
	char file[64];
	int64_t vocab;
	struct rig r;
	int *count;
	float *x;

	snprintf(file, sizeof(file), "%s-%s.f32.npy", k->name, k->when);
	x = read_npy(file, &vocab);
	count = calloc((size_t)vocab, sizeof(*count));
	apply_bias(k, x, vocab);
	rig_open(&r, "sampler_topk_topp", vocab, 1);
	r.dev.info.caps = 0; /* a device that lends neither its memory nor its threads */
	draw_many(&r, k, x, draws, count);
	check_counts(k, count, (draws + ROWS - 1) / ROWS * ROWS);
	rig_close(&r);
	free(x), free(count);
}

/* Every case whose number in the file is `part` modulo 3: three tests, to be seen apart. */
static void check_part(int part)
{
	FILE *f = fopen(DATA "cases.txt", "r");
	struct known k;
	int cases = 0;

	assert_non_null(f);
	memset(histories, 0, sizeof(histories));
	for (; read_case(f, &k); cases++) {
		int many = all_many || (cases % MANY_EVERY == 10 && !SANITIZED);

		if (cases % 3 == part)
			check_case(&k, many ? MANY : FEW);
		free(k.token), free(k.prob);
	}
	fclose(f);
	for (struct history *h = histories; h->n; h++)
		free(h->tokens);
	assert_int_equal(cases, 143);
}

static void test_known_0(void **state) { (void)state, check_part(0); }
static void test_known_1(void **state) { (void)state, check_part(1); }
static void test_known_2(void **state) { (void)state, check_part(2); }

/* The test's own arithmetic, against tables: 0.999 quantiles of chi-square. */
static void test_chance(void **state)
{
	static const struct { int k; double x; } table[] = {
		{ 1, 10.828 }, { 2, 13.816 }, { 5, 20.515 }, { 30, 59.703 }, { 100, 149.449 } };

	(void)state;
	for (int i = 0; i < COUNT(table); i++)
		assert_true(fabs(chance_above(table[i].x, table[i].k) - 0.001) < 2e-6);
	assert_true(chance_above(99.334, 100) > 0.499 && chance_above(99.334, 100) < 0.501);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chance), cmocka_unit_test(test_known_0),
		cmocka_unit_test(test_known_1), cmocka_unit_test(test_known_2),
	};

	all_many = argc > 1 && !strcmp(argv[1], "all");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
