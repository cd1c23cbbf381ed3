/* SPDX-License-Identifier: MIT */
/* plugins/loaders/safetensors_config.c - what config.json and generation_config.json say, as
 * pairs of text in one spelling, and which quantised checkpoints are refused. Of two
 * spellings the one that transformers 5 prefers counts; what comes first wins. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "safetensors.h"

#define KEY_ROOM 256   /* bytes of a key with its dots; what is longer is asked for by no one */
#define CONFIG_BYTES (16u << 20)
#define CONFIG_VALUES (1u << 20)
#define CONFIG_DEPTH 32

struct row { size_t key, text, order; }; /* offsets into pairs.text; when it came */

struct pairs {
	struct json_buf text;
	struct row *rows;
	size_t n, cap;
	int failed;
};

/* ---- values as text ---- */

static void put_scalar(struct json_buf *b, const cJSON *v)
{
	char number[JSON_NUMBER_LEN];

	if (cJSON_IsString(v))
		json_put(b, v->valuestring);
	else if (cJSON_IsNumber(v))
		json_put(b, json_number_text(v, number));
	else
		json_put(b, cJSON_IsBool(v) ? (cJSON_IsTrue(v) ? "true" : "false") : "null");
}

/* A list is written with spaces; one that holds lists or objects is not. */
static int is_text(const cJSON *v)
{
	if (!v || cJSON_IsNull(v) || cJSON_IsObject(v))
		return 0;
	for (const cJSON *e = cJSON_IsArray(v) ? v->child : NULL; e; e = e->next)
		if (cJSON_IsArray(e) || cJSON_IsObject(e))
			return 0;
	return 1;
}

static struct row *add_row(struct pairs *p)
{
	size_t cap = p->cap ? 2 * p->cap : 256;
	struct row *rows = p->rows;

	if (p->n == p->cap) {
		rows = realloc(p->rows, cap * sizeof(*rows));
		p->failed |= !rows;
		if (!rows)
			return NULL;
		p->rows = rows;
		p->cap = cap;
	}
	rows[p->n].order = p->n;
	return &rows[p->n++];
}

static void put_pair(struct pairs *p, const char *key, const cJSON *v)
{
	struct row *r = is_text(v) ? add_row(p) : NULL;

	if (!r)
		return;
	r->key = p->text.len;
	json_put_raw(&p->text, key, strlen(key) + 1);
	r->text = p->text.len;
	if (!cJSON_IsArray(v))
		put_scalar(&p->text, v);
	for (const cJSON *e = cJSON_IsArray(v) ? v->child : NULL; e; e = e->next) {
		put_scalar(&p->text, e);
		if (e->next)
			json_put(&p->text, " ");
	}
	json_put_raw(&p->text, "", 1);
	if (!p->text.failed)
		st_printable(p->text.s + r->text);
}

static void put_string(struct pairs *p, const char *key, const char *text)
{
	cJSON v = { .type = cJSON_String, .valuestring = (char *)(uintptr_t)text };

	put_pair(p, key, &v);
}

/* Every member below an object, keys joined by dots. key: room for KEY_ROOM bytes, of which
 * len stand for what is above. Keys with dots of their own are left out. */
static void put_members(struct pairs *p, const cJSON *obj, char *key, size_t len)
{
	for (const cJSON *v = obj ? obj->child : NULL; v && !p->failed; v = v->next) {
		size_t n = strlen(v->string);

		if (strchr(v->string, '.') || len + n + 2 > KEY_ROOM)
			continue;
		memcpy(key + len, v->string, n + 1);
		put_pair(p, key, v);
		if (!cJSON_IsObject(v))
			continue;
		memcpy(key + len + n, ".", 2);
		put_members(p, v, key, len + n + 1);
	}
}

/* ---- one spelling ---- */

/* The rotary parameters of all layers, or of those with full attention. */
static void put_rope(struct pairs *p, const cJSON *rope)
{
	const cJSON *type = json_get(rope, "rope_type");
	char key[KEY_ROOM];

	put_pair(p, "rope_scaling.rope_type", type ? type : json_get(rope, "type"));
	put_pair(p, "rope_theta", json_get(rope, "rope_theta"));
	put_pair(p, "partial_rotary_factor", json_get(rope, "partial_rotary_factor"));
	for (const cJSON *v = rope->child; v; v = v->next)
		if (!strchr(v->string, '.') &&
		    snprintf(key, sizeof(key), "rope_scaling.%s", v->string) < (int)sizeof(key))
			put_pair(p, key, v);
}

