/* SPDX-License-Identifier: MIT */
/* avx2_pack.c - eight rows of a weight to a panel by AVX2: what panel_put() does. */
#include <immintrin.h>
#include <string.h>

#include "cpu.h"

#define L 8 /* lanes */
#define INLINE static inline __attribute__((always_inline))

/* 16 bytes of each of 8 rows, turned, to 4 x 32 bytes: part t has bytes 4t..4t+3 of row r in
 * lane r. */
INLINE void turn16(char *dst, const char *row, int64_t stride)
{
	__m256i a[4], t0, t1, t2, t3;

	for (int i = 0; i < 4; i++)
		a[i] = _mm256_inserti128_si256(
			_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row + i * stride))),
			_mm_loadu_si128((const __m128i *)(row + (i + 4) * stride)), 1);
	t0 = _mm256_unpacklo_epi32(a[0], a[1]);
	t1 = _mm256_unpacklo_epi32(a[2], a[3]);
	t2 = _mm256_unpackhi_epi32(a[0], a[1]);
	t3 = _mm256_unpackhi_epi32(a[2], a[3]);
	_mm256_storeu_si256((__m256i *)dst, _mm256_unpacklo_epi64(t0, t1));
	_mm256_storeu_si256((__m256i *)(dst + 32), _mm256_unpackhi_epi64(t0, t1));
	_mm256_storeu_si256((__m256i *)(dst + 64), _mm256_unpacklo_epi64(t2, t3));
	_mm256_storeu_si256((__m256i *)(dst + 96), _mm256_unpackhi_epi64(t2, t3));
}

INLINE void halves(char *dst, const char *row, int64_t stride)
{
	for (int i = 0; i < L; i++)
		memcpy(dst + 2 * i, row + i * stride, 2);
}

/* scales and words: bytes of a stored block. */
INLINE void blocks(char *panel, const char *row, int64_t stride, int64_t n, const int scales, const int words)
{
	for (int64_t b = 0; b < n; b++, row += scales + words, panel += (scales + words) * L) {
		for (int i = 0; i < words; i += 16)
			turn16(panel + i * L, row + scales + i, stride);
		for (int i = 0; i < scales; i += 2)
			halves(panel + (words + i) * L, row + i, stride);
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
INLINE void words(char *panel, const char *rows, int64_t stride, int64_t bytes)
{
	int64_t at = 0;

	for (; at + 16 <= bytes; at += 16)
		turn16(panel + at * L, rows + at, stride);
	for (; at < bytes; at += 4)
		for (int i = 0; i < L; i++)
			memcpy(panel + at * L + 4 * i, rows + i * stride + at, 4);
}

static void pack_f32(char *panel, const char *rows, int64_t stride, int64_t cols)
{
	words(panel, rows, stride, 4 * cols);
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
	words(panel, rows, stride, bytes);
	memset(panel + bytes * L, 0, (size_t)((2 * whole_blocks(cols) - bytes) * L));
}

void isa_avx2_pack(struct isa *isa)
{
	isa->pack[FMT_F32] = pack_f32;
	isa->pack[FMT_F16] = pack_16;
	isa->pack[FMT_BF16] = pack_16;
	isa->pack[FMT_Q4_0] = pack_q4_0;
	isa->pack[FMT_Q4_1] = pack_q4_1;
	isa->pack[FMT_Q8_0] = pack_q8_0;
}
