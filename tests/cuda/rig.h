/* SPDX-License-Identifier: MIT */
/* tests/cuda/rig.h - a CUDA device on the runtime of fake_cuda.c. */
#ifndef CUDA_RIG_H
#define CUDA_RIG_H

#include "../../backends/cuda/blocks.h"
#include "../../backends/cuda/cuda.h"
#include "fake.h"
#include "fake_kernels.h"

enum { BF16 = 1, F32 = 2 }; /* activations */

extern char said[1024];                   /* the newest sentence */
extern const struct nvllm_host host;
extern const struct nvllm_device_vt *vt;
extern struct nvllm_device *dev;
extern struct device_conf conf;
extern int live_before;                   /* CUDA's objects before the device was made */

int open_device(int activations);         /* create()'s status */
void open_good(int activations);          /* on a machine as it should be */
void close_device(void);                  /* and nothing may be left of it */

uint32_t next(void);
/* Rows of a type, pad bytes apart, to be freed. */
char *random_rows(int32_t dtype, int64_t rows, int64_t cols, int64_t pad);
struct nvllm_tensor stored(int32_t dtype, int64_t rows, int64_t cols); /* with memory, not uploaded */
struct nvllm_tensor stored_cut(int32_t dtype, int64_t rows, int64_t cols, int32_t cut); /* one that the core cuts so */
struct nvllm_tensor matrix(int32_t dtype, int64_t rows, int64_t cols, int64_t pad);

#endif