/* Flat, or an object for each kind of layer. The sliding layers of the models that have
 * them are not scaled, and there is no key to say it. */
static int put_ropes(struct pairs *p, const struct nvllm_loader *l, const char *path,
	const cJSON *config, const char *key)
{
	const cJSON *rope = json_get(config, key), *full = json_get(rope, "full_attention");
	const cJSON *sliding = json_get(rope, "sliding_attention"), *type;

	if (!rope || cJSON_IsNull(rope))
		return NVLLM_OK;
	if (!cJSON_IsObject(rope))
		return st_fail(l, NVLLM_EINVAL, path, "%s is neither null nor an object", key);
	if (!cJSON_IsObject(full) && !cJSON_IsObject(sliding))
		full = rope;
	if (cJSON_IsObject(full))
		put_rope(p, full);
	put_pair(p, "rope_local_base_freq", json_get(sliding, "rope_theta"));
	type = json_get(sliding, "rope_type");
	if (cJSON_IsString(type) && strcmp(type->valuestring, "default"))
		return st_fail(l, NVLLM_ENOTSUP, path,
			"rope_parameters.sliding_attention.rope_type is '%.40s': sliding layers "
			"with scaled rotary embedding are not supported",
			type->valuestring);
	return NVLLM_OK;
}

static void put_dtype(struct pairs *p, const cJSON *config)
{
	const cJSON *v = json_get(config, "dtype");
	const char *s;

	v = cJSON_IsString(v) ? v : json_get(config, "torch_dtype");
	s = cJSON_IsString(v) ? v->valuestring : "";
	if (*s)
		put_string(p, "dtype", strncmp(s, "torch.", 6) ? s : s + 6);
}

static void put_architecture(struct pairs *p, const cJSON *config)
{
	const cJSON *v = json_get(config, "architectures");

	v = cJSON_IsArray(v) ? v->child : v;
	if (cJSON_IsString(v))
		put_string(p, "architectures", v->valuestring);
}

/* ---- its name ---- */

/* The hub's cache: .../models--ORG--NAME/snapshots/HASH. */
static int hub_name(const char *folder, char *name, size_t room)
{
	static const char mark[] = "models--", snapshots[] = "/snapshots/";
	const char *end = folder, *from, *org;

	for (from = strstr(folder, snapshots); from; from = strstr(from + 1, snapshots))
		end = from;
	for (from = end; from > folder && from[-1] != '/';)
		from--;
	if (end == folder || strncmp(from, mark, strlen(mark)))
		return 0;
	from += strlen(mark);
	org = strstr(from, "--");
	if (org && org + 2 < end)
		snprintf(name, room, "%.*s/%.*s", (int)(org - from), from, (int)(end - org - 2),
			org + 2);
	else
		snprintf(name, room, "%.*s", (int)(end - from), from);
	return *name != '\0';
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *last = slash ? slash + 1 : path;

	return *last && strcmp(last, ".") && strcmp(last, "..") ? last : NULL;
}

static void put_name(struct pairs *p, const struct nvllm_loader *l, const cJSON *config)
{
	const cJSON *v = json_get(config, "_name_or_path");
	const char *last = cJSON_IsString(v) ? last_part(v->valuestring) : NULL;
	char *real = NULL, name[256];

	if (!last)
		last = last_part(l->folder);
	if (!last) {
		real = realpath(l->folder, NULL);
		last = real ? last_part(real) : NULL;
	}
	if (hub_name(l->folder, name, sizeof(name)))
		last = name;
	put_string(p, "name", last ? last : "model");
	free(real);
}

/* ---- quantised checkpoints ---- */

static int check_quantised(const struct nvllm_loader *l, const char *path, const cJSON *config)
{
	static const char *const keys[] = { "quantization_config", "compression_config",
		"quantization" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		const cJSON *q = json_get(config, keys[i]), *method = json_get(q, "quant_method");

		if (!q || cJSON_IsNull(q))
			continue;
		return st_fail(l, NVLLM_ENOTSUP, path, "quantised by '%.40s' (%s), which this "
			"version does not read: take the BF16 checkpoint or a GGUF",
			cJSON_IsString(method) ? method->valuestring : i == 2 ? "mlx" : "unknown",
			keys[i]);
	}
	return NVLLM_OK;
}

