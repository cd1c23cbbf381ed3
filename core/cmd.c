/* SPDX-License-Identifier: MIT */
/* cmd.c - decides what the commands about plugins print: which there are, and what their
 * options mean. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nvllm/frontend.h>
#include <nvllm/model.h>

#include "cmd.h"
#include "engine_int.h"

#ifndef NVLLM_LIBEXECDIR
#define NVLLM_LIBEXECDIR "/usr/libexec"
#endif

static int no_words(const struct cli *c)
{
	int at = 0;
	const char *s = next_word(c, &at);

	return s ? usage("'%s' takes no '%.80s'", c->word, s) : NVLLM_EXIT_OK;
}

/* ---- nvllm plugins ---- */

struct row {
	const struct nvllm_component *c;
	uint32_t abi;
	const char *file, *why; /* owned by the plugins */
	int order;
};

struct rows {
	struct row *v;
	int n;
	int w_name, w_summary, w_file;
};

static int add_row(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct rows *rows = arg;
	struct row *more = realloc(rows->v, ((size_t)rows->n + 1) * sizeof(*more));

	if (!more)
		return fail(NVLLM_ENOMEM, "no memory");
	rows->v = more;
	more[rows->n] = (struct row){ c, p ? p->abi : 0, file, why, rows->n };
	rows->n++;
	if (!c)
		return 0;
	rows->w_name = (int)strlen(c->name) > rows->w_name ? (int)strlen(c->name) : rows->w_name;
	rows->w_summary = (int)strlen(c->summary) > rows->w_summary ? (int)strlen(c->summary) :
								      rows->w_summary;
	rows->w_file = (int)strlen(file) > rows->w_file ? (int)strlen(file) : rows->w_file;
	return 0;
}

/* By kind, then name, then as found; broken files last. */
static int compare_rows(const void *pa, const void *pb)
{
	const struct row *a = pa, *b = pb;
	int d = !a->c - !b->c;

	if (!d && a->c)
		d = (int)a->c->kind - (int)b->c->kind;
	if (!d && a->c)
		d = strcmp(a->c->name, b->c->name);
	return d ? d : a->order - b->order;
}

static int cmd_plugins(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	struct rows rows = { .w_name = 4, .w_summary = 7, .w_file = 4 };
	int code = no_words(c);

	if (code)
		return code;
	if (plugins_each(plugins, 0, add_row, &rows)) {
		free(rows.v);
		return failed();
	}
	if (rows.n)
		qsort(rows.v, (size_t)rows.n, sizeof(*rows.v), compare_rows);
	printf("%-10s %-*s  %-*s  %-*s  ABI\n", "KIND", rows.w_name, "NAME", rows.w_summary,
		"SUMMARY", rows.w_file, "FILE");
	for (int i = 0; i < rows.n; i++) {
		const struct row *r = &rows.v[i];

		if (r->c)
			printf("%-10s %-*s  %-*s  %-*s  %u\n", kind_name((int)r->c->kind),
				rows.w_name, r->c->name, rows.w_summary, r->c->summary, rows.w_file,
				r->file, r->abi);
		else
			printf("broken: %s\n", r->why);
	}
	free(rows.v);
	return finish_output(NVLLM_EXIT_OK);
}

/* ---- nvllm explain ---- */

static void explain_table(const char *title, const struct nvllm_option *o)
{
	printf("%s\n", title);
	if (!o || !o->key)
		printf("  takes no options\n");
	for (; o && o->key; o++)
		option_explain(o, stdout);
}

static void explain_args(const struct nvllm_frontend_vt *vt)
{
	for (int i = 0; vt->args && vt->args[i]; i++) {
		const struct nvllm_arg *a = vt->args[i];
		char left[80], dash[8] = "    ";

		if (i == 0)
			printf("On the command line:\n");
		if (a->letter)
			snprintf(dash, sizeof(dash), "-%c%s ", a->letter, a->name ? "," : "");
		snprintf(left, sizeof(left), "%s%s%s", dash, a->name ? "--" : "",
			a->name ? a->name : "");
		printf("  %-28s  sets %s%s%s\n", left, a->key, a->value ? " = " : "",
			a->value ? a->value : "");
	}
}

static void explain_component(const struct nvllm_component *c, const char *file)
{
	const char *kind = kind_name((int)c->kind);
	const char *section = c->kind == NVLLM_KIND_FRONTEND ? c->name : kind;
	char title[256];

	printf("%s.%s: %s\n%s\n\n", kind, c->name, c->summary, file);
	snprintf(title, sizeof(title), "In section [%s]:", section);
	explain_table(title, c->options);
	if (c->kind == NVLLM_KIND_FRONTEND)
		explain_args(c->vt);
	if (c->kind == NVLLM_KIND_MODEL)
		explain_table("Read from the checkpoint:",
			((const struct nvllm_model_vt *)c->vt)->hparams);
}

struct explain {
	int kind;
	const char *name;
	int n; /* found */
};

static int explain_found(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct explain *e = arg;

	if (!c || strcmp(c->name, e->name))
		return 0;
	if (e->n++)
		printf("\n");
	explain_component(c, file);
	return 0;
}

