/* SPDX-License-Identifier: MIT */
/* tests/unit/test_gguf_split.c - models in parts (NAME-00001-of-00003.gguf): read as one,
 * opened by any part's name, and refused where parts are missing or belong elsewhere. */
#include <sys/stat.h>

#include "gguf_host.h"
#include "gguf_put.h"

/* ---- three parts in a folder of their own ---- */

#define N_PARTS 3

static char dir[64];

static const char *part_path(int no)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/m-%05d-of-%05d.gguf", dir, no + 1, N_PARTS);
	return path;
}

/* Part 0 has the metadata; each has a tensor, part 1 another alignment, part 2 none of its own. */
static void put_part(struct file *f, int no)
{
	static const char *const names[] = { "token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight" };
	int align = no == 1 ? 128 : 32;

	put_begin(f, 1, no == 0 ? 6 : no == 1 ? 4 : 3);
	if (no == 0) {
		put_kv(f, "general.architecture", 8, 0, 0, "llama");
		put_kv(f, "llama.attention.head_count", 4, 2, 4, NULL);
		put_kv(f, "general.alignment", 4, 32, 4, NULL);
	}
	if (no == 1)
		put_kv(f, "general.alignment", 4, 128, 4, NULL);
	put_kv(f, "split.no", 2, (uint64_t)no, 2, NULL);
	put_kv(f, "split.count", 2, N_PARTS, 2, NULL);
	put_kv(f, "split.tensors.count", 5, N_PARTS, 4, NULL);
	put_tensor(f, names[no], no == 2 ? 1 : 2, 8, no == 0 ? 3 : 8, 0, 0);
	while (f->n % (size_t)align)
		f->n++;
	put(f, "data", "", "", 0);
	for (int i = 0; i < 256; i++)
		f->bytes[f->n++] = (uint8_t)(i * (5 + 2 * no));
}

static void write_file(const char *path, const struct file *f)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, f->bytes, f->n), (ssize_t)f->n);
	close(fd);
}

static void write_parts(struct file *f)
{
	for (int i = 0; i < N_PARTS; i++) {
		put_part(&f[i], i);
		write_file(part_path(i), &f[i]);
	}
}

static void check_parts(struct nvllm_loader *l, const struct file *f)
{
	uint8_t row[96];

	assert_string_equal(vt->meta(l, "architectures"), "LlamaForCausalLM");
	assert_string_equal(vt->meta(l, "vocab_size"), "3");
	assert_int_equal(vt->read(l, "model.embed_tokens.weight", 0, 0, 3, row), 0);
	assert_memory_equal(row, f[0].bytes + mark_at(&f[0], "data"), 96);
	/* heads of four rows: the file's rows 0 2 1 3 4 6 5 7 */
	assert_int_equal(vt->read(l, "model.layers.0.self_attn.q_proj.weight", 0, 5, 1, row), 0);
	assert_memory_equal(row, f[1].bytes + mark_at(&f[1], "data") + 6 * 32, 32);
	assert_int_equal(vt->read(l, "model.norm.weight", 0, 0, 1, row), 0);
	assert_memory_equal(row, f[2].bytes + mark_at(&f[2], "data"), 32);
}

static void test_parts(void **state)
{
	struct file f[N_PARTS];

	write_parts(f);
	for (int i = 0; i < N_PARTS; i++) {
		struct nvllm_loader *l = open_path(part_path(i));

		assert_int_equal(vt->probe(part_path(i)), 100);
		check_parts(l, f);
		done(l);
	}
}

/* A part that shrinks is named; the others can still be read. */
static void test_shrunk(void **state)
{
	struct file f[N_PARTS];
	struct nvllm_loader *l;
	uint8_t row[96];

	write_parts(f);
	l = open_path(part_path(0));
	assert_int_equal(truncate(part_path(2), 100), 0);
	assert_int_equal(vt->read(l, "model.norm.weight", 0, 0, 1, row), NVLLM_EIO);
	assert_non_null(strstr(sentence, "m-00003-of-00003.gguf: the file has shrunk"));
	assert_int_equal(vt->read(l, "model.embed_tokens.weight", 0, 0, 3, row), 0);
	done(l);
}

