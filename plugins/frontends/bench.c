/* SPDX-License-Identifier: MIT */
/* Bench: how fast prompts are read and tokens are made, as one JSON line on standard output.
 * Random prompts, greedy answers, end tokens ignored, so that every run does the same work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/frontend.h>
#include <nvllm/plugin.h>

struct conf { int64_t prompt, gen, depth, batch, repeat; };

struct job { struct nvllm_usage usage; int status; char error[256]; };

static void on_event(void *user, const struct nvllm_event *ev)
{
	struct job *j = user;

	if (ev->type != NVLLM_EVENT_DONE)
		return;
	j->usage = *ev->usage;
	j->status = ev->finish == NVLLM_FINISH_LENGTH ? 0 : -1;
	snprintf(j->error, sizeof(j->error), "%s", ev->error ? ev->error : "the answer ended early");
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, int64_t n)
{
	qsort(v, (size_t)n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Runs `batch` requests of that shape at once, and waits for them. */
static int run_batch(const struct nvllm_host *h, const struct nvllm_engine_vt *vt, struct nvllm_engine *e,
	int64_t n_prompt, int64_t n_gen, int64_t batch, uint32_t *rng, struct job *job)
{
	struct nvllm_params p = nvllm_params_none();
	int32_t *ids = malloc((size_t)n_prompt * sizeof(*ids)), vocab = vt->info(e)->vocab;
	uint64_t *id = calloc((size_t)batch, sizeof(*id));
	int rc = ids && id ? 0 : NVLLM_ENOMEM;

	p.temperature = 0;
	p.ignore_eos = 1;
	p.max_tokens = n_gen;
	for (int64_t i = 0; i < batch && !rc; i++) {
		struct nvllm_request r = { .size = sizeof(r), .tokens = ids, .n_tokens = n_prompt, .params = &p,
			.on_event = on_event, .user = &job[i] };

		for (int64_t t = 0; t < n_prompt; t++) {
			*rng = *rng * 1664525u + 1013904223u;
			ids[t] = (int32_t)((*rng >> 8) % (uint32_t)vocab);
		}
		rc = vt->submit(e, &r, &id[i]);
		if (rc)
			h->fail(h, rc, "%s", vt->error(e));
	}
	for (int64_t i = 0; i < batch; i++)
		if (id && id[i])
			vt->wait(e, id[i]);
	for (int64_t i = 0; i < batch && !rc; i++)
		if (job[i].status)
			rc = h->fail(h, NVLLM_EIO, "a request failed: %s", job[i].error);
	free(ids);
	free(id);
	return rc;
}

/* Tokens a second of reading a prompt, and of making tokens after it: medians over the runs,
 * the first of which is not counted. */
static int measure(const struct nvllm_host *h, const struct nvllm_engine_vt *vt, struct nvllm_engine *e,
	const struct conf *c, double *read_speed, double *gen_speed)
{
	struct job *job = calloc((size_t)c->batch, sizeof(*job));
	double *r = calloc((size_t)c->repeat, sizeof(*r)), *g = calloc((size_t)c->repeat, sizeof(*g));
	uint32_t rng = 1;
	int rc = job && r && g ? 0 : NVLLM_ENOMEM;

	for (int64_t k = -1; k < c->repeat && !rc; k++) {
		int64_t start = INT64_MAX, first = 0, end = 0;

		rc = run_batch(h, vt, e, c->prompt + c->depth, c->gen, c->batch, &rng, job);
		for (int64_t i = 0; i < c->batch; i++) {
			const struct nvllm_usage *u = &job[i].usage;

			start = u->started_ns < start ? u->started_ns : start;
			first = u->first_token_ns > first ? u->first_token_ns : first;
			end = u->done_ns > end ? u->done_ns : end;
		}
		if (k < 0 || rc)
			continue;
		r[k] = (double)((c->prompt + c->depth) * c->batch) / ((double)(first - start) / 1e9);
		g[k] = c->gen > 1 ? (double)((c->gen - 1) * c->batch) / ((double)(end - first) / 1e9) : 0;
	}
	if (!rc) {
		*read_speed = median(r, c->repeat);
		*gen_speed = median(g, c->repeat);
	}
	free(job);
	free(r);
	free(g);
	return rc;
}

static int run(const struct nvllm_host *h, const struct nvllm_engine_vt *vt, struct nvllm_engine *e, const void *conf)
{
	const struct conf *c = conf;
	struct nvllm_stats s = { .size = sizeof(s) };
	double read_speed = 0, gen_speed = 0;
	int rc = measure(h, vt, e, c, &read_speed, &gen_speed);

	if (rc)
		return rc;
	vt->stats(e, &s);
	printf("{\"prompt\": %lld, \"depth\": %lld, \"gen\": %lld, \"batch\": %lld, \"repeat\": %lld, "
		"\"prompt_tokens_per_s\": %.1f, \"gen_tokens_per_s\": %.1f, \"weight_bytes\": %lld, \"kv_bytes\": %lld, "
		"\"work_bytes\": %lld}\n", (long long)c->prompt, (long long)c->depth, (long long)c->gen,
		(long long)c->batch, (long long)c->repeat, read_speed, gen_speed, (long long)s.weight_bytes,
		(long long)s.kv_bytes, (long long)s.work_bytes);
	return NVLLM_EXIT_OK;
}

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, prompt, "prompt", "512", 1, 1 << 20, "tokens of each prompt"),
	NVLLM_INT(conf, gen, "gen", "128", 1, 1 << 20, "tokens of each answer"),
	NVLLM_INT(conf, depth, "depth", "0", 0, 1 << 20, "more prompt tokens, so that answers begin deeper"),
	NVLLM_INT(conf, batch, "batch", "1", 1, 65536, "requests at once"),
	NVLLM_INT(conf, repeat, "repeat", "3", 1, 1000, "counted runs, after one that is not"),
	NVLLM_OPTIONS_END,
};

#define ARG(l, n, k, h) &(const struct nvllm_arg){ sizeof(struct nvllm_arg), l, n, k, NULL, h }
static const struct nvllm_arg *const args[] = {
	ARG('p', "prompt", "bench.prompt", "tokens of each prompt"),
	ARG('n', "gen", "bench.gen", "tokens of each answer"),
	ARG('d', "depth", "bench.depth", "more prompt tokens before the answer"),
	ARG('b', "batch", "bench.batch", "requests at once"),
	ARG('r', "repeat", "bench.repeat", "counted runs"),
	NULL,
};
#undef ARG

static const struct nvllm_frontend_vt vt = { .size = sizeof(vt), .args = args, .run = run };

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_FRONTEND, .name = "bench",
	.summary = "speed of prompts and answers, as JSON", .vt = &vt, .options = options,
	.conf_size = sizeof(struct conf),
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "bench", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
