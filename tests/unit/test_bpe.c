/* SPDX-License-Identifier: MIT */
/* test_bpe.c - the byte-level BPE tokenizer on vocabularies made in memory: merging against a
 * plain reference, words, added tokens, and what the contract says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>

#include "bpe_made.h"
#include "utf8.h"

/* ---- merging ---- */

/* The rule as the paper has it: while any pair merges, the lowest rank's leftmost. */
static int reference_merge(const struct made *m, int32_t *ids, int n)
{
	for (;;) {
		int at = -1;
		int64_t best = m->l.n_merges;
		int32_t made = -1;

		for (int i = 0; i + 1 < n; i++) {
			char pair[512], both[512];
			int64_t rank = 0;

			snprintf(pair, sizeof(pair), "%s %s", m->l.tokens[ids[i]].s,
				m->l.tokens[ids[i + 1]].s);
			snprintf(both, sizeof(both), "%s%s", m->l.tokens[ids[i]].s,
				m->l.tokens[ids[i + 1]].s);
			while (rank < m->l.n_merges && strcmp(m->l.merges[rank].s, pair) != 0)
				rank++;
			if (rank < best) {
				best = rank;
				at = i;
				made = fake_find(&m->l, both, strlen(both));
			}
		}
		if (at < 0)
			return n;
		ids[at] = made;
		n--;
		memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 1) * sizeof(*ids));
	}
}

static bool has_merge(const struct nvllm_loader *l, const char *left, const char *right)
{
	char text[256];

	snprintf(text, sizeof(text), "%s %s", left, right);
	for (int32_t i = 0; i < l->n_merges; i++)
		if (strcmp(l->merges[i].s, text) == 0)
			return true;
	return false;
}

/* Random merges over a few letters, so that they compete; words around the length where
 * the way of merging changes, and far beyond. */
static void test_merge(void **state)
{
	srand(3);
	for (int round = 0; round < 60; round++) {
		int n_letters = 1 + rand() % 3;
		struct made m;

		made_begin(&m, "gpt-2");
		while (m.l.n_merges < 2 + round / 2) {
			int32_t pick[2];

			for (int i = 0; i < 2; i++) {
				int32_t k = rand() % (n_letters + m.l.n_tokens - 256);

				pick[i] = k < n_letters ? 'a' + k : 256 + k - n_letters;
			}
			if (m.l.tokens[pick[0]].len + m.l.tokens[pick[1]].len < 40 &&
			    !has_merge(&m.l, m.l.tokens[pick[0]].s, m.l.tokens[pick[1]].s))
				fake_merge(&m.l, m.l.tokens[pick[0]].s, m.l.tokens[pick[1]].s);
			else if (rand() % 50 == 0)
				break;
		}
		must_open(&m);
		for (int i = 0; i < 40; i++) {
			int len = 1 + (i < 30 ? i : rand() % 120), n;
			char text[200];
			int32_t got[200], want[200];

			for (int k = 0; k < len; k++) {
				text[k] = (char)('a' + rand() % n_letters);
				want[k] = text[k];
			}
			n = reference_merge(&m, want, len);
			assert_int_equal(bpe->encode(m.t, text, len, 0, got, 200), n);
			assert_memory_equal(got, want, (size_t)n * sizeof(*got));
		}
		made_end(&m);
	}
}

/* A pair listed twice has its last rank; the tokenizers library reads merges so. */
static void test_merge_twice(void **state)
{
	struct made m;

	made_begin(&m, "gpt-2");
	fake_merge(&m.l, "a", "b");
	fake_merge(&m.l, "b", "c");
	fake_merge_raw(&m.l, "a b");
	must_open(&m);
	check_words(&m, "abc", 3, 0, "a|bc");
	made_end(&m);
}

/* ---- words ---- */

static void add_pairs(struct nvllm_loader *l, const char *const (*pairs)[2])
{
	for (int i = 0; pairs[i][0]; i++)
		fake_merge(l, pairs[i][0], pairs[i][1]);
}

