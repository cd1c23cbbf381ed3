/* SPDX-License-Identifier: MIT */
/* tests/emu/emu.cc - fibers, their order, launches, shared memory, failures. */
#include "inside.h"

#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES (128 * 1024) /* of a fiber, the lowest page of it inaccessible */
#define PAGE_BYTES 4096
#define MARGIN 256 /* canary bytes before dynamic shared memory */
#define CANARY 0xa5

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
long emu_launches;
struct emu_block emu;

static uint64_t rng = 0x9e3779b97f4a7c15ull;
static int order = EMU_RANDOM;
static bool need_griddep = true;
static cudaError_t last_error;
static char *stacks, *smem_end; /* smem_end: of the region, a page boundary */
static void *main_sp, *main_fake;
static const void *main_stack;
static size_t main_stack_bytes;
static void (*body)(void *);
static void *body_args;

void emu_seed(uint64_t n) { rng = (n + 1) * 0x9e3779b97f4a7c15ull | 1; }
void emu_set_order(int o) { order = o; }
void emu_need_griddep(bool b) { need_griddep = b; }

uint32_t emu_random(void)
{
	rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
	return (uint32_t)(rng >> 32);
}

/* ---- failures ---- */

static void say_where(void)
{
	if (emu.cur)
		fprintf(stderr, "emu: block (%u,%u,%u) of (%u,%u,%u), thread (%u,%u,%u) of (%u,%u,%u): ",
			blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z,
			emu.cur->tid.x, emu.cur->tid.y, emu.cur->tid.z, blockDim.x, blockDim.y, blockDim.z);
	else
		fprintf(stderr, "emu: ");
}

void emu_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	say_where();
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (file)
		fprintf(stderr, " (%s:%d)", file, line);
	fprintf(stderr, "\n");
	fflush(stderr);
	_exit(1);
}

static void on_signal(int sig, siginfo_t *info, void *)
{
	const char *p = (const char *)info->si_addr;

	fflush(stdout);
	say_where();
	fprintf(stderr, "%s at address %p", sig == SIGILL ? "illegal instruction (a sanitizer's trap)" : sig == SIGFPE ?
		"division by zero" : "bad memory access", (const void *)p);
	if (emu.cur && smem_end && p >= smem_end && p < smem_end + PAGE_BYTES)
		fprintf(stderr, ", %ld bytes past the end of dynamic shared memory of %zu",
			(long)(p - (emu.smem + emu.smem_bytes)), emu.smem_bytes);
	if (emu.cur && p >= stacks + (size_t)emu.cur->id * STACK_BYTES && p < stacks + (size_t)emu.cur->id * STACK_BYTES + PAGE_BYTES)
		fprintf(stderr, ", the thread's stack is full");
	fprintf(stderr, "\n");
	fflush(stderr);
	_exit(1);
}

static void catch_signals(void)
{
	static const int list[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE };
	static char alt[64 * 1024];
	struct sigaction sa = {};
	stack_t ss = {};

	ss.ss_sp = alt, ss.ss_size = sizeof(alt);
	sigaltstack(&ss, NULL);
	sa.sa_sigaction = on_signal, sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	for (size_t i = 0; !EMU_ASAN && i < sizeof(list) / sizeof(*list); i++)
		sigaction(list[i], &sa, NULL);
}

/* ---- fibers ---- */

/* Keeps what the x86-64 ABI says a function keeps; rdi: where the stack pointer goes, rsi: the
 * other's. */
extern "C" void emu_switch(void **save, void *to);
__asm__(
	".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
	"\tpushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n"
	"\tmovq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n"
	"\tpopq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret\n"
	".size emu_switch,.-emu_switch\n");

#if EMU_ASAN
static void asan_start(void **fake, const void *bottom, size_t bytes) { __sanitizer_start_switch_fiber(fake, bottom, bytes); }
static void asan_finish(void *fake, const void **bottom, size_t *bytes) { __sanitizer_finish_switch_fiber(fake, bottom, bytes); }
#else
static void asan_start(void **, const void *, size_t) {}
static void asan_finish(void *, const void **, size_t *) {}
#endif

static char *stack_of(const struct emu_fiber *f) { return stacks + (size_t)f->id * STACK_BYTES; }

/* From `from` (NULL: the main program, or a fiber that ended) to `to` (NULL: the main program). */
static void go(void **save_sp, void **save_fake, struct emu_fiber *to)
{
	struct emu_fiber *me = emu.cur;

	emu.cur = to;
	if (to) {
		threadIdx = to->tid;
		to->wait = EMU_RUNS;
		asan_start(save_fake, stack_of(to), STACK_BYTES);
	} else {
		asan_start(save_fake, main_stack, main_stack_bytes);
	}
	emu_switch(save_sp, to ? to->sp : main_sp);
	asan_finish(me ? me->fake_stack : main_fake, NULL, NULL);
}

