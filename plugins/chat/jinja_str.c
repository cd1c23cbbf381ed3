/* SPDX-License-Identifier: MIT */
/* jinja_str.c - strings: decides what an index, a slice, a search is. They are counted in code
 * points, as Python's. */
#include <string.h>

#include "jinja.h"

/* The byte where character i begins, 0 <= i <= n. */
const char *str_at(struct jin *j, const struct str *s, int64_t i)
{
	int64_t at = 0;

	if (s->n == s->len)
		return s->s + i;
	jin_charge(j, 16 * (i > s->n / 2 ? s->n - i : i));
	if (i > s->n / 2) {
		for (at = s->len, i = s->n - i; i > 0; i--)
			do
				at--;
			while (at > 0 && ((unsigned char)s->s[at] & 0xC0) == 0x80);
		return s->s + at;
	}
	for (; i > 0; i--)
		do
			at++;
		while (at < s->len && ((unsigned char)s->s[at] & 0xC0) == 0x80);
	return s->s + at;
}

/* Characters [from, to). */
struct val str_sub(struct jin *j, struct val v, int64_t from, int64_t to)
{
	const char *a, *b;
	struct str rest;

	if (from >= to)
		return v_safe(v_str_n(j, "", 0, 0), v.k);
	if (from == 0 && to == v.s->n)
		return v;
	a = str_at(j, v.s, from);
	rest = (struct str){ a, v.s->s + v.s->len - a, v.s->n - from, NULL };
	b = to == v.s->n ? v.s->s + v.s->len : str_at(j, &rest, to - from);
	return v_safe(v_str_n(j, a, b - a, to - from), v.k);
}

struct val str_index(struct jin *j, struct val v, int64_t i)
{
	return str_sub(j, v, i, i + 1);
}

/* a + b; where a ends the buffer it is in, b goes behind it, so that a loop of appends takes
 * time and memory in proportion to what it makes. */
struct val str_concat(struct jin *j, struct val a, struct val b)
{
	struct tail *t = a.s->tail;
	int64_t len;
	struct val v;
	char *to;

	if (__builtin_add_overflow(a.s->len, b.s->len, &len) || len > (int64_t)j->max_memory)
		jin_fail(j, "the template makes a text of more than %zu MiB", j->max_memory >> 20);
	if (!b.s->len || !a.s->len)
		return v_safe(a.s->len ? a : b, a.k || b.k);
	j->steps += b.s->len / 64;
	if (t && a.s->s + a.s->len == t->s + t->used && t->cap - t->used >= b.s->len) {
		memcpy(t->s + t->used, b.s->s, (size_t)b.s->len);
		t->used += b.s->len;
		v = v_str_n(j, a.s->s, len, a.s->n + b.s->n);
		((struct str *)v.s)->tail = t;
		return v_safe(v, a.k || b.k);
	}
	j->steps += a.s->len / 64;
	t = NULL;
	if (len >= 128) {
		t = jin_alloc(j, sizeof(*t));
		*t = (struct tail){ jin_alloc(j, (size_t)len * 2), len, len * 2 };
	}
	to = t ? t->s : jin_alloc(j, (size_t)len);
	memcpy(to, a.s->s, (size_t)a.s->len);
	memcpy(to + a.s->len, b.s->s, (size_t)b.s->len);
	v = v_str_n(j, to, len, a.s->n + b.s->n);
	((struct str *)v.s)->tail = t;
	return v_safe(v, a.k || b.k);
}

/* markupsafe.escape */
struct val str_escape(struct jin *j, struct val v)
{
	static const char *const to[] = { "&amp;", "&lt;", "&gt;", "&#39;", "&#34;" };
	struct sbuf b = { 0 };

	if (v.t == T_STR && v.k)
		return v;
	v = v_to_str(j, v);
	jin_charge(j, v.s->len * 8);
	for (int64_t i = 0, from = 0; i <= v.s->len; i++) {
		const char *p = i < v.s->len && v.s->s[i] ? strchr("&<>'\"", v.s->s[i]) : NULL;

		if (i < v.s->len && !p)
			continue;
		sbuf_put(j, &b, v.s->s + from, i - from);
		if (p)
			sbuf_puts(j, &b, to[p - "&<>'\""]);
		from = i + 1;
	}
	return v_safe(sbuf_str(j, &b), true);
}

