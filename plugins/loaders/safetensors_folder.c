/* SPDX-License-Identifier: MIT */
/* plugins/loaders/safetensors_folder.c - which files make a checkpoint. Of a folder:
 * model.safetensors, else the shards that model.safetensors.index.json names, else the
 * one *.safetensors there is; what cannot be read is named, with what to do. Links are
 * followed (the hub's cache is made of them), but a shard's name may not lead away. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "safetensors.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define SUFFIX ".safetensors"
#define SHARDS_MAX 1000         /* files that stay open; the largest known has 163 */
#define HEADER_MAX 100000000ull
#define INDEX_BYTES (256u << 20)
#define INDEX_VALUES (4u << 20)

/* ---- what a folder holds ---- */

struct contents {
	int n_safetensors;         /* that may be a model */
	char single[256];          /* one of them */
	int has_single, has_index, has_config;
	size_t other;              /* what it holds instead: row of `others` */
	char example[256];         /* such a file */
};

/* Weights that are not for us, by how a file's name begins and ends. */
static const struct { const char *begin, *end, *what; } others[] = {
	{ "adapter_model", "", "a LoRA adapter and no whole model: merge it into its base model, "
		"as peft's merge_and_unload() does, and save that" },
	{ "consolidated", SUFFIX, "weights under Mistral's own names: take the files " SINGLE " or "
		"model-*" SUFFIX " of the same place, or convert them with transformers' "
		"convert_mistral_weights_to_hf.py" },
	{ "pytorch_model", ".bin", "PyTorch's pickle, which is not read: convert it, as "
		"transformers' from_pretrained(DIR).save_pretrained(OUT) does, or take a "
		"checkpoint in safetensors" },
	{ "consolidated", ".pth", "Meta's own layout, which is not read: convert it with "
		"transformers' convert_llama_weights_to_hf.py" },
	{ "", ".gguf", "a GGUF file: let [model] path name the file itself" },
};
#define N_OTHERS (sizeof(others) / sizeof(*others))

int st_ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && !strcmp(s + n - k, end);
}

static void note(struct contents *c, const char *name)
{
	c->has_single |= !strcmp(name, SINGLE);
	c->has_index |= !strcmp(name, INDEX);
	c->has_config |= !strcmp(name, "config.json");
	for (size_t i = 0; i < N_OTHERS; i++) {
		if (strncmp(name, others[i].begin, strlen(others[i].begin)) ||
		    !st_ends_with(name, others[i].end))
			continue;
		if (i < c->other) {
			c->other = i;
			snprintf(c->example, sizeof(c->example), "%s", name);
		}
		return;
	}
	if (st_ends_with(name, SUFFIX)) {
		c->n_safetensors++;
		snprintf(c->single, sizeof(c->single), "%s", name);
	}
}

/* 0, or -1 and errno. */
static int look(const char *folder, struct contents *c)
{
	DIR *d = opendir(folder);
	struct dirent *e;

	*c = (struct contents){ .other = N_OTHERS };
	if (!d)
		return -1;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			note(c, e->d_name);
	closedir(d);
	return 0;
}

/* ---- probe ---- */

static int probe_file(const char *path)
{
	int named = st_ends_with(path, SUFFIX) ? 30 : 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint64_t n = 0;
	uint8_t b[9];
	struct stat st;
	ssize_t got;

	if (fd < 0)
		return named;
	got = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? pread(fd, b, sizeof(b), 0) : 0;
	close(fd);
	if (got != sizeof(b) || b[8] != '{')
		return named;
	for (int i = 7; i >= 0; i--)
		n = n << 8 | b[i];
	return n > HEADER_MAX || n > (uint64_t)st.st_size - 8 ? named : 90;
}

int st_probe(const char *path)
{
	struct contents c;

	if (look(path, &c) < 0)
		return probe_file(path);
	if (c.has_single || c.has_index || c.n_safetensors)
		return 90;
	return c.has_config || c.other < N_OTHERS ? 20 : 0; /* open() says what is missing */
}

/* ---- where ---- */

static int refuse(const struct nvllm_loader *l, const struct contents *c)
{
	if (c->n_safetensors > 1)
		return st_fail(l, NVLLM_EINVAL, l->path, "it holds %d " SUFFIX " files, of which "
			"none is " SINGLE ", and no " INDEX ": download the index too, or let "
			"[model] path name one file", c->n_safetensors);
	if (c->other < N_OTHERS)
		return st_fail(l, NVLLM_ENOTSUP, l->path, "it holds %s, %s", c->example,
			others[c->other].what);
	return st_fail(l, NVLLM_EINVAL, l->path, "it holds no weights: " SINGLE ", or " INDEX " "
		"and the shards that it names, are missing; the download is incomplete");
}

static int place_folder(struct nvllm_loader *l)
{
	struct contents c;

	l->folder = l->path;
	if (look(l->path, &c) < 0)
		return st_fail(l, NVLLM_EIO, l->path, "the folder cannot be read: %s",
			strerror(errno));
	return c.has_single || c.has_index || c.n_safetensors == 1 ? NVLLM_OK : refuse(l, &c);
}

int st_place(struct nvllm_loader *l)
{
	const char *slash = strrchr(l->path, '/');
	struct stat st;
	char *folder;

	if (stat(l->path, &st) < 0)
		return st_fail(l, errno == ENOENT ? NVLLM_ENOENT : NVLLM_EIO, l->path, "%s; "
			"[model] path names a checkpoint folder or a " SUFFIX " file",
			strerror(errno));
	if (S_ISDIR(st.st_mode))
		return place_folder(l);
	if (!S_ISREG(st.st_mode))
		return st_fail(l, NVLLM_EINVAL, l->path, "a device or pipe, not a file");
	folder = st_join(l, slash ? l->path : ".", "");
	if (!folder)
		return NVLLM_ENOMEM;
	if (slash)
		folder[slash == l->path ? 1 : slash - l->path] = '\0';
	l->folder = folder;
	return NVLLM_OK;
}

