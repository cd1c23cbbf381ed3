/* SPDX-License-Identifier: MIT */
/* hf.h - the pipeline of a Hugging Face tokenizer.json, as the tokenizers library runs it:
 *
 *   added tokens of the raw text -> normalizer -> added tokens of the normalised text
 *   -> pre-tokenizer (words) -> model (ids of a word) -> post-processor (BOS, EOS)
 *   and back: decoder (the bytes of each token)
 *
 *   hf_unicode.c classes of characters
 *   hf_json.c    tokenizer.json and tokenizer_config.json -> struct hf
 *   hf_vocab.c   ids and texts
 *   hf_added.c   where added tokens stand in a text
 *   hf_normal.c  normalizers; hf_nfc.c Unicode's forms
 *   hf_regex.c   Oniguruma's patterns -> PCRE2's; hf_match.c runs them; hf_fast.c the common
 *                ones by hand
 *   hf_split.c   pre-tokenizers
 *   hf_bpe.c     the model BPE
 *   hf_post.c    post-processors; hf_decode.c decoders
 *   hf_encode.c  one call of encode: scratch, words seen before, ids
 *   hf.c         how a plugin's vtable comes to all this
 *
 * A plugin that has a model of its own gives its struct hf_model_kind to hf_open; one that reads
 * another file fills a struct hf between hf_create and hf_end.
 *
 * Memory: what lives as long as the instance is host->alloc's or freed by hf_close. Errors are
 * statuses with a sentence, but where a comment says otherwise. */
#ifndef HF_H
#define HF_H

#include <stdbool.h>

#include <nvllm/tokenizer.h>

#include "json.h"

#define HF_MAX_STEPS 64    /* normalizers, pre-tokenizers, decoders, Sequences flattened */
#define HF_MAX_IDS   (1 << 22) /* ids are 0 .. HF_MAX_IDS - 1 */
#define HF_MAX_ADD   64    /* ids a post-processor puts before or after a text */

struct hf;
struct hf_call;

/* ---- models ---- */

/* A model turns words into ids. Its instance is its own; it is read by many threads at once. */
struct hf_model;
struct hf_model_kind {
	const char *type;  /* as in model.type: "BPE", "Unigram" */
	/* [setup] Reads `model`, the object of tokenizer.json: gives every token of its vocabulary
	 * to hf_token, and makes its instance. Vocabulary look-ups (hf_find) work only after
	 * hf_vocab_end, which it calls itself once all its tokens are given. */
	int (*create)(struct hf *, const cJSON *model, struct hf_model **out);
	/* [any] The ids of one word (never empty) through hf_put. call->byte_level: the words are
	 * bytes as they stood in the text, and the vocabulary writes them in GPT-2's byte
	 * alphabet; else they are UTF-8 to be looked up as they are. */
	int (*word)(const struct hf_model *, struct hf_call *, const char *s, size_t len);
	/* Frees what a call's scratch points to (the model made it in call->scratch, zeroed and
	 * scratch_bytes long); may be NULL. */
	void (*scratch_finish)(void *scratch);
	size_t scratch_bytes;
	void (*destroy)(struct hf_model *);  /* may be NULL */
};

extern const struct hf_model_kind hf_bpe;

/* ---- the vocabulary: hf_vocab.c ---- */

struct hf_slot {
	uint32_t hash;
	int32_t id;  /* -1 = free */
};

struct hf_text {   /* the text of an id */
	const char *s; /* NULL = a hole in the ids */
	int32_t len;
};

struct hf_vocab {
	int32_t n;            /* highest id + 1, added tokens too */
	int32_t n_model;      /* tokens the model has */
	int32_t longest;      /* bytes of the longest text of the model's */
	struct hf_text *texts;    /* [room] by id: the model's; the added tokens' where it
				   has none */
	int32_t room;
	struct hf_slot *slots;    /* the model's tokens by their text */
	uint32_t mask;
};

