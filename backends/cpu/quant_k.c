/* SPDX-License-Identifier: MIT */
/* quant_k.c - GGUF's formats with blocks of 256 elements and scales of their own inside, in
 * plain C (ggml/src/ggml-common.h lays the blocks out, gguf-py's quants.py says what they
 * mean). Little endian; d and m are halves. Two orders of elements occur:
 *   by 64:  32 bytes hold elements i in their low nibbles and 32 + i in the high ones
 *   by 128: 32 bytes hold elements i, 32 + i, 64 + i, 96 + i, two bits of each from the low
 *           end on
 *   Q2_K  16 scales (low nibble) and minima (high), 64 bytes by 128, d, m; each 16 elements
 *         d * scale * q - m * minimum
 *   Q3_K  a third bit of each (32 bytes, bit k of byte i is element 32 k + i), 64 bytes by
 *         128, 16 scales of 6 bits, d; d * (scale - 32) * (q - 4)
 *   Q4_K  d, m, 8 scales and minima of 6 bits, 128 bytes by 64; each 32 elements
 *         d * scale * q - m * minimum
 *   Q5_K  the same with a fifth bit of each (as Q3_K's third) before the nibbles
 *   Q6_K  128 bytes of nibbles (64 bytes hold elements i and 64 + i of 128), 64 of the two bits
 *         above by 128, 16 signed scales, d; d * scale * (q - 32)
 *   Q8_K  d as a float, 256 signed bytes, sums that nobody needs here; d * q
 *   TQ1_0 digits of base 3, five a byte but for the last 16; TQ2_0 two bits each by 128;
 *         then d; d * (q - 1) */
#include <string.h>

#include "cpu.h"

void decode_q2_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 84) {
		const float d = load_half(p + 80), m = load_half(p + 82);

		for (int k = 0; k < 16; k++, y += 16) { /* 16 elements of one scale */
			const uint8_t *q = p + 16 + k / 8 * 32 + k % 2 * 16;
			const float scale = d * (float)(p[k] & 15), low = m * (float)(p[k] >> 4);
			const int shift = k % 8 / 2 * 2;

			for (int i = 0; i < 16; i++)
				y[i] = scale * (float)(q[i] >> shift & 3) - low;
		}
	}
}

/* Scale k of 16: its low four bits, then the two above. */
int scale_q3_k(const uint8_t *s, int k)
{
	const int low = s[k % 8] >> k / 8 * 4 & 15, high = s[8 + k % 4] >> k / 4 * 2 & 3;

	return (low | high << 4) - 32;
}

void decode_q3_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 110) {
		const float d = load_half(p + 108);

		for (int k = 0; k < 16; k++, y += 16) {
			const uint8_t *q = p + 32 + k / 8 * 32 + k % 2 * 16;
			const uint8_t *third = p + k % 2 * 16;
			const float scale = d * (float)scale_q3_k(p + 96, k);
			const int shift = k % 8 / 2 * 2, bit = k / 2;

			for (int i = 0; i < 16; i++)
				y[i] = scale * (float)((q[i] >> shift & 3) +
					(third[i] >> bit & 1) * 4 - 4);
		}
	}
}

/* Scale and minimum k of 8, six bits each: whole for the first four, with the top bits of
 * those for the last. */
void scale_q4_k(const uint8_t *s, int k, int *scale, int *minimum)
{
	if (k < 4) {
		*scale = s[k] & 63;
		*minimum = s[4 + k] & 63;
	} else {
		*scale = (s[4 + k] & 15) | s[k - 4] >> 6 << 4;
		*minimum = s[4 + k] >> 4 | s[k] >> 6 << 4;
	}
}

void decode_q4_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 144) {
		const float d = load_half(p), m = load_half(p + 2);

		for (int k = 0; k < 8; k++, y += 32) {
			const uint8_t *q = p + 16 + k / 2 * 32;
			const int shift = k % 2 * 4;
			int scale, minimum;
			float ds, ms;

			scale_q4_k(p + 4, k, &scale, &minimum);
			ds = d * (float)scale, ms = m * (float)minimum;
			for (int i = 0; i < 32; i++)
				y[i] = ds * (float)(q[i] >> shift & 15) - ms;
		}
	}
}

void decode_q5_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 176) {
		const float d = load_half(p), m = load_half(p + 2);
		const uint8_t *fifth = p + 16;

		for (int k = 0; k < 8; k++, y += 32) {
			const uint8_t *q = p + 48 + k / 2 * 32;
			const int shift = k % 2 * 4;
			int scale, minimum;
			float ds, ms;

			scale_q4_k(p + 4, k, &scale, &minimum);
			ds = d * (float)scale, ms = m * (float)minimum;
			for (int i = 0; i < 32; i++)
				y[i] = ds * (float)((q[i] >> shift & 15) |
					(fifth[i] >> k & 1) << 4) - ms;
		}
	}
}

void decode_q6_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 210) {
		const float d = load_half(p + 208);

		for (int k = 0; k < 16; k++, y += 16) {
			const uint8_t *low = p + k / 8 * 64 + k % 4 * 16;
			const uint8_t *high = p + 128 + k / 8 * 32 + k % 2 * 16;
			const int nibble = k % 8 / 4 * 4, shift = k % 8 / 2 * 2;
			const float scale = d * (float)(int8_t)p[192 + k];

			for (int i = 0; i < 16; i++)
				y[i] = scale * (float)(((low[i] >> nibble & 15) |
					(high[i] >> shift & 3) << 4) - 32);
		}
	}
}

void decode_q8_k(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;
	float d;

	for (; cols > 0; cols -= QK_K, p += 292, y += QK_K) {
		memcpy(&d, p, sizeof(d));
		for (int i = 0; i < QK_K; i++)
			y[i] = d * (float)(int8_t)p[4 + i];
	}
}

/* n bytes hold n_digits * n elements: digit k of byte i is element k * n + i. A byte is
 * its five digits as a fraction of 256, so each product by 3 brings the next to the top. */
static float *put_digits(float *y, const uint8_t *q, int n, int n_digits, float d)
{
	for (int k = 0, power = 1; k < n_digits; k++, power *= 3, y += n)
		for (int i = 0; i < n; i++)
			y[i] = d * (float)(((uint8_t)(q[i] * power) * 3 >> 8) - 1);
	return y;
}

void decode_tq1_0(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 54) {
		const float d = load_half(p + 52);

		y = put_digits(y, p, 32, 5, d);
		y = put_digits(y, p + 32, 16, 5, d);
		y = put_digits(y, p + 48, 4, 4, d);
	}
}

void decode_tq2_0(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 66) {
		const float d = load_half(p + 64);

		for (int k = 0; k < 8; k++, y += 32)
			for (int i = 0; i < 32; i++)
				y[i] = d * (float)((p[k / 4 * 32 + i] >> k % 4 * 2 & 3) - 1);
	}
}
