/* SPDX-License-Identifier: MIT */
/* sched_model.h - what must be true of the scheduler, asked after every operation: a world
 * of sequences, a device that is nothing but the contents of its pages, and the engine's
 * part of the bargain. test_sched drives it by hand, fuzz_sched and long_sched by bytes.
 *
 * The device runs a step when it is issued: a row leaves in its place of its page a hash of
 * the salt and all tokens up to it. What a sequence reads must be its own history, so a page
 * that is stale, shared wrongly, hit wrongly, not copied or written twice shows at once. */
#ifndef SCHED_MODEL_H
#define SCHED_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "scheduler.h"

enum { MODEL_REQS = 31, MODEL_FLIGHT = 4, OWNER_CACHE = 31, TOKEN_JUNK = -7 };

struct model;

/* One sequence and what the model expects of it. */
struct req {
	struct seq seq;            /* first: a struct seq is its struct req */
	int32_t id, place;         /* in model.req */
	bool all_logits, fresh, ended;
	int32_t state, n_tokens, n_known, n_computed, n_landed, n_offered, n_preempted, n_cached, n_pages;
	uint64_t arrival, will;    /* will: what it would like to draw */
	uint64_t *hash;            /* [n_max] of the tokens up to each */
	int32_t *token;            /* [n_max] as the device knows them */
	bool *shown;               /* [n_prompt] had its row of logits */
};

struct flight {
	const struct sched_step *step;
	struct sched_entry *entry; /* [max_seqs] as they were issued */
	int32_t *token;            /* [max_logits] drawn */
	int32_t n;
	uint64_t epoch;
};

struct model {
	struct sched_limits lim;
	struct sched *s;
	struct nvllm_cache *watch; /* NULL: no policy (sched_policy.h) */
	struct req *req[MODEL_REQS];
	uint64_t *contents;        /* [n_pages][page_tokens] */
	uint32_t *owners, *owned;  /* [n_pages] bit of each holder: now, and before this operation */
	int32_t *priv, *pins;      /* [n_pages] sequences that list it as their own, and as the policy's */
	bool *granted;             /* [n_pages] since the device last ran */
	uint64_t *dropped;         /* [n_pages] newest step when its last holder went */
	struct flight flight[MODEL_FLIGHT];
	int32_t oldest, in_flight, next_id;
	uint64_t epoch, done, arrivals;
	uint64_t end_mask;         /* a draw whose hash has these bits all zero ends the answer */
	bool committing;
	bool lazy;                 /* what is over is removed before the next step, not at once */
	FILE *trace;               /* NULL: quiet */
	void (*dump)(void);        /* keeps what led here, for a failure; NULL: nothing */
	/* what has happened: a test that reaches nothing shows nothing */
	int64_t n_ops, n_rows, n_steps, n_copies, n_finished, n_preempted, n_hits, n_shares, n_strips,
		n_late, n_nulled, n_evicted, n_waits;
};

/* Says what is wrong and stops the program, so that a debugger or a fuzzer has the place. */
__attribute__((format(printf, 2, 3), noreturn)) static void model_broken(
	struct model *m, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sched model, operation %lld, step %llu, %d in flight: ", (long long)m->n_ops,
		(unsigned long long)m->epoch, m->in_flight);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (m->dump)
		m->dump();
	__builtin_trap();
}

#define MUST(m, truth, ...) do { if (!(truth)) model_broken(m, __VA_ARGS__); } while (0)
#define TELL(m, ...) do { if ((m)->trace) fprintf((m)->trace, __VA_ARGS__); } while (0)

#include "sched_policy.h"

static uint64_t hash_on(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
	h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
	return h ^ (h >> 32);
}

static uint64_t hash_begin(uint64_t salt) { return hash_on(1, salt); }

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t rows_of(const struct req *r)
{
	return r->n_tokens < r->seq.n_max ? r->n_tokens - r->n_computed : 0;
}

static int32_t pages_of(const struct model *m, int32_t n_tokens)
{
	return (n_tokens + m->lim.page_tokens - 1) / m->lim.page_tokens;
}

static bool goes_before(const struct model *m, const struct req *a, const struct req *b)
{
	if (a->seq.priority != b->seq.priority)
		return a->seq.priority < b->seq.priority;
	if (m->lim.order == SCHED_LONGEST_FIRST && a->seq.n_max != b->seq.n_max)
		return a->seq.n_max > b->seq.n_max;
	return a->arrival < b->arrival;
}

