/* SPDX-License-Identifier: MIT */
/* jinja.h - what the files of the chat plugin `jinja` know of each other.
 *
 * The language is Jinja2's as transformers sets it up: ImmutableSandboxedEnvironment,
 * trim_blocks, lstrip_blocks, loop controls, {% generation %}; values behave as Python's.
 * A template is parsed once, at open, to a tree that nothing changes; each render walks it
 * with a `struct jin` of its own, so that renders run beside each other.
 *
 * Errors do not return: jin_fail() keeps the sentence and longjmps to where the parse or the
 * render began. All memory in between is in the arena of `struct jin`, freed there, so that
 * nothing leaks.
 *
 * Bounds, all of them ending in an error that says which:
 *   template       JIN_MAX_TEMPLATE bytes, JIN_MAX_NEST levels of brackets and blocks
 *   time           JIN_MAX_STEPS, plus JIN_BODY_STEPS for each byte of the request: an
 *                  expression or statement is a step, and so are 64 bytes that are copied,
 *                  8 that are searched, 1 whose character class is looked up
 *   depth          JIN_MAX_DEPTH of the evaluator's own recursion (macros, expressions, nested
 *                  data), and JIN_MAX_STACK bytes of the C stack
 *   memory         JIN_MAX_MEMORY, plus JIN_BODY_MEMORY for each byte of the request, at most
 *                  JIN_TOP_MEMORY
 *   output         JIN_MAX_OUTPUT bytes, plus JIN_BODY_OUTPUT for each byte of the request
 *   range()        100000 numbers, as Jinja's sandbox
 *   whole numbers  64 bits; larger ones (of the request, or what + - * ** make, up to 127 bits)
 *                  are kept and printed whole, but not computed with */
#ifndef JINJA_H
#define JINJA_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JIN_MAX_TEMPLATE (1 << 20)
#define JIN_MAX_NEST     100
#define JIN_MAX_STEPS    10000000
#define JIN_BODY_STEPS   200
#define JIN_MAX_DEPTH    1200
#define JIN_MAX_STACK    (3 << 20)
#define JIN_MAX_MEMORY   (64 << 20)
#define JIN_BODY_MEMORY  64
#define JIN_TOP_MEMORY   ((size_t)2 << 30)
#define JIN_MAX_OUTPUT   (8 << 20)
#define JIN_BODY_OUTPUT  8
#define JIN_MAX_RANGE    100000

struct jin;
struct args;
struct node;
struct scope;

/* ---- values ---- */
enum type {
	T_UNDEF = 0, T_NONE, T_BOOL, T_INT, T_BIG, T_FLOAT, T_STR, T_LIST, T_TUPLE, T_DICT,
	T_VIEW,   /* dict.keys() and its like: dict, k = enum view */
	T_RANGE, T_ITER, T_SPACE /* namespace: dict */, T_MACRO, T_FUNC, T_METHOD, T_LOOP,
	T_CYCLER, T_JOINER, T_DICTTYPE /* the global `dict` */,
	T_SLICE,  /* inside expressions only */
	T_ABSENT, /* an argument that was not given */
};
enum view { VIEW_KEYS = 0, VIEW_VALUES, VIEW_ITEMS };

struct str {
	const char *s;      /* well-formed UTF-8, not NUL-ended */
	int64_t len, n;     /* bytes, characters */
	struct tail *tail;  /* the buffer it ends in, which may have room behind it; or NULL */
};

struct val {
	uint8_t t;          /* enum type */
	uint8_t k;          /* T_STR: 1 = safe (Markup); T_TUPLE: 1 = of groupby; T_VIEW: enum view */
	union {
		bool b;
		int64_t i;
		double f;
		const struct str *s;  /* T_STR, T_BIG (the digits) */
		struct list *l;
		struct dict *d;
		struct range *r;
		struct gen *g;
		struct macro *m;
		struct bound *bound;
		struct loop *loop;
		struct cycler *cy;
		struct undef *u;
		const struct builtin *fn;
		struct slice *sl;
	};
};

