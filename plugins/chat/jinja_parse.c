/* SPDX-License-Identifier: MIT */
/* jinja_parse.c - parses statements: decides which tags there are, and what of a template is
 * refused before it is ever run. */
#include <string.h>

#include "jinja.h"

struct node *parse_new(struct parser *p, int type)
{
	struct node *n = jin_alloc(p->j, sizeof(*n));

	n->type = (uint8_t)type;
	n->line = p->t->line;
	p->j->line = p->t->line;
	return n;
}

void nodes_add(struct jin *j, struct nodes *list, struct node *n)
{
	if (list->n == list->cap) {
		int cap = list->cap ? list->cap * 2 : 4;
		struct node **v = jin_array(j, cap, sizeof(*v));

		if (list->n)
			memcpy(v, list->v, (size_t)list->n * sizeof(*v));
		list->v = v;
		list->cap = cap;
	}
	list->v[list->n++] = n;
}

const struct str *parse_intern(struct parser *p, const char *s, int64_t len)
{
	struct val key = v_str(p->j, s, len), found;

	if (!dict_get(p->j, p->names, key, &found)) {
		dict_set(p->j, p->names, key, key);
		found = key;
	}
	return found.s;
}

static void parse_body(struct parser *p, struct nodes *body, const char *end1, const char *end2,
	const char *end3);

static void block_end(struct parser *p)
{
	if (p->t->type != K_BLOCK_END)
		parse_unexpected(p, "end of statement block");
	p->t++;
}

/* The body of a tag up to one of its end tags, whose name is then the current token. */
static void parse_until(struct parser *p, struct nodes *body, const char *end1, const char *end2,
	const char *end3)
{
	parse_skip(p, ":");
	block_end(p);
	parse_body(p, body, end1, end2, end3);
}

/* The same where there is but one, which is taken too. The body is a frame of its own:
 * what is not found in it is refused now. */
static void parse_closed(struct parser *p, struct nodes *body, const char *end)
{
	bool soft = p->soft;

	p->soft = false;
	parse_until(p, body, end, NULL, NULL);
	p->soft = soft;
	p->t++;
}

/* What can stand before = */
static void check_target(struct parser *p, const struct node *n)
{
	if (n->type == N_TUPLE) {
		for (int i = 0; i < n->list.n; i++)
			check_target(p, n->list.v[i]);
		return;
	}
	p->j->line = n->line;
	if (n->type != N_NAME && n->type != N_NSREF)
		jin_fail(p->j, "can't assign to '%s'", n->type == N_CONST ? "const" : "expression");
	if (n->type == N_NAME && p->loops && n->name->len == 4 && !memcmp(n->name->s, "loop", 4))
		jin_fail(p->j, "Can't assign to special loop variable in for-loop target");
}

static struct node *parse_set(struct parser *p)
{
	struct node *n = parse_new(p, N_SET);

	p->t++;
	n->a = parse_tuple(p, true, "=");
	check_target(p, n->a);
	if (parse_skip(p, "=")) {
		n->b = parse_tuple(p, true, NULL);
		return n;
	}
	n->type = N_SETBLOCK;
	n->b = parse_filters(p, NULL, false);
	parse_closed(p, &n->list, "endset");
	return n;
}

static struct node *parse_for(struct parser *p)
{
	struct node *n = parse_new(p, N_FOR);
	bool soft = p->soft;

	n->name = parse_intern(p, "loop", 4);
	p->t++;
	p->loops++;
	n->a = parse_tuple(p, true, "in");
	check_target(p, n->a);
	if (!parse_skip_name(p, "in"))
		parse_unexpected(p, "in");
	n->b = parse_tuple(p, false, "recursive");
	p->soft = false;
	if (parse_skip_name(p, "if"))
		n->c = parse_expr(p);
	n->flag = parse_skip_name(p, "recursive");
	parse_until(p, &n->list, "endfor", "else", NULL);
	p->loops--;
	if (parse_skip_name(p, "else"))
		parse_until(p, &n->list2, "endfor", NULL, NULL);
	p->t++;
	p->soft = soft;
	return n;
}

/* elif is an if in the else branch of the one before: a list, so that a long chain does not
 * nest. list: conditions, then for each a N_SCOPE-like holder with its body in list2. */
static struct node *parse_if(struct parser *p)
{
	struct node *n = parse_new(p, N_IF), *branch;
	bool soft = p->soft;

	p->t++;
	p->soft = true;
	for (;;) {
		branch = parse_new(p, N_SCOPE);
		branch->a = parse_tuple(p, false, NULL);
		parse_until(p, &branch->list, "elif", "else", "endif");
		nodes_add(p->j, &n->list, branch);
		if (!parse_skip_name(p, "elif"))
			break;
	}
	if (parse_skip_name(p, "else"))
		parse_until(p, &n->list2, "endif", NULL, NULL);
	p->t++;
	p->soft = soft;
	return n;
}