struct val str_repeat(struct jin *j, struct val v, int64_t times)
{
	struct sbuf b = { 0 };
	struct val out;

	sbuf_fill(j, &b, v.s->s, v.s->len, times);
	out = v_str_n(j, b.s ? b.s : "", b.len, b.len ? v.s->n * times : 0);
	return v_safe(out, v.k);
}

/* The byte where `what` is, or -1. */
int64_t str_find(struct jin *j, const char *s, int64_t len, const char *what, int64_t n, bool last)
{
	const char *p;

	if (n > len)
		return -1;
	if (last) {
		for (int64_t i = len - n; i >= 0; i--) {
			if (i % 64 == 0)
				jin_charge(j, 8 * 64);
			if (n > 64 && s[i] == *what)
				jin_charge(j, n);
			if (!memcmp(s + i, what, (size_t)n))
				return i;
		}
		return -1;
	}
	p = n ? memmem(s, (size_t)len, what, (size_t)n) : s;
	jin_charge(j, 8 * (p ? p - s : len) + n);
	return p ? p - s : -1;
}

/* Is the character in `chars`, or, where that is NULL, whitespace? */
static bool stripped(struct jin *j, uint32_t c, const struct str *chars)
{
	if (!chars)
		return cp_space(c);
	jin_charge(j, chars->len * 16);
	for (int64_t i = 0; i < chars->len;)
		if (cp_next(chars->s, chars->len, &i) == c)
			return true;
	return false;
}

struct val str_strip(struct jin *j, struct val v, struct val chars, int sides)
{
	const struct str *set = NULL;
	int64_t a = 0, b = v.s->len, n = v.s->n;

	if (chars.t == T_STR)
		set = chars.s;
	else if (chars.t != T_NONE && chars.t != T_ABSENT)
		jin_fail(j, "strip arg must be None or str, not %s", v_type(chars));
	while ((sides & 1) && a < b) {
		int64_t next = a;

		if (!stripped(j, cp_next(v.s->s, b, &next), set))
			break;
		a = next;
		n--;
	}
	while ((sides & 2) && a < b) {
		int64_t from = b - 1, at;

		while (from > a && ((unsigned char)v.s->s[from] & 0xC0) == 0x80)
			from--;
		at = from;
		if (!stripped(j, cp_next(v.s->s, b, &at), set))
			break;
		b = from;
		n--;
	}
	jin_charge(j, 16 * (v.s->len - (b - a)));
	return v_safe(v_str_n(j, v.s->s + a, b - a, n), v.k);
}

struct val str_replace(struct jin *j, struct val v, struct val old, struct val new_, int64_t count)
{
	struct sbuf b = { 0 };
	int64_t at = 0, n = 0;

	if (count < 0)
		count = INT64_MAX;
	while (n < count && at <= v.s->len) {
		int64_t i = str_find(j, v.s->s + at, v.s->len - at, old.s->s, old.s->len, false);

		if (i < 0)
			break;
		if (!old.s->len && n) { /* between each two characters */
			int64_t next = at;

			if (at >= v.s->len)
				break;
			cp_next(v.s->s, v.s->len, &next);
			sbuf_put(j, &b, v.s->s + at, next - at);
			at = next;
			i = 0;
		}
		sbuf_put(j, &b, v.s->s + at, i);
		sbuf_put(j, &b, new_.s->s, new_.s->len);
		at += i + old.s->len;
		n++;
	}
	if (!n)
		return v;
	sbuf_put(j, &b, v.s->s + at, v.s->len - at);
	return v_safe(sbuf_str(j, &b), v.k);
}

static bool is_line_end(uint32_t c)
{
	return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
		c == 0x2029;
}

struct val str_lines(struct jin *j, struct val v, bool keep)
{
	struct val out = v_list(j, T_LIST, 0);
	int64_t from = 0;

