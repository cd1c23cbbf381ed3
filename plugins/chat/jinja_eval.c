/* SPDX-License-Identifier: MIT */
/* jinja_eval.c - expressions: decides in which order things are evaluated and where a name is
 * looked for. a.b looks for an attribute (a method) first, then for a key; a['b'] the other
 * way round; what would change a list or a dict is not to be had. */
#include <string.h>

#include "jinja.h"

struct scope *scope_new(struct jin *j, struct scope *up)
{
	struct scope *s = jin_alloc(j, sizeof(*s));

	s->up = up;
	return s;
}

void scope_set(struct jin *j, struct scope *s, const struct str *name, struct val v)
{
	j->steps += s->n / 16;
	for (int i = 0; i < s->n; i++)
		if (s->v[i].name == name) {
			s->v[i].v = v;
			return;
		}
	if (s->n == s->cap) {
		int cap = s->cap ? s->cap * 2 : 4;
		struct var *more = jin_array(j, cap, sizeof(*more));

		if (s->n)
			memcpy(more, s->v, (size_t)s->n * sizeof(*more));
		s->v = more;
		s->cap = cap;
	}
	s->v[s->n++] = (struct var){ name, v };
}

struct val scope_get(struct jin *j, struct scope *s, const struct str *name)
{
	const struct builtin *fn;
	struct val key = { .t = T_STR, .s = name }, v;
	int64_t seen = 0;

	for (; s; s = s->up) {
		seen += s->n + 2;
		j->steps += seen / 32;
		seen %= 32;
		for (int i = 0; i < s->n; i++)
			if (s->v[i].name == name)
				return s->v[i].v;
	}
	if (dict_get(j, j->context, key, &v))
		return v;
	fn = find_builtin(jin_globals, name->s, name->len);
	if (fn)
		return (struct val){ .t = fn->fn ? T_FUNC : T_DICTTYPE, .fn = fn };
	if (str_is(key, "self"))
		jin_fail(j, "'self' is not supported: a chat template is one file");
	return v_undef_of(j, v_absent, key);
}

static struct val method(struct jin *j, struct val self, const struct builtin *table,
	const struct str *name, bool *found)
{
	const struct builtin *fn = find_builtin(table, name->s, name->len);
	struct bound *b;

	if (!fn)
		return v_absent;
	*found = true;
	if (!fn->fn) /* changes it */
		return v_undef(j, jin_printf(j, "access to attribute '%s' of '%s' object is unsafe.",
			fn->name, v_type(self)));
	b = jin_alloc(j, sizeof(*b));
	b->self = self;
	b->fn = fn;
	return (struct val){ .t = T_METHOD, .bound = b };
}

static struct val field(struct jin *j, struct val v, const struct str *name, bool *found)
{
	struct val key = { .t = T_STR, .s = name }, out = v_absent;
	const struct node *def;

	if (v.t == T_SPACE) {
		*found = dict_get(j, v.d, key, &out);
	} else if (v.t == T_LOOP) {
		return loop_attr(j, v, name, found);
	} else if (v.t == T_TUPLE && v.k) {
		*found = str_is(key, "grouper") || str_is(key, "list");
		out = *found ? v.l->v[str_is(key, "list")] : out;
	} else if (v.t == T_CYCLER && str_is(key, "current")) {
		*found = true;
		return v.cy->items->v[v.cy->at];
	} else if (v.t == T_MACRO) {
		def = v.m->def;
		*found = str_is(key, "name") || str_is(key, "arguments");
		if (*found && str_is(key, "name"))
			return def->name ? (struct val){ .t = T_STR, .s = def->name } : v_none;
		out = v_list(j, T_TUPLE, def->list.n);
		for (int i = 0; i < def->list.n; i++)
			list_add(j, out.l, (struct val){ .t = T_STR, .s = def->list.v[i]->name });
	}
	return out;
}

