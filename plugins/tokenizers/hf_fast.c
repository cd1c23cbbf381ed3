/* SPDX-License-Identifier: MIT */
/* hf_fast.c - the patterns of GPT-2 and of GPT-4 and its heirs, matched by hand: what a match is
 * decides the class of its first one or two characters. Each function follows the alternatives of
 * its pattern in their order; a test holds them against PCRE2. */
#include "hf.h"

#include <string.h>

/* The character at s[at] of valid UTF-8; *n: its bytes. */
static inline uint32_t char_at(const char *s, size_t at, size_t *n)
{
	const unsigned char *u = (const unsigned char *)s + at;

	if (u[0] < 0x80) {
		*n = 1;
		return u[0];
	}
	if (u[0] < 0xE0) {
		*n = 2;
		return (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
	}
	if (u[0] < 0xF0) {
		*n = 3;
		return (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
	}
	*n = 4;
	return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 | (u[3] & 0x3Fu);
}

static inline unsigned class_at(const uint8_t *classes, const char *s, size_t at, size_t *n)
{
	uint32_t c = char_at(s, at, n);

	return c < HF_CLASSED ? classes[c / 4] >> c % 4 * 2 & 3u : HF_SIGN;
}

/* The end of the run of one class that goes on at s[at]. */
static inline size_t run_of(const uint8_t *classes, const char *s, size_t len, size_t at,
	unsigned class)
{
	size_t n;

	while (at < len && class_at(classes, s, at, &n) == class)
		at += n;
	return at;
}

/* \s+(?!\S)|\s+: all of the spaces, but not the last one before something else. */
static size_t spaces(const uint8_t *classes, const char *s, size_t len, size_t at)
{
	size_t last = at, end = at, n;

	while (end < len && class_at(classes, s, end, &n) == HF_SPACE) {
		last = end;
		end += n;
	}
	return end == len || last == at ? end : last;
}

/* 's|'t|'re|'ve|'m|'ll|'d: the end of what begins with the apostrophe at s[at], 0 = none. */
static inline size_t contraction(const char *s, size_t len, size_t at, char mask)
{
	char a = at + 1 < len ? (char)(s[at + 1] | mask) : 0;
	char b = at + 2 < len ? (char)(s[at + 2] | mask) : 0;

	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return at + 2;
	if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
		return at + 3;
	return 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2(const uint8_t *classes, const char *s, size_t len, size_t at)
{
	size_t from = at, n, end = s[at] == '\'' ? contraction(s, len, at, 0) : 0;
	unsigned class;

	if (end)
		return end;
	if (s[at] == ' ' && at + 1 < len)
		from = at + 1;
	class = class_at(classes, s, from, &n);
	if (class == HF_SPACE)
		return spaces(classes, s, len, at);
	return run_of(classes, s, len, from + n, class);
}

/* (?i:...): what is a letter in either case; U+017F is the other small s. */
static inline size_t any_contraction(const char *s, size_t len, size_t at)
{
	if (at + 2 < len && s[at + 1] == '\xC5' && s[at + 2] == '\xBF')
		return at + 3;
	/* Of the bytes that become a letter with bit 5 set, all are letters. */
	return contraction(s, len, at, 0x20);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+: up to the last line end among the spaces. */
static size_t lines(const uint8_t *classes, const char *s, size_t len, size_t at)
{
	size_t end = run_of(classes, s, len, at, HF_SPACE), i = end;

	while (i > at && s[i - 1] != '\n' && s[i - 1] != '\r')
		i--;
	return i > at ? i : spaces(classes, s, len, at);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static inline size_t gpt4(const uint8_t *classes, const char *s, size_t len, size_t at, int digits)
{
	size_t n, next, end = s[at] == '\'' ? any_contraction(s, len, at) : 0;
	unsigned class, after;

	if (end)
		return end;
	class = class_at(classes, s, at, &n);
	end = at + n;
	if (class == HF_LETTER)
		return run_of(classes, s, len, end, HF_LETTER);
	if (class == HF_NUMBER) {
		while (--digits > 0 && end < len && class_at(classes, s, end, &n) == HF_NUMBER)
			end += n;
		return end;
	}
	after = end < len ? class_at(classes, s, end, &next) : HF_SPACE;
	if (after == HF_LETTER && s[at] != '\r' && s[at] != '\n')
		return run_of(classes, s, len, end + next, HF_LETTER);
	if (class == HF_SIGN || (s[at] == ' ' && after == HF_SIGN)) {
		end = run_of(classes, s, len, end, HF_SIGN);
		while (end < len && (s[end] == '\r' || s[end] == '\n'))
			end++;
		return end;
	}
	return lines(classes, s, len, at);
}

static size_t gpt4_1(const uint8_t *classes, const char *s, size_t len, size_t at)
{
	return gpt4(classes, s, len, at, 1);
}

static size_t gpt4_3(const uint8_t *classes, const char *s, size_t len, size_t at)
{
	return gpt4(classes, s, len, at, 3);
}

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define GPT4(digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
	"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct fast_name {
	const char *pattern;
	hf_fast_fn *match;
} patterns[] = {
	{ GPT2, gpt2 },
	{ GPT4("\\p{N}"), gpt4_1 },
	{ GPT4("\\p{N}{1,3}"), gpt4_3 },
};

hf_fast_fn *hf_fast_find(const char *pattern, size_t len)
{
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
		if (strlen(patterns[i].pattern) == len &&
			!memcmp(patterns[i].pattern, pattern, len))
			return patterns[i].match;
	return NULL;
}

hf_fast_fn *hf_fast_gpt2(void)
{
	return gpt2;
}
