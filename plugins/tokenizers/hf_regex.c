/* SPDX-License-Identifier: MIT */
/* hf_regex.c - decides how a pattern of Oniguruma (Ruby's syntax, which the tokenizers library
 * uses; doc/RE of that project) is spelled for PCRE2. What differs: \s, \w, \d, \h, \v, \p{...} and
 * the Unicode version behind them, classes in classes and &&, (?m), (?i) without a colon,
 * {,n}, {n}+ and {n}?. What PCRE2 has and Oniguruma has not is refused or escaped. */
#include "hf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define MAX_DEPTH 100

#define S "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}" \
	"\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

struct translator {
	const char *s, *end;
	struct json_buf *out;
	const char *why;          /* what is wrong, NULL = nothing yet */
	int depth;
	size_t atom;              /* where in out the last atom begins; SIZE_MAX = none */
	size_t open[MAX_DEPTH];   /* where each open group begins */
	int closes[MAX_DEPTH];    /* parentheses that (?i) without a colon opened in it */
};

static void refuse(struct translator *t, const char *why)
{
	t->why = t->why ? t->why : why;
	t->s = t->end;
}

static bool next_is(const struct translator *t, const char *text)
{
	size_t n = strlen(text);

	return (size_t)(t->end - t->s) >= n && memcmp(t->s, text, n) == 0;
}

/* ---- what stands inside brackets for a class of characters ---- */

static void put_category(struct json_buf *out, const char *cat)
{
	char text[16];

	snprintf(text, sizeof(text), "\\p{%s}", cat);
	json_put(out, text);
	hf_late_ranges(cat, out);
}

static void put_word(struct json_buf *out)
{
	json_put(out, "\\p{Alphabetic}\\p{Pc}");
	put_category(out, "M");
	put_category(out, "Nd");
	hf_late_ranges("L", out);
}

static const struct {
	const char *name, *cat;
} categories[] = {
	{ "letter", "L" }, { "uppercaseletter", "Lu" }, { "lowercaseletter", "Ll" },
	{ "titlecaseletter", "Lt" }, { "modifierletter", "Lm" }, { "otherletter", "Lo" },
	{ "mark", "M" }, { "nonspacingmark", "Mn" }, { "spacingmark", "Mc" },
	{ "enclosingmark", "Me" }, { "number", "N" }, { "decimalnumber", "Nd" },
	{ "letternumber", "Nl" }, { "othernumber", "No" }, { "punctuation", "P" },
	{ "connectorpunctuation", "Pc" }, { "dashpunctuation", "Pd" }, { "openpunctuation", "Ps" },
	{ "closepunctuation", "Pe" }, { "initialpunctuation", "Pi" },
	{ "finalpunctuation", "Pf" }, { "otherpunctuation", "Po" }, { "symbol", "S" },
	{ "mathsymbol", "Sm" }, { "currencysymbol", "Sc" }, { "modifiersymbol", "Sk" },
	{ "othersymbol", "So" }, { "separator", "Z" }, { "spaceseparator", "Zs" },
	{ "lineseparator", "Zl" }, { "paragraphseparator", "Zp" }, { "other", "C" },
	{ "control", "Cc" }, { "format", "Cf" }, { "unassigned", "Cn" }, { "privateuse", "Co" },
	{ "digit", "Nd" }, { "cntrl", "Cc" },
};

static const struct {
	const char *name, *items;
} sets[] = {
	{ "space", S }, { "whitespace", S }, { "alpha", "\\p{Alphabetic}" },
	{ "alphabetic", "\\p{Alphabetic}" }, { "upper", "\\p{Uppercase}" },
	{ "uppercase", "\\p{Uppercase}" }, { "lower", "\\p{Lowercase}" },
	{ "lowercase", "\\p{Lowercase}" }, { "alnum", "\\p{Alphabetic}\\p{Nd}" },
	{ "punct", "\\p{P}" }, { "posixpunct", "\\p{P}\\p{S}" },
	{ "graph", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Cf}\\p{Co}" },
	{ "print", "\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Zs}\\p{Cf}\\p{Co}" },
	{ "blank", "\\p{Zs}\\t" },
	{ "xdigit", "0-9a-fA-F" }, { "ascii", "\\x00-\\x7F" },
	{ "any", "\\x{0}-\\x{10FFFF}" }, { "emoji", "\\p{Emoji}" },
	{ "han", "\\p{sc:Han}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}" },
};

