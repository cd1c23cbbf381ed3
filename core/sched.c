/* SPDX-License-Identifier: MIT */
/* Which sequences run next. Arrival order; running sequences first (a decode row or the
 * next chunk of a prompt), then as many waiting ones as the step's budgets, the slots and
 * the pages allow. A sequence gets the pages of its longest possible length when it is
 * admitted, so whatever runs can always go on. */
#include <assert.h>
#include <stdlib.h>

#include "core.h"
#include "scheduler.h"

struct queue { struct seq *head, **tail; int32_t n; };

struct sched {
	struct sched_limits lim;
	const struct nvllm_cache_vt *vt;
	struct nvllm_cache *cache;
	struct pages *pages;
	struct queue waiting, running;
	bool *slot_used;           /* [max_seqs] */
	struct sched_step step;
	int32_t *pinned;           /* [n_pages] scratch */
};

static void queue_init(struct queue *q) { *q = (struct queue){ .tail = &q->head }; }

static void queue_push(struct queue *q, struct seq *s)
{
	s->next = NULL;
	*q->tail = s;
	q->tail = &s->next;
	q->n++;
}

static void queue_drop(struct queue *q, struct seq *s)
{
	for (struct seq **at = &q->head; *at; at = &(*at)->next) {
		if (*at != s)
			continue;
		*at = s->next;
		if (!s->next)
			q->tail = at;
		q->n--;
		return;
	}
	assert(!"a sequence is in the queue its state names");
}

struct sched *sched_create(const struct sched_limits *lim, const struct nvllm_cache_vt *vt,
	struct nvllm_cache *cache)
{
	struct sched *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->lim = *lim;
	s->vt = vt;
	s->cache = cache;
	queue_init(&s->waiting);
	queue_init(&s->running);
	s->pages = pages_create(lim->n_pages);
	s->slot_used = calloc((size_t)lim->max_seqs, sizeof(*s->slot_used));
	s->step.entry = calloc((size_t)lim->max_seqs, sizeof(*s->step.entry));
	s->pinned = calloc((size_t)lim->n_pages + 1, sizeof(*s->pinned));
	if (s->pages && s->slot_used && s->step.entry && s->pinned)
		return s;
	sched_destroy(s);
	return NULL;
}

void sched_destroy(struct sched *s)
{
	if (!s)
		return;
	pages_destroy(s->pages);
	free(s->slot_used);
	free(s->step.entry);
	free(s->pinned);
	free(s);
}

static int32_t pages_for(const struct sched *s, int64_t n_tokens)
{
	return (int32_t)((n_tokens + s->lim.page_tokens - 1) / s->lim.page_tokens);
}

int sched_admissible(const struct sched *s, int64_t n_max)
{
	int64_t room = (int64_t)s->lim.n_pages * s->lim.page_tokens;

	if (n_max <= room)
		return NVLLM_OK;
	return fail(NVLLM_EINVAL, "prompt and max_tokens together are %lld tokens; the KV cache holds %lld: "
		"lower max_tokens or raise [engine] memory", (long long)n_max, (long long)room);
}

void sched_add(struct sched *s, struct seq *q)
{
	q->n_tokens = q->n_prompt;
	q->n_computed = q->n_cached = q->n_pages = q->n_pinned = 0;
	q->slot = -1;
	q->state = SEQ_WAITING;
	queue_push(&s->waiting, q);
}

/* Pages of a finished sequence: full ones are offered to the cache policy, the rest go
 * back to the pool. */
static void give_back(struct sched *s, struct seq *q)
{
	int32_t kept = 0, full = q->n_computed / s->lim.page_tokens;

	if (s->vt && full > 0) {
		for (int32_t i = 0; i < full; i++)
			s->pinned[i] = q->pages[i];
		kept = s->vt->insert(s->cache, q->salt, q->tokens, full, s->pinned);
		for (int32_t i = q->n_pinned; i < kept; i++)
			if (s->pinned[i] != q->pages[i]) /* an equal page was there already */
				pages_free(s->pages, &q->pages[i], 1);
		if (kept > 0)
			s->vt->release(s->cache, s->pinned, kept);
	}
	if (s->vt && q->n_pinned > 0)
		s->vt->release(s->cache, q->pages, q->n_pinned);
	if (kept < q->n_pinned)
		kept = q->n_pinned;
	pages_free(s->pages, q->pages + kept, q->n_pages - kept);
	q->n_pages = q->n_pinned = 0;
}

