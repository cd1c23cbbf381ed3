/* SPDX-License-Identifier: MIT */
/* Lines of the batch front end against a fake engine: what each key becomes, what a chat
 * template may read, bad lines beside good ones. */
#define _GNU_SOURCE
#include "batch_fixture.h"

/* The beginning of a body. */
#define HI "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}]"
#define CALLS(call) "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[" call "]}]"

static void defaults_are_those_of_the_api(void **state)
{
	struct fixture *f = *state;

	f->conf.max_inflight = 1;
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":[97,98],\"temperature\":null}}"), NVLLM_EXIT_OK);
	assert_int_equal(f->engine.last.max_tokens, 16);
	assert_true(isnan(f->engine.last.temperature) && isnan(f->engine.last.top_p) && isnan(f->engine.last.min_p));
	assert_true(f->engine.last.seed == NVLLM_UNSET && f->engine.last.logprobs == NVLLM_UNSET);
	assert_json(json_get(choice(f, 0), "logprobs"), "null");
	assert_json(json_get(choice(f, 0), "finish_reason"), "\"stop\"");
	assert_json(json_get(choice(f, 0), "stop_reason"), "7");
	assert_json(json_get(choice(f, 0), "token_ids"), "null");
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}]}}"),
		NVLLM_EXIT_OK);
	assert_true(f->engine.last.max_tokens == NVLLM_UNSET);
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\",\"seed\":9007199254740993,\"top_k\":7,"
		"\"top_p\":0.5,\"min_p\":0.25,\"temperature\":0,\"ignore_eos\":true,\"stop\":[\"a\",\"b\"]}}"), NVLLM_EXIT_OK);
	assert_true(f->engine.last.seed == 9007199254740993);
	assert_true(f->engine.last.top_k == 7 && f->engine.last.top_p == 0.5 && f->engine.last.min_p == 0.25);
	assert_true(f->engine.last.temperature == 0 && f->engine.last.ignore_eos && f->engine.last.n_stops == 2);
}

static void priority_and_salt_reach_the_engine(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\",\"priority\":-9,\"cache_salt\":\"s\u00e9\","
		"\"n\":3}}"), NVLLM_EXIT_OK);
	assert_true(f->engine.last.priority == -9 && f->engine.last.n == 3);
	assert_string_equal(f->engine.last_salt, "s\xc3\xa9");
	assert_true(isnan(f->engine.last.timeout));
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\",\"priority\":null,\"cache_salt\":null,"
		"\"n\":null}}"), NVLLM_EXIT_OK);
	assert_true(f->engine.last.priority == NVLLM_UNSET && f->engine.last.n == NVLLM_UNSET);
	assert_string_equal(f->engine.last_salt, "");
}

static void sampling_reaches_the_engine(void **state)
{
	struct fixture *f = *state;
	const struct nvllm_params *p = &f->engine.last;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\",\"typical_p\":0.5,\"repetition_penalty\":1.25,"
		"\"presence_penalty\":-2,\"frequency_penalty\":2,\"min_tokens\":3,\"logit_bias\":{\"5\":1.5,\"0\":-100,\"7\":1e300,\"8\":-101},"
		"\"stop_token_ids\":[3,2147483647],\"allowed_token_ids\":[0,1],\"bad_words\":[\"a b\",\"\u00e9\"],"
		"\"vllm_xargs\":{\"k\":[1, 2.50,null,\"q\\\"\"],\"big\":12345678901234567890}}}"), NVLLM_EXIT_OK);
	assert_true(p->typical_p == 0.5 && p->repetition_penalty == 1.25 && p->min_tokens == 3);
	assert_true(p->presence_penalty == -2 && p->frequency_penalty == 2);
	assert_string_equal(f->engine.last_lists, "bias 5:1.5 0:-100 7:100 8:-100 | stop 3 2147483647 | allowed 0 1 | "
		"bad a b \xc3\xa9 | extra {\"k\": [1, 2.50, null, \"q\\\"\"], \"big\": 12345678901234567890}");
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{},\"bad_words\":[],"
		"\"stop_token_ids\":[],\"allowed_token_ids\":null,\"min_tokens\":0}}"), NVLLM_EXIT_OK);
	assert_true(isnan(p->typical_p) && isnan(p->repetition_penalty) && isnan(p->presence_penalty));
	assert_true(isnan(p->frequency_penalty) && p->min_tokens == 0);
	assert_string_equal(f->engine.last_lists, "bias | stop | allowed | bad | extra ");
}

