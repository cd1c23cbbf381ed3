/* SPDX-License-Identifier: MIT */
/* Attention of sequences with two rows or more (prompts, chunks of them, what follows a cached prefix)
 * over the paged cache, on tensor cores, after FlashAttention-2 (Dao 2023, algorithm 1): a tile of query
 * rows stays, K and V pass by in tiles, and scores live in registers only.
 *
 * A tile's 64 or 128 rows are pairs (row of the sequence, query head of the KV head's group), so that
 * a group shares what is read of K and V. Each of 4 warps has 16 or 32 of them. Which keys a row sees
 * follows from absolute positions alone: row t of n sits at kv_len - n + t; hence chunks and cached prefixes
 * need nothing of their own. Tiles are numbered over (sequence, tile from its end, KV head), and
 * every block finds them from q_start by itself: the host knows no lengths.
 *
 * Two tiles of K and V are in shared memory: one is read while the next arrives, by bulk copies
 * of a head's K or V in a page, or before sm_90 by 16 bytes a thread. They keep the form they have in
 * the page (kv.cuh), which ldmatrix reads without bank conflicts. */
#include "attn.h"
#include "kv.cuh"
#include "ptx.cuh"

#define THREADS 128
#define WARPS (THREADS / 32)
#define SEQS 8 /* sequences to an entry of the table of tiles */
/* Is there a kernel for this? As ptxas does it for sm_100, the largest has too few registers there. */
#define FITS(cc, dim, mi) ((mi) == 1 || (dim) * (mi) <= 128 || (cc) < 100)

struct prefill_job {
	int n_seqs, max_pages, n_heads, n_kv, group, window;
	float cap;              /* times log2(e); 0 = none */
	int64_t page_bytes;
	const int32_t *q_start, *kv_len, *page_table;
	const char *q;          /* [T][n_heads * dim] of T, times scale * log2(e), or scale / cap with a cap */
	const char *pages;
	char *y;
	int64_t y_stride;
	int y_f32;
};

/* What a warp's rows see of a tile's keys. */
struct span {
	int seen, low, high;    /* from where its first row sees; positions of its first and last; none: high -1 */
	int pair;               /* its first */
};

/* What is the same for all threads while a tile is done. Kept in shared memory: registers are short. */
struct tile {
	int seq, kv_head;
	int row;                /* the sequence's first, in the step */
	int pair, end_pair;     /* the tile's: row * group + head of the group */
	int pos;                /* position of the sequence's first row */
	int from, end;          /* keys that any row sees; from is a page's first */
	struct span spans[WARPS];
};

/* Sizes of a kernel. T: what products are of; KV: what the cache is of. */
template <class T, class KV, int DIM, int MI, int BN> struct shape {
	static const int rows = 16 * MI * WARPS;          /* of a tile */
	static const int q_pitch = DIM * 2 + 16;          /* an odd number of 16 bytes: no bank conflicts */
	static const int raw = BN * DIM * (int)sizeof(KV);/* bytes of a tile of K as it is in the cache */
	static const int wide = BN * DIM * 2;             /* and in T */
	static const bool convert = sizeof(KV) == 1;
	static const int q_at = 4 * raw + (convert ? 2 * wide : 0);
	static const int bars_at = q_at + rows * q_pitch;
	static const int tile_at = bars_at + 32 + 16;     /* 4 barriers; scratch of the scan */
	static const int starts_at = tile_at + (int)sizeof(struct tile);
	static const int bytes = starts_at;               /* and the table */
};

DEV int tiles_of(const struct prefill_job *j, int seq, int rows)
{
	int n = seq < j->n_seqs ? j->q_start[seq + 1] - j->q_start[seq] : 0;

	return n > 1 ? (n * j->group + rows - 1) / rows : 0;
}

