#if WALK_BY_TABLE

#define BP_LOST 254
#define BP_AT_BP 255

/* One word of the user stack, to walk->word. A copy costs about the same for a word as for a
 * kilobyte, so a window is copied and read from. */
static __always_inline int read_stack(struct walk *walk, u64 address) {
    u64 offset = address - walk->window_start;

    if (offset > walk->window_bytes - 8) {
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

/* No unwind information: generated code mostly keeps frame pointers. One such step is a guess. */
static __always_inline int step_by_frame_pointer(struct walk *walk, int why) {
    u64 bp = walk->bp;

    never_know(walk);
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

/* A signal has come as a return probe was about to give control back. Since Linux 6.11 its
 * trampoline is: push rax, rcx, r11; mov $335,%eax; syscall; pop r11, rcx; ret, where the kernel
 * puts the return address in the place of rax (arch/x86/kernel/uprobes.c, sys_uretprobe). Until
 * then only the kernel knows it. */
static __always_inline int step_over_trampoline(struct walk *walk) {
    u64 at = walk->ip - walk->trampoline, place = walk->sp;

    never_know(walk);
    if (at == 0x0d) /* pop %r11 */
        place += 16;
    else if (at == 0x0f) /* pop %rcx */
        place += 8;
    else if (at != 0x10) /* ret */
        return WALK_FOREIGN_PROBE;
    if (read_stack(walk, place))
        return WALK_UNREADABLE;
    walk->ip = walk->word;
    walk->sp = place + 8;
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

/* The kernel's rt_sigframe: sp points at the ucontext, whose registers (rbp rbx rdx rax rcx rsp
 * rip) are those that the signal interrupted. */
static __always_inline int step_over_signal(struct walk *walk) {
    never_know(walk);
    if (bpf_probe_read_user(walk->saved, sizeof(walk->saved), (void *)(walk->sp + 120)))
        return WALK_UNREADABLE;
    walk->bp = walk->saved[0];
    walk->sp = walk->saved[5];
    walk->ip = walk->saved[6];
    walk->is_return_address = 0;
    walk->bp_lost = 0;
    return WALK_GOES_ON;
}

/* The canonical frame address by walk->row, to walk->cfa. */
static __always_inline int find_cfa(struct walk *walk) {
    /* The rule is three bits; the five above it extend the offset, for frames beyond 256 KiB. */
    u32 row = walk->row, rule = (row >> 16) & 7;
    s64 offset = ((s64)(s16)(row & 0xffff) + (s64)(((row >> 19) & 31) << 16)) << 3;

    if (rule == RULE_RSP) {
        walk->cfa = walk->sp + offset;
        return WALK_GOES_ON;
    }
    if (rule == RULE_PLT) {
        walk->cfa = walk->sp + 8 + ((walk->ip & 15) >= (row & 15) ? 8 : 0);
        return WALK_GOES_ON;
    }
    if (rule == RULE_RSP_DEREF) {
        if (read_stack(walk, walk->sp + offset))
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
        if (read_stack(walk, walk->bp + offset))
            return WALK_UNREADABLE;
        note_slot(walk, walk->bp + offset, walk->word);
        walk->cfa = walk->word;
        return WALK_GOES_ON;
    }
    return WALK_NO_RULE;
}

/* The first eight bytes of `mov $15, %rax; syscall`, which a signal handler returns to. */
#define SIGNAL_TRAMPOLINE 0x0f0000000fc0c748ULL

/* A return address in code of an object that no unwind information covers. Where no call stands
 * before it, nobody has called: it was put on the stack for the function to end in, by makecontext,
 * by coroutines in assembly, or by the kernel for a signal handler. Those are the ways a call is
 * encoded: e8 and four bytes; ff /2 in two, three, four, six or seven. */
static __always_inline int step_over_planted(struct walk *walk) {
    struct unwind_mapping *mapping = unwind_mappings.lookup(&walk->mapping);

    if (!mapping || !mapping->page_count)
        return WALK_NO_ROW; /* generated code goes its own ways */
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

    if (result && walk->ip - walk->trampoline < 64)
        return step_over_trampoline(walk);
    if (result == WALK_NO_ROW && walk->is_return_address && !walk->guessed) {
        int planted = step_over_planted(walk);
        if (planted != WALK_NO_ROW)
            return planted;
    }
    if (result)
        return step_by_frame_pointer(walk, result);
    u32 rule = (walk->row >> 16) & 7;
    if (rule == RULE_END)
        return walk->row & 0xffff ? WALK_GO : WALK_COMPLETE;
    if (rule == RULE_SIGNAL)
        return step_over_signal(walk);
    result = find_cfa(walk);
    if (result)
        return result;
    asm volatile("" ::: "memory");
    if (walk->cfa <= walk->sp)
        return WALK_NOT_UPWARD;
    if (walk->cfa - 8 == walk->outer)
        walk->is_inside = 1;
    u32 saved_bp = walk->row >> 24;
    if (saved_bp == BP_LOST) {
        walk->bp_lost = 1;
    } else if (saved_bp) { /* before the return address: the lower one places the window */
        if (saved_bp == BP_AT_BP)
            note_bp(walk);
        walk->bp_at = saved_bp == BP_AT_BP ? walk->bp : walk->cfa - saved_bp * 8;
        if (read_stack(walk, walk->bp_at))
            return WALK_UNREADABLE;
        walk->bp = walk->word;
        walk->bp_lost = 0;
    }
    asm volatile("" ::: "memory");
    if (read_stack(walk, walk->cfa - 8))
        return WALK_UNREADABLE;
    note_slot(walk, walk->cfa - 8, walk->word);
    if (!walk->word)
        return WALK_COMPLETE;
    if (walk->word == walk->trampoline)
        return WALK_FOREIGN_PROBE;
    walk->ip = walk->word;
    walk->sp = walk->cfa;
    walk->is_return_address = 1;
    return WALK_GOES_ON;
}

/* From a point within a function to its caller, by what is known of the point. */
static __always_inline int step_out(struct walk *walk) {
    u64 frame = walk->frame, low = walk->sp;

    walk->frame = 0;
    if (read_stack(walk, low) || read_stack(walk, frame - 8))
        return WALK_UNREADABLE;
    u64 return_address = walk->word;
    note_slot(walk, frame - 8, return_address);
    if (walk->rbp_offset == RBP_LOST) {
        walk->bp_lost = 1;
    } else if (walk->rbp_offset != RBP_UNCHANGED) {
        walk->bp_at = frame + (s64)walk->rbp_offset;
        if (read_stack(walk, walk->bp_at))
            return WALK_UNREADABLE;
        walk->bp = walk->word;
    }
    walk->ip = return_address;
    walk->sp = frame;
    walk->is_return_address = 1;
    if (return_address == walk->trampoline)
        return WALK_FOREIGN_PROBE;
    return WALK_GOES_ON;
}

#endif
