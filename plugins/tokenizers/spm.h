/* SPDX-License-Identifier: MIT */
/* spm.h - what the files of the SentencePiece tokenizer know of each other.
 *
 *   spm_proto.c     a tokenizer.model (protobuf) -> struct spm_source
 *   spm_gguf.c      a GGUF's metadata -> struct spm_source
 *   spm_config.c    the tokenizer_config.json beside a tokenizer.model -> struct spm_source
 *   spm_vocab.c     struct spm_source -> struct spm_vocab: pieces, and the id of each text
 *   spm_charsmap.c  the precompiled rules of a normalizer
 *   spm_norm.c      a text -> the text that pieces are looked for in
 *   spm_trie.c      all pieces that begin at a place of a text
 *   spm_bpe.c       that text -> pieces, by merging
 *   spm_unigram.c   that text -> pieces, by the best sum of scores
 *   spm_native.c    spm_source -> the pipeline of hf.h, with these as its model
 *   spm_json.c      what a tokenizer.json may have of SentencePiece: Unigram, Precompiled
 *   spm.c           the vtable */
#ifndef SPM_H
#define SPM_H

#include <stdbool.h>
#include <string.h>

#include <nvllm/tokenizer.h>

#include "hf.h"

#define SPM_SPACE "\xE2\x96\x81" /* U+2581, what a space becomes */
#define SPM_MAX_PIECE 4096       /* bytes; real pieces have up to some 100 */

/* What a token is, numbered as sentencepiece_model.proto and GGUF do. */
enum spm_type {
	SPM_NORMAL = 1,
	SPM_UNKNOWN = 2,
	SPM_CONTROL = 3,  /* not made from text by the model itself */
	SPM_USER = 4,     /* always one token, wherever its text stands */
	SPM_UNUSED = 5,   /* merges go through it, but it is not the result */
	SPM_BYTE = 6,     /* "<0xE4>" */
};

enum spm_model { SPM_UNIGRAM = 1, SPM_BPE = 2 }; /* as trainer_spec.model_type has it */

/* A token that is looked for in the text before anything else is done with it. */
struct spm_added {
	struct nvllm_str text;
	int32_t id;
	bool special, lstrip, rstrip, single_word, normalized;
};

/* A vocabulary as its file has it. All memory is the host's or the loader's. */
struct spm_source {
	const char *name;         /* for messages: "tokenizer.model", "tokenizer.ggml.tokens" */
	struct nvllm_str *tokens; /* [n] */
	float *scores;            /* [n] */
	uint8_t *types;           /* [n] enum spm_type */
	int64_t n;
	int32_t model;            /* enum spm_model */
	bool byte_fallback;
	/* The normalizer. */
	struct nvllm_str charsmap; /* empty = none */
	bool dummy_prefix;        /* a space before the text */
	bool prefix_once;         /* ... only before the very first, and only if it has none */
	bool squeeze_spaces;      /* runs become one; those at the ends go */
	bool escape_spaces;       /* to U+2581 */
	bool space_after;         /* the dummy one comes last instead */
	/* Special tokens; -1 = none. */
	int32_t unk, bos, eos, pad;
	int32_t end[2];           /* more ids that end an answer */
	bool add_bos, add_eos;
	struct spm_added *added;  /* [n_added] */
	int32_t n_added;
};

/* ---- where a vocabulary comes from ---- */

/* Reads a whole file into memory of host; *len becomes its bytes, and a NUL follows. */
int spm_read_file(const struct nvllm_host *, const char *path, size_t max, char **out, size_t *len);
/* A tokenizer.model in memory, which must stay. where: its path, for messages. */
int spm_proto(const struct nvllm_host *, const char *where, const void *data, size_t len,
	struct spm_source *out);
int spm_gguf(const struct nvllm_host *, const struct nvllm_loader_ref *, struct spm_source *out);
/* What the tokenizer_config.json in memory says beyond the tokenizer.model. */
int spm_config(const struct nvllm_host *, const char *where, const char *text, size_t len,
	struct spm_source *);

