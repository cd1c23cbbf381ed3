/* SPDX-License-Identifier: MIT */
/* plugins/cache/tree.h - what the policies hash and radix share. The held pages are a tree:
 * a page's parent is the page before it in the prompt. Only pages without held children
 * are given up, so the parent of a held page is held, and "this parent, these tokens"
 * says which prefix a page ends: no hash is ever believed. Here are the pages' places in
 * the tree, their pins and figures, a table that finds a child by a hash, and the queue
 * of pages that can be given up. How children are hashed and linked is the policy's.
 *
 * match and insert pin pages from the first on; the core releases the last ones first or
 * all at once. So the parent of a pinned page is pinned, and evict, which gives up a page
 * and then perhaps its parent, gets at every page that is not. */
#ifndef CACHE_TREE_H
#define CACHE_TREE_H

#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <nvllm/cache.h>
#include <nvllm/plugin.h>

#define NONE (-1)

struct page {
	uint64_t salt, hash;
	int64_t hits;    /* matches since it came */
	int64_t used;    /* the release that unpinned it last */
	int32_t parent;  /* NONE: it begins a prompt */
	int32_t depth;   /* pages before it */
	int32_t n_kids, pins;
	int32_t place;   /* in the queue; NONE: it cannot be given up */
	int32_t chain;   /* next in its bucket of the table */
	bool held;
};

struct tree {
	const struct nvllm_host *host;
	int32_t n_pages, page_tokens;
	struct page *page;   /* [n_pages] */
	int32_t *tokens;     /* [n_pages][page_tokens] */
	int32_t *bucket;     /* [n_buckets], a power of two: first page, NONE */
	uint64_t n_buckets;
	int32_t *queue;      /* [n_pages]: a heap of the unpinned leaves, the first to go on top */
	int32_t n_queue;
	bool by_hits;        /* LFU: the seldom matched go first, of these the longest unused */
	int32_t *seen;       /* [n_pages] tree_check's: children that were counted */
	int64_t clock, held, pinned, hit_tokens, asked_tokens;
};

static inline int tree_create(struct tree *t, const struct nvllm_host *host, int64_t n_pages,
	int32_t page_tokens)
{
	size_t n = (size_t)n_pages, bytes;

	if (n_pages < 0 || n_pages > INT32_MAX || page_tokens < 1 ||
		__builtin_mul_overflow(n + 1, (size_t)page_tokens * sizeof(*t->tokens), &bytes))
		return host->fail(host, NVLLM_EINVAL, "a prefix cache of %lld pages of %d tokens: "
			"at most 2^31 - 1 pages, of at least one token", (long long)n_pages,
			(int)page_tokens);
	t->host = host;
	t->n_pages = (int32_t)n_pages;
	t->page_tokens = page_tokens;
	for (t->n_buckets = 1; t->n_buckets < n; t->n_buckets *= 2)
		;
	if (!(t->tokens = host->alloc(host, bytes)) ||
		!(t->page = host->alloc(host, (n + 1) * sizeof(*t->page))) ||
		!(t->bucket = host->alloc(host, t->n_buckets * sizeof(*t->bucket))) ||
		!(t->queue = host->alloc(host, (n + 1) * sizeof(*t->queue))) ||
		!(t->seen = host->alloc(host, (n + 1) * sizeof(*t->seen))))
		return host->fail(host, NVLLM_ENOMEM, "no memory for a prefix cache of %lld pages: "
			"lower [engine] memory or raise [attention] page_tokens",
			(long long)n_pages);
	for (int32_t p = 0; p < t->n_pages; p++)
		t->page[p].place = t->page[p].chain = t->page[p].parent = NONE;
	for (uint64_t b = 0; b < t->n_buckets; b++)
		t->bucket[b] = NONE;
	return NVLLM_OK;
}

static inline int32_t *tokens_of(const struct tree *t, int32_t p)
{
	return t->tokens + (size_t)p * (size_t)t->page_tokens;
}

static inline size_t token_bytes(const struct tree *t)
{
	return (size_t)t->page_tokens * sizeof(*t->tokens);
}

/* ---- the table: children by hash ---- */

static inline bool is_child(const struct tree *t, int32_t p, int32_t parent, uint64_t salt,
	const int32_t *tokens)
{
	const struct page *g = &t->page[p];

	return g->parent == parent && g->salt == salt &&
		!memcmp(tokens_of(t, p), tokens, token_bytes(t));
}

static inline int32_t *bucket_of(const struct tree *t, uint64_t hash)
{
	return &t->bucket[hash & (t->n_buckets - 1)];
}

