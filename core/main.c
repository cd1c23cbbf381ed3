/* SPDX-License-Identifier: MIT */
/* main.c - decides what a command line means: which front end or command runs, with
 * which configuration, and which exit code tells how it went. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nvllm/frontend.h>

#include "cmd.h"
#include "engine_int.h"

#define DEFAULT_FRONTEND "shell"
#define MAX_NAMES        128

int usage(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfail(NVLLM_EINVAL, fmt, ap);
	va_end(ap);
	log_line(NVLLM_LOG_ERROR, NULL, "%s (see nvllm --help)", fail_text());
	return NVLLM_EXIT_USAGE;
}

int failed(void)
{
	log_line(NVLLM_LOG_ERROR, NULL, "%s",
		fail_text()[0] ? fail_text() : "it failed without saying why");
	return NVLLM_EXIT_FAIL;
}

int finish_output(int code)
{
	if (!fflush(stdout) && !ferror(stdout))
		return code;
	log_line(NVLLM_LOG_ERROR, NULL, "standard output cannot be written");
	return NVLLM_EXIT_FAIL;
}

/* ---- --help ---- */

static void print_option(int letter, const char *name, const char *arg, const char *help)
{
	char left[80], dash[8] = "    ";

	if (letter)
		snprintf(dash, sizeof(dash), "-%c%s ", letter, name ? "," : "");
	snprintf(left, sizeof(left), "%s%s%s%s%s", dash, name ? "--" : "", name ? name : "",
		arg ? " " : "", arg ? arg : "");
	printf("  %-26s %s\n", left, help);
}

static int print_frontend(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	if (c)
		printf("  %-26s %s\n", c->name, c->summary);
	return 0;
}

static int help(const struct cli *c, struct plugins *plugins)
{
	const char *name = c->word ? c->word : DEFAULT_FRONTEND;
	const struct nvllm_component *f =
		plugin_find(plugins, NVLLM_KIND_FRONTEND, name, ~0ull, NULL);
	const struct nvllm_frontend_vt *vt = f ? f->vt : NULL;

	printf("usage: nvllm [FRONTEND] [options]\n");
	for (const struct command *k = commands; k->name; k++)
		printf("       nvllm %s%s%s\n", k->name, k->args[0] ? " " : "", k->args);
	printf("\nFront ends ('%s' where none is named):\n", DEFAULT_FRONTEND);
	plugins_each(plugins, NVLLM_KIND_FRONTEND, print_frontend, NULL);
	printf("\nCommands:\n");
	for (const struct command *k = commands; k->name; k++)
		printf("  %-26s %s\n", k->name, k->help);
	printf("\nOptions:\n");
	for (const struct own_option *o = own_options; o->name; o++)
		print_option(o->letter, o->name, o->arg, o->help);
	if (vt && vt->args && vt->args[0])
		printf("\nOptions of '%s':\n", f->name);
	for (int i = 0; vt && vt->args && vt->args[i]; i++)
		print_option(vt->args[i]->letter, vt->args[i]->name,
			vt->args[i]->value ? NULL : "VALUE", vt->args[i]->help);
	printf("\nExit codes: 0 done, 1 bad input or configuration or a failed run, 2 wrong "
	       "usage,\n"
	       "130 interrupted.\n");
	return finish_output(NVLLM_EXIT_OK);
}

/* ---- running a front end ---- */

struct names {
	const char *v[MAX_NAMES + 1];
	int n;
	const char *broken_file,
		*broken; /* the file of the name that is looked for, and why it is refused */
};

static int list_frontend(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct names *names = arg;
	const char *base = strrchr(file, '/');

	if (c && names->n < MAX_NAMES)
		names->v[names->n++] = c->name;
	if (!c && !strcmp(base ? base + 1 : file, names->broken_file))
		names->broken = why;
	return 0;
}

/* Says why there is no such front end. Returns the exit code. */
static int no_frontend(const struct cli *c, struct plugins *plugins, const char *name)
{
	struct names names = { .n = 0 };
	char file[128];
	const char *near;

	if (strchr(name, '/'))
		return failed();
	snprintf(file, sizeof(file), "frontend_%.80s.so", name);
	names.broken_file = file;
	for (const struct command *k = commands; k->name; k++)
		names.v[names.n++] = k->name;
	plugins_each(plugins, NVLLM_KIND_FRONTEND, list_frontend, &names);
	if (names.broken) {
		fail(NVLLM_EINVAL, "%s", names.broken);
		return failed();
	}
	if (!c->word) {
		fail(NVLLM_ENOENT, "the chat shell is not among the plugins (it is built where "
				   "libedit is there): "
				   "name another front end; nvllm --help lists them");
		return failed();
	}
	near = option_nearest(name, names.v);
	fail(NVLLM_EINVAL, "there is no command or front end '%.80s'", name);
	if (near)
		return usage("%s; did you mean '%s'?", fail_text(), near);
	for (int i = 0; i < names.n; i++)
		fail(NVLLM_EINVAL, "%s%s%s", fail_text(), i ? ", " : "; there are: ", names.v[i]);
	return usage("%s", fail_text());
}

