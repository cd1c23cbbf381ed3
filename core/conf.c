/* SPDX-License-Identifier: MIT */
/* conf.c - decides which value of a key wins (--set before the file, the file before
 * the default) and refuses what no table of options knows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core.h"
#include "inifile.h"
#include "utf8.h"

#define MAX_FILE_BYTES (1 << 20)
#define MAX_ENTRIES    4096

/* One key that was set. */
struct entry {
	const char *section, *key, *value;
	const char *origin;  /* "qwen.ini:3", "--set" */
	int line;            /* in the file; 0 = not from it */
};

/* One key of a table that conf_fill met, and what it came to; value NULL: the section
 * was filled again, and the key is none of it any more. */
struct resolved {
	const char *section, *key, *value, *origin;
};

struct conf {
	struct pool *pool;
	const char *name;             /* of the file, for messages; "" = none */
	struct entry *entries;
	int n_entries;
	const char **sections;        /* NULL-ended */
	const char **section_origins; /* beside it */
	int n_sections;
	struct resolved *resolved;
	int n_resolved;
};

struct pool *conf_pool(struct conf *c)
{
	return c->pool;
}

/* An array of n elements with room for one more and a zero behind it: the same, or a
 * larger one. NULL and a sentence: no memory, and the old one stays. */
static void *grow(void *array, int n, size_t elem)
{
	void *more = array;

	if ((n & (n + 1)) == 0) /* room comes in powers of two */
		more = realloc(array, (2 * (size_t)n + 3) * elem);
	if (!more)
		fail(NVLLM_ENOMEM, "no memory for the configuration");
	return more;
}

/* ---- what was set ---- */

static int add_section(struct conf *c, const char *section, const char *origin)
{
	const char **names, **origins;

	for (int i = 0; i < c->n_sections; i++)
		if (!strcmp(c->sections[i], section))
			return NVLLM_OK;
	if (c->n_sections == MAX_ENTRIES)
		return fail(NVLLM_EINVAL, "%s: more than %d sections", origin, MAX_ENTRIES);
	names = grow(c->sections, c->n_sections, sizeof(*names));
	c->sections = names ? names : c->sections;
	origins = grow(c->section_origins, c->n_sections, sizeof(*origins));
	c->section_origins = origins ? origins : c->section_origins;
	if (!names || !origins)
		return NVLLM_ENOMEM;
	names[c->n_sections] = pool_strdup(c->pool, section);
	origins[c->n_sections] = pool_strdup(c->pool, origin);
	if (!names[c->n_sections] || !origins[c->n_sections])
		return fail(NVLLM_ENOMEM, "no memory for the configuration");
	names[++c->n_sections] = NULL;
	return NVLLM_OK;
}

static struct entry *find_entry(struct conf *c, const char *section, const char *key)
{
	for (int i = 0; i < c->n_entries; i++)
		if (!strcmp(c->entries[i].key, key) && !strcmp(c->entries[i].section, section))
			return &c->entries[i];
	return NULL;
}

/* Sets a key, over an older value of the same. */
static int put_entry(struct conf *c, const char *section, const char *key, const char *value,
	const char *origin, int line)
{
	struct entry *e = find_entry(c, section, key);
	struct entry now = { .line = line }, *more;

	if (!e && c->n_entries == MAX_ENTRIES)
		return fail(NVLLM_EINVAL, "%s: more than %d keys", origin, MAX_ENTRIES);
	more = e ? c->entries : grow(c->entries, c->n_entries, sizeof(*more));
	if (!more)
		return NVLLM_ENOMEM;
	c->entries = more;
	now.section = pool_strdup(c->pool, section);
	now.key = pool_strdup(c->pool, key);
	now.value = pool_strdup(c->pool, value);
	now.origin = pool_strdup(c->pool, origin);
	if (!now.section || !now.key || !now.value || !now.origin)
		return fail(NVLLM_ENOMEM, "no memory for the configuration");
	if (!e)
		e = &c->entries[c->n_entries++];
	*e = now;
	return NVLLM_OK;
}

static int on_section(void *arg, const char *section, int line)
{
	struct conf *c = arg;
	const char *origin = pool_printf(c->pool, "%s:%d", c->name, line);

	return origin ? add_section(c, section, origin) :
			fail(NVLLM_ENOMEM, "%s: no memory", c->name);
}

