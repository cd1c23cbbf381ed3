/* SPDX-License-Identifier: MIT */
/* jinja_filters.c - filters over items: map, select, sort and their like. Those that are
 * generators in Jinja2 are lazy here too, and are read once. */
#include <string.h>

#include "jinja.h"

#define FILTER(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

/* a.b.0 of an item: each part as item[part]. */
struct val get_path(struct jin *j, struct val item, struct val path, struct val otherwise)
{
	int64_t from = 0;

	if (path.t == T_NONE || path.t == T_ABSENT)
		return item;
	if (path.t != T_STR) {
		item = get_item(j, item, path);
		return item.t == T_UNDEF && otherwise.t != T_ABSENT && otherwise.t != T_NONE ?
			otherwise : item;
	}
	for (int64_t i = 0; i <= path.s->len; i++) {
		struct val key;
		bool number = i > from;

		if (i < path.s->len && path.s->s[i] != '.')
			continue;
		for (int64_t k = from; k < i; k++)
			number = number && path.s->s[k] >= '0' && path.s->s[k] <= '9';
		key = v_str(j, path.s->s + from, i - from);
		if (number) {
			bool ok;

			key = parse_int_text(j, key.s->s, key.s->len, 10, &ok);
		}
		item = get_item(j, item, key);
		if (item.t == T_UNDEF && otherwise.t != T_ABSENT && otherwise.t != T_NONE)
			item = otherwise;
		from = i + 1;
	}
	return item;
}

static bool given(struct val v)
{
	return v.t != T_ABSENT && v.t != T_NONE;
}

static bool is_on(struct jin *j, struct val v)
{
	return v.t != T_ABSENT && v_true_of(j, v);
}

static struct val no_case(struct jin *j, struct val v, bool sensitive)
{
	return !sensitive && v.t == T_STR ? str_case(j, v, CASE_LOWER) : v;
}

/* ---- map, select, reject and with attributes ---- */

static bool next_map(struct jin *j, struct gen *g, struct val *out)
{
	struct val item;

	if (!g->begun && g->in.src.t != T_ABSENT) {
		g->begun = true;
		if (!v_true_of(j, g->in.src))
			return false;
		iter_begin(j, &g->in, g->in.src);
	}
	if (!iter_next(j, &g->in, &item))
		return false;
	*out = g->fn ? call_builtin(j, g->fn, "filter", item, g->args) :
		       get_path(j, item, g->a, g->b);
	return true;
}

/* The arguments behind the first n. */
static const struct args *rest_of(struct jin *j, const struct args *a, int n)
{
	struct args *rest = jin_alloc(j, sizeof(*rest));

	*rest = *a;
	rest->v = a->v + n;
	rest->n = a->n - n;
	return rest;
}

FILTER(f_map)
{
	struct val out = v_gen(j, next_map, v), attr = v_absent, otherwise = v_absent;

	if (!a->n && args_named(a, "attribute", &attr)) {
		args_named(a, "default", &otherwise);
		out.g->a = attr;
		out.g->b = otherwise;
		return out;
	}
	if (!a->n)
		jin_fail(j, "map requires a filter argument");
	if (a->v[0].t == T_STR)
		out.g->fn = find_filter(a->v[0].s->s, a->v[0].s->len);
	if (!out.g->fn)
		jin_fail(j, "No filter named %s.", v_repr(j, a->v[0]));
	out.g->args = rest_of(j, a, 1);
	return out;
}

/* flag: reject; flag2: by the attribute a */
static bool next_select(struct jin *j, struct gen *g, struct val *out)
{
	if (!g->begun) {
		g->begun = true;
		if (!v_true_of(j, g->in.src)) {
			g->in.src = v_list(j, T_LIST, 0);
			return false;
		}
		iter_begin(j, &g->in, g->in.src);
	}
	while (iter_next(j, &g->in, out)) {
		struct val v = g->flag2 ? get_path(j, *out, g->a, v_absent) : *out;

		if (g->fn)
			v = call_builtin(j, g->fn, "test", v, g->args);
		if (v_true_of(j, v) != g->flag)
			return true;
	}
	return false;
}

static struct val select_gen(struct jin *j, struct val v, const struct args *a, bool reject, bool attr)
{
	struct val out = v_gen(j, next_select, v);

	out.g->flag = reject;
	out.g->flag2 = attr;
	if (attr && !a->n)
		jin_fail(j, "Missing parameter for attribute name");
	if (attr)
		out.g->a = a->v[0];
	if (a->n <= attr)
		return out;
	if (a->v[attr].t == T_STR)
		out.g->fn = find_builtin(jin_tests, a->v[attr].s->s, a->v[attr].s->len);
	if (!out.g->fn)
		jin_fail(j, "No test named %s.", v_repr(j, a->v[attr]));
	out.g->args = rest_of(j, a, attr + 1);
	return out;
}

