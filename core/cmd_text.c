/* SPDX-License-Identifier: MIT */
/* cmd_text.c - decides what `nvllm tokenize` and `nvllm detokenize` make of a line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "engine_int.h"
#include "json.h"
#include "utf8.h"

struct lines {
	const struct source *src;
	uint32_t encode_flags, piece_flags;
	int64_t line;
	int32_t *ids;             /* grows */
	int64_t room;
	struct json_buf bytes, out;
};

static int bad_line(const struct lines *l, const char *why)
{
	return fail(NVLLM_EINVAL, "standard input, line %lld: %s", (long long)l->line, why);
}

static int grow_ids(struct lines *l, int64_t n)
{
	int32_t *more = n <= l->room ? l->ids : realloc(l->ids, (size_t)n * sizeof(*more));

	if (!more)
		return bad_line(l, "no memory for its tokens");
	l->ids = more;
	l->room = n > l->room ? n : l->room;
	return NVLLM_OK;
}

static int bad_json(const struct lines *l, const struct json_error *err)
{
	return fail(NVLLM_EINVAL, "standard input, line %lld, byte %zu: %s", (long long)l->line, err->offset + 1, err->why);
}

/* A JSON string, \u0000 included. */
static int tokenize_line(struct lines *l, const char *line, size_t line_len)
{
	struct json_error err;
	const char *text;
	int64_t len, n = 0;

	l->bytes.len = 0;
	if (json_string(line, line_len, &l->bytes, &err))
		return bad_json(l, &err);
	text = l->bytes.s ? l->bytes.s : "";
	len = (int64_t)l->bytes.len;
	if (grow_ids(l, len + 16))
		return NVLLM_ENOMEM;
	n = l->src->tok_vt->encode(l->src->tok, text, len, l->encode_flags, l->ids, l->room);
	if (n > l->room) {
		if (grow_ids(l, n))
			return NVLLM_ENOMEM;
		n = l->src->tok_vt->encode(l->src->tok, text, len, l->encode_flags, l->ids, l->room);
	}
	if (n < 0)
		return fail_prefix((int)n, "standard input, line %lld: ", (long long)l->line);
	json_put(&l->out, "[");
	for (int64_t i = 0; i < n; i++) {
		json_put(&l->out, i ? ", " : "");
		json_put_int(&l->out, l->ids[i]);
	}
	json_put(&l->out, "]");
	return NVLLM_OK;
}

/* Byte tokens in a row are one text: all of it, or one U+FFFD a byte. */
static void end_run(struct lines *l, struct json_buf *run)
{
	if (utf8_check(run->s ? run->s : "", run->len) == run->len)
		json_put_raw(&l->bytes, run->s ? run->s : "", run->len);
	else
		for (size_t i = 0; i < run->len; i++)
			json_put(&l->bytes, "\xEF\xBF\xBD");
	run->len = 0;
}

/* Adds one token's text. Ids outside the vocabulary are passed over, as Hugging Face's
 * tokenizers do. */
static void put_token(struct lines *l, struct json_buf *run, int64_t id, bool *begun)
{
	const struct source *src = l->src;
	int32_t len = 0, byte;
	const char *s = id < 0 || id > INT32_MAX ? NULL :
		src->tok_vt->piece(src->tok, (int32_t)id, l->piece_flags, &len);
	char c;

	if (!s || !len)
		return;
	if (!*begun)
		s = src->tok_vt->piece(src->tok, (int32_t)id, l->piece_flags | NVLLM_PIECE_FIRST, &len);
	*begun = true;
	byte = source_byte(src, (int32_t)id);
	if (byte < 0) {
		end_run(l, run);
		json_put_raw(&l->bytes, s, (size_t)len);
		return;
	}
	c = (char)byte;
	json_put_raw(run, &c, 1);
}

