/* SPDX-License-Identifier: MIT */
/* tests/emu/matrix.cc - matrices spread over a warp, with the layouts that ptx.cuh writes down
 * (PTX ISA, "Matrix multiply-accumulate", m16n8k16; "ldmatrix"; "movmatrix"). And the small floats. */
#include "inside.h"

typedef float vec4 __attribute__((vector_size(16)));

static void ldmatrix(struct emu_warp *w, int n, bool trans, const char *file, int line)
{
	uint16_t m[4][8][8];

	for (int l = 0; l < 8 * n; l++) {
		if ((uintptr_t)w->a[l] & 15)
			emu_fail(file, line, "ldmatrix: lane %d's row is not at a multiple of 16 bytes", l);
		if (!emu_is_shared(w->a[l], 16))
			emu_fail(file, line, "ldmatrix: lane %d's row is not in shared memory", l);
		memcpy(m[l / 8][l % 8], w->a[l], 16);
	}
	for (int l = 0; l < 32; l++)
		for (int i = 0; i < n; i++) {
			int r = l / 4, c = 2 * (l % 4);

			((uint32_t *)w->d[l])[i] = trans ? m[i][c][r] | (uint32_t)m[i][c + 1][r] << 16 :
				m[i][r][c] | (uint32_t)m[i][r][c + 1] << 16;
		}
}

static void movmatrix_all(struct emu_warp *w)
{
	uint16_t m[8][8];

	for (int l = 0; l < 32; l++) {
		m[l / 4][2 * (l % 4)] = (uint16_t)w->in[l];
		m[l / 4][2 * (l % 4) + 1] = (uint16_t)(w->in[l] >> 16);
	}
	for (int l = 0; l < 32; l++)
		w->out[l] = m[2 * (l % 4)][l / 4] | (uint32_t)m[2 * (l % 4) + 1][l / 4] << 16;
}

template <class T> static float half_of(uint32_t x, int i)
{
	T t;

	t.bits = (uint16_t)(x >> 16 * i);
	return to_f32(t);
}

template <class T> static void mma(struct emu_warp *w)
{
	float a[16][16];
	union { float f[16][8]; vec4 v[16][2]; } b;

	for (int l = 0; l < 32; l++) {
		const uint32_t *pa = (const uint32_t *)w->a[l], *pb = (const uint32_t *)w->b[l];
		int g = l / 4, j = 2 * (l % 4);

		for (int i = 0; i < 2; i++) {
			a[g][j + i] = half_of<T>(pa[0], i);
			a[g + 8][j + i] = half_of<T>(pa[1], i);
			a[g][j + 8 + i] = half_of<T>(pa[2], i);
			a[g + 8][j + 8 + i] = half_of<T>(pa[3], i);
			b.f[j + i][g] = half_of<T>(pb[0], i);
			b.f[j + 8 + i][g] = half_of<T>(pb[1], i);
		}
	}
	for (int r = 0; r < 16; r++) {
		union { float f[8]; vec4 v[2]; } s;

		s.v[0] = s.v[1] = vec4{};
		for (int k = 0; k < 16; k++) {
			s.v[0] += a[r][k] * b.v[k][0];
			s.v[1] += a[r][k] * b.v[k][1];
		}
		for (int c = 0; c < 8; c++)
			((float *)w->d[r % 8 * 4 + c / 2])[r / 8 * 2 + c % 2] += s.f[c];
	}
}

void emu_matrix_op(struct emu_warp *w, int op, const char *file, int line)
{
	switch (op) {
	case EMU_LDMATRIX4: ldmatrix(w, 4, false, file, line); break;
	case EMU_LDMATRIX4_T: ldmatrix(w, 4, true, file, line); break;
	case EMU_LDMATRIX2: ldmatrix(w, 2, false, file, line); break;
	case EMU_LDMATRIX2_T: ldmatrix(w, 2, true, file, line); break;
	case EMU_MOVMATRIX: movmatrix_all(w); break;
	case EMU_MMA_BF16: mma<bf16>(w); break;
	case EMU_MMA_F16: mma<f16>(w); break;
	}
}

/* ---- small floats: to nearest, ties to even ---- */

float emu_f16_f32(uint16_t h)
{
	uint32_t s = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;

	if (e == 31)
		return bits_f32(s | 0x7f800000 | m << 13);
	if (e == 0)
		return s ? -(float)m * 0x1p-24f : (float)m * 0x1p-24f;
	return bits_f32(s | (e + 112) << 23 | m << 13);
}

uint16_t emu_f32_f16(float x)
{
	uint16_t s = (uint16_t)(f32_bits(x) >> 16 & 0x8000);
	float a = fabsf(x);
	uint32_t u = f32_bits(a);

	if (x != x)
		return 0x7fff;
	if (a >= 65520.f)
		return s | 0x7c00;
	if (a < 0x1p-14f) /* denormals: steps of 2^-24 */
		return s | (uint16_t)rintf(a * 0x1p24f);
	u += 0xfff + (u >> 13 & 1);
	return s | (uint16_t)((u >> 13) - (112 << 10));
}

float emu_e4m3_f32(uint8_t b)
{
	int e = b >> 3 & 15, m = b & 7;
	float y = (b & 0x7f) == 0x7f ? NAN : e ? ldexpf((float)(8 + m), e - 10) : (float)m * 0x1p-9f;

	return b & 0x80 ? -y : y;
}

uint8_t emu_f32_e4m3(float x)
{
	uint8_t s = (uint8_t)(f32_bits(x) >> 24 & 0x80);
	float a = fabsf(x);
	uint32_t u;

	if (x != x)
		return 0x7f;
	if (a > 448.f)
		return s | 0x7e;
	if (a < 0x1p-6f) /* denormals: steps of 2^-9 */
		return s | (uint8_t)rintf(a * 0x1p9f);
	u = f32_bits(a);
	u += 0x7ffff + (u >> 20 & 1);
	return s | (uint8_t)((u >> 20) - (120 << 3));
}
