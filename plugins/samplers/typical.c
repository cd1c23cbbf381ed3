/* SPDX-License-Identifier: MIT */
/* Where typical_p cuts (Meister, Pimentel, Wiher, Cotterell 2022: "Locally typical
 * sampling"), as transformers' TypicalLogitsWarper has it. With y = (x_m - x) / temperature
 * and w = exp(-y), a token's -log p is y + log(sum of w), and the entropy H is the mean of
 * that under p, so
 *   |-log p - H| = |y - mean of y|
 * and no logarithm is needed. The tokens kept are those with this distance at most D, the
 * least D at which their mass reaches typical_p: all that tie at D are among them. */
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "candidates.h"

/* y's mean under p. A weight of 0 counts for nothing, however far its token is. */
static double mean_y(const struct candidates *s)
{
	double sum = 0;

	for (int64_t i = 0; i < s->n; i++)
		if (s->w[i] > 0)
			sum += s->w[i] * (((double)s->max - (double)s->x[i]) * s->inv_t);
	return sum / candidates_mass(s, 0, s->n);
}

static double distance(const struct candidates *s, double mean, int64_t i)
{
	return fabs(((double)s->max - (double)s->x[i]) * s->inv_t - mean);
}

/* Doubles >= 0 are in the order of their bits. */
static double of_bits(uint64_t bits)
{
	double d;

	memcpy(&d, &bits, sizeof(d));
	return d;
}

/* The least D at which the weights of distance <= D among the m places in bin, added to
 * sum, reach want; the distance of the farthest where they do not. */
static double least(const struct candidates *s, double mean, int64_t m, double sum, double want)
{
	uint64_t lo = 0, hi = 0;
	double far = 0;

	for (int64_t i = 0; i < m; i++)
		far = fmax(far, distance(s, mean, s->bin[i]));
	memcpy(&hi, &far, sizeof(hi));
	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;
		double have = sum;

		for (int64_t i = 0; i < m; i++)
			if (distance(s, mean, s->bin[i]) <= of_bits(mid))
				have += s->w[s->bin[i]];
		if (have >= want)
			hi = mid;
		else
			lo = mid + 1;
	}
	return of_bits(hi);
}

void candidates_typical_p(struct candidates *s, double p)
{
	double bins[BINS] = { 0 }, want = p * candidates_mass(s, 0, s->n), sum = 0, mean, cut;
	int64_t m = 0, kept = 0;
	int b = 0;

	if (!(want > 0))
		want = DBL_TRUE_MIN; /* the nearest alone */
	mean = mean_y(s);
	for (int64_t i = 0; i < s->n; i++)
		bins[bin_of(distance(s, mean, i))] += s->w[i];
	for (; b < BINS && sum + bins[b] < want; b++)
		sum += bins[b];
	if (b == BINS)
		return;
	for (int64_t i = 0; i < s->n; i++)
		if (bin_of(distance(s, mean, i)) == b)
			s->bin[m++] = (int32_t)i;
	cut = least(s, mean, m, sum, want);
	for (int64_t i = 0; i < s->n; i++)
		if (distance(s, mean, i) <= cut) {
			s->w[kept] = s->w[i];
			s->id[kept++] = s->id[i];
		}
	s->n = kept;
}
