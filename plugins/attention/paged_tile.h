/* SPDX-License-Identifier: MIT */
/* paged_tile.h - the vector kernels of the paged attention, over the primitives that
 * the including file defines for its instruction set: TARGET (attribute), WIDTH, ROWS, VECS, vec,
 * v_set1, v_add, v_sub, v_mul, v_div, v_fma (a * b + c), v_max (of two; the second if
 * either is NaN), v_scale (x * 2^n, n the low bits of t as a whole number), v_load,
 * v_load_f16, v_load_bf16, v_store, v_store_f16, v_inside (x in lanes lo..hi - 1, else
 * y), v_zero_below (a; 0 where x < y), v_abs, v_copysign, IN_REGISTER (v is loaded once, and
 * not with each of its products; may be empty).
 * A tile is up to ROWS rows (3 or 6) by up to VECS vectors of sums held in registers. */

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE vec load(const void *p, int64_t i, int32_t dtype)
{
	if (dtype == NVLLM_F32)
		return v_load((const float *)p + i);
	if (dtype == NVLLM_F16)
		return v_load_f16((const uint16_t *)p + i);
	return v_load_bf16((const uint16_t *)p + i);
}

static TARGET void widen(float *dst, const void *src, int64_t n, int32_t dtype)
{
	int64_t i = 0;

	for (; i + WIDTH <= n; i += WIDTH)
		v_store(dst + i, load(src, i, dtype));
	for (; i < n; i++)
		dst[i] = kv_get(src, i, dtype);
}

static TARGET void narrow(void *dst, const float *src, int64_t n, int32_t dtype)
{
	int64_t i = 0;

	if (dtype == NVLLM_F16)
		for (; i + WIDTH <= n; i += WIDTH)
			v_store_f16((uint16_t *)dst + i, v_load(src + i));
	for (; i < n; i++)
		kv_put(dst, i, dtype, src[i]);
}

/* nq rows by nv vectors of scores; every argument after `ahead` is a constant. */
INLINE void score_tile(float *s, const float *q, int64_t dim, const char *k, int64_t keys,
	int64_t ahead, int32_t dtype, int nq, int nv)
{
	int64_t step = keys * kv_bytes(dtype);
	vec acc[ROWS][VECS];

	UNROLL for (int i = 0; i < nq; i++)
		UNROLL for (int j = 0; j < nv; j++)
			acc[i][j] = v_set1(0);
	for (int64_t d = 0; d < dim; d++, k += step) {
		vec qd[ROWS];

		__builtin_prefetch(k + ahead);
		UNROLL for (int i = 0; i < nq; i++)
			qd[i] = v_set1(q[i * dim + d]);
		UNROLL for (int j = 0; j < nv; j++) {
			vec kd = load(k, j * WIDTH, dtype);

			IN_REGISTER(kd);
			UNROLL for (int i = 0; i < nq; i++)
				acc[i][j] = v_fma(qd[i], kd, acc[i][j]);
		}
	}
	UNROLL for (int i = 0; i < nq; i++)
		UNROLL for (int j = 0; j < nv; j++)
			v_store(s + i * PAGED_SCORES + j * WIDTH, acc[i][j]);
}

/* nq rows by all keys of the block: as many vectors at once as registers allow. */
INLINE void score_rows(float *s, const float *q, int64_t dim, const void *k, int64_t keys,
	int64_t ahead, int32_t dtype, int nq)
{
	int64_t es = kv_bytes(dtype), t = 0;

	for (; t + VECS * WIDTH <= keys && nq == 1; t += VECS * WIDTH)
		score_tile(s + t, q, dim, (const char *)k + t * es, keys, ahead, dtype, nq, VECS);
	for (; t + 4 * WIDTH <= keys; t += 4 * WIDTH)
		score_tile(s + t, q, dim, (const char *)k + t * es, keys, ahead, dtype, nq, 4);
	for (; t < keys; t += 16)
		score_tile(s + t, q, dim, (const char *)k + t * es, keys, ahead, dtype, nq,
			16 / WIDTH);
}