/* starts[i] = tiles of the sequences before number SEQS * i, and of all in the last; scratch [WARPS]. */
template <int ROWS> DEV void count_tiles(const struct prefill_job *j, int *starts, int *scratch)
{
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, entries = (j->n_seqs + SEQS - 1) / SEQS, carry = 0;

	for (int base = 0; base < entries; base += THREADS) {
		int i = base + threadIdx.x, n = 0, sum, before = carry;

#pragma unroll
		for (int k = 0; k < SEQS; k++)
			n += tiles_of(j, i * SEQS + k, ROWS);
		sum = n;
		for (int o = 1; o < 32; o <<= 1) {
			int x = __shfl_up_sync(0xffffffffu, sum, o);

			sum += lane >= o ? x : 0;
		}
		if (lane == 31)
			scratch[warp] = sum;
		__syncthreads();
		for (int w = 0; w < WARPS; w++) {
			before += w < warp ? scratch[w] : 0;
			carry += scratch[w];
		}
		if (i < entries)
			starts[i] = before + sum - n;
		__syncthreads();
	}
	if (threadIdx.x == 0)
		starts[entries] = carry;
	__syncthreads();
}

/* Tile number t. Within a sequence from its end: the long ones first. */
template <int ROWS> DEV void find_tile(const struct prefill_job *j, const int *starts, int t, struct tile *x)
{
	int n = t / j->n_kv, lo = 0, hi = (j->n_seqs - 1) / SEQS, seq, left, n_rows, first;

	while (lo < hi) { /* the last entry that starts at or before n: it has tiles */
		int mid = (lo + hi + 1) / 2;

		if (starts[mid] <= n)
			lo = mid;
		else
			hi = mid - 1;
	}
	n -= starts[lo];
	for (seq = lo * SEQS; n >= (left = tiles_of(j, seq, ROWS)); seq++)
		n -= left;
	x->seq = seq;
	x->kv_head = t % j->n_kv;
	x->row = j->q_start[seq];
	n_rows = j->q_start[seq + 1] - x->row;
	x->pos = j->kv_len[seq] - n_rows;
	x->pair = (left - 1 - n) * ROWS;
	x->end_pair = min(x->pair + ROWS, n_rows * j->group);
	first = x->pos + x->pair / j->group;
	x->from = j->window > 0 ? max(0, first - j->window + 1) / PAGE * PAGE : 0;
	x->end = x->pos + (x->end_pair - 1) / j->group + 1;
	for (int w = 0; w < WARPS; w++) {
		struct span *y = &x->spans[w];

		y->pair = x->pair + w * (ROWS / WARPS);
		y->low = x->pos + y->pair / j->group;
		y->high = y->pair < x->end_pair ?
			x->pos + (min(y->pair + ROWS / WARPS, x->end_pair) - 1) / j->group : -1;
		y->seen = j->window > 0 ? y->low - j->window + 1 : 0;
	}
}

/* Query rows to shared memory; pairs that do not exist become 0. */
template <int DIM, int ROWS> DEV void fetch_q(const struct prefill_job *j, const struct tile *x, char *to)
{
	for (int i = threadIdx.x; i < ROWS * (DIM / 8); i += THREADS) {
		int r = i / (DIM / 8), c = i % (DIM / 8), p = x->pair + r, row = p / j->group;
		bool ok = p < x->end_pair;
		int64_t head = x->kv_head * j->group + p - row * j->group;
		const char *q = j->q + ((x->row + row) * (int64_t)j->n_heads + head) * (DIM * 2) + c * 16;

		cp_async16(to + r * (DIM * 2 + 16) + c * 16, ok ? q : j->q, ok);
	}
	cp_async_commit();
}

/* Starts the copies of the pages that hold keys from .. from + BN, up to the tile's end. bars: K's and V's. */
template <int BLOCK, int BN> DEV void fetch_kv(const struct prefill_job *j, const struct tile *x, int from,
	char *k, char *v, uint64_t *bars)
{
	const int32_t *table = j->page_table + (int64_t)x->seq * j->max_pages + from / PAGE;
	int n = min(BN / PAGE, (x->end - from + PAGE - 1) / PAGE);
	const char *base = j->pages + (int64_t)x->kv_head * BLOCK;

#if __CUDA_ARCH__ >= 900
	int lane = threadIdx.x;
	uint64_t policy = l2_evict_normal();

	if (threadIdx.x >= 32)
		return;
	if (lane == 0) {
		mbar_expect(bars, n * BLOCK);
		mbar_expect(bars + 1, n * BLOCK);
	}
	__syncwarp();
	if (lane < n) {
		base += table[lane] * j->page_bytes;
		bulk_load(k + lane * BLOCK, base, BLOCK, bars, policy);
		bulk_load(v + lane * BLOCK, base + j->page_bytes / 2, BLOCK, bars + 1, policy);
	}
#else
#pragma unroll 1 /* for want of registers */
	for (int page = 0; page < n; page++) {
		const char *p = base + table[page] * j->page_bytes;

		for (int i = threadIdx.x * 16; i < BLOCK; i += THREADS * 16) {
			cp_async16(k + page * BLOCK + i, p + i, true);
			cp_async16(v + page * BLOCK + i, p + j->page_bytes / 2 + i, true);
		}
	}
	cp_async_commit();
#endif
}

