/* SPDX-License-Identifier: MIT */
/* nvllm/base.h - the words every other header uses: status codes, element types,
 * the tensor view, the batch.
 *
 * Plain C11, also valid C++17. No #ifdef may change a layout in this folder.
 *
 * Rules that hold for every struct that crosses the .so boundary:
 *  - It starts with `uint32_t size`, the bytes its owner knows of: whoever defines a
 *    vtable or fills a struct it passes on sets it to sizeof(the struct). Where a caller
 *    lends a struct to be filled, the caller sets size and the callee keeps it.
 *    Whoever did not set size asks NVLLM_HAS(p, member) before it touches a member that
 *    newer headers added at the tail. Growing at the tail does not bump NVLLM_ABI.
 *  - `struct nvllm_tensor`, `struct nvllm_option`, `struct nvllm_sample_row` and
 *    `struct nvllm_str` travel by value or in plain arrays: they are frozen, and
 *    changing one bumps NVLLM_ABI.
 *  - No enum is a struct member: fixed-width integers only.
 */
#ifndef NVLLM_BASE_H
#define NVLLM_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 0 = not yet stable: any release may change anything, and a plugin must be
 * rebuilt. From 1 on it is bumped when a member moves, goes or changes meaning. */
#define NVLLM_ABI 0u

/* True if the writer of *p knew about member m, so that m may be read. */
#define NVLLM_HAS(p, m) \
	((p)->size >= offsetof(__typeof__(*(p)), m) + sizeof((p)->m))

/* Every function that can fail returns 0 or one of these (negative). The sentence
 * for a human goes through host->fail(). */
enum nvllm_status {
	NVLLM_OK       =  0,
	NVLLM_EINVAL   = -1, /* the caller's or the user's mistake */
	NVLLM_ENOMEM   = -2,
	NVLLM_ENOTSUP  = -3, /* legal, not offered here */
	NVLLM_ENOENT   = -4,
	NVLLM_EIO      = -5,
	NVLLM_EDEVICE  = -6, /* the device or its driver said no */
	NVLLM_ECOMM    = -7, /* a peer rank is gone or out of step */
	NVLLM_ENOPAGES = -8, /* out of KV pages */
	NVLLM_ECANCEL  = -9, /* the request was cancelled */
};

/* Element types. Numbers are for ever. Block formats are stored as GGUF stores
 * them: rows of whole blocks, little-endian. */
enum nvllm_dtype {
	NVLLM_F32 = 0, NVLLM_F16 = 1, NVLLM_BF16 = 2, NVLLM_I32 = 3, NVLLM_I8 = 4,
	NVLLM_F8_E4M3 = 5, NVLLM_F8_E5M2 = 6, NVLLM_F64 = 7, NVLLM_I16 = 8, NVLLM_I64 = 9,
	NVLLM_Q4_0 = 16, NVLLM_Q4_1, NVLLM_Q5_0, NVLLM_Q5_1, NVLLM_Q8_0, NVLLM_Q8_1,
	NVLLM_Q2_K = 32, NVLLM_Q3_K, NVLLM_Q4_K, NVLLM_Q5_K, NVLLM_Q6_K, NVLLM_Q8_K,
	NVLLM_IQ1_S = 48, NVLLM_IQ1_M, NVLLM_IQ2_XXS, NVLLM_IQ2_XS, NVLLM_IQ2_S,
	NVLLM_IQ3_XXS, NVLLM_IQ3_S, NVLLM_IQ4_NL, NVLLM_IQ4_XS, NVLLM_MXFP4,
	NVLLM_TQ1_0, NVLLM_TQ2_0,
	NVLLM_DTYPE_MAX
};

/* How a weight is cut across the tensor-parallel group. The core does the cutting:
 * a rank may hold one unit more than another, a copy, or nothing. */
