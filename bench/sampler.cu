// SPDX-License-Identifier: MIT
/* bench/sampler - how fast, and how right, sampling is on this GPU. It calls the kernels of backends/cuda
 * themselves; the core has no part in it.
 *
 *   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Iinclude bench/sampler.cu \
 *        backends/cuda/sample_tiles.cu backends/cuda/sample.cu -o bench_sampler
 *   ./bench_sampler > sampler.json        (what a person reads goes to stderr)
 *
 * Logits of 151,936 tokens, of the normal distribution; "flat": hardly any of which is likelier than others; "coarse":
 * such ones of bf16. Times in
 * microseconds, medians: of one call between events; of a call in a recorded row of calls; each over the
 * same logits (warm: as the head has left them in the cache, where they fit) and over ones in turn (cold). Before
 * that, tokens are compared with an oracle in double, row by row, with themselves in 200 repeats,
 * and their frequencies with what they should be. Ends with 1 if a check fails. */
#include <stdio.h>

#include "../backends/cuda/ptx.cuh"
#include "../backends/cuda/sample.h"
#include "../tests/emu/sample_oracle.h"

#define CK(x) check((x), #x, __LINE__)
#define REPEATS 15
#define IN_GRAPH 20
#define VOCAB 151936
#define MOST_ROWS 256
#define COLD_BYTES (400ll << 20)
#define HISTORY 1024

static void check(int err, const char *what, int line)
{
	if (!err)
		return;
	fprintf(stderr, "bench/sampler.cu:%d: %s: %s\n", line, what, cudaGetErrorString((cudaError_t)err));
	exit(1);
}

static void *device(int64_t bytes)
{
	void *p = NULL;

	CK(cudaMalloc(&p, (size_t)bytes));
	return p;
}

/* coarse: as a head of bf16 leaves them, many of each value. */
static __global__ void fill(float *x, int64_t n, float std, bool coarse, uint64_t seed)
{
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		uint32_t c[4] = { (uint32_t)i, (uint32_t)(i >> 32), 7, 0 };
		float a, b;

		nvllm_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
		a = ((float)(c[0] >> 8) + 0.5f) / 16777216.f, b = (float)(c[1] >> 8) / 16777216.f;
		x[i] = std * sqrtf(-2 * logf(a)) * cosf(6.2831853f * b);
		if (coarse)
			x[i] = bits_f32((f32_bits(x[i]) + 0x8000) & 0xffff0000u);
	}
}

/* ---- one kind of rows ---- */
struct arm {
	const char *name;
	double temperature, top_p, min_p, typical_p;
	int top_k, penalties, flat; /* 2: and coarse */
};

static struct nvllm_sample_row row_of(const struct arm *a, const int32_t *history, int i)
{
	struct nvllm_sample_row r = {};

	r.temperature = a->temperature, r.top_p = a->top_p, r.min_p = a->min_p, r.typical_p = a->typical_p, r.top_k = a->top_k;
	r.repetition = 1, r.seed = 1234 + (uint64_t)i, r.position = 100 + (uint64_t)i;
	if (a->penalties) {
		r.repetition = 1.1, r.frequency = 0.1, r.presence = 0.2;
		r.tokens = history + (i & 15) * HISTORY, r.n_prompt = HISTORY / 2, r.n_tokens = HISTORY;
	}
	return r;
}

static struct nvllm_sample_row *rows; /* [MOST_ROWS] device */
static int32_t *tokens, *history, *host_history;
static char *workspace;
static float *logits[3];              /* [sets][n][VOCAB], normal, flat, flat and coarse */
static cudaEvent_t before, after;

static struct sample_job job_of(const struct arm *a, int n, int set)
{
	struct sample_job j = {};

	j.logits = logits[a->flat] + (int64_t)set * n * VOCAB, j.stride = VOCAB * 4;
	j.rows = rows, j.tokens = tokens;
	j.parts = (struct sample_part *)workspace;
	j.codes = (uint8_t *)workspace + sample_parts_bytes(VOCAB, MOST_ROWS);
	j.n_rows = n, j.vocab = VOCAB, j.n_tiles = sample_tiles(VOCAB), j.unit_bits = 44;
	return j;
}

