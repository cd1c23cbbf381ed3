/* SPDX-License-Identifier: MIT */
/* What sequences share: pages of equal prefixes, through the cache policy or with their
 * siblings; how such pages are held, copied before they are written, and given up. */
#include <assert.h>
#include <string.h>

#include "sched_int.h"

/* Steps in flight, and the one that may be in the making, know a page that is dropped now. */
void prefix_drop(struct sched *s, const int32_t *page, int32_t n)
{
	pages_drop(s->pages, page, n, s->in_flight ? s->epoch + 1 : 0);
	s->changes++;
}

void prefix_strip(struct sched *s, struct seq *q)
{
	if (q->n_pinned)
		s->vt->release(s->cache, q->pages, q->n_pinned);
	prefix_drop(s, q->pages, q->n_pages);
	q->n_pages = q->n_pinned = q->n_offered = 0;
	q->n_computed = q->n_landed = 0;
}

/* A policy's answers are looked at before they are believed: it may be anybody's plugin. */
static bool is_cached(const struct sched *s, int32_t page)
{
	return page >= 0 && page < s->lim.n_pages && s->cached[page];
}

int32_t prefix_evictable(const struct sched *s)
{
	struct nvllm_cache_stats st = { .size = sizeof(st) };
	int64_t n;

	if (!s->vt)
		return 0;
	s->vt->stats(s->cache, &st);
	n = st.held - st.pinned;
	return n < 0 ? 0 : n > s->lim.n_pages ? s->lim.n_pages : (int32_t)n;
}

int32_t prefix_match(struct sched *s, struct seq *q, int32_t most)
{
	int32_t hit = s->vt ? s->vt->match(s->cache, q->salt, q->tokens, q->n_tokens, q->pages, most) : 0;

	for (int32_t i = 0; i < hit; i++)
		if (hit > most || !is_cached(s, q->pages[i]))
			return 0;
	if (hit <= 0)
		return 0;
	pages_share(s->pages, q->pages, hit);
	return hit;
}

bool prefix_evict(struct sched *s, int32_t n)
{
	int32_t lack = n - pages_left(s->pages) - pages_deferred(s->pages), got, given = 1;

	for (; s->vt && given && lack > 0; lack = n - pages_left(s->pages) - pages_deferred(s->pages)) {
		given = 0;
		got = s->vt->evict(s->cache, lack, s->scratch);
		for (int32_t i = 0; i < got && i < lack; i++)
			if (is_cached(s, s->scratch[i])) {
				s->cached[s->scratch[i]] = false;
				prefix_drop(s, &s->scratch[i], 1);
				given++;
			}
	}
	return pages_left(s->pages) >= n;
}

bool prefix_shared(const struct sched *s, const struct seq *q, int32_t i)
{
	return pages_holders(s->pages, q->pages[i]) > 1;
}

void prefix_copy(struct sched *s, struct seq *q, int32_t i)
{
	struct sched_step *st = sched_making(s);
	int32_t old = q->pages[i];

	assert(i >= q->n_pinned); /* pinned pages are full: nobody writes there */
	prefix_drop(s, &old, 1);
	pages_grant(s->pages, 1, &q->pages[i]);
	st->copy[st->n_copies++] = (struct sched_copy){ old, q->pages[i] };
}

/* Leading full pages of q that are also a's, by tokens. */
static int32_t common_pages(const struct sched *s, const struct seq *a, const struct seq *q)
{
	int32_t pt = s->lim.page_tokens, most = (q->n_tokens - 1) / pt, n = 0;

	if (a->salt != q->salt)
		return 0;
	most = most < a->n_known / pt ? most : a->n_known / pt;
	while (n < most && !memcmp(a->tokens + n * pt, q->tokens + n * pt, (size_t)pt * sizeof(*q->tokens)))
		n++;
	return n;
}

bool prefix_wait(struct sched *s, struct seq *q, int32_t hit)
{
	for (const struct seq *a = s->running.head; a && s->vt && s->keeps; a = a->next) {
		int32_t n = a->n_landed < a->n_known - 1 ? common_pages(s, a, q) : 0;

		if (n <= hit || n * s->lim.page_tokens <= a->n_landed)
			continue;
		q->waits_for = a;
		q->waits_until = n * s->lim.page_tokens;
		return true;
	}
	return false;
}

/* The cache policy said that it holds q's page i as `held`: false where that cannot be. The
 * policy is a holder of its own, beside the sequences that use the page. */
static bool hand_over(struct sched *s, struct seq *q, int32_t i, int32_t held)
{
	if (held != q->pages[i] && !is_cached(s, held))
		return false;
	if (held != q->pages[i]) { /* an equal one that it had */
		prefix_drop(s, &q->pages[i], 1);
		q->pages[i] = held;
		pages_share(s->pages, &held, 1);
	}
	if (!s->cached[held])
		pages_share(s->pages, &held, 1);
	s->cached[held] = true;
	s->changes++;
	return true;
}

void prefix_offer(struct sched *s, struct seq *q)
{
	int32_t full = q->n_landed / s->lim.page_tokens, kept, i = q->n_pinned;

	if (!s->vt || full <= q->n_offered)
		return;
	memcpy(s->scratch, q->pages, (size_t)full * sizeof(*q->pages));
	kept = s->vt->insert(s->cache, q->salt, q->tokens, full, s->scratch);
	s->keeps = kept > 0;
	q->n_offered = full;
	if (q->n_pinned)
		s->vt->release(s->cache, q->pages, q->n_pinned); /* insert pinned them once more */
	while (i < kept && i < full && hand_over(s, q, i, s->scratch[i]))
		i++;
	q->n_pinned = i;
}

void prefix_share(struct sched *s, const struct seq *q)
{
	int32_t full = (q->n_prompt - 1) / s->lim.page_tokens, held = q->n_pinned < full ? q->n_pinned : full;

	for (struct seq *w = s->waiting.head; w && q->family; w = w->next) {
		int32_t hit = 0;

		if (w->family != q->family || w->n_pages || w->n_tokens != q->n_prompt)
			continue;
		if (held) /* through the policy, as q has them: it counts what it could give up */
			hit = prefix_match(s, w, held);
		w->n_pages = sched_pages_for(s, q->n_prompt);
		w->n_pinned = w->n_offered = hit;
		memcpy(w->pages + hit, q->pages + hit, (size_t)(w->n_pages - hit) * sizeof(*w->pages));
		pages_share(s->pages, w->pages + hit, w->n_pages - hit);
		w->n_computed = w->n_landed = q->n_prompt - 1;
		w->all_logits = false;
		w->waits_for = NULL;
	}
}
