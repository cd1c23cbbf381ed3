/* SPDX-License-Identifier: MIT */
/* jinja_source.c - where a checkpoint's chat template is: decides which file counts.
 *
 * A folder: chat_template.jinja (and additional_chat_templates/NAME.jinja), else
 * chat_template.json, else "chat_template" of tokenizer_config.json, which is the text or a list
 * of {name, template}. A file that ends in .jinja: that. Another file: the loader's
 * tokenizer.chat_template (GGUF), else the folder it is in.
 *
 * Special tokens (bos_token, eos_token, ...) come from tokenizer_config.json, those it lacks from
 * special_tokens_map.json; a GGUF has their ids. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <nvllm/loader.h>

#include "jinja.h"
#include "json.h"
#include "utf8.h"

#define MAX_FILE   (64 << 20)
#define MAX_TOKENS 64

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && strcmp(s + n - k, end) == 0;
}

static bool is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_file(const char *dir, const char *name)
{
	char path[4096];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s%s", dir, *name ? "/" : "", name);
	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The whole file in malloc's memory; NULL: there is none, or it is no plain file of a size that
 * such files have, and then *rc says so. */
static char *read_file(const struct nvllm_host *host, const char *dir, const char *name, int64_t *len,
	int *rc)
{
	char path[4096], *text = NULL;
	struct stat st;
	FILE *f;

	*rc = NVLLM_OK;
	*len = 0;
	snprintf(path, sizeof(path), "%s%s%s", dir, *name ? "/" : "", name);
	if (stat(path, &st))
		return NULL;
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE) {
		*rc = host->fail(host, NVLLM_EINVAL, "%s: not a file of at most %d MiB", path, MAX_FILE >> 20);
		return NULL;
	}
	f = fopen(path, "rb");
	text = f ? malloc((size_t)st.st_size + 1) : NULL;
	if (!text) {
		*rc = host->fail(host, f ? NVLLM_ENOMEM : NVLLM_EIO, "%s: %s", path, strerror(errno));
	} else {
		*len = (int64_t)fread(text, 1, (size_t)st.st_size, f);
		text[*len] = 0;
	}
	if (f)
		fclose(f);
	return text;
}

/* An object in dir/name; *out NULL where there is no such file. */
static int read_json(const struct nvllm_host *host, const char *dir, const char *name, cJSON **out)
{
	struct json_error err;
	int64_t len;
	int rc;
	char *text = read_file(host, dir, name, &len, &rc);

	*out = NULL;
	if (!text)
		return rc;
	if (json_parse(text, (size_t)len, NULL, out, &err))
		rc = host->fail(host, NVLLM_EINVAL, "%s/%s, line %d: %s", dir, name, err.line, err.why);
	else if (!cJSON_IsObject(*out))
		rc = host->fail(host, NVLLM_EINVAL, "%s/%s: not a JSON object", dir, name);
	free(text);
	return rc;
}

static char *keep(const struct nvllm_host *host, const char *s, int64_t len)
{
	char *p = host->alloc(host, (size_t)len + 1);

	if (p && len)
		memcpy(p, s, (size_t)len);
	return p;
}

static int add_template(const struct nvllm_host *host, struct source *s, const char *name,
	int64_t name_len, const char *text, int64_t len, const char *where)
{
	int i = s->n_templates;

	if (i == MAX_TEMPLATES)
		return host->fail(host, NVLLM_EINVAL, "%s: more than %d chat templates", where,
			MAX_TEMPLATES);
	if (len > JIN_MAX_TEMPLATE)
		return host->fail(host, NVLLM_EINVAL, "%s: the chat template has %lld bytes, %d are the most",
			where, (long long)len, JIN_MAX_TEMPLATE);
	if (utf8_check(text, (size_t)len) != (size_t)len)
		return host->fail(host, NVLLM_EINVAL, "%s: the chat template is no UTF-8 from byte %zu on",
			where, utf8_check(text, (size_t)len));
	s->templates[i].name = keep(host, name, name_len);
	s->templates[i].text = keep(host, text, len);
	s->templates[i].len = len;
	if (!s->templates[i].name || !s->templates[i].text)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the chat template");
	s->n_templates++;
	return NVLLM_OK;
}

static int add_file(const struct nvllm_host *host, struct source *s, const char *dir, const char *file,
	const char *name, int64_t name_len)
{
	int64_t len;
	int rc;
	char *text = read_file(host, dir, file, &len, &rc);

	if (text)
		rc = add_template(host, s, name, name_len, text, len, dir);
	free(text);
	return rc;
}

