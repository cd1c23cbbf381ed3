/* SPDX-License-Identifier: MIT */
/* tests/conform/mirror.c - decides how suites that know guarded host memory alone try a
 * device whose memory is its own: every guarded memory has a twin in one slab on the device.
 * A call copies the slab there, makes the call with the twins' addresses, waits, and copies
 * the slab back; slack and the gaps between twins are compared, so a kernel that writes
 * outside is found as it is on the host. Reads outside meet other bytes than on the host. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

#define GAP 4096 /* between twins */
#define GAP_BYTE 0xA7
#define MAX_ROWS 64 /* of a sampler's call */
#define MAX_LAYERS 16

static struct mirror {
	struct nvllm_device_ref real;
	nvllm_stream stream;
	unsigned char *far, *near; /* the slab, and its image on its way */
	int64_t room, used; /* of the slab */
	struct nvllm_device_vt vt;
	struct nvllm_kernels kernels;
	struct nvllm_attention_vt attention;
	const struct nvllm_attention_vt *real_attention;
	int n_layers;
	void *kv[MAX_LAYERS]; /* outlives the instance */
	struct nvllm_sampler_vt sampler;
	const struct nvllm_sampler_vt *real_sampler;
} M;

bool mirror_on(void)
{
	return M.far != NULL;
}

/* ---- twins ---- */

/* The first place where the memory fits between those that have one. */
static int64_t place(size_t bytes)
{
	int64_t at = 0, need = (int64_t)bytes + GAP;
	struct gmem_view v;
	bool moved = true;

	while (moved) {
		moved = false;
		for (int i = 0; gmem_view(i, &v); i++)
			if (v.bytes && *v.far >= 0 && *v.far < at + need &&
				at < *v.far + (int64_t)v.bytes + GAP) {
				at = *v.far + (int64_t)v.bytes + GAP;
				moved = true;
			}
	}
	return at;
}

/* The address of the twin of an address. */
static void *far(const void *p)
{
	const unsigned char *at = p;
	struct gmem_view v;

	for (int i = 0; p && gmem_view(i, &v); i++)
		if (v.bytes && at >= v.body && at <= v.body + v.bytes)
			return M.far + *v.far + (at - v.body);
	if (p)
		ck_bad("the suite handed the device an address that is in no guarded memory");
	return NULL;
}

static struct nvllm_tensor far_t(struct nvllm_tensor t)
{
	if (!t.rows || !t.cols) /* nothing: a kernel looks at no address of it */
		t.data = NULL;
	t.data = far(t.data);
	t.scale = far(t.scale);
	return t;
}

/* A device that failed once fails for ever: no use to go on. */
static void lost(const char *what, int status)
{
	ck_bad("%s returned %d: %s; the rest of the suite was not run", what, status, fake_said());
	ck_end();
	fflush(stdout);
	_exit(0);
}

static int push(void)
{
	struct gmem_view v;
	int status;

	ck_step_driver(true); /* from here on: its threads go on when a call has returned */
	M.used = 0;
	for (int i = 0; gmem_view(i, &v); i++) {
		int64_t end;

		if (!v.bytes)
			continue;
		if (*v.far < 0)
			*v.far = place(v.bytes);
		end = *v.far + (int64_t)v.bytes + GAP;
		M.used = end > M.used ? end : M.used;
	}
	if (M.used > M.room) {
		ck_bad("the suite needs %ld bytes on the device, more than it took", (long)M.used);
		return NVLLM_ENOMEM;
	}
	memset(M.near, GAP_BYTE, (size_t)M.used);
	for (int i = 0; gmem_view(i, &v); i++)
		if (v.bytes)
			memcpy(M.near + *v.far, v.body, v.bytes);
	status = M.real.vt->copy(M.real.dev, M.stream, M.far, M.near, M.used);
	status = status ? status : M.real.vt->sync(M.real.dev, M.stream);
	if (status)
		lost("copy to the device", status);
	return NVLLM_OK;
}

static int pull(int status)
{
	struct gmem_view v;
	int rc = M.real.vt->copy(M.real.dev, M.stream, M.near, M.far, M.used);

	rc = rc ? rc : M.real.vt->sync(M.real.dev, M.stream);
	if (rc)
		lost("what was enqueued", rc);
	for (int i = 0; gmem_view(i, &v); i++) {
		if (!v.bytes)
			continue;
		memcpy(v.body, M.near + *v.far, v.bytes);
		memset(M.near + *v.far, GAP_BYTE, v.bytes);
	}
	for (int64_t i = 0; i < M.used; i++)
		if (M.near[i] != GAP_BYTE) {
			ck_bad("wrote far outside: at byte %ld of the memory it was given", (long)i);
			break;
		}
	return status;
}

