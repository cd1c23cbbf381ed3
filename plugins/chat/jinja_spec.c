/* SPDX-License-Identifier: MIT */
/* jinja_spec.c - one value in a given width, precision and form: what "%5.2f" and "{:>5.2f}"
 * share. Digits come from printf, whose rounding is Python's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja.h"
#include "utf8.h"

#define MAX_PRECISION 1000

/* text in width characters; align: where the spec says nothing. '=': behind the sign. */
void put_padded(struct jin *j, struct sbuf *b, const char *s, int64_t len, const struct spec *f, char align)
{
	int64_t pad = f->width - utf8_count(s, len), left = 0;
	char fill[4];
	int64_t n = (int64_t)utf8_encode(f->fill ? f->fill : ' ', fill);

	align = f->align ? f->align : align;
	if (pad < 0)
		pad = 0;
	if (align == '=') {
		int64_t sign = len && (*s == '-' || *s == '+' || *s == ' ');

		if (len - sign > 1 && s[sign] == '0' && strchr("xXobB", s[sign + 1]) && s[sign + 1])
			sign += 2;
		sbuf_put(j, b, s, sign);
		sbuf_fill(j, b, fill, n, pad);
		sbuf_put(j, b, s + sign, len - sign);
		return;
	}
	left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
	sbuf_fill(j, b, fill, n, left);
	sbuf_put(j, b, s, len);
	sbuf_fill(j, b, fill, n, pad - left);
}

/* 1234567 -> 1,234,567 */
static const char *grouped(struct jin *j, const char *s, char group, int64_t each, int64_t *len)
{
	struct sbuf b = { 0 };
	int64_t sign = *s == '-' || *s == '+' || *s == ' ', end = sign;

	while (end < *len && ((s[end] >= '0' && s[end] <= '9') || (each == 4 && s[end] >= 'A')))
		end++;
	sbuf_put(j, &b, s, sign);
	for (int64_t i = sign; i < end; i++) {
		if (i > sign && (end - i) % each == 0)
			sbuf_put(j, &b, &group, 1);
		sbuf_put(j, &b, s + i, 1);
	}
	sbuf_put(j, &b, s + end, *len - end);
	*len = b.len;
	return b.s;
}

static void put_number(struct jin *j, struct sbuf *b, const char *s, int64_t len, struct spec f)
{
	if (f.group)
		s = grouped(j, s, f.group, f.group == '_' && f.type && strchr("xXob", f.type) ? 4 : 3,
			&len);
	if (f.zero && !f.align) {
		f.align = '=';
		f.fill = f.fill ? f.fill : '0';
	}
	put_padded(j, b, s, len, &f, '>');
}

static const char *sign_of(bool negative, const struct spec *f)
{
	return negative ? "-" : f->sign == '+' ? "+" : f->sign == ' ' ? " " : "";
}

/* repr of a float with a given precision missing, or the form of 'g' that keeps a point. */
static void put_plain_float(struct jin *j, struct sbuf *b, double v, const struct spec *f)
{
	char text[64];

	if (f->prec < 0) {
		put_float(j, b, v);
		return;
	}
	if (v != 0 && (fabs(v) < 1e-4 || fabs(v) >= pow(10, (double)(f->prec > 1 ? f->prec - 1 : 0)))) {
		snprintf(text, sizeof(text), "%.*e", (int)(f->prec > 17 ? 17 : f->prec > 1 ? f->prec - 1 : 0), v);
		if (f->prec <= 17) {
			char *e = strchr(text, 'e'), *end = e;

			while (strchr(text, '.') && end > text && end[-1] == '0')
				end--;
			end -= end > text && end[-1] == '.';
			sbuf_put(j, b, text, end - text);
			sbuf_puts(j, b, e);
			return;
		}
	}
	snprintf(text, sizeof(text), "%.*g", (int)(f->prec ? f->prec > 17 ? 17 : f->prec : 1), v);
	sbuf_puts(j, b, text);
	if (!strpbrk(text, ".e"))
		sbuf_puts(j, b, ".0");
}

void put_float_spec(struct jin *j, struct sbuf *b, double v, const struct spec *f)
{
	char fmt[8] = "%#.*", type = f->type ? f->type : 'r';
	int64_t prec = f->prec < 0 ? 6 : f->prec;
	struct sbuf t = { 0 };
	double a = fabs(v);
	char *text;

	if (prec > MAX_PRECISION)
		jin_fail(j, "a precision of more than %d digits", MAX_PRECISION);
	sbuf_puts(j, &t, sign_of(signbit(v) && !isnan(v), f));
	if (isnan(v) || isinf(v)) {
		bool upper = type == 'F' || type == 'E' || type == 'G';

		sbuf_puts(j, &t, isnan(v) ? upper ? "NAN" : "nan" : upper ? "INF" : "inf");
		if (type == '%')
			sbuf_puts(j, &t, "%");
	} else if (type == 'r') {
		put_plain_float(j, &t, a, f);
	} else {
		int n;

		text = jin_alloc(j, (size_t)prec + 400);
		if (type == '%')
			a *= 100;
		snprintf(fmt, sizeof(fmt), "%%%s.*%c", f->alt ? "#" : "",
			type == '%' ? 'f' : type == 'n' ? 'g' : type);
		n = snprintf(text, (size_t)prec + 400, fmt, (int)prec, a);
		sbuf_put(j, &t, text, n);
		if (type == '%')
			sbuf_puts(j, &t, "%");
	}
	put_number(j, b, t.s, t.len, *f);
}

