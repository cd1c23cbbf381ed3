/* SPDX-License-Identifier: MIT */
/* row.h - arithmetic on a row of logits, for the host samplers. */
#ifndef ROW_H
#define ROW_H

#include <stdint.h>
#include <string.h>

#define BLOCK 64 /* logits whose maximum is kept */

/* The largest of n <= BLOCK logits, NaN apart; -inf if there is none. Sixteen maxima side
 * by side are as fast as memory. */
static inline float block_max(const float *x, int64_t n)
{
	float lane[16], m = -__builtin_inff();
	int64_t i = 0;

	for (int l = 0; l < 16; l++)
		lane[l] = m;
	for (; i + 16 <= n; i += 16)
		for (int l = 0; l < 16; l++)
			lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
	for (; i < n; i++)
		m = x[i] > m ? x[i] : m;
	for (int l = 0; l < 16; l++)
		m = lane[l] > m ? lane[l] : m;
	return m;
}

/* The lowest id of those with the largest logit, which is written to *max. NaN counts as
 * -inf; a row all -inf gives 0. blocks: NULL, or becomes each block's maximum. */
static inline int64_t argmax(const float *x, int64_t n, float *max, float *blocks)
{
	float m = -__builtin_inff();
	int64_t at = 0;

	for (int64_t i = 0; i < n; i += BLOCK) {
		float b = block_max(x + i, n - i < BLOCK ? n - i : BLOCK);

		if (blocks)
			blocks[i / BLOCK] = b;
		if (b > m)
			m = b, at = i;
	}
	*max = m;
	while (m > -__builtin_inff() && x[at] != m)
		at++;
	return at;
}

/* Place a of x comes before b: larger, or as large and lower. */
static inline int before(const float *x, int32_t a, int32_t b)
{
	return x[a] > x[b] || (x[a] == x[b] && a < b);
}

static inline void sift(const float *x, int32_t *v, int64_t i, int64_t n)
{
	for (int64_t c = 2 * i + 1; c < n; i = c, c = 2 * i + 1) {
		int32_t t = v[i];

		c += c + 1 < n && before(x, v[c], v[c + 1]);
		if (!before(x, t, v[c]))
			return;
		v[i] = v[c], v[c] = t;
	}
}

/* Sorts the n places in v so. Heapsort: in place, and never quadratic. */
static inline void sort(const float *x, int32_t *v, int64_t n)
{
	for (int64_t i = n / 2 - 1; i >= 0; i--)
		sift(x, v, i, n);
	for (int64_t i = n - 1; i > 0; i--) {
		int32_t t = v[0];

		v[0] = v[i], v[i] = t;
		sift(x, v, 0, i);
	}
}

typedef double f64x2 __attribute__((vector_size(16)));
typedef int64_t i64x2 __attribute__((vector_size(16)));

/* e^y for two y <= 0, 0 below -700. y = k ln 2 + r (Cody and Waite 1980), Taylor's series
 * of e^r to r^11, k added to the exponent; adding 1.5 * 2^52 rounds to a whole k and
 * leaves it in the low bits. The same bits on every machine. */
static inline f64x2 exp_pair(f64x2 y)
{
	const f64x2 least = { -700, -700 };
	i64x2 below = y < least;
	f64x2 x = (f64x2)((below & (i64x2)least) | (~below & (i64x2)y));
	f64x2 t = x * 1.4426950408889634 + 0x1.8p52, k = t - 0x1.8p52;
	f64x2 r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
	f64x2 p = r * (1. / 39916800) + 1. / 3628800;

	p = ((p * r + 1. / 362880) * r + 1. / 40320) * r + 1. / 5040;
	p = ((p * r + 1. / 720) * r + 1. / 120) * r + 1. / 24;
	p = (((p * r + 1. / 6) * r + 0.5) * r + 1) * r + 1;
	return (f64x2)(~below & ((i64x2)p + ((i64x2)t << 52)));
}

#endif
