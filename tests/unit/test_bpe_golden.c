/* SPDX-License-Identifier: MIT */
/* test_bpe_golden.c - the tokenizer on real vocabularies: ids and streamed text as the
 * tokenizers library gives them, and how long things take. SmolLM2's vocabulary is the one of
 * the model that scripts/run fetches; without it these tests skip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <time.h>

#include <cjson/cJSON.h>
#include <nvllm/chat.h>

#include "bpe_fake.h"
#include "bpe_open.h"
#include "utf8.h"

#define MODEL "models/SmolLM2-135M-Instruct.Q4_1.gguf"

/* A tokenizer on a GGUF. */
struct opened {
	struct fake_host host;
	struct nvllm_loader_ref ref;
	const struct nvllm_tokenizer_vt *vt;
	struct nvllm_tokenizer *t;
	double open_ms;
};

static double now_ms(void)
{
	struct timespec ts;

	/* CPU time: other tests run beside this one */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec * 1e-6;
}

static bool file_there(const char *path)
{
	FILE *f = fopen(path, "rb");

	if (f)
		fclose(f);
	return f != NULL;
}

/* Skips the test where the file or a plugin is missing; anything else must work. */
static void gguf_open(struct opened *o, const char *path)
{
	const struct nvllm_component *loader = component_open("loader_gguf.so"),
		*bpe = component_open("tokenizer_bpe.so");
	double start;

	if (!loader || !bpe || !file_there(path)) {
		print_message("skipped: there is no %s\n", !loader ? "loader_gguf.so" :
			!bpe ? "tokenizer_bpe.so" : path);
		skip();
	}
	memset(o, 0, sizeof(*o));
	fake_host_init(&o->host);
	o->vt = bpe->vt;
	o->ref = (struct nvllm_loader_ref){ .size = sizeof(o->ref), .vt = loader->vt };
	if (o->ref.vt->open(&o->host.h, path, NULL, &o->ref.loader) < 0)
		fail_msg("%s: %s", path, o->host.said);
	assert_int_equal(o->vt->probe(&o->ref, path), 90);
	start = now_ms();
	if (o->vt->open(&o->host.h, &o->ref, path, NULL, &o->t) < 0)
		fail_msg("%s: %s", path, o->host.said);
	o->open_ms = now_ms() - start;
}

static void gguf_close(struct opened *o)
{
	o->vt->close(o->t);
	o->ref.vt->close(o->ref.loader);
	fake_host_finish(&o->host);
}

/* cJSON ends a string at an escaped NUL, so this private character travels in its place. */
#define NUL_STANDS "\xEE\x83\xBF"

/* Parses a line, with every \u0000 escape made \ue0ff. */
static cJSON *parse_line(char *line)
{
	for (char *p = line; *p; p++) {
		if (*p != '\\')
			continue;
		p++;
		if (strncmp(p, "u0000", 5) == 0)
			memcpy(p, "ue0ff", 5);
	}
	return cJSON_Parse(line);
}

/* Turns the stand-in back into NUL, in place; returns the length. */
static size_t string_bytes(char *s)
{
	size_t len = strlen(s), n = 0;

	for (size_t i = 0; i < len; n++) {
		bool nul = strncmp(s + i, NUL_STANDS, 3) == 0;

		s[n] = nul ? 0 : s[i];
		i += nul ? 3 : 1;
	}
	return n;
}

/* Calls fn for each line of a file; returns the number of lines. */
static int each_line(const char *path, void (*fn)(void *arg, cJSON *line), void *arg)
{
	FILE *f = fopen(path, "rb");
	char *line = NULL;
	size_t room = 0;
	int n = 0;

	if (!f)
		fail_msg("cannot open %s", path);
	while (getline(&line, &room, f) > 0) {
		cJSON *j = parse_line(line);

		if (!j)
			fail_msg("%s: line %d is no JSON", path, n + 1);
		fn(arg, j);
		cJSON_Delete(j);
		n++;
	}
	free(line);
	fclose(f);
	return n;
}

static const char *name_of(const cJSON *line)
{
	const cJSON *id = cJSON_GetObjectItem(line, "id");

	return id ? id->valuestring : "?";
}

static void check_ids(struct opened *o, const cJSON *line, const char *text, size_t len,
	uint32_t flags, const cJSON *want)
{
	int n = cJSON_GetArraySize(want), i = 0;
	int32_t *ids = malloc((size_t)(n + 1) * sizeof(*ids));
	int64_t got = o->vt->encode(o->t, text, (int64_t)len, flags, ids, n);
	const cJSON *x;

	if (got != n)
		fail_msg("%s: %lld ids, not %d (%s)", name_of(line), (long long)got, n,
			o->host.said);
	cJSON_ArrayForEach(x, want) {
		if (ids[i] != x->valueint)
			fail_msg("%s: id %d is %d, not %d", name_of(line), i, ids[i], x->valueint);
		i++;
	}
	free(ids);
}

