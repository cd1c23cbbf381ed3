/* SPDX-License-Identifier: MIT */
/* tests/conform/loader.c - a checkpoint format: what is no checkpoint is refused in a
 * sentence, whatever its bytes; and of a checkpoint given with --file, pieces read agree
 * with the whole, and copies cut short or with changed bytes crash nothing. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core.h"

#define HEAD_BYTES (1 << 20) /* of --file, for hostile copies */

static const char *const known_names[] = { "model.embed_tokens.weight", "model.norm.weight",
	"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
	"model.layers.0.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight",
	"lm_head.weight" };

static char dir[64];

static int open_at(const struct nvllm_component *c, const char *path, struct nvllm_loader **out)
{
	const struct nvllm_loader_vt *vt = c->vt;
	int err, status;
	const void *conf = ck_conf(c, NULL, &err);

	*out = NULL;
	if (err)
		return -1;
	fake_hush();
	status = vt->probe(path);
	if (status < 0 || status > 100)
		ck_bad("probe(%s) returned %d", path, status);
	status = ck_refusal(vt->open(fake_host(), path, conf, out), "open");
	if (status == 0 && !*out)
		ck_bad("open returned 0 and no instance");
	return status;
}

/* Opens a hostile file: a refusal, or an instance that can be asked and closed. */
static int try_bytes(const struct nvllm_component *c, const void *bytes, size_t n)
{
	const struct nvllm_loader_vt *vt = c->vt;
	struct nvllm_tensor_info info = { .size = sizeof(info) };
	struct nvllm_loader *l;
	char path[128];
	int fd, status;

	snprintf(path, sizeof(path), "%s/file.gguf", dir);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
		return ck_bad("cannot write %s", path);
	close(fd);
	status = open_at(c, path, &l);
	if (status == 0 && l) {
		vt->meta(l, "hidden_size");
		vt->find(l, known_names[0], &info);
		vt->close(l);
	}
	unlink(path);
	return status;
}

static void check_hostile(const struct nvllm_component *c)
{
	static const char *const starts[] = { "", "GGUF", "GGUF\3\0\0\0", "\177ELF", "{\"a\":" };
	static const size_t lens[] = { 0, 4, 8, 4, 5 };
	unsigned char *junk = malloc(65536);
	struct nvllm_loader *l;
	struct rng r = { 3 };

	ck_begin("paths that are no checkpoint are refused");
	for (int i = 0; i < 4; i++) {
		static const char *const paths[] = { "/nonexistent/model.gguf", "", "/",
			"/dev/null" };

		if (open_at(c, paths[i], &l) == 0)
			ck_bad("open took '%s'", paths[i]);
	}
	ck_end();
	ck_begin("random bytes after a likely beginning are refused");
	for (int round = 0; round < 200 && ck_good() && junk; round++) {
		size_t which = (size_t)round % 5,
		       n = lens[which] + (size_t)rng_int(&r, round < 100 ? 64 : 60000);

		for (size_t i = 0; i < n; i++)
			junk[i] = (unsigned char)(round % 2 ? rng_u64(&r)
					: rng_u64(&r) % 3   ? 0
							    : 0xFF);
		memcpy(junk, starts[which], lens[which]);
		if (try_bytes(c, junk, n) == 0)
			ck_bad("open took %zu random bytes", n);
	}
	ck_end();
	free(junk);
}

/* ---- with --file ---- */

