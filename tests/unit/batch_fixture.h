/* SPDX-License-Identifier: MIT */
/* batch_fixture.h - what the tests of the batch front end share: files, the plugin opened
 * over a fake engine, and looking into an answer. */
#ifndef BATCH_FIXTURE_H
#define BATCH_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_engine.h"
#include "json.h"

/* As plugins/frontends/batch.h has it: the struct its option table fills. */
struct batch_conf {
	const char *input, *output;
	int32_t resume;
	int64_t max_inflight, max_line;
};

#define COMPLETION "\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":"
#define CHAT       "\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":"

struct fixture {
	void *so;
	const struct nvllm_frontend_vt *vt;
	struct nvllm_engine engine;
	char dir[64], in[128], out[128], journal[160];
	struct batch_conf conf;
	cJSON *lines[256];         /* of the output, after run() */
	int n_lines;
};

/* ---- files ---- */

static void spit(const char *path, const char *text, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static char *slurp(const char *path, size_t *len)
{
	FILE *f = fopen(path, "r");
	char *s = calloc(1, 1 << 20);

	assert_non_null(f);
	assert_non_null(s);
	*len = fread(s, 1, (1 << 20) - 1, f);
	fclose(f);
	return s;
}

static bool there(const char *path) { return !access(path, F_OK); }

/* ---- the plugin ---- */

static void *open_plugin(const char *file)
{
	const char *dirs = getenv("NVLLM_PLUGIN_PATH");
	char path[1024];
	void *so = NULL;

	while (dirs && *dirs && !so) {
		int n = (int)strcspn(dirs, ":");

		snprintf(path, sizeof(path), "%.*s/%s", n, dirs, file);
		so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		dirs += n + (dirs[n] == ':');
	}
	return so;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct nvllm_plugin *plugin;

	assert_non_null(f);
	f->so = open_plugin("frontend_batch.so");
	if (!f->so)
		fail_msg("frontend_batch.so is not in NVLLM_PLUGIN_PATH: %s", dlerror());
	plugin = dlsym(f->so, "nvllm_plugin");
	assert_non_null(plugin);
	assert_int_equal(plugin->components[0]->conf_size, sizeof(struct batch_conf));
	f->vt = plugin->components[0]->vt;
	strcpy(f->dir, "/tmp/nvllm-test-batch-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->in, sizeof(f->in), "%s/in.jsonl", f->dir);
	snprintf(f->out, sizeof(f->out), "%s/out.jsonl", f->dir);
	snprintf(f->journal, sizeof(f->journal), "%s.journal", f->out);
	f->conf = (struct batch_conf){ f->in, f->out, 0, 0, 1 << 20 };
	fake_open(&f->engine);
	*fake_said = '\0';
	*state = f;
	return 0;
}

static void forget(struct fixture *f)
{
	while (f->n_lines > 0)
		cJSON_Delete(f->lines[--f->n_lines]);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char command[128];

	forget(f);
	fake_close(&f->engine);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
	dlclose(f->so);
	free(f);
	return 0;
}

/* Reads the output file into f->lines; each must be one line of strict JSON. */
static void read_output(struct fixture *f)
{
	size_t len;
	char *s = slurp(f->out, &len), *at = s, *end;
	struct json_error why;

	forget(f);
	while ((end = strchr(at, '\n'))) {
		if (json_parse(at, (size_t)(end - at), NULL, &f->lines[f->n_lines], &why))
			fail_msg("line %d: %s", f->n_lines + 1, why.why);
		f->n_lines++;
		at = end + 1;
	}
	assert_int_equal(*at, '\0');
	free(s);
}

/* check and run, as the core calls them. */
static int run(struct fixture *f)
{
	int rc = f->vt->check(&fake_host, &f->conf);

	return rc ? rc : f->vt->run(&fake_host, &fake_vt, &f->engine, &f->conf);
}

static int run_text(struct fixture *f, const char *text)
{
	int rc;

	spit(f->in, text, strlen(text));
	rc = run(f);
	if (rc >= 0 && there(f->out))
		read_output(f);
	return rc;
}

/* ---- looking into an answer ---- */

static const cJSON *response(const struct fixture *f, int i)
{
	assert_true(i < f->n_lines);
	return json_get(f->lines[i], "response");
}

static int status(const struct fixture *f, int i)
{
	int64_t n = 0;

	assert_int_equal(json_int64(json_get(response(f, i), "status_code"), &n), 0);
	return (int)n;
}

static const cJSON *body(const struct fixture *f, int i) { return json_get(response(f, i), "body"); }
static const cJSON *choice(const struct fixture *f, int i) { return json_get(body(f, i), "choices")->child; }

static const char *text(const cJSON *v)
{
	assert_true(cJSON_IsString(v));
	return v->valuestring;
}

/* v as compact JSON, compared. */
static void assert_json(const cJSON *v, const char *want)
{
	char *s = cJSON_PrintUnformatted(v);

	assert_non_null(s);
	assert_string_equal(s, want);
	free(s);
}

static void assert_refused(const struct fixture *f, int i, const char *param, const char *why)
{
	const cJSON *e = json_get(body(f, i), "error");

	if (status(f, i) != 400 || !strstr(text(json_get(e, "message")), why))
		fail_msg("line %d: %d: %s", i + 1, status(f, i), text(json_get(e, "message")));
	assert_string_equal(text(json_get(e, "type")), "invalid_request_error");
	if (param)
		assert_string_equal(text(json_get(e, "param")), param);
	assert_json(json_get(e, "code"), "400");
	assert_true(cJSON_IsObject(json_get(f->lines[i], "error")));
}
#endif
