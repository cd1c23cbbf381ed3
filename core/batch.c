/* SPDX-License-Identifier: MIT */
/* How a step is laid out for kernels: the arrays of struct nvllm_batch at fixed device
 * addresses, written to host staging and copied over in one go. */
#include <string.h>

#include "engine_int.h"

enum { B_TOKENS, B_POSITIONS, B_SLOTS, B_QSTART, B_KVLEN, B_TABLE, B_LROWS, B_LSLOTS, B_ROWS, B_N };

/* Walks the arrays in their order; with a base, hands out their places. */
static int64_t lay_out(const struct batch *b, char *base, void *out[B_N])
{
	const int64_t bytes[B_N] = {
		[B_TOKENS] = b->max_tokens * 4, [B_POSITIONS] = b->max_tokens * 4, [B_SLOTS] = b->max_tokens * 4,
		[B_QSTART] = (b->max_seqs + 1) * 4, [B_KVLEN] = b->max_seqs * 4,
		[B_TABLE] = (int64_t)b->max_seqs * b->max_pages * 4,
		[B_LROWS] = b->max_logits * 4, [B_LSLOTS] = b->max_logits * 4,
		[B_ROWS] = b->max_logits * (int64_t)sizeof(struct nvllm_sample_row),
	};
	int64_t at = 0;

	for (int i = 0; i < B_N; i++) {
		out[i] = base ? base + at : NULL;
		at = align256(at + bytes[i]);
	}
	return at;
}

int64_t batch_init(struct batch *b, int32_t max_tokens, int32_t max_seqs, int32_t max_logits,
	int32_t max_pages, int32_t page_tokens)
{
	void *p[B_N];

	*b = (struct batch){ .max_tokens = max_tokens, .max_seqs = max_seqs,
		.max_logits = max_logits, .max_pages = max_pages, .page_tokens = page_tokens,
		.max_len = max_pages * page_tokens };
	b->bytes = lay_out(b, NULL, p);
	b->staging_bytes = b->bytes + align256(max_seqs * (int64_t)sizeof(struct admit));
	return b->bytes + align256(max_seqs * 4) * 3 + align256((int64_t)max_seqs * NVLLM_STOP_IDS * 4);
}

void batch_place(struct batch *b, void *device, void *staging)
{
	int64_t s = align256(b->max_seqs * 4);
	char *state = (char *)device + b->bytes;
	void *p[B_N];

	b->staging = staging;
	b->device = device;
	lay_out(b, device, p);
	b->device_rows = p[B_ROWS];
	b->slots = (struct nvllm_slots){
		.size = sizeof(b->slots), .n_slots = b->max_seqs,
		.last_token = (int32_t *)(void *)state, .n_left = (int32_t *)(void *)(state + s),
		.done = (int32_t *)(void *)(state + 2 * s), .stop_ids = (int32_t *)(void *)(state + 3 * s),
	};
	b->pub = (struct nvllm_batch){
		.size = sizeof(b->pub), .max_pages = b->max_pages, .tokens = p[B_TOKENS],
		.positions = p[B_POSITIONS], .slots = p[B_SLOTS], .q_start = p[B_QSTART],
		.kv_len = p[B_KVLEN], .page_table = p[B_TABLE], .logit_rows = p[B_LROWS],
		.logit_slots = p[B_LSLOTS], .state = &b->slots,
	};
}

/* Where this step's staging lies. */
static void open_staging(struct batch *b, int32_t flight, bool host_view)
{
	char *base = b->staging + flight * b->staging_bytes;
	void *p[B_N];

	lay_out(b, base, p);
	b->tokens = p[B_TOKENS];
	b->positions = p[B_POSITIONS];
	b->kv_slots = p[B_SLOTS];
	b->q_start = p[B_QSTART];
	b->kv_len = p[B_KVLEN];
	b->page_table = p[B_TABLE];
	b->logit_rows = p[B_LROWS];
	b->logit_slots = p[B_LSLOTS];
	b->rows = p[B_ROWS];
	b->admit = (struct admit *)(void *)(base + b->bytes);
	b->pub.h_q_start = host_view ? b->q_start : NULL;
	b->pub.h_kv_len = host_view ? b->kv_len : NULL;
	b->pub.h_page_table = host_view ? b->page_table : NULL;
}

/* The sampler's row of logits row i. */
static void lay_row(struct batch *b, const struct sched_entry *e, int32_t i, bool draws)
{
	const struct choice *c = choice_of(e->seq);
	const struct nvllm_params *p = &c->req->p;
	/* at issue the scheduler has counted the token that this very row will draw */
	int32_t n = e->seq->n_tokens - e->samples;

	b->rows[i] = (struct nvllm_sample_row){
		.temperature = p->temperature, .top_p = p->top_p, .min_p = p->min_p, .typical_p = p->typical_p,
		.repetition = p->repetition_penalty, .presence = p->presence_penalty, .frequency = p->frequency_penalty,
		.top_k = p->top_k, .seed = (uint64_t)p->seed, .position = (uint64_t)n, .choice = c->index,
		.slot = draws ? e->slot : -1, .tokens = e->seq->tokens, .n_prompt = e->seq->n_prompt, .n_tokens = n,
	};
}

