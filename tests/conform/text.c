/* SPDX-License-Identifier: MIT */
/* tests/conform/text.c - tokenizers and chat templates: lengths are told the same with
 * and without room, nothing is written past it, bad paths and bad text are refused, and
 * with --file text comes back as it went in. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core.h"

/* ---- the loader that can read --file ---- */

struct found { const struct nvllm_component *c; int sure; };

static int probe_one(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct found *f = arg;
	int sure;

	(void)p, (void)file, (void)why;
	if (!c)
		return 0;
	sure = ((const struct nvllm_loader_vt *)c->vt)->probe(ck_opts->file);
	if (sure > f->sure)
		f->sure = sure, f->c = c;
	return 0;
}

/* NULL where no loader plugin takes the file: a bare tokenizer file. */
static const struct nvllm_loader_ref *file_loader(void)
{
	static const char *const none[] = { NULL };
	struct nvllm_loader_ref *ref = calloc(1, sizeof(*ref));
	struct plugins *ps = plugins_create(none, getenv("NVLLM_PLUGIN_PATH"));
	struct found f = { NULL, 0 };
	int err;

	if (!ps || !ref || plugins_each(ps, NVLLM_KIND_LOADER, probe_one, &f) || !f.c)
		return NULL;
	ref->size = sizeof(*ref);
	ref->vt = f.c->vt;
	return ref->vt->open(fake_host(), ck_opts->file, ck_conf(f.c, NULL, &err), &ref->loader)
		? NULL
		: ref;
}

/* ---- tokenizer ---- */

static struct nvllm_tokenizer *tok_open(
	const struct nvllm_component *c, const struct nvllm_loader_ref *l, const char *path)
{
	const struct nvllm_tokenizer_vt *vt = c->vt;
	struct nvllm_tokenizer *t = NULL;
	int err, status;
	const void *conf = ck_conf(c, NULL, &err);

	if (err)
		return NULL;
	fake_hush();
	status = vt->probe(l, path);
	if (status < 0 || status > 100)
		ck_bad("probe returned %d", status);
	status = ck_refusal(vt->open(fake_host(), l, path, conf, &t), "open");
	if (status == 0 && !t)
		ck_bad("open returned 0 and no instance");
	return status ? NULL : t;
}

static void check_tok_refusals(const struct nvllm_component *c)
{
	static const char *const paths[] = { "/nonexistent/tokenizer.json", "", "/dev/null" };

	ck_begin("without a loader and with a bad path it is refused");
	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
		if (tok_open(c, NULL, paths[i]))
			ck_bad("open took '%s'", paths[i]);
	ck_end();
}

static const char *const texts[] = { "", " ", "a", "Hello, world!", "  two  spaces\n\n\tand a tab ",
	"The quick brown fox jumps over 13 lazy dogs.",
	"na\xc3\xafve caf\xc3\xa9 \xe2\x82\xac 1,234.50",
	"\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c",
	"\xf0\x9f\x99\x82\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd", "int main(void) { return 0; } /* x */",
	"<|im_start|>user\nhi<|im_end|>", "don't can't I'm 'tis", "\r\n\r\n   \t",
	"0123456789 1e-9", "e\xcc\x81 decomposed", "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7" };

/* Encodes text and joins the pieces into back, of `room` bytes: their length, or -1. */
static int64_t there_and_back(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t,
	const char *text, int64_t len, uint32_t flags, char *back, int64_t room)
{
	char *copy = gmem_get("the text", len, 1);
	int64_t n, at = 0;
	int32_t *ids;
	bool begun = false;

	memcpy(copy, text, (size_t)len);
	n = vt->encode(t, copy, len, flags, NULL, 0);
	ids = gmem_get("the ids", (n > 0 ? n : 1) * 4, 4);
	if (n < 0 || vt->encode(t, copy, len, flags, ids, n) != n)
		ck_bad("encode returned %ld, with room another count: %s", (long)n, fake_said());
	for (int64_t j = 0; j < n && ck_good(); j++) {
		int32_t bytes = 0;
		const char *s = vt->piece(t, ids[j], 0, &bytes);
		bool any = bytes > 0;

		if (!begun)
			s = vt->piece(t, ids[j], NVLLM_PIECE_FIRST, &bytes);
		begun = begun || any;
		if (bytes < 0 || (bytes && !s) || at + bytes > room)
			ck_bad("token %ld, id %d, has %d bytes", (long)j, ids[j], bytes);
		else if (bytes)
			memcpy(back + at, s, (size_t)bytes);
		at += bytes;
	}
	gmem_put(copy), gmem_put(ids);
	return ck_good() ? at : -1;
}

