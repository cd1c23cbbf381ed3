/* SPDX-License-Identifier: MIT */
/* core/engine_int.h - the inside of the engine: what open.c builds, what a step uses.
 *
 * Lifetimes are a tree: the engine owns its group of ranks, its scheduler and its requests;
 * a rank owns device, model, attention, sampler and all its device memory. Teardown is
 * engine_close() read against engine_open() backwards. */
#ifndef NVLLM_ENGINE_INT_H
#define NVLLM_ENGINE_INT_H

#include <pthread.h>

#include <nvllm/attention.h>
#include <nvllm/cache.h>
#include <nvllm/chat.h>
#include <nvllm/comm.h>
#include <nvllm/engine.h>
#include <nvllm/logits.h>
#include <nvllm/model.h>
#include <nvllm/sampler.h>

#include "core.h"
#include "cuts.h"
#include "graph_pool.h"
#include "readahead.h"
#include "scheduler.h"

#define MAX_TOP 20       /* most log probabilities listed for one token */
#define MAX_STOPS 1024   /* stop texts, stop tokens, bad words of a request */
#define MAX_PROCESSORS 8 /* of logits */
#define MAX_STOP_BYTES (1 << 16)
#define MAX_TEXT_BYTES (1 << 20) /* of all its stop texts; of all its bad words */
#define MAX_EOS 64       /* tokens that end an answer, as the checkpoint has it */

/* Where the next array may begin in device memory. */
static inline int64_t align256(int64_t bytes) { return (bytes + 255) & ~(int64_t)255; }

/* ---- settings.c: the sections that are the core's own ---- */
struct core_settings   { const char *plugin_dirs; int32_t log_level; };
struct engine_settings {
	int64_t tp, max_seqs, max_tokens, max_model_len, run_ahead, seed;
	int32_t kv_dtype, order;
	const char *memory;
};
struct model_settings  { const char *plugin, *path, *name; };
struct device_settings { const char *plugin; int64_t ordinal; };
struct word_settings   { const char *plugin; };  /* [loader] [tokenizer] [chat] [attention] [cache] [comm] [logits] */
struct sampler_settings {
	const char *plugin, *temperature, *top_p, *min_p, *typical_p, *repetition_penalty, *presence_penalty,
		*frequency_penalty, *top_k;
};
enum { GRAPHS_OFF, GRAPHS_LAZY, GRAPHS_STARTUP };
struct graph_settings  { int32_t capture; struct nvllm_ints sizes; int64_t mixed; };

/* The core's own options of a section, for explain and for the style check; NULL =
 * none. *size becomes the bytes of the struct they fill. */
const struct nvllm_option *core_options(const char *section, uint64_t *size);
/* The names of the sections that core_options knows, NULL-ended. */
const char *const *core_sections(void);
/* Fills a section: the core's keys into `core`, a component's (comp, may be NULL) into a
 * fresh struct of conf's, *pconf. */
int section_fill(struct conf *, const char *section, void *core, const struct nvllm_component *comp, void **pconf);
/* Fills [core], sets the log level, makes the plugin search path. env_path: the value of
 * NVLLM_PLUGIN_PATH or NULL. */
int core_setup(struct conf *, const char *env_path, struct plugins **out);

/* ---- source.c: a checkpoint or tokenizer file: its loader, its tokenizer ---- */
struct source {
	const struct nvllm_component *loader_comp, *tok_comp;
	struct nvllm_host *loader_host, *tok_host;
	struct nvllm_loader_ref ref;          /* ref.loader NULL: a bare tokenizer file */
	const struct nvllm_tokenizer_vt *tok_vt;
	struct nvllm_tokenizer *tok;
	struct nvllm_tokenizer_info tok_info;
	const char *path;
};
/* conf NULL: all defaults, plugins by probing. need_loader: a file that no loader reads
 * is refused even where a tokenizer could read it. */
int  source_open(struct plugins *, struct conf *, const char *path, bool need_loader, struct source **out);
/* For a chat template alone: with a loader if the path has one that opens, without a tokenizer. */
int  source_open_chat(struct plugins *, struct conf *, const char *path, struct source **out);
void source_close(struct source *); /* NULL is legal */

/* The byte that a token of a byte-fallback vocabulary stands for, else -1. */
static inline int32_t source_byte(const struct source *s, int32_t token)
{
	return NVLLM_HAS(s->tok_vt, byte) && s->tok_vt->byte ? s->tok_vt->byte(s->tok, token) : -1;
}

