/* SPDX-License-Identifier: MIT */
/* cuts.c - who holds what: decides which heads, columns of the MLP and rows of the
 * vocabulary each rank of a group has. All ranks compute the same division, each keeps
 * its own share. */
#include <stdlib.h>
#include <string.h>

#include "core.h"
#include "cuts.h"

/* Share i of `total` things for k: one more each for the first of them. */
static struct slice share(int64_t total, int64_t i, int64_t k)
{
	int64_t each = total / k, more = total % k;

	return (struct slice){ each * i + (i < more ? i : more), each + (i < more) };
}

/* The same of units of which the last may be shorter, in things. */
static struct slice share_units(int64_t total, int64_t unit, int64_t i, int64_t k)
{
	struct slice s = share(total / unit + (total % unit != 0), i, k);
	int64_t end = s.first + s.n;

	s.first = s.first > total / unit ? total : s.first * unit;
	end = end > total / unit ? total : end * unit;
	s.n = end - s.first;
	return s;
}

/* As many ranks as KV heads or fewer: whole groups. More: the ranks of a KV head, which
 * are consecutive, each take a copy of it and a share of its query heads. */
static void share_heads(const struct nvllm_attn_layer *l, int64_t rank, int64_t world, struct slice *q, struct slice *kv)
{
	int64_t n_kv = l->n_kv_heads, group, head, first;

	*q = *kv = (struct slice){ 0, 0 };
	if (!n_kv)
		return;
	group = l->n_heads / n_kv;
	if (world <= n_kv) {
		*kv = share(n_kv, rank, world);
		*q = (struct slice){ kv->first * group, kv->n * group };
		return;
	}
	for (head = 0; (head + 1) * world / n_kv <= rank; head++)
		continue;
	first = head * world / n_kv;
	*q = share(group, rank - first, (head + 1) * world / n_kv - first);
	q->first += head * group;
	*kv = (struct slice){ head, q->n > 0 };
}

static int check_layer(const struct cuts *c, int32_t i)
{
	const struct nvllm_attn_layer *l = c->whole[i];

	if (l->n_heads < 0 || l->n_kv_heads < 0 || l->head_dim < 1 || !l->n_heads != !l->n_kv_heads ||
			(int64_t)l->n_heads * l->head_dim > INT32_MAX)
		return fail(NVLLM_EINVAL, "layer %d: %d query heads and %d KV heads of %d elements cannot be", i,
			l->n_heads, l->n_kv_heads, l->head_dim);
	if (l->n_kv_heads && l->n_heads % l->n_kv_heads)
		return fail(NVLLM_EINVAL, "layer %d: %d query heads are no multiple of %d KV heads", i, l->n_heads,
			l->n_kv_heads);
	if (l->kv_layer >= c->n_layers)
		return fail(NVLLM_EINVAL, "layer %d reads the K and V of layer %d, of %d layers", i, l->kv_layer, c->n_layers);
	return NVLLM_OK;
}

/* A layer that reads another's K and V must find its heads there, on this rank. */
static int check_shared(const struct cuts *c, int32_t i)
{
	int32_t from = c->whole[i]->kv_layer;

	if (from < 0 || !c->kv[i].n || (c->kv[i].first == c->kv[from].first && c->kv[i].n == c->kv[from].n))
		return NVLLM_OK;
	return fail(NVLLM_ENOTSUP, "layer %d reads the K and V of layer %d, which %d ranks cut differently: "
		"lower [engine] tp", i, from, c->world);
}

static int cut_layers(struct cuts *c)
{
	int rc = NVLLM_OK;

	for (int32_t i = 0; i < c->n_layers && !rc; i++) {
		rc = check_layer(c, i);
		if (rc)
			break;
		share_heads(c->whole[i], c->rank, c->world, &c->q[i], &c->kv[i]);
		memcpy(&c->mine[i], c->whole[i], /* its writer may know fewer members */
			c->whole[i]->size < sizeof(c->mine[i]) ? c->whole[i]->size : sizeof(c->mine[i]));
		c->mine[i].n_heads = (int32_t)c->q[i].n;
		c->mine[i].n_kv_heads = (int32_t)c->kv[i].n;
		c->list[i] = &c->mine[i];
	}
	for (int32_t i = 0; i < c->n_layers && !rc; i++)
		rc = check_shared(c, i);
	return rc;
}

int cuts_make(struct cuts *c, const struct nvllm_arch *a, int32_t rank, int32_t world, int64_t ffn_unit)
{
	size_t n = a->n_layers > 0 ? (size_t)a->n_layers : 0;
	int rc;

	*c = (struct cuts){
		.rank = rank, .world = world, .ffn_total = a->ffn, .moe_total = a->moe_ffn, .vocab_total = a->vocab,
		.ffn_unit = ffn_unit, .n_layers = (int32_t)n, .whole = a->layers,
	};
	if (world < 1 || rank < 0 || rank >= world || ffn_unit < 1 || a->ffn < 0 || a->moe_ffn < 0 || a->vocab < 0)
		return fail(NVLLM_EINVAL, "rank %d of %d cannot share %lld MLP columns, %lld together, and %lld tokens",
			rank, world, (long long)a->ffn, (long long)ffn_unit, (long long)a->vocab);
	c->ffn = share_units(a->ffn, ffn_unit, rank, world);
	c->moe = share_units(a->moe_ffn, ffn_unit, rank, world);
	c->vocab = share(a->vocab, rank, world);
	c->q = calloc(n + 1, sizeof(*c->q));
	c->kv = calloc(n + 1, sizeof(*c->kv));
	c->mine = calloc(n + 1, sizeof(*c->mine));
	c->list = calloc(n + 1, sizeof(*c->list));
	rc = c->q && c->kv && c->mine && c->list ? cut_layers(c) : fail(NVLLM_ENOMEM, "no memory for %zu layers", n);
	if (rc)
		cuts_free(c);
	return rc;
}