DEV void wait_kv(uint64_t *bar, int parity)
{
#if __CUDA_ARCH__ >= 900
	mbar_wait(bar, parity);
#endif
}

/* A tile of the e4m3 cache in f16; keys from n on, which may be NaN, become 0. */
template <int DIM, int BN> DEV void widen(char *to, const char *raw, int n)
{
	for (int i = threadIdx.x; i < BN * (DIM / 16); i += THREADS) {
		int t = i / (DIM / 16), b = i % (DIM / 16) * 16, page = t / PAGE;
		uint4 x = make_uint4(0, 0, 0, 0), lo, hi;

		t %= PAGE;
		if (page * PAGE + t < n)
			x = *(const uint4 *)(raw + page * PAGE * DIM + kv_at(DIM, t, b));
		lo = make_uint4(e4m3x2_f16x2((uint16_t)x.x), e4m3x2_f16x2((uint16_t)(x.x >> 16)),
			e4m3x2_f16x2((uint16_t)x.y), e4m3x2_f16x2((uint16_t)(x.y >> 16)));
		hi = make_uint4(e4m3x2_f16x2((uint16_t)x.z), e4m3x2_f16x2((uint16_t)(x.z >> 16)),
			e4m3x2_f16x2((uint16_t)x.w), e4m3x2_f16x2((uint16_t)(x.w >> 16)));
		*(uint4 *)(to + page * PAGE * DIM * 2 + kv_at(DIM * 2, t, 2 * b)) = lo;
		*(uint4 *)(to + page * PAGE * DIM * 2 + kv_at(DIM * 2, t, 2 * b + 16)) = hi;
	}
}

/* Fragments of q, elements 16 * step and on, of this warp's rows. */
template <int DIM, int MI> DEV void load_q(uint32_t a[MI][4], const char *q, int step)
{
	int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * MI + lane % 16;

#pragma unroll
	for (int m = 0; m < MI; m++)
		ldmatrix4(a[m], q + (row + 16 * m) * (DIM * 2 + 16) + step * 32 + (lane >> 4) * 16);
}

/* Where a lane's 16 bytes of ldmatrix lie in a page of K or V, elements 16 * step and on: its four matrices
 * are tokens 0 to 7 of the first 8 elements, then of the next 8, and the same of tokens 8 to 15. */
template <int DIM> DEV int lane_at(int step)
{
	int lane = threadIdx.x % 32;

	return kv_at(DIM * 2, (lane & 7) | (lane >> 4) << 3, step * 32) ^ (lane >> 3 & 1) << 4;
}

/* s = q K^T. QREG: q's fragments are in registers, qf. */
template <class T, int DIM, int MI, int BN, bool QREG> DEV void scores(float s[MI][BN / 8][4],
	uint32_t qf[][MI][4], const char *q, const char *k)
{
#pragma unroll
	for (int m = 0; m < MI; m++)
#pragma unroll
		for (int i = 0; i < BN / 2; i++)
			s[m][i / 4][i % 4] = 0;
#pragma unroll
	for (int step = 0; step < DIM / 16; step++) {
		const char *at = k + lane_at<DIM>(step);
		uint32_t a[MI][4], b[4];

		if (!QREG)
			load_q<DIM, MI>(a, q, step);
#pragma unroll
		for (int n = 0; n < BN / PAGE; n++) {
			ldmatrix4(b, at + n * (PAGE * DIM * 2));
#pragma unroll
			for (int m = 0; m < MI; m++) {
				mma16816<T>(s[m][2 * n], QREG ? qf[step][m] : a[m], b);
				mma16816<T>(s[m][2 * n + 1], QREG ? qf[step][m] : a[m], b + 2);
			}
		}
	}
}

