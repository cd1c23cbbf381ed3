/* SPDX-License-Identifier: MIT */
/* bpe_added.c - decides where added tokens ("<|im_end|>") stand in a text: leftmost first,
 * and of those that begin at one place the longest.
 *
 * An automaton (Aho and Corasick: "Efficient string matching", 1975) of the tokens written
 * backwards reads the text backwards. What it has then read at a place is the longest
 * beginning of tokens there, so the longest token that begins at that place is a property of
 * the state, and one pass finds them all, whatever the tokens are. */
#include "bpe.h"

#include <stdlib.h>

struct bpe_added_node {
	int32_t child, sibling;  /* -1 = none; node 0 is the root */
	int32_t fail;            /* the longest proper suffix of this node that is a node too */
	int32_t best;            /* the longest token that ends (so: begins) here, -1 = none */
	unsigned char byte;      /* from its parent to here */
};

static int32_t child_of(const struct bpe_added *a, int32_t node, unsigned char byte)
{
	int32_t c = a->nodes[node].child;

	while (c >= 0 && a->nodes[c].byte != byte)
		c = a->nodes[c].sibling;
	return c;
}

static int32_t step(const struct bpe_added *a, int32_t node, unsigned char byte)
{
	for (; node != 0; node = a->nodes[node].fail) {
		int32_t c = child_of(a, node, byte);

		if (c >= 0)
			return c;
	}
	return a->root[byte];
}

static void insert(struct bpe_added *a, const char *s, int64_t len, int32_t id)
{
	int32_t node = 0;

	while (len > 0) {
		unsigned char byte = (unsigned char)s[--len];
		int32_t c = child_of(a, node, byte);

		if (c < 0) {
			c = a->n_nodes++;
			a->nodes[c] = (struct bpe_added_node){
				.child = -1, .best = -1, .byte = byte,
				.sibling = a->nodes[node].child,
			};
			a->nodes[node].child = c;
			if (node == 0)
				a->root[byte] = c;
		}
		node = c;
	}
	if (a->nodes[node].best < 0) /* of equal texts the lowest id */
		a->nodes[node].best = id;
}

/* Breadth first, because a node's fail is nearer to the root. */
static void link_fails(struct bpe_added *a, int32_t *queue)
{
	int32_t head = 0, tail = 0;

	queue[tail++] = 0;
	while (head < tail) {
		int32_t node = queue[head++];

		for (int32_t c = a->nodes[node].child; c >= 0; c = a->nodes[c].sibling) {
			struct bpe_added_node *n = &a->nodes[c];

			n->fail = node ? step(a, a->nodes[node].fail, n->byte) : 0;
			if (n->best < 0)
				n->best = a->nodes[n->fail].best;
			queue[tail++] = c;
		}
	}
}

static bool is_matched(const struct bpe_vocab *v, int32_t id)
{
	return v->types[id] == BPE_USER || bpe_is_special(v, id);
}

int bpe_added_init(const struct nvllm_host *host, const struct bpe_vocab *v, struct bpe_added *a)
{
	int64_t n = 1;
	int32_t *queue;

	*a = (struct bpe_added){ 0 };
	for (int32_t id = 0; id < v->n; id++)
		n += is_matched(v, id) ? v->start[id + 1] - v->start[id] : 0;
	if (n > INT32_MAX)
		return host->fail(host, NVLLM_EINVAL,
			"the vocabulary's special tokens have %lld bytes; %d are possible",
			(long long)n, INT32_MAX);
	a->nodes = host->alloc(host, (size_t)n * sizeof(*a->nodes));
	queue = malloc((size_t)n * sizeof(*queue));
	if (!a->nodes || !queue) {
		free(queue);
		return host->fail(
			host, NVLLM_ENOMEM, "no memory for the vocabulary's special tokens");
	}
	a->nodes[a->n_nodes++] = (struct bpe_added_node){ .child = -1, .sibling = -1, .best = -1 };
	for (int32_t id = 0; id < v->n; id++)
		if (is_matched(v, id) && v->start[id + 1] > v->start[id])
			insert(a, v->bytes + v->start[id], v->start[id + 1] - v->start[id], id);
	link_fails(a, queue);
	free(queue);
	return NVLLM_OK;
}

static int matches_push(struct bpe_matches *m, int64_t at, int32_t id)
{
	if (m->n == m->room) {
		int64_t room = m->room ? m->room * 2 : 64;
		struct bpe_match *v = realloc(m->v, (size_t)room * sizeof(*v));

		if (!v)
			return NVLLM_ENOMEM;
		m->v = v;
		m->room = room;
	}
	m->v[m->n++] = (struct bpe_match){ .at = at, .id = id };
	return NVLLM_OK;
}

int bpe_added_find(
	const struct bpe_added *a, const char *text, int64_t len, struct bpe_matches *out)
{
	int32_t node = 0;

	for (int64_t i = len - 1; i >= 0; i--) {
		node = step(a, node, (unsigned char)text[i]);
		if (a->nodes[node].best >= 0 && matches_push(out, i, a->nodes[node].best) < 0)
			return NVLLM_ENOMEM;
	}
	return NVLLM_OK;
}
