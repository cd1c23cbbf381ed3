/* SPDX-License-Identifier: MIT */
/* tests/unit/test_safetensors_hostile.c - what the safetensors loader refuses, and with what
 * words: headers, indexes, configurations, folders of another kind, and real files damaged
 * at random. */
#include "safetensors_rig.h"

#define CONFIG "{\"architectures\":[\"LlamaForCausalLM\"]}"
#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape \
	",\"data_offsets\":[" begin "," end "]}"
#define GOOD T("w", "F32", "[2,3]", "0", "24")

static void header_refused(const char *header, size_t n_data, const char *word, const char *word2)
{
	write_text("config.json", CONFIG);
	write_st("model.safetensors", header, n_data);
	sentence[0] = '\0';
	refused(dir, "model.safetensors: ", word, word2 ? word2 : word, NULL);
}

static const struct { const char *header; size_t n_data; const char *word, *word2; } headers[] = {
	/* data_offsets */
	{ "{" T("w", "F32", "[2,3]", "0", "25") "}", 25, "tensor 'w': 6 elements of type F32", "25 bytes" },
	{ "{" T("w", "F32", "[2,3]", "0", "24") "}", 23, "ends at byte 24", "has 23" },
	{ "{" T("w", "F32", "[2,3]", "0", "24") "}", 25, "1 bytes follow", "damaged" },
	{ "{" T("w", "I8", "[0]", "24", "0") "}", 24, "'w': data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "-1", "0") "}", 24, "'w': data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "0", "1.0") "}", 1, "'w': data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "0", "1e0") "}", 1, "'w': data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "0", "\"1\"") "}", 1, "'w': data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "0", "9223372036854775807") "}", 1, "ends at byte 9223372036854775807", NULL },
	{ "{" T("w", "I8", "[1]", "18446744073709551615", "18446744073709551616") "}", 1, "data_offsets", NULL },
	{ "{" T("w", "I8", "[1]", "0", "1,2") "}", 1, "'w': data_offsets", NULL },
	{ "{\"w\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets", NULL },
	{ "{\"w\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[]}}", 1, "data_offsets", NULL },
	{ "{\"w\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":{\"a\":0,\"b\":1}}}", 1, "data_offsets", NULL },
	{ "{\"w\":{\"dtype\":\"I8\",\"shape\":[1]}}", 1, "'w': data_offsets", NULL },
	/* where they lie */
	{ "{" GOOD "," T("v", "I8", "[2]", "23", "25") "}", 25, "'v' begins at byte 23", "overlap" },
	{ "{" GOOD "," T("v", "F32", "[2,3]", "0", "24") "}", 24, "begins at byte 0", "overlap" },
	{ "{" GOOD "," T("v", "I8", "[2]", "25", "27") "}", 27, "'v' begins at byte 25", "nothing claims" },
	{ "{" T("v", "I8", "[2]", "1", "3") "}", 3, "'v' begins at byte 1", "nothing claims" },
	{ "{" GOOD "," T("v", "I8", "[0]", "3", "3") "}", 24, "begins at byte", "overlap" },
	{ "{}", 1, "1 bytes follow", NULL },
	/* shape and dtype */
	{ "{" T("w", "F32", "[2,-3]", "0", "24") "}", 24, "'w': shape", NULL },
	{ "{" T("w", "F32", "[2,3.0]", "0", "24") "}", 24, "'w': shape", NULL },
	{ "{" T("w", "F32", "[2,[3]]", "0", "24") "}", 24, "'w': shape", NULL },
	{ "{" T("w", "F32", "6", "0", "24") "}", 24, "'w': shape is no list", NULL },
	{ "{" T("w", "F32", "[4294967296,4294967296]", "0", "0") "}", 0, "'w': the product", "64 bits" },
	{ "{" T("w", "F32", "[4294967296,4294967296,0]", "0", "0") "}", 0, "'w': the product", NULL },
	{ "{" T("w", "F32", "[4611686018427387905]", "0", "4") "}", 4, "'w': the product", NULL },
	{ "{" T("w", "F32", "[9223372036854775808]", "0", "4") "}", 4, "'w': shape", NULL },
	{ "{" T("w", "F4", "[3]", "0", "1") "}", 1, "'w': 3 elements of type F4", NULL },
	{ "{" T("w", "BF16", "[2,3]", "0", "24") "}", 24, "'w': 6 elements of type BF16", NULL },
	{ "{\"w\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "'w': dtype is no word", NULL },
	{ "{\"w\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "'w': dtype is no word", NULL },
	{ "{\"w\":[1]}", 1, "tensor 'w': not described by an object", NULL },
	/* the JSON */
	{ "{" GOOD "," GOOD "}", 24, "\"w\" occurs twice", "byte" },
	{ "{" GOOD "} x", 24, "no JSON", "follows" },
	{ "{" GOOD, 24, "no JSON", NULL },
	{ "[" "]", 0, "no '{' begins", NULL },
	{ " {" GOOD "}", 24, "no '{' begins", NULL },
	{ "{", 0, "no '{' begins", NULL },
	{ "{\"w\":{\"dtype\":\"I8\",\"shape\":[1e999],\"data_offsets\":[0,1]}}", 1, "too large", NULL },
	{ "{\"\xff\":{}}", 1, "invalid UTF-8", NULL },
	{ "{\"a\\u0000b\":{}}", 1, "u0000", NULL },
	{ "{\"w\":[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]}", 1, "deeper", NULL },
	{ "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__", NULL },
	{ "{\"__metadata__\":[]}", 0, "__metadata__", NULL },
	{ "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "occurs twice", NULL },
	{ "{\"\\u001b[2Jw\":1}", 0, "tensor '?[2Jw'", NULL },
};

static void test_headers(void **state)
{
	for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
		fresh(state);
		header_refused(headers[i].header, headers[i].n_data, headers[i].word, headers[i].word2);
	}
}

static void test_lengths(void **state)
{
	static const struct { const char *bytes; size_t n; const char *word; } files[] = {
		{ "", 0, "0 bytes" }, { "\2\0\0\0\0\0\0", 7, "7 bytes" }, { "\2\0\0\0\0\0\0\0", 8, "claims 2 bytes" },
		{ "\2\0\0\0\0\0\0\0{", 9, "claims 2 bytes" }, { "\1\0\0\0\0\0\0\0{", 9, "no '{'" },
		{ "\0\0\0\0\0\0\0\0{}", 10, "no '{'" }, { "\377\377\377\377\377\377\377\377{}", 10, "18446744073709551615" },
		{ "\0\0\0\0\0\0\0\200{}", 10, "legal are 100000000" }, { "\1\341\365\5\0\0\0\0{}", 10, "legal are" },
		{ "\0\341\365\5\0\0\0\0{}", 10, "claims 100000000 bytes, the file has 2" },
		{ "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 56, "git lfs pull" },
		{ "<!doctype html>", 15, "download it again" },
	};

	write_text("config.json", CONFIG);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		write_bytes("model.safetensors", files[i].bytes, files[i].n);
		refused(dir, files[i].word, NULL);
		refused(in_dir("model.safetensors"), files[i].word, NULL);
	}
}

/* More values than a million tensors have: no memory is spent on them. */
static void test_bomb(void **state)
{
	size_t n = 24 << 20;
	char *text = malloc(n + 1);

	memset(text, '1', n);
	for (size_t i = 1; i < n; i += 2)
		text[i] = ',';
	memcpy(text, "{\"a\":[", 6);
	memcpy(text + n - 3, "1]}", 4);
	header_refused(text, 0, "more than", "values");
	free(text);
}

/* ---- index ---- */

#define MAP(text) "{\"weight_map\":{" text "}}"

static void test_index(void **state)
{
	static const struct { const char *index, *word, *word2; } bad[] = {
		{ MAP("\"w\":\"a.safetensors\",\"v\":\"gone.safetensors\""),
			"gone.safetensors: no such file", "incomplete" },
		{ MAP("\"w\":\"a.safetensors\",\"x\":\"a.safetensors\""), "tensor 'x' in a.safetensors",
			"does not hold it" },
		{ MAP("\"w\":\"b.safetensors\",\"v\":\"b.safetensors\""), "tensor 'w' in b.safetensors", NULL },
		{ MAP("\"w\":\"b.safetensors\",\"v\":\"a.safetensors\""), "it is in a.safetensors", "mixed" },
		{ MAP("\"w\":\"../a.safetensors\""), "'w': its file is no plain name", NULL },
		{ MAP("\"w\":\"/etc/a.safetensors\""), "'w': its file", NULL },
		{ MAP("\"w\":\"sub/a.safetensors\""), "'w': its file", NULL },
		{ MAP("\"w\":\"..safetensors\""), "'w': its file", NULL },
		{ MAP("\"w\":\"\""), "'w': its file", NULL },
		{ MAP("\"w\":\"config.json\""), "'w': its file", NULL },
		{ MAP("\"w\":\"a\\u0000.safetensors\""), "index.json: line 1 is no JSON", NULL },
		{ MAP("\"w\":1"), "'w': is not the name of a file", NULL },
		{ MAP("\"w\":\"a.safetensors\",\"w\":\"b.safetensors\""), "\"w\" occurs twice", NULL },
		{ MAP(""), "no weight_map", NULL },
		{ "{\"weight_map\":[]}", "no weight_map", NULL },
		{ "{}", "no weight_map", NULL },
		{ "[]", "no JSON object", NULL },
		{ "{\n\n,}", "line 3 is no JSON", "index.json" },
		{ "", "line 1 is no JSON", NULL },
		{ MAP("\"w\":\"a.safetensors\",\"v\":\"b.safetensors\",\"u\":\"twice.safetensors\""),
			"tensor 'w' is in", "too" },
		{ MAP("\"w\":\"dir.safetensors\""), "dir.safetensors: a folder, not a file", NULL },
		{ MAP("\"w\":\"pipe.safetensors\""), "pipe.safetensors: a device or pipe", NULL },
	};

	write_text("config.json", CONFIG);
	write_st("a.safetensors", "{" GOOD "}", 24);
	write_st("b.safetensors", "{" T("v", "I8", "[2]", "0", "2") "}", 2);
	write_st("twice.safetensors", "{" T("u", "I8", "[2]", "0", "2") "," T("w", "I8", "[1]", "2", "3") "}", 3);
	assert_int_equal(mkdir(in_dir("dir.safetensors"), 0700), 0);
	assert_int_equal(mkfifo(in_dir("pipe.safetensors"), 0600), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		write_text("model.safetensors.index.json", bad[i].index);
		refused(dir, bad[i].word, bad[i].word2, NULL);
	}
	write_text("model.safetensors.index.json", MAP("\"w\":\"a.safetensors\",\"v\":\"b.safetensors\""));
	done(open_path(dir));
}

/* More shards than can be open. */
static void test_many_shards(void **state)
{
	char *text = malloc(64 * 1100), *p = text + sprintf(text, "{\"weight_map\":{");

	for (int i = 0; i < 1100; i++)
		p += sprintf(p, "%s\"w%d\":\"m%d.safetensors\"", i ? "," : "", i, i);
	memcpy(p, "}}", 3);
	write_text("config.json", CONFIG);
	write_text("model.safetensors.index.json", text);
	refused(dir, "1100 files", "1000", NULL);
	free(text);
}

/* ---- folders ---- */

static void test_folders(void **state)
{
	refused(dir, "holds no weights", "model.safetensors.index.json", NULL);
	write_text("config.json", CONFIG);
	refused(dir, "holds no weights", NULL);
	write_text("training_args.bin", "x");
	refused(dir, "holds no weights", NULL);
	write_text("model.gguf", "x");
	refused(dir, "model.gguf", "name the file itself", NULL);
	write_text("pytorch_model-00001-of-00002.bin", "x");
	refused(dir, "pytorch_model-00001-of-00002.bin", "convert", "save_pretrained", NULL);
	write_text("consolidated.safetensors", "x");
	refused(dir, "consolidated.safetensors", "convert", "Mistral", NULL);
	write_text("adapter_model.safetensors", "x");
	refused(dir, "adapter_model.safetensors", "LoRA", "merge", NULL);
	assert_int_equal(vt->probe(dir), 20);
	write_st("one.safetensors", "{" GOOD "}", 24);
	done(open_path(dir));
	write_st("two.safetensors", "{" GOOD "}", 24);
	refused(dir, "2 .safetensors files", "model.safetensors.index.json", NULL);
	assert_int_equal(unlink(in_dir("config.json")), 0);
	refused(dir, "2 .safetensors files", NULL);
}

static void test_no_config(void **state)
{
	struct nvllm_loader *l = NULL;

	write_st("model.safetensors", "{" GOOD "}", 24);
	refused(dir, "config.json: no such file", "download", NULL);
	sentence[0] = '\0';
	assert_int_equal(vt->open(&host, in_dir("model.safetensors"), NULL, &l), NVLLM_ENOENT);
	assert_non_null(strstr(sentence, "config.json: no such file"));
	assert_int_equal(mkdir(in_dir("config.json"), 0700), 0);
	refused(dir, "config.json: a folder", NULL);
	assert_int_equal(rmdir(in_dir("config.json")), 0);
	assert_int_equal(symlink("nowhere", in_dir("config.json")), 0);
	refused(dir, "config.json: no such file", NULL);
	refused("no/such/folder", "No such file", "[model] path", NULL);
	refused("", "No such file", NULL);
	refused("/dev/null", "a device or pipe", NULL);
}

/* ---- configurations ---- */

static void test_config(void **state)
{
	static const struct { const char *config, *word, *word2; } bad[] = {
		{ "", "config.json: line 1 is no JSON", NULL },
		{ "{\n \"a\": 1,\n \"b\": nul\n}", "config.json: line 3", NULL },
		{ "[]", "config.json: it holds no JSON object", NULL }, { "3", "no JSON object", NULL },
		{ "{\"a\":1,\"a\":2}", "occurs twice", NULL }, { "{\"a\":1e999}", "too large", NULL },
		{ "{\"a\":\"\xc3\"}", "invalid UTF-8", NULL }, { "{\"a\":NaN}", "line 1", NULL },
		{ "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\"}}",
			"quantised by 'fp8' (quantization_config)", "BF16 checkpoint or a GGUF" },
		{ "{\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantised by 'gptq'", NULL },
		{ "{\"quantization_config\":{}}", "quantised by 'unknown'", NULL },
		{ "{\"compression_config\":{\"quant_method\":\"compressed-tensors\"}}", "'compressed-tensors'", NULL },
		{ "{\"quantization\":{\"bits\":4}}", "quantised by 'mlx'", NULL },
		{ "{\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"yarn\"}}}",
			"sliding_attention.rope_type is 'yarn'", NULL },
	};
	char deep[400];

	write_st("model.safetensors", "{" GOOD "}", 24);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		write_text("config.json", bad[i].config);
		refused(dir, bad[i].word, bad[i].word2, NULL);
	}
	memset(deep, '[', sizeof(deep));
	deep[sizeof(deep) - 1] = '\0';
	write_text("config.json", deep);
	refused(dir, "config.json: line 1", "deeper", NULL);
	write_text("config.json", CONFIG);
	write_text("generation_config.json", "{\"top_k\":}");
	refused(dir, "generation_config.json: line 1 is no JSON", NULL);
}

/* Long keys at many levels are left out: what stays is no larger than the file. */
static void test_key_bomb(void **state)
{
	size_t n = 4 << 20;
	char *text = malloc(n + 64), *p = text;
	struct nvllm_loader *l;

	p += sprintf(p, "{\"a\":1,\"");
	memset(p, 'k', n / 2);
	p += n / 2;
	p += sprintf(p, "\":{\"x\":1");
	while (p < text + n)
		p += sprintf(p, ",\"%zu\":1", (size_t)(p - text));
	memcpy(p, "}}", 3);
	write_text("config.json", text);
	write_st("model.safetensors", "{" GOOD "}", 24);
	free(text);
	l = open_path(dir);
	assert_string_equal(vt->meta(l, "a"), "1");
	done(l);
}

/* ---- real files, damaged ---- */

static void copy_file(const char *from, const char *to)
{
	char *bytes = malloc(4 << 20);
	FILE *f = fopen(from, "rb");

	if (!f)
		skip();
	write_bytes(to, bytes, fread(bytes, 1, 4 << 20, f));
	fclose(f);
	free(bytes);
}

static void poke(const char *name, long at, uint8_t byte)
{
	int fd = open(in_dir(name), O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* Opens a checkpoint with a byte changed: refused in a sentence, or all can be asked. */
static void try_damaged(void)
{
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_loader *l = NULL;
	static uint8_t data[1 << 20];

	sentence[0] = '\0';
	if (vt->open(&host, dir, NULL, &l) == 0) {
		if (vt->find(l, "lm_head.weight", &f) == 0 && f.rows * f.row_bytes <= (int64_t)sizeof(data))
			assert_int_equal(vt->read(l, "lm_head.weight", f.planes - 1, 0, f.rows, data), 0);
		vt->meta(l, "name");
		vt->close(l);
	} else {
		assert_non_null(strstr(sentence, dir));
		assert_true(strlen(sentence) > strlen(dir) + 20);
	}
	host_clear();
}

static void test_damaged(void **state)
{
	static const char *const files[] = { "config.json", "generation_config.json",
		"model.safetensors.index.json", "model-00001-of-00003.safetensors",
		"model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors" };
	uint64_t r = 88172645463325252u;
	char from[512];

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(from, sizeof(from), CHECKPOINTS "qwen3-untied-f32-sharded/%s", files[i]);
		copy_file(from, files[i]);
	}
	done(open_path(dir));
	for (int round = 0; round < 600; round++) {
		const char *name = files[(size_t)round % 6];
		struct stat st;
		uint8_t old = 0;
		long at;
		int fd = open(in_dir(name), O_RDONLY | O_CLOEXEC);

		r ^= r << 13, r ^= r >> 7, r ^= r << 17;
		fstat(fd, &st);
		at = (long)(r % (uint64_t)(st.st_size < 1400 ? st.st_size : 1400));
		assert_int_equal(pread(fd, &old, 1, at), 1);
		close(fd);
		poke(name, at, (uint8_t)(r >> 40));
		try_damaged();
		poke(name, at, old);
	}
	for (int i = 5; i >= 0; i--) {
		assert_int_equal(truncate(in_dir(files[i]), 300), 0);
		refused(dir, i == 2 ? "index.json" : files[i], NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_headers, fresh), cmocka_unit_test_setup(test_lengths, fresh),
		cmocka_unit_test_setup(test_bomb, fresh), cmocka_unit_test_setup(test_index, fresh),
		cmocka_unit_test_setup(test_many_shards, fresh), cmocka_unit_test_setup(test_folders, fresh),
		cmocka_unit_test_setup(test_no_config, fresh), cmocka_unit_test_setup(test_config, fresh),
		cmocka_unit_test_setup(test_key_bomb, fresh), cmocka_unit_test_setup(test_damaged, fresh),
	};

	return cmocka_run_group_tests_name("safetensors_hostile", tests, set_up, tear_down);
}
