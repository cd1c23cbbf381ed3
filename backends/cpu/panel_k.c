/* SPDX-License-Identifier: MIT */
/* panel_k.c - panels of Q4_K, Q5_K and Q6_K: their numbers in the order and width in which
 * products read them (layout: "panels" in cpu.h). */
#include <string.h>

#include "cpu.h"

#define BYTES 0x01010101u /* times b: b in each byte of a word */

/* Of one lane of a panel: bytes of a block's numbers, and of 256 columns. */
static int block_of(enum fmt fmt)
{
	return fmt == FMT_Q4_K ? 16 : 32;
}

int64_t panel_k_bytes(enum fmt fmt)
{
	return 8 * block_of(fmt) + (fmt == FMT_Q6_K ? 2 + 16 : 4 + 16);
}

static uint32_t word_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Where a part of a lane lies. */
struct place {
	char *words;  /* the lane's first word; the next is 4 * lanes on */
	char *halves; /* the lane's first half; the next is 2 * lanes on */
	char *bytes;  /* the lane's first byte of a table; the next is lanes on */
	int64_t lanes, parts; /* parts: words of a block */
};

static struct place place_of(const char *panel, enum fmt fmt, int64_t lanes, int64_t lane)
{
	char *p = (char *)panel, *tail = p + 8 * block_of(fmt) * lanes;

	return (struct place){ p + 4 * lane, tail + 2 * lane, tail + (fmt == FMT_Q6_K ? 2 : 4) * lanes + lane,
		lanes, block_of(fmt) / 4 };
}

static void put_word(const struct place *p, int block, int part, uint32_t v)
{
	memcpy(p->words + (block * p->parts + part) * 4 * p->lanes, &v, sizeof(v));
}

/* d, dmin; 8 scales and 8 minima of 6 bits. */
static void put_scales(const struct place *p, const uint8_t *w)
{
	memcpy(p->halves, w, 2);
	memcpy(p->halves + 2 * p->lanes, w + 2, 2);
	for (int k = 0; k < 8; k++) {
		int scale, minimum;

		scale_q4_k(w + 4, k, &scale, &minimum);
		p->bytes[k * p->lanes] = (char)scale;
		p->bytes[(8 + k) * p->lanes] = (char)minimum;
	}
}

/* Blocks 2j and 2j + 1 share 32 bytes: the low halves are the one's, the high ones the other's. */
static void put_q4_k(const struct place *p, const uint8_t *w)
{
	const uint32_t low = 15 * BYTES;

	put_scales(p, w);
	for (int j = 0; j < 4; j++)
		for (int t = 0; t < 4; t++) {
			const uint32_t a = word_at(w + 16 + 32 * j + 4 * t), b = word_at(w + 32 + 32 * j + 4 * t);

			put_word(p, 2 * j, t, (a & low) | (b & low) << 4);
			put_word(p, 2 * j + 1, t, (a >> 4 & low) | (b & ~low));
		}
}

static void put_q5_k(const struct place *p, const uint8_t *w)
{
	put_scales(p, w);
	for (int k = 0; k < 8; k++)
		for (int t = 0; t < 8; t++) {
			const uint32_t v = word_at(w + 48 + k / 2 * 32 + 4 * t) >> k % 2 * 4 & 15 * BYTES;
			const uint32_t fifth = word_at(w + 16 + 4 * t) >> k & BYTES;

			put_word(p, k, t, v | fifth << 4);
		}
}

/* Numbers of 6 bits less 32, byte by byte: no borrow from 0x80 | v. */
static void put_q6_k(const struct place *p, const uint8_t *w)
{
	memcpy(p->halves, w + 208, 2);
	for (int k = 0; k < 16; k++)
		p->bytes[k * p->lanes] = (char)w[192 + k];
	for (int k = 0; k < 8; k++)
		for (int t = 0; t < 8; t++) {
			const uint8_t *low = w + k / 4 * 64 + k % 2 * 32 + 4 * t, *high = w + 128 + k / 4 * 32 + 4 * t;
			const uint32_t v = (word_at(low) >> k % 4 / 2 * 4 & 15 * BYTES) |
				(word_at(high) >> k % 4 * 2 & 3 * BYTES) << 4;

			put_word(p, k, t, ((v | 128 * BYTES) - 32 * BYTES) ^ 128 * BYTES);
		}
}

static int64_t stored_bytes(enum fmt fmt)
{
	return fmt == FMT_Q4_K ? 144 : fmt == FMT_Q5_K ? 176 : 210;
}

void panel_k_put(char *panel, enum fmt fmt, int64_t lanes, int64_t lane, const char *row, int64_t cols)
{
	static const uint8_t zeros[210]; /* as stored, of every form */
	void (*const put)(const struct place *, const uint8_t *) = fmt == FMT_Q4_K ? put_q4_k :
		fmt == FMT_Q5_K ? put_q5_k : put_q6_k;

	for (int64_t b = 0; b < cols / QK_K; b++, panel += panel_k_bytes(fmt) * lanes) {
		const struct place p = place_of(panel, fmt, lanes, lane);

		put(&p, row ? (const uint8_t *)row + b * stored_bytes(fmt) : zeros);
	}
}

void panel_k_block(struct lane_block *k, enum fmt fmt, int64_t lanes, int64_t lane, const char *panel, int64_t b)
{
	const struct place p = place_of(panel + b / 8 * panel_k_bytes(fmt) * lanes, fmt, lanes, lane);
	const char *words = p.words + b % 8 * p.parts * 4 * lanes;
	const bool six = fmt == FMT_Q6_K;

	for (int i = 0; i < QK; i++) {
		const int at = fmt == FMT_Q4_K ? i % 16 : i;
		const uint8_t v = (uint8_t)words[at / 4 * 4 * lanes + at % 4];

		k->q[i] = six ? (int8_t)v : fmt == FMT_Q5_K ? v : i < 16 ? v & 15 : v >> 4;
	}
	for (int h = 0; h < 2; h++) {
		const char scale = p.bytes[(six ? b % 8 * 2 + h : b % 8) * lanes];

		k->d[h] = load_half(p.halves) * (float)(six ? (int8_t)scale : (uint8_t)scale);
	}
	k->m = six ? 0 : -load_half(p.halves + 2 * lanes) * (float)(uint8_t)p.bytes[(8 + b % 8) * lanes];
}

/* As decode_q4_k() and the others would have it from the stored row, to the bit. */
void panel_k_decode(float *y, enum fmt fmt, int64_t lanes, int64_t lane, const char *panel, int64_t cols)
{
	for (int64_t b = 0; b < cols / QK; b++, y += QK) {
		struct lane_block k;

		panel_k_block(&k, fmt, lanes, lane, panel, b);
		for (int i = 0; i < QK; i++) {
			y[i] = k.d[i / 16] * (float)k.q[i];
			if (fmt != FMT_Q6_K) /* which keeps a zero's sign */
				y[i] += k.m;
		}
	}
}
