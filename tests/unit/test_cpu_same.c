/* SPDX-License-Identifier: MIT */
/* test_cpu_same.c - the rule that a row's bits are its own: each kernel on all rows in
 * one call of one thread, against one row a call, against cuts at random places and
 * against the rows in another order, on 1 to 3 threads. Row numbers lie around those
 * at which routines change: 1, 2, 3, 4, 8, 16, 64 and a few more. */
#include "test_cpu.h"

enum { THREADS = 3, N_TOP = 3 };

/* One kernel and what it takes besides rows. */
struct same {
	struct dev dev[THREADS];      /* of 1, 2, 3 threads */
	struct weight w[THREADS];     /* the same in each */
	int now;                      /* which of them runs */
	struct nvllm_tensor x, y0;    /* y0: what y holds before; data NULL = NaN */
	int64_t cols;                 /* of y */
	int (*run)(const struct same *, int64_t row, int64_t n, struct nvllm_tensor y);
	const struct nvllm_tensor *bias;
	const struct nvllm_norm *norm;
	const struct nvllm_rotary *rotary;
	const int32_t *index;         /* tokens, positions, rows, targets */
	uint32_t flags;
	int act;
};

static struct nvllm_tensor rows_of(struct nvllm_tensor t, int64_t row, int64_t n)
{
	t.data = at(t, row);
	t.rows = n;
	return t;
}

static void run(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	y = rows_of(y, row, n);
	for (int64_t i = 0; i < n; i++)
		if (s->y0.data)
			memcpy(at(y, i), at(s->y0, row + i), (size_t)s->cols * 4);
	assert_int_equal(s->run(s, row, n, y), 0);
}

/* Rows by ones, or in cuts of up to `most`. */
static void run_cut(const struct same *s, int64_t most, struct nvllm_tensor y)
{
	for (int64_t row = 0, n; row < y.rows; row += n) {
		n = 1 + (int64_t)(bits() % (uint32_t)most);
		n = n < y.rows - row ? n : y.rows - row;
		run(s, row, n, y);
	}
}

static void check_same(struct same *s, int64_t rows)
{
	static const int cuts[] = { 1, 5, 70 };
	struct nvllm_tensor y = matrix(rows, s->cols, 0), z = matrix(rows, s->cols, 9);

	s->now = 0;
	poison(y);
	run(s, 0, rows, y);
	for (s->now = 0; s->now < THREADS; s->now++) {
		for (int i = -1; i < N(cuts); i++) {
			poison(z);
			if (i < 0)
				run(s, 0, rows, z);
			else
				run_cut(s, cuts[i], z);
			for (int64_t r = 0; r < rows; r++)
				if (memcmp(at(z, r), at(y, r), (size_t)s->cols * 4))
					fail_msg("row %d of %d: other bits on %d threads, cut %d",
						(int)r, (int)rows, s->now + 1, i);
			check_gaps(z);
		}
	}
	free(y.data), free(z.data);
}

/* The same rows backwards: the same results backwards. */
static void check_order(struct same *s, int64_t rows)
{
	struct nvllm_tensor y = matrix(rows, s->cols, 0), z = matrix(rows, s->cols, 0);
	struct nvllm_tensor x = s->x, y0 = s->y0;

	s->now = 1;
	run(s, 0, rows, y);
	s->x = matrix(rows, x.cols, 0);
	for (int64_t i = 0; i < rows; i++)
		memcpy(at(s->x, i), at(x, rows - 1 - i), (size_t)x.cols * 4);
	if (y0.data)
		s->y0 = matrix(rows, s->cols, 0);
	for (int64_t i = 0; i < rows && y0.data; i++)
		memcpy(at(s->y0, i), at(y0, rows - 1 - i), (size_t)s->cols * 4);
	run(s, 0, rows, z);
	for (int64_t i = 0; i < rows; i++)
		assert_memory_equal(at(z, i), at(y, rows - 1 - i), s->cols * 4);
	free(y.data), free(z.data), free(s->x.data);
	if (y0.data)
		free(s->y0.data);
	s->x = x, s->y0 = y0;
}

