/* SPDX-License-Identifier: MIT */
/* frontends/bench.h - what the files of the bench front end know of each other. */
#ifndef NVLLM_BENCH_H
#define NVLLM_BENCH_H

#include <stdbool.h>

#include <nvllm/frontend.h>
#include <nvllm/plugin.h>

/* ---- bench_trace.c: requests from a file ---- */

struct bench_ask { int32_t *ids; int64_t n, gen; };
struct bench_trace { struct bench_ask *asks; int64_t n; };

/* 0, or a status and a sentence. Free it in both cases. */
int  bench_trace_read(const struct nvllm_host *, const char *path, struct bench_trace *);
void bench_trace_free(struct bench_trace *);

struct bench_conf {
	int64_t prompt, gen, depth, prefix, batch, requests, turns, arrival, long_prompt, repeat;
	double temperature;
	const char *file;                  /* of requests; "" = random ones */
	const struct bench_trace *trace;   /* what is in it; NULL = random ones */
};

/* ---- bench_times.c: many times, and what lies in their middle ---- */

/* Counts of times in ns, in cells 1/64 of a power of two wide: any number of them in fixed
 * memory, each known to 1.6%. */
#define BENCH_CELLS (58 * 64)
struct bench_times {
	int64_t n, max;
	int64_t cells[BENCH_CELLS];
};

void    bench_times_add(struct bench_times *, int64_t ns);
/* The time that a share (0 to 1) of them does not exceed; 0 of none. */
int64_t bench_times_at(const struct bench_times *, double share);
/* Of [n], which it sorts: the same, exactly. 0 of none. */
double  bench_at(double *v, int64_t n, double share);

/* ---- bench_run.c: the runs ---- */

/* What one counted run gave. Speeds are tokens/s; 0 = this kind of run has no such figure. */
struct bench_row {
	double seconds;                    /* from the first submit to the last token */
	double prompt, output;             /* tokens of the whole run by seconds */
	double prompt_phase, gen_phase;    /* while prompts were read; while all answers ran */
	double long_ttft;                  /* s, of the long prompt */
};

struct bench_result {
	struct bench_row *rows;            /* [repeat] */
	struct bench_times ttft, tpot;     /* over the requests of all counted runs */
	struct bench_times gap, gap_long;  /* between tokens of an answer; while the long prompt is read */
	int64_t n_prompt, n_output, n_cached; /* tokens of all counted runs, as usage says */
	struct nvllm_stats before, after;  /* around the counted runs */
	int64_t pages_peak;
};

/* 0, NVLLM_EXIT_INTERRUPTED, or a status and a sentence. Free *out in all cases. */
int  bench_run(const struct nvllm_host *, const struct nvllm_engine_vt *, struct nvllm_engine *,
	const struct bench_conf *, struct bench_result *out);
void bench_result_free(struct bench_result *);

#endif
