/* SPDX-License-Identifier: MIT */
/* tests/conform/rand.c - the random numbers of the suites: fixed seeds, so a verdict
 * is the same on every run. splitmix64 (Steele, Lea, Flood 2014). */
#include "check.h"

uint64_t rng_u64(struct rng *r)
{
	uint64_t z = (r->s += 0x9E3779B97F4A7C15ull);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

int64_t rng_int(struct rng *r, int64_t n)
{
	return (int64_t)(rng_u64(r) % (uint64_t)n);
}

double rng_unit(struct rng *r)
{
	return (double)(rng_u64(r) >> 11) * (2.0 / 9007199254740992.0) - 1;
}

/* FNV-1a. */
uint64_t hash_text(const char *s)
{
	uint64_t h = 0xCBF29CE484222325ull;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001B3ull;
	return h;
}
