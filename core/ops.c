/* SPDX-License-Identifier: MIT */
/* What a model's ops become on this device: fused kernels where it has them, composed
 * ones where it has not. Adds what neither side should know: the arena, shape checks,
 * the sticky error, tensor parallelism, the dry run. */
#include <string.h>

#include "engine_int.h"

static struct engine_step *es(struct nvllm_step *s) { return (struct engine_step *)(void *)s; }

/* Keeps the first failure. Returns 1. */
static int __attribute__((format(printf, 3, 4))) stop(struct engine_step *s, int status, const char *fmt, ...)
{
	va_list ap;

	if (s->status)
		return 1;
	s->status = status;
	va_start(ap, fmt);
	vsnprintf(s->error, sizeof(s->error), fmt, ap);
	va_end(ap);
	return 1;
}

/* A kernel's own failure: its sentence, if it left one. */
static void kernel_failed(struct engine_step *s, int status, const char *op)
{
	const char *why = fail_text();

	stop(s, status, "%s: %s", op, *why ? why : "the device's kernel failed");
}

/* Room in the arena for a result. */
static struct nvllm_tensor make(struct engine_step *s, int64_t rows, int64_t cols, int32_t dtype)
{
	int64_t row = nvllm_row_bytes(dtype, cols), bytes = align256(rows * row);
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .stride = row, .planes = 1, .dtype = dtype };

	t.data = s->arena ? s->arena + s->used : NULL;
	s->used += bytes;
	if (s->used > s->peak)
		s->peak = s->used;
	if (s->arena && s->used > s->cap) {
		stop(s, NVLLM_ENOMEM, "the step's arena of %lld bytes is too small for op %d", (long long)s->cap, s->n_ops);
		t.rows = 0; /* nothing may follow the pointer, not even a sum that goes on */
	}
	return t;
}

static struct nvllm_tensor make_f32(struct engine_step *s, int64_t rows, int64_t cols) { return make(s, rows, cols, NVLLM_F32); }

/* An activation, in the type that the device keeps them in. */
static struct nvllm_tensor make_act(struct engine_step *s, int64_t rows, int64_t cols)
{
	return make(s, rows, cols, s->rank->info.act_dtype);
}

static int same(struct engine_step *s, const char *op, const char *what, int64_t is, int64_t wants)
{
	if (is == wants)
		return 0;
	return stop(s, NVLLM_EINVAL, "op %d, %s: %s is %lld, wants %lld", s->n_ops, op, what,
		(long long)is, (long long)wants);
}

#define HAS(s, f) (NVLLM_HAS((s)->rank->dvt->kernels, f) && (s)->rank->dvt->kernels->f)

#define KERNEL(s, f, ...) ((s)->rank->dvt->kernels->f((s)->rank->dev, (s)->rank->dvt->stream((s)->rank->dev), __VA_ARGS__))

