/* SPDX-License-Identifier: MIT */
/* tests/conform/blocks.c - what GGUF's larger block formats mean, one element at a time and
 * in double, from their description (ggml/src/ggml-common.h, gguf-py's quants.py): the
 * other side of a device's own reading. Blocks of 32 with plain numbers are in ref.c. */
#include <math.h>
#include <string.h>

#include "../../backends/cpu/grids.h"
#include "check.h"

static unsigned u16(const unsigned char *p)
{
	return (unsigned)p[0] | (unsigned)p[1] << 8;
}

static unsigned long u32(const unsigned char *p)
{
	return u16(p) | (unsigned long)u16(p + 2) << 16;
}

/* n bits from bit `at` on, the lowest of byte 0 first. */
static int bits_at(const unsigned char *p, int at, int n)
{
	int v = 0;

	for (int i = 0; i < n; i++)
		v |= (p[(at + i) / 8] >> (at + i) % 8 & 1) << i;
	return v;
}

static double half_at(const unsigned char *p)
{
	return ref_half((uint16_t)u16(p));
}

/* ---- K: element e of 256 ---- */

static double q2_k(const unsigned char *b, int e)
{
	int q = bits_at(b + 16 + e / 128 * 32 + e % 32, e / 32 % 4 * 2, 2);

	return half_at(b + 80) * (b[e / 16] % 16) * q - half_at(b + 82) * (b[e / 16] / 16);
}

static double q3_k(const unsigned char *b, int e)
{
	int k = e / 16, q = bits_at(b + 32 + e / 128 * 32 + e % 32, e / 32 % 4 * 2, 2);
	int scale = bits_at(b + 96 + k % 8, k / 8 * 4, 4) + 16 * bits_at(b + 104 + k % 4, k / 4 * 2,
		2);

	return half_at(b + 108) * (scale - 32) * (bits_at(b + e % 32, e / 32, 1) ? q : q - 4);
}

/* Scales and minima of six bits, eight each, in twelve bytes. */
static double with_minimum(const unsigned char *b, int k, int q)
{
	const unsigned char *s = b + 4;
	int scale = k < 4 ? bits_at(s + k, 0, 6) : s[k + 4] % 16 + 16 * bits_at(s + k - 4, 6, 2);
	int low = k < 4 ? bits_at(s + k + 4, 0, 6) : s[k + 4] / 16 + 16 * bits_at(s + k, 6, 2);

	return half_at(b) * scale * q - half_at(b + 2) * low;
}

static double q4_k(const unsigned char *b, int e)
{
	return with_minimum(b, e / 32, bits_at(b + 16 + e / 64 * 32 + e % 32, e / 32 % 2 * 4, 4));
}

static double q5_k(const unsigned char *b, int e)
{
	int q = bits_at(b + 48 + e / 64 * 32 + e % 32, e / 32 % 2 * 4, 4);

	return with_minimum(b, e / 32, q + 16 * bits_at(b + 16 + e % 32, e / 32, 1));
}

static double q6_k(const unsigned char *b, int e)
{
	int half = e / 128, in = e % 128;
	int q = bits_at(b + half * 64 + in % 64, in / 64 * 4, 4) +
		16 * bits_at(b + 128 + half * 32 + in % 32, in / 32 * 2, 2);

	return half_at(b + 208) * (signed char)b[192 + e / 16] * (q - 32);
}

static double q8_k(const unsigned char *b, int e)
{
	float d;

	memcpy(&d, b, sizeof(d));
	return (double)d * (signed char)b[4 + e];
}

/* Digit k of a byte that holds five, as a fraction of 256. */
static int digit(int byte, int k)
{
	for (; k > 0; k--)
		byte = byte * 3 % 256;
	return byte * 3 / 256;
}

static double tq1_0(const unsigned char *b, int e)
{
	int q = e < 160 ? digit(b[e % 32], e / 32) : e < 240 ?
		digit(b[32 + e % 16], (e - 160) / 16) : digit(b[48 + e % 4], (e - 240) / 4);

	return half_at(b + 52) * (q - 1);
}

