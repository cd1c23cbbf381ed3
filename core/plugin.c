/* SPDX-License-Identifier: MIT */
/* plugin.c - decides which .so files there are and which component a word means.
 * Whether a file is fit to be used is plugfile.c's to say. Never closes one: threads
 * and devices may hold pointers into it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr1, dlinfo */
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nvllm/device.h>

#include "core.h"
#include "plugdirs.h"
#include "plugfile.h"

#define MAX_FILES 1024  /* .so files of one folder that are looked at */

/* A .so that was looked at once: fit, or refused for good. */
struct file {
	struct file *next;
	const char *real;                   /* resolved path: one file, one entry */
	const struct nvllm_plugin *plugin;  /* NULL = refused */
	const char *why;
};

struct plugins {
	struct pool *pool;
	struct file *files;
	struct plugdirs dirs;               /* searched in this order */
};

/* ---- one file ---- */

static int plugin_symbol(void *so, const char *path, const struct nvllm_plugin **out)
{
	const void *sym = dlsym(so, "nvllm_plugin");
	struct link_map *mine = NULL, *its = NULL;
	const ElfW(Sym) *entry = NULL;
	Dl_info info;

	*out = NULL;
	if (!sym)
		return fail(NVLLM_EINVAL, "%s: not an nvllm plugin: it exports no 'nvllm_plugin'",
			path);
	/* dlsym also looks into the libraries a plugin is linked with. */
	if (dlinfo(so, RTLD_DI_LINKMAP, &mine) ||
		!dladdr1(sym, &info, (void **)&its, RTLD_DL_LINKMAP) || mine != its)
		return fail(NVLLM_EINVAL,
			"%s: not an nvllm plugin: 'nvllm_plugin' is of a library it is linked "
			"with, %s",
			path, its ? its->l_name : "which is unknown");
	if (!dladdr1(sym, &info, (void **)&entry, RTLD_DL_SYMENT) || !entry ||
	    ELF64_ST_TYPE(entry->st_info) != STT_OBJECT)
		return fail(NVLLM_EINVAL, "%s: its 'nvllm_plugin' is no variable: it must be a "
			"const struct nvllm_plugin", path);
	*out = sym;
	return plugin_check(sym, entry->st_size, path);
}

static int open_file(const char *path, const struct nvllm_plugin **out)
{
	int rc = plugfile_check(path);
	void *so;

	*out = NULL;
	if (rc)
		return rc;
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!so)
		return fail(NVLLM_EINVAL, "%s: cannot be loaded: %s", path, dlerror());
	rc = plugin_symbol(so, path, out);
	if (rc)
		*out = NULL;
	return rc;
}

const struct nvllm_plugin *plugin_open(struct plugins *p, const char *path)
{
	char real[PATH_MAX];
	struct file *f;

	if (!realpath(path, real)) {
		fail(NVLLM_ENOENT, "%s: cannot be opened: %s", path, strerror(errno));
		return NULL;
	}
	for (f = p->files; f && strcmp(f->real, real); f = f->next)
		;
	if (!f) {
		f = pool_alloc(p->pool, sizeof(*f));
		if (!f || !(f->real = pool_strdup(p->pool, real))) {
			fail(NVLLM_ENOMEM, "%s: no memory", path);
			return NULL;
		}
		if (open_file(path, &f->plugin))
			f->why = pool_strdup(p->pool, fail_text());
		f->next = p->files;
		p->files = f;
	}
	if (!f->plugin)
		fail(NVLLM_EINVAL, "%s", f->why ? f->why : path);
	return f->plugin;
}

struct plugins *plugins_create(const char *const *dirs, const char *env_path)
{
	struct plugins *p = calloc(1, sizeof(*p));

	if (p)
		p->pool = pool_create();
	if (!p || !p->pool) {
		free(p);
		fail(NVLLM_ENOMEM, "no memory for the plugins");
		return NULL;
	}
	plugdirs_find(&p->dirs, p->pool, dirs, env_path);
	return p;
}

void plugins_destroy(struct plugins *p)
{
	if (!p)
		return;
	pool_destroy(p->pool);
	free(p);
}

/* ---- walking through the files ---- */

/* The names of a folder's .so files, sorted, NULL-ended, of the pool. prefix: "" or
 * what they must begin with. */
static const char **list_dir(struct plugins *p, const char *dir, const char *prefix)
{
	const char **names = pool_alloc(p->pool, (MAX_FILES + 1) * sizeof(*names));
	struct dirent **found = NULL;
	int n = names ? scandir(dir, &found, NULL, alphasort) : -1, kept = 0;

	for (int i = 0; i < n; i++) {
		const char *s = found[i]->d_name;
		size_t len = strlen(s);

		if (len > 3 && !strcmp(s + len - 3, ".so") && s[0] != '.' && kept < MAX_FILES &&
		    !strncmp(s, prefix, strlen(prefix)) && (names[kept] = pool_strdup(p->pool, s)))
			kept++;
		free(found[i]);
	}
	free(found);
	return names;
}

