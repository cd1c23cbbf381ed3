/* SPDX-License-Identifier: MIT */
/* The kernels that the C files of the CUDA device call, in plain loops and on the streams of
 * fake_cuda.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "../../backends/cuda/blocks.h"
#include "../../backends/cuda/cuda.h"
#include "fake.h"
#include "fake_kernels.h"

float num_get(int32_t dtype, const void *row, int64_t i)
{
	uint32_t u;
	uint16_t h;
	float f;

	if (dtype == NVLLM_F32) {
		memcpy(&f, (const char *)row + 4 * i, 4);
		return f;
	}
	memcpy(&h, (const char *)row + 2 * i, 2);
	if (dtype == NVLLM_F16) {
		blocks_to_f32(&f, &h, NVLLM_F16, 1);
		return f;
	}
	u = (uint32_t)h << 16;
	memcpy(&f, &u, 4);
	return f;
}

void num_put(int32_t dtype, void *row, int64_t i, float f)
{
	uint32_t u;
	uint16_t h;

	memcpy(&u, &f, 4);
	h = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
	if (dtype == NVLLM_F32)
		memcpy((char *)row + 4 * i, &f, 4);
	else
		memcpy((char *)row + 2 * i, &h, 2);
}

/* 4 bits of exponent, of bias 7, and 3 of mantissa; no infinities. */
float num_e4m3(uint8_t b)
{
	const int e = b >> 3 & 15, m = b & 7;
	const float v = (b & 0x7f) == 0x7f ? NAN : e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);

	return b & 0x80 ? -v : v;
}

float *num_weight_row(const struct nvllm_tensor *w, int64_t row)
{
	float *v = malloc(sizeof(*v) * (size_t)(w->cols + 1));
	const char *p = (const char *)w->data + row * w->stride;
	float scale;

	memcpy(&scale, p, 4);
	if (w->dtype == NVLLM_F8_E4M3)
		for (int64_t i = 0; i < w->cols; i++)
			v[i] = scale * num_e4m3((uint8_t)p[FP8_HEAD + i]);
	else if (w->dtype != NVLLM_F32 && w->dtype != NVLLM_BF16)
		blocks_to_f32(v, p, w->dtype, w->cols);
	else
		for (int64_t i = 0; i < w->cols; i++)
			v[i] = num_get(w->dtype, p, i);
	return v;
}

/* ---- convert ---- */

struct convert { char *dst; const char *src; int32_t dt, st; int64_t ds, ss, n, cols; };

static void run_convert(const void *arg)
{
	const struct convert *c = arg;

	for (int64_t r = 0; r < c->n; r++)
		for (int64_t i = 0; i < c->cols; i++)
			num_put(c->dt, c->dst + r * c->ds, i, num_get(c->st, c->src + r * c->ss, i));
}

int cu_convert(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dt, int64_t ds, const void *src, int32_t st,
	int64_t ss, int64_t n, int64_t cols)
{
	const struct convert c = { dst, src, dt, st, ds, ss, n, cols };

	if (fake.kernel_error)
		return cu_check(dev, fake.kernel_error, "the kernel convert");
	fake_enqueue(stream, run_convert, &c, sizeof(c));
	return NVLLM_OK;
}

/* ---- e4m3 ---- */

/* The byte of the nearest number; of two, the even one. Bytes count steps, of 2^-9 to begin with, and the steps
 * double every eight of them from 16 on. */
static uint8_t to_e4m3(float x)
{
	int e, byte;

	frexpf(x, &e); /* x is below 2^e */
	e = x != 0 && e > -5 ? e - 4 : -9;
	byte = (e + 9) * 8 + (int)lrintf(ldexpf(fabsf(x), -e));
	return (uint8_t)((byte > 0x7e ? 0x7e : byte) | (signbit(x) ? 0x80 : 0));
}

