/* SPDX-License-Identifier: MIT */
/* test_cpu_kernels.c - the CPU device's kernels that are no products, against double
 * precision arithmetic written here. */
#include "test_cpu.h"

static void check_embed(struct dev *dev)
{
	int32_t tokens[] = { 3, -2, 0, 6, -1 }, last[] = { 5, 2 };
	const int rows[] = { 3, 2, 0, 6, 5 };
	struct nvllm_slots st = { .size = sizeof(st), .n_slots = 2, .last_token = last };
	struct nvllm_batch b = { .size = sizeof(b), .n_tokens = 5, .tokens = tokens, .state = &st };

	for (int i = 0; i < N(dtypes); i++) {
		struct weight w = make_weight(dev, dtypes[i], 7, 96);
		struct nvllm_tensor y = matrix(5, 96, 2);

		poison(y);
		assert_int_equal(vt->kernels->embed(dev->d, NULL, y, w.t, 0, &b, 2.5), 0);
		for (int k = 0; k < 5 * 96; k++)
			check_near(at(y, k / 96)[k % 96], 2.5 * w.value[rows[k / 96] * 96 + k % 96],
				1e-6 * (1 + fabs(w.value[rows[k / 96] * 96 + k % 96])));
		check_gaps(y);
		free(y.data);
		free_weight(dev, &w);
	}
}

static double norm_of(const float *x, int64_t n, int64_t k, const struct nvllm_norm *norm)
{
	const float *w = norm->w.data, *b = norm->b.data;
	double mean = 0, var = 0;

	for (int64_t i = 0; i < n && norm->kind == NVLLM_LAYER_NORM; i++)
		mean += x[i] / (double)n;
	for (int64_t i = 0; i < n; i++)
		var += (x[i] - mean) * (x[i] - mean) / (double)n;
	return (x[k] - mean) / sqrt(var + norm->eps) * (norm->offset + w[k]) + (b ? b[k] : 0);
}

static void check_norm(struct dev *dev, int kind, int64_t rows, int64_t n, int64_t heads)
{
	struct nvllm_tensor x = matrix(rows, n * heads, 4), y = matrix(rows, n * heads, 1);
	struct nvllm_norm norm = { .size = sizeof(norm), .kind = kind, .eps = 1e-5,
		.offset = kind ? 0 : bits() & 1, .w = matrix(1, n, 0) };

	if (kind == NVLLM_LAYER_NORM)
		norm.b = matrix(1, n, 0);
	poison(y);
	assert_int_equal(vt->kernels->norm(dev->d, NULL, y, x, &norm), 0);
	for (int64_t i = 0; i < rows; i++)
		for (int64_t k = 0; k < n * heads; k++)
			check_near(at(y, i)[k], norm_of(at(x, i) + k / n * n, n, k % n, &norm),
				2e-5);
	check_gaps(y);
	assert_int_equal(vt->kernels->norm(dev->d, NULL, x, x, &norm), 0); /* in place */
	for (int64_t i = 0; i < rows; i++)
		assert_memory_equal(at(x, i), at(y, i), n * heads * 4);
	free(x.data), free(y.data), free(norm.w.data), free(norm.b.data);
}

static void check_rope(struct dev *dev, int64_t rows, int64_t head_dim, int dims, int interleaved)
{
	struct nvllm_tensor x = matrix(rows, head_dim * 3, 6), old = matrix(rows, head_dim * 3, 6);
	struct nvllm_rotary r = { .size = sizeof(r), .dims = dims, .interleaved = interleaved,
		.mscale = 1.25, .inv_freq = matrix(1, dims / 2, 0) };
	int32_t positions[128];

	for (int i = 0; i < dims / 2; i++)
		((float *)r.inv_freq.data)[i] = powf(10000, -2.0f * (float)i / (float)dims);
	memcpy(x.data, old.data, (size_t)(rows * x.stride));
	for (int64_t i = 0; i < rows; i++)
		positions[i] = (int32_t)(bits() % 8192);
	assert_int_equal(vt->kernels->rope(dev->d, NULL, x, positions, head_dim, &r), 0);
	for (int64_t i = 0; i < rows; i++) {
		for (int64_t k = 0; k < head_dim * 3 + 6; k++) {
			const int64_t in = k % head_dim, half_dims = dims / 2;
			const int64_t pair = interleaved ? in / 2 : dims ? in % half_dims : 0;
			const int second = interleaved ? in % 2 : in >= half_dims;
			double want = at(old, i)[k];

			if (in < dims && k < head_dim * 3) {
				const float angle = (float)positions[i] * at(r.inv_freq, 0)[pair];
				const int64_t away = interleaved ? 1 : half_dims;
				const int64_t other = second ? k - away : k + away;
				const double turn = at(old, i)[other] * sin(angle);

				want = 1.25 * (want * cos(angle) + (second ? turn : -turn));
			}
			check_near(at(x, i)[k], want, 1e-6);
		}
	}
	free(x.data), free(old.data), free(r.inv_freq.data);
}

