/* SPDX-License-Identifier: MIT */
/* limits.c - how many cores (not hardware threads) and how much memory the system lets
 * this process use: its affinity mask, and the limits of its control groups, version 2 or
 * 1, from its own group up to the root that is visible. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

#define ROOT "/sys/fs/cgroup"

/* The first line of a file, without its end; false if there is none. */
static bool read_line(const char *path, char *line, size_t len)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(line, (int)len, f);

	if (f)
		fclose(f);
	if (ok)
		line[strcspn(line, "\n")] = 0;
	return ok;
}

/* The number after a key in a file of "key number" lines; -1 = none. */
static int64_t read_key(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	const size_t n = strlen(key);
	int64_t value = -1;
	char line[256];

	while (f && value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) && strchr(" \t:", line[n]))
			value = strtoll(line + n + strspn(line + n, " \t:"), NULL, 10);
	if (f)
		fclose(f);
	return value;
}

/* A whole number, or -1 ("max", or no such file). */
static int64_t read_number(const char *dir, const char *file)
{
	char path[768], line[64], *end;
	int64_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	if (!read_line(path, line, sizeof(line)))
		return -1;
	n = strtoll(line, &end, 10);
	return end == line ? -1 : n;
}

/* The folder of this process's group for a version 1 controller, or of version 2
 * (controller ""). The line is "number:controllers:/path". */
static void group_dir(const char *controller, char *dir, size_t len)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[512], *list, *path, *word, *rest;

	snprintf(dir, len, ROOT "%s%s", *controller ? "/" : "", controller);
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		list = strchr(line, ':');
		path = list ? strchr(list + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = 0;
		rest = list + 1;
		do {
			word = strsep(&rest, ",");
			if (!strcmp(word, controller) && strcmp(path, "/"))
				snprintf(dir, len, ROOT "%s%s%s", *controller ? "/" : "",
					controller, path);
		} while (rest);
	}
	if (f)
		fclose(f);
}

/* Calls fn on the group's folder and on each above it, and returns the least answer
 * that is not negative; -1 = none. */
static int64_t least(const char *controller, int64_t (*fn)(const char *dir))
{
	char dir[600];
	int64_t best = -1, v;

	group_dir(controller, dir, sizeof(dir));
	while (strlen(dir) >= strlen(ROOT)) {
		v = fn(dir);
		if (v >= 0 && (best < 0 || v < best))
			best = v;
		*strrchr(dir, '/') = 0;
	}
	return best;
}

static int64_t cores_v2(const char *dir)
{
	char path[768], line[128], *end;
	int64_t quota, period;

	snprintf(path, sizeof(path), "%s/cpu.max", dir);
	if (!read_line(path, line, sizeof(line)))
		return -1;
	quota = strtoll(line, &end, 10); /* "max 100000" or "150000 100000" */
	period = strtoll(end, NULL, 10);
	return end == line || quota <= 0 || period <= 0 ? -1 : (quota + period - 1) / period;
}

static int64_t cores_v1(const char *dir)
{
	const int64_t quota = read_number(dir, "cpu.cfs_quota_us");
	const int64_t period = read_number(dir, "cpu.cfs_period_us");

	return quota <= 0 || period <= 0 ? -1 : (quota + period - 1) / period;
}

/* What the group may still take: file pages that the kernel would drop count as free. */
static int64_t room(const char *dir, int64_t limit, int64_t used, const char *key)
{
	char path[768];
	int64_t cache;

	if (limit < 0 || used < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	cache = read_key(path, key);
	used -= cache > 0 && cache < used ? cache : 0;
	return limit > used ? limit - used : 0;
}

static int64_t memory_v2(const char *dir)
{
	return room(dir, read_number(dir, "memory.max"), read_number(dir, "memory.current"),
		"inactive_file");
}

static int64_t memory_v1(const char *dir)
{
	return room(dir, read_number(dir, "memory.limit_in_bytes"),
		read_number(dir, "memory.usage_in_bytes"), "total_inactive_file");
}

static int64_t min_known(int64_t a, int64_t b)
{
	return b >= 0 && b < a ? b : a;
}

/* The lowest CPU of the core that this one is a hardware thread of; itself where that is not
 * known. */
static int core_of(int cpu)
{
	char path[128], line[128], *end;
	long first;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
	if (!read_line(path, line, sizeof(line)))
		return cpu;
	first = strtol(line, &end, 10); /* "0,64" or "0-1" */
	return end == line || first < 0 || first > cpu ? cpu : (int)first;
}

/* Cores among the CPUs of the set: a second hardware thread of one has nothing to multiply with
 * that the first does not use. */
static int64_t whole_cores(const cpu_set_t *set)
{
	cpu_set_t cores;

	CPU_ZERO(&cores);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, set))
			CPU_SET(core_of(i), &cores);
	return CPU_COUNT(&cores);
}

int32_t limits_cores(void)
{
	cpu_set_t set;
	int64_t n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = whole_cores(&set);
	n = min_known(n, least("", cores_v2));
	n = min_known(n, least("cpu", cores_v1));
	return n < 1 ? 1 : (int32_t)n;
}

void limits_memory(int64_t *mem_free, int64_t *mem_total)
{
	const int64_t kib = read_key("/proc/meminfo", "MemAvailable");
	const int64_t all = read_key("/proc/meminfo", "MemTotal");

	*mem_total = all > 0 ? all * 1024 : 0;
	*mem_free = kib > 0 ? kib * 1024 : 0;
	*mem_free = min_known(*mem_free, least("", memory_v2));
	*mem_free = min_known(*mem_free, least("memory", memory_v1));
}
