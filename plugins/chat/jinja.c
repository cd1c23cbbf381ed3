/* SPDX-License-Identifier: MIT */
/* jinja.c - the chat plugin `jinja`: a checkpoint's own template, parsed at open, run at each
 * render. Decides which of several templates a request gets: "tool_use" where it brings
 * tools and there is one, else "default". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/chat.h>
#include <nvllm/plugin.h>

#include "jinja.h"
#include "json.h"
#include "utf8.h"

#define MAX_BODY (256 << 20)

struct jinja_conf {
	const char *content;
	const char *arguments;
	const char *template;
};

struct nvllm_chat {
	const struct nvllm_host *host;
	struct source source;
	struct jinja parsed[MAX_TEMPLATES];
	bool parts[MAX_TEMPLATES];  /* the template looks into content */
	int first, tools;           /* of a request without tools, and with */
	enum content content;
	bool parse_arguments;
};

struct parse_job { const char *text; int64_t len; struct nodes body; };

/* Runs fn until it ends or jin_fail is called; false then. */
static bool guarded(struct jin *j, void (*fn)(struct jin *, void *), void *arg)
{
	if (setjmp(j->stop))
		return false;
	fn(j, arg);
	return true;
}

static void parse_job(struct jin *j, void *arg)
{
	struct parse_job *p = arg;

	jinja_parse(j, p->text, p->len, &p->body);
}

/* Names and values in the sentence may have been cut within a character: what is left of it goes. */
static int say(const struct nvllm_host *host, struct jin *j, const char *where, const char *name)
{
	size_t len = strlen(j->why), bad;

	while ((bad = utf8_check(j->why, len)) < len) {
		memmove(j->why + bad, j->why + bad + 1, len - bad);
		len--;
	}
	if (j->line)
		return host->fail(host, j->status, "%s: chat template%s%s, line %d: %s", where,
			*name ? " " : "", name, j->line, j->why);
	return host->fail(host, j->status, "%s: %s", where, j->why);
}

static int parse_one(struct nvllm_chat *c, const char *path, int i)
{
	struct parse_job p = { c->source.templates[i].text, c->source.templates[i].len, { 0 } };
	struct jin j;
	bool ok;

	/* real templates take less than 100 bytes for one of theirs */
	jin_begin(&j, ((size_t)16 << 20) + (size_t)p.len * 256, INT64_MAX / 2);
	ok = guarded(&j, parse_job, &p);
	c->parsed[i] = (struct jinja){ j.chunks, p.body, p.text, p.len };
	c->parts[i] = memmem(p.text, (size_t)p.len, "content", 7) &&
		(memmem(p.text, (size_t)p.len, "['type']", 8) || memmem(p.text, (size_t)p.len, ".type", 5) ||
			memmem(p.text, (size_t)p.len, "[\"type\"]", 8));
	return ok ? NVLLM_OK : say(c->host, &j, path,
		strcmp(c->source.templates[i].name, "default") ? c->source.templates[i].name : "");
}

static void close(struct nvllm_chat *c)
{
	for (int i = 0; i < c->source.n_templates; i++) {
		struct jin j = { .chunks = c->parsed[i].chunks };

		jin_end(&j);
		c->parsed[i].chunks = NULL;
	}
}

static int named(const struct nvllm_chat *c, const char *name)
{
	for (int i = 0; i < c->source.n_templates; i++)
		if (!strcmp(c->source.templates[i].name, name))
			return i;
	return -1;
}

static int choose(struct nvllm_chat *c, const char *path, const struct jinja_conf *conf)
{
	const char *want = conf && conf->template ? conf->template : "";

	c->first = named(c, *want ? want : "default");
	if (*want && c->first < 0)
		return c->host->fail(c->host, NVLLM_ENOENT,
			"%s: has no chat template '%.80s', but '%s'", path, want, c->source.templates[0].name);
	if (c->first < 0)
		c->first = 0;
	c->tools = *want ? -1 : named(c, "tool_use");
	if (c->tools < 0)
		c->tools = c->first;
	return NVLLM_OK;
}

static int read_conf(struct nvllm_chat *c, const struct jinja_conf *conf)
{
	static const char *const contents[] = { "as_given", "auto", "join" };
	const char *content = conf && conf->content ? conf->content : "as_given";
	const char *arguments = conf && conf->arguments ? conf->arguments : "parse";

	for (int i = 0; i < 3; i++)
		if (!strcmp(content, contents[i]))
			c->content = (enum content)i;
	if (c->content == CONTENT_AS_GIVEN && strcmp(content, contents[0]))
		return c->host->fail(c->host, NVLLM_EINVAL,
			"[chat] content = %.40s: it is as_given, auto or join", content);
	c->parse_arguments = !strcmp(arguments, "parse");
	if (!c->parse_arguments && strcmp(arguments, "keep"))
		return c->host->fail(c->host, NVLLM_EINVAL,
			"[chat] arguments = %.40s: it is parse or keep", arguments);
	return NVLLM_OK;
}

