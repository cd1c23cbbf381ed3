/* SPDX-License-Identifier: MIT */
/* From raw q, k and v to the workspace and the pages, against double: bias, norm, rope of both pairings and of a part of
 * the head, every type of cache, rows of nobody, layers that read another's pages; and that nothing else is written. */
#include "check.h"
#include "kv.cuh"
#include "../../backends/cuda/attn_prep.cu"

DEV float to_f32(e4m3 x) { return lo2<f16>(e4m3x2_f16x2(x.bits)); }

struct prep_case {
	const char *name;
	int rows, n_heads, n_kv, dim, dims, interleaved; /* dims: of the rope, -1 = none */
	bool bias, norm, k_norm, together, shares;       /* together: one matrix [q | k | v]; shares: another layer's pages */
	double offset, mscale, cap;
	int act, y_dtype, kv, n_sms;
};

template <class T> struct q_type { typedef T type; };
template <> struct q_type<e4m3> { typedef f16 type; };

struct raw { struct nvllm_tensor t; double *x; };

/* [rows][cols] of X with gaps between the rows. */
template <class X> static struct raw make_raw(struct rnd *r, int rows, int cols)
{
	struct raw m = {};
	int64_t stride = (cols * (int64_t)sizeof(X) + 15) / 16 * 16 + 32;

	m.t.rows = rows, m.t.cols = cols, m.t.stride = stride, m.t.planes = 1;
	m.t.dtype = sizeof(X) == 4 ? NVLLM_F32 : NVLLM_BF16;
	m.t.data = edges_new((size_t)(rows * stride));
	m.x = (double *)malloc(sizeof(double) * rows * cols);
	for (int i = 0; i < rows; i++)
		for (int c = 0; c < cols; c++) {
			X v = from_f32<X>((float)(2 * rnd_normal(r)));

			((X *)((char *)m.t.data + i * stride))[c] = v;
			m.x[(int64_t)i * cols + c] = to_f32(v);
		}
	return m;
}

static float *make_vec(struct rnd *r, int n, double mean)
{
	float *v = edges<float>(n);

	for (int i = 0; i < n; i++)
		v[i] = (float)(mean + 0.5 * rnd_normal(r));
	return v;
}

/* What becomes of one head, in double. angle: position times frequency, taken in f32 as the reference does. */
static void want_head(const struct prep_case *c, double *y, const double *x, const float *bias, const float *norm, bool turn,
	const float *freq, int position)
{
	double ss = 0, z[256];
	int half = c->dims / 2;

	for (int i = 0; i < c->dim; i++) {
		z[i] = x[i] + (bias ? (double)bias[i] : 0);
		ss += z[i] * z[i];
	}
	for (int i = 0; i < c->dim && norm; i++)
		z[i] = z[i] / sqrt(ss / c->dim + 1e-6) * (c->offset + norm[i]);
	for (int i = 0; i < c->dim; i++) {
		int k = c->interleaved ? i / 2 : i % (half > 0 ? half : 1), other = c->interleaved ? i ^ 1 : i < half ? i + half : i - half;
		bool second = c->interleaved ? i & 1 : i >= half;
		double a;

		y[i] = z[i];
		if (!turn || i >= c->dims)
			continue;
		a = (double)((float)position * freq[k]);
		y[i] = c->mscale * (z[i] * cos(a) + (second ? 1 : -1) * z[other] * sin(a));
	}
}

struct bench {
	struct nvllm_attn_shape shape;
	struct attn_layer layer[2];
	struct nvllm_attention a;
	struct nvllm_batch b;
	int32_t *positions, *slots;
	void *kv[2];
	int64_t pool_bytes;
	int n_pages;
};

template <class K> static void make_bench(struct bench *s, const struct prep_case *c, struct rnd *r)
{
	typedef typename q_type<K>::type Q;
	bool used[200] = {};

	*s = {};
	s->n_pages = c->rows / 8 + 3;
	s->shape.n_layers = 2, s->shape.max_tokens = c->rows, s->shape.max_seqs = c->rows;
	for (int i = 0; i < 2; i++) {
		struct attn_layer *l = &s->layer[i];

		l->n_heads = c->n_heads, l->n_kv = c->n_kv, l->dim = c->dim, l->group = c->n_heads / c->n_kv;
		l->source = c->shares ? 0 : i, l->row_bytes = c->dim * (int)sizeof(K), l->page_bytes = kv_page_bytes(l->row_bytes, c->n_kv);
		l->q_scale = c->cap > 0 ? 0.02f : 0.18f;
	}
	s->pool_bytes = s->n_pages * s->layer[0].page_bytes;
	for (int i = 0; i < 2; i++)
		s->kv[i] = edges_new((size_t)s->pool_bytes, 128);
	s->a.shape = &s->shape, s->a.layers = s->layer, s->a.n_sms = c->n_sms, s->a.kv_dtype = c->kv, s->a.kv = s->kv;
	s->a.q = edges<Q>((int64_t)c->rows * c->n_heads * c->dim);
	s->positions = edges<int32_t>(c->rows), s->slots = edges<int32_t>(c->rows);
	for (int i = 0; i < c->rows; i++) {
		int slot = rnd_int(r, 0, s->n_pages * PAGE - 1);

		while (used[slot])
			slot = (slot + 1) % (s->n_pages * PAGE);
		used[slot] = true;
		s->slots[i] = i % 5 == 3 ? -1 : slot;
		s->positions[i] = i == 1 ? 40000 : rnd_int(r, 0, 3000);
	}
	s->b.n_tokens = c->rows, s->b.positions = s->positions, s->b.slots = s->slots;
}

