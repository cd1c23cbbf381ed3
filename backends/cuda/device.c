/* SPDX-License-Identifier: MIT */
/* device.c - an NVIDIA GPU as a device: what is refused and in which words, memory, streams,
 * copies, marks.
 *
 * Threads: steps run on another thread than setup, so every function here makes its GPU the
 * calling thread's. Kernels do not: a step's first call is a copy. The device starts one
 * thread of its own, which ends before the first step: lt.c. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "cuda.h"

#define SCRATCH_BYTES ((int64_t)64 << 20) /* a slice of a weight as numbers: a few thousand rows */
#define WORKSPACE_BYTES ((int64_t)32 << 20) /* what cuBLAS itself takes on sm_90 */
#define LEAST_CC 80 /* bf16 products, asynchronous copies */

static const char *const activation_names[] = { "auto", "bf16", "f32", NULL };
enum { ACT_AUTO, ACT_BF16, ACT_F32 };
static const char *const tune_names[] = { "off", "on", "full", NULL }; /* enum tune */
static const char *const weight_names[] = { "auto", "fp8", NULL }; /* enum weights */

static const struct nvllm_option options[] = {
	NVLLM_ENUM(device_conf, activations, "activations", "auto", activation_names,
		"numbers that layers pass on: bf16 (auto) = the fast way; f32 = exact, weights of 16 "
		"bits take twice the memory, and products are several times as slow"),
	NVLLM_ENUM(device_conf, weights, "weights", "auto", weight_names,
		"fp8 = layers' matrices of f32, f16 and bf16 are kept in 8 bits (e4m3, a scale a row), experts' too: half the memory, "
		"other answers; embeddings, the head, routers, norms and quantised matrices stay; auto = as the file has them"),
	NVLLM_STR(device_conf, cublaslt, "cublaslt", "",
		"path of the library libcublasLt.so; empty = the system's, or that of /usr/local/cuda"),
	NVLLM_ENUM(device_conf, tune, "tune", "on", tune_names,
		"on = start-up times kernels of cuBLASLt for this model's matrix products, for a tenth of a second; full = "
		"until all are timed; off = cuBLASLt's first choices are used"),
	NVLLM_STR(device_conf, tune_file, "tune_file", "",
		"file that keeps what was timed, so that the next start goes on from there; empty = none"),
	NVLLM_OPTIONS_END
};

/* ---- errors ---- */

/* After these CUDA refuses everything this process asks of the device. */
static bool is_final(int err)
{
	return err == cudaErrorIllegalAddress || err == cudaErrorLaunchTimeout || err == cudaErrorAssert ||
		err == cudaErrorHardwareStackError || err == cudaErrorIllegalInstruction ||
		err == cudaErrorMisalignedAddress || err == cudaErrorInvalidAddressSpace ||
		err == cudaErrorInvalidPc || err == cudaErrorLaunchFailure || err == cudaErrorECCUncorrectable;
}

int cu_check(const struct nvllm_device *dev, int err, const char *what)
{
	const struct nvllm_host *host = dev->host;

	if (err == cudaSuccess)
		return NVLLM_OK;
	cudaGetLastError(); /* or the next check would find it again */
	if (err == cudaErrorNoKernelImageForDevice || err == cudaErrorInvalidDeviceFunction)
		return host->fail(host, NVLLM_ENOTSUP, "%s: this plugin has kernels for compute capability %s, and device %d "
			"(%s) has %d.%d: rebuild with meson's option gpu_arch=%d", what, NVLLM_GPU_ARCH, dev->ordinal,
			dev->name, dev->cc / 10, dev->cc % 10, dev->cc);
	return host->fail(host, NVLLM_EDEVICE, "%s failed on CUDA device %d: %s (%s)%s", what, dev->ordinal,
		cudaGetErrorString(err), cudaGetErrorName(err),
		is_final(err) ? "; this process cannot use the device any more: start it again" : "");
}