/* One call between push and pull. Arguments are evaluated after push: they are the twins'. */
#define CALL(call) (push() ? NVLLM_ENOMEM : pull(call))

/* ---- structs with addresses ---- */

struct far_batch { struct nvllm_batch b; struct nvllm_slots s; };

static const struct nvllm_batch *far_b(struct far_batch *f, const struct nvllm_batch *b)
{
	const int32_t **ints[] = { &f->b.tokens, &f->b.positions, &f->b.slots, &f->b.q_start,
		&f->b.kv_len, &f->b.page_table, &f->b.logit_rows, &f->b.logit_slots };

	f->b = *b;
	for (size_t i = 0; i < sizeof(ints) / sizeof(*ints); i++)
		*ints[i] = far(*ints[i]);
	if (M.real.info->caps & NVLLM_DEV_ASYNC)
		f->b.h_q_start = f->b.h_kv_len = f->b.h_page_table = NULL;
	if (!b->state)
		return &f->b;
	f->s = *b->state;
	f->s.last_token = far(f->s.last_token);
	f->s.n_left = far(f->s.n_left);
	f->s.done = far(f->s.done);
	f->s.stop_ids = far(f->s.stop_ids);
	f->s.history = far(f->s.history);
	f->b.state = &f->s;
	return &f->b;
}

static const struct nvllm_norm *far_n(struct nvllm_norm *f, const struct nvllm_norm *n)
{
	*f = *n;
	f->w = far_t(f->w);
	f->b = far_t(f->b);
	return f;
}

static const struct nvllm_tensor *far_p(struct nvllm_tensor *f, const struct nvllm_tensor *t)
{
	if (t)
		*f = far_t(*t);
	return t ? f : NULL;
}

/* ---- kernels ---- */

#define DEV M.real.dev, M.stream
#define REAL M.real.vt->kernels

static int embed(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor table, int64_t first, const struct nvllm_batch *b, double scale)
{
	struct far_batch f;

	(void)d, (void)s;
	return CALL(REAL->embed(DEV, far_t(y), far_t(table), first, far_b(&f, b), scale));
}

static int linear(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, struct nvllm_tensor w, const struct nvllm_tensor *bias,
	uint32_t flags)
{
	struct nvllm_tensor f;

	(void)d, (void)s;
	return CALL(REAL->linear(DEV, far_t(y), far_t(x), far_t(w), far_p(&f, bias), flags));
}

static int norm(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_norm *n)
{
	struct nvllm_norm f;

	(void)d, (void)s;
	return CALL(REAL->norm(DEV, far_t(y), far_t(x), far_n(&f, n)));
}

static int add(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x, struct nvllm_tensor y)
{
	(void)d, (void)s;
	return CALL(REAL->add(DEV, far_t(x), far_t(y)));
}

static int rope(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x, const int32_t *pos,
	int64_t head_dim, const struct nvllm_rotary *r)
{
	struct nvllm_rotary f = *r;

	(void)d, (void)s;
	return CALL((f.inv_freq = far_t(r->inv_freq),
		REAL->rope(DEV, far_t(x), far(pos), head_dim, &f)));
}

static int glu(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x,
	int act)
{
	(void)d, (void)s;
	return CALL(REAL->glu(DEV, far_t(y), far_t(x), act));
}

static int rows(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const int32_t *index)
{
	(void)d, (void)s;
	return CALL(REAL->rows(DEV, far_t(y), far_t(x), far(index)));
}

static int logprobs(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor x,
	const struct nvllm_logprobs *q)
{
	struct nvllm_logprobs f = *q;

	(void)d, (void)s;
	return CALL((f.targets = far(q->targets), f.tokens = far(q->tokens),
		f.target_logprob = far(q->target_logprob), f.target_rank = far(q->target_rank),
		f.top_ids = far(q->top_ids), f.top_logprobs = far(q->top_logprobs),
		REAL->logprobs(DEV, far_t(x), &f)));
}