/* One token of the model's vocabulary; s is copied. where: its JSON path, for sentences. */
int hf_token(struct hf *, int64_t id, const char *s, size_t len, const char *where);
int hf_vocab_end(struct hf *);
/* Makes room for an id, which is then within vocab.n. */
int hf_room_for(struct hf *, int64_t id);
/* Whether an id below vocab.n is a token's, the model's or an added one's. */
bool hf_id_taken(const struct hf *, int32_t id);
/* The id of a text in the model's vocabulary, -1 = none. Added tokens only count where the model
 * has them. [any] */
int32_t hf_find(const struct hf *, const char *s, size_t len);
/* One byte as its character of GPT-2's byte alphabet: 1 or 2 bytes of UTF-8; and back, -1 = not in
 * the alphabet. */
int hf_byte_char(unsigned char byte, char out[2]);
int hf_char_byte(uint32_t c);
uint32_t hf_hash(const char *s, size_t len);
/* Memory that lives as long as the instance, zeroed; NULL with a sentence said. */
void *hf_alloc(struct hf *, size_t n, size_t size);
/* A copy of a text, NUL-ended, likewise. */
char *hf_copy(struct hf *, const char *s, size_t len);

/* ---- added tokens: hf_added.c ---- */

struct hf_added {
	const char *text;   /* content as the file has it */
	int32_t len;
	int32_t id;
	const char *form;   /* what is looked for: the normalised content where .normalized */
	int32_t form_len;
	uint8_t special, lstrip, rstrip, single_word, normalized;
};

struct hf_node;
struct hf_finder {     /* of either set */
	struct hf_node *nodes;
	int32_t n_nodes;
	int32_t root[256];
};
struct hf_hit {
	int64_t at, end;
	int32_t token;      /* index of hf.added; -1 = text between tokens */
};
struct hf_hits {
	struct hf_hit *v;
	int64_t n, room;
};

/* An added token, with the flags of `like`. like->id < 0: as the library numbers it: the model's id
 * where it has that text, else the next free one. s is copied. Only after hf_vocab_end. */
int hf_add(struct hf *, const char *s, size_t len, const struct hf_added *like);
/* The index of an added token of that text, -1 = none. */
int32_t hf_added_index(const struct hf *, const char *s, size_t len);
/* Once all are added and the normalizer is known. */
int hf_added_end(struct hf *);
/* The text cut into added tokens and what lies between. 0 or NVLLM_ENOMEM without a sentence. */
int hf_added_cut(const struct hf *, const struct hf_finder *, const char *text, size_t len,
	bool plain, struct hf_hits *out);
/* Where the spaces before s[from] begin, not below most; where those at s[at] end. */
size_t hf_spaces_from(const char *s, size_t from, size_t most);
size_t hf_spaces_to(const char *s, size_t len, size_t at);

/* ---- characters: hf_unicode.c ---- */

/* Classes of the patterns that hf_fast.c knows, two bits a character. */
enum { HF_SIGN, HF_LETTER, HF_NUMBER, HF_SPACE };
#define HF_CLASSED 0x32400u  /* above, all are signs */

const char *hf_category(uint32_t c);  /* "Lu" and so on */
int  hf_is_space(uint32_t c);
int  hf_is_numeric(uint32_t c);
int  hf_is_punct(uint32_t c);
int  hf_is_word(uint32_t c);
int  hf_is_mark(uint32_t c);
bool hf_is_late_mark(uint32_t c);
bool hf_is_late_compat(uint32_t c);
uint32_t hf_lower(uint32_t c);       /* but for U+0130, which becomes two */
/* Appends \x{..}-\x{..} for the characters of a category that PCRE2 may not know yet. */
void hf_late_ranges(const char *cat, struct json_buf *out);
/* Makes hf->classes, if they are not there yet. */
int  hf_classes_init(struct hf *);

/* ---- patterns: hf_regex.c, hf_fast.c ---- */