/* Errors of the parts, relative to the size of a part's numbers. */
template <class K> static void compare(const struct prep_case *c, struct bench *s, const double *q, const double *k, const double *v,
	const char *y, int64_t y_stride)
{
	typedef typename q_type<K>::type Q;
	const struct attn_layer *l = &s->layer[1];
	bool *touched = (bool *)calloc((size_t)s->pool_bytes, 1);
	int es = c->y_dtype == NVLLM_F32 ? 4 : 2, cols = c->n_heads * c->dim, n_kv = c->n_kv * c->dim, wrong = 0;
	double err_q = worst_ratio((const Q *)s->a.q, q, (int64_t)c->rows * cols, 0.1), err_k = 0, err_v = 0;
	double most = c->kv == NVLLM_F32 ? 2e-5 : c->kv == NVLLM_BF16 ? 4e-3 : c->kv == NVLLM_F16 ? 6e-4 : 6.5e-2;
	double most_q = c->kv == NVLLM_F32 ? 2e-5 : c->kv == NVLLM_BF16 ? 4e-3 : 6e-4;

	for (int t = 0; t < c->rows && !c->shares; t++)
		for (int i = 0; i < n_kv && s->slots[t] >= 0; i++)
			for (int part = 0; part < 2; part++) {
				int64_t at = s->slots[t] / PAGE * l->page_bytes + part * l->page_bytes / 2 +
					i / c->dim * kv_head_bytes(l->row_bytes) + kv_at(l->row_bytes, s->slots[t] % PAGE, i % c->dim * (int)sizeof(K));
				double want = (part ? v : k)[t * n_kv + i];
				double e = fabs((double)to_f32(*(K *)((char *)s->kv[1] + at)) - want) / (fabs(want) + 0.1);

				*(part ? &err_v : &err_k) = fmax(part ? err_v : err_k, e == e ? e : 1e9);
				memset(touched + at, 1, sizeof(K));
			}
	for (int64_t i = 0; i < s->pool_bytes; i++)
		wrong += (!touched[i] && ((char *)s->kv[1])[i] != -1) + (((char *)s->kv[0])[i] != -1);
	CHECK_EQ(wrong, 0, "%s: other places of the pages", c->name);
	wrong = 0;
	for (int t = 0; t < c->rows; t++)
		for (int i = 0; i < y_stride; i++)
			wrong += y[t * y_stride + i] != (s->slots[t] < 0 && i < cols * es ? 0 : -1);
	CHECK_EQ(wrong, 0, "%s: y is zero where the row is nobody's, and nowhere else", c->name);
	CHECK_LE(err_q, most_q, "%s: q", c->name);
	CHECK_LE(err_k, most, "%s: k", c->name);
	CHECK_LE(err_v, most, "%s: v", c->name);
	free(touched);
}

