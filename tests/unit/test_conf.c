/* SPDX-License-Identifier: MIT */
/* Options, the INI file, and which value wins: every refusal says where and why. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#undef fail /* cmocka's: from here on the core's is meant */
#include "core.h"

#define SAY(...) (print_error(__VA_ARGS__), _fail(__FILE__, __LINE__))

/* ---- a section of two tables, as the core and a plugin declare them ---- */

struct core_conf { const char *plugin; };
struct all_conf {
	int64_t count, bytes, big;
	double ratio;
	int32_t flag, kind;
	const char *path;
	struct nvllm_ints sizes;
	struct nvllm_floats scales;
};

static const char *const kinds[] = { "auto", "f32", "bf16", NULL };
static const struct nvllm_option core_options[] = {
	NVLLM_STR(core_conf, plugin, "plugin", "paged", "which one"),
	NVLLM_OPTIONS_END,
};
static const struct nvllm_option all_options[] = {
	NVLLM_INT(all_conf, count, "page_tokens", "16", 1, 1024, "tokens in a page"),
	NVLLM_INT(all_conf, big, "seed", "-1", -1e19, 1e19, "any number"),
	NVLLM_SIZE(all_conf, bytes, "memory", "1M", 1, 1LL << 50, "bytes to use"),
	NVLLM_FLOAT(all_conf, ratio, "share", "0.5", 0, 1, "share of memory"),
	NVLLM_BOOL(all_conf, flag, "verify", "no", "check each step"),
	NVLLM_ENUM(all_conf, kind, "kv_dtype", "auto", kinds, "type of the cache"),
	NVLLM_STR(all_conf, path, "path", "", "a file"),
	NVLLM_INTS(all_conf, sizes, "sizes", "1 2 4", 1, 64, "batch sizes"),
	{ "scales", "scales of layers", "", NULL, -10, 10, NVLLM_OPT_FLOATS, 0,
		offsetof(struct all_conf, scales) },
	NVLLM_OPTIONS_END,
};
static const struct nvllm_option need_options[] = {
	NVLLM_STR(core_conf, plugin, "input", NULL, "file to read"),
	NVLLM_OPTIONS_END,
};
static const char *const known[] = { "attention", "engine", "batch", NULL };

static struct all_conf all;
static struct core_conf core, need;

static int fill(struct conf *c)
{
	struct conf_table attention[] = {
		{ "attention", core_options, &core, sizeof(core) },
		{ "attention.paged", all_options, &all, sizeof(all) },
	};
	struct conf_table batch = { "batch", need_options, &need, sizeof(need) };
	int rc = conf_check_sections(c, known);

	if (!rc)
		rc = conf_fill(c, "attention", attention, 2);
	for (const char *const *s = conf_sections(c); !rc && *s; s++)
		if (!strcmp(*s, "batch"))
			rc = conf_fill(c, "batch", &batch, 1);
	return rc;
}

static int load_n(const char *text, size_t len, struct conf **c)
{
	int rc = conf_parse("t.ini", text, len, c);

	return rc ? rc : fill(*c);
}

static int load(const char *text, struct conf **c)
{
	return load_n(text, strlen(text), c);
}

/* ---- what is refused ---- */

#define A "[attention]\n"

