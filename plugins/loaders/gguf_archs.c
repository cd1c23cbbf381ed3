/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_archs.c - the architectures: which Hugging Face class each is, and
 * where its tensor names and metadata differ from those common to all (gguf_names.c,
 * gguf_config.c). Sources: llama.cpp, src/models/ARCH.cpp for what a file without a key
 * means, conversion/ for what its converter does to the weights. A new architecture is
 * a row of gguf_archs and the tables it needs. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

static int64_t whole(const struct nvllm_loader *l, const char *key)
{
	const char *s = gguf_value(l, key);

	return s ? strtoll(s, NULL, 10) : 0;
}

static const struct gguf_refusal dense_refusals[] = {
	{ ".expert_count", { 0, 0 }, "a mixture of experts, which is read of qwen3moe alone" },
	{ ".attention.scale", { 0, 0 }, "another scale of the attention scores" },
	{ ".final_logit_softcapping", { 0, 0 }, "a soft cap of the logits" },
	{ NULL, { 0, 0 }, NULL },
};

/* ---- qwen3moe ---- */

static const struct gguf_name moe_names[] = {
	{ "ffn_gate_inp", "mlp.gate", NULL, 0 },
	{ "ffn_gate_exps", "mlp.experts.*.gate_proj", NULL, 1 },
	{ "ffn_up_exps", "mlp.experts.*.up_proj", NULL, 1 },
	{ "ffn_down_exps", "mlp.experts.*.down_proj", NULL, 1 },
	{ NULL, NULL, NULL, 0 },
};

static const struct gguf_key moe_keys[] = {
	{ ".expert_count", "num_experts", 'i' },
	{ ".expert_used_count", "num_experts_per_tok", 'i' },
	{ ".expert_feed_forward_length", "moe_intermediate_size", 'i' },
	{ NULL, NULL, 0 },
};

static const struct gguf_refusal moe_refusals[] = {
	{ ".expert_shared_count", { 0, 0 }, "experts that all tokens share" },
	{ ".expert_shared_feed_forward_length", { 0, 0 }, "experts that all tokens share" },
	{ ".expert_group_count", { 0, 1 }, "experts in groups" },
	{ ".expert_weights_scale", { 0, 1 }, "a factor of the experts' weights" },
	{ ".expert_gating_func", { 0, 1 }, "another router than softmax" },
	{ ".leading_dense_block_count", { 0, 0 }, "dense layers before those of experts" },
	{ ".attention.scale", { 0, 0 }, "another scale of the attention scores" },
	{ NULL, { 0, 0 }, NULL },
};

/* llama.cpp's qwen3moe always divides the kept weights by their sum. */
static int moe_finish(struct nvllm_loader *l)
{
	int64_t n = whole(l, "num_experts"), used = whole(l, "num_experts_per_tok"), ffn;

	if (n < 1 || n > INT32_MAX || used < 1 || used > n)
		return gguf_fail(l, NVLLM_EINVAL, "its keys '%s.expert_count' and "
			"'%s.expert_used_count' say that %" PRId64 " of %" PRId64 " experts are used: "
			"the file is damaged or incomplete, download it again", l->arch_name,
			l->arch_name, used, n);
	ffn = whole(l, "intermediate_size") / used;
	if (!gguf_value(l, "moe_intermediate_size") && ffn > 0 &&
	    gguf_set(l, "moe_intermediate_size", "%" PRId64, ffn) < 0)
		return NVLLM_ENOMEM;
	return gguf_set(l, "norm_topk_prob", "true");
}

/* ---- gemma3 ---- */

static const struct gguf_name gemma3_names[] = {
	{ "post_attention_norm", "post_attention_layernorm", NULL, 0 },
	{ "ffn_norm", "pre_feedforward_layernorm", NULL, 0 },
	{ "post_ffw_norm", "post_feedforward_layernorm", NULL, 0 },
	{ NULL, NULL, NULL, 0 },
};

static const struct gguf_key gemma3_keys[] = {
	{ ".rope.freq_base_swa", "rope_local_base_freq", 'f' },
	{ ".final_logit_softcapping", "final_logit_softcapping", 'f' },
	{ NULL, NULL, 0 },
};

