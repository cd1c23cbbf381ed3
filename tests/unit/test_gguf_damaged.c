/* SPDX-License-Identifier: MIT */
/* tests/unit/test_gguf_damaged.c - damaged GGUF files: each is made from a small sound one
 * by one change, and is refused with a sentence that says what is wrong. */
#include "gguf_host.h"
#include "gguf_put.h"

/* ---- a small sound file, and where its parts are ---- */

static void put_sound(struct file *f)
{
	static const char *const tokens[] = { "a", "bc", "" };

	put_begin(f, 5, 13);
	put_kv(f, "general.architecture", 8, 0, 0, "llama");
	put_kv(f, "general.alignment", 4, 32, 4, NULL);
	put_kv(f, "general.file", 10, 1ull << 40, 8, NULL);
	put_kv(f, "llama.block_count", 4, 1, 4, NULL);
	put_kv(f, "llama.embedding_length", 2, 8, 2, NULL);
	put_kv(f, "llama.attention.head_count", 0, 2, 1, NULL);
	put_kv(f, "llama.attention.head_count_kv", 5, 1, 4, NULL);
	put_real(f, "llama.rope.freq_base", 10000);
	put_kv(f, "general.name", 8, 0, 0, "none");
	put_kv(f, "split.count", 2, 1, 2, NULL);
	put_str(f, "tokens", " key", "tokenizer.ggml.tokens");
	put_int(f, "tokens", " type", 9, 4);
	put_int(f, "tokens", " of", 8, 4);
	put_int(f, "tokens", " n", 3, 8);
	for (int i = 0; i < 3; i++)
		put_str(f, "tokens", i == 1 ? " second" : " other", tokens[i]);
	put_str(f, "types", " key", "tokenizer.ggml.types");
	put_int(f, "types", " type", 9, 4);
	put_int(f, "types", " of", 3, 4);
	put_int(f, "types", " n", 3, 8);
	put(f, "types", " value", "\1\0\xff\xff\2\0", 6);
	put_kv(f, "llama.rope.scale_linear", 12, 0x4010000000000000u, 8, NULL); /* 4.0 */
	put_tensor(f, "token_embd.weight", 2, 8, 3, 1, 0);
	put_tensor(f, "blk.0.attn_q.weight", 2, 8, 8, 0, 64);
	put_tensor(f, "blk.0.attn_q.bias", 1, 8, 0, 0, 320);
	put_tensor(f, "blk.0.attn_k.weight", 2, 32, 4, 8, 352);
	put_tensor(f, "output_norm.weight", 1, 8, 0, 0, 512);
	put_data(f, 544);
}

static volatile uint8_t sink;

/* Reads all that the loader shows of the file, as a user would. */
static void use(struct nvllm_loader *l)
{
	static const char *const names[] = { "model.embed_tokens.weight", "model.norm.weight",
		"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias",
		"model.layers.0.self_attn.k_proj.weight" };
	static const char *const keys[] = { "tokenizer.ggml.tokens", "tokenizer.ggml.types",
		"general.name" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct nvllm_tensor_info f;
		uint8_t *data;

		if (vt->find(l, names[i], &f))
			continue;
		data = malloc((size_t)(f.rows * f.row_bytes));
		for (int32_t p = 0; p < f.planes; p++)
			assert_int_equal(vt->read(l, names[i], p, 0, f.rows, data), 0);
		free(data);
	}
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		struct nvllm_array a;

		if (vt->array(l, keys[i], &a) || a.type != NVLLM_ARRAY_STR)
			continue;
		for (int64_t j = 0; j < a.n; j++)
			for (int64_t k = 0; k < ((const struct nvllm_str *)a.data)[j].len; k++)
				sink += (uint8_t)((const struct nvllm_str *)a.data)[j].s[k];
	}
}

static const struct pair sound_meta[] = {
	{ "architectures", "LlamaForCausalLM" }, { "name", "none" }, { "num_hidden_layers", "1" },
	{ "hidden_size", "8" }, { "num_attention_heads", "2" }, { "num_key_value_heads", "1" },
	{ "head_dim", "4" }, { "vocab_size", "3" }, { "tie_word_embeddings", "true" },
	{ "rope_theta", "10000" }, { "rope_scaling.rope_type", "linear" },
	{ "attention_bias", "true" }, { "mlp_bias", NULL },
	{ "rope_scaling.factor", "4" },
	{ NULL, NULL },
};