static double act_of(double x, int act)
{
	switch (act) {
	case NVLLM_SILU: return x / (1 + exp(-x));
	case NVLLM_GELU_TANH:
		return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case NVLLM_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
	default: return x < 0 ? 0 : x;
	}
}

static void check_glu(struct dev *dev, int64_t rows, int64_t n)
{
	struct nvllm_tensor x = matrix(rows, 2 * n, 3), y = matrix(rows, n, 2);

	for (int64_t k = 0; k < n; k++)
		at(x, 0)[k] *= 120; /* where exp saturates */
	for (int act = NVLLM_SILU; act <= NVLLM_RELU; act++) {
		poison(y);
		assert_int_equal(vt->kernels->glu(dev->d, NULL, y, x, act), 0);
		for (int64_t i = 0; i < rows; i++)
			for (int64_t k = 0; k < n; k++)
				check_near(at(y, i)[k], act_of(at(x, i)[k], act) * at(x, i)[n + k],
					1e-6 * (1 + fabs(at(x, i)[k])));
		check_gaps(y);
	}
	free(x.data), free(y.data);
}

static void check_add_and_rows(struct dev *dev, int64_t rows, int64_t cols)
{
	struct nvllm_tensor x = matrix(rows, cols, 1), d = matrix(rows, cols, 4), y = matrix(rows,
		cols, 2);
	int32_t index[128];

	for (int64_t i = 0; i < rows; i++)
		index[i] = (int32_t)(bits() % (uint32_t)rows);
	poison(y);
	assert_int_equal(vt->kernels->rows(dev->d, NULL, y, x, index), 0);
	for (int64_t i = 0; i < rows; i++)
		assert_memory_equal(at(y, i), at(x, index[i]), cols * 4);
	check_gaps(y);
	assert_int_equal(vt->kernels->rows(dev->d, NULL, y, x, index), 0);
	assert_int_equal(vt->kernels->add(dev->d, NULL, y, d), 0);
	for (int64_t i = 0; i < rows; i++)
		for (int64_t k = 0; k < cols; k++)
			assert_true(at(y, i)[k] == at(x, index[i])[k] + at(d, i)[k]);
	check_gaps(y);
	free(x.data), free(d.data), free(y.data);
}

/* Whether id a comes before id b. */
static int before(const float *x, int64_t a, int64_t b)
{
	return x[a] > x[b] || (x[a] == x[b] && a < b);
}

static void check_logprobs(struct dev *dev, int64_t rows, int64_t vocab, int n_top)
{
	struct nvllm_tensor x = matrix(rows, vocab, 5);
	int32_t targets[128], given[128], tokens[128], ranks[128], *ids = malloc((size_t)(rows * n_top + 1) * 4);
	float got[128], *tops = malloc((size_t)(rows * n_top + 1) * 4);
	struct nvllm_logprobs lp = { .size = sizeof(lp), .n_top = n_top, .targets = given,
		.tokens = tokens,
		.target_logprob = got, .target_rank = ranks, .top_ids = ids, .top_logprobs = tops };

	for (int64_t i = 0; i < rows; i++) {
		targets[i] = (int32_t)(bits() % (uint32_t)vocab);
		for (int64_t k = 0; k < vocab; k++) /* with ties, and some ids ruled out */
			at(x, i)[k] = bits() % 50 ? rintf(at(x, i)[k] * 40) / 4 : -INFINITY;
		at(x, i)[targets[i]] = 3;
		got[i] = 77;
	}
	if (rows > 1)
		targets[1] = -1;
	for (int64_t i = 0; i < rows; i++) { /* told, or what was drawn */
		given[i] = i % 3 == 2 ? -2 : targets[i];
		tokens[i] = i % 3 == 2 ? targets[i] : INT32_MAX;
	}
	assert_int_equal(vt->kernels->logprobs(dev->d, NULL, x, &lp), 0);
	for (int64_t i = 0; i < rows; i++) {
		double sum = 0, log_sum;
		int rank = 1;

		if (targets[i] < 0) {
			assert_true(got[i] == 77);
			continue;
		}
		for (int64_t k = 0; k < vocab; k++) {
			sum += exp(at(x, i)[k]);
			rank += before(at(x, i), k, targets[i]);
		}
		log_sum = log(sum);
		check_near(got[i], 3 - log_sum, 2e-6);
		assert_int_equal(ranks[i], rank);
		for (int t = 0; t < n_top; t++) {
			const int32_t id = ids[i * n_top + t];
			int n_before = 0;

			if (t >= vocab) {
				assert_int_equal(id, -1);
				continue;
			}
			for (int64_t k = 0; k < vocab; k++)
				n_before += before(at(x, i), k, id);
			assert_int_equal(n_before, t);
			if (isfinite(at(x, i)[id]))
				check_near(tops[i * n_top + t], at(x, i)[id] - log_sum, 2e-6);
			else
				assert_true(tops[i * n_top + t] == -INFINITY);
		}
	}
	free(x.data), free(ids), free(tops);
}

