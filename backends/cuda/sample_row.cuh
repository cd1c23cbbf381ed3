/* SPDX-License-Identifier: MIT */
/* A row as the block that draws from it sees it: sums over the block, the weight of a logit, what is kept
 * so far, and the search for a place in the running sum. Every function here is called by all threads
 * of the block, and gives all of them the same, unless it says "a thread's". */
#ifndef NVLLM_CUDA_SAMPLE_ROW_CUH
#define NVLLM_CUDA_SAMPLE_ROW_CUH

#include "sample.cuh"

#define THREADS 256 /* two logits of a tile each */
#define N_WARPS (THREADS / 32)
#define LIST 2048   /* tokens of which all are sorted */
#define RING 8192   /* tokens near a cut that may lie in shared memory */
#define FEW 1024    /* of a sample of the row; or those of a ring that are sorted */
#define NO_LAST 0x7fffffff /* row->last where tokens of row->cut are all kept */
static_assert(TILE == 2 * THREADS, "pick() counts on that");
static_assert(SAMPLE_MAX_VOCAB / TILE <= RING && 2 * LIST <= RING, "they share their room");

/* Logits from lo to hi, both included. None where lo > hi, or either is NaN. */
struct band { float lo, hi; };
/* What a pass over the row has found: the weight within the inner band, and that times its depths; of the rest of
 * the outer one, the ring, the weight and how many they are (sample_sweep.cuh). */
struct swept { uint64_t inner, ring; double deep; int n; };

/* Tokens in the order in which they are kept: by their logits, or by their distances from the mean. Keys are
 * larger for what is kept first. */
enum order { LOGITS, DISTANCES };
struct range { uint64_t lo, hi; };

/* A cut that is looked for (sample_cut.cuh). */
struct cut {
	enum order order;
	bool found;
	uint64_t want;           /* what is to be kept weighs at least */
	struct range in;         /* keys among which the cut is */
	struct range next;       /* and where it is looked for next */
	uint64_t above, through; /* weights of what has larger keys; and with those of `in` (0 = not known) */
	int n, listed;           /* tokens with keys of `in`; of the ring gathered last, <= RING if it is whole */
	int samples, passes;
};

/* What the threads share, written by the first one between barriers. */
struct scratch {
	uint64_t sums[N_WARPS];
	uint64_t rest;
	int found;
	uint32_t count;
	bool counts;             /* a long row's tokens weigh 1 each */
	struct band outer, inner;
	struct swept swept;
	struct cut cut;
};

struct row {
	const float *x;
	const uint8_t *codes;              /* NULL = no penalties */
	const struct nvllm_sample_row *r;
	int n, n_tiles;
	int best;                          /* the lowest id of max */
	float max;
	double inv_t, unit;                /* unit: 2^unit_bits */
	double u;                          /* the random number */
	struct scale scale;
	bool rough;                        /* weights in single precision: rows of which all must be weighed */
	/* Kept: x >= floor; x > cut, or x = cut and id <= last; |y - mean| <= far, where far >= 0. */
	float floor, cut, least;           /* least: what is below has no weight */
	int last;
	double mean, far;
	uint64_t all;                      /* what top_p is a share of; 0 = what is above floor */
	/* Shared memory: */
	struct scratch *s;
	uint64_t *ring;                    /* [RING] */
	uint64_t *keys, *sums;             /* a list, and running sums of its weights: [LIST] where the ring
	                                    * would be, or [FEW] beside it */
	uint64_t *mass;                    /* [n_tiles] */
	float *tops;                       /* [n_tiles] maxima */
};

static inline size_t shared_bytes(int32_t n_tiles)
{
	return sizeof(struct scratch) + (RING + 2 * FEW) * sizeof(uint64_t) +
		(size_t)n_tiles * (sizeof(uint64_t) + sizeof(float));
}

