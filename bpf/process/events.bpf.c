/* What is sent to user space. */

static __always_inline void send_region_event(void *ctx, struct event *event) {
#if USE_RING_BUFFER
    long error = region_events.ringbuf_output(event, sizeof(*event), 0);
#else
    long error = region_events.perf_submit(ctx, event, sizeof(*event));
#endif
    if (error)
        lose(LOSS_REGION_EVENTS, 1);
}

#if TRACE
static __always_inline void send_trace_event(void *ctx, struct event *event) {
#if USE_RING_BUFFER
    long error = trace_events.ringbuf_output(event, sizeof(*event), 0);
#else
    long error = trace_events.perf_submit(ctx, event, sizeof(*event));
#endif
    if (error)
        lose(LOSS_EVENTS, 1);
}
#endif

static __always_inline struct event make_event(u16 kind, u16 function, u64 address, u64 size,
                                               u64 stack_id) {
    struct session *now = this_session();
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .address = address,
                          .size = size,
                          .stack_id = stack_id,
                          .tid = thread_key(),
                          .kind = kind,
                          .function = function};
    if (now)
        event.generation = now->generation;
    return event;
}

#if TRACE
static __always_inline void trace(struct pt_regs *ctx, u16 kind, u16 function, u64 address,
                                  u64 size, u64 stack_id) {
    struct event event = make_event(kind, function, address, size, stack_id);
    send_trace_event(ctx, &event);
}
#else
#define trace(...)
#endif

static __always_inline void send_region(struct pt_regs *ctx, u16 kind, u16 function, u64 address,
                                        u64 size, u64 stack_id) {
    struct event event = make_event(kind, function, address, size, stack_id);
    send_region_event(ctx, &event);
}
