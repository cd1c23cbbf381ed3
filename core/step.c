/* SPDX-License-Identifier: MIT */
/* One step on a rank: what is enqueued, and in which order; and waiting for it. Batch to
 * device, forward, sample, advance (this is the body, which a graph holds), the rows that
 * processors of logits work on; from here on the next step may be enqueued; then log
 * probabilities and the copies of the results. */
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

	fail_clear();
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

/* ---- the part that a graph holds ---- */

struct body { struct rank *rank; int status; };

static int plan(struct rank *r)
{
	return has_plan(r) ? r->avt->plan(r->attn, r->dvt->stream(r->dev), &r->batch.pub) : NVLLM_OK;
}

static int draw(struct rank *r, struct nvllm_tensor logits, const struct nvllm_sample_row *rows, int32_t *tokens)
{
	return logits.rows < 1 ? NVLLM_OK : r->svt->sample(r->sampler, r->dvt->stream(r->dev), logits, rows,
		(int32_t)logits.rows, tokens, r->sampler_work);
}

/* A host sampler of a device whose memory it cannot reach: they come here. */
static int fetch_logits(struct rank *r, struct nvllm_tensor *logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int64_t row = logits->cols * (int64_t)sizeof(float);
	int rc = NVLLM_OK;

	for (int64_t i = 0; i < logits->rows && !rc; i++)
		rc = r->dvt->copy(r->dev, stream, r->far_logits + i * logits->cols, (char *)logits->data + i * logits->stride, row);
	logits->data = r->far_logits;
	logits->stride = row;
	return rc;
}

static int sample(struct rank *r, struct nvllm_tensor logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	bool host = samples_on_host(r), far = host && is_far(r);
	int32_t *tokens = far ? r->far_tokens : r->dev_out.tokens;
	int rc = far ? fetch_logits(r, &logits) : NVLLM_OK;

	if (!rc && (r->info.caps & NVLLM_DEV_ASYNC) && host)
		rc = r->dvt->sync(r->dev, stream);
	if (!rc)
		rc = draw(r, logits, host ? r->batch.rows : r->batch.device_rows, tokens);
	if (!rc && far)
		rc = r->dvt->copy(r->dev, stream, r->dev_out.tokens, tokens, logits.rows * (int64_t)sizeof(*tokens));
	return rc ? rc : r->dvt->kernels->advance(r->dev, stream, &r->batch.pub, r->dev_out.tokens);
}

static int run_body(void *arg, struct nvllm_tensor *logits)
{
	struct body *b = arg;
	struct rank *r = b->rank;
	struct engine_step s;
	int rc = b->status;

	step_begin(&s, r, &r->batch.pub, r->arena, r->arena_bytes);
	if (!rc && plans_on_device(r))
		rc = plan(r);
	if (rc)
		step_fail(&s, rc); /* the group's sums go on */
	rc = r->mvt->forward(r->model, &s.pub, logits);
	if (!rc && s.status)
		rc = fail(s.status, "%s", s.error);
	return rc || !r->batch.pub.n_logits ? rc : sample(r, *logits);
}

/* ---- rows that processors of logits work on ---- */

/* One row through the processors, in a copy: its raw logits are still wanted. */
static int draw_late(struct rank *r, struct choice *c, struct nvllm_tensor row, int32_t i)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int64_t bytes = row.cols * (int64_t)sizeof(float);
	bool host = samples_on_host(r), far = is_far(r);
	struct nvllm_sample_row own = r->batch.late_rows[i];
	int rc = NVLLM_OK;

	if (far)
		rc = r->dvt->copy(r->dev, stream, r->row, row.data, bytes);
	else
		memcpy(r->row, row.data, (size_t)bytes);
	if (!rc && far)
		rc = r->dvt->sync(r->dev, stream);
	if (rc)
		return rc;
	own.tokens = c->seq.tokens; /* where this runs */
	process_row(r, c, &own, r->row);
	row.data = r->row;
	row.rows = 1;
	if (host || !far) {
		rc = draw(r, row, (host ? r->batch.late_rows : r->batch.device_late_rows) + i, (host && far ? r->far_tokens :
			r->dev_out.tokens) + i);
		return rc || !(host && far) ? rc : r->dvt->copy(r->dev, stream, r->dev_out.tokens + i, r->far_tokens + i, sizeof(int32_t));
	}
	row.data = r->dev_row;
	rc = r->dvt->copy(r->dev, stream, r->dev_row, r->row, bytes);
	rc = rc ? rc : draw(r, row, r->batch.device_late_rows + i, r->dev_out.tokens + i);
	return rc ? rc : r->dvt->sync(r->dev, stream); /* the row's memory is used again */
}

