/* SPDX-License-Identifier: MIT */
/* skinny.cu - products of few rows, which are bound by reading the weights: how they are read.
 *
 * Each warp streams weights through a ring of its own in shared memory by asynchronous 16-byte copies, 80 KB
 * under way on each SM. The ring fills before the kernel waits for the one before it, since weights
 * depend on nothing; so do the norm's. A unit is 8 rows of w (16 of e4m3); `split` warps share one, each with every split-th
 * chunk of its columns, and their sums are added in the order of the warps.
 *
 * Sums by the matrix units, as bf16 by bf16 in f32: x is the left matrix (m rows, the others zero), 8 rows of
 * w the right one. The order of the columns within a sum is free as long as both sides agree, so a lane
 * multiplies what 16 bytes of w give it, in place. x is rounded to bf16, as the separate kernels
 * round it. Quants are whole numbers of at most 8 bits, exact in bf16: they are multiplied as they are, and
 * their scale multiplies the sum of the 16 or 32 products. So are e4m3, whose scale multiplies a
 * warp's sum; there w is the left matrix, as its struct says. */
#include "cuda.h"
#include "quant.cuh"
#include "skinny.cuh"

#define WARPS 16
#define THREADS (32 * WARPS)
#define RING 81920          /* most bytes of the rings of a block: two blocks to an SM, of two kernels, overlap */
#define RING_TALL 98304     /* where a unit is 16 rows */
#define STAGES 5            /* most stages of a ring */
#define ONES 0x3f803f80u    /* two of 1.0 */
#define SCALES 512          /* bytes of scales of a chunk, a warp */

/* ---- formats: rows = those of w in a unit, chunk = elements of each in a stage; issue starts the copies, consume
 * multiplies ---- */

/* Where a warp is: a unit's rows from row0 on, chunk number `chunk` of their columns. */
struct spot {
	int row0, chunk;
};

/* 16 bytes of dynamic shared memory; zeros where the row at x is none of x (x negative). */
DEV uint4 x16(int x, int at)
{
	return x >= 0 ? *(const uint4 *)(dyn_smem() + x + at) : make_uint4(0, 0, 0, 0);
}

/* d += 16 columns. a: rows g and g + 8 of x. */
DEV void mul16(float d[4], uint32_t a0, uint32_t a1, uint32_t b0, uint32_t b1, uint32_t a0_8, uint32_t a1_8)
{
	const uint32_t a[4] = { a0, a0_8, a1, a1_8 }, b[2] = { b0, b1 };

	mma16816<bf16>(d, a, b);
}

struct rows_bf16 {
	static constexpr int form = X_PLAIN, rows = 8, chunk = 64, stage = 8 * 128;
	static constexpr bool scales = false, row_scale = false;

	/* 128 bytes of each row; those of odd rows with their halves exchanged, against bank conflicts */
	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		const int lane = threadIdx.x % 32;

		const int r = lane / 8, c = lane % 8, k = s.chunk * chunk + c * 8;
		const char *w = a.w + (s.row0 + r) * a.w_stride + k * 2;

		stage += r * 128 + (c ^ (r & 1) * 4) * 16;
		cp_async16(stage, w, s.row0 + r < n_rows && k < a.k);
		cp_async16(stage + 512, w + 4 * a.w_stride, s.row0 + r + 4 < n_rows && k < a.k);
	}
	DEV void consume(const skinny_args &a, const char *stage, float *, struct spot, int x0, int x8, float acc[4])
	{
		const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;

#pragma unroll
		for (int h = 0; h < 2; h++) {
			const uint4 w = *(const uint4 *)(stage + g * 128 + ((4 * h + j) ^ (g & 1) * 4) * 16);
			const uint4 x = x16(x0, h * 64 + j * 16), z = x16(x8, h * 64 + j * 16);

			mul16(acc, x.x, x.y, w.x, w.y, z.x, z.y);
			mul16(acc, x.z, x.w, w.z, w.w, z.z, z.w);
		}
	}
};

/* The 16-byte pieces that hold columns of a chunk of row r of 8: Q::bytes * blocks of them from wherever they
 * begin. The last pieces of all may reach beyond w: those go by halves. */
template <class Q> struct segment {
	static constexpr int blocks = 256 / Q::block, bytes = blocks * Q::bytes;
	static constexpr int pieces = (14 + bytes + 15) / 16, pitch = (pieces | 1) * 16; /* odd: no bank conflicts */

	DEV const char *start(const skinny_args &a, struct spot s, int r)
	{
		return a.w + (int64_t)(s.row0 + r) * a.w_stride + (int64_t)s.chunk * bytes;
	}
	/* Where the first block of row r lies in the stage. */
	DEV const uint8_t *in(const skinny_args &a, const char *stage, struct spot s, int r)
	{
		return (const uint8_t *)stage + r * pitch + ((uintptr_t)start(a, s, r) & 15);
	}
	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		const int left = (a.k - s.chunk * 256) / Q::block;

		for (int p = threadIdx.x % 32; p < 8 * pieces; p += 32) {
			const int r = p / pieces, c = p % pieces;
			const char *from = start(a, s, r), *end = from + min(left, blocks) * Q::bytes;

			from = (const char *)((uintptr_t)from & ~(uintptr_t)15) + c * 16;
			if (s.row0 + r >= n_rows || from >= end)
				continue;
			if (from + 16 <= a.w_end)
				cp_async16(stage + r * pitch + c * 16, from, true);
			else
				for (int i = 0; i < 16 && from + i < end; i += 2)
					*(uint16_t *)(stage + r * pitch + c * 16 + i) = *(const uint16_t *)(from + i);
		}
	}
};