struct hf_regex;       /* a compiled pattern */
/* where: the JSON path of the pattern. */
int  hf_regex_create(struct hf *, const char *pattern, size_t len, const char *where,
	struct hf_regex **out);
void hf_regex_destroy(struct hf_regex *);
/* An Oniguruma pattern (Ruby syntax) as PCRE2 spells it, for the options UTF, UCP and MULTILINE.
 * 0, or -1 and *why. */
int  hf_regex_translate(const char *pattern, size_t len, struct json_buf *out, const char **why);
/* The matches of a pattern in s, as the library iterates over them. Begin with pattern, s, len set
 * and the rest zero. hf_match_next returns 1, 0 = no more, or a status. */
struct hf_pattern {     /* {"String": ...} or {"Regex": ...}, or a class of characters */
	const char *s;      /* a string, or NULL */
	size_t len;
	struct hf_regex *regex;
	int (*is)(uint32_t c);
};
struct hf_matches {
	const struct hf_pattern *pattern;
	const char *s;
	size_t len;
	size_t from, to;    /* the match */
	size_t at;          /* where to look on */
	bool any;           /* there was a match before */
};
int  hf_match_next(struct hf_matches *, struct hf_call *);
void hf_match_finish(struct hf_call *);
/* The end of the match that begins at s[at]: each of these patterns matches wherever the text does
 * not end. */
typedef size_t hf_fast_fn(const uint8_t *classes, const char *s, size_t len, size_t at);
/* NULL where the pattern is not known by hand. */
hf_fast_fn *hf_fast_find(const char *pattern, size_t len);
hf_fast_fn *hf_regex_fast(const struct hf_regex *);

/* ---- normalizers: hf_normal.c ---- */

struct hf_precompiled;
/* The charsmap of SentencePiece: who can read one says so in hf_open's struct. */
struct hf_precompiled_kind {
	int (*create)(struct hf *, const cJSON *step, const char *where,
		struct hf_precompiled **out);
	/* [any] Appends what becomes of s to out. */
	int (*run)(const struct hf_precompiled *, struct hf_call *, const char *s, size_t len,
		struct json_buf *out);
	void (*destroy)(struct hf_precompiled *);  /* may be NULL */
};

struct hf_normal;
typedef int hf_normal_fn(const struct hf_normal *, struct hf_call *, const char *s, size_t len,
	struct json_buf *out);
struct hf_normal {
	hf_normal_fn *run;
	struct hf_pattern pattern;
	const char *text;    /* what is prepended or put in */
	size_t text_len;
	int form;            /* enum hf_form, or flags of a step */
	struct hf_precompiled *precompiled;
};

int hf_normal_read(struct hf *, const cJSON *normalizer);
/* Runs all; *out points into the call's buffers or at s. */
int hf_normalize(const struct hf *, struct hf_call *, const char *s, size_t len,
	const char **out, size_t *out_len);

enum hf_form { HF_NFC, HF_NFD, HF_NFKC, HF_NFKD };
/* Appends the form of s. 0, or NVLLM_ENOMEM without a sentence. */
int hf_unicode_form(const struct hf *, enum hf_form, const char *s, size_t len,
	struct json_buf *out);
/* Whether NFC leaves s alone for certain. */
bool hf_is_nfc(const struct hf *, const char *s, size_t len);
int  hf_nfc_init(struct hf *);

/* ---- pre-tokenizers: hf_split.c ---- */

struct hf_step;
struct hf_part {        /* a piece of text on its way */
	const char *s;
	size_t len;
	bool first;         /* it begins where the raw text begins */
};
typedef int hf_step_fn(struct hf_call *, const struct hf_step *, int next, struct hf_part);
struct hf_step {
	hf_step_fn *run;    /* cuts the part and calls hf_walk(call, next, piece) for each piece */
	hf_fast_fn *fast;   /* for the pattern; may be NULL */
	struct hf_pattern pattern;
	int behavior;       /* enum of hf_split.c */
	bool invert;
	char mark[5];       /* Metaspace's replacement */
	int scheme;         /* Metaspace: always, first, never */
	bool split, prefix; /* Metaspace; ByteLevel's add_prefix_space */
};
int hf_split_read(struct hf *, const cJSON *pre_tokenizer);
hf_fast_fn *hf_fast_gpt2(void);
/* A part through the steps from `step` on; after the last, the model. */
int hf_walk(struct hf_call *, int step, struct hf_part);

