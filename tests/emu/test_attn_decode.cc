/* SPDX-License-Identifier: MIT */
/* Attention of sequences with one row, with bulk copies and (as before sm_90) without, against the definition:
 * how work is cut over CTAs and merged again, windows, soft caps, shapes of heads, what lies in a pool that nobody
 * wrote; that nothing else is written; that a launch leaves the workspace as it was; its bits. */
#include "attn_oracle.h"
#include "attn_types.h"

namespace plan {
#include "../../backends/cuda/attn_plan.cu"
}
namespace bulk {
#include "../../backends/cuda/attn_decode.cu"
}
#undef __CUDA_ARCH__
#define __CUDA_ARCH__ 800

#undef BARS_BYTES
#undef STAGE_MAX
#undef COPY_MAX
#undef FAN
#undef UP
#define attn_decode attn_decode_old
#define attn_decode_setup attn_decode_setup_old
#define attn_decode_shape attn_decode_shape_old
#define attn_decode_part attn_decode_part_old
namespace old {
#include "../../backends/cuda/attn_decode.cu"
}
#undef attn_decode
#undef attn_decode_setup
#undef attn_decode_shape
#undef attn_decode_part
using old::attn_decode_old;
using old::attn_decode_setup_old;

struct how {
	int n_sms, y_dtype, smem;
	bool bulk;
};

static struct how usual(int n_sms) { return { n_sms, NVLLM_BF16, 227 * 1024, true }; }

/* What attention.c makes of a layer. */
template <class K> static void shape(struct nvllm_attention *a, struct attn_layer *l, struct nvllm_attn_shape *sh,
	const struct step *s, struct how how)
{
	const struct step_case *c = s->c;

	sh->n_layers = 1, sh->max_seqs = s->n_seqs + 5, sh->max_tokens = s->T;
	l->n_heads = s->n_heads, l->n_kv = c->n_kv, l->dim = c->dim, l->group = c->group, l->window = c->window;
	l->cap = (float)c->cap, l->row_bytes = c->dim * (int)sizeof(K), l->page_bytes = kv_page_bytes(l->row_bytes, c->n_kv);
	a->shape = sh, a->layers = l, a->kv_dtype = types<K>::kv, a->q_dtype = NVLLM_BF16;
	a->n_sms = how.n_sms, a->smem_max = how.smem;
	a->early = s->T & 1;
	CHECK(attn_decode_shape(a, l), "%s: fits", c->name);
	CHECK_EQ(attn_plan_kinds(a), 1, "%s: one kind of list", c->name);
}

