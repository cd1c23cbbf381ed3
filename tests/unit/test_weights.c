/* SPDX-License-Identifier: MIT */
/* tests/unit/test_weights.c - what weights.c fetches for the ranks of a group: put together,
 * or multiplied and summed, it is what the checkpoint's whole tensors give. */
#include <math.h>

#include "gguf_host.h"

#include "cut_models.h"

#define MAX_WORLD 16

/* ---- a checkpoint in memory: whole numbers made from a tensor's name and place ---- */

struct made { const char *name; int32_t dtype; int64_t rows, cols; int32_t planes; }; /* planes 0: 1 */
struct nvllm_loader { const struct made *list; int64_t rows_read; };

static float made_at(const struct made *m, int64_t r, int64_t c)
{
	uint64_t x = (uint64_t)(r * 4099 + c) * 0x9E3779B97F4A7C15u + (uint64_t)m->name[0] * 77 + strlen(m->name);

	return (float)((int64_t)((x ^ x >> 29) * 0xBF58476D1CE4E5B9u >> 40) % 17 - 8);
}

static const struct made *made_find(struct nvllm_loader *l, const char *name)
{
	for (const struct made *m = l->list; m->name; m++)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

static int find_made(struct nvllm_loader *l, const char *name, struct nvllm_tensor_info *f)
{
	const struct made *m = made_find(l, name);

	if (!m)
		return NVLLM_ENOENT;
	f->dtype = m->dtype;
	f->rows = m->rows;
	f->cols = m->cols;
	f->row_bytes = nvllm_row_bytes(m->dtype, m->cols);
	f->planes = m->planes ? m->planes : 1;
	return 0;
}

/* Rows of the planes of one tensor follow each other. */
static void encode(const struct made *m, int64_t r, char *to)
{
	for (int64_t c = 0; c < m->cols; c++) {
		float x = made_at(m, r, c);
		uint32_t bits;

		memcpy(&bits, &x, 4);
		if (m->dtype == NVLLM_F32) {
			memcpy(to + 4 * c, &bits, 4);
		} else if (m->dtype == NVLLM_BF16) {
			memcpy(to + 2 * c, (char *)&bits + 2, 2);
		} else { /* Q8_0: 32 signed bytes after a scale of 1, as f16 */
			memcpy(to + c / 32 * 34, &(uint16_t){ 0x3c00 }, 2);
			to[c / 32 * 34 + 2 + c % 32] = (char)(int8_t)x;
		}
	}
}

static int read_made(struct nvllm_loader *l, const char *name, int32_t plane, int64_t row, int64_t n, void *dst)
{
	const struct made *m = made_find(l, name);

	assert_true(m && plane >= 0 && plane < (m->planes ? m->planes : 1) && row >= 0 && n > 0 && row + n <= m->rows);
	for (int64_t i = 0; i < n; i++)
		encode(m, plane * m->rows + row + i, (char *)dst + i * nvllm_row_bytes(m->dtype, m->cols));
	l->rows_read += n;
	return 0;
}

static const struct nvllm_loader_vt made_vt = { .size = sizeof(made_vt), .find = find_made, .read = read_made };

/* ---- a device that keeps weights as they come, and vectors as f32 ---- */

struct nvllm_device { int32_t layout; };

static float half(uint16_t h)
{
	int e = h >> 10 & 31, f = h & 1023;
	double x = e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);

	return (float)(h >> 15 ? -x : x);
}

static void decode(int32_t dtype, const char *from, int64_t n, float *to)
{
	for (int64_t c = 0; c < n; c++) {
		uint32_t bits = 0;
		uint16_t s;

		switch (dtype) {
		case NVLLM_F32:
			memcpy(&to[c], from + 4 * c, 4);
			break;
		case NVLLM_BF16:
			memcpy((char *)&bits + 2, from + 2 * c, 2);
			memcpy(&to[c], &bits, 4);
			break;
		case NVLLM_Q8_0:
			memcpy(&s, from + c / 32 * 34, 2);
			to[c] = half(s) * (float)(int8_t)from[c / 32 * 34 + 2 + c % 32];
			break;
		default:
			fail_msg("type %d", dtype);
		}
	}
}

static int64_t dev_store(struct nvllm_device *d, struct nvllm_tensor *t)
{
	assert_true(t->rows > 0 && t->cols > 0 && !t->data);
	assert_true(t->stride == nvllm_row_bytes(t->dtype, t->cols));
	t->layout = d->layout;
	t->plane_stride = t->planes > 1 ? t->rows * t->stride : 0;
	return t->planes * t->rows * t->stride;
}

