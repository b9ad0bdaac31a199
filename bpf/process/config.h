/* The knobs of the process mode, with their defaults. See also shared/config.h. */

/* BPF_F_NO_PREALLOC (1) where hash maps can safely allocate on demand in tracing programs (Linux
 * 6.1, "bpf: Convert hash map to bpf_mem_alloc"); 0 allocates everything at load time. */
#ifndef HASH_FLAGS
#define HASH_FLAGS 0
#endif

/* 1: MIN_SIZE or MAX_SIZE was given, so a block without a record may have been filtered out. */
#ifndef SIZES_FILTERED
#define SIZES_FILTERED 0
#endif

/* Sample bytes instead of calls: each byte allocated selects its allocation with the same
 * probability, one in this many (Poisson sampling, as in pprof's heap profiles). 0: off. Site
 * counters then hold estimates: bytes, and counts times COUNT_UNIT. */
#ifndef SAMPLE_BYTES
#define SAMPLE_BYTES 0
#endif

/* 1: releases are counted at their site; 0: user space, which reads all records anyway, subtracts
 * what is outstanding from what was allocated. */
#ifndef COUNT_FREED
#define COUNT_FREED 1
#endif

/* 1: count how long blocks live, by site. */
#ifndef LIFETIMES
#define LIFETIMES 1
#endif

/* 1: each release of a block without a record is one of a block whose allocation was not seen. */
#define RECORDS_ALL (SAMPLE_RATE <= 1 && !SAMPLE_BYTES && !THROTTLE && !SIZES_FILTERED)

/* 1: user space may switch sampling on while tracing (struct throttle). */
#ifndef THROTTLE
#define THROTTLE 0
#endif

/* 1: stop the process (SIGSTOP) as it executes a program, and at its first call, until user space
 * has read its mappings and continues it. Only for a command that leaktrace started: a short-lived
 * one could end before its libraries are read. Needs bpf_send_signal (Linux 5.3). */
#ifndef STOP_AT_START
#define STOP_AT_START 0
#endif

/* The user whose processes leaktrace may continue (kill(2)); ANY_USER: those of all (CAP_KILL). */
#define ANY_USER 0xffffffff
#ifndef CONTINUES_UID
#define CONTINUES_UID ANY_USER
#endif

/* The offset of `ptrace` in struct task_struct. 0: not known. */
#ifndef TASK_PTRACE_OFFSET
#define TASK_PTRACE_OFFSET 0
#endif

/* 1: stop it again when it is about to exit, until user space has looked at it. The offsets are in
 * bytes from the start of struct task_struct, signal_struct and sighand_struct, from the kernel's
 * type information (BTF). */
#ifndef STOP_AT_EXIT
#define STOP_AT_EXIT 0
#endif

/* 1: also if it has other threads then. */
#ifndef STOP_WITH_THREADS
#define STOP_WITH_THREADS 0
#endif

/* The offset of `tgid` in struct task_struct, in bytes, from the kernel's type information (BTF): a
 * fork says which process it made. 0: not known, and user space looks for children. */
#ifndef TASK_TGID_OFFSET
#define TASK_TGID_OFFSET 0
#endif

/* 1: leaktrace is in another pid namespace than the initial one, so that it doesn't know the tgid
 * of the process. The kernel side takes that of the first hit. */
#ifndef IN_PID_NAMESPACE
#define IN_PID_NAMESPACE 0
#endif

/* The slot of the command that leaktrace started. */
#define COMMAND_SLOT 0

/* What the tracepoint oom:mark_victim names as the victim; 0: not known, and it is not attached.
 * Since "oom: add additional details to the tracepoint mark_victim" (Linux 6.9) it is the task. */
#ifndef OOM_VICTIM
#define OOM_VICTIM 0
#endif
#define OOM_VICTIM_IS_PID 1
#define OOM_VICTIM_IS_TASK 2

/* For tests: 1 stops the thread (SIGSTOP) after each record, as the call returns, so that a
 * debugger sees the stack that was walked. Needs bpf_send_signal_thread (Linux 5.5). */
#ifndef STOP_AT_RECORD
#define STOP_AT_RECORD 0
#endif

/* 1: note the exit status of the process. The offsets are in bytes from the start of struct
 * task_struct and struct signal_struct, from the kernel's type information (BTF). */
#ifndef EXIT_STATUS
#define EXIT_STATUS 0
#define TASK_EXIT_CODE_OFFSET 0
#define SIGNAL_FLAGS_OFFSET 0
#define SIGNAL_EXIT_CODE_OFFSET 0
#endif

/* 1: one program serves all functions and asks bpf_get_attach_cookie which one was hit (Linux
 * 5.15); 0: one program per shape of arguments, so that --trace shows valloc as malloc. */
#ifndef ENTER_BY_COOKIE
#define ENTER_BY_COOKIE 1
#endif

/* 1: calls are followed by points inside functions (process/probes/find_points.py). Needs cookies.
 */
#ifndef POINTS
#define POINTS (ENTER_BY_COOKIE && IS_X86_64)
#endif

/* 1: the user named functions (--pair), whose records are in spaces of their own. Needs cookies. */
#ifndef PAIRS
#define PAIRS 0
#endif

/* The space of file descriptors (--fds), after those of pairs. 0: they are not traced. */
#ifndef FD_SPACE
#define FD_SPACE 0
#endif
#define HAS_SPACES (PAIRS || FD_SPACE)

/* 1: walk stacks by unwind tables (x86-64); 0: bpf_get_stack, which follows frame pointers. */
#ifndef WALK_BY_TABLE
#define WALK_BY_TABLE 1
#endif

/* How many frames one program walks, and how many programs run in a row (tail calls). A kernel
 * that refuses 127 frames in one program accepts 16, in eight programs. */
#ifndef WALK_STEPS
#define WALK_STEPS MAX_FRAMES
#endif
#ifndef WALK_PARTS
#define WALK_PARTS 1
#endif

/* 1: of chosen sites, it is counted which stacks release their blocks. A walk that begins at a
 * release goes on in the program that walks on from an allocation, so there must be one. */
#ifndef WATCH_RELEASES
#define WATCH_RELEASES (LIFETIMES && (WALK_BY_TABLE ? WALK_PARTS > 1 : POINTS))
#endif

/* Where the address of a thread's local storage is in struct task_struct, in bytes, from the
 * kernel's type information (BTF); 0: not known. */
#ifndef TASK_FSBASE_OFFSET
#define TASK_FSBASE_OFFSET 0
#endif

/* Where the program break of a process is: the offsets of `mm` in struct task_struct and of `brk`
 * in struct mm_struct, in bytes, from the kernel's type information (BTF). 0: not known, and brk is
 * not hooked. */
#ifndef MM_BRK_OFFSET
#define MM_BRK_OFFSET 0
#define TASK_MM_OFFSET 0
#endif

/* Page fault mode: 1 where the kernel has bpf_task_pt_regs (Linux 5.15), so that pages that the
 * kernel touches for the process have a stack too. */
#ifndef HAS_TASK_PT_REGS
#define HAS_TASK_PT_REGS 1
#endif
