/* SPDX-License-Identifier: MIT */
/* Attention of sequences with one row: K and V of the whole cache stream through once, at the rate of the
 * memory, and all else happens in their shadow.
 *
 * A CTA takes its share of the step's pages (attn_plan.cu), whatever sequences they belong to. One warp
 * fills a ring of stages, a page of one group of KV heads each, by bulk copies (before sm_90: cp.async);
 * it runs on across sequences. Eight warps (four for large heads) compute, each a KV head of the group;
 * where the group has fewer heads, warps share a head and take pages in turn; where more than 8 query heads
 * go with a KV head, two warps do it, 8 query heads each (a tile). With Q the query heads of a tile
 * (columns beyond the group are zero) and K, V a page:
 *   S^T [16 tokens][8] = K Q^T,  P = 2^(S - m),  O^T [dim][8] += V^T P^T
 * as products of 16 x 8 x 16 on the tensor cores; m, the sum l of P, and O are
 * rescaled as the maximum m grows (online softmax: Milakov and Gimelshein 2018; scores are in units of
 * log2, as prep made q). No transpose of O or of scores is needed: a lane holds the same two query heads
 * (2 (lane % 4) and the next) in S, in m, l and in O.
 *
 * A sequence that lies in one CTA is written to y at once. Else every CTA leaves (m, l, O) of its part
 * in the workspace, and the last to arrive merges the parts in the order of the CTAs, whoever it is;
 * many parts are merged in two levels, FAN at a time. Counters go back to 0, so that the same launch can
 * be replayed. */
#include "attn.h"
#include "kv.cuh"
#include "ptx.cuh"

#define BARS_BYTES (2 * ATTN_MAX_STAGES * 8)
#define STAGE_MAX 65536
#define COPY_MAX 16384 /* bytes of one bulk copy: they run at once */
#define FAN 12         /* parts merged at a time where there are more than 32 */

struct decode_job {
	struct attn_plan plan;
	const char *pages, *q;
	char *y;
	const int32_t *table;
	int max_pages, n_heads, n_kv, group;
	int heads, tiles;      /* KV heads of a unit, and tiles of each: warps to a page */
	int stages, stage_bytes, bars_at, y_f32, n_sms, early;
	int64_t page_bytes, y_stride, part_floats;
	float cap;             /* in units of log2; 0 = none */
	float *parts;
	uint32_t *counters;
};

/* What the types of a cache mean for the products. */
template <class T> struct kind { typedef T product; enum { bytes = 2 }; };
template <> struct kind<e4m3> { typedef f16 product; enum { bytes = 1 }; };

/* Two fp8 numbers (the lower bytes of x) as f16, divided by UP. Before sm_89 there is no instruction: moved by a
 * bit, exponent and mantissa are those of f16, denormals too, but for the bias, which is 8 less: so scores and O
 * are multiplied by 2^8, which is exact. (NaN becomes a number there.) */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
#define UP 1.f
DEV uint32_t wide2(uint32_t x) { return e4m3x2_f16x2((uint16_t)x); }
#else
#define UP 256.f
DEV uint32_t wide2(uint32_t x)
{
	uint32_t y = __byte_perm(x, 0, 0x1404); /* a byte to the top of each half */

	return (y & 0x80008000u) | (y >> 1 & 0x3f803f80u);
}
#endif
template <class T> DEV float up(float x) { return kind<T>::bytes == 1 ? UP * x : x; }

/* Fragments of one warp: of a tile, the lane's two query heads. */
template <int D> struct acc {
	float m[2], l[2]; /* l: of this lane's tokens, until the end */
	float o[D / 16][4];
};

/* Warps that compute: at most 168 registers a thread with eight, 255 with four. */
HD int warps_of(int dim) { return dim > 128 ? 4 : 8; }

/* ---- the ring ---- */

DEV void ring_wait(uint64_t *bar, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
	mbar_wait(bar, parity);
#else
	while (!mbar_test(bar, parity))
		;
#endif
}

