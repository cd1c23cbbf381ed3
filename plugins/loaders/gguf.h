/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf.h - what the parts of the GGUF loader know of each other:
 * gguf_header.c checks the container, gguf_split.c finds the files of a model,
 * gguf_config.c and gguf_names.c translate keys and tensor names to the Hugging Face
 * dialect, gguf.c is the vtable and reads rows. */
#ifndef NVLLM_LOADERS_GGUF_H
#define NVLLM_LOADERS_GGUF_H

#include <nvllm/loader.h>

#define GGUF_CONFIG_MAX 80 /* config values; each row of the tables gives one at most */

/* A tensor's name in the file and in Hugging Face's dialect, both without ".weight" or
 * ".bias" and without "blk.N." and "model.layers.N.". */
struct gguf_name {
	const char *gguf, *hf;
	const char *heads; /* the config value that counts its interleaved heads; NULL = rows in order */
	int experts;       /* planes are experts */
};

/* A key of the metadata, and the config value it gives. */
struct gguf_key {
	const char *gguf, *hf; /* a leading dot stands for the architecture's name */
	char kind;             /* 's' a string, 'f' a number, 'i' a whole number or a list of them */
};

/* A key whose meaning is not carried out, and the values at which it means nothing. */
struct gguf_refusal {
	const char *gguf;
	double neutral[2];
	const char *why;
};

/* What general.architecture stands for. Lists end with an empty row; NULL = none. */
struct gguf_arch {
	const char *gguf, *hf;
	int interleaved;       /* the converter paired up the rows of q and k for ggml's rotary order */
	const struct gguf_name *names;       /* looked up before the names common to all */
	const struct gguf_key *keys;         /* likewise */
	const struct gguf_refusal *refusals; /* beside those common to all */
	int (*finish)(struct nvllm_loader *); /* optional: config values that follow from others */
};

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
	const struct gguf_file *file;
	int64_t from;          /* the byte of the file where its row of the header begins */
	struct nvllm_str raw;  /* its name in the file */
	struct nvllm_tensor_info info;
	int64_t at, bytes;     /* where its data lie in the file */
	int64_t head_rows;     /* rows of a head whose rotary pairs are interleaved; 0 = in order */
};

/* One file: the whole model, or a part of it. */
struct gguf_file {
	const char *path;
	int fd;                /* -1 = not open */
	int64_t size;          /* bytes when it was opened */
	int64_t at;            /* the next byte of the header to be parsed */
	uint8_t *window;       /* bytes [window_at, window_at + window_len) of the file */
	int64_t window_at, window_len;
	struct gguf_kv *kvs;
	struct gguf_tensor *tensors;
	int64_t n_kvs, n_tensors;
	struct gguf_entry *kv_index; /* [n_kvs], sorted */
};

/* A row of the lists above, to be found by its name. */
struct gguf_entry {
	uint64_t hash;
	const struct nvllm_str *name;
};

struct nvllm_loader {
	const struct nvllm_host *host;
	struct gguf_file *files;      /* [n_files]; the first has the metadata */
	struct gguf_file *file;       /* the one in hand, for parsing and messages: the first, once open */
	int n_files;
	int n_config;
	int64_t from;                 /* where the key or tensor in hand begins, for messages */
	int64_t n_tensors;
	struct gguf_entry *tensor_index; /* [n_tensors], of all files, sorted */
	const struct gguf_arch *arch; /* NULL: none that gguf_config.c lists */
	const char *arch_name;        /* general.architecture */
	struct { const char *key, *text; } config[GGUF_CONFIG_MAX];
};

/* ---- gguf.c ---- */
/* Keeps a sentence that begins with the name of the file in hand. Returns status. */
int gguf_fail(const struct nvllm_loader *, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* [setup] Zeroed memory that lives as long as the instance; NULL and a sentence. */
void *gguf_alloc(struct nvllm_loader *, int64_t n, size_t each);
/* [any] */
int gguf_read(const struct nvllm_loader *, const struct gguf_file *, void *dst, int64_t n, int64_t at);
/* NULL = the file in hand has no such key, no file such a tensor (by its Hugging Face name). */
const struct gguf_kv *gguf_kv(const struct nvllm_loader *, const char *key);
const struct gguf_tensor *gguf_tensor(const struct nvllm_loader *, const char *name);
struct gguf_entry gguf_entry_of(const struct nvllm_str *name);
/* Sorts an index. Returns the name that two of its rows have, or NULL. */
const struct nvllm_str *gguf_sort(struct gguf_entry *, int64_t n);

/* ---- gguf_header.c ---- */
/* The header of the file in hand. Its metadata is whole once gguf_kvs is back. */
int gguf_kvs(struct nvllm_loader *);
int gguf_tensors(struct nvllm_loader *);
/* The same as gguf_fail, ending in "damaged or incomplete: download it again". */
int gguf_damaged(const struct nvllm_loader *, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Bytes of the character at s if it is well-formed UTF-8 and no control, else 0. */
size_t gguf_printable(const char *s, int64_t left);
/* A name for a message: "%.*s", NAME(name). */
#define NAME(name) (int)((name).len < 80 ? (name).len : 80), (name).s

/* ---- gguf_split.c ---- */
/* Opens all files of the model that path is of, and parses their headers. */
int gguf_open(struct nvllm_loader *, const char *path);

/* ---- gguf_config.c ---- */
/* Finds the architecture and the config values, once the metadata is there. */
int gguf_arch(struct nvllm_loader *);
/* Adds the config values that follow from the tensors, last of all. */
int gguf_config(struct nvllm_loader *);
/* NULL = no such value. */
const char *gguf_value(const struct nvllm_loader *, const char *key);
/* Adds a value; text as printf has it. */
int gguf_set(struct nvllm_loader *, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* A key of the file in hand, with the architecture's name before a leading dot. */
const struct gguf_kv *gguf_arch_kv(const struct nvllm_loader *, const char *key);

/* ---- gguf_archs.c ---- */
extern const struct gguf_arch gguf_archs[]; /* ends with an empty row */

/* ---- gguf_names.c ---- */
/* Sets the Hugging Face name of a tensor, and head_rows, from its name in the file. */
int gguf_translate(struct nvllm_loader *, struct gguf_tensor *);

#endif
