/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_names.c - what things are called: tensors and metadata of GGUF
 * (llama.cpp, gguf-py/gguf/constants.py) to tensor names and config.json keys of
 * Hugging Face. A new architecture is a row of `archs` and the rows it needs below. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

#define LIST_MAX 4096 /* elements of a list among the config values */

struct arch {
	const char *gguf, *hf;
	int interleaved; /* the converter paired up the rows of q and k for ggml's rotary order */
};

static const struct arch archs[] = {
	{ "llama", "LlamaForCausalLM", 1 },
	{ "qwen2", "Qwen2ForCausalLM", 0 },
	{ "qwen3", "Qwen3ForCausalLM", 0 },
};

/* Without ".weight" or ".bias". Rows of a layer begin with "blk.N." and "model.layers.N.". */
struct name {
	const char *gguf, *hf;
	const char *heads; /* what counts its interleaved heads; NULL = rows are in order */
};

static const struct name outer_names[] = {
	{ "token_embd", "model.embed_tokens", NULL },
	{ "output_norm", "model.norm", NULL },
	{ "output", "lm_head", NULL },
};

static const struct name layer_names[] = {
	{ "attn_norm", "input_layernorm", NULL },
	{ "attn_q", "self_attn.q_proj", "num_attention_heads" },
	{ "attn_k", "self_attn.k_proj", "num_key_value_heads" },
	{ "attn_v", "self_attn.v_proj", NULL },
	{ "attn_output", "self_attn.o_proj", NULL },
	{ "attn_q_norm", "self_attn.q_norm", NULL },
	{ "attn_k_norm", "self_attn.k_norm", NULL },
	{ "ffn_norm", "post_attention_layernorm", NULL },
	{ "ffn_gate", "mlp.gate_proj", NULL },
	{ "ffn_up", "mlp.up_proj", NULL },
	{ "ffn_down", "mlp.down_proj", NULL },
};

/* A key that begins with a dot follows the architecture's name. Where two rows have
 * the same right side the first that the file has counts. */
static const struct { const char *gguf, *hf; char kind; } keys[] = {
	{ "general.name", "name", 's' },
	{ ".block_count", "num_hidden_layers", 'i' },
	{ ".embedding_length", "hidden_size", 'i' },
	{ ".feed_forward_length", "intermediate_size", 'i' },
	{ ".attention.head_count", "num_attention_heads", 'i' },
	{ ".attention.head_count_kv", "num_key_value_heads", 'i' },
	{ ".attention.head_count", "num_key_value_heads", 'i' },
	{ ".attention.key_length", "head_dim", 'i' },
	{ ".attention.layer_norm_rms_epsilon", "rms_norm_eps", 'f' },
	{ ".attention.sliding_window", "sliding_window", 'i' },
	{ ".context_length", "max_position_embeddings", 'i' },
	{ ".vocab_size", "vocab_size", 'i' },
	{ ".rope.freq_base", "rope_theta", 'f' },
	{ ".rope.dimension_count", "rope_dims", 'i' },
	{ ".rope.scaling.type", "rope_scaling.rope_type", 's' },
	{ ".rope.scaling.factor", "rope_scaling.factor", 'f' },
	{ ".rope.scale_linear", "rope_scaling.factor", 'f' },
	{ ".rope.scaling.original_context_length", "rope_scaling.original_max_position_embeddings",
		'i' },
	{ ".rope.scaling.attn_factor", "rope_scaling.attention_factor", 'f' },
	{ "general.sampling.temp", "generation.temperature", 'f' },
	{ "general.sampling.top_k", "generation.top_k", 'i' },
	{ "general.sampling.top_p", "generation.top_p", 'f' },
	{ "general.sampling.min_p", "generation.min_p", 'f' },
	{ "general.sampling.penalty_repeat", "generation.repetition_penalty", 'f' },
};
#define COUNT(a) (sizeof(a) / sizeof(*(a)))
_Static_assert(COUNT(keys) + 8 <= GGUF_CONFIG_MAX, "room for each row, and for what follows");

/* ---- config values as text ---- */

static const char *config(const struct nvllm_loader *l, const char *key)
{
	for (int i = 0; i < l->n_config; i++)
		if (!strcmp(l->config[i].key, key))
			return l->config[i].text;
	return NULL;
}

