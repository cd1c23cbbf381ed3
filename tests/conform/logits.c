/* SPDX-License-Identifier: MIT */
/* tests/conform/logits.c - a processor of logits: what it says it takes against plain
 * references with vLLM's rules; and, whatever it does, that the same history gives the same
 * logits however it grew and whatever other requests do, that apply() neither allocates nor
 * writes elsewhere, that odd values of its keys are refused in a sentence, and that close()
 * gives back what open() took. */
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/logits.h>

#include "../sanitized.h"
#include "check.h"

#define VOCAB 301
#define MAX_LIST 40
#define MAX_HISTORY 64
#define N_END 3
#define N_THREADS 4

/* ---- an instance ---- */

struct sut {
	const struct nvllm_logits_vt *vt;
	struct nvllm_logits *l;
	struct nvllm_logits_env env;
};

static int opening; /* threads look at it, and none writes it then */
static void *(*fake_alloc)(const struct nvllm_host *, size_t);

static void *watched_alloc(const struct nvllm_host *host, size_t bytes)
{
	if (opening)
		ck_bad("open calls host->alloc, which is for [setup]: use malloc, and free in close");
	return fake_alloc(host, bytes);
}

static int sut_open(struct sut *u, const struct nvllm_component *c)
{
	struct nvllm_host *host = fake_host();
	int err;
	const void *conf = ck_conf(c, NULL, &err);

	memset(u, 0, sizeof(*u));
	if (err)
		return -1;
	fake_alloc = host->alloc;
	host->alloc = watched_alloc;
	u->vt = c->vt;
	u->env = (struct nvllm_logits_env){ .size = sizeof(u->env), .vocab = VOCAB };
	u->env.tok_vt = fake_words(&u->env.tok);
	if (ck_refusal(u->vt->create(host, &u->env, conf, &u->l), "create") < 0)
		return ck_bad("create refuses a vocabulary of %d: %s", VOCAB, fake_said());
	return u->l ? 0 : ck_bad("create returned 0 and no instance");
}

static void sut_close(struct sut *u)
{
	if (u->l && NVLLM_HAS(u->vt, destroy) && u->vt->destroy)
		u->vt->destroy(u->l);
}

/* ---- requests ---- */

/* A request and all that it points to. */
struct wish {
	struct nvllm_params p;
	int32_t allowed[MAX_LIST], end[N_END], prompt[4];
	struct nvllm_bias bias[MAX_LIST];
	struct nvllm_str words[MAX_LIST];
	char text[MAX_LIST][8];
	int32_t choice;
};

static void plain_wish(struct wish *w)
{
	static const int32_t end[N_END] = { 3, 'e', 290 }, prompt[4] = { 'c', 'a', 'b', 256 };

	memset(w, 0, sizeof(*w));
	w->p = nvllm_params_none();
	w->p.temperature = w->p.top_p = w->p.typical_p = w->p.repetition_penalty = 1;
	w->p.min_p = w->p.presence_penalty = w->p.frequency_penalty = 0;
	w->p.top_k = w->p.seed = w->p.priority = w->p.min_tokens = 0;
	w->p.n = 2, w->p.max_tokens = MAX_HISTORY;
	memcpy(w->end, end, sizeof(end));
	memcpy(w->prompt, prompt, sizeof(prompt));
}

/* Words of a, b and c, with and without a space, that random histories of these do make. */
static void random_words(struct wish *w, struct rng *r)
{
	w->p.n_bad_words = 1 + rng_int(r, MAX_LIST);
	w->p.bad_words = w->words;
	for (int64_t i = 0; i < w->p.n_bad_words; i++) {
		int64_t len = 1 + rng_int(r, 5);

		for (int64_t j = 0; j < len; j++)
			w->text[i][j] = j && rng_int(r, 4) == 0 ? ' ' : (char)('a' + rng_int(r, 3));
		if (rng_int(r, 4) == 0)
			w->text[i][0] = ' ', w->text[i][len++] = 'b';
		w->words[i] = (struct nvllm_str){ w->text[i], len };
	}
}