/* All components of a kind and a name: there may be one for each device. */
static int explain_named(struct plugins *plugins, int kind, const char *name)
{
	struct explain e = { kind, name, 0 };
	const struct nvllm_component *c;
	const char *file;

	plugins_each(plugins, kind, explain_found, &e);
	if (e.n)
		return finish_output(NVLLM_EXIT_OK);
	c = plugin_find(
		plugins, kind, name, ~0ull, &file); /* a path, or in a file of another name */
	if (!c)
		return failed();
	explain_component(c, file);
	return finish_output(NVLLM_EXIT_OK);
}

static int explain_file(struct plugins *plugins, const char *path)
{
	const struct nvllm_plugin *p = plugin_open(plugins, path);

	for (int i = 0; p && p->components[i]; i++) {
		printf("%s", i ? "\n" : "");
		explain_component(p->components[i], path);
	}
	return p ? finish_output(NVLLM_EXIT_OK) : failed();
}

static int list_explained(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	if (c)
		printf("  %s.%s\n", kind_name((int)c->kind), c->name);
	return 0;
}

static int explain_all(struct plugins *plugins)
{
	printf("Sections:\n");
	for (const char *const *s = core_sections(); *s; s++)
		printf("  %s\n", *s);
	printf("Components:\n");
	plugins_each(plugins, 0, list_explained, NULL);
	return finish_output(NVLLM_EXIT_OK);
}

struct names {
	const char *v[128];
	int n;
};

static int keep_frontend(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct names *names = arg;

	if (c && names->n < 127)
		names->v[names->n++] = c->name;
	return 0;
}

/* A word without a dot: a section of the core or a front end. */
static int explain_word(struct plugins *plugins, const char *what)
{
	struct names names = { .n = 0 };
	const char *near;
	char title[64];

	if (core_options(what, NULL)) {
		snprintf(title, sizeof(title), "[%s]", what);
		explain_table(title, core_options(what, NULL));
		if (kind_by_name(what))
			printf("and the options of the plugin it names: nvllm explain %s.NAME\n",
				what);
		return finish_output(NVLLM_EXIT_OK);
	}
	for (const char *const *s = core_sections(); *s && names.n < 64; s++)
		names.v[names.n++] = *s;
	plugins_each(plugins, NVLLM_KIND_FRONTEND, keep_frontend, &names);
	for (int i = 0; i < names.n; i++)
		if (!strcmp(names.v[i], what))
			return explain_named(plugins, NVLLM_KIND_FRONTEND, what);
	near = option_nearest(what, names.v);
	if (near)
		fail(NVLLM_ENOENT, "'%.80s' is no section and no front end; did you mean '%s'?",
			what, near);
	else
		fail(NVLLM_ENOENT,
			"'%.80s' is no section and no front end: nvllm explain lists what there is",
			what);
	return failed();
}

static int cmd_explain(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	int at = 0, kind;
	const char *what = next_word(c, &at), *dot;
	char word[64];

	if (!what)
		return explain_all(plugins);
	if (next_word(c, &at))
		return usage("'explain' takes one word");
	if (strchr(what, '/'))
		return explain_file(plugins, what);
	dot = strchr(what, '.');
	if (!dot)
		return explain_word(plugins, what);
	snprintf(word, sizeof(word), "%.*s", (int)(dot - what), what);
	kind = kind_by_name(word);
	if (!kind)
		return usage("'%s' is no kind of plugin: nvllm explain lists what there is", word);
	return explain_named(plugins, kind, dot + 1);
}

/* ---- nvllm check ---- */

/* The helper is a program of its own: it opens plugins that may crash. */
static int cmd_check(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	char self[PATH_MAX], path[PATH_MAX + 64], *slash;
	static const char *const places[] = { "nvllm-check", "tests/conform/nvllm-check",
		"../libexec/nvllm/nvllm-check" };
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int word = 1;

	while (c->marks[word] != ARG_WORD)
		word++;
	self[n < 0 ? 0 : n] = 0;
	slash = strrchr(self, '/');
	if (slash)
		*slash = 0;
	for (size_t i = 0; slash && i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", self, places[i]);
		if (!access(path, X_OK))
			execv(path, c->argv + word);
	}
	execv(NVLLM_LIBEXECDIR "/nvllm/nvllm-check", c->argv + word);
	fail(NVLLM_ENOENT, "the helper program nvllm-check is neither beside nvllm nor in "
		NVLLM_LIBEXECDIR "/nvllm: %s", strerror(errno));
	return failed();
}

const struct command commands[] = {
	{ "plugins", "", "list the plugins that are found", cmd_plugins },
	{ "explain", "[SECTION | KIND.NAME | FRONTEND | FILE]",
		"print options with defaults, bounds and help", cmd_explain },
	{ "check", "FILE.so...", "run the ABI checks and the conformance suite on plugins",
		cmd_check },
	{ "tokenize", "PATH [--no-special] [--plain]",
		"JSON strings, one a line, to arrays of token ids", cmd_tokenize },
	{ "detokenize", "PATH [--no-special]", "arrays of token ids, one a line, to JSON strings",
		cmd_detokenize },
	{ "render", "PATH [--now TIME]",
		"a chat request on standard input to the text of its prompt", cmd_render },
	{ NULL, NULL, NULL, NULL },
};
