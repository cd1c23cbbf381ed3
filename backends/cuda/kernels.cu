/* SPDX-License-Identifier: MIT */
/* The kernels that are no products: one block a row, or a warp a short run of a row. All are bound by
 * memory, so they read each number once, in fours where the addresses allow it. */
#include "vec.cuh"
#include "quant.cuh"
#include <nvllm/random.h>

#define BLOCK 256
#define ROPE_MAX 1024    /* most elements of a head that turn */
#define NORM_MAX 16384   /* most elements of a run: 1024 threads of 4 fours */

static int check(struct nvllm_device *dev, cudaError_t err, const char *what)
{
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, what);
}

/* Grid and block of a kernel in which a thread has four columns of a row. */
static dim3 grid_of(int64_t rows, int64_t cols)
{
	return dim3((unsigned)rows, (unsigned)((cols + 4 * BLOCK - 1) / (4 * BLOCK)));
}
static dim3 block_of(int64_t cols)
{
	return dim3((unsigned)(cols >= 4 * BLOCK ? BLOCK : (cols + 127) / 128 * 32));
}
DEV int64_t my_row(void) { return blockIdx.x; }
DEV int64_t my_col(void) { return ((int64_t)blockIdx.y * BLOCK + threadIdx.x) * 4; }

/* ---- embed ---- */

/* The table's row of a token; -1: it is another rank's. */
DEV int64_t table_row(const int32_t *tokens, const int32_t *last, int64_t first, int64_t n_rows)
{
	int64_t t = tokens[my_row()];

	t = (t < 0 ? last[-1 - t] : t) - first;
	return t < n_rows ? t : -1;
}

template <class T, bool vec>
__global__ void embed_kernel(view y, view table, const int32_t *tokens, const int32_t *last, int64_t first,
	int64_t n_rows, int64_t cols, float scale)
{
	const int64_t i = my_col();
	int64_t t;
	float v[4] = { 0.f, 0.f, 0.f, 0.f };

	griddep_wait();
	griddep_launch();
	t = table_row(tokens, last, first, n_rows);
	if (t >= 0)
		load4<vec>(v, row_of<const T>(table, t) + i, cols - i);
	for (int k = 0; k < 4; k++)
		v[k] *= scale;
	store4<vec>(row_of<float>(y, my_row()) + i, v, cols - i);
}

/* Q: a block format of quant.cuh, whose columns are whole blocks. A thread has eight columns. */
template <class Q>
__global__ void embed_blocks_kernel(view y, view table, const int32_t *tokens, const int32_t *last, int64_t first,
	int64_t n_rows, int64_t cols, float scale)
{
	const int64_t i = ((int64_t)blockIdx.y * BLOCK + threadIdx.x) * 8;
	int64_t t;
	float v[8] = { 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f };

	griddep_wait();
	griddep_launch();
	if (i >= cols)
		return;
	t = table_row(tokens, last, first, n_rows);
	if (t >= 0)
		Q::decode8(row_of<const uint8_t>(table, t) + i / Q::block * Q::bytes, (int)(i % Q::block / 8), v);
	for (int k = 0; k < 8; k++)
		row_of<float>(y, my_row())[i + k] = v[k] * scale;
}

template <class T>
static cudaError_t embed(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor table, int64_t first,
	const struct nvllm_batch *b, float scale)
{
	auto kernel = fours(&y) && fours(&table) ? embed_kernel<T, true> : embed_kernel<T, false>;

	return launch(kernel, grid_of(y.rows, y.cols), block_of(y.cols), 0, stream, view_of(y), view_of(table), b->tokens,
		b->state ? b->state->last_token : NULL, first, table.rows, y.cols, scale);
}

template <class Q>
static cudaError_t embed_blocks(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor table, int64_t first,
	const struct nvllm_batch *b, float scale)
{
	const dim3 grid((unsigned)y.rows, (unsigned)((y.cols + 8 * BLOCK - 1) / (8 * BLOCK)));

	return launch(embed_blocks_kernel<Q>, grid, dim3(BLOCK), 0, stream, view_of(y), view_of(table), b->tokens,
		b->state ? b->state->last_token : NULL, first, table.rows, y.cols, scale);
}