/* What a template may read: all members of messages, but null ones; a content always; text parts as one text;
 * the arguments of a call as JSON. */
static void templates_read_the_body(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT "{\"temperature\":0,\"tools\":[{\"type\":\"function\",\"x\":3.0}],"
		"\"tool_choice\":\"auto\",\"documents\":[],\"chat_template_kwargs\":{\"enable_thinking\":false},\"messages\":["
		"{\"role\":\"u\",\"content\":[{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"text\",\"text\":\"c\"}],\"name\":\"n\"},"
		"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"i\",\"function\":{\"name\":\"f\",\"arguments\":"
		"\"{\\\"a\\\": 1e22}\"}},{\"function\":{\"arguments\":\"\"}},{\"function\":{\"name\":\"g\"}},{\"function\":{}}]},"
		"{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"i\"}]}}"), NVLLM_EXIT_OK);
	assert_string_equal(f->engine.last_body, "{\"messages\": [{\"role\": \"u\", \"content\": \"b\\nc\", \"name\": \"n\"}, "
		"{\"role\": \"assistant\", \"tool_calls\": [{\"id\": \"i\", \"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1e22}}}, "
		"{\"function\": {\"arguments\": {}}}, {\"function\": {\"name\": \"g\", \"arguments\": {}}}, "
		"{\"function\": {\"arguments\": {}}}], \"content\": \"\"}, {\"role\": \"tool\", \"content\": \"r\", \"tool_call_id\": \"i\"}], "
		"\"tools\": [{\"type\": \"function\", \"x\": 3.0}], \"documents\": [], "
		"\"chat_template_kwargs\": {\"enable_thinking\": false}, \"add_generation_prompt\": true}");
	assert_int_equal(f->engine.last_turn, 1);
	/* and for templates that know roles and contents alone */
	assert_json(json_get(json_get(choice(f, 0), "message"), "content"), "\"<U>B\\nC<ASSISTANT><TOOL>R\"");
}

static void turns_and_effort(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}],"
		"\"add_generation_prompt\":false,\"continue_final_message\":true,\"reasoning_effort\":\"low\",\"tool_choice\":\"none\","
		"\"chat_template_kwargs\":{\"k\":[]}}}"), NVLLM_EXIT_OK);
	assert_string_equal(f->engine.last_body, "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}], "
		"\"chat_template_kwargs\": {\"reasoning_effort\": \"low\", \"k\": []}, \"add_generation_prompt\": false, "
		"\"continue_final_message\": true}");
	assert_int_equal(f->engine.last_turn, 0);
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT HI ",\"reasoning_effort\":\"high\",\"tools\":null}}"), NVLLM_EXIT_OK);
	assert_string_equal(f->engine.last_body, "{\"messages\": [{\"role\": \"u\", \"content\": \"x\"}], "
		"\"chat_template_kwargs\": {\"reasoning_effort\": \"high\"}, \"add_generation_prompt\": true}");
}

