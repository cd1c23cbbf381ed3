/* SPDX-License-Identifier: MIT */
/* words.h - the texts of bad_words as sequences of tokens. */
#ifndef WORDS_H
#define WORDS_H

#include <nvllm/logits.h>

/* Sequences one after another: a length, then that many ids. */
struct words {
	int32_t *ids;
	int64_t n, room; /* of ids; in use, and there are */
};

/* Fills an empty `out`; *out is the caller's to free(), also after a refusal. */
int words_read(const struct nvllm_host *, const struct nvllm_logits_env *,
	const struct nvllm_params *, struct words *out);

#endif
