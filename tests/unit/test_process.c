/* SPDX-License-Identifier: MIT */
/* Processors of logits through the engine: one that fails ends its own request and no
 * other; what a request asks is checked at the door and copied; and what the parameters
 * say is what is answered, on the CPU and on a fake device that runs ahead, alone and
 * among others, preempted or not: the same answers. */
#include <limits.h>
#include <unistd.h>

#include "engine_rig.h"

#define TINY "model.path=tests/data/gguf/llama3.q8_0.gguf", \
	"engine.max_model_len=128", "engine.max_seqs=24", "attention.page_tokens=8"
#define CPU "device.threads=1", "attention.plugin=naive"
#define FAKE "device.plugin=" FAKE_SO, "attention.plugin=" FAKE_SO, "sampler.plugin=" FAKE_SO

/* own: sums in another order than the first arm's, so its answers are compared with its own. */
static const struct arm { const char *name, *sets[10]; bool narrow, own; } arms[] = {
	{ "cpu", { TINY, CPU } },
	{ "fake, depth 2", { TINY, FAKE, "engine.run_ahead=2" } },
	{ "fake, depth 3, no graphs", { TINY, FAKE, "engine.run_ahead=3", "graphs.capture=off" } },
	{ "fake, host sampler", { TINY, "device.plugin=" FAKE_SO, "attention.plugin=" FAKE_SO, "sampler.plugin=topk_topp" } },
	{ "cpu, tp 2, chunks of 7", { TINY, CPU, "engine.tp=2", "engine.max_tokens=7" }, .own = true },
	{ "cpu, preempted", { TINY, CPU }, .narrow = true },
	{ "fake, depth 2, preempted", { TINY, FAKE, "engine.run_ahead=2" }, .narrow = true },
};
#define N_ARMS (int)(sizeof(arms) / sizeof(arms[0]))

/* ---- a request and what came of it ---- */

enum { MAX_IDS = 80, N_CHOICES = 3 };

struct got {
	int32_t n, ids[MAX_IDS], finish, stop_token, status, n_output;
	char text[800], error[400], stop_text[40];
	size_t len;
};

struct deed {
	struct nvllm_params p;
	int32_t prompt[16], n_prompt;
	struct got got[N_CHOICES];
	uint64_t id;
};

static void on_event(void *user, const struct nvllm_event *ev)
{
	struct got *g = &((struct deed *)user)->got[ev->choice];

	for (int64_t i = 0; ev->type == NVLLM_EVENT_TOKENS && i < ev->n_tokens && g->n < MAX_IDS; i++)
		g->ids[g->n++] = ev->tokens[i]->id;
	for (int64_t i = 0; i < ev->text.len && g->len + 1 < sizeof(g->text); i++)
		g->text[g->len++] = ev->text.s[i];
	if (ev->type != NVLLM_EVENT_DONE)
		return;
	g->finish = ev->finish;
	g->status = ev->status;
	g->stop_token = ev->stop_token;
	g->n_output = ev->usage->n_output;
	snprintf(g->error, sizeof(g->error), "%s", ev->error ? ev->error : "");
	snprintf(g->stop_text, sizeof(g->stop_text), "%s", ev->stop_text ? ev->stop_text : "");
}

static struct deed deed(int32_t seed, int64_t max_tokens)
{
	struct deed d = { .p = nvllm_params_none(), .n_prompt = 5 };

	for (int32_t i = 0; i < d.n_prompt; i++)
		d.prompt[i] = 10 + (seed * 37 + i * 11) % 900;
	d.p.max_tokens = max_tokens;
	d.p.temperature = 0.9;
	d.p.seed = seed;
	return d;
}

static int try_submit(struct nvllm_engine *e, struct deed *d)
{
	const struct nvllm_request r = { .size = sizeof(r), .tokens = d->prompt, .n_tokens = d->n_prompt, .params = &d->p,
		.on_event = on_event, .user = d };

	memset(d->got, 0, sizeof(d->got));
	return nvllm_submit(e, &r, &d->id);
}

static void submit(struct nvllm_engine *e, struct deed *d)
{
	if (try_submit(e, d))
		fail_msg("submit: %s", nvllm_error(e));
}

static void do_it(struct nvllm_engine *e, struct deed *d)
{
	submit(e, d);
	nvllm_wait(e, d->id);
}

static struct nvllm_str str(const char *s) { return (struct nvllm_str){ s, (int64_t)strlen(s) }; }

