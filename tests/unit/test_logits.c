/* SPDX-License-Identifier: MIT */
/* Processors of logits: `standard` against what vLLM does with the same lists, and `force`
 * (fixtures/force.c), which reads params->extra. The tokenizer is made up: the longest
 * piece of a short list, else a byte. */
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include <nvllm/logits.h>
#include <nvllm/sampler.h>

#include "fake_device.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))
#define VOCAB 300
#define STR(t) { t, sizeof(t) - 1 }

/* ---- a tokenizer ---- */

struct nvllm_tokenizer { const struct nvllm_host *host; int32_t beyond; };

static const char *const pieces[] = { "cat", " cat", "dog", "do", "g", " ", "mouse", " mo", "use" };

static int64_t encode(struct nvllm_tokenizer *t, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	int64_t n = 0;

	assert_int_equal(flags, 0);
	for (int64_t at = 0; at < len; n++) {
		int best = -1;

		if (text[at] == '\xff')
			return (t->host->fail)(t->host, NVLLM_EINVAL, "byte %lld is no UTF-8",
				(long long)at);
		if (text[at] == '~') { /* gives no token */
			at++, n--;
			continue;
		}
		for (int i = 0; i < COUNT(pieces); i++) {
			int64_t l = (int64_t)strlen(pieces[i]);

			if (l <= len - at && !memcmp(pieces[i], text + at, (size_t)l) &&
			    (best < 0 || l > (int64_t)strlen(pieces[best])))
				best = i;
		}
		if (n < room)
			tokens[n] = best >= 0 ? 256 + best : text[at] == '^' ? t->beyond :
				(unsigned char)text[at];
		if (text[at] == '*') /* more tokens than bytes */
			for (int i = 0; i < 30; i++)
				if (++n < room)
					tokens[n] = '*';
		at += best >= 0 ? (int64_t)strlen(pieces[best]) : 1;
	}
	return n;
}

static const struct nvllm_tokenizer_vt tok_vt = { .size = sizeof(tok_vt), .encode = encode };

/* ---- an instance ---- */

struct rig {
	struct fake_host host;
	struct nvllm_tokenizer tok;
	struct nvllm_logits_env env;
	const struct nvllm_logits_vt *vt;
	struct nvllm_logits *l;
	struct nvllm_params params;
	struct nvllm_logits_ask ask;
};

static void rig_open(struct rig *r, const char *plugin)
{
	static const int32_t ends[] = { 7, 9, 4000 };
	const struct nvllm_component *c = fake_plugin(plugin);

	assert_non_null(c);
	assert_int_equal(c->kind, NVLLM_KIND_LOGITS);
	memset(r, 0, sizeof(*r));
	fake_host_init(&r->host);
	r->tok = (struct nvllm_tokenizer){ &r->host.h, VOCAB };
	r->env = (struct nvllm_logits_env){ .size = sizeof(r->env), .vocab = VOCAB,
		.tok_vt = &tok_vt, .tok = &r->tok };
	r->vt = c->vt;
	r->params = nvllm_params_none();
	r->params.min_tokens = 0;
	r->ask = (struct nvllm_logits_ask){ .size = sizeof(r->ask), .params = &r->params,
		.end_ids = ends, .n_end_ids = 3 };
	assert_int_equal(r->vt->create(&r->host.h, &r->env, NULL, &r->l), NVLLM_OK);
}

static void rig_close(struct rig *r)
{
	if (r->vt->destroy)
		r->vt->destroy(r->l);
	fake_host_finish(&r->host);
}

static struct nvllm_logits_state *ask(struct rig *r)
{
	struct nvllm_logits_state *s = (void *)r;

	r->host.said[0] = 0;
	if (r->vt->open(r->l, &r->ask, &s))
		fail_msg("open refused: %s", r->host.said);
	return s;
}

