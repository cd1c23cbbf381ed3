/* SPDX-License-Identifier: MIT */
/* avx2_decode.c - stored rows to float with AVX2 and F16C, for the forms that real files
 * have most of: the same bits as the plain ones, in the same order of operations. */
#include <immintrin.h>
#include <string.h>

#include "cpu.h"

#define INLINE static inline __attribute__((always_inline))

static void decode_f16_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;
	int64_t i = 0;

	for (; i + 8 <= cols; i += 8)
		_mm256_storeu_ps(y + i,
			_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * i))));
	decode_f16(y + i, p + 2 * i, cols - i);
}

static void decode_bf16_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;
	int64_t i = 0;

	for (; i + 8 <= cols; i += 8) {
		__m128i h = _mm_loadu_si128((const __m128i *)(p + 2 * i));

		_mm256_storeu_ps(y + i,
			_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)));
	}
	decode_bf16(y + i, p + 2 * i, cols - i);
}

INLINE float half_at(const void *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return _cvtsh_ss(h);
}

/* 8 signed bytes at the bottom of q, times d, plus m. */
INLINE void put8(float *y, __m128i q, __m256 d, __m256 m)
{
	__m256 v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));

	_mm256_storeu_ps(y, _mm256_add_ps(_mm256_mul_ps(v, d), m));
}

INLINE void put32(float *y, __m128i low, __m128i high, __m256 d, __m256 m)
{
	put8(y, low, d, m);
	put8(y + 8, _mm_srli_si128(low, 8), d, m);
	put8(y + 16, high, d, m);
	put8(y + 24, _mm_srli_si128(high, 8), d, m);
}

/* -0 as the minimum: adding it changes no bit. */
static void decode_q4_0_avx2(float *y, const void *w, int64_t cols)
{
	const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
	const char *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 18, y += QK) {
		__m128i q = _mm_loadu_si128((const __m128i *)(p + 2));
		__m128i low = _mm_sub_epi8(_mm_and_si128(q, nibble), eight);
		__m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(q, 4), nibble), eight);

		put32(y, low, high, _mm256_set1_ps(half_at(p)), _mm256_set1_ps(-0.0f));
	}
}

static void decode_q4_1_avx2(float *y, const void *w, int64_t cols)
{
	const __m128i nibble = _mm_set1_epi8(15);
	const char *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 20, y += QK) {
		__m128i q = _mm_loadu_si128((const __m128i *)(p + 4));

		put32(y, _mm_and_si128(q, nibble), _mm_and_si128(_mm_srli_epi16(q, 4), nibble),
			_mm256_set1_ps(half_at(p)), _mm256_set1_ps(half_at(p + 2)));
	}
}

static void decode_q8_0_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 34, y += QK)
		put32(y, _mm_loadu_si128((const __m128i *)(p + 2)),
			_mm_loadu_si128((const __m128i *)(p + 18)), _mm256_set1_ps(half_at(p)),
			_mm256_set1_ps(-0.0f));
}

/* Bit i of the four bytes at p as byte i: 0 or 16. */
INLINE __m256i fifth_bits(const char *p)
{
	const __m256i spread = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101,
		0x0202020202020202, 0x0303030303030303);
	const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
	int32_t v;
	__m256i b;

	memcpy(&v, p, sizeof(v));
	b = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(v), spread), bit);
	return _mm256_and_si256(_mm256_cmpeq_epi8(b, bit), _mm256_set1_epi8(16));
}

/* 16 bytes of nibbles as 32 bytes: the low ones, then the high ones. */
INLINE __m256i nibbles(const char *p)
{
	const __m128i q = _mm_loadu_si128((const __m128i *)p);

	return _mm256_and_si256(_mm256_set1_epi8(15),
		_mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1));
}

INLINE void put256(float *y, __m256i q, __m256 d, __m256 m)
{
	put32(y, _mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1), d, m);
}

