/* SPDX-License-Identifier: MIT */
/* avx512_float.c - products with float weights by AVX-512 (layout: "panels" in cpu.h).
 *
 * A lane adds its columns one by one, four cycles each: eight sums must be under way at a time
 * to keep two units busy, so panels are taken by four or two, with up to eight rows of x. A column
 * costs 10 loads for 24 multiplications (4 panels, 6 rows), 10 for 16 (2, 8), 9 for 8 (1, 8); as
 * many loads as multiplications go through at a time. */
#include "avx512_panel.h"

#define MOST_P 4
#define MOST_X 8
#define FEW 8
#define CHUNK 128 /* columns: four panels of them are 32 KiB */

typedef __m512 vec;

INLINE vec zero(void)
{
	return _mm512_setzero_ps();
}

INLINE vec load(const float *p)
{
	return _mm512_loadu_ps(p);
}

INLINE void store(float *p, vec v)
{
	_mm512_storeu_ps(p, v);
}

/* One float, to every lane. */
INLINE vec all(const float *p)
{
	return _mm512_set1_ps(*p);
}

INLINE vec add_product(vec sum, vec w, vec x)
{
	return _mm512_fmadd_ps(w, x, sum);
}

/* The first two columns of a panel; of F32 one. */
INLINE void two(__m512 *low, __m512 *high, const char *panel, const enum fmt fmt)
{
	/* each lane's first half to the low 256 bits, its second above */
	static const uint16_t order[32] = { 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
		1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31 };
	__m512i v = _mm512_loadu_si512(panel);

	if (fmt == FMT_F32) {
		*low = _mm512_castsi512_ps(v);
	} else if (fmt == FMT_BF16) {
		*low = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
		*high = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
	} else {
		v = _mm512_permutexvar_epi16(_mm512_loadu_si512(order), v);
		*low = _mm512_cvtph_ps(_mm512_castsi512_si256(v));
		*high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1));
	}
}

#include "float_panels.h"

/* All rows of x. Halves take registers for two columns. */
INLINE void all_rows(const struct piece *c, const int np, const enum fmt fmt)
{
	const int64_t n = c->p->n_x;
	int64_t i = 0;

	for (; np == 4 && fmt == FMT_F32 && i + 6 <= n; i += 6)
		float_tile(c, i, np, 6, fmt);
	for (; np < 4 && i + 8 <= n; i += 8)
		float_tile(c, i, np, 8, fmt);
	for (; i + 4 <= n; i += 4)
		float_tile(c, i, np, 4, fmt);
	for (; i + 2 <= n; i += 2)
		float_tile(c, i, np, 2, fmt);
	if (i < n)
		float_tile(c, i, np, 1, fmt);
}

INLINE void mul_floats(const struct product *p, const enum fmt fmt)
{
	int64_t j = 0;

	for (; j + 4 <= p->n_w; j += 4)
		some(p, j, 4, fmt);
	if (j + 2 <= p->n_w) {
		some(p, j, 2, fmt);
		j += 2;
	}
	if (j < p->n_w)
		some(p, j, 1, fmt);
}

void isa_avx512_float(struct isa *isa)
{
	set_floats(isa);
}
