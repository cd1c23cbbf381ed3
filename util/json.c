/* SPDX-License-Identifier: MIT */
/* util/json.c - keeps what cJSON would lose, and writes JSON. The scanner (json_scan.c)
 * has read the bytes before cJSON does; then the tree cJSON made is walked beside the
 * text for duplicate keys and for numbers a double cannot show. */
#include "json_int.h"
#include "utf8.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH     1000 /* cJSON's own limit (CJSON_NESTING_LIMIT) */
#define DEFAULT_DEPTH 128
#define DEFAULT_BYTES ((size_t)1 << 30)
#define DEFAULT_VALUES ((size_t)32 << 20)

/* ---- the tree beside its text ---- */

/* Moves to the next string or number of a text that passed the scanner, and past it;
 * returns where it began. */
static size_t next_token(struct scan *c)
{
	size_t from;

	while (c->pos < c->len && c->s[c->pos] != '"' && c->s[c->pos] != '-' &&
		(c->s[c->pos] < '0' || c->s[c->pos] > '9'))
		c->pos++;
	from = c->pos;
	if (c->pos < c->len)
		(void)(c->s[c->pos] == '"' ? json_scan_string(c) : json_scan_number(c));
	return from;
}

/* A whole number of up to 15 digits is what its double says: no text to keep. */
static bool is_plain_int(const char *s, size_t n)
{
	size_t sign = n && s[0] == '-';

	if (n - sign > 15 || (sign && s[1] == '0'))
		return false;
	for (size_t i = sign; i < n; i++)
		if (s[i] < '0' || s[i] > '9')
			return false;
	return true;
}

static int keep_number(struct scan *c, cJSON *v, size_t from)
{
	const char *s = (const char *)c->s + from;
	size_t n = c->pos - from;

	if (!isfinite(v->valuedouble))
		return json_refuse(c, from, "the number %.*s is too large", (int)n, s);
	if (is_plain_int(s, n))
		return 0;
	v->valuestring = cJSON_malloc(n + 1); /* cJSON_Delete frees it with the node */
	if (!v->valuestring)
		return json_refuse(c, from, "out of memory");
	memcpy(v->valuestring, s, n);
	v->valuestring[n] = '\0';
	return 0;
}

/* Walks v and what it holds in the order of the text. Stops before `until` (may be
 * NULL) with 1 and c->pos at its key. Depth was bounded by the scanner. */
static int walk(struct scan *c, cJSON *v, const cJSON *until, bool keep)
{
	int rc;

	if (v->string) {
		size_t from = next_token(c);

		if (v == until) {
			c->pos = from;
			return 1;
		}
	}
	if (cJSON_IsString(v)) {
		next_token(c);
	} else if (cJSON_IsNumber(v)) {
		size_t from = next_token(c);

		if (keep && keep_number(c, v, from))
			return -1;
	}
	for (cJSON *child = v->child; child; child = child->next) {
		rc = walk(c, child, until, keep);
		if (rc)
			return rc;
	}
	return 0;
}

struct member { uint64_t hash; const cJSON *v; };

/* FNV-1a: the hash comes first, so that sorting seldom looks at the keys themselves. */
static uint64_t hash_key(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	while (*s)
		h = (h ^ (unsigned char)*s++) * 0x100000001b3u;
	return h;
}

static int by_key(const void *a, const void *b)
{
	const struct member *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return strcmp(x->v->string, y->v->string);
}

/* Some member of obj whose key another one has too, or NULL. *oom: could not look. */
static const cJSON *duplicate(const cJSON *obj, bool *oom)
{
	struct member few[16], *all = few;
	const cJSON *found = NULL;
	size_t n = 0, i = 0;

	for (const cJSON *m = obj->child; m; m = m->next)
		n++;
	if (n > 16)
		all = malloc(n * sizeof(*all));
	if (!all) {
		*oom = true;
		return NULL;
	}
	for (const cJSON *m = obj->child; m; m = m->next)
		all[i++] = (struct member){ hash_key(m->string), m };
	if (n > 1)
		qsort(all, n, sizeof(*all), by_key);
	for (i = 1; i < n && !found; i++)
		if (!by_key(&all[i - 1], &all[i]))
			found = all[i].v;
	if (all != few)
		free(all);
	return found;
}

static const cJSON *find_duplicate(const cJSON *v, bool *oom)
{
	const cJSON *found = cJSON_IsObject(v) ? duplicate(v, oom) : NULL;

	for (const cJSON *child = v->child; child && !found && !*oom; child = child->next)
		if (child->child)
			found = find_duplicate(child, oom);
	return found;
}

static int check_tree(struct scan *c, cJSON *root)
{
	bool oom = false;
	const cJSON *twin = find_duplicate(root, &oom);

	c->pos = 0;
	if (oom)
		return json_refuse(c, 0, "out of memory");
	if (twin) {
		walk(c, root, twin, false);
		return json_refuse(
			c, c->pos, "the key \"%.80s\" occurs twice in one object", twin->string);
	}
	return walk(c, root, NULL, true) ? -1 : 0;
}

int json_parse(const char *text, size_t len, const struct json_limits *limits, cJSON **out,
	struct json_error *err)
{
	struct json_error unused;
	struct scan c = {
		.s = (const unsigned char *)text, .len = len, .err = err ? err : &unused
	};
	size_t max_bytes = limits && limits->max_bytes ? limits->max_bytes : DEFAULT_BYTES;

