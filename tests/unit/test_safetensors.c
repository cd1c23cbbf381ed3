/* SPDX-License-Identifier: MIT */
/* tests/unit/test_safetensors.c - the safetensors loader on sound checkpoints: real ones and
 * made ones read right, every way to name them, experts as planes, rows from many threads. The
 * sums of tensors were taken by another reader (Python's json and zlib). */
#include <pthread.h>
#include <time.h>

#include "../sanitized.h"
#include "safetensors_rig.h"

#define CONFIG "{\"architectures\":[\"LlamaForCausalLM\"]}"
#define ONE_TENSOR "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}"

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

/* ---- real checkpoints ---- */

struct expect { const char *folder, *name; int32_t dtype; int64_t rows, cols; uint32_t crc; };

static const struct expect expected[] = {
	{ "qwen3-tied-bf16", "model.embed_tokens.weight", NVLLM_BF16, 1024, 64, 0x6c7ccf82 },
	{ "qwen3-tied-bf16", "model.layers.1.self_attn.q_norm.weight", NVLLM_BF16, 1, 128,
		0x252c5342 },
	{ "qwen3-tied-bf16", "model.layers.2.mlp.down_proj.weight", NVLLM_BF16, 64, 192, 0xae873f62 },
	{ "qwen3-untied-f32-sharded", "lm_head.weight", NVLLM_F32, 1024, 96, 0x8238d752 },
	{ "qwen3-untied-f32-sharded", "model.embed_tokens.weight", NVLLM_F32, 1024, 96, 0x01607090 },
	{ "qwen3-untied-f32-sharded", "model.layers.0.self_attn.k_proj.weight", NVLLM_F32, 64, 96,
		0x3e9223fc },
	{ "qwen3-untied-f32-sharded", "model.layers.1.mlp.gate_proj.weight", NVLLM_F32, 256, 96,
		0x9efc2c9b },
	{ "qwen3-untied-f32-sharded", "model.layers.2.input_layernorm.weight", NVLLM_F32, 1, 96,
		0x0d35c9a6 },
	{ "qwen3-untied-f32-sharded", "model.norm.weight", NVLLM_F32, 1, 96, 0x44112c13 },
	{ "llama2-f16", "model.layers.0.self_attn.v_proj.weight", NVLLM_F16, 96, 96, 0x2a35543e },
	{ "llama2-f16", "model.layers.0.self_attn.rotary_emb.inv_freq", NVLLM_F32, 1, 8, 0xd5bb7577 },
	{ "llama3-bf16", "lm_head.weight", NVLLM_BF16, 1111, 128, 0x735c1f28 },
	{ "llama3-bf16", "model.layers.2.mlp.up_proj.weight", NVLLM_BF16, 352, 128, 0xbd59225b },
	{ "qwen2-bf16", "model.layers.0.self_attn.q_proj.bias", NVLLM_BF16, 1, 224, 0x9947dbeb },
	{ "qwen2-bf16", "model.layers.1.self_attn.o_proj.weight", NVLLM_BF16, 224, 224, 0x085fdc2c },
	{ "mistral-swa-bf16", "model.layers.3.mlp.gate_proj.weight", NVLLM_BF16, 224, 64, 0x708ea3f5 },
	{ "qwen3-moe-bf16", "model.layers.0.mlp.experts.7.up_proj.weight", NVLLM_BF16, 64, 64,
		0xd6941efa },
	{ "qwen3-moe-bf16", "model.layers.2.mlp.gate.weight", NVLLM_BF16, 8, 64, 0x0b2e6d62 },
	{ "gemma3-text-bf16", "model.layers.6.pre_feedforward_layernorm.weight", NVLLM_BF16, 1, 64,
		0x6bc939bd },
	{ "gemma3-text-bf16", "model.layers.5.self_attn.k_norm.weight", NVLLM_BF16, 1, 32,
		0x22c1b1f9 },
};
#define N_EXPECTED (sizeof(expected) / sizeof(*expected))

static const char *checkpoint(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), CHECKPOINTS "%s", name);
	if (access(path, R_OK)) {
		print_message("%s is not there\n", path);
		skip();
	}
	return path;
}

