/* SPDX-License-Identifier: MIT */
/* test_hf.c - the pipeline of tokenizer.json by itself: patterns against what the reference does
 * with them, the ones matched by hand against PCRE2, hostile files, texts of a megabyte, calls at
 * once. The recorded vocabularies are in tests/e2e/test_tokenizers.py, which also calls this
 * program with a path: then it streams the ids of each line of standard input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "../sanitized.h"
#include "bpe_fake.h"
#include "bpe_open.h"
#include "hf.h"
#include "hf_stream.h"

static const struct hf_model_kind *const models[] = { &hf_bpe, NULL };
static const struct hf_kinds kinds = { .models = models };

/* ---- patterns ---- */

/* Recorded from the tokenizers library: Split, "Removed", inverted: the matches alone. */
static const struct {
	const char *pattern, *text, *matches;
} patterns[] = {
#include "hf_patterns.h"
};

static void matches_of(struct hf *hf, const char *pattern, const char *text, char *out, size_t room)
{
	struct hf_call *call = hf_call_create(hf);
	struct hf_pattern p = { 0 };
	struct hf_matches m = { .pattern = &p, .s = text, .len = strlen(text) };
	size_t n = 0;
	int rc;

	assert_non_null(call);
	rc = hf_regex_create(hf, pattern, strlen(pattern), "test", &p.regex);
	if (rc < 0)
		fail_msg("%s", fake_of(hf->host)->said);
	while ((rc = hf_match_next(&m, call)) > 0)
		if (m.to > m.from)
			n += (size_t)snprintf(out + n, room - n, "%s%.*s", n ? "\x1f" : "",
				(int)(m.to - m.from), text + m.from);
	assert_int_equal(rc, 0);
	out[n] = 0;
	hf_call_destroy(call);
}

static void test_patterns(void **state)
{
	struct fake_host host;
	struct hf *hf;
	char got[2048];

	fake_host_init(&host);
	assert_int_equal(hf_create(&host.h, "", &kinds, &hf), 0);
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		matches_of(hf, patterns[i].pattern, patterns[i].text, got, sizeof(got));
		if (strcmp(got, patterns[i].matches))
			fail_msg("%s\n got %s\nwant %s", patterns[i].pattern, got,
				patterns[i].matches);
	}
	hf_close(hf);
	fake_host_finish(&host);
}

static void test_bad_patterns(void **state)
{
	static const char *const bad[] = { "(", ")", "[", "[a", "\\", "a{2", "\\p", "\\p{", "\\pL",
		"\\p{Nonsense}", "(*ACCEPT)", "(?Z)", "(?~a)", "[[:alpha:]", "\\u12", "*a", "[z-a]",
		"\\Q..\\E", "(?<=a*)b", "[&&]", "[a&&]", "\xff" };
	struct fake_host host;
	struct hf *hf;

	fake_host_init(&host);
	assert_int_equal(hf_create(&host.h, "F", &kinds, &hf), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct hf_regex *r = NULL;
		int rc = hf_regex_create(hf, bad[i], strlen(bad[i]), "W", &r);

		if (!strcmp(bad[i], "a{2")) { /* a brace that is no quantifier is a brace */
			assert_int_equal(rc, 0);
			continue;
		}
		if (rc != NVLLM_EINVAL || !strstr(host.said, "F: W: the pattern"))
			fail_msg("'%s': %d %s", bad[i], rc, host.said);
	}
	hf_close(hf);
	fake_host_finish(&host);
}

static uint32_t next_random(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*x >> 33);
}

/* Text that is made of what the patterns tell apart, and now and then any character. */
static size_t random_text(uint64_t *x, char *s, size_t room)
{
	static const char *const parts[] = { "a", "Z", "s", "T", "re", "LL", "'", "\xC5\xBF", " ", " ",
		"  ", "\n", "\r", "\t", "\r\n", "0", "12", "\xC2\xB2", "\xD9\xA3", "\xC3\xA9",
		"\xE7\x9A\x84", ".", "!?", "_", "\xF0\x9F\x98\x80", "\xCC\x81", "\xC2\xA0", "\xE3\x80\x80",
		"\xE2\x80\xA8", "\xC2\x85", "\xE1\xA0\x8E", "'s", "'VE", "\xF0\xB1\x8D\x90" };
	size_t n = 0, k = 1 + next_random(x) % 30;

	for (; k > 0 && n + 8 < room; k--) {
		uint32_t c = next_random(x) % 0x32800;

		if (next_random(x) % 8 == 0 && c > 0 && (c < 0xD800 || c > 0xDFFF))
			n += utf8_encode(c, s + n);
		else
			n += (size_t)sprintf(s + n, "%s",
				parts[next_random(x) % (sizeof(parts) / sizeof(parts[0]))]);
	}
	return n;
}

