/* SPDX-License-Identifier: MIT */
/* jinja_case.c - what a character is, and upper and lower case: as Python's, whose case maps
 * are the full ones of Unicode (one character may become three). utf8proc has the simple
 * ones; the rest is the table below, from SpecialCasing.txt of Unicode 14. */
#include <string.h>

#include <utf8proc.h>

#include "jinja.h"
#include "utf8.h"

static const struct special {
	uint32_t cp;
	const char *upper, *title;
} specials[] = {
	{ 0xDF, "\x53\x53", "\x53\x73" }, { 0x149, "\xCA\xBC\x4E", "\xCA\xBC\x4E" },
	{ 0x1F0, "\x4A\xCC\x8C", "\x4A\xCC\x8C" },
	{ 0x390, "\xCE\x99\xCC\x88\xCC\x81", "\xCE\x99\xCC\x88\xCC\x81" },
	{ 0x3B0, "\xCE\xA5\xCC\x88\xCC\x81", "\xCE\xA5\xCC\x88\xCC\x81" },
	{ 0x587, "\xD4\xB5\xD5\x92", "\xD4\xB5\xD6\x82" },
	{ 0x1E96, "\x48\xCC\xB1", "\x48\xCC\xB1" }, { 0x1E97, "\x54\xCC\x88", "\x54\xCC\x88" },
	{ 0x1E98, "\x57\xCC\x8A", "\x57\xCC\x8A" }, { 0x1E99, "\x59\xCC\x8A", "\x59\xCC\x8A" },
	{ 0x1E9A, "\x41\xCA\xBE", "\x41\xCA\xBE" },
	{ 0x1F50, "\xCE\xA5\xCC\x93", "\xCE\xA5\xCC\x93" },
	{ 0x1F52, "\xCE\xA5\xCC\x93\xCC\x80", "\xCE\xA5\xCC\x93\xCC\x80" },
	{ 0x1F54, "\xCE\xA5\xCC\x93\xCC\x81", "\xCE\xA5\xCC\x93\xCC\x81" },
	{ 0x1F56, "\xCE\xA5\xCC\x93\xCD\x82", "\xCE\xA5\xCC\x93\xCD\x82" },
	{ 0x1F80, "\xE1\xBC\x88\xCE\x99", "\xE1\xBE\x88" },
	{ 0x1F81, "\xE1\xBC\x89\xCE\x99", "\xE1\xBE\x89" },
	{ 0x1F82, "\xE1\xBC\x8A\xCE\x99", "\xE1\xBE\x8A" },
	{ 0x1F83, "\xE1\xBC\x8B\xCE\x99", "\xE1\xBE\x8B" },
	{ 0x1F84, "\xE1\xBC\x8C\xCE\x99", "\xE1\xBE\x8C" },
	{ 0x1F85, "\xE1\xBC\x8D\xCE\x99", "\xE1\xBE\x8D" },
	{ 0x1F86, "\xE1\xBC\x8E\xCE\x99", "\xE1\xBE\x8E" },
	{ 0x1F87, "\xE1\xBC\x8F\xCE\x99", "\xE1\xBE\x8F" },
	{ 0x1F88, "\xE1\xBC\x88\xCE\x99", "\xE1\xBE\x88" },
	{ 0x1F89, "\xE1\xBC\x89\xCE\x99", "\xE1\xBE\x89" },
	{ 0x1F8A, "\xE1\xBC\x8A\xCE\x99", "\xE1\xBE\x8A" },
	{ 0x1F8B, "\xE1\xBC\x8B\xCE\x99", "\xE1\xBE\x8B" },
	{ 0x1F8C, "\xE1\xBC\x8C\xCE\x99", "\xE1\xBE\x8C" },
	{ 0x1F8D, "\xE1\xBC\x8D\xCE\x99", "\xE1\xBE\x8D" },
	{ 0x1F8E, "\xE1\xBC\x8E\xCE\x99", "\xE1\xBE\x8E" },
	{ 0x1F8F, "\xE1\xBC\x8F\xCE\x99", "\xE1\xBE\x8F" },
	{ 0x1F90, "\xE1\xBC\xA8\xCE\x99", "\xE1\xBE\x98" },
	{ 0x1F91, "\xE1\xBC\xA9\xCE\x99", "\xE1\xBE\x99" },
	{ 0x1F92, "\xE1\xBC\xAA\xCE\x99", "\xE1\xBE\x9A" },
	{ 0x1F93, "\xE1\xBC\xAB\xCE\x99", "\xE1\xBE\x9B" },
	{ 0x1F94, "\xE1\xBC\xAC\xCE\x99", "\xE1\xBE\x9C" },
	{ 0x1F95, "\xE1\xBC\xAD\xCE\x99", "\xE1\xBE\x9D" },
	{ 0x1F96, "\xE1\xBC\xAE\xCE\x99", "\xE1\xBE\x9E" },
	{ 0x1F97, "\xE1\xBC\xAF\xCE\x99", "\xE1\xBE\x9F" },
	{ 0x1F98, "\xE1\xBC\xA8\xCE\x99", "\xE1\xBE\x98" },
	{ 0x1F99, "\xE1\xBC\xA9\xCE\x99", "\xE1\xBE\x99" },
	{ 0x1F9A, "\xE1\xBC\xAA\xCE\x99", "\xE1\xBE\x9A" },
	{ 0x1F9B, "\xE1\xBC\xAB\xCE\x99", "\xE1\xBE\x9B" },
	{ 0x1F9C, "\xE1\xBC\xAC\xCE\x99", "\xE1\xBE\x9C" },
	{ 0x1F9D, "\xE1\xBC\xAD\xCE\x99", "\xE1\xBE\x9D" },
	{ 0x1F9E, "\xE1\xBC\xAE\xCE\x99", "\xE1\xBE\x9E" },
	{ 0x1F9F, "\xE1\xBC\xAF\xCE\x99", "\xE1\xBE\x9F" },
	{ 0x1FA0, "\xE1\xBD\xA8\xCE\x99", "\xE1\xBE\xA8" },
	{ 0x1FA1, "\xE1\xBD\xA9\xCE\x99", "\xE1\xBE\xA9" },
	{ 0x1FA2, "\xE1\xBD\xAA\xCE\x99", "\xE1\xBE\xAA" },
	{ 0x1FA3, "\xE1\xBD\xAB\xCE\x99", "\xE1\xBE\xAB" },
	{ 0x1FA4, "\xE1\xBD\xAC\xCE\x99", "\xE1\xBE\xAC" },
	{ 0x1FA5, "\xE1\xBD\xAD\xCE\x99", "\xE1\xBE\xAD" },
	{ 0x1FA6, "\xE1\xBD\xAE\xCE\x99", "\xE1\xBE\xAE" },
	{ 0x1FA7, "\xE1\xBD\xAF\xCE\x99", "\xE1\xBE\xAF" },
	{ 0x1FA8, "\xE1\xBD\xA8\xCE\x99", "\xE1\xBE\xA8" },
	{ 0x1FA9, "\xE1\xBD\xA9\xCE\x99", "\xE1\xBE\xA9" },
	{ 0x1FAA, "\xE1\xBD\xAA\xCE\x99", "\xE1\xBE\xAA" },
	{ 0x1FAB, "\xE1\xBD\xAB\xCE\x99", "\xE1\xBE\xAB" },
	{ 0x1FAC, "\xE1\xBD\xAC\xCE\x99", "\xE1\xBE\xAC" },
	{ 0x1FAD, "\xE1\xBD\xAD\xCE\x99", "\xE1\xBE\xAD" },
	{ 0x1FAE, "\xE1\xBD\xAE\xCE\x99", "\xE1\xBE\xAE" },
	{ 0x1FAF, "\xE1\xBD\xAF\xCE\x99", "\xE1\xBE\xAF" },
	{ 0x1FB2, "\xE1\xBE\xBA\xCE\x99", "\xE1\xBE\xBA\xCD\x85" },
	{ 0x1FB3, "\xCE\x91\xCE\x99", "\xE1\xBE\xBC" },
	{ 0x1FB4, "\xCE\x86\xCE\x99", "\xCE\x86\xCD\x85" },
	{ 0x1FB6, "\xCE\x91\xCD\x82", "\xCE\x91\xCD\x82" },
	{ 0x1FB7, "\xCE\x91\xCD\x82\xCE\x99", "\xCE\x91\xCD\x82\xCD\x85" },
	{ 0x1FBC, "\xCE\x91\xCE\x99", "\xE1\xBE\xBC" },
	{ 0x1FC2, "\xE1\xBF\x8A\xCE\x99", "\xE1\xBF\x8A\xCD\x85" },
	{ 0x1FC3, "\xCE\x97\xCE\x99", "\xE1\xBF\x8C" },
	{ 0x1FC4, "\xCE\x89\xCE\x99", "\xCE\x89\xCD\x85" },
	{ 0x1FC6, "\xCE\x97\xCD\x82", "\xCE\x97\xCD\x82" },
	{ 0x1FC7, "\xCE\x97\xCD\x82\xCE\x99", "\xCE\x97\xCD\x82\xCD\x85" },
	{ 0x1FCC, "\xCE\x97\xCE\x99", "\xE1\xBF\x8C" },
	{ 0x1FD2, "\xCE\x99\xCC\x88\xCC\x80", "\xCE\x99\xCC\x88\xCC\x80" },
	{ 0x1FD3, "\xCE\x99\xCC\x88\xCC\x81", "\xCE\x99\xCC\x88\xCC\x81" },
	{ 0x1FD6, "\xCE\x99\xCD\x82", "\xCE\x99\xCD\x82" },
	{ 0x1FD7, "\xCE\x99\xCC\x88\xCD\x82", "\xCE\x99\xCC\x88\xCD\x82" },
	{ 0x1FE2, "\xCE\xA5\xCC\x88\xCC\x80", "\xCE\xA5\xCC\x88\xCC\x80" },
	{ 0x1FE3, "\xCE\xA5\xCC\x88\xCC\x81", "\xCE\xA5\xCC\x88\xCC\x81" },
	{ 0x1FE4, "\xCE\xA1\xCC\x93", "\xCE\xA1\xCC\x93" },
	{ 0x1FE6, "\xCE\xA5\xCD\x82", "\xCE\xA5\xCD\x82" },
	{ 0x1FE7, "\xCE\xA5\xCC\x88\xCD\x82", "\xCE\xA5\xCC\x88\xCD\x82" },
	{ 0x1FF2, "\xE1\xBF\xBA\xCE\x99", "\xE1\xBF\xBA\xCD\x85" },
	{ 0x1FF3, "\xCE\xA9\xCE\x99", "\xE1\xBF\xBC" },
	{ 0x1FF4, "\xCE\x8F\xCE\x99", "\xCE\x8F\xCD\x85" },
	{ 0x1FF6, "\xCE\xA9\xCD\x82", "\xCE\xA9\xCD\x82" },
	{ 0x1FF7, "\xCE\xA9\xCD\x82\xCE\x99", "\xCE\xA9\xCD\x82\xCD\x85" },
	{ 0x1FFC, "\xCE\xA9\xCE\x99", "\xE1\xBF\xBC" }, { 0xFB00, "\x46\x46", "\x46\x66" },
	{ 0xFB01, "\x46\x49", "\x46\x69" }, { 0xFB02, "\x46\x4C", "\x46\x6C" },
	{ 0xFB03, "\x46\x46\x49", "\x46\x66\x69" }, { 0xFB04, "\x46\x46\x4C", "\x46\x66\x6C" },
	{ 0xFB05, "\x53\x54", "\x53\x74" }, { 0xFB06, "\x53\x54", "\x53\x74" },
	{ 0xFB13, "\xD5\x84\xD5\x86", "\xD5\x84\xD5\xB6" },
	{ 0xFB14, "\xD5\x84\xD4\xB5", "\xD5\x84\xD5\xA5" },
	{ 0xFB15, "\xD5\x84\xD4\xBB", "\xD5\x84\xD5\xAB" },
	{ 0xFB16, "\xD5\x8E\xD5\x86", "\xD5\x8E\xD5\xB6" },
	{ 0xFB17, "\xD5\x84\xD4\xBD", "\xD5\x84\xD5\xAD" },
};