void put_int_spec(struct jin *j, struct sbuf *b, struct val v, const struct spec *f)
{
	struct sbuf t = { 0 };
	char text[80];
	int64_t i = 0, n = 0, zeros;
	uint64_t u;
	bool negative;

	if (v.t == T_BIG) {
		if (f->type && f->type != 'd')
			jin_fail(j, "a whole number beyond 64 bits: larger ones are not computed");
		negative = *v.s->s == '-';
		sbuf_puts(j, &t, sign_of(negative, f));
		sbuf_put(j, &t, v.s->s + negative, v.s->len - negative);
		put_number(j, b, t.s, t.len, *f);
		return;
	}
	v_as_int(v, &i);
	negative = i < 0;
	u = negative ? 0 - (uint64_t)i : (uint64_t)i;
	sbuf_puts(j, &t, sign_of(negative, f));
	if (f->type == 'b') {
		do
			text[sizeof(text) - ++n] = (char)('0' + (u & 1));
		while (u >>= 1);
		memmove(text, text + sizeof(text) - n, (size_t)n);
	} else {
		n = snprintf(text, sizeof(text), f->type == 'x' ? "%llx" : f->type == 'X' ? "%llX" :
			f->type == 'o' ? "%llo" : "%llu", (unsigned long long)u);
	}
	if (f->alt && f->type && strchr("xXob", f->type))
		sbuf_puts(j, &t, f->type == 'x' ? "0x" : f->type == 'X' ? "0X" : f->type == 'o' ? "0o" : "0b");
	zeros = f->prec > n ? f->prec - n : 0;
	if (zeros > MAX_PRECISION)
		jin_fail(j, "a precision of more than %d digits", MAX_PRECISION);
	sbuf_fill(j, &t, "0", 1, zeros);
	sbuf_put(j, &t, text, n);
	put_number(j, b, t.s, t.len, *f);
}

static void bad_spec(struct jin *j, const char *spec, int64_t len, struct val v)
{
	jin_fail(j, "Invalid format specifier '%.*s' for object of type '%s'",
		(int)(len < 60 ? len : 60), spec, v_type(v));
}

static int64_t spec_number(struct jin *j, const char *s, int64_t len, int64_t *at)
{
	int64_t n = 0;

	for (; *at < len && s[*at] >= '0' && s[*at] <= '9'; ++*at) {
		n = n * 10 + (s[*at] - '0');
		if (n > INT32_MAX)
			jin_fail(j, "Too many decimal digits in format string");
	}
	return n;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static struct spec parse_spec(struct jin *j, const char *s, int64_t len, struct val v)
{
	struct spec f = { .prec = -1 };
	int64_t at = 0, next = 0;

	if (len)
		cp_next(s, len, &next);
	if (next < len && s[next] && strchr("<>=^", s[next])) {
		f.fill = cp_next(s, len, &at);
		f.align = s[at++];
	} else if (at < len && s[at] && strchr("<>=^", s[at])) {
		f.align = s[at++];
	}
	if (at < len && s[at] && strchr("+- ", s[at]))
		f.sign = s[at++];
	if (at < len && s[at] == '#')
		f.alt = s[at++];
	if (at < len && s[at] == '0')
		f.zero = s[at++];
	f.width = spec_number(j, s, len, &at);
	if (at < len && (s[at] == ',' || s[at] == '_'))
		f.group = s[at++];
	if (at < len && s[at] == '.') {
		next = ++at;
		f.prec = spec_number(j, s, len, &at);
		if (next == at)
			jin_fail(j, "Format specifier missing precision");
	}
	if (at < len)
		f.type = s[at++];
	if (at < len)
		bad_spec(j, s, len, v);
	return f;
}

/* format(v, spec) */
void put_spec(struct jin *j, struct sbuf *b, struct val v, const char *spec, int64_t len)
{
	struct spec f;
	char cp[4];

	if (!len) {
		put_str(j, b, v);
		return;
	}
	f = parse_spec(j, spec, len, v);
	if (v.t == T_STR) {
		if ((f.type && f.type != 's') || f.sign || f.alt || f.align == '=')
			bad_spec(j, spec, len, v);
		if (f.zero && !f.fill)
			f.fill = '0';
		if (f.prec >= 0 && f.prec < v.s->n)
			v = str_sub(j, v, 0, f.prec);
		put_padded(j, b, v.s->s, v.s->len, &f, '<');
	} else if (v.t == T_FLOAT || (v_is_num(v) && f.type && strchr("eEfFgG%", f.type))) {
		if (f.type && !strchr("eEfFgGn%", f.type))
			jin_fail(j, "Unknown format code '%c' for object of type 'float'", f.type);
		put_float_spec(j, b, v_num(j, v), &f);
	} else if (v_is_num(v)) {
		if (f.type == 'c') {
			int64_t i, n = 0;

			if (v_as_int(v, &i) && i >= 0 && i <= 0x10FFFF)
				n = (int64_t)utf8_encode((uint32_t)i, cp);
			if (!n)
				jin_fail(j, "%%c arg is no character");
			put_padded(j, b, cp, n, &f, '<');
			return;
		}
		if (f.prec >= 0)
			jin_fail(j, "Precision not allowed in integer format specifier");
		if (f.type && !strchr("bdoxXn", f.type))
			jin_fail(j, "Unknown format code '%c' for object of type 'int'", f.type);
		put_int_spec(j, b, v, &f);
	} else {
		jin_fail(j, "unsupported format string passed to %s.__format__", v_type(v));
	}
}