FILTER(f_select)     { return select_gen(j, v, a, false, false); }
FILTER(f_reject)     { return select_gen(j, v, a, true, false); }
FILTER(f_selectattr) { return select_gen(j, v, a, false, true); }
FILTER(f_rejectattr) { return select_gen(j, v, a, true, true); }

/* ---- sort ---- */

struct pair { struct val key, item; };

/* Merge sort: stable. reverse keeps the order of equal ones too. */
static void sort_pairs(struct jin *j, struct pair *p, struct pair *tmp, int64_t n, bool reverse)
{
	for (int64_t width = 1; width < n; width *= 2) {
		for (int64_t from = 0; from < n; from += 2 * width) {
			int64_t mid = from + width < n ? from + width : n;
			int64_t end = from + 2 * width < n ? from + 2 * width : n;
			int64_t x = from, y = mid;

			for (int64_t k = from; k < end; k++) {
				bool right = x >= mid;

				if (x < mid && y < end)
					right = reverse ? v_less(j, p[x].key, p[y].key, "<") :
							  v_less(j, p[y].key, p[x].key, "<");
				tmp[k] = right ? p[y++] : p[x++];
			}
		}
		memcpy(p, tmp, (size_t)n * sizeof(*p));
		jin_charge(j, n * (int64_t)sizeof(*p));
	}
}

/* items by the key that make() gives each. */
static struct pair *keyed(struct jin *j, const struct list *l, struct val path, struct val otherwise,
	bool sensitive)
{
	struct pair *p = jin_array(j, l->n + 1, sizeof(*p));

	for (int64_t i = 0; i < l->n; i++)
		p[i] = (struct pair){ no_case(j, get_path(j, l->v[i], path, otherwise), sensitive),
			l->v[i] };
	return p;
}

static struct val from_pairs(struct jin *j, struct pair *p, int64_t n, bool reverse)
{
	struct val out = v_list(j, T_LIST, n);

	sort_pairs(j, p, jin_array(j, n + 1, sizeof(*p)), n, reverse);
	for (int64_t i = 0; i < n; i++)
		list_add(j, out.l, p[i].item);
	return out;
}

/* "a,b": a tuple of both */
static struct val multi_key(struct jin *j, struct val item, struct val attrs, bool sensitive)
{
	struct val key = v_list(j, T_LIST, 1);
	int64_t from = 0;

	if (attrs.t != T_STR) {
		list_add(j, key.l, no_case(j, get_path(j, item, attrs, v_absent), sensitive));
		return key;
	}
	for (int64_t i = 0; i <= attrs.s->len; i++) {
		struct val path;

		if (i < attrs.s->len && attrs.s->s[i] != ',')
			continue;
		path = v_str(j, attrs.s->s + from, i - from);
		list_add(j, key.l, no_case(j, get_path(j, item, path, v_absent), sensitive));
		from = i + 1;
	}
	return key;
}

FILTER(f_sort) /* reverse case_sensitive attribute */
{
	struct val l = v_to_list(j, v);
	struct pair *p = jin_array(j, l.l->n + 1, sizeof(*p));

	for (int64_t i = 0; i < l.l->n; i++)
		p[i] = (struct pair){ multi_key(j, l.l->v[i], arg[2], is_on(j, arg[1])), l.l->v[i] };
	return from_pairs(j, p, l.l->n, is_on(j, arg[0]));
}

FILTER(f_dictsort) /* case_sensitive by reverse */
{
	struct pair *p;
	int by;

	if (arg[1].t != T_ABSENT && !str_is(arg[1], "key") && !str_is(arg[1], "value"))
		jin_fail(j, "You can only sort by either \"key\" or \"value\"");
	by = str_is(arg[1], "value");
	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t != T_DICT)
		jin_fail(j, "'%s' object has no attribute 'items'", v_type(v));
	p = jin_array(j, v.d->n + 1, sizeof(*p));
	for (int64_t i = 0; i < v.d->n; i++)
		p[i] = (struct pair){ no_case(j, by ? v.d->e[i].v : v.d->e[i].key, is_on(j, arg[0])),
			v_pair(j, v.d->e[i].key, v.d->e[i].v) };
	return from_pairs(j, p, v.d->n, is_on(j, arg[2]));
}

