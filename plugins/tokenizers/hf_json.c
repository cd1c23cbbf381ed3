/* SPDX-License-Identifier: MIT */
/* hf_json.c - decides how values of tokenizer.json are read and how messages name them: file,
 * path of the value, reason. */
#include "hf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int hf_bad(const struct hf *hf, const char *where, const char *fmt, ...)
{
	char why[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return hf->host->fail(hf->host, NVLLM_EINVAL, "%s: %s%s%s", hf->path, where,
		where[0] ? ": " : "", why);
}

/* ---- members ---- */

static const cJSON *member(const cJSON *obj, const char *key)
{
	const cJSON *v = json_get(obj, key);

	return cJSON_IsNull(v) ? NULL : v;
}

int hf_get_bool(struct hf *hf, const cJSON *obj, const char *where, const char *key, bool def,
	bool *out)
{
	const cJSON *v = member(obj, key);

	*out = v ? cJSON_IsTrue(v) : def;
	if (v && !cJSON_IsBool(v))
		return hf_bad(hf, where, "'%s' is neither true nor false", key);
	return NVLLM_OK;
}

int hf_get_int(struct hf *hf, const cJSON *obj, const char *where, const char *key, int64_t lo,
	int64_t hi, int64_t def, int64_t *out)
{
	const cJSON *v = member(obj, key);

	*out = def;
	if (v && json_int64(v, out) < 0)
		return hf_bad(hf, where, "'%s' is not a whole number", key);
	if (v && (*out < lo || *out > hi))
		return hf_bad(hf, where, "'%s' is %lld, outside %lld..%lld", key, (long long)*out,
			(long long)lo, (long long)hi);
	return NVLLM_OK;
}

int hf_get_text(struct hf *hf, const cJSON *obj, const char *where, const char *key,
	const char *def, const char **out, size_t *len)
{
	const cJSON *v = member(obj, key);
	const char *s = v ? cJSON_GetStringValue(v) : def;

	*out = NULL;
	*len = 0;
	if (!s)
		return hf_bad(hf, where, v ? "'%s' is not a string" : "has no '%s'", key);
	*len = strlen(s);
	*out = hf_copy(hf, s, *len);
	return *out ? NVLLM_OK : NVLLM_ENOMEM;
}

int hf_get_pattern(struct hf *hf, const cJSON *obj, const char *where, struct hf_pattern *out)
{
	const cJSON *v = member(obj, "pattern");
	const char *s;
	size_t len;
	int rc;

	*out = (struct hf_pattern){ 0 };
	if (!v)
		return hf_bad(hf, where, "has no 'pattern'");
	if (cJSON_IsString(v))
		return hf_get_text(hf, obj, where, "pattern", NULL, &out->s, &out->len);
	if (member(v, "String"))
		return hf_get_text(hf, v, where, "String", NULL, &out->s, &out->len);
	rc = hf_get_text(hf, v, where, "Regex", NULL, &s, &len);
	return rc < 0 ? rc : hf_regex_create(hf, s, len, where, &out->regex);
}

const char *hf_type(struct hf *hf, const cJSON *step, const char *where)
{
	const char *type = cJSON_IsObject(step) ?
		cJSON_GetStringValue(json_get(step, "type")) : NULL;

	if (!type)
		hf_bad(hf, where, "is no object with a 'type'");
	return type;
}

int hf_each(struct hf *hf, const cJSON *node, const char *where, const char *list,
	int (*each)(struct hf *, const cJSON *step, const char *where))
{
	const cJSON *steps, *item;
	const char *type;
	char path[160];
	int rc = NVLLM_OK, i = 0;

	if (!node || cJSON_IsNull(node))
		return NVLLM_OK;
	type = hf_type(hf, node, where);
	if (!type)
		return NVLLM_EINVAL;
	if (strcmp(type, "Sequence"))
		return each(hf, node, where);
	steps = json_get(node, list);
	if (!cJSON_IsArray(steps))
		return hf_bad(hf, where, "has no list '%s'", list);
	if (strlen(where) + strlen(list) + 16 > sizeof(path))
		return hf_bad(hf, where, "Sequences lie too deep in each other");
	cJSON_ArrayForEach(item, steps) {
		snprintf(path, sizeof(path), "%s.%s[%d]", where, list, i++);
		/* A null among them is no step: hf_each would take it for an absent node. */
		rc = cJSON_IsNull(item) ? hf_bad(hf, path, "is null") :
					  hf_each(hf, item, path, list, each);
		if (rc < 0)
			break;
	}
	return rc;
}

/* ---- files ---- */

/* The path of a file, or of name in the folder path, in buf. */
static bool path_of(const char *path, const char *name, char *buf, size_t room)
{
	struct stat st;
	int n;

	if (stat(path, &st) < 0)
		return false;
	n = S_ISDIR(st.st_mode) ? snprintf(buf, room, "%s/%s", path, name) :
				  snprintf(buf, room, "%s", path);
	return n > 0 && (size_t)n < room;
}

bool hf_is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The bytes of a regular file, malloc'd; errno says why not. most: of bytes read, 0 = all. */
static char *file_read(const char *path, size_t most, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *s = NULL;
	ssize_t n = 1;

	*len = 0;
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		errno = EISDIR;
		goto out;
	}
	if (!most || most > (size_t)st.st_size)
		most = (size_t)st.st_size;
	s = malloc(most + 1);
	while (s && *len < most && n > 0) {
		n = read(fd, s + *len, most - *len);
		*len += n > 0 ? (size_t)n : 0;
	}
	if (n < 0) {
		free(s);
		s = NULL;
	}
out:
	close(fd);
	return s;
}

