/* SPDX-License-Identifier: MIT */
/* sched_step.h - the operations of the scheduler's model: add, next, commit, remove, and the
 * device that runs the steps. Included by sched_model.h. */
#ifndef SCHED_STEP_H
#define SCHED_STEP_H

static void check_after(struct model *m)
{
	count_owners(m);
	check_all(m);
}

static struct req *req_of_tokens(struct model *m, const int32_t *tokens)
{
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && m->req[i]->seq.tokens == tokens)
			return m->req[i];
	model_broken(m, "the policy is asked about tokens that are no sequence's");
}

/* ---- what the scheduler asks of the policy ---- */

static void watched_match(struct model *m, uint64_t salt, const int32_t *tokens, int32_t n, int32_t max_pages)
{
	struct req *r = req_of_tokens(m, tokens);

	MUST(m, r->seq.state == SEQ_WAITING, "match for sequence %d, which does not wait", r->id);
	MUST(m, m->committing || !r->seq.all_logits, "match for sequence %d, which needs the logits of its prompt", r->id);
	MUST(m, salt == r->seq.salt && n == r->seq.n_known, "match for sequence %d with other tokens or salt", r->id);
	MUST(m, max_pages <= (n - 1) / m->lim.page_tokens, "match may take %d pages for %d tokens", max_pages, n);
}

static void watched_hit(struct model *m, const int32_t *tokens, const int32_t *pages, int32_t n)
{
	struct req *r = req_of_tokens(m, tokens);
	int32_t pt = m->lim.page_tokens;

	for (int32_t i = 0; i < n; i++)
		MUST(m, !memcmp(m->contents + (int64_t)pages[i] * pt, r->hash + i * pt, (size_t)pt * sizeof(*r->hash)),
			"the policy has page %d for sequence %d, number %d, which holds others' tokens", pages[i], r->id, i);
	m->n_hits += n;
}

static int32_t watched_insert(struct model *m, uint64_t salt, const int32_t *tokens, int32_t n_pages,
	const int32_t *pages)
{
	struct req *r = req_of_tokens(m, tokens);
	int32_t pt = m->lim.page_tokens;

	MUST(m, m->committing, "insert outside a commit");
	MUST(m, r->state == SEQ_RUNNING, "insert for sequence %d, which does not run", r->id);
	MUST(m, salt == r->seq.salt, "insert for sequence %d with another salt", r->id);
	MUST(m, n_pages * pt <= r->n_landed && n_pages * pt <= r->n_known,
		"insert of %d pages of sequence %d, of which %d tokens landed", n_pages, r->id, r->n_landed);
	for (int32_t i = 0; i < n_pages; i++)
		MUST(m, !memcmp(m->contents + (int64_t)pages[i] * pt, r->hash + i * pt, (size_t)pt * sizeof(*r->hash)),
			"insert of page %d of sequence %d, which holds others' tokens", i, r->id);
	r->n_offered = n_pages > r->n_offered ? n_pages : r->n_offered;
	return n_pages;
}

/* ---- add and remove ---- */

static void req_start(struct model *m, struct req *r)
{
	r->n_tokens = r->n_known = r->seq.n_prompt;
	r->n_computed = r->n_landed = r->n_offered = r->n_preempted = r->n_cached = r->n_pages = 0;
	r->fresh = r->ended = false;
	r->state = SEQ_WAITING;
	r->seq.all_logits = r->all_logits;
	memset(r->shown, 0, (size_t)r->seq.n_prompt * sizeof(*r->shown));
	r->arrival = ++m->arrivals;
	sched_add(m->s, &r->seq);
}

/* like gives prompt, salt, family, priority, all_logits and n_max. It has n_max tokens: those
 * after the prompt are what may stand in memory that is not written yet. NULL where no
 * place is left. */
static struct req *model_add(struct model *m, const struct seq *like)
{
	struct req *r;
	int place = 0;
	uint64_t h = hash_begin(like->salt);

	while (place < MODEL_REQS && m->req[place])
		place++;
	if (place == MODEL_REQS)
		return NULL;
	r = calloc(1, sizeof(*r));
	m->req[r->place = place] = r;
	r->id = ++m->next_id;
	r->will = (uint64_t)(r->id % 3);
	r->all_logits = like->all_logits;
	r->seq = (struct seq){ .n_prompt = like->n_prompt, .n_max = like->n_max, .salt = like->salt,
		.priority = like->priority, .family = like->family, .lockstep = like->lockstep };
	r->seq.tokens = calloc((size_t)like->n_max, sizeof(*r->seq.tokens));
	r->seq.pages = calloc((size_t)pages_of(m, like->n_max), sizeof(*r->seq.pages));
	r->hash = calloc((size_t)like->n_max, sizeof(*r->hash));
	r->token = calloc((size_t)like->n_max, sizeof(*r->token));
	r->shown = calloc((size_t)like->n_prompt, sizeof(*r->shown));
	memcpy(r->seq.tokens, like->tokens, (size_t)like->n_max * sizeof(*like->tokens));
	memcpy(r->token, like->tokens, (size_t)like->n_prompt * sizeof(*like->tokens));
	for (int32_t i = 0; i < like->n_prompt; i++)
		r->hash[i] = h = hash_on(h, (uint64_t)(uint32_t)like->tokens[i]);
	TELL(m, "add %d: %d tokens of %d, salt %d, priority %d, family %d%s\n", r->id, like->n_prompt, like->n_max,
		(int)like->salt, (int)like->priority, (int)like->family, r->all_logits ? ", all logits" : "");
	MUST(m, sched_admissible(m->s, like->n_max) == 0, "%d tokens are not admissible", like->n_max);
	req_start(m, r);
	check_after(m);
	return r;
}

