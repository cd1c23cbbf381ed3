/* SPDX-License-Identifier: MIT */
/* The types that K and V are kept in, for the tests of paged attention: the type of their products, and
 * numbers of 8 bits one at a time. */
#ifndef EMU_ATTN_TYPES_H
#define EMU_ATTN_TYPES_H

#include "../../backends/cuda/attn.h"
#include "../../backends/cuda/ptx.cuh"

#define LOG2E 1.4426950408889634

template <class T> struct types;
template <> struct types<bf16> { typedef bf16 product; static const int kv = NVLLM_BF16; };
template <> struct types<f16> { typedef f16 product; static const int kv = NVLLM_F16; };
template <> struct types<e4m3> { typedef f16 product; static const int kv = NVLLM_F8_E4M3; };

DEV float to_f32(e4m3 x) { return lo2<f16>(e4m3x2_f16x2(x.bits)); }
template <> SPEC e4m3 from_f32<e4m3>(float x) { return e4m3{ (uint8_t)pack4_e4m3(x, 0, 0, 0) }; }

#endif
