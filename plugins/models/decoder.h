/* SPDX-License-Identifier: MIT */
/* decoder.h - what the decoder models share: the hyperparameters of config.json that all of
 * them have, and what follows from these. Static functions: each plugin has its own copy. */
#ifndef DECODER_H
#define DECODER_H

#include <math.h>
#include <string.h>

#include <nvllm/model.h>

/* The first member of each model's own struct of hyperparameters. */
struct decoder {
	int64_t n_layers, dim, ffn, n_heads, n_kv_heads, head_dim, vocab, max_len, rope_dims, original_len;
	double eps, theta, partial, factor, low, high, beta_fast, beta_slow, attention_factor, mscale, mscale_all;
	int32_t tied, scaling, truncate, act;
	const char *factors;
	/* sliding layers: their window, whether it is on, from which layer; or a word a layer */
	int64_t window, window_from;
	int32_t use_window;
	const char *layer_types;
};

/* In the order of enum nvllm_rope_scaling and enum nvllm_act. */
static const char *const decoder_scalings[] = { "default", "linear", "llama3", "yarn", "dynamic", NULL };
static const char *const decoder_acts[] = { "silu", "gelu_pytorch_tanh", "gelu", "relu", NULL };

/* The rows of all, where defaults differ by the family: theta, tied, head_dim, act's key. */
#define DECODER_OPTIONS(theta_, tied_, head_dim_, act_key, act_) \
	NVLLM_INT(decoder, n_layers, "num_hidden_layers", NULL, 1, 1024, "decoder layers"), \
	NVLLM_INT(decoder, dim, "hidden_size", NULL, 1, 1 << 20, "width of the residual stream"), \
	NVLLM_INT(decoder, ffn, "intermediate_size", NULL, 1, 1 << 20, "width of the MLP"), \
	NVLLM_INT(decoder, n_heads, "num_attention_heads", NULL, 1, 1024, "query heads"), \
	NVLLM_INT(decoder, n_kv_heads, "num_key_value_heads", "0", 0, 1024, "key and value heads; 0 = query heads"), \
	NVLLM_INT(decoder, head_dim, "head_dim", head_dim_, 0, 1024, "elements of a head; 0 = hidden_size / heads"), \
	NVLLM_INT(decoder, vocab, "vocab_size", NULL, 1, 1 << 24, "tokens"), \
	NVLLM_INT(decoder, max_len, "max_position_embeddings", "2048", 1, 1 << 30, "longest sequence, tokens"), \
	NVLLM_FLOAT(decoder, eps, "rms_norm_eps", "1e-6", 0, 1, "added to the mean square"), \
	NVLLM_ENUM(decoder, act, act_key, act_, decoder_acts, "activation of the MLP"), \
	NVLLM_BOOL(decoder, tied, "tie_word_embeddings", tied_, "lm_head is embed_tokens"), \
	NVLLM_FLOAT(decoder, theta, "rope_theta", theta_, 1e-3, 1e12, "base of the rotary embedding"), \
	NVLLM_INT(decoder, rope_dims, "rope_dims", "0", 0, 1024, "elements of a head that turn; 0 = all"), \
	NVLLM_FLOAT(decoder, partial, "partial_rotary_factor", "1", 0, 1, "share of a head that turns"), \
	NVLLM_ENUM(decoder, scaling, "rope_scaling.rope_type", "default", decoder_scalings, \
		"scaling of the rotary embedding"), \
	NVLLM_FLOAT(decoder, factor, "rope_scaling.factor", "0", 0, 1e6, "factor of the scaling"), \
	NVLLM_FLOAT(decoder, low, "rope_scaling.low_freq_factor", "0", 0, 1e6, "llama3: below it waves are slowed"), \
	NVLLM_FLOAT(decoder, high, "rope_scaling.high_freq_factor", "0", 0, 1e6, "llama3: above it waves stay"), \
	NVLLM_FLOAT(decoder, beta_fast, "rope_scaling.beta_fast", "32", 1e-3, 1e6, "yarn: turns above it stay"), \
	NVLLM_FLOAT(decoder, beta_slow, "rope_scaling.beta_slow", "1", 1e-3, 1e6, "yarn: turns below it are slowed"), \
	NVLLM_FLOAT(decoder, attention_factor, "rope_scaling.attention_factor", "0", 0, 1e6, \
		"yarn: multiplies cos and sin; 0 = by the factor"), \
	NVLLM_FLOAT(decoder, mscale, "rope_scaling.mscale", "0", 0, 1e6, "yarn: see attention_factor"), \
	NVLLM_FLOAT(decoder, mscale_all, "rope_scaling.mscale_all_dim", "0", 0, 1e6, "yarn: see attention_factor"), \
	NVLLM_BOOL(decoder, truncate, "rope_scaling.truncate", "true", "yarn: the ramp's ends are whole dimensions"), \
	NVLLM_INT(decoder, original_len, "rope_scaling.original_max_position_embeddings", "0", 0, 1 << 30, \
		"length before scaling, tokens; 0 = max_position_embeddings"), \
	NVLLM_STR(decoder, factors, "rope_scaling.factors", "", "tensor that divides the frequencies"), \
	NVLLM_STR(decoder, layer_types, "layer_types", "", "sliding_attention or full_attention for each layer")

