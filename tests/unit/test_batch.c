/* SPDX-License-Identifier: MIT */
/* The batch front end against a fake engine: order, placement of what was asked for, bad
 * lines beside good ones, the journal, interruption, a full disk. */
#define _GNU_SOURCE
#include "batch_fixture.h"


/* ---- tests ---- */

static void answers_come_in_order(void **state)
{
	struct fixture *f = *state;
	struct json_buf b = { 0 };
	char line[200];

	for (int i = 0; i < 60; i++) {
		snprintf(line, sizeof(line), "{\"custom_id\":\"id-%d\"," COMPLETION "{\"prompt\":\"text %d\",\"max_tokens\":9}}\n",
			i, i);
		json_put(&b, line);
	}
	assert_int_equal(run_text(f, b.s), NVLLM_EXIT_OK);
	assert_int_equal(f->n_lines, 60);
	for (int i = 0; i < 60; i++) {
		snprintf(line, sizeof(line), "id-%d", i);
		assert_string_equal(text(json_get(f->lines[i], "custom_id")), line);
		assert_int_equal(status(f, i), 200);
		snprintf(line, sizeof(line), "TEXT %d", i);
		assert_string_equal(text(json_get(choice(f, i), "text")), line);
		assert_true(cJSON_IsNull(json_get(f->lines[i], "error")));
	}
	assert_in_range(f->engine.most_in_flight, 1, 8); /* twice max_seqs at most */
	assert_false(there(f->journal));
	json_buf_free(&b);
}

static void keeps_max_inflight(void **state)
{
	struct fixture *f = *state;

	f->conf.max_inflight = 1;
	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"x\"}}\n"
		"{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"y\"}}\n"), NVLLM_EXIT_OK);
	assert_int_equal(f->engine.most_in_flight, 1);
}

static void completion_has_what_was_asked_for(void **state)
{
	struct fixture *f = *state;
	const cJSON *c;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"abc\",\"max_tokens\":2,\"logprobs\":2,"
		"\"prompt_logprobs\":1,\"return_token_ids\":true}}"), NVLLM_EXIT_OK);
	c = choice(f, 0);
	assert_string_equal(text(json_get(body(f, 0), "object")), "text_completion");
	assert_string_equal(text(json_get(body(f, 0), "model")), "fake \"model\"");
	assert_json(json_get(c, "text"), "\"AB\"");
	assert_json(json_get(c, "finish_reason"), "\"length\"");
	assert_json(json_get(c, "stop_reason"), "null");
	assert_json(json_get(c, "token_ids"), "[65,66]");
	assert_json(json_get(c, "prompt_token_ids"), "[97,98,99]");
	assert_json(json_get(body(f, 0), "prompt_token_ids"), "[97,98,99]");
	assert_json(json_get(c, "logprobs"), "{\"text_offset\":[0,1],\"token_logprobs\":[-0.25,-0.25],"
		"\"tokens\":[\"A\",\"B\"],\"top_logprobs\":[{\"A\":-0.25,\"B\":-1.25},{\"B\":-0.25,\"C\":-1.25}]}");
	assert_json(json_get(c, "prompt_logprobs"), "[null,{\"98\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"b\"}},"
		"{\"99\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"c\"}}]");
	assert_json(json_get(body(f, 0), "usage"), "{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,"
		"\"prompt_tokens_details\":{\"cached_tokens\":1}}");
}

static void chat_has_what_was_asked_for(void **state)
{
	struct fixture *f = *state;
	const cJSON *c;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":"
		"[{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"text\",\"text\":\"c\"}]}],\"max_completion_tokens\":5,\"logprobs\":true,"
		"\"top_logprobs\":1,\"prompt_logprobs\":0,\"return_token_ids\":true}}"), NVLLM_EXIT_OK);
	c = choice(f, 0);
	assert_string_equal(text(json_get(body(f, 0), "object")), "chat.completion");
	assert_json(json_get(c, "message"), "{\"role\":\"assistant\",\"content\":\"<U>B\\n\"}");
	assert_json(json_get(body(f, 0), "prompt_token_ids"), "[60,117,62,98,10,99]");
	assert_json(json_get(c, "token_ids"), "[60,85,62,66,10]");
	assert_json(json_get(json_get(c, "logprobs"), "content")->child, "{\"token\":\"<\",\"logprob\":-0.25,\"bytes\":[60],"
		"\"top_logprobs\":[{\"token\":\"<\",\"logprob\":-0.25,\"bytes\":[60]}]}");
	assert_int_equal(cJSON_GetArraySize(json_get(body(f, 0), "prompt_logprobs")), 6);
	assert_null(json_get(c, "prompt_logprobs"));
	assert_int_equal(f->engine.last.max_tokens, 5);
}

