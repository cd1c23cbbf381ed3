/* SPDX-License-Identifier: MIT */
/* Who owns a KV page: how many hold it, which are free, which must wait for steps in
 * flight. Page numbers only; their memory is the rank's. */
#include <assert.h>
#include <stdlib.h>

#include "scheduler.h"

struct deferred { int32_t page; uint64_t epoch; };

struct pages {
	int32_t n, left;
	int32_t *stack;       /* [n]: the first `left` are free */
	int32_t *holders;     /* [n] */
	struct deferred *ring; /* [n]: without holder, oldest epoch first, from `first` on */
	int32_t first, n_ring;
};

struct pages *pages_create(int32_t n)
{
	struct pages *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->n = p->left = n;
	p->stack = calloc((size_t)n + 1, sizeof(*p->stack));
	p->holders = calloc((size_t)n + 1, sizeof(*p->holders));
	p->ring = calloc((size_t)n + 1, sizeof(*p->ring));
	if (!p->stack || !p->holders || !p->ring) {
		pages_destroy(p);
		return NULL;
	}
	/* the lowest numbers go first, so that a quiet engine touches little memory */
	for (int32_t i = 0; i < n; i++)
		p->stack[i] = n - 1 - i;
	return p;
}

void pages_destroy(struct pages *p)
{
	if (!p)
		return;
	free(p->stack);
	free(p->holders);
	free(p->ring);
	free(p);
}

bool pages_grant(struct pages *p, int32_t n, int32_t *out)
{
	if (n > p->left)
		return false;
	for (int32_t i = 0; i < n; i++) {
		out[i] = p->stack[--p->left];
		p->holders[out[i]] = 1;
	}
	return true;
}

void pages_share(struct pages *p, const int32_t *page, int32_t n)
{
	for (int32_t i = 0; i < n; i++) {
		assert(page[i] >= 0 && page[i] < p->n && p->holders[page[i]] > 0);
		p->holders[page[i]]++;
	}
}

void pages_drop(struct pages *p, const int32_t *page, int32_t n, uint64_t epoch)
{
	/* backwards: the next grant gets them in the order they were granted before */
	for (int32_t i = n - 1; i >= 0; i--) {
		assert(page[i] >= 0 && page[i] < p->n && p->holders[page[i]] > 0);
		if (--p->holders[page[i]])
			continue;
		if (!epoch)
			p->stack[p->left++] = page[i];
		else
			p->ring[(p->first + p->n_ring++) % p->n] = (struct deferred){ page[i], epoch };
	}
}

void pages_done(struct pages *p, uint64_t epoch)
{
	for (; p->n_ring && p->ring[p->first].epoch <= epoch; p->n_ring--) {
		p->stack[p->left++] = p->ring[p->first].page;
		p->first = (p->first + 1) % p->n;
	}
}

int32_t pages_holders(const struct pages *p, int32_t page) { return p->holders[page]; }
int32_t pages_left(const struct pages *p) { return p->left; }
int32_t pages_deferred(const struct pages *p) { return p->n_ring; }
