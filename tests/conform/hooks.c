/* SPDX-License-Identifier: MIT */
/* tests/conform/hooks.c - decides what counts as allocating in a step: any call of
 * malloc's family or of mmap by any thread of the process while the suite has a [step]
 * function running. The program's own definitions come first in symbol lookup, so the
 * plugin's calls and the C library's arrive here. Sanitizers bring their own malloc, and a
 * device's driver may call it: then only host->alloc and device alloc are watched. */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../sanitized.h"
#include "check.h"

#define HOOKS (!SANITIZED)

static atomic_int stepping, driver, n_calls;
static const char *_Atomic first_call;

bool ck_in_step(void)
{
	return atomic_load_explicit(&stepping, memory_order_relaxed) != 0;
}

void ck_step_note(const char *what)
{
	if (!ck_in_step())
		return;
	if (atomic_fetch_add(&n_calls, 1) == 0)
		atomic_store(&first_call, what);
}

void ck_step_driver(bool on)
{
	atomic_store(&driver, on);
}

/* Of malloc's family. */
__attribute__((unused)) static void libc_note(const char *what)
{
	if (!atomic_load_explicit(&driver, memory_order_relaxed))
		ck_step_note(what);
}

void ck_step_begin(void)
{
	atomic_store(&n_calls, 0);
	atomic_store(&stepping, 1);
}

void ck_step_end(void)
{
	int n;

	atomic_store(&stepping, 0);
	n = atomic_load(&n_calls);
	if (n)
		ck_bad("allocates in a step: %d calls, the first of %s()", n,
			atomic_load(&first_call));
}

#if HOOKS
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
/* Prototypes of our own: the C library's carry attributes that differ by version. */
void *malloc(size_t);
void *calloc(size_t, size_t);
void *realloc(void *, size_t);
void *memalign(size_t, size_t);
void *aligned_alloc(size_t, size_t);
int posix_memalign(void **, size_t, size_t);
void free(void *);

void *malloc(size_t n)
{
	libc_note("malloc");
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	libc_note("calloc");
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	libc_note("realloc");
	return __libc_realloc(p, n);
}

void free(void *p)
{
	if (p)
		libc_note("free");
	__libc_free(p);
}

void *memalign(size_t align, size_t n)
{
	libc_note("memalign");
	return __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
	libc_note("aligned_alloc");
	return __libc_memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
	void *p;

	libc_note("posix_memalign");
	if (align < sizeof(void *) || (align & (align - 1)))
		return EINVAL;
	p = __libc_memalign(align, n);
	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
	libc_note("mmap");
	return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, off);
}

int munmap(void *at, size_t n)
{
	libc_note("munmap");
	return (int)syscall(SYS_munmap, at, n);
}
#endif