/* n answers to one prompt stand in the order of their index, whichever ended first; the
 * prompt is counted once, and of it what no choice computed. */
static void several_choices_are_one_answer(void **state)
{
	struct fixture *f = *state;
	const cJSON *c;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"abc\",\"n\":5,\"logprobs\":1,"
		"\"return_token_ids\":true,\"prompt_logprobs\":0,\"max_tokens\":2}}\n"
		"{\"custom_id\":\"b\"," CHAT "{\"messages\":[{\"role\":\"u\",\"content\":\"yz\"}],\"n\":2,\"logprobs\":true}}\n"),
		NVLLM_EXIT_OK);
	c = json_get(body(f, 0), "choices");
	assert_int_equal(cJSON_GetArraySize(c), 5);
	for (int i = 0; i < 5; i++) {
		static const char *const texts[] = { "\"AB\"", "\"BC\"", "\"C\"", "\"\"", "\"\"" };
		static const char *const ids[] = { "[65,66]", "[66,67]", "[67]", "[]", "[]" };
		const cJSON *one = cJSON_GetArrayItem(c, i);

		assert_true(json_get(one, "index")->valueint == i);
		assert_json(json_get(one, "text"), texts[i]);
		assert_json(json_get(one, "token_ids"), ids[i]);
		assert_json(json_get(one, "finish_reason"), i ? "\"stop\"" : "\"length\"");
		assert_json(json_get(one, "prompt_token_ids"), "[97,98,99]");
		assert_int_equal(cJSON_GetArraySize(json_get(one, "prompt_logprobs")), 3);
		assert_int_equal(cJSON_GetArraySize(json_get(json_get(one, "logprobs"), "tokens")),
			cJSON_GetArraySize(json_get(one, "token_ids")));
	}
	assert_json(json_get(json_get(cJSON_GetArrayItem(c, 1), "logprobs"), "top_logprobs"), "[{\"B\":-0.25},{\"C\":-0.25}]");
	assert_json(json_get(body(f, 0), "usage"), "{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8,"
		"\"prompt_tokens_details\":{\"cached_tokens\":1}}");
	c = json_get(body(f, 1), "choices");
	assert_int_equal(cJSON_GetArraySize(c), 2);
	assert_json(json_get(cJSON_GetArrayItem(c, 1), "message"), "{\"role\":\"assistant\",\"content\":\"U>YZ\"}");
	assert_json(json_get(json_get(body(f, 1), "usage"), "completion_tokens"), "9");
}

static void the_most_choices(void **state)
{
	struct fixture *f = *state;
	const cJSON *c;
	int n = 0;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"abc\",\"n\":128}}"), NVLLM_EXIT_OK);
	for (c = json_get(body(f, 0), "choices")->child; c; c = c->next, n++)
		assert_true(json_get(c, "index")->valueint == n);
	assert_int_equal(n, 128);
}

/* One choice that fails fails its line; one that ran out of time is cut short. */
static void choices_that_end_badly(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"FAIL\",\"n\":3}}\n"
		"{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"LATE\",\"n\":2}}\n"), NVLLM_EXIT_FAIL);
	assert_int_equal(status(f, 0), 500);
	assert_string_equal(text(json_get(json_get(body(f, 0), "error"), "message")), "the fake engine fails");
	assert_int_equal(status(f, 1), 200);
	assert_json(json_get(choice(f, 1), "finish_reason"), "\"length\"");
	assert_json(json_get(choice(f, 1), "stop_reason"), "null");
}

static void engine_errors_are_the_engines(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"FAIL\"}}\n"
		"{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"fine\"}}\n"), NVLLM_EXIT_FAIL);
	assert_int_equal(status(f, 0), 500);
	assert_string_equal(text(json_get(json_get(body(f, 0), "error"), "message")), "the fake engine fails");
	assert_string_equal(text(json_get(json_get(body(f, 0), "error"), "type")), "server_error");
	assert_int_equal(status(f, 1), 200);
}

/* ---- interruption ---- */