/* Random lists of what `takes` has. */
static void random_wish(struct wish *w, uint64_t takes, struct rng *r)
{
	plain_wish(w);
	w->choice = (int32_t)rng_int(r, 2);
	if (takes & NVLLM_TAKES_ALLOWED && rng_int(r, 2)) {
		w->p.allowed_token_ids = w->allowed;
		w->p.n_allowed_token_ids = 1 + rng_int(r, MAX_LIST);
		for (int64_t i = 0; i < w->p.n_allowed_token_ids; i++)
			w->allowed[i] = (int32_t)(rng_int(r, 3) ? rng_int(r, VOCAB) :
				'a' + rng_int(r, 6));
	}
	if (takes & NVLLM_TAKES_BAD_WORDS && rng_int(r, 2))
		random_words(w, r);
	if (takes & NVLLM_TAKES_MIN_TOKENS && rng_int(r, 2))
		w->p.min_tokens = rng_int(r, 9);
	if (takes & NVLLM_TAKES_LOGIT_BIAS && rng_int(r, 2)) {
		w->p.logit_bias = w->bias;
		w->p.n_logit_bias = 1 + rng_int(r, MAX_LIST);
		for (int64_t i = 0; i < w->p.n_logit_bias; i++) /* each token once */
			w->bias[i] = (struct nvllm_bias){ (int32_t)(i * 7 + rng_int(r, 7)),
				(float)(rng_unit(r) * 100) };
	}
}

static int open_wish(struct sut *u, const struct wish *w, struct nvllm_logits_state **out)
{
	struct nvllm_logits_ask ask = { .size = sizeof(ask), .choice = w->choice, .params = &w->p,
		.prompt = w->prompt, .n_prompt = 4, .n_end_ids = N_END, .end_ids = w->end };
	int status;

	*out = NULL;
	fake_hush();
	opening = 1;
	status = ck_refusal(u->vt->open(u->l, &ask, out), "open");
	opening = 0;
	if (status && *out)
		ck_bad("open refused (%d) and left a state", status);
	return status;
}

static struct nvllm_logits_state *must_open(struct sut *u, const struct wish *w)
{
	struct nvllm_logits_state *s;

	if (open_wish(u, w, &s))
		ck_bad("open refuses a sound request: %s", fake_said());
	return s;
}

static void shut(struct sut *u, struct nvllm_logits_state *s)
{
	if (s)
		u->vt->close(u->l, s);
}

/* ---- a step ---- */

static void random_history(int32_t *tokens, struct rng *r)
{
	static const int32_t some[] = { 'a', 'b', 'c', ' ', 256, 257, 258 };

	for (int i = 0; i < MAX_HISTORY; i++)
		tokens[i] = rng_int(r, 9) ? some[rng_int(r, 7)] : (int32_t)rng_int(r, VOCAB);
}

/* Logits with a hole, an end and no number among them; the same for the same seed. */
static void random_logits(float *x, uint64_t seed)
{
	struct rng r = { seed };

	for (int i = 0; i < VOCAB; i++)
		x[i] = (float)(rng_unit(&r) * 20);
	x[rng_int(&r, VOCAB)] = -INFINITY;
	x[rng_int(&r, VOCAB)] = INFINITY;
	x[rng_int(&r, VOCAB)] = NAN;
}

/* x [VOCAB] becomes the logits after the wish's prompt and n_out of out. s NULL: nothing. */
static void step(struct sut *u, struct nvllm_logits_state *s, const struct wish *w,
	const int32_t *out, int n_out, uint64_t seed, float *x)
{
	int32_t n = 4 + n_out, *tokens = gmem_get("the tokens", n * 4, 4);
	float *logits = gmem_get("the logits", VOCAB * 4, 4);
	int status = 0;

	memcpy(tokens, w->prompt, sizeof(w->prompt));
	memcpy(tokens + 4, out, (size_t)n_out * 4);
	random_logits(logits, seed);
	if (s) {
		ck_step_begin();
		status = u->vt->apply(u->l, s, logits, tokens, 4, n);
		ck_step_end();
	}
	if (ck_refusal(status, "apply"))
		ck_bad("apply returned %d: %s", status, fake_said());
	if (memcmp(tokens, w->prompt, sizeof(w->prompt)) ||
		memcmp(tokens + 4, out, (size_t)n_out * 4))
		ck_bad("apply wrote to the tokens");
	memcpy(x, logits, VOCAB * 4);
	gmem_put(tokens);
	gmem_put(logits);
}

static int same(float a, float b)
{
	return a == b || (isnan(a) && isnan(b));
}

static int same_row(const float *a, const float *b)
{
	for (int i = 0; i < VOCAB; i++)
		if (!same(a[i], b[i]))
			return i;
	return -1;
}

