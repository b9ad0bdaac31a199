/* Events of both modes: with --trace, one per call. Full: counted.
 */

/* The process that an event is about; of the kernel: zeroes. */
struct origin {
    u32 generation; /* of its executable image */
    u16 slot;
};

static __always_inline struct event make_event(struct origin origin, u8 kind, u8 function,
                                               u64 address, u64 size, u64 stack_id) {
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .address = address,
                          .size = size,
                          .stack_id = stack_id,
                          .tid = bpf_get_current_pid_tgid(),
                          .generation = origin.generation,
                          .kind = kind,
                          .function = function,
                          .slot = origin.slot};
    return event;
}

#if TRACE
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(trace_events, CAPACITY_LATER);
#else
BPF_PERF_OUTPUT(trace_events);
#endif

static __always_inline void trace(void *ctx, struct origin origin, u8 kind, u8 function,
                                  u64 address, u64 size, u64 stack_id) {
    struct event event = make_event(origin, kind, function, address, size, stack_id);
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
