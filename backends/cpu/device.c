/* SPDX-License-Identifier: MIT */
/* device.c - the CPU as a device: its options, which instruction set is used, and how
 * weights are kept (as panels, or in rows as the checkpoint has them; vectors as f32). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <nvllm/plugin.h>

#include "cpu.h"

#define HUGE_PAGE (2 << 20)

static const char *const isa_names[] = { "auto", "scalar", "avx2", "avx512", "vnni", "bf16", "amx", NULL };
static const char *const activation_names[] = { "auto", "f32", "q8", "q16", "q12", "bf16", NULL };
static const char *const repack_names[] = { "auto", "off", NULL };

static const struct nvllm_option options[] = {
	NVLLM_INT(conf, threads, "threads", "0", 0, 1024,
		"threads to compute with; 0 = the cores (not their hardware threads) that this process "
		"may use, divided among the ranks of its group"),
	NVLLM_ENUM(conf, isa, "isa", "auto", isa_names,
		"instructions to use; auto = the best this CPU has"),
	NVLLM_ENUM(conf, activations, "activations", "auto", activation_names,
		"form of activations in products with block-quantised weights; q16 = rounded to 16 bits, "
		"all but exact; q12 = to 12 bits before weights of 4, where AMX takes one product instead of two; "
		"auto = q12 with AMX, else q16; q8 = to 8 bits, 1.5 times as fast on prompts, but answers change; f32 = exact, generates at a third of the speed; "
		"float weights and block types other than Q4_0, Q4_1, Q8_0, Q4_K, Q5_K and Q6_K take f32 then; "
		"bf16 = both factors rounded to bf16, for all weights, where the CPU has such "
		"products (AVX-512 BF16, AMX); elsewhere only activations are rounded"),
	NVLLM_ENUM(conf, repack, "repack", "auto", repack_names,
		"auto = weights are laid out for this CPU as they are read; off = as the checkpoint "
		"has them, and laid out anew for each product: starts sooner, runs slower; the same "
		"results to the bit"),
	NVLLM_OPTIONS_END
};

/* Overrides, in order: each level stands on those before it. */
static void (*const levels[])(struct isa *) = {
	[ISA_SCALAR] = isa_scalar,
#if defined(__x86_64__)
	[ISA_AVX2] = isa_avx2,
	[ISA_AVX512] = isa_avx512,
	[ISA_VNNI] = isa_vnni,
	[ISA_BF16] = isa_bf16,
	[ISA_AMX] = isa_amx,
#endif
};

/* The best that the system lets us use. */
static int32_t best_isa(enum isa_level best)
{
	return best == ISA_AMX && !cpuid_ask_tiles() ? ISA_BF16 : (int32_t)best;
}

static int choose_isa(struct nvllm_device *dev, int32_t asked)
{
	const enum isa_level best = cpuid_level();
	const int32_t level = asked == 0 ? best_isa(best) : asked - 1;

	if (level > (int32_t)best)
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "isa = %s: this CPU does not have "
			"it; it has up to '%s': choose that, a lower one or auto", isa_names[asked],
			isa_names[best + 1]);
	if (asked - 1 == ISA_AMX && !cpuid_ask_tiles())
		return dev->host->fail(dev->host, NVLLM_ENOTSUP, "isa = amx: this CPU has it, but the "
			"system does not let this process use it (Linux 5.16 or later can): choose "
			"'bf16', a lower one or auto");
	for (int32_t i = 0; i <= level; i++)
		levels[i](&dev->isa);
	return NVLLM_OK;
}

/* auto: 12 bits where this CPU has products for them; elsewhere q12 takes those of q16, whose rows are alike. */
static void choose_activations(struct nvllm_device *dev, enum act asked)
{
	struct isa *isa = &dev->isa;

	dev->activations = asked != ACT_AUTO ? asked : isa->mul[ACT_Q12][FMT_Q4_0] ? ACT_Q12 : ACT_Q16;
	for (int fmt = 0; fmt < FMT_N; fmt++) {
		if (isa->mul[ACT_Q12][fmt])
			continue;
		isa->mul[ACT_Q12][fmt] = isa->mul[ACT_Q16][fmt];
		isa->to_tile[ACT_Q12][fmt] = isa->to_tile[ACT_Q16][fmt];
	}
}

/* The ranks of a group are on this machine, and compute at the same time. */
static int32_t share_of_cores(int32_t world)
{
	const int32_t n = limits_cores() / (world > 0 ? world : 1);

	return n < 1 ? 1 : n;
}

static void destroy(struct nvllm_device *dev)
{
	if (!dev)
		return;
	pool_destroy(dev->pool);
	free(dev->xq);
	free(dev->scratch);
}

static int create(const struct nvllm_host *host, int ordinal, const void *conf,
	struct nvllm_device **out)
{
	const struct conf *c = conf;
	struct nvllm_device *dev;
	int err;

