/* SPDX-License-Identifier: MIT */
/* The fake device's sampler: topk_topp underneath, called when the job's turn comes. */
#include <string.h>

#include "fake.h"

struct conf {
	const char *inner;
};

struct nvllm_sampler {
	struct fake_host words;
	struct nvllm_device *d;
	const struct nvllm_sampler_vt *vt;
	struct nvllm_sampler *inner;
	struct nvllm_sampler_env env; /* as the inner one sees it */
};

#define TAKES                                                                                      \
	(NVLLM_TAKES_TEMPERATURE | NVLLM_TAKES_TOP_K | NVLLM_TAKES_TOP_P | NVLLM_TAKES_MIN_P |     \
		NVLLM_TAKES_SEED)

static int sampler_create(const struct nvllm_host *host, struct nvllm_sampler_env *env,
	const void *conf, struct nvllm_sampler **out)
{
	const struct conf *c = conf;
	struct nvllm_device *d = inner_device(host, env->dev);
	struct nvllm_sampler *s = d ? host->alloc(host, sizeof(*s)) : NULL;
	const struct nvllm_component *in = s ? inner_find(host, c->inner, NVLLM_KIND_SAMPLER,
		d->cpu_info.caps) : NULL;
	void *iconf;
	int rc;

	if (!in)
		return !d || s ? NVLLM_ENOTSUP : host->fail(host, NVLLM_ENOMEM, "no memory");
	s->vt = in->vt;
	if (TAKES & ~s->vt->takes)
		return host->fail(host, NVLLM_ENOTSUP,
			"the fake sampler takes more than '%s' does: "
			"choose topk_topp",
			in->name);
	rc = inner_conf(host, in, NULL, &iconf);
	if (rc)
		return rc;
	inner_host(&s->words, host);
	s->d = d;
	s->env = *env;
	s->env.dev = &d->cpu_ref;
	rc = s->vt->create(&s->words.pub, &s->env, iconf, &s->inner);
	env->workspace_bytes = s->env.workspace_bytes;
	*out = s;
	return rc;
}

static int run_sample(struct nvllm_device *d, const struct job *j)
{
	struct nvllm_sampler *s = j->u.sample.s;
	int rc = s->vt->sample(s->inner, NULL, j->u.sample.logits, j->u.sample.rows,
		(int32_t)j->u.sample.n_rows, j->u.sample.tokens, j->u.sample.workspace);

	if (rc)
		memcpy(d->words.said, s->words.said, sizeof(s->words.said));
	return rc;
}
static const struct job_type sample_type = { "sample", true, run_sample };

static int sample(struct nvllm_sampler *s, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_sample_row *rows, int32_t n_rows, int32_t *tokens, void *workspace)
{
	struct nvllm_device *d = s->d;
	struct job *j;

	if (!tensor_on_device(d, "sample", "logits", &logits) ||
	    !on_device(d, "sample", "rows", rows, n_rows * (int64_t)sizeof(*rows)) ||
	    !ints_on_device(d, "sample", "tokens", tokens, n_rows) ||
	    !on_device(d, "sample", "workspace", workspace, s->env.workspace_bytes))
		return NVLLM_OK;
	if (n_rows > s->env.max_rows || n_rows > logits.rows) {
		misuse(d, "sample: %d rows of %lld; it was made for %d", n_rows,
			(long long)logits.rows, s->env.max_rows);
		return NVLLM_OK;
	}
	j = job_new(d, stream, &sample_type);
	if (!j)
		return job_none(d, stream);
	j->u.sample.s = s;
	j->u.sample.logits = logits;
	j->u.sample.rows = rows;
	j->u.sample.n_rows = n_rows;
	j->u.sample.tokens = tokens;
	j->u.sample.workspace = workspace;
	return NVLLM_OK;
}

static void sampler_destroy(struct nvllm_sampler *s)
{
	if (s && s->inner && NVLLM_HAS(s->vt, destroy) && s->vt->destroy)
		s->vt->destroy(s->inner);
}

static const struct nvllm_option sampler_options[] = {
	NVLLM_STR(conf, inner, "inner", FAKE_TOPK, "sampler plugin for host memory to run: a path"),
	NVLLM_OPTIONS_END
};
static const struct nvllm_sampler_vt sampler_vt = {
	.size = sizeof(sampler_vt), .need = FAKE_CAP, .takes = TAKES,
	.create = sampler_create, .sample = sample, .destroy = sampler_destroy,
};
const struct nvllm_component fake_sampler = {
	.size = sizeof(fake_sampler), .kind = NVLLM_KIND_SAMPLER, .name = "fake",
	.summary = "for tests: topk_topp, run late on the fake device",
	.vt = &sampler_vt, .options = sampler_options, .conf_size = sizeof(struct conf),
};
