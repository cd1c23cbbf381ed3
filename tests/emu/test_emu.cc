/* SPDX-License-Identifier: MIT */
/* tests/emu/test_emu.cc - the emulator itself: matrices against their definitions, collectives, copies
 * that land late, and that it notices what it promises to notice. */
#include "check.h"
#include "ptx.cuh"

static uint64_t seed;

/* ---- numbers ---- */

static void numbers(void)
{
	int bad = 0;

	for (uint32_t h = 0; h < 0x10000; h++) { /* there and back, NaN aside */
		f16 x = { (uint16_t)h };
		bf16 y = { (uint16_t)h };

		bad += (h & 0x7fff) <= 0x7c00 && from_f32<f16>(to_f32(x)).bits != h;
		bad += (h & 0x7fff) <= 0x7f80 && from_f32<bf16>(to_f32(y)).bits != h;
	}
	CHECK_EQ(bad, 0, "bf16 and f16 to f32 and back");
	bad = 0;
	for (uint32_t h = 0; h < 0x7bff; h++) { /* half way between neighbours: to the even one; else to the nearer */
		float a = to_f32(f16{ (uint16_t)h }), b = to_f32(f16{ (uint16_t)(h + 1) }), mid = (a + b) / 2;

		bad += from_f32<f16>(mid).bits != h + (h & 1);
		bad += from_f32<f16>(nextafterf(mid, 0)).bits != h || from_f32<f16>(-nextafterf(mid, INFINITY)).bits != ((h + 1) | 0x8000);
	}
	for (uint32_t b = 0; b < 0x7e; b++) {
		float lo = to_f32(f16{ (uint16_t)e4m3x2_f16x2((uint16_t)b) }), hi = to_f32(f16{ (uint16_t)e4m3x2_f16x2((uint16_t)(b + 1)) });
		float mid = (lo + hi) / 2;

		bad += (pack4_e4m3(lo, mid, nextafterf(mid, 0), -nextafterf(mid, INFINITY)) !=
			(b | (b + (b & 1)) << 8 | b << 16 | ((b + 1) | 0x80) << 24));
	}
	CHECK_EQ(bad, 0, "f16 and e4m3 round to nearest, ties to even");
	CHECK(pack4_e4m3(449, -1e9f, INFINITY, 464) == 0x7e7efe7e, "e4m3 saturates");
	CHECK(from_f32<f16>(65519.f).bits == 0x7bff && from_f32<f16>(65520.f).bits == 0x7c00, "f16 overflows at 65520");
	CHECK(from_f32<bf16>(bits_f32(0x3f808000)).bits == 0x3f80 && from_f32<bf16>(bits_f32(0x3f818000)).bits == 0x3f82 &&
		from_f32<bf16>(3.4e38f).bits == 0x7f80, "bf16 ties and overflow");
	CHECK(exp2_fast(-INFINITY) == 0 && exp2_fast(3) == 8 && exp2_fast(-127) == 0, "exp2_fast");
	CHECK(fma2_bf16(pack2<bf16>(3, -2), pack2<bf16>(5, 7), pack2<bf16>(1, 2)) == pack2<bf16>(16, -12), "fma2_bf16");
}

/* ---- collectives ---- */

struct coll { int up[32], down[32], x[32], idx[32], seg[32]; float sum[32]; unsigned ballot[32], half[32], match[32], add[32]; };

static __global__ void k_coll(struct coll *c)
{
	int l = threadIdx.x, odd = l & 1;

	griddep_wait();
	c->up[l] = __shfl_up_sync(~0u, l, 3);
	c->down[l] = __shfl_down_sync(~0u, l, 5, 16);
	c->x[l] = __shfl_xor_sync(~0u, l, 9);
	c->idx[l] = (int)__shfl_sync(~0u, (unsigned long long)l << 40 | 7, 37) + (int)(__shfl_sync(~0u, (double)l, 4) * 100);
	c->seg[l] = __shfl_sync(~0u, l, 2, 8);
	c->sum[l] = warp_sum((float)l);
	c->ballot[l] = __ballot_sync(~0u, l % 3 == 0);
	if (odd) /* two halves, each by itself */
		c->half[l] = __ballot_sync(0xaaaaaaaau, l > 9);
	else
		c->half[l] = (unsigned)__any_sync(0x55555555u, l == 40) + 2 * (unsigned)__all_sync(0x55555555u, l < 31);
	__syncwarp();
	c->match[l] = __match_any_sync(~0u, l / 5);
	c->add[l] = __reduce_add_sync(~0u, (unsigned)l) + (unsigned)__reduce_min_sync(~0u, 5 - l);
}

