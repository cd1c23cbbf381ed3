/* SPDX-License-Identifier: MIT */
/* Attention of prompts on tensor cores, with bulk copies and (as before sm_90) without, against the definition;
 * what it must leave alone; and its bits from run to run. */
#include "attn_oracle.h"
#include "attn_types.h"

namespace bulk {
#include "../../backends/cuda/attn_prefill.cu"
}
#undef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#undef THREADS
#undef WARPS
#undef SEQS
#define attn_prefill attn_prefill_old
#define attn_prefill_setup attn_prefill_setup_old
namespace old {
#include "../../backends/cuda/attn_prefill.cu"
}
#undef attn_prefill
#undef attn_prefill_setup
using old::attn_prefill_old;
using old::attn_prefill_setup_old;

struct how {
	int n_sms;     /* few: tiles of 128 rows, where there are some, and several tiles to a block */
	int y_dtype;
	bool bulk;
};

/* y [T][heads * dim] in f32, whatever it was stored as; rows that are not prefill's must be as they were. */
template <class K> static float *run(const struct step *s, struct how how)
{
	typedef typename types<K>::product T;
	const struct step_case *c = s->c;
	struct attn_layer l = {};
	struct nvllm_attn_shape sh = {};
	struct nvllm_attention a = {};
	int64_t cols = (int64_t)s->n_heads * c->dim, n = s->T * cols, es = how.y_dtype == NVLLM_F32 ? 4 : 2;
	void *pool = step_pool<K>(s);
	T *q = as<T>(s->q, n, s->scale * (c->cap > 0 ? 1 / c->cap : LOG2E));
	struct nvllm_tensor y = {};
	float *dense = zeros<float>(n);
	int64_t touched = 0;

	sh.n_layers = 1, sh.max_seqs = s->n_seqs + 5, sh.max_tokens = s->T;
	l.n_heads = s->n_heads, l.n_kv = c->n_kv, l.dim = c->dim, l.group = c->group, l.window = c->window;
	l.cap = (float)c->cap, l.row_bytes = c->dim * (int)sizeof(K), l.page_bytes = kv_page_bytes(l.row_bytes, c->n_kv);
	a.shape = &sh, a.layers = &l, a.kv = &pool, a.q = q, a.kv_dtype = types<K>::kv;
	a.n_sms = how.n_sms, a.smem_max = 227 * 1024;
	y.dtype = how.y_dtype, y.rows = s->T, y.cols = cols, y.stride = cols * es + 48;
	y.data = edges_new((size_t)(y.rows * y.stride));
	CHECK_EQ(how.bulk ? attn_prefill_setup(&a) : attn_prefill_setup_old(&a), 0, "%s: setup", c->name);
	CHECK_EQ(how.bulk ? attn_prefill(&a, NULL, 0, &s->b, y) : attn_prefill_old(&a, NULL, 0, &s->b, y), 0, "%s: launch",
		c->name);
	for (int t = 0; t < s->T; t++) {
		char *row = (char *)y.data + t * y.stride;
		bool ours = s->seq_of[t] >= 0 && c->seqs[s->seq_of[t]].rows > 1;

		for (int64_t i = ours ? cols * es : 0; i < y.stride; i++)
			touched += row[i] != -1;
		for (int64_t i = 0; ours && i < cols; i++)
			dense[t * cols + i] = how.y_dtype == NVLLM_F32 ? ((float *)row)[i] : to_f32(((bf16 *)row)[i]);
	}
	CHECK_EQ(touched, 0, "%s: nothing else is written", c->name);
	edges_free(pool), edges_free(q), edges_free(y.data);
	return dense;
}

template <class K> static struct step *make(struct step_case *c, uint64_t seed)
{
	double scale = 1 / sqrt((double)c->dim) * (c->cap > 0 ? 1 / c->cap : LOG2E);
	struct step *s = step_new<K, typename types<K>::product>(c, PAGE, scale, seed);

	step_oracle(s);
	for (int t = 0; t < s->T; t++)
		if (s->seq_of[t] < 0 || c->seqs[s->seq_of[t]].rows < 2)
			memset(s->want + (int64_t)t * s->n_heads * c->dim, 0, s->n_heads * c->dim * sizeof(double));
	return s;
}

template <class K> static void compare(struct step_case *c, uint64_t seed, struct how how)
{
	struct step *s = make<K>(c, seed);
	float *y = run<K>(s, how);
	/* weights are rounded to the product's type (2^-9 or 2^-12), then y */
	double most = sizeof(K) == 2 && types<K>::kv == NVLLM_BF16 ? 3e-3 : 4e-4;

	if (how.y_dtype == NVLLM_BF16)
		most += 2e-3;
	CHECK_LE(norm_ratio(y, s->want, (int64_t)s->T * s->n_heads * c->dim), most, "%s: dim %d, kv %d, y %d, %s, %d processors",
		c->name, c->dim, types<K>::kv, how.y_dtype, how.bulk ? "bulk copies" : "16-byte copies", how.n_sms);
	CHECK_LE(worst_ratio(y, s->want, (int64_t)s->T * s->n_heads * c->dim, 0.3), 10 * most, "%s: each", c->name);
	free(y);
	step_free(s);
}