static int put_tokens(struct lines *l, const cJSON *list)
{
	struct json_buf run = { 0 };
	bool begun = false, failed;
	const cJSON *item;
	int rc = NVLLM_OK;

	cJSON_ArrayForEach(item, list) {
		int64_t id;

		if (json_int64(item, &id)) {
			rc = bad_line(l, "a token id is not a whole number");
			break;
		}
		put_token(l, &run, id, &begun);
	}
	end_run(l, &run);
	failed = run.failed || l->bytes.failed;
	json_buf_free(&run);
	return rc || !failed ? rc : bad_line(l, "no memory");
}

static int detokenize_line(struct lines *l, const char *line, size_t len)
{
	struct json_error err;
	cJSON *v;
	int rc;

	if (json_parse(line, len, NULL, &v, &err))
		return bad_json(l, &err);
	l->bytes.len = 0;
	rc = cJSON_IsArray(v) ? put_tokens(l, v) : bad_line(l, "not a JSON array of token ids");
	cJSON_Delete(v);
	json_put_string(&l->out, l->bytes.s ? l->bytes.s : "", l->bytes.len);
	return rc;
}

static int one_line(struct lines *l, const char *s, size_t len, int (*fn)(struct lines *, const char *, size_t))
{
	int rc;

	l->out.len = 0;
	rc = fn(l, s, len);
	json_put(&l->out, "\n");
	if (!rc && l->out.failed)
		rc = bad_line(l, "no memory");
	if (!rc && (fwrite(l->out.s, 1, l->out.len, stdout) != l->out.len || fflush(stdout)))
		rc = fail(NVLLM_EIO, "standard output cannot be written: %s", strerror(errno));
	return rc;
}

/* Each line of standard input through fn, its answer out at once. */
static int each_line(struct lines *l, int (*fn)(struct lines *, const char *, size_t))
{
	char *s = NULL;
	size_t room = 0;
	int rc = NVLLM_OK;
	ssize_t n;

	while (!rc && (n = getline(&s, &room, stdin)) >= 0) {
		l->line++;
		if (n > 0 && s[n - 1] == '\n')
			n--;
		rc = one_line(l, s, (size_t)n, fn);
	}
	if (!rc && ferror(stdin))
		rc = fail(NVLLM_EIO, "standard input cannot be read: %s", strerror(errno));
	free(s);
	return rc;
}

static int run_lines(const struct cli *c, struct conf *conf, struct plugins *plugins,
	bool plain_too, int (*fn)(struct lines *, const char *, size_t))
{
	struct lines l = { .encode_flags = NVLLM_ENCODE_SPECIAL };
	const char *path = NULL, *s;
	struct source *src = NULL;
	int at = 0, rc;

	while ((s = next_word(c, &at))) {
		if (!strcmp(s, "--no-special")) {
			l.encode_flags &= ~(uint32_t)NVLLM_ENCODE_SPECIAL;
			l.piece_flags |= NVLLM_PIECE_SKIP_SPECIAL;
		} else if (plain_too && !strcmp(s, "--plain")) {
			l.encode_flags |= NVLLM_ENCODE_PLAIN;
		} else if (s[0] == '-' || path) {
			return usage("'%s' takes no '%.80s'", c->word, s);
		} else {
			path = s;
		}
	}
	if (!path)
		return usage("'%s' needs the PATH of a checkpoint or a tokenizer file", c->word);
	rc = source_open(plugins, conf, path, false, &src);
	l.src = src;
	if (!rc)
		rc = each_line(&l, fn);
	source_close(src);
	free(l.ids);
	json_buf_free(&l.bytes);
	json_buf_free(&l.out);
	return rc ? failed() : NVLLM_EXIT_OK;
}

int cmd_tokenize(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	return run_lines(c, conf, plugins, true, tokenize_line);
}

int cmd_detokenize(const struct cli *c, struct conf *conf, struct plugins *plugins)
{
	return run_lines(c, conf, plugins, false, detokenize_line);
}