	jin_charge(j, v.s->len * 8);
	for (int64_t i = 0; i < v.s->len;) {
		int64_t end = i;
		uint32_t c = cp_next(v.s->s, v.s->len, &i);

		if (!is_line_end(c))
			continue;
		i += c == '\r' && i < v.s->len && v.s->s[i] == '\n';
		end = keep ? i : end;
		list_add(j, out.l, v_safe(v_str(j, v.s->s + from, end - from), v.k));
		from = i;
	}
	if (from < v.s->len)
		list_add(j, out.l, v_safe(v_str(j, v.s->s + from, v.s->len - from), v.k));
	return out;
}

/* One end of a slice of n things, as PySlice_AdjustIndices has it. */
static int64_t slice_end(struct jin *j, struct val v, int64_t n, bool down, int64_t otherwise)
{
	int64_t i;

	if (v.t == T_NONE || v.t == T_ABSENT)
		return otherwise;
	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_BIG)
		i = *v.s->s == '-' ? INT64_MIN : INT64_MAX;
	else if (!v_as_int(v, &i))
		jin_fail(j, "slice indices must be integers or None or have an __index__ method");
	if (i < 0)
		i = i < -n ? (down ? -1 : 0) : i + n;
	else if (i >= n)
		i = down ? n - 1 : n;
	return i;
}

static struct val str_pick(struct jin *j, struct val v, int64_t start, int64_t step, int64_t count)
{
	struct sbuf b = { 0 };
	const char **at = NULL;

	if (v.s->n != v.s->len) {
		int64_t k = 0;

		at = jin_array(j, v.s->n + 1, sizeof(*at));
		for (int64_t i = 0; i < v.s->n; i++) {
			at[i] = v.s->s + k;
			cp_next(v.s->s, v.s->len, &k);
		}
		at[v.s->n] = v.s->s + v.s->len;
	}
	jin_charge(j, 8 * (v.s->len + count));
	for (int64_t i = 0; i < count; i++) {
		int64_t k = start + i * step;

		if (at)
			sbuf_put(j, &b, at[k], at[k + 1] - at[k]);
		else
			sbuf_put(j, &b, v.s->s + k, 1);
	}
	return v_safe(sbuf_str(j, &b), v.k);
}

static struct val range_pick(struct jin *j, const struct range *r, int64_t start, int64_t step,
	int64_t count)
{
	struct range *out = jin_alloc(j, sizeof(*out));

	out->n = count;
	if (__builtin_mul_overflow(r->step, start, &out->start) ||
		__builtin_add_overflow(r->start, out->start, &out->start) ||
		__builtin_mul_overflow(r->step, step, &out->step) ||
		__builtin_mul_overflow(out->step, count, &out->stop) ||
		__builtin_add_overflow(out->stop, out->start, &out->stop))
		jin_fail(j, "int too large");
	return (struct val){ .t = T_RANGE, .r = out };
}

struct val v_slice(struct jin *j, struct val v, const struct slice *s)
{
	int64_t n, step = 1, start, stop, count;
	struct val out;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t != T_STR && v.t != T_LIST && v.t != T_TUPLE && v.t != T_RANGE)
		jin_fail(j, "'%s' object is not subscriptable", v_type(v));
	n = v_len(j, v);
	if (s->step.t != T_NONE && s->step.t != T_ABSENT)
		step = v_need_int(j, s->step);
	if (!step)
		jin_fail(j, "slice step cannot be zero");
	step = step == INT64_MIN ? -INT64_MAX : step;
	start = slice_end(j, s->start, n, step < 0, step < 0 ? n - 1 : 0);
	stop = slice_end(j, s->stop, n, step < 0, step < 0 ? -1 : n);
	count = step > 0 ? start < stop ? (stop - start - 1) / step + 1 : 0 :
			   stop < start ? (start - stop - 1) / -step + 1 : 0;
	if (v.t == T_STR)
		return step == 1 ? str_sub(j, v, start, start + count) :
				   str_pick(j, v, start, step, count);
	if (v.t == T_RANGE)
		return range_pick(j, v.r, start, step, count);
	out = v_list(j, v.t, step == 1 ? 0 : count);
	if (step == 1 && count) { /* nothing changes a list, so it can share */
		out.l->v = v.l->v + start;
		out.l->n = out.l->cap = count;
		return out;
	}
	jin_charge(j, count * 16);
	for (int64_t i = 0; i < count; i++)
		out.l->v[out.l->n++] = v.l->v[start + i * step];
	return out;
}