/* (a, b=1): names in list, defaults at the end of list2. */
static void parse_signature(struct parser *p, struct node *n)
{
	parse_expect(p, "(");
	while (!parse_at(p, ")")) {
		struct node *arg;

		if (n->list.n)
			parse_expect(p, ",");
		arg = parse_new(p, N_NAME);
		arg->name = parse_expect_name(p);
		for (int i = 0; i < n->list.n; i++)
			if (n->list.v[i]->name == arg->name)
				jin_fail(p->j, "duplicate argument '%.*s'", (int)arg->name->len,
					arg->name->s);
		if (parse_skip(p, "="))
			arg->a = parse_expr(p);
		else if (n->list.n && n->list.v[n->list.n - 1]->a)
			jin_fail(p->j, "non-default argument follows default argument");
		nodes_add(p->j, &n->list, arg);
		if (n->list.n > 256)
			jin_fail(p->j, "more than 256 arguments");
	}
	p->t++;
}

/* The body of a macro or call block, in which a loop outside cannot be left. */
static void parse_macro_body(struct parser *p, struct node *n, const char *end)
{
	static const char *const special[] = { "caller", "kwargs", "varargs" };
	int loops = p->loops;

	n->call = jin_alloc(p->j, sizeof(*n->call));
	n->call->names = jin_array(p->j, 3, sizeof(*n->call->names));
	for (int i = 0; i < 3; i++)
		n->call->names[i] = parse_intern(p, special[i], (int64_t)strlen(special[i]));
	p->loops = 0;
	p->macros[p->n_macros++] = n;
	parse_closed(p, &n->list2, end);
	p->n_macros--;
	p->loops = loops;
	for (int i = 0; i < n->list.n; i++) {
		const struct str *s = n->list.v[i]->name;

		if (n->uses_caller && s == n->call->names[0] && !n->list.v[i]->a)
			jin_fail(p->j, "When defining macros or call blocks the special \"caller\" "
				"argument must be omitted or be given a default.");
		n->uses_caller &= s != n->call->names[0];
		n->uses_kwargs &= s != n->call->names[1];
		n->uses_varargs &= s != n->call->names[2];
	}
}

static struct node *parse_macro(struct parser *p)
{
	struct node *n = parse_new(p, N_MACRO);

	p->t++;
	n->name = parse_expect_name(p);
	parse_signature(p, n);
	parse_macro_body(p, n, "endmacro");
	return n;
}

static struct node *parse_call_block(struct parser *p)
{
	struct node *n = parse_new(p, N_CALLBLOCK);

	p->t++;
	if (parse_at(p, "("))
		parse_signature(p, n);
	n->a = parse_expr(p);
	if (n->a->type != N_CALL)
		jin_fail(p->j, "expected call");
	parse_macro_body(p, n, "endcall");
	return n;
}

static struct node *parse_filter_block(struct parser *p)
{
	struct node *n = parse_new(p, N_FILTERBLOCK);

	p->t++;
	n->b = parse_filters(p, NULL, true);
	parse_closed(p, &n->list, "endfilter");
	return n;
}

static struct node *parse_with(struct parser *p)
{
	struct node *n = parse_new(p, N_WITH);

	p->t++;
	while (p->t->type != K_BLOCK_END) {
		struct node *set;

		if (n->list.n)
			parse_expect(p, ",");
		set = parse_new(p, N_SET);
		set->a = parse_primary(p, false);
		check_target(p, set->a);
		parse_expect(p, "=");
		set->b = parse_expr(p);
		nodes_add(p->j, &n->list, set);
	}
	parse_closed(p, &n->list2, "endwith");
	return n;
}

static struct node *parse_print(struct parser *p)
{
	struct node *n = parse_new(p, N_SCOPE);

	p->t++;
	n->flag = true; /* no scope: its prints alone */
	while (p->t->type != K_BLOCK_END) {
		struct node *print;

		if (n->list.n)
			parse_expect(p, ",");
		print = parse_new(p, N_PRINT);
		print->a = parse_expr(p);
		nodes_add(p->j, &n->list, print);
	}
	return n;
}

/* {% generation %}: what is inside, in a scope of its own. */
static struct node *parse_generation(struct parser *p)
{
	struct node *n = parse_new(p, N_SCOPE);
	int loops = p->loops;

	p->t++;
	p->loops = 0;
	parse_closed(p, &n->list, "endgeneration");
	p->loops = loops;
	return n;
}

/* {% block %}: there is no inheritance, so it is what it says, where it stands. */
static struct node *parse_block(struct parser *p)
{
	struct node *n = parse_new(p, N_SCOPE);
	const struct str *name;
	int loops = p->loops;

