/* SPDX-License-Identifier: MIT */
/* jinja_expr.c - parses expressions: decides which operator binds tighter. As
 * jinja2/parser.py has it: or, and, not, comparisons, + -, ~, * / // %, **, sign, then
 * .name [key] (call), then |filter and `is` test. */
#include <string.h>

#include "jinja.h"

const char *token_text(struct jin *j, const struct token *t)
{
	static const char *const names[] = { "end of template", "template data / text",
		"begin of print statement", "end of print statement", "begin of statement block",
		"end of statement block", "name", "string", "integer", "integer", "float", "" };

	if (t->type == K_NAME)
		return jin_printf(j, "%.*s", (int)(t->len < 60 ? t->len : 60), t->s);
	return t->type == K_OP ? t->op : names[t->type];
}

void parse_unexpected(struct parser *p, const char *wanted)
{
	p->j->line = p->t->line;
	if (wanted)
		jin_fail(p->j, "expected '%s', got '%s'", wanted, token_text(p->j, p->t));
	jin_fail(p->j, "unexpected '%s'", token_text(p->j, p->t));
}

bool parse_at(const struct parser *p, const char *op)
{
	return p->t->type == K_OP && strcmp(p->t->op, op) == 0;
}

bool parse_at_name(const struct parser *p, const char *name)
{
	return p->t->type == K_NAME && p->t->len == (int64_t)strlen(name) &&
		memcmp(p->t->s, name, (size_t)p->t->len) == 0;
}

bool parse_skip(struct parser *p, const char *op)
{
	bool yes = parse_at(p, op);

	p->t += yes;
	return yes;
}

bool parse_skip_name(struct parser *p, const char *name)
{
	bool yes = parse_at_name(p, name);

	p->t += yes;
	return yes;
}

void parse_expect(struct parser *p, const char *op)
{
	if (!parse_skip(p, op))
		parse_unexpected(p, op);
}

const struct str *parse_expect_name(struct parser *p)
{
	if (p->t->type != K_NAME)
		parse_unexpected(p, "name");
	p->t++;
	return parse_intern(p, p->t[-1].s, p->t[-1].len);
}

void parse_deeper(struct parser *p)
{
	p->j->line = p->t->line;
	if (++p->nest > JIN_MAX_NEST)
		jin_fail(p->j, "more than %d levels in one another", JIN_MAX_NEST);
}

static struct node *parse_binary(struct parser *p, int level);

/* "a" "b" is one string. */
static struct node *parse_string(struct parser *p)
{
	struct node *n = parse_new(p, N_CONST);
	struct sbuf b = { 0 };

	if (p->t[1].type != K_STRING) {
		n->v = v_str(p->j, p->t->s, p->t->len);
		p->t++;
		return n;
	}
	for (; p->t->type == K_STRING; p->t++)
		sbuf_put(p->j, &b, p->t->s, p->t->len);
	n->v = sbuf_str(p->j, &b);
	return n;
}

static struct node *parse_number(struct parser *p)
{
	struct node *n = parse_new(p, N_CONST);

	if (p->t->type == K_FLOAT) {
		n->v = v_float(p->t->f);
	} else if (p->t->type == K_INT) {
		n->v = v_int(p->t->i);
	} else {
		n->v = v_str(p->j, p->t->s, p->t->len);
		n->v.t = T_BIG;
	}
	p->t++;
	return n;
}

static struct node *parse_name(struct parser *p, bool nsref)
{
	static const char *const special[] = { "caller", "kwargs", "varargs" };
	struct node *n = parse_new(p, N_CONST);

	if (parse_skip_name(p, "true") || parse_skip_name(p, "True")) {
		n->v = v_true;
	} else if (parse_skip_name(p, "false") || parse_skip_name(p, "False")) {
		n->v = v_false;
	} else if (parse_skip_name(p, "none") || parse_skip_name(p, "None")) {
		n->v = v_none;
	} else {
		for (int i = 0; i < p->n_macros && p->n_macros; i++) {
			p->macros[i]->uses_caller |= parse_at_name(p, special[0]);
			p->macros[i]->uses_kwargs |= parse_at_name(p, special[1]);
			p->macros[i]->uses_varargs |= parse_at_name(p, special[2]);
		}
		n->type = N_NAME;
		n->name = parse_expect_name(p);
		if (nsref && parse_skip(p, ".")) {
			n->type = N_NSREF;
			n->v = v_str_n(p->j, p->t->s, p->t->len, -1);
			parse_expect_name(p);
		}
	}
	return n;
}

static struct node *parse_list(struct parser *p)
{
	struct node *n = parse_new(p, N_LIST);

