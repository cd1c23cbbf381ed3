/* SPDX-License-Identifier: MIT */
/* tests/conform/attention.c - an attention backend against plain softmax attention in
 * double, on pages in shuffled order and full of NaN: sequences come in chunks, decode
 * beside each other, with padding rows between. A row's result may not change with its
 * neighbours, the chunking, or the place of its pages. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

const struct nvllm_device_ref *attn_device;
int32_t attn_act, attn_max_len = SHORT_LEN;
bool attn_varies;
struct attn_raw attn_raw;

/* ---- traffic ---- */

/* Two prompts in chunks beside each other, padding, then decode of both and a third;
 * padding sequences first, between others, last, and alone. Sequences of one row come first. */
static const struct plan mixed[] = {
	{ 2, { 1, 0 }, { 1, 7 }, 0, 0 },
	{ 3, { PAD, 1, 0 }, { 1, 20, 13 }, 3, 1 },
	{ 1, { PAD }, { 1 }, 0, 0 },
	{ 1, { 2 }, { 37 }, 2, 2 },
	{ 4, { 0, 1, 2, PAD }, { 1, 1, 1, 1 }, 0, 0 },
	{ 4, { PAD, PAD, PAD, PAD }, { 1, 1, 1, 1 }, 2, 0 },
	{ 3, { 2, 0, 1 }, { 1, 1, 1 }, 5, 1 },
	{ 4, { PAD, 1, 0, 2 }, { 1, 1, 1, 9 }, 1, 0 },
	{ 4, { 0, 1, 2, 3 }, { 1, 1, 1, 30 }, 0, 0 },
	{ 4, { 3, 2, 1, 0 }, { 1, 1, 1, 1 }, 2, 0 },
};

static void traffic(const struct nvllm_component *c, const struct geometry *g,
	const char *const *sets, const struct plan *plans, int n, uint64_t seed, struct memory *m)
{
	struct sut u;
	int status = sut_open(&u, c, g, sets, seed);

	for (int i = 0; status == 0 && i < n && ck_good(); i++)
		step_run(&u, &plans[i], m);
	sut_close(&u);
	if (status == 1)
		ck_skip("refused: %s", fake_said());
	else
		ck_end();
}

#define COUNT(a) (int)(sizeof(a) / sizeof(*(a)))

/* Every sequence of `mixed` alone: whole prompts, tokens one by one, other pages. */
static void check_invariance(const struct nvllm_component *c, const struct geometry *g)
{
	static const struct plan whole[] = { { 1, { 0 }, { 25 }, 0, 0 }, { 1, { 1 }, { 26 }, 0, 0 },
		{ 1, { 2 }, { 50 }, 0, 0 }, { 1, { 3 }, { 31 }, 0, 0 } };
	struct plan single[50 + 31];
	struct memory m = { .store = true,
		.y = calloc((size_t)MAX_LAYERS * MAX_SEQS * SHORT_LEN * MAX_ROW, sizeof(float)) };

	if (!m.y)
		return;
	for (int i = 0; i < COUNT(single); i++)
		single[i] = (struct plan){ 1, { i < 50 ? 2 : 3 }, { 1 }, 0, 0 };
	ck_begin("%s: four sequences in mixed batches", g->what);
	traffic(c, g, NULL, mixed, COUNT(mixed), 42, &m);
	m.store = false;
	ck_begin("%s: the same bits for whole prompts alone, on other pages", g->what);
	m.what = "in a whole prompt alone than in chunks beside others";
	traffic(c, g, NULL, whole, COUNT(whole), 43, &m);
	ck_begin("%s: the same bits token by token", g->what);
	m.what = "token by token than in chunks beside others";
	traffic(c, g, NULL, single, COUNT(single), 44, &m);
	ck_begin("%s: the same bits with other threads in another order", g->what);
	m.what = "with other threads";
	fake_device_order(1);
	traffic(c, g, NULL, mixed, COUNT(mixed), 45, &m);
	fake_device_order(0);
	free(m.y);
}

#define LAYER(h, kvh, d, w, kvl, cap) \
	{ \
		.size = sizeof(struct nvllm_attn_layer), .n_heads = h, .n_kv_heads = kvh, \
		.head_dim = d, .window = w, .kv_layer = kvl, .scale = 0.25, .softcap = cap \
	}

