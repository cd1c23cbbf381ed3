/* SPDX-License-Identifier: MIT */
/* Plugins found, and refused with a reason. The broken ones are built beside this
 * program, in fixtures/. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <nvllm/device.h>
#include <nvllm/sampler.h>

#undef fail /* cmocka's: from here on the core's is meant */
#include "core.h"

#define SAY(...) (print_error(__VA_ARGS__), _fail(__FILE__, __LINE__))

static char fixtures[PATH_MAX];  /* the folder of the broken ones */
static char scratch[] = "/tmp/nvllm-plugin-XXXXXX";

static const char *fixture(const char *name)
{
	static char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/sampler_%s.so", fixtures, name);
	return path;
}

static const char *in_scratch(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", scratch, name);
	return path;
}

/* Writes n bytes of data as a file of the scratch folder. */
static void make_file(const char *name, const void *data, size_t n)
{
	FILE *f = fopen(in_scratch(name), "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static void link_fixture(const char *name, const char *as)
{
	unlink(in_scratch(as));
	assert_int_equal(symlink(fixture(name), in_scratch(as)), 0);
}

/* Only the scratch folder, the fixtures, or what is given by path. */
static struct plugins *open_plugins(const char *dir)
{
	const char *dirs[] = { dir, NULL };
	struct plugins *p = plugins_create(dirs, NULL);

	assert_non_null(p);
	return p;
}

/* ---- files that are refused ---- */

static const struct { const char *name, *says;
} broken[] = {
	{ "bad_abi",
		"sampler_bad_abi.so: built for plugin ABI 7, this nvllm has 0: rebuild it against "
		"include/nvllm of this version" },
	{ "bad_symbol", "exports no 'nvllm_plugin'" },
	{ "bad_function", "'nvllm_plugin' is no variable" },
	{ "bad_size", "its nvllm_plugin claims 0 bytes" },
	{ "bad_large", "its nvllm_plugin claims 4000 bytes and has " },
	{ "bad_plugin_name", "has no 'name'" },
	{ "bad_components", "has no components" },
	{ "bad_component_size", "components[0] claims 8 bytes" },
	{ "bad_kind", "components[0] is of kind 99" },
	{ "bad_name", "components[0] (sampler) has no name of a-z" },
	{ "bad_summary", "sampler 'good': 'summary' must be one line" },
	{ "bad_lines", "sampler 'good': 'summary' must be one line" },
	{ "bad_vt", "sampler 'good': 'vt' is NULL" },
	{ "bad_vt_size", "its vtable of 0 bytes ends before 'create'" },
	{ "bad_vt_short",
		"ends before 'sample': is .size set to sizeof(struct nvllm_sampler_vt)?" },
	{ "bad_vt_huge", "its vtable claims 1000000 bytes" },
	{ "bad_member", "sampler 'good': mandatory member 'sample' is NULL" },
	{ "bad_option_type", "option 'n' has type 77" },
	{ "bad_option_offset", "option 'n' lies at bytes 0..8 of a conf struct of 4" },
	{ "bad_option_default", "option 'n': its default is refused: 10 is outside 0..9" },
	{ "bad_option_help", "option 'n' has no help line" },
	{ "bad_conf_size", "'conf_size' is absurd" },
	{ "bad_args", "frontend 'front': args[0] needs" },
};

static void test_broken(void **state)
{
	struct plugins *p = open_plugins(fixtures);

	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
		for (int again = 0; again < 2; again++) { /* the second time from what is kept */
			fail_clear();
			if (plugin_open(p, fixture(broken[i].name)))
				SAY("%s was taken\n", broken[i].name);
			if (!strstr(fail_text(), broken[i].says) ||
				!strstr(fail_text(), broken[i].name))
				SAY("%s gave: %s\nwant: %s\n", broken[i].name, fail_text(),
					broken[i].says);
		}
	plugins_destroy(p);
}

static void refused(struct plugins *p, const char *path, const char *says)
{
	fail_clear();
	if (plugin_open(p, path))
		SAY("%s was taken\n", path);
	if (!strstr(fail_text(), says))
		SAY("%s gave: %s\nwant: %s\n", path, fail_text(), says);
}

/* Not a plugin at all: refused before the loader maps anything. */
static void test_no_objects(void **state)
{
	static char bytes[1 << 20];
	struct plugins *p = open_plugins(scratch);
	int fd = open(fixture("good"), O_RDONLY);
	ssize_t n = read(fd, bytes, sizeof(bytes));

	assert_true(n > 4096);
	close(fd);
	refused(p, in_scratch("absent.so"), "cannot be opened: No such file");
	make_file("text.so", "#!/bin/sh\n", 10);
	refused(p, in_scratch("text.so"), "not a shared object (no ELF file)");
	make_file("empty.so", "", 0);
	refused(p, in_scratch("empty.so"), "not a shared object");
	make_file("head.so", bytes, 64);
	refused(p, in_scratch("head.so"), "program headers cannot be read");
	make_file("cut.so", bytes, 4096);
	refused(p, in_scratch("cut.so"), "cut short: it has 4096 bytes");
	bytes[4] = 1; /* 32 bits */
	make_file("small.so", bytes, (size_t)n);
	refused(p, in_scratch("small.so"), "built for another machine");
	bytes[4] = 2, bytes[16] = 2; /* an executable */
	make_file("program.so", bytes, (size_t)n);
	refused(p, in_scratch("program.so"), "link it with -shared");
	mkdir(in_scratch("folder.so"), 0700);
	refused(p, in_scratch("folder.so"), "not a file but a folder");
	assert_int_equal(mkfifo(in_scratch("pipe.so"), 0600), 0);
	refused(p, in_scratch("pipe.so"), "pipe.so: not a file");
	refused(p, "/proc/self/exe", "cannot be loaded");
	plugins_destroy(p);
}

/* ---- what is taken ---- */

static void test_good(void **state)
{
	struct plugins *p = open_plugins(fixtures);
	const struct nvllm_plugin *a = plugin_open(p, fixture("good"));
	const char *file = NULL;
	const struct nvllm_component *c;

	if (!a)
		SAY("%s\n", fail_text());
	link_fixture("good", "alias.so");
	assert_ptr_equal(plugin_open(p, in_scratch("alias.so")), a); /* one file, opened once */
	c = plugin_find(p, NVLLM_KIND_SAMPLER, "good", 0, &file);
	assert_ptr_equal(c, a->components[0]);
	assert_non_null(strstr(file, "/sampler_good.so"));
	assert_int_equal(component_need(c), 0);
	assert_non_null(plugin_open(p, fixture("frontend")));
	plugins_destroy(p);
}

/* A vtable that ends before the optional members a newer header has. */
static void test_older(void **state)
{
	struct plugins *p = open_plugins(fixtures);
	const struct nvllm_plugin *a = plugin_open(p, fixture("older"));
	const struct nvllm_sampler_vt *vt;

	if (!a)
		SAY("%s\n", fail_text());
	vt = a->components[0]->vt;
	assert_false(NVLLM_HAS(vt, destroy));
	assert_true(NVLLM_HAS(vt, sample));
	plugins_destroy(p);
}

static void test_by_path(void **state)
{
	struct plugins *p = open_plugins(scratch);
	const struct nvllm_component *c =
		plugin_find(p, NVLLM_KIND_SAMPLER, fixture("good"), 0, NULL);

	assert_non_null(c);
	assert_string_equal(c->name, "good");
	assert_null(plugin_find(p, NVLLM_KIND_ATTENTION, fixture("good"), ~0ull, NULL));
	assert_non_null(strstr(fail_text(), "has no attention, but sampler 'good'"));
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, fixture("needs"), 0, NULL));
	assert_non_null(strstr(fail_text(), "needs graphs of the device, which offers nothing"));
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, "./none.so", 0, NULL));
	assert_non_null(strstr(fail_text(), "none.so: cannot be opened"));
	plugins_destroy(p);
}

