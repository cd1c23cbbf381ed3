/* SPDX-License-Identifier: MIT */
/* quant.cuh - GGUF's block formats on the device: what backends/cpu/quant.c and quant_k.c say in C; and rows of
 * e4m3. One struct a format, whose functions stand for the format in templates:
 *   block, bytes   elements of a block and the bytes they take
 *   decode8        eight consecutive elements (8 * i8 on) of a block, as f32
 * Blocks start at even addresses, rows of e4m3 at multiples of 16. Of blocks, all the products of decode8 are exact in f32 (a half has 11 bits, scales
 * and quants together 12 at most), so that the one addition rounds as the CPU's does, fused or not. */
#ifndef NVLLM_CUDA_QUANT_CUH
#define NVLLM_CUDA_QUANT_CUH

#include "cuda.h"
#include "ptx.cuh"

DEV uint32_t ld16(const void *p) { return *(const uint16_t *)p; }
/* Four bytes from an even address. */
DEV uint32_t ld32(const void *p) { return ld16(p) | ld16((const char *)p + 2) << 16; }
DEV float ld_half(const void *p) { return to_f32(f16{ (uint16_t)ld16(p) }); }

/* Byte i of a register, as an unsigned or a signed number. */
DEV int byte_of(uint32_t v, int i) { return (int)(v >> 8 * i & 0xff); }
DEV int sbyte_of(uint32_t v, int i) { return (int8_t)(v >> 8 * i); }

/* d * (q - bias) (+ m) of eight quants, four to a register, one a byte. */
DEV void scale8(float out[8], uint32_t lo, uint32_t hi, float d, int bias, float m)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		out[i] = d * (float)(byte_of(lo, i) - bias) + m;
		out[4 + i] = d * (float)(byte_of(hi, i) - bias) + m;
	}
}

struct q4_0 {
	static constexpr int dtype = NVLLM_Q4_0, block = 32, bytes = 18;
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const uint8_t *q = b + 2 + i8 % 2 * 8;
		const int shift = i8 / 2 * 4;
		const float d = ld_half(b);
		const uint32_t lo = ld32(q) >> shift & 0x0f0f0f0f, hi = ld32(q + 4) >> shift & 0x0f0f0f0f;

#pragma unroll
		for (int i = 0; i < 4; i++) {
			out[i] = d * (float)(byte_of(lo, i) - 8);
			out[4 + i] = d * (float)(byte_of(hi, i) - 8);
		}
	}
};

struct q4_1 {
	static constexpr int dtype = NVLLM_Q4_1, block = 32, bytes = 20;
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const uint8_t *q = b + 4 + i8 % 2 * 8;
		const int shift = i8 / 2 * 4;

		scale8(out, ld32(q) >> shift & 0x0f0f0f0f, ld32(q + 4) >> shift & 0x0f0f0f0f, ld_half(b), 0, ld_half(b + 2));
	}
};

struct q8_0 {
	static constexpr int dtype = NVLLM_Q8_0, block = 32, bytes = 34;
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const float d = ld_half(b);
		const uint32_t lo = ld32(b + 2 + 8 * i8), hi = ld32(b + 6 + 8 * i8);

#pragma unroll
		for (int i = 0; i < 4; i++) {
			out[i] = d * (float)sbyte_of(lo, i);
			out[4 + i] = d * (float)sbyte_of(hi, i);
		}
	}
};

/* Scale and minimum k of 8, six bits each: whole for the first four, with the top bits of those for the last. */
DEV void scale_q4_k(const uint8_t *s, int k, int *scale, int *minimum)
{
	if (k < 4) {
		*scale = s[k] & 63;
		*minimum = s[4 + k] & 63;
	} else {
		*scale = (s[4 + k] & 15) | s[k - 4] >> 6 << 4;
		*minimum = s[4 + k] >> 4 | s[k] >> 6 << 4;
	}
}

struct q4_k {
	static constexpr int dtype = NVLLM_Q4_K, block = 256, bytes = 144;
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const int k = i8 / 4, shift = k % 2 * 4;
		const uint8_t *q = b + 16 + k / 2 * 32 + i8 % 4 * 8;
		int scale, minimum;

