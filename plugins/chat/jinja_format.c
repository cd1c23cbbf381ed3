/* SPDX-License-Identifier: MIT */
/* jinja_format.c - "%s" % x and "{}".format(x). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja.h"
#include "utf8.h"

/* ---- % ---- */

struct percent {
	struct jin *j;
	const char *s;
	int64_t len, at;
	struct sbuf out;
	struct val args;        /* a tuple, or the only value */
	int64_t used;
	bool safe, mapped;
};

static struct val next_value(struct percent *p)
{
	if (p->args.t == T_TUPLE && !p->mapped) {
		if (p->used >= p->args.l->n)
			jin_fail(p->j, "not enough arguments for format string");
		return p->args.l->v[p->used++];
	}
	if (p->used++ && !p->mapped)
		jin_fail(p->j, "not enough arguments for format string");
	return p->args;
}

/* %(name)s */
static struct val mapped(struct percent *p)
{
	int64_t from = ++p->at;
	int depth = 1;
	struct val v, key;

	for (; p->at < p->len && depth; p->at++)
		depth += p->s[p->at] == '(' ? 1 : p->s[p->at] == ')' ? -1 : 0;
	if (depth)
		jin_fail(p->j, "incomplete format key");
	if (p->args.t != T_DICT)
		jin_fail(p->j, "format requires a mapping");
	p->mapped = true;
	key = v_str(p->j, p->s + from, p->at - 1 - from);
	if (!dict_get(p->j, p->args.d, key, &v))
		jin_fail(p->j, "no key %s for the format string", v_repr(p->j, key));
	return v;
}

static int64_t number_or_star(struct percent *p)
{
	int64_t n = 0;

	if (p->at < p->len && p->s[p->at] == '*') {
		p->at++;
		n = v_need_int(p->j, next_value(p));
		return n < -INT32_MAX || n > INT32_MAX ? INT32_MAX : n;
	}
	for (; p->at < p->len && p->s[p->at] >= '0' && p->s[p->at] <= '9'; p->at++) {
		n = n * 10 + (p->s[p->at] - '0');
		if (n > INT32_MAX)
			jin_fail(p->j, "width too big");
	}
	return n;
}

static void put_text_value(struct percent *p, struct val v, const struct spec *f)
{
	struct sbuf b = { 0 };
	struct val text;

	if (f->type == 's')
		put_str(p->j, &b, p->safe ? str_escape(p->j, v) : v);
	else
		put_repr(p->j, &b, v);
	text = sbuf_str(p->j, &b);
	if (f->prec >= 0 && f->prec < text.s->n)
		text = str_sub(p->j, text, 0, f->prec);
	put_padded(p->j, &p->out, text.s->s, text.s->len, f, '>');
}

static void put_char(struct percent *p, struct val v, const struct spec *f)
{
	char s[4];
	int64_t i, n;

	if (v.t == T_STR && v.s->n == 1) {
		put_padded(p->j, &p->out, v.s->s, v.s->len, f, '>');
		return;
	}
	if (!v_as_int(v, &i))
		jin_fail(p->j, "%%c requires int or char");
	n = i < 0 || i > 0x10FFFF ? 0 : (int64_t)utf8_encode((uint32_t)i, s);
	if (!n)
		jin_fail(p->j, "%%c arg is no character");
	put_padded(p->j, &p->out, s, n, f, '>');
}

static void put_value(struct percent *p, struct val v, struct spec *f)
{
	if (strchr("sra", f->type)) {
		put_text_value(p, v, f);
	} else if (f->type == 'c') {
		put_char(p, v, f);
	} else if (v.t == T_UNDEF) {
		undef_fail(p->j, v);
	} else if (strchr("diu", f->type)) {
		if (!v_is_num(v))
			jin_fail(p->j, "%%%c format: a real number is required, not %s", f->type, v_type(v));
		f->type = 'd';
		put_int_spec(p->j, &p->out, v.t == T_FLOAT ? float_to_int(p->j, v.f) : v, f);
	} else if (strchr("xXo", f->type)) {
		if (!v_is_num(v) || v.t == T_FLOAT)
			jin_fail(p->j, "%%%c format: an integer is required, not %s", f->type, v_type(v));
		put_int_spec(p->j, &p->out, v, f);
	} else {
		if (!v_is_num(v))
			jin_fail(p->j, "must be real number, not %s", v_type(v));
		put_float_spec(p->j, &p->out, v_num(p->j, v), f);
	}
}

