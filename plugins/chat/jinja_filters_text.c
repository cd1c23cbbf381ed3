/* SPDX-License-Identifier: MIT */
/* jinja_filters_text.c - filters of one value: text, numbers, JSON. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja.h"

#define FILTER(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

static bool is_on(struct jin *j, struct val v)
{
	return v.t != T_ABSENT && v_true_of(j, v);
}

/* What len(), + and slices need. */
static struct val need_str(struct jin *j, struct val v)
{
	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t != T_STR)
		jin_fail(j, "'%s' object is no string", v_type(v));
	return v;
}

FILTER(f_upper)      { return str_case(j, v_to_str(j, v), CASE_UPPER); }
FILTER(f_lower)      { return str_case(j, v_to_str(j, v), CASE_LOWER); }
FILTER(f_capitalize) { return str_case(j, v_to_str(j, v), CASE_CAPITAL); }
FILTER(f_title)      { return str_case(j, v_to_str(j, v), CASE_WORDS); }
FILTER(f_string)     { return v_to_str(j, v); }
FILTER(f_trim)       { return str_strip(j, v_to_str(j, v), arg[0], 3); }
FILTER(f_safe)       { return v_safe(v_to_str(j, v), true); }
FILTER(f_escape)     { return str_escape(j, v); }
FILTER(f_force)      { return str_escape(j, v_safe(v_to_str(j, v), false)); }

FILTER(f_replace) /* old new count */
{
	int64_t n = arg[2].t == T_ABSENT || arg[2].t == T_NONE ? -1 : v_need_int(j, arg[2]);

	return str_replace(j, v_safe(v_to_str(j, v), false), v_to_str(j, arg[0]), v_to_str(j, arg[1]), n);
}

FILTER(f_default) /* default_value boolean */
{
	if (v.t == T_UNDEF || (is_on(j, arg[1]) && !v_true_of(j, v)))
		return arg[0].t == T_ABSENT ? v_text(j, "") : arg[0];
	return v;
}

FILTER(f_tojson) /* ensure_ascii indent separators sort_keys */
{
	return json_write(j, v, is_on(j, arg[0]), arg[1], arg[2], is_on(j, arg[3]));
}

FILTER(f_indent) /* width first blank */
{
	struct val with = arg[0].t == T_ABSENT ? v_text(j, "    ") : arg[0], lines;
	struct sbuf b = { 0 };
	bool blank = is_on(j, arg[2]);

	need_str(j, v);
	if (with.t != T_STR)
		with = str_repeat(j, v_text(j, " "), v_need_int(j, with));
	lines = str_lines(j, str_concat(j, v, v_text(j, "\n")), false);
	for (int64_t i = 0; i < lines.l->n; i++) {
		struct val line = lines.l->v[i];

		if (i)
			sbuf_put(j, &b, "\n", 1);
		if (i ? blank || line.s->len : is_on(j, arg[1]))
			sbuf_put(j, &b, with.s->s, with.s->len);
		sbuf_put(j, &b, line.s->s, line.s->len);
	}
	return v_safe(sbuf_str(j, &b), v.k);
}

FILTER(f_int) /* default base */
{
	struct val out;
	bool ok;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_STR) {
		int64_t base = arg[1].t == T_ABSENT ? 10 : v_need_int(j, arg[1]);
		double f;

		out = parse_int_text(j, v.s->s, v.s->len, (int)(base < 0 || base > 36 ? 1 : base), &ok);
		if (ok)
			return out;
		f = parse_float_text(v.s->s, v.s->len, &ok);
		if (ok && !isnan(f) && !isinf(f))
			return float_to_int(j, f);
	} else if (v.t == T_FLOAT && !isnan(v.f)) {
		return float_to_int(j, v.f);
	} else if (v_is_num(v) && v.t != T_FLOAT) {
		return v.t == T_BOOL ? v_int(v.b) : v;
	}
	return arg[0].t == T_ABSENT ? v_int(0) : arg[0];
}

FILTER(f_float) /* default */
{
	bool ok = false;
	double f = 0;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_STR)
		f = parse_float_text(v.s->s, v.s->len, &ok);
	else if (v_is_num(v))
		return v_float(v_num(j, v));
	return ok ? v_float(f) : arg[0].t == T_ABSENT ? v_float(0) : arg[0];
}

FILTER(f_abs)
{
	int64_t i;

	if (v.t == T_UNDEF || !v_is_num(v))
		jin_fail(j, "bad operand type for abs(): '%s'", v_type(v));
	if (v.t == T_FLOAT)
		return v_float(fabs(v.f));
	if (v.t == T_BIG && *v.s->s == '-') {
		struct val out = v_str(j, v.s->s + 1, v.s->len - 1);

		out.t = T_BIG;
		return out;
	}
	if (!v_as_int(v, &i))
		return v;
	return i < 0 ? v_negate(j, v_int(i), false) : v_int(i);
}

