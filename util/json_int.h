/* SPDX-License-Identifier: MIT */
/* util/json_int.h - what json.c and json_scan.c know of each other. */
#ifndef NVLLM_UTIL_JSON_INT_H
#define NVLLM_UTIL_JSON_INT_H

#include "json.h"

/* A place in a text, and how much of the limits is used up. */
struct scan {
	const unsigned char *s;
	size_t pos, len;
	size_t n_values, max_values;
	int depth, max_depth;
	bool take_nul;  /* \u0000 is legal */
	struct json_error *err;
};

/* Fills c->err and returns -1. */
int json_refuse(struct scan *c, size_t offset, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Each reads one thing at pos and moves past it, or refuses. */
int json_scan_value(struct scan *c);  /* with what it holds, and the space before it */
int json_scan_string(struct scan *c); /* pos is at the opening quote */
int json_scan_number(struct scan *c); /* pos is at the minus or the first digit */
void json_skip_space(struct scan *c);

#endif