/* Arrivals that fill a stage. */
DEV int fillers(void)
{
#if __CUDA_ARCH__ >= 900
	return 1;
#else
	return 32;
#endif
}

/* A page's K and V of the heads of a group, bytes each, to a stage; all lanes of the warp. V of the stage
 * lies half way. */
DEV void fill(const struct decode_job *j, char *stage, const char *k, int bytes, uint64_t *full, uint64_t policy)
{
	int lane = threadIdx.x & 31;
#if __CUDA_ARCH__ >= 900
	int pieces = (bytes + COPY_MAX - 1) / COPY_MAX;

	if (lane == 0)
		mbar_expect(full, 2 * bytes);
	__syncwarp();
	if (lane < 2 * pieces) {
		int v = lane >= pieces, at = (v ? lane - pieces : lane) * COPY_MAX;

		bulk_load(stage + v * (j->stage_bytes / 2) + at, k + v * (j->page_bytes / 2) + at, min(bytes - at, COPY_MAX),
			full, policy);
	}
#else
	for (int v = 0; v < 2; v++)
		for (int at = lane * 16; at < bytes; at += 512)
			cp_async16(stage + v * (j->stage_bytes / 2) + at, k + v * (j->page_bytes / 2) + at, true);
	cp_async_arrive(full);
#endif
}

/* The unit after (item, group, page). */
DEV void next_item(const struct decode_job *j, int *item, int *group, struct attn_item *it)
{
	if (++*group == j->plan.groups) {
		*group = 0;
		*it = j->plan.item[++*item];
	}
}

/* What this step writes is the last page of each sequence alone: other pages, the plan and the page table
 * were there before the kernel that precedes this one began (it waited for its own predecessors before it
 * let this one start), so with `early` they are loaded before it has ended. */
template <int RB> DEV void produce(const struct decode_job *j, char *ring, uint64_t *full, uint64_t *empty)
{
	int lane = threadIdx.x & 31, base = 0, number = 0, stage = 0;
	uint32_t parity = 1;
	uint64_t policy = l2_evict_first();
	bool waited = !j->early;
	struct attn_cta t;
	struct attn_item it;
	int n_pages = 0;

	if (waited) {
		griddep_wait();
		fence_proxy_async(); /* prep stored K and V the ordinary way; bulk copies read them */
	}
	t = j->plan.cta[blockIdx.x];
	if (t.count)
		it = j->plan.item[t.item];
	for (int n = 0; n < t.count; n++, t.page++) {
		if (t.page == it.end) {
			next_item(j, &t.item, &t.group, &it);
			t.page = it.first;
			n_pages = 0;
		}
		if (n_pages == 0 || t.page == base + 32) { /* 32 page numbers at a time */
			base = t.page;
			n_pages = it.end - base;
			number = lane < n_pages ? j->table[(int64_t)it.seq * j->max_pages + base + lane] : 0;
		}
		if (!waited && t.page == (it.kv_len - 1) / PAGE) {
			griddep_wait();
			fence_proxy_async(); /* as above */
			waited = true;
		}
		int64_t page = __shfl_sync(0xffffffffu, number, t.page - base);
		int first = t.group * j->heads, bytes = min(j->heads, j->n_kv - first) * PAGE * RB;

		ring_wait(&empty[stage], parity);
		fill(j, ring + stage * j->stage_bytes, j->pages + page * j->page_bytes + first * PAGE * RB, bytes,
			&full[stage], policy);
		if (++stage == j->stages) {
			stage = 0;
			parity ^= 1;
		}
	}
	if (!waited)
		griddep_wait();
}

/* ---- one page ---- */

/* The lane's address of ldmatrix in a head's block: of 16-byte column c, an even number known to the compiler, or
 * of the one beside it, which is in the same strip: its number differs in the lowest bit. */
template <int RB> DEV const char *at_column(const char *head, int c, bool token_half, bool column)
{
	return head + (kv_at(RB, (threadIdx.x & 7) + (token_half ? 8 : 0), 16 * c) ^ (column ? 16 : 0));
}

