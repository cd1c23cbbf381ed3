/* SPDX-License-Identifier: MIT */
/* core/plugdirs.h - the folders that are searched for plugins. */
#ifndef NVLLM_PLUGDIRS_H
#define NVLLM_PLUGDIRS_H

#include "core.h"

#define MAX_DIRS 64

struct plugdirs {
	struct pool *pool;       /* the paths are of it */
	const char *v[MAX_DIRS]; /* resolved, each once */
	int n;
};

/* dirs (NULL-ended) and the parts of env_path (':' between them), either may be NULL,
 * come first, and a warning says so where one is not there. *d is zeroed. */
void plugdirs_find(
	struct plugdirs *d, struct pool *, const char *const *dirs, const char *env_path);

#endif