static struct step_case cases[] = {
	{ .name = "short prompts", .dim = 64, .n_kv = 2, .group = 2,
	  .seqs = { { 2, 2 }, { 15, 15 }, { 16, 16 }, { 17, 17 }, { 31, 31 }, { 32, 32 }, { 33, 33 }, { 64, 64 }, { 65, 65 } } },
	{ .name = "mixed", .dim = 128, .n_kv = 2, .group = 2, .nobody = 3,
	  .seqs = { { 1, 40 }, { 1, 1 }, { 1, 0 }, { 1, 333 }, { 5, 37 }, { 80, 200 }, { 2, 129 }, { 0, 0 }, { 0, 0 } }, .n_seqs = 9 },
	{ .name = "group 7", .dim = 32, .n_kv = 1, .group = 7, .seqs = { { 1, 1 }, { 10, 10 }, { 31, 95 } } },
	{ .name = "group 1, cap", .dim = 80, .n_kv = 3, .group = 1, .cap = 2.5, .seqs = { { 65, 65 }, { 17, 40 }, { 9, 65 } } },
	{ .name = "group 16", .dim = 16, .n_kv = 1, .group = 16, .seqs = { { 9, 9 }, { 3, 130 } } },
	{ .name = "window", .dim = 96, .n_kv = 1, .group = 2, .window = 20,
	  .seqs = { { 1, 50 }, { 100, 100 }, { 20, 20 }, { 21, 21 }, { 33, 150 } } },
	{ .name = "window of 1", .dim = 48, .n_kv = 1, .group = 4, .window = 1, .seqs = { { 18, 18 }, { 3, 64 } } },
	{ .name = "cap, window", .dim = 256, .n_kv = 1, .group = 4, .window = 40, .cap = 5, .seqs = { { 50, 50 }, { 20, 70 } } },
	{ .name = "wide window", .dim = 128, .n_kv = 1, .group = 4, .window = 100, .seqs = { { 60, 260 }, { 35, 101 } } },
	{ .name = "long", .dim = 64, .n_kv = 1, .group = 2, .seqs = { { 1, 3 }, { 130, 1023 }, { 40, 1024 } } },
};

/* The same step gives the same bits in any order of threads and blocks; and a sequence alone those it has
 * among others, where the tiles are of one size. */
static void bits(void)
{
	static struct step_case all = { .name = "many", .dim = 64, .n_kv = 2, .group = 2,
		.seqs = { { 1, 60 }, { 70, 150 }, { 40, 40 }, { 33, 97 } } };
	static struct step_case one = { .name = "one", .dim = 64, .n_kv = 2, .group = 2, .seqs = { { 70, 150 } } };
	struct step *a = make<bf16>(&all, 1), *b = make<bf16>(&one, 2);
	int64_t row = a->n_heads * 64, kv = 2 * 64;
	float *first = run<bf16>(a, { 1000, NVLLM_F32, true }), *y;

	for (int i = 0; i < 3; i++) {
		emu_seed(100 + i);
		y = run<bf16>(a, { 5 + 3 * i, NVLLM_F32, i > 0 });
		CHECK(!memcmp(first, y, a->T * row * sizeof(float)), "many: the same bits again");
		free(y);
	}
	memcpy(b->k, a->k + 60 * kv, 150 * kv * sizeof(double));
	memcpy(b->v, a->v + 60 * kv, 150 * kv * sizeof(double));
	memcpy(b->q, a->q + row, 70 * row * sizeof(double));
	y = run<bf16>(b, { 1000, NVLLM_F32, true });
	CHECK(!memcmp(first + row, y, 70 * row * sizeof(float)), "one: the bits it has among others");
	free(first), free(y);
	step_free(a), step_free(b);
}

/* More sequences than fit in one pass over q_start: 128 threads times 8. */
static void many(void)
{
	static struct step_case c = { .name = "1090 sequences", .dim = 16, .n_kv = 1, .group = 2, .n_seqs = 1090 };

	for (int i = 0; i < c.n_seqs; i++)
		c.seqs[i] = seq{ 1, 1 };
	for (int i = 900; i < c.n_seqs; i += i < 1020 ? 10 : 7)
		c.seqs[i].rows = c.seqs[i].len = 2 + i % 5;
	compare<bf16>(&c, 3, { 3, NVLLM_F32, true });
}

int main(void)
{
	int n = 0;

	for (struct step_case &c : cases) {
		emu_seed(n);
		compare<bf16>(&c, n, { 1000, n % 2 ? NVLLM_F32 : NVLLM_BF16, true });
		compare<f16>(&c, n, { 1, NVLLM_F32, n % 2 == 0 });
		compare<bf16>(&c, n, { 2, n % 2 ? NVLLM_BF16 : NVLLM_F32, n % 2 != 0 });
		compare<e4m3>(&c, n, { n % 2 ? 1 : 1000, NVLLM_F32, n % 3 != 0 });
		n++;
	}
	bits();
	many();
	return check_done();
}
