/* SPDX-License-Identifier: MIT */
/* tests/unit/gguf_host.h - what the tests of the GGUF loader share: a host that keeps the
 * newest sentence, the loader's vtable, files in memory. Included once a program. */
#ifndef TESTS_GGUF_HOST_H
#define TESTS_GGUF_HOST_H

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <nvllm/loader.h>
#include <nvllm/plugin.h>

static char sentence[1024];
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

/* The loader's .so in one of the folders of NVLLM_PLUGIN_PATH. */
static inline int open_plugin(void **state)
{
	const char *env = getenv("NVLLM_PLUGIN_PATH");
	char *dirs = strdup(env ? env : "build/plugins"), *save = NULL, path[4096];
	const struct nvllm_plugin *p;
	void *so = NULL;

	for (char *d = strtok_r(dirs, ":", &save); d && !so; d = strtok_r(NULL, ":", &save)) {
		snprintf(path, sizeof(path), "%s/loader_gguf.so", d);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	}
	free(dirs);
	assert_non_null(so);
	p = dlsym(so, "nvllm_plugin");
	assert_non_null(p);
	assert_int_equal(p->abi, NVLLM_ABI);
	vt = p->components[0]->vt;
	assert_string_equal(p->components[0]->name, "gguf");
	return 0;
}

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

/* Opens bytes as a file in memory. Returns its descriptor. */
static inline int open_bytes(const uint8_t *p, size_t n, int *rc, struct nvllm_loader **l)
{
	char path[64];
	int fd = memfd_create("gguf", 0);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, p, n), (ssize_t)n);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	*l = NULL;
	sentence[0] = '\0';
	*rc = vt->open(&host, path, NULL, l);
	return fd;
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
