/* SPDX-License-Identifier: MIT */
/* test_cpu.h - what the tests of the CPU device share: opening the device with a setting,
 * random matrices, stored weights and what their formats mean (test_cpu_host.c). */
#ifndef NVLLM_TEST_CPU_H
#define NVLLM_TEST_CPU_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <nvllm/device.h>
#include <nvllm/plugin.h>

#define N(a) ((int)(sizeof(a) / sizeof((a)[0])))

enum { SCALAR = 1, VBF16 = 5, AMX, N_ISA };  /* of the option's names: auto, scalar, ... */
#if defined(__SANITIZE_THREAD__) /* 20 times as slow, and no set of instructions has threads of its own */
enum { FIRST = SCALAR + 1, ROUNDS = 8 };
#elif defined(__SANITIZE_ADDRESS__)
enum { FIRST = SCALAR, ROUNDS = 8 };
#else
enum { FIRST = SCALAR, ROUNDS = 20 };
#endif
enum { AUTO, F32, Q8, Q16, Q12, BF16 }; /* isa auto is 0 as well */

extern const struct nvllm_device_vt *vt;
extern char said[512]; /* the newest refusal */
extern int32_t world;  /* ranks of the group that open_dev tells of */
extern int repack;     /* of the option's names: auto, off */

struct test_host {
	struct nvllm_host h;
	void *memory[16];
	int n;
};

struct dev {
	struct test_host host;
	struct nvllm_device *d;
};

int  open_plugin(void **state); /* group setup: finds device_cpu.so */
int  open_dev(struct dev *, int threads, int isa, int activations);
int  open_isa(struct dev *, int threads, int isa,
	int activations); /* 1 = this machine has it; dev is open */
void close_dev(struct dev *);

extern uint64_t seed;
uint32_t bits(void);
float uniform(void); /* -1 .. 1 */

struct nvllm_tensor matrix(int64_t rows, int64_t cols, int64_t gap); /* rows lie gap floats apart */
float *at(struct nvllm_tensor, int64_t row);
void poison(struct nvllm_tensor);      /* all NaN, the gaps too */
void check_gaps(struct nvllm_tensor);  /* they still are */
void check_near(double got, double want, double margin);
double to_bf16(double);                /* of a float */
/* What a product makes of one of its factors: activations, and of a weight. */
double x_of(int activations, double x);
double w_of(int isa, int activations, double w);

struct weight {
	struct nvllm_tensor t;
	double *value; /* [rows][cols] */
};

extern const int dtypes[6]; /* the floats, and those with products of their own */
#define N_MORE 20
extern const int more_dtypes[N_MORE]; /* those that are decoded on the way */
/* A row of any type as float, by way of the device. */
void decode_row(struct dev *, int dtype, const uint8_t *raw, int64_t cols, float *y);
int  is_blocks(int dtype);
int  is_k(int dtype);      /* Q4_K, Q5_K, Q6_K: of those that are decoded elsewhere, with products of their own */
struct weight make_weight(struct dev *, int dtype, int64_t rows, int64_t cols);
/* The same from rows that exist, `stride` bytes apart. */
uint8_t *random_weight(int dtype, int64_t rows, int64_t cols);
struct weight put_weight(struct dev *, int dtype, int64_t rows, int64_t cols, const uint8_t *raw,
	int64_t stride);
/* value: [planes][rows][cols]. */
struct weight make_planes(struct dev *, int dtype, int planes, int64_t rows, int64_t cols);
void free_weight(struct dev *, struct weight *);

/* test_cpu_blocks.c */
void blocks_have_their_values(void **state);
void any_bytes_are_rows(void **state);
void decoded_forms_multiply(void **state);
void planes_are_apart(void **state);

/* test_cpu_moe.c */
void moe_is_right(void **state);
void moe_gives_the_same_bits(void **state);
void moe_meets_odd_rows(void **state);
void moe_breaks_ties_low(void **state);
void moe_refuses(void **state);

/* test_cpu_kernels.c */
void kernels_are_right(void **state);
void other_rows_do_not_meet(void **state);
void advance_closes_a_step(void **state);

/* test_cpu_same.c */
void linear_gives_the_same_bits(void **state);
void kernels_give_the_same_bits(void **state);

/* test_cpu_layout.c */
void layouts_change_no_bit(void **state);

/* test_cpu_share.c */
void tables_come_in_slices(void **state);
void products_come_in_slices(void **state);
void vectors_come_in_pieces(void **state);
void nothing_is_a_share_too(void **state);
void ranks_share_the_cores(void **state);

#endif
