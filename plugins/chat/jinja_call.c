/* SPDX-License-Identifier: MIT */
/* jinja_call.c - calls: decides which argument a parameter gets. */
#include <string.h>

#include "jinja.h"

void args_name(struct jin *j, struct args *a, const char *name, struct val v)
{
	struct val key = v_text(j, name);

	for (int i = 0; i < a->n_named; i++)
		if (a->names[i]->len == key.s->len && str_is((struct val){ .t = T_STR, .s = a->names[i] }, name))
			jin_fail(j, "got multiple values for keyword argument '%s'", name);
	a->names[a->n_named] = key.s;
	a->named[a->n_named++] = v;
}

bool args_named(const struct args *a, const char *name, struct val *out)
{
	for (int i = 0; i < a->n_named; i++)
		if (str_is((struct val){ .t = T_STR, .s = a->names[i] }, name)) {
			*out = a->named[i];
			return true;
		}
	return false;
}

/* **more: a dict whose keys are names. */
static void add_named(struct jin *j, struct args *a, struct val more)
{
	for (int64_t i = 0; i < more.d->n; i++) {
		struct val key = more.d->e[i].key;

		if (key.t != T_STR)
			jin_fail(j, "keywords must be strings");
		for (int k = 0; k < a->n_named; k++)
			if (v_same((struct val){ .t = T_STR, .s = a->names[k] }, key))
				jin_fail(j, "got multiple values for keyword argument %s",
					v_repr(j, key));
		a->names[a->n_named] = key.s;
		a->named[a->n_named++] = more.d->e[i].v;
	}
}

/* spare: how many more named ones the caller will add. */
void call_args(struct jin *j, struct scope *s, const struct call *c, struct args *a, int spare)
{
	struct val more = v_absent, named = v_absent;
	int64_t n_more = 0, n_named = 0;

	*a = (struct args){ .n = 0 };
	if (!c->pos.n && !c->named.n && !c->more && !c->more_named && !spare)
		return;
	if (!c->more && !c->more_named) {
		a->v = jin_array(j, c->pos.n, sizeof(*a->v));
	} else {
		/* in Python's order: what stands first is evaluated first */
		struct val *v = jin_array(j, c->pos.n, sizeof(*v));

		for (int i = 0; i < c->pos.n; i++)
			v[i] = eval(j, s, c->pos.v[i]);
		if (c->more) {
			more = v_to_list(j, eval(j, s, c->more));
			n_more = more.l->n;
		}
		a->v = jin_array(j, c->pos.n + n_more, sizeof(*a->v));
		if (c->pos.n)
			memcpy(a->v, v, (size_t)c->pos.n * sizeof(*v));
		if (n_more)
			memcpy(a->v + c->pos.n, more.l->v, (size_t)n_more * sizeof(*v));
		a->n = c->pos.n + (int)n_more;
	}
	for (; a->n < c->pos.n; a->n++)
		a->v[a->n] = eval(j, s, c->pos.v[a->n]);
	a->named = jin_array(j, c->named.n + spare, sizeof(*a->named));
	for (int i = 0; i < c->named.n; i++)
		a->named[i] = eval(j, s, c->named.v[i]);
	if (c->more_named) {
		struct val *v = a->named;

		named = eval(j, s, c->more_named);
		if (named.t != T_DICT)
			jin_fail(j, "argument after ** must be a mapping, not %s", v_type(named));
		n_named = named.d->n;
		if (n_named > 256)
			jin_fail(j, "more than 256 keyword arguments");
		a->named = jin_array(j, c->named.n + n_named + spare, sizeof(*a->named));
		memcpy(a->named, v, (size_t)c->named.n * sizeof(*v));
	}
	a->names = jin_array(j, c->named.n + n_named + spare, sizeof(*a->names));
	for (int i = 0; i < c->named.n; i++)
		a->names[i] = c->names[i];
	a->n_named = c->named.n;
	if (n_named)
		add_named(j, a, named);
}

/* The next word of a table's params, or false. */
static bool next_param(const char **at, const char **name, int64_t *len)
{
	const char *end;

	while (**at == ' ')
		++*at;
	if (!**at)
		return false;
	end = strchr(*at, ' ');
	*name = *at;
	*len = end ? end - *at : (int64_t)strlen(*at);
	*at += *len;
	return true;
}

static bool has_param(const char *params, const struct str *want)
{
	const char *name;
	int64_t len;

	while (next_param(&params, &name, &len))
		if (len == want->len && !memcmp(name, want->s, (size_t)len))
			return true;
	return false;
}