/* ---- make and end ---- */

/* inner NULL: no policy. temper: what is to be expected of it. It is destroyed with the model. */
static struct model *model_create(const struct sched_limits *lim, struct nvllm_cache *inner,
	const struct nvllm_cache_vt *inner_vt, enum policy_temper temper)
{
	struct model *m = calloc(1, sizeof(*m));
	size_t n = (size_t)lim->n_pages;

	m->lim = *lim;
	m->end_mask = 15;
	m->contents = calloc(n * (size_t)lim->page_tokens, sizeof(*m->contents));
	m->owners = calloc(n, sizeof(*m->owners));
	m->owned = calloc(n, sizeof(*m->owned));
	m->priv = calloc(n, sizeof(*m->priv));
	m->pins = calloc(n, sizeof(*m->pins));
	m->granted = calloc(n, sizeof(*m->granted));
	m->dropped = calloc(n, sizeof(*m->dropped));
	for (int i = 0; i < MODEL_FLIGHT; i++) {
		m->flight[i].entry = calloc((size_t)lim->max_seqs, sizeof(*m->flight[i].entry));
		m->flight[i].token = calloc((size_t)lim->max_logits, sizeof(*m->flight[i].token));
	}
	if (inner)
		m->watch = watch_create(m, inner, inner_vt, temper);
	m->s = sched_create(lim, inner ? &watch_vt : NULL, m->watch);
	MUST(m, m->s, "sched_create gave nothing");
	return m;
}

/* With the brute policy of that temper, or without any. */
static struct model *model_brute(const struct sched_limits *lim, enum policy_temper temper)
{
	if (temper == POLICY_NONE)
		return model_create(lim, NULL, NULL, temper);
	return model_create(lim, brute_create(lim->n_pages, lim->page_tokens, temper), &brute_vt, temper);
}

static void req_free(struct req *r)
{
	free(r->seq.tokens);
	free(r->seq.pages);
	free(r->hash);
	free(r->token);
	free(r->shown);
	free(r);
}

/* Whatever is still queued, running or in flight. */
static void model_destroy(struct model *m)
{
	sched_destroy(m->s);
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i])
			req_free(m->req[i]);
	for (int i = 0; i < MODEL_FLIGHT; i++) {
		free(m->flight[i].entry);
		free(m->flight[i].token);
	}
	if (m->watch)
		watch_destroy(m->watch);
	free(m->contents);
	free(m->owners);
	free(m->owned);
	free(m->priv);
	free(m->pins);
	free(m->granted);
	free(m->dropped);
	free(m);
}

/* ---- what is true after every operation ---- */

/* The holders of each page, by the sequences' own lists and the watched policy. */
static void count_owners(struct model *m)
{
	size_t n = (size_t)m->lim.n_pages;
	uint32_t *swap = m->owned;

	m->owned = m->owners;
	m->owners = swap;
	memset(m->owners, 0, n * sizeof(*m->owners));
	memset(m->priv, 0, n * sizeof(*m->priv));
	memset(m->pins, 0, n * sizeof(*m->pins));
	for (int k = 0; k < MODEL_REQS; k++) {
		const struct req *r = m->req[k];

		for (int32_t i = 0; r && i < r->seq.n_pages; i++) {
			int32_t p = r->seq.pages[i];

			MUST(m, p >= 0 && p < m->lim.n_pages, "sequence %d has page %d", r->id, p);
			MUST(m, !(m->owners[p] >> k & 1), "sequence %d has page %d twice", r->id, p);
			m->owners[p] |= 1u << k;
			(i < r->seq.n_pinned ? m->pins : m->priv)[p]++;
		}
	}
	for (int32_t p = 0; m->watch && p < m->lim.n_pages; p++)
		if (watch_holds(m->watch, p))
			m->owners[p] |= 1u << OWNER_CACHE;
}

/* Nobody got a page that a step in flight knew from another holder. */
static void check_handover(struct model *m, int32_t p)
{
	if (m->owned[p] && !m->owners[p])
		m->dropped[p] = m->epoch;
	if (!m->owners[p] || m->owners[p] & m->owned[p])
		return;
	MUST(m, m->dropped[p] <= m->done, "page %d was granted while step %llu, which knew it, is in flight",
		p, (unsigned long long)m->dropped[p]);
	MUST(m, !m->owned[p] || !m->in_flight, "page %d changed hands with steps in flight", p);
	m->granted[p] = true;
}

