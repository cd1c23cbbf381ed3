/* SPDX-License-Identifier: MIT */
/* tests/emu/mat.h - matrices for tests of kernels: any start, any stride, NaN between and after the
 * rows, and the numbers of GGUF's block formats and of e4m3 as their definitions say. Rows of e4m3 are those of
 * LAYOUT_FP8. */
#ifndef NVLLM_EMU_MAT_H
#define NVLLM_EMU_MAT_H

#include "check.h"

struct mat {
	struct nvllm_tensor t;
	char *mem;
	int64_t bytes;
};

/* Bytes of a row that are written. */
static inline int64_t row_size(int dtype, int64_t cols)
{
	return nvllm_row_bytes(dtype, cols) + (dtype == NVLLM_F8_E4M3 ? FP8_HEAD : 0);
}

static inline int64_t elem_bytes(int dtype) { return dtype == NVLLM_F32 ? 4 : 2; }

/* Rows `stride` bytes apart, the first one `skip` bytes after the start of the memory. */
static inline struct mat mat_strided(int dtype, int64_t rows, int64_t cols, int64_t stride, int64_t skip)
{
	struct mat m = {};

	m.t.rows = rows, m.t.cols = cols, m.t.planes = 1, m.t.dtype = dtype, m.t.stride = stride;
	m.t.layout = dtype == NVLLM_F8_E4M3 ? LAYOUT_FP8 : 0;
	m.bytes = rows ? skip + (rows - 1) * stride + row_size(dtype, cols) : 0;
	m.mem = (char *)edges_new((size_t)m.bytes);
	m.t.data = m.mem + skip;
	return m;
}
/* skip elements before the first row, pad elements after each but the last; sixteens of them, of e4m3. */
static inline struct mat mat_new(int dtype, int64_t rows, int64_t cols, int64_t pad = 0, int64_t skip = 0)
{
	int64_t block_bytes, block = nvllm_dtype_block(dtype, &block_bytes);

	if (dtype == NVLLM_F8_E4M3)
		return mat_strided(dtype, rows, cols, FP8_HEAD + cols + 16 * pad, 16 * skip);
	return mat_strided(dtype, rows, cols, (cols / block + pad) * block_bytes, skip * block_bytes);
}

static inline void *mat_row(const struct mat *m, int64_t r) { return (char *)m->t.data + r * m->t.stride; }

/* OCP 8-bit floats, E4M3: 4 bits of exponent of bias 7, 3 of mantissa, no infinities; 0x7f is NaN. */
static inline double e4m3_num(uint8_t b)
{
	const int e = b >> 3 & 15, m = b & 7;
	const double v = (b & 0x7f) == 0x7f ? NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);

	return b & 0x80 ? -v : v;
}

static inline double mat_get(const struct mat *m, int64_t r, int64_t c)
{
	char *p = (char *)mat_row(m, r);

	switch (m->t.dtype) {
	case NVLLM_F8_E4M3: return (double)*(float *)p * e4m3_num((uint8_t)p[FP8_HEAD + c]);
	case NVLLM_F32: return (double)((float *)p)[c];
	case NVLLM_BF16: return (double)to_f32(((bf16 *)p)[c]);
	default: return (double)to_f32(((f16 *)p)[c]);
	}
}

static inline void mat_set(struct mat *m, int64_t r, int64_t c, double v)
{
	char *p = (char *)mat_row(m, r);

	switch (m->t.dtype) {
	case NVLLM_F32: ((float *)p)[c] = (float)v; break;
	case NVLLM_BF16: ((bf16 *)p)[c] = from_f32<bf16>((float)v); break;
	default: ((f16 *)p)[c] = from_f32<f16>((float)v); break;
	}
}

/* Numbers, or blocks with scales around std. */
static inline void mat_fill(struct mat *m, struct rnd *r, double std)
{
	int64_t b, n = nvllm_dtype_block(m->t.dtype, &b);

	for (int64_t i = 0; i < m->t.rows; i++) {
		uint8_t *p = (uint8_t *)mat_row(m, i);

		if (m->t.dtype == NVLLM_F8_E4M3) { /* every number but NaN is as likely: their root mean square is about 96 */
			const float scale[4] = { (float)((0.5 + rnd_unit(r)) * std / 96) };

			memcpy(p, scale, sizeof(scale));
			for (int64_t c = 0; c < m->t.cols; c++)
				p[FP8_HEAD + c] = (uint8_t)(rnd_u32(r) % 2 << 7 | rnd_u32(r) % 127);
			continue;
		}
		if (n == 1) {
			for (int64_t c = 0; c < m->t.cols; c++)
				mat_set(m, i, c, std * rnd_normal(r));
			continue;
		}
		for (int64_t k = 0; k < m->t.cols / n; k++, p += b) {
			f16 d = from_f32<f16>((float)((0.5 + rnd_unit(r)) * std * (n == 256 ? 0.01 : m->t.dtype == NVLLM_Q8_0 ? 0.02 : 0.2)));
			f16 m2 = from_f32<f16>((float)(std * rnd_normal(r) * (n == 256 ? 0.05 : 1)));

			for (int64_t j = 0; j < b; j++)
				p[j] = (uint8_t)rnd_u32(r);
			memcpy(m->t.dtype == NVLLM_Q6_K ? p + 208 : p, &d, 2);
			if (m->t.dtype == NVLLM_Q4_1 || m->t.dtype == NVLLM_Q4_K)
				memcpy(p + 2, &m2, 2);
		}
	}
}

