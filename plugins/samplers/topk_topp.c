/* SPDX-License-Identifier: MIT */
/* topk_topp - draws from the distribution that penalties, temperature, min_p, top_k, top_p and
 * typical_p leave, in vLLM's order. Penalties change logits (penalties.c). With x_m the
 * largest logit, the weight of a token is
 *   w = exp((x - x_m) / temperature)        (softmax without its divisor)
 * min_p keeps w >= min_p; top_k keeps x >= the k-th largest x, so all that tie with it;
 * top_p (Holtzman et al. 2020) takes what these left from the largest x down, ties from
 * the lowest id up, and keeps a token while the mass before it is below top_p of the
 * whole; typical_p (typical.c) keeps the most typical of those. The token drawn is the
 * first, in the order of ids, at which the running sum of kept w exceeds nvllm_uniform()
 * times their sum. */
#include <math.h>

#include <nvllm/plugin.h>
#include <nvllm/random.h>
#include <nvllm/sampler.h>

#include "candidates.h"
#include "penalties.h"

struct nvllm_sampler {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
	int64_t worker_bytes;
};

/* One call of sample(), as its workers see it. */
struct job {
	const struct nvllm_sampler *s;
	struct nvllm_tensor logits;
	const struct nvllm_sample_row *rows;
	int32_t *tokens;
	char *workspace;
};

/* Bytes of scratch for a worker: weight, logit, id, place and logit after penalties for each
 * token, and a maximum for each block. */
static int64_t scratch_bytes(int64_t vocab)
{
	return ((vocab + 8) * 24 + (vocab / BLOCK + 1) * 4 + 63) / 64 * 64;
}

static int create(const struct nvllm_host *host, struct nvllm_sampler_env *env, const void *conf,
	struct nvllm_sampler **out)
{
	struct nvllm_sampler *s = host->alloc(host, sizeof(*s));
	int32_t n_workers = env->dev->info->n_workers;

	(void)conf;
	if (!s)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the sampler");
	if (env->vocab_first != 0 || env->vocab_n != env->vocab || env->vocab > INT32_MAX)
		return host->fail(host, NVLLM_ENOTSUP, "sampler topk_topp needs the whole "
			"vocabulary of %lld on each rank, this one has %lld: set engine.tp = 1",
			(long long)env->vocab, (long long)env->vocab_n);
	*s = (struct nvllm_sampler){ host, env->dev, scratch_bytes(env->vocab) };
	env->workspace_bytes = s->worker_bytes * (n_workers > 1 ? n_workers : 1);
	*out = s;
	return NVLLM_OK;
}

/* own: [n_row], for the row if it has penalties. */
static int32_t sample_row(struct candidates *s, float *blocks, float *own,
	const struct nvllm_sample_row *r)
{
	float floor = -HUGE_VALF;
	int32_t best;

	if (penalties_on(r)) {
		penalties_apply(r, s->row, s->n_row, own, s->bin);
		s->row = own;
	}
	best = (int32_t)argmax(s->row, s->n_row, &s->max, blocks);
	if (!(r->temperature > 0) || isinf(s->max))
		return best;
	s->inv_t = r->temperature > 1e-300 ? 1 / r->temperature : 1e300;
	if (r->min_p > 0) /* well below: the weights decide */
		floor = (float)((double)s->max + (log(r->min_p) - 1e-6) / s->inv_t -
			1e-6 * fabs((double)s->max));
	if (r->top_k > 0 && r->top_k < s->n_row)
		floor = fmaxf(floor, candidates_floor(s, r->top_k));
	candidates_gather(s, floor);
	if (r->top_k > 0)
		candidates_top_k(s, r->top_k);
	candidates_weigh(s, r->min_p);
	if (r->top_p < 1)
		candidates_top_p(s, r->top_p);
	if (r->typical_p < 1)
		candidates_typical_p(s, r->typical_p);
	return candidates_draw(s, nvllm_uniform(r->seed, r->choice, r->position), best);
}

static void sample_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct job *j = arg;
	int64_t n = j->logits.cols, room = n + 8;
	char *p = j->workspace + worker * j->s->worker_bytes;

	for (int64_t i = begin; i < end; i++) {
		struct candidates s = {
			.row = (const float *)((char *)j->logits.data + i * j->logits.stride),
			.n_row = n, .w = (double *)p, .x = (float *)(p + 8 * room),
			.id = (int32_t *)(p + 12 * room), .bin = (int32_t *)(p + 16 * room),
			.blocks = (float *)(p + 24 * room),
		};

		j->tokens[i] = j->rows[i].slot < 0 ? 0 : sample_row(&s, (float *)(p + 24 * room),
			(float *)(p + 20 * room), &j->rows[i]);
	}
}

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	struct job j = { s, logits, rows, tokens, workspace };

	(void)stream;
	if (scratch_bytes(logits.cols) > s->worker_bytes)
		return s->host->fail(s->host, NVLLM_EINVAL, "sampler topk_topp was made for fewer "
			"than the %lld logits of this step", (long long)logits.cols);
	if (s->dev->info->caps & NVLLM_DEV_PARALLEL && n_rows > 1)
		s->dev->vt->parallel_for(s->dev->dev, n_rows, 1, sample_rows, &j);
	else
		sample_rows(&j, 0, n_rows, 0);
	return NVLLM_OK;
}

static const struct nvllm_sampler_vt vt = {
	.size = sizeof(vt), .flags = NVLLM_SAMPLER_HOST,
	.takes = NVLLM_TAKES_TEMPERATURE | NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P |
		NVLLM_TAKES_MIN_P | NVLLM_TAKES_TYPICAL_P | NVLLM_TAKES_REPETITION |
		NVLLM_TAKES_PRESENCE | NVLLM_TAKES_FREQUENCY | NVLLM_TAKES_SEED,
	.create = create, .sample = sample,
};
static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_SAMPLER, .name = "topk_topp",
	.summary = "penalties, temperature, min_p, top_k, top_p, typical_p, as vLLM orders them",
	.vt = &vt,
};
static const struct nvllm_component *const components[] = { &component, NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "sampler_topk_topp",
	.version = "0.1.0", .components = components,
};
