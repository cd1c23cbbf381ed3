/* SPDX-License-Identifier: MIT */
/* test_cpu.c - the CPU device through its vtable alone, with every instruction set this
 * machine has: products against double precision, the reproducibility rule bit by bit,
 * threads and refusals. */
#include <stdatomic.h>

#include "test_cpu.h"

/* ---- products ---- */

/* The largest whole number an activation is rounded to, before that type; 0 = to none. */
static float top_of(int isa, int activations, int dtype)
{
	const int nibbles = dtype == NVLLM_Q4_0 || dtype == NVLLM_Q4_1 || dtype == NVLLM_Q4_K;

	if (activations == F32 || activations == BF16)
		return 0;
	if (activations == AUTO)
		activations = isa == AMX ? Q12 : Q16;
	return activations == Q8 ? 127 : activations == Q12 && nibbles ? 127 * 16 + 7 : 127 * 254;
}

/* What a product rounds. */
struct rounding {
	int isa, activations;
	float top;
	double slip; /* a weight may be this much of itself from where it is rounded to */
};

/* The activation as whole numbers and a scale would have it, and half a step: its error. */
static void rounded(const float *x, int64_t cols, float top, double *value, double *step)
{
	for (int64_t b = 0; b < cols; b += 32) {
		float most = 0;

		for (int i = 0; i < 32; i++)
			most = fmaxf(most, fabsf(x[b + i]));
		for (int i = 0; i < 32; i++) {
			value[b + i] = (double)most / top * rint((double)(x[b + i] * (top / most)));
			step[b + i] = (double)most / top * 0.501;
		}
	}
}

/* Every result against double precision: as the activations are rounded (tightly) and
 * as they were given (within what the rounding may do). */
static void check_linear(struct nvllm_tensor y, struct nvllm_tensor old, struct nvllm_tensor x,
	const struct weight *w, const float *bias, int add, const struct rounding *r)
{
	double value[2048], step[2048];

	for (int64_t i = 0; i < x.rows; i++) {
		for (int64_t k = 0; k < x.cols; k++)
			value[k] = x_of(r->activations, at(x, i)[k]), step[k] = 0;
		if (r->top > 0)
			rounded(at(x, i), x.cols, r->top, value, step);
		for (int64_t j = 0; j < w->t.rows; j++) {
			const double *row = w->value + j * x.cols;
			const double rest = (bias ? bias[j] : 0) + (add ? at(old, i)[j] : 0);
			double sum = rest, exact = rest, size = fabs(rest), loss = 0;
			double xx = 0, ww = 0, slip = 0;

			for (int64_t k = 0; k < x.cols; k++) {
				const double v = w_of(r->isa, r->activations, row[k]);

				sum += value[k] * v;
				slip = fmax(slip, fabs(value[k] * v) * r->slip);
				exact += at(x, i)[k] * row[k];
				size += fabs(at(x, i)[k] * row[k]) +
					fabs(step[k] * row[k]) * 2 * r->top;
				loss += step[k] * fabs(row[k]) +
					fabs(value[k] * v - at(x, i)[k] * row[k]) * (r->activations == BF16);
				xx += (double)at(x, i)[k] * at(x, i)[k];
				ww += row[k] * row[k];
			}
			check_near(at(y, i)[j], sum, 6e-6 * size + 1e-6 + slip);
			check_near(at(y, i)[j], exact, 6e-6 * size + 1e-6 + loss + slip);
			if (r->activations == F32 || r->top > 4000)
				check_near(at(y, i)[j], exact, 1e-4 * sqrt(xx * ww) + 1e-6);
		}
	}
}

static void one_linear(struct dev *dev, int isa, int activations, int dtype, int64_t rows, int64_t n,
	int64_t cols)
{
	const int add = bits() & 1, with_bias = bits() & 1;
	struct weight w = make_weight(dev, dtype, n, cols);
	struct nvllm_tensor x = matrix(rows, cols, 5), y = matrix(rows, n, 3), old = matrix(rows, n,
		3);
	struct nvllm_tensor bias = matrix(1, n, 0);
	/* Q4_1's d q + m is rounded on its way, and may meet a tie of bf16. */
	const struct rounding r = { isa, activations,
		(is_blocks(dtype) || is_k(dtype)) && w.t.dtype == dtype ? top_of(isa, activations, dtype) : 0,
		isa >= VBF16 && activations == BF16 && dtype == NVLLM_Q4_1 ? 0x1p-7 : 0 };

	poison(y);
	for (int64_t i = 0; i < rows && add; i++)
		memcpy(at(y, i), at(old, i), (size_t)n * 4);
	assert_int_equal(vt->kernels->linear(dev->d, NULL, y, x, w.t, with_bias ? &bias : NULL,
		add ? NVLLM_LINEAR_ADD : 0), 0);
	check_linear(y, old, x, &w, with_bias ? bias.data : NULL, add, &r);
	check_gaps(y);
	free(x.data), free(y.data), free(old.data), free(bias.data);
	free_weight(dev, &w);
}

