/* SPDX-License-Identifier: MIT */
/* blocks.c - the CPU device's plain readings of the block formats, compiled into this plugin too: one
 * text for what a format means. */
#include "../cpu/cpu.h"
#include "blocks.h"

bool blocks_known(int32_t dtype)
{
	return fmt_of(dtype) != FMT_N;
}

void blocks_to_f32(float *y, const void *w, int32_t dtype, int64_t cols)
{
	struct isa isa;

	decode_plain(&isa);
	isa.decode[fmt_of(dtype)](y, w, cols);
}
