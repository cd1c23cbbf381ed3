/* SPDX-License-Identifier: MIT */
/* paged - attention over KV pages on a CUDA device. This file decides which shapes there are kernels for,
 * and which kernel does which rows. attn.h says what lies between the files; kv.cuh what a page
 * looks like: 16 tokens of a layer in one piece.
 *
 * Nothing of a step is read on the host but n_tokens and n_seqs, so that a recorded step holds for any
 * contents of the batch's arrays. */
#include <cuda_runtime_api.h>

#include "../../plugins/attention/kv.h"
#include "attn.h"

extern const struct nvllm_component cuda_naive_component; /* naive.c */

#define LOG2_E 1.4426950408889634

static int check(const struct nvllm_attention *a, int err, const char *what)
{
	if (!err)
		return NVLLM_OK;
	return a->host->fail(a->host, NVLLM_EDEVICE, "attention: %s: %s", what,
		cudaGetErrorString((cudaError_t)err));
}

static int64_t element(int32_t dtype)
{
	return dtype == NVLLM_F32 ? 4 : dtype == NVLLM_F8_E4M3 ? 1 : 2;
}

static int has_dim(int32_t dim)
{
	static const int32_t dims[] = { 16, 32, 48, 64, 80, 96, 128, 256 };

	for (size_t i = 0; i < sizeof(dims) / sizeof(*dims); i++)
		if (dims[i] == dim)
			return 1;
	return 0;
}

static int layer_init(struct nvllm_attention *a, int32_t i)
{
	const struct nvllm_attn_layer *s = a->shape->layers[i];
	struct attn_layer *l = &a->layers[i];
	int err = kv_check_layer(a->host, a->shape, i);

	if (err)
		return err;
	*l = (struct attn_layer){ .source = s->kv_layer >= 0 ? s->kv_layer : i };
	if (!s->n_heads)
		return NVLLM_OK;
	l->n_heads = s->n_heads;
	l->n_kv = s->n_kv_heads;
	l->dim = s->head_dim;
	l->group = l->n_heads / l->n_kv;
	l->window = s->window;
	l->scale = (float)s->scale;
	l->cap = (float)s->softcap;
	l->q_scale = (float)(s->softcap > 0 ? s->scale / s->softcap : s->scale * LOG2_E);
	l->row_bytes = (int32_t)(l->dim * element(a->kv_dtype));
	l->page_bytes = (int64_t)2 * l->n_kv * ATTN_PAGE * l->row_bytes;
	if (!has_dim(l->dim))
		return a->host->fail(a->host, NVLLM_ENOTSUP, "attention of layer %d: no CUDA kernel for "
			"head_dim %d, only for 16, 32, 48, 64, 80, 96, 128 and 256; attention.plugin = "
			"naive takes any", i, l->dim);
	if (l->group > ATTN_MAX_GROUP)
		return a->host->fail(a->host, NVLLM_ENOTSUP, "attention of layer %d: %d query heads to a "
			"KV head; the CUDA kernels take at most %d, attention.plugin = naive any",
			i, l->group, ATTN_MAX_GROUP);
	if (a->kv_dtype != NVLLM_F32 && !attn_decode_shape(a, l))
		return a->host->fail(a->host, NVLLM_ENOTSUP, "attention of layer %d: heads of %d do not "
			"fit the %d bytes of shared memory that a block has on this device; "
			"attention.plugin = naive needs none", i, l->dim, a->smem_max);
	return NVLLM_OK;
}

static int layers_init(struct nvllm_attention *a)
{
	int64_t pages = (a->shape->max_len + ATTN_PAGE - 1) / ATTN_PAGE;
	int err = NVLLM_OK, kinds;

	for (int32_t i = 0; i < a->shape->n_layers && !err; i++) {
		err = layer_init(a, i);
		a->layer_bytes[i] = a->layers[i].source == i ? a->layers[i].page_bytes : 0;
		if (!err && pages * a->shape->max_seqs > INT32_MAX / (a->layers[i].n_kv + 1))
			err = a->host->fail(a->host, NVLLM_ENOTSUP, "attention: %d sequences of %lld tokens with "
				"%d KV heads are more work than a step can be planned for; lower "
				"engine.max_seqs or max_model_len", a->shape->max_seqs,
				(long long)a->shape->max_len, a->layers[i].n_kv);
	}
	if (err || a->kv_dtype == NVLLM_F32)
		return err;
	kinds = attn_plan_kinds(a);
	if (kinds > ATTN_PLANS)
		return a->host->fail(a->host, NVLLM_ENOTSUP, "attention: layers of more than %d kinds (window, "
			"number of KV heads)", ATTN_PLANS);
	return NVLLM_OK;
}

