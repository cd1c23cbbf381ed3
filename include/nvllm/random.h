/* SPDX-License-Identifier: MIT */
/* nvllm/random.h - the random numbers of sampling: Philox4x32-10, a counter-based
 * generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). The same number on every device, in any batch, in any order. */
#ifndef NVLLM_RANDOM_H
#define NVLLM_RANDOM_H

#include <stdint.h>

#ifdef __CUDACC__
#define NVLLM_RANDOM_FN static inline __host__ __device__
#else
#define NVLLM_RANDOM_FN static inline
#endif

/* Ten rounds on the counter c under the key k; the result is in c. */
NVLLM_RANDOM_FN void nvllm_philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
	for (int i = 0; i < 10; i++) {
		uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
		uint32_t x = (uint32_t)(b >> 32) ^ c[1] ^ k0, z = (uint32_t)(a >> 32) ^ c[3] ^ k1;

		c[0] = x, c[1] = (uint32_t)b, c[2] = z, c[3] = (uint32_t)a;
		k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
	}
}

/* A uniform number in [0, 1) with 53 bits, for one (seed, choice, position). */
NVLLM_RANDOM_FN double nvllm_uniform(uint64_t seed, int32_t choice, uint64_t position)
{
	uint32_t c[4] = { (uint32_t)position, (uint32_t)(position >> 32), (uint32_t)choice, 0 };

	nvllm_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
	return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * (1.0 / 9007199254740992.0);
}

#undef NVLLM_RANDOM_FN
#endif