struct sink {
	char s[1 << 16];
	size_t n;
};

static void to_sink(void *arg, const char *s, size_t len)
{
	struct sink *k = arg;

	assert_true(k->n + len <= sizeof(k->s));
	memcpy(k->s + k->n, s, len);
	k->n += len;
}

static void check_sink(
	const cJSON *line, const struct sink *k, size_t from, cJSON *want, const char *what)
{
	size_t n = string_bytes(want->valuestring);

	if (k->n - from != n || memcmp(k->s + from, want->valuestring, n) != 0)
		fail_msg("%s: %s is '%.*s', not '%s'", name_of(line), what, (int)(k->n - from),
			k->s + from, want->valuestring);
}

/* Streams the ids; all that came must be `want`, and each part as in `parts` (or NULL). */
static void check_text(
	struct opened *o, const cJSON *line, uint32_t flags, cJSON *want, cJSON *parts)
{
	static struct sink k;
	struct utf8_stream u = { .n = 0 };
	cJSON *part = parts ? parts->child : NULL;
	const cJSON *id;
	size_t from = 0;

	k.n = 0;
	cJSON_ArrayForEach(id, cJSON_GetObjectItem(line, "ids")) {
		int32_t len;
		const char *s = o->vt->piece(o->t, id->valueint, flags, &len);

		utf8_push(&u, s, (size_t)len, to_sink, &k);
		if (part)
			check_sink(line, &k, from, part, "a streamed part");
		from = k.n;
		part = part ? part->next : NULL;
	}
	utf8_flush(&u, to_sink, &k);
	if (part)
		check_sink(line, &k, from, part, "the last part");
	check_sink(line, &k, 0, want, "the text");
}

static void check_encode_line(void *arg, cJSON *line)
{
	struct opened *o = arg;
	cJSON *text = cJSON_GetObjectItem(line, "text"), *ids = cJSON_GetObjectItem(line, "ids"),
	      *plain = cJSON_GetObjectItem(line, "ids_plain"),
	      *decoded = cJSON_GetObjectItem(line, "decoded");
	size_t len = string_bytes(text->valuestring);

	check_ids(o, line, text->valuestring, len, 0, ids);
	check_ids(o, line, text->valuestring, len, NVLLM_ENCODE_SPECIAL, ids);
	check_ids(o, line, text->valuestring, len, NVLLM_ENCODE_PLAIN, plain ? plain : ids);
	if (decoded)
		check_text(o, line, 0, decoded, cJSON_GetObjectItem(line, "stream"));
}

static void check_decode_line(void *arg, cJSON *line)
{
	struct opened *o = arg;
	cJSON *skip = cJSON_GetObjectItem(line, "decoded_skip_special"),
		*decoded = cJSON_GetObjectItem(line, "decoded");

	check_text(o, line, 0, decoded, cJSON_GetObjectItem(line, "stream"));
	check_text(o, line, NVLLM_PIECE_SKIP_SPECIAL, skip ? skip : decoded, NULL);
}

static void test_smollm2(void **state)
{
	static struct opened o;
	struct nvllm_tokenizer_info info;

	gguf_open(&o, MODEL);
	print_message("opened in %.1f ms\n", o.open_ms);
	assert_int_equal(o.vt->info(o.t, &info), 0);
	assert_int_equal(info.n_tokens, 49152);
	assert_int_equal(info.bos, 1);
	assert_int_equal(info.eos, 2);
	assert_int_equal(info.pad, 2);
	assert_int_equal(info.n_eos_ids, 2);
	assert_int_equal(info.eos_ids[0], 2);
	assert_int_equal(info.eos_ids[1], 0);
	assert_int_equal(info.max_piece, 81);
	assert_int_equal(o.host.n_warnings, 0);
	assert_int_equal(
		each_line("tests/data/tokenizers/smollm2/strings.jsonl", check_encode_line, &o),
		200);
	assert_int_equal(
		each_line("tests/data/tokenizers/smollm2/encode.jsonl", check_encode_line, &o),
		200);
	assert_int_equal(
		each_line("tests/data/tokenizers/smollm2/decode.jsonl", check_decode_line, &o), 60);
	gguf_close(&o);
}

/* ---- the tiny models: whole-word vocabulary with BOS, Qwen's rule ---- */