static void collectives(void)
{
	struct coll *c = edges<struct coll>(1);
	int bad[10] = {};

	CHECK(launch(k_coll, 1, 32, 0, NULL, c) == cudaSuccess, "launch of collectives");
	for (int l = 0; l < 32; l++) {
		unsigned m = 0;

		for (int i = 0; i < 32; i++)
			m |= (unsigned)(i / 5 == l / 5) << i;
		bad[0] += c->up[l] != (l < 3 ? l : l - 3);
		bad[1] += c->down[l] != (l % 16 + 5 > 15 ? l : l + 5);
		bad[2] += c->x[l] != (l ^ 9);
		bad[3] += c->idx[l] != 7 + 400;
		bad[4] += c->seg[l] != (l & ~7) + 2;
		bad[5] += c->sum[l] != 496;
		bad[6] += c->ballot[l] != 0x49249249u;
		bad[7] += c->half[l] != (l & 1 ? 0xaaaaa800u : 2);
		bad[8] += c->match[l] != m;
		bad[9] += c->add[l] != 496u - 26;
	}
	for (int i = 0; i < 10; i++)
		CHECK_EQ(bad[i], 0, "collective %d", i);
	edges_free(c);
}

static __global__ void k_block_sum(float *out, int *votes, int n)
{
	__shared__ float part[32];
	int t = (int)threadIdx.x;
	float s;

	griddep_wait();
	s = warp_sum((float)(t + (int)blockIdx.x));
	if (t % 32 == 0)
		part[t / 32] = s;
	if (__syncthreads_or(t == n - 1))
		atomicAdd(votes, 1);
	s = 0;
	for (int i = 0; i < n / 32; i++)
		s += part[i];
	if (__syncthreads_count(t & 1) == n / 2 && __syncthreads_and(1))
		out[blockIdx.x * (unsigned)n + (unsigned)t] = s;
}

static void block_sums(int n)
{
	float *out = edges<float>(50 * n);
	int votes = 0, bad = 0;

	launch(k_block_sum, 50, n, 0, NULL, out, &votes, n);
	for (int b = 0; b < 50; b++)
		for (int t = 0; t < n; t++)
			bad += out[b * n + t] != (float)(n * (n - 1) / 2 + b * n);
	CHECK(bad == 0 && votes == 50 * n, "sums over a block of %d", n);
	edges_free(out);
}

/* ---- matrices ---- */

