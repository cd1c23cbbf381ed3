/* SPDX-License-Identifier: MIT */
/* Each family's tiny checkpoint against Hugging Face transformers, in float32: every greedy
 * token, and every logit of two rows a prompt, after the prompt and 63 tokens later, within
 * 1e-3; on each attention plugin, with prompts in chunks, and on groups of ranks: more than
 * there are KV heads, and vocabularies that they do not divide. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_rig.h"
#include "fixtures/record.h"
#include "json.h"

#define DATA "tests/data/"

enum { N_PROMPTS = 6, N_NEW = 64 };

static const char *const names[] = { "qwen3-tied-bf16", "qwen3-untied-f32-sharded", "llama3-bf16", "llama2-f16",
	"qwen2-bf16", "mistral-swa-bf16", "qwen3-moe-bf16", "gemma3-text-bf16" };
#define N_NAMES (int)(sizeof(names) / sizeof(names[0]))

static const struct arm { const char *name, *sets[5]; } arms[] = {
	{ "paged, chunks of 7", { "engine.max_tokens=7", NULL } },
	{ "paged, tp 4", { "engine.tp=4", "engine.max_tokens=64", NULL } },
	{ "naive", { "attention.plugin=naive", "engine.max_tokens=64", NULL } },
	{ "naive, tp 2, chunks of 7", { "attention.plugin=naive", "engine.tp=2", "engine.max_tokens=7", NULL } },
	{ "paged, chunks of 1", { "engine.max_tokens=1", NULL } },
	{ "paged, tp 2, chunks of 64", { "engine.tp=2", "engine.max_tokens=64", NULL } },
	{ "naive, tp 4, chunks of 1", { "attention.plugin=naive", "engine.tp=4", "engine.max_tokens=1", NULL } },
	{ "paged, tp 3, pages of 8, radix", { "engine.tp=3", "attention.page_tokens=8", "cache.plugin=radix", NULL } },
};
#define N_ARMS (int)(sizeof(arms) / sizeof(arms[0]))

struct golden {
	struct ask ask[N_PROMPTS];
	int32_t ids[N_PROMPTS][N_NEW];
	float *logits;             /* [2 * N_PROMPTS][vocab] */
	int64_t vocab;
};

static bool quick(void)
{
	const char *s = getenv("NVLLM_GOLDEN"); /* "short" under sanitizers */

	return s && !strcmp(s, "short");
}

/* ---- the reference ---- */

static int32_t read_ids(const cJSON *list, int32_t *out, int32_t room)
{
	int32_t n = 0;
	int64_t id;

	for (const cJSON *v = list ? list->child : NULL; v; v = v->next) {
		assert_true(n < room);
		assert_int_equal(json_int64(v, &id), 0);
		out[n++] = (int32_t)id;
	}
	return n;
}

static void read_line(struct golden *g, int i, const char *line, size_t len)
{
	cJSON *v;

	assert_int_equal(json_parse(line, len, NULL, &v, NULL), 0);
	g->ask[i] = (struct ask){ .max_tokens = N_NEW, .n = 1 };
	g->ask[i].n_prompt = read_ids(json_get(v, "prompt_ids"), g->ask[i].prompt, 1024);
	assert_int_equal(read_ids(json_get(json_get(v, "f32"), "greedy_ids"), g->ids[i], N_NEW), N_NEW);
	cJSON_Delete(v);
}

static void read_prompts(struct golden *g, const char *name)
{
	char path[200], *line = NULL;
	size_t room = 0;
	ssize_t len;
	FILE *f;
	int i = 0;

	snprintf(path, sizeof(path), DATA "goldens/%s/goldens.jsonl", name);
	f = fopen(path, "r");
	assert_non_null(f);
	while ((len = getline(&line, &room, f)) > 0) {
		assert_true(i < N_PROMPTS);
		read_line(g, i++, line, (size_t)len);
	}
	assert_int_equal(i, N_PROMPTS);
	free(line);
	fclose(f);
}

/* The file is a .npy of version 1.0: a header whose length stands at byte 8, then rows. */
static void read_logits(struct golden *g, const char *name)
{
	char path[200], head[10];
	long from, bytes;
	FILE *f;

	snprintf(path, sizeof(path), DATA "goldens/%s/logits.f32.npy", name);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fread(head, 1, sizeof(head), f), sizeof(head));
	from = 10 + (unsigned char)head[8] + 256 * (unsigned char)head[9];
	fseek(f, 0, SEEK_END);
	bytes = ftell(f) - from;
	g->vocab = bytes / (2 * N_PROMPTS * (long)sizeof(float));
	assert_int_equal(g->vocab * 2 * N_PROMPTS * (long)sizeof(float), bytes);
	g->logits = malloc((size_t)bytes);
	assert_non_null(g->logits);
	fseek(f, from, SEEK_SET);
	assert_int_equal(fread(g->logits, 1, (size_t)bytes, f), bytes);
	fclose(f);
}

/* ---- a run ---- */

/* The file that the sampler records in: every row of a run has room. */
struct tape {
	char path[40], set[60], plugin[PATH_MAX + 80];
	struct record_head *head;
	size_t bytes;
};

