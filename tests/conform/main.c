/* SPDX-License-Identifier: MIT */
/* tests/conform/main.c - nvllm-check: decides what is checked of a plugin's file, and
 * keeps each component in a child of its own, so that a crash or a hang is a verdict. */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "core.h"

static struct ck_opts opts = { .timeout_s = 60 };
const struct ck_opts *ck_opts = &opts;

static const struct { int kind; void (*suite)(const struct nvllm_component *); } suites[] = {
	{ NVLLM_KIND_MODEL, suite_model }, { NVLLM_KIND_ATTENTION, suite_attention },
	{ NVLLM_KIND_SAMPLER, suite_sampler }, { NVLLM_KIND_CACHE, suite_cache },
	{ NVLLM_KIND_DEVICE, suite_device }, { NVLLM_KIND_COMM, suite_comm },
	{ NVLLM_KIND_LOADER, suite_loader }, { NVLLM_KIND_TOKENIZER, suite_tokenizer },
	{ NVLLM_KIND_CHAT, suite_chat }, { NVLLM_KIND_FRONTEND, suite_frontend },
	{ NVLLM_KIND_LOGITS, suite_logits },
};

static void usage(FILE *f)
{
	fputs("usage: nvllm check PLUGIN.so... [options]\n"
		"Checks each file against the ABI's rules and runs the conformance suite of each\n"
		"component's kind. Exit code 0: all passed, 1: something failed, 2: usage.\n"
		"  --file PATH          a checkpoint: loader, tokenizer and chat suites read it\n"
		"  --set KIND.KEY=VALUE an option of the plugin, as in the INI file\n"
		"  --hparam KEY=VALUE   a hyperparameter of the synthetic checkpoint (models)\n"
		"  --device NAME        the device that attention backends and samplers are tried on;\n"
		"                       by itself the one whose memory they need, or host memory\n"
		"  --kind KIND          only components of that kind\n"
		"  --timeout SECONDS    for each component (60)\n"
		"  --verbose            the plugin's log lines on standard error\n", f);
}

const void *ck_conf(const struct nvllm_component *c, const char *const *extra, int *err)
{
	struct conf *conf = NULL;
	struct conf_table table = {
		.who = c->name, .options = c->options, .conf_size = c->conf_size
	};
	const char *kind = kind_name((int)c->kind);
	char text[512];

	*err = 0;
	if (!c->options)
		return NULL;
	table.conf = calloc(1, c->conf_size ? (size_t)c->conf_size : 1);
	if (!table.conf || conf_open(NULL, &conf))
		goto bad;
	for (int i = 0; i < opts.n_sets; i++)
		if (!strncmp(opts.sets[i], kind, strlen(kind)) &&
			opts.sets[i][strlen(kind)] == '.' && conf_set(conf, opts.sets[i], "--set"))
			goto bad;
	for (; extra && *extra; extra++) {
		snprintf(text, sizeof(text), "%s.%s", kind, *extra);
		if (conf_set(conf, text, "nvllm-check"))
			goto bad;
	}
	if (conf_fill(conf, kind, &table, 1))
		goto bad;
	return table.conf; /* conf keeps the strings: the child's end frees both */
bad:
	ck_bad("its options cannot be filled: %s", fail_text());
	free(table.conf);
	*err = 1;
	return NULL;
}

bool ck_has_option(const struct nvllm_component *c, const char *key)
{
	for (const struct nvllm_option *o = c->options; o && o->key; o++)
		if (!strcmp(o->key, key))
			return true;
	return false;
}

static const struct nvllm_plugin *open_plugin(void)
{
	static const char *const none[] = { NULL };
	struct plugins *ps = plugins_create(none, getenv("NVLLM_PLUGIN_PATH"));

	return ps ? plugin_open(ps, opts.so) : NULL;
}

/* ---- children ---- */

static bool name_ok(const char *s)
{
	if (!s || !*s)
		return false;
	for (; *s; s++)
		if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_'))
			return false;
	return true;
}

static void check_names(const struct nvllm_plugin *p)
{
	ck_begin("names, versions and summaries");
	if (!p->name || !*p->name || !p->version || !*p->version)
		ck_bad("the plugin has no name or no version");
	for (const struct nvllm_component *const *c = p->components; *c; c++) {
		if (!name_ok((*c)->name))
			ck_bad("a component's name may have a-z, 0-9 and _ only");
		else if (!(*c)->summary || !*(*c)->summary || strchr((*c)->summary, '\n'))
			ck_bad("component '%s' has no summary of one line", (*c)->name);
		for (const struct nvllm_option *o = (*c)->options; o && o->key; o++)
			if (!o->help || !*o->help)
				ck_bad("option '%s' of '%s' has no help", o->key, (*c)->name);
	}
	ck_end();
}