/* o += p V. PART: keys from n on hold anything. */
template <class T, int DIM, int MI, int BN, bool PART> DEV void values(float o[MI][DIM / 8][4],
	const float s[MI][BN / 8][4], const char *v, int n)
{
#pragma unroll
	for (int page = 0; page < BN / PAGE; page++) {
		uint32_t a[MI][4], b[4], keep[2] = { 0, 0 };

#pragma unroll
		for (int m = 0; m < MI; m++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				a[m][i] = pack2<T>(s[m][2 * page + i / 2][i % 2 * 2], s[m][2 * page + i / 2][i % 2 * 2 + 1]);
#pragma unroll
		for (int i = 0; PART && i < 4; i++) {
			int t = page * PAGE + threadIdx.x % 4 * 2 + i / 2 * 8 + i % 2;

			keep[i / 2] |= t < n ? 0xffffu << i % 2 * 16 : 0;
		}
#pragma unroll
		for (int d = 0; d < DIM / 16; d++) {
			ldmatrix4_trans(b, v + page * (PAGE * DIM * 2) + lane_at<DIM>(d));
#pragma unroll
			for (int i = 0; PART && i < 4; i++)
				b[i] &= keep[i / 2];
#pragma unroll
			for (int i = 0; i < 2 * MI; i++) {
				const uint32_t c[2] = { b[i % 2], b[i % 2 + 2] };

				mma16816<T>(o[i / 2][2 * d + i % 2], a[i / 2], c);
			}
		}
	}
}

/* cap * tanh(x), with tanh(x) = 1 - 2 / (e^2x + 1). */
template <int MI, int BN> DEV void soft_cap(float s[MI][BN / 8][4], float cap)
{
#pragma unroll
	for (int i = 0; i < MI * BN / 2; i++) {
		float *x = &s[i / (BN / 2)][i % (BN / 2) / 4][i % 4];

		*x = cap - 2 * cap * rcp_fast(exp2_fast(*x * 2.885390082f) + 1); /* 2 log2(e) */
	}
}

/* Scores of what a row does not see become -infinity. pair: the warp's first. */
template <int MI, int BN> DEV void hide(const struct prefill_job *j, float s[MI][BN / 8][4], const struct tile *x,
	int pair, int from)
{
#pragma unroll
	for (int i = 0; i < MI * 2; i++) {
		int p = pair + 8 * i + threadIdx.x % 32 / 4, last = x->pos + min(p, x->end_pair - 1) / j->group;
		int first = j->window > 0 ? max(0, last - j->window + 1) : 0, key = from + threadIdx.x % 4 * 2 - first;

#pragma unroll
		for (int k = 0; k < BN / 4; k++) /* one comparison for both ends */
			if ((unsigned)(key + k / 2 * 8 + k % 2) > (unsigned)(last - first))
				s[i / 2][k / 2][i % 2 * 2 + k % 2] = -INFINITY;
	}
}

/* Scores to weights 2^(s - max), and what was summed under an older maximum to the new one. */
template <int DIM, int MI, int BN> DEV void softmax(float s[MI][BN / 8][4], float o[MI][DIM / 8][4], float top[MI * 2],
	float sum[MI * 2])
{
	float x[MI * 2];
	bool grows = false;

#pragma unroll
	for (int i = 0; i < MI * 2; i++) {
		x[i] = top[i];
#pragma unroll
		for (int k = 0; k < BN / 4; k++)
			x[i] = fmaxf(x[i], s[i / 2][k / 2][i % 2 * 2 + k % 2]);
	}
#pragma unroll
	for (int lane = 1; lane < 4; lane <<= 1)
#pragma unroll
		for (int i = 0; i < MI * 2; i++)
			x[i] = fmaxf(x[i], __shfl_xor_sync(0xffffffffu, x[i], lane));
#pragma unroll
	for (int i = 0; i < MI * 2; i++)
		grows |= x[i] > top[i];
	if (__any_sync(0xffffffffu, grows))
#pragma unroll
		for (int i = 0; i < MI * 2; i++) {
			float fade = x[i] > top[i] ? exp2_fast(top[i] - x[i]) : 1;

			top[i] = x[i];
			sum[i] *= fade;
#pragma unroll
			for (int d = 0; d < DIM / 4; d++)
				o[i / 2][d / 2][i % 2 * 2 + d % 2] *= fade;
		}
#pragma unroll
	for (int i = 0; i < MI * 2; i++) {
		float base = top[i] > -INFINITY ? top[i] : 0; /* nothing seen so far: all weights are 0 */

#pragma unroll
		for (int k = 0; k < BN / 4; k++) {
			float *y = &s[i / 2][k / 2][i % 2 * 2 + k % 2];

			*y = exp2_fast(*y - base);
			sum[i] += *y;
		}
	}
}

/* One thread's part of a row of y: pairs of elements, 8 apart. */
template <int DIM> DEV void store_row(const struct prefill_job *j, const struct tile *x, int p, float o[DIM / 8][4],
	int r, float sum)
{
	int row = p / j->group, head = x->kv_head * j->group + p - row * j->group, lane = threadIdx.x % 4;
	float f = sum > 0 ? 1 / sum : 0;
	char *y = j->y + (x->row + row) * j->y_stride + (int64_t)head * DIM * (j->y_f32 ? 4 : 2);

#pragma unroll
	for (int d = 0; d < DIM / 8; d++) {
		float a = o[d][2 * r] * f, b = o[d][2 * r + 1] * f;

		if (j->y_f32)
			*(float2 *)(y + (d * 8 + lane * 2) * 4) = make_float2(a, b);
		else
			*(uint32_t *)(y + (d * 8 + lane * 2) * 2) = pack2<bf16>(a, b);
	}
}

template <class T, class KV, int DIM, int MI, int BN>
DEV void do_tile(const struct prefill_job *j, const struct tile *x, char *smem, int *n_fetched)
{
	typedef struct shape<T, KV, DIM, MI, BN> sh;
	const int block = PAGE * DIM * (int)sizeof(KV);
	const bool qreg = MI == 1 && DIM <= 128;
	const struct span *w = &x->spans[threadIdx.x / 32];
	uint64_t *bars = (uint64_t *)(smem + sh::bars_at);
	char *q = smem + sh::q_at, *k, *v;
	uint32_t qf[qreg ? DIM / 16 : 1][MI][4];
	float s[MI][BN / 8][4], o[MI][DIM / 8][4], top[MI * 2], sum[MI * 2];
	int it = *n_fetched;

#pragma unroll
	for (int i = 0; i < MI * 2; i++) {
		top[i] = -INFINITY;
		sum[i] = 0;
	}
#pragma unroll
	for (int i = 0; i < MI * DIM / 2; i++)
		o[i / (DIM / 2)][i % (DIM / 2) / 4][i % 4] = 0;
	fetch_q<DIM, sh::rows>(j, x, q);
	k = smem + (it & 1) * 2 * sh::raw;
	if (x->from < x->end)
		fetch_kv<block, BN>(j, x, x->from, k, k + sh::raw, bars + (it & 1) * 2);
	cp_async_wait<0>();
	__syncthreads();
	if (qreg)
#pragma unroll
		for (int i = 0; i < DIM / 16; i++)
			load_q<DIM, MI>(qf[i], q, i);
	for (int from = x->from; from < x->end; from += BN, it++) {
		int next = it + 1, n = x->end - from;
		bool busy = from <= w->high && from + BN > w->seen;

		k = smem + (next & 1) * 2 * sh::raw;
		if (from + BN < x->end)
			fetch_kv<block, BN>(j, x, from + BN, k, k + sh::raw, bars + (next & 1) * 2);
		k = smem + (it & 1) * 2 * sh::raw;
		v = k + sh::raw;
		wait_kv(bars + (it & 1) * 2, it >> 1 & 1);
		if (sh::convert) {
			wait_kv(bars + (it & 1) * 2 + 1, it >> 1 & 1);
			widen<DIM, BN>(smem + 4 * sh::raw, k, n);
			widen<DIM, BN>(smem + 4 * sh::raw + sh::wide, v, n);
			k = smem + 4 * sh::raw;
			v = k + sh::wide;
			__syncthreads();
		}
		if (busy) {
			scores<T, DIM, MI, BN, qreg>(s, qf, q, k);
			if (j->cap > 0)
				soft_cap<MI, BN>(s, j->cap);
			if (from + BN - 1 > w->low || (j->window > 0 && from < w->high - j->window + 1))
				hide<MI, BN>(j, s, x, w->pair, from);
			softmax<DIM, MI, BN>(s, o, top, sum);
		}
		/* outside the branch: each phase of a barrier must have been waited for */
		wait_kv(bars + (it & 1) * 2 + 1, it >> 1 & 1);
		if (busy && n < BN && !sh::convert)
			values<T, DIM, MI, BN, true>(o, s, v, n);
		else if (busy)
			values<T, DIM, MI, BN, false>(o, s, v, n);
		cp_async_wait<0>();
		__syncthreads();
	}
	*n_fetched = it;
#pragma unroll
	for (int i = 0; i < MI * 2; i++) {
		float all = sum[i];
		int p = w->pair + i * 8 + threadIdx.x % 32 / 4;

		all += __shfl_xor_sync(0xffffffffu, all, 1);
		all += __shfl_xor_sync(0xffffffffu, all, 2);
		if (p < x->end_pair)
			store_row<DIM>(j, x, p, o[i / 2], i % 2, all);
	}
}

template <class T, class KV, int DIM, int MI, int BN>
__global__ void __launch_bounds__(THREADS, 2) prefill_kernel(struct prefill_job j)
{
	typedef struct shape<T, KV, DIM, MI, BN> sh;
	char *smem = dyn_smem();
	uint64_t *bars = (uint64_t *)(smem + sh::bars_at);
	struct tile *x = (struct tile *)(smem + sh::tile_at);
	int *starts = (int *)(smem + sh::starts_at);
	const int *n = &starts[(j.n_seqs + SEQS - 1) / SEQS]; /* tiles of one KV head */
	int n_fetched = 0, grid = gridDim.x;

#ifdef __CUDA_ARCH__
	if (!FITS(__CUDA_ARCH__ / 10, DIM, MI))
		return;
#endif
	if (threadIdx.x == 0) {
		for (int i = 0; i < 4; i++)
			mbar_init(&bars[i], 1);
		mbar_fence_init();
	}
	griddep_wait();
	griddep_launch();
	fence_proxy_async(); /* K and V of this step were stored the ordinary way; bulk copies read them */
	count_tiles<sh::rows>(&j, starts, (int *)(bars + 4));
	/* forth and back: who had the longest tile of a round has the shortest of the next */
	for (int round = 0; round * grid < *n * j.n_kv; round++) {
		int t = round * grid + (round & 1 ? grid - 1 - blockIdx.x : blockIdx.x);

		if (t >= *n * j.n_kv)
			continue;
		__syncthreads();
		if (threadIdx.x == 0)
			find_tile<sh::rows>(&j, starts, t, x);
		__syncthreads();
		do_tile<T, KV, DIM, MI, BN>(&j, x, smem, &n_fetched);
	}
}

/* ---- the host's side ---- */

struct variant {
	void (*kernel)(struct prefill_job);
	int rows, bytes; /* of a tile; shared memory without the table */
};

template <class T, class KV, int DIM, int MI, int BN> static struct variant variant_make(void)
{
	typedef struct shape<T, KV, DIM, MI, BN> sh;

	return variant{ prefill_kernel<T, KV, DIM, MI, BN>, sh::rows, sh::bytes };
}

/* The kernel for a head_dim; big: with tiles of 128 rows, where there is one. No kernel: NULL. */
template <class T, class KV> static struct variant variant_of(int dim, bool big)
{
	switch (dim) {
	case 16: return variant_make<T, KV, 16, 1, 64>();
	case 32: return variant_make<T, KV, 32, 1, 64>();
	case 48: return variant_make<T, KV, 48, 1, 64>();
	case 64: return big ? variant_make<T, KV, 64, 2, 64>() : variant_make<T, KV, 64, 1, 64>();
	case 80: return variant_make<T, KV, 80, 1, 64>();
	case 96: return variant_make<T, KV, 96, 1, 64>();
	case 128: /* with what widens e4m3, the registers do not suffice for the large tiles */
		return big && sizeof(KV) == 2 ? variant_make<T, KV, 128, sizeof(KV) == 2 ? 2 : 1, 64>() :
			variant_make<T, KV, 128, 1, 64>();
	case 256: return variant_make<T, KV, 256, 1, 32>();
	default: return variant{};
	}
}

static int table_bytes(int n_seqs)
{
	return 4 * ((n_seqs + SEQS - 1) / SEQS + 1);
}

static struct variant variant_for(const struct nvllm_attention *a, const struct attn_layer *l, bool big)
{
	struct variant v = {};

	if (a->kv_dtype == NVLLM_BF16)
		v = variant_of<bf16, bf16>(l->dim, big);
	else if (a->kv_dtype == NVLLM_F16)
		v = variant_of<f16, f16>(l->dim, big);
	else if (a->kv_dtype == NVLLM_F8_E4M3)
		v = variant_of<f16, e4m3>(l->dim, big);
	if (big && v.kernel && (v.bytes + table_bytes(a->shape->max_seqs) > a->smem_max ||
	    !FITS(a->cc, l->dim, v.rows / 64)))
		return variant_for(a, l, false);
	return v;
}

extern "C" int attn_prefill_setup(const struct nvllm_attention *a)
{
	for (int i = 0; i < a->shape->n_layers; i++)
		for (int big = 0; big < 2 && a->layers[i].n_heads; big++) {
			struct variant v = variant_for(a, &a->layers[i], big);
			cudaError_t err = v.kernel ?
				allow_smem(v.kernel, v.bytes + table_bytes(a->shape->max_seqs)) : cudaErrorInvalidValue;

			if (err != cudaSuccess)
				return (int)err;
		}
	return (int)cudaSuccess;
}

/* An upper bound of the tiles, if every sequence has rows. */
static int64_t most_tiles(const struct attn_layer *l, const struct nvllm_batch *b, int rows)
{
	int64_t seqs = min(b->n_seqs, b->n_tokens / 2);

	return ((int64_t)b->n_tokens * l->group / rows + seqs) * l->n_kv;
}

extern "C" int attn_prefill(const struct nvllm_attention *a, nvllm_stream stream, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor y)
{
	const struct attn_layer *l = &a->layers[layer];
	struct prefill_job j = {};
	struct variant v;
	int64_t grid;
	int smem;

	if (!l->n_heads || b->n_tokens < 2 || !b->n_seqs)
		return (int)cudaSuccess;
	j.n_seqs = b->n_seqs, j.max_pages = b->max_pages;
	j.n_heads = l->n_heads, j.n_kv = l->n_kv, j.group = l->group, j.window = l->window;
	j.cap = l->cap * 1.442695041f;
	j.page_bytes = l->page_bytes;
	j.q_start = b->q_start, j.kv_len = b->kv_len, j.page_table = b->page_table;
	j.q = (const char *)a->q;
	j.pages = (const char *)a->kv[l->source];
	j.y = (char *)y.data, j.y_stride = y.stride, j.y_f32 = y.dtype == NVLLM_F32;
	/* the larger tiles read K and V half as often; where they would leave processors idle, the
	 * smaller ones are done sooner */
	v = variant_for(a, l, (int64_t)(b->n_tokens - b->n_seqs) * l->group / 128 * l->n_kv >= 2 * a->n_sms);
	smem = v.bytes + table_bytes(b->n_seqs);
	grid = min((int64_t)a->n_sms * max(1, min(4, (a->smem_max + 1024) / (smem + 1024))), most_tiles(l, b, v.rows));
	return (int)launch(v.kernel, dim3((unsigned)grid), dim3(THREADS), smem, stream, j);
}
