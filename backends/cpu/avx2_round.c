/* SPDX-License-Identifier: MIT */
/* avx2_round.c - activations to blocks with AVX2: the same numbers as to_q8(), to_planes()
 * and to_words() of quant.c, which take the rare blocks that have nothing to divide by. */
#include <immintrin.h>
#include <string.h>

#include "cpu.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i max_abs_bits(const __m256 *v)
{
	const __m256i abs = _mm256_set1_epi32(0x7fffffff);
	__m256i m = _mm256_and_si256(_mm256_castps_si256(v[0]), abs);

	for (int i = 1; i < 4; i++)
		m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(v[i]), abs));
	return m;
}

INLINE int32_t max_lane(__m256i v)
{
	__m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
	return _mm_cvtsi128_si32(m);
}

INLINE int32_t sum_lanes(__m256i v)
{
	__m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
	return _mm_cvtsi128_si32(s);
}

/* A block as whole numbers of at most top; false = all small, or not all finite. */
INLINE bool round_block(__m256i q[4], float *d, const float *x, const float top)
{
	__m256 v[4];
	int32_t bits;
	float most;

	for (int k = 0; k < 4; k++)
		v[k] = _mm256_loadu_ps(x + 8 * k);
	bits = max_lane(max_abs_bits(v));
	memcpy(&most, &bits, sizeof(most));
	if (bits >= 0x7f800000 || most <= 1e-30f)
		return false;
	for (int k = 0; k < 4; k++)
		q[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], _mm256_set1_ps(top / most)));
	*d = most / top;
	return true;
}

INLINE int32_t sum_of(const __m256i q[4])
{
	return sum_lanes(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]),
		_mm256_add_epi32(q[2], q[3])));
}

/* 32 numbers of 8 bits, in order. */
INLINE void put_bytes(int8_t *y, const __m256i q[4])
{
	const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	const __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
		_mm256_packs_epi32(q[2], q[3]));

	_mm256_storeu_si256((__m256i *)y, _mm256_permutevar8x32_epi32(v, order));
}

/* 16 numbers of 16 bits, in the order PAIR. */
INLINE void put_words(int16_t *y, __m256i a, __m256i b)
{
	__m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);

	v = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(v, 0xd8), 0xd8);
	_mm256_storeu_si256((__m256i *)y, v);
}

static void to_q8_avx2(void *blocks, const float *x, int64_t cols)
{
	struct q8_block *y = blocks;
	__m256i q[4];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		if (!round_block(q, &y->d, x, 127)) {
			to_q8(y, x, QK);
			continue;
		}
		put_bytes(y->q, q);
		y->sum = sum_of(q);
		y->s = y->d * (float)y->sum;
		y->pad = 0;
	}
}

INLINE void to_planes_of(struct q16_block *y, const float *x, int64_t cols, const float top,
	void (*plain)(void *y, const float *x, int64_t cols))
{
	__m256i q[4], high[4];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		if (!round_block(q, &y->d, x, top)) {
			plain(y, x, QK);
			continue;
		}
		y->s = y->d * (float)sum_of(q);
		for (int k = 0; k < 4; k++) {
			high[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(q[k]),
				_mm256_set1_ps(1 / 254.f)));
			q[k] = _mm256_sub_epi32(q[k], _mm256_mullo_epi32(high[k],
				_mm256_set1_epi32(254)));
		}
		put_bytes(y->high, high);
		put_bytes(y->low, q);
	}
}

static void to_planes_avx2(void *blocks, const float *x, int64_t cols)
{
	to_planes_of(blocks, x, cols, Q16_TOP, to_planes);
}

static void to_planes_q12_avx2(void *blocks, const float *x, int64_t cols)
{
	to_planes_of(blocks, x, cols, Q12_TOP, to_planes_q12);
}

static void to_words_avx2(void *blocks, const float *x, int64_t cols)
{
	struct q16_block *y = blocks;
	__m256i q[4];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		if (!round_block(q, &y->d, x, Q16_TOP)) {
			to_words(y, x, QK);
			continue;
		}
		y->s = y->d * (float)sum_of(q);
		put_words(y->word, q[0], q[1]);
		put_words(y->word + 16, q[2], q[3]);
	}
}

void isa_avx2_round(struct isa *isa)
{
	static const enum fmt nibbles[] = { FMT_Q4_0, FMT_Q4_1, FMT_Q4_K }, bytes[] = { FMT_Q8_0, FMT_Q5_K, FMT_Q6_K };

	for (int i = 0; i < 3; i++) {
		isa->round[ACT_Q8][nibbles[i]] = isa->round[ACT_Q8][bytes[i]] = to_q8_avx2;
		isa->round[ACT_Q16][nibbles[i]] = to_planes_avx2;
		isa->round[ACT_Q16][bytes[i]] = isa->round[ACT_Q12][bytes[i]] = to_words_avx2;
		isa->round[ACT_Q12][nibbles[i]] = to_planes_q12_avx2;
	}
}
