/* SPDX-License-Identifier: MIT */
/* frontends/batch.c - the batch front end's face: its options, its words on the command
 * line, and what is refused before the engine opens. */
#include "batch.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_input(const struct nvllm_host *host, const struct batch_conf *c, struct stat *st)
{
	if (!*c->input)
		return host->fail(host, NVLLM_EINVAL, "no input: give a JSONL file with -i FILE");
	if (!*c->output)
		return host->fail(
			host, NVLLM_EINVAL, "no output: give a file to write with -o FILE");
	if (stat(c->input, st) || access(c->input, R_OK))
		return host->fail(host, NVLLM_ENOENT, "cannot read the input %s: %s", c->input,
			strerror(errno));
	if (S_ISDIR(st->st_mode))
		return host->fail(host, NVLLM_EINVAL, "the input %s is a folder: give a JSONL file",
			c->input);
	return 0;
}

static int check_output(
	const struct nvllm_host *host, const struct batch_conf *c, const struct stat *input)
{
	char *copy = strdup(c->output);
	struct stat st;
	int rc = 0;

	if (!copy)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a path");
	if (access(dirname(copy), W_OK | X_OK))
		rc = host->fail(host, NVLLM_EIO, "cannot write the output %s: its folder: %s",
			c->output, strerror(errno));
	else if (!stat(c->output, &st) && !S_ISREG(st.st_mode))
		rc = host->fail(host, NVLLM_EINVAL,
			"the output %s is no plain file: it is written whole at the end, by "
			"renaming; give the name of a file",
			c->output);
	else if (!stat(c->output, &st) && st.st_dev == input->st_dev && st.st_ino == input->st_ino)
		rc = host->fail(host, NVLLM_EINVAL,
			"the input and the output are the same file, %s", c->output);
	free(copy);
	return rc;
}

static int check(const struct nvllm_host *host, const void *conf)
{
	const struct batch_conf *c = conf;
	struct batch_journal j = { 0 };
	struct stat st;
	int rc = check_input(host, c, &st);

	if (!rc)
		rc = check_output(host, c, &st);
	if (rc)
		return rc;
	if (c->resume && !S_ISREG(st.st_mode))
		return host->fail(host, NVLLM_EINVAL,
			"--resume reads the input twice, and %s is no plain file", c->input);
	rc = batch_journal_open(&j, host, c, false);
	if (!rc)
		rc = batch_journal_check_input(&j, c);
	batch_journal_close(&j);
	return rc;
}

/* ---- the plugin ---- */

static const struct nvllm_option options[] = {
	NVLLM_STR(batch_conf, input, "input", "",
		"JSONL file of requests: custom_id, method, url, body"),
	NVLLM_STR(batch_conf, output, "output", "",
		"JSONL file of answers, written whole at the end, in input order"),
	NVLLM_BOOL(batch_conf, resume, "resume", "false",
		"go on with the journal an interrupted run left beside the output"),
	NVLLM_INT(batch_conf, max_inflight, "max_inflight", "0", 0, 1048576,
		"lines given to the engine at once; 0 = twice the sequences it runs at once"),
	NVLLM_SIZE(batch_conf, max_line, "max_line", "64M", 1024, 1073741824,
		"bytes of the longest line that is read"),
	NVLLM_OPTIONS_END
};

static const struct nvllm_arg arg_input = { sizeof(arg_input), 'i', "input", "batch.input", NULL,
	"JSONL file of requests" };
static const struct nvllm_arg arg_output = { sizeof(arg_output), 'o', "output", "batch.output",
	NULL, "JSONL file of answers" };
static const struct nvllm_arg arg_resume = { sizeof(arg_resume), 0, "resume", "batch.resume",
	"true", "go on after an interruption" };
static const struct nvllm_arg *const args[] = { &arg_input, &arg_output, &arg_resume, NULL };

static const struct nvllm_frontend_vt vt_batch = {
	.size = sizeof(vt_batch), .args = args, .check = check, .run = batch_run
};

static const struct nvllm_component batch = { .size = sizeof(batch),
	.kind = NVLLM_KIND_FRONTEND,
	.name = "batch",
	.summary = "a JSONL file of OpenAI batch requests to a file of answers",
	.vt = &vt_batch,
	.options = options,
	.conf_size = sizeof(struct batch_conf) };

static const struct nvllm_component *const components[] = { &batch, NULL };

NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = { .abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "batch",
	.version = "0.1.0",
	.components = components };