static void decode_q5_0_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 22, y += QK)
		put256(y, _mm256_sub_epi8(_mm256_or_si256(nibbles(p + 6), fifth_bits(p + 2)),
			_mm256_set1_epi8(16)), _mm256_set1_ps(half_at(p)), _mm256_set1_ps(-0.0f));
}

static void decode_q5_1_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 24, y += QK)
		put256(y, _mm256_or_si256(nibbles(p + 8), fifth_bits(p + 4)),
			_mm256_set1_ps(half_at(p)), _mm256_set1_ps(half_at(p + 2)));
}

/* ---- forms of 256: sums and differences in the plain ones' order ---- */

INLINE __m256i load256(const char *p)
{
	return _mm256_loadu_si256((const __m256i *)p);
}

/* The low nibbles, or the high ones. */
INLINE __m256i half_of(__m256i q, int k)
{
	return _mm256_and_si256(k ? _mm256_srli_epi16(q, 4) : q, _mm256_set1_epi8(15));
}

/* 32 elements, of scale and minimum k; a minimum is taken off. */
INLINE void put_k(float *y, __m256i q, const char *block, int k)
{
	int scale, minimum;

	scale_q4_k((const uint8_t *)block + 4, k, &scale, &minimum);
	put256(y, q, _mm256_set1_ps(half_at(block) * (float)scale),
		_mm256_set1_ps(-(half_at(block + 2) * (float)minimum)));
}

static void decode_q4_k_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 144)
		for (int k = 0; k < 8; k++, y += 32) {
			const __m256i q = load256(p + 16 + k / 2 * 32);

			put_k(y, half_of(q, k % 2), p, k);
		}
}

static void decode_q5_k_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 176) {
		const __m256i fifth = load256(p + 16);

		for (int k = 0; k < 8; k++, y += 32) {
			const __m256i q = load256(p + 48 + k / 2 * 32);
			const __m256i bit = _mm256_set1_epi8((char)(1 << k));
			const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(fifth, bit), bit);

			put_k(y, _mm256_or_si256(half_of(q, k % 2),
				_mm256_and_si256(set, _mm256_set1_epi8(16))), p, k);
		}
	}
}

/* 32 elements of two scales, and two minima. */
INLINE void put_two(float *y, __m256i q, const float d[2], const float m[2])
{
	const __m128i low = _mm256_castsi256_si128(q), high = _mm256_extracti128_si256(q, 1);
	const __m256 d0 = _mm256_set1_ps(d[0]), d1 = _mm256_set1_ps(d[1]);
	const __m256 m0 = _mm256_set1_ps(m[0]), m1 = _mm256_set1_ps(m[1]);

	put8(y, low, d0, m0);
	put8(y + 8, _mm_srli_si128(low, 8), d0, m0);
	put8(y + 16, high, d1, m1);
	put8(y + 24, _mm_srli_si128(high, 8), d1, m1);
}

/* Two bits of each of 32 bytes, from bit `at` on. */
INLINE __m256i two_bits(const char *p, int at)
{
	return _mm256_and_si256(_mm256_srl_epi16(load256(p), _mm_cvtsi32_si128(at)),
		_mm256_set1_epi8(3));
}

static const float no_minima[2] = { -0.0f, -0.0f };

static void decode_q2_k_avx2(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 84) {
		const float d = half_at(p + 80), m = half_at(p + 82);

		for (int k = 0; k < 8; k++, y += 32) {
			const uint8_t *s = (const uint8_t *)p + 2 * k;
			const float scale[] = { d * (float)(s[0] & 15), d * (float)(s[1] & 15) };
			const float low[] = { -(m * (float)(s[0] >> 4)),
				-(m * (float)(s[1] >> 4)) };

			put_two(y, two_bits(p + 16 + k / 4 * 32, k % 4 * 2), scale, low);
		}
	}
}

