/* SPDX-License-Identifier: MIT */
/* frontends/batch.h - what the files of the batch front end know of each other.
 * batch_run.c decides what runs when; the rest are the things it works with. */
#ifndef NVLLM_BATCH_H
#define NVLLM_BATCH_H

#include <stdbool.h>
#include <stdio.h>

#include <nvllm/frontend.h>
#include <nvllm/plugin.h>

#include "json.h"

struct batch_conf {
	const char *input, *output;
	int32_t resume;
	int64_t max_inflight, max_line;
};

/* ---- batch_run.c: the run, as nvllm_frontend_vt.run ---- */

int batch_run(const struct nvllm_host *, const struct nvllm_engine_vt *, struct nvllm_engine *,
	const void *conf);

/* ---- batch_parse.c: one line of input, pure ---- */

enum batch_api { BATCH_COMPLETION = 1, BATCH_CHAT = 2 };

#define BATCH_MAX_STOPS  64
#define BATCH_MAX_TOP    20          /* log probabilities listed a token, as vLLM's max_logprobs */
#define BATCH_MAX_VALUES (1u << 20)  /* JSON values of one line, token ids among them */

/* Why a line is refused. */
struct batch_error {
	int status;          /* 400 the line's fault, 500 ours */
	char param[48];      /* the key at fault; "" = none */
	char message[400];
};

struct batch_request {
	cJSON *json;             /* owns every string below */
	const char *custom_id;   /* NULL = none was found */
	int api;                 /* enum batch_api */
	struct nvllm_str prompt; /* completion by text */
	int32_t *tokens;         /* completion by ids; NULL = by text */
	int64_t n_tokens;
	struct nvllm_chat_message *messages; /* chat */
	const struct nvllm_chat_message **message_list; /* NULL-ended, into messages */
	struct json_buf body;    /* chat: what a template may read of the body, as JSON */
	bool add_generation_prompt; /* chat */
	struct nvllm_params params;  /* its lists are the arrays below */
	struct nvllm_str stops[BATCH_MAX_STOPS];
	struct nvllm_str *bad_words;
	struct nvllm_bias *logit_bias;
	int32_t *stop_token_ids, *allowed_token_ids;
	struct json_buf extra;
	bool return_token_ids;
};

/* Returns 0, or -1 and *err; *out then still has the custom_id where one was found.
 * Free it in both cases. out must not be moved while its params are in use. */
