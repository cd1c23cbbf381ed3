/* SPDX-License-Identifier: MIT */
/* tests/conform/fake.c - decides what a component is given to stand on: a host that keeps
 * the sentences, and a device of host memory whose parallel_for changes its order and its
 * workers, so that a result which hangs on either is found out. No kernels. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define FAKE_WORKERS 3
#define FAKE_MAX_BYTES ((int64_t)1 << 30)

static char said[512];

static void host_log(const struct nvllm_host *host, int level, const char *fmt, ...)
{
	va_list ap;

	(void)host;
	if (!ck_opts->verbose || level > NVLLM_LOG_INFO)
		return;
	va_start(ap, fmt);
	fputs("  log: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

static int host_fail(const struct nvllm_host *host, int status, const char *fmt, ...)
{
	va_list ap;

	(void)host;
	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *host, size_t bytes)
{
	void *p;

	(void)host;
	if (ck_in_step()) {
		ck_step_note("host->alloc");
		return NULL;
	}
	p = bytes > (size_t)FAKE_MAX_BYTES ? NULL
					   : gmem_get("memory of host->alloc", (int64_t)bytes, 64);
	if (!p) { /* the core leaves a sentence too */
		snprintf(said, sizeof(said), "no memory for %zu bytes", bytes);
		return NULL;
	}
	gmem_apart(p);
	return memset(p, 0, bytes);
}

static const void *host_get(const struct nvllm_host *host, const char *id)
{
	(void)host, (void)id;
	return NULL;
}

struct nvllm_host *fake_host(void)
{
	struct nvllm_host *h = calloc(1, sizeof(*h));

	if (!h)
		abort();
	*h = (struct nvllm_host){ .size = sizeof(*h), .abi = NVLLM_ABI, .rank = 0, .world = 1,
		.log = host_log, .fail = host_fail, .alloc = host_alloc, .get = host_get };
	fake_hush();
	return h;
}

const char *fake_said(void)
{
	return said;
}

void fake_hush(void)
{
	said[0] = 0;
}

int ck_refusal(int status, const char *what)
{
	if (status < 0 && !said[0])
		ck_bad("%s returned %d without a sentence: use host->fail()", what, status);
	if (status > 0)
		ck_bad("%s returned %d: neither 0 nor a negative status", what, status);
	return status;
}

struct nvllm_device { int order; };

static void dev_destroy(struct nvllm_device *d) { (void)d; }

static int dev_info(struct nvllm_device *d, struct nvllm_device_info *info)
{
	(void)d;
	info->n_workers = FAKE_WORKERS;
	info->kv_dtype = NVLLM_F16;
	info->caps = NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL;
	info->mem_free = info->mem_total = FAKE_MAX_BYTES;
	snprintf(info->name, sizeof(info->name), "nvllm-check's host memory");
	return NVLLM_OK;
}

static void *dev_alloc(struct nvllm_device *d, int64_t bytes)
{
	(void)d;
	ck_step_note("device alloc");
	return gmem_get("device memory", bytes, 256);
}

static void dev_free(struct nvllm_device *d, void *p) { (void)d; gmem_put(p); }

static int dev_copy(struct nvllm_device *d, nvllm_stream s, void *dst, const void *src, int64_t n)
{
	(void)d, (void)s;
	memmove(dst, src, (size_t)n);
	return NVLLM_OK;
}

static int dev_sync(struct nvllm_device *d, nvllm_stream s) { (void)d, (void)s; return NVLLM_OK; }
static nvllm_stream dev_stream(struct nvllm_device *d) { (void)d; return NULL; }

static int64_t dev_store(struct nvllm_device *d, struct nvllm_tensor *t)
{
	(void)d;
	t->stride = nvllm_row_bytes(t->dtype, t->cols);
	return t->stride < 0 ? NVLLM_ENOTSUP : t->stride * t->rows;
}

static int dev_upload(struct nvllm_device *d, const struct nvllm_tensor *t, int32_t plane,
	int64_t row, int64_t n, const void *src, int32_t src_dtype, int64_t src_stride)
{
	(void)d, (void)plane, (void)src_dtype;
	for (int64_t i = 0; i < n; i++)
		memcpy((char *)t->data + (row + i) * t->stride, (const char *)src + i * src_stride,
			(size_t)t->stride);
	return NVLLM_OK;
}

/* Order 0: from the first range to the last, workers in turn. Else backwards, with
 * shorter ranges and the workers turned round. */
static void dev_parallel_for(struct nvllm_device *d, int64_t n, int64_t grain,
	void (*fn)(void *, int64_t, int64_t, int32_t), void *arg)
{
	int64_t g, n_ranges;

	if (n <= 0)
		return;
	g = grain < 1 ? 1 : d->order ? (grain + 1) / 2 : grain;
	n_ranges = (n + g - 1) / g;
	for (int64_t i = 0; i < n_ranges; i++) {
		int64_t r = d->order ? n_ranges - 1 - i : i, end = (r + 1) * g;

		fn(arg, r * g, end < n ? end : n,
			(int32_t)((r * (d->order ? 2 : 1) + d->order) % FAKE_WORKERS));
	}
}

static int dev_create(const struct nvllm_host *host, int ordinal, const void *conf,
	struct nvllm_device **out)
{
	(void)ordinal, (void)conf, (void)out;
	return host->fail(host, NVLLM_ENOTSUP, "there is one fake device");
}

const struct nvllm_device_ref *fake_device(void)
{
	static const struct nvllm_kernels kernels = { .size = sizeof(kernels) };
	static const struct nvllm_device_vt vt = {
		.size = sizeof(vt),
		.kernels = &kernels,
		.create = dev_create,
		.destroy = dev_destroy,
		.info = dev_info,
		.alloc = dev_alloc,
		.free = dev_free,
		.copy = dev_copy,
		.sync = dev_sync,
		.stream = dev_stream,
		.store = dev_store,
		.upload = dev_upload,
		.parallel_for = dev_parallel_for,
	};
	static struct nvllm_device dev;
	static struct nvllm_device_info info = { .size = sizeof(info) };
	static const struct nvllm_device_ref ref = {
		.size = sizeof(ref), .vt = &vt, .dev = &dev, .info = &info };

	dev_info(&dev, &info);
	return &ref;
}

void fake_device_order(int order)
{
	fake_device()->dev->order = order;
}
