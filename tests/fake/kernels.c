/* SPDX-License-Identifier: MIT */
/* The kernels: each checks what it is given, keeps it as a job, and the job calls the CPU
 * device's kernel of that name. */
#include <string.h>

#include "fake.h"

#define CPU(d) (d)->cpu_vt->kernels
#define ON(d, op, t) tensor_on_device(d, op, #t, &(t))

/* ---- what several take ---- */

/* As much as both sides know of. */
static void keep(void *to, uint32_t room, const void *from, uint32_t size)
{
	memset(to, 0, room);
	memcpy(to, from, size < room ? size : room);
	memcpy(to, &room, sizeof(room));
}

void batch_keep(struct fake_batch *k, const struct nvllm_batch *b)
{
	keep(&k->b, sizeof(k->b), b, b->size);
	if (b->state)
		keep(&k->s, sizeof(k->s), b->state, b->state->size);
	k->b.state = NULL;
	k->b.h_q_start = k->b.h_kv_len = k->b.h_page_table = NULL;
}

struct nvllm_batch batch_of(const struct fake_batch *k)
{
	struct nvllm_batch b = k->b;

	b.state = &k->s;
	b.h_q_start = b.q_start;
	b.h_kv_len = b.kv_len;
	b.h_page_table = b.page_table;
	return b;
}

bool ints_on_device(struct nvllm_device *d, const char *op, const char *what, const int32_t *p,
	int64_t n)
{
	return on_device(d, op, what, p, n * (int64_t)sizeof(*p));
}

static bool state_on_device(struct nvllm_device *d, const char *op, const struct nvllm_batch *b)
{
	const struct nvllm_slots *s = b->state;

	if (!s) {
		misuse(d, "%s: the batch has no state", op);
		return false;
	}
	return ints_on_device(d, op, "last_token", s->last_token, s->n_slots) &&
	       ints_on_device(d, op, "n_left", s->n_left, s->n_slots) &&
	       ints_on_device(d, op, "done", s->done, s->n_slots) &&
	       ints_on_device(d, op, "stop_ids", s->stop_ids, (int64_t)s->n_slots * NVLLM_STOP_IDS);
}

/* ---- embed ---- */

/* A row whose token the host did not know: it must have been sampled by now. */
static void check_last_tokens(struct nvllm_device *d, const struct nvllm_batch *b, int64_t rows)
{
	for (int64_t i = 0; i < rows; i++) {
		const int32_t t = b->tokens[i], slot = -1 - t;

		if (t < 0 && (slot >= b->state->n_slots || b->state->last_token[slot] < 0)) {
			misuse(d,
				"embed: row %lld asks for the last token of slot %d, which has "
				"none",
				(long long)i, slot);
			return;
		}
	}
}

static int run_embed(struct nvllm_device *d, const struct job *j)
{
	const struct nvllm_batch b = batch_of(&j->u.embed.b);

	check_last_tokens(d, &b, j->u.embed.y.rows);
	return CPU(d)->embed(d->cpu, NULL, j->u.embed.y, j->u.embed.table, j->u.embed.first, &b,
		j->u.embed.scale);
}
static const struct job_type embed_type = { "embed", true, run_embed };

static int embed(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor table, int64_t first, const struct nvllm_batch *b, double scale)
{
	struct job *j;

	if (!ON(d, "embed", y) || !ON(d, "embed", table) || !state_on_device(d, "embed", b) ||
	    !ints_on_device(d, "embed", "tokens", b->tokens, y.rows))
		return NVLLM_OK;
	j = job_new(d, s, &embed_type);
	if (!j)
		return job_none(d, s);
	j->u.embed.y = y;
	j->u.embed.table = table;
	j->u.embed.first = first;
	j->u.embed.scale = scale;
	batch_keep(&j->u.embed.b, b);
	return NVLLM_OK;
}

/* ---- linear ---- */