static void check_pages(struct model *m)
{
	const struct pages *pages = sched_pages(m->s);
	int32_t nobodys = 0, cached = 0;
	struct sched_counts c = { 0 };

	for (int32_t p = 0; p < m->lim.n_pages; p++) {
		int32_t held = m->owners[p] >> OWNER_CACHE;

		MUST(m, pages_holders(pages, p) == m->priv[p] + m->pins[p] + held,
			"page %d has %d holders, but %d sequences of its own and the policy %d", p,
			pages_holders(pages, p), m->priv[p], held);
		MUST(m, held || !m->pins[p], "page %d is pinned and the policy has it not", p);
		MUST(m, !m->watch || watch_pins(m->watch, p) == m->pins[p],
			"page %d is pinned %d times, but %d sequences list it so", p,
			m->watch ? watch_pins(m->watch, p) : 0, m->pins[p]);
		nobodys += !m->owners[p];
		cached += held && !m->pins[p];
		check_handover(m, p);
	}
	MUST(m, pages_left(pages) + pages_deferred(pages) == nobodys, "%d pages free and %d deferred, %d are nobody's",
		pages_left(pages), pages_deferred(pages), nobodys);
	MUST(m, m->in_flight || !pages_deferred(pages), "%d pages wait and nothing is in flight", pages_deferred(pages));
	sched_count(m->s, &c);
	MUST(m, c.pages_used == m->lim.n_pages - pages_left(pages), "pages_used is %d, %d are free",
		(int)c.pages_used, pages_left(pages));
	MUST(m, c.pages_cached == cached, "pages_cached is %d, %d are held and not pinned", (int)c.pages_cached, cached);
	MUST(m, c.preempted == m->n_preempted, "preempted is %d, it was %d", (int)c.preempted, (int)m->n_preempted);
}

/* What a sequence counts as computed is its own history, in its own pages. */
static void check_contents(struct model *m, const struct req *r)
{
	int32_t pt = m->lim.page_tokens;

	for (int32_t at = 0; at < r->n_computed; at += pt) {
		int32_t p = r->seq.pages[at / pt], n = least(pt, r->n_computed - at);

		if (m->granted[p]) /* its copy is to come with the next step */
			continue;
		MUST(m, !memcmp(m->contents + (int64_t)p * pt, r->hash + at, (size_t)n * sizeof(*r->hash)),
			"sequence %d: page %d of it (number %d) is not its tokens %d..%d", r->id, at / pt, p, at, at + n - 1);
	}
}

static void check_mirror(struct model *m, const struct req *r)
{
	const struct seq *q = &r->seq;

	MUST(m, q->state == r->state, "sequence %d: state %d, not %d", r->id, q->state, r->state);
	MUST(m, q->n_tokens == r->n_tokens && q->n_known == r->n_known && q->n_computed == r->n_computed &&
		q->n_landed == r->n_landed,
		"sequence %d: tokens %d known %d computed %d landed %d, not %d %d %d %d", r->id, q->n_tokens,
		q->n_known, q->n_computed, q->n_landed, r->n_tokens, r->n_known, r->n_computed, r->n_landed);
	MUST(m, q->n_computed <= q->n_pages * m->lim.page_tokens, "sequence %d: %d computed in %d pages", r->id,
		q->n_computed, q->n_pages);
	MUST(m, q->n_pages <= pages_of(m, q->n_max) && q->n_pinned <= q->n_pages && q->n_pinned >= 0,
		"sequence %d: %d pages, %d pinned", r->id, q->n_pages, q->n_pinned);
	MUST(m, q->n_preempted == r->n_preempted && q->n_cached == r->n_cached, "sequence %d: preempted %d times, "
		"%d tokens cached, not %d, %d", r->id, q->n_preempted, q->n_cached, r->n_preempted, r->n_cached);
	MUST(m, q->arrival && !memcmp(q->tokens, r->token, (size_t)q->n_known * sizeof(*q->tokens)),
		"sequence %d: its tokens are not those it was given and drew", r->id);
	MUST(m, r->state == SEQ_RUNNING ? q->slot >= 0 && q->slot < m->lim.max_seqs : q->slot == -1,
		"sequence %d: slot %d in state %d", r->id, q->slot, q->state);
	check_contents(m, r);
}