static void test_sound(void **state)
{
	static const char weight[] = "model.layers.0.self_attn.q_proj.weight";
	static const char bias[] = "model.layers.0.self_attn.q_proj.bias";
	struct nvllm_loader *l;
	struct nvllm_tensor_info f;
	struct nvllm_array a;
	struct file file;
	uint8_t row[34 * 4], *data;
	int rc, fd;

	put_sound(&file);
	fd = open_bytes(file.bytes, file.n, &rc, &l);
	assert_int_equal(rc, 0);
	check_meta(l, sound_meta);
	data = file.bytes + mark_at(&file, "data");
	/* two heads of four: the file's rows 0 2 1 3 4 6 5 7 */
	for (int i = 0; i < 8; i++) {
		static const int order[] = { 0, 2, 1, 3, 4, 6, 5, 7 };

		assert_int_equal(vt->read(l, weight, 0, i, 1, row), 0);
		assert_memory_equal(row, data + 64 + order[i] * 32, 32);
		assert_int_equal(vt->read(l, bias, 0, 0, 1, row), 0);
		assert_memory_equal(row + 4 * i, data + 320 + order[i] * 4, 4);
	}
	assert_int_equal(vt->find(l, bias, &f), 0);
	assert_int_equal(f.rows, 1);
	assert_int_equal(f.cols, 8);
	assert_int_equal(vt->array(l, "tokenizer.ggml.types", &a), 0);
	assert_int_equal(((const int32_t *)a.data)[1], -1);
	assert_int_equal(vt->array(l, "general.file", &a), NVLLM_ENOTSUP);
	assert_non_null(strstr(sentence, "32 bits"));
	use(l);
	done(l);
	close(fd);
}

/* ---- damaged files ---- */