/* y [T][heads * dim] in f32, whatever it was stored as; rows that are not decode's must be as they were. */
template <class K> static float *run(const struct step *s, struct how how, int times = 1)
{
	typedef typename types<K>::product T;
	const struct step_case *c = s->c;
	struct attn_layer l = {};
	struct nvllm_attn_shape sh = {};
	struct nvllm_attention a = {};
	int64_t cols = (int64_t)s->n_heads * c->dim, n = s->T * cols, es = how.y_dtype == NVLLM_F32 ? 4 : 2, touched = 0, left = 0;
	void *pool = step_pool<K>(s), *work;
	T *q = as<T>(s->q, n, s->scale * (c->cap > 0 ? 1 / c->cap : LOG2E));
	struct nvllm_tensor y = {};
	float *dense = zeros<float>(n);

	shape<K>(&a, &l, &sh, s, how);
	work = edges_new((size_t)attn_workspace(&a, NULL), 256);
	attn_workspace(&a, work);
	memcpy(a.q, q, (size_t)n * sizeof(T));
	a.kv = &pool;
	y.dtype = how.y_dtype, y.rows = s->T, y.cols = cols, y.stride = cols * es + 48;
	y.data = edges_new((size_t)(y.rows * y.stride));
	CHECK_EQ(how.bulk ? attn_decode_setup(&a) : attn_decode_setup_old(&a), 0, "%s: setup", c->name);
	CHECK_EQ(attn_plan_setup(&a), 0, "%s: setup of the plan", c->name);
	CHECK_EQ(attn_plan(&a, NULL, &s->b), 0, "%s: plan", c->name);
	for (int i = 0; i < times; i++)
		CHECK_EQ(how.bulk ? attn_decode(&a, NULL, 0, &s->b, y) : attn_decode_old(&a, NULL, 0, &s->b, y), 0, "%s: launch",
			c->name);
	for (int i = 0; i < ATTN_COUNTERS(how.n_sms); i++)
		left += a.counters[i];
	CHECK_EQ(left, 0, "%s: counters are back at 0", c->name);
	for (int t = 0; t < s->T; t++) {
		char *row = (char *)y.data + t * y.stride;
		bool ours = s->seq_of[t] >= 0 && c->seqs[s->seq_of[t]].rows == 1;

		for (int64_t i = ours ? cols * es : 0; i < y.stride; i++)
			touched += row[i] != -1;
		for (int64_t i = 0; ours && i < cols; i++)
			dense[t * cols + i] = how.y_dtype == NVLLM_F32 ? ((float *)row)[i] : to_f32(((bf16 *)row)[i]);
	}
	CHECK_EQ(touched, 0, "%s: nothing else is written", c->name);
	edges_free(pool), edges_free(q), edges_free(y.data), edges_free(work);
	return dense;
}

/* Rows of other sequences are not looked at. */
static void only_decode(struct step *s)
{
	int64_t cols = (int64_t)s->n_heads * s->c->dim;

	for (int t = 0; t < s->T; t++)
		if (s->seq_of[t] >= 0 && s->c->seqs[s->seq_of[t]].rows != 1)
			memset(s->want + t * cols, 0, (size_t)cols * sizeof(double));
}

template <class K> static void against_oracle(const struct step_case *c, struct how how)
{
	typedef typename types<K>::product T;
	double scale = (c->cap > 0 ? 1 / c->cap : LOG2E) / sqrt((double)c->dim), most = sizeof(T) == 2 && types<K>::kv == NVLLM_BF16 ?
		4e-3 : how.y_dtype == NVLLM_F32 ? 1e-3 : 3e-3;
	struct step *s = step_new<K, T>(c, PAGE, scale, (uint64_t)c->dim * 7 + c->n_kv);
	float *got = run<K>(s, how);
	int64_t cols = (int64_t)s->n_heads * c->dim;
	double worst = 0;

	step_oracle(s);
	only_decode(s);
	for (int t = 0; t < s->T; t++) {
		double r = norm_ratio(got + t * cols, s->want + t * cols, cols);

		worst = r <= worst ? worst : r;
	}
	CHECK_LE(worst, most, "%s, %d SMs, KV type %d%s: the worst row", c->name, how.n_sms, types<K>::kv, how.bulk ? "" : ", cp.async");
	free(got);
	step_free(s);
}

/* A few lengths around the edges of pages; a sequence of several rows, padding, rows of nobody. */
#define MIXED { { 1, 1 }, { 1, 15 }, { 1, 16 }, { 1, 17 }, { 1, 0 }, { 1, 31 }, { 3, 40 }, { 1, 32 }, { 1, 33 }, { 0, 0 }, { 1, 100 } }

static void shapes(void)
{
	static const int dims[] = { 16, 32, 48, 64, 80, 96, 128, 256 };
	char name[80];

	for (int i = 0; i < 8; i++) {
		struct step_case one = { name, dims[i], 2, 2, 0, 0, 1, MIXED, 11 };
		struct step_case two = { name, dims[i], 1, 12, 0, 0, 0, { { 1, 70 }, { 1, 5 } }, 0 };

		snprintf(name, sizeof(name), "dim %d, 2 KV heads, group 2", dims[i]);
		against_oracle<bf16>(&one, usual(4));
		against_oracle<f16>(&one, usual(5));
		against_oracle<e4m3>(&one, usual(3));
		snprintf(name, sizeof(name), "dim %d, 1 KV head, group 12", dims[i]);
		against_oracle<bf16>(&two, usual(2));
		against_oracle<e4m3>(&two, usual(2));
	}
}