static void put_rows(const struct arm *a, int n)
{
	static struct nvllm_sample_row r[MOST_ROWS];

	for (int i = 0; i < n; i++)
		r[i] = row_of(a, history, i);
	CK(cudaMemcpy(rows, r, (size_t)n * sizeof(*r), cudaMemcpyHostToDevice));
}

/* ---- right ---- */
/* How many of the tokens are wrong; *differ: how many are not the oracle's, but as near as sums are exact. */
static int compare(const struct arm *a, int n, int most, int *differ)
{
	struct sample_job j = job_of(a, n, 0);
	float *x = (float *)malloc(VOCAB * 4);
	int32_t got[MOST_ROWS], again[MOST_ROWS];
	int wrong = 0;

	put_rows(a, n);
	CK(cudaMemset(tokens, 0xff, (size_t)n * 4));
	CK(cudaMemset(workspace, 0xff, (size_t)sample_parts_bytes(VOCAB, MOST_ROWS)));
	CK(sample_enqueue(NULL, &j));
	CK(cudaMemcpy(got, tokens, (size_t)n * 4, cudaMemcpyDeviceToHost));
	for (int k = 0; k < 200; k++) {
		CK(sample_enqueue(NULL, &j));
		if (k % 20)
			continue;
		CK(cudaMemcpy(again, tokens, (size_t)n * 4, cudaMemcpyDeviceToHost));
		wrong += memcmp(got, again, (size_t)n * 4) != 0;
	}
	for (int i = 0; i < n && i < most; i++) {
		struct nvllm_sample_row r = row_of(a, host_history, i);
		struct oracle o;
		double miss;

		CK(cudaMemcpy(x, j.logits + (int64_t)i * VOCAB, VOCAB * 4, cudaMemcpyDeviceToHost));
		o = oracle_new(x, VOCAB, &r, false);
		miss = oracle_miss(&o, got[i], nvllm_uniform(r.seed, r.choice, r.position));
		*differ += miss > 0;
		if (miss > 1e-4)
			wrong++, fprintf(stderr, "%s, row %d: token %d misses by %g\n", a->name, i, got[i], miss);
		oracle_free(&o);
	}
	free(x);
	return wrong;
}

/* Sigmas of the chi-square of 100,000 draws over 200 tokens. */
static double frequencies(const struct arm *a)
{
	enum { SMALL = 200, DRAWS = 100000, AT_ONCE = 250 };
	struct sample_job j = job_of(a, AT_ONCE, 0);
	struct nvllm_sample_row r[AT_ONCE];
	int32_t got[AT_ONCE];
	int count[SMALL] = { 0 };
	float x[SMALL];
	struct oracle o;
	double sigmas;

	if (!(a->temperature > 0))
		return 0;
	j.vocab = SMALL, j.n_tiles = 1, j.stride = 0, j.unit_bits = 50;
	CK(cudaMemcpy(x, j.logits, sizeof(x), cudaMemcpyDeviceToHost));
	r[0] = row_of(a, host_history, 0);
	o = oracle_new(x, SMALL, &r[0], false);
	for (int d = 0; d < DRAWS; d += AT_ONCE) {
		for (int i = 0; i < AT_ONCE; i++)
			r[i] = row_of(a, history, 0), r[i].position = (uint64_t)(d + i);
		CK(cudaMemcpy(rows, r, sizeof(r), cudaMemcpyHostToDevice));
		CK(sample_enqueue(NULL, &j));
		CK(cudaMemcpy(got, tokens, sizeof(got), cudaMemcpyDeviceToHost));
		for (int i = 0; i < AT_ONCE; i++)
			if (got[i] >= 0 && got[i] < SMALL)
				count[got[i]]++;
	}
	sigmas = oracle_sigmas(&o, count, DRAWS);
	oracle_free(&o);
	return sigmas;
}

