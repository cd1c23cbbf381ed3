/* SPDX-License-Identifier: MIT */
/* hf_stream.h - the pieces of ids as they would be sent: for each line of standard input, a list
 * of ids, one list of the texts after each id and at the end. Only for byte-level tokenizers. */
#ifndef HF_STREAM_H
#define HF_STREAM_H

#include "bpe_fake.h"
#include "bpe_open.h"
#include "json.h"
#include "utf8.h"

static void put_text(void *arg, const char *s, size_t len)
{
	json_put_raw(arg, s, len);
}

static int stream_line(const struct nvllm_tokenizer_vt *vt, struct nvllm_tokenizer *t, char *line)
{
	struct json_buf piece = { 0 };
	struct utf8_stream st = { .n = 0 };
	char *end;
	int first = 1;

	putchar('[');
	for (char *p = line + 1;; p = end + 1) {
		struct json_buf quoted = { 0 };
		long id = strtol(p, &end, 10);
		int32_t len = 0;
		const char *s = end == p ? NULL : vt->piece(t, (int32_t)id, 0, &len);

		piece.len = 0;
		utf8_push(&st, s ? s : "", (size_t)len, put_text, &piece);
		if (end == p)
			utf8_flush(&st, put_text, &piece);
		json_put_string(&quoted, piece.s ? piece.s : "", piece.len);
		printf("%s%s", first ? "" : ",", quoted.s);
		json_buf_free(&quoted);
		first = 0;
		if (end == p)
			break;
	}
	puts("]");
	json_buf_free(&piece);
	return 0;
}

static int stream(const char *path)
{
	const struct nvllm_component *c = component_open("tokenizer_bpe.so");
	const struct nvllm_tokenizer_vt *vt = c ? c->vt : NULL;
	struct nvllm_tokenizer *t = NULL;
	struct fake_host host;
	size_t room = 0;
	char *line = NULL;

	fake_host_init(&host);
	if (!vt || vt->open(&host.h, NULL, path, NULL, &t) < 0) {
		fprintf(stderr, "%s\n", vt ? host.said : "no tokenizer_bpe.so");
		return 1;
	}
	while (getline(&line, &room, stdin) > 0)
		stream_line(vt, t, line);
	free(line);
	vt->close(t);
	fake_host_finish(&host);
	return 0;
}

#endif
