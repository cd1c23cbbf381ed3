/* SPDX-License-Identifier: MIT */
/* frontends/interrupt.h - Ctrl-C as something to poll. SIGINT is blocked in the main
 * thread, and a descriptor becomes readable when it comes; a thread of the engine that
 * gets it hands it on to the main thread. So no handler needs a variable of the process. */
#ifndef NVLLM_FRONTENDS_INTERRUPT_H
#define NVLLM_FRONTENDS_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

struct interrupt {
	int fd;                    /* to poll; readable: Ctrl-C was pressed */
	sigset_t old_mask;
	struct sigaction old_action;
};

/* On the main thread. 0, or -1 and errno. Takes SIGINT also where it was ignored (a job
 * started with &). */
int  interrupt_begin(struct interrupt *);
/* True if it came since the last call. Does not wait. */
bool interrupt_taken(struct interrupt *);
/* From now on SIGINT ends the process, as if no one had asked for it. */
void interrupt_let_kill(struct interrupt *);
/* As it was before begin; one that is still waiting is dropped. */
void interrupt_end(struct interrupt *);

#endif
