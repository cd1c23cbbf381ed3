/* SPDX-License-Identifier: MIT */
/* A mixture of experts: which experts a row goes to, how the rows are grouped by expert without the host
 * knowing how many each got, and which routine computes a product.
 *
 * Rows up to SMALL: the choices are made and sorted by one block, the weights of each chosen expert are read
 * once, and the last product sums the choices too: four launches. More rows: tiles of rows of
 * one expert, with a grid for the most tiles there can be; blocks without a tile leave at once.
 *
 * The caller's scratch, with R = T * n_top, holds in this order
 *   made    [R][dim] f32   what the experts make of the rows, by place
 *   hidden  [R][2 ffn] f32, of which act(gate) * up takes the first half, f32 or bf16
 *   weight, expert, place, source   [R] each: two of a choice, its place, and the choice at a place
 *   p       [T][experts] f32   the router's logits; once all have chosen: the tiles */
#include "moe.cuh"
#include "quant.cuh"

#define BLOCK 256
#define EXPERTS 512      /* most: 16 a lane */
#define GROUP_BLOCK 512

struct choices {
	float *p;                 /* [n_rows][n_experts] */
	float *weight;
	int32_t *expert, *place, *source, *tiles;
	int n_rows, n_experts, n_top, norm;
	int most;                 /* rows of a tile */
};

/* ---- choosing ---- */

/* Is (v, id) before (w, other)? The larger, of equals (and of NaNs, which then all are) the lower number. */
DEV bool before(float v, int id, float w, int other)
{
	return v > w || (!(w > v) && id < other);
}

/* The warp's row of logits becomes probabilities, softmax as torch's, and the likeliest are chosen. */
DEV void choose(const struct choices *c, int row)
{
	const float *p = c->p + (int64_t)row * c->n_experts;
	float *const weight = c->weight + (int64_t)row * c->n_top;
	const int lane = threadIdx.x % 32;
	float v[EXPERTS / 32], most = -INFINITY, sum = 0.f;
	uint32_t gone = 0;

#pragma unroll
	for (int i = 0; i < EXPERTS / 32; i++) {
		v[i] = lane + 32 * i < c->n_experts ? p[lane + 32 * i] : -INFINITY;
		most = fmaxf(most, v[i]);
	}
	most = warp_max(most);
#pragma unroll
	for (int i = 0; i < EXPERTS / 32; i++) {
		v[i] = lane + 32 * i < c->n_experts ? expf(v[i] - most) : 0.f;
		sum += v[i];
	}
	sum = warp_sum(sum);
#pragma unroll
	for (int i = 0; i < EXPERTS / 32; i++)
		v[i] /= sum;
	sum = 0.f;
	for (int k = 0; k < c->n_top; k++) {
		float best = -1.f;
		int id = EXPERTS;

#pragma unroll
		for (int i = 0; i < EXPERTS / 32; i++)
			if (lane + 32 * i < c->n_experts && !(gone >> i & 1) && before(v[i], lane + 32 * i, best, id))
				best = v[i], id = lane + 32 * i;
		for (int o = 16; o; o >>= 1) {
			const float w = __shfl_xor_sync(0xffffffffu, best, o);
			const int other = __shfl_xor_sync(0xffffffffu, id, o);

			if (before(w, other, best, id))
				best = w, id = other;
		}
		if (id % 32 == lane)
			gone |= 1u << id / 32;
		if (lane == 0) {
			c->expert[(int64_t)row * c->n_top + k] = id;
			weight[k] = best;
		}
		sum += best;
	}
	__syncwarp();
	for (int k = lane; k < c->n_top && c->norm; k += 32)
		weight[k] /= sum;
}

static __global__ void moe_choose_kernel(struct choices c)
{
	const int row = (int)(blockIdx.x * (BLOCK / 32) + threadIdx.x / 32);

	griddep_wait();
	griddep_launch();
	if (row < c.n_rows)
		choose(&c, row);
}