/* ---- chat.c: the checkpoint's chat template ---- */
struct chat_ref {
	const struct nvllm_component *comp;   /* NULL: there is no template */
	const struct nvllm_chat_vt *vt;
	struct nvllm_host *host;
	struct nvllm_chat *chat;
};
/* Named by [chat] plugin, else by probing. conf and loader may be NULL. */
int  chat_open(struct plugins *, struct conf *, const struct nvllm_loader_ref *loader, const char *path,
	struct chat_ref *out);
void chat_close(struct chat_ref *); /* also after a chat_open that failed */

/* ---- weights.c ---- */
struct weights {
	struct nvllm_weights pub;             /* what bind() sees */
	const struct nvllm_loader_ref *loader;
	const struct nvllm_device_vt *dvt;
	struct nvllm_device *dev;
	const struct nvllm_device_info *info;
	const struct cuts *cuts;              /* this rank's share */
	int64_t max_len;                      /* longest sequence the engine will take */
	int64_t unit_wanted;                  /* dry: largest block that a cut fell into; 0 = none did */
	bool dry;                             /* names and shapes only: data stays NULL */
	char *base;                           /* device memory for all weights, NULL when dry */
	int64_t bytes;                        /* used so far */
	int32_t n_tensors;
	void *bounce;                         /* host memory for reads */
	int64_t bounce_bytes;
	struct readahead *ahead;              /* NULL until a weight is large enough for it */
};
/* Prepares w for one bind(). base NULL = dry. */
void weights_init(struct weights *w, const struct nvllm_loader_ref *, const struct nvllm_device_ref *,
	const struct cuts *, int64_t max_len, void *base);
void weights_finish(struct weights *w);
/* rope.c: inverse frequencies of a descriptor, dims / 2 of them; *mscale as in nvllm_rotary.
 * max_len: the longest sequence, tokens. */
int rope_table(const struct nvllm_rope *, int64_t max_len, const float *factors, float *inv_freq, double *mscale);

/* ---- ops.c ---- */
struct rank;
struct engine_step {
	struct nvllm_step pub;   /* first: what a model sees */
	struct rank *rank;
	char *arena;             /* NULL: a dry run */
	int64_t used, peak, cap; /* bytes */
	int status, n_ops;
	char error[256];
};
void step_begin(struct engine_step *, struct rank *, const struct nvllm_batch *, void *arena, int64_t cap);
/* Makes an error from outside the ops the step's own, with fail_text(): later ops do nothing
 * but keep step with the group. */
void step_fail(struct engine_step *, int status);

/* ---- batch.c: one step's arrays, at fixed device addresses ---- */
struct admit { int32_t n_left, done, stop_ids[NVLLM_STOP_IDS]; };
struct batch {
	struct nvllm_batch pub;
	struct nvllm_slots slots;
	int32_t max_tokens, max_seqs, max_logits, max_pages, page_tokens, max_len;
	int64_t bytes;           /* of the arrays */
	char *device;            /* the arrays, then the slots */
	/* What the host writes, once for each step that may be in flight: copied to the device
	 * in one go, and not touched again before that step is done. */
	char *staging;           /* [flights][staging_bytes]: arrays, then max_seqs of struct admit */
	int64_t staging_bytes;
	/* places in the staging of the step that was built last */
	int32_t *tokens, *positions, *kv_slots, *q_start, *kv_len, *page_table, *logit_rows, *logit_slots;
	int64_t used;                         /* bytes of it that the device gets */
	int32_t *history;                     /* [max_seqs][max_len] host, what slots.history got at admission;
	                                       * NULL: the sampler does not run on the device */
	uint64_t *history_epoch;              /* [max_seqs] the step it went with */
	struct nvllm_sample_row *rows;        /* [max_logits] */
	struct nvllm_sample_row *device_rows; /* the same on the device */
	/* Rows that a processor of logits works on are padding in the arrays above; they are drawn
	 * after the step's body, and here is what the body was not told. */
	struct nvllm_batch late;              /* pub, with logit_slots of these rows alone */
	int32_t *late_slots;                  /* [max_logits] -1 = not late */
	struct nvllm_sample_row *late_rows, *device_late_rows; /* [max_logits] */
	int32_t n_late;
	struct admit *admit;
};
/* Sizes. Bytes of device memory the arrays and slots need; b->staging_bytes of host
 * memory for each flight. */
