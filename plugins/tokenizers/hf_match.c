/* SPDX-License-Identifier: MIT */
/* hf_match.c - compiles patterns and decides which matches of one in a text count: all that do not
 * overlap, from left to right; an empty one not right after another match. */
#include "hf.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define MAX_PATTERN 65536

struct hf_regex {
	struct hf_regex *next;
	pcre2_code *code;
	hf_fast_fn *fast;
};

static int compile(struct hf *hf, const char *pattern, size_t len, const char *where,
	struct hf_regex *r)
{
	struct json_buf text = { 0 };
	PCRE2_UCHAR said[160] = "";
	const char *why = (const char *)said;
	PCRE2_SIZE at = 0;
	int error = 0, rc = NVLLM_OK;

	if (len > MAX_PATTERN)
		return hf_bad(hf, where, "the pattern has %zu bytes, more than %d", len,
			MAX_PATTERN);
	if (hf_regex_translate(pattern, len, &text, &why) == 0) {
		r->code = pcre2_compile((PCRE2_SPTR)text.s, text.len,
			PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
			&at, NULL);
		why = (const char *)said;
		if (!r->code)
			pcre2_get_error_message(error, said, sizeof(said));
	}
	if (!r->code)
		rc = hf_bad(hf, where, "the pattern '%.*s' cannot be used: %s",
			(int)(len < 80 ? len : 80), pattern, why);
	else /* where JIT is not to be had (no executable memory), matching interprets */
		pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
	json_buf_free(&text);
	return rc;
}

int hf_regex_create(struct hf *hf, const char *pattern, size_t len, const char *where,
	struct hf_regex **out)
{
	struct hf_regex *r = hf_alloc(hf, 1, sizeof(*r));

	if (!r)
		return NVLLM_ENOMEM;
	r->next = hf->regexes;
	hf->regexes = r;
	*out = r;
	r->fast = hf_fast_find(pattern, len);
	return compile(hf, pattern, len, where, r);
}

/* All of a list. */
void hf_regex_destroy(struct hf_regex *r)
{
	for (; r; r = r->next)
		pcre2_code_free(r->code);
}

hf_fast_fn *hf_regex_fast(const struct hf_regex *r)
{
	return r->fast;
}

/* ---- matching ---- */

/* Limits: what a match may cost, so that a pattern that explodes ends in an error. */
static int match_room(struct hf_call *call)
{
	pcre2_match_context *limits;

	if (call->match)
		return NVLLM_OK;
	call->match = pcre2_match_data_create(1, NULL);
	call->limits = limits = pcre2_match_context_create(NULL);
	call->stack = pcre2_jit_stack_create((size_t)32 << 10, (size_t)16 << 20, NULL);
	if (!call->match || !limits || !call->stack) {
		hf_match_finish(call);
		return call->hf->host->fail(call->hf->host, NVLLM_ENOMEM,
			"no memory for the pre-tokenizer's patterns");
	}
	pcre2_jit_stack_assign(limits, NULL, call->stack);
	pcre2_set_heap_limit(limits, 1u << 18); /* KiB; for matching without JIT */
	return NVLLM_OK;
}

void hf_match_finish(struct hf_call *call)
{
	pcre2_match_data_free(call->match);
	pcre2_match_context_free(call->limits);
	pcre2_jit_stack_free(call->stack);
	call->match = call->limits = call->stack = NULL;
}

static int regex_find(const struct hf_matches *m, struct hf_call *call, size_t at, size_t *from,
	size_t *to)
{
	uint32_t most = m->len > UINT32_MAX / 64 ? UINT32_MAX : 1000000 + (uint32_t)m->len * 32;
	PCRE2_UCHAR text[120] = "";
	const PCRE2_SIZE *ovector;
	int rc;

	if (match_room(call) < 0)
		return NVLLM_ENOMEM;
	pcre2_set_match_limit(call->limits, most);
	rc = pcre2_match(m->pattern->regex->code, (PCRE2_SPTR)m->s, m->len, at, PCRE2_NO_UTF_CHECK,
		call->match, call->limits);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	ovector = pcre2_get_ovector_pointer(call->match);
	*from = ovector[0];
	*to = ovector[1];
	if (rc >= 0 && *from >= at && *to >= *from)
		return 1;
	pcre2_get_error_message(rc < 0 ? rc : PCRE2_ERROR_INTERNAL, text, sizeof(text));
	return call->hf->host->fail(call->hf->host, NVLLM_EINVAL,
		"a pattern of the tokenizer gave up %zu bytes into a part of the text of %zu: %s",
		at, m->len, (const char *)text);
}

static int string_find(const struct hf_matches *m, size_t at, size_t *from, size_t *to)
{
	const struct hf_pattern *p = m->pattern;
	const char *hit = p->len ? memmem(m->s + at, m->len - at, p->s, p->len) : m->s + at;

	if (!hit)
		return 0;
	*from = (size_t)(hit - m->s);
	*to = *from + p->len;
	return 1;
}

static int class_find(const struct hf_matches *m, size_t at, size_t *from, size_t *to)
{
	uint32_t c = 0;

	for (size_t n; at < m->len; at += n) {
		n = utf8_decode(m->s + at, m->len - at, &c);
		if (n == 0)
			return NVLLM_EINVAL; /* the text was checked */
		if (m->pattern->is(c)) {
			*from = at;
			*to = at + n;
			return 1;
		}
	}
	return 0;
}

int hf_match_next(struct hf_matches *m, struct hf_call *call)
{
	while (m->at <= m->len) {
		size_t from = 0, to = 0, n;
		int rc = m->pattern->regex ? regex_find(m, call, m->at, &from, &to) :
			m->pattern->is ? class_find(m, m->at, &from, &to) :
			string_find(m, m->at, &from, &to);

		if (rc <= 0)
			return rc;
		if (from < to || !m->any || m->to != to) {
			m->from = from;
			m->to = m->at = to;
			m->any = true;
			return 1;
		}
		n = utf8_decode(m->s + m->at, m->len - m->at, NULL);
		m->at += n ? n : 1;
	}
	return 0;
}
