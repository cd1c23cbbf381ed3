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
}

void prefix_give_back(struct sched *s, struct seq *q, int32_t from)
{
	if (from < q->n_pinned) {
		s->vt->release(s->cache, q->pages + from, q->n_pinned - from);
		prefix_drop(s, q->pages + q->n_pinned, q->n_pages - q->n_pinned);
		q->n_pinned = from;
	} else {
		prefix_drop(s, q->pages + from, q->n_pages - from);
	}
	q->n_pages = from;
	q->n_offered = q->n_offered < from ? q->n_offered : from;
}

void prefix_strip(struct sched *s, struct seq *q)
{
	prefix_give_back(s, q, 0);
	q->n_computed = q->n_landed = 0;
}

int32_t prefix_evictable(struct sched *s)
{
	struct nvllm_cache_stats st = { .size = sizeof(st) };

	if (!s->vt)
		return 0;
	s->vt->stats(s->cache, &st);
	return (int32_t)(st.held - st.pinned);
}

bool prefix_evict(struct sched *s, int32_t n)
{
	int32_t got = 1, lack = n - pages_left(s->pages) - pages_deferred(s->pages);

	while (s->vt && got > 0 && lack > 0) {
		got = s->vt->evict(s->cache, lack, s->scratch);
		for (int32_t i = 0; i < got; i++)
			s->cached[s->scratch[i]] = false;
		prefix_drop(s, s->scratch, got);
		lack = n - pages_left(s->pages) - pages_deferred(s->pages);
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
	for (const struct seq *a = s->running.head; a && s->keeps; a = a->next) {
		int32_t n = a->n_landed < a->n_known - 1 ? common_pages(s, a, q) : 0;

		if (n <= hit || n * s->lim.page_tokens <= a->n_landed)
			continue;
		q->waits_for = a;
		q->waits_until = n * s->lim.page_tokens;
		return true;
	}
	return false;
}

/* The cache policy said that it holds q's page i as `held`. */
static void hand_over(struct sched *s, struct seq *q, int32_t i, int32_t held)
{
	if (s->cached[held])
		prefix_drop(s, &q->pages[i], 1); /* an equal one, or the same: a holder less */
	s->cached[held] = true;
	q->pages[i] = held;
}

void prefix_offer(struct sched *s, struct seq *q)
{
	int32_t full = q->n_landed / s->lim.page_tokens, kept;

	if (!s->vt || full <= q->n_offered)
		return;
	memcpy(s->scratch, q->pages, (size_t)full * sizeof(*q->pages));
	kept = s->vt->insert(s->cache, q->salt, q->tokens, full, s->scratch);
	s->keeps = kept > 0;
	q->n_offered = full;
	if (q->n_pinned)
		s->vt->release(s->cache, q->pages, q->n_pinned); /* insert pinned them once more */
	for (int32_t i = q->n_pinned; i < kept; i++)
		hand_over(s, q, i, s->scratch[i]);
	q->n_pinned = kept > q->n_pinned ? kept : q->n_pinned;
}

void prefix_share(struct sched *s, const struct seq *q)
{
	int32_t full = (q->n_prompt - 1) / s->lim.page_tokens, held = q->n_pinned < full ? q->n_pinned : full;

	for (struct seq *w = s->waiting.head; w && q->family; w = w->next) {
		int32_t hit = 0;

		if (w->family != q->family || w->n_pages || w->n_tokens != q->n_prompt)
			continue;
		if (held) /* through the policy, as q has them: it counts what it could give up */
			hit = s->vt->match(s->cache, w->salt, w->tokens, w->n_tokens, w->pages, held);
		w->n_pages = sched_pages_for(s, q->n_prompt);
		w->n_pinned = w->n_offered = hit;
		memcpy(w->pages + hit, q->pages + hit, (size_t)(w->n_pages - hit) * sizeof(*w->pages));
		pages_share(s->pages, w->pages + hit, w->n_pages - hit);
		w->n_computed = w->n_landed = q->n_prompt - 1;
		w->all_logits = false;
		w->waits_for = NULL;
	}
}
