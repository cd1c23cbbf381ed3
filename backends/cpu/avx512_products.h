/* SPDX-License-Identifier: MIT */
/* avx512_products.h - one routine for each form of weight and of activations, and their places in
 * the table, for the file that has the products of a block: dot_q4, dot_q4_planes, dot_q8,
 * dot_q5, dot_q6 and dot_words_of. */
#ifndef NVLLM_CPU_AVX512_PRODUCTS_H
#define NVLLM_CPU_AVX512_PRODUCTS_H

#include "avx512_panel.h"

INLINE void dot_words(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	dot_words_of(s, block, x, nx, 0, 16);
}

INLINE void dot_q6_words(__m512 *s, const char *block, const char *const *x, const int nx, const int h)
{
	dot_words_of(s, block, x, nx, 8 * h, 8 * h + 8);
}

static void q4_0_q8(const struct product *p)
{
	mul_panels(p, Q4_0(Q8, dot_q4));
}

static void q4_1_q8(const struct product *p)
{
	mul_panels(p, Q4_1(Q8, dot_q4));
}

static void q8_0_q8(const struct product *p)
{
	mul_panels(p, Q8_0(Q8, dot_q8));
}

static void q4_k_q8(const struct product *p)
{
	mul_panels(p, Q4_K(Q8, dot_q4));
}

static void q5_k_q8(const struct product *p)
{
	mul_panels(p, Q5_K(Q8, dot_q5));
}

static void q6_k_q8(const struct product *p)
{
	mul_panels(p, Q6_K(Q8, dot_q6));
}

static void q4_0_q16(const struct product *p)
{
	mul_panels(p, Q4_0(Q16, dot_q4_planes));
}

static void q4_1_q16(const struct product *p)
{
	mul_panels(p, Q4_1(Q16, dot_q4_planes));
}

static void q8_0_q16(const struct product *p)
{
	mul_panels(p, Q8_0(Q16, dot_words));
}

static void q4_k_q16(const struct product *p)
{
	mul_panels(p, Q4_K(Q16, dot_q4_planes));
}

static void q5_k_q16(const struct product *p)
{
	mul_panels(p, Q5_K(Q16, dot_words));
}

static void q6_k_q16(const struct product *p)
{
	mul_panels(p, Q6_K(Q16, dot_q6_words));
}

static const struct {
	enum act act;
	enum fmt fmt;
	void (*mul)(const struct product *);
} products[] = {
	{ ACT_Q8, FMT_Q4_0, q4_0_q8 }, { ACT_Q8, FMT_Q4_1, q4_1_q8 }, { ACT_Q8, FMT_Q8_0, q8_0_q8 },
	{ ACT_Q8, FMT_Q4_K, q4_k_q8 }, { ACT_Q8, FMT_Q5_K, q5_k_q8 }, { ACT_Q8, FMT_Q6_K, q6_k_q8 },
	{ ACT_Q16, FMT_Q4_0, q4_0_q16 }, { ACT_Q16, FMT_Q4_1, q4_1_q16 }, { ACT_Q16, FMT_Q8_0, q8_0_q16 },
	{ ACT_Q16, FMT_Q4_K, q4_k_q16 }, { ACT_Q16, FMT_Q5_K, q5_k_q16 }, { ACT_Q16, FMT_Q6_K, q6_k_q16 },
};
enum { N_PRODUCTS = sizeof(products) / sizeof(products[0]) };

INLINE void set_products(struct isa *isa)
{
	for (int i = 0; i < N_PRODUCTS; i++)
		isa->mul[products[i].act][products[i].fmt] = products[i].mul;
}

#endif