void emu_wake(int warp, uint32_t lanes)
{
	if (!lanes)
		return;
	emu.warps[warp].runnable |= lanes;
	emu.run_warps |= 1u << warp;
}

static int some_bit(uint32_t x)
{
	int r;

	if (order == EMU_UP)
		return __builtin_ctz(x);
	if (order == EMU_DOWN)
		return 31 - __builtin_clz(x);
	r = (int)(emu_random() & 31);
	return (__builtin_ctz(r ? x >> r | x << (32 - r) : x) + r) & 31;
}

/* The fiber to run next, taken from the runnable ones. In random order a warp mostly runs until
 * it must wait: some get far ahead of others. */
static struct emu_fiber *pick(void)
{
	struct emu_warp *w;
	int wi, l;

	if (!emu.run_warps)
		return NULL;
	if (order == EMU_RANDOM && (emu_random() & 63) == 0)
		emu_async_deliver();
	wi = emu.cur ? emu.cur->id >> 5 : 0;
	if (order != EMU_RANDOM || !(emu.run_warps >> wi & 1) || (emu_random() & 7) == 0)
		wi = some_bit(emu.run_warps);
	w = &emu.warps[wi];
	l = some_bit(w->runnable);
	w->runnable &= ~(1u << l);
	if (!w->runnable)
		emu.run_warps &= ~(1u << wi);
	return &emu.fibers[wi * 32 + l];
}

/* Nobody can run: who waits where. */
[[noreturn]] static void deadlock(void)
{
	struct emu_fiber *f, *g;
	int n;

	fflush(stdout);
	fprintf(stderr, "emu: block (%u,%u,%u): deadlock, no thread can go on:\n", blockIdx.x, blockIdx.y, blockIdx.z);
	for (int i = 0; i < emu.n_threads; i = n) {
		f = &emu.fibers[i];
		for (n = i + 1; n < emu.n_threads; n++) {
			g = &emu.fibers[n];
			if (g->wait != f->wait || (f->wait != EMU_ENDED && (g->line != f->line || g->what != f->what)))
				break;
		}
		if (f->wait == EMU_ENDED)
			fprintf(stderr, "emu:   threads %d to %d have ended\n", i, n - 1);
		else
			fprintf(stderr, "emu:   threads %d to %d wait in %s (%s:%d)\n", i, n - 1, f->what, f->file, f->line);
	}
	_exit(1);
}

static struct emu_fiber *next_or_dead(void)
{
	struct emu_fiber *f = pick();

	while (!f) {
		if (!emu_async_deliver())
			deadlock();
		f = pick();
	}
	return f;
}

void emu_block_on(int wait, const char *what, const char *file, int line)
{
	struct emu_fiber *me = emu.cur, *f;

	me->wait = wait, me->what = what, me->file = file, me->line = line;
	f = next_or_dead();
	if (f == me) { /* a delivery woke it */
		me->wait = EMU_RUNS;
		return;
	}
	go(&me->sp, &me->fake_stack, f);
}

void emu_yield(void)
{
	struct emu_fiber *me = emu.cur, *f;

	emu_wake(me->id >> 5, 1u << (me->id & 31));
	f = pick();
	if (f != me)
		go(&me->sp, &me->fake_stack, f);
}

void emu_maybe_yield(void)
{
	if (emu.cur && order == EMU_RANDOM && (emu_random() & 7) == 0)
		emu_yield();
}

/* ---- the block's barriers ---- */

static void bar_open(struct emu_bar *b)
{
	b->result = b->or_ | b->and_ << 1 | b->count << 2;
	b->arrived = b->wanted = b->or_ = b->count = 0, b->and_ = 1;
	for (int i = 0; i < emu.n_warps; i++) {
		emu_wake(i, b->waiting[i]);
		b->waiting[i] = 0;
	}
}

/* Barrier 0 opens when all that live are there. A warp of which some lanes ended and others wait is
 * not refused by every machine, and wrong by the book. */
static void bar_check(struct emu_bar *b)
{
	if (!b->arrived || b->arrived < (b->wanted ? b->wanted : emu.n_live))
		return;
	for (int i = 0; !b->wanted && i < emu.n_warps; i++) {
		int n = emu.n_threads - i * 32;
		uint32_t all = n >= 32 ? ~0u : (1u << n) - 1;

		if (emu.warps[i].live && emu.warps[i].live != all)
			emu_fail(b->file, b->line, "barrier divergence: warp %d waits in __syncthreads, and its lanes %08x have ended",
				i, all & ~emu.warps[i].live);
	}
	bar_open(b);
}

