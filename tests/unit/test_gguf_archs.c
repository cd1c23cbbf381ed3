/* SPDX-License-Identifier: MIT */
/* tests/unit/test_gguf_archs.c - the GGUF loader on each architecture: what a file's keys and
 * tensor names become in the Hugging Face dialect, experts as planes, and what is refused. */
#include "gguf_host.h"
#include "gguf_put.h"

/* A key of a file to be made. type: 4 a u32, 5 an i32, 6 a float32, 7 a bool, 8 a string, -7 an
 * array of bools, written as text ("1101"). */
struct key { const char *name; int type; double v; const char *s; };

static void put_keys(struct file *f, const struct key *keys)
{
	for (; keys->name; keys++) {
		if (keys->type == 6) {
			put_real(f, keys->name, (float)keys->v);
			continue;
		}
		if (keys->type > 0) {
			put_kv(f, keys->name, (uint32_t)keys->type, (uint64_t)(int64_t)keys->v,
				keys->type == 8 ? 0 : keys->type == 7 ? 1 : 4, keys->s);
			continue;
		}
		put_str(f, keys->name, " key", keys->name);
		put_int(f, keys->name, " type", 9, 4);
		put_int(f, keys->name, " of", 7, 4);
		put_int(f, keys->name, " n", strlen(keys->s), 8);
		for (const char *c = keys->s; *c; c++)
			put_int(f, keys->name, " value", *c == '1', 1);
	}
}

static uint64_t count(const struct key *k)
{
	uint64_t n = 0;

	while (k[n].name)
		n++;
	return n;
}

/* Opens a file of the architecture with both lists of keys and no tensor. */
static int open_keys(const char *arch, const struct key *a, const struct key *b, struct nvllm_loader **l)
{
	struct file f;
	int rc, fd;

	put_begin(&f, 0, 1 + count(a) + count(b));
	put_kv(&f, "general.architecture", 8, 0, 0, arch);
	put_keys(&f, a);
	put_keys(&f, b);
	fd = open_bytes(f.bytes, f.n, &rc, l);
	close(fd);
	return rc;
}

#define END { NULL, 0, 0, NULL }

static const struct key no_keys[] = { END };

static const struct key gemma_base[] = {
	{ "gemma3.block_count", 4, 4, NULL }, { "gemma3.embedding_length", 4, 640, NULL },
	{ "gemma3.attention.head_count", 4, 4, NULL }, { "gemma3.attention.key_length", 4, 256, NULL },
	{ "gemma3.attention.value_length", 4, 256, NULL }, END,
};

static const struct key moe_base[] = {
	{ "qwen3moe.expert_count", 4, 8, NULL }, { "qwen3moe.expert_used_count", 4, 2, NULL },
	{ "qwen3moe.feed_forward_length", 4, 96, NULL }, END,
};

static const struct key yarn_base[] = {
	{ "qwen2.context_length", 4, 4096, NULL }, { "qwen2.rope.scaling.type", 8, 0, "yarn" },
	{ "qwen2.rope.scaling.factor", 6, 4, NULL }, END,
};

/* ---- what keys become ---- */

