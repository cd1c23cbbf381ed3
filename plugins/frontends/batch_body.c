/* SPDX-License-Identifier: MIT */
/* frontends/batch_body.c - decides what a chat template may read of a body: the messages
 * with all their members, tools, documents and the template's own arguments. As vLLM has
 * it, text parts are joined to one text (templates add strings), and the arguments of a
 * tool call, which the API has as a text of JSON, become the JSON itself. */
#include "batch_parse.h"

#include <string.h>

static void put_members(struct json_buf *b, const cJSON *v)
{
	json_put(b, "{");
	for (const cJSON *m = v->child; m; m = m->next) {
		json_put(b, m == v->child ? "" : ", ");
		json_put_string(b, m->string, strlen(m->string));
		json_put(b, ": ");
		batch_put_value(b, m);
	}
	json_put(b, "}");
}

void batch_put_value(struct json_buf *b, const cJSON *v)
{
	char text[JSON_NUMBER_LEN];

	if (cJSON_IsObject(v)) {
		put_members(b, v);
	} else if (cJSON_IsArray(v)) {
		json_put(b, "[");
		for (const cJSON *e = v->child; e; e = e->next) {
			json_put(b, e == v->child ? "" : ", ");
			batch_put_value(b, e);
		}
		json_put(b, "]");
	} else if (cJSON_IsString(v)) {
		json_put_string(b, v->valuestring, strlen(v->valuestring));
	} else if (cJSON_IsNumber(v)) {
		json_put(b, json_number_text(v, text));
	} else {
		json_put(b, cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "null");
	}
}

/* ---- the keys ---- */

/* "tools" and "documents": a list of objects. */
int batch_take_objects(struct reading *g, const struct param *p, cJSON *v)
{
	int i = 0;

	if (!cJSON_IsArray(v))
		return batch_wrong(g, p->name, v, "a list of objects");
	for (const cJSON *e = v->child; e; e = e->next, i++)
		if (!cJSON_IsObject(e))
			return batch_refuse(g->err, 400, p->name, "%s[%d] is no object", p->name, i);
	*(*p->name == 't' ? &g->tools : &g->documents) = v;
	return 0;
}

/* The answer's text is as the model wrote it: whether it calls a tool is its own choice. */
int batch_take_tool_choice(struct reading *g, const struct param *p, cJSON *v)
{
	if (cJSON_IsString(v) &&
		(!strcmp(v->valuestring, "none") || !strcmp(v->valuestring, "auto")))
		return 0;
	return batch_refuse(g->err, 400, p->name,
		"tool_choice must be \"auto\" or \"none\": nothing here forces the model to call a "
		"tool");
}

int batch_take_kwargs(struct reading *g, const struct param *p, cJSON *v)
{
	if (!cJSON_IsObject(v))
		return batch_wrong(g, p->name, v, "an object");
	g->kwargs = v;
	return 0;
}

int batch_take_effort(struct reading *g, const struct param *p, cJSON *v)
{
	static const char *const words[] = { "none", "minimal", "low", "medium", "high" };

	for (size_t i = 0; cJSON_IsString(v) && i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(v->valuestring, words[i])) {
			g->effort = v;
			return 0;
		}
	return batch_refuse(g->err, 400, p->name,
		"reasoning_effort must be none, minimal, low, medium or high");
}

/* "add_generation_prompt" and "continue_final_message". */
int batch_take_turn(struct reading *g, const struct param *p, cJSON *v)
{
	if (!cJSON_IsBool(v))
		return batch_wrong(g, p->name, v, "true or false");
	if (*p->name == 'a')
		g->no_generation_prompt = !cJSON_IsTrue(v);
	else
		g->continue_final = cJSON_IsTrue(v);
	return 0;
}

/* ---- the text ---- */

static void put_key(struct json_buf *b, const char *key)
{
	json_put(b, b->len > 1 ? ", \"" : "\"");
	json_put(b, key);
	json_put(b, "\": ");
}

/* The arguments of a call: {} where there are none. */
static int put_arguments(struct reading *g, const cJSON *v, int i)
{
	const struct json_limits limits = { .max_values = BATCH_MAX_VALUES };
	struct json_buf *b = &g->r->body;
	struct json_error why;
	cJSON *tree;

	if (cJSON_IsNull(v) || (cJSON_IsString(v) && !*v->valuestring)) {
		json_put(b, "{}");
		return 0;
	}
	if (!cJSON_IsString(v)) {
		batch_put_value(b, v);
		return 0;
	}
	if (json_parse(v->valuestring, strlen(v->valuestring), &limits, &tree, &why))
		return batch_refuse(g->err, 400, "messages",
			"messages[%d].tool_calls: the arguments of a function must be JSON: %s, at "
			"byte %zu of them",
			i, why.why, why.offset);
	batch_put_value(b, tree);
	cJSON_Delete(tree);
	return 0;
}

/* "function": {..} of a call, its arguments as JSON. */
static int put_function(struct reading *g, const cJSON *f, int i)
{
	struct json_buf *b = &g->r->body;
	bool seen = false;

	json_put(b, "{");
	for (const cJSON *m = f->child; m; m = m->next) {
		bool arguments = !strcmp(m->string, "arguments");

		json_put(b, m == f->child ? "" : ", ");
		json_put_string(b, m->string, strlen(m->string));
		json_put(b, ": ");
		seen = seen || arguments;
		if (!arguments)
			batch_put_value(b, m);
		else if (put_arguments(g, m, i))
			return -1;
	}
	json_put(b, seen ? "}" : f->child ? ", \"arguments\": {}}" : "\"arguments\": {}}");
	return 0;
}

