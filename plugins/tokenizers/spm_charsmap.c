/* SPDX-License-Identifier: MIT */
/* spm_charsmap.c - decides what the compiled rules of a SentencePiece normalizer (NFKC and
 * the like) make of characters. The blob is 4 bytes of length, a double array in the format of
 * darts-clone (third_party/darts_clone/darts.h of google/sentencepiece), and the texts that
 * keys become, each ended by NUL. Every unit is looked up within the bounds; nothing in the
 * array can lead outside. */
#include "spm.h"

#include <utf8proc.h>

#include "utf8.h"

/* What one rule may write: the longest of the rules SentencePiece brings is 33 bytes. A text
 * could grow without end otherwise. */
#define MAX_RULE 256
/* The tokenizers library looks at clusters as a whole only if they are shorter than this. */
#define SHORT_CLUSTER 6

static uint32_t le32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int spm_charsmap_init(const struct nvllm_host *host, const char *what, const void *blob, size_t len,
	struct spm_charsmap *m)
{
	const unsigned char *p = blob;
	size_t bytes, run = 0;

	*m = (struct spm_charsmap){ 0 };
	if (len < 4)
		return host->fail(host, NVLLM_EINVAL, "%s: %zu bytes are no character map", what, len);
	bytes = le32(p);
	if (bytes > len - 4 || bytes % 4)
		return host->fail(host, NVLLM_EINVAL,
			"%s: its trie is said to have %zu bytes, but %zu follow (and units have 4)", what,
			bytes, len - 4);
	m->units = p + 4;
	m->n_units = bytes / 4;
	m->text = (const char *)p + 4 + bytes;
	m->n_text = len - 4 - bytes;
	for (size_t i = 0; i < m->n_text; i++) {
		run = m->text[i] ? run + 1 : 0;
		if (run > MAX_RULE)
			return host->fail(host, NVLLM_EINVAL,
				"%s: a rule that writes more than %d bytes, at byte %zu of the texts", what,
				MAX_RULE, i);
	}
	if (run)
		return host->fail(host, NVLLM_EINVAL, "%s: the last text has no NUL at its end", what);
	return NVLLM_OK;
}

/* The units of darts-clone: bits 0..7 label, bit 8 has_leaf, bits 10..30 offset, shifted by 8
 * where bit 9 is set; bit 31 is set in a leaf, whose lower 31 bits are the value. */
static uint32_t unit_offset(uint32_t unit)
{
	return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* Walks the keys that s begins with; stops at the first if shortest. */
static size_t walk(const struct spm_charsmap *m, const char *s, size_t len, bool shortest,
	const char **to, size_t *to_len)
{
	size_t pos = 0, best = 0, at = 0;
	uint32_t unit;

	if (m->n_units == 0)
		return 0;
	pos = unit_offset(le32(m->units));
	for (size_t i = 0; i < len && !(shortest && best); i++) {
		pos ^= (unsigned char)s[i];
		if (pos >= m->n_units)
			break;
		unit = le32(m->units + 4 * pos);
		if ((unit & (1u << 31 | 0xFF)) != (unsigned char)s[i])
			break;
		pos ^= unit_offset(unit);
		if (!(unit & 1u << 8))
			continue;
		if (pos >= m->n_units)
			break;
		at = le32(m->units + 4 * pos) & ~(1u << 31);
		if (at >= m->n_text) /* a rule that points nowhere is none */
			continue;
		best = i + 1;
		*to = m->text + at;
	}
	if (best)
		*to_len = strlen(*to); /* a NUL is there: init saw to it */
	return best;
}

size_t spm_charsmap_longest(
	const struct spm_charsmap *m, const char *s, size_t len, const char **to, size_t *to_len)
{
	return walk(m, s, len, false, to, to_len);
}

/* Bytes of the grapheme cluster at s, which is not empty. */
static size_t cluster(const char *s, size_t len)
{
	uint32_t left = 0, right = 0;
	utf8proc_int32_t state = 0;
	size_t n = utf8_decode(s, len, &left), step;

	n = n ? n : 1;
	while (n < len) {
		step = utf8_decode(s + n, len - n, &right);
		if (!step || utf8proc_grapheme_break_stateful((utf8proc_int32_t)left,
				(utf8proc_int32_t)right, &state))
			break;
		n += step;
		left = right;
	}
	return n;
}

/* Each character of a cluster that no rule takes whole. */
static int by_chars(const struct spm_charsmap *m, const char *s, size_t len,
	int (*emit)(void *arg, const char *s, size_t len), void *arg)
{
	int rc = 0;

	for (size_t i = 0, n; i < len && rc >= 0; i += n) {
		const char *to = s + i;
		size_t to_len;

		to_len = n = spm_char_len(s + i, len - i);
		walk(m, s + i, n, true, &to, &to_len);
		rc = emit(arg, to, to_len);
	}
	return rc;
}

int spm_charsmap_text(const struct spm_charsmap *m, const char *s, size_t len,
	int (*emit)(void *arg, const char *s, size_t len), void *arg)
{
	int rc = 0;

	for (size_t i = 0, n; i < len && rc >= 0; i += n) {
		const char *to;
		size_t to_len;

		n = cluster(s + i, len - i);
		if (n < SHORT_CLUSTER && walk(m, s + i, n, true, &to, &to_len))
			rc = emit(arg, to, to_len);
		else
			rc = by_chars(m, s + i, n, emit, arg);
	}
	return rc;
}