extern "C" int cu_embed(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor table,
	int64_t first, const struct nvllm_batch *b, double scale)
{
	cudaError_t err;

	if (y.dtype != NVLLM_F32)
		return no_type(dev, "embed: y", &y);
	if (y.cols != table.cols || y.rows > b->n_tokens || first < 0 || table.layout != 0 ||
			(table.rows && is_blocks(table.dtype) && nvllm_row_bytes(table.dtype, table.cols) < 0))
		return no_fit(dev, "embed", &y, &table);
	if (is_empty(&y))
		return NVLLM_OK;
	if (!table.rows) /* this rank holds none: all zeros, and store() was never asked for its type */
		table.dtype = NVLLM_F32;
	switch (table.dtype) {
	case NVLLM_F32: err = embed<float>(stream, y, table, first, b, (float)scale); break;
	case NVLLM_BF16: err = embed<bf16>(stream, y, table, first, b, (float)scale); break;
	default:
		WITH_BLOCKS(table.dtype, (err = embed_blocks<Q>(stream, y, table, first, b, (float)scale)),
			return no_type(dev, "embed: the table", &table));
	}
	return check(dev, err, "embed");
}

/* ---- norm ---- */

/* A run of n elements by `per` threads, a multiple of 32; where per is 32 the warps of a block have a
 * run each. The run stays in registers: UNITS fours a thread. */
template <class X, class Y, int UNITS, bool vec>
__global__ void __launch_bounds__(1024, 1) norm_kernel(view y, view x, const float *w, const float *b, int n, int per,
	int per_row, int n_runs, float eps, float offset, int layer)
{
	__shared__ float red[32];
	const int run = per == 32 ? (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) : (int)blockIdx.x;
	const int lane = per == 32 ? threadIdx.x % 32 : threadIdx.x;
	X *const from = row_of<X>(x, run / per_row) + (int64_t)(run % per_row) * n;
	Y *const to = row_of<Y>(y, run / per_row) + (int64_t)(run % per_row) * n;
	float v[UNITS][4], sum = 0.f, mean = 0.f;

	griddep_wait();
	griddep_launch();
	if (run >= n_runs) /* a whole warp, where no other waits for it */
		return;
#pragma unroll
	for (int u = 0; u < UNITS; u++) {
		const int i = (u * per + lane) * 4;

		load4<vec>(v[u], (const X *)from + i, n - i);
	}
	if (layer) {
#pragma unroll
		for (int u = 0; u < UNITS; u++)
			for (int k = 0; k < 4; k++)
				sum += v[u][k];
		mean = block_sum(sum, red, per / 32) / (float)n;
		sum = 0.f;
	}
#pragma unroll
	for (int u = 0; u < UNITS; u++)
		for (int k = 0; k < 4; k++) {
			const float d = v[u][k] - mean;

			sum += (u * per + lane) * 4 + k < n ? d * d : 0.f;
		}
	sum = 1.f / sqrtf(block_sum(sum, red, per / 32) / (float)n + eps);
#pragma unroll
	for (int u = 0; u < UNITS; u++) {
		const int i = (u * per + lane) * 4;
		float g[4], o[4] = { 0.f, 0.f, 0.f, 0.f };

		load4<vec>(g, w + i, n - i);
		if (b)
			load4<vec>(o, b + i, n - i);
		for (int k = 0; k < 4; k++)
			o[k] += (v[u][k] - mean) * sum * (offset + g[k]);
		store4<vec>(to + i, o, n - i);
	}
}