DEV void row_begin(struct row *row, const struct sample_job *job, int i)
{
	row->x = (const float *)((const char *)job->logits + i * job->stride);
	row->codes = job->greedy ? NULL : job->codes + (int64_t)i * job->n_tiles * TILE;
	row->r = job->rows + i;
	row->n = job->vocab, row->n_tiles = job->n_tiles;
	row->unit = (double)(1ull << job->unit_bits);
	row->rough = false;
	row->floor = row->cut = -INF;
	row->last = NO_LAST;
	row->mean = 0, row->far = -1;
	row->all = 0;
	row->s = (struct scratch *)dyn_smem();
	row->ring = row->keys = (uint64_t *)(row->s + 1);
	row->sums = row->keys + LIST;
	row->mass = row->ring + RING + 2 * FEW;
	row->tops = (float *)(row->mass + job->n_tiles);
}

/* ---- over the block ---- */
DEV uint64_t block_sum(struct scratch *s, uint64_t x)
{
	for (int o = 16; o; o >>= 1)
		x += __shfl_xor_sync(FULL, x, o);
	__syncthreads(); /* who reads sums of before has done so */
	if ((threadIdx.x & 31) == 0)
		s->sums[threadIdx.x >> 5] = x;
	__syncthreads();
	x = 0;
	for (int w = 0; w < N_WARPS; w++)
		x += s->sums[w];
	return x;
}

DEV uint64_t block_max(struct scratch *s, uint64_t x)
{
	for (int o = 16; o; o >>= 1)
		x = max(x, __shfl_xor_sync(FULL, x, o));
	__syncthreads();
	if ((threadIdx.x & 31) == 0)
		s->sums[threadIdx.x >> 5] = x;
	__syncthreads();
	x = 0;
	for (int w = 0; w < N_WARPS; w++)
		x = max(x, s->sums[w]);
	return x;
}

/* A thread's: the sum of x up to its own, and before it; *all: of all threads. */
DEV uint64_t block_scan(struct scratch *s, uint64_t x, uint64_t *all, uint64_t *before)
{
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
	uint64_t own = x;

	for (int o = 1; o < 32; o <<= 1) {
		uint64_t y = __shfl_up_sync(FULL, x, o);

		x += lane >= o ? y : 0;
	}
	__syncthreads();
	if (lane == 31)
		s->sums[warp] = x;
	__syncthreads();
	*all = 0;
	for (int w = 0; w < N_WARPS; w++) {
		uint64_t y = s->sums[w];

		x += w < warp ? y : 0;
		*all += y;
	}
	*before = x - own;
	return x;
}

/* ---- a thread's ---- */
/* The count of a code that says "many". */
DEV int count_again(const struct nvllm_sample_row *r, int id)
{
	int n = 0;

	for (int i = first_output(r); i < r->n_tokens; i++)
		n += r->tokens[i] == id;
	return n;
}

OUTLINE float decode(const struct nvllm_sample_row *r, float x, int id, uint32_t code)
{
	return penalised(r, x, code < MANY ? (int)code - 1 : count_again(r, id));
}

DEV float with_code(const struct row *row, float x, int id, uint32_t code)
{
	return clean(code ? decode(row->r, x, id, code) : x);
}

DEV float logit(const struct row *row, int id)
{
	return with_code(row, row->x[id], id, row->codes ? row->codes[id] : 0);
}

DEV void with_codes(const struct row *row, float v[4], int id)
{
	uint32_t four = row->codes ? *(const uint32_t *)(row->codes + id) : 0;

#pragma unroll
	for (int c = 0; c < 4; c++)
		v[c] = with_code(row, v[c], id + c, four >> 8 * c & 0xff);
}

/* The tile's logits, as load_tile() has them, of a row with penalties. w is in memory, so that v is not. */
OUTLINE void load_coded_(const struct row *row, float w[LANES], int tile, int lane)
{
	load_tile(w, row->x, tile * TILE, row->n, lane);
	for (int j = 0; j < LANES / 4; j++)
		with_codes(row, w + 4 * j, tile * TILE + place(4 * j, lane));
}
DEV void load_coded(const struct row *row, float v[LANES], int tile, int lane)
{
	float w[LANES];

	load_coded_(row, w, tile, lane);
#pragma unroll
	for (int k = 0; k < LANES; k++)
		v[k] = w[k];
}

