/* SPDX-License-Identifier: MIT */
/* limits.c - what this machine can do at most, on 1 to N threads at once: bytes read from memory,
 * products and sums in f32, byte products (four to a 32-bit word, as AVX2, or as AVX-512 VNNI
 * where it is there), those of bf16 by AVX-512 BF16, and those of AMX tiles, bytes and bf16. One line
 * of JSON a number of threads.
 *
 * usage: cc -O2 -pthread bench/limits.c -o limits && ./limits [threads] */
#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES ((size_t)256 << 20)
#define LOOPS 4000000
#define ROUNDS 5

static pthread_barrier_t gate;
static volatile int sink;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Each returns what it did in one round, in units of its own. */
__attribute__((target("avx2,fma"))) static double read_bytes(const char *p)
{
	__m256i s = _mm256_setzero_si256();

	for (size_t i = 0; i < READ_BYTES; i += 64) {
		s = _mm256_add_epi64(s, _mm256_load_si256((const __m256i *)(p + i)));
		s = _mm256_add_epi64(s, _mm256_load_si256((const __m256i *)(p + i + 32)));
	}
	sink += _mm256_extract_epi32(s, 0);
	return (double)READ_BYTES;
}

__attribute__((target("avx2,fma"))) static double fma_avx2(const char *p)
{
	__m256 s[10], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps((float)(p != NULL));

	for (int i = 0; i < 10; i++)
		s[i] = b;
	for (int n = 0; n < LOOPS; n++) {
#pragma GCC unroll 10
		for (int i = 0; i < 10; i++)
			s[i] = _mm256_fmadd_ps(s[i], a, b);
		__asm__ volatile("" : "+x"(a));
	}
	for (int i = 1; i < 10; i++)
		s[0] = _mm256_add_ps(s[0], s[i]);
	sink += (int)s[0][0];
	return 10. * 8 * LOOPS;
}

__attribute__((target("avx512f"))) static double fma_avx512(const char *p)
{
	__m512 s[10], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps((float)(p != NULL));

	for (int i = 0; i < 10; i++)
		s[i] = b;
	for (int n = 0; n < LOOPS; n++) {
#pragma GCC unroll 10
		for (int i = 0; i < 10; i++)
			s[i] = _mm512_fmadd_ps(s[i], a, b);
		__asm__ volatile("" : "+v"(a));
	}
	for (int i = 1; i < 10; i++)
		s[0] = _mm512_add_ps(s[0], s[i]);
	sink += (int)s[0][0];
	return 10. * 16 * LOOPS;
}

