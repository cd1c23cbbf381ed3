/* SPDX-License-Identifier: MIT */
/* jinja_value.c - values: decides what is true, equal, less, and what a dict's keys are. As
 * Python's, with Jinja's Undefined, which is false, equal to itself and good for nothing else. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "jinja.h"
#include "utf8.h"

const struct val v_none = { .t = T_NONE }, v_true = { .t = T_BOOL, .b = true },
	v_false = { .t = T_BOOL }, v_absent = { .t = T_ABSENT };

struct val v_bool(bool b)
{
	return b ? v_true : v_false;
}

struct val v_int(int64_t i)
{
	return (struct val){ .t = T_INT, .i = i };
}

struct val v_float(double f)
{
	return (struct val){ .t = T_FLOAT, .f = f };
}

int64_t utf8_count(const char *s, int64_t len)
{
	int64_t n = 0;

	for (int64_t i = 0; i < len; i++)
		n += ((unsigned char)s[i] & 0xC0) != 0x80;
	return n;
}

struct val v_str_n(struct jin *j, const char *s, int64_t len, int64_t n)
{
	struct str *p = jin_alloc(j, sizeof(*p));

	*p = (struct str){ .s = s, .len = len, .n = n < 0 ? utf8_count(s, len) : n };
	return (struct val){ .t = T_STR, .s = p };
}

struct val v_str(struct jin *j, const char *s, int64_t len)
{
	return v_str_n(j, s, len, -1);
}

struct val v_text(struct jin *j, const char *s)
{
	return v_str_n(j, s, (int64_t)strlen(s), -1);
}

struct val v_copy(struct jin *j, const char *s, int64_t len)
{
	char *p = jin_alloc(j, (size_t)len + 1);

	memcpy(p, s, (size_t)len);
	return v_str(j, p, len);
}

struct val v_safe(struct val v, bool safe)
{
	v.k = v.t == T_STR ? safe : v.k;
	return v;
}

struct val v_undef(struct jin *j, const char *hint)
{
	struct undef *u = jin_alloc(j, sizeof(*u));

	u->hint = hint;
	return (struct val){ .t = T_UNDEF, .u = u };
}

struct val v_undef_of(struct jin *j, struct val obj, struct val name)
{
	struct undef *u = jin_alloc(j, sizeof(*u));

	*u = (struct undef){ .obj = obj, .name = name, .has_obj = obj.t != T_ABSENT };
	return (struct val){ .t = T_UNDEF, .u = u };
}

void undef_fail(struct jin *j, struct val v)
{
	const struct undef *u = v.u;
	const char *type;

	if (!u || u->hint)
		jin_fail(j, "%s", u ? u->hint : "value is undefined");
	if (!u->has_obj)
		jin_fail(j, "%s is undefined", v_repr(j, u->name));
	type = u->obj.t == T_NONE ? "None" : jin_printf(j, "%s%s object",
		u->obj.t >= T_SPACE ? "jinja2." : "", v_type(u->obj));
	if (u->name.t != T_STR)
		jin_fail(j, "%s has no element %s", type, v_repr(j, u->name));
	jin_fail(j, "'%s' has no attribute %s", type, v_repr(j, u->name));
}

struct val v_list(struct jin *j, int type, int64_t room)
{
	struct list *l = jin_alloc(j, sizeof(*l));

	if (room > 0)
		l->v = jin_array(j, room, sizeof(*l->v));
	l->cap = room > 0 ? room : 0;
	return (struct val){ .t = (uint8_t)type, .l = l };
}

void list_add(struct jin *j, struct list *l, struct val v)
{
	if (l->n == l->cap) {
		int64_t cap = l->cap ? l->cap * 2 : 8;
		struct val *more = jin_array(j, cap, sizeof(*more));

		if (l->n)
			memcpy(more, l->v, (size_t)l->n * sizeof(*more));
		l->v = more;
		l->cap = cap;
	}
	l->v[l->n++] = v;
}

struct val v_pair(struct jin *j, struct val a, struct val b)
{
	struct val v = v_list(j, T_TUPLE, 2);

	v.l->v[0] = a;
	v.l->v[1] = b;
	v.l->n = 2;
	return v;
}

const char *v_type(struct val v)
{
	static const char *const names[] = { "Undefined", "NoneType", "bool", "int", "int", "float",
		"str", "list", "tuple", "dict", "dict_keys", "range", "generator", "Namespace",
		"Macro", "function", "method", "LoopContext", "Cycler", "Joiner", "TemplateDict",
		"slice", "nothing" };
	static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };

	if (v.t == T_VIEW)
		return views[v.k % 3];
	if (v.t == T_ITER)
		return v.g->type;
	return v.t == T_STR && v.k ? "Markup" : names[v.t];
}

bool v_has_len(struct val v)
{
	return (v.t >= T_STR && v.t <= T_RANGE) || v.t == T_UNDEF || v.t == T_LOOP;
}

int64_t v_len(struct jin *j, struct val v)
{
	struct val item;

	switch (v.t) {
	case T_UNDEF:
		return 0;
	case T_STR:
		return v.s->n;
	case T_LIST:
	case T_TUPLE:
		return v.l->n;
	case T_DICT:
	case T_VIEW:
		return v.d->n;
	case T_RANGE:
		return v.r->n;
	case T_LOOP:
		if (v.loop->length < 0) { /* reads on to the end, and goes back */
			struct val rest = v_list(j, T_LIST, 0);

			while (iter_next(j, &v.loop->it, &item))
				list_add(j, rest.l, item);
			v.loop->length = v.loop->index + 1 + v.loop->has_next + rest.l->n;
			iter_begin(j, &v.loop->it, rest);
		}
		return v.loop->length;
	default:
		jin_fail(j, "object of type '%s' has no len()", v_type(v));
	}
}

