/* SPDX-License-Identifier: MIT */
/* jinja_rig.h - the chat plugin `jinja` on a template that is a string. */
#ifndef JINJA_RIG_H
#define JINJA_RIG_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nvllm/chat.h>


struct rig {
	struct nvllm_host host;
	const struct nvllm_chat_vt *vt;
	struct nvllm_chat *chat;
	char said[2048];
	char path[64];
	void *kept[4096];       /* host->alloc's */
	int n_kept;
};

static int rig_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	struct rig *r = (struct rig *)(uintptr_t)h;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->said, sizeof(r->said), fmt, ap);
	va_end(ap);
	return status;
}

static void rig_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
	(void)h, (void)level, (void)fmt;
}

static void *rig_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct rig *r = (struct rig *)(uintptr_t)h;

	if (r->n_kept == 4096)
		return NULL;
	r->kept[r->n_kept] = calloc(1, bytes ? bytes : 1);
	return r->kept[r->n_kept++];
}

static const void *rig_get(const struct nvllm_host *h, const char *id)
{
	(void)h, (void)id;
	return NULL;
}

static void rig_init(struct rig *r, const struct nvllm_chat_vt *vt)
{
	memset(r, 0, sizeof(*r));
	r->host = (struct nvllm_host){ .size = sizeof(r->host), .abi = NVLLM_ABI, .world = 1, .log = rig_log,
		.fail = rig_fail, .alloc = rig_alloc, .get = rig_get };
	r->vt = vt;
}

static void rig_finish(struct rig *r)
{
	if (r->chat)
		r->vt->close(r->chat);
	r->chat = NULL;
	for (int i = 0; i < r->n_kept; i++)
		free(r->kept[i]);
	r->n_kept = 0;
	if (*r->path)
		unlink(r->path);
	*r->path = 0;
}

/* A template's text; the status of open. */
static inline int rig_open(struct rig *r, const char *text, size_t len)
{
	int fd, rc;

	strcpy(r->path, "/tmp/nvllm-test-XXXXXX.jinja");
	fd = mkstemps(r->path, 6);
	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		return rig_fail(&r->host, NVLLM_EIO, "the test cannot write %s", r->path);
	close(fd);
	rc = r->vt->open(&r->host, NULL, r->path, NULL, &r->chat);
	return rc;
}

/* The prompt of a request's body, NUL-ended, to be freed; NULL: said says why not. */
static char *rig_render(struct rig *r, const char *body, size_t len, int64_t *n)
{
	static const struct nvllm_chat_message *const none[] = { NULL };
	struct nvllm_chat_request req = { .size = sizeof(req), .add_generation_prompt = 1,
		.messages = none, .body = { body, (int64_t)len }, .now = "2025-03-09T14:05:07" };
	char *text;

	*n = r->vt->render(r->chat, &req, NULL, 0);
	if (*n < 0)
		return NULL;
	text = malloc((size_t)*n + 1);
	if (r->vt->render(r->chat, &req, text, *n) != *n) {
		free(text);
		return NULL;
	}
	text[*n] = 0;
	return text;
}

#endif
