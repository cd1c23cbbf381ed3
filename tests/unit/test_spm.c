/* SPDX-License-Identifier: MIT */
/* test_spm.c - SentencePiece models made in memory: merging and best paths against plain
 * references, normalizing, added tokens, pieces back to text, and what the contract says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>

#include "spm_made.h"

/* ---- BPE by scores ---- */

static int find(const struct model *m, const char *s, size_t len)
{
	for (int i = 3; i < m->n; i++)
		if (strlen(m->texts[i]) == len && memcmp(m->texts[i], s, len) == 0)
			return i;
	return -1;
}

/* While any two neighbours are a piece together: those of the highest score, leftmost. */
static int reference_bpe(const struct model *m, const char *s, int len, int32_t *ids)
{
	int at[257], n = len;

	for (int i = 0; i <= len; i++)
		at[i] = i;
	for (;;) {
		int best = -1, best_id = -1;

		for (int i = 0; i + 2 <= n; i++) {
			int id = find(m, s + at[i], (size_t)(at[i + 2] - at[i]));

			if (id >= 0 && (best < 0 || m->scores[id] > m->scores[best_id])) {
				best = i;
				best_id = id;
			}
		}
		if (best < 0)
			break;
		memmove(at + best + 1, at + best + 2, (size_t)(n - best - 1) * sizeof(*at));
		n--;
	}
	for (int i = 0; i < n; i++)
		ids[i] = find(m, s + at[i], (size_t)(at[i + 1] - at[i]));
	return n;
}

/* Pieces over a few letters, some scores equal, so that they compete. */
static void random_pieces(struct model *m, int n_letters, int n)
{
	for (int i = 0; i < n_letters; i++)
		put_piece_n(m, &"abcd"[i], 1, -1, NORMAL);
	while (n-- > 0) {
		char text[16];
		int len = 2 + rand() % 6;

		for (int i = 0; i < len; i++)
			text[i] = (char)('a' + rand() % n_letters);
		if (find(m, text, (size_t)len) < 0)
			put_piece_n(m, text, (size_t)len, (float)-(rand() % 12), NORMAL);
	}
}

static void test_bpe(void **state)
{
	srand(3);
	for (int round = 0; round < 60; round++) {
		int n_letters = 1 + rand() % 3;
		struct model *m = malloc(sizeof(*m));

		model_begin(m, 2, false);
		random_pieces(m, n_letters, 2 + round / 2);
		model_must_open(m);
		for (int i = 0; i < 40; i++) {
			int len = 1 + (i < 30 ? i : rand() % 120), n;
			char text[200];
			int32_t got[200], want[200];

			for (int k = 0; k < len; k++)
				text[k] = (char)('a' + rand() % n_letters);
			n = reference_bpe(m, text, len, want);
			assert_int_equal(spm->encode(m->t, text, len, 0, got, 200), n);
			assert_memory_equal(got, want, (size_t)n * sizeof(*got));
		}
		model_end(m);
		free(m);
	}
}

/* Words are merged each by itself only where no piece has a space within. */
static void test_across(void **state)
{
	for (int across = 0; across < 2; across++) {
		struct model *m = malloc(sizeof(*m));

		model_begin(m, 2, false);
		put_piece(m, "a", -1, NORMAL);
		put_piece(m, "b", -1, NORMAL);
		put_piece(m, SPACE, -1, NORMAL);
		put_piece(m, SPACE "b", -5, NORMAL);
		put_piece(m, SPACE SPACE, -4, NORMAL);
		if (across)
			put_piece(m, "a" SPACE, -2, NORMAL);
		model_must_open(m);
		check_pieces(m, "a b a", 0, across ? "a" SPACE "|b|" SPACE "|a" :
			"a|" SPACE "b|" SPACE "|a");
		check_pieces(m, "a   b", 0, across ? "a" SPACE "|" SPACE SPACE "|b" :
			"a|" SPACE SPACE "|" SPACE "b");
		model_end(m);
		free(m);
	}
}