static int advance(struct nvllm_device *d, nvllm_stream s, const struct nvllm_batch *b,
	const int32_t *tokens)
{
	struct far_batch f;

	(void)d, (void)s;
	return CALL(REAL->advance(DEV, far_b(&f, b), far(tokens)));
}

static int norm_linear(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_norm *n, struct nvllm_tensor w,
	const struct nvllm_tensor *bias)
{
	struct nvllm_norm fn;
	struct nvllm_tensor fb;

	(void)d, (void)s;
	return CALL(REAL->norm_linear(DEV, far_t(y), far_t(x), far_n(&fn, n), far_t(w),
		far_p(&fb, bias)));
}

static int norm_linear_glu(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y,
	struct nvllm_tensor x, const struct nvllm_norm *n, struct nvllm_tensor w, int act)
{
	struct nvllm_norm fn;

	(void)d, (void)s;
	return CALL(REAL->norm_linear_glu(DEV, far_t(y), far_t(x), far_n(&fn, n), far_t(w), act));
}

static int moe(struct nvllm_device *d, nvllm_stream s, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_moe *m, struct nvllm_tensor scratch)
{
	struct nvllm_moe f = *m;

	(void)d, (void)s;
	return CALL((f.router = far_t(m->router), f.gate_up = far_t(m->gate_up),
		f.down = far_t(m->down), REAL->moe(DEV, far_t(y), far_t(x), &f, far_t(scratch))));
}

static int upload(struct nvllm_device *d, const struct nvllm_tensor *t, int32_t plane, int64_t row,
	int64_t n, const void *src, int32_t src_dtype, int64_t src_stride)
{
	struct nvllm_tensor f;

	(void)d;
	return CALL((f = far_t(*t),
		M.real.vt->upload(M.real.dev, &f, plane, row, n, src, src_dtype, src_stride)));
}

/* ---- opening ---- */

static void take_kernels(void)
{
	const struct nvllm_kernels *k = M.real.vt->kernels;

	M.kernels = (struct nvllm_kernels){ .size = sizeof(M.kernels) };
#define TAKE(m) M.kernels.m = NVLLM_HAS(k, m) && k->m ? m : NULL
	TAKE(embed), TAKE(linear), TAKE(norm), TAKE(add), TAKE(rope), TAKE(glu), TAKE(rows);
	TAKE(logprobs), TAKE(advance), TAKE(norm_linear), TAKE(norm_linear_glu), TAKE(moe);
#undef TAKE
}

int mirror_open(const struct nvllm_device_ref *ref, int64_t bytes)
{
	M.room = bytes;
	M.real = *ref;
	M.stream = ref->vt->stream(ref->dev);
	M.far = ref->vt->alloc(ref->dev, bytes);
	if (M.far && NVLLM_HAS(ref->vt, host_alloc) && ref->vt->host_alloc)
		M.near = ref->vt->host_alloc(ref->dev, bytes);
	else if (M.far)
		M.near = malloc((size_t)bytes);
	if (!M.near) {
		ref->vt->free(ref->dev, M.far);
		M.far = NULL;
		return ck_bad("the device gives no %ld MiB for the suite: %s", (long)(bytes >> 20),
			fake_said());
	}
	take_kernels();
	memset(&M.vt, 0, sizeof(M.vt));
	memcpy(&M.vt, ref->vt, ref->vt->size < sizeof(M.vt) ? ref->vt->size : sizeof(M.vt));
	M.vt.size = sizeof(M.vt);
	M.vt.kernels = &M.kernels;
	M.vt.upload = upload;
	return 0;
}

void mirror_close(void)
{
	struct gmem_view v;

	if (!M.far)
		return;
	M.real.vt->sync(M.real.dev, M.stream);
	if (NVLLM_HAS(M.real.vt, host_free) && M.real.vt->host_free)
		M.real.vt->host_free(M.real.dev, M.near);
	else
		free(M.near);
	M.real.vt->free(M.real.dev, M.far);
	M.far = M.near = NULL;
	for (int i = 0; gmem_view(i, &v); i++)
		if (v.bytes)
			*v.far = -1;
}

const struct nvllm_device_vt *mirror_device(void)
{
	return &M.vt;
}

/* ---- an attention backend ---- */

#define ATTENTION M.real_attention

