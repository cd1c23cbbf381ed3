/* SPDX-License-Identifier: MIT */
/* core/readahead.h - reads pieces of a file ahead of the one who uses them, in order, by a
 * few threads: for weights that go to a device of its own memory. */
#ifndef NVLLM_READAHEAD_H
#define NVLLM_READAHEAD_H

#include <stdint.h>

struct readahead;

/* NULL: no memory or no threads; then one reads without. */
struct readahead *readahead_create(int64_t piece_bytes);
void readahead_destroy(struct readahead *); /* NULL is legal */
int64_t readahead_piece(const struct readahead *); /* bytes that a piece may have */
/* For each piece i of n, read(arg, i, buf) on a thread of its own, then use(arg, i, buf) on the
 * caller's, in order of i. A read that fails is done again on the caller's thread, whose
 * sentence it then leaves. Returns the first failure; later pieces are not used. */
int  readahead_run(struct readahead *, int64_t n, int (*read)(void *arg, int64_t i, void *buf),
	int (*use)(void *arg, int64_t i, void *buf), void *arg);

#endif
