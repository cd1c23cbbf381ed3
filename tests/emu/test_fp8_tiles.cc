/* SPDX-License-Identifier: MIT */
/* test_fp8_tiles.cc - products of 17 to 64 rows (and fewer) with weights of e4m3 against sums in double: tiles that one
 * block or many have, tiles and chunks with a rest, rows of x of all remainders, strides, adding, the same bits in
 * whatever order threads run, and what is refused. */
#include "mat.h"
#include "skinny.cuh"

#define SCRATCH ((int64_t)8 << 20)

static struct rnd rnd = rnd_seed(11);

struct test {
	int y_type, m, n, k;
	int add, w_pad, x_pad, y_pad; /* x in eights, so that rows begin at multiples of 16 bytes */
	int sms;
};

static struct mat x_of(const struct test *t)
{
	struct mat x = mat_strided(NVLLM_BF16, t->m, t->k, (t->k + 8 * t->x_pad) * 2, 16 * t->x_pad);

	mat_fill(&x, &rnd, 1);
	return x;
}

static void run_test(struct nvllm_device *dev, const struct test *t)
{
	struct mat w = mat_new(NVLLM_F8_E4M3, t->n, t->k, t->w_pad, t->w_pad), x = x_of(t), y = mat_new(t->y_type, t->m, t->n, t->y_pad);
	double *want = (double *)malloc(sizeof(double) * (size_t)(t->m * t->n)), *size = (double *)malloc(sizeof(double) * (size_t)(t->m * t->n));
	int64_t bad = 0;

	mat_fill(&w, &rnd, 0.3);
	if (t->add)
		mat_fill(&y, &rnd, 1);
	for (int i = 0; i < t->m * t->n; i++) {
		want[i] = t->add ? mat_get(&y, i / t->n, i % t->n) : 0, size[i] = 0;
		for (int k = 0; k < t->k; k++) {
			const double e = mat_get(&x, i / t->n, k) * mat_num(&w, i % t->n, k);

			want[i] += e, size[i] += fabs(e);
		}
	}
	dev->n_sms = t->sms;
	CHECK_EQ(fp8_tiles(dev, NULL, y.t, x.t, w.t, t->add ? NVLLM_LINEAR_ADD : 0), 0, "a call");
	for (int i = 0; i < t->m * t->n; i++) {
		const double got = mat_get(&y, i / t->n, i % t->n), v = want[i];
		const double tol = size[i] * 2e-6 + 1e-6 + (t->y_type == NVLLM_BF16 ? fabs(v) * 0x1.02p-8 : fabs(v) * 1e-6);

		bad += !(fabs(got - v) <= tol);
	}
	CHECK_EQ(bad, 0, "y %d: %d rows, [%d][%d], add %d pads %d %d %d, %d processors", t->y_type, t->m, t->n, t->k, t->add, t->w_pad,
		t->x_pad, t->y_pad, t->sms);
	CHECK(mat_gaps_ok(&y) && mat_gaps_ok(&x), "nothing else is written");
	mat_free(&w), mat_free(&x), mat_free(&y);
	free(want), free(size);
}

static void shapes(struct nvllm_device *dev)
{
	static const struct test tests[] = {
		{ NVLLM_F32, 17, 256, 128, 0, 0, 0, 0, 3 },     /* one item */
		{ NVLLM_BF16, 64, 256, 384, 1, 0, 0, 0, 3 },    /* a block an item */
		{ NVLLM_F32, 64, 300, 272, 1, 1, 1, 0, 4 },     /* rests everywhere */
		{ NVLLM_BF16, 33, 520, 1040, 0, 0, 0, 4, 5 },   /* blocks that end within tiles; rows of y in fours */
		{ NVLLM_F32, 31, 700, 640, 0, 3, 2, 3, 2 },     /* more items than stages */
		{ NVLLM_F32, 49, 7, 16, 0, 0, 0, 1, 9 },
		{ NVLLM_BF16, 50, 33, 1936, 1, 0, 0, 0, 7 },
		{ NVLLM_BF16, 24, 1030, 144, 1, 2, 0, 2, 1 },   /* one block for all */
		{ NVLLM_F32, 32, 257, 2048, 1, 0, 0, 0, 200 },  /* more processors than items */
		{ NVLLM_BF16, 1, 40, 400, 0, 0, 0, 0, 3 }, { NVLLM_F32, 8, 300, 256, 1, 0, 0, 1, 4 },
	};
	static const int fewer_stages[] = { 80, 89, 120 }; /* of these capabilities */

	for (const struct test &t : tests)
		run_test(dev, &t);
	for (int m = 17; m <= 64; m += 5) {
		const struct test t = { m % 2 ? NVLLM_F32 : NVLLM_BF16, m, 40 + 7 * m, 16 * (m % 20 + 1), m % 3 == 0, m % 4, m % 3, m % 5, 1 + m % 7 };

		run_test(dev, &t);
	}
	for (int cc : fewer_stages) {
		const struct test t = { NVLLM_F32, 61, 310, 1168, 0, 0, 0, 0, 2 }, u = { NVLLM_BF16, 30, 310, 1168, 1, 0, 0, 0, 2 },
			v = { NVLLM_F32, 45, 310, 1168, 1, 0, 0, 0, 2 };
		const int was = dev->cc;

		dev->cc = cc;
		run_test(dev, &t), run_test(dev, &u), run_test(dev, &v);
		dev->cc = was;
	}
}