FILTER(f_groupby) /* attribute default case_sensitive */
{
	struct val l = v_to_list(j, v), out = v_list(j, T_LIST, 0);
	bool sensitive = is_on(j, arg[2]);
	struct pair *p = keyed(j, l.l, arg[0], arg[1], sensitive);

	from_pairs(j, p, l.l->n, false);
	for (int64_t i = 0; i < l.l->n;) {
		struct val items = v_list(j, T_LIST, 0), group, key = p[i].key;

		for (; i < l.l->n && v_eq(j, p[i].key, key); i++)
			list_add(j, items.l, p[i].item);
		if (!items.l->n) /* NaN is not itself */
			list_add(j, items.l, p[i++].item);
		group = v_pair(j, sensitive ? key : get_path(j, items.l->v[0], arg[0], arg[1]), items);
		group.k = 1;
		list_add(j, out.l, group);
	}
	return out;
}

/* ---- one of many ---- */

static struct val extreme(struct jin *j, struct val v, const struct val *arg, bool max)
{
	struct iter it;
	struct val item, best, key, best_key;

	iter_begin(j, &it, v);
	if (!iter_next(j, &it, &best))
		return v_undef(j, "No aggregated item, sequence was empty.");
	best_key = no_case(j, get_path(j, best, arg[1], v_absent), is_on(j, arg[0]));
	while (iter_next(j, &it, &item)) {
		key = no_case(j, get_path(j, item, arg[1], v_absent), is_on(j, arg[0]));
		if (max ? v_less(j, best_key, key, ">") : v_less(j, key, best_key, "<")) {
			best = item;
			best_key = key;
		}
	}
	return best;
}

FILTER(f_min) { return extreme(j, v, arg, false); }
FILTER(f_max) { return extreme(j, v, arg, true); }

FILTER(f_first)
{
	struct iter it;
	struct val item;

	iter_begin(j, &it, v);
	return iter_next(j, &it, &item) ? item : v_undef(j, "No first item, sequence was empty.");
}

FILTER(f_last)
{
	struct val l;

	if (v.t == T_ITER || !v_iterable(v) || (v.t == T_LOOP))
		jin_fail(j, "'%s' object is not reversible", v_type(v));
	if (v.t == T_STR)
		return v.s->n ? str_index(j, v, v.s->n - 1) :
				v_undef(j, "No last item, sequence was empty.");
	l = v_to_list(j, v);
	return l.l->n ? l.l->v[l.l->n - 1] : v_undef(j, "No last item, sequence was empty.");
}

FILTER(f_sum) /* attribute start */
{
	struct val sum = arg[1].t == T_ABSENT ? v_int(0) : arg[1], item;
	struct iter it;

	if (sum.t == T_STR)
		jin_fail(j, "sum() can't sum strings [use ''.join(seq) instead]");
	iter_begin(j, &it, v);
	while (iter_next(j, &it, &item))
		sum = v_binary(j, OP_ADD, sum, get_path(j, item, arg[0], v_absent));
	return sum;
}

FILTER(f_length)
{
	return v_int(v_len(j, v));
}

FILTER(f_list)
{
	return v_to_list(j, v);
}

FILTER(f_reverse)
{
	struct val l, out;

	if (v.t == T_STR) {
		struct slice back = { v_none, v_none, v_int(-1) };

		return v_safe(v_slice(j, v, &back), v.k);
	}
	if (v.t != T_LOOP && !v_iterable(v))
		jin_fail(j, "argument must be iterable");
	l = v_to_list(j, v);
	out = v_list(j, T_LIST, l.l->n);
	for (int64_t i = l.l->n; i > 0; i--)
		list_add(j, out.l, l.l->v[i - 1]);
	return v.t == T_ITER ? out : v_iter_of(j, out, v.t == T_LIST ? "list_reverseiterator" : "reversed");
}

static bool next_unique(struct jin *j, struct gen *g, struct val *out)
{
	if (!g->begun) {
		g->begun = true;
		iter_begin(j, &g->in, g->in.src);
	}
	while (iter_next(j, &g->in, out)) {
		struct val key = no_case(j, get_path(j, *out, g->a, v_absent), g->flag), seen;

		if (dict_get(j, g->seen, key, &seen))
			continue;
		dict_set(j, g->seen, key, v_none);
		return true;
	}
	return false;
}

FILTER(f_unique) /* case_sensitive attribute */
{
	struct val out = v_gen(j, next_unique, v);

	out.g->flag = is_on(j, arg[0]);
	out.g->a = arg[1];
	out.g->seen = v_dict(j).d;
	return out;
}