/* Any range of rows must be that part of the whole. */
static void check_ranges(struct nvllm_loader *l, const char *name,
	const struct nvllm_tensor_info *f, const uint8_t *whole)
{
	static const int64_t ranges[][2] = { { 0, 1 }, { 1, 1 }, { 3, 9 }, { 8, 70 }, { 95, 1 },
		{ 96, 0 }, { 0, 64 } };
	size_t room = (size_t)(96 * f->row_bytes);
	uint8_t *part = malloc(room);

	for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
		int64_t row = ranges[i][0], n = ranges[i][1];

		if (row + n > f->rows)
			continue;
		memset(part, 0xee, room);
		assert_int_equal(vt->read(l, name, 0, row, n, part), 0);
		assert_memory_equal(part, whole + row * f->row_bytes, (size_t)(n * f->row_bytes));
		for (size_t j = (size_t)(n * f->row_bytes); j < room; j++)
			assert_int_equal(part[j], 0xee);
	}
	free(part);
}

static void check_tensor(struct nvllm_loader *l, const struct expect *e)
{
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	uint8_t *data;

	assert_int_equal(vt->find(l, e->name, &f), 0);
	assert_int_equal(f.size, sizeof(f));
	assert_int_equal(f.dtype, e->dtype);
	assert_int_equal(f.rows, e->rows);
	assert_int_equal(f.cols, e->cols);
	assert_int_equal(f.planes, 1);
	assert_int_equal(f.row_bytes, nvllm_row_bytes(e->dtype, e->cols));
	data = malloc((size_t)(f.rows * f.row_bytes));
	assert_int_equal(vt->read(l, e->name, 0, 0, f.rows, data), 0);
	if (crc32_of(data, (size_t)(f.rows * f.row_bytes)) != e->crc)
		fail_msg("%s/%s holds other numbers", e->folder, e->name);
	check_ranges(l, e->name, &f, data);
	free(data);
}

static void test_checkpoints(void **state)
{
	for (size_t i = 0; i < N_EXPECTED; i++) {
		const char *path = checkpoint(expected[i].folder);
		struct nvllm_loader *l = open_path(path);

		assert_int_equal(vt->probe(path), 90);
		check_tensor(l, &expected[i]);
		done(l);
	}
}

static const struct { const char *folder; struct pair pairs[24]; } metas[] = {
	{ "qwen3-tied-bf16", {
		{ "architectures", "Qwen3ForCausalLM" }, { "name", "qwen3-tied-bf16" },
		{ "num_hidden_layers", "3" }, { "rope_theta", "1000000" }, { "rms_norm_eps", "1e-06" },
		{ "rope_scaling", NULL }, { "sliding_window", NULL }, { "use_sliding_window", "false" },
		{ "tie_word_embeddings", "true" }, { "dtype", "bfloat16" }, { "eos_token_id", "1002" },
		{ "generation.eos_token_id", "1002 1000" }, { "generation.temperature", "0.6" },
		{ "generation.top_k", "20" }, { "generation.top_p", "0.95" },
		{ "generation.do_sample", "true" }, { "generation.min_p", NULL }, { "", NULL },
		{ "no_such_key", NULL } } },
	{ "llama3-bf16", {
		{ "rope_scaling.rope_type", "llama3" }, { "rope_scaling.factor", "8.0" },
		{ "rope_scaling.original_max_position_embeddings", "64" }, { "rope_theta", "500000.0" },
		{ "eos_token_id", "1101 1107 1108" }, { "head_dim", "64" } } },
	{ "mistral-swa-bf16", {
		{ "rope_theta", "10000.0" }, { "rope_scaling.rope_type", "default" },
		{ "dtype", "bfloat16" }, { "sliding_window", "32" },
		{ "rope_scaling.rope_theta", "10000.0" } } },
	{ "gemma3-text-bf16", {
		{ "rope_theta", "1000000" }, { "rope_local_base_freq", "10000" },
		{ "generation.eos_token_id", "1 5" }, { "attn_logit_softcapping", NULL },
		{ "query_pre_attn_scalar", "24" } } },
	{ "qwen3-moe-bf16", { { "mlp_only_layers", "" }, { "norm_topk_prob", "true" } } },
	{ "llama2-f16", { { "dtype", "float16" }, { "generation.eos_token_id", "2" },
		{ "head_dim", NULL } } },
};