/* Merges show where a rule cuts and where it does not. In the byte alphabet G with a dot is a
 * space, C with a dot a newline. */
#define SP "\xC4\xA0"
#define NL "\xC4\x8A"

static void test_words(void **state)
{
	static const char *const pairs[][2] = { { "1", "2" }, { "12", "3" }, { "3", "4" },
		{ SP, "1" }, { SP, "a" }, { SP, SP }, { "!", NL }, { "'", "s" }, { "'", "S" },
		{ "\xC3\x85", "\xC2\xBF" }, { "\xC3\x85\xC2\xBF", "a" }, { "!", "\xC3\xA1" },
		{ "!", "\xC3\x82" }, { NL, NL }, { "!", "a" }, { "a", "\xC3\x8C" }, { NULL } };
	static const struct {
		const char *pre, *text, *want;
	} rows[] = {
		{ "gpt-2", "1234", "123|4" },
		{ "default", " 1", SP "1" },
		{ "gpt-2", "a  a", "a|" SP "|" SP "a" },
		{ "gpt-2", "a  ", "a|" SP SP },
		{ "gpt-2", "'s 'S", "'s|" SP "|'|S" },
		{ "gpt-2", "!\n", "!|" NL },
		{ "gpt-2", "\n\n", NL NL },
		{ "gpt-2", "\n\na", NL "|" NL "|a" },
		{ "gpt-2", "!a", "!|a" },
		{ "gpt-2",
			"'\xC5\xBF"
			"a",
			"'|\xC3\x85\xC2\xBF"
			"a" },
		{ "gpt-2", "!\xE1\xA0\x8E",
			"!\xC3\xA1|\xC5\x82|\xC4\xB0" }, /* U+180E is no space */
		{ "gpt-2", "!\xC2\x85", "!|\xC3\x82|\xC4\xA7" }, /* U+0085 is one */
		{ "gpt-2", "a\xCC\x81", "a|\xC3\x8C|\xC4\xA3" }, /* a mark is no letter */
		{ "smollm", "1234", "1|2|3|4" },
		{ "smollm", " 1", SP "|1" },
		{ "smollm", "a  1", "a|" SP SP "|1" },
		{ "smollm", "a \xC2\xB2", "a|" SP "|\xC3\x82|\xC2\xB2" }, /* U+00B2 is a number */
		{ "llama-bpe", "1234", "123|4" },
		{ "llama-bpe", "12341234", "123|4|12|34" },
		{ "llama-bpe", "'S", "'S" },
		{ "llama-bpe", "!\n", "!" NL },
		{ "llama-bpe", "!a", "!a" },
		{ "llama-bpe",
			"'\xC5\xBF"
			"a",
			"'|\xC3\x85\xC2\xBF|a" }, /* U+017F is an s */
		{ "llama3", "  a", SP "|" SP "a" },
		{ "qwen2", "1234", "1|2|3|4" },
		{ "qwen2", "'S", "'S" },
		{ "qwen2", "!\n", "!" NL },
		{ "qwen2", " \n\n a", SP "|" NL NL "|" SP "a" },
		{ "qwen2", "xe\xCC\x81", "x|\xC3\x83|\xC2\xA9" }, /* NFC first */
		{ "llama3", "xe\xCC\x81", "x|e|\xC3\x8C|\xC4\xA3" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct made m;

		made_begin(&m, rows[i].pre);
		add_pairs(&m.l, pairs);
		must_open(&m);
		assert_int_equal(m.host.n_warnings, 0);
		check_words(&m, rows[i].text, strlen(rows[i].text), 0, rows[i].want);
		made_end(&m);
	}
}

static void test_unknown_rule(void **state)
{
	struct made m;

	made_begin(&m, "new-and-better");
	fake_merge(&m.l, "1", "2");
	must_open(&m);
	assert_int_equal(m.host.n_warnings, 1);
	assert_non_null(strstr(m.host.warned, "'new-and-better'"));
	check_words(&m, "12", 2, 0, "12");
	made_end(&m);

	made_begin(&m, "gpt-2");
	fake_unset(&m.l, "tokenizer.ggml.pre");
	must_open(&m);
	assert_int_equal(m.host.n_warnings, 1);
	made_end(&m);
}

/* Llama 3: a word that is a token is that token, though no merge makes it. */
static void test_whole_words(void **state)
{
	static const char *const names[] = { "gpt-2", "llama-bpe" };

	for (int i = 0; i < 2; i++) {
		struct made m;

		made_begin(&m, names[i]);
		fake_token(&m.l, "hey", 3, 1);
		fake_token(&m.l, SP "hey", 5, 1);
		fake_token(&m.l, "abc", 3, 3); /* a control token is no word */
		must_open(&m);
		check_words(&m, "hey hey heyy abc", 12, 0, i ? "hey|" SP "hey|" SP "|h|e|y|y" :
			"h|e|y|" SP "|h|e|y|" SP "|h|e|y|y");
		check_words(&m, "abc", 3, NVLLM_ENCODE_PLAIN, "a|b|c");
		made_end(&m);
	}
}

/* ---- added tokens ---- */

static void test_added(void **state)
{
	static const struct {
		const char *text, *want, *plain;
	} rows[] = {
		{ "a<x>b", "a|<x>|b", "a|<|x|>|b" },
		{ "<x><x>", "<x>|<x>", "<|x|>|<|x|>" },
		{ "<x>>", "<x>>", "<x>>" }, /* the longest, here not special */
		{ "<x", "<|x", "<|x" },
		{ "<<x>", "<|<x>", "<|<|x|>" },
		{ "abcab", "abc|ab", "abc|ab" },
		{ "ababc", "ab|abc", "ab|abc" },
		{ "zbcd", "z|bcd", "z|b|c|d" }, /* leftmost before longer */
		{ "abcd", "abc|d", "abc|d" },
		{ "\xC3\xA9!\xC3\xA9", "\xC3\xA9!|\xC3\x83|\xC2\xA9",
			"\xC3\xA9!|\xC3\x83|\xC2\xA9" },
		{ "two words", "two words", "two words" },
		{ "hole", "h|o|l|e", "h|o|l|e" },
		{ "<unk>", "<unk>", "<|u|n|k|>" },
		/* what a special token covers is not searched for others in plain text */
		{ "[mask] mask", "[mask]|" SP "|mask", "[|m|a|s|k|]|" SP "|mask" },
	};
	struct made m;

	made_begin(&m, "gpt-2");
	fake_token(&m.l, "<x>", 3, 3);
	fake_token(&m.l, "<x>>", 4, 4);
	fake_token(&m.l, "ab", 2, 4);
	fake_token(&m.l, "abc", 3, 4);
	fake_token(&m.l, "bcd", 3, 3);
	fake_token(&m.l, "\xC3\xA9!", 3, 4);
	fake_token(&m.l, "two words", 9, 4);
	fake_token(&m.l, "hole", 4, 5);
	fake_token(&m.l, "<unk>", 5, 2);
	fake_token(&m.l, "[mask]", 6, 3);
	fake_token(&m.l, "mask", 4, 4);
	fake_token(&m.l, "", 0, 3);
	fake_token(&m.l, "", 0, 4);
	fake_token(&m.l, "", 0, 1);
	must_open(&m);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		check_words(&m, rows[i].text, strlen(rows[i].text), 0, rows[i].want);
		check_words(
			&m, rows[i].text, strlen(rows[i].text), NVLLM_ENCODE_PLAIN, rows[i].plain);
	}
	made_end(&m);
}

