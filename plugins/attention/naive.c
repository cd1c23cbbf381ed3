/* SPDX-License-Identifier: MIT */
/* naive - attention as the textbook has it, the reference for every other backend:
 *   y = softmax(scale * q K^T) V      (Vaswani et al. 2017, section 3.2.1)
 * One row and one head at a time: all scores, their maximum, exp, sum, weighted V; sums
 * in double, in the order of positions. A page is [token][K, V][kv head][dim]. */
#include <math.h>

#include <nvllm/plugin.h>

#include "kv.h"

struct conf {
	int64_t page_tokens;
};

struct nvllm_attention {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
	const struct nvllm_attn_shape *shape;
	struct kv_layer *layers;
	int32_t page_tokens;
	void *const *kv;   /* the core's pages, by layer */
	int64_t n_pages;
	int32_t *seq_of;   /* [max_tokens] in the workspace: a row's sequence, -1 = none */
	double *scores;    /* [n_workers][max_len] in the workspace */
};

/* One call of run(), as its workers see it. */
struct job {
	const struct nvllm_attention *a;
	const struct kv_layer *l;
	const struct nvllm_batch *b;
	struct nvllm_tensor q, k, v, y;
	char *pages;
};

/* Bytes of seq_of, so that what follows is aligned. */
static int64_t seq_bytes(const struct nvllm_attn_shape *s)
{
	return ((int64_t)s->max_tokens * 4 + 63) / 64 * 64;
}

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev,
	const struct nvllm_attn_shape *shape, const void *conf, struct nvllm_attention **out,
	struct nvllm_kv_layout *layout)
{
	struct nvllm_attention *a = host->alloc(host, sizeof(*a));
	struct kv_layer *layers = NULL;
	int64_t *bytes;
	int err = kv_layers(host, shape, &layers);

	if (err)
		return err;
	bytes = host->alloc(host, (size_t)shape->n_layers * sizeof(*bytes));
	if (!a || !bytes)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the attention backend");
	*a = (struct nvllm_attention){ .host = host, .dev = dev, .shape = shape, .layers = layers,
		.page_tokens = (int32_t)((const struct conf *)conf)->page_tokens };
	for (int32_t i = 0; i < shape->n_layers; i++)
		bytes[i] = layers[i].source != i ? 0 : 2 * kv_bytes(shape->kv_dtype) *
			a->page_tokens * layers[i].n_kv * layers[i].dim;
	layout->page_tokens = a->page_tokens;
	layout->layer_bytes = bytes;
	layout->workspace_bytes = kv_idle(layers, shape->n_layers) ? 0 :
		seq_bytes(shape) + dev->info->n_workers * shape->max_len * 8;
	*out = a;
	return NVLLM_OK;
}

static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	a->kv = kv;
	a->n_pages = n_pages;
	a->seq_of = workspace;
	if (workspace) /* else nothing is run */
		a->scores = (double *)((char *)workspace + seq_bytes(a->shape));
	return NVLLM_OK;
}

/* Where the K (v = 0) or V (v = 1) of one token and head lies; slot counts tokens. */
static char *entry(const struct job *j, int64_t slot, int v, int64_t head)
{
	return j->pages + ((slot * 2 + v) * j->l->n_kv + head) * j->l->dim *
		kv_bytes(j->a->shape->kv_dtype);
}

static void put_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;

	for (int64_t t = begin; t < end; t++) {
		const float *k = (const float *)((char *)j->k.data + t * j->k.stride);
		const float *v = (const float *)((char *)j->v.data + t * j->v.stride);

		if (j->b->slots[t] < 0)
			continue;
		for (int64_t i = 0; i < (int64_t)j->l->n_kv * j->l->dim; i++) {
			kv_put(entry(j, j->b->slots[t], 0, 0), i, j->a->shape->kv_dtype, k[i]);
			kv_put(entry(j, j->b->slots[t], 1, 0), i, j->a->shape->kv_dtype, v[i]);
		}
	}
}