/* A line, and what is said of it. Between them stand good lines. */
static const struct { const char *line, *param, *why; } bad_lines[] = {
	{ "{", NULL, "cannot be read as JSON" },
	{ "[]", NULL, "must be an object" },
	{ "\"x\"", NULL, "must be an object" },
	{ "{\"custom_id\":\"\xff\"}", NULL, "invalid UTF-8" },
	{ "{\"custom_id\":\"x\",\"custom_id\":\"y\"}", NULL, "occurs twice" },
	{ "{" COMPLETION "{\"prompt\":\"x\"}}", "custom_id", "custom_id is missing" },
	{ "{\"custom_id\":7," COMPLETION "{\"prompt\":\"x\"}}", "custom_id", "custom_id is missing, empty or no text" },
	{ "{\"custom_id\":\"good-0\"," COMPLETION "{\"prompt\":\"x\"}}", "custom_id", "an earlier line has the custom_id" },
	{ "{\"custom_id\":\"b1\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}", "method", "POST" },
	{ "{\"custom_id\":\"b2\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{}}", "url", "/v1/embeddings" },
	{ "{\"custom_id\":\"b3\",\"method\":\"POST\",\"url\":\"/v1/completions\"}", "body", "body is missing" },
	{ "{\"custom_id\":\"b4\",\"bdy\":{}," COMPLETION "{\"prompt\":\"x\"}}", "bdy", "did you mean 'body'" },
	{ "{\"custom_id\":\"b5\"," COMPLETION "{}}", "prompt", "no prompt" },
	{ "{\"custom_id\":\"b6\"," COMPLETION "{\"prompt\":\"x\",\"temprature\":0}}", "temprature", "did you mean 'temperature'" },
	{ "{\"custom_id\":\"b7\"," COMPLETION "{\"prompt\":\"x\",\"suffix\":\"y\"}}", "suffix", "nothing here takes 'suffix'" },
	{ "{\"custom_id\":\"b8\"," COMPLETION "{\"prompt\":\"x\",\"messages\":[]}}", "messages", "nothing here takes 'messages'" },
	{ "{\"custom_id\":\"b9\"," COMPLETION "{\"prompt\":\"x\",\"n\":0}}", "n", "n is 0: it must be a whole number from 1 to 128" },
	{ "{\"custom_id\":\"n1\"," COMPLETION "{\"prompt\":\"x\",\"n\":-1}}", "n", "n is -1" },
	{ "{\"custom_id\":\"n2\"," COMPLETION "{\"prompt\":\"x\",\"n\":129}}", "n", "n is 129" },
	{ "{\"custom_id\":\"n3\"," COMPLETION "{\"prompt\":\"x\",\"n\":1e9}}", "n", "n is 1e9" },
	{ "{\"custom_id\":\"n4\"," COMPLETION "{\"prompt\":\"x\",\"n\":1000000000}}", "n", "n is 1000000000" },
	{ "{\"custom_id\":\"n5\"," COMPLETION "{\"prompt\":\"x\",\"n\":1.5}}", "n", "n is 1.5" },
	{ "{\"custom_id\":\"n6\"," COMPLETION "{\"prompt\":\"x\",\"n\":\"2\"}}", "n", "n is a string" },
	{ "{\"custom_id\":\"n7\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"n\":true}}", "n", "n is true" },
	{ "{\"custom_id\":\"n8\"," COMPLETION "{\"prompt\":\"x\",\"n\":2,\"best_of\":3}}", "best_of", "nothing here takes best_of" },
	{ "{\"custom_id\":\"p1\"," COMPLETION "{\"prompt\":\"x\",\"priority\":0.5}}", "priority", "priority is 0.5" },
	{ "{\"custom_id\":\"p2\"," COMPLETION "{\"prompt\":\"x\",\"priority\":\"high\"}}", "priority", "priority is a string" },
	{ "{\"custom_id\":\"p3\"," COMPLETION "{\"prompt\":\"x\",\"priority\":-9223372036854775808}}", "priority", "above -2^63" },
	{ "{\"custom_id\":\"s1\"," COMPLETION "{\"prompt\":\"x\",\"cache_salt\":\"\"}}", "cache_salt", "at least one character" },
	{ "{\"custom_id\":\"s2\"," COMPLETION "{\"prompt\":\"x\",\"cache_salt\":7}}", "cache_salt", "cache_salt is 7" },
	{ "{\"custom_id\":\"s3\"," COMPLETION "{\"prompt\":\"x\",\"cache_salt\":[\"a\"]}}", "cache_salt", "an array" },
	{ "{\"custom_id\":\"s4\"," COMPLETION "{\"prompt\":\"x\",\"timeout\":1}}", "timeout", "nothing here takes 'timeout'" },
	{ "{\"custom_id\":\"b10\"," COMPLETION "{\"prompt\":\"x\",\"stream\":true}}", "stream", "stream" },
	{ "{\"custom_id\":\"b11\"," COMPLETION "{\"prompt\":\"x\",\"echo\":true}}", "echo", "echo" },
	{ "{\"custom_id\":\"b12\"," COMPLETION "{\"prompt\":\"x\",\"presence_penalty\":2.5}}", "presence_penalty", "-2 to 2" },
	{ "{\"custom_id\":\"b13\"," COMPLETION "{\"prompt\":\"x\",\"temperature\":-0.1}}", "temperature", "-0.1" },
	{ "{\"custom_id\":\"b14\"," COMPLETION "{\"prompt\":\"x\",\"temperature\":\"1\"}}", "temperature", "a string" },
	{ "{\"custom_id\":\"b15\"," COMPLETION "{\"prompt\":\"x\",\"top_p\":0}}", "top_p", "above 0" },
	{ "{\"custom_id\":\"b16\"," COMPLETION "{\"prompt\":\"x\",\"top_p\":1.01}}", "top_p", "1.01" },
	{ "{\"custom_id\":\"b17\"," COMPLETION "{\"prompt\":\"x\",\"top_k\":-2}}", "top_k", "-1 or more" },
	{ "{\"custom_id\":\"b18\"," COMPLETION "{\"prompt\":\"x\",\"top_k\":1.5}}", "top_k", "1.5" },
	{ "{\"custom_id\":\"b19\"," COMPLETION "{\"prompt\":\"x\",\"min_p\":2}}", "min_p", "0 to 1" },
	{ "{\"custom_id\":\"b20\"," COMPLETION "{\"prompt\":\"x\",\"max_tokens\":0}}", "max_tokens", "1 or more" },
	{ "{\"custom_id\":\"b21\"," COMPLETION "{\"prompt\":\"x\",\"seed\":9223372036854775808}}", "seed", "below 2^63" },
	{ "{\"custom_id\":\"b22\"," COMPLETION "{\"prompt\":\"x\",\"seed\":1.0}}", "seed", "1.0" },
	{ "{\"custom_id\":\"b23\"," COMPLETION "{\"prompt\":\"x\",\"stop\":\"\"}}", "stop", "at least one character" },
	{ "{\"custom_id\":\"b24\"," COMPLETION "{\"prompt\":\"x\",\"stop\":[\"a\",1]}}", "stop", "a list of such texts" },
	{ "{\"custom_id\":\"b25\"," COMPLETION "{\"prompt\":\"x\",\"logprobs\":21}}", "logprobs", "0 to 20" },
	{ "{\"custom_id\":\"b26\"," COMPLETION "{\"prompt\":\"x\",\"logprobs\":true}}", "logprobs", "true" },
	{ "{\"custom_id\":\"b27\"," COMPLETION "{\"prompt\":\"x\",\"prompt_logprobs\":-1}}", "prompt_logprobs", "-1" },
	{ "{\"custom_id\":\"b28\"," COMPLETION "{\"prompt\":\"x\",\"ignore_eos\":1}}", "ignore_eos", "true or false" },
	{ "{\"custom_id\":\"b29\"," COMPLETION "{\"prompt\":[\"x\",\"y\"]}}", "prompt", "several prompts" },
	{ "{\"custom_id\":\"b30\"," COMPLETION "{\"prompt\":[]}}", "prompt", "empty" },
	{ "{\"custom_id\":\"b31\"," COMPLETION "{\"prompt\":[1,2147483648]}}", "prompt", "prompt[1] is no token id" },
	{ "{\"custom_id\":\"b32\"," COMPLETION "{\"prompt\":[-1]}}", "prompt", "prompt[0] is no token id" },
	{ "{\"custom_id\":\"b33\"," COMPLETION "{\"prompt\":{}}}", "prompt", "an object" },
	{ "{\"custom_id\":\"b34\"," COMPLETION "{\"prompt\":\"\"}}", NULL, "the fake engine refuses" },
	{ "{\"custom_id\":\"b35\"," COMPLETION "{\"prompt\":\"REFUSE\"}}", NULL, "the fake engine refuses" },
	{ "{\"custom_id\":\"b36\"," CHAT "{}}", "messages", "no messages" },
	{ "{\"custom_id\":\"b37\"," CHAT "{\"messages\":[]}}", "messages", "at least one message" },
	{ "{\"custom_id\":\"b38\"," CHAT "{\"messages\":[{\"role\":\"user\"}]}}", "messages", "messages[0].content" },
	{ "{\"custom_id\":\"b39\"," CHAT "{\"messages\":[{\"content\":\"x\"}]}}", "messages", "messages[0].role" },
	{ "{\"custom_id\":\"b40\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":[{\"type\":\"image_url\"}]}]}}", "messages", "text alone" },
	{ "{\"custom_id\":\"b41\"," CHAT "{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}}", "messages", "messages[0].content" },
	{ "{\"custom_id\":\"b42\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"top_logprobs\":2}}", "top_logprobs", "needs logprobs" },
	{ "{\"custom_id\":\"b43\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"max_tokens\":1,\"max_completion_tokens\":2}}",
		"max_tokens", "mean the same" },
	{ "{\"custom_id\":\"b44\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"logprobs\":1}}", "logprobs", "true or false" },
	{ "{\"custom_id\":\"b45\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":[]}]}}", "messages", "empty list" },
	{ "{\"custom_id\":\"b46\"," COMPLETION "{\"prompt\":\"x\",\"model\":1}}", "model", "model is 1" },
	{ "{\"custom_id\":\"c1\"," COMPLETION "{\"prompt\":\"x\",\"frequency_penalty\":-2.01}}", "frequency_penalty", "-2 to 2" },
	{ "{\"custom_id\":\"c2\"," COMPLETION "{\"prompt\":\"x\",\"repetition_penalty\":0}}", "repetition_penalty", "above 0" },
	{ "{\"custom_id\":\"c3\"," COMPLETION "{\"prompt\":\"x\",\"repetition_penalty\":\"2\"}}", "repetition_penalty", "a string" },
	{ "{\"custom_id\":\"c4\"," COMPLETION "{\"prompt\":\"x\",\"typical_p\":0}}", "typical_p", "above 0" },
	{ "{\"custom_id\":\"c5\"," COMPLETION "{\"prompt\":\"x\",\"typical_p\":1.5}}", "typical_p", "at most 1" },
	{ "{\"custom_id\":\"c6\"," COMPLETION "{\"prompt\":\"x\",\"min_tokens\":-1}}", "min_tokens", "0 or more" },
	{ "{\"custom_id\":\"c7\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":[5]}}", "logit_bias", "an array" },
	{ "{\"custom_id\":\"c8\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"a\":1}}}", "logit_bias", "the key 'a'" },
	{ "{\"custom_id\":\"c9\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"-1\":1}}}", "logit_bias", "the key '-1'" },
	{ "{\"custom_id\":\"c10\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"2147483648\":1}}}", "logit_bias", "must be a token id" },
	{ "{\"custom_id\":\"c11\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"99999999999999999999\":1}}}", "logit_bias", "a token id" },
	{ "{\"custom_id\":\"c12\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"5\":\"1\"}}}", "logit_bias", "of token 5" },
	{ "{\"custom_id\":\"c13\"," COMPLETION "{\"prompt\":\"x\",\"logit_bias\":{\"5\":null}}}", "logit_bias", "of token 5" },
	{ "{\"custom_id\":\"c14\"," COMPLETION "{\"prompt\":\"x\",\"stop_token_ids\":7}}", "stop_token_ids", "a list of token ids" },
	{ "{\"custom_id\":\"c15\"," COMPLETION "{\"prompt\":\"x\",\"stop_token_ids\":[1,-1]}}", "stop_token_ids", "stop_token_ids[1]" },
	{ "{\"custom_id\":\"c16\"," COMPLETION "{\"prompt\":\"x\",\"stop_token_ids\":[\"7\"]}}", "stop_token_ids", "[0] is no token id" },
	{ "{\"custom_id\":\"c17\"," COMPLETION "{\"prompt\":\"x\",\"allowed_token_ids\":[]}}", "allowed_token_ids", "allow nothing" },
	{ "{\"custom_id\":\"c18\"," COMPLETION "{\"prompt\":\"x\",\"allowed_token_ids\":[1.5]}}", "allowed_token_ids", "no token id" },
	{ "{\"custom_id\":\"c19\"," COMPLETION "{\"prompt\":\"x\",\"bad_words\":\"a\"}}", "bad_words", "a list of texts" },
	{ "{\"custom_id\":\"c20\"," COMPLETION "{\"prompt\":\"x\",\"bad_words\":[\"a\",\"\"]}}", "bad_words", "bad_words[1]" },
	{ "{\"custom_id\":\"c21\"," COMPLETION "{\"prompt\":\"x\",\"bad_words\":[7]}}", "bad_words", "bad_words[0]" },
	{ "{\"custom_id\":\"c22\"," COMPLETION "{\"prompt\":\"x\",\"vllm_xargs\":[]}}", "vllm_xargs", "an object" },
	{ "{\"custom_id\":\"c23\"," COMPLETION "{\"prompt\":\"x\",\"tools\":[]}}", "tools", "nothing here takes 'tools' in a completion" },
	{ "{\"custom_id\":\"c24\"," CHAT HI ",\"tools\":{}}}", "tools", "a list of objects" },
	{ "{\"custom_id\":\"c25\"," CHAT HI ",\"tools\":[1]}}", "tools", "tools[0] is no object" },
	{ "{\"custom_id\":\"c26\"," CHAT HI ",\"tool_choice\":\"required\"}}", "tool_choice", "nothing here forces" },
	{ "{\"custom_id\":\"c27\"," CHAT HI ",\"tool_choice\":{\"type\":\"function\"}}}", "tool_choice", "\"auto\" or \"none\"" },
	{ "{\"custom_id\":\"c28\"," CHAT HI ",\"documents\":\"d\"}}", "documents", "a list of objects" },
	{ "{\"custom_id\":\"c29\"," CHAT HI ",\"chat_template_kwargs\":true}}", "chat_template_kwargs", "an object" },
	{ "{\"custom_id\":\"c30\"," CHAT HI ",\"reasoning_effort\":\"much\"}}", "reasoning_effort", "low, medium or high" },
	{ "{\"custom_id\":\"c31\"," CHAT HI ",\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"reasoning_effort\":\"high\"}}}",
		"reasoning_effort", "give one" },
	{ "{\"custom_id\":\"c32\"," CHAT HI ",\"add_generation_prompt\":1}}", "add_generation_prompt", "true or false" },
	{ "{\"custom_id\":\"c33\"," CHAT HI ",\"continue_final_message\":true}}", "continue_final_message", "add_generation_prompt to be false" },
	{ "{\"custom_id\":\"c34\"," CHAT HI ",\"continue_final_message\":true,\"add_generation_prompt\":false}}", "continue_final_message",
		"must be the assistant's" },
	{ "{\"custom_id\":\"c35\"," CHAT CALLS("{\"function\":{\"arguments\":\"{]\"}}") "}}", "messages", "messages[0].tool_calls: the arguments" },
	{ "{\"custom_id\":\"c36\"," CHAT CALLS("7") "}}", "messages", "a list of objects" },
	{ "{\"custom_id\":\"c37\"," CHAT "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[]}]}}", "messages", "messages[0].content" },
	{ "{\"custom_id\":\"c38\"," CHAT "{\"messages\":[{\"role\":\"tool\",\"tool_calls\":[{}]}]}}", "messages", "messages[0].content" },
};
#define N_BAD (sizeof(bad_lines) / sizeof(bad_lines[0]))