/* A property by its name, without spaces, hyphens and underscores. A name that is none of these
 * is a script's, or PCRE2 will say that it knows none. */
static void put_property(struct json_buf *out, const char *given, size_t n)
{
	char name[48];
	size_t k = 0;

	for (size_t i = 0; i < n && k + 1 < sizeof(name); i++)
		if (!strchr(" -_", given[i]))
			name[k++] = (char)tolower((unsigned char)given[i]);
	name[k] = 0;
	if (k <= 2 && k > 0) {
		char cat[3] = { (char)toupper((unsigned char)name[0]), name[1], 0 };

		put_category(out, cat);
		return;
	}
	if (!strcmp(name, "word")) {
		put_word(out);
		return;
	}
	for (size_t i = 0; i < sizeof(categories) / sizeof(categories[0]); i++) {
		if (!strcmp(categories[i].name, name)) {
			put_category(out, categories[i].cat);
			return;
		}
	}
	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		if (!strcmp(sets[i].name, name)) {
			json_put(out, sets[i].items);
			if (name[0] == 'a' && name[1] == 'l') /* alpha, alphabetic, alnum */
				hf_late_ranges("L", out);
			if (!strcmp(name, "alnum"))
				hf_late_ranges("Nd", out);
			return;
		}
	}
	json_put(out, "\\p{sc:");
	json_put(out, name);
	json_put(out, "}");
}

/* After \p or \P: {Name} or {^Name}. *negated is flipped by ^. */
static void property(struct translator *t, struct json_buf *out, bool *negated)
{
	const char *close = t->s < t->end && *t->s == '{' ?
		memchr(t->s, '}', (size_t)(t->end - t->s)) : NULL;

	if (!close || close - t->s > 40 || close == t->s + 1) {
		refuse(t, "\\p without a name in braces");
		return;
	}
	t->s++;
	if (*t->s == '^') {
		*negated = !*negated;
		t->s++;
	}
	put_property(out, t->s, (size_t)(close - t->s));
	t->s = close + 1;
}

/* The classes that are one letter after a backslash: fills items and *negated, or returns false.
 * t->s is after the letter. */
static bool letter_class(struct translator *t, char c, struct json_buf *items, bool *negated)
{
	*negated = c >= 'A' && c <= 'Z';
	switch (c) {
	case 's': case 'S': json_put(items, S); return true;
	case 'd': case 'D': put_category(items, "Nd"); return true;
	case 'w': case 'W': put_word(items); return true;
	case 'h': case 'H': json_put(items, "0-9a-fA-F"); return true;
	case 'p': case 'P': property(t, items, negated); return true;
	default: return false;
	}
}

/* \uHHHH, as \x{HHHH}. */
static void put_u(struct translator *t, struct json_buf *out)
{
	for (int i = 0; i < 4; i++) {
		if (t->s + i >= t->end || !isxdigit((unsigned char)t->s[i])) {
			refuse(t, "\\u without four hexadecimal digits");
			return;
		}
	}
	json_put(out, "\\x{");
	json_put_raw(out, t->s, 4);
	json_put(out, "}");
	t->s += 4;
}

/* An escape that stands for one character, in a class or not. c is what follows the backslash. */
static void put_escape(struct translator *t, char c, struct json_buf *out)
{
	char text[3] = { '\\', c, 0 };

	if (c == 'u') {
		put_u(t, out);
	} else if (c == 'v') {
		json_put(out, "\\x0B");
	} else if (strchr("ntrfaex01234567", c)) {
		json_put(out, text);
	} else if (isalnum((unsigned char)c)) {
		refuse(t, "an escape that is not known here");
	} else {
		json_put(out, (unsigned char)c < 0x80 ? text : text + 1);
	}
}