void cuts_free(struct cuts *c)
{
	free(c->q);
	free(c->kv);
	free(c->mine);
	free(c->list);
	c->q = c->kv = NULL;
	c->mine = NULL;
	c->list = NULL;
}

/* ---- one weight ---- */

static void add_rows(struct cut_part *p, int64_t first, int64_t n)
{
	if (n > 0)
		p->row[p->n_rows++] = (struct slice){ first, n };
}

static int part_heads(const struct cuts *c, int32_t layer, int64_t rows, struct cut_part *p)
{
	const struct nvllm_attn_layer *l = c->whole[layer];
	int64_t d = l->head_dim, q = l->n_heads * d, kv = l->n_kv_heads * d;
	struct slice mq = { c->q[layer].first * d, c->q[layer].n * d };
	struct slice mkv = { c->kv[layer].first * d, c->kv[layer].n * d };

	if (rows == q + 2 * kv) {
		add_rows(p, mq.first, mq.n);
		add_rows(p, q + mkv.first, mkv.n);
		add_rows(p, q + kv + mkv.first, mkv.n);
	} else if (rows == q) {
		add_rows(p, mq.first, mq.n);
	} else if (rows == kv) {
		add_rows(p, mkv.first, mkv.n);
	} else {
		return fail(NVLLM_EINVAL, "%lld rows cannot be cut by head: layer %d has %d query and %d KV heads of %d",
			(long long)rows, layer, l->n_heads, l->n_kv_heads, l->head_dim);
	}
	return NVLLM_OK;
}

static int part_heads_in(const struct cuts *c, int32_t layer, int64_t cols, struct cut_part *p)
{
	const struct nvllm_attn_layer *l = c->whole[layer];

	if (cols != (int64_t)l->n_heads * l->head_dim)
		return fail(NVLLM_EINVAL, "%lld columns cannot be cut by head: layer %d has %d query heads of %d",
			(long long)cols, layer, l->n_heads, l->head_dim);
	p->col = (struct slice){ c->q[layer].first * l->head_dim, c->q[layer].n * l->head_dim };
	return NVLLM_OK;
}

/* Runs of one MLP's width, of which this rank has `mine`. */
static int part_runs(int64_t total, struct slice mine, int64_t rows, struct cut_part *p)
{
	int64_t runs = total ? rows / total : 0, most = sizeof(p->row) / sizeof(p->row[0]);

	if (runs < 1 || runs > most || rows % total)
		return fail(NVLLM_EINVAL, "%lld rows are not one to %lld times the %lld of the MLP", (long long)rows,
			(long long)most, (long long)total);
	for (int64_t i = 0; i < runs; i++)
		add_rows(p, i * total + mine.first, mine.n);
	return NVLLM_OK;
}

static int part_cols(int64_t total, struct slice mine, int64_t cols, struct cut_part *p)
{
	if (!cols || cols != total)
		return fail(NVLLM_EINVAL, "%lld columns are not the %lld of the MLP", (long long)cols, (long long)total);
	p->col = mine;
	return NVLLM_OK;
}

static int part_vocab(const struct cuts *c, int64_t rows, struct cut_part *p)
{
	if (rows != c->vocab_total)
		return fail(NVLLM_EINVAL, "%lld rows are not the %lld of the vocabulary", (long long)rows,
			(long long)c->vocab_total);
	add_rows(p, c->vocab.first, c->vocab.n);
	return NVLLM_OK;
}

int cuts_part(const struct cuts *c, int cut, int32_t layer, int64_t rows, int64_t cols, struct cut_part *p)
{
	*p = (struct cut_part){ .col = { 0, cols } };
	if ((cut == NVLLM_CUT_HEADS || cut == NVLLM_CUT_HEADS_IN) && (layer < 0 || layer >= c->n_layers))
		return fail(NVLLM_EINVAL, "a cut by head in layer %d, of %d layers", layer, c->n_layers);
	switch (cut) {
	case NVLLM_CUT_HEADS:
		return part_heads(c, layer, rows, p);
	case NVLLM_CUT_ROWS:
		return part_runs(c->ffn_total, c->ffn, rows, p);
	case NVLLM_CUT_VOCAB:
		return part_vocab(c, rows, p);
	}
	add_rows(p, 0, rows);
	switch (cut) {
	case NVLLM_WHOLE:
		return NVLLM_OK;
	case NVLLM_CUT_HEADS_IN:
		return part_heads_in(c, layer, cols, p);
	case NVLLM_CUT_COLS:
		return part_cols(c->ffn_total, c->ffn, cols, p);
	}
	return fail(NVLLM_EINVAL, "%d is no way to cut a weight (enum nvllm_cut)", cut);
}

int cuts_expert(const struct cuts *c, int cut, int64_t rows, int64_t cols, struct cut_part *p)
{
	*p = (struct cut_part){ .col = { 0, cols } };
	if (cut == NVLLM_CUT_ROWS)
		return part_runs(c->moe_total, c->moe, rows, p);
	add_rows(p, 0, rows);
	if (cut == NVLLM_CUT_COLS)
		return part_cols(c->moe_total, c->moe, cols, p);
	return cut == NVLLM_WHOLE ? NVLLM_OK :
		fail(NVLLM_EINVAL, "%d is no way to cut a weight of experts (enum nvllm_cut)", cut);
}