static void test_meta_of_checkpoints(void **state)
{
	for (size_t i = 0; i < sizeof(metas) / sizeof(*metas); i++) {
		struct nvllm_loader *l = open_path(checkpoint(metas[i].folder));
		struct nvllm_array a = { .size = sizeof(a) };

		check_meta(l, metas[i].pairs);
		assert_int_equal(vt->array(l, "tokenizer.ggml.tokens", &a), NVLLM_ENOENT);
		done(l);
	}
}

/* ---- made checkpoints ---- */

static struct nvllm_loader *open_with(const char *config, const char *generation)
{
	write_text("config.json", config);
	write_st("model.safetensors", ONE_TENSOR, 24);
	if (generation)
		write_text("generation_config.json", generation);
	return open_path(dir);
}

struct case_ { const char *config, *generation; struct pair pairs[12]; };

static const struct case_ cases[] = {
	{ "{}", NULL, { { "architectures", NULL }, { "generation.eos_token_id", NULL },
		{ "rope_theta", NULL } } },
	/* lists, nested objects, numbers as they stand, strings */
	{ "{\"a\":[1,2.50,-3e2,true,null,\"x y\"],\"o\":{\"p\":{\"q\":1e-06}},\"none\":null,"
	  "\"big\":18446744073709551616,\"l\":[],\"deep\":[[1]],\"s\":\"caf\\u00e9 \\u001b[2J\","
	  "\"dot.ted\":1,\"o2\":{\"x\":[{\"y\":1}]},\"architectures\":[\"A\",\"B\"]}", NULL,
		{ { "a", "1 2.50 -3e2 true null x y" }, { "o.p.q", "1e-06" }, { "none", NULL },
		{ "big", "18446744073709551616" }, { "l", "" }, { "deep", NULL }, { "o", NULL },
		{ "s", "caf\xc3\xa9 ?[2J" }, { "dot.ted", NULL }, { "o2.x", NULL },
		{ "architectures", "A" } } },
	/* rotary parameters flat, of transformers 5 */
	{ "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":5e5,\"factor\":4.0,"
	  "\"partial_rotary_factor\":0.5},\"rope_theta\":1,\"dtype\":\"float32\","
	  "\"torch_dtype\":\"float16\"}", NULL,
		{ { "rope_theta", "5e5" }, { "rope_scaling.rope_type", "yarn" },
		{ "rope_scaling.factor", "4.0" }, { "partial_rotary_factor", "0.5" },
		{ "rope_local_base_freq", NULL }, { "dtype", "float32" } } },
	/* the same for each kind of layer */
	{ "{\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,"
	  "\"rope_theta\":1000000.0},\"sliding_attention\":{\"rope_type\":\"default\","
	  "\"rope_theta\":10000.0}}}", NULL,
		{ { "rope_theta", "1000000.0" }, { "rope_scaling.rope_type", "linear" },
		{ "rope_scaling.factor", "8.0" }, { "rope_local_base_freq", "10000.0" } } },
	/* the older spellings */
	{ "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_theta\":10000,"
	  "\"torch_dtype\":\"torch.bfloat16\",\"rope_local_base_freq\":7}", NULL,
		{ { "rope_scaling.rope_type", "linear" }, { "rope_scaling.factor", "2" },
		{ "rope_theta", "10000" }, { "dtype", "bfloat16" }, { "rope_local_base_freq", "7" } } },
	{ "{\"rope_scaling\":{\"type\":\"mrope\",\"rope_type\":\"default\"}}", NULL,
		{ { "rope_scaling.rope_type", "default" } } },
	/* rope_scaling wins over rope_parameters, as in transformers */
	{ "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2},"
	  "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":3}}", NULL,
		{ { "rope_scaling.rope_type", "linear" }, { "rope_theta", "3" } } },
	{ "{\"rope_parameters\":null,\"rope_scaling\":null,\"rope_theta\":9}", NULL,
		{ { "rope_theta", "9" }, { "rope_scaling.rope_type", NULL } } },
	/* end tokens */
	{ "{\"eos_token_id\":[7,8]}", NULL, { { "generation.eos_token_id", "7 8" } } },
	{ "{\"eos_token_id\":7}", "{\"top_k\":5}", { { "generation.eos_token_id", "7" },
		{ "generation.top_k", "5" } } },
	{ "{\"eos_token_id\":7}", "{\"eos_token_id\":9}", { { "generation.eos_token_id", "9" },
		{ "eos_token_id", "7" } } },
	{ "{\"eos_token_id\":7}", "{\"eos_token_id\":null}", { { "generation.eos_token_id", "7" } } },
	/* config.json cannot speak for generation_config.json, or give the name */
	{ "{\"generation\":{\"top_k\":3},\"name\":\"x\",\"_name_or_path\":\"org/good-name\"}", NULL,
		{ { "generation.top_k", NULL }, { "name", "good-name" } } },
	{ "{\"quantization_config\":null,\"architectures\":\"Solo\"}", NULL,
		{ { "architectures", "Solo" } } },
};

