/* SPDX-License-Identifier: MIT */
/* Number types of kernels: 16 and 8 bit floats as their bits, and the way to and from f32.
 * All conversions round to nearest, ties to even. */
#ifndef NVLLM_CUDA_NUM_CUH
#define NVLLM_CUDA_NUM_CUH

#include <stdint.h>

#define DEV static __device__ __forceinline__
#define HD static __host__ __device__ __forceinline__
#define SPEC __device__ __forceinline__ /* of a template declared DEV */

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
struct e4m3 { uint8_t bits; };

#ifdef NVLLM_EMU
#include "emu.h"
#else
#include <cuda_runtime.h>
#endif

#ifndef NVLLM_EMU
HD float bits_f32(uint32_t u) { union { uint32_t u; float f; } x; x.u = u; return x.f; }
HD uint32_t f32_bits(float f) { union { uint32_t u; float f; } x; x.f = f; return x.u; }

DEV float to_f32(float x) { return x; }
DEV float to_f32(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
DEV float to_f32(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }

template <class T> DEV T from_f32(float x);
template <> SPEC float from_f32<float>(float x) { return x; }
template <> SPEC bf16 from_f32<bf16>(float x)
{
	bf16 y;
	asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
	return y;
}
template <> SPEC f16 from_f32<f16>(float x)
{
	f16 y;
	asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
	return y;
}

/* Two numbers in a register, lo in the lower half. */
template <class T> DEV uint32_t pack2(float lo, float hi);
template <> SPEC uint32_t pack2<bf16>(float lo, float hi)
{
	uint32_t y;
	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
	return y;
}
template <> SPEC uint32_t pack2<f16>(float lo, float hi)
{
	uint32_t y;
	asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
	return y;
}
/* Four (lo first) fp8 numbers; values beyond 448 saturate. sm_89 and later have it as an instruction. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
DEV float e4m3_f32(uint32_t b)
{
	uint32_t s = (b & 0x80) << 24, m = b & 0x7f;

	if (m == 0x7f)
		return __uint_as_float(s | 0x7fc00000);
	/* f16 with the exponent 8 too small: denormals included */
	return __uint_as_float(s | f32_bits(to_f32(f16{ (uint16_t)(m << 7) }) * 256.f));
}
DEV uint8_t f32_e4m3(float x)
{
	float a = fabsf(x);
	uint32_t s = (f32_bits(x) >> 24) & 0x80, u;

	if (!(a <= 448.f))
		return (uint8_t)(s | (a != a ? 0x7f : 0x7e));
	if (a < 0.015625f) /* 2^-6: denormals are steps of 2^-9 */
		return (uint8_t)(s | (uint32_t)__float2int_rn(a * 512.f));
	u = f32_bits(a);
	u += 0x7ffff + ((u >> 20) & 1);
	return (uint8_t)(s | ((u >> 20) - (120 << 3)));
}
DEV uint32_t pack4_e4m3(float a, float b, float c, float d)
{
	return f32_e4m3(a) | f32_e4m3(b) << 8 | f32_e4m3(c) << 16 | (uint32_t)f32_e4m3(d) << 24;
}
/* The lower two bytes as two f16. */
DEV uint32_t e4m3x2_f16x2(uint16_t x) { return pack2<f16>(e4m3_f32(x & 0xff), e4m3_f32(x >> 8)); }
#else
DEV uint32_t pack4_e4m3(float a, float b, float c, float d)
{
	uint16_t lo, hi;
	asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
	asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
	return lo | (uint32_t)hi << 16;
}
DEV uint32_t e4m3x2_f16x2(uint16_t x)
{
	uint32_t y;
	asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(y) : "h"(x));
	return y;
}
#endif
/* 2 to the x, within 2 ulp; exact 0 for -inf. */
DEV float exp2_fast(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
#endif /* NVLLM_EMU brings its own of the same names */

/* The lower and upper half of a register of two. */
template <class T> DEV float lo2(uint32_t x) { T t; t.bits = (uint16_t)x; return to_f32(t); }
template <class T> DEV float hi2(uint32_t x) { T t; t.bits = (uint16_t)(x >> 16); return to_f32(t); }

#endif
