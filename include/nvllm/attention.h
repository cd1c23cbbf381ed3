/* SPDX-License-Identifier: MIT */
/* nvllm/attention.h - an attention backend, and the layout of the KV pages it wants. */
#ifndef NVLLM_ATTENTION_H
#define NVLLM_ATTENTION_H

#include "device.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_attention;

/* What the backend must be built for, on this rank. Given to create(), and valid as
 * long as the instance. */
struct nvllm_attn_shape {
	uint32_t size;
	int32_t n_layers;
	int32_t kv_dtype;    /* NVLLM_F32, F16, BF16 or F8_E4M3: how K and V are kept */
	int32_t max_tokens;  /* most rows in one step */
	int32_t max_seqs;    /* most sequences in one step */
	int32_t reserved;    /* 0 */
	int64_t max_len;     /* longest sequence, tokens */
	/* [n_layers], this rank's heads. n_heads 0: this rank holds none of the layer, whose
	 * layer_bytes are 0 then and which is never run. */
	const struct nvllm_attn_layer *const *layers;
};

/* The answer of create(). The core allocates the pages and the workspace, and owns
 * every page number. */
struct nvllm_kv_layout {
	uint32_t size;
	int32_t page_tokens;          /* tokens in a page */
	const int64_t *layer_bytes;   /* [n_layers] bytes of one page of that layer, K and V; of
	                               * host->alloc; 0 where the layer reads another's. Page p lies at
	                               * kv[layer] + p * layer_bytes[layer] and is all there is of it:
	                               * the core copies pages (copy on write) */
	int64_t workspace_bytes;      /* private scratch on the device, allocated once by the core */
};

#define NVLLM_ATTN_PLAN_ON_DEVICE (1ull << 0) /* plan() only enqueues device work: recordable */

struct nvllm_attention_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	uint64_t need;      /* NVLLM_DEV_* that the device must have */
	uint64_t flags;     /* NVLLM_ATTN_* */
	/* [setup] Refuses shapes it has no kernel for, with a sentence. */
	int  (*create)(const struct nvllm_host *, const struct nvllm_device_ref *,
		const struct nvllm_attn_shape *, const void *conf,
		struct nvllm_attention **out, struct nvllm_kv_layout *layout);
	/* [setup] kv[layer]: n_pages pages of layer_bytes[layer], device, contents undefined;
	 * both outlive the instance. */
	int  (*attach)(struct nvllm_attention *, void *const *kv, int64_t n_pages, void *workspace);
	/* [step] Optional. Once a step, before the first layer. Without
	 * NVLLM_ATTN_PLAN_ON_DEVICE it is host work on the batch's h_ arrays: it stays
	 * outside graphs and rules out run-ahead. */
	int  (*plan)(struct nvllm_attention *, nvllm_stream, const struct nvllm_batch *);
	/* [step] q [T][heads * head_dim], k and v [T][kv heads * head_dim], normed and turned.
	 * First writes k and v to their slots, then attends: a row at position p sees
	 * positions max(0, p - window + 1) .. p of its own sequence, read from the cache in
	 * the cache's type, also those of this very step. y [T][heads * head_dim].
	 * A layer that reads another's K and V (kv_layer >= 0) ignores k and v. Rows with
	 * slot -1 get any finite y. Recordable: reads only fixed addresses. q, k, v and y are of
	 * info.act_dtype. */
	int  (*run)(struct nvllm_attention *, nvllm_stream, int32_t layer, const struct nvllm_batch *,
		struct nvllm_tensor q, struct nvllm_tensor k, struct nvllm_tensor v,
		struct nvllm_tensor y);
	/* [step] Optional. The same from the raw qkv: adds the bias, norms and turns too.
	 * Where it is NULL the core does these with the device's kernels and calls run(). */
	int  (*run_raw)(struct nvllm_attention *, nvllm_stream, const struct nvllm_batch *,
		struct nvllm_tensor qkv, const struct nvllm_attn_in *, struct nvllm_tensor y);
	/* [setup] Optional. */
	void (*destroy)(struct nvllm_attention *);
};

#ifdef __cplusplus
}
#endif
#endif