/* Nibbles of a register as bf16 pairs: bytes 0 and 2, then bytes 1 and 3; 128 + q has q in its lowest bits. */
DEV void pairs_of(uint32_t out[2], uint32_t q, uint32_t mask, uint32_t bias)
{
	out[0] = fma2_bf16((q & mask) | 0x43004300u, ONES, bias);
	out[1] = fma2_bf16((q >> 8 & mask) | 0x43004300u, ONES, bias);
}
#define MINUS_128 0xc300c300u
#define MINUS_136 0xc308c308u
#define MINUS_160 0xc320c320u

/* Signed bytes: 128 + the lowest seven bits, less 256 where the sign is set and 128 elsewhere. */
DEV void pairs_of_signed(uint32_t out[2], uint32_t q)
{
	out[0] = fma2_bf16((q & 0x007f007fu) | 0x43004300u, ONES, MINUS_128 | (q & 0x00800080u));
	q >>= 8;
	out[1] = fma2_bf16((q & 0x007f007fu) | 0x43004300u, ONES, MINUS_128 | (q & 0x00800080u));
}

/* 32 columns: x (16 bytes a lane) times the pairs of two registers. */
DEV void mul32(float d[4], const uint4 &x, const uint4 &z, const uint32_t lo[2], const uint32_t hi[2])
{
	mul16(d, x.x, x.y, lo[0], lo[1], z.x, z.y);
	mul16(d, x.z, x.w, hi[0], hi[1], z.z, z.w);
}

/* acc += scale * d, of the two rows of w whose results this lane has. */
DEV void add_scaled(float acc[4], const float d[4], float s0, float s1)
{
	acc[0] = fmaf(s0, d[0], acc[0]);
	acc[1] = fmaf(s1, d[1], acc[1]);
	acc[2] = fmaf(s0, d[2], acc[2]);
	acc[3] = fmaf(s1, d[3], acc[3]);
}

/* Blocks of 32: Q4_0, Q4_1, Q8_0. */
template <class Q> struct rows_32 {
	static constexpr bool has_min = Q::dtype == NVLLM_Q4_1, is8 = Q::dtype == NVLLM_Q8_0;
	static constexpr int form = is8 ? X_EIGHTS : X_HALVES, rows = 8, chunk = 256, stage = 8 * segment<Q>::pitch;
	static constexpr bool scales = true, row_scale = false;

	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		segment<Q>::issue(a, stage, s, n_rows);
	}
	/* Scales (and minima) of block b, row r at [b][r] */
	DEV void scales_of(const skinny_args &a, const char *stage, float *t, struct spot s, int n)
	{
		for (int e = threadIdx.x % 32; e < 8 * n; e += 32) {
			const uint8_t *b = segment<Q>::in(a, stage, s, e % 8) + e / 8 * Q::bytes;

			if (has_min)
				((float2 *)t)[e] = make_float2(ld_half(b), ld_half(b + 2));
			else
				t[e] = ld_half(b);
		}
		__syncwarp();
	}
	DEV void consume(const skinny_args &a, const char *stage, float *t, struct spot s, int x0, int x8,
		float acc[4])
	{
		const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4, n = min(8, (a.k - s.chunk * 256) / 32);
		const uint8_t *q = segment<Q>::in(a, stage, s, g) + (Q::bytes - (is8 ? 32 : 16)) + j * (is8 ? 8 : 4);

		scales_of(a, stage, t, s, n);
#pragma unroll (has_min ? 1 : 2)
		for (int b = 0; b < n; b++, q += Q::bytes) {
			const uint4 x = x16(x0, b * 64 + j * 16), z = x16(x8, b * 64 + j * 16);
			const uint32_t v = ld32(q);
			uint32_t lo[2], hi[2];
			float d[4] = { 0.f, 0.f, 0.f, 0.f };

			if (is8) {
				pairs_of_signed(lo, v);
				pairs_of_signed(hi, ld32(q + 4));
			} else {
				pairs_of(lo, v, 0x000f000f, has_min ? MINUS_128 : MINUS_136);
				pairs_of(hi, v >> 4, 0x000f000f, has_min ? MINUS_128 : MINUS_136);
			}
			mul32(d, x, z, lo, hi);
			if (has_min) {
				const float4 f = *(const float4 *)(t + (b * 8 + 2 * j) * 2);
				const uint32_t ones[2] = { ONES, ONES };
				float sums[4] = { 0.f, 0.f, 0.f, 0.f };

				mul32(sums, x, z, ones, ones);
				add_scaled(acc, d, f.x, f.z);
				add_scaled(acc, sums, f.y, f.w);
			} else {
				const float2 f = *(const float2 *)(t + b * 8 + 2 * j);

				add_scaled(acc, d, f.x, f.y);
			}
		}
	}
};

