/* SPDX-License-Identifier: MIT */
/* cpuid.c - which instructions the processor has and the system saves the registers
 * of, and what the processor is called. */
#include <stdio.h>
#include <string.h>

#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What lies above AVX2 is compiled as AVX2 in the module that tests/simd builds: any processor
 * with AVX2 has all of it there. */
#ifdef NVLLM_EMULATED
enum { EMULATED = 1 };
#else
enum { EMULATED = 0 };
#endif

/* Bits of leaf 7, which compilers have different names for. */
enum {
	AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, /* edx of subleaf 0 */
	AVX512_BF16 = 1 << 5, /* eax of subleaf 1 */
};

/* Register sets that the system saves at a task switch (Intel SDM vol. 1, 13.3). */
static unsigned saved_registers(void)
{
	unsigned lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo;
}

static bool all_bits(unsigned have, unsigned want)
{
	return (have & want) == want;
}

static bool has_bf16(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 1, &a, &b, &c, &d) && all_bits(a, AVX512_BF16);
}

/* With edx of leaf 7. */
static bool has_amx(unsigned edx, unsigned saved)
{
	return all_bits(edx, AMX_BF16 | AMX_TILE | AMX_INT8) && all_bits(saved, 0x60000); /* tiles, and their shapes */
}

enum isa_level cpuid_level(void)
{
	const unsigned avx = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
	const unsigned avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
	unsigned a, b, c, d, saved;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !all_bits(c, avx))
		return ISA_SCALAR;
	saved = saved_registers();
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all_bits(b, bit_AVX2) ||
			!all_bits(saved, 0x06)) /* xmm, ymm */
		return ISA_SCALAR;
	if (EMULATED)
		return ISA_AMX;
	if (!all_bits(b, avx512) || !all_bits(saved, 0xe6)) /* and masks, zmm */
		return ISA_AVX2;
	if (!all_bits(c, bit_AVX512VNNI))
		return ISA_AVX512;
	if (!has_bf16())
		return ISA_VNNI;
	return has_amx(d, saved) ? ISA_AMX : ISA_BF16;
}

/* arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Documentation/arch/x86/xstate.rst. */
bool cpuid_ask_tiles(void)
{
#if defined(__linux__)
	return EMULATED || syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
	return EMULATED;
#endif
}

void cpuid_name(char *name, size_t len)
{
	unsigned r[13] = { 0 };
	const char *s = (const char *)r;

	snprintf(name, len, "x86-64 CPU");
	if ((unsigned)__get_cpuid_max(0x80000000u, NULL) < 0x80000004u)
		return;
	for (unsigned i = 0; i < 3; i++)
		__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2],
			&r[4 * i + 3]);
	while (*s == ' ')
		s++;
	snprintf(name, len, "%s", s);
	for (size_t n = strlen(name); n && name[n - 1] == ' '; n--)
		name[n - 1] = 0;
}
#else
enum isa_level cpuid_level(void)
{
	return ISA_SCALAR;
}

bool cpuid_ask_tiles(void)
{
	return false;
}

void cpuid_name(char *name, size_t len)
{
	snprintf(name, len, "CPU");
}
#endif