template <class X, class Y>
static cudaError_t norm(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, const struct nvllm_norm *n)
{
	const int64_t cols = n->w.cols, per_row = x.cols / cols, n_runs = x.rows * per_row;
	const int64_t fours_of = (cols + 3) / 4;
	const int vec = fours(&y) && fours(&x) && fours(&n->w) && (uintptr_t)n->b.data % 16 == 0;
	const bool wide = fours_of > 2048;
	/* a warp for runs of up to 256, then one four a thread up to 512 threads, then two; or four */
	int64_t each = wide ? 4 : fours_of > 512 || fours_of <= 64 ? 2 : 1;
	int64_t per = (((fours_of + each - 1) / each) + 31) / 32 * 32, runs = per == 32 ? 4 : 1;
	auto kernel = wide ? (vec ? norm_kernel<X, Y, 4, true> : norm_kernel<X, Y, 4, false>) :
		vec ? norm_kernel<X, Y, 2, true> : norm_kernel<X, Y, 2, false>;

	return launch(kernel, dim3((unsigned)((n_runs + runs - 1) / runs)), dim3((unsigned)(per * runs)), 0, stream,
		view_of(y), view_of(x), (const float *)n->w.data, (const float *)n->b.data, (int)cols, (int)per, (int)per_row,
		(int)n_runs, (float)n->eps, (float)n->offset, (int)(n->kind == NVLLM_LAYER_NORM));
}

extern "C" int cu_norm(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_norm *n)
{
	cudaError_t err;

	if (!is_act(&y) || !is_act(&x))
		return no_type(dev, "norm: x or y", is_act(&y) ? &x : &y);
	if (n->w.dtype != NVLLM_F32 || (n->b.data && n->b.dtype != NVLLM_F32))
		return no_type(dev, "norm: its weight or bias", n->w.dtype != NVLLM_F32 ? &n->w : &n->b);
	if (n->kind != NVLLM_RMS_NORM && n->kind != NVLLM_LAYER_NORM)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "norm: no kind %d", n->kind);
	if (y.rows != x.rows || y.cols != x.cols)
		return no_fit(dev, "norm", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	if (n->w.cols < 1 || n->w.rows < 1 || x.cols % n->w.cols || (n->b.data && n->b.cols != n->w.cols))
		return no_fit(dev, "norm", &x, &n->w);
	if (n->w.cols > NORM_MAX || x.rows * (x.cols / n->w.cols) > INT32_MAX)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "norm: %lld rows with runs of %lld elements; there is a kernel "
			"for runs of up to %d, and 2^31 of them", (long long)x.rows, (long long)n->w.cols, NORM_MAX);
	WITH_TYPES(x.dtype, y.dtype, (err = norm<X, Y>(stream, y, x, n)));
	return check(dev, err, "norm");
}

/* ---- add, glu, rows, convert: four columns a thread ---- */

template <class X, class Y, bool vec>
__global__ void add_kernel(view y, view x, int64_t cols)
{
	const int64_t row = my_row(), i = my_col();
	float a[4], b[4];

	griddep_wait();
	griddep_launch();
	load4<vec>(a, row_of<const Y>(y, row) + i, cols - i);
	load4<vec>(b, row_of<const X>(x, row) + i, cols - i);
	for (int k = 0; k < 4; k++)
		a[k] += b[k];
	store4<vec>(row_of<Y>(y, row) + i, a, cols - i);
}

template <class X, class Y, bool vec>
__global__ void glu_kernel(view y, view x, int64_t cols, int act)
{
	const int64_t row = my_row(), i = my_col();
	float a[4], b[4];

	griddep_wait();
	griddep_launch();
	load4<vec>(a, row_of<const X>(x, row) + i, cols - i);
	load4<vec>(b, row_of<const X>(x, row) + cols + i, cols - i);
	for (int k = 0; k < 4; k++)
		a[k] = activate(a[k], act) * b[k];
	store4<vec>(row_of<Y>(y, row) + i, a, cols - i);
}

