/* SPDX-License-Identifier: MIT */
/* jinja_json.c - JSON out and in. Out it is Python's json.dumps to the letter; in, whole numbers
 * too large for 64 bits are kept as they stand, and keys in their order. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "jinja.h"
#include "json.h"

struct writer {
	struct jin *j;
	struct sbuf b;
	struct val indent;          /* a string, or T_NONE */
	struct val item, key;       /* separators */
	bool ascii, sort;
};

static void put_json_str(struct writer *w, const struct str *s)
{
	static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
	int64_t done = 0;

	sbuf_put(w->j, &w->b, "\"", 1);
	jin_charge(w->j, s->len * 8);
	for (int64_t i = 0; i < s->len;) {
		int64_t at = i;
		uint32_t c = cp_next(s->s, s->len, &i);
		const char *p = c && c < 128 ? strchr(from, (int)c) : NULL;
		char esc[16] = "";

		if (p)
			snprintf(esc, sizeof(esc), "\\%c", to[p - from]);
		else if (c < 32 || (w->ascii && c > 126 && c < 0x10000))
			snprintf(esc, sizeof(esc), "\\u%04x", c);
		else if (w->ascii && c >= 0x10000)
			snprintf(esc, sizeof(esc), "\\u%04x\\u%04x", 0xD7C0 + (c >> 10),
				0xDC00 | (c & 0x3FF));
		if (!*esc)
			continue;
		sbuf_put(w->j, &w->b, s->s + done, at - done);
		sbuf_puts(w->j, &w->b, esc);
		done = i;
	}
	sbuf_put(w->j, &w->b, s->s + done, s->len - done);
	sbuf_put(w->j, &w->b, "\"", 1);
}