/* An engine of the arm with the processors `standard` and `fails`. */
static struct nvllm_engine *open_arm(const struct arm *a)
{
	char exe[PATH_MAX], plugin[PATH_MAX + 80], memory[64] = "engine.memory=400M";
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	assert_true(n > 0);
	exe[n] = '\0';
	*strrchr(exe, '/') = '\0';
	snprintf(plugin, sizeof(plugin), "logits.plugin=standard %s/fixtures/logits_fails.so", exe);
	if (a->narrow)
		rig_memory(memory, sizeof(memory), a->sets, (const char *const[]){ plugin, NULL }, 40);
	return rig_open(a->sets, (const char *const[]){ plugin, memory, NULL }, NULL);
}

static bool quick(void)
{
	const char *s = getenv("NVLLM_GOLDEN"); /* "short" under sanitizers */

	return s && !strcmp(s, "short");
}

/* ---- what goes wrong stays where it is ---- */

static void check_failure(const struct got *g, int32_t after, const char *why)
{
	assert_int_equal(g->finish, NVLLM_FINISH_ERROR);
	assert_int_equal(g->status, NVLLM_EINVAL);
	assert_int_equal(g->n, after);
	assert_int_equal(g->n_output, after);
	assert_non_null(strstr(g->error, "'fails'"));
	if (!strstr(g->error, why))
		fail_msg("'%s' does not say '%s'", g->error, why);
}

static void same(const struct deed *a, const struct deed *b, const char *what)
{
	for (int c = 0; c < N_CHOICES; c++)
		if (a->got[c].n != b->got[c].n || memcmp(a->got[c].ids, b->got[c].ids, sizeof(a->got[c].ids)) ||
		    a->got[c].finish != b->got[c].finish || strcmp(a->got[c].text, b->got[c].text))
			fail_msg("%s: choice %d is another answer: %d tokens, finish %d '%s'; wanted %d, %d '%s'", what, c, b->got[c].n,
				b->got[c].finish, b->got[c].text, a->got[c].n, a->got[c].finish, a->got[c].text);
}

static void failures(struct nvllm_engine *e, const char *arm)
{
	static const struct { const char *extra, *why; int32_t after; } bad[] = {
		{ "{\"fail_at\": 4}", "it fails after 4 tokens", 4 }, { "{\"mute_at\": 0}", "does not say why", 0 },
		{ "{\"forbid_at\": 2}", "nothing may be drawn", 2 }, { "{\"mute_at\": 7}", "does not say why", 7 },
	};
	struct deed good[4], alone[4], d[4];
	struct nvllm_stats s;

	for (int i = 0; i < 4; i++) {
		alone[i] = deed(i, 24);
		alone[i].p.n = 2;
		alone[i].p.ignore_eos = 1;
		alone[i].p.extra = str(i % 2 ? "{}" : "");
		do_it(e, &alone[i]);
		assert_int_equal(alone[i].got[1].finish, NVLLM_FINISH_LENGTH);
	}
	for (int i = 0; i < 4; i++) {
		good[i] = alone[i];
		submit(e, &good[i]);
		d[i] = deed(50 + i, 24);
		d[i].p.ignore_eos = 1;
		d[i].p.extra = str(bad[i].extra);
		submit(e, &d[i]);
	}
	for (int i = 0; i < 4; i++) {
		nvllm_wait(e, good[i].id);
		nvllm_wait(e, d[i].id);
		same(&alone[i], &good[i], arm);
		check_failure(&d[i].got[0], bad[i].after, bad[i].why);
	}
	s = rig_quiet(e);
	assert_int_equal(s.failed, 4);
	assert_int_equal(s.finished, 16);
	assert_int_equal(s.output_tokens, 16 * 24 + 4 + 0 + 2 + 7);
}

static void test_failures(void **state)
{
	for (int i = quick(); i < N_ARMS; i += quick() ? 3 : 1) {
		struct nvllm_engine *e = open_arm(&arms[i]);

		failures(e, arms[i].name);
		nvllm_close(e);
	}
}

/* ---- the door ---- */

static void refused(struct nvllm_engine *e, struct deed *d, const char *why)
{
	assert_int_equal(try_submit(e, d), NVLLM_EINVAL);
	if (!strstr(nvllm_error(e), why))
		fail_msg("'%s' does not say '%s'", nvllm_error(e), why);
}

