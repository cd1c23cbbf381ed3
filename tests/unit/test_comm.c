/* SPDX-License-Identifier: MIT */
/* tests/unit/test_comm.c - comm thread: what a rank is told when the others do not come, leave,
 * or bring something else, and that sums stay right while ranks come at odd moments. What
 * every comm must do is in the conformance suite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include <nvllm/comm.h>

#include "fake_device.h"

#define MAX_WORLD 4

static const struct nvllm_comm_vt *vt;
static int64_t conf_timeout; /* the plugin's conf is this one number */

static int open_plugin(void **state)
{
	const struct nvllm_component *c = fake_plugin("comm_thread");

	assert_non_null(c);
	assert_int_equal(c->conf_size, sizeof(conf_timeout));
	assert_string_equal(c->options[0].key, "timeout");
	vt = c->vt;
	conf_timeout = 60;
	return 0;
}

struct rank {
	struct fake_host host;
	struct nvllm_device dev;
	struct nvllm_comm *comm;
	struct group *group;
	pthread_t thread;
	int32_t rank;
	int rc, wrong, n_ok;
	float x[4096], y[4 * 4096];
};

struct group {
	int32_t world;
	uint8_t id[NVLLM_COMM_ID_BYTES];
	int (*fn)(struct rank *);
	struct rank r[MAX_WORLD];
};

static void *thread(void *arg)
{
	struct rank *r = arg;

	r->rc = r->group->fn(r);
	return NULL;
}

/* fn on each rank's thread; returns when all are done. */
static void on_all(struct group *g, int (*fn)(struct rank *))
{
	g->fn = fn;
	for (int i = 0; i < g->world; i++)
		assert_int_equal(pthread_create(&g->r[i].thread, NULL, thread, &g->r[i]), 0);
	for (int i = 0; i < g->world; i++)
		pthread_join(g->r[i].thread, NULL);
}

static int create(struct rank *r)
{
	return vt->create(&r->host.h, &r->dev.ref, r->group->id, r->rank, r->group->world, &conf_timeout, &r->comm);
}

/* n_workers of each rank's device: 1 lets ranks spin where there are the cores, 1000 never. */
static struct group *group_make(int world, int n_workers)
{
	struct group *g = calloc(1, sizeof(*g));

	g->world = world;
	for (int i = 0; i < world; i++) {
		g->r[i].rank = i;
		g->r[i].group = g;
		fake_host_init(&g->r[i].host);
		fake_device_init(&g->r[i].dev, n_workers, "");
		g->r[i].dev.info.caps = NVLLM_DEV_HOST_MEM;
	}
	assert_int_equal(vt->make_id(&g->r[0].host.h, g->id), 0);
	return g;
}

static struct group *group_open(int world, int n_workers)
{
	struct group *g = group_make(world, n_workers);

	on_all(g, create);
	for (int i = 0; i < world; i++)
		assert_int_equal(g->r[i].rc, 0);
	return g;
}

static void leave(struct rank *r)
{
	if (r->comm)
		vt->destroy(r->comm);
	r->comm = NULL;
}

/* In that order, as the engine does it: rank 0's host goes before rank 1 leaves. */
static void group_close(struct group *g)
{
	for (int i = 0; i < g->world; i++) {
		leave(&g->r[i]);
		fake_host_finish(&g->r[i].host);
	}
	free(g);
}

static void said(const struct rank *r, const char *word)
{
	if (!strstr(r->host.said, word))
		fail_msg("rank %d was told '%s', not '%s'", r->rank, r->host.said, word);
}

static struct nvllm_tensor mat(float *x, int64_t rows, int64_t cols, int64_t stride)
{
	return (struct nvllm_tensor){ .data = x, .rows = rows, .cols = cols, .stride = stride * 4, .planes = 1,
		.dtype = NVLLM_F32 };
}

/* ---- sums ---- */

static float value(int rank, int round, int64_t i)
{
	uint64_t s = (uint64_t)rank << 40 ^ (uint64_t)round << 20 ^ (uint64_t)i;

	return fake_normal(&s);
}

static float total(int world, int round, int64_t i)
{
	float sum = value(0, round, i);

	for (int r = 1; r < world; r++)
		sum += value(r, round, i);
	return sum;
}

