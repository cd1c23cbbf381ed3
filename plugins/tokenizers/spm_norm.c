/* SPDX-License-Identifier: MIT */
/* spm_norm.c - decides what text pieces are looked for in: rules applied, spaces squeezed and
 * written as U+2581. The steps are those of Normalizer::Normalize in src/normalizer.cc of
 * google/sentencepiece. */
#include "spm.h"

#include <stdlib.h>

#include "utf8.h"

void spm_buf_add(struct spm_buf *b, const char *s, size_t len)
{
	if (b->failed || len == 0)
		return;
	if (len > b->cap - b->len) {
		size_t cap = b->cap + b->cap / 2 + len + 256;
		char *p = cap < INT32_MAX ? realloc(b->s, cap) : NULL; /* places are 32 bits wide */

		if (!p) {
			b->failed = true;
			return;
		}
		b->s = p;
		b->cap = cap;
	}
	memcpy(b->s + b->len, s, len);
	b->len += len;
}

/* The next characters that change together, and what they become. Returns the bytes taken. */
static size_t prefix(const struct spm_norm *n, const char *s, size_t len, const char **to,
	size_t *to_len)
{
	size_t took = 0;

	*to = s;
	if (n->vocab->has_user)
		took = spm_trie_longest(&n->vocab->user, s, len, NULL);
	if (took) {
		*to_len = took;
		return took;
	}
	if (n->charsmap.n_units)
		took = spm_charsmap_longest(&n->charsmap, s, len, to, to_len);
	if (!took)
		took = *to_len = spm_char_len(s, len);
	return took;
}

static void add_space(const struct spm_norm *n, struct spm_buf *out)
{
	if (n->escape_spaces)
		spm_buf_add(out, SPM_SPACE, 3);
	else
		spm_buf_add(out, " ", 1);
}

/* Text with its spaces written as wanted. */
static void add_text(const struct spm_norm *n, const char *s, size_t len, struct spm_buf *out)
{
	while (len) {
		const char *space = memchr(s, ' ', len);
		size_t plain = space ? (size_t)(space - s) : len;

		spm_buf_add(out, s, plain);
		if (!space)
			break;
		add_space(n, out);
		s += plain + 1;
		len -= plain + 1;
	}
}

/* The loop of the reference: rules, and no space after a space. */
static void add_changed(const struct spm_norm *n, const char *s, size_t len, struct spm_buf *out)
{
	bool after_space = n->squeeze_spaces;
	const char *to;
	size_t to_len;

	for (size_t i = 0; i < len;) {
		i += prefix(n, s + i, len - i, &to, &to_len);
		while (after_space && to_len && *to == ' ')
			to++, to_len--;
		if (to_len) {
			add_text(n, to, to_len, out);
			after_space = n->squeeze_spaces && to[to_len - 1] == ' ';
		}
	}
}

/* Bytes of s that are spaces, or become one each. */
static size_t leading_spaces(const struct spm_norm *n, const char *s, size_t len)
{
	size_t i = 0, took, to_len;
	const char *to;

	while (i < len) {
		took = prefix(n, s + i, len - i, &to, &to_len);
		if (to_len != 1 || *to != ' ')
			break;
		i += took;
	}
	return i;
}

static void cut_spaces(const struct spm_norm *n, size_t from, struct spm_buf *out)
{
	const char *space = n->escape_spaces ? SPM_SPACE : " ";
	size_t k = strlen(space);

	while (out->len >= from + k && memcmp(out->s + out->len - k, space, k) == 0)
		out->len -= k;
}

void spm_normalize(const struct spm_norm *n, const char *s, size_t len, struct spm_buf *out)
{
	size_t skip = n->squeeze_spaces ? leading_spaces(n, s, len) : 0, from = out->len;

	s += skip;
	len -= skip;
	if (len == 0)
		return;
	if (n->dummy_prefix && !n->space_after)
		add_space(n, out);
	if (n->charsmap.n_units || n->vocab->has_user || n->squeeze_spaces)
		add_changed(n, s, len, out);
	else
		add_text(n, s, len, out);
	if (n->squeeze_spaces)
		cut_spaces(n, from, out);
	if (n->dummy_prefix && n->space_after)
		add_space(n, out);
}
