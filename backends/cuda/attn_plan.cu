/* SPDX-License-Identifier: MIT */
/* The work lists of a step, made on the device once a step: which sequences have one row, which pages they
 * see, and how those pages are cut evenly over the CTAs of the decode kernel. One block for each
 * kind of list. See attn.h for what a list says.
 *
 * Units of decode work are numbered through; CTA c of C does [c T / C, (c + 1) T / C) of T units, so that
 * two CTAs differ by one page at most, whatever the sequences' lengths. */
#include "attn.h"
#include "ptx.cuh"

#define THREADS 1024

struct plan_job {
	int n_seqs, n_sms;
	const int32_t *q_start, *kv_len;
	uint32_t *counters;
	struct attn_plan plans[ATTN_PLANS];
};

/* Sum of x over this thread and those before it; *all: over the block. part: 33 ints of shared memory. */
DEV int block_scan(int x, int *part, int *all)
{
	int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

	for (int o = 1; o < 32; o <<= 1) {
		int y = __shfl_up_sync(0xffffffffu, x, o);

		x += lane >= o ? y : 0;
	}
	__syncthreads(); /* the last scan's readers are done */
	if (lane == 31)
		part[warp] = x;
	__syncthreads();
	if (warp == 0) {
		int y = lane < (int)blockDim.x / 32 ? part[lane] : 0;

		for (int o = 1; o < 32; o <<= 1) {
			int z = __shfl_up_sync(0xffffffffu, y, o);

			y += lane >= o ? z : 0;
		}
		part[lane] = y;
	}
	__syncthreads();
	*all = part[31];
	return x + (warp ? part[warp - 1] : 0);
}

/* The last i < n with v[i] <= x; v grows and v[0] is 0. */
DEV int find(const int *v, int n, int x)
{
	int lo = 0;

	while (n - lo > 1) {
		int mid = (lo + n) / 2;

		if (v[mid] <= x)
			lo = mid;
		else
			n = mid;
	}
	return lo;
}

DEV int start_of(int c, int units, int ctas)
{
	return (int)((long long)c * units / ctas);
}

/* The CTA that does this unit: the last c with floor(c T / C) <= unit. */
DEV int cta_of(int unit, int units, int ctas)
{
	return (int)((((long long)unit + 1) * ctas - 1) / units);
}

/* Where a unit lies. [from, to): the units of its item and group. */
struct place { int item, group, from, to; };

DEV struct place place_of(const struct attn_plan *p, const int *unit, int items, int u)
{
	struct place w;
	int n;

	w.item = find(unit, items, u);
	n = p->item[w.item].end - p->item[w.item].first;
	w.group = (u - unit[w.item]) / n;
	w.from = unit[w.item] + w.group * n;
	w.to = w.from + n;
	return w;
}

DEV void cut(const struct attn_plan *p, const int *unit, int items, int units, int ctas, int n_sms)
{
	for (int c = ctas + threadIdx.x; c < n_sms; c += blockDim.x)
		p->cta[c].count = 0;
	for (int c = threadIdx.x; c < ctas; c += blockDim.x) {
		int from = start_of(c, units, ctas), to = start_of(c + 1, units, ctas), first;
		struct place a = place_of(p, unit, items, from), b = a;
		struct attn_cta t;

		if (to > a.to)
			b = place_of(p, unit, items, to - 1);
		first = cta_of(a.from, units, ctas);
		t.item = a.item;
		t.group = a.group;
		t.page = p->item[a.item].first + from - a.from;
		t.count = to - from;
		t.a_place = 2 * first + (start_of(first, units, ctas) != a.from);
		t.a_end = cta_of(a.to - 1, units, ctas);
		t.b_end = cta_of(b.to - 1, units, ctas);
		t.reserved = 0;
		p->cta[c] = t;
	}
}