static const struct geometry shapes[] = {
	{ "gqa 2, head 64", NVLLM_F32, 2,
		{ LAYER(4, 2, 64, 0, -1, 0), LAYER(4, 2, 64, 0, -1, 0) } },
	{ "gqa 3, head 64", NVLLM_F32, 1, { LAYER(9, 3, 64, 0, -1, 0) } },
	{ "heads alone, head 128", NVLLM_F32, 1, { LAYER(3, 3, 128, 0, -1, 0) } },
	{ "one KV head, head 32", NVLLM_F32, 1, { LAYER(8, 1, 32, 0, -1, 0) } },
	{ "head 80", NVLLM_F32, 1, { LAYER(4, 2, 80, 0, -1, 0) } },
	{ "head 16", NVLLM_F32, 1, { LAYER(4, 4, 16, 0, -1, 0) } },
	{ "window 9", NVLLM_F32, 2, { LAYER(4, 2, 64, 9, -1, 0), LAYER(4, 2, 64, 0, -1, 0) } },
	{ "window 1", NVLLM_F32, 1, { LAYER(2, 2, 64, 1, -1, 0) } },
	{ "gqa 16, head 64", NVLLM_F32, 1, { LAYER(16, 1, 64, 0, -1, 0) } },
	{ "gqa 4, head 128", NVLLM_F32, 1, { LAYER(8, 2, 128, 0, -1, 0) } },
	{ "gqa 5, head 48", NVLLM_F32, 1, { LAYER(10, 2, 48, 0, -1, 0) } },
	{ "gqa 7, head 96, window 17", NVLLM_F32, 1, { LAYER(7, 1, 96, 17, -1, 0) } },
	{ "gqa 2, head 256, soft cap 9", NVLLM_F32, 1, { LAYER(4, 2, 256, 0, -1, 9) } },
	{ "soft cap 2", NVLLM_F32, 1, { LAYER(4, 2, 64, 0, -1, 2) } },
	{ "a layer that reads another's K and V", NVLLM_F32, 3,
		{ LAYER(4, 2, 64, 0, -1, 0), LAYER(4, 2, 64, 5, 0, 0),
			LAYER(6, 3, 32, 0, -1, 0) } },
	{ "layers of which this rank holds no head", NVLLM_F32, 4,
		{ LAYER(0, 0, 64, 0, -1, 0), LAYER(4, 2, 64, 0, -1, 0), LAYER(0, 2, 32, 7, -1, 0),
			LAYER(2, 1, 32, 0, -1, 0) } },
	{ "no head of any layer", NVLLM_F32, 2,
		{ LAYER(0, 0, 64, 0, -1, 0), LAYER(0, 0, 64, 0, -1, 0) } },
};
#undef LAYER

static const struct { int32_t dtype; const char *name; } kv_types[] = {
	{ NVLLM_F32, "f32" }, { NVLLM_F16, "f16" }, { NVLLM_BF16, "bf16" },
	{ NVLLM_F8_E4M3, "f8" } };

static void check_shapes(const struct nvllm_component *c)
{
	static struct geometry g; /* outlives the instances */
	static const char *const small[] = { "page_tokens=1", NULL },
				 *const odd[] = { "page_tokens=7", NULL };

	for (int i = 0; i < COUNT(shapes); i++)
		for (int t = 0; t < COUNT(kv_types); t++) {
			g = shapes[i];
			g.kv_dtype = kv_types[t].dtype;
			ck_begin("%s, kv %s", g.what, kv_types[t].name);
			traffic(c, &g, NULL, mixed, COUNT(mixed), 9, NULL);
		}
	g = shapes[0];
	if (!ck_has_option(c, "page_tokens"))
		return;
	ck_begin("pages of 1 token");
	traffic(c, &g, small, mixed, COUNT(mixed), 9, NULL);
	ck_begin("pages of 7 tokens");
	traffic(c, &g, odd, mixed, COUNT(mixed), 9, NULL);
}

