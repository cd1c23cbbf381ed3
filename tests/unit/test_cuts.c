/* SPDX-License-Identifier: MIT */
/* tests/unit/test_cuts.c - one rank's share of a model: the ranks' ranges are in order and
 * together the whole, query heads meet their KV heads, and what is no share is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cut_models.h"

/* Follows on `at`, and no rank has more units than a lower one, nor two fewer. */
static void check_run(struct slice s, int64_t *at, int64_t unit, int64_t *last)
{
	int64_t units = (s.n + unit - 1) / unit;

	assert_true(s.first == *at && s.n >= 0);
	assert_true(*last < 0 || (units <= *last && units >= *last - 1));
	*at += s.n;
	*last = *last < 0 ? units : *last;
}

/* This rank's query heads, counted as its attention counts them, meet their KV heads. */
static void check_groups(const struct cuts *c, int layer)
{
	const struct nvllm_attn_layer *whole = c->whole[layer], *mine = c->list[layer];
	struct slice q = c->q[layer], kv = c->kv[layer];
	int64_t group = whole->n_heads / whole->n_kv_heads;

	assert_int_equal(mine->n_heads, q.n);
	assert_int_equal(mine->n_kv_heads, kv.n);
	assert_int_equal(mine->head_dim, whole->head_dim);
	assert_int_equal(mine->window, whole->window);
	assert_int_equal(mine->kv_layer, whole->kv_layer);
	assert_true(mine->scale == whole->scale);
	assert_int_equal(q.n > 0, kv.n > 0);
	if (!q.n)
		return;
	assert_int_equal(q.n % kv.n, 0);
	for (int64_t j = 0; j < q.n; j++)
		assert_int_equal((q.first + j) / group, kv.first + j / (q.n / kv.n));
}

static void check_division(const struct model *m, int32_t world, int64_t unit)
{
	int64_t ffn = 0, vocab = 0, q[MAX_LAYERS] = { 0 }, ffn_units = -1, vocab_units = -1;
	int copies[MAX_LAYERS][1024] = { { 0 } };
	struct cuts c;

	for (int32_t r = 0; r < world; r++) {
		assert_int_equal(cuts_make(&c, &m->arch, r, world, unit), 0);
		check_run(c.ffn, &ffn, unit, &ffn_units);
		check_run(c.vocab, &vocab, 1, &vocab_units);
		assert_true(c.ffn.first % unit == 0 || c.ffn.first == m->arch.ffn);
		for (int l = 0; l < m->arch.n_layers; l++) {
			assert_true(c.q[l].first == q[l]);
			q[l] += c.q[l].n;
			check_groups(&c, l);
			for (int64_t h = 0; h < c.kv[l].n; h++)
				copies[l][c.kv[l].first + h]++;
		}
		cuts_free(&c);
	}
	assert_true(ffn == m->arch.ffn && vocab == m->arch.vocab);
	for (int l = 0; l < m->arch.n_layers; l++) {
		assert_int_equal(q[l], m->layer[l].n_heads);
		for (int h = 0; h < m->layer[l].n_kv_heads; h++)
			assert_true(world <= m->layer[l].n_kv_heads ? copies[l][h] == 1 : copies[l][h] >= 1);
	}
}

static void test_known(void **state)
{
	/* heads of SmolLM2 by rank: q first, q n, kv first, kv n */
	static const int two[][4] = { { 0, 6, 0, 2 }, { 6, 3, 2, 1 } };
	static const int four[][4] = { { 0, 3, 0, 1 }, { 3, 3, 1, 1 }, { 6, 2, 2, 1 }, { 8, 1, 2, 1 } };
	/* 12 ranks are 4 a KV head, whose group has 3 query heads */
	static const int twelve[][4] = { { 0, 1, 0, 1 }, { 1, 1, 0, 1 }, { 2, 1, 0, 1 }, { 3, 0, 0, 0 }, { 3, 1, 1, 1 } };
	static const struct { int world, n; const int (*want)[4]; } list[] = { { 2, 2, two }, { 4, 4, four }, { 12, 5, twelve } };
	struct model m;
	struct cuts c;

	smollm2(&m);
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		for (int r = 0; r < list[i].n; r++) {
			const int *w = list[i].want[r];

			assert_int_equal(cuts_make(&c, &m.arch, r, list[i].world, 32), 0);
			for (int l = 0; l < MAX_LAYERS; l++) {
				assert_true(c.q[l].first == w[0] && c.q[l].n == w[1]);
				assert_true(c.kv[l].n == w[3] && (!w[3] || c.kv[l].first == w[2]));
			}
			cuts_free(&c);
		}
	assert_int_equal(cuts_make(&c, &m.arch, 1, 9, 256), 0); /* 6 units for 9 ranks */
	assert_true(c.ffn.first == 256 && c.ffn.n == 256);
	cuts_free(&c);
	assert_int_equal(cuts_make(&c, &m.arch, 8, 9, 256), 0);
	assert_true(c.ffn.first == 1536 && c.ffn.n == 0);
	cuts_free(&c);
	tiny(&m);
	assert_int_equal(cuts_make(&c, &m.arch, 1, 2, 256), 0); /* the last unit is shorter */
	assert_true(c.ffn.first == 256 && c.ffn.n == 96);
	cuts_free(&c);
}

