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
	struct graph_settings graph_set;
	const struct nvllm_component *dev, *model, *attn, *sampler, *cache, *comm;
	void *dev_conf, *model_conf, *attn_conf, *sampler_conf, *cache_conf, *comm_conf;
	int64_t budget;       /* bytes for weights, KV and work together, of one rank */
	int64_t ffn_unit;     /* columns of the MLP that stay together when it is cut */
	bool len_asked;       /* [engine] max_model_len is set: what does not fit is refused, not lowered */
};

static inline double mib(int64_t bytes) { return (double)bytes / (1 << 20); }

/* Bytes of all pages of a layer. */
static inline int64_t layer_bytes(const struct rank *r, int layer)
{
	return align256(r->layout.layer_bytes[layer] * r->n_pages);
}

/* memory.c: how large everything is on each rank, and refusing what does not fit; then
 * getting it. */
int memory_measure(struct opening *);
int memory_allocate(struct opening *);

#endif
