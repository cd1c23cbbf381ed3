/* SPDX-License-Identifier: MIT */
/* tests/conform/report.c - decides how a verdict reads: one line a check, the first
 * reason of a failure, counts on a board that outlives a crashing child. */
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

struct ck_board *ck_board;

void ck_board_open(void)
{
	void *p = mmap(NULL, sizeof(*ck_board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		-1, 0);

	ck_board = p == MAP_FAILED ? NULL : p;
}

void ck_who(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(ck_board->who, sizeof(ck_board->who), fmt, ap);
	va_end(ap);
}

void ck_begin(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(ck_board->name, sizeof(ck_board->name), fmt, ap);
	va_end(ap);
	ck_board->reason[0] = ck_board->fault[0] = 0;
	ck_board->bad = 0;
	ck_board->running = 1;
}

int ck_bad(const char *fmt, ...)
{
	va_list ap;

	if (!ck_board->bad) {
		va_start(ap, fmt);
		vsnprintf(ck_board->reason, sizeof(ck_board->reason), fmt, ap);
		va_end(ap);
	}
	ck_board->bad = 1;
	return -1;
}

bool ck_good(void)
{
	return !ck_board->bad;
}

void ck_end(void)
{
	gmem_check();
	ck_board->running = 0;
	ck_board->n_checks++;
	if (ck_board->bad) {
		ck_board->n_failed++;
		printf("FAIL %s: %s: %s\n", ck_board->who, ck_board->name, ck_board->reason);
	} else {
		printf("ok   %s: %s\n", ck_board->who, ck_board->name);
	}
	fflush(stdout);
}

void ck_skip(const char *fmt, ...)
{
	char why[512];
	va_list ap;

	if (ck_board->running && ck_board->bad) {
		ck_end();
		return;
	}
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (ck_board->running)
		printf("skip %s: %s: %s\n", ck_board->who, ck_board->name, why);
	else
		printf("skip %s: %s\n", ck_board->who, why);
	ck_board->running = 0;
	ck_board->n_skipped++;
	fflush(stdout);
}
