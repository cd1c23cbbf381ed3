/* SPDX-License-Identifier: MIT */
/* amx_int8.c - quantised products by AMX tiles of bytes: 16 rows of x and 16 of the weight at a
 * time; fewer rows of x are VNNI's. A block's sum is an exact integer and is scaled and added as
 * avx512_panel.h does it, so the two give the same bits and may take turns.
 *
 * A tile of sums is good for one block, as the next has other scales: it goes by memory to 16
 * registers of float, one a row of x. With activations of 16 bits, two bytes each, that is two
 * tiles of sums a block; with those of 12 bits, one: a nibble has room for a factor of 16. The
 * tiles' unit works on blocks to come while the others scale this one; but its own loads (9 cycles),
 * products and stores (16 each) go one after the other. */
#include "amx_tile.h"
#include "avx512_panel.h"

enum {
	SUMS = TILE * L,  /* integers of a tile of sums */
	BYTES = QK * L,   /* a block's weights as bytes: a tile */
};

/* Two sets take turns: sums are tiles 0 and 1, or 6 and 7, x is 2 and 3, and the weight, four of its columns a row,
 * 4 or 5. So many columns of each. */
#define SHAPE(columns) { .palette = 1, .row_bytes = { 64, 64, columns, columns, 64, 64, 64, 64 }, \
	.rows = { TILE, TILE, TILE, TILE, (columns) / 4, (columns) / 4, TILE, TILE } }
static const _Alignas(64) struct shape two_blocks = SHAPE(2 * QK), whole_block = SHAPE(QK), half_block = SHAPE(QK / 2);
#undef SHAPE

/* How the bytes of x make a number: alone, 254 high + low (planes), 256 high + low (words), and 16 high + low, which
 * is one product: its 64 columns are high and low, and those of the weight 16 times its nibbles and its nibbles. */
enum parts { ALONE = 0, ONE = 16, PLANES = 254, WORDS = 256 };

/* A block of 16 rows of x: with two bytes a number high[32], low[32] of each, else the bytes; then d and s of
 * all. */
INLINE int row_bytes(const enum parts parts)
{
	return parts == ALONE ? QK : 2 * QK;
}

INLINE int block_bytes(const enum parts parts)
{
	return TILE * (row_bytes(parts) + 2 * (int)sizeof(float));
}

/* Columns [0, 32) of a block, or half of it: the sums of 16 rows of x, high and low apart. */
#define MULTIPLY(high, low, x_high, x_low, weight) \
	do { \
		_tile_loadd(weight, w, 64); \
		_tile_loadd(x_high, x, row_bytes(parts)); \
		_tile_zero(high); \
		if (with_sign) \
			_tile_dpbssd(high, x_high, weight); \
		else \
			_tile_dpbsud(high, x_high, weight); \
		if (parts < PLANES) \
			break; \
		_tile_loadd(x_low, x + QK, row_bytes(parts)); \
		_tile_zero(low); \
		if (with_sign) \
			_tile_dpbssd(low, x_low, weight); \
		else \
			_tile_dpbsud(low, x_low, weight); \
	} while (0)

INLINE void multiply(const int set, const char *x, const char *w, const enum parts parts, const bool with_sign)
{
	if (set == 0)
		MULTIPLY(0, 1, 2, 3, 4);
	else
		MULTIPLY(6, 7, 3, 2, 5);
}

INLINE void put_sums(int32_t *sums, const int set, const enum parts parts)
{
	if (set == 0) {
		_tile_stored(0, sums, 64);
		if (parts >= PLANES)
			_tile_stored(1, sums + SUMS, 64);
	} else {
		_tile_stored(6, sums, 64);
		if (parts >= PLANES)
			_tile_stored(7, sums + SUMS, 64);
	}
	written();
}

/* Row a of the sums, the number that avx512_panel.h's dot() gives. */
INLINE __m512 row_of(const int32_t *sums, const int a, const enum parts parts)
{
	const __m512i n = _mm512_loadu_si512(sums + a * L);

	if (parts < PLANES)
		return _mm512_cvtepi32_ps(n);
	if (parts == PLANES)
		return of_planes(n, _mm512_loadu_si512(sums + SUMS + a * L));
	return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(n, 8), _mm512_loadu_si512(sums + SUMS + a * L)));
}

