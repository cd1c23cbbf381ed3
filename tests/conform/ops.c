/* SPDX-License-Identifier: MIT */
/* tests/conform/ops.c - the ops of nvllm/ops.h in plain loops and doubles, for the model
 * suite: results in an arena whose freed part is filled with NaN, shapes checked, the
 * first failure sticks. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static struct fstep *fs(struct nvllm_step *s)
{
	return (struct fstep *)s;
}

__attribute__((format(printf, 2, 3)))
static void stop(struct fstep *s, const char *fmt, ...)
{
	va_list ap;

	if (s->why[0])
		return;
	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
}

static void called(struct fstep *s, const char *op, int64_t a, int64_t b, int64_t c)
{
	const int64_t v[] = { (int64_t)hash_text(op), a, b, c };

	s->n_calls++;
	for (size_t i = 0; i < 4; i++)
		s->calls = (s->calls ^ (uint64_t)v[i]) * 0x100000001B3ull;
}

static bool halt(const struct fstep *s)
{
	return s->dry || s->why[0];
}

static float *row(struct nvllm_tensor t, int64_t i)
{
	return (float *)((char *)t.data + i * t.stride);
}

static struct nvllm_tensor tmp(struct fstep *s, int64_t rows, int64_t cols)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .stride = cols * 4, .planes = 1,
		.dtype = NVLLM_F32 };

	if (rows < 0 || cols <= 0 || cols > MAX_COLS || rows > MAX_ROWS ||
		s->used + rows * cols > s->room)
		stop(s, "call %d: a result of %ld x %ld is out of all proportion", s->n_calls,
			(long)rows, (long)cols);
	else if (!s->dry)
		t.data = s->arena + s->used;
	s->used += rows * cols;
	return t;
}

/* Marks a weight as read; views into one count too. */
static void use(struct fstep *s, struct nvllm_tensor t)
{
	for (int i = 0; i < s->w->n && t.data; i++) {
		struct fweight *w = &s->w->list[i];

		if (w->data && (float *)t.data >= w->data &&
			(float *)t.data < w->data + w->rows * w->cols)
			w->used = 1;
	}
}

static void want(struct fstep *s, const char *op, const char *what, int64_t got, int64_t expected)
{
	if (got != expected)
		stop(s, "call %d, %s: %s is %ld, expected %ld", s->n_calls, op, what, (long)got,
			(long)expected);
}

static int64_t op_mark(struct nvllm_step *p)
{
	return fs(p)->used;
}

static void op_reset(struct nvllm_step *p, int64_t mark)
{
	struct fstep *s = fs(p);

	if (mark < 0 || mark > s->used)
		stop(s, "call %d: reset to a mark that mark() did not give", s->n_calls);
	else if (!halt(s))
		memset(s->arena + mark, 0xFF, sizeof(float) * (size_t)(s->used - mark));
	s->used = mark;
}

static struct nvllm_tensor op_embed(struct nvllm_step *p, struct nvllm_tensor table, double scale)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor y = tmp(s, p->batch->n_tokens, table.cols);

	called(s, "embed", table.rows, table.cols, (int64_t)(scale * 1e6));
	use(s, table);
	for (int64_t r = 0; r < y.rows && !halt(s); r++)
		for (int64_t i = 0; i < y.cols; i++)
			row(y, r)[i] = (float)(scale * (double)row(table, p->batch->tokens[r])[i]);
	return y;
}

/* One row of x to s->y. */
static void norm_row(struct fstep *s, const float *x, int64_t cols, const struct nvllm_norm *n)
{
	double w[MAX_COLS], b[MAX_COLS];

	for (int64_t i = 0; i < cols; i++)
		s->x[i] = (double)x[i];
	for (int64_t i = 0; i < n->w.cols; i++) {
		w[i] = (double)((float *)n->w.data)[i];
		b[i] = n->b.data ? (double)((float *)n->b.data)[i] : 0;
	}
	ref_norm(n, w, b, s->x, s->y, cols);
}

