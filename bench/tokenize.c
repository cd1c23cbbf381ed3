/* SPDX-License-Identifier: MIT */
/* tokenize.c - what bench/tokenize measures: a tokenizer plugin on the documents of a file, with no
 * engine around it. Built and called by that script: PLUGIN.so CHECKPOINT FILE BYTES REPEAT.
 * Prints the seconds of each round and the number of tokens. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nvllm/plugin.h>
#include <nvllm/tokenizer.h>

static void say(const struct nvllm_host *host, int level, const char *fmt, ...)
{
}

static int fail(const struct nvllm_host *host, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

static void *alloc(const struct nvllm_host *host, size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	return p ? memset(p, 0, bytes) : NULL;
}

static const void *get(const struct nvllm_host *host, const char *id)
{
	return NULL;
}

static char *file_read(const char *path, long *len)
{
	FILE *f = fopen(path, "rb");
	char *s = NULL;

	if (f && fseek(f, 0, SEEK_END) == 0 && (*len = ftell(f)) >= 0) {
		rewind(f);
		s = malloc((size_t)*len + 1);
		if (s && fread(s, 1, (size_t)*len, f) != (size_t)*len)
			s = NULL;
	}
	if (f)
		fclose(f);
	return s;
}

/* The tokens of all documents: `doc` bytes each, up to the next character. */
static long long run(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t, const char *s,
	long len, long doc, int32_t *ids)
{
	long long total = 0;

	for (long at = 0, end; at < len; at = end) {
		int64_t n;

		for (end = at + doc < len ? at + doc : len; end < len && (s[end] & 0xC0) == 0x80;)
			end++;
		n = vt->encode(t, s + at, end - at, 0, ids, doc + 8);
		if (n < 0)
			exit(1);
		total += n;
	}
	return total;
}

int main(int argc, char **argv)
{
	struct nvllm_host host = { .size = sizeof(host), .abi = NVLLM_ABI, .world = 1, .log = say,
		.fail = fail, .alloc = alloc, .get = get };
	const struct nvllm_plugin *p = NULL;
	const struct nvllm_tokenizer_vt *vt;
	struct nvllm_tokenizer *t;
	int32_t *ids;
	long len, doc;
	void *so;
	char *s;

	if (argc != 6) {
		fprintf(stderr, "usage: tokenize PLUGIN.so CHECKPOINT FILE BYTES REPEAT\n");
		return 2;
	}
	so = dlopen(argv[1], RTLD_NOW);
	p = so ? dlsym(so, "nvllm_plugin") : NULL;
	s = file_read(argv[3], &len);
	doc = atol(argv[4]);
	ids = malloc(((size_t)doc + 8) * sizeof(*ids));
	if (!p || !s || !ids || doc < 1) {
		fprintf(stderr, "cannot open %s or %s\n", argv[1], argv[3]);
		return 1;
	}
	vt = p->components[0]->vt;
	if (vt->open(&host, NULL, argv[2], NULL, &t) < 0)
		return 1;
	for (int i = 0; i < atoi(argv[5]); i++) {
		struct timespec a, b;
		long long n;

		clock_gettime(CLOCK_MONOTONIC, &a);
		n = run(vt, t, s, len, doc, ids);
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("%.6f %lld\n", (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9, n);
	}
	vt->close(t);
	return 0;
}