static void check_tiny_line(void *arg, cJSON *line)
{
	struct opened *o = arg;
	char path[256];
	cJSON *text = cJSON_GetObjectItem(line, "text");

	snprintf(path, sizeof(path), "tests/data/gguf/%s.gguf",
		cJSON_GetObjectItem(line, "gguf")->valuestring);
	if (!file_there(path)) {
		print_message("passed over: there is no %s\n", path);
		return;
	}
	gguf_open(o, path);
	assert_int_equal(o->host.n_warnings, 0);
	check_ids(o, line, text->valuestring, strlen(text->valuestring), NVLLM_ENCODE_SPECIAL,
		cJSON_GetObjectItem(line, "ids"));
	gguf_close(o);
}

static void test_tiny(void **state)
{
	static struct opened o;

	each_line("tests/data/tokenizers/tiny.jsonl", check_tiny_line, &o);
	if (!o.vt)
		skip();
}

/* ---- chat ---- */

#define SYSTEM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

struct chat {
	const struct nvllm_chat_vt *vt;
	struct nvllm_chat *chat;
	struct opened o;
};

static struct nvllm_str str_of(const cJSON *j)
{
	return (struct nvllm_str){ j->valuestring, (int64_t)strlen(j->valuestring) };
}

static void check_chat_line(void *arg, cJSON *line)
{
	struct chat *c = arg;
	struct nvllm_chat_message m[16];
	const struct nvllm_chat_message *list[17];
	struct nvllm_chat_request req = { .size = sizeof(req),
		.messages = list,
		.add_generation_prompt =
			cJSON_IsTrue(cJSON_GetObjectItem(line, "add_generation_prompt")) };
	const char *want = cJSON_GetObjectItem(line, "rendered")->valuestring;
	char text[8192];
	const cJSON *x;
	int n = 0;

	cJSON_ArrayForEach(x, cJSON_GetObjectItem(line, "messages")) {
		assert_true(n < 16);
		m[n] = (struct nvllm_chat_message){ .size = sizeof(m[n]),
			.role = str_of(cJSON_GetObjectItem(x, "role")),
			.content = str_of(cJSON_GetObjectItem(x, "content")) };
		list[n] = &m[n];
		list[++n] = NULL;
	}
	assert_int_equal(c->vt->render(c->chat, &req, NULL, 0), strlen(want));
	memset(text, '#', sizeof(text));
	assert_int_equal(c->vt->render(c->chat, &req, text, 20), strlen(want));
	assert_memory_equal(text, want, 20);
	assert_int_equal(text[20], '#');
	assert_int_equal(c->vt->render(c->chat, &req, text, sizeof(text)), strlen(want));
	assert_memory_equal(text, want, strlen(want));
	assert_int_equal(text[strlen(want)], '#');
	if (c->o.t)
		check_ids(&c->o, line, want, strlen(want), 0, cJSON_GetObjectItem(line, "ids"));
}

static void test_chatml(void **state)
{
	const struct nvllm_component *chatml = component_open("chat_chatml.so");
	const char *conf = SYSTEM;
	static struct chat c;

	if (!chatml) {
		print_message("skipped: there is no chat_chatml.so\n");
		skip();
	}
	assert_int_equal(chatml->kind, NVLLM_KIND_CHAT);
	assert_string_equal(chatml->name, "chatml");
	assert_int_equal(chatml->conf_size, sizeof(conf));
	assert_string_equal(chatml->options[0].key, "system");
	assert_int_equal(chatml->options[0].offset, 0);
	c.vt = chatml->vt;
	if (file_there(MODEL) && component_open("loader_gguf.so"))
		gguf_open(&c.o, MODEL);
	else
		fake_host_init(&c.o.host);
	assert_int_equal(c.vt->open(&c.o.host.h, NULL, "", &conf, &c.chat), 0);
	assert_string_equal(c.vt->stop(c.chat), "<|im_end|>");
	assert_int_equal(each_line("tests/data/chat/smollm2.jsonl", check_chat_line, &c), 16);
	if (c.o.t)
		gguf_close(&c.o);
	else
		fake_host_finish(&c.o.host);
}

static int64_t render(const struct nvllm_chat_vt *vt, struct nvllm_chat *chat,
	struct nvllm_str role, struct nvllm_str content, char *text, size_t room)
{
	struct nvllm_chat_message m = { .size = sizeof(m), .role = role, .content = content };
	const struct nvllm_chat_message *list[] = { &m, NULL };
	struct nvllm_chat_request req = { .size = sizeof(req), .messages = list };

	return vt->render(chat, &req, text, (int64_t)room);
}