static int put_call(struct reading *g, const cJSON *call, int i)
{
	struct json_buf *b = &g->r->body;

	json_put(b, "{");
	for (const cJSON *m = call->child; m; m = m->next) {
		json_put(b, m == call->child ? "" : ", ");
		json_put_string(b, m->string, strlen(m->string));
		json_put(b, ": ");
		if (strcmp(m->string, "function") || !cJSON_IsObject(m))
			batch_put_value(b, m);
		else if (put_function(g, m, i))
			return -1;
	}
	json_put(b, "}");
	return 0;
}

static int put_calls(struct reading *g, const cJSON *calls, int i)
{
	struct json_buf *b = &g->r->body;

	json_put(b, "[");
	for (const cJSON *call = calls->child; call; call = call->next) {
		json_put(b, call == calls->child ? "" : ", ");
		if (!cJSON_IsObject(call))
			return batch_refuse(g->err, 400, "messages",
				"messages[%d].tool_calls must be a list of objects", i);
		if (put_call(g, call, i))
			return -1;
	}
	json_put(b, "]");
	return 0;
}

static int put_member(struct reading *g, const cJSON *m, int i)
{
	struct json_buf *b = &g->r->body;

	if (!strcmp(m->string, "tool_calls") && cJSON_IsArray(m))
		return put_calls(g, m, i);
	if (!strcmp(m->string, "content") && cJSON_IsArray(m))
		json_put_string(b, m->valuestring, strlen(m->valuestring)); /* joined: batch_prompt.c */
	else
		batch_put_value(b, m);
	return 0;
}

/* Members that are null are left out, as transformers' users do; but content is always there, as
 * in vLLM: templates ask what is in it without asking whether it is. */
static int put_message(struct reading *g, const cJSON *v, int i)
{
	const cJSON *content = json_get(v, "content");
	struct json_buf *b = &g->r->body;
	bool first = true;

	json_put(b, i ? ", {" : "{");
	for (const cJSON *m = v->child; m; m = m->next) {
		if (cJSON_IsNull(m))
			continue;
		json_put(b, first ? "" : ", ");
		json_put_string(b, m->string, strlen(m->string));
		json_put(b, ": ");
		first = false;
		if (put_member(g, m, i))
			return -1;
	}
	json_put(b, !content || cJSON_IsNull(content) ? ", \"content\": \"\"}" : "}");
	return 0;
}

/* reasoning_effort is one more argument of the template. */
static int put_kwargs(struct reading *g)
{
	struct json_buf *b = &g->r->body;

	if (g->effort && json_get(g->kwargs, "reasoning_effort"))
		return batch_refuse(g->err, 400, "reasoning_effort",
			"reasoning_effort stands in the body and in chat_template_kwargs: give one");
	put_key(b, "chat_template_kwargs");
	if (!g->effort) {
		batch_put_value(b, g->kwargs);
		return 0;
	}
	json_put(b, "{\"reasoning_effort\": ");
	batch_put_value(b, g->effort);
	for (const cJSON *m = g->kwargs ? g->kwargs->child : NULL; m; m = m->next) {
		json_put(b, ", ");
		json_put_string(b, m->string, strlen(m->string));
		json_put(b, ": ");
		batch_put_value(b, m);
	}
	json_put(b, "}");
	return 0;
}

static int check_turn(struct reading *g)
{
	const struct batch_request *r = g->r;
	const struct nvllm_chat_message *last = NULL;

	if (!g->continue_final)
		return 0;
	if (!g->no_generation_prompt)
		return batch_refuse(g->err, 400, "continue_final_message",
			"continue_final_message needs add_generation_prompt to be false: the answer "
			"goes on with the last message, or it begins a new one");
	for (int64_t i = 0; r->message_list[i]; i++)
		last = r->message_list[i];
	if (!last || last->role.len != 9 || memcmp(last->role.s, "assistant", 9))
		return batch_refuse(g->err, 400, "continue_final_message",
			"continue_final_message: the last message must be the assistant's");
	return 0;
}

int batch_settle_chat(struct reading *g)
{
	struct json_buf *b = &g->r->body;
	int i = 0;

	g->r->add_generation_prompt = !g->no_generation_prompt;
	if (check_turn(g))
		return -1;
	json_put(b, "{");
	put_key(b, "messages");
	json_put(b, "[");
	for (const cJSON *m = g->list->child; m; m = m->next, i++)
		if (put_message(g, m, i))
			return -1;
	json_put(b, "]");
	if (g->tools) {
		put_key(b, "tools");
		batch_put_value(b, g->tools);
	}
	if (g->documents) {
		put_key(b, "documents");
		batch_put_value(b, g->documents);
	}
	if ((g->kwargs || g->effort) && put_kwargs(g))
		return -1;
	json_put(b, g->no_generation_prompt ? ", \"add_generation_prompt\": false"
					    : ", \"add_generation_prompt\": true");
	json_put(b, g->continue_final ? ", \"continue_final_message\": true}" : "}");
	return b->failed ? batch_refuse(g->err, 500, NULL, "no memory for the messages") : 0;
}
