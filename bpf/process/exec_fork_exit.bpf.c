/* The life of the process: it executes another program, it forks, its threads end, it is killed. */

/* The current process, if it is traced or a descendant of one that is. */
static __always_inline struct process *this_process(void) {
    u32 tgid = thread_key() >> 32;
    return processes.lookup(&tgid);
}

/* Forget the state of a thread. */
static __always_inline void forget_thread(u64 key) {
#if HAS_SPACES
#pragma clang loop unroll(disable)
    for (u64 space = 1; space < SPACES; space++) {
        u64 of_space = key | space << THREAD_SPACE_SHIFT;
        threads.delete(&of_space);
    }
#endif
    threads.delete(&key);
}

int at_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    u64 key = thread_key();
    struct process *process = this_process();

    if (!process)
        return 0;
    u32 slot = process->slot;
    struct session *now = session_of(slot);
    if (!now) {
        process->execs++;
        return 0;
    }
    now->generation++;
    now->exec_time_ns = bpf_ktime_get_ns();
    now->raised_to = 0;
    now->unseen = 0;
    see_break(now);
    forget_thread(key);
    /* If another thread than the first called exec, it has a new id now. */
    u64 before = key >> 32 << 32 | (u32)ctx->args[1];
    forget_thread(before);
#if STOP_AT_START
    /* Before its first instruction. What leaktrace executes itself was planned before. */
    if (now->generation > 1)
        stop_at(now, 0);
#endif
    struct event event = {.time_ns = now->exec_time_ns,
                          .kind = EVENT_EXEC,
                          .generation = now->generation,
                          .address = (u32)ctx->args[1], /* the thread's id before the exec */
                          .tid = key,
                          .slot = slot};
    send_event(ctx, &event);
    return 0;
}

/* Where it isn't known whether a fork made a thread or a process, and where children are not
 * followed, forks are sent at most this often. */
#define FORK_INTERVAL_NS 100000000

int at_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    struct process *process = this_process();
    u64 time_ns = bpf_ktime_get_ns();
    u32 tgid = thread_key() >> 32, child = 0;

    if (!process)
        return 0;
    u32 slot = process->slot;
    struct session *now = session_of(slot);
#if TASK_TGID_OFFSET
    if (read_kernel(&child, sizeof(child), (char *)ctx->args[1] + TASK_TGID_OFFSET) ||
        child == tgid)
        return 0; /* a thread */
    if (now)
        __sync_fetch_and_add(&now->children, 1);
    if (process->follows) {
        struct process entered = {.slot = NO_SLOT, .follows = 1};
        if (processes.update(&child, &entered))
            lose(LOSS_CHILDREN, 1);
    }
#endif
    if (!process->follows) {
        if (!now || time_ns - now->forked_ns < FORK_INTERVAL_NS)
            return 0;
        now->forked_ns = time_ns;
    }
    struct event event = {.time_ns = time_ns,
                          .kind = EVENT_FORKED,
                          .generation = now ? now->generation : 0,
                          .address = child,
                          .size = tgid,
                          .slot = now ? slot : MAX_SLOTS};
    send_event(ctx, &event);
    return 0;
}

#if EXIT_STATUS
#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

/* The status as wait_task_zombie in kernel/exit.c computes it: the exit code of the thread group,
 * if the whole group was told to exit, else that of the first thread. Each thread that exits notes
 * it. Both codes are final by then, so what the last thread notes is the status of the process. */
static __always_inline void note_exit_status(struct session *now, u64 key) {
    char *task = (char *)bpf_get_current_task(), *signal = 0;
    u32 flags = 0, code = 0;
    long error = read_kernel(&signal, sizeof(signal), task + TASK_SIGNAL_OFFSET);

    error |= read_kernel(&flags, sizeof(flags), signal + SIGNAL_FLAGS_OFFSET);
    if (!error && flags & SIGNAL_GROUP_EXIT)
        error = read_kernel(&code, sizeof(code), signal + SIGNAL_EXIT_CODE_OFFSET);
    else if (!error && key >> 32 == (u32)key)
        error = read_kernel(&code, sizeof(code), task + TASK_EXIT_CODE_OFFSET);
    else if (!error)
        return;
    now->wait_status = error ? 0 : STATUS_IS_KNOWN | code;
}
#endif

#if OOM_VICTIM
/* The OOM killer has chosen this process; the signal follows. */
int at_mark_victim(struct bpf_raw_tracepoint_args *ctx) {
    u32 tgid = (u32)ctx->args[0];

#if OOM_VICTIM == OOM_VICTIM_IS_TASK
    if (read_kernel(&tgid, sizeof(tgid), (char *)ctx->args[0] + TASK_TGID_OFFSET))
        return 0;
#endif
    struct process *process = processes.lookup(&tgid);
    struct session *now = process ? session_of(process->slot) : 0;
    if (now)
        now->oom_ns = bpf_ktime_get_ns();
    return 0;
}
#endif

int at_sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
    u64 key = thread_key();
    u32 tgid = key >> 32;
    struct process *process = processes.lookup(&tgid);

#if EXIT_STATUS
    struct session *now = process ? session_of(process->slot) : 0;
    if (now)
        note_exit_status(now, key);
#endif
    if (process && process->slot == NO_SLOT && tgid == (u32)key)
        processes.delete(&tgid); /* the others are removed by user space */
    forget_thread(key);
    return 0;
}
