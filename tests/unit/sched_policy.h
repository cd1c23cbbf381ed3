/* SPDX-License-Identifier: MIT */
/* sched_policy.h - prefix caches for the scheduler's model. The brute one is an array with
 * a key a page, in a few tempers; the watch stands between the scheduler and any policy and
 * checks what either asks of the other. Included by sched_model.h. */
#ifndef SCHED_POLICY_H
#define SCHED_POLICY_H

/* Of the brute one: keeps all; keeps few pages; keeps nothing; never gives any up, though
 * it says it would. NONE: there is no policy. OTHER: one from elsewhere. */
enum policy_temper { POLICY_KEEPS, POLICY_KEEPS_FEW, POLICY_KEEPS_NONE, POLICY_STINGY, POLICY_NONE, POLICY_OTHER };

/* Both kinds: the brute one uses key, used, clock and st; the watch m, inner, vt and contents. */
struct nvllm_cache {
	struct model *m;
	struct nvllm_cache *inner;
	const struct nvllm_cache_vt *vt;
	enum policy_temper temper;
	int32_t n_pages, page_tokens, most;
	bool *held;         /* [n_pages] */
	int32_t *pins;      /* [n_pages] */
	uint64_t *key;      /* [n_pages] hash of the tokens up to its end */
	int64_t *used;      /* [n_pages] */
	uint64_t *contents; /* [n_pages][page_tokens] when it was taken */
	int64_t clock;
	struct nvllm_cache_stats st;
};

static uint64_t hash_on(uint64_t h, uint64_t v);
static uint64_t hash_begin(uint64_t salt);
static int32_t watched_insert(struct model *, uint64_t salt, const int32_t *tokens, int32_t n_pages,
	const int32_t *pages);
static void watched_match(struct model *, uint64_t salt, const int32_t *tokens, int32_t n, int32_t max_pages);
static void watched_hit(struct model *, const int32_t *tokens, const int32_t *pages, int32_t n);

static struct nvllm_cache *cache_alloc(int32_t n_pages, int32_t page_tokens)
{
	struct nvllm_cache *c = calloc(1, sizeof(*c));

	c->n_pages = c->most = n_pages;
	c->page_tokens = page_tokens;
	c->held = calloc((size_t)n_pages, sizeof(*c->held));
	c->pins = calloc((size_t)n_pages, sizeof(*c->pins));
	c->key = calloc((size_t)n_pages, sizeof(*c->key));
	c->used = calloc((size_t)n_pages, sizeof(*c->used));
	c->contents = calloc((size_t)n_pages * (size_t)page_tokens, sizeof(*c->contents));
	return c;
}

static void cache_free(struct nvllm_cache *c)
{
	free(c->held);
	free(c->pins);
	free(c->key);
	free(c->used);
	free(c->contents);
	free(c);
}

/* ---- the brute one ---- */

static struct nvllm_cache *brute_create(int32_t n_pages, int32_t page_tokens, enum policy_temper temper)
{
	struct nvllm_cache *c = cache_alloc(n_pages, page_tokens);

	c->temper = temper;
	if (temper == POLICY_KEEPS_FEW)
		c->most = n_pages / 3;
	if (temper == POLICY_KEEPS_NONE)
		c->most = 0;
	return c;
}

/* The page whose tokens, all from the first, have this hash; -1 = none. */
static int32_t brute_find(const struct nvllm_cache *c, uint64_t key)
{
	for (int32_t p = 0; p < c->n_pages; p++)
		if (c->held[p] && c->key[p] == key)
			return p;
	return -1;
}

static uint64_t page_key(const struct nvllm_cache *c, uint64_t h, const int32_t *tokens)
{
	for (int32_t i = 0; i < c->page_tokens; i++)
		h = hash_on(h, (uint64_t)(uint32_t)tokens[i]);
	return h;
}

static void brute_pin(struct nvllm_cache *c, int32_t p)
{
	c->st.pinned += !c->pins[p]++;
	c->used[p] = ++c->clock;
}

static int32_t brute_match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	uint64_t h = hash_begin(salt);
	int32_t k = 0;

	for (; k < max_pages; k++) {
		int32_t p = brute_find(c, h = page_key(c, h, tokens + k * c->page_tokens));

		if (p < 0)
			break;
		brute_pin(c, pages[k] = p);
	}
	return k;
}

static int32_t brute_insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n_pages,
	int32_t *pages)
{
	uint64_t h = hash_begin(salt);

	for (int32_t k = 0; k < n_pages; k++) {
		int32_t p = brute_find(c, h = page_key(c, h, tokens + k * c->page_tokens));

		if (p < 0) {
			if (c->st.held == c->most)
				return k;
			p = pages[k];
			c->held[p] = true;
			c->key[p] = h;
			c->st.held++;
		}
		brute_pin(c, pages[k] = p);
	}
	return n_pages;
}

static void brute_release(struct nvllm_cache *c, const int32_t *pages, int32_t n_pages)
{
	for (int32_t i = 0; i < n_pages; i++)
		c->st.pinned -= !--c->pins[pages[i]];
}

/* The least recently used first, wherever in a chain it is: what follows is lost to match
 * and goes in its turn. */
