/* SPDX-License-Identifier: MIT */
/* quant.c - what the stored forms of numbers mean, in plain C: the 16-bit floats and GGUF's
 * block formats (ggml/docs and gguf-py's quants.py describe them; those of quant_k.c and
 * quant_iq.c are larger). Little endian; each block of 32 elements starts with its scale d
 * as a half:
 *   Q4_0  d, 16 bytes: element i < 16 is the low nibble of byte i, element 16 + i
 *         the high one; value d * (q - 8)
 *   Q4_1  d, m, 16 bytes likewise; value d * q + m
 *   Q5_0  d, 4 bytes, 16 bytes: Q4_0's nibbles, and of element i the bit i of the four
 *         bytes above them; value d * (q - 16)
 *   Q5_1  d, m, likewise; value d * q + m
 *   Q8_0  d, 32 signed bytes; value d * q */
#include <math.h>
#include <string.h>

#include "cpu.h"

static const struct {
	int32_t dtype;
	const char *name;
	void (*decode)(float *y, const void *w, int64_t cols);
} forms[FMT_N] = {
#define FORM(name, decode) [FMT_ ## name] = { NVLLM_ ## name, #name, decode }
	FORM(F32, decode_f32), FORM(F16, decode_f16), FORM(BF16, decode_bf16),
	FORM(Q4_0, decode_q4_0), FORM(Q4_1, decode_q4_1), FORM(Q5_0, decode_q5_0),
	FORM(Q5_1, decode_q5_1), FORM(Q8_0, decode_q8_0), FORM(Q2_K, decode_q2_k),
	FORM(Q3_K, decode_q3_k), FORM(Q4_K, decode_q4_k), FORM(Q5_K, decode_q5_k),
	FORM(Q6_K, decode_q6_k), FORM(Q8_K, decode_q8_k), FORM(IQ1_S, decode_iq1_s),
	FORM(IQ1_M, decode_iq1_m), FORM(IQ2_XXS, decode_iq2_xxs), FORM(IQ2_XS, decode_iq2_xs),
	FORM(IQ2_S, decode_iq2_s), FORM(IQ3_XXS, decode_iq3_xxs), FORM(IQ3_S, decode_iq3_s),
	FORM(IQ4_NL, decode_iq4_nl), FORM(IQ4_XS, decode_iq4_xs), FORM(MXFP4, decode_mxfp4),
	FORM(TQ1_0, decode_tq1_0), FORM(TQ2_0, decode_tq2_0),
#undef FORM
};

enum fmt fmt_of(int32_t dtype)
{
	int fmt = 0;

	while (fmt < FMT_N && forms[fmt].dtype != dtype)
		fmt++;
	return (enum fmt)fmt;
}

const char *fmt_name(enum fmt fmt)
{
	return forms[fmt].name;
}

void decode_plain(struct isa *isa)
{
	for (int fmt = 0; fmt < FMT_N; fmt++)
		isa->decode[fmt] = forms[fmt].decode;
}

static float bits_to_float(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

/* IEEE 754 binary16 to binary32: exact. */
float half_to_float(uint16_t h)
{
	const uint32_t sign = (uint32_t)(h & 0x8000) << 16, frac = h & 0x3ff;
	const uint32_t exp = h >> 10 & 0x1f;

	if (exp == 0) /* zero or subnormal: frac * 2^-24 */
		return bits_to_float(sign) + (sign ? -(float)frac : (float)frac) * 0x1p-24f;
	if (exp == 31) /* quiet, as the conversion instructions do */
		return bits_to_float(sign | 0x7f800000 | frac << 13 | (frac ? 0x400000 : 0));
	return bits_to_float(sign | (exp + 112) << 23 | frac << 13);
}

float load_half(const void *p)
{
	uint16_t h;

	memcpy(&h, p, sizeof(h));
	return half_to_float(h);
}

void decode_f32(float *y, const void *w, int64_t cols)
{
	memcpy(y, w, (size_t)cols * sizeof(*y));
}

void decode_f16(float *y, const void *w, int64_t cols)
{
	const char *p = w;

	for (int64_t i = 0; i < cols; i++)
		y[i] = load_half(p + 2 * i);
}

void decode_bf16(float *y, const void *w, int64_t cols)
{
	const char *p = w;
	uint16_t h;

	for (int64_t i = 0; i < cols; i++) {
		memcpy(&h, p + 2 * i, sizeof(h));
		y[i] = bits_to_float((uint32_t)h << 16);
	}
}

void decode_q4_0(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 18, y += QK) {
		const float d = load_half(p);

		for (int i = 0; i < QK / 2; i++) {
			y[i] = d * (float)((p[2 + i] & 15) - 8);
			y[i + QK / 2] = d * (float)((p[2 + i] >> 4) - 8);
		}
	}
}