static void set(struct nvllm_loader *l, const char *key, const char *text)
{
	l->config[l->n_config].key = key;
	l->config[l->n_config++].text = text;
}

/* Bytes that are no characters become '?', so that the text can be shown. */
static void put_string(char *to, const struct nvllm_str *s)
{
	for (int64_t i = 0, n; i < s->len; i += n) {
		size_t good = gguf_printable(s->s + i, s->len - i);

		n = good ? (int64_t)good : 1;
		memcpy(to, good ? s->s + i : "?", (size_t)n);
		to += n;
	}
}

/* The shortest text that reads back as the same number, six digits or more. */
static void put_real(char *to, size_t room, double v)
{
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(to, room, "%.*g", digits, v);
		if (strtod(to, NULL) == v)
			return;
	}
}

static void put_whole(char *to, size_t room, const struct gguf_kv *kv)
{
	const int32_t *v = kv->data;
	int len = 0;

	if (kv->n == 1 && kv->kind == 'u')
		snprintf(to, room, "%" PRIu64, kv->bits);
	else if (kv->n == 1)
		snprintf(to, room, "%" PRId64, (int64_t)kv->bits);
	else
		for (int64_t i = 0; i < kv->n; i++)
			len += snprintf(to + len, room - (size_t)len, "%s%" PRId32, i ? " " : "",
				v[i]);
}

/* kind: 's' a string, 'f' a number, 'i' a whole number or a list of them. */
static int set_from(struct nvllm_loader *l, const struct gguf_kv *kv, char kind, const char *key)
{
	const char *why = NULL;
	size_t room = 32;
	char *text;

	l->from = kv->from;
	if (kind == 's' ? kv->kind != 's' || kv->is_array :
	    kv->kind == 's' || (kind == 'i' && kv->kind == 'f'))
		why = kind == 's' ? "is not a string" : kind == 'f' ? "is not a number" :
			"is not a whole number";
	else if (kind == 'f' ? kv->is_array : kv->n < 1 || kv->n > LIST_MAX)
		why = kind == 'f' ? "is an array" : "is an array of no or too many elements";
	else if (kv->kind == 'f' && !isfinite(kv->real))
		why = "is not finite";
	else if (kv->n > 1 && kv->wide)
		why = "has an element that does not fit 32 bits";
	if (why)
		return gguf_damaged(l, "key '%.*s' %s", NAME(kv->name), why);
	room += kind == 's' ? (size_t)kv->one.len : (size_t)kv->n * 12;
	text = gguf_alloc(l, (int64_t)room, 1);
	if (!text)
		return NVLLM_ENOMEM;
	if (kind == 's')
		put_string(text, kv->data);
	else if (kv->kind == 'f')
		put_real(text, room, kv->real);
	else
		put_whole(text, room, kv);
	if (!strcmp(key, "rope_scaling.rope_type") && !strcmp(text, "none"))
		memcpy(text, "default", sizeof("default"));
	set(l, key, text);
	return NVLLM_OK;
}

/* A key of the file, with the architecture's name before a leading dot. */
static const struct gguf_kv *kv_of(const struct nvllm_loader *l, const char *key)
{
	char full[192];

	snprintf(full, sizeof(full), "%s%s", *key == '.' ? l->arch_name : "", key);
	return gguf_kv(l, full);
}

int gguf_arch(struct nvllm_loader *l)
{
	const struct gguf_kv *kv = gguf_kv(l, "general.architecture");
	const struct nvllm_str *s;
	char *copy;
	int rc = 0;

	if (!kv)
		return gguf_fail(l, NVLLM_EINVAL, "it has no key 'general.architecture', so it is "
			"no language model: check [model] path");
	s = kv->data;
	l->from = kv->from;
	if (kv->kind != 's' || kv->is_array || s->len < 1 || s->len > 64)
		return gguf_damaged(l, "key 'general.architecture' is not a name");
	copy = gguf_alloc(l, s->len + 1, 1);
	if (!copy)
		return NVLLM_ENOMEM;
	put_string(copy, s);
	l->arch_name = copy;
	for (size_t i = 0; i < COUNT(archs) && !l->arch; i++)
		if (!strcmp(archs[i].gguf, copy))
			l->arch = &archs[i];
	set(l, "architectures", l->arch ? l->arch->hf : copy);
	for (size_t i = 0; i < COUNT(keys) && rc == 0; i++) {
		kv = config(l, keys[i].hf) ? NULL : kv_of(l, keys[i].gguf);
		if (kv)
			rc = set_from(l, kv, keys[i].kind, keys[i].hf);
	}
	return rc;
}

