/* SPDX-License-Identifier: MIT */
/* What kernels need of the machine beyond CUDA C, one function an instruction; and how they are
 * launched. tests/emu has the same names in plain C++, so that kernels run on a CPU.
 *
 * Every kernel of ours begins with griddep_wait(), before it reads or writes anything that another
 * kernel touches: it may be launched while the one before it still runs (programmatic
 * dependent launch), and what that one waited for counts as waited for only then. */
#ifndef NVLLM_CUDA_PTX_CUH
#define NVLLM_CUDA_PTX_CUH

#include "num.cuh"

#ifndef NVLLM_EMU

#define SM90 (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)

/* Dynamic shared memory, 1024-byte aligned where a kernel asks for it at its start. */
DEV char *dyn_smem(void)
{
	extern __shared__ __align__(1024) char smem_[];
	return smem_;
}

DEV uint32_t smem_addr(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* ---- programmatic dependent launch ---- */
DEV void griddep_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may start; it still waits for all of this one in its griddep_wait(). */
DEV void griddep_launch(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* ---- memory barriers that count bytes (sm_90) ---- */
DEV void mbar_init(uint64_t *b, uint32_t n)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(smem_addr(b)), "r"(n));
}
/* After mbar_init by one thread, before __syncthreads. */
DEV void mbar_fence_init(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
DEV void mbar_arrive(uint64_t *b)
{
	asm volatile("{\n.reg .b64 t;\nmbarrier.arrive.shared::cta.b64 t, [%0];\n}" :: "r"(smem_addr(b)) : "memory");
}
/* Arrives and says how many bytes of bulk copies this phase waits for. */
DEV void mbar_expect(uint64_t *b, uint32_t bytes)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(smem_addr(b)), "r"(bytes) : "memory");
#endif
}
DEV bool mbar_try(uint64_t *b, uint32_t parity)
{
	uint32_t ok = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
		: "=r"(ok) : "r"(smem_addr(b)), "r"(parity) : "memory");
#endif
	return ok;
}
/* Waits for the phase of this parity to end. A kernel that waits for seconds is wrong: it stops with an
 * error rather than to hold the device. */
DEV void mbar_wait(uint64_t *b, uint32_t parity)
{
	if (mbar_try(b, parity))
		return;
	for (long long t0 = clock64(); !mbar_try(b, parity);)
		if (clock64() - t0 > 8000000000ll)
			__trap();
}

/* ---- bulk copies from global to shared memory (sm_90): 16-byte aligned, multiples of 16 ---- */
DEV uint64_t l2_evict_first(void)
{
	uint64_t p = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
#endif
	return p;
}
DEV void bulk_load(void *smem, const void *global, uint32_t bytes, uint64_t *bar, uint64_t policy)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
		:: "r"(smem_addr(smem)), "l"(global), "r"(bytes), "r"(smem_addr(bar)), "l"(policy) : "memory");
#endif
}

/* ---- 16-byte asynchronous copies (sm_80) ---- */
/* ok false: 16 bytes of zeros instead, global is not read. */
DEV void cp_async16(void *smem, const void *global, bool ok)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(smem_addr(smem)), "l"(global), "r"(ok ? 16 : 0) : "memory");
}
DEV void cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All but the newest n groups of this thread have landed; other threads still need a barrier. */
template <int n> DEV void cp_async_wait(void) { asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory"); }

/* ---- matrices ---- */
/* Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and gets of
 * each matrix elements (l / 4, 2 * (l % 4)) and the next; trans: of each matrix' transpose. */
DEV void ldmatrix4(uint32_t r[4], const void *smem)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		: "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_addr(smem)) : "memory");
}
DEV void ldmatrix4_trans(uint32_t r[4], const void *smem)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		: "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_addr(smem)) : "memory");
}
DEV void ldmatrix2(uint32_t r[2], const void *smem) /* addresses of lanes 0 to 15 */
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_addr(smem)) : "memory");
}
DEV void ldmatrix2_trans(uint32_t r[2], const void *smem)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(smem_addr(smem)) : "memory");
}
/* The transpose of an 8x8 matrix of 16-bit elements, spread over the warp as above. */
DEV uint32_t movmatrix(uint32_t x)
{
	uint32_t y;
	asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
	return y;
}
/* d[16][8] += a[16][16] b[16][8], f32 sums. With g = lane / 4, j = lane % 4, pairs along k:
 * a: (g, 2j) (g+8, 2j) (g, 2j+8) (g+8, 2j+8); b, column g: k = 2j, 2j+8; d: (g, 2j) (g, 2j+1) (g+8, 2j) (g+8, 2j+1). */