int64_t batch_init(struct batch *, int32_t max_tokens, int32_t max_seqs, int32_t max_logits,
	int32_t max_pages, int32_t page_tokens, bool history);
int  batch_place(struct batch *, void *device, void *staging);
void batch_finish(struct batch *);
/* Lays out one step of the scheduler in the flight's staging, padded to the shape (none = not),
 * and sets b->pub. host_view: plan() may read the staging. */
void batch_lay_out(struct batch *, const struct sched_step *, struct graph_shape, int32_t flight, bool host_view);
/* Copies it, and the state of newly taken slots, to the device. */
int  batch_copy(struct batch *, struct rank *, const struct sched_step *);

/* Results of a step, one entry a logits row. */
struct step_out {
	int32_t *tokens;         /* [max_logits] */
	int32_t *targets;        /* [max_logits] whose log probability is wanted: -1 none, -2 the sampled token's */
	int32_t *ranks;          /* [max_logits] */
	float *logprobs;         /* [max_logits] */
	int32_t *top_ids;        /* [max_logits][n_top] */
	float *top_logprobs;     /* [max_logits][n_top] */
};
/* A step that was issued and is not yet known to be done. */
struct flight {
	struct step_out out;     /* in host memory; valid once landed */
	int32_t n_top;           /* entries a row in top_*; -1: no log probabilities */
	nvllm_mark mark;
	bool marked;             /* set; else the whole stream is waited for */
};

/* ---- the rank ---- */
struct processor {
	const char *name;
	struct nvllm_host *host;
	const struct nvllm_logits_vt *vt;        struct nvllm_logits *inst;
};
struct rank {
	int32_t index, world;
	struct nvllm_host *host_dev, *host_model, *host_attn, *host_sampler, *host_comm;
	const struct nvllm_device_vt *dvt;       struct nvllm_device *dev;
	struct nvllm_device_info info;
	struct nvllm_device_ref ref;
	const struct nvllm_model_vt *mvt;        struct nvllm_model *model;
	struct nvllm_arch arch;
	struct cuts cuts;
	const struct nvllm_attention_vt *avt;    struct nvllm_attention *attn;
	struct nvllm_attn_shape shape;
	struct nvllm_kv_layout layout;
	const struct nvllm_sampler_vt *svt;      struct nvllm_sampler *sampler;
	struct nvllm_sampler_env sampler_env;
	const struct nvllm_comm_vt *cvt;         struct nvllm_comm *comm; /* NULL at world 1 */
	struct graph_pool *graphs;
	struct batch batch;
	void *weight_mem, *kv_mem, *arena, *attn_work, *sampler_work, *batch_mem, *out_mem, *host_mem;
	int64_t weight_bytes, page_bytes, kv_bytes, arena_bytes, work_bytes, batch_bytes, n_pages;
	void **kv;                               /* [n_layers] */
	struct step_out dev_out;                 /* results of the newest step */
	struct flight *flight;                   /* [n_flights]: step `epoch` has flight epoch % n_flights */
	int32_t n_flights;                       /* run-ahead depth + 1 */
	int64_t graph_steps;                     /* replayed */
	struct processor proc[MAX_PROCESSORS];   /* the engine's n_procs */
	/* Host memory for a step's sampling where it cannot be done in place: */
	float *row;                              /* [vocab] of a row that processors change */
	void *dev_row;                           /* the same on the device, for a sampler that runs there */
	float *far_logits;                       /* [max_logits][vocab] of a host sampler whose device is out of reach */
	int32_t *far_tokens;                     /* [max_logits] */
	void *far_work;                          /* its workspace; else NULL */
};

/* The host cannot follow this device's addresses. */
static inline bool is_far(const struct rank *r) { return !(r->info.caps & NVLLM_DEV_HOST_MEM); }
static inline bool samples_on_host(const struct rank *r) { return r->svt->flags & NVLLM_SAMPLER_HOST; }
/* An attention backend plans on the device, on the host, or not at all. */
static inline bool has_plan(const struct rank *r) { return NVLLM_HAS(r->avt, plan) && r->avt->plan; }
static inline bool plans_on_device(const struct rank *r) { return r->avt->flags & NVLLM_ATTN_PLAN_ON_DEVICE; }
/* Most rows of a step: a decode step is padded to its bucket, which may exceed max_tokens. */
static inline int32_t step_rows(const struct engine_settings *s)
{
	return (int32_t)(s->max_tokens > s->max_seqs ? s->max_tokens : s->max_seqs);
}