/* What the device is, asked of CUDA: the context is the device plugin's. */
static int device_init(struct nvllm_attention *a)
{
	int dev = 0, major = 0, minor = 0;
	int err = cudaGetDevice(&dev);

	if (!err)
		err = cudaDeviceGetAttribute(&a->n_sms, cudaDevAttrMultiProcessorCount, dev);
	if (!err)
		err = cudaDeviceGetAttribute(&a->smem_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev);
	if (!err)
		err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev);
	if (!err)
		err = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, dev);
	a->cc = 10 * major + minor;
	return check(a, err, "asking for the device's attributes");
}

static int kernels_init(const struct nvllm_attention *a)
{
	int err;

	if (a->kv_dtype == NVLLM_F32)
		return check(a, attn_plain_setup(a), "setting up the kernels for f32");
	err = attn_plan_setup(a);
	err = err ? err : attn_decode_setup(a);
	err = err ? err : attn_prefill_setup(a);
	return check(a, err, "setting up the kernels");
}

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev,
	const struct nvllm_attn_shape *shape, const void *conf, struct nvllm_attention **out,
	struct nvllm_kv_layout *layout)
{
	struct nvllm_attention *a = host->alloc(host, sizeof(*a));
	int32_t kv = shape->kv_dtype;
	int err;

	(void)conf;
	if (kv != NVLLM_F32 && kv != NVLLM_F16 && kv != NVLLM_BF16 && kv != NVLLM_F8_E4M3)
		return host->fail(host, NVLLM_ENOTSUP, "this attention keeps K and V as f32, f16, bf16 or "
			"fp8 (e4m3), not as type %d: set engine.kv_dtype", kv);
	if (shape->n_layers < 1 || shape->max_tokens < 1 || shape->max_seqs < 1 || shape->max_len < 1)
		return host->fail(host, NVLLM_EINVAL, "attention for %d layers, %d rows, %d sequences of %lld "
			"tokens: each must be at least 1", shape->n_layers, shape->max_tokens,
			shape->max_seqs, (long long)shape->max_len);
	if (!a)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the attention backend");
	*a = (struct nvllm_attention){ .host = host, .dev = dev, .shape = shape, .kv_dtype = kv,
		.act = dev->info->act_dtype, .q_dtype = kv == NVLLM_F8_E4M3 ? NVLLM_F16 : kv,
		.early = 1 };
	a->layers = host->alloc(host, (size_t)shape->n_layers * sizeof(*a->layers));
	a->layer_bytes = host->alloc(host, (size_t)shape->n_layers * sizeof(*a->layer_bytes));
	if (!a->layers || !a->layer_bytes)
		return host->fail(host, NVLLM_ENOMEM, "no memory for %d layers", shape->n_layers);
	err = device_init(a);
	err = err ? err : layers_init(a);
	err = err ? err : kernels_init(a);
	if (err)
		return err;
	layout->page_tokens = ATTN_PAGE;
	layout->layer_bytes = a->layer_bytes;
	layout->workspace_bytes = attn_workspace(a, NULL);
	*out = a;
	return NVLLM_OK;
}

/* The pool begins as zeros: what lies behind a sequence's last token is finite then. */
static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	cudaStream_t stream = a->dev->vt->stream(a->dev->dev);
	int err = cudaSuccess;

	a->kv = kv;
	a->n_pages = n_pages;
	for (int32_t i = 0; i < a->shape->n_layers && !err; i++)
		if (kv[i] && a->layer_bytes[i])
			err = cudaMemsetAsync(kv[i], 0, (size_t)(n_pages * a->layer_bytes[i]), stream);
	if (!err && workspace) { /* else nothing is run */
		size_t bytes = (size_t)attn_workspace(a, workspace);

		err = cudaMemsetAsync(workspace, 0, bytes, stream); /* counters begin at 0 */
	}
	return check(a, err, "clearing the KV pages");
}

