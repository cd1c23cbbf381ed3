/* SPDX-License-Identifier: MIT */
/* The plain CUDA attention: both kernels against the definition, in every type, and a row's bits
 * against its batch. */
#include "attn_oracle.h"
#include "../../backends/cuda/attn_naive.cu"

static struct step_case cases[] = {
	{ .name = "lengths", .dim = 64, .n_kv = 2, .group = 2,
	  .seqs = { { 1, 1 }, { 1, 15 }, { 1, 16 }, { 1, 17 }, { 1, 31 }, { 1, 1023 }, { 1, 128 }, { 1, 129 } } },
	{ .name = "prompts", .dim = 128, .n_kv = 1, .group = 4, .seqs = { { 2, 2 }, { 15, 15 }, { 17, 17 }, { 33, 33 } } },
	{ .name = "chunks and prefixes", .dim = 32, .n_kv = 2, .group = 7, .seqs = { { 1, 40 }, { 5, 37 }, { 3, 131 } } },
	{ .name = "padding", .dim = 48, .n_kv = 3, .group = 1, .nobody = 3,
	  .seqs = { { 1, 9 }, { 1, 0 }, { 1, 0 }, { 4, 4 }, { 0, 0 }, { 0, 0 } }, .n_seqs = 6 },
	{ .name = "window", .dim = 80, .n_kv = 2, .group = 2, .window = 20,
	  .seqs = { { 1, 5 }, { 1, 20 }, { 1, 21 }, { 1, 300 }, { 30, 30 }, { 9, 51 } } },
	{ .name = "soft cap", .dim = 96, .n_kv = 1, .group = 2, .cap = 2.5, .seqs = { { 1, 77 }, { 9, 30 } } },
	{ .name = "odd head", .dim = 20, .n_kv = 1, .group = 16, .window = 9, .cap = 5, .seqs = { { 1, 18 }, { 3, 19 } } },
	{ .name = "wide head", .dim = 300, .n_kv = 1, .group = 1, .seqs = { { 1, 7 }, { 3, 3 } } },
};

template <class T> static int32_t type_of(void);
template <> int32_t type_of<float>(void) { return NVLLM_F32; }
template <> int32_t type_of<bf16>(void) { return NVLLM_BF16; }
template <> int32_t type_of<f16>(void) { return NVLLM_F16; }

/* What is not this step's own lies in the cache before it: [slot][K, V][KV head][dim]. */
template <class K> static K *pool_of(const struct step *s)
{
	int64_t row = (int64_t)s->c->n_kv * s->c->dim;
	K *pool = edges<K>(s->n_pages * s->page_tokens * 2 * row);

	for (int i = 0; i < s->n_seqs; i++)
		for (int p = 0; p < s->kv_len[i] - s->c->seqs[i].rows; p++) {
			int64_t page = s->page_table[i * s->max_pages + p / s->page_tokens];
			K *to = pool + (page * s->page_tokens + p % s->page_tokens) * 2 * row;

			for (int d = 0; d < row; d++) {
				to[d] = from_f32<K>((float)s->k[(s->first[i] + p) * row + d]);
				to[row + d] = from_f32<K>((float)s->v[(s->first[i] + p) * row + d]);
			}
		}
	return pool;
}

/* Rows of this step as the model makes them: [T][q | k | v] in one matrix. */
template <class A> static A *qkv_of(const struct step *s, int64_t *stride)
{
	int64_t q = (int64_t)s->n_heads * s->c->dim, kv = (int64_t)s->c->n_kv * s->c->dim, n = q + 2 * kv + 3;
	A *x = edges<A>(s->T * n);

	for (int t = 0; t < s->T; t++) {
		int64_t key = s->seq_of[t] < 0 ? -1 : s->first[s->seq_of[t]] + s->positions[t];

		for (int64_t d = 0; d < q; d++)
			x[t * n + d] = from_f32<A>((float)s->q[t * q + d]);
		for (int64_t d = 0; key >= 0 && d < kv; d++) {
			x[t * n + q + d] = from_f32<A>((float)s->k[key * kv + d]);
			x[t * n + q + kv + d] = from_f32<A>((float)s->v[key * kv + d]);
		}
	}
	*stride = n * (int64_t)sizeof(A);
	return x;
}

