/* SPDX-License-Identifier: MIT */
/* bpe_split.c - decides what a word is: the patterns that each pre-tokenizer name of GGUF
 * stands for, run by PCRE2. Each rule cuts every piece the rule before it made into its
 * matches and what lies between them; a look-ahead sees no further than the piece.
 *
 * The reference is Oniguruma as the tokenizers library uses it. Its \s is Unicode's White_Space,
 * PCRE2's has U+180E besides, so the class is written out. Caseless 's matches U+017F in
 * both. PCRE2 10.42 knows the letters and numbers of Unicode 14. */
#include "bpe.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#define S "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}" \
	"\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define SPACES "[" S "]+(?![^" S "])|[" S "]+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" S "\\p{L}\\p{N}]+|" SPACES
/* What GPT-4 began and Llama 3 and Qwen 2 differ in by the digits of a number. */
#define GPT4(digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
	"| ?[^" S "\\p{L}\\p{N}]+[\\r\\n]*|[" S "]*[\\r\\n]+|" SPACES

/* The last row is what an unknown name gets. Qwen 2's tokenizer composes its text (NFC) first. GGUF
 * has no key for that, but the name stands for that tokenizer. */
static const struct split_name {
	const char *name;
	const char *rules[BPE_MAX_RULES];
	bool whole_words, add_bos, compose;
} names[] = {
	{ "smollm", { "\\p{N}", GPT2 }, false, false, false },
	{ "llama-bpe", { GPT4("\\p{N}{1,3}") }, true, true, false },
	{ "llama3", { GPT4("\\p{N}{1,3}") }, true, true, false },
	{ "llama-v3", { GPT4("\\p{N}{1,3}") }, true, true, false },
	{ "qwen2", { GPT4("\\p{N}") }, false, false, true },
	{ "default", { GPT2 }, false, false, false },
	{ "gpt-2", { GPT2 }, false, false, false },
};
#undef GPT4
#undef GPT2
#undef SPACES
#undef S

static const struct split_name *name_find(const struct nvllm_host *host, struct nvllm_str name)
{
	size_t n = sizeof(names) / sizeof(names[0]);

	for (size_t i = 0; i < n; i++)
		if (name.len == (int64_t)strlen(names[i].name) &&
		    memcmp(name.s, names[i].name, (size_t)name.len) == 0)
			return &names[i];
	host->log(host, NVLLM_LOG_WARN,
		"the pre-tokenizer '%.*s' is not known: taking the one of GPT-2, "
		"which may cut the text into other words than the model was trained on",
		(int)(name.len < 60 ? name.len : 60), name.len ? name.s : "");
	return &names[n - 1];
}

static int compile(const struct nvllm_host *host, const char *rule, void **out)
{
	int error = 0;
	PCRE2_SIZE at = 0;
	PCRE2_UCHAR text[120] = "";
	pcre2_code *code = pcre2_compile((PCRE2_SPTR)rule, PCRE2_ZERO_TERMINATED,
		PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);

	if (!code) {
		pcre2_get_error_message(error, text, sizeof(text));
		return host->fail(host, NVLLM_ENOTSUP,
			"PCRE2 refuses a rule of the pre-tokenizer at %zu: %s", (size_t)at,
			(const char *)text);
	}
	/* Where JIT is not to be had (no executable memory), matching interprets. */
	pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
	*out = code;
	return NVLLM_OK;
}

int bpe_split_init(const struct nvllm_host *host, struct nvllm_str name, struct bpe_split *s)
{
	const struct split_name *row = name_find(host, name);
	int rc = NVLLM_OK;

	*s = (struct bpe_split){ .whole_words = row->whole_words, .add_bos = row->add_bos,
		.compose = row->compose };
	while (rc >= 0 && s->n < BPE_MAX_RULES && row->rules[s->n]) {
		rc = compile(host, row->rules[s->n], &s->code[s->n]);
		s->n += rc >= 0;
	}
	if (rc < 0)
		bpe_split_finish(s);
	return rc;
}

void bpe_split_finish(struct bpe_split *s)
{
	while (s->n > 0)
		pcre2_code_free(s->code[--s->n]);
}

/* The patterns are linear on any text; the limits hold should one of them not be. */
int bpe_walk_init(struct bpe_walk *w, size_t longest)
{
	uint32_t most = longest > UINT32_MAX / 32 ? UINT32_MAX : 10000000 + (uint32_t)longest * 16;

	w->match = pcre2_match_data_create(1, NULL);
	w->limits = pcre2_match_context_create(NULL);
	if (!w->match || !w->limits) {
		bpe_walk_finish(w);
		return NVLLM_ENOMEM;
	}
	pcre2_set_match_limit(w->limits, most);
	pcre2_set_heap_limit(w->limits, 1u << 20); /* KiB; for matching without JIT */
	return NVLLM_OK;
}

void bpe_walk_finish(struct bpe_walk *w)
{
	pcre2_match_data_free(w->match);
	pcre2_match_context_free(w->limits);
	w->match = w->limits = NULL;
}

/* The next match of a rule in s[at..len). Returns 1, 0 = there is none, or a status. */
static int next_match(struct bpe_walk *w, int rule, const char *s, size_t len, size_t at,
	size_t *from, size_t *to)
{
	const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(w->match);
	int rc = pcre2_match(w->split->code[rule], (PCRE2_SPTR)s, len, at, PCRE2_NO_UTF_CHECK,
		w->match, w->limits);
	PCRE2_UCHAR text[120] = "";

	*from = ovector[0];
	*to = ovector[1];
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc >= 0 && *from >= at && *to > *from)
		return 1;
	pcre2_get_error_message(rc < 0 ? rc : PCRE2_ERROR_INTERNAL, text, sizeof(text));
	return w->host->fail(w->host, NVLLM_EINVAL,
		"the pre-tokenizer gave up %zu bytes into a part of the text of %zu: %s",
		at, len, (const char *)text);
}

static int walk(struct bpe_walk *w, int rule, const char *s, size_t len)
{
	size_t at = 0, from, to;
	int rc = 0;

	if (rule == w->split->n)
		return len ? w->word(w->arg, s, len) : 0;
	while (at < len) {
		int found = next_match(w, rule, s, len, at, &from, &to);

		if (found <= 0)
			return found < 0 ? found : walk(w, rule + 1, s + at, len - at);
		rc = walk(w, rule + 1, s + at, from - at);
		if (rc >= 0)
			rc = walk(w, rule + 1, s + from, to - from);
		if (rc < 0)
			return rc;
		at = to;
	}
	return 0;
}

int bpe_walk(struct bpe_walk *w, const char *s, size_t len)
{
	return walk(w, 0, s, len);
}
