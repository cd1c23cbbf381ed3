/* SPDX-License-Identifier: MIT */
/* topk_topp and greedy on a CUDA device: logits, rows, tokens and workspace are in device memory, and
 * nothing of them is read here. The kernels are in sample.cu; the same token is drawn as by the samplers
 * of the same names on the host, but where two numbers differ by less than sums are exact. */
#include <cuda_runtime_api.h>

#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

#include "sample.h"

struct nvllm_sampler {
	const struct nvllm_host *host;
	const char *name;
	int64_t codes_at; /* bytes into the workspace */
	int32_t vocab, max_rows, unit_bits, greedy;
};

/* Steps so small that a vocabulary's largest sum is below 2^63. */
static int32_t unit_bits(int64_t vocab)
{
	int32_t bits = 62;

	for (int64_t n = 1; n < vocab; n *= 2)
		bits--;
	return bits < 50 ? bits : 50;
}

static int create(const struct nvllm_host *host, struct nvllm_sampler_env *env, const char *name,
	int32_t greedy, struct nvllm_sampler **out)
{
	struct nvllm_sampler *s = host->alloc(host, sizeof(*s));
	int err;

	if (!s)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the sampler");
	if (env->vocab_first != 0 || env->vocab_n != env->vocab)
		return host->fail(host, NVLLM_ENOTSUP, "sampler %s needs the whole vocabulary of %lld on "
			"each rank, this one has %lld: set engine.tp = 1", name, (long long)env->vocab,
			(long long)env->vocab_n);
	if (env->vocab < 1 || env->vocab > SAMPLE_MAX_VOCAB)
		return host->fail(host, NVLLM_ENOTSUP, "sampler %s takes vocabularies of 1 to %d on a CUDA device, "
			"this one has %lld: name a sampler of the host's by its path", name, SAMPLE_MAX_VOCAB, (long long)env->vocab);
	if (env->max_rows > 65535)
		return host->fail(host, NVLLM_ENOTSUP, "sampler %s takes 65535 rows in a step on a CUDA device, not "
			"%d: lower engine.max_seqs", name, env->max_rows);
	err = sample_setup(sample_tiles(env->vocab));
	if (err)
		return host->fail(host, NVLLM_EDEVICE, "sampler %s: the device does not give the shared memory that a "
			"vocabulary of %lld takes: %s", name, (long long)env->vocab, cudaGetErrorString((cudaError_t)err));
	*s = (struct nvllm_sampler){ host, name, sample_parts_bytes(env->vocab, env->max_rows),
		(int32_t)env->vocab, env->max_rows, unit_bits(env->vocab), greedy };
	env->workspace_bytes = s->codes_at + (greedy ? 0 : sample_codes_bytes(env->vocab, env->max_rows));
	*out = s;
	return NVLLM_OK;
}

static int create_topk_topp(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	(void)conf;
	return create(host, env, "topk_topp", 0, out);
}

static int create_greedy(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	(void)conf;
	return create(host, env, "greedy", 1, out);
}

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	struct sample_job job = {
		.logits = logits.data, .stride = logits.stride, .rows = rows, .tokens = tokens,
		.parts = workspace, .codes = s->greedy ? NULL : (uint8_t *)workspace + s->codes_at,
		.n_rows = n_rows, .vocab = s->vocab, .n_tiles = sample_tiles(s->vocab),
		.unit_bits = s->unit_bits, .greedy = s->greedy,
	};
	int err;

	if (logits.cols != s->vocab || n_rows > s->max_rows)
		return s->host->fail(s->host, NVLLM_EINVAL, "sampler %s was made for up to %d rows of %d logits, this "
			"step has %d of %lld", s->name, s->max_rows, s->vocab, n_rows, (long long)logits.cols);
	if (n_rows < 1)
		return NVLLM_OK;
	err = sample_enqueue(stream, &job);
	return !err ? NVLLM_OK : s->host->fail(s->host, NVLLM_EDEVICE, "sampler %s: its kernels could not be "
		"started: %s", s->name, cudaGetErrorString((cudaError_t)err));
}

static const struct nvllm_sampler_vt topk_topp_vt = {
	.size = sizeof(topk_topp_vt), .need = NVLLM_DEV_CUDA,
	.takes = NVLLM_TAKES_TEMPERATURE | NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P |
		NVLLM_TAKES_MIN_P | NVLLM_TAKES_TYPICAL_P | NVLLM_TAKES_REPETITION |
		NVLLM_TAKES_PRESENCE | NVLLM_TAKES_FREQUENCY | NVLLM_TAKES_SEED,
	.create = create_topk_topp, .sample = sample,
};
static const struct nvllm_sampler_vt greedy_vt = {
	.size = sizeof(greedy_vt), .need = NVLLM_DEV_CUDA, .create = create_greedy, .sample = sample,
};
static const struct nvllm_component topk_topp_component = {
	.size = sizeof(topk_topp_component), .kind = NVLLM_KIND_SAMPLER, .name = "topk_topp",
	.summary = "penalties, temperature, min_p, top_k, top_p, typical_p on a CUDA device", .vt = &topk_topp_vt,
};
static const struct nvllm_component greedy_component = {
	.size = sizeof(greedy_component), .kind = NVLLM_KIND_SAMPLER, .name = "greedy",
	.summary = "the likeliest token, on a CUDA device", .vt = &greedy_vt,
};
static const struct nvllm_component *const components[] = { &topk_topp_component, &greedy_component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "sampler_cuda",
	.version = "0.1.0", .components = components,
};