static void refused(struct rig *r, const char *says)
{
	struct nvllm_logits_state *s = NULL;

	r->host.said[0] = 0;
	assert_int_equal(r->vt->open(r->l, &r->ask, &s), NVLLM_EINVAL);
	assert_null(s);
	if (!strstr(r->host.said, says))
		fail_msg("it said '%s', not '%s'", r->host.said, says);
}

/* Logits 0, 1, 2, ... after the prompt {1, 2} and these. */
static void apply(struct rig *r, struct nvllm_logits_state *s, const int32_t *output, int n,
	float *x)
{
	int32_t tokens[64] = { 256, 258 };

	assert_in_range(n, 0, 62);
	if (n)
		memcpy(tokens + 2, output, (size_t)n * sizeof(*output));
	for (int i = 0; i < VOCAB; i++)
		x[i] = (float)i;
	assert_int_equal(r->vt->apply(r->l, s, x, tokens, 2, 2 + n), NVLLM_OK);
}

/* All are as they were but those, ended by -1, which are forbidden. */
static void forbidden(const float *x, const int *ids)
{
	for (int i = 0; i < VOCAB; i++) {
		int is = 0;

		for (const int *p = ids; *p >= 0; p++)
			is |= *p == i;
		if (is ? x[i] != -INFINITY : x[i] != (float)i)
			fail_msg("token %d has %g", i, (double)x[i]);
	}
}
#define FORBIDDEN(x, ...) forbidden(x, (const int[]){ __VA_ARGS__ __VA_OPT__(,) -1 })

/* ---- standard ---- */

static void test_nothing(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	assert_int_equal(r.vt->takes, NVLLM_TAKES_ALLOWED | NVLLM_TAKES_BAD_WORDS |
		NVLLM_TAKES_MIN_TOKENS | NVLLM_TAKES_LOGIT_BIAS);
	assert_null(r.vt->keys);
	assert_null(ask(&r));
	r.params.min_tokens = 3;
	r.ask.n_end_ids = 0;
	assert_null(ask(&r)); /* there is nothing to forbid */
	rig_close(&r);
}

static void test_allowed(void **state)
{
	static const int32_t ids[] = { 40, 299, 3, 40, 3, 0 };
	static const int32_t one[] = { 5, 5, 5 };
	struct nvllm_logits_state *s;
	float x[VOCAB];
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.allowed_token_ids = ids;
	r.params.n_allowed_token_ids = COUNT(ids);
	s = ask(&r);
	apply(&r, s, NULL, 0, x);
	for (int i = 0; i < VOCAB; i++)
		assert_true(x[i] == (i == 40 || i == 299 || i == 3 || i == 0 ? (float)i : -INFINITY));
	r.vt->close(r.l, s);
	r.params.allowed_token_ids = one;
	r.params.n_allowed_token_ids = 3;
	s = ask(&r);
	apply(&r, s, NULL, 0, x);
	for (int i = 0; i < VOCAB; i++)
		assert_true(x[i] == (i == 5 ? 5 : -INFINITY));
	r.vt->close(r.l, s);
	rig_close(&r);
}

/* "cat" is token 256, " cat" 257: both. "dog" is 258; " dog" is two tokens: only the
 * first. "mouse" is 262; " mouse" is 263 264. */
