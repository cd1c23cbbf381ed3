/* SPDX-License-Identifier: MIT */
/* Weights of which only shapes matter: numbers of the normal distribution, by Box and Muller
 * (1958) from the counter-based generator of nvllm/random.h. Two elements a counter: (column / 2,
 * row), key (seed, plane). */
#include <math.h>
#include <string.h>

#include <nvllm/random.h>

#include "cpu.h"

struct random_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *t;
	int32_t plane;
	int64_t row;
	uint64_t seed;
	double mean, std;
};

static void put(char *row, int32_t dtype, int64_t i, float x)
{
	const uint16_t half = bf16_of(x);

	if (dtype == NVLLM_F32)
		memcpy(row + i * 4, &x, 4);
	else
		memcpy(row + i * 2, &half, 2);
}

/* Row r, whose place in a plane of rows would be `place`; the last one brings rows of zeros. */
static void to_panel(const struct nvllm_tensor *t, char *place, int64_t r, const char *row)
{
	const int64_t lanes = t->layout, lane = r % lanes;
	char *panel = place - lane * t->stride;

	panel_put(panel, fmt_of(t->dtype), lanes, lane, row, t->cols);
	for (int64_t i = lane + 1; r == t->rows - 1 && i < lanes; i++)
		panel_put(panel, fmt_of(t->dtype), lanes, i, NULL, t->cols);
}

static void random_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct random_job *j = arg;
	const struct nvllm_tensor *t = j->t;
	const float turn = 6.283185307179586f;
	char *line = j->dev->scratch + worker * scratch_bytes(j->dev->max_cols);

	for (int64_t r = j->row + begin; r < j->row + end; r++) {
		char *place = (char *)t->data + j->plane * t->plane_stride + r * t->stride;
		char *row = t->layout ? line : place;

		for (int64_t i = 0; i < t->cols; i += 2) {
			uint32_t c[4] = { (uint32_t)(i / 2), (uint32_t)r, (uint32_t)(r >> 32), (uint32_t)j->plane };
			float radius, angle;

			nvllm_philox(c, (uint32_t)j->seed, (uint32_t)(j->seed >> 32));
			/* (0, 1]: its logarithm is finite */
			radius = sqrtf(-2 * logf(((float)(c[0] >> 8) + 1) * 0x1p-24f)) * (float)j->std;
			angle = (float)(c[1] >> 8) * 0x1p-24f * turn;
			put(row, t->dtype, i, (float)j->mean + radius * cosf(angle));
			if (i + 1 < t->cols)
				put(row, t->dtype, i + 1, (float)j->mean + radius * sinf(angle));
		}
		if (t->layout)
			to_panel(t, place, r, row);
	}
}

int cpu_random(struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n,
	uint64_t seed, double mean, double std)
{
	struct random_job j = { dev, t, plane, row, seed, mean, std };

	if ((t->dtype != NVLLM_F32 && t->dtype != NVLLM_BF16) ||
	    (t->layout && (t->layout != dev->isa.lanes || t->cols > dev->max_cols)))
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "random weights of type number %d: the CPU device makes f32 "
			"and bf16", t->dtype);
	if (plane < 0 || plane >= (t->planes > 0 ? t->planes : 1) || row < 0 || n < 0 || row > t->rows || n > t->rows - row)
		return dev->host->fail(dev->host, NVLLM_EINVAL, "rows %lld to %lld of plane %d lie outside a weight of %lld rows",
			(long long)row, (long long)(row + n), plane, (long long)t->rows);
	pool_run(dev->pool, n, 1 + 65536 / (t->cols + 1), random_rows, &j);
	return NVLLM_OK;
}
