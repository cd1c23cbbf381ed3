/* SPDX-License-Identifier: MIT */
/* nvllm/sampler.h - logits to tokens. */
#ifndef NVLLM_SAMPLER_H
#define NVLLM_SAMPLER_H

#include "comm.h"
#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_sampler;

/* Parameters a sampler may take. A request that sets one (to anything but the value
 * that does nothing) which the chosen sampler does not list in `takes` is refused. */
#define NVLLM_TAKES_TEMPERATURE (1ull << 0)
#define NVLLM_TAKES_TOP_K       (1ull << 1)
#define NVLLM_TAKES_TOP_P       (1ull << 2)
#define NVLLM_TAKES_MIN_P       (1ull << 3)
#define NVLLM_TAKES_TYPICAL_P   (1ull << 4)
#define NVLLM_TAKES_REPETITION  (1ull << 5)
#define NVLLM_TAKES_PRESENCE    (1ull << 6)
#define NVLLM_TAKES_FREQUENCY   (1ull << 7)
#define NVLLM_TAKES_SEED        (1ull << 8)
/* And those that a processor of logits (logits.h) carries out. */
#define NVLLM_TAKES_LOGIT_BIAS  (1ull << 9)
#define NVLLM_TAKES_ALLOWED     (1ull << 10)
#define NVLLM_TAKES_BAD_WORDS   (1ull << 11)
#define NVLLM_TAKES_MIN_TOKENS  (1ull << 12)

/* One row's wishes for this step, applied in vLLM's order: penalties, temperature,
 * min_p, top_k, top_p, typical_p, each on what the one before left; one softmax at the end.
 *   repetition r (Keskar et al. 2019): x > 0 ? x / r : x * r, for each token of prompt or output
 *   x -= frequency * count + presence * (count > 0), counted in the output alone (OpenAI)
 *   min_p keeps p >= min_p * the largest p; ties at rank top_k are all kept; top_p (Holtzman
 *   et al. 2020) keeps the token that crosses the threshold, of what is left, renormalised
 *   typical_p (Meister et al. 2022; transformers' TypicalLogitsWarper): with H the entropy of
 *   what is left, tokens in the order of |-log p - H| until their sum reaches typical_p, the
 *   one that crosses it included, and all that tie with it
 * Penalties count for greedy rows too. Frozen. Lies in device memory at a fixed address, or
 * in host memory for a sampler with NVLLM_SAMPLER_HOST. */
struct nvllm_sample_row {
	double temperature;   /* 0 = greedy: the largest logit, ties to the lowest id */
	double top_p;         /* (0, 1]; 1 = off */
	double min_p;         /* [0, 1]; 0 = off */
	double typical_p;     /* (0, 1]; 1 = off */
	double repetition;    /* > 0; 1 = off */
	double presence;      /* 0 = off */
	double frequency;     /* 0 = off */
	int64_t top_k;        /* 0 = off */
	uint64_t seed;        /* with choice and position, names the random number: runs repeat */
	uint64_t position;    /* of the token to be drawn, counted from the prompt's first */
	int32_t choice;       /* which of n answers to the request; 0 = the first */
	int32_t slot;         /* sequence slot; -1 = padding: write token 0 */
	const int32_t *tokens; /* where rows lie: prompt, then output so far; for penalties; may be NULL
	                        * where the row has none. In host memory, on a device that runs
	                        * ahead, the newest may not be written yet */
	int32_t n_prompt, n_tokens; /* of tokens */
	const void *params;   /* the sampler's own per-request parameters, NULL = none */
};

/* Runs on the CPU: logits, rows, tokens and workspace are in host memory, whatever the device
 * (the core copies). It may use the device's parallel_for where there is one. */
#define NVLLM_SAMPLER_HOST (1ull << 0)

/* What create() is told. Owned by the core, valid as long as the instance. */
struct nvllm_sampler_env {
	uint32_t size;
	int32_t max_rows;                    /* most rows in one call */
	const struct nvllm_device_ref *dev;
	int64_t vocab;                       /* of the whole model */
	int64_t vocab_first, vocab_n;        /* the columns of logits it is given: 0, vocab (the core
	                                      * gathers the ranks' columns before it samples) */
	const struct nvllm_comm_vt *comm_vt; /* the group, NULL at world 1: for a sampler that */
	struct nvllm_comm *comm;             /* would exchange (max, sum, arg) of slices instead */
	int64_t workspace_bytes;             /* out: scratch it wants (host memory with
	                                      * NVLLM_SAMPLER_HOST), allocated by the core */
};

struct nvllm_sampler_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	uint64_t need;      /* NVLLM_DEV_* that the device must have */
	uint64_t flags;     /* NVLLM_SAMPLER_* */
	uint64_t takes;     /* NVLLM_TAKES_* */
	/* [setup] May set env->workspace_bytes. */
	int  (*create)(const struct nvllm_host *, struct nvllm_sampler_env *env,
		const void *conf, struct nvllm_sampler **out);
	/* [step] logits f32 [n_rows][vocab_n], not written to; NaN counts as -inf. A row all
	 * -inf gives the lowest id. tokens [n_rows]: on the device, or in host memory with
	 * NVLLM_SAMPLER_HOST. The same row gives the same token whatever the rows beside it. */
	int  (*sample)(struct nvllm_sampler *, nvllm_stream, struct nvllm_tensor logits,
		const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace);
	/* [setup] Optional. */
	void (*destroy)(struct nvllm_sampler *);
};

#ifdef __cplusplus
}
#endif
#endif