static int attach(struct nvllm_attention *a, void *const *kv, int64_t n_pages, void *workspace)
{
	int status = push();

	if (status)
		return status;
	for (int i = 0; i < M.n_layers; i++)
		M.kv[i] = far(kv[i]);
	return pull(ATTENTION->attach(a, M.kv, n_pages, far(workspace)));
}

static int plan(struct nvllm_attention *a, nvllm_stream s, const struct nvllm_batch *b)
{
	struct far_batch f;

	(void)s;
	return CALL(ATTENTION->plan(a, M.stream, far_b(&f, b)));
}

static int run(struct nvllm_attention *a, nvllm_stream s, int32_t layer,
	const struct nvllm_batch *b, struct nvllm_tensor q, struct nvllm_tensor k,
	struct nvllm_tensor v, struct nvllm_tensor y)
{
	struct far_batch f;

	(void)s;
	return CALL(ATTENTION->run(a, M.stream, layer, far_b(&f, b), far_t(q), far_t(k), far_t(v),
		far_t(y)));
}

static int run_raw(struct nvllm_attention *a, nvllm_stream s, const struct nvllm_batch *b,
	struct nvllm_tensor qkv, const struct nvllm_attn_in *in, struct nvllm_tensor y)
{
	struct nvllm_attn_in f = *in;
	struct nvllm_norm q, k;
	struct nvllm_rotary r;
	struct nvllm_tensor bias;
	struct far_batch fb;
	int status = push();

	(void)s;
	if (status)
		return status;
	f.bias = far_p(&bias, in->bias);
	f.q_norm = in->q_norm ? far_n(&q, in->q_norm) : NULL;
	f.k_norm = in->k_norm ? far_n(&k, in->k_norm) : NULL;
	if (in->rotary) {
		r = *in->rotary;
		r.inv_freq = far_t(r.inv_freq);
		f.rotary = &r;
	}
	return pull(ATTENTION->run_raw(a, M.stream, far_b(&fb, b), far_t(qkv), &f, far_t(y)));
}

const struct nvllm_attention_vt *mirror_attention(const struct nvllm_attention_vt *vt, int n_layers)
{
	if (!M.far)
		return vt;
	M.real_attention = vt;
	M.n_layers = n_layers;
	memset(&M.attention, 0, sizeof(M.attention));
	memcpy(&M.attention, vt, vt->size < sizeof(*vt) ? vt->size : sizeof(*vt));
	M.attention.size = sizeof(M.attention);
	M.attention.attach = attach;
	M.attention.plan = M.attention.plan ? plan : NULL;
	M.attention.run = run;
	M.attention.run_raw = M.attention.run_raw ? run_raw : NULL;
	return &M.attention;
}

/* ---- a sampler ---- */

/* The rows' own addresses become those of the twins, and what they were again. */
static int sample(struct nvllm_sampler *sampler, nvllm_stream s, struct nvllm_tensor logits,
	const struct nvllm_sample_row *given, int32_t n_rows, int32_t *tokens, void *workspace)
{
	struct nvllm_sample_row *rows = (struct nvllm_sample_row *)(uintptr_t)given;
	const int32_t *mine[MAX_ROWS], *twin[MAX_ROWS];
	int status = push();

	(void)s;
	if (status || n_rows > MAX_ROWS)
		return status ? status : ck_bad("%d rows are too many for the suite", n_rows);
	for (int i = 0; i < n_rows; i++) {
		mine[i] = rows[i].tokens;
		rows[i].tokens = twin[i] = far(mine[i]);
	}
	status = push(); /* the rows as they are now */
	if (!status)
		status = pull(M.real_sampler->sample(sampler, M.stream, far_t(logits), far(rows),
			n_rows, far(tokens), far(workspace)));
	for (int i = 0; i < n_rows; i++)
		if (rows[i].tokens == twin[i])
			rows[i].tokens = mine[i];
	return status;
}

const struct nvllm_sampler_vt *mirror_sampler(const struct nvllm_sampler_vt *vt)
{
	if (!M.far || vt->flags & NVLLM_SAMPLER_HOST)
		return vt;
	M.real_sampler = vt;
	memset(&M.sampler, 0, sizeof(M.sampler));
	memcpy(&M.sampler, vt, vt->size < sizeof(*vt) ? vt->size : sizeof(*vt));
	M.sampler.size = sizeof(M.sampler);
	M.sampler.sample = sample;
	return &M.sampler;
}
