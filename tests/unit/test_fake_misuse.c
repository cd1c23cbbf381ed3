/* SPDX-License-Identifier: MIT */
/* What the contract forbids, done on the fake device on purpose: each is logged once, fails
 * the next wait with a sentence, and leaves the device usable. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* ---- by a call ---- */

struct wrong { struct rig r; struct four x, y; void *host; nvllm_mark mark, set; };

static void bad_address(struct wrong *w)
{
	float mine[4] = { 0 };

	w->y.t.data = mine;
	w->r.k->add(w->r.d, w->r.s, w->x.t, w->y.t);
}

static void past_the_end(struct wrong *w)
{
	w->y.t.rows = 2;
	w->x.t.rows = 2;
	w->r.k->add(w->r.d, w->r.s, w->y.t, w->x.t);
}

static void bad_index(struct wrong *w)
{
	static const int32_t index[1] = { 0 };

	w->r.k->rows(w->r.d, w->r.s, w->x.t, w->y.t, index);
}

static void copy_too_far(struct wrong *w) { w->r.vt->copy(w->r.d, w->r.s, w->x.p, w->host, 20); }
static void copy_past_the_end(struct wrong *w)
{
	w->r.vt->copy(w->r.d, w->r.s, w->x.p + 1, w->host, 16);
}
static void copy_of_host_block(struct wrong *w)
{
	w->r.vt->copy(w->r.d, w->r.s, w->x.p, (char *)w->host + 8, 16);
}
static void copy_host_to_host(struct wrong *w) { w->r.vt->copy(w->r.d, w->r.s, w->host, &w->y, 8); }
static void copy_null(struct wrong *w) { w->r.vt->copy(w->r.d, w->r.s, NULL, w->x.p, 8); }
static void wrong_stream(struct wrong *w) { w->r.k->add(w->r.d, NULL, w->x.t, w->y.t); }
static void set_twice(struct wrong *w) { w->r.vt->mark_set(w->r.d, w->r.s, w->set); }
static void free_twice(struct wrong *w) { w->r.vt->free(w->r.d, w); }
static void free_inside(struct wrong *w) { w->r.vt->free(w->r.d, (char *)w->x.p + 4); }
static void host_free_unknown(struct wrong *w) { w->r.vt->host_free(w->r.d, w); }
static void launch_nothing(struct wrong *w) { w->r.vt->graph_launch(w->r.d, w->r.s, w); }
static void end_without_begin(struct wrong *w)
{
	nvllm_graph g;

	assert_true(w->r.vt->graph_end(w->r.d, w->r.s, &g) < 0);
}

static void alloc_while_queued(struct wrong *w)
{
	w->r.k->add(w->r.d, w->r.s, w->x.t, w->y.t);
	assert_null(w->r.vt->alloc(w->r.d, 64));
}

static void free_while_queued(struct wrong *w)
{
	w->r.k->add(w->r.d, w->r.s, w->x.t, w->y.t);
	w->r.vt->free(w->r.d, w->x.p); /* it stays, or the job would read what is gone */
}

/* What must not be done inside a recording spoils it, too. */
static void in_recording(struct wrong *w, void (*fn)(struct wrong *))
{
	nvllm_graph g;

	rig_ok(&w->r, w->r.vt->graph_begin(w->r.d, w->r.s));
	fn(w);
	assert_int_equal(w->r.vt->graph_end(w->r.d, w->r.s, &g), NVLLM_EDEVICE);
	assert_null(g);
}

static void do_sync(struct wrong *w) { assert_true(w->r.vt->sync(w->r.d, w->r.s) < 0); }
static void do_alloc(struct wrong *w) { assert_null(w->r.vt->alloc(w->r.d, 64)); }
static void do_wait(struct wrong *w) { assert_true(w->r.vt->mark_wait(w->r.d, w->set) < 0); }
static void do_set(struct wrong *w) { w->r.vt->mark_set(w->r.d, w->r.s, w->mark); }
static void do_stack_copy(struct wrong *w) { w->r.vt->copy(w->r.d, w->r.s, w->x.p, &w->y, 8); }
static void sync_in_recording(struct wrong *w) { in_recording(w, do_sync); }
static void alloc_in_recording(struct wrong *w) { in_recording(w, do_alloc); }
static void wait_in_recording(struct wrong *w) { in_recording(w, do_wait); }
static void set_in_recording(struct wrong *w) { in_recording(w, do_set); }
static void stack_in_recording(struct wrong *w) { in_recording(w, do_stack_copy); }
static void bad_in_recording(struct wrong *w) { in_recording(w, bad_address); }