static void test_models(void **state)
{
	static const int worlds[] = { 1, 2, 3, 4, 5, 6, 9, 12 };
	struct model m;

	for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
		for (int64_t unit = 1; unit <= 256; unit *= 2) {
			smollm2(&m);
			check_division(&m, worlds[i], unit);
			tiny(&m);
			check_division(&m, worlds[i], unit);
		}
}

static void test_random(void **state)
{
	struct model m;

	for (int i = 0; i < 2000; i++) {
		make(&m, 1, 1, 1, 64, 1 + below(3000), 1 + below(5000));
		for (int l = 0; l < MAX_LAYERS; l++) {
			m.layer[l].n_kv_heads = (int32_t)(1 + below(20));
			m.layer[l].n_heads = m.layer[l].n_kv_heads * (int32_t)(1 + below(12));
			m.layer[l].head_dim = (int32_t)(1 + below(200));
		}
		check_division(&m, (int32_t)(1 + below(40)), 1 + below(300));
	}
}

static void refused(const struct model *m, int status, const char *word)
{
	struct cuts c;
	int rc = 0;

	for (int r = 0; r < 4 && !rc; r++) {
		rc = cuts_make(&c, &m->arch, r, 4, 1);
		if (!rc)
			cuts_free(&c);
	}
	assert_int_equal(rc, status);
	if (!strstr(fail_text(), word))
		fail_msg("'%s' does not say '%s'", fail_text(), word);
}

static void test_refused_models(void **state)
{
	struct model m;
	struct cuts c;

	smollm2(&m);
	m.layer[2].n_heads = 10;
	refused(&m, NVLLM_EINVAL, "layer 2");
	smollm2(&m);
	m.layer[1].kv_layer = 4;
	refused(&m, NVLLM_EINVAL, "layer 1 reads the K and V of layer 4");
	smollm2(&m);
	m.layer[1].kv_layer = 0; /* cut alike: it works */
	check_division(&m, 4, 1);
	m.layer[1].n_heads = m.layer[1].n_kv_heads = 8; /* whose KV heads no rank finds there */
	refused(&m, NVLLM_ENOTSUP, "layer 1 reads the K and V of layer 0");
	smollm2(&m);
	m.layer[0].n_heads = m.layer[0].head_dim = 1 << 30;
	m.layer[0].n_kv_heads = 1 << 29;
	refused(&m, NVLLM_EINVAL, "layer 0");
	smollm2(&m);
	assert_int_equal(cuts_make(&c, &m.arch, 2, 2, 1), NVLLM_EINVAL);
	assert_int_equal(cuts_make(&c, &m.arch, 0, 1, 0), NVLLM_EINVAL);
}

static void test_refused_parts(void **state)
{
	static const struct { int cut, layer; int64_t rows, cols; int rc; } list[] = {
		{ NVLLM_CUT_HEADS, 0, 576 + 2 * 192, 576, 0 }, { NVLLM_CUT_HEADS, 3, 576, 0, 0 }, { NVLLM_CUT_HEADS, 0, 192, 7, 0 },
		{ NVLLM_CUT_HEADS, 0, 2 * 192, 576, -1 }, { NVLLM_CUT_HEADS, 0, 577, 576, -1 }, { NVLLM_CUT_HEADS, 4, 576, 576, -1 },
		{ NVLLM_CUT_HEADS, -1, 576, 576, -1 }, { NVLLM_CUT_HEADS_IN, 0, 5, 576, 0 }, { NVLLM_CUT_HEADS_IN, 0, 576, 192, -1 },
		{ NVLLM_CUT_HEADS_IN, 0, 576, 0, -1 }, { NVLLM_CUT_ROWS, 9, 1536, 5, 0 }, { NVLLM_CUT_ROWS, 0, 3 * 1536, 5, 0 },
		{ NVLLM_CUT_ROWS, 0, 4 * 1536, 5, -1 }, { NVLLM_CUT_ROWS, 0, 1537, 5, -1 }, { NVLLM_CUT_ROWS, 0, 0, 5, -1 },
		{ NVLLM_CUT_COLS, 0, 5, 1536, 0 }, { NVLLM_CUT_COLS, 0, 5, 3072, -1 }, { NVLLM_CUT_COLS, 0, 1536, 0, -1 },
		{ NVLLM_CUT_VOCAB, 0, 49152, 5, 0 }, { NVLLM_CUT_VOCAB, 0, 49153, 5, -1 }, { NVLLM_WHOLE, 77, 3, 5, 0 },
		{ 6, 0, 3, 5, -1 }, { -1, 0, 3, 5, -1 },
	};
	struct cut_part p;
	struct model m;
	struct cuts c;

	smollm2(&m);
	for (int world = 1; world <= 4; world++) {
		assert_int_equal(cuts_make(&c, &m.arch, world - 1, world, 32), 0);
		for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
			if (cuts_part(&c, list[i].cut, list[i].layer, list[i].rows, list[i].cols, &p) != list[i].rc)
				fail_msg("world %d, case %zu", world, i);
		cuts_free(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_models),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_refused_models),
		cmocka_unit_test(test_refused_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
