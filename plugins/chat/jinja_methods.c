/* SPDX-License-Identifier: MIT */
/* jinja_methods.c - methods of strings, first half: searching, cutting, joining; and those of
 * lists, tuples and dicts. An entry without a function is one that Python has and the sandbox
 * does not let through. */
#include <string.h>

#include "jinja.h"

#define METHOD(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

static struct val need_str(struct jin *j, struct val v, const char *what)
{
	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t != T_STR)
		jin_fail(j, "%s: must be str, not %s", what, v_type(v));
	return v;
}

static bool given(struct val v)
{
	return v.t != T_ABSENT && v.t != T_NONE;
}

/* Parts between separators, from the left or from the right. */
static void split_at(struct jin *j, struct list *out, struct val v, const struct str *sep, int64_t max)
{
	int64_t at = 0;

	while (max-- > 0) {
		int64_t i = str_find(j, v.s->s + at, v.s->len - at, sep->s, sep->len, false);

		if (i < 0)
			break;
		list_add(j, out, v_safe(v_str(j, v.s->s + at, i), v.k));
		at += i + sep->len;
	}
	list_add(j, out, v_safe(v_str(j, v.s->s + at, v.s->len - at), v.k));
}

static void split_space(struct jin *j, struct list *out, struct val v, int64_t max)
{
	struct val rest = str_strip(j, v, v_absent, 1);

	while (rest.s->len) {
		int64_t i = 0, end = 0;

		while (max > 0 && end < rest.s->len) {
			end = i;
			if (cp_space(cp_next(rest.s->s, rest.s->len, &i)))
				break;
			end = i;
		}
		if (max-- <= 0)
			end = rest.s->len;
		list_add(j, out, v_safe(v_str(j, rest.s->s, end), v.k));
		jin_charge(j, end * 8);
		i = end; /* not str_strip on all that is left: its characters are not counted anew */
		while (i < rest.s->len) {
			int64_t next = i;

			if (!cp_space(cp_next(rest.s->s, rest.s->len, &next)))
				break;
			i = next;
		}
		rest = v_str_n(j, rest.s->s + i, rest.s->len - i, 0);
	}
}

METHOD(m_split) /* sep maxsplit */
{
	int64_t max = arg[1].t == T_ABSENT ? -1 : v_need_int(j, arg[1]);
	struct val out = v_list(j, T_LIST, 0);

	max = max < 0 ? INT64_MAX : max;
	if (!given(arg[0])) {
		split_space(j, out.l, v, max);
		return out;
	}
	if (!need_str(j, arg[0], "split").s->len)
		jin_fail(j, "empty separator");
	split_at(j, out.l, v, arg[0].s, max);
	return out;
}

static void turn(struct list *l)
{
	for (int64_t i = 0; i < l->n / 2; i++) {
		struct val t = l->v[i];

		l->v[i] = l->v[l->n - 1 - i];
		l->v[l->n - 1 - i] = t;
	}
}

/* The last word of [0, end): where it begins; *next: the end of what is before it. */
static int64_t last_word(struct val v, int64_t end, int64_t *next)
{
	bool in = true;
	int64_t begin = end;

	while (end > 0) {
		int64_t from = end - 1, at;

		while (from > 0 && ((unsigned char)v.s->s[from] & 0xC0) == 0x80)
			from--;
		at = from;
		if (cp_space(cp_next(v.s->s, v.s->len, &at)))
			in = false;
		else if (!in)
			break;
		end = from;
		begin = in ? from : begin;
	}
	*next = end;
	return begin;
}

METHOD(m_rsplit) /* sep maxsplit */
{
	int64_t max = arg[1].t == T_ABSENT ? -1 : v_need_int(j, arg[1]), end;
	struct val out = v_list(j, T_LIST, 0);

	if (max < 0)
		return m_split(j, v, arg, a);
	if (!given(arg[0])) {
		v = str_strip(j, v, v_absent, 2);
		for (end = v.s->len; end > 0 && max > 0; max--) {
			int64_t next, begin = last_word(v, end, &next);

			list_add(j, out.l, v_safe(v_str(j, v.s->s + begin, end - begin), v.k));
			jin_charge(j, (end - next) * 8);
			end = next;
		}
		if (end > 0)
			list_add(j, out.l, v_safe(v_str(j, v.s->s, end), v.k));
		turn(out.l);
		return out;
	}
	if (!need_str(j, arg[0], "rsplit").s->len)
		jin_fail(j, "empty separator");
	for (end = v.s->len; max > 0; max--) {
		int64_t i = str_find(j, v.s->s, end, arg[0].s->s, arg[0].s->len, true);

		if (i < 0)
			break;
		i += arg[0].s->len;
		list_add(j, out.l, v_safe(v_str(j, v.s->s + i, end - i), v.k));
		end = i - arg[0].s->len;
	}
	list_add(j, out.l, v_safe(v_str(j, v.s->s, end), v.k));
	turn(out.l);
	return out;
}

