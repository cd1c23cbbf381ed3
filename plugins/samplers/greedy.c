/* SPDX-License-Identifier: MIT */
/* greedy - the likeliest token, ties to the lowest id. */
#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

#include "row.h"

struct nvllm_sampler {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
};

/* One call of sample(), as its workers see it. */
struct job {
	struct nvllm_tensor logits;
	const struct nvllm_sample_row *rows;
	int32_t *tokens;
};

static int create(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	struct nvllm_sampler *s = host->alloc(host, sizeof(*s));

	(void)conf;
	if (!s)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the sampler");
	if (env->vocab_first != 0 || env->vocab_n != env->vocab)
		return host->fail(host, NVLLM_ENOTSUP, "sampler greedy needs the whole vocabulary "
			"of %lld on each rank, this one has %lld: set engine.tp = 1",
			(long long)env->vocab, (long long)env->vocab_n);
	*s = (struct nvllm_sampler){ host, env->dev };
	*out = s;
	return NVLLM_OK;
}

static void sample_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	float max;

	(void)worker;
	for (int64_t i = begin; i < end; i++) {
		const float *x = (const float *)((char *)j->logits.data + i * j->logits.stride);

		j->tokens[i] = j->rows[i].slot < 0 ? 0 :
			(int32_t)argmax(x, j->logits.cols, &max, NULL);
	}
}

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	struct job j = { logits, rows, tokens };

	(void)stream, (void)workspace;
	if (s->dev->info->caps & NVLLM_DEV_PARALLEL && n_rows > 1)
		s->dev->vt->parallel_for(s->dev->dev, n_rows, 1, sample_rows, &j);
	else
		sample_rows(&j, 0, n_rows, 0);
	return NVLLM_OK;
}

static const struct nvllm_sampler_vt vt = {
	.size = sizeof(vt), .flags = NVLLM_SAMPLER_HOST,
	.create = create, .sample = sample,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_SAMPLER, .name = "greedy",
	.summary = "the likeliest token", .vt = &vt,
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "sampler_greedy",
	.version = "0.1.0", .components = components,
};
