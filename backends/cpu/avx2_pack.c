/* SPDX-License-Identifier: MIT */
/* avx2_pack.c - eight rows of a weight to a panel by AVX2: what panel_put() does. */
#include <immintrin.h>

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

#include "pack_rows.h"

void isa_avx2_pack(struct isa *isa)
{
	set_packs(isa);
}