/* Both at once for few rows, by one block. Here tiles begin at the place of their number: that of the
 * first choice of an expert stands for all of them. */
static __global__ void moe_choose_few_kernel(struct choices c)
{
	const int n = c.n_rows * c.n_top;

	griddep_wait();
	griddep_launch();
	for (int row = threadIdx.x / 32; row < c.n_rows; row += BLOCK / 32)
		choose(&c, row);
	__syncthreads(); /* what the block wrote to memory is there for its threads */
	for (int i = threadIdx.x; i < n; i += BLOCK) {
		const int e = c.expert[i];
		int at = 0, earlier = 0, same = 0;

		for (int j = 0; j < n; j++) {
			const int other = c.expert[j];

			at += other < e || (other == e && j < i);
			earlier += other == e && j < i;
			same += other == e;
		}
		c.place[i] = at;
		c.source[at] = i;
		c.tiles[at] = earlier ? -1 : e << 16 | same;
	}
}

/* A counting sort, a block for each expert: it counts the choices before its own, and then gives its own
 * their places in the order of the choices. Each thread has a run of neighbouring choices. */
static __global__ void moe_group_kernel(struct choices c)
{
	__shared__ int sums[2][GROUP_BLOCK / 32];
	const int e = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	const int n = c.n_rows * c.n_top, each = (n + GROUP_BLOCK - 1) / GROUP_BLOCK;
	const int from = min((int)threadIdx.x * each, n), to = min(from + each, n);
	int less = 0, mine = 0, before_me, first = 0, total = 0;

	griddep_wait();
	griddep_launch();
	for (int i = from; i < to; i++) {
		less += c.expert[i] < e;
		mine += c.expert[i] == e;
	}
	before_me = mine;
	for (int o = 1; o < 32; o <<= 1) {
		const int other = __shfl_up_sync(0xffffffffu, before_me, o);

		before_me += lane >= o ? other : 0;
	}
	for (int o = 16; o; o >>= 1)
		less += __shfl_xor_sync(0xffffffffu, less, o);
	if (lane == 31)
		sums[0][warp] = before_me, sums[1][warp] = less;
	before_me -= mine;
	__syncthreads();
	for (int i = 0; i < GROUP_BLOCK / 32; i++) {
		before_me += i < warp ? sums[0][i] : 0;
		total += sums[0][i];
		first += sums[1][i];
	}
	for (int i = from, at = first + before_me; i < to; i++)
		if (c.expert[i] == e) {
			c.place[i] = at;
			c.source[at++] = i;
		}
	/* the tiles of this expert, and those that nobody has before the next one's; see tile_of() */
	for (int t = first / c.most + e + threadIdx.x, end = (first + total) / c.most + e + 1; t < end; t += GROUP_BLOCK) {
		const int left = total - (t - first / c.most - e) * c.most;

		c.tiles[t] = left < 1 ? -1 : e << 16 | (first % c.most) << 8 | min(left, c.most);
	}
}

/* ---- the sum ---- */

template <bool vec>
__global__ void moe_sum_kernel(view y, const float *made, struct choices c, int64_t cols)
{
	const int64_t row = blockIdx.x, i = ((int64_t)blockIdx.y * BLOCK + threadIdx.x) * 4;
	float sum[4] = { 0.f, 0.f, 0.f, 0.f }, v[4];

	griddep_wait();
	griddep_launch();
#pragma unroll 4
	for (int k = 0; k < c.n_top; k++) {
		const float w = c.weight[row * c.n_top + k];

		load4<vec>(v, made + (int64_t)c.place[row * c.n_top + k] * cols + i, cols - i);
		for (int j = 0; j < 4; j++)
			sum[j] += w * v[j];
	}
	store4<vec>(row_of<float>(y, row) + i, sum, cols - i);
}

