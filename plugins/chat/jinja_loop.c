/* SPDX-License-Identifier: MIT */
/* jinja_loop.c - the name `loop` in a for loop. As jinja2's LoopContext: what is asked for
 * decides how far ahead the items are read. */
#include "jinja.h"

bool loop_step(struct jin *j, struct loop *l, struct val *item)
{
	if (l->has_next) {
		*item = l->next;
		l->has_next = false;
	} else if (!iter_next(j, &l->it, item)) {
		return false;
	}
	l->index++;
	l->prev = l->cur;
	l->cur = *item;
	return true;
}

static bool peek(struct jin *j, struct loop *l)
{
	if (!l->has_next)
		l->has_next = iter_next(j, &l->it, &l->next);
	return l->has_next;
}

struct val loop_attr(struct jin *j, struct val v, const struct str *name, bool *found)
{
	static const char *const names[] = { "index", "index0", "first", "last", "length", "revindex",
		"revindex0", "depth", "depth0", "previtem", "nextitem" };
	struct val key = { .t = T_STR, .s = name };
	struct loop *l = v.loop;
	size_t i = 0;

	while (i < sizeof(names) / sizeof(names[0]) && !str_is(key, names[i]))
		i++;
	*found = i < sizeof(names) / sizeof(names[0]);
	switch (i) {
	case 0:
		return v_int(l->index + 1);
	case 1:
		return v_int(l->index);
	case 2:
		return v_bool(l->index == 0);
	case 3:
		return v_bool(!peek(j, l));
	case 4:
		return v_int(v_len(j, v));
	case 5:
		return v_int(v_len(j, v) - l->index);
	case 6:
		return v_int(v_len(j, v) - l->index - 1);
	case 7:
		return v_int(l->depth + 1);
	case 8:
		return v_int(l->depth);
	case 9:
		return l->index ? l->prev : v_undef(j, "there is no previous item");
	case 10:
		return peek(j, l) ? l->next : v_undef(j, "there is no next item");
	default:
		return v_absent;
	}
}

/* loop(items) in a recursive loop: its body over other items, as text. */
struct val loop_call(struct jin *j, struct loop *l, const struct args *a)
{
	struct sbuf b = { 0 }, *out = j->out;

	if (!l->def->flag)
		jin_fail(j, "The loop must have the 'recursive' marker to be called recursively.");
	if (a->n != 1 || a->n_named)
		jin_fail(j, "loop() takes what to go through, and nothing else");
	jin_deeper(j);
	j->out = &b;
	exec_for(j, l->def, l->up, a->v[0], l->depth + 1);
	j->out = out;
	j->depth--;
	return sbuf_str(j, &b);
}

static struct val cycle(struct jin *j, struct val self, const struct val *arg, const struct args *a)
{
	if (!a->n)
		jin_fail(j, "no items for cycling given");
	return a->v[self.loop->index % a->n];
}

static struct val changed(struct jin *j, struct val self, const struct val *arg, const struct args *a)
{
	struct loop *l = self.loop;
	struct val v = v_list(j, T_TUPLE, a->n);

	for (int i = 0; i < a->n; i++)
		list_add(j, v.l, a->v[i]);
	if (l->has_changed && v_eq(j, l->changed, v))
		return v_false;
	l->changed = v;
	l->has_changed = true;
	return v_true;
}

const struct builtin jin_loop_methods[] = {
	{ "cycle", NULL, 0, cycle },
	{ "changed", NULL, 0, changed },
	{ NULL },
};
