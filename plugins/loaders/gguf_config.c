/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_config.c - metadata of GGUF as the keys of config.json. The names
 * are those of llama.cpp, gguf-py/gguf/constants.py; a key that would change the model and
 * is not carried out is refused, not overlooked. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

#define LIST_MAX 4096 /* elements of a list among the config values */

/* Where two rows have the same right side the first that the file has counts. */
static const struct gguf_key common_keys[] = {
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
	{ ".rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast", 'f' },
	{ ".rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow", 'f' },
	{ "general.sampling.temp", "generation.temperature", 'f' },
	{ "general.sampling.top_k", "generation.top_k", 'i' },
	{ "general.sampling.top_p", "generation.top_p", 'f' },
	{ "general.sampling.min_p", "generation.min_p", 'f' },
	{ "general.sampling.penalty_repeat", "generation.repetition_penalty", 'f' },
	{ NULL, NULL, 0 },
};

static const struct gguf_refusal common_refusals[] = {
	{ ".attention.causal", { 1, 1 }, "attention to later tokens" },
	{ ".attention.clamp_kqv", { 0, 0 }, "clamped queries, keys and values" },
	{ ".attention.max_alibi_bias", { 0, 0 }, "ALiBi" },
	{ ".attn_logit_softcapping", { 0, 0 }, "a soft cap of the attention scores" },
	{ ".embedding_scale", { 0, 1 }, "a factor of the embeddings" },
	{ ".residual_scale", { 0, 1 }, "a factor of the residual stream" },
	{ ".logit_scale", { 0, 1 }, "a factor of the logits" },
	{ ".rope.scaling.alpha", { 0, 0 }, "an alpha of the rope scaling" },
	{ ".rope.scaling.yarn_ext_factor", { -1, 1 }, "an extrapolation factor of yarn" },
	{ NULL, { 0, 0 }, NULL },
};

/* ---- config values as text ---- */

const char *gguf_value(const struct nvllm_loader *l, const char *key)
{
	for (int i = 0; i < l->n_config; i++)
		if (!strcmp(l->config[i].key, key))
			return l->config[i].text;
	return NULL;
}

static int set(struct nvllm_loader *l, const char *key, const char *text)
{
	if (l->n_config == GGUF_CONFIG_MAX)
		return gguf_fail(l, NVLLM_ENOMEM, "more than %d config values", GGUF_CONFIG_MAX);
	l->config[l->n_config].key = key;
	l->config[l->n_config++].text = text;
	return NVLLM_OK;
}

