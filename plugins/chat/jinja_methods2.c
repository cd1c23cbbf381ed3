/* SPDX-License-Identifier: MIT */
/* jinja_methods2.c - methods of strings, second half: case, padding, what they are made of. */
#include <string.h>

#include "jinja.h"

#define METHOD(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

METHOD(m_lower)      { return str_case(j, v, CASE_LOWER); }
METHOD(m_upper)      { return str_case(j, v, CASE_UPPER); }
METHOD(m_title)      { return str_case(j, v, CASE_TITLE); }
METHOD(m_capitalize) { return str_case(j, v, CASE_CAPITAL); }
METHOD(m_swapcase)   { return str_case(j, v, CASE_SWAP); }
METHOD(m_casefold)   { return str_case(j, v, CASE_FOLD); }

/* width fillchar; side: 'l' the text is left, 'r' right, 'c' in the middle */
static struct val pad(struct jin *j, struct val v, const struct val *arg, char side)
{
	int64_t width = v_need_int(j, arg[0]), all = width > v.s->n ? width - v.s->n : 0, left;
	struct val fill = arg[1].t == T_ABSENT ? v_text(j, " ") : arg[1];
	struct sbuf b = { 0 };

	if (fill.t != T_STR || fill.s->n != 1)
		jin_fail(j, "The fill character must be exactly one character long");
	/* str.center puts the odd one left where the width is odd too */
	left = side == 'l' ? 0 : side == 'r' ? all : all / 2 + (all & width & 1);
	sbuf_fill(j, &b, fill.s->s, fill.s->len, left);
	sbuf_put(j, &b, v.s->s, v.s->len);
	sbuf_fill(j, &b, fill.s->s, fill.s->len, all - left);
	return v_safe(sbuf_str(j, &b), v.k);
}

METHOD(m_ljust)  { return pad(j, v, arg, 'l'); }
METHOD(m_rjust)  { return pad(j, v, arg, 'r'); }
METHOD(m_center) { return pad(j, v, arg, 'c'); }

METHOD(m_zfill)
{
	int64_t width = v_need_int(j, arg[0]), zeros = width > v.s->n ? width - v.s->n : 0;
	bool sign = v.s->len && (*v.s->s == '-' || *v.s->s == '+');
	struct sbuf b = { 0 };

	sbuf_put(j, &b, v.s->s, sign);
	sbuf_fill(j, &b, "0", 1, zeros);
	sbuf_put(j, &b, v.s->s + sign, v.s->len - sign);
	return v_safe(sbuf_str(j, &b), v.k);
}

METHOD(m_expandtabs)
{
	int64_t size = arg[0].t == T_ABSENT ? 8 : v_need_int(j, arg[0]), column = 0;
	struct sbuf b = { 0 };

	jin_charge(j, v.s->len);
	for (int64_t i = 0; i < v.s->len;) {
		int64_t from = i;
		uint32_t c = cp_next(v.s->s, v.s->len, &i);

		if (c == '\t') {
			int64_t n = size > 0 ? size - column % size : 0;

			sbuf_fill(j, &b, " ", 1, n);
			column += n;
			continue;
		}
		sbuf_put(j, &b, v.s->s + from, i - from);
		column = c == '\n' || c == '\r' ? 0 : column + 1;
	}
	return v_safe(sbuf_str(j, &b), v.k);
}

/* Is each character one of these, and is there any? */
static struct val all_are(struct jin *j, struct val v, bool (*is)(uint32_t))
{
	jin_charge(j, v.s->len * 64);
	for (int64_t i = 0; i < v.s->len;)
		if (!is(cp_next(v.s->s, v.s->len, &i)))
			return v_false;
	return v_bool(v.s->len > 0);
}

static bool is_alpha(uint32_t c)   { return cp_is(c, CP_ALPHA); }
static bool is_decimal(uint32_t c) { return cp_is(c, CP_DECIMAL); }
static bool is_digit(uint32_t c)   { return cp_is(c, CP_DIGIT); }
static bool is_numeric(uint32_t c) { return cp_is(c, CP_NUMERIC); }
static bool is_alnum(uint32_t c)   { return c != '_' && cp_word(c); }
static bool is_ascii(uint32_t c)   { return c < 128; }

METHOD(m_isalpha)     { return all_are(j, v, is_alpha); }
METHOD(m_isdecimal)   { return all_are(j, v, is_decimal); }
METHOD(m_isdigit)     { return all_are(j, v, is_digit); }
METHOD(m_isnumeric)   { return all_are(j, v, is_numeric); }
METHOD(m_isalnum)     { return all_are(j, v, is_alnum); }
METHOD(m_isspace)     { return all_are(j, v, cp_space); }
METHOD(m_isprintable) { return v.s->len ? all_are(j, v, cp_print) : v_true; }
METHOD(m_isascii)     { return v.s->len ? all_are(j, v, is_ascii) : v_true; }

METHOD(m_islower)
{
	return find_builtin(jin_tests, "lower", 5)->fn(j, v, arg, a);
}

METHOD(m_isupper)
{
	return find_builtin(jin_tests, "upper", 5)->fn(j, v, arg, a);
}

METHOD(m_isidentifier)
{
	uint32_t first;
	int64_t at = 0;

	if (!v.s->len)
		return v_false;
	first = cp_next(v.s->s, v.s->len, &at);
	return v_bool((first == '_' || cp_is(first, CP_ALPHA)) && v_true_of(j, all_are(j, v, cp_word)));
}

METHOD(m_istitle)
{
	bool before = false, any = false;

	jin_charge(j, v.s->len * 64);
	for (int64_t i = 0; i < v.s->len;) {
		uint32_t c = cp_next(v.s->s, v.s->len, &i);
		bool up = cp_is(c, CP_UPPER) || cp_is(c, CP_TITLE), low = cp_is(c, CP_LOWER);

		if ((up && before) || (low && !before))
			return v_false;
		any = any || up || low;
		before = up || low;
	}
	return v_bool(any);
}

const struct builtin jin_str_methods2[] = {
	{ "lower", "", 0, m_lower }, { "upper", "", 0, m_upper }, { "title", "", 0, m_title },
	{ "capitalize", "", 0, m_capitalize }, { "swapcase", "", 0, m_swapcase },
	{ "casefold", "", 0, m_casefold }, { "ljust", "width fillchar", 1, m_ljust },
	{ "rjust", "width fillchar", 1, m_rjust }, { "center", "width fillchar", 1, m_center },
	{ "zfill", "width", 1, m_zfill }, { "expandtabs", "tabsize", 0, m_expandtabs },
	{ "isalpha", "", 0, m_isalpha }, { "isdecimal", "", 0, m_isdecimal },
	{ "isdigit", "", 0, m_isdigit }, { "isnumeric", "", 0, m_isnumeric },
	{ "isalnum", "", 0, m_isalnum }, { "isspace", "", 0, m_isspace },
	{ "isprintable", "", 0, m_isprintable }, { "isascii", "", 0, m_isascii },
	{ "islower", "", 0, m_islower }, { "isupper", "", 0, m_isupper },
	{ "istitle", "", 0, m_istitle }, { "isidentifier", "", 0, m_isidentifier },
	{ NULL },
};
