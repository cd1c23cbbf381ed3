/* SPDX-License-Identifier: MIT */
/* tests/unit/test_cache.c - what the conformance suite leaves to the policies hash and
 * radix: that they keep all they are given, in which order they give it up, that many
 * children and colliding hashes do no harm, and that misuse is found. A prompt is a word,
 * a token its letter, and a page one token. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <nvllm/cache.h>
#include <nvllm/plugin.h>

#define MAX_POOL 20000
#define MAX_WORD 8

struct policy { const char *name, *key; int64_t value; };
static const struct policy policies[] = { { "hash", NULL, 0 }, { "hash", "hash_bits", 8 },
	{ "hash", "hash_bits", 1 }, { "radix", NULL, 0 }, { "radix", "evict", 1 } };
#define N_POLICIES (sizeof(policies) / sizeof(*policies))

static struct rig {
	const struct nvllm_cache_vt *vt;
	struct nvllm_cache *c;
	char word[MAX_POOL][MAX_WORD + 1]; /* what a held page ends; "" = the page is free */
	char said[512], out[512];
	void *blocks[16];
	int n_blocks, room;                /* blocks host->alloc still gives */
} rig;

/* ---- the host ---- */

static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...) {}

static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(rig.said, sizeof(rig.said), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	if (rig.n_blocks == rig.room || bytes > (size_t)1 << 30)
		return NULL;
	return rig.blocks[rig.n_blocks++] = calloc(1, bytes);
}

static const void *host_get(const struct nvllm_host *h, const char *id) { return NULL; }

static const struct nvllm_host host = { sizeof(host), NVLLM_ABI, 0, 1, host_log, host_fail,
	host_alloc, host_get };

/* ---- the policy ---- */

static const struct nvllm_component *find_component(const char *name)
{
	const char *env = getenv("NVLLM_PLUGIN_PATH");
	char *dirs = strdup(env ? env : "build/plugins"), *save = NULL, path[4096];
	const struct nvllm_plugin *p;
	void *so = NULL;

	for (char *d = strtok_r(dirs, ":", &save); d && !so; d = strtok_r(NULL, ":", &save)) {
		snprintf(path, sizeof(path), "%s/cache_%s.so", d, name);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	}
	free(dirs);
	assert_non_null(so);
	p = dlsym(so, "nvllm_plugin");
	assert_non_null(p);
	return p->components[0];
}

/* The options of hash and radix: numbers and indices of names, all default to 64 or 0. */
static int rig_create(const struct policy *y, int64_t n_pages, int32_t page_tokens, int room)
{
	const struct nvllm_component *comp = find_component(y->name);
	char conf[64] = { 0 };

	memset(&rig, 0, sizeof(rig));
	rig.room = room;
	rig.vt = comp->vt;
	assert_true(comp->conf_size <= sizeof(conf));
	for (const struct nvllm_option *o = comp->options; o->key; o++) {
		bool set = y->key && !strcmp(o->key, y->key), number = o->type == NVLLM_OPT_INT;
		int64_t v = set ? y->value : number ? atoll(o->def) : 0;
		int32_t index = (int32_t)v;

		if (number)
			memcpy(conf + o->offset, &v, sizeof(v));
		else
			memcpy(conf + o->offset, &index, sizeof(index));
	}
	return rig.vt->create(&host, n_pages, page_tokens, conf, &rig.c);
}

static void rig_open(const struct policy *y, int64_t n_pages)
{
	assert_int_equal(rig_create(y, n_pages, 1, 16), 0);
}

static void rig_close(void)
{
	if (rig.c && rig.vt->check(rig.c))
		fail_msg("%s", rig.said);
	while (rig.n_blocks > 0)
		free(rig.blocks[--rig.n_blocks]);
}

static int32_t letters(const char *word, int32_t *tokens)
{
	int32_t n = 0;

	for (; word[n]; n++)
		tokens[n] = word[n];
	return n;
}

