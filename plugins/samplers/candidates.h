/* SPDX-License-Identifier: MIT */
/* candidates.h - the tokens among which topk_topp draws, and the cuts that make them
 * fewer. Each cut is a function of the row alone, with sums in one fixed order. */
#ifndef CANDIDATES_H
#define CANDIDATES_H

#include "row.h"

#define BINS 1024
#define BINS_PER_UNIT 16 /* of max - x, or of that over temperature */

/* The bin of a distance d >= 0; the last one has all that are far. */
static inline int bin_of(double d)
{
	return d < (double)BINS / BINS_PER_UNIT ? (int)(d * BINS_PER_UNIT) : BINS - 1;
}

/* The row, and those tokens of it that are left, in the order of ids. */
struct candidates {
	const float *row;     /* [n_row] logits */
	const float *blocks;  /* the maximum of each BLOCK of them */
	float max;            /* of all, finite */
	double inv_t;         /* 1 / temperature */
	int64_t n_row;
	/* Scratch of n_row + 8 each: */
	double *w;            /* weights: exp((x - max) / temperature) */
	float *x;             /* logits */
	int32_t *id;
	int32_t *bin;         /* places of those in one bin */
	int64_t n;
};

/* A floor that the k-th largest logit is not below, from the blocks' maxima: so few
 * logits have to be looked at. -inf if there are fewer than k blocks. Uses the scratch. */
float candidates_floor(struct candidates *, int64_t k);
/* Takes the logits not below floor; NaN and -inf never. */
void candidates_gather(struct candidates *, float floor);
/* Keeps those not below the k-th largest logit, so all that tie with it. */
void candidates_top_k(struct candidates *, int64_t k);
/* Fills in the weights, and drops those below min_p. */
void candidates_weigh(struct candidates *, double min_p);
/* Keeps those from the largest logit down, ties from the lowest id up, as long as the
 * mass before them is below p of the whole. */
void candidates_top_p(struct candidates *, double p);
/* Keeps those whose -log p is nearest to the entropy, until their mass reaches p of the
 * whole; all that are as near as the last of them. (typical.c) */
void candidates_typical_p(struct candidates *, double p);
/* The sum of weights from..to, in eight sums side by side. */
double candidates_mass(const struct candidates *, int64_t from, int64_t to);
/* The first at which the running sum of weights exceeds uniform times their sum; best if
 * there is none. */
int32_t candidates_draw(const struct candidates *, double uniform, int32_t best);

#endif