static void test_meta(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct nvllm_loader *l = open_with(cases[i].config, cases[i].generation);

		check_meta(l, cases[i].pairs);
		done(l);
		fresh(state);
	}
}

static void expect_name(const char *path, const char *name)
{
	struct nvllm_loader *l = open_path(path);

	assert_string_equal(vt->meta(l, "name"), name);
	done(l);
}

/* The layout of the hub's cache: links from a snapshot to blobs. */
static void test_names_and_links(void **state)
{
	static const char snapshot[] = "models--Org--Some--Model/snapshots/0123abcd";
	char cwd[4096], path[600];

	mkdir(in_dir("blobs"), 0700);
	write_st("blobs/aa", ONE_TENSOR, 24);
	write_text("blobs/bb", CONFIG);
	mkdir(in_dir("models--Org--Some--Model"), 0700);
	mkdir(in_dir("models--Org--Some--Model/snapshots"), 0700);
	mkdir(in_dir(snapshot), 0700);
	snprintf(path, sizeof(path), "%s/%s/model.safetensors", dir, snapshot);
	assert_int_equal(symlink("../../../blobs/aa", path), 0);
	assert_int_equal(vt->probe(path), 90);
	snprintf(path, sizeof(path), "%s/%s/config.json", dir, snapshot);
	assert_int_equal(symlink("../../../blobs/bb", path), 0);
	assert_int_equal(vt->probe(in_dir(snapshot)), 90);
	expect_name(in_dir(snapshot), "Org/Some--Model");
	snprintf(path, sizeof(path), "%s/%s/model.safetensors", dir, snapshot);
	expect_name(path, "Org/Some--Model");
	assert_int_equal(symlink(snapshot, in_dir("mine")), 0);
	expect_name(in_dir("mine"), "mine");
	expect_name(in_dir("mine/"), "mine");
	expect_name(in_dir("mine//"), "mine");
	expect_name(in_dir("mine/model.safetensors"), "mine");
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(in_dir("blobs/../mine")), 0);
	expect_name(".", "0123abcd");
	expect_name("./model.safetensors", "0123abcd");
	expect_name("model.safetensors", "0123abcd");
	assert_int_equal(chdir(cwd), 0);
}