/* Special tokens of the model become added tokens, and if wanted user-defined ones: but for those
 * with a space, which stand in the normalised text. */
int spm_added_init(const struct nvllm_host *, struct spm_source *, bool user_too);

/* ---- spm_trie.c: texts that share their beginnings ---- */

struct spm_trie_node {
	uint32_t child;    /* the first of its children, which lie together */
	int32_t value;     /* of the text that ends here; -1 = none does */
	uint16_t n;        /* children */
};
struct spm_trie {
	struct spm_trie_node *nodes;
	unsigned char *labels;  /* [n_nodes] the byte that leads to each; siblings by rising byte */
	uint32_t n_nodes;       /* node 0 is the root */
	int32_t root[256];      /* children of the root; -1 = none */
};

/* values[i] (>= 0) for texts[i]; of equal texts the first. Memory of host. */
int spm_trie_init(const struct nvllm_host *, struct spm_trie *, const struct nvllm_str *texts,
	const int32_t *values, int64_t n);
/* The child by that byte, -1 if none. */
static inline int32_t spm_trie_step(const struct spm_trie *t, int32_t node, unsigned char byte)
{
	const struct spm_trie_node *p = &t->nodes[node];
	const unsigned char *labels, *at;

	if (node == 0)
		return t->root[byte];
	labels = t->labels + p->child;
	at = p->n ? memchr(labels, byte, p->n) : NULL;
	return at ? (int32_t)(p->child + (uint32_t)(at - labels)) : -1;
}
/* The bytes of the longest text that s begins with; 0 = none. */
size_t spm_trie_longest(const struct spm_trie *, const char *s, size_t len, int32_t *value);

/* ---- spm_charsmap.c: the compiled normalization rules of a SentencePiece model ---- */

struct spm_charsmap {
	const unsigned char *units;  /* [n_units] of 4 bytes, little-endian: a Darts double array */
	size_t n_units;
	const char *text;            /* what characters become, each ended by NUL */
	size_t n_text;
};

/* blob must stay. what: the key that holds it, for messages. */
int spm_charsmap_init(const struct nvllm_host *, const char *what, const void *blob, size_t len,
	struct spm_charsmap *out);
/* The longest rule at s: the bytes it takes, 0 = none; *to is what they become. */
size_t spm_charsmap_longest(
	const struct spm_charsmap *, const char *s, size_t len, const char **to, size_t *to_len);
/* The whole text as the tokenizers library's Precompiled normalizer has it: by grapheme
 * clusters, and by the shortest rule. emit is called with the parts of the result. */
int spm_charsmap_text(const struct spm_charsmap *, const char *s, size_t len,
	int (*emit)(void *arg, const char *s, size_t len), void *arg);

/* ---- spm_vocab.c ---- */

struct spm_slot {
	uint64_t hash;
	int32_t id;     /* -1 = free */
	uint32_t rank;  /* lower merges first: the score upside down */
};

struct spm_vocab {
	const char *name;
	int32_t n;
	size_t max_match;       /* bytes of the longest text that the model itself makes */
	const struct nvllm_str *tokens; /* [n] of the source */
	const float *scores;    /* [n] of the source */
	const uint8_t *types;   /* [n] of the source */
	int32_t byte_id[256];   /* -1 = none */
	int32_t unk;            /* -1 = none: then every byte has a token */
	bool byte_fallback;
	float min_score, max_score; /* of the normal tokens */
	bool has_user, has_unused;
	uint8_t glue[256];      /* nonzero: a token has a space behind a character that ends so */
	struct spm_slot *slots; /* normal, user-defined and unused tokens by their text */
	uint64_t mask;
	struct spm_trie user;   /* texts of user-defined tokens */
};

int spm_vocab_init(const struct nvllm_host *, const struct spm_source *, struct spm_vocab *out);
/* The entry of a text among normal, user-defined and unused tokens, or NULL. */
const struct spm_slot *spm_vocab_find(const struct spm_vocab *, const char *text, size_t len);
uint64_t spm_hash(const char *s, size_t len);

/* ---- encoding ---- */

