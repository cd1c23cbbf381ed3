/* SPDX-License-Identifier: MIT */
/* core/cuts.h - one rank's share of a model: which heads, which columns of the MLP, which
 * rows of the vocabulary. Contiguous ranges, in rank order, that together are the whole
 * (KV heads apart, of which ranks may hold copies). */
#ifndef NVLLM_CUTS_H
#define NVLLM_CUTS_H

#include <nvllm/attention.h>
#include <nvllm/model.h>

struct slice { int64_t first, n; };

struct cuts {
	int32_t rank, world;
	struct slice ffn, moe;    /* of arch.ffn and moe_ffn, in units of ffn_unit (the last one may be shorter) */
	struct slice vocab;       /* of arch.vocab */
	int64_t ffn_total, moe_total, vocab_total, ffn_unit;
	int32_t n_layers;
	const struct nvllm_attn_layer *const *whole; /* [n_layers] the model's */
	struct slice *q, *kv;     /* [n_layers] heads of this rank; q's n is a multiple of kv's n */
	struct nvllm_attn_layer *mine;               /* [n_layers] the model's with this rank's heads */
	const struct nvllm_attn_layer **list;        /* [n_layers] of mine: for nvllm_attn_shape */
};

/* Divides; ffn_unit: columns of the MLP that must stay together, 1 or a quantisation block.
 * More ranks than units leaves some with n = 0. At world 1 everything is whole. Ranks get
 * the same number of units or one more, the lower ranks first. With more ranks than KV heads,
 * KV head i belongs to ranks [i * world / n_kv, (i + 1) * world / n_kv), which divide its
 * query heads among them and hold a copy each (kv n = 1; both n = 0 where there is no query head
 * left). The arch must outlive it. */
int  cuts_make(struct cuts *, const struct nvllm_arch *, int32_t rank, int32_t world, int64_t ffn_unit);
void cuts_free(struct cuts *);

/* What of a weight of the whole model (rows x cols, or cols 0: a vector of `rows` elements)
 * a cut leaves this rank. */
struct cut_part {
	struct slice row[3];      /* ranges of its rows (of a vector: elements), in order */
	int n_rows;               /* of row[]; 0 = no rows at all */
	struct slice col;         /* its columns; vectors: unused */
};
/* 0, or NVLLM_EINVAL and a sentence where the size does not belong to the cut (rows of
 * NVLLM_CUT_HEADS that are neither q + k + v, q nor k heads of the layer, and so on). */
int  cuts_part(const struct cuts *, int cut, int32_t layer, int64_t rows, int64_t cols, struct cut_part *);
/* The same of one expert's weight: its width is arch.moe_ffn. */
int  cuts_expert(const struct cuts *, int cut, int64_t rows, int64_t cols, struct cut_part *);

#endif