/* An attribute as Python's getattr finds it. */
struct val get_static(struct jin *j, struct val v, const struct str *name, bool *found)
{
	static const struct builtin *const tables[T_ABSENT + 1][2] = {
		[T_STR] = { jin_str_methods, jin_str_methods2 }, [T_DICT] = { jin_dict_methods },
		[T_LIST] = { jin_list_methods }, [T_TUPLE] = { jin_tuple_methods },
		[T_LOOP] = { jin_loop_methods }, [T_CYCLER] = { jin_cycler_methods },
		[T_RANGE] = { jin_tuple_methods }, [T_DICTTYPE] = { jin_dicttype_methods },
	};
	struct val out;

	*found = false;
	if (v.t == T_UNDEF)
		undef_fail(j, v);
	out = field(j, v, name, found);
	for (int i = 0; i < 2 && !*found && tables[v.t][i]; i++)
		out = method(j, v, tables[v.t][i], name, found);
	if (!*found && name->len > 4 && !memcmp(name->s, "__", 2) &&
		!memcmp(name->s + name->len - 2, "__", 2) && v.t != T_SPACE) {
		*found = true;
		return v_undef(j, jin_printf(j, "access to attribute '%.*s' of '%s' object is unsafe.",
			(int)(name->len < 60 ? name->len : 60), name->s, v_type(v)));
	}
	return out;
}

/* v[key], T_ABSENT where there is nothing. */
static struct val subscript(struct jin *j, struct val v, struct val key)
{
	struct val out = v_absent;
	int64_t i, n;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_DICT) {
		if (key.t == T_LIST || key.t == T_DICT)
			return out;
		dict_get(j, v.d, key, &out);
		return out;
	}
	if ((v.t != T_STR && v.t != T_LIST && v.t != T_TUPLE && v.t != T_RANGE) || !v_as_int(key, &i))
		return out;
	n = v_len(j, v);
	i += i < 0 ? n : 0;
	if (i < 0 || i >= n)
		return out;
	if (v.t == T_STR)
		return str_index(j, v, i);
	return v.t == T_RANGE ? v_int(v.r->start + i * v.r->step) : v.l->v[i];
}

struct val get_attr(struct jin *j, struct val v, struct val name)
{
	bool found;
	struct val out = get_static(j, v, name.s, &found);

	if (!found)
		out = subscript(j, v, name);
	return out.t == T_ABSENT ? v_undef_of(j, v, name) : out;
}

struct val get_item(struct jin *j, struct val v, struct val key)
{
	struct val out;
	bool found;

	if (key.t == T_SLICE)
		return v_slice(j, v, key.sl);
	out = subscript(j, v, key);
	if (out.t == T_ABSENT && key.t == T_STR)
		out = get_static(j, v, key.s, &found);
	return out.t == T_ABSENT ? v_undef_of(j, v, key) : out;
}

static struct val eval_seq(struct jin *j, struct scope *s, const struct node *n)
{
	struct val out = v_list(j, n->type == N_TUPLE ? T_TUPLE : T_LIST, n->list.n);

	for (int i = 0; i < n->list.n; i++)
		list_add(j, out.l, eval(j, s, n->list.v[i]));
	return out;
}

static struct val eval_dict(struct jin *j, struct scope *s, const struct node *n)
{
	struct val out = v_dict(j);

	for (int i = 0; i < n->list.n; i++) {
		struct val key = eval(j, s, n->list.v[i]);

		dict_set(j, out.d, key, eval(j, s, n->list2.v[i]));
	}
	return out;
}

static struct val eval_slice(struct jin *j, struct scope *s, const struct node *n)
{
	struct slice *sl = jin_alloc(j, sizeof(*sl));

	sl->start = n->a ? eval(j, s, n->a) : v_none;
	sl->stop = n->b ? eval(j, s, n->b) : v_none;
	sl->step = n->c ? eval(j, s, n->c) : v_none;
	return (struct val){ .t = T_SLICE, .sl = sl };
}

