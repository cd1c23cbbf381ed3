/* SPDX-License-Identifier: MIT */
/* tests/broken/comm.c - collectives by one lock, rank 0 doing all the work, to show that the
 * comm suite accepts what is right; with one word of -D, one that is wrong. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nvllm/comm.h>
#include <nvllm/plugin.h>

#define MAX_WORLD 8

struct conf { int64_t timeout; };

struct hub {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	int32_t n_here, n_refs;
	int64_t n_passed; /* barriers; -1 = broken */
	struct nvllm_tensor x[MAX_WORLD], y[MAX_WORLD];
};

struct nvllm_comm {
	const struct nvllm_host *host;
	struct hub *hub;
	int32_t rank, world;
	int64_t timeout;
};

/* Returns when all have come, or NVLLM_ECOMM. */
static int meet(struct nvllm_comm *c)
{
	struct hub *h = c->hub;
	struct timespec end;
	int64_t was;
	int late = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += c->timeout;
	pthread_mutex_lock(&h->lock);
	was = h->n_passed;
	if (was >= 0 && ++h->n_here == c->world) {
		h->n_here = 0;
		h->n_passed++;
		pthread_cond_broadcast(&h->moved);
	}
	while (was >= 0 && h->n_passed == was && !late)
		late = pthread_cond_timedwait(&h->moved, &h->lock, &end) == ETIMEDOUT;
	if (late && h->n_passed == was) {
		h->n_passed = -1;
		pthread_cond_broadcast(&h->moved);
	}
	late = was < 0 || h->n_passed < 0;
	pthread_mutex_unlock(&h->lock);
	return late ? c->host->fail(c->host, NVLLM_ECOMM, "a rank did not come within %ld s", (long)c->timeout) : 0;
}

static int make_id(const struct nvllm_host *host, uint8_t id[NVLLM_COMM_ID_BYTES])
{
	struct hub *h = calloc(1, sizeof(*h));

	if (!h)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a group");
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->moved, NULL);
	memcpy(id, &h, sizeof(h));
	return NVLLM_OK;
}

static int create(const struct nvllm_host *host, const struct nvllm_device_ref *dev, const uint8_t id[NVLLM_COMM_ID_BYTES],
	int32_t rank, int32_t world, const void *conf, struct nvllm_comm **out)
{
	struct nvllm_comm *c = host->alloc(host, sizeof(*c));

	(void)dev;
	if (!c || world > MAX_WORLD)
		return host->fail(host, NVLLM_EINVAL, "a group has at most %d ranks", MAX_WORLD);
	*c = (struct nvllm_comm){ .host = host, .rank = rank, .world = world,
		.timeout = ((const struct conf *)conf)->timeout };
	memcpy(&c->hub, id, sizeof(c->hub));
	pthread_mutex_lock(&c->hub->lock);
	c->hub->n_refs++;
	pthread_mutex_unlock(&c->hub->lock);
	*out = c;
	return meet(c);
}

static void destroy(struct nvllm_comm *c)
{
	int32_t left;

	pthread_mutex_lock(&c->hub->lock);
	left = --c->hub->n_refs;
	pthread_mutex_unlock(&c->hub->lock);
	if (!left)
		free(c->hub);
}

static float *at(const struct nvllm_tensor *t, int64_t row, int64_t col)
{
	return (float *)((char *)t->data + row * t->stride) + col;
}

static void sum(const struct nvllm_comm *c, int64_t row, int64_t col)
{
	const struct nvllm_tensor *x = c->hub->x;
#ifdef BACKWARDS
	float s = *at(&x[c->world - 1], row, col);

	for (int32_t r = c->world - 2; r >= 0; r--)
		s += *at(&x[r], row, col);
#else
	float s = *at(&x[0], row, col);

	for (int32_t r = 1; r < c->world; r++)
		s += *at(&x[r], row, col);
#endif
	for (int32_t r = 0; r < c->world; r++)
		*at(&x[r], row, col) = s;
#ifdef WRONG_RANK
	if (c->world > 1 && col == x->cols - 1)
		*at(&x[c->world - 1], row, col) += 1;
#endif
}

static int all_reduce(struct nvllm_comm *c, nvllm_stream stream, struct nvllm_tensor x)
{
	int rc;

	(void)stream;
	c->hub->x[c->rank] = x;
	rc = meet(c);
	if (rc)
		return rc;
	for (int64_t i = 0; c->rank == 0 && i < x.rows; i++)
#ifdef PAST_ROW
		for (int64_t j = 0; j < (x.cols + 1) / 2 * 2; j++)
#else
		for (int64_t j = 0; j < x.cols; j++)
#endif
			sum(c, i, j);
#ifdef NO_SECOND_MEETING
	return 0;
#else
	return meet(c);
#endif
}

static int all_gather(struct nvllm_comm *c, nvllm_stream stream, struct nvllm_tensor y, struct nvllm_tensor x)
{
	int rc;

	(void)stream;
	c->hub->x[c->rank] = x;
	rc = meet(c);
	if (rc)
		return rc;
	for (int64_t i = 0; i < y.rows; i++)
		for (int64_t r = 0, col = 0; r < c->world; r++) {
#ifdef COLUMNS_BACKWARDS
			const struct nvllm_tensor *from = &c->hub->x[c->world - 1 - r];
#else
			const struct nvllm_tensor *from = &c->hub->x[r];
#endif

			for (int64_t j = 0; j < from->cols; j++)
				*at(&y, i, col++) = *at(from, i, j);
		}
	return meet(c);
}

static const struct nvllm_comm_vt vt = {
	.size = sizeof(vt), .need = NVLLM_DEV_HOST_MEM, .make_id = make_id, .create = create, .destroy = destroy,
	.all_reduce = all_reduce, .all_gather = all_gather,
};

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, timeout, "timeout", "20", 1, 3600, "seconds to wait"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_component component = {
	.size = sizeof(component), .kind = NVLLM_KIND_COMM, .name = "test_comm",
	.summary = "collectives for tests", .vt = &vt, .options = options, .conf_size = sizeof(struct conf),
};

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "test_comm", .version = "0.1.0",
	.components = (const struct nvllm_component *const[]){ &component, NULL },
};