/* Of any row. NaN stays NaN where there are no penalties. */
DEV void load_logits(const struct row *row, float v[LANES], int tile, int lane)
{
	if (row->codes)
		load_coded(row, v, tile, lane);
	else
		load_tile(v, row->x, tile * TILE, row->n, lane);
}

/* (x_m - x) / temperature. */
DEV double depth(const struct row *row, float x) { return ((double)row->max - (double)x) * row->inv_t; }
DEV double weight_exact(const struct row *row, float x) { return exp(-depth(row, x)); }

/* Of d = x - max, in the precision of long rows, of which no token counts much. */
DEV float weight_single(float d, struct scale s) { return exp2_fast(fmaf(d, s.hi, d * s.lo)); }

/* In steps of the unit; -inf has none. */
DEV uint64_t weight_rough(const struct row *row, float x)
{
	float d = x - row->max;

	return d > -INF ? (uint64_t)(weight_single(d, row->scale) * (float)row->unit) : 0;
}
DEV uint64_t weight(const struct row *row, float x)
{
	if (row->rough)
		return weight_rough(row, x);
	return x > -INF ? (uint64_t)(weight_exact(row, x) * row->unit + 0.5) : 0;
}

/* |-log p - H|, Meister et al. 2022: both have the logarithm of the sum of weights, which cancels. */
DEV double distance(const struct row *row, float x) { return fabs(depth(row, x) - row->mean); }

DEV bool kept(const struct row *row, float x, int id)
{
	return x >= row->floor && x > -INF && (x > row->cut || (x == row->cut && id <= row->last)) &&
		(row->far < 0 || distance(row, x) <= row->far);
}

/* ---- a place in the running sum ---- */
enum measure { WEIGHTS, EQUALS }; /* of what is kept: its weight; 1 for a logit of cut */

DEV uint64_t measure(const struct row *row, enum measure of, float x, int id)
{
	if (of == EQUALS)
		return x == row->cut && x > -INF;
	return kept(row, x, id) ? weight(row, x) : 0;
}

/* Where a running sum of whole numbers that ends at `all` first exceeds u * all, it first exceeds this. */
DEV uint64_t target_of(uint64_t all, double u)
{
	uint64_t t = (uint64_t)(u * (double)all);

	return t < all ? t : all ? all - 1 : 0;
}

/* The first id at which the running measure, whose sums over tiles are in row->mass, exceeds t. Where the
 * tile's own sum is less than row->mass says (that may be of single precision): the last id in it that counts. */
DEV int pick(struct row *row, enum measure of, uint64_t t)
{
	uint64_t base = 0, all, before, to, w;
	int tile, id;

	if (threadIdx.x == 0)
		row->s->found = -1;
	for (int from = 0; from < row->n_tiles; from += THREADS) {
		int i = from + threadIdx.x;

		to = block_scan(row->s, i < row->n_tiles ? row->mass[i] : 0, &all, &before);
		if (t >= base + before && t < base + to)
			row->s->found = i, row->s->rest = t - base - before;
		base += all;
	}
	__syncthreads();
	tile = row->s->found;
	t = row->s->rest;
	if (tile < 0)
		return row->best;
	id = tile * TILE + 2 * threadIdx.x;
	w = id < row->n ? measure(row, of, logit(row, id), id) : 0;
	to = id + 1 < row->n ? measure(row, of, logit(row, id + 1), id + 1) : 0;
	to = block_scan(row->s, w + to, &all, &before);
	if (!all)
		return row->best;
	t = min(t, all - 1);
	if (t >= before && t < to)
		row->s->found = t < before + w ? id : id + 1;
	__syncthreads();
	return row->s->found;
}

#endif
