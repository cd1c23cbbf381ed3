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
	/* The whole request as a JSON object, or empty: "tools", "documents",
	 * "chat_template_kwargs", "continue_final_message"; and "messages", which then count
	 * instead of the list above (they may have more members than role and content). */
	struct nvllm_str body;
	const char *now;        /* "2025-03-09T14:05:07": what a template's clock says; NULL = local time */
};

struct nvllm_chat_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	/* [setup] 0..100: how sure it is that it has this checkpoint's template. Optional: NULL
	 * = only when named. */
	int  (*probe)(const struct nvllm_loader_ref *loader, const char *path);
	/* [setup] path: the checkpoint, or a template file. loader may be NULL, and stays open until
	 * close. */
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
