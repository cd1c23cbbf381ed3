/* SPDX-License-Identifier: MIT */
/* spm_unigram.c - decides which pieces a text becomes by the best sum of their scores: the
 * path of Viterbi, over all pieces that begin at each character (Model::EncodeOptimized in
 * src/unigram_model.cc of google/sentencepiece; the tokenizers library follows it, but adds in
 * double precision). Of equal sums the path found first stays. */
#include "spm.h"

static void offer(const struct spm_unigram *u, struct spm_path *to, double score, uint32_t from,
	int32_t id)
{
	if (u->single)
		score = (double)(float)score;
	if (to->from != UINT32_MAX && !(score > to->score))
		return;
	to->score = score;
	to->from = from;
	to->id = id;
}

/* All pieces that begin at s[at], and the unknown one where no piece is that character. */
static void extend(const struct spm_unigram *u, const char *s, size_t len, size_t at, size_t one,
	struct spm_path *path)
{
	double here = path[at].score;
	bool known = false;
	int32_t node = 0;

	for (size_t i = at; i < len; i++) {
		int32_t id;
		double score;

		node = spm_trie_step(&u->trie, node, (unsigned char)s[i]);
		if (node < 0)
			break;
		id = u->trie.nodes[node].value;
		if (id < 0)
			continue;
		score = u->scores[id];
		if (u->lengthy && u->lengthy[id])
			score = (double)((float)(i + 1 - at) * (float)u->max_score) - 0.1;
		offer(u, &path[i + 1], score + here, (uint32_t)at, id);
		known |= i + 1 - at == one;
	}
	if (!known)
		offer(u, &path[at + one], u->unk_score + here, (uint32_t)at, u->unk);
}

int spm_unigram_walk(const struct spm_unigram *u, const char *s, size_t len, struct spm_path *path,
	spm_piece_fn *fn, void *arg)
{
	int rc = NVLLM_OK;

	for (size_t i = 0; i <= len; i++)
		path[i] = (struct spm_path){ .id = -1, .from = UINT32_MAX };
	for (size_t at = 0, one; at < len; at += one) {
		one = spm_char_len(s + at, len - at);
		extend(u, s, len, at, one, path);
	}
	/* A path ends at every character's end, so there is one to the end of the text. */
	for (size_t end = len; end > 0; end = path[end].from)
		path[path[end].from].to = (uint32_t)end;
	for (size_t at = 0; at < len && rc >= 0; at = path[at].to)
		rc = fn(arg, path[path[at].to].id, s + at, path[at].to - at);
	return rc;
}