/* d[16][8] = sum of a[16][k] b[8][k] by ldmatrix and mma; and transposes in three ways. */
template <class T> static __global__ void k_mma(const T *a, const T *b, float *d, T *at, T *at2, int k)
{
	T *sa = (T *)dyn_smem(), *sb = sa + 16 * k; /* b: [k][8] */
	int l = (int)threadIdx.x, g = l / 4, j = l % 4;
	float s[4] = {};
	uint32_t ra[4], rb[2], rb2[2], r4[4];

	griddep_wait();
	for (int i = l; i < 16 * k; i += 32)
		sa[i] = a[i];
	for (int i = l; i < 8 * k; i += 32)
		sb[i % k * 8 + i / k] = b[i];
	__syncwarp();
	for (int at_k = 0; at_k < k; at_k += 16) {
		ldmatrix4(ra, sa + (l % 16) * k + at_k + l / 16 * 8);
		ldmatrix2_trans(rb, sb + (at_k + l % 16) * 8);
		ldmatrix2(rb2, sb + (at_k + l % 16) * 8);
		rb2[0] = movmatrix(rb2[0]), rb2[1] = movmatrix(rb2[1]);
		mma16816<T>(s, ra, at_k & 16 ? rb : rb2);
	}
	d[g * 8 + 2 * j] = s[0], d[g * 8 + 2 * j + 1] = s[1];
	d[(g + 8) * 8 + 2 * j] = s[2], d[(g + 8) * 8 + 2 * j + 1] = s[3];
	ldmatrix4_trans(r4, sa + (l % 16) * k + l / 16 * 8); /* the first 16 columns: at[16][16] */
	for (int i = 0; i < 4; i++) {
		T *p = at + (i / 2 * 8 + g) * 16 + i % 2 * 8 + 2 * j;

		p[0].bits = (uint16_t)r4[i], p[1].bits = (uint16_t)(r4[i] >> 16);
		p = at2 + (i / 2 * 8 + g) * 16 + i % 2 * 8 + 2 * j;
		p[0] = sa[(i % 2 * 8 + 2 * j) * k + i / 2 * 8 + g], p[1] = sa[(i % 2 * 8 + 2 * j + 1) * k + i / 2 * 8 + g];
	}
}

template <class T> static void matrices(const char *name, int k)
{
	struct rnd r = rnd_seed(seed);
	T *a = edges<T>(16 * k), *b = edges<T>(8 * k), *t1 = edges<T>(256), *t2 = edges<T>(256);
	float *d = edges<float>(128);
	double want[128];

	rnd_fill(&r, a, 16 * k, 1);
	rnd_fill(&r, b, 8 * k, 1);
	for (int i = 0; i < 128; i++) {
		want[i] = 0;
		for (int j = 0; j < k; j++)
			want[i] += (double)to_f32(a[i / 8 * k + j]) * (double)to_f32(b[i % 8 * k + j]);
	}
	launch(k_mma<T>, 1, 32, (size_t)(24 * k) * sizeof(T), NULL, (const T *)a, (const T *)b, d, t1, t2, k);
	CHECK_LE(norm_ratio(d, want, 128), 1e-6, "ldmatrix, movmatrix, mma of %s, k = %d", name, k);
	CHECK(!memcmp(t1, t2, 512), "ldmatrix4_trans of %s", name);
	edges_free(a), edges_free(b), edges_free(t1), edges_free(t2), edges_free(d);
}

/* ---- a ring of copies ---- */

#define STAGES 3
#define STAGE 512 /* floats */

/* 4 warps sum what a fifth one loads; mistake: 1 = a reader waits for the copy too late, 2 = the
 * loader does not wait for readers, 3 = nobody arrives. */
static __global__ void k_ring(const float *x, float *sums, int n, int mistake)
{
	float *ring = (float *)dyn_smem();
	__shared__ uint64_t full[STAGES], empty[STAGES];
	int t = (int)threadIdx.x, warp = t / 32;
	float s = 0;

	griddep_wait();
	if (t == 0) {
		for (int i = 0; i < STAGES; i++)
			mbar_init(&full[i], 1), mbar_init(&empty[i], 4);
		mbar_fence_init();
	}
	__syncthreads();
	if (warp == 4) {
		for (int i = 0; i < n && t % 32 == 0; i++) {
			int st = i % STAGES;

			if (i >= STAGES && mistake != 2)
				mbar_wait(&empty[st], (uint32_t)(i / STAGES - 1) & 1);
			mbar_expect(&full[st], STAGE * 4);
			bulk_load(ring + st * STAGE, x + i * STAGE, STAGE * 2, &full[st], l2_evict_first());
			bulk_load(ring + st * STAGE + STAGE / 2, x + i * STAGE + STAGE / 2, STAGE * 2, &full[st], l2_evict_first());
		}
		return;
	}
	for (int i = 0; i < n; i++) {
		int st = i % STAGES;

		if (mistake != 1)
			mbar_wait(&full[st], (uint32_t)(i / STAGES) & 1);
		for (int j = t; j < STAGE; j += 128)
			s += ring[st * STAGE + j];
		if (mistake == 1)
			mbar_wait(&full[st], (uint32_t)(i / STAGES) & 1);
		__syncwarp();
		if (t % 32 == 0 && mistake != 3)
			mbar_arrive(&empty[st]);
	}
	sums[t] = s;
}

