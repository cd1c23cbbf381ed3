/* SPDX-License-Identifier: MIT */
/* plugins/cache/tree_check.h - says whether a tree of tree.h is whole: each page's place,
 * pins and figures, the queue, the table. What a policy keeps beside it is its own to check. */
#ifndef CACHE_TREE_CHECK_H
#define CACHE_TREE_CHECK_H

#include "tree.h"

#define BAD(...) t->host->fail(t->host, NVLLM_EINVAL, __VA_ARGS__)

/* Page p and its parent. */
static inline int check_place(const struct tree *t, int32_t p)
{
	const struct page *g = &t->page[p], *up = NULL;

	if (!g->held)
		return !g->pins && g->place == NONE ? NVLLM_OK : BAD("page %d is not held and is "
			"pinned %d times or queued", p, g->pins);
	if (g->pins < 0)
		return BAD("page %d was released %d times more than it was pinned", p, -g->pins);
	if (g->parent < NONE || g->parent >= t->n_pages || g->parent == p)
		return BAD("page %d has page %d before it", p, g->parent);
	if (g->parent != NONE)
		up = &t->page[g->parent];
	if (up && (!up->held || up->salt != g->salt))
		return BAD("page %d has page %d before it, which is %s", p, g->parent,
			up->held ? "of another salt" : "not held");
	if (g->depth != (up ? up->depth + 1 : 0))
		return BAD("page %d has depth %d, page %d before it has %d", p, g->depth, g->parent,
			up ? up->depth : NONE);
	if (up && up->pins < g->pins)
		return BAD("page %d is pinned %d times, page %d before it %d times", p, g->pins,
			g->parent, up->pins);
	if (up && t->by_hits && up->hits < g->hits)
		return BAD("page %d was matched more often than page %d before it", p, g->parent);
	return NVLLM_OK;
}

/* Page p in the queue, once its children are counted. */
static inline int check_queued(const struct tree *t, int32_t p)
{
	const struct page *g = &t->page[p];

	if (g->held && g->n_kids != t->seen[p])
		return BAD("page %d has %d held children and counts %d", p, t->seen[p], g->n_kids);
	if ((g->place != NONE) != (g->held && !g->pins && !g->n_kids))
		return BAD("page %d, pinned %d times, with %d children, is %squeued", p, g->pins,
			g->n_kids, g->place == NONE ? "not " : "");
	if (g->place == NONE)
		return NVLLM_OK;
	if (g->place < 0 || g->place >= t->n_queue || t->queue[g->place] != p)
		return BAD("page %d is not at its place %d of the queue", p, g->place);
	if (g->place > 0 && goes_before(t, p, t->queue[(g->place - 1) / 2]))
		return BAD("page %d should be given up before page %d", p,
			t->queue[(g->place - 1) / 2]);
	return NVLLM_OK;
}

/* The chains of the table; *n: how many pages it finds. */
static inline int check_table(const struct tree *t, int32_t *n)
{
	*n = 0;
	for (uint64_t b = 0; b < t->n_buckets; b++)
		for (int32_t p = t->bucket[b]; p != NONE; p = t->page[p].chain) {
			const struct page *g = &t->page[p];

			if (++*n > t->n_pages)
				return BAD("bucket %llu of the table runs in a circle",
					(unsigned long long)b);
			if (!g->held || bucket_of(t, g->hash) != &t->bucket[b])
				return BAD("page %d does not belong in bucket %llu", p,
					(unsigned long long)b);
			if (table_find(t, g->hash, g->parent, g->salt, tokens_of(t, p)) != p)
				return BAD("page %d holds the same prefix as another", p);
		}
	return NVLLM_OK;
}

/* *n_found: pages that the table finds. */
static inline int tree_check(struct tree *t, int32_t *n_found)
{
	int64_t held = 0, pinned = 0, queued = 0;
	int status;

	memset(t->seen, 0, (size_t)t->n_pages * sizeof(*t->seen));
	for (int32_t p = 0; p < t->n_pages; p++) {
		if ((status = check_place(t, p)))
			return status;
		held += t->page[p].held;
		pinned += t->page[p].pins > 0;
		queued += t->page[p].place != NONE;
		if (t->page[p].held && t->page[p].parent != NONE)
			t->seen[t->page[p].parent]++;
	}
	if (held != t->held || pinned != t->pinned || queued != t->n_queue)
		return BAD("%lld pages held, %lld pinned, %lld queued; counted were %lld, %lld, %d",
			(long long)held, (long long)pinned, (long long)queued, (long long)t->held,
			(long long)t->pinned, t->n_queue);
	for (int32_t p = 0; p < t->n_pages; p++)
		if ((status = check_queued(t, p)))
			return status;
	return check_table(t, n_found);
}

#endif
