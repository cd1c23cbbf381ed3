/* SPDX-License-Identifier: MIT */
/* test_spm_hostile.c - SentencePiece files that are damaged or made to harm: each is refused
 * with a sentence that says what is wrong, or is harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "spm_made.h"

/* Opens what is written; the sentence must hold `said`. */
static void refused(struct model *m, int rc, const char *said)
{
	assert_int_equal(model_open(m), rc);
	if (!strstr(m->host.said, said))
		fail_msg("'%s' is not in '%s'", said, m->host.said);
	assert_null(m->t);
}

static void raw(struct model *m, const void *s, size_t len, int rc, const char *said)
{
	m->host.said[0] = 0;
	write_file(m, "tokenizer.model", s, len);
	assert_int_equal(spm->open(&m->host.h, NULL, m->path, NULL, &m->t), rc);
	if (!strstr(m->host.said, said))
		fail_msg("'%s' is not in '%s'", said, m->host.said);
}

#define RAW(bytes, said) raw(m, bytes, sizeof(bytes) - 1, NVLLM_EINVAL, said)

static void test_wire(void **state)
{
	struct model *m = malloc(sizeof(*m));

	model_begin(m, 2, false);
	RAW("", "0 pieces");
	RAW("\x0A", "cut off");
	RAW("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "more than 10");
	RAW("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "longer than what is left");
	RAW("\x0A\x05\x0A\x01", "longer than what is left");
	RAW("\x0A\x03\x0A\x05z", "longer than what is left");
	RAW("\x0A\x03\x0A\x01z\x12", "cut off");
	RAW("\x0B\x0B\x0B", "groups");
	RAW("\x0F", "groups");
	RAW("\x02\x00", "impossible number");
	RAW("\x0A\x03\x10\x01\x00", "another wire type");
	RAW("\x0A\x05\x0A\x01z\x18\x07", "type that is not known");
	RAW("\x0A\x05\x0A\x01z\x18\x00", "type that is not known");
	RAW("\x09zzzz", "longer than what is left");
	RAW("\x08\x01", "another wire type");
	assert_int_equal(spm->open(&m->host.h, NULL, "/nowhere/at/all", NULL, &m->t), NVLLM_ENOENT);
	assert_non_null(strstr(m->host.said, "/nowhere/at/all"));
	model_end(m);
	free(m);
}

/* Every beginning of a good file, and every byte of it spoiled: no crash. */
static void test_damaged(void **state)
{
	struct model *m = malloc(sizeof(*m));
	struct message all = { 0 };
	int32_t ids[64];

	model_begin(m, 1, false);
	put_piece(m, "ab", -1, NORMAL);
	put_piece(m, SPACE "a", -2, USER);
	put_piece(m, "b", -3, UNUSED);
	put_bytes(&all, m->file.s, m->file.len);
	put_field(&all, 2, m->trainer.s, m->trainer.len);
	put_field(&all, 3, m->normal.s, m->normal.len);
	for (size_t i = 0; i < all.len * 4; i++) {
		size_t at = i / 4;
		unsigned char was = all.s[at];
		size_t len = i % 4 ? all.len : at;

		all.s[at] = (unsigned char)(i % 4 == 1 ? 0xFF : i % 4 == 2 ? was ^ 0x08 : i % 4 ? was + 1 : was);
		write_file(m, "tokenizer.model", all.s, len);
		m->host.said[0] = 0;
		if (spm->open(&m->host.h, NULL, m->dir, NULL, &m->t) < 0) {
			assert_true(m->host.said[0] != 0);
		} else {
			spm->encode(m->t, "ab a <s>b", 9, 0, ids, 64);
			spm->close(m->t);
		}
		m->t = NULL;
		all.s[at] = was;
	}
	free(all.s);
	model_end(m);
	free(m);
}

static void score(struct model *m, float x, const char *said)
{
	model_begin(m, 2, false);
	put_piece(m, "a", x, NORMAL);
	refused(m, NVLLM_EINVAL, said);
	model_end(m);
}

static void test_vocab(void **state)
{
	struct model *m = malloc(sizeof(*m));
	char *text = malloc(8192);

	score(m, NAN, "[3] has the score");
	score(m, INFINITY, "[3] has the score");
	score(m, -INFINITY, "[3] has the score");

	memset(text, 'a', 8192);
	model_begin(m, 2, false);
	put_piece_n(m, text, 8192, 0, NORMAL);
	refused(m, NVLLM_EINVAL, "8192 bytes");
	model_end(m);

	model_begin(m, 2, false);
	put_piece(m, "a\xFF", 0, NORMAL);
	refused(m, NVLLM_EINVAL, "[3] is no UTF-8");
	model_end(m);

	model_begin(m, 2, true);
	put_piece(m, "<0xZZ>", 0, BYTE);
	refused(m, NVLLM_EINVAL, "'<0xZZ>' is not like");
	model_end(m);

	model_begin(m, 2, true);
	put_piece(m, "<0x-1>", 0, BYTE);
	refused(m, NVLLM_EINVAL, "'<0x-1>' is not like");
	model_end(m);

	model_begin(m, 2, false);
	put_number(&m->trainer, 35, 1);
	put_piece(m, "<0x41>", 0, BYTE);
	refused(m, NVLLM_EINVAL, "255 of 256 byte tokens are missing");
	model_end(m);

	model_begin(m, 3, false);
	refused(m, NVLLM_ENOTSUP, "neither Unigram nor BPE");
	model_end(m);

	model_begin(m, 2, false);
	m->file.len = 0;
	put_piece(m, "a", 0, NORMAL);
	refused(m, NVLLM_EINVAL, "neither an unknown token nor byte tokens");
	model_end(m);
	free(text);
	free(m);
}

/* Ids of special tokens that are not there are none. */
static void test_ids(void **state)
{
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	struct model *m = malloc(sizeof(*m));

	model_begin(m, 2, false);
	put_number(&m->trainer, 41, 1000000);
	put_number(&m->trainer, 42, (uint64_t)-7);
	put_number(&m->trainer, 43, 3); /* a normal token */
	put_piece(m, "a", -1, NORMAL);
	model_must_open(m);
	assert_int_equal(spm->info(m->t, &info), 0);
	assert_int_equal(info.bos, -1);
	assert_int_equal(info.eos, -1);
	assert_int_equal(info.pad, -1);
	check_pieces(m, "a", NVLLM_ENCODE_SPECIAL, "a");
	model_end(m);
	free(m);
}

static void charsmap(struct model *m, const void *s, size_t len, const char *said)
{
	model_begin(m, 2, false);
	put_piece(m, "a", -1, NORMAL);
	put_field(&m->normal, 2, s, len);
	if (said) {
		refused(m, NVLLM_EINVAL, said);
	} else {
		int32_t ids[16];

		model_must_open(m);
		assert_true(spm->encode(m->t, "a\xC3\xA9 b", 5, 0, ids, 16) > 0);
	}
	model_end(m);
}

/* The double array leads outside, in circles, to texts that are not there: no rule then. */
static void test_charsmap(void **state)
{
	struct model *m = malloc(sizeof(*m));
	char blob[4 + 4 * 256 + 300];

	charsmap(m, "abc", 3, "no character map");
	charsmap(m, "\xFF\xFF\xFF\xFFz", 5, "trie is said to have");
	charsmap(m, "\x03\0\0\0zzz", 7, "units have 4");
	charsmap(m, "\0\0\0\0zz", 6, "no NUL");
	charsmap(m, "\0\0\0\0z\0", 6, NULL);
	memset(blob, 'z', sizeof(blob));
	memcpy(blob, "\0\0\0\0", 4);
	charsmap(m, blob, sizeof(blob), "more than 256 bytes");
	for (int fill = 0; fill < 256; fill++) {
		uint32_t bytes = 4 * 256;

		memcpy(blob, &bytes, 4);
		memset(blob + 4, fill, 4 * 256);
		for (int i = 0; i < 256; i++)
			blob[4 + 4 * i] = (char)i; /* each unit has the label of its place */
		memcpy(blob + 4 + 4 * 256, "xyz", 4);
		charsmap(m, blob, 4 + 4 * 256 + 4, NULL);
	}
	free(m);
}

static void config(struct model *m, const char *text, int rc, const char *said)
{
	model_begin(m, 2, false);
	put_piece(m, "a", -1, NORMAL);
	write_file(m, "tokenizer_config.json", text, strlen(text));
	if (rc)
		refused(m, rc, said);
	else
		model_must_open(m);
	model_end(m);
}

static void test_config(void **state)
{
	struct model *m = malloc(sizeof(*m));

	config(m, "{", NVLLM_EINVAL, "tokenizer_config.json:1");
	config(m, "[]", NVLLM_EINVAL, "no JSON object");
	config(m, "{\"added_tokens_decoder\":[]}", NVLLM_EINVAL, "added_tokens_decoder");
	config(m, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", NVLLM_EINVAL, "'x' is no id");
	config(m, "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"y\"}}}", NVLLM_EINVAL,
		"'-1' is no id");
	config(m, "{\"added_tokens_decoder\":{\"999999999\":{\"content\":\"y\"}}}", NVLLM_EINVAL,
		"is no id");
	config(m, "{\"added_tokens_decoder\":{\"9\":{\"content\":\"\"}}}", NVLLM_EINVAL, "token 9 has no");
	config(m, "{\"added_tokens_decoder\":{\"9\":7}}", NVLLM_EINVAL, "token 9 has no");
	config(m, "{\"added_tokens_decoder\":{\"9\":{\"content\":\"q\",\"special\":1}}}", NVLLM_EINVAL,
		"'special' is not true or false");
	config(m, "{\"add_bos_token\":\"yes\"}", NVLLM_EINVAL, "'add_bos_token' is not");
	config(m, "{\"bos_token\":5}", NVLLM_EINVAL, "'bos_token' is not");
	config(m, "{\"tokenizer_class\":\"XLMRobertaTokenizer\"}", NVLLM_ENOTSUP, "tokenizer.json");
	config(m, "{\"bos_token\":null,\"eos_token\":\"not there\",\"unk_token\":3}", 0, NULL);
	free(m);
}

/* ---- tokenizer.json with the model Unigram ---- */

/* said NULL: it opens. encodes: "ab" and a character that no piece is can be encoded. */
static void unigram(struct model *m, const char *rest, const char *said, bool encodes)
{
	char text[2048];
	int32_t ids[16];
	int64_t n;

	memset(m, 0, sizeof(*m));
	fake_host_init(&m->host);
	strcpy(m->dir, "/tmp/nvllm-spm-XXXXXX");
	assert_non_null(mkdtemp(m->dir));
	snprintf(text, sizeof(text), "{\"version\":\"1.0\",\"model\":{\"type\":\"Unigram\",%s", rest);
	write_file(m, "tokenizer.json", text, strlen(text));
	assert_int_equal(spm->open(&m->host.h, NULL, m->dir, NULL, &m->t), said ? NVLLM_EINVAL : 0);
	if (said && !strstr(m->host.said, said))
		fail_msg("'%s' is not in '%s'", said, m->host.said);
	if (!said) {
		n = spm->encode(m->t, "ab\xC3\xA9", 4, 0, ids, 16);
		assert_true(encodes ? n > 0 && n <= 4 : n == NVLLM_EINVAL);
		assert_true(encodes || strstr(m->host.said, "unk_id"));
	}
	model_end(m);
}

static void test_unigram(void **state)
{
	struct model *m = malloc(sizeof(*m));

	unigram(m, "\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"ab\",-2.5]]}}", NULL, true);
	unigram(m, "\"unk_id\":null,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"ab\",-2]]}}", NULL, false);
	unigram(m, "\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],[\"<0xC3>\",-1]]}}", NULL,
		true);
	unigram(m, "\"unk_id\":9,\"vocab\":[[\"a\",-1]]}}", "'unk_id' is 9", false);
	unigram(m, "\"unk_id\":0,\"vocab\":{\"a\":0}}}", "model.vocab", false);
	unigram(m, "\"unk_id\":0,\"vocab\":[]}}", "model.vocab", false);
	unigram(m, "\"unk_id\":0,\"vocab\":[[\"a\"]]}}", "model.vocab[0]", false);
	unigram(m, "\"unk_id\":0,\"vocab\":[[\"a\",1],[\"b\",\"c\"]]}}", "model.vocab[1]", false);
	unigram(m, "\"unk_id\":0,\"vocab\":[[\"a\",1],7]}}", "model.vocab[1]", false);
	unigram(m, "\"vocab\":[[\"a\",1]]},\"normalizer\":{\"type\":\"Precompiled\","
		"\"precompiled_charsmap\":\"*\"}}", "not base64", false);
	unigram(m, "\"vocab\":[[\"a\",1]]},\"normalizer\":{\"type\":\"Precompiled\","
		"\"precompiled_charsmap\":\"/////w==\"}}", "trie is said to have", false);
	unigram(m, "\"vocab\":[[\"a\",1]]},\"normalizer\":{\"type\":\"Precompiled\"}}",
		"precompiled_charsmap", false);
	free(m);
}

/* ---- a GGUF's keys ---- */

static void test_gguf(void **state)
{
	struct fake_host host;
	struct nvllm_loader l = { 0 };
	struct nvllm_loader_ref ref = { .size = sizeof(ref), .vt = &fake_loader_vt, .loader = &l };
	struct nvllm_tokenizer *t = NULL;
	float scores[8] = { 0 };
	static const struct {
		const char *key;
		int32_t value;
		const char *said;
	} rows[] = {
		{ "tokenizer.ggml.bos_token_id", 2, "bos_token_id' is 2, outside 0..1" },
		{ "tokenizer.ggml.eos_token_id", -5, "eos_token_id' is -5" },
		{ "tokenizer.ggml.unknown_token_id", 99, "unknown_token_id' is 99" },
		{ "tokenizer.ggml.add_space_prefix", 7, "add_space_prefix' is 7" },
	};

	fake_host_init(&host);
	fake_text(&l, "tokenizer.ggml.model", "llama");
	assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "tokenizer.ggml.tokens"));
	fake_token(&l, "<unk>", 5, UNKNOWN);
	fake_token(&l, "a", 1, NORMAL);
	assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "tokenizer.ggml.scores"));
	fake_set(&l, "tokenizer.ggml.scores", NVLLM_F32, 1, scores);
	assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "1 elements for the 2"));
	fake_set(&l, "tokenizer.ggml.scores", NVLLM_I32, 2, scores);
	assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
	fake_set(&l, "tokenizer.ggml.scores", NVLLM_F32, 2, scores);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fake_number(&l, rows[i].key, rows[i].value);
		assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
		assert_non_null(strstr(host.said, rows[i].said));
		fake_unset(&l, rows[i].key);
	}
	l.types[1] = 7;
	assert_int_equal(spm->open(&host.h, &ref, "x", NULL, &t), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "[1] is 7"));
	fake_host_finish(&host);
	fake_vocab_finish(&l);
}

