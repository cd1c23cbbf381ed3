/* SPDX-License-Identifier: MIT */
/* How a step is laid out for kernels: the arrays of struct nvllm_batch at fixed device
 * addresses, written to host staging and copied over in one go. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"

/* Copied every time up to the table's last row in use; what is behind it, where there is any. */
enum { B_TOKENS, B_POSITIONS, B_SLOTS, B_QSTART, B_KVLEN, B_LROWS, B_LSLOTS, B_ROWS, B_TABLE, B_LATE_SLOTS, B_LATE_ROWS, B_N };

/* Walks the arrays in their order; with a base, hands out their places. */
static int64_t lay_out(const struct batch *b, char *base, void *out[B_N])
{
	const int64_t bytes[B_N] = {
		[B_TOKENS] = b->max_tokens * 4, [B_POSITIONS] = b->max_tokens * 4, [B_SLOTS] = b->max_tokens * 4,
		[B_QSTART] = (b->max_seqs + 1) * 4, [B_KVLEN] = b->max_seqs * 4,
		[B_TABLE] = (int64_t)b->max_seqs * b->max_pages * 4,
		[B_LROWS] = b->max_logits * 4, [B_LSLOTS] = b->max_logits * 4,
		[B_ROWS] = b->max_logits * (int64_t)sizeof(struct nvllm_sample_row),
		[B_LATE_SLOTS] = b->max_logits * 4, [B_LATE_ROWS] = b->max_logits * (int64_t)sizeof(struct nvllm_sample_row),
	};
	int64_t at = 0;

	for (int i = 0; i < B_N; i++) {
		out[i] = base ? base + at : NULL;
		at = align256(at + bytes[i]);
	}
	return at;
}

int64_t batch_init(struct batch *b, int32_t max_tokens, int32_t max_seqs, int32_t max_logits,
	int32_t max_pages, int32_t page_tokens, bool history)
{
	void *p[B_N];

	*b = (struct batch){ .max_tokens = max_tokens, .max_seqs = max_seqs,
		.max_logits = max_logits, .max_pages = max_pages, .page_tokens = page_tokens,
		.max_len = max_pages * page_tokens };
	b->slots.history_len = history ? b->max_len : 0;
	b->bytes = lay_out(b, NULL, p);
	b->staging_bytes = b->bytes + align256(max_seqs * (int64_t)sizeof(struct admit));
	return b->bytes + align256(max_seqs * 4) * 3 + align256((int64_t)max_seqs * NVLLM_STOP_IDS * 4) +
		(int64_t)max_seqs * b->slots.history_len * 4;
}

int batch_place(struct batch *b, void *device, void *staging)
{
	int64_t s = align256(b->max_seqs * 4), len = b->slots.history_len;
	char *state = (char *)device + b->bytes;
	void *p[B_N];

	b->staging = staging;
	b->device = device;
	lay_out(b, device, p);
	b->device_rows = p[B_ROWS];
	b->device_late_rows = p[B_LATE_ROWS];
	b->slots = (struct nvllm_slots){
		.size = sizeof(b->slots), .n_slots = b->max_seqs,
		.last_token = (int32_t *)(void *)state, .n_left = (int32_t *)(void *)(state + s),
		.done = (int32_t *)(void *)(state + 2 * s), .stop_ids = (int32_t *)(void *)(state + 3 * s),
		.history_len = (int32_t)len,
	};
	if (len)
		b->slots.history = (int32_t *)(void *)(state + 3 * s + align256((int64_t)b->max_seqs * NVLLM_STOP_IDS * 4));
	b->pub = (struct nvllm_batch){
		.size = sizeof(b->pub), .max_pages = b->max_pages, .tokens = p[B_TOKENS],
		.positions = p[B_POSITIONS], .slots = p[B_SLOTS], .q_start = p[B_QSTART],
		.kv_len = p[B_KVLEN], .page_table = p[B_TABLE], .logit_rows = p[B_LROWS],
		.logit_slots = p[B_LSLOTS], .state = &b->slots,
	};
	b->late.logit_slots = p[B_LATE_SLOTS];
	if (!len)
		return NVLLM_OK;
	b->history = calloc((size_t)(b->max_seqs * len), sizeof(*b->history)); /* untouched, it costs nothing */
	b->history_epoch = calloc((size_t)b->max_seqs, sizeof(*b->history_epoch));
	return b->history && b->history_epoch ? NVLLM_OK : out_of_memory();
}

void batch_finish(struct batch *b)
{
	free(b->history);
	free(b->history_epoch);
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
	b->late_slots = p[B_LATE_SLOTS];
	b->late_rows = p[B_LATE_ROWS];
	b->n_late = 0;
	b->admit = (struct admit *)(void *)(base + b->bytes);
	b->pub.h_q_start = host_view ? b->q_start : NULL;
	b->pub.h_kv_len = host_view ? b->kv_len : NULL;
	b->pub.h_page_table = host_view ? b->page_table : NULL;
}

