/* SPDX-License-Identifier: MIT */
/* tests/conform/others.c - kinds with little to check from outside: front ends, whose
 * words of the command line must be sound. */
#include <string.h>

#include "check.h"

static void check_arg(const struct nvllm_arg *a)
{
	const char *dot = a->key ? strchr(a->key, '.') : NULL;

	if (a->size < sizeof(*a))
		ck_bad("a word has no size");
	else if (!dot || dot == a->key || !dot[1])
		ck_bad("key '%s' is not of the form section.key", a->key ? a->key : "NULL");
	else if (!a->name && !a->letter)
		ck_bad("%s has neither a name nor a letter", a->key);
	else if (a->letter &&
		!((a->letter >= 'a' && a->letter <= 'z') || (a->letter >= 'A' && a->letter <= 'Z')))
		ck_bad("%s: letter %d", a->key, a->letter);
	else if (a->name && (!*a->name || a->name[0] == '-' || strpbrk(a->name, " =\t")))
		ck_bad("%s: name '%s' (write it without dashes)", a->key, a->name);
	else if (!a->help || !*a->help || strchr(a->help, '\n'))
		ck_bad("%s has no help of one line", a->key);
}

void suite_frontend(const struct nvllm_component *c)
{
	const struct nvllm_frontend_vt *vt = c->vt;
	size_t len = strlen(c->name);

	ck_begin("words of the command line");
	for (int i = 0; vt->args && vt->args[i]; i++) {
		const struct nvllm_arg *a = vt->args[i];

		check_arg(a);
		if (ck_good() && !strncmp(a->key, c->name, len) && a->key[len] == '.' &&
			!ck_has_option(c, a->key + len + 1))
			ck_bad("%s sets %s, which is no option of it",
				a->name ? a->name : "a letter", a->key);
		for (int j = 0; j < i && ck_good(); j++) {
			const struct nvllm_arg *b = vt->args[j];

			if ((a->letter && a->letter == b->letter) ||
				(a->name && b->name && !strcmp(a->name, b->name)))
				ck_bad("two words are '%s'", a->name ? a->name : b->key);
		}
	}
	ck_end();
}