static double tq2_0(const unsigned char *b, int e)
{
	return half_at(b + 64) * (bits_at(b + e / 128 * 32 + e % 32, e / 32 % 4 * 2, 2) - 1);
}

/* ---- IQ4, MXFP4: sixteen levels ---- */

static const int nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89,
	113 };

static int nibble_of_32(const unsigned char *q, int e)
{
	return bits_at(q + e % 16, e / 16 * 4, 4);
}

static double iq4_nl(const unsigned char *b, int e)
{
	return half_at(b) * nl[nibble_of_32(b + 2, e)];
}

static double iq4_xs(const unsigned char *b, int e)
{
	int k = e / 32, scale = bits_at(b + 4, k * 4, 4) + 16 * bits_at(b + 2, k * 2, 2);

	return half_at(b) * (scale - 32) * nl[nibble_of_32(b + 8 + 16 * k, e % 32)];
}

/* E2M1 with a common power of two (OCP Microscaling Formats 1.0, section 5.3.3). */
static double mxfp4(const unsigned char *b, int e)
{
	static const double value[8] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };
	int q = nibble_of_32(b + 1, e);

	return ldexp(q & 8 ? -value[q & 7] : value[q & 7], b[0] - 127);
}

/* ---- code books: element e, of group e / 8 ---- */

static int sign_of(int byte, int e)
{
	return byte >> e % 8 & 1 ? -1 : 1;
}

/* Seven signs; the eighth makes their number even. */
static int even_sign(int seven, int e)
{
	int n = 0;

	for (int i = 0; i < 7; i++)
		n += seven >> i & 1;
	return sign_of(seven | n % 2 << 7, e);
}

static int iq2_level(unsigned entry, int e)
{
	static const int levels[] = { 8, 25, 43, 0 };

	return levels[entry >> e % 8 * 2 & 3];
}

static double iq2_xxs(const unsigned char *b, int e)
{
	const unsigned char *q = b + 2 + e / 32 * 8;
	unsigned long u = u32(q + 4);
	int g = e / 8 % 4;

	return half_at(b) * (0.5 + (double)(u >> 28)) / 4 * iq2_level(grid_iq2_xxs[q[g]], e) *
		even_sign((int)(u >> 7 * g & 127), e);
}

static double iq2_xs(const unsigned char *b, int e)
{
	unsigned u = u16(b + 2 + e / 8 * 2);

	return half_at(b) * (0.5 + bits_at(b + 66, e / 16 * 4, 4)) / 4 *
		iq2_level(grid_iq2_xs[u % 512], e) * even_sign((int)(u / 512), e);
}

static double iq2_s(const unsigned char *b, int e)
{
	int at = b[2 + e / 8] + 256 * bits_at(b + 66, e / 8 * 2, 2);

	return half_at(b) * (0.5 + bits_at(b + 74, e / 16 * 4, 4)) / 4 *
		iq2_level(grid_iq2_s[at], e) * sign_of(b[34 + e / 8], e);
}

static double iq3_xxs(const unsigned char *b, int e)
{
	unsigned long u = u32(b + 66 + e / 32 * 4);
	int k = grid_iq3_xxs[b[2 + e / 4]] >> e % 4 * 4 & 7;

	return half_at(b) * (0.5 + (double)(u >> 28)) / 2 * (k == 7 ? 62 : 4 + 8 * k) *
		even_sign((int)(u >> e / 8 % 4 * 7 & 127), e);
}

static double iq3_s(const unsigned char *b, int e)
{
	int at = b[2 + e / 4] + 256 * bits_at(b + 66, e / 4, 1);

	return half_at(b) * (1 + 2 * bits_at(b + 106, e / 32 * 4, 4)) *
		(1 + 2 * (grid_iq3_s[at] >> e % 4 * 4 & 7)) * sign_of(b[74 + e / 8], e);
}

static double iq1(int at, int e, bool less)
{
	return (grid_iq1[at] >> e % 8 * 2 & 3) - 1 + (less ? -0.125 : 0.125);
}

