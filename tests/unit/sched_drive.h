/* SPDX-License-Identifier: MIT */
/* sched_drive.h - operations of the scheduler's model out of bytes: a fuzzer's, or those of
 * a generator. The first bytes choose the limits and the policy. Small pools and few tokens,
 * so that everything is shared and everything preempts. */
#ifndef SCHED_DRIVE_H
#define SCHED_DRIVE_H

#include "sched_model.h"

/* Where bytes come from: data, or with data NULL a generator, whose bytes are kept. */
struct feed {
	const uint8_t *data;
	size_t n, at;
	uint64_t state;      /* splitmix64 */
	uint8_t *kept;       /* [room], may be NULL */
	size_t room;
};

/* A policy from elsewhere, one of a session's choices or the only one. */
struct other_policy {
	const struct nvllm_cache_vt *vt; /* NULL: there is none */
	const struct nvllm_host *host;
	const void *conf;
	bool only;
};

/* What a session has beside the model. */
struct drive {
	struct model *m;
	struct feed *feed;
	int32_t most_alive;
	uint64_t families;
	int32_t text[3][256];
};

static uint64_t feed_random(struct feed *f)
{
	uint64_t z = f->state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* 0..below-1; 0 when the bytes are used up. */
static int32_t feed_take(struct feed *f, int32_t below)
{
	uint8_t b = 0;

	if (f->data)
		b = f->at < f->n ? f->data[f->at] : 0;
	else
		b = (uint8_t)feed_random(f);
	if (f->kept && f->at < f->room)
		f->kept[f->at] = b;
	f->at++;
	return b % below;
}

static bool feed_over(const struct feed *f) { return f->data && f->at >= f->n; }

/* ---- a session's limits, policy and texts ---- */

static struct sched_limits drive_limits(struct feed *f)
{
	static const int32_t page_tokens[8] = { 4, 4, 2, 3, 4, 8, 1, 2 };
	struct sched_limits lim = { .page_tokens = page_tokens[feed_take(f, 8)] };

	lim.n_pages = 1 + feed_take(f, feed_take(f, 4) ? 14 : 28);
	lim.max_seqs = 1 + feed_take(f, 6);
	lim.max_tokens = 1 + feed_take(f, feed_take(f, 3) ? 24 : 6);
	lim.max_logits = 1 + feed_take(f, 8);
	lim.run_ahead = feed_take(f, 4);
	lim.order = feed_take(f, 2);
	return lim;
}

static struct model *drive_model(const struct sched_limits *lim, int32_t policy, const struct other_policy *other)
{
	struct nvllm_cache *c = NULL;

	if (policy != POLICY_OTHER)
		return model_brute(lim, policy);
	if (other->vt->create(other->host, lim->n_pages, lim->page_tokens, other->conf, &c))
		return NULL;
	return model_create(lim, c, other->vt, POLICY_KEEPS);
}

static int32_t drive_policy(struct feed *f, const struct other_policy *other)
{
	static const uint8_t policy[8] = { POLICY_KEEPS, POLICY_NONE, POLICY_OTHER, POLICY_KEEPS, POLICY_KEEPS,
		POLICY_KEEPS_FEW, POLICY_KEEPS_NONE, POLICY_NONE };
	int32_t p = policy[feed_take(f, 8)];

	return other->vt && other->only ? POLICY_OTHER : p == POLICY_OTHER && !other->vt ? POLICY_KEEPS : p;
}

static void drive_texts(struct drive *d)
{
	uint64_t h = (uint64_t)feed_take(d->feed, 256);

	for (int k = 0; k < 3; k++)
		for (int i = 0; i < 256; i++)
			d->text[k][i] = (int32_t)((h = hash_on(h, (uint64_t)k)) % 3);
	memcpy(d->text[1], d->text[0], 9 * sizeof(int32_t)); /* part in the middle of a page */
}

/* ---- operations ---- */

/* A prompt: the beginning of a text, perhaps with another last token. */
static void do_add(struct drive *d)
{
	struct model *m = d->m;
	struct feed *f = d->feed;
	int32_t room = least(m->lim.n_pages * m->lim.page_tokens, 96), n = 1 + feed_take(f, 4);
	struct seq like = { .salt = feed_take(f, 8) == 7, .priority = feed_take(f, 4) - 1 };
	int32_t tokens[256], kind = feed_take(f, 8);

	if (room < 2)
		return;
	memcpy(tokens, d->text[feed_take(f, 8) % 3], sizeof(tokens));
	like.n_prompt = 1 + feed_take(f, kind < 6 ? least(room - 1, 24) : room - 1);
	like.n_max = like.n_prompt + 1 + feed_take(f, kind == 7 ? room - like.n_prompt : least(room - like.n_prompt, 14));
	if (kind & 1)
		tokens[like.n_prompt - 1] = 2 - tokens[like.n_prompt - 1];
	like.tokens = tokens;
	like.family = n > 1 ? ++d->families : 0;
	like.all_logits = kind == 3;
	like.lockstep = kind == 2 || kind == 5;
	for (; n > 0 && model_alive(m) < d->most_alive; n--) {
		model_add(m, &like);
		like.n_max = like.n_prompt + 1 + feed_take(f, least(room - like.n_prompt, 14));
	}
}

static struct req *pick(struct drive *d)
{
	int32_t n = model_alive(d->m), k = n ? feed_take(d->feed, n) : 0;

	for (int i = 0; n && i < MODEL_REQS; i++)
		if (d->m->req[i] && !k--)
			return d->m->req[i];
	return NULL;
}

/* One more of a family that is on its way. */
static void do_sibling(struct drive *d)
{
	struct req *r = pick(d);
	struct seq like;

	if (!r || !r->seq.family || model_alive(d->m) >= d->most_alive)
		return;
	like = r->seq; /* tokens that were drawn, too */
	like.all_logits = r->all_logits;
	model_add(d->m, &like);
}

static void do_next(struct drive *d) { model_next(d->m); }
static void do_commit(struct drive *d) { model_commit(d->m); }

static void do_remove(struct drive *d)
{
	struct req *r = pick(d);

	if (r)
		model_remove(d->m, r);
}

static void do_restart(struct drive *d)
{
	struct req *r = pick(d);

	if (r)
		model_restart(d->m, r);
}

/* As an engine does: as far ahead as it may, then the oldest is done. */
static void do_round(struct drive *d)
{
	while (d->m->in_flight <= d->m->lim.run_ahead && model_next(d->m))
		;
	model_commit(d->m);
}

static void do_idle(struct drive *d)
{
	for (int i = 0; i < 12 && (model_alive(d->m) || d->m->in_flight); i++)
		do_round(d);
}

static void (*const operation[32])(struct drive *) = {
	do_next, do_next, do_next, do_next, do_next, do_next, do_next, do_next, do_next, do_next,
	do_commit, do_commit, do_commit, do_commit, do_commit, do_commit, do_commit, do_commit,
	do_round, do_round, do_round, do_round, do_round, do_round, do_add, do_add, do_add, do_add,
	do_remove, do_sibling, do_restart, do_idle,
};

static void add_up(struct model *sum, const struct model *m)
{
#define ADD(x) sum->x += m->x
	ADD(n_ops), ADD(n_rows), ADD(n_steps), ADD(n_copies), ADD(n_finished), ADD(n_preempted), ADD(n_hits),
		ADD(n_shares), ADD(n_strips), ADD(n_late), ADD(n_nulled), ADD(n_evicted), ADD(n_waits);
#undef ADD
}

/* A whole session of at most n_ops operations, to the end of all its sequences. Adds what
 * happened to sum. */
static void drive(struct feed *f, int64_t n_ops, const struct other_policy *other, FILE *trace,
	void (*dump)(void), struct model *sum)
{
	struct sched_limits lim = drive_limits(f);
	struct drive d = { .m = drive_model(&lim, drive_policy(f, other), other), .feed = f };
	struct model *m = d.m;

	if (!m)
		return;
	m->trace = trace;
	m->dump = dump;
	TELL(m, "pages %d of %d tokens, sequences %d, tokens %d, logits %d, run ahead %d, order %d, %s\n", lim.n_pages,
		lim.page_tokens, lim.max_seqs, lim.max_tokens, lim.max_logits, lim.run_ahead, lim.order,
		m->watch ? "a policy" : "no policy");
	m->end_mask = feed_take(f, 2) ? 15 : ~0ull;
	m->lazy = feed_take(f, 2);
	d.most_alive = 2 + feed_take(f, 14);
	drive_texts(&d);
	while (m->n_ops < n_ops && !feed_over(f))
		operation[feed_take(f, 32)](&d);
	if (feed_take(f, 8) != 7) /* else the scheduler goes with all that is in it */
		model_drain(m);
	add_up(sum, m);
	model_destroy(m);
}
#endif