/* ---- rank.c: one rank's parts, made and unmade ---- */
struct opening;
int  rank_open_device(struct opening *, struct rank *);
void rank_drop_device(struct rank *); /* another will be opened */
int  rank_open_model(struct opening *, struct rank *);
/* Cuts the model for this rank, and binds it dry: names and shapes of its share of every
 * weight, and the bytes they take. Raises o->ffn_unit where a cut parts a block. */
int  rank_cut(struct opening *, struct rank *);
int  rank_open_attention(struct opening *, struct rank *);
int  rank_open_sampler(struct opening *, struct rank *);
int  rank_load_weights(struct opening *, struct rank *);
int  rank_open_graphs(struct opening *, struct rank *);
void rank_close(struct rank *);

/* ---- group.c: the ranks of one process, each on a thread of its own ---- */
struct group;
/* The first rank runs on the caller's thread. NULL and fail_text() on failure. */
struct group *group_create(int32_t world);
void group_destroy(struct group *); /* NULL is legal */
/* Calls fn(arg, rank) for every rank at once; returns when all are done: the status of the
 * rank that failed (of several, one that did not only wait for another), with its
 * sentence. Only one thread may call it at a time. */
int  group_run(struct group *, int (*fn)(void *arg, int32_t rank), void *arg);
/* Makes the collectives of the engine's ranks. */
int  group_connect(struct nvllm_engine *, const struct nvllm_component *, const void *conf);

/* ---- step.c: one step on a rank: forward, sample, log probabilities, advance ---- */
/* Bytes of the result arrays; then where they lie in mem. */
int64_t step_out_bytes(int32_t max_logits);
void step_out_place(struct step_out *, void *mem, int32_t max_logits);
/* Enqueues it, to the copies of its results. On a failure the group stays in step. */
int  step_issue(struct rank *, const struct sched_step *);
/* Waits for it. After that its flight's `out` holds tokens of the rows that draw one, and
 * log probabilities of those that want one. */
int  step_land(struct rank *, const struct sched_step *);
static inline struct flight *step_flight(const struct rank *r, const struct sched_step *st)
{
	return &r->flight[st->epoch % (uint64_t)r->n_flights];
}
/* Runs the model dry and says how large its arena must be. */
int  step_measure(struct rank *, int64_t *arena_bytes);
/* Runs every size of the graph pool once, with padding alone, so that all are recorded. */
int  step_warm(struct rank *);

/* ---- process.c: processors of logits ---- */
struct choice;
int  process_open(struct opening *);
void process_close(struct rank *);
/* At the door: members of extra that nobody reads are refused. */
int  process_check_extra(const struct nvllm_engine *, struct nvllm_str extra);
/* What one choice asks of each processor, on each rank; undone by process_forget(). */
int  process_ask(struct nvllm_engine *, struct choice *, const struct nvllm_logits_ask *);
void process_forget(struct nvllm_engine *, struct choice *);
/* [step] Changes the row. A failure stays in the choice. */
void process_row(struct rank *, struct choice *, const struct nvllm_sample_row *, float *logits); /* its tokens: the host's */

/* ---- params.c: which value won, and refusing what cannot be ---- */
enum { P_TEMPERATURE, P_TOP_P, P_MIN_P, P_TYPICAL_P, P_REPETITION, P_PRESENCE, P_FREQUENCY, P_N };
struct defaults { double v[P_N]; int64_t top_k; };
int  defaults_resolve(struct defaults *, struct conf *, const struct sampler_settings *,
	const struct nvllm_loader_ref *);
/* *out = given with the unset values filled in; refuses bad ranges and parameters that
 * the sampler does not take. */
int  params_resolve(const struct nvllm_engine *, const struct nvllm_params *given, int64_t n_prompt,
	struct nvllm_params *out);

/* ---- text.c: tokens to text: whole characters, stop texts held back ---- */
struct text;
struct text *text_create(const struct nvllm_str *stops, int64_t n_stops, int32_t max_piece);
void text_destroy(struct text *);
/* Adds a token's bytes; byte: its vt->byte, -1 = a piece like others. Returns the stop text
 * that ended the answer, or NULL; look false: stop texts do not end it yet. */