/* A folder's one file of another name, shards, a file by itself; others are not looked at. */
static void test_which_files(void **state)
{
	static const char index[] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{"
		"\"w\":\"b.safetensors\",\"v\":\"a.safetensors\"}}";
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_loader *l;
	uint8_t row[12];

	write_text("config.json", CONFIG);
	write_st("b.safetensors", ONE_TENSOR, 24);
	assert_int_equal(vt->probe(dir), 90);
	done(open_path(dir));
	done(open_path(in_dir("b.safetensors")));
	write_st("a.safetensors", "{\"v\":{\"dtype\":\"I8\",\"shape\":[7],\"data_offsets\":[0,7]},"
		"\"extra\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[7,15]}}   ", 15);
	write_text("model.safetensors.index.json", index);
	l = open_path(dir);
	assert_int_equal(vt->find(l, "v", &f), 0);
	assert_int_equal(f.cols, 7);
	assert_int_equal(vt->find(l, "extra", &f), 0); /* the index need not name all */
	assert_int_equal(f.rows * f.cols, 1);
	assert_int_equal(vt->read(l, "w", 0, 1, 1, row), 0);
	assert_memory_equal(row, "\14\15\16\17\20\21\22\23\24\25\26\27", 12);
	done(l);
	write_text("consolidated.safetensors", "junk");
	write_st("model.safetensors", "{}", 0);
	l = open_path(dir);
	assert_int_equal(vt->find(l, "w", &f), NVLLM_ENOENT);
	done(l);
}

static void test_probe(void **state)
{
	assert_int_equal(vt->probe(""), 0);
	assert_int_equal(vt->probe("/"), 0);
	assert_int_equal(vt->probe("/dev/null"), 0);
	assert_int_equal(vt->probe("meson.build"), 0);
	assert_int_equal(vt->probe("tests/data/gguf/llama2.f16.gguf"), 0);
	assert_int_equal(vt->probe("no/such.safetensors"), 30);
	assert_int_equal(vt->probe(dir), 0);
	write_text("config.json", CONFIG);
	assert_int_equal(vt->probe(dir), 20);
	write_text("x.safetensors", "12345678{");
	assert_int_equal(vt->probe(in_dir("x.safetensors")), 30);
	write_st("blob", ONE_TENSOR, 24);
	assert_int_equal(vt->probe(in_dir("blob")), 90);
	assert_int_equal(vt->probe(dir), 90);
}

/* ---- shapes ---- */

static const char shapes[] = "{\"__metadata__\":{\"format\":\"pt\"},"
	"\"zero\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[0,0]},"
	"\"scalar\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[0,4]},"
	"\"vector\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[4,10]},"
	"\"odd\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[10,11]},"
	"\"cube\":{\"dtype\":\"BF16\",\"shape\":[2,3,4],\"data_offsets\":[11,59]},"
	"\"four\":{\"dtype\":\"I8\",\"shape\":[1,1,1,5],\"data_offsets\":[59,64]},"
	"\"bool\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[64,66]},"
	"\"u8\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[66,68]},"
	"\"f4\":{\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[68,70]},"
	"\"new\":{\"dtype\":\"F3\",\"shape\":[9],\"data_offsets\":[70,72]},"
	"\"e4m3\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[72,76]},"
	"\"e5m2\":{\"dtype\":\"F8_E5M2\",\"shape\":[2,2],\"data_offsets\":[76,80],\"more\":{}},"
	"\"i64\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[80,88]}}";

static void test_shapes(void **state)
{
	static const struct { const char *name; int32_t dtype, planes; int64_t rows, cols; } want[] = {
		{ "scalar", NVLLM_F32, 1, 1, 1 }, { "vector", NVLLM_F16, 1, 1, 3 },
		{ "odd", NVLLM_I8, 1, 1, 1 }, { "cube", NVLLM_BF16, 2, 3, 4 },
		{ "e4m3", NVLLM_F8_E4M3, 1, 2, 2 }, { "e5m2", NVLLM_F8_E5M2, 1, 2, 2 },
		{ "i64", NVLLM_I64, 1, 1, 1 },
	};
	static const char *const unseen[] = { "zero", "four", "bool", "u8", "f4", "new",
		"__metadata__", "nothing", "" };
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_loader *l;
	uint8_t row[16];

	write_text("config.json", CONFIG);
	write_st("model.safetensors", shapes, 88);
	l = open_path(dir);
	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
		assert_int_equal(vt->find(l, want[i].name, &f), 0);
		assert_int_equal(f.dtype, want[i].dtype);
		assert_int_equal(f.planes, want[i].planes);
		assert_int_equal(f.rows, want[i].rows);
		assert_int_equal(f.cols, want[i].cols);
	}
	for (size_t i = 0; i < sizeof(unseen) / sizeof(*unseen); i++) {
		sentence[0] = '\0';
		assert_int_equal(vt->find(l, unseen[i], &f), NVLLM_ENOENT);
		assert_string_equal(sentence, "");
		assert_int_equal(vt->read(l, unseen[i], 0, 0, 1, row), NVLLM_ENOENT);
		assert_non_null(strstr(sentence, dir));
	}
	assert_int_equal(vt->read(l, "cube", 1, 2, 1, row), 0); /* at 11 + (3 + 2) * 8 */
	assert_memory_equal(row, "\63\64\65\66\67\70\71\72", 8);
	done(l);
}

