/* SPDX-License-Identifier: MIT */
/* backends/cuda/sample.h - what the samplers' vtables (sampler.c) and their kernels share. */
#ifndef NVLLM_CUDA_SAMPLE_H
#define NVLLM_CUDA_SAMPLE_H

#include <nvllm/sampler.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SAMPLE_TILE 512            /* logits of which one warp makes a maximum and a sum */
#define SAMPLE_MAX_VOCAB (1 << 21) /* as many tiles as a row's lists have room for (sample_row.cuh) */

/* Of a tile: its largest logit, the lowest id that has it, and the sum of exp((x - max) / temperature)
 * (undefined for a row that needs no sum). */
struct sample_part {
	float max;
	int32_t id;
	double sum;
};

/* One call of sample(), as the kernels see it: all device memory. */
struct sample_job {
	const float *logits;
	int64_t stride;              /* bytes from row to row */
	const struct nvllm_sample_row *rows;
	int32_t *tokens;
	struct sample_part *parts;   /* [n_rows][n_tiles] */
	uint8_t *codes;              /* [n_rows][n_tiles * SAMPLE_TILE]; of rows with penalties */
	int32_t n_rows, vocab, n_tiles;
	int32_t unit_bits;           /* weights are counted in steps of 2^-unit_bits */
	int32_t greedy;              /* the likeliest token, whatever the rows ask for */
};

static inline int32_t sample_tiles(int64_t vocab)
{
	return (int32_t)((vocab + SAMPLE_TILE - 1) / SAMPLE_TILE);
}

/* Bytes of workspace: the parts of max_rows rows, then their codes, which greedy does without. */
static inline int64_t sample_parts_bytes(int64_t vocab, int32_t max_rows)
{
	return (max_rows * (int64_t)sample_tiles(vocab) * (int64_t)sizeof(struct sample_part) + 255) / 256 * 256;
}
static inline int64_t sample_codes_bytes(int64_t vocab, int32_t max_rows)
{
	return max_rows * (int64_t)sample_tiles(vocab) * SAMPLE_TILE;
}

/* [setup] and [step]: 0, or cudaError_t's number. Of a vocabulary of n_tiles tiles. */
int sample_setup(int32_t n_tiles);
int sample_enqueue(nvllm_stream, const struct sample_job *);
/* The first half of it: the kernel that looks at all logits (sample_tiles.cu). */
int sample_enqueue_tiles(nvllm_stream, const struct sample_job *);

#ifdef __cplusplus
}
#endif
#endif