static void test_fast(void **state)
{
	static const char *const three[] = {
		"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
		"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
		"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
		"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
		"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" };
	struct fake_host host;
	uint64_t x = 7;
	struct hf *hf;

	fake_host_init(&host);
	assert_int_equal(hf_create(&host.h, "", &kinds, &hf), 0);
	assert_int_equal(hf_classes_init(hf), 0);
	for (int i = 0; i < 3; i++) {
		struct hf_call *call = hf_call_create(hf);
		struct hf_pattern p = { 0 };
		hf_fast_fn *fast;

		assert_int_equal(hf_regex_create(hf, three[i], strlen(three[i]), "", &p.regex), 0);
		fast = hf_regex_fast(p.regex);
		assert_non_null(fast);
		for (int k = 0; k < 20000; k++) {
			char s[256];
			size_t len = random_text(&x, s, sizeof(s)), at = 0;
			struct hf_matches m = { .pattern = &p, .s = s, .len = len };

			while (at < len) {
				size_t end = fast(hf->classes, s, len, at);

				assert_int_equal(hf_match_next(&m, call), 1);
				if (m.from != at || m.to != end)
					fail_msg("pattern %d, '%.*s' at %zu: %zu..%zu, by hand ..%zu",
						i, (int)len, s, at, m.from, m.to, end);
				at = end;
			}
			assert_int_equal(hf_match_next(&m, call), 0);
		}
		hf_call_destroy(call);
	}
	hf_close(hf);
	fake_host_finish(&host);
}

/* ---- files ---- */

static char dir[64];