static void bad_lines_harm_no_other(void **state)
{
	struct fixture *f = *state;
	struct json_buf b = { 0 };
	char line[200];

	for (size_t i = 0; i < N_BAD; i++) {
		snprintf(line, sizeof(line), "{\"custom_id\":\"good-%zu\"," COMPLETION "{\"prompt\":\"ok\"}}\n", i);
		json_put(&b, line);
		json_put(&b, bad_lines[i].line);
		json_put(&b, "\n");
	}
	assert_int_equal(run_text(f, b.s), NVLLM_EXIT_FAIL);
	assert_int_equal(f->n_lines, 2 * N_BAD);
	for (size_t i = 0; i < N_BAD; i++) {
		assert_int_equal(status(f, 2 * (int)i), 200);
		assert_string_equal(text(json_get(choice(f, 2 * (int)i), "text")), "OK");
		assert_refused(f, 2 * (int)i + 1, bad_lines[i].param, bad_lines[i].why);
	}
	assert_true(cJSON_IsNull(json_get(f->lines[1], "custom_id")));
	json_buf_free(&b);
}

static void no_chat_template_is_said(void **state)
{
	struct fixture *f = *state;

	f->engine.info.has_chat = 0;
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}]}}"),
		NVLLM_EXIT_FAIL);
	assert_refused(f, 0, "url", "no chat template");
}