static const struct gguf_refusal gemma3_refusals[] = {
	{ ".expert_count", { 0, 0 }, "a mixture of experts, which is read of qwen3moe alone" },
	{ NULL, { 0, 0 }, NULL },
};

/* Which layers look through the window: a period, or a yes or no for each layer. */
static int gemma3_pattern(struct nvllm_loader *l)
{
	const struct gguf_kv *kv = gguf_arch_kv(l, ".attention.sliding_window_pattern");
	const int32_t *v = kv ? kv->data : NULL;
	char *text, *at;

	if (!gguf_value(l, "sliding_window"))
		return gguf_set(l, "sliding_window_pattern", "1"); /* every layer sees all */
	if (!kv)
		return gguf_set(l, "sliding_window_pattern", "6");
	l->from = kv->from;
	if (kv->kind == 'f' || kv->kind == 's' || kv->wide ||
	    (kv->is_array ? kv->n != whole(l, "num_hidden_layers") || kv->n > 4096 : v[0] < 1))
		return gguf_damaged(l, "key '%.*s' is neither a period nor a value for each layer",
			NAME(kv->name));
	if (!kv->is_array)
		return gguf_set(l, "sliding_window_pattern", "%" PRId32, v[0]);
	at = text = gguf_alloc(l, kv->n * 20 + 1, 1);
	if (!text)
		return NVLLM_ENOMEM;
	for (int64_t i = 0; i < kv->n; i++)
		at = stpcpy(stpcpy(at, i ? " " : ""), v[i] ? "sliding_attention" : "full_attention");
	return gguf_set(l, "layer_types", "%s", text);
}

/* The scores' scale is the scalar to the power of -1/2: head_dim, but for the model of 27B,
 * which is known by its layers. A file that has a scale of its own says otherwise. */
static int gemma3_scale(struct nvllm_loader *l)
{
	const struct gguf_kv *kv = gguf_arch_kv(l, ".attention.scale");
	int64_t heads = whole(l, "num_attention_heads"), dim = whole(l, "head_dim"), hidden;
	double v;

	hidden = heads > 0 ? whole(l, "hidden_size") / heads : 0;
	if (!dim || whole(l, "num_hidden_layers") == 62)
		dim = hidden;
	if (!kv || (kv->kind == 'f' && kv->real == 0))
		return gguf_set(l, "query_pre_attn_scalar", "%" PRId64, dim);
	l->from = kv->from;
	v = kv->kind == 'f' ? 1 / (kv->real * kv->real) : 0;
	if (kv->is_array || !(v > 0 && v < 1e12))
		return gguf_damaged(l, "key '%.*s' is no scale", NAME(kv->name));
	if (fabs(v - round(v)) < 1e-5 * v) /* it was a whole number before it was rounded to f32 */
		v = round(v);
	return gguf_set(l, "query_pre_attn_scalar", "%.9g", v);
}

/* The converter stores the norms' weights as 1 + w. */
static int gemma3_finish(struct nvllm_loader *l)
{
	int rc = gemma3_pattern(l);

	if (rc == 0)
		rc = gemma3_scale(l);
	if (rc == 0 && !gguf_value(l, "rope_local_base_freq"))
		rc = gguf_set(l, "rope_local_base_freq", "10000");
	if (rc == 0)
		rc = gguf_set(l, "hidden_activation", "gelu_pytorch_tanh");
	return rc ? rc : gguf_set(l, "norm_offset", "0");
}

const struct gguf_arch gguf_archs[] = {
	{ "llama", "LlamaForCausalLM", 1, NULL, NULL, dense_refusals, NULL },
	{ "qwen2", "Qwen2ForCausalLM", 0, NULL, NULL, dense_refusals, NULL },
	{ "qwen3", "Qwen3ForCausalLM", 0, NULL, NULL, dense_refusals, NULL },
	{ "qwen3moe", "Qwen3MoeForCausalLM", 0, moe_names, moe_keys, moe_refusals, moe_finish },
	{ "gemma3", "Gemma3ForCausalLM", 0, gemma3_names, gemma3_keys, gemma3_refusals, gemma3_finish },
	{ NULL, NULL, 0, NULL, NULL, NULL, NULL },
};
