/* SPDX-License-Identifier: MIT */
/* tests/conform/elf.c - decides what a plugin's file must look like before any of it
 * runs: a 64-bit shared object, one exported symbol, no statics that change, no
 * constructors. Every offset is checked against the file's size. */
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define MAX_STATICS 16 /* bytes of .data + .bss: the C runtime's own */
#define MAX_INIT 8     /* bytes of .init_array: the C runtime's one entry */

struct elf {
	const unsigned char *map;
	uint64_t bytes;
	const Elf64_Ehdr *head;
	const Elf64_Shdr *sections;
	const char *names;
	uint64_t names_bytes;
};

static const void *elf_at(const struct elf *e, uint64_t off, uint64_t n)
{
	return off <= e->bytes && n <= e->bytes - off ? e->map + off : NULL;
}

static const char *text_at(const char *table, uint64_t bytes, uint64_t off)
{
	return table && off < bytes && memchr(table + off, 0, bytes - off) ? table + off : "?";
}

static int elf_open(struct elf *e, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map = MAP_FAILED;

	memset(e, 0, sizeof(*e));
	if (fd < 0)
		return ck_bad("cannot be opened");
	if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof(Elf64_Ehdr))
		map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return ck_bad("is too short for an ELF file");
	e->map = map;
	e->bytes = (uint64_t)st.st_size;
	e->head = map;
	if (memcmp(e->head->e_ident, ELFMAG, SELFMAG) || e->head->e_ident[EI_CLASS] != ELFCLASS64)
		return ck_bad("is no 64-bit ELF file");
	if (e->head->e_type != ET_DYN)
		return ck_bad("is no shared object: link it with -shared");
	e->sections = elf_at(e, e->head->e_shoff, (uint64_t)e->head->e_shnum * sizeof(Elf64_Shdr));
	if (!e->sections || e->head->e_shoff % 8 || e->head->e_shentsize != sizeof(Elf64_Shdr) ||
		e->head->e_shstrndx >= e->head->e_shnum)
		return ck_bad("has no section headers: do not remove them");
	e->names_bytes = e->sections[e->head->e_shstrndx].sh_size;
	e->names = elf_at(e, e->sections[e->head->e_shstrndx].sh_offset, e->names_bytes);
	return 0;
}

static const Elf64_Shdr *section(const struct elf *e, const char *name)
{
	for (int i = 0; i < e->head->e_shnum; i++)
		if (!strcmp(text_at(e->names, e->names_bytes, e->sections[i].sh_name), name))
			return &e->sections[i];
	return NULL;
}

static const void *contents(const struct elf *e, const char *name, uint64_t *bytes)
{
	const Elf64_Shdr *s = section(e, name);

	*bytes = s ? s->sh_size : 0;
	return s ? elf_at(e, s->sh_offset, s->sh_size) : NULL;
}

/* Sanitizers add symbols and data of their own: nothing can be said about such a file. */
static bool sanitized(const struct elf *e)
{
	uint64_t n = 0;
	const char *s = contents(e, ".dynstr", &n);

	for (uint64_t i = 0; s && i + 6 < n; i++)
		if (!memcmp(s + i, "__asan", 6) || !memcmp(s + i, "__tsan", 6) ||
			!memcmp(s + i, "__ubsa", 6))
			return true;
	return false;
}

static bool is_cuda(const struct elf *e)
{
	uint64_t n = 0;
	const char *s = contents(e, ".dynstr", &n);

	for (uint64_t i = 0; s && i + 7 < n; i++)
		if (!memcmp(s + i, "libcuda", 7) || !memcmp(s + i, "libnccl", 7))
			return true;
	return section(e, ".nv_fatbin") != NULL;
}

static void check_exports(const struct elf *e)
{
	uint64_t n = 0, n_text = 0;
	const Elf64_Sym *sym = contents(e, ".dynsym", &n);
	const char *text = contents(e, ".dynstr", &n_text);
	const char *other = NULL;
	bool found = false;

	for (uint64_t i = 0; sym && i < n / sizeof(*sym); i++) {
		const char *name = text_at(text, n_text, sym[i].st_name);

		if (sym[i].st_shndx == SHN_UNDEF || ELF64_ST_BIND(sym[i].st_info) == STB_LOCAL)
			continue;
		if (strcmp(name, "nvllm_plugin"))
			other = name;
		else
			found = true;
	}
	if (!found)
		ck_bad("does not export nvllm_plugin: include <nvllm/plugin.h> and define it");
	else if (other)
		ck_bad("also exports '%s': compile with -fvisibility=hidden, so that nvllm_plugin "
		       "is "
		       "the only exported symbol",
			other);
}

static void check_statics(const struct elf *e)
{
	static const char *const names[] = { ".data", ".bss", ".tdata", ".tbss" };
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const Elf64_Shdr *s = section(e, names[i]);

		sum += s ? s->sh_size : 0;
	}
	if (sum > MAX_STATICS)
		ck_bad("%lu bytes of .data and .bss, %d allowed: two ranks share the file, so keep "
			"what changes in the instance", (unsigned long)sum, MAX_STATICS);
}

static void check_init(const struct elf *e)
{
	const Elf64_Shdr *s = section(e, ".init_array");

	if (s && s->sh_size > MAX_INIT)
		ck_bad("has constructors: the core must be able to refuse a file before its code "
		       "runs");
}

void elf_checks(const char *path)
{
	static const struct { const char *name; void (*fn)(const struct elf *); } checks[] = {
		{ "exports nvllm_plugin and nothing else", check_exports },
		{ "no mutable statics", check_statics },
		{ "no constructors", check_init },
	};
	struct elf e;
	int status;

	ck_begin("a shared object");
	status = elf_open(&e, path);
	ck_end();
	for (size_t i = 0; status == 0 && i < sizeof(checks) / sizeof(*checks); i++) {
		ck_begin("%s", checks[i].name);
		if (sanitized(&e)) {
			ck_skip("built with sanitizers");
			continue;
		}
		if (is_cuda(&e) && checks[i].fn != check_exports) {
			ck_skip("nvcc adds its own");
			continue;
		}
		checks[i].fn(&e);
		ck_end();
	}
	if (e.map)
		munmap((void *)(uintptr_t)e.map, e.bytes);
}