/* ---- references ---- */

static int64_t encode(const char *text, int64_t len, int32_t *ids)
{
	struct nvllm_tokenizer *t;
	const struct nvllm_tokenizer_vt *vt = fake_words(&t);

	return vt->encode(t, text, len, 0, ids, 16);
}

static void ref_word(const char *text, int64_t len, const int32_t *out, int n_out, float *x,
	const int32_t *plain, int64_t n_plain)
{
	int32_t ids[16];
	int64_t n = encode(text, len, ids);

	if (plain && (n != n_plain || ids[0] == plain[0]))
		return;
	if (n - 1 <= n_out && !memcmp(out + n_out - (n - 1), ids, (size_t)(n - 1) * 4))
		x[ids[n - 1]] = -INFINITY;
}

static void reference(const struct wish *w, const int32_t *out, int n_out, float *x)
{
	for (int i = 0; i < VOCAB && w->p.n_allowed_token_ids; i++) {
		int is = 0;

		for (int64_t j = 0; j < w->p.n_allowed_token_ids; j++)
			is |= w->allowed[j] == i;
		x[i] = is ? x[i] : -INFINITY;
	}
	for (int64_t i = 0; i < w->p.n_bad_words; i++) {
		int64_t skip = (int64_t)strspn(w->text[i], " "), len = w->words[i].len - skip, n;
		char spaced[16] = " ";
		int32_t ids[16];

		memcpy(spaced + 1, w->words[i].s + skip, (size_t)len);
		n = encode(spaced + 1, len, ids);
		ref_word(spaced + 1, len, out, n_out, x, NULL, 0);
		ref_word(spaced, len + 1, out, n_out, x, ids, n);
	}
	for (int i = 0; i < N_END && n_out < w->p.min_tokens; i++)
		x[w->end[i]] = -INFINITY;
	for (int64_t i = 0; i < w->p.n_logit_bias; i++)
		x[w->bias[i].token] += w->bias[i].bias;
}

static void check_taken(const struct nvllm_component *c, uint64_t takes, const char *what)
{
	int32_t out[MAX_HISTORY];
	float got[VOCAB], want[VOCAB];
	struct rng r = { 5 };
	struct wish w;
	struct sut u;

	ck_begin("%s, against the definition", what);
	if (sut_open(&u, c) == 0)
		for (int round = 0; round < 150 && ck_good(); round++) {
			struct nvllm_logits_state *s;
			int at;

			random_wish(&w, takes, &r);
			random_history(out, &r);
			s = must_open(&u, &w);
			for (int n = 0; n < MAX_HISTORY && ck_good(); n += 1 + (int)rng_int(&r, 9)) {
				step(&u, s, &w, out, n, (uint64_t)round, got);
				random_logits(want, (uint64_t)round);
				reference(&w, out, n, want);
				at = same_row(got, want);
				if (at >= 0)
					ck_bad("request %d after %d tokens: token %d has logit %g, "
					       "by the definition %g", round, n, at,
						(double)got[at], (double)want[at]);
			}
			shut(&u, s);
		}
	sut_close(&u);
	ck_end();
}

/* ---- whatever it does ---- */

static const char *const values[] = {
	"\"ab\"", "\"\"", "7", "0", "-1", "1e300", "true", "null", "[]",
	"[1, 2]", "{}", "{\"a\": [\"b\"]}", "\"\\u20ac\\n\"", "[\"a\", \"b c\"]",
	"\"[a-c]+\"", "99999999999999999999" };

#define N_VALUES ((int)(sizeof(values) / sizeof(*values)))
#define N_WISHES 24

static int n_keys(const struct nvllm_logits_vt *vt)
{
	int n = 0;

	while (vt->keys && vt->keys[n])
		n++;
	return n;
}

/* One of its keys with one of the values: text is the caller's. */
static void key_wish(struct wish *w, const struct nvllm_logits_vt *vt, int key, int value,
	char *text, size_t room)
{
	plain_wish(w);
	snprintf(text, room, "{\"%s\": %s}", vt->keys[key], values[value]);
	w->p.extra = (struct nvllm_str){ text, (int64_t)strlen(text) };
}

/* A request for the checks below: one with a key whose value it takes, where it has keys, and
 * random lists otherwise. Returns its state, NULL for none. */
