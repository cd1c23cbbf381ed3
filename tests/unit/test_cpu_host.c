/* SPDX-License-Identifier: MIT */
/* test_cpu_host.c - a host for the device, and numbers for its tests: the common formats
 * are read here in double precision, from their description alone; the others have known
 * values in test_cpu_blocks.c. */
#include <dlfcn.h>

#include "test_cpu.h"

/* Filled into the plugin's own struct by key. */
struct setting { int64_t threads; int isa, activations, repack; };

static const struct nvllm_component *component;
const struct nvllm_device_vt *vt;
char said[512];
int32_t world = 1;
int repack;
uint64_t seed = 1;

static void host_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
}

static int host_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *h, size_t bytes)
{
	struct test_host *t = (struct test_host *)h;
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_true(t->n < N(t->memory));
	memset(p, 0, bytes);
	return t->memory[t->n++] = p;
}

static void fill_conf(char *conf, const struct setting *s)
{
	for (const struct nvllm_option *o = component->options; o->key; o++) {
		if (!strcmp(o->key, "threads"))
			memcpy(conf + o->offset, &s->threads, sizeof(s->threads));
		else if (!strcmp(o->key, "isa"))
			memcpy(conf + o->offset, &s->isa, 4);
		else if (!strcmp(o->key, "activations"))
			memcpy(conf + o->offset, &s->activations, 4);
		else if (!strcmp(o->key, "repack"))
			memcpy(conf + o->offset, &s->repack, 4);
		else
			fail_msg("an option '%s' that this test does not know", o->key);
	}
}

int open_dev(struct dev *dev, int threads, int isa, int activations)
{
	char conf[256] = { 0 };
	const struct setting s = { threads, isa, activations, repack };

	assert_true(component->conf_size <= sizeof(conf));
	fill_conf(conf, &s);
	memset(dev, 0, sizeof(*dev));
	dev->host.h = (struct nvllm_host){ .size = sizeof(dev->host.h), .abi = NVLLM_ABI,
		.world = world,
		.log = host_log, .fail = host_fail, .alloc = host_alloc };
	return vt->create(&dev->host.h, 0, conf, &dev->d);
}

void close_dev(struct dev *dev)
{
	vt->destroy(dev->d);
	while (dev->host.n)
		free(dev->host.memory[--dev->host.n]);
}

/* True if this machine has it; dev is then open. */
int open_isa(struct dev *dev, int threads, int isa, int activations)
{
	int err = open_dev(dev, threads, isa, activations);

	if (err == 0)
		return 1;
	assert_int_equal(err, NVLLM_ENOTSUP);
	assert_true(isa > SCALAR);
	close_dev(dev);
	return 0;
}

int open_plugin(void **state)
{
	char dirs[4096], path[4200], *rest = dirs, *dir;
	const char *env = getenv("NVLLM_PLUGIN_PATH");
	const struct nvllm_plugin *p = NULL;

	snprintf(dirs, sizeof(dirs), "%s", env ? env : "build/plugins:build/backends/cpu");
	while (!p && (dir = strsep(&rest, ":"))) {
		snprintf(path, sizeof(path), "%s/device_cpu.so", dir);
		void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);

		p = so ? dlsym(so, "nvllm_plugin") : NULL;
	}
	if (!p) {
		fprintf(stderr, "no device_cpu.so in %s: %s\n", env ? env : "build", dlerror());
		return -1;
	}
	component = p->components[0];
	vt = component->vt;
	return 0;
}

/* ---- numbers ---- */

uint32_t bits(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33);
}

float uniform(void) /* -1 .. 1 */
{
	return (float)((int32_t)(bits() % 2000001) - 1000000) * 1e-6f;
}

/* A matrix of floats whose rows lie `gap` floats apart beyond their own. */
struct nvllm_tensor matrix(int64_t rows, int64_t cols, int64_t gap)
{
	struct nvllm_tensor t = { .rows = rows, .cols = cols, .stride = (cols + gap) * 4,
		.planes = 1 };
	float *p = malloc((size_t)(rows * t.stride + 4));

	for (int64_t i = 0; i < rows * (cols + gap); i++)
		p[i] = uniform();
	t.data = p;
	return t;
}

float *at(struct nvllm_tensor t, int64_t row)
{
	return (float *)((char *)t.data + row * t.stride);
}

void poison(struct nvllm_tensor t)
{
	memset(t.data, 0xff, (size_t)(t.rows * t.stride)); /* NaN */
}

/* What lies between the rows is still poison. */
void check_gaps(struct nvllm_tensor t)
{
	for (int64_t i = 0; i < t.rows; i++)
		for (int64_t k = t.cols; k < t.stride / 4; k++)
			assert_true(isnan(at(t, i)[k]));
}

