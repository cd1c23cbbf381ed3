/* SPDX-License-Identifier: MIT */
/* frontends/batch_parse.h - what the files that read a line know of each other:
 * batch_parse.c the line and the numbers, batch_list.c the lists, batch_prompt.c the prompt
 * and the messages, batch_body.c what a chat template may read. */
#ifndef NVLLM_BATCH_PARSE_H
#define NVLLM_BATCH_PARSE_H

#include "batch.h"

struct param;

/* One line being read. */
struct reading {
	struct batch_request *r;
	struct batch_error *err;
	bool logprobs;           /* chat: asked for */
	int64_t top_logprobs;    /* chat: NVLLM_UNSET = not given */
	int64_t max_tokens, max_completion_tokens;
	/* chat, for the template; NULL = not given */
	const cJSON *list, *tools, *documents, *kwargs, *effort;
	bool no_generation_prompt, continue_final;
};

struct param {
	const char *name;
	int api;                 /* which APIs know it: a mask of enum batch_api */
	int (*take)(struct reading *, const struct param *, cJSON *);
	size_t offset;           /* into struct nvllm_params, for numbers */
	double lo, hi;           /* take_double, take_same: bounds */
	int64_t ilo, ihi;        /* take_int */
	const char *range;       /* the bounds in words */
};

/* Refuses a value: "NAME is 7: it must be WANT". */
int batch_wrong(struct reading *g, const char *name, const cJSON *v, const char *want);
/* The two keys that hold what is to be continued. */
int batch_take_prompt(struct reading *g, const struct param *p, cJSON *v);
int batch_take_messages(struct reading *g, const struct param *p, cJSON *v);
/* Lists of token ids, of texts, of biases; a JSON object kept as text. */
int batch_take_bias(struct reading *g, const struct param *p, cJSON *v);
int batch_take_stop_ids(struct reading *g, const struct param *p, cJSON *v);
int batch_take_allowed(struct reading *g, const struct param *p, cJSON *v);
int batch_take_bad_words(struct reading *g, const struct param *p, cJSON *v);
int batch_take_extra(struct reading *g, const struct param *p, cJSON *v);
/* Keys that a chat template reads. */
int batch_take_objects(struct reading *g, const struct param *p, cJSON *v);
int batch_take_tool_choice(struct reading *g, const struct param *p, cJSON *v);
int batch_take_kwargs(struct reading *g, const struct param *p, cJSON *v);
int batch_take_effort(struct reading *g, const struct param *p, cJSON *v);
int batch_take_turn(struct reading *g, const struct param *p, cJSON *v);
/* Once all keys are read: r->body and r->add_generation_prompt. */
int batch_settle_chat(struct reading *g);
/* A value as JSON on one line, its numbers as they stood in the text. */
void batch_put_value(struct json_buf *, const cJSON *);

#endif
