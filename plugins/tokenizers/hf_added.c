/* SPDX-License-Identifier: MIT */
/* hf_added.c - decides where added tokens stand in a text: leftmost first, of those that begin at
 * one place the longest, then what lstrip, rstrip and single_word make of each.
 *
 * An automaton (Aho and Corasick: "Efficient string matching", 1975) of the tokens written
 * backwards reads the text backwards. What it has then read at a place is the longest
 * beginning of tokens there, so the longest token that begins at that place is a property of
 * the state, and one pass finds them all, whatever the tokens are. */
#include "hf.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* ---- the list ---- */

static struct hf_slot *added_slot(const struct hf *hf, const char *s, size_t len, uint32_t hash)
{
	uint32_t i = hash & hf->added_mask;

	for (; hf->added_slots[i].id >= 0; i = (i + 1) & hf->added_mask) {
		const struct hf_added *a = &hf->added[hf->added_slots[i].id];

		if (hf->added_slots[i].hash == hash && (size_t)a->len == len &&
			!memcmp(a->text, s, len))
			break;
	}
	return &hf->added_slots[i];
}

/* Room for one more, in the list and in the table of texts. */
static int added_grow(struct hf *hf)
{
	int32_t room = hf->added_room ? hf->added_room * 2 : 64;
	struct hf_added *more;
	struct hf_slot *slots;

	if (hf->n_added < hf->added_room)
		return NVLLM_OK;
	more = realloc(hf->added, (size_t)room * sizeof(*more));
	if (more)
		hf->added = more;
	slots = malloc((size_t)room * 2 * sizeof(*slots));
	if (!more || !slots) {
		free(slots);
		return hf->host->fail(hf->host, NVLLM_ENOMEM,
			"no memory for %d added tokens", room);
	}
	free(hf->added_slots);
	memset(slots, 0xFF, (size_t)room * 2 * sizeof(*slots));
	hf->added_slots = slots;
	hf->added_mask = (uint32_t)room * 2 - 1;
	hf->added_room = room;
	for (int32_t i = 0; i < hf->n_added; i++) {
		const struct hf_added *a = &hf->added[i];
		uint32_t hash = hf_hash(a->text, (size_t)a->len);

		*added_slot(hf, a->text, (size_t)a->len, hash) =
			(struct hf_slot){ .hash = hash, .id = i };
	}
	return NVLLM_OK;
}

int32_t hf_added_index(const struct hf *hf, const char *s, size_t len)
{
	return hf->n_added ? added_slot(hf, s, len, hf_hash(s, len))->id : -1;
}

int hf_add(struct hf *hf, const char *s, size_t len, const struct hf_added *like)
{
	struct hf_added *a;
	uint8_t special;
	uint32_t hash = hf_hash(s, len);
	int32_t at = hf_added_index(hf, s, len);
	int32_t id = like->id >= 0 ? like->id : at >= 0 ? hf->added[at].id : hf_find(hf, s, len);

	if (len == 0)
		return NVLLM_OK;
	if (hf->n_added == 0)
		hf->next_id = hf->vocab.n_model;
	if (id < 0)
		id = hf->next_id++;
	if (id >= HF_MAX_IDS || len > INT32_MAX / 4)
		return hf_bad(hf, "added_tokens", "'%.*s' gets the id %d; ids are 0..%d",
			(int)(len < 60 ? len : 60), s, id, HF_MAX_IDS - 1);
	if (added_grow(hf) < 0 || hf_room_for(hf, id) < 0)
		return NVLLM_ENOMEM;
	special = like->special || (at >= 0 && hf->added[at].special); /* once, for ever */
	if (at < 0) {
		at = hf->n_added++;
		*added_slot(hf, s, len, hash) = (struct hf_slot){ .hash = hash, .id = at };
		hf->added[at].text = NULL;
	}
	a = &hf->added[at];
	if (!a->text || a->len != (int32_t)len)
		s = hf_copy(hf, s, len);
	else
		s = a->text;
	*a = *like;
	a->text = a->form = s;
	a->len = a->form_len = (int32_t)len;
	a->id = id;
	a->special = special;
	if (!hf->vocab.texts[id].s)
		hf->vocab.texts[id] = (struct hf_text){ .s = s, .len = a->len };
	return s ? NVLLM_OK : NVLLM_ENOMEM;
}

/* ---- the automaton ---- */

