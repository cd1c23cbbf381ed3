/* SPDX-License-Identifier: MIT */
/* plugins/loaders/gguf_header.c - which GGUF files are whole and sound (versions 2 and
 * 3, little-endian; format: ggml, docs/gguf.md). No length of the file is believed
 * before it is compared with the bytes left. The header is read through a moving
 * window whose blocks stay, so that strings are slices of what was read. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8.h>

#include "gguf.h"

#define HEADER_MAX (256ll << 20) /* the largest known is below 20 MiB */
#define STRING_MAX (64ll << 20)
#define ARRAY_MAX (16ll << 20)   /* elements */
#define KVS_MAX (2ll << 20)
#define TENSORS_MAX (1ll << 20)
#define KEY_MAX 65535
#define NAME_MAX_BYTES 64
#define WINDOW (1ll << 20)
#define MIN_KV 14                /* bytes: 8 + 1 of key, 4 of type, 1 of value */
#define MIN_TENSOR 33            /* bytes: 8 + 1 of name, 4 + 8 of dims, 4 of type, 8 of offset */
#define ARRAY 9

static const struct { char kind; int8_t bytes; } value_types[] = {
	{ 'u', 1 }, { 'i', 1 }, { 'u', 2 }, { 'i', 2 }, { 'u', 4 }, { 'i', 4 }, { 'f', 4 },
	{ 'b', 1 }, { 's', 8 }, { 'a', 12 }, { 'u', 8 }, { 'i', 8 }, { 'f', 8 },
};
#define N_VALUE_TYPES (sizeof(value_types) / sizeof(*value_types))

/* By ggml's type numbers. 0 = none of that number, so each is kept plus one. */
static const int8_t dtypes[] = {
	[0] = 1 + NVLLM_F32, [1] = 1 + NVLLM_F16, [2] = 1 + NVLLM_Q4_0, [3] = 1 + NVLLM_Q4_1,
	[6] = 1 + NVLLM_Q5_0, [7] = 1 + NVLLM_Q5_1, [8] = 1 + NVLLM_Q8_0, [9] = 1 + NVLLM_Q8_1,
	[10] = 1 + NVLLM_Q2_K, [11] = 1 + NVLLM_Q3_K, [12] = 1 + NVLLM_Q4_K, [13] = 1 + NVLLM_Q5_K,
	[14] = 1 + NVLLM_Q6_K, [15] = 1 + NVLLM_Q8_K, [16] = 1 + NVLLM_IQ2_XXS,
	[17] = 1 + NVLLM_IQ2_XS, [18] = 1 + NVLLM_IQ3_XXS, [19] = 1 + NVLLM_IQ1_S,
	[20] = 1 + NVLLM_IQ4_NL, [21] = 1 + NVLLM_IQ3_S, [22] = 1 + NVLLM_IQ2_S,
	[23] = 1 + NVLLM_IQ4_XS, [24] = 1 + NVLLM_I8, [25] = 1 + NVLLM_I16, [26] = 1 + NVLLM_I32,
	[27] = 1 + NVLLM_I64, [28] = 1 + NVLLM_F64, [29] = 1 + NVLLM_IQ1_M, [30] = 1 + NVLLM_BF16,
	[34] = 1 + NVLLM_TQ1_0, [35] = 1 + NVLLM_TQ2_0, [39] = 1 + NVLLM_MXFP4,
};