/* A normaliser may change a text; what came back then stays as it is. */
static void check_round_trip(
	const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t, uint32_t flags)
{
	int whole = 0, n = (int)(sizeof(texts) / sizeof(*texts));
	char once[1024], twice[1024];

	for (int i = 0; i < n && ck_good(); i++) {
		int64_t len = (int64_t)strlen(texts[i]), a, b;

		a = there_and_back(vt, t, texts[i], len, flags, once, sizeof(once));
		b = a < 0 ? -1 : there_and_back(vt, t, once, a, flags, twice, sizeof(twice));
		if (ck_good() && (a != b || memcmp(once, twice, (size_t)a)))
			ck_bad("text %d: what comes back (%ld bytes) does not come back again", i, (long)a);
		whole += a == len && !memcmp(once, texts[i], (size_t)len);
	}
	if (ck_good() && whole < n / 2)
		ck_bad("%d of %d texts come back as they went in", whole, n);
}

/* Less room: the same count, the same first ids, nothing past the room. */
static void check_rooms(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t)
{
	const char *text = texts[5];
	int64_t len = (int64_t)strlen(text), n = vt->encode(t, text, len, 0, NULL, 0);
	int32_t *all = gmem_get("the ids", (n > 0 ? n : 1) * 4, 4);

	if (n < 1 || vt->encode(t, text, len, 0, all, n) != n) {
		ck_bad("encode with no room returned %ld, with room another count", (long)n);
		return;
	}
	for (int64_t room = 0; room < n; room++) {
		int32_t *ids = gmem_get("ids with little room", room * 4, 4);

		if (vt->encode(t, text, len, 0, ids, room) != n ||
			memcmp(ids, all, (size_t)room * 4))
			ck_bad("room for %ld of %ld ids: another count or other ids", (long)room,
				(long)n);
		gmem_put(ids);
	}
	gmem_put(all);
}

static void check_bad_text(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t)
{
	static const char *const bad[] = { ("ab\xff"
					    "cd"),
		"\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\x80" };
	int32_t ids[64], bytes = 7;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		fake_hush();
		if (vt->encode(t, bad[i], (int64_t)strlen(bad[i]), 0, ids, 64) != NVLLM_EINVAL ||
			!fake_said()[0])
			ck_bad("invalid UTF-8 number %zu is not refused with NVLLM_EINVAL and a "
			       "sentence",
				i);
	}
	for (int i = 0; i < 4; i++) {
		static const int32_t out[] = { -1, INT32_MIN, INT32_MAX, 1 << 30 };

		bytes = 7;
		if (vt->piece(t, out[i], 0, &bytes) || bytes != 0)
			ck_bad("piece of id %d is not NULL with length 0", out[i]);
	}
}

static void check_tok_info(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t)
{
	struct nvllm_tokenizer_info in = { .size = sizeof(in) };

	if (vt->info(t, &in) || in.n_tokens < 1 || in.bos < -1 || in.eos < -1 || in.pad < -1 ||
		in.bos >= in.n_tokens || in.eos >= in.n_tokens || in.max_piece < 1 ||
		in.n_eos_ids < 0 || (in.n_eos_ids && !in.eos_ids)) {
		ck_bad("info: %d tokens, bos %d, eos %d, pad %d, max_piece %d, %d end tokens",
			in.n_tokens, in.bos, in.eos, in.pad, in.max_piece, in.n_eos_ids);
		return;
	}
	for (int i = 0; i < in.n_eos_ids; i++)
		if (in.eos_ids[i] < 0 || in.eos_ids[i] >= in.n_tokens)
			ck_bad("end token %d is out of range", in.eos_ids[i]);
	for (int32_t id = 0; id < in.n_tokens && ck_good(); id++) {
		int32_t bytes = -1;

		vt->piece(t, id, 0, &bytes);
		if (bytes < 0 || bytes > in.max_piece)
			ck_bad("id %d has %d bytes, max_piece is %d", id, bytes, in.max_piece);
	}
}

void suite_tokenizer(const struct nvllm_component *c)
{
	static const struct {
		const char *name;
		void (*fn)(const struct nvllm_tokenizer_vt *, struct nvllm_tokenizer *);
	} checks[] = { { "info, and every id has a piece", check_tok_info },
		{ "less room gives the same count", check_rooms },
		{ "invalid UTF-8 and ids out of range are refused", check_bad_text } };
	const struct nvllm_tokenizer_vt *vt = c->vt;
	const struct nvllm_loader_ref *loader;
	struct nvllm_tokenizer *t;

	check_tok_refusals(c);
	if (!ck_opts->file) {
		ck_skip("text: pass --file PATH of a checkpoint or a tokenizer file");
		return;
	}
	loader = file_loader();
	if (vt->probe(loader, ck_opts->file) == 0) {
		ck_skip("text: probe says that it cannot read %s", ck_opts->file);
		return;
	}
	ck_begin("opens the file");
	t = tok_open(c, loader, ck_opts->file);
	if (!t)
		ck_bad("refused: %s", fake_said());
	ck_end();
	if (!t)
		return;
	for (size_t i = 0; i < sizeof(checks) / sizeof(*checks); i++) {
		ck_begin("%s", checks[i].name);
		checks[i].fn(vt, t);
		ck_end();
	}
	for (uint32_t plain = 0; plain < 2; plain++) {
		ck_begin(
			"text comes back as it went in%s", plain ? ", special tokens as text" : "");
		check_round_trip(vt, t, plain ? NVLLM_ENCODE_PLAIN : 0);
		ck_end();
	}
	vt->close(t);
}

