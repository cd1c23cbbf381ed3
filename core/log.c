/* SPDX-License-Identifier: MIT */
/* log.c - decides how words reach people: which lines are written, what they look
 * like, and which sentence is the newest error of a thread. The one file of the core
 * with mutable statics. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core.h"

#define LINE_BYTES 4096
#define FAIL_BYTES 1024
#define N_SAID     256

static atomic_int level_now = NVLLM_LOG_INFO;

/* Hashes of the newest lines written, so that a line said over and over is written
 * once. A ring: what was said long ago may be said again. */
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t said[N_SAID];
static unsigned said_next;

static _Thread_local char sentence[FAIL_BYTES];
static _Thread_local bool in_step; /* this thread runs a step */

void host_step(bool inside)
{
	in_step = inside;
}

bool log_in_step(void)
{
	return in_step;
}

void log_level_set(int level)
{
	atomic_store(&level_now, level);
}

int log_level_get(void)
{
	return atomic_load(&level_now);
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). Never 0, which marks a free entry. */
static uint64_t hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h ? h : 1;
}

static bool said_before(uint64_t hash)
{
	bool found = false;

	pthread_mutex_lock(&said_lock);
	for (int i = 0; i < N_SAID && !found; i++)
		found = said[i] == hash;
	if (!found)
		said[said_next++ % N_SAID] = hash;
	pthread_mutex_unlock(&said_lock);
	return found;
}

/* Text may come from a checkpoint: nothing in it may steer a terminal. */
static void defuse(char *s)
{
	for (; *s; s++)
		if (((unsigned char)*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7f)
			*s = '?';
}

/* Ends a cut text with "...", not inside a UTF-8 character. buf is full. */
static void mark_cut(char *buf, size_t room)
{
	size_t n = room - 4;

	while (n > 0 && ((unsigned char)buf[n] & 0xc0) == 0x80)
		n--;
	memcpy(buf + n, "...", 4);
}

void log_vline(int level, const char *who, const char *fmt, va_list ap)
{
	static const char *const words[] = { "error: ", "warning: ", "", "debug: " };
	char line[LINE_BYTES];
	int head, n;

	if (level > log_level_get())
		return;
	level = level < NVLLM_LOG_ERROR ? NVLLM_LOG_ERROR :
		level > NVLLM_LOG_DEBUG ? NVLLM_LOG_DEBUG :
					  level;
	head = snprintf(line, sizeof(line), "nvllm: %s%.80s%s", words[level], who ? who : "",
		who ? ": " : "");
	n = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(line) - (size_t)head - 1)
		mark_cut(line, sizeof(line) - 1);
	defuse(line);
	if (said_before(hash_text(line)))
		return;
	n = (int)strlen(line);
	line[n++] = '\n';
	fwrite(line, 1, (size_t)n, stderr); /* whole, so that threads do not mix */
}

void log_line(int level, const char *who, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vline(level, who, fmt, ap);
	va_end(ap);
}

/* By way of a local buffer, as an argument may be fail_text() itself. A status that
 * would read as success becomes NVLLM_EINVAL. */
int vfail(int status, const char *fmt, va_list ap)
{
	char text[FAIL_BYTES];
	int n = vsnprintf(text, sizeof(text), fmt, ap);

	if (n < 0)
		text[0] = 0;
	if (n >= (int)sizeof(text))
		mark_cut(text, sizeof(text));
	defuse(text);
	memcpy(sentence, text, strlen(text) + 1);
	return status < 0 ? status : NVLLM_EINVAL;
}

int fail(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	status = vfail(status, fmt, ap);
	va_end(ap);
	return status;
}

int fail_prefix(int status, const char *fmt, ...)
{
	char head[FAIL_BYTES];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(head, sizeof(head), fmt, ap);
	va_end(ap);
	if (n < 0)
		head[0] = 0;
	return fail(status, "%s%s", head, sentence);
}

const char *fail_text(void)
{
	return sentence;
}

void fail_clear(void)
{
	sentence[0] = 0;
}
