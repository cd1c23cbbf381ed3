/* SPDX-License-Identifier: MIT */
/* frontends/bench.c - the bench front end's face: its options, and its report, one JSON line on
 * standard output. Exit codes: 0 done, 1 failed, 130 stopped by Ctrl-C. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* ---- the report ---- */

static void put_key(struct json_buf *b, const char *key)
{
	json_put(b, b->len ? ", \"" : "{\"");
	json_put(b, key);
	json_put(b, "\": ");
}

static void put_int(struct json_buf *b, const char *key, int64_t v)
{
	put_key(b, key);
	json_put_int(b, v);
}

/* With some digits; null for 0: this run has no such figure. */
static void put_figure(struct json_buf *b, const char *key, double v, int digits)
{
	char text[64];

	snprintf(text, sizeof(text), "%.*f", digits, v);
	put_key(b, key);
	json_put(b, v > 0 ? text : "null");
}

/* The middle one of a member of the rows. */
static double middle(const struct bench_conf *c, const struct bench_result *r, size_t offset)
{
	double *v = malloc((size_t)c->repeat * sizeof(*v)), m;

	if (!v)
		return 0;
	for (int64_t i = 0; i < c->repeat; i++)
		memcpy(&v[i], (const char *)&r->rows[i] + offset, sizeof(*v));
	m = bench_at(v, c->repeat, 0.5);
	free(v);
	return m;
}

static void put_times(struct json_buf *b, const char *key, const struct bench_times *t)
{
	char text[128];

	snprintf(text, sizeof(text), "{\"median\": %.3f, \"p95\": %.3f, \"max\": %.3f}",
		(double)bench_times_at(t, 0.5) / 1e6, (double)bench_times_at(t, 0.95) / 1e6,
		(double)t->max / 1e6);
	put_key(b, key);
	json_put(b, t->n ? text : "null");
}

static void put_conf(struct json_buf *b, const struct bench_conf *c)
{
	char text[32];

	if (c->trace) {
		put_key(b, "trace");
		json_put_string(b, c->file, strlen(c->file));
		put_int(b, "requests", c->trace->n);
		put_int(b, "repeat", c->repeat);
		put_key(b, "temperature");
		snprintf(text, sizeof(text), "%g", c->temperature);
		json_put(b, text);
		return;
	}
	put_int(b, "prompt", c->prompt);
	put_int(b, "depth", c->depth);
	put_int(b, "prefix", c->prefix);
	put_int(b, "gen", c->gen);
	put_int(b, "batch", c->batch);
	put_int(b, "requests", c->requests ? c->requests : c->batch);
	put_int(b, "turns", c->turns);
	put_int(b, "arrival_ms", c->arrival);
	put_int(b, "long", c->long_prompt);
	put_int(b, "repeat", c->repeat);
}

static void put_speeds(struct json_buf *b, const struct bench_conf *c, const struct bench_result *r)
{
#define MIDDLE(m) middle(c, r, offsetof(struct bench_row, m))
	put_figure(b, "prompt_tokens_per_s", MIDDLE(prompt_phase), 1);
	put_figure(b, "gen_tokens_per_s", MIDDLE(gen_phase), 1);
	put_figure(b, "run_s", MIDDLE(seconds), 4);
	put_figure(b, "run_prompt_tokens_per_s", MIDDLE(prompt), 1);
	put_figure(b, "run_output_tokens_per_s", MIDDLE(output), 1);
	put_figure(b, "run_tokens_per_s", MIDDLE(prompt) + MIDDLE(output), 1);
	put_times(b, "ttft_ms", &r->ttft);
	put_times(b, "tpot_ms", &r->tpot);
	put_times(b, "gap_ms", &r->gap);
	put_times(b, "gap_long_ms", &r->gap_long);
	put_figure(b, "long_ttft_ms", MIDDLE(long_ttft) * 1e3, 1);
#undef MIDDLE
}

static void put_counts(struct json_buf *b, const struct bench_result *r)
{
	char rate[32];

	put_int(b, "prompt_tokens", r->n_prompt);
	put_int(b, "output_tokens", r->n_output);
	put_int(b, "cached_tokens", r->n_cached);
	snprintf(rate, sizeof(rate), "%.4f", (double)r->n_cached / (double)r->n_prompt);
	put_key(b, "hit_rate");
	json_put(b, rate);
#define SINCE(m) put_int(b, #m, r->after.m - r->before.m)
	SINCE(computed_tokens);
	SINCE(preempted);
	SINCE(steps);
#undef SINCE
	put_int(b, "engine_prompt_tokens", r->after.prompt_tokens - r->before.prompt_tokens);
	put_int(b, "engine_cached_tokens", r->after.cached_tokens - r->before.cached_tokens);
}

static void put_engine(struct json_buf *b, const struct bench_result *r)
{
	const struct nvllm_stats *s = &r->after;

	put_int(b, "pages", s->pages);
	put_int(b, "page_tokens", s->page_tokens);
	put_int(b, "pages_peak", r->pages_peak);
	put_int(b, "pages_used", s->pages_used);
	put_int(b, "pages_cached", s->pages_cached);
	put_int(b, "max_seqs", s->max_seqs);
	put_int(b, "tp", s->tp);
	put_int(b, "weight_bytes", s->weight_bytes);
	put_int(b, "kv_bytes", s->kv_bytes);
	put_int(b, "work_bytes", s->work_bytes);
	put_int(b, "run_ahead", s->run_ahead);
	put_int(b, "graph_steps", s->graph_steps - r->before.graph_steps);
}

