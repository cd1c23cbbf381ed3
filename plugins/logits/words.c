/* SPDX-License-Identifier: MIT */
/* Which sequences of tokens a bad word stands for, as vLLM decides it (SamplingParams,
 * update_from_tokenizer): white space at its beginning goes; then it is encoded as it is,
 * and with a space before it, which counts where it makes another first token in a
 * sequence of the same length. No special tokens are added. */
#include <stdlib.h>
#include <string.h>

#include "utf8.h"
#include "words.h"

#define MAX_WORDS 65536
#define SHOWN 40 /* bytes of a word in a message */

/* What encoding one request's words needs. */
struct reader {
	const struct nvllm_host *host;
	const struct nvllm_logits_env *env;
	struct words *out;
	char *text;        /* a space and the longest word */
	int64_t word;      /* which one is read */
};

/* What Python's str.isspace() is true for. */
static int is_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
		c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
		c == 0x202f || c == 0x205f || c == 0x3000;
}

static struct nvllm_str strip_left(struct nvllm_str s)
{
	uint32_t c;

	while (s.len > 0) {
		size_t n = utf8_decode(s.s, (size_t)s.len, &c);

		if (n == 0 || !is_space(c))
			break;
		s.s += n;
		s.len -= (int64_t)n;
	}
	return s;
}

static int reserve(struct reader *r, int64_t more)
{
	struct words *w = r->out;
	int64_t room = w->room > 0 ? w->room : 64;
	int32_t *ids;

	if (more <= w->room - w->n)
		return NVLLM_OK;
	while (room - w->n < more)
		if (__builtin_mul_overflow(room, 2, &room) || room > INT32_MAX)
			return r->host->fail(r->host, NVLLM_ENOMEM, "bad_words are more than "
				"2^31 tokens");
	ids = realloc(w->ids, (size_t)room * sizeof(*ids));
	if (!ids)
		return r->host->fail(r->host, NVLLM_ENOMEM, "no memory for the %lld tokens of "
			"bad_words", (long long)room);
	w->ids = ids;
	w->room = room;
	return NVLLM_OK;
}

/* Writes the ids of text after a place for their count, which it returns; the words' n
 * stays. Negative: a refusal. */
static int64_t encode(struct reader *r, const char *text, int64_t len)
{
	const struct nvllm_logits_env *e = r->env;
	struct words *w = r->out;
	int64_t n = len + 8, room;
	int rc;

	do { /* once more where there are more tokens than bytes */
		room = n;
		rc = reserve(r, 1 + room);
		if (rc)
			return rc;
		n = e->tok_vt->encode(e->tok, text, len, 0, w->ids + w->n + 1, room);
	} while (n > room);
	for (int64_t i = 0; i < n; i++) {
		int32_t id = w->ids[w->n + 1 + i];

		if (id < 0 || id >= e->vocab)
			return r->host->fail(r->host, NVLLM_EINVAL, "bad_words[%lld]: token %d of "
				"its encoding is none of the model's %lld: leave the word out",
				(long long)r->word, id, (long long)e->vocab);
	}
	return n;
}

static void keep(struct words *w, int64_t n)
{
	w->ids[w->n] = (int32_t)n;
	w->n += 1 + n;
}

/* r->text is a space and then the len bytes of the word. */
static int read_word(struct reader *r, int64_t len)
{
	struct words *w = r->out;
	int64_t at = w->n, n = encode(r, r->text + 1, len), m;

	if (n < 0)
		return (int)n;
	if (n == 0)
		return r->host->fail(r->host, NVLLM_EINVAL, "bad_words[%lld] ('%.*s') encodes to "
			"no token at all, so it cannot be kept out: leave it out",
			(long long)r->word, len < SHOWN ? (int)len : SHOWN, r->text + 1);
	keep(w, n);
	m = encode(r, r->text, len + 1);
	if (m == n && w->ids[w->n + 1] != w->ids[at + 1])
		keep(w, m);
	return m < 0 ? (int)m : NVLLM_OK;
}

static int read_words(struct reader *r, const struct nvllm_params *p)
{
	for (r->word = 0; r->word < p->n_bad_words; r->word++) {
		struct nvllm_str s = strip_left(p->bad_words[r->word]);
		int rc;

		if (s.len <= 0)
			return r->host->fail(r->host, NVLLM_EINVAL, "bad_words[%lld] is %s: leave "
				"it out", (long long)r->word, p->bad_words[r->word].len > 0 ?
				"white space alone" : "an empty text");
		memcpy(r->text + 1, s.s, (size_t)s.len);
		rc = read_word(r, s.len);
		if (rc)
			return rc;
	}
	return NVLLM_OK;
}

int words_read(const struct nvllm_host *host, const struct nvllm_logits_env *env,
	const struct nvllm_params *p, struct words *out)
{
	struct reader r = { .host = host, .env = env, .out = out };
	int64_t longest = 0;
	int rc;

	if (p->n_bad_words <= 0)
		return NVLLM_OK;
	if (p->n_bad_words > MAX_WORDS)
		return host->fail(host, NVLLM_EINVAL, "%lld bad_words, at most %d can be kept out",
			(long long)p->n_bad_words, MAX_WORDS);
	for (int64_t i = 0; i < p->n_bad_words; i++)
		longest = p->bad_words[i].len > longest ? p->bad_words[i].len : longest;
	r.text = malloc((size_t)longest + 1);
	if (!r.text)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a bad word of %lld bytes",
			(long long)longest);
	r.text[0] = ' ';
	rc = read_words(&r, p);
	free(r.text);
	return rc;
}
