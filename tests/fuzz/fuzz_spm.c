/* SPDX-License-Identifier: MIT */
/* fuzz_spm.c - arbitrary bytes as a tokenizer.model, and what follows the line "--config--" in
 * them as the tokenizer_config.json beside it. What opens encodes some texts: ids are within
 * the vocabulary, each id has a piece, and where nothing is normalised and every byte has a
 * token the pieces join to the text. */
#include <stdbool.h>

#include "../../plugins/tokenizers/spm.h"
#include "../unit/bpe_fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "not so: %s\n", #x);                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static const char mark[] = "\n--config--\n";

static void check_join(const struct hf *hf, const int32_t *ids, int64_t n, const char *text,
	size_t len)
{
	size_t at = 0;

	for (int64_t i = 0; i < n; i++) {
		int32_t k = 0;
		const char *s = hf_piece(hf, ids[i], 0, &k);

		CHECK((size_t)k <= len - at && memcmp(s, text + at, (size_t)k) == 0);
		at += (size_t)k;
	}
	CHECK(at == len);
}

/* exact: pieces must join to the text. */
static void check_text(const struct hf *hf, int32_t n_tokens, const char *text, size_t len,
	bool exact)
{
	static int32_t ids[65536];

	for (uint32_t flags = 0; flags < 4; flags++) {
		int64_t n = hf_encode(hf, text, (int64_t)len, flags, ids, 65536);

		CHECK(n >= 0 && n <= 65536);
		CHECK(hf_encode(hf, text, (int64_t)len, flags, ids, 65536) == n);
		for (int64_t i = 0; i < n; i++) {
			int32_t k = -1;

			CHECK(ids[i] >= 0 && ids[i] < n_tokens);
			CHECK(hf_piece(hf, ids[i], flags, &k) && k >= 0);
		}
		if (exact && flags == NVLLM_ENCODE_PLAIN)
			check_join(hf, ids, n, text, len);
	}
}

static void check_texts(const struct hf *hf, const struct spm_source *s)
{
	static const char *const texts[] = { "", " ", "a", "Hello world", "  two  spaces ",
		"caf\xC3\xA9 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x98\x80", "<s>[INST] x </s>",
		SPM_SPACE "a" SPM_SPACE SPM_SPACE, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"the the the\nthe\tthe", "\xEF\xBC\xA1\xEF\xAC\x81\xC2\xA0", NULL };
	struct nvllm_tokenizer_info info = { .size = sizeof(info) };
	bool exact = s->byte_fallback && !s->dummy_prefix && !s->squeeze_spaces && !s->charsmap.len &&
		s->n_added == 0;

	CHECK(hf_info(hf, &info) == 0 && info.max_piece >= 0);
	for (int i = 0; texts[i]; i++)
		check_text(hf, info.n_tokens, texts[i], strlen(texts[i]),
			exact && !strstr(texts[i], SPM_SPACE));
	for (int32_t id = -1; id <= info.n_tokens && id < 300; id++)
		hf_byte(hf, id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = memmem(data, size, mark, sizeof(mark) - 1);
	size_t n = at ? (size_t)(at - data) : size;
	struct fake_host host;
	struct spm_source s;
	struct hf *hf = NULL;
	struct spm_kinds kinds;
	int rc;

	fake_host_init(&host);
	spm_kinds_init(&kinds);
	rc = spm_proto(&host.h, "fuzz", data, n, &s);
	if (rc == 0 && at)
		rc = spm_config(&host.h, "config", (const char *)at + sizeof(mark) - 1,
			size - n - (sizeof(mark) - 1), &s);
	if (rc == 0)
		rc = spm_native(&host.h, "fuzz", &s, &kinds.kinds, &hf);
	if (rc == 0)
		check_texts(hf, &s);
	else
		CHECK(host.said[0] != 0);
	hf_close(hf);
	fake_host_finish(&host);
	return 0;
}
