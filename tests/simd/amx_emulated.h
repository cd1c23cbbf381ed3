/* SPDX-License-Identifier: MIT */
/* amx_emulated.h - AMX tiles in plain C, after their description in Intel's
 * SDM (vol. 1 chapter 18; vol. 2: LDTILECFG, TILELOADD, TDPBF16PS, TDPBSSD, TDPBSUD). What a processor
 * refuses by an exception ends the program with a sentence. */
#ifndef NVLLM_SIMD_AMX_EMULATED_H
#define NVLLM_SIMD_AMX_EMULATED_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bf16_emulated.h"

enum { EMU_TILES = 8, EMU_ROWS = 16, EMU_BYTES = 64 };

struct emu_tile {
	int rows, bytes; /* as set up; 0 = not */
	uint8_t data[EMU_ROWS][EMU_BYTES];
};

/* Each thread has its own. */
static _Thread_local struct emu_tile emu_tiles[EMU_TILES];

static inline void emu_must(int good, const char *what, int tile)
{
	if (good)
		return;
	fprintf(stderr, "AMX: %s, tile %d\n", what, tile);
	abort();
}

static inline struct emu_tile *emu_tile(int n)
{
	emu_must(n >= 0 && n < EMU_TILES, "no such tile", n);
	emu_must(emu_tiles[n].rows > 0, "a tile that is not set up", n);
	emu_must(emu_tiles[n].bytes % 4 == 0, "rows that are not whole dwords", n);
	return &emu_tiles[n];
}

static inline void emu_loadconfig(const void *config)
{
	uint8_t c[64];
	uint16_t bytes;

	memcpy(c, config, sizeof(c));
	memset(emu_tiles, 0, sizeof(emu_tiles));
	emu_must(c[0] <= 1, "no such palette", -1);
	if (c[0] == 0)
		return;
	emu_must(c[1] == 0, "a first row that is not 0", -1); /* legal, but nothing here wants it */
	for (int i = 2; i < 16; i++)
		emu_must(c[i] == 0, "a reserved byte that is not 0", -1);
	for (int n = 0; n < 16; n++) {
		memcpy(&bytes, c + 16 + 2 * n, 2);
		emu_must(bytes <= EMU_BYTES && c[48 + n] <= EMU_ROWS, "larger than a tile can be", n);
		emu_must((bytes == 0) == (c[48 + n] == 0), "rows without columns or columns without rows", n);
		emu_must(n < EMU_TILES || bytes == 0, "a tile that the palette does not have", n);
		if (n < EMU_TILES)
			emu_tiles[n].rows = c[48 + n], emu_tiles[n].bytes = bytes;
	}
}

static inline void emu_release(void)
{
	memset(emu_tiles, 0, sizeof(emu_tiles));
}

static inline void emu_zero(int n)
{
	memset(emu_tile(n)->data, 0, sizeof(emu_tiles[n].data));
}

static inline void emu_loadd(int n, const void *base, int64_t stride)
{
	struct emu_tile *t = emu_tile(n);

	memset(t->data, 0, sizeof(t->data));
	for (int i = 0; i < t->rows; i++)
		memcpy(t->data[i], (const char *)base + i * stride, (size_t)t->bytes);
}

static inline void emu_stored(int n, void *base, int64_t stride)
{
	const struct emu_tile *t = emu_tile(n);

	for (int i = 0; i < t->rows; i++)
		memcpy((char *)base + i * stride, t->data[i], (size_t)t->bytes);
}

/* One row of sums: the products of even and of odd elements are added up apart, from zero, and
 * then to each other and to the sums; each addition rounds to nearest even. w: [k][32] */
static inline void emu_dp_row(float sum[16], const uint8_t *x, float (*w)[32], int n)
{
	float part[32] = { 0 };

	for (int k = 0; k < n; k++) {
		const float even = emu_bf16(x, 2 * k), odd = emu_bf16(x, 2 * k + 1);

		for (int i = 0; i < 32; i++)
			part[i] = emu_flush(fmaf(i % 2 ? odd : even, w[k][i], part[i]));
	}
	for (int i = 0; i < 16; i++)
		sum[i] = emu_flush(emu_flush(sum[i]) + emu_flush(part[2 * i] + part[2 * i + 1]));
}

static inline void emu_dpbf16ps(int dst, int src1, int src2)
{
	struct emu_tile *c = emu_tile(dst);
	const struct emu_tile *a = emu_tile(src1), *b = emu_tile(src2);
	float w[EMU_ROWS][32], sum[16];

	emu_must(dst != src1 && dst != src2 && src1 != src2, "one tile twice in a product", dst);
	emu_must(c->rows == a->rows && c->bytes == b->bytes && a->bytes == 4 * b->rows,
		"shapes of a product that do not fit", dst);
	for (int k = 0; k < b->rows; k++)
		for (int i = 0; i < 32; i++)
			w[k][i] = emu_bf16(b->data[k], i);
	for (int m = 0; m < c->rows; m++) {
		memcpy(sum, c->data[m], sizeof(sum));
		emu_dp_row(sum, a->data[m], w, b->rows);
		memcpy(c->data[m], sum, (size_t)c->bytes);
	}
}

/* Signed bytes times bytes, signed or not: four products at a time to 32 bits. */
static inline void emu_dp_bytes(int dst, int src1, int src2, int with_sign)
{
	struct emu_tile *c = emu_tile(dst);
	const struct emu_tile *a = emu_tile(src1), *b = emu_tile(src2);

	emu_must(dst != src1 && dst != src2 && src1 != src2, "one tile twice in a product", dst);
	emu_must(c->rows == a->rows && c->bytes == b->bytes && a->bytes == 4 * b->rows,
		"shapes of a product that do not fit", dst);
	for (int m = 0; m < c->rows; m++) {
		for (int i = 0; i < c->bytes / 4; i++) {
			int32_t sum;

			memcpy(&sum, c->data[m] + 4 * i, 4);
			for (int k = 0; k < a->bytes; k++) {
				const uint8_t w = b->data[k / 4][4 * i + k % 4];

				sum += (int8_t)a->data[m][k] * (with_sign ? (int8_t)w : w);
			}
			memcpy(c->data[m] + 4 * i, &sum, 4);
		}
	}
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbsud
#undef _tile_dpbssd
#define _tile_loadconfig(config) emu_loadconfig(config)
#define _tile_release() emu_release()
#define _tile_zero(tile) emu_zero(tile)
#define _tile_loadd(tile, base, stride) emu_loadd(tile, base, stride)
#define _tile_stored(tile, base, stride) emu_stored(tile, base, stride)
#define _tile_dpbf16ps(dst, a, b) emu_dpbf16ps(dst, a, b)
#define _tile_dpbsud(dst, a, b) emu_dp_bytes(dst, a, b, 0)
#define _tile_dpbssd(dst, a, b) emu_dp_bytes(dst, a, b, 1)

#endif