/* ---- the files ---- */

static int set_files(struct nvllm_loader *l, int32_t n)
{
	l->files = st_alloc(l, n, sizeof(*l->files));
	if (!l->files)
		return NVLLM_ENOMEM;
	l->n_files = n;
	for (int32_t i = 0; i < n; i++)
		l->files[i].fd = -1;
	return NVLLM_OK;
}

static int one_file(struct nvllm_loader *l, const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;
	int rc = path ? set_files(l, 1) : NVLLM_ENOMEM;

	if (rc < 0)
		return rc;
	l->files[0].path = path;
	l->files[0].name = slash ? slash + 1 : path;
	rc = st_header(l, 0, "");
	return rc < 0 ? rc : st_index(l);
}

/* ---- shards ---- */

static int bad_index(const struct nvllm_loader *l, const char *path, const char *tensor,
	const char *why)
{
	return st_fail(l, NVLLM_EINVAL, path, "weight_map: '%.80s': %s", tensor, why);
}

static int check_map(const struct nvllm_loader *l, const char *path, const cJSON *map, int64_t *n)
{
	*n = 0;
	if (!cJSON_IsObject(map) || !map->child)
		return st_fail(l, NVLLM_EINVAL, path, "it has no weight_map that says which file "
			"holds each tensor: download it again");
	for (const cJSON *v = map->child; v; v = v->next, ++*n) {
		const char *s = v->valuestring;

		if (!cJSON_IsString(v))
			return bad_index(l, path, v->string, "is not the name of a file");
		if (strchr(s, '/') || s[0] == '.' || strlen(s) > 255 || !st_ends_with(s, SUFFIX))
			return bad_index(l, path, v->string, "its file is no plain name that ends "
				"in " SUFFIX);
	}
	return NVLLM_OK;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of the files, each once and in order: l->files. */
static int list_shards(struct nvllm_loader *l, const char *path, const cJSON *map, int64_t n)
{
	const char **names = malloc((size_t)n * sizeof(*names));
	int64_t i = 0, kept = 0;
	int rc = NVLLM_OK;

	if (!names)
		return st_fail(l, NVLLM_ENOMEM, path, "no memory for %" PRId64 " names", n);
	for (const cJSON *v = map->child; v; v = v->next)
		names[i++] = v->valuestring;
	qsort(names, (size_t)n, sizeof(*names), by_text);
	for (i = 0; i < n; i++)
		if (!kept || strcmp(names[kept - 1], names[i]))
			names[kept++] = names[i];
	if (kept > SHARDS_MAX)
		rc = st_fail(l, NVLLM_ENOTSUP, path, "it names %" PRId64 " files, the most that "
			"can be open is %d", kept, SHARDS_MAX);
	if (rc == 0)
		rc = set_files(l, (int32_t)kept);
	for (i = 0; i < kept && rc == 0; i++) {
		char *full = st_join(l, l->folder, names[i]);

		l->files[i].path = full;
		l->files[i].name = full ? strrchr(full, '/') + 1 : NULL;
		rc = full ? NVLLM_OK : NVLLM_ENOMEM;
	}
	free(names);
	return rc;
}

/* What the index says and what the shards hold must be one. */
static int check_shards(const struct nvllm_loader *l, const char *path, const cJSON *map)
{
	for (const cJSON *v = map->child; v; v = v->next) {
		const struct st_tensor *t = st_tensor(l, v->string);
		const char *has = t ? l->files[t->file].name : NULL;

		if (!t)
			return st_fail(l, NVLLM_EINVAL, path, "weight_map has tensor '%.80s' in "
				"%.80s, which does not hold it: download that file again",
				v->string, v->valuestring);
		if (strcmp(has, v->valuestring))
			return st_fail(l, NVLLM_EINVAL, path, "weight_map has tensor '%.80s' in "
				"%.80s, but it is in %.80s: files of two checkpoints are mixed, "
				"download all of them again", v->string, v->valuestring, has);
	}
	return NVLLM_OK;
}

static int open_shards(struct nvllm_loader *l)
{
	const struct json_limits limits = { INDEX_BYTES, INDEX_VALUES, 16 };
	char *path = st_join(l, l->folder, INDEX);
	const cJSON *map;
	cJSON *json = NULL;
	int64_t n;
	int rc = path ? st_json(l, path, "", &limits, &json) : NVLLM_ENOMEM;

	map = json_get(json, "weight_map");
	if (rc == 0)
		rc = check_map(l, path, map, &n);
	if (rc == 0)
		rc = list_shards(l, path, map, n);
	for (int32_t i = 0; i < l->n_files && rc == 0; i++)
		rc = st_header(l, i, "; " INDEX " names it: the download is incomplete");
	if (rc == 0)
		rc = st_index(l);
	if (rc == 0)
		rc = check_shards(l, path, map);
	cJSON_Delete(json);
	return rc;
}

int st_weights(struct nvllm_loader *l)
{
	struct contents c;

	if (l->folder != l->path)
		return one_file(l, l->path);
	if (look(l->folder, &c) < 0)
		return st_fail(l, NVLLM_EIO, l->path, "the folder cannot be read: %s",
			strerror(errno));
	if (!c.has_single && c.has_index)
		return open_shards(l);
	return one_file(l, st_join(l, l->folder, c.has_single ? SINGLE : c.single));
}