	if (ordinal < 0)
		return host->fail(host, NVLLM_EINVAL, "there is no CPU device %d", ordinal);
	dev = host->alloc(host, sizeof(*dev));
	if (!dev)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the CPU device");
	dev->host = host;
	dev->repack = c->repack == 0;
	dev->n_workers = c->threads ? (int32_t)c->threads : share_of_cores(host->world);
	err = choose_isa(dev, c->isa);
	if (err)
		return err;
	choose_activations(dev, (enum act)c->activations);
	dev->pool = pool_create(dev->n_workers);
	if (!dev->pool)
		return host->fail(host, NVLLM_ENOMEM, "cannot start %d threads: set threads lower",
			dev->n_workers);
	*out = dev;
	return NVLLM_OK;
}

static int info(struct nvllm_device *dev, struct nvllm_device_info *in)
{
	int64_t mem_free, mem_total;

	limits_memory(&mem_free, &mem_total);
	if (NVLLM_HAS(in, n_workers))
		in->n_workers = dev->n_workers;
	if (NVLLM_HAS(in, caps))
		in->caps = NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL;
	if (NVLLM_HAS(in, mem_free))
		in->mem_free = mem_free;
	if (NVLLM_HAS(in, mem_total))
		in->mem_total = mem_total;
	if (NVLLM_HAS(in, name))
		cpuid_name(in->name, sizeof(in->name));
	if (NVLLM_HAS(in, isa))
		snprintf(in->isa, sizeof(in->isa), "%s", dev->isa.name);
	if (NVLLM_HAS(in, act_dtype))
		in->act_dtype = NVLLM_F32;
	if (NVLLM_HAS(in, kv_dtype))
		in->kv_dtype = NVLLM_F16;
	return NVLLM_OK;
}

static void *alloc(struct nvllm_device *dev, int64_t bytes)
{
	/* for weights, which are written whole: of KV only what is used should take memory */
	const bool huge = bytes >= 4 * HUGE_PAGE && bytes - HUGE_PAGE <= dev->stored + dev->stored / 64;
	const size_t align = huge ? HUGE_PAGE : 256;
	size_t size;
	void *p;

	if (bytes < 0 || bytes > INT64_MAX - HUGE_PAGE)
		return NULL;
	size = ((size_t)bytes / align + 1) * align;
	p = aligned_alloc(align, size);
	if (p && huge)
		madvise(p, size, MADV_HUGEPAGE); /* a wish: fewer page walks */
	return p;
}

static void release(struct nvllm_device *dev, void *p)
{
	free(p);
}

static int copy(struct nvllm_device *dev, nvllm_stream stream, void *dst, const void *src,
	int64_t bytes)
{
	if (bytes > 0)
		memmove(dst, src, (size_t)bytes);
	return NVLLM_OK;
}

static int sync(struct nvllm_device *dev, nvllm_stream stream)
{
	return NVLLM_OK;
}

static nvllm_stream stream(struct nvllm_device *dev)
{
	return NULL;
}

static int64_t store(struct nvllm_device *dev, struct nvllm_tensor *t)
{
	const struct nvllm_host *host = dev->host;
	const int64_t planes = t->planes > 0 ? t->planes : 1;
	const enum fmt fmt = fmt_of(t->dtype);
	int64_t bytes, plane, kept;
	int err;

	if (fmt == FMT_N)
		return host->fail(host, NVLLM_ENOTSUP, "the CPU device has no kernels for weights "
			"of type number %d: it takes F32, F16, BF16 and GGUF's block types Q4_0 to "
			"TQ2_0; convert the checkpoint to one of them", t->dtype);
	if (t->rows < 0 || t->cols < 0 || nvllm_row_bytes(t->dtype, t->cols) < 0)
		return host->fail(host, NVLLM_EINVAL, "a weight of [%lld][%lld] cannot be kept as "
			"%s: its rows must be whole blocks of %lld elements; store it in another type",
			(long long)t->rows, (long long)t->cols, fmt_name(fmt),
			(long long)nvllm_dtype_block(t->dtype, NULL));
	err = linear_reserve(dev, t->cols);
	if (err)
		return err;
	if (t->rows == 1) /* a vector: norm weight, bias */
		t->dtype = NVLLM_F32;
	t->layout = t->rows > 1 && linear_panels(dev, fmt) ? dev->isa.lanes : 0;
	t->stride = t->layout ? panel_bytes(fmt, 1, t->cols) : nvllm_row_bytes(t->dtype, t->cols);
	kept = t->layout ? (t->rows + t->layout - 1) / t->layout * t->layout : t->rows;
	if (__builtin_mul_overflow(t->stride, kept, &plane) ||
			__builtin_mul_overflow(plane, planes, &bytes))
		return host->fail(host, NVLLM_EINVAL, "a weight of %lld planes of [%lld][%lld] is "
			"larger than memory can be", (long long)planes, (long long)t->rows,
			(long long)t->cols);
	t->plane_stride = planes > 1 ? plane : 0;
	dev->stored += bytes;
	return bytes;
}

