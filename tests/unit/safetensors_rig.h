/* SPDX-License-Identifier: MIT */
/* tests/unit/safetensors_rig.h - what the tests of the safetensors loader share: a host
 * that keeps the newest sentence, the loader's vtable, a folder to write checkpoints to.
 * Included once a program. */
#ifndef TESTS_SAFETENSORS_RIG_H
#define TESTS_SAFETENSORS_RIG_H

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <nvllm/loader.h>
#include <nvllm/plugin.h>

#define CHECKPOINTS "tests/data/checkpoints/"

static _Thread_local char sentence[1024];
static void **blocks;
static size_t n_blocks;

static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...) {}

static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	if (!(n_blocks & (n_blocks + 1))) /* room for 2^k at 2^k - 1 */
		blocks = realloc(blocks, 2 * (n_blocks + 1) * sizeof(*blocks));
	return blocks[n_blocks++] = calloc(1, bytes);
}

static inline void host_clear(void)
{
	while (n_blocks > 0)
		free(blocks[--n_blocks]);
	free(blocks);
	blocks = NULL;
	sentence[0] = '\0';
}

static const void *host_get(const struct nvllm_host *h, const char *id) { return NULL; }

static const struct nvllm_host host = { sizeof(host), NVLLM_ABI, 0, 1, host_log, host_fail,
	host_alloc, host_get };

static const struct nvllm_loader_vt *vt;
static char dir[64]; /* of this program's checkpoints */

static inline void load_plugin(void)
{
	const char *env = getenv("NVLLM_PLUGIN_PATH");
	char *dirs = strdup(env ? env : "build/plugins"), *save = NULL, path[4096];
	const struct nvllm_plugin *p;
	void *so = NULL;

	for (char *d = strtok_r(dirs, ":", &save); d && !so; d = strtok_r(NULL, ":", &save)) {
		snprintf(path, sizeof(path), "%s/loader_safetensors.so", d);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	}
	free(dirs);
	assert_non_null(so);
	p = dlsym(so, "nvllm_plugin");
	assert_non_null(p);
	assert_int_equal(p->abi, NVLLM_ABI);
	vt = p->components[0]->vt;
	assert_string_equal(p->components[0]->name, "safetensors");
}

/* ---- the folder ---- */

static inline const char *in_dir(const char *name)
{
	static char path[8][512];
	static int i;

	i = (i + 1) % 8;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static inline void write_bytes(const char *name, const void *bytes, size_t n)
{
	FILE *f = fopen(in_dir(name), "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static inline void write_text(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

/* A safetensors file: the header and n bytes 0, 1, 2 ... of data. */
static inline void write_st(const char *name, const char *header, size_t n)
{
	size_t len = strlen(header);
	uint8_t *all = malloc(8 + len + n);

	for (int i = 0; i < 8; i++)
		all[i] = (uint8_t)((uint64_t)len >> 8 * i);
	memcpy(all + 8, header, len);
	for (size_t i = 0; i < n; i++)
		all[8 + len + i] = (uint8_t)i;
	write_bytes(name, all, 8 + len + n);
	free(all);
}

/* Takes the descriptor of a folder. */
static inline void remove_below(int fd)
{
	DIR *d = fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
		    !unlinkat(dirfd(d), e->d_name, 0))
			continue;
		remove_below(openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	}
	if (d)
		closedir(d);
}

/* An empty folder for the next test. */
static inline int fresh(void **state)
{
	remove_below(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	host_clear();
	return 0;
}

static inline int set_up(void **state)
{
	load_plugin();
	snprintf(dir, sizeof(dir), "/tmp/nvllm-safetensors-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static inline int tear_down(void **state)
{
	fresh(state);
	return rmdir(dir);
}

/* ---- the loader ---- */

static inline struct nvllm_loader *open_path(const char *path)
{
	struct nvllm_loader *l = NULL;
	int rc = vt->open(&host, path, NULL, &l);

	if (rc)
		fail_msg("%s: %d %s", path, rc, sentence);
	return l;
}

static inline void done(struct nvllm_loader *l)
{
	vt->close(l);
	host_clear();
}

/* Must be refused in a sentence that names the path and has each of the words (NULL-ended). */
static inline void refused(const char *path, ...)
{
	struct nvllm_loader *l = NULL;
	const char *word;
	va_list ap;

	sentence[0] = '\0';
	if (vt->open(&host, path, NULL, &l) == 0)
		fail_msg("%s was taken", path);
	assert_null(l);
	if (strncmp(sentence, path, strlen(path)))
		fail_msg("'%s' does not begin with %s", sentence, path);
	va_start(ap, path);
	while ((word = va_arg(ap, const char *)))
		if (!strstr(sentence, word))
			fail_msg("'%s' should say '%s'", sentence, word);
	va_end(ap);
	host_clear();
}

struct pair { const char *key, *text; };

static inline void check_meta(struct nvllm_loader *l, const struct pair *p)
{
	for (; p->key; p++) {
		const char *text = vt->meta(l, p->key);

		if (!text != !p->text || (text && strcmp(text, p->text)))
			fail_msg("%s is %s and should be %s", p->key, text ? text : "(none)",
				p->text ? p->text : "(none)");
	}
}

#endif