static void test_bad_words(void **state)
{
	static const struct nvllm_str cat = STR("cat"), spaced = STR(" \t\xc2\xa0\xe3\x80\x80" "cat");
	static const struct nvllm_str more[] = { STR("dog"), STR("xy"), STR("dogcat"), STR("**") };
	static const int32_t out[] = { 'x', 'x', 'x', 258, 257, 'y' };
	static const int32_t stars[61] = { '*', '*' };
	struct nvllm_logits_state *s;
	float x[VOCAB];
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	for (int i = 0; i < 2; i++) {
		r.params.bad_words = i ? &spaced : &cat;
		r.params.n_bad_words = 1;
		s = ask(&r);
		apply(&r, s, NULL, 0, x);
		FORBIDDEN(x, 256, 257);
		apply(&r, s, out, 3, x);
		FORBIDDEN(x, 256, 257);
		r.vt->close(r.l, s);
	}
	r.params.bad_words = more;
	r.params.n_bad_words = COUNT(more);
	s = ask(&r);
	apply(&r, s, NULL, 0, x); /* the prompt ends in "dog", which does not count */
	FORBIDDEN(x, 258);
	apply(&r, s, out, 1, x);
	FORBIDDEN(x, 258, 'y');
	apply(&r, s, out, 3, x);
	FORBIDDEN(x, 258, 'y');
	apply(&r, s, out, 4, x); /* "dog" was said: now "cat" would make the third */
	FORBIDDEN(x, 258, 256);
	apply(&r, s, out, 5, x);
	FORBIDDEN(x, 258);
	apply(&r, s, stars, 61, x); /* 62 tokens for two bytes; " **" has 63: another length */
	FORBIDDEN(x, 258);
	r.vt->close(r.l, s);
	rig_close(&r);
}

static void test_bad_words_long(void **state)
{
	static const struct nvllm_str word = STR("**");
	struct nvllm_logits_state *s;
	int32_t stars[61];
	float x[VOCAB];
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.bad_words = &word;
	r.params.n_bad_words = 1;
	s = ask(&r);
	for (int i = 0; i < COUNT(stars); i++)
		stars[i] = '*';
	apply(&r, s, stars, 60, x);
	FORBIDDEN(x);
	apply(&r, s, stars, 61, x);
	FORBIDDEN(x, '*');
	r.vt->close(r.l, s);
	rig_close(&r);
}

static void test_bad_words_refused(void **state)
{
	static const struct { struct nvllm_str word; const char *says; } bad[] = {
		{ { NULL, 0 }, "bad_words[1] is an empty text" },
		{ STR(" \n\xe2\x80\x83"), "bad_words[1] is white space alone" },
		{ STR("~~"), "bad_words[1] ('~~') encodes to no token" },
		{ STR("a\xff"), "byte 1 is no UTF-8" },
		{ STR("a^"), "bad_words[1]: token 300 of its encoding" } };
	struct nvllm_str words[2] = { STR("fine"), { NULL, 0 } };
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.bad_words = words;
	r.params.n_bad_words = 2;
	for (int i = 0; i < COUNT(bad); i++) {
		words[1] = bad[i].word;
		refused(&r, bad[i].says);
	}
	r.tok.beyond = -1;
	refused(&r, "token -1 of its encoding");
	r.params.n_bad_words = 1 << 20;
	refused(&r, "1048576 bad_words");
	rig_close(&r);
}

static void test_min_tokens(void **state)
{
	static const int32_t out[] = { 1, 2, 3, 4 };
	struct nvllm_logits_state *s;
	float x[VOCAB];
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.min_tokens = 3;
	s = ask(&r);
	for (int n = 0; n < 5; n++) {
		apply(&r, s, out, n, x);
		if (n < 3)
			FORBIDDEN(x, 7, 9);
		else
			FORBIDDEN(x);
	}
	apply(&r, s, out, 1, x); /* the history says it, not the calls before */
	FORBIDDEN(x, 7, 9);
	r.vt->close(r.l, s);
	rig_close(&r);
}

/* A bias lifts nothing that is forbidden, and biases of one token add up. */
static void test_bias(void **state)
{
	static const struct nvllm_bias bias[] = { { 4, 1.5f }, { 299, -100 }, { 7, 100 }, { 4, 2 },
		{ 256, 100 }, { 20, 100 } };
	static const int32_t allowed[] = { 4, 7, 256, 299 };
	static const struct nvllm_str word = STR("cat");
	struct nvllm_logits_state *s;
	float x[VOCAB];
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.logit_bias = bias;
	r.params.n_logit_bias = COUNT(bias);
	s = ask(&r);
	apply(&r, s, NULL, 0, x);
	for (int i = 0; i < VOCAB; i++)
		assert_true(x[i] == (float)i + (i == 4 ? 3.5f : i == 299 ? -100 :
			i == 7 || i == 256 || i == 20 ? 100 : 0));
	r.vt->close(r.l, s);
	r.params.min_tokens = 1;
	r.params.allowed_token_ids = allowed;
	r.params.n_allowed_token_ids = 4;
	r.params.bad_words = &word;
	r.params.n_bad_words = 1;
	s = ask(&r);
	apply(&r, s, NULL, 0, x);
	for (int i = 0; i < VOCAB; i++)
		assert_true(x[i] == (i == 4 ? 7.5f : i == 299 ? 199 : -INFINITY));
	r.vt->close(r.l, s);
	rig_close(&r);
}