/* ---- fast ---- */
static int by_time(const void *a, const void *b) { return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b); }

static float elapsed(void)
{
	float ms;

	CK(cudaEventRecord(after, NULL));
	CK(cudaEventSynchronize(after));
	CK(cudaEventElapsedTime(&ms, before, after));
	return ms * 1e3f;
}

static float alone(const struct arm *a, int n)
{
	float t[REPEATS];
	struct sample_job j = job_of(a, n, 0);

	for (int i = -2; i < REPEATS; i++) {
		CK(cudaEventRecord(before, NULL));
		CK(sample_enqueue(NULL, &j));
		t[i < 0 ? 0 : i] = elapsed();
	}
	qsort(t, REPEATS, sizeof(*t), by_time);
	return t[REPEATS / 2];
}

/* A call of IN_GRAPH, over `sets` matrices of logits in turn. */
static float in_a_graph(const struct arm *a, int n, int sets)
{
	float t[REPEATS];
	cudaStream_t stream;
	cudaGraph_t graph;
	cudaGraphExec_t exec;

	CK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
	for (int i = 0; i < IN_GRAPH; i++) {
		struct sample_job j = job_of(a, n, i % sets);

		CK(sample_enqueue(stream, &j));
	}
	CK(cudaStreamEndCapture(stream, &graph));
	CK(cudaGraphInstantiate(&exec, graph, 0));
	for (int i = -2; i < REPEATS; i++) {
		float ms;

		CK(cudaEventRecord(before, stream));
		CK(cudaGraphLaunch(exec, stream));
		CK(cudaEventRecord(after, stream));
		CK(cudaEventSynchronize(after));
		CK(cudaEventElapsedTime(&ms, before, after));
		t[i < 0 ? 0 : i] = ms * 1e3f / IN_GRAPH;
	}
	CK(cudaGraphExecDestroy(exec));
	CK(cudaGraphDestroy(graph));
	CK(cudaStreamDestroy(stream));
	qsort(t, REPEATS, sizeof(*t), by_time);
	return t[REPEATS / 2];
}

static int run(const struct arm *a, bool more)
{
	static const int sizes[] = { 1, 8, 64, 256 };
	int bad, differ = 0;
	double sigmas;

	bad = compare(a, MOST_ROWS, 12, &differ);
	sigmas = frequencies(a);
	bad += !(fabs(sigmas) < 5);
	fprintf(stderr, "%-34s", a->name);
	printf("    {\"arm\": \"%s\", \"differ\": %d, \"chi_square_sigmas\": %.2f, \"wrong\": %d, \"times\": [", a->name, differ, sigmas, bad);
	for (int i = 0; i < 4; i++) {
		int n = sizes[i], sets = (int)(COLD_BYTES / ((int64_t)n * VOCAB * 4));
		float single, warm, cold;

		sets = sets < 2 ? 2 : sets > IN_GRAPH ? IN_GRAPH : sets;
		put_rows(a, n);
		single = alone(a, n), warm = in_a_graph(a, n, 1), cold = in_a_graph(a, n, sets);
		fprintf(stderr, "  n %3d: %6.1f warm %6.1f cold %6.1f us", n, single, warm, cold);
		printf("%s{\"n\": %d, \"alone_us\": %.2f, \"warm_us\": %.2f, \"cold_us\": %.2f, \"cold_gbps\": %.0f}", i ? ", " : "", n, single,
			warm, cold, n * (double)VOCAB * 4e-3 / cold);
	}
	fprintf(stderr, "%s\n", bad ? "  WRONG" : "");
	printf("]}%s\n", more ? "," : "");
	fflush(stdout);
	return bad;
}