/* The character at *at, which moves on; never beyond len. */
uint32_t cp_next(const char *s, int64_t len, int64_t *at)
{
	uint32_t cp = (unsigned char)s[*at];
	size_t n;

	if (cp < 0x80) {
		*at += 1;
		return cp;
	}
	n = utf8_decode(s + *at, (size_t)(len - *at), &cp);
	*at += n ? (int64_t)n : 1;
	return n ? cp : 0xFFFD;
}

/* str.isspace */
bool cp_space(uint32_t c)
{
	return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 ||
		c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
		c == 0x202F || c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
	return utf8proc_category((utf8proc_int32_t)c);
}

bool cp_is(uint32_t c, enum cp_class k)
{
	utf8proc_category_t cat = category(c);

	switch (k) {
	case CP_ALPHA:
		return cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO;
	case CP_DECIMAL:
		return cat == UTF8PROC_CATEGORY_ND;
	case CP_DIGIT: /* and superscripts, subscripts, circled ones */
		return cat == UTF8PROC_CATEGORY_ND || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
			c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
			(c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247C) ||
			(c >= 0x2488 && c <= 0x2490);
	case CP_NUMERIC:
		return cat >= UTF8PROC_CATEGORY_ND && cat <= UTF8PROC_CATEGORY_NO;
	case CP_LOWER:
		return cat == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA ||
			(c >= 0x24D0 && c <= 0x24E9) || (c >= 0x2170 && c <= 0x217F);
	case CP_UPPER:
		return cat == UTF8PROC_CATEGORY_LU || (c >= 0x24B6 && c <= 0x24CF) ||
			(c >= 0x2160 && c <= 0x216F);
	case CP_TITLE:
		return cat == UTF8PROC_CATEGORY_LT;
	case CP_CASED:
		return cp_is(c, CP_LOWER) || cp_is(c, CP_UPPER) || cp_is(c, CP_TITLE);
	}
	return false;
}

