/* SPDX-License-Identifier: MIT */
/* nvllm/engine.h - the engine as its users see it: the embedding API of libnvllm.so,
 * and, as a vtable, what a front end is given. Link with `pkg-config --libs nvllm`.
 *
 * Threads: every function may be called from any thread between open and close,
 * unless it says otherwise. The engine runs its steps on a thread of its own. */
#ifndef NVLLM_ENGINE_H
#define NVLLM_ENGINE_H

#include <math.h>

#include "chat.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_engine;

struct nvllm_bias { int32_t token; float bias; };

/* What a request asks for. NVLLM_UNSET leaves a value to the next in line: the INI
 * file and the command line, the checkpoint's generation config, the API's default. */
#define NVLLM_UNSET INT64_MIN /* for integers; NaN for doubles */

#define NVLLM_ALL_CHOICES (-1) /* for cancel */

struct nvllm_params {
	uint32_t size;
	int32_t ignore_eos;        /* 1: end tokens do not end the answer */
	double temperature;        /* >= 0; default 1; 0 = greedy */
	double top_p;              /* (0, 1]; default 1 */
	double min_p;              /* [0, 1]; default 0 */
	int64_t top_k;             /* default 0 = all; -1 means the same */
	int64_t max_tokens;        /* >= 1; default: to the end of the context */
	int64_t seed;              /* default: [engine] seed, or a random one */
	int64_t logprobs;          /* of sampled tokens: how many of the likeliest to list; unset = none at all */
	int64_t prompt_logprobs;   /* of prompt tokens, likewise */
	const struct nvllm_str *stops; /* [n_stops] texts that end the answer (and are left out of it) */
	int64_t n_stops;
	int64_t n;                 /* answers to one prompt, 1 to NVLLM_MAX_CHOICES; default 1 */
	int64_t priority;          /* lower runs first, before the order of [engine] order; default 0 */
	double timeout;            /* seconds from submit to the last token, > 0; default: none */
	struct nvllm_str cache_salt; /* requests share cached prefixes only with those of an equal
	                            * salt; s NULL = the common one */
	double typical_p;          /* (0, 1]; default 1 */
	double repetition_penalty; /* > 0; default 1 */
	double presence_penalty;   /* -2 to 2; default 0 */
	double frequency_penalty;  /* -2 to 2; default 0 */
	int64_t min_tokens;        /* >= 0: end tokens and stop texts do not end it before; default 0 */
	const struct nvllm_bias *logit_bias;  /* [n_logit_bias], each -100 to 100 */
	int64_t n_logit_bias;
	const int32_t *stop_token_ids;        /* [n_stop_token_ids] end the answer, also with ignore_eos */
	int64_t n_stop_token_ids;
	const int32_t *allowed_token_ids;     /* [n_allowed_token_ids] nothing else is drawn; none = all */
	int64_t n_allowed_token_ids;
	const struct nvllm_str *bad_words;    /* [n_bad_words] texts that are never made */
	int64_t n_bad_words;
	struct nvllm_str extra;    /* a JSON object for processors of logits (vLLM's vllm_xargs); empty = none */
};
#define NVLLM_MAX_CHOICES 128

/* Everything unset. */
static inline struct nvllm_params nvllm_params_none(void)
{
	struct nvllm_params p;

	p.size = sizeof(p);
	p.ignore_eos = 0;
	p.temperature = p.top_p = p.min_p = p.typical_p = (double)NAN;
	p.repetition_penalty = p.presence_penalty = p.frequency_penalty = p.timeout = (double)NAN;
	p.top_k = p.max_tokens = p.seed = p.logprobs = p.prompt_logprobs = p.n = p.priority = NVLLM_UNSET;
	p.min_tokens = NVLLM_UNSET;
	p.stops = p.bad_words = NULL;
	p.logit_bias = NULL;
	p.stop_token_ids = p.allowed_token_ids = NULL;
	p.n_stops = p.n_bad_words = p.n_logit_bias = p.n_stop_token_ids = p.n_allowed_token_ids = 0;
	p.cache_salt.s = p.extra.s = NULL;
	p.cache_salt.len = p.extra.len = 0;
	return p;
}