/* ---- post-processors and decoders: hf_post.c, hf_decode.c ---- */

int hf_post_read(struct hf *, const cJSON *post_processor);
int hf_decode_read(struct hf *, const cJSON *decoder);
/* Makes the pieces of all tokens. */
int hf_decode_end(struct hf *);

struct hf_decode_kind;
struct hf_decode {
	const struct hf_decode_kind *kind;
	struct hf_pattern pattern;
	const char *text;    /* Replace's content, Strip's or Metaspace's character */
	size_t text_len;
	int64_t start, stop; /* Strip; Metaspace: start = 1 where the first token's marks go */
	bool whole;          /* Strip after Fuse: of the text, not of each token */
};

struct hf_pieces {       /* arrays are [n] by id */
	char *bytes;         /* all pieces */
	int64_t *at;         /* into bytes */
	int32_t *len;
	int64_t *first_at;   /* where the token is the text's first */
	int32_t *first_len;
	int16_t *byte;       /* 0..255 for byte tokens, -1 = none */
	uint8_t *special;
	int32_t longest;
};

/* ---- the whole ---- */

struct hf_kinds {
	const struct hf_model_kind *const *models;       /* NULL-ended */
	const struct hf_precompiled_kind *precompiled;   /* NULL = refused */
};

struct hf {
	const struct nvllm_host *host;
	const struct hf_kinds *kinds;
	const char *path;             /* of the file, for sentences; "" = none */
	struct hf_vocab vocab;
	const struct hf_model_kind *kind;
	struct hf_model *model;
	struct hf_added *added;       /* [n_added] */
	int32_t n_added, added_room;
	struct hf_finder raw, normal; /* added tokens of the raw and of the normalised text */
	struct hf_normal normals[HF_MAX_STEPS];
	int n_normals;
	struct hf_step steps[HF_MAX_STEPS];
	int n_steps;
	bool byte_level;              /* ByteLevel is the last step: words go on as bytes */
	struct hf_decode decodes[HF_MAX_STEPS];
	int n_decodes;
	bool has_decoder;             /* without one, tokens are joined with spaces */
	bool first_matters;           /* the text's first token may give other bytes */
	bool fused;                   /* the decoders read so far joined the tokens */
	struct hf_pieces pieces;
	int32_t before[HF_MAX_ADD], after[HF_MAX_ADD];
	int32_t n_before, n_after;
	bool post_says;               /* the post-processor has a template */
	int32_t bos, eos, pad;        /* -1 = none */
	int32_t eos_ids[NVLLM_STOP_IDS];
	int32_t n_eos_ids;
	struct hf_pool *pool;         /* scratch of calls */
	struct hf_regex *regexes;     /* all, linked */
	char *free;                   /* of the last block that small texts are copied to */
	size_t free_bytes;
	uint8_t *classes;             /* [HF_CLASSED / 4]; NULL = no pattern asks for them */
	uint8_t *nfc;                 /* [HF_CLASSED / 8] characters that NFC leaves alone */
	struct hf_slot *added_slots;  /* added tokens by their text */
	uint32_t added_mask;
	int32_t next_id;              /* of an added token that has none */
};

/* The scratch of one call of encode, used by one thread at a time. */
struct hf_call {
	const struct hf *hf;
	bool byte_level;
	int32_t *ids;               /* grows */
	int64_t n_ids, room;
	struct json_buf text[2];    /* normalised text; the normalizers take turns */
	bool cut;                   /* the normalizers took characters away at the beginning */
	struct json_buf *part;      /* [HF_MAX_STEPS] what a pre-tokenizer step made of a part */
	struct hf_hits raw, normal;
	void *match, *limits, *stack; /* PCRE2's, or NULL */
	struct hf_words *words;     /* words seen before and their ids; NULL = none yet */
	void *scratch;              /* the model's */
	struct hf_call *next;       /* in the pool */
};

