/* SPDX-License-Identifier: MIT */
/* tests/conform/cache.c - a cache policy against a brute-force twin: the twin knows what
 * each page holds and how often it is pinned, and judges what the policy answers. How
 * much is kept is the policy's own business; what is returned must be right. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define N_PAGES 96
#define N_OPS 10000
#define MAX_LEN 160 /* tokens of a request */
#define MAX_LIVE 12

enum owner { FREE, REQUEST, CACHE };

struct twin_page {
	enum owner owner;
	int32_t pins;
	uint64_t salt;
	int32_t n;  /* tokens of the prefix that ends with this page */
	int32_t tokens[MAX_LEN];
};

/* A running request: pages it was lent by match or insert (to be released), pages it owns. */
struct live {
	int used;
	uint64_t salt;
	int32_t n;
	int32_t tokens[MAX_LEN];
	int32_t pages[MAX_LEN], n_pages, matched, inserted;
	int32_t lent[MAX_LEN]; /* what insert wrote */
};

struct twin {
	const struct nvllm_cache_vt *vt;
	struct nvllm_cache *c;
	int32_t page_tokens;
	struct twin_page pages[N_PAGES];
	struct live live[MAX_LIVE];
	struct rng r;
	int64_t n_hits;
};

static int32_t count_unpinned(const struct twin *t)
{
	int32_t n = 0;

	for (int i = 0; i < N_PAGES; i++)
		n += t->pages[i].owner == CACHE && t->pages[i].pins == 0;
	return n;
}

static bool holds(const struct twin_page *p, uint64_t salt, const int32_t *tokens, int32_t n)
{
	return p->owner == CACHE && p->salt == salt && p->n == n &&
		!memcmp(p->tokens, tokens, sizeof(*tokens) * (size_t)n);
}

/* The policy's own walk, and its figures beside the twin's. */
static int agree(struct twin *t, int op)
{
	struct nvllm_cache_stats s = { .size = sizeof(s) };
	int64_t held = 0, pinned = 0;
	int status;

	fake_hush();
	status = t->vt->check(t->c);
	if (status)
		return ck_bad("operation %d: its own check says %d: %s", op, status, fake_said());
	for (int i = 0; i < N_PAGES; i++) {
		held += t->pages[i].owner == CACHE;
		pinned += t->pages[i].owner == CACHE && t->pages[i].pins > 0;
	}
	t->vt->stats(t->c, &s);
	if (s.held != held || s.pinned != pinned)
		return ck_bad(
			"operation %d: stats say %ld held and %ld pinned, it holds %ld and %ld", op,
			(long)s.held, (long)s.pinned, (long)held, (long)pinned);
	if (s.hit_tokens > s.asked_tokens || s.hit_tokens < 0)
		return ck_bad("operation %d: stats say %ld tokens hit of %ld asked", op,
			(long)s.hit_tokens, (long)s.asked_tokens);
	return 0;
}

/* Gets a page for the core: a free one, or what evict gives. -1 = none. */
static int32_t take_page(struct twin *t, int op)
{
	int32_t got[N_PAGES + 1], n, want, unpinned = count_unpinned(t);

	for (int32_t i = 0; i < N_PAGES; i++)
		if (t->pages[i].owner == FREE)
			return i;
	want = 1 + (int32_t)rng_int(&t->r, 4);
	got[want] = -7;
	ck_step_begin();
	n = t->vt->evict(t->c, want, got);
	ck_step_end();
	if (n < 0 || n > want || got[want] != -7)
		return ck_bad("operation %d: evict(%d) returned %d", op, want, n);
	if (n == 0 && unpinned > 0)
		return ck_bad("operation %d: evict gives nothing, %d unpinned pages are held", op,
			unpinned);
	for (int32_t i = 0; i < n; i++) {
		if (got[i] < 0 || got[i] >= N_PAGES || t->pages[got[i]].owner != CACHE)
			return ck_bad("operation %d: evict gave page %d, which it does not hold",
				op, got[i]);
		if (t->pages[got[i]].pins)
			return ck_bad("operation %d: evict gave the pinned page %d", op, got[i]);
		t->pages[got[i]].owner = FREE;
	}
	return n ? got[0] : -1;
}

