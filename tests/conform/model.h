/* SPDX-License-Identifier: MIT */
/* tests/conform/model.h - what the parts of the model suite share: a checkpoint made of
 * the names that bind() asks for, and ops in plain loops. */
#ifndef CHECK_MODEL_H
#define CHECK_MODEL_H

#include "check.h"

#define MAX_WEIGHTS 512
#define SEQ_LEN 48     /* longest sequence of the suite: one KV page each */
#define N_SEQS 3
#define MAX_ROWS 64
#define MAX_COLS 4096

struct fweight {
	char name[160];
	int64_t rows, cols;
	float *data;
	int used;
};

/* A checkpoint that has whatever is asked for. */
struct fweights {
	struct nvllm_weights pub; /* first */
	bool dry;                 /* data NULL */
	int has;                  /* what has() says */
	int fail_at;              /* the n-th get fails; 0 = none */
	int n_gets;
	struct fweight list[MAX_WEIGHTS];
	int n;
	struct { float *freq; } ropes[64];
	int n_ropes;
	char why[256];
};
void fweights_init(struct fweights *, bool dry, int has);
void fweights_free(struct fweights *);

/* A step with ops in plain loops. */
struct fstep {
	struct nvllm_step pub; /* first */
	const struct nvllm_arch *arch;
	struct fweights *w;
	bool dry;
	char why[256];         /* the first failure */
	uint64_t calls;        /* a hash of the ops and shapes so far */
	int n_calls;
	float *arena;
	int64_t used, room;    /* floats */
	float **k, **v;        /* [n_layers] KV pages [N_SEQS * SEQ_LEN][kv cols] */
	double x[MAX_COLS], y[MAX_COLS], keys[SEQ_LEN * MAX_COLS], values[SEQ_LEN * MAX_COLS];
};
struct fstep *fstep_new(const struct nvllm_arch *, struct fweights *);
void fstep_free(struct fstep *);
/* Runs forward on this batch. 0, or -1 and a failed check. */
int fstep_run(struct fstep *, const struct nvllm_model_vt *, struct nvllm_model *,
	const struct nvllm_batch *, struct nvllm_tensor *logits);

#endif
