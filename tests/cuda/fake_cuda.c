/* SPDX-License-Identifier: MIT */
/* The runtime's functions that backends/cuda's C files call. */
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "fake.h"

struct fake fake;

void fake_live(int n) { __atomic_add_fetch(&fake.live, n, __ATOMIC_RELAXED); }

void fake_reset(void)
{
	const int live = fake.live;

	fake = (struct fake){ .n_devices = 2, .driver = 13000, .cc = 90, .room = (size_t)1 << 34, .least_align = 1, .live = live };
}

/* ---- streams: lists of jobs ---- */

struct job {
	struct job *next;
	void (*run)(const void *arg);
	struct mark *mark, *wait; /* instead of run */
	uint64_t turn;            /* of the mark */
	_Alignas(16) char arg[];
};

struct CUstream_st { struct job *first, **end, *graph, **graph_end; int capturing; };
struct mark { struct CUstream_st *stream; uint64_t set, done; float at; };
struct CUgraph_st { struct job *jobs; };

static struct CUstream_st *streams[16];
static float now; /* of events: cuBLASLt's stand-in moves it */
void fake_spend(float ms) { now += ms; }

static struct job *push(struct CUstream_st *s, size_t size)
{
	struct job *j = calloc(1, sizeof(*j) + size);

	if (!j)
		abort();
	if (s->capturing)
		*s->graph_end = j, s->graph_end = &j->next;
	else
		*s->end = j, s->end = &j->next;
	return j;
}

void fake_enqueue(void *stream, void (*run)(const void *arg), const void *arg, size_t size)
{
	struct job *j = push(stream, size);

	j->run = run;
	memcpy(j->arg, arg, size);
}

/* Runs a stream up to the mark's turn, or all of it. */
static void drain(struct CUstream_st *s, const struct mark *until, uint64_t turn)
{
	while (s->first && !(until && until->done >= turn)) {
		struct job *j = s->first;

		s->first = j->next;
		if (!s->first)
			s->end = &s->first;
		if (j->run)
			j->run(j->arg);
		if (j->wait)
			drain(j->wait->stream, j->wait, j->turn);
		if (j->mark)
			j->mark->done = j->turn, j->mark->at = now;
		free(j);
	}
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
	int i = 0;

	*s = calloc(1, sizeof(**s));
	(*s)->end = &(*s)->first;
	while (streams[i])
		i++;
	streams[i] = *s;
	fake_live(1);
	return flags == cudaStreamNonBlocking ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
	drain(s, NULL, 0);
	for (int i = 0; i < 16; i++)
		if (streams[i] == s)
			streams[i] = NULL;
	free(s);
	fake_live(-1);
	return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
	for (int i = 0; i < 16; i++)
		if (streams[i])
			drain(streams[i], NULL, 0);
	return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) { drain(s, NULL, 0); return cudaSuccess; }

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
	struct mark *m = (struct mark *)e;
	struct job *j = push(s, 0);

	(void)flags;
	j->wait = m;
	j->turn = m->set;
	return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
	*e = (cudaEvent_t)calloc(1, sizeof(struct mark));
	fake_live(1);
	return flags == cudaEventDisableTiming || flags == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); fake_live(-1); return cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
	struct mark *m = (struct mark *)e;
	struct job *j = push(s, 0);

	m->stream = s;
	j->mark = m;
	j->turn = ++m->set;
	return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
	struct mark *m = (struct mark *)e;

	if (m->stream)
		drain(m->stream, m, m->set);
	return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
	*ms = ((struct mark *)b)->at - ((struct mark *)a)->at;
	return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
	if (s->capturing)
		return cudaErrorIllegalState;
	s->capturing = 1;
	s->graph = NULL;
	s->graph_end = &s->graph;
	return mode == cudaStreamCaptureModeRelaxed ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
	*g = NULL;
	if (!s->capturing)
		return cudaErrorIllegalState;
	s->capturing = 0;
	*g = calloc(1, sizeof(**g));
	(*g)->jobs = s->graph;
	fake_live(1);
	return cudaSuccess;
}

