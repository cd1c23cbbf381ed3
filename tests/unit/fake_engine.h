/* SPDX-License-Identifier: MIT */
/* An engine for tests of front ends: no model, a thread of its own, answers in an order
 * that is not the order of arrival, and faults on request. Include it once.
 *
 * A token is a byte: token ids of a text are its bytes. The answer to a prompt is the
 * prompt in capitals, cut at max_tokens; choice k leaves out its first k characters. So the
 * choices differ, and the later ones end first. A prompt with one of these words in it:
 *	REFUSE  submit says no        FAIL   its last choice ends with an error
 *	HANG    is held back until choice 0 is cancelled (unless fake.no_hang is set)
 *	LATE    ends by timeout */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H

#include <ctype.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nvllm/frontend.h>
#include <nvllm/plugin.h>

#define FAKE_CONTEXT 4096
#define FAKE_TOP     3

struct fake_request {
	struct fake_request *next;
	uint64_t id;
	int32_t *tokens;
	int64_t n;
	struct nvllm_params params;
	void (*on_event)(void *, const struct nvllm_event *);
	void *user;
	int32_t n_choices, n_left;
	bool hang, fail, late;
	bool cancelled[NVLLM_MAX_CHOICES];
};

struct nvllm_engine {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	struct fake_request *queue;
	uint64_t next_id;
	int in_flight, most_in_flight;
	int64_t submitted, finished;
	bool closing, no_hang;
	struct nvllm_info info;
	struct nvllm_params last;  /* of the newest request; without its texts */
	char last_salt[80];        /* its cache_salt; "" = none */
	char last_lists[400];      /* its biases, ids, bad words and extra, as text */
	char last_body[2000];      /* of the newest render */
	int32_t last_turn;         /* its add_generation_prompt */
	char error[200];
};

static char fake_said[1024]; /* the newest sentence of host->fail */

static int fake_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(fake_said, sizeof(fake_said), fmt, ap);
	va_end(ap);
	return status;
}

static void fake_log(const struct nvllm_host *h, int level, const char *fmt, ...) { }
static void *fake_alloc(const struct nvllm_host *h, size_t n) { return NULL; }
static const void *fake_get(const struct nvllm_host *h, const char *id) { return NULL; }

static const struct nvllm_host fake_host = { .size = sizeof(fake_host),
	.abi = NVLLM_ABI,
	.world = 1,
	.log = fake_log,
	.fail = fake_fail,
	.alloc = fake_alloc,
	.get = fake_get };

static const char *fake_piece(struct nvllm_engine *e, int32_t token, uint32_t flags, int32_t *len)
{
	static char bytes[256];

	*len = token >= 0 && token < 256;
	if (!*len)
		return NULL;
	bytes[token] = (char)token;
	return &bytes[token];
}

static int64_t fake_encode(struct nvllm_engine *e, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room)
{
	for (int64_t i = 0; i < len && i < room; i++)
		tokens[i] = (unsigned char)text[i];
	return len;
}

static int64_t fake_render(
	struct nvllm_engine *e, const struct nvllm_chat_request *q, char *text, int64_t room)
{
	int64_t n = 0;

	snprintf(e->last_body, sizeof(e->last_body), "%.*s", (int)q->body.len, q->body.s ? q->body.s : "");
	e->last_turn = q->add_generation_prompt;
	for (int i = 0; q->messages[i]; i++) {
		const struct nvllm_str parts[4] = { { "<", 1 }, q->messages[i]->role, { ">", 1 },
			q->messages[i]->content };

		for (int k = 0; k < 4; k++)
			for (int64_t c = 0; c < parts[k].len; c++, n++)
				if (n < room)
					text[n] = parts[k].s[c];
	}
	return n;
}

static bool fake_has(const struct fake_request *r, const char *word)
{
	size_t n = strlen(word);

	for (int64_t i = 0; i + (int64_t)n <= r->n; i++) {
		size_t k = 0;

		while (k < n && r->tokens[i + (int64_t)k] == (unsigned char)word[k])
			k++;
		if (k == n)
			return true;
	}
	return false;
}

static int fake_refuse(struct nvllm_engine *e, int status, const char *why)
{
	snprintf(e->error, sizeof(e->error), "%s", why);
	return status;
}

/* The lists of a request: "bias 5:1.5 | stop 3 4 | allowed 7 | bad a,b | extra {..}". */
static void fake_keep_lists(struct nvllm_engine *e, const struct nvllm_params *p)
{
	char *at = e->last_lists, *end = at + sizeof(e->last_lists);

#define SAY(...) at += snprintf(at, (size_t)(end - at), __VA_ARGS__)
	SAY("bias");
	for (int64_t i = 0; i < p->n_logit_bias; i++)
		SAY(" %d:%g", p->logit_bias[i].token, (double)p->logit_bias[i].bias);
	SAY(" | stop");
	for (int64_t i = 0; i < p->n_stop_token_ids; i++)
		SAY(" %d", p->stop_token_ids[i]);
	SAY(" | allowed");
	for (int64_t i = 0; i < p->n_allowed_token_ids; i++)
		SAY(" %d", p->allowed_token_ids[i]);
	SAY(" | bad");
	for (int64_t i = 0; i < p->n_bad_words; i++)
		SAY(" %.*s", (int)p->bad_words[i].len, p->bad_words[i].s);
	SAY(" | extra %.*s", (int)p->extra.len, p->extra.s ? p->extra.s : "");
#undef SAY
}

