/* SPDX-License-Identifier: MIT */
/* core/inifile.h - the text of an INI file as a row of events. */
#ifndef NVLLM_INIFILE_H
#define NVLLM_INIFILE_H

#include <stdbool.h>
#include <stddef.h>

struct inifile_events {
	/* A section line; the same name may come again. 0, or a status and a sentence. */
	int (*section)(void *arg, const char *section, int line);
	/* A key inside a section. Blanks around the value and a comment behind it are gone.
	 * The strings are valid during the call only. */
	int (*key)(void *arg, const char *section, const char *key, const char *value, int line);
};

/* Reads the whole text in order. Stops at the first thing that is wrong, with a
 * sentence that starts "name:line: ". */
int inifile_read(const char *name, const char *text, size_t len, const struct inifile_events *,
	void *arg);
/* Bytes of the longest line that is read. */
int inifile_line_max(void);
/* [a-z0-9_] and, in keys, dots. */
bool inifile_is_section(const char *s, size_t len);
bool inifile_is_key(const char *s, size_t len);

#endif