static __global__ void moe_zero_kernel(view y, int64_t cols)
{
	const int64_t i = (int64_t)blockIdx.y * BLOCK + threadIdx.x;

	griddep_wait();
	if (i < cols)
		row_of<float>(y, blockIdx.x)[i] = 0.f;
}

static dim3 over(int64_t rows, int64_t cols, int each)
{
	return dim3((unsigned)rows, (unsigned)((cols + BLOCK * each - 1) / (BLOCK * each)));
}

/* ---- the host's side ---- */

/* A call, laid out. */
struct job {
	nvllm_stream stream;
	struct nvllm_tensor y, x;
	const struct nvllm_moe *m;
	struct choices c;
	float *made;
	char *hidden;
	int64_t ffn, n_places;
	bool mma;                 /* hidden is bf16, and the matrix units do the work */
	int n_tiles;
};

/* Do rows start at multiples of 16 bytes? */
static bool in_16(const void *data, int64_t stride, int64_t plane_stride)
{
	return ((uintptr_t)data % 16 | (uintptr_t)stride % 16 | (uintptr_t)plane_stride % 16) == 0;
}

/* Of numbers, each row starts at a multiple of 16 bytes: store() sees to it. */
static bool is_weight(const struct nvllm_tensor *w)
{
	return stored_bytes(w) >= 0 && (is_blocks(w->dtype) || ((is_act(w) || w->dtype == NVLLM_F8_E4M3) &&
		in_16(w->data, w->stride, w->planes > 1 ? w->plane_stride : 0)));
}

static bool for_mma(const struct nvllm_tensor *w)
{
	return is_coded(w->dtype) || (w->dtype == NVLLM_BF16 && w->cols % 8 == 0);
}

static struct product product_of(const struct job *j, const struct nvllm_tensor *w)
{
	struct product p = {};

	p.w = view_of(*w), p.plane_stride = w->planes > 1 ? w->plane_stride : 0;
	p.tiles = j->c.tiles, p.source = j->c.source;
	p.by_place = j->x.rows <= SMALL;
	p.n_rows = (int)j->x.rows, p.cols = (int)w->cols, p.out = (int)w->rows;
	p.act = -1;
	return p;
}

static cudaError_t route(const struct job *j)
{
	const struct nvllm_tensor *r = &j->m->router;
	struct product p = product_of(j, r);
	int64_t tiles = (j->x.rows + 63) / 64;

	p.x = view_of(j->x), p.vec = in_16(j->x.data, j->x.stride, 0);
	p.y = view{ (char *)j->c.p, r->rows * 4 };
	p.tiles = NULL;
	/* the matrix units pay once there are enough rows for all of them */
	if (j->mma && for_mma(r) && j->x.rows >= 1024)
		return moe_mma(j->stream, p, r->dtype, (int)tiles, 64);
	return moe_route(j->stream, p, r->dtype, j->x.dtype);
}

static cudaError_t first_product(const struct job *j)
{
	struct product p = product_of(j, &j->m->gate_up);

	p.x = view_of(j->x), p.vec = in_16(j->x.data, j->x.stride, 0);
	p.y = view{ j->hidden, j->ffn * (j->mma ? 2 : 4) };
	p.out = (int)j->ffn, p.per = j->m->n_top, p.act = j->m->act;
	if (j->mma)
		return moe_mma(j->stream, p, j->m->gate_up.dtype, j->n_tiles, j->c.most);
	return moe_dot(j->stream, p, j->m->gate_up.dtype, j->x.dtype, j->n_tiles);
}

static cudaError_t second_product(const struct job *j)
{
	struct product p = product_of(j, &j->m->down);
	struct last_product l;

	p.x = view{ j->hidden, j->ffn * (j->mma ? 2 : 4) };
	p.vec = in_16(p.x.p, p.x.stride, 0);
	p.y = view{ (char *)j->made, j->x.cols * 4 };
	if (j->mma)
		return moe_mma(j->stream, p, j->m->down.dtype, j->n_tiles, j->c.most);
	if (!p.by_place || !moe_last_fits(j->n_places))
		return moe_dot(j->stream, p, j->m->down.dtype, NVLLM_F32, j->n_tiles);
	p.y = view_of(j->y);
	l.p = p, l.weight = j->c.weight, l.place = j->c.place;
	l.n_top = j->m->n_top, l.n_places = (int)j->n_places;
	return moe_last(j->stream, l, j->m->down.dtype);
}

