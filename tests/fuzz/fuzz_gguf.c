/* SPDX-License-Identifier: MIT */
/* tests/fuzz/fuzz_gguf.c - any bytes as a GGUF file: refused with a sentence, or every
 * array, value and row that the loader shows can be read. Bytes that begin with "PARTS",
 * a digit n from 2 to 4 and n - 1 lengths (u16) are a model in n parts. */
#include <fcntl.h>
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
	for (int64_t i = 0; i < l->file->n_kvs; i++) {
		const struct gguf_kv *kv = &l->file->kvs[i];
		char *key = strndup(kv->name.s, (size_t)kv->name.len);
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
		const char *name = l->tensor_index[i].name->s;
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

static void try_path(const char *path, const char *named)
{
	const struct nvllm_loader_vt *vt = nvllm_plugin.components[0]->vt;
	struct nvllm_loader *l = NULL;

	sentence[0] = '\0';
	vt->probe(path);
	if (vt->open(&host, path, NULL, &l) == 0) {
		read_arrays(vt, l);
		read_tensors(vt, l);
		vt->close(l);
	} else if (!strstr(sentence, named)) {
		abort(); /* refused without saying what and why */
	}
	host_clear();
}

static void try_file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("gguf", 0);
	char path[64];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	try_path(path, path);
	close(fd);
}

static void part_path(char *to, size_t room, const char *dir, int no, int n)
{
	snprintf(to, room, "%s/m-%05d-of-%05d.gguf", dir, no + 1, n);
}

/* Each part is what its length says, or what is left. */
static void try_parts(const uint8_t *data, size_t size, int n)
{
	size_t at = 6 + 2 * (size_t)(n - 1);
	char dir[] = "/tmp/fuzz_gguf-XXXXXX", path[128];

	if (size < at || !mkdtemp(dir))
		return;
	for (int i = 0; i < n; i++) {
		size_t len = size - at, say = i < n - 1 ? data[6 + 2 * i] + 256u * data[7 + 2 * i] : len;
		int fd;

		len = say < len ? say : len;
		part_path(path, sizeof(path), dir, i, n);
		fd = open(path, O_WRONLY | O_CREAT, 0600);
		if (fd < 0 || write(fd, data + at, len) != (ssize_t)len)
			abort();
		close(fd);
		at += len;
	}
	part_path(path, sizeof(path), dir, data[size - 1] % n, n);
	try_path(path, dir);
	for (int i = 0; i < n; i++) {
		part_path(path, sizeof(path), dir, i, n);
		unlink(path);
	}
	rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 6 && !memcmp(data, "PARTS", 5) && data[5] >= '2' && data[5] <= '4')
		try_parts(data, size, data[5] - '0');
	else
		try_file(data, size);
	return 0;
}