static void heads(void)
{
	static const int n[][2] = { { 1, 1 }, { 3, 3 }, { 4, 16 }, { 5, 1 }, { 7, 2 }, { 8, 2 }, { 9, 1 }, { 12, 4 }, { 16, 1 } };
	char name[80];

	for (int i = 0; i < 9; i++) {
		struct step_case c = { name, 64, n[i][0], n[i][1], 0, 0, 0, { { 1, 50 }, { 1, 200 }, { 1, 3 } }, 0 };

		snprintf(name, sizeof(name), "%d KV heads, group %d", n[i][0], n[i][1]);
		against_oracle<bf16>(&c, usual(6));
		against_oracle<f16>(&c, { 4, NVLLM_F32, 99 * 1024, false });
		if (i % 3 == 0)
			against_oracle<e4m3>(&c, { 4, NVLLM_F32, 164 * 1024, false });
	}
}

/* One sequence over many CTAs: one and two levels of merging. */
static void shared(void)
{
	struct step_case c = { "one long sequence", 64, 2, 2, 0, 0, 0, { { 1, 1000 } }, 0 };
	struct step_case d = { "two long sequences", 32, 9, 1, 0, 0, 0, { { 1, 700 }, { 1, 2 }, { 1, 801 } }, 0 };

	for (int sms = 1; sms < 64; sms = sms * 3 / 2 + 1) {
		against_oracle<bf16>(&c, usual(sms));
		against_oracle<f16>(&d, usual(sms * 2));
	}
	against_oracle<e4m3>(&c, usual(50));
}

static void masks(void)
{
	struct step_case w = { "window 20", 64, 2, 2, 20, 0, 0, MIXED, 11 };
	struct step_case one = { "window 1", 32, 3, 1, 1, 0, 0, MIXED, 11 };
	struct step_case page = { "window 16", 128, 1, 8, 16, 0, 0, MIXED, 11 };
	struct step_case wide = { "window 64, soft cap 3", 64, 2, 4, 64, 3, 0, { { 1, 300 }, { 1, 64 }, { 1, 65 }, { 1, 63 } }, 0 };
	struct step_case cap = { "soft cap 5", 128, 8, 2, 0, 5, 0, MIXED, 11 };

	against_oracle<bf16>(&w, usual(4));
	against_oracle<e4m3>(&w, usual(4));
	against_oracle<bf16>(&one, usual(4));
	against_oracle<f16>(&page, usual(7));
	against_oracle<bf16>(&wide, usual(3));
	against_oracle<f16>(&cap, usual(5));
}

/* The same bits whatever the order of threads and blocks, and again at the next launch. */
static void bits(void)
{
	struct step_case c = { "bits", 64, 2, 2, 0, 0, 0, { { 1, 300 }, { 1, 1 }, { 1, 900 } }, 0 };
	struct step *s = step_new<bf16, bf16>(&c, PAGE, LOG2E / 8, 5);
	int64_t bytes = s->T * (int64_t)s->n_heads * c.dim * 4;
	float *a = run<bf16>(s, usual(48), 2), *b;

	emu_seed(99);
	b = run<bf16>(s, usual(48));
	CHECK(!memcmp(a, b, (size_t)bytes), "the same bits in another order");
	free(b);
	emu_set_order(EMU_DOWN);
	b = run<bf16>(s, usual(48));
	CHECK(!memcmp(a, b, (size_t)bytes), "the same bits from the last block to the first");
	emu_set_order(EMU_RANDOM);
	free(a), free(b);
	step_free(s);
}

int main(void)
{
	shapes();
	heads();
	shared();
	masks();
	bits();
	return check_done();
}