static void linear_is_right(void **state)
{
	static const int rows[] = { 1, 2, 3, 5, 17, 49, 64, 65 };
	static const int ns[] = { 1, 5, 16, 37, 64 };
	static const int whole[] = { 32, 64, 96, 576, 1536 }, odd[] = { 1, 7, 33, 100, 577 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int activations = AUTO; activations <= BF16; activations++) {
			if (!open_isa(&dev, 2, isa, activations))
				continue;
			for (int i = 0; i < N(dtypes) * ROUNDS; i++) {
				const int dtype = dtypes[i % N(dtypes)], pick = (int)(bits() % 5);
				const int use_odd = !is_blocks(dtype) && (bits() & 1);
				const int cols = use_odd ? odd[pick] : whole[pick];

				one_linear(&dev, isa, activations, dtype, rows[i / N(dtypes) % N(rows)],
					ns[bits() % 5], cols);
			}
			for (int i = 0; i < 3 * N(rows); i++)
				one_linear(&dev, isa, activations, NVLLM_Q4_K + i % 3, rows[i / 3], ns[bits() % 5],
					256 * (1 + bits() % 4));
			close_dev(&dev);
		}
	}
}

/* All rows at once on one thread, against each row alone, groups of rows, more threads,
 * and a view of wider rows: the same bits. */
static void same_bits(int isa, int activations, int dtype, int64_t rows, int64_t n, int64_t cols)
{
	struct nvllm_tensor x = matrix(rows, cols, 0), wide = matrix(rows, cols, 11);
	struct nvllm_tensor y = matrix(rows, n, 0), z = matrix(rows, n, 7);
	const uint64_t start = seed;
	struct dev dev;

	for (int64_t i = 0; i < rows; i++)
		memcpy(at(wide, i), at(x, i), (size_t)cols * 4);
	for (int threads = 1; threads <= 4; threads *= 2) {
		struct weight w;

		assert_true(open_isa(&dev, threads, isa, activations));
		seed = start;
		w = make_weight(&dev, dtype, n, cols);
		if (threads == 1)
			assert_int_equal(vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0), 0);
		for (int64_t step = 1; step <= rows; step = step * 3 + 1) {
			poison(z);
			for (int64_t i = 0; i < rows; i += step) {
				struct nvllm_tensor a = step & 1 ? x : wide, b = z;

				a.data = at(a, i), b.data = at(b, i);
				a.rows = b.rows = rows - i < step ? rows - i : step;
				assert_int_equal(vt->kernels->linear(dev.d, NULL, b, a, w.t, NULL,
					0), 0);
			}
			for (int64_t i = 0; i < rows; i++)
				assert_memory_equal(at(z, i), at(y, i), n * 4);
		}
		free_weight(&dev, &w);
		close_dev(&dev);
	}
	free(x.data), free(wide.data), free(y.data), free(z.data);
}

static void rows_do_not_meet(void **state)
{
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		if (!open_isa(&dev, 1, isa, AUTO)) {
			print_message("isa %d: not on this machine\n", isa);
			continue;
		}
		close_dev(&dev);
		for (int i = 0; i < N(dtypes); i++) {
			same_bits(isa, Q16, dtypes[i], 67, 43, 160);
			same_bits(isa, Q12, dtypes[i], 67, 43, 160);
			same_bits(isa, Q8, dtypes[i], 67, 43, 160);
			same_bits(isa, F32, dtypes[i], 21, 129, 576);
			same_bits(isa, BF16, dtypes[i], 67, 43, i % 2 ? 544 : 96);
		}
		for (int i = 0; i < 3; i++) {
			same_bits(isa, Q16, NVLLM_Q4_K + i, 67, 43, 512);
			same_bits(isa, Q8, NVLLM_Q4_K + i, 67, 43, 256);
		}
		same_bits(isa, BF16, NVLLM_Q4_1, 275, 19, 64); /* more than a block of x */
		/* so many that a thread takes several panels at a time */
		same_bits(isa, BF16, NVLLM_BF16, 35, 519, 544);
		same_bits(isa, BF16, NVLLM_Q4_1, 49, 263, 544);
		same_bits(isa, AUTO, NVLLM_F16, 9, 19, 37);
	}
}