int hf_parse(struct hf *hf, const char *path, const char *name, bool required, cJSON **out)
{
	static const struct json_limits limits = { .max_bytes = (size_t)256 << 20 };
	struct json_error err;
	char file[4096];
	size_t len;
	char *s;

	*out = NULL;
	s = path_of(path, name, file, sizeof(file)) ? file_read(file, 0, &len) : NULL;
	if (!s && !required && (errno == ENOENT || errno == ENOTDIR))
		return NVLLM_OK;
	if (!s)
		return hf->host->fail(hf->host, NVLLM_EIO, "'%s' cannot be read as %s: %s", path,
			name, strerror(errno));
	if (json_parse(s, len, &limits, out, &err) < 0) {
		free(s);
		return hf->host->fail(hf->host, NVLLM_EINVAL, "%s: line %d, byte %zu: %s", file,
			err.line, err.offset + 1, err.why);
	}
	free(s);
	if (cJSON_IsObject(*out))
		return NVLLM_OK;
	cJSON_Delete(*out);
	*out = NULL;
	return hf->host->fail(hf->host, NVLLM_EINVAL, "%s: is no JSON object", file);
}

/* ---- what a file is, at a glance ---- */

static bool is_named(const char *file, const char *name)
{
	const char *slash = strrchr(file, '/');

	return strcmp(slash ? slash + 1 : file, name) == 0;
}

/* Whether some step of the file is of a type: "type": "ByteLevel", spaces as may be. */
static bool has_type(const char *s, size_t len, const char *quoted)
{
	const char *end = s + len, *hit = s;

	while ((hit = memmem(hit, (size_t)(end - hit), quoted, strlen(quoted)))) {
		const char *p = hit;

		while (p > s && strchr(" \t\r\n", p[-1]))
			p--;
		if (p > s && p[-1] == ':') {
			p--;
			while (p > s && strchr(" \t\r\n", p[-1]))
				p--;
			if (p - s >= 6 && !memcmp(p - 6, "\"type\"", 6))
				return true;
		}
		hit += strlen(quoted);
	}
	return false;
}

/* Nothing is parsed: a file is looked through for what makes it a tokenizer.json, and for the one
 * step that all byte-level ones have. Writers order keys as they like, so all is
 * looked at. */
enum hf_class hf_classify(const char *path)
{
	enum hf_class class;
	char file[4096];
	size_t len = 0, i = 0;
	char *s;

	if (!path || !path_of(path, "tokenizer.json", file, sizeof(file)) || access(file, F_OK) < 0)
		return HF_NOT;
	class = is_named(file, "tokenizer.json") ? HF_DAMAGED : HF_NOT;
	s = file_read(file, 64, &len);
	while (s && i < len && strchr(" \t\r\n", s[i]))
		i++;
	if (!s || i == len || s[i] != '{') {
		free(s);
		return class;
	}
	free(s);
	s = file_read(file, (size_t)256 << 20, &len);
	if (s && memmem(s, len, "\"model\"", 7) && memmem(s, len, "\"vocab\"", 7))
		class = has_type(s, len, "\"ByteLevel\"") ? HF_BYTE_LEVEL : HF_OTHER;
	free(s);
	return class;
}
