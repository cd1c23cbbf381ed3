/* SPDX-License-Identifier: MIT */
/* One step on the rank: batch to device, forward, sample, log probabilities, advance.
 * What is enqueued, and in which order. */
#include <string.h>

#include "engine_int.h"

int64_t step_out_bytes(int32_t l) { return align256(l * 4) * 4 + align256((int64_t)l * MAX_TOP * 4) * 2; }

void step_out_place(struct step_out *o, void *mem, int32_t l)
{
	char *at = mem;

	o->tokens = (int32_t *)(void *)at;
	o->targets = (int32_t *)(void *)(at += align256(l * 4));
	o->ranks = (int32_t *)(void *)(at += align256(l * 4));
	o->logprobs = (float *)(void *)(at += align256(l * 4));
	o->top_ids = (int32_t *)(void *)(at += align256(l * 4));
	o->top_logprobs = (float *)(void *)(at + align256((int64_t)l * MAX_TOP * 4));
}

int step_measure(struct rank *r, int64_t *arena_bytes)
{
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = r->batch.max_tokens, .n_seqs = r->batch.max_seqs,
		.n_logits = r->batch.max_logits, .max_pages = r->batch.max_pages };
	struct engine_step s;
	struct nvllm_tensor logits = { .rows = 0 };
	int rc;

	step_begin(&s, r, &b, NULL, 0);
	rc = r->mvt->forward(r->model, &s.pub, &logits);
	if (rc)
		return rc;
	if (s.status)
		return fail(s.status, "this model cannot run: %s", s.error);
	if (logits.rows != b.n_logits || logits.cols != r->arch.vocab || logits.dtype != NVLLM_F32)
		return fail(NVLLM_EINVAL, "the model's forward gives logits [%lld][%lld], expected f32 [%d][%lld]",
			(long long)logits.rows, (long long)logits.cols, b.n_logits, (long long)r->arch.vocab);
	*arena_bytes = s.peak;
	return NVLLM_OK;
}

/* The sampler's row of logits row i; rows that draw nothing are padding. */
static void fill_rows(struct rank *r, const struct sched_step *st)
{
	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		const struct request *q = request_of(e->seq);

		for (int32_t t = 0; t < e->n_logits; t++)
			r->rows[e->logit_from + t] = (struct nvllm_sample_row){
				.temperature = q->p.temperature, .top_p = q->p.top_p, .min_p = q->p.min_p,
				.typical_p = 1, .repetition = 1, .top_k = q->p.top_k, .seed = (uint64_t)q->p.seed,
				.position = (uint64_t)q->seq.n_tokens, .tokens = q->seq.tokens,
				.n_prompt = q->seq.n_prompt, .n_tokens = q->seq.n_tokens,
				.slot = e->samples && t == e->n_logits - 1 ? q->seq.slot : -1,
			};
	}
}

/* Whose log probability each row wants: the next token of the prompt, the sampled one,
 * or none. Returns how many of the likeliest to list, -1 if no row wants anything. */
static int fill_targets(struct rank *r, const struct sched_step *st)
{
	int64_t n_top = -1;

	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		const struct request *q = request_of(e->seq);

		for (int32_t t = 0; t < e->n_logits; t++) {
			int32_t row = e->logit_from + t, next = e->from + e->n - e->n_logits + t + 1;
			int64_t want = next < q->seq.n_prompt ? q->p.prompt_logprobs : q->p.logprobs;

			r->host_out.targets[row] = want == NVLLM_UNSET ? -1 :
				next < q->seq.n_prompt ? q->seq.tokens[next] : r->host_out.tokens[row];
			if (want != NVLLM_UNSET && want > n_top)
				n_top = want;
		}
	}
	return (int)n_top;
}

static int log_probs(struct rank *r, const struct sched_step *st, struct nvllm_tensor logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	struct step_out *d = &r->dev_out, *h = &r->host_out;
	struct nvllm_logprobs lp = { .size = sizeof(lp), .targets = d->targets, .target_logprob = d->logprobs,
		.target_rank = d->ranks, .top_ids = d->top_ids, .top_logprobs = d->top_logprobs };
	int64_t n = (int64_t)st->n_logits * 4;
	int rc;

	lp.n_top = fill_targets(r, st);
	if (lp.n_top < 0)
		return NVLLM_OK;
	r->n_top = lp.n_top;
	rc = r->dvt->copy(r->dev, stream, d->targets, h->targets, n);
	if (!rc)
		rc = r->dvt->kernels->logprobs(r->dev, stream, logits, &lp);
	if (!rc)
		rc = r->dvt->copy(r->dev, stream, h->logprobs, d->logprobs, n);
	if (!rc)
		rc = r->dvt->copy(r->dev, stream, h->ranks, d->ranks, n);
	if (!rc && lp.n_top)
		rc = r->dvt->copy(r->dev, stream, h->top_ids, d->top_ids, n * lp.n_top);
	if (!rc && lp.n_top)
		rc = r->dvt->copy(r->dev, stream, h->top_logprobs, d->top_logprobs, n * lp.n_top);
	return rc;
}

static int sample(struct rank *r, const struct sched_step *st, struct nvllm_tensor logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int rc;

	fill_rows(r, st);
	rc = r->svt->sample(r->sampler, stream, logits, r->rows, st->n_logits, r->dev_out.tokens, r->sampler_work);
	if (!rc)
		rc = r->dvt->kernels->advance(r->dev, stream, &r->batch.pub, r->dev_out.tokens);
	if (!rc)
		rc = r->dvt->copy(r->dev, stream, r->host_out.tokens, r->dev_out.tokens, (int64_t)st->n_logits * 4);
	return rc ? rc : r->dvt->sync(r->dev, stream);
}

/* A plugin's sampler may be wrong: an id beyond the vocabulary must not travel on. */
static int check_tokens(const struct rank *r, int32_t n)
{
	for (int32_t i = 0; i < n; i++)
		if (r->rows[i].slot >= 0 && (r->host_out.tokens[i] < 0 || r->host_out.tokens[i] >= r->arch.vocab))
			return fail(NVLLM_EINVAL, "the sampler drew token %d of a vocabulary of %lld", r->host_out.tokens[i],
				(long long)r->arch.vocab);
	return NVLLM_OK;
}

int step_run(struct rank *r, const struct sched_step *st)
{
	struct engine_step s;
	struct nvllm_tensor logits = { .rows = 0 };
	int rc = batch_build(&r->batch, r, st);

	step_begin(&s, r, &r->batch.pub, r->arena, r->arena_bytes);
	if (!rc && NVLLM_HAS(r->avt, plan) && r->avt->plan)
		rc = r->avt->plan(r->attn, r->dvt->stream(r->dev), &r->batch.pub);
	if (!rc)
		rc = r->mvt->forward(r->model, &s.pub, &logits);
	if (!rc && s.status)
		rc = fail(s.status, "%s", s.error);
	if (rc || !st->n_logits)
		return rc ? rc : r->dvt->sync(r->dev, r->dvt->stream(r->dev));
	rc = sample(r, st, logits);
	if (!rc)
		rc = check_tokens(r, st->n_logits);
	if (!rc)
		rc = log_probs(r, st, logits);
	return rc ? rc : r->dvt->sync(r->dev, r->dvt->stream(r->dev));
}