static void repeats(struct nvllm_device *dev)
{
	const struct test t = { NVLLM_F32, 40, 600, 528, 0, 0, 0, 0, 7 };
	struct mat w = mat_new(NVLLM_F8_E4M3, t.n, t.k), x = x_of(&t), y = mat_new(NVLLM_F32, t.m, t.n), z = mat_new(NVLLM_F32, t.m, t.n);

	mat_fill(&w, &rnd, 0.3);
	dev->n_sms = t.sms;
	for (int i = 0; i < 3; i++) {
		emu_set_order(i % 2 ? EMU_UP : EMU_RANDOM);
		emu_seed((uint64_t)i + 10);
		CHECK_EQ(fp8_tiles(dev, NULL, i ? z.t : y.t, x.t, w.t, 0), 0, "run %d", i);
		if (i)
			CHECK(!memcmp(y.t.data, z.t.data, (size_t)(t.m * t.n) * 4), "the same bits");
	}
	emu_set_order(EMU_RANDOM);
	mat_free(&w), mat_free(&x), mat_free(&y), mat_free(&z);
}

/* Each of the 254 numbers alone, exactly; a row whose scale is NaN. */
static void each_e4m3(struct nvllm_device *dev)
{
	struct mat w = mat_new(NVLLM_F8_E4M3, 256, 32), x = mat_new(NVLLM_BF16, 20, 32), y = mat_new(NVLLM_F32, 20, 256);
	int64_t bad = 0;

	for (int r = 0; r < 256; r++) {
		float *head = (float *)mat_row(&w, r);

		memset(head, 0, 48);
		head[0] = r == 0x7f ? NAN : 0x1p-20f;
		((uint8_t *)head)[FP8_HEAD + r % 32] = (r & 0x7f) == 0x7f ? 0 : (uint8_t)r;
	}
	for (int r = 0; r < 20; r++)
		for (int c = 0; c < 32; c++)
			mat_set(&x, r, c, (r + 1) * (c + 1) % 128);
	CHECK_EQ(fp8_tiles(dev, NULL, y.t, x.t, w.t, 0), 0, "each number");
	for (int i = 0; i < 20 * 256; i++) {
		const int r = i % 256;
		const double got = mat_get(&y, i / 256, r);
		const double want = (r & 0x7f) == 0x7f ? 0 : 0x1p-20 * e4m3_num((uint8_t)r) * ((i / 256 + 1) * (r % 32 + 1) % 128);

		bad += r == 0x7f ? got == got : got != want;
	}
	CHECK_EQ(bad, 0, "every e4m3 is itself");
	mat_free(&w), mat_free(&x), mat_free(&y);
}

static void refusals(struct nvllm_device *dev)
{
	struct mat w = mat_new(NVLLM_F8_E4M3, 16, 64), x = mat_new(NVLLM_BF16, 65, 64), y = mat_new(NVLLM_F32, 65, 16);
	struct nvllm_tensor few = x.t, part = y.t, other = w.t;

	few.rows = part.rows = 30;
	CHECK_EQ(fp8_tiles(dev, NULL, y.t, x.t, w.t, 0), NVLLM_ENOTSUP, "65 rows");
	other.dtype = NVLLM_BF16, other.layout = 0, other.stride = 128;
	CHECK_EQ(fp8_tiles(dev, NULL, part, few, other, 0), NVLLM_ENOTSUP, "weights of bf16");
	other = few, other.data = (char *)few.data + 2;
	CHECK_EQ(fp8_tiles(dev, NULL, part, other, w.t, 0), NVLLM_ENOTSUP, "x not aligned");
	other = few, other.dtype = NVLLM_F32, other.stride = 256;
	CHECK_EQ(fp8_tiles(dev, NULL, part, other, w.t, 0), NVLLM_ENOTSUP, "x of f32");
	other = few, other.cols = 32;
	CHECK(fp8_tiles(dev, NULL, part, other, w.t, 0) == NVLLM_EINVAL && *check_said(), "x of other columns");
	dev->scratch_bytes = 30 * 1024; /* a block and a tile: two sums */
	CHECK_EQ(fp8_tiles(dev, NULL, part, few, w.t, 0), NVLLM_ENOTSUP, "no room for sums");
	dev->scratch_bytes = SCRATCH;
	dev->act = NVLLM_F32;
	CHECK_EQ(fp8_tiles(dev, NULL, part, few, w.t, 0), NVLLM_ENOTSUP, "activations of f32");
	dev->act = NVLLM_BF16;
	part.rows = few.rows = 0;
	CHECK_EQ(fp8_tiles(dev, NULL, part, few, w.t, 0), 0, "no rows");
	mat_free(&w), mat_free(&x), mat_free(&y);
}

int main(void)
{
	struct nvllm_device *dev = check_device(NVLLM_BF16);

	dev->n_sms = 3;
	dev->scratch = malloc((size_t)SCRATCH), dev->scratch_bytes = SCRATCH;
	memset(dev->scratch, 0xff, (size_t)SCRATCH); /* NaN: a sum that nobody wrote is seen */
	CHECK_EQ(skinny_open(dev), 0, "open");
	shapes(dev);
	repeats(dev);
	each_e4m3(dev);
	refusals(dev);
	free(dev->scratch);
	return check_done();
}
