/* SPDX-License-Identifier: MIT */
/* tests/conform/comm.c - collectives: ranks are threads of this process, each with its own
 * device. Sums against sums in rank order bit for bit, the same bits on all ranks and
 * again, columns in rank order, nothing written outside, calls without a pause, and a rank
 * that does not come. */
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define MAX_WORLD 4
#define N_SHAPES  20 /* each called twice */
#define N_CALLS   (2 * N_SHAPES)
#define N_FAST    3000
#define FAST_COLS 37

struct mat { struct nvllm_tensor t; int64_t bytes; };

struct crank {
	struct nvllm_host host;  /* first: found again from a host */
	char said[512];
	struct nvllm_device_info info;
	struct nvllm_device_ref dev;
	struct cgroup *group;
	struct nvllm_comm *comm;
	pthread_t thread;
	int32_t rank;
	int status, created;     /* of the phase; of create() */
	char wrong[256];         /* what the phase found; "" = nothing */
	struct mat x[N_CALLS], y[N_CALLS];
};

struct cgroup {
	const struct nvllm_comm_vt *vt;
	const void *conf;
	int32_t world;
	bool stop;
	uint8_t id[NVLLM_COMM_ID_BYTES];
	void (*phase)(struct crank *);
	pthread_barrier_t gate;
	struct crank rank[MAX_WORLD];
};

/* ---- a host for each rank: the suite's own keeps one sentence and takes one caller ---- */

static pthread_mutex_t alloc_lock = PTHREAD_MUTEX_INITIALIZER;

static struct crank *crank_of(const struct nvllm_host *h) { return (struct crank *)(uintptr_t)h; }

static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...) { (void)h, (void)level, (void)fmt; }

static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	struct crank *r = crank_of(h);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->said, sizeof(r->said), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	void *p;

	(void)h;
	if (ck_in_step()) {
		ck_step_note("host->alloc");
		return NULL;
	}
	pthread_mutex_lock(&alloc_lock);
	p = gmem_get("memory of host->alloc", (int64_t)bytes, 64);
	pthread_mutex_unlock(&alloc_lock);
	return p ? memset(p, 0, bytes) : NULL;
}

static const void *host_get(const struct nvllm_host *h, const char *id) { (void)h, (void)id; return NULL; }

/* ---- ranks ---- */

/* Comes when all ranks and the suite have come. */
static void gate(struct cgroup *g) { pthread_barrier_wait(&g->gate); }

static void *live(void *arg)
{
	struct crank *r = arg;
	struct cgroup *g = r->group;

	r->created = g->vt->create(&r->host, &r->dev, g->id, r->rank, g->world, g->conf, &r->comm);
	for (gate(g);; gate(g)) {
		gate(g); /* a phase begins */
		if (g->stop)
			break;
		g->phase(r);
	}
	if (r->created == NVLLM_OK && NVLLM_HAS(g->vt, destroy) && g->vt->destroy)
		g->vt->destroy(r->comm);
	return NULL;
}

/* One [step] phase on every rank. */
static void group_run(struct cgroup *g, void (*phase)(struct crank *))
{
	for (int i = 0; i < g->world; i++) {
		g->rank[i].status = 0;
		g->rank[i].wrong[0] = g->rank[i].said[0] = 0;
	}
	g->phase = phase;
	ck_step_begin();
	gate(g);
	gate(g);
	ck_step_end();
}

static void group_close(struct cgroup *g)
{
	g->stop = true;
	gate(g);
	for (int i = 0; i < g->world; i++)
		pthread_join(g->rank[i].thread, NULL);
	pthread_barrier_destroy(&g->gate);
	for (int i = 0; i < g->world; i++)
		for (int k = 0; k < N_CALLS; k++) {
			gmem_put(g->rank[i].x[k].t.data);
			gmem_put(g->rank[i].y[k].t.data);
		}
	free(g);
}

static void rank_init(struct cgroup *g, int i)
{
	struct crank *r = &g->rank[i];
	const struct nvllm_device_ref *d = fake_device();

	r->group = g;
	r->rank = i;
	r->host = (struct nvllm_host){ .size = sizeof(r->host), .abi = NVLLM_ABI, .rank = i, .world = g->world,
		.log = host_log, .fail = host_fail, .alloc = host_alloc, .get = host_get };
	r->info = *d->info;
	r->info.n_workers = g->world % 2 ? 1 : 64; /* whether a rank has a core of its own */
	r->dev = *d;
	r->dev.info = &r->info;
}

/* NULL after a failed check. */
static struct cgroup *group_open(const struct nvllm_component *c, int world, const char *const *extra)
{
	struct cgroup *g = calloc(1, sizeof(*g));
	int err, status, failed = -1;

