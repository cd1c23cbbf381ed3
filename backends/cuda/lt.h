/* SPDX-License-Identifier: MIT */
/* lt.h - what lt.c and tune.c share: the library, the products asked of it, what was chosen for each.
 *
 * cuBLASLt counts rows down the columns: it computes D [N][T] = A B (+ D) of matrices that lie column
 * by column. Our y [T][N] = x [T][K] wT, row by row, is that D as it lies in memory, with B [K][T]
 * = x as it lies, and A = the transpose of w [N][K] as it lies, which is [K][N]. */
#ifndef NVLLM_CUDA_LT_H
#define NVLLM_CUDA_LT_H

#include <pthread.h>
#include <stdbool.h>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "cuda.h"

#define LT_SETS 512   /* of plans: a shape's number of rows chooses one */
#define LT_WAYS 4
#define LT_SHAPES 64  /* of stored matrices that are timed */
#define LT_COPIES 8   /* weights of one shape, so that they come from memory and not from a cache */

/* All that an algorithm may depend on. No padding: it is compared and hashed as bytes. */
struct lt_key {
	int64_t n, k, t;             /* t: rows of x, rounded up to the bucket */
	int64_t w_ld, x_ld, y_ld;    /* elements from one row to the next */
	int32_t type, y_type;        /* NVLLM_F32 or NVLLM_BF16 */
	int32_t add;                 /* 1: y += */
	int32_t align;               /* least of the addresses, bytes, at most 16 */
};

struct lt_plan {
	struct lt_key key;           /* n 0: free */
	cublasLtMatmulAlgo_t algo;
	uint64_t used;               /* when last */
	bool none;                   /* the library has nothing for it */
	bool tuned;                  /* it was timed: stays */
};

/* Weights of one shape. */
struct lt_shape {
	int64_t rows, cols, stride;
	int32_t dtype, cut;
	int32_t n;                   /* of w */
	const void *w[LT_COPIES];
};

struct lt_api {
#define F(name, symbol) __typeof__(symbol) *name
	F(version, cublasLtGetVersion);
	F(create, cublasLtCreate);
	F(destroy, cublasLtDestroy);
	F(word, cublasLtGetStatusName);
	F(matmul, cublasLtMatmul);
	F(heuristic, cublasLtMatmulAlgoGetHeuristic);
	F(layout, cublasLtMatrixLayoutInit_internal);
	F(desc, cublasLtMatmulDescInit_internal);
	F(desc_set, cublasLtMatmulDescSetAttribute);
	F(pref, cublasLtMatmulPreferenceInit_internal);
	F(pref_set, cublasLtMatmulPreferenceSetAttribute);
#undef F
};

struct lt {
	pthread_t thread;            /* loads what is below, up to handle */
	bool started, ready;
	int status;                  /* of the thread; why: its sentence */
	char why[320];
	struct lt_api api;
	cublasLtHandle_t handle;
	cublasLtMatmulDescOpaque_t desc; /* of all products */
	uint64_t clock;
	struct lt_plan plans[LT_SETS][LT_WAYS];
	struct lt_shape shapes[LT_SHAPES];
	int32_t n_shapes;
};

/* A product as the library wants it described. */
struct lt_call {
	struct lt_key key;           /* t as it is */
	cublasLtMatrixLayoutOpaque_t w, x, y;
	const void *w_data, *x_data;
	void *y_data;
};

#define LT_CHOICES 8 /* most algorithms asked for at once */

int64_t lt_bucket(int64_t t); /* products with as many rows share an algorithm */
int lt_describe(struct nvllm_device *, struct lt_call *, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags);
/* The likeliest algorithms for a call of t rows, best first: how many, 0 to n. */
int lt_choices(struct nvllm_device *, const struct lt_call *, int64_t t, cublasLtMatmulHeuristicResult_t *, int n);
cublasStatus_t lt_run(struct nvllm_device *, nvllm_stream, const struct lt_call *, const cublasLtMatmulAlgo_t *);
/* The plan of this key, or one that was freed for it (then *fresh); NULL where all that it
 * could take were timed. */
struct lt_plan *lt_find(struct lt *, const struct lt_key *, bool *fresh);

#endif
