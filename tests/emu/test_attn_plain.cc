/* SPDX-License-Identifier: MIT */
/* Attention in f32 on the CUDA cores: against the definition, and a row's bits against its batch. */
#include "attn_oracle.h"
#include "../../backends/cuda/attn_plain.cu"

#define LOG2E 1.4426950408889634

static struct step_case cases[] = {
	{ .name = "lengths", .dim = 64, .n_kv = 2, .group = 2,
	  .seqs = { { 1, 1 }, { 1, 15 }, { 1, 16 }, { 1, 17 }, { 1, 31 }, { 1, 1023 } } },
	{ .name = "prompts", .dim = 128, .n_kv = 1, .group = 4, .seqs = { { 2, 2 }, { 15, 15 }, { 16, 16 }, { 17, 17 }, { 33, 33 } } },
	{ .name = "chunks and prefixes", .dim = 32, .n_kv = 2, .group = 7,
	  .seqs = { { 1, 40 }, { 5, 37 }, { 16, 48 }, { 3, 131 } } },
	{ .name = "padding", .dim = 48, .n_kv = 3, .group = 1, .nobody = 3,
	  .seqs = { { 1, 9 }, { 1, 0 }, { 1, 0 }, { 4, 4 }, { 0, 0 }, { 0, 0 } }, .n_seqs = 6 },
	{ .name = "window", .dim = 80, .n_kv = 2, .group = 2, .window = 20,
	  .seqs = { { 1, 5 }, { 1, 20 }, { 1, 21 }, { 1, 100 }, { 60, 60 }, { 9, 51 } } },
	{ .name = "window of 1", .dim = 16, .n_kv = 1, .group = 3, .window = 1, .seqs = { { 1, 33 }, { 18, 18 } } },
	{ .name = "soft cap", .dim = 96, .n_kv = 1, .group = 2, .cap = 2.5, .seqs = { { 1, 77 }, { 20, 30 } } },
	{ .name = "cap and window", .dim = 256, .n_kv = 1, .group = 2, .window = 33, .cap = 5, .seqs = { { 1, 77 }, { 6, 40 } } },
	{ .name = "group 16", .dim = 16, .n_kv = 1, .group = 16, .seqs = { { 1, 18 }, { 3, 19 } } },
	{ .name = "256", .dim = 256, .n_kv = 1, .group = 1, .seqs = { { 1, 129 }, { 3, 3 } } },
};

template <class Y> static Y *run(const struct step *s, int y_dtype)
{
	const struct step_case *c = s->c;
	struct attn_layer l = {};
	struct nvllm_attn_shape sh = {};
	struct nvllm_attention a = {};
	int64_t n = (int64_t)s->T * s->n_heads * c->dim, pad = 5 * 16; /* bytes between rows of y */
	void *pool = step_pool<float>(s);
	float *q = as<float>(s->q, n, s->scale * (c->cap > 0 ? 1 / c->cap : LOG2E));
	struct nvllm_tensor y = {};
	Y *dense = zeros<Y>(n);

	sh.n_layers = 1, sh.max_seqs = s->n_seqs, sh.max_tokens = s->T;
	l.n_heads = s->n_heads, l.n_kv = c->n_kv, l.dim = c->dim, l.group = c->group, l.window = c->window;
	l.cap = (float)c->cap, l.row_bytes = c->dim * 4, l.page_bytes = kv_page_bytes(l.row_bytes, c->n_kv);
	a.shape = &sh, a.layers = &l, a.kv = &pool, a.q = q;
	y.dtype = y_dtype, y.rows = s->T, y.cols = s->n_heads * c->dim, y.stride = y.cols * (int)sizeof(Y) + pad;
	y.data = edges_new((size_t)(y.rows * y.stride));
	CHECK_EQ(attn_plain_setup(&a), 0, "%s: setup", c->name);
	CHECK_EQ(attn_plain(&a, NULL, 0, &s->b, y), 0, "%s: launch", c->name);
	for (int t = 0; t < s->T; t++) {
		const char *row = (const char *)y.data + t * y.stride;

		memcpy(dense + t * y.cols, row, y.cols * sizeof(Y));
		for (int i = 0; i < pad; i++)
			if (row[y.stride - pad + i] != -1)
				CHECK(false, "%s: written between rows", c->name);
	}
	edges_free(pool), edges_free(q), edges_free(y.data);
	return dense;
}

static void compare(struct step_case *c, uint64_t seed)
{
	struct step *s = step_new<float, float>(c, PAGE, 1, seed);
	int64_t n = (int64_t)s->T * s->n_heads * c->dim;
	float *y = run<float>(s, NVLLM_F32);
	bf16 *z = run<bf16>(s, NVLLM_BF16);
	int64_t same = 0;

	step_oracle(s);
	CHECK_LE(norm_ratio(y, s->want, n), 1e-6, "%s: f32, norm", c->name);
	CHECK_LE(worst_ratio(y, s->want, n, 0.1), 2e-5, "%s: f32, each", c->name);
	for (int64_t i = 0; i < n; i++)
		same += from_f32<bf16>(y[i]).bits == z[i].bits;
	CHECK_EQ(same, n, "%s: bf16 is f32 rounded", c->name);
	free(y), free(z);
	step_free(s);
}

/* The rows of one sequence, in any company and cut into any chunks, have the same bits. */
static void alone(void)
{
	static struct step_case whole = { .name = "whole", .dim = 64, .n_kv = 2, .group = 2, .window = 50,
		.seqs = { { 90, 90 } } };
	static struct step_case last = { .name = "last rows", .dim = 64, .n_kv = 2, .group = 2, .window = 50,
		.seqs = { { 7, 90 }, { 1, 33 } } };
	static struct step_case one = { .name = "one row", .dim = 64, .n_kv = 2, .group = 2, .window = 50,
		.seqs = { { 1, 90 }, { 1, 33 }, { 1, 12 } } };
	struct step_case *others[] = { &last, &one };
	struct step *a = step_new<float, float>(&whole, PAGE, 1, 5);
	int64_t row = a->n_heads * 64;
	float *x = run<float>(a, NVLLM_F32);

	for (struct step_case *c : others) {
		struct step *b = step_new<float, float>(c, PAGE, 1, 6);
		int n = c->seqs[0].rows;
		float *y;

		memcpy(b->k, a->k, 90 * 2 * 64 * sizeof(double));
		memcpy(b->v, a->v, 90 * 2 * 64 * sizeof(double));
		memcpy(b->q, a->q + (90 - n) * row, n * row * sizeof(double));
		y = run<float>(b, NVLLM_F32);
		CHECK(!memcmp(y, x + (90 - n) * row, n * row * sizeof(float)), "%s: the bits of the whole prompt", c->name);
		free(y);
		step_free(b);
	}
	free(x);
	step_free(a);
}

int main(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		emu_seed(i);
		compare(&cases[i], i);
	}
	alone();
	return check_done();
}