/* The body has drawn and advanced all others. */
static int finish_late(struct rank *r, const struct sched_step *st, struct nvllm_tensor logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int rc = NVLLM_OK;

	if (!r->batch.n_late)
		return NVLLM_OK;
	if ((r->info.caps & NVLLM_DEV_ASYNC) && !is_far(r)) /* else each row waits for its own copy */
		rc = r->dvt->sync(r->dev, stream);
	for (int32_t k = 0; k < st->n_seqs && !rc; k++) {
		const struct sched_entry *e = &st->entry[k];
		int32_t i = e->logit_from + e->n_logits - 1;
		struct nvllm_tensor row = logits;

		if (!e->samples || r->batch.late_slots[i] < 0)
			continue;
		row.data = (char *)logits.data + i * logits.stride;
		rc = draw_late(r, choice_of(e->seq), row, i);
	}
	return rc ? rc : r->dvt->kernels->advance(r->dev, stream, &r->batch.late, r->dev_out.tokens);
}

/* ---- around it ---- */

/* Whole pages, before the step writes its own. */
static int copy_pages(struct rank *r, const struct sched_step *st)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int rc = NVLLM_OK;

	for (int32_t c = 0; c < st->n_copies; c++)
		for (int32_t i = 0; i < r->arch.n_layers && !rc; i++) {
			int64_t bytes = r->layout.layer_bytes[i];
			char *kv = r->kv[i];

			if (bytes)
				rc = r->dvt->copy(r->dev, stream, kv + st->copy[c].to * bytes,
					kv + st->copy[c].from * bytes, bytes);
		}
	return rc;
}

/* The shape that a step is padded to, for a graph of it; none: it runs as it is. */
static struct graph_shape shape_of(const struct rank *r, const struct sched_step *st)
{
	if (st->n_logits > st->n_seqs)
		return (struct graph_shape){ 0, 0 };
	if (st->n_tokens == st->n_seqs && st->n_logits == st->n_seqs)
		return graph_pool_decode(r->graphs, st->n_seqs);
	return graph_pool_mixed(r->graphs, st->n_tokens, st->n_seqs);
}

/* Whose log probability each row wants: the next token of the prompt, the sampled one,
 * or none. Returns how many of the likeliest to list, -1 if no row wants anything. */
static int32_t fill_targets(const struct sched_step *st, int32_t *targets)
{
	int64_t n_top = -1;

	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		const struct nvllm_params *p = &choice_of(e->seq)->req->p;

		for (int32_t t = 0; t < e->n_logits; t++) {
			int32_t next = e->from + e->n - e->n_logits + t + 1;
			bool prompt = next < e->seq->n_prompt;
			int64_t want = prompt ? p->prompt_logprobs : p->logprobs;

			targets[e->logit_from + t] = want == NVLLM_UNSET ? -1 : prompt ? e->seq->tokens[next] : -2;
			if (want != NVLLM_UNSET && want > n_top)
				n_top = want;
		}
	}
	return (int32_t)n_top;
}