static __global__ void __launch_bounds__(THREADS) plan_kernel(const struct plan_job j)
{
	__shared__ int part[33];
	int *unit = (int *)dyn_smem(); /* [n_seqs] */
	const struct attn_plan *p = &j.plans[blockIdx.x];
	int items = 0, units = 0;

	griddep_wait();
	if (blockIdx.x == 0)
		for (int i = threadIdx.x; i < ATTN_COUNTERS(j.n_sms); i += blockDim.x)
			j.counters[i] = 0;
	for (int base = 0; base < j.n_seqs; base += blockDim.x) {
		int s = base + threadIdx.x, row = 0, rows = 0, len = 0, n = 0, low = 0, all_items, all_units, i, u;

		if (s < j.n_seqs) {
			row = j.q_start[s];
			rows = j.q_start[s + 1] - row;
			len = j.kv_len[s];
		}
		if (rows == 1 && len > 0) {
			low = p->window > 0 && len > p->window ? len - p->window : 0;
			n = (len + ATTN_PAGE - 1) / ATTN_PAGE - low / ATTN_PAGE;
		}
		i = items + block_scan(n > 0, part, &all_items) - (n > 0);
		u = units + block_scan(n * p->groups, part, &all_units) - n * p->groups;
		if (n > 0) {
			struct attn_item x;

			x.seq = s, x.row = row, x.first = low / ATTN_PAGE, x.end = x.first + n;
			x.kv_len = len, x.low = low, x.unit = u, x.reserved = 0;
			p->item[i] = x;
			unit[i] = u;
		}
		items += all_items, units += all_units;
	}
	__syncthreads(); /* unit and the items, which this block reads again */
	griddep_launch();
	cut(p, unit, items, units, min(j.n_sms, units), j.n_sms);
}

extern "C" int attn_plan_kinds(struct nvllm_attention *a)
{
	int n = 0;

	for (int i = 0; i < a->shape->n_layers; i++) {
		struct attn_layer *l = &a->layers[i];
		struct attn_plan want = {};
		int k = 0;

		if (!l->n_heads)
			continue;
		want.window = l->window;
		want.groups = (l->n_kv + l->heads_at_once - 1) / l->heads_at_once;
		while (k < n && k < ATTN_PLANS && (a->plans[k].window != want.window ||
		       a->plans[k].groups != want.groups))
			k++;
		if (k < ATTN_PLANS)
			a->plans[k] = want;
		l->plan = k;
		n = k == n ? n + 1 : n;
	}
	a->n_plans = min(n, ATTN_PLANS);
	return n;
}

/* The next n bytes of the workspace; *at counts them. */
static char *take(char *base, int64_t *at, int64_t n)
{
	char *p = base ? base + *at : NULL;

	*at = (*at + n + 255) / 256 * 256;
	return p;
}

extern "C" int64_t attn_workspace(struct nvllm_attention *a, void *base)
{
	char *w = (char *)base;
	int64_t at = 0, widest = 0, es = a->q_dtype == NVLLM_F32 ? 4 : 2;

	a->part_floats = 0;
	for (int i = 0; i < a->shape->n_layers; i++) {
		const struct attn_layer *l = &a->layers[i];
		int64_t part = l->n_heads && a->n_plans ? attn_decode_part(l) : 0;

		widest = l->n_heads * (int64_t)l->dim > widest ? l->n_heads * (int64_t)l->dim : widest;
		a->part_floats = part > a->part_floats ? part : a->part_floats;
	}
	a->q = take(w, &at, a->shape->max_tokens * widest * es);
	a->counters = (uint32_t *)take(w, &at, (int64_t)ATTN_COUNTERS(a->n_sms) * sizeof(*a->counters));
	for (int i = 0; i < a->n_plans; i++) {
		struct attn_plan *p = &a->plans[i];

		p->cta = (struct attn_cta *)take(w, &at, a->n_sms * (int64_t)sizeof(*p->cta));
		p->item = (struct attn_item *)take(w, &at, a->shape->max_seqs * (int64_t)sizeof(*p->item));
	}
	a->parts = (float *)take(w, &at, 2 * a->n_sms * a->part_floats * (int64_t)sizeof(*a->parts));
	return at;
}

extern "C" int attn_plan(const struct nvllm_attention *a, nvllm_stream stream, const struct nvllm_batch *b)
{
	struct plan_job j = {};

	if (!a->n_plans || b->n_seqs < 1)
		return cudaSuccess;
	j.n_seqs = b->n_seqs;
	j.n_sms = a->n_sms;
	j.q_start = b->q_start;
	j.kv_len = b->kv_len;
	j.counters = a->counters;
	for (int i = 0; i < a->n_plans; i++)
		j.plans[i] = a->plans[i];
	return launch(plan_kernel, dim3(a->n_plans), dim3(THREADS), sizeof(int) * b->n_seqs, stream, j);
}

extern "C" int attn_plan_setup(const struct nvllm_attention *a)
{
	return allow_smem(plan_kernel, sizeof(int) * a->shape->max_seqs);
}
