/* SPDX-License-Identifier: MIT */
/* cpu.h - what the files of the CPU device share: the table of routines that an
 * instruction set fills, the forms of weights and activations, the thread pool.
 *
 * The table is filled by isa_scalar() with plain C for every entry; each level of the
 * CPU then overwrites what it does better. An entry works on rows or on a small panel
 * of rows; threads, checks and strides are the callers' (linear.c, kernels.c). */
#ifndef NVLLM_CPU_H
#define NVLLM_CPU_H

#include <stdbool.h>
#include <nvllm/device.h>

enum {
	QK = 32,         /* elements in a block of the forms that have products of their own */
	QK_K = 256,      /* in one of the large forms (quant_k.c, quant_iq.c) */
	LANES_MAX = 16,  /* most rows of a weight in a panel */
	GROUP = 64,      /* most rows of a weight that one call of mul takes */
	X_ROWS = 256,    /* most rows of activations that one call of mul takes */
	TILE_ROWS = 16,  /* rows of activations in a tile */
	ROPE_MAX = 1024, /* most elements of a head that turn */
	Q16_TOP = 127 * 254,    /* the largest q of a struct q16_block */
	Q12_TOP = 127 * 16 + 7, /* of one of 12 bits: 16 a + b, a and b bytes with a sign */
};

/* Forms a weight may have, as an index into the tables. */
enum fmt {
	FMT_F32, FMT_F16, FMT_BF16, FMT_Q4_0, FMT_Q4_1, FMT_Q5_0, FMT_Q5_1, FMT_Q8_0,
	FMT_Q2_K, FMT_Q3_K, FMT_Q4_K, FMT_Q5_K, FMT_Q6_K, FMT_Q8_K,
	FMT_IQ1_S, FMT_IQ1_M, FMT_IQ2_XXS, FMT_IQ2_XS, FMT_IQ2_S, FMT_IQ3_XXS, FMT_IQ3_S,
	FMT_IQ4_NL, FMT_IQ4_XS, FMT_MXFP4, FMT_TQ1_0, FMT_TQ2_0, FMT_N
};

/* A block of activations: x[i] is about d * q[i], |q| <= 127. */
struct q8_block {
	int8_t q[QK];
	float d;
	float s;      /* d * sum: what a constant offset of the weights is multiplied by */
	int32_t sum;  /* of q */
	int32_t pad;  /* 0 */
};

/* A finer block of activations: x[i] is about d * q[i], |q| <= 127 * 254. How q is kept
 * is a matter of the weight's form: as two planes of bytes, q = 254 * high + low with
 * both in [-127, 127], for nibbles (Q4_0, Q4_1, Q4_K); as words in the order PAIR for bytes
 * (Q8_0, Q5_K, Q6_K). The integer product of a block is the same number either way. */
struct q16_block {
	union {
		struct { int8_t high[QK], low[QK]; };
		int16_t word[QK];
	};
	float d;
	float s; /* d * sum of q */
};

/* word[i] is element PAIR(i): of four bytes of a register, sign extension to words takes
 * the even ones first, then the odd ones. */
#define PAIR(i) (((i) & ~3) | ((i) & 1) << 1 | ((i) >> 1 & 1))

/* ---- panels ----
 *
 * A product reads a weight as panels: isa.lanes rows side by side, so that a register
 * holds the same columns of all of them, row r in 32-bit lane r. A lane adds up its row's
 * product column by column (block by block) from the left: no sum goes across lanes, and
 * the result has the same bits whatever the number of rows of activations. The last panel
 * is filled up with rows of zeros. With L lanes a panel is
 *
 *   F32         for each column: float [L]
 *   F16, BF16   for each two columns: [L][2]; the columns filled up with zeros to a
 *               multiple of QK
 *   Q4_0        for each block: 4 x [L][4] bytes, byte i of part t has element 4t + i of its
 *               row in its low half and element 16 + 4t + i above; half d[L]
 *   Q4_1        likewise, then half m[L]
 *   Q8_0        for each block: 8 x [L][4] bytes, elements 4t + i; half d[L]
 *   Q4_K        for each 256 columns: 8 blocks like Q4_0's, without their d; half d[L], dmin[L];
 *               byte scale[8][L], minimum[8][L]
 *   Q5_K        likewise, but blocks of 8 x [L][4] bytes
 *   Q6_K        for each 256 columns: 8 blocks of 8 x [L][4] signed bytes; half d[L]; signed byte
 *               scale[16][L]
 *
 * Where the form and the device's activations have a product, panels are made at load
 * ([device] repack = auto); else, and of forms without one after their decoding to F32, by
 * each worker as it goes, in its scratch. The bits of a result are the same. */

