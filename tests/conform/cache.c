/* SPDX-License-Identifier: MIT */
/* tests/conform/cache.c - a cache policy against a brute-force twin. The twin plays the
 * core: requests that match, grow, offer their full pages, shrink and end, in a pool so
 * small that pages are given up all the time. It writes down what insert and evict
 * answered, and so knows which pages hold which prefix, how often each is pinned, and the
 * one right answer of match. How much is kept and what is given up first is the policy's
 * own business. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define N_OPS 10000
#define MAX_POOL 96     /* pages */
#define MAX_LIVE 8      /* requests at once */
#define MAX_PAGES 10    /* of a request */
#define MAX_PT 64       /* tokens in a page */
#define MAX_LEN (MAX_PAGES * MAX_PT)
#define GUARD (-7)      /* no page: a policy that writes it wrote too far */

enum owner { FREE, REQUEST, CACHE };

struct twin_page {
	enum owner owner;
	int32_t pins, depth; /* depth: pages before it */
	uint64_t salt;
	int32_t tokens[MAX_LEN]; /* the prefix that ends with this page */
};

/* A request: its first n_pinned pages are the cache's, pinned once, the first n_twice of
 * them twice; the others are its own. */
struct live {
	bool used;
	uint64_t salt;
	int32_t n, n_pages, n_pinned, n_twice;
	int32_t tokens[MAX_LEN], pages[MAX_PAGES + 1];
};

struct twin {
	const struct nvllm_cache_vt *vt;
	struct nvllm_cache *c;
	int32_t page_tokens, n_pool;
	struct twin_page pages[MAX_POOL];
	struct live live[MAX_LIVE];
	struct rng r;
	int64_t hit_tokens, asked_tokens;
	int op;
};

#define BAD(fmt, ...) ck_bad("operation %d: " fmt, t->op, ##__VA_ARGS__)

/* ---- what the twin knows ---- */

static int32_t count_cached(const struct twin *t, int at_least)
{
	int32_t n = 0;

	for (int32_t i = 0; i < t->n_pool; i++)
		n += t->pages[i].owner == CACHE && t->pages[i].pins >= at_least;
	return n;
}

/* The page that ends the first depth + 1 pages of tokens; -1: none is held. */
static int32_t holder(const struct twin *t, uint64_t salt, const int32_t *tokens, int32_t depth)
{
	size_t bytes = (size_t)(depth + 1) * (size_t)t->page_tokens * sizeof(*tokens);

	for (int32_t i = 0; i < t->n_pool; i++) {
		const struct twin_page *p = &t->pages[i];

		if (p->owner == CACHE && p->salt == salt && p->depth == depth &&
			!memcmp(p->tokens, tokens, bytes))
			return i;
	}
	return -1;
}

/* The policy's own walk, and its figures beside the twin's. */
static int agree(struct twin *t)
{
	struct nvllm_cache_stats s = { .size = sizeof(s) };
	int32_t held = count_cached(t, 0), pinned = count_cached(t, 1);
	int status;

	fake_hush();
	ck_step_begin();
	status = t->vt->check(t->c);
	t->vt->stats(t->c, &s);
	ck_step_end();
	if (ck_refusal(status, "check"))
		return BAD("its own check says %d: %s", status, fake_said());
	if (s.held != held || s.pinned != pinned)
		return BAD("stats say %ld pages held and %ld pinned, it holds %d and %d",
			(long)s.held, (long)s.pinned, held, pinned);
	if (s.hit_tokens != t->hit_tokens || s.asked_tokens != t->asked_tokens)
		return BAD("stats say %ld tokens hit of %ld asked, they were %ld of %ld",
			(long)s.hit_tokens, (long)s.asked_tokens, (long)t->hit_tokens,
			(long)t->asked_tokens);
	return 0;
}

/* ---- the members, called and judged ---- */

static int judge_evicted(struct twin *t, int32_t p)
{
	if (p < 0 || p >= t->n_pool || t->pages[p].owner != CACHE)
		return BAD("evict gave page %d, which it does not hold", p);
	if (t->pages[p].pins)
		return BAD("evict gave the pinned page %d", p);
	t->pages[p].owner = FREE;
	return 0;
}

/* A page whose prefix is no longer held whole can never be matched again. */
static int judge_orphans(struct twin *t)
{
	for (int32_t i = 0; i < t->n_pool; i++) {
		const struct twin_page *p = &t->pages[i];

		if (p->owner == CACHE && p->depth &&
			holder(t, p->salt, p->tokens, p->depth - 1) < 0)
			return BAD("evict gave the page before page %d: nothing finds that now",
				i);
	}
	return 0;
}

