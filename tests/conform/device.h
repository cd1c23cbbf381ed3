/* SPDX-License-Identifier: MIT */
/* tests/conform/device.h - what the two halves of the device suite share. */
#ifndef CHECK_DEVICE_H
#define CHECK_DEVICE_H

#include "check.h"

struct dev {
	const struct nvllm_device_vt *vt;
	const struct nvllm_kernels *k;
	struct nvllm_device *d;
	struct nvllm_device_info info;
	nvllm_stream stream;
	double rounding; /* of activations in products, as a share of a row's largest; 0 = none */
	bool act16;      /* activations are bf16: those in products, x and y where they may be */
	bool varies;     /* a row's last bits may differ with the rows beside it */
};
#define BF16_HALF (1.0 / 256) /* the most that rounding to bf16 changes, as a share */

struct weight {
	struct nvllm_tensor t; /* as the device stored it */
	double *v;             /* [planes][rows][cols] what its bits stand for */
};

struct mix;

/* What may be of the device's own type of activations. */
enum { X16 = 1, Y16 = 2 };

struct dcase {
	struct dev *dev;
	int64_t rows, cols, pad;  /* of y */
	struct nvllm_tensor x;    /* one row a row of y, f32; data NULL = none */
	struct nvllm_tensor xk;   /* the same as the kernel is handed it: dcase_check makes it */
	struct nvllm_tensor y0;   /* what y holds before, f32; data NULL = NaN */
	int may;                  /* X16, Y16: also tried so where activations are bf16 */
	int form;                 /* of them, now */
	int (*run)(struct dcase *, int64_t row, int64_t n, struct nvllm_tensor y);
	/* tol comes as NaN: left alone it means f32 rounding. */
	void (*want)(struct dcase *, int64_t row, double *want, double *tol);
	/* of single kernels */
	const struct weight *w;
	const struct nvllm_tensor *bias;
	const struct nvllm_norm *norm;
	const double *norm_w, *norm_b;
	const struct nvllm_rotary *rotary;
	const double *inv_freq;
	const int32_t *index;     /* tokens, positions, rows */
	const struct nvllm_slots *state;
	int64_t head_dim;
	uint32_t flags;
	int act;
	double scale;
	const struct mix *mix;    /* moe.c */
};

/* Types a device may store. */
#define N_WEIGHT_TYPES 26
struct weight_type { int32_t dtype; const char *name; };
extern const struct weight_type weight_types[N_WEIGHT_TYPES];

/* How x, y and the like begin, and how far their rows lie apart: a multiple of this. */
extern int64_t mat_align;
struct nvllm_tensor mat_new(const char *name, int64_t rows, int64_t cols, int64_t pad);
struct nvllm_tensor mat_random(
	const char *name, int64_t rows, int64_t cols, int64_t pad, uint64_t seed);
struct nvllm_tensor mat_rows(struct nvllm_tensor, int64_t row, int64_t n);
float *mat_row(struct nvllm_tensor, int64_t row);
/* Likewise of elements of 2 bytes or 4. */
struct nvllm_tensor mat_new_as(const char *name, int32_t dtype, int64_t rows, int64_t cols,
	int64_t pad);
double mat_get(struct nvllm_tensor, int64_t row, int64_t col);
/* Where the device keeps a weight in bf16 and the checkpoint does not: v as that rounds it. */
void weight_rounded(const struct nvllm_tensor *stored, int32_t dtype, double *v, int64_t n);
int weight_make(
	struct dev *, int32_t dtype, int64_t rows, int64_t cols, uint64_t seed, struct weight *);
int weight_make_planes(struct dev *, int32_t dtype, int planes, int64_t rows, int64_t cols,
	uint64_t seed, struct weight *);
/* At least n columns, a whole number of the type's blocks. */
int64_t cols_of(int32_t dtype, int64_t n);
void weight_free(struct weight *);
void dcase_check(struct dcase *); /* frees x and y0, closes the check */
void check_kernels(struct dev *);
void check_logprobs(struct dev *, int64_t vocab, int n_top);
void check_advance(struct dev *);
void check_moe(struct dev *); /* moe.c */
/* x wT for one row: y and how far a device may be off (kernels.c). w: [n][cols]. */
void ref_product(const struct dev *, const double *w, int64_t n, int64_t cols, const double *x,
	double *y, double *tol);
void check_marks(struct dev *);  /* queue.c */
void check_graphs(struct dev *);
void check_shares(struct dev *); /* shares.c: what a rank of a group may hold */

#endif
