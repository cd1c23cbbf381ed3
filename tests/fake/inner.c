/* SPDX-License-Identifier: MIT */
/* The plugins underneath: opening them, filling their options, and hearing what they say. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static struct fake_host *host_of(const struct nvllm_host *h)
{
	return (struct fake_host *)(uintptr_t)h;
}

__attribute__((format(printf, 3, 4)))
static int inner_fail(const struct nvllm_host *h, int status, const char *fmt, ...)
{
	struct fake_host *f = host_of(h);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->said, sizeof(f->said), fmt, ap);
	va_end(ap);
	return f->real->fail(f->real, status, "%s", f->said);
}

__attribute__((format(printf, 3, 4)))
static void inner_log(const struct nvllm_host *h, int level, const char *fmt, ...)
{
	const struct nvllm_host *real = host_of(h)->real;
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	real->log(real, level, "%s", line);
}

static void *inner_alloc(const struct nvllm_host *h, size_t bytes)
{
	return host_of(h)->real->alloc(host_of(h)->real, bytes);
}

static const void *inner_get(const struct nvllm_host *h, const char *id)
{
	return host_of(h)->real->get(host_of(h)->real, id);
}

void inner_host(struct fake_host *f, const struct nvllm_host *real)
{
	*f = (struct fake_host){ .real = real, .pub = { .size = sizeof(f->pub), .abi = real->abi,
		.rank = real->rank, .world = real->world, .log = inner_log, .fail = inner_fail,
		.alloc = inner_alloc, .get = inner_get } };
}

/* Their vtables begin alike for the two kinds that have needs. */
static uint64_t need_of(const struct nvllm_component *c)
{
	if (c->kind == NVLLM_KIND_ATTENTION)
		return ((const struct nvllm_attention_vt *)c->vt)->need;
	return c->kind == NVLLM_KIND_SAMPLER ? ((const struct nvllm_sampler_vt *)c->vt)->need : 0;
}

const struct nvllm_component *inner_find(const struct nvllm_host *host, const char *path, int kind,
	uint64_t caps)
{
	void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* as the core: never closed */
	const struct nvllm_plugin *p = so ? dlsym(so, "nvllm_plugin") : NULL;

	if (!p || p->abi != NVLLM_ABI) {
		host->fail(host, NVLLM_ENOENT, "the fake device cannot use '%s': %s", path,
			p ? "it has another ABI" : dlerror());
		return NULL;
	}
	for (int i = 0; p->components[i]; i++)
		if ((int)p->components[i]->kind == kind && !(need_of(p->components[i]) & ~caps))
			return p->components[i];
	host->fail(host, NVLLM_ENOTSUP, "the fake device cannot use '%s': it has no component of "
		"kind %d that runs on the CPU device", path, kind);
	return NULL;
}

/* Only the types that plugins of this tree use. */
static int set_option(const struct nvllm_option *o, const char *text, char *conf)
{
	char *at = conf + o->offset, *end = NULL;
	int32_t i = 0;

	switch (o->type) {
	case NVLLM_OPT_INT:
	case NVLLM_OPT_SIZE:
		*(int64_t *)(void *)at = strtoll(text, &end, 10);
		break;
	case NVLLM_OPT_FLOAT: *(double *)(void *)at = strtod(text, &end); break;
	case NVLLM_OPT_STR: *(const char **)(void *)at = text; return 0;
	case NVLLM_OPT_BOOL: *(int32_t *)(void *)at = !strcmp(text, "true"); return 0;
	case NVLLM_OPT_ENUM:
		while (o->names[i] && strcmp(o->names[i], text))
			i++;
		*(int32_t *)(void *)at = i;
		return o->names[i] ? 0 : -1;
	default: return -1;
	}
	return end == text || *end ? -1 : 0;
}

int inner_conf(const struct nvllm_host *host, const struct nvllm_component *c,
	const char *const *words, void **out)
{
	*out = host->alloc(host, c->conf_size ? (size_t)c->conf_size : 1);
	if (!*out)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the options of %s", c->name);
	for (const struct nvllm_option *o = c->options; o && o->key; o++) {
		const char *text = o->def;

		for (const char *const *w = words; w && *w; w += 2)
			if (!strcmp(w[0], o->key))
				text = w[1];
		if (!text || set_option(o, text, *out))
			return host->fail(host, NVLLM_EINVAL,
				"the fake device cannot set '%s' of %s to "
				"'%s'",
				o->key, c->name, text ? text : "");
	}
	return NVLLM_OK;
}

struct nvllm_device *inner_device(const struct nvllm_host *host, const struct nvllm_device_ref *r)
{
	if (r->info->caps & FAKE_CAP)
		return r->dev;
	host->fail(host, NVLLM_ENOTSUP, "this component runs on the fake device only");
	return NULL;
}
