/* SPDX-License-Identifier: MIT */
/* jinja_num.c - operators: decides what + means between two values, and how text becomes a
 * number. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja.h"

#define EXACT ((int64_t)1 << 53) /* whole numbers up to it are doubles */

static const char *const op_text[] = { "+", "-", "*", "/", "//", "%", "** or pow()",
	"==", "!=", "<", "<=", ">", ">=", "in", "not in" };

static _Noreturn void overflow(struct jin *j)
{
	jin_fail(j, "a whole number beyond 64 bits: larger ones are not computed");
}

static int64_t floor_div(int64_t a, int64_t b, int64_t *mod)
{
	int64_t q = a / b, m = a % b;

	if (m && (m < 0) != (b < 0)) {
		q--;
		m += b;
	}
	*mod = m;
	return q;
}

/* A result that may need more than 64 bits: then it is kept as its digits. */
static struct val wide(struct jin *j, __int128 x)
{
	unsigned __int128 u = x < 0 ? -(unsigned __int128)x : (unsigned __int128)x;
	char text[48], *p = text + sizeof(text);
	struct val v;

	if (x >= INT64_MIN && x <= INT64_MAX)
		return v_int((int64_t)x);
	for (; u; u /= 10)
		*--p = (char)('0' + (int)(u % 10));
	if (x < 0)
		*--p = '-';
	v = v_copy(j, p, text + sizeof(text) - p);
	v.t = T_BIG;
	return v;
}

static struct val int_pow(struct jin *j, int64_t a, int64_t b)
{
	__int128 r = 1, x = a;

	if (b < 0) {
		if (!a)
			jin_fail(j, "0.0 cannot be raised to a negative power");
		return v_float(pow((double)a, (double)b));
	}
	while (b) {
		if ((b & 1) && __builtin_mul_overflow(r, x, &r))
			overflow(j);
		b >>= 1;
		if (b && __builtin_mul_overflow(x, x, &x))
			overflow(j);
	}
	return wide(j, r);
}

static struct val int_op(struct jin *j, int op, int64_t a, int64_t b)
{
	int64_t r = 0, m;

	if (!b && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
		jin_fail(j, op == OP_DIV ? "division by zero" : op == OP_MOD ?
			"integer modulo by zero" : "integer division or modulo by zero");
	switch (op) {
	case OP_ADD:
		return wide(j, (__int128)a + b);
	case OP_SUB:
		return wide(j, (__int128)a - b);
	case OP_MUL:
		return wide(j, (__int128)a * b);
	case OP_DIV:
		if (a >= -EXACT && a <= EXACT && b >= -EXACT && b <= EXACT)
			return v_float((double)a / (double)b); /* rounded once */
		return v_float((double)((long double)a / (long double)b));
	case OP_POW:
		return int_pow(j, a, b);
	default:
		if (b == -1 && a == INT64_MIN)
			return op == OP_FLOORDIV ? wide(j, -(__int128)a) : v_int(0);
		r = floor_div(a, b, &m);
		return v_int(op == OP_MOD ? m : r);
	}
}

static struct val float_op(struct jin *j, int op, double a, double b)
{
	double m;

	if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
		jin_fail(j, op == OP_DIV ? "float division by zero" : op == OP_MOD ? "float modulo" :
			"float floor division by zero");
	switch (op) {
	case OP_ADD:
		return v_float(a + b);
	case OP_SUB:
		return v_float(a - b);
	case OP_MUL:
		return v_float(a * b);
	case OP_DIV:
		return v_float(a / b);
	case OP_POW:
		if (a == 0 && b < 0)
			jin_fail(j, "0.0 cannot be raised to a negative power");
		if (a < 0 && b != floor(b) && !isinf(b))
			jin_fail(j, "a negative number to a fraction is no real number");
		m = pow(a, b);
		if (isinf(m) && !isinf(a) && !isinf(b))
			jin_fail(j, "Numerical result out of range");
		return v_float(m);
	default: /* as CPython's float_divmod */
		m = fmod(a, b);
		if (m != 0 && (b < 0) != (m < 0))
			m += b;
		else if (m == 0)
			m = copysign(0.0, b);
		if (op == OP_MOD)
			return v_float(m);
		a = (a - m) / b;
		b = floor(a);
		return v_float(a != 0 ? (a - b > 0.5 ? b + 1 : b) : copysign(0.0, a));
	}
}

static struct val list_join(struct jin *j, struct val a, struct val b)
{
	struct val out = v_list(j, a.t, a.l->n + b.l->n);

	jin_charge(j, (a.l->n + b.l->n) * 16);
	if (a.l->n)
		memcpy(out.l->v, a.l->v, (size_t)a.l->n * sizeof(*out.l->v));
	if (b.l->n)
		memcpy(out.l->v + a.l->n, b.l->v, (size_t)b.l->n * sizeof(*out.l->v));
	out.l->n = a.l->n + b.l->n;
	return out;
}

static struct val repeat(struct jin *j, struct val v, int64_t times)
{
	struct val out;
	int64_t n;