/* S^T of the page: s[0, 1]: token lane / 4, the lane's two query heads; s[2, 3]: token + 8. */
template <class T, int D> DEV void scores(float s[4], const char *k, const uint32_t q[D / 16][2])
{
	typedef typename kind<T>::product P;
	float s2[4] = { 0, 0, 0, 0 }; /* two chains of products, half as long */
	int mi = (threadIdx.x & 31) >> 3;

	s[0] = s[1] = s[2] = s[3] = 0;
	if (kind<T>::bytes == 2) {
#pragma unroll
		for (int c = 0; c < D / 16; c++) {
			uint32_t a[4];

			ldmatrix4(a, at_column<D * kind<T>::bytes>(k, 2 * c, mi & 1, mi >> 1));
			mma16816<P>(c & 1 ? s2 : s, a, q[c]);
		}
	} else {
		/* four neighbours along d a lane, of which the product takes the first two as k = 2j, 2j + 1 and the
		 * others as 2j + 8, 2j + 9: q lies likewise */
#pragma unroll
		for (int c = 0; c < D / 16; c += 2) {
			uint32_t r[4];

			if (c + 1 < D / 16)
				ldmatrix4(r, at_column<D * kind<T>::bytes>(k, c, mi & 1, mi >> 1));
			else
				ldmatrix2(r, at_column<D * kind<T>::bytes>(k, c, mi & 1, false));
#pragma unroll
			for (int h = 0; h < 2 && c + h < D / 16; h++) {
				uint32_t a[4] = { wide2(r[2 * h]), wide2(r[2 * h + 1]), wide2(r[2 * h] >> 16), wide2(r[2 * h + 1] >> 16) };

				mma16816<P>(h ? s2 : s, a, q[c + h]);
			}
		}
	}
	for (int i = 0; i < 4; i++)
		s[i] = up<T>(s[i] + s2[i]);
}

/* O^T += V^T P^T. mask: of tokens 2j, 2j + 1 and of 2j + 8, 2j + 9 (j = lane % 4): what lies beyond a sequence
 * may be anything, and 0 * NaN is NaN. */
template <class T, int D> DEV void weigh(struct acc<D> *x, const char *v, const uint32_t p[2], const uint32_t mask[2])
{
	typedef typename kind<T>::product P;
	int mi = (threadIdx.x & 31) >> 3;

	if (kind<T>::bytes == 2) {
#pragma unroll
		for (int c = 0; c < D / 16; c++) {
			uint32_t a[4];

			ldmatrix4_trans(a, at_column<D * kind<T>::bytes>(v, 2 * c, mi >> 1, mi & 1));
			a[0] &= mask[0], a[1] &= mask[0], a[2] &= mask[1], a[3] &= mask[1];
			mma16816<P>(x->o[c], a, p);
		}
	} else {
		/* a matrix' element is a pair along d, so that row g of the product is d = 2g and row g + 8 is 2g + 1 */
#pragma unroll
		for (int c = 0; c < D / 16; c += 2) {
			uint32_t r[4];

			if (c + 1 < D / 16)
				ldmatrix4_trans(r, at_column<D * kind<T>::bytes>(v, c, mi & 1, mi >> 1));
			else
				ldmatrix2_trans(r, at_column<D * kind<T>::bytes>(v, c, mi & 1, false));
#pragma unroll
			for (int h = 0; h < 2 && c + h < D / 16; h++) {
				uint32_t lo = r[2 * h] & mask[0], hi = r[2 * h + 1] & mask[1];
				uint32_t a[4] = { wide2(__byte_perm(lo, 0, 0x20)),
					wide2(__byte_perm(lo, 0, 0x31)),
					wide2(__byte_perm(hi, 0, 0x20)),
					wide2(__byte_perm(hi, 0, 0x31)) };

				mma16816<P>(x->o[c + h], a, p);
			}
		}
	}
}

/* Which of d of block c the product's row lane / 4 (+ 8 if half) is. */
template <class T> DEV int d_of(int c, int half)
{
	int g = (threadIdx.x & 31) >> 2;

	return 16 * c + (kind<T>::bytes == 2 ? g + 8 * half : 2 * g + half);
}