void kernels_are_right(void **state)
{
	static const int rows[] = { 1, 2, 3, 5, 17, 64, 65 }, ns[] = { 1, 8, 31, 64, 577 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 2, isa, AUTO))
			continue;
		check_embed(&dev);
		for (int i = 0; i < N(rows) * N(ns); i++) {
			const int r = rows[i % N(rows)], n = ns[i / N(rows)];

			check_norm(&dev, NVLLM_RMS_NORM, r, n, 1 + i % 3);
			check_norm(&dev, NVLLM_LAYER_NORM, r, n, 1 + i % 2);
			check_glu(&dev, r, n);
			check_add_and_rows(&dev, r, n);
			check_rope(&dev, r, 64, 2 * (int)(bits() % 33), i & 1);
			check_logprobs(&dev, r, n + 1, i % 5 * 3);
		}
		close_dev(&dev);
	}
}

/* Every kernel but linear: rows together and apart. */
void other_rows_do_not_meet(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		struct nvllm_tensor x = matrix(37, 1154, 0), y = matrix(37, 577, 0), z = matrix(1,
			577, 0);
		struct nvllm_norm norm = { .size = sizeof(norm), .eps = 1e-6, .w = matrix(1, 577,
			0) };
		const struct nvllm_tensor left = nvllm_cols(x, 0, 577);

		for (int op = 0; op < 2 && open_isa(&dev, 4, isa, AUTO); op++) {
			assert_int_equal(op ? vt->kernels->glu(dev.d, NULL, y, x, NVLLM_SILU)
				: vt->kernels->norm(dev.d, NULL, y, left, &norm), 0);
			for (int i = 0; i < 37; i++) {
				struct nvllm_tensor a = op ? x : left;

				a.data = at(a, i), a.rows = 1;
				assert_int_equal(op ? vt->kernels->glu(dev.d, NULL, z, a,
					NVLLM_SILU)
					: vt->kernels->norm(dev.d, NULL, z, a, &norm), 0);
				assert_memory_equal(z.data, at(y, i), 577 * 4);
			}
			close_dev(&dev);
		}
		free(x.data), free(y.data), free(z.data), free(norm.w.data);
	}
}

void advance_closes_a_step(void **state)
{
	int32_t last[] = { 1, 2, 3, 4 }, n_left[] = { 5, 1, 9, 4 }, done[] = { 0, 0, 0, 1 };
	int32_t stops[4 * NVLLM_STOP_IDS], slots[] = { 2, -1, 0, 3, 1 }, tokens[] = { 42, 7, 8, 9,
		10 };
	struct nvllm_slots st = { .size = sizeof(st), .n_slots = 4, .last_token = last,
		.n_left = n_left, .done = done, .stop_ids = stops };
	struct nvllm_batch b = { .size = sizeof(b), .n_logits = 5, .logit_slots = slots,
		.state = &st };
	const int32_t want_last[] = { 8, 10, 42, 4 }, want_left[] = { 4, 0, 8, 4 },
		want_done[] = { 0, 1, 1, 1 };
	struct dev dev;

	for (int i = 0; i < N(stops); i++)
		stops[i] = -1;
	stops[2 * NVLLM_STOP_IDS + 7] = 42;
	stops[3 * NVLLM_STOP_IDS] = 8; /* of another slot */
	assert_int_equal(open_dev(&dev, 1, AUTO, AUTO), 0);
	assert_int_equal(vt->kernels->advance(dev.d, NULL, &b, tokens), 0);
	assert_memory_equal(last, want_last, sizeof(last));
	assert_memory_equal(n_left, want_left, sizeof(n_left));
	assert_memory_equal(done, want_done, sizeof(done));
	close_dev(&dev);
}

