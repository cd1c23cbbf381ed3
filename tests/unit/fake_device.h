/* SPDX-License-Identifier: MIT */
/* fake_device.h - what the tests of the host-memory plugins need: a host that remembers
 * the last refusal, a device that has nothing but parallel_for on any number of
 * threads, and a way to a plugin's component. */
#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/device.h>
#include <nvllm/plugin.h>

#define FAKE_MAX_WORKERS 8

/* ---- host ---- */

struct fake_host {
	struct nvllm_host h;
	void *blocks[64];
	int n_blocks;
	char said[512];
};

static inline struct fake_host *fake_of(const struct nvllm_host *h)
{
	return (struct fake_host *)(uintptr_t)h;
}

static inline void fake_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
	(void)h, (void)level, (void)fmt;
}

static inline int fake_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(fake_of(h)->said, sizeof(fake_of(h)->said), fmt, ap);
	va_end(ap);
	return status;
}

static inline void *fake_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct fake_host *f = fake_of(h);

	if (f->n_blocks == 64)
		return NULL;
	return f->blocks[f->n_blocks++] = calloc(1, bytes ? bytes : 1);
}

static inline const void *fake_get(const struct nvllm_host *h, const char *id)
{
	(void)h, (void)id;
	return NULL;
}

static inline void fake_host_init(struct fake_host *f)
{
	memset(f, 0, sizeof(*f));
	f->h = (struct nvllm_host){ .size = sizeof(f->h), .abi = NVLLM_ABI, .world = 1,
		.log = fake_log, .fail = fake_fail, .alloc = fake_alloc, .get = fake_get };
}

static inline void fake_host_finish(struct fake_host *f)
{
	while (f->n_blocks)
		free(f->blocks[--f->n_blocks]);
}

/* ---- device ---- */

struct nvllm_device {
	struct nvllm_device_info info;
	struct nvllm_device_ref ref;
	int n_calls; /* of parallel_for */
};

/* Chunks are handed out from the last to the first, so that order shows. */
struct fake_work {
	atomic_llong left;
	int64_t n, grain;
	void (*fn)(void *, int64_t, int64_t, int32_t);
	void *arg;
	atomic_int next_worker;
};

static inline void *fake_worker(void *arg)
{
	struct fake_work *w = arg;
	int32_t id = atomic_fetch_add(&w->next_worker, 1);
	long long i;

	while ((i = atomic_fetch_sub(&w->left, 1)) > 0) {
		int64_t begin = (i - 1) * w->grain, end = begin + w->grain;

		w->fn(w->arg, begin, end < w->n ? end : w->n, id);
	}
	return NULL;
}

static inline void fake_parallel_for(struct nvllm_device *d, int64_t n, int64_t grain,
	void (*fn)(void *, int64_t, int64_t, int32_t), void *arg)
{
	struct fake_work w = { .n = n, .grain = grain, .fn = fn, .arg = arg };
	pthread_t t[FAKE_MAX_WORKERS];
	int started = 0;

	d->n_calls++;
	atomic_store(&w.left, (n + grain - 1) / grain);
	while (started + 1 < d->info.n_workers &&
	       pthread_create(&t[started], NULL, fake_worker, &w) == 0)
		started++;
	fake_worker(&w);
	while (started)
		pthread_join(t[--started], NULL);
}

static const struct nvllm_device_vt fake_device_vt = {
	.size = sizeof(fake_device_vt), .parallel_for = fake_parallel_for,
};

static inline void fake_device_init(struct nvllm_device *d, int n_workers, const char *isa)
{
	memset(d, 0, sizeof(*d));
	d->info = (struct nvllm_device_info){ .size = sizeof(d->info), .n_workers = n_workers,
		.caps = NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL };
	snprintf(d->info.isa, sizeof(d->info.isa), "%s", isa);
	d->ref = (struct nvllm_device_ref){ .size = sizeof(d->ref), .vt = &fake_device_vt,
		.dev = d, .info = &d->info };
}

/* Whether the machine can run what an isa string names; AVX-512 is AVX2 where it is emulated (tests/simd). */
static inline int fake_isa_runs(const char *isa)
{
#ifdef NVLLM_EMULATED
	const int emulated = 1;
#else
	const int emulated = 0;
#endif

	if (strstr(isa, "avx512") && !emulated)
		return __builtin_cpu_supports("avx512f") != 0;
	return !strstr(isa, "avx2") || __builtin_cpu_supports("avx2");
}

/* ---- plugins ---- */

/* The first component of FILE.so in the folders of NVLLM_PLUGIN_PATH; NULL = none. */
static inline const struct nvllm_component *fake_plugin(const char *file)
{
	char path[1024];
	const char *p = getenv("NVLLM_PLUGIN_PATH");

	while (p && *p) {
		int n = (int)strcspn(p, ":");
		const struct nvllm_plugin *plugin;
		void *so;

		snprintf(path, sizeof(path), "%.*s/%s.so", n, p, file);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		plugin = so ? dlsym(so, "nvllm_plugin") : NULL;
		if (plugin && plugin->abi == NVLLM_ABI)
			return plugin->components[0];
		p += n + (p[n] == ':');
	}
	fprintf(stderr, "no %s.so in NVLLM_PLUGIN_PATH: %s\n", file, dlerror());
	return NULL;
}

/* ---- numbers ---- */

static inline uint64_t fake_random(uint64_t *s)
{
	*s += 0x9E3779B97F4A7C15u; /* splitmix64 (Steele, Lea, Flood 2014) */
	uint64_t z = *s;

	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return z ^ z >> 31;
}

/* About normal, mean 0 and deviation 1: the sum of twelve uniform numbers. */
static inline float fake_normal(uint64_t *s)
{
	double x = -6;

	for (int i = 0; i < 3; i++)
		for (uint64_t z = fake_random(s), j = 0; j < 4; j++)
			x += (double)(z >> (16 * j) & 0xffff) * 0x1p-16;
	return (float)x;
}

#endif