static void evict(struct twin *t, int32_t want)
{
	int32_t got[MAX_POOL + 8], n, right = count_cached(t, 0) - count_cached(t, 1);

	right = right < want ? right : want;
	got[want] = GUARD;
	ck_step_begin();
	n = t->vt->evict(t->c, want, got);
	ck_step_end();
	if (n < 0 || n > want || got[want] != GUARD) {
		BAD("evict(%d) returned %d or wrote past that", want, n);
		return;
	}
	for (int32_t i = 0; i < n; i++)
		if (judge_evicted(t, got[i]))
			return;
	if (n != right)
		BAD("evict(%d) gave %d pages, it could give %d", want, n, right);
	else
		judge_orphans(t);
}

/* The longest held prefix, pinned; returns its pages. */
static int32_t match(struct twin *t, uint64_t salt, const int32_t *tokens, int32_t n, int32_t room,
	int32_t *pages)
{
	int32_t right = 0, got;

	while (right < room && holder(t, salt, tokens, right) >= 0)
		right++;
	pages[room] = GUARD;
	ck_step_begin();
	got = t->vt->match(t->c, salt, tokens, n, pages, room);
	ck_step_end();
	t->asked_tokens += n;
	t->hit_tokens += (int64_t)right * t->page_tokens;
	if (got < 0 || got > room || pages[room] != GUARD)
		return BAD("match returned %d or wrote past that, %d pages were asked for", got,
			room), 0;
	for (int32_t i = 0; i < got; i++) {
		if (i >= right || pages[i] != holder(t, salt, tokens, i))
			return BAD("match gave page %d for tokens %d to %d, which it does not hold "
				"(salt %lu)", pages[i], i * t->page_tokens,
				(i + 1) * t->page_tokens - 1, (unsigned long)salt), 0;
		t->pages[pages[i]].pins++;
	}
	if (got < right)
		return BAD("match found %d pages of a prompt, the first %d are held", got,
			right), 0;
	return got;
}

/* Unpins pages [from, to) of a request, in either order. */
static void release(struct twin *t, const struct live *q, int32_t from, int32_t to)
{
	int32_t list[MAX_PAGES], n = to > from ? to - from : 0;
	bool backwards = rng_int(&t->r, 2);

	for (int32_t i = 0; i < n; i++) {
		list[i] = q->pages[backwards ? to - 1 - i : from + i];
		t->pages[list[i]].pins--;
	}
	ck_step_begin();
	t->vt->release(t->c, list, n);
	ck_step_end();
}

/* Page i of what insert wrote: the page that was held, or the request's own. */
static int judge_inserted(struct twin *t, struct live *q, int32_t i, int32_t got)
{
	int32_t p = holder(t, q->salt, q->tokens, i), own = q->pages[i];

	if (p < 0 && got != own)
		return BAD("insert wrote page %d where it was given page %d and held none", got,
			own);
	if (p >= 0 && got != p)
		return BAD("insert wrote page %d for a prefix that page %d holds", got, p);
	if (p < 0) {
		t->pages[own].owner = CACHE;
		t->pages[own].salt = q->salt;
		t->pages[own].depth = i;
		t->pages[own].pins = 0;
		memcpy(t->pages[own].tokens, q->tokens,
			(size_t)(i + 1) * (size_t)t->page_tokens * sizeof(*q->tokens));
	} else if (own != p) {
		t->pages[own].owner = FREE; /* the core frees its own */
	}
	q->pages[i] = got;
	t->pages[got].pins++;
	return 0;
}

/* Offers the first n pages; returns how many are the cache's now. */
static int32_t insert(struct twin *t, struct live *q, int32_t n)
{
	int32_t lent[MAX_PAGES + 1], kept, held = 0;

	memcpy(lent, q->pages, sizeof(lent));
	lent[n] = GUARD;
	while (held < n && holder(t, q->salt, q->tokens, held) >= 0)
		held++;
	ck_step_begin();
	kept = t->vt->insert(t->c, q->salt, q->tokens, n, lent);
	ck_step_end();
	if (kept < held || kept > n || lent[n] != GUARD)
		return BAD("insert of %d pages, the first %d of which are held, returned %d or "
			"wrote past them", n, held, kept), 0;
	for (int32_t i = kept; i < n; i++)
		if (lent[i] != q->pages[i])
			return BAD("insert kept %d pages and wrote to the %dth", kept, i + 1), 0;
	for (int32_t i = 0; i < kept; i++)
		if (judge_inserted(t, q, i, lent[i]))
			return 0;
	return kept;
}

/* ---- requests ---- */

/* Blocks of three sorts that differ in their first or last token, so that prompts share
 * beginnings and the same block stands behind different ones. */
