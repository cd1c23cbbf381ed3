/* SPDX-License-Identifier: MIT */
/* nvllm/host.h - what the core gives a plugin: the only way back into the core. */
#ifndef NVLLM_HOST_H
#define NVLLM_HOST_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum nvllm_log_level { NVLLM_LOG_ERROR = 0, NVLLM_LOG_WARN, NVLLM_LOG_INFO, NVLLM_LOG_DEBUG };

/* Threads, by role. Each function of each vtable carries one of these tags.
 *   [setup]  before the engine runs and after it stops; may allocate, block, fail
 *   [step]   the rank's engine thread, inside a step: no malloc, no I/O, no device sync
 *   [any]    any thread, at any time between create and destroy, also at once
 * A component instance is never entered twice at once, but for its [any] members.
 *
 * One host is made for each component instance; it outlives the instance. */
struct nvllm_host {
	uint32_t size;
	uint32_t abi;
	int32_t rank, world;  /* tensor-parallel place of this instance; 0 and 1 when alone */

	/* [any] One line to the log; the core adds the plugin's name and the rank.
	 * fmt is printf's. A line said over and over is written once. */
	void (*log)(const struct nvllm_host *, int level, const char *fmt, ...)
		__attribute__((format(printf, 3, 4)));
	/* [any] Keeps the sentence for the user and returns the code:
	 * return host->fail(host, NVLLM_EINVAL, "%d ranks do not divide %d heads", ...).
	 * The newest sentence of the calling thread wins. Does not allocate. */
	int (*fail)(const struct nvllm_host *, int status, const char *fmt, ...)
		__attribute__((format(printf, 3, 4)));
	/* [setup] Zeroed host memory, 64-byte aligned, freed by the core with the
	 * instance; NULL when there is none. In a step it logs an error and gives NULL. */
	void *(*alloc)(const struct nvllm_host *, size_t bytes);
	/* [setup] An extension by name ("nvllm.trace/1"), NULL if the core lacks it.
	 * Ask once, keep it. Owned by the core. */
	const void *(*get)(const struct nvllm_host *, const char *id);
};

#ifdef __cplusplus
}
#endif
#endif