/* index NULL: row i is row i. A row that x has not is zeros rather than somebody's memory. */
template <class X, class Y, bool vec>
__global__ void rows_kernel(view y, view x, const int32_t *index, int64_t n_rows, int64_t cols)
{
	const int64_t row = my_row(), i = my_col();
	float a[4] = { 0.f, 0.f, 0.f, 0.f };
	int64_t from;

	griddep_wait();
	griddep_launch();
	from = index ? index[row] : row;
	if (from >= 0 && from < n_rows)
		load4<vec>(a, row_of<const X>(x, from) + i, cols - i);
	store4<vec>(row_of<Y>(y, row) + i, a, cols - i);
}

template <class X, class Y>
static cudaError_t add(nvllm_stream stream, struct nvllm_tensor x, struct nvllm_tensor d)
{
	auto kernel = fours(&x) && fours(&d) ? add_kernel<X, Y, true> : add_kernel<X, Y, false>;

	return launch(kernel, grid_of(x.rows, x.cols), block_of(x.cols), 0, stream, view_of(x), view_of(d), x.cols);
}

extern "C" int cu_add(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor x, struct nvllm_tensor d)
{
	cudaError_t err;

	if (!is_act(&x) || !is_act(&d))
		return no_type(dev, "add: x or d", is_act(&x) ? &d : &x);
	if (x.rows != d.rows || x.cols != d.cols)
		return no_fit(dev, "add", &x, &d);
	if (is_empty(&x))
		return NVLLM_OK;
	WITH_TYPES(d.dtype, x.dtype, (err = add<X, Y>(stream, x, d)));
	return check(dev, err, "add");
}

template <class X, class Y>
static cudaError_t glu(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, int act)
{
	auto kernel = fours(&y) && fours(&x) ? glu_kernel<X, Y, true> : glu_kernel<X, Y, false>;

	return launch(kernel, grid_of(y.rows, y.cols), block_of(y.cols), 0, stream, view_of(y), view_of(x), y.cols, act);
}

extern "C" int cu_glu(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, int act)
{
	cudaError_t err;

	if (!is_act(&y) || !is_act(&x))
		return no_type(dev, "glu: x or y", is_act(&y) ? &x : &y);
	if (act < NVLLM_SILU || act > NVLLM_RELU)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "glu: no activation %d", act);
	if (y.rows != x.rows || x.cols % 2 || y.cols != x.cols / 2)
		return no_fit(dev, "glu", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	WITH_TYPES(x.dtype, y.dtype, (err = glu<X, Y>(stream, y, x, act)));
	return check(dev, err, "glu");
}

template <class X, class Y>
static cudaError_t rows(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x, const int32_t *index)
{
	auto kernel = fours(&y) && fours(&x) ? rows_kernel<X, Y, true> : rows_kernel<X, Y, false>;

	return launch(kernel, grid_of(y.rows, y.cols), block_of(y.cols), 0, stream, view_of(y), view_of(x), index, x.rows,
		y.cols);
}

extern "C" int cu_rows(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const int32_t *index)
{
	cudaError_t err;

	if (!is_act(&y) || !is_act(&x))
		return no_type(dev, "rows: x or y", is_act(&y) ? &x : &y);
	if (y.cols != x.cols)
		return no_fit(dev, "rows", &y, &x);
	if (is_empty(&y))
		return NVLLM_OK;
	WITH_TYPES(x.dtype, y.dtype, (err = rows<X, Y>(stream, y, x, index)));
	return check(dev, err, "rows");
}

template <class X>
static cudaError_t convert(nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x)
{
	if (y.dtype == NVLLM_F32)
		return rows<X, float>(stream, y, x, NULL);
	return y.dtype == NVLLM_F16 ? rows<X, f16>(stream, y, x, NULL) : rows<X, bf16>(stream, y, x, NULL);
}

