/* SPDX-License-Identifier: MIT */
/* frontends/bench_trace.c - decides what a file of requests is: a line each, a JSON object of
 * "ids", the prompt's tokens, and "max_tokens", the length of its answer. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define MAX_REQUESTS (1 << 20)

/* NULL = taken, else what is wrong. */
static const char *take(struct bench_ask *a, const cJSON *v)
{
	const cJSON *ids = json_get(v, "ids");
	int64_t n = cJSON_IsArray(ids) ? cJSON_GetArraySize(ids) : 0, id;

	if (n < 1)
		return "\"ids\" must be a list of at least one token";
	if (json_int64(json_get(v, "max_tokens"), &a->gen) || a->gen < 1 || a->gen > 1 << 20)
		return "\"max_tokens\" must be a number of at least 1";
	a->ids = malloc((size_t)n * sizeof(*a->ids));
	if (!a->ids)
		return "no memory";
	for (const cJSON *e = ids->child; e; e = e->next) {
		if (json_int64(e, &id) || id < 0 || id > INT32_MAX)
			return "\"ids\" holds something that is no token";
		a->ids[a->n++] = (int32_t)id;
	}
	return NULL;
}

static int take_line(const struct nvllm_host *h, const char *path, struct bench_trace *t,
	const char *line, size_t len)
{
	struct json_error err = { 0 };
	struct bench_ask *more = t->n & (t->n - 1) ? t->asks :
		realloc(t->asks, (size_t)(t->n ? 2 * t->n : 1) * sizeof(*more));
	const char *why;
	cJSON *v = NULL;

	if (!more)
		return h->fail(h, NVLLM_ENOMEM, "no memory for the requests of '%s'", path);
	t->asks = more;
	more[t->n] = (struct bench_ask){ NULL };
	t->n++;
	if (json_parse(line, len, NULL, &v, &err))
		return h->fail(h, NVLLM_EINVAL, "%s:%lld: no JSON: %s", path, (long long)t->n, err.why);
	why = t->n > MAX_REQUESTS ? "too many requests" : take(&more[t->n - 1], v);
	cJSON_Delete(v);
	return why ? h->fail(h, NVLLM_EINVAL, "%s:%lld: %s", path, (long long)t->n, why) : NVLLM_OK;
}

int bench_trace_read(const struct nvllm_host *h, const char *path, struct bench_trace *t)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t room = 0;
	ssize_t len;
	int rc = NVLLM_OK;

	*t = (struct bench_trace){ 0 };
	if (!f)
		return h->fail(h, NVLLM_ENOENT, "cannot read the requests in '%s': %s", path,
			strerror(errno));
	while (!rc && (len = getline(&line, &room, f)) > 0)
		rc = take_line(h, path, t, line, (size_t)len);
	if (!rc && (ferror(f) || !t->n))
		rc = h->fail(h, NVLLM_EINVAL, "'%s' holds no requests", path);
	free(line);
	fclose(f);
	return rc;
}

void bench_trace_free(struct bench_trace *t)
{
	for (int64_t i = 0; i < t->n; i++)
		free(t->asks[i].ids);
	free(t->asks);
}
