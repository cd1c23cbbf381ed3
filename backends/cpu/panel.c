/* SPDX-License-Identifier: MIT */
/* panel.c - rows of a weight to panels and back, in plain C, for any number of lanes: the
 * layout is at "panels" in cpu.h. */
#include <string.h>

#include "cpu.h"

/* Where the parts of a block lie in its stored form; 0 bytes = not a block form. */
struct block_form {
	int bytes, scales; /* of a block; of its scales, which come first */
};

static struct block_form form_of(enum fmt fmt)
{
	switch (fmt) {
	case FMT_Q4_0: return (struct block_form){ 18, 2 };
	case FMT_Q4_1: return (struct block_form){ 20, 4 };
	case FMT_Q8_0: return (struct block_form){ 34, 2 };
	default: return (struct block_form){ 0, 0 };
	}
}

/* Bytes of an element of the float forms; 0 = not one. */
static int float_bytes(enum fmt fmt)
{
	return fmt == FMT_F32 ? 4 : fmt == FMT_F16 || fmt == FMT_BF16 ? 2 : 0;
}

int64_t panel_bytes(enum fmt fmt, int64_t lanes, int64_t cols)
{
	const int block = form_of(fmt).bytes;

	if (is_k(fmt))
		return cols / QK_K * panel_k_bytes(fmt) * lanes;
	if (block)
		return cols / QK * block * lanes;
	return (fmt == FMT_F32 ? cols : whole_blocks(cols)) * float_bytes(fmt) * lanes;
}

/* Copies 32-bit words between a row, where they are neighbours, and a lane. */
static void put_words(char *panel, const char *row, int64_t n, int64_t step)
{
	for (int64_t i = 0; i < n; i++)
		memcpy(panel + i * step, row + 4 * i, 4);
}

static void get_words(char *row, const char *panel, int64_t n, int64_t step)
{
	for (int64_t i = 0; i < n; i++)
		memcpy(row + 4 * i, panel + i * step, 4);
}

static void put_floats(char *panel, enum fmt fmt, int64_t lanes, int64_t lane, const char *row,
	int64_t cols)
{
	const int64_t bytes = cols * float_bytes(fmt), step = 4 * lanes;
	char *dst = panel + 4 * lane;
	int64_t words = bytes / 4;

	put_words(dst, row, words, step);
	if (fmt == FMT_F32)
		return;
	if (cols % 2) { /* the last one has no neighbour */
		memcpy(dst + words * step, row + 4 * words, 2);
		memset(dst + words++ * step + 2, 0, 2);
	}
	for (; words < whole_blocks(cols) / 2; words++)
		memset(dst + words * step, 0, 4);
}

static void get_floats(char *row, enum fmt fmt, int64_t lanes, int64_t lane, const char *panel,
	int64_t cols)
{
	const int64_t words = cols * float_bytes(fmt) / 4, step = 4 * lanes;

	get_words(row, panel + 4 * lane, words, step);
	if (fmt != FMT_F32 && cols % 2)
		memcpy(row + 4 * words, panel + 4 * lane + words * step, 2);
}

static void put_zeros(char *panel, enum fmt fmt, int64_t lanes, int64_t lane, int64_t cols)
{
	const struct block_form f = form_of(fmt);
	const int64_t step = 4 * lanes, words = (f.bytes - f.scales) / 4;

	for (int64_t b = 0; f.bytes && b < cols / QK; b++, panel += f.bytes * lanes) {
		for (int64_t i = 0; i < words; i++)
			memset(panel + i * step + 4 * lane, 0, 4);
		for (int k = 0; k < f.scales / 2; k++)
			memset(panel + words * step + 2 * (k * lanes + lane), 0, 2);
	}
	for (int64_t i = 0; !f.bytes && i < panel_bytes(fmt, 1, cols) / 4; i++)
		memset(panel + i * step + 4 * lane, 0, 4);
}

void panel_put(char *panel, enum fmt fmt, int64_t lanes, int64_t lane, const char *row, int64_t cols)
{
	const struct block_form f = form_of(fmt);
	const int64_t step = 4 * lanes, words = (f.bytes - f.scales) / 4;

	if (is_k(fmt)) {
		panel_k_put(panel, fmt, lanes, lane, row, cols);
		return;
	}
	if (!row) {
		put_zeros(panel, fmt, lanes, lane, cols);
		return;
	}
	if (!f.bytes) {
		put_floats(panel, fmt, lanes, lane, row, cols);
		return;
	}
	for (int64_t b = 0; b < cols / QK; b++, row += f.bytes, panel += f.bytes * lanes) {
		put_words(panel + 4 * lane, row + f.scales, words, step);
		for (int k = 0; k < f.scales / 2; k++)
			memcpy(panel + words * step + 2 * (k * lanes + lane), row + 2 * k, 2);
	}
}

/* The row as stored. */
static void panel_get(char *row, enum fmt fmt, int64_t lanes, int64_t lane, const char *panel, int64_t cols)
{
	const struct block_form f = form_of(fmt);
	const int64_t step = 4 * lanes, words = (f.bytes - f.scales) / 4;

	if (!f.bytes) {
		get_floats(row, fmt, lanes, lane, panel, cols);
		return;
	}
	for (int64_t b = 0; b < cols / QK; b++, row += f.bytes, panel += f.bytes * lanes) {
		get_words(row + f.scales, panel + 4 * lane, words, step);
		for (int k = 0; k < f.scales / 2; k++)
			memcpy(row + 2 * k, panel + words * step + 2 * (k * lanes + lane), 2);
	}
}

void panel_decode(const struct isa *isa, float *y, enum fmt fmt, int64_t lane, const char *panel, int64_t cols,
	char *line)
{
	if (is_k(fmt)) {
		panel_k_decode(y, fmt, isa->lanes, lane, panel, cols);
		return;
	}
	panel_get(line, fmt, isa->lanes, lane, panel, cols);
	isa->decode[fmt](y, line, cols);
}

void panel_pack(const struct isa *isa, char *w, enum fmt fmt, int64_t rows, int64_t cols,
	int64_t first, int64_t n, const char *from, int64_t stride)
{
	const int64_t lanes = isa->lanes, bytes = panel_bytes(fmt, lanes, cols);

	for (int64_t row = first, end = first + n; row < end;) {
		char *panel = w + row / lanes * bytes;
		int64_t lane = row % lanes, stop = end - row < lanes - lane ? lane + end - row : lanes;

		if (lane == 0 && stop == lanes && isa->pack[fmt]) {
			isa->pack[fmt](panel, from + (row - first) * stride, stride, cols);
			row += lanes;
			continue;
		}
		for (; lane < stop; lane++, row++)
			panel_put(panel, fmt, lanes, lane, from + (row - first) * stride, cols);
		for (; row == rows && lane < lanes; lane++)
			panel_put(panel, fmt, lanes, lane, NULL, cols);
	}
}
