/* SPDX-License-Identifier: MIT */
/* tests/broken/model.c - a model of one attention layer, and with one word of -D a broken
 * one. */
#include <math.h>

#include <nvllm/model.h>
#include <nvllm/plugin.h>

struct hparams { int64_t dim, heads, vocab; };

struct nvllm_model {
	const struct hparams *h;
	struct nvllm_tensor embed, qkv, o;
	struct nvllm_norm norm;
	struct nvllm_rotary rotary;
	int32_t calls;
};

static int create(const struct nvllm_host *host, const void *hparams, const void *conf,
	struct nvllm_model **out, struct nvllm_arch *arch)
{
	const struct hparams *h = hparams;
	struct nvllm_model *m = host->alloc(host, sizeof(*m));
	struct nvllm_attn_layer *l = host->alloc(host, sizeof(*l));
	const struct nvllm_attn_layer **list = host->alloc(host, sizeof(*list));

	(void)conf;
#ifndef NO_REFUSAL
	if (h->dim % h->heads || h->dim / h->heads % 2)
		return host->fail(host, NVLLM_EINVAL,
			"hidden_size %d does not make %d heads of even width", (int)h->dim,
			(int)h->heads);
#endif
	if (!m || !l || !list)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the model");
	m->h = h;
	*l = (struct nvllm_attn_layer){ .size = sizeof(*l),
		.n_heads = (int32_t)h->heads,
		.n_kv_heads = (int32_t)h->heads,
		.head_dim = (int32_t)(h->dim / h->heads),
		.kv_layer = -1,
		.scale = 1 / sqrt((double)h->dim / (double)h->heads) };
	list[0] = l;
	arch->n_layers = 1;
	arch->dim = h->dim;
	arch->vocab = h->vocab;
	arch->max_len = 1024;
	arch->layers = list;
	*out = m;
	return NVLLM_OK;
}

static int bind(struct nvllm_model *m, struct nvllm_weights *w)
{
	int64_t dim = m->h->dim;
	struct nvllm_rope rope = {
		.size = sizeof(rope), .dims = (int32_t)(dim / m->h->heads), .theta = 1e4
	};

	m->rotary = w->rope(w, &rope);
	m->embed = w->get(w, NVLLM_CUT_VOCAB, m->h->vocab, dim, "embed.weight");
	w->layer = 0;
	m->qkv = w->get(w, NVLLM_CUT_HEADS, 3 * dim, dim, "attn.{q,k,v}.weight");
	m->o = w->get(w, NVLLM_CUT_HEADS_IN, dim, dim, "attn.o.weight");
	m->norm = (struct nvllm_norm){ .size = sizeof(m->norm), .eps = 1e-5,
		.w = w->get(w, NVLLM_WHOLE, dim, 0, "norm.weight") };
#ifdef UNUSED_WEIGHT
	w->get(w, NVLLM_WHOLE, dim, 0, "norm2.weight");
#endif
#ifdef SWALLOWS_STATUS
	return NVLLM_OK;
#endif
	return w->status;
}

static int forward(struct nvllm_model *m, struct nvllm_step *s, struct nvllm_tensor *logits)
{
	const struct nvllm_ops *op = s->op;
	struct nvllm_attn_in in = { .size = sizeof(in), .rotary = &m->rotary };
	struct nvllm_tensor x = op->embed(s, m->embed, 1);

	op->linear_add(s, x, op->attention(s, op->norm_linear(s, x, &m->norm, m->qkv, NULL), &in),
		m->o, NULL);
#ifdef LOOKS_AT_BATCH
	if (s->batch->max_kv_len > 8)
		x = op->norm(s, x, &m->norm);
#endif
#ifdef HOLDS_PAST_RESET
	int64_t mark = op->mark(s);

	x = op->norm(s, x, &m->norm);
	op->reset(s, mark);
#endif
#ifdef KEEPS_STATE
	if (m->calls++ % 2)
		x = op->norm(s, x, &m->norm);
#endif
	*logits = op->linear(s, op->logit_rows(s, x), m->embed, NULL);
	return NVLLM_OK;
}

static const struct nvllm_option hparams[] = {
	NVLLM_INT(hparams, dim, "hidden_size", NULL, 1, 1 << 20, "width of the residual stream"),
	NVLLM_INT(hparams, heads, "num_attention_heads", NULL, 1, 1024, "heads"),
	NVLLM_INT(hparams, vocab, "vocab_size", NULL, 1, 1 << 24, "tokens"),
	NVLLM_OPTIONS_END
};

static const struct nvllm_model_vt vt = {
	.size = sizeof(vt), .architectures = (const char *const[]){ "TestForCausalLM", NULL },
	.hparams = hparams, .hparams_size = sizeof(struct hparams), .create = create, .bind = bind,
	.forward = forward,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_MODEL, .name = "test_model",
	.summary = "a model of one layer for tests", .vt = &vt,
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "test_model", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