static bool has_penalties(const struct nvllm_params *p)
{
	return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* The sampler's row of logits row i. */
static void lay_row(struct batch *b, const struct sched_entry *e, int32_t i, bool draws)
{
	const struct choice *c = choice_of(e->seq);
	const struct nvllm_params *p = &c->req->p;
	/* at issue the scheduler has counted the token that this very row will draw */
	int32_t n = e->seq->n_tokens - e->samples;
	const int32_t *tokens = !b->history ? e->seq->tokens : has_penalties(p) ?
		b->slots.history + (int64_t)e->slot * b->slots.history_len : NULL;

	b->rows[i] = (struct nvllm_sample_row){
		.temperature = p->temperature, .top_p = p->top_p, .min_p = p->min_p, .typical_p = p->typical_p,
		.repetition = p->repetition_penalty, .presence = p->presence_penalty, .frequency = p->frequency_penalty,
		.top_k = p->top_k, .seed = (uint64_t)p->seed, .position = (uint64_t)n, .choice = c->index,
		.slot = draws ? e->slot : -1, .tokens = tokens, .n_prompt = e->seq->n_prompt, .n_tokens = n,
	};
}

/* Row i is drawn later. */
static void lay_late(struct batch *b, int32_t i)
{
	b->late_rows[i] = b->rows[i];
	b->late_slots[i] = b->logit_slots[i];
	b->rows[i].slot = b->logit_slots[i] = -1;
	b->n_late++;
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
		int32_t at = e->logit_from + t;

		b->logit_rows[at] = row + e->n - e->n_logits + t;
		b->logit_slots[at] = draws ? e->slot : -1;
		b->late_slots[at] = -1;
		lay_row(b, e, at, draws);
		if (draws && q->lockstep)
			lay_late(b, at);
	}
	b->kv_len[i] = e->from + e->n;
	memcpy(b->page_table + (int64_t)i * b->max_pages, q->pages,
		(size_t)((b->kv_len[i] + b->page_tokens - 1) / b->page_tokens) * sizeof(*q->pages));
	b->q_start[i + 1] = row + e->n;
}

/* Rows and sequences of nobody, from `row` and i on: the step has the shape of its bucket. Sequences
 * have a row each where all have one. */
static void pad(struct batch *b, int32_t row, int32_t i, int32_t l, struct graph_shape to)
{
	int32_t each = to.n_tokens == to.n_seqs, end = row;

	for (; row < to.n_tokens; row++) {
		b->tokens[row] = b->positions[row] = 0;
		b->kv_slots[row] = -1;
	}
	for (; i < to.n_seqs; i++) {
		b->q_start[i + 1] = end += each;
		b->kv_len[i] = 0;
		b->page_table[(int64_t)i * b->max_pages] = 0;
	}
	for (; l < to.n_seqs; l++) {
		b->logit_rows[l] = each ? l : 0;
		b->logit_slots[l] = b->late_slots[l] = -1;
		b->rows[l] = (struct nvllm_sample_row){ .top_p = 1, .typical_p = 1, .repetition = 1, .slot = -1 };
	}
}

/* The tokens of a new owner that are known, for penalties: advance() adds those to come. */
static int admit_history(struct batch *b, struct rank *r, const struct sched_entry *e, uint64_t epoch)
{
	int64_t at = (int64_t)e->slot * b->slots.history_len, bytes = e->seq->n_admitted * (int64_t)sizeof(int32_t);
	nvllm_stream st = r->dvt->stream(r->dev);
	int rc = NVLLM_OK;

	/* the copy for an owner before may still be read: steps in flight are the newest n_flights */
	if (b->history_epoch[e->slot] && b->history_epoch[e->slot] + (uint64_t)r->n_flights > epoch)
		rc = r->dvt->sync(r->dev, st);
	b->history_epoch[e->slot] = epoch;
	memcpy(b->history + at, e->seq->tokens, (size_t)bytes);
	return rc ? rc : r->dvt->copy(r->dev, st, b->slots.history + at, b->history + at, bytes);
}

/* A new owner of a slot: its state on the device. Behind all steps that knew the old one. */
static int admit(struct batch *b, struct rank *r, const struct sched_entry *e, int32_t i, uint64_t epoch)
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
	if (!rc && b->history && has_penalties(&q->p))
		rc = admit_history(b, r, e, epoch);
	return rc;
}

void batch_lay_out(struct batch *b, const struct sched_step *st, struct graph_shape shape, int32_t flight, bool host_view)
{
	const int32_t *late = b->late.logit_slots;
	int32_t row = 0, longest = 0;
	bool padded = shape.n_tokens > 0;

	open_staging(b, flight, host_view);
	b->q_start[0] = 0;
	for (int32_t i = 0; i < st->n_seqs; i++) {
		lay_entry(b, &st->entry[i], i, row);
		row = b->q_start[i + 1];
		longest = b->kv_len[i] > longest ? b->kv_len[i] : longest;
	}
	if (padded)
		pad(b, row, st->n_seqs, st->n_logits, shape);
	b->pub.n_tokens = padded ? shape.n_tokens : st->n_tokens;
	b->pub.n_seqs = padded ? shape.n_seqs : st->n_seqs;
	b->pub.n_logits = padded ? shape.n_seqs : st->n_logits;
	b->pub.max_kv_len = padded ? b->max_len : longest; /* a graph must know no step's own */
	b->late = b->pub;
	b->late.logit_slots = late;
	b->used = (char *)(b->page_table + (int64_t)b->pub.n_seqs * b->max_pages) - (char *)b->tokens;
}

int batch_copy(struct batch *b, struct rank *r, const struct sched_step *st)
{
	nvllm_stream stream = r->dvt->stream(r->dev);
	int64_t n = b->pub.n_logits;
	int rc = NVLLM_OK;

	for (int32_t i = 0; i < st->n_seqs && !rc; i++)
		if (st->entry[i].admitted)
			rc = admit(b, r, &st->entry[i], i, st->epoch);
	if (!rc)
		rc = r->dvt->copy(r->dev, stream, b->device, b->tokens, b->used);
	if (!rc && b->n_late)
		rc = r->dvt->copy(r->dev, stream, (int32_t *)b->late.logit_slots, b->late_slots, n * (int64_t)sizeof(*b->late_slots));
	if (!rc && b->n_late && !samples_on_host(r))
		rc = r->dvt->copy(r->dev, stream, b->device_late_rows, b->late_rows, n * (int64_t)sizeof(*b->late_rows));
	return rc;
}
