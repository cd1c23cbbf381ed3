/* SPDX-License-Identifier: MIT */
/* util/json.h - the one door through which JSON comes in, and the writer it goes out by.
 *
 * cJSON parses; before it runs, the text is checked against RFC 8259 to the letter,
 * because cJSON alone takes invalid UTF-8, raw control characters, 1e999, trailing
 * bytes, duplicate keys, and cuts strings at \u0000. After it ran, numbers that a
 * double cannot show exactly have their source text kept, so that a seed of 2^53 + 1
 * and the form of "3.0" survive. Look members up with json_get alone: cJSON's own
 * look-up ignores case. */
#ifndef NVLLM_UTIL_JSON_H
#define NVLLM_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

/* 0 in a field means its default. */
struct json_limits {
	size_t max_bytes;  /* default 1 GiB */
	size_t max_values; /* default 32 Mi: a value costs cJSON 64 bytes and more, a byte of text
			      may make one */
	int max_depth;     /* default 128, at most 1000 */
};

struct json_error {
	size_t offset;      /* of the byte that is wrong */
	int line;           /* 1 = the first */
	char why[160];      /* the reason alone: "a comma or '}' must follow" */
};

/* Returns 0 and *out (free it with cJSON_Delete), or -1 and *err (may be NULL); *out is
 * then NULL. limits may be NULL. text need not be NUL-ended and is not kept. */
int json_parse(const char *text, size_t len, const struct json_limits *limits, cJSON **out,
	struct json_error *err);

/* The member of that exact name, or NULL; NULL too where obj is NULL or no object. */
cJSON *json_get(const cJSON *obj, const char *key);

/* The number as it stood in the text: the kept text, or one written into buf. NULL:
 * not a number. */
#define JSON_NUMBER_LEN 64
const char *json_number_text(const cJSON *, char buf[JSON_NUMBER_LEN]);

/* Exact. Return 0, or -1 and leave *out: not a number; not written as an integer
 * (1.5, 3.0 and 1e3 are refused); out of range. */
int json_int64(const cJSON *, int64_t *out);
int json_uint64(const cJSON *, uint64_t *out);
/* The nearest double, always finite. -1: not a number. */
int json_double(const cJSON *, double *out);

/* A text that is one JSON string: its characters are added to out, \u0000 as a NUL, which a
 * cJSON string cannot hold. Returns 0, or -1 and *err (may be NULL). */
struct json_buf;
int json_string(const char *text, size_t len, struct json_buf *out, struct json_error *err);

/* A string that grows. Zero it to begin; the first failed allocation sticks: then
 * `failed` is set and all that follows does nothing. s is NUL-ended once non-NULL. */
struct json_buf {
	char *s;
	size_t len, cap;
	bool failed;
};
void json_buf_free(struct json_buf *); /* and zeroes it */
void json_put_raw(struct json_buf *, const char *bytes, size_t len);
void json_put(struct json_buf *, const char *text); /* as it is, no quotes */
/* In quotes, escaped; UTF-8 is kept, each ill-formed part becomes U+FFFD. */
void json_put_string(struct json_buf *, const char *bytes, size_t len);
void json_put_int(struct json_buf *, int64_t);
/* The shortest text that reads back as the same number; NaN and infinities give null. */
void json_put_double(struct json_buf *, double);
void json_put_float(struct json_buf *, float);

#endif