static int on_key(void *arg, const char *section, const char *key, const char *value, int line)
{
	struct conf *c = arg;
	const struct entry *old = find_entry(c, section, key);
	const char *origin = pool_printf(c->pool, "%s:%d", c->name, line);

	if (!origin)
		return fail(NVLLM_ENOMEM, "%s: no memory", c->name);
	if (old)
		return fail(NVLLM_EINVAL,
			"%s: [%s] '%s' is set twice, first on line %d: keep one of them", origin,
			section, key, old->line);
	return put_entry(c, section, key, value, origin, line);
}

/* The file's name as it may stand in messages and comments. */
static char *plain_name(struct pool *pool, const char *name)
{
	char *copy = pool_strdup(pool, name);

	for (char *s = copy; s && *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
	return copy;
}

int conf_parse(const char *name, const char *text, size_t len, struct conf **out)
{
	static const struct inifile_events events = { .section = on_section, .key = on_key };
	struct conf *c = calloc(1, sizeof(*c));
	int rc;

	*out = NULL;
	if (len > MAX_FILE_BYTES) {
		free(c);
		return fail(NVLLM_EINVAL, "%s: larger than %d bytes: no configuration file", name,
			MAX_FILE_BYTES);
	}
	if (c)
		c->pool = pool_create();
	if (c && c->pool)
		c->name = plain_name(c->pool, name);
	if (c && c->name)
		c->sections = grow(NULL, 0, sizeof(*c->sections));
	if (!c || !c->sections) {
		conf_close(c);
		return fail(NVLLM_ENOMEM, "%s: no memory", name);
	}
	c->sections[0] = NULL;
	rc = inifile_read(c->name, text, len, &events, c);
	if (rc)
		conf_close(c);
	else
		*out = c;
	return rc;
}

/* The whole file into buf. Returns its length, or a status and a sentence. */
static int64_t read_file(const char *path, char *buf, size_t room)
{
	FILE *f = fopen(path, "rbe");
	struct stat st;
	size_t n;
	int err;

	if (!f)
		return fail(NVLLM_ENOENT, "%s: cannot be opened: %s", path, strerror(errno));
	if (!fstat(fileno(f), &st) && S_ISDIR(st.st_mode)) {
		fclose(f);
		return fail(NVLLM_EINVAL, "%s: is a folder, not a configuration file", path);
	}
	n = fread(buf, 1, room, f);
	err = ferror(f) ? errno : 0;
	fclose(f);
	if (err)
		return fail(NVLLM_EIO, "%s: cannot be read: %s", path, strerror(err));
	return (int64_t)n;
}

int conf_open(const char *path, struct conf **out)
{
	char *text;
	int64_t n;
	int rc;

	*out = NULL;
	if (!path)
		return conf_parse("", "", 0, out);
	text = malloc(MAX_FILE_BYTES + 1);
	if (!text)
		return fail(NVLLM_ENOMEM, "%s: no memory", path);
	n = read_file(path, text, MAX_FILE_BYTES + 1);
	rc = n < 0 ? (int)n : conf_parse(path, text, (size_t)n, out);
	free(text);
	return rc;
}

void conf_close(struct conf *c)
{
	if (!c)
		return;
	free(c->resolved);
	free(c->section_origins);
	free(c->sections);
	free(c->entries);
	pool_destroy(c->pool);
	free(c);
}

int conf_set(struct conf *c, const char *assignment, const char *origin)
{
	const char *eq = strchr(assignment, '='), *dot;
	char section[64], key[64];
	int rc;

	dot = eq ? memchr(assignment, '.', (size_t)(eq - assignment)) : NULL;
	if (!dot)
		return fail(
			NVLLM_EINVAL, "%s: '%.80s' is not section.key=value", origin, assignment);
	if (!inifile_is_section(assignment, (size_t)(dot - assignment)) ||
	    !inifile_is_key(dot + 1, (size_t)(eq - dot - 1)))
		return fail(NVLLM_EINVAL,
			"%s: '%.*s' is not section.key: both may hold a-z, 0-9 and _ only, "
			"without blanks around '='",
			origin, (int)(eq - assignment < 80 ? eq - assignment : 80), assignment);
	snprintf(section, sizeof(section), "%.*s", (int)(dot - assignment), assignment);
	snprintf(key, sizeof(key), "%.*s", (int)(eq - dot - 1), dot + 1);
	rc = add_section(c, section, origin);
	return rc ? rc : put_entry(c, section, key, eq + 1, origin, 0);
}

const char *conf_get(struct conf *c, const char *section, const char *key, const char **origin)
{
	const struct entry *e = find_entry(c, section, key);

	if (e && origin)
		*origin = e->origin;
	return e ? e->value : NULL;
}

const char *const *conf_sections(struct conf *c)
{
	return c->sections;
}

int conf_check_sections(struct conf *c, const char *const *known)
{
	for (int i = 0; i < c->n_sections; i++) {
		const char *near, *const *k = known;

		while (*k && strcmp(*k, c->sections[i]))
			k++;
		if (*k)
			continue;
		near = option_nearest(c->sections[i], known);
		if (near)
			return fail(NVLLM_EINVAL,
				"%s: there is no section [%s]; did you mean [%s]?",
				c->section_origins[i], c->sections[i], near);
		fail(NVLLM_EINVAL, "%s: there is no section [%s]; the sections are",
			c->section_origins[i], c->sections[i]);
		for (k = known; *k; k++)
			fail(NVLLM_EINVAL, "%s%s [%s]", fail_text(), k == known ? "" : ",", *k);
		return NVLLM_EINVAL;
	}
	return NVLLM_OK;
}

/* ---- tables of options ---- */

static const struct nvllm_option *find_option(const struct conf_table *t, const char *key)
{
	for (const struct nvllm_option *o = t->options; o && o->key; o++)
		if (!strcmp(o->key, key))
			return o;
	return NULL;
}

/* A section that is filled again keeps its place in what conf_print writes. */
static int keep_resolved(struct conf *c, const char *section, const char *key, const char *value,
	const char *origin)
{
	struct resolved *more = grow(c->resolved, c->n_resolved, sizeof(*more)), now = {
		pool_strdup(c->pool, section),
		pool_strdup(c->pool, key),
		pool_strdup(c->pool, value),
		origin,
	};
	int i = 0;

	if (!more)
		return NVLLM_ENOMEM;
	c->resolved = more;
	if (!now.section || !now.key || !now.value)
		return fail(NVLLM_ENOMEM, "no memory for the configuration");
	while (i < c->n_resolved && (!more[i].value || strcmp(more[i].section, section) || strcmp(more[i].key, key)))
		i++;
	more[i] = now;
	c->n_resolved += i == c->n_resolved;
	return NVLLM_OK;
}

static int missing(const struct conf *c, const char *section, const struct nvllm_option *o)
{
	return fail(NVLLM_EINVAL,
		"%s%s[%s] needs '%s' (%s): write '%s = ...' in the configuration file, or "
		"give --set %s.%s=...",
		c->name, c->name[0] ? ": " : "", section, o->key, o->help, o->key, section, o->key);
}

static int fill_option(struct conf *c, const char *section, const struct conf_table *t,
	const struct nvllm_option *o)
{
	const struct entry *e = find_entry(c, section, o->key);
	const char *text = e ? e->value : o->def, *origin = e ? e->origin : "default";
	char why[512];

	if (!text)
		return missing(c, section, o);
	if (option_set(o, text, t->conf, c->pool, why, sizeof(why)))
		return fail(NVLLM_EINVAL, "%s: [%s] %s: %s (%s)%s", origin, section, o->key, why,
			o->help,
			e && strstr(text, " #") ? "; a comment behind a value begins with ' ;'" :
						  "");
	return keep_resolved(c, section, o->key, text, origin);
}

/* Every key of every table, NULL-ended, for option_nearest. */
static const char **all_keys(struct conf *c, const struct conf_table *tables, int n_tables)
{
	size_t n = 0;
	const char **keys;

	for (int i = 0; i < n_tables; i++)
		for (const struct nvllm_option *o = tables[i].options; o && o->key; o++)
			n++;
	keys = pool_alloc(c->pool, (n + 1) * sizeof(*keys));
	n = 0;
	for (int i = 0; keys && i < n_tables; i++)
		for (const struct nvllm_option *o = tables[i].options; o && o->key; o++)
			keys[n++] = o->key;
	return keys;
}

/* Says what a section takes: "('attention.naive' takes: page_tokens)". */
static int unknown_key(
	struct conf *c, const struct entry *e, const struct conf_table *tables, int n_tables)
{
	const char **keys = all_keys(c, tables, n_tables);
	const char *near = keys ? option_nearest(e->key, keys) : NULL;
	const char *part = " (";

	fail(NVLLM_EINVAL, "%s: [%s] has no key '%s'", e->origin, e->section, e->key);
	if (near)
		fail(NVLLM_EINVAL, "%s; did you mean '%s'?", fail_text(), near);
	for (int i = 0; i < n_tables; i++) {
		const struct nvllm_option *o = tables[i].options;

		if (!o || !o->key)
			continue;
		fail(NVLLM_EINVAL, "%s%s'%s' takes:", fail_text(), part, tables[i].who);
		for (part = ""; o->key; o++, part = ",")
			fail(NVLLM_EINVAL, "%s%s %s", fail_text(), part, o->key);
		part = "; ";
	}
	return fail(NVLLM_EINVAL, "%s%s", fail_text(), part[0] == ';' ? ")" : "; it takes none");
}

/* Two tables of one section must not claim one key. */
static int check_claims(const char *section, const struct conf_table *tables, int n_tables)
{
	for (int i = 1; i < n_tables; i++)
		for (const struct nvllm_option *o = tables[i].options; o && o->key; o++)
			for (int j = 0; j < i; j++)
				if (find_option(&tables[j], o->key))
					return fail(NVLLM_EINVAL,
						"[%s]: both '%s' and '%s' declare the key '%s': "
						"the plugin must name it otherwise",
						section, tables[j].who, tables[i].who, o->key);
	return NVLLM_OK;
}

static void forget_resolved(struct conf *c, const char *section)
{
	for (int i = 0; i < c->n_resolved; i++)
		if (!strcmp(c->resolved[i].section, section))
			c->resolved[i].value = NULL;
}

/* Unknown keys come first: a misspelt key is the likelier reason for a missing one. */
int conf_fill(struct conf *c, const char *section, struct conf_table *tables, int n_tables)
{
	int rc = check_claims(section, tables, n_tables);

	for (int i = 0; !rc && i < c->n_entries; i++) {
		bool known = strcmp(c->entries[i].section, section) != 0;

		for (int j = 0; !known && j < n_tables; j++)
			known = find_option(&tables[j], c->entries[i].key) != NULL;
		if (!known)
			rc = unknown_key(c, &c->entries[i], tables, n_tables);
	}
	if (!rc)
		forget_resolved(c, section);
	for (int i = 0; !rc && i < n_tables; i++) {
		if (tables[i].conf)
			memset(tables[i].conf, 0, tables[i].conf_size);
		for (const struct nvllm_option *o = tables[i].options; !rc && o && o->key; o++)
			rc = fill_option(c, section, &tables[i], o);
	}
	return rc;
}

/* ---- conf_print ---- */

/* Whether a value, written into an INI file, reads back as it is. */
static bool is_writable(const struct resolved *r)
{
	const char *s = r->value;
	size_t n = strlen(s);
	bool blank = true; /* before the first byte: "key = ;" */

	if (n + strlen(r->key) + strlen(r->origin) + 64 > (size_t)inifile_line_max() ||
		utf8_check(s, n) < n)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f ||
			(blank && s[i] == ';'))
			return false;
		blank = s[i] == ' ' || s[i] == '\t';
		if (blank && (i == 0 || i == n - 1))
			return false;
	}
	return true;
}