#define THREE "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":\"one\"}}\n" \
	"{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"HANG two\",\"n\":2}}\n" \
	"{\"custom_id\":\"c\"," COMPLETION "{\"prompt\":\"three\",\"nonsense\":1}}\n" \
	"{\"custom_id\":\"d\"," COMPLETION "{\"prompt\":\"HANG four\"}}\n"

/* Presses Ctrl-C once the journal has its first line and the two that can end. */
static void *press(void *arg)
{
	const struct timespec pause = { 0, 2000000 };
	struct fixture *f = arg;

	for (;;) {
		FILE *j = fopen(f->journal, "r");
		int lines = 0, c;

		while (j && (c = getc(j)) != EOF)
			lines += c == '\n';
		if (j)
			fclose(j);
		if (lines == 3)
			break;
		nanosleep(&pause, NULL);
	}
	kill(getpid(), SIGINT);
	return NULL;
}

static void interrupt_text(struct fixture *f, const char *input)
{
	pthread_t t;

	pthread_create(&t, NULL, press, f);
	assert_int_equal(run_text(f, input), NVLLM_EXIT_INTERRUPTED);
	pthread_join(t, NULL);
	assert_true(there(f->journal));
	assert_false(there(f->out));
	assert_int_equal(f->engine.submitted, 3);
	f->engine.no_hang = true;
}

static void interrupt_a_run(struct fixture *f) { interrupt_text(f, THREE); }

/* A model may say U+0000, which the strict reader of JSON refuses: the journal keeps it. */
static void zero_bytes_are_kept(void **state)
{
	struct fixture *f = *state;
	size_t len;
	char *s;

	interrupt_text(f, "{\"custom_id\":\"a\"," COMPLETION "{\"prompt\":[111,0,107]}}\n"
		"{\"custom_id\":\"b\"," COMPLETION "{\"prompt\":\"HANG two\"}}\n{\n"
		"{\"custom_id\":\"d\"," COMPLETION "{\"prompt\":\"HANG four\"}}\n");
	f->conf.resume = 1;
	assert_int_equal(run(f), NVLLM_EXIT_FAIL);
	s = slurp(f->out, &len);
	assert_non_null(strstr(s, "\"text\": \"O\\u0000K\""));
	assert_non_null(strstr(s, "HANG FOUR"));
	assert_int_equal(f->engine.submitted, 5);
	free(s);
}

static void resumes_after_interruption(void **state)
{
	struct fixture *f = *state;

	interrupt_a_run(f);
	assert_true(run(f) < 0); /* without --resume */
	assert_non_null(strstr(fake_said, "--resume"));
	f->conf.resume = 1;
	assert_int_equal(run(f), NVLLM_EXIT_FAIL); /* line c fails, still */
	read_output(f);
	assert_int_equal(f->n_lines, 4);
	assert_int_equal(f->engine.submitted, 5); /* b and d again, a and c not */
	assert_string_equal(text(json_get(choice(f, 0), "text")), "ONE");
	assert_string_equal(text(json_get(choice(f, 1), "text")), "HANG TWO");
	assert_refused(f, 2, "nonsense", "nonsense");
	assert_string_equal(text(json_get(choice(f, 3), "text")), "HANG FOUR");
	assert_false(there(f->journal));
	assert_int_equal(run(f), NVLLM_EXIT_FAIL); /* --resume with nothing to resume begins anew */
	assert_int_equal(f->engine.submitted, 8);
}

static void a_torn_record_is_done_again(void **state)
{
	struct fixture *f = *state;
	size_t len;
	char *s;

	interrupt_a_run(f);
	s = slurp(f->journal, &len);
	f->conf.resume = 1;
	spit(f->journal, s, len - 20);
	assert_int_equal(run(f), NVLLM_EXIT_FAIL);
	read_output(f);
	assert_int_equal(f->n_lines, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(status(f, i), i == 2 ? 400 : 200);
	free(s);
}

/* Any beginning of a journal resumes to the same four lines. */
static void every_cut_of_the_journal_resumes(void **state)
{
	struct fixture *f = *state;
	size_t len;
	char *s;

	interrupt_a_run(f);
	s = slurp(f->journal, &len);
	f->conf.resume = 1;
	for (size_t cut = 0; cut <= len; cut += 7) {
		spit(f->journal, s, cut);
		assert_int_equal(run(f), NVLLM_EXIT_FAIL);
		read_output(f);
		assert_int_equal(f->n_lines, 4);
		assert_string_equal(text(json_get(choice(f, 0), "text")), "ONE");
		assert_false(there(f->journal));
	}
	free(s);
}

static void refuses_another_input_or_model(void **state)
{
	struct fixture *f = *state;

	interrupt_a_run(f);
	f->conf.resume = 1;
	spit(f->in, "{\"custom_id\":\"z\"}\n" THREE, strlen("{\"custom_id\":\"z\"}\n" THREE));
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "the input changed"));
	spit(f->in, "\n", 1);
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "the input changed"));
	spit(f->in, THREE, strlen(THREE));
	f->engine.info.model = "another";
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "'another'"));
	assert_true(there(f->journal));
	assert_int_equal(f->engine.submitted, 3);
}

