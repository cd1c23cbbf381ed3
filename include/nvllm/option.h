/* SPDX-License-Identifier: MIT */
/* nvllm/option.h - a plugin declares its keys in a table; the core parses the INI
 * file, checks type and bounds, fills the struct, and complains with file, line,
 * key and reason. The same table reads hyperparameters of a checkpoint. */
#ifndef NVLLM_OPTION_H
#define NVLLM_OPTION_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum nvllm_option_type {
	NVLLM_OPT_INT = 1, /* int64_t at offset */
	NVLLM_OPT_FLOAT,   /* double; always finite */
	NVLLM_OPT_BOOL,    /* int32_t, 0 or 1; written true, false, yes, no, on, off, 1, 0 */
	NVLLM_OPT_STR,     /* const char *, owned by the core, lives as long as the instance */
	NVLLM_OPT_ENUM,    /* int32_t, index into names */
	NVLLM_OPT_INTS,    /* struct nvllm_ints: whole numbers parted by spaces or commas */
	NVLLM_OPT_SIZE,    /* int64_t bytes; written 4096, 512K, 300M, 4G (powers of 1024) */
	NVLLM_OPT_FLOATS,  /* struct nvllm_floats: finite numbers parted by spaces or commas */
};
enum nvllm_option_flag { NVLLM_OPT_REQUIRED = 1u << 0 };

/* Lists point into memory of the core that lives as long as the instance. Frozen. */
struct nvllm_ints   { const int64_t *v; int64_t n; };
struct nvllm_floats { const double *v; int64_t n; };

/* One key of an INI section, or one hyperparameter of a checkpoint. Frozen. */
struct nvllm_option {
	const char *key;            /* NULL ends the table; a dot reaches into an object of config.json */
	const char *help;           /* one line, with the unit */
	const char *def;            /* as it would be written; NULL only if REQUIRED */
	const char *const *names;   /* ENUM: NULL-ended */
	double min, max;            /* INT, FLOAT, SIZE and list elements, inclusive; equal = no bounds */
	uint32_t type, flags;
	uint64_t offset;            /* into the conf struct */
};

#define NVLLM_OPT_FLAGS(def) ((def) ? 0u : (uint32_t)NVLLM_OPT_REQUIRED)
#define NVLLM_INT(st, m, key, def, lo, hi, help) \
	{ key, help, def, NULL, lo, hi, NVLLM_OPT_INT, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_FLOAT(st, m, key, def, lo, hi, help) \
	{ key, help, def, NULL, lo, hi, NVLLM_OPT_FLOAT, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_BOOL(st, m, key, def, help) \
	{ key, help, def, NULL, 0, 0, NVLLM_OPT_BOOL, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_STR(st, m, key, def, help) \
	{ key, help, def, NULL, 0, 0, NVLLM_OPT_STR, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_ENUM(st, m, key, def, names, help) \
	{ key, help, def, names, 0, 0, NVLLM_OPT_ENUM, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_INTS(st, m, key, def, lo, hi, help) \
	{ key, help, def, NULL, lo, hi, NVLLM_OPT_INTS, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_SIZE(st, m, key, def, lo, hi, help) \
	{ key, help, def, NULL, lo, hi, NVLLM_OPT_SIZE, NVLLM_OPT_FLAGS(def), offsetof(struct st, m) }
#define NVLLM_OPTIONS_END { NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0 }

#ifdef __cplusplus
}
#endif
#endif