/* Tokens low .. high - 1 of the page count. */
template <class T, int D> DEV void page(const struct decode_job *j, struct acc<D> *x, const uint32_t q[D / 16][2],
	const char *k, const char *v, int low, int high)
{
	typedef typename kind<T>::product P;
	int lane = threadIdx.x & 31, g = lane >> 2, t = 2 * (lane & 3);
	bool on[2] = { g >= low && g < high, g + 8 >= low && g + 8 < high };
	uint32_t mask[2], p[2];
	float s[4], w[2][2], r[2]; /* w: [query head][token half] */

	for (int h = 0; h < 2; h++)
		mask[h] = (t + 8 * h >= low && t + 8 * h < high ? 0xffffu : 0) |
			(t + 1 + 8 * h >= low && t + 1 + 8 * h < high ? 0xffff0000u : 0);
	scores<T, D>(s, k, q);
#pragma unroll
	for (int h = 0; h < 2; h++) {
		float s0 = s[h], s1 = s[2 + h], m;

		if (j->cap > 0) {
			s0 = j->cap * tanhf(s0);
			s1 = j->cap * tanhf(s1);
		}
		s0 = on[0] ? s0 : -INFINITY;
		s1 = on[1] ? s1 : -INFINITY;
		m = fmaxf(s0, s1);
		for (int o = 4; o < 32; o <<= 1)
			m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
		m = fmaxf(m, x->m[h]);
		r[h] = exp2_fast(x->m[h] - m);
		x->m[h] = m;
		w[h][0] = exp2_fast(s0 - m);
		w[h][1] = exp2_fast(s1 - m);
		x->l[h] = x->l[h] * r[h] + (w[h][0] + w[h][1]);
	}
	p[0] = movmatrix(pack2<P>(w[0][0], w[1][0]));
	p[1] = movmatrix(pack2<P>(w[0][1], w[1][1]));
#pragma unroll
	for (int c = 0; c < D / 16; c++)
		for (int i = 0; i < 4; i++)
			x->o[c][i] *= r[i & 1];
	weigh<T, D>(x, v, p, mask);
}

/* ---- a sequence's beginning and end ---- */

/* q: the tile's first query head, of n. */
template <class T, int D> DEV void load_q(uint32_t f[D / 16][2], const char *q, int n)
{
	int lane = threadIdx.x & 31, g = lane >> 2, i = lane & 3;

#pragma unroll
	for (int c = 0; c < D / 16; c++) {
		const char *p = q + g * D * 2 + c * 32;

		if (kind<T>::bytes == 2) {
			f[c][0] = g < n ? *(const uint32_t *)(p + 4 * i) : 0;
			f[c][1] = g < n ? *(const uint32_t *)(p + 4 * i + 16) : 0;
		} else {
			uint2 u = g < n ? *(const uint2 *)(p + 8 * i) : make_uint2(0, 0);

			f[c][0] = u.x;
			f[c][1] = u.y;
		}
	}
}

template <int D> DEV void clear(struct acc<D> *x)
{
	for (int h = 0; h < 2; h++)
		x->m[h] = -INFINITY, x->l[h] = 0;
	for (int c = 0; c < D / 16; c++)
		for (int i = 0; i < 4; i++)
			x->o[c][i] = 0;
}

/* l becomes the sum over all tokens. */
template <int D> DEV void close(struct acc<D> *x)
{
	for (int h = 0; h < 2; h++)
		for (int o = 4; o < 32; o <<= 1)
			x->l[h] += __shfl_xor_sync(0xffffffffu, x->l[h], o);
}