int gguf_set(struct nvllm_loader *l, const char *key, const char *fmt, ...)
{
	va_list ap, again;
	char *text;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	text = n < 0 ? NULL : gguf_alloc(l, (int64_t)n + 1, 1);
	if (text)
		vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	va_end(ap);
	return text ? set(l, key, text) : NVLLM_ENOMEM;
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

/* A value for each layer, alike in all of them, is one value. */
static void put_whole(char *to, size_t room, const struct gguf_kv *kv)
{
	const int32_t *v = kv->data;
	int64_t same = 1;
	int len = 0;

	while (!kv->wide && same < kv->n && v[same] == v[0])
		same++;
	if (same == kv->n && kv->kind == 'u')
		snprintf(to, room, "%" PRIu64, kv->bits);
	else if (same == kv->n)
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
	return set(l, key, text);
}

/* ---- the architecture ---- */

const struct gguf_kv *gguf_arch_kv(const struct nvllm_loader *l, const char *key)
{
	char full[192];

	snprintf(full, sizeof(full), "%s%s", *key == '.' ? l->arch_name : "", key);
	return gguf_kv(l, full);
}

static double as_real(const struct gguf_kv *kv)
{
	return kv->kind == 'f' ? kv->real : kv->kind == 'u' ? (double)kv->bits : (double)(int64_t)kv->bits;
}

static int take_keys(struct nvllm_loader *l, const struct gguf_key *k)
{
	int rc = 0;

	for (; k && k->gguf && rc == 0; k++) {
		const struct gguf_kv *kv = gguf_value(l, k->hf) ? NULL : gguf_arch_kv(l, k->gguf);

		if (kv)
			rc = set_from(l, kv, k->kind, k->hf);
	}
	return rc;
}

static int refuse(struct nvllm_loader *l, const struct gguf_refusal *r)
{
	for (; r && r->gguf; r++) {
		const struct gguf_kv *kv = gguf_arch_kv(l, r->gguf);
		double v = kv && kv->kind != 's' && kv->n == 1 ? as_real(kv) : NAN;

		if (kv && v != r->neutral[0] && v != r->neutral[1])
			return gguf_fail(l, NVLLM_ENOTSUP, "key '%.*s' asks for %s, which this loader "
				"does not know for %s: use another conversion of the model",
				NAME(kv->name), r->why, l->arch_name);
	}
	return NVLLM_OK;
}

static double key_real(const struct nvllm_loader *l, const char *key, double absent)
{
	const struct gguf_kv *kv = gguf_arch_kv(l, key);

	return kv && kv->kind != 's' && kv->n == 1 ? as_real(kv) : absent;
}

/* 0.1 m ln s + 1, what yarn multiplies cos and sin by (Peng et al. 2023, 3.4). */
static double yarn_scale(double s, double m)
{
	return s <= 1 ? 1 : 0.1 * m * log(s) + 1;
}

/* As llama.cpp's src/llama-context.cpp has it: a factor alone means linear; attn_factor
 * multiplies what yarn gives. yarn_attn_factor is the attention_factor of config.json. */
static int finish_rope(struct nvllm_loader *l)
{
	const char *type = gguf_value(l, "rope_scaling.rope_type");
	const char *factor = gguf_value(l, "rope_scaling.factor");
	const char *len = gguf_value(l, "max_position_embeddings");
	double more = key_real(l, ".rope.scaling.attn_factor", 1), s = factor ? strtod(factor, NULL) : 1;
	double log_mul = key_real(l, ".rope.scaling.yarn_log_multiplier", 0);
	double own = key_real(l, ".rope.scaling.yarn_attn_factor", 0);
	int yarn = type && !strcmp(type, "yarn"), rc = 0;

	if (!type && factor)
		return set(l, "rope_scaling.rope_type", "linear");
	if (!yarn && more != 1)
		return gguf_fail(l, NVLLM_ENOTSUP, "key '%s.rope.scaling.attn_factor' is %g, which has a "
			"meaning for yarn alone: use another conversion of the model", l->arch_name, more);
	if (!yarn)
		return NVLLM_OK;
	if (!gguf_value(l, "rope_scaling.original_max_position_embeddings") && len)
		rc = set(l, "rope_scaling.original_max_position_embeddings", len);
	if (own == 0)
		own = yarn_scale(s, 1) / (log_mul != 0 ? yarn_scale(s, log_mul) : 1);
	if (rc == 0 && (more != 1 || log_mul != 0 || key_real(l, ".rope.scaling.yarn_attn_factor", 0) != 0))
		rc = gguf_set(l, "rope_scaling.attention_factor", "%.9g", own * more);
	return rc;
}

static int check_heads(struct nvllm_loader *l)
{
	const struct gguf_kv *k = gguf_arch_kv(l, ".attention.key_length");
	const struct gguf_kv *v = gguf_arch_kv(l, ".attention.value_length");

	if (!k || !v || as_real(k) == as_real(v))
		return NVLLM_OK;
	return gguf_fail(l, NVLLM_ENOTSUP, "keys '%s.attention.key_length' and '.value_length' are %.0f "
		"and %.0f: heads of keys and values of one size are read, use another conversion of "
		"the model", l->arch_name, as_real(k), as_real(v));
}

/* A file without sizes of heads: as llama.cpp's src/llama-model.cpp has it, whatever the
 * architecture's own default is. */
static int finish_heads(struct nvllm_loader *l)
{
	const char *heads = gguf_value(l, "num_attention_heads"), *dim = gguf_value(l, "hidden_size");
	int64_t n = heads ? strtoll(heads, NULL, 10) : 0, d = dim ? strtoll(dim, NULL, 10) : 0;

	return n < 1 || d < 1 || d % n || gguf_value(l, "head_dim") ? NVLLM_OK : gguf_set(l, "head_dim", "%" PRId64, d / n);
}

/* The config values of an architecture that is known. */
static int take_config(struct nvllm_loader *l)
{
	int rc = refuse(l, l->arch->refusals);

	if (rc == 0)
		rc = refuse(l, common_refusals);
	if (rc == 0)
		rc = check_heads(l);
	if (rc == 0)
		rc = take_keys(l, l->arch->keys);
	if (rc == 0)
		rc = take_keys(l, common_keys);
	if (rc == 0)
		rc = finish_heads(l);
	if (rc == 0)
		rc = finish_rope(l);
	return rc == 0 && l->arch->finish ? l->arch->finish(l) : rc;
}

int gguf_arch(struct nvllm_loader *l)
{
	const struct gguf_kv *kv = gguf_kv(l, "general.architecture");
	const struct nvllm_str *s;
	char *copy;

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
	for (const struct gguf_arch *a = gguf_archs; a->gguf && !l->arch; a++)
		if (!strcmp(a->gguf, copy))
			l->arch = a;
	if (set(l, "architectures", l->arch ? l->arch->hf : copy) < 0)
		return NVLLM_ENOMEM;
	return l->arch ? take_config(l) : take_keys(l, common_keys);
}

int gguf_config(struct nvllm_loader *l)
{
	const struct gguf_kv *tokens = gguf_kv(l, "tokenizer.ggml.tokens");
	const struct gguf_tensor *embed = gguf_tensor(l, "model.embed_tokens.weight");
	int tied = !gguf_tensor(l, "lm_head.weight") && !gguf_tensor(l, "output.weight");
	int rc = set(l, "tie_word_embeddings", tied ? "true" : "false");

	/* what config.json says of biases, the tensors say here */
	if (rc == 0 && (gguf_tensor(l, "model.layers.0.self_attn.q_proj.bias") ||
	    gguf_tensor(l, "model.layers.0.self_attn.o_proj.bias")))
		rc = set(l, "attention_bias", "true");
	if (rc == 0 && (gguf_tensor(l, "model.layers.0.mlp.gate_proj.bias") ||
	    gguf_tensor(l, "model.layers.0.mlp.down_proj.bias")))
		rc = set(l, "mlp_bias", "true");
	if (rc == 0 && gguf_tensor(l, "rope_freqs.weight"))
		rc = set(l, "rope_scaling.factors", "rope_freqs.weight");
	if (rc == 0 && !gguf_value(l, "vocab_size") && (embed || tokens))
		rc = gguf_set(l, "vocab_size", "%" PRId64, embed ? embed->info.rows : tokens->n);
	return rc;
}
