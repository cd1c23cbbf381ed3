/* SPDX-License-Identifier: MIT */
/* A device for tests, behind a GPU's contract and without a GPU: what is enqueued runs when
 * the host waits, host and device memory are apart, graphs are recorded and replayed; who
 * breaks the contract is told. Its numbers are the CPU device's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static const struct nvllm_option options[] = {
	NVLLM_STR(fake_conf, cpu, "cpu", FAKE_CPU, "the CPU device's .so, which computes: a path"),
	NVLLM_INT(fake_conf, threads, "threads", "1", 0, 1024, "threads of the CPU device"),
	NVLLM_STR(fake_conf, isa, "isa", "auto", "instructions the CPU device uses"),
	NVLLM_STR(fake_conf, activations, "activations", "auto", "as the CPU device has it"),
	NVLLM_INT(fake_conf, queue, "queue", "16384", 1, 1 << 20, "most jobs that wait at once"),
	NVLLM_INT(fake_conf, fail_capture, "fail_capture", "0", 0, 1e9,
		"this recording fails (1 = the first); 0 = none"),
	NVLLM_INT(fake_conf, fail_step, "fail_step", "0", 0, 1e15,
		"this kernel fails when it runs (1 = the first); 0 = none"),
	NVLLM_BOOL(fake_conf, compare, "compare", "false",
		"a recording must equal what was enqueued just before it"),
	NVLLM_BOOL(fake_conf, protect, "protect", "true",
		"device memory cannot be touched but while jobs run"),
	NVLLM_STR(fake_conf, log, "log", "",
		"file that gets a line for each misuse, and the counts at "
		"the end; empty = none"),
	NVLLM_OPTIONS_END
};

static int open_cpu(struct nvllm_device *d, int ordinal)
{
	const struct nvllm_host *host = d->host;
	const struct nvllm_component *c = inner_find(host, d->conf->cpu, NVLLM_KIND_DEVICE, 0);
	char threads[24];
	const char *const words[] = { "threads", threads, "isa", d->conf->isa, "activations",
		d->conf->activations, NULL };
	void *conf;
	int rc;

	if (!c)
		return NVLLM_ENOENT;
	snprintf(threads, sizeof(threads), "%lld", (long long)d->conf->threads);
	rc = inner_conf(host, c, words, &conf);
	if (rc)
		return rc;
	d->cpu_vt = c->vt;
	if (!NVLLM_HAS(d->cpu_vt->kernels, advance))
		return host->fail(
			host, NVLLM_ENOTSUP, "the device in '%s' lacks kernels", d->conf->cpu);
	rc = d->cpu_vt->create(&d->words.pub, ordinal, conf, &d->cpu);
	d->cpu_info.size = sizeof(d->cpu_info);
	if (!rc)
		rc = d->cpu_vt->info(d->cpu, &d->cpu_info);
	d->cpu_ref = (struct nvllm_device_ref){ sizeof(d->cpu_ref), d->cpu_vt, d->cpu,
		&d->cpu_info };
	if (!rc && !(d->cpu_info.caps & NVLLM_DEV_HOST_MEM))
		rc = host->fail(
			host, NVLLM_ENOTSUP, "the device in '%s' has no host memory", d->conf->cpu);
	return rc;
}

static void release(struct nvllm_device *d)
{
	if (d->cpu)
		d->cpu_vt->destroy(d->cpu);
	while (d->marks) {
		struct mark *m = d->marks;

		d->marks = m->next;
		free(m);
	}
	free(d->ring);
	free(d->graph_jobs);
}

static void destroy(struct nvllm_device *d)
{
	int graphs = 0, marks = 0;
	char line[300];

	if (!d)
		return;
	for (int i = 0; i < FAKE_GRAPHS; i++)
		graphs += d->graphs[i].live;
	for (struct mark *m = d->marks; m; m = m->next)
		marks++;
	if (d->head != d->tail)
		misuse(d, "destroyed with %lld jobs queued", (long long)(d->tail - d->head));
	if (graphs || marks)
		misuse(d, "destroyed with %d graphs and %d marks left", graphs, marks);
	memory_finish(d);
	snprintf(line, sizeof(line),
		"end: kernels %lld, recordings %lld, launches %lld, waits %lld, most "
		"queued %lld, misuses %lld",
		(long long)d->n_kernels, (long long)d->n_records, (long long)d->n_launches,
		(long long)d->n_waits, (long long)d->most_queued, (long long)d->n_faults);
	note(d, line);
	release(d);
}

static int create(const struct nvllm_host *host, int ordinal, const void *conf,
	struct nvllm_device **out)
{
	const struct fake_conf *c = conf;
	struct nvllm_device *d = host->alloc(host, sizeof(*d));
	int rc;

	if (!d)
		return host->fail(host, NVLLM_ENOMEM, "no memory for the fake device");
	d->host = host;
	d->conf = c;
	inner_host(&d->words, host);
	d->ring = calloc((size_t)c->queue, sizeof(*d->ring));
	d->graph_jobs = calloc(FAKE_GRAPH_JOBS, sizeof(*d->graph_jobs));
	rc = d->ring && d->graph_jobs
		     ? open_cpu(d, ordinal)
		     : host->fail(host, NVLLM_ENOMEM, "no memory for a queue of %lld jobs",
			       (long long)c->queue);
	if (rc)
		release(d);
	else
		*out = d;
	return rc;
}

static int info(struct nvllm_device *d, struct nvllm_device_info *in)
{
	const uint32_t size = in->size;
	int rc = d->cpu_vt->info(d->cpu, in);

	in->size = size;
	if (NVLLM_HAS(in, n_workers))
		in->n_workers = 1;
	if (NVLLM_HAS(in, caps))
		in->caps = NVLLM_DEV_ASYNC | NVLLM_DEV_GRAPHS | FAKE_CAP;
	if (NVLLM_HAS(in, name))
		snprintf(in->name, sizeof(in->name), "fake, on %.50s", d->cpu_info.name);
	return rc;
}

static int64_t store(struct nvllm_device *d, struct nvllm_tensor *t)
{
	return d->cpu_vt->store(d->cpu, t);
}

/* At once: it has read src when it returns. */
static int upload(struct nvllm_device *d, const struct nvllm_tensor *t, int32_t plane, int64_t row,
	int64_t n, const void *src, int32_t src_dtype, int64_t src_stride)
{
	int rc;

	if (d->recording)
		misuse(d, "upload inside a recording");
	if (!tensor_on_device(d, "upload", "the weight", t))
		return d->host->fail(
			d->host, NVLLM_EINVAL, "the weight lies outside the fake device's memory");
	memory_open(d, true);
	rc = d->cpu_vt->upload(d->cpu, t, plane, row, n, src, src_dtype, src_stride);
	memory_open(d, false);
	return rc;
}

