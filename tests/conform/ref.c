/* SPDX-License-Identifier: MIT */
/* tests/conform/ref.c - the formulas every implementation is held against, in double
 * precision and the plainest form. */
#include <math.h>
#include <string.h>

#include "check.h"

/* Rounds to `bits` of significand, with the smallest exponent emin (value 2^emin). */
static double round_bits(double x, int bits, int emin)
{
	int e;
	double q;

	if (x == 0 || !isfinite(x))
		return x;
	e = ilogb(x);
	q = ldexp(1, (e < emin ? emin : e) - bits + 1);
	return nearbyint(x / q) * q;
}

double ref_round(int32_t dtype, double x)
{
	switch (dtype) {
	case NVLLM_F32: return (double)(float)x;
	case NVLLM_F16:
		x = round_bits((double)(float)x, 11, -14);
		return fabs(x) > 65504 ? copysign(INFINITY, x) : x;
	case NVLLM_BF16: return round_bits((double)(float)x, 8, -126);
	case NVLLM_F8_E4M3: /* 448 is the largest; beyond it a number stays there */
		x = round_bits((double)(float)x, 4, -6);
		return fabs(x) > 448 ? copysign(448, x) : x;
	default: return NAN;
	}
}

double ref_half(uint16_t h)
{
	int e = h >> 10 & 31, m = h & 1023;
	double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);

	return h & 0x8000 ? -v : v;
}

static double bf16_value(uint16_t h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;

	memcpy(&f, &u, 4);
	return (double)f;
}

/* A random half with an exponent that keeps |value| in [2^-6, 2^-2]. */
static uint16_t half_scale(struct rng *r)
{
	return (uint16_t)((9 + rng_int(r, 4)) << 10 | rng_int(r, 1024));
}

static void put16(unsigned char *p, uint16_t v)
{
	p[0] = (unsigned char)v, p[1] = (unsigned char)(v >> 8);
}

/* GGUF's blocks of 32 (ggml's quantisation formats): d [, m] as halves, then the numbers;
 * a byte of 4-bit numbers holds elements i and i + 16. */
static void random_block(int32_t dtype, struct rng *r, unsigned char *b, double *v)
{
	bool has_min = dtype == NVLLM_Q4_1 || dtype == NVLLM_Q5_1;
	bool five = dtype == NVLLM_Q5_0 || dtype == NVLLM_Q5_1;
	uint16_t d = half_scale(r), m = (uint16_t)(half_scale(r) | 0x8000);
	uint32_t high = five ? (uint32_t)rng_u64(r) : 0;
	int zero = has_min ? 0 : five ? 16 : 8;

	put16(b, d);
	b += 2;
	if (has_min)
		put16(b, m), b += 2;
	if (five)
		put16(b, (uint16_t)high), put16(b + 2, (uint16_t)(high >> 16)), b += 4;
	for (int i = 0; i < 32; i++) {
		int q;

		if (dtype == NVLLM_Q8_0) {
			q = (int)rng_int(r, 255) - 127;
			b[i] = (unsigned char)(signed char)q;
			v[i] = ref_half(d) * q;
			continue;
		}
		if (i < 16)
			b[i] = (unsigned char)rng_u64(r);
		q = i < 16 ? b[i] & 15 : b[i - 16] >> 4;
		q |= (int)(high >> i & 1) << 4;
		v[i] = ref_half(d) * (q - zero) + (has_min ? ref_half(m) : 0);
	}
}

int ref_random_row(int32_t dtype, int64_t cols, struct rng *r, void *row, double *v)
{
	int64_t bytes = 0, n = nvllm_dtype_block(dtype, &bytes);

	for (int64_t i = 0; i < cols; i += n) {
		unsigned char *at = (unsigned char *)row + i / n * bytes;
		uint16_t h;
		float f;

		switch (dtype) {
		case NVLLM_F32:
			f = (float)rng_unit(r);
			memcpy(at, &f, 4);
			v[i] = (double)f;
			break;
		case NVLLM_F16:
			h = (uint16_t)(rng_int(r, 15) << 10 | rng_int(r, 1024) |
				(rng_int(r, 2) << 15));
			put16(at, h);
			v[i] = ref_half(h);
			break;
		case NVLLM_BF16:
			h = (uint16_t)((117 + rng_int(r, 10)) << 7 | rng_int(r, 128) |
				(rng_int(r, 2) << 15));
			put16(at, h);
			v[i] = bf16_value(h);
			break;
		case NVLLM_Q4_0: case NVLLM_Q4_1: case NVLLM_Q5_0: case NVLLM_Q5_1: case NVLLM_Q8_0:
			random_block(dtype, r, at, v + i);
			break;
		default:
			if (!ref_random_block(dtype, r, at, v + i))
				return -1;
		}
	}
	return 0;
}

