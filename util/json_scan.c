/* SPDX-License-Identifier: MIT */
/* util/json_scan.c - decides which bytes are JSON: RFC 8259 to the letter, UTF-8
 * without overlong forms, no half surrogates, no \u0000, bounded depth and count. */
#include "json_int.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int json_refuse(struct scan *c, size_t offset, const char *fmt, ...)
{
	va_list ap;

	c->err->offset = offset;
	c->err->line = 1;
	for (size_t i = 0; i < offset && i < c->len; i++)
		c->err->line += c->s[i] == '\n';
	va_start(ap, fmt);
	vsnprintf(c->err->why, sizeof(c->err->why), fmt, ap);
	va_end(ap);
	return -1;
}

/* What stands at pos, for a message: "'x'", "byte 0x07", "the end of the text". */
static const char *shown(const struct scan *c, size_t pos, char buf[24])
{
	if (pos >= c->len)
		return "the end of the text";
	if (c->s[pos] > ' ' && c->s[pos] < 0x7f)
		snprintf(buf, 24, "'%c'", c->s[pos]);
	else
		snprintf(buf, 24, "byte 0x%02x", c->s[pos]);
	return buf;
}

void json_skip_space(struct scan *c)
{
	while (c->pos < c->len && (c->s[c->pos] == ' ' || c->s[c->pos] == '\t' ||
			c->s[c->pos] == '\n' || c->s[c->pos] == '\r'))
		c->pos++;
}

static int hex4(const struct scan *c, size_t pos)
{
	int v = 0;

	if (pos > c->len || c->len - pos < 4)
		return -1;
	for (size_t i = pos; i < pos + 4; i++) {
		int d = c->s[i];

		if (d >= '0' && d <= '9')
			d -= '0';
		else if ((d | 32) >= 'a' && (d | 32) <= 'f')
			d = (d | 32) - 'a' + 10;
		else
			return -1;
		v = v * 16 + d;
	}
	return v;
}

/* pos is at the backslash of a \u escape. */
static int scan_unicode(struct scan *c)
{
	size_t at = c->pos;
	int u = hex4(c, at + 2);

	if (u < 0)
		return json_refuse(c, at, "\\u needs four hexadecimal digits");
	if (u == 0 && !c->take_nul)
		return json_refuse(c, at, "\\u0000 is not allowed");
	c->pos += 6;
	if (u < 0xd800 || u > 0xdfff)
		return 0;
	if (u < 0xdc00 && c->len - c->pos >= 6 && c->s[c->pos] == '\\' && c->s[c->pos + 1] == 'u') {
		int low = hex4(c, c->pos + 2);

		if (low >= 0xdc00 && low <= 0xdfff) {
			c->pos += 6;
			return 0;
		}
	}
	return json_refuse(c, at, "\\u%04x is half of a surrogate pair, the other half is missing",
		(unsigned)u);
}

static int scan_escape(struct scan *c)
{
	char buf[24];

	if (c->pos + 1 >= c->len)
		return json_refuse(c, c->pos, "the string has no closing quote");
	if (c->s[c->pos + 1] == 'u')
		return scan_unicode(c);
	if (!memchr("\"\\/bfnrt", c->s[c->pos + 1], 8))
		return json_refuse(
			c, c->pos, "there is no escape of \\ with %s", shown(c, c->pos + 1, buf));
	c->pos += 2;
	return 0;
}

int json_scan_string(struct scan *c)
{
	size_t open = c->pos++, n;

	while (c->pos < c->len) {
		unsigned char b = c->s[c->pos];

		if (b == '"') {
			c->pos++;
			return 0;
		}
		if (b == '\\') {
			if (scan_escape(c))
				return -1;
			continue;
		}
		if (b < 0x20)
			return json_refuse(c, c->pos,
				"a control character (0x%02x) must be escaped in a string", b);
		if (b < 0x80) {
			c->pos++;
			continue;
		}
		n = utf8_decode((const char *)c->s + c->pos, c->len - c->pos, NULL);
		if (!n)
			return json_refuse(c, c->pos, "invalid UTF-8 (byte 0x%02x)", b);
		c->pos += n;
	}
	return json_refuse(c, open, "the string has no closing quote");
}

static bool is_digit(const struct scan *c)
{
	return c->pos < c->len && c->s[c->pos] >= '0' && c->s[c->pos] <= '9';
}

/* One digit or more. */
static int scan_digits(struct scan *c, const char *where)
{
	char buf[24];

	if (!is_digit(c))
		return json_refuse(
			c, c->pos, "a digit must follow %s, not %s", where, shown(c, c->pos, buf));
	while (is_digit(c))
		c->pos++;
	return 0;
}