enum nvllm_cut {
	NVLLM_WHOLE = 0,    /* every rank holds all of it */
	NVLLM_CUT_HEADS,    /* rows (elements, of a vector) are the layer's heads, q's, then k's, then
	                     * v's, or q's or k's alone: cut by KV-head group; where there are
	                     * more ranks than KV heads, ranks share a copy of one */
	NVLLM_CUT_HEADS_IN, /* columns are query heads; the product is a partial sum */
	NVLLM_CUT_ROWS,     /* rows (elements) are one or more runs of arch.ffn, each cut alike, in units
	                     * of the quantisation block of what CUT_COLS cuts */
	NVLLM_CUT_COLS,     /* columns are arch.ffn, cut likewise; the product is a partial sum */
	NVLLM_CUT_VOCAB,    /* rows are vocabulary entries */
};

/* A view of a matrix. It owns nothing. Frozen.
 * data is a device address: only kernels follow it. */
struct nvllm_tensor {
	void *data;
	void *scale;           /* group scales (FP8, INT4), device; NULL = none */
	int64_t rows, cols;    /* elements */
	int64_t stride;        /* bytes from one row to the next */
	int64_t plane_stride;  /* bytes from one plane to the next; 0 where planes is 1 */
	int32_t planes;        /* experts of a MoE weight; 1 otherwise */
	int32_t group;         /* columns that share one scale; 0 = none */
	int32_t dtype;         /* enum nvllm_dtype: what the numbers are */
	int32_t cut;           /* enum nvllm_cut; weights only */
	int32_t layout;        /* 0 = rows as dtype says; else private to the device that stored it */
	int32_t flags;         /* 0 */
};

/* A string with its length; not NUL-ended. Frozen. */
struct nvllm_str {
	const char *s;
	int64_t len;
};

/* Elements in one block of a dtype, and its bytes. Returns 0 for an unknown dtype. */
static inline int64_t nvllm_dtype_block(int32_t dtype, int64_t *bytes)
{
	int64_t n = 0, b = 0;

	switch (dtype) {
	case NVLLM_F64: case NVLLM_I64: n = 1, b = 8; break;
	case NVLLM_F32: case NVLLM_I32: n = 1, b = 4; break;
	case NVLLM_F16: case NVLLM_BF16: case NVLLM_I16: n = 1, b = 2; break;
	case NVLLM_I8: case NVLLM_F8_E4M3: case NVLLM_F8_E5M2: n = 1, b = 1; break;
	case NVLLM_Q4_0: n = 32, b = 18; break;
	case NVLLM_Q4_1: n = 32, b = 20; break;
	case NVLLM_Q5_0: n = 32, b = 22; break;
	case NVLLM_Q5_1: n = 32, b = 24; break;
	case NVLLM_Q8_0: n = 32, b = 34; break;
	case NVLLM_Q8_1: n = 32, b = 36; break;
	case NVLLM_IQ4_NL: n = 32, b = 18; break;
	case NVLLM_MXFP4: n = 32, b = 17; break;
	case NVLLM_Q2_K: n = 256, b = 84; break;
	case NVLLM_Q3_K: n = 256, b = 110; break;
	case NVLLM_Q4_K: n = 256, b = 144; break;
	case NVLLM_Q5_K: n = 256, b = 176; break;
	case NVLLM_Q6_K: n = 256, b = 210; break;
	case NVLLM_Q8_K: n = 256, b = 292; break;
	case NVLLM_IQ1_S: n = 256, b = 50; break;
	case NVLLM_IQ1_M: n = 256, b = 56; break;
	case NVLLM_IQ2_XXS: n = 256, b = 66; break;
	case NVLLM_IQ2_XS: n = 256, b = 74; break;
	case NVLLM_IQ2_S: n = 256, b = 82; break;
	case NVLLM_IQ3_XXS: n = 256, b = 98; break;
	case NVLLM_IQ3_S: n = 256, b = 110; break;
	case NVLLM_IQ4_XS: n = 256, b = 136; break;
	case NVLLM_TQ1_0: n = 256, b = 54; break;
	case NVLLM_TQ2_0: n = 256, b = 66; break;
	default: break;
	}
	if (bytes)
		*bytes = b;
	return n;
}

