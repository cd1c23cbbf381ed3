/* SPDX-License-Identifier: MIT */
/* core/scheduler.h - which sequences run next, and the KV pages they own. A pure state
 * machine: no device, no threads, no clock, no allocation after create. */
#ifndef NVLLM_SCHEDULER_H
#define NVLLM_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include <nvllm/cache.h>

/* ---- pages.c: who owns a page ----
 * A page has holders: each sequence that uses it, and the cache policy (one). It is free again when the
 * last holder dropped it and the newest step that knew it is done. */
struct pages;
struct pages *pages_create(int32_t n_pages);
void    pages_destroy(struct pages *);
/* All of n or none: true, and their numbers in out, each with one holder. */
bool    pages_grant(struct pages *, int32_t n, int32_t *out);
/* One holder more for each. */
void    pages_share(struct pages *, const int32_t *page, int32_t n);
/* One holder less for each; what nobody holds is free once step `epoch` is done, at once
 * with epoch 0. Epochs never go back. */
void    pages_drop(struct pages *, const int32_t *page, int32_t n, uint64_t epoch);
/* The steps up to epoch are done; UINT64_MAX: all. */
void    pages_done(struct pages *, uint64_t epoch);
int32_t pages_holders(const struct pages *, int32_t page);
int32_t pages_left(const struct pages *);     /* free now */
int32_t pages_deferred(const struct pages *); /* without holder, waiting for their step */

/* ---- sched.c ---- */
enum seq_state { SEQ_NEW = 0, SEQ_WAITING, SEQ_RUNNING, SEQ_DONE };
enum sched_order { SCHED_ARRIVAL = 0, SCHED_LONGEST_FIRST };

/* One sequence: a prompt and one answer to it. The owner fills the first part and keeps
 * it alive from sched_add() to sched_remove(); the rest is the scheduler's. */
struct seq {
	int32_t *tokens;        /* [n_max]: prompt, then output so far */
	int32_t n_prompt;
	int32_t n_max;          /* prompt and the longest answer, of one token at least */
	int32_t *pages;         /* [pages of n_max tokens]: room for its page numbers */
	bool all_logits;        /* every prompt row makes logits (prompt_logprobs); false again once they did */
	bool lockstep;          /* draws a token only when the one before is known: no run-ahead */
	uint64_t salt;
	int64_t priority;       /* lower runs first */
	uint64_t family;        /* sequences of one family have the same prompt, salt and all_logits:
	                         * it is computed once and shared; 0 = none */

	uint64_t arrival;
	int32_t n_tokens;       /* of tokens, also those that steps in flight will sample */
	int32_t n_known;        /* of tokens, whose value is in tokens[] */
	int32_t n_computed;     /* whose K and V are in pages, or will be after the steps in flight */
	int32_t n_landed;       /* of n_computed: by steps that are done */
	int32_t n_admitted;     /* n_known when it was admitted: later tokens lie in its slot */
	int32_t n_cached;       /* prompt tokens it did not compute itself, at first admission */
	int32_t n_preempted;    /* times */
	int32_t n_pages, n_pinned; /* of pages; the first n_pinned are held through the cache policy */
	int32_t n_offered;      /* pages that the policy was offered */
	int32_t slot;           /* sequence slot, -1 = none */
	int32_t state;
	const struct seq *waits_for; /* computes a prefix of this one, until its n_landed is waits_until */
	int32_t waits_until;
	uint64_t tried;         /* when it last found too few pages, as the scheduler counts changes */
	struct seq *next, *prev;
};

/* A part of a step: rows of one sequence. */
struct sched_entry {
	struct seq *seq;        /* NULL: removed while the step was in flight */
	int32_t slot;
	int32_t from, n;        /* tokens [from, from + n) of the sequence */
	int32_t logit_from, n_logits; /* its logits rows in this step; they belong to the last
	                         * n_logits of its rows */
	bool samples;           /* the last of them draws a token */
	bool admitted;          /* its first rows since it was (again) admitted: the slot is new */
};
/* Page contents to copy, in order, before the step's rows are computed. */
struct sched_copy { int32_t from, to; };

struct sched_step {
	struct sched_entry *entry;  /* [n_seqs]: decode rows first, then chunks of prompts */
	struct sched_copy *copy;    /* [n_copies] */
	int32_t n_seqs, n_tokens, n_logits, n_copies;
	uint64_t epoch;             /* number of this step, from 1 */
};

struct sched_limits {
	int32_t max_seqs, max_tokens, max_logits, page_tokens, n_pages;
	int32_t run_ahead;      /* steps that may be issued beyond the oldest that is not committed */
	int32_t order;          /* enum sched_order */
};

struct sched_counts {
	int32_t running, waiting;
	int64_t pages_used;     /* not free */
	int64_t pages_cached;   /* of these: held by the cache policy, and pinned by nobody */
	int64_t preempted;      /* times since create */
};

struct sched;
/* cache may be NULL. */
struct sched *sched_create(const struct sched_limits *, const struct nvllm_cache_vt *, struct nvllm_cache *);
void sched_destroy(struct sched *);
/* At the door: 0, or NVLLM_EINVAL and a sentence where it could never run. [any] */
int  sched_admissible(const struct sched *, int64_t n_max);
/* Queues a sequence. Arrival order is the order of these calls. */
void sched_add(struct sched *, struct seq *);
/* Takes it out, wherever it is, also while steps with it are in flight, and gives its
 * pages back. It may be freed at once. */
void sched_remove(struct sched *, struct seq *);
/* Chooses the next step and counts it as in flight. NULL: nothing to do, or nothing before
 * the oldest step in flight is committed. Pages are granted first; all counts are taken
 * afterwards, in one place. */
const struct sched_step *sched_next(struct sched *);
/* The oldest step in flight is done: tokens[i] is what its logits row i drew. It may still
 * be read until sched_next() is called. The owner removes a sequence that is over before
 * it calls sched_next() again. */
void sched_commit(struct sched *, const int32_t *tokens);
/* The oldest step that is not committed, NULL = none; and how many there are. */
const struct sched_step *sched_oldest(const struct sched *);
int32_t sched_in_flight(const struct sched *);
/* After sched_next() gave NULL with nothing in flight: the sequence that should be next
 * but gets no pages, which only a cache policy that keeps what it should give up can
 * cause. NULL = none. */
struct seq *sched_stuck(const struct sched *);
void sched_count(const struct sched *, struct sched_counts *);
/* For tests: holders of a page as the scheduler has them. */
const struct pages *sched_pages(const struct sched *);

#endif
