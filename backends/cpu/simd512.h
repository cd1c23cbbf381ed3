/* SPDX-License-Identifier: MIT */
/* simd512.h - the intrinsics of what lies above AVX2: the compiler's, or, in the module that
 * tests/simd builds for machines without such instructions, SIMDe's, which are plain AVX2 and C. */
#ifndef NVLLM_CPU_SIMD512_H
#define NVLLM_CPU_SIMD512_H

#include "cpu.h"

#ifdef NVLLM_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include "missing.h"
#define IN_REGISTER(v)
/* With no registers to keep things in, there is nothing to gain, and minutes to lose. */
#undef UNROLL
#define UNROLL(n)
#else
#include <immintrin.h>
/* The compiler knows nothing of v from here on: it cannot regroup a sum of integers through it. */
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#endif

#endif