/* The form of activations in products. */
enum act {
	ACT_AUTO,
	ACT_F32,  /* as they are: rows of float */
	ACT_Q8,   /* rows of struct q8_block */
	ACT_Q16,  /* rows of struct q16_block */
	ACT_Q12,  /* likewise, but before nibbles |q| <= Q12_TOP: AMX then takes one product where q16 takes two */
	ACT_BF16, /* rows of bf16, filled up with zeros to a multiple of QK */
	ACT_N
};

/* out[i][j] = row i of x times row j of the panels, both counted from 0 here. */
struct product {
	float *out;         /* [n_x][GROUP] */
	const char *x;      /* rows in the form of the activations; whole sixteens of them as tiles where
			     * isa.to_tile has this product: the first 16 begin at x, the next at
			     * x + 16 x_stride */
	const char *w;      /* n_w panels, one after the other */
	int64_t x_stride;   /* bytes */
	int64_t panel_bytes;
	int64_t n_x, n_w;   /* 1..X_ROWS, 1..GROUP / lanes */
	int64_t lanes, cols;
	char *scratch;      /* of the calling worker: 2 * part_bytes(cols), 64-byte aligned */
};

struct isa {
	const char *name;
	int32_t lanes;      /* rows of a panel: 8 or 16 */
	/* One stored row to float. */
	void (*decode[FMT_N])(float *y, const void *w, int64_t cols);
	/* isa.lanes rows, stride bytes apart, to one panel. NULL = panel_put(), row by row. */
	void (*pack[FMT_N])(char *panel, const char *rows, int64_t stride, int64_t cols);
	/* One row of activations to their form, as products with this form of weight have it. In
	 * block forms cols is a multiple of QK. NULL = taken as it is. */
	void (*round[ACT_N][FMT_N])(void *y, const float *x, int64_t cols);
	/* NULL = none. There is always one for ACT_F32 and FMT_F32. ACT_Q12's are those of ACT_Q16 where a level
	 * has none of its own. */
	void (*mul[ACT_N][FMT_N])(const struct product *);
	/* Puts row i of 16, as round[] gives it, to its places among them, which take no more room than 16 rows.
	 * NULL = products take rows alone. */
	void (*to_tile[ACT_N][FMT_N])(char *tile, int64_t i, const char *row, int64_t cols);
	/* One run of n elements; w and b (may be NULL) are float. */
	void (*norm)(float *y, const float *x, const struct nvllm_norm *, int64_t n);
	void (*add)(float *x, const float *d, int64_t n);
	/* One head; cs = cos[dims / 2], then sin[dims / 2]. */
	void (*rope)(float *x, const float *cs, int64_t dims, bool interleaved);
	void (*glu)(float *y, const float *gate, const float *up, int64_t n, int act);
	/* Sum of exp(x[i] - max). */
	double (*sum_exp)(const float *x, float max, int64_t n);
};

/* do(form, act) for each form of floats, and for each whose products are of whole numbers. A file that
 * has them names them mul_FORM_ACT, as in mul_Q4_0_Q8, and TO_TABLE puts them into its `isa`. */
#define FLOATS(do, act) do(F32, act) do(F16, act) do(BF16, act)
#define WHOLE_NUMBERS(do, act) do(Q4_0, act) do(Q4_1, act) do(Q8_0, act) do(Q4_K, act) do(Q5_K, act) do(Q6_K, act)
#define NIBBLES(do, act) do(Q4_0, act) do(Q4_1, act) do(Q4_K, act)
#define TO_TABLE(form, act) isa->mul[ACT_##act][FMT_##form] = mul_##form##_##act;

/* Before a loop over constants: it must go, or what it indexes stays in memory. */
#ifndef SANITIZED /* which makes of one access ten: no loop may be written out then */
#define PRAGMA(x) _Pragma(#x)
#define UNROLL(n) PRAGMA(GCC unroll n)
#else
#define UNROLL(n)
#endif

/* panel.c */
int64_t panel_bytes(enum fmt, int64_t lanes, int64_t cols); /* 0 = a form without panels */
/* One row to lane `lane` of a panel; row NULL = zeros. */
void panel_put(char *panel, enum fmt, int64_t lanes, int64_t lane, const char *row, int64_t cols);
/* And from there as float, the same numbers as decode[] of the row; line: room for the row. */
void panel_decode(const struct isa *, float *y, enum fmt, int64_t lane, const char *panel, int64_t cols,
	char *line);
