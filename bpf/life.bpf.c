/* The life of the process: exec makes another program of it, and its threads end. */

RAW_TRACEPOINT_PROBE(sched_process_exec) {
    u64 key = thread_key();
    struct session *now = this_session();

    if (!now || now->tgid != key >> 32)
        return 0;
    now->generation++;
    now->exec_time_ns = bpf_ktime_get_ns();
    threads.delete(&key);
    struct event event = {.time_ns = now->exec_time_ns,
                          .kind = EVENT_EXEC,
                          .generation = now->generation,
                          .address = (u32)ctx->args[1], /* the thread's id before the exec */
                          .tid = key};
    send_region_event(ctx, &event);
    return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit) {
    u64 key = thread_key();
    threads.delete(&key);
    return 0;
}