static int32_t brute_evict(struct nvllm_cache *c, int32_t want, int32_t *pages)
{
	int32_t k = 0;

	for (; k < want && c->temper != POLICY_STINGY; k++) {
		int32_t best = -1;

		for (int32_t p = 0; p < c->n_pages; p++)
			if (c->held[p] && !c->pins[p] && (best < 0 || c->used[p] < c->used[best]))
				best = p;
		if (best < 0)
			break;
		c->held[best] = false;
		c->st.held--;
		pages[k] = best;
	}
	return k;
}

static void brute_stats(struct nvllm_cache *c, struct nvllm_cache_stats *st) { *st = c->st; }
static int brute_check(struct nvllm_cache *c) { return NVLLM_OK; }
static void brute_destroy(struct nvllm_cache *c) { cache_free(c); }

static const struct nvllm_cache_vt brute_vt = {
	.size = sizeof(brute_vt), .match = brute_match, .insert = brute_insert, .release = brute_release,
	.evict = brute_evict, .stats = brute_stats, .check = brute_check, .destroy = brute_destroy,
};

/* ---- the watch ---- */

static struct nvllm_cache *watch_create(struct model *m, struct nvllm_cache *inner,
	const struct nvllm_cache_vt *vt, enum policy_temper temper)
{
	struct nvllm_cache *w = cache_alloc(m->lim.n_pages, m->lim.page_tokens);

	w->m = m;
	w->inner = inner;
	w->vt = vt;
	w->temper = temper;
	return w;
}

static void watch_destroy(struct nvllm_cache *w)
{
	if (w->vt->destroy)
		w->vt->destroy(w->inner);
	cache_free(w);
}

static bool watch_holds(const struct nvllm_cache *w, int32_t p) { return w->held[p]; }
static int32_t watch_pins(const struct nvllm_cache *w, int32_t p) { return w->pins[p]; }

/* What the policy keeps is not written again. */
static void watch_check(struct nvllm_cache *w)
{
	int32_t pt = w->page_tokens;

	for (int32_t p = 0; p < w->n_pages; p++)
		MUST(w->m, !w->held[p] || !memcmp(w->contents + (int64_t)p * pt, w->m->contents + (int64_t)p * pt,
			(size_t)pt * sizeof(*w->contents)), "page %d changed while the policy has it", p);
	MUST(w->m, w->vt->check(w->inner) == 0, "the policy's own check fails");
}

static int32_t watch_match(struct nvllm_cache *w, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	int32_t got;

	watched_match(w->m, salt, tokens, n, max_pages);
	got = w->vt->match(w->inner, salt, tokens, n, pages, max_pages);
	for (int32_t i = 0; i < got; i++)
		w->pins[pages[i]]++;
	watched_hit(w->m, tokens, pages, got);
	return got;
}

static int32_t watch_insert(struct nvllm_cache *w, uint64_t salt, const int32_t *tokens, int32_t n_pages,
	int32_t *pages)
{
	int32_t pt = w->page_tokens, got;

	watched_insert(w->m, salt, tokens, n_pages, pages);
	got = w->vt->insert(w->inner, salt, tokens, n_pages, pages);
	for (int32_t i = 0; i < got; i++) {
		int32_t p = pages[i];

		if (!w->held[p])
			memcpy(w->contents + (int64_t)p * pt, w->m->contents + (int64_t)p * pt,
				(size_t)pt * sizeof(*w->contents));
		w->held[p] = true;
		w->pins[p]++;
	}
	return got;
}

static void watch_release(struct nvllm_cache *w, const int32_t *pages, int32_t n_pages)
{
	for (int32_t i = 0; i < n_pages; i++) {
		int32_t p = pages[i];

		MUST(w->m, p >= 0 && p < w->n_pages && w->pins[p] > 0, "page %d is released and not pinned", p);
		w->pins[p]--;
	}
	w->vt->release(w->inner, pages, n_pages);
}

static int32_t watch_evict(struct nvllm_cache *w, int32_t want, int32_t *pages)
{
	int32_t got;

	MUST(w->m, want > 0 && want <= w->n_pages, "evict is asked for %d pages of %d", want, w->n_pages);
	got = w->vt->evict(w->inner, want, pages);
	for (int32_t i = 0; i < got; i++) {
		int32_t p = pages[i];

		MUST(w->m, w->held[p] && !w->pins[p], "the policy gave up page %d, held %d, pinned %d times", p,
			w->held[p], w->pins[p]);
		w->held[p] = false;
		w->m->n_evicted++;
	}
	return got;
}

static void watch_stats(struct nvllm_cache *w, struct nvllm_cache_stats *st) { w->vt->stats(w->inner, st); }

static const struct nvllm_cache_vt watch_vt = {
	.size = sizeof(watch_vt), .match = watch_match, .insert = watch_insert, .release = watch_release,
	.evict = watch_evict, .stats = watch_stats,
};

/* The page it holds that ends with this hash; -1 = none. */
static int32_t watch_find(const struct nvllm_cache *w, uint64_t end)
{
	for (int32_t p = 0; p < w->n_pages; p++)
		if (w->held[p] && w->contents[(int64_t)(p + 1) * w->page_tokens - 1] == end)
			return p;
	return -1;
}
#endif
