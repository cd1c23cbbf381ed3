/* SPDX-License-Identifier: MIT */
/* Llama: a decoder of RMS norms, rotary attention with grouped heads, and a gated MLP
 * (Touvron et al. 2023; Llama 3: Dubey et al. 2024). Llama 2 and 3, SmolLM2, Mistral. */
#include <math.h>

#include <nvllm/model.h>
#include <nvllm/plugin.h>

struct hparams {
	int64_t n_layers, dim, ffn, n_heads, n_kv_heads, head_dim, vocab, max_len, rope_dims, window;
	double eps, theta;
	int32_t tied, scaling;
	double factor, low, high;
	int64_t original_len;
	const char *factors;
};

struct layer {
	struct nvllm_norm norm1, norm2;
	struct nvllm_tensor qkv, o, gate_up, down;
};

struct nvllm_model {
	const struct nvllm_host *host;
	const struct hparams *h;
	int64_t head_dim;
	struct nvllm_tensor embed, head;
	struct nvllm_norm norm;
	struct nvllm_rotary rotary;
	struct layer *layers;            /* [n_layers] */
};

static int create(const struct nvllm_host *host, const void *hparams, const void *conf,
	struct nvllm_model **out, struct nvllm_arch *arch)
{
	const struct hparams *h = hparams;
	struct nvllm_model *m = host->alloc(host, sizeof(*m));
	struct nvllm_attn_layer *al = host->alloc(host, sizeof(*al));
	const struct nvllm_attn_layer **list = host->alloc(host, (size_t)h->n_layers * sizeof(*list));

	if (h->n_heads % h->n_kv_heads)
		return host->fail(host, NVLLM_EINVAL, "num_attention_heads %d is no multiple of num_key_value_heads %d",
			(int)h->n_heads, (int)h->n_kv_heads);
	if (!h->head_dim && h->dim % h->n_heads)
		return host->fail(host, NVLLM_EINVAL, "hidden_size %d is no multiple of num_attention_heads %d, and "
			"there is no head_dim", (int)h->dim, (int)h->n_heads);
	if (!m || !al || !list)
		return NVLLM_ENOMEM;
	m->host = host;
	m->h = h;
	m->head_dim = h->head_dim ? h->head_dim : h->dim / h->n_heads;
	m->layers = host->alloc(host, (size_t)h->n_layers * sizeof(*m->layers));
	if (!m->layers)
		return NVLLM_ENOMEM;

	*al = (struct nvllm_attn_layer){
		.size = sizeof(*al), .n_heads = (int32_t)h->n_heads, .n_kv_heads = (int32_t)h->n_kv_heads,
		.head_dim = (int32_t)m->head_dim, .window = (int32_t)h->window, .kv_layer = -1,
		.scale = 1 / sqrt((double)m->head_dim),
	};
	for (int64_t i = 0; i < h->n_layers; i++)
		list[i] = al; /* every layer is alike */
	arch->n_layers = (int32_t)h->n_layers;
	arch->dim = h->dim;
	arch->vocab = h->vocab;
	arch->ffn = h->ffn;
	arch->max_len = h->max_len;
	arch->layers = list;
	*out = m;
	return NVLLM_OK;
}

static struct nvllm_norm rms(const struct nvllm_model *m, struct nvllm_tensor w)
{
	return (struct nvllm_norm){ .size = sizeof(struct nvllm_norm), .kind = NVLLM_RMS_NORM, .eps = m->h->eps, .w = w };
}

static int bind(struct nvllm_model *m, struct nvllm_weights *w)
{
	const struct hparams *h = m->h;
	int64_t q = h->n_heads * m->head_dim, kv = h->n_kv_heads * m->head_dim;
	struct nvllm_rope rope = {
		.size = sizeof(rope), .dims = (int32_t)(h->rope_dims ? h->rope_dims : m->head_dim),
		.theta = h->theta, .scaling = h->scaling, .factor = h->factor, .low_freq_factor = h->low,
		.high_freq_factor = h->high, .original_len = h->original_len,
		.factors = *h->factors ? h->factors : NULL,
	};

	m->rotary = w->rope(w, &rope);
	m->embed = w->get(w, NVLLM_CUT_VOCAB, h->vocab, h->dim, "model.embed_tokens.weight");
	m->norm = rms(m, w->get(w, NVLLM_WHOLE, h->dim, 0, "model.norm.weight"));
	m->head = h->tied ? m->embed : w->get(w, NVLLM_CUT_VOCAB, h->vocab, h->dim, "lm_head.weight");
	for (int i = 0; i < h->n_layers; i++) {
		struct layer *l = &m->layers[i];

		w->layer = i;
#define W(cut, rows, cols, name) w->get(w, cut, rows, cols, "model.layers.%d." name ".weight", i)
		l->norm1   = rms(m, W(NVLLM_WHOLE, h->dim, 0, "input_layernorm"));
		l->qkv     = W(NVLLM_CUT_HEADS, q + 2 * kv, h->dim, "self_attn.{q,k,v}_proj");
		l->o       = W(NVLLM_CUT_HEADS_IN, h->dim, q, "self_attn.o_proj");
		l->norm2   = rms(m, W(NVLLM_WHOLE, h->dim, 0, "post_attention_layernorm"));
		l->gate_up = W(NVLLM_CUT_ROWS, 2 * h->ffn, h->dim, "mlp.{gate,up}_proj");
		l->down    = W(NVLLM_CUT_COLS, h->dim, h->ffn, "mlp.down_proj");
#undef W
	}
	return w->status;
}