	g->vt = c->vt;
	g->world = world;
	g->conf = ck_conf(c, extra, &err);
	for (int i = 0; i < world; i++)
		rank_init(g, i);
	status = err ? 0 : g->vt->make_id(&g->rank[0].host, g->id);
	if (err || status) {
		ck_bad("make_id returned %d: %s", status, g->rank[0].said);
		free(g);
		return NULL;
	}
	pthread_barrier_init(&g->gate, NULL, (unsigned)world + 1);
	for (int i = 0; i < world; i++)
		if (pthread_create(&g->rank[i].thread, NULL, live, &g->rank[i]))
			abort();
	gate(g);
	for (int i = 0; i < world; i++)
		failed = g->rank[i].created ? i : failed;
	if (failed < 0)
		return g;
	ck_bad("create on rank %d of %d returned %d: %s", failed, world, g->rank[failed].created, g->rank[failed].said);
	group_close(g);
	return NULL;
}

/* Fails the running check with what a rank of the phase met. */
static void report(const struct cgroup *g)
{
	for (int i = 0; i < g->world; i++) {
		const struct crank *r = &g->rank[i];

		if (r->status)
			ck_bad("rank %d of %d: a call returned %d: %s", i, g->world, r->status, r->said);
		else if (r->wrong[0])
			ck_bad("rank %d of %d: %s", i, g->world, r->wrong);
	}
}

/* ---- numbers ---- */

/* Of many sizes, so that an order of summing shows; some not finite. */
static float value(int rank, int call, int64_t i)
{
	static const float odd[] = { INFINITY, -INFINITY, NAN, -0.0f, 1e-40f };
	struct rng r = { (uint64_t)rank * 0x10001 + (uint64_t)call * 0x1000003 + (uint64_t)i * 0x100000007 };

	double x = rng_unit(&r);

	if (rng_int(&r, 64) == 0)
		return odd[rng_int(&r, 5)];
	return (float)ldexp(x, (int)rng_int(&r, 30));
}

static float total(int world, int call, int64_t i)
{
	float sum = value(0, call, i);

	for (int r = 1; r < world; r++)
		sum += value(r, call, i);
	return sum;
}

static bool same(float a, float b)
{
	return (isnan(a) && isnan(b)) || !memcmp(&a, &b, sizeof(a));
}

static float *at(const struct mat *m, int64_t i, int64_t j)
{
	return (float *)((char *)m->t.data + i * m->t.stride) + j;
}

/* Rows `pad` elements further apart than they are long; what lies between stays 0xFF. */
static struct mat mat_make(const char *name, int64_t rows, int64_t cols, int64_t pad)
{
	struct mat m = { .t = { .rows = rows, .cols = cols, .stride = (cols + pad) * 4, .planes = 1, .dtype = NVLLM_F32 } };

	m.bytes = rows ? (rows - 1) * m.t.stride + cols * 4 : 0;
	m.t.data = gmem_get(name, m.bytes, 4);
	return m;
}

static bool gaps_kept(const struct mat *m)
{
	for (int64_t i = 0; i + 1 < m->t.rows; i++)
		for (int64_t j = m->t.cols; j < m->t.stride / 4; j++)
			if (memcmp(at(m, i, j), "\xff\xff\xff\xff", 4))
				return false;
	return true;
}

static void fill(struct mat *m, int rank, int call)
{
	for (int64_t i = 0; i < m->t.rows; i++)
		for (int64_t j = 0; j < m->t.cols; j++)
			*at(m, i, j) = value(rank, call, i * m->t.cols + j);
}

static void shape_of(int call, int64_t *rows, int64_t *cols)
{
	static const int64_t first[][2] = { { 1, 1 }, { 0, 5 }, { 1, 576 }, { 3, 0 }, { 5, 17 }, { 64, 576 }, { 2, 4096 }, { 33, 1 } };
	struct rng r = { (uint64_t)call + 99 };

	*rows = 1 + rng_int(&r, 20);
	*cols = 1 + rng_int(&r, 200);
	if (call < (int)(sizeof(first) / sizeof(*first))) {
		*rows = first[call][0];
		*cols = first[call][1];
	}
}

/* ---- all_reduce ---- */

static void reduce_all(struct crank *r)
{
	for (int k = 0; k < N_CALLS && !r->status; k++)
		r->status = r->group->vt->all_reduce(r->comm, NULL, r->x[k].t);
}

