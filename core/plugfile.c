/* SPDX-License-Identifier: MIT */
/* plugfile.c - decides whether one .so is fit to be used: a whole ELF file of this
 * machine, the ABI of this program, every mandatory member in place. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nvllm/attention.h>
#include <nvllm/cache.h>
#include <nvllm/chat.h>
#include <nvllm/comm.h>
#include <nvllm/device.h>
#include <nvllm/frontend.h>
#include <nvllm/loader.h>
#include <nvllm/logits.h>
#include <nvllm/model.h>
#include <nvllm/sampler.h>
#include <nvllm/tokenizer.h>

#include "core.h"
#include "plugfile.h"

#define MAX_PHDRS      64
#define MAX_COMPONENTS 64
#define MAX_ARGS       64
#define MAX_NAME       48
#define MAX_VT_BYTES   4096      /* a vtable that claims more is no vtable */
#define MAX_CONF_BYTES (1 << 20)

/* ---- the file ---- */

static int wrong_machine(const char *path, const Elf64_Ehdr *e)
{
#if defined(__x86_64__)
	const int machine = EM_X86_64;
#elif defined(__aarch64__)
	const int machine = EM_AARCH64;
#else
	const int machine = e->e_machine; /* the loader will say */
#endif
	if (e->e_ident[EI_CLASS] == ELFCLASS64 && e->e_ident[EI_DATA] == ELFDATA2LSB &&
		e->e_machine == machine)
		return NVLLM_OK;
	return fail(NVLLM_EINVAL, "%s: built for another machine: rebuild it here", path);
}

/* The loader maps what the program headers say: in a file cut short that ends in a
 * bus error, not in a message. */
static int check_segments(const char *path, int fd, const Elf64_Ehdr *e, uint64_t file_bytes)
{
	Elf64_Phdr ph[MAX_PHDRS];
	size_t bytes = (size_t)e->e_phnum * sizeof(ph[0]);
	bool dynamic = false;

	if (e->e_phentsize != sizeof(ph[0]) || e->e_phnum == 0 || e->e_phnum > MAX_PHDRS ||
	    pread(fd, ph, bytes, (off_t)e->e_phoff) != (ssize_t)bytes)
		return fail(NVLLM_EINVAL,
			"%s: a damaged ELF file: its program headers cannot be read", path);
	for (int i = 0; i < e->e_phnum; i++) {
		dynamic |= ph[i].p_type == PT_DYNAMIC;
		if (ph[i].p_offset > file_bytes || ph[i].p_filesz > file_bytes - ph[i].p_offset)
			return fail(NVLLM_EINVAL,
				"%s: cut short: it has %llu bytes, its headers speak of %llu", path,
				(unsigned long long)file_bytes,
				(unsigned long long)(ph[i].p_offset + ph[i].p_filesz));
	}
	return dynamic ?
		       NVLLM_OK :
		       fail(NVLLM_EINVAL, "%s: no shared object: it has no dynamic section", path);
}

static int check_elf(const char *path, int fd, uint64_t file_bytes)
{
	Elf64_Ehdr e;
	int rc;

	if (pread(fd, &e, sizeof(e), 0) != (ssize_t)sizeof(e) || memcmp(e.e_ident, ELFMAG, SELFMAG))
		return fail(NVLLM_EINVAL, "%s: not a shared object (no ELF file)", path);
	rc = wrong_machine(path, &e);
	if (!rc && e.e_type != ET_DYN)
		rc = fail(NVLLM_EINVAL,
			"%s: an ELF file, but no shared object: link it with -shared", path);
	return rc ? rc : check_segments(path, fd, &e, file_bytes);
}

