/* SPDX-License-Identifier: MIT */
/* fuzz_bpe.c - arbitrary bytes to tokens, on a small vocabulary that has every byte. The first
 * byte of the input chooses the pre-tokenizer and the flags. Whatever the text: invalid UTF-8
 * is refused at the right place, and the pieces of valid text join to the text. */
#include <stdbool.h>

#include "../unit/bpe_fake.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define N_RULES 4

static struct fuzzed {
	struct fake_host host;
	struct nvllm_loader l[N_RULES];
	struct nvllm_loader_ref ref[N_RULES];
	struct nvllm_tokenizer *t[N_RULES];
} f;

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "not so: %s\n%s\n", #x, f.host.said);                      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static const struct nvllm_tokenizer_vt *vt_of(void)
{
	return nvllm_plugin.components[0]->vt;
}

static void vocab_init(struct nvllm_loader *l, const char *pre)
{
	static const char *const merges[][2] = { { "a", "b" }, { "ab", "c" }, { "b", "c" },
		{ "\xC4\xA0", "a" }, { "\xC4\xA0", "\xC4\xA0" },
		{ "\xC4\xA0\xC4\xA0", "\xC4\xA0\xC4\xA0" }, { "\xC4\x8A", "\xC4\x8A" },
		{ "1", "2" }, { "12", "3" }, { "'", "s" }, { "\xC3\xA2", "\xC4\xA4" },
		{ "\xC3\xB0", "\xC5\x81" }, { "a", "a" }, { "aa", "aa" }, { "!", "!" },
		{ "!", "\xC4\x8A" },
		{ "\xC4\xA0"
		  "a",
			"b" },
		{ "<", "|" }, { "|", ">" }, { NULL } };
	static const struct {
		const char *text;
		int32_t type;
	} added[] = { { "<|im_start|>", 3 }, { "<|im_end|>", 3 }, { "<|im_", 4 },
		{ "im_end|>\n", 4 }, { "<|", 5 }, { "  ", 4 }, { "\xE2\x82\xAC", 4 }, { "unk", 2 },
		{ "", 3 }, { NULL } };

	fake_vocab_init(l, pre);
	for (int i = 0; merges[i][0]; i++)
		fake_merge(l, merges[i][0], merges[i][1]);
	for (int i = 0; added[i].text; i++)
		fake_token(l, added[i].text, strlen(added[i].text), added[i].type);
	fake_number(l, "tokenizer.ggml.bos_token_id", 0);
	fake_number(l, "tokenizer.ggml.eos_token_id", 1);
	fake_number(l, "tokenizer.ggml.add_bos_token", 1);
	fake_number(l, "tokenizer.ggml.add_eos_token", 1);
}

static void init(void)
{
	static const char *const names[N_RULES] = { "smollm", "gpt-2", "llama-bpe", "qwen2" };

	fake_host_init(&f.host);
	for (int i = 0; i < N_RULES; i++) {
		vocab_init(&f.l[i], names[i]);
		f.ref[i] = (struct nvllm_loader_ref){
			.size = sizeof(f.ref[i]), .vt = &fake_loader_vt, .loader = &f.l[i]
		};
		CHECK(vt_of()->open(&f.host.h, &f.ref[i], "", NULL, &f.t[i]) == 0);
	}
}

/* The pieces of ids[from..to) are the text, byte for byte. */
static void check_join(struct nvllm_tokenizer *t, const int32_t *ids, int64_t from, int64_t to,
	const char *text, size_t len)
{
	size_t at = 0;

	for (int64_t i = from; i < to; i++) {
		int32_t n = -1;
		const char *s = vt_of()->piece(t, ids[i], 0, &n);

		CHECK(s && n > 0 && (size_t)n <= len - at && memcmp(text + at, s, (size_t)n) == 0);
		at += (size_t)n;
	}
	CHECK(at == len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	uint32_t flags = size ? data[0] >> 2 & 3 : 0;
	size_t len = size - 1, good;
	int32_t *ids;
	int64_t n, ends = flags & NVLLM_ENCODE_SPECIAL ? 1 : 0;
	struct nvllm_tokenizer *t;
	char offset[40];
	bool composes;

	if (size == 0)
		return 0;
	if (!f.t[0])
		init();
	t = f.t[data[0] & 3];
	composes = (data[0] & 3) == N_RULES - 1;
	ids = malloc((len * 3 + 2) * sizeof(*ids));
	n = vt_of()->encode(t, text, (int64_t)len, flags, ids, (int64_t)len * 3 + 2);
	good = utf8_check(text, len);
	if (good < len) {
		CHECK(n == NVLLM_EINVAL);
		snprintf(offset, sizeof(offset), "byte %zu ", good);
		CHECK(strstr(f.host.said, offset));
	} else {
		/* The last rule composes the text first, which may make it longer. */
		CHECK(n >= 2 * ends && (composes || n <= (int64_t)len + 2 * ends));
		if (!composes)
			check_join(t, ids, ends, n - ends, text, len);
		CHECK(vt_of()->encode(t, text, (int64_t)len, flags, ids, 1) == n);
	}
	free(ids);
	return 0;
}