int main(void)
{
	static const struct arm arms[] = {
		{ "greedy", 0, 1, 0, 1, 0, 0, 0 },
		{ "temperature 0.6", 0.6, 1, 0, 1, 0, 0, 0 },
		{ "top_k 20, top_p 0.95", 0.6, 0.95, 0, 1, 20, 0, 0 },
		{ "top_p 0.9", 0.6, 0.9, 0, 1, 0, 0, 0 },
		{ "min_p 0.05", 0.6, 1, 0.05, 1, 0, 0, 0 },
		{ "top_p 0.9, typical_p 0.9", 0.6, 0.9, 0, 0.9, 0, 0, 0 },
		{ "penalties", 0.6, 1, 0, 1, 0, 1, 0 },
		{ "penalties, greedy", 0, 1, 0, 1, 0, 1, 0 },
		{ "penalties, top_k 20, top_p 0.95", 0.6, 0.95, 0, 1, 20, 1, 0 },
		{ "flat, temperature 1", 1, 1, 0, 1, 0, 0, 1 },
		{ "flat, top_p 0.95", 1, 0.95, 0, 1, 0, 0, 1 },
		{ "flat, top_p 0.5", 1, 0.5, 0, 1, 0, 0, 1 },
		{ "flat, min_p 0.05", 1, 1, 0.05, 1, 0, 0, 1 },
		{ "flat, typical_p 0.9", 1, 1, 0, 0.9, 0, 0, 1 },
		{ "flat, top_k 1000", 1, 1, 0, 1, 1000, 0, 1 },
		{ "flat, penalties, top_p 0.95", 1, 0.95, 0, 1, 0, 1, 1 },
		{ "coarse, top_p 0.95", 1, 0.95, 0, 1, 0, 0, 2 },
		{ "coarse, typical_p 0.9", 1, 1, 0, 0.9, 0, 0, 2 },
		{ "flat, top_p 0.95, typical_p 0.9", 1, 0.95, 0, 0.9, 0, 0, 1 },
	};
	int n = (int)(sizeof(arms) / sizeof(*arms)), dev = 0, bad = 0;
	int64_t room = COLD_BYTES > 2ll * MOST_ROWS * VOCAB * 4 ? COLD_BYTES : 2ll * MOST_ROWS * VOCAB * 4;
	cudaDeviceProp prop;

	CK(cudaGetDevice(&dev));
	CK(cudaGetDeviceProperties(&prop, dev));
	CK(cudaEventCreate(&before));
	CK(cudaEventCreate(&after));
	CK(sample_setup(sample_tiles(VOCAB)));
	for (int i = 0; i < 3; i++) {
		logits[i] = (float *)device(room);
		fill<<<1024, 256>>>(logits[i], room / 4, i ? 0.3f : 2.2f, i == 2, 99 + (uint64_t)i);
		CK(cudaGetLastError());
	}
	rows = (struct nvllm_sample_row *)device(MOST_ROWS * sizeof(*rows));
	tokens = (int32_t *)device(MOST_ROWS * 4);
	history = (int32_t *)device(16 * HISTORY * 4);
	workspace = (char *)device(sample_parts_bytes(VOCAB, MOST_ROWS) + sample_codes_bytes(VOCAB, MOST_ROWS));
	host_history = (int32_t *)malloc(16 * HISTORY * 4);
	for (int i = 0; i < 16 * HISTORY; i++) /* some often, and some of the small vocabulary */
		host_history[i] = (int32_t)(i % 7 == 0 ? 5 : i % 5 == 0 ? i * 13 % 200 : i * 7919ll % VOCAB);
	CK(cudaMemcpy(history, host_history, 16 * HISTORY * 4, cudaMemcpyHostToDevice));
	CK(cudaDeviceSynchronize());
	fprintf(stderr, "%s, %d logits a row\n", prop.name, VOCAB);
	printf("{\n  \"device\": \"%s\", \"vocab\": %d,\n  \"arms\": [\n", prop.name, VOCAB);
	for (int i = 0; i < n; i++)
		bad += run(&arms[i], i + 1 < n);
	printf("  ]\n}\n");
	return bad ? 1 : 0;
}
