/* SPDX-License-Identifier: MIT */
/* spm_bpe.c - decides which pieces a text becomes by merging: of all neighbours that together
 * are a token, those of the highest score, the leftmost first (Model::SampleEncode in
 * src/bpe_model.cc of google/sentencepiece).
 *
 * Where no token has a space behind a character, no merge crosses from a word into the next, and
 * words are merged each by itself: then most have been met before. */
#include "spm.h"

#include <stdlib.h>

/* Up to this many symbols a scan for the best pair is faster than a heap. */
#define SHORT_WORD 24
#define N_WORDS 8192
#define WORD_BYTES 24
#define WORD_PIECES 6

/* A word met before. The slot is chosen by hash; the newer word stays. */
struct spm_word {
	char s[WORD_BYTES];
	uint8_t len, n;       /* len 0 = free */
	uint8_t piece_len[WORD_PIECES];
	int32_t ids[WORD_PIECES];
};

struct run {
	struct spm_bpe *b;
	const struct spm_vocab *v;
	const char *s;       /* the word */
	spm_piece_fn *fn;
	void *arg;
	struct spm_word *learn; /* where the pieces are also kept; NULL = nowhere */
};

static int make_room(struct spm_bpe *b, size_t n)
{
	size_t room = b->room ? b->room : 256;

	if (n <= b->room)
		return NVLLM_OK;
	while (room < n)
		room *= 2;
	free(b->v);
	free(b->heap);
	b->v = malloc(room * sizeof(*b->v));
	/* n - 1 pairs to begin with; each of at most n - 1 merges takes one and brings two. */
	b->heap = malloc(room * 2 * sizeof(*b->heap));
	b->room = b->v && b->heap ? room : 0;
	return b->room ? NVLLM_OK : NVLLM_ENOMEM;
}

void spm_bpe_finish(struct spm_bpe *b)
{
	free(b->v);
	free(b->heap);
	free(b->unused_left);
	free(b->words);
	*b = (struct spm_bpe){ 0 };
}

/* What symbol i and its next one make. */
static void look(const struct run *r, struct spm_symbol *s, const struct spm_symbol *next)
{
	const struct spm_slot *slot = NULL;

	s->rank = SPM_NO_RANK;
	if (!s->frozen && !next->frozen)
		slot = spm_vocab_find(r->v, r->s + s->at, s->len + next->len);
	if (!slot)
		return;
	s->rank = slot->rank;
	s->made = slot->id;
	if (r->b->unused_left && r->v->types[slot->id] == SPM_UNUSED)
		r->b->unused_left[slot->id] = s->len;
}

/* Characters, and user-defined tokens, which stay as they are. */
static size_t cut(const struct run *r, size_t len)
{
	size_t n = 0, at = 0;

	while (at < len) {
		struct spm_symbol *s = &r->b->v[n++];
		size_t k = r->v->has_user ? spm_trie_longest(&r->v->user, r->s + at, len - at, &s->id) : 0;

		s->frozen = k > 0;
		s->made = -1;
		s->rank = SPM_NO_RANK;
		if (!k) {
			const struct spm_slot *slot;

			k = spm_char_len(r->s + at, len - at);
			slot = spm_vocab_find(r->v, r->s + at, k);
			s->id = slot ? slot->id : -1;
		}
		s->at = (uint32_t)at;
		s->len = (uint32_t)k;
		at += k;
	}
	return n;
}

static size_t merge_short(const struct run *r, size_t n)
{
	struct spm_symbol *v = r->b->v;

	for (size_t i = 0; i + 1 < n; i++)
		look(r, &v[i], &v[i + 1]);
	while (n > 1) {
		size_t at = 0;

		for (size_t i = 1; i + 1 < n; i++)
			at = v[i].rank < v[at].rank ? i : at;
		if (v[at].rank == SPM_NO_RANK)
			break;
		v[at].id = v[at].made;
		v[at].len += v[at + 1].len;
		n--;
		memmove(v + at + 1, v + at + 2, (n - at - 1) * sizeof(*v));
		v[at].rank = SPM_NO_RANK;
		if (at > 0)
			look(r, &v[at - 1], &v[at]);
		if (at + 1 < n)
			look(r, &v[at], &v[at + 1]);
	}
	return n;
}

/* A heap of four children a node: half the depth of two, and the four lie together. */
static void sift_down(uint64_t *heap, size_t n)
{
	uint64_t x = heap[0];
	size_t i = 0;

	for (size_t child; (child = 4 * i + 1) < n; i = child) {
		size_t end = child + 4 < n ? child + 4 : n;

		for (size_t c = child + 1; c < end; c++)
			child = heap[c] < heap[child] ? c : child;
		if (heap[child] >= x)
			break;
		heap[i] = heap[child];
	}
	heap[i] = x;
}

