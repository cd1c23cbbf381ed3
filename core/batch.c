/* SPDX-License-Identifier: MIT */
/* How a step is laid out for kernels: the arrays of struct nvllm_batch at fixed device
 * addresses, written to host staging and copied over in one go. */
#include <string.h>

#include "engine_int.h"

/* Walks the arrays in their order; with a base, hands out their places. */
static int64_t lay_out(char *base, int32_t **out, const int64_t *count, int n)
{
	int64_t at = 0;

	for (int i = 0; i < n; i++) {
		out[i] = base ? (int32_t *)(void *)(base + at) : NULL;
		at = align256(at + count[i] * 4);
	}
	return at;
}

enum { B_TOKENS, B_POSITIONS, B_SLOTS, B_QSTART, B_KVLEN, B_TABLE, B_LROWS, B_LSLOTS, B_N };

static void counts(const struct batch *b, int64_t c[B_N])
{
	c[B_TOKENS] = c[B_POSITIONS] = c[B_SLOTS] = b->max_tokens;
	c[B_QSTART] = b->max_seqs + 1;
	c[B_KVLEN] = b->max_seqs;
	c[B_TABLE] = (int64_t)b->max_seqs * b->max_pages;
	c[B_LROWS] = c[B_LSLOTS] = b->max_logits;
}

int64_t batch_init(struct batch *b, struct nvllm_host *h, int32_t max_tokens, int32_t max_seqs,
	int32_t max_logits, int32_t max_pages, int32_t page_tokens)
{
	int64_t c[B_N];
	int32_t *p[B_N];

	*b = (struct batch){ .max_tokens = max_tokens, .max_seqs = max_seqs, .max_logits = max_logits,
		.max_pages = max_pages, .page_tokens = page_tokens };
	counts(b, c);
	b->bytes = lay_out(NULL, p, c, B_N);
	b->staging = h->alloc(h, (size_t)b->bytes);
	if (!b->staging)
		return fail(NVLLM_ENOMEM, "no memory for a step of %d tokens and %d sequences: lower [engine] "
			"max_tokens or max_seqs", max_tokens, max_seqs);
	lay_out(b->staging, p, c, B_N);
	b->tokens = p[B_TOKENS];
	b->positions = p[B_POSITIONS];
	b->kv_slots = p[B_SLOTS];
	b->q_start = p[B_QSTART];
	b->kv_len = p[B_KVLEN];
	b->page_table = p[B_TABLE];
	b->logit_rows = p[B_LROWS];
	b->logit_slots = p[B_LSLOTS];
	return b->bytes + align256(max_seqs * 4) * 3 + align256((int64_t)max_seqs * NVLLM_STOP_IDS * 4);
}

void batch_place(struct batch *b, void *device)
{
	int64_t c[B_N], s = align256(b->max_seqs * 4);
	int32_t *p[B_N];
	char *state = (char *)device + b->bytes;

	counts(b, c);
	b->device = device;
	lay_out(device, p, c, B_N);
	b->slots = (struct nvllm_slots){
		.size = sizeof(b->slots), .n_slots = b->max_seqs,
		.last_token = (int32_t *)(void *)state, .n_left = (int32_t *)(void *)(state + s),
		.done = (int32_t *)(void *)(state + 2 * s), .stop_ids = (int32_t *)(void *)(state + 3 * s),
	};
	b->pub = (struct nvllm_batch){
		.size = sizeof(b->pub), .max_pages = b->max_pages, .tokens = p[B_TOKENS],
		.positions = p[B_POSITIONS], .slots = p[B_SLOTS], .q_start = p[B_QSTART],
		.kv_len = p[B_KVLEN], .page_table = p[B_TABLE], .logit_rows = p[B_LROWS],
		.logit_slots = p[B_LSLOTS], .state = &b->slots, .h_q_start = b->q_start,
		.h_kv_len = b->kv_len, .h_page_table = b->page_table,
	};
}

/* The rows of one sequence, from row `row` of the step on. */
static void lay_entry(struct batch *b, const struct sched_entry *e, int32_t i, int32_t row)
{
	const struct seq *q = e->seq;

	for (int32_t t = 0; t < e->n; t++) {
		int32_t pos = e->from + t;

		/* the newest sampled token is read on the device: the host may not know it yet */
		b->tokens[row + t] = pos >= q->n_prompt && pos == q->n_tokens - 1 ? -1 - q->slot : q->tokens[pos];
		b->positions[row + t] = pos;
		b->kv_slots[row + t] = q->pages[pos / b->page_tokens] * b->page_tokens + pos % b->page_tokens;
	}
	for (int32_t t = 0; t < e->n_logits; t++) {
		b->logit_rows[e->logit_from + t] = row + e->n - e->n_logits + t;
		b->logit_slots[e->logit_from + t] = e->samples && t == e->n_logits - 1 ? q->slot : -1;
	}
	b->kv_len[i] = e->from + e->n;
	memcpy(b->page_table + (int64_t)i * b->max_pages, q->pages,
		(size_t)((b->kv_len[i] + b->page_tokens - 1) / b->page_tokens) * sizeof(*q->pages));
	b->q_start[i + 1] = row + e->n;
}

int batch_build(struct batch *b, struct rank *r, const struct sched_step *st)
{
	int32_t row = 0, longest = 0;

	b->q_start[0] = 0;
	for (int32_t i = 0; i < st->n_seqs; i++) {
		lay_entry(b, &st->entry[i], i, row);
		row = b->q_start[i + 1];
		if (b->kv_len[i] > longest)
			longest = b->kv_len[i];
	}
	b->pub.n_tokens = st->n_tokens;
	b->pub.n_seqs = st->n_seqs;
	b->pub.n_logits = st->n_logits;
	b->pub.max_kv_len = longest;
	return r->dvt->copy(r->dev, r->dvt->stream(r->dev), b->device, b->staging, b->bytes);
}

int batch_admit(struct batch *b, struct rank *r, int32_t slot, int32_t n_left, const int32_t *stop_ids, int n)
{
	int32_t ids[NVLLM_STOP_IDS], zero = 0;
	nvllm_stream st = r->dvt->stream(r->dev);
	int rc;

	for (int i = 0; i < NVLLM_STOP_IDS; i++)
		ids[i] = i < n ? stop_ids[i] : -1;
	rc = r->dvt->copy(r->dev, st, b->slots.n_left + slot, &n_left, sizeof(n_left));
	if (!rc)
		rc = r->dvt->copy(r->dev, st, b->slots.done + slot, &zero, sizeof(zero));
	if (!rc)
		rc = r->dvt->copy(r->dev, st, (int32_t *)b->slots.stop_ids + (int64_t)slot * NVLLM_STOP_IDS,
			ids, sizeof(ids));
	return rc;
}