/* Two components of one name: the first whose needs the device meets. */
static void test_needs(void **state)
{
	struct plugins *p = open_plugins(fixtures);
	const struct nvllm_component *c;

	c = plugin_find(p, NVLLM_KIND_SAMPLER, "twice", NVLLM_DEV_HOST_MEM, NULL);
	assert_non_null(c);
	assert_string_equal(c->summary, "a sampler for tests");
	c = plugin_find(p, NVLLM_KIND_SAMPLER, "twice", ~0ull, NULL);
	assert_non_null(c);
	assert_string_equal(c->summary, "for another device");
	assert_null(plugin_find(
		p, NVLLM_KIND_SAMPLER, "needs", NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL, NULL));
	assert_non_null(strstr(fail_text(), "sampler 'needs' ("));
	assert_non_null(strstr(
		fail_text(), "needs graphs of the device, which offers host memory, parallel_for"));
	assert_non_null(plugin_find(p, NVLLM_KIND_SAMPLER, "needs", NVLLM_DEV_GRAPHS, NULL));
	plugins_destroy(p);
}

/* <kind>_<name>_*.so holds the name for another device; a broken file of exactly the
 * name ends the search. */
static void test_names(void **state)
{
	struct plugins *p;
	const char *file = NULL;

	link_fixture("twice", "sampler_twice_other.so");
	link_fixture("good", "hidden.so");
	p = open_plugins(scratch);
	assert_non_null(plugin_find(p, NVLLM_KIND_SAMPLER, "twice", 0, &file));
	assert_non_null(strstr(file, "/sampler_twice_other.so"));
	assert_non_null(
		plugin_find(p, NVLLM_KIND_SAMPLER, "good", 0, &file)); /* by looking into all */
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, "god", 0, &file));
	assert_null(file);
	assert_non_null(
		strstr(fail_text(), "there is no sampler 'god'; did you mean 'good'? There are: "));
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, "", 0, NULL));
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, "Good", 0, NULL));
	assert_non_null(strstr(fail_text(), "there is no sampler 'Good'; did you mean 'good'?"));
	assert_null(plugin_find(p, NVLLM_KIND_CACHE, "*", 0, NULL));
	assert_null(plugin_find(p, 0, "good", 0, NULL));
	assert_null(plugin_find(p, NVLLM_KIND_MAX, "good", 0, NULL));
	link_fixture("bad_abi", "sampler_twice.so");
	assert_null(plugin_find(p, NVLLM_KIND_SAMPLER, "twice", 0, NULL));
	assert_non_null(strstr(fail_text(), "built for plugin ABI 7"));
	unlink(in_scratch("sampler_twice.so"));
	plugins_destroy(p);
}

