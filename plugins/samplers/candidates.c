/* SPDX-License-Identifier: MIT */
/* Where the cuts of topk_topp fall. The vocabulary is never sorted: bins of equal width
 * below the largest logit say in which of them a cut lies, and that one alone is. */
#include <math.h>

#include "candidates.h"

/* The k-th largest of n finite x, 1 <= k <= n. out: [n] scratch. */
static float kth(const float *x, int64_t n, float max, int64_t k, int32_t *out)
{
	int32_t count[BINS] = { 0 };
	int64_t m = 0;
	int b = 0;

	for (int64_t i = 0; i < n; i++)
		count[bin_of((double)max - (double)x[i])]++;
	for (; b < BINS - 1 && k > count[b]; b++)
		k -= count[b];
	for (int64_t i = 0; i < n; i++)
		if (bin_of((double)max - (double)x[i]) == b)
			out[m++] = (int32_t)i;
	sort(x, out, m);
	return x[out[k - 1]];
}

float candidates_floor(struct candidates *s, int64_t k)
{
	int64_t n = 0;

	for (int64_t i = 0; i * BLOCK < s->n_row; i++)
		if (s->blocks[i] > -HUGE_VALF)
			s->x[n++] = s->blocks[i];
	return k <= n ? kth(s->x, n, s->max, k, s->bin) : -HUGE_VALF;
}

void candidates_gather(struct candidates *s, float floor)
{
	s->n = 0;
	for (int64_t b = 0; b * BLOCK < s->n_row; b++) {
		int64_t end = s->n_row - b * BLOCK < BLOCK ? s->n_row : (b + 1) * BLOCK;

		if (s->blocks[b] < floor)
			continue;
		for (int64_t i = b * BLOCK; i < end; i++) {
			s->x[s->n] = s->row[i];
			s->id[s->n] = (int32_t)i;
			s->n += s->row[i] >= floor && s->row[i] > -HUGE_VALF;
		}
	}
}

void candidates_top_k(struct candidates *s, int64_t k)
{
	int64_t kept = 0;
	float floor;

	if (k >= s->n)
		return;
	floor = kth(s->x, s->n, s->max, k, s->bin);
	for (int64_t i = 0; i < s->n; i++) {
		s->x[kept] = s->x[i];
		s->id[kept] = s->id[i];
		kept += s->x[i] >= floor;
	}
	s->n = kept;
}

/* Keeps weights not below w, where w is above 0. */
static void drop_below(struct candidates *s, double w)
{
	int64_t kept = 0;

	if (!(w > 0))
		return;
	for (int64_t i = 0; i < s->n; i++)
		if (s->w[i] >= w) {
			s->w[kept] = s->w[i];
			s->x[kept] = s->x[i];
			s->id[kept++] = s->id[i];
		}
	s->n = kept;
}

void candidates_weigh(struct candidates *s, double min_p)
{
	s->x[s->n] = s->max;
	for (int64_t i = 0; i < s->n; i += 2) {
		f64x2 y = { (double)s->x[i], (double)s->x[i + 1] };

		y = exp_pair((y - (double)s->max) * s->inv_t);
		memcpy(s->w + i, &y, sizeof(y));
	}
	drop_below(s, min_p);
}

double candidates_mass(const struct candidates *s, int64_t from, int64_t to)
{
	double lane[8] = { 0 };

	for (; from + 8 <= to; from += 8)
		for (int l = 0; l < 8; l++)
			lane[l] += s->w[from + l];
	for (; from < to; from++)
		lane[0] += s->w[from];
	for (int l = 1; l < 8; l++)
		lane[0] += lane[l];
	return lane[0];
}

void candidates_top_p(struct candidates *s, double p)
{
	double bins[BINS] = { 0 }, all = candidates_mass(s, 0, s->n), want = p * all, sum = 0;
	int64_t m = 0, last = 0, kept = 0;
	float cut;
	int b = 0;

	/* such a token and all below it are less than 1 - p of the whole: not kept */
	drop_below(s, (1 - p) * all / (double)s->n * (1 - 1e-9));
	for (int64_t i = 0; i < s->n; i++)
		bins[bin_of(((double)s->max - (double)s->x[i]) * s->inv_t)] += s->w[i];
	for (; b < BINS && sum + bins[b] < want; b++)
		sum += bins[b];
	if (b == BINS || s->n == 0)
		return;
	for (int64_t i = 0; i < s->n; i++)
		if (bin_of(((double)s->max - (double)s->x[i]) * s->inv_t) == b)
			s->bin[m++] = (int32_t)i;
	sort(s->x, s->bin, m);
	for (sum += s->w[s->bin[0]]; last + 1 < m && sum < want; sum += s->w[s->bin[last]])
		last++;
	last = s->bin[last];
	cut = s->x[last];
	for (int64_t i = 0; i < s->n; i++)
		if (s->x[i] > cut || (s->x[i] == cut && i <= last)) {
			s->w[kept] = s->w[i];
			s->x[kept] = s->x[i];
			s->id[kept++] = s->id[i];
		}
	s->n = kept;
}

int32_t candidates_draw(const struct candidates *s, double uniform, int32_t best)
{
	double target = uniform * candidates_mass(s, 0, s->n), sum = 0;

	for (int64_t i = 0; i < s->n; i += BLOCK) {
		int64_t end = s->n - i < BLOCK ? s->n : i + BLOCK;
		double block = candidates_mass(s, i, end);

		if (end < s->n && sum + block <= target) {
			sum += block;
			continue;
		}
		for (int64_t j = i; j < end; j++) {
			sum += s->w[j];
			if (sum > target)
				return s->id[j];
			best = s->w[j] > 0 ? s->id[j] : best;
		}
	}
	return best;
}