	times = times < 0 ? 0 : times;
	if (v.t == T_STR)
		return str_repeat(j, v, times);
	if (__builtin_mul_overflow(v.l->n, times, &n))
		n = INT64_MAX / 64;
	out = v_list(j, v.t, n);
	jin_charge(j, n * 16);
	for (int64_t i = 0; i < n; i++)
		out.l->v[i] = v.l->v[i % v.l->n];
	out.l->n = n;
	return out;
}

static bool is_seq(struct val v)
{
	return v.t == T_STR || v.t == T_LIST || v.t == T_TUPLE;
}

static _Noreturn void unsupported(struct jin *j, int op, struct val a, struct val b)
{
	if (op == OP_ADD && (a.t == T_STR || a.t == T_LIST || a.t == T_TUPLE))
		jin_fail(j, "can only concatenate %s (not \"%s\") to %s", v_type(a), v_type(b),
			v_type(a));
	if (op == OP_MUL && (is_seq(a) || is_seq(b)))
		jin_fail(j, "can't multiply sequence by non-int of type '%s'",
			v_type(is_seq(a) ? b : a));
	jin_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op], v_type(a),
		v_type(b));
}

static struct val str_add(struct jin *j, struct val a, struct val b)
{
	if (a.k != b.k) {
		a = str_escape(j, a);
		b = str_escape(j, b);
	}
	return str_concat(j, a, b);
}

struct val v_binary(struct jin *j, int op, struct val a, struct val b)
{
	int64_t x, y;

	if (op == OP_MOD && a.t == T_STR)
		return str_percent(j, a, b, NULL);
	if (a.t == T_UNDEF || b.t == T_UNDEF)
		undef_fail(j, a.t == T_UNDEF ? a : b);
	if (v_as_int(a, &x) && v_as_int(b, &y))
		return int_op(j, op, x, y);
	if (v_is_num(a) && v_is_num(b)) {
		if (a.t != T_FLOAT && b.t != T_FLOAT && op != OP_DIV)
			overflow(j);
		return float_op(j, op, v_num(j, a), v_num(j, b));
	}
	if (op == OP_ADD && a.t == T_STR && b.t == T_STR)
		return str_add(j, a, b);
	if (op == OP_ADD && a.t == b.t && (a.t == T_LIST || a.t == T_TUPLE))
		return list_join(j, a, b);
	if (op == OP_MUL && is_seq(a) && v_as_int(b, &y))
		return repeat(j, a, y);
	if (op == OP_MUL && is_seq(b) && v_as_int(a, &x))
		return repeat(j, b, x);
	unsupported(j, op, a, b);
}

struct val v_negate(struct jin *j, struct val v, bool plus)
{
	int64_t i;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_FLOAT)
		return v_float(plus ? v.f : -v.f);
	if (v.t == T_BIG && plus)
		return v;
	if (v.t == T_BIG)
		overflow(j);
	if (!v_as_int(v, &i))
		jin_fail(j, "bad operand type for unary %s: '%s'", plus ? "+" : "-", v_type(v));
	return plus ? v_int(i) : wide(j, -(__int128)i);
}

bool v_compare(struct jin *j, int op, struct val a, struct val b)
{
	switch (op) {
	case OP_EQ:
		return v_eq(j, a, b);
	case OP_NE:
		return !v_eq(j, a, b);
	case OP_LT:
		return v_less(j, a, b, "<");
	case OP_GT:
		return v_less(j, b, a, ">");
	case OP_LE:
		return v_less(j, a, b, "<=") || v_eq(j, a, b);
	case OP_GE:
		return v_less(j, b, a, ">=") || v_eq(j, a, b);
	case OP_IN:
		return v_in(j, a, b);
	default:
		return !v_in(j, a, b);
	}
}

static void trim_text(const char **s, int64_t *len)
{
	while (*len) {
		int64_t at = 0;

		if (!cp_space(cp_next(*s, *len, &at)))
			break;
		*s += at;
		*len -= at;
	}
	while (*len) {
		int64_t from = *len - 1, at;

		while (from && ((unsigned char)(*s)[from] & 0xC0) == 0x80)
			from--;
		at = from;
		if (!cp_space(cp_next(*s, *len, &at)))
			break;
		*len = from;
	}
}

static int digit_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 :
										  99;
}

/* int(text, base): a value of T_BIG where 64 bits are too few and the base is 10. */
struct val parse_int_text(struct jin *j, const char *s, int64_t len, int base, bool *ok)
{
	struct sbuf b = { 0 };
	bool negative = false, big = false, prefixed = false, last = false;
	int64_t r = 0, at = 0;

