/* SPDX-License-Identifier: MIT */
/* Which chat plugin renders a checkpoint's prompts: the one named, else the one that is
 * surest when it probes; none where nobody knows a template. */
#include <string.h>

#include "engine_int.h"

struct pick { const struct nvllm_loader_ref *loader; const char *path; const struct nvllm_component *best; int sure; };

static int probe(void *arg, const struct nvllm_component *c, const struct nvllm_plugin *p, const char *file,
	const char *why)
{
	struct pick *k = arg;
	const struct nvllm_chat_vt *vt = c ? c->vt : NULL;
	int sure = vt && vt->probe ? vt->probe(k->loader, k->path) : 0;

	(void)p, (void)file, (void)why;
	if (sure > k->sure)
		k->sure = sure, k->best = c;
	return 0;
}

int chat_open(struct plugins *pl, struct conf *c, const struct nvllm_loader_ref *loader, const char *path,
	struct chat_ref *out)
{
	const char *word = c ? conf_get(c, "chat", "plugin", NULL) : NULL;
	struct pick k = { .loader = loader && loader->loader ? loader : NULL, .path = path };
	struct word_settings core;
	void *pconf = NULL;
	int rc = NVLLM_OK;

	*out = (struct chat_ref){ .comp = NULL };
	if (word && strcmp(word, "auto")) {
		k.best = plugin_find(pl, NVLLM_KIND_CHAT, word, ~0ull, NULL);
		if (!k.best)
			return NVLLM_ENOENT;
	} else {
		plugins_each(pl, NVLLM_KIND_CHAT, probe, &k);
	}
	if (c)
		rc = section_fill(c, "chat", &core, k.best, &pconf);
	if (rc || !k.best)
		return rc;
	out->comp = k.best;
	out->vt = k.best->vt;
	out->host = host_for(k.best, 0, 1);
	if (!out->host)
		return out_of_memory();
	return out->vt->open(out->host, k.loader, path, pconf, &out->chat);
}

void chat_close(struct chat_ref *r)
{
	if (r->chat && NVLLM_HAS(r->vt, close) && r->vt->close)
		r->vt->close(r->chat);
	host_destroy(r->host);
	*r = (struct chat_ref){ .comp = NULL };
}
