/* One step of a walk: from a frame to its caller. */

#if WALK_BY_TABLE

/* An 8-byte word of the user stack, to walk->word. Copying a kilobyte takes about as long as
 * copying a word, so a window of the stack is copied, and words are read from that. */
static __always_inline int read_word(struct walk *walk, u64 address) {
    u64 offset = address - walk->window_start;

    if (offset > walk->window_bytes - 8 || offset & 7) {
        walk->window_start = ~0ULL;
        if (bpf_probe_read_user(walk->window, STACK_COPY_WORDS * 8, (void *)address))
            return bpf_probe_read_user(&walk->word, 8, (void *)address); /* near the stack's end */
        walk->window_start = address;
        walk->window_bytes = STACK_COPY_WORDS * 8;
        offset = 0;
    }
    walk->word = walk->window[(offset >> 3) & (STACK_WINDOW_WORDS - 1)];
    return 0;
}

/* There is no unwind information, and there will be none. Generated code mostly keeps frame
 * pointers, so this step is a guess. `why` is the result if it can't be made. */
static __always_inline int step_by_frame_pointer(struct walk *walk, int why) {
    u64 bp = walk->bp;

    do_not_cache(walk);
    if (why == WALK_NO_ROW && !bp && !walk->bp_lost)
        return WALK_COMPLETE; /* the outermost frame has rbp = 0 (psABI, 3.4.1) */
    if (walk->bp_lost || bp < walk->sp || bp - walk->sp >= (1 << 20) || bp & 7)
        return why;
    if (bpf_probe_read_user(walk->saved, 16, (void *)bp))
        return why;
    walk->bp = walk->saved[0];
    walk->ip = walk->saved[1];
    walk->sp = bp + 16;
    walk->is_return_address = 1;
    walk->guessed = 1;
    return walk->ip ? WALK_GOES_ON : WALK_COMPLETE;
}

/* Whether an address is that of the trampoline of return probes, if there is one. */
static __always_inline int is_trampoline(struct walk *walk, u64 address) {
    return address == walk->trampoline && walk->trampoline;
}

/* A signal arrived while a return probe was about to return to the caller. Since Linux 6.11 the
 * probe's trampoline is: push rax, rcx, r11; mov $335,%eax; syscall; pop r11, rcx; ret, and the
 * kernel writes the return address over the pushed rax (arch/x86/kernel/uprobes.c,
 * sys_uretprobe). Before the system call only the kernel knows the address. */