/* And of those with sliding layers. on_: whether they slide by default; from_: the first that does. */
#define DECODER_WINDOW_OPTIONS(window_, on_, from_) \
	NVLLM_INT(decoder, window, "sliding_window", window_, 0, 1 << 30, "positions a token sees; 0 = all"), \
	NVLLM_BOOL(decoder, use_window, "use_sliding_window", on_, "whether sliding_window counts"), \
	NVLLM_INT(decoder, window_from, "max_window_layers", from_, 0, 1 << 20, "layers before it see all positions")

/* What a scaling of the rotary embedding cannot do without. */
static inline int decoder_check_rope(const struct nvllm_host *host, const struct decoder *d)
{
	const char *lacks = NULL;

	if (d->scaling != NVLLM_ROPE_DEFAULT && !(d->factor > 0))
		lacks = "factor";
	else if (d->scaling == NVLLM_ROPE_LLAMA3 && !d->original_len)
		lacks = "original_max_position_embeddings";
	else if (d->scaling == NVLLM_ROPE_LLAMA3 && !(d->low > 0 && d->high > d->low))
		lacks = "low_freq_factor or a larger high_freq_factor";
	return !lacks ? NVLLM_OK : host->fail(host, NVLLM_EINVAL, "the configuration's rope_scaling is of the type '%s' and has "
		"no %s", decoder_scalings[d->scaling], lacks);
}

static inline int32_t decoder_rope_dims(const struct decoder *d)
{
	return (int32_t)(d->rope_dims ? d->rope_dims : (int64_t)((double)d->head_dim * d->partial));
}

/* layer_types: empty, or one of two words for each layer. */
static inline int decoder_check_layers(const struct nvllm_host *host, const struct decoder *d)
{
	int64_t n = 0;

	for (const char *at = d->layer_types + strspn(d->layer_types, " "); *at; n++) {
		size_t len = strcspn(at, " ");

		if ((len != 17 || strncmp(at, "sliding_attention", len)) && (len != 14 || strncmp(at, "full_attention", len)))
			return host->fail(host, NVLLM_ENOTSUP, "layer_types has '%.*s' for layer %d: this model plugin knows "
				"full_attention and sliding_attention", len < 40 ? (int)len : 40, at, (int)n);
		at += len;
		at += strspn(at, " ");
	}
	return !n || n == d->n_layers ? NVLLM_OK : host->fail(host, NVLLM_EINVAL, "layer_types names %d layers, "
		"num_hidden_layers is %d: the configuration is damaged", (int)n, (int)d->n_layers);
}

/* Checks what must belong together and fills in what may be left out. */
static inline int decoder_check(const struct nvllm_host *host, struct decoder *d)
{
	int rc = decoder_check_rope(host, d);

	d->n_kv_heads = d->n_kv_heads ? d->n_kv_heads : d->n_heads;
	if (d->n_heads % d->n_kv_heads)
		return host->fail(host, NVLLM_EINVAL, "num_attention_heads %d is no multiple of num_key_value_heads %d",
			(int)d->n_heads, (int)d->n_kv_heads);
	if (!d->head_dim && d->dim % d->n_heads)
		return host->fail(host, NVLLM_EINVAL, "hidden_size %d is no multiple of num_attention_heads %d, and "
			"there is no head_dim", (int)d->dim, (int)d->n_heads);
	d->head_dim = d->head_dim ? d->head_dim : d->dim / d->n_heads;
	d->original_len = d->original_len ? d->original_len : d->max_len;
	if (!rc && (decoder_rope_dims(d) < 2 || decoder_rope_dims(d) > d->head_dim || decoder_rope_dims(d) % 2))
		return host->fail(host, NVLLM_EINVAL, "%d of the %d elements of a head would turn (head_dim and "
			"partial_rotary_factor or rope_dims): it must be an even number, 2 to head_dim", decoder_rope_dims(d),
			(int)d->head_dim);
	return rc ? rc : decoder_check_layers(host, d);
}