/* The file itself. Returns how many components it lists. */
static int run_file(int unused)
{
	const struct nvllm_plugin *p;
	int n = 0;

	(void)unused;
	ck_who("%s", strrchr(opts.so, '/') ? strrchr(opts.so, '/') + 1 : opts.so);
	elf_checks(opts.so);
	ck_begin("opens: ABI, sizes, mandatory members, option tables");
	p = open_plugin();
	if (!p)
		ck_bad("%s", fail_text());
	ck_end();
	if (!p)
		return 0;
	check_names(p);
	while (p->components[n])
		n++;
	return n;
}

static int run_component(int index)
{
	const struct nvllm_plugin *p = open_plugin();
	const struct nvllm_component *c;

	if (!p)
		return 0;
	c = p->components[index];
	ck_who("%s.%s", kind_name((int)c->kind), c->name);
	if (opts.only && (int)c->kind != opts.only) {
		ck_skip("another kind was asked for");
		return 0;
	}
	for (size_t i = 0; i < sizeof(suites) / sizeof(*suites); i++)
		if (suites[i].kind == (int)c->kind)
			suites[i].suite(c);
	return 0;
}

/* ---- the parent ---- */

static void close_check(const char *why)
{
	if (!ck_board->running)
		snprintf(ck_board->name, sizeof(ck_board->name), "the suite");
	ck_bad("%s; the rest of the suite was not run", why);
	ck_end();
}

/* Waits at most timeout_s. Returns the child's exit code; a death closes its check. */
static int wait_for(pid_t pid)
{
	struct timespec nap = { .tv_nsec = 5000000 };
	char why[300];
	int status = 0;

	for (int64_t n = 0; waitpid(pid, &status, WNOHANG) == 0; n++) {
		if (n * 5 > (int64_t)opts.timeout_s * 1000) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			snprintf(why, sizeof(why), "hangs: no end after %d s", opts.timeout_s);
			close_check(why);
			return 0;
		}
		nanosleep(&nap, NULL);
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) < 100) {
		if (ck_board->running)
			close_check("the plugin ended the process");
		return WEXITSTATUS(status);
	}
	if (WIFEXITED(status))
		snprintf(why, sizeof(why), "the process ended with code %d", WEXITSTATUS(status));
	else if (ck_board->fault[0])
		snprintf(why, sizeof(why), "%s", ck_board->fault);
	else
		snprintf(why, sizeof(why), "crashed (signal %d)", WTERMSIG(status));
	close_check(why);
	return 0;
}

static int in_child(int (*fn)(int), int arg)
{
	pid_t pid;

	fflush(stdout);
	ck_board->fault[0] = 0;
	pid = fork();
	if (pid < 0) {
		perror("nvllm-check: fork");
		exit(1);
	}
	if (pid == 0) {
		int n;

		gmem_catch_faults();
		n = fn(arg);
		fflush(stdout);
		_exit(n < 99 ? n : 99);
	}
	return wait_for(pid);
}

static int parse(int argc, char **argv)
{
	static const struct option longs[] = { { "file", required_argument, NULL, 'f' },
		{ "set", required_argument, NULL, 's' }, { "hparam", required_argument, NULL, 'p' },
		{ "device", required_argument, NULL, 'd' },
		{ "kind", required_argument, NULL, 'k' },
		{ "timeout", required_argument, NULL, 't' }, { "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (c == 'f')
			opts.file = optarg;
		else if (c == 's' && opts.n_sets < CK_MAX_SETS)
			opts.sets[opts.n_sets++] = optarg;
		else if (c == 'p' && opts.n_hparams < CK_MAX_SETS)
			opts.hparams[opts.n_hparams++] = optarg;
		else if (c == 'd')
			opts.device = optarg;
		else if (c == 'k' && (opts.only = kind_by_name(optarg)) > 0)
			;
		else if (c == 't' && (opts.timeout_s = atoi(optarg)) > 0)
			;
		else if (c == 'v')
			opts.verbose = true;
		else
			return c == 'h' ? 0 : 2;
	}
	return optind == argc ? 2 : -1;
}

static void check_file(const char *so)
{
	char path[4096];
	int n;

	opts.so = so;
	if (!strchr(so, '/')) { /* a bare name is a file here, as for any tool */
		snprintf(path, sizeof(path), "./%s", so);
		opts.so = path;
	}
	n = in_child(run_file, 0);
	for (int i = 0; i < n; i++)
		in_child(run_component, i);
}

int main(int argc, char **argv)
{
	int code = parse(argc, argv);

	if (code >= 0) {
		usage(code ? stderr : stdout);
		return code;
	}
	ck_board_open();
	if (!ck_board) {
		fputs("nvllm-check: no memory\n", stderr);
		return 1;
	}
	for (int i = optind; i < argc; i++)
		check_file(argv[i]);
	printf("%d checks, %d failed", ck_board->n_checks, ck_board->n_failed);
	if (ck_board->n_skipped)
		printf(", %d skipped", ck_board->n_skipped);
	putchar('\n');
	return ck_board->n_failed ? 1 : 0;
}