static cudaError_t choose(const struct job *j)
{
	const struct choices *c = &j->c;
	cudaError_t err;

	if (c->n_rows <= SMALL)
		return launch(moe_choose_few_kernel, dim3(1), dim3(BLOCK), 0, j->stream, *c);
	err = launch(moe_choose_kernel, dim3((unsigned)((c->n_rows + BLOCK / 32 - 1) / (BLOCK / 32))), dim3(BLOCK), 0, j->stream, *c);
	return err != cudaSuccess ? err :
		launch(moe_group_kernel, dim3((unsigned)c->n_experts), dim3(GROUP_BLOCK), 0, j->stream, *c);
}

static cudaError_t sum(const struct job *j)
{
	const bool vec = fours(&j->y) && (uintptr_t)j->made % 16 == 0;

	return launch(vec ? moe_sum_kernel<true> : moe_sum_kernel<false>, over(j->y.rows, j->y.cols, 4), dim3(BLOCK), 0,
		j->stream, view_of(j->y), (const float *)j->made, j->c, j->y.cols);
}

static cudaError_t run(const struct job *j)
{
	cudaError_t err;

	if ((err = route(j)) != cudaSuccess || (err = choose(j)) != cudaSuccess ||
			(err = first_product(j)) != cudaSuccess || (err = second_product(j)) != cudaSuccess)
		return err;
	return j->x.rows <= SMALL && moe_last_fits(j->n_places) ? cudaSuccess : sum(j);
}

/* The parts of the scratch, and the size of tiles: the larger, the fewer times a weight is read. */
static void lay_out(struct job *j, float *s)
{
	const struct nvllm_moe *m = j->m;
	const int64_t dim = j->x.cols, R = j->n_places, each = R / m->router.rows;
	struct choices *c = &j->c;

	j->mma = j->x.rows > SMALL && j->x.dtype == NVLLM_BF16 && for_mma(&m->gate_up) && for_mma(&m->down) &&
		j->ffn % 8 == 0 && in_16(j->x.data, j->x.stride, 0);
	c->n_rows = (int)j->x.rows, c->n_experts = (int)m->router.rows, c->n_top = m->n_top, c->norm = m->norm_topk;
	c->most = !j->mma ? SMALL : each >= 48 ? 128 : each >= 12 ? 64 : 16;
	j->n_tiles = (int)(j->x.rows <= SMALL ? R : R / c->most + c->n_experts);
	j->made = s;
	/* rounded up: half of that part is to spare, and there are three numbers in it where it matters */
	j->hidden = (char *)(((uintptr_t)(s + R * dim) + 15) & ~(uintptr_t)15);
	if (j->ffn < 4)
		j->hidden = (char *)(s + R * dim);
	s += R * (dim + 2 * j->ffn);
	c->weight = s, c->expert = (int32_t *)s + R, c->place = c->expert + R, c->source = c->place + R;
	c->p = s + 4 * R;
	c->tiles = (int32_t *)c->p; /* at least as many numbers: R, or R / most + experts, of more than SMALL rows */
}

static bool planes_lie(const struct nvllm_tensor *w, int64_t n)
{
	const int64_t planes = w->planes > 0 ? w->planes : 1;

	return planes == n && (n == 1 || w->rows == 0 || w->cols == 0 || w->plane_stride >= w->rows * w->stride);
}