static struct nvllm_logits_state *some_wish(struct sut *u, struct wish *w, char *text, size_t room,
	int i, struct rng *r)
{
	int keys = n_keys(u->vt);
	struct nvllm_logits_state *s = NULL;

	if (keys && i % 2) {
		key_wish(w, u->vt, i / 2 % keys, (int)rng_int(r, N_VALUES), text, room);
		return open_wish(u, w, &s) ? NULL : s;
	}
	random_wish(w, u->vt->takes, r);
	return must_open(u, w);
}

/* Token by token, in leaps, and at once, from states that others' calls lie between. */
static void check_history(const struct nvllm_component *c)
{
	static struct wish w[N_WISHES];
	static char text[N_WISHES][160];
	static float first[N_WISHES][MAX_HISTORY][VOCAB];
	static int32_t out[N_WISHES][MAX_HISTORY];
	struct nvllm_logits_state *s[N_WISHES] = { NULL };
	struct rng r = { 17 };
	float got[VOCAB];
	struct sut u;

	ck_begin("the same history gives the same logits, however it grew and whoever comes between");
	if (sut_open(&u, c) == 0) {
		for (int i = 0; i < N_WISHES; i++) {
			s[i] = some_wish(&u, &w[i], text[i], sizeof(text[i]), i, &r);
			random_history(out[i], &r);
		}
		for (int n = 0; n < MAX_HISTORY; n++)
			for (int i = 0; i < N_WISHES; i++)
				step(&u, s[i], &w[i], out[i], n, (uint64_t)n, first[i][n]);
		for (int i = N_WISHES; i-- > 0 && ck_good();) {
			struct nvllm_logits_state *again = NULL;

			if (s[i] && open_wish(&u, &w[i], &again))
				ck_bad("open took a request, and refuses it now: %s", fake_said());
			for (int n = (int)rng_int(&r, 20); n < MAX_HISTORY && ck_good();
				n += (int)rng_int(&r, 30)) { /* 0: the same once more */
				step(&u, again, &w[i], out[i], n, (uint64_t)n, got);
				if (same_row(got, first[i][n]) >= 0)
					ck_bad("request %d after %d tokens: token %d has logit %g, when "
					       "the history grew by one at a time %g", i, n,
						same_row(got, first[i][n]),
						(double)got[same_row(got, first[i][n])],
						(double)first[i][n][same_row(got, first[i][n])]);
			}
			shut(&u, again);
		}
		for (int i = 0; i < N_WISHES; i++) /* in another order than they were opened */
			shut(&u, s[i * 7 % N_WISHES]);
	}
	sut_close(&u);
	ck_end();
}

static void check_plain(const struct nvllm_component *c)
{
	static const char other[] = "{\"nvllm_check_knows_no_such\": 1}";
	struct nvllm_logits_state *s;
	struct wish w;
	struct sut u;

	ck_begin("a request that asks nothing of it");
	if (sut_open(&u, c) == 0)
		for (int i = 0; i < 2; i++) {
			plain_wish(&w);
			if (i)
				w.p.extra = (struct nvllm_str){ other, sizeof(other) - 1 };
			s = must_open(&u, &w);
			if (s && !c->options)
				ck_bad("open makes a state for a request that %s: every answer would "
				       "wait for it", i ? "has another's key" : "asks nothing");
			shut(&u, s);
		}
	sut_close(&u);
	ck_end();
}

static void check_keys(const struct nvllm_component *c)
{
	const struct nvllm_logits_vt *vt = c->vt;
	static const int32_t out[2] = { 'a', 'b' };
	struct nvllm_logits_state *s;
	float x[VOCAB];
	char text[160];
	struct wish w;
	struct sut u;

	for (int k = 0; k < n_keys(vt); k++) {
		ck_begin("odd values of %s: taken, or refused in a sentence", vt->keys[k]);
		if (strlen(vt->keys[k]) > 100 || strpbrk(vt->keys[k], "\"\\")) {
			ck_skip("the suite cannot write this key");
			continue;
		}
		if (sut_open(&u, c) == 0)
			for (int v = 0; v < N_VALUES && ck_good(); v++) {
				key_wish(&w, vt, k, v, text, sizeof(text));
				if (open_wish(&u, &w, &s) || !s)
					continue;
				for (int n = 0; n < 3; n++)
					step(&u, s, &w, out, n, 1, x);
				shut(&u, s);
			}
		sut_close(&u);
		ck_end();
	}
}