/* The graph gives its jobs to the executable one. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags)
{
	struct CUgraph_st *own = calloc(1, sizeof(*own));

	(void)flags;
	*own = *g;
	g->jobs = NULL;
	*x = (cudaGraphExec_t)own;
	fake_live(1);
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
	for (struct job *j = g->jobs, *next; j; j = next) {
		next = j->next;
		free(j);
	}
	free(g);
	fake_live(-1);
	return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { return cudaGraphDestroy((cudaGraph_t)x); }
cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t s) { (void)x, (void)s; return cudaSuccess; }

static void run_graph(const void *arg)
{
	struct CUgraph_st *const *g = arg;

	for (struct job *j = (*g)->jobs; j; j = j->next)
		if (j->run)
			j->run(j->arg);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) { fake_enqueue(s, run_graph, &x, sizeof(x)); return cudaSuccess; }

/* ---- memory: a word before each piece says how large it is and whether it is pinned ---- */

struct head { size_t bytes, pinned; char pad[240]; };

static void *get(size_t bytes, size_t pinned)
{
	struct head *h;

	if (bytes > fake.room)
		return NULL;
	h = aligned_alloc(256, (bytes + sizeof(*h) + 255) / 256 * 256);
	if (!h)
		abort();
	h->bytes = bytes;
	h->pinned = pinned;
	memset(h + 1, 0xFF, bytes);
	fake.room -= bytes;
	fake_live(1);
	return h + 1;
}

static cudaError_t put(void *p)
{
	if (p) {
		fake.room += ((struct head *)p - 1)->bytes;
		fake_live(-1);
		free((struct head *)p - 1);
	}
	return cudaSuccess;
}

static cudaError_t note(int err) { fake.last_error = err ? err : fake.last_error; return err; }

cudaError_t cudaMalloc(void **p, size_t n) { return note((*p = get(n, 0)) ? cudaSuccess : cudaErrorMemoryAllocation); }
cudaError_t cudaFree(void *p) { cudaDeviceSynchronize(); return put(p); }
cudaError_t cudaFreeHost(void *p) { cudaDeviceSynchronize(); return put(p); }

static char *pinned_from, *pinned_to; /* the newest: what is asked for */

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned flags)
{
	(void)flags;
	*p = get(n, 1);
	pinned_from = *p;
	pinned_to = pinned_from + n;
	return note(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
	memset(a, 0, sizeof(*a));
	a->type = (const char *)p >= pinned_from && (const char *)p < pinned_to ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
	return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *f, size_t *t) { *f = fake.room; *t = (size_t)1 << 34; return cudaSuccess; }

/* ---- copies ---- */

struct copy2d { char *dst; const char *src; size_t dst_pitch, src_pitch, width, height; int set; };

static void run_copy(const void *arg)
{
	const struct copy2d *c = arg;

	for (size_t i = 0; i < c->height; i++)
		if (c->src)
			memmove(c->dst + i * c->dst_pitch, c->src + i * c->src_pitch, c->width);
		else
			memset(c->dst + i * c->dst_pitch, c->set, c->width);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind, cudaStream_t s)
{
	const struct copy2d c = { dst, src, n, n, n, 1, 0 };

	(void)kind;
	fake_enqueue(s, run_copy, &c, sizeof(c));
	return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dp, const void *src, size_t sp, size_t w, size_t h, enum cudaMemcpyKind kind, cudaStream_t s)
{
	const struct copy2d c = { dst, src, dp, sp, w, h, 0 };

	(void)kind;
	if (w > dp || w > sp)
		return note(cudaErrorInvalidPitchValue);
	fake_enqueue(s, run_copy, &c, sizeof(c));
	return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t w, size_t h, cudaStream_t s)
{
	const struct copy2d c = { p, NULL, pitch, 0, w, h, value };

	if (w > pitch)
		return note(cudaErrorInvalidPitchValue);
	fake_enqueue(s, run_copy, &c, sizeof(c));
	return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s) { return cudaMemset2DAsync(p, n, value, n, 1, s); }

/* ---- the rest ---- */

cudaError_t cudaGetLastError(void) { const int e = fake.last_error; fake.last_error = 0; return e; }
const char *cudaGetErrorString(cudaError_t e) { (void)e; return "a sentence of CUDA's"; }
const char *cudaGetErrorName(cudaError_t e) { (void)e; return "cudaErrorName"; }
cudaError_t cudaSetDevice(int d) { return d < fake.n_devices ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDriverGetVersion(int *v) { *v = fake.driver; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = 13000; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { *n = fake.n_devices; return note(fake.count_error); }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d)
{
	(void)d;
	memset(p, 0, sizeof(*p));
	strcpy(p->name, "Fake GPU");
	p->major = fake.cc / 10;
	p->minor = fake.cc % 10;
	p->multiProcessorCount = 132;
	return cudaSuccess;
}