static int dev_upload(struct nvllm_device *d, const struct nvllm_tensor *t, int32_t plane, int64_t row, int64_t n,
	const void *src, int32_t dtype, int64_t stride)
{
	assert_true(plane >= 0 && plane < t->planes && row >= 0 && n > 0 && row + n <= t->rows);
	for (int64_t i = 0; i < n; i++) {
		const char *from = (const char *)src + i * stride;
		char *to = (char *)t->data + plane * t->plane_stride + (row + i) * t->stride;

		if (dtype == t->dtype)
			memcpy(to, from, (size_t)nvllm_row_bytes(dtype, t->cols));
		else
			decode(dtype, from, t->cols, (float *)(void *)to);
	}
	return 0;
}

static const struct nvllm_device_vt dev_vt = { .size = sizeof(dev_vt), .store = dev_store, .upload = dev_upload };

/* in_reach: its memory is the host's, so rows that it keeps as they are may be read there */
static const struct nvllm_device_info apart = { .size = sizeof(apart) },
	in_reach = { .size = sizeof(in_reach), .caps = NVLLM_DEV_HOST_MEM };

static void init(struct weights *w, const struct nvllm_loader_ref *l, struct nvllm_device *d, const struct cuts *c, void *mem)
{
	struct nvllm_device_ref ref = { sizeof(ref), &dev_vt, d, c->world % 2 ? &in_reach : &apart };

	weights_init(w, l, &ref, c, 0, mem);
}

/* ---- weights of all ranks ---- */

struct want { int cut; int64_t rows, cols; const char *name; };

struct ranks {
	int world;
	struct cuts cuts[MAX_WORLD];
	char *mem[MAX_WORLD];
	struct nvllm_tensor t[MAX_WORLD][16];
};

static int bind(struct weights *w, const struct want *list, struct nvllm_tensor *t)
{
	w->pub.layer = 1;
	for (int i = 0; list[i].name; i++)
		t[i] = w->pub.get(&w->pub, list[i].cut, list[i].rows, list[i].cols, "%s", list[i].name);
	return w->pub.status;
}

/* As the engine does it: dry; where blocks are cut, divided anew and dry again; for real. */
static int rank_open(struct ranks *k, int r, const struct model *m, const struct nvllm_loader_ref *l,
	const struct want *list, struct nvllm_device *d)
{
	int64_t unit = 1, bytes;
	struct weights w;
	int rc;

	k->mem[r] = NULL;
	for (int tries = 0;; tries++) {
		assert_true(tries < 2);
		assert_int_equal(cuts_make(&k->cuts[r], &m->arch, r, k->world, unit), 0);
		init(&w, l, d, &k->cuts[r], NULL);
		rc = bind(&w, list, k->t[r]);
		bytes = w.bytes;
		weights_finish(&w);
		if (rc || !w.unit_wanted)
			break;
		unit = w.unit_wanted;
		cuts_free(&k->cuts[r]);
	}
	if (rc)
		return rc;
	k->mem[r] = aligned_alloc(256, (size_t)bytes + 256);
	init(&w, l, d, &k->cuts[r], k->mem[r]);
	rc = bind(&w, list, k->t[r]);
	assert_int_equal(w.bytes, bytes);
	weights_finish(&w);
	return rc;
}

static void ranks_open(struct ranks *k, int world, const struct model *m, const struct nvllm_loader_ref *l,
	const struct want *list)
{
	struct nvllm_device d = { 0 };

	k->world = world;
	for (int r = 0; r < world; r++)
		if (rank_open(k, r, m, l, list, &d))
			fail_msg("rank %d of %d: %s", r, world, fail_text());
}

static void ranks_close(struct ranks *k)
{
	for (int r = 0; r < k->world; r++) {
		cuts_free(&k->cuts[r]);
		free(k->mem[r]);
	}
}

/* y[i] = row i of t times x; of a vector: its elements. */
static void times(const struct nvllm_tensor *t, const double *x, bool vec, double *y)
{
	float *row = calloc((size_t)t->cols + 1, sizeof(*row));

	for (int64_t i = 0; i < t->rows; i++) {
		decode(t->dtype, (char *)t->data + i * t->stride, t->cols, row);
		for (int64_t j = 0; j < t->cols; j++) {
			if (vec)
				y[j] = (double)row[j];
			else
				y[i] = (j ? y[i] : 0) + (double)row[j] * x[j];
		}
	}
	free(row);
}