/* Whether a folder searched before folder d has a file of that name: it stands before. */
static bool is_shadowed(const struct plugins *p, int d, const char *name)
{
	char path[2 * PATH_MAX];

	for (int i = 0; i < d; i++) {
		snprintf(path, sizeof(path), "%s/%s", p->dirs.v[i], name);
		if (!access(path, F_OK))
			return true;
	}
	return false;
}

/* Calls fn for each file whose name begins with prefix, in the order of the search. */
static int each_file(struct plugins *p, const char *prefix,
	int (*fn)(void *arg, const struct nvllm_plugin *, const char *path, const char *why),
	void *arg)
{
	for (int d = 0; d < p->dirs.n; d++) {
		const char **names = list_dir(p, p->dirs.v[d], prefix);

		for (int i = 0; names && names[i]; i++) {
			const struct nvllm_plugin *plugin;
			const char *path, *why = NULL;
			int rc;

			if (is_shadowed(p, d, names[i]))
				continue;
			path = pool_printf(p->pool, "%s/%s", p->dirs.v[d], names[i]);
			plugin = path ? plugin_open(p, path) : NULL;
			if (!plugin)
				why = pool_strdup(p->pool, fail_text());
			rc = path ? fn(arg, plugin, path, why ? why : "") : 0;
			if (rc)
				return rc;
		}
	}
	return 0;
}

struct each {
	int kind;
	int (*fn)(void *, const struct nvllm_component *, const struct nvllm_plugin *, const char *,
		const char *);
	void *arg;
};

static int each_component(
	void *arg, const struct nvllm_plugin *plugin, const char *path, const char *why)
{
	const struct each *e = arg;
	int rc = 0;

	if (!plugin)
		return e->fn(e->arg, NULL, NULL, path, why);
	for (int i = 0; !rc && plugin->components[i]; i++)
		if (!e->kind || (int)plugin->components[i]->kind == e->kind)
			rc = e->fn(e->arg, plugin->components[i], plugin, path, NULL);
	return rc;
}

/* A kind is looked for in files of its name: opening every .so would be slow. */
static int each_of(struct plugins *p, int kind, bool all_files,
	int (*fn)(void *, const struct nvllm_component *, const struct nvllm_plugin *, const char *,
		const char *), void *arg)
{
	struct each e = { kind, fn, arg };
	char prefix[64] = "";

	if (kind && !all_files)
		snprintf(prefix, sizeof(prefix), "%s_", kind_name(kind));
	return each_file(p, prefix, each_component, &e);
}

int plugins_each(struct plugins *p, int kind,
	int (*fn)(void *arg, const struct nvllm_component *, const struct nvllm_plugin *,
		const char *file, const char *why), void *arg)
{
	return each_of(p, kind, false, fn, arg);
}

/* ---- a word of the INI file ---- */

#define MAX_NAMES 128

struct search {
	struct plugins *p;
	int kind;
	const char *word;           /* NULL: any of the kind */
	uint64_t caps;
	const struct nvllm_component *hit;
	const char *file;
	const char *lacking;        /* sentence: found, but the device does not do */
	const char *broken;         /* sentence: a file of that very name is refused */
	const char *names[MAX_NAMES + 1];
	int n_names;
};

static void keep_name(struct search *s, const char *name)
{
	for (int i = 0; i < s->n_names; i++)
		if (!strcmp(s->names[i], name))
			return;
	if (s->n_names < MAX_NAMES)
		s->names[s->n_names++] = name;
}

static void keep_lacking(struct search *s, const struct nvllm_component *c, const char *file)
{
	char miss[160], has[160];

	if (s->lacking)
		return;
	caps_text(component_need(c) & ~s->caps, miss, sizeof(miss));
	caps_text(s->caps, has, sizeof(has));
	s->lacking = pool_printf(s->p->pool,
		"%s '%s' (%s) needs %s of the device, which offers %s: choose "
		"another %s or another device",
		kind_name(s->kind), c->name, file, miss, has, kind_name(s->kind));
}

/* Stops at the first component that is meant and whose needs are met. */
static int search_component(void *arg, const struct nvllm_component *c,
	const struct nvllm_plugin *plugin, const char *file, const char *why)
{
	struct search *s = arg;

	if (!c)
		return 0;
	keep_name(s, c->name);
	if (s->word && strcmp(c->name, s->word))
		return 0;
	if (component_need(c) & ~s->caps) {
		keep_lacking(s, c, file);
		return 0;
	}
	s->hit = c;
	s->file = file;
	return 1;
}

