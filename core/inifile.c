/* SPDX-License-Identifier: MIT */
/* inifile.c - decides what is a line of an INI file. inih splits keys from values and
 * cuts comments; this file stands before it, as inih alone cuts long lines and long
 * section names without a word, joins indented lines to the value above, ignores what
 * follows a section's bracket, and knows no line numbers. */
#include <ini.h>
#include <string.h>

#include "core.h"
#include "inifile.h"
#include "utf8.h"

#define LINE_ROOM   8192 /* inih's buffer, where it can be told; its own default is 200 */
#define MAX_SECTION 49   /* inih keeps 50 bytes with the NUL */
#define MAX_KEY     49
#define NAME_CHARS  "abcdefghijklmnopqrstuvwxyz0123456789_"

/* Debian's build of inih has its line buffer's size in a variable, others a constant:
 * then the address is NULL and the smaller limit holds. */
extern int ini_max_line __attribute__((weak));

struct reader {
	const char *name;
	const char *at, *end;     /* what is left of the text */
	int line;                 /* number of the line inih has now */
	int status;               /* the first refusal; nothing is read after it */
	char section[MAX_SECTION + 1];
	char key[MAX_KEY + 1];    /* of the line inih has now */
	const struct inifile_events *events;
	void *arg;
};

bool inifile_is_section(const char *s, size_t len)
{
	return len > 0 && len <= MAX_SECTION && strspn(s, NAME_CHARS) >= len;
}

bool inifile_is_key(const char *s, size_t len)
{
	return len > 0 && len <= MAX_KEY && strspn(s, NAME_CHARS ".") >= len;
}

int inifile_line_max(void)
{
	int room = INI_MAX_LINE;

	if (&ini_max_line)
		room = __atomic_load_n(&ini_max_line, __ATOMIC_RELAXED);
	return room - 3; /* CR, LF and NUL */
}

/* The variable is the whole process's: it is only ever raised. */
static void raise_line_room(void)
{
	if (&ini_max_line && __atomic_load_n(&ini_max_line, __ATOMIC_RELAXED) < LINE_ROOM)
		__atomic_store_n(&ini_max_line, LINE_ROOM, __ATOMIC_RELAXED);
}

/* len of s without blanks at its end. */
static size_t trimmed(const char *s, size_t len)
{
	while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t'))
		len--;
	return len;
}

/* Where the first byte of a set stands; len = nowhere. s holds no NUL. */
static size_t find_any(const char *s, size_t len, const char *set)
{
	size_t i = 0;

	while (i < len && !strchr(set, s[i]))
		i++;
	return i;
}

static int shown(size_t len)
{
	return len < 60 ? (int)len : 60;
}

/* Bytes that no text file has. */
static int check_bytes(struct reader *r, const char *s, size_t len)
{
	size_t bad = utf8_check(s, len);

	for (size_t i = 0; i < len; i++)
		if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
			return fail(NVLLM_EINVAL,
				"%s:%d: control character 0x%02x at column %zu: is this a "
				"text file?",
				r->name, r->line, (unsigned char)s[i], i + 1);
	if (bad < len)
		return fail(NVLLM_EINVAL,
			"%s:%d: byte 0x%02x at column %zu is not UTF-8: save the file as "
			"UTF-8",
			r->name, r->line, (unsigned char)s[bad], bad + 1);
	return NVLLM_OK;
}

/* "[name]", then nothing or a comment. */
static int check_section(struct reader *r, const char *s, size_t len)
{
	size_t n = find_any(s, len, "]"), rest;

	if (n == len)
		return fail(NVLLM_EINVAL, "%s:%d: '%.*s' has no closing ']'", r->name, r->line,
			shown(len), s);
	if (!inifile_is_section(s + 1, n - 1))
		return fail(NVLLM_EINVAL,
			"%s:%d: section name '%.*s' may hold a-z, 0-9 and _ only, 1 to %d of "
			"them",
			r->name, r->line, shown(n - 1), s + 1, MAX_SECTION);
	rest = n + 1;
	while (rest < len && (s[rest] == ' ' || s[rest] == '\t'))
		rest++;
	if (rest < len && s[rest] != ';' && s[rest] != '#')
		return fail(NVLLM_EINVAL,
			"%s:%d: '%.*s' after [%.*s]: put the keys on lines of their own", r->name,
			r->line, shown(len - rest), s + rest, (int)(n - 1), s + 1);
	memcpy(r->section, s + 1, n - 1);
	r->section[n - 1] = 0;
	return r->events->section(r->arg, r->section, r->line);
}

