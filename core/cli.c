/* SPDX-License-Identifier: MIT */
/* cli.c - decides whose each word of the command line is: the program's own, a --set, or
 * the front end's, which stands for a --set too. */
#include <string.h>

#include "cmd.h"

#define MAX_NAMES 128

const struct own_option own_options[] = {
	{ 'c', "config", "FILE", offsetof(struct cli, config), 0,
		"the configuration, an INI file" },
	{ 0, "set", "S.K=V", 0, 0, "set key K of section S, over the file; as often as needed" },
	{ 0, "check", NULL, 0, offsetof(struct cli, check),
		"validate everything, load no weights, and stop" },
	{ 0, "print-config", NULL, 0, offsetof(struct cli, print_config),
		"print every value with where it came from, and stop" },
	{ 0, "log-level", "LEVEL", offsetof(struct cli, level), 0, "error, warn, info or debug" },
	{ 0, "version", NULL, 0, offsetof(struct cli, version), "print the version, and stop" },
	{ 'h', "help", NULL, 0, offsetof(struct cli, help), "print this, and stop" },
	{ 0, NULL, NULL, 0, 0, NULL },
};

/* A word of the command line as "-x..." or "--name..."; *attached becomes the text that
 * follows in the same word ("--temp=0", "-n64"), or NULL. */
static bool matches(const char *s, int letter, const char *name, const char **attached)
{
	size_t n = name ? strlen(name) : 0;

	*attached = NULL;
	if (letter && s[0] == '-' && s[1] == letter) {
		*attached = s[2] ? s + 2 : NULL;
		return true;
	}
	if (!name || strncmp(s, "--", 2) || strncmp(s + 2, name, n) ||
		(s[2 + n] && s[2 + n] != '='))
		return false;
	*attached = s[2 + n] ? s + 3 + n : NULL;
	return true;
}

static const struct own_option *find_own(const char *s, const char **attached)
{
	for (const struct own_option *o = own_options; o->name; o++)
		if (matches(s, o->letter, o->name, attached))
			return o;
	return NULL;
}

/* One of the program's own options at argv[i]. Returns how many words it takes, or 0
 * after a usage error. */
static int take_own(struct cli *c, int i, const struct own_option *o, const char *attached)
{
	int words = 1;

	if (!o->arg && attached) {
		usage("--%s takes no value", o->name);
		return 0;
	}
	if (o->arg && !attached) {
		if (i + 1 >= c->argc) {
			usage("--%s needs %s", o->name, o->arg);
			return 0;
		}
		attached = c->argv[i + 1];
		words = 2;
	}
	memset(c->marks + i, ARG_OWN, (size_t)words);
	if (!o->text && !o->flag)
		c->marks[i] = ARG_SET;
	if (o->text)
		memcpy((char *)c + o->text, &attached, sizeof(attached));
	if (o->flag)
		*((bool *)((char *)c + o->flag)) = true;
	return words;
}

/* Finds the program's own options wherever they stand, and the word that names a front
 * end or a command: the first that no option stands before but the program's own. What
 * a front end's option takes is not known yet, so later words may be its. */
int cli_scan(struct cli *c)
{
	bool others = false;

	for (int i = 1; i < c->argc;) {
		const char *attached;
		const struct own_option *o = find_own(c->argv[i], &attached);
		int n = 1;

		if (c->word && !strcmp(c->word, "check") && !o) {
			i++; /* its words are the helper's */
			continue;
		}
		if (o) {
			n = take_own(c, i, o, attached);
		} else if (!others && !c->word && c->argv[i][0] != '-') {
			c->word = c->argv[i];
			c->marks[i] = ARG_WORD;
		} else {
			others = true;
		}
		if (n == 0)
			return NVLLM_EXIT_USAGE;
		i += n;
	}
	return NVLLM_EXIT_OK;
}

/* The value of the --set at argv[i]. */
static const char *set_value(const struct cli *c, int i)
{
	const char *eq = strchr(c->argv[i], '=');

	return eq ? eq + 1 : c->argv[i + 1];
}