bool cp_word(uint32_t c)
{
	if (c < 0x80)
		return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
	return cp_is(c, CP_ALPHA) || cp_is(c, CP_NUMERIC);
}

/* str.isprintable */
bool cp_print(uint32_t c)
{
	utf8proc_category_t cat = category(c);

	return c == ' ' || (cat != UTF8PROC_CATEGORY_CN && cat < UTF8PROC_CATEGORY_ZS);
}

static void put_cp(struct jin *j, struct sbuf *b, uint32_t c)
{
	char s[4];

	sbuf_put(j, b, s, (int64_t)utf8_encode(c, s));
}

static const struct special *special_of(uint32_t c)
{
	for (size_t i = 0; c > 0x7F && i < sizeof(specials) / sizeof(specials[0]); i++)
		if (specials[i].cp == c)
			return &specials[i];
	return NULL;
}

static void put_upper(struct jin *j, struct sbuf *b, uint32_t c, bool title)
{
	const struct special *sp = special_of(c);

	if (sp)
		sbuf_puts(j, b, title ? sp->title : sp->upper);
	else
		put_cp(j, b, (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)c) :
						utf8proc_toupper((utf8proc_int32_t)c)));
}

/* Stands between letters without parting a word, as an apostrophe does. */
static bool ignorable(uint32_t c)
{
	utf8proc_category_t cat = category(c);

	return cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME ||
		cat == UTF8PROC_CATEGORY_CF || cat == UTF8PROC_CATEGORY_LM ||
		cat == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 ||
		c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027;
}

