/* SPDX-License-Identifier: MIT */
/* amx.c - products of bf16 by AMX tiles: 16 rows of x and 16 of the weight at a time.
 *
 * TDPBF16PS adds 32 columns to a tile of sums by an arithmetic of its own (Intel SDM vol. 2:
 * even and odd columns apart, denormals taken as zero). It goes row by row of x: so with the
 * columns in order, 32 at a time, and every number of rows of x by way of tiles, a result has
 * the same bits whatever rows and panels are with it. Sums that are put down as float and
 * taken up again are the same. */
#include "amx_tile.h"
#include "bf16_panel.h"

#define CHUNK 8  /* tiles of a panel: of two panels they stay in the first-level cache while x passes by */

/* Tiles 0 to 3 are sums and 4 is x: r rows. 5 is a second of x, with 16 rows, or of the
 * weight; 6 and 7 are of the weight. */
#define SHAPE(r) [r] = { .palette = 1, .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, \
	.rows = { r, r, r, r, r, TILE, TILE, TILE } }
static const _Alignas(64) struct shape shapes[TILE + 1] = {
	SHAPE(1), SHAPE(2), SHAPE(3), SHAPE(4), SHAPE(5), SHAPE(6), SHAPE(7), SHAPE(8),
	SHAPE(9), SHAPE(10), SHAPE(11), SHAPE(12), SHAPE(13), SHAPE(14), SHAPE(15), SHAPE(16),
};
#undef SHAPE

/* Up to 16 rows of x, 32 columns after the other `step` bytes apart: as a tile, whose rows lie side by side, or,
 * what is left of the rows, where they are. */
struct rows {
	const char *x;
	int64_t step, stride;
};

INLINE struct rows rows_at(const struct product *p, int64_t i)
{
	const char *x = p->x + i * p->x_stride;

	return p->n_x - i < TILE ? (struct rows){ x, 64, p->x_stride } : (struct rows){ x, STEP, 64 };
}

/* Adds 32 columns to the sums of panel q of four. Three tiles take turns for the weight. */
INLINE void times(const int q, const char *tile)
{
	switch (q) {
	case 0:
		_tile_loadd(5, tile, 64);
		_tile_dpbf16ps(0, 4, 5);
		break;
	case 1:
		_tile_loadd(6, tile, 64);
		_tile_dpbf16ps(1, 4, 6);
		break;
	case 2:
		_tile_loadd(7, tile, 64);
		_tile_dpbf16ps(2, 4, 7);
		break;
	default:
		_tile_loadd(5, tile, 64);
		_tile_dpbf16ps(3, 4, 5);
	}
}

INLINE void zero_sums(const int n)
{
	_tile_zero(0);
	if (n > 1)
		_tile_zero(1);
	if (n > 2)
		_tile_zero(2);
	if (n > 3)
		_tile_zero(3);
}

/* Side by side. */
INLINE void store_sums(float *out, const int n)
{
	_tile_stored(0, out, GROUP * 4);
	if (n > 1)
		_tile_stored(1, out + L, GROUP * 4);
	if (n > 2)
		_tile_stored(2, out + 2 * L, GROUP * 4);
	if (n > 3)
		_tile_stored(3, out + 3 * L, GROUP * 4);
}

/* Up to 16 rows of x from row i on, as many as the tiles have, times np panels from panel j on.
 * A panel that is not BF16 becomes tiles here, one step ahead of the products: these wait for
 * each other (four of them hide that), and for what is stored, while the next tiles are made.
 * np and fmt are constants. */
INLINE void few_rows(const struct product *p, const struct tiles t, int64_t i, int64_t j, const int np,
	const enum fmt fmt)
{
	const struct rows r = rows_at(p, i);
	const char *w = t.w + j * t.panel_bytes;
	const int64_t n = whole_blocks(p->cols) / QK;

	zero_sums(np);
	for (int64_t b = fmt == FMT_BF16 ? 0 : -1; b < n; b++) {
		for (int q = 0; q < np && fmt != FMT_BF16 && b + 1 < n; q++)
			put_tile(p->scratch + ((b + 1) % 2 * np + q) * STEP, w + q * t.panel_bytes, b + 1, p->cols,
				fmt);
		if (b < 0)
			continue;
		written();
		_tile_loadd(4, r.x + b * r.step, r.stride);
		UNROLL(4)
		for (int q = 0; q < np; q++) {
			const char *tile = fmt == FMT_BF16 ? w + q * t.panel_bytes + b * STEP
				: p->scratch + (b % 2 * np + q) * STEP;

			if (fmt == FMT_BF16)
				ask_ahead(tile, fmt);
			times(q, tile);
		}
	}
	store_sums(p->out + i * GROUP + j * L, np);
}

