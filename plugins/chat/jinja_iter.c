/* SPDX-License-Identifier: MIT */
/* jinja_iter.c - going through values: decides what can be iterated. A generator is read once
 * and lazily, as Python's. */
#include "jinja.h"

bool v_iterable(struct val v)
{
	return (v.t >= T_STR && v.t <= T_ITER) || v.t == T_UNDEF || v.t == T_LOOP;
}

void iter_begin(struct jin *j, struct iter *it, struct val v)
{
	if (!v_iterable(v))
		jin_fail(j, "'%s' object is not iterable", v_type(v));
	*it = (struct iter){ .src = v };
}

static struct val entry_of(struct jin *j, const struct dict *d, int64_t i, int view)
{
	if (view == VIEW_ITEMS)
		return v_pair(j, d->e[i].key, d->e[i].v);
	return view == VIEW_VALUES ? d->e[i].v : d->e[i].key;
}

bool iter_next(struct jin *j, struct iter *it, struct val *out)
{
	struct val v = it->src;
	bool more;

	jin_step(j);
	switch (v.t) {
	case T_STR:
		if (it->byte >= v.s->len)
			return false;
		{
			int64_t from = it->byte;

			cp_next(v.s->s, v.s->len, &it->byte);
			*out = v_str_n(j, v.s->s + from, it->byte - from, 1);
		}
		return true;
	case T_LIST:
	case T_TUPLE:
		if (it->at >= v.l->n)
			return false;
		*out = v.l->v[it->at++];
		return true;
	case T_DICT:
	case T_VIEW:
		if (it->at >= v.d->n)
			return false;
		*out = entry_of(j, v.d, it->at++, v.t == T_DICT ? VIEW_KEYS : v.k);
		return true;
	case T_RANGE:
		if (it->at >= v.r->n)
			return false;
		*out = v_int(v.r->start + v.r->step * it->at++);
		return true;
	case T_ITER:
		jin_deeper(j);
		more = v.g->next(j, v.g, out);
		j->depth--;
		return more;
	case T_LOOP: /* item and loop, as LoopContext gives them */
		if (!loop_step(j, v.loop, out))
			return false;
		*out = v_pair(j, *out, v);
		return true;
	default:
		return false;
	}
}

struct val v_to_list(struct jin *j, struct val v)
{
	struct val list = v_list(j, T_LIST, v.t != T_LOOP && v_has_len(v) ? v_len(j, v) : 0), item;
	struct iter it;

	iter_begin(j, &it, v);
	while (iter_next(j, &it, &item))
		list_add(j, list.l, item);
	return list;
}

struct val v_gen(struct jin *j, bool (*next)(struct jin *, struct gen *, struct val *), struct val in)
{
	struct gen *g = jin_alloc(j, sizeof(*g));

	g->next = next;
	g->type = "generator";
	g->in.src = in;
	return (struct val){ .t = T_ITER, .g = g };
}

static bool next_in(struct jin *j, struct gen *g, struct val *out)
{
	return iter_next(j, &g->in, out);
}

struct val v_iter_of(struct jin *j, struct val list, const char *type)
{
	struct val v = v_gen(j, next_in, list);

	v.g->type = type;
	return v;
}