/* ---- classes ---- */

/* A class on its way: the items of the brackets, and what cannot stand in them. */
struct set {
	struct json_buf items;   /* "a-z\p{L}" */
	struct json_buf others;  /* "|[^b]": alternatives of one character each */
	struct json_buf before;  /* "(?=[...])": what && asked before */
};

static void set_free(struct set *set)
{
	json_buf_free(&set->items);
	json_buf_free(&set->others);
	json_buf_free(&set->before);
}

/* The union collected so far, as an expression of one character. */
static void put_union(struct translator *t, const struct set *set, struct json_buf *out)
{
	if (!set->items.len && !set->others.len) {
		refuse(t, "an empty class");
		return;
	}
	json_put(out, set->others.len ? "(?:" : "");
	if (set->items.len) {
		json_put(out, "[");
		json_put_raw(out, set->items.s, set->items.len);
		json_put(out, "]");
	}
	if (set->others.len) {
		size_t skip = set->items.len ? 0 : 1;

		json_put_raw(out, set->others.s + skip, set->others.len - skip);
		json_put(out, ")");
	}
}

static void class(struct translator *t, struct json_buf *out);

static void posix_class(struct translator *t, struct set *set)
{
	bool negated = t->s[2] == '^';
	const char *name = t->s + 2 + negated;
	const char *close = memmem(name, (size_t)(t->end - name), ":]", 2);

	if (!close || close - name > 20) {
		refuse(t, "a bracket of POSIX without its end");
		return;
	}
	if (negated)
		json_put(&set->others, "|[^");
	if (close - name == 5 && !memcmp(name, "punct", 5))
		put_property(negated ? &set->others : &set->items, "posixpunct", 10);
	else
		put_property(negated ? &set->others : &set->items, name, (size_t)(close - name));
	if (negated)
		json_put(&set->others, "]");
	t->s = close + 2;
}

/* One thing of a class that is no plain character. t->s is at it. */
static void class_special(struct translator *t, struct set *set)
{
	struct json_buf items = { 0 };
	bool negated;
	char c = *t->s;

	if (c == '[' && t->end - t->s > 2 && t->s[1] == ':') {
		posix_class(t, set);
	} else if (c == '[') {
		t->s++;
		json_put(&set->others, "|");
		class(t, &set->others);
	} else if (t->end - t->s < 2) {
		refuse(t, "a backslash at the end");
	} else {
		c = t->s[1];
		t->s += 2;
		if (letter_class(t, c, &items, &negated)) {
			json_put(negated ? &set->others : &set->items, negated ? "|[^" : "");
			json_put_raw(negated ? &set->others : &set->items, items.s, items.len);
			json_put(negated ? &set->others : &set->items, negated ? "]" : "");
		} else if (c == 'b') {
			json_put(&set->items, "\\x08");
		} else {
			put_escape(t, c, &set->items);
		}
	}
	json_buf_free(&items);
}

/* a && b: what stood before must hold too. */
static void class_and(struct translator *t, struct set *set)
{
	t->s += 2;
	json_put(&set->before, "(?=");
	put_union(t, set, &set->before);
	json_put(&set->before, ")");
	set->items.len = set->others.len = 0;
}

static void put_class(struct translator *t, const struct set *set, bool negated,
	struct json_buf *out)
{
	bool simple = !set->before.len && !set->others.len && set->items.len;

	if (simple) {
		json_put(out, negated ? "[^" : "[");
		json_put_raw(out, set->items.s, set->items.len);
		json_put(out, "]");
		return;
	}
	json_put(out, negated ? "(?:(?!" : "(?:");
	json_put_raw(out, set->before.s ? set->before.s : "", set->before.len);
	put_union(t, set, out);
	json_put(out, negated ? ")(?s:.))" : ")");
}

