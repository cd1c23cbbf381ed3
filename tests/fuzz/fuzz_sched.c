/* SPDX-License-Identifier: MIT */
/* Bytes as limits, a cache policy and operations of the scheduler, with a model that checks
 * all there is to check after each (tests/unit/sched_model.h). */
#include "../unit/sched_drive.h"
#include "sched_good.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct other_policy good = good_policy();
	static struct model sum;
	struct feed feed = { .data = data, .n = size };

	if (!size)
		return 0;
	drive(&feed, 2000, &good, NULL, NULL, &sum);
	return 0;
}
