/* SPDX-License-Identifier: MIT */
/* Which sequences run next. Running ones first: decode rows, then chunks of prompts; then
 * as many waiting ones as budgets, slots and pages allow. A sequence gets the pages of all
 * it knows when it is admitted and one more as it grows; when there is none, cached pages
 * go first, then those that waiting sequences share, then the last running sequence is
 * preempted and computed again later. So the first in order always advances. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "sched_int.h"

/* ---- lists ---- */

static bool before(const struct sched *s, const struct seq *a, const struct seq *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority;
	if (s->lim.order == SCHED_LONGEST_FIRST && a->n_max != b->n_max)
		return a->n_max > b->n_max;
	return a->arrival < b->arrival;
}

static void list_put(const struct sched *s, struct list *l, struct seq *q)
{
	struct seq *at = l->tail;

	while (at && before(s, q, at))
		at = at->prev;
	q->prev = at;
	q->next = at ? at->next : l->head;
	*(q->next ? &q->next->prev : &l->tail) = q;
	*(at ? &at->next : &l->head) = q;
	l->n++;
}

static void list_drop(struct list *l, struct seq *q)
{
	*(q->next ? &q->next->prev : &l->tail) = q->prev;
	*(q->prev ? &q->prev->next : &l->head) = q->next;
	q->next = q->prev = NULL;
	l->n--;
}

/* ---- create, destroy, the door ---- */

static bool make_steps(struct sched *s)
{
	int32_t n = s->lim.run_ahead + 1;

	s->step = calloc((size_t)n, sizeof(*s->step));
	for (int32_t i = 0; s->step && i < n; i++) {
		s->step[i].entry = calloc((size_t)s->lim.max_seqs, sizeof(*s->step[i].entry));
		s->step[i].copy = calloc((size_t)s->lim.max_seqs * (size_t)(n + 1), sizeof(*s->step[i].copy));
		if (!s->step[i].entry || !s->step[i].copy)
			return false;
	}
	return s->step != NULL;
}

struct sched *sched_create(const struct sched_limits *lim, const struct nvllm_cache_vt *vt,
	struct nvllm_cache *cache)
{
	struct sched *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->lim = *lim;
	s->vt = cache ? vt : NULL;
	s->cache = cache;
	s->keeps = true;
	s->pages = pages_create(lim->n_pages);
	s->slot_used = calloc((size_t)lim->max_seqs, sizeof(*s->slot_used));
	s->scratch = calloc((size_t)lim->n_pages + 1, sizeof(*s->scratch));
	s->cached = calloc((size_t)lim->n_pages + 1, sizeof(*s->cached));
	if (s->pages && s->slot_used && s->scratch && s->cached && make_steps(s))
		return s;
	sched_destroy(s);
	return NULL;
}

void sched_destroy(struct sched *s)
{
	if (!s)
		return;
	for (int32_t i = 0; s->step && i <= s->lim.run_ahead; i++) {
		free(s->step[i].entry);
		free(s->step[i].copy);
	}
	free(s->step);
	pages_destroy(s->pages);
	free(s->slot_used);
	free(s->scratch);
	free(s->cached);
	free(s);
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
	q->arrival = ++s->arrivals;
	q->n_tokens = q->n_known = q->n_prompt;
	q->n_computed = q->n_landed = q->n_cached = q->n_admitted = q->n_preempted = 0;
	q->n_pages = q->n_pinned = q->n_offered = 0;
	q->waits_for = NULL;
	q->tried = 0;
	q->slot = -1;
	q->state = SEQ_WAITING;
	list_put(s, &s->waiting, q);
}

/* ---- pages of a sequence ---- */

/* Nobody waits for q any longer: it is not running. */
static void wake(struct sched *s, const struct seq *q)
{
	for (struct seq *w = s->waiting.head; w; w = w->next)
		if (w->waits_for == q)
			w->waits_for = NULL;
}

