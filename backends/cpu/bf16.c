/* SPDX-License-Identifier: MIT */
/* bf16.c - products of bf16 by AVX-512 BF16 (Cooper Lake, Zen 4 onward): VDPBF16PS adds to each lane
 * the products of a pair of columns, by an arithmetic of its own (Intel SDM vol. 2: the odd column
 * first, denormals taken as zero). A lane goes through its pairs in order, whatever rows and panels
 * are with it; sums that are put down as float and taken up again are the same.
 *
 * With 16 rows of x and more, panels go by two and rows by eight: sixteen products for two loads
 * of the weight and eight of x. */
#include <string.h>

#include "bf16_panel.h"

#define CHUNK 8 /* tiles of a panel: of two panels 16 KiB, beside 8 KiB of 16 rows of x */

/* Two columns of a row of x, to every lane. */
INLINE __m512bh pair_of(const char *x)
{
	int32_t v;

	memcpy(&v, x, sizeof(v));
	return (__m512bh)_mm512_set1_epi32(v);
}

/* Adds 32 columns: np and nx are constants. */
INLINE void add_tile(__m512 *sum, const char *w, int64_t panel_bytes, const char *x, const int64_t stride,
	const int np, const int nx)
{
	UNROLL(4)
	for (int k = 0; k < TILE_ROWS; k++) {
		__m512bh v[4];

		UNROLL(4)
		for (int q = 0; q < np; q++)
			v[q] = (__m512bh)_mm512_loadu_si512(w + q * panel_bytes + 64 * k);
		UNROLL(8)
		for (int a = 0; a < nx; a++) {
			const __m512bh pair = pair_of(x + a * stride + 4 * k);

			UNROLL(4)
			for (int q = 0; q < np; q++)
				sum[q * nx + a] = _mm512_dpbf16_ps(sum[q * nx + a], v[q], pair);
		}
	}
}

/* nx rows of x times np panels from panel j on, tiles [b, end) of them. Sums of the tiles before
 * are in out. far: the panels come from memory. */
INLINE void some(float *out, const char *x, const int64_t step, const int64_t stride, const struct tiles t, int64_t j,
	int64_t b, int64_t end, const int np, const int nx, const bool far)
{
	const char *w = t.w + j * t.panel_bytes;
	__m512 sum[16]; /* np * nx of them */

	UNROLL(4)
	for (int q = 0; q < np; q++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			sum[q * nx + a] = b ? _mm512_loadu_ps(out + a * GROUP + q * L) : _mm512_setzero_ps();
	for (; b < end; b++) {
		for (int q = 0; q < np && far; q++)
			ask_ahead(w + q * t.panel_bytes + b * STEP, FMT_BF16);
		add_tile(sum, w + b * STEP, t.panel_bytes, x + b * step, stride, np, nx);
	}
	UNROLL(4)
	for (int q = 0; q < np; q++)
		UNROLL(8)
		for (int a = 0; a < nx; a++)
			_mm512_storeu_ps(out + a * GROUP + q * L, sum[q * nx + a]);
}

/* Rows [0, last) of x, a multiple of 16, times np panels: a chunk of these stays in the cache while x passes by. */
INLINE void many(const struct product *p, const struct tiles t, int64_t last, int64_t j, const int np, const bool far)
{
	const int64_t n = whole_blocks(p->cols) / QK;

	for (int64_t b = 0, end; b < n; b = end) {
		end = n - b < CHUNK ? n : b + CHUNK;
		for (int64_t i = 0; i < last; i += 8) {
			const char *tile = p->x + i / TILE_ROWS * TILE_ROWS * p->x_stride;

			some(p->out + i * GROUP + j * L, tile + i % TILE_ROWS * 64, STEP, 64, t, j, b, end, np, 8, far && i == 0);
		}
	}
}

/* nx rows of x from row i on, times all panels, np at a time. */
INLINE void few(const struct product *p, const struct tiles t, int64_t i, const int np, const int nx, const bool far)
{
	const char *x = p->x + i * p->x_stride;
	const int64_t n = whole_blocks(p->cols) / QK;
	float *out = p->out + i * GROUP;
	int64_t j = 0;

	for (; j + np <= p->n_w; j += np)
		some(out + j * L, x, 64, p->x_stride, t, j, 0, n, np, nx, far);
	for (; j < p->n_w; j++)
		some(out + j * L, x, 64, p->x_stride, t, j, 0, n, 1, nx, far);
}

INLINE void mul(const struct product *p, const enum fmt fmt)
{
	const struct tiles t = all_tiles(p, fmt);
	const bool far = fmt == FMT_BF16;
	int64_t i = p->n_x / TILE_ROWS * TILE_ROWS, j = 0;

	for (; i && j + 2 <= p->n_w; j += 2)
		many(p, t, i, j, 2, far);
	if (i && j < p->n_w)
		many(p, t, i, j, 1, far);
	for (; i + 4 <= p->n_x; i += 4)
		few(p, t, i, 4, 4, far);
	if (i + 2 <= p->n_x) {
		few(p, t, i, 4, 2, far);
		i += 2;
	}
	if (i < p->n_x)
		few(p, t, i, 4, 1, far);
}

ALL(PRODUCT)

/* to_bf16()'s numbers, but that a denormal becomes zero: which products take it for anyway. */
static void to_bf16_avx512(void *row, const float *x, int64_t cols)
{
	char *y = row;

	for (; cols > 0; cols -= QK, x += QK, y += 2 * QK) {
		float last[QK] = { 0 };
		const float *v = x;

		if (cols < QK) {
			memcpy(last, x, (size_t)cols * sizeof(*x));
			v = last;
		}
		_mm512_storeu_si512(y, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(v + L), _mm512_loadu_ps(v)));
	}
}

static void to_tile_bf16(char *tile, int64_t i, const char *row, int64_t cols)
{
	for (tile += i * 64; cols > 0; cols -= QK, tile += STEP, row += 64)
		_mm512_storeu_si512(tile, _mm512_loadu_si512(row));
}

void isa_bf16(struct isa *isa)
{
	isa->name = "avx512 f bw dq vl vnni bf16";
#define ROUND(form, act) \
	isa->round[ACT_##act][FMT_##form] = to_bf16_avx512; \
	isa->to_tile[ACT_##act][FMT_##form] = to_tile_bf16;
	ALL(ROUND)
	ALL(TO_TABLE)
}
