/* SPDX-License-Identifier: MIT */
/* frontends/shell_chat.c - the conversation with a person at a terminal: decides what a
 * line means (a command or a message), and what Ctrl-C stops. */
#include "shell.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct chat {
	struct shell *sh;
	struct shell_talk talk;
	struct shell_edit *edit;
	struct nvllm_usage last;   /* of the newest answer; size 0 = none yet */
	bool quit;
	int rc;                    /* nonzero: the chat is over, with this */
};

struct command {
	const char *name, *help;
	void (*run)(struct chat *);
};

static void do_help(struct chat *);

static void do_reset(struct chat *c)
{
	shell_talk_end(&c->talk);
	c->rc = shell_talk_begin(&c->talk, c->sh);
	fprintf(stderr, "The conversation begins anew.\n");
}

static void do_stats(struct chat *c)
{
	struct nvllm_stats s = { .size = sizeof(s) };
	const struct nvllm_info *info = c->sh->vt->info(c->sh->engine);

	c->sh->vt->stats(c->sh->engine, &s);
	if (c->last.size) {
		fprintf(stderr, "last answer: ");
		shell_say_figures(&c->last);
	}
	fprintf(stderr,
		"since start: %lld answers, %lld stopped; %lld prompt tokens (%lld cached), %lld "
		"generated\n",
		(long long)s.finished, (long long)s.cancelled, (long long)s.prompt_tokens,
		(long long)s.cached_tokens, (long long)s.output_tokens);
	fprintf(stderr,
		"conversation: %lld messages; context: %lld tokens; KV pages: %lld of %lld in use "
		"(%lld by the prefix cache alone), %lld tokens each\n",
		(long long)c->talk.n, (long long)info->max_model_len, (long long)s.pages_used,
		(long long)s.pages, (long long)s.pages_cached, (long long)s.page_tokens);
	fprintf(stderr, "memory: weights %.1f MiB, KV %.1f MiB, workspace %.1f MiB\n",
		(double)s.weight_bytes / 1048576, (double)s.kv_bytes / 1048576,
		(double)s.work_bytes / 1048576);
}

static void do_quit(struct chat *c)
{
	c->quit = true;
}

static const struct command commands[] = {
	{ "/reset", "forget the conversation", do_reset },
	{ "/stats", "figures of the last answer and of the engine", do_stats },
	{ "/help", "this list", do_help },
	{ "/quit", "leave (Ctrl-D too)", do_quit },
};

static void do_help(struct chat *c)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "%-8s %s\n", commands[i].name, commands[i].help);
	fprintf(stderr, "%-8s %s\n", "Ctrl-C", "stop the answer; at the prompt, clear the line");
}

/* True if the line is a command: "/word" alone. "/usr/bin is what?" is a message. */
static bool run_command(struct chat *c, const char *line)
{
	size_t n = strlen(line);

	while (n > 0 && isspace((unsigned char)line[n - 1]))
		n--;
	if (line[0] != '/' || n < 2)
		return false;
	for (size_t i = 1; i < n; i++)
		if (!islower((unsigned char)line[i]))
			return false;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strlen(commands[i].name) == n && !memcmp(commands[i].name, line, n)) {
			commands[i].run(c);
			return true;
		}
	fprintf(stderr, "There is no command %.*s; /help lists them.\n", (int)n, line);
	return true;
}

/* Prints what the answer left open, and keeps it as a message. */
static void take_answer(struct chat *c, const struct shell_answer *a, bool to_end)
{
	c->last = a->usage;
	c->last.size = sizeof(c->last);
	printf("\n");
	fflush(stdout);
	if (a->interrupted)
		fprintf(stderr, "[stopped]\n");
	else if (a->finish == NVLLM_FINISH_LENGTH)
		fprintf(stderr,
			to_end ? "[the context is full; /reset begins anew]\n"
			       : "[cut off after %d tokens; raise -n for more]\n",
			a->usage.n_output);
	if (a->out_error)
		c->rc = NVLLM_EXIT_FAIL;
	else if (a->text.len)
		c->rc = shell_talk_add(&c->talk, "assistant", a->text.s, a->text.len);
	else
		shell_talk_drop(&c->talk); /* nothing was said: the question goes too */
}

/* Asks with the conversation as it stands. */
static int ask(struct chat *c, struct nvllm_str text)
{
	struct shell *sh = c->sh;
	int64_t want = sh->conf->max_tokens, room, n;
	struct shell_answer a;
	bool to_end;
	int rc;

	n = sh->vt->encode(sh->engine, text.s, text.len, 0, NULL, 0);
	if (n < 0)
		return shell_engine_failed(sh, (int)n);
	room = sh->vt->info(sh->engine)->max_model_len - n;
	if (room < 1)
		return sh->host->fail(sh->host, NVLLM_EINVAL,
			"the conversation has %lld tokens and no longer fits into the "
			"context of %lld: /reset begins anew",
			(long long)n, (long long)(room + n));
	to_end = want == 0 || want >= room;
	rc = shell_ask(sh, text, 0, to_end ? 0 : want, &a);
	if (!rc)
		take_answer(c, &a, to_end);
	shell_answer_free(&a);
	return rc;
}

static void say(struct chat *c, const char *line)
{
	struct nvllm_str text;
	int rc = shell_talk_add(&c->talk, "user", line, strlen(line));

	if (rc) {
		c->rc = rc;
		return;
	}
	rc = shell_talk_render(&c->talk, &text);
	if (!rc) {
		rc = ask(c, text);
		free((char *)(uintptr_t)text.s);
	}
	if (rc) { /* this message's fault, not the end of the chat */
		shell_talk_drop(&c->talk);
		fprintf(stderr, "%s\n", c->sh->vt->error(c->sh->engine));
	}
}

static void take_line(struct chat *c, const char *line)
{
	while (isspace((unsigned char)*line))
		line++;
	if (*line && !run_command(c, line))
		say(c, line);
}

static void loop(struct chat *c)
{
	const char *line;

	while (!c->quit && !c->rc) {
		switch (shell_edit_line(c->edit, &line)) {
		case SHELL_LINE:
			take_line(c, line);
			break;
		case SHELL_INTERRUPT:
			fprintf(stderr, line ? "^C\n" : "^C\n/quit or Ctrl-D leaves.\n");
			break;
		case SHELL_END:
			fprintf(stderr, "\n");
			c->quit = true;
			break;
		case SHELL_FAILED:
			c->rc = c->sh->host->fail(c->sh->host, NVLLM_EIO,
				"cannot read the terminal: %s", strerror(errno));
			break;
		}
	}
}

int shell_chat(struct shell *sh)
{
	struct chat c = { .sh = sh };
	int rc;

	c.rc = shell_talk_begin(&c.talk, sh);
	if (!c.rc) {
		c.edit = shell_edit_create(sh);
		if (!c.edit)
			c.rc = sh->host->fail(sh->host, NVLLM_ENOMEM, "cannot set up line editing");
	}
	if (!c.rc) {
		fprintf(stderr, "Type a message; /help lists the commands.\n");
		loop(&c);
	}
	rc = c.rc;
	shell_edit_destroy(c.edit);
	shell_talk_end(&c.talk);
	return rc;
}
