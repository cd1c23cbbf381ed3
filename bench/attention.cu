// SPDX-License-Identifier: MIT
/* bench/attention - how fast, and how right, the paged attention of single rows is on this GPU, beside what the
 * memory gives. It calls the kernels of backends/cuda themselves; the core has no part in it.
 *
 *   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Iinclude bench/attention.cu \
 *        backends/cuda/attn_prep.cu backends/cuda/attn_plan.cu backends/cuda/attn_decode.cu -o bench_attention
 *   ./bench_attention > attention.json        (what a person reads goes to stderr)
 *
 * Every layer has pages of its own, so that what one launch read is not in the cache for the next; pages
 * lie in random order; K, V and q are random numbers. Times: medians of single launches between events, and of a
 * recorded step of all layers (prep and decode in turn, as the engine runs them), divided by the layers.
 * GB/s count K and V of the tokens attended to and nothing else. Ends with 1 if a check fails. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../backends/cuda/attn.h"
#include "../backends/cuda/kv.cuh"
#include "../backends/cuda/ptx.cuh"

#define CK(x) check((x), #x, __LINE__)
#define REPEATS 7
#define LAYERS_MOST 28
#define POOL_BYTES (6ll << 30)

static void check(int err, const char *what, int line)
{
	if (!err)
		return;
	fprintf(stderr, "bench/attention.cu:%d: %s: %s\n", line, what, cudaGetErrorString((cudaError_t)err));
	exit(1);
}

struct shape_case {
	const char *name;
	int seqs, len, n_heads, n_kv, dim, kv, window;
	double cap;
};

struct setup {
	const struct shape_case *c;
	int layers, n_pages, max_pages;
	int64_t bytes;              /* of K and V of the tokens attended to, one layer */
	struct nvllm_attn_shape shape;
	struct attn_layer layer[LAYERS_MOST];
	void *kv[LAYERS_MOST], *work, *qkv, *y;
	struct nvllm_attention a;
	struct nvllm_batch b;
	struct attn_rows in;
	struct nvllm_norm norm;
	struct nvllm_rotary rotary;
	struct nvllm_tensor out;
	int *table;                 /* host twin of the page table */
};

static uint64_t random_state = 1;

static uint32_t random_u32(void)
{
	random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
	return (uint32_t)(random_state * 0x2545f4914f6cdd1dull >> 32);
}

/* ---- memory ---- */

/* Random numbers of the type, each of |x| < 2. */
static __global__ void fill(char *p, int64_t n, int kv, uint32_t seed)
{
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		uint32_t u = ((uint32_t)i * 2654435761u ^ seed) + (uint32_t)(i >> 32);
		float x;

		u ^= u >> 16, u *= 0x7feb352du, u ^= u >> 15, u *= 0x846ca68bu, u ^= u >> 16;
		x = (float)(int32_t)u * (1.7f / 2147483648.f);
		if (kv == NVLLM_BF16)
			((bf16 *)p)[i] = from_f32<bf16>(x);
		else if (kv == NVLLM_F16)
			((f16 *)p)[i] = from_f32<f16>(x);
		else
			p[i] = (char)(u & 0xbf);
	}
}

static int element(int kv) { return kv == NVLLM_F8_E4M3 ? 1 : 2; }

static void *device(int64_t bytes)
{
	void *p = NULL;

	CK(cudaMalloc(&p, (size_t)bytes));
	return p;
}

static int32_t *to_device(const int32_t *x, int64_t n)
{
	int32_t *p = (int32_t *)device(n * 4);

	CK(cudaMemcpy(p, x, (size_t)n * 4, cudaMemcpyHostToDevice));
	return p;
}

static double host_num(const char *p, int kv)
{
	uint16_t u;
	int e, m;
	double x;

	if (kv == NVLLM_BF16) {
		memcpy(&u, p, 2);
		return bits_f32((uint32_t)u << 16);
	}
	if (kv == NVLLM_F16) {
		memcpy(&u, p, 2);
		e = u >> 10 & 31, m = u & 1023;
		x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
		return u >> 15 ? -x : x;
	}
	e = *p >> 3 & 15, m = *p & 7;
	x = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
	return *p & 0x80 ? -x : x;
}

