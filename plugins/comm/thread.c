/* SPDX-License-Identifier: MIT */
/* comm thread: ranks are threads of one process, and read and write each other's buffers.
 *
 * A call has two barriers. Before the first each rank says what it brings; between them
 * all compare what was brought and do their share; after the second the buffers are
 * their owners' again. Only the first can wait in vain, since whoever has passed it comes
 * to the second: so it alone has a time limit, and no rank leaves a buffer that another
 * still reads. A group whose limit ran out, or that a rank has left, is broken for good. */
#include <string.h>

#include <nvllm/plugin.h>

#include "thread.h"

#define LINE 16        /* f32 in a cache line: ranks share elements out by these */
#define BLOCK 64       /* elements summed in registers */

struct conf { int64_t timeout; };

enum op { ALL_REDUCE, ALL_GATHER };
static const char *const op_names[] = { "all_reduce", "all_gather" };

/* ---- what the ranks brought ---- */

static bool sound(const struct nvllm_tensor *t)
{
	int64_t bytes;

	if (t->dtype != NVLLM_F32 || t->rows < 0 || t->cols < 0)
		return false;
	if (!t->rows || !t->cols)
		return true;
	if (!t->data || (uintptr_t)t->data % 4 || __builtin_mul_overflow(t->cols, 4, &bytes))
		return false;
	return t->rows == 1 ||
		(t->stride >= bytes && t->stride % 4 == 0 && !__builtin_mul_overflow(t->rows, t->stride, &bytes));
}

/* One rank's offer beside rank 0's. All ranks look at the same offers, so they agree. */
static int check_offer(const struct nvllm_comm *c, int r, int64_t columns)
{
	const struct offer *a = &c->hub->offer[0], *b = &c->hub->offer[r];
	const struct nvllm_tensor *t = sound(&b->x) ? &b->y : &b->x; /* the one that may be wrong */
	const struct nvllm_host *host = c->host;

	if (a->op != b->op)
		return host->fail(host, NVLLM_EINVAL, "rank %d calls %s where rank 0 calls %s: every rank must make the same "
			"calls", r, op_names[b->op], op_names[a->op]);
	if (!sound(t))
		return host->fail(host, NVLLM_EINVAL, "%s: rank %d brings no f32 matrix: [%lld][%lld] of type number %d, rows "
			"%lld bytes apart", op_names[a->op], r, (long long)t->rows, (long long)t->cols, t->dtype,
			(long long)t->stride);
	if (a->x.rows != b->x.rows || (a->op == ALL_REDUCE && a->x.cols != b->x.cols))
		return host->fail(host, NVLLM_EINVAL, "%s: rank %d brings [%lld][%lld], rank 0 [%lld][%lld]", op_names[a->op], r,
			(long long)b->x.rows, (long long)b->x.cols, (long long)a->x.rows, (long long)a->x.cols);
	if (a->op == ALL_GATHER && (b->y.rows != b->x.rows || b->y.cols != columns))
		return host->fail(host, NVLLM_EINVAL, "all_gather: rank %d has room for [%lld][%lld], the ranks bring [%lld][%lld]",
			r, (long long)b->y.rows, (long long)b->y.cols, (long long)b->x.rows, (long long)columns);
	return NVLLM_OK;
}

static int check(const struct nvllm_comm *c)
{
	int64_t columns = 0;
	int rc = NVLLM_OK;

	for (int r = 0; r < c->world; r++)
		if (__builtin_add_overflow(columns, c->hub->offer[r].x.cols, &columns))
			columns = -1;
	for (int r = 0; r < c->world && !rc; r++)
		rc = check_offer(c, r, columns);
	return rc;
}

/* ---- all_reduce ---- */

/* n elements at x[0], x[1], ...: their sum in that order to each. */
static inline __attribute__((always_inline)) void sum_block(float *const *x, int world, int64_t n)
{
	float sum[BLOCK];

	memcpy(sum, x[0], (size_t)n * sizeof(*sum));
	for (int r = 1; r < world; r++) {
		const float *v = x[r];

		for (int64_t i = 0; i < n; i++)
			sum[i] += v[i];
	}
	for (int r = 0; r < world; r++)
		memcpy(x[r], sum, (size_t)n * sizeof(*sum));
}