int cli_open_conf(const struct cli *c, struct conf **out)
{
	char level[64];

	if (conf_open(c->config, out))
		return failed();
	for (int i = 1; i < c->argc; i++)
		if (c->marks[i] == ARG_SET && conf_set(*out, set_value(c, i), "--set"))
			return usage("%s", fail_text());
	if (!c->level)
		return NVLLM_EXIT_OK;
	snprintf(level, sizeof(level), "core.log_level=%s", c->level);
	return conf_set(*out, level, "--log-level") ? failed() : NVLLM_EXIT_OK;
}

/* ---- the front end's own words ---- */

static const struct nvllm_arg *find_arg(
	const struct nvllm_frontend_vt *vt, const char *s, const char **attached)
{
	for (int i = 0; vt->args && vt->args[i]; i++)
		if (matches(s, vt->args[i]->letter, vt->args[i]->name, attached))
			return vt->args[i];
	return NULL;
}

static int unknown_option(const struct nvllm_frontend_vt *vt, const char *name, const char *s)
{
	const char *names[MAX_NAMES + 1], *near = NULL;
	char word[64];
	int n = 0;

	for (const struct own_option *o = own_options; o->name; o++)
		names[n++] = o->name;
	for (int i = 0; vt->args && vt->args[i] && n < MAX_NAMES; i++)
		if (vt->args[i]->name)
			names[n++] = vt->args[i]->name;
	names[n] = NULL;
	if (!strncmp(s, "--", 2)) {
		snprintf(word, sizeof(word), "%.*s", (int)strcspn(s + 2, "="), s + 2);
		near = option_nearest(word, names);
	}
	if (near)
		return usage("'%s' knows no option '%.80s'; did you mean '--%s'?", name, s, near);
	return usage("'%s' knows no option '%.80s'", name, s);
}

/* Sets what one option of the front end stands for. Returns the words it takes, 0 after
 * a usage error, -1 after another. */
static int take_arg(const struct cli *c, struct conf *conf, int i, const struct nvllm_arg *a,
	const char *attached)
{
	const char *value = a->value ? a->value : attached, *next;
	int words = 1;
	char *text, *origin;

	origin = a->name && !strncmp(c->argv[i], "--", 2) ?
			 pool_printf(conf_pool(conf), "--%s", a->name) :
			 pool_printf(conf_pool(conf), "-%c", a->letter);
	if (!origin)
		return -1;
	if (a->value && attached)
		return usage("%s takes no value", origin), 0;
	if (!value) {
		next = i + 1 < c->argc ? c->argv[i + 1] : NULL;
		if (!next)
			return usage("%s needs a value", origin), 0;
		if (c->marks[i + 1] != ARG_OTHER && c->marks[i + 1] != ARG_WORD)
			return usage("%s needs a value, and '%.40s' is an option of nvllm: write "
				     "%s%s%s if it is meant",
				       origin, next, origin, origin[1] == '-' ? "=" : "", next),
			       0;
		value = next;
		words = 2;
	}
	text = pool_printf(conf_pool(conf), "%s=%s", a->key, value);
	return text && !conf_set(conf, text, origin) ? words : -1;
}

/* Later words win, so a --set between them is set again in its place. Returns an exit
 * code. */
int cli_take_args(const struct cli *c, struct conf *conf, const struct nvllm_frontend_vt *vt,
	const char *name)
{
	for (int i = 1; i < c->argc;) {
		const char *s = c->argv[i], *attached;
		const struct nvllm_arg *a;
		int n = 1;

		if (c->marks[i] == ARG_SET && conf_set(conf, set_value(c, i), "--set"))
			return failed();
		if (c->marks[i] == ARG_OTHER) {
			if (s[0] != '-' || !s[1])
				return usage("'%.80s' is one word too many for '%s'", s, name);
			a = find_arg(vt, s, &attached);
			n = a ? take_arg(c, conf, i, a, attached) : 0;
			if (!a)
				return unknown_option(vt, name, s);
		}
		if (n <= 0)
			return n == 0 ? NVLLM_EXIT_USAGE : failed();
		i += n;
	}
	return NVLLM_EXIT_OK;
}

const char *next_word(const struct cli *c, int *at)
{
	while (++*at < c->argc)
		if (c->marks[*at] == ARG_OTHER)
			return c->argv[*at];
	return NULL;
}
