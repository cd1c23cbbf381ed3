/* SPDX-License-Identifier: MIT */
/* What libnvllm.so exports: the embedding API, and nothing else. */
#include <stdlib.h>
#include <string.h>

#include "engine_int.h"

#define API NVLLM_EXPORT

API int nvllm_open(const struct nvllm_open *o, struct nvllm_engine **out, char *err, size_t err_len)
{
	struct conf *c = NULL;
	struct plugins *pl = NULL;
	int rc;

	*out = NULL;
	fail_clear();
	rc = conf_open(o->config, &c);
	for (const char *const *s = o->sets; !rc && s && *s; s++)
		rc = conf_set(c, *s, "nvllm_open");
	if (!rc)
		rc = core_setup(c, conf_env("NVLLM_PLUGIN_PATH"), &pl);
	if (!rc)
		rc = engine_open(c, pl, 0, out);
	if (!rc)
		return NVLLM_OK;
	if (err && err_len)
		snprintf(err, err_len, "%s", fail_text());
	plugins_destroy(pl);
	conf_close(c);
	return rc;
}

API void nvllm_close(struct nvllm_engine *e)
{
	struct conf *c = e ? e->conf : NULL;
	struct plugins *pl = e ? e->plugins : NULL;

	engine_close(e);
	plugins_destroy(pl);
	conf_close(c);
}

API const struct nvllm_engine_vt *nvllm_engine_functions(void) { return engine_functions(); }

API int nvllm_submit(struct nvllm_engine *e, const struct nvllm_request *r, uint64_t *id)
{
	return engine_functions()->submit(e, r, id);
}

API void nvllm_cancel(struct nvllm_engine *e, uint64_t id, int32_t choice) { engine_functions()->cancel(e, id, choice); }
API void nvllm_wait(struct nvllm_engine *e, uint64_t id) { engine_functions()->wait(e, id); }
API void nvllm_stats(struct nvllm_engine *e, struct nvllm_stats *s) { engine_functions()->stats(e, s); }
API const struct nvllm_info *nvllm_info(struct nvllm_engine *e) { return engine_functions()->info(e); }

API int64_t nvllm_encode(struct nvllm_engine *e, const char *text, int64_t len, uint32_t flags, int32_t *tokens,
	int64_t room)
{
	return engine_functions()->encode(e, text, len, flags, tokens, room);
}

API const char *nvllm_piece(struct nvllm_engine *e, int32_t token, uint32_t flags, int32_t *len)
{
	return engine_functions()->piece(e, token, flags, len);
}

API int64_t nvllm_render(struct nvllm_engine *e, const struct nvllm_chat_request *r, char *text, int64_t room)
{
	return engine_functions()->render(e, r, text, room);
}

API const char *nvllm_error(struct nvllm_engine *e) { return engine_functions()->error(e); }