/* The same of the checkpoint's own tensors, one after another. */
static void times_whole(const struct nvllm_loader_ref *l, const struct want *w, const double *x, double *y)
{
	const char *open = strchr(w->name, '{'), *at = open ? open + 1 : w->name;

	for (bool more = true; more;) {
		int len = (int)strcspn(at, ",}");
		struct nvllm_tensor_info f = { .size = sizeof(f) };
		struct nvllm_tensor t;
		char name[256];

		snprintf(name, sizeof(name), "%.*s%.*s%s", open ? (int)(open - w->name) : 0, w->name, len, at,
			open ? strchr(open, '}') + 1 : "");
		assert_int_equal(l->vt->find(l->loader, name, &f), 0);
		t = (struct nvllm_tensor){ .data = malloc((size_t)(f.rows * f.row_bytes)), .rows = f.rows, .cols = f.cols,
			.stride = f.row_bytes, .dtype = f.dtype };
		assert_int_equal(l->vt->read(l->loader, name, 0, 0, f.rows, t.data), 0);
		times(&t, x, !w->cols, y);
		y += w->cols ? f.rows : f.cols;
		free(t.data);
		more = at[len] == ',';
		at += len + 1;
	}
}

/* Where row i of what rank r holds lies in the whole. */
static int64_t row_of(const struct cuts *c, const struct want *w, int64_t i)
{
	int64_t d = c->whole[1]->head_dim, q = c->whole[1]->n_heads * d, kv = c->whole[1]->n_kv_heads * d;
	int64_t mq = c->q[1].n * d, mkv = c->kv[1].n * d;

	switch (w->cut) {
	case NVLLM_CUT_VOCAB:
		return c->vocab.first + i;
	case NVLLM_CUT_ROWS:
		return i / c->ffn.n * c->ffn_total + c->ffn.first + i % c->ffn.n;
	case NVLLM_CUT_HEADS:
		if (w->rows == kv && kv != q)
			return c->kv[1].first * d + i;
		if (i < mq)
			return c->q[1].first * d + i;
		i -= mq;
		return q + i / mkv * kv + c->kv[1].first * d + i % mkv;
	default:
		return i;
	}
}

static int64_t col_of(const struct cuts *c, const struct want *w)
{
	return w->cut == NVLLM_CUT_COLS ? c->ffn.first
		: w->cut == NVLLM_CUT_HEADS_IN ? c->q[1].first * c->whole[1]->head_dim : 0;
}

/* The ranks' rows put together, or their products summed, are the whole's. */
static void check_weight(const struct nvllm_loader_ref *l, const struct ranks *k, const struct want *w, int n)
{
	bool sum = w->cut == NVLLM_CUT_COLS || w->cut == NVLLM_CUT_HEADS_IN, vec = !w->cols;
	double *x = calloc((size_t)w->cols + 1, sizeof(*x)), *want = calloc((size_t)w->rows, sizeof(*want));
	double *got = calloc((size_t)w->rows, sizeof(*got)), *y = calloc((size_t)w->rows, sizeof(*y));
	char *seen = calloc((size_t)w->rows, 1);

	for (int64_t j = 0; j < w->cols; j++)
		x[j] = (double)(below(41) - 20);
	times_whole(l, w, x, want);
	for (int r = 0; r < k->world; r++) {
		const struct nvllm_tensor *t = &k->t[r][n];
		int64_t rows = vec ? t->cols : t->rows;

		assert_int_equal(t->cut, w->cut);
		assert_true(t->rows >= 0 && t->cols >= 0 && !t->data == (!t->rows || !t->cols));
		assert_true(!sum || t->rows == w->rows);
		assert_true(sum || vec || t->cols == w->cols);
		if (!t->data)
			continue;
		times(t, x + col_of(&k->cuts[r], w), vec, y);
		for (int64_t i = 0; i < rows; i++) {
			int64_t at = row_of(&k->cuts[r], w, i);

			assert_true(at >= 0 && at < w->rows);
			assert_true(sum || !seen[at] || got[at] == y[i]); /* copies are alike */
			seen[at] = 1;
			got[at] = sum ? got[at] + y[i] : y[i];
		}
	}
	for (int64_t i = 0; i < w->rows; i++)
		if (!seen[i] || fabs(got[i] - want[i]) > (sum ? 1e-9 * (1 + fabs(want[i])) : 0))
			fail_msg("%s, world %d: row %d is %g, not %g", w->name, k->world, (int)i, got[i], want[i]);
	free(x), free(want), free(got), free(y), free(seen);
}