static void test_unused(void **state)
{
	struct model *m = malloc(sizeof(*m));

	model_begin(m, 2, false);
	put_piece(m, "a", -9, NORMAL);
	put_piece(m, "b", -9, NORMAL);
	put_piece(m, "ab", -1, UNUSED);
	put_piece(m, "aba", -2, UNUSED);
	put_piece(m, "abab", -3, NORMAL);
	model_must_open(m);
	check_pieces(m, "ab", 0, "a|b");
	check_pieces(m, "aba", 0, "a|b|a");
	check_pieces(m, "abab", 0, "abab"); /* made of two unused ones */
	model_end(m);
	free(m);
}

/* ---- Unigram ---- */

/* The best of all cuts of s, by trying them. Scores are whole numbers: sums are exact. */
static float reference_unigram(const struct model *m, const char *s, int len)
{
	float best = -1e9f;

	if (len == 0)
		return 0;
	for (int k = 1; k <= len && k < 9; k++) {
		int id = find(m, s, (size_t)k);
		float rest;

		if (id < 0 && k > 1)
			continue;
		rest = (id >= 0 ? m->scores[id] : -22) + reference_unigram(m, s + k, len - k);
		best = rest > best ? rest : best;
	}
	return best;
}

static void test_unigram(void **state)
{
	srand(4);
	for (int round = 0; round < 40; round++) {
		struct model *m = malloc(sizeof(*m));

		model_begin(m, 1, false);
		random_pieces(m, 2, 3 + round / 2);
		put_piece(m, "c", -12, NORMAL); /* the lowest score: an unknown one costs 22 */
		model_must_open(m);
		for (int i = 0; i < 30; i++) {
			int len = 1 + rand() % 14, at = 0;
			char text[16];
			int32_t ids[16];
			int64_t n;
			float sum = 0;

			for (int k = 0; k < len; k++)
				text[k] = (char)('a' + (rand() % 8 ? rand() % 2 : 2));
			n = spm->encode(m->t, text, len, 0, ids, 16);
			assert_true(n > 0 && n <= len);
			for (int k = 0; k < n; k++) {
				size_t l = strlen(m->texts[ids[k]]);

				assert_memory_equal(m->texts[ids[k]], text + at, l);
				sum += m->scores[ids[k]];
				at += (int)l;
			}
			assert_int_equal(at, len);
			assert_float_equal(sum, reference_unigram(m, text, len), 0);
		}
		model_end(m);
		free(m);
	}
}

/* ---- unknown characters ---- */

static void test_unknown(void **state)
{
	for (int type = 1; type <= 2; type++) {
		struct model *m = malloc(sizeof(*m));

		model_begin(m, type, false);
		put_piece(m, "a", -1, NORMAL);
		model_must_open(m);
		check_pieces(m, "a\xC3\xA9\xE6\xBC\xA2" "axyz", 0, "a|<unk>|a|<unk>");
		model_end(m);

		model_begin(m, type, true);
		put_piece(m, "a", -1, NORMAL);
		model_must_open(m);
		check_pieces(m, "a\xC3\xA9" "a", 0, "a|<0xC3>|<0xA9>|a");
		assert_int_equal(spm->byte(m->t, 3 + 0xC3), 0xC3);
		assert_int_equal(spm->byte(m->t, 3 + 256), -1);
		assert_int_equal(spm->byte(m->t, -1), -1);
		assert_int_equal(spm->byte(m->t, 1 << 30), -1);
		model_end(m);
		free(m);
	}
}

/* ---- normalizing ---- */

static void spaces_model(struct model *m, int prefix, int squeeze, int suffix)
{
	model_begin(m, 2, false);
	put_number(&m->normal, 3, (uint64_t)prefix);
	put_number(&m->normal, 4, (uint64_t)squeeze);
	put_number(&m->trainer, 24, (uint64_t)suffix);
	put_piece(m, SPACE, -1, NORMAL);
	put_piece(m, "a", -1, NORMAL);
	model_must_open(m);
}