static void test_door(void **state)
{
	static const struct { const char *extra, *why; } bad[] = {
		{ "{\"fail_at\": 1, \"grammar\": 2}", "'grammar'" }, { "{\"fail_at\": ", "JSON" },
		{ "[1]", "object" }, { "7", "object" },
		{ "{\"refuse\": 2}", "choice 2 is refused" }, { "{\"refuse_mute\": 1}", "'fails'" },
	};
	static char longest[1 << 16];
	struct nvllm_engine *e = open_arm(&arms[4]); /* two ranks: all of them must let go */
	struct nvllm_str many[40];
	struct deed d = deed(1, 8);

	memset(longest, 'x', sizeof(longest));
	for (int i = 0; i < 40; i++)
		many[i] = (struct nvllm_str){ longest, sizeof(longest) };
	d.p.n = 3;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		d.p.extra = str(bad[i].extra);
		refused(e, &d, bad[i].why);
	}
	d.p.extra = (struct nvllm_str){ NULL, 0 };
	d.p.min_tokens = 9;
	refused(e, &d, "min_tokens");
	d.p.min_tokens = 0;
	d.p.stops = many;
	d.p.n_stops = 40;
	refused(e, &d, "40 stop texts have 2621440 bytes");
	d.p.n_stops = 0;
	d.p.bad_words = many;
	d.p.n_bad_words = 40;
	refused(e, &d, "40 bad words have");
	d.p.n_bad_words = 0;
	d.p.stop_token_ids = (const int32_t[]){ 1111 };
	d.p.n_stop_token_ids = 1;
	refused(e, &d, "stop_token_ids names token 1111");
	d.p.stop_token_ids = NULL;
	refused(e, &d, "stop_token_ids is NULL");
	d.p.n_stop_token_ids = 0;
	d.p.allowed_token_ids = d.prompt;
	refused(e, &d, "allowed_token_ids is empty");
	d.p.allowed_token_ids = NULL;
	do_it(e, &d);
	assert_int_equal(d.got[2].finish != 0, 1);
	nvllm_close(e);
	e = rig_open(arms[0].sets, (const char *const[]){ "sampler.plugin=greedy", "logits.plugin=none", "engine.memory=400M",
		NULL }, NULL);
	d = deed(1, 8);
	d.p.temperature = 0;
	refused(e, &d, "does not take seed");
	d.p.seed = NVLLM_UNSET;
	d.p.min_tokens = 2;
	refused(e, &d, "no processor of logits carries out min_tokens");
	nvllm_close(e);
}

/* ---- the same answers everywhere ---- */

/* Lists on the heap, which are gone or other ones once submit has returned. */
struct lists {
	struct nvllm_bias *bias;
	int32_t *stop, *allowed;
	struct nvllm_str *bad, *stops;
	char *word, *stop_text, *extra;
};

enum { N_KINDS = 7 };

/* A word of the plain answer, and its token: a space before letters. */
static char word[40];
static int32_t word_id = -1;

static void find_word(struct nvllm_engine *e, const struct deed *plain)
{
	for (int i = 0; i < plain->got[0].n && word_id < 0; i++) {
		int32_t len = 0, id = -1;
		const char *s = nvllm_piece(e, plain->got[0].ids[i], 0, &len);

		if (len < 3 || len >= (int32_t)sizeof(word) || s[0] != ' ' || s[1] < 'a' || s[1] > 'z' ||
		    nvllm_encode(e, s, len, 0, &id, 1) != 1 || id != plain->got[0].ids[i] ||
		    nvllm_encode(e, s + 1, len - 1, 0, &id, 1) != 1)
			continue;
		memcpy(word, s + 1, (size_t)len - 1);
		word_id = plain->got[0].ids[i];
	}
	assert_true(word_id >= 0);
}

/* Kinds of request: 0 nothing; 1 nine stop tokens; 2 min_tokens with end tokens and a stop
 * text; 3 allowed; 4 bad words; 5 bias; 6 ignore_eos with min_tokens. plain: an answer without
 * any of them, from which their values are taken. */
static struct deed make(int kind, const struct deed *plain, struct lists *l)
{
	struct deed d = deed(7, 40);

	d.p.n = 3;
	d.p.ignore_eos = kind == 0 || kind == 6;
	memset(l, 0, sizeof(*l));
	if (kind == 1 || kind == 2 || kind == 6) { /* the last of nine occurs: the device knows eight */
		d.p.stop_token_ids = l->stop = malloc(9 * sizeof(*l->stop));
		for (int i = 0; i < 8; i++)
			l->stop[i] = 1100 + i;
		l->stop[8] = plain->got[0].ids[6];
		d.p.n_stop_token_ids = 9;
	}
	if (kind == 2 || kind == 6)
		d.p.min_tokens = 12;
	if (kind == 2) {
		d.p.stops = l->stops = malloc(sizeof(*l->stops));
		l->stop_text = strdup("e");
		l->stops[0] = str(l->stop_text);
		d.p.n_stops = 1;
	}
	if (kind == 3) {
		d.p.allowed_token_ids = l->allowed = malloc(5 * sizeof(*l->allowed));
		for (int i = 0; i < 5; i++)
			l->allowed[i] = plain->got[1].ids[i * 3];
		d.p.n_allowed_token_ids = 5;
	}
	if (kind == 4) {
		d.p.bad_words = l->bad = malloc(sizeof(*l->bad));
		l->word = strdup(word);
		l->bad[0] = str(l->word);
		d.p.n_bad_words = 1;
	}
	if (kind == 5) {
		d.p.logit_bias = l->bias = malloc(2 * sizeof(*l->bias));
		l->bias[0] = (struct nvllm_bias){ plain->got[0].ids[0], -100 };
		l->bias[1] = (struct nvllm_bias){ 300, 3 };
		d.p.n_logit_bias = 2;
	}
	d.p.extra = str(l->extra = strdup("{}"));
	return d;
}

