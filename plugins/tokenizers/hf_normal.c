/* SPDX-License-Identifier: MIT */
/* hf_normal.c - decides what a normalizer makes of a text. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* ---- the steps ---- */

static int prepend(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	if (len)
		json_put_raw(out, n->text, n->text_len);
	json_put_raw(out, s, len);
	return NVLLM_OK;
}

static int replace(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	struct hf_matches m = { .pattern = &n->pattern, .s = s, .len = len };
	size_t at = 0;
	int rc;

	while ((rc = hf_match_next(&m, call)) > 0) {
		call->cut = call->cut || (m.from == 0 && m.to > 0 && n->text_len == 0);
		json_put_raw(out, s + at, m.from - at);
		json_put_raw(out, n->text, n->text_len);
		at = m.to;
	}
	json_put_raw(out, s + at, len - at);
	return rc;
}

static int unicode_form(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	return hf_unicode_form(call->hf, n->form, s, len, out);
}

/* Calls one() for every character. */
static int each_char(struct hf_call *call, const char *s, size_t len, struct json_buf *out,
	void (*one)(uint32_t c, const char *s, size_t n, struct json_buf *out))
{
	for (size_t at = 0, n; at < len; at += n) {
		uint32_t c = 0;

		n = utf8_decode(s + at, len - at, &c);
		if (n == 0)
			return NVLLM_EINVAL; /* the text was checked */
		one(c, s + at, n, out);
		call->cut = call->cut || (at == 0 && out->len == 0);
	}
	return NVLLM_OK;
}

static void lower_char(uint32_t c, const char *s, size_t n, struct json_buf *out)
{
	uint32_t to = hf_lower(c);
	char utf8[4];

	if (c == 0x130) /* the one whose lower case is two: i and a dot above */
		json_put_raw(out, "i\xCC\x87", 3);
	else if (to == c)
		json_put_raw(out, s, n);
	else
		json_put_raw(out, utf8, utf8_encode(to, utf8));
}

static int lowercase(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	return each_char(call, s, len, out, lower_char);
}

static void accent_char(uint32_t c, const char *s, size_t n, struct json_buf *out)
{
	if (!hf_is_mark(c))
		json_put_raw(out, s, n);
}

static int strip_accents(const struct hf_normal *n, struct hf_call *call, const char *s,
	size_t len, struct json_buf *out)
{
	return each_char(call, s, len, out, accent_char);
}

static void byte_char(uint32_t c, const char *s, size_t n, struct json_buf *out)
{
	for (size_t i = 0; i < n; i++) {
		char utf8[2];

		json_put_raw(out, utf8, (size_t)hf_byte_char((unsigned char)s[i], utf8));
	}
}

static int byte_level(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	return each_char(call, s, len, out, byte_char);
}

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };

static int strip(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	size_t from = n->form & STRIP_LEFT ? hf_spaces_to(s, len, 0) : 0;

	if (n->form & STRIP_RIGHT)
		len = hf_spaces_from(s, len, from);
	json_put_raw(out, s + from, len - from);
	call->cut = call->cut || from > 0;
	return NVLLM_OK;
}

/* SentencePiece's NMT rules, as the library has them: control characters go, other kinds of space
 * become one. */
static void nmt_char(uint32_t c, const char *s, size_t n, struct json_buf *out)
{
	if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F ||
		c == 0x9F)
		return;
	if (c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
		(c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
		c == 0xFEFF || c == 0xFFFD)
		json_put_raw(out, " ", 1);
	else
		json_put_raw(out, s, n);
}

static int nmt(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	return each_char(call, s, len, out, nmt_char);
}

static int precompiled(const struct hf_normal *n, struct hf_call *call, const char *s, size_t len,
	struct json_buf *out)
{
	return call->hf->kinds->precompiled->run(n->precompiled, call, s, len, out);
}

/* ---- reading ---- */

typedef int read_fn(struct hf *, const cJSON *step, const char *where, struct hf_normal *);

static int read_prepend(struct hf *hf, const cJSON *step, const char *where, struct hf_normal *n)
{
	return hf_get_text(hf, step, where, "prepend", NULL, &n->text, &n->text_len);
}

