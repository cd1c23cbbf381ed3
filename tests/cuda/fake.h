/* SPDX-License-Identifier: MIT */
/* tests/cuda/fake.h - a CUDA runtime whose device is host memory, for the host side of the CUDA device. What
 * a stream is given waits until somebody asks for it, and then no more of it runs than was asked for: work
 * that lacks an order, or reads memory that was given away, gives wrong numbers. */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

struct fake {
	/* what create() meets */
	int n_devices, count_error, driver, cc, kernel_error;
	size_t room;              /* bytes that may be allocated */
	/* what was seen */
	int live;                 /* allocations, streams, events, graphs that exist */
	int last_error;
	int n_skinny, n_tiled, n_dequantised, n_matmul, n_heuristic, n_fp8;
	/* of cuBLASLt */
	int lt_status;            /* of cublasLtCreate */
	int least_align;          /* bytes; heuristics have nothing for less */
	int best;                 /* which algorithm is the quickest */
	int only_exact;           /* matmul refuses an algorithm that was chosen for more rows */
	int last_algo;
};
extern struct fake fake;
void fake_reset(void);
void fake_live(int n); /* also from the thread that loads cuBLASLt */
void fake_spend(float ms); /* the time that events will say */

/* Enqueues run(a copy of arg). */
void fake_enqueue(void *stream, void (*run)(const void *arg), const void *arg, size_t size);

#endif