/* Two experts [4][3] with gate's rows before up's, and down [3][2]. */
static const char fused[] = "{\"l.experts.gate_up_proj\":{\"dtype\":\"I8\",\"shape\":[2,4,3],"
	"\"data_offsets\":[0,24]},\"l.experts.down_proj\":{\"dtype\":\"I8\",\"shape\":[2,3,2],"
	"\"data_offsets\":[24,36]},\"odd.experts.gate_up_proj\":{\"dtype\":\"I8\",\"shape\":[1,3,1],"
	"\"data_offsets\":[36,39]}}";

static void test_experts(void **state)
{
	static const char gate[] = "l.experts.*.gate_proj.weight", up[] = "l.experts.*.up_proj.weight",
		down[] = "l.experts.*.down_proj.weight";
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_loader *l;
	uint8_t rows[6];

	write_text("config.json", "{\"architectures\":[\"Qwen3MoeForCausalLM\"]}");
	write_st("model.safetensors", fused, 39);
	l = open_path(dir);
	assert_int_equal(vt->find(l, up, &f), 0);
	assert_int_equal(f.planes, 2);
	assert_int_equal(f.rows, 2);
	assert_int_equal(f.cols, 3);
	assert_int_equal(vt->read(l, gate, 1, 0, 2, rows), 0);
	assert_memory_equal(rows, "\14\15\16\17\20\21", 6);
	assert_int_equal(vt->read(l, up, 0, 1, 1, rows), 0);
	assert_memory_equal(rows, "\11\12\13", 3);
	assert_int_equal(vt->read(l, up, 1, 0, 2, rows), 0);
	assert_memory_equal(rows, "\22\23\24\25\26\27", 6);
	assert_true(vt->read(l, up, 0, 1, 2, rows) < 0);
	assert_true(vt->read(l, up, 2, 0, 1, rows) < 0);
	assert_int_equal(vt->find(l, down, &f), 0);
	assert_int_equal(f.rows, 3);
	assert_int_equal(f.cols, 2);
	assert_int_equal(vt->read(l, down, 1, 2, 1, rows), 0);
	assert_memory_equal(rows, "\42\43", 2);
	assert_int_equal(vt->find(l, "odd.experts.*.up_proj.weight", &f), NVLLM_ENOENT);
	assert_int_equal(vt->find(l, "x.experts.*.up_proj.weight", &f), NVLLM_ENOENT);
	assert_int_equal(vt->find(l, "l.experts.*.up_proj.bias", &f), NVLLM_ENOENT);
	assert_int_equal(vt->find(l, "l.experts.0.up_proj.weight", &f), NVLLM_ENOENT);
	assert_int_equal(vt->find(l, "*", &f), NVLLM_ENOENT);
	done(l);
	write_text("config.json", CONFIG); /* of another architecture: their order is not known */
	l = open_path(dir);
	assert_int_equal(vt->find(l, up, &f), NVLLM_ENOENT);
	assert_int_equal(vt->find(l, "l.experts.gate_up_proj", &f), 0);
	done(l);
	l = open_path(checkpoint("qwen3-moe-bf16")); /* each expert has tensors of its own */
	assert_int_equal(vt->find(l, "model.layers.0.mlp.experts.*.up_proj.weight", &f), NVLLM_ENOENT);
	done(l);
}

/* ---- reading ---- */

static void test_wrong_calls(void **state)
{
	static const struct { const char *name; int32_t plane; int64_t row, n; const char *word; } calls[] = {
		{ "w", 0, 0, 3, "no 3 rows" }, { "w", 0, -1, 1, "row -1" }, { "w", 1, 0, 1, "plane 1" },
		{ "w", -1, 0, 1, "plane -1" }, { "w", 0, 0, -1, "-1 rows" }, { "w", 0, 3, 0, "row 3" },
		{ "w", 0, INT64_MAX, 1, "row 9223372036854775807" },
		{ "w", 0, 1, INT64_MAX, "9223372036854775807 rows" }, { "nothing", 0, 0, 1, "'nothing'" },
	};
	struct nvllm_loader *l = open_with(CONFIG, NULL);
	char row[64];

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		sentence[0] = '\0';
		assert_true(vt->read(l, calls[i].name, calls[i].plane, calls[i].row, calls[i].n, row) < 0);
		assert_non_null(strstr(sentence, calls[i].word));
	}
	assert_int_equal(vt->read(l, "w", 0, 2, 0, row), 0);
	done(l);
}

