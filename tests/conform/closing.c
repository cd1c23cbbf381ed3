/* SPDX-License-Identifier: MIT */
/* tests/conform/closing.c - the kernels that close a step: log probabilities, and the
 * bookkeeping of sequences. */
#include <math.h>
#include <string.h>

#include "device.h"

/* ---- logprobs ---- */

/* targets: what is asked for; given: the same as the kernel is told, some through tokens. */
struct lp {
	struct nvllm_logprobs q;
	int32_t *targets, *given, *tokens, *rank, *ids;
	float *lp, *top;
};

static struct lp lp_new(int64_t rows, int n_top)
{
	struct lp l = { .targets = gmem_get("the wanted tokens", rows * 4, 4),
		.given = gmem_get("the targets", rows * 4, 4),
		.tokens = gmem_get("the drawn tokens", rows * 4, 4),
		.rank = gmem_get("the ranks", rows * 4, 4),
		.lp = gmem_get("the log probabilities", rows * 4, 4),
		.ids = gmem_get("top_ids", rows * n_top * 4, 4),
		.top = gmem_get("top_logprobs", rows * n_top * 4, 4) };

	l.q = (struct nvllm_logprobs){ .size = sizeof(l.q),
		.n_top = n_top,
		.targets = l.given,
		.tokens = l.tokens,
		.target_logprob = l.lp,
		.target_rank = l.rank,
		.top_ids = l.ids,
		.top_logprobs = l.top };
	return l;
}

static void lp_free(struct lp *l)
{
	gmem_put(l->targets), gmem_put(l->given), gmem_put(l->tokens), gmem_put(l->rank), gmem_put(l->lp), gmem_put(l->ids),
		gmem_put(l->top);
}

/* Asks for the target itself, or for what was drawn. */
static void lp_ask(struct lp *l, int64_t row, int32_t target, bool drawn)
{
	l->targets[row] = target;
	l->given[row] = drawn ? -2 : target;
	l->tokens[row] = drawn ? target : INT32_MAX;
}

static void check_lp_row(struct nvllm_tensor x, int64_t row, const struct lp *l)
{
	const float *v = mat_row(x, row);
	double sum = 0, top = -INFINITY, lse;
	int32_t better = 0, target = l->targets[row], prev = -1;

	for (int64_t i = 0; i < x.cols; i++)
		top = fmax(top, (double)v[i]);
	for (int64_t i = 0; i < x.cols; i++)
		sum += exp((double)v[i] - top);
	lse = top + log(sum);
	for (int64_t i = 0; target >= 0 && i < x.cols; i++)
		better += v[i] > v[target] || (v[i] == v[target] && i < target);
	if (target >= 0 &&
		(!(fabs((double)l->lp[row] - ((double)v[target] - lse)) < 2e-5) ||
			l->rank[row] != better + 1))
		ck_bad("row %ld, target %d: %.7g rank %d, expected %.7g rank %d", (long)row, target,
			(double)l->lp[row], l->rank[row], (double)v[target] - lse, better + 1);
	for (int j = 0; target >= 0 && j < l->q.n_top && ck_good(); j++) {
		int32_t best = -1, got = l->ids[row * l->q.n_top + j];

		for (int32_t i = 0; i < x.cols; i++) {
			bool after = prev < 0 || v[i] < v[prev] || (v[i] == v[prev] && i > prev);

			if (after && (best < 0 || v[i] > v[best]))
				best = i;
		}
		if (got != best ||
			!(fabs((double)l->top[row * l->q.n_top + j] - ((double)v[best] - lse)) <
				2e-5))
			ck_bad("row %ld: place %d is token %d with %.7g, expected %d with %.7g",
				(long)row, j + 1, got, (double)l->top[row * l->q.n_top + j], best,
				(double)v[best] - lse);
		prev = best;
	}
}