/* GELU: Hendrycks and Gimpel 2016; the tanh form with sqrt(2 / pi) and 0.044715. */
double ref_act(int act, double x)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU: return 0.5 * x * erfc(-x * M_SQRT1_2);
	case NVLLM_GELU_TANH:
		return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
	case NVLLM_RELU: return x > 0 ? x : 0;
	default: return NAN;
	}
}

void ref_norm(const struct nvllm_norm *n, const double *w, const double *b, const double *x,
	double *y, int64_t cols)
{
	int64_t len = n->w.cols;

	for (int64_t at = 0; at < cols; at += len) {
		double mean = 0, sq = 0, inv;

		for (int64_t i = 0; i < len && n->kind == NVLLM_LAYER_NORM; i++)
			mean += x[at + i] / (double)len;
		for (int64_t i = 0; i < len; i++)
			sq += (x[at + i] - mean) * (x[at + i] - mean);
		inv = 1 / sqrt(sq / (double)len + n->eps);
		for (int64_t i = 0; i < len; i++)
			y[at + i] = (x[at + i] - mean) * inv * (n->offset + w[i]) + (b ? b[i] : 0);
	}
}

void ref_rope(double *x, int64_t n_heads, int64_t head_dim, int64_t dims, int interleaved,
	double mscale, const double *inv_freq, int64_t pos)
{
	for (int64_t h = 0; h < n_heads; h++)
		for (int64_t i = 0; i < dims / 2; i++) {
			double a = (double)pos * inv_freq[i], c = cos(a) * mscale,
			       s = sin(a) * mscale;
			double *p = x + h * head_dim + (interleaved ? 2 * i : i);
			double *q = interleaved ? p + 1 : p + dims / 2;
			double u = *p, v = *q;

			*p = u * c - v * s;
			*q = v * c + u * s;
		}
}

/* y = softmax(scale q.k) v over the keys in the window, heads sharing K and V by group. */
void ref_attend(const struct ref_attn *a, int64_t pos, const double *q, const double *k,
	const double *v, double *y)
{
	int64_t from = a->window > 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
	int64_t row = a->kv_heads * a->head_dim;

	for (int64_t h = 0; h < a->heads; h++) {
		int64_t kv = h / (a->heads / a->kv_heads) * a->head_dim;
		const double *qh = q + h * a->head_dim;
		double *yh = y + h * a->head_dim, top = -INFINITY, sum = 0;

		for (int pass = 0; pass < 2; pass++) {
			for (int64_t d = 0; d < a->head_dim; d++)
				yh[d] = 0;
			for (int64_t j = from; j <= pos; j++) {
				double s = 0, e;

				for (int64_t d = 0; d < a->head_dim; d++)
					s += qh[d] * k[j * row + kv + d];
				s *= a->scale;
				if (a->softcap > 0)
					s = a->softcap * tanh(s / a->softcap);
				if (pass == 0) {
					top = s > top ? s : top;
					continue;
				}
				e = exp(s - top);
				sum += e;
				for (int64_t d = 0; d < a->head_dim; d++)
					yh[d] += e * v[j * row + kv + d];
			}
		}
		for (int64_t d = 0; d < a->head_dim; d++)
			yh[d] /= sum;
	}
}

/* Pearson's statistic, cells of small expectation joined, as a normal deviate (Wilson
 * and Hilferty 1931). A count where the probability is 0 is infinitely far. */
double ref_chi_sigma(const int64_t *count, const double *p, int n_cells, int64_t n)
{
	double chi = 0, rest_e = 0, k;
	int64_t rest_c = 0;
	int cells = 0;

	for (int i = 0; i < n_cells; i++) {
		double e = p[i] * (double)n, d = (double)count[i] - e;

		if (p[i] <= 0 && count[i])
			return INFINITY;
		if (e < 8) {
			rest_e += e;
			rest_c += count[i];
			continue;
		}
		chi += d * d / e;
		cells++;
	}
	if (rest_e > 1) {
		chi += ((double)rest_c - rest_e) * ((double)rest_c - rest_e) / rest_e;
		cells++;
	}
	if (cells < 2)
		return 0;
	k = cells - 1;
	return (cbrt(chi / k) - (1 - 2 / (9 * k))) / sqrt(2 / (9 * k));
}
