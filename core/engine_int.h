/* SPDX-License-Identifier: MIT */
/* core/engine_int.h - the inside of the engine: what open.c builds, what a step uses.
 *
 * Lifetimes are a tree: the engine owns its rank, its scheduler and its requests; the
 * rank owns device, model, attention, sampler and all device memory. Teardown is
 * engine_close() read against engine_open() backwards. */
#ifndef NVLLM_ENGINE_INT_H
#define NVLLM_ENGINE_INT_H

#include <pthread.h>

#include <nvllm/attention.h>
#include <nvllm/cache.h>
#include <nvllm/chat.h>
#include <nvllm/comm.h>
#include <nvllm/engine.h>
#include <nvllm/model.h>
#include <nvllm/sampler.h>

#include "core.h"
#include "scheduler.h"

#define MAX_TOP 20       /* most log probabilities listed for one token */

/* Where the next array may begin in device memory. */
static inline int64_t align256(int64_t bytes) { return (bytes + 255) & ~(int64_t)255; }

/* ---- settings.c: the sections that are the core's own ---- */
struct core_settings   { const char *plugin_dirs; int32_t log_level; };
struct engine_settings {
	int64_t tp, max_seqs, max_tokens, max_model_len, run_ahead, seed;
	int32_t kv_dtype;
	const char *memory;
};
struct model_settings  { const char *plugin, *path, *name; };
struct device_settings { const char *plugin; int64_t ordinal; };
struct word_settings   { const char *plugin; };  /* [loader] [tokenizer] [chat] [attention] [cache] [comm] */
struct sampler_settings { const char *plugin, *temperature, *top_p, *min_p, *top_k; };
struct graph_settings  { int32_t capture; struct nvllm_ints sizes; };

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
void source_close(struct source *); /* NULL is legal */

/* ---- weights.c ---- */
struct weights {
	struct nvllm_weights pub;             /* what bind() sees */
	const struct nvllm_loader_ref *loader;
	const struct nvllm_device_vt *dvt;
	struct nvllm_device *dev;
	bool dry;                             /* names and shapes only: data stays NULL */
	char *base;                           /* device memory for all weights, NULL when dry */
	int64_t bytes;                        /* used so far */
	int32_t n_tensors;
	void *bounce;                         /* host memory for reads */
	int64_t bounce_bytes;
};
/* Prepares w for one bind(). base NULL = dry. */
void weights_init(struct weights *w, const struct nvllm_loader_ref *, const struct nvllm_device_vt *,
	struct nvllm_device *, void *base);
void weights_finish(struct weights *w);
/* rope.c: inverse frequencies of a descriptor, dims / 2 of them; *mscale as in nvllm_rotary. */
int rope_table(const struct nvllm_rope *, const float *factors, float *inv_freq, double *mscale);

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

/* ---- batch.c: one step's arrays, at fixed device addresses ---- */
struct batch {
	struct nvllm_batch pub;
	struct nvllm_slots slots;
	int32_t max_tokens, max_seqs, max_logits, max_pages, page_tokens;
	/* host staging, in one block that is copied to the device in one go */
	char *staging, *device;
	int64_t bytes;
	int32_t *tokens, *positions, *kv_slots, *q_start, *kv_len, *page_table, *logit_rows, *logit_slots;
};
/* Bytes of device memory the arrays need; the pointers follow with batch_place(). */
int64_t batch_init(struct batch *, struct nvllm_host *, int32_t max_tokens, int32_t max_seqs,
	int32_t max_logits, int32_t max_pages, int32_t page_tokens);
void batch_place(struct batch *, void *device);
/* Lays out one plan of the scheduler and copies it to the device. */
int  batch_build(struct batch *, struct rank *, const struct sched_step *);
/* Sets a sequence slot's device state at admission. */
int  batch_admit(struct batch *, struct rank *, int32_t slot, int32_t n_left, const int32_t *stop_ids, int n);

/* Results of a step, one entry a logits row. */
struct step_out {
	int32_t *tokens;         /* [max_logits] */
	int32_t *targets;        /* [max_logits] whose log probability is wanted, -1 = none */
	int32_t *ranks;          /* [max_logits] */
	float *logprobs;         /* [max_logits] */
	int32_t *top_ids;        /* [max_logits][n_top] */
	float *top_logprobs;     /* [max_logits][n_top] */
};

