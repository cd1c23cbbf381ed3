/* SPDX-License-Identifier: MIT */
/* A greedy sampler as built against older headers, whose vtable ended before `destroy`:
 * its size says so, and what lies behind is no business of the core's. */
#include <math.h>
#include <signal.h>

#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

struct nvllm_sampler { int64_t vocab; };

static int create(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	*out = host->alloc(host, sizeof(**out));
	if (!*out)
		return NVLLM_ENOMEM;
	(*out)->vocab = env->vocab_n;
	return NVLLM_OK;
}

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	for (int32_t r = 0; r < n_rows; r++) {
		const float *x = (const float *)((const char *)logits.data + r * logits.stride);
		float top = -INFINITY;

		tokens[r] = 0;
		for (int64_t i = 0; i < s->vocab && rows[r].slot >= 0; i++)
			if (x[i] > top) {
				top = x[i];
				tokens[r] = (int32_t)i;
			}
	}
	return NVLLM_OK;
}

/* Behind the vtable's end: whoever calls it did not look at the size. */
static void not_a_member(struct nvllm_sampler *s)
{
	raise(SIGILL);
}

static const struct nvllm_sampler_vt vt = {
	.size = offsetof(struct nvllm_sampler_vt, destroy),
	.need = NVLLM_DEV_HOST_MEM,
	.create = create,
	.sample = sample,
	.destroy = not_a_member,
};

static const struct nvllm_component older = {
	.size = sizeof(older), .kind = NVLLM_KIND_SAMPLER, .name = "older",
	.summary = "greedy, with an older, shorter vtable", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "older", .version = "0.0.9",
	.components = (const struct nvllm_component *const[]){ &older, NULL },
};