/* The same by cp.async: each thread its own pieces. wait: the barrier after it. */
static __global__ void k_cp_async(const float *x, float *sums, int n, bool wait)
{
	float *ring = (float *)dyn_smem(), s = 0;
	int t = (int)threadIdx.x;

	griddep_wait();
	for (int i = 0; i < n + 1; i++) {
		if (i < n)
			cp_async16(ring + i % 2 * STAGE + t * 4, x + i * STAGE + t * 4, t != 5);
		cp_async_commit();
		cp_async_wait<1>();
		if (wait)
			__syncthreads();
		if (i > 0) /* a neighbour's */
			for (int j = 0; j < 4; j++)
				s += ring[(i - 1) % 2 * STAGE + (t * 4 + 77 * 4) % STAGE + j];
		if (wait)
			__syncthreads();
	}
	sums[t] = s;
}

/* Each of 32 threads brings 16 bytes and its arrival; one waits for all. */
static __global__ void k_arrive(const float *x, float *sum)
{
	__shared__ uint64_t bar;
	__shared__ __align__(16) float buf[128];
	float s = 0;

	griddep_wait();
	if (threadIdx.x == 0)
		mbar_init(&bar, 32);
	__syncthreads();
	cp_async16(buf + threadIdx.x * 4, x + threadIdx.x * 4, true);
	cp_async_arrive(&bar);
	if (threadIdx.x < 32) /* no __syncthreads: the barrier is enough */
		mbar_wait(&bar, 0);
	for (int i = 0; i < 128; i++)
		s += buf[i];
	sum[threadIdx.x] = s;
}

static float *ring_x, *ring_sums;
static int ring_n = 11;

static cudaError_t ring(int mistake)
{
	return launch(k_ring, 2, 160, STAGES * STAGE * 4, NULL, (const float *)ring_x, ring_sums, ring_n, mistake);
}
static void ring_dies(void *p) { ring(*(int *)p); }

static void rings(void)
{
	struct rnd r = rnd_seed(seed);
	double want[128];
	int two = 2, three = 3, bad = 0;
	float total = 0;

	ring_x = edges<float>(ring_n * STAGE), ring_sums = edges<float>(128);
	rnd_fill(&r, ring_x, ring_n * STAGE, 1);
	for (int t = 0; t < 128; t++) {
		want[t] = 0;
		for (int j = t; j < ring_n * STAGE; j += 128)
			want[t] += (double)ring_x[j];
	}
	ring(0);
	CHECK_LE(norm_ratio(ring_sums, want, 128), 1e-6, "a ring of bulk copies");
	memset(ring_sums, 0, 512);
	ring(1);
	CHECK(norm_ratio(ring_sums, want, 128) != norm_ratio(ring_sums, want, 128), "who reads before the wait sees NaN");
	CHECK(check_dies(ring_dies, &two, "the phase's 1 arrivals are all there"), "a loader that does not wait for readers");
	CHECK(check_dies(ring_dies, &three, "wait in mbar_wait"), "a ring that nobody empties is a deadlock");
	for (int t = 0; t < 128; t++) {
		want[t] = 0;
		for (int i = 0; i < ring_n; i++)
			for (int j = 0; j < 4; j++)
				want[t] += (t + 77) % 128 == 5 ? 0 : (double)ring_x[i * STAGE + (t * 4 + 77 * 4) % STAGE + j];
	}
	launch(k_cp_async, 1, 128, 2 * STAGE * 4, NULL, (const float *)ring_x, ring_sums, ring_n, true);
	CHECK_LE(norm_ratio(ring_sums, want, 128), 1e-6, "cp_async16 in two stages");
	launch(k_cp_async, 1, 128, 2 * STAGE * 4, NULL, (const float *)ring_x, ring_sums, ring_n, false);
	CHECK(norm_ratio(ring_sums, want, 128) != norm_ratio(ring_sums, want, 128), "cp_async16 without the barrier shows");
	launch(k_arrive, 3, 32, 0, NULL, (const float *)ring_x, ring_sums);
	for (int i = 0; i < 128; i++)
		total += ring_x[i];
	for (int i = 0; i < 32; i++)
		bad += ring_sums[i] != total;
	CHECK_EQ(bad, 0, "cp_async_arrive");
	edges_free(ring_x), edges_free(ring_sums);
}