static inline int32_t table_find(const struct tree *t, uint64_t hash, int32_t parent, uint64_t salt,
	const int32_t *tokens)
{
	int32_t p = *bucket_of(t, hash);

	while (p != NONE && (t->page[p].hash != hash || !is_child(t, p, parent, salt, tokens)))
		p = t->page[p].chain;
	return p;
}

static inline void table_put(struct tree *t, int32_t p, uint64_t hash)
{
	int32_t *at = bucket_of(t, hash);

	t->page[p].hash = hash;
	t->page[p].chain = *at;
	*at = p;
}

static inline void table_drop(struct tree *t, int32_t p)
{
	int32_t *at = bucket_of(t, t->page[p].hash);

	while (*at != p)
		at = &t->page[*at].chain;
	*at = t->page[p].chain;
}

/* ---- the queue: a binary heap ---- */

static inline bool goes_before(const struct tree *t, int32_t a, int32_t b)
{
	const struct page *x = &t->page[a], *y = &t->page[b];

	if (t->by_hits && x->hits != y->hits)
		return x->hits < y->hits;
	if (x->used != y->used)
		return x->used < y->used;
	return x->depth > y->depth;
}

static inline void queue_set(struct tree *t, int32_t i, int32_t p)
{
	t->queue[i] = p;
	t->page[p].place = i;
}

/* Place i is empty: p goes there, or as far up or down from it as it must. */
static inline void queue_settle(struct tree *t, int32_t i, int32_t p)
{
	for (; i > 0 && goes_before(t, p, t->queue[(i - 1) / 2]); i = (i - 1) / 2)
		queue_set(t, i, t->queue[(i - 1) / 2]);
	for (int64_t kid; (kid = 2 * (int64_t)i + 1) < t->n_queue; i = (int32_t)kid) {
		if (kid + 1 < t->n_queue && goes_before(t, t->queue[kid + 1], t->queue[kid]))
			kid++;
		if (!goes_before(t, t->queue[kid], p))
			break;
		queue_set(t, i, t->queue[kid]);
	}
	queue_set(t, i, p);
}

static inline void queue_put(struct tree *t, int32_t p)
{
	queue_settle(t, t->n_queue++, p);
}

static inline void queue_drop(struct tree *t, int32_t p)
{
	int32_t i = t->page[p].place, last = t->queue[--t->n_queue];

	t->page[p].place = NONE;
	if (last != p)
		queue_settle(t, i, last);
}

/* ---- pages ---- */

static inline void tree_pin(struct tree *t, int32_t p)
{
	if (t->page[p].pins++ > 0)
		return;
	t->pinned++;
	if (t->page[p].place != NONE)
		queue_drop(t, p);
}

/* Takes a page of the core's; false: it is none, or held already. */
static inline bool tree_add(struct tree *t, int32_t p, int32_t parent, uint64_t salt,
	const int32_t *tokens)
{
	if (p < 0 || p >= t->n_pages || t->page[p].held)
		return false;
	t->page[p] = (struct page){ .salt = salt, .parent = parent, .place = NONE, .chain = NONE,
		.held = true };
	memcpy(tokens_of(t, p), tokens, token_bytes(t));
	if (parent != NONE) {
		t->page[p].depth = t->page[parent].depth + 1;
		t->page[parent].n_kids++;
	}
	t->held++;
	return true;
}

/* Takes the page to give up next, of n_queue > 0, out of the tree. The policy unlinks it. */
static inline int32_t tree_take(struct tree *t)
{
	int32_t p = t->queue[0];
	struct page *up;

	queue_drop(t, p);
	t->page[p].held = false;
	t->held--;
	if (t->page[p].parent != NONE) {
		up = &t->page[t->page[p].parent];
		if (--up->n_kids == 0 && up->pins == 0)
			queue_put(t, t->page[p].parent);
	}
	return p;
}

static inline void tree_release(struct tree *t, const int32_t *pages, int32_t n)
{
	t->clock++;
	for (int32_t i = 0; i < n; i++) {
		struct page *g = &t->page[pages[i]];

		g->used = t->clock;
		if (--g->pins != 0)
			continue;
		t->pinned--;
		if (g->n_kids == 0)
			queue_put(t, pages[i]);
	}
}

static inline void tree_stats(const struct tree *t, struct nvllm_cache_stats *s)
{
	s->held = t->held;
	s->pinned = t->pinned;
	s->hit_tokens = t->hit_tokens;
	s->asked_tokens = t->asked_tokens;
}

#endif