struct rows_q4_k {
	static constexpr int form = X_EIGHTS, rows = 8, chunk = 256, stage = 8 * segment<q4_k>::pitch;
	static constexpr bool scales = true, row_scale = false;

	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		segment<q4_k>::issue(a, stage, s, n_rows);
	}
	/* Scales and negated minima of 32 elements b, row r at [b][r] */
	DEV void scales_of(const skinny_args &a, const char *stage, float2 *t, struct spot s)
	{
#pragma unroll
		for (int e = threadIdx.x % 32; e < 64; e += 32) {
			const uint8_t *b = segment<q4_k>::in(a, stage, s, e % 8);
			int scale, minimum;

			scale_q4_k(b + 4, e / 8, &scale, &minimum);
			t[e] = make_float2(ld_half(b) * (float)scale, -(ld_half(b + 2) * (float)minimum));
		}
		__syncwarp();
	}
	DEV void consume(const skinny_args &a, const char *stage, float *t, struct spot s, int x0, int x8,
		float acc[4])
	{
		const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
		const uint8_t *q = segment<q4_k>::in(a, stage, s, g) + 16 + j * 8;
		const uint32_t ones[2] = { ONES, ONES };

		scales_of(a, stage, (float2 *)t, s);
#pragma unroll 2
		for (int b = 0; b < 4; b++, q += 32) { /* 64 elements */
			const uint32_t v0 = ld32(q), v1 = ld32(q + 4);

#pragma unroll
			for (int h = 0; h < 2; h++) {
				const uint4 x = x16(x0, (2 * b + h) * 64 + j * 16), z = x16(x8, (2 * b + h) * 64 + j * 16);
				const float4 f = *(const float4 *)(t + ((2 * b + h) * 8 + 2 * j) * 2);
				float d[4] = { 0.f, 0.f, 0.f, 0.f }, sums[4] = { 0.f, 0.f, 0.f, 0.f };
				uint32_t lo[2], hi[2];

				pairs_of(lo, v0 >> 4 * h, 0x000f000f, MINUS_128);
				pairs_of(hi, v1 >> 4 * h, 0x000f000f, MINUS_128);
				mul32(d, x, z, lo, hi);
				mul32(sums, x, z, ones, ones);
				add_scaled(acc, d, f.x, f.z);
				add_scaled(acc, sums, f.y, f.w);
			}
		}
	}
};

struct rows_q6_k {
	static constexpr int form = X_HALVES, rows = 8, chunk = 256, stage = 8 * segment<q6_k>::pitch;
	static constexpr bool scales = true, row_scale = false;

	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		segment<q6_k>::issue(a, stage, s, n_rows);
	}
	/* Scales of 16 elements k, row r at [k][r] */
	DEV void scales_of(const skinny_args &a, const char *stage, float *t, struct spot s)
	{
#pragma unroll
		for (int e = threadIdx.x % 32; e < 128; e += 32) {
			const uint8_t *b = segment<q6_k>::in(a, stage, s, e % 8);

			t[e] = ld_half(b + 208) * (float)(int8_t)b[192 + e / 8];
		}
		__syncwarp();
	}
	DEV void consume(const skinny_args &a, const char *stage, float *t, struct spot s, int x0, int x8,
		float acc[4])
	{
		const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
		const uint8_t *q = segment<q6_k>::in(a, stage, s, g) + j * 4;

		scales_of(a, stage, t, s);
#pragma unroll
		for (int h = 0; h < 2; h++) { /* 128 elements: 64 bytes of nibbles, 32 of the two bits above */
			const uint32_t high[2] = { ld32(q + 128 + h * 32), ld32(q + 144 + h * 32) };

#pragma unroll
			for (int i = 0; i < 2; i++) { /* nibbles that are elements 32 i to 32 i + 31, and 64 later */
				const uint32_t low[2] = { ld32(q + h * 64 + i * 32), ld32(q + h * 64 + i * 32 + 16) };

#pragma unroll
				for (int top = 0; top < 2; top++) {
					const int b = h * 4 + top * 2 + i, shift = (top * 2 + i) * 2;
					const uint4 x = x16(x0, b * 64 + j * 16), z = x16(x8, b * 64 + j * 16);

#pragma unroll
					for (int half = 0; half < 2; half++) {
						const uint32_t v = (low[half] >> top * 4 & 0x0f0f0f0f) | (high[half] >> shift & 0x03030303) << 4;
						const float2 f = *(const float2 *)(t + (2 * b + half) * 8 + 2 * j);
						float d[4] = { 0.f, 0.f, 0.f, 0.f };
						uint32_t w[2];

						pairs_of(w, v, 0x003f003f, MINUS_160);
						if (half == 0)
							mul16(d, x.x, x.y, w[0], w[1], z.x, z.y);
						else
							mul16(d, x.z, x.w, w[0], w[1], z.z, z.w);
						add_scaled(acc, d, f.x, f.y);
					}
				}
			}
		}
	}
};