	p->t++;
	name = parse_expect_name(p);
	n->op = !parse_skip_name(p, "scoped");
	parse_skip_name(p, "required");
	p->loops = 0;
	parse_closed(p, &n->list, "endblock");
	p->loops = loops;
	if (p->t->type == K_NAME && p->t->len == name->len &&
		!memcmp(p->t->s, name->s, (size_t)name->len))
		p->t++;
	return n;
}

static struct node *parse_autoescape(struct parser *p)
{
	struct node *n = parse_new(p, N_SCOPE), *on;

	p->t++;
	on = parse_expr(p);
	if (on->type != N_CONST || v_true_of(p->j, on->v))
		jin_fail(p->j, "{%% autoescape %%} is not supported: chat templates are no HTML");
	parse_closed(p, &n->list, "endautoescape");
	return n;
}

static struct node *parse_leave(struct parser *p)
{
	bool out = parse_at_name(p, "break");
	struct node *n = parse_new(p, out ? N_BREAK : N_CONTINUE);

	if (!p->loops)
		jin_fail(p->j, "'%s' outside loop", out ? "break" : "continue");
	p->t++;
	return n;
}

static struct node *parse_refused(struct parser *p)
{
	jin_fail(p->j, "{%% %s %%} is not supported: a chat template is one file",
		token_text(p->j, p->t));
}

static struct node *parse_statement(struct parser *p)
{
	static const struct {
		const char *name;
		struct node *(*fn)(struct parser *);
	} tags[] = { { "set", parse_set }, { "for", parse_for }, { "if", parse_if },
		{ "macro", parse_macro }, { "call", parse_call_block },
		{ "filter", parse_filter_block }, { "with", parse_with }, { "print", parse_print },
		{ "generation", parse_generation }, { "block", parse_block },
		{ "autoescape", parse_autoescape }, { "break", parse_leave },
		{ "continue", parse_leave }, { "include", parse_refused },
		{ "import", parse_refused }, { "from", parse_refused },
		{ "extends", parse_refused } };

	if (p->t->type != K_NAME)
		jin_fail(p->j, "tag name expected");
	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++)
		if (parse_at_name(p, tags[i].name))
			return tags[i].fn(p);
	return NULL;
}

/* An unknown tag, or the end of the template inside a tag that wants another. */
static _Noreturn void lost(struct parser *p, const char *end1, const char *end2, const char *end3)
{
	char want[100] = "";

	p->j->line = p->t->line;
	if (end1) {
		const char *ends[] = { end1, end2, end3 };

		strcpy(want, " Jinja was looking for the following tags:");
		for (int i = 0; i < 3 && ends[i]; i++) {
			strcat(want, i ? " or '" : " '");
			strcat(want, ends[i]);
			strcat(want, "'");
		}
		strcat(want, ".");
	}
	if (p->t->type == K_EOF)
		jin_fail(p->j, "Unexpected end of template.%s", want);
	jin_fail(p->j, "Encountered unknown tag '%s'.%s", token_text(p->j, p->t), want);
}

static bool at_end(struct parser *p, const char *end1, const char *end2, const char *end3)
{
	return (end1 && parse_at_name(p, end1)) || (end2 && parse_at_name(p, end2)) ||
		(end3 && parse_at_name(p, end3));
}

static void parse_body(struct parser *p, struct nodes *body, const char *end1, const char *end2,
	const char *end3)
{
	parse_deeper(p);
	while (p->t->type != K_EOF) {
		struct node *n;

		if (p->t->type == K_DATA) {
			n = parse_new(p, N_TEXT);
			n->v = v_str(p->j, p->t->s, p->t->len);
			p->t++;
		} else if (p->t->type == K_VAR_BEGIN) {
			n = parse_new(p, N_PRINT);
			p->t++;
			n->a = parse_tuple(p, true, NULL);
			if (p->t->type != K_VAR_END)
				parse_unexpected(p, "end of print statement");
			p->t++;
		} else {
			p->t++; /* K_BLOCK_BEGIN: the lexer makes nothing else here */
			if (at_end(p, end1, end2, end3)) {
				p->nest--;
				return;
			}
			n = parse_statement(p);
			if (!n)
				lost(p, end1, end2, end3);
			block_end(p);
		}
		nodes_add(p->j, body, n);
	}
	if (end1)
		lost(p, end1, end2, end3);
	p->nest--;
}

void jinja_parse(struct jin *j, const char *text, int64_t len, struct nodes *body)
{
	struct parser p = { .j = j };
	int64_t n;

	p.names = v_dict(j).d;
	p.t = jin_lex(j, text, len, &n);
	parse_body(&p, body, NULL, NULL, NULL);
}
