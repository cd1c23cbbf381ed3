/* SPDX-License-Identifier: MIT */
/* fake.h - inside the fake device: a queue of jobs that run only when the host waits, as on
 * a GPU, on memory that the host may not touch meanwhile. What a job computes, the CPU
 * device and the host's own attention and sampler plugins compute: the same bits.
 *
 * device.c: the component and its options; memory.c: addresses; queue.c: jobs, waits and
 * marks; graph.c: recordings; copy.c; kernels.c; attention.c; sampler.c; inner.c: the
 * plugins underneath. */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>

#include <nvllm/attention.h>
#include <nvllm/plugin.h>
#include <nvllm/sampler.h>

/* Capability: addresses and streams are this device's. Its attention and sampler need it. */
#define FAKE_CAP (1ull << 62)

enum { FAKE_GRAPHS = 256, FAKE_GRAPH_JOBS = 65536 };

/* ---- inner.c: a plugin underneath, and the host it is given ---- */

/* Stands between an inner plugin and the core, and remembers the newest refusal: a job
 * that fails late needs its sentence. */
struct fake_host {
	struct nvllm_host pub; /* first */
	const struct nvllm_host *real;
	char said[512];
};
void inner_host(struct fake_host *, const struct nvllm_host *real);
/* The component of that kind in a .so, for a device with caps; NULL and host->fail. */
const struct nvllm_component *inner_find(const struct nvllm_host *, const char *path, int kind,
	uint64_t caps);
/* A component's options: its defaults, but for the words given (key, value, ..., NULL).
 * *out is of host->alloc. */
int inner_conf(const struct nvllm_host *, const struct nvllm_component *,
	const char *const *words, void **out);

/* The fake device behind a reference; NULL and host->fail if it is another. */
struct nvllm_device *inner_device(const struct nvllm_host *, const struct nvllm_device_ref *);

/* ---- jobs: what is enqueued. Tensors and structs are copied; what they point to on the
 * device is read when the job runs. ---- */

struct fake_batch { struct nvllm_batch b; struct nvllm_slots s; }; /* b.state, b.h_*: set at run */

union job_args {
	struct {
		struct nvllm_tensor y, table;
		int64_t first;
		struct fake_batch b;
		double scale;
	} embed;
	struct { struct nvllm_tensor y, x, w, bias; int64_t has_bias, flags; } linear;
	struct { struct nvllm_tensor y, x; struct nvllm_norm n; } norm;
	struct {
		struct nvllm_tensor y, x;
		const int32_t *index;
		int64_t act;
	} pair; /* add, glu, rows */
	struct {
		struct nvllm_tensor x;
		const int32_t *pos;
		int64_t head_dim;
		struct nvllm_rotary r;
	} rope;
	struct { struct nvllm_tensor logits; struct nvllm_logprobs lp; } logprobs;
	struct { struct fake_batch b; const int32_t *tokens; } advance;
	struct { struct nvllm_tensor y, x, scratch; struct nvllm_moe m; } moe;
	struct { void *dst; const void *src; int64_t bytes; } copy;
	struct { struct nvllm_attention *a; struct fake_batch b; int64_t layer;
		struct nvllm_tensor q, k, v, y; } attn;
	struct {
		struct nvllm_sampler *s;
		struct nvllm_tensor logits;
		const struct nvllm_sample_row *rows;
		int32_t *tokens; void *workspace; int64_t n_rows;
	} sample;
	struct { struct graph *g; } launch;
};
struct job {
	const struct job_type *type;
	union job_args u;
	uint64_t hash;     /* of the host memory a copy reads, if it is watched */
	bool watched;
};
struct job_type {
	const char *name;
	bool kernel; /* counts for fail_step */
	/* A status, and a sentence by way of dev->words. */
	int (*run)(struct nvllm_device *, const struct job *);
};

/* ---- the device ---- */

struct fake_conf {
	const char *cpu, *isa, *activations, *log;
	int64_t threads, queue, fail_capture, fail_step;
	int32_t compare, protect;
};

struct block { char *p; int64_t bytes, mapped; }; /* mapped 0: host memory */
struct blocks { struct block *v; int n, room; };

