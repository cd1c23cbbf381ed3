/* SPDX-License-Identifier: MIT */
/* rig.h - what the tests on the fake device share: a host that counts errors, a device with
 * attention and sampler on it, and a model of one layer that decodes with them. The same
 * on the CPU device, which has no stream, marks or graphs: the two must agree bit by bit. */
#ifndef FAKE_RIG_H
#define FAKE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "fake.h"

struct rig_host {
	struct nvllm_host pub; /* first */
	void *blocks[64];
	int n_blocks, n_errors;
	char said[1024];       /* newest sentence of fail */
	char error[1024];      /* newest line of log at ERROR */
};

struct rig {
	struct rig_host host;
	const struct nvllm_device_vt *vt;
	const struct nvllm_kernels *k;
	struct nvllm_device *d;
	struct nvllm_device_info info;
	struct nvllm_device_ref ref;
	nvllm_stream s;
};

void rig_host_init(struct rig_host *);
void rig_host_finish(struct rig_host *);
/* The component of that kind in a .so. */
const struct nvllm_component *rig_component(const char *path, int kind);
/* words: key, value, ..., NULL; may be NULL. */
void rig_open(struct rig *, const char *so, const char *const *words);
/* Destroys the device; returns the errors it logged, as it went and at its end. */
int  rig_close(struct rig *);
void rig_put(struct rig *, void *device, const void *host, int64_t bytes); /* copies and waits */
void rig_get(struct rig *, void *host, const void *device, int64_t bytes);
void rig_ok(struct rig *, int rc);       /* fails the test with the sentence */
/* The next wait fails, and says so in a sentence that has the word. */
void rig_bad(struct rig *, const char *word);

/* Two tensors of four floats: x is 1, y is 10. */
struct four { float *p; struct nvllm_tensor t; };
void open_fours(struct rig *, const char *const *words, struct four *x, struct four *y);
int  close_fours(struct rig *, const struct four *x, const struct four *y); /* as rig_close */

/* ---- a model: embed, attention, norm, head, sample, advance; float weights ---- */

enum { DIM = 64, HEADS = 2, VOCAB = 96, SEQS = 8, PAGE = 4, PAGES = 8, LEN = PAGE * PAGES,
	STAGES = 4 };

/* A step's inputs, as they lie in host memory and on the device. */
struct world_in {
	int32_t tokens[SEQS], positions[SEQS], slots[SEQS], q_start[SEQS + 8], kv_len[SEQS],
		page_table[SEQS * PAGES], logit_rows[SEQS], logit_slots[SEQS];
	struct nvllm_sample_row rows[SEQS];
};
struct world_out {
	int32_t tokens[SEQS];
	float logits[SEQS][VOCAB];
};

struct world {
	struct rig r;
	struct rig_host attn_host, sampler_host;
	const struct nvllm_attention_vt *avt;
	struct nvllm_attention *attn;
	struct nvllm_attn_layer layer;
	const struct nvllm_attn_layer *layers[1];
	struct nvllm_attn_shape shape;
	struct nvllm_kv_layout layout;
	const struct nvllm_sampler_vt *svt;
	struct nvllm_sampler *sampler;
	struct nvllm_sampler_env env;
	void *mem[32];
	int n_mem;
	struct nvllm_tensor table, wn, wqkv, wo, head, x, h, qkv, a, logits;
	void *kv[1], *attn_work, *sampler_work;
	struct world_in *in, *stage[STAGES];   /* device; host */
	struct world_out *out[STAGES];         /* host */
	int32_t *out_tokens;                   /* device */
	nvllm_mark marks[STAGES];
	struct nvllm_slots state;
	struct nvllm_batch batch;
	int32_t pos[SEQS];                     /* of the token that comes next, host's view */
};

void world_open(struct world *, const char *so, const char *const *words);
int  world_close(struct world *); /* as rig_close */
/* Inputs of the next step of sequences 0 .. n - 1, padded to `bucket` rows, to the device. */
void world_inputs(struct world *, int stage, int32_t n, int32_t bucket);
/* Enqueues the step; the graph pool's fn. */
int  world_forward(void *world, struct nvllm_tensor *logits);
/* Copies the results to out[stage] and sets its mark, where there are marks. */
void world_results(struct world *, int stage, struct nvllm_tensor logits);
void world_wait(struct world *, int stage);

#endif
