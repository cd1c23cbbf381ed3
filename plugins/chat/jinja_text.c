/* SPDX-License-Identifier: MIT */
/* jinja_text.c - how a value is written: Python's str() and repr(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja.h"
#include "utf8.h"

/* The digits of the shortest decimal that reads back as f: 0.DIGITS * 10^exponent. */
int float_digits(double f, char digits[24], int *exponent)
{
	char text[40];
	int n = 0;

	for (int prec = 0; prec < 17; prec++) {
		snprintf(text, sizeof(text), "%.*e", prec, fabs(f));
		if (strtod(text, NULL) == fabs(f))
			break;
	}
	for (const char *p = text; *p && *p != 'e'; p++)
		if (*p >= '0' && *p <= '9')
			digits[n++] = *p;
	*exponent = atoi(strchr(text, 'e') + 1) + 1;
	while (n > 1 && digits[n - 1] == '0')
		n--;
	digits[n] = 0;
	return n;
}

/* float.__repr__: an exponent below 1e-4 and from 1e16 on. */
void put_float(struct jin *j, struct sbuf *b, double f)
{
	char digits[24], tail[16];
	int n, e;

	if (isnan(f) || isinf(f)) {
		sbuf_puts(j, b, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
		return;
	}
	n = float_digits(f, digits, &e);
	if (signbit(f))
		sbuf_puts(j, b, "-");
	if (e > -4 && e <= 16) {
		if (e <= 0) {
			sbuf_puts(j, b, "0.");
			sbuf_fill(j, b, "0", 1, -e);
			sbuf_put(j, b, digits, n);
			return;
		}
		sbuf_put(j, b, digits, n < e ? n : e);
		sbuf_fill(j, b, "0", 1, e - n);
		sbuf_puts(j, b, ".");
		if (n > e)
			sbuf_put(j, b, digits + e, n - e);
		else
			sbuf_puts(j, b, "0");
		return;
	}
	sbuf_put(j, b, digits, 1);
	if (n > 1) {
		sbuf_puts(j, b, ".");
		sbuf_put(j, b, digits + 1, n - 1);
	}
	snprintf(tail, sizeof(tail), "e%c%02d", e - 1 < 0 ? '-' : '+', abs(e - 1));
	sbuf_puts(j, b, tail);
}

static void put_quoted(struct jin *j, struct sbuf *b, const struct str *s)
{
	bool one = memchr(s->s, '\'', (size_t)s->len), two = memchr(s->s, '"', (size_t)s->len);
	char quote = one && !two ? '"' : '\'';

	sbuf_put(j, b, &quote, 1);
	jin_charge(j, s->len * 16);
	for (int64_t i = 0; i < s->len;) {
		int64_t from = i;
		uint32_t c = cp_next(s->s, s->len, &i);
		char esc[12] = "";

		if (c == (uint32_t)quote || c == '\\')
			snprintf(esc, sizeof(esc), "\\%c", (char)c);
		else if (c == '\n' || c == '\r' || c == '\t')
			snprintf(esc, sizeof(esc), "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
		else if (c < 32 || c == 127 || (c > 127 && !cp_print(c)))
			snprintf(esc, sizeof(esc), c < 256 ? "\\x%02x" : c < 65536 ? "\\u%04x" :
				"\\U%08x", c);
		if (*esc)
			sbuf_puts(j, b, esc);
		else
			sbuf_put(j, b, s->s + from, i - from);
	}
	sbuf_put(j, b, &quote, 1);
}

static void put_seq(struct jin *j, struct sbuf *b, const struct list *l, bool tuple)
{
	sbuf_puts(j, b, tuple ? "(" : "[");
	for (int64_t i = 0; i < l->n; i++) {
		if (i)
			sbuf_puts(j, b, ", ");
		put_repr(j, b, l->v[i]);
	}
	sbuf_puts(j, b, tuple ? l->n == 1 ? ",)" : ")" : "]");
}

static void put_dict(struct jin *j, struct sbuf *b, const struct dict *d)
{
	sbuf_puts(j, b, "{");
	for (int64_t i = 0; i < d->n; i++) {
		if (i)
			sbuf_puts(j, b, ", ");
		put_repr(j, b, d->e[i].key);
		sbuf_puts(j, b, ": ");
		put_repr(j, b, d->e[i].v);
	}
	sbuf_puts(j, b, "}");
}

/* What has no text of its own: the type's name in the form of Python's. */
static void put_other(struct jin *j, struct sbuf *b, struct val v)
{
	if (v.t == T_SPACE) {
		sbuf_puts(j, b, "<Namespace ");
		put_dict(j, b, v.d);
		sbuf_puts(j, b, ">");
	} else if (v.t == T_MACRO) {
		sbuf_puts(j, b, "<Macro ");
		if (v.m->def->name)
			put_quoted(j, b, v.m->def->name);
		else
			sbuf_puts(j, b, "anonymous");
		sbuf_puts(j, b, ">");
	} else if (v.t == T_LOOP) {
		sbuf_puts(j, b, jin_printf(j, "<LoopContext %lld/%lld>",
			(long long)v.loop->index + 1, (long long)v_len(j, v)));
	} else {
		sbuf_puts(j, b, jin_printf(j, "<%s object>", v_type(v)));
	}
}

static void put_view(struct jin *j, struct sbuf *b, struct val v)
{
	sbuf_puts(j, b, v_type(v));
	sbuf_puts(j, b, "(");
	put_seq(j, b, v_to_list(j, v).l, false);
	sbuf_puts(j, b, ")");
}

void put_repr(struct jin *j, struct sbuf *b, struct val v)
{
	jin_step(j);
	jin_deeper(j);
	switch (v.t) {
	case T_UNDEF:
		sbuf_puts(j, b, "Undefined");
		break;
	case T_NONE:
		sbuf_puts(j, b, "None");
		break;
	case T_BOOL:
		sbuf_puts(j, b, v.b ? "True" : "False");
		break;
	case T_INT:
		sbuf_puts(j, b, jin_printf(j, "%lld", (long long)v.i));
		break;
	case T_BIG:
		sbuf_put(j, b, v.s->s, v.s->len);
		break;
	case T_FLOAT:
		put_float(j, b, v.f);
		break;
	case T_STR:
		if (v.k)
			sbuf_puts(j, b, "Markup(");
		put_quoted(j, b, v.s);
		if (v.k)
			sbuf_puts(j, b, ")");
		break;
	case T_LIST:
	case T_TUPLE:
		put_seq(j, b, v.l, v.t == T_TUPLE);
		break;
	case T_DICT:
		put_dict(j, b, v.d);
		break;
	case T_VIEW:
		put_view(j, b, v);
		break;
	case T_RANGE:
		sbuf_puts(j, b, jin_printf(j, v.r->step == 1 ? "range(%lld, %lld)" :
			"range(%lld, %lld, %lld)", (long long)v.r->start, (long long)v.r->stop,
			(long long)v.r->step));
		break;
	default:
		put_other(j, b, v);
	}
	j->depth--;
}

void put_str(struct jin *j, struct sbuf *b, struct val v)
{
	if (v.t == T_STR)
		sbuf_put(j, b, v.s->s, v.s->len);
	else if (v.t != T_UNDEF)
		put_repr(j, b, v);
}

struct val v_to_str(struct jin *j, struct val v)
{
	struct sbuf b = { 0 };

	if (v.t == T_STR)
		return v;
	put_str(j, &b, v);
	return sbuf_str(j, &b);
}

const char *v_repr(struct jin *j, struct val v)
{
	struct sbuf b = { 0 };
	int64_t n;

	put_repr(j, &b, v);
	n = b.len < 200 ? b.len : 200;
	return jin_printf(j, "%.*s", (int)n, b.s ? b.s : "");
}