struct upload_job {
	struct nvllm_device *dev;
	const struct nvllm_tensor *t;
	const char *src;
	char *dst;
	int64_t src_stride, bytes; /* of a row as it comes */
	enum fmt convert; /* FMT_N = as it is, else decode from this */
	int64_t first, n; /* the rows, of a weight kept as panels */
};

/* Panels [begin, end), counted from the one with the first row; dst is the plane's start. */
static void upload_panels(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct upload_job *j = arg;
	const int64_t lanes = j->t->layout, panel = j->first / lanes, last = j->first + j->n;
	const int64_t from = begin ? (panel + begin) * lanes : j->first;
	const int64_t to = (panel + end) * lanes < last ? (panel + end) * lanes : last;

	panel_pack(&j->dev->isa, j->dst, fmt_of(j->t->dtype), j->t->rows, j->t->cols, from, to - from,
		j->src + (from - j->first) * j->src_stride, j->src_stride);
}

static void upload_rows(void *arg, int64_t begin, int64_t end, int32_t worker)
{
	const struct upload_job *j = arg;

	if (j->convert == FMT_N && j->t->stride == j->bytes && j->src_stride == j->bytes) {
		memcpy(j->dst + begin * j->bytes, j->src + begin * j->bytes,
			(size_t)((end - begin) * j->bytes));
		return;
	}
	for (int64_t i = begin; i < end; i++) {
		char *dst = j->dst + i * j->t->stride;
		const char *src = j->src + i * j->src_stride;

		if (j->convert == FMT_N)
			memcpy(dst, src, (size_t)j->bytes);
		else
			j->dev->isa.decode[j->convert]((float *)dst, src, j->t->cols);
	}
}

static int upload(struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane,
	int64_t row, int64_t n, const void *src, int32_t src_dtype, int64_t src_stride)
{
	const struct nvllm_host *host = dev->host;
	const int64_t bytes = nvllm_row_bytes(src_dtype, t->cols);
	struct upload_job j = { dev, t, src, NULL, src_stride, bytes, FMT_N, row, n };

	if (src_dtype != t->dtype)
		j.convert = t->dtype == NVLLM_F32 ? fmt_of(src_dtype) : FMT_N;
	if (src_dtype != t->dtype && (j.convert == FMT_N || t->layout))
		return host->fail(host, NVLLM_ENOTSUP,
			"cannot turn type number %d into %d at upload",
			src_dtype, t->dtype);
	if (plane < 0 || plane >= (t->planes > 0 ? t->planes : 1) || row < 0 || n < 0 ||
			row > t->rows || n > t->rows - row || bytes < 0 ||
			(t->layout && t->layout != dev->isa.lanes) ||
			(n > 1 && src_stride < bytes))
		return host->fail(host, NVLLM_EINVAL,
			"upload of rows %lld to %lld of plane %d, %lld "
			"bytes apart, does not fit a weight of [%lld][%lld]", (long long)row,
			(long long)(row + n), plane, (long long)src_stride, (long long)t->rows,
			(long long)t->cols);
	if (n == 0 || t->cols == 0)
		return NVLLM_OK;
	j.dst = (char *)t->data + plane * t->plane_stride;
	if (t->layout) {
		run_rows(dev, (row + n - 1) / t->layout - row / t->layout + 1, bytes * t->layout,
			upload_panels, &j);
		return NVLLM_OK;
	}
	j.dst += row * t->stride;
	run_rows(dev, n, bytes, upload_rows, &j);
	return NVLLM_OK;
}

static void parallel_for(struct nvllm_device *dev, int64_t n, int64_t grain,
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg)
{
	pool_run(dev->pool, n, grain, fn, arg);
}

static const struct nvllm_device_vt vt = {
	.size = sizeof(vt),
	.kernels = &cpu_kernels,
	.create = create,
	.destroy = destroy,
	.info = info,
	.alloc = alloc,
	.free = release,
	.copy = copy,
	.sync = sync,
	.stream = stream,
	.store = store,
	.upload = upload,
	.random = cpu_random,
	.parallel_for = parallel_for,
};

static const struct nvllm_component cpu = {
	.size = sizeof(cpu),
	.kind = NVLLM_KIND_DEVICE,
	.name = "cpu",
	.summary = "x86-64 processors: plain C, AVX2, AVX-512, VNNI, AMX",
	.vt = &vt,
	.options = options,
	.conf_size = sizeof(struct conf),
};

static const struct nvllm_component *const components[] = { &cpu, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "cpu",
	.version = "0.1.0",
	.components = components,
};
