/* SPDX-License-Identifier: MIT */
/* option.c - decides what the text of one option means: types, bounds, the reason of
 * a refusal, and which key was meant. Knows no file and no section. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strtod_l */
#endif
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

#define MAX_OPTIONS 1024 /* more: the table has lost its end */
#define MAX_WORD    64   /* longest word option_nearest looks at */
#define MAX_SHOWN   80   /* bytes of a bad value that a message repeats */

struct why {
	char *text;
	size_t len;
};

__attribute__((format(printf, 2, 3)))
static int say(struct why w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w.text, w.len, fmt, ap);
	va_end(ap);
	return NVLLM_EINVAL;
}

/* ---- numbers ---- */

/* A bound as a person would write it. */
static const char *bound_text(double b, char *buf, size_t len)
{
	if (b == floor(b) && fabs(b) < 1e15)
		snprintf(buf, len, "%.0f", b);
	else
		snprintf(buf, len, "%.6g", b);
	return buf;
}

/* Bounds so far out that they mean "none on this side". */
static bool no_bound(double b)
{
	return fabs(b) >= 9e18;
}

/* "1..1024", "at least 1", "at most 0", or "" without bounds. */
static const char *range_text(const struct nvllm_option *o, char *buf, size_t len)
{
	char lo[32], hi[32];

	bound_text(o->min, lo, sizeof(lo));
	bound_text(o->max, hi, sizeof(hi));
	buf[0] = 0;
	if (o->min == o->max || (no_bound(o->min) && no_bound(o->max)))
		return buf;
	if (no_bound(o->max))
		snprintf(buf, len, "at least %s", lo);
	else if (no_bound(o->min))
		snprintf(buf, len, "at most %s", hi);
	else
		snprintf(buf, len, "%s..%s", lo, hi);
	return buf;
}

/* long double holds every int64_t and every double exactly. */
static int check_bounds(
	const struct nvllm_option *o, long double v, const char *text, int n, struct why w)
{
	char range[80];

	if (o->min == o->max || (v >= (long double)o->min && v <= (long double)o->max))
		return NVLLM_OK;
	range_text(o, range, sizeof(range));
	if (no_bound(o->min) || no_bound(o->max))
		return say(w, "%.*s is not %s", n, text, range);
	return say(w, "%.*s is outside %s", n, text, range);
}

/* Parses the n bytes at text: digits, with a minus in front or not. */
static int parse_int(const char *text, int n, int64_t *out, struct why w)
{
	int i = text[0] == '-', show = n < MAX_SHOWN ? n : MAX_SHOWN;
	uint64_t v = 0;

	if (i >= n)
		return say(w, "'%.*s' is not a whole number", show, text);
	for (; i < n; i++) {
		if (!isdigit((unsigned char)text[i]))
			return say(w, "'%.*s' is not a whole number", show, text);
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
			return say(w, "%.*s does not fit into 64 bits", show, text);
	}
	if (v > (uint64_t)INT64_MAX + (text[0] == '-'))
		return say(w, "%.*s does not fit into 64 bits", show, text);
	*out = text[0] == '-' ? (int64_t)(0 - v) : (int64_t)v;
	return NVLLM_OK;
}

/* Decimal only: no hexadecimal, no "inf", no "nan", and a point whatever the locale. */
static int parse_float(const char *text, int n, double *out, struct why w)
{
	char buf[128], *end;
	locale_t c;

	if (n <= 0 || n >= (int)sizeof(buf) || strspn(text, "0123456789.eE+-") < (size_t)n)
		return say(w, "'%.*s' is not a number", n < MAX_SHOWN ? n : MAX_SHOWN, text);
	memcpy(buf, text, (size_t)n);
	buf[n] = 0;
	c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!c)
		return say(w, "no memory");
	*out = strtod_l(buf, &end, c);
	freelocale(c);
	if (end == buf || *end)
		return say(w, "'%s' is not a number", buf);
	if (!isfinite(*out))
		return say(w, "%s is too large", buf);
	return NVLLM_OK;
}