static void drop(struct twin *t, const int32_t *pages, int32_t n)
{
	for (int32_t i = 0; i < n; i++)
		t->pages[pages[i]].pins--;
	ck_step_begin();
	t->vt->release(t->c, pages, n);
	ck_step_end();
}

/* A request ends: what was pinned is released once, what it owns goes back to the core. */
static void finish(struct twin *t, struct live *q)
{
	if (q->matched)
		drop(t, q->pages, q->matched);
	if (q->inserted)
		drop(t, q->lent, q->inserted);
	for (int32_t i = 0; i < q->n_pages; i++)
		if (t->pages[q->pages[i]].owner == REQUEST)
			t->pages[q->pages[i]].owner = FREE;
	q->used = 0;
}

/* Prompts share beginnings: a few roots, random ends, two salts, an alphabet of three. */
static void make_prompt(struct twin *t, struct live *q)
{
	struct rng root = { 1 + (uint64_t)rng_int(&t->r, 4) };
	int32_t shared = (int32_t)rng_int(&t->r, MAX_LEN / 2);

	memset(q, 0, sizeof(*q));
	q->used = 1;
	q->salt = rng_int(&t->r, 4) == 0 ? 77 : 0;
	q->n = 1 + (int32_t)rng_int(&t->r, MAX_LEN - 1);
	for (int32_t i = 0; i < q->n; i++)
		q->tokens[i] = i < shared ? (int32_t)rng_int(&root, 3) : (int32_t)rng_int(&t->r, 3);
}

static void ask(struct twin *t, struct live *q, int op)
{
	int32_t room = (q->n - 1) / t->page_tokens, n;

	q->pages[room] = -7;
	ck_step_begin();
	n = t->vt->match(t->c, q->salt, q->tokens, q->n, q->pages, room);
	ck_step_end();
	if (n < 0 || n > room || q->pages[room] != -7) {
		ck_bad("operation %d: match returned %d or wrote past it, %d pages were asked for",
			op, n, room);
		return;
	}
	for (int32_t i = 0; i < n; i++) {
		int32_t p = q->pages[i];

		if (p < 0 || p >= N_PAGES ||
			!holds(&t->pages[p], q->salt, q->tokens, (i + 1) * t->page_tokens)) {
			ck_bad("operation %d: match gave page %d for tokens %d to %d, which it "
			       "does not hold "
			       "(salt %lu)",
				op, p, i * t->page_tokens, (i + 1) * t->page_tokens - 1,
				(unsigned long)q->salt);
			return;
		}
		t->pages[p].pins++;
		t->n_hits++;
	}
	q->matched = q->n_pages = n;
}

/* Pages for the rest of the prompt; without enough the request is given up. */
static bool grow(struct twin *t, struct live *q, int op)
{
	int32_t need = (q->n + t->page_tokens - 1) / t->page_tokens;

	while (q->n_pages < need) {
		int32_t p = take_page(t, op);

		if (p < 0)
			return false;
		t->pages[p].owner = REQUEST;
		q->pages[q->n_pages++] = p;
	}
	return true;
}

/* One page of the answer of insert. */
static int judge_insert(struct twin *t, struct live *q, int32_t i, int op)
{
	int32_t len = (i + 1) * t->page_tokens, p = q->lent[i];
	struct twin_page *tp;

	if (p < 0 || p >= N_PAGES)
		return ck_bad("operation %d: insert wrote page %d", op, p);
	tp = &t->pages[p];
	if (p == q->pages[i] && tp->owner == REQUEST) {
		for (int j = 0; j < N_PAGES; j++)
			if (holds(&t->pages[j], q->salt, q->tokens, len))
				return ck_bad("operation %d: insert took page %d, page %d holds "
					      "the same prefix",
					op, p, j);
		tp->owner = CACHE;
		tp->salt = q->salt;
		tp->pins = 0;
		tp->n = len;
		memcpy(tp->tokens, q->tokens, sizeof(int32_t) * (size_t)len);
	} else if (!holds(tp, q->salt, q->tokens, len)) {
		return ck_bad(
			"operation %d: insert gave page %d for a prefix that it does not hold", op,
			p);
	} else if (p != q->pages[i] && t->pages[q->pages[i]].owner == REQUEST) {
		t->pages[q->pages[i]].owner = FREE; /* the core frees its own */
		q->pages[i] = p;
	}
	tp->pins++;
	return 0;
}

