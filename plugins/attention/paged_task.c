/* SPDX-License-Identifier: MIT */
/* The tasks of a step: cutting them, doing one from its first segment to its last, or
 * its segments apart and their merging. Both ways merge the same parts in one order. */
#include <math.h>

#include "paged.h"

static int64_t part_floats(int64_t rows, int64_t dim)
{
	return rows * (dim + 2);
}

int64_t paged_scratch_bytes(int64_t rows, int64_t dim)
{
	int64_t n = 2 * part_floats(rows, dim) + rows * (dim + PAGED_SCORES) + dim * PAGED_BLOCK;

	return (n * (int64_t)sizeof(float) + 63) / 64 * 64;
}

static struct paged_part part_at(float *p, int64_t rows, int64_t dim)
{
	return (struct paged_part){ .o = p, .max = p + rows * dim, .sum = p + rows * (dim + 1) };
}

struct paged_scratch paged_scratch_of(const struct nvllm_attention *a, int32_t worker)
{
	float *p = (float *)(a->scratch + worker * a->scratch_bytes);
	int64_t n = part_floats(a->rows, a->dim);

	return (struct paged_scratch){
		.all = part_at(p, a->rows, a->dim), .seg = part_at(p + n, a->rows, a->dim),
		.q = p + 2 * n, .s = p + 2 * n + a->rows * a->dim,
		.wide = p + 2 * n + a->rows * (a->dim + PAGED_SCORES),
	};
}

/* Which segments a task sees. Without rows to attend for: none. */
static void task_range(struct paged_job *j, struct paged_task *t)
{
	int64_t first = INT64_MAX, last = -1;

	for (int32_t r = t->row; r < t->row + t->n_rows; r++) {
		int64_t p = j->b->positions[r];

		if (j->b->slots[r] < 0)
			continue;
		first = kv_first(&j->l->s, p) < first ? kv_first(&j->l->s, p) : first;
		last = p > last ? p : last;
		j->pairs += p + 1 - kv_first(&j->l->s, p);
	}
	t->segment = last < 0 ? 0 : (int32_t)(first / PAGED_SEGMENT);
	t->n_segments = last < 0 ? 0 : (int32_t)(last / PAGED_SEGMENT) - t->segment + 1;
	if (t->n_segments > j->most_segments)
		j->most_segments = t->n_segments;
}

void paged_cut(struct paged_job *j)
{
	for (int32_t i = 0; i < j->b->n_seqs; i++)
		for (int32_t r = j->b->q_start[i], end = j->b->q_start[i + 1]; r < end;) {
			struct paged_task *t = &j->a->tasks[j->n_tasks++];

			*t = (struct paged_task){ .seq = i, .row = r, .part = j->n_part,
				.n_rows = j->l->task_rows < end - r ? j->l->task_rows : end - r };
			task_range(j, t);
			j->n_part += (int64_t)t->n_segments * t->n_rows * j->l->s.n_heads *
				(j->l->s.dim + 2);
			r += t->n_rows;
		}
}

/* One K to its place in a block: element d goes d * keys further. */
static void scatter(char *dst, const char *src, int64_t dim, int64_t keys, int32_t dtype)
{
	uint16_t *d16 = (uint16_t *)dst;
	float *d32 = (float *)dst;

	for (int64_t d = 0; d < dim && dtype != NVLLM_F32; d++)
		d16[d * keys] = ((const uint16_t *)src)[d];
	for (int64_t d = 0; d < dim && dtype == NVLLM_F32; d++)
		d32[d * keys] = ((const float *)src)[d];
}

void paged_put(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct paged_job *j = arg;
	const struct nvllm_attention *a = j->a;
	int64_t dim = j->l->s.dim, keys = a->keys, es = kv_bytes(a->shape->kv_dtype);
	char *line = (char *)paged_scratch_of(a, worker).wide;

	for (int64_t i = begin; i < end; i++) {
		int64_t row = i / j->l->s.n_kv, head = i % j->l->s.n_kv, slot = j->b->slots[row];
		int64_t at = slot % a->page_tokens, block = head * a->blocks + at / keys;
		const float *k = (const float *)((char *)j->k.data + row * j->k.stride);
		const float *v = (const float *)((char *)j->v.data + row * j->v.stride);
		char *page;

		if (slot < 0)
			continue;
		page = j->pages + slot / a->page_tokens * j->l->page_bytes;
		j->l->fn->narrow(line, k + head * dim, dim, a->shape->kv_dtype);
		scatter(page + (block * dim * keys + at % keys) * es, line, dim, keys,
			a->shape->kv_dtype);
		j->l->fn->narrow(page + j->l->v_offset + (head * a->page_tokens + at) * dim * es,
			v + head * dim, dim, a->shape->kv_dtype);
	}
}

/* all = all and p together: sums and weighted V relative to the greater maximum. A part
 * that saw no key changes nothing, not even the sign of a zero: whether there is one
 * before a row's first key hangs on the rows beside it in the task. */
