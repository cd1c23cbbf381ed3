/* SPDX-License-Identifier: MIT */
/* backends/cuda/cuda.h - the inside of the CUDA device, which its files share. */
#ifndef NVLLM_CUDA_H
#define NVLLM_CUDA_H

#include <nvllm/plugin.h>
#include <nvllm/device.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lt; /* lt.c: cuBLASLt, its plans and workspace */

struct nvllm_device {
	const struct nvllm_host *host;
	int ordinal, n_sms, cc;          /* cc: 90 = compute capability 9.0 */
	int32_t act;                     /* info.act_dtype */
	nvllm_stream stream;             /* the compute stream: all work of steps */
	nvllm_stream copies;             /* uploads of weights */
	const struct device_conf *conf;
	struct lt *lt;
	void *scratch;                   /* for one call of linear: weights of blocks or x, as other numbers */
	int64_t scratch_bytes;
	void *workspace;                 /* cuBLASLt's own */
	int64_t workspace_bytes;
	struct staging *staging;         /* store.c: pinned buffers of uploads */
	void *before, *after;            /* events: copies follows stream, stream follows copies */
	char name[64], isa[64];
};

/* What [device] says. */
struct device_conf {
	int32_t activations;    /* index into device.c's names */
	int32_t tune;           /* enum tune */
	const char *cublaslt;   /* path of the library; "" = look for it */
	const char *tune_file;  /* "" = none is kept */
	int32_t weights;        /* enum weights */
};

/* 0, or NVLLM_EDEVICE and a sentence: what was tried, and CUDA's word for it. err: cudaError_t. */
int cu_check(const struct nvllm_device *, int err, const char *what);

/* ---- graph.c ---- */
int  cu_graph_begin(struct nvllm_device *, nvllm_stream);
int  cu_graph_end(struct nvllm_device *, nvllm_stream, nvllm_graph *out);
int  cu_graph_launch(struct nvllm_device *, nvllm_stream, nvllm_graph);
void cu_graph_free(struct nvllm_device *, nvllm_graph);

/* ---- lt.c: products by cuBLASLt ---- */
int  lt_open(struct nvllm_device *);   /* begins to load the library, on a thread of its own */
int  lt_ready(struct nvllm_device *);  /* waits for it; refuses with a sentence */
void lt_close(struct nvllm_device *);
/* y [T][w.rows] = x wT (+ y): x and w of one type, f32 or bf16; y f32, or bf16 as they are. No bias.
 * NVLLM_ENOTSUP, without a sentence: the library has nothing for this shape. */
int  lt_product(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags);

/* ---- tune.c: which of its kernels cuBLASLt shall use ---- */
void tune_note(struct nvllm_device *, const struct nvllm_tensor *w); /* a weight that was stored */
void tune_load(struct nvllm_device *); /* reads [device] tune_file */
enum tune { TUNE_OFF, TUNE_ON, TUNE_FULL };
/* Times products of all stored matrices with x of rows[0..n) rows, the last first. [setup], after the weights. */
int  cu_prepare(struct nvllm_device *, const int32_t *rows, int32_t n);

/* ---- weights of 8 bits ---- */
enum weights { WEIGHTS_AUTO, WEIGHTS_FP8 };
/* The layout of NVLLM_F8_E4M3, which store() makes: a row is FP8_HEAD bytes, the first four of which are its scale
 * (f32), and then its numbers, a multiple of 16; element = scale * e4m3. Rows start at multiples of 16 bytes. */
#define LAYOUT_FP8 1
#define FP8_HEAD 16
/* Bytes of a row of a stored weight; -1: there is no such weight. */
static inline int64_t stored_bytes(const struct nvllm_tensor *w)
{
	const int64_t bytes = nvllm_row_bytes(w->dtype, w->cols);

	if (w->dtype != NVLLM_F8_E4M3)
		return w->layout ? -1 : bytes;
	return w->layout == LAYOUT_FP8 && bytes >= 0 && w->cols % 16 == 0 ? FP8_HEAD + bytes : -1;
}
/* Makes n such rows of [n][cols] of f32, f16 or bf16. scale = the largest |x| of the row / 448, 1 for a row of zeros;
 * each number is the e4m3 nearest to x / scale, ties to even. A row with a NaN or an infinity has scale NaN, so that
 * its products are NaN. src: rows at multiples of 16 bytes. quant.cu */