static void check_tensor(const struct nvllm_loader_vt *vt, struct nvllm_loader *l, const char *name)
{
	struct nvllm_tensor_info t = { .size = sizeof(t) };
	int64_t step, n = 0;
	char *whole, *part;

	if (vt->find(l, name, &t))
		return;
	if (t.rows < 1 || t.cols < 1 || t.planes < 1 ||
		t.row_bytes != nvllm_row_bytes(t.dtype, t.cols)) {
		ck_bad("%s: %ld x %ld of type %d, %ld bytes a row", name, (long)t.rows,
			(long)t.cols, t.dtype, (long)t.row_bytes);
		return;
	}
	whole = gmem_get("all rows of a tensor", t.rows * t.row_bytes, 1);
	if (!whole || vt->read(l, name, 0, 0, t.rows, whole)) {
		ck_bad("%s: reading all rows: %s", name, whole ? fake_said() : "no memory");
		return;
	}
	step = t.rows / 7 + 1;
	for (int64_t row = 0; row < t.rows && ck_good(); row += n) {
		n = row + step < t.rows ? step : t.rows - row;
		part = gmem_get("some rows of a tensor", n * t.row_bytes, 1);
		if (vt->read(l, name, 0, row, n, part) ||
			memcmp(part, whole + row * t.row_bytes, (size_t)(n * t.row_bytes)))
			ck_bad("%s: rows %ld to %ld read alone differ from the whole", name,
				(long)row, (long)(row + n - 1));
		gmem_put(part);
	}
	fake_hush();
	if (vt->read(l, name, 0, t.rows, 1, whole) >= 0 ||
		vt->read(l, name, 0, -1, 1, whole) >= 0 ||
		vt->read(l, name, 0, 1, t.rows, whole) >= 0 ||
		vt->read(l, name, t.planes, 0, 1, whole) >= 0)
		ck_bad("%s: read takes rows or planes that there are not", name);
	gmem_put(whole);
}

static void check_file(const struct nvllm_component *c)
{
	const struct nvllm_loader_vt *vt = c->vt;
	struct nvllm_tensor_info info = { .size = sizeof(info) };
	struct nvllm_array a = { .size = sizeof(a) };
	struct nvllm_loader *l;
	const char *arch;

	ck_begin("opens the file, knows its architecture");
	if (open_at(c, ck_opts->file, &l) == 0 && l) {
		arch = vt->meta(l, "architectures");
		if (!arch || !*arch)
			ck_bad("meta(\"architectures\") is NULL");
		if (vt->meta(l, "no such key") ||
			vt->find(l, "no such tensor", &info) != NVLLM_ENOENT ||
			vt->array(l, "no such array", &a) != NVLLM_ENOENT)
			ck_bad("it finds keys and tensors that do not exist");
		ck_end();
		ck_begin("ranges of rows agree with whole tensors");
		for (size_t i = 0; i < sizeof(known_names) / sizeof(*known_names) && ck_good(); i++)
			check_tensor(vt, l, known_names[i]);
		vt->close(l);
	} else {
		ck_bad("refused: %s", fake_said());
	}
	ck_end();
}

/* The header of --file cut at many places, and with bytes changed. */
static void check_mutations(const struct nvllm_component *c)
{
	unsigned char *head = malloc(HEAD_BYTES), *copy = malloc(HEAD_BYTES);
	int fd = open(ck_opts->file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 || !head || !copy ? -1 : read(fd, head, HEAD_BYTES);
	struct rng r = { 17 };

	ck_begin("the file cut short or with changed bytes crashes nothing");
	if (n <= 0) {
		ck_skip("%s cannot be read as one file", ck_opts->file);
	} else {
		for (int round = 0; round < 150 && ck_good(); round++) {
			ssize_t len = round % 2
				? n
				: 1 + (ssize_t)rng_int(&r, round < 60 && n > 2000 ? 2000 : n);
			ssize_t reach = round % 3 && len > 4096 ? 4096 : len;

			memcpy(copy, head, (size_t)len);
			for (int i = 0; i < 4 && round % 2; i++)
				copy[rng_int(&r, reach)] = (unsigned char)rng_u64(&r);
			try_bytes(c, copy, (size_t)len);
		}
		ck_end();
	}
	if (fd >= 0)
		close(fd);
	free(head), free(copy);
}

void suite_loader(const struct nvllm_component *c)
{
	snprintf(dir, sizeof(dir), "/tmp/nvllm-check-XXXXXX");
	if (!mkdtemp(dir)) {
		ck_skip("no temporary folder");
		return;
	}
	check_hostile(c);
	if (ck_opts->file) {
		check_file(c);
		check_mutations(c);
	} else {
		ck_skip("tensors of a checkpoint: pass --file PATH");
	}
	rmdir(dir);
}
