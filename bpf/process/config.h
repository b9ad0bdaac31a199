/* Every knob of the process mode, with its default. */

/* BPF_F_NO_PREALLOC (1) where hash maps allocate safely on demand in tracing
 * programs (Linux 6.1, "bpf: Convert hash map to bpf_mem_alloc"); 0 reserves
 * everything at load time. */
#ifndef HASH_FLAGS
#define HASH_FLAGS 0
#endif

/* 1: one of those bounds was asked for, so a block that isn't recorded may have been left out. */
#ifndef SIZES_FILTERED
#define SIZES_FILTERED 0
#endif

/* Record bytes instead of calls: each byte allocated has the same chance of drawing its allocation,
 * one in this many on average (Poisson sampling, as in pprof's heap profiles). 0: off. The site
 * counters then hold estimates: bytes, and counts times COUNT_UNIT. */
#ifndef SAMPLE_BYTES
#define SAMPLE_BYTES 0
#endif

/* 1: what is freed is counted at its site, as it is freed; 0: user space takes what a site holds
 * from what it has allocated, where it reads all records anyway. */
#ifndef COUNT_FREED
#define COUNT_FREED 1
#endif

/* 1: user space may have one allocation in so many recorded from some time on (struct throttle). */
#ifndef THROTTLE
#define THROTTLE 0
#endif

/* 1: stop the process (SIGSTOP) as it makes its first call, until user space has read its mappings
 * and continues it. Only for a command that leaktrace itself has started: what is short-lived could
 * be gone before anybody has looked at its libraries. Needs bpf_send_signal (Linux 5.3). */
#ifndef STOP_AT_START
#define STOP_AT_START 0
#endif

/* For tests: 1 stops the process (SIGSTOP, sent to the thread) after each record, as the call
 * returns, so that a debugger finds the very stack that was walked. Needs bpf_send_signal_thread
 * (Linux 5.5). */
#ifndef STOP_AT_RECORD
#define STOP_AT_RECORD 0
#endif

/* 1: how the process ends is noted. Where the kernel keeps that, in bytes from the beginning of
 * struct task_struct and struct signal_struct, is told by its type information (BTF). */
#ifndef EXIT_STATUS
#define EXIT_STATUS 0
#define TASK_SIGNAL_OFFSET 0
#define TASK_EXIT_CODE_OFFSET 0
#define SIGNAL_FLAGS_OFFSET 0
#define SIGNAL_EXIT_CODE_OFFSET 0
#endif

/* 1: one program serves all functions and asks bpf_get_attach_cookie which one was hit
 * (Linux 5.15); 0: a program for each shape of arguments, so that -t shows valloc as malloc. */
#ifndef ENTER_BY_COOKIE
#define ENTER_BY_COOKIE 1
#endif

/* 1: calls are followed by points within functions (process/probes/points.py). Needs cookies. */
#ifndef POINTS
#define POINTS (ENTER_BY_COOKIE && WORDS_OF_X86_64)
#endif

/* 1: stacks by unwind tables (x86-64); 0: bpf_get_stack, which follows frame pointers. */
#ifndef WALK_BY_TABLE
#define WALK_BY_TABLE 1
#endif
/* Frames that one program walks, and how many programs in a row (tail calls) do so. A kernel that
 * refuses 127 frames at once takes 16 in one program, which is followed by seven of its kind. */
#ifndef WALK_STEPS
#define WALK_STEPS MAX_FRAMES
#endif
#ifndef WALK_PARTS
#define WALK_PARTS 1
#endif
/* Page fault mode: 1 where bpf_task_pt_regs is there (Linux 5.15), so that pages which the kernel
 * touches for the process have a stack too. */
#ifndef HAS_TASK_PT_REGS
#define HAS_TASK_PT_REGS 1
#endif