/* The text, or a list of {name, template}. */
static int add_json(const struct nvllm_host *host, struct source *s, const cJSON *v, const char *where)
{
	const cJSON *item;
	int rc = NVLLM_OK;

	if (!v || cJSON_IsNull(v))
		return NVLLM_OK;
	if (cJSON_IsString(v))
		return add_template(host, s, "default", 7, v->valuestring,
			(int64_t)strlen(v->valuestring), where);
	if (!cJSON_IsArray(v) && !cJSON_IsObject(v))
		return host->fail(host, NVLLM_EINVAL, "%s: \"chat_template\" is neither a text nor a list",
			where);
	cJSON_ArrayForEach(item, v) {
		const char *name = cJSON_IsObject(v) ? item->string :
						       cJSON_GetStringValue(json_get(item, "name"));
		const char *text = cJSON_GetStringValue(
			cJSON_IsObject(v) ? item : json_get(item, "template"));

		if (!name || !text)
			return host->fail(host, NVLLM_EINVAL,
				"%s: an entry of \"chat_template\" lacks its name or its template", where);
		rc = add_template(host, s, name, (int64_t)strlen(name), text, (int64_t)strlen(text), where);
		if (rc)
			break;
	}
	return rc;
}

static int add_token(const struct nvllm_host *host, struct source *s, const char *name, const char *text,
	int64_t len)
{
	for (int i = 0; i < s->n_tokens; i++)
		if (!strcmp(s->token_names[i], name))
			return NVLLM_OK; /* the first file counts */
	if (s->n_tokens == MAX_TOKENS)
		return NVLLM_OK;
	s->token_names[s->n_tokens] = keep(host, name, (int64_t)strlen(name));
	s->tokens[s->n_tokens] = keep(host, text, len);
	if (!s->tokens[s->n_tokens] || !s->token_names[s->n_tokens])
		return host->fail(host, NVLLM_ENOMEM, "no memory for the special tokens");
	s->n_tokens++;
	return NVLLM_OK;
}

/* Each "..._token" that is a text, or an object with its text as "content". */
static int add_tokens(const struct nvllm_host *host, struct source *s, const cJSON *obj)
{
	const cJSON *item, *extra = json_get(obj, "extra_special_tokens");
	int rc = NVLLM_OK;

	cJSON_ArrayForEach(item, obj) {
		const char *text = cJSON_GetStringValue(cJSON_IsObject(item) ? json_get(item, "content") : item);

		if (!rc && item->string && text && ends_with(item->string, "_token"))
			rc = add_token(host, s, item->string, text, (int64_t)strlen(text));
	}
	if (!rc && cJSON_IsObject(extra))
		rc = add_tokens(host, s, extra);
	return rc;
}

static int add_others(const struct nvllm_host *host, struct source *s, const char *dir)
{
	char path[4096];
	struct dirent *e;
	int rc = NVLLM_OK;
	DIR *d;

	snprintf(path, sizeof(path), "%s/additional_chat_templates", dir);
	d = opendir(path);
	while (d && !rc && (e = readdir(d)))
		if (ends_with(e->d_name, ".jinja"))
			rc = add_file(host, s, path, e->d_name, e->d_name,
				(int64_t)strlen(e->d_name) - 6);
	if (d)
		closedir(d);
	return rc;
}

static int read_folder(const struct nvllm_host *host, const char *dir, struct source *s, bool tokens_only)
{
	static const char *const maps[] = { "tokenizer_config.json", "special_tokens_map.json" };
	int rc = tokens_only ? NVLLM_OK : add_file(host, s, dir, "chat_template.jinja", "default", 7);
	cJSON *json = NULL;

	if (!rc && s->n_templates && !tokens_only)
		rc = add_others(host, s, dir);
	if (!rc && !s->n_templates) {
		rc = read_json(host, dir, "chat_template.json", &json);
		if (!rc && json)
			rc = add_json(host, s, json_get(json, "chat_template"), dir);
		cJSON_Delete(json);
	}
	for (int i = 0; !rc && i < 2; i++) {
		rc = read_json(host, dir, maps[i], &json);
		if (!rc && json && !i && !s->n_templates)
			rc = add_json(host, s, json_get(json, "chat_template"), dir);
		if (!rc && json)
			rc = add_tokens(host, s, json);
		cJSON_Delete(json);
	}
	return rc;
}

static bool get_array(const struct nvllm_loader_ref *l, const char *key, int type, struct nvllm_array *a)
{
	*a = (struct nvllm_array){ .size = sizeof(*a) };
	return l && l->vt->array && l->vt->array(l->loader, key, a) == 0 && a->type == type && a->n > 0;
}