static void merge(struct paged_part all, struct paged_part p, int64_t n, int64_t dim)
{
	for (int64_t i = 0; i < n; i++) {
		float max = p.max[i] > all.max[i] ? p.max[i] : all.max[i];
		float x = expf(all.max[i] - max), y = expf(p.max[i] - max);

		if (p.sum[i] == 0)
			continue;
		if (all.sum[i] == 0) {
			all.max[i] = p.max[i], all.sum[i] = p.sum[i];
			memcpy(all.o + i * dim, p.o + i * dim, (size_t)dim * sizeof(float));
			continue;
		}
		all.max[i] = max;
		all.sum[i] = x * all.sum[i] + y * p.sum[i];
		for (int64_t d = i * dim; d < (i + 1) * dim; d++)
			all.o[d] = x * all.o[d] + y * p.o[d];
	}
}

static void part_clear(struct paged_part p, int64_t n, int64_t dim)
{
	for (int64_t i = 0; i < n; i++)
		p.max[i] = -HUGE_VALF, p.sum[i] = 0;
	memset(p.o, 0, (size_t)(n * dim) * sizeof(float));
}

static void load_q(const struct paged_job *j, const struct paged_task *t, int64_t head, float *q)
{
	int64_t n = (int64_t)j->l->s.group * j->l->s.dim;

	for (int64_t r = 0; r < t->n_rows; r++) {
		const float *x = (const float *)((char *)j->q.data +
			(t->row + r) * j->q.stride) + head * n;

		for (int64_t i = 0; i < n; i++)
			q[r * n + i] = x[i] * j->l->s.scale;
	}
}

static void store_y(const struct paged_job *j, const struct paged_task *t, int64_t head,
	struct paged_part all)
{
	int64_t group = j->l->s.group, dim = j->l->s.dim;

	for (int64_t i = 0; i < t->n_rows * group; i++) {
		float *y = (float *)((char *)j->y.data + (t->row + i / group) * j->y.stride) +
			(head * group + i % group) * dim;
		float f = all.sum[i] == 0 ? 0 : 1 / all.sum[i];

		for (int64_t d = 0; d < dim; d++)
			y[d] = all.o[i * dim + d] * f;
	}
}

void paged_whole(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct paged_job *j = arg;
	struct paged_scratch w = paged_scratch_of(j->a, worker);

	for (int64_t u = begin; u < end; u++) {
		/* from the last task: a prompt's later rows are the longer work */
		const struct paged_task *t = &j->a->tasks[j->n_tasks - 1 - u / j->l->s.n_kv];
		int64_t head = u % j->l->s.n_kv, n = (int64_t)t->n_rows * j->l->s.group;

		load_q(j, t, head, w.q);
		if (t->n_segments == 0)
			part_clear(w.all, n, j->l->s.dim);
		for (int32_t i = 0; i < t->n_segments; i++) {
			paged_segment(j, t, head, i, &w, i ? w.seg : w.all);
			if (i)
				merge(w.all, w.seg, n, j->l->s.dim);
		}
		store_y(j, t, head, w.all);
	}
}

/* Where a segment of a task and KV head lies in the parts. */
static struct paged_part part_of(const struct paged_job *j, const struct paged_task *t,
	int64_t head, int64_t index)
{
	int64_t n = (int64_t)t->n_rows * j->l->s.group, dim = j->l->s.dim;

	return part_at(j->a->parts + t->part + (head * t->n_segments + index) * part_floats(n, dim),
		n, dim);
}

void paged_apart(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct paged_job *j = arg;
	struct paged_scratch w = paged_scratch_of(j->a, worker);

	for (int64_t u = begin; u < end; u++) {
		int64_t unit = u / j->most_segments, index = u % j->most_segments;
		const struct paged_task *t = &j->a->tasks[unit / j->l->s.n_kv];
		int64_t head = unit % j->l->s.n_kv;

		if (index >= t->n_segments)
			continue;
		load_q(j, t, head, w.q);
		paged_segment(j, t, head, index, &w, part_of(j, t, head, index));
	}
}

void paged_merge(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct paged_job *j = arg;
	struct paged_scratch w = paged_scratch_of(j->a, worker);

	for (int64_t u = begin; u < end; u++) {
		const struct paged_task *t = &j->a->tasks[u / j->l->s.n_kv];
		int64_t head = u % j->l->s.n_kv, n = (int64_t)t->n_rows * j->l->s.group;
		struct paged_part all = w.all;

		if (t->n_segments == 0)
			part_clear(w.all, n, j->l->s.dim);
		else
			all = part_of(j, t, head, 0);
		for (int32_t i = 1; i < t->n_segments; i++)
			merge(all, part_of(j, t, head, i), n, j->l->s.dim);
		store_y(j, t, head, all);
	}
}
