/* SPDX-License-Identifier: MIT */
/* jinja_globals.c - what a template finds without being given it: range, dict, namespace,
 * cycler, joiner, and transformers' raise_exception and strftime_now. */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "jinja.h"
#include "utf8.h"

#define GLOBAL(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

GLOBAL(g_raise)
{
	struct sbuf b = { 0 };
	int n;

	put_str(j, &b, arg[0]);
	n = b.len < 500 ? (int)b.len : 500;
	while (n > 0 && n < b.len && ((unsigned char)b.s[n] & 0xC0) == 0x80)
		n--;
	jin_fail(j, "%.*s", n, b.s ? b.s : "");
}

GLOBAL(g_range)
{
	struct range *r = jin_alloc(j, sizeof(*r));
	__int128 d;

	if (a->n_named)
		jin_fail(j, "range() takes no keyword arguments");
	if (a->n < 1 || a->n > 3)
		jin_fail(j, "range expected at %s, got %d", a->n ? "most 3 arguments" : "least 1 argument",
			a->n);
	r->start = a->n > 1 ? v_need_int(j, a->v[0]) : 0;
	r->stop = v_need_int(j, a->v[a->n > 1]);
	r->step = a->n > 2 ? v_need_int(j, a->v[2]) : 1;
	if (!r->step)
		jin_fail(j, "range() arg 3 must not be zero");
	d = r->step > 0 ? (__int128)r->stop - r->start : (__int128)r->start - r->stop;
	d = d > 0 ? (d - 1) / (r->step > 0 ? r->step : -(__int128)r->step) + 1 : 0;
	if (d > JIN_MAX_RANGE)
		jin_fail(j, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
			JIN_MAX_RANGE);
	r->n = (int64_t)d;
	return (struct val){ .t = T_RANGE, .r = r };
}

/* dict(pairs or a dict, a=1) */
static struct val make_dict(struct jin *j, const struct args *a)
{
	struct val out = v_dict(j), item;
	struct iter it;

	if (a->n > 1)
		jin_fail(j, "dict expected at most 1 argument, got %d", a->n);
	if (a->n && a->v[0].t == T_DICT) {
		for (int64_t i = 0; i < a->v[0].d->n; i++)
			dict_set(j, out.d, a->v[0].d->e[i].key, a->v[0].d->e[i].v);
	} else if (a->n) {
		iter_begin(j, &it, a->v[0]);
		while (iter_next(j, &it, &item)) {
			item = v_to_list(j, item);
			if (item.l->n != 2)
				jin_fail(j, "dictionary update sequence element has length %lld; 2 is "
					"required", (long long)item.l->n);
			dict_set(j, out.d, item.l->v[0], item.l->v[1]);
		}
	}
	for (int i = 0; i < a->n_named; i++)
		dict_set(j, out.d, (struct val){ .t = T_STR, .s = a->names[i] }, a->named[i]);
	return out;
}

GLOBAL(g_dict)
{
	return make_dict(j, a);
}

GLOBAL(g_namespace)
{
	struct val out = make_dict(j, a);

	for (int64_t i = 0; i < out.d->n; i++) {
		struct val key = out.d->e[i].key;

		if (key.t == T_STR && key.s->len && *key.s->s == '_')
			jin_fail(j, "Chat templates cannot store underscore-prefixed attributes on a "
				"namespace, but got %s.", v_repr(j, key));
	}
	out.t = T_SPACE;
	return out;
}

GLOBAL(g_cycler)
{
	struct cycler *c = jin_alloc(j, sizeof(*c));
	struct val items = v_list(j, T_LIST, a->n);

	if (!a->n)
		jin_fail(j, "at least one item has to be provided");
	for (int i = 0; i < a->n; i++)
		list_add(j, items.l, a->v[i]);
	c->items = items.l;
	return (struct val){ .t = T_CYCLER, .cy = c };
}

static struct val cycler_next(struct jin *j, struct val v, const struct val *arg, const struct args *a)
{
	struct val out = v.cy->items->v[v.cy->at];

	v.cy->at = (v.cy->at + 1) % v.cy->items->n;
	return out;
}

static struct val cycler_reset(struct jin *j, struct val v, const struct val *arg, const struct args *a)
{
	v.cy->at = 0;
	return v_none;
}

