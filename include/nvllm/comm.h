/* SPDX-License-Identifier: MIT */
/* nvllm/comm.h - collectives for one group of ranks. The core decides the groups; a
 * group may be threads of one process or span hosts. */
#ifndef NVLLM_COMM_H
#define NVLLM_COMM_H

#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct nvllm_comm;
#define NVLLM_COMM_ID_BYTES 256

struct nvllm_comm_vt {
	uint32_t size;
	uint32_t reserved;  /* 0 */
	uint64_t need;      /* NVLLM_DEV_* that the device must have */
	/* [setup] Rank 0 makes the id, the core carries it to the others. */
	int  (*make_id)(const struct nvllm_host *, uint8_t id[NVLLM_COMM_ID_BYTES]);
	/* [setup] Collective: returns on each rank when all have called it. */
	int  (*create)(const struct nvllm_host *, const struct nvllm_device_ref *,
		const uint8_t id[NVLLM_COMM_ID_BYTES], int32_t rank, int32_t world,
		const void *conf, struct nvllm_comm **out);
	/* [setup] After every graph that recorded a call on this group is freed. */
	void (*destroy)(struct nvllm_comm *);
	/* [step] In place, stream-ordered, recordable where the device has graphs. Sums are
	 * taken in rank order. */
	int  (*all_reduce)(struct nvllm_comm *, nvllm_stream, struct nvllm_tensor x);
	/* [step] y: world times x's bytes, in rank order. */
	int  (*all_gather)(struct nvllm_comm *, nvllm_stream, void *y, const void *x, int64_t bytes);
	/* [step] */
	int  (*broadcast)(struct nvllm_comm *, nvllm_stream, void *buf, int64_t bytes, int32_t root);
	/* [step] Optional: x += sum over ranks of d; y = norm(x). NULL = composed by the core. */
	int  (*all_reduce_add_norm)(struct nvllm_comm *, nvllm_stream, struct nvllm_tensor y,
		struct nvllm_tensor x, struct nvllm_tensor d, const struct nvllm_norm *);
};

#ifdef __cplusplus
}
#endif
#endif
