/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf.c - the loader of GGUF files: which files it takes, and how
 * rows reach memory. Tensors are read with pread, so that a file which shrinks gives
 * an error and no signal. All memory is the host's and goes with the instance. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <nvllm/plugin.h>

#include "gguf.h"

int gguf_fail(const struct nvllm_loader *l, int status, const char *fmt, ...)
{
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return l->host->fail(l->host, status, "%s: %s", l->file->path, why);
}

void *gguf_alloc(struct nvllm_loader *l, int64_t n, size_t each)
{
	size_t bytes;
	void *p = NULL;

	if (!__builtin_mul_overflow((size_t)n, each, &bytes))
		p = l->host->alloc(l->host, bytes ? bytes : 1);
	if (!p)
		gguf_fail(l, NVLLM_ENOMEM, "no memory for %" PRId64 " x %zu bytes of its header",
			n, each);
	return p;
}

/* FNV-1a. The hash comes first so that sorting seldom looks at the names themselves. */
struct gguf_entry gguf_entry_of(const struct nvllm_str *name)
{
	struct gguf_entry e = { 0xcbf29ce484222325u, name };

	for (int64_t i = 0; i < name->len; i++)
		e.hash = (e.hash ^ (uint8_t)name->s[i]) * 0x100000001b3u;
	return e;
}

static int by_entry(const void *a, const void *b)
{
	const struct gguf_entry *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	if (x->name->len != y->name->len)
		return x->name->len < y->name->len ? -1 : 1;
	return memcmp(x->name->s, y->name->s, (size_t)x->name->len);
}

const struct nvllm_str *gguf_sort(struct gguf_entry *e, int64_t n)
{
	qsort(e, (size_t)n, sizeof(*e), by_entry);
	for (int64_t i = 1; i < n; i++)
		if (by_entry(&e[i - 1], &e[i]) == 0)
			return e[i].name;
	return NULL;
}

static const void *look_up(const struct gguf_entry *index, int64_t n, const char *name)
{
	struct nvllm_str want = { name, (int64_t)strlen(name) };
	struct gguf_entry key = gguf_entry_of(&want), *hit;

	hit = bsearch(&key, index, (size_t)n, sizeof(key), by_entry);
	return hit ? hit->name : NULL;
}

const struct gguf_kv *gguf_kv(const struct nvllm_loader *l, const char *key)
{
	return look_up(l->file->kv_index, l->file->n_kvs, key);
}

const struct gguf_tensor *gguf_tensor(const struct nvllm_loader *l, const char *name)
{
	return look_up(l->tensor_index, l->n_tensors, name);
}

/* ---- open and close ---- */

static void close_loader(struct nvllm_loader *l)
{
	for (int i = 0; i < l->n_files; i++)
		if (l->files[i].fd >= 0)
			close(l->files[i].fd);
}

static int open_loader(const struct nvllm_host *host, const char *path, const void *conf,
	struct nvllm_loader **out)
{
	struct nvllm_loader *l = host->alloc(host, sizeof(*l));
	int rc;

	(void)conf;
	if (!l)
		return host->fail(host, NVLLM_ENOMEM, "%s: no memory to open it", path);
	l->host = host;
	rc = gguf_open(l, path);
	if (rc == 0)
		rc = gguf_config(l);
	if (rc < 0)
		close_loader(l);
	else
		*out = l;
	return rc;
}

/* A file named .gguf is claimed faintly even if it is none: open() says what is wrong. */
static int probe(const char *path)
{
	size_t len = strlen(path);
	int named = len >= 5 && !strcmp(path + len - 5, ".gguf") ? 30 : 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char magic[4];
	ssize_t got;

	if (fd < 0)
		return named;
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		named = 0;
	got = pread(fd, magic, sizeof(magic), 0);
	close(fd);
	return got == 4 && !memcmp(magic, "GGUF", 4) ? 100 : named;
}

/* ---- what the file says ---- */

static const char *meta(struct nvllm_loader *l, const char *key)
{
	return gguf_value(l, key);
}

static int array(struct nvllm_loader *l, const char *key, struct nvllm_array *out)
{
	const struct gguf_kv *kv = gguf_kv(l, key);

	if (!kv)
		return NVLLM_ENOENT;
	if (kv->wide)
		return gguf_fail(l, NVLLM_ENOTSUP, "key '%s' has a number that does not fit 32 "
			"bits", key);
	out->type = kv->kind == 's' ? NVLLM_ARRAY_STR : kv->kind == 'f' ? NVLLM_F32 : NVLLM_I32;
	out->n = kv->n;
	out->data = kv->data;
	return NVLLM_OK;
}

static int find(struct nvllm_loader *l, const char *name, struct nvllm_tensor_info *out)
{
	const struct gguf_tensor *t = gguf_tensor(l, name);

	if (!t)
		return NVLLM_ENOENT;
	out->dtype = t->info.dtype;
	out->rows = t->info.rows;
	out->cols = t->info.cols;
	out->row_bytes = t->info.row_bytes;
	out->planes = t->info.planes;
	return NVLLM_OK;
}