/* A token and what the model thought of it. Log probabilities are raw: before
 * temperature and penalties. Lists hold n_top entries, likeliest first. */
struct nvllm_token {
	uint32_t size;
	int32_t id;
	float logprob;             /* NaN: not asked for, or the first of a prompt */
	int32_t rank;              /* 1 = the likeliest; 0 = not known */
	int32_t n_top;
	int32_t reserved;          /* 0 */
	const int32_t *top_ids;
	const float *top_logprobs;
};

enum nvllm_event_type {
	NVLLM_EVENT_PROMPT = 1, /* with prompt_logprobs, once: tokens are the prompt's */
	NVLLM_EVENT_TOKENS,     /* new tokens, new text */
	NVLLM_EVENT_DONE,       /* the last event of a choice; may carry text too */
};
enum nvllm_finish {
	NVLLM_FINISH_STOP = 1,  /* an end token or a stop text */
	NVLLM_FINISH_LENGTH,    /* max_tokens, or the end of the context */
	NVLLM_FINISH_CANCEL,
	NVLLM_FINISH_ERROR,     /* see error */
	NVLLM_FINISH_TIMEOUT,   /* the request's timeout */
};

/* Figures of one finished choice. Times in nanoseconds since submit. */
struct nvllm_usage {
	uint32_t size;
	/* Tokens. n_cached of n_prompt were not computed for this choice: they were found in the
	 * cache, or shared with another choice. */
	int32_t n_prompt, n_output, n_cached;
	int32_t n_preempted;       /* times it gave up its pages and was computed again */
	int64_t started_ns;        /* first step that worked on it */
	int64_t first_token_ns;
	int64_t done_ns;
};

/* Valid during the callback only. */
struct nvllm_event {
	uint32_t size;
	int32_t type;              /* enum nvllm_event_type */
	uint64_t id;               /* as nvllm_submit gave it */
	int32_t choice;            /* 0 to n - 1; PROMPT: 0 */
	int32_t finish;            /* DONE: enum nvllm_finish */
	struct nvllm_str text;     /* whole UTF-8 characters; the pieces join to the whole answer */
	const struct nvllm_token *const *tokens; /* NULL-ended list of the new ones, or NULL */
	int64_t n_tokens;
	int32_t stop_token;        /* DONE by an end token: its id, else -1 */
	int32_t status;            /* DONE by error: enum nvllm_status */
	const char *stop_text;     /* DONE by a stop text: that text, else NULL */
	const char *error;         /* DONE by error: the sentence */
	const struct nvllm_usage *usage; /* DONE */
	int32_t n_left;            /* DONE: choices that are not done yet; 0: the request is over */
	int32_t reserved;          /* 0 */
};

struct nvllm_request {
	uint32_t size;
	uint32_t encode_flags;     /* NVLLM_ENCODE_* for prompt */
	struct nvllm_str prompt;   /* text; or, where tokens is set, unused */
	const int32_t *tokens;     /* ids instead of text; NULL = use prompt */
	int64_t n_tokens;
	const struct nvllm_params *params; /* NULL = all unset */
	/* Called on the engine's thread, in order; must be quick; may call cancel and submit,
	 * but not wait or close. NULL = none: then use nvllm_wait. */
	void (*on_event)(void *user, const struct nvllm_event *);
	void *user;
};

struct nvllm_stats {
	uint32_t size;
	int32_t running, waiting;  /* sequences: a request has one for each of its choices */
	int32_t max_seqs;
	int64_t pages, pages_used; /* KV pages in all, and owned by requests or the cache */
	int64_t page_tokens;
	/* Tokens since open. prompt_tokens: of sequences that were started (n answers have the
	 * prompt n times); cached_tokens of them were found or shared, not computed. */
	int64_t prompt_tokens, output_tokens, cached_tokens;
	int64_t finished, cancelled, failed, preempted;      /* sequences since open; cancelled: timeouts too */
	int64_t steps;
	int64_t weight_bytes, kv_bytes, work_bytes;          /* device memory by kind, of all ranks */
	int64_t pages_cached;                                /* of pages_used: kept by the cache, which can give them up */
	int64_t computed_tokens;                             /* rows of steps, since open */
	int32_t tp, run_ahead;                               /* ranks; depth in use */
	int64_t graph_steps;                                 /* of steps: replayed from a graph */
};

