/* SPDX-License-Identifier: MIT */
/* tests/conform/fake_words.c - a tokenizer so small that a suite knows what it gives: a byte
 * is a token, a space and a small letter together are one. */
#include "check.h"

struct nvllm_tokenizer { int unused; };

static int64_t encode(struct nvllm_tokenizer *t, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	int64_t n = 0;

	(void)t, (void)flags;
	for (int64_t at = 0; at < len; at++, n++) {
		int pair = text[at] == ' ' && at + 1 < len && text[at + 1] >= 'a' &&
			text[at + 1] <= 'z';

		at += pair;
		if (n < room)
			tokens[n] = pair ? 256 + text[at] - 'a' : (unsigned char)text[at];
	}
	return n;
}

static int info(struct nvllm_tokenizer *t, struct nvllm_tokenizer_info *out)
{
	static const int32_t eos[] = { 3 };

	(void)t;
	*out = (struct nvllm_tokenizer_info){ .size = out->size, .n_tokens = 282, .bos = -1,
		.eos = 3, .pad = -1, .max_piece = 2, .eos_ids = eos, .n_eos_ids = 1 };
	return NVLLM_OK;
}

static const char *piece(struct nvllm_tokenizer *t, int32_t token, uint32_t flags, int32_t *len)
{
	static const char letters[] = " a b c d e f g h i j k l m n o p q r s t u v w x y z";
	static const char ascii[] = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		"[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";

	(void)t, (void)flags;
	*len = token > ' ' && token <= '~' ? 1 : token >= 256 && token < 282 ? 2 : 0;
	return *len == 2 ? letters + 2 * (token - 256) : *len == 1 ? ascii + token - '!' : NULL;
}

static int32_t byte(struct nvllm_tokenizer *t, int32_t token)
{
	(void)t;
	return token >= 0 && token < 256 ? token : -1;
}

const struct nvllm_tokenizer_vt *fake_words(struct nvllm_tokenizer **t)
{
	static const struct nvllm_tokenizer_vt vt = { .size = sizeof(vt), .info = info,
		.encode = encode, .piece = piece, .byte = byte };
	static struct nvllm_tokenizer one;

	*t = &one;
	return &vt;
}
