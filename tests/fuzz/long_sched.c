/* SPDX-License-Identifier: MIT */
/* long_sched - the scheduler against its model for as long as is wished.
 *   long_sched OPERATIONS SEED    sessions of 500 operations from a generator, then what
 *                                 was reached; the bytes of one that fails go to
 *                                 sched_failure, which fuzz_sched -minimize_crash=1 shortens
 *   long_sched FILE               one session from a file's bytes, told on standard error */
#include <ctype.h>

#include "../unit/sched_drive.h"
#include "sched_good.h"

static struct {
	uint8_t kept[1 << 20];
	struct feed feed;
} now;

static void keep_failure(void)
{
	FILE *f = fopen("sched_failure", "wb");

	if (!f)
		return;
	fwrite(now.kept, 1, now.feed.at < sizeof(now.kept) ? now.feed.at : sizeof(now.kept), f);
	fclose(f);
}

static int replay(const char *path)
{
	const struct other_policy good = good_policy();
	static struct model sum;
	struct feed feed = { .data = now.kept };
	FILE *f = fopen(path, "rb");

	if (!f) {
		perror(path);
		return 1;
	}
	feed.n = fread(now.kept, 1, sizeof(now.kept), f);
	fclose(f);
	drive(&feed, 1 << 20, &good, stderr, NULL, &sum);
	return 0;
}

static void report(const struct model *s)
{
	fprintf(stderr, "%lld operations: %lld steps, %lld rows, %lld ahead, %lld finished, %lld preempted, %lld pages hit, "
		"%lld evicted, %lld shared, %lld stripped, %lld copies, %lld entries removed in flight, %lld waits for steps\n",
		(long long)s->n_ops, (long long)s->n_steps, (long long)s->n_rows, (long long)s->n_late,
		(long long)s->n_finished, (long long)s->n_preempted, (long long)s->n_hits, (long long)s->n_evicted,
		(long long)s->n_shares, (long long)s->n_strips, (long long)s->n_copies, (long long)s->n_nulled,
		(long long)s->n_waits);
}

int main(int argc, char **argv)
{
	const struct other_policy good = good_policy();
	static struct model sum;
	int64_t n;

	if (argc == 2 && !isdigit((unsigned char)argv[1][0]))
		return replay(argv[1]);
	if (argc != 3) {
		fprintf(stderr, "usage: long_sched OPERATIONS SEED | long_sched FILE\n");
		return 2;
	}
	n = atoll(argv[1]);
	now.feed = (struct feed){ .state = (uint64_t)atoll(argv[2]), .kept = now.kept, .room = sizeof(now.kept) };
	while (sum.n_ops < n) {
		now.feed.at = 0;
		drive(&now.feed, 500, &good, NULL, keep_failure, &sum);
	}
	report(&sum);
	return 0;
}
