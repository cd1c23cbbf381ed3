/* SPDX-License-Identifier: MIT */
/* quant_iq.c - GGUF's formats that look their values up, in plain C (ggml-common.h lays the
 * blocks out, gguf-py's quants.py says what they mean). Little endian; d is a half.
 *
 * Sixteen levels a nibble, in blocks of 32 as Q4_0's: IQ4_NL (d first), MXFP4 (OCP
 * Microscaling Formats 1.0: a power of two for d, levels twice E2M1's), and IQ4_XS of 256,
 * with a scale of 6 bits for each 32.
 *
 * The others, of 256, take eight (or twice four) magnitudes at once out of a code book
 * (grids.h) and have the signs as a byte, or as seven bits with even parity:
 *   IQ2_XXS  d, for each 32: four bytes of index, then 28 bits of signs and 4 of scale
 *   IQ2_XS   d, 32 words (9 bits of index, 7 of signs), a nibble of scale for each 16
 *   IQ2_S    d, 32 bytes of index, 32 of signs, two more bits of each index, scales likewise
 *   IQ3_XXS  d, 64 bytes of index of fours, for each 32: 28 bits of signs and 4 of scale
 *   IQ3_S    d, 64 bytes of index, a ninth bit of each, 32 of signs, a nibble for each 32
 *   IQ1_S    d, 32 bytes of index, for each 32 a word: four times 3 more bits, 3 of scale,
 *            and the sign of what is added to each magnitude, an eighth
 *   IQ1_M    32 bytes of index, for each a nibble: 3 more bits and that sign; four words of
 *            four 3-bit scales (each 16) and in the top nibbles d */
#include <string.h>

#include "cpu.h"
#include "grids.h"

const int8_t levels_nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53,
	69, 89, 113 };
const int8_t levels_mx[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
static const uint8_t levels_iq2[4] = { 8, 25, 43 }; /* three: no code book has a fourth */
static const uint8_t levels_xxs[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };
static const uint8_t levels_iq3_s[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };

static uint16_t u16_at(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32_at(const uint8_t *p)
{
	return u16_at(p) | (uint32_t)u16_at(p + 2) << 16;
}

/* Nibble k of p. */
static int nibble(const uint8_t *p, int k)
{
	return p[k / 2] >> k % 2 * 4 & 15;
}

/* ---- sixteen levels ---- */

static void put_levels(float *y, const uint8_t *q, float d, const int8_t *levels)
{
	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)levels[q[i] & 15];
		y[i + 16] = d * (float)levels[q[i] >> 4];
	}
}

void decode_iq4_nl(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK, p += 18, y += QK)
		put_levels(y, p + 2, load_half(p), levels_nl);
}

int scale_iq4_xs(const uint8_t *p, int k)
{
	return (nibble(p + 4, k) | (u16_at(p + 2) >> 2 * k & 3) << 4) - 32;
}

void decode_iq4_xs(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 136) {
		const float d = load_half(p);

		for (int k = 0; k < 8; k++, y += 32)
			put_levels(y, p + 8 + 16 * k, d * (float)scale_iq4_xs(p, k), levels_nl);
	}
}

/* Half of 2^(e - 127), for levels that are twice their value: exact down to e = 0. */
float scale_mxfp4(uint8_t e)
{
	const uint32_t u = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
	float d;

	memcpy(&d, &u, sizeof(d));
	return d;
}

void decode_mxfp4(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK, p += 17, y += QK)
		put_levels(y, p + 1, scale_mxfp4(p[0]), levels_mx);
}

/* ---- code books ---- */

/* Seven signs, and the eighth that makes them even. */
static uint8_t even_signs(uint32_t seven)
{
	return (uint8_t)((seven & 127) | (uint32_t)__builtin_parity(seven & 127) << 7);
}

/* n elements of `bits` bits each in an entry of a code book. */
static void put_group(float *y, uint16_t entry, int n, int bits, const uint8_t *levels, float d,
	uint8_t signs)
{
	const int mask = bits == 2 ? 3 : 7;

	for (int i = 0; i < n; i++) {
		const float v = d * (float)levels[entry >> bits * i & mask];

		y[i] = signs >> i & 1 ? -v : v;
	}
}

