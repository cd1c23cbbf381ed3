/* SPDX-License-Identifier: MIT */
/* tests/conform/loader.c - a checkpoint format: what is no checkpoint is refused in a
 * sentence, whatever its bytes; and of a checkpoint given with --file (a file or a folder),
 * pieces read agree with the whole, and copies cut short or with changed bytes crash
 * nothing. */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core.h"

#define HEAD_BYTES (1 << 20) /* of --file, for hostile copies */
#define MAX_FILES 16         /* of a folder, likewise */

static const char *const known_names[] = { "model.embed_tokens.weight", "model.norm.weight",
	"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
	"model.layers.0.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight",
	"model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.0.up_proj.weight",
	"model.layers.0.mlp.experts.*.gate_proj.weight", "model.layers.0.mlp.experts.*.up_proj.weight",
	"model.layers.0.mlp.experts.*.down_proj.weight", "lm_head.weight" };

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

/* Bytes as dir/name, in place of what was there. */
static int put_bytes(const char *name, const void *bytes, size_t n)
{
	char path[384];
	int fd;

	snprintf(path, sizeof(path), "%s/%.255s", dir, name);
	unlink(path);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
		return ck_bad("cannot write %s", path);
	return close(fd);
}

/* Opens what may be hostile: a refusal, or an instance that can be asked and closed. */
static int try_path(const struct nvllm_component *c, const char *path)
{
	const struct nvllm_loader_vt *vt = c->vt;
	struct nvllm_tensor_info info = { .size = sizeof(info) };
	struct nvllm_loader *l;
	int status = open_at(c, path, &l);

	if (status == 0 && l) {
		vt->meta(l, "hidden_size");
		vt->find(l, known_names[0], &info);
		vt->close(l);
	}
	return status;
}

static int try_bytes(const struct nvllm_component *c, const void *bytes, size_t n)
{
	char path[128];
	int status;

	if (put_bytes("file.gguf", bytes, n))
		return -1;
	snprintf(path, sizeof(path), "%s/file.gguf", dir);
	status = try_path(c, path);
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

/* Pieces of a plane against the whole of it. */
static void check_plane(const struct nvllm_loader_vt *vt, struct nvllm_loader *l, const char *name,
	const struct nvllm_tensor_info *t, int32_t plane)
{
	int64_t step = t->rows / 7 + 1, n = 0;
	char *whole = gmem_get("all rows of a tensor", t->rows * t->row_bytes, 1), *part;

	if (!whole || vt->read(l, name, plane, 0, t->rows, whole)) {
		ck_bad("%s: reading all rows of plane %d: %s", name, plane,
			whole ? fake_said() : "no memory");
		return;
	}
	for (int64_t row = 0; row < t->rows && ck_good(); row += n) {
		n = row + step < t->rows ? step : t->rows - row;
		part = gmem_get("some rows of a tensor", n * t->row_bytes, 1);
		if (vt->read(l, name, plane, row, n, part) ||
			memcmp(part, whole + row * t->row_bytes, (size_t)(n * t->row_bytes)))
			ck_bad("%s: rows %ld to %ld of plane %d read alone differ from the whole",
				name, (long)row, (long)(row + n - 1), plane);
		gmem_put(part);
	}
	fake_hush();
	if (vt->read(l, name, plane, t->rows, 1, whole) >= 0 ||
		vt->read(l, name, plane, -1, 1, whole) >= 0 ||
		vt->read(l, name, plane, 1, t->rows, whole) >= 0)
		ck_bad("%s: read takes rows that there are not", name);
	gmem_put(whole);
}

static void check_tensor(const struct nvllm_loader_vt *vt, struct nvllm_loader *l, const char *name)
{
	struct nvllm_tensor_info t = { .size = sizeof(t) };
	char row[8];

	fake_hush();
	if (vt->find(l, name, &t)) {
		if (*fake_said())
			ck_bad("%s: find keeps a sentence for what is not there", name);
		return;
	}
	if (t.rows < 1 || t.cols < 1 || t.planes < 1 || t.size != sizeof(t) ||
		t.row_bytes != nvllm_row_bytes(t.dtype, t.cols)) {
		ck_bad("%s: %d planes of %ld x %ld of type %d, %ld bytes a row", name, t.planes,
			(long)t.rows, (long)t.cols, t.dtype, (long)t.row_bytes);
		return;
	}
	if (strchr(name, '*') && t.planes < 2)
		ck_bad("%s: '*' stands for experts, and it has one plane", name);
	for (int32_t plane = 0; plane < t.planes && ck_good() && !(vt->flags & NVLLM_LOADER_DUMMY); plane++)
		check_plane(vt, l, name, &t, plane);
	if (vt->read(l, name, t.planes, 0, 1, row) >= 0 || vt->read(l, name, -1, 0, 1, row) >= 0)
		ck_bad("%s: read takes planes that there are not", name);
}

/* Values that the core or a model reads by more than their text. */
static void check_meta(const struct nvllm_loader_vt *vt, struct nvllm_loader *l)
{
	static const char *const lists[] = { "generation.eos_token_id", "vocab_size",
		"num_hidden_layers", "hidden_size" };
	const char *arch = vt->meta(l, "architectures"), *name = vt->meta(l, "name"), *text;

	if (!arch || !*arch || strpbrk(arch, " [\""))
		ck_bad("meta(\"architectures\") is '%s', not one name", arch ? arch : "NULL");
	if (name && !*name)
		ck_bad("meta(\"name\") is empty");
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		text = vt->meta(l, lists[i]);
		if (text && (!*text || text[strspn(text, "0123456789 ")]))
			ck_bad("meta(\"%s\") is '%s', no numbers with spaces", lists[i], text);
	}
	if (vt->meta(l, "rope_scaling.type") && !vt->meta(l, "rope_scaling.rope_type"))
		ck_bad("rope_scaling.type without rope_scaling.rope_type");
	if (vt->meta(l, "torch_dtype") && !vt->meta(l, "dtype"))
		ck_bad("torch_dtype without dtype");
	if (vt->meta(l, "no such key") || vt->meta(l, ""))
		ck_bad("it finds keys that do not exist");
}