static int fake_submit(struct nvllm_engine *e, const struct nvllm_request *q, uint64_t *id)
{
	struct fake_request *r = calloc(1, sizeof(*r));

	r->n = q->tokens ? q->n_tokens : q->prompt.len;
	r->tokens = calloc((size_t)r->n + 1, sizeof(*r->tokens));
	if (q->tokens)
		memcpy(r->tokens, q->tokens, (size_t)r->n * sizeof(*r->tokens));
	else
		fake_encode(e, q->prompt.s, r->n, 0, r->tokens, r->n);
	r->params = *q->params;
	r->params.stops = r->params.bad_words = NULL;
	r->params.logit_bias = NULL;
	r->params.stop_token_ids = r->params.allowed_token_ids = NULL;
	r->params.extra = (struct nvllm_str){ NULL, 0 };
	r->params.cache_salt = (struct nvllm_str){ NULL, 0 };
	r->n_choices = r->n_left = q->params->n == NVLLM_UNSET ? 1 : (int32_t)q->params->n;
	r->on_event = q->on_event;
	r->user = q->user;
	if (r->n < 1 || r->n >= FAKE_CONTEXT || fake_has(r, "REFUSE")) {
		free(r->tokens);
		free(r);
		return fake_refuse(e, NVLLM_EINVAL, "the fake engine refuses this prompt");
	}
	r->hang = !e->no_hang && fake_has(r, "HANG");
	r->fail = fake_has(r, "FAIL");
	r->late = fake_has(r, "LATE");
	pthread_mutex_lock(&e->lock);
	r->id = *id = ++e->next_id;
	r->next = e->queue;
	e->queue = r;
	e->last = r->params;
	fake_keep_lists(e, q->params);
	snprintf(e->last_salt, sizeof(e->last_salt), "%.*s", (int)q->params->cache_salt.len,
		q->params->cache_salt.s ? q->params->cache_salt.s : "");
	e->submitted++;
	e->in_flight++;
	if (e->in_flight > e->most_in_flight)
		e->most_in_flight = e->in_flight;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	return NVLLM_OK;
}

static void fake_cancel(struct nvllm_engine *e, uint64_t id, int32_t choice)
{
	pthread_mutex_lock(&e->lock);
	for (struct fake_request *r = e->queue; r; r = r->next)
		for (int32_t k = 0; r->id == id && k < r->n_choices; k++)
			if (choice == NVLLM_ALL_CHOICES || choice == k)
				r->cancelled[k] = true;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
}

static void fake_stats(struct nvllm_engine *e, struct nvllm_stats *s)
{
	pthread_mutex_lock(&e->lock);
	s->max_seqs = 4;
	s->finished = e->finished;
	pthread_mutex_unlock(&e->lock);
}

static const struct nvllm_info *fake_info(struct nvllm_engine *e) { return &e->info; }
static const char *fake_error(struct nvllm_engine *e) { return e->error; }
static void fake_wait(struct nvllm_engine *e, uint64_t id) { }

static const struct nvllm_engine_vt fake_vt = { .size = sizeof(fake_vt),
	.submit = fake_submit,
	.cancel = fake_cancel,
	.wait = fake_wait,
	.stats = fake_stats,
	.info = fake_info,
	.encode = fake_encode,
	.piece = fake_piece,
	.render = fake_render,
	.error = fake_error };

/* One token of an event, with its list of the likeliest. */
struct fake_token {
	struct nvllm_token t;
	int32_t ids[FAKE_TOP];
	float lps[FAKE_TOP];
};

static void fake_fill(struct fake_token *f, int32_t id, int64_t want, bool first)
{
	f->t = (struct nvllm_token){ .size = sizeof(f->t),
		.id = id,
		.logprob = first ? (float)NAN : -0.25f,
		.rank = first ? 0 : 1,
		.n_top = first || want < 0 ? 0
			: want > FAKE_TOP  ? FAKE_TOP
					   : (int32_t)want,
		.top_ids = f->ids,
		.top_logprobs = f->lps };
	for (int i = 0; i < FAKE_TOP; i++) {
		f->ids[i] = (id + i) % 256;
		f->lps[i] = -0.25f - (float)i;
	}
}

static void fake_prompt(struct fake_request *r, struct nvllm_event *ev, struct fake_token *f,
	const struct nvllm_token **list)
{
	for (int64_t i = 0; i < r->n; i++) {
		fake_fill(&f[i], r->tokens[i], r->params.prompt_logprobs, i == 0);
		list[i] = &f[i].t;
	}
	ev->type = NVLLM_EVENT_PROMPT;
	ev->choice = 0;
	ev->tokens = list;
	ev->n_tokens = r->n;
	r->on_event(r->user, ev);
}

