/* SPDX-License-Identifier: MIT */
/* core/opening.h - what is known while an engine is being opened, and forgotten after. */
#ifndef NVLLM_OPENING_H
#define NVLLM_OPENING_H

#include "engine_int.h"

struct opening {
	struct nvllm_engine *e;
	struct conf *c;
	struct plugins *pl;
	int64_t t0, t_plugins, t_source, t_check, t_weights; /* ns, ends of the phases */
	struct device_settings dev_set;
	struct sampler_settings sampler_set;
	const struct nvllm_component *dev, *model, *attn, *sampler, *cache, *chat;
	void *dev_conf, *model_conf, *attn_conf, *sampler_conf, *cache_conf, *chat_conf;
	int64_t budget;       /* bytes for weights, KV and work together */
	int64_t sampler_work;
};

/* memory.c: how large everything is, and refusing what does not fit; then getting it. */
int memory_measure(struct opening *);
int memory_allocate(struct opening *);

#endif
