/* Capture a user stack and return its 64-bit id. The id is a hash of the frames
 * in a map of our own, because bpf_get_stackid drops a stack whose bucket is
 * taken. Id 0 means: no stack. */

static __always_inline u64 mix(u64 hash, u64 value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 29);
}

/* Taken in a return probe, where ip is the return address: the first frame is
 * the caller. */
static __always_inline u64 capture_stack(struct pt_regs *ctx,
                                         struct thread *thread,
                                         u32 generation) {
    struct stack *stack = &thread->stack;
    long bytes = bpf_get_stack(ctx, stack->pc, sizeof(stack->pc), BPF_F_USER_STACK);

    if (bytes < 8) {
        lose(LOSS_FAILED_STACKS, 1);
        return 0;
    }
    u32 frame_count = (u32)bytes / 8;
    u64 hash = mix(1, generation);

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < MAX_FRAMES; i++) {
        if (i >= frame_count)
            break;
        hash = mix(hash, stack->pc[i]);
    }
    stack->generation = generation;
    stack->frame_count = frame_count;
    stack->end = END_UNKNOWN;
    stack->detail = 0;
    if (frame_count == MAX_FRAMES) {
        stack->end = END_TRUNCATED;
        lose(LOSS_TRUNCATED_STACKS, 1);
    }
    return hash ? hash : 1;
}
