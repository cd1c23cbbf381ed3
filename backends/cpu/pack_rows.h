/* SPDX-License-Identifier: MIT */
/* pack_rows.h - the rows of a weight to a panel, what panel_put() does, for the file that has
 * turned 16 bytes of each: it defines L, the lanes, INLINE, and
 *
 *	void turn16(char *dst, const char *row, int64_t stride);
 *
 * which takes 16 bytes of each of L rows to 4 parts of 4 * L bytes: part t has bytes 4t..4t+3 of
 * row r in lane r. */
#ifndef NVLLM_CPU_PACK_ROWS_H
#define NVLLM_CPU_PACK_ROWS_H

#include <string.h>

#include "cpu.h"

/* `bytes` bytes of each row, one beside the other: bytes is 2 or 4, a constant. */
INLINE void each_row(char *dst, const char *row, int64_t stride, const int bytes)
{
	for (int i = 0; i < L; i++)
		memcpy(dst + bytes * i, row + i * stride, (size_t)bytes);
}

/* scales and words: bytes of a stored block. */
INLINE void blocks(char *panel, const char *row, int64_t stride, int64_t n, const int scales, const int words)
{
	for (int64_t b = 0; b < n; b++, row += scales + words, panel += (scales + words) * L) {
		for (int i = 0; i < words; i += 16)
			turn16(panel + i * L, row + scales + i, stride);
		for (int i = 0; i < scales; i += 2)
			each_row(panel + (words + i) * L, row + i, stride, 2);
	}
}

static void pack_q4_0(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	blocks(panel, rows, stride, cols / QK, 2, 16);
}

static void pack_q4_1(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	blocks(panel, rows, stride, cols / QK, 4, 16);
}

static void pack_q8_0(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	blocks(panel, rows, stride, cols / QK, 2, 32);
}

/* bytes: of a row; a multiple of 4. */
INLINE void rows_of_words(char *panel, const char *rows, int64_t stride, int64_t bytes)
{
	int64_t at = 0;

	for (; at + 16 <= bytes; at += 16)
		turn16(panel + at * L, rows + at, stride);
	for (; at < bytes; at += 4)
		each_row(panel + at * L, rows + at, stride, 4);
}

static void pack_f32(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	rows_of_words(panel, rows, stride, 4 * cols);
}

/* F16 and BF16 */
static void pack_16(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	const int64_t bytes = 2 * cols;

	if (cols % 2) {
		for (int i = 0; i < L; i++)
			panel_put(panel, FMT_F16, L, i, rows + i * stride, cols);
		return;
	}
	rows_of_words(panel, rows, stride, bytes);
	memset(panel + bytes * L, 0, (size_t)((2 * whole_blocks(cols) - bytes) * L));
}

INLINE void set_packs(struct isa *isa)
{
	isa->pack[FMT_F32] = pack_f32;
	isa->pack[FMT_F16] = pack_16;
	isa->pack[FMT_BF16] = pack_16;
	isa->pack[FMT_Q4_0] = pack_q4_0;
	isa->pack[FMT_Q4_1] = pack_q4_1;
	isa->pack[FMT_Q8_0] = pack_q8_0;
}

#endif
