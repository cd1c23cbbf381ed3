/* SPDX-License-Identifier: MIT */
/* nvllm/cache.h - which KV pages to keep, find and give up. Page numbers only: no
 * device, no memory, no kernels. The core owns the pages and their counts. */
#ifndef NVLLM_CACHE_H
#define NVLLM_CACHE_H

#include "host.h"
#include "option.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_cache;

struct nvllm_cache_stats {
	uint32_t size;
	uint32_t reserved;            /* 0 */
	int64_t held, pinned;         /* pages in the cache; of these, pinned: evict can give
	                               * up all of the held - pinned others */
	int64_t hit_tokens, asked_tokens; /* since create */
};

/* All [step] but where said. salt: requests with different salts share nothing. */
struct nvllm_cache_vt {
	uint32_t size;
	/* [setup] */
	int  (*create)(const struct nvllm_host *, int64_t n_pages, int32_t page_tokens,
		const void *conf, struct nvllm_cache **out);
	/* Longest cached prefix in whole pages, at most max_pages; pins and lists them.
	 * Returns the count. The core passes at most (n - 1) / page_tokens, so a prompt is
	 * never matched whole and there is always a row to compute. */
	int32_t (*match)(struct nvllm_cache *, uint64_t salt, const int32_t *tokens, int32_t n,
		int32_t *pages, int32_t max_pages);
	/* pages[0..n_pages) hold tokens[0..n_pages * page_tokens). Takes over those it keeps,
	 * pinned; where an equal prefix is held already, writes the held page to pages[i] and
	 * pins that: the core frees its own. A page that match pinned already is pinned once
	 * more. Returns how many pages, from the first, the
	 * cache now holds; the rest stay the core's. */
	int32_t (*insert)(struct nvllm_cache *, uint64_t salt, const int32_t *tokens,
		int32_t n_pages, int32_t *pages);
	/* Unpins once each page that match or insert pinned: all of a run, or its last ones, so
	 * that what comes before a pinned page is pinned too. */
	void (*release)(struct nvllm_cache *, const int32_t *pages, int32_t n_pages);
	/* Gives up to `want` unpinned pages back to the core, of a prefix the last ones first;
	 * returns how many it wrote: fewer only where no more are unpinned. */
	int32_t (*evict)(struct nvllm_cache *, int32_t want, int32_t *pages);
	/* Cheap: the scheduler asks before it evicts. */
	void (*stats)(struct nvllm_cache *, struct nvllm_cache_stats *);
	/* Walks everything: 0, or a status and a sentence. Tests call it after every step. */
	int  (*check)(struct nvllm_cache *);
	/* [setup] Optional. */
	void (*destroy)(struct nvllm_cache *);
};

#ifdef __cplusplus
}
#endif
#endif
