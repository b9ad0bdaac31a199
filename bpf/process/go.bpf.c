/* One step of a walk from C into the Go code that called it, or the other way round. The C code
 * runs on a stack of the thread, its caller on the stack of a goroutine. The functions of the Go
 * runtime in between save what they need to get back, and a row says where (unwind/go_switches.py).
 *
 * All that is read belongs to the process, and may be anything. So nothing is followed unless the
 * stack that is found has a return address of a direct call of that very function: otherwise the
 * walk ends here, complete up to Go. */

#if WALK_BY_TABLE

static __always_inline int is_system_stack(u32 kind) {
    return kind == END_OF_SYSTEM_STACK || kind == END_OF_SYSTEM_STACK_OF_LIBRARY;
}

static __always_inline int is_callback(u32 kind) {
    return kind == END_OF_CALLBACK || kind == END_OF_CALLBACK_OF_LIBRARY;
}

/* Where a thread has its goroutine, from the thread pointer, to walk->word: in a program it is
 * fixed. A library gets it from the dynamic linker, in a word that its code loads: `load` is the
 * address of that instruction (mov, from memory relative to rip), 0 in a program. */
static __always_inline int find_goroutine(struct walk *walk, u64 load) {
    walk->word = -(u64)GO_G_BELOW_TLS;
    if (!load)
        return 0;
    if (bpf_probe_read_user(&walk->word, 8, (void *)load) ||
        (walk->word & GO_LOAD_MASK) != GO_LOAD_CODE)
        return -1;
    return bpf_probe_read_user(&walk->word, 8,
                               (void *)(load + GO_LOAD_BYTES + (s32)(walk->word >> 24)));
}

/* The stack pointer that a goroutine saved before the thread went on with another stack, to
 * walk->word. What is on the way there: the goroutine that runs (`own`: find_goroutine); in it, the
 * runtime's struct m; in that, at `offset`, the goroutine that is looked for: the current one,
 * while the thread's own runs, or the thread's own, in a callback. */
static __always_inline int read_saved_sp(struct walk *walk, u64 own, u32 offset) {
#if TASK_FSBASE_OFFSET
    u64 running;

    if (read_kernel(&walk->word, 8, (char *)bpf_get_current_task() + TASK_FSBASE_OFFSET) ||
        bpf_probe_read_user(&walk->word, 8, (void *)(walk->word + own)))
        return -1;
    running = walk->word;
    if (bpf_probe_read_user(&walk->word, 8, (void *)(walk->word + GO_G_M)) ||
        bpf_probe_read_user(&walk->word, 8, (void *)(walk->word + offset)))
        return -1;
    if (!walk->word || (walk->word == running && offset != GO_M_G0))
        return -1; /* it is still on its own stack */
    return bpf_probe_read_user(&walk->word, 8, (void *)(walk->word + GO_G_SCHED_SP));
#else
    return -1;
#endif
}

/* The stack pointer of the thread before a callback, to walk->word. Where that of an earlier one
 * points, the same Go has left what it saved then. Two libraries have each their own: of another
 * one it is the last callback, if that began earlier. */
static __always_inline int read_callback_sp(struct walk *walk, u64 own) {
    u64 inner = walk->callback_sp;

    if (inner && walk->callback_of == own) {
        if (bpf_probe_read_user(&walk->word, 8, (void *)inner))
            return -1;
    } else if (read_saved_sp(walk, own, GO_M_G0) || walk->word <= inner) {
        return -1;
    }
    walk->callback_sp = walk->word;
    walk->callback_of = own;
    return walk->word ? 0 : -1;
}

/* The stack pointer of the caller, as the row says, to walk->word. */
static __always_inline int find_stack_of_caller(struct walk *walk, u32 row, u32 kind) {
    u64 goroutine;

    u64 behind = (row >> GO_SECOND_SHIFT & GO_WORD_MASK) * 8, second = walk->sp + behind;

    if (is_system_stack(kind) || is_callback(kind)) {
        u64 load = kind == END_OF_CALLBACK_OF_LIBRARY       ? walk->ip + behind
                   : kind == END_OF_SYSTEM_STACK_OF_LIBRARY ? walk->ip
                                                            : 0;
        if (find_goroutine(walk, load))
            return -1;
        goroutine = walk->word;
        return is_callback(kind)
                   ? read_callback_sp(walk, goroutine)
                   : read_saved_sp(walk, goroutine, (row >> GO_FIRST_SHIFT & GO_CURG_MASK) * 8);
    }
    if (kind == END_OF_C_OF_GOROUTINE) {
        if (bpf_probe_read_user(&goroutine, 8,
                                (void *)(walk->sp + (row >> GO_FIRST_SHIFT & GO_WORD_MASK) * 8)) ||
            bpf_probe_read_user(walk->saved, 16, (void *)goroutine) || /* stack.lo, stack.hi */
            bpf_probe_read_user(&walk->word, 8, (void *)second) ||
            walk->word > walk->saved[1] - walk->saved[0])
            return -1;
        walk->word = walk->saved[1] - walk->word;
        return 0;
    }
    return bpf_probe_read_user(&walk->word, 8, (void *)second);
}

/* What a row with RULE_END means. The step to another stack is made by the next part of the walk
 * (walk_part), and not in the loop of steps: the verifier would check it once per frame. */
static __always_inline int result_of_end(struct walk *walk) {
    u32 row = walk->row, kind = row & END_KIND_MASK;

    if (kind == END_OF_STACK)
        return WALK_COMPLETE;
    if (kind == END_OF_C_CODE)
        return WALK_GO;
    do_not_cache(walk); /* it will depend on more than this stack, also if it ends here */
    walk->switch_row = row;
    return WALK_SWITCHES;
}

/* From C code, or from what the runtime does on the thread's stack, to the Go code that called it:
 * walk->switch_row is that of the function in between. Returns WALK_GOES_ON if it was found. */
static __always_inline int step_into_go(struct walk *walk) {
    u32 row = walk->switch_row, kind = row & END_KIND_MASK;

    walk->switch_row = 0;
    if (find_stack_of_caller(walk, row, kind))
        return WALK_GO;
    walk->cfa = walk->word + (row >> GO_FRAME_SHIFT & GO_FRAME_MASK) * 8;
    if (walk->cfa & 7 || bpf_probe_read_user(&walk->word, 8, (void *)(walk->cfa - 8)))
        return WALK_GO;
    /* call: e8, and the distance from its end */
    if (bpf_probe_read_user(walk->saved, 8, (void *)(walk->word - 8)) ||
        (walk->saved[0] >> 24 & 0xff) != 0xe8 ||
        walk->word + (s32)(walk->saved[0] >> 32) != walk->ip - (row >> GO_ENTRY_SHIFT))
        return WALK_GO;
    walk->ip = walk->word;
    walk->sp = walk->cfa;
    walk->bp_lost = 1;
    if (is_callback(kind)) /* to C code, which may find its frames by rbp */
        walk->bp_lost = !!bpf_probe_read_user(&walk->bp, 8, (void *)(walk->cfa - 16));
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

#endif
