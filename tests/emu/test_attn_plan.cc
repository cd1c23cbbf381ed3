/* SPDX-License-Identifier: MIT */
/* The work lists of decode against a list made by hand: every unit once, in order, cut evenly; and who shares
 * a sequence with whom. */
#include "check.h"
#include "../../backends/cuda/attn_plan.cu"

/* attn_decode.cu has it; the workspace asks for it. */
extern "C" int64_t attn_decode_part(const struct attn_layer *) { return 40; }

#define MOST 3000

struct unit { int item, group, page; };

struct world {
	int n_seqs, n_sms, window, n_kv, heads;
	int rows[MOST], len[MOST];
	int32_t *q_start, *kv_len;
	struct nvllm_attn_shape shape;
	struct attn_layer layer[3];
	struct nvllm_attention a;
	void *work;
};

static void make(struct world *w)
{
	int at = 0;

	w->q_start = edges<int32_t>(w->n_seqs + 1), w->kv_len = edges<int32_t>(w->n_seqs);
	for (int i = 0; i < w->n_seqs; at += w->rows[i++])
		w->q_start[i] = at, w->kv_len[i] = w->len[i];
	w->q_start[w->n_seqs] = at;
	w->shape = {}, w->a = {};
	w->shape.n_layers = 3, w->shape.max_seqs = w->n_seqs, w->shape.max_tokens = at + 1;
	for (int i = 0; i < 3; i++) { /* layer 1 is nobody's, layer 2 has another window */
		w->layer[i] = {};
		w->layer[i].n_heads = i == 1 ? 0 : w->n_kv, w->layer[i].n_kv = w->n_kv, w->layer[i].dim = 16;
		w->layer[i].window = i == 2 ? w->window + 7 : w->window, w->layer[i].heads_at_once = w->heads;
	}
	w->a.shape = &w->shape, w->a.layers = w->layer, w->a.n_sms = w->n_sms;
	CHECK_EQ(attn_plan_kinds(&w->a), 2, "two kinds of lists");
	w->work = edges_new((size_t)attn_workspace(&w->a, NULL), 256);
	attn_workspace(&w->a, w->work);
	CHECK_EQ(attn_plan_setup(&w->a), 0, "setup");
}

static void run(struct world *w)
{
	struct nvllm_batch b = {};

	b.n_seqs = w->n_seqs, b.q_start = w->q_start, b.kv_len = w->kv_len;
	CHECK_EQ(attn_plan(&w->a, NULL, &b), 0, "launch");
}

/* The CTA that does unit u, by counting. */
static int owner(const struct attn_plan *p, int n_sms, int u)
{
	int c = 0;

	for (int at = 0; c < n_sms && u >= at + p->cta[c].count; c++)
		at += p->cta[c].count;
	return c;
}

static void compare(struct world *w, const struct attn_plan *p, int window, const char *name)
{
	static struct unit u[1 << 18];
	static int from[1 << 18], to[1 << 18]; /* units of the same item and group */
	int n = 0, items = 0, groups = (w->n_kv + w->heads - 1) / w->heads, bad = 0, at = 0, least = 1 << 30, most = 0, used = 0;

	CHECK_EQ(p->groups, groups, "%s: groups", name);
	for (int s = 0; s < w->n_seqs; s++) {
		int low = window && w->len[s] > window ? w->len[s] - window : 0, end = (w->len[s] + 15) / 16;
		const struct attn_item *x = &p->item[items];

		if (w->rows[s] != 1 || !w->len[s])
			continue;
		bad += x->seq != s || x->row != w->q_start[s] || x->first != low / 16 || x->end != end || x->kv_len != w->len[s] ||
			x->low != low || x->unit != n;
		for (int g = 0; g < groups; g++)
			for (int k = low / 16, start = n; k < end; k++) {
				from[n] = start, to[n] = start + end - low / 16;
				u[n++] = { items, g, k };
			}
		items++;
	}
	CHECK_EQ(bad, 0, "%s: items", name);
	for (int c = 0; c < w->n_sms; c++) {
		const struct attn_cta *t = &p->cta[c];
		int first, last, end = at + t->count;

		if (!t->count)
			continue;
		used++;
		least = t->count < least ? t->count : least, most = t->count > most ? t->count : most;
		bad += end > n || u[at].item != t->item || u[at].group != t->group || u[at].page != t->page;
		if (end > n)
			break;
		first = owner(p, w->n_sms, from[at]), last = owner(p, w->n_sms, to[at] - 1);
		bad += t->a_place / 2 != first || t->a_end != last;
		for (int k = 0, sum = 0; k <= first; sum += p->cta[k++].count)
			if (k == first) /* the second place where the CTA had begun with another */
				bad += t->a_place % 2 != (sum != from[at]);
		bad += t->b_end != owner(p, w->n_sms, to[end - 1] - 1);
		at = end;
	}
	CHECK_EQ(bad, 0, "%s: CTAs", name);
	CHECK_EQ(at, n, "%s: all units", name);
	CHECK_EQ(used, n < w->n_sms ? n : w->n_sms, "%s: CTAs in use", name);
	CHECK(!n || most - least <= 1, "%s: evenly", name);
}

