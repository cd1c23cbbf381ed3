/* SPDX-License-Identifier: MIT */
/* spm_proto.c - decides what of a tokenizer.model counts. It is a ModelProto of
 * src/sentencepiece_model.proto in google/sentencepiece, in protobuf's wire format: fields of
 * a number and a wire type, each checked against the bytes that are left. Fields that are not
 * known are skipped, as protobuf has it. */
#include "spm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* What is left of a message. why is set by the first thing that is wrong. */
struct reader {
	const unsigned char *begin, *p, *end;
	const char *why;
};

struct field {
	uint32_t number, wire;
	uint64_t x;            /* WIRE_VARINT, WIRE_32 */
	const unsigned char *s; /* WIRE_BYTES: x of them */
};

static bool bad(struct reader *r, const char *why)
{
	if (!r->why)
		r->why = why;
	return false;
}

static bool varint(struct reader *r, uint64_t *x)
{
	*x = 0;
	for (int shift = 0; shift < 70; shift += 7) {
		if (r->p == r->end)
			return bad(r, "a number is cut off");
		if (shift < 64)
			*x |= (uint64_t)(*r->p & 0x7F) << shift;
		if (!(*r->p++ & 0x80))
			return true;
	}
	return bad(r, "a number has more than 10 bytes");
}

/* The next field; false at the end and where something is wrong. */
static bool next(struct reader *r, struct field *f)
{
	uint64_t tag, n;

	if (r->why || r->p == r->end || !varint(r, &tag))
		return false;
	*f = (struct field){ .number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7) };
	if (tag >> 3 == 0 || tag >> 32)
		return bad(r, "a field has an impossible number");
	if (f->wire == WIRE_VARINT)
		return varint(r, &f->x);
	n = f->wire == WIRE_64 ? 8 : 4;
	if (f->wire == WIRE_BYTES) {
		if (!varint(r, &n))
			return false;
		f->x = n;
		f->s = r->p;
	} else if (f->wire != WIRE_64 && f->wire != WIRE_32) {
		return bad(r, "a field has a wire type that is not known (groups are not read)");
	}
	if (n > (uint64_t)(r->end - r->p))
		return bad(r, "a field is longer than what is left");
	if (f->wire == WIRE_32)
		f->x = r->p[0] | (uint32_t)r->p[1] << 8 | (uint32_t)r->p[2] << 16 | (uint32_t)r->p[3] << 24;
	r->p += n;
	return true;
}

/* A field's message, at the place where it stands in the file. */
static struct reader inside(const struct reader *r, const struct field *f)
{
	return (struct reader){ r->begin, f->s, f->s + f->x, NULL };
}

static bool is(struct reader *r, const struct field *f, uint32_t wire)
{
	return f->wire == wire || bad(r, "a field has another wire type than its name wants");
}

/* enum spm_type has the file's own numbers. */
static void read_piece(struct reader *r, struct nvllm_str *text, float *score, uint8_t *type)
{
	struct field f;
	uint32_t bits;

	*type = SPM_NORMAL;
	while (next(r, &f)) {
		if (f.number == 1 && is(r, &f, WIRE_BYTES)) {
			*text = (struct nvllm_str){ (const char *)f.s, (int64_t)f.x };
		} else if (f.number == 2 && is(r, &f, WIRE_32)) {
			bits = (uint32_t)f.x;
			memcpy(score, &bits, sizeof(bits));
		} else if (f.number == 3 && is(r, &f, WIRE_VARINT)) {
			if (f.x < SPM_NORMAL || f.x > SPM_BYTE)
				bad(r, "a piece has a type that is not known");
			*type = (uint8_t)f.x;
		}
	}
}

static int64_t id_of(uint64_t x)
{
	return (int32_t)(uint32_t)x; /* an int32 is written with its sign in 64 bits */
}

static void read_trainer(struct reader *r, struct spm_source *s)
{
	struct field f;

	while (next(r, &f)) {
		int32_t *id = f.number == 41 ? &s->bos : f.number == 42 ? &s->eos :
			f.number == 43 ? &s->pad : NULL;

		if (f.number == 3 && is(r, &f, WIRE_VARINT))
			s->model = f.x <= 4 ? (int32_t)f.x : 0;
		else if (f.number == 24 && is(r, &f, WIRE_VARINT))
			s->space_after = f.x != 0;
		else if (f.number == 35 && is(r, &f, WIRE_VARINT))
			s->byte_fallback = f.x != 0;
		else if (id && is(r, &f, WIRE_VARINT))
			*id = (int32_t)id_of(f.x);
	}
}