/* The rows of one sequence, from row `row` of the step on. */
static void lay_entry(struct batch *b, const struct sched_entry *e, int32_t i, int32_t row)
{
	const struct seq *q = e->seq;

	for (int32_t t = 0; t < e->n; t++) {
		int32_t pos = e->from + t;

		/* what was sampled since it got its slot is read there: the host may not know it yet */
		b->tokens[row + t] = pos >= q->n_admitted ? -1 - e->slot : q->tokens[pos];
		b->positions[row + t] = pos;
		b->kv_slots[row + t] = q->pages[pos / b->page_tokens] * b->page_tokens + pos % b->page_tokens;
	}
	for (int32_t t = 0; t < e->n_logits; t++) {
		bool draws = e->samples && t == e->n_logits - 1;

		b->logit_rows[e->logit_from + t] = row + e->n - e->n_logits + t;
		b->logit_slots[e->logit_from + t] = draws ? e->slot : -1;
		lay_row(b, e, e->logit_from + t, draws);
	}
	b->kv_len[i] = e->from + e->n;
	memcpy(b->page_table + (int64_t)i * b->max_pages, q->pages,
		(size_t)((b->kv_len[i] + b->page_tokens - 1) / b->page_tokens) * sizeof(*q->pages));
	b->q_start[i + 1] = row + e->n;
}

/* Decode rows of nobody, from i to n: the step has the shape of its bucket. */
static void pad(struct batch *b, int32_t i, int32_t n)
{
	for (; i < n; i++) {
		b->tokens[i] = b->positions[i] = 0;
		b->kv_slots[i] = -1;
		b->q_start[i + 1] = i + 1;
		b->kv_len[i] = 0;
		b->page_table[(int64_t)i * b->max_pages] = 0;
		b->logit_rows[i] = i;
		b->logit_slots[i] = -1;
		b->rows[i] = (struct nvllm_sample_row){ .top_p = 1, .typical_p = 1, .repetition = 1, .slot = -1 };
	}
}

/* A new owner of a slot: its state on the device. Behind all steps that knew the old one. */
static int admit(struct batch *b, struct rank *r, const struct sched_entry *e, int32_t i)
{
	const struct request *q = choice_of(e->seq)->req;
	struct admit *a = &b->admit[i];
	nvllm_stream st = r->dvt->stream(r->dev);
	int rc;

	a->n_left = e->seq->n_max - e->seq->n_admitted;
	a->done = 0;
	for (int k = 0; k < NVLLM_STOP_IDS; k++) /* the others are the host's to see */
		a->stop_ids[k] = k < q->n_end_ids ? q->end_ids[k] : -1;
	rc = r->dvt->copy(r->dev, st, b->slots.n_left + e->slot, &a->n_left, sizeof(a->n_left));
	if (!rc)
		rc = r->dvt->copy(r->dev, st, b->slots.done + e->slot, &a->done, sizeof(a->done));
	if (!rc)
		rc = r->dvt->copy(r->dev, st, (int32_t *)b->slots.stop_ids + (int64_t)e->slot * NVLLM_STOP_IDS,
			a->stop_ids, sizeof(a->stop_ids));
	return rc;
}

void batch_lay_out(struct batch *b, const struct sched_step *st, int32_t bucket, int32_t flight, bool host_view)
{
	int32_t row = 0, longest = 0;

	open_staging(b, flight, host_view);
	b->q_start[0] = 0;
	for (int32_t i = 0; i < st->n_seqs; i++) {
		lay_entry(b, &st->entry[i], i, row);
		row = b->q_start[i + 1];
		longest = b->kv_len[i] > longest ? b->kv_len[i] : longest;
	}
	if (bucket)
		pad(b, st->n_seqs, bucket);
	b->pub.n_tokens = bucket ? bucket : st->n_tokens;
	b->pub.n_seqs = bucket ? bucket : st->n_seqs;
	b->pub.n_logits = bucket ? bucket : st->n_logits;
	b->pub.max_kv_len = bucket ? b->max_len : longest; /* a graph must know no step's own */
}

int batch_copy(struct batch *b, struct rank *r, const struct sched_step *st)
{
	int rc = NVLLM_OK;

	for (int32_t i = 0; i < st->n_seqs && !rc; i++)
		if (st->entry[i].admitted)
			rc = admit(b, r, &st->entry[i], i);
	return rc ? rc : r->dvt->copy(r->dev, r->dvt->stream(r->dev), b->device, b->tokens, b->bytes);
}