static int forward(struct nvllm_model *m, struct nvllm_step *s, struct nvllm_tensor *logits)
{
	const struct nvllm_ops *op = s->op;
	struct nvllm_tensor x = op->embed(s, m->embed, 1); /* the residual stream */

	for (int i = 0; i < m->h->n_layers; i++) {
		const struct layer *l = &m->layers[i];
		struct nvllm_attn_in in = { .size = sizeof(in), .layer = i, .rotary = &m->rotary };
		int64_t mark = op->mark(s);

		op->linear_add(s, x, op->attention(s, op->norm_linear(s, x, &l->norm1, l->qkv, NULL), &in), l->o, NULL);
		op->linear_add(s, x, op->norm_linear_glu(s, x, &l->norm2, l->gate_up, NVLLM_SILU), l->down, NULL);
		op->reset(s, mark);
	}
	*logits = op->norm_linear(s, op->logit_rows(s, x), &m->norm, m->head, NULL);
	return NVLLM_OK;
}

static const char *const scalings[] = { "default", "linear", "llama3", NULL };

static const struct nvllm_option hparams[] = {
	NVLLM_INT(hparams, n_layers, "num_hidden_layers", NULL, 1, 1024, "decoder layers"),
	NVLLM_INT(hparams, dim, "hidden_size", NULL, 1, 1 << 20, "width of the residual stream"),
	NVLLM_INT(hparams, ffn, "intermediate_size", NULL, 1, 1 << 20, "width of the MLP"),
	NVLLM_INT(hparams, n_heads, "num_attention_heads", NULL, 1, 1024, "query heads"),
	NVLLM_INT(hparams, n_kv_heads, "num_key_value_heads", NULL, 1, 1024, "key and value heads"),
	NVLLM_INT(hparams, head_dim, "head_dim", "0", 0, 1024, "elements of a head; 0 = hidden_size / heads"),
	NVLLM_INT(hparams, vocab, "vocab_size", NULL, 1, 1 << 24, "tokens"),
	NVLLM_INT(hparams, max_len, "max_position_embeddings", "2048", 1, 1 << 30, "longest sequence, tokens"),
	NVLLM_INT(hparams, window, "sliding_window", "0", 0, 1 << 30, "positions a token sees; 0 = all"),
	NVLLM_FLOAT(hparams, eps, "rms_norm_eps", "1e-6", 0, 1, "added to the mean square"),
	NVLLM_FLOAT(hparams, theta, "rope_theta", "10000", 1e-3, 1e12, "base of the rotary embedding"),
	NVLLM_INT(hparams, rope_dims, "rope_dims", "0", 0, 1024, "elements of a head that turn; 0 = all"),
	NVLLM_ENUM(hparams, scaling, "rope_scaling.rope_type", "default", scalings, "scaling of the rotary embedding"),
	NVLLM_FLOAT(hparams, factor, "rope_scaling.factor", "1", 1e-3, 1e6, "factor of the scaling"),
	NVLLM_FLOAT(hparams, low, "rope_scaling.low_freq_factor", "1", 1e-3, 1e6, "llama3: below it waves are slowed"),
	NVLLM_FLOAT(hparams, high, "rope_scaling.high_freq_factor", "4", 1e-3, 1e6, "llama3: above it waves stay"),
	NVLLM_INT(hparams, original_len, "rope_scaling.original_max_position_embeddings", "8192", 1, 1 << 30,
		"length before scaling, tokens"),
	NVLLM_STR(hparams, factors, "rope_scaling.factors", "", "tensor that divides the frequencies"),
	NVLLM_BOOL(hparams, tied, "tie_word_embeddings", "false", "lm_head is embed_tokens"),
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