/* 4096, 512K, 300M, 4G, 1T: powers of 1024. */
static int parse_size(const char *text, int64_t *out, struct why w)
{
	static const char units[] = "KMGT";
	int n = (int)strlen(text);
	const char *unit = n > 0 ? strchr(units, toupper((unsigned char)text[n - 1])) : NULL;
	int shift = unit ? 10 * (int)(unit - units + 1) : 0;

	if (!isdigit((unsigned char)text[0]) || parse_int(text, unit ? n - 1 : n, out, w))
		return say(w,
			"'%.80s' is not a size: write bytes, or a whole number and K, M, G or T",
			text);
	if (__builtin_mul_overflow(*out, (int64_t)1 << shift, out))
		return say(w, "%.80s does not fit into 64 bits", text);
	return NVLLM_OK;
}

static int set_int(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	int64_t v;
	int rc = parse_int(text, (int)strlen(text), &v, w);

	if (!rc)
		rc = check_bounds(o, (long double)v, text, (int)strlen(text), w);
	if (!rc)
		memcpy(at, &v, sizeof(v));
	return rc;
}

static int set_float(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	double v;
	int rc = parse_float(text, (int)strlen(text), &v, w);

	if (!rc)
		rc = check_bounds(o, (long double)v, text, (int)strlen(text), w);
	if (!rc)
		memcpy(at, &v, sizeof(v));
	return rc;
}

static int set_size(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	int64_t v;
	int rc = parse_size(text, &v, w);

	if (!rc)
		rc = check_bounds(o, (long double)v, text, (int)strlen(text), w);
	if (!rc)
		memcpy(at, &v, sizeof(v));
	return rc;
}

/* ---- words ---- */

static int set_bool(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

	for (int32_t i = 0; i < 8; i++) {
		int32_t v = i & 1;

		if (strcmp(text, words[i]))
			continue;
		memcpy(at, &v, sizeof(v));
		return NVLLM_OK;
	}
	return say(
		w, "'%.80s' is not true or false (yes, no, on, off, 1 and 0 are taken too)", text);
}

static int set_str(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	const char *copy = pool_strdup(pool, text);

	if (!copy)
		return say(w, "no memory");
	memcpy(at, &copy, sizeof(copy));
	return NVLLM_OK;
}

/* "a, b or c" */
static const char *names_text(const char *const *names, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = 0;
	for (int i = 0; names[i] && at < len; i++)
		at += (size_t)snprintf(buf + at, len - at, "%s%s",
			i == 0 ? "" : names[i + 1] ? ", " : " or ", names[i]);
	return buf;
}

static int set_enum(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	const char *near;
	char all[256];

	for (int32_t i = 0; o->names[i]; i++)
		if (!strcmp(text, o->names[i])) {
			memcpy(at, &i, sizeof(i));
			return NVLLM_OK;
		}
	near = option_nearest(text, o->names);
	names_text(o->names, all, sizeof(all));
	if (near)
		return say(w, "'%.80s' is not %s; did you mean '%s'?", text, all, near);
	return say(w, "'%.80s' is not %s", text, all);
}

/* ---- lists ---- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The next element of a list of numbers parted by blanks or one comma. *at moves
 * behind it. Returns its length, 0 at the end, or -1: a comma with no number. */
static int next_element(const char **at, const char *start)
{
	const char *s = *at;
	bool comma = false;
	int n = 0;

	while (is_blank(*s) || (*s == ',' && !comma && *at != start))
		comma |= *s++ == ',';
	while (s[n] && s[n] != ',' && !is_blank(s[n]) && n < 1 << 20)
		n++;
	*at = s + n;
	return n > 0 ? n : *s || comma ? -1 : 0;
}

/* Counts the elements, or -1 where a comma stands alone. */
static int64_t count_elements(const char *text)
{
	const char *s = text;
	int64_t count = 0;
	int n;

	while ((n = next_element(&s, text)) > 0)
		count++;
	return n < 0 ? -1 : count;
}

