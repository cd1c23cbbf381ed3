/* SPDX-License-Identifier: MIT */
/* plugins/loaders/safetensors.c - the loader of Hugging Face checkpoints: how tensors are
 * found and how rows reach memory. Rows are read with pread, not mapped: a file that
 * shrinks gives an error and no signal, and where in the file a tensor begins does not
 * matter (the reference implementation writes aligned tensors and reads any). All
 * memory that stays is the host's and goes with the instance. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nvllm/plugin.h>
#include <utf8.h>

#include "safetensors.h"

#define NAME_ROOM 512 /* bytes of a tensor's name with '*' in it */

void st_printable(char *text)
{
	size_t left = strlen(text), n;
	uint32_t c;

	for (; left > 0; text += n, left -= n) {
		n = utf8_decode(text, left, &c);
		if (n && c >= 0x20 && (c < 0x7f || c > 0x9f))
			continue;
		n = n ? n : 1;
		memset(text, '?', n);
	}
}

int st_fail(const struct nvllm_loader *l, int status, const char *path, const char *fmt, ...)
{
	char why[512], all[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	snprintf(all, sizeof(all), "%s: %s", path, why);
	st_printable(all);
	return l->host->fail(l->host, status, "%s", all);
}

void *st_alloc(const struct nvllm_loader *l, int64_t n, size_t each)
{
	size_t bytes;
	void *p = NULL;

	if (!__builtin_mul_overflow((size_t)n, each, &bytes))
		p = l->host->alloc(l->host, bytes ? bytes : 1);
	if (!p)
		st_fail(l, NVLLM_ENOMEM, l->path, "no memory for %" PRId64 " x %zu bytes of its "
			"header", n, each);
	return p;
}

char *st_join(const struct nvllm_loader *l, const char *folder, const char *name)
{
	size_t len = strlen(folder) + strlen(name) + 2;
	char *path = st_alloc(l, (int64_t)len, 1);

	if (path)
		snprintf(path, len, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/",
			name);
	return path;
}

/* ---- files ---- */

int st_open(const struct nvllm_loader *l, const char *path, const char *hint, int64_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = NVLLM_OK;
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return st_fail(l, NVLLM_ENOENT, path, "no such file%s", hint);
	if (fd < 0 || fstat(fd, &st) < 0)
		rc = st_fail(l, NVLLM_EIO, path, "cannot be opened: %s", strerror(errno));
	else if (!S_ISREG(st.st_mode))
		rc = st_fail(l, NVLLM_EINVAL, path, "a %s, not a file",
			S_ISDIR(st.st_mode) ? "folder" : "device or pipe");
	if (rc < 0 && fd >= 0)
		close(fd);
	if (rc < 0)
		return rc;
	*size = st.st_size;
	return fd;
}

int st_read(const struct nvllm_loader *l, const struct st_file *f, void *dst, int64_t n, int64_t at)
{
	while (n > 0) {
		ssize_t got = pread(f->fd, dst, (size_t)n, at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return st_fail(l, NVLLM_EIO, f->path, "reading at byte %" PRId64 ": %s", at,
				strerror(errno));
		if (got == 0)
			return st_fail(l, NVLLM_EIO, f->path, "the file has shrunk: it ends at "
				"byte %" PRId64 ", it had %" PRId64 " bytes when it was opened; "
				"download it again", at, f->size);
		dst = (char *)dst + got;
		at += got;
		n -= got;
	}
	return NVLLM_OK;
}

/* ---- tensors by name ---- */

/* FNV-1a */
static uint64_t hash_of(const char *name)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	return h;
}

static int by_entry(const void *a, const void *b)
{
	const struct st_entry *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return strcmp(x->t->name, y->t->name);
}

int st_index(struct nvllm_loader *l)
{
	struct st_entry *e;
	int64_t n = 0;

	for (int32_t f = 0; f < l->n_files; f++)
		l->n_tensors += l->files[f].n;
	l->index = e = st_alloc(l, l->n_tensors, sizeof(*e));
	if (!e)
		return NVLLM_ENOMEM;
	for (int32_t f = 0; f < l->n_files; f++)
		for (int64_t i = 0; i < l->files[f].n; i++, n++)
			e[n] = (struct st_entry){ hash_of(l->files[f].tensors[i].name),
				&l->files[f].tensors[i] };
	qsort(e, (size_t)n, sizeof(*e), by_entry);
	for (int64_t i = 1; i < n; i++)
		if (by_entry(&e[i - 1], &e[i]) == 0)
			return st_fail(l, NVLLM_EINVAL, l->files[e[i].t->file].path,
				"tensor '%.80s' is in %s too: two checkpoints are mixed, download "
				"one again", e[i].t->name, l->files[e[i - 1].t->file].name);
	return NVLLM_OK;
}

const struct st_tensor *st_tensor(const struct nvllm_loader *l, const char *name)
{
	const struct st_tensor want = { .name = name };
	const struct st_entry key = { hash_of(name), &want }, *hit;

	hit = bsearch(&key, l->index, (size_t)l->n_tensors, sizeof(key), by_entry);
	return hit ? hit->t : NULL;
}

/* Rows [first, first + rows) of each plane of a tensor. */
struct part {
	const struct st_tensor *t;
	int64_t first, rows;
};

/* Where transformers 5 keeps the experts of a layer in one tensor: gate_up_proj is
 * [experts][2 * width][dim], gate's rows before up's, down_proj [experts][dim][width]
 * (Qwen3MoeExperts in modeling_qwen3_moe.py; other architectures have other orders). */
static const struct { const char *one, *all; int share, of; } joined[] = {
	{ ".experts.*.gate_proj.weight", ".experts.gate_up_proj", 0, 2 },
	{ ".experts.*.up_proj.weight", ".experts.gate_up_proj", 1, 2 },
	{ ".experts.*.down_proj.weight", ".experts.down_proj", 0, 1 },
};

static int locate_joined(const struct nvllm_loader *l, const char *name, struct part *p)
{
	char all[NAME_ROOM];

	for (size_t i = 0; i < sizeof(joined) / sizeof(*joined); i++) {
		size_t len = strlen(name) - strlen(joined[i].one);

		if (!st_ends_with(name, joined[i].one) || len > sizeof(all) / 2)
			continue;
		snprintf(all, sizeof(all), "%.*s%s", (int)len, name, joined[i].all);
		p->t = st_tensor(l, all);
		if (!p->t || p->t->rows % joined[i].of)
			return NVLLM_ENOENT;
		p->rows = p->t->rows / joined[i].of;
		p->first = p->rows * joined[i].share;
		return NVLLM_OK;
	}
	return NVLLM_ENOENT;
}

/* 0, or NVLLM_ENOENT without a sentence. */
static int locate(const struct nvllm_loader *l, const char *name, struct part *p)
{
	*p = (struct part){ .t = st_tensor(l, name) };
	if (p->t)
		p->rows = p->t->rows;
	else if (!l->joined || !strchr(name, '*') || locate_joined(l, name, p) < 0)
		return NVLLM_ENOENT;
	return p->t->dtype >= 0 && p->rows > 0 ? NVLLM_OK : NVLLM_ENOENT;
}

int st_find(struct nvllm_loader *l, const char *name, struct nvllm_tensor_info *out)
{
	struct part p;

	if (locate(l, name, &p) < 0)
		return NVLLM_ENOENT;
	out->dtype = p.t->dtype;
	out->rows = p.rows;
	out->cols = p.t->cols;
	out->row_bytes = nvllm_row_bytes(p.t->dtype, p.t->cols);
	out->planes = p.t->planes;
	return NVLLM_OK;
}

static int read_rows(struct nvllm_loader *l, const char *name, int32_t plane, int64_t row,
	int64_t n, void *dst)
{
	const struct st_file *f;
	int64_t bytes, at;
	struct part p;

	if (locate(l, name, &p) < 0)
		return st_fail(l, NVLLM_ENOENT, l->path, "it has no tensor '%.80s' of a type and "
			"shape that can be read", name);
	f = &l->files[p.t->file];
	if (plane < 0 || plane >= p.t->planes || row < 0 || n < 0 || n > p.rows || row > p.rows - n)
		return st_fail(l, NVLLM_EINVAL, f->path, "tensor '%.80s' has %" PRId64 " rows and "
			"%d planes: no %" PRId64 " rows from row %" PRId64 " of plane %d", name,
			p.rows, p.t->planes, n, row, plane);
	bytes = nvllm_row_bytes(p.t->dtype, p.t->cols);
	at = f->data + p.t->begin + (plane * p.t->rows + p.first + row) * bytes;
	return st_read(l, f, dst, n * bytes, at);
}

/* ---- open and close ---- */

void st_close(struct nvllm_loader *l)
{
	for (int32_t i = 0; i < l->n_files; i++)
		if (l->files[i].fd >= 0)
			close(l->files[i].fd);
}

int st_open_checkpoint(const struct nvllm_host *host, const char *path, struct nvllm_loader **out)
{
	struct nvllm_loader *l = host->alloc(host, sizeof(*l));
	size_t len = strlen(path);
	char *copy = host->alloc(host, len + 2);
	const char *arch;
	int rc;

	if (!l || !copy)
		return host->fail(host, NVLLM_ENOMEM, "%s: no memory to open it", path);
	memcpy(copy, path, len);
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	l->host = host;
	l->path = copy;
	rc = st_place(l);
	if (rc == 0)
		rc = st_config(l);
	if (rc == 0)
		rc = st_weights(l);
	if (rc < 0) {
		st_close(l);
		return rc;
	}
	arch = st_meta(l, "architectures");
	l->joined = arch && !strcmp(arch, "Qwen3MoeForCausalLM");
	*out = l;
	return NVLLM_OK;
}

static int open_loader(const struct nvllm_host *host, const char *path, const void *conf,
	struct nvllm_loader **out)
{
	(void)conf;
	return st_open_checkpoint(host, path, out);
}

static const char *meta(struct nvllm_loader *l, const char *key)
{
	return st_meta(l, key);
}

/* Tokenizer and chat plugins read their own files of the folder. */
int st_array(struct nvllm_loader *l, const char *key, struct nvllm_array *out)
{
	(void)l, (void)key, (void)out;
	return NVLLM_ENOENT;
}

static const struct nvllm_loader_vt vt = {
	.size = sizeof(vt),
	.probe = st_probe,
	.open = open_loader,
	.meta = meta,
	.array = st_array,
	.find = st_find,
	.read = read_rows,
	.close = st_close,
};

static const struct nvllm_component safetensors = {
	.size = sizeof(safetensors),
	.kind = NVLLM_KIND_LOADER,
	.name = "safetensors",
	.summary = "Hugging Face checkpoint folders, and single .safetensors files",
	.vt = &vt,
};

static const struct nvllm_component *const components[] = { &safetensors, &st_dummy, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "safetensors",
	.version = "0.1.0",
	.components = components,
};