void sched_remove(struct sched *s, struct seq *q)
{
	if (q->state == SEQ_WAITING)
		queue_drop(&s->waiting, q);
	if (q->state == SEQ_RUNNING) {
		queue_drop(&s->running, q);
		give_back(s, q);
		s->slot_used[q->slot] = false;
	}
	q->state = SEQ_DONE;
}

/* Pages for the whole of q, cached ones first; all or nothing. */
static bool grant(struct sched *s, struct seq *q)
{
	int32_t need = pages_for(s, q->n_max), hit = 0, got;

	/* never the whole prompt: one row must be computed to have logits */
	if (s->vt && !q->all_logits)
		hit = s->vt->match(s->cache, q->salt, q->tokens, q->n_prompt, q->pages,
			(q->n_prompt - 1) / s->lim.page_tokens);
	if (s->vt && need - hit > pages_left(s->pages)) {
		got = s->vt->evict(s->cache, need - hit - pages_left(s->pages), s->pinned);
		pages_free(s->pages, s->pinned, got);
	}
	if (!pages_grant(s->pages, need - hit, q->pages + hit)) {
		if (hit > 0)
			s->vt->release(s->cache, q->pages, hit);
		return false;
	}
	q->n_pages = need;
	q->n_pinned = hit;
	q->n_cached = q->n_computed = hit * s->lim.page_tokens;
	return true;
}

static int32_t slot_take(struct sched *s)
{
	for (int32_t i = 0; i < s->lim.max_seqs; i++)
		if (!s->slot_used[i]) {
			s->slot_used[i] = true;
			return i;
		}
	return -1;
}

/* Adds q's next rows to the step if the budgets have room. */
static bool take_rows(struct sched *s, struct seq *q)
{
	struct sched_step *st = &s->step;
	int32_t n = q->n_tokens - q->n_computed, logits;

	if (n > s->lim.max_tokens - st->n_tokens)
		n = s->lim.max_tokens - st->n_tokens;
	if (q->all_logits && n > s->lim.max_logits - st->n_logits)
		n = s->lim.max_logits - st->n_logits;
	if (n <= 0 || st->n_logits == s->lim.max_logits)
		return false;
	logits = q->all_logits && q->n_computed < q->n_prompt ? n : q->n_computed + n == q->n_tokens;
	st->entry[st->n_seqs++] = (struct sched_entry){
		.seq = q, .from = q->n_computed, .n = n, .logit_from = st->n_logits, .n_logits = logits,
		.samples = q->n_computed + n == q->n_tokens,
	};
	st->n_tokens += n;
	st->n_logits += logits;
	return true;
}

const struct sched_step *sched_next(struct sched *s)
{
	s->step.n_seqs = s->step.n_tokens = s->step.n_logits = 0;
	for (struct seq *q = s->running.head; q; q = q->next)
		if (!take_rows(s, q))
			break;
	while (s->waiting.head && s->running.n < s->lim.max_seqs &&
	       s->step.n_tokens < s->lim.max_tokens && s->step.n_logits < s->lim.max_logits) {
		struct seq *q = s->waiting.head;

		if (!grant(s, q))
			break;
		queue_drop(&s->waiting, q);
		queue_push(&s->running, q);
		q->slot = slot_take(s);
		q->state = SEQ_RUNNING;
		take_rows(s, q);
	}
	return s->step.n_seqs ? &s->step : NULL;
}

void sched_commit(struct sched *s, const struct sched_step *st, const int32_t *token)
{
	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		struct seq *q = e->seq;

		q->n_computed = e->from + e->n;
		if (e->samples && q->n_tokens < q->n_max)
			q->tokens[q->n_tokens++] = token[e->logit_from + e->n_logits - 1];
	}
	(void)s;
}

void sched_counts(const struct sched *s, int32_t *running, int32_t *waiting, int64_t *pages_used)
{
	*running = s->running.n;
	*waiting = s->waiting.n;
	*pages_used = s->lim.n_pages - pages_left(s->pages);
}