/* Likewise, of those that need something of the device. */
static int search_closer(void *arg, const struct nvllm_component *c,
	const struct nvllm_plugin *plugin, const char *file, const char *why)
{
	struct search *s = arg;

	if (!c || strcmp(c->name, s->word) || !component_need(c) || (component_need(c) & ~s->caps))
		return 0;
	return search_component(arg, c, plugin, file, why);
}

/* One file that the word names. A broken one ends the search where it has exactly the
 * name: to take another of that name in its stead would surprise. */
static bool search_file(struct search *s, const char *path, bool exact)
{
	const struct nvllm_plugin *plugin = plugin_open(s->p, path);
	struct each e = { s->kind, search_component, s };

	if (plugin)
		return each_component(&e, plugin, path, NULL) != 0;
	if (!s->broken || exact)
		s->broken = pool_strdup(s->p->pool, fail_text());
	return exact;
}

/* <kind>_<word>.so, then <kind>_<word>_*.so, folder by folder. */
static void search_names(struct search *s)
{
	char prefix[160];

	for (int d = 0; d < s->p->dirs.n; d++) {
		char *path = pool_printf(
			s->p->pool, "%s/%s_%s.so", s->p->dirs.v[d], kind_name(s->kind), s->word);
		const char **names;

		if (path && !access(path, F_OK) && search_file(s, path, true))
			return;
		snprintf(prefix, sizeof(prefix), "%s_%s_", kind_name(s->kind), s->word);
		names = list_dir(s->p, s->p->dirs.v[d], prefix);
		for (int i = 0; names && names[i]; i++) {
			path = pool_printf(s->p->pool, "%s/%s", s->p->dirs.v[d], names[i]);
			if (path && !is_shadowed(s->p, d, names[i]) && search_file(s, path, false))
				return;
		}
	}
}

static const char *dirs_text(const struct plugins *p, char *buf, size_t len)
{
	size_t at = 0;

	snprintf(buf, len, "no folder");
	for (int i = 0; i < p->dirs.n && at < len; i++)
		at += (size_t)snprintf(buf + at, len - at, "%s%s", i ? ", " : "", p->dirs.v[i]);
	return buf;
}

static void not_found(struct search *s)
{
	const char *near = option_nearest(s->word, s->names);
	char dirs[512];

	if (s->n_names == 0) {
		fail(NVLLM_ENOENT,
			"there is no %s '%s', nor any other %s plugin, in %s: set [core] "
			"plugin_dirs, "
			"or give a path with a '/'",
			kind_name(s->kind), s->word, kind_name(s->kind),
			dirs_text(s->p, dirs, sizeof(dirs)));
		return;
	}
	fail(NVLLM_ENOENT, "there is no %s '%.80s'", kind_name(s->kind), s->word);
	if (near)
		fail(NVLLM_ENOENT, "%s; did you mean '%s'?", fail_text(), near);
	for (int i = 0; i < s->n_names; i++)
		fail(NVLLM_ENOENT, "%s%s%s", fail_text(),
			i    ? ", " :
			near ? " There are: " :
			       "; there are: ",
			s->names[i]);
}

static const struct nvllm_component *find_by_path(struct search *s, const char *path)
{
	const struct nvllm_plugin *plugin = plugin_open(s->p, path);
	struct each e = { s->kind, search_component, s };

	if (!plugin)
		return NULL;
	s->word = NULL;
	each_component(&e, plugin, path, NULL);
	s->file = pool_strdup(s->p->pool, path);
	if (!s->hit && s->lacking)
		fail(NVLLM_ENOTSUP, "%s", s->lacking);
	else if (!s->hit)
		fail(NVLLM_ENOENT, "%s: has no %s, but %s '%s'", path, kind_name(s->kind),
			kind_name((int)plugin->components[0]->kind), plugin->components[0]->name);
	return s->hit;
}

const struct nvllm_component *plugin_find(struct plugins *p, int kind, const char *word,
	uint64_t caps, const char **file)
{
	struct search s = { .p = p, .kind = kind, .word = word, .caps = caps };

	if (!kind_name(kind)) {
		fail(NVLLM_EINVAL, "there is no plugin kind %d", kind);
		return NULL;
	}
	if (strchr(word, '/')) {
		find_by_path(&s, word);
	} else {
		if (word[0] && !word[strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_")])
			search_names(&s);
		/* Else a component may hide in a file of another name. */
		if (!s.hit && !s.broken)
			each_of(p, kind, true, search_component, &s);
		/* What was made for a device goes before what runs beside any. */
		if (s.hit && !(caps & NVLLM_DEV_HOST_MEM) && !component_need(s.hit))
			each_of(p, kind, false, search_closer, &s);
		if (!s.hit && (s.broken || s.lacking))
			fail(NVLLM_ENOTSUP, "%s", s.broken ? s.broken : s.lacking);
		else if (!s.hit)
			not_found(&s);
	}
	if (file)
		*file = s.hit ? s.file : NULL;
	return s.hit;
}
