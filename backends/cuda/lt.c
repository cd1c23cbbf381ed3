/* SPDX-License-Identifier: MIT */
/* lt.c - products by cuBLASLt: the library, which is opened when it is there, and which of its
 * algorithms computes what. One plan a shape: the library's own first guess, or what
 * tune.c found to be the fastest.
 *
 * Split sums are added in f32 and in one order: the same call gives the same bits. f32 products are f32
 * throughout: CUBLAS_COMPUTE_32F uses no TF32. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "lt.h"

#define LEAST_VERSION 120000

/* ---- the library: on its thread ---- */

static const char *const places[] = { "libcublasLt.so.13", "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so.13",
	"/usr/local/cuda/lib64/libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so", "libcublasLt.so", NULL };

/* It is never closed: its thousands of destructors do not expect to run while the process goes on. */
static void *open_library(struct lt *lt, const char *path)
{
	void *so = NULL;

	if (*path) {
		so = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
		if (!so)
			snprintf(lt->why, sizeof(lt->why), "[device] cublaslt = %s cannot be opened: %s", path, dlerror());
		return so;
	}
	for (int i = 0; places[i] && !so; i++)
		so = dlopen(places[i], RTLD_LAZY | RTLD_LOCAL);
	if (!so)
		snprintf(lt->why, sizeof(lt->why), "the library cuBLASLt (libcublasLt.so.13 or .12) was not found: install "
			"the CUDA toolkit's libcublas, or set [device] cublaslt to the library's path");
	return so;
}

static bool resolve(struct lt *lt, void *so)
{
	struct lt_api *a = &lt->api;
	const struct { const char *name; void *to; } all[] = {
#define F(name, symbol) { #symbol, &a->name }
		F(version, cublasLtGetVersion), F(create, cublasLtCreate), F(destroy, cublasLtDestroy),
		F(word, cublasLtGetStatusName), F(matmul, cublasLtMatmul),
		F(heuristic, cublasLtMatmulAlgoGetHeuristic), F(layout, cublasLtMatrixLayoutInit_internal),
		F(desc, cublasLtMatmulDescInit_internal), F(desc_set, cublasLtMatmulDescSetAttribute),
		F(pref, cublasLtMatmulPreferenceInit_internal), F(pref_set, cublasLtMatmulPreferenceSetAttribute),
#undef F
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		void *at = dlsym(so, all[i].name);

		if (!at) {
			snprintf(lt->why, sizeof(lt->why), "this cuBLASLt lacks %s: version 12 or 13 is needed", all[i].name);
			return false;
		}
		memcpy(all[i].to, &at, sizeof(at));
	}
	if (a->version() < LEAST_VERSION)
		snprintf(lt->why, sizeof(lt->why), "this cuBLASLt is version %zu, and %d is the least that will do: install a "
			"newer libcublas, or set [device] cublaslt to the path of one", a->version(), LEAST_VERSION);
	return !*lt->why;
}