/* Bytes of one row of cols elements, or -1: unknown dtype, cols negative or no
 * whole number of blocks, or a product that does not fit. */
static inline int64_t nvllm_row_bytes(int32_t dtype, int64_t cols)
{
	int64_t b = 0, n = nvllm_dtype_block(dtype, &b);

	if (n == 0 || cols < 0 || cols % n || cols / n > INT64_MAX / b)
		return -1;
	return cols / n * b;
}

/* Columns [from, from + n) of x: a view. Only for dtypes with one element a block. */
static inline struct nvllm_tensor nvllm_cols(struct nvllm_tensor x, int64_t from, int64_t n)
{
	int64_t b = 0;

	(void)nvllm_dtype_block(x.dtype, &b);
	if (x.data)
		x.data = (char *)x.data + from * b;
	x.cols = n;
	return x;
}

/* Sequence state that outlives a step: device arrays at fixed addresses, one entry
 * for each of the engine's n_slots sequence slots. The core allocates it once; the
 * device's `advance` kernel is its only writer while steps run. It is what lets
 * step n + 1 be queued before the token of step n has reached the host. */
struct nvllm_slots {
	uint32_t size;
	int32_t n_slots;
	int32_t *last_token; /* [n_slots] device: the newest sampled token */
	int32_t *n_left;     /* [n_slots] device: tokens it may still sample; the host sets it at admission */
	int32_t *done;       /* [n_slots] device: nonzero once n_left hit 0 or an end token came */
	const int32_t *stop_ids; /* [n_slots][NVLLM_STOP_IDS] device: end tokens, -1 fills the rest */
	/* [n_slots][history_len] device: tokens of a sequence from its first, for those whose request has
	 * penalties; NULL where the sampler runs on the host. */
	int32_t *history;
	int32_t history_len;
	int32_t reserved;    /* 0 */
};
#define NVLLM_STOP_IDS 8

/* One engine step, laid out for kernels. Built by the core; read-only to all else.
 * The device arrays keep their addresses for the life of the engine (a recorded
 * graph reads them again at each replay). Padding rows have slot -1, padding sequences kv_len 0: their rows of page_table mean nothing.
 * Padding sequences have one row or none; rows from q_start[n_seqs] on are nobody's. */
struct nvllm_batch {
	uint32_t size;
	int32_t n_tokens;            /* rows of this step's activations */
	int32_t n_seqs;              /* sequences they belong to */
	int32_t n_logits;            /* rows that make logits */
	int32_t max_pages;           /* columns of page_table */
	int32_t max_kv_len;          /* upper bound of kv_len, host's view */
	const int32_t *tokens;       /* [n_tokens] device; a value t < 0 means last_token[-1 - t] */
	const int32_t *positions;    /* [n_tokens] device: 0 is the first token of a sequence */
	const int32_t *slots;        /* [n_tokens] device: page * page_tokens + offset, where K and V go; -1 = nowhere */
	const int32_t *q_start;      /* [n_seqs + 1] device: sequence i owns rows q_start[i] .. q_start[i + 1] */
	const int32_t *kv_len;       /* [n_seqs] device: tokens to attend to, this step's own included */
	const int32_t *page_table;   /* [n_seqs][max_pages] device */
	const int32_t *logit_rows;   /* [n_logits] device: which rows make logits */
	const int32_t *logit_slots;  /* [n_logits] device: sequence slot to advance, -1 = none */
	const struct nvllm_slots *state; /* host struct of device arrays */
	const int32_t *h_q_start;    /* host twins for host-side plan(); NULL where the device runs ahead */
	const int32_t *h_kv_len;
	const int32_t *h_page_table;
};

#ifdef __cplusplus
}
#endif
#endif
