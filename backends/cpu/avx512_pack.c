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

#include "pack_rows.h"

void isa_avx512_pack(struct isa *isa)
{
	set_packs(isa);
}