static void check_sum(const struct cgroup *g, int k)
{
	const struct mat *x0 = &g->rank[0].x[k];

	for (int i = 0; i < g->world; i++) {
		const struct mat *x = &g->rank[i].x[k];

		if (!gaps_kept(x))
			ck_bad("all_reduce of [%ld][%ld] wrote between the rows of rank %d", (long)x->t.rows, (long)x->t.cols, i);
		for (int64_t e = 0; e < x->t.rows * x->t.cols && ck_good(); e++) {
			float got = *at(x, e / x->t.cols, e % x->t.cols), want = total(g->world, k % N_SHAPES, e);
			float of0 = *at(x0, e / x->t.cols, e % x->t.cols);

			if (!same(got, want))
				ck_bad("all_reduce of [%ld][%ld], %d ranks: element %ld on rank %d is %.9g, in rank order it is %.9g",
					(long)x->t.rows, (long)x->t.cols, g->world, (long)e, i, (double)got, (double)want);
			else if (memcmp(&got, &of0, sizeof(got)))
				ck_bad("all_reduce: rank %d got other bits than rank 0", i);
		}
	}
}

static void check_reduce(const struct nvllm_component *c, int world)
{
	struct cgroup *g;

	ck_begin("all_reduce, %d rank%s: sums in rank order, the same bits everywhere and again", world, world > 1 ? "s" : "");
	g = group_open(c, world, NULL);
	for (int i = 0; g && i < world; i++)
		for (int k = 0; k < N_CALLS; k++) {
			int64_t rows, cols;

			shape_of(k % N_SHAPES, &rows, &cols);
			g->rank[i].x[k] = mat_make("x of all_reduce", rows, cols, rows ? (k + i) % 4 : 0);
			fill(&g->rank[i].x[k], i, k % N_SHAPES);
		}
	if (g) {
		group_run(g, reduce_all);
		report(g);
		for (int k = 0; k < N_CALLS && ck_good(); k++)
			check_sum(g, k);
		gmem_check();
		group_close(g);
	}
	ck_end();
}

/* ---- all_gather ---- */

/* Of rank i; 0 for some. */
static int64_t part(int call, int i, int64_t cols) { return (call + i) % 3 ? cols / (i + 1) : 0; }

static void gather_all(struct crank *r)
{
	for (int k = 0; k < N_CALLS && !r->status; k++)
		r->status = r->group->vt->all_gather(r->comm, NULL, r->y[k].t, r->x[k].t);
}

static void check_columns(const struct cgroup *g, int k, int64_t cols)
{
	for (int i = 0; i < g->world && ck_good(); i++) {
		const struct mat *y = &g->rank[i].y[k];
		int64_t first = 0;

		if (!gaps_kept(y))
			ck_bad("all_gather wrote between the rows of rank %d", i);
		for (int from = 0; from < g->world; from++) {
			int64_t n = part(k % N_SHAPES, from, cols);

			for (int64_t e = 0; e < y->t.rows * n && ck_good(); e++) {
				float got = *at(y, e / n, first + e % n), want = value(from, k % N_SHAPES, e);

				if (memcmp(&got, &want, sizeof(got)))
					ck_bad("all_gather, %d ranks: row %ld, column %ld on rank %d is %.9g; column %ld of rank %d is %.9g",
						g->world, (long)(e / n), (long)(first + e % n), i, (double)got, (long)(e % n), from, (double)want);
			}
			first += n;
		}
	}
}

static void check_gather(const struct nvllm_component *c, int world)
{
	struct cgroup *g;
	int64_t rows, cols, sum;

	ck_begin("all_gather, %d rank%s: columns in rank order, uneven", world, world > 1 ? "s" : "");
	g = group_open(c, world, NULL);
	for (int k = 0; g && k < N_CALLS; k++) {
		shape_of(k % N_SHAPES, &rows, &cols);
		sum = 0;
		for (int i = 0; i < world; i++)
			sum += part(k % N_SHAPES, i, cols);
		for (int i = 0; i < world; i++) {
			struct crank *r = &g->rank[i];

			r->x[k] = mat_make("x of all_gather", rows, part(k % N_SHAPES, i, cols), rows ? (k + i) % 4 : 0);
			r->y[k] = mat_make("y of all_gather", rows, sum, rows ? (k + 2 * i) % 5 : 0);
			fill(&r->x[k], i, k % N_SHAPES);
		}
	}
	if (g) {
		group_run(g, gather_all);
		report(g);
		for (int k = 0; k < N_CALLS && ck_good(); k++) {
			shape_of(k % N_SHAPES, &rows, &cols);
			check_columns(g, k, cols);
		}
		gmem_check();
		group_close(g);
	}
	ck_end();
}

/* ---- calls after each other, in the same memory ---- */

static float fast(int rank, int round, int64_t j) { return (float)((rank + 1) * (round % 1000) + (int)j); }

