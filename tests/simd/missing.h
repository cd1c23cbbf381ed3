/* SPDX-License-Identifier: MIT */
/* missing.h - intrinsics that SIMDe 0.7.4 does not have, or has amiss, after Intel's description of
 * each. */
#ifndef NVLLM_SIMD_MISSING_H
#define NVLLM_SIMD_MISSING_H

static inline __m512 missing_cvtepi32_ps(__m512i v)
{
	const __m256 low = _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(v, 0));
	const __m256 high = _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(v, 1));

	return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
#define _mm512_cvtepi32_ps missing_cvtepi32_ps

static inline __m512 missing_cvtph_ps(__m256i v)
{
	const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
	const __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));

	return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
#define _mm512_cvtph_ps missing_cvtph_ps

static inline __m512i missing_of_halves(__m256i low, __m256i high)
{
	return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline __m512i missing_cvtepi8_epi32(__m128i v)
{
	return missing_of_halves(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
#define _mm512_cvtepi8_epi32 missing_cvtepi8_epi32

static inline __m512i missing_cvtepu8_epi32(__m128i v)
{
	return missing_of_halves(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
#define _mm512_cvtepu8_epi32 missing_cvtepu8_epi32

static inline __m512i missing_cvtepu16_epi32(__m256i v)
{
	return missing_of_halves(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)),
		_mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)));
}
#define _mm512_cvtepu16_epi32 missing_cvtepu16_epi32

static inline __m256 missing_half(__m512 v, const int half)
{
	const __m512i n = _mm512_castps_si512(v);

	return _mm256_castsi256_ps(half ? _mm512_extracti64x4_epi64(n, 1) : _mm512_extracti64x4_epi64(n, 0));
}
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(v, how) \
	_mm256_set_m128i(_mm256_cvtps_ph(missing_half(v, 1), how), _mm256_cvtps_ph(missing_half(v, 0), how))

/* Its name there takes four arguments. */
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16

#endif