FILTER(f_round) /* precision method */
{
	int64_t digits = arg[0].t == T_ABSENT ? 0 : v_need_int(j, arg[0]);
	bool up = str_is(arg[1], "ceil");
	double unit, x;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (arg[1].t != T_ABSENT && !up && !str_is(arg[1], "floor") && !str_is(arg[1], "common"))
		jin_fail(j, "method must be common, ceil or floor");
	if (arg[1].t == T_ABSENT || str_is(arg[1], "common"))
		return num_round(j, v, digits);
	unit = pow(10, (double)digits);
	x = v_num(j, v) * unit;
	return v_float((up ? ceil(x) : floor(x)) / unit);
}

FILTER(f_format)
{
	if (a->n && a->n_named)
		jin_fail(j, "can't handle positional and keyword arguments at the same time");
	return str_percent(j, v_to_str(j, v), v_absent, a);
}

FILTER(f_center) /* width */
{
	struct val width = arg[0].t == T_ABSENT ? v_int(80) : arg[0];
	const struct builtin *fn = find_builtin(jin_str_methods2, "center", 6);

	return fn->fn(j, v_to_str(j, v), (struct val[]){ width, v_absent }, a);
}

FILTER(f_truncate) /* length killwords end leeway */
{
	int64_t len = arg[0].t == T_ABSENT ? 255 : v_need_int(j, arg[0]), keep, space;
	struct val end = arg[2].t == T_ABSENT ? v_text(j, "...") : need_str(j, arg[2]), out;
	int64_t leeway = arg[3].t == T_ABSENT || arg[3].t == T_NONE ? 5 : v_need_int(j, arg[3]);

	if (len < end.s->n)
		jin_fail(j, "expected length >= %lld, got %lld", (long long)end.s->n, (long long)len);
	if (leeway < 0)
		jin_fail(j, "expected leeway >= 0, got %lld", (long long)leeway);
	need_str(j, v);
	if (v.s->n <= leeway || v.s->n - leeway <= len)
		return v;
	keep = len - end.s->n;
	out = str_sub(j, v, 0, keep < v.s->n ? keep : v.s->n);
	if (!is_on(j, arg[1])) {
		space = str_find(j, out.s->s, out.s->len, " ", 1, true);
		if (space >= 0)
			out = v_str(j, out.s->s, space);
	}
	return str_concat(j, out, end);
}

FILTER(f_wordcount)
{
	int64_t n = 0;
	bool in = false;

	v = v_to_str(j, v);
	jin_charge(j, v.s->len * 64);
	for (int64_t i = 0; i < v.s->len;) {
		bool word = cp_word(cp_next(v.s->s, v.s->len, &i));

		n += word && !in;
		in = word;
	}
	return v_int(n);
}

static void quote(struct jin *j, struct sbuf *b, struct val v, bool query)
{
	v = v_to_str(j, v);
	for (int64_t i = 0; i < v.s->len; i++) {
		unsigned char c = (unsigned char)v.s->s[i];
		char hex[4];

		if ((c < 128 && cp_word(c)) || (c && strchr("-.~", c)) || (c == '/' && !query)) {
			sbuf_put(j, b, v.s->s + i, 1);
		} else if (c == ' ' && query) {
			sbuf_put(j, b, "+", 1);
		} else {
			snprintf(hex, sizeof(hex), "%%%02X", c);
			sbuf_puts(j, b, hex);
		}
	}
}

FILTER(f_urlencode)
{
	struct sbuf b = { 0 };
	struct iter it;
	struct val item;
	bool more = false;

	if (v.t == T_STR || !v_iterable(v)) {
		quote(j, &b, v, false);
		return sbuf_str(j, &b);
	}
	if (v.t == T_DICT) {
		v.t = T_VIEW;
		v.k = VIEW_ITEMS;
	}
	iter_begin(j, &it, v);
	while (iter_next(j, &it, &item)) {
		item = v_to_list(j, item);
		if (item.l->n != 2)
			jin_fail(j, "urlencode: not a pair");
		sbuf_puts(j, &b, more ? "&" : "");
		quote(j, &b, item.l->v[0], true);
		sbuf_put(j, &b, "=", 1);
		quote(j, &b, item.l->v[1], true);
		more = true;
	}
	return sbuf_str(j, &b);
}

