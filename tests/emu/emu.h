/* SPDX-License-Identifier: MIT */
/* tests/emu/emu.h - CUDA C for a plain C++ compiler: the kernels of backends/cuda run on a CPU,
 * each thread of a block a fiber. num.cuh includes this under NVLLM_EMU; see README.
 *
 * What a real machine leaves undefined is made visible here: threads and blocks run in a seeded
 * random order, shared memory and the targets of asynchronous copies hold NaN until something
 * lands, a collective that not all its lanes reach ends the program with a sentence. */
#ifndef NVLLM_CUDA_NUM_CUH
#include "num.cuh" /* which includes this file where it belongs */
#endif
#ifndef NVLLM_EMU_H
#define NVLLM_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900 /* -D__CUDA_ARCH__=800 tests the fallbacks */
#endif
#define SM90 (__CUDA_ARCH__ >= 900)

/* ---- words ---- */
#define __global__
#define __device__
#define __host__
#define __constant__
/* One block runs at a time. The thread-local segment of the program is where its static shared
 * arrays lie, and nothing else: so they can be found, and poisoned before each block. */
#define __shared__ static __thread
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

/* ---- vectors ---- */
#define EMU_VECTORS(name, type, a2, a4) \
	struct name##1 { type x; }; \
	struct alignas(a2) name##2 { type x, y; }; \
	struct name##3 { type x, y, z; }; \
	struct alignas(a4) name##4 { type x, y, z, w; }; \
	static inline name##2 make_##name##2(type x, type y) { return { x, y }; } \
	static inline name##3 make_##name##3(type x, type y, type z) { return { x, y, z }; } \
	static inline name##4 make_##name##4(type x, type y, type z, type w) { return { x, y, z, w }; }
EMU_VECTORS(char, signed char, 2, 4)
EMU_VECTORS(uchar, unsigned char, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(ushort, unsigned short, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(uint, unsigned, 8, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(longlong, long long, 16, 16)
EMU_VECTORS(ulonglong, unsigned long long, 16, 16)
EMU_VECTORS(double, double, 16, 16)

struct dim3 {
	unsigned x, y, z;
	constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern uint3 threadIdx, blockIdx; /* of the fiber that runs */
extern dim3 blockDim, gridDim;
#define warpSize 32

/* ---- the host's side of CUDA ---- */
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
typedef struct CUstream_st *cudaStream_t;
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t);
const char *cudaGetErrorName(cudaError_t);
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
	cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind, cudaStream_t = 0);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind);
cudaError_t cudaMemset(void *dst, int byte, size_t bytes);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t = 0);

/* ---- how the emulator is steered ---- */
void emu_seed(uint64_t);
enum emu_order { EMU_RANDOM, EMU_UP, EMU_DOWN };
void emu_set_order(int order);
/* Whether a thread that ends without griddep_wait() fails the test: yes, unless said otherwise. */
void emu_need_griddep(bool);
extern long emu_launches; /* so far */

/* ---- the emulator's inside ---- */
#define EMU_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()
[[noreturn]] __attribute__((format(printf, 3, 4)))
void emu_fail(const char *file, int line, const char *fmt, ...);
cudaError_t emu_run(const void *kernel, dim3 grid, dim3 block, size_t smem, void (*call)(void *), void *args);
cudaError_t emu_allow_smem(const void *kernel, size_t bytes);
void emu_yield(void); /* another thread may run now */
void emu_maybe_yield(void);
enum emu_op { EMU_SHFL, EMU_SYNCWARP, EMU_BALLOT, EMU_MATCH_ANY, EMU_MATCH_ALL, EMU_ADD_U, EMU_MIN_U, EMU_MAX_U,
	EMU_MIN_I, EMU_MAX_I, EMU_AND, EMU_OR, EMU_XOR, EMU_LDMATRIX4, EMU_LDMATRIX4_T, EMU_LDMATRIX2,
	EMU_LDMATRIX2_T, EMU_MOVMATRIX, EMU_MMA_BF16, EMU_MMA_F16 };
/* All lanes of mask meet; each gets its result. shfl: x of lane src. */
uint64_t emu_meet(int op, uint32_t mask, uint64_t x, int src, const char *file, int line);
void emu_meet_mma(int op, float *d, const uint32_t *a, const uint32_t *b, const char *file, int line);
void emu_meet_ld(int op, uint32_t *r, const void *row, const char *file, int line);
int emu_lane(void);
unsigned emu_activemask(void);
enum { EMU_BAR_PLAIN, EMU_BAR_OR, EMU_BAR_AND, EMU_BAR_COUNT };
int emu_barrier(int id, int n_threads, int kind, int pred, bool wait, const char *file, int line);

