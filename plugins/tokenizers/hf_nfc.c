/* SPDX-License-Identifier: MIT */
/* hf_nfc.c - Unicode's normal forms (UAX 15) through utf8proc, but for the order of combining
 * marks, which utf8proc sorts in quadratic time: a text may be all marks. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "utf8.h"

#define FEW 256

/* Whether NFC changes this character neither by itself nor with its neighbours: it begins a part
 * of the text that can be normalised by itself. Marks and the vowels and ends of Hangul syllables
 * may join what stands before them. */
static bool is_safe(uint32_t c)
{
	utf8proc_int32_t to[16];
	int class = 0;
	utf8proc_ssize_t n;

	if (hf_category(c)[0] == 'M' || (c >= 0x1160 && c <= 0x11FF) ||
		(c >= 0xD800 && c <= 0xDFFF))
		return false;
	if (c >= 0xAC00 && c <= 0xD7A3)
		return true;
	n = utf8proc_decompose_char((utf8proc_int32_t)c, to, 16,
		UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &class);
	if (n < 1 || n > 16)
		return false;
	n = utf8proc_normalize_utf32(to, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	return n == 1 && to[0] == (utf8proc_int32_t)c;
}

int hf_nfc_init(struct hf *hf)
{
	if (hf->nfc)
		return NVLLM_OK;
	hf->nfc = hf_alloc(hf, HF_CLASSED / 8, 1);
	if (!hf->nfc)
		return NVLLM_ENOMEM;
	for (uint32_t c = 0; c < HF_CLASSED; c++)
		hf->nfc[c / 8] |= (uint8_t)(is_safe(c) << c % 8);
	return NVLLM_OK;
}

/* From at on: where the first character stands that is not safe; *before: the one before it. */
static size_t unsafe_at(const struct hf *hf, const char *s, size_t len, size_t at, size_t *before)
{
	*before = at;
	while (at < len) {
		uint32_t c = 0;
		size_t n = 1;

		if ((unsigned char)s[at] >= 0x80) {
			n = utf8_decode(s + at, len - at, &c);
			if (n == 0 || c >= HF_CLASSED || !(hf->nfc[c / 8] >> c % 8 & 1))
				break;
		}
		*before = at;
		at += n;
	}
	return at;
}

static size_t safe_at(const struct hf *hf, const char *s, size_t len, size_t at)
{
	while (at < len) {
		uint32_t c = 0;
		size_t n = utf8_decode(s + at, len - at, &c);

		if (n == 0 || (c < HF_CLASSED && (hf->nfc[c / 8] >> c % 8 & 1)))
			break;
		at += n;
	}
	return at;
}

bool hf_is_nfc(const struct hf *hf, const char *s, size_t len)
{
	size_t before;

	return unsafe_at(hf, s, len, 0, &before) == len;
}

/* ---- a part of the text by itself ---- */

static int class_of(int32_t c)
{
	return c < 0x300 || hf_is_late_mark((uint32_t)c) ? 0 :
		utf8proc_get_property(c)->combining_class;
}

/* Stable, by class: the marks of a run are counted, then dealt out. other has room for n. */
static void sort_run(int32_t *v, int64_t n, int32_t *other)
{
	int64_t start[257] = { 0 };

	for (int64_t i = 0; i < n; i++)
		start[class_of(v[i]) + 1]++;
	for (int i = 0; i < 256; i++)
		start[i + 1] += start[i];
	for (int64_t i = 0; i < n; i++)
		other[start[class_of(v[i])]++] = v[i];
	memcpy(v, other, (size_t)n * sizeof(*v));
}

static void order_marks(int32_t *v, int64_t n, int32_t *other)
{
	for (int64_t i = 0, end; i < n; i = end) {
		bool sorted = true;

		for (end = i; end < n && class_of(v[end]); end++)
			sorted = sorted && (end == i || class_of(v[end - 1]) <= class_of(v[end]));
		if (!sorted)
			sort_run(v + i, end - i, other);
		end += end == i;
	}
}

/* The decomposition of s in *v, which has room for `room`; returns how long it is, or would be. */
static int64_t decompose(const char *s, size_t len, int options, int32_t *v, int64_t room)
{
	int64_t n = 0;
	int class = 0;

	for (size_t at = 0, k; at < len; at += k) {
		uint32_t c = 0;
		utf8proc_ssize_t m = 1;

		k = utf8_decode(s + at, len - at, &c);
		if (k == 0)
			return -1;
		if (hf_is_late_compat(c) && n < room)
			v[n] = (int32_t)c;
		else if (!hf_is_late_compat(c))
			m = utf8proc_decompose_char((utf8proc_int32_t)c, v ? v + n : NULL,
				room > n ? room - n : 0, options, &class);
		if (m < 0)
			return -1;
		n += m;
	}
	return n;
}

/* Returns the new length. A mark that the reference does not know joins nothing, and nothing joins
 * across it. */
static int64_t compose(int32_t *v, int64_t n)
{
	int64_t to = 0;

	for (int64_t at = 0, end; at < n; at = end) {
		for (end = at; end < n && !hf_is_late_mark((uint32_t)v[end]); end++)
			;
		memmove(v + to, v + at, (size_t)(end - at) * sizeof(*v));
		to += utf8proc_normalize_utf32(v + to, end - at,
			UTF8PROC_STABLE | UTF8PROC_COMPOSE);
		if (end < n)
			v[to++] = v[end++];
	}
	return to;
}

static int form_part(enum hf_form form, const char *s, size_t len, struct json_buf *out)
{
	int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
		(form == HF_NFKC || form == HF_NFKD ? UTF8PROC_COMPAT : 0);
	int32_t few[2 * FEW], *v = few;
	int64_t n = decompose(s, len, options, few, FEW);

	if (n < 0)
		return NVLLM_EINVAL; /* the text was checked */
	if (n > FEW) {
		v = malloc((size_t)n * 2 * sizeof(*v));
		if (!v)
			return NVLLM_ENOMEM;
		n = decompose(s, len, options, v, n);
	}
	order_marks(v, n, v + n);
	if (form == HF_NFC || form == HF_NFKC)
		n = compose(v, n);
	for (int64_t i = 0; i < n; i++) {
		char utf8[4];

		json_put_raw(out, utf8, utf8_encode((uint32_t)v[i], utf8));
	}
	if (v != few)
		free(v);
	return NVLLM_OK;
}

/* ---- the whole ---- */

int hf_unicode_form(const struct hf *hf, enum hf_form form, const char *s, size_t len,
	struct json_buf *out)
{
	size_t at = 0, before, odd, end;
	int rc = NVLLM_OK;

	if (form != HF_NFC)
		return form_part(form, s, len, out);
	while (at < len && rc >= 0) {
		odd = unsafe_at(hf, s, len, at, &before);
		if (odd == len)
			before = len;
		end = safe_at(hf, s, len, odd);
		json_put_raw(out, s + at, before - at);
		rc = form_part(form, s + before, end - before, out);
		at = end;
	}
	return rc;
}