/* ---- the rank ---- */
struct rank {
	struct nvllm_host *host_dev, *host_model, *host_attn, *host_sampler;
	const struct nvllm_device_vt *dvt;       struct nvllm_device *dev;
	struct nvllm_device_info info;
	struct nvllm_device_ref ref;
	const struct nvllm_model_vt *mvt;        struct nvllm_model *model;
	struct nvllm_arch arch;
	const struct nvllm_attention_vt *avt;    struct nvllm_attention *attn;
	struct nvllm_attn_shape shape;
	struct nvllm_kv_layout layout;
	const struct nvllm_sampler_vt *svt;      struct nvllm_sampler *sampler;
	struct nvllm_sampler_env sampler_env;
	const struct nvllm_comm_vt *cvt;         struct nvllm_comm *comm;
	struct batch batch;
	void *weight_mem, *kv_mem, *host_mem, *arena, *attn_work, *sampler_work, *batch_mem, *out_mem;
	int64_t weight_bytes, page_bytes, kv_bytes, arena_bytes, work_bytes, n_pages;
	void **kv;                               /* [n_layers] */
	struct nvllm_sample_row *rows;           /* [max_logits] host */
	struct step_out dev_out, host_out;       /* results of a step, and the host's copy */
	int32_t n_top;                           /* entries a row in the newest top_* arrays */
};

/* ---- step.c: one step on the rank: forward, sample, log probabilities, advance ---- */
/* Bytes of the result arrays; then where they lie in mem. */
int64_t step_out_bytes(int32_t max_logits);
void step_out_place(struct step_out *, void *mem, int32_t max_logits);
/* After it rank->host_out holds the results: tokens of the rows that draw one, log
 * probabilities of those that want one. */
int  step_run(struct rank *, const struct sched_step *);
/* Runs the model dry and says how large its arena must be. */
int  step_measure(struct rank *, int64_t *arena_bytes);

/* ---- params.c: which value won, and refusing what cannot be ---- */
struct defaults { double temperature, top_p, min_p; int64_t top_k; };
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
/* Adds a token's bytes. Returns the stop text that ended the answer, or NULL. */
const char *text_push(struct text *, const char *bytes, int32_t len);
/* What may be sent now; valid until the next call. end: nothing more will come. */
struct nvllm_str text_take(struct text *, bool end);

/* ---- request.c: one request from submit to its last event ---- */
struct request {
	struct seq seq;               /* first: what the scheduler knows */
	uint64_t id;
	struct request *next;         /* in the engine's list of live requests */
	struct nvllm_params p;        /* resolved */
	void (*on_event)(void *, const struct nvllm_event *);
	void *user;
	struct text *text;
	int64_t t_submit, t_start, t_first;
	bool cancelled, slot_ready;
	struct nvllm_token *ptok;     /* [n_prompt] with prompt_logprobs */
	const struct nvllm_token **plist;
	int32_t *ptop_ids;
	float *ptop;
};
static inline struct request *request_of(struct seq *s) { return (struct request *)(void *)s; }
int  request_create(struct nvllm_engine *, const struct nvllm_request *, struct request **out);
/* At submit: its id, and with it its seed where it brought none. */
void request_name(struct nvllm_engine *, struct request *, uint64_t id);
void request_destroy(struct request *);
/* Takes the results of logits rows [row, row + n) of this step for its sequence;
 * delivers events. Returns true when the request is over. */
bool request_advance(struct nvllm_engine *, struct request *, const struct sched_entry *);
/* The last event. stop_token -1 = none. */
void request_finish(struct request *, int finish, int32_t stop_token,
	const char *stop_text, int status, const char *error);
int64_t now_ns(void);

/* ---- engine.c ---- */
struct nvllm_engine {
	struct plugins *plugins;
	struct engine_settings set;
	struct model_settings model_set;
	struct source *source;
	const struct nvllm_chat_vt *chat_vt;     struct nvllm_chat *chat;
	struct nvllm_host *host_chat, *host_cache;
	const struct nvllm_cache_vt *cache_vt;   struct nvllm_cache *cache;
	struct rank rank;
	struct sched *sched;
	struct defaults defaults;
	const char *sampler_name;
	struct nvllm_info info;
	int32_t eos[NVLLM_STOP_IDS];
	int n_eos;
	uint64_t seed;
	int32_t max_logits;

	pthread_t thread;
	bool threaded;
	pthread_mutex_t lock;                    /* guards what follows */
	pthread_cond_t wake, over;               /* work came; a request ended */
	struct request *live, *inbox, **inbox_tail;
	uint64_t last_id;
	bool stop, cancels;
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
