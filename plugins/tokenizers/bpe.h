/* SPDX-License-Identifier: MIT */
/* bpe.h - what the files of the byte-level BPE tokenizer know of each other.
 *
 *   bpe_gguf.c   a GGUF's metadata -> struct bpe_source
 *   bpe_vocab.c  struct bpe_source -> struct bpe_vocab: pieces, byte symbols, merges
 *   bpe_added.c  where added tokens stand in a text
 *   bpe_split.c  the pre-tokenizer: text -> words
 *   bpe_merge.c  a word's symbols -> tokens
 *   bpe.c        the vtable, and how the five work together
 *
 * All but bpe_merge.c is for a GGUF's vocabulary; a tokenizer.json has the pipeline of hf.h. */
#ifndef BPE_H
#define BPE_H

#include <stdbool.h>

#include <nvllm/tokenizer.h>

/* What a token is, numbered as GGUF does. */
enum bpe_type {
	BPE_NORMAL = 1,
	BPE_UNKNOWN = 2,  /* taken for a control token */
	BPE_CONTROL = 3,  /* added, special */
	BPE_USER = 4,     /* added, not special */
	BPE_UNUSED = 5,   /* a hole in the ids: never made from text */
	BPE_BYTE = 6,     /* does not occur in byte-level vocabularies; taken for a normal one */
};

/* A vocabulary as its file has it. Everything points into the loader's memory, which
 * stays until close. */
struct bpe_source {
	const struct nvllm_str *tokens;  /* [n_tokens] */
	const int32_t *types;            /* [n_tokens] enum bpe_type; NULL = all normal */
	const struct nvllm_str *merges;  /* [n_merges] "left right", first merges first */
	int64_t n_tokens, n_merges;
	struct nvllm_str pre;            /* the pre-tokenizer's name; empty = not said */
	int32_t bos, eos, pad;           /* -1 = none */
	int32_t end[2];                  /* more ids that end an answer; -1 = none */
	int32_t add_bos, add_eos;        /* -1 = not said */
	const char *tokens_key, *merges_key; /* what messages call the two */
};

/* Reads and checks the metadata; fails with a sentence. */
int bpe_gguf(const struct nvllm_host *, const struct nvllm_loader_ref *, struct bpe_source *out);

/* ---- bpe_merge.c: a hash table of 64-bit keys, and the merge loop ---- */

#define BPE_NO_RANK UINT32_MAX

struct bpe_slot {
	uint64_t pair;  /* left id << 32 | right id; UINT64_MAX = free */
	uint32_t rank;  /* lower merges first */
	int32_t id;     /* what the two become */
};

struct bpe_merges {
	struct bpe_slot *slots;
	int shift;      /* 64 - log2(number of slots) */
	uint64_t mask;  /* number of slots - 1 */
};

/* Memory of host; room for n pairs. */
int bpe_merges_init(const struct nvllm_host *, struct bpe_merges *, int64_t n);
/* Adds a pair or gives it another rank. */
void bpe_merges_put(struct bpe_merges *, int32_t left, int32_t right, uint32_t rank, int32_t id);

struct bpe_symbol {
	int32_t id;
	int32_t next, prev;  /* -1 = none */
	int32_t made;        /* what it and the next one become */
	uint32_t rank;       /* of that pair; BPE_NO_RANK = does not merge */
};

/* Scratch of one encode call. Begin zeroed; free at the end. */
struct bpe_word {
	struct bpe_symbol *v;  /* [n] bytes' tokens; after bpe_merge the word's */
	uint64_t *heap;        /* rank << 32 | symbol */
	int32_t n, room;
};

/* Makes room for n symbols. Returns 0 or NVLLM_ENOMEM without a sentence. */
int  bpe_word_room(struct bpe_word *, int64_t n);
void bpe_word_free(struct bpe_word *);
/* Merges w->v[0..n) until no pair is left that merges; of v only the ids count. */
void bpe_merge(const struct bpe_merges *, struct bpe_word *w);

/* ---- bpe_vocab.c ---- */

struct bpe_text_slot {
	uint32_t hash;
	int32_t id;  /* -1 = free */
};

struct bpe_vocab {
	int32_t n;
	int32_t max_piece;  /* bytes of the longest piece */
	int32_t max_word;   /* bytes of the longest normal token's text in the byte alphabet */
	const struct nvllm_str *tokens; /* [n] of the source */
	uint8_t *types;     /* [n] */
	char *bytes;        /* all pieces, one after the other */
	int64_t *start;     /* [n + 1] into bytes */
	struct bpe_text_slot *by_text; /* hash table of ids by the token's text */
	uint32_t by_text_mask;
	int32_t byte_id[256];      /* the token of each single byte; -1 = none, such bytes vanish */
	struct bpe_merges merges;
};

int bpe_vocab_init(const struct nvllm_host *, const struct bpe_source *, struct bpe_vocab *out);
/* The id of a token's text, -1 if there is none. */
int32_t bpe_vocab_find(const struct bpe_vocab *, const char *text, size_t len);
static inline bool bpe_is_special(const struct bpe_vocab *v, int32_t id)
{
	return v->types[id] == BPE_CONTROL || v->types[id] == BPE_UNKNOWN;
}

/* ---- bpe_added.c ---- */

struct bpe_added_node;
struct bpe_added {
	struct bpe_added_node *nodes;
	int32_t n_nodes;
	int32_t root[256];
};
struct bpe_match {
	int64_t at;
	int32_t id;
};
struct bpe_matches {
	struct bpe_match *v;  /* by falling `at`; malloc'd, may be NULL */
	int64_t n, room;
};

int bpe_added_init(const struct nvllm_host *, const struct bpe_vocab *, struct bpe_added *out);
/* The longest added token at each place of the text where one begins. Returns 0 or
 * NVLLM_ENOMEM without a sentence. */
int bpe_added_find(
	const struct bpe_added *, const char *text, int64_t len, struct bpe_matches *out);

/* ---- bpe_split.c ---- */

#define BPE_MAX_RULES 4
struct bpe_split {
	void *code[BPE_MAX_RULES];  /* pcre2_code; applied one after the other */
	int n;
	bool whole_words;  /* a word that is a token is that token, whatever the merges say */
	bool add_bos;      /* unless the file says otherwise */
	bool compose;      /* the text is brought to NFC first */
};

/* Compiles the rules of that name; an unknown name is warned of and gets GPT-2's. */
int  bpe_split_init(const struct nvllm_host *, struct nvllm_str name, struct bpe_split *out);
void bpe_split_finish(struct bpe_split *);

/* A walk over the words of a text. word() returns 0 or a status that ends the walk. */
struct bpe_walk {
	const struct nvllm_host *host;
	const struct bpe_split *split;
	void *match, *limits;  /* of PCRE2 */
	int (*word)(void *arg, const char *s, size_t len);
	void *arg;
};
int  bpe_walk_init(struct bpe_walk *, size_t longest);
void bpe_walk_finish(struct bpe_walk *);
int  bpe_walk(struct bpe_walk *, const char *s, size_t len);

#endif
