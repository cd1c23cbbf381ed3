/* SPDX-License-Identifier: MIT */
/* hf_split.c - decides what a word is: the pre-tokenizers, each of which cuts every piece that the
 * one before it made. A look-ahead of a pattern sees no further than the piece. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

enum { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
enum { ALWAYS, FIRST, NEVER };

/* ---- cutting ---- */

/* The matches of a part and what lies between them, and what the behaviour makes of both. */
struct cutter {
	struct hf_call *call;
	const struct hf_step *step;
	int next;
	struct hf_part part;
	size_t from, to;     /* what waits for what may be merged to it */
	bool waits, was_match;
};

static int cutter_emit(const struct cutter *c, size_t from, size_t to)
{
	return hf_walk(c->call, c->next, (struct hf_part){ .s = c->part.s + from,
		.len = to - from, .first = c->part.first && from == 0 });
}

static int cutter_flush(struct cutter *c)
{
	bool waits = c->waits;

	c->waits = false;
	return waits ? cutter_emit(c, c->from, c->to) : 0;
}

static int cutter_put(struct cutter *c, size_t from, size_t to, bool match)
{
	int how = c->step->behavior, rc = 0;
	bool merge = how == CONTIGUOUS ? match == c->was_match :
		how == MERGED_WITH_PREVIOUS ? match && !c->was_match :
		how == MERGED_WITH_NEXT && !match && c->was_match;

	if (how == ISOLATED)
		return cutter_emit(c, from, to);
	if (how == REMOVED)
		return match ? 0 : cutter_emit(c, from, to);
	c->was_match = match;
	if (merge && c->waits) {
		c->to = to;
		return how == MERGED_WITH_NEXT ? cutter_flush(c) : 0;
	}
	rc = cutter_flush(c);
	c->from = from;
	c->to = to;
	c->waits = true;
	return rc;
}

static int split_slow(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	struct cutter c = { .call = call, .step = step, .next = next, .part = part };
	struct hf_matches m = { .pattern = &step->pattern, .s = part.s, .len = part.len };
	size_t at = 0;
	int rc;

	while ((rc = hf_match_next(&m, call)) > 0) {
		if (m.from > at)
			rc = cutter_put(&c, at, m.from, step->invert);
		if (rc >= 0)
			rc = cutter_put(&c, m.from, m.to, !step->invert);
		if (rc < 0)
			return rc;
		at = m.to;
	}
	if (rc >= 0 && at < part.len)
		rc = cutter_put(&c, at, part.len, step->invert);
	return rc < 0 ? rc : cutter_flush(&c);
}

static int split_fast(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	const uint8_t *classes = call->hf->classes;
	int rc = 0;

	for (size_t at = 0, end; at < part.len && rc >= 0; at = end) {
		end = step->fast(classes, part.s, part.len, at);
		rc = hf_walk(call, next, (struct hf_part){ .s = part.s + at, .len = end - at,
			.first = part.first && at == 0 });
	}
	return rc;
}

/* Single digits and what lies between them: split_slow with hf_is_numeric, quicker over ASCII. */
static int split_digits(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	size_t at = 0, i = 0;
	int rc = 0;

	while (i < part.len && rc >= 0) {
		unsigned char b = (unsigned char)part.s[i];
		uint32_t c = b;
		size_t n = 1;

		if (b >= 0x80)
			n = utf8_decode(part.s + i, part.len - i, &c);
		if (b < 0x80 ? b < '0' || b > '9' : !hf_is_numeric(c)) {
			i += n ? n : 1;
			continue;
		}
		if (at < i)
			rc = hf_walk(call, next, (struct hf_part){ .s = part.s + at,
				.len = i - at, .first = part.first && at == 0 });
		if (rc >= 0)
			rc = hf_walk(call, next, (struct hf_part){ .s = part.s + i, .len = n,
				.first = part.first && i == 0 });
		at = i += n;
	}
	if (rc < 0 || at == part.len)
		return rc;
	return hf_walk(call, next, (struct hf_part){ .s = part.s + at, .len = part.len - at,
		.first = part.first && at == 0 });
}

/* ---- steps that change the text ---- */

/* The buffer of a step, empty. It is free for use: a step is not run within itself. */
static struct json_buf *part_buf(struct hf_call *call, int next)
{
	struct json_buf *b = &call->part[next - 1];

	b->len = 0;
	return b;
}

static int part_done(struct hf_call *call, int next, struct json_buf *b, bool first)
{
	if (b->failed) {
		json_buf_free(b);
		return call->hf->host->fail(call->hf->host, NVLLM_ENOMEM,
			"no memory to take a text apart");
	}
	return hf_walk(call, next, (struct hf_part){ .s = b->s, .len = b->len, .first = first });
}

