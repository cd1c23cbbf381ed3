/* SPDX-License-Identifier: MIT */
/* core/sched_int.h - the inside of the scheduler, which sched.c and prefix.c share. */
#ifndef NVLLM_SCHED_INT_H
#define NVLLM_SCHED_INT_H

#include "scheduler.h"

struct list { struct seq *head, *tail; int32_t n; };

struct sched {
	struct sched_limits lim;
	const struct nvllm_cache_vt *vt; /* NULL: no cache */
	struct nvllm_cache *cache;
	struct pages *pages;
	struct list waiting, running;  /* in the order of before() */
	bool *slot_used;               /* [max_seqs] */
	struct sched_step *step;       /* [run_ahead + 1] ring: steps in flight, and the one being made */
	int32_t oldest, in_flight;
	uint64_t epoch, arrivals;      /* newest step; newest sequence */
	int32_t *scratch;              /* [n_pages] */
	bool *cached;                  /* [n_pages] the cache policy holds it */
	bool made;                     /* the step in the making may have copies already */
	bool keeps;                    /* the policy kept something when it was last offered */
	struct seq *stuck;
	int32_t held;                  /* decode rows that sit this step out, in lockstep: their place is kept */
	uint64_t changes;              /* counts whatever may give a waiting sequence its pages */
	int64_t preempted;
};

static inline int32_t sched_pages_for(const struct sched *s, int64_t n_tokens)
{
	return (int32_t)((n_tokens + s->lim.page_tokens - 1) / s->lim.page_tokens);
}

/* The step that sched_next() is filling. */
static inline struct sched_step *sched_making(struct sched *s)
{
	return &s->step[(s->oldest + s->in_flight) % (s->lim.run_ahead + 1)];
}

/* ---- prefix.c: pages of sequences, and what they share with the cache and each other ---- */
/* One holder of each page less. */
void prefix_drop(struct sched *, const int32_t *page, int32_t n);
/* Leaves q nothing but its tokens: all its pages go. */
void prefix_strip(struct sched *, struct seq *q);
/* Pages the cache policy could give up. */
int32_t prefix_evictable(const struct sched *);
/* Makes n pages free at the cost of cached ones; false if that is not enough, or not yet. */
bool prefix_evict(struct sched *, int32_t n);
/* Does somebody beside q hold its page i? */
bool prefix_shared(const struct sched *, const struct seq *q, int32_t i);
/* Page i of q becomes its own: copied before the step's rows. There is a free page. */
void prefix_copy(struct sched *, struct seq *q, int32_t i);
/* Pins what the cache holds of q's tokens, at most so many pages, and lists it in q->pages. */
int32_t prefix_match(struct sched *, struct seq *q, int32_t most);
/* Does a running sequence compute more of q's prefix than the `hit` pages the cache has?
 * Then q waits for it. */
bool prefix_wait(struct sched *, struct seq *q, int32_t hit);
/* Offers q's full pages whose tokens are known to the cache policy. */
void prefix_offer(struct sched *, struct seq *q);
/* q's prompt is computed: its waiting siblings need only the last row of it. */
void prefix_share(struct sched *, const struct seq *q);

#endif
