/* SPDX-License-Identifier: MIT */
/* jinja_tests.c - what can follow `is`. */
#include <string.h>

#include "jinja.h"

#define TEST(name) static struct val name(struct jin *j, struct val v, const struct val *arg, const struct args *a)

static bool is_mod(struct jin *j, struct val v, int64_t by, int64_t rest)
{
	struct val m;

	if (v.t == T_BIG)
		v = v_int(v.s->s[v.s->len - 1] - '0'); /* the last digit says it */
	m = v_binary(j, OP_MOD, v, v_int(by));

	return v_eq(j, m, v_int(rest));
}

TEST(t_odd)         { return v_bool(is_mod(j, v, 2, 1)); }
TEST(t_even)        { return v_bool(is_mod(j, v, 2, 0)); }
TEST(t_divisible)   { return v_bool(v_eq(j, v_binary(j, OP_MOD, v, arg[0]), v_int(0))); }
TEST(t_defined)     { return v_bool(v.t != T_UNDEF); }
TEST(t_undefined)   { return v_bool(v.t == T_UNDEF); }
TEST(t_none)        { return v_bool(v.t == T_NONE); }
TEST(t_boolean)     { return v_bool(v.t == T_BOOL); }
TEST(t_false)       { return v_bool(v.t == T_BOOL && !v.b); }
TEST(t_true)        { return v_bool(v.t == T_BOOL && v.b); }
TEST(t_integer)     { return v_bool(v.t == T_INT || v.t == T_BIG); }
TEST(t_float)       { return v_bool(v.t == T_FLOAT); }
TEST(t_string)      { return v_bool(v.t == T_STR); }
TEST(t_mapping)     { return v_bool(v.t == T_DICT); }
TEST(t_number)      { return v_bool(v_is_num(v)); }
TEST(t_sequence)    { return v_bool((v.t >= T_STR && v.t <= T_DICT) || v.t == T_RANGE ||
		v.t == T_UNDEF); }
TEST(t_iterable)    { return v_bool(v_iterable(v)); }
TEST(t_escaped)     { return v_bool(v.t == T_STR && v.k); }
TEST(t_in)          { return v_bool(v_in(j, v, arg[0])); }
TEST(t_eq)          { return v_bool(v_eq(j, v, arg[0])); }
TEST(t_ne)          { return v_bool(!v_eq(j, v, arg[0])); }
TEST(t_gt)          { return v_bool(v_compare(j, OP_GT, v, arg[0])); }
TEST(t_ge)          { return v_bool(v_compare(j, OP_GE, v, arg[0])); }
TEST(t_lt)          { return v_bool(v_compare(j, OP_LT, v, arg[0])); }
TEST(t_le)          { return v_bool(v_compare(j, OP_LE, v, arg[0])); }
TEST(t_sameas)      { return v_bool(v_same(v, arg[0]) && v.t != T_FLOAT); }

TEST(t_callable)
{
	return v_bool((v.t >= T_MACRO && v.t <= T_LOOP) || v.t == T_JOINER || v.t == T_DICTTYPE ||
		v.t == T_UNDEF);
}

/* str.islower, str.isupper: at least one letter with a case, and none of the other. */
static bool all_case(struct jin *j, struct val v, bool lower)
{
	bool any = false;

	v = v_to_str(j, v);
	jin_charge(j, v.s->len * 64);
	for (int64_t i = 0; i < v.s->len;) {
		uint32_t c = cp_next(v.s->s, v.s->len, &i);

		if (cp_is(c, lower ? CP_UPPER : CP_LOWER) || cp_is(c, CP_TITLE))
			return false;
		any = any || cp_is(c, lower ? CP_LOWER : CP_UPPER);
	}
	return any;
}

TEST(t_lower)       { return v_bool(all_case(j, v, true)); }
TEST(t_upper)       { return v_bool(all_case(j, v, false)); }

TEST(t_filter)
{
	return v_bool(v.t == T_STR && find_filter(v.s->s, v.s->len));
}

TEST(t_test)
{
	return v_bool(v.t == T_STR && find_builtin(jin_tests, v.s->s, v.s->len));
}

const struct builtin jin_tests[] = {
	{ "odd", "", 0, t_odd }, { "even", "", 0, t_even }, { "divisibleby", "num", 1, t_divisible },
	{ "defined", "", 0, t_defined }, { "undefined", "", 0, t_undefined },
	{ "filter", "", 0, t_filter }, { "test", "", 0, t_test }, { "none", "", 0, t_none },
	{ "boolean", "", 0, t_boolean }, { "false", "", 0, t_false }, { "true", "", 0, t_true },
	{ "integer", "", 0, t_integer }, { "float", "", 0, t_float }, { "lower", "", 0, t_lower },
	{ "upper", "", 0, t_upper }, { "string", "", 0, t_string },
	{ "mapping", "", 0, t_mapping }, { "number", "", 0, t_number },
	{ "sequence", "", 0, t_sequence }, { "iterable", "", 0, t_iterable },
	{ "callable", "", 0, t_callable }, { "sameas", "other", 1, t_sameas },
	{ "escaped", "", 0, t_escaped }, { "in", "seq", 1, t_in }, { "==", "b", 1, t_eq },
	{ "eq", "b", 1, t_eq }, { "equalto", "b", 1, t_eq }, { "!=", "b", 1, t_ne },
	{ "ne", "b", 1, t_ne }, { ">", "b", 1, t_gt }, { "gt", "b", 1, t_gt },
	{ "greaterthan", "b", 1, t_gt }, { ">=", "b", 1, t_ge }, { "ge", "b", 1, t_ge },
	{ "<", "b", 1, t_lt }, { "lt", "b", 1, t_lt }, { "lessthan", "b", 1, t_lt },
	{ "<=", "b", 1, t_le }, { "le", "b", 1, t_le },
	{ NULL },
};

const struct builtin *find_builtin(const struct builtin *t, const char *name, int64_t len)
{
	for (; t->name; t++)
		if (len && *t->name == *name && (int64_t)strlen(t->name) == len && !memcmp(t->name, name, (size_t)len))
			return t;
	return NULL;
}

const struct builtin *find_filter(const char *name, int64_t len)
{
	const struct builtin *fn = find_builtin(jin_filters, name, len);

	return fn ? fn : find_builtin(jin_filters_text, name, len);
}