/* A class whose opening bracket has been read, as an expression of one character. */
static void class(struct translator *t, struct json_buf *out)
{
	bool negated = t->s < t->end && *t->s == '^', first = true;
	struct set set = { { 0 }, { 0 }, { 0 } };

	if (++t->depth >= MAX_DEPTH)
		refuse(t, "brackets lie too deep in each other");
	t->s += negated;
	for (; t->s < t->end && (*t->s != ']' || first); first = false) {
		size_t n = utf8_decode(t->s, (size_t)(t->end - t->s), NULL);

		if (*t->s == '[' || *t->s == '\\') {
			class_special(t, &set);
		} else if (next_is(t, "&&")) {
			class_and(t, &set);
		} else {
			json_put(&set.items, *t->s == ']' ? "\\" : "");
			json_put_raw(&set.items, t->s, n);
			t->s += n;
		}
	}
	if (t->s >= t->end)
		refuse(t, "a '[' without its ']'");
	t->s += t->s < t->end;
	put_class(t, &set, negated, out);
	set_free(&set);
	t->depth--;
}

/* ---- the rest of the pattern ---- */

/* \b and \B by this file's \w. */
static void put_boundary(struct json_buf *out, bool negated)
{
	struct json_buf word = { 0 };

	put_word(&word);
	json_put(out, negated ? "(?:(?<![" : "(?:(?<=[");
	json_put_raw(out, word.s, word.len);
	json_put(out, "])(?![");
	json_put_raw(out, word.s, word.len);
	json_put(out, negated ? "])|(?<=[" : "])|(?<![");
	json_put_raw(out, word.s, word.len);
	json_put(out, "])(?=[");
	json_put_raw(out, word.s, word.len);
	json_put(out, "]))");
	json_buf_free(&word);
}

static void escape(struct translator *t)
{
	struct json_buf items = { 0 };
	bool negated;
	char c = t->s + 1 < t->end ? t->s[1] : 0, text[3] = { '\\', c, 0 };

	t->s += 2;
	if (!c) {
		refuse(t, "a backslash at the end");
	} else if (letter_class(t, c, &items, &negated)) {
		json_put(t->out, negated ? "[^" : "[");
		json_put_raw(t->out, items.s, items.len);
		/* By itself \w has the superscripts and fractions of Latin-1, in brackets not. */
		json_put(t->out, c == 'w' || c == 'W' ? "\\xB2\\xB3\\xB9\\xBC-\\xBE]" : "]");
	} else if (c == 'b' || c == 'B') {
		put_boundary(t->out, c == 'B');
	} else if (strchr("AzZGKRXk123456789", c)) {
		json_put(t->out, text);
	} else {
		put_escape(t, c, t->out);
	}
	json_buf_free(&items);
}

/* (?imx-imx) and (?imx-imx:...): t->s is after "(?". False: it is none of these. */
static bool options(struct translator *t)
{
	const char *p = t->s;

	while (p < t->end && strchr("imx-", *p))
		p++;
	if (p == t->s || p == t->end || (*p != ')' && *p != ':'))
		return false;
	json_put(t->out, "(?");
	for (; t->s < p; t->s++)
		json_put_raw(t->out, *t->s == 'm' ? "s" : t->s, 1);
	json_put(t->out, ":");
	if (*p == ')')
		t->closes[t->depth]++; /* it holds to the end of the group */
	t->s = p + 1;
	return true;
}