static size_t push(const struct run *r, int32_t i, size_t n_heap)
{
	struct spm_symbol *s = &r->b->v[i];
	uint64_t x, *heap = r->b->heap;
	size_t k = n_heap;

	s->rank = SPM_NO_RANK;
	if (s->next >= 0)
		look(r, s, &r->b->v[s->next]);
	if (s->rank == SPM_NO_RANK)
		return n_heap;
	x = (uint64_t)s->rank << 32 | (uint32_t)i;
	for (; k > 0 && heap[(k - 1) / 4] > x; k = (k - 1) / 4)
		heap[k] = heap[(k - 1) / 4];
	heap[k] = x;
	return n_heap + 1;
}

/* Entries of the heap that a merge has outdated are told by their rank: it is not the symbol's
 * any more, or it is again, and then the entry is as good as a new one. */
static size_t merge_long(const struct run *r, size_t n)
{
	struct spm_symbol *v = r->b->v;
	size_t n_heap = 0, kept = 0;

	for (size_t i = 0; i < n; i++) {
		v[i].prev = (int32_t)i - 1;
		v[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
		n_heap = push(r, (int32_t)i, n_heap);
	}
	while (n_heap > 0) {
		uint64_t top = r->b->heap[0];
		struct spm_symbol *s = &v[(uint32_t)top];

		r->b->heap[0] = r->b->heap[--n_heap];
		if (n_heap)
			sift_down(r->b->heap, n_heap);
		if (s->rank != (uint32_t)(top >> 32))
			continue;
		s->id = s->made;
		s->len += v[s->next].len;
		v[s->next].rank = SPM_NO_RANK;
		s->next = v[s->next].next;
		if (s->next >= 0)
			v[s->next].prev = (int32_t)(uint32_t)top;
		if (s->prev >= 0)
			n_heap = push(r, s->prev, n_heap);
		n_heap = push(r, (int32_t)(uint32_t)top, n_heap);
	}
	for (int32_t i = 0; i >= 0; i = v[i].next)
		v[kept++] = v[i]; /* kept <= i: nothing that is still needed is written over */
	return kept;
}

/* A piece out; an unused one as the two it was made of. */
static int put(const struct run *r, int32_t id, const char *s, size_t len)
{
	uint32_t left = 0;
	int rc;

	if (id >= 0 && r->b->unused_left && r->v->types[id] == SPM_UNUSED)
		left = r->b->unused_left[id];
	if (left > 0 && left < len) {
		const struct spm_slot *a = spm_vocab_find(r->v, s, left);
		const struct spm_slot *b = spm_vocab_find(r->v, s + left, len - left);

		rc = put(r, a ? a->id : -1, s, left);
		return rc < 0 ? rc : put(r, b ? b->id : -1, s + left, len - left);
	}
	if (r->learn && r->learn->n < WORD_PIECES) {
		r->learn->ids[r->learn->n] = id;
		r->learn->piece_len[r->learn->n] = (uint8_t)len;
	}
	if (r->learn)
		r->learn->n += r->learn->n <= WORD_PIECES;
	return r->fn(r->arg, id, s, len);
}

static int merge_word(struct run *r, const char *s, size_t len)
{
	size_t n;
	int rc = make_room(r->b, len);

	if (rc < 0)
		return rc;
	r->s = s;
	n = cut(r, len);
	n = n <= SHORT_WORD ? merge_short(r, n) : merge_long(r, n);
	for (size_t i = 0; i < n && rc >= 0; i++)
		rc = put(r, r->b->v[i].id, s + r->b->v[i].at, r->b->v[i].len);
	return rc;
}

static int word(struct run *r, const char *s, size_t len)
{
	struct spm_word *w;
	int rc = NVLLM_OK;

	if (len > WORD_BYTES || !r->b->words)
		return merge_word(r, s, len);
	w = &r->b->words[spm_hash(s, len) % N_WORDS];
	if (w->len == len && memcmp(w->s, s, len) == 0) {
		for (int i = 0; i < w->n && rc >= 0; s += w->piece_len[i++])
			rc = r->fn(r->arg, w->ids[i], s, w->piece_len[i]);
		return rc;
	}
	w->n = w->len = 0;
	r->learn = w;
	rc = merge_word(r, s, len);
	r->learn = NULL;
	if (rc >= 0 && w->n <= WORD_PIECES) {
		memcpy(w->s, s, len);
		w->len = (uint8_t)len;
	}
	return rc;
}

int spm_bpe_walk(struct spm_bpe *b, const struct spm_vocab *v, const char *s, size_t len,
	spm_piece_fn *fn, void *arg)
{
	struct run r = { .b = b, .v = v, .fn = fn, .arg = arg };
	int rc = NVLLM_OK;

	if (v->has_unused) { /* how one is cut again is remembered over the whole text */
		free(b->unused_left);
		b->unused_left = calloc((size_t)v->n, sizeof(*b->unused_left));
		if (!b->unused_left)
			return NVLLM_ENOMEM;
	}
	if (v->has_unused)
		return len ? merge_word(&r, s, len) : rc;
	if (!b->words)
		b->words = calloc(N_WORDS, sizeof(*b->words)); /* without memory: without words */
	for (size_t n; len && rc >= 0; s += n, len -= n) {
		n = spm_word_len(v->glue, s, len);
		rc = word(&r, s, n);
	}
	return rc;
}