static bool next_batch(struct jin *j, struct gen *g, struct val *out)
{
	struct val item;

	if (!g->begun) {
		g->begun = true;
		iter_begin(j, &g->in, g->in.src);
		g->flag = iter_next(j, &g->in, &g->c); /* c: the one that is read, not given */
		if (g->flag && !g->i) { /* lists of none: as Jinja, one, and then all in one */
			*out = v_list(j, T_LIST, 0);
			return true;
		}
	}
	if (!g->flag)
		return false;
	*out = v_list(j, T_LIST, 0);
	list_add(j, out->l, g->c);
	while ((g->flag = iter_next(j, &g->in, &item))) {
		if (out->l->n == g->i) {
			g->c = item;
			return true;
		}
		list_add(j, out->l, item);
	}
	for (int64_t n = out->l->n; given(g->b) && n < g->i; n++)
		list_add(j, out->l, g->b);
	return true;
}

FILTER(f_batch) /* linecount fill_with */
{
	struct val out = v_gen(j, next_batch, v);

	out.g->i = v_need_int(j, arg[0]);
	out.g->b = arg[1];
	return out;
}

FILTER(f_slice) /* slices fill_with: v in so many lists of about the same length */
{
	struct val l = v_to_list(j, v), out = v_list(j, T_LIST, 0);
	int64_t n = v_need_int(j, arg[0]), per, more, at = 0;

	if (!n)
		jin_fail(j, "integer division or modulo by zero");
	per = n > 0 ? l.l->n / n : 0;
	more = n > 0 ? l.l->n % n : 0;
	for (int64_t i = 0; i < n; i++) {
		struct val part = v_list(j, T_LIST, 0);

		for (int64_t k = 0; k < per + (i < more); k++)
			list_add(j, part.l, l.l->v[at++]);
		if (given(arg[1]) && i >= more)
			list_add(j, part.l, arg[1]);
		list_add(j, out.l, part);
	}
	return v_iter_of(j, out, "generator");
}

static bool next_item(struct jin *j, struct gen *g, struct val *out)
{
	return iter_next(j, &g->in, out);
}

FILTER(f_items)
{
	struct val out, view = v;

	if (v.t != T_UNDEF && v.t != T_DICT)
		jin_fail(j, "Can only get item pairs from a mapping.");
	if (v.t == T_DICT) {
		view.t = T_VIEW;
		view.k = VIEW_ITEMS;
	}
	out = v_gen(j, next_item, view);
	return out;
}

FILTER(f_join) /* d attribute */
{
	struct val d = arg[0].t == T_ABSENT ? v_text(j, "") : v_to_str(j, arg[0]), item;
	struct sbuf b = { 0 };
	struct iter it;
	bool more = false;

	iter_begin(j, &it, v);
	while (iter_next(j, &it, &item)) {
		if (more)
			sbuf_put(j, &b, d.s->s, d.s->len);
		put_str(j, &b, get_path(j, item, arg[1], v_absent));
		more = true;
	}
	return sbuf_str(j, &b);
}

FILTER(f_attr) /* name */
{
	struct val out;
	bool found;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (arg[0].t != T_STR)
		jin_fail(j, "attribute name must be string, not '%s'", v_type(arg[0]));
	out = get_static(j, v, arg[0].s, &found);
	return found ? out : v_undef_of(j, v, arg[0]);
}

const struct builtin jin_filters[] = {
	{ "map", NULL, 0, f_map },
	{ "select", NULL, 0, f_select },
	{ "reject", NULL, 0, f_reject },
	{ "selectattr", NULL, 0, f_selectattr },
	{ "rejectattr", NULL, 0, f_rejectattr },
	{ "sort", "reverse case_sensitive attribute", 0, f_sort },
	{ "dictsort", "case_sensitive by reverse", 0, f_dictsort },
	{ "groupby", "attribute default case_sensitive", 1, f_groupby },
	{ "min", "case_sensitive attribute", 0, f_min },
	{ "max", "case_sensitive attribute", 0, f_max },
	{ "first", "", 0, f_first },
	{ "last", "", 0, f_last },
	{ "sum", "attribute start", 0, f_sum },
	{ "length", "", 0, f_length },
	{ "count", "", 0, f_length },
	{ "list", "", 0, f_list },
	{ "reverse", "", 0, f_reverse },
	{ "unique", "case_sensitive attribute", 0, f_unique },
	{ "batch", "linecount fill_with", 1, f_batch },
	{ "slice", "slices fill_with", 1, f_slice },
	{ "items", "", 0, f_items },
	{ "join", "d attribute", 0, f_join },
	{ "attr", "name", 1, f_attr },
	{ NULL },
};