/* ---- rows ---- */

/* [any]: the file in hand may not change, so the sentence names this one. */
static int read_fail(const struct nvllm_loader *l, const struct gguf_file *f, int64_t at, ssize_t got)
{
	int why = errno;

	if (got < 0)
		return l->host->fail(l->host, NVLLM_EIO, "%s: reading at byte %" PRId64 ": %s", f->path,
			at, strerror(why));
	return l->host->fail(l->host, NVLLM_EIO, "%s: the file has shrunk: it ends at byte %" PRId64
		", it had %" PRId64 " bytes when it was opened; download it again", f->path, at,
		f->size);
}

int gguf_read(const struct nvllm_loader *l, const struct gguf_file *f, void *dst, int64_t n, int64_t at)
{
	while (n > 0) {
		ssize_t got = pread(f->fd, dst, (size_t)n, at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return read_fail(l, f, at, got);
		dst = (char *)dst + got;
		at += got;
		n -= got;
	}
	return NVLLM_OK;
}

/* Rows that follow each other in the file, each with a place of its own in memory. */
struct run {
	const struct gguf_file *file;
	struct iovec to[64];
	int n;
	int64_t at;
};

static int run_read(const struct nvllm_loader *l, struct run *r)
{
	int64_t each = r->n ? (int64_t)r->to[0].iov_len : 0;
	int rc = 0;

	if (r->n && preadv(r->file->fd, r->to, r->n, r->at) != r->n * each) /* why? row by row */
		for (int i = 0; i < r->n && rc == 0; i++)
			rc = gguf_read(l, r->file, r->to[i].iov_base, each, r->at + i * each);
	r->n = 0;
	return rc;
}

/* Rows [row, row + n) of a plane whose heads of hd rows are interleaved: row
 * i * (hd / 2) + j of a head, i in 0..1, is row 2 * j + i of it in the file (the inverse
 * of LlamaModel.permute in llama.cpp's convert_hf_to_gguf.py). Walks in the file's order. */
static int read_heads(const struct nvllm_loader *l, const struct gguf_tensor *t, int64_t bytes,
	int64_t row, int64_t n, char *dst)
{
	int64_t hd = t->head_rows, end = (row + n + hd - 1) / hd * hd;
	struct run r = { .file = t->file };
	int rc = 0;

	for (int64_t f = row / hd * hd; f < end && rc == 0; f++) {
		int64_t k = f % hd, to = f - k + k % 2 * (hd / 2) + k / 2;
		int wanted = to >= row && to < row + n;

		if (!wanted || r.n == (int)(sizeof(r.to) / sizeof(*r.to)))
			rc = run_read(l, &r);
		if (!wanted)
			continue;
		if (r.n == 0)
			r.at = t->at + f * bytes;
		r.to[r.n].iov_base = dst + (to - row) * bytes;
		r.to[r.n++].iov_len = (size_t)bytes;
	}
	return rc < 0 ? rc : run_read(l, &r);
}

static int read_rows(struct nvllm_loader *l, const char *name, int32_t plane, int64_t row,
	int64_t n, void *dst)
{
	const struct gguf_tensor *t = gguf_tensor(l, name);
	const struct nvllm_tensor_info *f = t ? &t->info : NULL;
	int64_t at;

	if (!t)
		return gguf_fail(l, NVLLM_ENOENT, "it has no tensor '%s'", name);
	if (plane < 0 || plane >= f->planes || row < 0 || n < 0 || n > f->rows || row > f->rows - n)
		return gguf_fail(l, NVLLM_EINVAL, "tensor '%s' has %" PRId64 " rows and %d "
			"planes: no %" PRId64 " rows from row %" PRId64 " of plane %d", name,
			f->rows, f->planes, n, row, plane);
	at = t->at + plane * f->rows * f->row_bytes;
	if (!t->head_rows || n == 0)
		return gguf_read(l, t->file, dst, n * f->row_bytes, at + row * f->row_bytes);
	if (f->rows == 1) /* a bias: its elements stand for the rows */
		return read_heads(l, t, f->row_bytes / f->cols, 0, f->cols, dst);
	return read_heads(l, t, f->row_bytes, row, n, dst);
}

static const struct nvllm_loader_vt vt = {
	.size = sizeof(vt),
	.probe = probe,
	.open = open_loader,
	.meta = meta,
	.array = array,
	.find = find,
	.read = read_rows,
	.close = close_loader,
};

static const struct nvllm_component gguf = {
	.size = sizeof(gguf),
	.kind = NVLLM_KIND_LOADER,
	.name = "gguf",
	.summary = "GGUF files, versions 2 and 3",
	.vt = &vt,
};

static const struct nvllm_component *const components[] = { &gguf, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "gguf",
	.version = "0.1.0",
	.components = components,
};