static const struct bad {
	const char *text, *where, *says;
} bad[] = {
	/* lines */
	{ "page_tokens = 1\n", "t.ini:1: ", "before any section" },
	{ "\n; c\nkey = 1\n[attention]\n", "t.ini:3: ", "before any section" },
	{ A "page_tokens\n", "t.ini:2: ", "neither 'key = value' nor '[section]'" },
	{ A "page_tokens 16\n", "t.ini:2: ", "neither" },
	{ A "page_tokens: 16\n", "t.ini:2: ", "':' after 'page_tokens': write 'key = value'" },
	{ A "path: a=b\n", "t.ini:2: ", "':' after 'path'" },
	{ A "page_tokens ; = 16\n", "t.ini:2: ", "neither" },
	{ A "path =;x\n", "t.ini:2: ", "';' at once after '='" },
	{ A "= 16\n", "t.ini:2: ", "key ''" },
	{ A "Page_tokens = 16\n", "t.ini:2: ", "key 'Page_tokens' may hold" },
	{ A "page-tokens = 16\n", "t.ini:2: ", "may hold a-z" },
	{ A "page tokens = 16\n", "t.ini:2: ", "may hold a-z" },
	{ A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa = 1\n",
		"t.ini:2: ", "1 to 49" },
	{ A " page_tokens = 16\n", "t.ini:2: ", "begins with a blank" },
	{ A "\tpage_tokens = 16\n", "t.ini:2: ", "begins with a blank" },
	{ A "path = a\n  b\n", "t.ini:3: ", "cannot go on over lines" },
	{ " [attention]\n", "t.ini:1: ", "left edge" },
	{ "[attention\n", "t.ini:1: ", "no closing ']'" },
	{ "[]\n", "t.ini:1: ", "section name ''" },
	{ "[ attention ]\n", "t.ini:1: ", "section name ' attention '" },
	{ "[Attention]\n", "t.ini:1: ", "section name 'Attention'" },
	{ "[attention.paged]\n", "t.ini:1: ", "may hold a-z" },
	{ "[attention] page_tokens = 1\n", "t.ini:1: ", "lines of their own" },
	{ "[attention]]\n", "t.ini:1: ", "after [attention]" },
	{ "[aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\n",
		"t.ini:1: ", "1 to 49" },
	/* bytes */
	{ A "path = a\x01"
	    "b\n",
		"t.ini:2: ", "control character 0x01 at column 9" },
	{ A "path = a\x1b[31m\n", "t.ini:2: ", "control character 0x1b" },
	{ A "path = a\rb\n", "t.ini:2: ", "control character 0x0d" },
	{ A "path = a\x7f\n", "t.ini:2: ", "0x7f" },
	{ A "path = \xff\n", "t.ini:2: ", "byte 0xff at column 8 is not UTF-8" },
	{ A "path = \xc0\xaf\n", "t.ini:2: ", "not UTF-8" },
	{ A "path = \xed\xa0\x80\n", "t.ini:2: ", "not UTF-8" },
	{ A "path = \xe2\x82\n", "t.ini:2: ", "not UTF-8" },
	{ "; \xff\n", "t.ini:1: ", "not UTF-8" },
	{ A "\xef\xbb\xbfpath = a\n", "t.ini:2: ", "may hold a-z" },
	{ "\xef\xbb\xbf\xef\xbb\xbf[attention]\n", "t.ini:1: ", "neither" },
	/* sections and keys */
	{ "[atention]\n",
		"t.ini:1: ", "there is no section [atention]; did you mean [attention]?" },
	{ "[zzz]\n", "t.ini:1: ", "the sections are [attention], [engine], [batch]" },
	{ "; empty\n\n[attention]\n[x]\n", "t.ini:4: ", "no section [x]" },
	{ A "page_token = 16\n", "t.ini:2: ",
		"[attention] has no key 'page_token'; did you mean 'page_tokens'? ('attention' "
		"takes: plugin; "
		"'attention.paged' takes: page_tokens, seed," },
	{ A "plugn = naive\n", "t.ini:2: ", "did you mean 'plugin'?" },
	{ A "page = 16\n", "t.ini:2: ", "did you mean 'page_tokens'?" },
	{ A "zzzzzz = 16\n", "t.ini:2: ", "has no key 'zzzzzz' ('attention' takes" },
	{ A "pgae_tokens = 16\n", "t.ini:2: ", "did you mean 'page_tokens'?" },
	{ A "seed = 1\npath = x\nseed = 2\n", "t.ini:4: ", "'seed' is set twice, first on line 2" },
	{ A "seed = 1\n[engine]\n[attention]\nseed = 1\n",
		"t.ini:5: ", "set twice, first on line 2" },
	{ "[batch]\n", "t.ini: ", "[batch] needs 'input' (file to read): write 'input = ...'" },
	/* values */
	{ A "page_tokens =\n", "t.ini:2: ", "'' is not a whole number (tokens in a page)" },
	{ A "page_tokens = many\n", "t.ini:2: ", "page_tokens: 'many' is not a whole number" },
	{ A "page_tokens = 4096\n", "t.ini:2: ", "4096 is outside 1..1024" },
	{ A "page_tokens = 0\n", "t.ini:2: ", "0 is outside 1..1024" },
	{ A "page_tokens = -5\n", "t.ini:2: ", "-5 is outside" },
	{ A "page_tokens = 0x10\n", "t.ini:2: ", "'0x10' is not a whole number" },
	{ A "page_tokens = 16.0\n", "t.ini:2: ", "'16.0' is not a whole number" },
	{ A "page_tokens = 1e2\n", "t.ini:2: ", "not a whole number" },
	{ A "page_tokens = +16\n", "t.ini:2: ", "not a whole number" },
	{ A "page_tokens = 16 17\n", "t.ini:2: ", "'16 17' is not a whole number" },
	{ A "page_tokens = 16 # small\n",
		"t.ini:2: ", "a comment behind a value begins with ' ;'" },
	{ A "page_tokens = -\n", "t.ini:2: ", "not a whole number" },
	{ A "seed = 9223372036854775808\n", "t.ini:2: ", "does not fit into 64 bits" },
	{ A "seed = -9223372036854775809\n", "t.ini:2: ", "does not fit into 64 bits" },
	{ A "seed = 99999999999999999999999999999\n", "t.ini:2: ", "does not fit into 64 bits" },
	{ A "share = half\n", "t.ini:2: ", "'half' is not a number" },
	{ A "share = nan\n", "t.ini:2: ", "'nan' is not a number" },
	{ A "share = inf\n", "t.ini:2: ", "'inf' is not a number" },
	{ A "share = 0x1p-1\n", "t.ini:2: ", "not a number" },
	{ A "share = 1e999\n", "t.ini:2: ", "1e999 is too large" },
	{ A "share = 0,5\n", "t.ini:2: ", "'0,5' is not a number" },
	{ A "share = 0.5.5\n", "t.ini:2: ", "not a number" },
	{ A "share = 1.0000000000000002\n", "t.ini:2: ", "outside 0..1" },
	{ A "verify = maybe\n", "t.ini:2: ", "'maybe' is not true or false" },
	{ A "verify = TRUE\n", "t.ini:2: ", "not true or false" },
	{ A "kv_dtype = f23\n",
		"t.ini:2: ", "'f23' is not auto, f32 or bf16; did you mean 'f32'?" },
	{ A "kv_dtype = q\n", "t.ini:2: ", "'q' is not auto, f32 or bf16" },
	{ A "memory = 4X\n", "t.ini:2: ", "'4X' is not a size" },
	{ A "memory = K\n", "t.ini:2: ", "is not a size" },
	{ A "memory = -4G\n", "t.ini:2: ", "is not a size" },
	{ A "memory = 1.5G\n", "t.ini:2: ", "is not a size" },
	{ A "memory = 9999999999T\n", "t.ini:2: ", "does not fit into 64 bits" },
	{ A "memory = 2048T\n", "t.ini:2: ", "2048T is outside" },
	{ A "memory = 0\n", "t.ini:2: ", "0 is outside" },
	{ A "sizes = 1,,2\n", "t.ini:2: ", "a number is missing at a comma" },
	{ A "sizes = ,1\n", "t.ini:2: ", "a number is missing" },
	{ A "sizes = 1,2,\n", "t.ini:2: ", "a number is missing" },
	{ A "sizes = 1 two\n", "t.ini:2: ", "'two' is not a whole number" },
	{ A "sizes = 1, 65\n", "t.ini:2: ", "65 is outside 1..64" },
	{ A "scales = 1 nan\n", "t.ini:2: ", "'nan' is not a number" },
	{ A "scales = 1 -11\n", "t.ini:2: ", "-11 is outside -10..10" },
};