/* Rows [first, first + n) of a weight of `rows` rows to its panels at w: a row after its last is
 * zeros. */
void panel_pack(const struct isa *, char *w, enum fmt, int64_t rows, int64_t cols, int64_t first,
	int64_t n, const char *from, int64_t stride);
/* panel_k.c: the same of Q4_K, Q5_K, Q6_K alone. */
static inline bool is_k(enum fmt fmt)
{
	return fmt == FMT_Q4_K || fmt == FMT_Q5_K || fmt == FMT_Q6_K;
}
int64_t panel_k_bytes(enum fmt); /* of one lane, 256 columns */
void panel_k_put(char *panel, enum fmt, int64_t lanes, int64_t lane, const char *row, int64_t cols);
void panel_k_decode(float *y, enum fmt, int64_t lanes, int64_t lane, const char *panel, int64_t cols);
/* What a lane has in a block of 32 columns: number i is d[i / 16] * q[i] + m. */
struct lane_block {
	int32_t q[QK];
	float d[2], m;
};
void panel_k_block(struct lane_block *, enum fmt, int64_t lanes, int64_t lane, const char *panel, int64_t b);

void isa_scalar(struct isa *);
void isa_avx2(struct isa *);
void isa_avx2_decode(struct isa *); /* parts of isa_avx2: stored rows to float, */
void isa_avx2_round(struct isa *); /* activations to blocks, */
void isa_avx2_pack(struct isa *);  /* rows to panels, */
void isa_avx2_float(struct isa *); /* and the products */
void isa_avx2_q8(struct isa *);
void isa_avx2_q16(struct isa *);
void isa_avx512(struct isa *);
void isa_vnni(struct isa *);
void isa_bf16(struct isa *);
void isa_amx(struct isa *);
void isa_amx_int8(struct isa *); /* a part of isa_amx: quantised products */
/* What isa_vnni() put into the table: for rows that do not fill a tile of AMX. */
void vnni_mul(enum act, enum fmt, const struct product *);

/* quant.c: the forms, in plain C. */
enum fmt fmt_of(int32_t dtype); /* FMT_N = no such form here */
const char *fmt_name(enum fmt);
void decode_plain(struct isa *); /* fills decode[] */
float half_to_float(uint16_t h);
float load_half(const void *p);
void decode_f32(float *y, const void *w, int64_t cols);
void decode_f16(float *y, const void *w, int64_t cols);
void decode_bf16(float *y, const void *w, int64_t cols);
void decode_q4_0(float *y, const void *w, int64_t cols);
void decode_q4_1(float *y, const void *w, int64_t cols);
void decode_q5_0(float *y, const void *w, int64_t cols);
void decode_q5_1(float *y, const void *w, int64_t cols);
void decode_q8_0(float *y, const void *w, int64_t cols);
/* quant_k.c: cols is a multiple of QK_K. */
void decode_q2_k(float *y, const void *w, int64_t cols);
void decode_q3_k(float *y, const void *w, int64_t cols);
void decode_q4_k(float *y, const void *w, int64_t cols);
void decode_q5_k(float *y, const void *w, int64_t cols);
void decode_q6_k(float *y, const void *w, int64_t cols);
void decode_q8_k(float *y, const void *w, int64_t cols);
void decode_tq1_0(float *y, const void *w, int64_t cols);
void decode_tq2_0(float *y, const void *w, int64_t cols);
/* Of their scales: k of 16 of Q3_K; k of 8 of Q4_K and Q5_K, with its minimum. */
int scale_q3_k(const uint8_t *scales, int k);
void scale_q4_k(const uint8_t *scales, int k, int *scale, int *minimum);
/* quant_iq.c: likewise, but for IQ4_NL and MXFP4, of QK. */
void decode_iq1_s(float *y, const void *w, int64_t cols);
void decode_iq1_m(float *y, const void *w, int64_t cols);
void decode_iq2_xxs(float *y, const void *w, int64_t cols);
void decode_iq2_xs(float *y, const void *w, int64_t cols);
void decode_iq2_s(float *y, const void *w, int64_t cols);
void decode_iq3_xxs(float *y, const void *w, int64_t cols);
void decode_iq3_s(float *y, const void *w, int64_t cols);
void decode_iq4_nl(float *y, const void *w, int64_t cols);
void decode_iq4_xs(float *y, const void *w, int64_t cols);
void decode_mxfp4(float *y, const void *w, int64_t cols);
extern const int8_t levels_nl[16], levels_mx[16];
int scale_iq4_xs(const uint8_t *block, int k);
float scale_mxfp4(uint8_t e);
/* quant.c: activations */
void to_q8(void *y, const float *x, int64_t cols);
void to_planes(void *y, const float *x, int64_t cols); /* struct q16_block */
void to_planes_q12(void *y, const float *x, int64_t cols);
void to_words(void *y, const float *x, int64_t cols);
void to_bf16(void *y, const float *x, int64_t cols);    /* rows of bf16, ACT_BF16 */
void round_bf16(void *y, const float *x, int64_t cols); /* the same numbers, as float */
uint16_t bf16_of(float x); /* to nearest, ties to even; an infinity and a NaN stay one */