static void run_fp8(const void *arg)
{
	const struct convert *c = arg;

	for (int64_t r = 0; r < c->n; r++) {
		const char *src = c->src + r * c->ss;
		char *dst = c->dst + r * c->ds;
		float most = 0, scale[4] = { 1, 0, 0, 0 };

		for (int64_t i = 0; i < c->cols; i++) {
			const float a = fabsf(num_get(c->st, src, i));

			most = a > most || isnan(a) ? a : most;
		}
		if (most > 0)
			scale[0] = most / 448;
		memcpy(dst, scale, sizeof(scale));
		for (int64_t i = 0; i < c->cols; i++)
			dst[FP8_HEAD + i] = (char)to_e4m3(num_get(c->st, src, i) / scale[0]);
	}
}

int fp8_rows(struct nvllm_device *dev, nvllm_stream stream, void *dst, int64_t ds, const void *src, int32_t st, int64_t ss,
	int64_t n, int64_t cols)
{
	const struct convert c = { dst, src, NVLLM_F8_E4M3, st, ds, ss, n, cols };

	(void)dev;
	if (((uintptr_t)dst | (uintptr_t)src | (uintptr_t)ds | (uintptr_t)ss) % 16 || cols % 16)
		return NVLLM_EINVAL;
	fake.n_fp8++;
	fake_enqueue(stream, run_fp8, &c, sizeof(c));
	return NVLLM_OK;
}

/* ---- add ---- */

struct pair { struct nvllm_tensor x, d; };

static void run_add(const void *arg)
{
	const struct pair *p = arg;

	for (int64_t r = 0; r < p->x.rows; r++)
		for (int64_t i = 0; i < p->x.cols; i++) {
			char *row = (char *)p->x.data + r * p->x.stride;

			num_put(p->x.dtype, row, i, num_get(p->x.dtype, row, i) +
				num_get(p->d.dtype, (const char *)p->d.data + r * p->d.stride, i));
		}
}

int cu_add(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor x, struct nvllm_tensor d)
{
	const struct pair p = { x, d };

	(void)dev;
	fake_enqueue(stream, run_add, &p, sizeof(p));
	return NVLLM_OK;
}

/* ---- products of few rows ---- */

struct few { struct nvllm_tensor y, x, w, bias; uint32_t flags; };

static void run_few(const void *arg)
{
	const struct few *f = arg;

	for (int64_t n = 0; n < f->w.rows; n++) {
		float *w = num_weight_row(&f->w, n);

		for (int64_t r = 0; r < f->x.rows; r++) {
			char *y = (char *)f->y.data + r * f->y.stride;
			double sum = f->flags & NVLLM_LINEAR_ADD ? (double)num_get(f->y.dtype, y, n) : 0;

			if (f->bias.data)
				sum += (double)num_get(NVLLM_F32, f->bias.data, n);
			for (int64_t k = 0; k < f->w.cols; k++)
				sum += (double)w[k] * (double)num_get(f->x.dtype, (const char *)f->x.data + r * f->x.stride, k);
			num_put(f->y.dtype, y, n, (float)sum);
		}
		free(w);
	}
}

int skinny_open(struct nvllm_device *dev) { (void)dev; return NVLLM_OK; }

int skinny_has(const struct nvllm_device *dev, const struct nvllm_tensor *w)
{
	(void)dev;
	return w->dtype != NVLLM_Q6_K; /* pretends: so that what has no kernel is met */
}

int skinny(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_norm *norm,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags, int glu)
{
	struct few f = { .y = y, .x = x, .w = w, .flags = flags };

	(void)dev, (void)glu;
	if (x.rows > SKINNY_ROWS)
		return NVLLM_EINVAL;
	fake.n_skinny++;
	if (norm)
		return NVLLM_OK;
	if (bias)
		f.bias = *bias;
	fake_enqueue(stream, run_few, &f, sizeof(f));
	return NVLLM_OK;
}

