/* SPDX-License-Identifier: MIT */
/* hf_decode.c - decides which bytes each token adds to a text: the decoders run once over every
 * token by itself. What a decoder does to the joined text can be told token by token only in part:
 * the first token may lose its space; what reaches further is refused. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* A token on its way through the decoders. */
struct state {
	struct json_buf s, other;
	int byte;        /* 0..255: it is this byte */
	bool first;      /* it is the first of the text */
	struct hf_call *call;
};

struct hf_decode_kind {
	const char *type;
	int (*read)(struct hf *, const cJSON *step, const char *where, struct hf_decode *);
	int (*run)(const struct hf_decode *, struct state *);
};

static void swap(struct state *x)
{
	struct json_buf s = x->s;

	x->s = x->other;
	x->other = s;
}

/* ---- running ---- */

static int run_replace(const struct hf_decode *d, struct state *x)
{
	struct hf_matches m = { .pattern = &d->pattern, .s = x->s.s, .len = x->s.len };
	size_t at = 0;
	int rc = 0;

	if (x->byte >= 0 || x->s.len == 0)
		return 0;
	x->other.len = 0;
	while ((rc = hf_match_next(&m, x->call)) > 0) {
		json_put_raw(&x->other, x->s.s + at, m.from - at);
		json_put_raw(&x->other, d->text, d->text_len);
		at = m.to;
	}
	json_put_raw(&x->other, x->s.s + at, x->s.len - at);
	swap(x);
	return rc;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 :
		c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0xNN>"; so is "<0x+N>", because Rust reads that as a number. */
static int run_byte_fallback(const struct hf_decode *d, struct state *x)
{
	const char *s = x->s.s;
	int hi, lo;
	char byte;

	if (x->byte >= 0 || x->s.len != 6 || memcmp(s, "<0x", 3) || s[5] != '>')
		return 0;
	hi = s[3] == '+' ? 0 : hex(s[3]);
	lo = hex(s[4]);
	if (hi < 0 || lo < 0)
		return 0;
	x->byte = hi << 4 | lo;
	byte = (char)x->byte;
	x->s.len = 0;
	json_put_raw(&x->s, &byte, 1);
	return 0;
}

static int run_byte_level(const struct hf_decode *d, struct state *x)
{
	x->other.len = 0;
	for (size_t at = 0, n; at < x->s.len; at += n) {
		uint32_t c = (unsigned char)x->s.s[at];
		int byte;
		char b;

		n = c < 0x80 ? 1 : utf8_decode(x->s.s + at, x->s.len - at, &c);
		byte = n ? hf_char_byte(c) : -1;
		if (byte < 0)
			return 0; /* a character outside the alphabet: text as it stands */
		b = (char)byte;
		json_put_raw(&x->other, &b, 1);
	}
	json_put(&x->other, "");
	swap(x);
	return 0;
}

static int run_fuse(const struct hf_decode *d, struct state *x)
{
	return 0;
}

/* At most start and stop times the character, from the beginning and the end. After Fuse that is
 * the beginning of the text. */
static int run_strip(const struct hf_decode *d, struct state *x)
{
	size_t from = 0, end = x->s.len, n = d->text_len;

	for (int64_t i = 0; i < d->start && end - from >= n; i++) {
		if (memcmp(x->s.s + from, d->text, n))
			break;
		from += n;
	}
	for (int64_t i = 0; i < d->stop && end - from >= n; i++) {
		if (memcmp(x->s.s + end - n, d->text, n))
			break;
		end -= n;
	}
	if (from || end < x->s.len) {
		memmove(x->s.s, x->s.s + from, end - from);
		x->s.len = end - from;
	}
	return 0;
}

static int run_strip_text(const struct hf_decode *d, struct state *x)
{
	return x->first ? run_strip(d, x) : 0;
}

static int run_metaspace(const struct hf_decode *d, struct state *x)
{
	struct hf_decode to = *d;

	to.text = x->first && d->start ? "" : " ";
	to.text_len = strlen(to.text);
	return run_replace(&to, x);
}

/* ---- reading ---- */

static int read_replace(struct hf *hf, const cJSON *step, const char *where, struct hf_decode *d)
{
	int rc = hf_get_pattern(hf, step, where, &d->pattern);

	if (rc >= 0)
		rc = hf_get_text(hf, step, where, "content", NULL, &d->text, &d->text_len);
	if (rc >= 0 && hf->fused && (!d->pattern.s ||
		utf8_decode(d->pattern.s, d->pattern.len, NULL) != d->pattern.len))
		return hf_bad(hf, where, "after Fuse or ByteLevel only one character can be "
			"replaced, because text is sent token by token");
	return rc;
}

static int read_byte_level(struct hf *hf, const cJSON *step, const char *where,
	struct hf_decode *d)
{
	if (hf->fused)
		return hf_bad(hf, where, "ByteLevel after Fuse or ByteLevel needs the whole text, "
			"but text is sent token by token");
	hf->fused = true;
	return NVLLM_OK;
}

static int read_fuse(struct hf *hf, const cJSON *step, const char *where, struct hf_decode *d)
{
	hf->fused = true;
	return NVLLM_OK;
}

static int read_strip(struct hf *hf, const cJSON *step, const char *where, struct hf_decode *d)
{
	int rc;

	if ((rc = hf_get_text(hf, step, where, "content", NULL, &d->text, &d->text_len)) < 0 ||
	    (rc = hf_get_int(hf, step, where, "start", 0, 1000, 0, &d->start)) < 0 ||
	    (rc = hf_get_int(hf, step, where, "stop", 0, 1000, 0, &d->stop)) < 0)
		return rc;
	if (d->text_len == 0 || utf8_decode(d->text, d->text_len, NULL) != d->text_len)
		return hf_bad(hf, where, "'content' is not one character");
	if (hf->fused && (d->start > 1 || d->stop))
		return hf_bad(hf, where, "strips %lld characters from the beginning of the text "
			"and %lld from its end; only one from the beginning can be, because text is "
			"sent token by token", (long long)d->start, (long long)d->stop);
	d->whole = hf->fused;
	hf->first_matters = hf->first_matters || d->whole;
	return NVLLM_OK;
}

static int read_metaspace(struct hf *hf, const cJSON *step, const char *where,
	struct hf_decode *d)
{
	const char *scheme;
	size_t len;
	bool prefix;
	int rc;

	if ((rc = hf_get_text(hf, step, where, "replacement", NULL, &d->pattern.s,
		    &d->pattern.len)) < 0 ||
	    (rc = hf_get_bool(hf, step, where, "add_prefix_space", true, &prefix)) < 0 ||
	    (rc = hf_get_text(hf, step, where, "prepend_scheme", prefix ? "always" : "never",
		    &scheme, &len)) < 0)
		return rc;
	if (!d->pattern.len || utf8_decode(d->pattern.s, d->pattern.len, NULL) != d->pattern.len)
		return hf_bad(hf, where, "'replacement' is not one character");
	if (hf->fused)
		return hf_bad(hf, where, "Metaspace after Fuse or ByteLevel is not done here");
	d->start = strcmp(scheme, "never") != 0;
	hf->first_matters = true;
	return NVLLM_OK;
}

static const struct hf_decode_kind kinds[] = {
	{ "Replace", read_replace, run_replace },
	{ "ByteFallback", NULL, run_byte_fallback },
	{ "ByteLevel", read_byte_level, run_byte_level },
	{ "Fuse", read_fuse, run_fuse },
	{ "Strip", read_strip, run_strip },
	{ "Metaspace", read_metaspace, run_metaspace },
};

static int read_step(struct hf *hf, const cJSON *step, const char *where)
{
	const char *type = hf_type(hf, step, where);
	struct hf_decode *d = &hf->decodes[hf->n_decodes];

	if (!type)
		return NVLLM_EINVAL;
	if (hf->n_decodes == HF_MAX_STEPS)
		return hf_bad(hf, where, "more than %d decoders", HF_MAX_STEPS);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].type, type))
			continue;
		*d = (struct hf_decode){ .kind = &kinds[i] };
		hf->n_decodes++;
		return kinds[i].read ? kinds[i].read(hf, step, where, d) : NVLLM_OK;
	}
	return hf_bad(hf, where, "the decoder '%.60s' is not known here", type);
}