static int space_before(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	struct json_buf *b;

	if (part.s[0] == ' ')
		return hf_walk(call, next, part);
	b = part_buf(call, next);
	json_put_raw(b, " ", 1);
	json_put_raw(b, part.s, part.len);
	return part_done(call, next, b, part.first);
}

static int byte_chars(struct hf_call *call, const struct hf_step *step, int next,
	struct hf_part part)
{
	struct json_buf *b = part_buf(call, next);

	for (size_t i = 0; i < part.len; i++) {
		char c[2];
		int n = hf_byte_char((unsigned char)part.s[i], c);

		json_put_raw(b, c, (size_t)n);
	}
	return part_done(call, next, b, part.first);
}

static int marks(struct hf_call *call, const struct hf_step *step, int next, struct hf_part part)
{
	struct json_buf *b = part_buf(call, next);
	size_t n = strlen(step->mark);
	bool marked = part.s[0] == ' ' || (part.len >= n && !memcmp(part.s, step->mark, n));
	const char *s = part.s, *end = s + part.len, *space;

	if (!marked && (step->scheme == ALWAYS || (step->scheme == FIRST && part.first)))
		json_put_raw(b, step->mark, n);
	while ((space = memchr(s, ' ', (size_t)(end - s)))) {
		json_put_raw(b, s, (size_t)(space - s));
		json_put_raw(b, step->mark, n);
		s = space + 1;
	}
	json_put_raw(b, s, (size_t)(end - s));
	return part_done(call, next, b, part.first);
}

/* ---- reading ---- */

static struct hf_step *step_add(struct hf *hf, const char *where)
{
	if (hf->n_steps == HF_MAX_STEPS) {
		hf_bad(hf, where, "more than %d pre-tokenizers", HF_MAX_STEPS);
		return NULL;
	}
	hf->steps[hf->n_steps] = (struct hf_step){ .run = split_slow };
	return &hf->steps[hf->n_steps++];
}

static int read_behavior(struct hf *hf, const cJSON *step, const char *where, const char *def,
	int *out)
{
	static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious",
		"MergedWithNext", "Contiguous", NULL };
	const char *s;
	size_t len;
	int rc = hf_get_text(hf, step, where, "behavior", def, &s, &len);

	if (rc < 0)
		return rc;
	for (*out = 0; names[*out] && strcmp(names[*out], s); ++*out)
		;
	return names[*out] ? NVLLM_OK : hf_bad(hf, where, "'behavior' is '%.40s', not one of "
		"Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous", s);
}

static int read_split(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *step = step_add(hf, where);
	int rc;

	if (!step)
		return NVLLM_EINVAL;
	if ((rc = hf_get_pattern(hf, json, where, &step->pattern)) < 0 ||
	    (rc = read_behavior(hf, json, where, NULL, &step->behavior)) < 0 ||
	    (rc = hf_get_bool(hf, json, where, "invert", false, &step->invert)) < 0)
		return rc;
	if (step->pattern.regex)
		step->fast = hf_regex_fast(step->pattern.regex);
	/* The matches of such a pattern touch, so there is nothing between them to remove. */
	if (step->fast && (step->behavior == ISOLATED ||
		(step->behavior == REMOVED && step->invert)))
		step->run = split_fast;
	return step->run == split_fast ? hf_classes_init(hf) : NVLLM_OK;
}

static int read_byte_level(struct hf *hf, const cJSON *json, const char *where)
{
	bool prefix, regex;
	struct hf_step *step;
	int rc;

	if ((rc = hf_get_bool(hf, json, where, "add_prefix_space", true, &prefix)) < 0 ||
	    (rc = hf_get_bool(hf, json, where, "use_regex", true, &regex)) < 0)
		return rc;
	if (prefix) {
		step = step_add(hf, where);
		if (!step)
			return NVLLM_EINVAL;
		step->run = space_before;
	}
	if (regex) {
		step = step_add(hf, where);
		if (!step)
			return NVLLM_EINVAL;
		step->run = split_fast;
		step->fast = hf_fast_gpt2();
		if (hf_classes_init(hf) < 0)
			return NVLLM_ENOMEM;
	}
	step = step_add(hf, where);
	if (!step)
		return NVLLM_EINVAL;
	step->run = byte_chars;
	return NVLLM_OK;
}

static int read_digits(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *step = step_add(hf, where);
	bool each;
	int rc;

	if (!step)
		return NVLLM_EINVAL;
	rc = hf_get_bool(hf, json, where, "individual_digits", false, &each);
	step->pattern.is = hf_is_numeric;
	step->behavior = each ? ISOLATED : CONTIGUOUS;
	if (each)
		step->run = split_digits;
	return rc;
}