static int setup(void **state)
{
	strcpy(dir, "/tmp/nvllm-hf-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static void write_file(const char *name, const char *text, size_t len)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	fclose(f);
}

static int teardown(void **state)
{
	static const char *const names[] = { "tokenizer.json", "tokenizer_config.json", NULL };

	for (int i = 0; names[i]; i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define VOCAB "\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"\xC4\xA0\":5,\"<s>\":6"
#define MODEL(vocab, merges) "\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define GOOD MODEL(VOCAB, "\"a b\",[\"ab\",\"c\"]")
#define FILE_OF(rest) "{\"pre_tokenizer\":" BYTES ",\"decoder\":" BYTES "," rest "}"

static int open_text(struct fake_host *host, const char *json, const char *config, struct hf **out)
{
	char path[128];

	write_file("tokenizer.json", json, strlen(json));
	snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
	unlink(path);
	if (config)
		write_file("tokenizer_config.json", config, strlen(config));
	fake_host_init(host);
	return hf_open(&host->h, dir, &kinds, out);
}

/* The ids of a text as "0 3 4". */
static const char *ids_of(const struct hf *hf, const char *text, uint32_t flags, char *out)
{
	int32_t ids[64];
	int64_t n = hf_encode(hf, text, (int64_t)strlen(text), flags, ids, 64);
	size_t at = 0;

	out[0] = 0;
	for (int64_t i = 0; i < n; i++)
		at += (size_t)sprintf(out + at, i ? " %d" : "%d", ids[i]);
	return n < 0 ? "failed" : out;
}

static void test_small(void **state)
{
	struct fake_host host;
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	char out[512];
	int32_t len;
	struct hf *hf;

	assert_int_equal(open_text(&host, FILE_OF(GOOD
		",\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true},"
		"{\"id\":7,\"content\":\"<|im_end|>\",\"special\":true}]"),
		"{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"c\",\"add_bos_token\":true,"
		"\"added_tokens_decoder\":{\"9\":{\"content\":\"<x>\",\"special\":false},"
		"\"3\":{\"content\":\"<y>\",\"special\":false}}}", &hf), 0);
	assert_non_null(strstr(host.warned, "'<y>' is left out"));
	hf_info(hf, &info);
	assert_int_equal(info.n_tokens, 10);
	assert_int_equal(info.bos, 6);
	assert_int_equal(info.eos, 2);
	assert_int_equal(info.pad, -1);
	assert_int_equal(info.n_eos_ids, 2);
	assert_int_equal(info.eos_ids[1], 7);
	assert_string_equal(ids_of(hf, "abc ab", 0, out), "4 5 3");
	assert_string_equal(ids_of(hf, "ab<s>c<x>", NVLLM_ENCODE_SPECIAL, out), "6 3 6 2 9");
	assert_string_equal(ids_of(hf, "a<s>b", NVLLM_ENCODE_PLAIN, out), "0 1");
	assert_string_equal(ids_of(hf, "", NVLLM_ENCODE_SPECIAL, out), "6");
	assert_non_null(hf_piece(hf, 8, 0, &len)); /* a hole */
	assert_int_equal(len, 0);
	assert_null(hf_piece(hf, 10, 0, &len));
	assert_null(hf_piece(hf, -1, 0, &len));
	assert_memory_equal(hf_piece(hf, 5, 0, &len), " ", 1);
	assert_int_equal(hf_encode(hf, "a\xFF", 2, 0, NULL, 0), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "byte 1 "));
	hf_close(hf);
	fake_host_finish(&host);
}

static void test_hostile(void **state)
{
	static const struct {
		const char *json, *config, *said;
	} rows[] = {
		{ "{", NULL, "line 1" },
		{ "[]", NULL, "no JSON object" },
		{ "{}", NULL, "no object 'model'" },
		{ "{\"model\":{\"type\":\"WordPiece\"}}", NULL, "'WordPiece' is not known" },
		{ "{\"model\":{\"type\":\"BPE\"}}", NULL, "no object 'vocab'" },
		{ "{" MODEL("", "") "}", NULL, "is empty" },
		{ "{" MODEL("\"a\":-1", "") "}", NULL, "outside 0.." },
		{ "{" MODEL("\"a\":4194304", "") "}", NULL, "outside 0.." },
		{ "{" MODEL("\"a\":2147483648", "") "}", NULL, "2147483648" },
		{ "{" MODEL("\"a\":1.5", "") "}", NULL, "no whole number" },
		{ "{" MODEL("\"a\":\"b\"", "") "}", NULL, "no whole number" },
		{ "{" MODEL("\"a\":0,\"b\":0", "") "}", NULL, "same id" },
		{ "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", NULL, "no list 'merges'" },
		{ "{" MODEL(VOCAB, "\"a\"") "}", NULL, "merges[0]: is neither" },
		{ "{" MODEL(VOCAB, "\"a b\",\"a b c\"") "}", NULL, "merges[1]: is neither" },
		{ "{" MODEL(VOCAB, "[\"a\"]") "}", NULL, "is neither" },
		{ "{" MODEL(VOCAB, "[\"a\",1]") "}", NULL, "is neither" },
		{ "{" MODEL(VOCAB, "7") "}", NULL, "is neither" },
		{ "{" MODEL(VOCAB, "\"x b\"") "}", NULL, "left part" },
		{ "{" MODEL(VOCAB, "\"a x\"") "}", NULL, "right part" },
		{ "{" MODEL(VOCAB, "\"b a\"") "}", NULL, "both give together" },
		{ FILE_OF("\"normalizer\":[]," GOOD), NULL, "normalizer: is no object" },
		{ FILE_OF("\"normalizer\":{\"type\":\"X\"}," GOOD), NULL, "'X' is not known" },
		{ FILE_OF("\"normalizer\":{\"type\":\"Precompiled\"}," GOOD), NULL, "charsmap" },
		{ FILE_OF("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}," GOOD), NULL,
			"no 'pattern'" },
		{ FILE_OF("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[null]}," GOOD),
			NULL, "normalizers[0]: is null" },
		{ "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
			"\"behavior\":\"Isolated\"}," GOOD "}", NULL, "pre_tokenizer: the pattern" },
		{ "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},"
			"\"behavior\":\"Glued\"}," GOOD "}", NULL, "'Glued'" },
		{ "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}," GOOD "}",
			NULL, "not one character" },
		{ FILE_OF("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," GOOD),
			NULL, "0 times" },
		{ FILE_OF("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",99],"
			"\"sep\":[\"b\",1]}," GOOD), NULL, "99 is outside" },
		{ FILE_OF("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",-1],"
			"\"sep\":[\"b\",1]}," GOOD), NULL, "no whole number" },
		{ FILE_OF("\"added_tokens\":{}," GOOD), NULL, "is no list" },
		{ FILE_OF("\"added_tokens\":[1]," GOOD), NULL, "added_tokens[0]" },
		{ FILE_OF("\"added_tokens\":[{\"content\":1}]," GOOD), NULL, "no string 'content'" },
		{ FILE_OF("\"added_tokens\":[{\"content\":\"q\",\"special\":1}]," GOOD), NULL,
			"neither true nor false" },
		{ FILE_OF("\"added_tokens\":[{\"content\":\"q\",\"id\":2147483648}]," GOOD), NULL,
			"outside" },
		{ "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
			"{\"type\":\"Strip\",\"content\":\" \",\"start\":2,\"stop\":0}]}," GOOD "}", NULL,
			"decoders[1]: strips 2" },
		{ FILE_OF(GOOD), "[", "tokenizer_config.json" },
		{ FILE_OF(GOOD), "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"q\"}}}", "'-1'" },
		{ FILE_OF(GOOD), "{\"add_bos_token\":3}", "add_bos_token" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct fake_host host;
		struct hf *hf;
		int rc = open_text(&host, rows[i].json, rows[i].config, &hf);

		if (rc != NVLLM_EINVAL || !strstr(host.said, rows[i].said))
			fail_msg("row %zu: %d '%s' lacks '%s'", i, rc, host.said, rows[i].said);
		assert_null(hf);
		assert_non_null(strstr(host.said, dir));
		fake_host_finish(&host);
	}
}

/* Sequences in each other, far deeper than any file has them; and merges that go in a circle, which
 * are harmless: each makes a text longer. */
static void test_deep(void **state)
{
	struct json_buf b = { 0 };
	struct fake_host host;
	struct hf *hf;
	char out[64];

	for (int depth = 20; depth <= 100000; depth *= 5000) {
		b.len = 0;
		json_put(&b, "{\"normalizer\":");
		for (int i = 0; i < depth; i++)
			json_put(&b, "{\"type\":\"Sequence\",\"normalizers\":[");
		for (int i = 0; i < depth; i++)
			json_put(&b, "]}");
		json_put(&b, "," GOOD "}");
		assert_int_equal(open_text(&host, b.s, NULL, &hf), NVLLM_EINVAL);
		assert_non_null(strstr(host.said, "deep"));
		fake_host_finish(&host);
	}
	json_buf_free(&b);
	assert_int_equal(open_text(&host, FILE_OF(MODEL(
		"\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"aaa\":4",
		"\"a a\",\"aa a\",\"a aa\",\"a b\",\"a a\"")), NULL, &hf), 0);
	assert_string_equal(ids_of(hf, "aab", 0, out), "0 3"); /* the later rank of "a a" counts */
	assert_string_equal(ids_of(hf, "aaaa", 0, out), "4 0");
	hf_close(hf);
	fake_host_finish(&host);
}

#define MANY (SANITIZED ? 10000 : 300000)

static void test_many_added(void **state)
{
	struct json_buf b = { 0 };
	struct fake_host host;
	int32_t ids[4];
	struct hf *hf;

	json_put(&b, "{\"added_tokens\":[");
	for (int i = 0; i < MANY; i++) {
		char text[80];

		json_put_raw(&b, text, (size_t)sprintf(text, "%s{\"content\":\"<%d>\"}",
			i ? "," : "", i));
	}
	json_put(&b, "]," GOOD "}");
	assert_int_equal(open_text(&host, b.s, NULL, &hf), 0);
	json_buf_free(&b);
	assert_int_equal(hf_encode(hf, "<9999><7>", 9, 0, ids, 4), 2);
	assert_int_equal(ids[0], 9999 + 7);
	assert_int_equal(ids[1], 7 + 7);
	hf_close(hf);
	fake_host_finish(&host);
}

/* A pattern that explodes is an error, not a hang. */
static void test_bomb(void **state)
{
	struct fake_host host;
	struct hf *hf;
	char s[64];

	assert_int_equal(open_text(&host, "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
		"{\"Regex\":\"(?:a|a)*c\"},\"behavior\":\"Isolated\"}," GOOD "}", NULL, &hf), 0);
	memset(s, 'a', sizeof(s));
	memcpy(s + sizeof(s) - 2, "bc", 2);
	assert_int_equal(hf_encode(hf, s, sizeof(s), 0, NULL, 0), NVLLM_EINVAL);
	assert_non_null(strstr(host.said, "gave up"));
	hf_close(hf);
	fake_host_finish(&host);
}

/* ---- the tiny vocabularies of the checkpoints ---- */

static struct hf *open_checkpoint(struct fake_host *host, const char *name)
{
	char path[200];
	struct hf *hf;

	snprintf(path, sizeof(path), "tests/data/checkpoints/%s", name);
	fake_host_init(host);
	if (hf_open(&host->h, path, &kinds, &hf) < 0)
		fail_msg("%s", host->said);
	return hf;
}

/* Everything that could make a scan start again and again. Nothing is timed: what is quadratic here
 * takes minutes. */
static void test_long(void **state)
{
	static const char *const parts[] = { "x", " ", "\n", " \n", "\r\n", "'", "1", "<", "<|im_start|>",
		"\xCC\x81\xCC\xA7", "\xE1\x84\x80\xE1\x85\xA1", "\xE7\x9A\x84", "A b", NULL };
	static const char *const names[] = { "qwen3-tied-bf16", "llama3-bf16", "llama2-f16", NULL };
	size_t len = SANITIZED ? 1 << 16 : 1 << 20;
	char *s = malloc(len);

	for (int k = 0; names[k]; k++) {
		struct fake_host host;
		struct hf *hf = open_checkpoint(&host, names[k]);

		for (int i = 0; parts[i]; i++) {
			size_t n = strlen(parts[i]), at = 0;

			for (; at + n <= len; at += n)
				memcpy(s + at, parts[i], n);
			assert_true(hf_encode(hf, s, (int64_t)at, 0, NULL, 0) > 0);
		}
		hf_close(hf);
		fake_host_finish(&host);
	}
	free(s);
}

/* Marks in any order come out in the order of their classes, equal ones as they were. */
static void test_marks(void **state)
{
	struct fake_host host;
	struct hf *hf = open_checkpoint(&host, "qwen3-tied-bf16");
	struct json_buf out = { 0 };

	assert_int_equal(hf_unicode_form(hf, HF_NFD, "\xC3\xA9\xCC\xA7\xCC\x80\xCC\xA3", 8, &out), 0);
	assert_string_equal(out.s, "e\xCC\xA7\xCC\xA3\xCC\x81\xCC\x80");
	out.len = 0;
	assert_int_equal(hf_unicode_form(hf, HF_NFC, "xe\xCC\xA3\xCC\x82y\xE1\x84\x80\xE1\x85\xA1", 13,
		&out), 0);
	assert_string_equal(out.s, "x\xE1\xBB\x87y\xEA\xB0\x80");
	json_buf_free(&out);
	assert_true(hf_is_nfc(hf, "a\xC3\xA9\xEA\xB0\x80\xE7\x9A\x84", 9));
	assert_false(hf_is_nfc(hf, "a\xCC\x81", 3));
	hf_close(hf);
	fake_host_finish(&host);
}

struct job {
	const struct hf *hf;
	uint64_t n;
};

static void *encode_many(void *arg)
{
	struct job *job = arg;
	char s[256];
	int32_t ids[300];
	uint64_t x = 5;

	for (int i = 0; i < 3000; i++)
		job->n = job->n * 31 + (uint64_t)hf_encode(job->hf, s, (int64_t)random_text(&x, s, sizeof(s)), 0,
			ids, 300) + (uint64_t)ids[0];
	return NULL;
}

static void test_threads(void **state)
{
	struct fake_host host;
	struct hf *hf = open_checkpoint(&host, "qwen3-tied-bf16");
	struct job jobs[4];
	pthread_t t[4];

	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct job){ .hf = hf };
		assert_int_equal(pthread_create(&t[i], NULL, encode_many, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (int i = 1; i < 4; i++)
		assert_int_equal(jobs[i].n, jobs[0].n);
	hf_close(hf);
	fake_host_finish(&host);
}

/* ---- a host without memory ---- */

static int allocs_left;

static void *stingy_alloc(const struct nvllm_host *h, size_t bytes)
{
	return allocs_left-- > 0 ? fake_alloc(h, bytes) : NULL;
}

static void test_no_memory(void **state)
{
	int rc = NVLLM_ENOMEM, tries = 0;

	write_file("tokenizer.json", FILE_OF("\"normalizer\":{\"type\":\"NFC\"}," GOOD),
		strlen(FILE_OF("\"normalizer\":{\"type\":\"NFC\"}," GOOD)));
	for (; rc == NVLLM_ENOMEM; tries++) {
		struct fake_host host;
		struct hf *hf;

		fake_host_init(&host);
		host.h.alloc = stingy_alloc;
		allocs_left = tries;
		rc = hf_open(&host.h, dir, &kinds, &hf);
		if (rc < 0)
			assert_non_null(strstr(host.said, "no memory"));
		else
			hf_close(hf);
		fake_host_finish(&host);
	}
	assert_int_equal(rc, 0);
	assert_true(tries > 8);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_bad_patterns),
		cmocka_unit_test(test_fast),
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_deep),
		cmocka_unit_test(test_many_added),
		cmocka_unit_test(test_bomb),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_marks),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_no_memory),
	};

	if (argc == 2)
		return stream(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
