/* SPDX-License-Identifier: MIT */
/* avx2_products.h - one routine for each form of weight, and their places in the table, for the
 * file that has the products of a block of it with activations in one form: it defines dot_q4,
 * dot_bytes, and BLOCK, the struct of a block of activations. */
#ifndef NVLLM_CPU_AVX2_PRODUCTS_H
#define NVLLM_CPU_AVX2_PRODUCTS_H

#include "avx2_panel.h"

#define FORM(bytes, scales, minimum, dot) ((struct form){ bytes, sizeof(BLOCK), scales, offsetof(BLOCK, d), \
	minimum, dot })
#define FORM_K(bytes, halves, minimum, dot) ((struct form_k){ bytes, sizeof(BLOCK), offsetof(BLOCK, d), \
	halves, minimum, dot })

INLINE void dot_q8(__m256i *s, const char *block, const char *const *x, const int nx, const bool wide)
{
	(void)wide;
	dot_bytes(s, block, x, nx, 0, 8);
}

INLINE void dot_q4_k(__m256i *s, const char *block, const char *const *x, const int nx, const int h)
{
	(void)h;
	dot_q4(s, block, x, nx, false);
}

INLINE void dot_q5_k(__m256i *s, const char *block, const char *const *x, const int nx, const int h)
{
	(void)h;
	dot_bytes(s, block, x, nx, 0, 8);
}

INLINE void dot_q6_k(__m256i *s, const char *block, const char *const *x, const int nx, const int h)
{
	dot_bytes(s, block, x, nx, 4 * h, 4 * h + 4);
}

static void mul_q4_0(const struct product *p)
{
	mul_panels(p, FORM(18, 16 * L, EIGHT, dot_q4));
}

static void mul_q4_1(const struct product *p)
{
	mul_panels(p, FORM(20, 16 * L, OWN, dot_q4));
}

static void mul_q8_0(const struct product *p)
{
	mul_panels(p, FORM(34, 32 * L, NONE, dot_q8));
}

static void mul_q4_k(const struct product *p)
{
	mul_panels_k(p, FORM_K(16, 1, true, dot_q4_k));
}

static void mul_q5_k(const struct product *p)
{
	mul_panels_k(p, FORM_K(32, 1, true, dot_q5_k));
}

static void mul_q6_k(const struct product *p)
{
	mul_panels_k(p, FORM_K(32, 2, false, dot_q6_k));
}

INLINE void set_products(struct isa *isa, enum act act)
{
	isa->mul[act][FMT_Q4_0] = mul_q4_0;
	isa->mul[act][FMT_Q4_1] = mul_q4_1;
	isa->mul[act][FMT_Q8_0] = mul_q8_0;
	isa->mul[act][FMT_Q4_K] = mul_q4_k;
	isa->mul[act][FMT_Q5_K] = mul_q5_k;
	isa->mul[act][FMT_Q6_K] = mul_q6_k;
}

#endif