int plugfile_check(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
	struct stat st;

	if (fd < 0)
		return fail(NVLLM_ENOENT, "%s: cannot be opened: %s", path, strerror(errno));
	if (fstat(fd, &st))
		rc = fail(NVLLM_EIO, "%s: cannot be looked at: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		rc = fail(NVLLM_EINVAL, "%s: not a file%s", path,
			S_ISDIR(st.st_mode) ? " but a folder" : "");
	else
		rc = check_elf(path, fd, (uint64_t)st.st_size);
	if (!rc && (st.st_mode & S_IWOTH) && st.st_uid != geteuid())
		log_line(NVLLM_LOG_WARN, NULL,
			"%s: anyone may write to this plugin, and uid %u owns it", path,
			(unsigned)st.st_uid);
	close(fd);
	return rc;
}

/* ---- the vtables: which members must be there ---- */

struct member {
	const char *name;
	size_t offset;
};

#define M(kind, m) { #m, offsetof(struct nvllm_##kind##_vt, m) }
static const struct member model_members[] = { M(model, architectures), M(model, create),
	M(model, bind), M(model, forward), { NULL, 0 } };
static const struct member attention_members[] = { M(attention, create), M(attention, attach),
	M(attention, run), { NULL, 0 } };
static const struct member sampler_members[] = { M(sampler, create), M(sampler, sample),
	{ NULL, 0 } };
static const struct member cache_members[] = { M(cache, create), M(cache, match), M(cache, insert),
	M(cache, release), M(cache, evict), M(cache, stats), M(cache, check), { NULL, 0 } };
static const struct member device_members[] = { M(device, kernels), M(device, create),
	M(device, destroy), M(device, info), M(device, alloc), M(device, free), M(device, copy),
	M(device, sync), M(device, stream), M(device, store), M(device, upload), { NULL, 0 } };
static const struct member comm_members[] = { M(comm, make_id), M(comm, create), M(comm, destroy),
	M(comm, all_reduce), M(comm, all_gather), { NULL, 0 } };
static const struct member loader_members[] = { M(loader, probe), M(loader, open), M(loader, meta),
	M(loader, array), M(loader, find), M(loader, read), M(loader, close), { NULL, 0 } };
static const struct member tokenizer_members[] = { M(tokenizer, probe), M(tokenizer, open),
	M(tokenizer, info), M(tokenizer, encode), M(tokenizer, piece), M(tokenizer, close),
	{ NULL, 0 } };
static const struct member chat_members[] = { M(chat, open), M(chat, render), { NULL, 0 } };
static const struct member logits_members[] = { M(logits, create), M(logits, open), M(logits, apply),
	M(logits, close), { NULL, 0 } };
static const struct member frontend_members[] = { M(frontend, run), { NULL, 0 } };
#undef M

#define K(kind) { #kind, kind##_members, SIZE_MAX }
#define N(kind) { #kind, kind##_members, offsetof(struct nvllm_##kind##_vt, need) }
static const struct kind {
	const char *name;
	const struct member *members; /* mandatory, in the order of the struct */
	size_t need;                  /* offset of `need`; SIZE_MAX = has none */
} kinds[NVLLM_KIND_MAX] = {
	[NVLLM_KIND_MODEL] = K(model),
	[NVLLM_KIND_ATTENTION] = N(attention),
	[NVLLM_KIND_SAMPLER] = N(sampler),
	[NVLLM_KIND_CACHE] = K(cache),
	[NVLLM_KIND_DEVICE] = K(device),
	[NVLLM_KIND_COMM] = N(comm),
	[NVLLM_KIND_LOADER] = K(loader),
	[NVLLM_KIND_TOKENIZER] = K(tokenizer),
	[NVLLM_KIND_CHAT] = K(chat),
	[NVLLM_KIND_FRONTEND] = K(frontend),
	[NVLLM_KIND_LOGITS] = K(logits),
};
#undef K
#undef N

const char *kind_name(int kind)
{
	return kind > 0 && kind < NVLLM_KIND_MAX ? kinds[kind].name : NULL;
}

