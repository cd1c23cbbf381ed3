/* SPDX-License-Identifier: MIT */
/* plugdirs.c - decides which folders are searched for plugins, and in what order: those
 * of the configuration, those of the environment, those that lie where the program or
 * library itself lies, the installed one. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1 */
#endif
#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core.h"
#include "plugdirs.h"

static void add_dir(struct plugdirs *d, const char *dir, bool wanted)
{
	char real[PATH_MAX];
	struct stat st;

	if (!realpath(dir, real) || stat(real, &st) || !S_ISDIR(st.st_mode)) {
		if (wanted)
			log_line(NVLLM_LOG_WARN, NULL, "plugin folder '%s' is not there", dir);
		return;
	}
	for (int i = 0; i < d->n; i++)
		if (!strcmp(d->v[i], real))
			return;
	if (d->n == MAX_DIRS) {
		log_line(NVLLM_LOG_WARN, NULL, "more than %d plugin folders: '%s' is left out",
			MAX_DIRS, dir);
		return;
	}
	d->v[d->n] = pool_strdup(d->pool, real);
	d->n += d->v[d->n] != NULL;
}

/* Every folder that a shell pattern names. base is taken as it stands. */
static void add_pattern(struct plugdirs *d, const char *base, const char *pattern)
{
	char full[2 * PATH_MAX];
	size_t n = 0;
	glob_t g;

	for (; *base && n < PATH_MAX; base++) {
		if (strchr("*?[\\", *base))
			full[n++] = '\\';
		full[n++] = *base;
	}
	snprintf(full + n, sizeof(full) - n, "/%s", pattern);
	if (glob(full, GLOB_ONLYDIR, NULL, &g))
		return;
	for (size_t i = 0; i < g.gl_pathc; i++)
		add_dir(d, g.gl_pathv[i], false);
	globfree(&g);
}

static void add_path_list(struct plugdirs *d, const char *list)
{
	while (list && *list) {
		size_t n = strcspn(list, ":");
		char dir[PATH_MAX];

		if (n > 0 && n < sizeof(dir)) {
			memcpy(dir, list, n);
			dir[n] = 0;
			add_dir(d, dir, true);
		}
		list += n + (list[n] == ':');
	}
}

/* The folder of the program or library this function is linked into. */
static bool own_dir(char out[PATH_MAX])
{
	struct link_map *map = NULL;
	Dl_info info;
	char *slash;

	if (!dladdr1((void *)(uintptr_t)plugdirs_find, &info, (void **)&map, RTLD_DL_LINKMAP) ||
		!map)
		return false;
	/* The main program's entry has no name. */
	if (!realpath(map->l_name[0] ? map->l_name : "/proc/self/exe", out))
		return false;
	slash = strrchr(out, '/');
	if (!slash)
		return false;
	*slash = 0;
	return true;
}

/* Beside the program in a build tree, beside the library in a build tree, then where
 * an installed program and an installed library have them. */
static void add_own_dirs(struct plugdirs *d)
{
	char dir[PATH_MAX];
	const char *last;

	if (!own_dir(dir))
		return;
	last = strrchr(dir, '/');
	add_pattern(d, dir, "plugins");
	add_pattern(d, dir, "backends/*");
	if (last && !strcmp(last, "/core")) {
		add_pattern(d, dir, "../plugins");
		add_pattern(d, dir, "../backends/*");
	}
	if (last && !strcmp(last, "/bin")) {
		add_pattern(d, dir, "../lib*/nvllm/plugins");
		add_pattern(d, dir, "../lib*/*/nvllm/plugins");
	}
	add_pattern(d, dir, "nvllm/plugins");
}

void plugdirs_find(
	struct plugdirs *d, struct pool *pool, const char *const *dirs, const char *env_path)
{
	d->pool = pool;
	for (; dirs && *dirs; dirs++)
		add_dir(d, *dirs, true);
	add_path_list(d, env_path);
	add_own_dirs(d);
	add_dir(d, NVLLM_PLUGINDIR, false);
}