static void tape_open(struct tape *t, int64_t vocab)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	int fd;

	assert_true(n > 0);
	exe[n] = '\0';
	*strrchr(exe, '/') = '\0';
	snprintf(t->plugin, sizeof(t->plugin), "sampler.plugin=%s/fixtures/sampler_record.so", exe);
	strcpy(t->path, "/tmp/nvllm-families-XXXXXX");
	fd = mkstemp(t->path);
	assert_true(fd >= 0);
	snprintf(t->set, sizeof(t->set), "sampler.file=%s", t->path);
	t->bytes = sizeof(*t->head) + N_PROMPTS * N_NEW * record_bytes(vocab);
	assert_int_equal(ftruncate(fd, (off_t)t->bytes), 0);
	t->head = mmap(NULL, t->bytes, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(t->head != MAP_FAILED);
	close(fd);
}

static const float *tape_find(const struct tape *t, uint64_t seed, int64_t position)
{
	for (int64_t i = 0; i < t->head->n; i++) {
		const struct record *r = record_at(t->head, i);

		if (r->seed == seed && r->position == (uint64_t)position)
			return r->logits;
	}
	fail_msg("no row of prompt %d at position %ld", (int)seed - 1, (long)position);
	return NULL;
}

/* The largest error of a row. */
static double row_error(const struct golden *g, int prompt, int late, const float *got)
{
	const float *want = g->logits + (2 * prompt + late) * g->vocab;
	double worst = 0;

	for (int64_t k = 0; k < g->vocab; k++) {
		double d = fabs((double)want[k] - (double)got[k]);

		worst = d > worst || isnan(d) ? d : worst;
		if (isnan(worst))
			return INFINITY;
	}
	return worst;
}

static double check_answers(const struct golden *g, const struct tape *t, const char *name, const char *arm)
{
	double worst = 0;

	assert_int_equal(t->head->vocab, g->vocab);
	assert_int_equal(t->head->n, N_PROMPTS * N_NEW);
	assert_int_equal(t->head->lost, 0);
	for (int i = 0; i < N_PROMPTS; i++) {
		const struct ask *k = &g->ask[i];
		double d = row_error(g, i, 0, tape_find(t, (uint64_t)i + 1, k->n_prompt));

		assert_int_equal(k->a[0].finish, NVLLM_FINISH_LENGTH);
		assert_int_equal(k->a[0].n, N_NEW);
		if (d >= 1e-3)
			fail_msg("%s, %s: prompt %d: a logit after the prompt is off by %g", name, arm, i, d);
		for (int j = 0; j < N_NEW; j++)
			if (k->a[0].ids[j] != g->ids[i][j])
				fail_msg("%s, %s: prompt %d: token %d is %d, not %d", name, arm, i, j, k->a[0].ids[j],
					g->ids[i][j]);
		worst = fmax(worst, d);
		d = row_error(g, i, 1, tape_find(t, (uint64_t)i + 1, k->n_prompt + N_NEW - 1));
		if (d >= 1e-3)
			fail_msg("%s, %s: prompt %d: a logit of step 63 is off by %g", name, arm, i, d);
		worst = fmax(worst, d);
	}
	return worst;
}

static double run_arm(struct golden *g, const char *name, const struct arm *m)
{
	char path[200];
	struct tape t;
	struct nvllm_engine *e;
	double worst;

	snprintf(path, sizeof(path), "model.path=" DATA "checkpoints/%s", name);
	tape_open(&t, g->vocab);
	e = rig_open((const char *const[]){ path, t.plugin, t.set, NULL }, m->sets,
		(const char *const[]){ "device.activations=f32", "engine.kv_dtype=f32", "device.threads=1",
			"engine.memory=256M", "engine.max_seqs=6", NULL });
	unlink(t.path); /* the sampler has it mapped */
	for (int i = 0; i < N_PROMPTS; i++)
		rig_submit(e, &g->ask[i], (uint64_t)i + 1);
	for (int i = 0; i < N_PROMPTS; i++)
		nvllm_wait(e, g->ask[i].id);
	rig_quiet(e);
	nvllm_close(e);
	worst = check_answers(g, &t, name, m->name);
	munmap(t.head, t.bytes);
	return worst;
}

/* Short: two arms a checkpoint, in turn, so that each arm is run with some. */
static void run_checkpoint(int which)
{
	struct golden *g = calloc(1, sizeof(*g));
	double worst = 0;

	assert_non_null(g);
	read_prompts(g, names[which]);
	read_logits(g, names[which]);
	for (int i = 0; i < N_ARMS; i++)
		if (!quick() || i == which % N_ARMS || i == (which + 3) % N_ARMS)
			worst = fmax(worst, run_arm(g, names[which], &arms[i]));
	print_message("%s: largest error of a logit %.2g\n", names[which], worst);
	free(g->logits);
	free(g);
}

static void test_checkpoint(void **state) { run_checkpoint(*(const int *)*state); }

int main(void)
{
	struct CMUnitTest tests[N_NAMES];
	int numbers[N_NAMES];

	for (int i = 0; i < N_NAMES; i++) {
		numbers[i] = i;
		tests[i] = (struct CMUnitTest){ .name = names[i], .test_func = test_checkpoint, .initial_state = &numbers[i] };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