static int open(const struct nvllm_host *host, const struct nvllm_loader_ref *loader,
	const char *path, const void *conf, struct nvllm_chat **out)
{
	struct nvllm_chat *c = host->alloc(host, sizeof(*c));
	int rc;

	*out = NULL;
	if (!c)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the chat template");
	c->host = host;
	rc = read_conf(c, conf);
	if (!rc)
		rc = source_read(host, loader, path, &c->source);
	for (int i = 0; !rc && i < c->source.n_templates; i++)
		rc = parse_one(c, path, i);
	if (!rc)
		rc = choose(c, path, conf);
	if (rc)
		close(c);
	else
		*out = c;
	return rc;
}

static int probe(const struct nvllm_loader_ref *loader, const char *path)
{
	return source_probe(loader, path) ? 80 : 0;
}

struct render_job {
	struct nvllm_chat *chat;
	const struct nvllm_chat_request *req;
	const cJSON *body;
	char *text;
	int64_t room, len;
};

static void render_job(struct jin *j, void *arg)
{
	struct render_job *r = arg;
	const struct nvllm_chat *c = r->chat;
	struct asked asked = { .context = v_dict(j) };
	struct sbuf b = { 0 };
	struct val out;
	int which;

	for (int i = 0; i < c->source.n_tokens; i++)
		dict_set(j, asked.context.d, v_text(j, c->source.token_names[i]),
			v_text(j, c->source.tokens[i]));
	request_read(j, r->req, r->body, c->content, c->parts[c->first], c->parts[c->tools],
		c->parse_arguments, &asked);
	which = asked.tools ? c->tools : c->first;
	j->context = asked.context.d;
	j->now = r->req->now;
	j->root = scope_new(j, NULL);
	j->out = &b;
	j->line = 1;
	exec_body(j, j->root, &c->parsed[which].body);
	j->out = NULL;
	j->line = 0;
	out = request_cut(j, &asked, v_str(j, b.s ? b.s : "", b.len));
	r->len = out.s->len;
	if (r->text && r->room > 0)
		memcpy(r->text, out.s->s, (size_t)(r->len < r->room ? r->len : r->room));
}

/* Bytes of the request, or a negative status. */
static int64_t request_size(const struct nvllm_host *host, const struct nvllm_chat_request *req)
{
	int64_t n = req->body.len;

	for (int64_t i = 0; n >= 0 && req->messages && req->messages[i]; i++) {
		const struct nvllm_chat_message *m = req->messages[i];

		if (m->role.len < 0 || m->content.len < 0 || __builtin_add_overflow(n, m->role.len, &n) ||
			__builtin_add_overflow(n, m->content.len, &n))
			n = -1;
		else if (utf8_check(m->role.s, (size_t)m->role.len) != (size_t)m->role.len ||
			utf8_check(m->content.s, (size_t)m->content.len) != (size_t)m->content.len)
			return host->fail(host, NVLLM_EINVAL, "message %lld is no UTF-8", (long long)i + 1);
	}
	if (n < 0 || n > MAX_BODY)
		return host->fail(host, NVLLM_EINVAL, "the request is larger than %d MiB", MAX_BODY >> 20);
	return n;
}

static int64_t render(struct nvllm_chat *c, const struct nvllm_chat_request *req, char *text, int64_t room)
{
	struct json_limits limits = { .max_bytes = MAX_BODY, .max_values = 4 << 20 };
	struct render_job r = { .chat = c, .req = req, .text = text, .room = room };
	int64_t size = request_size(c->host, req);
	struct json_error err;
	cJSON *body = NULL;
	struct jin j;
	size_t memory;
	bool ok;

	if (size < 0)
		return size;
	if (req->body.len > 0 && json_parse(req->body.s, (size_t)req->body.len, &limits, &body, &err))
		return c->host->fail(c->host, NVLLM_EINVAL, "the request, line %d: %s", err.line, err.why);
	r.body = body;
	memory = JIN_MAX_MEMORY + (size_t)size * JIN_BODY_MEMORY;
	jin_begin(&j, memory < JIN_TOP_MEMORY ? memory : JIN_TOP_MEMORY,
		JIN_MAX_STEPS + size * JIN_BODY_STEPS);
	j.max_output += size * JIN_BODY_OUTPUT;
	ok = guarded(&j, render_job, &r);
	cJSON_Delete(body);
	if (!ok)
		r.len = say(c->host, &j, "the prompt cannot be made", "");
	jin_end(&j);
	return r.len;
}

static const struct nvllm_option options[] = {
	NVLLM_STR(jinja_conf, content, "content", "as_given",
		"messages whose content is a list of parts: as_given leaves them to the template, join makes one "
		"text of the text parts, auto does so where the template does not look into parts"),
	NVLLM_STR(jinja_conf, arguments, "arguments", "parse",
		"arguments of tool calls that are JSON text: parse makes objects of them, keep leaves them"),
	NVLLM_STR(jinja_conf, template, "template", "",
		"which of the checkpoint's templates; empty = tool_use where there are tools, else default"),
	NVLLM_OPTIONS_END
};

static const struct nvllm_chat_vt vt = {
	.size = sizeof(vt), .probe = probe, .open = open, .render = render, .close = close,
};

static const struct nvllm_component jinja = {
	.size = sizeof(jinja), .kind = NVLLM_KIND_CHAT, .name = "jinja",
	.summary = "the checkpoint's own chat template, as transformers renders it",
	.vt = &vt, .options = options, .conf_size = sizeof(struct jinja_conf),
};

static const struct nvllm_component *const components[] = { &jinja, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "chat_jinja", .version = "0.1.0",
	.components = components,
};