/* ---- what the memory gives ---- */

static __global__ void __launch_bounds__(512) read_plain(const uint4 *p, int64_t n, uint32_t *out)
{
	int64_t step = (int64_t)gridDim.x * blockDim.x, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	uint32_t acc = 0;

	for (; i + 7 * step < n; i += 8 * step) {
		uint4 v[8];
#pragma unroll
		for (int k = 0; k < 8; k++)
			v[k] = load16_stream(p + i + k * step);
#pragma unroll
		for (int k = 0; k < 8; k++)
			acc ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
	}
	if (acc == 0x12345678u)
		*out = acc;
}

#define RING 3
#define RING_PAGE 65536

/* Pages of 64 KiB in random order through a ring, as decode reads them, and nothing done with them. */
static __global__ void __launch_bounds__(288, 1) read_pages(const char *pages, const int *order, int n, uint32_t *out)
{
#if __CUDA_ARCH__ >= 900
	__shared__ uint64_t full[RING], empty[RING];
	char *ring = dyn_smem();
	int from = (int)((int64_t)blockIdx.x * n / gridDim.x), to = (int)((int64_t)(blockIdx.x + 1) * n / gridDim.x);
	int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, s = 0;
	uint32_t parity = warp == 8, acc = 0;

	if (threadIdx.x == 0)
		for (int i = 0; i < RING; i++)
			mbar_init(&full[i], 1), mbar_init(&empty[i], 8);
	mbar_fence_init();
	__syncthreads();
	griddep_wait();
	for (int i = from; i < to; i++) {
		if (warp == 8) {
			if (lane == 0) {
				mbar_wait(&empty[s], parity);
				mbar_expect(&full[s], RING_PAGE);
				for (int at = 0; at < RING_PAGE; at += 16384)
					bulk_load(ring + s * RING_PAGE + at, pages + (int64_t)order[i] * RING_PAGE + at, 16384, &full[s],
						l2_evict_first());
			}
		} else {
			const uint4 *p = (const uint4 *)(ring + s * RING_PAGE);

			mbar_wait(&full[s], parity);
			for (int k = threadIdx.x; k < RING_PAGE / 16; k += 256)
				acc ^= p[k].x ^ p[k].y ^ p[k].z ^ p[k].w;
			__syncwarp();
			if (lane == 0)
				mbar_arrive(&empty[s]);
		}
		if (++s == RING)
			s = 0, parity ^= 1;
	}
	if (acc == 0x12345678u)
		*out = acc;
#endif
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return x < y ? -1 : x > y;
}

static cudaEvent_t before, after;

static float elapsed(void)
{
	float ms;

	CK(cudaEventSynchronize(after));
	CK(cudaEventElapsedTime(&ms, before, after));
	return ms * 1e3f;
}

static float median(float *t, int n)
{
	qsort(t, (size_t)n, sizeof(*t), by_value);
	return t[n / 2];
}

static int *shuffled(int n)
{
	int *v = (int *)malloc((size_t)n * sizeof(*v));

	for (int i = 0; i < n; i++)
		v[i] = i;
	for (int i = n - 1; i > 0; i--) {
		int k = (int)(random_u32() % (uint32_t)(i + 1)), t = v[i];

		v[i] = v[k], v[k] = t;
	}
	return v;
}

static double plain_rate(int sms)
{
	int64_t bytes = 4ll << 30;
	char *p = (char *)device(bytes);
	uint32_t *out = (uint32_t *)device(4);
	float t[9], best = 1e30f;

	fill<<<4 * sms, 512>>>(p, bytes / 2, NVLLM_BF16, 1);
	for (int per = 2; per <= 8; per *= 2) {
		for (int i = 0; i < 9; i++) {
			CK(cudaEventRecord(before));
			read_plain<<<per * sms, 512>>>((const uint4 *)p, bytes / 16, out);
			CK(cudaEventRecord(after));
			t[i] = elapsed();
		}
		best = fminf(best, median(t, 9));
	}
	CK(cudaFree(p));
	CK(cudaFree(out));
	return bytes / (double)best * 1e-3;
}