struct mark {
	struct mark *next;
	uint64_t at;      /* jobs before it */
	enum { MARK_NEW, MARK_SET, MARK_WAITED } state;
};

struct graph {
	bool live;
	int32_t queued;   /* launches not yet run */
	int64_t from, n;  /* of graph_jobs */
};

struct nvllm_device {
	const struct nvllm_host *host;
	struct fake_host words;
	const struct fake_conf *conf;
	/* the CPU device underneath */
	const struct nvllm_device_vt *cpu_vt;
	struct nvllm_device *cpu;
	struct nvllm_device_info cpu_info;
	struct nvllm_device_ref cpu_ref;
	/* memory.c */
	struct blocks mem, host_mem;
	/* queue.c: a ring; jobs head .. tail - 1 wait */
	struct job *ring;
	uint64_t head, tail;
	struct mark *marks;
	int fault;            /* status to be reported at the next wait; 0 = none */
	char why[512];
	/* graph.c */
	struct job *graph_jobs;
	int64_t used;         /* of graph_jobs */
	struct graph graphs[FAKE_GRAPHS];
	bool recording, broken;
	int64_t record_from;
	/* counted for the log */
	int64_t n_kernels, n_records, n_launches, n_waits, n_faults, most_queued;
};

/* memory.c */
void *memory_alloc(struct nvllm_device *, int64_t bytes);
void  memory_free(struct nvllm_device *, void *);
void *memory_host_alloc(struct nvllm_device *, int64_t bytes);
void  memory_host_free(struct nvllm_device *, void *);
void  memory_finish(struct nvllm_device *); /* says what was left, frees it */
void  memory_open(struct nvllm_device *, bool open); /* whether it may be touched now */
/* The block that an address lies in, NULL = none. */
const struct block *block_of(const struct blocks *, const void *p);
bool  block_holds(const struct block *, const void *p, int64_t bytes);
/* True if all of it is device memory; else that is a misuse: "linear: x lies outside ...". */
bool on_device(
	struct nvllm_device *, const char *op, const char *what, const void *p, int64_t bytes);
bool  tensor_on_device(struct nvllm_device *, const char *op, const char *what,
	const struct nvllm_tensor *);

/* queue.c. The caller did what the contract forbids: logged, and an error at the next wait. */
void misuse(struct nvllm_device *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A zeroed job at the end of the queue, or of the recording. NULL where there is no room
 * (host->fail was called) or the stream is not this device's. */
struct job *job_new(struct nvllm_device *, nvllm_stream, const struct job_type *);
/* What to return then. */
int  job_none(struct nvllm_device *, nvllm_stream);
/* One line into the file that the option log names. */
void note(const struct nvllm_device *, const char *line);
/* Runs one job that has come to its turn. */
void job_run(struct nvllm_device *, const struct job *);
int  queue_sync(struct nvllm_device *, nvllm_stream);
int  mark_create(struct nvllm_device *, nvllm_mark *);
void mark_free(struct nvllm_device *, nvllm_mark);
int  mark_set(struct nvllm_device *, nvllm_stream, nvllm_mark);
int  mark_wait(struct nvllm_device *, nvllm_mark);
nvllm_stream stream_of(struct nvllm_device *);

/* graph.c */
int  graph_begin(struct nvllm_device *, nvllm_stream);
int  graph_end(struct nvllm_device *, nvllm_stream, nvllm_graph *);
int  graph_launch(struct nvllm_device *, nvllm_stream, nvllm_graph);
void graph_free(struct nvllm_device *, nvllm_graph);
struct job *graph_job(struct nvllm_device *); /* room for one more of the recording, or NULL */

/* copy.c */
int  copy(struct nvllm_device *, nvllm_stream, void *dst, const void *src, int64_t bytes);

/* kernels.c */
extern const struct nvllm_kernels fake_kernels;
void batch_keep(struct fake_batch *, const struct nvllm_batch *);
/* As plugins are given it: the state beside it, device arrays for the host's twins. */
struct nvllm_batch batch_of(const struct fake_batch *);
bool ints_on_device(
	struct nvllm_device *, const char *op, const char *what, const int32_t *, int64_t n);

/* attention.c, sampler.c */
extern const struct nvllm_component fake_attention, fake_sampler;

#endif