bool v_true_of(struct jin *j, struct val v)
{
	switch (v.t) {
	case T_UNDEF:
	case T_NONE:
		return false;
	case T_BOOL:
		return v.b;
	case T_INT:
		return v.i != 0;
	case T_FLOAT:
		return v.f != 0;
	default:
		return !v_has_len(v) || v_len(j, v) != 0;
	}
}

bool v_is_num(struct val v)
{
	return v.t >= T_BOOL && v.t <= T_FLOAT;
}

bool v_as_int(struct val v, int64_t *out)
{
	if (v.t != T_INT && v.t != T_BOOL)
		return false;
	*out = v.t == T_INT ? v.i : v.b;
	return true;
}

int64_t v_need_int(struct jin *j, struct val v)
{
	int64_t i;

	if (v.t == T_UNDEF)
		undef_fail(j, v);
	if (v.t == T_BIG)
		jin_fail(j, "the number %.40s is larger than 64 bits", v_repr(j, v));
	if (!v_as_int(v, &i))
		jin_fail(j, "'%s' object cannot be interpreted as an integer", v_type(v));
	return i;
}

double v_num(struct jin *j, struct val v)
{
	bool ok = true;
	double f = v.t == T_FLOAT ? v.f : v.t == T_INT ? (double)v.i : v.t == T_BOOL ? v.b :
		v.t == T_BIG ? parse_float_text(v.s->s, v.s->len, &ok) : 0;

	if (!v_is_num(v))
		jin_fail(j, "must be real number, not %s", v_type(v));
	if (isinf(f) && v.t != T_FLOAT)
		jin_fail(j, "int too large to convert to float");
	return f;
}

/* -1, 0, 1; 2 where a NaN is in it. */
static int num_compare(struct jin *j, struct val a, struct val b)
{
	int64_t x, y;

	if (v_as_int(a, &x) && v_as_int(b, &y))
		return x < y ? -1 : x > y;
	if (a.t == T_BIG && b.t == T_BIG) {
		bool na = *a.s->s == '-', nb = *b.s->s == '-';
		int sign = na ? -1 : 1, d;

		if (na != nb)
			return sign;
		if (a.s->len != b.s->len)
			return a.s->len < b.s->len ? -sign : sign;
		d = memcmp(a.s->s, b.s->s, (size_t)a.s->len);
		return d < 0 ? -sign : d > 0 ? sign : 0;
	}
	if ((a.t == T_BIG && b.t != T_FLOAT) || (b.t == T_BIG && a.t != T_FLOAT)) {
		bool big_first = a.t == T_BIG;
		int sign = *(big_first ? a : b).s->s == '-' ? -1 : 1;

		return big_first ? sign : -sign;
	}
	if (isnan(v_num(j, a)) || isnan(v_num(j, b)))
		return 2;
	if (a.t != b.t && a.t != T_BIG && b.t != T_BIG) { /* exact, as Python compares */
		long double c = a.t == T_FLOAT ? a.f : (long double)(a.t == T_INT ? a.i : a.b);
		long double d = b.t == T_FLOAT ? b.f : (long double)(b.t == T_INT ? b.i : b.b);

		return c < d ? -1 : c > d;
	}
	return v_num(j, a) < v_num(j, b) ? -1 : v_num(j, a) > v_num(j, b);
}

static int str_compare(struct jin *j, const struct str *a, const struct str *b)
{
	int64_t n = a->len < b->len ? a->len : b->len;
	int d = n ? memcmp(a->s, b->s, (size_t)n) : 0; /* UTF-8 sorts as its code points */

	j->steps += n / 64;
	return d ? d : a->len < b->len ? -1 : a->len > b->len;
}

