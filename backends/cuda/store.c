/* SPDX-License-Identifier: MIT */
/* store.c - how weights are kept, and how they get there. Matrices of floats become the type of the
 * activations, or with [device] weights = fp8, e4m3 with a scale a row (cuda.h: LAYOUT_FP8); vectors f32; the
 * block formats that have kernels stay as they are, others become floats too. Rows start at multiples of 16
 * bytes.
 *
 * Uploads go through pinned buffers on a stream of their own. A buffer is filled while the ones before it
 * travel; floats are converted on the device, by way of its scratch, other formats on the host. What comes
 * from pinned memory (host_alloc) is not copied first. */
#include <stdbool.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "blocks.h"
#include "cuda.h"

#define N_BUFFERS 4

struct staging {
	char *buffer[N_BUFFERS];     /* pinned, UPLOAD_BYTES each */
	cudaEvent_t sent[N_BUFFERS]; /* when the device has all of it */
	unsigned next;
};

static bool is_float(int32_t dtype)
{
	return dtype == NVLLM_F32 || dtype == NVLLM_F16 || dtype == NVLLM_BF16;
}

/* Has skinny.cu kernels that read it as it is? */
static bool stays(int32_t dtype)
{
	return dtype == NVLLM_Q4_0 || dtype == NVLLM_Q4_1 || dtype == NVLLM_Q8_0 || dtype == NVLLM_Q4_K || dtype == NVLLM_Q6_K;
}

static bool is_fp8(const struct nvllm_tensor *t)
{
	return t->dtype == NVLLM_F8_E4M3 && t->layout == LAYOUT_FP8;
}

/* ---- store ---- */

/* Does this weight of floats become e4m3? Only what a layer multiplies with: rows of the vocabulary are looked up
 * too, as the table of embeddings or the head tied to it, and an untied head looks the same from here;
 * what nobody cuts is a router, whose choices are worth its few bytes. */
static bool becomes_fp8(const struct nvllm_device *dev, const struct nvllm_tensor *t)
{
	return dev->conf->weights == WEIGHTS_FP8 && is_float(t->dtype) && t->rows > 1 && t->cols % 16 == 0 &&
		t->cut != NVLLM_WHOLE && t->cut != NVLLM_CUT_VOCAB;
}

int64_t cu_store(struct nvllm_device *dev, struct nvllm_tensor *t)
{
	const struct nvllm_host *host = dev->host;
	const int64_t planes = t->planes > 0 ? t->planes : 1, row = nvllm_row_bytes(t->dtype, t->cols);
	const bool vector = t->rows == 1;
	int64_t bytes, plane;

	if (!is_float(t->dtype) && !blocks_known(t->dtype))
		return host->fail(host, NVLLM_ENOTSUP, "the CUDA device has no kernels for weights of type number %d: it takes F32, "
			"F16, BF16 and GGUF's block types Q4_0 to TQ2_0; convert the checkpoint to one of them", t->dtype);
	if (t->rows < 0 || t->cols < 0 || row < 0)
		return host->fail(host, NVLLM_EINVAL, "a weight of [%lld][%lld] cannot be kept as type number %d: its rows must be "
			"whole blocks of %lld elements; store it in another type", (long long)t->rows, (long long)t->cols, t->dtype,
			(long long)nvllm_dtype_block(t->dtype, NULL));
	if (t->cols > UPLOAD_BYTES / 4)
		return host->fail(host, NVLLM_ENOTSUP, "a weight row of %lld elements is longer than the CUDA device takes (%d)",
			(long long)t->cols, UPLOAD_BYTES / 4);
	t->layout = 0;
	if (becomes_fp8(dev, t))
		t->dtype = NVLLM_F8_E4M3, t->layout = LAYOUT_FP8;
	else if (vector)
		t->dtype = NVLLM_F32;
	else if (!stays(t->dtype))
		t->dtype = dev->act;
	t->stride = (stored_bytes(t) + 15) / 16 * 16;
	if (__builtin_mul_overflow(t->stride, t->rows, &plane) || __builtin_mul_overflow(plane, planes, &bytes))
		return host->fail(host, NVLLM_EINVAL, "a weight of %lld planes of [%lld][%lld] is larger than memory can be",
			(long long)planes, (long long)t->rows, (long long)t->cols);
	t->plane_stride = planes > 1 ? plane : 0;
	return bytes;
}

/* ---- the way there ---- */

/* Uploads begin after what the compute stream was given, */
static int begin(struct nvllm_device *dev)
{
	int err;

	cudaSetDevice(dev->ordinal);
	err = cudaEventRecord(dev->before, dev->stream);
	return cu_check(dev, err ? err : (int)cudaStreamWaitEvent(dev->copies, dev->before, 0), "beginning an upload");
}