int gguf_damaged(const struct nvllm_loader *l, const char *fmt, ...)
{
	char why[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return gguf_fail(l, NVLLM_EINVAL, "%s (header, byte %" PRId64 "): the file is damaged or "
		"incomplete, download it again", why, l->from);
}

/* ---- bytes, numbers, strings ---- */

/* The next n bytes of the header, which stay in memory; NULL and a sentence. */
static const uint8_t *take(struct nvllm_loader *l, int64_t n)
{
	struct gguf_file *f = l->file;
	int64_t left = f->size - f->at, len = left < WINDOW ? left : WINDOW;

	if (n > left) {
		gguf_damaged(l, "it ends within its header, at byte %" PRId64, f->size);
		return NULL;
	}
	if (n > HEADER_MAX - f->at) {
		gguf_damaged(l, "its header is larger than %lld bytes", HEADER_MAX);
		return NULL;
	}
	if (f->at + n > f->window_at + f->window_len) {
		f->window_len = 0;
		f->window_at = f->at;
		len = n > len ? n : len;
		f->window = gguf_alloc(l, len, 1);
		if (!f->window || gguf_read(l, f, f->window, len, f->at) < 0)
			return NULL;
		f->window_len = len;
	}
	f->at += n;
	return f->window + (f->at - n - f->window_at);
}

static uint64_t little(const uint8_t *p, int n)
{
	uint64_t v = 0;

	while (n-- > 0)
		v = v << 8 | p[n];
	return v;
}

static int take_int(struct nvllm_loader *l, int bytes, uint64_t *out)
{
	const uint8_t *p = take(l, bytes);

	if (!p)
		return NVLLM_EINVAL;
	*out = little(p, bytes);
	return NVLLM_OK;
}

static int take_str(struct nvllm_loader *l, const char *what, int64_t max, struct nvllm_str *out)
{
	uint64_t len, left;

	if (take_int(l, 8, &len) < 0)
		return NVLLM_EINVAL;
	left = (uint64_t)(l->file->size - l->file->at);
	if (len > left || len > (uint64_t)max)
		return gguf_damaged(l, "%s claims %" PRIu64 " bytes, of which %" PRId64 " are "
			"legal and %" PRIu64 " are left in the file", what, len, max, left);
	out->len = (int64_t)len;
	out->s = (const char *)take(l, out->len);
	return out->s ? NVLLM_OK : NVLLM_EINVAL;
}

size_t gguf_printable(const char *s, int64_t left)
{
	uint32_t c;
	size_t n = utf8_decode(s, (size_t)left, &c);

	return n && c >= 0x20 && (c < 0x7f || c > 0x9f) ? n : 0;
}

/* A key or a tensor's name; it may stand in messages from then on. */
static int take_name(struct nvllm_loader *l, const char *what, int64_t max, struct nvllm_str *out)
{
	size_t n;

	if (take_str(l, what, max, out) < 0)
		return NVLLM_EINVAL;
	if (out->len == 0)
		return gguf_damaged(l, "%s is empty", what);
	for (int64_t i = 0; i < out->len; i += (int64_t)n) {
		n = gguf_printable(out->s + i, out->len - i);
		if (n == 0)
			return gguf_damaged(l, "%s is not UTF-8 text: its byte %" PRId64
				" is 0x%02x", what, i, (unsigned char)out->s[i]);
	}
	return NVLLM_OK;
}

/* ---- metadata ---- */

/* Element i: integers and bools go to int32_t, floats to float. */
static void set_number(struct gguf_kv *kv, int64_t i, uint64_t v, int bytes)
{
	int shift = 64 - 8 * bytes;
	float f;

	if (kv->kind == 'f') {
		memcpy(&f, &(uint32_t){ (uint32_t)v }, 4);
		kv->real = f;
		if (bytes == 8)
			memcpy(&kv->real, &v, 8);
		((float *)kv->data)[i] = (float)kv->real;
		return;
	}
	if (kv->kind == 'i')
		v = (uint64_t)((int64_t)(v << shift) >> shift);
	if (kv->kind == 'b')
		v = v != 0;
	if (kv->kind == 'i' ? (int64_t)v != (int32_t)v : v > INT32_MAX)
		kv->wide = 1;
	kv->bits = v;
	((int32_t *)kv->data)[i] = (int32_t)v;
}

static int take_elements(struct nvllm_loader *l, struct gguf_kv *kv, int bytes)
{
	struct nvllm_str *s;
	int rc = 0;

	kv->data = kv->n == 1 ? &kv->one : gguf_alloc(l, kv->n, kv->kind == 's' ? sizeof(*s) : 4);
	if (!kv->data)
		return NVLLM_ENOMEM;
	s = kv->data;
	for (int64_t i = 0; i < kv->n && rc == 0; i++) {
		uint64_t v = 0;

		rc = kv->kind == 's' ? take_str(l, "a string", STRING_MAX, &s[i]) :
			take_int(l, bytes, &v);
		if (rc == 0 && kv->kind != 's')
			set_number(kv, i, v, bytes);
	}
	return rc;
}

static int take_kv(struct nvllm_loader *l, struct gguf_kv *kv)
{
	uint64_t type, n = 1;
	int64_t left;

	l->from = kv->from = l->file->at;
	if (take_name(l, "a key", KEY_MAX, &kv->name) < 0 || take_int(l, 4, &type) < 0)
		return NVLLM_EINVAL;
	kv->is_array = type == ARRAY;
	if (kv->is_array && (take_int(l, 4, &type) < 0 || take_int(l, 8, &n) < 0))
		return NVLLM_EINVAL;
	if (type == ARRAY)
		return gguf_fail(l, NVLLM_ENOTSUP, "key '%.*s' is an array of arrays, which this "
			"loader does not read: convert the model again", NAME(kv->name));
	if (type >= N_VALUE_TYPES)
		return gguf_damaged(l, "key '%.*s' has value type %" PRIu64 ", there are 0 to %zu",
			NAME(kv->name), type, N_VALUE_TYPES - 1);
	left = l->file->size - l->file->at;
	if (n > (uint64_t)left / (uint64_t)value_types[type].bytes || n > ARRAY_MAX)
		return gguf_damaged(l, "key '%.*s' claims %" PRIu64 " elements, of which %lld are "
			"legal and %" PRId64 " bytes are left in the file", NAME(kv->name), n,
			ARRAY_MAX, left);
	kv->n = (int64_t)n;
	kv->kind = value_types[type].kind;
	return take_elements(l, kv, value_types[type].bytes);
}

static int take_kvs(struct nvllm_loader *l)
{
	struct gguf_file *f = l->file;
	const struct gguf_kv *kv;
	const void *twice;
	int rc = 0;

	f->kvs = gguf_alloc(l, f->n_kvs, sizeof(*f->kvs));
	f->kv_index = gguf_alloc(l, f->n_kvs, sizeof(*f->kv_index));
	if (!f->kvs || !f->kv_index)
		return NVLLM_ENOMEM;
	for (int64_t i = 0; i < f->n_kvs && rc == 0; i++) {
		rc = take_kv(l, &f->kvs[i]);
		f->kv_index[i] = gguf_entry_of(&f->kvs[i].name);
	}
	if (rc < 0)
		return rc;
	kv = twice = gguf_sort(f->kv_index, f->n_kvs);
	if (!kv)
		return NVLLM_OK;
	l->from = kv->from;
	return gguf_damaged(l, "key '%.*s' occurs twice", NAME(kv->name));
}

/* ---- tensors ---- */

/* Shape and type, checked. The file's dimensions are cols, rows, planes, planes. */
static int take_shape(struct nvllm_loader *l, struct gguf_tensor *t)
{
	struct nvllm_tensor_info *f = &t->info;
	uint64_t n_dims, type, dims[4] = { 1, 1, 1, 1 };
	int64_t planes, rows;

	if (take_int(l, 4, &n_dims) < 0)
		return NVLLM_EINVAL;
	if (n_dims < 1 || n_dims > 4)
		return gguf_damaged(l, "tensor '%.*s' has %" PRIu64 " dimensions, 1 to 4 are legal",
			NAME(t->raw), n_dims);
	for (uint64_t i = 0; i < n_dims; i++) {
		if (take_int(l, 8, &dims[i]) < 0)
			return NVLLM_EINVAL;
		if (dims[i] < 1 || dims[i] > INT64_MAX)
			return gguf_damaged(l, "tensor '%.*s' has dimension %" PRId64, NAME(t->raw),
				(int64_t)dims[i]);
	}
	if (take_int(l, 4, &type) < 0)
		return NVLLM_EINVAL;
	if (type >= sizeof(dtypes) || !dtypes[type])
		return gguf_fail(l, NVLLM_ENOTSUP, "tensor '%.*s' (header, byte %" PRId64 ") has "
			"ggml type %" PRIu64 ", which is not known here: quantise the model to "
			"another type", NAME(t->raw), l->from, type);
	*f = (struct nvllm_tensor_info){ .size = sizeof(*f), .dtype = dtypes[type] - 1,
		.cols = (int64_t)dims[0], .rows = (int64_t)dims[1] };
	f->row_bytes = nvllm_row_bytes(f->dtype, f->cols);
	if (f->row_bytes < 0)
		return gguf_damaged(l, "tensor '%.*s' has rows of %" PRId64 " elements, no whole "
			"number of blocks of %" PRId64, NAME(t->raw), f->cols,
			nvllm_dtype_block(f->dtype, NULL));
	if (__builtin_mul_overflow(dims[2], dims[3], &planes) || planes > INT32_MAX ||
	    __builtin_mul_overflow(f->rows, planes, &rows) ||
	    __builtin_mul_overflow(rows, f->row_bytes, &t->bytes))
		return gguf_damaged(l, "tensor '%.*s' of %" PRIu64 " x %" PRIu64 " x %" PRIu64
			" x %" PRIu64 " elements is larger than any file", NAME(t->raw), dims[0],
			dims[1], dims[2], dims[3]);
	f->planes = (int32_t)planes;
	return NVLLM_OK;
}

static int take_tensor(struct nvllm_loader *l, struct gguf_tensor *t)
{
	uint64_t at;
	int rc;

	t->file = l->file;
	l->from = t->from = l->file->at;
	if (take_name(l, "a tensor's name", NAME_MAX_BYTES, &t->raw) < 0)
		return NVLLM_EINVAL;
	rc = take_shape(l, t);
	if (rc < 0)
		return rc;
	if (take_int(l, 8, &at) < 0)
		return NVLLM_EINVAL;
	if (at > INT64_MAX)
		return gguf_damaged(l, "tensor '%.*s' has offset %" PRIu64, NAME(t->raw), at);
	t->at = (int64_t)at;
	return gguf_translate(l, t);
}

static int alignment(const struct nvllm_loader *l, int64_t *out)
{
	const struct gguf_kv *kv = gguf_kv(l, "general.alignment");

	*out = kv ? (int64_t)kv->bits : 32;
	if (kv && (kv->kind != 'u' || kv->is_array))
		return gguf_damaged(l, "general.alignment is not an unsigned whole number");
	if (*out < 8 || *out > 4096 || (*out & (*out - 1)))
		return gguf_damaged(l, "general.alignment is %" PRId64 ", no power of two from 8 "
			"to 4096", *out);
	return NVLLM_OK;
}

static int by_place(const void *a, const void *b)
{
	const struct gguf_tensor *x = *(struct gguf_tensor *const *)a;
	const struct gguf_tensor *y = *(struct gguf_tensor *const *)b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* Offsets count from the first aligned byte after the header, and become the file's. */
static int place(struct nvllm_loader *l, struct gguf_tensor **order)
{
	struct gguf_file *f = l->file;
	int64_t align, data, left;

	if (alignment(l, &align) < 0)
		return NVLLM_EINVAL;
	data = (f->at + align - 1) / align * align;
	left = f->size > data ? f->size - data : 0;
	for (int64_t i = 0; i < f->n_tensors; i++) {
		struct gguf_tensor *t = order[i] = &f->tensors[i];

		l->from = t->from;
		if (t->at % align)
			return gguf_damaged(l, "tensor '%.*s' has offset %" PRId64 ", no multiple "
				"of the alignment %" PRId64, NAME(t->raw), t->at, align);
		if (t->at > left || t->bytes > left - t->at)
			return gguf_damaged(l, "tensor '%.*s' has %" PRId64 " bytes at offset %"
				PRId64 ", the file has %" PRId64 " bytes of data", NAME(t->raw),
				t->bytes, t->at, left);
		t->at += data;
	}
	qsort(order, (size_t)f->n_tensors, sizeof(*order), by_place);
	for (int64_t i = 1; i < f->n_tensors; i++) {
		l->from = order[i]->from;
		if (order[i]->at < order[i - 1]->at + order[i - 1]->bytes)
			return gguf_damaged(l, "tensors '%.*s' and '%.*s' overlap at byte %" PRId64,
				NAME(order[i - 1]->raw), NAME(order[i]->raw), order[i]->at);
	}
	return NVLLM_OK;
}

int gguf_tensors(struct nvllm_loader *l)
{
	struct gguf_file *f = l->file;
	struct gguf_tensor **order = gguf_alloc(l, f->n_tensors, sizeof(*order));
	int rc = 0;

	f->tensors = gguf_alloc(l, f->n_tensors, sizeof(*f->tensors));
	if (!f->tensors || !order)
		return NVLLM_ENOMEM;
	for (int64_t i = 0; i < f->n_tensors && rc == 0; i++)
		rc = take_tensor(l, &f->tensors[i]);
	return rc ? rc : place(l, order);
}

/* ---- the whole ---- */

static int take_count(struct nvllm_loader *l, const char *what, int64_t each, int64_t max,
	int64_t *out)
{
	int64_t left;
	uint64_t n;

	if (take_int(l, 8, &n) < 0)
		return NVLLM_EINVAL;
	left = l->file->size - l->file->at;
	if (n > (uint64_t)(left / each) || n > (uint64_t)max)
		return gguf_damaged(l, "it claims %" PRIu64 " %s, of which %" PRId64 " are legal "
			"and %" PRId64 " bytes are left in the file", n, what, max, left);
	*out = (int64_t)n;
	return NVLLM_OK;
}

int gguf_kvs(struct nvllm_loader *l)
{
	struct gguf_file *f = l->file;
	const uint8_t *magic = f->size < 4 ? NULL : take(l, 4);
	uint64_t version;

	if (f->size == 0)
		return gguf_fail(l, NVLLM_EINVAL, "the file is empty: download it again");
	if (f->size >= 4 && !magic)
		return NVLLM_EIO;
	if (!magic || memcmp(magic, "GGUF", 4))
		return gguf_fail(l, NVLLM_EINVAL, "no GGUF file, it does not begin with 'GGUF': "
			"download it again, or check [model] path");
	if (take_int(l, 4, &version) < 0)
		return NVLLM_EINVAL;
	if (version != 2 && version != 3)
		return gguf_fail(l, NVLLM_ENOTSUP, "%s version %" PRIu64 ": little-endian files of "
			"version 2 and 3 are read, convert the model again",
			version & 0xffff ? "GGUF" : "a big-endian file, or", version);
	if (take_count(l, "tensors", MIN_TENSOR, TENSORS_MAX, &f->n_tensors) < 0 ||
	    take_count(l, "metadata keys", MIN_KV, KVS_MAX, &f->n_kvs) < 0)
		return NVLLM_EINVAL;
	return take_kvs(l);
}