static void test_refusals(void **state)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct conf *c = NULL;

		fail_clear();
		assert_int_not_equal(load(bad[i].text, &c), NVLLM_OK);
		if (strncmp(fail_text(), bad[i].where, strlen(bad[i].where)) ||
			!strstr(fail_text(), bad[i].says))
			SAY("text %zu:\n%sgave: %s\nwant: %s... %s\n", i, bad[i].text, fail_text(),
				bad[i].where, bad[i].says);
		conf_close(c);
	}
}

static void test_nul_byte(void **state)
{
	static const char text[] = A "path = a\0b\n";
	struct conf *c = NULL;

	assert_int_equal(load_n(text, sizeof(text) - 1, &c), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "t.ini:2: control character 0x00 at column 9"));
	assert_null(c);
}

static void test_long_lines(void **state)
{
	static char text[20000];
	struct conf *c = NULL;
	int n = snprintf(text, sizeof(text), A "path = ");
	const size_t longest = 8189 - strlen("path = ");

	memset(text + n, 'x', longest);
	strcpy(text + n + longest, "\n");
	assert_int_equal(load(text, &c), NVLLM_OK);
	assert_int_equal(strlen(all.path), longest);
	conf_close(c);

	strcpy(text + n + longest, "x\r\nseed = 1\n");
	assert_int_equal(load(text, &c), NVLLM_EINVAL);
	assert_non_null(
		strstr(fail_text(), "t.ini:2: the line has 8190 bytes; at most 8189 are read"));

	text[n - 7] = ';'; /* a comment may be of any length */
	assert_int_equal(load(text, &c), NVLLM_OK);
	assert_int_equal(all.big, 1);
	conf_close(c);
}