static void check_all(const struct model *m, const struct nvllm_loader_ref *l, const struct want *list, int world)
{
	struct ranks *k = calloc(1, sizeof(*k));

	ranks_open(k, world, m, l, list);
	for (int i = 0; list[i].name; i++)
		check_weight(l, k, &list[i], i);
	ranks_close(k);
	free(k);
}

#define L "model.layers.1."
static void test_gguf(void **state)
{
	static const struct want list[] = {
		{ NVLLM_CUT_VOCAB, 1111, 128, "model.embed_tokens.weight" },
		{ NVLLM_WHOLE, 128, 0, "model.norm.weight" },
		{ NVLLM_CUT_HEADS, 512, 128, L "self_attn.{q,k,v}_proj.weight" },
		{ NVLLM_CUT_HEADS, 256, 128, L "self_attn.q_proj.weight" },
		{ NVLLM_CUT_HEADS, 128, 128, L "self_attn.v_proj.weight" },
		{ NVLLM_CUT_HEADS_IN, 128, 256, L "self_attn.o_proj.weight" },
		{ NVLLM_CUT_ROWS, 704, 128, L "mlp.{gate,up}_proj.weight" },
		{ NVLLM_CUT_COLS, 128, 352, L "mlp.down_proj.weight" },
		{ NVLLM_WHOLE, 128, 352, L "mlp.down_proj.weight" },
		{ 0, 0, 0, NULL },
	};
	static const int worlds[] = { 1, 2, 3, 4, 6, 12 };
	struct nvllm_loader *g = open_path("tests/data/gguf/llama3.q8_0.gguf");
	struct nvllm_loader_ref l = { .size = sizeof(l), .vt = vt, .loader = g };
	struct model m;

	tiny(&m);
	for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++)
		check_all(&m, &l, list, worlds[i]);
	done(g);
}

/* Six query heads of 32 on two KV heads; the parts of a join differ in type; vectors. */
static const struct made made[] = {
	{ "q_proj.weight", NVLLM_Q8_0, 192, 64 }, { "k_proj.weight", NVLLM_Q8_0, 64, 64 }, { "v_proj.weight", NVLLM_BF16, 64, 64 },
	{ "q_proj.bias", NVLLM_F32, 1, 192 }, { "k_proj.bias", NVLLM_BF16, 1, 64 }, { "v_proj.bias", NVLLM_F32, 1, 64 },
	{ "o_proj.weight", NVLLM_Q8_0, 50, 192 }, { "o_proj.bias", NVLLM_Q8_0, 1, 64 },
	{ "gate.weight", NVLLM_BF16, 100, 7 }, { "up.weight", NVLLM_BF16, 100, 7 }, { "down.weight", NVLLM_F32, 7, 100 },
	{ "up.bias", NVLLM_BF16, 1, 100 }, { "head.weight", NVLLM_F32, 33, 3 }, { "head.bias", NVLLM_F32, 1, 33 },
	{ "wide.weight", NVLLM_Q8_0, 7, 32768 * 32 }, { NULL, 0, 0, 0 },
};

static void test_made(void **state)
{
	static const struct want list[] = {
		{ NVLLM_CUT_HEADS, 320, 64, "{q,k,v}_proj.weight" }, { NVLLM_CUT_HEADS, 320, 0, "{q,k,v}_proj.bias" },
		{ NVLLM_CUT_HEADS, 192, 0, "q_proj.bias" }, { NVLLM_CUT_HEADS, 64, 0, "k_proj.bias" },
		{ NVLLM_CUT_HEADS_IN, 50, 192, "o_proj.weight" }, { NVLLM_WHOLE, 64, 0, "o_proj.bias" },
		{ NVLLM_CUT_ROWS, 200, 7, "{gate,up}.weight" }, { NVLLM_CUT_COLS, 7, 100, "down.weight" },
		{ NVLLM_CUT_ROWS, 200, 0, "{up,up}.bias" }, { NVLLM_CUT_VOCAB, 33, 3, "head.weight" },
		{ NVLLM_CUT_VOCAB, 33, 0, "head.bias" }, { NVLLM_WHOLE, 320, 0, "{q,k,v}_proj.bias" },
		{ 0, 0, 0, NULL },
	};
	static const struct want wide[] = { { NVLLM_WHOLE, 7, 32768 * 32, "wide.weight" }, { 0, 0, 0, NULL } };
	struct nvllm_loader loader = { .list = made };
	struct nvllm_loader_ref l = { .size = sizeof(l), .vt = &made_vt, .loader = &loader };
	struct model m;

	make(&m, 6, 2, 32, 64, 100, 33);
	for (int world = 1; world <= 8; world++)
		check_all(&m, &l, list, world);
	check_all(&m, &l, wide, 1); /* larger than what is read at once */
}

