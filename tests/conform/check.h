/* SPDX-License-Identifier: MIT */
/* tests/conform/check.h - what the files of nvllm-check share: reporting, memory with
 * guards, the fake host and device, and the oracles in double precision. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdio.h>

#include <nvllm/attention.h>
#include <nvllm/cache.h>
#include <nvllm/chat.h>
#include <nvllm/comm.h>
#include <nvllm/frontend.h>
#include <nvllm/plugin.h>
#include <nvllm/sampler.h>
#include <nvllm/tokenizer.h>

/* ---- main.c ---- */
#define CK_MAX_SETS 64
struct ck_opts {
	const char *so, *file;            /* file: a checkpoint for suites that read one */
	const char *device;               /* what components that run on a device are tried on */
	int timeout_s, only;              /* only: a kind, 0 = all */
	bool verbose;
	const char *sets[CK_MAX_SETS];    /* "kind.key=value" of the plugin's options */
	const char *hparams[CK_MAX_SETS]; /* "key=value" of a model's checkpoint */
	int n_sets, n_hparams;
};
extern const struct ck_opts *ck_opts;

/* The struct of a component's options: defaults, then --set, then extra ("key=value",
 * NULL-ended, may be NULL). NULL without options; *err = 1 and a failed check when refused. */
const void *ck_conf(const struct nvllm_component *, const char *const *extra, int *err);
bool ck_has_option(const struct nvllm_component *, const char *key);

/* ---- report.c: one line a check. The board is shared with the parent, which closes
 * the running check when the child dies. ---- */
struct ck_board {
	int32_t n_checks, n_failed, n_skipped;
	int32_t running, bad;
	char who[96], name[256], reason[768], fault[256];
};
extern struct ck_board *ck_board;
void ck_board_open(void);
void ck_who(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void ck_begin(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Fails the running check; the first reason stays. Returns -1. */
int  ck_bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool ck_good(void); /* nothing has failed in the running check */
void ck_end(void);  /* looks at the guards too */
/* Closes the running check, or a whole suite, as not applicable. */
void ck_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- hooks.c: malloc and its family count while a step runs. ---- */
void ck_step_begin(void);
void ck_step_end(void); /* fails the running check if anything allocated */
void ck_step_note(const char *what);
/* A driver's own calls of malloc do not count: only host->alloc and device memory. */
void ck_step_driver(bool on);
bool ck_in_step(void);

/* ---- guard.c: memory between two unreadable pages, slack filled and looked at. ---- */
void *gmem_get(const char *name, int64_t bytes, int64_t align); /* filled with 0xFF: NaN */
void  gmem_put(void *);
void  gmem_put_all(void);
void  gmem_apart(void *);      /* the host's alone: no kernel is handed it (mirror.c) */
/* Memory number i with its slack, bytes 0 = none now; false = no more after it. */
struct gmem_view { unsigned char *body; size_t bytes; int64_t *far; };
bool  gmem_view(int i, struct gmem_view *);
void  gmem_check(void);        /* fails the running check where slack was written */
void  gmem_catch_faults(void); /* a fault names the memory it was beside */

/* ---- fake.c: the smallest host and host-memory device a component can run on. ---- */
struct nvllm_host *fake_host(void);        /* never freed: the child ends */
const char *fake_said(void);               /* newest sentence of host->fail, "" = none */
void fake_hush(void);                      /* forgets it */
/* A status below 0 without a sentence fails the running check. Returns status. */
int  ck_refusal(int status, const char *what);
const struct nvllm_device_ref *fake_device(void);
void fake_device_order(int order);         /* another order and other workers in parallel_for */

/* ---- rig.c: the device that attention backends and samplers are tried on: --device, or
 * the one that has what they need, or the fake one. ---- */
/* NULL: there is none, and the suite was closed as skipped. */
const struct nvllm_device_ref *ck_device(uint64_t need);
/* Opens a device; a status below 0 leaves a sentence in fake_said(). */
int  ck_device_open(const struct nvllm_component *, const void *conf,
	struct nvllm_device_ref *, struct nvllm_device_info *);

/* ---- mirror.c: a device whose memory the host cannot reach. Each guarded memory has a
 * twin on the device: a call through the mirror copies all of them there, calls with the
 * twins' addresses, waits and copies all back, slack included. ---- */
/* bytes: room for all twins at once. */
int mirror_open(const struct nvllm_device_ref *, int64_t bytes); /* a failed check and -1: no memory */
bool mirror_on(void);
const struct nvllm_device_vt *mirror_device(void);  /* kernels, upload, sync; the rest is the device's */
const struct nvllm_attention_vt *mirror_attention(const struct nvllm_attention_vt *, int n_layers);
const struct nvllm_sampler_vt *mirror_sampler(const struct nvllm_sampler_vt *);
void mirror_close(void);

/* ---- fake_words.c: a tokenizer of 282 tokens. ---- */
const struct nvllm_tokenizer_vt *fake_words(struct nvllm_tokenizer **);

/* ---- rand.c ---- */
struct rng { uint64_t s; };
uint64_t rng_u64(struct rng *);
int64_t  rng_int(struct rng *, int64_t n); /* [0, n) */
double   rng_unit(struct rng *);           /* [-1, 1) */
uint64_t hash_text(const char *);

/* ---- ref.c: formulas in double. ---- */
double ref_round(int32_t dtype, double x);            /* to f32, f16 or bf16 and back */
/* Random bits of `cols` elements of a dtype, and the numbers they stand for; -1 = no oracle. */
int  ref_random_row(int32_t dtype, int64_t cols, struct rng *, void *row, double *v);
double ref_half(uint16_t bits);                       /* binary16 */
/* blocks.c: one block of the larger formats likewise; false = no oracle. */
bool ref_random_block(int32_t dtype, struct rng *, unsigned char *block, double *v);
double ref_act(int act, double x);
void ref_norm(const struct nvllm_norm *, const double *w, const double *b, const double *x,
	double *y, int64_t cols);
void ref_rope(double *x, int64_t n_heads, int64_t head_dim, int64_t dims, int interleaved,
	double mscale, const double *inv_freq, int64_t pos);
struct ref_attn {
	int64_t heads, kv_heads, head_dim, window;
	double scale, softcap;
};
/* One row: q [heads * head_dim] against keys 0 .. pos, k and v [pos + 1][kv_heads * head_dim]. */
void ref_attend(const struct ref_attn *, int64_t pos, const double *q, const double *k,
	const double *v, double *y);
/* Chi-square of n_cells counts against probabilities: sigmas above expectation. */
double ref_chi_sigma(const int64_t *count, const double *p, int n_cells, int64_t n);

/* ---- ref_sampler.c ---- */
/* y [n]: the logits x after the row's penalties. */
void ref_penalise(const float *x, int n, const struct nvllm_sample_row *, float *y);
/* p [n]: the probabilities that temperature and the cuts leave of logits x. */
void ref_distribution(const float *x, int n, const struct nvllm_sample_row *, double *p);

/* ---- elf.c: what can be read from the file alone. ---- */
void elf_checks(const char *path);

/* ---- one a kind ---- */
void suite_model(const struct nvllm_component *);
void suite_attention(const struct nvllm_component *);
void suite_sampler(const struct nvllm_component *);
void suite_cache(const struct nvllm_component *);
void suite_device(const struct nvllm_component *);
void suite_comm(const struct nvllm_component *);
void suite_loader(const struct nvllm_component *);
void suite_tokenizer(const struct nvllm_component *);
void suite_chat(const struct nvllm_component *);
void suite_frontend(const struct nvllm_component *);
void suite_logits(const struct nvllm_component *);

#endif