struct list { struct val *v; int64_t n, cap; };
struct entry { struct val key, v; uint64_t hash; };
struct dict { struct entry *e; int64_t n, cap; int32_t *index; int64_t index_n; };
struct range { int64_t start, stop, step, n; };
struct slice { struct val start, stop, step; };
struct undef { const char *hint; struct val obj, name; bool has_obj; };
struct bound { struct val self; const struct builtin *fn; };
struct cycler { struct list *items; int64_t at; /* joiner: items[0], at = used */ };

struct iter { struct val src; int64_t at, byte; };
struct gen {
	bool (*next)(struct jin *, struct gen *, struct val *out);
	const char *type;           /* "generator" */
	struct iter in;
	struct val a, b, c;         /* of the function next */
	const struct builtin *fn;
	const struct args *args;
	struct dict *seen;
	const struct node *node;
	struct scope *scope;
	int64_t i;
	bool flag, flag2, begun;
};

/* Arguments of a call. */
struct args {
	struct val *v;
	int n;
	const struct str **names;   /* [n_named] */
	struct val *named;
	int n_named;
};

/* A filter, test, method or global. params: names in order, a space between; need: how many
 * of them must be there. params NULL: takes raw. */
struct builtin {
	const char *name, *params;
	int need;
	struct val (*fn)(struct jin *, struct val self, const struct val *arg, const struct args *raw);
};
#define MAX_PARAMS 8

/* ---- the tree ---- */
enum node_type {
	/* expressions */
	N_CONST = 0, N_NAME, N_TUPLE, N_LIST, N_DICT, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER,
	N_TEST, N_NOT, N_NEG, N_POS, N_BINARY, N_CONCAT, N_COMPARE, N_AND, N_OR, N_COND, N_NSREF,
	/* statements */
	N_TEXT, N_PRINT, N_SET, N_SETBLOCK, N_IF, N_FOR, N_MACRO, N_CALLBLOCK, N_FILTERBLOCK,
	N_WITH, N_SCOPE, N_BREAK, N_CONTINUE, N_LOST /* not found when parsed: fails when run */,
};
enum op { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW,
	OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOTIN };

struct nodes { struct node **v; int n, cap; };
struct call {                       /* arguments as written */
	struct nodes pos, named;
	const struct str **names;   /* of named */
	struct node *more, *more_named; /* *args, **kwargs */
};
struct node {
	uint8_t type, op;           /* op: enum op; N_SCOPE: 1 = sees only the root's scope */
	bool flag;                  /* N_FOR: recursive; N_MACRO: see uses_* */
	bool uses_caller, uses_kwargs, uses_varargs;
	int32_t line;
	struct node *a, *b, *c;
	struct nodes list, list2;   /* items; bodies; N_DICT: keys and values */
	const struct str *name;     /* interned: the same name is the same pointer; N_FOR: "loop" */
	struct val v;
	struct call *call;          /* N_MACRO, N_CALLBLOCK: its names are caller, kwargs, varargs */
	const struct builtin *fn;
	const uint8_t *ops;         /* N_COMPARE */
};

struct var { const struct str *name; struct val v; };
struct scope {
	struct scope *up;
	struct var *v;
	int n, cap;
	bool kept;                  /* by a macro or a loop that may outlive it */
};
struct macro {
	const struct node *def;     /* N_MACRO or N_CALLBLOCK */
	struct scope *up;
};
struct loop {
	const struct node *def;
	struct scope *up;
	struct iter it;
	struct val cur, prev, next, changed;
	bool has_next, has_changed;
	int64_t index, length;      /* length -1: not known yet */
	int depth;
};

/* ---- memory ---- */
struct chunk { struct chunk *next; size_t used, cap; _Alignas(16) char data[]; };
struct tail { char *s; int64_t used, cap; };

struct sbuf { char *s; int64_t len, cap; };

struct jin {
	struct chunk *chunks;
	size_t memory, max_memory;
	int64_t steps, max_steps, max_output;
	int depth;
	const char *stack;          /* where the C stack was when it began */
	jmp_buf stop;
	char why[600];
	int line;
	int status;                 /* why it stopped: a negative nvllm status */
	/* of a render */
	struct scope *root;
	struct dict *context;
	struct sbuf *out;
	const char *now;
};

