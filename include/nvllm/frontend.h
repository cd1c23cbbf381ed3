/* SPDX-License-Identifier: MIT */
/* nvllm/frontend.h - a way in: chat shell, batch file, server, benchmark. It talks
 * to the engine alone. `nvllm NAME ...` runs the front end NAME. */
#ifndef NVLLM_FRONTEND_H
#define NVLLM_FRONTEND_H

#include "engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One word of the command line, short for --set key=value. */
struct nvllm_arg {
	uint32_t size;
	int32_t letter;      /* 'p' for -p; 0 = none */
	const char *name;    /* "prompt" for --prompt; NULL = none */
	const char *key;     /* "shell.prompt", "sampler.temperature" */
	const char *value;   /* what the bare word sets; NULL = it takes an argument */
	const char *help;    /* one line */
};

/* Exit codes of run(); a negative status counts as NVLLM_EXIT_FAIL. */
#define NVLLM_EXIT_OK          0
#define NVLLM_EXIT_FAIL        1
#define NVLLM_EXIT_USAGE       2
#define NVLLM_EXIT_INTERRUPTED 130

struct nvllm_frontend_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	const struct nvllm_arg *const *args; /* NULL-ended; NULL = none */
	/* [setup] Optional. Before the engine opens, so that a bad input costs no weights:
	 * 0, or a status and a sentence. */
	int (*check)(const struct nvllm_host *, const void *conf);
	/* [setup] On the main thread, until the user or the input is done. Owns standard
	 * input and output and may handle SIGINT. Returns an exit code. The engine is the
	 * core's and outlives the call. */
	int (*run)(const struct nvllm_host *, const struct nvllm_engine_vt *, struct nvllm_engine *,
		const void *conf);
};

#ifdef __cplusplus
}
#endif
#endif