/* Both list types: 8 bytes an element, and a struct of a pointer and a count. */
static int set_list(
	const struct nvllm_option *o, const char *text, void *at, struct pool *pool, struct why w)
{
	int64_t n = count_elements(text);
	const char *s = text;
	int64_t *ints = NULL;
	double *floats = NULL;
	struct nvllm_ints li;
	struct nvllm_floats lf;
	void *room = n > 0 ? pool_alloc(pool, (size_t)n * 8) : NULL;

	if (n < 0)
		return say(w, "'%.80s' is not a list of numbers: a number is missing at a comma",
			text);
	if (n > 0 && !room)
		return say(w, "no memory for %lld numbers", (long long)n);
	if (o->type == NVLLM_OPT_INTS)
		ints = room;
	else
		floats = room;
	for (int64_t i = 0; i < n; i++) {
		int len = next_element(&s, text), rc;

		rc = ints ? parse_int(s - len, len, &ints[i], w) :
			    parse_float(s - len, len, &floats[i], w);
		if (!rc)
			rc = check_bounds(o, ints ? (long double)ints[i] : (long double)floats[i],
				s - len, len, w);
		if (rc)
			return rc;
	}
	li = (struct nvllm_ints){ ints, n };
	lf = (struct nvllm_floats){ floats, n };
	if (o->type == NVLLM_OPT_INTS)
		memcpy(at, &li, sizeof(li));
	else
		memcpy(at, &lf, sizeof(lf));
	return NVLLM_OK;
}

/* ---- the table of types ---- */

static const struct option_type {
	const char *name;  /* for `nvllm explain` */
	uint64_t bytes;    /* in the conf struct */
	int (*set)(
		const struct nvllm_option *, const char *text, void *at, struct pool *, struct why);
} types[] = {
	[NVLLM_OPT_INT]    = { "whole number", sizeof(int64_t), set_int },
	[NVLLM_OPT_FLOAT]  = { "number", sizeof(double), set_float },
	[NVLLM_OPT_BOOL]   = { "true or false", sizeof(int32_t), set_bool },
	[NVLLM_OPT_STR]    = { "text", sizeof(const char *), set_str },
	[NVLLM_OPT_ENUM]   = { "one of", sizeof(int32_t), set_enum },
	[NVLLM_OPT_INTS]   = { "whole numbers", sizeof(struct nvllm_ints), set_list },
	[NVLLM_OPT_SIZE]   = { "bytes (K, M, G, T)", sizeof(int64_t), set_size },
	[NVLLM_OPT_FLOATS] = { "numbers", sizeof(struct nvllm_floats), set_list },
};

static const struct option_type *type_of(const struct nvllm_option *o)
{
	return o->type >= 1 && o->type < sizeof(types) / sizeof(types[0]) ? &types[o->type] : NULL;
}

int option_set(const struct nvllm_option *o, const char *text, void *conf, struct pool *pool,
	char *why, size_t why_len)
{
	return type_of(o)->set(
		o, text, (char *)conf + o->offset, pool, (struct why){ why, why_len });
}

static bool is_key(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");

	return n > 0 && n <= MAX_WORD && s[n] == 0;
}

/* The default must pass the option's own test: set it into a scratch of its own. */
static int check_default(const struct nvllm_option *o, const char *who)
{
	struct nvllm_option here = *o;
	union { int64_t i; double f; struct nvllm_ints l; } scratch;
	struct pool *pool = pool_create();
	char why[256];
	int rc;

	if (!pool)
		return fail(NVLLM_ENOMEM, "%s: no memory", who);
	here.offset = 0;
	rc = option_set(&here, o->def, &scratch, pool, why, sizeof(why));
	pool_destroy(pool);
	if (rc)
		return fail(NVLLM_EINVAL, "%s: option '%s': its default is refused: %s", who,
			o->key, why);
	return NVLLM_OK;
}

