/* SPDX-License-Identifier: MIT */
/* Reading ahead: each piece is read once, used in order on the caller's thread, whatever fails. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "readahead.h"

#define PIECE 4096

struct job { int64_t next, n_reads, fail_read, fail_use; pthread_t caller; };

static int read_piece(void *arg, int64_t i, void *buf)
{
	struct job *j = arg;

	__atomic_fetch_add(&j->n_reads, 1, __ATOMIC_RELAXED);
	for (int64_t k = 0; k < PIECE / 8; k++)
		((int64_t *)buf)[k] = i * 1000 + k;
	return i == j->fail_read ? -5 : 0;
}

static int use_piece(void *arg, int64_t i, void *buf)
{
	struct job *j = arg;

	assert_int_equal(i, j->next);
	assert_true(pthread_equal(j->caller, pthread_self()));
	j->next++;
	for (int64_t k = 0; k < PIECE / 8; k++)
		assert_int_equal(((int64_t *)buf)[k], i * 1000 + k);
	return i == j->fail_use ? -6 : 0;
}

static void test_all(void **state)
{
	static const int64_t counts[] = { 0, 1, 2, 7, 8, 9, 64, 500 };
	struct readahead *r = readahead_create(PIECE);

	(void)state;
	assert_non_null(r);
	assert_int_equal(readahead_piece(r), PIECE);
	for (size_t c = 0; c < sizeof(counts) / sizeof(*counts); c++)
		for (int64_t fail = -1; fail < 12; fail++) {
			int64_t n = counts[c];
			struct job j = { .fail_read = -1, .fail_use = -1, .caller = pthread_self() };

			assert_int_equal(readahead_run(r, n, read_piece, use_piece, &j), 0);
			assert_int_equal(j.next, n);
			assert_int_equal(j.n_reads, n);
			j = (struct job){ .fail_read = fail, .fail_use = -1, .caller = pthread_self() };
			assert_int_equal(readahead_run(r, n, read_piece, use_piece, &j), fail >= 0 && fail < n ? -5 : 0);
			assert_int_equal(j.next, fail >= 0 && fail < n ? fail : n);
			j = (struct job){ .fail_read = -1, .fail_use = fail, .caller = pthread_self() };
			assert_int_equal(readahead_run(r, n, read_piece, use_piece, &j), fail >= 0 && fail < n ? -6 : 0);
			assert_int_equal(j.next, fail >= 0 && fail < n ? fail + 1 : n);
		}
	readahead_destroy(r);
	readahead_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_all) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
