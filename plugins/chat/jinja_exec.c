/* SPDX-License-Identifier: MIT */
/* jinja_exec.c - statements: decides what a name set in one place is elsewhere. Loops, macros,
 * {% with %}, {% call %}, {% filter %} and {% set %} blocks have a scope of their own, {% if %}
 * has none; what is set in a scope is not seen outside. */
#include <string.h>

#include "jinja.h"

static void assign_seq(struct jin *j, struct scope *s, const struct node *target, struct val v)
{
	struct val list = v_to_list(j, v);

	if (list.l->n != target->list.n)
		jin_fail(j, list.l->n > target->list.n ? "too many values to unpack (expected %d)" :
			"not enough values to unpack (expected %d, got %d)", target->list.n,
			(int)list.l->n);
	for (int i = 0; i < target->list.n; i++)
		assign(j, s, target->list.v[i], list.l->v[i]);
}

void assign(struct jin *j, struct scope *s, const struct node *target, struct val v)
{
	struct val space;

	if (target->type == N_TUPLE) {
		assign_seq(j, s, target, v);
		return;
	}
	if (target->type == N_NAME) {
		scope_set(j, s, target->name, v);
		return;
	}
	space = scope_get(j, s, target->name);
	if (space.t != T_SPACE)
		jin_fail(j, "cannot assign attribute on non-namespace object");
	if (*target->v.s->s == '_')
		jin_fail(j, "Chat templates cannot store underscore-prefixed attributes on a "
			"namespace, but got %s.", v_repr(j, target->v));
	dict_set(j, space.d, target->v, v);
}

struct val exec_text(struct jin *j, struct scope *s, const struct nodes *body, enum flow *flow)
{
	struct sbuf b = { 0 }, *out = j->out;
	enum flow left;

	j->out = &b;
	left = exec_body(j, s, body);
	j->out = out;
	if (flow)
		*flow = left;
	return sbuf_str(j, &b);
}

/* The filters of {% filter %} and {% set %} are parsed with nothing to the left of the first. */
static struct val filter_text(struct jin *j, struct scope *s, const struct node *n, struct val v)
{
	struct args a;

	if (!n)
		return v;
	jin_deeper(j);
	v = filter_text(j, s, n->a, v);
	j->depth--;
	if (!n->fn)
		jin_fail(j, "No filter named %s found.", v_repr(j, n->v));
	call_args(j, s, n->call, &a, 0);
	j->line = n->line;
	return call_builtin(j, n->fn, "filter", v, &a);
}

static enum flow exec_if(struct jin *j, struct scope *s, const struct node *n)
{
	for (int i = 0; i < n->list.n; i++)
		if (v_true_of(j, eval(j, s, n->list.v[i]->a)))
			return exec_body(j, s, &n->list.v[i]->list);
	return exec_body(j, s, &n->list2);
}

/* `for a in b if c`: c sees a, and not the loop. */
static bool next_chosen(struct jin *j, struct gen *g, struct val *out)
{
	while (iter_next(j, &g->in, out)) {
		struct scope *s = scope_new(j, g->scope);

		assign(j, s, g->node->a, *out);
		if (v_true_of(j, eval(j, s, g->node->c)))
			return true;
	}
	return false;
}

static struct loop *loop_new(struct jin *j, const struct node *n, struct scope *up,
	struct val iterable, int depth)
{
	struct loop *l = jin_alloc(j, sizeof(*l));

	*l = (struct loop){ .def = n, .up = up, .index = -1, .length = -1, .depth = depth };
	for (struct scope *s = n->flag || n->c ? up : NULL; s && !s->kept; s = s->up)
		s->kept = true;
	if (n->c) {
		struct val v = v_gen(j, next_chosen, iterable);

		iter_begin(j, &v.g->in, iterable);
		v.g->node = n;
		v.g->scope = up;
		iterable = v;
	}
	iter_begin(j, &l->it, iterable);
	if (v_has_len(iterable))
		l->length = v_len(j, iterable);
	return l;
}

