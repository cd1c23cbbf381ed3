/* SPDX-License-Identifier: MIT */
/* sampler_rig.h - a sampler plugin on the fake device, and calling it. */
#ifndef SAMPLER_RIG_H
#define SAMPLER_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <nvllm/random.h>
#include <nvllm/sampler.h>

#include "fake_device.h"

#define ROWS 64
#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

struct rig {
	struct fake_host host;
	struct nvllm_device dev;
	struct nvllm_sampler_env env;
	const struct nvllm_sampler_vt *vt;
	struct nvllm_sampler *s;
	void *workspace;
};

static inline void rig_open(struct rig *r, const char *plugin, int64_t vocab, int n_workers)
{
	const struct nvllm_component *c = fake_plugin(plugin);

	assert_non_null(c);
	assert_int_equal(c->kind, NVLLM_KIND_SAMPLER);
	memset(r, 0, sizeof(*r));
	fake_host_init(&r->host);
	fake_device_init(&r->dev, n_workers, "scalar");
	r->env = (struct nvllm_sampler_env){ .size = sizeof(r->env), .max_rows = ROWS,
		.dev = &r->dev.ref, .vocab = vocab, .vocab_n = vocab };
	r->vt = c->vt;
	assert_int_equal(r->vt->create(&r->host.h, &r->env, NULL, &r->s), NVLLM_OK);
	r->workspace = malloc((size_t)r->env.workspace_bytes + 1);
	memset(r->workspace, 0xff, (size_t)r->env.workspace_bytes);
}

static inline void rig_close(struct rig *r)
{
	free(r->workspace);
	fake_host_finish(&r->host);
}

static inline struct nvllm_sample_row plain_row(void)
{
	return (struct nvllm_sample_row){ .temperature = 1, .top_p = 1, .typical_p = 1,
		.repetition = 1 };
}

/* Logits [n_rows][vocab] with stride 0 if all rows are the same one. */
static inline void sample(struct rig *r, const float *x, int64_t stride,
	const struct nvllm_sample_row *rows, int32_t n, int32_t *tokens)
{
	struct nvllm_tensor t = { .data = (void *)(uintptr_t)x, .rows = n, .cols = r->env.vocab,
		.stride = stride, .planes = 1, .dtype = NVLLM_F32 };

	for (int32_t i = 0; i < n; i++)
		tokens[i] = -99;
	assert_int_equal(r->vt->sample(r->s, NULL, t, rows, n, tokens, r->workspace), NVLLM_OK);
	for (int32_t i = 0; i < n; i++)
		assert_in_range(tokens[i], 0, r->env.vocab - 1);
}

static inline int32_t one(const char *plugin, const float *x, int64_t vocab,
	struct nvllm_sample_row row)
{
	struct rig r;
	int32_t token;

	rig_open(&r, plugin, vocab, 1);
	sample(&r, x, 0, &row, 1, &token);
	rig_close(&r);
	return token;
}

#endif