static void stop_running(struct sched *s, struct seq *q)
{
	list_drop(&s->running, q);
	wake(s, q);
	prefix_strip(s, q);
	s->slot_used[q->slot] = false;
	q->slot = -1;
}

void sched_remove(struct sched *s, struct seq *q)
{
	if (q->state == SEQ_WAITING) {
		list_drop(&s->waiting, q);
		prefix_strip(s, q);
	} else if (q->state == SEQ_RUNNING) {
		stop_running(s, q);
	}
	for (int32_t k = 0; k < s->in_flight; k++) {
		struct sched_step *st = &s->step[(s->oldest + k) % (s->lim.run_ahead + 1)];

		for (int32_t i = 0; i < st->n_seqs; i++)
			if (st->entry[i].seq == q)
				st->entry[i].seq = NULL;
	}
	if (s->stuck == q)
		s->stuck = NULL;
	q->state = SEQ_DONE;
}

/* Only with nothing in flight: all its tokens are known. */
static void preempt(struct sched *s, struct seq *q)
{
	stop_running(s, q);
	q->state = SEQ_WAITING;
	q->n_preempted++;
	s->preempted++;
	list_put(s, &s->waiting, q);
}

/* Takes back what one waiting sequence shares, the last in order; false: none does. */
static bool strip_waiting(struct sched *s, const struct seq *but)
{
	for (struct seq *w = s->waiting.tail; w; w = w->prev)
		if (w != but && w->n_pages) {
			prefix_strip(s, w);
			return true;
		}
	return false;
}

/* ---- rows ---- */

/* Is the page that q's next row goes to not there, or not q's alone? */
static bool lacks_page(const struct sched *s, const struct seq *q)
{
	int32_t i = q->n_computed / s->lim.page_tokens;

	return i == q->n_pages || prefix_shared(s, q, i);
}

/* One free page for the running q, if it lacks one: what is done to get it may also end
 * the sharing. False: not in this step. */
static bool make_room(struct sched *s, struct seq *q)
{
	while (lacks_page(s, q) && !prefix_evict(s, 1)) {
		if (s->in_flight)
			return false; /* first let the steps land: then all is known and nothing deferred */
		if (strip_waiting(s, NULL))
			continue;
		if (s->running.tail == q && s->running.head == q) {
			s->stuck = q;
			return false;
		}
		if (s->running.tail == q) {
			preempt(s, q);
			return false;
		}
		preempt(s, s->running.tail);
	}
	return true;
}

/* The page that q's next row goes to is there, and q's alone. */
static bool own_next_page(struct sched *s, struct seq *q)
{
	int32_t i = q->n_computed / s->lim.page_tokens;

	if (!make_room(s, q))
		return false;
	if (i == q->n_pages)
		pages_grant(s->pages, 1, &q->pages[q->n_pages++]);
	else if (prefix_shared(s, q, i))
		prefix_copy(s, q, i);
	return true;
}

/* Adds q's next rows to the step as far as the budgets have room. */
static void take_rows(struct sched *s, struct seq *q, bool admitted)
{
	struct sched_step *st = sched_making(s);
	int32_t n = q->n_tokens - q->n_computed, all = n, logits = s->lim.max_logits - st->n_logits;
	bool every = q->all_logits && q->n_computed < q->n_prompt;

	if (n > s->lim.max_tokens - st->n_tokens)
		n = s->lim.max_tokens - st->n_tokens;
	if (every && n > logits)
		n = logits;
	if (n <= 0)
		return;
	st->entry[st->n_seqs++] = (struct sched_entry){
		.seq = q, .slot = q->slot, .from = q->n_computed, .n = n, .samples = n == all,
		.n_logits = every ? n : n == all, .admitted = admitted,
	};
	st->n_tokens += n;
	st->n_logits += every ? n : n == all;
}

static int32_t rows_left(const struct seq *q)
{
	return q->n_tokens < q->n_max ? q->n_tokens - q->n_computed : 0;
}