/* Rows of LAYOUT_FP8, 128 bytes of each, as rows_bf16 has them. What becomes of a byte is most of the work, so all
 * the rest of it is made less: 16 rows of w are the left matrix and 8 of x the right one, which is half the products, and
 * half of x to read; and a step takes two kilobytes. */
struct rows_e4m3 {
	static constexpr int form = X_EIGHTS, rows = 16, chunk = 128, stage = 16 * 128;
	static constexpr bool scales = false, row_scale = true;

	DEV void issue(const skinny_args &a, char *stage, struct spot s, int n_rows)
	{
		const int r = threadIdx.x % 32 / 8, c = threadIdx.x % 8, k = s.chunk * chunk + c * 16;
		const char *w = a.w + (s.row0 + r) * a.w_stride + FP8_HEAD + k;

		stage += r * 128 + (c ^ (r & 1) * 4) * 16;
#pragma unroll
		for (int i = 0; i < 16; i += 4, w += 4 * a.w_stride)
			cp_async16(stage + i * 128, w, s.row0 + r + i < n_rows && k < a.k);
	}
	/* 4 columns of a lane: of rows g and g + 8 of w, and of 8 rows of x */
	DEV void mul4(float d[4], const uint32_t lo[2], const uint32_t hi[2], uint32_t x0, uint32_t x1)
	{
		const uint32_t w[4] = { lo[0], hi[0], lo[1], hi[1] }, x[2] = { x0, x1 };

		mma16816<bf16>(d, w, x);
	}
	/* acc: by rows of w, of 8 rows of x and then perhaps of 8 more. x0, x8: those of this lane; where there is none,
	 * any will do: nobody wants the sums. */
	template <int n>
	DEV void consume(const skinny_args &, const char *stage, float *, struct spot, int x0, int x8, float (&acc)[n])
	{
		const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;

#pragma unroll (n > 4 ? 2 : 1)
		for (int h = 0; h < 2; h++) {
			const char *const at = stage + g * 128 + ((4 * h + j) ^ (g & 1) * 4) * 16;
			const uint4 u = *(const uint4 *)at, v = *(const uint4 *)(at + 1024);
			const uint32_t w[4][2] = { { u.x, v.x }, { u.y, v.y }, { u.z, v.z }, { u.w, v.w } };

#pragma unroll
			for (int i = 0; i < 4; i += 2) {
				const int to = (4 * h + j) * 32 + i * 8;
				const uint4 x = *(const uint4 *)(dyn_smem() + x0 + to);
				uint32_t lo[2][2], hi[2][2];

#pragma unroll
				for (int k = 0; k < 2; k++)
					pairs_of_e4m3(lo[k], w[i + k][0]), pairs_of_e4m3(hi[k], w[i + k][1]);
				mul4(acc, lo[0], hi[0], x.x, x.y), mul4(acc, lo[1], hi[1], x.z, x.w);
				if (n > 4) {
					const uint4 z = *(const uint4 *)(dyn_smem() + x8 + to);

					mul4(acc + 4 % n, lo[0], hi[0], z.x, z.y), mul4(acc + 4 % n, lo[1], hi[1], z.z, z.w);
				}
			}
		}
	}
};

/* ---- the kernel ---- */

/* The order in which a warp goes through its chunks: turn (round), panel, unit, gate or up, step. Every warp makes the
 * same number of steps; some are empty. */
struct walk {
	int turn, panel, unit, part, step;
};

/* A warp's team, and its number in it. */
struct member {
	int team, rank;
};

DEV void next_step(const skinny_args &a, struct walk *p, int steps)
{
	if (++p->step < steps)
		return;
	p->step = 0;
	if (a.act >= 0 && ++p->part < 2)
		return;
	p->part = 0;
	if (++p->unit < a.units)
		return;
	p->unit = 0;
	if (++p->panel < a.panels)
		return;
	p->panel = 0;
	p->turn++;
}

/* The first column of y of a team's unit. */
template <class F> DEV int unit_at(const skinny_args &a, int round, int unit, int team)
{
	return (((round * a.units + unit) * (int)gridDim.x + (int)blockIdx.x) * a.teams + team) * F::rows;
}

/* Where a warp is at a step; false: nothing is there. n_rows: one past the last row to read. */
template <class F> DEV bool spot_at(const skinny_args &a, const struct walk *p, struct member me, struct spot *s, int *n_rows)
{
	const int chunk = p->step * a.split + me.rank, at = unit_at<F>(a, p->turn, p->unit, me.team);

	s->row0 = p->part * a.n + at;
	s->chunk = p->panel * (a.panel / F::chunk) + chunk;
	*n_rows = (p->part + 1) * a.n;
	return p->turn < a.rounds && at < a.n && chunk * F::chunk < a.panel && s->chunk * F::chunk < a.k && me.team < a.teams;
}

/* The oldest of a.stages groups has landed. */
DEV void wait_stage(const skinny_args &a)
{
	switch (a.stages) {
	case 5: cp_async_wait<4>(); break;
	case 4: cp_async_wait<3>(); break;
	case 3: cp_async_wait<2>(); break;
	default: cp_async_wait<1>();
	}
}