/* Random added tokens over two letters against a search at every place. */
static void test_added_random(void **state)
{
	srand(11);
	for (int round = 0; round < 200; round++) {
		struct made m;
		char text[60];

		made_begin(&m, "gpt-2");
		for (int i = 0; i < 1 + round % 12; i++) {
			size_t len = 1 + (size_t)rand() % 6;

			for (size_t k = 0; k < len; k++)
				text[k] = (char)('x' + rand() % 2);
			/* single letters are normal tokens already */
			if (len > 1 && fake_find(&m.l, text, len) < 0)
				fake_token(&m.l, text, len, 3);
		}
		must_open(&m);
		for (int i = 0; i < 10; i++) {
			int32_t got[60], want[60];
			size_t n = 0, at = 0;

			for (size_t k = 0; k < sizeof(text); k++)
				text[k] = (char)('x' + rand() % 2);
			while (at < sizeof(text)) {
				int32_t best = text[at];

				for (int32_t id = 256; id < m.l.n_tokens; id++) {
					size_t len = (size_t)m.l.tokens[id].len;

					if (len <= sizeof(text) - at &&
						memcmp(text + at, m.l.tokens[id].s, len) == 0 &&
						(best < 256 || len > (size_t)m.l.tokens[best].len))
						best = id;
				}
				want[n++] = best;
				at += (size_t)m.l.tokens[best].len;
			}
			assert_int_equal(bpe->encode(m.t, text, sizeof(text), 0, got, 60), n);
			assert_memory_equal(got, want, n * sizeof(*got));
		}
		made_end(&m);
	}
}