/* At a mark of the sound file: n bytes of v, or a text. */
static const struct damage {
	const char *at;
	int n;
	uint64_t v;
	const char *text, *word;
} damages[] = {
	{ "magic", 4, 0x46554746, NULL, "does not begin with 'GGUF'" },
	{ "magic", 4, 0x3c68746d, NULL, "does not begin with 'GGUF'" },
	{ "version", 4, 0, NULL, "version 0" },
	{ "version", 4, 1, NULL, "version 1:" },
	{ "version", 4, 4, NULL, "version 4" },
	{ "version", 4, 0x03000000, NULL, "big-endian" },
	{ "version", 4, UINT32_MAX, NULL, "version 4294967295" },
	{ "n_tensors", 8, 1ull << 60, NULL, "claims 1152921504606846976 tensors" },
	{ "n_tensors", 8, UINT64_MAX, NULL, "claims 18446744073709551615 tensors" },
	{ "n_tensors", 8, 1ull << 63, NULL, "tensors" },
	{ "n_tensors", 8, 6, NULL, "damaged" },
	{ "n_kvs", 8, 1ull << 60, NULL, "metadata keys" },
	{ "n_kvs", 8, UINT64_MAX, NULL, "metadata keys" },
	{ "n_kvs", 8, 14, NULL, "damaged" },
	{ "n_kvs", 8, 12, NULL, "damaged" },
	{ "n_kvs", 8, 0, NULL, "general.architecture" },
	{ "general.architecture key len", 8, 1ull << 63, NULL, "a key claims 9223372036854775808" },
	{ "general.architecture key len", 8, UINT64_MAX, NULL, "a key claims" },
	{ "general.architecture key len", 8, 0, NULL, "a key is empty" },
	{ "general.architecture key len", 8, 65536, NULL, "a key claims 65536 bytes" },
	{ "general.architecture key", 1, 0xff, NULL, "a key is not UTF-8 text" },
	{ "general.architecture key", 1, 0, NULL, "a key is not UTF-8 text" },
	{ "general.architecture key", 2, 0xafc0, NULL, "a key is not UTF-8 text" },
	{ "general.architecture key", 3, 0x80a0ed, NULL, "a key is not UTF-8 text" },
	{ "general.architecture key", 1, 0x1b, NULL, "a key is not UTF-8 text" },
	{ "general.architecture key", 0, 0, "G", "general.architecture" },
	{ "general.architecture type", 4, 13, NULL, "value type 13" },
	{ "general.architecture type", 4, UINT32_MAX, NULL, "value type 4294967295" },
	{ "general.architecture value len", 8, 1ull << 63, NULL, "a string claims" },
	{ "general.architecture value len", 8, INT64_MAX, NULL, "a string claims" },
	{ "general.architecture value len", 8, 8100, NULL, "a string claims 8100 bytes" },
	{ "llama.block_count key", 0, 0, "llama.block_counT", NULL },
	{ "llama.embedding_length type", 4, 3, NULL, NULL },
	{ "llama.block_count type", 4, 6, NULL, "'llama.block_count' is not a whole number" },
	{ "llama.rope.freq_base value", 4, 0x7f800000, NULL, "not finite" },
	{ "llama.rope.freq_base value", 4, 0x7fc00000, NULL, "not finite" },
	{ "llama.rope.scale_linear value", 8, 0x7ff0000000000000, NULL, "not finite" },
	{ "llama.attention.head_count value", 1, 0, NULL, "0 attention heads" },
	{ "llama.attention.head_count value", 1, 3, NULL, "3 attention heads" },
	{ "llama.attention.head_count value", 1, 8, NULL, "even size" },
	{ "llama.attention.head_count_kv value", 4, UINT32_MAX, NULL, "-1 attention heads" },
	{ "llama.attention.head_count key", 0, 0, "llama.attention.head_counT", "(unknown)" },
	{ "general.alignment value", 4, 0, NULL, "general.alignment is 0" },
	{ "general.alignment value", 4, 1, NULL, "general.alignment is 1" },
	{ "general.alignment value", 4, 3, NULL, "general.alignment is 3" },
	{ "general.alignment value", 4, 1u << 31, NULL, "general.alignment is 2147483648" },
	{ "general.alignment value", 4, UINT32_MAX, NULL, "general.alignment" },
	{ "general.alignment value", 4, 8192, NULL, "general.alignment is 8192" },
	{ "general.alignment value", 4, 4096, NULL, "0 bytes of data" },
	{ "general.alignment value", 4, 64, NULL, "no multiple of the alignment 64" },
	{ "general.alignment type", 4, 5, NULL, "not an unsigned whole number" },
	{ "general.alignment type", 4, 6, NULL, "not an unsigned whole number" },
	{ "split.count value", 2, 3, NULL, "not named like one: rename it to NAME-00001-of-00003.gguf" },
	{ "split.count value", 2, 0, NULL, NULL },
	{ "split.count value", 2, 65535, NULL, "'split.count' is 65535, up to 1024" },
	{ "split.count type", 4, 7, NULL, "damaged" },
	{ "split.count type", 4, 3, NULL, NULL },
	{ "tokens of", 4, 9, NULL, "array of arrays" },
	{ "tokens of", 4, 13, NULL, "value type 13" },
	{ "tokens of", 4, 10, NULL, "damaged" },
	{ "tokens n", 8, 1ull << 61, NULL, "claims 2305843009213693952 elements" },
	{ "tokens n", 8, UINT64_MAX, NULL, "elements" },
	{ "tokens n", 8, 1000, NULL, "elements" },
	{ "tokens second len", 8, 1ull << 63, NULL, "a string claims" },
	{ "tokens second len", 8, 1ull << 40, NULL, "a string claims" },
	{ "types n", 8, (1ull << 63) + 3, NULL, "elements" },
	{ "types n", 8, 1 << 20, NULL, "elements" },
	{ "token_embd.weight name len", 8, 0, NULL, "a tensor's name is empty" },
	{ "token_embd.weight name len", 8, 65, NULL, "a tensor's name claims 65 bytes" },
	{ "token_embd.weight name len", 8, 1ull << 63, NULL, "a tensor's name claims" },
	{ "token_embd.weight name", 1, 0x80, NULL, "a tensor's name is not UTF-8 text" },
	{ "token_embd.weight name", 1, '\n', NULL, "a tensor's name is not UTF-8 text" },
	{ "token_embd.weight dims", 4, 0, NULL, "0 dimensions" },
	{ "token_embd.weight dims", 4, 5, NULL, "5 dimensions" },
	{ "token_embd.weight dims", 4, UINT32_MAX, NULL, "4294967295 dimensions" },
	{ "token_embd.weight d0", 8, 0, NULL, "dimension 0" },
	{ "token_embd.weight d1", 8, 0, NULL, "dimension 0" },
	{ "token_embd.weight d0", 8, UINT64_MAX, NULL, "dimension -1" },
	{ "token_embd.weight d1", 8, 1ull << 63, NULL, "dimension -9223372036854775808" },
	{ "token_embd.weight d1", 8, INT64_MAX, NULL, "larger than any file" },
	{ "token_embd.weight d0", 8, INT64_MAX, NULL, "token_embd.weight" },
	{ "token_embd.weight d1", 8, (1ull << 60) + 3, NULL, "larger than any file" },
	{ "token_embd.weight d1", 8, (1ull << 42) + 1, NULL, "bytes at offset" },
	{ "token_embd.weight d1", 8, 40, NULL, "token_embd.weight" },
	{ "token_embd.weight ggml", 4, 4, NULL, "ggml type 4" },
	{ "token_embd.weight ggml", 4, 40, NULL, "ggml type 40" },
	{ "token_embd.weight ggml", 4, UINT32_MAX, NULL, "ggml type 4294967295" },
	{ "token_embd.weight ggml", 4, 2, NULL, "no whole number of blocks of 32" },
	{ "token_embd.weight ggml", 4, 14, NULL, "no whole number of blocks of 256" },
	{ "token_embd.weight offset", 8, 1, NULL, "no multiple of the alignment 32" },
	{ "token_embd.weight offset", 8, 1ull << 63, NULL, "offset 9223372036854775808" },
	{ "token_embd.weight offset", 8, INT64_MAX - 31, NULL, "bytes at offset" },
	{ "token_embd.weight offset", 8, UINT64_MAX, NULL, "offset 18446744073709551615" },
	{ "token_embd.weight offset", 8, 64, NULL, "overlap" },
	{ "output_norm.weight offset", 8, 544, NULL, "bytes at offset 544" },
	{ "output_norm.weight offset", 8, 480, NULL, "overlap" },
	{ "output_norm.weight name", 0, 0, "token_embd.weighT", NULL },
	{ "blk.0.attn_q.bias ggml", 4, 26, NULL, NULL },
	{ "blk.0.attn_k.weight d1", 8, 3, NULL, "3 rows" },
	{ "blk.0.attn_k.weight name", 0, 0, "blk.0.attn_q.weight", "attn_q.weight' occurs twice" },
	{ "general.file key", 0, 0, "general.name", "'general.name' occurs twice" },
	{ "llama.attention.head_count value", 1, 1, NULL, NULL },
};

