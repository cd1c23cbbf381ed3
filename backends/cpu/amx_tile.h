/* SPDX-License-Identifier: MIT */
/* amx_tile.h - what the products by AMX share: how tiles are set up, and what the compiler has to
 * be told. The tiles of a thread are set up by each call and given back at its end: a thread that
 * sleeps then has no 8 KiB of them to be saved. */
#ifndef NVLLM_CPU_AMX_TILE_H
#define NVLLM_CPU_AMX_TILE_H

#include "cpu.h"
#include "simd512.h"
#ifdef NVLLM_EMULATED
#include "amx_emulated.h"
#endif

#define TILE TILE_ROWS /* rows of a tile, of 64 bytes */

/* What LDTILECFG reads (Intel SDM vol. 1, 18.3). It is to be constant data, since the compiler may
 * not know that it is read: gcc 12 has _tile_loadconfig() read its first 8 bytes alone. */
struct shape {
	uint8_t palette, start, none[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

/* The compiler does not know either that tile instructions read memory: what was stored before
 * this is there. */
static inline __attribute__((always_inline)) void written(void)
{
	__asm__ volatile("" : : : "memory");
}

#endif
