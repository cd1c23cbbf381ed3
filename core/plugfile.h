/* SPDX-License-Identifier: MIT */
/* core/plugfile.h - whether one .so may be used: the file, then what it exports. */
#ifndef NVLLM_PLUGFILE_H
#define NVLLM_PLUGFILE_H

#include <nvllm/plugin.h>

/* Before dlopen: a whole ELF shared object for this machine. 0, or a status and a
 * sentence. */
int plugfile_check(const char *path);
/* The exported table against the ABI rules. room: bytes of the symbol. 0, or a status
 * and a sentence that names file, component and member. */
int plugin_check(const struct nvllm_plugin *, uint64_t room, const char *path);

#endif
