/* SPDX-License-Identifier: MIT */
/* Gemma 3, text (Gemma team 2025): norms before and after attention and MLP, weights of
 * norms around zero (1 + w), five layers with a sliding window to one that sees all, each
 * kind with a rotary base of its own, embeddings scaled by sqrt(hidden_size). */
#include <nvllm/plugin.h>

#include "decoder.h"

struct hparams {
	struct decoder d;
	double local_theta, query_scalar, attn_softcap, final_softcap, norm_offset;
	int64_t pattern;                 /* every so many layers sees all positions */
	int32_t attention_bias, bidirectional;
};

struct layer {
	struct nvllm_norm norm1, after1, norm2, after2, q_norm, k_norm;
	const struct nvllm_rotary *rotary;
	struct nvllm_tensor qkv, o, gate_up, down;
};

struct nvllm_model {
	struct hparams h;
	struct nvllm_tensor embed, head;
	struct nvllm_norm norm;
	struct nvllm_rotary rotary, local;   /* of layers that see all, and of the others */
	struct layer *layers;            /* [n_layers] */
};

static int slides(const struct hparams *h, int64_t layer)
{
	int said = decoder_slides(&h->d, layer);

	return said >= 0 ? said : (layer + 1) % h->pattern != 0;
}

static int make_arch(const struct nvllm_host *host, struct nvllm_model *m, struct nvllm_arch *arch)
{
	const struct hparams *h = &m->h;
	struct nvllm_attn_layer *l;
	int rc = decoder_arch(host, &h->d, 1 / sqrt(h->query_scalar), arch);

	for (int64_t i = 0; i < h->d.n_layers && !rc; i++) {
		l = (struct nvllm_attn_layer *)(uintptr_t)arch->layers[i];
		l->window = slides(h, i) ? (int32_t)h->d.window : 0;
		l->softcap = h->attn_softcap;
	}
	return rc;
}

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
	if (!rc && (m->h.attention_bias || m->h.bidirectional || m->h.final_softcap > 0))
		rc = host->fail(host, NVLLM_ENOTSUP, "attention_bias, use_bidirectional_attention and final_logit_softcapping "
			"are not in this model plugin: the checkpoint sets one of them");
	m->layers = rc ? NULL : host->alloc(host, (size_t)m->h.d.n_layers * sizeof(*m->layers));
	if (!m->layers)
		return rc ? rc : NVLLM_ENOMEM;
	*out = m;
	return make_arch(host, m, arch);
}

static int bind(struct nvllm_model *m, struct nvllm_weights *w)
{
	const struct decoder *d = &m->h.d;
	int64_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
	double one = m->h.norm_offset;
	struct nvllm_rope rope = decoder_rope(d), local = { .size = sizeof(local), .dims = rope.dims,
		.theta = m->h.local_theta };

	m->rotary = w->rope(w, &rope);
	m->local = w->rope(w, &local);
	m->embed = w->get(w, NVLLM_CUT_VOCAB, d->vocab, d->dim, "model.embed_tokens.weight");
	m->norm = decoder_norm(d, one, w->get(w, NVLLM_WHOLE, d->dim, 0, "model.norm.weight"));
	m->head = d->tied ? m->embed : w->get(w, NVLLM_CUT_VOCAB, d->vocab, d->dim, "lm_head.weight");
	for (int i = 0; i < d->n_layers; i++) {
		struct layer *l = &m->layers[i];

		w->layer = i;
#define W(cut, rows, cols, name) w->get(w, cut, rows, cols, "model.layers.%d." name, i)
		l->norm1   = decoder_norm(d, one, W(NVLLM_WHOLE, d->dim, 0, "input_layernorm.weight"));
		l->qkv     = W(NVLLM_CUT_HEADS, q + 2 * kv, d->dim, "self_attn.{q,k,v}_proj.weight");
		l->q_norm  = decoder_norm(d, one, W(NVLLM_WHOLE, d->head_dim, 0, "self_attn.q_norm.weight"));
		l->k_norm  = decoder_norm(d, one, W(NVLLM_WHOLE, d->head_dim, 0, "self_attn.k_norm.weight"));
		l->o       = W(NVLLM_CUT_HEADS_IN, d->dim, q, "self_attn.o_proj.weight");
		l->after1  = decoder_norm(d, one, W(NVLLM_WHOLE, d->dim, 0, "post_attention_layernorm.weight"));
		l->norm2   = decoder_norm(d, one, W(NVLLM_WHOLE, d->dim, 0, "pre_feedforward_layernorm.weight"));
		l->after2  = decoder_norm(d, one, W(NVLLM_WHOLE, d->dim, 0, "post_feedforward_layernorm.weight"));
		l->gate_up = W(NVLLM_CUT_ROWS, 2 * d->ffn, d->dim, "mlp.{gate,up}_proj.weight");
		l->down    = W(NVLLM_CUT_COLS, d->dim, d->ffn, "mlp.down_proj.weight");
#undef W
		l->rotary  = slides(&m->h, i) ? &m->local : &m->rotary;
	}
	return w->status;
}