static int read_replace(struct hf *hf, const cJSON *step, const char *where, struct hf_normal *n)
{
	int rc = hf_get_pattern(hf, step, where, &n->pattern);

	return rc < 0 ? rc : hf_get_text(hf, step, where, "content", NULL, &n->text, &n->text_len);
}

static int read_strip(struct hf *hf, const cJSON *step, const char *where, struct hf_normal *n)
{
	bool left, right;
	int rc;

	if ((rc = hf_get_bool(hf, step, where, "strip_left", true, &left)) < 0 ||
	    (rc = hf_get_bool(hf, step, where, "strip_right", true, &right)) < 0)
		return rc;
	n->form = (left ? STRIP_LEFT : 0) | (right ? STRIP_RIGHT : 0);
	return NVLLM_OK;
}

static int read_precompiled(struct hf *hf, const cJSON *step, const char *where,
	struct hf_normal *n)
{
	if (!hf->kinds->precompiled)
		return hf_bad(hf, where, "a charsmap of SentencePiece ('Precompiled') is not known "
			"to this tokenizer: take tokenizer 'spm'");
	return hf->kinds->precompiled->create(hf, step, where, &n->precompiled);
}

static const struct normal_name {
	const char *type;
	hf_normal_fn *run;
	read_fn *read;
	int form;
} names[] = {
	{ "Prepend", prepend, read_prepend, 0 },
	{ "Replace", replace, read_replace, 0 },
	{ "NFC", unicode_form, NULL, HF_NFC },
	{ "NFD", unicode_form, NULL, HF_NFD },
	{ "NFKC", unicode_form, NULL, HF_NFKC },
	{ "NFKD", unicode_form, NULL, HF_NFKD },
	{ "Lowercase", lowercase, NULL, 0 },
	{ "Strip", strip, read_strip, 0 },
	{ "StripAccents", strip_accents, NULL, 0 },
	{ "ByteLevel", byte_level, NULL, 0 },
	{ "Nmt", nmt, NULL, 0 },
	{ "Precompiled", precompiled, read_precompiled, 0 },
};

static int read_step(struct hf *hf, const cJSON *step, const char *where)
{
	const char *type = hf_type(hf, step, where);
	struct hf_normal *n = &hf->normals[hf->n_normals];
	size_t i = 0;

	if (!type)
		return NVLLM_EINVAL;
	if (hf->n_normals == HF_MAX_STEPS)
		return hf_bad(hf, where, "more than %d normalizers", HF_MAX_STEPS);
	while (i < sizeof(names) / sizeof(names[0]) && strcmp(names[i].type, type))
		i++;
	if (i == sizeof(names) / sizeof(names[0]))
		return hf_bad(hf, where, "the normalizer '%.60s' is not known here", type);
	*n = (struct hf_normal){ .run = names[i].run, .form = names[i].form };
	hf->n_normals++;
	if (names[i].run == unicode_form && hf_nfc_init(hf) < 0)
		return NVLLM_ENOMEM;
	return names[i].read ? names[i].read(hf, step, where, n) : NVLLM_OK;
}

int hf_normal_read(struct hf *hf, const cJSON *normalizer)
{
	return hf_each(hf, normalizer, "normalizer", "normalizers", read_step);
}

/* ---- running ---- */

int hf_normalize(const struct hf *hf, struct hf_call *call, const char *s, size_t len,
	const char **out, size_t *out_len)
{
	call->cut = false;
	for (int i = 0; i < hf->n_normals; i++) {
		const struct hf_normal *n = &hf->normals[i];
		struct json_buf *to = &call->text[i % 2];
		int rc;

		if (n->run == unicode_form && n->form == HF_NFC && hf_is_nfc(hf, s, len))
			continue;
		if (s == to->s)
			to = &call->text[(i + 1) % 2];
		to->len = 0;
		rc = n->run(n, call, s, len, to);
		if (rc >= 0 && to->failed)
			rc = NVLLM_ENOMEM;
		if (rc == NVLLM_ENOMEM)
			json_buf_free(to);
		if (rc < 0)
			return rc == NVLLM_ENOMEM ? hf->host->fail(hf->host, rc,
				"no memory to normalize a text of %zu bytes", len) : rc;
		s = to->s ? to->s : "";
		len = to->len;
	}
	*out = s;
	*out_len = len;
	return NVLLM_OK;
}