/* Runs kernel f for y unless the step is dry or has failed, or y is empty. */
#define CALL(s, f, ...) do { \
	(s)->n_ops++; \
	if ((s)->status || !y.rows || !y.cols) \
		break; \
	if (!HAS(s, f)) { \
		stop(s, NVLLM_ENOTSUP, "the device has no kernel '" #f "'"); \
	} else if ((s)->arena) { \
		int rc_ = KERNEL(s, f, __VA_ARGS__); \
		if (rc_) \
			kernel_failed(s, rc_, #f); \
	} } while (0)

/* Runs the fused kernel f for y: true when it is done with, also by an error. False: the
 * device has none, or not for this shape, or nothing runs: then it is composed. */
#define FUSED(s, f, ...) ((s)->arena && !(s)->status && y.rows && y.cols && HAS(s, f) && \
	fused(s, KERNEL(s, f, __VA_ARGS__), #f))

static bool fused(struct engine_step *s, int rc, const char *op)
{
	if (rc == NVLLM_ENOTSUP)
		return false;
	s->n_ops++;
	if (rc)
		kernel_failed(s, rc, op);
	return true;
}

static int64_t op_mark(struct nvllm_step *p) { return es(p)->used; }
static void op_reset(struct nvllm_step *p, int64_t mark) { es(p)->used = mark; }

/* Adds up the ranks' y, also after an error: the others wait for this rank. */
static void sum(struct engine_step *s, struct nvllm_tensor y)
{
	struct rank *r = s->rank;
	int rc;

	if (!r->comm || !s->arena)
		return;
	rc = r->cvt->all_reduce(r->comm, r->dvt->stream(r->dev), y);
	if (rc)
		kernel_failed(s, rc, "group");
}

/* Puts the ranks' columns x side by side in y, likewise. */
static void gather(struct engine_step *s, struct nvllm_tensor y, struct nvllm_tensor x)
{
	struct rank *r = s->rank;
	int rc;

	if (!s->arena)
		return;
	rc = r->cvt->all_gather(r->comm, r->dvt->stream(r->dev), y, x);
	if (rc)
		kernel_failed(s, rc, "group");
}

/* Is a product with w one rank's share of a sum? */
static bool partial(const struct engine_step *s, struct nvllm_tensor w)
{
	return s->rank->world > 1 && (w.cut == NVLLM_CUT_COLS || w.cut == NVLLM_CUT_HEADS_IN);
}

/* Logits and partial sums are f32. */
static int32_t product_dtype(const struct engine_step *s, struct nvllm_tensor w)
{
	return w.cut == NVLLM_CUT_VOCAB || partial(s, w) ? NVLLM_F32 : s->rank->info.act_dtype;
}

static struct nvllm_tensor op_embed(struct nvllm_step *p, struct nvllm_tensor table, double scale)
{
	struct engine_step *s = es(p);
	struct nvllm_tensor y = make_f32(s, p->batch->n_tokens, table.cols);
	bool cut = table.cut == NVLLM_CUT_VOCAB;

	CALL(s, embed, y, table, cut ? s->rank->cuts.vocab.first : 0, p->batch, scale);
	if (cut)
		sum(s, y); /* one rank has the row, the others zeros */
	return y;
}

static struct nvllm_tensor op_norm(struct nvllm_step *p, struct nvllm_tensor x, const struct nvllm_norm *n)
{
	struct engine_step *s = es(p);
	struct nvllm_tensor y = make_act(s, x.rows, x.cols);

	same(s, "norm", "columns modulo the norm's", n->w.cols ? x.cols % n->w.cols : 1, 0);
	CALL(s, norm, y, x, n);
	return y;
}

static struct nvllm_tensor op_linear(struct nvllm_step *p, struct nvllm_tensor x, struct nvllm_tensor w,
	const struct nvllm_tensor *bias)
{
	struct engine_step *s = es(p);
	bool cut = s->rank->world > 1 && w.cut == NVLLM_CUT_VOCAB;
	struct nvllm_tensor y = make(s, x.rows, cut ? s->rank->cuts.vocab_total : w.rows, product_dtype(s, w)), all = y;
	int64_t mark = s->used;

	same(s, "linear", "columns of x", x.cols, w.cols);
	if (cut)
		y = make_f32(s, x.rows, w.rows);
	if (partial(s, w) && s->rank->index)
		bias = NULL; /* added once, not once a rank */
	CALL(s, linear, y, x, w, bias, 0);
	if (partial(s, w))
		sum(s, y);
	if (cut)
		gather(s, all, y);
	s->used = mark;
	return all;
}

static struct nvllm_tensor op_norm_linear(struct nvllm_step *p, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	struct engine_step *s = es(p);
	struct nvllm_tensor y, h;
	int64_t mark;

	same(s, "norm_linear", "columns of x", x.cols, w.cols);
	if (s->rank->world > 1 && w.cut == NVLLM_CUT_VOCAB)
		return op_linear(p, op_norm(p, x, n), w, bias);
	y = make(s, x.rows, w.rows, product_dtype(s, w));
	mark = s->used;
	if (FUSED(s, norm_linear, y, x, n, w, bias))
		return y;
	h = op_norm(p, x, n);
	CALL(s, linear, y, h, w, bias, 0);
	s->used = mark;
	return y;
}

static void op_add(struct nvllm_step *p, struct nvllm_tensor y, struct nvllm_tensor d)
{
	struct engine_step *s = es(p);

	same(s, "add", "columns of d", d.cols, y.cols);
	CALL(s, add, y, d);
}

static void op_linear_add(struct nvllm_step *p, struct nvllm_tensor x, struct nvllm_tensor a,
	struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	struct engine_step *s = es(p);
	int64_t mark = s->used;

	same(s, "linear_add", "columns of a", a.cols, w.cols);
	same(s, "linear_add", "columns of x", x.cols, w.rows);
	if (!partial(s, w)) {
		const struct nvllm_tensor y = x;

		CALL(s, linear, y, a, w, bias, NVLLM_LINEAR_ADD);
		return;
	}
	/* the residual must be added once, not once a rank */
	op_add(p, x, op_linear(p, a, w, bias));
	s->used = mark;
}

static struct nvllm_tensor op_norm_linear_glu(struct nvllm_step *p, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, int act)
{
	struct engine_step *s = es(p);
	struct nvllm_tensor y = make_act(s, x.rows, w.rows / 2), h;
	int64_t mark = s->used;

	same(s, "norm_linear_glu", "columns of x", x.cols, w.cols);
	if (FUSED(s, norm_linear_glu, y, x, n, w, act))
		return y;
	h = op_norm_linear(p, x, n, w, NULL);
	CALL(s, glu, y, h, act);
	s->used = mark;
	return y;
}

/* Bias, norms and rope with the device's own kernels, in place, then the backend. */
static void attend_composed(struct nvllm_step *p, struct nvllm_tensor qkv, const struct nvllm_attn_in *in,
	struct nvllm_tensor y)
{
	struct engine_step *s = es(p);
	struct rank *r = s->rank;
	const struct nvllm_attn_layer *l = r->shape.layers[in->layer];
	int64_t nq = (int64_t)l->n_heads * l->head_dim, nk = (int64_t)l->n_kv_heads * l->head_dim;
	struct nvllm_tensor q = nvllm_cols(qkv, 0, nq), k = nvllm_cols(qkv, nq, nk), v = nvllm_cols(qkv, nq + nk, nk);
	int rc;

	if (in->bias) {
		struct nvllm_tensor b = *in->bias;

		b.rows = qkv.rows, b.stride = 0; /* the one row, for every row */
		CALL(s, add, qkv, b);
	}
	if (in->q_norm)
		CALL(s, norm, q, q, in->q_norm);
	if (in->k_norm)
		CALL(s, norm, k, k, in->k_norm);
	if (in->rotary && in->rotary->dims) {
		CALL(s, rope, q, p->batch->positions, l->head_dim, in->rotary);
		CALL(s, rope, k, p->batch->positions, l->head_dim, in->rotary);
	}
	s->n_ops++;
	if (s->status || !s->arena || !l->n_heads)
		return;
	rc = r->avt->run(r->attn, r->dvt->stream(r->dev), in->layer, p->batch, q, k, v, y);
	if (rc)
		kernel_failed(s, rc, "attention");
}

static struct nvllm_tensor op_attention(struct nvllm_step *p, struct nvllm_tensor qkv, const struct nvllm_attn_in *in)
{
	struct engine_step *s = es(p);
	struct rank *r = s->rank;
	const struct nvllm_attn_layer *l;
	struct nvllm_tensor y = { .planes = 1 };
	int rc;

	if (in->layer < 0 || in->layer >= r->shape.n_layers) {
		stop(s, NVLLM_EINVAL, "op %d, attention: there is no layer %d", s->n_ops, in->layer);
		return y;
	}
	l = r->shape.layers[in->layer];
	y = make_act(s, qkv.rows, (int64_t)l->n_heads * l->head_dim);
	same(s, "attention", "columns of qkv", qkv.cols, (int64_t)(l->n_heads + 2 * l->n_kv_heads) * l->head_dim);
	if (!NVLLM_HAS(r->avt, run_raw) || !r->avt->run_raw) {
		attend_composed(p, qkv, in, y);
		return y;
	}
	s->n_ops++;
	if (s->status || !s->arena || !l->n_heads)
		return y;
	rc = r->avt->run_raw(r->attn, r->dvt->stream(r->dev), p->batch, qkv, in, y);
	if (rc)
		kernel_failed(s, rc, "attention");
	return y;
}

static struct nvllm_tensor op_logit_rows(struct nvllm_step *p, struct nvllm_tensor x)
{
	struct engine_step *s = es(p);
	struct nvllm_tensor y = make(s, p->batch->n_logits, x.cols, x.dtype);

	CALL(s, rows, y, x, p->batch->logit_rows);
	return y;
}

static void op_moe_add(struct nvllm_step *p, struct nvllm_tensor x, const struct nvllm_norm *n, const struct nvllm_moe *m)
{
	struct engine_step *s = es(p);
	int64_t mark = s->used;
	struct nvllm_tensor y = op_norm(p, x, n), h = y, scratch = make_f32(s, 1, nvllm_moe_scratch(x.rows, m));

	same(s, "moe_add", "columns of x", x.cols, m->router.cols);
	same(s, "moe_add", "rows of down", m->down.rows, x.cols);
	same(s, "moe_add", "experts of gate_up and down", m->gate_up.planes - m->down.planes, 0);
	same(s, "moe_add", "experts of the router", m->router.rows, m->gate_up.planes);
	if (m->n_top < 1 || m->n_top > m->router.rows)
		stop(s, NVLLM_EINVAL, "op %d, moe_add: %d experts a token of %lld", s->n_ops, m->n_top, (long long)m->router.rows);
	y = make_f32(s, x.rows, x.cols);
	CALL(s, moe, y, h, m, scratch);
	if (partial(s, m->down))
		sum(s, y);
	op_add(p, x, y);
	s->used = mark;
}

static const struct nvllm_ops ops = {
	.size = sizeof(ops), .mark = op_mark, .reset = op_reset, .embed = op_embed, .norm = op_norm,
	.linear = op_linear, .norm_linear = op_norm_linear, .linear_add = op_linear_add,
	.norm_linear_glu = op_norm_linear_glu, .attention = op_attention, .logit_rows = op_logit_rows,
	.add = op_add, .moe_add = op_moe_add,
};

void step_begin(struct engine_step *s, struct rank *r, const struct nvllm_batch *b, void *arena, int64_t cap)
{
	*s = (struct engine_step){ .pub = { &ops, b }, .rank = r, .arena = arena, .cap = cap };
}

void step_fail(struct engine_step *s, int status) { kernel_failed(s, status, "before the step"); }