/* ---- all of it ---- */

static int by_key(const void *a, const void *b, void *text)
{
	const struct row *x = a, *y = b;
	int d = strcmp((char *)text + x->key, (char *)text + y->key);

	return d ? d : x->order < y->order ? -1 : 1;
}

/* Moves the pairs to memory of the loader, sorted, the first of each key. */
static int keep(struct nvllm_loader *l, struct pairs *p)
{
	char *text;

	if (p->failed || p->text.failed)
		return st_fail(l, NVLLM_ENOMEM, l->path, "no memory for its configuration");
	qsort_r(p->rows, p->n, sizeof(*p->rows), by_key, p->text.s);
	l->config = st_alloc(l, (int64_t)p->n, sizeof(*l->config));
	text = st_alloc(l, (int64_t)p->text.len, 1);
	if (!l->config || !text)
		return NVLLM_ENOMEM;
	memcpy(text, p->text.s, p->text.len);
	for (size_t i = 0; i < p->n; i++) {
		const char *key = text + p->rows[i].key;

		if (l->n_config && !strcmp(l->config[l->n_config - 1].key, key))
			continue;
		l->config[l->n_config++] = (struct st_pair){ key, text + p->rows[i].text };
	}
	return NVLLM_OK;
}

/* generation_config.json, which may be missing; its end tokens may be in config.json. */
static int put_generation(struct pairs *p, const struct nvllm_loader *l, const cJSON *config)
{
	const struct json_limits limits = { CONFIG_BYTES, CONFIG_VALUES, CONFIG_DEPTH };
	char *path = st_join(l, l->folder, "generation_config.json"), key[KEY_ROOM] = "generation.";
	cJSON *json = NULL;
	int rc = path ? NVLLM_OK : NVLLM_ENOMEM;

	if (path && (access(path, F_OK) == 0 || errno != ENOENT))
		rc = st_json(l, path, "", &limits, &json);
	if (rc < 0)
		return rc;
	put_members(p, json, key, strlen(key));
	put_pair(p, "generation.eos_token_id", json_get(config, "eos_token_id"));
	cJSON_Delete(json);
	return NVLLM_OK;
}

static int put_config(struct pairs *p, const struct nvllm_loader *l, const char *path,
	cJSON *config)
{
	char key[KEY_ROOM];
	int rc = check_quantised(l, path, config);

	put_name(p, l, config);
	put_architecture(p, config);
	put_dtype(p, config);
	if (rc == 0)
		rc = put_ropes(p, l, path, config, "rope_scaling");
	if (rc == 0)
		rc = put_ropes(p, l, path, config, "rope_parameters");
	if (rc == 0)
		rc = put_generation(p, l, config);
	if (rc < 0)
		return rc;
	cJSON_Delete(cJSON_DetachItemViaPointer(config, json_get(config, "generation")));
	put_members(p, config, key, 0);
	put_pair(p, "num_experts", json_get(config, "num_local_experts"));
	return NVLLM_OK;
}

int st_config(struct nvllm_loader *l)
{
	const struct json_limits limits = { CONFIG_BYTES, CONFIG_VALUES, CONFIG_DEPTH };
	char *path = st_join(l, l->folder, "config.json");
	struct pairs p = { .n = 0 };
	cJSON *config;
	int rc;

	if (!path)
		return NVLLM_ENOMEM;
	rc = st_json(l, path, ": a checkpoint needs it beside its weights, download it from the "
		"same place", &limits, &config);
	if (rc == 0)
		rc = put_config(&p, l, path, config);
	if (rc == 0)
		rc = keep(l, &p);
	cJSON_Delete(config);
	json_buf_free(&p.text);
	free(p.rows);
	return rc;
}

const char *st_meta(const struct nvllm_loader *l, const char *key)
{
	int64_t low = 0, high = l->n_config;

	while (low < high) {
		int64_t mid = low + (high - low) / 2;
		int d = strcmp(key, l->config[mid].key);

		if (d == 0)
			return l->config[mid].text;
		if (d < 0)
			high = mid;
		else
			low = mid + 1;
	}
	return NULL;
}
