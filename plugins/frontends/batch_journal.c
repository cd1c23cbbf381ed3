/* SPDX-License-Identifier: MIT */
/* frontends/batch_journal.c - decides what survives an interruption. Finished lines are
 * appended to OUTPUT.journal as they end, one record a line:
 *
 *	{"nvllm_batch_journal": 1, "model": "NAME"}
 *	{"line": 7, "input": "HASH", "id": "HASH", "status": 200, "check": "HASH", "output": {...}}
 *
 * with the hashes of the input line, of its custom_id and of the output's bytes. The last
 * record may be torn; it is cut off. The output itself is written under another
 * name once all is done, and renamed: nothing half-written ever has its name. */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define OUTPUT_KEY ", \"output\": "
#define MAX_RECORD ((size_t)1 << 31)

static int io_error(struct batch_journal *j, const char *what, const char *path)
{
	return j->host->fail(j->host, NVLLM_EIO, "cannot %s %s: %s", what, path, strerror(errno));
}

static int damaged(struct batch_journal *j, int64_t record, const char *why)
{
	return j->host->fail(j->host, NVLLM_EINVAL,
		"%s:%lld: %s: this is no journal of an interrupted batch; delete it "
		"to begin anew",
		j->path, (long long)record, why);
}

/* Makes entries[line - 1] exist. */
static struct batch_entry *entry_at(struct batch_journal *j, int64_t line)
{
	if (line > j->cap) {
		int64_t cap = j->cap ? 2 * j->cap : 256;
		struct batch_entry *e;

		if (cap < line)
			cap = line;
		e = (uint64_t)cap > SIZE_MAX / sizeof(*e)
			? NULL
			: realloc(j->entries, (size_t)cap * sizeof(*e));
		if (!e)
			return NULL;
		memset(e + j->cap, 0, (size_t)(cap - j->cap) * sizeof(*e));
		j->entries = e;
		j->cap = cap;
	}
	if (line > j->n)
		j->n = line;
	return &j->entries[line - 1];
}

const struct batch_entry *batch_journal_find(const struct batch_journal *j, int64_t line)
{
	return line >= 1 && line <= j->n && j->entries[line - 1].len ? &j->entries[line - 1] : NULL;
}

static int no_memory(struct batch_journal *j)
{
	return j->host->fail(
		j->host, NVLLM_ENOMEM, "no memory for the journal of %lld lines", (long long)j->n);
}

static bool hex(const cJSON *v, uint64_t *out)
{
	char *end;

	if (!cJSON_IsString(v) || strlen(v->valuestring) != 16)
		return false;
	*out = strtoull(v->valuestring, &end, 16);
	return !*end;
}

/* ---- reading one that is there ---- */

static int load_first(struct batch_journal *j, const cJSON *v)
{
	const cJSON *model = json_get(v, "model");
	int64_t version = 0;

	if (json_int64(json_get(v, "nvllm_batch_journal"), &version) || !cJSON_IsString(model))
		return damaged(j, 1, "the first line says no model");
	if (version != 1)
		return damaged(j, 1, "it has another version");
	j->model = strdup(model->valuestring);
	return j->model ? 0 : no_memory(j);
}

static int too_short(struct batch_journal *j, int64_t line)
{
	return j->host->fail(j->host, NVLLM_EINVAL,
		"%s has the answer of line %lld, and the input has fewer lines: the input "
		"changed since the interrupted run. Put it back, or delete the journal to begin "
		"anew",
		j->path, (long long)line);
}

/* The members before the output, *got but for where the output lies. */
static int load_head(struct batch_journal *j, const struct batch_reader *r, const cJSON *v,
	struct batch_entry *got, int64_t *line, uint64_t *check)
{
	int64_t status = 0;

	if (json_int64(json_get(v, "line"), line) || json_int64(json_get(v, "status"), &status) ||
		!hex(json_get(v, "input"), &got->hash) || !hex(json_get(v, "id"), &got->id) ||
		!hex(json_get(v, "check"), check))
		return damaged(j, r->n, "a record lacks a member");
	got->status = (int32_t)status;
	return *line < 1 ? damaged(j, r->n, "a line number is below 1") : 0;
}

/* Keeps a record whose output of len bytes lies at offset. */
static int keep(struct batch_journal *j, int64_t line, struct batch_entry got)
{
	struct batch_entry *e = entry_at(j, line);

	if (!e)
		return no_memory(j);
	j->done += !e->len;
	j->failed += (got.status != 200) - (e->len && e->status != 200);
	*e = got;
	return 0;
}

/* The record in r, which begins at offset. The output itself is not parsed: its text may
 * hold what the strict door refuses (U+0000), and its hash says that it is whole. */
