/* SPDX-License-Identifier: MIT */
/* bpe_merge.c - decides which neighbours of a word become one token: always the pair with
 * the lowest rank, of equals the leftmost (Sennrich, Haddow, Birch: "Neural machine
 * translation of rare words with subword units", 2016). Symbols are a linked list and
 * pairs wait in a heap, so a word of n bytes takes O(n log n). */
#include "bpe.h"

#include <stdlib.h>
#include <string.h>

/* Words up to here are merged by looking at all pairs: no heap pays off. */
#define SHORT_WORD 24

static uint64_t pair_of(int32_t left, int32_t right)
{
	return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Fibonacci hashing: the product's upper bits. */
static uint64_t slot_of(const struct bpe_merges *m, uint64_t pair)
{
	return ((pair ^ pair >> 29) * 0x9E3779B97F4A7C15ull) >> m->shift;
}

int bpe_merges_init(const struct nvllm_host *host, struct bpe_merges *m, int64_t n)
{
	int bits = 4;

	while (bits < 40 && ((int64_t)1 << bits) < n + n / 2)
		bits++;
	m->mask = ((uint64_t)1 << bits) - 1;
	m->shift = 64 - bits;
	m->slots = host->alloc(host, sizeof(*m->slots) << bits);
	if (!m->slots)
		return host->fail(
			host, NVLLM_ENOMEM, "no memory for a table of %lld merges", (long long)n);
	memset(m->slots, 0xFF, sizeof(*m->slots) << bits);
	return NVLLM_OK;
}

void bpe_merges_put(struct bpe_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
	uint64_t pair = pair_of(left, right), i = slot_of(m, pair);

	while (m->slots[i].pair != UINT64_MAX && m->slots[i].pair != pair)
		i = (i + 1) & m->mask;
	m->slots[i] = (struct bpe_slot){ .pair = pair, .rank = rank, .id = id };
}

/* The rank of a pair, and what it becomes in *id; BPE_NO_RANK where it does not merge. */
static uint32_t merges_get(const struct bpe_merges *m, int32_t left, int32_t right, int32_t *id)
{
	uint64_t pair = pair_of(left, right), i = slot_of(m, pair);

	for (; m->slots[i].pair != UINT64_MAX; i = (i + 1) & m->mask) {
		if (m->slots[i].pair == pair) {
			*id = m->slots[i].id;
			return m->slots[i].rank;
		}
	}
	return BPE_NO_RANK;
}

int bpe_word_room(struct bpe_word *w, int64_t n)
{
	int64_t room = w->room ? w->room : 256;

	if (n <= w->room)
		return NVLLM_OK;
	while (room < n)
		room *= 2;
	room = room > INT32_MAX ? INT32_MAX : room;
	if (n > room)
		return NVLLM_ENOMEM;
	bpe_word_free(w);
	w->v = malloc((size_t)room * sizeof(*w->v));
	/* n - 1 pairs to begin with; each of at most n - 1 merges takes one out and puts
	 * two in. */
	w->heap = malloc((size_t)room * 2 * sizeof(*w->heap));
	if (!w->v || !w->heap) {
		bpe_word_free(w);
		return NVLLM_ENOMEM;
	}
	w->room = (int32_t)room;
	return NVLLM_OK;
}

void bpe_word_free(struct bpe_word *w)
{
	free(w->v);
	free(w->heap);
	*w = (struct bpe_word){ 0 };
}

static void merge_short(const struct bpe_merges *m, struct bpe_word *w)
{
	struct bpe_symbol *v = w->v;
	int32_t n = w->n;

	for (int32_t i = 0; i + 1 < n; i++)
		v[i].rank = merges_get(m, v[i].id, v[i + 1].id, &v[i].made);
	while (n > 1) {
		int32_t at = 0;

		for (int32_t i = 1; i + 1 < n; i++)
			at = v[i].rank < v[at].rank ? i : at;
		if (v[at].rank == BPE_NO_RANK)
			break;
		v[at].id = v[at].made;
		n--;
		memmove(v + at + 1, v + at + 2, (size_t)(n - at - 1) * sizeof(*v));
		/* The pair that began with the swallowed symbol is the merged one's now. */
		if (at + 1 < n)
			v[at].rank = merges_get(m, v[at].id, v[at + 1].id, &v[at].made);
		if (at > 0)
			v[at - 1].rank = merges_get(m, v[at - 1].id, v[at].id, &v[at - 1].made);
	}
	w->n = n;
}

/* A heap of four children a node: half the depth of two, and the four lie together. */
static void sift_down(uint64_t *heap, int64_t n, int64_t i)
{
	uint64_t x = heap[i];

	for (int64_t child; (child = 4 * i + 1) < n; i = child) {
		int64_t end = child + 4 < n ? child + 4 : n;

		for (int64_t c = child + 1; c < end; c++)
			child = heap[c] < heap[child] ? c : child;
		if (heap[child] >= x)
			break;
		heap[i] = heap[child];
	}
	heap[i] = x;
}

static void heap_push(uint64_t *heap, int64_t n, uint64_t x)
{
	int64_t i = n;

	for (; i > 0 && heap[(i - 1) / 4] > x; i = (i - 1) / 4)
		heap[i] = heap[(i - 1) / 4];
	heap[i] = x;
}

/* Looks up the pair that begins at symbol i and, if it merges, puts it into the heap.
 * Returns the heap's new length. */
static int64_t pair_push(const struct bpe_merges *m, struct bpe_word *w, int32_t i, int64_t n_heap)
{
	struct bpe_symbol *s = &w->v[i];

	s->rank = BPE_NO_RANK;
	if (s->next >= 0)
		s->rank = merges_get(m, s->id, w->v[s->next].id, &s->made);
	if (s->rank == BPE_NO_RANK)
		return n_heap;
	heap_push(w->heap, n_heap, (uint64_t)s->rank << 32 | (uint32_t)i);
	return n_heap + 1;
}

static int64_t word_link(const struct bpe_merges *m, struct bpe_word *w)
{
	int64_t n_heap = 0;

	for (int32_t i = 0; i < w->n; i++) {
		w->v[i].prev = i - 1;
		w->v[i].next = i + 1 < w->n ? i + 1 : -1;
		n_heap = pair_push(m, w, i, n_heap);
	}
	return n_heap;
}

/* Symbol i and its next one become one symbol, at i. */
static void unite(struct bpe_word *w, int32_t i)
{
	struct bpe_symbol *s = &w->v[i], *gone = &w->v[s->next];

	s->id = s->made;
	s->next = gone->next;
	gone->rank = BPE_NO_RANK;
	if (s->next >= 0)
		w->v[s->next].prev = i;
}

static void merge_long(const struct bpe_merges *m, struct bpe_word *w)
{
	int64_t n_heap = word_link(m, w);
	int32_t n = 0;

	while (n_heap > 0) {
		int32_t i = (int32_t)(uint32_t)w->heap[0];
		uint32_t rank = (uint32_t)(w->heap[0] >> 32);

		w->heap[0] = w->heap[--n_heap];
		sift_down(w->heap, n_heap, 0);
		if (w->v[i].rank != rank) /* a neighbour merged meanwhile */
			continue;
		unite(w, i);
		n_heap = pair_push(m, w, i, n_heap);
		if (w->v[i].prev >= 0)
			n_heap = pair_push(m, w, w->v[i].prev, n_heap);
	}
	for (int32_t i = 0; i >= 0; i = w->v[i].next)
		w->v[n++].id = w->v[i].id;
	w->n = n;
}

void bpe_merge(const struct bpe_merges *m, struct bpe_word *w)
{
	if (w->n <= SHORT_WORD)
		merge_short(m, w);
	else
		merge_long(m, w);
}