void check_near(double got, double want, double margin)
{
	if (!(fabs(got - want) <= margin))
		fail_msg("%.9g is not within %.3g of %.9g", got, margin, want);
}

/* Eight bits of the number, to nearest even. */
double to_bf16(double v)
{
	int e;
	double f = frexp(v, &e);

	return ldexp(rint(f * 256), e - 8);
}

double x_of(int activations, double x)
{
	return activations == BF16 ? to_bf16(x) : x;
}

double w_of(int isa, int activations, double w)
{
	return activations == BF16 && isa >= VBF16 ? to_bf16(w) : w;
}

static double half(const uint8_t *p)
{
	const int h = p[0] | p[1] << 8, e = h >> 10 & 31, f = h & 1023;

	return (h & 0x8000 ? -1 : 1) * (e ? ldexp(1024 + f, e - 25) : ldexp(f, -24));
}

/* Element k of a stored row, from the description of the formats. */
static double element(int dtype, const uint8_t *row, int64_t k)
{
	const int64_t b = k / 32, i = k % 32;
	uint32_t u = 0;
	float f;

	switch (dtype) {
	case NVLLM_F32: memcpy(&f, row + 4 * k, 4); return f;
	case NVLLM_F16: return half(row + 2 * k);
	case NVLLM_BF16:
		u = (uint32_t)(row[2 * k] | row[2 * k + 1] << 8) << 16;
		memcpy(&f, &u, 4);
		return f;
	case NVLLM_Q8_0: return half(row + 34 * b) * (int8_t)row[34 * b + 2 + i];
	case NVLLM_Q4_0: row += 18 * b; u = row[2 + i % 16]; break;
	default: row += 20 * b; u = row[4 + i % 16]; break;
	}
	u = i < 16 ? u & 15 : u >> 4;
	return dtype == NVLLM_Q4_0 ? half(row) * ((double)u - 8) : half(row) * u + half(row + 2);
}

const int dtypes[6] = { NVLLM_F32, NVLLM_F16, NVLLM_BF16, NVLLM_Q4_0, NVLLM_Q4_1, NVLLM_Q8_0 };

int is_blocks(int dtype)
{
	return dtype >= NVLLM_Q4_0;
}

int is_k(int dtype)
{
	return dtype >= NVLLM_Q4_K && dtype <= NVLLM_Q6_K;
}

const int more_dtypes[N_MORE] = { NVLLM_Q5_0, NVLLM_Q5_1, NVLLM_Q2_K, NVLLM_Q3_K, NVLLM_Q4_K,
	NVLLM_Q5_K, NVLLM_Q6_K, NVLLM_Q8_K, NVLLM_IQ1_S, NVLLM_IQ1_M, NVLLM_IQ2_XXS, NVLLM_IQ2_XS,
	NVLLM_IQ2_S, NVLLM_IQ3_XXS, NVLLM_IQ3_S, NVLLM_IQ4_NL, NVLLM_IQ4_XS, NVLLM_MXFP4,
	NVLLM_TQ1_0, NVLLM_TQ2_0 };

static int is_usual(int dtype) /* one of dtypes */
{
	for (int i = 0; i < N(dtypes); i++)
		if (dtypes[i] == dtype)
			return 1;
	return 0;
}

/* Where a block has its halves; -1 = no such. */
static const int scale_at[N_MORE][2] = { { 0, -1 }, { 0, 2 }, { 80, 82 }, { 108, -1 }, { 0, 2 },
	{ 0, 2 }, { 208, -1 }, { -1, -1 }, { 0, -1 }, { -1, -1 }, { 0, -1 }, { 0, -1 }, { 0, -1 },
	{ 0, -1 }, { 0, -1 }, { 0, -1 }, { 0, -1 }, { -1, -1 }, { 52, -1 }, { 64, -1 } };

static void usual_scales(int dtype, uint8_t *block)
{
	const float f = uniform();
	int i = 0;

	while (more_dtypes[i] != dtype)
		i++;
	for (int k = 0; k < 2; k++)
		if (scale_at[i][k] >= 0)
			block[scale_at[i][k] + 1] = (uint8_t)((bits() & 0x83) | 0x20);
	if (dtype == NVLLM_Q8_K)
		memcpy(block, &f, 4);
	if (dtype == NVLLM_MXFP4)
		block[0] = (uint8_t)(118 + bits() % 8);
	if (dtype == NVLLM_IQ1_M) /* the top nibble of d, over that of the fourth scale */
		block[55] = (uint8_t)((block[55] & 0x0f) | 0x20);
}