/* A rank reads the rows it holds and no other. */
static void test_rows_read(void **state)
{
	static const struct want list[] = {
		{ NVLLM_CUT_HEADS, 320, 64, "{q,k,v}_proj.weight" }, { NVLLM_CUT_ROWS, 200, 7, "{gate,up}.weight" },
		{ NVLLM_CUT_VOCAB, 33, 3, "head.weight" }, { 0, 0, 0, NULL },
	};
	struct nvllm_loader loader = { .list = made };
	struct nvllm_loader_ref l = { .size = sizeof(l), .vt = &made_vt, .loader = &loader };
	struct ranks *k = calloc(1, sizeof(*k));
	int64_t rows = 0;
	struct model m;

	make(&m, 6, 2, 32, 64, 100, 33);
	ranks_open(k, 3, &m, &l, list);
	for (int r = 0; r < 3; r++)
		for (int i = 0; i < 3; i++)
			rows += k->t[r][i].rows;
	assert_int_equal(loader.rows_read, rows);
	ranks_close(k);
	free(k);
}

static int fetch_one(const struct model *m, int rank, int world, bool dry, struct want want, int32_t layout,
	int64_t *unit, struct nvllm_tensor *t)
{
	struct nvllm_loader loader = { .list = made };
	struct nvllm_loader_ref l = { .size = sizeof(l), .vt = &made_vt, .loader = &loader };
	struct nvllm_device d = { layout };
	struct want list[] = { want, { 0, 0, 0, NULL } };
	char *mem = malloc(1 << 20);
	struct weights w;
	struct cuts c;
	int rc;

	assert_int_equal(cuts_make(&c, &m->arch, rank, world, 1), 0);
	init(&w, &l, &d, &c, dry ? NULL : mem);
	rc = bind(&w, list, t);
	*unit = w.unit_wanted;
	weights_finish(&w);
	cuts_free(&c);
	free(mem);
	return rc;
}

static void says(const char *word)
{
	if (!strstr(fail_text(), word))
		fail_msg("'%s' does not say '%s'", fail_text(), word);
}

static void test_blocks(void **state)
{
	const struct want o = { NVLLM_CUT_HEADS_IN, 50, 192, "o_proj.weight" }, down = { NVLLM_CUT_COLS, 50, 192, "o_proj.weight" };
	const struct want vec = { NVLLM_CUT_ROWS, 64, 0, "o_proj.bias" }, qkv = { NVLLM_CUT_HEADS, 320, 0, "{q,k,v}_proj.bias" };
	struct nvllm_tensor t;
	struct model m;
	int64_t unit;

	make(&m, 12, 2, 16, 64, 192, 33); /* heads of half a block */
	assert_int_equal(fetch_one(&m, 0, 2, true, o, 0, &unit, &t), 0);
	assert_int_equal(unit, 0);
	assert_int_equal(fetch_one(&m, 0, 4, true, o, 0, &unit, &t), NVLLM_EINVAL);
	says("o_proj.weight");
	says("blocks of 32");
	says("[engine] tp");
	assert_int_equal(fetch_one(&m, 3, 4, false, o, 0, &unit, &t), NVLLM_EINVAL);
	/* the MLP asks for larger units when dry, and refuses when it was not asked */
	assert_int_equal(fetch_one(&m, 0, 4, true, down, 0, &unit, &t), 0);
	assert_int_equal(unit, 32);
	assert_true(t.cols == 48 && t.rows == 50 && !t.data);
	assert_int_equal(fetch_one(&m, 0, 4, false, down, 0, &unit, &t), NVLLM_EINVAL);
	/* a vector in blocks; a device with a form of its own for joined vectors */
	make(&m, 6, 2, 32, 64, 64, 33);
	assert_int_equal(fetch_one(&m, 1, 2, false, vec, 0, &unit, &t), 0);
	assert_int_equal(fetch_one(&m, 1, 4, false, vec, 0, &unit, &t), NVLLM_EINVAL);
	says("o_proj.bias");
	assert_int_equal(fetch_one(&m, 1, 2, false, qkv, 5, &unit, &t), NVLLM_ENOTSUP);
	says("q_proj.bias");
	/* a size that is not the cut's is refused by name, also at world 1 */
	assert_int_equal(fetch_one(&m, 0, 1, true, (struct want){ NVLLM_CUT_COLS, 50, 192, "o_proj.weight" }, 0, &unit, &t),
		NVLLM_EINVAL);
	says("tensor 'o_proj.weight': 192 columns");
}