/* Is the sigma at [from, to) the last letter of a word, in a text that begins at begin? */
static bool final_sigma(const struct str *s, int64_t begin, int64_t from, int64_t to)
{
	bool before = false;

	while (from > begin && !before) {
		int64_t at = --from;
		uint32_t c;

		while (at > begin && ((unsigned char)s->s[at] & 0xC0) == 0x80)
			at--;
		from = at;
		c = cp_next(s->s, s->len, &at);
		if (cp_is(c, CP_CASED))
			before = true;
		else if (!ignorable(c))
			return false;
	}
	while (to < s->len) {
		uint32_t c = cp_next(s->s, s->len, &to);

		if (cp_is(c, CP_CASED))
			return false;
		if (!ignorable(c))
			break;
	}
	return before;
}

static void put_lower(struct jin *j, struct sbuf *b, uint32_t c, const struct str *s, int64_t begin,
	int64_t from, int64_t to)
{
	if (c == 0x130)
		sbuf_puts(j, b, "i\xCC\x87");
	else if (c == 0x3A3)
		put_cp(j, b, final_sigma(s, begin, from, to) ? 0x3C2 : 0x3C3);
	else
		put_cp(j, b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

static void put_fold(struct jin *j, struct sbuf *b, uint32_t c)
{
	utf8proc_int32_t to[8];
	int last = 0;
	utf8proc_ssize_t n = utf8proc_decompose_char(
		(utf8proc_int32_t)c, to, 8, UTF8PROC_CASEFOLD, &last);

	for (utf8proc_ssize_t i = 0; i < n && i < 8; i++)
		put_cp(j, b, (uint32_t)to[i]);
}

/* The filter `title` splits words at these; str.title at all that has no case. */
static bool word_gap(uint32_t c)
{
	return cp_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

struct val str_case(struct jin *j, struct val v, enum case_map map)
{
	struct sbuf b = { 0 };
	bool in_word = false;
	int64_t begin = 0; /* CASE_WORDS: what is behind a word's first letter is a text by itself */

	jin_charge(j, v.s->len * 32);
	for (int64_t i = 0; i < v.s->len;) {
		int64_t from = i;
		uint32_t c = cp_next(v.s->s, v.s->len, &i);
		bool cased = map == CASE_TITLE && cp_is(c, CP_CASED);
		bool up = map == CASE_UPPER || (map == CASE_CAPITAL && !from) ||
			(map == CASE_TITLE && !in_word) || (map == CASE_SWAP && cp_is(c, CP_LOWER)) ||
			(map == CASE_WORDS && !in_word);

		begin = map == CASE_WORDS && up ? i : begin;
		if (map == CASE_FOLD)
			put_fold(j, &b, c);
		else if (up)
			put_upper(j, &b, c, map == CASE_TITLE || map == CASE_CAPITAL);
		else if (map == CASE_SWAP && !cp_is(c, CP_UPPER))
			put_cp(j, &b, c);
		else
			put_lower(j, &b, c, v.s, begin, from, i);
		in_word = map == CASE_TITLE ? cased : map == CASE_WORDS ? !word_gap(c) : false;
	}
	return v_safe(sbuf_str(j, &b), v.k);
}