/* Room beside `kept` rows. */
static bool budget_left(struct sched *s, int32_t kept)
{
	const struct sched_step *st = sched_making(s);

	return st->n_tokens + kept < s->lim.max_tokens && st->n_logits + kept < s->lim.max_logits;
}

/* ---- admission ---- */

static bool sibling_computes(const struct sched *s, const struct seq *q)
{
	for (const struct seq *a = s->running.head; a && q->family; a = a->next)
		if (a->family == q->family && a->n_known == a->n_admitted)
			return true;
	return false;
}

/* Pages that must be free beside those q wants: the running ones will grow. */
static int32_t watermark(const struct sched *s) { return s->running.n; }

/* Pages for all tokens of q, cached ones first; all or nothing. */
static bool grant_all(struct sched *s, struct seq *q)
{
	int32_t need = sched_pages_for(s, q->n_tokens), hit = 0;

	if (q->tried == s->changes + 1)
		return false; /* nothing has changed: do not make its pages look sought after */
	if (!q->all_logits)
		/* never the whole: one row must be computed to have logits */
		hit = prefix_match(s, q, (q->n_tokens - 1) / s->lim.page_tokens);
	q->n_pages = q->n_pinned = q->n_offered = hit;
	if (!q->all_logits && prefix_wait(s, q, hit)) {
		prefix_strip(s, q);
		return false;
	}
	if (pages_left(s->pages) + prefix_evictable(s) < need - hit + watermark(s) || !prefix_evict(s, need - hit)) {
		prefix_strip(s, q);
		q->tried = s->changes + 1;
		return false;
	}
	pages_grant(s->pages, need - hit, q->pages + hit);
	q->n_pages = need;
	q->n_computed = q->n_landed = hit * s->lim.page_tokens;
	return true;
}

/* q holds the pages of its prompt with its siblings: the last one becomes its own. */
static bool grant_shared(struct sched *s, struct seq *q)
{
	int32_t i = q->n_computed / s->lim.page_tokens;

	if (!prefix_shared(s, q, i))
		return true;
	if (pages_left(s->pages) + prefix_evictable(s) < 1 + watermark(s) || !prefix_evict(s, 1))
		return !prefix_shared(s, q, i); /* the cache may have been the other holder */
	if (prefix_shared(s, q, i))
		prefix_copy(s, q, i);
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

static void admit(struct sched *s, struct seq *q)
{
	list_drop(&s->waiting, q);
	list_put(s, &s->running, q);
	q->slot = slot_take(s);
	q->state = SEQ_RUNNING;
	q->n_admitted = q->n_known;
	if (!q->n_preempted)
		q->n_cached = q->n_computed;
	take_rows(s, q, true);
}

/* Waiting ones in order. One that lacks pages stops those behind it; one that waits for a
 * prefix does not. Returns the one that lacked pages. */
static struct seq *admit_waiting(struct sched *s)
{
	struct seq *next;

	for (struct seq *q = s->waiting.head; q; q = next) {
		next = q->next;
		if (s->running.n == s->lim.max_seqs || !budget_left(s, s->held))
			return NULL;
		if (q->waits_for && q->waits_for->n_landed < q->waits_until)
			continue;
		q->waits_for = NULL;
		if (!q->n_pages && sibling_computes(s, q))
			continue;
		if (q->n_pages ? grant_shared(s, q) : grant_all(s, q))
			admit(s, q);
		else if (!q->waits_for)
			return q;
	}
	return NULL;
}

/* ---- a step ---- */

/* Decode rows, in order; false: a page can only come from steps in flight. They never fill
 * the budget where a prompt is being computed: it was admitted beside them. */
static bool take_decodes(struct sched *s)
{
	struct seq *next;

	for (struct seq *q = s->running.head; q && budget_left(s, 0); q = next) {
		if (rows_left(q) == 1 && q->lockstep && q->n_known < q->n_tokens) {
			s->held++;
		} else if (rows_left(q) == 1) {
			if (!own_next_page(s, q))
				return q->state == SEQ_WAITING; /* preempted: it was the last */
			take_rows(s, q, false);
		}
		next = q->next; /* now: making room may have taken the one behind */
	}
	return true;
}

static void take_chunks(struct sched *s)
{
	for (struct seq *q = s->running.head; q && budget_left(s, 0); q = q->next)
		if (rows_left(q) > 1)
			take_rows(s, q, false);
}

/* The one place where counts change: all pages are granted. */
static const struct sched_step *issue(struct sched *s)
{
	struct sched_step *st = sched_making(s);
	int32_t at = 0;

	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct sched_entry *e = &st->entry[i];

		e->logit_from = at;
		at += e->n_logits;
		e->seq->n_computed += e->n;
		e->seq->n_tokens += e->samples;
	}
	assert(at == st->n_logits);
	st->epoch = ++s->epoch;
	s->made = false;
	s->in_flight++;
	return st;
}

