/* SPDX-License-Identifier: MIT */
/* plugins/loaders/dummy.c - a Hugging Face folder of which only names and shapes count: the
 * device makes the numbers. Folders of `scripts/make-weights --no-weights`, which say
 * "dummy" in their files' headers, are opened by themselves; any other when asked for by
 * name, and then its numbers are left unread. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <nvllm/plugin.h>

#include "safetensors.h"

#define MARK "\"dummy\":\"1\""
#define LOOK 256 /* bytes of a header's begin: __metadata__ is its first member */

struct conf {
	double std;
};

/* Whether the header of a file is marked. */
static int marked(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char b[LOOK + 1];
	ssize_t n = fd < 0 ? 0 : pread(fd, b, LOOK, 0);

	if (fd >= 0)
		close(fd);
	if (n < 9)
		return 0;
	b[n] = '\0';
	return strstr(b + 8, MARK) != NULL;
}

static int probe(const char *path)
{
	char file[4096];

	if (marked(path))
		return 100;
	if (snprintf(file, sizeof(file), "%s/model.safetensors", path) < (int)sizeof(file) && marked(file))
		return 100;
	for (int n = 2; n <= 99; n++) { /* the first of so many shards */
		int len = snprintf(file, sizeof(file), "%s/model-00001-of-%05d.safetensors", path, n);

		if (len < (int)sizeof(file) && marked(file))
			return 100;
	}
	return 0;
}

static int open_dummy(const struct nvllm_host *host, const char *path, const void *conf,
	struct nvllm_loader **out)
{
	int rc = st_open_checkpoint(host, path, out);

	if (rc == 0)
		snprintf((*out)->std, sizeof((*out)->std), "%.9g", ((const struct conf *)conf)->std);
	return rc;
}

static const char *meta(struct nvllm_loader *l, const char *key)
{
	return strcmp(key, "dummy.std") ? st_meta(l, key) : l->std;
}

static int read_rows(struct nvllm_loader *l, const char *name, int32_t plane, int64_t row,
	int64_t n, void *dst)
{
	(void)plane, (void)row, (void)n, (void)dst;
	return st_fail(l, NVLLM_ENOTSUP, l->path, "the loader 'dummy' has names and shapes alone, and "
		"no numbers of '%.80s': set [loader] plugin = safetensors to read them", name);
}

static const struct nvllm_loader_vt vt = {
	.size = sizeof(vt),
	.flags = NVLLM_LOADER_DUMMY,
	.probe = probe,
	.open = open_dummy,
	.meta = meta,
	.array = st_array,
	.find = st_find,
	.read = read_rows,
	.close = st_close,
};

static const struct nvllm_option options[] = {
	NVLLM_FLOAT(conf, std, "std", "0.02", 0, 100, "standard deviation of the random weights"),
	NVLLM_OPTIONS_END
};

const struct nvllm_component st_dummy = {
	.size = sizeof(st_dummy),
	.kind = NVLLM_KIND_LOADER,
	.name = "dummy",
	.summary = "names and shapes of a checkpoint folder; the device makes random weights",
	.vt = &vt,
	.options = options,
	.conf_size = sizeof(struct conf),
};
