/* SPDX-License-Identifier: MIT */
/* Llama: a decoder of RMS norms, rotary attention with grouped heads, and a gated MLP
 * (Touvron et al. 2023; Llama 3: Dubey et al. 2024). Llama 2 and 3, SmolLM2, Mistral. */
#include <nvllm/plugin.h>

#include "decoder.h"

struct hparams {
	struct decoder d;
	int32_t attention_bias, mlp_bias;
};

struct layer {
	struct decoder_layer common;
	struct nvllm_tensor qkv_bias, o_bias;
};

struct nvllm_model {
	struct hparams h;
	struct nvllm_tensor embed, head;
	struct nvllm_norm norm;
	struct nvllm_rotary rotary;
	struct layer *layers;            /* [n_layers] */
};

static int create(const struct nvllm_host *host, const void *hparams, const void *conf,
	struct nvllm_model **out, struct nvllm_arch *arch)
{
	struct nvllm_model *m = host->alloc(host, sizeof(*m));
	int rc;

	(void)conf;
	if (!m)
		return NVLLM_ENOMEM;
	m->h = *(const struct hparams *)hparams;
	rc = decoder_check(host, &m->h.d);
	if (!rc && m->h.mlp_bias)
		rc = host->fail(host, NVLLM_ENOTSUP, "mlp_bias is true: this model plugin knows no biases in the MLP");
	m->layers = rc ? NULL : host->alloc(host, (size_t)m->h.d.n_layers * sizeof(*m->layers));
	if (!m->layers)
		return rc ? rc : NVLLM_ENOMEM;
	*out = m;
	return decoder_arch(host, &m->h.d, 1 / sqrt((double)m->h.d.head_dim), arch);
}

static int bind(struct nvllm_model *m, struct nvllm_weights *w)
{
	const struct decoder *d = &m->h.d;
	int64_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
	struct nvllm_rope rope = decoder_rope(d);

	m->rotary = w->rope(w, &rope);
	m->embed = w->get(w, NVLLM_CUT_VOCAB, d->vocab, d->dim, "model.embed_tokens.weight");
	m->norm = decoder_norm(d, 0, w->get(w, NVLLM_WHOLE, d->dim, 0, "model.norm.weight"));
	m->head = d->tied ? m->embed : w->get(w, NVLLM_CUT_VOCAB, d->vocab, d->dim, "lm_head.weight");
	for (int i = 0; i < d->n_layers; i++) {
		struct layer *l = &m->layers[i];

		decoder_bind_attention(d, w, i, &l->common);
		decoder_bind_mlp(d, w, i, &l->common);
#define W(cut, rows, cols, name) w->get(w, cut, rows, cols, "model.layers.%d." name, i)
		if (m->h.attention_bias) {
			l->qkv_bias = W(NVLLM_CUT_HEADS, q + 2 * kv, 0, "self_attn.{q,k,v}_proj.bias");
			l->o_bias = W(NVLLM_WHOLE, d->dim, 0, "self_attn.o_proj.bias");
		}
#undef W
	}
	return w->status;
}

static int forward(struct nvllm_model *m, struct nvllm_step *s, struct nvllm_tensor *logits)
{
	const struct nvllm_ops *op = s->op;
	struct nvllm_tensor x = op->embed(s, m->embed, 1); /* the residual stream */

	for (int i = 0; i < m->h.d.n_layers; i++) {
		const struct layer *l = &m->layers[i];
		struct nvllm_attn_in in = { .size = sizeof(in), .layer = i, .rotary = &m->rotary,
			.bias = m->h.attention_bias ? &l->qkv_bias : NULL };
		int64_t mark = op->mark(s);

		op->linear_add(s, x, op->attention(s, op->norm_linear(s, x, &l->common.norm1, l->common.qkv, NULL), &in), l->common.o,
			m->h.attention_bias ? &l->o_bias : NULL);
		op->linear_add(s, x, op->norm_linear_glu(s, x, &l->common.norm2, l->common.gate_up, m->h.d.act), l->common.down, NULL);
		op->reset(s, mark);
	}
	*logits = op->norm_linear(s, op->logit_rows(s, x), &m->norm, m->head, NULL);
	return NVLLM_OK;
}

static const struct nvllm_option hparams[] = {
	DECODER_OPTIONS("10000", "false", "0", "hidden_act", "silu"),
	DECODER_WINDOW_OPTIONS("0", "true", "0"),
	NVLLM_BOOL(hparams, attention_bias, "attention_bias", "false", "biases on q, k, v and o"),
	NVLLM_BOOL(hparams, mlp_bias, "mlp_bias", "false", "biases in the MLP"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_model_vt vt = {
	.size = sizeof(vt),
	.architectures = (const char *const[]){ "LlamaForCausalLM", "MistralForCausalLM", NULL },
	.hparams = hparams,
	.hparams_size = sizeof(struct hparams),
	.create = create,
	.bind = bind,
	.forward = forward,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_MODEL, .name = "llama",
	.summary = "Llama 2 and 3, SmolLM2, Mistral", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "llama", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