static int run_linear(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->linear(d->cpu, NULL, j->u.linear.y, j->u.linear.x, j->u.linear.w,
		j->u.linear.has_bias ? &j->u.linear.bias : NULL, (uint32_t)j->u.linear.flags);
}
static const struct job_type linear_type = { "linear", true, run_linear };

static int linear(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, struct nvllm_tensor w, const struct nvllm_tensor *bias,
	uint32_t flags)
{
	struct job *j;

	if (!ON(d, "linear", y) || !ON(d, "linear", x) || !ON(d, "linear", w) ||
	    (bias && !ON(d, "linear", *bias)))
		return NVLLM_OK;
	j = job_new(d, s, &linear_type);
	if (!j)
		return job_none(d, s);
	j->u.linear.y = y;
	j->u.linear.x = x;
	j->u.linear.w = w;
	if (bias)
		j->u.linear.bias = *bias;
	j->u.linear.has_bias = bias != NULL;
	j->u.linear.flags = flags;
	return NVLLM_OK;
}

/* ---- norm ---- */

static int run_norm(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->norm(d->cpu, NULL, j->u.norm.y, j->u.norm.x, &j->u.norm.n);
}
static const struct job_type norm_type = { "norm", true, run_norm };

static int norm(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_norm *n)
{
	struct job *j;

	if (!ON(d, "norm", y) || !ON(d, "norm", x) || !ON(d, "norm", n->w) ||
	    (n->b.data && !ON(d, "norm", n->b)))
		return NVLLM_OK;
	j = job_new(d, s, &norm_type);
	if (!j)
		return job_none(d, s);
	j->u.norm.y = y;
	j->u.norm.x = x;
	keep(&j->u.norm.n, sizeof(j->u.norm.n), n, n->size);
	return NVLLM_OK;
}

/* ---- add, glu, rows ---- */

static int pair(struct nvllm_device *d, nvllm_stream s, const struct job_type *type,
	struct nvllm_tensor y, struct nvllm_tensor x, const int32_t *index, int act)
{
	struct job *j;

	if (!ON(d, type->name, y) || !ON(d, type->name, x) ||
	    (index && !ints_on_device(d, type->name, "index", index, y.rows)))
		return NVLLM_OK;
	j = job_new(d, s, type);
	if (!j)
		return job_none(d, s);
	j->u.pair.y = y;
	j->u.pair.x = x;
	j->u.pair.index = index;
	j->u.pair.act = act;
	return NVLLM_OK;
}

static int run_add(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->add(d->cpu, NULL, j->u.pair.y, j->u.pair.x);
}
static const struct job_type add_type = { "add", true, run_add };

static int add(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x, struct nvllm_tensor y)
{
	return pair(d, s, &add_type, x, y, NULL, 0);
}

static int run_glu(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->glu(d->cpu, NULL, j->u.pair.y, j->u.pair.x, (int)j->u.pair.act);
}
static const struct job_type glu_type = { "glu", true, run_glu };

static int glu(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x,
	int act)
{
	return pair(d, s, &glu_type, y, x, NULL, act);
}

static int run_rows(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->rows(d->cpu, NULL, j->u.pair.y, j->u.pair.x, j->u.pair.index);
}
static const struct job_type rows_type = { "rows", true, run_rows };

static int rows(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const int32_t *index)
{
	if (!index && y.rows) {
		misuse(d, "rows: no index");
		return NVLLM_OK;
	}
	return pair(d, s, &rows_type, y, x, index, 0);
}

/* ---- rope ---- */

static int run_rope(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->rope(
		d->cpu, NULL, j->u.rope.x, j->u.rope.pos, j->u.rope.head_dim, &j->u.rope.r);
}
static const struct job_type rope_type = { "rope", true, run_rope };