/* GB/s of reading as many pages as `bytes` need, out of 4 GiB. */
static double page_rate(int sms, int64_t bytes)
{
	int n = (int)((bytes + RING_PAGE - 1) / RING_PAGE), all = 65536, sets;
	char *p = (char *)device((int64_t)all * RING_PAGE);
	uint32_t *out = (uint32_t *)device(4);
	int *h = shuffled(all), *order = to_device(h, all);
	float t[9];

	n = n < all ? n : all;
	sets = all / n;
	fill<<<4 * sms, 512>>>(p, (int64_t)all * RING_PAGE / 2, NVLLM_BF16, 1);
	CK(allow_smem(read_pages, RING * RING_PAGE));
	for (int i = 0; i < 9; i++) {
		CK(cudaEventRecord(before));
		CK(launch(read_pages, dim3(n < sms ? n : sms), dim3(288), RING * RING_PAGE, NULL, p, order + i % sets * n, n, out));
		CK(cudaEventRecord(after));
		t[i] = elapsed();
	}
	CK(cudaFree(p));
	CK(cudaFree(out));
	CK(cudaFree(order));
	free(h);
	return (double)n * RING_PAGE / median(t, 9) * 1e-3;
}

/* ---- a case ---- */

static void make_layers(struct setup *s, int sms, int smem)
{
	const struct shape_case *c = s->c;
	struct nvllm_attention *a = &s->a;

	s->shape.n_layers = s->layers;
	s->shape.max_seqs = s->shape.max_tokens = c->seqs;
	s->shape.max_len = c->len;
	a->shape = &s->shape, a->layers = s->layer, a->n_sms = sms, a->smem_max = smem;
	a->kv_dtype = c->kv, a->q_dtype = c->kv == NVLLM_BF16 ? NVLLM_BF16 : NVLLM_F16, a->act = NVLLM_BF16;
	a->kv = s->kv, a->n_pages = s->n_pages;
	for (int i = 0; i < s->layers; i++) {
		struct attn_layer *l = &s->layer[i];

		l->n_heads = c->n_heads, l->n_kv = c->n_kv, l->dim = c->dim, l->group = c->n_heads / c->n_kv;
		l->window = c->window, l->source = i, l->row_bytes = c->dim * element(c->kv);
		l->page_bytes = kv_page_bytes(l->row_bytes, c->n_kv);
		l->scale = 1 / sqrtf((float)c->dim), l->cap = (float)c->cap;
		l->q_scale = c->cap > 0 ? l->scale / l->cap : l->scale * 1.44269504f;
		if (!attn_decode_shape(a, l)) {
			fprintf(stderr, "%s: does not fit this device\n", c->name);
			exit(1);
		}
	}
	attn_plan_kinds(a);
	s->work = device(attn_workspace(a, NULL));
	attn_workspace(a, s->work);
	CK(cudaMemset(a->counters, 0, ATTN_COUNTERS(sms) * 4));
	CK(attn_plan_setup(a));
	CK(attn_decode_setup(a));
	for (int i = 0; i < s->layers; i++) {
		int64_t bytes = s->n_pages * s->layer[i].page_bytes;

		s->kv[i] = device(bytes);
		fill<<<8 * sms, 512>>>((char *)s->kv[i], bytes / element(c->kv), c->kv, 77 + i);
	}
	CK(cudaDeviceSynchronize());
}

static void make_batch(struct setup *s)
{
	const struct shape_case *c = s->c;
	int n = c->seqs, *order = shuffled(s->n_pages);
	int32_t *pos = (int32_t *)calloc(n, 4), *slots = (int32_t *)calloc(n, 4), *start = (int32_t *)calloc(n + 1, 4);
	int32_t *len = (int32_t *)calloc(n, 4);

	s->table = (int *)calloc((size_t)n * s->max_pages, 4);
	for (int i = 0; i < n; i++) {
		for (int p = 0; p < s->max_pages; p++)
			s->table[i * s->max_pages + p] = order[i * s->max_pages + p];
		start[i + 1] = i + 1, len[i] = c->len, pos[i] = c->len - 1;
		slots[i] = s->table[i * s->max_pages + pos[i] / PAGE] * PAGE + pos[i] % PAGE;
	}
	s->b.n_tokens = s->b.n_seqs = n, s->b.max_pages = s->max_pages;
	s->b.positions = to_device(pos, n), s->b.slots = to_device(slots, n), s->b.q_start = to_device(start, n + 1);
	s->b.kv_len = to_device(len, n), s->b.page_table = to_device(s->table, (int64_t)n * s->max_pages);
	free(order), free(pos), free(slots), free(start), free(len);
}

