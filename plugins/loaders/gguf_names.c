/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_names.c - what tensors are called: names of GGUF (llama.cpp,
 * gguf-py/gguf/constants.py) to those of Hugging Face, and what a name says of the
 * order of rows and of planes. Names that one architecture has for itself: gguf_archs.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

static const struct gguf_name outer_names[] = {
	{ "token_embd", "model.embed_tokens", NULL, 0 },
	{ "output_norm", "model.norm", NULL, 0 },
	{ "output", "lm_head", NULL, 0 },
	{ NULL, NULL, NULL, 0 },
};

/* Rows of a layer, after "blk.N.". */
static const struct gguf_name layer_names[] = {
	{ "attn_norm", "input_layernorm", NULL, 0 },
	{ "attn_q", "self_attn.q_proj", "num_attention_heads", 0 },
	{ "attn_k", "self_attn.k_proj", "num_key_value_heads", 0 },
	{ "attn_v", "self_attn.v_proj", NULL, 0 },
	{ "attn_output", "self_attn.o_proj", NULL, 0 },
	{ "attn_q_norm", "self_attn.q_norm", NULL, 0 },
	{ "attn_k_norm", "self_attn.k_norm", NULL, 0 },
	{ "ffn_norm", "post_attention_layernorm", NULL, 0 },
	{ "ffn_gate", "mlp.gate_proj", NULL, 0 },
	{ "ffn_up", "mlp.up_proj", NULL, 0 },
	{ "ffn_down", "mlp.down_proj", NULL, 0 },
	{ NULL, NULL, NULL, 0 },
};

static const struct gguf_name *name_find(const struct gguf_name *n, const char *s, size_t len)
{
	for (; n && n->gguf; n++)
		if (strlen(n->gguf) == len && !memcmp(n->gguf, s, len))
			return n;
	return NULL;
}

/* Rows of a head, from the rows (a bias: the elements) and the number of heads. */
static int set_head_rows(struct nvllm_loader *l, struct gguf_tensor *t, const char *count_key,
	int bias)
{
	const char *text = gguf_value(l, count_key);
	char *end = NULL;
	int64_t heads = text ? strtoll(text, &end, 10) : 0;
	int64_t rows = bias ? t->info.cols : t->info.rows;

	if (heads < 1 || *end || rows % heads || rows / heads % 2)
		return gguf_damaged(l, "tensor '%.*s' has %" PRId64 " rows, which do not part into "
			"%s attention heads of an even size", NAME(t->raw), rows,
			text ? text : "(unknown)");
	if (bias && (t->info.rows != 1 || nvllm_dtype_block(t->info.dtype, NULL) != 1))
		return gguf_damaged(l, "tensor '%.*s' is no plain vector", NAME(t->raw));
	t->head_rows = rows / heads;
	return NVLLM_OK;
}

/* Bytes of the ".weight" or ".bias" at the end, 0 = neither. */
static size_t tail_of(const char *s, size_t len)
{
	static const char *const tails[] = { ".weight", ".bias" };

	for (size_t i = 0; i < sizeof(tails) / sizeof(*tails); i++) {
		size_t n = strlen(tails[i]);

		if (len > n && !memcmp(s + len - n, tails[i], n))
			return n;
	}
	return 0;
}

/* Planes are experts, as many as the metadata says; other tensors have one. */
static int check_planes(struct nvllm_loader *l, const struct gguf_tensor *t, const struct gguf_name *name)
{
	const char *text = name->experts ? gguf_value(l, "num_experts") : "1";

	if (text && strtoll(text, NULL, 10) == t->info.planes)
		return NVLLM_OK;
	if (!name->experts)
		return gguf_damaged(l, "tensor '%.*s' has %d planes of %" PRId64 " x %" PRId64
			" elements, and should be a matrix", NAME(t->raw), t->info.planes,
			t->info.rows, t->info.cols);
	return gguf_damaged(l, "tensor '%.*s' has %d experts, and key '%s.expert_count' says %s",
		NAME(t->raw), t->info.planes, l->arch_name, text ? text : "nothing");
}

/* Bytes of the "blk.12." that a layer's names begin with, 0 = none. */
static size_t head_of(const char *s, size_t len)
{
	size_t n = 4;

	if (len <= n || memcmp(s, "blk.", n))
		return 0;
	while (n < len && s[n] >= '0' && s[n] <= '9')
		n++;
	return n > 4 && n < len && s[n] == '.' ? n + 1 : 0;
}

/* What is not listed keeps its name. */
int gguf_translate(struct nvllm_loader *l, struct gguf_tensor *t)
{
	const char *s = t->raw.s;
	size_t len = (size_t)t->raw.len, tail = tail_of(s, len), body = len - tail, n = head_of(s, body);
	size_t room = len + 64;
	const struct gguf_name *name = NULL;
	char *hf = gguf_alloc(l, (int64_t)room, 1);

	if (!hf)
		return NVLLM_ENOMEM;
	if (l->arch && tail && n)
		name = name_find(l->arch->names, s + n, body - n);
	if (l->arch && tail && !name)
		name = name_find(n ? layer_names : outer_names, s + n, body - n);
	if (!name)
		memcpy(hf, s, len);
	else
		snprintf(hf, room, "%s%.*s%s%.*s", n ? "model.layers." : "", n ? (int)n - 4 : 0,
			s + (n ? 4 : 0), name->hf, (int)tail, s + body);
	t->name = (struct nvllm_str){ hf, (int64_t)strlen(hf) };
	if (name && check_planes(l, t, name) < 0)
		return NVLLM_EINVAL;
	if (!name || !name->heads || !l->arch->interleaved)
		return NVLLM_OK;
	return set_head_rows(l, t, name->heads, tail == strlen(".bias"));
}
