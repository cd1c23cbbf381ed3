/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_split.c - which files make up the model: one, or the parts that
 * llama.cpp's gguf-split made of it, NAME-00001-of-00003.gguf and its like in one folder.
 * The first has the metadata; each has tensors, counted from its own first data byte. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf.h"

#define FILES_MAX 1024 /* each keeps a descriptor; the largest models known have below 100 */
#define SUFFIX_LEN 20  /* bytes of "-00001-of-00003.gguf" */

static void suffix_put(char *to, int no, int count)
{
	snprintf(to, SUFFIX_LEN + 1, "-%05u-of-%05u.gguf", (unsigned)no % 100000u, (unsigned)count % 100000u);
}

/* 1 if path ends as a part's name does; the numbers as in the name, from 1. */
static int suffix_of(const char *path, int *no, int *count)
{
	size_t len = strlen(path);
	const char *s = path + len - SUFFIX_LEN;
	int v[2] = { 0, 0 };

	if (len <= SUFFIX_LEN || s[0] != '-' || strncmp(s + 6, "-of-", 4) || strcmp(s + 15, ".gguf"))
		return 0;
	for (int i = 0; i < 10; i++) {
		char c = s[i < 5 ? 1 + i : 5 + i];

		if (c < '0' || c > '9')
			return 0;
		v[i / 5] = v[i / 5] * 10 + c - '0';
	}
	*no = v[0];
	*count = v[1];
	return 1;
}

/* ---- one file ---- */

static int file_failed(struct nvllm_loader *l, int no, int count)
{
	if (errno == ENOENT && no)
		return gguf_fail(l, NVLLM_ENOENT, "no such file: it is part %d of %d of the model, "
			"download it to the folder of the others", no + 1, count);
	if (errno == ENOENT)
		return gguf_fail(l, NVLLM_ENOENT, "no such file; [model] path names a .gguf file or a "
			"checkpoint folder");
	return gguf_fail(l, NVLLM_EIO, "cannot be opened: %s", strerror(errno));
}

