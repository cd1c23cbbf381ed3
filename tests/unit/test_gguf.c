/* SPDX-License-Identifier: MIT */
/* tests/unit/test_gguf.c - the GGUF loader on sound files: three small checkpoints read
 * right, wrong calls refused, large files soon opened. Expected sums of the checkpoints'
 * rows were taken from the safetensors file llama2 was converted from, and from the rows
 * of llama3's files put in Hugging Face's order. */
#include <time.h>

#include "gguf_host.h"

/* As zlib's. */
static uint32_t crc32_of(const uint8_t *p, size_t n)
{
	uint32_t c = ~0u;

	while (n--) {
		c ^= *p++;
		for (int i = 0; i < 8; i++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
	}
	return ~c;
}

/* ---- checkpoints ---- */

struct expect { const char *name; int32_t dtype; int64_t rows, cols; uint32_t crc; };

static const struct expect llama2[] = {
	{ "lm_head.weight", NVLLM_F16, 800, 96, 0x7418ba56 },
	{ "model.embed_tokens.weight", NVLLM_F16, 800, 96, 0x3d613e43 },
	{ "model.layers.0.mlp.down_proj.weight", NVLLM_F16, 96, 256, 0x741006b3 },
	{ "model.layers.0.mlp.gate_proj.weight", NVLLM_F16, 256, 96, 0xb48af978 },
	{ "model.layers.0.mlp.up_proj.weight", NVLLM_F16, 256, 96, 0xd358fd3c },
	{ "model.layers.0.self_attn.k_proj.weight", NVLLM_F16, 96, 96, 0xbcbbceaf },
	{ "model.layers.0.self_attn.o_proj.weight", NVLLM_F16, 96, 96, 0xb5f10433 },
	{ "model.layers.0.self_attn.q_proj.weight", NVLLM_F16, 96, 96, 0x28d3e6d5 },
	{ "model.layers.0.self_attn.v_proj.weight", NVLLM_F16, 96, 96, 0x2a35543e },
	{ "model.layers.2.self_attn.k_proj.weight", NVLLM_F16, 96, 96, 0x4e8b2ffe },
	{ "model.layers.2.self_attn.q_proj.weight", NVLLM_F16, 96, 96, 0x5752f09c },
	{ "model.layers.2.input_layernorm.weight", NVLLM_F32, 1, 96, 0 },
	{ "model.layers.2.post_attention_layernorm.weight", NVLLM_F32, 1, 96, 0 },
	{ "model.norm.weight", NVLLM_F32, 1, 96, 0 },
	{ NULL, 0, 0, 0, 0 },
};

static const struct expect llama3_q8_0[] = {
	{ "lm_head.weight", NVLLM_Q8_0, 1111, 128, 0x6968d0bc },
	{ "model.layers.1.self_attn.q_proj.weight", NVLLM_Q8_0, 256, 128, 0xff6ae74d },
	{ "model.layers.1.self_attn.k_proj.weight", NVLLM_Q8_0, 128, 128, 0x0902e587 },
	{ "model.layers.2.mlp.down_proj.weight", NVLLM_Q8_0, 128, 352, 0x57929b50 },
	{ "rope_freqs.weight", NVLLM_F32, 1, 32, 0x98d8d779 },
	{ NULL, 0, 0, 0, 0 },
};

static const struct expect llama3_q4_1[] = {
	{ "lm_head.weight", NVLLM_Q4_1, 1111, 128, 0x4ab7c084 },
	{ "model.layers.1.self_attn.q_proj.weight", NVLLM_Q4_1, 256, 128, 0x1ccabcc3 },
	{ "model.layers.1.self_attn.k_proj.weight", NVLLM_Q4_1, 128, 128, 0x8b793d68 },
	{ "model.layers.2.mlp.down_proj.weight", NVLLM_Q4_1, 128, 352, 0x8a7cc1ec },
	{ "rope_freqs.weight", NVLLM_F32, 1, 32, 0x98d8d779 },
	{ NULL, 0, 0, 0, 0 },
};

static const struct pair llama2_meta[] = {
	{ "architectures", "LlamaForCausalLM" }, { "name", "Llama2 F16" },
	{ "num_hidden_layers", "3" },
	{ "hidden_size", "96" }, { "intermediate_size", "256" }, { "num_attention_heads", "6" },
	{ "num_key_value_heads", "6" }, { "head_dim", "16" }, { "vocab_size", "800" },
	{ "max_position_embeddings", "1024" }, { "rope_theta", "10000" }, { "rope_dims", "16" },
	{ "tie_word_embeddings", "false" }, { "generation.top_p", "0.8999999761581421" },
	{ "rms_norm_eps", "9.999999747378752e-06" }, { "generation.top_k", NULL },
	{ "generation.temperature", "0.6000000238418579" }, { "rope_scaling.factors", NULL },
	{ "rope_scaling.rope_type", NULL },
	{ "sliding_window", NULL }, { "llama.block_count", NULL }, { "", NULL }, { NULL, NULL },
};

static const struct pair llama3_meta[] = {
	{ "architectures", "LlamaForCausalLM" }, { "num_attention_heads", "4" },
	{ "num_key_value_heads", "2" }, { "head_dim", "64" }, { "vocab_size", "1111" },
	{ "rope_theta", "500000" }, { "rope_scaling.factors", "rope_freqs.weight" },
	{ "tie_word_embeddings", "false" }, { NULL, NULL },
};

/* Any range of rows must be that part of the whole. */
static void check_ranges(struct nvllm_loader *l, const char *name,
	const struct nvllm_tensor_info *f, const uint8_t *whole)
{
	static const int64_t ranges[][2] = { { 0, 1 }, { 1, 1 }, { 3, 9 }, { 15, 2 }, { 8, 70 },
		{ 63, 1 }, { 60, 20 }, { 95, 1 }, { 96, 0 }, { 0, 64 } };
	uint8_t *part = malloc((size_t)(96 * f->row_bytes));

	for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
		int64_t row = ranges[i][0], n = ranges[i][1];

		if (row + n > f->rows)
			continue;
		memset(part, 0xee, (size_t)(96 * f->row_bytes));
		assert_int_equal(vt->read(l, name, 0, row, n, part), 0);
		assert_memory_equal(part, whole + row * f->row_bytes, (size_t)(n * f->row_bytes));
		for (int64_t j = n * f->row_bytes; j < 96 * f->row_bytes; j++)
			assert_int_equal(part[j], 0xee);
	}
	free(part);
}