extern "C" int cu_convert(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dst_dtype, int64_t dst_stride,
	const void *src, int32_t src_dtype, int64_t src_stride, int64_t n, int64_t cols)
{
	struct nvllm_tensor y = {}, x = {};
	cudaError_t err;

	y.data = dst, y.rows = n, y.cols = cols, y.stride = dst_stride, y.dtype = dst_dtype;
	x.data = (void *)src, x.rows = n, x.cols = cols, x.stride = src_stride, x.dtype = src_dtype;
	if (!is_act(&y) && dst_dtype != NVLLM_F16)
		return no_type(dev, "convert: what is wanted", &y);
	if (is_empty(&y))
		return NVLLM_OK;
	switch (src_dtype) {
	case NVLLM_F32: err = convert<float>(stream, y, x); break;
	case NVLLM_F16: err = convert<f16>(stream, y, x); break;
	case NVLLM_BF16: err = convert<bf16>(stream, y, x); break;
	default: return no_type(dev, "convert: what is given", &x);
	}
	return check(dev, err, "convert");
}

/* ---- rope ---- */

/* As Hugging Face: the angle is a float product, mscale multiplies cos and sin. A block has a row:
 * its threads make the row's table of angles once for all heads. */
template <class T>
__global__ void rope_kernel(view x, const int32_t *positions, const float *inv_freq, int heads, int head_dim,
	int dims, int interleaved, float mscale)
{
	__shared__ float cs[ROPE_MAX];
	const int half = dims / 2, step = interleaved ? 2 : 1, other = interleaved ? 1 : half;
	T *row = row_of<T>(x, my_row());
	float position;

	griddep_wait();
	griddep_launch();
	position = (float)positions[my_row()];
	for (int i = threadIdx.x; i < half; i += blockDim.x) {
		float s, c;

		sincosf(position * inv_freq[i], &s, &c);
		cs[i] = c * mscale;
		cs[half + i] = s * mscale;
	}
	__syncthreads();
	for (int k = threadIdx.x; k < heads * half; k += blockDim.x) {
		const int i = k % half;
		T *p = row + (int64_t)(k / half) * head_dim + i * step;
		const float a = to_f32(p[0]), b = to_f32(p[other]);

		p[0] = from_f32<T>(a * cs[i] - b * cs[half + i]);
		p[other] = from_f32<T>(b * cs[i] + a * cs[half + i]);
	}
}

extern "C" int cu_rope(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor x, const int32_t *positions,
	int64_t head_dim, const struct nvllm_rotary *r)
{
	const float *inv_freq = (const float *)r->inv_freq.data;

	if (!is_act(&x) || (r->dims && r->inv_freq.dtype != NVLLM_F32))
		return no_type(dev, "rope: x or inv_freq", is_act(&x) ? &r->inv_freq : &x);
	if (r->dims == 0 || is_empty(&x))
		return NVLLM_OK;
	if (head_dim < 1 || x.cols % head_dim || r->dims < 0 || r->dims % 2 || r->dims > head_dim || r->dims > ROPE_MAX)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "rope: cannot turn %d elements (at most %d, even) of heads of "
			"%lld in rows of %lld", r->dims, ROPE_MAX, (long long)head_dim, (long long)x.cols);
	if (r->inv_freq.cols != r->dims / 2)
		return no_fit(dev, "rope: inv_freq", &r->inv_freq, &x);
	return check(dev, launch(x.dtype == NVLLM_F32 ? rope_kernel<float> : rope_kernel<bf16>, dim3((unsigned)x.rows),
		dim3(BLOCK), 0, stream, view_of(x), positions, inv_freq, (int)(x.cols / head_dim), (int)head_dim, (int)r->dims,
		(int)r->interleaved, (float)r->mscale), "rope");
}

/* ---- advance ---- */

/* A slot makes at most one token a step, so threads do not meet. The token's place in its
 * sequence's history is the one after the row that made its logits. */
