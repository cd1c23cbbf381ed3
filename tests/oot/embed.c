/* SPDX-License-Identifier: MIT */
/* Streams one answer through libnvllm.so: embed CONFIG PROMPT N. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvllm/engine.h>

static void on_event(void *user, const struct nvllm_event *e)
{
	int *status = user;

	fwrite(e->text.s, 1, (size_t)e->text.len, stdout);
	fflush(stdout);
	if (e->type != NVLLM_EVENT_DONE)
		return;
	*status = e->finish == NVLLM_FINISH_ERROR;
	if (*status)
		fprintf(stderr, "embed: %s\n", e->error);
	else
		fprintf(stderr, "embed: %d prompt tokens, %d answered\n", e->usage->n_prompt,
			e->usage->n_output);
}

int main(int argc, char **argv)
{
	struct nvllm_open open = { .size = sizeof(open) };
	struct nvllm_params params = nvllm_params_none();
	struct nvllm_request r = {
		.size = sizeof(r), .encode_flags = NVLLM_ENCODE_SPECIAL, .params = &params
	};
	struct nvllm_engine *engine;
	int status = 1;
	uint64_t id;
	char err[512];

	if (argc != 4) {
		fputs("usage: embed CONFIG PROMPT N\n", stderr);
		return 2;
	}
	open.config = argv[1];
	if (nvllm_open(&open, &engine, err, sizeof(err))) {
		fprintf(stderr, "embed: %s\n", err);
		return 1;
	}
	params.temperature = 0;
	params.max_tokens = atoi(argv[3]);
	r.prompt.s = argv[2];
	r.prompt.len = (int64_t)strlen(argv[2]);
	r.on_event = on_event;
	r.user = &status;
	if (nvllm_submit(engine, &r, &id))
		fprintf(stderr, "embed: %s\n", nvllm_error(engine));
	else
		nvllm_wait(engine, id);
	nvllm_close(engine);
	return status;
}
