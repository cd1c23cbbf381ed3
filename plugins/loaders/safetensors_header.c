/* SPDX-License-Identifier: MIT */
/* plugins/loaders/safetensors_header.c - which .safetensors files are whole and sound: what
 * the reference implementation takes (the safetensors crate, tensor.rs) and its README
 * demands. 8 bytes of length, little-endian, a JSON object, then data without overlap,
 * hole or rest. Types that nobody reads may be of any kind. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "safetensors.h"

#define HEADER_MAX 100000000ll     /* as the reference implementation has it */
#define VALUES_MAX (10u << 20)     /* JSON values: a tensor has 8 or 9 */
#define DEPTH_MAX 16

/* Bits of an element. dtype -1: nvllm has no such type, the tensor is not shown. */
static const struct { const char *name; int bits, dtype; } types[] = {
	{ "BF16", 16, NVLLM_BF16 }, { "F16", 16, NVLLM_F16 }, { "F32", 32, NVLLM_F32 },
	{ "F8_E4M3", 8, NVLLM_F8_E4M3 }, { "F8_E5M2", 8, NVLLM_F8_E5M2 }, { "F64", 64, NVLLM_F64 },
	{ "I8", 8, NVLLM_I8 }, { "I16", 16, NVLLM_I16 }, { "I32", 32, NVLLM_I32 },
	{ "I64", 64, NVLLM_I64 }, { "BOOL", 8, -1 }, { "U8", 8, -1 }, { "U16", 16, -1 },
	{ "U32", 32, -1 }, { "U64", 64, -1 }, { "C64", 64, -1 }, { "F8_E8M0", 8, -1 },
	{ "F4", 4, -1 }, { "F6_E2M3", 6, -1 }, { "F6_E3M2", 6, -1 },
};

/* What is at hand while one file is checked. */
struct header {
	const struct nvllm_loader *l;
	struct st_file *f;
	cJSON *json;
	char *names;   /* room for the tensors' names, filled as they come */
};

#define DAMAGED "the file is damaged or incomplete, download it again"

/* ---- JSON files ---- */

static int slurp(const struct nvllm_loader *l, struct st_file *f, int64_t n, int64_t at, char **out)
{
	int rc;

	*out = malloc((size_t)n + 1);
	if (!*out)
		return st_fail(l, NVLLM_ENOMEM, f->path, "no memory for %" PRId64 " bytes of it",
			n);
	rc = st_read(l, f, *out, n, at);
	if (rc < 0) {
		free(*out);
		*out = NULL;
	}
	return rc;
}

int st_json(const struct nvllm_loader *l, const char *path, const char *hint,
	const struct json_limits *limits, cJSON **out)
{
	struct st_file f = { .path = path };
	struct json_error err;
	char *text;
	int rc;

	*out = NULL;
	f.fd = st_open(l, path, hint, &f.size);
	if (f.fd < 0)
		return f.fd;
	if ((size_t)f.size > limits->max_bytes)
		rc = st_fail(l, NVLLM_EINVAL, path, "it has %" PRId64 " bytes, such a file has %zu "
			"at most", f.size, limits->max_bytes);
	else
		rc = slurp(l, &f, f.size, 0, &text);
	close(f.fd);
	if (rc < 0)
		return rc;
	if (json_parse(text, (size_t)f.size, limits, out, &err) < 0)
		rc = st_fail(l, NVLLM_EINVAL, path, "line %d is no JSON: %s", err.line, err.why);
	else if (!cJSON_IsObject(*out))
		rc = st_fail(l, NVLLM_EINVAL, path, "it holds no JSON object");
	free(text);
	if (rc < 0)
		cJSON_Delete(*out);
	if (rc < 0)
		*out = NULL;
	return rc;
}

/* ---- one tensor ---- */

static int bad(const struct header *h, const char *name, const char *why)
{
	return st_fail(h->l, NVLLM_EINVAL, h->f->path, "tensor '%.80s': %s: " DAMAGED, name, why);
}

/* data_offsets within the data. */
static int take_offsets(const struct header *h, const cJSON *v, const char *name,
	struct st_tensor *t)
{
	const cJSON *at = json_get(v, "data_offsets"), *begin = at ? at->child : NULL;

