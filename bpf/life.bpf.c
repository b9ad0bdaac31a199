/* The life of the process: exec makes another program of it, it forks, and its threads end. */

int at_sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    u64 key = thread_key();
    struct session *now = this_session();

    if (!now || now->tgid != key >> 32)
        return 0;
    now->generation++;
    now->exec_time_ns = bpf_ktime_get_ns();
    threads.delete(&key);
    u64 before = key >> 32 << 32 | (u32)ctx->args[1]; /* another thread than the first has it */
    threads.delete(&before);
    struct event event = {.time_ns = now->exec_time_ns,
                          .kind = EVENT_EXEC,
                          .generation = now->generation,
                          .address = (u32)ctx->args[1], /* the thread's id before the exec */
                          .tid = key};
    send_region_event(ctx, &event);
    return 0;
}

/* Tell of threads and children, of some that come together once. */
#define BETWEEN_FORKS_NS 100000000

int at_sched_process_fork(struct bpf_raw_tracepoint_args *ctx) {
    struct session *now = this_session();
    u64 time_ns = bpf_ktime_get_ns();

    if (!now || now->tgid != thread_key() >> 32 || time_ns - now->forked_ns < BETWEEN_FORKS_NS)
        return 0;
    now->forked_ns = time_ns;
    struct event event = {.time_ns = time_ns, .kind = EVENT_FORKED, .generation = now->generation};
    send_region_event(ctx, &event);
    return 0;
}

int at_sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
    u64 key = thread_key();
    threads.delete(&key);
    return 0;
}