int  hf_pool_create(struct hf *);
void hf_pool_destroy(struct hf *);
/* NULL with a sentence. */
struct hf_call *hf_call_create(const struct hf *);
void hf_call_destroy(struct hf_call *);
/* The ids of a word: those it had before, or the model's. */
int hf_word(struct hf_call *, const char *s, size_t len);
/* Appends an id. 0, or NVLLM_ENOMEM with a sentence. */
int hf_put(struct hf_call *, int32_t id);

/* What is at path: a folder's tokenizer.json, or a file of any name that begins like one. Looks
 * through the file without parsing it. HF_DAMAGED: called tokenizer.json, but none. */
enum hf_class { HF_NOT, HF_BYTE_LEVEL, HF_OTHER, HF_DAMAGED };
enum hf_class hf_classify(const char *path);

/* [setup] Reads a folder or a file. */
int  hf_open(const struct nvllm_host *, const char *path, const struct hf_kinds *, struct hf **out);
/* The same in steps, for who has no tokenizer.json: hf_create; tokens by hf_token, hf_vocab_end;
 * ->kind and ->model; hf_pipeline with an object that has normalizer, pre_tokenizer,
 * post_processor, decoder and added_tokens (all optional); ->bos, ->eos, ->pad; hf_end. */
int  hf_create(const struct nvllm_host *, const char *path, const struct hf_kinds *,
	struct hf **out);
int  hf_pipeline(struct hf *, const cJSON *root);
int  hf_end(struct hf *);
/* One more id that ends an answer. */
void hf_end_id(struct hf *, int32_t id);
/* [setup] May be given NULL, or what a failed open left. */
void hf_close(struct hf *);

/* [any] The members of nvllm_tokenizer_vt. */
int  hf_info(const struct hf *, struct nvllm_tokenizer_info *out);
int64_t hf_encode(const struct hf *, const char *text, int64_t len, uint32_t flags,
	int32_t *tokens, int64_t room);
const char *hf_piece(const struct hf *, int32_t token, uint32_t flags, int32_t *len);
int32_t hf_byte(const struct hf *, int32_t token);

/* ---- reading JSON: hf_json.c. Sentences begin with the file and the path of the value. ---- */

/* "FILE: WHERE: ..." and NVLLM_EINVAL. */
int hf_bad(const struct hf *, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* A member of a type; absent or null gives the default where there is one. */
int hf_get_bool(struct hf *, const cJSON *obj, const char *where, const char *key, bool def,
	bool *out);
int hf_get_int(struct hf *, const cJSON *obj, const char *where, const char *key, int64_t lo,
	int64_t hi, int64_t def, int64_t *out);
/* Lives as long as the instance; required where def is NULL. */
int hf_get_text(struct hf *, const cJSON *obj, const char *where, const char *key, const char *def,
	const char **out, size_t *len);
int hf_get_pattern(struct hf *, const cJSON *obj, const char *where, struct hf_pattern *out);
/* The "type" of a step, or NULL with a sentence. */
const char *hf_type(struct hf *, const cJSON *step, const char *where);
/* A file, or a folder's file of that name, parsed: an object, or NULL where it is not there and not
 * required. */
bool hf_is_folder(const char *path);
int hf_parse(struct hf *, const char *path, const char *name, bool required, cJSON **out);
/* Calls each() for every step of a node, Sequences (whose list is named list) opened, at most
 * HF_MAX_STEPS deep. node may be NULL or null. */
int hf_each(struct hf *, const cJSON *node, const char *where, const char *list,
	int (*each)(struct hf *, const cJSON *step, const char *where));

#endif