/* A new prompt and its pages; they stay pinned. Returns how many. */
static int32_t give(uint64_t salt, const char *word, int32_t *pages)
{
	int32_t tokens[MAX_WORD] = { 0 }, n = letters(word, tokens), p = 0;

	for (int32_t i = 0; i < n; i++, p++) {
		while (rig.word[p][0])
			assert_true(++p < MAX_POOL);
		pages[i] = p;
	}
	assert_int_equal(rig.vt->insert(rig.c, salt, tokens, n, pages), n);
	for (int32_t i = 0; i < n; i++)
		snprintf(rig.word[pages[i]], sizeof(rig.word[0]), "%.*s", i + 1, word);
	return n;
}

static void keep(uint64_t salt, const char *word)
{
	int32_t pages[MAX_WORD], n = give(salt, word, pages);

	rig.vt->release(rig.c, pages, n);
}

/* How many pages of a prompt are held, and are they the right ones? */
static int32_t hit(uint64_t salt, const char *word)
{
	int32_t tokens[MAX_WORD] = { 0 }, pages[MAX_WORD], n = letters(word, tokens), k;

	k = rig.vt->match(rig.c, salt, tokens, n, pages, n);
	for (int32_t i = 0; i < k; i++)
		assert_true(strlen(rig.word[pages[i]]) == (size_t)i + 1 &&
			!strncmp(rig.word[pages[i]], word, (size_t)i + 1));
	rig.vt->release(rig.c, pages, k);
	return k;
}

/* The prefixes whose pages are given up, in order: "abc ab a". */
static const char *evicted(int32_t want)
{
	int32_t pages[64], n = rig.vt->evict(rig.c, want, pages);
	size_t at = 0;

	rig.out[0] = 0;
	for (int32_t i = 0; i < n; i++) {
		char *word = rig.word[pages[i]];

		at += (size_t)snprintf(rig.out + at, sizeof(rig.out) - at, "%s%s", i ? " " : "",
			word);
		word[0] = 0;
	}
	return rig.out;
}

/* ---- tests ---- */

static void lru_order(void **state)
{
	int32_t pages[2 * MAX_WORD], n;

	for (size_t i = 0; i < N_POLICIES - 1; i++) {
		rig_open(&policies[i], 16);
		keep(0, "abc");
		keep(0, "xy");
		assert_int_equal(hit(0, "abq"), 2);
		assert_string_equal(evicted(9), "abc xy x ab a"); /* the c was used before xy */
		keep(0, "abc");
		keep(0, "abd");
		assert_int_equal(hit(0, "abc"), 3);
		assert_string_equal(evicted(3), "abd abc ab");
		n = give(0, "pqrs", pages); /* one release, two prompts: the deeper page first */
		n += give(0, "xy", pages + n);
		rig.vt->release(rig.c, pages, n);
		assert_string_equal(evicted(4), "a pqrs pqr xy");
		rig_close();
	}
}

static void lfu_order(void **state)
{
	rig_open(&policies[N_POLICIES - 1], 16);
	keep(0, "xy");
	keep(0, "abc");
	keep(0, "pq");
	assert_int_equal(hit(0, "xy"), 2);
	assert_int_equal(hit(0, "xy"), 2);
	assert_int_equal(hit(0, "pq"), 2);
	keep(0, "xz");
	/* never matched, the longest unused first */
	assert_string_equal(evicted(4), "abc ab a xz");
	assert_string_equal(evicted(9), "pq p xy x");
	keep(0, "pq"); /* a new page starts at nothing */
	keep(0, "ab");
	assert_int_equal(hit(0, "a"), 1);
	assert_string_equal(evicted(9), "pq p ab a");
	rig_close();
}

static void pinned_stay(void **state)
{
	int32_t pages[MAX_WORD], n;

	for (size_t i = 0; i < N_POLICIES; i++) {
		rig_open(&policies[i], 16);
		n = give(0, "abcd", pages);
		keep(0, "abxy");
		assert_string_equal(evicted(9), "abxy abx");
		rig.vt->release(rig.c, pages + 3, 1);
		assert_string_equal(evicted(9), "abcd");
		assert_int_equal(hit(0, "abcd"), 3);
		rig.vt->release(rig.c, pages, n - 1);
		assert_string_equal(evicted(9), "abc ab a");
		rig_close();
	}
}