/* From the first token of two sequences to beyond 1,024 and 4,096, in chunks and singly. */
static void check_long(const struct nvllm_component *c)
{
	static struct plan plans[200];
	static struct geometry g;
	int32_t len[2] = { 0, 0 };
	const int32_t end[2] = { 1008, 4080 };
	int n = 0;

	for (; len[1] < end[1]; n++) {
		struct plan *p = &plans[n];
		int32_t want = MAX_TOKENS - (n == 5 ? 33 : 0); /* also off the pages' edges */

		*p = (struct plan){ .n_seqs = 0 };
		for (int q = 0; q < 2 && want; q++) {
			int32_t k = end[q] - len[q] < want ? end[q] - len[q] : want;

			if (!k)
				continue;
			p->seq[p->n_seqs] = q, p->rows[p->n_seqs++] = k;
			len[q] += k, want -= k;
		}
	}
	for (int i = 0; i < 20; i++) {
		plans[n++] = (struct plan){ 4, { 1, PAD, 0, 2 }, { 1, 1, 1, i % 3 + 1 }, i % 2, 0 };
	}
	attn_max_len = MAX_LEN;
	for (int t = 0; t < COUNT(kv_types); t++) {
		g = shapes[t == 2 ? 6 : 0]; /* bf16: with a window in one layer */
		g.kv_dtype = kv_types[t].dtype;
		ck_begin("long: %s, kv %s, to 1028 and 4100 tokens", g.what, kv_types[t].name);
		traffic(c, &g, NULL, plans, n, 11, NULL);
	}
	attn_max_len = SHORT_LEN;
}

/* The same, q, k and v raw: bias, norms and rope are the backend's. */
static void check_raw(const struct nvllm_component *c)
{
	static const struct { const char *what; bool norms, bias; int32_t dims, inter; } forms[] = {
		{ "rope", false, false, 64, 0 }, { "bias and rope", false, true, 64, 0 },
		{ "norms and rope", true, false, 64, 0 }, { "rope, interleaved", false, false, 64, 1 },
		{ "bias, norms and a part of the head turned", true, true, 32, 0 },
		{ "norms, no rope", true, false, 0, 0 },
	};
	const struct nvllm_attention_vt *vt = c->vt;
	static struct geometry g;

	if (!NVLLM_HAS(vt, run_raw) || !vt->run_raw)
		return;
	for (int i = 0; i < COUNT(forms) * COUNT(kv_types); i++) {
		int f = i / COUNT(kv_types), t = i % COUNT(kv_types);

		g = shapes[f == 2 ? 6 : 0];
		g.kv_dtype = kv_types[t].dtype;
		attn_raw.on = true, attn_raw.norms = forms[f].norms, attn_raw.bias = forms[f].bias;
		attn_raw.dims = forms[f].dims, attn_raw.interleaved = forms[f].inter;
		ck_begin("raw: %s, %s, kv %s", forms[f].what, g.what, kv_types[t].name);
		traffic(c, &g, NULL, mixed, COUNT(mixed), 9, NULL);
	}
	memset(&attn_raw, 0, sizeof(attn_raw));
}

/* A shape that nothing can serve is refused in create, in a sentence. */
static void check_refusals(const struct nvllm_component *c)
{
	struct geometry g = shapes[0];
	struct sut u;
	int status;

	ck_begin("an unknown KV type is refused in a sentence");
	g.kv_dtype = NVLLM_I64;
	status = sut_open(&u, c, &g, NULL, 1);
	if (status == 0)
		ck_bad("create took a KV type of int64");
	sut_close(&u);
	ck_end();
}

static void check_base(const struct nvllm_component *c)
{
	struct sut u;

	ck_begin("takes the base shape: 4 heads, 2 KV heads, head 64, kv f32");
	if (sut_open(&u, c, &shapes[0], NULL, 1) == 1)
		ck_bad("refused: %s", fake_said());
	sut_close(&u);
	ck_end();
}

void suite_attention(const struct nvllm_component *c)
{
	const struct nvllm_attention_vt *vt = c->vt;

	attn_device = ck_device(vt->need);
	if (!attn_device)
		return;
	attn_act = NVLLM_HAS(attn_device->info, act_dtype) ? attn_device->info->act_dtype : NVLLM_F32;
	attn_varies = attn_device->info->caps & NVLLM_DEV_VARIES;
	check_base(c);
	check_shapes(c);
	check_refusals(c);
	check_invariance(c, &shapes[0]);
	check_invariance(c, &shapes[6]);
	check_raw(c);
	if (attn_device->info->caps & NVLLM_DEV_CUDA) /* takes a CPU long, which has tests of its own */
		check_long(c);
	mirror_close();
}