/* and what it is given from now on begins after them. */
static int end(struct nvllm_device *dev)
{
	const int err = cudaEventRecord(dev->after, dev->copies);

	return cu_check(dev, err ? err : (int)cudaStreamWaitEvent(dev->stream, dev->after, 0), "ending an upload");
}

void store_close(struct nvllm_device *dev)
{
	struct staging *s = dev->staging;

	for (int i = 0; s && i < N_BUFFERS; i++) {
		if (s->sent[i])
			cudaEventDestroy(s->sent[i]);
		if (s->buffer[i])
			cudaFreeHost(s->buffer[i]);
	}
	dev->staging = NULL;
}

static int make_staging(struct nvllm_device *dev)
{
	const struct nvllm_host *host = dev->host;
	struct staging *s = dev->staging;

	if (s)
		return NVLLM_OK;
	s = host->alloc(host, sizeof(*s));
	if (!s)
		return host->fail(host, NVLLM_ENOMEM, "no memory for uploads");
	dev->staging = s;
	for (int i = 0; i < N_BUFFERS; i++) {
		void *p = NULL;
		int err = cudaHostAlloc(&p, UPLOAD_BYTES, cudaHostAllocPortable);

		s->buffer[i] = p;
		err = err ? err : (int)cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming);
		if (err) {
			store_close(dev);
			return cu_check(dev, err, "making pinned buffers for uploads (32 MiB)");
		}
	}
	return NVLLM_OK;
}

/* Some rows on their way. */
struct load {
	struct nvllm_device *dev;
	const struct nvllm_tensor *t;
	char *dst;                   /* of the first row */
	const char *src;
	int64_t src_stride;
	int32_t src_dtype;
	int32_t wire;                /* type in which rows travel: src_dtype, or f32 where they are decoded here */
	int64_t wire_bytes;          /* of a row */
	bool pinned;                 /* src is, and travels as it is */
};

static void fill(const struct load *l, char *to, int64_t row, int64_t n)
{
	const char *src = l->src + row * l->src_stride;

	if (l->wire == l->src_dtype && l->src_stride == l->wire_bytes) {
		memcpy(to, src, (size_t)(n * l->wire_bytes));
		return;
	}
	for (int64_t i = 0; i < n; i++, src += l->src_stride, to += l->wire_bytes)
		if (l->wire == l->src_dtype)
			memcpy(to, src, (size_t)l->wire_bytes);
		else
			blocks_to_f32((float *)to, src, l->src_dtype, l->t->cols);
}

static int copy_rows(const struct load *l, void *to, int64_t to_stride, const void *from, int64_t from_stride, int64_t n)
{
	const size_t width = (size_t)l->wire_bytes;
	int err;

	if (n == 1 || (to_stride == l->wire_bytes && from_stride == l->wire_bytes))
		err = cudaMemcpyAsync(to, from, width * (size_t)n, cudaMemcpyHostToDevice, l->dev->copies);
	else
		err = cudaMemcpy2DAsync(to, (size_t)to_stride, from, (size_t)from_stride, width, (size_t)n,
			cudaMemcpyHostToDevice, l->dev->copies);
	return cu_check(l->dev, err, "copying weights to it");
}

/* n rows that lie in pinned memory, to their place in the stored type. */
static int send(const struct load *l, int64_t row, const void *from, int64_t from_stride, int64_t n)
{
	struct nvllm_device *dev = l->dev;
	char *dst = l->dst + row * l->t->stride;
	int err;

	if (l->wire == l->t->dtype)
		return copy_rows(l, dst, l->t->stride, from, from_stride, n);
	err = copy_rows(l, dev->scratch, l->wire_bytes, from, from_stride, n);
	if (!err && is_fp8(l->t))
		return fp8_rows(dev, dev->copies, dst, l->t->stride, dev->scratch, l->wire, l->wire_bytes, n, l->t->cols);
	return err ? err : cu_convert(dev, dev->copies, dst, l->t->dtype, l->t->stride, dev->scratch, l->wire, l->wire_bytes, n,
		l->t->cols);
}

static int send_staged(const struct load *l, int64_t row, int64_t n)
{
	struct nvllm_device *dev = l->dev;
	struct staging *s = dev->staging;
	const unsigned i = s->next++ % N_BUFFERS;
	int err = cu_check(dev, cudaEventSynchronize(s->sent[i]), "an upload");

	if (err)
		return err;
	fill(l, s->buffer[i], row, n);
	err = send(l, row, s->buffer[i], l->wire_bytes, n);
	return err ? err : cu_check(dev, cudaEventRecord(s->sent[i], dev->copies), "an upload");
}

