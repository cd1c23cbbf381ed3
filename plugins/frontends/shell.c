/* SPDX-License-Identifier: MIT */
/* frontends/shell.c - the way in for a person: decides between a chat at a terminal and
 * one answer to one prompt (-p, or all of standard input). Exit codes: 0 done, 1 failed
 * (also a reader that left early, quietly), 130 stopped by Ctrl-C. */
#define _GNU_SOURCE
#include "shell.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

#define MAX_STDIN ((size_t)256 << 20)

/* ---- one prompt, one answer ---- */

static int conclude(struct shell *sh, const struct shell_answer *a)
{
	ssize_t n = a->out_error ? 0 : write(STDOUT_FILENO, "\n", 1);
	int error = a->out_error ? a->out_error : n < 0 ? errno : 0;

	if (error == EPIPE)
		return NVLLM_EXIT_FAIL;
	if (error)
		return sh->host->fail(sh->host, NVLLM_EIO, "cannot write to standard output: %s",
			strerror(error));
	shell_say_figures(&a->usage);
	return a->interrupted ? NVLLM_EXIT_INTERRUPTED : NVLLM_EXIT_OK;
}

static int answer_text(struct shell *sh, struct nvllm_str text, uint32_t flags)
{
	struct shell_answer a;
	int rc = shell_ask(sh, text, flags, sh->conf->max_tokens, &a);

	if (!rc)
		rc = conclude(sh, &a);
	shell_answer_free(&a);
	return rc;
}

static int answer_chat(struct shell *sh, struct nvllm_str prompt)
{
	struct shell_talk talk;
	struct nvllm_str text = { NULL, 0 };
	int rc = shell_talk_begin(&talk, sh);

	if (!rc)
		rc = shell_talk_add(&talk, "user", prompt.s, (size_t)prompt.len);
	if (!rc)
		rc = shell_talk_render(&talk, &text);
	if (!rc)
		rc = answer_text(sh, text, 0);
	free((char *)(uintptr_t)text.s);
	shell_talk_end(&talk);
	return rc;
}

static int check_text(const struct nvllm_host *host, const char *s, size_t len, const char *what)
{
	size_t bad = utf8_check(s, len);

	if (bad == len)
		return 0;
	return host->fail(host, NVLLM_EINVAL, "%s is not valid UTF-8 (byte %zu is 0x%02x)",
		what, bad, (unsigned char)s[bad]);
}

static int answer(struct shell *sh, const char *s, size_t len, const char *what)
{
	struct nvllm_str prompt = { s, (int64_t)len };
	int rc = check_text(sh->host, s, len, what);

	if (rc)
		return rc;
	return sh->conf->raw ? answer_text(sh, prompt, NVLLM_ENCODE_SPECIAL)
			     : answer_chat(sh, prompt);
}

/* All of standard input, without one newline at its end. Ctrl-C still ends the program
 * here: nothing runs yet. */
static int read_stdin(struct shell *sh, struct json_buf *b)
{
	char chunk[16384];
	size_t n;

	while ((n = fread(chunk, 1, sizeof(chunk), stdin)) > 0) {
		json_put_raw(b, chunk, n);
		if (b->failed || b->len > MAX_STDIN)
			return sh->host->fail(sh->host, NVLLM_EINVAL,
				"standard input has more than %zu bytes: it is read as one "
				"prompt",
				b->failed ? b->len : MAX_STDIN);
	}
	if (ferror(stdin))
		return sh->host->fail(
			sh->host, NVLLM_EIO, "cannot read standard input: %s", strerror(errno));
	if (b->len && b->s[b->len - 1] == '\n')
		b->len -= b->len > 1 && b->s[b->len - 2] == '\r' ? 2 : 1;
	if (!b->len)
		return sh->host->fail(sh->host, NVLLM_EINVAL,
			"standard input is empty: give a prompt there or with -p, or start "
			"at a terminal to chat");
	return 0;
}

/* ---- the run ---- */

static int run_with_signals(struct shell *sh, const struct json_buf *input)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, old;
	const char *prompt = sh->conf->prompt;
	int rc;

	if (interrupt_begin(&sh->interrupt))
		return sh->host->fail(
			sh->host, NVLLM_EIO, "cannot listen for Ctrl-C: %s", strerror(errno));
	sigaction(SIGPIPE, &ignore, &old);
	if (*prompt)
		rc = answer(sh, prompt, strlen(prompt), "the prompt");
	else if (input->len)
		rc = answer(sh, input->s, input->len, "standard input");
	else
		rc = shell_chat(sh);
	sigaction(SIGPIPE, &old, NULL);
	interrupt_end(&sh->interrupt);
	return rc;
}

static int run(const struct nvllm_host *host, const struct nvllm_engine_vt *vt,
	struct nvllm_engine *engine, const void *conf)
{
	struct shell sh = { .host = host, .vt = vt, .engine = engine, .conf = conf };
	struct json_buf input = { 0 };
	int rc = 0;

	sh.out_tty = isatty(STDOUT_FILENO);
	if (!*sh.conf->prompt && !isatty(STDIN_FILENO))
		rc = read_stdin(&sh, &input);
	else if (!*sh.conf->prompt && sh.conf->raw)
		rc = host->fail(host, NVLLM_EINVAL,
			"--raw takes a prompt: give it with -p or on standard input");
	if (!rc)
		rc = run_with_signals(&sh, &input);
	json_buf_free(&input);
	return rc;
}