/* Fills, sums and looks at once: a rank that still reads or writes this one's x is found. */
static void reduce_fast(struct crank *r)
{
	int world = r->group->world;

	for (int round = 0; round < N_FAST && !r->status; round++) {
		for (int64_t j = 0; j < FAST_COLS; j++)
			*at(&r->x[0], 0, j) = fast(r->rank, round, j);
		r->status = r->group->vt->all_reduce(r->comm, NULL, r->x[0].t);
		for (int64_t j = 0; j < FAST_COLS && !r->status; j++) {
			float want = (float)(world * (world + 1) / 2 * (round % 1000) + world * (int)j);

			if (!r->wrong[0] && *at(&r->x[0], 0, j) != want)
				snprintf(r->wrong, sizeof(r->wrong), "call %d without a pause: element %ld is %g, expected %g", round,
					(long)j, (double)*at(&r->x[0], 0, j), (double)want);
		}
	}
}

static void gather_fast(struct crank *r)
{
	int world = r->group->world;

	for (int round = 0; round < N_FAST && !r->status; round++) {
		for (int64_t j = 0; j < FAST_COLS; j++)
			*at(&r->x[0], 0, j) = fast(r->rank, round, j);
		r->status = r->group->vt->all_gather(r->comm, NULL, r->y[0].t, r->x[0].t);
		for (int64_t j = 0; j < world * FAST_COLS && !r->status; j++)
			if (!r->wrong[0] && *at(&r->y[0], 0, j) != fast((int)(j / FAST_COLS), round, j % FAST_COLS))
				snprintf(r->wrong, sizeof(r->wrong), "call %d without a pause: column %ld is %g", round, (long)j,
					(double)*at(&r->y[0], 0, j));
	}
}

static void check_fast(const struct nvllm_component *c)
{
	struct cgroup *g[MAX_WORLD + 1] = { NULL };

	ck_begin("%d calls without a pause, in groups that live side by side", 2 * N_FAST);
	for (int world = 1; world <= MAX_WORLD && ck_good(); world++) {
		g[world] = group_open(c, world, NULL);
		for (int i = 0; g[world] && i < world; i++) {
			g[world]->rank[i].x[0] = mat_make("x", 1, FAST_COLS, 0);
			g[world]->rank[i].y[0] = mat_make("y of all_gather", 1, world * FAST_COLS, 0);
		}
	}
	for (int world = 1; world <= MAX_WORLD && ck_good(); world++) {
		group_run(g[world], reduce_fast);
		report(g[world]);
		if (ck_good())
			group_run(g[world], gather_fast);
		report(g[world]);
	}
	for (int world = 1; world <= MAX_WORLD; world++)
		if (g[world])
			group_close(g[world]);
	ck_end();
}

/* ---- a rank that does not come ---- */

static void call_once(struct crank *r) { r->status = r->group->vt->all_reduce(r->comm, NULL, r->x[0].t); }

static void call_but_last(struct crank *r)
{
	if (r->rank != r->group->world - 1)
		call_once(r);
}

static void told(const struct cgroup *g, int n, const char *when)
{
	for (int i = 0; i < n; i++) {
		const struct crank *r = &g->rank[i];

		if (r->status != NVLLM_ECOMM)
			ck_bad("%s, all_reduce on rank %d of %d returned %d, expected NVLLM_ECOMM (%d)", when, i, g->world, r->status,
				NVLLM_ECOMM);
		else if (!r->said[0])
			ck_bad("%s, all_reduce returned NVLLM_ECOMM without a sentence: use host->fail()", when);
	}
}

static void check_absent(const struct nvllm_component *c, int world)
{
	static const char *const soon[] = { "timeout=1", NULL };
	struct cgroup *g;

	ck_begin("%d ranks of which the last does not come: the others are told, then all", world);
	if (!ck_has_option(c, "timeout")) {
		ck_skip("it has no option 'timeout', so nobody knows how long to wait");
		return;
	}
	g = group_open(c, world, soon);
	if (g) {
		for (int i = 0; i < world; i++)
			g->rank[i].x[0] = mat_make("x of all_reduce", 1, 3, 0);
		group_run(g, call_once);
		report(g);
		group_run(g, call_but_last);
		told(g, world - 1, "when a rank does not come");
		if (ck_good())
			group_run(g, call_once);
		if (ck_good())
			told(g, world, "after a rank did not come");
		group_close(g);
	}
	ck_end();
}

void suite_comm(const struct nvllm_component *c)
{
	const struct nvllm_comm_vt *vt = c->vt;

	if (vt->need & ~fake_device()->info->caps) {
		ck_skip("needs a device that the suite does not have");
		return;
	}
	for (int world = 1; world <= MAX_WORLD; world++)
		check_reduce(c, world);
	for (int world = 1; world <= MAX_WORLD; world++)
		check_gather(c, world);
	check_fast(c);
	check_absent(c, 2);
	check_absent(c, 4);
}