/* A NaN or an infinity spoils its own row and no other. */
static void bad_numbers_stay_in_their_row(void **state)
{
	const float bad[] = { NAN, INFINITY, -INFINITY };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int i = 0; i < 3 * N(dtypes) * N(bad); i++) {
			struct weight w;
			struct nvllm_tensor x, y;

			if (!open_isa(&dev, 1, isa, Q8 + i % 3))
				break;
			w = make_weight(&dev, dtypes[i / 3 / N(bad)], 9, 64);
			x = matrix(5, 64, 0), y = matrix(5, 9, 0);
			at(x, 2)[40] = bad[i / 3 % N(bad)];
			memset(at(x, 3), 0, 64 * 4);
			poison(y);
			assert_int_equal(vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0), 0);
			for (int k = 0; k < 45; k++)
				assert_int_equal(isfinite(at(y, k / 9)[k % 9]) != 0, k / 9 != 2);
			for (int k = 0; k < 9; k++)
				assert_true(at(y, 3)[k] == 0);
			free(x.data), free(y.data);
			free_weight(&dev, &w);
			close_dev(&dev);
		}
	}
}

/* ---- rounded activations, alone ---- */

/* One block, one row of the weight 1 at element k and 0 elsewhere: q of element k comes
 * back, and can be compared as a whole number. */
static void put_one(int dtype, uint8_t *row, int k)
{
	const uint8_t half_one[2] = { 0, 0x3c };

	memset(row, dtype == NVLLM_Q4_0 ? 0x88 : 0, 34);
	memcpy(row, half_one, 2);
	if (dtype == NVLLM_Q8_0)
		row[2 + k] = 1;
	else if (dtype == NVLLM_Q4_1) /* m = 0 */
		row[2] = row[3] = 0, row[4 + k % 16] = k < 16 ? 1 : 16;
	else
		row[2 + k % 16] += k < 16 ? 1 : 16;
}

static float *one_by_one(struct dev *dev, int dtype, struct nvllm_tensor x)
{
	const int64_t bytes = nvllm_row_bytes(dtype, 32);
	struct nvllm_tensor w = { .rows = 32, .cols = 32, .dtype = dtype, .planes = 1 };
	struct nvllm_tensor y = matrix(x.rows, 32, 0);
	uint8_t raw[32 * 34];

	for (int k = 0; k < 32; k++) {
		uint8_t row[34];

		put_one(dtype, row, k);
		memcpy(raw + k * bytes, row, (size_t)bytes);
	}
	w.data = vt->alloc(dev->d, vt->store(dev->d, &w));
	assert_int_equal(vt->upload(dev->d, &w, 0, 0, 32, raw, dtype, bytes), 0);
	assert_int_equal(vt->kernels->linear(dev->d, NULL, y, x, w, NULL, 0), 0);
	vt->free(dev->d, w.data);
	return y.data;
}

/* Every whole number there is, ties of the two planes included, at every place of a
 * block: the largest fixes the scale at 1. */
static void whole_numbers_pass(void **state)
{
	static const int forms[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int act = Q8; act <= BF16 && open_isa(&dev, 2, isa, act); act++) {
			for (int f = 0; f < N(forms); f++) {
				const int top = act == BF16 ? 127 : (int)top_of(isa, act, forms[f]), n = 2 * top + 1;
				struct nvllm_tensor x = matrix((n + 30) / 31, 32, 0);
				float *y;

				for (int64_t i = 0; i < x.rows; i++)
					for (int k = 0, v = (int)i * 31 - top; k < 32; k++)
						at(x, i)[k] = k == i % 32 ? (float)(i & 1 ? -top : top)
							: (float)(v < top ? v++ : top);
				y = one_by_one(&dev, forms[f], x);
				assert_memory_equal(y, x.data, (size_t)x.rows * 32 * 4);
				free(y), free(x.data);
			}
			close_dev(&dev);
		}
	}
}