/* All panels. */
INLINE void few(const struct product *p, const struct tiles t, int64_t i, const enum fmt fmt)
{
	int64_t j = 0;

	for (; j + 4 <= p->n_w; j += 4)
		few_rows(p, t, i, j, 4, fmt);
	for (; j < p->n_w; j++)
		few_rows(p, t, i, j, 1, fmt);
}

/* 32 rows of x from row i on times np panels (1 or 2) from panel j on, tiles [b, end) of them:
 * four products for four loads. Sums of the tiles before are in out. With each tile so many
 * lines of the panels are asked for. */
INLINE void square(const struct product *p, const struct tiles t, int64_t i, int64_t j, int64_t b,
	int64_t end, const int np, const char *ask, int64_t lines)
{
	const int64_t bytes = TILE * p->x_stride;
	const char *x = p->x + i * p->x_stride, *w = t.w + j * t.panel_bytes;
	float *out = p->out + i * GROUP + j * L, *below = out + TILE * GROUP;

	if (b == 0) {
		zero_sums(4);
	} else {
		_tile_loadd(0, out, GROUP * 4);
		_tile_loadd(2, below, GROUP * 4);
		if (np > 1) {
			_tile_loadd(1, out + L, GROUP * 4);
			_tile_loadd(3, below + L, GROUP * 4);
		}
	}
	for (; b < end; b++) {
		_tile_loadd(4, x + b * STEP, 64);
		_tile_loadd(6, w + b * STEP, 64);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(5, x + bytes + b * STEP, 64);
		_tile_dpbf16ps(2, 5, 6);
		if (np > 1) {
			_tile_loadd(7, w + t.panel_bytes + b * STEP, 64);
			_tile_dpbf16ps(1, 4, 7);
			_tile_dpbf16ps(3, 5, 7);
		}
		for (int64_t l = 0; l < lines; l++, ask += 64)
			for (int q = 0; q < np; q++)
				_mm_prefetch(ask + q * t.panel_bytes, _MM_HINT_T1);
	}
	_tile_stored(0, out, GROUP * 4);
	_tile_stored(2, below, GROUP * 4);
	if (np > 1) {
		_tile_stored(1, out + L, GROUP * 4);
		_tile_stored(3, below + L, GROUP * 4);
	}
}

/* Rows [0, last) of x, a multiple of 32, times np panels. far: they come from memory, and the next chunk of them
 * is asked for meanwhile; past the last panel that asks for nothing. (x comes by itself: to ask for it took longer.) */
INLINE void squares(const struct product *p, const struct tiles t, int64_t last, int64_t j, const int np, const bool far)
{
	const int64_t n = whole_blocks(p->cols) / QK, chunk = CHUNK * STEP / 64, times = last / (2 * TILE) * CHUNK;
	const int64_t lines = far ? (chunk + times - 1) / times : 0;

	for (int64_t b = 0, end; b < n; b = end) {
		const char *ask = t.w + (b + CHUNK < n ? j : j + np) * t.panel_bytes + (b + CHUNK < n ? b + CHUNK : 0) * STEP;

		end = n - b < CHUNK ? n : b + CHUNK;
		for (int64_t i = 0; i < last; i += 2 * TILE)
			square(p, t, i, j, b, end, np, ask + i / (2 * TILE) * CHUNK * lines * 64, lines);
	}
}

/* 16 rows of x or more times panels that are tiles. */
static void many(const struct product *p, const struct tiles t, const bool far)
{
	const int64_t pairs = p->n_x / (2 * TILE) * (2 * TILE), whole = p->n_x / TILE * TILE;
	int64_t j = 0;

	written();
	_tile_loadconfig(&shapes[TILE]);
	for (; pairs && j + 2 <= p->n_w; j += 2)
		squares(p, t, pairs, j, 2, far);
	if (pairs && j < p->n_w)
		squares(p, t, pairs, j, 1, far);
	if (pairs < whole)
		few(p, t, pairs, FMT_BF16);
	if (whole < p->n_x) {
		_tile_loadconfig(&shapes[p->n_x - whole]);
		few(p, t, whole, FMT_BF16);
	}
	_tile_release();
}

INLINE void mul(const struct product *p, const enum fmt fmt)
{
	if (p->n_x <= TILE) {
		_tile_loadconfig(&shapes[p->n_x]);
		few(p, (struct tiles){ p->w, p->panel_bytes }, 0, fmt);
		_tile_release();
		return;
	}
	many(p, all_tiles(p, fmt), fmt == FMT_BF16);
}

ALL(PRODUCT)

/* x comes as for the products of bf16.c. */
void isa_amx(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl vnni bf16 amx";
	ALL(TO_TABLE)
	isa_amx_int8(isa);
}