static void check_tensors(struct nvllm_loader *l, const struct expect *e)
{
	for (; e->name; e++) {
		struct nvllm_tensor_info f = { .size = sizeof(f) };
		uint8_t *data;

		assert_int_equal(vt->find(l, e->name, &f), 0);
		assert_int_equal(f.size, sizeof(f));
		assert_int_equal(f.dtype, e->dtype);
		assert_int_equal(f.rows, e->rows);
		assert_int_equal(f.cols, e->cols);
		assert_int_equal(f.planes, 1);
		assert_int_equal(f.row_bytes, nvllm_row_bytes(f.dtype, f.cols));
		data = malloc((size_t)(f.rows * f.row_bytes));
		assert_int_equal(vt->read(l, e->name, 0, 0, f.rows, data), 0);
		if (e->crc && crc32_of(data, (size_t)(f.rows * f.row_bytes)) != e->crc)
			fail_msg("%s: other bytes than the checkpoint's", e->name);
		check_ranges(l, e->name, &f, data);
		free(data);
	}
}

static void test_llama2(void **state)
{
	struct nvllm_loader *l = open_path("tests/data/gguf/llama2.f16.gguf");
	const struct nvllm_str *tokens;
	struct nvllm_array a;

	check_tensors(l, llama2);
	check_meta(l, llama2_meta);
	assert_int_equal(vt->array(l, "tokenizer.ggml.tokens", &a), 0);
	assert_int_equal(a.type, NVLLM_ARRAY_STR);
	assert_int_equal(a.n, 800);
	tokens = a.data;
	assert_int_equal(tokens[3].len, 6);
	assert_memory_equal(tokens[3].s, "<0x00>", 6);
	assert_int_equal(vt->array(l, "tokenizer.ggml.scores", &a), 0);
	assert_int_equal(a.type, NVLLM_F32);
	assert_true(((const float *)a.data)[1] == -1000.0f);
	assert_int_equal(vt->array(l, "tokenizer.ggml.token_type", &a), 0);
	assert_int_equal(a.type, NVLLM_I32);
	assert_int_equal(((const int32_t *)a.data)[3], 6);
	assert_int_equal(vt->array(l, "tokenizer.ggml.add_bos_token", &a), 0);
	assert_int_equal(a.n, 1);
	assert_int_equal(*(const int32_t *)a.data, 1);
	assert_int_equal(vt->array(l, "tokenizer.ggml.model", &a), 0);
	assert_memory_equal(((const struct nvllm_str *)a.data)->s, "llama", 5);
	assert_int_equal(vt->array(l, "no.such.key", &a), NVLLM_ENOENT);
	done(l);
}

static void test_llama3(void **state)
{
	struct nvllm_loader *l = open_path("tests/data/gguf/llama3.q8_0.gguf");

	check_tensors(l, llama3_q8_0);
	check_meta(l, llama3_meta);
	done(l);
	l = open_path("tests/data/gguf/llama3.q4_1.gguf");
	check_tensors(l, llama3_q4_1);
	check_meta(l, llama3_meta);
	done(l);
}