void decode_row(struct dev *dev, int dtype, const uint8_t *raw, int64_t cols, float *y)
{
	struct nvllm_tensor t = { .rows = 1, .cols = cols, .dtype = dtype, .planes = 1 };
	int64_t bytes = vt->store(dev->d, &t);

	assert_true(bytes >= cols * 4);
	t.data = vt->alloc(dev->d, bytes);
	assert_int_equal(vt->upload(dev->d, &t, 0, 0, 1, raw, dtype,
		nvllm_row_bytes(dtype, cols)), 0);
	memcpy(y, t.data, (size_t)cols * 4);
	vt->free(dev->d, t.data);
}

static double *values_of(struct dev *dev, int dtype, int64_t rows, int64_t cols,
	const uint8_t *raw, int64_t stride)
{
	double *value = malloc((size_t)(rows * cols + 1) * sizeof(double));
	float *row = malloc((size_t)(cols + 1) * 4);

	for (int64_t i = 0; i < rows && !is_usual(dtype); i++) {
		decode_row(dev, dtype, raw + i * stride, cols, row);
		for (int64_t k = 0; k < cols; k++)
			value[i * cols + k] = row[k];
	}
	for (int64_t i = 0; i < rows * cols && is_usual(dtype); i++)
		value[i] = element(dtype, raw + i / cols * stride, i % cols);
	free(row);
	return value;
}

/* Random bytes that make finite numbers of a usual size. */
uint8_t *random_weight(int dtype, int64_t rows, int64_t cols)
{
	const int64_t bytes = rows * nvllm_row_bytes(dtype, cols);
	int64_t block, size = 0;
	uint8_t *p = malloc((size_t)bytes);

	(void)nvllm_dtype_block(dtype, &size);
	for (int64_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)bits();
	for (block = 0; block < bytes && !is_usual(dtype); block += size)
		usual_scales(dtype, p + block);
	for (block = 0; block < bytes && is_usual(dtype); block += size) {
		float f = uniform();

		if (dtype == NVLLM_F32)
			memcpy(p + block, &f, 4);
		else if (dtype == NVLLM_BF16)
			p[block + 1] = (uint8_t)((bits() & 0x80) | 0x3e | (bits() & 1));
		else /* an exponent of the half, or of d; then m */
			p[block + 1] = (uint8_t)((bits() & 0x83) | 0x20 | (bits() & 0x0c));
		if (dtype == NVLLM_Q4_1)
			p[block + 3] = (uint8_t)((bits() & 0x83) | 0x28);
	}
	return p;
}

struct weight put_weight(struct dev *dev, int dtype, int64_t rows, int64_t cols,
	const uint8_t *raw, int64_t stride)
{
	struct weight w = { .t = { .rows = rows, .cols = cols, .dtype = dtype, .planes = 1 } };
	const int64_t cut = rows / 3;
	int64_t bytes = vt->store(dev->d, &w.t);

	assert_true(bytes >= rows * nvllm_row_bytes(dtype, cols));
	w.t.data = vt->alloc(dev->d, bytes);
	assert_non_null(w.t.data);
	assert_int_equal((uintptr_t)w.t.data % 256, 0);
	assert_int_equal(vt->upload(dev->d, &w.t, 0, 0, cut, raw, dtype, stride), 0);
	assert_int_equal(vt->upload(dev->d, &w.t, 0, cut, rows - cut, raw + cut * stride, dtype,
		stride), 0);
	w.value = values_of(dev, dtype, rows, cols, raw, stride);
	return w;
}

struct weight make_weight(struct dev *dev, int dtype, int64_t rows, int64_t cols)
{
	uint8_t *raw = random_weight(dtype, rows, cols);
	struct weight w = put_weight(dev, dtype, rows, cols, raw, nvllm_row_bytes(dtype, cols));

	free(raw);
	return w;
}

struct weight make_planes(struct dev *dev, int dtype, int planes, int64_t rows, int64_t cols)
{
	const int64_t stride = nvllm_row_bytes(dtype, cols);
	uint8_t *raw = random_weight(dtype, planes * rows, cols);
	struct weight w = { .t = { .rows = rows, .cols = cols, .dtype = dtype, .planes = planes } };

	w.t.data = vt->alloc(dev->d, vt->store(dev->d, &w.t));
	for (int p = 0; p < planes; p++)
		assert_int_equal(vt->upload(dev->d, &w.t, p, 0, rows,
			raw + p * rows * stride, dtype, stride), 0);
	w.value = values_of(dev, dtype, planes * rows, cols, raw, stride);
	free(raw);
	return w;
}

void free_weight(struct dev *dev, struct weight *w)
{
	vt->free(dev->d, w->t.data);
	free(w->value);
}

