/* SPDX-License-Identifier: MIT */
/* Who owns a KV page: the pool of free ones. A page has one owner: a sequence, or the
 * cache policy. Page numbers only; their memory is the rank's. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"

struct pages {
	int32_t n, left;
	int32_t *stack;  /* [n]: the first `left` are free */
	uint8_t *free;   /* [n]: 1 = in the stack */
};

struct pages *pages_create(int32_t n)
{
	struct pages *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->n = p->left = n;
	p->stack = malloc((size_t)n * sizeof(*p->stack) + 1);
	p->free = malloc((size_t)n + 1);
	if (!p->stack || !p->free) {
		pages_destroy(p);
		return NULL;
	}
	/* the lowest numbers go first, so that a quiet engine touches little memory */
	for (int32_t i = 0; i < n; i++)
		p->stack[i] = n - 1 - i;
	memset(p->free, 1, (size_t)n);
	return p;
}

void pages_destroy(struct pages *p)
{
	if (!p)
		return;
	free(p->stack);
	free(p->free);
	free(p);
}

bool pages_grant(struct pages *p, int32_t n, int32_t *out)
{
	if (n > p->left)
		return false;
	for (int32_t i = 0; i < n; i++) {
		out[i] = p->stack[--p->left];
		p->free[out[i]] = 0;
	}
	return true;
}

void pages_free(struct pages *p, const int32_t *page, int32_t n)
{
	/* backwards: the next grant gets them in the order they were granted before */
	for (int32_t i = n - 1; i >= 0; i--) {
		assert(page[i] >= 0 && page[i] < p->n && !p->free[page[i]]);
		p->free[page[i]] = 1;
		p->stack[p->left++] = page[i];
	}
}

int32_t pages_left(const struct pages *p) { return p->left; }