int hf_decode_read(struct hf *hf, const cJSON *decoder)
{
	hf->has_decoder = decoder && !cJSON_IsNull(decoder);
	hf->first_matters = !hf->has_decoder;
	return hf_each(hf, decoder, "decoder", "decoders", read_step);
}

/* ---- the pieces ---- */

static int decode_one(const struct hf *hf, const struct hf_text *t, struct state *x)
{
	x->byte = -1;
	x->s.len = 0;
	if (!hf->has_decoder && !x->first && t->s)
		json_put(&x->s, " ");
	json_put_raw(&x->s, t->s ? t->s : "", (size_t)(t->s ? t->len : 0));
	for (int i = 0; i < hf->n_decodes && t->s; i++) {
		const struct hf_decode *d = &hf->decodes[i];
		int rc = d->whole ? run_strip_text(d, x) : d->kind->run(d, x);

		if (rc < 0)
			return rc;
	}
	return x->s.failed || x->other.failed ? NVLLM_ENOMEM : NVLLM_OK;
}

/* Both forms of a token, one after the other in all: the usual one, then the first one where it
 * differs. */
static int piece_put(struct hf *hf, int32_t id, const struct hf_text *t, struct state *x,
	struct json_buf *all)
{
	struct hf_pieces *p = &hf->pieces;
	size_t from = all->len, n;
	int rc;