template <class F> DEV void start_step(const skinny_args &a, char *stage, const struct walk *p, struct member me)
{
	struct spot s;
	int n_rows;

	if (spot_at<F>(a, p, me, &s, &n_rows))
		F::issue(a, stage, s, n_rows);
	cp_async_commit();
}

/* x, of which the compiler knows nothing: else it keeps in registers, all through a loop, what it can work out of x
 * before it. */
DEV int fresh(int x)
{
	asm volatile("" : "+r"(x));
	return x;
}

/* The scale of a row of the unit, number lane % 16: asked for early, as it takes a while. */
template <class F> DEV float row_scale(const skinny_args &a, const struct walk *p, struct member me)
{
	const int r = fresh(threadIdx.x) % F::rows, at = unit_at<F>(a, p->turn, p->unit, me.team) + r;

	return at < a.n ? fp8_row::scale_of(a.w + ((int64_t)p->part * a.n + at) * a.w_stride) : 0.f;
}

/* Partial sums of a warp: [unit][warp][gate, up][row of x][row of w]. */
template <class F> DEV float *part_of(const skinny_args &a, int unit, int warp, int part)
{
	return (float *)(dyn_smem() + a.part_at) + ((unit * WARPS + warp) * (a.act >= 0 ? 2 : 1) + part) * a.m * F::rows;
}

DEV void add_part(float *p, float v, bool first) { *p = first ? v : v + *p; }

/* acc: what the matrix units make of x (left) and 8 rows of w. */
DEV void put_part(const skinny_args &a, float *to, const float acc[4], bool first)
{
	const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		float2 *p = (float2 *)(to + (g + 8 * h) * 8 + 2 * j), v = make_float2(acc[2 * h], acc[2 * h + 1]);

		if (g + 8 * h >= a.m)
			continue;
		if (!first)
			v.x += p->x, v.y += p->y;
		*p = v;
	}
}

/* acc: of 16 rows of w (left) and 8 rows of x, and perhaps of those and 8 more of x. */
template <int n> DEV void put_tall_part(const skinny_args &a, float *to, const float (&acc)[n], bool first)
{
	const int lane = fresh(threadIdx.x) % 32, g = lane / 4, j = lane % 4;

#pragma unroll
	for (int i = 0; i < n; i++) {
		const int row = i / 4 * 8 + 2 * j + i % 2;

		if (row < a.m)
			add_part(to + row * 16 + g + i % 4 / 2 * 8, acc[i], first);
	}
}

/* acc as above; a lane's scale is that of row lane % 16. */
template <int n> DEV void times_scales(float (&acc)[n], float scale)
{
	const int g = fresh(threadIdx.x) % 32 / 4;
	const float s[2] = { __shfl_sync(0xffffffffu, scale, g), __shfl_sync(0xffffffffu, scale, g + 8) };

#pragma unroll
	for (int i = 0; i < n; i++)
		acc[i] *= s[i % 4 / 2];
}

/* The output that thread i of a round stands for; false: none. */
template <class F> DEV bool output_at(const skinny_args &a, int round, int i, int *unit, int *team, int *row, int *col)
{
	const int tile = i / (F::rows * a.m);

	*unit = tile / a.teams, *team = tile % a.teams;
	*row = i / F::rows % a.m;
	*col = unit_at<F>(a, round, *unit, *team) + i % F::rows;
	return *unit < a.units && *col < a.n;
}

/* Outputs i, i + step and so on up to end. old: what y holds at the first of a block. */
template <class F> DEV void reduce(const skinny_args &a, int turn, int i, int end, int step, float old)
{
	int unit, team, row, col;

#pragma unroll 1
	for (; i < end; i += step) {
		float s[2] = { 0.f, 0.f };

		if (!output_at<F>(a, turn, i, &unit, &team, &row, &col))
			continue;
#pragma unroll
		for (int g = 0; g < 2; g++)
			if (g == 0 || a.act >= 0)
				for (int k = 0; k < a.split; k++)
					s[g] += part_of<F>(a, unit, team * a.split + k, g)[row * F::rows + i % F::rows];
		put_y(a, row, col, s[0], s[1], !a.add ? 0.f : i == (int)threadIdx.x && step == THREADS ? old : get_y(a, row, col));
	}
}

