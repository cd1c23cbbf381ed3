/* SPDX-License-Identifier: MIT */
/* tests/broken/cache.c - a prefix cache by linear search, to show that the twin of the
 * cache suite accepts what is right; with one word of -D, one that is wrong. */
#include <string.h>

#include <nvllm/cache.h>
#include <nvllm/plugin.h>

#define MAX_TOKENS 640

struct entry {
	int held, pins, n;
	uint64_t salt;
	int64_t used;
	int32_t tokens[MAX_TOKENS];
};

struct nvllm_cache {
	struct entry *page; /* [n_pages] */
	int64_t n_pages, clock, hit, asked;
	int32_t page_tokens;
};

static int create(const struct nvllm_host *host, int64_t n_pages, int32_t page_tokens,
	const void *conf, struct nvllm_cache **out)
{
	struct nvllm_cache *c = host->alloc(host, sizeof(*c));

	(void)conf;
	if (!c || !(c->page = host->alloc(host, (size_t)n_pages * sizeof(*c->page))))
		return host->fail(host, NVLLM_ENOMEM, "no memory for %ld pages", (long)n_pages);
	c->n_pages = n_pages;
	c->page_tokens = page_tokens;
	*out = c;
	return NVLLM_OK;
}

static int32_t find(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n)
{
	for (int32_t i = 0; i < c->n_pages; i++) {
		struct entry *e = &c->page[i];

#ifdef MIXES_SALTS
		(void)salt;
		if (e->held && e->n == n && !memcmp(e->tokens, tokens, sizeof(*tokens) * (size_t)n))
#else
		if (e->held && e->salt == salt && e->n == n &&
			!memcmp(e->tokens, tokens, sizeof(*tokens) * (size_t)n))
#endif
			return i;
	}
	return -1;
}

static int32_t match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	int32_t k = 0;

	c->asked += n;
	c->clock++;
	while (k < max_pages && (pages[k] = find(c, salt, tokens, (k + 1) * c->page_tokens)) >= 0) {
		c->page[pages[k]].pins++;
		c->page[pages[k]].used = c->clock;
		k++;
	}
	c->hit += (int64_t)k * c->page_tokens;
	return k;
}

static int32_t insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n_pages,
	int32_t *pages)
{
	for (int32_t i = 0; i < n_pages; i++) {
		int32_t n = (i + 1) * c->page_tokens,
			held = n <= MAX_TOKENS ? find(c, salt, tokens, n) : -1;
		struct entry *e;

		if (n > MAX_TOKENS)
			return i;
		if (held >= 0)
			pages[i] = held;
		e = &c->page[pages[i]];
		if (held < 0) {
			e->held = 1, e->salt = salt, e->n = n, e->pins = 0;
			memcpy(e->tokens, tokens, sizeof(*tokens) * (size_t)n);
		}
		e->pins++;
		e->used = c->clock;
	}
	return n_pages;
}

static void release(struct nvllm_cache *c, const int32_t *pages, int32_t n_pages)
{
	for (int32_t i = 0; i < n_pages; i++)
		c->page[pages[i]].pins--;
}

static int goes_before(const struct entry *a, const struct entry *b)
{
	return a->used != b->used ? a->used < b->used : a->n > b->n;
}

/* The least recently used first, of a prompt its last page. */
static int32_t evict(struct nvllm_cache *c, int32_t want, int32_t *pages)
{
	int32_t k = 0;

	for (; k < want; k++) {
		int32_t best = -1;

		for (int32_t i = 0; i < c->n_pages; i++) {
			const struct entry *e = &c->page[i];

#ifdef EVICTS_PINNED
			if (e->held && (best < 0 || goes_before(e, &c->page[best])))
#else
			if (e->held && !e->pins && (best < 0 || goes_before(e, &c->page[best])))
#endif
				best = i;
		}
		if (best < 0)
			break;
		c->page[best].held = 0;
		pages[k] = best;
	}
	return k;
}

static void stats(struct nvllm_cache *c, struct nvllm_cache_stats *s)
{
	s->held = s->pinned = 0;
	for (int64_t i = 0; i < c->n_pages; i++) {
		s->held += c->page[i].held;
		s->pinned += c->page[i].held && c->page[i].pins;
	}
	s->hit_tokens = c->hit;
	s->asked_tokens = c->asked;
}

static int check(struct nvllm_cache *c)
{
	(void)c;
	return NVLLM_OK;
}

static const struct nvllm_cache_vt vt = {
	.size = sizeof(vt), .create = create, .match = match, .insert = insert, .release = release,
	.evict = evict, .stats = stats, .check = check,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_CACHE, .name = "test_cache",
	.summary = "a prefix cache for tests", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "test_cache", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
