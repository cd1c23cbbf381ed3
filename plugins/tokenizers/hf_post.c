/* SPDX-License-Identifier: MIT */
/* hf_post.c - decides which ids a post-processor puts before and after a text. */
#include "hf.h"

#include <stdio.h>
#include <string.h>

static int put(struct hf *hf, const char *where, bool after, const cJSON *id)
{
	int32_t *n = after ? &hf->n_after : &hf->n_before;
	int32_t *ids = after ? hf->after : hf->before;
	int64_t x;

	if (json_int64(id, &x) < 0 || x < 0 || x >= HF_MAX_IDS)
		return hf_bad(hf, where, "an id is no whole number of 0..%d", HF_MAX_IDS - 1);
	if (*n == HF_MAX_ADD)
		return hf_bad(hf, where, "more than %d ids", HF_MAX_ADD);
	ids[(*n)++] = (int32_t)x;
	return NVLLM_OK;
}

/* The ids of a special token of a template, by its name. */
static int put_special(struct hf *hf, const cJSON *step, const char *where, bool after,
	const char *name)
{
	const cJSON *ids = json_get(json_get(json_get(step, "special_tokens"), name), "ids"), *id;
	int rc = NVLLM_OK;

	if (!cJSON_IsArray(ids))
		return hf_bad(hf, where, "'special_tokens' has no list 'ids' for '%.60s'", name);
	cJSON_ArrayForEach(id, ids) {
		rc = put(hf, where, after, id);
		if (rc < 0)
			break;
	}
	return rc;
}

/* The reference lets a second one take the tokens of the first for texts of their own. */
static int only_one(struct hf *hf, const char *where)
{
	if (hf->post_says)
		return hf_bad(hf, where,
			"a second post-processor that adds tokens is not done here");
	hf->post_says = true;
	return NVLLM_OK;
}

static int read_template(struct hf *hf, const cJSON *step, const char *where)
{
	const cJSON *single = json_get(step, "single"), *item;
	int seen = 0, rc = only_one(hf, where);

	if (rc < 0)
		return rc;
	if (!cJSON_IsArray(single))
		return hf_bad(hf, where, "has no list 'single'");
	cJSON_ArrayForEach(item, single) {
		const cJSON *special = json_get(item, "SpecialToken");
		const char *of = cJSON_GetStringValue(json_get(json_get(item, "Sequence"), "id"));
		const char *name = cJSON_GetStringValue(json_get(special, "id"));

		if (of && !strcmp(of, "A")) {
			seen++;
			continue;
		}
		if (!name)
			return hf_bad(hf, where, "'single' has something that is neither a "
				"SpecialToken nor the Sequence A");
		rc = put_special(hf, step, where, seen > 0, name);
		if (rc < 0)
			return rc;
	}
	if (seen != 1)
		return hf_bad(hf, where, "'single' has the Sequence A %d times, not once", seen);
	return NVLLM_OK;
}

/* BERT's and RoBERTa's: [text, id] for each of cls and sep. */
static int read_cls_sep(struct hf *hf, const cJSON *step, const char *where)
{
	static const char *const keys[2] = { "cls", "sep" };
	int rc = only_one(hf, where);

	if (rc < 0)
		return rc;
	for (int i = 0; i < 2; i++) {
		const cJSON *pair = json_get(step, keys[i]);

		if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2)
			return hf_bad(hf, where, "'%s' is no pair of a text and an id", keys[i]);
		rc = put(hf, where, i == 1, pair->child->next);
		if (rc < 0)
			return rc;
	}
	return NVLLM_OK;
}

/* It moves offsets only, which nobody asks for here. */
static int read_byte_level(struct hf *hf, const cJSON *step, const char *where)
{
	return NVLLM_OK;
}

static const struct {
	const char *type;
	int (*read)(struct hf *, const cJSON *, const char *where);
} names[] = {
	{ "TemplateProcessing", read_template },
	{ "BertProcessing", read_cls_sep },
	{ "RobertaProcessing", read_cls_sep },
	{ "ByteLevel", read_byte_level },
};

static int read_step(struct hf *hf, const cJSON *step, const char *where)
{
	const char *type = hf_type(hf, step, where);

	if (!type)
		return NVLLM_EINVAL;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i].type, type))
			return names[i].read(hf, step, where);
	return hf_bad(hf, where, "the post-processor '%.60s' is not known here", type);
}

int hf_post_read(struct hf *hf, const cJSON *post_processor)
{
	return hf_each(hf, post_processor, "post_processor", "processors", read_step);
}