static int check_option(const struct nvllm_option *o, uint64_t conf_size, const char *who)
{
	const struct option_type *t = type_of(o);

	if (!is_key(o->key))
		return fail(NVLLM_EINVAL,
			"%s: option key '%.80s' may hold letters, digits, '_', '.' and '-' "
			"only, at most %d",
			who, o->key, MAX_WORD);
	if (!t)
		return fail(NVLLM_EINVAL,
			"%s: option '%s' has type %u, which is none of enum nvllm_option_type", who,
			o->key, o->type);
	if (!o->help || !o->help[0])
		return fail(NVLLM_EINVAL, "%s: option '%s' has no help line", who, o->key);
	if (conf_size < t->bytes || o->offset > conf_size - t->bytes)
		return fail(NVLLM_EINVAL,
			"%s: option '%s' lies at bytes %llu..%llu of a conf struct of %llu", who,
			o->key, (unsigned long long)o->offset,
			(unsigned long long)(o->offset + t->bytes), (unsigned long long)conf_size);
	if (o->type == NVLLM_OPT_ENUM && (!o->names || !o->names[0]))
		return fail(NVLLM_EINVAL, "%s: option '%s' is an ENUM without names", who, o->key);
	if (!(o->min <= o->max))
		return fail(NVLLM_EINVAL, "%s: option '%s' has bounds %g..%g", who, o->key, o->min,
			o->max);
	if (!o->def && !(o->flags & NVLLM_OPT_REQUIRED))
		return fail(NVLLM_EINVAL, "%s: option '%s' has no default and is not REQUIRED", who,
			o->key);
	return o->def ? check_default(o, who) : NVLLM_OK;
}

int option_check_table(const struct nvllm_option *table, uint64_t conf_size, const char *who)
{
	int n = 0;

	for (const struct nvllm_option *o = table; o && o->key; o++) {
		int rc;

		if (++n > MAX_OPTIONS)
			return fail(NVLLM_EINVAL,
				"%s: more than %d options: does the table end with "
				"NVLLM_OPTIONS_END?",
				who, MAX_OPTIONS);
		rc = check_option(o, conf_size, who);
		if (rc)
			return rc;
		for (const struct nvllm_option *p = table; p < o; p++)
			if (!strcmp(p->key, o->key))
				return fail(NVLLM_EINVAL, "%s: option '%s' is in the table twice",
					who, o->key);
	}
	return NVLLM_OK;
}

/* ---- did you mean ---- */

static int min3(int a, int b, int c)
{
	return a < b ? (a < c ? a : c) : (b < c ? b : c);
}

/* Edits that turn a into b: insert, delete, replace, swap two neighbours (Damerau and
 * Levenshtein, in the form "optimal string alignment"). Both at most MAX_WORD long. */
static int distance(const char *a, int na, const char *b, int nb)
{
	int rows[3][MAX_WORD + 1];
	int *before = rows[0], *last = rows[1], *now = rows[2];

	for (int j = 0; j <= nb; j++)
		last[j] = j;
	for (int i = 1; i <= na; i++) {
		int *next = before;

		now[0] = i;
		for (int j = 1; j <= nb; j++) {
			now[j] = min3(
				last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < now[j])
				now[j] = before[j - 2] + 1;
		}
		before = last, last = now, now = next;
	}
	return last[nb];
}

const char *option_nearest(const char *word, const char *const *candidates)
{
	int n = (int)strnlen(word, MAX_WORD + 1), best = n / 3 > 1 ? n / 3 : 1;
	const char *near = NULL, *prefix = NULL;

	if (n == 0 || n > MAX_WORD)
		return NULL;
	for (int i = 0; candidates[i]; i++) {
		int m = (int)strnlen(candidates[i], MAX_WORD + 1), d;

		if (m > MAX_WORD)
			continue;
		d = distance(word, n, candidates[i], m);
		if (d < best || (d == best && !near))
			best = d, near = candidates[i];
		if (!prefix && n >= 2 && m >= 2 &&
			!strncmp(word, candidates[i], (size_t)(n < m ? n : m)))
			prefix = candidates[i];
	}
	return near ? near : prefix;
}

/* ---- nvllm explain ---- */

void option_explain(const struct nvllm_option *o, FILE *f)
{
	char range[80], names[256], head[160];

	range_text(o, range, sizeof(range));
	snprintf(head, sizeof(head), "%s = %s", o->key, o->def ? o->def : "(must be set)");
	fprintf(f, "  %-28s  %s", head, type_of(o)->name);
	if (o->type == NVLLM_OPT_ENUM)
		fprintf(f, " %s", names_text(o->names, names, sizeof(names)));
	else if (range[0])
		fprintf(f, ", %s", range);
	fprintf(f, "\n      %s\n", o->help);
}