static void percent_one(struct percent *p)
{
	struct spec f = { .prec = -1 };
	struct val v = v_absent;

	if (p->at < p->len && p->s[p->at] == '(')
		v = mapped(p);
	for (; p->at < p->len && p->s[p->at] && strchr("-+ #0", p->s[p->at]); p->at++) {
		char c = p->s[p->at];

		f.align = c == '-' ? '<' : f.align;
		f.sign = c == '+' || (c == ' ' && !f.sign) ? c : f.sign;
		f.alt |= c == '#';
		f.zero |= c == '0';
	}
	f.width = number_or_star(p);
	if (f.width < 0) {
		f.align = '<';
		f.width = -f.width;
	}
	if (p->at < p->len && p->s[p->at] == '.') {
		p->at++;
		f.prec = number_or_star(p);
		f.prec = f.prec < 0 ? 0 : f.prec;
	}
	while (p->at < p->len && p->s[p->at] && strchr("hlL", p->s[p->at]))
		p->at++;
	if (p->at >= p->len)
		jin_fail(p->j, "incomplete format");
	f.type = p->s[p->at++];
	if (f.type == '%') {
		sbuf_put(p->j, &p->out, "%", 1);
		return;
	}
	if (!f.type || !strchr("sracdiuxXoeEfFgG", f.type))
		jin_fail(p->j, "unsupported format character '%c' (0x%x) at index %lld",
			f.type > 31 && f.type < 127 ? f.type : '?', (unsigned char)f.type,
			(long long)p->at - 1);
	put_value(p, v.t == T_ABSENT ? next_value(p) : v, &f);
}

/* raw: of the filter `format`, whose arguments stand instead of args. */
struct val str_percent(struct jin *j, struct val fmt, struct val args, const struct args *raw)
{
	struct percent p = { .j = j, .s = fmt.s->s, .len = fmt.s->len, .args = args, .safe = fmt.k };

	if (raw && raw->n_named) {
		p.args = v_dict(j);
		for (int i = 0; i < raw->n_named; i++)
			dict_set(j, p.args.d, (struct val){ .t = T_STR, .s = raw->names[i] },
				raw->named[i]);
	} else if (raw) {
		p.args = v_list(j, T_TUPLE, raw->n);
		for (int i = 0; i < raw->n; i++)
			list_add(j, p.args.l, raw->v[i]);
	}
	while (p.at < p.len) {
		const char *next = memchr(p.s + p.at, '%', (size_t)(p.len - p.at));
		int64_t to = next ? next - p.s : p.len;

		sbuf_put(j, &p.out, p.s + p.at, to - p.at);
		p.at = to + 1;
		if (next)
			percent_one(&p);
	}
	if (p.args.t == T_TUPLE ? p.used < p.args.l->n : !p.used && !p.mapped && p.args.t != T_DICT &&
		p.args.t != T_LIST)
		jin_fail(j, "not all arguments converted during string formatting");
	return v_safe(sbuf_str(j, &p.out), fmt.k);
}

/* ---- str.format ---- */

struct format {
	struct jin *j;
	const struct args *a;
	int next;               /* of {} {} ...; -1: they are numbered */
	bool safe;              /* values are escaped */
};

/* name, then .attribute and [item] */
static struct val field_value(struct format *f, const char *s, int64_t len)
{
	int64_t at = 0, from;
	struct val v = v_absent;
	bool ok;