int  batch_parse(const char *line, size_t len, struct batch_request *out, struct batch_error *err);
void batch_request_free(struct batch_request *);
/* Fills err (param may be NULL) and returns -1. */
int  batch_refuse(struct batch_error *, int status, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* ---- batch_answer.c: what the engine said of a request, kept ---- */

/* A token as an answer lists it; its likeliest ones lie in the list's top. */
struct batch_token {
	int32_t id, rank;
	float logprob;
	int32_t n_top;
	size_t top_at;
};

struct batch_top {
	int32_t id;
	float logprob;
};

/* A list of tokens and their likeliest ones. */
struct batch_tokens {
	struct batch_token *v;
	size_t n, cap;
	struct batch_top *top;
	size_t n_top, cap_top;
};

/* One of the answers to a prompt. */
struct batch_choice {
	struct json_buf text;
	struct batch_tokens tokens;
	struct nvllm_usage usage;
	int finish, status;      /* enum nvllm_finish, 0 = not done; nvllm_status of an error */
	int32_t stop_token;      /* -1 = none */
	char *stop_text;         /* NULL = none */
	char error[400];
};

/* What the engine said of one request, copied on its thread. */
struct batch_answer {
	struct batch_choice *choices;
	int32_t n;
	struct batch_tokens prompt; /* with prompt_logprobs */
	bool failed;             /* out of memory while copying */
};

/* Room for n choices. False: no memory. */
bool batch_answer_init(struct batch_answer *, int64_t n);
/* Copies one event. Returns true on the last one of the request. */
bool batch_answer_add(struct batch_answer *, const struct nvllm_event *);
/* The first choice that ended so, or NULL. */
const struct batch_choice *batch_answer_find(const struct batch_answer *, int finish);
/* The figures of all choices as an API counts them: the prompt once, and of it what no
 * choice computed; every choice's output. */
void batch_answer_count(const struct batch_answer *, int64_t *prompt, int64_t *output, int64_t *cached);
void batch_answer_free(struct batch_answer *);

/* ---- batch_out.c: the answer to a line as JSON ---- */

/* What the writer needs beside the answer. */
struct batch_writer {
	const struct nvllm_engine_vt *vt;
	struct nvllm_engine *engine;
	const char *model;
	int64_t created;           /* seconds since 1970 */
	uint64_t run;              /* makes the ids of this run its own */
};

/* One line of output, without its newline: the answer, or the refusal. prompt_ids:
 * [n_prompt of the usage], NULL where they were not asked for. */
void batch_put_answer(struct json_buf *, const struct batch_writer *, int64_t line,
	const struct batch_request *, const struct batch_answer *, const int32_t *prompt_ids);
void batch_put_refusal(struct json_buf *, const struct batch_writer *, int64_t line,
	const char *custom_id, const struct batch_error *);

/* ---- batch_file.c: lines in, lines kept ---- */

/* Reads a file line by line in bounded memory. */
struct batch_reader {
	int fd;                  /* to poll, where it may be a pipe */
	char *ahead;             /* bytes read; of [end] those from at on are not looked at yet */
	size_t at, end;
	bool open_line;          /* s is the beginning of a line */
	char *s;                 /* the line, without its newline */
	size_t len, cap, max;
	int64_t n;               /* lines read so far: the number of this one */
	int64_t bytes;           /* read so far */
	uint64_t hash;           /* of the whole line, also where it is too long */
	bool too_long;           /* longer than max: s is its beginning */
	bool torn;               /* the file ended without a newline */
	bool failed;             /* could not read, or no memory: errno */
};

enum batch_read { BATCH_END, BATCH_LINE, BATCH_MORE };

int  batch_reader_open(struct batch_reader *, const char *path, size_t max);
/* A line is there, or the end (or failed), or more must be read: then poll fd and call it
 * again. It reads once at most, and only once all that was read is looked at, so that a
 * pipe whose writer is slow holds no one up. */
enum batch_read batch_reader_try(struct batch_reader *);
/* The same, waiting. True: a line is there. False: the end, or failed. */
bool batch_reader_next(struct batch_reader *);
void batch_reader_close(struct batch_reader *);
bool batch_is_blank(const char *s, size_t len);
/* FNV-1a (Fowler, Noll, Vo), 64 bits, going on from h; begin with BATCH_HASH. */
#define BATCH_HASH 0xcbf29ce484222325ull
uint64_t batch_hash(uint64_t h, const char *s, size_t len);

/* A set of 64-bit numbers: the hashes of the custom_ids seen. */
struct batch_set {
	uint64_t *slots;
	size_t n, cap;
};
/* 1: it is new; 0: it was there; -1: no memory. */
int  batch_set_add(struct batch_set *, uint64_t);
void batch_set_free(struct batch_set *);

/* ---- batch_journal.c: finished lines, in the order they ended ---- */

/* Where a finished line lies in the journal. 40 bytes a line is what stays in memory. */
struct batch_entry {
	int64_t offset, len;     /* of its output, in the journal; len 0 = not finished */
	uint64_t hash;           /* of the input line */
	uint64_t id;             /* hash of its custom_id; 0 = it has none */
	int32_t status;
};

struct batch_journal {
	const struct nvllm_host *host;
	char *path;              /* OUTPUT.journal */
	char *model;             /* of the run that began it; NULL = empty journal */
	FILE *f;
	int64_t end;             /* bytes of whole records */
	struct batch_entry *entries; /* [n]: line 1 is entries[0] */
	int64_t n, cap;
	int64_t done, failed;    /* lines, and those with a status other than 200 */
};

/* Reads the journal that stands beside output, if resume, and cuts a torn record off
 * where write is set; without write nothing on the disk changes. 0, or a status and a sentence. */
int batch_journal_open(
	struct batch_journal *, const struct nvllm_host *, const struct batch_conf *, bool write);
/* Writes the first record of a new journal; refuses one begun with another model. */
int  batch_journal_begin(struct batch_journal *, const char *model);
/* The entry of a line that is done, or NULL. */
const struct batch_entry *batch_journal_find(const struct batch_journal *, int64_t line);
int  batch_journal_add(struct batch_journal *, int64_t line, uint64_t hash, uint64_t id, int status,
	const struct json_buf *output);
/* Refuses an input that is not the one the finished lines came from. */
int  batch_journal_check_input(struct batch_journal *, const struct batch_conf *);
/* Writes the output in input order under a temporary name, renames it, removes the journal. */
int  batch_journal_finish(struct batch_journal *, const struct batch_conf *);
void batch_journal_close(struct batch_journal *);

/* ---- batch_progress.c: what a person sees ---- */

struct batch_progress {
	bool on;                 /* standard error is a terminal */
	int64_t total;           /* lines of the input; 0 = not known */
	int64_t before;          /* of them, done by an earlier run */
	int64_t started_ns, next_ns;
	int64_t n_prompt, n_output, n_cached; /* tokens of this run */
};

void batch_progress_begin(struct batch_progress *, const struct batch_conf *, int64_t before);
/* Redraws the bar, at most ten times a second. */
void batch_progress_draw(struct batch_progress *, int64_t done, int64_t output_tokens);
void batch_progress_clear(struct batch_progress *);
double batch_progress_seconds(const struct batch_progress *);

#endif
