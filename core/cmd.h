/* SPDX-License-Identifier: MIT */
/* core/cmd.h - what the files of the program nvllm know of each other: the command line
 * and the commands. */
#ifndef NVLLM_CMD_H
#define NVLLM_CMD_H

#include <nvllm/frontend.h>

#include "core.h"

/* What an argument was found to be: the program's own words are marked, the others are
 * left to the front end or the command. */
enum { ARG_OTHER = 0, ARG_OWN, ARG_SET, ARG_WORD };

struct cli {
	int argc;
	char **argv;
	char *marks;          /* [argc] ARG_* */
	const char *word;     /* the front end or command; NULL = none given */
	const char *config;   /* --config */
	const char *level;    /* --log-level */
	bool check, print_config, help, version;
};

/* The program's own options, before any front end's. The table ends with a NULL name. */
struct own_option {
	char letter;
	const char *name;
	const char *arg;      /* what it takes, NULL = nothing */
	size_t text, flag;    /* where it goes in struct cli; 0 = elsewhere */
	const char *help;
};
extern const struct own_option own_options[];

/* ---- cli.c ---- */
/* Finds the program's own options and the word. Returns an exit code. */
int cli_scan(struct cli *);
/* The configuration of --config with every --set. Returns an exit code. */
int cli_open_conf(const struct cli *, struct conf **out);
/* The front end's words into conf. Returns an exit code. */
int cli_take_args(
	const struct cli *, struct conf *, const struct nvllm_frontend_vt *, const char *name);
/* The words after a command that are not the program's own options: *at (0 to begin)
 * goes on to the next; NULL at the end. */
const char *next_word(const struct cli *, int *at);

/* ---- main.c ---- */
/* A sentence about the command line, and the exit code for it. */
int usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Logs the newest error sentence and returns the exit code of a failed run. */
int failed(void);
/* Flushes standard output: code, or the exit code of a failed run if it cannot be
 * written. */
int finish_output(int code);

/* ---- cmd.c, cmd_text.c, cmd_render.c ---- */
/* The commands beside the front ends. Each returns an exit code. */
struct command {
	const char *name, *args, *help;
	int (*run)(const struct cli *, struct conf *, struct plugins *);
};
extern const struct command commands[]; /* ends with a NULL name */
int cmd_tokenize(const struct cli *, struct conf *, struct plugins *);
int cmd_detokenize(const struct cli *, struct conf *, struct plugins *);
int cmd_render(const struct cli *, struct conf *, struct plugins *);

#endif
