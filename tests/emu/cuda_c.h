/* SPDX-License-Identifier: MIT */
/* tests/emu/cuda_c.h - the functions of CUDA C that every kernel may call: barriers, shuffles,
 * votes, atomics, arithmetic. Part of emu.h. */
#ifndef NVLLM_EMU_CUDA_C_H
#define NVLLM_EMU_CUDA_C_H

/* ---- barriers and fences ---- */
static inline void __syncthreads(EMU_AT) { emu_barrier(0, 0, EMU_BAR_PLAIN, 0, true, file, line); }
static inline int __syncthreads_or(int p, EMU_AT) { return emu_barrier(0, 0, EMU_BAR_OR, p != 0, true, file, line); }
static inline int __syncthreads_and(int p, EMU_AT) { return emu_barrier(0, 0, EMU_BAR_AND, p != 0, true, file, line); }
static inline int __syncthreads_count(int p, EMU_AT) { return emu_barrier(0, 0, EMU_BAR_COUNT, p != 0, true, file, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_AT) { emu_meet(EMU_SYNCWARP, mask, 0, 0, file, line); }
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}

/* ---- shuffles ---- */
template <class T> static inline T emu_shfl(unsigned mask, T v, int src, int width, const char *file, int line)
{
	static_assert(std::is_arithmetic<T>::value, "a number is what a shuffle moves");
	uint64_t x = 0;

	if (width < 1 || width > 32 || (width & (width - 1)))
		emu_fail(file, line, "a shuffle of width %d: a power of two up to 32 is possible", width);
	memcpy(&x, &v, sizeof(v));
	x = emu_meet(EMU_SHFL, mask, x, src, file, line);
	memcpy(&v, &x, sizeof(v));
	return v;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int src, int width = 32, EMU_AT)
{
	return emu_shfl(mask, v, (emu_lane() & -width) + (src & (width - 1)), width, file, line);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_AT)
{
	int l = emu_lane(), s = l - (int)delta;

	return emu_shfl(mask, v, s < (l & -width) ? l : s, width, file, line);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_AT)
{
	int l = emu_lane(), s = l + (int)delta;

	return emu_shfl(mask, v, s >= (l & -width) + width ? l : s, width, file, line);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, EMU_AT)
{
	int l = emu_lane(), s = l ^ with;

	return emu_shfl(mask, v, s >= (l & -width) + width ? l : s, width, file, line);
}

/* ---- votes and reductions over a warp ---- */
static inline unsigned __ballot_sync(unsigned mask, int p, EMU_AT) { return (unsigned)emu_meet(EMU_BALLOT, mask, p != 0, 0, file, line); }
static inline int __any_sync(unsigned mask, int p, EMU_AT) { return emu_meet(EMU_BALLOT, mask, p != 0, 0, file, line) != 0; }
static inline int __all_sync(unsigned mask, int p, EMU_AT) { return emu_meet(EMU_BALLOT, mask, p != 0, 0, file, line) == mask; }
static inline unsigned __activemask(void) { return emu_activemask(); }
template <class T> static inline unsigned __match_any_sync(unsigned mask, T v, EMU_AT)
{
	uint64_t x = 0;

	memcpy(&x, &v, sizeof(v));
	return (unsigned)emu_meet(EMU_MATCH_ANY, mask, x, 0, file, line);
}
template <class T> static inline unsigned __match_all_sync(unsigned mask, T v, int *all, EMU_AT)
{
	uint64_t x = 0;

	memcpy(&x, &v, sizeof(v));
	x = emu_meet(EMU_MATCH_ALL, mask, x, 0, file, line);
	*all = x != 0;
	return (unsigned)x;
}
static inline unsigned __reduce_add_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_ADD_U, m, x, 0, file, line); }
static inline unsigned __reduce_min_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_MIN_U, m, x, 0, file, line); }
static inline unsigned __reduce_max_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_MAX_U, m, x, 0, file, line); }
static inline int __reduce_add_sync(unsigned m, int x, EMU_AT) { return (int)emu_meet(EMU_ADD_U, m, (unsigned)x, 0, file, line); }
static inline int __reduce_min_sync(unsigned m, int x, EMU_AT) { return (int)emu_meet(EMU_MIN_I, m, (unsigned)x, 0, file, line); }
static inline int __reduce_max_sync(unsigned m, int x, EMU_AT) { return (int)emu_meet(EMU_MAX_I, m, (unsigned)x, 0, file, line); }
static inline unsigned __reduce_and_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_AND, m, x, 0, file, line); }
static inline unsigned __reduce_or_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_OR, m, x, 0, file, line); }
static inline unsigned __reduce_xor_sync(unsigned m, unsigned x, EMU_AT) { return (unsigned)emu_meet(EMU_XOR, m, x, 0, file, line); }