/* Does layer i slide, by layer_types? -1: it says nothing of it. */
static inline int decoder_slides(const struct decoder *d, int64_t i)
{
	const char *at = d->layer_types;

	for (; *at && i > 0; i--) {
		at += strcspn(at, " ");
		at += strspn(at, " ");
	}
	return !*at ? -1 : !strncmp(at, "sliding_attention", 17);
}

static inline int64_t decoder_window(const struct decoder *d, int64_t i)
{
	int slides = decoder_slides(d, i);

	if (slides < 0)
		slides = d->use_window && i >= d->window_from;
	return slides ? d->window : 0;
}

/* The arch of a model of n_layers like layers, with the windows above. */
static inline int decoder_arch(const struct nvllm_host *host, const struct decoder *d, double scale,
	struct nvllm_arch *arch)
{
	struct nvllm_attn_layer *layer = host->alloc(host, (size_t)d->n_layers * sizeof(*layer));
	const struct nvllm_attn_layer **list = host->alloc(host, (size_t)d->n_layers * sizeof(*list));

	if (!layer || !list)
		return host->fail(host, NVLLM_ENOMEM, "no memory for %d layers", (int)d->n_layers);
	for (int64_t i = 0; i < d->n_layers; i++) {
		layer[i] = (struct nvllm_attn_layer){
			.size = sizeof(*layer), .n_heads = (int32_t)d->n_heads, .n_kv_heads = (int32_t)d->n_kv_heads,
			.head_dim = (int32_t)d->head_dim, .window = (int32_t)decoder_window(d, i), .kv_layer = -1,
			.scale = scale,
		};
		list[i] = &layer[i];
	}
	arch->n_layers = (int32_t)d->n_layers;
	arch->dim = d->dim;
	arch->vocab = d->vocab;
	arch->ffn = d->ffn;
	arch->max_len = d->max_len;
	if (d->scaling == NVLLM_ROPE_YARN && (double)arch->max_len < (double)d->original_len * d->factor)
		arch->max_len = (int64_t)((double)d->original_len * d->factor);
	arch->layers = list;
	return NVLLM_OK;
}

static inline struct nvllm_rope decoder_rope(const struct decoder *d)
{
	return (struct nvllm_rope){
		.size = sizeof(struct nvllm_rope), .dims = decoder_rope_dims(d), .theta = d->theta, .scaling = d->scaling,
		.factor = d->factor, .low_freq_factor = d->low, .high_freq_factor = d->high,
		.beta_fast = d->beta_fast, .beta_slow = d->beta_slow, .attention_factor = d->attention_factor,
		.mscale = d->mscale, .mscale_all_dim = d->mscale_all, .untruncated = !d->truncate,
		.original_len = d->original_len, .factors = *d->factors ? d->factors : NULL,
	};
}

static inline struct nvllm_norm decoder_norm(const struct decoder *d, double offset, struct nvllm_tensor w)
{
	return (struct nvllm_norm){ .size = sizeof(struct nvllm_norm), .kind = NVLLM_RMS_NORM, .eps = d->eps,
		.offset = offset, .w = w };
}

/* The weights that a layer of all of them has; norms lie before their sublayer. */
struct decoder_layer {
	struct nvllm_norm norm1, norm2;
	struct nvllm_tensor qkv, o, gate_up, down;
};

#define DECODER_W(cut, rows, cols, name) w->get(w, cut, rows, cols, "model.layers.%d." name ".weight", i)
static inline void decoder_bind_attention(const struct decoder *d, struct nvllm_weights *w, int i,
	struct decoder_layer *l)
{
	int64_t q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;

	w->layer = i;
	l->norm1 = decoder_norm(d, 0, DECODER_W(NVLLM_WHOLE, d->dim, 0, "input_layernorm"));
	l->qkv   = DECODER_W(NVLLM_CUT_HEADS, q + 2 * kv, d->dim, "self_attn.{q,k,v}_proj");
	l->o     = DECODER_W(NVLLM_CUT_HEADS_IN, d->dim, q, "self_attn.o_proj");
	l->norm2 = decoder_norm(d, 0, DECODER_W(NVLLM_WHOLE, d->dim, 0, "post_attention_layernorm"));
}

static inline void decoder_bind_mlp(const struct decoder *d, struct nvllm_weights *w, int i, struct decoder_layer *l)
{
	l->gate_up = DECODER_W(NVLLM_CUT_ROWS, 2 * d->ffn, d->dim, "mlp.{gate,up}_proj");
	l->down    = DECODER_W(NVLLM_CUT_COLS, d->dim, d->ffn, "mlp.down_proj");
}
#undef DECODER_W

#endif
