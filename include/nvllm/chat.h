/* SPDX-License-Identifier: MIT */
/* nvllm/chat.h - a chat template: messages to the text of a prompt. */
#ifndef NVLLM_CHAT_H
#define NVLLM_CHAT_H

#include "loader.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_chat;

struct nvllm_chat_message {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	struct nvllm_str role, content;
};

struct nvllm_chat_request {
	uint32_t size;
	int32_t add_generation_prompt; /* ends with the header of the assistant's turn */
	const struct nvllm_chat_message *const *messages; /* NULL-ended */
	struct nvllm_str body;  /* the whole request as JSON (tools, chat_template_kwargs), or empty */
};

struct nvllm_chat_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	/* [setup] path: the checkpoint. loader may be NULL. */
	int  (*open)(const struct nvllm_host *, const struct nvllm_loader_ref *loader, const char *path,
		const void *conf, struct nvllm_chat **out);
	/* [any] Writes at most room bytes to text, no NUL. Returns the length, also where it
	 * is more than room, or a negative status. */
	int64_t (*render)(struct nvllm_chat *, const struct nvllm_chat_request *, char *text, int64_t room);
	/* [any] Text that ends the assistant's turn besides the tokenizer's end tokens ("<|im_end|>");
	 * NULL = none. Valid until close. Optional. */
	const char *(*stop)(struct nvllm_chat *);
	/* [setup] Optional. */
	void (*close)(struct nvllm_chat *);
};

#ifdef __cplusplus
}
#endif
#endif