static int sums(struct rank *r)
{
	uint64_t s = (uint64_t)r->rank + 1, shape = 7;
	int rc = 0;

	for (int round = 0; round < 400 && !rc; round++) {
		int64_t rows = 1 + (int64_t)(fake_random(&shape) % 4), cols = 1 + (int64_t)(fake_random(&shape) % 300);
		int64_t stride = cols + r->rank * 3;

		for (int64_t i = 0; i < rows * cols; i++)
			r->x[i / cols * stride + i % cols] = value(r->rank, round, i);
		if (fake_random(&s) % 16 == 0)
			usleep((useconds_t)(fake_random(&s) % 300));
		rc = vt->all_reduce(r->comm, NULL, mat(r->x, rows, cols, stride));
		for (int64_t i = 0; i < rows * cols; i++)
			r->wrong += r->x[i / cols * stride + i % cols] != total(r->group->world, round, i);
	}
	return rc;
}

static void test_sums(void **state)
{
	static const int workers[] = { 1, 1000 };

	for (int world = 1; world <= MAX_WORLD; world++)
		for (int k = 0; k < 2; k++) {
			struct group *g = group_open(world, workers[k]);

			on_all(g, sums);
			for (int i = 0; i < world; i++)
				assert_true(g->r[i].rc == 0 && g->r[i].wrong == 0);
			group_close(g);
		}
}

/* Sums and columns in turns, each rank's x lying in its y already in every other round. */
static int turns(struct rank *r)
{
	int world = r->group->world, rc = 0;

	for (int round = 0; round < 200 && !rc; round++) {
		int64_t first = 0, cols = 0, rows = 1 + round % 3;

		for (int k = 0; k < world; k++) {
			first += k < r->rank ? (k + round) % 4 * 5 : 0;
			cols += (k + round) % 4 * 5;
		}
		struct nvllm_tensor y = mat(r->y, rows, cols, cols + 1);
		struct nvllm_tensor x = round % 2 ? mat(r->y + first, rows, (r->rank + round) % 4 * 5, cols + 1)
			: mat(r->x, rows, (r->rank + round) % 4 * 5, 20);

		for (int64_t i = 0; i < rows; i++)
			for (int64_t j = 0; j < x.cols; j++)
				((float *)x.data)[i * x.stride / 4 + j] = value(r->rank, round, i * 20 + j);
		rc = vt->all_gather(r->comm, NULL, y, x);
		for (int64_t i = 0; i < rows; i++)
			for (int64_t k = 0, at = 0; k < world; at += (k + round) % 4 * 5, k++)
				for (int64_t j = 0; j < (k + round) % 4 * 5; j++)
					r->wrong += r->y[i * (cols + 1) + at + j] != value((int)k, round, i * 20 + j);
		r->x[0] = (float)r->rank;
		rc = rc ? rc : vt->all_reduce(r->comm, NULL, mat(r->x, 1, 1, 1));
		r->wrong += r->x[0] != (float)(world * (world - 1) / 2);
	}
	return rc;
}

static void test_turns(void **state)
{
	for (int world = 1; world <= MAX_WORLD; world++) {
		struct group *g = group_open(world, world % 2 ? 1000 : 1);

		on_all(g, turns);
		for (int i = 0; i < world; i++)
			assert_true(g->r[i].rc == 0 && g->r[i].wrong == 0);
		group_close(g);
	}
}

/* ---- ranks that do not agree ---- */

static int other_shape(struct rank *r)
{
	r->x[0] = 1;
	return vt->all_reduce(r->comm, NULL, mat(r->x, 1, r->rank == 1 ? 4096 : 1, 4096));
}

static int other_call(struct rank *r)
{
	struct nvllm_tensor x = mat(r->x, 1, 2, 2);

	return r->rank == 2 ? vt->all_gather(r->comm, NULL, mat(r->y, 1, 6, 6), x) : vt->all_reduce(r->comm, NULL, x);
}

static int other_rows(struct rank *r)
{
	int64_t rows = r->rank == 2 ? 2 : 1;

	return vt->all_gather(r->comm, NULL, mat(r->y, rows, 6, 6), mat(r->x, rows, 2, 2));
}