/* Of cudaGetDeviceCount, before there is a device. */
static int no_device(const struct nvllm_host *host, int err)
{
	int driver = 0, runtime = 0;

	cudaGetLastError();
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&runtime);
	if (err == cudaErrorInsufficientDriver && !driver)
		return host->fail(host, NVLLM_ENOENT, "there is no NVIDIA driver here (libcuda.so.1 cannot be opened): install "
			"it, or set [device] plugin = cpu");
	if (err == cudaErrorInsufficientDriver)
		return host->fail(host, NVLLM_EDEVICE, "the NVIDIA driver is one for CUDA %d.%d, and this plugin was built with "
			"CUDA %d.%d: update the driver, build with an older toolkit, or set [device] plugin = cpu",
			driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
	if (err == cudaSuccess || err == cudaErrorNoDevice)
		return host->fail(host, NVLLM_ENOENT, "the NVIDIA driver shows this process no GPU: look at nvidia-smi and "
			"CUDA_VISIBLE_DEVICES, or set [device] plugin = cpu");
	return host->fail(host, NVLLM_EDEVICE, "the NVIDIA driver does not start: %s (%s); nvidia-smi may say more; or set "
		"[device] plugin = cpu", cudaGetErrorString(err), cudaGetErrorName(err));
}

/* ---- create and destroy ---- */

static void destroy(struct nvllm_device *dev)
{
	if (!dev)
		return;
	cudaSetDevice(dev->ordinal);
	cudaDeviceSynchronize();
	lt_close(dev);
	store_close(dev);
	cudaFree(dev->scratch);
	if (dev->before)
		cudaEventDestroy(dev->before);
	if (dev->after)
		cudaEventDestroy(dev->after);
	if (dev->copies)
		cudaStreamDestroy(dev->copies);
	if (dev->stream)
		cudaStreamDestroy(dev->stream);
	cudaGetLastError();
}

/* What the device is. */
static int look(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	struct cudaDeviceProp prop;
	int err = cu_check(dev, cudaGetDeviceProperties(&prop, dev->ordinal), "asking for its properties");

	if (err)
		return err;
	dev->n_sms = prop.multiProcessorCount;
	dev->cc = prop.major * 10 + prop.minor;
	snprintf(dev->name, sizeof(dev->name), "%.63s", prop.name);
	snprintf(dev->isa, sizeof(dev->isa), "sm_%d, %d SMs, %s%s", dev->cc, dev->n_sms,
		dev->act == NVLLM_F32 ? "f32" : "bf16", dev->conf->weights == WEIGHTS_FP8 ? ", weights fp8" : "");
	if (dev->cc < LEAST_CC)
		return host->fail(host, NVLLM_ENOTSUP, "CUDA device %d (%s) has compute capability %d.%d, and %d.%d is the least "
			"that has bf16: choose another device or set [device] plugin = cpu", dev->ordinal, dev->name,
			prop.major, prop.minor, LEAST_CC / 10, LEAST_CC % 10);
	return NVLLM_OK;
}

static int make_streams(struct nvllm_device *dev)
{
	cudaStream_t stream = NULL, copies = NULL;
	cudaEvent_t before = NULL, after = NULL;
	int err = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);

	err = err ? err : (int)cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking);
	err = err ? err : (int)cudaEventCreateWithFlags(&before, cudaEventDisableTiming);
	err = err ? err : (int)cudaEventCreateWithFlags(&after, cudaEventDisableTiming);
	dev->stream = stream, dev->copies = copies;
	dev->before = before, dev->after = after;
	return cu_check(dev, err, "making streams");
}

/* A kernel of ours runs: finds out whether there is code for this device. */
static int try_kernel(struct nvllm_device *dev)
{
	char *at = dev->scratch;
	int err = cu_check(dev, cudaMemsetAsync(at, 0, 256, dev->stream), "writing to its memory");

	if (!err)
		err = cu_convert(dev, dev->stream, at, NVLLM_F32, 16, at + 128, NVLLM_F32, 16, 1, 4);
	return err ? err : cu_check(dev, cudaStreamSynchronize(dev->stream), "running a first kernel");
}