/* The rows of the next tile: as many as there can be, or three, and no single row left over. */
INLINE int tile_rows(int64_t left)
{
	if (left >= ROWS && left != ROWS + 1)
		return ROWS;
	return left == 4 ? 2 : left > 3 ? 3 : (int)left;
}

INLINE void scores_of(float *s, const float *q, int64_t n, int64_t dim, const void *k,
	int64_t keys, int64_t ahead, int32_t dtype)
{
	for (int64_t i = 0, nq; i < n; i += nq) {
		float *si = s + i * PAGED_SCORES;

		nq = tile_rows(n - i);
		if (nq == ROWS)
			score_rows(si, q + i * dim, dim, k, keys, ahead, dtype, ROWS);
		else if (nq == 3)
			score_rows(si, q + i * dim, dim, k, keys, ahead, dtype, 3);
		else if (nq == 2)
			score_rows(si, q + i * dim, dim, k, keys, ahead, dtype, 2);
		else
			score_rows(si, q + i * dim, dim, k, keys, ahead, dtype, 1);
	}
}

static TARGET void scores(float *s, const float *q, int64_t n, int64_t dim, const void *k,
	int32_t dtype, int64_t keys, int64_t ahead)
{
	if (dtype == NVLLM_F32)
		scores_of(s, q, n, dim, k, keys, ahead, NVLLM_F32);
	else if (dtype == NVLLM_F16)
		scores_of(s, q, n, dim, k, keys, ahead, NVLLM_F16);
	else
		scores_of(s, q, n, dim, k, keys, ahead, NVLLM_BF16);
}

/* e^x for x <= 0, 0 below -87: x = n ln 2 + r, Taylor's series of e^r to r^6, whose error
 * for |r| <= ln 2 / 2 is 1.2e-7 of the value. ln 2 in two parts (Cody and Waite 1980);
 * adding 1.5 * 2^23 rounds to a whole n and leaves it in the low bits. */
INLINE vec v_exp(vec x)
{
	static const float c[] = { 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1, 1 };
	vec t = v_fma(x, v_set1(1.44269504f), v_set1(0x1.8p23f)), p = v_set1(1.f / 720);
	vec n = v_sub(t, v_set1(0x1.8p23f)), r = v_fma(n, v_set1(-0.693145752f), x);

	r = v_fma(n, v_set1(-1.42860677e-6f), r);
	UNROLL for (int i = 0; i < 6; i++)
		p = v_fma(p, r, v_set1(c[i]));
	return v_zero_below(v_scale(p, t), x, v_set1(-87));
}

/* cap * tanh(x / cap), tanh |t| = (1 - e^-2|t|) / (1 + e^-2|t|) */
INLINE vec v_softcap(vec x, float cap)
{
	vec t = v_mul(x, v_set1(1 / cap));
	vec e = v_exp(v_mul(v_abs(t), v_set1(-2)));
	vec y = v_div(v_sub(v_set1(1), e), v_add(v_set1(1), e));

	return v_mul(v_set1(cap), v_copysign(y, x));
}

/* Lanes of x at t that lie within lo..hi; elsewhere y. */
INLINE vec v_within(vec x, float y, int64_t t, int64_t lo, int64_t hi)
{
	return lo <= t && t + WIDTH <= hi ? x : v_inside(x, v_set1(y), lo - t, hi - t);
}

static TARGET void softmax(float *s, int64_t lo, int64_t hi, float cap, float *max, float *sum)
{
	const float least = -__builtin_inff();
	int64_t from = lo / WIDTH * WIDTH;
	vec vm = v_set1(least), vl = v_set1(0);
	float lane[WIDTH], m = least, l = 0;

	for (int64_t t = from; t < hi; t += WIDTH) {
		vec x = v_within(v_load(s + t), least, t, lo, hi);

		if (cap > 0)
			v_store(s + t, x = v_within(v_softcap(x, cap), least, t, lo, hi));
		vm = v_max(x, vm);
	}
	v_store(lane, vm);
	for (int i = 0; i < WIDTH; i++)
		m = lane[i] > m ? lane[i] : m;
	for (int64_t t = from; t < hi; t += WIDTH) {
		vec x = v_within(v_exp(v_sub(v_load(s + t), v_set1(m))), 0, t, lo, hi);

		v_store(s + t, x);
		vl = v_add(vl, x);
	}
	v_store(lane, vl);
	for (int i = 0; i < WIDTH; i++)
		l += lane[i];
	*max = m;
	*sum = l;
}