static const struct good {
	const char *arch;
	const struct key *base, keys[6];
	const struct pair want[8];
} goods[] = {
	{ "gemma3", gemma_base, { END }, { { "architectures", "Gemma3ForCausalLM" },
		{ "sliding_window_pattern", "1" }, { "query_pre_attn_scalar", "256" },
		{ "rope_local_base_freq", "10000" }, { "norm_offset", "0" },
		{ "hidden_activation", "gelu_pytorch_tanh" }, { "head_dim", "256" } } },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.rope.freq_base_swa", 6, 5000, NULL },
		{ "gemma3.attention.scale", 6, 0.2041241452, NULL }, END },
		{ { "sliding_window_pattern", "6" }, { "sliding_window", "512" },
		{ "rope_local_base_freq", "5000" }, { "query_pre_attn_scalar", "24" },
		{ "layer_types", NULL }, { NULL, NULL } } },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.attention.sliding_window_pattern", 4, 3, NULL }, END },
		{ { "sliding_window_pattern", "3" }, { NULL, NULL } } },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.attention.sliding_window_pattern", -7, 0, "1101" }, END },
		{ { "layer_types", "sliding_attention sliding_attention full_attention "
		"sliding_attention" }, { "sliding_window_pattern", NULL }, { NULL, NULL } } },
	{ "gemma3", no_keys, { { "gemma3.block_count", 4, 62, NULL },
		{ "gemma3.embedding_length", 4, 5376, NULL },
		{ "gemma3.attention.head_count", 4, 32, NULL },
		{ "gemma3.attention.key_length", 4, 128, NULL },
		{ "gemma3.final_logit_softcapping", 6, 30, NULL }, END },
		{ { "query_pre_attn_scalar", "168" }, { "head_dim", "128" },
		{ "final_logit_softcapping", "30" }, { NULL, NULL } } },
	{ "qwen3moe", moe_base, { END }, { { "architectures", "Qwen3MoeForCausalLM" },
		{ "num_experts", "8" }, { "num_experts_per_tok", "2" }, { "norm_topk_prob", "true" },
		{ "moe_intermediate_size", "48" }, { NULL, NULL } } },
	{ "qwen3moe", moe_base, { { "qwen3moe.expert_feed_forward_length", 4, 64, NULL },
		{ "qwen3moe.expert_shared_count", 4, 0, NULL },
		{ "qwen3moe.expert_gating_func", 4, 1, NULL },
		{ "qwen3moe.expert_weights_scale", 6, 1, NULL }, END },
		{ { "moe_intermediate_size", "64" }, { NULL, NULL } } },
	{ "qwen2", yarn_base, { END }, { { "architectures", "Qwen2ForCausalLM" },
		{ "rope_scaling.rope_type", "yarn" }, { "rope_scaling.factor", "4" },
		{ "rope_scaling.original_max_position_embeddings", "4096" },
		{ "rope_scaling.attention_factor", NULL }, { NULL, NULL } } },
	{ "qwen2", yarn_base, { { "qwen2.rope.scaling.original_context_length", 4, 1024, NULL },
		{ "qwen2.rope.scaling.yarn_attn_factor", 6, 1.5, NULL },
		{ "qwen2.rope.scaling.attn_factor", 6, 2, NULL },
		{ "qwen2.rope.scaling.yarn_beta_fast", 6, 16, NULL },
		{ "qwen2.rope.scaling.yarn_ext_factor", 6, 1, NULL }, END },
		{ { "rope_scaling.original_max_position_embeddings", "1024" },
		{ "rope_scaling.attention_factor", "3" }, { "rope_scaling.beta_fast", "16" },
		{ "rope_scaling.beta_slow", NULL }, { NULL, NULL } } },
	/* 0.1 ln 4 + 1, twice */
	{ "qwen2", yarn_base, { { "qwen2.rope.scaling.attn_factor", 6, 2, NULL }, END },
		{ { "rope_scaling.attention_factor", "2.27725887" }, { NULL, NULL } } },
	/* mscale 1 over mscale_all_dim 2: (0.1 ln 4 + 1) / (0.2 ln 4 + 1) */
	{ "qwen2", yarn_base, { { "qwen2.rope.scaling.yarn_log_multiplier", 6, 2, NULL }, END },
		{ { "rope_scaling.attention_factor", "0.891463321" }, { NULL, NULL } } },
	{ "llama", no_keys, { { "llama.rope.scaling.type", 8, 0, "none" },
		{ "llama.rope.scaling.attn_factor", 6, 1, NULL },
		{ "llama.expert_count", 4, 0, NULL }, END },
		{ { "rope_scaling.rope_type", "default" }, { NULL, NULL } } },
	{ "qwen3", no_keys, { { "qwen3.attention.head_count", 4, 8, NULL }, END },
		{ { "architectures", "Qwen3ForCausalLM" }, { "num_key_value_heads", "8" },
		{ "norm_offset", NULL }, { NULL, NULL } } },
	{ "mamba", no_keys, { { "mamba.block_count", 4, 3, NULL }, END },
		{ { "architectures", "mamba" }, { "num_hidden_layers", "3" }, { NULL, NULL } } },
};

static void test_keys(void **state)
{
	for (size_t i = 0; i < sizeof(goods) / sizeof(*goods); i++) {
		const struct good *g = &goods[i];
		struct pair want[9] = { { NULL, NULL } };
		struct nvllm_loader *l;

		memcpy(want, g->want, sizeof(g->want));
		if (open_keys(g->arch, g->base, g->keys, &l))
			fail_msg("case %zu of %s: %s", i, g->arch, sentence);
		check_meta(l, want);
		done(l);
	}
}

/* ---- what is refused ---- */