static void test_wrong_calls(void **state)
{
	static const char norm[] = "model.norm.weight";
	static const struct call {
		const char *name;
		int32_t plane;
		int64_t row, n;
		const char *word;
	} calls[] = {
		{ norm, 0, 0, 2, "no 2 rows" }, { norm, 0, -1, 1, "row -1" },
		{ norm, 1, 0, 1, "plane 1" }, { norm, -1, 0, 1, "plane -1" },
		{ norm, 0, 0, -1, "-1 rows" }, { norm, 0, 2, 0, "row 2" },
		{ norm, 0, INT64_MAX, 1, "row 9223372036854775807" },
		{ norm, 0, 1, INT64_MAX, "9223372036854775807 rows" },
		{ "no.such.tensor", 0, 0, 1, "no tensor 'no.such.tensor'" },
		{ "", 0, 0, 1, "no tensor" },
	};
	struct nvllm_loader *l = open_path("tests/data/gguf/llama2.f16.gguf");
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	char row[4096];

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		const struct call *c = &calls[i];

		sentence[0] = '\0';
		assert_true(vt->read(l, c->name, c->plane, c->row, c->n, row) < 0);
		assert_non_null(strstr(sentence, c->word));
	}
	sentence[0] = '\0';
	assert_int_equal(vt->find(l, "blk.0.attn_q.weight", &f), NVLLM_ENOENT);
	assert_string_equal(sentence, "");
	done(l);
}

static void test_no_file(void **state)
{
	struct nvllm_loader *l = NULL;

	assert_int_equal(vt->open(&host, "no/such.gguf", NULL, &l), NVLLM_ENOENT);
	assert_non_null(strstr(sentence, "no/such.gguf: no such file; [model] path names"));
	assert_int_equal(vt->open(&host, "tests", NULL, &l), NVLLM_EINVAL);
	assert_non_null(strstr(sentence, "a folder"));
	assert_int_equal(vt->open(&host, "/dev/null", NULL, &l), NVLLM_EINVAL);
	assert_null(l);
	assert_int_equal(vt->probe("no/such.gguf"), 30);
	assert_int_equal(vt->probe("no/such.file"), 0);
	assert_int_equal(vt->probe("tests"), 0);
	assert_int_equal(vt->probe("meson.build"), 0);
	assert_int_equal(vt->probe(""), 0);
	assert_int_equal(vt->probe("tests/data/gguf/llama2.f16.gguf"), 100);
	host_clear();
}

/* ---- size ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_many_keys(void **state)
{
	enum { N = 1000000 };
	uint8_t *bytes = malloc(40 + 40 * (size_t)N), *p = bytes;
	struct nvllm_loader *l;
	struct nvllm_array a;
	char path[64];
	double t;
	int rc, fd;

	memcpy(p, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\x40\x42\x0f\0\0\0\0\0", 24);
	p += 24;
	for (uint64_t i = 0; i < N; i++) {
		uint64_t len = 20, mixed = i * 0x9e3779b97f4a7c15u;

		memcpy(p, &len, 8);
		snprintf((char *)p + 8, 22, "key.%016" PRIx64, mixed);
		if (i == 7)
			memcpy(p + 8, "general.architecture", 20);
		if (i == 7)
			memcpy(p + 28, "\x8\0\0\0\1\0\0\0\0\0\0\0x", 13);
		else
			memcpy(p + 28, "\x4\0\0\0\1\2\3\4", 8);
		p += i == 7 ? 41 : 36;
	}
	fd = open_bytes(bytes, (size_t)(p - bytes), &rc, &l);
	assert_int_equal(rc, 0);
	done(l);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	t = now();
	l = open_path(path);
	print_message("1 million keys in %.0f ms\n", 1e3 * (now() - t));
	assert_int_equal(vt->array(l, "key.9e3779b97f4a7c15", &a), 0);
	assert_int_equal(*(const int32_t *)a.data, 0x04030201);
	assert_string_equal(vt->meta(l, "architectures"), "x");
	done(l);
	close(fd);
	free(bytes);
}

static void test_smollm2(void **state)
{
	static const char path[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
	struct nvllm_loader *l;
	struct nvllm_array a;
	double t;

	if (access(path, R_OK)) {
		print_message("%s is not there: scripts/test gets it\n", path);
		skip();
	}
	t = now();
	l = open_path(path);
	print_message("SmolLM2 opened in %.1f ms\n", 1e3 * (now() - t));
	assert_int_equal(vt->array(l, "tokenizer.ggml.merges", &a), 0);
	assert_int_equal(a.n, 48900);
	assert_string_equal(vt->meta(l, "tie_word_embeddings"), "true");
	assert_string_equal(vt->meta(l, "vocab_size"), "49152");
	assert_string_equal(vt->meta(l, "head_dim"), "64"); /* no key says it: hidden_size over heads */
	done(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_llama2), cmocka_unit_test(test_llama3),
		cmocka_unit_test(test_wrong_calls), cmocka_unit_test(test_no_file),
		cmocka_unit_test(test_many_keys), cmocka_unit_test(test_smollm2),
	};

	return cmocka_run_group_tests_name("gguf", tests, open_plugin, NULL);
}