int gguf_config(struct nvllm_loader *l)
{
	const struct gguf_kv *tokens = gguf_kv(l, "tokenizer.ggml.tokens");
	int tied = !gguf_tensor(l, "lm_head.weight") && !gguf_tensor(l, "output.weight");
	char *text = gguf_alloc(l, 32, 1);

	if (!text)
		return NVLLM_ENOMEM;
	set(l, "tie_word_embeddings", tied ? "true" : "false");
	if (gguf_tensor(l, "rope_freqs.weight"))
		set(l, "rope_scaling.factors", "rope_freqs.weight");
	if (!config(l, "rope_scaling.rope_type") && config(l, "rope_scaling.factor"))
		set(l, "rope_scaling.rope_type", "linear"); /* what a factor alone means in GGUF */
	if (!config(l, "vocab_size") && tokens) {
		snprintf(text, 32, "%" PRId64, tokens->n);
		set(l, "vocab_size", text);
	}
	return NVLLM_OK;
}

/* ---- tensors ---- */

static const struct name *name_find(const struct name *list, size_t n, const char *s, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(list[i].gguf) == len && !memcmp(list[i].gguf, s, len))
			return &list[i];
	return NULL;
}

/* Rows of a head, from the rows (a bias: the elements) and the number of heads. */
static int set_head_rows(struct nvllm_loader *l, struct gguf_tensor *t, const char *count_key,
	int bias)
{
	const char *text = config(l, count_key);
	char *end = NULL;
	int64_t heads = text ? strtoll(text, &end, 10) : 0;
	int64_t rows = bias ? t->info.cols : t->info.rows;

	if (heads < 1 || *end || rows % heads || rows / heads % 2)
		return gguf_damaged(l, "tensor '%.*s' has %" PRId64 " rows, which do not part into "
			"%s attention heads of an even size", NAME(t->raw), rows,
			text ? text : "(unknown)");
	if (bias && (t->info.rows != 1 || t->info.planes != 1 ||
	    nvllm_dtype_block(t->info.dtype, NULL) != 1))
		return gguf_damaged(l, "tensor '%.*s' is no plain vector", NAME(t->raw));
	t->head_rows = rows / heads;
	return NVLLM_OK;
}

/* Bytes of the ".weight" or ".bias" at the end, 0 = neither. */
static size_t tail_of(const char *s, size_t len)
{
	static const char *const tails[] = { ".weight", ".bias" };

	for (size_t i = 0; i < COUNT(tails); i++) {
		size_t n = strlen(tails[i]);

		if (len > n && !memcmp(s + len - n, tails[i], n))
			return n;
	}
	return 0;
}

/* What is not listed keeps its name. */
int gguf_translate(struct nvllm_loader *l, struct gguf_tensor *t)
{
	const char *s = t->raw.s;
	size_t len = (size_t)t->raw.len, tail = tail_of(s, len), body = len - tail, n = 0;
	size_t room = len + 64;
	const struct name *name = NULL;
	char *hf = gguf_alloc(l, (int64_t)room, 1);

	if (!hf)
		return NVLLM_ENOMEM;
	if (body > 4 && !memcmp(s, "blk.", 4)) /* n becomes the length of "blk.12." */
		for (n = 4; n < body && s[n] >= '0' && s[n] <= '9';)
			n++;
	n = n > 4 && n < body && s[n] == '.' ? n + 1 : 0;
	if (l->arch && tail && n)
		name = name_find(layer_names, COUNT(layer_names), s + n, body - n);
	else if (l->arch && tail)
		name = name_find(outer_names, COUNT(outer_names), s, body);
	if (!name)
		memcpy(hf, s, len);
	else
		snprintf(hf, room, "%s%.*s%s%.*s", n ? "model.layers." : "", n ? (int)n - 4 : 0,
			s + (n ? 4 : 0), name->hf, (int)tail, s + body);
	t->name = (struct nvllm_str){ hf, (int64_t)strlen(hf) };
	if (!name || !name->heads || !l->arch->interleaved)
		return NVLLM_OK;
	return set_head_rows(l, t, name->heads, tail == strlen(".bias"));
}
