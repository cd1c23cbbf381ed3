/* SPDX-License-Identifier: MIT */
/* cuBLASLt as its header and manual describe it, in plain loops and on the streams of fake_cuda.c: column-major,
 * D = alpha op(A) op(B) + beta C. Its algorithms differ in their number alone. */
#include <string.h>

#include <cublasLt.h>

#include "fake.h"

struct layout { uint32_t type, pad; uint64_t rows, cols; int64_t ld; };
struct desc { int32_t compute, scale, transa, transb; };
struct pref { uint64_t room; uint32_t sums, align[4]; };
struct algo { int64_t number, cols; };
struct product { const char *a, *b; char *d; const char *c; struct layout A, B, D; float alpha, beta; int transa, algo; };

size_t cublasLtGetVersion(void) { return 130100; }
const char *cublasLtGetStatusName(cublasStatus_t st) { (void)st; return "CUBLAS_STATUS_OF_FAKE"; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { *h = (cublasLtHandle_t)&fake; fake_live(1); return fake.lt_status; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { (void)h; fake_live(-1); return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t size, cudaDataType type, uint64_t rows,
	uint64_t cols, int64_t ld)
{
	const struct layout own = { (uint32_t)type, 0, rows, cols, ld };

	if (size < sizeof(own))
		return CUBLAS_STATUS_ALLOC_FAILED;
	memset(l, 0xEE, size);
	memcpy(l, &own, sizeof(own));
	return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t size, cublasComputeType_t compute, cudaDataType_t scale)
{
	const struct desc own = { compute, scale, CUBLAS_OP_N, CUBLAS_OP_N };

	memset(d, 0xEE, size);
	memcpy(d, &own, sizeof(own));
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attr, const void *buf, size_t size)
{
	struct desc *own = (struct desc *)d;

	if (size != 4 || attr != CUBLASLT_MATMUL_DESC_TRANSA)
		return CUBLAS_STATUS_INVALID_VALUE;
	memcpy(&own->transa, buf, 4);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t size)
{
	const struct pref own = { 0, CUBLASLT_REDUCTION_SCHEME_MASK, { 256, 256, 256, 256 } };

	memset(p, 0xEE, size);
	memcpy(p, &own, sizeof(own));
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attr,
	const void *buf, size_t size)
{
	struct pref *own = (struct pref *)p;

	if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && size == 8)
		memcpy(&own->room, buf, 8);
	else if (attr == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && size == 4)
		memcpy(&own->sums, buf, 4);
	else if (attr >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && attr <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES && size == 4)
		memcpy(&own->align[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], buf, 4);
	else
		return CUBLAS_STATUS_INVALID_VALUE;
	return CUBLAS_STATUS_SUCCESS;
}

static uint32_t size_of(uint32_t type) { return type == CUDA_R_32F ? 4 : 2; }

static int aligned(const struct layout *l, uint32_t base)
{
	return base >= (uint32_t)fake.least_align && l->ld * size_of(l->type) % fake.least_align == 0;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
	cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t pref, int n,
	cublasLtMatmulHeuristicResult_t out[], int *got)
{
	const struct layout *A = (struct layout *)a, *B = (struct layout *)b, *D = (struct layout *)d;
	const struct pref *p = (struct pref *)pref;

	(void)h, (void)desc, (void)c;
	fake.n_heuristic++;
	*got = 0;
	if (!aligned(A, p->align[0]) || !aligned(B, p->align[1]) || !aligned(D, p->align[3]))
		return CUBLAS_STATUS_NOT_SUPPORTED;
	for (; *got < n && *got < 5; ++*got) {
		const struct algo own = { *got, (int64_t)D->cols };

		memset(&out[*got], 0, sizeof(out[*got]));
		memcpy(&out[*got].algo, &own, sizeof(own));
		out[*got].workspaceSize = p->room;
	}
	return CUBLAS_STATUS_SUCCESS;
}

static double at(const char *p, uint32_t type, int64_t i)
{
	uint32_t u;
	uint16_t half;
	float f;

	if (type == CUDA_R_32F) {
		memcpy(&f, p + 4 * i, 4);
		return (double)f;
	}
	memcpy(&half, p + 2 * i, 2);
	u = (uint32_t)half << 16;
	memcpy(&f, &u, 4);
	return (double)f;
}

static void put(char *p, uint32_t type, int64_t i, double v)
{
	float f = (float)v;
	uint32_t u;
	uint16_t half;

	memcpy(&u, &f, 4);
	half = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
	if (type == CUDA_R_32F)
		memcpy(p + 4 * i, &f, 4);
	else
		memcpy(p + 2 * i, &half, 2);
}

static void run(const void *arg)
{
	const struct product *p = arg;
	const int64_t K = p->transa ? (int64_t)p->A.rows : (int64_t)p->A.cols;

	for (int64_t j = 0; j < (int64_t)p->D.cols; j++)
		for (int64_t i = 0; i < (int64_t)p->D.rows; i++) {
			double sum = 0;

			for (int64_t k = 0; k < K; k++)
				sum += at(p->a, p->A.type, p->transa ? k + i * p->A.ld : i + k * p->A.ld) *
					at(p->b, p->B.type, k + j * p->B.ld);
			sum *= (double)p->alpha;
			if (p->beta != 0)
				sum += (double)p->beta * at(p->c, p->D.type, i + j * p->D.ld);
			put(p->d, p->D.type, i + j * p->D.ld, sum);
		}
	fake.last_algo = p->algo;
	fake_spend(p->algo == fake.best ? 1 : 2);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, const void *alpha, const void *a, cublasLtMatrixLayout_t A,
	const void *b, cublasLtMatrixLayout_t B, const void *beta, const void *c, cublasLtMatrixLayout_t C, void *d,
	cublasLtMatrixLayout_t D, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t room, cudaStream_t stream)
{
	const struct desc *own = (struct desc *)desc;
	struct product p = { .a = a, .b = b, .c = c, .d = d, .transa = own->transa };
	struct algo chosen;

	(void)h;
	memcpy(&p.A, A, sizeof(p.A)), memcpy(&p.B, B, sizeof(p.B)), memcpy(&p.D, D, sizeof(p.D));
	memcpy(&p.alpha, alpha, 4), memcpy(&p.beta, beta, 4), memcpy(&chosen, algo, sizeof(chosen));
	p.algo = (int)chosen.number;
	if (own->compute != CUBLAS_COMPUTE_32F || own->scale != CUDA_R_32F || memcmp(C, D, sizeof(p.D)) || !workspace || !room ||
	    p.A.type != p.B.type || (p.A.type == CUDA_R_32F && p.D.type != CUDA_R_32F) || chosen.number > 4 ||
	    (own->transa ? p.A.rows : p.A.cols) != p.B.rows || (own->transa ? p.A.cols : p.A.rows) != p.D.rows || p.B.cols != p.D.cols)
		return CUBLAS_STATUS_INVALID_VALUE;
	if (fake.only_exact && chosen.cols != (int64_t)p.D.cols)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	fake.n_matmul++;
	fake_enqueue(stream, run, &p, sizeof(p));
	return CUBLAS_STATUS_SUCCESS;
}