/* The largest sums a block can make do not overflow: Q8_0 of -128 and 127, Q4 of 15. */
static void largest_sums_fit(void **state)
{
	static const int forms[] = { NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0 };
	struct dev dev;

	for (int isa = FIRST; isa < N_ISA; isa++) {
		for (int i = 0; i < 3 * 3 * 4 && open_isa(&dev, 1, isa, Q8 + i % 3); i++) {
			const int dtype = forms[i / 3 % 3], negative = i / 9 & 1, low = i / 18;
			const int64_t bytes = nvllm_row_bytes(dtype, 32);
			struct nvllm_tensor w = { .rows = 2, .cols = 32, .dtype = dtype,
				.planes = 1 }, x = matrix(17, 32, 0), y = matrix(17, 2, 0);
			uint8_t raw[2 * 34];
			double value;

			memset(raw, low ? dtype == NVLLM_Q8_0 ? 0x80 : 0
				: dtype == NVLLM_Q8_0 ? 0x7f : 0xff, sizeof(raw));
			for (int k = 0; k < 2; k++) {
				memcpy(raw + k * bytes, "\0\x3c", 2);
				if (dtype == NVLLM_Q4_1)
					memcpy(raw + k * bytes + 2, "\0\0", 2);
			}
			value = dtype == NVLLM_Q8_0 ? low ? -128 : 127
				: (low ? 0 : 15) - (dtype == NVLLM_Q4_0 ? 8 : 0);
			for (int k = 0; k < 17 * 32; k++)
				((float *)x.data)[k] = negative ? -2 : 2;
			w.data = vt->alloc(dev.d, vt->store(dev.d, &w));
			assert_int_equal(vt->upload(dev.d, &w, 0, 0, 2, raw, dtype, bytes), 0);
			assert_int_equal(vt->kernels->linear(dev.d, NULL, y, x, w, NULL, 0), 0);
			for (int k = 0; k < 34; k++)
				check_near(((float *)y.data)[k], (negative ? -64 : 64) * value,
					64 * 128 * 1e-6);
			vt->free(dev.d, w.data);
			free(x.data), free(y.data);
			close_dev(&dev);
		}
	}
}

/* A caller of an older or newer contract lends more or less: what it lends is filled, the
 * rest and its size are left. */
static void info_keeps_to_its_size(void **state)
{
	union {
		struct nvllm_device_info in;
		uint8_t byte[sizeof(struct nvllm_device_info) + 16];
	} u;
	struct dev dev;

	assert_int_equal(open_dev(&dev, 1, AUTO, AUTO), 0);
	memset(&u, 0xa5, sizeof(u));
	u.in.size = sizeof(u);
	assert_int_equal(vt->info(dev.d, &u.in), 0);
	assert_int_equal(u.in.size, sizeof(u));
	assert_int_equal(u.in.n_workers, 1);
	memset(&u, 0xa5, sizeof(u));
	u.in.size = offsetof(struct nvllm_device_info, name);
	assert_int_equal(vt->info(dev.d, &u.in), 0);
	assert_int_equal(u.in.size, offsetof(struct nvllm_device_info, name));
	assert_true(u.in.mem_total > 0);
	for (size_t i = u.in.size; i < sizeof(u); i++)
		assert_int_equal(u.byte[i], 0xa5);
	close_dev(&dev);
}

/* ---- threads ---- */

struct cover {
	int64_t n, grain;
	int32_t n_workers;
	atomic_int *seen;     /* [n] */
	atomic_int busy[16];
	atomic_int wrong;
};

static void cover(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	struct cover *c = arg;

	if (worker < 0 || worker >= c->n_workers || begin < 0 || end > c->n || end <= begin ||
			end - begin > c->grain || atomic_exchange(&c->busy[worker], 1))
		atomic_fetch_add(&c->wrong, 1);
	for (int64_t i = begin; i < end; i++)
		atomic_fetch_add(&c->seen[i], 1);
	atomic_store(&c->busy[worker], 0);
}

static void parallel_for_covers_once(void **state)
{
	struct dev dev;

	for (int threads = 1; threads <= 8; threads *= 2) {
		struct nvllm_device_info in = { .size = sizeof(in) };

		assert_int_equal(open_dev(&dev, threads, AUTO, AUTO), 0);
		assert_int_equal(vt->info(dev.d, &in), 0);
		assert_int_equal(in.n_workers, threads);
		for (int round = 0; round < 300; round++) {
			struct cover c = { .n = bits() % 500, .grain = 1 + bits() % 9,
				.n_workers = threads };

			c.seen = calloc((size_t)c.n + 1, sizeof(*c.seen));
			vt->parallel_for(dev.d, c.n, c.grain, cover, &c);
			assert_int_equal(c.wrong, 0);
			for (int64_t i = 0; i < c.n; i++)
				assert_int_equal(c.seen[i], 1);
			free(c.seen);
		}
		close_dev(&dev);
	}
}

