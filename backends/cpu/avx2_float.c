/* SPDX-License-Identifier: MIT */
/* avx2_float.c - products with float weights by AVX2. Eight sums at least are on their way, as a
 * multiplication and addition takes four cycles. */
#include <immintrin.h>

#include "cpu.h"

#define L 8       /* lanes */
#define MOST_P 8
#define MOST_X 6
#define FEW 12
#define CHUNK 256 /* columns: two panels of them are 16 KiB */
#define INLINE static inline __attribute__((always_inline))

typedef __m256 vec;

INLINE vec zero(void)
{
	return _mm256_setzero_ps();
}

INLINE vec load(const float *p)
{
	return _mm256_loadu_ps(p);
}

INLINE void store(float *p, vec v)
{
	_mm256_storeu_ps(p, v);
}

/* One float, to every lane. */
INLINE vec all(const float *p)
{
	return _mm256_broadcast_ss(p);
}

INLINE vec add_product(vec sum, vec w, vec x)
{
	return _mm256_fmadd_ps(w, x, sum);
}

/* Nothing: the processor asks ahead by itself. */
INLINE void ahead(const char *w, const int bytes)
{
	(void)w, (void)bytes;
}

/* The first two columns of a panel; of F32 one. */
INLINE void two(__m256 *low, __m256 *high, const char *panel, const enum fmt fmt)
{
	/* each lane's first half to the low 128 bits of words, its second above */
	const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
		0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
	__m256i v = _mm256_loadu_si256((const __m256i *)panel);

	if (fmt == FMT_F32) {
		*low = _mm256_castsi256_ps(v);
	} else if (fmt == FMT_BF16) {
		*low = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
		*high = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
	} else {
		v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, order), 0xd8);
		*low = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
		*high = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
	}
}

#include "float_panels.h"

INLINE void all_rows(const struct piece *c, const int np, const enum fmt fmt)
{
	const int64_t n = c->p->n_x;
	int64_t i = 0;

	for (; np <= 2 && fmt == FMT_F32 && i + 6 <= n; i += 6)
		float_tile(c, i, np, 6, fmt);
	for (; np <= 2 && i + 4 <= n; i += 4)
		float_tile(c, i, np, 4, fmt);
	for (; i + 2 <= n; i += 2)
		float_tile(c, i, np, 2, fmt);
	if (i < n)
		float_tile(c, i, np, 1, fmt);
}

INLINE void mul_floats(const struct product *p, const enum fmt fmt)
{
	int64_t j = 0;

	for (; j + 8 <= p->n_w && p->n_x == 1; j += 8)
		some(p, j, 8, fmt);
	for (; j + 4 <= p->n_w && p->n_x <= 2; j += 4)
		some(p, j, 4, fmt);
	for (; j + 2 <= p->n_w; j += 2)
		some(p, j, 2, fmt);
	for (; j < p->n_w; j++)
		some(p, j, 1, fmt);
}

void isa_avx2_float(struct isa *isa)
{
	set_floats(isa);
}
