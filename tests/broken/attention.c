/* SPDX-License-Identifier: MIT */
/* tests/broken/attention.c - the plainest attention backend, keys and values in f32, and
 * with one word of -D a broken one. */
#include <math.h>

#include <nvllm/attention.h>
#include <nvllm/plugin.h>

#define PAGE 8
#define MAX_LEN 4096

struct nvllm_attention {
	const struct nvllm_attn_shape *shape;
	void *const *kv;
	int64_t *layer_bytes;
	float *score;
};

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev,
	const struct nvllm_attn_shape *shape, const void *conf, struct nvllm_attention **out,
	struct nvllm_kv_layout *layout)
{
	struct nvllm_attention *a = host->alloc(host, sizeof(*a));

	(void)dev, (void)conf;
	if (shape->kv_dtype != NVLLM_F32 || shape->max_len > MAX_LEN)
		return host->fail(host, NVLLM_ENOTSUP,
			"keys and values are kept in f32 only: set kv_dtype = f32");
	for (int i = 0; i < shape->n_layers; i++)
		if (shape->layers[i]->window || shape->layers[i]->softcap ||
			shape->layers[i]->kv_layer >= 0)
			return host->fail(host, NVLLM_ENOTSUP,
				"layer %d: no window, soft cap or shared keys here", i);
	if (!a ||
		!(a->layer_bytes = host->alloc(host, (size_t)shape->n_layers * sizeof(int64_t))) ||
		!(a->score = host->alloc(host, MAX_LEN * sizeof(float))))
		return host->fail(host, NVLLM_ENOMEM, "no memory for the attention backend");
	for (int i = 0; i < shape->n_layers; i++)
		if (shape->layers[i]->n_heads) /* else this rank holds none of the layer */
			a->layer_bytes[i] = (int64_t)PAGE * 2 * 4 * shape->layers[i]->n_kv_heads *
				shape->layers[i]->head_dim;
	a->shape = shape;
	layout->page_tokens = PAGE;
	layout->layer_bytes = a->layer_bytes;
	*out = a;
	return NVLLM_OK;
}

static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	(void)n_pages, (void)workspace;
	a->kv = kv;
	return NVLLM_OK;
}

static float *row(struct nvllm_tensor t, int64_t i)
{
	return (float *)((char *)t.data + i * t.stride);
}

/* A page: [PAGE][k of all heads], then [PAGE][v of all heads]. */
static float *kept(struct nvllm_attention *a, int layer, int64_t slot, int v)
{
	int64_t n =
		(int64_t)a->shape->layers[layer]->n_kv_heads * a->shape->layers[layer]->head_dim;

	return (float *)a->kv[layer] + (slot / PAGE * 2 + v) * PAGE * n + slot % PAGE * n;
}

static void head(struct nvllm_attention *a, int layer, const struct nvllm_batch *b, int seq,
	int32_t pos, int h, const float *q, float *y)
{
	const struct nvllm_attn_layer *l = a->shape->layers[layer];
	const int32_t *pages = b->page_table + (int64_t)seq * b->max_pages;
	int64_t at = (int64_t)(h / (l->n_heads / l->n_kv_heads)) * l->head_dim;
	float top = -INFINITY, sum = 0;

	for (int32_t j = 0; j <= pos; j++) {
		const float *k = kept(a, layer, (int64_t)pages[j / PAGE] * PAGE + j % PAGE, 0) + at;
		float s = 0;

		for (int d = 0; d < l->head_dim; d++)
			s += q[d] * k[d];
#ifndef NO_SCALE
		s *= (float)l->scale;
#endif
		a->score[j] = s;
		top = s > top ? s : top;
	}
	for (int d = 0; d < l->head_dim; d++)
		y[d] = 0;
	for (int32_t j = 0; j <= pos; j++) {
		const float *v = kept(a, layer, (int64_t)pages[j / PAGE] * PAGE + j % PAGE, 1) + at;
		float e = expf(a->score[j] - top);

		sum += e;
		for (int d = 0; d < l->head_dim; d++)
			y[d] += e * v[d];
	}
	for (int d = 0; d < l->head_dim; d++)
		y[d] /= sum;
}

static int run(struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	const struct nvllm_attn_layer *l = a->shape->layers[layer];

	(void)stream;
	for (int32_t r = 0; r < b->n_tokens; r++) {
		for (int64_t i = 0; i < y.cols; i++)
			row(y, r)[i] = 0;
		if (b->slots[r] < 0)
			continue;
		for (int64_t i = 0; i < k.cols; i++) {
			kept(a, layer, b->slots[r], 0)[i] = row(k, r)[i];
			kept(a, layer, b->slots[r], 1)[i] = row(v, r)[i];
		}
#ifdef PAST_PAGE /* one number too many: the next page's first key */
		kept(a, layer, b->slots[r], 1)[k.cols] = 0;
#endif
	}
	for (int seq = 0; seq < b->n_seqs; seq++)
		for (int32_t r = b->q_start[seq]; r < b->q_start[seq + 1]; r++)
			for (int h = 0; h < l->n_heads && b->slots[r] >= 0; h++)
				head(a, layer, b, seq, b->positions[r], h,
					row(q, r) + (int64_t)h * l->head_dim,
					row(y, r) + (int64_t)h * l->head_dim);
	return NVLLM_OK;
}

static const struct nvllm_attention_vt vt = {
	.size = sizeof(vt),
	.need = NVLLM_DEV_HOST_MEM,
	.create = create,
	.attach = attach,
	.run = run,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_ATTENTION, .name = "test_attention",
	.summary = "plain attention for tests", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "test_attention",
	.version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