static inline double half_at(const uint8_t *p)
{
	f16 h;

	memcpy(&h, p, 2);
	return (double)to_f32(h);
}

/* Element i of a block, by the definitions of the formats (ggml's quants): a 16-byte half of a block of
 * 32 holds the low nibbles of elements 0 to 15 and the high ones of 16 to 31. */
static inline double block_elem(int dtype, const uint8_t *b, int i)
{
	switch (dtype) {
	case NVLLM_Q4_0:
		return half_at(b) * ((b[2 + i % 16] >> i / 16 * 4 & 15) - 8);
	case NVLLM_Q4_1:
		return half_at(b) * (b[4 + i % 16] >> i / 16 * 4 & 15) + half_at(b + 2);
	case NVLLM_Q8_0:
		return half_at(b) * (int8_t)b[2 + i];
	case NVLLM_Q4_K: { /* d, dmin, 12 bytes of 6-bit scales and minima of 8 runs of 32, nibbles in pairs of runs */
		const uint8_t *s = b + 4, *q = b + 16;
		int run = i / 32, sc, mn;

		if (run < 4)
			sc = s[run] & 63, mn = s[run + 4] & 63;
		else
			sc = (s[run + 4] & 15) | s[run - 4] >> 6 << 4, mn = s[run + 4] >> 4 | s[run] >> 6 << 4;
		return half_at(b) * sc * (q[run / 2 * 32 + i % 32] >> run % 2 * 4 & 15) - half_at(b + 2) * mn;
	}
	case NVLLM_Q6_K: { /* 128 bytes of low nibbles, 64 of upper pairs, 16 scales, d; two halves of 128 */
		int h = i / 128, j = i % 128, k = j / 32, l = j % 32;
		int lo = b[h * 64 + k % 2 * 32 + l] >> k / 2 * 4 & 15, hi = b[128 + h * 32 + l] >> k * 2 & 3;

		return half_at(b + 208) * (int8_t)b[192 + h * 8 + j / 16] * ((lo | hi << 4) - 32);
	}
	}
	return NAN;
}

/* Element of numbers or of blocks. */
static inline double mat_num(const struct mat *m, int64_t r, int64_t c)
{
	int64_t b, n = nvllm_dtype_block(m->t.dtype, &b);

	return n == 1 ? mat_get(m, r, c) : block_elem(m->t.dtype, (const uint8_t *)mat_row(m, r) + c / n * b, (int)(c % n));
}

/* What lies outside the rows is as it was: 0xff. */
static inline bool mat_gaps_ok(const struct mat *m)
{
	int64_t at = (char *)m->t.data - m->mem;

	for (int64_t i = 0; i < m->bytes; i++) {
		if (i >= at && (i - at) % m->t.stride < row_size(m->t.dtype, m->t.cols))
			continue;
		if ((uint8_t)m->mem[i] != 0xff)
			return false;
	}
	return edges_ok(m->mem);
}

/* The number of elements of m that are not want[r * cols + c], rounded to m's type with an error of `rel` of
 * it and `abs` before. NaN is wrong, unless it is wanted. */
static inline int64_t mat_wrong(const struct mat *m, const double *want, double rel, double abs)
{
	int64_t bad = 0;

	if (m->t.dtype != NVLLM_F32)
		rel += 1.01 * (m->t.dtype == NVLLM_BF16 ? 0x1p-8 : 0x1p-11);
	for (int64_t r = 0; r < m->t.rows; r++)
		for (int64_t c = 0; c < m->t.cols; c++) {
			double w = want[r * m->t.cols + c], g = mat_get(m, r, c);

			if (w != w || isinf(w))
				bad += w != w ? g == g : g != w;
			else
				bad += !(fabs(g - w) <= rel * fabs(w) + abs);
		}
	return bad;
}

static inline void mat_free(struct mat *m) { edges_free(m->mem); }

#endif