int kind_by_name(const char *name)
{
	for (int i = 1; i < NVLLM_KIND_MAX; i++)
		if (!strcmp(kinds[i].name, name))
			return i;
	return 0;
}

uint64_t component_need(const struct nvllm_component *c)
{
	uint64_t need = 0;

	if (kinds[c->kind].need != SIZE_MAX)
		memcpy(&need, (const char *)c->vt + kinds[c->kind].need, sizeof(need));
	return need;
}

/* Function pointers and data pointers alike: NULL is all zero bytes here. */
static bool is_null(const void *vt, size_t offset)
{
	static const char zero[sizeof(void *)];

	return !memcmp((const char *)vt + offset, zero, sizeof(zero));
}

static int check_vt(const struct nvllm_component *c, const char *who)
{
	const struct kind *k = &kinds[c->kind];
	uint32_t size;

	memcpy(&size, c->vt, sizeof(size));
	if (size > MAX_VT_BYTES)
		return fail(NVLLM_EINVAL, "%s: its vtable claims %u bytes: is .size set to "
			"sizeof(struct nvllm_%s_vt)?", who, size, k->name);
	for (const struct member *m = k->members; m->name; m++) {
		if (m->offset + sizeof(void *) > size)
			return fail(NVLLM_EINVAL,
				"%s: its vtable of %u bytes ends before '%s': is .size set to "
				"sizeof(struct nvllm_%s_vt)?",
				who, size, m->name, k->name);
		if (is_null(c->vt, m->offset))
			return fail(
				NVLLM_EINVAL, "%s: mandatory member '%s' is NULL", who, m->name);
	}
	return NVLLM_OK;
}

/* ---- what single kinds need besides ---- */

static int check_model(const struct nvllm_component *c, const char *who)
{
	const struct nvllm_model_vt *vt = c->vt;

	if (!vt->architectures[0])
		return fail(NVLLM_EINVAL, "%s: 'architectures' names none", who);
	if (vt->hparams_size > MAX_CONF_BYTES)
		return fail(NVLLM_EINVAL, "%s: 'hparams_size' is absurd", who);
	return option_check_table(vt->hparams, vt->hparams_size, who);
}

static int check_device(const struct nvllm_component *c, const char *who)
{
	const struct nvllm_device_vt *vt = c->vt;
	uint32_t size = vt->kernels->size;

	if (size < sizeof(void *) || size > MAX_VT_BYTES)
		return fail(NVLLM_EINVAL, "%s: its kernel table claims %u bytes: is .size set to "
			"sizeof(struct nvllm_kernels)?", who, size);
	return NVLLM_OK;
}

static int check_frontend(const struct nvllm_component *c, const char *who)
{
	const struct nvllm_frontend_vt *vt = c->vt;

	for (int i = 0; vt->args && vt->args[i]; i++) {
		const struct nvllm_arg *a = vt->args[i];

		if (i >= MAX_ARGS)
			return fail(NVLLM_EINVAL,
				"%s: more than %d words in 'args': does it end with NULL?", who,
				MAX_ARGS);
		if (a->size < sizeof(*a) || a->size > MAX_VT_BYTES)
			return fail(NVLLM_EINVAL, "%s: args[%d] claims %u bytes", who, i, a->size);
		if ((!a->name && !a->letter) || !a->key || !strchr(a->key, '.') || !a->help)
			return fail(NVLLM_EINVAL,
				"%s: args[%d] needs a letter or a name, a key such as "
				"'section.key', and a help line",
				who, i);
	}
	return NVLLM_OK;
}

/* ---- components ---- */

