/* SPDX-License-Identifier: MIT */
/* bpe_open.h - finds a plugin of the build tree by NVLLM_PLUGIN_PATH and gives its first
 * component's vtable. */
#ifndef BPE_OPEN_H
#define BPE_OPEN_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/plugin.h>

/* NULL where there is no such file (yet). */
static const struct nvllm_component *component_open(const char *file)
{
	const char *dirs = getenv("NVLLM_PLUGIN_PATH");

	while (dirs && *dirs) {
		size_t n = strcspn(dirs, ":");
		char path[4096];
		const struct nvllm_plugin *p;
		void *so;

		snprintf(path, sizeof(path), "%.*s/%s", (int)n, dirs, file);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		p = so ? dlsym(so, "nvllm_plugin") : NULL;
		if (p && p->abi == NVLLM_ABI)
			return p->components[0];
		dirs += n + (dirs[n] == ':');
	}
	return NULL;
}

#endif