const struct sched_step *sched_next(struct sched *s)
{
	struct sched_step *st = sched_making(s);
	struct seq *lacking;

	s->stuck = NULL;
	s->held = 0;
	if (s->in_flight > s->lim.run_ahead)
		return NULL;
	st->n_seqs = st->n_tokens = st->n_logits = 0;
	if (!s->made) /* copies of a try that came to nothing are still to be made */
		st->n_copies = 0;
	s->made = true;
	if (!take_decodes(s))
		return NULL;
	take_chunks(s);
	lacking = admit_waiting(s);
	if (lacking && !st->n_seqs && !s->in_flight) {
		/* nothing else runs: what others share goes first, then its own share */
		while (strip_waiting(s, lacking))
			;
		lacking = admit_waiting(s);
		if (lacking)
			prefix_strip(s, lacking);
		lacking = lacking ? admit_waiting(s) : NULL;
		s->stuck = st->n_seqs ? NULL : lacking;
	}
	return st->n_seqs ? issue(s) : NULL;
}

/* ---- a step is done ---- */

static void land(struct sched *s, const struct sched_entry *e, const int32_t *tokens)
{
	struct seq *q = e->seq;

	q->n_landed = e->from + e->n;
	if (e->samples)
		q->tokens[q->n_known++] = tokens[e->logit_from + e->n_logits - 1];
	prefix_offer(s, q);
	if (q->n_landed >= q->n_prompt)
		q->all_logits = false;
	if (e->samples && q->n_known == q->n_admitted + 1)
		prefix_share(s, q); /* its first since it was admitted: from here on it writes row by row */
}

void sched_commit(struct sched *s, const int32_t *tokens)
{
	const struct sched_step *st = &s->step[s->oldest];

	assert(s->in_flight > 0);
	for (int32_t i = 0; i < st->n_seqs; i++)
		if (st->entry[i].seq)
			land(s, &st->entry[i], tokens);
	s->oldest = (s->oldest + 1) % (s->lim.run_ahead + 1);
	s->in_flight--;
	s->changes += pages_deferred(s->pages) > 0;
	pages_done(s->pages, s->in_flight ? st->epoch : UINT64_MAX);
}

const struct sched_step *sched_oldest(const struct sched *s)
{
	return s->in_flight ? &s->step[s->oldest] : NULL;
}

int32_t sched_in_flight(const struct sched *s) { return s->in_flight; }
struct seq *sched_stuck(const struct sched *s) { return s->stuck; }
const struct pages *sched_pages(const struct sched *s) { return s->pages; }

void sched_count(const struct sched *s, struct sched_counts *c)
{
	*c = (struct sched_counts){ .running = s->running.n, .waiting = s->waiting.n, .preempted = s->preempted,
		.pages_used = s->lim.n_pages - pages_left(s->pages), .pages_cached = prefix_evictable(s) };
}