struct nvllm_info {
	uint32_t size;
	int32_t vocab;
	int64_t max_model_len;     /* tokens of prompt and answer together */
	const char *model;         /* name, for people and for the "model" of an API */
	const char *start_line;    /* what was loaded, memory, speed of each phase: a few lines */
	const char *version;
	int32_t has_chat;          /* render works */
	int32_t reserved;          /* 0 */
};

/* What a front end is given. Each member is also a function of libnvllm.so. */
struct nvllm_engine_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	/* Checks the request whole, copies what it keeps, queues it. *id names it from now on
	 * (never 0). A refusal is a negative status and a sentence in error(); an engine that is
	 * being closed refuses everything. */
	int (*submit)(struct nvllm_engine *, const struct nvllm_request *, uint64_t *id);
	/* Ends it with NVLLM_FINISH_CANCEL, all choices or (choice >= 0) that one, as soon as the
	 * running step is over. What is done or unknown is no error. */
	void (*cancel)(struct nvllm_engine *, uint64_t id, int32_t choice);
	/* Blocks until the request is done and its last event was delivered. */
	void (*wait)(struct nvllm_engine *, uint64_t id);
	/* After wait() the request is counted in. */
	void (*stats)(struct nvllm_engine *, struct nvllm_stats *);
	/* Owned by the engine, valid until close. */
	const struct nvllm_info *(*info)(struct nvllm_engine *);
	/* As nvllm_tokenizer_vt.encode and piece. */
	int64_t (*encode)(struct nvllm_engine *, const char *text, int64_t len, uint32_t flags,
		int32_t *tokens, int64_t room);
	const char *(*piece)(struct nvllm_engine *, int32_t token, uint32_t flags, int32_t *len);
	/* As nvllm_chat_vt.render. */
	int64_t (*render)(struct nvllm_engine *, const struct nvllm_chat_request *, char *text, int64_t room);
	/* The newest error sentence of the calling thread; "" = none. Valid until its next call. */
	const char *(*error)(struct nvllm_engine *);
};

/* ---- libnvllm.so ---- */

struct nvllm_open {
	uint32_t size;
	uint32_t reserved;           /* 0 */
	const char *config;          /* path of an INI file; NULL = none, only sets */
	const char *const *sets;     /* NULL-ended "section.key=value"; NULL = none */
};

/* Reads the configuration, loads plugins and weights, starts the engine's thread.
 * On failure *out is NULL and err (err_len bytes, may be NULL) has the sentence. */
int nvllm_open(const struct nvllm_open *, struct nvllm_engine **out, char *err, size_t err_len);
/* Cancels what runs, joins the thread, frees everything. NULL is legal. Not from a callback. */
void nvllm_close(struct nvllm_engine *);
/* The functions above, as a table. Never NULL. */
const struct nvllm_engine_vt *nvllm_engine_functions(void);

int nvllm_submit(struct nvllm_engine *, const struct nvllm_request *, uint64_t *id);
void nvllm_cancel(struct nvllm_engine *, uint64_t id, int32_t choice);
void nvllm_wait(struct nvllm_engine *, uint64_t id);
void nvllm_stats(struct nvllm_engine *, struct nvllm_stats *);
const struct nvllm_info *nvllm_info(struct nvllm_engine *);
int64_t nvllm_encode(struct nvllm_engine *, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room);
const char *nvllm_piece(struct nvllm_engine *, int32_t token, uint32_t flags, int32_t *len);
int64_t nvllm_render(struct nvllm_engine *, const struct nvllm_chat_request *, char *text, int64_t room);
const char *nvllm_error(struct nvllm_engine *);

#ifdef __cplusplus
}
#endif
#endif