	*ok = false;
	trim_text(&s, &len);
	if (at < len && (s[at] == '-' || s[at] == '+'))
		negative = s[at++] == '-';
	if (len - at > 1 && s[at] == '0') {
		char c = s[at + 1] | 32;
		int of = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;

		if (of && (base == of || base == 0)) {
			base = of;
			at += 2;
			prefixed = true;
		}
	}
	prefixed = prefixed && at < len && s[at] == '_';
	at += prefixed;
	if (base == 0)
		base = 10;
	if (base < 2 || base > 36 || at >= len)
		return v_int(0);
	if (negative)
		sbuf_put(j, &b, "-", 1);
	for (; at < len; at++) {
		int d = digit_of(s[at]);

		if (s[at] == '_' && last && at + 1 < len) {
			last = false;
			continue;
		}
		if (d >= base)
			return v_int(0);
		last = true;
		big = big || __builtin_mul_overflow(r, base, &r) ||
			__builtin_add_overflow(r, negative ? -d : d, &r);
		if (base == 10 && (d || b.len > negative))
			sbuf_put(j, &b, s + at, 1);
	}
	*ok = last;
	if (!big)
		return v_int(r);
	if (base != 10)
		overflow(j);
	{
		struct val v = sbuf_str(j, &b);

		v.t = T_BIG;
		return v;
	}
}

/* float(text). The C locale's point is taken for granted. */
double parse_float_text(const char *s, int64_t len, bool *ok)
{
	static const char *const words[] = { "inf", "infinity", "nan" };
	char text[512];
	int64_t n = 0, at = 0;
	bool negative = false, digits = false;
	char *end;
	double f;

	*ok = false;
	trim_text(&s, &len);
	if (len >= (int64_t)sizeof(text)) {
		/* more digits than a double can see: what is beyond them does not count */
		for (int64_t i = 0; i < len; i++)
			if (!(s[i] >= '0' && s[i] <= '9') && !(i == 0 && s[i] == '-'))
				return 0;
		*ok = true;
		return *s == '-' ? -INFINITY : INFINITY;
	}
	if (at < len && (s[at] == '-' || s[at] == '+'))
		negative = s[at++] == '-';
	for (int i = 0; i < 3; i++) {
		if (len - at == (int64_t)strlen(words[i]) &&
			!strncasecmp(s + at, words[i], (size_t)(len - at))) {
			*ok = true;
			f = i == 2 ? (double)NAN : INFINITY;
			return negative ? -f : f;
		}
	}
	for (int64_t i = at; i < len; i++) {
		bool num = s[i] >= '0' && s[i] <= '9';

		digits |= num;
		if (s[i] == '_' && i > at && i + 1 < len && digit_of(s[i - 1]) < 10 &&
			digit_of(s[i + 1]) < 10)
			continue;
		if (!num && !strchr("+-.eE", s[i]))
			return 0;
		if (!s[i])
			return 0;
		text[n++] = s[i];
	}
	text[n] = 0;
	f = strtod(text, &end);
	*ok = n > 0 && digits && *end == 0 && text[0] != '-' && text[0] != '+';
	return negative ? -f : f;
}

struct val float_to_int(struct jin *j, double f)
{
	char text[400];
	struct val v;

	if (isnan(f) || isinf(f))
		jin_fail(j, "cannot convert float %s to integer", isnan(f) ? "NaN" : "infinity");
	if (f > -9.2e18 && f < 9.2e18)
		return v_int((int64_t)f);
	snprintf(text, sizeof(text), "%.0f", trunc(f));
	v = v_copy(j, text, (int64_t)strlen(text));
	v.t = T_BIG;
	return v;
}

/* round(value, digits): exact, halves to the even digit. */
struct val num_round(struct jin *j, struct val v, int64_t digits)
{
	char text[400];
	int64_t i, unit = 1, m;

	if (v_as_int(v, &i)) {
		if (digits >= 0)
			return v_int(i);
		if (digits < -18)
			return v_int(0);
		for (int64_t k = digits; k < 0; k++)
			unit *= 10;
		i = floor_div(i, unit, &m);
		i += m * 2 > unit || (m * 2 == unit && (i & 1));
		return int_op(j, OP_MUL, i, unit);
	}
	if (v.t != T_FLOAT)
		jin_fail(j, "type %s doesn't define __round__ method", v_type(v));
	if (isnan(v.f) || isinf(v.f) || digits > 330)
		return v;
	if (digits >= 0) {
		char *big = jin_alloc(j, 800);

		snprintf(big, 800, "%.*f", (int)digits, v.f);
		return v_float(strtod(big, NULL));
	}
	if (digits < -309)
		return v_float(copysign(0.0, v.f));
	snprintf(text, sizeof(text), "%.0f", fabs(v.f)); /* too short for what is to be kept? */
	i = (int64_t)strlen(text) + digits;
	if (i < 0)
		return v_float(copysign(0.0, v.f));
	if (i == 0) {
		double half = 5 * pow(10, (double)(-digits - 1));

		return v_float(copysign(fabs(v.f) > half ? half * 2 : 0, v.f));
	}
	snprintf(text, sizeof(text), "%.*e", (int)i - 1, v.f);
	return v_float(strtod(text, NULL));
}
