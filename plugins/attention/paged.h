/* SPDX-License-Identifier: MIT */
/* paged.h - what the files of the paged attention know of each other. paged.c cuts up a
 * step for the threads, paged_task.c does a task, paged_walk.c one segment of it; the
 * other files are kernels. */
#ifndef PAGED_H
#define PAGED_H

#include "kv.h"

#define PAGED_SEGMENT 256 /* keys whose scores are held at once: softmax is merged between */
#define PAGED_BLOCK 64    /* most keys in a tile of K */
#define PAGED_SCORES (PAGED_SEGMENT + 2 * PAGED_BLOCK) /* floats in a row of scores: a tile may
							 * begin before a segment and end after */

#define PAGED_ROWS 48     /* query rows times heads of a group in a task, about */

/* The kernels, one table for each instruction set. Within a table every element of a
 * result is one chain of operations in one order, whatever the number of rows: that is
 * what makes a row's bits its own. */
struct paged_kernels {
	int32_t dim_step;    /* head_dim must be a multiple */
	int32_t direct_rows; /* most query rows for which it is faster to convert K and V on the
			      * fly than once beforehand; 0 = takes f32 only */
	/* dst = src in f32, n elements */
	void (*widen)(float *dst, const void *src, int64_t n, int32_t dtype);
	/* dst = src in the cache's type */
	void (*narrow)(void *dst, const float *src, int64_t n, int32_t dtype);
	/* s[i][0..keys) = q[i] . K for i < n; q [n][dim], s [n][PAGED_SCORES], k [dim][keys],
	 * keys 16, 32 or 64. Sums run over dim, upwards. ahead: how many bytes after k
	 * lies what is needed next, to be fetched meanwhile. */
	void (*scores)(float *s, const float *q, int64_t n, int64_t dim, const void *k,
		int32_t dtype, int64_t keys, int64_t ahead);
	/* s[lo..hi) = exp(s - max), *max and *sum over these, after s = cap * tanh(s / cap)
	 * if cap > 0. The rest of s may be anything, and becomes anything. */
	void (*softmax)(float *s, int64_t lo, int64_t hi, float cap, float *max, float *sum);
	/* o[i] += p[i][0..n_keys) V for i < n; o [n][dim], p [n][PAGED_SCORES],
	 * v [n_keys][dim]. Sums run over keys, upwards. ahead: as above. */
	void (*values)(float *o, const float *p, int64_t n, int64_t dim, const void *v,
		int32_t dtype, int64_t n_keys, int64_t ahead);
};

extern const struct paged_kernels paged_plain, paged_avx2, paged_avx512;

/* The best of them that the words of isa (nvllm_device_info) allow. */
const struct paged_kernels *paged_kernels_for(const char *isa, int32_t dim);

struct paged_layer {
	struct kv_layer s;
	const struct paged_kernels *fn;
	int64_t v_offset, page_bytes; /* where V begins in a page; bytes of a page */
	int32_t task_rows;            /* most query rows of a task */
};

/* Consecutive rows of one sequence. */
struct paged_task {
	int32_t seq, row, n_rows;
	int32_t segment, n_segments; /* that any of its rows sees */
	int64_t part;                /* where segments are done apart: its first float in parts */
};

struct nvllm_attention {
	const struct nvllm_host *host;
	const struct nvllm_device_ref *dev;
	const struct nvllm_attn_shape *shape;
	struct paged_layer *layers;
	int32_t page_tokens, keys, blocks; /* keys in a block of K; blocks in a page */
	int64_t rows, dim;                 /* most heads times rows in a task; largest head_dim */
	int64_t scratch_bytes, n_part;     /* of a worker; floats in parts */
	void *const *kv;                   /* the core's pages, by layer */
	int64_t n_pages;
	struct paged_task *tasks;          /* these three in the workspace: [max_tokens], */
	char *scratch;                     /* [n_workers] of scratch_bytes, */
	float *parts;                      /* segments done apart */
};

/* One call of run(), as its workers see it. */
struct paged_job {
	const struct nvllm_attention *a;
	const struct paged_layer *l;
	const struct nvllm_batch *b;
	struct nvllm_tensor q, k, v, y;
	char *pages;
	int64_t n_tasks, n_part; /* n_part: floats it takes to do segments apart */
	int64_t pairs;           /* of a row and a key it sees */
	int32_t most_segments;   /* of any task */
};

/* A softmax over some keys for n rows (a query row times a head each); o is the
 * weighted V, not yet divided by the sum. A row that saw no key has sum 0. */
struct paged_part {
	float *max, *sum, *o; /* [n], [n], [n][dim] */
};

/* One worker's scratch, laid out in this order. */
struct paged_scratch {
	struct paged_part all, seg;
	float *q, *s, *wide; /* [rows][dim], [rows][PAGED_SCORES], [dim][PAGED_BLOCK] */
};

/* Bytes of scratch a worker needs. */
int64_t paged_scratch_bytes(int64_t rows, int64_t dim);
struct paged_scratch paged_scratch_of(const struct nvllm_attention *, int32_t worker);
/* One KV head of a task in its segment number `index`, w->q being loaded. */
void paged_segment(const struct paged_job *, const struct paged_task *, int64_t head,
	int64_t index, const struct paged_scratch *w, struct paged_part out);

/* Cuts the step into tasks. */
void paged_cut(struct paged_job *);
/* For parallel_for; arg is the job. Units (row, KV head): writes K and V to the pages. */
void paged_put(void *arg, int64_t begin, int64_t end, int32_t worker);
/* Units (task, KV head): attends from the first segment to the last. */
void paged_whole(void *arg, int64_t begin, int64_t end, int32_t worker);
/* Units (task, KV head, segment): attends to one segment and leaves it in parts. */
void paged_apart(void *arg, int64_t begin, int64_t end, int32_t worker);
/* Units (task, KV head): merges what paged_apart left. */
void paged_merge(void *arg, int64_t begin, int64_t end, int32_t worker);

#endif
