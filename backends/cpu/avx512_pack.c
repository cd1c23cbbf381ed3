/* SPDX-License-Identifier: MIT */
/* avx512_pack.c - sixteen rows of a weight to a panel by AVX-512: what panel_put() does. */
#include "avx512_panel.h"

/* 16 bytes of rows i, i + 4, i + 8 and i + 12, one beside the other. */
INLINE __m512i four_rows(const char *row, int64_t stride, int i)
{
	const char *p = row + i * stride;
	__m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));

	v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 4 * stride)), 1);
	v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 8 * stride)), 2);
	return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 12 * stride)), 3);
}

/* 16 bytes of each of 16 rows, turned, to 4 x 64 bytes: part t has bytes 4t..4t+3 of row r in
 * lane r. */
INLINE void turn16(char *dst, const char *row, int64_t stride)
{
	const __m512i a = four_rows(row, stride, 0), b = four_rows(row, stride, 1);
	const __m512i c = four_rows(row, stride, 2), d = four_rows(row, stride, 3);
	const __m512i t0 = _mm512_unpacklo_epi32(a, b), t1 = _mm512_unpacklo_epi32(c, d);
	const __m512i t2 = _mm512_unpackhi_epi32(a, b), t3 = _mm512_unpackhi_epi32(c, d);

	_mm512_storeu_si512(dst, _mm512_unpacklo_epi64(t0, t1));
	_mm512_storeu_si512(dst + 64, _mm512_unpackhi_epi64(t0, t1));
	_mm512_storeu_si512(dst + 128, _mm512_unpacklo_epi64(t2, t3));
	_mm512_storeu_si512(dst + 192, _mm512_unpackhi_epi64(t2, t3));
}

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
INLINE void all_words(char *panel, const char *rows, int64_t stride, int64_t bytes)
{
	int64_t at = 0;

	for (; at + 16 <= bytes; at += 16)
		turn16(panel + at * L, rows + at, stride);
	for (; at < bytes; at += 4)
		each_row(panel + at * L, rows + at, stride, 4);
}

static void pack_f32(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	all_words(panel, rows, stride, 4 * cols);
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
	all_words(panel, rows, stride, bytes);
	memset(panel + bytes * L, 0, (size_t)((2 * whole_blocks(cols) - bytes) * L));
}

void isa_avx512_pack(struct isa *isa)
{
	isa->pack[FMT_F32] = pack_f32;
	isa->pack[FMT_F16] = pack_16;
	isa->pack[FMT_BF16] = pack_16;
	isa->pack[FMT_Q4_0] = pack_q4_0;
	isa->pack[FMT_Q4_1] = pack_q4_1;
	isa->pack[FMT_Q8_0] = pack_q8_0;
}