struct hf_node {
	int32_t child, sibling;  /* -1 = none; node 0 is the root */
	int32_t fail;            /* the longest proper suffix of this node that is a node too */
	int32_t best;            /* the longest token that ends (so: begins) here, -1 = none */
	unsigned char byte;      /* from its parent to here */
};

static int32_t child_of(const struct hf_finder *f, int32_t node, unsigned char byte)
{
	int32_t c = f->nodes[node].child;

	while (c >= 0 && f->nodes[c].byte != byte)
		c = f->nodes[c].sibling;
	return c;
}

static int32_t step(const struct hf_finder *f, int32_t node, unsigned char byte)
{
	for (; node != 0; node = f->nodes[node].fail) {
		int32_t c = child_of(f, node, byte);

		if (c >= 0)
			return c;
	}
	return f->root[byte];
}

static void insert(struct hf_finder *f, const char *s, int64_t len, int32_t token)
{
	int32_t node = 0;

	while (len > 0) {
		unsigned char byte = (unsigned char)s[--len];
		int32_t c = child_of(f, node, byte);

		if (c < 0) {
			c = f->n_nodes++;
			f->nodes[c] = (struct hf_node){
				.child = -1, .best = -1, .byte = byte,
				.sibling = f->nodes[node].child,
			};
			f->nodes[node].child = c;
			if (node == 0)
				f->root[byte] = c;
		}
		node = c;
	}
	if (f->nodes[node].best < 0) /* of equal texts the first */
		f->nodes[node].best = token;
}

/* Breadth first, because a node's fail is nearer to the root. */
static void link_fails(struct hf_finder *f, int32_t *queue)
{
	int32_t head = 0, tail = 0;

	queue[tail++] = 0;
	while (head < tail) {
		int32_t node = queue[head++];

		for (int32_t c = f->nodes[node].child; c >= 0; c = f->nodes[c].sibling) {
			struct hf_node *n = &f->nodes[c];

			n->fail = node ? step(f, f->nodes[node].fail, n->byte) : 0;
			if (n->best < 0)
				n->best = f->nodes[n->fail].best;
			queue[tail++] = c;
		}
	}
}

static int finder_init(struct hf *hf, struct hf_finder *f, bool normalized)
{
	int64_t n = 1;
	int32_t *queue;

	for (int32_t i = 0; i < hf->n_added; i++)
		n += hf->added[i].normalized == normalized ? hf->added[i].form_len : 0;
	if (n == 1)
		return NVLLM_OK;
	if (n > INT32_MAX)
		return hf_bad(hf, "added_tokens", "they have %lld bytes; %d are possible",
			(long long)n, INT32_MAX);
	f->nodes = hf_alloc(hf, (size_t)n, sizeof(*f->nodes));
	queue = malloc((size_t)n * sizeof(*queue));
	if (!f->nodes || !queue) {
		free(queue);
		return hf->host->fail(hf->host, NVLLM_ENOMEM, "no memory for the added tokens");
	}
	f->nodes[f->n_nodes++] = (struct hf_node){ .child = -1, .sibling = -1, .best = -1 };
	for (int32_t i = 0; i < hf->n_added; i++)
		if (hf->added[i].normalized == normalized && hf->added[i].form_len > 0)
			insert(f, hf->added[i].form, hf->added[i].form_len, i);
	link_fails(f, queue);
	free(queue);
	return NVLLM_OK;
}

/* A normalised token is looked for in normalised text, so its own is what counts. */
static int forms_init(struct hf *hf)
{
	struct hf_call *call = hf_call_create(hf);
	int rc = call ? NVLLM_OK : NVLLM_ENOMEM;

	for (int32_t i = 0; i < hf->n_added && rc >= 0; i++) {
		struct hf_added *a = &hf->added[i];
		const char *s;
		size_t len;

		if (!a->normalized)
			continue;
		rc = hf_normalize(hf, call, a->text, (size_t)a->len, &s, &len);
		if (rc >= 0 && (len != (size_t)a->len || memcmp(s, a->text, len))) {
			a->form = hf_copy(hf, s, len);
			a->form_len = (int32_t)len;
			rc = a->form ? NVLLM_OK : NVLLM_ENOMEM;
		}
	}
	hf_call_destroy(call);
	return rc;
}