static int forward(struct nvllm_model *m, struct nvllm_step *s, struct nvllm_tensor *logits)
{
	const struct nvllm_ops *op = s->op;
	struct nvllm_tensor x = op->embed(s, m->embed, sqrt((double)m->h.d.dim)); /* the residual stream */

	for (int i = 0; i < m->h.d.n_layers; i++) {
		const struct layer *l = &m->layers[i];
		struct nvllm_attn_in in = { .size = sizeof(in), .layer = i, .rotary = l->rotary,
			.q_norm = &l->q_norm, .k_norm = &l->k_norm };
		int64_t mark = op->mark(s);
		struct nvllm_tensor y;

		y = op->attention(s, op->norm_linear(s, x, &l->norm1, l->qkv, NULL), &in);
		op->add(s, x, op->norm(s, op->linear(s, y, l->o, NULL), &l->after1));
		y = op->norm_linear_glu(s, x, &l->norm2, l->gate_up, m->h.d.act);
		op->add(s, x, op->norm(s, op->linear(s, y, l->down, NULL), &l->after2));
		op->reset(s, mark);
	}
	*logits = op->norm_linear(s, op->logit_rows(s, x), &m->norm, m->head, NULL);
	return NVLLM_OK;
}

static const struct nvllm_option hparams[] = {
	DECODER_OPTIONS("1000000", "true", "256", "hidden_activation", "gelu_pytorch_tanh"),
	DECODER_WINDOW_OPTIONS("4096", "true", "0"),
	NVLLM_INT(hparams, pattern, "sliding_window_pattern", "6", 1, 1024, "every so many layers sees all positions"),
	NVLLM_FLOAT(hparams, local_theta, "rope_local_base_freq", "10000", 1e-3, 1e12, "base of the rotary embedding of "
		"sliding layers"),
	NVLLM_FLOAT(hparams, query_scalar, "query_pre_attn_scalar", "256", 1e-6, 1e9, "scores are divided by its root"),
	NVLLM_FLOAT(hparams, attn_softcap, "attn_logit_softcapping", "0", 0, 1e9, "cap of scores; 0 = none"),
	NVLLM_FLOAT(hparams, final_softcap, "final_logit_softcapping", "0", 0, 1e9, "cap of logits: refused"),
	NVLLM_FLOAT(hparams, norm_offset, "norm_offset", "1", 0, 1, "added to the weights of norms; GGUF has added it"),
	NVLLM_BOOL(hparams, attention_bias, "attention_bias", "false", "biases in the attention: refused"),
	NVLLM_BOOL(hparams, bidirectional, "use_bidirectional_attention", "false", "for embeddings: refused"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_model_vt vt = {
	.size = sizeof(vt),
	.architectures = (const char *const[]){ "Gemma3ForCausalLM", NULL },
	.hparams = hparams,
	.hparams_size = sizeof(struct hparams),
	.create = create,
	.bind = bind,
	.forward = forward,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_MODEL, .name = "gemma3",
	.summary = "Gemma 3, text", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "gemma3", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
