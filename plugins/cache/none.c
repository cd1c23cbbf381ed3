/* SPDX-License-Identifier: MIT */
/* none - the cache policy that keeps nothing: every prompt is computed whole. */
#include <nvllm/cache.h>
#include <nvllm/plugin.h>

struct nvllm_cache {
	int64_t asked_tokens;
};

static int create(const struct nvllm_host *host, int64_t n_pages, int32_t page_tokens,
	const void *conf, struct nvllm_cache **out)
{
	(void)n_pages, (void)page_tokens, (void)conf;
	*out = host->alloc(host, sizeof(**out));
	return *out ? NVLLM_OK : host->fail(host, NVLLM_ENOMEM, "no memory for the cache policy");
}

static int32_t match(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens, int32_t n,
	int32_t *pages, int32_t max_pages)
{
	(void)salt, (void)tokens, (void)pages, (void)max_pages;
	c->asked_tokens += n;
	return 0;
}

static int32_t insert(struct nvllm_cache *c, uint64_t salt, const int32_t *tokens,
	int32_t n_pages, int32_t *pages)
{
	(void)c, (void)salt, (void)tokens, (void)n_pages, (void)pages;
	return 0;
}

static void release(struct nvllm_cache *c, const int32_t *pages, int32_t n_pages)
{
	(void)c, (void)pages, (void)n_pages;
}

static int32_t evict(struct nvllm_cache *c, int32_t want, int32_t *pages)
{
	(void)c, (void)want, (void)pages;
	return 0;
}

static void stats(struct nvllm_cache *c, struct nvllm_cache_stats *s)
{
	s->held = s->pinned = s->hit_tokens = 0;
	s->asked_tokens = c->asked_tokens;
}

static int check(struct nvllm_cache *c)
{
	(void)c;
	return NVLLM_OK;
}

static const struct nvllm_cache_vt vt = {
	.size = sizeof(vt), .create = create, .match = match, .insert = insert,
	.release = release, .evict = evict, .stats = stats, .check = check,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_CACHE, .name = "none",
	.summary = "keeps no pages: every prompt is computed whole", .vt = &vt,
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "cache_none",
	.version = "0.1.0", .components = components,
};