void check_logprobs(struct dev *d, int64_t vocab, int n_top)
{
	const int64_t rows = 4;
	struct nvllm_tensor x = mat_random("the logits", rows, vocab, 3, 110);
	struct lp all = lp_new(rows, n_top), one = lp_new(1, n_top);
	int status;

	for (int64_t i = 0; i < vocab; i++)
		for (int64_t r = 0; r < rows; r++)
			mat_row(x, r)[i] = r == 2 ? (float)(i % 5) : mat_row(x, r)[i] * 12;
	for (int64_t r = 0; r < rows; r++)
		lp_ask(&all, r, r == 1 ? -1 : (int32_t)((r * 37 + 11) % vocab), r == 3);
	ck_begin("logprobs, vocabulary %ld, %d likeliest, of targets and of what was drawn",
		(long)vocab, n_top);
	ck_step_begin();
	status = d->k->logprobs(d->d, d->stream, x, &all.q);
	ck_step_end();
	d->vt->sync(d->d, d->stream);
	if (status)
		ck_bad("returned %d: %s", status, fake_said());
	for (int64_t r = 0; r < rows && ck_good(); r++)
		check_lp_row(x, r, &all);
	for (int64_t r = 0; r < rows && ck_good(); r++) {
		lp_ask(&one, 0, all.targets[r], r == 0); /* the other way round */
		d->k->logprobs(d->d, d->stream, mat_rows(x, r, 1), &one.q);
		d->vt->sync(d->d, d->stream);
		if (d->varies)
			check_lp_row(mat_rows(x, r, 1), 0, &one);
		else if (all.targets[r] >= 0 && (memcmp(one.lp, all.lp + r, 4) ||
			memcmp(one.top, all.top + r * n_top, 4 * (size_t)n_top)))
			ck_bad("row %ld has other bits alone than among %ld rows", (long)r,
				(long)rows);
	}
	lp_free(&all), lp_free(&one);
	gmem_put(x.data);
	ck_end();
}

/* ---- advance ---- */

void check_advance(struct dev *d)
{
	static const int32_t slot_of[] = { 2, -1, 0, 4, 1, 3 }, drawn[] = { 9, 8, 7, 6, 5, 4 };
	/* slot:                       0  1  2  3  4   (3 is done already, 4 has one token left) */
	static const int32_t left[] = { 5, 3, 2, 9, 1 }, done[] = { 0, 0, 0, 1, 0 };
	static const int32_t want_last[] = { 7, 5, 9, 100, 6 }, want_left[] = { 4, 2, 1, 9, 0 };
	static const int32_t want_done[] = { 0, 1, 0, 1, 1 };
	int32_t *last = gmem_get("last_token", 20, 4), *l = gmem_get("n_left", 20, 4),
		*dn = gmem_get("done", 20, 4);
	int32_t *stop = gmem_get("stop_ids", 5 * NVLLM_STOP_IDS * 4, 4);
	int32_t *slots = gmem_get("logit_slots", sizeof(slot_of), 4),
		*tokens = gmem_get("the tokens", sizeof(drawn), 4);
	struct nvllm_slots st = { .size = sizeof(st),
		.n_slots = 5,
		.last_token = last,
		.n_left = l,
		.done = dn,
		.stop_ids = stop };
	struct nvllm_batch b = {
		.size = sizeof(b), .n_logits = 6, .logit_slots = slots, .state = &st
	};
	int status;

	memcpy(slots, slot_of, sizeof(slot_of));
	memcpy(tokens, drawn, sizeof(drawn));
	for (int i = 0; i < 5; i++)
		last[i] = 100, l[i] = left[i], dn[i] = done[i];
	for (int i = 0; i < 5 * NVLLM_STOP_IDS; i++)
		stop[i] = -1;
	stop[NVLLM_STOP_IDS + 1] =
		5; /* slot 1 ends on token 5; slot 2 may not take its 9 for one of slot 3's */
	stop[3 * NVLLM_STOP_IDS] = 9;
	ck_begin("advance: append, count down, end tokens, done stays done");
	ck_step_begin();
	status = d->k->advance(d->d, d->stream, &b, tokens);
	ck_step_end();
	d->vt->sync(d->d, d->stream);
	if (status)
		ck_bad("returned %d: %s", status, fake_said());
	for (int i = 0; i < 5; i++)
		if (last[i] != want_last[i] || l[i] != want_left[i] || !dn[i] != !want_done[i])
			ck_bad("slot %d: last %d left %d done %d, expected %d %d %d", i, last[i],
				l[i], dn[i], want_last[i], want_left[i], want_done[i]);
	gmem_put(last), gmem_put(l), gmem_put(dn), gmem_put(stop);
	gmem_put(slots), gmem_put(tokens);
	ck_end();
}
