/* SPDX-License-Identifier: MIT */
/* frontends/batch_parse.h - what batch_parse.c and batch_prompt.c know of each other. */
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

#endif