static int send_all(const struct load *l, int64_t n)
{
	const int64_t step = UPLOAD_BYTES / l->wire_bytes;
	int err = l->pinned ? NVLLM_OK : make_staging(l->dev);

	for (int64_t row = 0; row < n && !err; row += step) {
		const int64_t k = n - row < step ? n - row : step;

		err = l->pinned ? send(l, row, l->src + row * l->src_stride, l->src_stride, k) : send_staged(l, row, k);
	}
	if (!err && l->pinned) /* src is the caller's again */
		err = cu_check(l->dev, cudaStreamSynchronize(l->dev->copies), "an upload");
	return err;
}

static bool is_pinned(const void *p)
{
	struct cudaPointerAttributes a;

	if (cudaPointerGetAttributes(&a, p) == cudaSuccess)
		return a.type == cudaMemoryTypeHost;
	cudaGetLastError();
	return false;
}

static int check(const struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n)
{
	const struct nvllm_host *host = dev->host;

	if (plane >= 0 && plane < (t->planes > 0 ? t->planes : 1) && row >= 0 && n >= 0 && row <= t->rows && n <= t->rows - row)
		return NVLLM_OK;
	return host->fail(host, NVLLM_EINVAL, "rows %lld to %lld of plane %d do not fit a weight of [%lld][%lld]", (long long)row,
		(long long)(row + n), plane, (long long)t->rows, (long long)t->cols);
}

int cu_upload(struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n, const void *src,
	int32_t src_dtype, int64_t src_stride)
{
	const struct nvllm_host *host = dev->host;
	const int64_t src_bytes = nvllm_row_bytes(src_dtype, t->cols);
	const bool to_floats = is_float(t->dtype) || is_fp8(t); /* of either kind, on the device */
	const bool as_is = (src_dtype == t->dtype && !t->layout) || (is_float(src_dtype) && to_floats);
	struct load l = { .dev = dev, .t = t, .src = src, .src_stride = src_stride, .src_dtype = src_dtype };
	int err = check(dev, t, plane, row, n);

	if (err || n == 0 || t->cols == 0)
		return err;
	if (src_bytes < 0 || (n > 1 && src_stride < src_bytes) || (!as_is && (!blocks_known(src_dtype) || !to_floats)))
		return host->fail(host, NVLLM_EINVAL, "a weight of %lld columns, stored as type number %d, cannot come from rows of "
			"type %d that lie %lld bytes apart", (long long)t->cols, t->dtype, src_dtype, (long long)src_stride);
	l.dst = (char *)t->data + plane * t->plane_stride + row * t->stride;
	l.wire = as_is ? src_dtype : NVLLM_F32;
	l.wire_bytes = nvllm_row_bytes(l.wire, t->cols);
	if (l.wire_bytes > UPLOAD_BYTES)
		return host->fail(host, NVLLM_EINVAL, "a weight row of %lld bytes is longer than an upload", (long long)l.wire_bytes);
	if (n == 1)
		l.src_stride = src_bytes;
	err = begin(dev);
	if (err)
		return err;
	l.pinned = as_is && is_pinned(src);
	if (row == 0 && plane == 0)
		tune_note(dev, t);
	err = send_all(&l, n);
	return err ? err : end(dev);
}

/* As those of the type of activations, then made e4m3. */
static int random_fp8(struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n, uint64_t seed,
	double mean, double std)
{
	const int64_t bytes = nvllm_row_bytes(dev->act, t->cols), step = UPLOAD_BYTES / bytes;
	int err = NVLLM_OK;

	for (int64_t at = row; at < row + n && !err; at += step) {
		const int64_t k = row + n - at < step ? row + n - at : step;

		err = cu_fill_random(dev, dev->copies, dev->scratch, dev->act, bytes, k, t->cols, at, plane, seed, mean, std);
		err = err ? err : fp8_rows(dev, dev->copies, (char *)t->data + plane * t->plane_stride + at * t->stride, t->stride,
			dev->scratch, dev->act, bytes, k, t->cols);
	}
	return err;
}

int cu_random(struct nvllm_device *dev, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n, uint64_t seed,
	double mean, double std)
{
	const struct nvllm_host *host = dev->host;
	int err = check(dev, t, plane, row, n);

	if (err || n == 0 || t->cols == 0)
		return err;
	if (t->dtype != NVLLM_F32 && t->dtype != NVLLM_BF16 && !is_fp8(t))
		return host->fail(host, NVLLM_ENOTSUP, "random weights are made of type F32 and BF16, and this one is stored as type "
			"number %d: let the checkpoint say BF16", t->dtype);
	err = begin(dev);
	if (err)
		return err;
	if (row == 0 && plane == 0)
		tune_note(dev, t);
	if (is_fp8(t))
		err = random_fp8(dev, t, plane, row, n, seed, mean, std);
	else
		err = cu_fill_random(dev, dev->copies, (char *)t->data + plane * t->plane_stride + row * t->stride, t->dtype,
			t->stride, n, t->cols, row, plane, seed, mean, std);
	return err ? err : end(dev);
}