static void norm_check(struct fstep *s, const char *op, const struct nvllm_norm *n, int64_t cols)
{
	if (!n || n->size < sizeof(*n))
		stop(s, "call %d, %s: the norm has no size", s->n_calls, op);
	else if (n->w.cols < 1 || n->w.rows != 1 || cols % n->w.cols)
		stop(s, "call %d, %s: a norm of %ld over rows of %ld", s->n_calls, op,
			(long)n->w.cols, (long)cols);
	else if (n->kind != NVLLM_RMS_NORM && n->kind != NVLLM_LAYER_NORM)
		stop(s, "call %d, %s: kind %d of norm", s->n_calls, op, n->kind);
	else
		use(s, n->w), use(s, n->b);
}

static struct nvllm_tensor op_norm(
	struct nvllm_step *p, struct nvllm_tensor x, const struct nvllm_norm *n)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor y = tmp(s, x.rows, x.cols);

	called(s, "norm", x.rows, x.cols, 0);
	norm_check(s, "norm", n, x.cols);
	for (int64_t r = 0; r < x.rows && !halt(s); r++) {
		norm_row(s, row(x, r), x.cols, n);
		for (int64_t i = 0; i < x.cols; i++)
			row(y, r)[i] = (float)s->y[i];
	}
	return y;
}

static void product(struct fstep *s, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, bool add)
{
	use(s, w);
	if (bias)
		use(s, *bias), want(s, "linear", "columns of the bias", bias->cols, w.rows);
	want(s, "linear", "columns of x", x.cols, w.cols);
	want(s, "linear", "rows of y", y.rows, x.rows);
	want(s, "linear", "columns of y", y.cols, w.rows);
	for (int64_t r = 0; r < x.rows && !halt(s); r++)
		for (int64_t n = 0; n < w.rows; n++) {
			double sum = bias ? (double)row(*bias, 0)[n] : 0;

			for (int64_t i = 0; i < x.cols; i++)
				sum += (double)row(x, r)[i] * (double)row(w, n)[i];
			row(y, r)[n] = (float)(sum + (add ? (double)row(y, r)[n] : 0));
		}
}

static struct nvllm_tensor op_linear(struct nvllm_step *p, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor y = tmp(s, x.rows, w.rows);

	called(s, "linear", x.rows, x.cols, w.rows);
	product(s, y, x, w, bias, false);
	return y;
}

static struct nvllm_tensor op_norm_linear(struct nvllm_step *p, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	return op_linear(p, op_norm(p, x, n), w, bias);
}

static void op_linear_add(struct nvllm_step *p, struct nvllm_tensor x, struct nvllm_tensor a,
	struct nvllm_tensor w, const struct nvllm_tensor *bias)
{
	called(fs(p), "linear_add", x.rows, a.cols, w.rows);
	product(fs(p), x, a, w, bias, true);
}

static struct nvllm_tensor op_norm_linear_glu(struct nvllm_step *p, struct nvllm_tensor x,
	const struct nvllm_norm *n, struct nvllm_tensor w, int act)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor h = op_norm_linear(p, x, n, w, NULL), y = tmp(s, x.rows, w.rows / 2);

	called(s, "glu", y.rows, y.cols, act);
	if (act < NVLLM_SILU || act > NVLLM_RELU || w.rows % 2)
		stop(s, "call %d, norm_linear_glu: activation %d, %ld rows", s->n_calls, act,
			(long)w.rows);
	for (int64_t r = 0; r < y.rows && !halt(s); r++)
		for (int64_t i = 0; i < y.cols; i++)
			row(y, r)[i] = (float)(ref_act(act, (double)row(h, r)[i]) *
				(double)row(h, r)[i + y.cols]);
	return y;
}

/* ---- attention ---- */

