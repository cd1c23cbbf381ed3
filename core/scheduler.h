/* SPDX-License-Identifier: MIT */
/* core/scheduler.h - which sequences run next, and the KV pages they own. A pure state
 * machine: no device, no threads, no clock, no allocation after create. */
#ifndef NVLLM_SCHEDULER_H
#define NVLLM_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include <nvllm/cache.h>

/* ---- pages.c: who owns a page ---- */
struct pages;
struct pages *pages_create(int32_t n_pages);
void    pages_destroy(struct pages *);
/* All of n or none: true, and their numbers in out. */
bool    pages_grant(struct pages *, int32_t n, int32_t *out);
void    pages_free(struct pages *, const int32_t *page, int32_t n);
int32_t pages_left(const struct pages *);

/* ---- sched.c ---- */
enum seq_state { SEQ_NEW = 0, SEQ_WAITING, SEQ_RUNNING, SEQ_DONE };

/* One sequence. The owner fills the first part and keeps it alive from sched_add() to
 * sched_remove(); the rest is the scheduler's. */
struct seq {
	int32_t *tokens;        /* [n_max]: prompt, then output so far */
	int32_t n_prompt;
	int32_t n_max;          /* prompt and the longest answer */
	int32_t *pages;         /* [page_table_len(n_max)]: room for its page numbers */
	bool all_logits;        /* every prompt row makes logits (prompt_logprobs) */
	uint64_t salt;

	int32_t n_tokens;       /* of tokens */
	int32_t n_computed;     /* whose K and V are in the cache */
	int32_t n_cached;       /* of n_computed, found there at admission */
	int32_t n_pages, n_pinned; /* of pages; the first n_pinned belong to the cache policy */
	int32_t slot;           /* sequence slot, -1 = none */
	int32_t state;
	struct seq *next;
};

/* A part of a step: rows of one sequence. */
struct sched_entry {
	struct seq *seq;
	int32_t from, n;        /* tokens [from, from + n) of the sequence */
	int32_t logit_from, n_logits; /* its logits rows in this step; they belong to the last
	                         * n_logits of its rows */
	bool samples;           /* the last of them draws a token */
};
struct sched_step {
	struct sched_entry *entry; /* [n_seqs] */
	int32_t n_seqs, n_tokens, n_logits;
};

struct sched_limits {
	int32_t max_seqs, max_tokens, max_logits, page_tokens, n_pages;
};

struct sched;
/* cache may be NULL. */
struct sched *sched_create(const struct sched_limits *, const struct nvllm_cache_vt *, struct nvllm_cache *);
void sched_destroy(struct sched *);
/* At the door: 0, or NVLLM_EINVAL and a sentence where it could never run. [any] */
int  sched_admissible(const struct sched *, int64_t n_max);
/* Queues a sequence in order of arrival. */
void sched_add(struct sched *, struct seq *);
/* Takes it out, wherever it is, and gives its pages back. */
void sched_remove(struct sched *, struct seq *);
/* Chooses the next step: NULL when there is nothing to do. Pages are granted first, all
 * counts are taken afterwards. Valid until the next call. */
const struct sched_step *sched_next(struct sched *);
/* The step ran: moves n_computed on, and appends token[logits row] where it samples. */
void sched_commit(struct sched *, const struct sched_step *, const int32_t *token);
void sched_counts(const struct sched *, int32_t *running, int32_t *waiting, int64_t *pages_used);

#endif