int emu_barrier(int id, int n_threads, int kind, int pred, bool wait, const char *file, int line)
{
	struct emu_bar *b = &emu.bars[id];
	struct emu_fiber *me = emu.cur;
	int r;

	if (id < 0 || id >= EMU_BARS || n_threads % 32 || n_threads < 0 || n_threads > emu.n_threads)
		emu_fail(file, line, "barrier %d of %d threads: numbers 0 to 15 and whole warps of the block are possible", id, n_threads);
	if (!b->arrived) {
		b->file = file, b->line = line, b->wanted = n_threads;
	} else if (n_threads == 0 && (b->line != line || strcmp(b->file, file))) {
		emu_fail(file, line, "barrier divergence: other threads of the block wait in the one at %s:%d", b->file, b->line);
	} else if (b->wanted != n_threads) {
		emu_fail(file, line, "barrier %d is for %d threads here, and for %d at %s:%d", id, n_threads, b->wanted, b->file, b->line);
	}
	b->arrived++;
	b->or_ |= pred, b->and_ &= pred, b->count += pred;
	if (wait)
		b->waiting[me->id >> 5] |= 1u << (me->id & 31);
	bar_check(b);
	if (wait)
		emu_block_on(EMU_AT_BAR, id ? "a named barrier" : "__syncthreads", file, line);
	r = b->result;
	return kind == EMU_BAR_OR ? r & 1 : kind == EMU_BAR_AND ? r >> 1 & 1 : r >> 2;
}

/* ---- a thread's life ---- */

[[noreturn]] static void thread_main(void)
{
	struct emu_fiber *me = emu.cur;
	struct emu_warp *w = emu_warp_of(me);
	int lane = me->id & 31;

	asan_finish(NULL, main_stack ? NULL : &main_stack, main_stack ? NULL : &main_stack_bytes);
	body(body_args);
	if (need_griddep && !me->griddep)
		emu_fail(NULL, 0, "the thread ends and never called griddep_wait()");
	emu_async_thread_end(me);
	for (uint32_t p = w->pending; p; p &= p - 1) {
		int l = __builtin_ctz(p);

		if (w->mask[l] >> lane & 1)
			emu_fail(emu.fibers[(me->id & ~31) + l].file, emu.fibers[(me->id & ~31) + l].line,
				"divergence: the thread ends while lane %d waits for it in %s", l, emu_op_name(w->op[l]));
	}
	w->live &= ~(1u << lane);
	emu.n_live--;
	me->wait = EMU_ENDED;
	bar_check(&emu.bars[0]);
	go(&me->sp, NULL, emu.n_live ? next_or_dead() : NULL);
	__builtin_unreachable();
}

static void thread_begin(int id)
{
	struct emu_fiber *f = &emu.fibers[id];
	/* Stacks begin at different lines of the first-level cache. */
	void **sp = (void **)(stacks + (size_t)(id + 1) * STACK_BYTES - (size_t)(id * 5 % 64) * 64 - 64);

	f->id = id, f->griddep = false, f->fake_stack = NULL;
	f->tid.x = (unsigned)id % blockDim.x;
	f->tid.y = (unsigned)id / blockDim.x % blockDim.y;
	f->tid.z = (unsigned)id / blockDim.x / blockDim.y;
	f->wait = EMU_RUNS, f->what = "nothing", f->file = "", f->line = 0;
	sp[0] = (void *)thread_main; /* which begins as if called: 8 bytes below a multiple of 16 */
	for (int i = 1; i <= 6; i++)
		sp[-i] = NULL;
	f->sp = sp - 6;
}

/* ---- shared memory ---- */

static int find_tls(struct dl_phdr_info *info, size_t, void *out)
{
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data) {
			((char **)out)[0] = (char *)info->dlpi_tls_data;
			((char **)out)[1] = (char *)info->dlpi_tls_data + info->dlpi_phdr[i].p_memsz;
		}
	return 1; /* the program is the first of the list */
}

/* The static __shared__ arrays of the program, [0] to [1]. */
static char **static_smem(void)
{
	static char *at[2];

	if (!at[0])
		dl_iterate_phdr(find_tls, at);
	return at;
}

bool emu_is_shared(const void *p, size_t bytes)
{
	const char *q = (const char *)p, *const *s = static_smem();

	return (q >= emu.smem && q + bytes <= emu.smem + emu.smem_bytes) || (q >= s[0] && q + bytes <= s[1]);
}