static struct nvllm_tensor view(void *data, int rows, int cols, int stride, int dtype)
{
	struct nvllm_tensor t = {};

	t.data = data, t.rows = rows, t.cols = cols, t.stride = stride, t.planes = 1, t.dtype = dtype;
	return t;
}

static void make_rows(struct setup *s)
{
	const struct shape_case *c = s->c;
	int cols = (c->n_heads + 2 * c->n_kv) * c->dim;
	char *qkv = (char *)device((int64_t)c->seqs * cols * 2);
	float *w = (float *)malloc(c->dim * 4), *f = (float *)malloc(c->dim * 2);

	fill<<<256, 256>>>(qkv, (int64_t)c->seqs * cols, NVLLM_BF16, 4711);
	for (int i = 0; i < c->dim; i++)
		w[i] = 0.75f + 0.5f * (i % 7) / 7;
	for (int i = 0; i < c->dim / 2; i++)
		f[i] = (float)pow(1e6, -2.0 * i / c->dim);
	s->norm.kind = NVLLM_RMS_NORM, s->norm.eps = 1e-6;
	s->norm.w = view(to_device((int32_t *)w, c->dim), 1, c->dim, 0, NVLLM_F32);
	s->rotary.dims = c->dim, s->rotary.mscale = 1;
	s->rotary.inv_freq = view(to_device((int32_t *)f, c->dim / 2), 1, c->dim / 2, 0, NVLLM_F32);
	s->qkv = qkv;
	s->in.q = view(qkv, c->seqs, c->n_heads * c->dim, cols * 2, NVLLM_BF16);
	s->in.k = view(qkv + c->n_heads * c->dim * 2, c->seqs, c->n_kv * c->dim, cols * 2, NVLLM_BF16);
	s->in.v = view(qkv + (c->n_heads + c->n_kv) * c->dim * 2, c->seqs, c->n_kv * c->dim, cols * 2, NVLLM_BF16);
	s->in.q_norm = s->in.k_norm = &s->norm, s->in.rotary = &s->rotary;
	s->y = device((int64_t)c->seqs * c->n_heads * c->dim * 2);
	s->out = view(s->y, c->seqs, c->n_heads * c->dim, c->n_heads * c->dim * 2, NVLLM_BF16);
	free(w), free(f);
}

static void drop(struct setup *s)
{
	void *p[] = { s->work, s->qkv, s->y, s->norm.w.data, s->rotary.inv_freq.data, (void *)s->b.positions, (void *)s->b.slots,
		(void *)s->b.q_start, (void *)s->b.kv_len, (void *)s->b.page_table };

	for (size_t i = 0; i < sizeof(p) / sizeof(*p); i++)
		CK(cudaFree(p[i]));
	for (int i = 0; i < s->layers; i++)
		CK(cudaFree(s->kv[i]));
	free(s->table);
}

/* ---- is it right? ---- */