/* ---- what is taken ---- */

static void test_forms(void **state)
{
	static const char text[] = "\xef\xbb\xbf; head\r\n\r\n# also a comment\r\n"
		"[attention] ; tail\r\n"
		"page_tokens=32\r\n"
		"memory \t= \t4G \t; not 5G\r\n"
		"  ; an indented comment\n"
		"path = a=b;c: d#e \xc3\xa9\n"
		"[engine]\n"
		"[attention]\n"
		"sizes = 1, 2 4\t,8\n"
		"scales = -1.5 +2 .5 5. 1e-1\n"
		"verify = on\n"
		"kv_dtype = bf16\n"
		"share = 1";
	struct conf *c = NULL;

	assert_int_equal(load(text, &c), NVLLM_OK);
	assert_int_equal(all.count, 32);
	assert_int_equal(all.bytes, 4LL << 30);
	assert_int_equal(all.big, -1);
	assert_string_equal(all.path, "a=b;c: d#e \xc3\xa9");
	assert_int_equal(all.sizes.n, 4);
	assert_int_equal(all.sizes.v[3], 8);
	assert_int_equal(all.scales.n, 5);
	assert_true(all.scales.v[0] == -1.5 && all.scales.v[1] == 2 && all.scales.v[2] == 0.5 &&
		all.scales.v[3] == 5 && all.scales.v[4] == 0.1);
	assert_true(all.ratio == 1.0);
	assert_int_equal(all.flag, 1);
	assert_int_equal(all.kind, 2);
	assert_string_equal(core.plugin, "paged");
	assert_string_equal(conf_sections(c)[0], "attention");
	assert_string_equal(conf_sections(c)[1], "engine");
	assert_null(conf_sections(c)[2]);
	conf_close(c);
}

static void test_empty(void **state)
{
	struct conf *c = NULL;

	assert_int_equal(load("", &c), NVLLM_OK);
	assert_int_equal(all.count, 16);
	assert_int_equal(all.scales.n, 0);
	assert_null(conf_sections(c)[0]);
	conf_close(c);
	assert_int_equal(conf_open(NULL, &c), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK);
	conf_close(c);
}

/* 64-bit numbers stay exact, which a double between would not keep. */
static void test_exact(void **state)
{
	struct conf *c = NULL;

	assert_int_equal(
		load(A "seed = 9007199254740993\nmemory = 9007199254740993\n", &c), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "memory: 9007199254740993 is outside"));
	conf_close(c);
	assert_int_equal(load(A "seed = 9007199254740993\n", &c), NVLLM_OK);
	assert_int_equal(all.big, 9007199254740993);
	assert_int_equal(conf_set(c, "attention.seed=-9223372036854775808", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK);
	assert_true(all.big == INT64_MIN);
	conf_close(c);
}