/* ---- refusals ---- */

static void refuses_with_a_sentence(void **state)
{
	struct nvllm_tensor t = { .rows = 4, .cols = 256, .dtype = NVLLM_I32, .planes = 1 };
	struct nvllm_tensor x = matrix(2, 64, 0), y = matrix(2, 8, 0), v = matrix(1, 64, 0);
	struct nvllm_norm norm = { .size = sizeof(norm), .w = v };
	struct nvllm_logprobs lp = { .size = sizeof(lp), .tokens = (const int32_t[]){ 0, 64 } };
	struct nvllm_batch one = { .size = sizeof(one), .n_tokens = 2 };
	struct weight w;
	struct dev dev;
	void *data;

	assert_int_equal(open_dev(&dev, 1, AUTO, AUTO), 0);
#define REFUSED(status, word, call) do { said[0] = 0; assert_int_equal(call, status); \
	assert_non_null(strstr(said, word)); } while (0)
	REFUSED(NVLLM_ENOTSUP, "Q4_0", vt->store(dev.d, &t));
	t.dtype = 99;
	REFUSED(NVLLM_ENOTSUP, "99", vt->store(dev.d, &t));
	t.dtype = NVLLM_Q4_0, t.cols = 100;
	REFUSED(NVLLM_EINVAL, "blocks of 32", vt->store(dev.d, &t));
	t.dtype = NVLLM_Q4_K, t.cols = 576;
	REFUSED(NVLLM_EINVAL, "Q4_K", vt->store(dev.d, &t));
	REFUSED(NVLLM_EINVAL, "blocks of 256", vt->store(dev.d, &t));
	t.rows = 1;
	REFUSED(NVLLM_EINVAL, "blocks of 256", vt->store(dev.d, &t));
	t.rows = 4;
	t.dtype = NVLLM_F32, t.cols = 1024, t.rows = INT64_MAX / 1024;
	REFUSED(NVLLM_EINVAL, "larger", vt->store(dev.d, &t));
	w = make_weight(&dev, NVLLM_Q8_0, 8, 64), data = w.t.data;
	REFUSED(NVLLM_EINVAL, "upload", vt->upload(dev.d, &w.t, 0, 6, 3, x.data, NVLLM_Q8_0, 68));
	REFUSED(NVLLM_EINVAL, "upload", vt->upload(dev.d, &w.t, 1, 0, 1, x.data, NVLLM_Q8_0, 68));
	REFUSED(NVLLM_ENOTSUP, "turn", vt->upload(dev.d, &w.t, 0, 0, 1, x.data, NVLLM_F32, 256));
	REFUSED(NVLLM_EINVAL, "linear", vt->kernels->linear(dev.d, NULL, x, x, w.t, NULL, 0));
	REFUSED(NVLLM_EINVAL, "bias", vt->kernels->linear(dev.d, NULL, y, x, w.t, &v, 0));
	w.t.layout = 7;
	REFUSED(NVLLM_ENOTSUP, "layout", vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0));
	w.t.layout = 0, w.t.dtype = NVLLM_F8_E4M3;
	REFUSED(NVLLM_ENOTSUP, "linear", vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0));
	w.t.dtype = NVLLM_Q8_0, x.dtype = NVLLM_F16;
	REFUSED(NVLLM_ENOTSUP, "f32", vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0));
	x.dtype = NVLLM_F32;
	REFUSED(NVLLM_EINVAL, "norm", vt->kernels->norm(dev.d, NULL, y, x, &norm));
	norm.kind = 5;
	REFUSED(NVLLM_ENOTSUP, "norm", vt->kernels->norm(dev.d, NULL, x, x, &norm));
	REFUSED(NVLLM_ENOTSUP, "activation", vt->kernels->glu(dev.d, NULL, y, x, 9));
	REFUSED(NVLLM_EINVAL, "glu", vt->kernels->glu(dev.d, NULL, y, x, NVLLM_SILU));
	lp.targets = (const int32_t[]){ 0, -2 };
	REFUSED(NVLLM_EINVAL, "target 64", vt->kernels->logprobs(dev.d, NULL, x, &lp));
	lp.tokens = (const int32_t[]){ 0, -1 };
	REFUSED(NVLLM_EINVAL, "target -1", vt->kernels->logprobs(dev.d, NULL, x, &lp));
	lp.targets = (const int32_t[]){ 0, -3 };
	REFUSED(NVLLM_EINVAL, "target -3", vt->kernels->logprobs(dev.d, NULL, x, &lp));
	lp.targets = (const int32_t[]){ 64, -1 };
	REFUSED(NVLLM_EINVAL, "target 64", vt->kernels->logprobs(dev.d, NULL, x, &lp));
	w.t.data = NULL;
	REFUSED(NVLLM_EINVAL, "lies at", vt->kernels->linear(dev.d, NULL, y, x, w.t, NULL, 0));
	w.t.data = data;
	REFUSED(NVLLM_EINVAL, "embed", vt->kernels->embed(dev.d, NULL, x, w.t, -1, &one, 1));
	REFUSED(NVLLM_EINVAL, "index", vt->kernels->rows(dev.d, NULL, x, x, (const int32_t[]){ 0,
		2 }));
	free_weight(&dev, &w);
	close_dev(&dev);
	free(x.data), free(y.data), free(v.data);
}