/* Adds rows [first, first + 8) of the sums with their scales to those of the blocks before; x: d and s of the rows. */
INLINE void add_rows(__m512 *total, const int32_t *sums, const struct scale s, const float *x, const int first,
	const enum parts parts, const bool minimum)
{
	UNROLL(8)
	for (int a = first; a < first + 8; a++) {
		const __m512 dx = _mm512_mul_ps(s.d, _mm512_set1_ps(x[a]));

		total[a] = _mm512_fmadd_ps(row_of(sums, a, parts), dx, total[a]);
		if (minimum)
			total[a] = _mm512_fmadd_ps(s.m, _mm512_set1_ps(x[TILE + a]), total[a]);
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

/* A block's weights, taken apart. */
INLINE int apart_bytes(const enum parts parts)
{
	return parts == ONE ? 2 * BYTES : BYTES;
}

/* The weights of block b as bytes: from the panel, or from where its nibbles were taken apart. */
INLINE const char *bytes_at(const char *panel, const char *apart, int64_t b, const enum parts parts, const struct form f)
{
	return f.bytes == 32 ? block_at(panel, b, f) : apart + b * apart_bytes(parts);
}

/* 16 rows of x, a panel and its nibbles taken apart; steps of it: blocks, or halves where they have two scales. */
struct walk {
	const char *x, *panel, *apart;
	int64_t n;
};

INLINE void begin(const struct walk *t, int64_t i, const int set, const enum parts parts, const struct form f)
{
	const int64_t b = i / f.n_scales, h = i % f.n_scales;

	multiply(set, t->x + b * block_bytes(parts) + h * QK / 2,
		bytes_at(t->panel, t->apart, b, parts, f) + h * BYTES / 2, parts, f.bytes == 32 && f.minimum == NONE);
}

/* Step i, while the tiles' unit multiplies for the one after the next; the next one's sums go to memory in time. */
INLINE void step(const struct walk *t, __m512 *total, int32_t (*sums)[2 * SUMS], int64_t i, const int set,
	const enum parts parts, const struct form f)
{
	const int64_t b = i / f.n_scales, h = i % f.n_scales;
	const float *x = (const float *)(t->x + b * block_bytes(parts) + TILE * row_bytes(parts));
	struct scale s;

	if (i + 2 < t->n)
		begin(t, i + 2, set, parts, f);
	written();
	s = scale_at(t->panel, b, h, f);
	add_rows(total, sums[set], s, x, 0, parts, f.minimum != NONE);
	if (i + 1 < t->n)
		put_sums(sums[1 - set], 1 - set, parts);
	add_rows(total, sums[set], s, x, 8, parts, f.minimum != NONE);
}

/* A panel times 16 rows of x; parts and f are constants. */
INLINE void tile16(float *out, const char *x, const char *panel, const char *apart, int64_t n_blocks,
	const enum parts parts, const struct form f)
{
	const struct walk t = { x, panel, apart, n_blocks * f.n_scales };
	_Alignas(64) int32_t sums[2][2 * SUMS];
	__m512 total[TILE];

	UNROLL(16)
	for (int a = 0; a < TILE; a++)
		total[a] = _mm512_setzero_ps();
	begin(&t, 0, 0, parts, f);
	put_sums(sums[0], 0, parts);
	if (t.n > 1)
		begin(&t, 1, 1, parts, f);
	for (int64_t i = 0; i < t.n; i += 2) {
		step(&t, total, sums, i, 0, parts, f);
		if (i + 1 < t.n)
			step(&t, total, sums, i + 1, 1, parts, f);
	}
	UNROLL(16)
	for (int a = 0; a < TILE; a++)
		_mm512_storeu_ps(out + a * GROUP, total[a]);
}

/* 16 times the nibbles that go with elements 4g.. of x. */
INLINE __m512i high_nibbles(const char *block, int g)
{
	const __m512i v = part(block, g % 4);

	return _mm512_and_si512(g < 4 ? _mm512_slli_epi16(v, 4) : v, _mm512_set1_epi8((char)0xf0));
}

/* A panel's nibbles as bytes, each block a tile. */
INLINE void take_apart(char *dst, const char *panel, int64_t n_blocks, const enum parts parts, const struct form f)
{
	for (int64_t b = 0; b < n_blocks; b++, dst += apart_bytes(parts)) {
		const char *block = block_at(panel, b, f);
		char *low = parts == ONE ? dst + BYTES : dst;

		UNROLL(8)
		for (int g = 0; g < 8; g++) {
			_mm512_storeu_si512(low + g * 64, nibbles(block, g));
			if (parts == ONE)
				_mm512_storeu_si512(dst + g * 64, high_nibbles(block, g));
		}
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

/* Whole tiles of rows of x; parts and f are constants. */
INLINE void whole_tiles(const struct product *p, int64_t n, const enum parts parts, const struct form f)
{
	const int64_t n_blocks = p->cols / QK;

	_tile_loadconfig(f.n_scales == 2 ? &half_block : parts == ONE ? &two_blocks : &whole_block);
	for (int64_t j = 0; j < p->n_w; j++) {
		const char *panel = p->w + j * p->panel_bytes;

		if (f.bytes == 16)
			take_apart(p->scratch, panel, n_blocks, parts, f);
		written();
		for (int64_t i = 0; i < n; i += TILE)
			tile16(p->out + i * GROUP + j * L, p->x + i * p->x_stride, panel, p->scratch, n_blocks, parts, f);
	}
	_tile_release();
}

/* d and s of row i of 16. */
INLINE void put_scales(char *block, int64_t i, const void *scales, const enum parts parts)
{
	float *to = (float *)(block + TILE * row_bytes(parts)) + i;

	memcpy(to, scales, sizeof(*to));
	memcpy(to + TILE, (const char *)scales + sizeof(*to), sizeof(*to));
}

static void to_tile_q8(char *tile, int64_t i, const char *row, int64_t cols)
{
	for (const struct q8_block *b = (const void *)row; cols > 0; cols -= QK, b++, tile += block_bytes(ALONE)) {
		_mm256_storeu_si256((__m256i *)(tile + i * QK), _mm256_loadu_si256((const __m256i *)b->q));
		put_scales(tile, i, &b->d, ALONE);
	}
}

static void to_tile_planes(char *tile, int64_t i, const char *row, int64_t cols)
{
	for (const struct q16_block *b = (const void *)row; cols > 0; cols -= QK, b++, tile += block_bytes(PLANES)) {
		_mm512_storeu_si512(tile + i * 2 * QK, _mm512_loadu_si512(b));
		put_scales(tile, i, &b->d, PLANES);
	}
}

/* Numbers of 12 bits, of planes: high = floor((x + 8) / 16), so that low is -8 to 7. */
static void to_tile_q12(char *tile, int64_t i, const char *row, int64_t cols)
{
	for (const struct q16_block *b = (const void *)row; cols > 0; cols -= QK, b++, tile += block_bytes(ONE)) {
		const __m512i high = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)b->high));
		const __m512i low = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)b->low));
		const __m512i x = _mm512_add_epi16(_mm512_mullo_epi16(high, _mm512_set1_epi16(254)), low);
		const __m512i top = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(8)), 4);
		char *to = tile + i * 2 * QK;

		_mm256_storeu_si256((__m256i *)to, _mm512_cvtepi16_epi8(top));
		_mm256_storeu_si256((__m256i *)(to + QK),
			_mm512_cvtepi16_epi8(_mm512_sub_epi16(x, _mm512_slli_epi16(top, 4))));
		put_scales(tile, i, &b->d, ONE);
	}
}