	if (!cJSON_IsArray(at) || cJSON_GetArraySize(at) != 2 || json_int64(begin, &t->begin) < 0 ||
	    json_int64(begin->next, &t->end) < 0 || t->begin < 0 || t->end < t->begin)
		return bad(h, name, "data_offsets is no pair of byte offsets in order");
	if (t->end > h->f->size - h->f->data)
		return st_fail(h->l, NVLLM_EINVAL, h->f->path, "tensor '%.80s' ends at byte "
			"%" PRId64 " of the data, of which the file has %" PRId64 ": " DAMAGED,
			name, t->end, h->f->size - h->f->data);
	return NVLLM_OK;
}

/* Multiplies out the shape; one or two dimensions are rows, a third one planes. */
static int take_shape(const struct header *h, const cJSON *v, const char *name, struct st_tensor *t,
	int64_t *elements)
{
	const cJSON *shape = json_get(v, "shape");
	int64_t last[3] = { 1, 1, 1 }, n;
	int dims = 0;

	*elements = 1;
	if (!cJSON_IsArray(shape))
		return bad(h, name, "shape is no list");
	for (const cJSON *d = shape->child; d; d = d->next, dims++) {
		if (json_int64(d, &n) < 0 || n < 0)
			return bad(h, name, "shape has an element that is no size");
		if (__builtin_mul_overflow(*elements, n, elements))
			return bad(h, name, "the product of its shape does not fit 64 bits");
		last[0] = last[1];
		last[1] = last[2];
		last[2] = n;
	}
	if (dims > 3 || *elements == 0 || last[0] > INT32_MAX)
		return NVLLM_OK; /* rows stay 0 */
	t->planes = (int32_t)last[0];
	t->rows = last[1];
	t->cols = last[2];
	return NVLLM_OK;
}

static int take_type(const struct header *h, const cJSON *v, const char *name, struct st_tensor *t,
	int64_t elements)
{
	const cJSON *type = json_get(v, "dtype");
	int64_t bits;

	t->dtype = -1;
	if (!cJSON_IsString(type))
		return bad(h, name, "dtype is no word");
	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		if (strcmp(types[i].name, type->valuestring))
			continue;
		t->dtype = types[i].dtype;
		if (__builtin_mul_overflow(elements, (int64_t)types[i].bits, &bits))
			return bad(h, name, "the product of its shape does not fit 64 bits");
		if (bits % 8 || bits / 8 != t->end - t->begin)
			return st_fail(h->l, NVLLM_EINVAL, h->f->path, "tensor '%.80s': %" PRId64
				" elements of type %s are not the %" PRId64 " bytes that "
				"data_offsets says: " DAMAGED, name, elements, types[i].name,
				t->end - t->begin);
	}
	return NVLLM_OK;
}

static int take_tensor(struct header *h, const cJSON *v, struct st_tensor *t)
{
	size_t len = strlen(v->string) + 1;
	int64_t elements;
	int rc;

	if (!cJSON_IsObject(v))
		return bad(h, v->string, "not described by an object");
	rc = take_offsets(h, v, v->string, t);
	if (rc == 0)
		rc = take_shape(h, v, v->string, t, &elements);
	if (rc == 0)
		rc = take_type(h, v, v->string, t, elements);
	if (rc < 0)
		return rc;
	t->name = memcpy(h->names, v->string, len);
	h->names += len;
	return NVLLM_OK;
}

/* ---- one file ---- */

/* Strings by their names, and nothing that is needed. */
static int check_metadata(const struct header *h, const cJSON *v)
{
	int good = cJSON_IsObject(v);

	for (const cJSON *m = v->child; good && m; m = m->next)
		good = cJSON_IsString(m);
	return good ? NVLLM_OK : st_fail(h->l, NVLLM_EINVAL, h->f->path, "__metadata__ is no "
		"object of strings: " DAMAGED);
}

static int take_tensors(struct header *h, int32_t file)
{
	struct st_file *f = h->f;
	size_t bytes = 0;
	int rc = NVLLM_OK;

	for (const cJSON *v = h->json->child; v; v = v->next) {
		bytes += strlen(v->string) + 1;
		f->n += strcmp(v->string, "__metadata__") != 0;
	}
	f->tensors = st_alloc(h->l, f->n, sizeof(*f->tensors));
	h->names = st_alloc(h->l, (int64_t)bytes, 1);
	if (!f->tensors || !h->names)
		return NVLLM_ENOMEM;
	f->n = 0;
	for (const cJSON *v = h->json->child; v && rc == 0; v = v->next) {
		if (!strcmp(v->string, "__metadata__")) {
			rc = check_metadata(h, v);
			continue;
		}
		f->tensors[f->n].file = file;
		rc = take_tensor(h, v, &f->tensors[f->n++]);
	}
	return rc;
}