static void keep(struct twin *t, struct live *q, int op)
{
	int32_t n = q->n / t->page_tokens, kept;

	memcpy(q->lent, q->pages, sizeof(*q->lent) * (size_t)n);
	q->lent[n] = -7;
	ck_step_begin();
	kept = t->vt->insert(t->c, q->salt, q->tokens, n, q->lent);
	ck_step_end();
	if (kept < 0 || kept > n || q->lent[n] != -7) {
		ck_bad("operation %d: insert of %d pages returned %d or wrote past them", op, n,
			kept);
		return;
	}
	for (int32_t i = 0; i < kept; i++)
		if (judge_insert(t, q, i, op))
			return;
	q->inserted = kept;
}

static void one_op(struct twin *t, int op)
{
	struct live *q = &t->live[rng_int(&t->r, MAX_LIVE)];

	if (q->used && q->inserted == 0 && rng_int(&t->r, 3)) {
		keep(t, q, op);
	} else if (q->used) {
		finish(t, q);
	} else {
		make_prompt(t, q);
		ask(t, q, op);
		if (ck_good() && !grow(t, q, op))
			finish(t, q);
	}
	if (ck_good())
		agree(t, op);
}

static struct twin *twin_open(const struct nvllm_component *c, int32_t page_tokens)
{
	struct twin *t = calloc(1, sizeof(*t));
	int err;
	const void *conf = ck_conf(c, NULL, &err);

	if (!t || err)
		return NULL;
	t->vt = c->vt;
	t->page_tokens = page_tokens;
	t->r.s = 5;
	fake_hush();
	if (ck_refusal(t->vt->create(fake_host(), N_PAGES, page_tokens, conf, &t->c), "create") <
			0 ||
		!t->c) {
		ck_bad("create failed: %s", fake_said());
		return NULL;
	}
	return t;
}

static void twin_close(struct twin *t)
{
	if (t && NVLLM_HAS(t->vt, destroy) && t->vt->destroy)
		t->vt->destroy(t->c);
	free(t);
}

static void check_traffic(const struct nvllm_component *c, int32_t page_tokens)
{
	struct twin *t;

	ck_begin("%d random operations agree with a brute-force twin, pages of %d", N_OPS,
		page_tokens);
	t = twin_open(c, page_tokens);
	for (int op = 0; t && op < N_OPS && ck_good(); op++)
		one_op(t, op);
	for (int i = 0; t && i < MAX_LIVE && ck_good(); i++)
		if (t->live[i].used)
			finish(t, &t->live[i]);
	if (t && ck_good()) {
		struct nvllm_cache_stats s = { .size = sizeof(s) };

		agree(t, N_OPS);
		t->vt->stats(t->c, &s);
		if (s.pinned != 0)
			ck_bad("%ld pages are pinned after every request has ended",
				(long)s.pinned);
	}
	twin_close(t);
	ck_end();
}

static void check_edges(const struct nvllm_component *c)
{
	static const int32_t tokens[3] = { 1, 2, 3 };
	int32_t pages[4] = { 0, -7, -7, -7 };
	struct twin *t;

	ck_begin("nothing asked, nothing given");
	t = twin_open(c, 4);
	if (t) {
		if (t->vt->match(t->c, 0, tokens, 3, pages, 0) != 0)
			ck_bad("match with room for no page found some");
		if (t->vt->insert(t->c, 0, tokens, 0, pages) != 0)
			ck_bad("insert of no page kept some");
		if (t->vt->evict(t->c, 0, pages) != 0 || t->vt->evict(t->c, 3, pages) != 0)
			ck_bad("evict of an empty cache gave pages");
		t->vt->release(t->c, pages, 0);
		agree(t, 0);
	}
	twin_close(t);
	ck_end();
}

void suite_cache(const struct nvllm_component *c)
{
	check_edges(c);
	check_traffic(c, 1);
	check_traffic(c, 4);
	check_traffic(c, 16);
}