static const struct nvllm_device_vt vt = {
	.size = sizeof(vt),
	.kernels = &fake_kernels,
	.create = create,
	.destroy = destroy,
	.info = info,
	.alloc = memory_alloc,
	.free = memory_free,
	.copy = copy,
	.sync = queue_sync,
	.stream = stream_of,
	.store = store,
	.upload = upload,
	.graph_begin = graph_begin,
	.graph_end = graph_end,
	.graph_launch = graph_launch,
	.graph_free = graph_free,
	.mark_create = mark_create,
	.mark_free = mark_free,
	.mark_set = mark_set,
	.mark_wait = mark_wait,
	.host_alloc = memory_host_alloc,
	.host_free = memory_host_free,
};
static const struct nvllm_component device = {
	.size = sizeof(device), .kind = NVLLM_KIND_DEVICE, .name = "fake",
	.summary = "for tests: behaves like a GPU, computes on the CPU when waited for",
	.vt = &vt, .options = options, .conf_size = sizeof(struct fake_conf),
};
static const struct nvllm_component *const components[] = { &device, &fake_attention, &fake_sampler,
	NULL };
NVLLM_EXPORT const struct nvllm_plugin nvllm_plugin = {
	.abi = NVLLM_ABI, .size = sizeof(nvllm_plugin), .name = "fake", .version = "0.1.0",
	.components = components,
};