/* wide: more than 8 rows of x. Where one warp has the whole of a sum, no other waits for it. */
template <class F, bool wide> __global__ void __launch_bounds__(THREADS, wide ? 1 : 2) skinny_kernel(const __grid_constant__ skinny_args a)
{
	__shared__ float red[WARPS], norms[2 * WARPS];
	const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
	const int steps = (a.panel / F::chunk + a.split - 1) / a.split;
	const bool direct = a.split == 1 && a.panels == 1;
	const struct member me = { warp / a.split, warp % a.split };
	constexpr bool tall = F::rows == 16;
	const int x0 = (int)(a.x_at + g * a.pitch) + me.rank * F::chunk * 2;
	char *const ring = dyn_smem() + warp * a.stages * F::stage;
	float *const scales = (float *)(dyn_smem() + a.scales_at + warp * SCALES);
	struct walk at = {}, ahead = {};
	int slot = 0;

#pragma unroll 1
	for (int i = 0; i < a.stages; i++, next_step(a, &at, steps))
		start_step<F>(a, ring + i * F::stage, &at, me);
	first_panel<F::form>(a, dyn_smem() + a.x_at, red, norms);
	__syncthreads();
#pragma unroll 1
	for (int i = 0; i < a.stages; i++) /* again, rather than to hold it in registers */
		next_step(a, &ahead, steps);
#pragma unroll 1
	for (at.turn = 0; at.turn < a.rounds; at.turn++) {
		int unit, team, row, col;
		float old = 0.f;

		if (a.add && !direct && output_at<F>(a, at.turn, threadIdx.x, &unit, &team, &row, &col))
			old = get_y(a, row, col); /* early: it takes a while */
#pragma unroll 1
		for (at.panel = 0; at.panel < a.panels; at.panel++) {
			if (at.panel > 0 || (a.panels > 1 && at.turn > 0)) {
				__syncthreads(); /* the panel before may be in use */
				panel_of_x<F::form>(a, dyn_smem() + a.x_at, at.panel * a.panel, norms);
				__syncthreads();
			}
#pragma unroll 1
			for (at.unit = 0; at.unit < a.units; at.unit++) {
#pragma unroll 1
				for (at.part = 0; at.part < (a.act >= 0 ? 2 : 1); at.part++) {
					const float scale = F::row_scale ? row_scale<F>(a, &at, me) : 1.f;
					float acc[tall && wide ? 8 : 4] = {};

#pragma unroll 1
					for (at.step = 0; at.step < steps; at.step++) {
						const int x = x0 + at.step * a.split * F::chunk * 2;
						struct spot s;
						int n_rows;

						wait_stage(a);
						__syncwarp();
						if (spot_at<F>(a, &at, me, &s, &n_rows))
							F::consume(a, ring + slot * F::stage, scales, s, g < a.m ? x : tall ? x - g * (int)a.pitch : -1,
								wide && g + 8 < a.m ? x + 8 * (int)a.pitch : tall ? x : -1, acc);
						__syncwarp(); /* all lanes have read the stage */
						start_step<F>(a, ring + slot * F::stage, &ahead, me);
						next_step(a, &ahead, steps);
						slot = slot + 1 == a.stages ? 0 : slot + 1;
					}
					if (F::row_scale)
						times_scales(acc, scale);
					if (!direct && at.turn > 0 && at.panel == 0 && at.unit == 0 && at.part == 0)
						__syncthreads(); /* the turn before is reduced */
					if constexpr (tall)
						put_tall_part(a, part_of<F>(a, at.unit, warp, at.part), acc, at.panel == 0);
					else
						put_part(a, part_of<F>(a, at.unit, warp, at.part), acc, at.panel == 0);
				}
			}
		}
		if (direct)
			__syncwarp();
		else
			__syncthreads();
		reduce<F>(a, at.turn, direct ? warp * F::rows * a.m + lane : (int)threadIdx.x, direct ? (warp + 1) * F::rows * a.m :
			a.units * a.teams * a.m * F::rows, direct ? 32 : THREADS, old);
		__syncwarp();
	}
}

/* ---- the plan ---- */

/* How many warps share a unit: the least steps of the busiest warp, where a reduction counts as a half one and
 * a grid that leaves more than half of the SMs idle counts for what it leaves. */
static int choose_split(int64_t units, int64_t chunks, int parts, int n_sms)
{
	double least = 0;
	int best = 1;

	for (int split = 1; split <= WARPS; split *= 2) {
		const int64_t blocks = div_up(units, WARPS / split);
		const double rounds = (double)div_up(blocks, n_sms);
		const double steps = rounds * ((double)(div_up(chunks, split) * parts) + (split > 1 ? 0.5 : 0));
		const double cost = 2 * blocks < n_sms ? steps * n_sms / (2. * (double)blocks) : steps;

		if (split == 1 || cost < least)
			least = cost, best = split;
	}
	return best;
}

/* What x may take of shared memory, beside the rings and the sums of one unit a warp. */
static int64_t room_for_x(const struct nvllm_device *dev, const struct skinny_args *a, int64_t stage, int64_t scales, int64_t sums)
{
	return smem_max(dev) - 1024 - WARPS * stage * a->stages - scales - 64 * a->m - sums; /* 1024: static, aligned as the rest */
}

/* With all of x in shared memory, do two blocks share a processor, so that the next kernel's ring fills in time? */
static bool two_fit(const struct nvllm_device *dev, const struct skinny_args *a, int64_t stage, int64_t scales, int64_t sums,
	int64_t x)
{
	return 2 * (smem_max(dev) - room_for_x(dev, a, stage, scales, sums) + x + 1024) <= smem_max(dev) + 1024; /* 1024: the system's */
}

/* Fits x beside the rings, which may get shorter; by panels if need be: then a block takes several units with each,
 * as long as their sums have room. Returns the bytes of all; 0: too little memory. */
