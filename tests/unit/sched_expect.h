/* SPDX-License-Identifier: MIT */
/* sched_expect.h - what sched_next() may do: the order and the counts of a step's entries,
 * who is admitted, who is preempted, and when there may be no step at all. Included by
 * sched_model.h. */
#ifndef SCHED_EXPECT_H
#define SCHED_EXPECT_H

enum { NOW_PREEMPTED = 1, NOW_ADMITTED = 2 };
enum { DECODE, CHUNK, ADMITTED };

/* What a step did, and what was so before it. */
struct outcome {
	const struct sched_step *st;
	uint8_t now[MODEL_REQS];
	int32_t rows[MODEL_REQS];          /* each running one had to compute */
	bool ran[MODEL_REQS], free_way[MODEL_REQS]; /* was running; could write without a page more */
	int32_t to_have, need;             /* pages free or cached; decode rows that want one */
	int32_t phantoms;                  /* count as evictable, and a sibling has them too */
	int64_t taken;                     /* preempted and stripped until then */
	const struct req *first;           /* in order of the running ones */
};

/* ---- what a step may hold ---- */

static bool wants_logits(const struct req *r)
{
	for (int32_t i = 0; r->all_logits && i < r->seq.n_prompt; i++)
		if (!r->shown[i])
			return true;
	return false;
}

static int entry_class(const struct outcome *o, const struct req *r)
{
	return o->now[r->place] & NOW_ADMITTED ? ADMITTED : o->rows[r->place] == 1 ? DECODE : CHUNK;
}

static void check_entry(struct model *m, const struct sched_entry *e, struct req *r, int32_t logit_from)
{
	bool every = wants_logits(r) && e->from < r->seq.n_prompt;

	TELL(m, "  %d: rows %d..%d%s%s, slot %d\n", r->id, e->from, e->from + e->n - 1, e->samples ? " samples" : "",
		e->admitted ? " admitted" : "", e->slot);
	MUST(m, e->n > 0 && e->from == r->n_computed && e->from + e->n <= r->n_tokens,
		"sequence %d: rows %d..%d of %d, %d are computed", r->id, e->from, e->from + e->n - 1, r->n_tokens, r->n_computed);
	MUST(m, !r->seq.lockstep || e->from + e->n <= r->n_known, "sequence %d runs ahead of its tokens", r->id);
	MUST(m, r->n_tokens < r->seq.n_max, "sequence %d computes after its last token", r->id);
	MUST(m, e->slot == r->seq.slot && e->admitted == r->fresh, "sequence %d: slot %d, admitted %d", r->id, e->slot,
		e->admitted);
	MUST(m, e->samples == (e->from + e->n == r->n_tokens), "sequence %d: samples %d at %d of %d", r->id, e->samples,
		e->from + e->n, r->n_tokens);
	MUST(m, e->logit_from == logit_from && e->n_logits == (every ? e->n : e->samples),
		"sequence %d: logits %d from %d", r->id, e->n_logits, e->logit_from);
	for (int32_t at = e->from + e->n - e->n_logits; at < e->from + e->n && at < r->seq.n_prompt; at++)
		r->shown[at] = true;
	MUST(m, !e->samples || !wants_logits(r), "sequence %d samples before all of its prompt had logits", r->id);
	r->fresh = false;
}

static void check_entries(struct model *m, const struct outcome *o)
{
	const struct sched_step *st = o->st;
	int32_t tokens = 0, logits = 0;

	MUST(m, st->n_seqs > 0 && st->n_seqs <= m->lim.max_seqs && st->epoch == m->epoch + 1,
		"a step of %d sequences, number %llu", st->n_seqs, (unsigned long long)st->epoch);
	for (int32_t i = 0; i < st->n_seqs; i++) {
		struct req *r = (struct req *)st->entry[i].seq, *last = i ? (struct req *)st->entry[i - 1].seq : NULL;

		MUST(m, r && is_running(m, &r->seq), "entry %d is of a sequence that does not run", i);
		MUST(m, !last || entry_class(o, last) < entry_class(o, r) ||
			(entry_class(o, last) == entry_class(o, r) && goes_before(m, last, r)),
			"sequence %d comes after %d in a step", r->id, last->id);
		check_entry(m, &st->entry[i], r, logits);
		tokens += st->entry[i].n;
		logits += st->entry[i].n_logits;
	}
	MUST(m, tokens == st->n_tokens && logits == st->n_logits, "counted %d tokens, %d logits, there are %d, %d",
		st->n_tokens, st->n_logits, tokens, logits);
	MUST(m, tokens <= m->lim.max_tokens && logits <= m->lim.max_logits, "%d tokens and %d logits in a step", tokens,
		logits);
}

