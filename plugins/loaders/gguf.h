/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf.h - what the parts of the GGUF loader know of each other:
 * gguf_header.c checks the container, gguf_names.c translates to the Hugging Face
 * dialect, gguf.c is the vtable and reads rows. */
#ifndef NVLLM_LOADERS_GGUF_H
#define NVLLM_LOADERS_GGUF_H

#include <nvllm/loader.h>

struct arch;

#define GGUF_CONFIG_MAX 48 /* config values; each row of the table gives one at most */

/* One key of the metadata. A scalar is an array of one. */
struct gguf_kv {
	struct nvllm_str name; /* first: the index points at it */
	int64_t from;          /* the byte of the file where it begins */
	char kind;             /* of the elements: unsigned, int, float, bool, string */
	int8_t is_array;
	int8_t wide;           /* an element does not fit int32_t: data is not to be used */
	int64_t n;
	void *data;            /* int32_t, float ('f') or struct nvllm_str ('s') [n] */
	struct nvllm_str one;  /* what data points at where n is 1 */
	uint64_t bits;         /* the last element whole: integers, sign extended */
	double real;           /* likewise for floats */
};

struct gguf_tensor {
	struct nvllm_str name; /* first, as above; the Hugging Face name, NUL-ended */
	int64_t from;          /* the byte of the file where its row of the header begins */
	struct nvllm_str raw;  /* its name in the file */
	struct nvllm_tensor_info info;
	int64_t at, bytes;     /* where its data lie in the file */
	int64_t head_rows;     /* rows of a head whose rotary pairs are interleaved; 0 = in order */
};

/* A row of the two lists above, to be found by its name. */
struct gguf_entry {
	uint64_t hash;
	const struct nvllm_str *name;
};

struct nvllm_loader {
	const struct nvllm_host *host;
	const char *path;
	int fd;
	int n_config;
	int64_t size;          /* bytes of the file when it was opened */
	int64_t at;            /* the next byte of the header to be parsed */
	int64_t from;          /* where the key or tensor in hand begins, for messages */
	uint8_t *window;       /* bytes [window_at, window_at + window_len) of the file */
	int64_t window_at, window_len;
	struct gguf_kv *kvs;
	struct gguf_tensor *tensors;
	int64_t n_kvs, n_tensors;
	struct gguf_entry *kv_index, *tensor_index; /* of the same rows, sorted */
	const struct arch *arch;      /* NULL: none that gguf_names.c lists */
	const char *arch_name;        /* general.architecture */
	struct { const char *key, *text; } config[GGUF_CONFIG_MAX];
};

/* ---- gguf.c ---- */
/* Keeps a sentence that begins with the file's name. Returns status. */
int gguf_fail(const struct nvllm_loader *, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* [setup] Zeroed memory that lives as long as the instance; NULL and a sentence. */
void *gguf_alloc(struct nvllm_loader *, int64_t n, size_t each);
int gguf_read(const struct nvllm_loader *, void *dst, int64_t n, int64_t at);
/* NULL = the file has no such key, no such tensor (by its Hugging Face name). */
const struct gguf_kv *gguf_kv(const struct nvllm_loader *, const char *key);
const struct gguf_tensor *gguf_tensor(const struct nvllm_loader *, const char *name);
/* Sorts n rows of `each` bytes by name. *twice: a row whose name another has too, or NULL. */
int gguf_index(struct nvllm_loader *, const void *rows, size_t each, int64_t n,
	struct gguf_entry **out, const void **twice);

/* ---- gguf_header.c ---- */
int gguf_header(struct nvllm_loader *);
/* The same, ending in "damaged or incomplete: download it again". */
int gguf_damaged(const struct nvllm_loader *, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Bytes of the character at s if it is well-formed UTF-8 and no control, else 0. */
size_t gguf_printable(const char *s, int64_t left);
/* A name for a message: "%.*s", NAME(name). */
#define NAME(name) (int)((name).len < 80 ? (name).len : 80), (name).s

/* ---- gguf_names.c ---- */
/* Finds the architecture and the config values, once the metadata is there. */
int gguf_arch(struct nvllm_loader *);
/* Sets the Hugging Face name of a tensor, and head_rows, from its name in the file. */
int gguf_translate(struct nvllm_loader *, struct gguf_tensor *);
/* Adds the config values that follow from the tensors, last of all. */
int gguf_config(struct nvllm_loader *);

#endif