static bool is_name(const char *s)
{
	size_t n = strnlen(s, MAX_NAME + 1);

	return n > 0 && n <= MAX_NAME && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

static int check_component(const struct nvllm_component *c, int i, const char *path)
{
	char who[1200];
	int rc;

	if (c->size < sizeof(*c) || c->size > MAX_VT_BYTES)
		return fail(NVLLM_EINVAL, "%s: components[%d] claims %u bytes, a component has %zu",
			path, i, c->size, sizeof(*c));
	if (!kind_name((int)(c->kind < NVLLM_KIND_MAX ? c->kind : 0)))
		return fail(NVLLM_ENOTSUP,
			"%s: components[%d] is of kind %u, which this nvllm does not know", path, i,
			c->kind);
	if (!c->name || !is_name(c->name))
		return fail(NVLLM_EINVAL,
			"%s: components[%d] (%s) has no name of a-z, 0-9 and _, at most %d long",
			path, i, kind_name((int)c->kind), MAX_NAME);
	snprintf(who, sizeof(who), "%s: %s '%s'", path, kind_name((int)c->kind), c->name);
	if (!c->summary || !c->summary[0] || strchr(c->summary, '\n'))
		return fail(NVLLM_EINVAL, "%s: 'summary' must be one line", who);
	if (!c->vt)
		return fail(NVLLM_EINVAL, "%s: 'vt' is NULL", who);
	if (c->conf_size > MAX_CONF_BYTES)
		return fail(NVLLM_EINVAL, "%s: 'conf_size' is absurd: %llu bytes", who,
			(unsigned long long)c->conf_size);
	rc = check_vt(c, who);
	if (!rc)
		rc = option_check_table(c->options, c->conf_size, who);
	if (!rc && c->kind == NVLLM_KIND_MODEL)
		rc = check_model(c, who);
	if (!rc && c->kind == NVLLM_KIND_DEVICE)
		rc = check_device(c, who);
	if (!rc && c->kind == NVLLM_KIND_FRONTEND)
		rc = check_frontend(c, who);
	return rc;
}

int plugin_check(const struct nvllm_plugin *p, uint64_t room, const char *path)
{
	int n = 0, rc = NVLLM_OK;

	if (room < 2 * sizeof(uint32_t))
		return fail(NVLLM_EINVAL,
			"%s: its 'nvllm_plugin' is too small to be a struct nvllm_plugin", path);
	if (p->abi != NVLLM_ABI)
		return fail(NVLLM_ENOTSUP,
			"%s: built for plugin ABI %u, this nvllm has %u: rebuild it against "
			"include/nvllm of this version",
			path, p->abi, NVLLM_ABI);
	if (p->size < sizeof(*p) || p->size > room)
		return fail(NVLLM_EINVAL,
			"%s: its nvllm_plugin claims %u bytes and has %llu: is .size set to "
			"sizeof(struct nvllm_plugin)?",
			path, p->size, (unsigned long long)room);
	if (!p->name || !p->version || !p->components || !p->components[0])
		return fail(NVLLM_EINVAL, "%s: its nvllm_plugin has no %s", path,
			!p->name    ? "'name'" :
			!p->version ? "'version'" :
				      "components");
	for (; !rc && p->components[n]; n++)
		rc = n < MAX_COMPONENTS ?
			     check_component(p->components[n], n, path) :
			     fail(NVLLM_EINVAL,
				     "%s: more than %d components: does the list end with NULL?",
				     path, MAX_COMPONENTS);
	return rc;
}

/* ---- capabilities ---- */

const char *caps_text(uint64_t caps, char *buf, size_t len)
{
	static const char *const words[] = { "host memory", "asynchronous kernels", "graphs",
		"parallel_for", "GPU addresses and streams" }; /* in the order of NVLLM_DEV_* */
	size_t at = 0;

	snprintf(buf, len, "nothing");
	for (unsigned i = 0; i < 64 && at < len; i++) {
		if (!(caps >> i & 1))
			continue;
		if (i < sizeof(words) / sizeof(words[0]))
			at += (size_t)snprintf(
				buf + at, len - at, "%s%s", at ? ", " : "", words[i]);
		else
			at += (size_t)snprintf(
				buf + at, len - at, "%scapability %u", at ? ", " : "", i);
	}
	return buf;
}