/* One token of one choice. */
static void fake_say(struct fake_request *r, struct nvllm_event *ev, int32_t choice, int32_t token)
{
	char c = (char)toupper(token & 0xff);
	const struct nvllm_token *list[2] = { NULL, NULL };
	struct fake_token f;

	fake_fill(&f, (unsigned char)c, r->params.logprobs, false);
	list[0] = &f.t;
	ev->type = NVLLM_EVENT_TOKENS;
	ev->choice = choice;
	ev->tokens = list;
	ev->n_tokens = 1;
	ev->text = (struct nvllm_str){ &c, 1 };
	r->on_event(r->user, ev);
	ev->tokens = NULL;
	ev->text.len = ev->n_tokens = 0;
}

static int fake_finish(const struct fake_request *r, int32_t choice, bool cut)
{
	if (r->cancelled[choice])
		return NVLLM_FINISH_CANCEL;
	if (r->fail && choice == r->n_choices - 1)
		return NVLLM_FINISH_ERROR;
	if (r->late)
		return NVLLM_FINISH_TIMEOUT;
	return cut ? NVLLM_FINISH_LENGTH : NVLLM_FINISH_STOP;
}

static void fake_done(struct fake_request *r, struct nvllm_event *ev, int32_t choice, int64_t said)
{
	const struct nvllm_usage u = { .size = sizeof(u),
		.n_prompt = (int32_t)r->n,
		.n_output = (int32_t)said,
		.n_cached = choice ? (int32_t)r->n : 1,
		.first_token_ns = 1000,
		.done_ns = 2000 };
	int finish = fake_finish(r, choice, said + choice < r->n);

	*ev = (struct nvllm_event){ .size = sizeof(*ev),
		.type = NVLLM_EVENT_DONE,
		.id = r->id,
		.choice = choice,
		.finish = finish,
		.stop_token = finish == NVLLM_FINISH_STOP ? 7 : -1,
		.status = finish == NVLLM_FINISH_ERROR ? NVLLM_EDEVICE : 0,
		.error = finish == NVLLM_FINISH_ERROR ? "the fake engine fails" : NULL,
		.usage = &u,
		.n_left = --r->n_left };
	r->on_event(r->user, ev);
}

/* All the events of one request, on the engine's thread: the choices take turns. */
static void fake_answer(struct fake_request *r)
{
	int64_t max = r->params.max_tokens == NVLLM_UNSET ? r->n : r->params.max_tokens;
	struct fake_token *f = calloc((size_t)r->n, sizeof(*f));
	const struct nvllm_token **list = calloc((size_t)r->n + 1, sizeof(*list));
	struct nvllm_event ev = { .size = sizeof(ev), .id = r->id, .stop_token = -1 };

	if (r->params.prompt_logprobs != NVLLM_UNSET)
		fake_prompt(r, &ev, f, list);
	for (int64_t i = 0; r->n_left; i++)
		for (int32_t k = r->n_choices - 1; k >= 0; k--) {
			int64_t n = r->n > k ? r->n - k : 0; /* all that it could say */

			n = r->cancelled[k] ? 0 : n < max ? n : max;
			ev = (struct nvllm_event){ .size = sizeof(ev), .id = r->id, .stop_token = -1 };
			if (i < n)
				fake_say(r, &ev, k, r->tokens[i + k]);
			else if (i == n)
				fake_done(r, &ev, k, n);
		}
	free(f);
	free(list);
}

/* The newest request that can end: so arrivals end in another order. */
static struct fake_request *fake_next(struct nvllm_engine *e)
{
	for (struct fake_request **at = &e->queue; *at; at = &(*at)->next)
		if (!(*at)->hang || (*at)->cancelled[0]) {
			struct fake_request *r = *at;

			*at = r->next;
			return r;
		}
	return NULL;
}

static void *fake_thread(void *arg)
{
	struct nvllm_engine *e = arg;
	const struct timespec pause = { 0, 200000 };
	struct fake_request *r;

	for (;;) {
		pthread_mutex_lock(&e->lock);
		while (!(r = fake_next(e)) && !e->closing)
			pthread_cond_wait(&e->wake, &e->lock);
		if (r) {
			e->in_flight--;
			e->finished++;
		}
		pthread_mutex_unlock(&e->lock);
		if (!r)
			return NULL;
		nanosleep(&pause, NULL);
		fake_answer(r);
		free(r->tokens);
		free(r);
	}
}

static void fake_open(struct nvllm_engine *e)
{
	memset(e, 0, sizeof(*e));
	e->info = (struct nvllm_info){ .size = sizeof(e->info),
		.vocab = 256,
		.max_model_len = FAKE_CONTEXT,
		.model = "fake \"model\"",
		.version = "0",
		.start_line = "",
		.has_chat = 1 };
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->wake, NULL);
	pthread_create(&e->thread, NULL, fake_thread, e);
}

static void fake_close(struct nvllm_engine *e)
{
	pthread_mutex_lock(&e->lock);
	e->closing = true;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	pthread_mutex_destroy(&e->lock);
	pthread_cond_destroy(&e->wake);
}

#endif