static const struct { void (*fn)(struct wrong *); const char *word; } wrongs[] = {
	{ bad_address, "lie outside the device's memory" }, { past_the_end, "lie outside" },
	{ bad_index, "rows: index" }, { copy_too_far, "no such range" },
	{ copy_past_the_end, "no such range" },
	{ copy_of_host_block, "no such range" }, { copy_host_to_host, "neither is on the device" },
	{ copy_null, "no such range" }, { wrong_stream, "stream" },
	{ set_twice, "set and not waited for" }, { free_twice, "did not give" },
	{ free_inside, "did not give" }, { host_free_unknown, "did not give" },
	{ launch_nothing, "no graph" }, { end_without_begin, "no recording is open" },
	{ alloc_while_queued, "alloc while work is queued" },
	{ free_while_queued, "free while work is queued" },
	{ sync_in_recording, "sync inside a recording" }, { alloc_in_recording, "alloc inside" },
	{ wait_in_recording, "mark_wait inside" }, { set_in_recording, "mark_set inside" },
	{ stack_in_recording, "not of host_alloc" }, { bad_in_recording, "lie outside" },
};

static void wrong_open(struct wrong *w)
{
	memset(w, 0, sizeof(*w));
	open_fours(&w->r, NULL, &w->x, &w->y);
	w->host = w->r.vt->host_alloc(w->r.d, 16);
	rig_ok(&w->r, w->r.vt->mark_create(w->r.d, &w->mark));
	rig_ok(&w->r, w->r.vt->mark_create(w->r.d, &w->set));
	rig_ok(&w->r, w->r.vt->mark_set(w->r.d, w->r.s, w->set));
}

static int wrong_close(struct wrong *w)
{
	w->r.vt->host_free(w->r.d, w->host);
	w->r.vt->mark_free(w->r.d, w->mark);
	w->r.vt->mark_free(w->r.d, w->set);
	return close_fours(&w->r, &w->x, &w->y);
}

static void misuse_is_found(void **state)
{
	struct wrong w;

	(void)state;
	for (size_t i = 0; i < N(wrongs); i++) {
		wrong_open(&w);
		wrongs[i].fn(&w);
		rig_bad(&w.r, wrongs[i].word);
		assert_int_equal(wrong_close(&w), 1);
	}
	wrong_open(&w); /* a mark that was never set fails its own wait */
	assert_int_equal(w.r.vt->mark_wait(w.r.d, w.mark), NVLLM_EDEVICE);
	assert_non_null(strstr(w.r.host.said, "never set"));
	assert_int_equal(wrong_close(&w), 1);
	wrong_open(&w);
	assert_int_equal(w.r.vt->mark_wait(w.r.d, &w), NVLLM_EDEVICE);
	assert_int_equal(wrong_close(&w), 1);
}

static void what_is_left_is_said(void **state)
{
	char path[] = "/tmp/nvllm-fake-XXXXXX", text[2000] = "";
	const char *const words[] = { "log", path, NULL };
	int fd = mkstemp(path);
	struct four x, y;
	nvllm_graph g;
	nvllm_mark m;
	struct rig r;

	(void)state;
	assert_true(fd >= 0);
	open_fours(&r, words, &x, &y);
	rig_ok(&r, r.vt->graph_begin(r.d, r.s));
	rig_ok(&r, r.k->add(r.d, r.s, x.t, y.t));
	rig_ok(&r, r.vt->graph_end(r.d, r.s, &g));
	rig_ok(&r, r.vt->mark_create(r.d, &m));
	assert_non_null(r.vt->host_alloc(r.d, 8));
	rig_ok(&r, r.vt->graph_launch(r.d, r.s, g));
	r.vt->graph_free(r.d, g); /* queued: it stays */
	assert_int_equal(rig_close(&r), 5);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "misuse: graph_free while 1 launches of it are queued\n"));
	assert_non_null(strstr(text, "misuse: destroyed with 1 jobs queued\n"));
	assert_non_null(strstr(text, "misuse: destroyed with 1 graphs and 1 marks left\n"));
	assert_non_null(strstr(text, "misuse: destroyed with 2 blocks of device memory left"));
	assert_non_null(strstr(text, "misuse: destroyed with 1 blocks of host memory left\n"));
	assert_non_null(
		strstr(text, "end: kernels 0, recordings 1, launches 1, waits 2, most queued 1, "
			     "misuses 5\n"));
	close(fd);
	unlink(path);
}

/* ---- what a batch on the device may not say ---- */

