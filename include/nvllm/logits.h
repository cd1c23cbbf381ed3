/* SPDX-License-Identifier: MIT */
/* nvllm/logits.h - a processor of logits: runs on the host before the sampler and
 * changes what may be drawn (a bias, a list of allowed tokens, a grammar).
 *
 * Order of a step's work on a row, as in vLLM: log probabilities are taken of the raw
 * logits; then the processors in the order of [logits] plugin (`standard`: allowed_token_ids,
 * bad_words, min_tokens, logit_bias); then the sampler: repetition, frequency and presence
 * penalty, temperature, min_p, top_k, top_p, typical_p, and one softmax at the end.
 *
 * A row that a processor works on waits for its last token to be known, so its sequence
 * does not run ahead; the others of the same step do. It is drawn after the others. */
#ifndef NVLLM_LOGITS_H
#define NVLLM_LOGITS_H

#include "engine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_logits;
/* What one choice of one request asked of a processor; its own. */
struct nvllm_logits_state;

/* What create() is told. Owned by the core, valid as long as the instance. */
struct nvllm_logits_env {
	uint32_t size;
	int32_t reserved;  /* 0 */
	int64_t vocab;     /* of the model: columns of logits */
	const struct nvllm_tokenizer_vt *tok_vt;
	struct nvllm_tokenizer *tok;
};

/* A request at the door. Valid during open(). */
struct nvllm_logits_ask {
	uint32_t size;
	int32_t choice;                    /* 0 to params->n - 1 */
	const struct nvllm_params *params; /* every value filled in; lists checked against the vocabulary */
	const int32_t *prompt;             /* [n_prompt] */
	int32_t n_prompt;
	int32_t n_end_ids;
	const int32_t *end_ids;            /* tokens that end an answer: the checkpoint's (also with
	                                    * ignore_eos) and params->stop_token_ids */
};

struct nvllm_logits_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	uint64_t takes;     /* NVLLM_TAKES_* (sampler.h) that it carries out */
	/* Members of params->extra it reads, NULL-ended; NULL = none. A member that no processor
	 * reads is refused. */
	const char *const *keys;
	/* [setup] */
	int  (*create)(const struct nvllm_host *, const struct nvllm_logits_env *, const void *conf,
		struct nvllm_logits **out);
	/* [any] Reads what a request asks; refuses with a sentence. *out NULL: this one asks
	 * nothing of it. Allocates all that apply() needs. Called for each choice and each rank. */
	int  (*open)(struct nvllm_logits *, const struct nvllm_logits_ask *, struct nvllm_logits_state **out);
	/* [step] Before a token is drawn. logits f32 [vocab], to be changed in place; -inf forbids.
	 * tokens [n_tokens]: the prompt's n_prompt, then the answer so far, which has grown by any
	 * number since the last call. The same history gives the same result. A failure ends the
	 * request with the sentence; so does a row on which nothing is left but -inf. */
	int  (*apply)(struct nvllm_logits *, struct nvllm_logits_state *, float *logits,
		const int32_t *tokens, int32_t n_prompt, int32_t n_tokens);
	/* [any] */
	void (*close)(struct nvllm_logits *, struct nvllm_logits_state *);
	/* [setup] Optional. */
	void (*destroy)(struct nvllm_logits *);
};

#ifdef __cplusplus
}
#endif
#endif