/* ---- mistakes that must be noticed ---- */

static __global__ void k_race(int *out, bool fixed)
{
	__shared__ int box[256];
	int t = (int)threadIdx.x;

	griddep_wait();
	box[t] = t;
	if (fixed)
		__syncthreads();
	out[t] = box[(t + 33) % 256];
}

static void races(void)
{
	int out[256], wrong[2] = {};

	for (int fixed = 0; fixed < 2; fixed++)
		for (int i = 0; i < 20; i++) {
			emu_seed(seed + (uint64_t)i);
			launch(k_race, 1, 256, 0, NULL, out, fixed == 1);
			for (int t = 0; t < 256; t++)
				wrong[fixed] += out[t] != (t + 33) % 256;
		}
	CHECK(wrong[0] > 100 && wrong[1] == 0, "a missing barrier shows (%d wrong), a kept one does not", wrong[0]);
}

enum mistake { DIVERGED_SHFL, DIVERGED_SYNC, ENDED_LANE, ENDED_SYNC, OTHER_MASK, TRAP, PAST_SMEM, PAST_SMEM_FAR, MISALIGNED_BULK,
	LEFT_BULK, LEFT_CP, LOST_MBAR, NO_GRIDDEP, WILD, NO_INIT, LD_OUTSIDE, N_MISTAKES };
static const char *const said[N_MISTAKES] = { "divergence: ", "barrier divergence",
	"divergence: ", "and its lanes 0000001f have ended", "divergence: ", "__trap()", "wrote at byte 2000 of dynamic shared memory of 2000",
	"past the end of dynamic shared memory", "must be multiples of 16", "copies to a memory barrier were under way", "of its cp_async16 are under way", "8 bytes were overwritten",
	"never called griddep_wait", "bad memory access", "mbar_init() did not see", "not in shared memory" };

static __global__ void k_mistake(int what, float *x)
{
	__shared__ uint64_t bar;
	char *s = dyn_smem();
	int l = (int)threadIdx.x;
	uint32_t r[4];
	uintptr_t wild = 16 + (what == TRAP);

	if (what != NO_GRIDDEP)
		griddep_wait();
	if (what == DIVERGED_SHFL)
		x[l] = l < 16 ? __shfl_xor_sync(~0u, 1.f, 1) : (float)__ballot_sync(~0u, 1);
	if (what == DIVERGED_SYNC) {
		if (l < 32)
			__syncthreads();
		else
			__syncthreads();
	}
	if ((what == ENDED_LANE || what == ENDED_SYNC) && l < 5)
		return;
	if (what == ENDED_LANE)
		x[l] = warp_sum(1);
	if (what == ENDED_SYNC)
		__syncthreads();
	if (what == OTHER_MASK)
		__syncwarp(l % 32 < 8 ? 0xffffffffu : 0xffffff01u);
	if (what == TRAP && l == 17)
		__trap();
	if (what == PAST_SMEM && l == 1)
		*(volatile char *)(s + 2000) = 1;
	if (what == PAST_SMEM_FAR && l == 1)
		*(volatile char *)(s + 2048) = 1;
	if (what == WILD && l == 1)
		*(volatile char *)wild = 1;
	if (what == NO_INIT && l == 1)
		mbar_arrive(&bar);
	if (what == LEFT_CP && l == 1)
		cp_async16(s, x, true);
	if (what == LD_OUTSIDE)
		ldmatrix4(r, x);
	if ((what == MISALIGNED_BULK || what == LEFT_BULK || what == LOST_MBAR) && l == 0) {
		mbar_init(&bar, 1);
		if (what == LOST_MBAR)
			*(volatile uint64_t *)&bar = 0;
		mbar_expect(&bar, 64);
		bulk_load(s, what == MISALIGNED_BULK ? x + 1 : x, 64, &bar, 0);
	}
}

