/* The command that leaktrace has started is about to exit. It is stopped until user space has read
 * what only a process that still has its memory can tell. */

#if STOP_AT_EXIT
#define SIGCONT 18
/* Of struct k_sigaction: a handler, flags, a restorer and a mask, 64 bits each, on all machines
 * that leaktrace knows (include/linux/signal_types.h). Its first member is the handler. */
#define SIGACTION_BYTES 32
#define SIG_IGN 1 /* SIG_DFL: 0 */

/* Whether a stop would go unnoticed by the program. A handler of SIGCONT would run. And other
 * threads could see EINTR (signal(7), "Interruption of system calls by stop signals"), a moment
 * before the exit ends them: only if the user wants that. */
static __always_inline int would_not_notice(void) {
    char *task = (char *)bpf_get_current_task(), *signal = 0, *handlers = 0;
    u64 handler = 0;
    u32 threads = 0;
    long error = read_kernel(&signal, sizeof(signal), task + TASK_SIGNAL_OFFSET);

    error |= read_kernel(&threads, sizeof(threads), signal + SIGNAL_THREADS_OFFSET);
    error |= read_kernel(&handlers, sizeof(handlers), task + TASK_SIGHAND_OFFSET);
    error |= read_kernel(&handler, sizeof(handler),
                         handlers + SIGHAND_ACTION_OFFSET + (SIGCONT - 1) * SIGACTION_BYTES);
    return !error && (threads == 1 || STOP_WITH_THREADS) && handler <= SIG_IGN;
}

/* At the entry of the function that makes the system call exit_group. */
int at_exit(struct pt_regs *ctx) {
    struct session *now = session_of_probe(ctx);
    u64 key = thread_key();

    /* Before its exec, a command is a copy of leaktrace. A child made by vfork has its memory. */
    if (!now || !now->armed || !now->generation || now->slot != COMMAND_SLOT || now->exit_ns ||
        now->tgid != key >> 32 || !may_stop() || !would_not_notice())
        return 0;
    now->exit_ns = bpf_ktime_get_ns();
    bpf_send_signal(SIGSTOP);
    return 0;
}
#endif
