/* Stacks by frame pointers: bpf_get_stack, for kernels and machines without the walker by unwind
 * tables. */

#if !WALK_BY_TABLE

#if POINTS
/* The stack of a function's caller, read at a point inside the function: bpf_get_stack would begin
 * inside. Returns its size in bytes. */
static __always_inline long stack_above(struct walk *walk, struct stack *stack) {
    u64 frame = walk->frame, bp = walk->bp, low = frame;
    u32 count = 1;

    if (bpf_probe_read_user(&stack->pc[0], 8, (void *)(frame - 8)))
        return 0;
    if (walk->rbp_offset == RBP_LOST)
        return 8;
    if (walk->rbp_offset != RBP_UNCHANGED &&
        bpf_probe_read_user(&bp, 8, (void *)(frame + (s64)walk->rbp_offset)))
        return 8;
#pragma clang loop unroll(disable)
    for (u32 i = 1; i < MAX_FRAMES; i++) {
        if (bp < low || bp & 7 || bpf_probe_read_user(walk->saved, 16, (void *)bp) ||
            !walk->saved[1])
            break;
        stack->pc[i] = walk->saved[1];
        count = i + 1;
        low = bp + 16;
        bp = walk->saved[0];
    }
    return count * 8;
}
#endif

/* Read the stack. Returns its id. */
static __always_inline u64 stack_by_frame_pointers(struct pt_regs *ctx, struct thread *thread) {
    struct stack *stack = &thread->stack;
#if POINTS
    long bytes = thread->walk.frame
                     ? stack_above(&thread->walk, stack)
                     : bpf_get_stack(ctx, stack->pc, sizeof(stack->pc), BPF_F_USER_STACK);
#else
    long bytes = bpf_get_stack(ctx, stack->pc, sizeof(stack->pc), BPF_F_USER_STACK);
#endif

    if (bytes < 8) {
        if (thread->walk.function != FUNCTION_FREE)
            lose(LOSS_FAILED_STACKS, 1);
        return 0;
    }
    u32 frame_count = (u32)bytes / 8;
    u64 hash = thread->walk.hash;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < MAX_FRAMES; i++) {
        if (i >= frame_count)
            break;
        hash = mix(hash, stack->pc[i]);
    }
    stack->frame_count = frame_count;
    stack->end = END_UNKNOWN;
    stack->result = WALK_GOES_ON;
    if (frame_count == MAX_FRAMES) {
        stack->end = END_TRUNCATED;
        if (thread->walk.function != FUNCTION_FREE)
            lose(LOSS_WALKS + WALK_TOO_DEEP, 1);
    }
    return hash ? hash : 1;
}

#endif