static int start(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	int err = lt_open(dev); /* reads a large library while the driver makes a context */

	err = err ? err : cu_check(dev, cudaSetDevice(dev->ordinal), "beginning to use it");
	err = err ? err : look(dev);
	err = err ? err : skinny_open(dev);
	err = err ? err : make_streams(dev);
	if (err)
		return err;
	if (cudaMalloc(&dev->scratch, SCRATCH_BYTES + WORKSPACE_BYTES) != cudaSuccess) {
		cudaGetLastError();
		dev->scratch = NULL;
		return host->fail(host, NVLLM_ENOMEM, "CUDA device %d (%s) has no %lld MiB of memory left for scratch: end what "
			"else runs there (nvidia-smi lists it)", dev->ordinal, dev->name, (long long)(SCRATCH_BYTES + WORKSPACE_BYTES) >> 20);
	}
	dev->scratch_bytes = SCRATCH_BYTES;
	dev->workspace = (char *)dev->scratch + SCRATCH_BYTES;
	dev->workspace_bytes = WORKSPACE_BYTES;
	return try_kernel(dev);
}

static int create(const struct nvllm_host *host, int ordinal, const void *conf, struct nvllm_device **out)
{
	const struct device_conf *c = conf;
	struct nvllm_device *dev;
	int n = 0, err = cudaGetDeviceCount(&n);

	if (err || n == 0)
		return no_device(host, err);
	if (ordinal < 0 || ordinal >= n)
		return host->fail(host, NVLLM_EINVAL, "there is no CUDA device %d: this process sees %d, numbered from 0 (look at "
			"CUDA_VISIBLE_DEVICES); ranks take one each, from [device] ordinal on", ordinal, n);
	dev = host->alloc(host, sizeof(*dev));
	if (!dev)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the CUDA device");
	dev->host = host;
	dev->conf = c;
	dev->ordinal = ordinal;
	dev->act = c->activations == ACT_F32 ? NVLLM_F32 : NVLLM_BF16;
	err = start(dev);
	if (err)
		destroy(dev);
	else
		*out = dev;
	return err;
}

static int info(struct nvllm_device *dev, struct nvllm_device_info *in)
{
	size_t mem_free = 0, mem_total = 0;
	int err;

	cudaSetDevice(dev->ordinal);
	err = cu_check(dev, cudaMemGetInfo(&mem_free, &mem_total), "asking for its memory");
	if (err)
		return err;
	if (NVLLM_HAS(in, n_workers))
		in->n_workers = 1;
	if (NVLLM_HAS(in, caps))
		in->caps = NVLLM_DEV_ASYNC | NVLLM_DEV_GRAPHS | NVLLM_DEV_CUDA | NVLLM_DEV_VARIES;
	if (NVLLM_HAS(in, mem_free))
		in->mem_free = (int64_t)mem_free;
	if (NVLLM_HAS(in, mem_total))
		in->mem_total = (int64_t)mem_total;
	if (NVLLM_HAS(in, name))
		snprintf(in->name, sizeof(in->name), "%s", dev->name);
	if (NVLLM_HAS(in, isa))
		snprintf(in->isa, sizeof(in->isa), "%s", dev->isa);
	if (NVLLM_HAS(in, act_dtype))
		in->act_dtype = dev->act;
	if (NVLLM_HAS(in, kv_dtype))
		in->kv_dtype = dev->act;
	return NVLLM_OK;
}

/* ---- memory ---- */

static void *alloc(struct nvllm_device *dev, int64_t bytes)
{
	void *p = NULL;

	if (bytes < 0)
		return NULL;
	cudaSetDevice(dev->ordinal);
	if (cudaMalloc(&p, bytes ? (size_t)bytes : 1) == cudaSuccess)
		return p;
	cudaGetLastError();
	return NULL;
}

static void release(struct nvllm_device *dev, void *p)
{
	cudaSetDevice(dev->ordinal);
	cudaFree(p); /* waits for what uses it */
}

