/* Walk a user stack and give it a 64-bit id. The id is a hash of the frames in a map of our own,
 * because bpf_get_stackid drops a stack whose bucket is taken. Id 0 means: no stack.
 *
 * The walk goes by unwind tables compiled from .eh_frame: docs/unwinding.md explains it. All its
 * state lives in the thread's map value and not in registers, with a compiler barrier after each
 * frame: so all iterations look alike to the verifier, which then accepts 127 of them. */

/* Where a walk starts. */
struct registers {
    u64 ip;
    u64 sp;
    u64 bp;
    u8 ip_is_return_address;
    u64 frame;      /* CFA of a function that the stack is to begin above; 0: begin at ip */
    s32 rbp_offset; /* where that function keeps its caller's rbp: struct point */
};

/* A walk that begins above a function copies that much of the stack below its CFA along: mostly,
 * the caller's rbp is there. */
#define FRAME_WINDOW_BYTES 64

static __always_inline void start_walk(struct walk *walk, struct registers registers,
                                       u32 generation) {
    walk->ip = registers.ip;
    walk->sp = registers.frame ? registers.frame - FRAME_WINDOW_BYTES : registers.sp;
    walk->bp = registers.bp;
    walk->frame = registers.frame;
    walk->rbp_offset = registers.rbp_offset;
    walk->is_return_address = registers.ip_is_return_address;
    walk->hash = mix(1, generation);
    walk->late_since = 0;
    walk->frame_count = 0;
    walk->bp_lost = 0;
    walk->guessed = 0;
    walk->parts = 0;
    walk->window_start = ~0ULL;
    walk->window_bytes = 8;
}

#if WALK_BY_TABLE

/* a <= b for a, b < 2^63, without a branch that would double the verifier's states */
#define NOT_ABOVE(a, b) ((u32)(((u64)(a) - (u64)(b)-1) >> 63))

#define REPORT_AGAIN_NS 250000000
#define BP_LOST 254
#define BP_AT_BP 255
#define CODE_PAGE_SHIFT 8
#define MAPPING_SEARCH_STEPS 12
#define ROW_SEARCH_STEPS 9

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

/* The last mapping of the list that starts at or below pc, or its first one; walk->key is its
 * number. */
static __always_inline struct unwind_mapping *last_mapping(struct walk *walk, u64 pc) {
    u32 base, count, half;
    struct unwind_mapping *mapping;

    base = walk->first_mapping;
    count = walk->mapping_count;
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAPPING_SEARCH_STEPS; i++) {
        if (count <= 1)
            break;
        half = count >> 1;
        walk->key = base + half;
        mapping = unwind_mappings.lookup(&walk->key);
        if (!mapping)
            return 0;
        base += half & -NOT_ABOVE(mapping->start, pc);
        count -= half;
    }
    walk->key = base;
    return unwind_mappings.lookup(&walk->key);
}

/* The object loaded after the list was made that holds pc. */
static __always_inline struct unwind_mapping *find_late(struct walk *walk, u64 pc) {
    struct late_object *late;
    u32 found = LATE_OBJECTS; /* none */

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) { /* without branches, as far as the verifier sees */
        walk->key = i;
        late = late_objects.lookup(&walk->key);
        if (!late)
            return 0;
        u32 holds = NOT_ABOVE(late->mapping.start, pc) & NOT_ABOVE(pc + 1, late->mapping.end) &
                    NOT_ABOVE((u64)walk->late_since + 1, late->epoch);
        found ^= (found ^ i) & -holds;
    }
    walk->key = found;
    late = late_objects.lookup(&walk->key);
    return late ? &late->mapping : 0;
}

/* Find the mapping that holds pc. */
static __always_inline struct unwind_mapping *find_mapping(struct walk *walk, u64 pc) {
    struct unwind_mapping *mapping;

    if (walk->late_since) {
        mapping = find_late(walk, pc);
        if (mapping)
            return mapping->page_count ? mapping : 0;
    }
    walk->key = walk->mapping;
    mapping = unwind_mappings.lookup(&walk->key);
    if (!mapping)
        return 0;
    if (pc >= mapping->start && pc < mapping->end)
        return mapping;
    mapping = last_mapping(walk, pc);
    if (!mapping || pc < mapping->start || pc >= mapping->end)
        return 0;
    walk->mapping = walk->key;
    return mapping;
}

/* Search the tables for the row in force at pc; put it, without its own pc, in walk->row. */
static __always_inline int search_row(struct walk *walk, u64 pc) {
    struct unwind_mapping *mapping = find_mapping(walk, pc);

    if (!mapping || !walk->mapping_count)
        return WALK_NO_MAPPING;
    u32 rel = pc - mapping->bias, page = rel >> CODE_PAGE_SHIFT;
    if (page >= mapping->page_count)
        return WALK_NO_ROW;
    walk->key = mapping->page_lo + page;
    u32 *first = unwind_pages.lookup(&walk->key);
    walk->key++;
    u32 *next = unwind_pages.lookup(&walk->key);
    if (!first || !next)
        return WALK_NO_ROW;
    /* The row before the page's first may reach into the page. */
    u32 base = *first - 1, count = *next - base, half;
    if (*first <= mapping->row_lo) {
        base = mapping->row_lo;
        count--;
    }
    u64 *row;
#pragma clang loop unroll(disable)
    for (int i = 0; i < ROW_SEARCH_STEPS; i++) { /* the last row that starts at or below rel */
        if (count <= 1)
            break;
        half = count >> 1;
        walk->key = base + half;
        row = unwind_rows.lookup(&walk->key);
        if (!row)
            return WALK_NO_ROW;
        base += half & -NOT_ABOVE(*row >> 32, rel);
        count -= half;
    }
    walk->key = base;
    row = unwind_rows.lookup(&walk->key);
    if (!row || *row >> 32 > rel || !(u32)*row) /* all zeroes: no FDE covers it */
        return WALK_NO_ROW;
    walk->row = *row;
    return WALK_GOES_ON;
}

