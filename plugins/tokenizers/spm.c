/* SPDX-License-Identifier: MIT */
/* spm.c - SentencePiece tokenizers. Decides which file of a checkpoint is read: a GGUF's
 * metadata, else tokenizer.json, else tokenizer.model. */
#include "spm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nvllm/plugin.h>

#define MAX_MODEL ((size_t)256 << 20)
#define MAX_CONFIG ((size_t)64 << 20)
#define MAX_PATH_LEN 4096

/* The instance is the pipeline: the vtable's functions find it here. */
struct nvllm_tokenizer {
	struct hf *hf;
	struct spm_kinds kinds;
};

/* ---- what there is ---- */

enum { GGUF_NONE, GGUF_LLAMA, GGUF_OTHER };

static int gguf_kind(const struct nvllm_loader_ref *loader)
{
	struct nvllm_array a = { .size = sizeof(a) };
	const struct nvllm_str *model;

	if (!loader || loader->vt->array(loader->loader, "tokenizer.ggml.model", &a) < 0)
		return GGUF_NONE;
	if (a.type != NVLLM_ARRAY_STR || a.n != 1)
		return GGUF_OTHER;
	model = a.data;
	return model->len == 5 && memcmp(model->s, "llama", 5) == 0 ? GGUF_LLAMA : GGUF_OTHER;
}

/* path/name, or path itself where it is no folder. false: too long. */
static bool beside(const char *path, const char *name, char out[MAX_PATH_LEN])
{
	struct stat st;
	bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
	int n = snprintf(out, MAX_PATH_LEN, "%s%s%s", path, folder ? "/" : "", folder ? name : "");

	return n > 0 && n < MAX_PATH_LEN;
}

/* A ModelProto begins with its first piece: field 1 of bytes, and in it field 1 of bytes.
 * (Another file of that name, tiktoken's, is text in base64.) */
static bool is_proto(const char *file)
{
	unsigned char head[3] = { 0 };
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	bool yes = fd >= 0 && read(fd, head, sizeof(head)) == (ssize_t)sizeof(head) && head[0] == 0x0A &&
		head[2] == 0x0A;

	if (fd >= 0)
		close(fd);
	return yes;
}

static int probe(const struct nvllm_loader_ref *loader, const char *path)
{
	char file[MAX_PATH_LEN];
	int kind = gguf_kind(loader);

	if (kind != GGUF_NONE)
		return kind == GGUF_LLAMA ? 90 : 0;
	switch (path ? hf_classify(path) : HF_NOT) {
	case HF_OTHER: return 90;
	case HF_BYTE_LEVEL: return 0;
	default: break;
	}
	return path && beside(path, "tokenizer.model", file) && is_proto(file) ? 80 : 0;
}

/* ---- opening ---- */

/* The tokenizer_config.json in the folder of the tokenizer.model, which need not be there. */
static int config_open(const struct nvllm_host *host, const char *file, struct spm_source *s)
{
	static const char name[] = "tokenizer_config.json";
	const char *slash = strrchr(file, '/');
	size_t dir = slash ? (size_t)(slash - file) + 1 : 0, len;
	char path[MAX_PATH_LEN];
	struct stat st;
	char *text;
	int rc;

	if (dir + sizeof(name) > sizeof(path))
		return NVLLM_OK;
	memcpy(path, file, dir);
	memcpy(path + dir, name, sizeof(name));
	if (stat(path, &st) < 0 && errno == ENOENT)
		return NVLLM_OK;
	rc = spm_read_file(host, path, MAX_CONFIG, &text, &len);
	return rc < 0 ? rc : spm_config(host, path, text, len, s);
}

static int proto_open(const struct nvllm_host *host, const char *path, struct nvllm_tokenizer *t)
{
	char file[MAX_PATH_LEN];
	struct spm_source s;
	char *data;
	size_t len;
	int rc;

	if (!beside(path, "tokenizer.model", file))
		return host->fail(host, NVLLM_EINVAL, "'%.100s...' is too long a path", path);
	if ((rc = spm_read_file(host, file, MAX_MODEL, &data, &len)) < 0 ||
	    (rc = spm_proto(host, file, data, len, &s)) < 0 || (rc = config_open(host, file, &s)) < 0)
		return rc;
	return spm_native(host, file, &s, &t->kinds.kinds, &t->hf);
}

static int gguf_open(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, struct nvllm_tokenizer *t)
{
	struct spm_source s;
	int rc = spm_gguf(host, loader, &s);

	return rc < 0 ? rc : spm_native(host, path ? path : "", &s, &t->kinds.kinds, &t->hf);
}

static int open_any(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, struct nvllm_tokenizer *t)
{
	int kind = gguf_kind(loader);

	if (kind == GGUF_LLAMA)
		return gguf_open(host, loader, path, t);
	if (kind == GGUF_OTHER || !path)
		return host->fail(host, NVLLM_ENOTSUP,
			"'%s' has no SentencePiece vocabulary ('tokenizer.ggml.model' is not 'llama'): choose "
			"another tokenizer", path ? path : "");
	if (hf_classify(path) != HF_NOT)
		return spm_json_open(host, path, &t->kinds, &t->hf);
	return proto_open(host, path, t);
}

static int open_vt(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, const void *conf, struct nvllm_tokenizer **out)
{
	struct nvllm_tokenizer *t = host->alloc(host, sizeof(*t));
	int rc;

	if (!t)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the tokenizer");
	spm_kinds_init(&t->kinds);
	rc = open_any(host, loader, path, t);
	if (rc < 0)
		hf_close(t->hf);
	else
		*out = t;
	return rc;
}

/* ---- the rest is the pipeline's ---- */

static int info(struct nvllm_tokenizer *t, struct nvllm_tokenizer_info *out)
{
	return hf_info(t->hf, out);
}

static int64_t encode(struct nvllm_tokenizer *t, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	return hf_encode(t->hf, text, len, flags, tokens, room);
}

static const char *piece(struct nvllm_tokenizer *t, int32_t token, uint32_t flags, int32_t *len)
{
	return hf_piece(t->hf, token, flags, len);
}

static int32_t byte(struct nvllm_tokenizer *t, int32_t token)
{
	return hf_byte(t->hf, token);
}

static void close_vt(struct nvllm_tokenizer *t)
{
	if (t)
		hf_close(t->hf);
}

static const struct nvllm_tokenizer_vt vt = {
	.size = sizeof(vt), .probe = probe, .open = open_vt, .info = info, .encode = encode,
	.piece = piece, .close = close_vt, .byte = byte,
};

static const struct nvllm_component spm = {
	.size = sizeof(spm), .kind = NVLLM_KIND_TOKENIZER, .name = "spm",
	.summary = "SentencePiece BPE and Unigram of Llama 2, Mistral, Gemma, from a GGUF, tokenizer.json "
		"or tokenizer.model",
	.vt = &vt,
};

static const struct nvllm_component *const components[] = { &spm, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "tokenizer_spm", .version = "0.1.0",
	.components = components,
};