/* A program that has set its locale still reads a point. */
static void test_locale(void **state)
{
	static const char *const names[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", NULL };
	struct conf *c = NULL;
	int i = 0;

	while (names[i] && !setlocale(LC_NUMERIC, names[i]))
		i++;
	assert_int_equal(load(A "share = 0.25\n", &c), NVLLM_OK);
	assert_true(all.ratio == 0.25);
	conf_close(c);
	setlocale(LC_NUMERIC, "C");
}

/* ---- which value wins ---- */

static void test_precedence(void **state)
{
	const char *origin = NULL;
	struct conf *c = NULL;

	assert_int_equal(load(A "page_tokens = 32\n", &c), NVLLM_OK);
	assert_string_equal(conf_get(c, "attention", "page_tokens", &origin), "32");
	assert_string_equal(origin, "t.ini:2");
	assert_null(conf_get(c, "attention", "seed", &origin));
	assert_null(conf_get(c, "engine", "page_tokens", NULL));

	assert_int_equal(conf_set(c, "attention.page_tokens=64", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK);
	assert_int_equal(all.count, 64);
	assert_string_equal(conf_get(c, "attention", "page_tokens", &origin), "64");
	assert_string_equal(origin, "--set");

	assert_int_equal(conf_set(c, "attention.page_tokens=128", "-n"), NVLLM_OK);
	assert_int_equal(conf_set(c, "attention.path=a=b\n; c", "-p"), NVLLM_OK);
	assert_int_equal(conf_set(c, "attention.plugin=", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK);
	assert_int_equal(all.count, 128);
	assert_string_equal(all.path, "a=b\n; c");
	assert_string_equal(core.plugin, "");

	assert_int_equal(conf_set(c, "attention.page_tokens=no", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_EINVAL);
	assert_non_null(
		strstr(fail_text(), "--set: [attention] page_tokens: 'no' is not a whole number"));
	conf_close(c);
}

static void test_set_refusals(void **state)
{
	static const char *const texts[] = { "", "x", "x=1", "attention.seed", ".seed=1",
		"attention.=1", "=", "Attention.seed=1", "attention.seed =1", "attention seed=1",
		"a/b.c=1" };
	struct conf *c = NULL;

	assert_int_equal(load("", &c), NVLLM_OK);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		fail_clear();
		assert_int_equal(conf_set(c, texts[i], "--set"), NVLLM_EINVAL);
		assert_memory_equal(fail_text(), "--set: ", 7);
	}
	assert_int_equal(conf_set(c, "atention.seed=1", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_EINVAL);
	assert_non_null(strstr(
		fail_text(), "--set: there is no section [atention]; did you mean [attention]?"));
	conf_close(c);
	assert_int_equal(load("", &c), NVLLM_OK);
	assert_int_equal(conf_set(c, "attention.sed=1", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_EINVAL);
	assert_non_null(
		strstr(fail_text(), "--set: [attention] has no key 'sed'; did you mean 'seed'?"));
	conf_close(c);
}

static void test_two_claims(void **state)
{
	struct conf_table tables[] = {
		{ "attention", core_options, &core, sizeof(core) },
		{ "attention.mine", core_options, &need, sizeof(need) },
	};
	struct conf *c = NULL;

	assert_int_equal(conf_open(NULL, &c), NVLLM_OK);
	assert_int_equal(conf_fill(c, "attention", tables, 2), NVLLM_EINVAL);
	assert_non_null(strstr(
		fail_text(), "both 'attention' and 'attention.mine' declare the key 'plugin'"));
	conf_close(c);
}

/* ---- conf_print ---- */

/* What is printed reads back to the same values; what cannot be written is a comment. */
static void test_print_round_trip(void **state)
{
	static const char text[] =
		A "page_tokens = 32\npath = a # b;c = d\nsizes = 1,2\n[batch]\ninput = x ; y\n";
	struct conf *c = NULL, *again = NULL;
	struct all_conf first;
	size_t len = 0;
	char *out = NULL;
	FILE *f = open_memstream(&out, &len);

	assert_non_null(f);
	assert_int_equal(load(text, &c), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK); /* a second time adds nothing */
	assert_int_equal(conf_set(c, "attention.plugin=na\xc3\xafve", "--set"), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_OK);
	conf_print(c, f);
	fclose(f);
	assert_non_null(strstr(out, "page_tokens = 32 "));
	assert_non_null(strstr(out, " ; t.ini:2\n"));
	assert_non_null(strstr(out, " ; default\n"));
	assert_non_null(strstr(out, " ; --set\n"));
	first = all;
	assert_int_equal(load_n(out, len, &again), NVLLM_OK);
	assert_int_equal(all.count, first.count);
	assert_int_equal(all.bytes, first.bytes);
	assert_true(all.ratio == first.ratio);
	assert_string_equal(all.path, "a # b;c = d");
	assert_int_equal(all.sizes.n, 2);
	assert_string_equal(core.plugin, "na\xc3\xafve");
	assert_string_equal(need.plugin, "x");
	conf_close(again);
	conf_close(c);
	free(out);
}

static void test_print_unwritable(void **state)
{
	static const char *const values[] = { "two\nlines", " lead", "trail ", "; c", "a ;b",
		"\xff", "\x1b[0m" };

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct conf *c = NULL, *again = NULL;
		char set[64], *out = NULL;
		size_t len = 0;
		FILE *f = open_memstream(&out, &len);

		assert_non_null(f);
		snprintf(set, sizeof(set), "attention.path=%s", values[i]);
		assert_int_equal(load("", &c), NVLLM_OK);
		assert_int_equal(conf_set(c, set, "-p"), NVLLM_OK);
		assert_int_equal(fill(c), NVLLM_OK);
		conf_print(c, f);
		fclose(f);
		assert_non_null(strstr(out, "; path, set by -p, does not fit into an INI file: "));
		assert_int_equal(load_n(out, len, &again), NVLLM_OK);
		assert_string_equal(all.path, "");
		conf_close(again);
		conf_close(c);
		free(out);
	}
}

/* ---- files ---- */

static void test_files(void **state)
{
	char dir[] = "/tmp/nvllm-conf-XXXXXX", path[64], text[256];
	struct conf *c = NULL;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(conf_open(dir, &c), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "is a folder"));
	snprintf(path, sizeof(path), "%s/x.ini", dir);
	assert_int_equal(conf_open(path, &c), NVLLM_ENOENT);
	assert_non_null(strstr(fail_text(), "x.ini: cannot be opened: No such file"));
	assert_int_equal(conf_open("/dev/zero", &c), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "/dev/zero: larger than 1048576 bytes"));
	assert_null(c);

	f = fopen(path, "w");
	assert_non_null(f);
	fputs(A "page_tokens = x\n", f);
	fclose(f);
	assert_int_equal(conf_open(path, &c), NVLLM_OK);
	assert_int_equal(fill(c), NVLLM_EINVAL);
	snprintf(text, sizeof(text), "%s:2: [attention] page_tokens: 'x'", path);
	assert_non_null(strstr(fail_text(), text));
	conf_close(c);
	unlink(path);
	rmdir(dir);
}

static void test_too_many(void **state)
{
	size_t room = 1 << 20, n = 0;
	char *text = malloc(room);
	struct conf *c = NULL;

	assert_non_null(text);
	n += (size_t)snprintf(text, room, A);
	for (int i = 0; i < 5000; i++)
		n += (size_t)snprintf(text + n, room - n, "k%d = 1\n", i);
	assert_int_equal(conf_parse("t.ini", text, n, &c), NVLLM_EINVAL);
	assert_non_null(strstr(fail_text(), "t.ini:4098: more than 4096 keys"));
	free(text);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_nul_byte),
		cmocka_unit_test(test_long_lines),
		cmocka_unit_test(test_forms),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_locale),
		cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_set_refusals),
		cmocka_unit_test(test_two_claims),
		cmocka_unit_test(test_print_round_trip),
		cmocka_unit_test(test_print_unwritable),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