/* The same by way of the rows found lately. */
static __always_inline int find_row(struct walk *walk, u64 pc) {
    u64 mark = pc ^ walk->list_mark;

    walk->key = (pc * SPREAD) >> 32 & (RECENT_ROWS - 1);
    struct recent_row *recent = recent_rows.lookup(&walk->key);
    if (!recent)
        return WALK_NO_ROW;
    u64 known = recent->row;
    if ((recent->check ^ known * SPREAD) == mark) {
        walk->row = known;
        return WALK_GOES_ON;
    }
    int result = search_row(walk, pc);
    if (!result) {
        u64 row = walk->row;
        recent->row = row;
        recent->check = mark ^ row * SPREAD;
    }
    return result;
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
    /* Through memory, so that what follows is not verified once for every result. */
    walk->row = result;
    asm volatile("" ::: "memory");
    return walk->row;
}

/* The code on the stack isn't in the list of mappings: dlopen, most likely. Tell once a list. */
static __always_inline void report_unknown_code(void *ctx, u64 version) {
    struct session *now = this_session();

    u64 time_ns = bpf_ktime_get_ns();

    /* Generated code is in no table, ever, and must not hide a dlopen that comes later. */
    if (!now || (now->reported == version && time_ns - now->reported_ns < REPORT_AGAIN_NS))
        return;
    now->reported = version;
    now->reported_ns = time_ns;
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .kind = EVENT_UNKNOWN_CODE,
                          .generation = now->generation,
                          .tid = bpf_get_current_pid_tgid()};
    send_region_event(ctx, &event);
}

/* A hash of what was loaded since the list was made: the same addresses may mean something else
 * with it. */
static __always_inline u64 hash_late(struct walk *walk) {
    u64 sum = 0;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) {
        walk->key = i;
        struct late_object *late = late_objects.lookup(&walk->key);
        if (!late)
            break;
        u64 counts = NOT_ABOVE((u64)walk->late_since + 1, late->epoch);
        sum += mix(late->mapping.start, late->mapping.fingerprint) & -counts;
    }
    return sum;
}

static __always_inline void prepare_walk(struct walk *walk, struct stack *stack,
                                         struct session *now) {
    struct unwind_list *list = list_in_force();

    walk->mapping = walk->first_mapping = 0;
    walk->mapping_count = 0;
    walk->list_mark = 0; /* no entry has this one */
    never_know(walk);
    walk->trampoline = 0;
    walk->version = 0;
    stack->view = stack->since = stack->epoch = stack->in_doubt = 0;
    if (!list || list->generation != now->generation)
        return; /* an exec, and its mappings aren't known yet */
    stack->view = list->view;
    stack->since = list->epoch;
    stack->epoch = now->epoch;
    walk->hash = mix(walk->hash, list->view);
    walk->version = list->version;
    walk->list_mark = list->version * SPREAD;
    if (list->epoch != now->epoch) {
        walk->late_since = list->epoch;
        u64 late = hash_late(walk);
        if (late) {
            walk->hash = mix(walk->hash, late);
            walk->list_mark = mix(walk->list_mark, late);
        }
        if (now->crowded > list->epoch && now->unloaded > list->epoch) {
            walk->list_mark = 0;
            walk->hash = mix(walk->hash, now->epoch);
            stack->in_doubt = 1;
            return;
        }
    }
    walk->list_mark |= 1;
    start_known(walk);
    asm volatile("" ::: "memory");
    u64 place = list->place;
    walk->mapping = walk->first_mapping = (u32)place;
    walk->mapping_count = place >> 32;
    walk->trampoline = list->trampoline ? list->trampoline : ~0ULL;
}

/* Settle how the walk went. Returns the stack's id. */
static __always_inline u64 finish_walk(void *ctx, struct thread *thread, int result) {
    struct walk *walk = &thread->walk;
    struct stack *stack = &thread->stack;

    if (result == WALK_GOES_ON)
        result = WALK_TOO_DEEP;
    /* A walk that was interrupted for long: its list has been written over by the one after next.
     */
    struct unwind_list *list = list_in_force();
    if (list && walk->version && list->version > walk->version + 1)
        result = WALK_NO_MAPPING;
    /* The counters are everybody's: not one that counts each call. */
    if (result != WALK_COMPLETE && result != WALK_GO)
        lose(LOSS_WALKS + result, 1);
    if (list && (result == WALK_NO_MAPPING || walk->guessed))
        report_unknown_code(ctx, list->version);
    stack->frame_count = walk->frame_count;
    stack->result = result;
    if (result == WALK_TOO_DEEP)
        stack->end = END_TRUNCATED;
    else if (result == WALK_GO)
        stack->end = END_GO;
    else if (result != WALK_COMPLETE)
        stack->end = END_BROKEN;
    else
        stack->end = walk->guessed ? END_GUESSED : END_COMPLETE;
    if (walk->guessed)
        lose(LOSS_GUESSED_STACKS, 1);
    u64 id = mix(walk->hash, stack->end);
    return id ? id : 1;
}

#else

#if POINTS
/* The stack above a function, in the middle of which the program runs: bpf_get_stack would begin
 * inside. Returns the bytes of it. */
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
        lose(LOSS_WALKS + WALK_TOO_DEEP, 1);
    }
    return hash ? hash : 1;
}

#endif