METHOD(m_splitlines) { return str_lines(j, v, arg[0].t != T_ABSENT && v_true_of(j, arg[0])); }
METHOD(m_strip)      { return str_strip(j, v, arg[0], 3); }
METHOD(m_lstrip)     { return str_strip(j, v, arg[0], 1); }
METHOD(m_rstrip)     { return str_strip(j, v, arg[0], 2); }
METHOD(m_format)     { return str_format(j, v, a); }

METHOD(m_format_map)
{
	struct args named = { .n = 0 };

	if (arg[0].t != T_DICT)
		jin_fail(j, "format_map() takes a mapping");
	named.names = jin_array(j, arg[0].d->n + 1, sizeof(*named.names));
	named.named = jin_array(j, arg[0].d->n + 1, sizeof(*named.named));
	for (int64_t i = 0; i < arg[0].d->n; i++) {
		if (arg[0].d->e[i].key.t != T_STR)
			continue;
		named.names[named.n_named] = arg[0].d->e[i].key.s;
		named.named[named.n_named++] = arg[0].d->e[i].v;
	}
	return str_format(j, v, &named);
}

METHOD(m_replace) /* old new count */
{
	int64_t n = arg[2].t == T_ABSENT ? -1 : v_need_int(j, arg[2]);

	need_str(j, arg[0], "replace() argument 1");
	need_str(j, arg[1], "replace() argument 2");
	return str_replace(j, v, arg[0], v.k ? str_escape(j, arg[1]) : arg[1], n);
}

METHOD(m_join)
{
	struct sbuf b = { 0 };
	struct iter it;
	struct val item;

	iter_begin(j, &it, arg[0]);
	for (int64_t i = 0; iter_next(j, &it, &item); i++) {
		if (item.t != T_STR)
			jin_fail(j, "sequence item %lld: expected str instance, %s found", (long long)i,
				v_type(item));
		if (i)
			sbuf_put(j, &b, v.s->s, v.s->len);
		put_str(j, &b, v.k ? str_escape(j, item) : item);
	}
	return v_safe(sbuf_str(j, &b), v.k);
}

/* [from, to) in characters as an argument of find and its like. */
static void window(struct jin *j, struct val v, const struct val *arg, int64_t *from, int64_t *to)
{
	int64_t n = v.s->n;

	*from = given(arg[0]) ? v_need_int(j, arg[0]) : 0;
	*to = given(arg[1]) ? v_need_int(j, arg[1]) : n;
	*from = *from < 0 ? (*from < -n ? 0 : *from + n) : *from;
	*to = *to < 0 ? (*to < -n ? 0 : *to + n) : *to > n ? n : *to;
}

/* The character where arg[0] is, or -1. */
static int64_t find(struct jin *j, struct val v, const struct val *arg, bool last)
{
	int64_t from, to, i;
	struct val in;

	need_str(j, arg[0], "find");
	window(j, v, arg + 1, &from, &to);
	if (from > v.s->n || from > to)
		return -1;
	in = str_sub(j, v, from, to);
	i = str_find(j, in.s->s, in.s->len, arg[0].s->s, arg[0].s->len, last);
	return i < 0 ? -1 : from + utf8_count(in.s->s, i);
}

METHOD(m_find)  { return v_int(find(j, v, arg, false)); }
METHOD(m_rfind) { return v_int(find(j, v, arg, true)); }

static struct val index_of(struct jin *j, struct val v, const struct val *arg, bool last)
{
	int64_t i = find(j, v, arg, last);

	if (i < 0)
		jin_fail(j, "substring not found");
	return v_int(i);
}