/* Takes in another warp's registers, as gather() keeps them. */
template <int D> DEV void take_in(struct acc<D> *x, const float4 *b)
{
	float4 ml = *b;
	float m0 = fmaxf(x->m[0], ml.x), m1 = fmaxf(x->m[1], ml.y);
	/* a warp that had no page has m = -inf, and the first may be one */
	float a0 = m0 > -INFINITY ? exp2_fast(x->m[0] - m0) : 0, b0 = m0 > -INFINITY ? exp2_fast(ml.x - m0) : 0;
	float a1 = m1 > -INFINITY ? exp2_fast(x->m[1] - m1) : 0, b1 = m1 > -INFINITY ? exp2_fast(ml.y - m1) : 0;

	x->m[0] = m0, x->m[1] = m1;
	x->l[0] = x->l[0] * a0 + ml.z * b0;
	x->l[1] = x->l[1] * a1 + ml.w * b1;
#pragma unroll
	for (int c = 0; c < D / 16; c++) {
		float4 o = b[32 * (c + 1)];

		x->o[c][0] = x->o[c][0] * a0 + o.x * b0;
		x->o[c][1] = x->o[c][1] * a1 + o.y * b1;
		x->o[c][2] = x->o[c][2] * a0 + o.z * b0;
		x->o[c][3] = x->o[c][3] * a1 + o.w * b1;
	}
}

/* Warps of one tile, each with its own pages of the sequence: the first takes in the others in their order.
 * box: [parts - 1][warps to a page][D / 16 + 1][32]; head: of those warps. */
template <int D> DEV void gather(const struct decode_job *j, struct acc<D> *x, float4 *box, int head, int part, int parts)
{
	int heads = j->heads * j->tiles, each = (D / 16 + 1) * 32, n_threads = heads * parts * 32;

	box += head * each + (threadIdx.x & 31);
	bar_sync(1, n_threads); /* the last gathering has been read */
	if (part) {
		float4 *b = box + (part - 1) * heads * each;

		*b = make_float4(x->m[0], x->m[1], x->l[0], x->l[1]);
#pragma unroll
		for (int c = 0; c < D / 16; c++)
			b[32 * (c + 1)] = make_float4(x->o[c][0], x->o[c][1], x->o[c][2], x->o[c][3]);
	}
	bar_sync(1, n_threads);
	for (int i = 1; i < parts && !part; i++)
		take_in<D>(x, box + (i - 1) * heads * each);
}

DEV void put(char *y, bool f32, float x)
{
	if (f32)
		*(float *)y = x;
	else
		*(bf16 *)y = from_f32<bf16>(x);
}

/* The sequence is done: y, of the tile's first query head of n, = O / l. */
template <class T, int D> DEV void finish(const struct decode_job *j, const struct acc<D> *x, char *y, int n)
{
	int es = j->y_f32 ? 4 : 2;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		int r = 2 * (threadIdx.x & 3) + h;
		float inv = up<T>(1.f / x->l[h]);

		if (r >= n)
			continue;
#pragma unroll
		for (int c = 0; c < D / 16; c++)
			for (int half = 0; half < 2; half++)
				put(y + (r * D + d_of<T>(c, half)) * es, j->y_f32, x->o[c][2 * half + h] * inv);
	}
}

/* ---- sequences that CTAs share ---- */

/* A part of one tile in the workspace: o [8][D], then m [8] and l [8]; rows beyond its query heads mean nothing. */
template <int D> DEV float *part_of(const struct decode_job *j, int place, int head)
{
	return j->parts + place * j->part_floats + head * (8 * D + 16);
}

template <class T, int D> DEV void leave(const struct acc<D> *x, float *part, int n)
{
	int lane = threadIdx.x & 31;

#pragma unroll
	for (int h = 0; h < 2; h++) {
		int r = 2 * (lane & 3) + h;

		if (r >= n)
			continue;
		if (lane < 4) {
			part[8 * D + r] = x->m[h];
			part[8 * D + 8 + r] = x->l[h];
		}
#pragma unroll
		for (int c = 0; c < D / 16; c++)
			for (int half = 0; half < 2; half++)
				part[r * D + d_of<T>(c, half)] = up<T>(x->o[c][2 * half + h]);
	}
}