void decode_q4_1(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 20, y += QK) {
		const float d = load_half(p), m = load_half(p + 2);

		for (int i = 0; i < QK / 2; i++) {
			y[i] = d * (float)(p[4 + i] & 15) + m;
			y[i + QK / 2] = d * (float)(p[4 + i] >> 4) + m;
		}
	}
}

/* Element i: a nibble of low, and bit i of high. */
static int five_bits(const uint8_t *low, const uint8_t *high, int i)
{
	return (low[i % 16] >> i / 16 * 4 & 15) | (high[i / 8] >> i % 8 & 1) << 4;
}

void decode_q5_0(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 22, y += QK) {
		const float d = load_half(p);

		for (int i = 0; i < QK; i++)
			y[i] = d * (float)(five_bits(p + 6, p + 2, i) - 16);
	}
}

void decode_q5_1(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 24, y += QK) {
		const float d = load_half(p), m = load_half(p + 2);

		for (int i = 0; i < QK; i++)
			y[i] = d * (float)five_bits(p + 8, p + 4, i) + m;
	}
}

void decode_q8_0(float *y, const void *w, int64_t cols)
{
	const uint8_t *p = w;

	for (int64_t b = 0; b < cols / QK; b++, p += 34, y += QK) {
		const float d = load_half(p);

		for (int i = 0; i < QK; i++)
			y[i] = d * (float)(int8_t)p[2 + i];
	}
}

/* The largest |x[i]|, by the order of the bits: a NaN is larger than all numbers. */
static float largest(const float *x)
{
	uint32_t most = 0, u;

	for (int i = 0; i < QK; i++) {
		memcpy(&u, &x[i], sizeof(u));
		u &= 0x7fffffff;
		most = u > most ? u : most;
	}
	return bits_to_float(most);
}

/* Symmetric rounding to whole numbers of at most top: x is about the result, d = max |x|
 * / top, times q. A block too small to divide by is zero; one with a NaN or an infinity
 * gets a d that is no number, so that the row's results show it. */
static float round_block(int32_t q[QK], const float *x, float top)
{
	const float most = largest(x);
	const bool finite = most <= 0x1.fffffep127f;
	const float inverse = finite && most > 1e-30f ? top / most : 0;

	for (int i = 0; i < QK; i++)
		q[i] = inverse != 0 ? (int32_t)lrintf(x[i] * inverse) : 0;
	return !finite ? NAN : inverse == 0 ? 0 : most / top;
}

static int32_t sum_of(const int32_t q[QK])
{
	int32_t sum = 0;

	for (int i = 0; i < QK; i++)
		sum += q[i];
	return sum;
}

void to_q8(void *blocks, const float *x, int64_t cols)
{
	struct q8_block *y = blocks;
	int32_t q[QK];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		y->d = round_block(q, x, 127);
		y->sum = sum_of(q);
		y->s = y->d * (float)y->sum;
		y->pad = 0;
		for (int i = 0; i < QK; i++)
			y->q[i] = (int8_t)q[i];
	}
}

/* A tie may round either way: low is then 127 or -127. */
static void to_planes_of(struct q16_block *y, const float *x, int64_t cols, float top)
{
	int32_t q[QK];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		y->d = round_block(q, x, top);
		y->s = y->d * (float)sum_of(q);
		for (int i = 0; i < QK; i++) {
			y->high[i] = (int8_t)lrintf((float)q[i] * (1 / 254.f));
			y->low[i] = (int8_t)(q[i] - 254 * y->high[i]);
		}
	}
}

void to_planes(void *blocks, const float *x, int64_t cols)
{
	to_planes_of(blocks, x, cols, Q16_TOP);
}

void to_planes_q12(void *blocks, const float *x, int64_t cols)
{
	to_planes_of(blocks, x, cols, Q12_TOP);
}

void to_words(void *blocks, const float *x, int64_t cols)
{
	struct q16_block *y = blocks;
	int32_t q[QK];

	for (int64_t b = 0; b < cols / QK; b++, x += QK, y++) {
		y->d = round_block(q, x, Q16_TOP);
		y->s = y->d * (float)sum_of(q);
		for (int i = 0; i < QK; i++)
			y->word[i] = (int16_t)q[PAIR(i)];
	}
}

uint16_t bf16_of(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof(u));
	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

void to_bf16(void *row, const float *x, int64_t cols)
{
	uint16_t *y = row;

	for (int64_t i = 0; i < whole_blocks(cols); i++)
		y[i] = i < cols ? bf16_of(x[i]) : 0;
}

void round_bf16(void *row, const float *x, int64_t cols)
{
	for (int64_t i = 0; i < cols; i++) {
		const uint32_t u = (uint32_t)bf16_of(x[i]) << 16;

		memcpy((float *)row + i, &u, sizeof(u));
	}
}