static void no_plan(struct world *w)
{
	struct nvllm_tensor q = nvllm_cols(w->qkv, 0, DIM);
	struct nvllm_tensor a = w->a;

	q.rows = a.rows = 3;
	rig_ok(&w->r, w->avt->run(w->attn, w->r.s, 0, &w->batch, q, q, q, a));
}
static void long_seq(struct world *w) { w->batch.max_kv_len = 0; }
static void bad_page(struct world *w) { w->stage[1]->page_table[PAGES] = SEQS * PAGES; }
static void bad_slot(struct world *w) { w->stage[1]->slots[2] = 1 << 20; }
static void bad_token(struct world *w) { w->stage[1]->tokens[1] = -1 - SEQS; }
static void bad_tokens(struct world *w) { w->out_tokens += SEQS - 1; }
static void bad_rows(struct world *w) { w->in = (void *)w->stage[1]; }
static void no_page(struct world *w)
{
	w->stage[1]->kv_len[1] = LEN + 1;
	w->batch.max_kv_len = 2 * LEN;
}
static void many_pages(struct world *w) { w->batch.max_pages = 1 << 20; }

static void bad_batches_are_found(void **state)
{
	static const struct { void (*spoil)(struct world *); const char *word; int n;
	} bad[] = {
		{long_seq, "max_kv_len", 1},
		{bad_page, "page 0 of sequence 1 is 64", 1},
		{no_page, "in 8 pages", 1},
		{bad_slot, "writes to slot", 0},
		{bad_token, "last token of slot 8, which has none", 1},
		{bad_tokens, "sample: tokens", 2},
		{bad_rows, "sample: rows", 1},
		{many_pages, "attention: page_table", 2},
	};
	struct nvllm_tensor logits;
	struct world w;

	(void)state;
	for (size_t i = 0; i < N(bad); i++) {
		struct world_in *in;

		world_open(&w, FAKE_SO, NULL);
		world_inputs(&w, 0, 3, 3);
		rig_ok(&w.r, world_forward(&w, &logits));
		rig_ok(&w.r, w.r.vt->sync(w.r.d, w.r.s));
		*w.stage[1] = *w.stage[0];
		in = w.in;
		bad[i].spoil(&w);
		rig_ok(&w.r, w.r.vt->copy(w.r.d, w.r.s, in, w.stage[1], sizeof(*in)));
		rig_ok(&w.r, world_forward(&w, &logits));
		rig_bad(&w.r, bad[i].word);
		assert_int_equal(world_close(&w), bad[i].n);
	}
	world_open(&w, FAKE_SO, NULL);
	world_inputs(&w, 0, 3, 3);
	no_plan(&w);
	rig_bad(&w.r, "plan did not run");
	assert_int_equal(world_close(&w), 1);
}

static void bad_options_are_refused(void **state)
{
	static const char *const words[][3] = { { "cpu", "/nowhere.so", NULL },
		{ "cpu", FAKE_NAIVE, NULL }, { "isa", "sse9", NULL }, { "cpu", FAKE_SO, NULL } };
	static const char *const sentence[] = {
		"/nowhere.so", "no component of kind", "isa", "host memory"};
	const struct nvllm_component *c = rig_component(FAKE_SO, NVLLM_KIND_DEVICE);
	const struct nvllm_device_vt *vt = c->vt;

	(void)state;
	for (size_t i = 0; i < N(words); i++) {
		struct nvllm_device *d = NULL;
		struct rig_host h;
		void *conf;

		rig_host_init(&h);
		assert_int_equal(inner_conf(&h.pub, c, words[i], &conf), 0);
		assert_true(vt->create(&h.pub, 0, conf, &d) < 0);
		assert_non_null(strstr(h.said, sentence[i]));
		rig_host_finish(&h);
	}
	vt->destroy(NULL);
}

/* Neither attention nor sampler takes what cannot do their work. */
static void bad_parts_are_refused(void **state)
{
	static const char *const words[][3] = {
		{"inner", FAKE_GREEDY, NULL}, {"inner", FAKE_CPU, NULL}};
	static const char *const sentence[] = { "choose topk_topp", "no component of kind" };
	const struct nvllm_component *c = rig_component(FAKE_SO, NVLLM_KIND_SAMPLER);
	const struct nvllm_sampler_vt *vt = c->vt;
	struct rig r;

	(void)state;
	rig_open(&r, FAKE_SO, NULL);
	for (size_t i = 0; i < N(words); i++) {
		struct nvllm_sampler_env env = { .size = sizeof(env), .max_rows = 1,
			.dev = &r.ref, .vocab = 9, .vocab_n = 9 };
		struct nvllm_sampler *out = NULL;
		struct rig_host h;
		void *conf;

		rig_host_init(&h);
		assert_int_equal(inner_conf(&h.pub, c, words[i], &conf), 0);
		assert_int_equal(vt->create(&h.pub, &env, conf, &out), NVLLM_ENOTSUP);
		assert_non_null(strstr(h.said, sentence[i]));
		rig_host_finish(&h);
	}
	assert_int_equal(rig_close(&r), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(misuse_is_found),
		cmocka_unit_test(what_is_left_is_said),
		cmocka_unit_test(bad_batches_are_found),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(bad_parts_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