static void check_file(const struct nvllm_component *c)
{
	const struct nvllm_loader_vt *vt = c->vt;
	struct nvllm_tensor_info info = { .size = sizeof(info) };
	struct nvllm_array a = { .size = sizeof(a) };
	struct nvllm_loader *l;

	ck_begin("opens the file, knows its architecture");
	if (open_at(c, ck_opts->file, &l) == 0 && l) {
		check_meta(vt, l);
		if (vt->find(l, "no such tensor", &info) != NVLLM_ENOENT ||
			vt->find(l, "no.experts.*.up_proj.weight", &info) != NVLLM_ENOENT ||
			vt->find(l, "", &info) != NVLLM_ENOENT ||
			vt->array(l, "no such array", &a) != NVLLM_ENOENT)
			ck_bad("it finds tensors and arrays that do not exist");
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

/* One changed copy after another of the n bytes at head. name: of a folder's file, NULL =
 * it is the checkpoint. */
static void mutate(const struct nvllm_component *c, const unsigned char *head, ssize_t n,
	const char *name, int rounds)
{
	unsigned char *copy = malloc(HEAD_BYTES);
	struct rng r = { 17 };

	for (int round = 0; round < rounds && ck_good() && copy; round++) {
		ssize_t len = round % 2
			? n
			: 1 + (ssize_t)rng_int(&r, round < 60 && n > 2000 ? 2000 : n);
		ssize_t reach = round % 3 && len > 4096 ? 4096 : len;

		memcpy(copy, head, (size_t)len);
		for (int i = 0; i < 4 && round % 2; i++)
			copy[rng_int(&r, reach)] = (unsigned char)rng_u64(&r);
		if (!name)
			try_bytes(c, copy, (size_t)len);
		else if (!put_bytes(name, copy, (size_t)len))
			try_path(c, dir);
	}
	free(copy);
}

/* The first bytes of a file; -1: it has none, or cannot be read. */
static ssize_t read_head(const char *path, unsigned char *head)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 || !head ? -1 : read(fd, head, HEAD_BYTES);

	if (fd >= 0)
		close(fd);
	return n > 0 ? n : -1;
}

static void unlink_in_dir(const char *name)
{
	char path[384];

	snprintf(path, sizeof(path), "%s/%.255s", dir, name);
	unlink(path);
}

/* Links to all files of the folder, of which one after another becomes a changed copy. */
static void mutate_folder(const struct nvllm_component *c, DIR *d, unsigned char *head)
{
	char *real = realpath(ck_opts->file, NULL), from[4608], to[384], names[MAX_FILES][256];
	struct dirent *e;
	int n_names = 0;
	ssize_t n;

	while (real && n_names < MAX_FILES && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(names[n_names], sizeof(names[0]), "%s", e->d_name);
		snprintf(from, sizeof(from), "%.4096s/%s", real, e->d_name);
		snprintf(to, sizeof(to), "%s/%.255s", dir, names[n_names++]);
		if (symlink(from, to))
			ck_bad("cannot link to %s", from);
	}
	if (ck_good() && try_path(c, dir))
		ck_bad("a folder of links is refused: %s", fake_said());
	for (int i = 0; i < n_names && ck_good(); i++) {
		snprintf(from, sizeof(from), "%.4096s/%.255s", real, names[i]);
		snprintf(to, sizeof(to), "%s/%.255s", dir, names[i]);
		n = read_head(from, head);
		if (n > 0)
			mutate(c, head, n, names[i], 150 / n_names);
		unlink(to);
		if (symlink(from, to))
			ck_bad("cannot link to %s", from);
	}
	for (int i = 0; i < n_names; i++)
		unlink_in_dir(names[i]);
	free(real);
}

/* --file cut at many places, and with bytes changed; of a folder each of its files. */
static void check_mutations(const struct nvllm_component *c)
{
	unsigned char *head = malloc(HEAD_BYTES);
	DIR *d = opendir(ck_opts->file);
	ssize_t n = d ? 0 : read_head(ck_opts->file, head);

	ck_begin("the file cut short or with changed bytes crashes nothing");
	if (n < 0) {
		ck_skip("%s cannot be read", ck_opts->file);
	} else {
		if (d)
			mutate_folder(c, d, head);
		else
			mutate(c, head, n, NULL, 150);
		ck_end();
	}
	if (d)
		closedir(d);
	free(head);
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
