/* SPDX-License-Identifier: MIT */
/* hash - finds cached pages by a hash of the whole prefix that they end: a page's hash
 * covers the hash of the page before it and its own tokens, the salt stands before the
 * first (as vLLM's automatic prefix caching has it). The hash only says where to look; the
 * tokens and the page before are compared, so a collision costs time and nothing else.
 * Gives up what was used longest ago, the end of a prompt before its beginning. */
#include "tree_check.h"

struct conf {
	int64_t hash_bits;
};

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, hash_bits, "hash_bits", "64", 1, 64,
		"bits of the block hash in use; fewer only to test collisions"),
	NVLLM_OPTIONS_END
};

struct nvllm_cache {
	struct tree t;
	uint64_t mask;
};

static int create(const struct nvllm_host *host, int64_t n_pages, int32_t page_tokens,
	const void *conf, struct nvllm_cache **out)
{
	const struct conf *f = conf;
	struct nvllm_cache *c = host->alloc(host, sizeof(*c));

	*out = c;
	if (!c)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the cache policy");
	c->mask = UINT64_MAX >> (64 - f->hash_bits);
	return tree_create(&c->t, host, n_pages, page_tokens);
}

/* The hash of a page: before = the hash of the page before it, the salt for the first. */
static uint64_t page_hash(const struct nvllm_cache *c, uint64_t before, const int32_t *tokens)
{
	return XXH3_64bits_withSeed(tokens, token_bytes(&c->t), before) & c->mask;
}

static int32_t match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	int32_t k = 0, p = NONE, most = n / c->t.page_tokens;
	uint64_t hash = salt;

	c->t.asked_tokens += n;
	for (; k < max_pages && k < most; k++, tokens += c->t.page_tokens) {
		hash = page_hash(c, hash, tokens);
		if ((p = table_find(&c->t, hash, p, salt, tokens)) == NONE)
			break;
		tree_pin(&c->t, p);
		pages[k] = p;
	}
	c->t.hit_tokens += (int64_t)k * c->t.page_tokens;
	return k;
}

static int32_t insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens,
	int32_t n_pages, int32_t *pages)
{
	int32_t parent = NONE;
	uint64_t hash = salt;

	for (int32_t i = 0; i < n_pages; i++, tokens += c->t.page_tokens) {
		int32_t p;

		hash = page_hash(c, hash, tokens);
		p = table_find(&c->t, hash, parent, salt, tokens);
		if (p == NONE) {
			p = pages[i];
			if (!tree_add(&c->t, p, parent, salt, tokens))
				return i;
			table_put(&c->t, p, hash);
		}
		tree_pin(&c->t, p);
		pages[i] = parent = p;
	}
	return n_pages;
}

static void release(struct nvllm_cache *c, const int32_t *pages, int32_t n_pages)
{
	tree_release(&c->t, pages, n_pages);
}

static int32_t evict(struct nvllm_cache *c, int32_t want, int32_t *pages)
{
	int32_t n = 0;

	for (; n < want && c->t.n_queue > 0; n++) {
		pages[n] = tree_take(&c->t);
		table_drop(&c->t, pages[n]);
	}
	return n;
}

static void stats(struct nvllm_cache *c, struct nvllm_cache_stats *s)
{
	tree_stats(&c->t, s);
}

static int check(struct nvllm_cache *c)
{
	const struct tree *t = &c->t;
	int32_t n_found = 0;
	int status = tree_check(&c->t, &n_found);

	if (status)
		return status;
	if (n_found != t->held)
		return BAD("%lld pages are held and %d are found by their hash",
			(long long)t->held, n_found);
	for (int32_t p = 0; p < t->n_pages; p++) {
		const struct page *g = &t->page[p];
		uint64_t before = g->parent == NONE ? g->salt : t->page[g->parent].hash;

		if (g->held && g->hash != page_hash(c, before, tokens_of(t, p)))
			return BAD("page %d has not the hash of its tokens", p);
	}
	return NVLLM_OK;
}

static const struct nvllm_cache_vt vt = {
	.size = sizeof(vt), .create = create, .match = match, .insert = insert,
	.release = release, .evict = evict, .stats = stats, .check = check,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_CACHE, .name = "hash",
	.summary = "prefix cache: pages found by a chained hash, least recently used go first",
	.vt = &vt, .options = options, .conf_size = sizeof(struct conf),
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "cache_hash",
	.version = "0.1.0", .components = components,
};