static void decode_q3_k_avx2(float *y, const void *w, int64_t cols)
{
	const __m256i four = _mm256_set1_epi8(4);
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 110) {
		const __m256i third = load256(p);
		const uint8_t *s = (const uint8_t *)p + 96;
		const float d = half_at(p + 108);

		for (int k = 0; k < 8; k++, y += 32) {
			const __m256i bit = _mm256_set1_epi8((char)(1 << k));
			const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(third, bit), bit);
			const float scale[] = { d * (float)scale_q3_k(s, 2 * k),
				d * (float)scale_q3_k(s, 2 * k + 1) };

			put_two(y, _mm256_sub_epi8(two_bits(p + 32 + k / 4 * 32, k % 4 * 2),
				_mm256_andnot_si256(set, four)), scale, no_minima);
		}
	}
}

static void decode_q6_k_avx2(float *y, const void *w, int64_t cols)
{
	const __m256i zero = _mm256_set1_epi8(32);
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 210) {
		const int8_t *s = (const int8_t *)p + 192;
		const float d = half_at(p + 208);

		for (int k = 0; k < 8; k++, y += 32) { /* quarter k % 4 of 128 */
			const __m256i low = load256(p + k / 4 * 64 + k % 2 * 32);
			const __m256i top = two_bits(p + 128 + k / 4 * 32, k % 4 * 2);
			const float scale[] = { d * (float)s[2 * k], d * (float)s[2 * k + 1] };

			put_two(y, _mm256_sub_epi8(_mm256_or_si256(half_of(low, k % 4 / 2),
				_mm256_slli_epi16(top, 4)), zero), scale, no_minima);
		}
	}
}

/* ---- sixteen levels a nibble ---- */

INLINE void put_levels(float *y, const char *q, float d, __m256i levels)
{
	put256(y, _mm256_shuffle_epi8(levels, nibbles(q)), _mm256_set1_ps(d),
		_mm256_set1_ps(-0.0f));
}

INLINE __m256i load_levels(const int8_t *levels)
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)levels));
}

static void decode_iq4_nl_avx2(float *y, const void *w, int64_t cols)
{
	const __m256i levels = load_levels(levels_nl);
	const char *p = w;

	for (; cols > 0; cols -= QK, p += 18, y += QK)
		put_levels(y, p + 2, half_at(p), levels);
}

static void decode_iq4_xs_avx2(float *y, const void *w, int64_t cols)
{
	const __m256i levels = load_levels(levels_nl);
	const char *p = w;

	for (; cols > 0; cols -= QK_K, p += 136)
		for (int k = 0; k < 8; k++, y += 32)
			put_levels(y, p + 8 + 16 * k, half_at(p) *
				(float)scale_iq4_xs((const uint8_t *)p, k), levels);
}

static void decode_mxfp4_avx2(float *y, const void *w, int64_t cols)
{
	const __m256i levels = load_levels(levels_mx);
	const char *p = w;

	for (; cols > 0; cols -= QK, p += 17, y += QK)
		put_levels(y, p + 1, scale_mxfp4((uint8_t)p[0]), levels);
}

void isa_avx2_decode(struct isa *isa)
{
	isa->decode[FMT_F16] = decode_f16_avx2;
	isa->decode[FMT_BF16] = decode_bf16_avx2;
	isa->decode[FMT_Q4_0] = decode_q4_0_avx2;
	isa->decode[FMT_Q4_1] = decode_q4_1_avx2;
	isa->decode[FMT_Q5_0] = decode_q5_0_avx2;
	isa->decode[FMT_Q5_1] = decode_q5_1_avx2;
	isa->decode[FMT_Q8_0] = decode_q8_0_avx2;
	isa->decode[FMT_Q2_K] = decode_q2_k_avx2;
	isa->decode[FMT_Q3_K] = decode_q3_k_avx2;
	isa->decode[FMT_Q4_K] = decode_q4_k_avx2;
	isa->decode[FMT_Q5_K] = decode_q5_k_avx2;
	isa->decode[FMT_Q6_K] = decode_q6_k_avx2;
	isa->decode[FMT_IQ4_NL] = decode_iq4_nl_avx2;
	isa->decode[FMT_IQ4_XS] = decode_iq4_xs_avx2;
	isa->decode[FMT_MXFP4] = decode_mxfp4_avx2;
}