static float mistakes_x[64] __attribute__((aligned(16)));
static void mistake(void *p) { launch(k_mistake, 1, 64, 2000, NULL, *(int *)p, mistakes_x); }

static void mistakes(void)
{
#if defined(__SANITIZE_ADDRESS__)
	const bool asan = true; /* which sees some of these itself, in its own words */
#else
	const bool asan = false;
#endif
	for (int i = 0; i < N_MISTAKES; i++)
		CHECK(check_dies(mistake, &i, asan && (i == PAST_SMEM || i == PAST_SMEM_FAR || i == WILD) ? "AddressSanitizer" : said[i]),
			"mistake %d is noticed: %s", i, said[i]);
}

static __global__ void k_nothing(void) { griddep_wait(); }

static void limits(void)
{
	long n = emu_launches;

	CHECK(launch(k_nothing, 1, 32, 48 * 1024, NULL) == cudaSuccess, "48 KiB of shared memory");
	CHECK(launch(k_nothing, 1, 32, 48 * 1024 + 16, NULL) == cudaErrorInvalidValue, "more wants allow_smem()");
	CHECK(allow_smem(k_nothing, 228 * 1024) == cudaErrorInvalidValue, "228 KiB are too many");
	CHECK(allow_smem(k_nothing, 227 * 1024) == cudaSuccess && launch(k_nothing, 1, 32, 227 * 1024, NULL) == cudaSuccess, "227 KiB");
	CHECK(launch(k_nothing, 1, 1056, 0, NULL) == cudaErrorInvalidConfiguration && launch(k_nothing, 0, 32, 0, NULL) != cudaSuccess &&
		launch(k_nothing, dim3(1, 65536), 32, 0, NULL) != cudaSuccess, "blocks and grids that cannot be");
	CHECK_EQ(emu_launches - n, 2, "launches counted");
}

static __global__ void k_order(unsigned *seen, unsigned *n)
{
	griddep_wait();
	if (threadIdx.x == 0 && threadIdx.y == 1 && threadIdx.z == 2)
		seen[blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z)] = atomicAdd(n, 1u);
}

static void orders(void)
{
	unsigned seen[60], n, sum = 0, moved = 0;

	n = 0;
	launch(k_order, dim3(3, 4, 5), dim3(2, 2, 3), 0, NULL, seen, &n);
	for (unsigned i = 0; i < 60; i++)
		sum += seen[i], moved += seen[i] != i;
	CHECK(n == 60 && sum == 59 * 30 && moved > 30, "each block once, in random order");
	emu_set_order(EMU_DOWN);
	n = 0;
	launch(k_order, dim3(3, 4, 5), dim3(2, 2, 3), 0, NULL, seen, &n);
	CHECK(seen[0] == 59 && seen[59] == 0, "blocks from the last");
	emu_set_order(EMU_RANDOM);
}

static __global__ void k_named(int *out)
{
	__shared__ int box[128];
	int t = (int)threadIdx.x, pair = t / 64;

	griddep_wait();
	for (int i = 0; i < 5 * (pair + 1); i++) { /* pairs of warps at their own pace */
		box[t] = i;
		bar_sync(1 + pair, 64);
		out[t] = box[t ^ 32] == i;
		bar_sync(1 + pair, 64);
	}
}

int main(void)
{
	int out[128], good = 0;

	numbers();
	for (seed = 1; seed <= 5; seed++) {
		emu_seed(seed);
		collectives();
		block_sums(32);
		block_sums(1024);
		matrices<bf16>("bf16", 64);
		matrices<f16>("f16", 128);
		rings();
		launch(k_named, 1, 128, 0, NULL, out);
		good = 0;
		for (int i = 0; i < 128; i++)
			good += out[i];
		CHECK_EQ(good, 128, "named barriers");
	}
	races();
	mistakes();
	limits();
	orders();
	return check_done();
}