/* Sequence i of layer 0 from its pages and the kept q, in double: |y - want| / |want|. */
static double error_of(struct setup *s, int i)
{
	const struct shape_case *c = s->c;
	const struct attn_layer *l = &s->layer[0];
	int cols = c->n_heads * c->dim, low = c->window && c->len > c->window ? c->len - c->window : 0, es = element(c->kv);
	char *page = (char *)malloc((size_t)l->page_bytes), *q = (char *)malloc(cols * 2), *y = (char *)malloc(cols * 2);
	double *x = (double *)calloc((size_t)c->len * c->n_heads, 8), *sum = (double *)calloc(c->n_heads, 8);
	double *most = (double *)calloc(c->n_heads, 8), *o = (double *)calloc(cols, 8), d = 0, w = 0;

	CK(cudaMemcpy(q, (char *)s->a.q + (int64_t)i * cols * 2, cols * 2, cudaMemcpyDeviceToHost));
	CK(cudaMemcpy(y, (char *)s->y + (int64_t)i * cols * 2, cols * 2, cudaMemcpyDeviceToHost));
	for (int h = 0; h < c->n_heads; h++)
		most[h] = -HUGE_VAL;
	for (int pass = 0; pass < 2; pass++) /* scores, then sums */
		for (int p = low / PAGE; p < s->max_pages; p++) {
			CK(cudaMemcpy(page, (char *)s->kv[0] + s->table[i * s->max_pages + p] * l->page_bytes, (size_t)l->page_bytes,
				cudaMemcpyDeviceToHost));
			for (int t = 0; t < PAGE; t++)
				for (int h = 0; h < c->n_heads; h++) {
					int at = p * PAGE + t;
					const char *k = page + h / l->group * kv_head_bytes(l->row_bytes) + pass * l->page_bytes / 2;
					double *z = &x[(int64_t)at * c->n_heads + h], dot = 0;

					if (at < low || at >= c->len)
						continue;
					if (pass)
						*z = exp2(*z - most[h]), sum[h] += *z;
					for (int e = 0; e < c->dim; e++) {
						double kv = host_num(k + kv_at(l->row_bytes, t, e * es), c->kv);

						if (pass)
							o[h * c->dim + e] += *z * kv;
						else
							dot += kv * host_num(q + (h * c->dim + e) * 2, s->a.q_dtype);
					}
					if (!pass) {
						*z = c->cap > 0 ? c->cap * 1.4426950408889634 * tanh(dot) : dot;
						most[h] = fmax(most[h], *z);
					}
				}
		}
	for (int e = 0; e < cols; e++) {
		double want = o[e] / sum[e / c->dim], got = host_num(y + e * 2, NVLLM_BF16);

		d += (got - want) * (got - want), w += want * want;
	}
	free(page), free(q), free(y), free(x), free(sum), free(most), free(o);
	return sqrt(d / w);
}

/* q of row i, norm and rope, against double. */
static double prep_error(struct setup *s, int i)
{
	const struct shape_case *c = s->c;
	int cols = c->n_heads * c->dim, half = c->dim / 2;
	char *raw = (char *)malloc(cols * 2), *q = (char *)malloc(cols * 2);
	double *x = (double *)malloc(c->dim * 8), d = 0, w = 0;

	CK(cudaMemcpy(raw, (char *)s->in.q.data + i * s->in.q.stride, cols * 2, cudaMemcpyDeviceToHost));
	CK(cudaMemcpy(q, (char *)s->a.q + (int64_t)i * cols * 2, cols * 2, cudaMemcpyDeviceToHost));
	for (int h = 0; h < c->n_heads; h++) {
		double ss = 0;

		for (int e = 0; e < c->dim; e++)
			x[e] = host_num(raw + (h * c->dim + e) * 2, NVLLM_BF16), ss += x[e] * x[e];
		for (int e = 0; e < c->dim; e++)
			x[e] *= (0.75f + 0.5f * (e % 7) / 7) / sqrt(ss / c->dim + 1e-6);
		for (int e = 0; e < c->dim; e++) {
			double angle = (c->len - 1) * (float)pow(1e6, -2.0 * (e % half) / c->dim);
			double want = (x[e] * cos(angle) + (e < half ? -x[e + half] : x[e - half]) * sin(angle)) * s->layer[0].q_scale;
			double got = host_num(q + (h * c->dim + e) * 2, s->a.q_dtype);

			d += (got - want) * (got - want), w += want * want;
		}
	}
	free(raw), free(q), free(x);
	return sqrt(d / w);
}

/* ---- how fast? ---- */

struct times { float plan, prep, decode, early, step, step_early; };

static float one_by_one(struct setup *s, int what)
{
	static float t[REPEATS * LAYERS_MOST];
	int n = 0;

	for (int r = 0; r < REPEATS; r++)
		for (int i = 0; i < s->layers; i++) {
			CK(cudaEventRecord(before));
			if (what == 0)
				CK(attn_plan(&s->a, NULL, &s->b));
			else if (what == 1)
				CK(attn_prep(&s->a, NULL, i, &s->b, &s->in, s->out));
			else
				CK(attn_decode(&s->a, NULL, i, &s->b, s->out));
			CK(cudaEventRecord(after));
			t[n] = elapsed();
			n += r > 0; /* the first round warms up */
		}
	return median(t, n);
}

