/* SPDX-License-Identifier: MIT */
/* What naive.c tells its kernels, attn_naive.cu. */
#ifndef NVLLM_CUDA_ATTN_NAIVE_H
#define NVLLM_CUDA_ATTN_NAIVE_H

#include <nvllm/attention.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NAIVE_MAX_DIM 1024

/* One call of run(). Strides are in bytes. */
struct naive_job {
	int32_t n_tokens, n_seqs, max_pages, page_tokens;
	int32_t n_heads, n_kv, dim, window; /* window 0 = all */
	float scale, cap;                   /* cap 0 = none */
	const int32_t *slots, *positions, *q_start, *page_table;
	const void *q, *k, *v;
	void *y, *pages;                    /* pages: [slot][K, V][KV head][dim] */
	int64_t q_stride, k_stride, v_stride, y_stride;
};

/* act: NVLLM_F32 or BF16, kv: NVLLM_F32, F16 or BF16. The answer is a cudaError_t. */
int naive_put(nvllm_stream, const struct naive_job *, int32_t act, int32_t kv);
int naive_attend(nvllm_stream, const struct naive_job *, int32_t act, int32_t kv);

#ifdef __cplusplus
}
#endif
#endif