static const struct sched_entry *entry_of(const struct sched_step *st, const struct req *r)
{
	for (int32_t i = 0; st && i < st->n_seqs; i++)
		if (st->entry[i].seq == &r->seq)
			return &st->entry[i];
	return NULL;
}

/* No running one is passed over while the budgets have room. A row may be kept for the first. */
static void check_greedy(struct model *m, const struct outcome *o)
{
	int32_t spare = o->first && o->rows[o->first->place] > 1;
	bool full = o->st->n_tokens + spare >= m->lim.max_tokens || o->st->n_logits + spare >= m->lim.max_logits;

	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *r = m->req[i];
		const struct sched_entry *e = r ? entry_of(o->st, r) : NULL;

		if (!r || !o->ran[i] || o->now[i] || !o->rows[i])
			continue;
		MUST(m, full || (e && e->n == o->rows[i]), "sequence %d has %d rows in the step, of %d", r->id, e ? e->n : 0,
			o->rows[i]);
		MUST(m, r != o->first || e, "sequence %d is the first in order and does not advance", r->id);
	}
}

/* ---- admission ---- */

/* Until it has drawn a token since it was admitted. */
static bool computes(const struct req *a) { return a->state == SEQ_RUNNING && a->n_known == a->seq.n_admitted; }

static bool sibling_computes(const struct model *m, const struct outcome *o, const struct req *r)
{
	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *a = m->req[i];

		if (r->seq.family && a && a != r && a->seq.family == r->seq.family && computes(a))
			return true;
	}
	return false;
}

/* May it be passed over? */
static bool excused(const struct model *m, const struct outcome *o, const struct req *r)
{
	const struct req *a = (const struct req *)r->seq.waits_for;

	return (a && a->n_landed < r->seq.waits_until) || (!r->seq.n_pages && sibling_computes(m, o, r));
}

/* Computes it what another one computes at this moment? */
static void check_twice(struct model *m, const struct outcome *o, const struct req *r, int32_t hit)
{
	const struct sched_entry *e = entry_of(o->st, r);

	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *a = m->req[i];
		const struct sched_entry *ea = a ? entry_of(o->st, a) : NULL;
		int32_t n;

		if (!a || a == r || a->state != SEQ_RUNNING || a->n_landed >= a->n_known - 1)
			continue;
		if (o->now[i] & NOW_ADMITTED && ea > e)
			continue;
		MUST(m, a->seq.family != r->seq.family || !r->seq.family || !computes(a),
			"sequence %d computes the prompt that its sibling %d computes", r->id, a->id);
		n = common_pages(m, a, r);
		MUST(m, r->all_logits || !m->watch || m->watch->temper != POLICY_KEEPS || n <= hit ||
			n * m->lim.page_tokens <= a->n_landed, "sequence %d computes %d pages that %d computes", r->id, n, a->id);
	}
}

static void note_admission(struct model *m, struct outcome *o, struct req *r)
{
	const struct sched_entry *e = entry_of(o->st, r);
	int32_t pt = m->lim.page_tokens;
	bool shared;

	MUST(m, e, "sequence %d is admitted and not in the step", r->id);
	shared = r->n_pages && e->from == r->seq.n_prompt - 1 && e->from != r->seq.n_pinned * pt;
	MUST(m, shared || (e->from == r->seq.n_pinned * pt && e->from < r->n_tokens), "sequence %d is admitted from %d, "
		"%d pages of it are cached", r->id, e->from, r->seq.n_pinned);
	MUST(m, !e->from || !wants_logits(r), "sequence %d needs logits of its prompt and starts at %d", r->id, e->from);
	MUST(m, r->seq.n_pages == pages_of(m, r->n_tokens), "sequence %d is admitted with %d pages for %d tokens", r->id,
		r->seq.n_pages, r->n_tokens);
	MUST(m, r->seq.n_admitted == r->n_known, "sequence %d: n_admitted %d, known %d", r->id, r->seq.n_admitted, r->n_known);
	if (!r->n_preempted)
		r->n_cached = e->from;
	o->now[r->place] |= NOW_ADMITTED;
	r->state = SEQ_RUNNING;
	r->fresh = true;
	r->n_computed = r->n_landed = e->from;
	r->n_offered = r->seq.n_pinned;
}