static void isa_is_what_was_asked(void **state)
{
	static const char *const words[] = { "", "scalar", "avx2", "avx512", "vnni", "bf16", "amx" };
	struct nvllm_device_info in = { .size = sizeof(in) };
	struct dev dev;
	int missing = 0;

	for (int isa = SCALAR; isa < N_ISA; isa++) {
		said[0] = 0;
		if (open_isa(&dev, 1, isa, AUTO)) {
			assert_false(missing); /* a level above one that is missing */
			assert_int_equal(vt->info(dev.d, &in), 0);
			assert_non_null(strstr(in.isa, words[isa]));
			close_dev(&dev);
			continue;
		}
		missing = 1;
		assert_non_null(strstr(said, words[isa]));
		assert_non_null(strstr(said, "it has up to"));
	}
	assert_int_equal(open_dev(&dev, 0, AUTO, AUTO), 0);
	assert_int_equal(vt->info(dev.d, &in), 0);
	assert_true(in.n_workers >= 1 && in.name[0] && in.isa[0]);
	assert_true(in.mem_free > 0 && in.mem_free <= in.mem_total);
	assert_true(in.caps & NVLLM_DEV_HOST_MEM && in.caps & NVLLM_DEV_PARALLEL);
	assert_null(vt->alloc(dev.d, INT64_MAX));
	close_dev(&dev);
	assert_int_equal(strstr(in.isa, "amx") == NULL, missing); /* the best there is */
	vt->destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(isa_is_what_was_asked),
		cmocka_unit_test(blocks_have_their_values),
		cmocka_unit_test(any_bytes_are_rows),
		cmocka_unit_test(decoded_forms_multiply),
		cmocka_unit_test(planes_are_apart),
		cmocka_unit_test(moe_is_right),
		cmocka_unit_test(moe_gives_the_same_bits),
		cmocka_unit_test(moe_meets_odd_rows),
		cmocka_unit_test(moe_breaks_ties_low),
		cmocka_unit_test(moe_refuses),
		cmocka_unit_test(linear_is_right),
		cmocka_unit_test(rows_do_not_meet),
		cmocka_unit_test(bad_numbers_stay_in_their_row),
		cmocka_unit_test(whole_numbers_pass),
		cmocka_unit_test(largest_sums_fit),
		cmocka_unit_test(info_keeps_to_its_size),
		cmocka_unit_test(kernels_are_right),
		cmocka_unit_test(other_rows_do_not_meet),
		cmocka_unit_test(linear_gives_the_same_bits),
		cmocka_unit_test(kernels_give_the_same_bits),
		cmocka_unit_test(layouts_change_no_bit),
		cmocka_unit_test(tables_come_in_slices),
		cmocka_unit_test(products_come_in_slices),
		cmocka_unit_test(vectors_come_in_pieces),
		cmocka_unit_test(nothing_is_a_share_too),
		cmocka_unit_test(ranks_share_the_cores),
		cmocka_unit_test(advance_closes_a_step),
		cmocka_unit_test(parallel_for_covers_once),
		cmocka_unit_test(refuses_with_a_sentence),
	};

	return cmocka_run_group_tests(tests, open_plugin, NULL);
}
