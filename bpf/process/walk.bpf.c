/* Walk a user stack and give it a 64-bit id. The id is a hash of the frames, in a map of our own:
 * bpf_get_stackid would drop a stack whose bucket is taken. Id 0 means: no stack.
 *
 * The walk uses unwind tables compiled from .eh_frame: docs/unwinding.md. All its state is in the
 * thread's map value instead of registers, with a compiler barrier after each frame. So all
 * iterations look alike to the verifier, which then accepts 127 of them. */

/* Where a walk starts. */
struct registers {
    u64 ip;
    u64 sp;
    u64 bp;
    u8 ip_is_return_address;
    u64 frame;      /* CFA of a function, whose caller is the first frame; 0: start at ip */
    s32 rbp_offset; /* where that function keeps its caller's rbp: struct point */
};

/* A walk that starts at a function's caller also copies this much of the stack below the CFA,
 * because the caller's rbp is usually there. */
#define FRAME_WINDOW_BYTES 64

static __always_inline void start_walk(struct walk *walk, struct registers registers,
                                       struct session *now) {
    walk->ip = registers.ip;
    walk->sp = registers.frame ? registers.frame - FRAME_WINDOW_BYTES : registers.sp;
    walk->bp = registers.bp;
    walk->frame = registers.frame;
    walk->rbp_offset = registers.rbp_offset;
    walk->is_return_address = registers.ip_is_return_address;
    walk->hash = mix(1, image_of(now));
    if (space_of(walk))
        walk->hash = mix(walk->hash, space_of(walk));
    walk->late_since = 0;
    walk->frame_count = 0;
    walk->bp_lost = 0;
    walk->guessed = 0;
    walk->parts = 0;
    walk->switches = 0;
    walk->switch_row = 0;
    walk->callback_sp = 0;
    walk->window_start = ~0ULL;
    walk->window_bytes = 8;
}

#if WALK_BY_TABLE

/* A hash of the objects loaded since the list was made: they change what addresses mean. */
static __always_inline u64 hash_late(struct walk *walk) {
    u64 sum = 0;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) {
        walk->key = walk->first_late + i;
        struct late_object *late = late_objects.lookup(&walk->key);
        if (!late)
            break;
        u64 counts = NOT_ABOVE((u64)walk->late_since + 1, late->epoch);
        sum += mix(late->mapping.start, late->mapping.fingerprint) & -counts;
    }
    return sum;
}

/* Choose the list of mappings that the walk uses. */
static __always_inline void prepare_walk(struct walk *walk, struct stack *stack,
                                         struct session *now) {
    struct unwind_list *list = list_in_force(walk->slot);

    walk->mapping = walk->first_mapping = 0;
    walk->mapping_count = 0;
    walk->sees_loads = 0;
    walk->list_mark = 0; /* no entry has this one */
    do_not_cache(walk);
    walk->trampoline = 0;
    walk->version = 0;
    stack->view = stack->since = stack->epoch = stack->in_doubt = 0;
    if (!list || list->generation != now->generation)
        return; /* after an exec, until the new mappings are known */
    stack->view = list->view;
    stack->since = list->epoch;
    stack->epoch = now->epoch;
    walk->hash = mix(walk->hash, list->view);
    walk->version = list->version;
    walk->list_mark =
        (record_key(now, HEAP_SPACE, list->version) ^ (u64)now->use << 32) * HASH_MULTIPLIER;
    if (list->epoch != now->epoch) {
        walk->late_since = list->epoch;
        u64 late = hash_late(walk);
        if (late) {
            walk->hash = mix(walk->hash, late);
            walk->list_mark = mix(walk->list_mark, late);
        }
        if (now->overflow_epoch > list->epoch && now->unload_epoch > list->epoch) {
            walk->list_mark = 0;
            walk->hash = mix(walk->hash, now->epoch);
            stack->in_doubt = 1;
            return;
        }
    }
    walk->sees_loads = list->sees_loads & -(u32)(now->overflow_epoch <= list->epoch);
    walk->list_mark |= 1;
    start_cacheable(walk);
    asm volatile("" ::: "memory");
    u64 place = list->place;
    walk->mapping = walk->first_mapping = (u32)place;
    walk->mapping_count = place >> 32;
    walk->trampoline = list->trampoline;
}