static void make_tokens(struct twin *t, struct live *q, int32_t from)
{
	int32_t pt = t->page_tokens;

	for (int32_t i = from; i < MAX_PAGES; i++) {
		int64_t sort = rng_int(&t->r, 8);

		for (int32_t j = 0; j < pt; j++)
			q->tokens[i * pt + j] = 1 + (sort == 6 && j == pt - 1) +
				2 * (sort == 7 && j == 0);
	}
}

static void make_request(struct twin *t, struct live *q)
{
	static const uint64_t salts[] = { 0, 0, 1, (uint64_t)1 << 63 };

	memset(q, 0, sizeof(*q));
	q->used = true;
	q->salt = salts[rng_int(&t->r, 4)];
	q->n = 1 + (int32_t)rng_int(&t->r, 3 * MAX_PAGES / 4 * t->page_tokens);
	make_tokens(t, q, 0);
}

/* A request gives up its pages from `from` on. */
static void trim(struct twin *t, struct live *q, int32_t from)
{
	release(t, q, from, q->n_pinned);
	release(t, q, from, q->n_twice);
	for (int32_t i = from; i < q->n_pages; i++)
		if (t->pages[q->pages[i]].owner == REQUEST)
			t->pages[q->pages[i]].owner = FREE;
	q->n_pages = from;
	q->n_pinned = q->n_pinned < from ? q->n_pinned : from;
	q->n_twice = q->n_twice < from ? q->n_twice : from;
}

static void finish(struct twin *t, struct live *q)
{
	trim(t, q, 0);
	q->used = false;
}

/* One more page of its own; false: there is none. */
static bool take_page(struct twin *t, struct live *q)
{
	for (int turn = 0; turn < 2 && ck_good(); turn++) {
		for (int32_t i = 0; i < t->n_pool; i++)
			if (t->pages[i].owner == FREE) {
				t->pages[i].owner = REQUEST;
				q->pages[q->n_pages++] = i;
				return true;
			}
		evict(t, 1 + (int32_t)rng_int(&t->r, 3));
	}
	return false;
}

/* Pages for all its tokens, or its end. */
static void cover(struct twin *t, struct live *q)
{
	int32_t need = (q->n + t->page_tokens - 1) / t->page_tokens;

	while (q->n_pages < need)
		if (!take_page(t, q)) {
			if (ck_good())
				finish(t, q);
			return;
		}
}

static void op_start(struct twin *t, struct live *q)
{
	make_request(t, q);
	q->n_pinned = q->n_pages = match(t, q->salt, q->tokens, q->n,
		(q->n - 1) / t->page_tokens, q->pages);
	if (ck_good())
		cover(t, q);
}

static void op_grow(struct twin *t, struct live *q)
{
	int32_t most = MAX_PAGES * t->page_tokens;

	q->n += 1 + (int32_t)rng_int(&t->r, 2 * t->page_tokens);
	q->n = q->n < most ? q->n : most;
	cover(t, q);
}

/* The old pins go, as the core does it, or stay beside the new ones for a while. */
static void op_offer(struct twin *t, struct live *q)
{
	int32_t full = q->n / t->page_tokens, n = full, kept;

	if (rng_int(&t->r, 4) == 0)
		n = q->n_pinned + (int32_t)rng_int(&t->r, full - q->n_pinned + 1);
	kept = insert(t, q, n);
	if (!ck_good())
		return;
	if (q->n_twice || rng_int(&t->r, 4))
		release(t, q, 0, q->n_pinned);
	else
		q->n_twice = q->n_pinned;
	q->n_pinned = kept;
}

/* Goes back to an earlier page and on with other tokens. */
static void op_trim(struct twin *t, struct live *q)
{
	int32_t from = (int32_t)rng_int(&t->r, q->n_pages + 1);

	if (from == 0) {
		finish(t, q);
		return;
	}
	trim(t, q, from);
	q->n = q->n < from * t->page_tokens ? q->n : from * t->page_tokens;
	make_tokens(t, q, from);
}

/* A prompt that is matched and not run, with room for any number of pages. */
static void op_look(struct twin *t, struct live *unused)
{
	struct live q;

	(void)unused;
	make_request(t, &q);
	q.n_pinned = match(t, q.salt, q.tokens, q.n,
		(int32_t)rng_int(&t->r, q.n / t->page_tokens + 1), q.pages);
	if (ck_good())
		release(t, &q, 0, q.n_pinned);
}

static void op_evict(struct twin *t, struct live *unused)
{
	(void)unused;
	evict(t, (int32_t)rng_int(&t->r, rng_int(&t->r, 16) ? 4 : t->n_pool + 4));
}