static int plan(struct nvllm_attention *a, nvllm_stream stream, const struct nvllm_batch *b)
{
	if (b->n_tokens > a->shape->max_tokens || b->n_seqs > a->shape->max_seqs)
		return a->host->fail(a->host, NVLLM_EINVAL, "a step of %d rows and %d sequences; attention was "
			"made for %d and %d", b->n_tokens, b->n_seqs, a->shape->max_tokens,
			a->shape->max_seqs);
	return check(a, attn_plan(a, stream, b), "the kernel that plans a step");
}

/* Kernels read and write 16 bytes at a time. */
static int aligned(const struct nvllm_tensor *t)
{
	return !(((uintptr_t)t->data | (uintptr_t)t->stride) & 15);
}

static int attend(struct nvllm_attention *a, nvllm_stream stream, int32_t layer, const struct nvllm_batch *b,
	const struct attn_rows *in, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[layer];
	int own = l->source == layer;
	int err;

	if (!l->n_heads || b->n_tokens < 1)
		return NVLLM_OK;
	if (!aligned(&in->q) || !aligned(&y) || (own && (!aligned(&in->k) || !aligned(&in->v))))
		return a->host->fail(a->host, NVLLM_EINVAL, "attention of layer %d: rows of q, k, v and y must "
			"start at multiples of 16 bytes", layer);
	err = check(a, attn_prep(a, stream, layer, b, in, y), "the kernel that prepares q, k and v");
	if (err || b->n_seqs < 1)
		return err;
	if (a->kv_dtype == NVLLM_F32)
		return check(a, attn_plain(a, stream, layer, b, y), "the kernel for f32");
	err = check(a, attn_decode(a, stream, layer, b, y), "the kernel for single rows");
	/* as many rows as sequences, none of which but padding has none: each has one */
	if (err || b->n_tokens == b->n_seqs)
		return err;
	return check(a, attn_prefill(a, stream, layer, b, y), "the kernel for prompts");
}

static int run(struct nvllm_attention *a, nvllm_stream stream, int32_t layer, const struct nvllm_batch *b,
	struct nvllm_tensor q, struct nvllm_tensor k, struct nvllm_tensor v, struct nvllm_tensor y)
{
	struct attn_rows in = { .q = q, .k = k, .v = v };

	return attend(a, stream, layer, b, &in, y);
}

static int run_raw(struct nvllm_attention *a, nvllm_stream stream, const struct nvllm_batch *b,
	struct nvllm_tensor qkv, const struct nvllm_attn_in *in, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[in->layer];
	int64_t q = (int64_t)l->n_heads * l->dim, kv = (int64_t)l->n_kv * l->dim;
	const float *bias = in->bias ? in->bias->data : NULL;
	struct attn_rows rows = {
		.q = nvllm_cols(qkv, 0, q), .k = nvllm_cols(qkv, q, kv), .v = nvllm_cols(qkv, q + kv, kv),
		.q_bias = bias, .k_bias = bias ? bias + q : NULL, .v_bias = bias ? bias + q + kv : NULL,
		.q_norm = in->q_norm, .k_norm = in->k_norm, .rotary = in->rotary,
	};
	const struct nvllm_norm *n[] = { in->q_norm, in->k_norm };

	for (int i = 0; i < 2; i++)
		if (n[i] && l->n_heads && (n[i]->kind != NVLLM_RMS_NORM || n[i]->w.cols != l->dim || n[i]->b.data))
			return a->host->fail(a->host, NVLLM_ENOTSUP, "attention of layer %d: the norm of q and k must "
				"be the root mean square of each head of %d, without a bias", in->layer, l->dim);
	if (in->rotary && (in->rotary->dims < 0 || in->rotary->dims > l->dim || in->rotary->dims % 2))
		return a->host->fail(a->host, NVLLM_ENOTSUP, "attention of layer %d: cannot turn %d elements of "
			"heads of %d", in->layer, in->rotary->dims, l->dim);
	return attend(a, stream, in->layer, b, &rows, y);
}

static const struct nvllm_attention_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_CUDA, .flags = NVLLM_ATTN_PLAN_ON_DEVICE,
	.create = create, .attach = attach, .plan = plan, .run = run, .run_raw = run_raw,
};
static const struct nvllm_component paged = {
	.size = sizeof(paged), .kind = NVLLM_KIND_ATTENTION, .name = "paged",
	.summary = "flash-style attention over KV pages for CUDA devices", .vt = &vt,
};
static const struct nvllm_component *const components[] = { &paged, &cuda_naive_component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "attention_cuda",
	.version = "0.1.0", .components = components,
};