static int check_kwargs(const struct nvllm_host *host, const char *text)
{
	struct json_error why;
	bool object;
	cJSON *v;

	if (!*text)
		return 0;
	if (json_parse(text, strlen(text), NULL, &v, &why))
		return host->fail(host, NVLLM_EINVAL,
			"[shell] template_kwargs cannot be read as JSON: %s, at byte %zu", why.why,
			why.offset);
	object = cJSON_IsObject(v);
	cJSON_Delete(v);
	return object ? 0
		      : host->fail(host, NVLLM_EINVAL,
				"[shell] template_kwargs must be a JSON object, as "
				"{\"enable_thinking\": false}");
}

static int check(const struct nvllm_host *host, const void *conf)
{
	const struct shell_conf *c = conf;
	int rc = check_text(host, c->prompt, strlen(c->prompt), "the prompt");

	if (!rc)
		rc = check_text(host, c->system, strlen(c->system), "the system message");
	return rc ? rc : check_kwargs(host, c->template_kwargs);
}

/* ---- the plugin ---- */

static const struct nvllm_option options[] = {
	NVLLM_STR(shell_conf, prompt, "prompt", "",
		"one prompt to answer; empty = chat, or standard input if that is no terminal"),
	NVLLM_INT(shell_conf, max_tokens, "max_tokens", "0", 0, 1e9,
		"tokens of an answer at most; 0 = to the end of the context"),
	NVLLM_BOOL(shell_conf, raw, "raw", "false",
		"give the prompt to the model as it is, without the chat template"),
	NVLLM_STR(shell_conf, system, "system", "",
		"system message that begins the conversation; empty = the template's own"),
	NVLLM_STR(shell_conf, template_kwargs, "template_kwargs", "",
		"a JSON object for the chat template, as {\"enable_thinking\": false}; empty = none"),
	NVLLM_STR(shell_conf, history, "history", "",
		"file that keeps the lines typed; empty = none"),
	NVLLM_OPTIONS_END
};

#define ARG(var, letter, name, key, value, help) \
	static const struct nvllm_arg var = { sizeof(var), letter, name, key, value, help }
ARG(arg_prompt, 'p', "prompt", "shell.prompt", NULL, "answer TEXT and end");
ARG(arg_max, 'n', "max-tokens", "shell.max_tokens", NULL, "tokens of an answer at most");
ARG(arg_temp, 0, "temp", "sampler.temperature", NULL, "0 = always the likeliest token");
ARG(arg_top_k, 0, "top-k", "sampler.top_k", NULL, "draw from the K likeliest; 0 = all");
ARG(arg_top_p, 0, "top-p", "sampler.top_p", NULL,
	"draw from the likeliest that together have probability P");
ARG(arg_min_p, 0, "min-p", "sampler.min_p", NULL,
	"leave out tokens less likely than P times the likeliest");
ARG(arg_typical, 0, "typical", "sampler.typical_p", NULL, "locally typical sampling; 1 = off");
ARG(arg_typical_p, 0, "typical-p", "sampler.typical_p", NULL, "the same");
ARG(arg_repeat, 0, "repeat-penalty", "sampler.repetition_penalty", NULL,
	"make tokens of prompt and answer less likely; 1 = off");
ARG(arg_repetition, 0, "repetition-penalty", "sampler.repetition_penalty", NULL, "the same");
ARG(arg_presence, 0, "presence-penalty", "sampler.presence_penalty", NULL,
	"taken off tokens that the answer has; 0 = off");
ARG(arg_frequency, 0, "frequency-penalty", "sampler.frequency_penalty", NULL,
	"taken off for each time that the answer has a token; 0 = off");
ARG(arg_seed, 0, "seed", "engine.seed", NULL, "the same seed, the same answer");
ARG(arg_raw, 0, "raw", "shell.raw", "true", "no chat template");
ARG(arg_system, 0, "system", "shell.system", NULL, "system message");
ARG(arg_kwargs, 0, "template-kwargs", "shell.template_kwargs", NULL, "JSON for the chat template");
#undef ARG

static const struct nvllm_arg *const args[] = { &arg_prompt, &arg_max, &arg_temp, &arg_top_k,
	&arg_top_p, &arg_min_p, &arg_typical, &arg_typical_p, &arg_repeat, &arg_repetition,
	&arg_presence, &arg_frequency, &arg_seed, &arg_raw, &arg_system, &arg_kwargs, NULL };

static const struct nvllm_frontend_vt vt_shell = {
	.size = sizeof(vt_shell), .args = args, .check = check, .run = run
};

static const struct nvllm_component shell = { .size = sizeof(shell),
	.kind = NVLLM_KIND_FRONTEND,
	.name = "shell",
	.summary = "chat at a terminal, or one answer to one prompt",
	.vt = &vt_shell,
	.options = options,
	.conf_size = sizeof(struct shell_conf) };

static const struct nvllm_component *const components[] = { &shell, NULL };

NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = { .abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "shell",
	.version = "0.1.0",
	.components = components };
