/* SPDX-License-Identifier: MIT */
/* fuzz_jinja.c - a template and the body of a request, a NUL byte between them. The template is
 * opened from a file in the working folder's scratch, as a checkpoint's is; a prompt must be
 * well-formed UTF-8 and the same twice. */
#include "../unit/jinja_rig.h"
#include "utf8.h"

#include <nvllm/plugin.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
	size_t len = nul ? (size_t)(nul - data) : size;
	const char *body = nul ? (const char *)nul + 1 : "{\"messages\":[]}";
	size_t body_len = nul ? size - len - 1 : strlen(body);
	struct rig r;
	int64_t n, m;
	char *a, *b;

	if (size > 65536)
		return 0;
	rig_init(&r, nvllm_plugin.components[0]->vt);
	if (rig_open(&r, (const char *)data, len) == 0) {
		a = rig_render(&r, body, body_len, &n);
		b = rig_render(&r, body, body_len, &m);
		if (!a != !b || (a && (n != m || memcmp(a, b, (size_t)n) != 0 ||
			utf8_check(a, (size_t)n) != (size_t)n)))
			abort();
		free(a);
		free(b);
	} else if (!*r.said) {
		abort();
	}
	rig_finish(&r);
	return 0;
}