static void attn_check(struct fstep *s, struct nvllm_tensor qkv, const struct nvllm_attn_in *in,
	const struct nvllm_attn_layer *l)
{
	int64_t cols = (int64_t)(l->n_heads + 2 * l->n_kv_heads) * l->head_dim;

	want(s, "attention", "rows of qkv", qkv.rows, s->pub.batch->n_tokens);
	want(s, "attention", "columns of qkv", qkv.cols, cols);
	if (in->bias)
		use(s, *in->bias),
			want(s, "attention", "columns of the bias", in->bias->cols, cols);
	if (in->q_norm)
		norm_check(s, "attention", in->q_norm, l->head_dim);
	if (in->k_norm)
		norm_check(s, "attention", in->k_norm, l->head_dim);
	if (in->rotary &&
		(in->rotary->dims > l->head_dim || in->rotary->dims % 2 || in->rotary->dims < 0))
		stop(s, "call %d, attention: %d elements of a head of %d turn", s->n_calls,
			in->rotary->dims, l->head_dim);
}

/* Norm and rope of n heads at s->x, in place. */
static void turn(struct fstep *s, int64_t n, const struct nvllm_attn_layer *l,
	const struct nvllm_norm *norm, const struct nvllm_rotary *r, int32_t pos, double *v)
{
	double w[MAX_COLS], b[MAX_COLS], freq[MAX_COLS], y[MAX_COLS];

	if (norm) {
		for (int64_t i = 0; i < norm->w.cols; i++) {
			w[i] = (double)((float *)norm->w.data)[i];
			b[i] = norm->b.data ? (double)((float *)norm->b.data)[i] : 0;
		}
		ref_norm(norm, w, b, v, y, n * l->head_dim);
		memcpy(v, y, sizeof(double) * (size_t)(n * l->head_dim));
	}
	for (int32_t i = 0; r && i < r->dims / 2; i++)
		freq[i] = (double)((float *)r->inv_freq.data)[i];
	if (r && r->dims)
		ref_rope(v, n, l->head_dim, r->dims, r->interleaved, r->mscale, freq, pos);
	(void)s;
}

/* Row r: K and V to its slot, then attends to its sequence. */
static void attend_row(struct fstep *s, int64_t r, int32_t seq, struct nvllm_tensor qkv,
	const struct nvllm_attn_in *in, float *y)
{
	const struct nvllm_attn_layer *l = s->arch->layers[in->layer];
	int32_t from = l->kv_layer >= 0 ? l->kv_layer : in->layer;
	struct ref_attn a = { l->n_heads, l->n_kv_heads, l->head_dim, l->window, l->scale,
		l->softcap };
	int64_t nq = a.heads * a.head_dim, nk = a.kv_heads * a.head_dim;
	int32_t pos = s->pub.batch->positions[r], page = s->pub.batch->page_table[seq];
	int64_t slot = s->pub.batch->slots[r];

	for (int64_t i = 0; i < qkv.cols; i++)
		s->x[i] = (double)row(qkv, r)[i] + (in->bias ? (double)row(*in->bias, 0)[i] : 0);
	turn(s, a.heads, l, in->q_norm, in->rotary, pos, s->x);
	turn(s, a.kv_heads, l, in->k_norm, in->rotary, pos, s->x + nq);
	for (int64_t i = 0; i < nk && l->kv_layer < 0; i++) {
		s->k[from][slot * nk + i] = (float)s->x[nq + i];
		s->v[from][slot * nk + i] = (float)s->x[nq + nk + i];
	}
	for (int64_t p = 0; p <= pos; p++)
		for (int64_t i = 0; i < nk; i++) {
			s->keys[p * nk + i] =
				(double)s->k[from][((int64_t)page * SEQ_LEN + p) * nk + i];
			s->values[p * nk + i] =
				(double)s->v[from][((int64_t)page * SEQ_LEN + p) * nk + i];
		}
	ref_attend(&a, pos, s->x, s->keys, s->values, s->y);
	for (int64_t i = 0; i < nq; i++)
		y[i] = (float)s->y[i];
}