static int log_probs(struct rank *r, const struct sched_step *st, struct flight *f, struct nvllm_tensor logits)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	struct step_out *d = &r->dev_out, *h = &f->out;
	struct nvllm_logprobs lp = { .size = sizeof(lp), .targets = d->targets, .tokens = d->tokens,
		.target_logprob = d->logprobs, .target_rank = d->ranks, .top_ids = d->top_ids,
		.top_logprobs = d->top_logprobs };
	int64_t n = (int64_t)st->n_logits * 4;
	int rc;

	f->n_top = lp.n_top = fill_targets(st, h->targets);
	if (lp.n_top < 0)
		return NVLLM_OK;
	logits.rows = st->n_logits; /* without padding */
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

/* The step up to `advance`. On an error the model still runs, without its kernels: the
 * group's sums go on. */
static int enqueue(struct rank *r, const struct sched_step *st, struct graph_shape shape, int32_t flight, int status,
	struct nvllm_tensor *logits)
{
	struct body b = { .rank = r, .status = status };
	bool replayed = false;

	batch_lay_out(&r->batch, st, shape, flight, !plans_on_device(r));
	if (!b.status)
		b.status = copy_pages(r, st);
	if (!b.status)
		b.status = batch_copy(&r->batch, r, st);
	if (!b.status && !plans_on_device(r))
		b.status = plan(r);
	if (shape.n_tokens && !b.status)
		b.status = graph_pool_run(r->graphs, shape, run_body, &b, logits, &replayed);
	else
		b.status = run_body(&b, logits);
	r->graph_steps += replayed;
	return b.status;
}

int step_issue(struct rank *r, const struct sched_step *st)
{
	struct flight *f = step_flight(r, st);
	nvllm_stream stream = r->dvt->stream(r->dev);
	struct nvllm_tensor logits = { .rows = 0 };
	int rc;

	fail_clear();
	rc = enqueue(r, st, shape_of(r, st), (int32_t)(f - r->flight), NVLLM_OK, &logits);
	f->n_top = -1;
	if (!rc && st->n_logits)
		rc = finish_late(r, st, logits);
	if (!rc && st->n_logits)
		rc = r->dvt->copy(r->dev, stream, f->out.tokens, r->dev_out.tokens, (int64_t)st->n_logits * 4);
	if (!rc && st->n_logits)
		rc = log_probs(r, st, f, logits);
	f->marked = false;
	if (!rc && (r->info.caps & NVLLM_DEV_ASYNC)) {
		rc = r->dvt->mark_set(r->dev, stream, f->mark);
		f->marked = !rc;
	}
	return rc;
}

/* A plugin's sampler may be wrong: an id beyond the vocabulary must not travel on. */
static int check_tokens(const struct rank *r, const struct sched_step *st, const struct flight *f)
{
	for (int32_t i = 0; i < st->n_seqs; i++) {
		const struct sched_entry *e = &st->entry[i];
		int32_t id = e->samples ? f->out.tokens[e->logit_from + e->n_logits - 1] : 0;

		if (id < 0 || id >= r->arch.vocab)
			return fail(NVLLM_EINVAL, "the sampler drew token %d of a vocabulary of %lld", id, (long long)r->arch.vocab);
	}
	return NVLLM_OK;
}

int step_land(struct rank *r, const struct sched_step *st)
{
	struct flight *f = step_flight(r, st);
	int rc;

	if (f->marked)
		rc = r->dvt->mark_wait(r->dev, f->mark);
	else
		rc = r->dvt->sync(r->dev, r->dvt->stream(r->dev));
	return rc ? rc : check_tokens(r, st, f);
}

int step_warm(struct rank *r)
{
	const struct sched_step none = { .epoch = 0 };
	struct nvllm_tensor logits;
	const int32_t *size;
	int rc = NVLLM_OK;

	for (int i = 0, n = graph_pool_sizes(r->graphs, &size); i < n; i++) {
		rc = enqueue(r, &none, (struct graph_shape){ size[i], size[i] }, 0, rc, &logits);
		if (!rc)
			rc = r->dvt->sync(r->dev, r->dvt->stream(r->dev));
	}
	return rc;
}