static const struct bad {
	const char *arch;
	const struct key *base, keys[4];
	const char *word;
} bads[] = {
	{ "llama", no_keys, { { "llama.expert_count", 4, 8, NULL }, END }, "a mixture of experts" },
	{ "qwen2", no_keys, { { "qwen2.attention.causal", 7, 0, NULL }, END }, "attention to later tokens" },
	{ "llama", no_keys, { { "llama.logit_scale", 6, 0.5, NULL }, END }, "a factor of the logits" },
	{ "llama", no_keys, { { "llama.attention.scale", 6, 0.5, NULL }, END }, "another scale" },
	{ "llama", no_keys, { { "llama.attention.clamp_kqv", 8, 0, "x" }, END }, "clamped" },
	{ "llama", no_keys, { { "llama.attention.key_length", 4, 64, NULL },
		{ "llama.attention.value_length", 4, 32, NULL }, END }, "64 and 32" },
	{ "llama", no_keys, { { "llama.rope.scaling.attn_factor", 6, 2, NULL }, END }, "yarn alone" },
	{ "qwen2", yarn_base, { { "qwen2.rope.scaling.yarn_ext_factor", 6, 0.5, NULL }, END },
		"extrapolation factor" },
	{ "gemma3", gemma_base, { { "gemma3.attn_logit_softcapping", 6, 50, NULL }, END }, "soft cap" },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.attention.sliding_window_pattern", 4, 0, NULL }, END }, "neither a period" },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.attention.sliding_window_pattern", -7, 0, "110" }, END }, "neither a period" },
	{ "gemma3", gemma_base, { { "gemma3.attention.sliding_window", 4, 512, NULL },
		{ "gemma3.attention.sliding_window_pattern", 8, 0, "xxx" }, END }, "neither a period" },
	{ "gemma3", gemma_base, { { "gemma3.attention.scale", 8, 0, "x" }, END }, "no scale" },
	{ "gemma3", gemma_base, { { "gemma3.attention.scale", 6, 1e-20, NULL }, END }, "no scale" },
	{ "gemma3", gemma_base, { { "gemma3.rope.freq_base_swa", 8, 0, "x" }, END }, "not a number" },
	{ "qwen3moe", no_keys, { END }, "0 of 0 experts" },
	{ "qwen3moe", no_keys, { { "qwen3moe.expert_count", 4, 8, NULL }, END }, "0 of 8 experts" },
	{ "qwen3moe", no_keys, { { "qwen3moe.expert_count", 4, 8, NULL },
		{ "qwen3moe.expert_used_count", 4, 9, NULL }, END }, "9 of 8 experts" },
	{ "qwen3moe", no_keys, { { "qwen3moe.expert_count", 5, -8, NULL },
		{ "qwen3moe.expert_used_count", 4, 2, NULL }, END }, "2 of -8 experts" },
	{ "qwen3moe", no_keys, { { "qwen3moe.expert_count", 4, 2147483648.0, NULL },
		{ "qwen3moe.expert_used_count", 4, 2, NULL }, END }, "2 of 2147483648 experts" },
	{ "qwen3moe", no_keys, { { "qwen3moe.expert_count", 6, 8, NULL }, END }, "not a whole number" },
	{ "qwen3moe", moe_base, { { "qwen3moe.expert_shared_count", 4, 1, NULL }, END }, "all tokens share" },
	{ "qwen3moe", moe_base, { { "qwen3moe.expert_gating_func", 4, 2, NULL }, END }, "router" },
	{ "qwen3moe", moe_base, { { "qwen3moe.expert_weights_scale", 6, 2.5, NULL }, END }, "weights" },
	{ "qwen3moe", moe_base, { { "qwen3moe.expert_group_count", 4, 4, NULL }, END }, "groups" },
};

static void test_refused(void **state)
{
	int wrong = 0;

	for (size_t i = 0; i < sizeof(bads) / sizeof(*bads); i++) {
		struct nvllm_loader *l;
		int rc = open_keys(bads[i].arch, bads[i].base, bads[i].keys, &l);

		if (rc >= 0 || !strstr(sentence, bads[i].word)) {
			print_error("case %zu of %s: gave %d \"%s\", which should contain \"%s\"\n", i,
				bads[i].arch, rc, sentence, bads[i].word);
			wrong++;
		}
		host_clear();
	}
	assert_int_equal(wrong, 0);
}

/* ---- tensors ---- */

static void put_moe(struct file *f, uint64_t planes)
{
	put_begin(f, 3, 3);
	put_kv(f, "general.architecture", 8, 0, 0, "qwen3moe");
	put_kv(f, "qwen3moe.expert_count", 4, 3, 4, NULL);
	put_kv(f, "qwen3moe.expert_used_count", 4, 2, 4, NULL);
	put_planes(f, "blk.0.ffn_up_exps.weight", 8, 2, planes, 0);
	put_tensor(f, "blk.0.ffn_gate_inp.weight", 2, 8, 3, 0, 192);
	put_tensor(f, "blk.0.attn_q.weight", 2, 8, 4, 0, 288);
	put_data(f, 416);
}