/* This warp has left its part: is it the last of n? Then it sees what the others left. */
DEV bool last_of(uint32_t *counter, int n)
{
	uint32_t last = 0;

	__syncwarp(); /* all lanes' stores are before lane 0's release */
	if ((threadIdx.x & 31) == 0) {
		last = atomic_add_acq_rel(counter, 1) == (uint32_t)n - 1;
		if (last)
			*counter = 0; /* for the next launch; nobody else comes here in this one */
	}
	last = __shfl_sync(0xffffffffu, last, 0);
	__syncwarp(); /* and what lane 0 acquired is before their loads */
	return last;
}

/* The parts of an item: CTAs from .. from + n - 1 by `step`. */
struct parts { int from, place, step, n; };

DEV int place_of(const struct parts *p, int i)
{
	return i ? 2 * (p->from + i * p->step) : p->place;
}

/* o = the sum over the parts of w (lane i's is part i's) times 4 neighbours of row r from `at` on. */
template <int D> DEV float4 weighted(const struct decode_job *j, const struct parts *p, int head, int r, int at, float w)
{
	enum { batch = D > 128 ? 4 : 8 }; /* loads under way; registers are few where heads are large */
	float4 o = make_float4(0, 0, 0, 0);

	for (int i = 0; i < p->n; i += batch) {
		float4 v[batch];

#pragma unroll
		for (int k = 0; k < batch; k++)
			v[k] = *(const float4 *)(part_of<D>(j, place_of(p, min(i + k, p->n - 1)), head) + r * D + min(at, D - 4));
#pragma unroll
		for (int k = 0; k < batch; k++) {
			float wk = __shfl_sync(0xffffffffu, w, (i + k) & 31);

			wk = i + k < p->n ? wk : 0;
			o.x += wk * v[k].x, o.y += wk * v[k].y, o.z += wk * v[k].z, o.w += wk * v[k].w;
		}
	}
	return o;
}

/* Merges at most 32 parts of n query heads in their order, to y or, where y is NULL, to `out`, which may be
 * one of them. */
template <int D> DEV void merge(const struct decode_job *j, const struct parts *p, int head, int n, char *y, float *out)
{
	int lane = threadIdx.x & 31, es = j->y_f32 ? 4 : 2;
	const float *mine = part_of<D>(j, place_of(p, lane < p->n ? lane : 0), head) + 8 * D;

	for (int r = 0; r < n; r++) {
		float m = lane < p->n ? mine[r] : -INFINITY, l = lane < p->n ? mine[8 + r] : 0;
		float most = warp_max(m), w = lane < p->n ? exp2_fast(m - most) : 0, sum = warp_sum(l * w);

		for (int from = 0; from < D; from += 128) {
			int at = from + 4 * lane;
			float4 o = weighted<D>(j, p, head, r, at, w);

			if (at >= D)
				continue;
			if (!y) {
				*(float4 *)(out + r * D + at) = o;
				continue;
			}
			put(y + (r * D + at) * es, j->y_f32, o.x / sum);
			put(y + (r * D + at + 1) * es, j->y_f32, o.y / sum);
			put(y + (r * D + at + 2) * es, j->y_f32, o.z / sum);
			put(y + (r * D + at + 3) * es, j->y_f32, o.w / sum);
		}
		__syncwarp(); /* m and l have been read */
		if (!y && lane == 0) {
			out[8 * D + r] = most;
			out[8 * D + 8 + r] = sum;
		}
	}
}

/* Which CTAs share what this warp has done: first .. last; place: of the first one's part. */
struct sharers { int first, last, place; };

template <class T, int D> DEV void share(const struct decode_job *j, const struct acc<D> *x, const struct sharers *s,
	int head, int rows, char *y)
{
	int c = blockIdx.x, n = s->last - s->first + 1, fan = n <= 32 ? n : FAN, k = (c - s->first) / fan;
	struct parts all = { s->first, s->place, fan, (n + fan - 1) / fan }, near = all;

	near.from = s->first + k * fan;
	near.place = k ? 2 * near.from : s->place;
	near.step = 1;
	near.n = min(fan, s->last - near.from + 1);
	leave<T, D>(x, part_of<D>(j, c == s->first ? s->place : 2 * c, head), rows);
	if (!last_of(&j->counters[near.place * ATTN_WARPS + head], near.n))
		return;
	if (all.n == 1) {
		merge<D>(j, &near, head, rows, y, NULL);
		return;
	}
	merge<D>(j, &near, head, rows, NULL, part_of<D>(j, near.place, head));
	if (last_of(&j->counters[(2 * j->n_sms + s->place) * ATTN_WARPS + head], all.n))
		merge<D>(j, &all, head, rows, y, NULL);
}