FILTER(f_xmlattr) /* autospace */
{
	struct sbuf b = { 0 };

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t != T_DICT)
		jin_fail(j, "'%s' object has no attribute 'items'", v_type(v));
	for (int64_t i = 0; i < v.d->n; i++) {
		struct val key = v.d->e[i].key, to = v.d->e[i].v;

		if (to.t == T_NONE || to.t == T_UNDEF)
			continue;
		need_str(j, key);
		for (int64_t k = 0; k < key.s->len; k++)
			if (!key.s->s[k] || strchr(" \t\n\r\f\v/>=", key.s->s[k]))
				jin_fail(j, "Invalid character in attribute name: %s", v_repr(j, key));
		if (b.len || arg[0].t == T_ABSENT || v_true_of(j, arg[0]))
			sbuf_put(j, &b, " ", 1);
		put_str(j, &b, str_escape(j, key));
		sbuf_puts(j, &b, "=\"");
		put_str(j, &b, str_escape(j, to));
		sbuf_puts(j, &b, "\"");
	}
	return sbuf_str(j, &b);
}

FILTER(f_filesize) /* binary */
{
	static const char *const unit = "kMGTPEZY";
	bool binary = is_on(j, arg[0]), ok = true;
	double base = binary ? 1024 : 1000, size, x = base;
	int i = 0;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	size = v.t == T_STR ? parse_float_text(v.s->s, v.s->len, &ok) : v_num(j, v);
	if (!ok)
		jin_fail(j, "could not convert string to float: %s", v_repr(j, v));
	if (size == 1)
		return v_text(j, "1 Byte");
	if (size < base)
		return v_text(j, jin_printf(j, "%.0f Bytes", trunc(size)));
	for (; i < 7 && size >= x * base; i++)
		x *= base;
	return v_text(j, jin_printf(j, "%.1f %c%s", size / x, binary && !i ? 'K' : unit[i],
		binary ? "iB" : "B"));
}

/* Markup.striptags: tags and comments out, white space to one space; entities stay as they
 * are but for the five of escape(). */
FILTER(f_striptags)
{
	static const char *const from[] = { "&lt;", "&gt;", "&#39;", "&#34;", "&quot;", "&amp;" },
		*const to[] = { "<", ">", "'", "\"", "\"", "&" };
	struct sbuf b = { 0 };
	struct val text = v_to_str(j, v), out;
	bool space = false;

	for (int64_t i = 0; i < text.s->len;) {
		const char *p = text.s->s + i;
		int64_t left = text.s->len - i, at = i;
		bool comment = left > 3 && !memcmp(p, "<!--", 4);
		int64_t end = *p != '<' ? -1 : str_find(j, p, left, comment ? "-->" : ">",
			comment ? 3 : 1, false);

		if (end >= 0) {
			i += end + (comment ? 3 : 1);
			continue;
		}
		if (cp_space(cp_next(text.s->s, text.s->len, &at))) {
			space = b.len > 0;
		} else {
			sbuf_puts(j, &b, space ? " " : "");
			space = false;
			sbuf_put(j, &b, p, at - i);
		}
		i = at;
	}
	out = sbuf_str(j, &b);
	for (int i = 0; i < 6; i++)
		out = str_replace(j, out, v_text(j, from[i]), v_text(j, to[i]), -1);
	return out;
}

FILTER(f_refused)
{
	jin_fail(j, "the filter is not supported in chat templates");
}

const struct builtin jin_filters_text[] = {
	{ "upper", "", 0, f_upper }, { "lower", "", 0, f_lower },
	{ "capitalize", "", 0, f_capitalize }, { "title", "", 0, f_title },
	{ "string", "", 0, f_string }, { "trim", "chars", 0, f_trim }, { "safe", "", 0, f_safe },
	{ "e", "", 0, f_escape }, { "escape", "", 0, f_escape }, { "forceescape", "", 0, f_force },
	{ "replace", "old new count", 2, f_replace },
	{ "default", "default_value boolean", 0, f_default },
	{ "d", "default_value boolean", 0, f_default },
	{ "tojson", "ensure_ascii indent separators sort_keys", 0, f_tojson },
	{ "indent", "width first blank", 0, f_indent }, { "int", "default base", 0, f_int },
	{ "float", "default", 0, f_float }, { "abs", "", 0, f_abs },
	{ "round", "precision method", 0, f_round }, { "format", NULL, 0, f_format },
	{ "center", "width", 0, f_center },
	{ "truncate", "length killwords end leeway", 0, f_truncate },
	{ "wordcount", "", 0, f_wordcount }, { "urlencode", "", 0, f_urlencode },
	{ "xmlattr", "autospace", 0, f_xmlattr }, { "filesizeformat", "binary", 0, f_filesize },
	{ "striptags", "", 0, f_striptags }, { "pprint", NULL, 0, f_refused },
	{ "random", NULL, 0, f_refused }, { "urlize", NULL, 0, f_refused },
	{ "wordwrap", NULL, 0, f_refused },
	{ NULL },
};