struct seen {
	int good, broken, shadowed;
};

static int count(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *plugin,
	const char *file, const char *why)
{
	struct seen *s = arg;

	s->good += c != NULL;
	s->broken += !c;
	s->shadowed += strstr(file, "/sampler_good.so") != NULL;
	assert_true(c ? plugin != NULL && !why : !plugin && why[0]);
	return 0;
}

static int stop_at_once(void *arg, const struct nvllm_component *c,
	const struct nvllm_plugin *plugin, const char *file, const char *why)
{
	++*(int *)arg;
	return 7;
}

/* A file hides those of its name in later folders. */
static void test_each(void **state)
{
	const char *dirs[] = { scratch, fixtures, "/nonexistent", NULL };
	struct plugins *p;
	struct seen s = { 0, 0, 0 };
	int n = 0;

	link_fixture("good", "sampler_good.so");
	p = plugins_create(dirs, "::/nonexistent:");
	assert_non_null(p);
	assert_int_equal(plugins_each(p, NVLLM_KIND_SAMPLER, count, &s), 0);
	assert_int_equal(s.shadowed, 1);
	assert_true(s.good >= 6);
	assert_int_equal(s.broken, sizeof(broken) / sizeof(broken[0]));
	assert_int_equal(plugins_each(p, 0, stop_at_once, &n), 7);
	assert_int_equal(n, 1);
	plugins_destroy(p);
	unlink(in_scratch("sampler_good.so"));
}

/* The plugins of the project, found by way of NVLLM_PLUGIN_PATH, are all fit. */
static int must_be_good(void *arg, const struct nvllm_component *c,
	const struct nvllm_plugin *plugin, const char *file, const char *why)
{
	if (!c)
		SAY("%s\n", why);
	++*(int *)arg;
	return 0;
}

static void test_own(void **state)
{
	struct plugins *p = plugins_create(NULL, conf_env("NVLLM_PLUGIN_PATH"));
	int n = 0;

	assert_non_null(p);
	assert_int_equal(plugins_each(p, 0, must_be_good, &n), 0);
	plugins_destroy(p);
	plugins_destroy(NULL);
	if (!conf_env("NVLLM_PLUGIN_PATH"))
		skip();
	assert_true(n > 0);
}

static void test_words(void **state)
{
	char buf[128];

	for (int i = 1; i < NVLLM_KIND_MAX; i++)
		assert_int_equal(kind_by_name(kind_name(i)), i);
	assert_null(kind_name(0));
	assert_null(kind_name(-1));
	assert_null(kind_name(NVLLM_KIND_MAX));
	assert_int_equal(kind_by_name("samplers"), 0);
	assert_string_equal(caps_text(0, buf, sizeof(buf)), "nothing");
	assert_string_equal(caps_text(NVLLM_DEV_HOST_MEM | NVLLM_DEV_PARALLEL, buf, sizeof(buf)),
		"host memory, parallel_for");
	assert_string_equal(caps_text(1ull << 40, buf, sizeof(buf)), "capability 40");
	assert_true(strlen(caps_text(~0ull, buf, 16)) < 16);
}

static int setup(void **state)
{
	ssize_t n = readlink("/proc/self/exe", fixtures, sizeof(fixtures) - 16);
	char *slash;

	if (n < 0 || !mkdtemp(scratch))
		return -1;
	slash = strrchr(fixtures, '/');
	if (!slash)
		return -1;
	strcpy(slash, "/fixtures");
	return 0;
}

static int teardown(void **state)
{
	static const char *const made[] = { "text.so", "empty.so", "head.so", "cut.so", "small.so",
		"program.so", "pipe.so", "alias.so", "hidden.so", "sampler_twice_other.so",
		"sampler_good.so" };

	for (size_t i = 0; i < sizeof(made) / sizeof(made[0]); i++)
		unlink(in_scratch(made[i]));
	rmdir(in_scratch("folder.so"));
	return rmdir(scratch);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_no_objects),
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_older),
		cmocka_unit_test(test_by_path),
		cmocka_unit_test(test_needs),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_each),
		cmocka_unit_test(test_own),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