/* Bytes to words in pairs, added up: what a product of nibbles does. */
__attribute__((target("avx2"))) static double bytes_avx2(const char *p)
{
	__m256i s[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8((char)(p != NULL));

	for (int i = 0; i < 8; i++)
		s[i] = b;
	for (int n = 0; n < LOOPS; n++) {
#pragma GCC unroll 8
		for (int i = 0; i < 8; i++) {
			__m256i v = _mm256_maddubs_epi16(a, b);

			__asm__ volatile("" : "+x"(v), "+x"(a));
			s[i] = _mm256_add_epi16(s[i], v);
		}
	}
	for (int i = 1; i < 8; i++)
		s[0] = _mm256_add_epi16(s[0], s[i]);
	sink += _mm256_extract_epi32(s[0], 0);
	return 8. * 32 * LOOPS;
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static double bytes_vnni(const char *p)
{
	__m512i s[10], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8((char)(p != NULL));

	for (int i = 0; i < 10; i++)
		s[i] = b;
	for (int n = 0; n < LOOPS; n++) {
#pragma GCC unroll 10
		for (int i = 0; i < 10; i++)
			s[i] = _mm512_dpbusd_epi32(s[i], a, b);
		__asm__ volatile("" : "+v"(a));
	}
	for (int i = 1; i < 10; i++)
		s[0] = _mm512_add_epi32(s[0], s[i]);
	sink += _mm512_reduce_add_epi32(s[0]);
	return 10. * 64 * LOOPS;
}

__attribute__((target("avx512f,avx512bf16"))) static double bf16_avx512(const char *p)
{
	const __m512bh b = (__m512bh)_mm512_set1_epi32(p != NULL);
	__m512i a = _mm512_set1_epi32(0x3f003f00);
	__m512 s[10];

	for (int i = 0; i < 10; i++)
		s[i] = _mm512_setzero_ps();
	for (int n = 0; n < LOOPS; n++) {
#pragma GCC unroll 10
		for (int i = 0; i < 10; i++)
			s[i] = _mm512_dpbf16_ps(s[i], (__m512bh)a, b);
		__asm__ volatile("" : "+v"(a));
	}
	for (int i = 1; i < 10; i++)
		s[0] = _mm512_add_ps(s[0], s[i]);
	sink += (int)s[0][0];
	return 10. * 32 * LOOPS;
}

/* Four tiles of sums, of two and two tiles of factors: 16 x 16 x 64 bytes a product. */
struct shape {
	uint8_t palette, start, none[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};
static const _Alignas(64) struct shape tiles = { .palette = 1, .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
	.rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };

#define TILES(name, target_, product, numbers) \
__attribute__((target(target_))) static double name(const char *p) \
{ \
	_tile_loadconfig(&tiles); \
	_tile_loadd(4, p, 64); \
	_tile_loadd(5, p, 64); \
	_tile_loadd(6, p, 64); \
	_tile_loadd(7, p, 64); \
	_tile_zero(0); \
	_tile_zero(1); \
	_tile_zero(2); \
	_tile_zero(3); \
	for (int n = 0; n < LOOPS / 16; n++) { \
		product(0, 4, 6); \
		product(1, 4, 7); \
		product(2, 5, 6); \
		product(3, 5, 7); \
	} \
	_tile_release(); \
	return 4. * 16 * 16 * (numbers) * (LOOPS / 16); \
}
TILES(bytes_tiles, "amx-tile,amx-int8", _tile_dpbssd, 64)
TILES(bf16_tiles, "amx-tile,amx-bf16", _tile_dpbf16ps, 32)

/* Tiles of bytes and bf16, and the system lets us use them: Documentation/arch/x86/xstate.rst. */
static int has_tiles(void)
{
	const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted &&
		syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

struct task {
	double (*fn)(const char *);
	char *memory;
	double done, start, end; /* by its own clock: who starts them may not get a core in time */
};

static void *work(void *arg)
{
	struct task *t = arg;

	pthread_barrier_wait(&gate);
	t->start = now();
	t->done = t->fn(t->memory);
	t->end = now();
	return NULL;
}

/* Units a nanosecond, all threads together: the best of some rounds. */
static double run(int threads, double (*fn)(const char *), char **memory)
{
	double best = 0;

	for (int r = 0; r < ROUNDS; r++) {
		pthread_t id[64];
		struct task t[64];
		double start = 0, end = 0, sum = 0;

		pthread_barrier_init(&gate, NULL, (unsigned)threads);
		for (int i = 0; i < threads; i++) {
			t[i] = (struct task){ fn, memory[i], 0, 0, 0 };
			if (pthread_create(&id[i], NULL, work, &t[i]))
				exit(1);
		}
		for (int i = 0; i < threads; i++) {
			pthread_join(id[i], NULL);
			sum += t[i].done;
			start = i && start < t[i].start ? start : t[i].start;
			end = end > t[i].end ? end : t[i].end;
		}
		sum /= (end - start) * 1e9;
		best = sum > best ? sum : best;
		pthread_barrier_destroy(&gate);
	}
	return best;
}

int main(int argc, char **argv)
{
	const int most = argc > 1 ? atoi(argv[1]) : 1;
	const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
	const int vnni = wide && __builtin_cpu_supports("avx512vnni");
	const int bf16 = wide && __builtin_cpu_supports("avx512bf16");
	const int tiles_too = has_tiles();
	char *memory[64];

	if (most < 1 || most > 64) {
		fprintf(stderr, "usage: limits [1..64 threads]\n");
		return 2;
	}
	for (int i = 0; i < most; i++) {
		memory[i] = aligned_alloc(4096, READ_BYTES);
		if (!memory[i])
			return 1;
		memset(memory[i], i + 1, READ_BYTES);
	}
	for (int n = 1; n <= most; n++) {
		printf("{\"threads\": %d, \"read_gb_per_s\": %.1f, \"f32_gmac_per_s\": %.1f, \"byte_gmac_per_s\": %.1f", n,
			run(n, read_bytes, memory), run(n, wide ? fma_avx512 : fma_avx2, memory),
			run(n, vnni ? bytes_vnni : bytes_avx2, memory));
		if (bf16)
			printf(", \"bf16_gmac_per_s\": %.1f", run(n, bf16_avx512, memory));
		if (tiles_too)
			printf(", \"tile_byte_gmac_per_s\": %.1f, \"tile_bf16_gmac_per_s\": %.1f", run(n, bytes_tiles, memory),
				run(n, bf16_tiles, memory));
		puts("}");
	}
	return 0;
}
