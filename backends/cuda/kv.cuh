/* SPDX-License-Identifier: MIT */
/* Where K and V of a token lie in a page. A page of one layer holds 16 tokens:
 *   [K | V][KV head][16 tokens][head_dim]
 * and is one contiguous piece, so that one bulk copy brings it. Within a head, a token's row is cut in
 * strips of 128 bytes, the rest in strips of 64, 32, 16; a strip holds its 16 tokens one below the other.
 * The 16-byte pieces of a row of a strip are exchanged by the token's number, so that the eight rows of
 * an 8x8 matrix lie in different banks of shared memory, where the same image is used. A strip
 * of 128 bytes has the form that wgmma calls the 128-byte swizzle. */
#ifndef NVLLM_CUDA_KV_CUH
#define NVLLM_CUDA_KV_CUH

#include "num.cuh"

#define PAGE 16 /* tokens */

/* Bytes of one head's K (or V) in a page. row_bytes: head_dim * bytes of an element, a multiple of 16. */
HD int64_t kv_head_bytes(int row_bytes) { return (int64_t)PAGE * row_bytes; }
/* Bytes of a page of one layer. V begins half way. */
HD int64_t kv_page_bytes(int row_bytes, int n_kv_heads) { return 2 * n_kv_heads * kv_head_bytes(row_bytes); }

/* Offset in a head's block of byte b of token t's row; the 16 bytes from a multiple of 16 stay together. */
HD int kv_at(int row_bytes, int t, int b)
{
	int strip = b & ~127, w = 128, swap = t & 7;

	if (strip + 128 > row_bytes) {
		for (w = 64; w > 16; w >>= 1) {
			if (!(row_bytes & w))
				continue;
			if (b - strip < w)
				break;
			strip += w;
		}
		swap = w == 64 ? t >> 1 & 3 : w == 32 ? t >> 2 & 1 : 0;
	}
	return strip * PAGE + t * w + (((b - strip) >> 4 ^ swap) << 4) + (b & 15);
}

#endif