static void put_eight(float *y, uint16_t entry, float d, uint8_t signs)
{
	put_group(y, entry, 8, 2, levels_iq2, d, signs);
}

static void put_fours(float *y, uint16_t a, uint16_t b, const uint8_t *levels, float d,
	uint8_t signs)
{
	put_group(y, a, 4, 4, levels, d, signs);
	put_group(y + 4, b, 4, 4, levels, d, signs >> 4);
}

void decode_iq2_xxs(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 66) {
		const float d = load_half(p);

		for (int k = 0; k < 8; k++) {
			const uint8_t *q = p + 2 + 8 * k;
			const uint32_t u = u32_at(q + 4);
			const float db = d * (0.5f + (float)(u >> 28)) * 0.25f;

			for (int i = 0; i < 4; i++, y += 8)
				put_eight(y, grid_iq2_xxs[q[i]], db, even_signs(u >> 7 * i));
		}
	}
}

void decode_iq2_xs(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 74) {
		const float d = load_half(p);

		for (int i = 0; i < 32; i++, y += 8) {
			const uint16_t u = u16_at(p + 2 + 2 * i);
			const float db = d * (0.5f + (float)nibble(p + 66, i / 2)) * 0.25f;

			put_eight(y, grid_iq2_xs[u & 511], db, even_signs(u >> 9));
		}
	}
}

void decode_iq2_s(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 82) {
		const float d = load_half(p);

		for (int i = 0; i < 32; i++, y += 8) {
			const int at = p[2 + i] | (p[66 + i / 4] >> i % 4 * 2 & 3) << 8;
			const float db = d * (0.5f + (float)nibble(p + 74, i / 2)) * 0.25f;

			put_eight(y, grid_iq2_s[at], db, p[34 + i]);
		}
	}
}

void decode_iq3_xxs(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 98) {
		const float d = load_half(p);

		for (int i = 0; i < 32; i++, y += 8) {
			const uint8_t *q = p + 2 + 2 * i;
			const uint32_t u = u32_at(p + 66 + i / 4 * 4);
			const float db = d * (0.5f + (float)(u >> 28)) * 0.5f;

			put_fours(y, grid_iq3_xxs[q[0]], grid_iq3_xxs[q[1]], levels_xxs, db,
				even_signs(u >> i % 4 * 7));
		}
	}
}

void decode_iq3_s(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 110) {
		const float d = load_half(p);

		for (int i = 0; i < 32; i++, y += 8) {
			const uint8_t *q = p + 2 + 2 * i;
			const int ninth = p[66 + i / 4] >> i % 4 * 2;
			const float db = d * (float)(1 + 2 * nibble(p + 106, i / 4));

			put_fours(y, grid_iq3_s[q[0] | (ninth & 1) << 8],
				grid_iq3_s[q[1] | (ninth & 2) << 7], levels_iq3_s, db, p[74 + i]);
		}
	}
}

/* d * (-1, 0 or 1, and an eighth more or less), eight times. */
static void put_iq1(float *y, uint16_t entry, float d, bool less)
{
	for (int i = 0; i < 8; i++)
		y[i] = d * ((float)((entry >> 2 * i & 3) - 1) + (less ? -0.125f : 0.125f));
}

void decode_iq1_s(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 50) {
		const float d = load_half(p);

		for (int i = 0; i < 32; i++, y += 8) {
			const uint16_t u = u16_at(p + 34 + i / 4 * 2);
			const int at = p[2 + i] | (u >> i % 4 * 3 & 7) << 8;

			put_iq1(y, grid_iq1[at], d * (float)(2 * (u >> 12 & 7) + 1), u >> 15);
		}
	}
}

void decode_iq1_m(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (; cols > 0; cols -= QK_K, p += 56) {
		const uint8_t *s = p + 48;
		const float d = half_to_float((uint16_t)(s[1] >> 4 | (s[3] & 0xf0) |
			(s[5] & 0xf0) << 4 | (s[7] & 0xf0) << 8));

		for (int i = 0; i < 32; i++, y += 8) {
			const int more = nibble(p + 32, i);
			const int scale = u16_at(s + i / 8 * 2) >> i / 2 % 4 * 3 & 7;

			put_iq1(y, grid_iq1[p[i] | (more & 7) << 8], d * (float)(2 * scale + 1),
				more & 8);
		}
	}
}