/* Walk up to WALK_STEPS frames. */
static __always_inline int walk_some(struct thread *thread) {
    struct walk *walk = &thread->walk;
    struct stack *stack = &thread->stack;
    int result = WALK_GOES_ON;

#pragma clang loop unroll(disable)
    for (int i = 0; i < WALK_STEPS; i++) {
        u32 n = walk->frame_count;
        if (n >= MAX_FRAMES) {
            result = WALK_TOO_DEEP;
            break;
        }
        stack->pc[n] = walk->ip;
        walk->frame_count = n + 1;
        walk->hash = mix(walk->hash, walk->ip);
        result = step(walk);
        if (result)
            break;
        asm volatile("" ::: "memory");
    }
    /* Through memory, so that the verifier doesn't check what follows once per result. */
    walk->row = result;
    asm volatile("" ::: "memory");
    return walk->row;
}

#define REPORT_INTERVAL_NS 250000000

/* The stack contains code that is not in the list of mappings, most likely because of dlopen. Sent
 * once per list. */
static __always_inline void report_unknown_code(void *ctx, struct session *now, u64 version) {
    u64 time_ns = bpf_ktime_get_ns();

    /* And again after a while: generated code is never in a list, and must not hide a dlopen that
     * comes later. */
    if (now->reported == version && time_ns - now->reported_ns < REPORT_INTERVAL_NS)
        return;
    now->reported = version;
    now->reported_ns = time_ns;
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .kind = EVENT_UNKNOWN_CODE,
                          .generation = now->generation,
                          .tid = bpf_get_current_pid_tgid(),
                          .slot = now->slot};
    send_event(ctx, &event);
}

/* Whether the walk is in code that was made at run time. */
static __always_inline int is_in_generated_code(struct walk *walk) {
    struct unwind_mapping *mapping = unwind_mappings.lookup(&walk->mapping);
    u64 pc = walk->ip - walk->is_return_address;

    return mapping && !mapping->page_count && mapping->row_lo == GENERATED_CODE &&
           pc >= mapping->start && pc < mapping->end;
}

/* Record how the walk ended. Returns the stack's id. */
static __always_inline u64 finish_walk(void *ctx, struct session *now, struct thread *thread,
                                       int result) {
    struct walk *walk = &thread->walk;
    struct stack *stack = &thread->stack;

    if (result == WALK_GOES_ON)
        result = WALK_TOO_DEEP;
    if (result == WALK_SWITCHES)
        result = WALK_GO;
    if (result == WALK_NO_ROW && is_in_generated_code(walk))
        result = WALK_GENERATED_CODE;
    /* The walk was interrupted for so long that the list after the next one, which takes its place,
     * may have been begun. */
    struct unwind_list *list = list_in_force(walk->slot);
    if (list && walk->version && list->version > walk->version)
        result = WALK_NO_MAPPING;
    /* All threads share the counters, so successful walks are not counted here. The stack of a
     * release is that of no allocation. */
    if (result != WALK_COMPLETE && result != WALK_GO && walk->function != FUNCTION_FREE)
        lose(LOSS_WALKS + result, 1);
    if (list && (result == WALK_NO_MAPPING || walk->guessed))
        report_unknown_code(ctx, now, list->version);
    stack->frame_count = walk->frame_count;
    stack->result = result;
    if (result == WALK_TOO_DEEP)
        stack->end = END_TRUNCATED;
    else if (result != WALK_COMPLETE && result != WALK_GO)
        stack->end = END_BROKEN;
    else if (walk->guessed)
        stack->end = END_GUESSED;
    else
        stack->end = result == WALK_GO ? END_GO : END_COMPLETE;
    if (walk->guessed && walk->function != FUNCTION_FREE)
        lose(LOSS_GUESSED_STACKS, 1);
    u64 id = mix(walk->hash, stack->end);
    return id ? id : 1;
}

#endif