/* ---- the warps that compute ---- */

template <class T, int D> DEV void consume(const struct decode_job *j, char *ring, uint64_t *full, uint64_t *empty)
{
	const int rb = D * kind<T>::bytes;
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, heads = j->heads * j->tiles, parts = warps_of(D) / heads;
	int head = warp % heads, part = warp / heads, stage = part, i = part, tile = head % j->tiles;
	int rows = min(8, j->group - 8 * tile);
	uint32_t parity = 0, q[D / 16][2];
	struct attn_cta t;
	struct attn_item it;
	struct acc<D> x;

	griddep_wait();
	griddep_launch();
	if (part >= parts)
		return;
	t = j->plan.cta[blockIdx.x];
	if (t.count)
		it = j->plan.item[t.item];
	for (; stage >= j->stages; stage -= j->stages)
		parity ^= 1;
	for (int n = 0, to; n < t.count; n = to) { /* a sequence, as far as it lies here */
		int kv_head = t.group * j->heads + head / j->tiles, c = blockIdx.x;
		int64_t q_head = (int64_t)kv_head * j->group + 8 * tile;
		bool on = kv_head < j->n_kv;
		char *y = j->y + it.row * j->y_stride + q_head * D * (j->y_f32 ? 4 : 2);
		struct sharers s = { c, c, 2 * c + 1 };

		to = min(t.count, n + it.end - t.page);
		if (n == 0)
			s.first = t.a_place / 2, s.place = t.a_place, s.last = t.a_end;
		else if (to == t.count)
			s.last = t.b_end;
		if (on)
			load_q<T, D>(q, j->q + ((int64_t)it.row * j->n_heads + q_head) * D * 2, rows);
		clear<D>(&x);
		for (; i < to; i += parts) { /* units of this CTA that are this warp's */
			const char *k = ring + stage * j->stage_bytes + head / j->tiles * PAGE * rb;
			int at = (t.page + i - n) * PAGE;

			ring_wait(&full[stage], parity);
			if (on)
				page<T, D>(j, &x, q, k, k + j->stage_bytes / 2, it.low - at, it.kv_len - at);
			__syncwarp();
			if (lane == 0)
				mbar_arrive(&empty[stage]);
			for (stage += parts; stage >= j->stages; stage -= j->stages)
				parity ^= 1;
		}
		close<D>(&x);
		if (parts > 1)
			gather<D>(j, &x, (float4 *)(ring + j->stages * j->stage_bytes), head, part, parts);
		if (on && part == 0) {
			if (s.first == s.last)
				finish<T, D>(j, &x, y, rows);
			else
				share<T, D>(j, &x, &s, head, rows, y);
		}
		if (to < t.count) {
			next_item(j, &t.item, &t.group, &it);
			t.page = it.first;
		}
	}
}

template <class T, int D>
static __global__ void __launch_bounds__(D > 128 ? 160 : 288, 1) decode_kernel(const struct decode_job j)
{
	char *ring = dyn_smem();
	uint64_t *full = (uint64_t *)(ring + j.bars_at), *empty = full + ATTN_MAX_STAGES;

	if (threadIdx.x == 0)
		for (int i = 0; i < j.stages; i++) {
			mbar_init(&full[i], fillers());
			mbar_init(&empty[i], j.heads * j.tiles);
		}
	mbar_fence_init();
	__syncthreads();
	if ((int)threadIdx.x >> 5 == warps_of(D))
		produce<D * kind<T>::bytes>(&j, ring, full, empty);
	else
		consume<T, D>(&j, ring, full, empty);
}

/* ---- host ---- */

