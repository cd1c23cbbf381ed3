/* SPDX-License-Identifier: MIT */
/* Numbers of stored types, one at a time. */
#ifndef FAKE_KERNELS_H
#define FAKE_KERNELS_H

#include <nvllm/base.h>

float num_get(int32_t dtype, const void *row, int64_t i); /* F32, F16, BF16 */
void num_put(int32_t dtype, void *row, int64_t i, float f); /* F32, BF16 */
float *num_weight_row(const struct nvllm_tensor *w, int64_t row); /* to be freed */
float num_e4m3(uint8_t b); /* its NaN: 0x7f, 0xff */
float num_drawn(uint64_t seed, int32_t plane, int64_t row, int64_t col); /* of the stand-in generator */

#endif