static int same_open(struct same *s, int isa, int activations)
{
	memset(s, 0, sizeof(*s));
	for (int i = 0; i < THREADS; i++)
		if (!open_isa(&s->dev[i], i + 1, isa, activations))
			return 0;
	return 1;
}

static void same_close(struct same *s)
{
	for (int i = 0; i < THREADS; i++)
		close_dev(&s->dev[i]);
}

static void same_weights(struct same *s, int dtype, int64_t n, int64_t cols)
{
	const uint64_t start = seed;

	for (int i = 0; i < THREADS; i++) {
		seed = start;
		s->w[i] = make_weight(&s->dev[i], dtype, n, cols);
	}
}

static void same_weights_free(struct same *s)
{
	for (int i = 0; i < THREADS; i++)
		free_weight(&s->dev[i], &s->w[i]);
}

/* ---- products ---- */

static int run_linear(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->linear(s->dev[s->now].d, NULL, y, rows_of(s->x, row, n),
		s->w[s->now].t, s->bias, s->flags);
}

static void one_linear(struct same *s, int dtype, int64_t rows, int64_t n, int64_t cols)
{
	struct nvllm_tensor bias = matrix(1, n, 0), y0 = matrix(rows, n, 1);
	const uint32_t how = bits();

	same_weights(s, dtype, n, cols);
	s->x = matrix(rows, cols, how & 8 ? 7 : 0);
	s->cols = n;
	s->run = run_linear;
	s->bias = how & 1 ? &bias : NULL;
	s->flags = how & 2 ? NVLLM_LINEAR_ADD : 0;
	s->y0 = how & 2 ? y0 : (struct nvllm_tensor){ .data = NULL };
	check_same(s, rows);
	check_order(s, rows);
	same_weights_free(s);
	free(bias.data), free(y0.data), free(s->x.data);
}

void linear_gives_the_same_bits(void **state)
{
	static const int rows[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 17, 33, 63, 64, 65, 66, 67,
		130 };
	static const int ns[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 43 };
	static const int whole[] = { 32, 32, 64, 96, 160, 288 }, odd[] = { 1, 7, 8, 9, 37, 100 };
	struct same s;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int act = F32; act <= BF16; act++) {
			if (!same_open(&s, isa, act))
				continue;
			for (int i = 0; i < N(dtypes) * N(rows); i++) {
				const int dtype = dtypes[i % N(dtypes)], pick = (int)(bits() % 6);
				const int use_odd = !is_blocks(dtype) && (bits() & 1);

				one_linear(&s, dtype, rows[i / N(dtypes)], ns[bits() % N(ns)],
					use_odd ? odd[pick] : whole[pick]);
			}
			for (int i = 0; i < N(dtypes); i++) /* wide enough for all threads */
				one_linear(&s, dtypes[i], 6, 401, 192);
			for (int i = 0; i < N_MORE && act == F32; i++)
				one_linear(&s, more_dtypes[i], rows[bits() % N(rows)],
					ns[bits() % N(ns)], 256 * (1 + bits() % 2));
			same_close(&s);
		}
	}
}

/* ---- the others ---- */

static int run_norm(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->norm(s->dev[s->now].d, NULL, y, rows_of(s->x, row, n), s->norm);
}

static int run_add(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->add(s->dev[s->now].d, NULL, y, rows_of(s->x, row, n));
}

static int run_glu(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->glu(s->dev[s->now].d, NULL, y, rows_of(s->x, row, n), s->act);
}

static int run_rope(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->rope(s->dev[s->now].d, NULL, y, s->index + row, s->cols / 3, s->rotary);
}

static int run_rows(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	return vt->kernels->rows(s->dev[s->now].d, NULL, y, s->x, s->index + row);
}