static void salts_and_collisions(void **state)
{
	for (size_t i = 0; i < N_POLICIES; i++) {
		rig_open(&policies[i], 16);
		keep(1, "abc");
		keep(2, "xbc");
		assert_int_equal(hit(2, "abc"), 0);
		assert_int_equal(hit(0, "abc"), 0);
		assert_int_equal(hit(1, "abc"), 3);
		assert_int_equal(hit(2, "xbc"), 3);
		if (policies[i].key && !strcmp(policies[i].key, "evict"))
			assert_int_equal(hit(2, "xbc"), 3);
		assert_string_equal(evicted(3), "abc ab a");
		keep(1, "zbc"); /* the same page numbers, the same ends, another beginning */
		assert_int_equal(hit(1, "abc"), 0);
		assert_int_equal(hit(1, "zbc"), 3);
		assert_int_equal(hit(2, "xbc"), 3);
		rig_close();
	}
}

static void many_children(void **state)
{
	int32_t n = MAX_POOL / 2, page;

	for (size_t i = 0; i < N_POLICIES; i++) {
		if (policies[i].key && !strcmp(policies[i].key, "hash_bits"))
			continue; /* so few buckets are for small pools */
		rig_open(&policies[i], 2 * n);
		/* 10,000 prompts, and as many that go on from the one that is 3 */
		for (int32_t p = 0; p < n; p++) {
			int32_t tokens[2] = { p, 7 }, under[2] = { 3, p }, pages[2] = { p, n + p };

			assert_int_equal(rig.vt->insert(rig.c, 0, tokens, 1, pages), 1);
			rig.vt->release(rig.c, pages, 1);
			if (p < 3)
				continue;
			pages[0] = 2 * n - 1; /* not taken: page 3 is held */
			assert_int_equal(rig.vt->insert(rig.c, 0, under, 2, pages), 2);
			assert_true(pages[0] == 3 && pages[1] == n + p);
			rig.vt->release(rig.c, pages, 2);
		}
		for (int32_t p = 0; p < n; p++) {
			int32_t under[2] = { 3, p }, pages[2];

			assert_int_equal(rig.vt->match(rig.c, 0, &p, 1, &page, 1), 1);
			assert_int_equal(page, p);
			rig.vt->release(rig.c, &page, 1);
			assert_int_equal(rig.vt->match(rig.c, 0, under, 2, pages, 2), 1 + (p >= 3));
			assert_int_equal(pages[p >= 3], p < 3 ? 3 : n + p);
			rig.vt->release(rig.c, pages, 1 + (p >= 3));
		}
		for (int32_t p = 0; p < 2 * n - 3; p++)
			assert_int_equal(rig.vt->evict(rig.c, 1, &page), 1);
		assert_int_equal(rig.vt->evict(rig.c, 1, &page), 0);
		rig_close();
	}
}

static void misuse_is_found(void **state)
{
	static const int32_t tokens[] = { 1, 2, 3 };

	for (size_t i = 0; i < N_POLICIES; i++) {
		int32_t pages[3] = { 0, 1, 0 }, outside[3] = { 2, 16, 3 };

		rig_open(&policies[i], 16);
		assert_int_equal(rig.vt->insert(rig.c, 0, tokens, 3, pages), 2); /* page 0 twice */
		assert_int_equal(rig.vt->insert(rig.c, 9, tokens, 3, outside), 1); /* no page 16 */
		assert_int_equal(rig.vt->check(rig.c), 0);
		rig.vt->release(rig.c, pages, 1); /* the first before the second */
		assert_true(rig.vt->check(rig.c) < 0 && strstr(rig.said, "page 1 is pinned"));
		rig.c = NULL;
		rig_close();
		rig_open(&policies[i], 16);
		outside[0] = 2;
		assert_int_equal(rig.vt->insert(rig.c, 9, tokens, 1, outside), 1);
		rig.vt->release(rig.c, outside, 1);
		rig.vt->release(rig.c, outside, 1);
		assert_true(rig.vt->check(rig.c) < 0 && strstr(rig.said, "page 2 was released"));
		rig.c = NULL;
		rig_close();
	}
}