template <class X, class K> static void run(const struct prep_case *c)
{
	struct rnd r = rnd_seed((uint64_t)(c->rows * 131 + c->dim));
	int cols = c->n_heads * c->dim, n_kv = c->n_kv * c->dim, es = c->y_dtype == NVLLM_F32 ? 4 : 2;
	struct raw m[3] = { make_raw<X>(&r, c->rows, c->together ? cols + 2 * n_kv : cols), {}, {} };
	double *want[3];
	float *bias = c->bias ? make_vec(&r, cols + 2 * n_kv, 0) : NULL, *freq = NULL;
	struct nvllm_norm norms[2] = {};
	struct nvllm_rotary rotary = {};
	struct attn_rows in = {};
	struct nvllm_tensor y = {};
	static struct bench s;

	make_bench<K>(&s, c, &r);
	for (int i = 1; i < 3; i++)
		m[i] = c->together ? m[0] : make_raw<X>(&r, c->rows, n_kv);
	if (c->together)
		m[1].t = nvllm_cols(m[0].t, cols, n_kv), m[2].t = nvllm_cols(m[0].t, cols + n_kv, n_kv), m[0].t = nvllm_cols(m[0].t, 0, cols);
	in.q = m[0].t, in.k = m[1].t, in.v = m[2].t;
	if (bias)
		in.q_bias = bias, in.k_bias = bias + cols, in.v_bias = bias + cols + n_kv;
	for (int i = 0; i < 2; i++) {
		norms[i].eps = 1e-6, norms[i].offset = c->offset;
		norms[i].w.data = make_vec(&r, c->dim, 1 - c->offset), norms[i].w.cols = c->dim;
	}
	in.q_norm = c->norm ? &norms[0] : NULL, in.k_norm = c->k_norm ? &norms[1] : NULL;
	if (c->dims >= 0) {
		freq = edges<float>(c->dims / 2 > 0 ? c->dims / 2 : 1);
		for (int i = 0; i < c->dims / 2; i++)
			freq[i] = (float)pow(10000, -2.0 * i / c->dims);
		rotary.dims = c->dims, rotary.interleaved = c->interleaved, rotary.mscale = c->mscale, rotary.inv_freq.data = freq;
		in.rotary = &rotary;
	}
	for (int p = 0; p < 3; p++) {
		int heads = p ? c->n_kv : c->n_heads, before = p == 0 ? 0 : p == 1 ? cols : cols + n_kv;
		int from = c->together ? before : 0, width = c->together ? cols + 2 * n_kv : heads * c->dim;

		want[p] = (double *)malloc(sizeof(double) * c->rows * heads * c->dim);
		for (int t = 0; t < c->rows; t++)
			for (int h = 0; h < heads; h++) {
				double *z = want[p] + (t * heads + h) * c->dim;

				want_head(c, z, m[p].x + t * width + from + h * c->dim, bias ? bias + before + h * c->dim : NULL,
					p == 0 && c->norm ? (float *)norms[0].w.data : p == 1 && c->k_norm ? (float *)norms[1].w.data : NULL,
					p < 2 && c->dims > 0, freq, s.positions[t]);
				for (int i = 0; i < c->dim && p == 0; i++)
					z[i] *= s.layer[1].q_scale;
			}
	}
	y.dtype = c->y_dtype, y.stride = cols * es + 16, y.data = edges_new((size_t)(c->rows * y.stride));
	CHECK_EQ(attn_prep(&s.a, NULL, 1, &s.b, &in, y), 0, "%s: launch", c->name);
	compare<K>(c, &s, want[0], want[1], want[2], (const char *)y.data, y.stride);
	for (int i = 0; i < 3; i++) {
		if (i == 0 || !c->together)
			edges_free((char *)m[i].t.data), free(m[i].x);
		free(want[i]);
	}
	for (int i = 0; i < 2; i++)
		edges_free(s.kv[i]), edges_free(norms[i].w.data);
	edges_free(bias), edges_free(freq), edges_free(y.data), edges_free(s.a.q), edges_free(s.positions), edges_free(s.slots);
}

template <class X> static void run_kv(const struct prep_case *c)
{
	switch (c->kv) {
	case NVLLM_F32: run<X, float>(c); break;
	case NVLLM_F16: run<X, f16>(c); break;
	case NVLLM_BF16: run<X, bf16>(c); break;
	default: run<X, e4m3>(c); break;
	}
}

int main(void)
{
	static const int dims[] = { 16, 32, 48, 64, 80, 96, 128, 256 }, types[] = { NVLLM_BF16, NVLLM_F16, NVLLM_F8_E4M3, NVLLM_F32 };
	char name[120];

	for (int i = 0; i < 8 * 4; i++) {
		int d = dims[i / 4];
		/* every head_dim and type of cache; the rest turns with i */
		struct prep_case c = { name, 1 + i % 7 * 3, 2 * (1 + i % 3), i % 2 ? 2 : 1, d, i % 5 == 4 ? -1 : i % 3 == 2 ? d / 4 * 2 : d,
			i % 4 == 1, i % 3 == 0, i % 4 != 3, i % 2 == 0, i % 2 == 1, i % 11 == 10, i % 4 == 2 ? 1.0 : 0.0,
			i % 5 == 1 ? 1.3 : 1.0, i % 7 == 0 ? 30.0 : 0, i % 3 ? NVLLM_BF16 : NVLLM_F32, i % 4 < 2 ? NVLLM_BF16 : NVLLM_F32,
			types[i % 4], i % 2 ? 1 : 40 };

		snprintf(name, sizeof(name), "dim %d, KV type %d, rope %d%s%s%s%s%s", d, c.kv, c.dims, c.interleaved ? " interleaved" : "",
			c.bias ? ", bias" : "", c.norm ? ", norm" : "", c.together ? ", one matrix" : "", c.shares ? ", another's K and V" : "");
		if (c.n_heads % c.n_kv)
			c.n_kv = 1;
		if (c.act == NVLLM_F32)
			run_kv<float>(&c);
		else
			run_kv<bf16>(&c);
	}
	return check_done();
}