		scale_q4_k(b + 4, k, &scale, &minimum);
		scale8(out, ld32(q) >> shift & 0x0f0f0f0f, ld32(q + 4) >> shift & 0x0f0f0f0f, ld_half(b) * (float)scale, 0,
			-(ld_half(b + 2) * (float)minimum));
	}
};

struct q6_k {
	static constexpr int dtype = NVLLM_Q6_K, block = 256, bytes = 210;
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const int k = i8 / 2, nibble = k % 8 / 4 * 4, shift = k % 8 / 2 * 2;
		const uint8_t *low = b + k / 8 * 64 + k % 4 * 16 + i8 % 2 * 8;
		const uint8_t *high = b + 128 + k / 8 * 32 + k % 2 * 16 + i8 % 2 * 8;
		const float d = ld_half(b + 208) * (float)(int8_t)b[192 + k];

#pragma unroll
		for (int h = 0; h < 2; h++) {
			const uint32_t q = (ld32(low + 4 * h) >> nibble & 0x0f0f0f0f) | (ld32(high + 4 * h) >> shift & 0x03030303) << 4;

#pragma unroll
			for (int i = 0; i < 4; i++)
				out[4 * h + i] = d * (float)(byte_of(q, i) - 32);
		}
	}
};

#define POWER_120 0x7b807b80u /* two of 2^120 */

/* Bytes of e4m3 as bf16 pairs, 0 and 2, then 1 and 3: their exponent and mantissa are bf16's topmost but for 2^120, its
 * denormals included, which the instruction keeps. -0 becomes 0. */
DEV void pairs_of_e4m3(uint32_t out[2], uint32_t q)
{
	const uint32_t even = q << 8;

	out[0] = fma2_bf16((even & 0x80008000u) | (even >> 4 & 0x07f007f0u), POWER_120, 0);
	out[1] = fma2_bf16((q & 0x80008000u) | (q >> 4 & 0x07f007f0u), POWER_120, 0);
}

/* Four e4m3 as f32. */
DEV void numbers_of_e4m3(float out[4], uint32_t q)
{
	uint32_t pair[2];

	pairs_of_e4m3(pair, q);
	out[0] = lo2<bf16>(pair[0]), out[1] = lo2<bf16>(pair[1]), out[2] = hi2<bf16>(pair[0]), out[3] = hi2<bf16>(pair[1]);
}

/* A row is one block, whatever its length, and begins with its scale: see LAYOUT_FP8. */
struct fp8_row {
	static constexpr int dtype = NVLLM_F8_E4M3, block = 1 << 30, bytes = 0;
	DEV float scale_of(const void *b) { return *(const float *)b; }
	DEV void decode8(const uint8_t *b, int i8, float out[8])
	{
		const uint2 q = *(const uint2 *)(b + FP8_HEAD + 8 * i8);
		const float scale = scale_of(b);

		numbers_of_e4m3(out, q.x), numbers_of_e4m3(out + 4, q.y);
#pragma unroll
		for (int i = 0; i < 8; i++)
			out[i] *= scale;
	}
};

/* Runs `call` with Q standing for the format of dtype; otherwise `none`. */
#define WITH_BLOCKS(of, call, none) do { \
	switch (of) { \
	case NVLLM_Q4_0: { using Q = q4_0; call; break; } \
	case NVLLM_Q4_1: { using Q = q4_1; call; break; } \
	case NVLLM_Q8_0: { using Q = q8_0; call; break; } \
	case NVLLM_Q4_K: { using Q = q4_k; call; break; } \
	case NVLLM_Q6_K: { using Q = q6_k; call; break; } \
	case NVLLM_F8_E4M3: { using Q = fp8_row; call; break; } \
	default: none; } } while (0)

static inline int is_blocks(int32_t dtype)
{
	return dtype == NVLLM_Q4_0 || dtype == NVLLM_Q4_1 || dtype == NVLLM_Q8_0 || dtype == NVLLM_Q4_K || dtype == NVLLM_Q6_K;
}

/* Has it a struct above? */
static inline int is_coded(int32_t dtype) { return dtype == NVLLM_F8_E4M3 || is_blocks(dtype); }

#endif