template <class F> static int64_t plan(const struct nvllm_device *dev, struct skinny_args *a, int64_t *grid)
{
	const int64_t units = div_up(a->n, F::rows), chunks = div_up(a->k, F::chunk), scales = F::scales ? WARPS * SCALES : 0;
	const int64_t sums = (int64_t)WARPS * (a->act >= 0 ? 2 : 1) * a->m * F::rows * 4, whole = chunks * F::chunk * 2 * a->m;
	const int ring = F::rows == 16 ? RING_TALL : RING;
	int64_t blocks, left, each;
	int most;

	a->split = choose_split(units, chunks, a->act >= 0 ? 2 : 1, dev->n_sms);
	a->teams = WARPS / a->split;
	blocks = div_up(units, a->teams);
	*grid = blocks < dev->n_sms ? blocks : dev->n_sms;
	a->units = a->panels = 1, a->panel = (int)(chunks * F::chunk);
	a->stages = most = ring / (WARPS * F::stage) < STAGES ? ring / (WARPS * F::stage) : STAGES;
	while (a->stages > 2 && room_for_x(dev, a, F::stage, scales, sums) < whole)
		a->stages--;
	if (F::rows == 16 && a->m <= 8 && a->stages == 3 && !two_fit(dev, a, F::stage, scales, sums, whole)) {
		a->stages = 2; /* is enough while a kernel runs; the third is for its start */
		if (!two_fit(dev, a, F::stage, scales, sums, whole))
			a->stages = 3;
	}
	if (room_for_x(dev, a, F::stage, scales, sums) < whole) {
		const int64_t wanted = div_up(blocks, *grid);

		a->stages = most; /* no ring is short enough: long ones, then */
		while (a->stages > 2 && room_for_x(dev, a, F::stage, scales, sums) < 2 * a->m * F::chunk * a->split)
			a->stages--;
		left = room_for_x(dev, a, F::stage, scales, sums);
		while (a->units < wanted && a->units < 4 && a->units * sums * 4 < left)
			a->units++;
		left = (left - (a->units - 1) * sums) / (2 * a->m);
		each = F::chunk * a->split <= left ? F::chunk * a->split : F::chunk;
		left = left / each * each;
		if (left <= 0)
			return 0;
		a->panel = (int)(div_up(div_up(a->k, div_up(a->k, left)), each) * each);
		a->panels = (int)div_up(a->k, a->panel);
	}
	a->rounds = (int)div_up(blocks, *grid * a->units);
	a->per = WARPS;
	while (a->per > 1 && WARPS / a->per < a->m)
		a->per /= 2;
	a->pitch = (unsigned)a->panel * 2 + (F::rows == 16 ? 16 : 64); /* against bank conflicts */
	a->scales_at = (unsigned)(WARPS * F::stage * a->stages);
	a->x_at = a->scales_at + (unsigned)scales;
	a->part_at = a->x_at + (unsigned)a->m * a->pitch;
	return a->part_at + a->units * sums;
}

template <class F> static cudaError_t run(struct nvllm_device *dev, nvllm_stream stream, struct skinny_args *a, int32_t dtype)
{
	auto kernel = a->m > 8 ? skinny_kernel<F, true> : skinny_kernel<F, false>;
	int64_t grid, smem = plan<F>(dev, a, &grid);

	if (smem == 0) /* a small machine, and many rows of a format of long blocks */
		return skinny_plain(stream, a, dtype, dev->n_sms, smem_max(dev) - 1024);
	return launch(kernel, dim3((unsigned)grid), dim3(THREADS), (size_t)smem, stream, *a);
}

/* ---- what others call ---- */

template <class F> static cudaError_t open_one(int64_t smem)
{
	cudaError_t err = allow_smem(skinny_kernel<F, false>, (size_t)smem);

	return err == cudaSuccess ? allow_smem(skinny_kernel<F, true>, (size_t)smem) : err;
}

extern "C" int skinny_open(struct nvllm_device *dev)
{
	const int64_t smem = smem_max(dev) - 1024;
	cudaError_t err;

	if ((err = open_one<rows_bf16>(smem)) == cudaSuccess && (err = open_one<rows_32<q4_0>>(smem)) == cudaSuccess &&
			(err = open_one<rows_32<q4_1>>(smem)) == cudaSuccess && (err = open_one<rows_32<q8_0>>(smem)) == cudaSuccess &&
			(err = open_one<rows_q4_k>(smem)) == cudaSuccess && (err = open_one<rows_q6_k>(smem)) == cudaSuccess &&
			(err = open_one<rows_e4m3>(smem)) == cudaSuccess)
		err = skinny_plain_open(smem);
	err = err == cudaSuccess ? fp8_tiles_open(smem) : err;
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "shared memory of the kernels for few rows");
}

extern "C" int skinny_has(const struct nvllm_device *dev, const struct nvllm_tensor *w)
{
	const int64_t bytes = stored_bytes(w);

	return (w->dtype == NVLLM_F32 || w->dtype == NVLLM_BF16 || is_coded(w->dtype)) && bytes >= 0 &&
		w->cols < 1 << 24 && w->rows < 1 << 28 && w->stride >= bytes && w->stride % (w->dtype == NVLLM_F32 ? 4 : 2) == 0 &&
		(w->dtype != NVLLM_F8_E4M3 || ((uintptr_t)w->data % 16 == 0 && w->stride % 16 == 0));
}

