/* SPDX-License-Identifier: MIT */
/* host.c - decides what a plugin instance may ask of the core: words, memory that
 * dies with it, extensions by name. */
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct host {
	struct nvllm_host pub; /* first: what the plugin sees */
	struct pool *pool;
	char who[64];          /* "attention.paged" */
};

static struct host *host_of(const struct nvllm_host *pub)
{
	return (struct host *)(uintptr_t)pub;
}

__attribute__((format(printf, 3, 4)))
static void host_log(const struct nvllm_host *pub, int level, const char *fmt, ...)
{
	const struct host *h = host_of(pub);
	char who[96];
	va_list ap;

	if (pub->world > 1)
		snprintf(who, sizeof(who), "%s rank %d", h->who, pub->rank);
	else
		snprintf(who, sizeof(who), "%s", h->who);
	va_start(ap, fmt);
	log_vline(level, who, fmt, ap);
	va_end(ap);
}

__attribute__((format(printf, 3, 4)))
static int host_fail(const struct nvllm_host *pub, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	status = vfail(status, fmt, ap);
	va_end(ap);
	return status;
}

static void *host_alloc(const struct nvllm_host *pub, size_t bytes)
{
	struct host *h = host_of(pub);
	void *p;

	if (log_in_step()) {
		fail(NVLLM_EINVAL, "plugin '%s' called host->alloc in [step]: allocate in create()",
			h->who);
		log_line(NVLLM_LOG_ERROR, NULL, "%s", fail_text());
		return NULL;
	}
	p = pool_alloc(h->pool, bytes);
	if (!p)
		fail(NVLLM_ENOMEM, "%s: no memory for %zu bytes", h->who, bytes);
	return p;
}

/* No extension exists yet: the first one gets a table here. */
static const void *host_get(const struct nvllm_host *pub, const char *id)
{
	(void)pub, (void)id;
	return NULL;
}

struct nvllm_host *host_create(const char *who, int rank, int world)
{
	struct host *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->pool = pool_create();
	if (!h->pool) {
		free(h);
		return NULL;
	}
	snprintf(h->who, sizeof(h->who), "%s", who);
	h->pub = (struct nvllm_host){
		.size = sizeof(h->pub), .abi = NVLLM_ABI, .rank = rank, .world = world,
		.log = host_log, .fail = host_fail, .alloc = host_alloc, .get = host_get,
	};
	return &h->pub;
}

struct nvllm_host *host_for(const struct nvllm_component *comp, int rank, int world)
{
	char who[96];

	snprintf(who, sizeof(who), "%s.%s", kind_name(comp->kind), comp->name);
	return host_create(who, rank, world);
}

void host_destroy(struct nvllm_host *pub)
{
	struct host *h = host_of(pub);

	if (!h)
		return;
	pool_destroy(h->pool);
	free(h);
}