static struct val eval_concat(struct jin *j, struct scope *s, const struct node *n)
{
	struct val out = v_safe(v_to_str(j, eval(j, s, n->list.v[0])), false);
	struct val parts = v_list(j, T_LIST, n->list.n);

	for (int i = 1; i < n->list.n; i++)
		list_add(j, parts.l, eval(j, s, n->list.v[i]));
	for (int i = 0; i < parts.l->n; i++)
		out = v_safe(str_concat(j, out, v_to_str(j, parts.l->v[i])), false);
	return out;
}

static struct val eval_compare(struct jin *j, struct scope *s, const struct node *n)
{
	struct val a = eval(j, s, n->a);

	for (int i = 0; i < n->list.n; i++) {
		struct val b = eval(j, s, n->list.v[i]);

		j->line = n->line;
		if (!v_compare(j, n->ops[i], a, b))
			return v_false;
		a = b;
	}
	return v_true;
}

static struct val eval_call(struct jin *j, struct scope *s, const struct node *n)
{
	struct val fn = eval(j, s, n->a);
	struct args a;

	call_args(j, s, n->call, &a, 0);
	j->line = n->line;
	return call_value(j, fn, &a);
}

/* A filter or a test. */
static struct val eval_builtin(struct jin *j, struct scope *s, const struct node *n)
{
	bool filter = n->type == N_FILTER;
	struct val self;
	struct args a;

	if (!n->fn)
		jin_fail(j, "No %s named %s found.", filter ? "filter" : "test", v_repr(j, n->v));
	self = n->a ? eval(j, s, n->a) : v_absent;
	call_args(j, s, n->call, &a, 0);
	j->line = n->line;
	return call_builtin(j, n->fn, filter ? "filter" : "test", self, &a);
}

static struct val eval_branch(struct jin *j, struct scope *s, const struct node *n)
{
	struct val v;

	switch (n->type) {
	case N_AND:
		v = eval(j, s, n->a);
		return v_true_of(j, v) ? eval(j, s, n->b) : v;
	case N_OR:
		v = eval(j, s, n->a);
		return v_true_of(j, v) ? v : eval(j, s, n->b);
	case N_NOT:
		return v_bool(!v_true_of(j, eval(j, s, n->a)));
	default:
		if (v_true_of(j, eval(j, s, n->a)))
			return eval(j, s, n->b);
		if (n->c)
			return eval(j, s, n->c);
		return v_undef(j, jin_printf(j, "the inline if-expression on line %d evaluated to "
			"false and no else section was defined.", n->line));
	}
}

static struct val eval_plain(struct jin *j, struct scope *s, const struct node *n)
{
	struct val a, b;

	switch (n->type) {
	case N_CONST:
		return n->v;
	case N_NAME:
		return scope_get(j, s, n->name);
	case N_ATTR:
		a = eval(j, s, n->a);
		j->line = n->line;
		return get_attr(j, a, n->v);
	case N_ITEM:
	case N_BINARY:
		a = eval(j, s, n->a);
		b = eval(j, s, n->b);
		j->line = n->line;
		return n->type == N_ITEM ? get_item(j, a, b) : v_binary(j, n->op, a, b);
	case N_NEG:
	case N_POS:
		return v_negate(j, eval(j, s, n->a), n->type == N_POS);
	case N_TUPLE:
	case N_LIST:
		return eval_seq(j, s, n);
	case N_DICT:
		return eval_dict(j, s, n);
	case N_SLICE:
		return eval_slice(j, s, n);
	case N_CALL:
		return eval_call(j, s, n);
	case N_FILTER:
	case N_TEST:
		return eval_builtin(j, s, n);
	case N_CONCAT:
		return eval_concat(j, s, n);
	case N_COMPARE:
		return eval_compare(j, s, n);
	default:
		return eval_branch(j, s, n);
	}
}

struct val eval(struct jin *j, struct scope *s, const struct node *n)
{
	struct val v;

	jin_step(j);
	jin_deeper(j);
	j->line = n->line;
	v = eval_plain(j, s, n);
	j->depth--;
	return v;
}