#define HEAD "{\"nvllm_batch_journal\": 1, \"model\": \"m\"}\n"
#define HASH "08f44b07b5901a25" /* FNV-1a of {} */
#define RECORD(line, check) "{\"line\": " line ", \"input\": \"0000000000000000\", \"id\": \"0000000000000000\", " \
	"\"status\": 200, \"check\": \"" check "\", \"output\": {}}\n"

static void refuses_damaged_journals(void **state)
{
	static const char *const journals[] = {
		"not json\nmore\n", "{}\n{}\n", "{\"nvllm_batch_journal\": 2, \"model\": \"m\"}\n",
		HEAD "{\"line\": 1}\nmore\n", HEAD RECORD("1", "0000000000000000") "more\n",
		HEAD RECORD("0", HASH) "more\n", HEAD RECORD("999999999999", HASH) "more\n",
	};
	struct fixture *f = *state;

	f->conf.resume = 1;
	spit(f->in, THREE, strlen(THREE));
	for (size_t i = 0; i < sizeof(journals) / sizeof(journals[0]); i++) {
		spit(f->journal, journals[i], strlen(journals[i]));
		assert_true(run(f) < 0);
		if (!strstr(fake_said, "no journal") && !strstr(fake_said, "fewer lines"))
			fail_msg("%s: %s", journals[i], fake_said);
	}
	assert_int_equal(f->engine.submitted, 0);
}

/* ---- what cannot be written ---- */

static void a_full_disk_is_said(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, small;
	struct sigaction ignore = { .sa_handler = SIG_IGN }, old_action;
	int rc;

	f->engine.no_hang = true;
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){ 1500, old.rlim_max };
	spit(f->in, THREE, strlen(THREE));
	sigaction(SIGXFSZ, &ignore, &old_action);
	setrlimit(RLIMIT_FSIZE, &small);
	rc = run(f);
	setrlimit(RLIMIT_FSIZE, &old);
	sigaction(SIGXFSZ, &old_action, NULL);
	assert_true(rc < 0);
	assert_non_null(strstr(fake_said, "cannot write"));
	assert_false(there(f->out));
	f->conf.resume = 1; /* there is room again */
	assert_int_equal(run(f), NVLLM_EXIT_FAIL);
	read_output(f);
	assert_int_equal(f->n_lines, 4);
}

static void check_refuses_early(void **state)
{
	struct fixture *f = *state;
	char other[160];

	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "cannot read the input"));
	f->conf.input = "";
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "-i FILE"));
	f->conf.input = f->dir;
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "is a folder"));
	f->conf.input = f->conf.output = f->in;
	spit(f->in, THREE, strlen(THREE));
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "the same file"));
	f->conf.output = "";
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "-o FILE"));
	snprintf(other, sizeof(other), "%s/none/out.jsonl", f->dir);
	f->conf.output = other;
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "cannot write the output"));
	f->conf.output = "/dev/null";
	assert_true(run(f) < 0);
	assert_non_null(strstr(fake_said, "no plain file"));
	assert_int_equal(f->engine.submitted, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(answers_come_in_order),
		T(keeps_max_inflight),
		T(completion_has_what_was_asked_for),
		T(chat_has_what_was_asked_for),
		T(several_choices_are_one_answer),
		T(the_most_choices),
		T(choices_that_end_badly),
		T(engine_errors_are_the_engines),
		T(zero_bytes_are_kept),
		T(resumes_after_interruption),
		T(a_torn_record_is_done_again),
		T(every_cut_of_the_journal_resumes),
		T(refuses_another_input_or_model),
		T(refuses_damaged_journals),
		T(a_full_disk_is_said),
		T(check_refuses_early),
	};
#undef T

	return cmocka_run_group_tests(tests, NULL, NULL);
}