static void lists(struct world *w, const char *name)
{
	int bad = 0;

	make(w);
	run(w);
	for (int i = 0; i < ATTN_COUNTERS(w->n_sms); i++)
		bad += w->a.counters[i] != 0;
	CHECK_EQ(bad, 0, "%s: counters are 0", name);
	compare(w, &w->a.plans[w->layer[0].plan], w->window, name);
	compare(w, &w->a.plans[w->layer[2].plan], w->window + 7, name);
	edges_free(w->work), edges_free(w->q_start), edges_free(w->kv_len);
}

static void kinds(void)
{
	static struct attn_layer l[20];
	struct nvllm_attn_shape sh = {};
	struct nvllm_attention a = {};

	sh.n_layers = 20, a.shape = &sh, a.layers = l;
	for (int i = 0; i < 20; i++)
		l[i] = {}, l[i].n_heads = l[i].n_kv = 2, l[i].heads_at_once = 1 + i % 2, l[i].window = i % 4 * 5;
	CHECK_EQ(attn_plan_kinds(&a), 4, "windows and groups in step");
	CHECK(l[1].plan == l[5].plan && l[1].plan != l[3].plan && l[0].plan != l[1].plan, "layers of a kind");
	for (int i = 0; i < 20; i++)
		l[i].window = i;
	CHECK(attn_plan_kinds(&a) > ATTN_PLANS, "too many kinds are found out");
	CHECK_EQ(a.n_plans, ATTN_PLANS, "and not written behind the array");
}

int main(void)
{
	static struct world w;
	struct rnd r = rnd_seed(3);
	char name[80];

	kinds();
	for (int i = 0; i < 40; i++) {
		w.n_seqs = i < 5 ? 1 : i == 39 ? 2500 : rnd_int(&r, 1, 90);
		w.n_sms = rnd_int(&r, 1, 140), w.window = i % 3 ? 0 : rnd_int(&r, 1, 100);
		w.n_kv = rnd_int(&r, 1, 12), w.heads = rnd_int(&r, 1, w.n_kv < 8 ? w.n_kv : 8);
		for (int s = 0; s < w.n_seqs; s++) {
			w.rows[s] = rnd_int(&r, 0, 9) ? 1 : rnd_int(&r, 0, 70);
			w.len[s] = rnd_int(&r, 0, 7) ? w.rows[s] + rnd_int(&r, 0, i % 2 ? 40 : 700) : w.rows[s] == 1 ? 0 : w.rows[s];
		}
		snprintf(name, sizeof(name), "%d sequences, %d SMs, window %d, %d KV heads by %d", w.n_seqs, w.n_sms, w.window, w.n_kv,
			w.heads);
		lists(&w, name);
	}
	w.n_seqs = 3, w.n_sms = 7, w.window = 0;
	for (int s = 0; s < 3; s++)
		w.rows[s] = 1, w.len[s] = 0;
	lists(&w, "padding alone");
	return check_done();
}