	*out = NULL;
	memset(c.err, 0, sizeof(*c.err));
	c.max_values = limits && limits->max_values ? limits->max_values : DEFAULT_VALUES;
	c.max_depth = limits && limits->max_depth > 0 ? limits->max_depth : DEFAULT_DEPTH;
	if (c.max_depth > MAX_DEPTH)
		c.max_depth = MAX_DEPTH;
	if (len > max_bytes)
		return json_refuse(&c, 0, "the text has %zu bytes, more than the limit of %zu", len,
			max_bytes);
	if (json_scan_value(&c))
		return -1;
	json_skip_space(&c);
	if (c.pos < len)
		return json_refuse(&c, c.pos, "something follows after the end of the value");
	*out = cJSON_ParseWithLength(text, len);
	if (!*out)
		return json_refuse(&c, 0, "out of memory");
	if (check_tree(&c, *out)) {
		cJSON_Delete(*out);
		*out = NULL;
		return -1;
	}
	return 0;
}

/* ---- reading values ---- */

cJSON *json_get(const cJSON *obj, const char *key)
{
	if (!cJSON_IsObject(obj))
		return NULL;
	for (cJSON *m = obj->child; m; m = m->next)
		if (m->string && !strcmp(m->string, key))
			return m;
	return NULL;
}

const char *json_number_text(const cJSON *v, char buf[JSON_NUMBER_LEN])
{
	if (!cJSON_IsNumber(v))
		return NULL;
	if (v->valuestring)
		return v->valuestring;
	snprintf(buf, JSON_NUMBER_LEN, "%.0f", v->valuedouble);
	return buf;
}

static bool is_int_text(const char *s)
{
	return s && s[strspn(s, "-0123456789")] == '\0';
}

int json_int64(const cJSON *v, int64_t *out)
{
	char buf[JSON_NUMBER_LEN];
	const char *s = json_number_text(v, buf);
	long long n;

	if (!is_int_text(s))
		return -1;
	errno = 0;
	n = strtoll(s, NULL, 10);
	if (errno)
		return -1;
	*out = n;
	return 0;
}

int json_uint64(const cJSON *v, uint64_t *out)
{
	char buf[JSON_NUMBER_LEN];
	const char *s = json_number_text(v, buf);
	unsigned long long n;

	if (!is_int_text(s) || (s[0] == '-' && strcmp(s, "-0")))
		return -1;
	errno = 0;
	n = strtoull(s, NULL, 10);
	if (errno)
		return -1;
	*out = n;
	return 0;
}

int json_double(const cJSON *v, double *out)
{
	if (!cJSON_IsNumber(v))
		return -1;
	*out = v->valuedouble;
	return 0;
}

/* ---- writing ---- */

void json_buf_free(struct json_buf *b)
{
	free(b->s);
	memset(b, 0, sizeof(*b));
}

/* Room for n more bytes and the NUL. */
static bool grow(struct json_buf *b, size_t n)
{
	size_t want, cap = b->cap ? b->cap : 256;
	char *s;

	if (b->failed)
		return false;
	if (__builtin_add_overflow(b->len, n, &want) || want > SIZE_MAX / 4) {
		b->failed = true;
		return false;
	}
	if (b->s && want < b->cap)
		return true;
	while (cap <= want)
		cap *= 2;
	s = realloc(b->s, cap);
	if (!s) {
		b->failed = true;
		return false;
	}
	b->s = s;
	b->cap = cap;
	return true;
}

void json_put_raw(struct json_buf *b, const char *bytes, size_t len)
{
	if (!grow(b, len))
		return;
	if (len)
		memcpy(b->s + b->len, bytes, len);
	b->len += len;
	b->s[b->len] = '\0';
}

void json_put(struct json_buf *b, const char *text)
{
	json_put_raw(b, text, strlen(text));
}

/* A character that must not stand in a string as it is. */
static void put_escape(struct json_buf *b, unsigned char ch)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	const char *at = ch ? strchr(from, ch) : NULL;
	char text[8];

	if (at)
		snprintf(text, sizeof(text), "\\%c", to[at - from]);
	else
		snprintf(text, sizeof(text), "\\u%04x", ch);
	json_put(b, text);
}

/* Well-formed text, escaped. */
static void put_text(void *arg, const char *s, size_t len)
{
	struct json_buf *b = arg;
	size_t from = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)s[i];

		if (ch >= 0x20 && ch != '"' && ch != '\\')
			continue;
		json_put_raw(b, s + from, i - from);
		put_escape(b, ch);
		from = i + 1;
	}
	json_put_raw(b, s + from, len - from);
}

void json_put_string(struct json_buf *b, const char *bytes, size_t len)
{
	struct utf8_stream st = { .n = 0 };

	json_put_raw(b, "\"", 1);
	utf8_push(&st, bytes, len, put_text, b);
	utf8_flush(&st, put_text, b);
	json_put_raw(b, "\"", 1);
}

void json_put_int(struct json_buf *b, int64_t v)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", (long long)v);
	json_put(b, text);
}

void json_put_double(struct json_buf *b, double v)
{
	char text[40];

	if (!isfinite(v)) {
		json_put(b, "null");
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, v);
		if (strtod(text, NULL) == v)
			break;
	}
	json_put(b, text);
}

void json_put_float(struct json_buf *b, float v)
{
	char text[40];

	if (!isfinite(v)) {
		json_put(b, "null");
		return;
	}
	for (int digits = 6; digits <= 9; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, (double)v);
		if (strtof(text, NULL) == v)
			break;
	}
	json_put(b, text);
}