	parse_expect(p, "[");
	while (!parse_at(p, "]")) {
		if (n->list.n)
			parse_expect(p, ",");
		if (parse_at(p, "]"))
			break;
		nodes_add(p->j, &n->list, parse_expr(p));
	}
	p->t++;
	return n;
}

static struct node *parse_dict(struct parser *p)
{
	struct node *n = parse_new(p, N_DICT);

	parse_expect(p, "{");
	while (!parse_at(p, "}")) {
		if (n->list.n)
			parse_expect(p, ",");
		if (parse_at(p, "}"))
			break;
		nodes_add(p->j, &n->list, parse_expr(p));
		parse_expect(p, ":");
		nodes_add(p->j, &n->list2, parse_expr(p));
	}
	p->t++;
	return n;
}

struct node *parse_primary(struct parser *p, bool nsref)
{
	struct node *n = NULL;

	parse_deeper(p);
	if (p->t->type == K_NAME) {
		n = parse_name(p, nsref);
	} else if (p->t->type == K_STRING) {
		n = parse_string(p);
	} else if (p->t->type == K_INT || p->t->type == K_BIG || p->t->type == K_FLOAT) {
		n = parse_number(p);
	} else if (parse_skip(p, "(")) {
		n = parse_tuple(p, true, "(");
		parse_expect(p, ")");
	} else if (parse_at(p, "[")) {
		n = parse_list(p);
	} else if (parse_at(p, "{")) {
		n = parse_dict(p);
	} else {
		parse_unexpected(p, NULL);
	}
	p->nest--;
	return n;
}

/* Is this the end of a tuple without brackets? end: a name that ends it too ("in"). */
static bool tuple_ends(const struct parser *p, const char *end)
{
	return p->t->type == K_VAR_END || p->t->type == K_BLOCK_END || parse_at(p, ")") ||
		(end && *end != '(' && parse_at_name(p, end));
}

/* a or a, b, ...; end "(": in brackets, where () is a tuple too; "in": only names. */
struct node *parse_tuple(struct parser *p, bool cond, const char *end)
{
	struct node *n = parse_new(p, N_TUPLE);
	bool comma = false, simple = end && (!strcmp(end, "in") || !strcmp(end, "="));

	for (;;) {
		if (n->list.n)
			parse_expect(p, ",");
		if (tuple_ends(p, end))
			break;
		nodes_add(p->j, &n->list, simple ? parse_primary(p, *end == '=') :
				  cond ? parse_expr(p) : parse_or(p));
		if (!parse_at(p, ","))
			break;
		comma = true;
	}
	if (comma)
		return n;
	if (n->list.n)
		return n->list.v[0];
	if (!end || *end != '(')
		jin_fail(p->j, "Expected an expression, got '%s'", token_text(p->j, p->t));
	return n;
}

static struct node *parse_subscribed(struct parser *p)
{
	struct node *n = parse_new(p, N_SLICE);

	if (!parse_at(p, ":")) {
		struct node *first = parse_expr(p);

		if (!parse_at(p, ":"))
			return first;
		n->a = first;
	}
	p->t++;
	if (!parse_at(p, ":") && !parse_at(p, "]") && !parse_at(p, ","))
		n->b = parse_expr(p);
	if (parse_skip(p, ":") && !parse_at(p, "]") && !parse_at(p, ","))
		n->c = parse_expr(p);
	return n;
}

static struct node *parse_subscript(struct parser *p, struct node *of)
{
	struct node *n = parse_new(p, N_ITEM), *t;

	n->a = of;
	if (parse_skip(p, ".")) {
		if (p->t->type == K_NAME) {
			n->type = N_ATTR;
			n->name = parse_expect_name(p);
			n->v = (struct val){ .t = T_STR, .s = n->name };
			return n;
		}
		if (p->t->type != K_INT)
			parse_unexpected(p, "name or number");
		n->b = parse_number(p);
		return n;
	}
	parse_expect(p, "[");
	t = parse_new(p, N_TUPLE);
	while (!parse_at(p, "]")) {
		if (t->list.n)
			parse_expect(p, ",");
		nodes_add(p->j, &t->list, parse_subscribed(p));
	}
	p->t++;
	n->b = t->list.n == 1 ? t->list.v[0] : t;
	return n;
}

