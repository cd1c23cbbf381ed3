/* SPDX-License-Identifier: MIT */
/* plugins/loaders/safetensors.h - what the parts of the safetensors loader know of each
 * other: safetensors_header.c checks one file, safetensors_folder.c knows which files
 * make a checkpoint, safetensors_config.c its configuration, safetensors.c is the vtable
 * and reads rows; dummy.c shows the same names and shapes without the numbers. */
#ifndef NVLLM_LOADERS_SAFETENSORS_H
#define NVLLM_LOADERS_SAFETENSORS_H

#include <json.h>

#include <nvllm/loader.h>

struct st_tensor {
	const char *name;     /* NUL-ended */
	int64_t begin, end;   /* its bytes, from the start of the file's data */
	int64_t rows, cols;   /* 0: of a shape that cannot be shown as planes of rows */
	int32_t planes;
	int32_t dtype;        /* enum nvllm_dtype, -1 = nvllm has no such type */
	int32_t file;         /* which of the checkpoint's */
	int32_t reserved;
};

/* One .safetensors file. */
struct st_file {
	const char *path, *name; /* name: within its folder */
	int fd;
	int64_t size, data;      /* bytes when it was opened; where its data begin */
	struct st_tensor *tensors; /* [n] in the order of their data */
	int64_t n;
};

/* A row of the index of all tensors. The hash comes first so that sorting seldom looks at
 * the names themselves. */
struct st_entry {
	uint64_t hash;
	const struct st_tensor *t;
};

struct st_pair { const char *key, *text; };

struct nvllm_loader {
	const struct nvllm_host *host;
	const char *path, *folder; /* as given; where config.json and the shards lie */
	struct st_file *files;
	int32_t n_files;
	int32_t joined;            /* its experts lie in one tensor, see safetensors.c */
	struct st_entry *index;    /* [n_tensors] sorted */
	int64_t n_tensors;
	struct st_pair *config;    /* [n_config] sorted by key */
	int64_t n_config;
	char std[32];              /* dummy.c: meta("dummy.std") */
};

/* ---- safetensors.c ---- */
/* Keeps a sentence that begins with the file's name; what could move a terminal's cursor
 * becomes '?'. Returns status. */
int st_fail(const struct nvllm_loader *, int status, const char *path, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* [setup] Zeroed memory that lives as long as the instance; NULL and a sentence. */
void *st_alloc(const struct nvllm_loader *, int64_t n, size_t each);
/* "folder/name", like st_alloc. */
char *st_join(const struct nvllm_loader *, const char *folder, const char *name);
/* Opens a regular file, symbolic links followed. Returns its descriptor, or a status and a
 * sentence that ends in `hint` where there is no such file. */
int st_open(const struct nvllm_loader *, const char *path, const char *hint, int64_t *size);
int st_read(const struct nvllm_loader *, const struct st_file *, void *dst, int64_t n, int64_t at);
const struct st_tensor *st_tensor(const struct nvllm_loader *, const char *name);
/* Makes the index of all files' tensors. Names that occur twice are refused. */
int st_index(struct nvllm_loader *);
/* Of the vtable, for dummy.c too. */
int st_open_checkpoint(const struct nvllm_host *, const char *path, struct nvllm_loader **);
int st_find(struct nvllm_loader *, const char *name, struct nvllm_tensor_info *);
int st_array(struct nvllm_loader *, const char *key, struct nvllm_array *);
void st_close(struct nvllm_loader *);
/* Well-formed UTF-8 without control characters, in place: what is not becomes '?'. */
void st_printable(char *text);

/* ---- safetensors_header.c ---- */
/* Opens l->files[i], whose path is set, and fills the rest. */
int st_header(struct nvllm_loader *, int32_t i, const char *hint);
/* A file as JSON: 0 and *out, which the caller frees, or a sentence with file and line. */
int st_json(const struct nvllm_loader *, const char *path, const char *hint,
	const struct json_limits *, cJSON **out);

/* ---- safetensors_folder.c ---- */
/* Sets l->folder from l->path. */
int st_place(struct nvllm_loader *);
/* Finds, opens and checks all files of the checkpoint. */
int st_weights(struct nvllm_loader *);
int st_probe(const char *path);
int st_ends_with(const char *s, const char *end);

/* ---- dummy.c ---- */
extern const struct nvllm_component st_dummy;

/* ---- safetensors_config.c ---- */
int st_config(struct nvllm_loader *);
const char *st_meta(const struct nvllm_loader *, const char *key);

#endif
