/* SPDX-License-Identifier: MIT */
/* Any bytes as an INI file: conf_parse and conf_fill take them or refuse them with a
 * sentence, and what conf_print writes of those taken reads back to the same values. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct values {
	int64_t count, bytes;
	double share;
	int32_t flag, kind;
	const char *path;
	struct nvllm_ints sizes;
	struct nvllm_floats scales;
};

static const char *const kinds[] = { "auto", "f32", "bf16", NULL };
static const struct nvllm_option options[] = {
	NVLLM_INT(values, count, "count", "16", -1024, 1024, "a number"),
	NVLLM_SIZE(values, bytes, "memory", "1M", 0, 0, "bytes"),
	NVLLM_FLOAT(values, share, "share", "0.5", 0, 1, "a share"),
	NVLLM_BOOL(values, flag, "flag", "no", "a flag"),
	NVLLM_ENUM(values, kind, "kind", "auto", kinds, "a kind"),
	NVLLM_STR(values, path, "path", "", "a file"),
	NVLLM_INTS(values, sizes, "sizes", "1 2 4", 1, 64, "sizes"),
	{ "scales", "scales", "", NULL, 0, 0, NVLLM_OPT_FLOATS, 0,
		offsetof(struct values, scales) },
	NVLLM_OPTIONS_END,
};
static const char *const known[] = { "engine", "attention", NULL };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void want(int truth)
{
	if (!truth)
		abort();
}

/* A refusal names the file, or the origin of a value. */
static int refused(int rc)
{
	if (rc)
		want(fail_text()[0] != 0);
	return rc != 0;
}

static int fill(struct conf *c, struct values *v)
{
	struct conf_table t = { "engine", options, v, sizeof(*v) };

	return conf_check_sections(c, known) || conf_fill(c, "engine", &t, 1);
}

static void round_trip(struct conf *c, const struct values *v)
{
	struct conf *again = NULL;
	struct values w;
	size_t len = 0;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	want(f != NULL);
	conf_print(c, f);
	fclose(f);
	want(!conf_parse("again", text, len, &again) && !fill(again, &w));
	want(v->count == w.count && v->bytes == w.bytes && v->share == w.share &&
		v->flag == w.flag && v->kind == w.kind && !strcmp(v->path, w.path) &&
		v->sizes.n == w.sizes.n && v->scales.n == w.scales.n);
	conf_close(again);
	free(text);
}

/* The text after a NUL is one --set. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nul = memchr(data, 0, size);
	size_t len = nul ? (size_t)(nul - data) : size;
	struct conf *c = NULL;
	struct values v;
	char set[256];
	int plain = 1;

	fail_clear();
	if (refused(conf_parse("f.ini", (const char *)data, size, &c)) && nul) {
		fail_clear();
		refused(conf_parse("f.ini", (const char *)data, len, &c));
	}
	if (!c)
		return 0;
	if (nul) {
		snprintf(set, sizeof(set), "%.*s",
			(int)(size - len - 1 < 255 ? size - len - 1 : 255), nul + 1);
		plain = 0;
		refused(conf_set(c, set, "--set"));
	}
	fail_clear();
	if (!refused(fill(c, &v)) && plain)
		round_trip(c, &v);
	conf_close(c);
	return 0;
}