typedef void (*decode_fn)(struct decode_job);

template <class T> static decode_fn of_dim(int dim)
{
	switch (dim) {
	case 16: return decode_kernel<T, 16>;
	case 32: return decode_kernel<T, 32>;
	case 48: return decode_kernel<T, 48>;
	case 64: return decode_kernel<T, 64>;
	case 80: return decode_kernel<T, 80>;
	case 96: return decode_kernel<T, 96>;
	case 128: return decode_kernel<T, 128>;
	case 256: return decode_kernel<T, 256>;
	default: return NULL;
	}
}

static decode_fn kernel_of(const struct nvllm_attention *a, const struct attn_layer *l)
{
	return a->kv_dtype == NVLLM_BF16 ? of_dim<bf16>(l->dim) :
		a->kv_dtype == NVLLM_F16 ? of_dim<f16>(l->dim) : of_dim<e4m3>(l->dim);
}

static int tiles_of(const struct attn_layer *l)
{
	return (l->group + 7) / 8;
}

extern "C" int attn_decode_shape(const struct nvllm_attention *a, struct attn_layer *l)
{
	int room = a->smem_max - BARS_BYTES, tiles = tiles_of(l), warps = warps_of(l->dim);
	int many = l->n_kv < warps / tiles ? l->n_kv : warps / tiles;

	/* three stages at least; where heads are so large that they do not fit, two */
	for (int least = 3; least > 1; least--)
		for (int h = many; h > 0; h--) {
			int groups = (l->n_kv + h - 1) / h, heads = (l->n_kv + groups - 1) / groups;
			int stage = 2 * heads * ATTN_PAGE * l->row_bytes, to_page = heads * tiles;
			int box = (warps / to_page - 1) * to_page * (l->dim / 16 + 1) * 32 * 16; /* of gather() */
			int n = (room - box) / stage;

			if (stage > STAGE_MAX || n < least)
				continue;
			l->heads_at_once = heads;
			l->stages = n < ATTN_MAX_STAGES ? n : ATTN_MAX_STAGES;
			l->stage_bytes = stage;
			l->smem = l->stages * stage + box + BARS_BYTES;
			return 1;
		}
	return 0;
}

extern "C" int64_t attn_decode_part(const struct attn_layer *l)
{
	return (int64_t)l->heads_at_once * tiles_of(l) * (8 * l->dim + 16);
}

extern "C" int attn_decode_setup(const struct nvllm_attention *a)
{
	int err = cudaSuccess;

	for (int i = 0; i < a->shape->n_layers && !err; i++)
		if (a->layers[i].n_heads)
			err = allow_smem(kernel_of(a, &a->layers[i]), a->smem_max);
	return err;
}

extern "C" int attn_decode(const struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[layer];
	int64_t most = (int64_t)b->n_seqs * b->max_pages;
	struct decode_job j = {};

	if (b->n_seqs < 1)
		return cudaSuccess;
	j.plan = a->plans[l->plan];
	j.pages = (const char *)a->kv[l->source], j.page_bytes = l->page_bytes;
	j.q = (const char *)a->q;
	j.y = (char *)y.data, j.y_stride = y.stride, j.y_f32 = y.dtype == NVLLM_F32;
	j.table = b->page_table, j.max_pages = b->max_pages;
	j.n_heads = l->n_heads, j.n_kv = l->n_kv, j.group = l->group;
	j.heads = l->heads_at_once, j.tiles = tiles_of(l), j.stages = l->stages, j.stage_bytes = l->stage_bytes;
	j.bars_at = l->smem - BARS_BYTES;
	j.cap = l->cap * 1.44269504f;
	j.parts = a->parts, j.part_floats = a->part_floats;
	j.counters = a->counters, j.n_sms = a->n_sms;
	j.early = a->early && b->n_tokens == b->n_seqs;
	most *= j.plan.groups;
	return launch(kernel_of(a, l), dim3(most < a->n_sms ? (int)most : a->n_sms), 
		dim3(32 * (warps_of(l->dim) + 1)), l->smem, stream, j);
}