static void one_op(struct twin *t)
{
	static void (*const ops[])(struct twin *, struct live *) = { op_grow, op_grow, op_offer,
		op_offer, op_offer, op_trim, finish, finish };
	struct live *q = &t->live[rng_int(&t->r, MAX_LIVE)];
	int64_t k = rng_int(&t->r, 16);

	if (k == 0)
		op_evict(t, q);
	else if (k == 1)
		op_look(t, q);
	else
		(q->used ? ops[rng_int(&t->r, 8)] : op_start)(t, q);
	if (ck_good())
		agree(t);
}

/* ---- the suite ---- */

static struct twin *twin_open(const struct nvllm_component *c, int32_t page_tokens, int32_t n_pool)
{
	struct twin *t = calloc(1, sizeof(*t));
	int err, status;
	const void *conf = ck_conf(c, NULL, &err);

	if (!t || err) {
		free(t);
		return NULL;
	}
	t->vt = c->vt;
	t->page_tokens = page_tokens;
	t->n_pool = n_pool;
	t->r.s = 5;
	fake_hush();
	status = ck_refusal(t->vt->create(fake_host(), n_pool, page_tokens, conf, &t->c), "create");
	if (status || !t->c) {
		ck_bad("create failed: %s", fake_said());
		free(t);
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

/* Every request ends, and the cache gives up everything. */
static void wind_down(struct twin *t)
{
	struct live q;

	for (int i = 0; i < MAX_LIVE; i++)
		if (t->live[i].used)
			finish(t, &t->live[i]);
	agree(t);
	if (ck_good())
		evict(t, t->n_pool + 3);
	make_request(t, &q);
	if (ck_good())
		match(t, q.salt, q.tokens, MAX_PAGES * t->page_tokens, MAX_PAGES, q.pages);
	if (ck_good())
		agree(t);
}

static void check_traffic(const struct nvllm_component *c, int32_t page_tokens, int32_t n_pool)
{
	struct twin *t;

	ck_begin("%d random operations agree with a brute-force twin: pool of %d, page_tokens %d",
		N_OPS, n_pool, page_tokens);
	t = twin_open(c, page_tokens, n_pool);
	for (; t && t->op < N_OPS && ck_good(); t->op++)
		one_op(t);
	if (t && ck_good())
		wind_down(t);
	twin_close(t);
	ck_end();
}

static void check_edges(const struct nvllm_component *c)
{
	static const int32_t tokens[3] = { 1, 2, 3 };
	int32_t pages[4] = { 0, GUARD, GUARD, GUARD };
	struct twin *t;

	ck_begin("nothing asked, nothing given");
	t = twin_open(c, 4, 1);
	if (t) {
		if (t->vt->match(t->c, 0, tokens, 3, pages, 0) != 0)
			ck_bad("match with room for no page found some");
		t->asked_tokens += 3;
		if (t->vt->insert(t->c, 0, tokens, 0, pages) != 0)
			ck_bad("insert of no page kept some");
		if (t->vt->evict(t->c, 0, pages) != 0 || t->vt->evict(t->c, 3, pages) != 0)
			ck_bad("evict of an empty cache gave pages");
		t->vt->release(t->c, pages, 0);
		agree(t);
	}
	twin_close(t);
	ck_end();
}

static void check_sizes(const struct nvllm_component *c)
{
	static const struct { int64_t n_pages; int32_t page_tokens; } sizes[] = {
		{ (int64_t)1 << 40, 16 }, { INT32_MAX, INT32_MAX }, { (int64_t)1 << 30, 64 } };
	const struct nvllm_cache_vt *vt = c->vt;
	int err;
	const void *conf;

	ck_begin("a pool too large is refused in a sentence");
	conf = ck_conf(c, NULL, &err);
	for (size_t i = 0; !err && i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct nvllm_cache *cache = NULL;
		int status;

		fake_hush();
		status = vt->create(fake_host(), sizes[i].n_pages, sizes[i].page_tokens, conf,
			&cache);
		if (!ck_refusal(status, "create") && NVLLM_HAS(vt, destroy) && vt->destroy)
			vt->destroy(cache);
	}
	ck_end();
}

void suite_cache(const struct nvllm_component *c)
{
	static const int32_t pools[][2] = { { 1, 24 }, { 4, 40 }, { 64, MAX_POOL }, { 16, 5 },
		{ 3, 1 } };

	check_edges(c);
	check_sizes(c);
	for (size_t i = 0; i < sizeof(pools) / sizeof(*pools); i++)
		check_traffic(c, pools[i][0], pools[i][1]);
}