static void test_chatml_edges(void **state)
{
	const struct nvllm_component *chatml = component_open("chat_chatml.so");
	const struct nvllm_chat_message *none[] = { NULL };
	struct nvllm_chat_request req = {
		.size = sizeof(req), .messages = none, .add_generation_prompt = 1
	};
	const struct nvllm_chat_vt *vt;
	struct nvllm_chat *chat;
	struct fake_host host;
	const char *conf = "";
	char text[256];

	if (!chatml)
		skip();
	vt = chatml->vt;
	fake_host_init(&host);
	assert_int_equal(vt->open(&host.h, NULL, "", &conf, &chat), 0);
	assert_int_equal(vt->render(chat, &req, text, sizeof(text)), 22);
	assert_memory_equal(text, "<|im_start|>assistant\n", 22);
	assert_int_equal(render(vt, chat, (struct nvllm_str){ "user", 4 },
				 (struct nvllm_str){ "<|im_end|>\0", 11 }, text, sizeof(text)),
		12 + 5 + 11 + 11);
	assert_memory_equal(text, "<|im_start|>user\n<|im_end|>\0<|im_end|>\n", 39);
	assert_int_equal(render(vt, chat, (struct nvllm_str){ "", 0 }, (struct nvllm_str){ "x", 1 },
				 text, sizeof(text)),
		NVLLM_EINVAL);
	assert_string_equal(host.said, "message 1 has no role");
	assert_int_equal(render(vt, chat, (struct nvllm_str){ "r", 1 },
				 (struct nvllm_str){ "x", INT64_MAX }, text, sizeof(text)),
		NVLLM_EINVAL);
	assert_int_equal(render(vt, chat, (struct nvllm_str){ "r", 1 },
				 (struct nvllm_str){ "x", -1 }, text, sizeof(text)),
		NVLLM_EINVAL);
	fake_host_finish(&host);
}

/* ---- how long it takes; printed, not judged ---- */

static void time_text(struct opened *o, const char *what, const char *text, size_t len)
{
	int32_t *ids = malloc((len + 1) * sizeof(*ids));
	double start = now_ms(), ms;
	int64_t n = o->vt->encode(o->t, text, (int64_t)len, 0, ids, (int64_t)len);

	ms = now_ms() - start;
	assert_true(n > 0 && n <= (int64_t)len);
	print_message("%-28s %8zu bytes %8lld tokens %8.1f ms %7.2f MB/s\n", what, len,
		(long long)n, ms, (double)len / 1e3 / ms);
	free(ids);
}

/* The same unit over and over. */
static void time_unit(struct opened *o, const char *what, const char *unit, size_t most)
{
	size_t n = strlen(unit), len = most / n * n;
	char *text = malloc(len);

	for (size_t i = 0; i < len; i += n)
		memcpy(text + i, unit, n);
	time_text(o, what, text, len);
	free(text);
}

static void test_speed(void **state)
{
	static struct opened o;
	size_t len = 1 << 20, n = 0;
	char *text = malloc(len + 4096);
	FILE *f = fopen("LICENSE", "rb");
	char part[4096];

	assert_non_null(f);
	gguf_open(&o, MODEL);
	n = fread(part, 1, sizeof(part), f);
	fclose(f);
	assert_true(n > 0);
	for (size_t at = 0; at < len; at += n)
		memcpy(text + at, part, n < len - at ? n : len - at);
	time_text(&o, "English", text, len);
	time_text(&o, "English again", text, len);
	srand(1);
	for (size_t i = 0; i < len; i++)
		text[i] = (char)('a' + rand() % 26);
	time_text(&o, "one word of random letters", text, len / 4);
	time_text(&o, "one word of random letters", text, len);
	for (size_t i = 0; i < len; i++)
		text[i] = "  \t\n\n"[rand() % 5];
	time_text(&o, "random white space", text, len);
	for (size_t most = 1 << 18; most <= 1 << 20; most *= 4) {
		time_unit(&o, "a", "a", most);
		time_unit(&o, "spaces", " ", most);
		time_unit(&o, "CJK", "\xE6\xBC\xA2", most);
	}
	time_unit(&o, "newlines", "\n", 1 << 18);
	time_unit(&o, "digits", "7", 1 << 18);
	time_unit(&o, "emoji", "\xF0\x9F\x98\x80", 1 << 18);
	time_unit(&o, "combining marks", "\xCC\x81", 1 << 18);
	time_unit(&o, "special tokens", "<|im_end|>", 1 << 18);
	time_unit(&o, "almost special tokens", "<|im_end|", 1 << 18);
	time_unit(&o, "apostrophes", "'", 1 << 18);
	free(text);
	gguf_close(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_smollm2),
		cmocka_unit_test(test_tiny),
		cmocka_unit_test(test_chatml),
		cmocka_unit_test(test_chatml_edges),
		cmocka_unit_test(test_speed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