int json_scan_number(struct scan *c)
{
	size_t from = c->pos;

	if (c->s[c->pos] == '-')
		c->pos++;
	if (c->pos < c->len && c->s[c->pos] == '0') {
		c->pos++;
		if (is_digit(c))
			return json_refuse(
				c, from, "a number must not begin with 0 and another digit");
	} else if (scan_digits(c, "the minus")) {
		return -1;
	}
	if (c->pos < c->len && c->s[c->pos] == '.') {
		c->pos++;
		if (scan_digits(c, "the point"))
			return -1;
	}
	if (c->pos < c->len && (c->s[c->pos] | 32) == 'e') {
		c->pos++;
		if (c->pos < c->len && (c->s[c->pos] == '+' || c->s[c->pos] == '-'))
			c->pos++;
		if (scan_digits(c, "the e"))
			return -1;
	}
	/* cJSON copies a number into 64 bytes and would read the rest as garbage. */
	if (c->pos - from >= JSON_NUMBER_LEN)
		return json_refuse(
			c, from, "the number has more than %d characters", JSON_NUMBER_LEN - 1);
	return 0;
}

static int scan_word(struct scan *c)
{
	static const char *const words[] = { "true", "false", "null" };
	char buf[24];

	for (int i = 0; i < 3; i++) {
		size_t n = strlen(words[i]);

		if (c->len - c->pos >= n && !memcmp(c->s + c->pos, words[i], n)) {
			c->pos += n;
			return 0;
		}
	}
	return json_refuse(c, c->pos, "a value must stand here, not %s", shown(c, c->pos, buf));
}


static int scan_member(struct scan *c)
{
	char buf[24];

	if (c->pos >= c->len || c->s[c->pos] != '"')
		return json_refuse(c, c->pos, "a key in quotes must stand here, not %s",
			shown(c, c->pos, buf));
	if (json_scan_string(c))
		return -1;
	json_skip_space(c);
	if (c->pos >= c->len || c->s[c->pos] != ':')
		return json_refuse(
			c, c->pos, "':' must follow the key, not %s", shown(c, c->pos, buf));
	c->pos++;
	return json_scan_value(c);
}

/* An array or an object; pos is at its opening bracket. */
static int scan_list(struct scan *c, unsigned char close)
{
	size_t open = c->pos++;
	char buf[24];

	if (++c->depth > c->max_depth)
		return json_refuse(c, open, "nested deeper than %d levels", c->max_depth);
	json_skip_space(c);
	if (c->pos < c->len && c->s[c->pos] == close)
		goto done;
	for (;;) {
		json_skip_space(c);
		if (close == '}' ? scan_member(c) : json_scan_value(c))
			return -1;
		json_skip_space(c);
		if (c->pos < c->len && c->s[c->pos] == close)
			goto done;
		if (c->pos >= c->len || c->s[c->pos] != ',')
			return json_refuse(c, c->pos, "',' or '%c' must follow, not %s", close,
				shown(c, c->pos, buf));
		c->pos++;
	}
done:
	c->pos++;
	c->depth--;
	return 0;
}

int json_scan_value(struct scan *c)
{
	json_skip_space(c);
	if (c->pos >= c->len)
		return json_refuse(c, c->pos, "the text ends where a value must stand");
	if (++c->n_values > c->max_values)
		return json_refuse(c, c->pos, "more than %zu values", c->max_values);
	switch (c->s[c->pos]) {
	case '{': return scan_list(c, '}');
	case '[': return scan_list(c, ']');
	case '"': return json_scan_string(c);
	case '-': case '0': case '1': case '2': case '3': case '4':
	case '5': case '6': case '7': case '8': case '9':
		return json_scan_number(c);
	default:
		return scan_word(c);
	}
}

/* ---- a string by itself ---- */

/* The text of the escape at pos, of a string that passed the scanner. */
static void put_escape(struct scan *c, struct json_buf *out)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	char one = (char)c->s[c->pos + 1], text[4];
	const char *at = strchr(from, one);
	int u, low;

	if (one != 'u') {
		json_put_raw(out, at ? &to[at - from] : &one, 1);
		c->pos += 2;
		return;
	}
	u = hex4(c, c->pos + 2);
	c->pos += 6;
	if (u >= 0xd800 && u < 0xdc00) {
		low = hex4(c, c->pos + 2);
		c->pos += 6;
		u = 0x10000 + (u - 0xd800) * 0x400 + (low - 0xdc00);
	}
	json_put_raw(out, text, utf8_encode((uint32_t)u, text));
}

int json_string(const char *text, size_t len, struct json_buf *out, struct json_error *err)
{
	struct json_error unused;
	struct scan c = { .s = (const unsigned char *)text, .len = len, .err = err ? err : &unused, .take_nul = true };
	size_t from, end;

	memset(c.err, 0, sizeof(*c.err));
	json_skip_space(&c);
	from = c.pos;
	if (c.pos >= len || c.s[c.pos] != '"')
		return json_refuse(&c, c.pos, "not a JSON string");
	if (json_scan_string(&c))
		return -1;
	end = c.pos - 1;
	json_skip_space(&c);
	if (c.pos < len)
		return json_refuse(&c, c.pos, "nothing may follow the string");
	for (c.pos = from + 1; c.pos < end;) {
		const char *esc = memchr(c.s + c.pos, '\\', end - c.pos);
		size_t n = (esc ? (size_t)(esc - (const char *)c.s) : end) - c.pos;

		json_put_raw(out, (const char *)c.s + c.pos, n);
		c.pos += n;
		if (c.pos < end)
			put_escape(&c, out);
	}
	return out->failed ? json_refuse(&c, 0, "out of memory") : 0;
}