	while (at < len && s[at] != '.' && s[at] != '[')
		at++;
	if (!len || (at && s[0] >= '0' && s[0] <= '9')) {
		struct val number = at ? parse_int_text(f->j, s, at, 10, &ok) : v_int(f->next);
		int64_t i = !at && f->next < 0 ? -1 : number.i;

		if (at && (!ok || number.t != T_INT))
			jin_fail(f->j, "no argument '%.*s' for the format string", (int)(at < 60 ? at : 60), s);
		f->next += !at && f->next >= 0;
		if (at ? f->next > 0 : i < 0)
			jin_fail(f->j, "cannot switch between automatic and manual field numbering");
		if (at)
			f->next = -1;
		if (i < 0 || i >= f->a->n)
			jin_fail(f->j, "Replacement index %lld out of range for positional args tuple",
				(long long)i);
		v = f->a->v[i];
	} else if (!args_named(f->a, jin_printf(f->j, "%.*s", (int)at, s), &v)) {
		jin_fail(f->j, "no argument '%.*s' for the format string", (int)at, s);
	}
	while (at < len) {
		bool item = s[at++] == '[';
		struct val key;

		for (from = at; at < len && (item ? s[at] != ']' : s[at] != '.' && s[at] != '[');)
			at++;
		key = v_str(f->j, s + from, at - from);
		if (item) {
			struct val n = parse_int_text(f->j, key.s->s, key.s->len, 10, &ok);

			v = get_item(f->j, v, ok && *key.s->s != '-' ? n : key);
			at++;
		} else {
			v = get_attr(f->j, v, key);
		}
	}
	return v;
}

static void put_format(struct format *f, struct sbuf *b, const char *s, int64_t len, int depth);

/* What is between { and }: name!conversion:spec */
static void put_field(struct format *f, struct sbuf *b, const char *s, int64_t len, int depth)
{
	int64_t name = 0, at;
	struct sbuf spec = { 0 }, text = { 0 };
	struct val v;
	bool in = false;

	while (name < len && (in || (s[name] != '!' && s[name] != ':'))) {
		in = s[name] == '[' ? true : s[name] == ']' ? false : in;
		name++;
	}
	v = field_value(f, s, name);
	at = name;
	if (at < len && s[at] == '!') {
		if (at + 1 >= len || !strchr("rsa", s[at + 1]) || (at + 2 < len && s[at + 2] != ':'))
			jin_fail(f->j, "bad conversion in a format string");
		if (s[at + 1] == 's')
			put_str(f->j, &text, v);
		else
			put_repr(f->j, &text, v);
		v = sbuf_str(f->j, &text);
		at += 2;
	}
	if (at < len)
		put_format(f, &spec, s + at + 1, len - at - 1, depth + 1);
	if (v.t == T_UNDEF && spec.len)
		undef_fail(f->j, v);
	if (f->safe) {
		struct sbuf plain = { 0 };

		put_spec(f->j, &plain, v, spec.s ? spec.s : "", spec.len);
		put_str(f->j, b, v.t == T_STR && v.k ? sbuf_str(f->j, &plain) :
			str_escape(f->j, sbuf_str(f->j, &plain)));
		return;
	}
	put_spec(f->j, b, v, spec.s ? spec.s : "", spec.len);
}

static void put_format(struct format *f, struct sbuf *b, const char *s, int64_t len, int depth)
{
	if (depth > 2)
		jin_fail(f->j, "Max string recursion exceeded");
	for (int64_t at = 0; at < len;) {
		int64_t from = at;
		int open = 1;
		char c;

		while (at < len && s[at] != '{' && s[at] != '}')
			at++;
		sbuf_put(f->j, b, s + from, at - from);
		if (at >= len)
			return;
		c = s[at++];
		if (at < len && s[at] == c && depth == 1) {
			sbuf_put(f->j, b, &c, 1);
			at++;
			continue;
		}
		if (c == '}')
			jin_fail(f->j, "Single '}' encountered in format string");
		for (from = at; at < len && open; at++)
			open += s[at] == '{' ? 1 : s[at] == '}' ? -1 : 0;
		if (open)
			jin_fail(f->j, at == from ? "Single '{' encountered in format string" :
				"expected '}' before end of string");
		put_field(f, b, s + from, at - 1 - from, depth);
	}
}

struct val str_format(struct jin *j, struct val fmt, const struct args *a)
{
	struct format f = { j, a, 0, fmt.k };
	struct sbuf b = { 0 };

	put_format(&f, &b, fmt.s->s, fmt.s->len, 1);
	return v_safe(sbuf_str(j, &b), fmt.k);
}
