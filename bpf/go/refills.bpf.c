/* Samples what a Go program allocates, where its runtime gets memory for more objects.
 *
 * Each processor of Go's scheduler has a span for each class of sizes, a run of pages from which
 * it takes objects without a call. When all of them are taken, runtime.(*mcache).refill gets
 * another span: one hit, which stands for all objects that were taken from the old one. Objects
 * over 32 KiB each have a span of their own, from runtime.(*mcache).allocLarge. So the runtime's
 * own account of what was allocated (gcController.totalAlloc) is made at the same places.
 *
 * Both functions begin by comparing the stack pointer with the end of the goroutine's stack, and by
 * a branch to where that gets a larger stack, and the function then begins anew. The probe is on
 * the branch, which the kernel emulates: a hit costs one trap, and no instruction is executed
 * elsewhere. Arguments are in rax, rbx, rcx, and the goroutine is in r14 (ABIInternal, Go 1.17).
 * Sources: runtime/mcache.go, runtime/mheap.go (mspan), runtime/runtime2.go (g, m);
 * cmd/compile/abi-internal.md. */

#define FLAG_CARRY 0x001
#define FLAG_ZERO 0x040
#define SPAN_IN_USE 1 /* mSpanInUse */
#define SMALL_BYTES 32768
#define GO_PAGE_BYTES 8192

/* What was allocated, by stack and size of objects. Full: LOSS_SITES. */
BPF_HASH(sites, u64, struct refill_site, CAPACITY_LATER);
/* Stacks by their ids. Full: the sites that follow have no stack. */
BPF_HASH(stacks, u64, struct refill_stack, CAPACITY_LATER);
BPF_ARRAY(window, struct refill_window, 1);

/* In all known versions these members of mspan follow each other like this. */
struct span_counts {
    u16 count; /* allocCount */
    u8 class;  /* spanclass */
    u8 state;
    u8 needs_zero;
    u8 is_user_arena;
    u16 count_before; /* allocCountBeforeCache */
    u64 object_bytes; /* elemsize */
};

/* The branch is taken: to a larger stack. */
static __always_inline int will_begin_anew(struct pt_regs *ctx) {
    return (ctx->flags & (FLAG_CARRY | FLAG_ZERO)) != 0;
}

/* How many hits this one stands for; 0: it is not looked at. Reading a stack costs several times
 * what the trap costs: this bounds it. The count need not be exact. */
static __always_inline u64 weight_of_hit(void) {
    u32 zero = 0;
    struct refill_window *now = window.lookup(&zero);

    if (!now)
        return 1;
    u64 second = bpf_ktime_get_ns() / 1000000000;
    if (now->second != second) {
        now->second = second;
        now->stacks = 0;
    }
    if (now->stacks < STACKS_PER_SECOND) {
        now->stacks++;
        return 1;
    }
    if (bpf_get_prandom_u32() % THINNED_BY) {
        lose(LOSS_THINNED, 1);
        return 0;
    }
    return THINNED_BY;
}

static __always_inline int is_within(u64 address, const u64 *bounds) {
    return address >= bounds[0] && address + 16 <= bounds[1];
}

/* Walk the goroutine's stack by frame pointers, which all Go code keeps. On the thread's own stack
 * (systemstack) the chain goes on into the stack of the goroutine that it works for. Returns the
 * stack's id. */
static __always_inline u64 read_stack(struct pt_regs *ctx, struct refill_stack *stack) {
    u64 bounds[2], pair[2], hash = 0, bp = ctx->bp, other;

    stack->end = END_BROKEN;
    stack->frame_count = 0;
    if (bpf_probe_read_user(bounds, 16, (void *)ctx->r14) || ctx->sp < bounds[0] ||
        ctx->sp + 8 > bounds[1] || bpf_probe_read_user(&pair[1], 8, (void *)ctx->sp))
        return 0;
    other = ctx->r14;
#pragma unroll
    for (int i = 0; i < REFILL_FRAMES; i++) {
        stack->frames[i] = pair[1];
        stack->frame_count = i + 1;
        hash = mix(hash, pair[1]);
        if (!bp) {
            stack->end = END_COMPLETE;
            break;
        }
        if (!is_within(bp, bounds)) {
            /* g.m.curg, once */
            if (!other || bpf_probe_read_user(&other, 8, (void *)(other + G_M)) ||
                bpf_probe_read_user(&other, 8, (void *)(other + M_CURRENT)) ||
                bpf_probe_read_user(bounds, 16, (void *)other) || !is_within(bp, bounds))
                break;
            other = 0;
        }
        if (bp & 7 || bpf_probe_read_user(pair, 16, (void *)bp) || !pair[1])
            break;
        bounds[0] = bp + 16; /* callers are above */
        bp = pair[0];
        if (i == REFILL_FRAMES - 1)
            stack->end = END_TRUNCATED;
    }
    return mix(hash, stack->end) | 1;
}

static __always_inline void count(struct pt_regs *ctx, u64 object_bytes, u64 objects, u64 bytes) {
    struct refill_stack stack = {};
    u64 weight = weight_of_hit();

    if (!weight)
        return;
    u64 stack_id = read_stack(ctx, &stack);
    u64 key = mix(stack_id, object_bytes);
    struct refill_site *site = sites.lookup(&key);
    if (!site) {
        struct refill_site empty = {.stack_id = stack_id, .object_bytes = object_bytes};
        if (stack_id)
            stacks.insert(&stack_id, &stack); /* it exists if it allocates other sizes, too */
        sites.insert(&key, &empty);           /* it exists if another thread was first */
        site = sites.lookup(&key);
    }
    if (!site) {
        lose(LOSS_SITES, weight);
        lose(LOSS_SITE_BYTES, weight * bytes);
        return;
    }
    __sync_fetch_and_add(&site->bytes, weight * bytes);
    __sync_fetch_and_add(&site->objects, weight * objects);
    __sync_fetch_and_add(&site->seen, 1);
}

/* func (c *mcache) refill(spc spanClass) */
int at_refill(struct pt_regs *ctx) {
    struct span_counts counts = {};
    u64 span, elements = 0;
    u8 class = ctx->bx;

    if (will_begin_anew(ctx))
        return 0;
    if (bpf_probe_read_user(&span, 8, (void *)(ctx->ax + CACHE_SPANS + 8 * (u64) class)) ||
        bpf_probe_read_user(&counts, sizeof(counts), (void *)(span + SPAN_COUNTS)) ||
        bpf_probe_read_user(&elements, INDEX_BYTES, (void *)(span + SPAN_ELEMENTS))) {
        lose(LOSS_SPANS, 1);
        return 0;
    }
    if (!elements && !counts.count) /* emptymspan: there was none since the last collection */
        return 0;
    if (counts.class != class || counts.state != SPAN_IN_USE || counts.count != elements ||
        counts.count_before > elements || !counts.object_bytes ||
        counts.object_bytes > SMALL_BYTES) {
        lose(LOSS_SPANS, 1);
        return 0;
    }
    u64 objects = elements - counts.count_before;
    count(ctx, counts.object_bytes, objects, objects * counts.object_bytes);
    return 0;
}

/* func (c *mcache) allocLarge(size uintptr, noscan bool) */
int at_large(struct pt_regs *ctx) {
    if (will_begin_anew(ctx))
        return 0;
    count(ctx, 0, 1, (ctx->bx + GO_PAGE_BYTES - 1) & ~(u64)(GO_PAGE_BYTES - 1));
    return 0;
}