/* A break or continue in the else branch is one of the loop outside. */
enum flow exec_for(struct jin *j, const struct node *n, struct scope *up, struct val iterable, int depth)
{
	struct loop *l = loop_new(j, n, up, iterable, depth);
	enum flow flow = FLOW_ON;
	struct scope *s = NULL;
	bool any = false;
	struct val item;

	while (flow != FLOW_BREAK && loop_step(j, l, &item)) {
		if (!s || s->kept) /* else nobody holds the last one: used again */
			s = scope_new(j, up);
		s->n = 0;
		any = true;
		scope_set(j, s, n->name, (struct val){ .t = T_LOOP, .loop = l });
		assign(j, s, n->a, item);
		flow = exec_body(j, s, &n->list);
	}
	return any ? FLOW_ON : exec_body(j, scope_new(j, up), &n->list2);
}

static enum flow exec_with(struct jin *j, struct scope *up, const struct node *n)
{
	struct scope *s = scope_new(j, up);

	for (int i = 0; i < n->list.n; i++)
		assign(j, s, n->list.v[i]->a, eval(j, up, n->list.v[i]->b));
	return exec_body(j, s, &n->list2);
}

static struct val macro_new(struct jin *j, struct scope *s, const struct node *n)
{
	struct macro *m = jin_alloc(j, sizeof(*m));

	*m = (struct macro){ n, s };
	for (; s && !s->kept; s = s->up)
		s->kept = true;
	return (struct val){ .t = T_MACRO, .m = m };
}

/* {% call f(x) %}: f with the block as its caller. */
static void exec_call_block(struct jin *j, struct scope *s, const struct node *n)
{
	struct val fn = eval(j, s, n->a->a);
	struct args a;

	call_args(j, s, n->a->call, &a, 1);
	args_name(j, &a, "caller", macro_new(j, s, n));
	j->line = n->line;
	put_str(j, j->out, call_value(j, fn, &a));
}

/* {% set x %}...{% endset %} and {% filter f %}...{% endfilter %}: a break in it drops the text. */
static enum flow exec_filtered(struct jin *j, struct scope *s, const struct node *n)
{
	enum flow flow;
	struct val v = exec_text(j, scope_new(j, s), &n->list, &flow);

	if (flow != FLOW_ON)
		return flow;
	v = filter_text(j, s, n->b, v);
	if (n->type == N_SETBLOCK)
		assign(j, s, n->a, v);
	else
		put_str(j, j->out, v);
	return FLOW_ON;
}

static enum flow exec_scope(struct jin *j, struct scope *s, const struct node *n)
{
	if (!n->flag)
		s = scope_new(j, n->op ? j->root : s);
	return exec_body(j, s, &n->list);
}

static enum flow exec(struct jin *j, struct scope *s, const struct node *n)
{
	j->line = n->line;
	switch (n->type) {
	case N_TEXT:
		sbuf_put(j, j->out, n->v.s->s, n->v.s->len);
		return FLOW_ON;
	case N_PRINT:
		put_str(j, j->out, eval(j, s, n->a));
		return FLOW_ON;
	case N_SET:
		assign(j, s, n->a, eval(j, s, n->b));
		return FLOW_ON;
	case N_SETBLOCK:
	case N_FILTERBLOCK:
		return exec_filtered(j, s, n);
	case N_IF:
		return exec_if(j, s, n);
	case N_FOR:
		return exec_for(j, n, s, eval(j, s, n->b), 0);
	case N_MACRO:
		scope_set(j, s, n->name, macro_new(j, s, n));
		return FLOW_ON;
	case N_CALLBLOCK:
		exec_call_block(j, s, n);
		return FLOW_ON;
	case N_WITH:
		return exec_with(j, s, n);
	case N_BREAK:
		return FLOW_BREAK;
	case N_CONTINUE:
		return FLOW_CONTINUE;
	default:
		return exec_scope(j, s, n);
	}
}

enum flow exec_body(struct jin *j, struct scope *s, const struct nodes *body)
{
	enum flow flow = FLOW_ON;

	jin_deeper(j);
	for (int i = 0; i < body->n && flow == FLOW_ON; i++) {
		jin_step(j);
		flow = exec(j, s, body->v[i]);
	}
	j->depth--;
	return flow;
}