static void test_out_of_range(void **state)
{
	static const struct nvllm_bias bias = { VOCAB, 1 };
	static const int32_t ids[] = { 3, -1 };
	struct rig r;

	(void)state;
	rig_open(&r, "logits_standard");
	r.params.logit_bias = &bias;
	r.params.n_logit_bias = 1;
	refused(&r, "logit_bias: there is no token 300, the model has 0 to 299");
	r.params.n_logit_bias = 0;
	r.params.allowed_token_ids = ids;
	r.params.n_allowed_token_ids = 2;
	refused(&r, "allowed_token_ids: there is no token -1");
	rig_close(&r);
}

/* ---- force ---- */

static const char force_so[] = "logits_force";

/* The fixtures lie beside this program. */
static void find_fixtures(void)
{
	char path[PATH_MAX + 16];
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	const char *old = getenv("NVLLM_PLUGIN_PATH");
	char *both;

	assert_true(n > 0);
	path[n] = 0;
	assert_non_null(strrchr(path, '/'));
	strcpy(strrchr(path, '/'), "/fixtures");
	both = malloc(strlen(path) + (old ? strlen(old) : 0) + 2);
	if (!both)
		return;
	sprintf(both, "%s:%s", old ? old : "", path);
	setenv("NVLLM_PLUGIN_PATH", both, 1);
	free(both);
}

static void test_force(void **state)
{
	static const int32_t want[] = { 'a', 257, 258, 7, 7 };
	struct nvllm_logits_state *s;
	float x[VOCAB];
	struct rig r;

	(void)state;
	find_fixtures();
	rig_open(&r, force_so);
	assert_string_equal(r.vt->keys[0], "force_text");
	assert_null(r.vt->keys[1]);
	assert_null(ask(&r));
	r.params.extra = (struct nvllm_str)STR("{\"other\": [1]}");
	assert_null(ask(&r));
	r.params.extra = (struct nvllm_str)STR("{\"force_text\": \"a catdog\"}");
	s = ask(&r);
	assert_non_null(s);
	for (int n = 0; n < COUNT(want); n++) {
		apply(&r, s, want, n, x);
		for (int i = 0; i < VOCAB; i++)
			assert_true(i == want[n] ? x[i] == 0 : x[i] == -INFINITY);
	}
	r.vt->close(r.l, s);
	rig_close(&r);
}

static void test_force_refused(void **state)
{
	struct rig r;

	(void)state;
	find_fixtures();
	rig_open(&r, force_so);
	r.params.extra = (struct nvllm_str)STR("{\"force_text\": 3}");
	refused(&r, "force_text must be a text");
	r.params.extra = (struct nvllm_str)STR("{\"force_text\": \"^\"}");
	refused(&r, "token 300 is none of the model's 300");
	r.params.extra = (struct nvllm_str)STR("{\"force_text\": \"a\"}");
	r.ask.n_end_ids = 0;
	refused(&r, "no token ends an answer");
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing), cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_bad_words), cmocka_unit_test(test_bad_words_long),
		cmocka_unit_test(test_bad_words_refused), cmocka_unit_test(test_min_tokens),
		cmocka_unit_test(test_bias), cmocka_unit_test(test_out_of_range),
		cmocka_unit_test(test_force), cmocka_unit_test(test_force_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
