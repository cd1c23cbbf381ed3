/* SPDX-License-Identifier: MIT */
/* bf16_emulated.h - AVX-512 BF16 in plain C, after its description in Intel's SDM (vol. 2:
 * VCVTNE2PS2BF16, VDPBF16PS). */
#ifndef NVLLM_SIMD_BF16_EMULATED_H
#define NVLLM_SIMD_BF16_EMULATED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* A denormal is zero, of its sign. */
static inline float emu_flush(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	u &= u & 0x7f800000 ? 0xffffffff : 0x80000000;
	memcpy(&f, &u, sizeof(f));
	return f;
}

/* Element k of bf16, as float. */
static inline float emu_bf16(const uint8_t *row, int k)
{
	uint32_t u = (uint32_t)(row[2 * k] | row[2 * k + 1] << 8) << 16;
	float f;

	memcpy(&f, &u, sizeof(f));
	return emu_flush(f);
}

/* To nearest even; denormals are zero before and after, a NaN stays one. */
static inline uint16_t emu_to_bf16(float f)
{
	const float x = emu_flush(f);
	uint32_t u;

	memcpy(&u, &x, sizeof(u));
	if (x != x)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* b is the lower half. */
static inline __m512i emu_cvtne2ps_pbh(__m512 a, __m512 b)
{
	uint16_t y[32];
	float x[32];

	_mm512_storeu_ps(x, b);
	_mm512_storeu_ps(x + 16, a);
	for (int i = 0; i < 32; i++)
		y[i] = emu_to_bf16(x[i]);
	return _mm512_loadu_si512(y);
}

/* Each addition rounds to nearest even; of a pair the odd one is added first. A product of two bf16 is exact. */
static inline __m512 emu_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
	uint8_t x[64], y[64];
	float s[16];

	_mm512_storeu_si512(x, (__m512i)a);
	_mm512_storeu_si512(y, (__m512i)b);
	_mm512_storeu_ps(s, sum);
	for (int i = 0; i < 16; i++)
		for (int k = 2 * i + 1; k >= 2 * i; k--)
			s[i] = emu_flush(fmaf(emu_bf16(x, k), emu_bf16(y, k), emu_flush(s[i])));
	return _mm512_loadu_ps(s);
}

#undef _mm512_cvtne2ps_pbh
#undef _mm512_dpbf16_ps
#define _mm512_cvtne2ps_pbh(a, b) emu_cvtne2ps_pbh(a, b)
#define _mm512_dpbf16_ps(sum, a, b) emu_dpbf16_ps(sum, a, b)

#endif