static int loader_tokens(const struct nvllm_host *host, const struct nvllm_loader_ref *l, struct source *s)
{
	static const char *const names[][2] = { { "bos", "bos" }, { "eos", "eos" }, { "unknown", "unk" },
		{ "padding", "pad" }, { "seperator", "sep" }, { "cls", "cls" }, { "mask", "mask" } };
	struct nvllm_array all, id;
	int rc = NVLLM_OK;

	if (!get_array(l, "tokenizer.ggml.tokens", NVLLM_ARRAY_STR, &all))
		return NVLLM_OK;
	for (size_t i = 0; !rc && i < sizeof(names) / sizeof(names[0]); i++) {
		const struct nvllm_str *text = all.data;
		char key[64], name[16];
		int32_t n;

		snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", names[i][0]);
		snprintf(name, sizeof(name), "%s_token", names[i][1]);
		if (!get_array(l, key, NVLLM_I32, &id))
			continue;
		n = *(const int32_t *)id.data;
		if (n < 0 || n >= all.n || utf8_check(text[n].s, (size_t)text[n].len) != (size_t)text[n].len)
			continue;
		rc = add_token(host, s, name, text[n].s, text[n].len);
	}
	return rc;
}

static int read_loader(const struct nvllm_host *host, const struct nvllm_loader_ref *l, const char *path,
	struct source *s)
{
	struct nvllm_array text, names;
	const struct nvllm_str *t, *n;
	int rc = NVLLM_OK;

	if (get_array(l, "tokenizer.chat_template", NVLLM_ARRAY_STR, &text)) {
		t = text.data;
		rc = add_template(host, s, "default", 7, t->s, t->len, path);
	}
	if (!rc && get_array(l, "tokenizer.chat_templates", NVLLM_ARRAY_STR, &names)) {
		n = names.data;
		for (int64_t i = 0; !rc && i < names.n && i < MAX_TEMPLATES; i++) {
			char key[128];

			snprintf(key, sizeof(key), "tokenizer.chat_template.%.*s",
				(int)(n[i].len < 80 ? n[i].len : 80), n[i].s);
			if (!get_array(l, key, NVLLM_ARRAY_STR, &text))
				continue;
			t = text.data;
			rc = add_template(host, s, n[i].s, n[i].len, t->s, t->len, path);
		}
	}
	return rc ? rc : loader_tokens(host, l, s);
}

/* The folder that a file is in. */
static void folder_of(const char *path, char dir[4096])
{
	const char *slash = strrchr(path, '/');

	if (slash)
		snprintf(dir, 4096, "%.*s", (int)(slash - path), path);
	else
		snprintf(dir, 4096, ".");
}

static bool beside(const char *path)
{
	return ends_with(path, ".safetensors") || ends_with(path, ".json");
}

bool source_probe(const struct nvllm_loader_ref *l, const char *path)
{
	struct nvllm_array a;
	char dir[4096], *text = NULL, file[4200];
	bool found = false;
	FILE *f;
	size_t n;

	if (ends_with(path, ".jinja") && is_file(path, ""))
		return true;
	if (get_array(l, "tokenizer.chat_template", NVLLM_ARRAY_STR, &a))
		return true;
	if (is_folder(path))
		snprintf(dir, sizeof(dir), "%s", path);
	else if (beside(path))
		folder_of(path, dir);
	else
		return false;
	if (is_file(dir, "chat_template.jinja") || is_file(dir, "chat_template.json"))
		return true;
	snprintf(file, sizeof(file), "%s/tokenizer_config.json", dir);
	f = is_file(dir, "tokenizer_config.json") ? fopen(file, "rb") : NULL;
	text = f ? malloc(MAX_FILE) : NULL;
	n = text ? fread(text, 1, MAX_FILE, f) : 0;
	if (n) {
		const char *p = memmem(text, n, "\"chat_template\"", 15), *end = text + n;

		for (p = p ? p + 15 : end; p < end && strchr(" \t\r\n:", *p) && *p; p++)
			;
		found = p < end && (*p == '"' || *p == '[' || *p == '{');
	}
	free(text);
	if (f)
		fclose(f);
	return found;
}

int source_read(const struct nvllm_host *host, const struct nvllm_loader_ref *l, const char *path,
	struct source *s)
{
	char dir[4096];
	int rc;

	memset(s, 0, sizeof(*s));
	s->token_names = host->alloc(host, MAX_TOKENS * sizeof(*s->token_names));
	s->tokens = host->alloc(host, MAX_TOKENS * sizeof(*s->tokens));
	if (!s->token_names || !s->tokens)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the chat template");
	if (is_folder(path)) {
		rc = read_folder(host, path, s, false);
	} else if (ends_with(path, ".jinja")) {
		folder_of(path, dir);
		rc = add_file(host, s, path, "", "default", 7);
		if (!rc)
			rc = read_folder(host, dir, s, true);
	} else {
		rc = read_loader(host, l, path, s);
		folder_of(path, dir);
		if (!rc && !s->n_templates && beside(path))
			rc = read_folder(host, dir, s, false);
	}
	if (!rc && !s->n_templates)
		rc = host->fail(host, NVLLM_ENOENT, "%s: has no chat template (chat_template.jinja, "
			"chat_template.json, \"chat_template\" in tokenizer_config.json or "
			"tokenizer.chat_template in a GGUF); name another plugin with [chat] plugin", path);
	return rc;
}
