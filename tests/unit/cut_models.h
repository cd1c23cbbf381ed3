/* SPDX-License-Identifier: MIT */
/* tests/unit/cut_models.h - what the tests of cuts and of weights share: shapes of models,
 * and whole numbers at random. Include it once, after cmocka. */
#ifndef CUT_MODELS_H
#define CUT_MODELS_H

#undef fail /* the core has a function of that name, which cmocka's fail_msg would call */
#undef fail_msg
#define fail_msg(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))

#include "engine_int.h"

#define MAX_LAYERS 4

static uint64_t seed = 1;

static inline int64_t below(int64_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (int64_t)((seed >> 33) % (uint64_t)n);
}

struct model {
	struct nvllm_arch arch;
	struct nvllm_attn_layer layer[MAX_LAYERS];
	const struct nvllm_attn_layer *list[MAX_LAYERS];
};

static inline void make(struct model *m, int32_t q, int32_t kv, int32_t d, int64_t dim, int64_t ffn, int64_t vocab)
{
	for (int i = 0; i < MAX_LAYERS; i++) {
		m->layer[i] = (struct nvllm_attn_layer){ .size = sizeof(m->layer[i]), .n_heads = q, .n_kv_heads = kv,
			.head_dim = d, .kv_layer = -1, .scale = 0.125, .window = i };
		m->list[i] = &m->layer[i];
	}
	m->arch = (struct nvllm_arch){ .size = sizeof(m->arch), .n_layers = MAX_LAYERS, .dim = dim, .vocab = vocab,
		.ffn = ffn, .layers = m->list };
}

static inline void smollm2(struct model *m) { make(m, 9, 3, 64, 576, 1536, 49152); }
static inline void tiny(struct model *m) { make(m, 4, 2, 64, 128, 352, 1111); }

#endif