const char *text_push(struct text *, const char *bytes, int32_t len, int32_t byte, bool look);
/* What may be sent now; valid until the next call. end: nothing more will come. */
struct nvllm_str text_take(struct text *, bool end);

/* ---- request.c: one request and its choices, from submit to the last event ---- */
struct choice {
	struct seq seq;               /* first: what the scheduler knows */
	struct request *req;
	struct text *text;
	int64_t t_start, t_first;
	int32_t index;
	bool over, cancelled, begun;  /* begun: a token that gives bytes was made */
	struct nvllm_logits_state **state; /* [tp][n_procs] */
	int failed;                   /* status of a processor that could not go on */
	char why[256];
};
struct request {
	uint64_t id;
	struct request *next;         /* in the engine's list of live requests */
	struct nvllm_params p;        /* resolved */
	struct nvllm_engine *engine;
	int32_t *end_ids;             /* [n_end_ids] that end an answer: the checkpoint's n_eos, then its own */
	int32_t n_end_ids, n_eos;
	void (*on_event)(void *, const struct nvllm_event *);
	void *user;
	int64_t t_submit, deadline;   /* ns; 0 = none */
	struct nvllm_token *ptok;     /* [n_prompt] with prompt_logprobs */
	const struct nvllm_token **plist;
	int32_t *ptop_ids;
	float *ptop;
	bool prompt_sent;
	int32_t n, n_left;            /* choices; of them not over */
	struct choice choice[];
};
/* NULL gives NULL. */
static inline struct choice *choice_of(const struct seq *s) { return (struct choice *)(uintptr_t)s; }
int  request_create(struct nvllm_engine *, const struct nvllm_request *, struct request **out);
/* At submit: its id, and with it its seed where it brought none. */
void request_name(struct nvllm_engine *, struct request *, uint64_t id);
void request_destroy(struct request *);

/* ---- events.c: what a request's owner is told ---- */
/* Takes the results of one entry of a landed step; delivers events. Returns true when the
 * choice is over. */
bool choice_advance(struct nvllm_engine *, struct choice *, const struct sched_entry *, const struct flight *);
/* The choice's last event. stop_token -1 = none. */
void choice_finish(struct choice *, int finish, int32_t stop_token, const char *stop_text, int status, const char *error);
int64_t now_ns(void);

/* ---- engine.c ---- */
struct nvllm_engine {
	struct plugins *plugins;
	struct engine_settings set;
	struct model_settings model_set;
	struct source *source;
	struct chat_ref chat;
	struct nvllm_host *host_cache;
	const struct nvllm_cache_vt *cache_vt;   struct nvllm_cache *cache;
	int32_t tp, depth;                       /* ranks; run-ahead depth in use */
	struct rank *ranks;                      /* [tp] */
	struct group *group;
	struct sched *sched;
	struct defaults defaults;
	const char *sampler_name;
	int n_procs;
	uint64_t proc_takes;                     /* what they carry out, together */
	struct nvllm_logits_env logits_env;
	struct nvllm_info info;
	int32_t eos[MAX_EOS];                    /* the device is told of the first NVLLM_STOP_IDS */
	int n_eos;
	uint64_t seed;
	int32_t max_logits;
	uint64_t salt_seed;                      /* keys the hash of cache salts */
	int broken;                              /* status of a step that could not be issued; 0 = none */
	char broken_why[1024];

	pthread_t thread;
	bool threaded;
	pthread_mutex_t lock;                    /* guards what follows */
	pthread_cond_t wake, over;               /* work came; a request ended */
	struct request *live, *inbox, **inbox_tail;
	uint64_t last_id;
	bool stop, cancels;
	int64_t n_deadlines;                     /* live requests with one */
	char dead[1024];                         /* why no step can ever run again; "" = it can */
	struct nvllm_stats stats;
	/* for nvllm_open(): */
	struct conf *conf;
	char start_line[1024];
};

#define ENGINE_CHECK (1u << 0) /* validate everything, read no weights, start no thread */
/* open.c. conf and plugins stay the caller's and must outlive the engine. */
int  engine_open(struct conf *, struct plugins *, unsigned flags, struct nvllm_engine **out);
void engine_close(struct nvllm_engine *);
/* engine.c */
const struct nvllm_engine_vt *engine_functions(void);
int  engine_start(struct nvllm_engine *);
void engine_stop(struct nvllm_engine *);

#endif
