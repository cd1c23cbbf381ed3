/* SPDX-License-Identifier: MIT */
/* frontends/batch_progress.c - decides what a person sees while a batch runs: one bar
 * on a terminal, nothing in a file. */
#define _GNU_SOURCE
#include "batch.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BAR       24
#define REDRAW_NS 100000000

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Lines that are not blank, where the input can be read twice. */
static int64_t count_lines(const char *path)
{
	struct batch_reader r;
	struct stat st;
	int64_t n = 0;

	if (stat(path, &st) || !S_ISREG(st.st_mode) || batch_reader_open(&r, path, 64))
		return 0;
	while (batch_reader_next(&r))
		n += r.too_long || !batch_is_blank(r.s, r.len);
	batch_reader_close(&r);
	return n;
}

void batch_progress_begin(struct batch_progress *p, const struct batch_conf *c, int64_t before)
{
	memset(p, 0, sizeof(*p));
	p->on = isatty(STDERR_FILENO);
	p->total = p->on ? count_lines(c->input) : 0;
	p->before = before;
	p->started_ns = now_ns();
}

double batch_progress_seconds(const struct batch_progress *p)
{
	return (double)(now_ns() - p->started_ns) * 1e-9;
}

void batch_progress_draw(struct batch_progress *p, int64_t done, int64_t output_tokens)
{
	int64_t now = now_ns();
	double s = (double)(now - p->started_ns) * 1e-9;
	int fill = p->total ? (int)(done * BAR / p->total) : 0;
	char left[32] = "";

	if (!p->on || now < p->next_ns)
		return;
	p->next_ns = now + REDRAW_NS;
	if (p->total && done > p->before)
		snprintf(left, sizeof(left), ", %.0f s left",
			s * (double)(p->total - done) / (double)(done - p->before));
	if (p->total)
		fprintf(stderr, "\r[%.*s%*s] %lld/%lld lines", fill,
			"========================", BAR - fill, "", (long long)done,
			(long long)p->total);
	else
		fprintf(stderr, "\r%lld lines", (long long)done);
	fprintf(stderr, ", %.1f tokens/s%s\033[K", s > 0 ? (double)output_tokens / s : 0, left);
	fflush(stderr);
}

void batch_progress_clear(struct batch_progress *p)
{
	if (p->on && p->next_ns)
		fprintf(stderr, "\r\033[K");
}