struct val call_builtin(struct jin *j, const struct builtin *fn, const char *what, struct val self,
	const struct args *a)
{
	struct val arg[MAX_PARAMS];
	const char *at = fn->params, *name;
	int n = 0, used = 0;
	int64_t len;

	for (int i = 0; i < MAX_PARAMS; i++)
		arg[i] = v_absent;
	if (!fn->params)
		return fn->fn(j, self, arg, a);
	while (next_param(&at, &name, &len) && n < MAX_PARAMS) {
		if (n < a->n)
			arg[n] = a->v[n];
		for (int i = 0; i < a->n_named; i++) {
			if (a->names[i]->len != len || memcmp(a->names[i]->s, name, (size_t)len))
				continue;
			if (n < a->n)
				jin_fail(j, "%s '%s' got multiple values for argument '%.*s'", what,
					fn->name, (int)len, name);
			arg[n] = a->named[i];
			used++;
		}
		if (arg[n].t == T_ABSENT && n < fn->need)
			jin_fail(j, "%s '%s' lacks its argument '%.*s'", what, fn->name, (int)len, name);
		n++;
	}
	if (a->n > n)
		jin_fail(j, "%s '%s' takes at most %d arguments (%d given)", what, fn->name, n, a->n);
	for (int i = 0; used < a->n_named && i < a->n_named; i++)
		if (!has_param(fn->params, a->names[i]))
			jin_fail(j, "%s '%s' got an unexpected keyword argument '%.*s'", what,
				fn->name, (int)a->names[i]->len, a->names[i]->s);
	return fn->fn(j, self, arg, a);
}

/* Binds what was given to the parameters of a macro. */
static void bind_params(struct jin *j, struct scope *s, const struct node *def, const struct args *a,
	bool *used)
{
	for (int i = 0; i < def->list.n; i++) {
		const struct node *p = def->list.v[i];
		struct val v = i < a->n ? a->v[i] : v_absent;

		for (int k = 0; k < a->n_named && i >= a->n; k++)
			if (!used[k] && v_same((struct val){ .t = T_STR, .s = a->names[k] },
				(struct val){ .t = T_STR, .s = p->name })) {
				v = a->named[k];
				used[k] = true;
			}
		if (v.t == T_ABSENT && p->a) {
			v = eval(j, s, p->a);
		} else if (v.t == T_ABSENT) {
			v = v_undef(j, jin_printf(j, "parameter '%.*s' was not provided",
				(int)p->name->len, p->name->s));
		}
		scope_set(j, s, p->name, v);
	}
}

static void bind_special(struct jin *j, struct scope *s, const struct node *def, const struct args *a,
	bool *used)
{
	struct val kwargs = v_dict(j), rest, caller = v_undef(j, "No caller defined");
	int extra = a->n > def->list.n ? a->n - def->list.n : 0, left = -1;

	for (int k = 0; k < a->n_named; k++) {
		struct val key = { .t = T_STR, .s = a->names[k] };

		if (used[k])
			continue;
		if (def->uses_caller && str_is(key, "caller")) {
			caller = a->named[k];
			continue;
		}
		left = left < 0 || str_is(key, "caller") ? k : left;
		dict_set(j, kwargs.d, key, a->named[k]);
	}
	if (left >= 0 && !def->uses_kwargs) {
		struct val name = { .t = T_STR, .s = a->names[left] };
		const char *macro = def->name ? v_repr(j, (struct val){ .t = T_STR, .s = def->name }) :
						"None";

		if (str_is(name, "caller"))
			jin_fail(j, "macro %s was invoked with two values for the special caller "
				"argument. This is most likely a bug.", macro);
		jin_fail(j, "macro %s takes no keyword argument %s", macro, v_repr(j, name));
	}
	if (extra && !def->uses_varargs)
		jin_fail(j, "macro %.*s takes not more than %d argument(s)",
			def->name ? (int)def->name->len : 4, def->name ? def->name->s : "None",
			def->list.n);
	if (def->uses_caller)
		scope_set(j, s, def->call->names[0], caller);
	if (def->uses_kwargs)
		scope_set(j, s, def->call->names[1], kwargs);
	if (def->uses_varargs) {
		rest = v_list(j, T_TUPLE, extra);
		for (int i = 0; i < extra; i++)
			list_add(j, rest.l, a->v[def->list.n + i]);
		scope_set(j, s, def->call->names[2], rest);
	}
}

static struct val call_macro(struct jin *j, const struct macro *m, const struct args *a)
{
	struct scope *s = scope_new(j, m->up);
	bool *used = jin_alloc(j, (size_t)a->n_named + 1);
	struct val v;

	jin_deeper(j);
	bind_params(j, s, m->def, a, used);
	bind_special(j, s, m->def, a, used);
	v = exec_text(j, s, &m->def->list2, NULL);
	j->depth--;
	return v;
}

struct val call_value(struct jin *j, struct val fn, struct args *a)
{
	struct cycler *cy = fn.cy;

	switch (fn.t) {
	case T_UNDEF:
		undef_fail(j, fn);
	case T_MACRO:
		return call_macro(j, fn.m, a);
	case T_FUNC:
		return call_builtin(j, fn.fn, "function", v_absent, a);
	case T_METHOD:
		return call_builtin(j, fn.bound->fn, "method", fn.bound->self, a);
	case T_LOOP:
		return loop_call(j, fn.loop, a);
	case T_DICTTYPE:
		return find_builtin(jin_globals, "dict()", 6)->fn(j, fn, NULL, a);
	case T_JOINER:
		if (a->n || a->n_named)
			jin_fail(j, "a joiner takes no arguments");
		cy->at++;
		return cy->at > 1 ? cy->items->v[0] : v_text(j, "");
	default:
		jin_fail(j, "'%s' object is not callable", v_type(fn));
	}
}
