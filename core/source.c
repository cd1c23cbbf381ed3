/* SPDX-License-Identifier: MIT */
/* Which loader and which tokenizer read a checkpoint: those named, else those that are
 * surest when they probe it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine_int.h"

struct pick { const struct source *s; const struct nvllm_component *best; int sure; };

static int probe_loader(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct pick *k = arg;
	int sure = c ? ((const struct nvllm_loader_vt *)c->vt)->probe(k->s->path) : 0;

	if (sure > k->sure)
		k->sure = sure, k->best = c;
	return 0;
}

static int probe_tokenizer(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p,
	const char *file, const char *why)
{
	struct pick *k = arg;
	int sure = c ? ((const struct nvllm_tokenizer_vt *)c->vt)->probe(
		k->s->ref.loader ? &k->s->ref : NULL, k->s->path) : 0;

	if (sure > k->sure)
		k->sure = sure, k->best = c;
	return 0;
}

/* The [section] plugin named in the INI file, or the surest; fills its options. */
static int choose(struct plugins *pl, struct conf *c, const char *section, int kind, const struct source *s,
	const struct nvllm_component **comp, void **pconf)
{
	const char *word = c ? conf_get(c, section, "plugin", NULL) : NULL;
	struct pick k = { .s = s };
	struct word_settings core;

	*pconf = NULL;
	if (word && strcmp(word, "auto")) {
		*comp = plugin_find(pl, kind, word, ~0ull, NULL);
		if (!*comp)
			return NVLLM_ENOENT;
	} else {
		plugins_each(pl, kind, kind == NVLLM_KIND_LOADER ? probe_loader : probe_tokenizer, &k);
		*comp = k.best;
	}
	return c && *comp ? section_fill(c, section, &core, *comp, pconf) : NVLLM_OK;
}

static int no_file(const char *path)
{
	return fail(NVLLM_ENOENT, "%s: %s. [model] path names a GGUF file or a checkpoint folder; `scripts/run` fetches "
		"a small model to models/", path, strerror(errno));
}

static int no_loader(const char *path)
{
	return fail(NVLLM_EINVAL, "%s: no loader plugin knows this format; `nvllm plugins` lists the loaders there are", path);
}

static int open_loader(struct plugins *pl, struct conf *c, struct source *s, bool need)
{
	void *pconf;
	struct stat st;
	const struct nvllm_loader_vt *vt;
	int rc;

	if (stat(s->path, &st))
		return no_file(s->path);
	rc = choose(pl, c, "loader", NVLLM_KIND_LOADER, s, &s->loader_comp, &pconf);
	if (rc)
		return rc;
	if (!s->loader_comp)
		return need ? no_loader(s->path) : NVLLM_OK;
	vt = s->loader_comp->vt;
	s->loader_host = host_for(s->loader_comp, 0, 1);
	if (!s->loader_host)
		return fail(NVLLM_ENOMEM, "no memory");
	s->ref.vt = vt;
	return vt->open(s->loader_host, s->path, pconf, &s->ref.loader);
}

static int open_tokenizer(struct plugins *pl, struct conf *c, struct source *s)
{
	void *pconf;
	int rc = choose(pl, c, "tokenizer", NVLLM_KIND_TOKENIZER, s, &s->tok_comp, &pconf);

	if (rc)
		return rc;
	if (!s->tok_comp)
		return fail(NVLLM_ENOTSUP, "%s: no tokenizer plugin can read what it holds; choose one with [tokenizer] "
			"plugin, `nvllm plugins` lists them", s->path);
	s->tok_vt = s->tok_comp->vt;
	s->tok_host = host_for(s->tok_comp, 0, 1);
	if (!s->tok_host)
		return fail(NVLLM_ENOMEM, "no memory");
	rc = s->tok_vt->open(s->tok_host, s->ref.loader ? &s->ref : NULL, s->path, pconf, &s->tok);
	s->tok_info = (struct nvllm_tokenizer_info){ .size = sizeof(s->tok_info) };
	if (!rc)
		rc = s->tok_vt->info(s->tok, &s->tok_info);
	if (!rc && s->tok_info.max_piece < 1)
		return fail(NVLLM_EINVAL, "%s: the tokenizer '%s' says its longest piece has %d bytes", s->path,
			s->tok_comp->name, s->tok_info.max_piece);
	return rc;
}

int source_open(struct plugins *pl, struct conf *c, const char *path, bool need_loader, struct source **out)
{
	struct source *s = calloc(1, sizeof(*s));
	int rc;

	*out = NULL;
	if (!s)
		return fail(NVLLM_ENOMEM, "no memory");
	s->path = path;
	s->ref.size = sizeof(s->ref);
	rc = open_loader(pl, c, s, need_loader);
	if (!rc)
		rc = open_tokenizer(pl, c, s);
	if (rc)
		source_close(s);
	else
		*out = s;
	return rc;
}

int source_open_chat(struct plugins *pl, struct conf *c, const char *path, struct source **out)
{
	struct source *s = calloc(1, sizeof(*s));
	struct stat st;
	int rc;

	*out = NULL;
	if (!s)
		return fail(NVLLM_ENOMEM, "no memory");
	s->path = path;
	s->ref.size = sizeof(s->ref);
	rc = open_loader(pl, c, s, false);
	if (rc && !stat(path, &st) && S_ISDIR(st.st_mode))
		rc = NVLLM_OK; /* a folder may hold a template and no weights */
	if (rc)
		source_close(s);
	else
		*out = s;
	return rc;
}

void source_close(struct source *s)
{
	if (!s)
		return;
	if (s->tok)
		s->tok_vt->close(s->tok);
	if (s->ref.loader)
		s->ref.vt->close(s->ref.loader);
	host_destroy(s->tok_host);
	host_destroy(s->loader_host);
	free(s);
}