static void test_shrunk(void **state)
{
	struct nvllm_loader *l = open_with(CONFIG, NULL);
	char rows[24];

	assert_int_equal(truncate(in_dir("model.safetensors"), 80), 0);
	assert_int_equal(vt->read(l, "w", 0, 0, 2, rows), NVLLM_EIO);
	assert_non_null(strstr(sentence, "has shrunk"));
	assert_non_null(strstr(sentence, "model.safetensors"));
	done(l);
}

static void *read_all(void *arg)
{
	struct nvllm_loader *l = arg;
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	long bad = 0;

	for (int round = 0; round < 3; round++)
		for (size_t i = 3; i < 9; i++) {
			const struct expect *e = &expected[i];
			uint8_t *data = malloc((size_t)(e->rows * e->cols * 4));

			bad += vt->find(l, e->name, &f) != 0 || vt->read(l, e->name, 0, 0, e->rows, data) ||
				crc32_of(data, (size_t)(e->rows * e->cols * 4)) != e->crc ||
				!vt->meta(l, "hidden_size") || vt->read(l, e->name, 1, 0, 1, data) == 0 ||
				!strstr(sentence, e->name);
			free(data);
		}
	return (void *)bad;
}

static void test_threads(void **state)
{
	struct nvllm_loader *l = open_path(checkpoint("qwen3-untied-f32-sharded"));
	pthread_t threads[4];
	void *bad;

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_all, l), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	done(l);
}

/* ---- size ---- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* In an order that is neither that of the data nor that of the names. */
static void test_many_tensors(void **state)
{
	const uint32_t n = SANITIZED ? 100000 : 1000000;
	char *text = malloc(96 * (size_t)n), *p = text;
	struct nvllm_tensor_info f = { .size = sizeof(f) };
	struct nvllm_loader *l;
	uint8_t byte;
	double t;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = (uint32_t)(i * 7919ull % n);

		p += sprintf(p, "%c\"t%u\":{\"dtype\":\"I8\",\"shape\":[1,1],\"data_offsets\":[%u,%u]}",
			i ? ',' : '{', k * 2654435761u, k, k + 1);
	}
	memcpy(p, "}", 2);
	write_text("config.json", CONFIG);
	write_st("model.safetensors", text, n);
	free(text);
	t = now();
	l = open_path(dir);
	print_message("%u tensors in %.0f ms\n", n, 1e3 * (now() - t));
	for (uint32_t k = 0; k < n; k += 9973) {
		char name[16];

		snprintf(name, sizeof(name), "t%u", k * 2654435761u);
		assert_int_equal(vt->find(l, name, &f), 0);
		assert_int_equal(vt->read(l, name, 0, 0, 1, &byte), 0);
		assert_int_equal(byte, (uint8_t)k);
	}
	done(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_checkpoints, fresh),
		cmocka_unit_test_setup(test_meta_of_checkpoints, fresh),
		cmocka_unit_test_setup(test_meta, fresh),
		cmocka_unit_test_setup(test_names_and_links, fresh),
		cmocka_unit_test_setup(test_which_files, fresh),
		cmocka_unit_test_setup(test_probe, fresh),
		cmocka_unit_test_setup(test_shapes, fresh),
		cmocka_unit_test_setup(test_experts, fresh),
		cmocka_unit_test_setup(test_wrong_calls, fresh),
		cmocka_unit_test_setup(test_shrunk, fresh),
		cmocka_unit_test_setup(test_threads, fresh),
		cmocka_unit_test_setup(test_many_tensors, fresh),
	};

	return cmocka_run_group_tests_name("safetensors", tests, set_up, tear_down);
}