const struct builtin jin_cycler_methods[] = {
	{ "next", "", 0, cycler_next }, { "reset", "", 0, cycler_reset }, { NULL },
};

GLOBAL(g_joiner)
{
	struct cycler *c = jin_alloc(j, sizeof(*c));
	struct val items = v_list(j, T_LIST, 1);

	list_add(j, items.l, arg[0].t == T_ABSENT ? v_text(j, ", ") : arg[0]);
	c->items = items.l;
	return (struct val){ .t = T_JOINER, .cy = c };
}

GLOBAL(g_refused)
{
	jin_fail(j, "lipsum() is not supported in chat templates");
}

/* "2025-03-09T14:05:07", or the clock of this machine. */
static void get_now(struct jin *j, struct tm *tm)
{
	time_t t;

	memset(tm, 0, sizeof(*tm));
	if (!j->now) {
		t = time(NULL);
		localtime_r(&t, tm);
		return;
	}
	if (sscanf(j->now, "%4d-%2d-%2dT%2d:%2d:%2d", &tm->tm_year, &tm->tm_mon, &tm->tm_mday,
		    &tm->tm_hour, &tm->tm_min, &tm->tm_sec) != 6 ||
		tm->tm_mon < 1 || tm->tm_mon > 12 || tm->tm_mday < 1 || tm->tm_mday > 31 ||
		tm->tm_year < 1 || tm->tm_hour < 0 || tm->tm_hour > 23 || tm->tm_min < 0 ||
		tm->tm_min > 59 || tm->tm_sec < 0 || tm->tm_sec > 59)
		jin_fail(j, "the time '%.40s' is not of the form 2025-03-09T14:05:07", j->now);
	tm->tm_year -= 1900;
	tm->tm_mon--;
	tm->tm_isdst = 0;
	timegm(tm); /* fills in the day of the week and of the year */
}

struct clock {
	char text[4096];        /* more than that is cut off */
	size_t n;
	struct tm tm;
	locale_t locale;
};

static void put_clock(struct clock *c, const char *s, size_t len)
{
	if (len > sizeof(c->text) - c->n)
		len = 0;
	memcpy(c->text + c->n, s, len);
	c->n += len;
}

/* One conversion of strftime in the C locale; a clock without a zone has no %z and no %Z. */
static void put_time(struct clock *c, const char *conv)
{
	char last = conv[strlen(conv) - 1], text[128];

	if (last == 'f')
		put_clock(c, "000000", 6);
	else if (last != 'z' && last != 'Z')
		put_clock(c, text, strftime_l(text, sizeof(text), conv, &c->tm, c->locale));
}

GLOBAL(g_strftime)
{
	struct clock c = { .n = 0 };
	const struct str *s = arg[0].s;

	if (arg[0].t != T_STR)
		jin_fail(j, "strftime() argument 1 must be str, not %s", v_type(arg[0]));
	get_now(j, &c.tm);
	jin_charge(j, 1024 * s->len);
	c.locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	for (int64_t i = 0; c.locale && i < s->len;) {
		char conv[4] = "%";
		int n = 1;

		if (s->s[i] != '%' || i + 1 >= s->len) {
			put_clock(&c, s->s + i++, 1);
			continue;
		}
		i++;
		if (i + 1 < s->len && s->s[i] && strchr("-_0^#EO", s->s[i]))
			conv[n++] = s->s[i++];
		conv[n] = s->s[i++];
		if (conv[n])
			put_time(&c, conv);
	}
	if (c.locale)
		freelocale(c.locale);
	return v_copy(j, c.text, (int64_t)utf8_complete(c.text, c.n));
}

const struct builtin jin_globals[] = {
	{ "raise_exception", "message", 1, g_raise }, { "strftime_now", "format", 1, g_strftime },
	{ "range", NULL, 0, g_range }, { "namespace", NULL, 0, g_namespace },
	{ "dict", NULL, 0, NULL }, { "dict()", NULL, 0, g_dict }, { "cycler", NULL, 0, g_cycler },
	{ "joiner", "sep", 0, g_joiner }, { "lipsum", NULL, 0, g_refused },
	{ NULL },
};
