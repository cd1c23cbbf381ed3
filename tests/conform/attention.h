/* SPDX-License-Identifier: MIT */
/* tests/conform/attention.h - what the parts of the attention suite share: attention.c has the
 * traffic, attention_step.c an instance and its steps, attention_oracle.c the numbers. */
#ifndef CHECK_ATTENTION_H
#define CHECK_ATTENTION_H

#include "check.h"

#define N_PAGES 64
#define MAX_SEQS 4
#define MAX_TOKENS 64
#define MAX_LEN 4160
#define SHORT_LEN 96
#define MAX_LAYERS 4
#define MAX_ROW (16 * 128) /* elements of q of one row */

struct geometry {
	const char *what;
	int32_t kv_dtype, n_layers;
	struct nvllm_attn_layer layers[MAX_LAYERS];
};

extern const struct nvllm_device_ref *attn_device; /* the suite's */
extern int32_t attn_act;       /* what q, k, v and y are of: f32 or bf16 */
extern bool attn_varies;       /* a row's last bits may hang on its step */
extern int32_t attn_max_len;   /* of a sequence; longer ones are looked at in part */

/* What run_raw is asked to do before it attends. */
extern struct attn_raw { bool on, norms, bias; int32_t dims, interleaved; } attn_raw;

/* An instance, its pages, and everything ever written to each sequence. */
struct sut {
	const struct nvllm_attention_vt *vt;
	struct nvllm_attention *a;
	const struct geometry *g;
	struct nvllm_kv_layout layout;
	void *kv[MAX_LAYERS];
	void *workspace;
	int32_t page_tokens, max_pages, n_pages;
	int32_t table[MAX_SEQS][MAX_LEN + 1]; /* pages of each sequence */
	int32_t len[MAX_SEQS];
	unsigned char *before;                /* copy of one layer's pages */
};

/* One step: which sequences, how many new rows each, and how much padding. Sequence PAD
 * is a padding sequence of such rows; pad_seqs more without a row end the step, and rows
 * of no sequence. */
#define PAD (-1)
struct plan { int32_t n_seqs, seq[MAX_SEQS], rows[MAX_SEQS], pad_rows, pad_seqs; };

/* ---- attention_oracle.c: the numbers, a function of sequence, position, layer and column ---- */
double attn_number(int what, int seq, int layer, int32_t pos, int64_t col);
const struct nvllm_attn_layer *attn_kv_of(const struct geometry *, int layer);
/* Of the raw form: rope's frequencies, weights of the norms of q (what 0) and k, the bias. */
double attn_inv_freq(int i);
double attn_norm_weight(int what, int layer, int64_t col);
double attn_bias(int layer, int64_t col);
/* What row (seq, pos) of a layer must give, and how far it may be off. */
void   attn_oracle(const struct geometry *, int seq, int32_t pos, int layer, double *y);
double attn_tolerance(const struct geometry *, int layer, double want);
/* Rows of the device's type of activations. */
struct nvllm_tensor rows_new(const char *name, int64_t rows, int64_t cols, int64_t pad);
void  *rows_at(struct nvllm_tensor, int64_t row);
double rows_get(struct nvllm_tensor, int64_t row, int64_t col);
void   rows_set(struct nvllm_tensor, int64_t row, int64_t col, double x); /* a number of the type */
size_t rows_bytes(struct nvllm_tensor);

/* ---- attention_step.c ---- */
/* 0, 1 = refused in a sentence, -1 = failed. */
int  sut_open(struct sut *, const struct nvllm_component *, const struct geometry *,
	const char *const *sets, uint64_t seed);
void sut_close(struct sut *);
/* One step through all layers. keep: [layer][seq][pos][cols] results to compare bitwise:
 * stored where store is set, compared otherwise. NULL = neither. */
struct memory { float *y; bool store; const char *what; };
void step_run(struct sut *, const struct plan *, struct memory *);

#endif