/* word NULL: the change does no harm. */
static void test_damaged(void **state)
{
	int wrong = 0;

	for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
		const struct damage *d = &damages[i];
		struct nvllm_loader *l;
		struct file f;
		int rc, fd;

		put_sound(&f);
		memcpy(f.bytes + mark_at(&f, d->at), d->text ? d->text : (const char *)&d->v,
			d->text ? strlen(d->text) : (size_t)d->n);
		fd = open_bytes(f.bytes, f.n, &rc, &l);
		if (!d->word) {
			assert_int_equal(rc, 0);
			use(l);
			vt->close(l);
		} else if (rc >= 0 || !strstr(sentence, d->word) ||
			strncmp(sentence, "/proc/", 6)) {
			print_error("%s: gave %d \"%s\", which should contain \"%s\"\n", d->at, rc,
				sentence, d->word);
			wrong++;
		}
		close(fd);
		host_clear();
	}
	assert_int_equal(wrong, 0);
}

static void test_truncated(void **state)
{
	struct nvllm_loader *l;
	struct file f;
	int rc, fd;

	put_sound(&f);
	for (size_t n = 0; n < f.n; n++) {
		fd = open_bytes(f.bytes, n, &rc, &l);
		if (rc >= 0 || !*sentence)
			fail_msg("cut to %zu of %zu bytes: %d \"%s\"", n, f.n, rc, sentence);
		assert_non_null(strstr(sentence, "download it again"));
		close(fd);
		host_clear();
	}
}

/* Opens, or refuses with a sentence; whatever opens can be read. */
static void test_flipped(void **state)
{
	static const uint8_t flips[] = { 0xff, 0x01, 0x02, 0x08, 0x20, 0x40, 0x80 };
	int opened = 0, refused = 0;
	struct file f;

	put_sound(&f);
	for (size_t i = 0; i < mark_at(&f, "data") * sizeof(flips); i++) {
		struct nvllm_loader *l;
		int rc, fd;

		f.bytes[i / sizeof(flips)] ^= flips[i % sizeof(flips)];
		fd = open_bytes(f.bytes, f.n, &rc, &l);
		f.bytes[i / sizeof(flips)] ^= flips[i % sizeof(flips)];
		if (rc == 0)
			use(l);
		if (rc == 0)
			vt->close(l);
		else
			assert_true(*sentence);
		rc ? refused++ : opened++;
		close(fd);
		host_clear();
	}
	print_message("of single-byte changes %d open, %d are refused\n", opened, refused);
	assert_true(opened > 0 && refused > 0);
}

static void test_shrunk(void **state)
{
	static const char *const names[] = { "model.norm.weight",
		"model.layers.0.self_attn.k_proj.weight",
		"model.layers.0.self_attn.q_proj.bias" };
	struct nvllm_loader *l;
	uint8_t data[1024];
	struct file f;
	int rc, fd;

	put_sound(&f);
	fd = open_bytes(f.bytes, f.n, &rc, &l);
	assert_int_equal(rc, 0);
	assert_int_equal(ftruncate(fd, (off_t)mark_at(&f, "data") + 330), 0);
	for (size_t i = 0; i < 3; i++) {
		struct nvllm_tensor_info info;

		sentence[0] = '\0';
		assert_int_equal(vt->find(l, names[i], &info), 0);
		assert_int_equal(vt->read(l, names[i], 0, 0, info.rows, data), NVLLM_EIO);
		assert_non_null(strstr(sentence, "shrunk"));
	}
	assert_int_equal(vt->read(l, "model.layers.0.self_attn.q_proj.weight", 0, 0, 8, data), 0);
	done(l);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_truncated), cmocka_unit_test(test_flipped),
		cmocka_unit_test(test_shrunk),
	};

	return cmocka_run_group_tests_name("gguf_damaged", tests, open_plugin, NULL);
}
