/* The stack of an allocation. */

#define WITHIN(pc, start, end) ((u64)(pc) - (start) < (end) - (start))

/* Read the stack, and find its end and its context. An interrupt's stack ends at the interrupt's
 * entry, because the interrupted code has nothing to do with its allocations. The loop's state is
 * in memory, so that all iterations look alike to the verifier. Returns the stack's id; 0: none. */
static __always_inline u64 read_stack(void *ctx, struct scratch *scratch, u64 call_site, u64 seed) {
    struct kernel_stack *stack = &scratch->stack;
    long bytes = bpf_get_stack(ctx, stack->pc, MAX_FRAMES * 8, 0);

    stack->skipped = 0;
    stack->context = CONTEXT_PROCESS;
    stack->end = END_UNKNOWN;
    stack->frame_count = 0;
    if (bytes < 8) {
        lose(LOSS_FAILED_STACKS, 1);
        return 0;
    }
    scratch->call_site = call_site;
    scratch->hash = seed;
    scratch->count = (u64)bytes >> 3;
    if (scratch->count >= STACK_LIMIT)
        stack->end = END_TRUNCATED;
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAX_FRAMES; i++) {
        if (i >= scratch->count)
            break;
        u64 pc = stack->pc[i & (STACK_PLACES - 1)];
        if (i < 16 && pc == scratch->call_site && !stack->skipped) {
            stack->skipped = i;
            scratch->hash = seed;
        }
        scratch->hash = mix(scratch->hash, pc);
        stack->frame_count = i + 1;
        if (WITHIN(pc, SOFTIRQ_START, SOFTIRQ_END)) {
            stack->context = CONTEXT_SOFTIRQ;
            scratch->count = 0;
        }
        if (WITHIN(pc, IRQ_START, IRQ_END)) {
            stack->context = CONTEXT_IRQ;
            scratch->count = 0;
        }
        asm volatile("" ::: "memory");
    }
    u64 last = stack->pc[(stack->frame_count - 1) & (STACK_PLACES - 1)];
    if (stack->context != CONTEXT_PROCESS || WITHIN(last, ENTRY_START, ENTRY_END) ||
        WITHIN(last, FORK_START, FORK_END))
        stack->end = END_COMPLETE;
    if (stack->end == END_TRUNCATED)
        lose(LOSS_TRUNCATED_STACKS, 1);
    return mix(scratch->hash, stack->context) | 1;
}