static int rope(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x, const int32_t *pos,
	int64_t head_dim, const struct nvllm_rotary *r)
{
	struct job *j;

	if (!ON(d, "rope", x) || !ints_on_device(d, "rope", "positions", pos, x.rows) ||
	    !ON(d, "rope", r->inv_freq))
		return NVLLM_OK;
	j = job_new(d, s, &rope_type);
	if (!j)
		return job_none(d, s);
	j->u.rope.x = x;
	j->u.rope.pos = pos;
	j->u.rope.head_dim = head_dim;
	keep(&j->u.rope.r, sizeof(j->u.rope.r), r, r->size);
	return NVLLM_OK;
}

/* ---- logprobs ---- */

static int run_logprobs(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->logprobs(d->cpu, NULL, j->u.logprobs.logits, &j->u.logprobs.lp);
}
static const struct job_type logprobs_type = { "logprobs", true, run_logprobs };

static int logprobs(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor logits,
	const struct nvllm_logprobs *lp)
{
	const int64_t n = logits.rows, top = n * lp->n_top;
	const char *const op = "logprobs";
	struct job *j;

	if (!ON(d, op, logits) || !ints_on_device(d, op, "targets", lp->targets, n) ||
	    (lp->tokens && !ints_on_device(d, op, "tokens", lp->tokens, n)) ||
	    !on_device(d, op, "target_logprob", lp->target_logprob, n * 4) ||
	    !ints_on_device(d, op, "target_rank", lp->target_rank, n) ||
	    !ints_on_device(d, op, "top_ids", lp->top_ids, top) ||
	    !on_device(d, op, "top_logprobs", lp->top_logprobs, top * 4))
		return NVLLM_OK;
	j = job_new(d, s, &logprobs_type);
	if (!j)
		return job_none(d, s);
	j->u.logprobs.logits = logits;
	keep(&j->u.logprobs.lp, sizeof(j->u.logprobs.lp), lp, lp->size);
	return NVLLM_OK;
}

/* ---- advance ---- */

static int run_advance(struct nvllm_device *d, const struct job *j)
{
	const struct nvllm_batch b = batch_of(&j->u.advance.b);

	return CPU(d)->advance(d->cpu, NULL, &b, j->u.advance.tokens);
}
static const struct job_type advance_type = { "advance", true, run_advance };

static int advance(struct nvllm_device *d, nvllm_stream s, const struct nvllm_batch *b,
	const int32_t *tokens)
{
	struct job *j;

	if (!state_on_device(d, "advance", b) ||
	    !ints_on_device(d, "advance", "tokens", tokens, b->n_logits) ||
	    !ints_on_device(d, "advance", "logit_slots", b->logit_slots, b->n_logits))
		return NVLLM_OK;
	j = job_new(d, s, &advance_type);
	if (!j)
		return job_none(d, s);
	j->u.advance.tokens = tokens;
	batch_keep(&j->u.advance.b, b);
	return NVLLM_OK;
}

/* ---- moe ---- */

static int run_moe(struct nvllm_device *d, const struct job *j)
{
	return CPU(d)->moe(d->cpu, NULL, j->u.moe.y, j->u.moe.x, &j->u.moe.m, j->u.moe.scratch);
}
static const struct job_type moe_type = { "moe", true, run_moe };

static int moe(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_moe *m, struct nvllm_tensor scratch)
{
	struct job *j;

	if (!ON(d, "moe", y) || !ON(d, "moe", x) || !ON(d, "moe", m->router) ||
	    !ON(d, "moe", m->gate_up) || !ON(d, "moe", m->down) || !ON(d, "moe", scratch))
		return NVLLM_OK;
	j = job_new(d, s, &moe_type);
	if (!j)
		return job_none(d, s);
	j->u.moe.y = y;
	j->u.moe.x = x;
	j->u.moe.scratch = scratch;
	keep(&j->u.moe.m, sizeof(j->u.moe.m), m, m->size);
	return NVLLM_OK;
}

const struct nvllm_kernels fake_kernels = {
	.size = sizeof(fake_kernels), .embed = embed, .linear = linear, .norm = norm, .add = add,
	.rope = rope, .glu = glu, .rows = rows, .logprobs = logprobs, .advance = advance,
	.moe = moe,
};
