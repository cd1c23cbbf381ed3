/* SPDX-License-Identifier: MIT */
/* blocks.h - GGUF's block formats read on the host: those that have no kernels here. */
#ifndef NVLLM_CUDA_BLOCKS_H
#define NVLLM_CUDA_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

bool blocks_known(int32_t dtype);
/* One row of a known type to f32. */
void blocks_to_f32(float *y, const void *w, int32_t dtype, int64_t cols);

#endif
