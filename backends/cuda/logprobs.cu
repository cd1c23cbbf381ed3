/* SPDX-License-Identifier: MIT */
/* Log softmax of rows of logits, at a target and at the likeliest ids: a block a row, two reads of
 * it, of which the second is served by the cache. A logit that is NaN never ranks.
 *
 * How the likeliest are found: the first read also gives each warp's largest number. The n_top-th of
 * these 32 is not above the n_top-th of the row, so the second read keeps the few numbers that
 * reach it, and only those are put in order. Rows of so many equal numbers that they do not fit
 * are searched once for each place instead. */
#include "vec.cuh"

#define THREADS 1024
#define WARPS (THREADS / 32)
#define TOP_MAX WARPS
#define KEPT THREADS /* one for each thread */

/* Ordered as the numbers are (no NaN), and 0 for what is below all; -0 is 0. */
DEV uint32_t order_of(float x)
{
	const uint32_t u = __float_as_uint(x + 0.f);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}
DEV float number_of(uint32_t o)
{
	return __uint_as_float(o & 0x80000000u ? o & 0x7fffffffu : ~o);
}
/* Larger comes first; of equals the lower id. */
DEV uint64_t key_of(float x, int32_t id) { return (uint64_t)order_of(x) << 32 | (uint32_t)~id; }

DEV uint64_t block_max(uint64_t key, uint64_t *red)
{
	for (int o = 16; o; o >>= 1) {
		const uint32_t hi = __shfl_xor_sync(0xffffffffu, (uint32_t)(key >> 32), o);
		const uint32_t lo = __shfl_xor_sync(0xffffffffu, (uint32_t)key, o);
		const uint64_t other = (uint64_t)hi << 32 | lo;

		key = other > key ? other : key;
	}
	__syncthreads(); /* red may still be read from the last time */
	if (threadIdx.x % 32 == 0)
		red[threadIdx.x / 32] = key;
	__syncthreads();
	for (int i = 0; i < WARPS; i++)
		key = red[i] > key ? red[i] : key;
	return key;
}

/* Of 32 numbers in a warp's lanes the n-th largest (n from 1), for all lanes. */
DEV float nth_of_warp(float x, int n)
{
	const int lane = threadIdx.x % 32;
	int before = 0;

	for (int i = 0; i < 32; i++) {
		const float other = __shfl_sync(0xffffffffu, x, i);

		before += other > x || (other == x && i < lane);
	}
	return __shfl_sync(0xffffffffu, x, __ffs((int)__ballot_sync(0xffffffffu, before == n - 1)) - 1);
}

/* The entries of top, one search of the row each. */
DEV void search_top(const float *x, int n, int n_top, int32_t *ids, float *logprobs, double log_sum, uint64_t *red)
{
	uint64_t last = ~0ull;

	for (int k = 0; k < n_top; k++) {
		uint64_t best = 0;

		for (int i = threadIdx.x; i < n; i += THREADS) {
			const uint64_t key = x[i] == x[i] ? key_of(x[i], i) : 0;

			best = key < last && key > best ? key : best;
		}
		last = block_max(best, red);
		if (threadIdx.x == 0) {
			ids[k] = last ? (int32_t)~(uint32_t)last : -1;
			logprobs[k] = last ? (float)((double)number_of((uint32_t)(last >> 32)) - log_sum) :
				(float)(-INFINITY - log_sum);
		}
	}
}

/* The entries of top from the n kept keys; those that nothing is left for say so. */
DEV void order_top(const uint64_t *kept, int n, int n_top, int32_t *ids, float *logprobs, double log_sum)
{
	const int i = threadIdx.x;
	int before = 0;

	if (i >= n && i < n_top) {
		ids[i] = -1;
		logprobs[i] = (float)(-INFINITY - log_sum);
	}
	if (i >= n)
		return;
	for (int k = 0; k < n; k++)
		before += kept[k] > kept[i];
	if (before < n_top) {
		ids[before] = (int32_t)~(uint32_t)kept[i];
		logprobs[before] = (float)((double)number_of((uint32_t)(kept[i] >> 32)) - log_sum);
	}
}