/* ---- parts that do not fit ---- */

/* At a mark of part `no`: n bytes of v, or a text. */
static const struct damage {
	int no;
	const char *at;
	int n;
	uint64_t v;
	const char *text, *word;
} damages[] = {
	{ 0, "split.count value", 2, 2, NULL, "not named like one: rename it to NAME-00001-of-00002.gguf" },
	{ 0, "split.count value", 2, 4, NULL, "not named like one" },
	{ 0, "split.count value", 2, 1025, NULL, "up to 1024" },
	{ 0, "split.no value", 2, 1, NULL, "it is part 2 of 3 of a split model: [model] path must name the first" },
	{ 0, "split.no value", 2, 3, NULL, "'split.no' is 3 of 3 parts" },
	{ 0, "split.no value", 2, 65535, NULL, "'split.no' is 65535 of 3 parts" },
	{ 0, "split.no type", 4, 3, NULL, NULL },
	{ 0, "split.no key", 0, 0, "split.nO", NULL },
	{ 0, "split.tensors.count value", 4, 4, NULL, "says 4 tensors, the 3 parts have 3" },
	{ 0, "split.tensors.count value", 4, UINT32_MAX, NULL, "'split.tensors.count' is not a count" },
	{ 0, "split.tensors.count value", 4, 0, NULL, NULL },
	{ 0, "split.tensors.count type", 4, 6, NULL, "'split.tensors.count' is not a count" },
	{ 1, "split.no value", 2, 2, NULL, "should be part 2 of 3 of the model, and says (keys split.no and "
		"split.count) that it is part 3 of 3" },
	{ 1, "split.no value", 2, 0, NULL, "that it is part 1 of 3" },
	{ 1, "split.no key", 0, 0, "split.nO", "that it is part 1 of 3" },
	{ 1, "split.count value", 2, 4, NULL, "that it is part 2 of 4" },
	{ 1, "split.count key", 0, 0, "split.counT", "that it is part 2 of 0" },
	{ 1, "general.alignment value", 4, 32, NULL, NULL },
	{ 1, "general.alignment value", 4, 7, NULL, "general.alignment is 7" },
	{ 1, "blk.0.attn_q.weight d1", 8, 9, NULL, "9 rows" },
	{ 1, "blk.0.attn_q.weight d1", 8, 80, NULL, "bytes at offset" },
	{ 1, "magic", 4, 0, NULL, "m-00002-of-00003.gguf: no GGUF file" },
	{ 2, "version", 4, 9, NULL, "m-00003-of-00003.gguf: GGUF version 9" },
	{ 2, "n_tensors", 8, UINT64_MAX, NULL, "m-00003-of-00003.gguf: it claims" },
};

static void test_damaged(void **state)
{
	int wrong = 0;

	for (size_t i = 0; i < sizeof(damages) / sizeof(*damages); i++) {
		const struct damage *d = &damages[i];
		struct nvllm_loader *l = NULL;
		struct file f[N_PARTS];
		int rc;

		write_parts(f);
		memcpy(f[d->no].bytes + mark_at(&f[d->no], d->at), d->text ? d->text : (const char *)&d->v,
			d->text ? strlen(d->text) : (size_t)d->n);
		write_file(part_path(d->no), &f[d->no]);
		sentence[0] = '\0';
		rc = vt->open(&host, part_path(0), NULL, &l);
		if (d->word ? rc >= 0 || !strstr(sentence, d->word) : rc < 0) {
			print_error("%d %s: gave %d \"%s\", which should contain \"%s\"\n", d->no, d->at, rc,
				sentence, d->word ? d->word : "(nothing)");
			wrong++;
		}
		if (rc == 0)
			vt->close(l);
		host_clear();
	}
	assert_int_equal(wrong, 0);
}