METHOD(m_index)  { return index_of(j, v, arg, false); }
METHOD(m_rindex) { return index_of(j, v, arg, true); }

METHOD(m_count)
{
	int64_t from, to, n = 0, at = 0;
	struct val in;

	need_str(j, arg[0], "count");
	window(j, v, arg + 1, &from, &to);
	if (from > to)
		return v_int(0);
	in = str_sub(j, v, from, to);
	if (!arg[0].s->len)
		return v_int(in.s->n + 1);
	for (;; n++) {
		int64_t i = str_find(j, in.s->s + at, in.s->len - at, arg[0].s->s, arg[0].s->len, false);

		if (i < 0)
			return v_int(n);
		at += i + arg[0].s->len;
	}
}

/* startswith, endswith: a string or a tuple of them. */
static struct val at_side(struct jin *j, struct val v, const struct val *arg, bool end)
{
	struct val one = v_list(j, T_TUPLE, 1), in;
	int64_t from, to;

	if (arg[0].t == T_TUPLE)
		one = arg[0];
	else
		list_add(j, one.l, need_str(j, arg[0], end ? "endswith" : "startswith"));
	window(j, v, arg + 1, &from, &to);
	if (from > v.s->n || from > to)
		return v_false;
	in = str_sub(j, v, from, to);
	for (int64_t i = 0; i < one.l->n; i++) {
		const struct str *s = need_str(j, one.l->v[i], "startswith").s;

		jin_charge(j, s->len);
		if (s->len <= in.s->len &&
			!memcmp(in.s->s + (end ? in.s->len - s->len : 0), s->s, (size_t)s->len))
			return v_true;
	}
	return v_false;
}

METHOD(m_startswith) { return at_side(j, v, arg, false); }
METHOD(m_endswith)   { return at_side(j, v, arg, true); }

METHOD(m_removeprefix)
{
	return v_true_of(j, at_side(j, v, (struct val[]){ need_str(j, arg[0], "removeprefix"), v_none, v_none },
		false)) ? str_sub(j, v, arg[0].s->n, v.s->n) : v;
}

METHOD(m_removesuffix)
{
	return v_true_of(j, at_side(j, v, (struct val[]){ need_str(j, arg[0], "removesuffix"), v_none, v_none },
		true)) ? str_sub(j, v, 0, v.s->n - arg[0].s->n) : v;
}

static struct val partition(struct jin *j, struct val v, struct val sep, bool last)
{
	struct val out = v_list(j, T_TUPLE, 3), empty = v_safe(v_text(j, ""), v.k);
	int64_t i;

	if (!need_str(j, sep, "partition").s->len)
		jin_fail(j, "empty separator");
	i = str_find(j, v.s->s, v.s->len, sep.s->s, sep.s->len, last);
	if (i < 0) {
		list_add(j, out.l, last ? empty : v);
		list_add(j, out.l, empty);
		list_add(j, out.l, last ? v : empty);
		return out;
	}
	list_add(j, out.l, v_safe(v_str(j, v.s->s, i), v.k));
	list_add(j, out.l, v_safe(sep, v.k));
	i += sep.s->len;
	list_add(j, out.l, v_safe(v_str(j, v.s->s + i, v.s->len - i), v.k));
	return out;
}

METHOD(m_partition)  { return partition(j, v, arg[0], false); }
METHOD(m_rpartition) { return partition(j, v, arg[0], true); }

const struct builtin jin_str_methods[] = {
	{ "split", "sep maxsplit", 0, m_split }, { "rsplit", "sep maxsplit", 0, m_rsplit },
	{ "splitlines", "keepends", 0, m_splitlines }, { "strip", "chars", 0, m_strip },
	{ "lstrip", "chars", 0, m_lstrip }, { "rstrip", "chars", 0, m_rstrip },
	{ "format", NULL, 0, m_format }, { "format_map", "mapping", 1, m_format_map },
	{ "replace", "old new count", 2, m_replace }, { "join", "iterable", 1, m_join },
	{ "find", "sub start end", 1, m_find }, { "rfind", "sub start end", 1, m_rfind },
	{ "index", "sub start end", 1, m_index }, { "rindex", "sub start end", 1, m_rindex },
	{ "count", "sub start end", 1, m_count },
	{ "startswith", "prefix start end", 1, m_startswith },
	{ "endswith", "suffix start end", 1, m_endswith },
	{ "removeprefix", "prefix", 1, m_removeprefix },
	{ "removesuffix", "suffix", 1, m_removesuffix },
	{ "partition", "sep", 1, m_partition }, { "rpartition", "sep", 1, m_rpartition },
	{ NULL },
};

