/* SPDX-License-Identifier: MIT */
/* The INI keys that are the core's own, with their defaults and bounds. Plugins bring
 * the others. */
#include <string.h>

#include "engine_int.h"

static const char *const levels[] = { "error", "warn", "info", "debug", NULL };
static const char *const kv_types[] = { "auto", "f32", "f16", "bf16", "fp8", NULL };
static const char *const orders[] = { "arrival", "longest-first", NULL };
static const char *const captures[] = { "off", "lazy", "startup", NULL };

static const struct nvllm_option core_keys[] = {
	NVLLM_STR(core_settings, plugin_dirs, "plugin_dirs", "", "folders to look in for plugins, parted by ':'; "
		"before NVLLM_PLUGIN_PATH and the installed ones"),
	NVLLM_ENUM(core_settings, log_level, "log_level", "info", levels, "least important lines to log"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_option engine_keys[] = {
	NVLLM_INT(engine_settings, tp, "tp", "1", 1, 1024, "ranks of the tensor-parallel group"),
	NVLLM_INT(engine_settings, max_seqs, "max_seqs", "0", 0, 65536, "most sequences in one step; 0 = 64 on the cpu, 256 on a "
		"device of its own memory"),
	NVLLM_INT(engine_settings, max_tokens, "max_tokens", "0", 0, 1 << 20, "token budget of a step: prompts are "
		"cut into chunks of at most this; 0 = 256 on the cpu, 8192 on a device of its own memory"),
	NVLLM_INT(engine_settings, max_model_len, "max_model_len", "0", 0, 1 << 30, "longest prompt and answer together, "
		"tokens; 0 = the model's own, or what fits"),
	NVLLM_ENUM(engine_settings, kv_dtype, "kv_dtype", "auto", kv_types, "type of K and V in the cache; auto = "
		"as the device likes it: f16 on the cpu"),
	NVLLM_STR(engine_settings, memory, "memory", "auto", "for weights, KV and workspace together: a share of what is "
		"free (0.5), or a size (4G); auto = 0.9 of a device's own memory, 0.25 of the host's"),
	NVLLM_ENUM(engine_settings, order, "order", "arrival", orders, "who runs first, after a request's priority: who came "
		"first, or whose prompt and longest answer are longest"),
	NVLLM_INT(engine_settings, run_ahead, "run_ahead", "2", 0, 8, "steps queued before their tokens are known, on a "
		"device that can; 0 = none"),
	NVLLM_INT(engine_settings, seed, "seed", "-1", -1, 9.3e18, "for requests without a seed of their own; -1 = a new one each start"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_option model_keys[] = {
	NVLLM_STR(model_settings, plugin, "plugin", "auto", "architecture; auto = as the checkpoint says"),
	NVLLM_STR(model_settings, path, "path", "", "checkpoint: a GGUF file or a folder"),
	NVLLM_STR(model_settings, name, "name", "", "name for people and APIs; empty = the checkpoint's own"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_option device_keys[] = {
	NVLLM_STR(device_settings, plugin, "plugin", "auto", "compute backend; auto = cuda where there is one, else cpu"),
	NVLLM_INT(device_settings, ordinal, "ordinal", "0", 0, 1024, "which device of that kind"),
	NVLLM_OPTIONS_END,
};

#define WORD(def, help) { NVLLM_STR(word_settings, plugin, "plugin", def, help), NVLLM_OPTIONS_END }
static const struct nvllm_option loader_keys[] = WORD("auto", "checkpoint format; auto = by the file");
static const struct nvllm_option tokenizer_keys[] = WORD("auto", "tokenizer; auto = by the checkpoint");
static const struct nvllm_option chat_keys[] = WORD("auto", "chat template; auto = as the checkpoint needs");
static const struct nvllm_option attention_keys[] = WORD("paged", "attention backend: paged, naive");
static const struct nvllm_option cache_keys[] = WORD("hash", "prefix cache policy: hash, radix, none");
static const struct nvllm_option comm_keys[] = WORD("auto", "collectives between ranks; auto = one that the device can use; not used at tp = 1");
static const struct nvllm_option logits_keys[] = WORD("standard", "processors of logits, run in this order, parted by spaces; none = none");
#undef WORD

static const struct nvllm_option sampler_keys[] = {
	NVLLM_STR(sampler_settings, plugin, "plugin", "topk_topp", "sampler: topk_topp, greedy"),
	NVLLM_STR(sampler_settings, temperature, "temperature", "auto", "default of a request; 0 = greedy; auto = the "
		"checkpoint's, else 1"),
	NVLLM_STR(sampler_settings, top_p, "top_p", "auto", "default of a request; auto = the checkpoint's, else 1"),
	NVLLM_STR(sampler_settings, min_p, "min_p", "auto", "default of a request; auto = the checkpoint's, else 0"),
	NVLLM_STR(sampler_settings, typical_p, "typical_p", "auto", "default of a request; auto = the checkpoint's, else 1"),
	NVLLM_STR(sampler_settings, repetition_penalty, "repetition_penalty", "auto", "default of a request; auto = the "
		"checkpoint's, else 1"),
	NVLLM_STR(sampler_settings, presence_penalty, "presence_penalty", "auto", "default of a request; auto = 0"),
	NVLLM_STR(sampler_settings, frequency_penalty, "frequency_penalty", "auto", "default of a request; auto = 0"),
	NVLLM_STR(sampler_settings, top_k, "top_k", "auto", "default of a request; auto = the checkpoint's, else 0 = all"),
	NVLLM_OPTIONS_END,
};

static const struct nvllm_option graph_keys[] = {
	NVLLM_ENUM(graph_settings, capture, "capture", "lazy", captures, "when device graphs are recorded; no matter on a device without"),
	NVLLM_INTS(graph_settings, sizes, "sizes", "1 2 4 8 16 24 32 40 48 56 64 80 96 112 128 144 160 176 192 208 224 240 256 "
		"288 320 352 384 416 448 480 512", 1, 65536, "batch sizes to record; a step is padded to the next one"),
	NVLLM_INT(graph_settings, mixed, "mixed", "1024", 0, 1 << 20, "largest step with chunks of prompts that is recorded, "
		"rows; 0 = only steps without"),
	NVLLM_OPTIONS_END,
};

static const struct { const char *section; const struct nvllm_option *o; uint64_t size; } table[] = {
	{ "core", core_keys, sizeof(struct core_settings) },
	{ "engine", engine_keys, sizeof(struct engine_settings) },
	{ "device", device_keys, sizeof(struct device_settings) },
	{ "loader", loader_keys, sizeof(struct word_settings) },
	{ "model", model_keys, sizeof(struct model_settings) },
	{ "tokenizer", tokenizer_keys, sizeof(struct word_settings) },
	{ "chat", chat_keys, sizeof(struct word_settings) },
	{ "attention", attention_keys, sizeof(struct word_settings) },
	{ "cache", cache_keys, sizeof(struct word_settings) },
	{ "logits", logits_keys, sizeof(struct word_settings) },
	{ "sampler", sampler_keys, sizeof(struct sampler_settings) },
	{ "graphs", graph_keys, sizeof(struct graph_settings) },
	{ "comm", comm_keys, sizeof(struct word_settings) },
};

static const char *const names[] = { "core", "engine", "device", "loader", "model", "tokenizer", "chat",
	"attention", "cache", "logits", "sampler", "graphs", "comm", NULL };

const struct nvllm_option *core_options(const char *section, uint64_t *size)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (!strcmp(table[i].section, section)) {
			if (size)
				*size = table[i].size;
			return table[i].o;
		}
	return NULL;
}

const char *const *core_sections(void) { return names; }

int section_fill(struct conf *c, const char *section, void *core, const struct nvllm_component *comp, void **pconf)
{
	uint64_t size = 0;
	struct conf_table t[2] = { { .who = section } };

	t[0].options = core_options(section, &size);
	t[0].conf = core;
	t[0].conf_size = size;
	if (!comp)
		return conf_fill(c, section, t, 1);
	*pconf = pool_alloc(conf_pool(c), comp->conf_size + 1);
	t[1] = (struct conf_table){ pool_printf(conf_pool(c), "%s.%s", section, comp->name), comp->options, *pconf,
		comp->conf_size };
	return conf_fill(c, section, t, 2);
}

int core_setup(struct conf *c, const char *env_path, struct plugins **out)
{
	struct core_settings s;
	struct conf_table t = { "core", core_keys, &s, sizeof(s) };
	const char *dirs[64];
	char *text, *save = NULL;
	int n = 0, rc = conf_fill(c, "core", &t, 1);

	if (rc)
		return rc;
	log_level_set(s.log_level);
	text = pool_strdup(conf_pool(c), s.plugin_dirs);
	if (!text)
		return fail(NVLLM_ENOMEM, "no memory");
	for (char *d = strtok_r(text, ":", &save); d && n < 63; d = strtok_r(NULL, ":", &save))
		dirs[n++] = d;
	dirs[n] = NULL;
	*out = plugins_create(dirs, env_path);
	return *out ? NVLLM_OK : fail(NVLLM_ENOMEM, "no memory");
}