static void spoil(struct lists *l)
{
	if (l->stop)
		memset(l->stop, 0x55, 9 * sizeof(*l->stop));
	if (l->stop_text)
		*l->stop_text = 'Q';
	free(l->bias);
	free(l->stop);
	free(l->allowed);
	free(l->bad);
	free(l->stops);
	free(l->word);
	free(l->stop_text);
	free(l->extra);
}

static bool has(const struct got *g, int32_t from, int32_t to, int32_t id)
{
	for (int32_t i = from; i < g->n && i < to; i++)
		if (g->ids[i] == id)
			return true;
	return false;
}

/* What the parameters promise, of one answer. */
static void check_kind(int kind, const struct deed *plain, const struct got *g)
{
	const int32_t last = plain->got[0].ids[6];

	if (kind == 1 && g->finish == NVLLM_FINISH_STOP)
		assert_true(g->ids[g->n - 1] == g->stop_token);
	if (kind == 1)
		assert_false(has(g, 0, g->n - 1, last));
	if (kind == 2 || kind == 6) {
		assert_true(g->n > 12);
		assert_false(has(g, 0, 12, last));
	}
	if (kind == 2 && *g->stop_text) /* the text that came before min_tokens stays */
		assert_string_equal(g->stop_text, "e");
	for (int i = 0; kind == 3 && i < g->n; i++) {
		bool ok = false;

		for (int k = 0; k < 5; k++)
			ok = ok || g->ids[i] == plain->got[1].ids[k * 3];
		assert_true(ok);
	}
	if (kind == 4)
		assert_false(has(g, 0, g->n, word_id));
	if (kind == 5)
		assert_false(has(g, 0, g->n, plain->got[0].ids[0]));
}

static struct deed want[N_KINDS];

static void kinds(const struct arm *a)
{
	struct nvllm_engine *e = open_arm(a);
	struct deed d[2 * N_KINDS];
	struct lists l;
	struct nvllm_stats s;

	if (a->own || a == arms) {
		want[0] = make(0, NULL, &l);
		do_it(e, &want[0]);
		spoil(&l);
		if (a == arms)
			find_word(e, &want[0]);
		for (int k = 1; k < N_KINDS; k++) {
			want[k] = make(k, &want[0], &l);
			do_it(e, &want[k]);
			spoil(&l);
		}
	}
	for (int i = 0; i < 2 * N_KINDS; i++) {
		d[i] = make(i % N_KINDS, &want[0], &l);
		submit(e, &d[i]);
		spoil(&l);
	}
	for (int i = 0; i < 2 * N_KINDS; i++) {
		nvllm_wait(e, d[i].id);
		same(&want[i % N_KINDS], &d[i], a->name);
		for (int c = 0; c < N_CHOICES; c++)
			check_kind(i % N_KINDS, &want[0], &d[i].got[c]);
	}
	s = rig_quiet(e);
	assert_int_equal(s.failed, 0);
	if (a->narrow && !s.preempted)
		fail_msg("%s: nothing was preempted", a->name);
	nvllm_close(e);
}

static void test_same_everywhere(void **state)
{
	for (int i = 0; i < N_ARMS; i++)
		if (!arms[i].own && !(quick() && i % 3))
			kinds(&arms[i]);
	/* the checks above say something only of answers that would have been others */
	assert_int_equal(want[1].got[0].finish, NVLLM_FINISH_STOP);
	assert_int_equal(want[1].got[0].n, 7);
	for (int k = 2; k < N_KINDS; k++)
		assert_int_not_equal(memcmp(want[k].got[0].ids, want[0].got[0].ids, sizeof(want[0].got[0].ids)), 0);
	for (int i = 0; i < N_ARMS; i++)
		if (arms[i].own && !quick())
			kinds(&arms[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_failures),
		cmocka_unit_test(test_door),
		cmocka_unit_test(test_same_everywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
