/* SPDX-License-Identifier: MIT */
/* naive - attention as the textbook has it, on a CUDA device: the reference that the fast backend is
 * compared with. y = softmax(scale * q K^T) V (Vaswani et al. 2017, section 3.2.1), row by row
 * and head by head on the CUDA cores. A page is [token][K, V][KV head][dim], so that a slot's number
 * alone says where its K and V lie. There is no plan and no workspace. */
#include <cuda_runtime_api.h>

#include <nvllm/plugin.h>

#include "../../plugins/attention/kv.h"
#include "attn_naive.h"

_Static_assert(KV_MAX_DIM <= NAIVE_MAX_DIM, "the kernel keeps a row of q in shared memory");

struct conf {
	int64_t page_tokens;
};

struct nvllm_attention {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
	const struct nvllm_attn_shape *shape;
	struct kv_layer *layers;
	int32_t page_tokens;
	void *const *kv; /* the core's pages, by layer */
};

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
	for (int32_t i = 0; i < shape->n_layers; i++) {
		if (layers[i].n_heads > 65535)
			return host->fail(host, NVLLM_ENOTSUP, "attention of layer %d: %d query heads; "
				"a CUDA grid holds 65535", i, layers[i].n_heads);
		bytes[i] = layers[i].source != i ? 0 : 2 * kv_bytes(shape->kv_dtype) *
			a->page_tokens * layers[i].n_kv * layers[i].dim;
	}
	layout->page_tokens = a->page_tokens;
	layout->layer_bytes = bytes;
	layout->workspace_bytes = 0;
	*out = a;
	return NVLLM_OK;
}

static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	(void)n_pages, (void)workspace;
	a->kv = kv;
	return NVLLM_OK;
}

static int check(const struct nvllm_attention *a, int err, const char *what, int32_t layer)
{
	if (!err)
		return NVLLM_OK;
	return a->host->fail(a->host, NVLLM_EDEVICE, "attention of layer %d: %s could not be started: %s",
		layer, what, cudaGetErrorString((cudaError_t)err));
}

static int run(struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	const struct kv_layer *l = &a->layers[layer];
	int32_t act = a->dev->info->act_dtype, kv = a->shape->kv_dtype;
	struct naive_job j = {
		.n_tokens = b->n_tokens, .n_seqs = b->n_seqs, .max_pages = b->max_pages,
		.page_tokens = a->page_tokens, .n_heads = l->n_heads, .n_kv = l->n_kv, .dim = l->dim,
		.window = l->window, .scale = l->scale, .cap = l->cap, .slots = b->slots,
		.positions = b->positions, .q_start = b->q_start, .page_table = b->page_table,
		.q = q.data, .k = k.data, .v = v.data, .y = y.data, .pages = a->kv[l->source],
		.q_stride = q.stride, .k_stride = k.stride, .v_stride = v.stride, .y_stride = y.stride,
	};
	int err = NVLLM_OK;

	if (!l->n_heads || !b->n_tokens)
		return NVLLM_OK;
	if (l->source == layer)
		err = check(a, naive_put(stream, &j, act, kv), "the kernel that keeps K and V", layer);
	return err ? err : check(a, naive_attend(stream, &j, act, kv), "the attention kernel", layer);
}

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, page_tokens, "page_tokens", "16", 1, 256, "tokens in a KV page"),
	NVLLM_OPTIONS_END
};
static const struct nvllm_attention_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_CUDA,
	.create = create, .attach = attach, .run = run,
};
extern const struct nvllm_component cuda_naive_component; /* attention.c lists it */
const struct nvllm_component cuda_naive_component = {
	.size = sizeof(cuda_naive_component), .kind = NVLLM_KIND_ATTENTION, .name = "naive",
	.summary = "plain reference attention for CUDA devices", .vt = &vt,
	.options = options, .conf_size = sizeof(struct conf),
};