template <class A, class K> static A *run(const struct step *s)
{
	const struct step_case *c = s->c;
	int64_t n = (int64_t)s->T * s->n_heads * c->dim, stride;
	A *x = qkv_of<A>(s, &stride), *y = edges<A>(n), *z = zeros<A>(n);
	K *pool = pool_of<K>(s);
	struct naive_job j = {};

	j.n_tokens = s->T, j.n_seqs = s->n_seqs, j.max_pages = s->max_pages, j.page_tokens = s->page_tokens;
	j.n_heads = s->n_heads, j.n_kv = c->n_kv, j.dim = c->dim, j.window = c->window;
	j.scale = (float)s->scale, j.cap = (float)c->cap;
	j.slots = s->slots, j.positions = s->positions, j.q_start = s->q_start, j.page_table = s->page_table;
	j.q = x, j.k = x + s->n_heads * c->dim, j.v = x + (s->n_heads + c->n_kv) * c->dim;
	j.y = y, j.pages = pool;
	j.q_stride = j.k_stride = j.v_stride = stride;
	j.y_stride = (int64_t)s->n_heads * c->dim * (int64_t)sizeof(A);
	CHECK_EQ(naive_put(NULL, &j, type_of<A>(), type_of<K>()), 0, "%s: put", c->name);
	CHECK_EQ(naive_attend(NULL, &j, type_of<A>(), type_of<K>()), 0, "%s: attend", c->name);
	memcpy(z, y, n * sizeof(A));
	edges_free(x), edges_free(y), edges_free(pool);
	return z;
}

template <class A, class K> static void compare(struct step_case *c, int page, uint64_t seed, double most)
{
	struct step *s = step_new<K, A>(c, page, 1, seed);
	A *y = run<A, K>(s);

	step_oracle(s);
	CHECK_LE(norm_ratio(y, s->want, (int64_t)s->T * s->n_heads * c->dim), most, "%s, pages of %d, act %d, kv %d", c->name,
		page, type_of<A>(), type_of<K>());
	free(y);
	step_free(s);
}

static void alone(void)
{
	static struct step_case whole = { .name = "whole", .dim = 64, .n_kv = 2, .group = 2, .seqs = { { 150, 150 } } };
	static struct step_case last = { .name = "last rows", .dim = 64, .n_kv = 2, .group = 2,
		.seqs = { { 1, 12 }, { 7, 150 } } };
	struct step *a = step_new<float, float>(&whole, 16, 1, 5), *b = step_new<float, float>(&last, 7, 1, 6);
	int64_t row = a->n_heads * 64, kv = 2 * 64;
	float *x = run<float, float>(a), *y;

	memcpy(b->k + 12 * kv, a->k, 150 * kv * sizeof(double));
	memcpy(b->v + 12 * kv, a->v, 150 * kv * sizeof(double));
	memcpy(b->q + row, a->q + 143 * row, 7 * row * sizeof(double));
	y = run<float, float>(b);
	CHECK(!memcmp(y + row, x + 143 * row, 7 * row * sizeof(float)), "last rows: the bits of the whole prompt");
	free(x), free(y);
	step_free(a), step_free(b);
}

int main(void)
{
	static const int pages[] = { 16, 1, 5, 256 };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		emu_seed(i);
		compare<float, float>(&cases[i], pages[i % 4], i, 1e-6);
		compare<bf16, bf16>(&cases[i], pages[(i + 1) % 4], i, 2.5e-3);
		if (i % 2)
			continue;
		compare<float, bf16>(&cases[i], 16, i, 1e-6);
		compare<bf16, f16>(&cases[i], 16, i, 2.5e-3);
		compare<float, f16>(&cases[i], 16, i, 1e-6);
		compare<bf16, float>(&cases[i], 16, i, 2.5e-3);
	}
	alone();
	return check_done();
}