static void *host_alloc(struct nvllm_device *dev, int64_t bytes)
{
	void *p = NULL;

	if (bytes < 0)
		return NULL;
	cudaSetDevice(dev->ordinal);
	if (cudaHostAlloc(&p, bytes ? (size_t)bytes : 1, cudaHostAllocPortable) == cudaSuccess)
		return p;
	cudaGetLastError();
	return NULL;
}

static void host_free(struct nvllm_device *dev, void *p)
{
	cudaSetDevice(dev->ordinal);
	cudaFreeHost(p);
}

static int copy(struct nvllm_device *dev, nvllm_stream stream, void *dst, const void *src, int64_t bytes)
{
	cudaSetDevice(dev->ordinal);
	if (bytes <= 0)
		return NVLLM_OK;
	return cu_check(dev, cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, stream), "a copy");
}

/* ---- order ---- */

static nvllm_stream stream_of(struct nvllm_device *dev)
{
	return dev->stream;
}

/* Uploads are in it: the compute stream waits for them. The library that products need is waited
 * for here too, so that a step never is the one to find it missing. */
static int sync(struct nvllm_device *dev, nvllm_stream stream)
{
	int err;

	cudaSetDevice(dev->ordinal);
	err = cu_check(dev, cudaStreamSynchronize(stream), "work enqueued earlier");
	return err ? err : lt_ready(dev);
}

static int mark_create(struct nvllm_device *dev, nvllm_mark *out)
{
	cudaEvent_t event = NULL;
	int err;

	cudaSetDevice(dev->ordinal);
	err = cu_check(dev, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
	*out = event;
	return err;
}

static void mark_free(struct nvllm_device *dev, nvllm_mark mark)
{
	if (!mark)
		return;
	cudaSetDevice(dev->ordinal);
	cudaEventDestroy(mark);
}

static int mark_set(struct nvllm_device *dev, nvllm_stream stream, nvllm_mark mark)
{
	cudaSetDevice(dev->ordinal);
	return cu_check(dev, cudaEventRecord(mark, stream), "marking the end of a step");
}

static int mark_wait(struct nvllm_device *dev, nvllm_mark mark)
{
	cudaSetDevice(dev->ordinal);
	return cu_check(dev, cudaEventSynchronize(mark), "a step");
}

/* ---- tables ---- */

static const struct nvllm_kernels kernels = {
	.size = sizeof(kernels),
	.embed = cu_embed,
	.linear = cu_linear,
	.norm = cu_norm,
	.add = cu_add,
	.rope = cu_rope,
	.glu = cu_glu,
	.rows = cu_rows,
	.logprobs = cu_logprobs,
	.advance = cu_advance,
	.norm_linear = cu_norm_linear,
	.norm_linear_glu = cu_norm_linear_glu,
	.moe = cu_moe,
};

static const struct nvllm_device_vt vt = {
	.size = sizeof(vt),
	.kernels = &kernels,
	.create = create,
	.destroy = destroy,
	.info = info,
	.alloc = alloc,
	.free = release,
	.copy = copy,
	.sync = sync,
	.stream = stream_of,
	.store = cu_store,
	.upload = cu_upload,
	.graph_begin = cu_graph_begin,
	.graph_end = cu_graph_end,
	.graph_launch = cu_graph_launch,
	.graph_free = cu_graph_free,
	.mark_create = mark_create,
	.mark_free = mark_free,
	.mark_set = mark_set,
	.mark_wait = mark_wait,
	.host_alloc = host_alloc,
	.host_free = host_free,
	.random = cu_random,
	.prepare = cu_prepare,
};

static const struct nvllm_component cuda = {
	.size = sizeof(cuda),
	.kind = NVLLM_KIND_DEVICE,
	.name = "cuda",
	.summary = "NVIDIA GPUs of compute capability 8.0 and later",
	.vt = &vt,
	.options = options,
	.conf_size = sizeof(struct device_conf),
};

static const struct nvllm_component *const components[] = { &cuda, NULL };

const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI,
	.size = sizeof(nvllm_plugin),
	.name = "cuda",
	.version = "0.1.0",
	.components = components,
};