/* May the weights be copied by 16 bytes? Blocks are, from wherever they begin; rows of e4m3 begin right. */
static bool by_sixteen(const struct nvllm_tensor *w)
{
	if ((uintptr_t)w->data % 16)
		return false;
	return w->dtype == NVLLM_BF16 ? w->stride % 16 == 0 && w->cols % 8 == 0 : w->dtype != NVLLM_F32;
}

static int refuse(struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_norm *norm, const struct nvllm_tensor *w, const struct nvllm_tensor *bias, int glu)
{
	const struct nvllm_host *host = dev->host;

	if (!skinny_has(dev, w))
		return host->fail(host, NVLLM_ENOTSUP, "a product of few rows: no kernel for weights of type number %d, layout %d, "
			"%lld columns, stride %lld", w->dtype, w->layout, (long long)w->cols, (long long)w->stride);
	if (!is_act(x) || !is_act(y))
		return no_type(dev, "a product of few rows: x or y", is_act(x) ? y : x);
	if (x->rows > SKINNY_ROWS || y->rows != x->rows || x->cols != w->cols || w->rows % (glu >= 0 ? 2 : 1) ||
			y->cols != w->rows / (glu >= 0 ? 2 : 1) || glu > NVLLM_RELU)
		return no_fit(dev, "a product of few rows", x, w);
	if (bias && (bias->dtype != NVLLM_F32 || bias->cols != w->rows))
		return no_fit(dev, "a product of few rows: its bias", bias, w);
	if (norm && (norm->w.dtype != NVLLM_F32 || norm->w.cols != x->cols || (norm->b.data && (norm->b.dtype != NVLLM_F32 ||
			norm->b.cols != x->cols)) || (norm->kind != NVLLM_RMS_NORM && norm->kind != NVLLM_LAYER_NORM)))
		return no_fit(dev, "a product of few rows: its norm", &norm->w, x);
	return NVLLM_OK;
}

static struct skinny_args args_of(const struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_norm *norm, const struct nvllm_tensor *w, const struct nvllm_tensor *bias, uint32_t flags, int glu)
{
	struct skinny_args a = {};

	a.x = view_of(*x), a.y = view_of(*y);
	a.w = (const char *)w->data, a.w_stride = w->stride;
	a.w_end = w->rows ? a.w + (w->rows - 1) * w->stride + stored_bytes(w) : a.w;
	a.bias = bias ? (const float *)bias->data : NULL;
	if (norm) {
		a.norm_w = (const float *)norm->w.data, a.norm_b = (const float *)norm->b.data;
		a.eps = (float)norm->eps, a.offset = (float)norm->offset;
		a.layer = norm->kind == NVLLM_LAYER_NORM;
		a.norm_vec = fours(&norm->w);
	}
	a.act = glu;
	a.m = (int)x->rows, a.n = (int)y->cols, a.k = (int)x->cols;
	a.x_bf16 = x->dtype == NVLLM_BF16, a.x_vec = fours(x), a.y_bf16 = y->dtype == NVLLM_BF16;
	a.add = (flags & NVLLM_LINEAR_ADD) != 0;
	/* what a product of bf16 sees of x: the plain kernels must see the same */
	a.round_x = w->dtype != NVLLM_F32 && dev->act == NVLLM_BF16;
	return a;
}

extern "C" int skinny(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *norm, struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags, int glu)
{
	int status = refuse(dev, &y, &x, norm, &w, bias, glu);
	struct skinny_args a;
	cudaError_t err;

	if (status)
		return status;
	if (is_empty(&y))
		return NVLLM_OK;
	a = args_of(dev, &y, &x, norm, &w, bias, flags, glu);
	if (dev->act != NVLLM_BF16 || !by_sixteen(&w) || a.k == 0)
		err = skinny_plain(stream, &a, w.dtype, dev->n_sms, smem_max(dev) - 1024);
	else if (w.dtype == NVLLM_BF16)
		err = run<rows_bf16>(dev, stream, &a, w.dtype);
	else if (w.dtype == NVLLM_Q4_0)
		err = run<rows_32<q4_0>>(dev, stream, &a, w.dtype);
	else if (w.dtype == NVLLM_Q4_1)
		err = run<rows_32<q4_1>>(dev, stream, &a, w.dtype);
	else if (w.dtype == NVLLM_Q8_0)
		err = run<rows_32<q8_0>>(dev, stream, &a, w.dtype);
	else if (w.dtype == NVLLM_Q4_K)
		err = run<rows_q4_k>(dev, stream, &a, w.dtype);
	else if (w.dtype == NVLLM_F8_E4M3)
		err = run<rows_e4m3>(dev, stream, &a, w.dtype);
	else
		err = run<rows_q6_k>(dev, stream, &a, w.dtype);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "a product of few rows");
}