static double iq1_s(const unsigned char *b, int e)
{
	const unsigned char *h = b + 34 + e / 32 * 2;
	int at = b[2 + e / 8] + 256 * bits_at(h, e / 8 % 4 * 3, 3);

	return half_at(b) * (1 + 2 * bits_at(h, 12, 3)) * iq1(at, e, bits_at(h, 15, 1));
}

static double iq1_m(const unsigned char *b, int e)
{
	const unsigned char *s = b + 48;
	int more = bits_at(b + 32, e / 8 * 4, 4), d = 0;

	for (int i = 0; i < 4; i++)
		d |= bits_at(s, 16 * i + 12, 4) << 4 * i;
	return ref_half((uint16_t)d) * (1 + 2 * bits_at(s + e / 64 * 2, e / 16 % 4 * 3, 3)) *
		iq1(b[e / 8] + 256 * (more & 7), e, more & 8);
}

/* ---- random blocks ---- */

enum { NO = -1, IN_NIBBLES = -2, FLOAT = -3, POWER = -4 };

static const struct {
	int32_t dtype;
	int scale, minimum; /* where the halves are, or how else */
	double (*element)(const unsigned char *, int);
} types[] = {
	{ NVLLM_Q2_K, 80, 82, q2_k }, { NVLLM_Q3_K, 108, NO, q3_k }, { NVLLM_Q4_K, 0, 2, q4_k },
	{ NVLLM_Q5_K, 0, 2, q5_k }, { NVLLM_Q6_K, 208, NO, q6_k }, { NVLLM_Q8_K, FLOAT, NO, q8_k },
	{ NVLLM_IQ1_S, 0, NO, iq1_s }, { NVLLM_IQ1_M, IN_NIBBLES, NO, iq1_m },
	{ NVLLM_IQ2_XXS, 0, NO, iq2_xxs }, { NVLLM_IQ2_XS, 0, NO, iq2_xs },
	{ NVLLM_IQ2_S, 0, NO, iq2_s }, { NVLLM_IQ3_XXS, 0, NO, iq3_xxs },
	{ NVLLM_IQ3_S, 0, NO, iq3_s }, { NVLLM_IQ4_NL, 0, NO, iq4_nl },
	{ NVLLM_IQ4_XS, 0, NO, iq4_xs }, { NVLLM_MXFP4, POWER, NO, mxfp4 },
	{ NVLLM_TQ1_0, 52, NO, tq1_0 }, { NVLLM_TQ2_0, 64, NO, tq2_0 },
};

/* A half between 2^-9 and 2^-6, of either sign. */
static void put_half(unsigned char *p, struct rng *r)
{
	p[1] = (unsigned char)(0x18 | (rng_u64(r) & 0x87));
}

static void put_scale(int how, unsigned char *b, struct rng *r)
{
	float f = (float)rng_unit(r) / 64;

	if (how >= 0)
		put_half(b + how, r);
	else if (how == IN_NIBBLES) /* the top one is in the last byte */
		b[55] = (unsigned char)(0x10 | (b[55] & 0x8f));
	else if (how == FLOAT)
		memcpy(b, &f, sizeof(f));
	else if (how == POWER)
		b[0] = (unsigned char)(118 + rng_int(r, 8));
}

bool ref_random_block(int32_t dtype, struct rng *r, unsigned char *b, double *v)
{
	int64_t bytes = 0, n = nvllm_dtype_block(dtype, &bytes);

	for (size_t t = 0; t < sizeof(types) / sizeof(*types); t++) {
		if (types[t].dtype != dtype)
			continue;
		for (int64_t i = 0; i < bytes; i++)
			b[i] = (unsigned char)rng_u64(r);
		put_scale(types[t].scale, b, r);
		if (types[t].minimum >= 0)
			put_half(b + types[t].minimum, r);
		for (int i = 0; i < n; i++)
			v[i] = types[t].element(b, i);
		return true;
	}
	return false;
}
