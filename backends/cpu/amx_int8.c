/* SPDX-License-Identifier: MIT */
/* amx_int8.c - quantised products by AMX tiles of bytes: 16 rows of x and 16 of the weight at a
 * time; fewer rows of x are VNNI's. A block's sum is an exact integer and is scaled and added as
 * avx512_panel.h does it, so the two give the same bits and may take turns.
 *
 * A tile of sums is good for one block, as the next has other scales: it goes by memory to 16
 * registers of float, one a row of x. With activations of 16 bits, two bytes each, that is two
 * tiles of sums a block. The tiles' units work on the block after while the other units scale
 * this one: some 60 cycles (8 bits: 40) for a block of 16 x 16 x 32, where VNNI needs 176 (96)
 * and a product of bf16 16, counted in micro-operations and not measured. */
#include "amx_tile.h"
#include "avx512_panel.h"

enum {
	SUMS = TILE * L,  /* integers of a tile of sums */
	BYTES = 32 * L,   /* a block's weights as bytes: a tile */
};

/* Tiles 0 and 1 are sums, 2 and 3 are x, 4 is of the weight: four of its columns a row. */
#define SHAPE(columns) { .palette = 1, .row_bytes = { 64, 64, columns, columns, 64 }, \
	.rows = { TILE, TILE, TILE, TILE, (columns) / 4 } }
static const _Alignas(64) struct shape whole_block = SHAPE(QK), half_block = SHAPE(QK / 2);
#undef SHAPE

/* Rows of x: blocks, and where a block's two bytes a number lie. */
struct rows {
	const char *q, *scales;          /* row 0 */
	int64_t q_stride, scales_stride; /* bytes, to the next row */
	int q_bytes;                     /* to the next block */
	int low;                         /* from the high bytes to the low ones */
};

/* How the bytes of x make a number: alone, 254 high + low (planes), 256 high + low (words). */
enum parts { ALONE = 0, PLANES = 254, WORDS = 256 };

/* Columns [0, 32) of a block, or half of it: the sums of 16 rows of x, high and low apart. */
INLINE void multiply(int32_t *sums, const char *q, const char *w, const struct rows r, const enum parts parts,
	const bool with_sign)
{
	_tile_loadd(4, w, 64);
	_tile_loadd(2, q, r.q_stride);
	_tile_zero(0);
	if (with_sign)
		_tile_dpbssd(0, 2, 4);
	else
		_tile_dpbsud(0, 2, 4);
	if (parts != ALONE) {
		_tile_loadd(3, q + r.low, r.q_stride);
		_tile_zero(1);
		if (with_sign)
			_tile_dpbssd(1, 3, 4);
		else
			_tile_dpbsud(1, 3, 4);
	}
	_tile_stored(0, sums, 64);
	if (parts != ALONE)
		_tile_stored(1, sums + SUMS, 64);
	written();
}

/* Row a of the sums, the number that avx512_panel.h's dot() gives. */
INLINE __m512 row_of(const int32_t *sums, const int a, const enum parts parts)
{
	const __m512i n = _mm512_loadu_si512(sums + a * L);

	if (parts == ALONE)
		return _mm512_cvtepi32_ps(n);
	if (parts == PLANES)
		return of_planes(n, _mm512_loadu_si512(sums + SUMS + a * L));
	return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(n, 8), _mm512_loadu_si512(sums + SUMS + a * L)));
}

/* Adds 16 rows of sums with their scales to those of the blocks before; x: the scales of row 0. */
INLINE void add_rows(__m512 *total, const int32_t *sums, const struct scale s, const char *x, int64_t stride,
	const enum parts parts, const bool minimum)
{
	UNROLL(16)
	for (int a = 0; a < TILE; a++, x += stride) {
		const __m512 dx = _mm512_mul_ps(s.d, _mm512_set1_ps(*(const float *)x));

		total[a] = _mm512_fmadd_ps(row_of(sums, a, parts), dx, total[a]);
		if (minimum)
			total[a] = _mm512_fmadd_ps(s.m, _mm512_set1_ps(((const float *)x)[1]), total[a]);
	}
}

/* The step of a panel that has block b, and the block. */
INLINE const char *step_at(const char *panel, int64_t b, const struct form f)
{
	return panel + b / blocks_of(f) * step_bytes(f);
}

INLINE const char *block_at(const char *panel, int64_t b, const struct form f)
{
	return step_at(panel, b, f) + b % blocks_of(f) * f.bytes * L;
}

INLINE struct scale scale_at(const char *panel, int64_t b, int64_t h, const struct form f)
{
	return scale_of(step_at(panel, b, f) + blocks_of(f) * f.bytes * L, (int)(b % blocks_of(f)), (int)h, f);
}

/* The weights of block b as bytes: from the panel, or from where its nibbles were taken apart. */
INLINE const char *bytes_at(const char *panel, const char *apart, int64_t b, const struct form f)
{
	return f.bytes == 32 ? block_at(panel, b, f) : apart + b * BYTES;
}