char *dyn_smem(void) { return emu.smem; }

uint32_t smem_addr(const void *p)
{
	const char *q = (const char *)p, *const *s = static_smem();

	if (q >= emu.smem && q <= emu.smem + emu.smem_bytes)
		return 1024 + (uint32_t)(q - emu.smem);
	if (q >= s[0] && q < s[1])
		return 0x100000 + (uint32_t)(q - s[0]);
	emu_fail(NULL, 0, "smem_addr: address %p is not in shared memory", p);
}

void griddep_wait(void) { emu.cur->griddep = true; }

long long clock64(void)
{
	static long long t;

	return t += 16;
}

/* Dynamic shared memory ends where an inaccessible page begins, but for what 1024-byte alignment
 * leaves; before and after it lie canaries. */
static void smem_begin(size_t bytes)
{
	emu.smem = smem_end - (bytes + 1023) / 1024 * 1024;
	emu.smem_bytes = bytes;
#if EMU_ASAN
	ASAN_UNPOISON_MEMORY_REGION(smem_end - EMU_SMEM - 1024 - MARGIN, EMU_SMEM + 1024 + MARGIN);
#endif
	memset(emu.smem - MARGIN, CANARY, MARGIN);
	memset(emu.smem + bytes, CANARY, (size_t)(smem_end - (emu.smem + bytes)));
#if EMU_ASAN
	ASAN_POISON_MEMORY_REGION(emu.smem + bytes, (size_t)(smem_end - (emu.smem + bytes)));
	ASAN_POISON_MEMORY_REGION(emu.smem - MARGIN, MARGIN);
#endif
}

static void smem_check(void)
{
#if EMU_ASAN
	return;
#endif
	for (char *p = emu.smem - MARGIN; p < emu.smem; p++)
		if (*p != (char)CANARY)
			emu_fail(NULL, 0, "a thread of block (%u,%u,%u) wrote %ld bytes before dynamic shared memory",
				blockIdx.x, blockIdx.y, blockIdx.z, (long)(emu.smem - p));
	for (char *p = emu.smem + emu.smem_bytes; p < smem_end; p++)
		if (*p != (char)CANARY)
			emu_fail(NULL, 0, "a thread of block (%u,%u,%u) wrote at byte %ld of dynamic shared memory of %zu",
				blockIdx.x, blockIdx.y, blockIdx.z, (long)(p - emu.smem), emu.smem_bytes);
}

/* A sanitizer that clang links statically has thread-local data of its own there. */
static void smem_poison(void)
{
#if !(defined(__clang__) && (EMU_ASAN || defined(EMU_KEEP_STATIC)))
	char **s = static_smem();

	if (s[0])
		memset(s[0], EMU_POISON, (size_t)(s[1] - s[0]));
#endif
	memset(emu.smem, EMU_POISON, emu.smem_bytes);
}

/* ---- launches ---- */