/* A parsed template, and the memory it is in. */
struct jinja {
	struct chunk *chunks;
	struct nodes body;
	const char *text;           /* as it was given */
	int64_t len;
};

/* jinja_arena.c */
void jin_begin(struct jin *, size_t max_memory, int64_t max_steps);
void jin_end(struct jin *);
void *jin_alloc(struct jin *, size_t bytes);      /* zeroed, 16-byte aligned */
void *jin_array(struct jin *, int64_t n, size_t size);
_Noreturn void jin_fail(struct jin *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void jin_charge(struct jin *, int64_t bytes);     /* work on that many bytes */
void jin_step(struct jin *);
void jin_deeper(struct jin *);                    /* and j->depth-- on the way out */
char *jin_printf(struct jin *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sbuf_put(struct jin *, struct sbuf *, const char *s, int64_t len);
void sbuf_puts(struct jin *, struct sbuf *, const char *s);
void sbuf_fill(struct jin *, struct sbuf *, const char *s, int64_t len, int64_t times);
struct val sbuf_str(struct jin *, struct sbuf *);

/* jinja_parse.c, jinja_expr.c, jinja_lex.c */
enum token_type {
	K_EOF = 0, K_DATA, K_VAR_BEGIN, K_VAR_END, K_BLOCK_BEGIN, K_BLOCK_END, K_NAME, K_STRING,
	K_INT, K_BIG, K_FLOAT, K_OP,
};
struct token {
	uint8_t type;
	char op[3];                 /* K_OP: "+", "==" */
	int32_t line;
	const char *s;              /* K_DATA, K_NAME, K_STRING: the text; numbers: the digits */
	int64_t len;
	int64_t i;
	double f;
};
struct token *jin_lex(struct jin *, const char *text, int64_t len, int64_t *n);

struct parser {
	struct jin *j;
	const struct token *t;      /* the current one; K_EOF ends */
	struct dict *names;         /* interned */
	int nest, loops;            /* loops: how many are open in this function */
	bool soft;                  /* an unknown filter or test fails only when it is run */
	struct node *macros[JIN_MAX_NEST + 8]; /* that are open */
	int n_macros;
};
struct node *parse_new(struct parser *, int type);
void nodes_add(struct jin *, struct nodes *, struct node *);
const struct str *parse_intern(struct parser *, const char *s, int64_t len);
bool parse_at(const struct parser *, const char *op);
bool parse_at_name(const struct parser *, const char *name);
bool parse_skip(struct parser *, const char *op);
bool parse_skip_name(struct parser *, const char *name);
void parse_expect(struct parser *, const char *op);
const struct str *parse_expect_name(struct parser *);
_Noreturn void parse_unexpected(struct parser *, const char *wanted);
void parse_deeper(struct parser *);
struct node *parse_expr(struct parser *);          /* with inline if */
struct node *parse_or(struct parser *);            /* without */
struct node *parse_tuple(struct parser *, bool cond, const char *end);
struct node *parse_primary(struct parser *, bool nsref);
struct node *parse_filters(struct parser *, struct node *, bool inlined); /* | a | b(c) */
const char *token_text(struct jin *, const struct token *);
void jinja_parse(struct jin *, const char *text, int64_t len, struct nodes *body);

/* jinja_value.c */
extern const struct val v_none, v_true, v_false, v_absent;
struct val v_bool(bool);
struct val v_int(int64_t);
struct val v_float(double);
struct val v_str(struct jin *, const char *s, int64_t len);   /* kept, not copied */
struct val v_str_n(struct jin *, const char *s, int64_t len, int64_t n);
struct val v_text(struct jin *, const char *s);
struct val v_copy(struct jin *, const char *s, int64_t len);
struct val v_safe(struct val, bool safe);
struct val v_undef(struct jin *, const char *hint);
struct val v_undef_of(struct jin *, struct val obj, struct val name);
struct val v_list(struct jin *, int type, int64_t room);
void list_add(struct jin *, struct list *, struct val);
struct val v_pair(struct jin *, struct val, struct val);
struct val v_dict(struct jin *);
void dict_set(struct jin *, struct dict *, struct val key, struct val v);
bool dict_get(struct jin *, const struct dict *, struct val key, struct val *out);
bool dict_get_text(struct jin *, const struct dict *, const char *key, struct val *out);
const char *v_type(struct val);                   /* "int" */
bool v_true_of(struct jin *, struct val);
bool v_is_num(struct val);                        /* bool, int, big, float */
double v_num(struct jin *, struct val);
bool v_as_int(struct val, int64_t *out);          /* int or bool */
int64_t v_need_int(struct jin *, struct val);
bool v_eq(struct jin *, struct val, struct val);
bool v_less(struct jin *, struct val, struct val, const char *op);
bool v_same(struct val, struct val);
bool v_in(struct jin *, struct val item, struct val seq);
int64_t v_len(struct jin *, struct val);          /* fails where there is none */
bool v_has_len(struct val);
uint64_t v_hash(struct jin *, struct val);
bool str_is(struct val, const char *text);
_Noreturn void undef_fail(struct jin *, struct val);

/* jinja_iter.c */
bool v_iterable(struct val);
void iter_begin(struct jin *, struct iter *, struct val);
bool iter_next(struct jin *, struct iter *, struct val *out);
struct val v_to_list(struct jin *, struct val);
struct val v_gen(struct jin *, bool (*next)(struct jin *, struct gen *, struct val *), struct val in);
struct val v_iter_of(struct jin *, struct val list, const char *type);

/* jinja_text.c: how values are written */
void put_str(struct jin *, struct sbuf *, struct val);   /* str() */
void put_repr(struct jin *, struct sbuf *, struct val);  /* repr() */
struct val v_to_str(struct jin *, struct val);
const char *v_repr(struct jin *, struct val);            /* NUL-ended, cut where long */
void put_float(struct jin *, struct sbuf *, double);
int float_digits(double f, char digits[24], int *exponent); /* shortest: 0.DIGITS * 10^exponent */

/* jinja_str.c: strings by characters */
const char *str_at(struct jin *, const struct str *, int64_t i);
struct val str_sub(struct jin *, struct val, int64_t from, int64_t to);
struct val str_index(struct jin *, struct val, int64_t i);
struct val str_concat(struct jin *, struct val, struct val);
struct val str_escape(struct jin *, struct val);
struct val str_repeat(struct jin *, struct val, int64_t times);
int64_t str_find(struct jin *, const char *s, int64_t len, const char *what, int64_t n, bool last);
struct val str_strip(struct jin *, struct val, struct val chars, int sides); /* 1 left, 2 right */
struct val str_replace(struct jin *, struct val, struct val old, struct val new_, int64_t count);
struct val str_lines(struct jin *, struct val, bool keep);
struct val v_slice(struct jin *, struct val, const struct slice *);
int64_t utf8_count(const char *s, int64_t len);

/* jinja_case.c */
bool cp_space(uint32_t cp);
bool cp_word(uint32_t cp);      /* \w */
bool cp_print(uint32_t cp);
enum cp_class { CP_ALPHA, CP_DECIMAL, CP_DIGIT, CP_NUMERIC, CP_LOWER, CP_UPPER, CP_TITLE, CP_CASED };
bool cp_is(uint32_t cp, enum cp_class);
uint32_t cp_next(const char *s, int64_t len, int64_t *at);
enum case_map { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP, CASE_FOLD, CASE_WORDS };
struct val str_case(struct jin *, struct val, enum case_map);

/* jinja_num.c */
struct val v_binary(struct jin *, int op, struct val, struct val);
struct val v_negate(struct jin *, struct val, bool plus);
bool v_compare(struct jin *, int op, struct val, struct val);
struct val parse_int_text(struct jin *, const char *s, int64_t len, int base, bool *ok);
double parse_float_text(const char *s, int64_t len, bool *ok);
struct val float_to_int(struct jin *, double);
struct val num_round(struct jin *, struct val, int64_t digits);

/* jinja_format.c, jinja_spec.c */
struct val str_percent(struct jin *, struct val fmt, struct val args, const struct args *raw);
struct val str_format(struct jin *, struct val fmt, const struct args *);
struct spec {
	uint32_t fill;
	char align, sign, type;     /* 0 = not given */
	bool alt, zero;
	char group;
	int64_t width, prec;        /* prec -1 = none */
};
void put_padded(struct jin *, struct sbuf *, const char *s, int64_t len, const struct spec *, char align);
void put_float_spec(struct jin *, struct sbuf *, double, const struct spec *);
void put_int_spec(struct jin *, struct sbuf *, struct val, const struct spec *);
void put_spec(struct jin *, struct sbuf *, struct val, const char *spec, int64_t len);

/* jinja_json.c, jinja_read.c */
struct val json_write(struct jin *, struct val, bool ascii, struct val indent, struct val seps, bool sort);
struct cJSON;
struct val json_value(struct jin *, const struct cJSON *);

/* jinja_eval.c, jinja_exec.c, jinja_call.c */
struct val eval(struct jin *, struct scope *, const struct node *);
enum flow { FLOW_ON = 0, FLOW_BREAK, FLOW_CONTINUE };
enum flow exec_body(struct jin *, struct scope *, const struct nodes *);
/* its output as a string; *flow (may be NULL): how it was left */
struct val exec_text(struct jin *, struct scope *, const struct nodes *, enum flow *flow);
enum flow exec_for(struct jin *, const struct node *, struct scope *, struct val iterable, int depth);
void assign(struct jin *, struct scope *, const struct node *target, struct val);
struct scope *scope_new(struct jin *, struct scope *up);
void scope_set(struct jin *, struct scope *, const struct str *name, struct val);
struct val scope_get(struct jin *, struct scope *, const struct str *name);
struct val get_attr(struct jin *, struct val, struct val name);   /* a.name */
struct val get_item(struct jin *, struct val, struct val key);    /* a[key] */
struct val get_static(struct jin *, struct val, const struct str *name, bool *found);
struct val call_value(struct jin *, struct val fn, struct args *);
struct val call_builtin(struct jin *, const struct builtin *, const char *what, struct val self,
	const struct args *);
void call_args(struct jin *, struct scope *, const struct call *, struct args *, int more_named);
void args_name(struct jin *, struct args *, const char *name, struct val);
bool args_named(const struct args *, const char *name, struct val *out);

/* jinja_loop.c */
struct val loop_attr(struct jin *, struct val, const struct str *name, bool *found);
bool loop_step(struct jin *, struct loop *, struct val *item);
struct val loop_call(struct jin *, struct loop *, const struct args *);

/* The tables. Each ends with a NULL name. */
extern const struct builtin jin_filters[], jin_filters_text[], jin_tests[],
	jin_str_methods[], jin_str_methods2[], jin_dict_methods[], jin_dicttype_methods[], jin_list_methods[],
	jin_tuple_methods[], jin_loop_methods[], jin_cycler_methods[], jin_globals[];
const struct builtin *find_builtin(const struct builtin *, const char *name, int64_t len);
const struct builtin *find_filter(const char *name, int64_t len);
/* a.b.0 of item; and what follows where it is undefined (T_ABSENT: nothing) */
struct val get_path(struct jin *, struct val item, struct val path, struct val otherwise);

/* jinja_request.c: what a template is given */
enum content { CONTENT_AS_GIVEN = 0, CONTENT_AUTO, CONTENT_JOIN };
struct asked {
	struct val context;         /* a dict */
	const struct str *tag;      /* of continue_final_message, or NULL */
	bool tools;
};
struct nvllm_chat_request;
void request_read(struct jin *, const struct nvllm_chat_request *, const struct cJSON *body,
	enum content, bool parts, bool parts_tools, bool parse_arguments, struct asked *);
struct val request_cut(struct jin *, const struct asked *, struct val text);

/* jinja_source.c: the template's text */
struct nvllm_host;
struct nvllm_loader_ref;
#define MAX_TEMPLATES 16
struct source {
	struct { char *name, *text; int64_t len; } templates[MAX_TEMPLATES]; /* host's memory */
	int n_templates;
	const char **token_names, **tokens;    /* special tokens: host's memory */
	int n_tokens;
};
bool source_probe(const struct nvllm_loader_ref *, const char *path);
int source_read(const struct nvllm_host *, const struct nvllm_loader_ref *, const char *path,
	struct source *);

#endif
