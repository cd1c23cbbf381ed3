/* SPDX-License-Identifier: MIT */
/* util/utf8.h - UTF-8 as RFC 3629 and the Unicode standard (3.9, table 3-7) have it:
 * no overlong forms, no surrogates, nothing above U+10FFFF. No function allocates. */
#ifndef UTIL_UTF8_H
#define UTIL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* One character at s: its length in bytes and the code point in *cp (which may be NULL),
 * or 0 if it is ill-formed, cut off, or len is 0. */
size_t utf8_decode(const char *s, size_t len, uint32_t *cp);

/* Writes a code point to s (room for 4) and returns its bytes; 0 for a surrogate or a value
 * above U+10FFFF. */
size_t utf8_encode(uint32_t cp, char *s);

/* The offset of the first byte that begins no well-formed character; len if all is well. */
size_t utf8_check(const char *s, size_t len);

/* How many bytes of s can be sent now: all but the beginning of a character at the end which
 * later bytes may complete. Ill-formed bytes count as complete: nothing will mend them. */
size_t utf8_complete(const char *s, size_t len);

/* Text that arrives in pieces which may cut a character: the bytes of tokens. What comes out
 * is always well-formed; each maximal ill-formed part (Unicode 3.9, D93b and U+FFFD
 * substitution of maximal subparts) becomes one U+FFFD, as soon as it is known to be one.
 * Begin with a zeroed struct. */
struct utf8_stream {
	char tail[4];   /* the beginning of a character that waits for its end */
	uint32_t n;
};

/* emit is called with text that is well-formed by itself and valid during the call only. */
void utf8_push(struct utf8_stream *, const char *bytes, size_t len,
	void (*emit)(void *arg, const char *s, size_t len), void *arg);
/* The end of the text: what still waits becomes one U+FFFD. Leaves the stream empty. */
void utf8_flush(struct utf8_stream *,
	void (*emit)(void *arg, const char *s, size_t len), void *arg);

#endif
