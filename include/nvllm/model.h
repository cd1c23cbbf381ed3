/* SPDX-License-Identifier: MIT */
/* nvllm/model.h - a model architecture: names its hyperparameters, names its
 * weights, and writes one forward pass in ops. One file, under 300 lines. */
#ifndef NVLLM_MODEL_H
#define NVLLM_MODEL_H

#include "host.h"
#include "ops.h"
#include "option.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The plugin completes this type in its own .c file: no casts. */
struct nvllm_model;

/* One attention layer of the whole model (the core cuts it for the ranks). */
struct nvllm_attn_layer {
	uint32_t size;
	int32_t n_heads, n_kv_heads, head_dim;
	int32_t window;    /* a position sees itself and the window - 1 before it; 0 = all */
	int32_t kv_layer;  /* -1: keeps its own K and V; else reads those of that layer */
	double scale;      /* of q.k, usually 1 / sqrt(head_dim) */
	double softcap;    /* s = cap * tanh(s / cap) before the mask; 0 = none */
};

/* What the core, the attention backend and the KV cache must be built for. Given to
 * create() zeroed with size set; the model fills the whole model's figures. */
struct nvllm_arch {
	uint32_t size;
	int32_t n_layers;
	int64_t dim;        /* width of the residual stream */
	int64_t vocab;      /* rows of the embedding */
	int64_t ffn;        /* width of the MLP: what NVLLM_CUT_ROWS and _COLS cut */
	int64_t max_len;    /* longest sequence it was made for, in tokens */
	const struct nvllm_attn_layer *const *layers; /* [n_layers], of host->alloc */
	int64_t moe_ffn;    /* width of one expert, cut like ffn where a weight has planes; 0 = no experts */
};

/* Rope scaling, as config.json's rope_scaling / rope_parameters has it. */
enum nvllm_rope_scaling {
	NVLLM_ROPE_DEFAULT = 0, NVLLM_ROPE_LINEAR, NVLLM_ROPE_LLAMA3, NVLLM_ROPE_YARN, NVLLM_ROPE_DYNAMIC,
};
struct nvllm_rope {
	uint32_t size;
	int32_t dims;          /* elements of a head that turn */
	int32_t interleaved;   /* pairing, see struct nvllm_rotary */
	int32_t scaling;       /* enum nvllm_rope_scaling */
	double theta;          /* base */
	double factor;         /* linear, llama3, yarn, dynamic */
	double low_freq_factor, high_freq_factor; /* llama3 */
	double beta_fast, beta_slow;              /* yarn: 32 and 1 */
	double attention_factor;                  /* yarn: multiplies cos and sin; 0 = from factor and the next two */
	double mscale, mscale_all_dim;            /* yarn: 0 = absent */
	int64_t original_len;  /* llama3, yarn, dynamic: length before scaling, tokens */
	const char *factors;   /* NULL, or a checkpoint vector [dims/2] that divides the frequencies */
	int32_t untruncated;   /* yarn: 1 = the ramp's ends are not rounded to whole dimensions */
	int32_t reserved;      /* 0 */
};

/* Names checkpoint tensors (Hugging Face names). Sizes are the whole model's: the
 * core cuts them, checks them against the checkpoint, joins {a,b,c} along rows, and
 * uploads. cols 0 = a vector, returned as [1][rows]. The first failure sticks to
 * status and names the tensor; later calls do nothing; bind() returns w->status.
 * All [setup]. Tensors live as long as the engine. */
struct nvllm_weights {
	uint32_t size;
	int32_t status;
	/* The model sets it before it names the weights of layer i: cuts by head need to know
	 * whose heads they are. */
	int32_t layer;
	int32_t reserved;      /* 0 */
	/* cut: enum nvllm_cut. fmt is printf's; "self_attn.{q,k,v}_proj" joins three. */
	struct nvllm_tensor (*get)(struct nvllm_weights *, int cut, int64_t rows, int64_t cols,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));
	/* 1 if the checkpoint has a tensor of that name. */
	int (*has)(struct nvllm_weights *, const char *name);
	/* The table of inverse frequencies. Formulas: as in Hugging Face transformers,
	 * modeling_rope_utils.py. dynamic is for the longest sequence the engine takes
	 * ([engine] max_model_len): up to original_len it changes nothing. */
	struct nvllm_rotary (*rope)(struct nvllm_weights *, const struct nvllm_rope *);
	/* A weight of n experts, planes of [rows][cols]. '*' in the name is the expert's number:
	 * "model.layers.%d.mlp.experts.*.{gate,up}_proj.weight". NVLLM_CUT_ROWS and _COLS cut
	 * runs of arch.moe_ffn. */
	struct nvllm_tensor (*experts)(struct nvllm_weights *, int cut, int64_t n, int64_t rows, int64_t cols,
		const char *fmt, ...) __attribute__((format(printf, 6, 7)));
};

struct nvllm_model_vt {
	uint32_t size;
	const char *const *architectures;   /* as in config.json's "architectures", NULL-ended */
	const struct nvllm_option *hparams; /* keys of config.json */
	uint64_t hparams_size;              /* bytes of the struct they fill */

	/* [setup] Before weights are read. hparams: filled from the checkpoint, lives as
	 * long as the model. conf: the [model] section's own options, or NULL. Refuse here
	 * what cannot work. */
	int  (*create)(const struct nvllm_host *, const void *hparams, const void *conf,
		struct nvllm_model **out, struct nvllm_arch *arch);
	/* [setup] Names every weight. May be called twice: first with weights that only
	 * check names and shapes (data NULL), then with real ones. */
	int  (*bind)(struct nvllm_model *, struct nvllm_weights *);
	/* [step] Writes *logits, [n_logits][vocab rows of this rank]. Must make the same
	 * calls for the same n_tokens, n_seqs and n_logits: the core runs it dry to measure
	 * memory and records it into device graphs. Never reads tensor data. */
	int  (*forward)(struct nvllm_model *, struct nvllm_step *, struct nvllm_tensor *logits);
	/* [setup] Optional: memory from host->alloc goes by itself. */
	void (*destroy)(struct nvllm_model *);
};

#ifdef __cplusplus
}
#endif
#endif
