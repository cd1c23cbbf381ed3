/* SPDX-License-Identifier: MIT */
/* nvllm/loader.h - a checkpoint format. It speaks the Hugging Face dialect: tensor
 * names and config keys as in that world's folders. A format with other names or
 * another order of rows (GGUF) translates here, so models know one dialect. */
#ifndef NVLLM_LOADER_H
#define NVLLM_LOADER_H

#include "host.h"
#include "option.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_loader;

struct nvllm_tensor_info {
	uint32_t size;
	int32_t dtype;       /* enum nvllm_dtype */
	int64_t rows, cols;  /* a vector of n is [1][n] */
	int64_t row_bytes;
	int32_t planes;      /* 1; experts of a joined MoE tensor */
	int32_t reserved;    /* 0 */
};

/* An array of metadata. Owned by the loader, valid until close. */
struct nvllm_array {
	uint32_t size;
	int32_t type;        /* NVLLM_I32, NVLLM_F32, or NVLLM_ARRAY_STR */
	int64_t n;
	const void *data;    /* int32_t, float, or struct nvllm_str [n] */
};
#define NVLLM_ARRAY_STR (-1)

/* Has names and shapes and no data: weights are random, matrices of mean 0 and
 * meta("dummy.std") (0.02), vectors all 1. read() is not called for them. */
#define NVLLM_LOADER_DUMMY (1u << 0)

struct nvllm_loader_vt {
	uint32_t size;
	uint32_t flags;     /* NVLLM_LOADER_* */
	/* [setup] 0..100: how sure it is that it can open path. Reads a few bytes at most. */
	int  (*probe)(const char *path);
	/* [setup] Checks the whole header: counts, types, shapes, offsets against the file's
	 * size. Reads no tensor data. */
	int  (*open)(const struct nvllm_host *, const char *path, const void *conf,
		struct nvllm_loader **out);
	/* [any] A config value as text, NULL if absent or null. Valid until close. Keys are those
	 * of config.json ("num_hidden_layers", "rope_scaling.factor"); "architectures" is the
	 * first of the list; lists are written with spaces. One spelling for each thing, whatever
	 * the file's: "rope_theta" and "rope_scaling.KEY" also where it has rope_parameters,
	 * "rope_scaling.rope_type" also where it has .type, "rope_local_base_freq" for the base
	 * of sliding layers, "dtype" also where it has torch_dtype. "generation.temperature" and
	 * its like are the checkpoint's own sampling defaults (generation_config.json), among
	 * them "generation.eos_token_id", a list. "name" is its name for people. */
	const char *(*meta)(struct nvllm_loader *, const char *key);
	/* [any] An array of the format's own metadata ("tokenizer.ggml.tokens"): 0, or
	 * NVLLM_ENOENT. Scalars and strings come as arrays of one. */
	int  (*array)(struct nvllm_loader *, const char *key, struct nvllm_array *out);
	/* [any] 0, or NVLLM_ENOENT without a sentence. The experts of a layer that lie in one
	 * tensor are planes of it, and '*' stands for the expert's number in its name
	 * ("model.layers.0.mlp.experts.*.up_proj.weight"); else each has a name of its own. */
	int  (*find)(struct nvllm_loader *, const char *name, struct nvllm_tensor_info *out);
	/* [any] Rows [row, row + n) of plane p of a tensor to host memory, row_bytes apart.
	 * Ranks and threads read at once. Fails if the file has shrunk. */
	int  (*read)(struct nvllm_loader *, const char *name, int32_t plane, int64_t row, int64_t n,
		void *dst);
	/* [setup] */
	void (*close)(struct nvllm_loader *);
};

/* A loader and how to call it. Owned by the core. */
struct nvllm_loader_ref {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	const struct nvllm_loader_vt *vt;
	struct nvllm_loader *loader;
};

#ifdef __cplusplus
}
#endif
#endif