static void no_memory(void **state)
{
	for (size_t i = 0; i < N_POLICIES; i++) {
		int status, room = 0;

		for (; (status = rig_create(&policies[i], 16, 4, room)); room++) {
			assert_int_equal(status, NVLLM_ENOMEM);
			assert_true(rig.said[0] && room < 16);
			rig.c = NULL;
			rig_close();
		}
		assert_true(room > 3);
		rig_close();
		assert_int_equal(rig_create(&policies[i], INT64_MAX, 16, 16), NVLLM_EINVAL);
		rig.c = NULL;
		rig_close();
		assert_int_equal(rig_create(&policies[i], INT32_MAX, INT32_MAX, 16), NVLLM_ENOMEM);
		rig.c = NULL;
		rig_close();
	}
}

/* ---- the order again, against a model, at random ---- */

struct model_page { int64_t hits, used; int pins; };

static bool is_leaf(int32_t p)
{
	size_t len = strlen(rig.word[p]);

	for (int32_t i = 0; i < 16; i++)
		if (strlen(rig.word[i]) == len + 1 && !strncmp(rig.word[i], rig.word[p], len))
			return false;
	return true;
}

static int32_t goes_next(const struct model_page *m, bool lfu)
{
	int32_t best = -1;

	for (int32_t p = 0; p < 16; p++) {
		if (!rig.word[p][0] || m[p].pins || !is_leaf(p))
			continue;
		if (best < 0 || (lfu && m[p].hits != m[best].hits ? m[p].hits < m[best].hits :
			m[p].used < m[best].used))
			best = p;
	}
	return best;
}

static void give_up_one(struct model_page *m, bool lfu)
{
	int32_t right = goes_next(m, lfu), got, n = rig.vt->evict(rig.c, 1, &got);

	assert_int_equal(n, right >= 0);
	if (n) {
		assert_string_equal(rig.word[got], rig.word[right]);
		rig.word[got][0] = 0;
		m[got] = (struct model_page){ 0 };
	}
}

static int32_t free_page(int32_t from)
{
	while (from < 16 && rig.word[from][0])
		from++;
	return from;
}

/* match, pages for the rest of the word if there are, insert, release: a request's life. */
static void random_request(struct model_page *m, bool lfu, uint32_t *seed, int64_t clock)
{
	char word[6] = "", *w = word;
	int32_t tokens[MAX_WORD] = { 0 }, pages[MAX_WORD], n, k, page = -1;

	for (int len = 1 + rand_r(seed) % 5; w < word + len; w++)
		*w = (char)('a' + rand_r(seed) % 3);
	n = letters(word, tokens);
	k = rig.vt->match(rig.c, 0, tokens, n, pages, n);
	for (int32_t i = 0; i < k; i++)
		m[pages[i]].hits++, m[pages[i]].pins++;
	for (int32_t i = k; i < n && (page = free_page(page + 1)) < 16; i++)
		pages[i] = page;
	if (page == 16) { /* another word may have it */
		give_up_one(m, lfu);
		n = k;
	}
	assert_int_equal(rig.vt->insert(rig.c, 0, tokens, n, pages), n);
	for (int32_t i = 0; i < n; i++) {
		snprintf(rig.word[pages[i]], sizeof(rig.word[0]), "%.*s", i + 1, word);
		m[pages[i]].used = clock;
		m[pages[i]].pins = 0;
	}
	rig.vt->release(rig.c, pages, k);
	rig.vt->release(rig.c, pages, n);
}

static void random_order(void **state)
{
	for (size_t i = 0; i < N_POLICIES; i++) {
		struct model_page m[16] = { { 0 } };
		bool lfu = i == N_POLICIES - 1;
		uint32_t seed = 11;

		rig_open(&policies[i], 16);
		for (int64_t op = 1; op <= 3000; op++) {
			if (rand_r(&seed) % 4 == 0)
				give_up_one(m, lfu);
			else
				random_request(m, lfu, &seed, op);
			if (rig.vt->check(rig.c))
				fail_msg("%s", rig.said);
		}
		rig_close();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(lru_order),
		cmocka_unit_test(lfu_order), cmocka_unit_test(pinned_stay),
		cmocka_unit_test(salts_and_collisions), cmocka_unit_test(many_children),
		cmocka_unit_test(misuse_is_found), cmocka_unit_test(no_memory),
		cmocka_unit_test(random_order) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