	x->first = false;
	rc = decode_one(hf, t, x);
	if (rc < 0)
		return rc;
	n = x->s.len;
	json_put_raw(all, x->s.s, n);
	p->at[id] = (int64_t)from;
	p->len[id] = (int32_t)n;
	p->byte[id] = (int16_t)x->byte;
	p->longest = (int32_t)n > p->longest ? (int32_t)n : p->longest;
	p->first_at[id] = p->at[id];
	p->first_len[id] = p->len[id];
	if (!hf->first_matters || all->failed)
		return all->failed ? NVLLM_ENOMEM : NVLLM_OK;
	x->first = true;
	rc = decode_one(hf, t, x);
	if (rc < 0)
		return rc;
	p->first_len[id] = (int32_t)x->s.len;
	if (x->s.len != n || memcmp(x->s.s, all->s + from, n)) {
		p->first_at[id] = (int64_t)all->len;
		json_put_raw(all, x->s.s, x->s.len);
	}
	return all->failed ? NVLLM_ENOMEM : NVLLM_OK;
}

static bool is_special(const struct hf *hf, const struct hf_text *t)
{
	int32_t i = t->s ? hf_added_index(hf, t->s, (size_t)t->len) : -1;

	return i >= 0 && hf->added[i].special;
}

/* What decoders see of each id: the model's text, of an added token the form that is looked for. */
static struct hf_text *texts_of(const struct hf *hf)
{
	struct hf_text *t = malloc((size_t)hf->vocab.n * sizeof(*t));

	if (!t)
		return NULL;
	if (hf->vocab.n) /* else there is no list */
		memcpy(t, hf->vocab.texts, (size_t)hf->vocab.n * sizeof(*t));
	for (int32_t i = 0; i < hf->n_added; i++)
		t[hf->added[i].id] = (struct hf_text){ .s = hf->added[i].form,
			.len = hf->added[i].form_len };
	return t;
}

int hf_decode_end(struct hf *hf)
{
	struct hf_pieces *p = &hf->pieces;
	struct json_buf all = { 0 };
	struct state x = { .call = hf_call_create(hf) };
	size_t n = (size_t)hf->vocab.n;
	struct hf_text *texts = texts_of(hf);
	int rc = NVLLM_OK;

	p->at = hf_alloc(hf, n, sizeof(*p->at));
	p->len = hf_alloc(hf, n, sizeof(*p->len));
	p->first_at = hf_alloc(hf, n, sizeof(*p->first_at));
	p->first_len = hf_alloc(hf, n, sizeof(*p->first_len));
	p->byte = hf_alloc(hf, n, sizeof(*p->byte));
	p->special = hf_alloc(hf, n, 1);
	if (!x.call || !texts || !p->at || !p->len || !p->first_at || !p->first_len ||
		!p->byte || !p->special)
		rc = NVLLM_ENOMEM;
	for (int32_t id = 0; id < hf->vocab.n && rc >= 0; id++) {
		rc = piece_put(hf, id, &texts[id], &x, &all);
		p->special[id] = rc >= 0 && is_special(hf, &texts[id]);
	}
	if (rc >= 0) {
		p->bytes = hf_copy(hf, all.s ? all.s : "", all.len);
		rc = p->bytes ? NVLLM_OK : NVLLM_ENOMEM;
	}
	json_buf_free(&all);
	json_buf_free(&x.s);
	json_buf_free(&x.other);
	hf_call_destroy(x.call);
	free(texts);
	return rc == NVLLM_ENOMEM ? hf->host->fail(hf->host, rc,
		"no memory for a vocabulary of %d tokens", hf->vocab.n) : rc;
}