static void parse_arg(struct parser *p, struct call *c)
{
	bool named = p->t->type == K_NAME && p->t[1].type == K_OP && !strcmp(p->t[1].op, "=");

	if (parse_at(p, "*") && !c->more && !c->more_named) {
		p->t++;
		c->more = parse_expr(p);
	} else if (parse_at(p, "**") && !c->more_named) {
		p->t++;
		c->more_named = parse_expr(p);
	} else if (named && !c->more_named) {
		const struct str *name = parse_expect_name(p);
		const struct str **names = jin_array(p->j, c->named.n + 1, sizeof(*names));

		for (int i = 0; i < c->named.n; i++) {
			if (c->names[i] == name)
				jin_fail(p->j, "keyword argument repeated: %.*s",
					(int)name->len, name->s);
			names[i] = c->names[i];
		}
		names[c->named.n] = name;
		c->names = names;
		p->t++;
		nodes_add(p->j, &c->named, parse_expr(p));
		if (c->named.n > 256)
			jin_fail(p->j, "more than 256 keyword arguments");
	} else if (!named && !c->more && !c->more_named && !c->named.n) {
		nodes_add(p->j, &c->pos, parse_expr(p));
	} else {
		jin_fail(p->j, "invalid syntax for function call expression");
	}
}

static struct call *parse_call_args(struct parser *p)
{
	struct call *c = jin_alloc(p->j, sizeof(*c));
	bool more = false;

	parse_deeper(p);
	parse_expect(p, "(");
	while (!parse_at(p, ")")) {
		if (more)
			parse_expect(p, ",");
		if (parse_at(p, ")"))
			break;
		parse_arg(p, c);
		more = true;
	}
	p->t++;
	p->nest--;
	return c;
}

static struct node *parse_call(struct parser *p, struct node *of)
{
	struct node *n = parse_new(p, N_CALL);

	n->a = of;
	n->call = parse_call_args(p);
	return n;
}

/* Name of a filter or test: a.b is one name. Looked up now; what is not there fails now, or, in
 * a branch that may not be taken, when it is run. */
static void find_named(struct parser *p, struct node *n, bool filter)
{
	const struct str *name = parse_expect_name(p);
	struct sbuf b = { 0 };

	sbuf_put(p->j, &b, name->s, name->len);
	while (parse_skip(p, ".")) {
		name = parse_expect_name(p);
		sbuf_put(p->j, &b, ".", 1);
		sbuf_put(p->j, &b, name->s, name->len);
	}
	n->v = sbuf_str(p->j, &b);
	n->fn = filter ? find_filter(b.s, b.len) : find_builtin(jin_tests, b.s, b.len);
	if (!n->fn && !p->soft)
		jin_fail(p->j, "No %s named '%.*s'.", filter ? "filter" : "test",
			(int)(b.len < 80 ? b.len : 80), b.s);
}

static struct node *parse_filter(struct parser *p, struct node *of)
{
	struct node *n = parse_new(p, N_FILTER);

	n->a = of;
	find_named(p, n, true);
	n->call = parse_at(p, "(") ? parse_call_args(p) : jin_alloc(p->j, sizeof(*n->call));
	return n;
}

struct node *parse_filters(struct parser *p, struct node *of, bool inlined)
{
	if (inlined)
		of = parse_filter(p, of);
	while (parse_skip(p, "|"))
		of = parse_filter(p, of);
	return of;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
	for (;;) {
		if (parse_at(p, ".") || parse_at(p, "["))
			n = parse_subscript(p, n);
		else if (parse_at(p, "("))
			n = parse_call(p, n);
		else
			return n;
	}
}

static struct node *parse_test(struct parser *p, struct node *of)
{
	struct node *n = parse_new(p, N_TEST), *not;
	bool negated;

	p->t++;
	negated = parse_skip_name(p, "not");
	n->a = of;
	find_named(p, n, false);
	n->call = jin_alloc(p->j, sizeof(*n->call));
	if (parse_at(p, "(")) {
		n->call = parse_call_args(p);
	} else if (((p->t->type >= K_NAME && p->t->type <= K_FLOAT) || parse_at(p, "[") ||
			   parse_at(p, "{")) &&
		!parse_at_name(p, "else") && !parse_at_name(p, "or") && !parse_at_name(p, "and")) {
		if (parse_at_name(p, "is"))
			jin_fail(p->j, "You cannot chain multiple tests with is");
		nodes_add(p->j, &n->call->pos, parse_postfix(p, parse_primary(p, false)));
	}
	if (!negated)
		return n;
	not = parse_new(p, N_NOT);
	not->a = n;
	return not;
}

static struct node *parse_unary(struct parser *p, bool filters)
{
	struct node *n;

	parse_deeper(p);
	if (parse_at(p, "-") || parse_at(p, "+")) {
		n = parse_new(p, parse_at(p, "-") ? N_NEG : N_POS);
		p->t++;
		n->a = parse_unary(p, false);
	} else {
		n = parse_primary(p, false);
	}
	n = parse_postfix(p, n);
	while (filters) {
		if (parse_at(p, "|"))
			n = parse_filters(p, n, false);
		else if (parse_at_name(p, "is"))
			n = parse_test(p, n);
		else if (parse_at(p, "("))
			n = parse_call(p, n);
		else
			break;
	}
	p->nest--;
	return n;
}