/* Free pages, and those the policy alone holds and would give up. */
static int32_t pages_to_have(const struct model *m)
{
	int32_t n = pages_left(sched_pages(m->s));

	for (int32_t p = 0; m->watch && p < m->lim.n_pages; p++)
		n += watch_holds(m->watch, p) && !m->pins[p] && !m->priv[p];
	return n;
}

/* Pages more that it wants if it is admitted now: hits do not count, and cannot be evicted. */
static int32_t pages_wanted(const struct model *m, const struct req *r)
{
	int32_t pt = m->lim.page_tokens, need = pages_of(m, r->n_tokens), most = (r->n_tokens - 1) / pt;

	if (r->seq.n_pages)
		return need - r->seq.n_pages + 1;
	for (int32_t k = 0; m->watch && !wants_logits(r) && k < most; k++) {
		int32_t p = watch_find(m->watch, r->hash[(k + 1) * pt - 1]);

		if (p < 0)
			break;
		need -= m->pins[p] || m->priv[p];
	}
	return need;
}

static const struct req *first_waiting(const struct model *m, const struct outcome *o)
{
	const struct req *w = NULL;

	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *r = m->req[i];

		if (r && r->state == SEQ_WAITING && !excused(m, o, r) && (!w || goes_before(m, r, w)))
			w = r;
	}
	return w;
}

/* Nobody overtakes one that could have run; each running one has a page to grow; and the
 * first of those who wait is let in where there is room. */
static void check_admissions(struct model *m, const struct outcome *o)
{
	const struct req *w = first_waiting(m, o);
	const struct req *taker = NULL;
	int32_t running = 0;

	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *r = m->req[i];

		running += r && r->state == SEQ_RUNNING;
		if (!r || !(o->now[i] & NOW_ADMITTED))
			continue;
		if (!r->n_pages && (!taker || goes_before(m, taker, r)))
			taker = r; /* the others have their sibling's, perhaps to themselves by now */
		MUST(m, !w || goes_before(m, r, w), "sequence %d overtakes %d", r->id, w ? w->id : 0);
		if (!r->n_pages)
			check_twice(m, o, r, r->n_computed / m->lim.page_tokens);
	}
	if (w && !m->in_flight && running < m->lim.max_seqs &&
		(!o->st || (o->st->n_tokens < m->lim.max_tokens && o->st->n_logits < m->lim.max_logits)))
		MUST(m, pages_to_have(m) < pages_wanted(m, w) + running, "sequence %d wants %d pages, %d are to be had, "
			"%d run, and it is not admitted", w->id, pages_wanted(m, w), pages_to_have(m), running);
	for (int i = 0; i < MODEL_REQS && taker; i++) /* came later, and took none */
		running -= o->now[i] & NOW_ADMITTED && goes_before(m, taker, m->req[i]);
	MUST(m, !taker || o->phantoms || m->n_preempted + m->n_strips > o->taken || pages_to_have(m) >= running - 1, "with sequence %d %d run, and %d pages are left",
		taker->id, running, pages_to_have(m));
}

/* ---- before and after ---- */

/* Can it compute a row without a page from elsewhere? */
static bool has_way(const struct model *m, const struct req *r)
{
	int32_t i = r->n_computed / m->lim.page_tokens;

	return i < r->seq.n_pages && i >= r->seq.n_pinned && m->owners[r->seq.pages[i]] == 1u << r->place;
}

static void note_before(struct model *m, struct outcome *o)
{
	memset(o, 0, sizeof(*o));
	o->to_have = pages_to_have(m);
	o->taken = m->n_preempted + m->n_strips;
	for (int32_t p = 0; m->watch && p < m->lim.n_pages; p++)
		o->phantoms += watch_holds(m->watch, p) && !m->pins[p] && m->priv[p];
	for (int i = 0; i < MODEL_REQS; i++) {
		const struct req *r = m->req[i];

		if (!r || r->state != SEQ_RUNNING)
			continue;
		o->ran[i] = true;
		/* in lockstep: its row waits for the token before it */
		o->rows[i] = r->seq.lockstep && r->n_known < r->n_tokens ? 0 : rows_of(r);
		o->free_way[i] = has_way(m, r);
		o->need += o->rows[i] == 1 && !o->free_way[i];
		if (!o->first || goes_before(m, r, o->first))
			o->first = r;
	}
}