static int load_record(struct batch_journal *j, const struct batch_reader *r, int64_t offset,
	int64_t max_line, bool *torn)
{
	char *at = memmem(r->s, r->len, OUTPUT_KEY, strlen(OUTPUT_KEY));
	struct batch_entry got = { 0 };
	int64_t line = 0;
	uint64_t check = 0;
	cJSON *v = NULL;
	int rc;

	*torn = !at || r->s[r->len - 1] != '}';
	if (!*torn) {
		*at = '}'; /* the head alone is an object */
		*torn = json_parse(r->s, (size_t)(at - r->s) + 1, NULL, &v, NULL) != 0;
	}
	if (*torn)
		return 0;
	rc = load_head(j, r, v, &got, &line, &check);
	cJSON_Delete(v);
	if (rc)
		return rc;
	at += strlen(OUTPUT_KEY);
	got.offset = offset + (at - r->s);
	got.len = (int64_t)r->len - (at - r->s) - 1;
	*torn = got.len < 1 || batch_hash(BATCH_HASH, at, (size_t)got.len) != check;
	if (*torn)
		return 0;
	return line > max_line ? too_short(j, line) : keep(j, line, got);
}

static int load_line(struct batch_journal *j, struct batch_reader *r, int64_t offset,
	int64_t max_line, bool *torn)
{
	cJSON *v = NULL;
	int rc = 0;

	*torn = r->torn || r->too_long;
	if (*torn)
		return 0;
	if (r->n > 1)
		return load_record(j, r, offset, max_line, torn);
	*torn = json_parse(r->s, r->len, NULL, &v, NULL) != 0;
	if (!*torn)
		rc = load_first(j, v);
	cJSON_Delete(v);
	return rc;
}

static int load(struct batch_journal *j, int64_t max_line)
{
	struct batch_reader r;
	int rc = 0;

	if (batch_reader_open(&r, j->path, MAX_RECORD))
		return io_error(j, "read", j->path);
	while (!rc && batch_reader_next(&r)) {
		int64_t record = r.n;
		bool torn;

		rc = load_line(j, &r, j->end, max_line, &torn);
		if (rc || torn) {
			/* Only the last record may be torn. */
			if (!rc && !r.torn && batch_reader_next(&r))
				rc = damaged(j, record, "a record is torn, and others follow");
			break;
		}
		j->end = r.bytes;
	}
	if (r.failed && !rc)
		rc = io_error(j, "read", j->path);
	batch_reader_close(&r);
	return rc;
}

static int exists(struct batch_journal *j)
{
	return j->host->fail(j->host, NVLLM_EINVAL,
		"%s is there: an earlier run was interrupted. Go on with --resume, or "
		"delete it to begin anew",
		j->path);
}

/* Opens the file for writing and takes its lock. */
static int open_file(struct batch_journal *j, bool resume)
{
	j->f = fopen(j->path, resume ? "r+e" : "w+xe");
	if (!j->f && resume && errno == ENOENT)
		j->f = fopen(j->path, "w+xe");
	if (!j->f)
		return errno == EEXIST ? exists(j) : io_error(j, "write", j->path);
	if (flock(fileno(j->f), LOCK_EX | LOCK_NB))
		return j->host->fail(j->host, NVLLM_EINVAL,
			"another run is writing %s: let it end first", j->path);
	return 0;
}

static int cut_tail(struct batch_journal *j)
{
	if (ftruncate(fileno(j->f), j->end) || fseeko(j->f, j->end, SEEK_SET))
		return io_error(j, "write", j->path);
	return 0;
}

int batch_journal_open(struct batch_journal *j, const struct nvllm_host *host,
	const struct batch_conf *c, bool write)
{
	struct stat input, own;
	int64_t max_line = INT32_MAX;
	int rc = 0;

	memset(j, 0, sizeof(*j));
	j->host = host;
	if (asprintf(&j->path, "%s.journal", c->output) < 0) {
		j->path = NULL;
		return no_memory(j);
	}
	if (!stat(c->input, &input) && S_ISREG(input.st_mode) && input.st_size < INT32_MAX)
		max_line = input.st_size + 1;
	if (!stat(j->path, &own) && !S_ISREG(own.st_mode))
		return host->fail(host, NVLLM_EINVAL,
			"%s, where the journal of finished lines belongs, is no plain file",
			j->path);
	if (write)
		rc = open_file(j, c->resume);
	if (!rc && !c->resume && !write && !access(j->path, F_OK))
		return exists(j);
	if (!rc && c->resume && !access(j->path, F_OK))
		rc = load(j, max_line);
	return rc || !write ? rc : cut_tail(j);
}

static int check_line(struct batch_journal *j, const struct batch_reader *r, const char *input)
{
	const struct batch_entry *e = batch_journal_find(j, r->n);

	if (!e || e->hash == r->hash)
		return 0;
	return j->host->fail(j->host, NVLLM_EINVAL,
		"%s:%lld is not the line that %s has the answer of: the input changed "
		"since the interrupted run. Put it back, or delete the journal to begin anew",
		input, (long long)r->n, j->path);
}

