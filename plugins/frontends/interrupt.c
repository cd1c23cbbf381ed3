/* SPDX-License-Identifier: MIT */
/* frontends/interrupt.c - decides how Ctrl-C reaches a front end; see interrupt.h. */
#define _GNU_SOURCE
#include "interrupt.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Runs on whatever thread the kernel chose; the main thread has the signal blocked, so
 * there it waits for the descriptor. tgkill is async-signal-safe. */
static void hand_on(int sig)
{
	int keep = errno;

	if (syscall(SYS_gettid) != getpid())
		syscall(SYS_tgkill, getpid(), getpid(), sig);
	errno = keep;
}

int interrupt_begin(struct interrupt *in)
{
	struct sigaction act = { .sa_handler = hand_on, .sa_flags = SA_RESTART };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigemptyset(&act.sa_mask);
	in->fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (in->fd < 0)
		return -1;
	pthread_sigmask(SIG_BLOCK, &set, &in->old_mask);
	sigaction(SIGINT, &act, &in->old_action);
	return 0;
}

bool interrupt_taken(struct interrupt *in)
{
	struct signalfd_siginfo info;
	bool came = false;

	while (read(in->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		came = true;
	return came;
}

void interrupt_let_kill(struct interrupt *in)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	signal(SIGINT, SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void interrupt_end(struct interrupt *in)
{
	interrupt_taken(in);
	sigaction(SIGINT, &in->old_action, NULL);
	pthread_sigmask(SIG_SETMASK, &in->old_mask, NULL);
	close(in->fd);
	in->fd = -1;
}
