/* SPDX-License-Identifier: MIT */
/* nvllm/plugin.h - what a .so exports: one const symbol, nvllm_plugin.
 *
 * Data, not a function: the core reads it, and refuses it, before any plugin code
 * runs. A plugin has no ELF constructors and no mutable statics. */
#ifndef NVLLM_PLUGIN_H
#define NVLLM_PLUGIN_H

#include "host.h"
#include "option.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a component is, and so which vtable `vt` points to: <nvllm/KIND.h>,
 * struct nvllm_KIND_vt. The word in the INI file is the section's name. */
enum nvllm_kind {
	NVLLM_KIND_MODEL = 1, NVLLM_KIND_ATTENTION, NVLLM_KIND_SAMPLER, NVLLM_KIND_CACHE,
	NVLLM_KIND_DEVICE, NVLLM_KIND_COMM, NVLLM_KIND_LOADER, NVLLM_KIND_TOKENIZER,
	NVLLM_KIND_CHAT, NVLLM_KIND_FRONTEND, NVLLM_KIND_LOGITS, NVLLM_KIND_MAX
};

struct nvllm_component {
	uint32_t size;
	uint32_t kind;                      /* enum nvllm_kind */
	const char *name;                   /* the word in the INI file: a-z 0-9 _ */
	const char *summary;                /* one line, for `nvllm plugins` */
	const void *vt;                     /* const struct nvllm_<kind>_vt * */
	const struct nvllm_option *options; /* keys of its INI section; NULL = takes none */
	uint64_t conf_size;                 /* bytes of the struct the options fill; 0 without options */
};

struct nvllm_plugin {
	uint32_t abi;    /* NVLLM_ABI; first for ever */
	uint32_t size;   /* second for ever */
	const char *name, *version;
	const struct nvllm_component *const *components; /* pointers, NULL-ended: rows may grow */
};

#define NVLLM_EXPORT __attribute__((visibility("default")))
extern NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin;

#ifdef __cplusplus
}
#endif
#endif