static int read_scheme(struct hf *hf, const cJSON *json, const char *where, int *out)
{
	static const char *const names[] = { "always", "first", "never", NULL };
	const char *s;
	size_t len;
	bool prefix;
	int rc;

	if ((rc = hf_get_bool(hf, json, where, "add_prefix_space", true, &prefix)) < 0 ||
	    (rc = hf_get_text(hf, json, where, "prepend_scheme", prefix ? "always" : "never", &s,
		    &len)) < 0)
		return rc;
	for (*out = 0; names[*out] && strcmp(names[*out], s); ++*out)
		;
	if (!names[*out])
		return hf_bad(hf, where,
			"'prepend_scheme' is '%.40s', not always, first or never", s);
	if (!prefix && *out != NEVER)
		return hf_bad(hf, where,
			"'add_prefix_space' is false, but 'prepend_scheme' is '%s'", s);
	return NVLLM_OK;
}

static int read_metaspace(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *step = step_add(hf, where);
	const char *mark;
	size_t len;
	bool split;
	int rc;

	if (!step)
		return NVLLM_EINVAL;
	if ((rc = hf_get_text(hf, json, where, "replacement", NULL, &mark, &len)) < 0 ||
	    (rc = read_scheme(hf, json, where, &step->scheme)) < 0 ||
	    (rc = hf_get_bool(hf, json, where, "split", true, &split)) < 0)
		return rc;
	if (len == 0 || utf8_decode(mark, len, NULL) != len)
		return hf_bad(hf, where, "'replacement' is not one character");
	memcpy(step->mark, mark, len);
	step->run = marks;
	if (!split)
		return NVLLM_OK;
	step = step_add(hf, where);
	if (!step)
		return NVLLM_EINVAL;
	step->pattern = (struct hf_pattern){ .s = mark, .len = len };
	step->behavior = MERGED_WITH_NEXT;
	return NVLLM_OK;
}

static int read_punctuation(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *step = step_add(hf, where);

	if (!step)
		return NVLLM_EINVAL;
	step->pattern.is = hf_is_punct;
	return read_behavior(hf, json, where, "Isolated", &step->behavior);
}

/* \w+|[^\w\s]+ of Rust's regex, which knows fewer word characters than Oniguruma. */
static int is_neither(uint32_t c)
{
	return !hf_is_space(c) && !hf_is_word(c);
}

static int read_whitespace(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *spaces = step_add(hf, where), *signs = step_add(hf, where);

	if (!spaces || !signs)
		return NVLLM_EINVAL;
	spaces->pattern.is = hf_is_space;
	spaces->behavior = REMOVED;
	signs->pattern.is = is_neither;
	signs->behavior = CONTIGUOUS;
	return NVLLM_OK;
}

static int read_whitespace_split(struct hf *hf, const cJSON *json, const char *where)
{
	struct hf_step *spaces = step_add(hf, where);

	if (!spaces)
		return NVLLM_EINVAL;
	spaces->pattern.is = hf_is_space;
	spaces->behavior = REMOVED;
	return NVLLM_OK;
}

static const struct {
	const char *type;
	int (*read)(struct hf *, const cJSON *, const char *where);
} names[] = {
	{ "Split", read_split },
	{ "ByteLevel", read_byte_level },
	{ "Digits", read_digits },
	{ "Metaspace", read_metaspace },
	{ "Punctuation", read_punctuation },
	{ "Whitespace", read_whitespace },
	{ "WhitespaceSplit", read_whitespace_split },
};

static int read_step(struct hf *hf, const cJSON *step, const char *where)
{
	const char *type = hf_type(hf, step, where);

	if (!type)
		return NVLLM_EINVAL;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i].type, type))
			return names[i].read(hf, step, where);
	return hf_bad(hf, where, "the pre-tokenizer '%.60s' is not known here", type);
}

/* Where bytes become characters of the alphabet last, the model is given the bytes. */
int hf_split_read(struct hf *hf, const cJSON *pre_tokenizer)
{
	int rc = hf_each(hf, pre_tokenizer, "pre_tokenizer", "pretokenizers", read_step);

	if (rc >= 0 && hf->n_steps && hf->steps[hf->n_steps - 1].run == byte_chars) {
		hf->n_steps--;
		hf->byte_level = true;
	}
	return rc;
}

int hf_walk(struct hf_call *call, int step, struct hf_part part)
{
	if (part.len == 0)
		return 0;
	if (step == call->hf->n_steps)
		return hf_word(call, part.s, part.len);
	return call->hf->steps[step].run(call, &call->hf->steps[step], step + 1, part);
}
