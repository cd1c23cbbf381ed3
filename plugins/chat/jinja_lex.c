/* SPDX-License-Identifier: MIT */
/* jinja_lex.c - a template's text to tokens: decides which whitespace stays. As jinja2/lexer.py
 * with trim_blocks (a newline after a block or comment goes) and lstrip_blocks (so do blanks
 * before one on its line), without line statements. */
#include <stdlib.h>
#include <string.h>

#include "jinja.h"
#include "utf8.h"

struct lexer {
	struct jin *j;
	const char *s;
	int64_t len, at;
	int line;
	bool line_begins;       /* what was read last ended with a newline */
	char open[JIN_MAX_NEST];
	int n_open;
	struct token *t;
	int64_t n, cap;
};

static struct token *add(struct lexer *x, int type)
{
	if (x->n == x->cap) {
		int64_t cap = x->cap ? x->cap * 2 : 256;
		struct token *t = jin_array(x->j, cap, sizeof(*t));

		if (x->n)
			memcpy(t, x->t, (size_t)x->n * sizeof(*t));
		x->t = t;
		x->cap = cap;
	}
	x->t[x->n] = (struct token){ .type = (uint8_t)type, .line = x->line };
	return &x->t[x->n++];
}

static bool at(const struct lexer *x, int64_t i, const char *what)
{
	int64_t n = (int64_t)strlen(what);

	return i >= 0 && n <= x->len - i && memcmp(x->s + i, what, (size_t)n) == 0;
}

/* The whitespace characters from i on; returns where they end. */
static int64_t spaces(const struct lexer *x, int64_t i)
{
	while (i < x->len) {
		int64_t next = i;

		if (!cp_space(cp_next(x->s, x->len, &next)))
			break;
		i = next;
	}
	return i;
}

/* Moves on to i and counts the lines. */
static void move(struct lexer *x, int64_t i)
{
	for (int64_t k = x->at; k < i; k++)
		x->line += x->s[k] == '\n';
	if (i > x->at)
		x->line_begins = x->s[i - 1] == '\n';
	x->at = i;
	x->j->line = x->line;
}

/* The end tag at i ("%}", perhaps with a sign before it): where what it takes along ends,
 * or -1. plus: "+%}" is one too; trim: a newline goes along. */
static int64_t end_tag(const struct lexer *x, int64_t i, const char *tag, bool plus, bool trim)
{
	if (at(x, i, "-") && at(x, i + 1, tag))
		return spaces(x, i + 3);
	if (plus && at(x, i, "+") && at(x, i + 1, tag))
		return i + 3;
	if (at(x, i, tag))
		return i + 2 + (trim && at(x, i + 2, "\n"));
	return -1;
}

/* Text up to a tag with this sign; variable: the tag is {{, whose blanks stay. */
static void add_data(struct lexer *x, int64_t from, int64_t to, char sign, bool variable)
{
	int64_t end = to, begin = from;
	struct token *t;

	if (sign == '-') {
		while (end > from) {
			int64_t k = end - 1;

			while (k > from && ((unsigned char)x->s[k] & 0xC0) == 0x80)
				k--;
			begin = k;
			if (!cp_space(cp_next(x->s, end, &begin)))
				break;
			end = k;
		}
	} else if (sign != '+' && !variable) {
		while (begin < to && memchr(x->s + begin, '\n', (size_t)(to - begin)))
			begin = (const char *)memchr(x->s + begin, '\n', (size_t)(to - begin)) -
				x->s + 1;
		if ((begin > from || x->line_begins) && begin < to && spaces(x, begin) >= to)
			end = begin;
	}
	if (end > from) {
		t = add(x, K_DATA);
		t->s = x->s + from;
		t->len = end - from;
	}
	move(x, to);
}

static void lex_comment(struct lexer *x)
{
	int64_t end = -1;

	for (int64_t i = x->at; i < x->len && end < 0; i++)
		end = end_tag(x, i, "#}", true, true);
	if (end < 0)
		jin_fail(x->j, "Missing end of comment tag");
	move(x, end);
}

/* {% raw %}: its end, or -1 if the tag at i is another. */
static int64_t raw_begin(const struct lexer *x, int64_t i)
{
	i += 2;
	i = spaces(x, i + (at(x, i, "-") || at(x, i, "+")));
	return at(x, i, "raw") ? end_tag(x, spaces(x, i + 3), "%}", false, false) : -1;
}

static void lex_raw(struct lexer *x)
{
	for (int64_t i = x->at; i < x->len; i++) {
		int64_t k = i + 2, end;
		char sign = 0;

		if (!at(x, i, "{%"))
			continue;
		if (at(x, k, "-") || at(x, k, "+"))
			sign = x->s[k++];
		k = spaces(x, k);
		if (!at(x, k, "endraw"))
			continue;
		end = end_tag(x, spaces(x, k + 6), "%}", true, true);
		if (end < 0)
			continue;
		add_data(x, x->at, i, sign, false);
		move(x, end);
		return;
	}
	jin_fail(x->j, "Missing end of raw directive");
}

