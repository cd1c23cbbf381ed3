/* SPDX-License-Identifier: MIT */
/* spm_trie.c - decides how a set of texts is kept so that all of them that begin at one place
 * of another text are found in one walk. Children of a node lie together, in the order in
 * which a walk by levels meets them: memory is a few bytes for each byte of the texts,
 * whatever they are. */
#include "spm.h"

#include <stdlib.h>

struct entry {
	const char *s;
	uint32_t len;
	int32_t value;
	int64_t order;
};

/* The texts below a node: sorted entries [lo, hi), all alike in the first bytes. */
struct range {
	int64_t lo, hi;
	uint32_t depth;
};

static int by_text(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);

	if (c == 0)
		c = x->len < y->len ? -1 : x->len > y->len;
	return c ? c : x->order < y->order ? -1 : 1;
}

/* How many nodes the sorted texts need: a new one for each byte after what a text shares
 * with the one before. */
static int64_t count_nodes(const struct entry *e, int64_t n)
{
	int64_t nodes = 1;

	for (int64_t i = 0; i < n; i++) {
		uint32_t same = 0;

		while (i > 0 && same < e[i].len && same < e[i - 1].len && e[i].s[same] == e[i - 1].s[same])
			same++;
		nodes += e[i].len - same;
	}
	return nodes;
}

/* Gives a node its value and its children. */
static void grow(struct spm_trie *t, const struct entry *e, struct range *ranges, uint32_t node)
{
	struct range r = ranges[node];
	int64_t i = r.lo;

	for (; i < r.hi && e[i].len == r.depth; i++)
		if (t->nodes[node].value < 0)
			t->nodes[node].value = e[i].value;
	t->nodes[node].child = t->n_nodes;
	while (i < r.hi) {
		char byte = e[i].s[r.depth];
		int64_t lo = i;

		while (i < r.hi && e[i].s[r.depth] == byte)
			i++;
		ranges[t->n_nodes] = (struct range){ lo, i, r.depth + 1 };
		t->labels[t->n_nodes] = (unsigned char)byte;
		t->nodes[t->n_nodes].value = -1;
		t->n_nodes++;
		t->nodes[node].n++;
	}
}

static int build(const struct nvllm_host *host, struct spm_trie *t, struct entry *e, int64_t n)
{
	struct range *ranges;
	int64_t nodes;

	qsort(e, (size_t)n, sizeof(*e), by_text);
	nodes = count_nodes(e, n);
	if (nodes > INT32_MAX)
		return host->fail(host, NVLLM_EINVAL, "the vocabulary's texts are too long together");
	t->nodes = host->alloc(host, (size_t)nodes * sizeof(*t->nodes));
	t->labels = host->alloc(host, (size_t)nodes);
	ranges = malloc((size_t)nodes * sizeof(*ranges));
	if (!t->nodes || !t->labels || !ranges) {
		free(ranges);
		return host->fail(host, NVLLM_ENOMEM, "no memory for the vocabulary's texts");
	}
	ranges[0] = (struct range){ 0, n, 0 };
	t->nodes[0].value = -1;
	t->n_nodes = 1;
	for (uint32_t node = 0; node < t->n_nodes; node++)
		grow(t, e, ranges, node);
	for (uint32_t i = 0; i < t->nodes[0].n; i++)
		t->root[t->labels[t->nodes[0].child + i]] = (int32_t)(t->nodes[0].child + i);
	free(ranges);
	return NVLLM_OK;
}

int spm_trie_init(const struct nvllm_host *host, struct spm_trie *t, const struct nvllm_str *texts,
	const int32_t *values, int64_t n)
{
	struct entry *e = malloc(((size_t)n + 1) * sizeof(*e));
	int rc;

	*t = (struct spm_trie){ 0 };
	memset(t->root, 0xFF, sizeof(t->root));
	if (!e)
		return host->fail(host, NVLLM_ENOMEM, "no memory for a vocabulary of %lld texts", (long long)n);
	for (int64_t i = 0; i < n; i++)
		e[i] = (struct entry){ texts[i].s, (uint32_t)texts[i].len, values[i], i };
	rc = build(host, t, e, n);
	free(e);
	return rc;
}

size_t spm_trie_longest(const struct spm_trie *t, const char *s, size_t len, int32_t *value)
{
	int32_t node = 0;
	size_t best = 0;

	for (size_t i = 0; i < len; i++) {
		node = spm_trie_step(t, node, (unsigned char)s[i]);
		if (node < 0)
			break;
		if (t->nodes[node].value >= 0) {
			best = i + 1;
			if (value)
				*value = t->nodes[node].value;
		}
	}
	return best;
}
