/* SPDX-License-Identifier: MIT */
/* tests/emu/inside.h - what the emulator's own files share: fibers, warps, the block that runs. */
#ifndef NVLLM_EMU_INSIDE_H
#define NVLLM_EMU_INSIDE_H

#include "emu.h"
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif

#define EMU_THREADS 1024 /* most of a block */
#define EMU_SMEM (227 * 1024)
#define EMU_BARS 16
#define EMU_POISON 0xff /* NaN in every float type, -1 in every integer */

enum emu_wait { EMU_RUNS, EMU_AT_BAR, EMU_AT_WARP, EMU_AT_MBAR, EMU_ENDED };

struct emu_copy { /* on its way */
	char *dst;
	const char *src; /* NULL: zeros */
	uint32_t bytes;
};

struct emu_fiber {
	void *sp;
	void *fake_stack; /* of AddressSanitizer */
	uint3 tid;
	int id, wait; /* id: in the block */
	bool griddep;
	const char *file; /* where it waits, and for what */
	int line;
	const char *what;
	std::vector<emu_copy> copies;  /* cp.async, oldest first */
	std::vector<size_t> groups;    /* ends of the groups committed, in copies */
};

struct emu_warp {
	uint32_t live, runnable, pending;
	/* While uniform, all that are pending wait for the same op and mask. */
	bool uniform;
	int op[32], src[32];
	uint32_t mask[32];
	uint64_t in[32], out[32];
	const void *a[32], *b[32]; /* operands of matrices; d: results */
	void *d[32];
};

struct emu_bar {
	int arrived, wanted, or_, and_, count, result; /* wanted 0: all that live */
	const char *file;
	int line;
	uint32_t waiting[32]; /* lanes of each warp */
};

struct emu_block {
	struct emu_fiber fibers[EMU_THREADS];
	struct emu_warp warps[32];
	struct emu_bar bars[EMU_BARS];
	uint32_t run_warps; /* warps with a runnable lane */
	int n_threads, n_warps, n_live;
	struct emu_fiber *cur;
	char *smem; /* of this block; its bytes */
	size_t smem_bytes;
};
extern struct emu_block emu;

static inline struct emu_warp *emu_warp_of(const struct emu_fiber *f) { return &emu.warps[f->id >> 5]; }
uint32_t emu_random(void);
void emu_wake(int warp, uint32_t lanes);
/* Lets others run until this fiber is woken. */
void emu_block_on(int wait, const char *what, const char *file, int line);
bool emu_is_shared(const void *, size_t bytes);
const char *emu_op_name(int op);
/* Does the operation for all lanes of mask. */
void emu_matrix_op(struct emu_warp *, int op, const char *file, int line);

/* async.cc */
void emu_async_begin(void);  /* of a block */
bool emu_async_deliver(void); /* some copy that somebody waits for; false: there is none */
void emu_async_thread_end(struct emu_fiber *);
void emu_async_end(void);

#endif
