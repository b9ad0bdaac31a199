/* Events about regions and about the life of the process. */

static __always_inline void send_event(void *ctx, struct event *event) {
#if USE_RING_BUFFER
    long error = region_events.ringbuf_output(event, sizeof(*event), 0);
#else
    long error = region_events.perf_submit(ctx, event, sizeof(*event));
#endif
    if (error)
        lose(LOSS_REGION_EVENTS, 1);
}

static __always_inline struct origin origin_of(struct session *now) {
    struct origin origin = {.generation = now->generation, .slot = now->slot};
    return origin;
}

static __always_inline void send_region(void *ctx, struct session *now, u8 kind, u8 function,
                                        u64 address, u64 size, u64 stack_id) {
    struct event event = make_event(origin_of(now), kind, function, address, size, stack_id);
    send_event(ctx, &event);
}
