/* SPDX-License-Identifier: MIT */
/* frontends/shell.h - what the files of the shell know of each other. */
#ifndef NVLLM_SHELL_H
#define NVLLM_SHELL_H

#include <stdbool.h>
#include <stdio.h>

#include <nvllm/frontend.h>
#include <nvllm/plugin.h>

#include "interrupt.h"
#include "json.h"

struct shell_conf {
	const char *prompt, *system, *history, *template_kwargs;
	int64_t max_tokens;
	int32_t raw;
};

struct shell {
	const struct nvllm_host *host;
	const struct nvllm_engine_vt *vt;
	struct nvllm_engine *engine;
	const struct shell_conf *conf;
	struct interrupt interrupt;
	bool out_tty;              /* standard output is a terminal */
};

/* ---- shell_answer.c: one request, its text streamed to standard output ---- */

struct shell_answer {
	struct json_buf text;      /* all of it */
	struct nvllm_usage usage;
	int finish;                /* enum nvllm_finish */
	bool interrupted;          /* Ctrl-C was pressed meanwhile */
	int out_error;             /* errno of standard output; 0 = all was written */
};

/* max_tokens 0: to the end of the context. 0, or a status and a sentence. *out is to be
 * freed in both cases. */
int  shell_ask(struct shell *, struct nvllm_str prompt, uint32_t encode_flags, int64_t max_tokens,
	struct shell_answer *out);
void shell_answer_free(struct shell_answer *);
/* One line of figures to standard error. */
void shell_say_figures(const struct nvllm_usage *);
/* The newest sentence of the engine, as this plugin's failure. */
int  shell_engine_failed(struct shell *, int status);

/* ---- shell_talk.c: a conversation as the text of a prompt ---- */

struct shell_talk {
	struct shell *sh;
	struct nvllm_chat_message *messages; /* owns the contents; roles are literals */
	const struct nvllm_chat_message **list; /* NULL-ended, into messages */
	int64_t n, cap;
	struct json_buf body;      /* for the template; empty = nothing beside the messages */
};

/* With the system message, if one is configured. 0, or a status and a sentence. */
int  shell_talk_begin(struct shell_talk *, struct shell *);
int  shell_talk_add(struct shell_talk *, const char *role, const char *content, size_t len);
void shell_talk_drop(struct shell_talk *); /* the last message */
/* The whole conversation, up to the head of the next answer; free(text->s). */
int  shell_talk_render(struct shell_talk *, struct nvllm_str *text);
void shell_talk_end(struct shell_talk *);

/* ---- shell_chat.c: the conversation with a person ---- */

int shell_chat(struct shell *); /* an exit code, or a status */

/* ---- shell_edit.c: a line from the terminal ---- */

struct shell_edit;
enum shell_key { SHELL_LINE, SHELL_INTERRUPT, SHELL_END, SHELL_FAILED };

struct shell_edit *shell_edit_create(struct shell *);
/* SHELL_LINE: *line (UTF-8, no newline) is valid until the next call. SHELL_INTERRUPT:
 * Ctrl-C; *line is NULL if there was nothing to clear. */
enum shell_key shell_edit_line(struct shell_edit *, const char **line);
void shell_edit_destroy(struct shell_edit *);

#endif
