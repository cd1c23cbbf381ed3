/* SPDX-License-Identifier: MIT */
/* core/core.h - what the core's files know of each other: words, options, the INI
 * file, plugins and hosts. engine.c's own structs are in core/engine_int.h. */
#ifndef NVLLM_CORE_H
#define NVLLM_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include <nvllm/host.h>
#include <nvllm/option.h>
#include <nvllm/plugin.h>

#define NVLLM_VERSION "0.1.0"

/* ---- log.c: where words go. The one file of the core with globals: the level, the
 * lines already said, and each thread's newest error sentence. ---- */
void log_level_set(int level);
int  log_level_get(void);
/* who: "attention.paged", or NULL for the core itself. To standard error. */
void log_line(int level, const char *who, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void log_vline(int level, const char *who, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
/* Keeps the sentence for this thread and returns status. Never allocates. */
int  fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int  vfail(int status, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* The same, with the sentence so far put after a new beginning: "qwen.ini:3: " + old. */
int  fail_prefix(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For small things while the engine is opened. */
static inline int out_of_memory(void)
{
	return fail(NVLLM_ENOMEM, "out of memory while opening the engine: close other programs, or add memory");
}
const char *fail_text(void); /* "" = none */
void fail_clear(void);

/* ---- arena.c: memory that goes all at once. Zeroed, 64-byte aligned. ---- */
struct pool;
struct pool *pool_create(void);
void  pool_destroy(struct pool *);
void *pool_alloc(struct pool *, size_t bytes);
char *pool_strdup(struct pool *, const char *);
char *pool_printf(struct pool *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- option.c: one option table against one text. ---- */
/* Parses text into the struct at conf. Strings and lists are copied into pool. On a
 * refusal `why` says the reason alone: "'many' is not a whole number". */
int  option_set(const struct nvllm_option *, const char *text, void *conf, struct pool *,
	char *why, size_t why_len);
/* A table a plugin brought is itself checked before use (types, offsets within
 * conf_size, defaults that parse). Fails with a sentence. */
int  option_check_table(const struct nvllm_option *, uint64_t conf_size, const char *who);
/* The key of the list nearest to word, or NULL if none is near (for "did you mean"). */
const char *option_nearest(const char *word, const char *const *candidates);
/* `nvllm explain`: key, type, default, bounds, help; one line or two a key. */
void option_explain(const struct nvllm_option *, FILE *);

/* ---- conf.c: the INI file, --set, and which value won. ---- */
struct conf;
/* One table that fills one struct from a section. */
struct conf_table {
	const char *who;                     /* "engine", "attention.paged": for messages */
	const struct nvllm_option *options;  /* NULL = no keys */
	void *conf;                          /* the struct, zeroed by conf_fill; may be NULL without keys */
	uint64_t conf_size;
};
/* path NULL: an empty one. Every syntax error is refused with file:line. */
int  conf_open(const char *path, struct conf **out);
/* The same from memory; name is what messages call it. text need not be NUL-ended. */
int  conf_parse(const char *name, const char *text, size_t len, struct conf **out);
void conf_close(struct conf *);
/* "section.key=value"; origin is what messages call it: "--set", "-p". Later wins. */
int  conf_set(struct conf *, const char *assignment, const char *origin);
/* The text of a key, NULL if it is not set; *origin (may be NULL) becomes "file:line" or "--set". */
const char *conf_get(struct conf *, const char *section, const char *key, const char **origin);
/* Fills the tables of one section: value set, else default. Refuses keys that no table
 * has (with "did you mean"), bad values, duplicates. Strings live as long as conf. */
int  conf_fill(struct conf *, const char *section, struct conf_table *tables, int n_tables);
/* Refuses sections that are not in known (NULL-ended). */
int  conf_check_sections(struct conf *, const char *const *known);
/* The section names that occur, NULL-ended, owned by conf. */
const char *const *conf_sections(struct conf *);
/* Every value conf_fill resolved, as an INI file with its origin in a comment. */
void conf_print(struct conf *, FILE *);
struct pool *conf_pool(struct conf *);
/* The environment, read in this one place. NULL = not set. */
const char *conf_env(const char *name);

/* ---- plugin.c: which .so files there are, and refusing them with a reason. ---- */
struct plugins;
/* dirs: NULL-ended, searched first ([core] plugin_dirs); then NVLLM_PLUGIN_PATH (given
 * as env_path, ':'-separated, may be NULL), then the folders beside the program or
 * library (build tree) and the installed one. */
struct plugins *plugins_create(const char *const *dirs, const char *env_path);
void plugins_destroy(struct plugins *); /* never closes a .so */
/* By the word or the path (a value with '/') of an INI file. caps: the device's
 * capabilities: where two components share the name, the first whose needs are met;
 * a refusal says what is missing. ~0ull where no device matters. *file (may be NULL)
 * becomes the .so's path, owned by plugins. NULL and fail_text() on failure, which
 * lists the names there are and the nearest one. */
const struct nvllm_component *plugin_find(struct plugins *, int kind, const char *word,
	uint64_t caps, const char **file);
/* Opens and checks one file: the ABI rules. NULL and fail_text(). */
const struct nvllm_plugin *plugin_open(struct plugins *, const char *path);
/* Calls fn for each component found in the folders (broken files: component NULL and
 * why set), until fn returns nonzero. kind 0 = all. */
int plugins_each(struct plugins *, int kind,
	int (*fn)(void *arg, const struct nvllm_component *, const struct nvllm_plugin *,
		const char *file, const char *why), void *arg);
/* "attention" for NVLLM_KIND_ATTENTION; NULL out of range. And back; 0 = no such kind. */
const char *kind_name(int kind);
int kind_by_name(const char *name);
/* The `need` bits of a component's vtable; 0 for kinds without. */
uint64_t component_need(const struct nvllm_component *);
/* What bits a caps word has, as text for messages: "host memory, parallel_for". */
const char *caps_text(uint64_t caps, char *buf, size_t len);

/* ---- host.c: a plugin instance's way back into the core. ---- */
struct nvllm_host *host_create(const char *who, int rank, int world);
/* For an instance of a component: named "attention.paged". */
struct nvllm_host *host_for(const struct nvllm_component *, int rank, int world);
void host_destroy(struct nvllm_host *); /* and all that alloc() gave; NULL is legal */
/* Marks this thread as inside or outside a step: host->alloc refuses inside. (In log.c,
 * with the other words a thread has of its own.) */
void host_step(bool inside);
bool log_in_step(void);

#endif