static void sum_run(const struct hub *h, int64_t row, int64_t col, int64_t n)
{
	float *x[MAX_WORLD];

	for (int r = 0; r < h->world; r++)
		x[r] = (float *)((char *)h->offer[r].x.data + row * h->offer[r].x.stride) + col;
	for (; n > 0; n -= BLOCK) {
		if (n >= BLOCK)
			sum_block(x, h->world, BLOCK); /* a constant: vector code */
		else
			sum_block(x, h->world, n);
		for (int r = 0; r < h->world; r++)
			x[r] += n < BLOCK ? n : BLOCK;
	}
}

/* This rank's share of the elements: cache lines, about as many as the others'. */
static void reduce(const struct nvllm_comm *c)
{
	int64_t cols = c->hub->offer[0].x.cols, total = c->hub->offer[0].x.rows * cols;
	int64_t lines = (total + LINE - 1) / LINE, at = lines * c->rank / c->world * LINE;
	int64_t end = lines * (c->rank + 1) / c->world * LINE;

	end = end < total ? end : total;
	while (at < end) {
		int64_t col = at % cols, n = cols - col < end - at ? cols - col : end - at;

		sum_run(c->hub, at / cols, col, n);
		at += n;
	}
}

/* ---- all_gather ---- */

/* Each rank fills its own y. */
static void gather(const struct nvllm_comm *c)
{
	const struct nvllm_tensor *y = &c->hub->offer[c->rank].y;
	int64_t at = 0;

	for (int r = 0; r < c->world; r++) {
		const struct nvllm_tensor *x = &c->hub->offer[r].x;

		for (int64_t i = 0; x->cols && i < y->rows; i++) {
			const float *from = (const float *)((const char *)x->data + i * x->stride);
			float *to = (float *)((char *)y->data + i * y->stride) + at;

			if (to != from) /* it may be there already */
				memcpy(to, from, (size_t)x->cols * sizeof(*to));
		}
		at += x->cols;
	}
}

static int call(struct nvllm_comm *c, int op, struct nvllm_tensor x, struct nvllm_tensor y)
{
	struct offer *o = &c->hub->offer[c->rank];
	int rc;

	o->op = op;
	o->x = x;
	o->y = y;
	atomic_store_explicit(&o->calls, ++c->calls, memory_order_relaxed);
	if (hub_barrier(c, true))
		return hub_broken(c, op_names[op]);
	rc = check(c);
	if (!rc && op == ALL_REDUCE)
		reduce(c);
	else if (!rc)
		gather(c);
	(void)hub_barrier(c, false);
	return rc;
}

static int all_reduce(struct nvllm_comm *c, nvllm_stream s, struct nvllm_tensor x)
{
	(void)s;
	return call(c, ALL_REDUCE, x, (struct nvllm_tensor){ .dtype = NVLLM_F32 });
}

static int all_gather(struct nvllm_comm *c, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x)
{
	(void)s;
	return call(c, ALL_GATHER, x, y);
}

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev, const uint8_t id[NVLLM_COMM_ID_BYTES],
	int32_t rank, int32_t world, const void *conf, struct nvllm_comm **out)
{
	const struct conf *o = conf;
	struct nvllm_comm *c;
	int rc;

	if (world < 1 || world > MAX_WORLD || rank < 0 || rank >= world)
		return host->fail(host, NVLLM_EINVAL, "rank %d of %d: a group of threads has 1 to %d ranks", rank, world, MAX_WORLD);
	if (dev->info->caps & (NVLLM_DEV_ASYNC | NVLLM_DEV_GRAPHS))
		return host->fail(host, NVLLM_ENOTSUP, "comm 'thread' sums at once, and the device '%s' queues its work: set "
			"[comm] plugin to one that is made for it", dev->info->name);
	c = host->alloc(host, sizeof(*c));
	if (!c)
		return NVLLM_ENOMEM;
	*c = (struct nvllm_comm){ .host = host, .timeout = o->timeout, .rank = rank, .world = world };
	rc = hub_join(c, id, dev->info->n_workers);
	if (!rc)
		*out = c;
	return rc;
}

static void destroy(struct nvllm_comm *c)
{
	if (c)
		hub_leave(c);
}

static const struct nvllm_comm_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_HOST_MEM, .make_id = hub_make_id, .create = create, .destroy = destroy,
	.all_reduce = all_reduce, .all_gather = all_gather,
};

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, timeout, "timeout", "60", 1, 3600, "seconds to wait for the other ranks before giving up"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_COMM, .name = "thread",
	.summary = "ranks are threads of this process, on host memory", .vt = &vt,
	.options = options, .conf_size = sizeof(struct conf),
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "thread", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