/* A panel times 16 rows of x; parts and f are constants. */
INLINE void tile16(float *out, const struct rows r, const char *panel, const char *apart, int64_t n_blocks,
	const enum parts parts, const struct form f)
{
	const int64_t n = n_blocks * f.n_scales;
	const bool with_sign = f.bytes == 32 && f.minimum == NONE;
	_Alignas(64) int32_t sums[2][2 * SUMS];
	__m512 total[TILE];

	UNROLL(16)
	for (int a = 0; a < TILE; a++)
		total[a] = _mm512_setzero_ps();
	for (int64_t i = 0; i <= n; i++) {
		const int64_t b = i / f.n_scales, h = i % f.n_scales;
		const int64_t last = (i - 1) / f.n_scales, last_h = (i - 1) % f.n_scales;

		if (i < n)
			multiply(sums[i % 2], r.q + b * r.q_bytes + h * 16, bytes_at(panel, apart, b, f) + h * BYTES / 2,
				r, parts, with_sign);
		if (i > 0)
			add_rows(total, sums[(i - 1) % 2], scale_at(panel, last, last_h, f),
				r.scales + last * f.x_bytes, r.scales_stride, parts, f.minimum != NONE);
	}
	UNROLL(16)
	for (int a = 0; a < TILE; a++)
		_mm512_storeu_ps(out + a * GROUP, total[a]);
}

/* A panel's nibbles as bytes, each block a tile. */
INLINE void take_apart(char *dst, const char *panel, int64_t n_blocks, const struct form f)
{
	for (int64_t b = 0; b < n_blocks; b++, dst += BYTES) {
		const char *block = block_at(panel, b, f);

		UNROLL(8)
		for (int g = 0; g < 8; g++)
			_mm512_storeu_si512(dst + g * 64, nibbles(block, g));
	}
}

/* Words of a block of x in the order PAIR as high and low bytes in order, 256 high + low. */
INLINE void split_words(char *dst, const char *q)
{
	const __m256i order = _mm256_set_epi8(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0,
		15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
	const __m512i v = _mm512_loadu_si512(q);
	const __m512i low = _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8);
	const __m256i top = _mm512_cvtepi16_epi8(_mm512_srai_epi16(_mm512_sub_epi16(v, low), 8));

	_mm256_storeu_si256((__m256i *)dst, _mm256_shuffle_epi8(top, order));
	_mm256_storeu_si256((__m256i *)(dst + QK), _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(v), order));
}

/* n rows of x, 64 at most: words are split to scratch, two bytes a number. */
INLINE struct rows rows_of(const struct product *p, int64_t n, const enum parts parts, const struct form f)
{
	const int64_t n_blocks = p->cols / QK, stride = n_blocks * 2 * QK;
	struct rows r = { p->x, p->x + f.x_scale, p->x_stride, p->x_stride, f.x_bytes, QK };

	if (parts != WORDS)
		return r;
	for (int64_t i = 0; i < n; i++)
		for (int64_t b = 0; b < n_blocks; b++)
			split_words(p->scratch + i * stride + b * 2 * QK, p->x + i * p->x_stride + b * f.x_bytes);
	r.q = p->scratch;
	r.q_stride = stride;
	r.q_bytes = 2 * QK;
	return r;
}

/* Whole tiles of rows of x; parts and f are constants. */
INLINE void whole_tiles(const struct product *p, int64_t n, const enum parts parts, const struct form f)
{
	const int64_t n_blocks = p->cols / QK;
	const struct rows r = rows_of(p, n, parts, f);

	_tile_loadconfig(f.n_scales == 2 ? &half_block : &whole_block);
	for (int64_t j = 0; j < p->n_w; j++) {
		const char *panel = p->w + j * p->panel_bytes;

		if (f.bytes == 16)
			take_apart(p->scratch, panel, n_blocks, f);
		written();
		for (int64_t i = 0; i < n; i += TILE) {
			struct rows here = r;

			here.q += i * r.q_stride;
			here.scales += i * r.scales_stride;
			tile16(p->out + i * GROUP + j * L, here, panel, p->scratch, n_blocks, parts, f);
		}
	}
	_tile_release();
}

INLINE void mul(const struct product *p, const enum act act, const enum fmt fmt, const struct form f)
{
	const enum parts parts = act == ACT_Q8 ? ALONE : f.bytes == 16 ? PLANES : WORDS;
	const int64_t n = p->n_x / TILE * TILE;
	struct product rest = *p;

	if (n)
		whole_tiles(p, n, parts, f);
	rest.x += n * p->x_stride;
	rest.out += n * GROUP;
	rest.n_x -= n;
	if (rest.n_x)
		vnni_mul(act, fmt, &rest);
}

/* The forms as avx512_panel.h has them. */
#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul(p, ACT_##act, FMT_##form, form(act, NULL)); \
	}
WHOLE_NUMBERS(PRODUCT, Q8)
WHOLE_NUMBERS(PRODUCT, Q16)
#undef PRODUCT

void isa_amx_int8(struct isa *isa)
{
	WHOLE_NUMBERS(TO_TABLE, Q8)
	WHOLE_NUMBERS(TO_TABLE, Q16)
}