/* Takes file `no` in hand and parses its metadata. */
static int file_open(struct nvllm_loader *l, const char *path, int no, int count)
{
	struct gguf_file *f = l->file = &l->files[no];
	struct stat st;

	f->path = path;
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	l->n_files = no + 1;
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return file_failed(l, no, count);
	if (!S_ISREG(st.st_mode))
		return gguf_fail(l, NVLLM_EINVAL, "%s, not a file: [model] path must name the "
			".gguf file itself", S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
	f->size = st.st_size;
	return gguf_kvs(l);
}

/* A whole number of the file in hand, 0 where it has no such key. */
static int number(struct nvllm_loader *l, const char *key, int64_t *out)
{
	const struct gguf_kv *kv = gguf_kv(l, key);

	*out = 0;
	if (!kv)
		return NVLLM_OK;
	l->from = kv->from;
	if (kv->is_array || (kv->kind != 'u' && kv->kind != 'i') || kv->bits > INT32_MAX)
		return gguf_damaged(l, "key '%s' is not a count", key);
	*out = (int64_t)kv->bits;
	return NVLLM_OK;
}

/* ---- the parts ---- */

/* path with the numbers of another part of the same model. */
static char *sibling(struct nvllm_loader *l, const char *path, int no, int count)
{
	size_t len = strlen(path);
	char *s = gguf_alloc(l, (int64_t)len + 1, 1);

	if (!s)
		return NULL;
	memcpy(s, path, len + 1);
	suffix_put(s + len - SUFFIX_LEN, no + 1, count);
	return s;
}

/* That the first file, now in hand, is the first and named as such. */
static int check_first(struct nvllm_loader *l, int64_t count)
{
	char want[SUFFIX_LEN + 1];
	int64_t no;
	int name_no, name_count;

	if (number(l, "split.no", &no) < 0)
		return NVLLM_EINVAL;
	if (count > FILES_MAX)
		return gguf_damaged(l, "key 'split.count' is %" PRId64 ", up to %d parts are read",
			count, FILES_MAX);
	if (no >= count)
		return gguf_damaged(l, "key 'split.no' is %" PRId64 " of %" PRId64 " parts", no, count);
	suffix_put(want, 1, (int)count);
	if (no > 0)
		return gguf_fail(l, NVLLM_EINVAL, "it is part %" PRId64 " of %" PRId64 " of a split model: "
			"[model] path must name the first, NAME%s", no + 1, count, want);
	if (!suffix_of(l->file->path, &name_no, &name_count) || name_no != 1 || name_count != count)
		return gguf_fail(l, NVLLM_EINVAL, "it is the first of the %" PRId64 " parts of a split "
			"model, but is not named like one: rename it to NAME%s, beside the others",
			count, want);
	return NVLLM_OK;
}

static int check_part(struct nvllm_loader *l, int no, int count)
{
	int64_t its_no, its_count;

	if (number(l, "split.no", &its_no) < 0 || number(l, "split.count", &its_count) < 0)
		return NVLLM_EINVAL;
	if (its_no == no && its_count == count)
		return NVLLM_OK;
	return gguf_fail(l, NVLLM_EINVAL, "it should be part %d of %d of the model, and says (keys "
		"split.no and split.count) that it is part %" PRId64 " of %" PRId64 ": download the "
		"parts again", no + 1, count, its_no + 1, its_count);
}

static int open_parts(struct nvllm_loader *l, int count)
{
	struct gguf_file *files = gguf_alloc(l, count, sizeof(*files));
	const char *first = l->file->path;
	int rc = 0;

	if (!files)
		return NVLLM_ENOMEM;
	files[0] = *l->file;
	for (int i = 1; i < count; i++)
		files[i].fd = -1;
	l->files = l->file = files;
	rc = gguf_tensors(l);
	for (int i = 1; i < count && rc == 0; i++) {
		const char *path = sibling(l, first, i, count);

		rc = path ? file_open(l, path, i, count) : NVLLM_ENOMEM;
		if (rc == 0)
			rc = check_part(l, i, count);
		if (rc == 0)
			rc = gguf_tensors(l);
	}
	return rc;
}

/* ---- all of them ---- */

static int join(struct nvllm_loader *l, int64_t wanted)
{
	const struct gguf_tensor *t;
	const void *twice;
	int64_t n = 0;

	for (int i = 0; i < l->n_files; i++)
		l->n_tensors += l->files[i].n_tensors;
	l->tensor_index = gguf_alloc(l, l->n_tensors, sizeof(*l->tensor_index));
	if (!l->tensor_index)
		return NVLLM_ENOMEM;
	for (int i = 0; i < l->n_files; i++)
		for (int64_t k = 0; k < l->files[i].n_tensors; k++)
			l->tensor_index[n++] = gguf_entry_of(&l->files[i].tensors[k].name);
	t = twice = gguf_sort(l->tensor_index, n);
	if (t) {
		l->from = t->from;
		for (int i = 0; i < l->n_files; i++)
			if (t->file == &l->files[i])
				l->file = &l->files[i];
		return gguf_damaged(l, "tensor '%.*s' occurs twice%s", NAME(t->raw),
			l->n_files > 1 ? " in the model's parts" : "");
	}
	l->file = &l->files[0];
	if (l->n_files > 1 && wanted && wanted != n)
		return gguf_fail(l, NVLLM_EINVAL, "key 'split.tensors.count' says %" PRId64 " tensors, the "
			"%d parts have %" PRId64 ": download them again", wanted, l->n_files, n);
	return NVLLM_OK;
}

/* The file that path names or, where that is a later part by its name, the first part. */
static int open_first(struct nvllm_loader *l, const char *path, int64_t *count)
{
	int no = 1, of = 0, named = suffix_of(path, &no, &of), rc;
	size_t len = strlen(path);
	char *copy = gguf_alloc(l, (int64_t)len + 1, 1);

	if (!copy)
		return NVLLM_ENOMEM;
	memcpy(copy, path, len + 1);
	if (named && no > 1 && no <= of && access(path, F_OK) == 0)
		suffix_put(copy + len - SUFFIX_LEN, 1, of);
	else
		no = 1;
	rc = file_open(l, copy, 0, of);
	if (rc == NVLLM_ENOENT && no > 1)
		return gguf_fail(l, rc, "no such file: it is part 1 of %d of the model, download it to the "
			"folder of the others", of);
	if (rc < 0 || number(l, "split.count", count) < 0)
		return rc < 0 ? rc : NVLLM_EINVAL;
	if (no > 1 && *count != of)
		return gguf_fail(l, NVLLM_EINVAL, "by its name it is the first of %d parts, and it has no "
			"key 'split.count' of %d: download the parts again", of, of);
	return NVLLM_OK;
}

int gguf_open(struct nvllm_loader *l, const char *path)
{
	static const struct gguf_file none = { .path = NULL, .fd = -1 };
	struct gguf_file fallback = { .path = path };
	int64_t count = 0, tensors = 0;
	int rc;

	l->file = &fallback; /* for a message before there is a file */
	l->files = gguf_alloc(l, 1, sizeof(*l->files));
	if (!l->files)
		return NVLLM_ENOMEM;
	l->files[0] = none;
	rc = open_first(l, path, &count);
	if (rc == 0 && count > 1)
		rc = check_first(l, count);
	if (rc == 0)
		rc = number(l, "split.tensors.count", &tensors);
	if (rc == 0)
		rc = gguf_arch(l);
	if (rc == 0)
		rc = count > 1 ? open_parts(l, (int)count) : gguf_tensors(l);
	return rc ? rc : join(l, tensors);
}
