/* SPDX-License-Identifier: MIT */
/* paged - attention on the CPU without a score matrix. This file decides how the cache
 * is laid out and how a step's work is cut up.
 *
 * Keys are walked in segments of 256 positions, counted from the sequence's first. Each
 * gives a maximum, a sum and a weighted V, which are merged in order (online softmax:
 * Milakov and Gimelshein 2018; Dao et al. 2022). Segments lie where they lie whatever
 * the chunk, the batch or the threads, so a row's bits are its own; and where there are
 * too few rows for the threads, they are what the threads share out.
 *
 * A page of one layer is K [kv head][block][dim][keys], where keys is up to 64 tokens,
 * so that one vector holds the same element of many keys and a score needs no sum across
 * lanes; then V [kv head][token][dim]. Pages of 64 tokens make one whole block. */
#include <nvllm/plugin.h>

#include "paged.h"

#define PARTS_MOST (4 << 20) /* most floats of scratch for segments done apart */
#define UNITS_PER_WORKER 4   /* fewer than these: do segments apart */
#define WORTH 65536          /* multiply-adds below which waking threads does not pay */

struct conf {
	int64_t page_tokens;
};

static int64_t align64(int64_t n)
{
	return (n + 63) / 64 * 64;
}

static int64_t min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static void layer_init(struct nvllm_attention *a, struct paged_layer *l, const struct kv_layer *s)
{
	int64_t es = kv_bytes(a->shape->kv_dtype);

	l->s = *s;
	l->fn = paged_kernels_for(a->dev->info->isa, s->dim);
	l->v_offset = es * s->n_kv * a->blocks * a->keys * s->dim;
	l->page_bytes = align64(l->v_offset + es * s->n_kv * a->page_tokens * s->dim);
	l->task_rows = s->group && s->group < PAGED_ROWS ? PAGED_ROWS / s->group : 1;
	if (a->rows < (int64_t)l->task_rows * s->group)
		a->rows = (int64_t)l->task_rows * s->group;
	if (a->dim < s->dim)
		a->dim = s->dim;
}

/* Room to do the segments of a few rows of the longest sequence apart. */
static int64_t parts_wanted(const struct nvllm_attention *a)
{
	int64_t most = 0, n = a->shape->max_len / PAGED_SEGMENT + 1;

	for (int32_t i = 0; i < a->shape->n_layers; i++) {
		int64_t one = (int64_t)a->layers[i].s.n_heads * (a->layers[i].s.dim + 2);

		most = one > most ? one : most;
	}
	if (a->dev->info->n_workers < 2 || !most)
		return 0;
	return n > PARTS_MOST / most ? PARTS_MOST :
		min64(n * most * UNITS_PER_WORKER * a->dev->info->n_workers, PARTS_MOST);
}

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev,
	const struct nvllm_attn_shape *shape, const void *conf, struct nvllm_attention **out,
	struct nvllm_kv_layout *layout)
{
	int32_t page = (int32_t)((const struct conf *)conf)->page_tokens;
	struct nvllm_attention *a = host->alloc(host, sizeof(*a));
	struct kv_layer *s = NULL;
	int err = kv_layers(host, shape, &s);
	int64_t *bytes;

	if (err)
		return err;
	bytes = host->alloc(host, (size_t)shape->n_layers * sizeof(*bytes));
	if (!a || !bytes)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the attention backend");
	*a = (struct nvllm_attention){ .host = host, .dev = dev, .shape = shape,
		.page_tokens = page, .keys = page <= 16 ? 16 : page <= 32 ? 32 : PAGED_BLOCK };
	a->blocks = (page + a->keys - 1) / a->keys;
	a->layers = host->alloc(host, (size_t)shape->n_layers * sizeof(*a->layers));
	if (!a->layers)
		return host->fail(host, NVLLM_ENOMEM, "no memory for %d layers", shape->n_layers);
	for (int32_t i = 0; i < shape->n_layers; i++) {
		layer_init(a, &a->layers[i], &s[i]);
		bytes[i] = s[i].source == i ? a->layers[i].page_bytes : 0;
	}
	a->scratch_bytes = paged_scratch_bytes(a->rows, a->dim);
	a->n_part = parts_wanted(a);
	layout->page_tokens = page;
	layout->layer_bytes = bytes;
	layout->workspace_bytes = kv_idle(s, shape->n_layers) ? 0 : align64(shape->max_tokens * (int64_t)sizeof(*a->tasks)) +
		dev->info->n_workers * a->scratch_bytes + a->n_part * (int64_t)sizeof(float);
	*out = a;
	return NVLLM_OK;
}

static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	a->kv = kv;
	a->n_pages = n_pages;
	if (!workspace) /* nothing is run */
		return NVLLM_OK;
	a->tasks = workspace;
	a->scratch = (char *)workspace +
		align64(a->shape->max_tokens * (int64_t)sizeof(*a->tasks));
	a->parts = (float *)(a->scratch + a->dev->info->n_workers * a->scratch_bytes);
	return NVLLM_OK;
}

/* Units 0..n on the device's threads, or here where `work` is little. */
static void spread(struct paged_job *j, int64_t n, int64_t work,
	void (*fn)(void *, int64_t, int64_t, int32_t))
{
	if (n > 1 && work >= WORTH)
		j->a->dev->vt->parallel_for(j->a->dev->dev, n, 1, fn, j);
	else if (n > 0)
		fn(j, 0, n, 0);
}

static int run(struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	const struct paged_layer *l = &a->layers[layer];
	struct paged_job j = { .a = a, .l = l, .b = b, .q = q, .k = k, .v = v, .y = y,
		.pages = a->kv[l->s.source], .most_segments = 1 };
	int64_t row = (int64_t)l->s.n_heads * l->s.dim, units, work;
	int err = kv_check_batch(a->host, a->shape, b, a->n_pages * a->page_tokens);

	(void)stream;
	if (err || !l->s.n_heads)
		return err;
	for (int32_t t = b->n_seqs ? b->q_start[b->n_seqs] : 0; t < b->n_tokens; t++)
		memset((char *)y.data + t * y.stride, 0, (size_t)row * sizeof(float));
	paged_cut(&j);
	if (l->s.source == layer)
		spread(&j, (int64_t)b->n_tokens * l->s.n_kv, 4 * b->n_tokens * row, paged_put);
	units = j.n_tasks * l->s.n_kv;
	work = 2 * row * j.pairs;
	if (j.most_segments < 2 || j.n_part > a->n_part ||
	    units >= UNITS_PER_WORKER * (int64_t)a->dev->info->n_workers) {
		spread(&j, units, work, paged_whole);
		return NVLLM_OK;
	}
	spread(&j, units * j.most_segments, work, paged_apart);
	spread(&j, units, j.n_part, paged_merge);
	return NVLLM_OK;
}

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, page_tokens, "page_tokens", "64", 1, 4096, "tokens in a KV page"),
	NVLLM_OPTIONS_END
};
static const struct nvllm_attention_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL,
	.create = create, .attach = attach, .run = run,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_ATTENTION, .name = "paged",
	.summary = "flash-style attention over KV pages in host memory", .vt = &vt,
	.options = options, .conf_size = sizeof(struct conf),
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "attention_paged",
	.version = "0.1.0", .components = components,
};