static int report(const struct nvllm_host *h, const struct bench_conf *c, const struct bench_result *r,
	const char *start_line)
{
	struct json_buf b = { 0 };
	bool wrote;

	put_conf(&b, c);
	put_speeds(&b, c, r);
	put_counts(&b, r);
	put_engine(&b, r);
	if (start_line) {
		put_key(&b, "start");
		json_put_string(&b, start_line, strlen(start_line));
	}
	json_put(&b, "}\n");
	if (b.failed)
		return h->fail(h, NVLLM_ENOMEM, "no memory for the report");
	wrote = fwrite(b.s, 1, b.len, stdout) == b.len && !fflush(stdout);
	json_buf_free(&b);
	if (wrote)
		return NVLLM_EXIT_OK;
	return h->fail(h, NVLLM_EIO, "cannot write to standard output: %s", strerror(errno));
}

static int run(const struct nvllm_host *h, const struct nvllm_engine_vt *vt, struct nvllm_engine *e,
	const void *conf)
{
	struct bench_result *result = calloc(1, sizeof(*result));
	struct bench_conf c = *(const struct bench_conf *)conf;
	struct bench_trace trace = { 0 };
	int rc = NVLLM_OK;

	if (!result)
		return h->fail(h, NVLLM_ENOMEM, "no memory for the result");
	if (*c.file) {
		rc = bench_trace_read(h, c.file, &trace);
		c.trace = &trace;
	}
	if (!rc) {
		rc = bench_run(h, vt, e, &c, result);
		if (!rc)
			rc = report(h, &c, result, vt->info(e)->start_line);
		bench_result_free(result);
	}
	bench_trace_free(&trace);
	free(result);
	return rc;
}

/* ---- the plugin ---- */

static const struct nvllm_option options[] = {
	NVLLM_INT(bench_conf, prompt, "prompt", "512", 1, 1 << 20,
		"tokens of each prompt that are its own"),
	NVLLM_INT(bench_conf, gen, "gen", "128", 1, 1 << 20, "tokens of each answer"),
	NVLLM_INT(bench_conf, depth, "depth", "0", 0, 1 << 20,
		"more prompt tokens of its own, so that answers begin deeper"),
	NVLLM_INT(bench_conf, prefix, "prefix", "0", 0, 1 << 20,
		"tokens before those that all prompts of a run begin with"),
	NVLLM_INT(bench_conf, batch, "batch", "1", 1, 65536, "requests at once"),
	NVLLM_INT(bench_conf, requests, "requests", "0", 0, 1 << 20,
		"requests of a run in all, the next as one ends; 0 = batch"),
	NVLLM_INT(bench_conf, turns, "turns", "1", 1, 1000,
		"each request is a conversation of so many: the next prompt is the last one, its "
		"answer, and 'prompt' new tokens"),
	NVLLM_INT(bench_conf, arrival, "arrival", "0", 0, 3600000,
		"milliseconds between the starts of requests; 0 = all at once"),
	NVLLM_INT(bench_conf, long_prompt, "long", "0", 0, 1 << 20,
		"tokens of one more prompt, submitted once 'batch' answers run; 0 = none"),
	NVLLM_STR(bench_conf, file, "trace", "",
		"file of requests in place of random ones, all at once: a line each, "
		"{\"ids\": [...], \"max_tokens\": N}"),
	NVLLM_FLOAT(bench_conf, temperature, "temperature", "0", 0, 100,
		"of the requests; 0 = greedy"),
	NVLLM_INT(bench_conf, repeat, "repeat", "3", 1, 1000, "counted runs, after one that is not"),
	NVLLM_OPTIONS_END,
};

#define ARG(l, n, k, h) &(const struct nvllm_arg){ sizeof(struct nvllm_arg), l, n, k, NULL, h }
static const struct nvllm_arg *const args[] = {
	ARG('p', "prompt", "bench.prompt", "tokens of each prompt"),
	ARG('n', "gen", "bench.gen", "tokens of each answer"),
	ARG('d', "depth", "bench.depth", "more prompt tokens before the answer"),
	ARG(0, "prefix", "bench.prefix", "tokens that all prompts begin with"),
	ARG('b', "batch", "bench.batch", "requests at once"),
	ARG(0, "requests", "bench.requests", "requests of a run in all"),
	ARG(0, "turns", "bench.turns", "requests of each conversation"),
	ARG(0, "arrival", "bench.arrival", "milliseconds between starts"),
	ARG(0, "long", "bench.long", "tokens of one long prompt among running answers"),
	ARG(0, "trace", "bench.trace", "a file of requests, all at once"),
	ARG(0, "temperature", "bench.temperature", "of the requests"),
	ARG('r', "repeat", "bench.repeat", "counted runs"),
	NULL,
};
#undef ARG

static const struct nvllm_frontend_vt vt = { .size = sizeof(vt), .args = args, .run = run };

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_FRONTEND, .name = "bench",
	.summary = "speed of prompts and answers, as JSON", .vt = &vt, .options = options,
	.conf_size = sizeof(struct bench_conf),
};

NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "bench", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