static void read_normalizer(struct reader *r, struct spm_source *s)
{
	struct field f;

	while (next(r, &f)) {
		if (f.number == 2 && is(r, &f, WIRE_BYTES))
			s->charsmap = (struct nvllm_str){ (const char *)f.s, (int64_t)f.x };
		else if (f.number == 3 && is(r, &f, WIRE_VARINT))
			s->dummy_prefix = f.x != 0;
		else if (f.number == 4 && is(r, &f, WIRE_VARINT))
			s->squeeze_spaces = f.x != 0;
		else if (f.number == 5 && is(r, &f, WIRE_VARINT))
			s->escape_spaces = f.x != 0;
	}
}

/* All fields of the file; the pieces only if there is room for them. */
static void read_model(struct reader *r, struct spm_source *s, bool pieces)
{
	struct field f;
	int64_t n = 0;

	while (next(r, &f)) {
		struct reader in;

		if (f.number > 3 || !is(r, &f, WIRE_BYTES))
			continue;
		in = inside(r, &f);
		if (f.number == 1 && pieces)
			read_piece(&in, &s->tokens[n], &s->scores[n], &s->types[n]);
		else if (f.number == 2 && !pieces)
			read_trainer(&in, s);
		else if (f.number == 3 && !pieces)
			read_normalizer(&in, s);
		n += f.number == 1;
		if (in.why) {
			r->p = in.p;
			bad(r, in.why);
		}
	}
	s->n = n;
}

static int check_ids(const struct nvllm_host *host, const char *where, struct spm_source *s)
{
	int32_t *ids[] = { &s->bos, &s->eos, &s->pad };

	for (int i = 0; i < 3; i++)
		if (*ids[i] < 0 || *ids[i] >= s->n || s->types[*ids[i]] != SPM_CONTROL)
			*ids[i] = -1; /* the reference has none then */
	if (s->model != SPM_UNIGRAM && s->model != SPM_BPE)
		return host->fail(host, NVLLM_ENOTSUP,
			"%s: its model is neither Unigram nor BPE: 'word' and 'char' models are not read", where);
	return NVLLM_OK;
}

int spm_proto(const struct nvllm_host *host, const char *where, const void *data, size_t len,
	struct spm_source *s)
{
	const unsigned char *p = data;
	struct reader r = { p, p, p + len, NULL };
	int rc;

	*s = (struct spm_source){ .name = "tokenizer.model", .model = SPM_UNIGRAM, .dummy_prefix = true,
		.squeeze_spaces = true, .escape_spaces = true, .unk = -1, .bos = 1, .eos = 2, .pad = -1,
		.end = { -1, -1 } };
	read_model(&r, s, false);
	if (!r.why && (s->n < 1 || s->n > HF_MAX_IDS))
		return host->fail(host, NVLLM_EINVAL, "%s: it has %lld pieces; 1..%d are possible: is it a "
			"SentencePiece model?", where, (long long)s->n, HF_MAX_IDS);
	if (!r.why) {
		s->tokens = host->alloc(host, (size_t)s->n * sizeof(*s->tokens));
		s->scores = host->alloc(host, (size_t)s->n * sizeof(*s->scores));
		s->types = host->alloc(host, (size_t)s->n);
		if (!s->tokens || !s->scores || !s->types)
			return host->fail(host, NVLLM_ENOMEM, "no memory for %lld pieces", (long long)s->n);
		r.p = p;
		read_model(&r, s, true);
	}
	if (r.why)
		return host->fail(host, NVLLM_EINVAL,
			"%s: byte %zu: %s: it is no SentencePiece model, or damaged", where,
			(size_t)(r.p - p), r.why);
	rc = check_ids(host, where, s);
	s->add_bos = s->bos >= 0;
	return rc < 0 ? rc : spm_added_init(host, s, false);
}

/* A file that grows or shrinks meanwhile gives what was read. */
int spm_read_file(const struct nvllm_host *host, const char *path, size_t max, char **out,
	size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = NVLLM_OK;
	struct stat st;
	ssize_t n = 0;

	*len = 0;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		rc = host->fail(host, errno == ENOENT ? NVLLM_ENOENT : NVLLM_EIO, "%s: %s", path,
			fd >= 0 && !errno ? "is no file" : strerror(errno));
	} else if (st.st_size < 0 || (uint64_t)st.st_size > max) {
		rc = host->fail(host, NVLLM_EINVAL, "%s: it has %lld bytes; %zu are possible", path,
			(long long)st.st_size, max);
	} else {
		*out = host->alloc(host, (size_t)st.st_size + 1);
		if (!*out)
			rc = host->fail(host, NVLLM_ENOMEM, "no memory to read %s", path);
		while (!rc && *len < (size_t)st.st_size &&
			(n = read(fd, *out + *len, (size_t)st.st_size - *len)) > 0)
			*len += (size_t)n;
		if (!rc && n < 0)
			rc = host->fail(host, NVLLM_EIO, "%s: %s", path, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	return rc;
}