static int64_t slot_of(const struct job *j, int64_t seq, int64_t pos)
{
	int64_t n = j->a->page_tokens;

	return j->b->page_table[seq * j->b->max_pages + pos / n] * n + pos % n;
}

static double score(const struct job *j, const float *q, const void *k)
{
	double s = 0;

	for (int32_t d = 0; d < j->l->dim; d++)
		s += (double)q[d] * (double)kv_get(k, d, j->a->shape->kv_dtype);
	s *= (double)j->l->scale;
	return j->l->cap > 0 ? (double)j->l->cap * tanh(s / (double)j->l->cap) : s;
}

static void attend(const struct job *j, int64_t row, int64_t head, double *p)
{
	const float *q = (const float *)((char *)j->q.data + row * j->q.stride) + head * j->l->dim;
	float *y = (float *)((char *)j->y.data + row * j->y.stride) + head * j->l->dim;
	int64_t last = j->b->positions[row], first = kv_first(j->l, last);
	int64_t seq = j->a->seq_of[row], kv_head = head / j->l->group;
	double max = -HUGE_VAL, sum = 0, o[KV_MAX_DIM];

	for (int64_t t = first; t <= last; t++) {
		p[t] = score(j, q, entry(j, slot_of(j, seq, t), 0, kv_head));
		max = p[t] > max ? p[t] : max;
	}
	for (int64_t t = first; t <= last; t++)
		sum += p[t] = exp(p[t] - max);
	memset(o, 0, (size_t)j->l->dim * sizeof(*o));
	for (int64_t t = first; t <= last; t++) {
		const void *v = entry(j, slot_of(j, seq, t), 1, kv_head);

		for (int32_t d = 0; d < j->l->dim; d++)
			o[d] += p[t] * (double)kv_get(v, d, j->a->shape->kv_dtype);
	}
	for (int32_t d = 0; d < j->l->dim; d++)
		y[d] = (float)(o[d] / sum);
}

static void attend_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;

	for (int64_t i = begin; i < end; i++) {
		int64_t row = i / j->l->n_heads, head = i % j->l->n_heads;

		if (j->a->seq_of[row] >= 0)
			attend(j, row, head, j->a->scores + worker * j->a->shape->max_len);
		else
			memset((char *)j->y.data + row * j->y.stride + head * j->l->dim * 4, 0,
				(size_t)j->l->dim * 4);
	}
}

static int run(struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	const struct kv_layer *l = &a->layers[layer];
	struct job j = { a, l, b, q, k, v, y, a->kv[l->source] };
	int err = kv_check_batch(a->host, a->shape, b, a->n_pages * a->page_tokens);

	if (err || !l->n_heads)
		return err;
	for (int32_t t = 0; t < b->n_tokens; t++)
		a->seq_of[t] = -1;
	for (int32_t i = 0; i < b->n_seqs; i++)
		for (int32_t t = b->q_start[i]; t < b->q_start[i + 1]; t++)
			a->seq_of[t] = b->slots[t] < 0 ? -1 : i;
	if (l->source == layer)
		a->dev->vt->parallel_for(a->dev->dev, b->n_tokens, 16, put_rows, &j);
	a->dev->vt->parallel_for(a->dev->dev, b->n_tokens * (int64_t)l->n_heads, 4, attend_rows,
		&j);
	return NVLLM_OK;
}

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, page_tokens, "page_tokens", "16", 1, 4096, "tokens in a KV page"),
	NVLLM_OPTIONS_END
};
static const struct nvllm_attention_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL,
	.create = create, .attach = attach, .run = run,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_ATTENTION, .name = "naive",
	.summary = "plain reference attention for host memory", .vt = &vt,
	.options = options, .conf_size = sizeof(struct conf),
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "attention_naive",
	.version = "0.1.0", .components = components,
};