static __always_inline int step_over_trampoline(struct walk *walk) {
    u64 at = walk->ip - walk->trampoline, place = walk->sp;

    do_not_cache(walk);
    if (at == 0x0d) /* pop %r11 */
        place += 16;
    else if (at == 0x0f) /* pop %rcx */
        place += 8;
    else if (at != 0x10) /* ret */
        return WALK_FOREIGN_PROBE;
    if (read_word(walk, place))
        return WALK_UNREADABLE;
    walk->ip = walk->word;
    walk->sp = place + 8;
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

/* The kernel's struct rt_sigframe: sp points at the ucontext, whose uc_mcontext holds the
 * interrupted registers; rbp rbx rdx rax rcx rsp rip follow each other at +120
 * (arch/x86/include/uapi/asm/sigcontext.h, struct sigcontext_64). */
static __always_inline int step_over_signal(struct walk *walk) {
    do_not_cache(walk);
    if (bpf_probe_read_user(walk->saved, sizeof(walk->saved),
                            (void *)(walk->sp + SIGNAL_RBP_OFFSET)))
        return WALK_UNREADABLE;
    walk->bp = walk->saved[0];
    walk->sp = walk->saved[(SIGNAL_RSP_OFFSET - SIGNAL_RBP_OFFSET) / 8];
    walk->ip = walk->saved[(SIGNAL_RIP_OFFSET - SIGNAL_RBP_OFFSET) / 8];
    walk->is_return_address = 0;
    walk->bp_lost = 0;
    return WALK_GOES_ON;
}

/* The canonical frame address by walk->row, to walk->cfa. */
static __always_inline int find_cfa(struct walk *walk) {
    u32 row = walk->row, rule = (row >> ROW_RULE_SHIFT) & ROW_RULE_MASK;
    s64 offset =
        ((s64)(s16)(row & ROW_OFFSET_MASK) + (s64)(((row >> ROW_FAR_SHIFT) & ROW_FAR_MASK) << 16)) *
        8;

    if (rule == RULE_RSP) {
        walk->cfa = walk->sp + offset;
        return WALK_GOES_ON;
    }
    if (rule == RULE_PLT) {
        walk->cfa = walk->sp + 8 + ((walk->ip & 15) >= (row & 15) ? 8 : 0);
        return WALK_GOES_ON;
    }
    if (rule == RULE_RSP_DEREF) {
        if (read_word(walk, walk->sp + offset))
            return WALK_UNREADABLE;
        note_slot(walk, walk->sp + offset, walk->word);
        walk->cfa = walk->word;
        return WALK_GOES_ON;
    }
    if (walk->bp_lost)
        return WALK_NO_RULE;
    note_bp(walk);
    if (rule == RULE_RBP) {
        walk->cfa = walk->bp + offset;
        return WALK_GOES_ON;
    }
    if (rule == RULE_RBP_DEREF) {
        if (read_word(walk, walk->bp + offset))
            return WALK_UNREADABLE;
        note_slot(walk, walk->bp + offset, walk->word);
        walk->cfa = walk->word;
        return WALK_GOES_ON;
    }
    return WALK_NO_RULE;
}

/* The first eight bytes of `mov $15, %rax; syscall`, which a signal handler returns to. */
#define SIGNAL_TRAMPOLINE 0x0f0000000fc0c748ULL

/* add $N, %rsp; ret: the constant is the fourth byte */
#define EPILOGUE_MASK 0xff80ffffffULL
#define EPILOGUE 0xc300c48348ULL

/* Generated code may do anything. But where it returns at once, its caller is certain: so do the
 * trampolines that CPython makes for perf (Python/asm_trampoline.S), which keep no frame pointer.
 */
static __always_inline int step_over_epilogue(struct walk *walk) {
    do_not_cache(walk);
    if (bpf_probe_read_user(walk->saved, 8, (void *)walk->ip) ||
        (walk->saved[0] & EPILOGUE_MASK) != EPILOGUE)
        return WALK_NO_ROW;
    u64 place = walk->sp + (walk->saved[0] >> 24 & 0x7f);
    if (read_word(walk, place))
        return WALK_UNREADABLE;
    if (!walk->word)
        return WALK_COMPLETE;
    if (is_trampoline(walk, walk->word))
        return WALK_FOREIGN_PROBE;
    walk->ip = walk->word;
    walk->sp = place + 8;
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

/* A return address in an object's code that no unwind information covers. If no call instruction is
 * before it, no call pushed it: makecontext, a coroutine written in assembly, or the kernel (for a
 * signal handler) put it on the stack for the function to return to. A call is encoded as e8 and
 * four bytes, or as ff /2 in two, three, four, six or seven bytes. */
static __always_inline int step_over_planted(struct walk *walk) {
    struct unwind_mapping *mapping = unwind_mappings.lookup(&walk->mapping);

    if (!mapping || !mapping->page_count)
        return step_over_epilogue(walk);
    if (bpf_probe_read_user(walk->saved, 16, (void *)(walk->ip - 8)))
        return WALK_NO_ROW;
    u64 before = walk->saved[0];
    if (walk->saved[1] == SIGNAL_TRAMPOLINE)
        return step_over_signal(walk);
    if ((before >> 24 & 0xff) == 0xe8 || (before >> 48 & 0x38ff) == 0x10ff ||
        (before >> 40 & 0x38ff) == 0x10ff || (before >> 32 & 0x38ff) == 0x10ff ||
        (before >> 16 & 0x38ff) == 0x10ff || (before >> 8 & 0x38ff) == 0x10ff)
        return WALK_NO_ROW;
    return WALK_COMPLETE;
}

/* From a frame to its caller. */
static __always_inline int step(struct walk *walk) {
    int result = find_row(walk, walk->ip - walk->is_return_address);

    if (result && walk->trampoline && walk->ip - walk->trampoline < 64)
        return step_over_trampoline(walk);
    /* An object was just loaded, and its table is not here yet. By frame pointer the next frame
     * would be wrong more often than not: most code keeps other values in rbp. */
    if (result == WALK_TO_COME || (result == WALK_NO_MAPPING && !walk->sees_loads))
        return WALK_NO_MAPPING;
    if (result == WALK_NO_ROW && walk->is_return_address && !walk->guessed) {
        int planted = step_over_planted(walk);
        if (planted != WALK_NO_ROW)
            return planted;
    }
    if (result)
        return step_by_frame_pointer(walk, result);
    u32 rule = (walk->row >> ROW_RULE_SHIFT) & ROW_RULE_MASK;
    if (rule == RULE_END)
        return result_of_end(walk);
    if (rule == RULE_SIGNAL)
        return step_over_signal(walk);
    result = find_cfa(walk);
    if (result)
        return result;
    asm volatile("" ::: "memory");
    if (walk->cfa <= walk->sp)
        return WALK_NOT_UPWARD;
    if (walk->outer && walk->cfa - 8 == walk->outer)
        walk->is_inside = 1;
    u32 saved_bp = walk->row >> ROW_SAVED_RBP_SHIFT;
    if (saved_bp == SAVED_RBP_LOST || (saved_bp == SAVED_RBP_AT_RBP && walk->bp_lost)) {
        walk->bp_lost = 1;
    } else if (saved_bp != SAVED_RBP_UNCHANGED) {
        /* Read before the return address: it is lower, and the window starts at what is read. */
        if (saved_bp == SAVED_RBP_AT_RBP)
            note_bp(walk);
        walk->bp_at = saved_bp == SAVED_RBP_AT_RBP ? walk->bp : walk->cfa - saved_bp * 8;
        if (read_word(walk, walk->bp_at))
            return WALK_UNREADABLE;
        walk->bp = walk->word;
        walk->bp_lost = 0;
    }
    asm volatile("" ::: "memory");
    if (read_word(walk, walk->cfa - 8))
        return WALK_UNREADABLE;
    note_slot(walk, walk->cfa - 8, walk->word);
    if (!walk->word)
        return WALK_COMPLETE;
    if (is_trampoline(walk, walk->word))
        return WALK_FOREIGN_PROBE;
    walk->ip = walk->word;
    walk->sp = walk->cfa;
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

/* From a point inside a function to the function's caller, by what is known about the point. */
static __always_inline int step_out(struct walk *walk) {
    u64 frame = walk->frame, low = walk->sp;

    walk->frame = 0;
    if (read_word(walk, low) || read_word(walk, frame - 8))
        return WALK_UNREADABLE;
    u64 return_address = walk->word;
    note_slot(walk, frame - 8, return_address);
    if (walk->rbp_offset == RBP_LOST) {
        walk->bp_lost = 1;
    } else if (walk->rbp_offset != RBP_UNCHANGED) {
        walk->bp_at = frame + (s64)walk->rbp_offset;
        if (read_word(walk, walk->bp_at))
            return WALK_UNREADABLE;
        walk->bp = walk->word;
    }
    walk->ip = return_address;
    walk->sp = frame;
    walk->is_return_address = 1;
    if (is_trampoline(walk, return_address))
        return WALK_FOREIGN_PROBE;
    return WALK_GOES_ON;
}

#endif