/* ---- chat ---- */

static struct nvllm_chat *chat_open(
	const struct nvllm_component *c, const struct nvllm_loader_ref *l, const char *path)
{
	struct nvllm_chat *chat = NULL;
	int err, status;
	const void *conf = ck_conf(c, NULL, &err);

	if (err)
		return NULL;
	fake_hush();
	status = ck_refusal(
		((const struct nvllm_chat_vt *)c->vt)->open(fake_host(), l, path, conf, &chat),
		"open");
	if (status == 0 && !chat)
		ck_bad("open returned 0 and no instance");
	return status ? NULL : chat;
}

static struct nvllm_str str(const char *s)
{
	return (struct nvllm_str){ s, (int64_t)strlen(s) };
}

/* Both prompts of one conversation, in every room: the same length, the same bytes. */
static void check_render(const struct nvllm_chat_vt *vt, struct nvllm_chat *chat, int add)
{
	const struct nvllm_chat_message m[] = {
		{ .size = sizeof(m[0]), .role = str("system"), .content = str("You are brief.") },
		{ .size = sizeof(m[0]),
			.role = str("user"),
			.content = str("Hello, caf\xc3\xa9?") },
		{ .size = sizeof(m[0]), .role = str("assistant"), .content = str("Yes.") },
		{ .size = sizeof(m[0]),
			.role = str("user"),
			.content = str("marker-of-the-last-turn") }
	};
	const struct nvllm_chat_message *const list[] = { &m[0], &m[1], &m[2], &m[3], NULL };
	struct nvllm_chat_request r = {
		.size = sizeof(r), .add_generation_prompt = add, .messages = list, .body = str("")
	};
	int64_t n = vt->render(chat, &r, NULL, 0);
	char *all;

	if (n < 1 || n > 1 << 20) {
		ck_bad("render with no room returned %ld: %s", (long)n, fake_said());
		return;
	}
	all = gmem_get("the text of the prompt", n, 1);
	if (vt->render(chat, &r, all, n) != n || memchr(all, 0, (size_t)n) ||
		!memmem(all, (size_t)n, m[3].content.s, (size_t)m[3].content.len))
		ck_bad("with room for %ld bytes: another length, a NUL, or the last turn is "
		       "missing",
			(long)n);
	for (int64_t room = 0; room < n && ck_good(); room += 1 + n / 40) {
		char *part = gmem_get("a small text", room, 1);

		if (vt->render(chat, &r, part, room) != n || memcmp(part, all, (size_t)room))
			ck_bad("room for %ld of %ld bytes: another length or other bytes",
				(long)room, (long)n);
		gmem_put(part);
	}
	gmem_put(all);
}

static void check_no_messages(const struct nvllm_chat_vt *vt, struct nvllm_chat *chat)
{
	static const struct nvllm_chat_message *const none[] = { NULL };
	struct nvllm_chat_request r = {
		.size = sizeof(r), .add_generation_prompt = 1, .messages = none, .body = str("")
	};
	int64_t n;

	fake_hush();
	n = vt->render(chat, &r, NULL, 0);
	if (n < 0 && !fake_said()[0])
		ck_bad("no messages: a refusal without a sentence");
}

void suite_chat(const struct nvllm_component *c)
{
	const struct nvllm_chat_vt *vt = c->vt;
	const char *path = ck_opts->file ? ck_opts->file : "/nonexistent/model";
	struct nvllm_chat *chat;

	ck_begin("opens, or refuses in a sentence, without a loader");
	chat = chat_open(c, ck_opts->file ? file_loader() : NULL, path);
	ck_end();
	if (!chat) {
		ck_skip("renders nothing without a checkpoint: pass --file PATH");
		return;
	}
	for (int add = 0; add < 2; add++) {
		ck_begin("render tells the length in any room%s",
			add ? ", with the assistant's header" : "");
		check_render(vt, chat, add);
		ck_end();
	}
	ck_begin("no messages");
	check_no_messages(vt, chat);
	ck_end();
	if (NVLLM_HAS(vt, stop) && vt->stop)
		vt->stop(chat);
	if (NVLLM_HAS(vt, close) && vt->close)
		vt->close(chat);
}