static void test_spaces(void **state)
{
	static const struct {
		int prefix, squeeze, suffix;
		const char *text, *want;
	} rows[] = {
		{ 0, 0, 0, " a  a ", SPACE "|a|" SPACE "|" SPACE "|a|" SPACE },
		{ 1, 0, 0, "a", SPACE "|a" },
		{ 1, 0, 0, " a", SPACE "|" SPACE "|a" },
		{ 1, 1, 0, "  a   a  ", SPACE "|a|" SPACE "|a" },
		{ 0, 1, 0, "  a   a  ", "a|" SPACE "|a" },
		{ 1, 1, 0, "   ", "" },
		{ 1, 0, 0, "", "" },
		{ 1, 0, 1, "a a", "a|" SPACE "|a|" SPACE },
		{ 1, 0, 0, "a<s>a", SPACE "|a|<s>|" SPACE "|a" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct model *m = malloc(sizeof(*m));

		spaces_model(m, rows[i].prefix, rows[i].squeeze, rows[i].suffix);
		check_pieces(m, rows[i].text, 0, rows[i].want);
		model_end(m);
		free(m);
	}
}

static void test_user_defined(void **state)
{
	for (int type = 1; type <= 2; type++) {
		struct model *m = malloc(sizeof(*m));

		model_begin(m, type, false);
		put_piece(m, "a", -1, NORMAL);
		put_piece(m, "b", -1, NORMAL);
		put_piece(m, "aa", -1, NORMAL);
		put_piece(m, "ab", 0, USER);
		put_piece(m, "aba", 0, USER);
		model_must_open(m);
		check_pieces(m, "aab", 0, "a|ab");
		/* the longest in BPE; in Unigram the best sum of what is little below 0 each */
		check_pieces(m, "ababa", 0, type == 2 ? "aba|b|a" : "ab|aba");
		check_pieces(m, "aaaa", 0, "aa|aa");
		model_end(m);
		free(m);
	}
}

/* ---- added tokens and the config ---- */

static void test_config(void **state)
{
	static const char config[] = "{\"added_tokens_decoder\":{"
		"\"1\":{\"content\":\"<s>\",\"special\":true},"
		"\"5\":{\"content\":\"<|im_end|>\",\"special\":true,\"normalized\":false},"
		"\"7\":{\"content\":\"[x]\",\"special\":false,\"normalized\":false,\"rstrip\":true}},"
		"\"add_bos_token\":true,\"add_eos_token\":true,\"bos_token\":\"<s>\","
		"\"eos_token\":{\"content\":\"</s>\"},\"pad_token\":\"<|im_end|>\",\"legacy\":false}";
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	struct model *m = malloc(sizeof(*m));
	int32_t len;

	model_begin(m, 2, false);
	put_number(&m->normal, 3, 1);
	put_piece(m, SPACE, -1, NORMAL);
	put_piece(m, "a", -1, NORMAL);
	write_file(m, "tokenizer_config.json", config, sizeof(config) - 1);
	model_must_open(m);
	assert_int_equal(spm->info(m->t, &info), 0);
	assert_int_equal(info.n_tokens, 8);
	assert_int_equal(info.bos, 1);
	assert_int_equal(info.eos, 2);
	assert_int_equal(info.pad, 5);
	assert_int_equal(info.n_eos_ids, 2);
	assert_int_equal(info.eos_ids[0], 2);
	assert_int_equal(info.eos_ids[1], 5);
	/* not legacy: one space before the text, and only where there is none */
	check_pieces(m, "a<|im_end|>a[x]   a", NVLLM_ENCODE_SPECIAL,
		"<s>|" SPACE "|a|(added)|a|(added)|a|</s>");
	check_pieces(m, " a", 0, SPACE "|a");
	assert_non_null(spm->piece(m->t, 7, 0, &len));
	assert_int_equal(len, 3);
	model_end(m);
	free(m);
}

static void test_pieces(void **state)
{
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	struct model *m = malloc(sizeof(*m));
	int32_t len, id;
	const char *s;

	model_begin(m, 2, true);
	put_number(&m->normal, 3, 1);
	id = put_piece(m, SPACE "a" SPACE, -1, NORMAL);
	model_must_open(m);
	s = spm->piece(m->t, id, 0, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(s, " a ", 3);
	s = spm->piece(m->t, id, NVLLM_PIECE_FIRST, &len);
	assert_int_equal(len, 2);
	assert_memory_equal(s, "a ", 2);
	s = spm->piece(m->t, 3 + 0xE4, 0, &len);
	assert_int_equal(len, 1);
	assert_memory_equal(s, "\xE4", 1);
	s = spm->piece(m->t, 1, 0, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(s, "<s>", 3);
	assert_non_null(spm->piece(m->t, 1, NVLLM_PIECE_SKIP_SPECIAL, &len));
	assert_int_equal(len, 0);
	assert_null(spm->piece(m->t, m->n, 0, &len));
	assert_null(spm->piece(m->t, -1, 0, &len));
	assert_int_equal(spm->info(m->t, &info), 0);
	assert_int_equal(info.n_tokens, m->n);
	assert_int_equal(info.bos, 1);
	assert_int_equal(info.eos, 2);
	model_end(m);
	free(m);
}

/* ---- the contract ---- */

static void test_probe(void **state)
{
	struct nvllm_loader l = { 0 };
	struct nvllm_loader_ref ref = { .size = sizeof(ref), .vt = &fake_loader_vt, .loader = &l };
	struct model *m = malloc(sizeof(*m));
	struct nvllm_tokenizer *opened;

	model_begin(m, 2, false);
	assert_int_equal(spm->probe(NULL, m->dir), 0);
	put_piece(m, "a", -1, NORMAL);
	model_must_open(m);
	opened = m->t;
	assert_true(spm->probe(NULL, m->dir) >= 80);
	assert_true(spm->probe(NULL, m->path) >= 80);
	write_file(m, "tokenizer.model", "IQ== 0\nIg== 1\n", 14); /* tiktoken's */
	assert_int_equal(spm->probe(NULL, m->dir), 0);
	assert_int_equal(spm->probe(NULL, "/nowhere"), 0);
	fake_text(&l, "tokenizer.ggml.model", "gpt2");
	assert_int_equal(spm->probe(&ref, "x.gguf"), 0);
	assert_int_equal(spm->open(&m->host.h, &ref, "x.gguf", NULL, &m->t), NVLLM_ENOTSUP);
	fake_text(&l, "tokenizer.ggml.model", "llama");
	assert_int_equal(spm->probe(&ref, "x.gguf"), 90);
	m->t = opened;
	model_end(m);
	free(m);
}

static void test_room_and_utf8(void **state)
{
	struct model *m = malloc(sizeof(*m));
	int32_t ids[8];

	model_begin(m, 2, true);
	put_piece(m, "a", -1, NORMAL);
	model_must_open(m);
	memset(ids, 0x55, sizeof(ids));
	assert_int_equal(spm->encode(m->t, "aaaaa", 5, 0, ids, 3), 5);
	assert_int_equal(ids[2], m->n - 1);
	assert_int_equal(ids[3], 0x55555555);
	assert_int_equal(spm->encode(m->t, NULL, 0, 0, NULL, 0), 0);
	assert_int_equal(spm->encode(m->t, "x", -1, 0, ids, 8), NVLLM_EINVAL);
	assert_int_equal(spm->encode(m->t, "abc\xC3", 4, 0, ids, 8), NVLLM_EINVAL);
	assert_non_null(strstr(m->host.said, "byte 3"));
	model_end(m);
	free(m);
}

/* ---- a GGUF's vocabulary ---- */

static void gguf_token(struct nvllm_loader *l, float *scores, const char *text, float score,
	int type)
{
	scores[fake_token(l, text, strlen(text), type)] = score;
	fake_set(l, "tokenizer.ggml.scores", NVLLM_F32, l->n_tokens, scores);
}

static void test_gguf(void **state)
{
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	struct model *m = malloc(sizeof(*m));
	struct nvllm_loader l = { 0 };
	struct nvllm_loader_ref ref = { .size = sizeof(ref), .vt = &fake_loader_vt, .loader = &l };
	float scores[32];

	memset(m, 0, sizeof(*m));
	fake_host_init(&m->host);
	fake_text(&l, "tokenizer.ggml.model", "llama");
	gguf_token(&l, scores, "<unk>", 0, UNKNOWN);
	gguf_token(&l, scores, "<bos>", 0, CONTROL);
	gguf_token(&l, scores, "<end_of_turn>", 0, CONTROL);
	gguf_token(&l, scores, SPACE, -1, NORMAL);
	gguf_token(&l, scores, "a", -1, NORMAL);
	gguf_token(&l, scores, "aa", -2, NORMAL);
	gguf_token(&l, scores, SPACE "a", -3, NORMAL);
	gguf_token(&l, scores, "  ", -1000, USER);
	for (int i = 0; i < l.n_tokens; i++)
		snprintf(m->texts[i], sizeof(m->texts[i]), "%s", l.tokens[i].s);
	m->n = l.n_tokens;
	fake_number(&l, "tokenizer.ggml.bos_token_id", 1);
	fake_number(&l, "tokenizer.ggml.eos_token_id", 2);
	for (int prefix = 1; prefix >= 0; prefix--) {
		assert_int_equal(spm->open(&m->host.h, &ref, "x.gguf", NULL, &m->t), 0);
		assert_int_equal(spm->info(m->t, &info), 0);
		assert_int_equal(info.n_eos_ids, 1);
		assert_int_equal(info.eos_ids[0], 2);
		check_pieces(m, "aaa", NVLLM_ENCODE_SPECIAL,
			prefix ? "<bos>|" SPACE "|aa|a" : "<bos>|aa|a");
		check_pieces(m, "a  a<bos>", 0, prefix ? SPACE "a|  |a|<bos>" : "a|  |a|<bos>");
		check_pieces(m, "a" SPACE " a", 0, prefix ? SPACE "a|  |a" : "a|  |a");
		spm->close(m->t);
		fake_number(&l, "tokenizer.ggml.add_space_prefix", 0);
	}
	fake_host_finish(&m->host);
	fake_vocab_finish(&l);
	free(m);
}

/* ---- long texts, and many at once ---- */

/* n log n at worst: a quadratic way would take minutes for these. */
static void test_long(void **state)
{
	enum { LEN = 1 << 20 };
	char *text = malloc(LEN);
	int32_t *ids = malloc(LEN * sizeof(*ids));
	int64_t sum;

	for (int type = 1; type <= 2; type++) {
		struct model *m = malloc(sizeof(*m));

		model_begin(m, type, false);
		put_piece(m, "a", -1, NORMAL);
		put_piece(m, "b", -1, NORMAL);
		for (int i = 0, len = 2; i < 7; i++, len *= 2) {
			char piece[257];

			memset(piece, 'a', (size_t)len);
			put_piece_n(m, piece, (size_t)len, type == 2 ? (float)-i : -1, NORMAL);
		}
		model_must_open(m);
		memset(text, 'a', LEN);
		assert_int_equal(spm->encode(m->t, text, LEN, 0, ids, LEN), LEN / 128);
		for (int i = 0; i < LEN; i += 3)
			text[i] = 'b';
		sum = spm->encode(m->t, text, LEN, 0, ids, LEN);
		assert_int_equal(sum, LEN / 3 * 2 + 1);
		model_end(m);
		free(m);
	}
	free(text);
	free(ids);
}

static struct model *shared;

static void *encode_many(void *arg)
{
	static const char text[] = "aab aba abab bbaab b a";
	int32_t ids[64], want[64];
	int64_t n = spm->encode(shared->t, text, sizeof(text) - 1, 0, want, 64);
	bool same = true;

	for (int i = 0; i < 300; i++)
		same = same && spm->encode(shared->t, text, sizeof(text) - 1, 0, ids, 64) == n &&
			memcmp(ids, want, (size_t)n * sizeof(*ids)) == 0;
	return same ? arg : NULL;
}

static void test_threads(void **state)
{
	pthread_t threads[4];
	void *ok;

	for (int type = 1; type <= 2; type++) {
		shared = malloc(sizeof(*shared));
		model_begin(shared, type, true);
		srand(8);
		random_pieces(shared, 2, 20);
		model_must_open(shared);
		for (int i = 0; i < 4; i++)
			pthread_create(&threads[i], NULL, encode_many, shared);
		for (int i = 0; i < 4; i++) {
			pthread_join(threads[i], &ok);
			assert_non_null(ok);
		}
		model_end(shared);
		free(shared);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bpe), cmocka_unit_test(test_across), cmocka_unit_test(test_unused),
		cmocka_unit_test(test_unigram), cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_spaces), cmocka_unit_test(test_user_defined),
		cmocka_unit_test(test_config), cmocka_unit_test(test_pieces), cmocka_unit_test(test_probe),
		cmocka_unit_test(test_room_and_utf8), cmocka_unit_test(test_gguf),
		cmocka_unit_test(test_long), cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, spm_setup, NULL);
}
