/* SPDX-License-Identifier: MIT */
/* tests/emu/test_logprobs.cc - log probabilities, ranks and the likeliest ids of backends/cuda/logprobs.cu
 * against their definition (struct nvllm_logprobs) in double. */
#include "mat.h"
#include "../../backends/cuda/logprobs.cu"

#include <algorithm>
#include <vector>

static struct nvllm_device *dev;
static struct rnd rnd;

enum kind { NORMAL, TIES, EQUAL, NANS, ENDS, PEAK, N_KINDS };
static const char *const kinds[] = { "normal", "ties", "all equal", "with NaN", "with -inf", "one peak" };

static float logit(int kind, int64_t i)
{
	float x = (float)(3 * rnd_normal(&rnd));

	switch (kind) {
	case TIES: return rintf(x); /* -0 among them, which is as large as 0 */
	case EQUAL: return -2.5f;
	case NANS: return i % 5 == 2 ? NAN : x;
	case ENDS: return rnd_int(&rnd, 0, 2) ? -INFINITY : x;
	case PEAK: return i == 3 ? 1e4f : x;
	default: return x;
	}
}

/* The ids that are numbers, likeliest first, ties to the lower. */
static std::vector<int32_t> sorted(const float *x, int64_t n)
{
	std::vector<int32_t> ids;

	for (int32_t i = 0; i < n; i++)
		if (x[i] == x[i])
			ids.push_back(i);
	std::stable_sort(ids.begin(), ids.end(), [x](int32_t a, int32_t b) { return x[a] > x[b]; });
	return ids;
}

static bool near(float got, double want)
{
	return want != want || isinf(want) ? (want != want ? got != got : (double)got == want) : fabs((double)got - want) <= 3e-6 + 2e-7 * fabs(want);
}

static void once(int64_t rows, int64_t n, int n_top, int kind, int pad)
{
	struct mat x = mat_new(NVLLM_F32, rows, n, pad, pad == 3);
	int32_t *targets = edges<int32_t>(rows), *tokens = edges<int32_t>(rows), *rank = edges<int32_t>(rows), *ids = edges<int32_t>(rows * n_top);
	float *lp = edges<float>(rows), *top = edges<float>(rows * n_top);
	struct nvllm_logprobs l = {};
	int64_t bad = 0;
	int err;

	for (int64_t r = 0; r < rows; r++) {
		float *p = (float *)mat_row(&x, r);

		for (int64_t i = 0; i < n; i++)
			p[i] = logit(kind, i);
		if (p[n / 2] != p[n / 2] || isinf(p[n / 2])) /* something is left */
			p[n / 2] = 1;
		targets[r] = r % 4 == 3 ? -1 : r % 4 == 1 ? -2 : rnd_int(&rnd, 0, (int)n - 1);
		tokens[r] = r % 4 == 1 ? rnd_int(&rnd, 0, (int)n - 1) : -7; /* not to be read */
		if (rows == 1)
			targets[r] = 0;
	}
	l.size = sizeof(l), l.n_top = n_top, l.targets = targets, l.tokens = tokens, l.target_logprob = lp, l.target_rank = rank;
	l.top_ids = ids, l.top_logprobs = top;
	err = cu_logprobs(dev, NULL, x.t, &l);
	for (int64_t r = 0; r < rows; r++) {
		const float *p = (const float *)mat_row(&x, r);
		int32_t t = targets[r] == -2 ? tokens[r] : targets[r];
		std::vector<int32_t> order = sorted(p, n);
		double sum = 0, log_sum;
		int before = 0;

		if (targets[r] == -1) { /* not wanted: nothing is written */
			bad += f32_bits(lp[r]) != ~0u || rank[r] != -1;
			for (int k = 0; k < n_top; k++)
				bad += ids[r * n_top + k] != -1 || f32_bits(top[r * n_top + k]) != ~0u;
			continue;
		}
		for (int64_t i = 0; i < n; i++)
			sum += exp((double)p[i] - (double)p[order[0]]);
		log_sum = (double)p[order[0]] + log(sum);
		for (int64_t i = 0; i < n; i++)
			before += p[i] > p[t] || (p[i] == p[t] && i < t);
		bad += rank[r] != before + 1;
		bad += !near(lp[r], (double)p[t] - log_sum);
		for (int k = 0; k < n_top; k++) {
			bool there = k < (int)order.size();

			bad += ids[r * n_top + k] != (there ? order[(size_t)k] : -1);
			bad += !near(top[r * n_top + k], there ? (double)p[order[(size_t)k]] - log_sum : -INFINITY - log_sum);
		}
	}
	CHECK(err == 0 && bad == 0 && edges_ok(ids) && edges_ok(top) && edges_ok(lp) && edges_ok(rank), "%d rows of %d, %s, the likeliest %d, layout %d %s",
		(int)rows, (int)n, kinds[kind], n_top, pad, check_said());
	mat_free(&x), edges_free(targets), edges_free(tokens), edges_free(rank), edges_free(ids), edges_free(lp), edges_free(top);
}

/* An argument: another seed. */
int main(int argc, char **argv)
{
	static const int64_t lengths[] = { 1, 2, 5, 15, 16, 17, 31, 33, 1023, 1024, 1025, 4096, 4097, 10000, 32003 };
	static const int tops[] = { 0, 1, 5, 20, 32 };
	int i = 0;

	dev = check_device(NVLLM_BF16);
	emu_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 1);
	rnd = rnd_seed(argc > 1 ? (uint64_t)atoi(argv[1]) : 8);
	for (int64_t n : lengths)
		for (int kind = 0; kind < N_KINDS; kind++) {
			if (n > 5000 && kind == EQUAL)
				continue;
			once(n > 5000 ? 2 : 1 + i % 6, n, tops[i % 5], kind, i % 4);
			i++;
		}
	once(2, 10000, 3, EQUAL, 0);
	once(5, 151936, 20, NORMAL, 0);
	once(3, 3000, 32, TIES, 1);
	once(3, 40, 32, ENDS, 0);
	{
		struct mat x = mat_new(NVLLM_F32, 1, 64), h = mat_new(NVLLM_BF16, 1, 64);
		struct nvllm_logprobs l = {};

		l.size = sizeof(l), l.n_top = 33;
		CHECK(cu_logprobs(dev, NULL, x.t, &l) < 0 && *check_said(), "more than it can is refused with a sentence");
		l.n_top = 1;
		CHECK(cu_logprobs(dev, NULL, h.t, &l) < 0 && *check_said(), "bf16 logits are refused");
		mat_free(&x), mat_free(&h);
	}
	return check_done();
}