int fp8_rows(struct nvllm_device *, nvllm_stream, void *dst, int64_t dst_stride, const void *src, int32_t src_dtype,
	int64_t src_stride, int64_t n, int64_t cols);

/* ---- store.c ---- */
#define UPLOAD_BYTES (8 << 20) /* of a pinned buffer, and the most bytes of a row */
int64_t cu_store(struct nvllm_device *, struct nvllm_tensor *);
int  cu_upload(struct nvllm_device *, const struct nvllm_tensor *, int32_t plane, int64_t row, int64_t n,
	const void *src, int32_t src_dtype, int64_t src_stride);
int  cu_random(struct nvllm_device *, const struct nvllm_tensor *, int32_t plane, int64_t row, int64_t n,
	uint64_t seed, double mean, double std);
void store_close(struct nvllm_device *);

/* ---- linear.c: which routine computes a product ---- */
int cu_linear(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags);
int cu_norm_linear(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *, struct nvllm_tensor w, const struct nvllm_tensor *bias);
int cu_norm_linear_glu(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *, struct nvllm_tensor w, int act);

/* ---- skinny.cu: products of few rows, weights as they are stored ---- */
#define SKINNY_ROWS 16 /* most rows of a call */
/* [setup] Once, in create(): lets its kernels have the shared memory they want. */
int skinny_open(struct nvllm_device *);
/* Is there a kernel for this weight (type, columns)? */
int skinny_has(const struct nvllm_device *, const struct nvllm_tensor *w);
/* y = act(norm(x) wT + bias), or += with NVLLM_LINEAR_ADD. norm and bias may be NULL; glu: act of gate's
 * rows times up's, y.cols = w.rows / 2; glu -1 = none, else enum nvllm_act. Rows of x 1 to SKINNY_ROWS. */
int skinny(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *norm, struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags, int glu);
/* ---- fp8_tiles.cu: products of more rows, weights of e4m3 as they are stored ---- */
#define FP8_TILE_ROWS 64 /* most rows of a call */
/* y = x wT (+ y), x of bf16. It uses the scratch. NVLLM_ENOTSUP, without a sentence: it cannot do this one. */
int fp8_tiles(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x, struct nvllm_tensor w,
	uint32_t flags);

/* ---- quant.cu ---- */
/* Rows [row, row + n) of plane 0 of a weight in blocks or e4m3 as numbers of type dtype (f32 or bf16), dense. */
int dequantise(struct nvllm_device *, nvllm_stream, void *dst, int32_t dtype, struct nvllm_tensor w, int64_t row, int64_t n);

/* ---- kernels.cu, logprobs.cu, moe.cu: as struct nvllm_kernels says ---- */
int cu_embed(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor table, int64_t first,
	const struct nvllm_batch *, double scale);
int cu_norm(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_norm *);
int cu_add(struct nvllm_device *, nvllm_stream, struct nvllm_tensor x, struct nvllm_tensor d);
int cu_rope(struct nvllm_device *, nvllm_stream, struct nvllm_tensor x, const int32_t *positions, int64_t head_dim,
	const struct nvllm_rotary *);
int cu_glu(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x, int act);
int cu_rows(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x, const int32_t *index);
int cu_logprobs(struct nvllm_device *, nvllm_stream, struct nvllm_tensor logits, const struct nvllm_logprobs *);
int cu_advance(struct nvllm_device *, nvllm_stream, const struct nvllm_batch *, const int32_t *tokens);
int cu_moe(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_moe *,
	struct nvllm_tensor scratch);
/* Bytes of rows as numbers: dst [n][cols] of dst_dtype = src [n][cols] of src_dtype (f32, f16, bf16), strides in bytes. */
int cu_convert(struct nvllm_device *, nvllm_stream, void *dst, int32_t dst_dtype, int64_t dst_stride, const void *src,
	int32_t src_dtype, int64_t src_stride, int64_t n, int64_t cols);
/* [n][cols] of f32 or bf16 from the counter-based generator; row r of it draws as row `row` + r of plane. */
int cu_fill_random(struct nvllm_device *, nvllm_stream, void *dst, int32_t dtype, int64_t stride, int64_t n, int64_t cols,
	int64_t row, int32_t plane, uint64_t seed, double mean, double std);

#ifdef __cplusplus
}
#endif
#endif