static void note_preemption(struct model *m, struct outcome *o, struct req *r)
{
	TELL(m, "  preempted %d\n", r->id);
	MUST(m, !m->in_flight, "sequence %d is preempted with steps in flight", r->id);
	MUST(m, r->state == SEQ_RUNNING && r->seq.n_preempted == r->n_preempted + 1, "sequence %d is preempted %d times",
		r->id, r->seq.n_preempted - r->n_preempted);
	MUST(m, r != o->first, "sequence %d is the first in order and is preempted", r->id);
	o->now[r->place] |= NOW_PREEMPTED;
	r->n_preempted++;
	m->n_preempted++;
	r->state = SEQ_WAITING;
	r->n_computed = r->n_landed = r->n_offered = r->n_pages = 0;
	r->fresh = false;
}

/* A waiting one got its siblings' pages, or lost them. */
static void note_shares(struct model *m)
{
	for (int i = 0; i < MODEL_REQS; i++) {
		struct req *r = m->req[i];

		if (!r || r->state != SEQ_WAITING || !r->n_pages == !r->seq.n_pages)
			continue;
		TELL(m, "  %d %s\n", r->id, r->n_pages ? "is stripped" : "shares its prompt's pages");
		m->n_strips += r->n_pages > 0;
		m->n_shares += !r->n_pages;
		MUST(m, r->n_pages || (r->seq.family && r->seq.n_pages == pages_of(m, r->seq.n_prompt)),
			"sequence %d has %d pages and waits", r->id, r->seq.n_pages);
		if (!r->n_pages) /* its sibling's prompt had its logits */
			memset(r->shown, 1, (size_t)r->seq.n_prompt * sizeof(*r->shown));
		r->n_computed = r->n_landed = r->n_pages ? 0 : r->seq.n_prompt - 1;
	}
}

/* The last go first: no running one is left behind one that was preempted. And none goes
 * for what was free or cached. */
static void check_preemptions(struct model *m, const struct outcome *o)
{
	for (int i = 0; i < MODEL_REQS; i++)
		MUST(m, !(o->now[i] & NOW_PREEMPTED) || o->need > o->to_have, "sequence %d is preempted, %d pages are to be had "
			"and %d needed", m->req[i]->id, o->to_have, o->need);
	for (int i = 0; i < MODEL_REQS; i++)
		for (int k = 0; k < MODEL_REQS && o->now[i] & NOW_PREEMPTED; k++)
			MUST(m, !o->ran[k] || !m->req[k] || o->now[k] & NOW_PREEMPTED || goes_before(m, m->req[k], m->req[i]),
				"sequence %d is preempted before %d", m->req[i]->id, m->req[k]->id);
}

static void note_changes(struct model *m, struct outcome *o)
{
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && m->req[i]->seq.n_preempted != m->req[i]->n_preempted)
			note_preemption(m, o, m->req[i]);
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && m->req[i]->state == SEQ_WAITING && m->req[i]->seq.state == SEQ_RUNNING)
			note_admission(m, o, m->req[i]);
	note_shares(m);
}

/* No step: nothing to do, or steps in flight are waited for, for pages. */
static void check_none(struct model *m, const struct outcome *o)
{
	bool any = false, way = true;

	const struct seq *stuck = sched_stuck(m->s);

	m->n_waits += m->in_flight > 0;
	MUST(m, !stuck || (m->watch && m->watch->temper == POLICY_STINGY), "sequence %d is stuck",
		((const struct req *)stuck)->id);
	for (int i = 0; i < MODEL_REQS; i++) {
		MUST(m, m->in_flight || !m->req[i] || stuck, "there is work and no step");
		if (!o->ran[i])
			continue;
		any |= o->rows[i] > 0;
		way &= !o->rows[i] || o->free_way[i];
	}
	MUST(m, m->in_flight > m->lim.run_ahead || !any || !way || stuck,
		"no step, and running sequences have rows and pages");
}
#endif