int hf_added_end(struct hf *hf)
{
	int rc;

	if (hf->n_added == 0)
		return NVLLM_OK;
	if ((rc = forms_init(hf)) < 0 || (rc = finder_init(hf, &hf->raw, false)) < 0)
		return rc;
	return finder_init(hf, &hf->normal, true);
}

/* ---- finding ---- */

static int hits_push(struct hf_hits *h, int64_t at, int64_t end, int32_t token)
{
	if (h->n == h->room) {
		int64_t room = h->room ? h->room * 2 : 64;
		struct hf_hit *v = realloc(h->v, (size_t)room * sizeof(*v));

		if (!v)
			return NVLLM_ENOMEM;
		h->v = v;
		h->room = room;
	}
	h->v[h->n++] = (struct hf_hit){ .at = at, .end = end, .token = token };
	return NVLLM_OK;
}

/* Every place where a token begins, by falling place, with the longest one there. */
static int find_all(const struct hf_finder *f, const char *text, int64_t len, struct hf_hits *out)
{
	int32_t node = 0;

	for (int64_t i = len - 1; i >= 0; i--) {
		if (node == 0) {
			while (i >= 0 && !f->root[(unsigned char)text[i]])
				i--;
			if (i < 0)
				break;
		}
		node = step(f, node, (unsigned char)text[i]);
		if (f->nodes[node].best >= 0 && hits_push(out, i, i, f->nodes[node].best) < 0)
			return NVLLM_ENOMEM;
	}
	return NVLLM_OK;
}

static uint32_t char_before(const char *s, size_t at, size_t *from)
{
	uint32_t c = 0;

	*from = at;
	while (*from > 0 && at - *from < 4) {
		--*from;
		if (((unsigned char)s[*from] & 0xC0) != 0x80)
			break;
	}
	utf8_decode(s + *from, at - *from, &c);
	return c;
}

size_t hf_spaces_from(const char *s, size_t from, size_t most)
{
	size_t at;

	while (from > most && hf_is_space(char_before(s, from, &at)))
		from = at;
	return from > most ? from : most;
}

size_t hf_spaces_to(const char *s, size_t len, size_t at)
{
	uint32_t c = 0;
	size_t n;

	while (at < len && (n = utf8_decode(s + at, len - at, &c)) && hf_is_space(c))
		at += n;
	return at;
}

static bool is_alone(const char *s, size_t len, size_t from, size_t to)
{
	uint32_t c = 0;
	size_t at;

	if (from > 0 && hf_is_word(char_before(s, from, &at)))
		return false;
	return to == len || !utf8_decode(s + to, len - to, &c) || !hf_is_word(c);
}

/* What rises from the places found backwards: the list is read from its end and written to a
 * second one behind it. */
int hf_added_cut(const struct hf *hf, const struct hf_finder *f, const char *text, size_t len,
	bool plain, struct hf_hits *out)
{
	int64_t n_found, done = 0, seen = 0, space_end = 0;

	out->n = 0;
	if (f->nodes && find_all(f, text, (int64_t)len, out) < 0)
		return NVLLM_ENOMEM;
	n_found = out->n;
	for (int64_t i = n_found - 1; i >= 0; i--) {
		int32_t token = out->v[i].token;
		const struct hf_added *a = &hf->added[token];
		int64_t from = out->v[i].at, to = from + a->form_len;

		if (from < seen)
			continue;
		seen = to;
		if ((plain && a->special) || (a->single_word &&
			!is_alone(text, len, (size_t)from, (size_t)to)))
			continue;
		if (a->lstrip)
			from = (int64_t)hf_spaces_from(text, (size_t)from, (size_t)done);
		if (a->rstrip) {
			if (to > space_end)
				space_end = (int64_t)hf_spaces_to(text, len, (size_t)to);
			to = space_end > to ? space_end : to;
		}
		/* Of a token of spaces, rstrip of the one before may have left nothing. */
		if ((done < from && hits_push(out, done, from, -1) < 0) ||
		    (from < to && hits_push(out, from, to, token) < 0))
			return NVLLM_ENOMEM;
		done = to;
	}
	if (done < (int64_t)len && hits_push(out, done, (int64_t)len, -1) < 0)
		return NVLLM_ENOMEM;
	if (n_found)
		memmove(out->v, out->v + n_found, (size_t)(out->n - n_found) * sizeof(*out->v));
	out->n -= n_found;
	return NVLLM_OK;
}