static struct nvllm_tensor op_attention(struct nvllm_step *p, struct nvllm_tensor qkv,
	const struct nvllm_attn_in *in)
{
	struct fstep *s = fs(p);
	const struct nvllm_batch *b = p->batch;
	const struct nvllm_attn_layer *l;
	struct nvllm_tensor y;

	if (in->layer < 0 || in->layer >= s->arch->n_layers) {
		stop(s, "call %d, attention: there is no layer %d", s->n_calls, in->layer);
		return tmp(s, qkv.rows, 1);
	}
	l = s->arch->layers[in->layer];
	y = tmp(s, qkv.rows, (int64_t)l->n_heads * l->head_dim);
	called(s, "attention", in->layer, qkv.rows, qkv.cols);
	attn_check(s, qkv, in, l);
	for (int32_t i = 0; i < b->n_seqs; i++)
		for (int64_t r = b->q_start[i]; r < b->q_start[i + 1] && !halt(s); r++)
			attend_row(s, r, i, qkv, in, row(y, r));
	return y;
}

static struct nvllm_tensor op_logit_rows(struct nvllm_step *p, struct nvllm_tensor x)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor y = tmp(s, p->batch->n_logits, x.cols);

	called(s, "logit_rows", x.rows, x.cols, 0);
	for (int64_t r = 0; r < y.rows && !halt(s); r++)
		memcpy(row(y, r), row(x, p->batch->logit_rows[r]), sizeof(float) * (size_t)x.cols);
	return y;
}

static void op_add(struct nvllm_step *p, struct nvllm_tensor x, struct nvllm_tensor d)
{
	struct fstep *s = fs(p);

	called(s, "add", x.rows, x.cols, 0);
	want(s, "add", "rows", d.rows, x.rows);
	want(s, "add", "columns", d.cols, x.cols);
	for (int64_t r = 0; r < x.rows && !halt(s); r++)
		for (int64_t i = 0; i < x.cols; i++)
			row(x, r)[i] += row(d, r)[i];
}

/* ---- experts ---- */

/* p = softmax(router h) over all experts. */
static void route(const struct nvllm_moe *m, const float *h, double *p)
{
	double most = -HUGE_VAL, sum = 0;

	for (int64_t e = 0; e < m->router.rows; e++) {
		p[e] = 0;
		for (int64_t i = 0; i < m->router.cols; i++)
			p[e] += (double)row(m->router, e)[i] * (double)h[i];
		most = p[e] > most ? p[e] : most;
	}
	for (int64_t e = 0; e < m->router.rows; e++)
		sum += p[e] = exp(p[e] - most);
	for (int64_t e = 0; e < m->router.rows; e++)
		p[e] /= sum;
}

/* y += weight * down (act(gate h) * up h) of one expert. */
static void add_expert(const struct nvllm_moe *m, int64_t e, double weight, const float *h, double *y)
{
	struct nvllm_tensor gu = m->gate_up, down = m->down;
	int64_t ffn = gu.rows / 2;
	double mid[MAX_COLS];

	gu.data = (char *)gu.data + e * gu.plane_stride;
	down.data = (char *)down.data + e * down.plane_stride;
	for (int64_t f = 0; f < ffn; f++) {
		double g = 0, u = 0;

		for (int64_t i = 0; i < gu.cols; i++) {
			g += (double)row(gu, f)[i] * (double)h[i];
			u += (double)row(gu, ffn + f)[i] * (double)h[i];
		}
		mid[f] = ref_act(m->act, g) * u;
	}
	for (int64_t n = 0; n < down.rows; n++)
		for (int64_t f = 0; f < ffn; f++)
			y[n] += weight * (double)row(down, n)[f] * mid[f];
}

static void moe_row(struct fstep *s, const struct nvllm_moe *m, const float *h, float *x)
{
	double p[MAX_COLS], sum = 0;
	int64_t top[64];

	route(m, h, p);
	for (int k = 0; k < m->n_top; k++) {
		top[k] = 0;
		for (int64_t e = 1; e < m->router.rows; e++)
			top[k] = p[e] > p[top[k]] ? e : top[k];
		s->keys[k] = p[top[k]];
		sum += p[top[k]];
		p[top[k]] = -1;
	}
	memset(s->y, 0, sizeof(s->y));
	for (int k = 0; k < m->n_top; k++)
		add_expert(m, top[k], s->keys[k] / (m->norm_topk ? sum : 1), h, s->y);
	for (int64_t i = 0; i < m->down.rows; i++)
		x[i] = (float)((double)x[i] + s->y[i]);
}