/* ref.c: plain C, used by faster tables for what they do not speed up. */
void glu_ref(float *y, const float *gate, const float *up, int64_t n, int act);
void norm_ref(float *y, const float *x, const struct nvllm_norm *, int64_t n);
void rope_ref(float *x, const float *cs, int64_t dims, bool interleaved);

/* pool.c: threads that wait for ranges. The caller of pool_run is worker 0. */
struct pool;
struct pool *pool_create(int32_t n_workers); /* NULL = no memory or no threads */
void pool_destroy(struct pool *);            /* NULL is legal */
void pool_run(struct pool *, int64_t n, int64_t grain,
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg);

/* limits.c: what the system lets this process use. */
int32_t limits_cores(void);
void limits_memory(int64_t *mem_free, int64_t *mem_total);

/* cpuid.c: what the processor has. */
enum isa_level { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_VNNI, ISA_BF16, ISA_AMX };
enum isa_level cpuid_level(void); /* the best; every lower one works too */
/* Linux has a process ask for AMX's tiles, once, for all its threads. */
bool cpuid_ask_tiles(void);
void cpuid_name(char *name, size_t len);

struct conf {
	int64_t threads;
	int32_t isa;         /* 0 = auto, else 1 + enum isa_level */
	int32_t activations; /* enum act */
	int32_t repack;      /* 0 = auto, 1 = off */
};

struct nvllm_device {
	const struct nvllm_host *host;
	struct pool *pool;
	int32_t n_workers;
	enum act activations; /* never ACT_AUTO */
	bool repack;
	int64_t stored;          /* bytes of all weights that store() was asked for */
	struct isa isa;
	/* Scratch for rows of max_cols elements: grown by store(), used by linear(). */
	int64_t max_cols;
	char *xq;                /* rows of activations in the device's form */
	char *scratch;           /* [n_workers][scratch_bytes(max_cols)] */
};

static inline int64_t whole_blocks(int64_t cols)
{
	return (cols + QK - 1) / QK * QK;
}

/* Scratch of one worker, in three parts of part_bytes(): a panel; LANES_MAX rows as float,
 * which are done with when the product begins; and both the latter are the product's. */
static inline int64_t part_bytes(int64_t cols)
{
	return whole_blocks(cols) * (int64_t)sizeof(float) * LANES_MAX;
}

static inline int64_t scratch_bytes(int64_t cols)
{
	return 3 * part_bytes(cols);
}

/* linear.c */
int linear(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	struct nvllm_tensor w, const struct nvllm_tensor *bias, uint32_t flags);
int linear_reserve(struct nvllm_device *, int64_t cols); /* [setup] scratch for such rows */
bool linear_panels(const struct nvllm_device *, enum fmt); /* are panels made at load? */
/* moe.c */
int moe(struct nvllm_device *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x,
	const struct nvllm_moe *, struct nvllm_tensor scratch);
/* logprobs.c */
int logprobs(struct nvllm_device *, nvllm_stream, struct nvllm_tensor logits,
	const struct nvllm_logprobs *);
/* kernels.c: the device's table. */
extern const struct nvllm_kernels cpu_kernels;
/* A tensor of float with whole rows; what = "linear: x", for the message. */
int check_f32(struct nvllm_device *, const struct nvllm_tensor *, const char *what);
/* Runs fn over [0, n) on the pool, or here when cost (about one per multiply) is small. */
void run_rows(struct nvllm_device *, int64_t n, int64_t cost,
	void (*fn)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg);

/* ---- random.c: as device.h says ---- */
int cpu_random(struct nvllm_device *, const struct nvllm_tensor *, int32_t plane, int64_t row, int64_t n,
	uint64_t seed, double mean, double std);

#endif