/* Time of a layer in a recorded step: prep, decode, prep, decode, ... */
static float in_a_graph(struct setup *s)
{
	cudaStream_t stream;
	cudaGraph_t graph;
	cudaGraphExec_t exec;
	float t[2 * REPEATS];

	CK(cudaStreamCreate(&stream));
	CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
	CK(attn_plan(&s->a, stream, &s->b));
	for (int i = 0; i < s->layers; i++) {
		CK(attn_prep(&s->a, stream, i, &s->b, &s->in, s->out));
		CK(attn_decode(&s->a, stream, i, &s->b, s->out));
	}
	CK(cudaStreamEndCapture(stream, &graph));
	CK(cudaGraphInstantiate(&exec, graph, 0));
	CK(cudaGraphLaunch(exec, stream));
	for (int i = 0; i < 2 * REPEATS; i++) {
		CK(cudaEventRecord(before, stream));
		CK(cudaGraphLaunch(exec, stream));
		CK(cudaEventRecord(after, stream));
		t[i] = elapsed();
	}
	CK(cudaGraphExecDestroy(exec));
	CK(cudaGraphDestroy(graph));
	CK(cudaStreamDestroy(stream));
	return median(t, 2 * REPEATS) / s->layers;
}

static uint64_t hash_y(struct setup *s)
{
	int64_t n = (int64_t)s->c->seqs * s->c->n_heads * s->c->dim * 2;
	unsigned char *y = (unsigned char *)malloc((size_t)n);
	uint64_t h = 1469598103934665603ull;

	CK(cudaMemcpy(y, s->y, (size_t)n, cudaMemcpyDeviceToHost));
	for (int64_t i = 0; i < n; i++)
		h = (h ^ y[i]) * 1099511628211ull;
	free(y);
	return h;
}

static int run(const struct shape_case *c, int sms, int smem, double plain, bool more)
{
	static struct setup s;
	struct times t;
	double worst = 0, worst_prep, rate, pages;
	int64_t page_bytes = kv_page_bytes(c->dim * element(c->kv), c->n_kv);
	int tokens = c->window && c->window < c->len ? c->window : c->len, bad = 0;
	uint64_t h;

	s = {};
	s.c = c;
	s.max_pages = (c->len + PAGE - 1) / PAGE;
	s.n_pages = c->seqs * s.max_pages + 5;
	s.layers = (int)(POOL_BYTES / (s.n_pages * page_bytes)) + 1;
	s.layers = s.layers < 4 ? 4 : s.layers > LAYERS_MOST ? LAYERS_MOST : s.layers;
	s.bytes = (int64_t)c->seqs * tokens * c->n_kv * c->dim * element(c->kv) * 2;
	make_layers(&s, sms, smem);
	make_batch(&s);
	make_rows(&s);
	CK(cudaMemset(s.y, 0xff, (size_t)c->seqs * c->n_heads * c->dim * 2));
	CK(attn_plan(&s.a, NULL, &s.b));
	CK(attn_prep(&s.a, NULL, 0, &s.b, &s.in, s.out));
	CK(attn_decode(&s.a, NULL, 0, &s.b, s.out));
	CK(cudaDeviceSynchronize());
	h = hash_y(&s);
	for (int i = 0; i < (c->seqs > 1 ? 3 : 1); i++) { /* the first, the middle one, the last */
		double e = error_of(&s, i * (c->seqs - 1) / 2);

		worst = e <= worst ? worst : e;
	}
	worst_prep = prep_error(&s, c->seqs - 1);
	for (int i = 0; i < 1000; i++) { /* the same bits, also with early loads */
		s.a.early = i & 1;
		CK(attn_prep(&s.a, NULL, 0, &s.b, &s.in, s.out));
		CK(attn_decode(&s.a, NULL, 0, &s.b, s.out));
		if (i % 100 > 95)
			bad += hash_y(&s) != h;
	}
	s.a.early = 0;
	t.plan = one_by_one(&s, 0), t.prep = one_by_one(&s, 1), t.decode = one_by_one(&s, 2), t.step = in_a_graph(&s);
	s.a.early = 1;
	t.early = one_by_one(&s, 2), t.step_early = in_a_graph(&s);
	rate = s.bytes / (double)t.decode * 1e-3;
	pages = page_rate(sms, s.bytes);
	bad += !(worst < 5e-3) + !(worst_prep < 4e-3);
	fprintf(stderr, "%-34s decode %7.1f us %5.0f GB/s (%4.1f%% of plain, %5.1f%% of pages %4.0f)  early %7.1f  plan %5.1f prep %5.1f"
		"  layer in graph %7.1f early %7.1f us  error %.1e prep %.1e%s\n", c->name, t.decode, rate, 100 * rate / plain,
		100 * rate / pages, pages, t.early, t.plan, t.prep, t.step, t.step_early, worst, worst_prep, bad ? "  WRONG" : "");
	printf("    {\"case\": \"%s\", \"seqs\": %d, \"len\": %d, \"heads\": %d, \"kv_heads\": %d, \"dim\": %d, \"kv_bytes\": %d, "
		"\"bytes\": %lld, \"decode_us\": %.2f, \"early_us\": %.2f, \"gbps\": %.1f, \"of_plain\": %.4f, \"pages_gbps\": %.1f, "
		"\"plan_us\": %.2f, \"prep_us\": %.2f, \"graph_layer_us\": %.2f, \"graph_layer_early_us\": %.2f, "
		"\"error\": %.3g, \"prep_error\": %.3g, \"wrong\": %d}%s\n", c->name, c->seqs, c->len, c->n_heads, c->n_kv, c->dim,
		element(c->kv), (long long)s.bytes, t.decode, t.early, rate, rate / plain, pages, t.plan, t.prep, t.step, t.step_early,
		worst, worst_prep, bad, more ? "," : "");
	fflush(stdout);
	drop(&s);
	return bad;
}