/* For people: a value no INI file can hold, within a comment. */
static void print_escaped(const char *s, FILE *f)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
			fprintf(f, "\\x%02x", (unsigned char)*s);
		else
			putc(*s, f);
}

static void print_value(const struct resolved *r, FILE *f)
{
	if (is_writable(r)) {
		int n = fprintf(f, "%s = %s", r->key, r->value);

		fprintf(f, "%*s ; %s\n", n < 39 ? 39 - n : 0, "", r->origin);
		return;
	}
	fprintf(f, "; %s, set by %s, does not fit into an INI file: ", r->key, r->origin);
	print_escaped(r->value, f);
	putc('\n', f);
}

static void print_section(struct conf *c, const char *section, FILE *f)
{
	fprintf(f, "[%s]\n", section);
	for (int i = 0; i < c->n_resolved; i++)
		if (c->resolved[i].value && !strcmp(c->resolved[i].section, section))
			print_value(&c->resolved[i], f);
}

void conf_print(struct conf *c, FILE *f)
{
	for (int i = 0; i < c->n_resolved; i++) {
		int first = 0;

		while (strcmp(c->resolved[first].section, c->resolved[i].section))
			first++;
		if (first < i)
			continue;
		fprintf(f, "%s", i ? "\n" : "");
		print_section(c, c->resolved[i].section, f);
	}
}

const char *conf_env(const char *name)
{
	return getenv(name);
}