static int little_room(struct rank *r)
{
	return vt->all_gather(r->comm, NULL, mat(r->y, 1, r->rank == 1 ? 5 : 6, 6), mat(r->x, 1, 2, 2));
}

static int no_data(struct rank *r)
{
	return vt->all_reduce(r->comm, NULL, mat(r->rank == 1 ? NULL : r->x, 1, 2, 2));
}

static int halves(struct rank *r)
{
	struct nvllm_tensor x = mat(r->x, 1, 2, 2);

	x.dtype = r->rank == 0 ? NVLLM_F16 : NVLLM_F32;
	return vt->all_reduce(r->comm, NULL, x);
}

static int folded(struct rank *r)
{
	return vt->all_reduce(r->comm, NULL, mat(r->x, 2, 8, r->rank == 1 ? 7 : 8));
}

static int one(struct rank *r)
{
	r->x[0] = 1;
	return vt->all_reduce(r->comm, NULL, mat(r->x, 1, 1, 1));
}

static void test_disagreement(void **state)
{
	static const struct { int (*fn)(struct rank *); const char *word; } list[] = {
		{ other_shape, "rank 1 brings [1][4096], rank 0 [1][1]" }, { other_call, "rank 2 calls all_gather where rank 0" },
		{ other_rows, "rank 2 brings [2][2]" }, { little_room, "rank 1 has room for [1][5], the ranks bring [1][6]" },
		{ no_data, "rank 1 brings no f32 matrix" }, { halves, "rank 0 brings no f32 matrix" }, { folded, "rank 1 brings no" },
	};
	struct group *g = group_open(3, 1);

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		on_all(g, list[i].fn);
		for (int k = 0; k < 3; k++) {
			assert_int_equal(g->r[k].rc, NVLLM_EINVAL);
			said(&g->r[k], list[i].word);
		}
		assert_true(g->r[0].x[0] == g->r[2].x[0]); /* nothing was summed */
		on_all(g, one); /* and the group still works */
		for (int k = 0; k < 3; k++)
			assert_true(g->r[k].rc == 0 && g->r[k].x[0] == 3);
	}
	group_close(g);
}

/* ---- ranks that do not come ---- */

static int not_last(struct rank *r)
{
	return r->rank == r->group->world - 1 ? 0 : one(r);
}

static void test_late(void **state)
{
	for (int world = 2; world <= MAX_WORLD; world++) {
		struct group *g;

		conf_timeout = 1;
		g = group_open(world, 1);
		on_all(g, one);
		on_all(g, not_last);
		for (int i = 0; i < world - 1; i++) {
			char name[64];

			snprintf(name, sizeof(name), "all_reduce: rank %d did not come within 1 s", world - 1);
			assert_int_equal(g->r[i].rc, NVLLM_ECOMM);
			said(&g->r[i], name);
		}
		for (int round = 0; round < 3; round++) { /* from now on at once, the late one too */
			on_all(g, one);
			for (int i = 0; i < world; i++)
				assert_int_equal(g->r[i].rc, NVLLM_ECOMM);
		}
		said(&g->r[world - 1], "did not come");
		group_close(g);
	}
	conf_timeout = 60;
}

/* Calls until the group is over; rank 1 leaves after its 50th call, which is whole on all. */
static int until_over(struct rank *r)
{
	int rc = 0;

	for (int i = 0; !rc; i++) {
		if (r->rank == 1 && i == 50) {
			leave(r);
			return 0;
		}
		rc = one(r);
		r->n_ok += !rc;
		r->wrong += !rc && r->x[0] != (float)r->group->world;
	}
	return rc;
}

static void test_leave(void **state)
{
	for (int round = 0; round < 40; round++) {
		int world = 2 + round % 3;
		struct group *g = group_open(world, round % 2 ? 1000 : 1);

		on_all(g, until_over);
		for (int i = 0; i < world; i++) {
			assert_true(g->r[i].wrong == 0 && g->r[i].n_ok == 50);
			assert_int_equal(g->r[i].rc, i == 1 ? 0 : NVLLM_ECOMM);
			if (i != 1)
				said(&g->r[i], "rank 1 left the group");
		}
		group_close(g);
	}
}