template <class T> DEV void mma16816(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <> SPEC void mma16816<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> SPEC void mma16816<f16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 16 bytes that are read once. */
DEV uint4 load16_stream(const void *p)
{
	uint4 v;
	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
	return v;
}
/* Release and acquire at the scope of the device, for counters between blocks. */
DEV uint32_t atomic_add_acq_rel(uint32_t *p, uint32_t x)
{
	uint32_t old;
	asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(x) : "memory");
	return old;
}

/* Host side: launches with the dependency above. Nothing is thrown; the status is cudaError_t's. */
template <class... P, class... A>
static inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, void *stream, A... args)
{
	cudaLaunchAttribute attr[1];
	cudaLaunchConfig_t c = {};

	attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attr[0].val.programmaticStreamSerializationAllowed = 1;
	c.gridDim = grid, c.blockDim = block, c.dynamicSmemBytes = smem, c.stream = (cudaStream_t)stream;
	c.attrs = attr, c.numAttrs = 1;
	return cudaLaunchKernelEx(&c, kernel, (P)args...);
}
/* Once for each kernel that wants more than 48 KiB of dynamic shared memory. */
template <class K> static inline cudaError_t allow_smem(K kernel, size_t bytes)
{
	return bytes <= 48 * 1024 ? cudaSuccess :
		cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* 1 / x, within 1 ulp; exact 0 for infinity. */
DEV float rcp_fast(float x)
{
	float y;
	asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}
/* The policy of bulk copies of what other blocks will read too. */
DEV uint64_t l2_evict_normal(void)
{
	uint64_t p = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(p));
#endif
	return p;
}

/* A barrier among n_threads of the block (whole warps), 1 <= id < 16; it orders their memory accesses. */
DEV void bar_sync(int id, int n_threads)
{
	asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(n_threads) : "memory");
}
/* What this thread knows to be written by ordinary stores, its bulk copies from here on will read. */
DEV void fence_proxy_async(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("fence.proxy.async;" ::: "memory");
#endif
}
/* As mbar_try, on sm_80 too, where it does not sleep. */
DEV bool mbar_test(uint64_t *b, uint32_t parity)
{
	uint32_t ok = 0;
	asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
		: "=r"(ok) : "r"(smem_addr(b)), "r"(parity) : "memory");
	return ok;
}
/* This thread arrives at the barrier when all its cp_async16 so far have landed. */
DEV void cp_async_arrive(uint64_t *b)
{
	asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(smem_addr(b)) : "memory");
}

/* Two bf16 in a register each: a * b + c, rounded once. */
DEV uint32_t fma2_bf16(uint32_t a, uint32_t b, uint32_t c)
{
	uint32_t y;
	asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
	return y;
}

/* The line of p will be read soon, by whom does not matter. */
DEV void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }

#endif /* NVLLM_EMU */

/* ---- sums over a warp, in one fixed order ---- */
DEV float warp_sum(float x)
{
	for (int o = 16; o; o >>= 1)
		x += __shfl_xor_sync(0xffffffffu, x, o);
	return x;
}
DEV float warp_max(float x)
{
	for (int o = 16; o; o >>= 1)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
	return x;
}

#endif
