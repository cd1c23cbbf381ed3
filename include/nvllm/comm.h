/* SPDX-License-Identifier: MIT */
/* nvllm/comm.h - collectives for one group of ranks. The core decides the groups; a
 * group may be threads of one process or span hosts.
 *
 * Every rank makes the same calls in the same order, also after an error of its own (it
 * then brings whatever its buffers hold, and reports the error after the step). A rank
 * that waits for one that does not come gives up after a while with NVLLM_ECOMM. */
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
	/* [setup] Rank 0 makes the id of a group, once; the core carries it to the others. */
	int  (*make_id)(const struct nvllm_host *, uint8_t id[NVLLM_COMM_ID_BYTES]);
	/* [setup] Collective: returns on each rank when all have called it. */
	int  (*create)(const struct nvllm_host *, const struct nvllm_device_ref *,
		const uint8_t id[NVLLM_COMM_ID_BYTES], int32_t rank, int32_t world,
		const void *conf, struct nvllm_comm **out);
	/* [setup] After every graph that recorded a call on this group is freed. */
	void (*destroy)(struct nvllm_comm *);
	/* [step] x += the other ranks' x: f32, of one shape on all ranks, its rows any stride
	 * apart. In place, stream-ordered, recordable where the device has graphs. Each element
	 * is summed in rank order, so every rank gets the same bits, in every run. */
	int  (*all_reduce)(struct nvllm_comm *, nvllm_stream, struct nvllm_tensor x);
	/* [step] y [rows][sum of the ranks' columns] = the ranks' x [rows][its columns] side by
	 * side in rank order; f32, rows alike on all ranks, columns not (0 is legal). */
	int  (*all_gather)(struct nvllm_comm *, nvllm_stream, struct nvllm_tensor y, struct nvllm_tensor x);
};

#ifdef __cplusplus
}
#endif
#endif