static int create_not_1(struct rank *r)
{
	return r->rank == 1 ? 0 : create(r);
}

static int create_only_1(struct rank *r)
{
	return r->rank == 1 ? create(r) : 0;
}

static void test_never_joins(void **state)
{
	struct group *g;

	conf_timeout = 1;
	g = group_make(3, 1);
	on_all(g, create_not_1);
	for (int i = 0; i < 3; i += 2) {
		assert_int_equal(g->r[i].rc, NVLLM_ECOMM);
		assert_null(g->r[i].comm);
		said(&g->r[i], "rank 1 of 3 did not join the group");
	}
	on_all(g, create_only_1); /* too late */
	assert_int_equal(g->r[1].rc, NVLLM_ECOMM);
	said(&g->r[1], "given up");
	group_close(g);
	g = group_make(3, 1); /* only one comes, and not rank 0 */
	on_all(g, create_only_1);
	assert_int_equal(g->r[1].rc, NVLLM_ECOMM);
	said(&g->r[1], "ranks 0, 2 of 3 did not join");
	group_close(g);
	group_close(group_make(2, 1)); /* nobody comes */
	conf_timeout = 60;
}

static int create_twice(struct rank *r)
{
	return vt->create(&r->host.h, &r->dev.ref, r->group->id, 0, r->group->world, &conf_timeout, &r->comm);
}

static int create_other_world(struct rank *r)
{
	return vt->create(&r->host.h, &r->dev.ref, r->group->id, r->rank, r->rank ? 3 : 2, &conf_timeout, &r->comm);
}

static void test_wrong_joins(void **state)
{
	static const struct { int (*fn)(struct rank *); const char *word; } list[] = {
		{ create_twice, "rank 0 comes to the group a second time" }, { create_other_world, "another for" },
	};
	struct group *g;

	for (int i = 0; i < 2; i++) {
		int einval = 0, ecomm = 0;

		g = group_make(2, 1);
		on_all(g, list[i].fn); /* one is refused, the other's wait is over with that */
		for (int k = 0; k < 2; k++) {
			einval += g->r[k].rc == NVLLM_EINVAL;
			ecomm += g->r[k].rc == NVLLM_ECOMM;
			if (g->r[k].rc == NVLLM_EINVAL)
				said(&g->r[k], list[i].word);
		}
		assert_true(einval == 1 && ecomm == 1);
		group_close(g);
	}
	g = group_open(2, 1);
	assert_int_equal(vt->create(&g->r[1].host.h, &g->r[1].dev.ref, g->id, 1, 2, &conf_timeout, &(struct nvllm_comm *){ NULL }),
		NVLLM_EINVAL);
	on_all(g, one); /* a stranger at the door of a whole group does it no harm */
	assert_true(g->r[0].rc == 0 && g->r[1].rc == 0);
	group_close(g);
}

static void refused(struct group *g, int rank, int world, int status, const char *word)
{
	struct rank *r = &g->r[0];

	assert_int_equal(vt->create(&r->host.h, &r->dev.ref, g->id, rank, world, &conf_timeout, &r->comm), status);
	said(r, word);
	assert_null(r->comm);
}

static void test_refusals(void **state)
{
	struct group *g = group_make(2, 1);

	refused(g, 0, 65, NVLLM_EINVAL, "1 to 64 ranks");
	refused(g, 0, 0, NVLLM_EINVAL, "1 to 64 ranks");
	refused(g, 2, 2, NVLLM_EINVAL, "rank 2 of 2");
	refused(g, -1, 2, NVLLM_EINVAL, "rank -1 of 2");
	g->r[0].dev.info.caps |= NVLLM_DEV_ASYNC;
	refused(g, 0, 2, NVLLM_ENOTSUP, "queues its work");
	g->r[0].dev.info.caps = NVLLM_DEV_HOST_MEM;
	g->id[3] ^= 1;
	refused(g, 0, 2, NVLLM_EINVAL, "another plugin or in another process");
	group_close(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sums),
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_disagreement),
		cmocka_unit_test(test_late),
		cmocka_unit_test(test_leave),
		cmocka_unit_test(test_never_joins),
		cmocka_unit_test(test_wrong_joins),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, open_plugin, NULL);
}