/* Bytes that malloc has given out, or keeps at hand: a few thousand more or less. */
static int64_t in_use(void)
{
	struct mallinfo2 m = mallinfo2();

	return (int64_t)m.uordblks + (int64_t)m.hblkhd;
}

#define ROUNDS 1024

static void check_leaks(const struct nvllm_component *c)
{
	int64_t before = 0, more;
	struct sut u;

	ck_begin("close gives back what open took, a refusal all it took");
	if (SANITIZED) {
		ck_skip("the sanitizer's malloc keeps no such count");
		return;
	}
	if (sut_open(&u, c) == 0) {
		for (int round = 0; round < ROUNDS + 4; round++) {
			struct rng r = { 23 };

			if (round == 4) /* the first ones may warm things up */
				before = in_use();
			for (int i = 0; i < N_WISHES; i++) {
				char text[160];
				struct wish w;

				shut(&u, some_wish(&u, &w, text, sizeof(text), i, &r));
			}
		}
		more = in_use() - before;
		if (more >= ROUNDS * 16)
			ck_bad("%d requests opened and closed left %ld bytes", ROUNDS * N_WISHES,
				(long)more);
	}
	sut_close(&u);
	ck_end();
}

/* ---- open and close are [any] ---- */

struct worker {
	pthread_t thread;
	struct sut *u;
	struct wish w;
	struct nvllm_logits_state *s;
	int failed;
};

static void *work(void *arg)
{
	struct worker *k = arg;
	struct nvllm_logits_ask ask = { .size = sizeof(ask), .choice = k->w.choice,
		.params = &k->w.p, .prompt = k->w.prompt, .n_prompt = 4, .n_end_ids = N_END,
		.end_ids = k->w.end };

	for (int i = 0; i < 200; i++) {
		if (i && k->s)
			k->u->vt->close(k->u->l, k->s);
		k->s = NULL;
		k->failed |= k->u->vt->open(k->u->l, &ask, &k->s) != 0;
	}
	return NULL;
}

static void check_threads(const struct nvllm_component *c)
{
	struct worker k[N_THREADS];
	int32_t out[MAX_HISTORY];
	float got[VOCAB], want[VOCAB];
	struct rng r = { 29 };
	int started = 0;
	struct sut u;

	ck_begin("open and close from %d threads at once", N_THREADS);
	if (sut_open(&u, c) == 0) {
		random_history(out, &r);
		for (; started < N_THREADS; started++) {
			k[started] = (struct worker){ .u = &u };
			random_wish(&k[started].w, u.vt->takes, &r);
			if (pthread_create(&k[started].thread, NULL, work, &k[started]))
				break;
		}
		for (int i = 0; i < started; i++) {
			struct nvllm_logits_state *alone;

			pthread_join(k[i].thread, NULL);
			alone = must_open(&u, &k[i].w);
			if (k[i].failed || !alone != !k[i].s)
				ck_bad("a request was refused beside others, or taken otherwise");
			step(&u, k[i].s, &k[i].w, out, 9, 3, got);
			step(&u, alone, &k[i].w, out, 9, 3, want);
			if (same_row(got, want) >= 0)
				ck_bad("a state made beside others gives other logits");
			shut(&u, alone);
			shut(&u, k[i].s);
		}
	}
	sut_close(&u);
	ck_end();
}

void suite_logits(const struct nvllm_component *c)
{
	static const struct { uint64_t takes; const char *what; } parts[] = {
		{ NVLLM_TAKES_ALLOWED, "allowed_token_ids" },
		{ NVLLM_TAKES_BAD_WORDS, "bad_words" },
		{ NVLLM_TAKES_MIN_TOKENS, "min_tokens" },
		{ NVLLM_TAKES_LOGIT_BIAS, "logit_bias" } };
	const struct nvllm_logits_vt *vt = c->vt;
	uint64_t all = 0;

	check_plain(c);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		all |= parts[i].takes;
		if (vt->takes & parts[i].takes)
			check_taken(c, parts[i].takes, parts[i].what);
	}
	if (vt->takes & ~all) {
		ck_begin("takes only what a processor carries out");
		ck_bad("takes has 0x%llx, which is a sampler's",
			(unsigned long long)(vt->takes & ~all));
		ck_end();
	}
	if (vt->takes & (vt->takes - 1))
		check_taken(c, vt->takes & all, "all it takes at once, in vLLM's order");
	check_keys(c);
	check_history(c);
	check_leaks(c);
	check_threads(c);
}
