/* SPDX-License-Identifier: MIT */
/* tests/emu/check.cc - memory with edges, deaths that tests expect, and the functions of the device's C
 * files that its kernels' host parts call. */
#include "check.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define BEFORE 64
#define CANARY 0x5a

struct edge { /* at the start of the mapping */
	char *mem;
	size_t bytes, pages;
};

static struct edge *edge_of(const void *p)
{
	return *(struct edge **)((char *)p - BEFORE - sizeof(void *));
}

/* [edge][...][where edge is][canary][bytes][canary][inaccessible] */
void *edges_new(size_t bytes, size_t align)
{
	size_t body = (bytes + align - 1) / align * align;
	size_t pages = (sizeof(struct edge) + sizeof(void *) + BEFORE + align + body + PAGE_BYTES - 1) / PAGE_BYTES;
	char *map = (char *)mmap(NULL, (pages + 1) * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct edge *e = (struct edge *)map;

	if (map == MAP_FAILED) {
		fprintf(stderr, "no memory for %zu bytes\n", bytes);
		exit(1);
	}
	mprotect(map + pages * PAGE_BYTES, PAGE_BYTES, PROT_NONE);
	e->bytes = bytes, e->pages = pages;
	e->mem = map + pages * PAGE_BYTES - body;
	memset(e->mem - BEFORE, CANARY, BEFORE);
	memset(e->mem, 0xff, bytes);
	memset(e->mem + bytes, CANARY, body - bytes);
	memcpy(e->mem - BEFORE - sizeof(void *), &e, sizeof(e));
	return e->mem;
}

bool edges_ok(const void *p)
{
	struct edge *e = edge_of(p);
	char *end = (char *)e + e->pages * PAGE_BYTES;

	for (char *q = e->mem - BEFORE; q < e->mem; q++)
		if (*q != CANARY)
			return false;
	for (char *q = e->mem + e->bytes; q < end; q++)
		if (*q != CANARY)
			return false;
	return true;
}

void edges_free(void *p)
{
	if (!p)
		return;
	if (!edges_ok(p)) {
		printf("FAIL  something was written before or after %zu bytes\n", edge_of(p)->bytes);
		fflush(stdout);
		exit(1);
	}
	munmap(edge_of(p), (edge_of(p)->pages + 1) * PAGE_BYTES);
}

bool check_dies(void (*fn)(void *), void *arg, const char *words)
{
	char buf[4096];
	size_t n = 0;
	ssize_t k;
	int fd[2], status = 0;
	pid_t pid;

	fflush(stdout), fflush(stderr);
	if (pipe(fd))
		return false;
	pid = fork();
	if (pid == 0) {
		dup2(fd[1], 2);
		close(fd[0]), close(fd[1]);
		fn(arg);
		_exit(0);
	}
	close(fd[1]);
	while (pid > 0 && n < sizeof(buf) - 1 && (k = read(fd[0], buf + n, sizeof(buf) - 1 - n)) > 0)
		n += (size_t)k;
	buf[n] = 0;
	close(fd[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (status != 0 && strstr(buf, words))
		return true;
	printf("      (it %s and said: %s)\n", status ? "failed" : "did not fail", n ? buf : "nothing");
	return false;
}

static char sentence[512];

__attribute__((format(printf, 3, 4)))
static int fail(const struct nvllm_host *, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	return status;
}

__attribute__((format(printf, 3, 4)))
static void say(const struct nvllm_host *, int, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

struct nvllm_device *check_device(int act)
{
	static struct nvllm_host host;
	static struct nvllm_device dev;

	host.size = sizeof(host), host.abi = NVLLM_ABI, host.world = 1;
	host.log = say, host.fail = fail;
	dev.host = &host, dev.n_sms = 132, dev.cc = __CUDA_ARCH__ / 10, dev.act = act;
	return &dev;
}

const char *check_said(void)
{
	static char last[sizeof(sentence)];

	memcpy(last, sentence, sizeof(last));
	sentence[0] = 0;
	return last;
}

extern "C" __attribute__((weak)) int cu_check(const struct nvllm_device *, int err, const char *what)
{
	if (!err)
		return 0;
	fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)err));
	return NVLLM_EDEVICE;
}