static void put_json_float(struct writer *w, double f)
{
	if (isnan(f) || isinf(f))
		sbuf_puts(w->j, &w->b, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
	else
		put_float(w->j, &w->b, f);
}

static void newline(struct writer *w, int level)
{
	if (w->indent.t == T_NONE)
		return;
	sbuf_put(w->j, &w->b, "\n", 1);
	sbuf_fill(w->j, &w->b, w->indent.s->s, w->indent.s->len, level);
}

static void put_json(struct writer *w, struct val v, int level);

/* What separates item i from the one before it. */
static void next_item(struct writer *w, int64_t i, int level)
{
	if (i)
		sbuf_put(w->j, &w->b, w->item.s->s, w->item.s->len);
	newline(w, level);
}

static void put_json_key(struct writer *w, struct val key)
{
	if (key.t == T_STR) {
		put_json_str(w, key.s);
		return;
	}
	if (key.t != T_NONE && !v_is_num(key))
		jin_fail(w->j, "keys must be str, int, float, bool or None, not %s", v_type(key));
	sbuf_put(w->j, &w->b, "\"", 1);
	put_json(w, key, 0);
	sbuf_put(w->j, &w->b, "\"", 1);
}

static void put_json_dict(struct writer *w, const struct dict *d, int level)
{
	struct val keys = v_list(w->j, T_LIST, d->n), v;

	if (!d->n) {
		sbuf_puts(w->j, &w->b, "{}");
		return;
	}
	for (int64_t i = 0; i < d->n; i++)
		list_add(w->j, keys.l, d->e[i].key);
	if (w->sort) {
		struct args none = { .n = 0 };

		keys = find_filter("sort", 4)->fn(w->j, keys,
			(struct val[]){ v_false, v_true, v_absent }, &none);
	}
	sbuf_put(w->j, &w->b, "{", 1);
	for (int64_t i = 0; i < d->n; i++) {
		next_item(w, i, level + 1);
		put_json_key(w, keys.l->v[i]);
		sbuf_put(w->j, &w->b, w->key.s->s, w->key.s->len);
		dict_get(w->j, d, keys.l->v[i], &v);
		put_json(w, v, level + 1);
	}
	newline(w, level);
	sbuf_put(w->j, &w->b, "}", 1);
}

static void put_json_list(struct writer *w, const struct list *l, int level)
{
	if (!l->n) {
		sbuf_puts(w->j, &w->b, "[]");
		return;
	}
	sbuf_put(w->j, &w->b, "[", 1);
	for (int64_t i = 0; i < l->n; i++) {
		next_item(w, i, level + 1);
		put_json(w, l->v[i], level + 1);
	}
	newline(w, level);
	sbuf_put(w->j, &w->b, "]", 1);
}

static void put_json(struct writer *w, struct val v, int level)
{
	jin_step(w->j);
	jin_deeper(w->j);
	switch (v.t) {
	case T_NONE:
		sbuf_puts(w->j, &w->b, "null");
		break;
	case T_BOOL:
		sbuf_puts(w->j, &w->b, v.b ? "true" : "false");
		break;
	case T_INT:
	case T_BIG:
		put_repr(w->j, &w->b, v);
		break;
	case T_FLOAT:
		put_json_float(w, v.f);
		break;
	case T_STR:
		put_json_str(w, v.s);
		break;
	case T_LIST:
	case T_TUPLE:
		put_json_list(w, v.l, level);
		break;
	case T_DICT:
		put_json_dict(w, v.d, level);
		break;
	default:
		jin_fail(w->j, "Object of type %s is not JSON serializable", v_type(v));
	}
	w->j->depth--;
}

struct val json_write(struct jin *j, struct val v, bool ascii, struct val indent, struct val seps,
	bool sort)
{
	struct writer w = { .j = j, .indent = indent, .ascii = ascii, .sort = sort };
	int64_t n;

	if (v_as_int(indent, &n))
		w.indent = str_repeat(j, v_text(j, " "), n);
	else if (indent.t == T_ABSENT)
		w.indent = v_none;
	else if (indent.t != T_NONE && indent.t != T_STR)
		jin_fail(j, "tojson: indent is a number or a string, not %s", v_type(indent));
	w.item = v_text(j, w.indent.t == T_NONE ? ", " : ",");
	w.key = v_text(j, ": ");
	if (seps.t != T_ABSENT && seps.t != T_NONE) {
		seps = v_to_list(j, seps);
		if (seps.l->n != 2 || seps.l->v[0].t != T_STR || seps.l->v[1].t != T_STR)
			jin_fail(j, "tojson: separators are two strings");
		w.item = seps.l->v[0];
		w.key = seps.l->v[1];
	}
	put_json(&w, v, 0);
	return sbuf_str(j, &w.b);
}

static struct val number(struct jin *j, const cJSON *item)
{
	char buf[JSON_NUMBER_LEN];
	const char *text = json_number_text(item, buf);
	bool ok;

	if (!text)
		return v_none;
	if (strpbrk(text, ".eE"))
		return v_float(item->valuedouble);
	return parse_int_text(j, text, (int64_t)strlen(text), 10, &ok);
}

struct val json_value(struct jin *j, const struct cJSON *item)
{
	struct val out;
	const cJSON *child;

	jin_deeper(j);
	if (cJSON_IsBool(item)) {
		out = v_bool(cJSON_IsTrue(item));
	} else if (cJSON_IsNumber(item)) {
		out = number(j, item);
	} else if (cJSON_IsString(item)) {
		out = v_copy(j, item->valuestring, (int64_t)strlen(item->valuestring));
	} else if (cJSON_IsArray(item)) {
		out = v_list(j, T_LIST, 0);
		cJSON_ArrayForEach(child, item)
			list_add(j, out.l, json_value(j, child));
	} else if (cJSON_IsObject(item)) {
		out = v_dict(j);
		cJSON_ArrayForEach(child, item)
			dict_set(j, out.d, v_copy(j, child->string, (int64_t)strlen(child->string)),
				json_value(j, child));
	} else {
		out = v_none;
	}
	j->depth--;
	return out;
}