/* ---- the contract ---- */

static void test_probe(void **state)
{
	struct made m;

	made_begin(&m, "gpt-2");
	assert_int_equal(bpe->probe(&m.ref, NULL), 90);
	fake_text(&m.l, "tokenizer.ggml.model", "llama");
	assert_int_equal(bpe->probe(&m.ref, "x"), 0);
	assert_int_equal(made_open(&m), NVLLM_ENOTSUP);
	fake_number(&m.l, "tokenizer.ggml.model", 2);
	assert_int_equal(bpe->probe(&m.ref, "x"), 0);
	fake_unset(&m.l, "tokenizer.ggml.model");
	assert_int_equal(bpe->probe(&m.ref, "x"), 0);
	assert_int_equal(bpe->probe(NULL, "x"), 0);
	assert_int_equal(bpe->open(&m.host.h, NULL, "x", NULL, &m.t), NVLLM_ENOTSUP);
	made_end(&m);
}

static void test_bos_eos(void **state)
{
	static const char *const names[] = { "gpt-2", "llama-bpe" };

	for (int i = 0; i < 2; i++) {
		struct nvllm_tokenizer_info info;
		struct made m;

		made_begin(&m, names[i]);
		fake_token(&m.l, "<s>", 3, 3);            /* 256 */
		fake_token(&m.l, "<e>", 3, 3);            /* 257 */
		fake_token(&m.l, "<|eot_id|>", 10, 3);    /* 258 */
		fake_token(&m.l, "<|im_end|>", 10, 1);    /* 259: a normal token ends nothing */
		fake_token(&m.l, "<turn>", 6, 3);         /* 260 */
		fake_number(&m.l, "tokenizer.ggml.bos_token_id", 256);
		fake_number(&m.l, "tokenizer.ggml.eos_token_id", 257);
		fake_number(&m.l, "tokenizer.ggml.eot_token_id", 260);
		must_open(&m);
		assert_int_equal(bpe->info(m.t, &info), 0);
		assert_int_equal(info.n_tokens, 261);
		assert_int_equal(info.pad, -1);
		assert_int_equal(info.max_piece, 10);
		assert_int_equal(info.n_eos_ids, 3);
		assert_int_equal(info.eos_ids[0], 257);
		assert_int_equal(info.eos_ids[1], 260);
		assert_int_equal(info.eos_ids[2], 258);
		/* Llama 3's name alone means BOS; other names wait for the file to say it */
		check_words(&m, "a", 1, NVLLM_ENCODE_SPECIAL, i ? "<s>|a" : "a");
		bpe->close(m.t);
		fake_number(&m.l, "tokenizer.ggml.add_bos_token", !i);
		fake_number(&m.l, "tokenizer.ggml.add_eos_token", 1);
		must_open(&m);
		check_words(&m, "a", 1, NVLLM_ENCODE_SPECIAL, i ? "a|<e>" : "<s>|a|<e>");
		check_words(&m, "", 0, NVLLM_ENCODE_SPECIAL, i ? "<e>" : "<s>|<e>");
		check_words(&m, "<s>a", 4, NVLLM_ENCODE_SPECIAL | NVLLM_ENCODE_PLAIN,
			i ? "<|s|>|a|<e>" : "<s>|<|s|>|a|<e>");
		check_words(&m, "a", 1, 0, "a");
		made_end(&m);
	}
}