static void setup(void)
{
	size_t region = (EMU_SMEM + MARGIN + 1024 + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	char *p;

	if (stacks)
		return;
	stacks = (char *)mmap(NULL, (size_t)EMU_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	p = (char *)mmap(NULL, region + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stacks == MAP_FAILED || p == MAP_FAILED)
		emu_fail(NULL, 0, "no memory for the emulator");
	for (int i = 0; i < EMU_THREADS; i++)
		mprotect(stacks + (size_t)i * STACK_BYTES, PAGE_BYTES, PROT_NONE);
	smem_end = p + region;
	mprotect(smem_end, PAGE_BYTES, PROT_NONE);
	catch_signals();
}

static void run_block(size_t smem)
{
	smem_poison();
	emu_async_begin();
	memset(emu.bars, 0, sizeof(emu.bars));
	for (int i = 0; i < EMU_BARS; i++)
		emu.bars[i].and_ = 1;
	emu.run_warps = 0;
	for (int i = 0; i < emu.n_warps; i++) {
		struct emu_warp *w = &emu.warps[i];
		int n = emu.n_threads - i * 32;

		w->live = n >= 32 ? ~0u : (1u << n) - 1;
		w->pending = w->runnable = 0, w->uniform = true;
		emu_wake(i, w->live);
	}
	for (int i = 0; i < emu.n_threads; i++)
		thread_begin(i);
	emu.n_live = emu.n_threads;
	emu.cur = NULL;
	go(&main_sp, &main_fake, pick());
	emu_async_end();
	smem_check();
	for (int i = 1; i < EMU_BARS; i++)
		if (emu.bars[i].arrived)
			emu_fail(emu.bars[i].file, emu.bars[i].line, "block (%u,%u,%u) ended with %d of %d threads arrived at barrier %d",
				blockIdx.x, blockIdx.y, blockIdx.z, emu.bars[i].arrived, emu.bars[i].wanted, i);
	(void)smem;
}

static std::vector<std::pair<const void *, size_t>> allowed;

cudaError_t emu_allow_smem(const void *kernel, size_t bytes)
{
	if (bytes > EMU_SMEM)
		return last_error = cudaErrorInvalidValue;
	for (auto &a : allowed)
		if (a.first == kernel)
			return a.second = bytes, cudaSuccess;
	allowed.push_back({ kernel, bytes });
	return cudaSuccess;
}

static cudaError_t refuse(cudaError_t e, const char *why)
{
	fprintf(stderr, "emu: launch refused: %s: grid (%u,%u,%u), block (%u,%u,%u)\n", why,
		gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z);
	return last_error = e;
}

static cudaError_t check(const void *kernel, size_t smem)
{
	size_t most = 48 * 1024;
	uint64_t n = (uint64_t)blockDim.x * blockDim.y * blockDim.z;

	for (auto &a : allowed)
		if (a.first == kernel && a.second > most)
			most = a.second;
	if (smem > EMU_SMEM)
		return refuse(cudaErrorInvalidValue, "more than 227 KiB of shared memory");
	if (smem > most)
		return refuse(cudaErrorInvalidValue, "more dynamic shared memory than allow_smem() allowed the kernel");
	if (n == 0 || n > EMU_THREADS || blockDim.x > 1024 || blockDim.y > 1024 || blockDim.z > 64)
		return refuse(cudaErrorInvalidConfiguration, "a block has 1 to 1024 threads, 64 at most in z");
	if (!gridDim.x || !gridDim.y || !gridDim.z || gridDim.x > 0x7fffffff || gridDim.y > 65535 || gridDim.z > 65535)
		return refuse(cudaErrorInvalidConfiguration, "a grid has 1 to 2147483647 blocks in x, 65535 in y and z");
	if ((uint64_t)gridDim.x * gridDim.y * gridDim.z > 100000000)
		return refuse(cudaErrorInvalidConfiguration, "more than a hundred million blocks: not here");
	return cudaSuccess;
}

cudaError_t emu_run(const void *kernel, dim3 grid, dim3 block, size_t smem, void (*call)(void *), void *args)
{
	cudaError_t e;
	size_t n;

	if (emu.cur)
		emu_fail(NULL, 0, "a launch from within a kernel");
	gridDim = grid, blockDim = block;
	e = check(kernel, smem);
	if (e != cudaSuccess)
		return e;
	setup();
	emu_launches++;
	body = call, body_args = args;
	emu.n_threads = (int)(block.x * block.y * block.z);
	emu.n_warps = (emu.n_threads + 31) / 32;
	smem_begin(smem);
	n = (size_t)grid.x * grid.y * grid.z;
	std::vector<uint32_t> blocks(n);
	for (size_t i = 0; i < n; i++)
		blocks[i] = (uint32_t)(order == EMU_DOWN ? n - 1 - i : i);
	for (size_t i = n; order == EMU_RANDOM && i > 1; i--)
		std::swap(blocks[i - 1], blocks[emu_random() % i]);
	for (size_t i = 0; i < n; i++) {
		blockIdx = { blocks[i] % grid.x, blocks[i] / grid.x % grid.y, blocks[i] / grid.x / grid.y };
		run_block(smem);
	}
	return cudaSuccess;
}

/* ---- the host's side of CUDA ---- */

cudaError_t cudaPeekAtLastError(void) { return last_error; }
cudaError_t cudaGetLastError(void)
{
	cudaError_t e = last_error;

	last_error = cudaSuccess;
	return e;
}
const char *cudaGetErrorString(cudaError_t e)
{
	return e == cudaSuccess ? "no error" : e == cudaErrorInvalidValue ? "invalid argument" : "invalid configuration argument";
}
const char *cudaGetErrorName(cudaError_t e)
{
	return e == cudaSuccess ? "cudaSuccess" : e == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaErrorInvalidConfiguration";
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind, cudaStream_t)
{
	memmove(dst, src, bytes);
	return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t)
{
	memset(dst, byte, bytes);
	return cudaSuccess;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) { return cudaMemcpyAsync(dst, src, bytes, kind); }
cudaError_t cudaMemset(void *dst, int byte, size_t bytes) { return cudaMemsetAsync(dst, byte, bytes); }
