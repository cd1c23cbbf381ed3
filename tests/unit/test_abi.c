/* SPDX-License-Identifier: MIT */
/* test_abi.c - holds include/nvllm to the recorded table tests/data/abi.txt: while
 * NVLLM_ABI stays as it is, no member moves, goes or is declared otherwise, no struct
 * shrinks, no constant changes its value; structs that travel by value keep their size.
 * Growth at the tail is free. `test_abi --update FILE` rewrites the table.
 *
 * The list of members comes from the headers themselves (abi_list.py); a member it
 * missed would leave a hole, which is looked for too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "abi_list.h"

#define TABLE "tests/data/abi.txt"
#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define MAX_ROWS 4096

/* By value or in plain arrays: frozen, see base.h. */
static const char *const frozen[] = { "nvllm_tensor", "nvllm_option", "nvllm_sample_row",
	"nvllm_str", "nvllm_ints", "nvllm_floats" };

/* A row of the table: type "=" for a constant; member "-" for the struct itself. */
static struct row { char type[64], member[64], decl[512]; long long a, b; } table[MAX_ROWS];
static size_t n_rows;
static unsigned table_abi;

static int update(const char *path)
{
	FILE *f = fopen(path, "w");

	if (!f)
		return 1;
	fprintf(f,
		"# struct member offset size declaration; = constant value; test_abi --update "
		"writes it\n");
	fprintf(f, "abi %u\n", NVLLM_ABI);
	for (size_t i = 0; i < COUNT(abi_members); i++)
		fprintf(f, "%s %s %zu %zu %s\n", abi_members[i].type, abi_members[i].member,
			abi_members[i].offset, abi_members[i].size, abi_members[i].decl);
	for (size_t i = 0; i < COUNT(abi_constants); i++)
		fprintf(f, "= %s %lld 0 \n", abi_constants[i].name, abi_constants[i].value);
	return fclose(f) != 0;
}

static int load(void **state)
{
	FILE *f = fopen(TABLE, "r");
	char line[1024];
	int at;

	(void)state;
	while (f && fgets(line, sizeof(line), f)) {
		struct row *r = &table[n_rows];

		line[strcspn(line, "\n")] = 0;
		if (line[0] == '#' || sscanf(line, "abi %u", &table_abi) == 1)
			continue;
		if (n_rows == MAX_ROWS ||
			sscanf(line, "%63s %63s %lld %lld %n", r->type, r->member, &r->a, &r->b,
				&at) != 4)
			return print_error(TABLE ": cannot read: %s\n", line), 1;
		snprintf(r->decl, sizeof(r->decl), "%s", line + at);
		n_rows++;
	}
	if (f)
		fclose(f);
	return n_rows < 100;
}

static const struct row *recorded(const char *type, const char *member)
{
	for (size_t i = 0; i < n_rows; i++)
		if (!strcmp(table[i].type, type) && !strcmp(table[i].member, member))
			return &table[i];
	return NULL;
}

static int is_frozen(const char *type)
{
	for (size_t i = 0; i < COUNT(frozen); i++)
		if (!strcmp(frozen[i], type))
			return 1;
	return 0;
}

/* Members follow each other with no more between them than alignment asks for. */
static void no_member_is_missing_from_the_list(void **state)
{
	size_t end = 0, total = 0;
	const char *type = "";

	(void)state;
	assert_true(COUNT(abi_members) > 100);
	for (size_t i = 0; i <= COUNT(abi_members); i++) {
		int last = i == COUNT(abi_members) || abi_members[i].member[0] == '-';

		if (last && total && (total < end || total - end > 7))
			fail_msg("%s: %zu bytes, its listed members end at %zu", type, total, end);
		if (i == COUNT(abi_members))
			break;
		if (last) {
			type = abi_members[i].type, total = abi_members[i].size, end = 0;
			continue;
		}
		if (abi_members[i].offset < end || abi_members[i].offset - end > 7)
			fail_msg("%s.%s: at %zu, the member before it ends at %zu", type,
				abi_members[i].member, abi_members[i].offset, end);
		end = abi_members[i].offset + abi_members[i].size;
	}
}

static int check_struct(const struct row *r, size_t i)
{
	long long size = (long long)abi_members[i].size;

	if (size >= r->b && (size == r->b || !is_frozen(r->type)))
		return 0;
	print_error("struct %s: %lld bytes, recorded %lld%s\n", r->type, size, r->b,
		is_frozen(r->type) ? ": it travels by value" : "");
	return 1;
}

static int check_member(const struct row *r, size_t i)
{
	if ((long long)abi_members[i].offset == r->a && (long long)abi_members[i].size == r->b &&
		!strcmp(abi_members[i].decl, r->decl))
		return 0;
	print_error("struct %s: '%s' at %zu, recorded '%s' at %lld\n", r->type, abi_members[i].decl,
		abi_members[i].offset, r->decl, r->a);
	return 1;
}

static int check_constant(const struct row *r)
{
	for (size_t i = 0; i < COUNT(abi_constants); i++)
		if (!strcmp(abi_constants[i].name, r->member)) {
			if (abi_constants[i].value == r->a)
				return 0;
			print_error("%s is %lld, recorded %lld\n", r->member,
				abi_constants[i].value, r->a);
			return 1;
		}
	print_error("%s is gone\n", r->member);
	return 1;
}

static int check_row(const struct row *r)
{
	if (r->type[0] == '=')
		return check_constant(r);
	for (size_t i = 0; i < COUNT(abi_members); i++)
		if (!strcmp(abi_members[i].type, r->type) &&
			!strcmp(abi_members[i].member, r->member))
			return r->member[0] == '-' ? check_struct(r, i) : check_member(r, i);
	print_error("struct %s: %s is gone\n", r->type, r->member);
	return 1;
}

static void nothing_moved_within_one_abi(void **state)
{
	int bad = 0;

	(void)state;
	if (table_abi != NVLLM_ABI)
		fail_msg(TABLE " is of ABI %u, the headers of ABI %u: run test_abi --update " TABLE,
			table_abi, NVLLM_ABI);
	for (size_t i = 0; i < n_rows; i++)
		bad += check_row(&table[i]);
	if (bad)
		fail_msg("%d changes: move members back, or bump NVLLM_ABI and run test_abi "
			 "--update " TABLE
			 " (while NVLLM_ABI is 0 the table may change without a bump)",
			bad);
}

/* A new member follows all recorded ones: it does not lie within the recorded size. */
static void new_members_are_at_the_tail(void **state)
{
	int bad = 0;

	(void)state;
	for (size_t i = 0; i < COUNT(abi_members); i++) {
		const struct row *whole = recorded(abi_members[i].type, "-");

		if (!whole || recorded(abi_members[i].type, abi_members[i].member) ||
			(long long)abi_members[i].offset >= whole->b)
			continue;
		print_error("struct %s: %s is new and lies within the old struct\n",
			abi_members[i].type, abi_members[i].member);
		bad++;
	}
	if (bad)
		fail_msg("%d new members that are not at the tail", bad);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_member_is_missing_from_the_list),
		cmocka_unit_test(nothing_moved_within_one_abi),
		cmocka_unit_test(new_members_are_at_the_tail),
	};

	if (argc == 3 && !strcmp(argv[1], "--update"))
		return update(argv[2]);
	return cmocka_run_group_tests(tests, load, NULL);
}
