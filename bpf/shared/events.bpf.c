/* Events of both modes: with --trace, one per call. Full: counted.
 *
 * The mode defines generation_of(slot), the executable image that an event belongs to. The kernel
 * mode has one slot. */

static __always_inline struct event make_event(u32 slot, u8 kind, u8 function, u64 address,
                                               u64 size, u64 stack_id) {
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .address = address,
                          .size = size,
                          .stack_id = stack_id,
                          .tid = bpf_get_current_pid_tgid(),
                          .generation = generation_of(slot),
                          .kind = kind,
                          .function = function,
                          .slot = slot};
    return event;
}

#if TRACE
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(trace_events, CAPACITY_LATER);
#else
BPF_PERF_OUTPUT(trace_events);
#endif

static __always_inline void trace(void *ctx, u32 slot, u8 kind, u8 function, u64 address, u64 size,
                                  u64 stack_id) {
    struct event event = make_event(slot, kind, function, address, size, stack_id);
#if USE_RING_BUFFER
    long error = trace_events.ringbuf_output(&event, sizeof(event), 0);
#else
    long error = trace_events.perf_submit(ctx, &event, sizeof(event));
#endif
    if (error)
        lose(LOSS_EVENTS, 1);
}
#else
#define trace(...)
#endif