static void refused(const char *path, const char *word)
{
	struct nvllm_loader *l = NULL;

	sentence[0] = '\0';
	assert_true(vt->open(&host, path, NULL, &l) < 0);
	if (!strstr(sentence, word))
		fail_msg("\"%s\" should contain \"%s\"", sentence, word);
	host_clear();
}

static void test_missing(void **state)
{
	struct file f[N_PARTS];
	char path[256];

	write_parts(f);
	unlink(part_path(2));
	refused(part_path(0), "m-00003-of-00003.gguf: no such file: it is part 3 of 3 of the model");
	refused(part_path(2), "m-00003-of-00003.gguf: no such file; [model] path names");
	write_parts(f);
	unlink(part_path(0));
	refused(part_path(1), "m-00001-of-00003.gguf: no such file: it is part 1 of 3 of the model");
	write_parts(f); /* the same part under another name */
	snprintf(path, sizeof(path), "%s/other.gguf", dir);
	write_file(path, &f[1]);
	refused(path, "it is part 2 of 3 of a split model");
	write_file(path, &f[0]);
	refused(path, "rename it to NAME-00001-of-00003.gguf");
	write_file(part_path(1), &f[0]); /* a copy of the first as the second */
	refused(part_path(0), "that it is part 1 of 3");
	unlink(part_path(1));
	assert_int_equal(mkdir(part_path(1), 0700), 0);
	refused(part_path(0), "m-00002-of-00003.gguf: a folder");
	assert_int_equal(rmdir(part_path(1)), 0);
	unlink(path);
}

/* The same tensor in two parts: the second is named. */
static void test_twice(void **state)
{
	struct file f[N_PARTS];

	write_parts(f);
	put_begin(&f[2], 1, 3);
	put_kv(&f[2], "split.no", 2, 2, 2, NULL);
	put_kv(&f[2], "split.count", 2, N_PARTS, 2, NULL);
	put_kv(&f[2], "split.tensors.count", 5, N_PARTS, 4, NULL);
	put_tensor(&f[2], "token_embd.weight", 1, 8, 0, 0, 0);
	put_data(&f[2], 32);
	write_file(part_path(2), &f[2]);
	refused(part_path(0), "tensor 'token_embd.weight' occurs twice in the model's parts");
}

/* A file may be named like a part and be a whole model. */
static void test_whole(void **state)
{
	struct nvllm_loader *l;
	char path[256];
	struct file f;

	put_begin(&f, 0, 1);
	put_kv(&f, "general.architecture", 8, 0, 0, "llama");
	snprintf(path, sizeof(path), "%s/w-00001-of-00001.gguf", dir);
	write_file(path, &f);
	l = open_path(path);
	assert_string_equal(vt->meta(l, "architectures"), "LlamaForCausalLM");
	done(l);
	unlink(path);
	snprintf(path, sizeof(path), "%s/w-00001-of-00002.gguf", dir);
	write_file(path, &f);
	done(open_path(path));
	snprintf(path, sizeof(path), "%s/w-00002-of-00002.gguf", dir);
	write_file(path, &f);
	refused(path, "w-00001-of-00002.gguf: by its name it is the first of 2 parts");
	unlink(path);
	snprintf(path, sizeof(path), "%s/w-00001-of-00002.gguf", dir);
	unlink(path);
}

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/nvllm-gguf-XXXXXX");
	return mkdtemp(dir) ? open_plugin(state) : -1;
}

static int remove_dir(void **state)
{
	for (int i = 0; i < N_PARTS; i++)
		unlink(part_path(i));
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts), cmocka_unit_test(test_shrunk), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_missing), cmocka_unit_test(test_twice), cmocka_unit_test(test_whole),
	};

	return cmocka_run_group_tests_name("gguf_split", tests, make_dir, remove_dir);
}