/* ---- atomics: of any memory ---- */
#define EMU_ATOMIC(name, T, after) \
	static inline T name(T *p, T x) { T old = *p; *p = (after); emu_maybe_yield(); return old; }
#define EMU_ATOMICS(T) \
	EMU_ATOMIC(atomicAdd, T, old + x) \
	EMU_ATOMIC(atomicMax, T, x > old ? x : old) \
	EMU_ATOMIC(atomicMin, T, x < old ? x : old) \
	EMU_ATOMIC(atomicExch, T, x) \
	EMU_ATOMIC(atomicAnd, T, old & x) \
	EMU_ATOMIC(atomicOr, T, old | x) \
	EMU_ATOMIC(atomicXor, T, old ^ x) \
	static inline T atomicCAS(T *p, T was, T x) { T old = *p; if (old == was) *p = x; emu_maybe_yield(); return old; }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicSub, int, old - x)
EMU_ATOMIC(atomicSub, unsigned, old - x)
EMU_ATOMIC(atomicInc, unsigned, old >= x ? 0 : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > x ? x : old - 1)

/* ---- loads and stores with a hint ---- */
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldlu(const T *p) { return *p; }
template <class T> static inline T __ldcv(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T x) { *p = x; }
template <class T> static inline void __stcs(T *p, T x) { *p = x; }
template <class T> static inline void __stwb(T *p, T x) { *p = x; }
template <class T> static inline void __stwt(T *p, T x) { *p = x; }

/* ---- time and the end of it ---- */
long long clock64(void);
static inline void __nanosleep(unsigned) { emu_yield(); }
[[noreturn]] static inline void __trap(EMU_AT) { emu_fail(file, line, "__trap()"); }
#define __builtin_assume(x) ((void)0)
#define __assume(x) ((void)0)

/* ---- min and max: of two of a kind, and of int and unsigned ---- */
#define EMU_MINMAX(R, A, B) \
	static inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; } \
	static inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
EMU_MINMAX(int, int, int)
EMU_MINMAX(unsigned, unsigned, unsigned)
EMU_MINMAX(unsigned, int, unsigned)
EMU_MINMAX(unsigned, unsigned, int)
EMU_MINMAX(long, long, long)
EMU_MINMAX(unsigned long, unsigned long, unsigned long)
EMU_MINMAX(unsigned long, long, unsigned long)
EMU_MINMAX(unsigned long, unsigned long, long)
EMU_MINMAX(long long, long long, long long)
EMU_MINMAX(unsigned long long, unsigned long long, unsigned long long)
EMU_MINMAX(unsigned long long, long long, unsigned long long)
EMU_MINMAX(unsigned long long, unsigned long long, long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }

/* ---- bits ---- */
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x)
{
	unsigned y = 0;

	for (int i = 0; i < 32; i++)
		y |= (x >> i & 1) << (31 - i);
	return y;
}
static inline unsigned long long __brevll(unsigned long long x)
{
	return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
	uint64_t v = (uint64_t)y << 32 | x;
	unsigned r = 0;

	for (int i = 0; i < 4; i++)
		r |= (unsigned)(v >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
	return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s)
{
	return (unsigned)(((uint64_t)hi << 32 | lo) << (s & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s)
{
	return (unsigned)(((uint64_t)hi << 32 | lo) >> (s & 31));
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
	return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __dp4a(int a, int b, int c)
{
	for (int i = 0; i < 32; i += 8)
		c += (int)(int8_t)(a >> i) * (int8_t)(b >> i);
	return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
	for (int i = 0; i < 32; i += 8)
		c += (a >> i & 0xff) * (b >> i & 0xff);
	return c;
}
static inline int __sad(int a, int b, unsigned c) { return (int)(c + (unsigned)(a > b ? a - b : b - a)); }

/* ---- arithmetic ---- */
static inline float __uint_as_float(unsigned u) { return bits_f32(u); }
static inline unsigned __float_as_uint(float f) { return f32_bits(f); }
static inline float __int_as_float(int i) { return bits_f32((unsigned)i); }
static inline int __float_as_int(float f) { return (int)f32_bits(f); }
static inline double __longlong_as_double(long long i) { double d; memcpy(&d, &i, 8); return d; }
static inline long long __double_as_longlong(double d) { long long i; memcpy(&i, &d, 8); return i; }
/* To an integer: NaN gives 0, what is beyond the ends gives the end. */
template <class I> static inline I emu_to_int(double x, double lo, double hi)
{
	return x != x ? 0 : x <= lo ? (I)lo : x >= hi ? (I)hi : (I)x;
}
static inline int emu_i32(double x) { return emu_to_int<int>(x, -2147483648.0, 2147483647.0); }
static inline unsigned emu_u32(double x) { return emu_to_int<unsigned>(x, 0, 4294967295.0); }
static inline int __float2int_rn(float x) { return emu_i32(rint((double)x)); }
static inline int __float2int_rz(float x) { return emu_i32(trunc((double)x)); }
static inline int __float2int_rd(float x) { return emu_i32(floor((double)x)); }
static inline int __float2int_ru(float x) { return emu_i32(ceil((double)x)); }
static inline unsigned __float2uint_rn(float x) { return emu_u32(rint((double)x)); }
static inline unsigned __float2uint_rz(float x) { return emu_u32(trunc((double)x)); }
static inline unsigned __float2uint_rd(float x) { return emu_u32(floor((double)x)); }
static inline unsigned __float2uint_ru(float x) { return emu_u32(ceil((double)x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __frsqrt_rn(float x) { return (float)(1 / sqrt((double)x)); }
static inline float rsqrtf(float x) { return __frsqrt_rn(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float __fdividef(float a, float b) { return fabsf(b) > 0x1p126f && !isinf(b) ? 0 * a : a / b; }
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline float emu_fast_expf(float x) { return exp2_fast(x * 1.4426950408889634f); }
static inline float emu_fast_exp10f(float x) { return exp2_fast(x * 3.3219280948873622f); }
static inline float emu_fast_log2f(float x) { return log2f(x); }
static inline float emu_fast_logf(float x) { return log2f(x) * 0.6931471805599453f; }
static inline float emu_fast_log10f(float x) { return log2f(x) * 0.3010299956639812f; }
static inline float emu_fast_powf(float x, float y) { return exp2_fast(y * log2f(x)); }
static inline float emu_fast_sinf(float x) { return sinf(x); }
static inline float emu_fast_cosf(float x) { return cosf(x); }
static inline float emu_fast_tanf(float x) { return tanf(x); }
static inline float emu_fast_tanhf(float x) { return tanhf(x); }
static inline void emu_fast_sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
/* The C library has these names too, for itself. */
#define __expf emu_fast_expf
#define __exp10f emu_fast_exp10f
#define __log2f emu_fast_log2f
#define __logf emu_fast_logf
#define __log10f emu_fast_log10f
#define __powf emu_fast_powf
#define __sinf emu_fast_sinf
#define __cosf emu_fast_cosf
#define __tanf emu_fast_tanf
#define __tanhf emu_fast_tanhf
#define __sincosf emu_fast_sincosf
#define sinpif(x) ((float)sin(M_PI * (double)(x)))
#define cospif(x) ((float)cos(M_PI * (double)(x)))

#endif
