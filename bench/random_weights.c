/* SPDX-License-Identifier: MIT */
/* bench/random_weights.c - writes the numbers of a random checkpoint; scripts/make-weights
 * says which, and builds this when it is needed. A tensor's numbers follow from the seed
 * and its name alone, so the same seed gives the same bytes however they are spread over
 * files.
 *
 * usage: random_weights SEED STD, with lines on standard input:
 *   file PATH                    what follows is appended to it
 *   normal|ones|zeros bf16|f16|f32 COUNT NAME */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUANTILES 4096 /* numbers are drawn from so many equally likely ones */
#define BUFFER (1 << 20)

struct state {
	uint64_t seed;
	uint64_t s[4];             /* xoshiro256** (Blackman and Vigna 2018) */
	double normal[QUANTILES];
	FILE *out;
	char path[8192];
	char buffer[BUFFER];
};

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "random_weights: %s: %s\n", what, why);
	return 1;
}

/* ---- numbers ---- */

static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = *x += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void start(struct state *st, const char *name)
{
	uint64_t h = 0xcbf29ce484222325u ^ st->seed;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	for (int i = 0; i < 4; i++)
		st->s[i] = splitmix(&h);
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

static uint64_t next(uint64_t s[4])
{
	uint64_t r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return r;
}

/* The quantile p of the normal distribution, by halving. */
static double quantile(double p)
{
	double low = -8, high = 8;

	for (int i = 0; i < 60; i++) {
		double mid = (low + high) / 2;

		if (erfc(-mid / sqrt(2)) / 2 < p)
			low = mid;
		else
			high = mid;
	}
	return (low + high) / 2;
}

/* ---- types; to nearest, ties to even ---- */

static uint32_t to_f32(double x)
{
	float f = (float)x;
	uint32_t u;

	memcpy(&u, &f, 4);
	return u;
}

static uint32_t to_bf16(double x)
{
	uint32_t u = to_f32(x);

	return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

/* |x| below 65504. */
static uint32_t to_f16(double x)
{
	uint32_t sign = x < 0 ? 0x8000 : 0, q;
	int e;

	frexp(x, &e);
	e = e < -13 ? -13 : e;
	q = (uint32_t)rint(ldexp(fabs(x), 11 - e));
	return sign + (q < 1024 ? q : ((uint32_t)(e + 14) << 10) + (q - 1024));
}

static const struct { const char *name; int bytes; uint32_t (*make)(double); } types[] = {
	{ "bf16", 2, to_bf16 }, { "f16", 2, to_f16 }, { "f32", 4, to_f32 },
};
#define N_TYPES (sizeof(types) / sizeof(*types))

/* ---- one tensor ---- */

static void fill16(uint64_t s[4], const uint32_t *table, uint16_t *to, size_t n)
{
	for (size_t i = 0; i < n; i += 4) {
		uint64_t r = next(s);

		for (size_t j = 0; j < 4; j++)
			to[i + j] = (uint16_t)table[r >> 16 * j & (QUANTILES - 1)];
	}
}

static void fill32(uint64_t s[4], const uint32_t *table, uint32_t *to, size_t n)
{
	for (size_t i = 0; i < n; i += 4) {
		uint64_t r = next(s);

		for (size_t j = 0; j < 4; j++)
			to[i + j] = table[r >> 16 * j & (QUANTILES - 1)];
	}
}

static int write_tensor(struct state *st, const char *kind, size_t type, long long count, const char *name)
{
	uint32_t table[QUANTILES];
	int bytes = types[type].bytes;
	long long room = BUFFER / bytes;

	for (int i = 0; i < QUANTILES; i++)
		table[i] = types[type].make(!strcmp(kind, "normal") ? st->normal[i] : !strcmp(kind, "ones"));
	start(st, name);
	for (long long n; count > 0; count -= n) {
		n = count < room ? count : room;
		if (bytes == 2)
			fill16(st->s, table, (void *)st->buffer, (size_t)n);
		else
			fill32(st->s, table, (void *)st->buffer, (size_t)n);
		if (fwrite(st->buffer, (size_t)bytes, (size_t)n, st->out) != (size_t)n)
			return fail(st->path, strerror(errno));
	}
	return 0;
}

static int close_file(struct state *st)
{
	FILE *f = st->out;

	st->out = NULL;
	return f && fclose(f) ? fail(st->path, strerror(errno)) : 0;
}

static int open_file(struct state *st, const char *path)
{
	if (close_file(st))
		return 1;
	snprintf(st->path, sizeof(st->path), "%s", path);
	st->out = fopen(path, "ab");
	if (!st->out)
		return fail(path, strerror(errno));
	setvbuf(st->out, NULL, _IONBF, 0);
	return 0;
}

static int run_line(struct state *st, const char *line)
{
	char kind[16], type[16], name[1024];
	long long count;

	if (!strncmp(line, "file ", 5))
		return open_file(st, line + 5);
	if (sscanf(line, "%15s %15s %lld %1023s", kind, type, &count, name) != 4 || count < 0 || !st->out)
		return fail(line, "no such command");
	for (size_t i = 0; i < N_TYPES; i++)
		if (!strcmp(types[i].name, type))
			return write_tensor(st, kind, i, count, name);
	return fail(line, "no such type");
}

int main(int argc, char **argv)
{
	static struct state st;
	static char line[8192];
	int rc = 0;

	if (argc != 3)
		return fail("usage", "random_weights SEED STD");
	st.seed = strtoull(argv[1], NULL, 10);
	for (int i = 0; i < QUANTILES; i++)
		st.normal[i] = atof(argv[2]) * quantile((i + 0.5) / QUANTILES);
	while (!rc && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		rc = run_line(&st, line);
	}
	return close_file(&st) || rc;
}
