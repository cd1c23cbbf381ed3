/* SPDX-License-Identifier: MIT */
/* frontends/shell_edit.c - line editing by libedit. Characters are read here and not by
 * libedit, so that Ctrl-C is something the read hears of. The locale is this thread's
 * alone, for libedit to draw UTF-8. */
#define _GNU_SOURCE
#include "shell.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "utf8.h"

#define HISTORY_LINES 1000

struct shell_edit {
	struct shell *sh;
	EditLine *el;
	HistoryW *history;
	locale_t locale, old_locale;
	struct json_buf line;
	bool interrupted;
};

static wchar_t *prompt(EditLine *el)
{
	static const wchar_t text[] = L"> ";

	return (wchar_t *)(uintptr_t)text;
}

/* One byte of the terminal: 1, 0 at its end, -1 on Ctrl-C or an error. */
static int read_byte(struct shell_edit *e, char *c)
{
	struct pollfd fds[2] = { { .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = e->sh->interrupt.fd, .events = POLLIN } };
	ssize_t n;

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return -1;
		if (interrupt_taken(&e->sh->interrupt)) {
			e->interrupted = true;
			return -1;
		}
		if (!fds[0].revents)
			continue;
		n = read(STDIN_FILENO, c, 1);
		if (n >= 0 || errno != EINTR)
			return (int)n;
	}
}

/* libedit's reader: 1 and a character, 0 at the end, -1 to give the line up. */
static int read_char(EditLine *el, wchar_t *out)
{
	struct shell_edit *e = NULL;
	char s[4];
	size_t n = 0;
	uint32_t cp;
	int rc;

	el_wget(el, EL_CLIENTDATA, &e);
	do {
		rc = read_byte(e, &s[n]);
		if (rc <= 0)
			return rc;
		n++;
	} while (n < 4 && utf8_complete(s, n) < n);
	if (n == 1 && s[0] == 3) { /* a terminal that makes no signal of Ctrl-C */
		e->interrupted = true;
		return -1;
	}
	*out = (wchar_t)(utf8_decode(s, n, &cp) == n ? cp : 0xfffd);
	return 1;
}

static bool is_utf8(locale_t l)
{
	return l && !strcmp(nl_langinfo_l(CODESET, l), "UTF-8");
}

static void set_locale(struct shell_edit *e)
{
	e->locale = newlocale(LC_CTYPE_MASK, "", NULL);
	if (!is_utf8(e->locale)) {
		if (e->locale)
			freelocale(e->locale);
		e->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", NULL);
	}
	e->old_locale = uselocale(e->locale ? e->locale : (locale_t)0);
}

static void load_history(struct shell_edit *e)
{
	const char *path = e->sh->conf->history;
	HistEventW ev;

	history_w(e->history, &ev, H_SETSIZE, HISTORY_LINES);
	history_w(e->history, &ev, H_SETUNIQUE, 1);
	if (*path && !access(path, F_OK) && history_w(e->history, &ev, H_LOAD, path) < 0)
		e->sh->host->log(e->sh->host, NVLLM_LOG_WARN,
			"%s is no history file: it will be written anew", path);
	el_wset(e->el, EL_HIST, history_w, e->history);
}

struct shell_edit *shell_edit_create(struct shell *sh)
{
	struct shell_edit *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->sh = sh;
	set_locale(e);
	e->el = el_init("nvllm", stdin, sh->out_tty ? stdout : stderr, stderr);
	e->history = history_winit();
	if (!e->el || !e->history) {
		shell_edit_destroy(e);
		return NULL;
	}
	el_wset(e->el, EL_CLIENTDATA, e);
	el_wset(e->el, EL_PROMPT, prompt);
	el_wset(e->el, EL_EDITOR, L"emacs");
	el_wset(e->el, EL_SIGNAL, 0);
	el_wset(e->el, EL_GETCFN, read_char);
	load_history(e);
	return e;
}

static void keep_line(struct shell_edit *e, const wchar_t *s, int n)
{
	char utf8[4];

	e->line.len = 0;
	json_put_raw(&e->line, "", 0);
	for (int i = 0; i < n && s[i] != L'\n' && s[i] != L'\r'; i++)
		json_put_raw(&e->line, utf8, utf8_encode((uint32_t)s[i], utf8));
}

enum shell_key shell_edit_line(struct shell_edit *e, const char **line)
{
	const wchar_t *s;
	HistEventW ev;
	int n = 0;

	*line = NULL;
	e->interrupted = false;
	el_resize(e->el);
	el_wset(e->el, EL_PREP_TERM, 1); /* before the prompt shows: keys typed at it are ours */
	s = el_wgets(e->el, &n);
	if (e->interrupted) {
		const LineInfoW *info = el_wline(e->el);

		keep_line(e, info->buffer, (int)(info->lastchar - info->buffer));
		*line = e->line.len ? e->line.s : NULL;
		el_reset(e->el);
		return SHELL_INTERRUPT;
	}
	if (!s || n <= 0)
		return n < 0 ? SHELL_FAILED : SHELL_END;
	keep_line(e, s, n);
	if (e->line.failed)
		return SHELL_FAILED;
	if (e->line.len)
		history_w(e->history, &ev, H_ENTER, s);
	*line = e->line.s;
	return SHELL_LINE;
}

static void save_history(struct shell_edit *e)
{
	const char *path = e->sh->conf->history;
	HistEventW ev;

	if (*path && history_w(e->history, &ev, H_SAVE, path) < 0)
		e->sh->host->log(
			e->sh->host, NVLLM_LOG_WARN, "cannot write the history file %s", path);
}

void shell_edit_destroy(struct shell_edit *e)
{
	if (!e)
		return;
	if (e->el && e->history)
		save_history(e);
	if (e->history)
		history_wend(e->history);
	if (e->el)
		el_end(e->el);
	if (e->locale) {
		uselocale(e->old_locale);
		freelocale(e->locale);
	}
	json_buf_free(&e->line);
	free(e);
}