static void test_piece(void **state)
{
	struct made m;
	int32_t len, special, user, hole, odd, empty;
	const char *s;

	made_begin(&m, "gpt-2");
	special = fake_token(&m.l, "<\xC3\xA9>", 4, 3);
	user = fake_token(&m.l, " " SP, 3, 4);
	hole = fake_token(&m.l, "[PAD1]", 6, 5);
	odd = fake_token(
		&m.l, SP "\xE6\xBC\xA2", 5, 1); /* not of the byte alphabet: as it stands */
	empty = fake_token(&m.l, "", 0, 1);
	must_open(&m);
	for (int b = 0; b < 256; b++) {
		s = bpe->piece(m.t, b, NVLLM_PIECE_FIRST, &len);
		assert_int_equal(len, 1);
		assert_int_equal((unsigned char)*s, b);
	}
	s = bpe->piece(m.t, special, 0, &len);
	assert_int_equal(len, 4);
	assert_memory_equal(s, "<\xC3\xA9>", 4);
	assert_non_null(bpe->piece(m.t, special, NVLLM_PIECE_SKIP_SPECIAL, &len));
	assert_int_equal(len, 0);
	s = bpe->piece(m.t, user, NVLLM_PIECE_SKIP_SPECIAL, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(s, " " SP, 3);
	bpe->piece(m.t, hole, 0, &len);
	assert_int_equal(len, 0);
	s = bpe->piece(m.t, odd, 0, &len);
	assert_int_equal(len, 5);
	assert_memory_equal(s, SP "\xE6\xBC\xA2", 5);
	bpe->piece(m.t, empty, 0, &len);
	assert_int_equal(len, 0);
	assert_null(bpe->piece(m.t, -1, 0, &len));
	assert_int_equal(len, 0);
	assert_null(bpe->piece(m.t, m.l.n_tokens, 0, &len));
	assert_null(bpe->piece(m.t, INT32_MIN, 0, &len));
	made_end(&m);
}

static void test_room(void **state)
{
	struct made m;
	int32_t ids[8];

	made_begin(&m, "smollm");
	must_open(&m);
	memset(ids, 0x55, sizeof(ids));
	assert_int_equal(bpe->encode(m.t, "12345", 5, 0, ids, 3), 5);
	assert_int_equal(ids[2], '3');
	assert_int_equal(ids[3], 0x55555555);
	assert_int_equal(bpe->encode(m.t, "12345", 5, 0, NULL, 0), 5);
	assert_int_equal(bpe->encode(m.t, NULL, 0, 0, NULL, 0), 0);
	assert_int_equal(bpe->encode(m.t, "x", -1, 0, ids, 8), NVLLM_EINVAL);
	made_end(&m);
}

static void test_invalid_utf8(void **state)
{
	static const struct {
		const char *text;
		size_t len;
		const char *offset;
	} rows[] = {
		{ "\xFF", 1, "byte 0 " },
		{ "abc\xC3", 4, "byte 3 " },
		{ "\xE2\x82\xAC\xED\xA0\x80", 6, "byte 3 " },
		{ "0123456789abcdef\x80", 17, "byte 16 " },
		{ "a\0b\xC0\x80", 5, "byte 3 " },
	};
	struct made m;
	int32_t ids[32];

	made_begin(&m, "gpt-2");
	must_open(&m);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		m.host.said[0] = 0;
		assert_int_equal(bpe->encode(m.t, rows[i].text, (int64_t)rows[i].len, 0, ids, 32),
			NVLLM_EINVAL);
		assert_non_null(strstr(m.host.said, rows[i].offset));
	}
	made_end(&m);
}