int main(void)
{
	static const struct shape_case cases[] = {
		{ "256 x 558", 256, 558, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "119 x 1075", 119, 1075, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "59 x 1407", 59, 1407, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "8 x 8192", 8, 8192, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "1 x 32768", 1, 32768, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "1 x 256", 1, 256, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "8 x 300", 8, 300, 16, 8, 128, NVLLM_BF16, 0, 0 },
		{ "128 x 700, group 4", 128, 700, 32, 8, 128, NVLLM_BF16, 0, 0 },
		{ "128 x 700, group 16, 2 KV heads", 128, 700, 32, 2, 128, NVLLM_BF16, 0, 0 },
		{ "256 x 558, f16", 256, 558, 16, 8, 128, NVLLM_F16, 0, 0 },
		{ "256 x 558, fp8", 256, 558, 16, 8, 128, NVLLM_F8_E4M3, 0, 0 },
		{ "59 x 1407, fp8", 59, 1407, 16, 8, 128, NVLLM_F8_E4M3, 0, 0 },
		{ "256 x 558, dim 64, 3 KV heads", 256, 558, 9, 3, 64, NVLLM_BF16, 0, 0 },
		{ "64 x 2000, dim 256, 4 KV heads", 64, 2000, 8, 4, 256, NVLLM_BF16, 0, 0 },
		{ "64 x 2000, window 512, cap 50", 64, 2000, 16, 8, 128, NVLLM_BF16, 512, 50 },
	};
	int n = (int)(sizeof(cases) / sizeof(*cases)), dev = 0, sms = 0, smem = 0, bad = 0;
	cudaDeviceProp prop;
	double plain;

	CK(cudaGetDevice(&dev));
	CK(cudaGetDeviceProperties(&prop, dev));
	CK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, dev));
	CK(cudaDeviceGetAttribute(&smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev));
	CK(cudaEventCreate(&before));
	CK(cudaEventCreate(&after));
	plain = plain_rate(sms);
	fprintf(stderr, "%s, %d SMs, plain reads %.0f GB/s\n", prop.name, sms, plain);
	printf("{\n  \"device\": \"%s\", \"sms\": %d, \"plain_gbps\": %.1f,\n  \"cases\": [\n", prop.name, sms, plain);
	for (int i = 0; i < n; i++)
		bad += run(&cases[i], sms, smem, plain, i + 1 < n);
	printf("  ]\n}\n");
	return bad ? 1 : 0;
}