template <bool vec>
__global__ void __launch_bounds__(THREADS, 1) logprobs_kernel(view logits, int n, int n_top, const int32_t *targets,
	const int32_t *tokens, float *target_logprob, int32_t *target_rank, int32_t *top_ids, float *top_logprobs)
{
	__shared__ float red[32], most[WARPS];
	__shared__ uint64_t kept[KEPT];
	__shared__ double shared_sum;
	__shared__ int n_kept;
	const int64_t row = blockIdx.x;
	const float *x = row_of<const float>(logits, row);
	int32_t target;
	float v[4], max = -INFINITY, sum = 0.f, t, low, rank = 0.f;
	double log_sum;

	griddep_wait();
	griddep_launch();
	target = targets[row];
	if (target == -2)
		target = tokens[row];
	if (target < 0 || target >= n)
		return;
	t = x[target];
	if (threadIdx.x == 0)
		n_kept = 0;
#pragma unroll 4
	for (int i = threadIdx.x * 4; i < n; i += THREADS * 4) {
		load4<vec>(v, x + i, n - i);
		for (int k = 0; k < 4; k++)
			max = fmaxf(max, i + k < n ? v[k] : -INFINITY);
	}
	max = warp_max(max);
	if (threadIdx.x % 32 == 0)
		most[threadIdx.x / 32] = max;
	__syncthreads();
	low = most[threadIdx.x % 32];
	max = warp_max(low);
	low = nth_of_warp(low, n_top > 0 ? n_top : 1);
#pragma unroll 4
	for (int i = threadIdx.x * 4; i < n; i += THREADS * 4) {
		load4<vec>(v, x + i, n - i);
		for (int k = 0; k < 4; k++) {
			if (i + k >= n)
				continue;
			sum += expf(v[k] - max);
			rank += i + k < target ? v[k] >= t : i + k > target && v[k] > t;
			if (n_top > 0 && v[k] >= low) {
				const int at = atomicAdd(&n_kept, 1);

				if (at < KEPT)
					kept[at] = key_of(v[k], i + k);
			}
		}
	}
	sum = block_sum(sum, red, WARPS);
	rank = block_sum(rank, red, WARPS); /* whole numbers below 2^24: exact */
	if (threadIdx.x == 0) {
		shared_sum = log_sum = (double)max + log((double)sum);
		target_logprob[row] = (float)((double)t - log_sum);
		target_rank[row] = 1 + (int32_t)rank;
	}
	__syncthreads();
	log_sum = shared_sum;
	if (n_top < 1)
		return;
	top_ids += row * n_top;
	top_logprobs += row * n_top;
	if (n_kept <= KEPT)
		order_top(kept, n_kept, n_top, top_ids, top_logprobs, log_sum);
	else
		search_top(x, n, n_top, top_ids, top_logprobs, log_sum, kept);
}

extern "C" int cu_logprobs(struct nvllm_device *dev, nvllm_stream stream, struct nvllm_tensor logits,
	const struct nvllm_logprobs *lp)
{
	auto kernel = fours(&logits) ? logprobs_kernel<true> : logprobs_kernel<false>;
	cudaError_t err;

	if (logits.dtype != NVLLM_F32)
		return no_type(dev, "logprobs: the logits", &logits);
	if (lp->n_top > TOP_MAX || logits.cols > 1 << 24)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "logprobs: the likeliest %d of %lld; the kernel knows up to "
			"%d of %d: ask for fewer", lp->n_top, (long long)logits.cols, TOP_MAX, 1 << 24);
	if (is_empty(&logits))
		return NVLLM_OK;
	err = launch(kernel, dim3((unsigned)logits.rows), dim3(THREADS), 0, stream, view_of(logits), (int)logits.cols,
		(int)lp->n_top, lp->targets, lp->tokens, lp->target_logprob, lp->target_rank, lp->top_ids, lp->top_logprobs);
	return err == cudaSuccess ? NVLLM_OK : cu_check(dev, (int)err, "logprobs");
}