static void test_experts(void **state)
{
	static const char name[] = "model.layers.0.mlp.experts.*.up_proj.weight";
	struct nvllm_tensor_info info = { .size = sizeof(info) };
	struct nvllm_loader *l;
	uint8_t row[64], *data;
	struct file f;
	int rc, fd;

	put_moe(&f, 3);
	fd = open_bytes(f.bytes, f.n, &rc, &l);
	assert_int_equal(rc, 0);
	assert_int_equal(vt->find(l, name, &info), 0);
	assert_int_equal(info.planes, 3);
	assert_int_equal(info.rows, 2);
	assert_int_equal(info.cols, 8);
	data = f.bytes + mark_at(&f, "data");
	for (int p = 0; p < 3; p++)
		for (int r = 0; r < 2; r++) {
			assert_int_equal(vt->read(l, name, p, r, 1, row), 0);
			assert_memory_equal(row, data + 64 * p + 32 * r, 32);
		}
	assert_true(vt->read(l, name, 3, 0, 1, row) < 0);
	assert_true(vt->read(l, name, 0, 1, 2, row) < 0);
	assert_int_equal(vt->find(l, "model.layers.0.mlp.gate.weight", &info), 0);
	assert_int_equal(info.planes, 1);
	/* qwen3moe keeps the order of q's rows */
	assert_int_equal(vt->read(l, "model.layers.0.self_attn.q_proj.weight", 0, 1, 1, row), 0);
	assert_memory_equal(row, data + 288 + 32, 32);
	done(l);
	close(fd);
}

static const struct { const char *at; uint64_t v; int n; const char *word; } planes[] = {
	{ "blk.0.ffn_up_exps.weight d2", 2, 8, "has 2 experts, and key 'qwen3moe.expert_count' says 3" },
	{ "blk.0.ffn_up_exps.weight d2", 0, 8, "dimension 0" },
	{ "blk.0.ffn_up_exps.weight d2", 1ull << 31, 8, "larger than any file" },
	{ "blk.0.ffn_up_exps.weight d2", UINT64_MAX, 8, "dimension -1" },
	{ "blk.0.ffn_up_exps.weight d1", 1ull << 62, 8, "larger than any file" },
	{ "blk.0.ffn_up_exps.weight d1", 4, 8, "overlap" },
	{ "qwen3moe.expert_count value", 4, 4, "has 3 experts, and key 'qwen3moe.expert_count' says 4" },
	{ "qwen3moe.expert_count value", 1u << 31, 4, "2 of 2147483648 experts" },
};

static void test_planes(void **state)
{
	for (size_t i = 0; i < sizeof(planes) / sizeof(*planes); i++) {
		struct nvllm_loader *l;
		struct file f;
		int rc, fd;

		put_moe(&f, 3);
		memcpy(f.bytes + mark_at(&f, planes[i].at), &planes[i].v, (size_t)planes[i].n);
		fd = open_bytes(f.bytes, f.n, &rc, &l);
		if (rc >= 0 || !strstr(sentence, planes[i].word))
			fail_msg("%s: gave %d \"%s\", which should contain \"%s\"", planes[i].at, rc,
				sentence, planes[i].word);
		close(fd);
		host_clear();
	}
}

/* post_attention_layernorm is another tensor in each of these two. */
static void test_names(void **state)
{
	static const struct { const char *arch, *gguf, *hf; } names[] = {
		{ "gemma3", "blk.11.post_attention_norm.weight", "model.layers.11.post_attention_layernorm.weight" },
		{ "gemma3", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight" },
		{ "gemma3", "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight" },
		{ "gemma3", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight" },
		{ "gemma3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight" },
		{ "llama", "blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight" },
		{ "qwen2", "blk.0.attn_v.bias", "model.layers.0.self_attn.v_proj.bias" },
		{ "qwen3", "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight" },
		{ "llama", "blk.0.post_ffw_norm.weight", "blk.0.post_ffw_norm.weight" },
		{ "llama", "blk.x.ffn_norm.weight", "blk.x.ffn_norm.weight" },
		{ "mamba", "blk.0.attn_norm.weight", "blk.0.attn_norm.weight" },
		{ "qwen3", "output.weight", "lm_head.weight" },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		struct nvllm_tensor_info info = { .size = sizeof(info) };
		struct nvllm_loader *l;
		struct file f;
		int rc, fd;

		put_begin(&f, 1, 1);
		put_kv(&f, "general.architecture", 8, 0, 0, names[i].arch);
		put_tensor(&f, names[i].gguf, 1, 8, 0, 0, 0);
		put_data(&f, 32);
		fd = open_bytes(f.bytes, f.n, &rc, &l);
		if (rc || vt->find(l, names[i].hf, &info))
			fail_msg("%s of %s is not %s: %s", names[i].gguf, names[i].arch, names[i].hf, sentence);
		done(l);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys), cmocka_unit_test(test_refused), cmocka_unit_test(test_experts),
		cmocka_unit_test(test_planes), cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests_name("gguf_archs", tests, open_plugin, NULL);
}