static bool dict_eq(struct jin *j, const struct dict *a, const struct dict *b)
{
	struct val v;

	if (a->n != b->n)
		return false;
	for (int64_t i = 0; i < a->n; i++)
		if (!dict_get(j, b, a->e[i].key, &v) || !v_eq(j, a->e[i].v, v))
			return false;
	return true;
}

static bool seq_eq(struct jin *j, struct val a, struct val b)
{
	bool same = a.l->n == b.l->n;

	jin_deeper(j);
	for (int64_t i = 0; same && i < a.l->n; i++)
		same = v_eq(j, a.l->v[i], b.l->v[i]);
	j->depth--;
	return same;
}

/* Of a different type or one that has no value: the same thing? */
bool v_same(struct val a, struct val b)
{
	if (a.t != b.t)
		return false;
	if (a.t == T_BOOL)
		return a.b == b.b;
	if (a.t == T_INT)
		return a.i == b.i;
	if (a.t == T_FLOAT)
		return a.f == b.f;
	if (a.t == T_STR)
		return a.s->len == b.s->len && !memcmp(a.s->s, b.s->s, (size_t)a.s->len);
	return a.t == T_NONE || (a.d == b.d && (a.t != T_VIEW || a.k == b.k));
}

bool v_eq(struct jin *j, struct val a, struct val b)
{
	bool same;

	jin_step(j);
	if (v_is_num(a) && v_is_num(b))
		return num_compare(j, a, b) == 0;
	if (a.t != b.t)
		return false;
	switch (a.t) {
	case T_UNDEF:
		return true;
	case T_STR:
		return a.s->len == b.s->len && str_compare(j, a.s, b.s) == 0;
	case T_LIST:
	case T_TUPLE:
		return a.l == b.l || seq_eq(j, a, b);
	case T_DICT:
		jin_deeper(j);
		same = a.d == b.d || dict_eq(j, a.d, b.d);
		j->depth--;
		return same;
	case T_RANGE:
		return a.r->n == b.r->n && (!a.r->n || (a.r->start == b.r->start &&
			(a.r->n == 1 || a.r->step == b.r->step)));
	default:
		return v_same(a, b);
	}
}

/* a < b, for the operator that asks. */
bool v_less(struct jin *j, struct val a, struct val b, const char *op)
{
	jin_step(j);
	if (v_is_num(a) && v_is_num(b))
		return num_compare(j, a, b) == -1;
	if (a.t == T_UNDEF || b.t == T_UNDEF)
		undef_fail(j, a.t == T_UNDEF ? a : b);
	if (a.t == T_STR && b.t == T_STR)
		return str_compare(j, a.s, b.s) < 0;
	if (a.t == b.t && (a.t == T_LIST || a.t == T_TUPLE)) {
		int64_t n = a.l->n < b.l->n ? a.l->n : b.l->n;
		bool less;

		for (int64_t i = 0; i < n; i++) {
			if (v_eq(j, a.l->v[i], b.l->v[i]))
				continue;
			jin_deeper(j);
			less = v_less(j, a.l->v[i], b.l->v[i], op);
			j->depth--;
			return less;
		}
		return a.l->n < b.l->n;
	}
	if (op[0] == '>')
		jin_fail(j, "'%s' not supported between instances of '%s' and '%s'", op, v_type(b),
			v_type(a));
	jin_fail(j, "'%s' not supported between instances of '%s' and '%s'", op, v_type(a),
		v_type(b));
}

static bool range_has(const struct range *r, int64_t x)
{
	int64_t d;

	if (!r->n || __builtin_sub_overflow(x, r->start, &d) || d == INT64_MIN || d % r->step)
		return false;
	return d / r->step >= 0 && d / r->step < r->n;
}

bool v_in(struct jin *j, struct val item, struct val seq)
{
	struct iter it;
	struct val v;
	int64_t x;

	if (seq.t == T_STR) {
		if (item.t != T_STR)
			jin_fail(j, "'in <string>' requires string as left operand, not %s",
				v_type(item));
		return str_find(j, seq.s->s, seq.s->len, item.s->s, item.s->len, false) >= 0;
	}
	if (seq.t == T_DICT || (seq.t == T_VIEW && seq.k == VIEW_KEYS))
		return dict_get(j, seq.d, item, &v);
	if (seq.t == T_RANGE && v_as_int(item, &x))
		return range_has(seq.r, x);
	if (!v_iterable(seq))
		jin_fail(j, "argument of type '%s' is not iterable", v_type(seq));
	iter_begin(j, &it, seq);
	while (iter_next(j, &it, &v))
		if (v_eq(j, v, item))
			return true;
	return false;
}