static int by_place(const void *a, const void *b)
{
	const struct st_tensor *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

/* Each tensor begins where the one before ends, the last ends with the file. */
static int check_places(const struct header *h)
{
	const struct st_file *f = h->f;
	int64_t at = 0;

	qsort(f->tensors, (size_t)f->n, sizeof(*f->tensors), by_place);
	for (int64_t i = 0; i < f->n; at = f->tensors[i++].end) {
		const struct st_tensor *t = &f->tensors[i];

		if (t->begin != at)
			return st_fail(h->l, NVLLM_EINVAL, f->path, "tensor '%.80s' begins at byte "
				"%" PRId64 " of the data, the one before it ends at %" PRId64
				" (%s): " DAMAGED, t->name, t->begin, at, t->begin < at ? "they overlap" :
				"nothing claims what is between");
	}
	if (at != f->size - f->data)
		return st_fail(h->l, NVLLM_EINVAL, f->path, "%" PRId64 " bytes follow after the "
			"last tensor: " DAMAGED, f->size - f->data - at);
	return NVLLM_OK;
}

/* The length before the header; what else the file may be instead. */
static int take_length(const struct header *h, int64_t *out)
{
	struct st_file *f = h->f;
	uint8_t b[16] = { 0 };
	uint64_t n = 0;
	int rc;

	if (f->size < 8)
		return st_fail(h->l, NVLLM_EINVAL, f->path, "it has %" PRId64 " bytes, which is no "
			"safetensors file: " DAMAGED, f->size);
	rc = st_read(h->l, f, b, f->size < 16 ? f->size : 16, 0);
	if (rc < 0)
		return rc;
	for (int i = 7; i >= 0; i--)
		n = n << 8 | b[i];
	if (!memcmp(b, "version https://", 16))
		return st_fail(h->l, NVLLM_EINVAL, f->path, "a Git LFS pointer, not the file "
			"itself: run `git lfs pull` in its folder");
	if (n > HEADER_MAX)
		return st_fail(h->l, NVLLM_EINVAL, f->path, "its header claims %" PRIu64 " bytes, "
			"legal are %lld: no safetensors file, or damaged; download it again", n,
			HEADER_MAX);
	if (n > (uint64_t)f->size - 8)
		return st_fail(h->l, NVLLM_EINVAL, f->path, "its header claims %" PRIu64 " bytes, "
			"the file has %" PRId64 " after the length: " DAMAGED, n, f->size - 8);
	if (n < 2 || b[8] != '{')
		return st_fail(h->l, NVLLM_EINVAL, f->path, "no '{' begins its header: no "
			"safetensors file, or damaged; download it again");
	*out = (int64_t)n;
	return NVLLM_OK;
}

static int take_header(struct header *h)
{
	const struct json_limits limits = { HEADER_MAX, VALUES_MAX, DEPTH_MAX };
	struct json_error err;
	char *text;
	int64_t n = 0;
	int rc = take_length(h, &n);

	if (rc == 0)
		rc = slurp(h->l, h->f, n, 8, &text);
	if (rc < 0)
		return rc;
	h->f->data = 8 + n;
	if (json_parse(text, (size_t)n, &limits, &h->json, &err) < 0)
		rc = st_fail(h->l, NVLLM_EINVAL, h->f->path, "its header is no JSON at byte %zu: "
			"%s: " DAMAGED, 8 + err.offset, err.why);
	free(text);
	return rc;
}

int st_header(struct nvllm_loader *l, int32_t i, const char *hint)
{
	struct header h = { .l = l, .f = &l->files[i] };
	int rc;

	h.f->fd = st_open(l, h.f->path, hint, &h.f->size);
	if (h.f->fd < 0)
		return h.f->fd;
	posix_fadvise(h.f->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* the kernel reads further ahead */
	rc = take_header(&h);
	if (rc == 0)
		rc = take_tensors(&h, i);
	if (rc == 0)
		rc = check_places(&h);
	cJSON_Delete(h.json);
	return rc;
}