static int check_shapes(struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_moe *m)
{
	const struct nvllm_host *host = dev->host;
	const struct nvllm_tensor *r = &m->router, *g = &m->gate_up, *d = &m->down;

	if (m->n_top < 1 || m->n_top > r->rows || r->rows > EXPERTS)
		return host->fail(host, NVLLM_ENOTSUP, "moe: %d of %lld experts cannot be chosen: there is a kernel for up to %d "
			"experts", m->n_top, (long long)r->rows, EXPERTS);
	if (m->act < NVLLM_SILU || m->act > NVLLM_RELU)
		return host->fail(host, NVLLM_ENOTSUP, "moe: no activation %d", m->act);
	if (y->rows != x->rows || y->cols != x->cols || r->cols != x->cols || g->cols != x->cols || d->rows != x->cols ||
			d->cols < 0 || g->rows / 2 != d->cols || g->rows % 2 || !planes_lie(g, r->rows) || !planes_lie(d, r->rows))
		return host->fail(host, NVLLM_EINVAL, "moe: shapes do not fit: x [%lld][%lld], router [%lld][%lld], gate and up "
			"%d of [%lld][%lld], down %d of [%lld][%lld]", (long long)x->rows, (long long)x->cols, (long long)r->rows,
			(long long)r->cols, g->planes, (long long)g->rows, (long long)g->cols, d->planes, (long long)d->rows,
			(long long)d->cols);
	return NVLLM_OK;
}

static int check_types(struct nvllm_device *dev, const struct nvllm_tensor *y, const struct nvllm_tensor *x,
	const struct nvllm_moe *m)
{
	if (y->dtype != NVLLM_F32 || !is_act(x))
		return no_type(dev, "moe: x or y", is_act(x) ? y : x);
	const struct nvllm_tensor *const w[] = { &m->router, &m->gate_up, &m->down };

	for (int i = 0; i < 3; i++)
		if ((i == 0 || m->down.cols) && !is_weight(w[i]))
			return dev->host->fail(dev->host, NVLLM_ENOTSUP, "moe: %s, of type number %d and layout %d, rows of %lld "
				"columns %lld bytes apart at %p, has no kernel here: it takes f32 and bf16 with rows at multiples of 16 "
				"bytes, and the block formats that store() keeps", i == 0 ? "the router" : i == 1 ? "gate and up" : "down",
				w[i]->dtype, w[i]->layout, (long long)w[i]->cols, (long long)w[i]->stride, w[i]->data);
	return NVLLM_OK;
}

extern "C" int cu_moe(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_moe *m, struct nvllm_tensor scratch)
{
	struct job j = {};
	cudaError_t err;
	int rc;

	if ((rc = check_shapes(dev, &y, &x, m)) || (rc = check_types(dev, &y, &x, m)))
		return rc;
	if (is_empty(&y))
		return NVLLM_OK;
	j.stream = stream, j.y = y, j.x = x, j.m = m, j.ffn = m->down.cols, j.n_places = x.rows * m->n_top;
	if (j.ffn == 0) { /* another rank's */
		err = launch(moe_zero_kernel, over(y.rows, y.cols, 1), dim3(BLOCK), 0, stream, view_of(y), y.cols);
		return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "moe");
	}
	if (!m->gate_up.data || !m->down.data || !m->router.data)
		return dev->host->fail(dev->host, NVLLM_EINVAL, "moe: no weights: the router lies at %p, gate and up at %p, down "
			"at %p", m->router.data, m->gate_up.data, m->down.data);
	if (!scratch.data || scratch.dtype != NVLLM_F32 || scratch.rows < 1 || scratch.cols < nvllm_moe_scratch(x.rows, m) ||
			j.n_places > 1 << 23)
		return dev->host->fail(dev->host, NVLLM_EINVAL, "moe: scratch of [%lld][%lld] at %p is too small for %lld rows: "
			"see nvllm_moe_scratch()", (long long)scratch.rows, (long long)scratch.cols, scratch.data, (long long)x.rows);
	lay_out(&j, (float *)scratch.data);
	err = run(&j);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "moe");
}