static void to_tile_words(char *tile, int64_t i, const char *row, int64_t cols)
{
	for (const struct q16_block *b = (const void *)row; cols > 0; cols -= QK, b++, tile += block_bytes(WORDS)) {
		split_words(tile + i * 2 * QK, (const char *)b);
		put_scales(tile, i, &b->d, WORDS);
	}
}

INLINE void mul(const struct product *p, const enum act act, const enum fmt fmt, const struct form f)
{
	const enum parts parts = act == ACT_Q8 ? ALONE : act == ACT_Q12 ? ONE : f.bytes == 16 ? PLANES : WORDS;
	const int64_t n = p->n_x / TILE * TILE;
	struct product rest = *p;

	if (n)
		whole_tiles(p, n, parts, f);
	rest.x += n * p->x_stride;
	rest.out += n * GROUP;
	rest.n_x -= n;
	if (rest.n_x)
		vnni_mul(act == ACT_Q12 ? ACT_Q16 : act, fmt, &rest);
}

/* The forms as avx512_panel.h has them. */
#define PRODUCT(form, act) \
	static void mul_##form##_##act(const struct product *p) \
	{ \
		mul(p, ACT_##act, FMT_##form, form(act, NULL)); \
	}
/* and Q12's have rows like Q16's */
#define FORM_Q12(...) FORM_Q16(__VA_ARGS__)
WHOLE_NUMBERS(PRODUCT, Q8)
WHOLE_NUMBERS(PRODUCT, Q16)
NIBBLES(PRODUCT, Q12)
#undef PRODUCT

void isa_amx_int8(struct isa *isa)
{
	WHOLE_NUMBERS(TO_TABLE, Q8)
	WHOLE_NUMBERS(TO_TABLE, Q16)
	NIBBLES(TO_TABLE, Q12)
#define TILES(form, act) \
	isa->to_tile[ACT_Q8][FMT_##form] = to_tile_q8; \
	isa->to_tile[ACT_Q16][FMT_##form] = form(Q8, NULL).bytes == 16 ? to_tile_planes : to_tile_words;
	WHOLE_NUMBERS(TILES, Q16)
#undef TILES
#define TILES(form, act) isa->to_tile[ACT_##act][FMT_##form] = to_tile_q12;
	NIBBLES(TILES, Q12)
#undef TILES
}