/* ---- numbers ---- */
static inline float bits_f32(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t f32_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

float emu_f16_f32(uint16_t);
uint16_t emu_f32_f16(float);
float emu_e4m3_f32(uint8_t);
uint8_t emu_f32_e4m3(float); /* beyond 448: 448 */
static inline uint16_t emu_f32_bf16(float x)
{
	uint32_t u = f32_bits(x);

	if (x != x)
		return 0x7fff;
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float to_f32(float x) { return x; }
static inline float to_f32(bf16 x) { return bits_f32((uint32_t)x.bits << 16); }
static inline float to_f32(f16 x) { return emu_f16_f32(x.bits); }
template <class T> static inline T from_f32(float x);
template <> inline float from_f32<float>(float x) { return x; }
template <> inline bf16 from_f32<bf16>(float x) { return { emu_f32_bf16(x) }; }
template <> inline f16 from_f32<f16>(float x) { return { emu_f32_f16(x) }; }
template <class T> static inline uint32_t pack2(float lo, float hi);
template <> inline uint32_t pack2<bf16>(float lo, float hi) { return emu_f32_bf16(lo) | (uint32_t)emu_f32_bf16(hi) << 16; }
template <> inline uint32_t pack2<f16>(float lo, float hi) { return emu_f32_f16(lo) | (uint32_t)emu_f32_f16(hi) << 16; }
static inline uint32_t pack4_e4m3(float a, float b, float c, float d)
{
	return emu_f32_e4m3(a) | (uint32_t)emu_f32_e4m3(b) << 8 | (uint32_t)emu_f32_e4m3(c) << 16 |
		(uint32_t)emu_f32_e4m3(d) << 24;
}
static inline uint32_t e4m3x2_f16x2(uint16_t x) { return pack2<f16>(emu_e4m3_f32(x & 0xff), emu_e4m3_f32(x >> 8)); }
static inline float exp2_fast(float x)
{
	float y = exp2f(x);
	return fabsf(y) < 0x1p-126f ? 0 : y; /* denormals are flushed */
}

/* ---- ptx.cuh's functions ---- */
char *dyn_smem(void);
uint32_t smem_addr(const void *);
void griddep_wait(void);
static inline void griddep_launch(void) {}

void mbar_init(uint64_t *, uint32_t n, EMU_AT);
static inline void mbar_fence_init(void) {}
void mbar_arrive(uint64_t *, EMU_AT);
void mbar_expect(uint64_t *, uint32_t bytes, EMU_AT);
bool mbar_try(uint64_t *, uint32_t parity, EMU_AT);
void mbar_wait(uint64_t *, uint32_t parity, EMU_AT);

static inline uint64_t l2_evict_first(void) { return 0x12f0000000000000ull; }
void bulk_load(void *smem, const void *global, uint32_t bytes, uint64_t *bar, uint64_t policy, EMU_AT);
void cp_async16(void *smem, const void *global, bool ok, EMU_AT);
void cp_async_commit(void);
void emu_cp_async_wait(int n);
template <int n> static inline void cp_async_wait(void) { emu_cp_async_wait(n); }

static inline void ldmatrix4(uint32_t r[4], const void *smem, EMU_AT) { emu_meet_ld(EMU_LDMATRIX4, r, smem, file, line); }
static inline void ldmatrix4_trans(uint32_t r[4], const void *smem, EMU_AT) { emu_meet_ld(EMU_LDMATRIX4_T, r, smem, file, line); }
static inline void ldmatrix2(uint32_t r[2], const void *smem, EMU_AT) { emu_meet_ld(EMU_LDMATRIX2, r, smem, file, line); }
static inline void ldmatrix2_trans(uint32_t r[2], const void *smem, EMU_AT) { emu_meet_ld(EMU_LDMATRIX2_T, r, smem, file, line); }
static inline uint32_t movmatrix(uint32_t x, EMU_AT) { return (uint32_t)emu_meet(EMU_MOVMATRIX, 0xffffffff, x, 0, file, line); }
template <class T> static inline void mma16816(float d[4], const uint32_t a[4], const uint32_t b[2], EMU_AT)
{
	static_assert(std::is_same<T, bf16>::value || std::is_same<T, f16>::value, "mma16816 of bf16 or f16");
	emu_meet_mma(std::is_same<T, bf16>::value ? EMU_MMA_BF16 : EMU_MMA_F16, d, a, b, file, line);
}
static inline void bar_sync(int id, int n_threads, EMU_AT) { emu_barrier(id, n_threads, EMU_BAR_PLAIN, 0, true, file, line); }
static inline void fence_proxy_async(void) {}
static inline void prefetch_l2(const void *) {}
static inline bool mbar_test(uint64_t *b, uint32_t parity, EMU_AT) { return mbar_try(b, parity, file, line); }
/* Its copies are the barrier's from then on: cp_async_wait() does not wait for them. */
void cp_async_arrive(uint64_t *bar, EMU_AT);
static inline float rcp_fast(float x) { return fabsf(x) < 0x1p-126f ? copysignf(INFINITY, x) : 1 / x; }
static inline uint64_t l2_evict_normal(void) { return 0x16f0000000000000ull; }
static inline uint32_t fma2_bf16(uint32_t a, uint32_t b, uint32_t c)
{
	float lo = fmaf(bits_f32(a << 16), bits_f32(b << 16), bits_f32(c << 16));
	float hi = fmaf(bits_f32(a & 0xffff0000), bits_f32(b & 0xffff0000), bits_f32(c & 0xffff0000));

	return pack2<bf16>(lo, hi);
}
uint4 load16_stream(const void *, EMU_AT);
static inline uint32_t atomic_add_acq_rel(uint32_t *p, uint32_t x)
{
	uint32_t old = *p;

	*p += x;
	emu_maybe_yield();
	return old;
}

/* The grid has run when this returns. */
template <class... P, class... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, void *stream, A... args)
{
	struct call {
		void (*kernel)(P...);
		std::tuple<std::decay_t<P>...> args;
		static void one(void *p)
		{
			struct call *c = (struct call *)p;
			std::apply(c->kernel, c->args);
		}
	} c = { kernel, std::tuple<std::decay_t<P>...>((P)args...) };

	(void)stream;
	return emu_run((const void *)kernel, grid, block, smem, call::one, &c);
}
template <class K> static inline cudaError_t allow_smem(K kernel, size_t bytes)
{
	return emu_allow_smem((const void *)kernel, bytes);
}

#include "cuda_c.h"

#endif