static void op_moe_add(struct nvllm_step *p, struct nvllm_tensor x, const struct nvllm_norm *n,
	const struct nvllm_moe *m)
{
	struct fstep *s = fs(p);
	struct nvllm_tensor h = op_norm(p, x, n);

	called(s, "moe_add", x.rows, x.cols, m->n_top);
	use(s, m->router), use(s, m->gate_up), use(s, m->down);
	want(s, "moe_add", "columns of the router", m->router.cols, x.cols);
	want(s, "moe_add", "columns of gate and up", m->gate_up.cols, x.cols);
	want(s, "moe_add", "rows of down", m->down.rows, x.cols);
	want(s, "moe_add", "columns of down", m->down.cols * 2, m->gate_up.rows);
	want(s, "moe_add", "experts of gate and up", m->gate_up.planes, m->router.rows);
	want(s, "moe_add", "experts of down", m->down.planes, m->router.rows);
	if (m->size < sizeof(*m) || m->n_top < 1 || m->n_top > m->router.rows || m->n_top > 64 ||
		m->act < NVLLM_SILU || m->act > NVLLM_RELU)
		stop(s, "call %d, moe_add: size %u, %d experts a token, activation %d", s->n_calls,
			m->size, m->n_top, m->act);
	for (int64_t r = 0; r < x.rows && !halt(s); r++)
		moe_row(s, m, row(h, r), row(x, r));
}

static const struct nvllm_ops ops = {
	.size = sizeof(ops),
	.mark = op_mark,
	.reset = op_reset,
	.embed = op_embed,
	.norm = op_norm,
	.linear = op_linear,
	.norm_linear = op_norm_linear,
	.linear_add = op_linear_add,
	.norm_linear_glu = op_norm_linear_glu,
	.attention = op_attention,
	.logit_rows = op_logit_rows,
	.add = op_add,
	.moe_add = op_moe_add,
};

struct fstep *fstep_new(const struct nvllm_arch *arch, struct fweights *w)
{
	struct fstep *s = calloc(1, sizeof(*s));
	size_t n = (size_t)arch->n_layers;

	if (!s)
		abort();
	s->arch = arch;
	s->w = w;
	s->dry = w->dry;
	s->room = 1 << 21;
	s->arena = malloc(sizeof(float) * (size_t)s->room);
	s->k = calloc(n, sizeof(*s->k));
	s->v = calloc(n, sizeof(*s->v));
	for (size_t i = 0; i < n; i++) {
		size_t bytes = sizeof(float) * N_SEQS * SEQ_LEN *
			(size_t)(arch->layers[i]->n_kv_heads * arch->layers[i]->head_dim);

		s->k[i] = malloc(bytes), s->v[i] = malloc(bytes);
		memset(s->k[i], 0xFF, bytes), memset(s->v[i], 0xFF, bytes);
	}
	return s;
}

void fstep_free(struct fstep *s)
{
	for (int i = 0; i < s->arch->n_layers; i++)
		free(s->k[i]), free(s->v[i]);
	free(s->k), free(s->v), free(s->arena), free(s);
}

int fstep_run(struct fstep *s, const struct nvllm_model_vt *vt, struct nvllm_model *m,
	const struct nvllm_batch *b, struct nvllm_tensor *logits)
{
	int status;

	s->pub.op = &ops;
	s->pub.batch = b;
	s->used = 0, s->n_calls = 0, s->calls = 0, s->why[0] = 0;
	memset(s->arena, 0xFF, sizeof(float) * (size_t)s->room);
	memset(logits, 0, sizeof(*logits));
	ck_step_begin();
	status = vt->forward(m, &s->pub, logits);
	ck_step_end();
	if (status)
		return ck_bad("forward returned %d: %s", status, fake_said());
	if (s->why[0])
		return ck_bad("%s", s->why);
	if (logits->rows != b->n_logits || logits->cols != s->arch->vocab)
		return ck_bad("logits are %ld x %ld, expected %d x %ld", (long)logits->rows,
			(long)logits->cols, b->n_logits, (long)s->arch->vocab);
	return 0;
}