static struct node *parse_concat(struct parser *p)
{
	struct node *first = parse_binary(p, 1), *n;

	if (!parse_at(p, "~"))
		return first;
	n = parse_new(p, N_CONCAT);
	nodes_add(p->j, &n->list, first);
	while (parse_skip(p, "~"))
		nodes_add(p->j, &n->list, parse_binary(p, 1));
	return n;
}

/* Left to right. Level 0: + -; 1: * / // %; 2: **. */
static struct node *parse_binary(struct parser *p, int level)
{
	static const struct { const char *text; int level, op; } ops[] = { { "+", 0, OP_ADD },
		{ "-", 0, OP_SUB }, { "*", 1, OP_MUL }, { "/", 1, OP_DIV }, { "//", 1, OP_FLOORDIV },
		{ "%", 1, OP_MOD }, { "**", 2, OP_POW } };
	struct node *left = level == 0 ? parse_concat(p) : level == 1 ? parse_binary(p, 2) :
									parse_unary(p, true);

	for (;;) {
		struct node *n;
		int op = -1;

		for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
			if (ops[i].level == level && parse_at(p, ops[i].text))
				op = ops[i].op;
		if (op < 0)
			return left;
		n = parse_new(p, N_BINARY);
		p->t++;
		n->op = (uint8_t)op;
		n->a = left;
		n->b = level == 0 ? parse_concat(p) : level == 1 ? parse_binary(p, 2) :
								   parse_unary(p, true);
		left = n;
	}
}

static int compare_op(struct parser *p)
{
	static const struct { const char *text; int op; } ops[] = { { "==", OP_EQ }, { "!=", OP_NE },
		{ "<", OP_LT }, { "<=", OP_LE }, { ">", OP_GT }, { ">=", OP_GE } };

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (parse_skip(p, ops[i].text))
			return ops[i].op;
	if (parse_skip_name(p, "in"))
		return OP_IN;
	if (parse_at_name(p, "not") && p->t[1].type == K_NAME && p->t[1].len == 2 &&
		!memcmp(p->t[1].s, "in", 2)) {
		p->t += 2;
		return OP_NOTIN;
	}
	return -1;
}

/* a < b == c: as Python, each pair. */
static struct node *parse_compare(struct parser *p)
{
	struct node *first = parse_binary(p, 0), *n = NULL;
	uint8_t *ops = NULL;
	int op;

	while ((op = compare_op(p)) >= 0) {
		if (!n) {
			n = parse_new(p, N_COMPARE);
			ops = jin_alloc(p->j, JIN_MAX_NEST);
			n->a = first;
			n->ops = ops;
		}
		if (n->list.n == JIN_MAX_NEST)
			jin_fail(p->j, "more than %d comparisons in a row", JIN_MAX_NEST);
		ops[n->list.n] = (uint8_t)op;
		nodes_add(p->j, &n->list, parse_binary(p, 0));
	}
	return n ? n : first;
}

static struct node *parse_not(struct parser *p)
{
	struct node *n;

	if (!parse_at_name(p, "not"))
		return parse_compare(p);
	parse_deeper(p);
	n = parse_new(p, N_NOT);
	p->t++;
	n->a = parse_not(p);
	p->nest--;
	return n;
}

static struct node *parse_and(struct parser *p)
{
	struct node *left = parse_not(p);

	while (parse_skip_name(p, "and")) {
		struct node *n = parse_new(p, N_AND);

		n->a = left;
		n->b = parse_not(p);
		left = n;
	}
	return left;
}

struct node *parse_or(struct parser *p)
{
	struct node *left = parse_and(p);

	while (parse_skip_name(p, "or")) {
		struct node *n = parse_new(p, N_OR);

		n->a = left;
		n->b = parse_and(p);
		left = n;
	}
	return left;
}

/* a if b else c: what is not found in a branch fails when it is run. */
struct node *parse_expr(struct parser *p)
{
	bool soft = p->soft;
	struct node *left;

	parse_deeper(p);
	left = parse_or(p);
	while (parse_skip_name(p, "if")) {
		struct node *n = parse_new(p, N_COND);

		n->b = left;
		p->soft = true;
		n->a = parse_or(p);
		if (parse_skip_name(p, "else"))
			n->c = parse_expr(p);
		p->soft = soft;
		left = n;
	}
	p->nest--;
	return left;
}