/* cublasLtMatmul's fixed part: f32 sums and factors, A transposed. */
static cublasStatus_t describe_all(struct lt *lt)
{
	const int32_t transposed = CUBLAS_OP_T;
	cublasStatus_t st = lt->api.desc(&lt->desc, sizeof(lt->desc), CUBLAS_COMPUTE_32F, CUDA_R_32F);

	return st ? st : lt->api.desc_set(&lt->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
}

static void *load(void *arg)
{
	struct nvllm_device *dev = arg;
	struct lt *lt = dev->lt;
	void *so = open_library(lt, dev->conf->cublaslt);
	cublasStatus_t st;

	lt->status = NVLLM_ENOENT;
	if (!so || !resolve(lt, so))
		return NULL;
	lt->status = NVLLM_EDEVICE;
	cudaSetDevice(dev->ordinal);
	st = lt->api.create(&lt->handle);
	if (!st)
		st = describe_all(lt);
	if (st)
		snprintf(lt->why, sizeof(lt->why), "cuBLASLt does not start: %s", lt->api.word(st));
	else
		lt->status = NVLLM_OK;
	return NULL;
}

int lt_open(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;

	dev->lt = host->alloc(host, sizeof(*dev->lt));
	if (!dev->lt)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the plans of matrix products");
	if (pthread_create(&dev->lt->thread, NULL, load, dev))
		return host->fail(host, NVLLM_ENOMEM, "cannot start the thread that loads cuBLASLt");
	dev->lt->started = true;
	return NVLLM_OK;
}

static void join(struct lt *lt)
{
	if (lt->started)
		pthread_join(lt->thread, NULL);
	lt->started = false;
}

int lt_ready(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	struct lt *lt = dev->lt;

	if (lt->ready)
		return NVLLM_OK;
	join(lt);
	if (lt->status)
		return host->fail(host, lt->status, "%s", lt->why);
	tune_load(dev);
	lt->ready = true;
	return NVLLM_OK;
}

void lt_close(struct nvllm_device *dev)
{
	struct lt *lt = dev->lt;

	if (!lt)
		return;
	join(lt);
	if (lt->handle)
		lt->api.destroy(lt->handle);
	lt->handle = NULL;
}

/* ---- a call ---- */

int64_t lt_bucket(int64_t t)
{
	return t <= 512 ? t : (t + 63) / 64 * 64;
}

static int32_t alignment(const void *a, const void *b, const void *c)
{
	const uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | 16;

	return (int32_t)(all & -all);
}

/* Elements from row to row. A single row may say anything. */
static int64_t leading(const struct nvllm_tensor *t, int64_t size)
{
	return t->rows > 1 ? t->stride / size : t->cols;
}

static int64_t size_of(int32_t dtype)
{
	return dtype == NVLLM_F32 ? 4 : 2;
}

static cudaDataType type_of(int32_t dtype)
{
	return dtype == NVLLM_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

/* The three matrices with t rows of x. */
static cublasStatus_t lay_out(const struct lt_api *a, struct lt_call *c, int64_t t)
{
	const struct lt_key *k = &c->key;
	const cudaDataType type = type_of(k->type);
	cublasStatus_t st = a->layout(&c->w, sizeof(c->w), type, (uint64_t)k->k, (uint64_t)k->n, k->w_ld);

	st = st ? st : a->layout(&c->x, sizeof(c->x), type, (uint64_t)k->k, (uint64_t)t, k->x_ld);
	return st ? st : a->layout(&c->y, sizeof(c->y), type_of(k->y_type), (uint64_t)k->n, (uint64_t)t, k->y_ld);
}

int lt_describe(struct nvllm_device *dev, struct lt_call *c, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	const struct nvllm_host *host = dev->host;
	const int64_t size = size_of(w.dtype), y_size = size_of(y.dtype);
	cublasStatus_t st;

	c->key = (struct lt_key){ .n = w.rows, .k = w.cols, .t = x.rows, .w_ld = leading(&w, size), .x_ld = leading(&x, size),
		.y_ld = leading(&y, y_size), .type = w.dtype, .y_type = y.dtype, .add = (flags & NVLLM_LINEAR_ADD) != 0,
		.align = alignment(w.data, x.data, y.data) };
	c->w_data = w.data, c->x_data = x.data, c->y_data = y.data;
	if ((w.rows > 1 && w.stride % size) || (x.rows > 1 && x.stride % size) || (y.rows > 1 && y.stride % y_size) ||
	    c->key.w_ld < w.cols || c->key.x_ld < x.cols || c->key.y_ld < y.cols || w.rows > INT32_MAX || x.rows > INT32_MAX)
		return host->fail(host, NVLLM_EINVAL, "linear: rows %lld, %lld and %lld bytes apart (y, x, w) are no whole "
			"numbers of elements, or rows lie over each other", (long long)y.stride, (long long)x.stride,
			(long long)w.stride);
	st = lay_out(&dev->lt->api, c, x.rows);
	return st ? host->fail(host, NVLLM_EDEVICE, "linear: cuBLASLt cannot describe a product [%lld][%lld] with [%lld] rows: %s",
		(long long)w.rows, (long long)w.cols, (long long)x.rows, dev->lt->api.word(st)) : NVLLM_OK;
}

/* What an algorithm may do and rely on. */
static cublasStatus_t prefer(const struct nvllm_device *dev, cublasLtMatmulPreferenceOpaque_t *p, uint32_t align)
{
	static const cublasLtMatmulPreferenceAttributes_t aligned[] = { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES };
	const struct lt_api *a = &dev->lt->api;
	const uint64_t room = (uint64_t)dev->workspace_bytes;
	const uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* or none at all */
	cublasStatus_t st = a->pref(p, sizeof(*p));

	st = st ? st : a->pref_set(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof(room));
	st = st ? st : a->pref_set(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof(sums));
	for (int i = 0; i < 4 && !st; i++)
		st = a->pref_set(p, aligned[i], &align, sizeof(align));
	return st;
}

int lt_choices(struct nvllm_device *dev, const struct lt_call *call, int64_t t, cublasLtMatmulHeuristicResult_t *out, int n)
{
	struct lt *lt = dev->lt;
	struct lt_call c = *call;
	cublasLtMatmulPreferenceOpaque_t p;
	int got = 0, good = 0;

	if (prefer(dev, &p, (uint32_t)c.key.align) || lay_out(&lt->api, &c, t) ||
	    lt->api.heuristic(lt->handle, &lt->desc, &c.w, &c.x, &c.y, &c.y, &p, n, out, &got))
		return 0;
	for (int i = 0; i < got; i++)
		if (out[i].state == CUBLAS_STATUS_SUCCESS && out[i].workspaceSize <= (size_t)dev->workspace_bytes)
			out[good++] = out[i];
	return good;
}

cublasStatus_t lt_run(struct nvllm_device *dev, nvllm_stream stream, const struct lt_call *c, const cublasLtMatmulAlgo_t *algo)
{
	const struct lt *lt = dev->lt;
	const float one = 1, beta = (float)c->key.add;
	struct lt_call d = *c; /* the library does not say that it only reads these */
	cublasLtMatmulDescOpaque_t desc = lt->desc;

	return lt->api.matmul(lt->handle, &desc, &one, c->w_data, &d.w, c->x_data, &d.x, &beta, c->y_data, &d.y, c->y_data, &d.y,
		algo, dev->workspace, (size_t)dev->workspace_bytes, stream);
}

/* ---- plans ---- */

static uint64_t hash(const struct lt_key *k)
{
	uint64_t words[sizeof(*k) / 8], h = 0x9E3779B97F4A7C15;

	_Static_assert(sizeof(*k) % 8 == 0 && sizeof(*k) == 6 * 8 + 4 * 4, "no padding in a key");
	memcpy(words, k, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		h = (h ^ words[i]) * 0xD6E8FEB86659FD93;
		h ^= h >> 32;
	}
	return h;
}

struct lt_plan *lt_find(struct lt *lt, const struct lt_key *key, bool *fresh)
{
	struct lt_plan *set = lt->plans[hash(key) % LT_SETS], *oldest = NULL;

	*fresh = false;
	for (int i = 0; i < LT_WAYS; i++) {
		if (set[i].key.n && !memcmp(&set[i].key, key, sizeof(*key))) {
			set[i].used = ++lt->clock;
			return &set[i];
		}
		if (!set[i].tuned && (!oldest || set[i].used < oldest->used))
			oldest = &set[i];
	}
	if (!oldest)
		return NULL;
	*fresh = true;
	*oldest = (struct lt_plan){ .key = *key, .used = ++lt->clock };
	return oldest;
}

/* The first guess for t rows; false = there is none. */
static bool guess(struct nvllm_device *dev, const struct lt_call *c, int64_t t, cublasLtMatmulAlgo_t *algo)
{
	cublasLtMatmulHeuristicResult_t r;

	if (!lt_choices(dev, c, t, &r, 1))
		return false;
	*algo = r.algo;
	return true;
}

/* Did the library refuse an algorithm that was chosen for another number of rows, or long ago? */
static bool refused(cublasStatus_t st)
{
	return st == CUBLAS_STATUS_INVALID_VALUE || st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_ARCH_MISMATCH;
}

static int run_plan(struct nvllm_device *dev, nvllm_stream stream, const struct lt_call *c, struct lt_plan *p)
{
	const struct nvllm_host *host = dev->host;
	cublasLtMatmulAlgo_t own;
	cublasStatus_t st = p->none ? CUBLAS_STATUS_NOT_SUPPORTED : lt_run(dev, stream, c, &p->algo);

	if (refused(st) && (p->tuned || p->key.t != c->key.t) && guess(dev, c, c->key.t, &own))
		st = lt_run(dev, stream, c, &own);
	if (refused(st)) {
		cudaGetLastError();
		return NVLLM_ENOTSUP;
	}
	return st ? host->fail(host, NVLLM_EDEVICE, "a product of %lld rows with a weight [%lld][%lld] failed: cuBLASLt says %s",
		(long long)c->key.t, (long long)c->key.n, (long long)c->key.k, dev->lt->api.word(st)) : NVLLM_OK;
}

int lt_product(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, uint32_t flags)
{
	struct lt_plan own = { .none = true }, *p;
	struct lt_call c;
	struct lt_key key;
	bool fresh;
	int err = lt_ready(dev);

	if (err)
		return err;
	if (x.dtype != w.dtype || (w.dtype == NVLLM_F32 && y.dtype != NVLLM_F32))
		return NVLLM_ENOTSUP;
	err = lt_describe(dev, &c, y, x, w, flags);
	if (err)
		return err;
	key = c.key;
	key.t = lt_bucket(key.t);
	p = lt_find(dev->lt, &key, &fresh);
	if (!p) {
		p = &own;
		p->key = key;
		fresh = true;
	}
	if (fresh)
		p->none = !guess(dev, &c, key.t, &p->algo);
	return run_plan(dev, stream, &c, p);
}
