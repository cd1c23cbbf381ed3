/* SPDX-License-Identifier: MIT */
/* tests/conform/rig.c - decides what device a component that runs on one is tried on: the
 * one asked for by name, the one that has what the component needs, or the fake one. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "core.h"

int ck_device_open(const struct nvllm_component *c, const void *conf,
	struct nvllm_device_ref *ref, struct nvllm_device_info *info)
{
	const struct nvllm_device_vt *vt = c->vt;
	int status;

	*ref = (struct nvllm_device_ref){ .size = sizeof(*ref), .vt = vt, .info = info };
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	fake_hush();
	status = vt->create(fake_host(), 0, conf, &ref->dev);
	if (ck_refusal(status, "create of the device") < 0)
		return status;
	if (!ref->dev || vt->info(ref->dev, info))
		return ck_bad("the device's create or info gave nothing");
	return 0;
}

/* A device of that name in the folders; false: there is none, or it refuses. */
static bool find_device(const char *name, uint64_t need, struct nvllm_device_ref *ref,
	struct nvllm_device_info *info, const char **why)
{
	static const char *const none[] = { NULL };
	struct plugins *ps = plugins_create(none, getenv("NVLLM_PLUGIN_PATH"));
	const struct nvllm_component *c = ps ? plugin_find(ps, NVLLM_KIND_DEVICE, name, ~0ull, NULL)
		: NULL;
	const void *conf;
	int err;

	*why = fail_text();
	if (!c)
		return false;
	conf = ck_conf(c, NULL, &err);
	if (err)
		return false;
	*why = fake_said();
	if (ck_device_open(c, conf, ref, info))
		return false;
	*why = "it lacks what the component needs";
	return !(need & ~info->caps);
}

const struct nvllm_device_ref *ck_device(uint64_t need)
{
	static struct nvllm_device_ref ref;
	static struct nvllm_device_info info;
	const char *name = ck_opts->device, *why = "";

	if (!name && !(need & ~fake_device()->info->caps))
		return fake_device();
	if (!name && need & NVLLM_DEV_CUDA)
		name = "cuda";
	if (!name) {
		ck_skip("needs a device that the suite does not have: name one (--device)");
		return NULL;
	}
	ck_begin("the device '%s'", name);
	if (!find_device(name, need, &ref, &info, &why)) {
		ck_skip("skipped: no %s device: %s", strcmp(name, "cuda") ? name : "CUDA", why);
		return NULL;
	}
	if (!(info.caps & NVLLM_DEV_HOST_MEM))
		mirror_open(&ref, (int64_t)96 << 20);
	ck_end();
	return ck_good() ? &ref : NULL;
}