static int run_embed(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	const struct nvllm_batch b = { .size = sizeof(b), .n_tokens = (int32_t)n,
		.tokens = s->index + row };

	return vt->kernels->embed(s->dev[s->now].d, NULL, y, s->w[s->now].t, 3, &b, 1.5);
}

/* A row of y: the target's log probability and rank, then the likeliest. */
static int run_logprobs(const struct same *s, int64_t row, int64_t n, struct nvllm_tensor y)
{
	float *got = calloc((size_t)n, 4), *top = calloc((size_t)n, N_TOP * 4);
	int32_t *rank = calloc((size_t)n, 4), *ids = calloc((size_t)n, N_TOP * 4);
	const struct nvllm_logprobs lp = { .size = sizeof(lp), .n_top = N_TOP,
		.targets = s->index + row, .target_logprob = got, .target_rank = rank,
		.top_ids = ids, .top_logprobs = top };
	int err = vt->kernels->logprobs(s->dev[s->now].d, NULL, rows_of(s->x, row, n), &lp);

	for (int64_t i = 0; i < n; i++) {
		at(y, i)[0] = got[i];
		at(y, i)[1] = (float)rank[i];
		memcpy(at(y, i) + 2, top + i * N_TOP, N_TOP * 4);
		for (int k = 0; k < N_TOP; k++)
			at(y, i)[2 + N_TOP + k] = (float)ids[i * N_TOP + k];
	}
	free(got), free(top), free(rank), free(ids);
	return err;
}

static void others(struct same *s, int64_t rows, int64_t cols)
{
	struct nvllm_tensor x = matrix(rows, 2 * cols, 1), y0 = matrix(rows, 3 * cols, 0);
	struct nvllm_norm norm = { .size = sizeof(norm), .eps = 1e-6, .w = matrix(1, cols, 0) };
	struct nvllm_rotary rotary = { .size = sizeof(rotary), .dims = (int32_t)(cols / 2 * 2),
		.interleaved = (int)(bits() & 1), .mscale = 1, .inv_freq = matrix(1, cols / 2, 0) };
	int32_t index[512];

	for (int64_t i = 0; i < rows; i++)
		index[i] = (int32_t)(bits() % (uint32_t)(rows < cols ? rows : cols));
	s->index = index, s->norm = &norm, s->rotary = &rotary;
	s->x = x, s->cols = cols, s->y0.data = NULL;
	s->run = run_glu;
	for (s->act = NVLLM_SILU; s->act <= NVLLM_RELU; s->act++)
		check_same(s, rows);
	s->x.cols = cols;
	s->run = run_rows, check_same(s, rows);
	s->run = run_norm, check_same(s, rows), check_order(s, rows);
	norm.kind = NVLLM_LAYER_NORM, check_same(s, rows);
	s->run = run_logprobs, s->cols = 2 + 2 * N_TOP, check_same(s, rows);
	s->y0 = y0, s->cols = cols;
	s->run = run_add, check_same(s, rows), check_order(s, rows);
	s->run = run_rope, s->cols = 3 * cols, check_same(s, rows);
	s->y0.data = NULL, s->cols = 64;
	s->run = run_embed;
	for (int i = 0; i < N(dtypes); i++) {
		same_weights(s, dtypes[i], 9, 64);
		check_same(s, rows);
		same_weights_free(s);
	}
	free(x.data), free(y0.data), free(norm.w.data), free(rotary.inv_freq.data);
}

void kernels_give_the_same_bits(void **state)
{
	static const int rows[] = { 1, 2, 5, 67, 401 }, cols[] = { 4, 31, 64, 577 };
	struct same s;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!same_open(&s, isa, AUTO))
			continue;
		for (int i = 0; i < N(rows) * N(cols); i++)
			others(&s, rows[i % N(rows)], cols[i / N(rows)]);
		same_close(&s);
	}
}