int fp8_tiles(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, struct nvllm_tensor w,
	uint32_t flags)
{
	const struct few f = { .y = y, .x = x, .w = w, .flags = flags };

	if (x.rows > FP8_TILE_ROWS || x.rows <= SKINNY_ROWS)
		return NVLLM_EINVAL;
	if (x.dtype != NVLLM_BF16 || dev->act != NVLLM_BF16)
		return NVLLM_ENOTSUP;
	fake.n_tiled++;
	fake_enqueue(stream, run_few, &f, sizeof(f));
	return NVLLM_OK;
}

struct dense { char *dst; int32_t dtype; struct nvllm_tensor w; int64_t row, n; };

static void run_dense(const void *arg)
{
	const struct dense *d = arg;

	for (int64_t r = 0; r < d->n; r++) {
		float *w = num_weight_row(&d->w, d->row + r);

		for (int64_t i = 0; i < d->w.cols; i++)
			num_put(d->dtype, d->dst + r * d->w.cols * (d->dtype == NVLLM_F32 ? 4 : 2), i, w[i]);
		free(w);
	}
}

int dequantise(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dtype, struct nvllm_tensor w, int64_t row, int64_t n)
{
	const struct dense d = { dst, dtype, w, row, n };

	(void)dev;
	fake.n_dequantised++;
	fake_enqueue(stream, run_dense, &d, sizeof(d));
	return NVLLM_OK;
}

/* ---- random: something that depends on all that it should depend on ---- */

struct draw { char *dst; int32_t dtype; int64_t stride, n, cols, row; int32_t plane; uint64_t seed; double mean, std; };

float num_drawn(uint64_t seed, int32_t plane, int64_t row, int64_t col)
{
	return (float)((seed * 7 + (uint64_t)plane * 5 + (uint64_t)row * 3 + (uint64_t)col) % 17);
}

static void run_draw(const void *arg)
{
	const struct draw *d = arg;

	for (int64_t r = 0; r < d->n; r++)
		for (int64_t i = 0; i < d->cols; i++)
			num_put(d->dtype, d->dst + r * d->stride, i,
				(float)(d->mean + d->std * (double)num_drawn(d->seed, d->plane, d->row + r, i)));
}

int cu_fill_random(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dtype, int64_t stride, int64_t n, int64_t cols,
	int64_t row, int32_t plane, uint64_t seed, double mean, double std)
{
	const struct draw d = { dst, dtype, stride, n, cols, row, plane, seed, mean, std };

	(void)dev;
	fake_enqueue(stream, run_draw, &d, sizeof(d));
	return NVLLM_OK;
}

/* ---- in the table, and not called here ---- */

int cu_embed(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor t, int64_t f,
	const struct nvllm_batch *b, double k)
{ (void)d, (void)s, (void)y, (void)t, (void)f, (void)b, (void)k; return NVLLM_ENOTSUP; }
int cu_norm(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_norm *n)
{ (void)d, (void)s, (void)y, (void)x, (void)n; return NVLLM_ENOTSUP; }
int cu_rope(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x, const int32_t *p, int64_t h, const struct nvllm_rotary *r)
{ (void)d, (void)s, (void)x, (void)p, (void)h, (void)r; return NVLLM_ENOTSUP; }
int cu_glu(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x, int a)
{ (void)d, (void)s, (void)y, (void)x, (void)a; return NVLLM_ENOTSUP; }
int cu_rows(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x, const int32_t *i)
{ (void)d, (void)s, (void)y, (void)x, (void)i; return NVLLM_ENOTSUP; }
int cu_logprobs(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor l, const struct nvllm_logprobs *p)
{ (void)d, (void)s, (void)l, (void)p; return NVLLM_ENOTSUP; }
int cu_advance(struct nvllm_device *d, nvllm_stream s, const struct nvllm_batch *b, const int32_t *t)
{ (void)d, (void)s, (void)b, (void)t; return NVLLM_ENOTSUP; }
int cu_moe(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_moe *m,
	struct nvllm_tensor w)
{ (void)d, (void)s, (void)y, (void)x, (void)m, (void)w; return NVLLM_ENOTSUP; }