/* "key = value" inside a section. What the value is, inih and the handler say. */
static int check_key(struct reader *r, const char *s, size_t len)
{
	size_t at = find_any(s, len, "=:;"), n = trimmed(s, at);

	if (at < len && s[at] == ':')
		return fail(NVLLM_EINVAL, "%s:%d: ':' after '%.*s': write 'key = value'",
			r->name, r->line, shown(n), s);
	if (at == len || s[at] == ';')
		return fail(NVLLM_EINVAL, "%s:%d: '%.*s' is neither 'key = value' nor '[section]'",
			r->name, r->line, shown(len), s);
	if (!inifile_is_key(s, n))
		return fail(NVLLM_EINVAL,
			"%s:%d: key '%.*s' may hold a-z, 0-9, _ and . only, 1 to %d of them",
			r->name, r->line, shown(n), s, MAX_KEY);
	if (at + 1 < len && s[at + 1] == ';')
		return fail(NVLLM_EINVAL,
			"%s:%d: ';' at once after '=': a value cannot begin with it, and a "
			"comment needs a blank before it",
			r->name, r->line);
	if (!r->section[0])
		return fail(NVLLM_EINVAL,
			"%s:%d: key '%.*s' comes before any section: put a line '[section]' "
			"above it",
			r->name, r->line, (int)n, s);
	memcpy(r->key, s, n);
	r->key[n] = 0;
	return NVLLM_OK;
}

/* Lines without a meaning: they reach inih empty, and so may be of any length. */
static bool is_comment(const char *s, size_t len)
{
	size_t i = 0;

	while (i < len && (s[i] == ' ' || s[i] == '\t'))
		i++;
	return i == len || s[i] == ';' || s[i] == '#';
}

static int check_line(struct reader *r, const char *s, size_t len, int room)
{
	int rc = check_bytes(r, s, len);

	if (rc || is_comment(s, len))
		return rc;
	if (len > (size_t)room - 3)
		return fail(NVLLM_EINVAL, "%s:%d: the line has %zu bytes; at most %d are read",
			r->name, r->line, len, room - 3);
	if (s[0] == ' ' || s[0] == '\t')
		return fail(NVLLM_EINVAL,
			"%s:%d: the line begins with a blank: a value cannot go on over "
			"lines, and sections and keys start at the left edge",
			r->name, r->line);
	return s[0] == '[' ? check_section(r, s, len) : check_key(r, s, len);
}

/* Takes one line off the text. Returns its length without LF or CR LF. */
static size_t take_line(struct reader *r)
{
	const char *s = r->at;
	size_t n = (size_t)(r->end - s), len;
	const char *lf = memchr(s, '\n', n);

	len = lf ? (size_t)(lf - s) : n;
	r->at += len + (lf != NULL);
	if (len > 0 && s[len - 1] == '\r')
		len--;
	r->line++;
	return len;
}

/* inih's reader, in the manner of fgets: one checked line, or NULL at the end. */
static char *next_line(char *buf, int room, void *arg)
{
	struct reader *r = arg;
	const char *s = r->at;
	size_t len;

	if (r->status || r->at == r->end)
		return NULL;
	len = take_line(r);
	r->status = check_line(r, s, len, room);
	if (r->status)
		return NULL;
	if (is_comment(s, len))
		len = 0;
	memcpy(buf, s, len);
	memcpy(buf + len, "\n", 2);
	return buf;
}

/* inih's handler. The names must be those the checks above saw. */
static int on_key(void *arg, const char *section, const char *key, const char *value)
{
	struct reader *r = arg;

	if (!r->status && (!key || !value || strcmp(section, r->section) || strcmp(key, r->key)))
		r->status = fail(NVLLM_EINVAL,
			"%s:%d: the INI library reads this line in another way", r->name, r->line);
	if (!r->status)
		r->status = r->events->key(r->arg, section, key, value, r->line);
	return r->status == NVLLM_OK;
}

int inifile_read(const char *name, const char *text, size_t len,
	const struct inifile_events *events, void *arg)
{
	struct reader r = {
		.name = name, .at = text, .end = text + len, .events = events, .arg = arg
	};
	int rc;

	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) /* a byte order mark */
		r.at += 3;
	raise_line_room();
	rc = ini_parse_stream(next_line, &r, on_key, &r);
	if (!r.status && rc)
		r.status = fail(NVLLM_EINVAL, "%s:%d: the INI library refuses this line", name, rc);
	return r.status;
}