static void lines_of_all_shapes(void **state)
{
	struct fixture *f = *state;
	struct json_buf b = { 0 };

	f->conf.max_line = 1024;
	json_put(&b, "\n  \t\r\n{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\"}}\r\n\n{\"custom_id\":\"long\",\"x\":\"");
	for (int i = 0; i < 5000; i++)
		json_put(&b, "y");
	json_put(&b, "\"}\n{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"no newline\"}}");
	assert_int_equal(run_text(f, b.s), NVLLM_EXIT_FAIL);
	assert_int_equal(f->n_lines, 3);
	assert_int_equal(status(f, 0), 200);
	assert_refused(f, 1, NULL, "more than 1024 bytes");
	assert_string_equal(text(json_get(f->lines[2], "custom_id")), "b");
	assert_int_equal(run_text(f, ""), NVLLM_EXIT_OK);
	assert_int_equal(f->n_lines, 0);
	json_buf_free(&b);
}

static void zero_bytes_are_refused(void **state)
{
	struct fixture *f = *state;

	spit(f->in, "{\"custom_id\":\"a\0b\"}\n\0\n", 22);
	assert_int_equal(run(f), NVLLM_EXIT_FAIL);
	read_output(f);
	assert_int_equal(f->n_lines, 2);
	assert_refused(f, 0, NULL, "cannot be read as JSON");
	assert_refused(f, 1, NULL, "cannot be read as JSON");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
		T(defaults_are_those_of_the_api),
		T(priority_and_salt_reach_the_engine),
		T(sampling_reaches_the_engine),
		T(templates_read_the_body),
		T(turns_and_effort),
		T(bad_lines_harm_no_other),
		T(no_chat_template_is_said),
		T(lines_of_all_shapes),
		T(zero_bytes_are_refused),
#undef T
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
