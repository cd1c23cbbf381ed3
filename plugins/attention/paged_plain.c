/* SPDX-License-Identifier: MIT */
/* The kernels of the paged attention in plain C: any head_dim, any CPU, and the twin
 * against which the others are checked. Inner loops of a fixed length let compilers
 * make vectors of them. */
#include <math.h>

#include "paged.h"

static void widen(float *restrict dst, const void *src, int64_t n, int32_t dtype)
{
	const uint16_t *h = src;
	int64_t i = 0;

	for (; i + 16 <= n && dtype == NVLLM_F16; i += 16)
		for (int64_t l = i; l < i + 16; l++)
			dst[l] = kv_from_f16(h[l]);
	for (; i < n; i++)
		dst[i] = kv_get(src, i, dtype);
}

static void narrow(void *dst, const float *src, int64_t n, int32_t dtype)
{
	for (int64_t i = 0; i < n; i++)
		kv_put(dst, i, dtype, src[i]);
}

static void scores(float *restrict s, const float *q, int64_t n, int64_t dim, const void *k,
	int32_t dtype, int64_t keys, int64_t ahead)
{
	(void)dtype, (void)ahead;
	for (int64_t i = 0; i < n; i++, s += PAGED_SCORES, q += dim) {
		const float *kd = k;

		memset(s, 0, (size_t)keys * sizeof(*s));
		for (int64_t d = 0; d < dim; d++, kd += keys)
			for (int64_t t = 0; t < keys; t += 16)
				for (int64_t l = t; l < t + 16; l++)
					s[l] += q[d] * kd[l];
	}
}

static void softmax(float *s, int64_t lo, int64_t hi, float cap, float *max, float *sum)
{
	float m = -HUGE_VALF, l = 0;

	for (int64_t t = lo; t < hi; t++) {
		if (cap > 0)
			s[t] = cap * tanhf(s[t] / cap);
		m = s[t] > m ? s[t] : m;
	}
	for (int64_t t = lo; t < hi; t++)
		l += s[t] = expf(s[t] - m);
	*max = m;
	*sum = l;
}

static void values(float *restrict o, const float *p, int64_t n, int64_t dim, const void *v,
	int32_t dtype, int64_t n_keys, int64_t ahead)
{
	(void)dtype, (void)ahead;
	for (int64_t i = 0; i < n; i++, o += dim, p += PAGED_SCORES) {
		const float *vt = v;

		for (int64_t t = 0; t < n_keys; t++, vt += dim) {
			int64_t d = 0;

			for (; d + 16 <= dim; d += 16)
				for (int64_t l = d; l < d + 16; l++)
					o[l] += p[t] * vt[l];
			for (; d < dim; d++)
				o[d] += p[t] * vt[d];
		}
	}
}

const struct paged_kernels paged_plain = {
	.dim_step = 1, .direct_rows = 0, .widen = widen, .narrow = narrow,
	.scores = scores, .softmax = softmax, .values = values,
};

static int has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
		if ((p == text || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
			return 1;
	return 0;
}

const struct paged_kernels *paged_kernels_for(const char *isa, int32_t dim)
{
	if (has_word(isa, "avx512") && dim % paged_avx512.dim_step == 0)
		return &paged_avx512;
	if ((has_word(isa, "avx512") || has_word(isa, "avx2")) && dim % paged_avx2.dim_step == 0)
		return &paged_avx2;
	return &paged_plain;
}
