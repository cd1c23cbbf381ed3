/* SPDX-License-Identifier: MIT */
/* tests/fuzz/fuzz_safetensors.c - any bytes as a checkpoint folder: refused with a sentence,
 * or every value and every row that the loader shows can be read. The input is three
 * files, each after its length in 4 bytes, little-endian: config.json,
 * model.safetensors.index.json (length 0: none, then the third is model.safetensors and
 * not a.safetensors), and the weights, which take the rest. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <nvllm/loader.h>
#include <nvllm/plugin.h>

#include "../../plugins/loaders/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

struct block { struct block *next; };
static struct block *blocks;
static char sentence[1024];
static volatile unsigned sink;

/* Folders of links to files in memory: whole with the one file, parted with index and shard. */
static char whole[64], parted[64];
static int config_fd, index_fd, weights_fd;

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

/* ---- the folders ---- */

static void link_to(const char *folder, const char *name, int fd)
{
	char path[128], to[64];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(to, sizeof(to), "/proc/self/fd/%d", fd);
	if (symlink(to, path))
		abort();
}

static void remove_all(void)
{
	static const char *const names[] = { "config.json", "model.safetensors", "a.safetensors",
		"model.safetensors.index.json" };
	char path[128];

	for (size_t i = 0; i < 8; i++) {
		snprintf(path, sizeof(path), "%s/%s", i < 4 ? whole : parted, names[i % 4]);
		unlink(path);
	}
	rmdir(whole);
	rmdir(parted);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	snprintf(whole, sizeof(whole), "/tmp/nvllm-fuzz-XXXXXX");
	snprintf(parted, sizeof(parted), "/tmp/nvllm-fuzz-XXXXXX");
	config_fd = memfd_create("config", 0);
	index_fd = memfd_create("index", 0);
	weights_fd = memfd_create("weights", 0);
	if (!mkdtemp(whole) || !mkdtemp(parted) || config_fd < 0 || index_fd < 0 || weights_fd < 0)
		abort();
	atexit(remove_all);
	link_to(whole, "config.json", config_fd);
	link_to(whole, "model.safetensors", weights_fd);
	link_to(parted, "config.json", config_fd);
	link_to(parted, "a.safetensors", weights_fd);
	link_to(parted, "model.safetensors.index.json", index_fd);
	return 0;
}

static void fill(int fd, const uint8_t *data, size_t n)
{
	if (ftruncate(fd, 0) || pwrite(fd, data, n, 0) != (ssize_t)n)
		abort();
}

/* Takes a file off the input. Returns its bytes. */
static size_t take(const uint8_t **data, size_t *size, int fd)
{
	size_t n = 0;

	if (*size >= 4) {
		n = (size_t)(*data)[0] | (size_t)(*data)[1] << 8 | (size_t)(*data)[2] << 16;
		*data += 4;
		*size -= 4;
	}
	n = n < *size ? n : *size;
	fill(fd, *data, n);
	*data += n;
	*size -= n;
	return n;
}

/* ---- what must hold of what was taken ---- */

static void touch(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sink += ((const uint8_t *)p)[i];
}

static void read_config(const struct nvllm_loader_vt *vt, struct nvllm_loader *l)
{
	if (!vt->meta(l, "name"))
		abort();
	for (int64_t i = 0; i < l->n_config; i++) {
		const struct st_pair *p = &l->config[i];

		if (vt->meta(l, p->key) != p->text || (i && strcmp(p[-1].key, p->key) >= 0))
			abort();
		for (const char *s = p->text; *s; s++)
			if ((unsigned char)*s < 0x20 || *s == 0x7f)
				abort();
	}
}

static void read_tensor(const struct nvllm_loader_vt *vt, struct nvllm_loader *l, const char *name)
{
	struct nvllm_tensor_info f;
	uint8_t *data;

	if (vt->find(l, name, &f))
		return;
	if (f.rows < 1 || f.cols < 1 || f.planes < 1 || f.row_bytes != nvllm_row_bytes(f.dtype, f.cols))
		abort();
	data = malloc((size_t)(f.rows * f.row_bytes));
	for (int32_t p = 0; p < f.planes && p < 16; p++)
		if (vt->read(l, name, p, 0, f.rows, data))
			abort();
	if (vt->read(l, name, f.planes - 1, f.rows - 1, 1, data) || vt->read(l, name, 0, 1, f.rows, data) == 0)
		abort();
	touch(data, (size_t)(f.rows * f.row_bytes));
	free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct nvllm_loader_vt *vt = nvllm_plugin.components[0]->vt;
	struct nvllm_loader *l = NULL;
	const char *path;

	take(&data, &size, config_fd);
	path = take(&data, &size, index_fd) ? parted : whole;
	fill(weights_fd, data, size);
	sentence[0] = '\0';
	if (vt->probe(path) != 90)
		abort();
	if (vt->open(&host, path, NULL, &l) == 0) {
		read_config(vt, l);
		for (int64_t i = 0; i < l->n_tensors; i++)
			read_tensor(vt, l, l->index[i].t->name);
		read_tensor(vt, l, "l.experts.*.gate_proj.weight");
		read_tensor(vt, l, "l.experts.*.up_proj.weight");
		read_tensor(vt, l, "l.experts.*.down_proj.weight");
		vt->close(l);
	} else if (!strstr(sentence, path)) {
		abort(); /* refused without saying what and why */
	}
	host_clear();
	return 0;
}
