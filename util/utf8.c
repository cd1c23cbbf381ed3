/* SPDX-License-Identifier: MIT */
/* util/utf8.c - decides what is a character of UTF-8, and what is sent of a text that is
 * still arriving. */
#include "utf8.h"

#include <stdbool.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* The Unicode standard's table 3-7: by the first byte, how long the character is and
 * which second bytes it may have; later ones are 80..BF. length 0: no first byte. */
static size_t lead(unsigned char c, unsigned char *lo, unsigned char *hi)
{
	*lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
	*hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
	if (c < 0x80)
		return 1;
	return c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
}

/* How many bytes at s belong together: a whole character (*whole true), or the longest
 * beginning of one that is there, at least 1 byte. *open is true where that beginning
 * ends with the text, so that more bytes may complete it. */
static size_t part(const char *s, size_t len, bool *whole, bool *open)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char lo, hi;
	size_t n = lead(u[0], &lo, &hi), i = 1;

	while (i < n && i < len && u[i] >= lo && u[i] <= hi) {
		lo = 0x80, hi = 0xBF;
		i++;
	}
	*whole = n > 0 && i == n;
	*open = i < n && i == len;
	return i;
}

size_t utf8_decode(const char *s, size_t len, uint32_t *cp)
{
	static const unsigned char mask[5] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
	bool whole = false, open;
	size_t n = len ? part(s, len, &whole, &open) : 0;
	uint32_t c;

	if (!whole)
		return 0;
	c = (unsigned char)s[0] & mask[n];
	for (size_t i = 1; i < n; i++)
		c = c << 6 | ((unsigned char)s[i] & 0x3F);
	if (cp)
		*cp = c;
	return n;
}

size_t utf8_encode(uint32_t cp, char *s)
{
	size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
	static const unsigned char first[5] = { 0, 0, 0xC0, 0xE0, 0xF0 };

	if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
		return 0;
	for (size_t i = n - 1; i > 0; i--, cp >>= 6)
		s[i] = (char)(0x80 | (cp & 0x3F));
	s[0] = (char)(first[n] | cp);
	return n;
}

size_t utf8_check(const char *s, size_t len)
{
	size_t i = 0;
	bool whole, open;

	while (i < len) {
		uint64_t eight;
		size_t n;

		if (len - i >= 8) {
			memcpy(&eight, s + i, 8);
			if (!(eight & 0x8080808080808080ull)) {
				i += 8;
				continue;
			}
		}
		n = part(s + i, len - i, &whole, &open);
		if (!whole)
			return i;
		i += n;
	}
	return len;
}

size_t utf8_complete(const char *s, size_t len)
{
	/* The beginning of a character has at most 3 bytes, its first byte no others before. */
	for (size_t back = 1; back <= 3 && back <= len; back++) {
		const char *p = s + len - back;
		bool whole, open;

		if (((unsigned char)*p & 0xC0) == 0x80)
			continue;
		part(p, back, &whole, &open);
		return open ? len - back : len;
	}
	return len;
}

/* Emits all of s but an unfinished character at its end; returns how many bytes went. */
static size_t emit_parts(const char *s, size_t len,
	void (*emit)(void *arg, const char *s, size_t len), void *arg)
{
	size_t from = 0, i = 0;

	while (i < len) {
		bool whole, open;
		size_t n = part(s + i, len - i, &whole, &open);

		if (!whole) {
			if (i > from)
				emit(arg, s + from, i - from);
			if (open)
				return i;
			emit(arg, REPLACEMENT, 3);
			from = i + n;
		}
		i += n;
	}
	if (i > from)
		emit(arg, s + from, i - from);
	return len;
}

void utf8_push(struct utf8_stream *u, const char *bytes, size_t len,
	void (*emit)(void *arg, const char *s, size_t len), void *arg)
{
	/* A waiting tail is completed byte by byte: at most three, then it is empty. */
	while (u->n > 0 && len > 0) {
		size_t went;

		u->tail[u->n++] = *bytes++;
		len--;
		went = emit_parts(u->tail, u->n, emit, arg);
		u->n -= (uint32_t)went;
		memmove(u->tail, u->tail + went, u->n);
	}
	if (len > 0) {
		size_t went = emit_parts(bytes, len, emit, arg);

		u->n = (uint32_t)(len - went);
		memcpy(u->tail, bytes + went, u->n);
	}
}

void utf8_flush(
	struct utf8_stream *u, void (*emit)(void *arg, const char *s, size_t len), void *arg)
{
	if (u->n > 0)
		emit(arg, REPLACEMENT, 3);
	u->n = 0;
}