int batch_journal_check_input(struct batch_journal *j, const struct batch_conf *c)
{
	struct batch_reader r;
	int rc = 0;

	if (!j->n)
		return 0;
	if (batch_reader_open(&r, c->input, (size_t)c->max_line))
		return io_error(j, "read", c->input);
	while (!rc && batch_reader_next(&r))
		rc = check_line(j, &r, c->input);
	if (!rc && r.failed)
		rc = io_error(j, "read", c->input);
	if (!rc && r.n < j->n)
		rc = too_short(j, j->n);
	batch_reader_close(&r);
	return rc;
}

/* ---- writing ---- */

/* Appends what b holds and frees it. */
static int append(struct batch_journal *j, struct json_buf *b)
{
	size_t len = b->len;
	bool ok = !b->failed && fwrite(b->s, 1, len, j->f) == len && !fflush(j->f);
	bool memory = b->failed;

	json_buf_free(b);
	if (memory)
		return no_memory(j);
	if (!ok)
		return j->host->fail(j->host, NVLLM_EIO,
			"cannot write %s: %s. What is finished is kept: make room, then go on "
			"with --resume",
			j->path, strerror(errno));
	j->end += (int64_t)len;
	return 0;
}

int batch_journal_begin(struct batch_journal *j, const char *model)
{
	struct json_buf b = { 0 };

	if (j->model && strcmp(j->model, model))
		return j->host->fail(j->host, NVLLM_EINVAL,
			"%s was begun with the model '%s', this is '%s': go on with that one, or "
			"delete the journal to begin anew", j->path, j->model, model);
	if (j->model)
		return 0;
	json_put(&b, "{\"nvllm_batch_journal\": 1, \"model\": ");
	json_put_string(&b, model, strlen(model));
	json_put(&b, "}\n");
	return append(j, &b);
}

int batch_journal_add(struct batch_journal *j, int64_t line, uint64_t hash, uint64_t id, int status,
	const struct json_buf *output)
{
	struct batch_entry *e = entry_at(j, line), got;
	struct json_buf b = { 0 };
	char head[200];
	int rc, n;

	if (!e || output->failed)
		return no_memory(j);
	n = snprintf(head, sizeof(head),
		"{\"line\": %lld, \"input\": \"%016llx\", \"id\": \"%016llx\", \"status\": %d, "
		"\"check\": \"%016llx\"" OUTPUT_KEY,
		(long long)line, (unsigned long long)hash, (unsigned long long)id, status,
		(unsigned long long)batch_hash(BATCH_HASH, output->s, output->len));
	got = (struct batch_entry){ j->end + n, (int64_t)output->len, hash, id, status };
	json_put_raw(&b, head, (size_t)n);
	json_put_raw(&b, output->s, output->len);
	json_put(&b, "}\n");
	rc = append(j, &b);
	if (rc)
		return rc;
	*e = got;
	j->done++;
	j->failed += status != 200;
	return 0;
}

static bool copy(int from, int64_t offset, int64_t len, FILE *to)
{
	char chunk[65536];

	while (len > 0) {
		size_t want = len < (int64_t)sizeof(chunk) ? (size_t)len : sizeof(chunk);
		ssize_t got = pread(from, chunk, want, offset);

		if (got == 0)
			errno = EIO;
		if (got <= 0 || fwrite(chunk, 1, (size_t)got, to) != (size_t)got)
			return false;
		offset += got;
		len -= got;
	}
	return putc('\n', to) != EOF;
}

static int write_output(struct batch_journal *j, const char *path)
{
	int from = fileno(j->f);
	FILE *to = fopen(path, "we");
	bool ok = to != NULL;
	int keep;

	for (int64_t i = 0; ok && i < j->n; i++)
		if (j->entries[i].len)
			ok = copy(from, j->entries[i].offset, j->entries[i].len, to);
	ok = ok && !fflush(to) && !fsync(fileno(to));
	keep = errno; /* the first error is the one to tell */
	if (to && fclose(to) && ok)
		return -1;
	errno = keep;
	return ok ? 0 : -1;
}

int batch_journal_finish(struct batch_journal *j, const struct batch_conf *c)
{
	char *part;
	int rc = 0;

	if (asprintf(&part, "%s.part", c->output) < 0)
		return no_memory(j);
	if (write_output(j, part) || rename(part, c->output)) {
		rc = j->host->fail(j->host, NVLLM_EIO,
			"cannot write %s: %s. All lines are finished and kept in %s: make room, "
			"then go on with --resume",
			c->output, strerror(errno), j->path);
		unlink(part);
	} else if (unlink(j->path)) {
		rc = io_error(j, "remove", j->path);
	}
	free(part);
	return rc;
}

void batch_journal_close(struct batch_journal *j)
{
	if (j->f)
		fclose(j->f);
	free(j->path);
	free(j->model);
	free(j->entries);
	memset(j, 0, sizeof(*j));
}