bool str_is(struct val v, const char *text)
{
	return v.t == T_STR && v.s->len == (int64_t)strlen(text) &&
		!memcmp(v.s->s, text, (size_t)v.s->len);
}

/* ---- dicts ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
	h = (h ^ x) * 0x9E3779B97F4A7C15u;
	return h ^ (h >> 29);
}

uint64_t v_hash(struct jin *j, struct val v)
{
	uint64_t h = 0x51ED270B;
	double f;
	int64_t i;

	jin_step(j);
	switch (v.t) {
	case T_BOOL:
	case T_INT:
	case T_FLOAT:
		f = v.t == T_FLOAT ? v.f : v.t == T_INT ? (double)v.i : v.b;
		f = f == 0 ? 0 : f; /* 1, 1.0 and true are one key; -0.0 is 0 */
		memcpy(&i, &f, sizeof(i));
		return mix(h, (uint64_t)i);
	case T_STR:
	case T_BIG:
		j->steps += v.s->len / 64;
		for (i = 0; i + 8 <= v.s->len; i += 8) {
			uint64_t x;

			memcpy(&x, v.s->s + i, 8);
			h = mix(h, x);
		}
		for (; i < v.s->len; i++)
			h = mix(h, (unsigned char)v.s->s[i]);
		return mix(h, (uint64_t)v.s->len);
	case T_TUPLE:
		jin_deeper(j);
		for (i = 0; i < v.l->n; i++)
			h = mix(h, v_hash(j, v.l->v[i]));
		j->depth--;
		return h;
	case T_LIST:
	case T_DICT:
	case T_SLICE:
		jin_fail(j, "unhashable type: '%s'", v_type(v));
	case T_NONE:
	case T_UNDEF:
		return mix(h, v.t);
	default:
		return mix(h, (uint64_t)(uintptr_t)v.d);
	}
}

struct val v_dict(struct jin *j)
{
	return (struct val){ .t = T_DICT, .d = jin_alloc(j, sizeof(struct dict)) };
}

/* The place in e of a key, or -1; *slot: where the index has, or would have, it. */
static int64_t dict_find(struct jin *j, const struct dict *d, struct val key, uint64_t hash,
	int64_t *slot)
{
	if (!d->index) {
		for (int64_t i = 0; i < d->n; i++)
			if (d->e[i].hash == hash && v_eq(j, d->e[i].key, key))
				return i;
		return -1;
	}
	for (uint64_t at = hash;; at++) {
		int32_t i;

		at &= (uint64_t)d->index_n - 1;
		*slot = (int64_t)at;
		i = d->index[at];
		if (!i)
			return -1;
		j->steps++;
		if (d->e[i - 1].hash == hash && v_eq(j, d->e[i - 1].key, key))
			return i - 1;
	}
}

static void dict_index(struct jin *j, struct dict *d)
{
	d->index_n = d->cap * 2;
	d->index = jin_array(j, d->index_n, sizeof(*d->index));
	for (int64_t i = 0; i < d->n; i++) {
		uint64_t at = d->e[i].hash & ((uint64_t)d->index_n - 1);

		while (d->index[at])
			at = (at + 1) & ((uint64_t)d->index_n - 1);
		d->index[at] = (int32_t)i + 1;
	}
}

void dict_set(struct jin *j, struct dict *d, struct val key, struct val v)
{
	uint64_t hash = v_hash(j, key);
	int64_t slot = 0, i = dict_find(j, d, key, hash, &slot);

	if (i >= 0) {
		d->e[i].v = v;
		return;
	}
	if (d->n == d->cap) {
		int64_t cap = d->cap ? d->cap * 2 : 8;
		struct entry *e = jin_array(j, cap, sizeof(*e));

		if (d->n)
			memcpy(e, d->e, (size_t)d->n * sizeof(*e));
		d->e = e;
		d->cap = cap;
		if (cap > 8) {
			dict_index(j, d);
			dict_find(j, d, key, hash, &slot);
		}
	}
	if (d->index)
		d->index[slot] = (int32_t)d->n + 1;
	d->e[d->n++] = (struct entry){ key, v, hash };
}

bool dict_get(struct jin *j, const struct dict *d, struct val key, struct val *out)
{
	uint64_t hash = v_hash(j, key);
	int64_t slot, i = dict_find(j, d, key, hash, &slot);

	if (i >= 0)
		*out = d->e[i].v;
	return i >= 0;
}

bool dict_get_text(struct jin *j, const struct dict *d, const char *key, struct val *out)
{
	struct str s = { .s = key, .len = (int64_t)strlen(key) };

	return dict_get(j, d, (struct val){ .t = T_STR, .s = &s }, out);
}