/* nq rows by nv vectors of o; every argument after `ahead` is a constant. */
INLINE void value_tile(float *o, const float *p, int64_t dim, const char *v, int64_t n_keys,
	int64_t ahead, int32_t dtype, int nq, int nv)
{
	int64_t step = dim * kv_bytes(dtype);
	vec acc[ROWS][VECS];

	UNROLL for (int i = 0; i < nq; i++)
		UNROLL for (int j = 0; j < nv; j++)
			acc[i][j] = v_load(o + i * dim + j * WIDTH);
	for (int64_t t = 0; t < n_keys; t++, v += step) {
		vec pt[ROWS];

		__builtin_prefetch(v + ahead);
		UNROLL for (int i = 0; i < nq; i++)
			pt[i] = v_set1(p[i * PAGED_SCORES + t]);
		UNROLL for (int j = 0; j < nv; j++) {
			vec vt = load(v, j * WIDTH, dtype);

			IN_REGISTER(vt);
			UNROLL for (int i = 0; i < nq; i++)
				acc[i][j] = v_fma(pt[i], vt, acc[i][j]);
		}
	}
	UNROLL for (int i = 0; i < nq; i++)
		UNROLL for (int j = 0; j < nv; j++)
			v_store(o + i * dim + j * WIDTH, acc[i][j]);
}

INLINE void value_rows(float *o, const float *p, int64_t dim, const void *v, int64_t n_keys,
	int64_t ahead, int32_t dtype, int nq)
{
	int64_t es = kv_bytes(dtype), d = 0;

	for (; d + VECS * WIDTH <= dim && nq == 1; d += VECS * WIDTH)
		value_tile(o + d, p, dim, (const char *)v + d * es, n_keys, ahead,
			dtype, nq, VECS);
	for (; d + 4 * WIDTH <= dim; d += 4 * WIDTH)
		value_tile(o + d, p, dim, (const char *)v + d * es, n_keys, ahead,
			dtype, nq, 4);
	for (; d < dim; d += WIDTH)
		value_tile(o + d, p, dim, (const char *)v + d * es, n_keys, ahead,
			dtype, nq, 1);
}

INLINE void values_of(float *o, const float *p, int64_t n, int64_t dim, const void *v,
	int64_t n_keys, int64_t ahead, int32_t dtype)
{
	for (int64_t i = 0, nq; i < n; i += nq) {
		const float *pi = p + i * PAGED_SCORES;

		nq = tile_rows(n - i);
		if (nq == ROWS)
			value_rows(o + i * dim, pi, dim, v, n_keys, ahead, dtype, ROWS);
		else if (nq == 3)
			value_rows(o + i * dim, pi, dim, v, n_keys, ahead, dtype, 3);
		else if (nq == 2)
			value_rows(o + i * dim, pi, dim, v, n_keys, ahead, dtype, 2);
		else
			value_rows(o + i * dim, pi, dim, v, n_keys, ahead, dtype, 1);
	}
}

static TARGET void values(float *o, const float *p, int64_t n, int64_t dim, const void *v,
	int32_t dtype, int64_t n_keys, int64_t ahead)
{
	if (dtype == NVLLM_F32)
		values_of(o, p, n, dim, v, n_keys, ahead, NVLLM_F32);
	else if (dtype == NVLLM_F16)
		values_of(o, p, n, dim, v, n_keys, ahead, NVLLM_F16);
	else
		values_of(o, p, n, dim, v, n_keys, ahead, NVLLM_BF16);
}