/* \x, \u, \U, octal: n digits at most at i; returns where they end. */
static int64_t escape_number(struct lexer *x, int64_t i, int64_t end, int n, int base, bool all,
	struct sbuf *b)
{
	uint32_t cp = 0;
	char s[4];
	int k = 0;

	for (; k < n && i < end; k++, i++) {
		char c = x->s[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ?
								 (c | 32) - 'a' + 10 : 99;

		if (d >= base)
			break;
		cp = cp * (uint32_t)base + (uint32_t)d;
	}
	if ((all && k < n) || !utf8_encode(cp, s))
		jin_fail(x->j, "a string has an escape that is no character");
	sbuf_put(x->j, b, s, (int64_t)utf8_encode(cp, s));
	return i;
}

/* Python's escapes, in the bytes [i, end). */
static struct val unescape(struct lexer *x, int64_t i, int64_t end)
{
	static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
	struct sbuf b = { 0 };

	while (i < end) {
		const char *p;
		char c;

		if (x->s[i] != '\\') {
			sbuf_put(x->j, &b, x->s + i++, 1);
			continue;
		}
		c = x->s[++i];
		p = c ? strchr(from, c) : NULL;
		if (c == '\n') {
			i++;
		} else if (p) {
			sbuf_put(x->j, &b, to + (p - from), 1);
			i++;
		} else if (c == 'x') {
			i = escape_number(x, i + 1, end, 2, 16, true, &b);
		} else if (c == 'u') {
			i = escape_number(x, i + 1, end, 4, 16, true, &b);
		} else if (c == 'U') {
			i = escape_number(x, i + 1, end, 8, 16, true, &b);
		} else if (c >= '0' && c <= '7') {
			i = escape_number(x, i, end, 3, 8, false, &b);
		} else if (c == 'N') {
			jin_fail(x->j, "\\N{...} in a string is not supported: write the character");
		} else {
			sbuf_put(x->j, &b, "\\", 1);
		}
	}
	return sbuf_str(x->j, &b);
}

static void lex_string(struct lexer *x)
{
	char quote = x->s[x->at];
	int64_t i = x->at + 1;
	bool plain = true;
	struct token *t;
	struct val v;

	for (; i < x->len && x->s[i] != quote; i++)
		if (x->s[i] == '\\') {
			plain = false;
			i++;
		}
	if (i >= x->len)
		jin_fail(x->j, "unexpected char '%c' at %lld", quote, (long long)x->at);
	t = add(x, K_STRING);
	if (plain) {
		t->s = x->s + x->at + 1;
		t->len = i - x->at - 1;
	} else {
		v = unescape(x, x->at + 1, i);
		t->s = v.s->s;
		t->len = v.s->len;
	}
	move(x, i + 1);
}

static bool digit(const struct lexer *x, int64_t i)
{
	return i < x->len && x->s[i] >= '0' && x->s[i] <= '9';
}

/* 1_000: where the digits from i on end. */
static int64_t digits(const struct lexer *x, int64_t i)
{
	while (digit(x, i) || (i < x->len && x->s[i] == '_' && digit(x, i + 1)))
		i++;
	return i;
}

static void lex_number(struct lexer *x)
{
	int64_t end = digits(x, x->at), k = end;
	bool real = false, ok;
	struct token *t;

	if (!(x->at > 0 && x->s[x->at - 1] == '.')) {
		if (at(x, k, ".") && digit(x, k + 1)) {
			k = digits(x, k + 1);
			real = true;
			end = k;
		}
		if (k < x->len && (x->s[k] | 32) == 'e') {
			int64_t e = k + 1 + (at(x, k + 1, "+") || at(x, k + 1, "-"));

			if (digit(x, e)) {
				end = digits(x, e);
				real = true;
			}
		}
	}
	t = add(x, K_FLOAT);
	t->s = x->s + x->at;
	if (real) {
		t->len = end - x->at;
		t->f = parse_float_text(t->s, t->len, &ok);
	} else {
		struct val v;
		int base = 10;

		if (x->s[x->at] == '0' && end == x->at + 1 && end < x->len && x->s[end]) {
			char c = x->s[end] | 32;

			base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
			for (k = end + 1; base != 10 && k < x->len &&
			     (digit(x, k) || (base == 16 && (x->s[k] | 32) >= 'a' &&
						     (x->s[k] | 32) <= 'f')); k++)
				;
			end = base == 10 ? end : k;
		} else if (x->s[x->at] == '0') {
			for (end = x->at + 1; end < x->len && x->s[end] == '0';)
				end++;
		}
		v = parse_int_text(x->j, t->s, end - x->at, base == 10 ? 10 : 0, &ok);
		if (!ok)
			jin_fail(x->j, "invalid number");
		t->len = end - x->at;
		t->type = v.t == T_INT ? K_INT : K_BIG;
		t->i = v.i;
		if (v.t == T_BIG) {
			t->s = v.s->s;
			t->len = v.s->len;
		}
	}
	move(x, end);
}

static void lex_operator(struct lexer *x)
{
	static const char *const two[] = { "**", "//", "==", "!=", ">=", "<=" };
	char c = x->s[x->at];
	struct token *t;
	int n = 1;

	for (int i = 0; i < 6; i++)
		if (at(x, x->at, two[i]))
			n = 2;
	if (n == 1 && (!c || !strchr("+-*/%~[](){}><=.:|,;", c)))
		jin_fail(x->j, "unexpected char '%.*s' at %lld",
			(int)(x->len - x->at < 4 ? 1 : c & 0x80 ? 4 : 1), x->s + x->at, (long long)x->at);
	if (strchr("([{", c)) {
		if (x->n_open == JIN_MAX_NEST)
			jin_fail(x->j, "more than %d brackets in one another", JIN_MAX_NEST);
		x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
	} else if (strchr(")]}", c)) {
		if (!x->n_open)
			jin_fail(x->j, "unexpected '%c'", c);
		if (x->open[--x->n_open] != c)
			jin_fail(x->j, "unexpected '%c', expected '%c'", c, x->open[x->n_open]);
	}
	t = add(x, K_OP);
	memcpy(t->op, x->s + x->at, (size_t)n);
	move(x, x->at + n);
}

static void lex_name(struct lexer *x)
{
	int64_t end = x->at;
	struct token *t;

	while (end < x->len) {
		int64_t next = end;

		if (!cp_word(cp_next(x->s, x->len, &next)))
			break;
		end = next;
	}
	t = add(x, K_NAME);
	t->s = x->s + x->at;
	t->len = end - x->at;
	move(x, end);
}

/* What is between {{ and }}, {% and %}, with the end tag. */
static void lex_code(struct lexer *x, bool block)
{
	x->n_open = 0;
	while (x->at < x->len) {
		int64_t next = x->at, end;
		uint32_t cp = cp_next(x->s, x->len, &next);

		end = x->n_open ? -1 : end_tag(x, x->at, block ? "%}" : "}}", block, block);
		if (end >= 0) {
			add(x, block ? K_BLOCK_END : K_VAR_END);
			move(x, end);
			return;
		}
		if (cp_space(cp))
			move(x, spaces(x, x->at));
		else if (cp >= '0' && cp <= '9')
			lex_number(x);
		else if (cp_word(cp))
			lex_name(x);
		else if (cp == '"' || cp == '\'')
			lex_string(x);
		else
			lex_operator(x);
	}
}

/* From text to the next tag and what it holds. */
static void lex_root(struct lexer *x)
{
	int64_t i = x->at, raw;
	char sign = 0, kind;

	while (i + 1 < x->len && !(x->s[i] == '{' && strchr("{%#", x->s[i + 1]) && x->s[i + 1])) {
		const char *p = memchr(x->s + i + 1, '{', (size_t)(x->len - i - 1));

		i = p ? p - x->s : x->len;
	}
	if (i + 1 >= x->len) {
		add_data(x, x->at, x->len, '+', false);
		return;
	}
	kind = x->s[i + 1];
	if (at(x, i + 2, "-") || at(x, i + 2, "+"))
		sign = x->s[i + 2];
	add_data(x, x->at, i, sign, kind == '{');
	raw = kind == '%' ? raw_begin(x, i) : -1;
	if (raw >= 0) {
		move(x, raw);
		lex_raw(x);
		return;
	}
	if (kind != '#')
		add(x, kind == '{' ? K_VAR_BEGIN : K_BLOCK_BEGIN);
	move(x, i + 2 + (sign != 0));
	if (kind == '#')
		lex_comment(x);
	else
		lex_code(x, kind == '%');
}

/* Newlines as Python counts them, one at the end taken off. */
static void set_text(struct lexer *x, const char *text, int64_t len)
{
	char *s = jin_alloc(x->j, (size_t)len + 1);
	int64_t n = 0;

	for (int64_t i = 0; i < len; i++) {
		bool cr = text[i] == '\r';

		s[n++] = cr ? '\n' : text[i];
		i += cr && i + 1 < len && text[i + 1] == '\n';
	}
	x->s = s;
	x->len = n - (n && s[n - 1] == '\n');
}

struct token *jin_lex(struct jin *j, const char *text, int64_t len, int64_t *n)
{
	struct lexer x = { .j = j, .line = 1, .line_begins = true };

	j->line = 1;
	set_text(&x, text, len);
	while (x.at < x.len) {
		lex_root(&x);
		j->line = x.line;
	}
	add(&x, K_EOF);
	*n = x.n;
	return x.t;
}