/* Ctrl-C while weights load: front ends put their own handler in its place. */
static void on_interrupt(int sig)
{
	(void)sig;
	_exit(NVLLM_EXIT_INTERRUPTED);
}

static int run_engine(const struct nvllm_component *f, const struct nvllm_host *host,
	const void *fconf, struct nvllm_engine *e)
{
	const struct nvllm_frontend_vt *vt = f->vt;
	const struct nvllm_engine_vt *functions = nvllm_engine_functions();
	int code;

	log_line(NVLLM_LOG_INFO, NULL, "%s", functions->info(e)->start_line);
	fail_clear();
	code = vt->run(host, functions, e, fconf);
	if (code >= 0 && code <= 255)
		return code;
	return failed();
}

/* Resolves everything, and then checks, prints or runs. */
static int run_frontend(const struct cli *c, struct conf *conf, struct plugins *plugins,
	const struct nvllm_component *f, const struct nvllm_host *host)
{
	const struct nvllm_frontend_vt *vt = f->vt;
	void *fconf = pool_alloc(conf_pool(conf), f->conf_size);
	struct conf_table table = { f->name, f->options, fconf, f->conf_size };
	bool dry = c->check || c->print_config;
	struct nvllm_engine *e = NULL;
	int rc = fconf ? conf_fill(conf, f->name, &table, 1) : NVLLM_ENOMEM, code;

	if (!rc && NVLLM_HAS(vt, check) && vt->check)
		rc = vt->check(host, fconf);
	if (!rc)
		rc = engine_open(conf, plugins, dry ? ENGINE_CHECK : 0, &e);
	if (rc)
		return failed();
	if (c->print_config)
		conf_print(conf, stdout);
	else if (c->check)
		printf("%s: ok\n", c->config ? c->config : "configuration");
	code = dry ? NVLLM_EXIT_OK : run_engine(f, host, fconf, e);
	engine_close(e);
	return finish_output(code);
}

static int open_frontend(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	const char *name = c->word ? c->word : DEFAULT_FRONTEND;
	const struct nvllm_component *f =
		plugin_find(plugins, NVLLM_KIND_FRONTEND, name, ~0ull, NULL);
	struct nvllm_host *host;
	int code;

	if (!f)
		return no_frontend(c, plugins, name);
	code = cli_take_args(c, conf, f->vt, f->name);
	if (code)
		return code;
	host = host_create(f->name, 0, 1);
	if (!host)
		return failed();
	code = run_frontend(c, conf, plugins, f, host);
	host_destroy(host);
	return code;
}

/* The command of that name, or a front end. */
static int run_word(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	if (c->help)
		return help(c, plugins);
	for (const struct command *k = commands; k->name && c->word; k++)
		if (!strcmp(k->name, c->word))
			return k->run(c, conf, plugins);
	return open_frontend(c, conf, plugins);
}

static int run(struct cli *c)
{
	struct conf *conf = NULL;
	struct plugins *plugins = NULL;
	int code = cli_scan(c);

	if (code)
		return code;
	if (c->version) {
		printf("nvllm %s (plugin ABI %u)\n", NVLLM_VERSION, NVLLM_ABI);
		return finish_output(NVLLM_EXIT_OK);
	}
	if (c->help)
		c->config = NULL; /* help does not fail on a bad file */
	code = cli_open_conf(c, &conf);
	if (!code)
		code = core_setup(conf, conf_env("NVLLM_PLUGIN_PATH"), &plugins) ? failed() :
			run_word(c, conf, plugins);
	plugins_destroy(plugins);
	conf_close(conf);
	return code;
}

int main(int argc, char **argv)
{
	struct cli c = { .argc = argc, .argv = argv, .marks = calloc((size_t)argc + 1, 1) };
	int code;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, on_interrupt);
	if (!c.marks)
		return NVLLM_EXIT_FAIL;
	code = run(&c);
	free(c.marks);
	return code;
}
