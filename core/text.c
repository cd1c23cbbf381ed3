/* SPDX-License-Identifier: MIT */
/* Tokens to text: whole characters only, and what might be the beginning of a stop text
 * is held back until it is known not to be. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"
#include "utf8.h"

struct text {
	struct utf8_stream utf8;
	/* byte tokens in a row: the beginning of a character that waits, and whether some byte of
	 * the row was none, which makes all that follow in it none too */
	char tail[4];
	uint32_t n_tail;
	bool bad;
	char *buf;                 /* not yet sent; bounded, so nothing is allocated later */
	int64_t len, sent, cap;    /* of buf; the first `sent` were taken */
	int64_t n_stops, longest;
	struct nvllm_str *stops;   /* copies */
};

struct text *text_create(const struct nvllm_str *stops, int64_t n, int32_t max_piece)
{
	struct text *t = calloc(1, sizeof(*t));
	int64_t bytes = 0;
	char *copy;

	if (!t)
		return NULL;
	for (int64_t i = 0; i < n; i++) {
		bytes += stops[i].len + 1;
		t->longest = stops[i].len > t->longest ? stops[i].len : t->longest;
	}
	/* a byte that is no character becomes three; a tail of four may wait */
	t->cap = t->longest + 3 * ((int64_t)max_piece + 8);
	t->buf = malloc((size_t)t->cap);
	t->stops = malloc((size_t)n * sizeof(*t->stops) + (size_t)bytes + 1);
	if (!t->buf || !t->stops) {
		text_destroy(t);
		return NULL;
	}
	copy = (char *)(t->stops + n);
	for (int64_t i = 0; i < n; i++, t->n_stops++) {
		memcpy(copy, stops[i].s, (size_t)stops[i].len);
		copy[stops[i].len] = 0;
		t->stops[i] = (struct nvllm_str){ copy, stops[i].len };
		copy += stops[i].len + 1;
	}
	return t;
}

void text_destroy(struct text *t)
{
	if (!t)
		return;
	free(t->buf);
	free(t->stops);
	free(t);
}

static void add(void *arg, const char *s, size_t len)
{
	struct text *t = arg;

	if ((int64_t)len > t->cap - t->len)
		len = (size_t)(t->cap - t->len); /* cannot be: see text_create */
	memcpy(t->buf + t->len, s, len);
	t->len += (int64_t)len;
}

/* The stop text that occurs first at or after `from`; cuts the buffer there. */
static const char *find_stop(struct text *t, int64_t from)
{
	const char *best = NULL, *at, *which = NULL;

	for (int64_t i = 0; i < t->n_stops; i++) {
		int64_t start = from - t->stops[i].len + 1;

		start = start < 0 ? 0 : start;
		at = memmem(t->buf + start, (size_t)(t->len - start), t->stops[i].s, (size_t)t->stops[i].len);
		if (at && (!best || at < best))
			best = at, which = t->stops[i].s;
	}
	if (best) {
		t->len = best - t->buf;
		t->utf8 = (struct utf8_stream){ 0 }; /* half a character behind the stop text is cut off with it */
		t->n_tail = 0;
	}
	return which;
}

static void put_bad(struct text *t, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		add(t, "\xEF\xBF\xBD", 3);
}

/* The end of a row of byte tokens: each byte that waits is no character. */
static void end_bytes(struct text *t)
{
	put_bad(t, t->n_tail);
	t->n_tail = 0;
	t->bad = false;
}

static void push_byte(struct text *t, char byte)
{
	utf8_flush(&t->utf8, add, t);
	if (t->bad) {
		put_bad(t, 1);
		return;
	}
	t->tail[t->n_tail++] = byte;
	if (utf8_decode(t->tail, t->n_tail, NULL) == t->n_tail) {
		add(t, t->tail, t->n_tail);
		t->n_tail = 0;
	} else if (utf8_complete(t->tail, t->n_tail) > 0) {
		put_bad(t, t->n_tail);
		t->n_tail = 0;
		t->bad = true;
	}
}

const char *text_push(struct text *t, const char *bytes, int32_t len, int32_t byte, bool look)
{
	int64_t from;

	memmove(t->buf, t->buf + t->sent, (size_t)(t->len - t->sent));
	t->len -= t->sent;
	t->sent = 0;
	from = t->len;
	if (byte >= 0) {
		push_byte(t, (char)byte);
	} else {
		end_bytes(t);
		utf8_push(&t->utf8, bytes, (size_t)len, add, t);
	}
	return t->n_stops && look ? find_stop(t, from) : NULL;
}

/* Bytes at the end of the buffer that begin a stop text. */
static int64_t held(const struct text *t)
{
	int64_t most = 0;

	for (int64_t i = 0; i < t->n_stops; i++)
		for (int64_t n = t->stops[i].len - 1; n > most; n--)
			if (n <= t->len - t->sent && !memcmp(t->buf + t->len - n, t->stops[i].s, (size_t)n))
				most = n;
	return most;
}

struct nvllm_str text_take(struct text *t, bool end)
{
	struct nvllm_str out = { t->buf + t->sent, 0 };

	if (end) {
		end_bytes(t);
		utf8_flush(&t->utf8, add, t);
	}
	out.len = t->len - t->sent - (end ? 0 : held(t));
	t->sent += out.len;
	return out;
}