/* A text that grows. Zeroed to begin; the first failed allocation sticks. */
struct spm_buf {
	char *s;
	size_t len, cap;
	bool failed;
};
void spm_buf_add(struct spm_buf *, const char *s, size_t len);

struct spm_norm {
	const struct spm_vocab *vocab;
	struct spm_charsmap charsmap;  /* n_units 0 = none */
	bool dummy_prefix, squeeze_spaces, escape_spaces, space_after;
};
/* Appends what becomes of one stretch of text. */
void spm_normalize(const struct spm_norm *, const char *s, size_t len, struct spm_buf *out);

/* Scratch of one encode call. */
struct spm_symbol {
	uint32_t at, len;    /* its text; len 0 = swallowed */
	int32_t prev, next;  /* -1 = none */
	uint32_t rank;       /* of it and the next one together; SPM_NO_RANK = no such token */
	int32_t id;          /* the token that it is, -1 = none */
	int32_t made;        /* the token that both make */
	bool frozen;
};
#define SPM_NO_RANK UINT32_MAX

/* Pieces of a text, in order. id -1: not in the vocabulary. Returns 0 or a status. */
typedef int spm_piece_fn(void *arg, int32_t id, const char *s, size_t len);

struct spm_word;
struct spm_bpe {
	struct spm_symbol *v;
	uint64_t *heap;            /* rank << 32 | symbol */
	size_t room;
	uint32_t *unused_left;     /* [vocab n] bytes of an unused token's left part; 0 = not seen */
	struct spm_word *words;    /* words met before, and their pieces */
};
/* b is zeroed at first, and kept from text to text. NVLLM_ENOMEM comes without a sentence. */
int  spm_bpe_walk(struct spm_bpe *, const struct spm_vocab *, const char *s, size_t len,
	spm_piece_fn *, void *arg);
void spm_bpe_finish(struct spm_bpe *);

/* A lattice of tokens and its best path. */
struct spm_unigram {
	struct spm_trie trie;
	const double *scores;  /* [n] by id */
	const uint8_t *lengthy; /* [n] nonzero: its score is length * max_score - 0.1; NULL = none */
	double max_score;
	double unk_score;
	int32_t unk;           /* -1 = none: an unknown character is -1 */
	bool single;           /* sums are rounded to float, as SentencePiece does */
};
struct spm_path {
	double score;
	int32_t id;
	uint32_t from;  /* UINT32_MAX = not reached */
	uint32_t to;    /* where the best path goes on */
};
/* The best path over s. path: [len + 1] of the caller's. */
int spm_unigram_walk(const struct spm_unigram *, const char *s, size_t len, struct spm_path *path,
	spm_piece_fn *, void *arg);

/* ---- the pipeline ---- */

/* The source's memory must stay; the pipeline is ready after it. */
int spm_native(const struct nvllm_host *, const char *path, const struct spm_source *,
	const struct hf_kinds *, struct hf **out);
/* What a tokenizer.json may have: BPE, Unigram, Precompiled. One for each instance, because
 * the model's create finds out what the instance must know. */
struct spm_kinds {
	struct hf_kinds kinds;
	const struct hf_model_kind *models[3];
	struct hf_model_kind bpe;
	bool cut;            /* out: a text may be cut at the words, by glue */
	uint8_t glue[256];
};
void spm_kinds_init(struct spm_kinds *);
/* The pipeline of a tokenizer.json. */
int  spm_json_open(const struct nvllm_host *, const char *path, struct spm_kinds *,
	struct hf **out);
/* No merge crosses from a character to a U+2581 behind it where no token has the two. Which last
 * bytes of characters a token's text has before U+2581: */
void spm_glue_add(uint8_t glue[256], const char *s, size_t len);
/* Where the word that begins at s ends: before the next such place. */
size_t spm_word_len(const uint8_t glue[256], const char *s, size_t len);

/* Bytes of the character that begins with this byte, as far as it tells: 1 for what begins
 * none. Never more than are left. */
static inline size_t spm_char_len(const char *s, size_t left)
{
	unsigned char c = (unsigned char)*s;
	size_t n = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;

	return n < left ? n : left;
}

#endif
