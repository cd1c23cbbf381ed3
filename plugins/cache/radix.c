/* SPDX-License-Identifier: MIT */
/* radix - finds cached pages by walking a radix tree (as SGLang's RadixAttention has it)
 * whose edges are runs of pages: inside a run each page names the one that follows, and
 * tokens are compared, not hashed. Where prompts part the run ends; the children there,
 * and the first pages of all prompts, are found in a table by parent, salt and tokens, so
 * that a page with thousands of children costs no more than one with two. Gives up pages
 * one by one from the ends of unpinned branches. */
#include "tree_check.h"

struct conf {
	int32_t evict;
};
enum { EVICT_LRU, EVICT_LFU };
static const char *const evict_names[] = { "lru", "lfu", NULL };

static const struct nvllm_option options[] = {
	NVLLM_ENUM(conf, evict, "evict", "lru", evict_names,
		"pages given up first: lru = longest unused | lfu = least often matched"),
	NVLLM_OPTIONS_END
};

struct nvllm_cache {
	struct tree t;
	int32_t *next; /* [n_pages] the page that follows in its run; NONE: it ends a run */
};

static int create(const struct nvllm_host *host, int64_t n_pages, int32_t page_tokens,
	const void *conf, struct nvllm_cache **out)
{
	const struct conf *f = conf;
	struct nvllm_cache *c = host->alloc(host, sizeof(*c));
	int status;

	*out = c;
	if (!c)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the cache policy");
	if ((status = tree_create(&c->t, host, n_pages, page_tokens)))
		return status;
	if (!(c->next = host->alloc(host, (size_t)(n_pages + 1) * sizeof(*c->next))))
		return host->fail(host, NVLLM_ENOMEM, "no memory for the tree's runs");
	for (int64_t p = 0; p < n_pages; p++)
		c->next[p] = NONE;
	c->t.by_hits = f->evict == EVICT_LFU;
	return NVLLM_OK;
}

/* Where the table has a child; parent = NONE: the root of the salt. */
static uint64_t child_hash(const struct tree *t, int32_t parent, uint64_t salt,
	const int32_t *tokens)
{
	return XXH3_64bits_withSeed(tokens, token_bytes(t), salt + (uint64_t)(parent - NONE));
}

static int32_t find(const struct nvllm_cache *c, int32_t parent, uint64_t salt,
	const int32_t *tokens)
{
	const struct tree *t = &c->t;
	int32_t next = parent == NONE ? NONE : c->next[parent];

	if (next != NONE)
		return is_child(t, next, parent, salt, tokens) ? next : NONE;
	if (parent != NONE && !t->page[parent].n_kids)
		return NONE;
	return table_find(t, child_hash(t, parent, salt, tokens), parent, salt, tokens);
}

static void list_child(struct tree *t, int32_t p)
{
	table_put(t, p, child_hash(t, t->page[p].parent, t->page[p].salt, tokens_of(t, p)));
}

/* p becomes a child: it goes on with its parent's run, or ends it by parting from it. */
static void link_child(struct nvllm_cache *c, int32_t p)
{
	int32_t parent = c->t.page[p].parent;

	if (parent != NONE && c->t.page[parent].n_kids == 1) {
		c->next[parent] = p;
		return;
	}
	if (parent != NONE && c->next[parent] != NONE) {
		list_child(&c->t, c->next[parent]);
		c->next[parent] = NONE;
	}
	list_child(&c->t, p);
}

static void unlink_child(struct nvllm_cache *c, int32_t p)
{
	int32_t parent = c->t.page[p].parent;

	if (parent != NONE && c->next[parent] == p)
		c->next[parent] = NONE;
	else
		table_drop(&c->t, p);
}

static int32_t match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	int32_t k = 0, p = NONE, most = n / c->t.page_tokens;

	c->t.asked_tokens += n;
	for (; k < max_pages && k < most; k++, tokens += c->t.page_tokens) {
		if ((p = find(c, p, salt, tokens)) == NONE)
			break;
		tree_pin(&c->t, p);
		c->t.page[p].hits++;
		pages[k] = p;
	}
	c->t.hit_tokens += (int64_t)k * c->t.page_tokens;
	return k;
}

static int32_t insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens,
	int32_t n_pages, int32_t *pages)
{
	int32_t parent = NONE;

	for (int32_t i = 0; i < n_pages; i++, tokens += c->t.page_tokens) {
		int32_t p = find(c, parent, salt, tokens);

		if (p == NONE) {
			p = pages[i];
			if (!tree_add(&c->t, p, parent, salt, tokens))
				return i;
			link_child(c, p);
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
		unlink_child(c, pages[n]);
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
	int32_t n_found = 0, n_next = 0;
	int status = tree_check(&c->t, &n_found);

	for (int32_t p = 0; !status && p < t->n_pages; p++) {
		int32_t next = c->next[p], n_kids = t->page[p].n_kids;

		if (next == NONE)
			continue;
		n_next++;
		if (next < 0 || next >= t->n_pages || !t->page[next].held ||
			t->page[next].parent != p)
			status = BAD("page %d is followed by page %d, not its child", p, next);
		else if (!t->page[p].held || n_kids != 1)
			status = BAD("page %d is inside a run and has %d children", p, n_kids);
	}
	for (int32_t p = 0; !status && p < t->n_pages; p++) {
		const struct page *g = &t->page[p];

		if (g->held && find(c, g->parent, g->salt, tokens_of(t, p)) != p)
			status = BAD("page %d is not found behind page %d", p, g->parent);
	}
	if (!status && n_found + n_next != t->held)
		status = BAD("%lld pages are held, %d are in the table and %d follow another",
			(long long)t->held, n_found, n_next);
	return status;
}

static const struct nvllm_cache_vt vt = {
	.size = sizeof(vt), .create = create, .match = match, .insert = insert,
	.release = release, .evict = evict, .stats = stats, .check = check,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_CACHE, .name = "radix",
	.summary = "prefix cache: a tree of page runs, least recently or least often used go first",
	.vt = &vt, .options = options, .conf_size = sizeof(struct conf),
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "cache_radix",
	.version = "0.1.0", .components = components,
};