/* Bytes without a token vanish, and their neighbours may merge. */
static void test_vanishing(void **state)
{
	struct made m;

	made_begin(&m, "gpt-2");
	fake_merge(&m.l, "a", "b");
	m.l.types['x'] = 5;
	must_open(&m);
	check_words(&m, "axb", 3, 0, "ab");
	check_words(&m, "x", 1, 0, "");
	check_words(&m, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 39, 0, "");
	check_words(&m, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxaxxxbxxxxxxx", 42, 0, "ab");
	made_end(&m);
}

/* decode(encode(x)) is x for every text, if all bytes have tokens. */
static void test_round_trip(void **state)
{
	static const char *const names[] = { "gpt-2", "smollm", "llama-bpe", "qwen2" };
	static const uint32_t tops[] = { 0x7F, 0x17F, 0x3000, 0xFFFF, 0x10FFFF };

	srand(5);
	for (int i = 0; i < 4; i++) {
		struct made m;

		made_begin(&m, names[i]);
		for (int k = 0; k < 300; k++) {
			int32_t a = rand() % m.l.n_tokens, b = rand() % m.l.n_tokens;

			if (m.l.tokens[a].len + m.l.tokens[b].len < 30 &&
			    !has_merge(&m.l, m.l.tokens[a].s, m.l.tokens[b].s))
				fake_merge(&m.l, m.l.tokens[a].s, m.l.tokens[b].s);
		}
		fake_token(&m.l, "<|im_end|>", 10, 3);
		must_open(&m);
		for (int round = 0; round < 2000; round++) {
			char text[400], back[400];
			int32_t ids[400];
			size_t len = 0, n = 0;
			int64_t n_ids;

			while (len < (size_t)(round % 390)) {
				/* qwen2 composes; what comes first in Unicode is composed. */
				uint32_t cp = (uint32_t)rand() % (tops[rand() % (i == 3 ? 2 : 5)] + 1);

				len += utf8_encode(cp, text + len);
			}
			n_ids = bpe->encode(m.t, text, (int64_t)len, 0, ids, 400);
			assert_true(n_ids >= 0 && n_ids <= (int64_t)len);
			for (int64_t k = 0; k < n_ids; k++) {
				int32_t part;
				const char *s = bpe->piece(m.t, ids[k], 0, &part);

				memcpy(back + n, s, (size_t)part);
				n += (size_t)part;
			}
			assert_int_equal(n, len);
			assert_memory_equal(back, text, n);
		}
		made_end(&m);
	}
}

/* encode is [any]: from several threads at once, with the same results. */
static void *encode_often(void *arg)
{
	struct nvllm_tokenizer *t = arg;
	static const char text[] =
		"abab ab 12 <x> abababababababababababababababababababababababab \xC3\xA9";
	int32_t first[128], ids[128];
	int64_t n = bpe->encode(t, text, sizeof(text) - 1, 0, first, 128);

	for (int i = 0; i < 500; i++)
		if (bpe->encode(t, text, sizeof(text) - 1, 0, ids, 128) != n ||
		    memcmp(ids, first, (size_t)n * sizeof(*ids)) != 0)
			return t;
	return n > 0 ? NULL : t;
}

static void test_threads(void **state)
{
	struct made m;
	pthread_t threads[4];

	made_begin(&m, "smollm");
	fake_merge(&m.l, "a", "b");
	fake_merge(&m.l, "ab", "ab");
	fake_token(&m.l, "<x>", 3, 3);
	must_open(&m);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, encode_often, m.t), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;

		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	made_end(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_merge),
		cmocka_unit_test(test_merge_twice),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_unknown_rule),
		cmocka_unit_test(test_whole_words),
		cmocka_unit_test(test_added),
		cmocka_unit_test(test_added_random),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_bos_eos),
		cmocka_unit_test(test_piece),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_invalid_utf8),
		cmocka_unit_test(test_vanishing),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, made_setup, NULL);
}