static __global__ void advance_kernel(const int32_t *tokens, const int32_t *logit_slots, const int32_t *logit_rows,
	const int32_t *positions, int n_logits, int n_slots, int32_t *last_token, int32_t *n_left, int32_t *done,
	const int32_t *stop_ids, int32_t *history, int history_len)
{
	const int i = blockIdx.x * blockDim.x + threadIdx.x;
	int32_t s, t, left;
	bool stop;

	griddep_wait();
	griddep_launch();
	s = i < n_logits ? logit_slots[i] : -1;
	if (s < 0 || s >= n_slots || done[s])
		return;
	t = tokens[i];
	left = n_left[s] - 1;
	stop = left == 0;
	for (int k = 0; k < NVLLM_STOP_IDS; k++) {
		const int32_t id = stop_ids[(int64_t)s * NVLLM_STOP_IDS + k];

		stop |= id >= 0 && id == t;
	}
	last_token[s] = t;
	n_left[s] = left;
	done[s] = stop;
	if (history) {
		const int64_t at = (int64_t)positions[logit_rows[i]] + 1;

		if (at < history_len)
			history[(int64_t)s * history_len + at] = t;
	}
}

extern "C" int cu_advance(struct nvllm_device *dev, nvllm_stream stream, const struct nvllm_batch *b, const int32_t *tokens)
{
	const struct nvllm_slots *st = b->state;
	const bool kept = NVLLM_HAS(st, history_len) && st->history;

	if (b->n_logits < 1)
		return NVLLM_OK;
	return check(dev, launch(advance_kernel, dim3((unsigned)((b->n_logits + 127) / 128)), dim3(128), 0, stream, tokens,
		b->logit_slots, b->logit_rows, b->positions, (int)b->n_logits, (int)st->n_slots, st->last_token, st->n_left,
		st->done, st->stop_ids, kept ? st->history : NULL, kept ? (int)st->history_len : 0), "advance");
}

/* ---- random weights ---- */

/* Two normal numbers from two uniform ones (Box and Muller 1958), for columns 2i and 2i + 1. The
 * counter is (i, row, plane), so that a matrix may be made in pieces. */
template <class T>
__global__ void random_kernel(view y, int64_t cols, int64_t first, int32_t plane, uint64_t seed, float mean, float std)
{
	const int64_t row = my_row();
	const uint64_t at = (uint64_t)(first + row);

	griddep_wait();
	for (int64_t i = (int64_t)blockIdx.y * BLOCK + threadIdx.x; 2 * i < cols; i += (int64_t)gridDim.y * BLOCK) {
		uint32_t c[4] = { (uint32_t)i, (uint32_t)at, (uint32_t)(at >> 32), (uint32_t)plane };
		float r, s, k;

		nvllm_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
		/* uniform in (0, 1]: its logarithm is finite */
		r = std * sqrtf(-2.f * logf(((float)(c[0] >> 8) + 1.f) * 5.9604645e-8f));
		sincosf(6.28318531f * ((float)(c[1] >> 8) * 5.9604645e-8f), &s, &k);
		row_of<T>(y, row)[2 * i] = from_f32<T>(mean + r * k);
		if (2 * i + 1 < cols)
			row_of<T>(y, row)[2 * i + 1] = from_f32<T>(mean + r * s);
	}
}

extern "C" int cu_fill_random(struct nvllm_device *dev, nvllm_stream stream, void *dst, int32_t dtype, int64_t stride,
	int64_t n, int64_t cols, int64_t row, int32_t plane, uint64_t seed, double mean, double std)
{
	const int64_t blocks = (cols + 2 * BLOCK - 1) / (2 * BLOCK);
	const dim3 grid((unsigned)n, (unsigned)(blocks < 4096 ? blocks : 4096));
	struct nvllm_tensor y = {};

	y.data = dst, y.rows = n, y.cols = cols, y.stride = stride, y.dtype = dtype;
	if (!is_act(&y))
		return no_type(dev, "random: what is wanted", &y);
	if (is_empty(&y))
		return NVLLM_OK;
	return check(dev, launch(dtype == NVLLM_F32 ? random_kernel<float> : random_kernel<bf16>, grid, dim3(BLOCK), 0,
		stream, view_of(y), cols, row, plane, seed, (float)mean, (float)std), "random numbers");
}