/* Out of the lists and of the steps in flight. */
static void req_stop(struct model *m, struct req *r)
{
	for (int k = 0; k < m->in_flight; k++) {
		struct flight *f = &m->flight[(m->oldest + k) % MODEL_FLIGHT];

		for (int32_t i = 0; i < f->n; i++)
			if (f->entry[i].seq == &r->seq) {
				f->entry[i].seq = NULL;
				m->n_nulled++;
			}
	}
	sched_remove(m->s, &r->seq);
	MUST(m, r->seq.state == SEQ_DONE, "sequence %d is removed and in state %d", r->id, r->seq.state);
}

static void model_remove(struct model *m, struct req *r)
{
	TELL(m, "remove %d\n", r->id);
	m->req[r->place] = NULL;
	req_stop(m, r);
	req_free(r);
	check_after(m);
}

/* The owner may use its struct again at once. */
static inline void model_restart(struct model *m, struct req *r)
{
	TELL(m, "restart %d\n", r->id);
	r->n_pages = 0;
	req_stop(m, r);
	r->seq.n_pages = 0;
	m->req[r->place] = NULL;
	check_after(m);
	m->req[r->place] = r;
	req_start(m, r);
	check_after(m);
}

/* ---- the device ---- */

static void device_copy(struct model *m, const struct sched_copy *c)
{
	size_t pt = (size_t)m->lim.page_tokens;

	MUST(m, c->from >= 0 && c->from < m->lim.n_pages && c->to >= 0 && c->to < m->lim.n_pages && c->from != c->to,
		"a copy from page %d to %d", c->from, c->to);
	TELL(m, "  copy page %d to %d\n", c->from, c->to);
	memcpy(m->contents + (size_t)c->to * pt, m->contents + (size_t)c->from * pt, pt * sizeof(*m->contents));
	m->granted[c->to] = false;
	m->n_copies++;
}

static void device_write(struct model *m, const struct req *r, int32_t at)
{
	int32_t pt = m->lim.page_tokens, i = at / pt, p;

	MUST(m, i < r->seq.n_pages, "sequence %d writes token %d with %d pages", r->id, at, r->seq.n_pages);
	p = r->seq.pages[i];
	MUST(m, i >= r->seq.n_pinned && m->owners[p] == 1u << r->place && pages_holders(sched_pages(m->s), p) == 1,
		"sequence %d writes token %d to page %d, which others have (%x)", r->id, at, p, m->owners[p]);
	m->contents[(int64_t)p * pt + at % pt] = r->hash[at];
}

/* Draws the token after the entry's rows. */
static int32_t device_draw(struct model *m, struct req *r)
{
	int32_t at = r->n_tokens++;

	MUST(m, at < r->seq.n_max, "sequence %d draws token %d of %d", r->id, at, r->seq.n_max);
	r->token[at] = (int32_t)(hash_on(r->hash[at - 1], r->will) % 3);
	r->hash[at] = hash_on(r->hash[at - 1], (uint64_t)(uint32_t)r->token[at]);
	return r->token[at];
}

static void device_run(struct model *m, const struct sched_step *st)
{
	struct flight *f = &m->flight[(m->oldest + m->in_flight++) % MODEL_FLIGHT];
	int32_t pt = m->lim.page_tokens;

	for (int32_t i = 0; i < st->n_copies; i++)
		device_copy(m, &st->copy[i]);
	for (int32_t p = 0; p < m->lim.n_pages; p++) {
		if (m->granted[p])
			memset(m->contents + (int64_t)p * pt, 0, (size_t)pt * sizeof(*m->contents));
		m->granted[p] = false;
	}
	for (int32_t i = 0; i < m->lim.max_logits; i++)
		f->token[i] = TOKEN_JUNK;
	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		struct req *r = (struct req *)e->seq;

		for (int32_t at = e->from; at < e->from + e->n; at++)
			device_write(m, r, at);
		r->n_computed = e->from + e->n;
		if (e->samples)
			f->token[e->logit_from + e->n_logits - 1] = device_draw(m, r);
		m->n_rows += e->n;
	}
	memcpy(f->entry, st->entry, (size_t)st->n_seqs * sizeof(*f->entry));
	f->n = st->n_seqs;
	f->step = st;
	f->epoch = m->epoch = st->epoch;
	m->n_steps++;
	m->n_late += m->in_flight > 1;
}