static void group(struct translator *t)
{
	static const char *const known[] = { "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?<",
		"(?'" };
	size_t begins = t->out->len;

	if (next_is(t, "(?#")) {
		const char *close = memchr(t->s, ')', (size_t)(t->end - t->s));

		t->s = close ? close + 1 : t->end;
		return;
	}
	if (t->depth + 1 >= MAX_DEPTH || next_is(t, "(*")) {
		refuse(t, next_is(t, "(*") ? "'(*' is not known here" :
			"groups lie too deep in each other");
		return;
	}
	if (next_is(t, "(?")) {
		int was = t->closes[t->depth];
		size_t i = 0;

		t->s += 2;
		if (options(t)) {
			if (t->closes[t->depth] != was)
				return;
			goto opened;
		}
		t->s -= 2;
		while (i < sizeof(known) / sizeof(known[0]) && !next_is(t, known[i]))
			i++;
		if (i == sizeof(known) / sizeof(known[0])) {
			refuse(t, "a kind of group that is not known here");
			return;
		}
		json_put(t->out, known[i]);
		t->s += strlen(known[i]);
	} else {
		json_put(t->out, "(");
		t->s++;
	}
opened:
	t->depth++;
	t->open[t->depth] = begins;
	t->closes[t->depth] = 0;
	t->atom = SIZE_MAX;
}

static void close_group(struct translator *t)
{
	if (t->depth == 0) {
		refuse(t, "a ')' too many");
		return;
	}
	for (; t->closes[t->depth] > 0; t->closes[t->depth]--)
		json_put(t->out, ")");
	json_put(t->out, ")");
	t->atom = t->open[t->depth--];
	t->s++;
}

/* The last atom, with its quantifier, becomes one atom. */
static void wrap_atom(struct translator *t)
{
	size_t n = t->out->len - t->atom;

	json_put(t->out, "   ");
	if (t->out->failed)
		return;
	memmove(t->out->s + t->atom + 3, t->out->s + t->atom, n);
	memcpy(t->out->s + t->atom, "(?:", 3);
	json_put(t->out, ")");
}

/* {n}, {n,}, {,m}, {n,m}; else the brace is a character. */
static void braces(struct translator *t)
{
	const char *p = t->s + 1, *from = p, *comma = NULL;

	while (p < t->end && (isdigit((unsigned char)*p) || (*p == ',' && !comma))) {
		comma = *p == ',' ? p : comma;
		p++;
	}
	if (p == t->end || *p != '}' || p == from || (comma && p == from + 1)) {
		t->atom = t->out->len;
		json_put(t->out, "\\{");
		t->s++;
		return;
	}
	json_put(t->out, "{");
	json_put(t->out, comma == from ? "0" : "");
	json_put_raw(t->out, from, (size_t)(p - from));
	json_put(t->out, "}");
	t->s = p + 1;
	if (t->s < t->end && (*t->s == '+' || (*t->s == '?' && !comma)) && t->atom != SIZE_MAX)
		wrap_atom(t);
}

static void one(struct translator *t)
{
	size_t n = utf8_decode(t->s, (size_t)(t->end - t->s), NULL);

	if (*t->s == '(') {
		group(t);
	} else if (*t->s == ')') {
		close_group(t);
	} else if (*t->s == '{') {
		braces(t);
	} else if (strchr("?*+|", *t->s)) {
		json_put_raw(t->out, t->s++, 1);
	} else {
		t->atom = t->out->len;
		if (*t->s == '[') {
			t->s++;
			class(t, t->out);
		} else if (*t->s == '\\') {
			escape(t);
		} else {
			json_put_raw(t->out, t->s, n);
			t->s += n;
		}
	}
}

int hf_regex_translate(const char *pattern, size_t len, struct json_buf *out, const char **why)
{
	struct translator t = { .s = pattern, .end = pattern + len, .out = out, .atom = SIZE_MAX };

	json_put(out, "(*LF)");
	if (utf8_check(pattern, len) < len || memchr(pattern, 0, len))
		refuse(&t, "it is not UTF-8");
	while (t.s < t.end)
		one(&t);
	if (t.depth)
		refuse(&t, "a '(' without its ')'");
	for (; t.closes[0] > 0; t.closes[0]--)
		json_put(out, ")");
	*why = t.why ? t.why : "no memory";
	return t.why || out->failed ? -1 : 0;
}