/* Each list has every sequence of its state once, in order. */
static void check_list(struct model *m, int32_t state, int32_t n)
{
	const struct req *head = NULL, *r;
	uint32_t slots = 0;
	int32_t seen = 0;

	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && m->req[i]->state == state && !m->req[i]->seq.prev) {
			MUST(m, !head, "two sequences of state %d are first", state);
			head = m->req[i];
		}
	for (r = head; r; r = (const struct req *)r->seq.next, seen++) {
		const struct req *next = (const struct req *)r->seq.next;

		MUST(m, r->state == state && seen < n, "sequence %d is in the list of state %d", r->id, state);
		MUST(m, !next || next->seq.prev == &r->seq, "sequence %d: its next does not know it", r->id);
		MUST(m, !next || goes_before(m, r, next), "sequence %d goes before %d", r->id, next->id);
		MUST(m, state != SEQ_RUNNING || r->seq.slot > 31 || !(slots >> r->seq.slot & 1),
			"slot %d has two sequences", r->seq.slot);
		slots |= state == SEQ_RUNNING && r->seq.slot < 32 ? 1u << r->seq.slot : 0;
	}
	MUST(m, seen == n, "%d of %d sequences of state %d are in its list", seen, n, state);
}

static bool is_running(const struct model *m, const struct seq *q)
{
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && &m->req[i]->seq == q)
			return m->req[i]->state == SEQ_RUNNING;
	return false;
}

/* Leading full pages that both have, by tokens and salt. */
static int32_t common_pages(const struct model *m, const struct req *a, const struct req *q)
{
	int32_t pt = m->lim.page_tokens, n = 0, most = least((q->n_tokens - 1) / pt, a->n_known / pt);

	while (n < most && a->hash[(n + 1) * pt - 1] == q->hash[(n + 1) * pt - 1])
		n++;
	return n;
}

/* The engine would wait for ever on one that is gone, or that computes something else. */
static void check_waits(struct model *m, const struct req *r)
{
	const struct req *a = (const struct req *)r->seq.waits_for;

	if (!a)
		return;
	MUST(m, r->state == SEQ_WAITING && !r->seq.n_pages && is_running(m, &a->seq), "sequence %d waits for one that does not run", r->id);
	MUST(m, r->seq.waits_until <= common_pages(m, a, r) * m->lim.page_tokens && r->seq.waits_until > 0,
		"sequence %d waits for %d tokens of %d, which are not its own", r->id, r->seq.waits_until, a->id);
}

static void check_flight(struct model *m)
{
	MUST(m, sched_in_flight(m->s) == m->in_flight, "%d steps in flight, not %d", sched_in_flight(m->s), m->in_flight);
	MUST(m, sched_oldest(m->s) == (m->in_flight ? m->flight[m->oldest].step : NULL), "the oldest step is another");
	for (int k = 0; k < m->in_flight; k++) {
		const struct flight *f = &m->flight[(m->oldest + k) % MODEL_FLIGHT];

		MUST(m, f->step->n_seqs == f->n && f->step->epoch == f->epoch &&
			!memcmp(f->step->entry, f->entry, (size_t)f->n * sizeof(*f->entry)),
			"step %llu changed in flight", (unsigned long long)f->epoch);
	}
}

static void check_state(struct model *m)
{
	int32_t n[4] = { 0 };
	struct sched_counts c;

	m->n_ops++;
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i]) {
			n[m->req[i]->state]++;
			check_mirror(m, m->req[i]);
			check_waits(m, m->req[i]);
			m->req[i]->n_pages = m->req[i]->seq.n_pages;
		}
	check_list(m, SEQ_WAITING, n[SEQ_WAITING]);
	check_list(m, SEQ_RUNNING, n[SEQ_RUNNING]);
	sched_count(m->s, &c);
	MUST(m, c.running == n[SEQ_RUNNING] && c.waiting == n[SEQ_WAITING], "counted %d running, %d waiting, not %d, %d",
		c.running, c.waiting, n[SEQ_RUNNING], n[SEQ_WAITING]);
	MUST(m, c.running <= m->lim.max_seqs, "%d run", c.running);
	check_flight(m);
	if (m->watch)
		watch_check(m->watch);
}

/* owners are of now. */
static void check_all(struct model *m)
{
	check_pages(m);
	check_state(m);
}

#include "sched_expect.h"
#include "sched_step.h"
#endif