/* Two experts, in tensors of their own and in planes of one: each plane is what the expert's
 * own weight would be. */
static void test_experts(void **state)
{
	static const struct made list[] = {
		{ "a.0.gate", NVLLM_BF16, 64, 32, 0 }, { "a.0.up", NVLLM_BF16, 64, 32, 0 }, { "a.0.down", NVLLM_Q8_0, 5, 64, 0 },
		{ "b.1.gate", NVLLM_BF16, 64, 32, 0 }, { "a.1.gate", NVLLM_BF16, 64, 32, 0 }, { "a.1.up", NVLLM_BF16, 64, 32, 0 },
		{ "a.1.down", NVLLM_Q8_0, 5, 64, 0 }, { "p.*.down", NVLLM_F32, 7, 64, 3 }, { "odd.0.down", NVLLM_F32, 5, 64, 0 },
		{ "odd.1.down", NVLLM_BF16, 5, 64, 0 }, { NULL, 0, 0, 0, 0 },
	};
	struct nvllm_loader loader = { .list = list };
	struct nvllm_loader_ref l = { .size = sizeof(l), .vt = &made_vt, .loader = &loader };
	static char mem[1 << 18];
	struct nvllm_device d = { 0 };
	struct model m;

	make(&m, 6, 2, 32, 64, 64, 33);
	m.arch.moe_ffn = 64;
	for (int world = 1; world <= 3; world++)
		for (int r = 0; r < world; r++) {
			struct nvllm_tensor all, down, planes, one;
			struct weights w;
			struct cuts c;
			float x[64];

			assert_int_equal(cuts_make(&c, &m.arch, r, world, 32), 0);
			init(&w, &l, &d, &c, mem);
			all = w.pub.experts(&w.pub, NVLLM_CUT_ROWS, 2, 128, 32, "a.*.{gate,up}");
			down = w.pub.experts(&w.pub, NVLLM_CUT_COLS, 2, 5, 64, "a.*.down");
			planes = w.pub.experts(&w.pub, NVLLM_WHOLE, 3, 7, 64, "p.*.down");
			assert_int_equal(w.pub.status, 0);
			assert_true(all.planes == 2 && down.planes == 2 && planes.planes == 3);
			for (int e = 0; e < 2 && all.rows; e++) {
				one = w.pub.get(&w.pub, NVLLM_CUT_ROWS, 128, 32, "a.%d.{gate,up}", e);
				assert_int_equal(one.rows, all.rows);
				assert_memory_equal(one.data, (char *)all.data + e * all.plane_stride, one.rows * one.stride);
				one = w.pub.get(&w.pub, NVLLM_CUT_COLS, 5, 64, "a.%d.down", e);
				assert_int_equal(one.stride, down.stride);
				assert_memory_equal(one.data, (char *)down.data + e * down.plane_stride, one.rows * one.stride);
			}
			assert_int_equal(w.pub.status, 0);
			for (int k = 0; k < 21; k++) {
				encode(&list[7], k, (char *)x);
				assert_memory_equal((char *)planes.data + k / 7 * planes.plane_stride + k % 7 * planes.stride, x, sizeof(x));
			}
			w.pub.experts(&w.pub, NVLLM_CUT_COLS, 4, 7, 64, "p.*.down");
			says("'p.*.down' has 3 experts, the configuration says 4");
			w.pub.status = 0;
			w.pub.experts(&w.pub, NVLLM_CUT_COLS, 2, 5, 64, "odd.*.down");
			says("odd.1.down");
			w.pub.status = 0;
			w.pub.experts(&w.pub, NVLLM_CUT_COLS, 2, 5, 64, "b.*.down");
			says("b.0.down");
			w.pub.status = 0;
			w.pub.experts(&w.pub, NVLLM_CUT_HEADS, 2, 5, 64, "a.*.down");
			assert_int_equal(w.pub.status, NVLLM_EINVAL);
			weights_finish(&w);
			cuts_free(&c);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_gguf, open_plugin),
		cmocka_unit_test(test_made),
		cmocka_unit_test(test_rows_read),
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_experts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