/* ---- lists, tuples, ranges ---- */

METHOD(l_index) /* value start stop */
{
	struct val l = v_to_list(j, v);
	struct slice s = { given(arg[1]) ? arg[1] : v_none, given(arg[2]) ? arg[2] : v_none, v_none };
	struct val in = v_slice(j, l, &s);
	int64_t first = given(arg[1]) ? v_need_int(j, arg[1]) : 0;

	first = first < 0 ? (first < -l.l->n ? 0 : first + l.l->n) : first;
	for (int64_t i = 0; i < in.l->n; i++)
		if (v_eq(j, in.l->v[i], arg[0]))
			return v_int(first + i);
	jin_fail(j, "%s is not in list", v_repr(j, arg[0]));
}

METHOD(l_count)
{
	struct iter it;
	struct val item;
	int64_t n = 0;

	iter_begin(j, &it, v);
	while (iter_next(j, &it, &item))
		n += v_eq(j, item, arg[0]);
	return v_int(n);
}

METHOD(l_copy) { return v_to_list(j, v); }

const struct builtin jin_list_methods[] = {
	{ "index", "value start stop", 1, l_index }, { "count", "value", 1, l_count },
	{ "copy", "", 0, l_copy }, { "append", NULL, 0, NULL }, { "clear", NULL, 0, NULL },
	{ "pop", NULL, 0, NULL }, { "reverse", NULL, 0, NULL }, { "insert", NULL, 0, NULL },
	{ "sort", NULL, 0, NULL }, { "extend", NULL, 0, NULL }, { "remove", NULL, 0, NULL },
	{ NULL },
};

const struct builtin jin_tuple_methods[] = {
	{ "index", "value start stop", 1, l_index }, { "count", "value", 1, l_count }, { NULL },
};

/* ---- dicts ---- */

static struct val view(struct val v, enum view k)
{
	v.t = T_VIEW;
	v.k = k;
	return v;
}

METHOD(d_items)  { return view(v, VIEW_ITEMS); }
METHOD(d_keys)   { return view(v, VIEW_KEYS); }
METHOD(d_values) { return view(v, VIEW_VALUES); }

METHOD(d_get) /* key default */
{
	struct val out;

	if (dict_get(j, v.d, arg[0], &out))
		return out;
	return arg[1].t == T_ABSENT ? v_none : arg[1];
}

METHOD(d_copy)
{
	struct val out = v_dict(j);

	for (int64_t i = 0; i < v.d->n; i++)
		dict_set(j, out.d, v.d->e[i].key, v.d->e[i].v);
	return out;
}

METHOD(d_fromkeys) /* keys value */
{
	struct val out = v_dict(j), key;
	struct iter it;

	iter_begin(j, &it, arg[0]);
	while (iter_next(j, &it, &key))
		dict_set(j, out.d, key, arg[1].t == T_ABSENT ? v_none : arg[1]);
	return out;
}

const struct builtin jin_dict_methods[] = {
	{ "items", "", 0, d_items }, { "keys", "", 0, d_keys }, { "values", "", 0, d_values },
	{ "get", "key default", 1, d_get }, { "copy", "", 0, d_copy },
	{ "fromkeys", "keys value", 1, d_fromkeys }, { "clear", NULL, 0, NULL },
	{ "pop", NULL, 0, NULL }, { "popitem", NULL, 0, NULL }, { "setdefault", NULL, 0, NULL },
	{ "update", NULL, 0, NULL }, { NULL },
};

/* ---- the global `dict` itself: a method of dicts lacks its dict there ---- */

METHOD(t_unbound)
{
	jin_fail(j, "this method needs a dict before the dot: 'dict' is their type");
}

const struct builtin jin_dicttype_methods[] = {
	{ "fromkeys", "keys value", 1, d_fromkeys }, { "items", NULL, 0, t_unbound },
	{ "keys", NULL, 0, t_unbound }, { "values", NULL, 0, t_unbound },
	{ "get", NULL, 0, t_unbound }, { "copy", NULL, 0, t_unbound }, { NULL },
};
