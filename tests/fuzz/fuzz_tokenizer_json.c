/* SPDX-License-Identifier: MIT */
/* fuzz_tokenizer_json.c - arbitrary bytes as a folder's tokenizer.json and, after a NUL, its
 * tokenizer_config.json. What opens must tokenize some texts without a crash, into ids of the
 * vocabulary, twice the same. */
#include <stdbool.h>
#include <unistd.h>

#include "../unit/bpe_fake.h"
#include "../../plugins/tokenizers/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "not so: %s\n", #x);                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static char dir[64];

static void put(const char *name, const void *bytes, size_t n)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
	if (!bytes)
		return;
	f = fopen(path, "wb");
	CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static void clean(void)
{
	put("tokenizer.json", NULL, 0);
	put("tokenizer_config.json", NULL, 0);
	rmdir(dir);
}

static void encode(const struct hf *hf, const char *text, uint32_t flags)
{
	int32_t ids[256], again[256];
	int64_t n = hf_encode(hf, text, (int64_t)strlen(text), flags, ids, 256);
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };

	hf_info(hf, &info);
	CHECK(hf_encode(hf, text, (int64_t)strlen(text), flags, again, 256) == n);
	for (int64_t i = 0; i < n && i < 256; i++) {
		int32_t len = -1;

		CHECK(ids[i] == again[i] && ids[i] >= 0 && ids[i] < info.n_tokens);
		CHECK(hf_piece(hf, ids[i], (uint32_t)i & 3, &len) && len >= 0);
		CHECK(hf_byte(hf, ids[i]) < 256);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char long_text[] = "Hello  wORLD's 123\n\n<s><|x|> \xC3\xA9"
		"e\xCC\xA7\xCC\x81 \xE2\x96\x81\xE7\x9A\x84\xF0\x9F\x98\x80 ";
	static const char *const texts[] = { "", "a", long_text, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
		"   a\t b\r\n  " };
	static const struct hf_model_kind *const models[] = { &hf_bpe, NULL };
	static const struct hf_kinds kinds = { .models = models };
	const uint8_t *config = memchr(data, 0, size);
	size_t n = config ? (size_t)(config - data) : size;
	struct fake_host host;
	struct hf *hf;

	if (!dir[0]) {
		strcpy(dir, "/tmp/nvllm-fuzz-XXXXXX");
		CHECK(mkdtemp(dir));
		atexit(clean);
	}
	put("tokenizer.json", data, n);
	put("tokenizer_config.json", config ? config + 1 : NULL, size - n - (config != NULL));
	fake_host_init(&host);
	(void)hf_classify(dir);
	if (hf_open(&host.h, dir, &kinds, &hf) == 0)
		for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
			for (uint32_t flags = 0; flags < 4; flags++)
				encode(hf, texts[i], flags);
	else
		CHECK(host.said[0]);
	hf_close(hf);
	fake_host_finish(&host);
	return 0;
}