/* A host without memory: a status and a sentence at every allocation, and no leak. */
static int allocs_left;

static void *stingy_alloc(const struct nvllm_host *h, size_t bytes)
{
	return allocs_left-- > 0 ? fake_alloc(h, bytes) : NULL;
}

static void test_no_memory(void **state)
{
	static const char config_text[] = "{\"added_tokens_decoder\":{\"9\":{\"content\":\"y\"}}}";
	struct model *m = malloc(sizeof(*m));
	int rc = NVLLM_ENOMEM, tries = 0;

	for (; rc == NVLLM_ENOMEM; tries++) {
		model_begin(m, 1 + tries % 2, false);
		put_piece(m, "a", -1, NORMAL);
		put_piece(m, "b", -1, USER);
		write_file(m, "tokenizer_config.json", config_text, sizeof(config_text) - 1);
		m->host.h.alloc = stingy_alloc;
		allocs_left = tries;
		rc = model_open(m);
		if (rc < 0)
			assert_true(m->host.said[0] != 0);
		model_end(m);
	}
	assert_int_equal(rc, 0);
	assert_true(tries > 10);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wire), cmocka_unit_test(test_damaged), cmocka_unit_test(test_vocab),
		cmocka_unit_test(test_ids), cmocka_unit_test(test_charsmap), cmocka_unit_test(test_config),
		cmocka_unit_test(test_unigram), cmocka_unit_test(test_gguf),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, spm_setup, NULL);
}