/* ---- next ---- */

static void remove_ended(struct model *m)
{
	for (int i = 0; i < MODEL_REQS; i++)
		if (m->req[i] && m->req[i]->ended) {
			m->n_finished++;
			model_remove(m, m->req[i]);
		}
}

static const struct sched_step *model_next(struct model *m)
{
	struct outcome o;

	remove_ended(m);
	TELL(m, "next\n");
	note_before(m, &o);
	o.st = sched_next(m->s);
	MUST(m, !o.st || m->in_flight <= m->lim.run_ahead, "a step beyond run_ahead");
	note_changes(m, &o);
	count_owners(m);
	check_pages(m);
	check_preemptions(m, &o);
	if (o.st || !m->in_flight)
		check_admissions(m, &o);
	MUST(m, !o.st || !sched_stuck(m->s), "a step, and a sequence is stuck");
	if (o.st) {
		check_greedy(m, &o);
		check_entries(m, &o);
		device_run(m, o.st);
	} else {
		check_none(m, &o);
	}
	check_state(m);
	return o.st;
}

/* ---- commit ---- */

static void land(struct flight *f)
{
	for (int32_t i = 0; i < f->n; i++) {
		struct req *r = (struct req *)f->entry[i].seq;

		if (!r)
			continue;
		r->n_landed = f->entry[i].from + f->entry[i].n;
		r->n_known += f->entry[i].samples;
	}
}

static void check_landed(struct model *m, const struct req *r, bool first_drawn)
{
	MUST(m, !m->watch || r->n_offered >= r->n_landed / m->lim.page_tokens, "sequence %d: %d pages are full, %d were "
		"offered", r->id, r->n_landed / m->lim.page_tokens, r->n_offered);
	MUST(m, wants_logits(r) ? r->seq.all_logits : r->n_landed < r->seq.n_prompt || !r->seq.all_logits,
		"sequence %d: all_logits is %d", r->id, r->seq.all_logits);
	for (int i = 0; i < MODEL_REQS && first_drawn && r->seq.family; i++) {
		const struct req *w = m->req[i];

		MUST(m, !w || w->seq.family != r->seq.family || w->state != SEQ_WAITING || w->n_preempted ||
			w->seq.n_pages, "sequence %d waits, and got no pages of its sibling %d", w->id, r->id);
	}
}

/* The oldest step is done; what is over is removed, as the owner must. */
static void model_commit(struct model *m)
{
	struct flight *f = &m->flight[m->oldest];
	int32_t n_logits = 0, *token;

	if (!m->in_flight)
		return;
	TELL(m, "commit\n");
	for (int32_t i = 0; i < f->n; i++)
		n_logits += f->entry[i].n_logits;
	token = malloc((size_t)n_logits * sizeof(*token) + 1); /* exactly: a read past it is seen */
	memcpy(token, f->token, (size_t)n_logits * sizeof(*token));
	land(f);
	m->committing = true;
	sched_commit(m->s, token);
	m->committing = false;
	free(token);
	m->done = f->epoch;
	m->oldest = (m->oldest + 1) % MODEL_FLIGHT;
	m->in_flight--;
	note_shares(m);
	check_after(m);
	for (int32_t i = 0; i < f->n; i++) {
		struct req *r = (struct req *)f->entry[i].seq;

		if (!r)
			continue;
		check_landed(m, r, f->entry[i].samples && r->n_known == r->seq.n_admitted + 1);
		if (f->entry[i].samples && (r->n_known == r->seq.n_max || !(r->hash[r->n_known - 1] & m->end_mask)))
			r->ended = true;
	}
	if (!m->lazy)
		remove_ended(m);
}

/* ---- the end ---- */

static int32_t model_alive(const struct model *m)
{
	int32_t n = 0;

	for (int i = 0; i < MODEL_REQS; i++)
		n += m->req[i] != NULL;
	return n;
}

/* No more come: all that is there finishes, in steps that can be counted beforehand. */
static void model_drain(struct model *m)
{
	int64_t most = 1, steps = 0;

	for (int i = 0; i < MODEL_REQS; i++)
		most += m->req[i] ? m->req[i]->seq.n_max : 0;
	most *= model_alive(m) + 1;
	while (model_alive(m) || m->in_flight) {
		while (m->in_flight <= m->lim.run_ahead && model_next(m))
			MUST(m, ++steps <= most, "%d sequences are not over after %lld steps", model_alive(m), (long long)most);
		model_commit(m);
	}
	MUST(m, !sched_next(m->s) && !sched_stuck(m->s), "there is no work, and a step");
	check_after(m);
	for (int32_t p = 0; p < m->lim.n_pages; p++)
		MUST(m, m->owners[p] == 0 || m->owners[p] == 1u << OWNER_CACHE, "page %d is held at the end", p);
}
#endif
