/* SPDX-License-Identifier: MIT */
/* nvllm/tokenizer.h - text to tokens and back. */
#ifndef NVLLM_TOKENIZER_H
#define NVLLM_TOKENIZER_H

#include "loader.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_tokenizer;

#define NVLLM_ENCODE_SPECIAL (1u << 0) /* add BOS and EOS where the tokenizer says so */
#define NVLLM_ENCODE_PLAIN   (1u << 1) /* special tokens written in the text are text */
#define NVLLM_PIECE_FIRST        (1u << 0) /* the first token of the text that gives any bytes */
#define NVLLM_PIECE_SKIP_SPECIAL (1u << 1) /* special tokens give no bytes */

struct nvllm_tokenizer_info {
	uint32_t size;
	int32_t n_tokens;      /* ids are 0 .. n_tokens - 1 */
	int32_t bos, eos, pad; /* -1 = none */
	int32_t max_piece;     /* bytes of the longest piece: bounds the tokens of a text from below */
	const int32_t *eos_ids; /* ids that end an answer, eos among them; lives as long as the instance */
	int32_t n_eos_ids;
	int32_t reserved;      /* 0 */
};

struct nvllm_tokenizer_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	/* [setup] 0..100: how sure it is that it can read this. loader may be NULL (a bare
	 * tokenizer file). */
	int  (*probe)(const struct nvllm_loader_ref *loader, const char *path);
	/* [setup] loader stays open until close. path: the checkpoint, a GGUF or a folder
	 * (tokenizer.json, tokenizer.model and tokenizer_config.json lie in it), or a file of
	 * these names by itself. */
	int  (*open)(const struct nvllm_host *, const struct nvllm_loader_ref *loader, const char *path,
		const void *conf, struct nvllm_tokenizer **out);
	/* [any] */
	int  (*info)(struct nvllm_tokenizer *, struct nvllm_tokenizer_info *out);
	/* [any] Text to ids; text need not be NUL-ended. Invalid UTF-8 is refused with
	 * NVLLM_EINVAL and a sentence with the byte offset. flags: NVLLM_ENCODE_*. Returns
	 * the count, also where it is more than room (then only room ids are written), or a
	 * negative status. */
	int64_t (*encode)(struct nvllm_tokenizer *, const char *text, int64_t len, uint32_t flags,
		int32_t *tokens, int64_t room);
	/* [any] The bytes one token adds to the text, not NUL-ended, which may be part of a
	 * UTF-8 character. NULL and *len 0 for an id out of range. flags: NVLLM_PIECE_*.
	 * Valid until close. */
	const char *(*piece)(struct nvllm_tokenizer *, int32_t token, uint32_t flags, int32_t *len);
	/* [setup] */
	void (*close)(struct nvllm_tokenizer *);
	/* [any] Optional. The byte 0..255 that a token stands for where the vocabulary spells
	 * unknown characters in tokens of one byte ("<0xE4>"), else -1. Such tokens in a row
	 * that are no UTF-8 become one U+FFFD each, as in Hugging Face's ByteFallback; bytes of
	 * other pieces that are none become one U+FFFD for each maximal ill-formed part. */
	int32_t (*byte)(struct nvllm_tokenizer *, int32_t token);
};

#ifdef __cplusplus
}
#endif
#endif
