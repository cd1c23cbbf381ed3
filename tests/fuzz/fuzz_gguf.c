/* SPDX-License-Identifier: MIT */
/* tests/fuzz/fuzz_gguf.c - any bytes as a GGUF file: refused with a sentence, or every
 * array, value and row that the loader shows can be read. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <nvllm/loader.h>
#include <nvllm/plugin.h>

#include "../../plugins/loaders/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct block { struct block *next; };
static struct block *blocks;
static char sentence[1024];
static volatile unsigned sink;

static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...) {}

static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	return status;
}

/* A list beside the memory, so that the sanitizer sees each end. */
static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct block *b = malloc(sizeof(*b) + sizeof(void *));
	void *p = calloc(1, bytes);

	if (!b || !p)
		abort();
	memcpy(b + 1, &p, sizeof(p));
	b->next = blocks;
	blocks = b;
	return p;
}

static void host_clear(void)
{
	while (blocks) {
		struct block *b = blocks;
		void *p;

		memcpy(&p, b + 1, sizeof(p));
		blocks = b->next;
		free(p);
		free(b);
	}
}

static const void *host_get(const struct nvllm_host *h, const char *id) { return NULL; }

static const struct nvllm_host host = { sizeof(host), NVLLM_ABI, 0, 1, host_log, host_fail,
	host_alloc, host_get };

static void touch(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sink += ((const uint8_t *)p)[i];
}

static void read_arrays(const struct nvllm_loader_vt *vt, struct nvllm_loader *l)
{
	for (int64_t i = 0; i < l->n_kvs; i++) {
		char *key = strndup(l->kvs[i].name.s, (size_t)l->kvs[i].name.len);
		struct nvllm_array a;

		if (vt->array(l, key, &a) == 0 && a.type != NVLLM_ARRAY_STR)
			touch(a.data, (size_t)a.n * 4);
		else if (vt->array(l, key, &a) == 0)
			for (int64_t j = 0; j < a.n; j++)
				touch(((const struct nvllm_str *)a.data)[j].s,
					(size_t)((const struct nvllm_str *)a.data)[j].len);
		free(key);
	}
	for (int i = 0; i < l->n_config; i++)
		if (vt->meta(l, l->config[i].key) != l->config[i].text)
			abort();
}

static void read_tensors(const struct nvllm_loader_vt *vt, struct nvllm_loader *l)
{
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const char *name = l->tensors[i].name.s;
		struct nvllm_tensor_info f;
		int64_t bytes;
		uint8_t *data;

		if (vt->find(l, name, &f) || f.rows < 1 || f.row_bytes < 1 || f.planes < 1)
			abort();
		bytes = f.rows * f.row_bytes;
		data = malloc((size_t)bytes);
		for (int32_t p = 0; p < f.planes; p++)
			if (vt->read(l, name, p, 0, f.rows, data))
				abort();
		if (f.rows > 2 && vt->read(l, name, 0, 1, f.rows - 2, data))
			abort();
		touch(data, (size_t)bytes);
		free(data);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct nvllm_loader_vt *vt = nvllm_plugin.components[0]->vt;
	struct nvllm_loader *l = NULL;
	int fd = memfd_create("gguf", 0);
	char path[64];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	sentence[0] = '\0';
	vt->probe(path);
	if (vt->open(&host, path, NULL, &l) == 0) {
		read_arrays(vt, l);
		read_tensors(vt, l);
		vt->close(l);
	} else if (!strstr(sentence, path)) {
		abort(); /* refused without saying what and why */
	}
	close(fd);
	host_clear();
	return 0;
}
