/* File descriptors (--fds): which system calls open and close them. Two programs run at the begin
 * and the end of every system call of the machine, so the number of the call is what they look at
 * first, and the process next.
 *
 * A descriptor is closed when its call begins: before the kernel can give its number to another
 * thread. It is opened when the call ends. Threads share descriptors, so a record has no thread. */

#if FD_SPACE

BPF_ARRAY(descriptor_calls, struct descriptor_call, SYSTEM_CALLS);

#define SELECTOR_OF_32_BITS 0x23 /* __USER32_CS, arch/x86/include/asm/segment.h */
#define SCM_RIGHTS 1             /* include/linux/socket.h */
#define SOL_SOCKET 1
#define CONTROL_MESSAGES 4 /* looked at, of one recvmsg */

/* The traced process that makes this system call. */
static __always_inline struct session *session_of_caller(void) {
    struct process *process = this_process();
    struct session *now = process ? session_of(process->slot) : 0;

    if (!now || !now->armed)
        return 0;
#if STOP_AT_START
    if (!now->generation && now->slot == COMMAND_SLOT)
        return 0; /* leaktrace's own child, before it executes the command */
#endif
    return now;
}

static __always_inline u64 argument_of_call(struct pt_regs *registers, u32 number) {
    switch (number) {
    case 1:
        return registers->di;
    case 2:
        return registers->si;
    case 3:
        return registers->dx;
    case 4:
        return registers->r10;
    default:
        return registers->r8;
    }
}

/* The registers with which the process made this call. Returns -1 for one of another interface,
 * whose calls have other numbers. */
static __always_inline int read_registers(struct pt_regs *registers, void *saved) {
    if (read_kernel(registers, sizeof(*registers), saved))
        return -1;
    return registers->cs == SELECTOR_OF_32_BITS ? -1 : 0;
}

/* --- closed ---------------------------------------------------------------------------------- */

static __always_inline void close_one(void *ctx, struct session *now, u32 descriptor) {
    struct allocation old = {};

    if (take_descriptor(now, descriptor, &old)) {
        count_lifetime(&old);
        trace(ctx, origin_of(now), EVENT_RELEASE, FUNCTION_PAIR_RELEASE + FD_SPACE, descriptor, 1,
              old.stack_id);
    }
}

#define CLOSE_RANGE_UNSHARE 2 /* include/uapi/linux/close_range.h */

/* close_range: too many for a loop here. The range is noted, and what is older in it is closed. A
 * range takes the entry of one that it covers, else a free one, else the oldest. */
static __always_inline void close_all(struct session *now, struct pt_regs *registers) {
    u32 first = registers->di, last = registers->si, flags = registers->dx;
    struct closed_range *chosen = 0;
    u64 least = ~0ULL;

    if (first > last || flags & ~CLOSE_RANGE_UNSHARE)
        return; /* an error, or they are closed at an exec */
    for (u32 i = 0; i < CLOSED_RANGES; i++) {
        struct closed_range *range = closed_range(now, i);
        if (!range)
            return;
        u64 rank = range->time_ns + 1;
        if (range->time_ns <= now->exec_time_ns)
            rank = 1; /* free, or of an image that is gone */
        else if (first <= range->first && range->last <= last)
            rank = 0;
        if (rank < least) {
            least = rank;
            chosen = range;
        }
    }
    if (!chosen)
        return;
    if (least > 1)
        lose(LOSS_CLOSED_RANGES, 1);
    chosen->time_ns = 0;
    asm volatile("" ::: "memory");
    chosen->first = first;
    chosen->last = last;
    asm volatile("" ::: "memory");
    chosen->time_ns = bpf_ktime_get_ns();
}

int at_sys_enter(struct bpf_raw_tracepoint_args *ctx) {
    u32 number = ctx->args[1];
    struct descriptor_call *call = descriptor_calls.lookup(&number);
    struct pt_regs registers = {};

    if (!call || call->action < DESCRIPTOR_CLOSES)
        return 0;
    struct session *now = session_of_caller();
    if (!now || read_registers(&registers, (void *)ctx->args[0]))
        return 0;
    if (call->action == DESCRIPTOR_CLOSES)
        close_one(ctx, now, registers.di);
    else
        close_all(now, &registers);
    return 0;
}

/* --- opened ---------------------------------------------------------------------------------- */

/* What a system call opened. */
struct opening {
    u64 address; /* the descriptor, or that of an array of the process */
    u16 function;
    u16 count;
    u8 kind;
};

static __always_inline int has_opened(struct descriptor_call *call, struct pt_regs *registers) {
    u32 value = argument_of_call(registers, call->argument), low = call->values;

    switch (call->condition) {
    case DESCRIPTOR_ALWAYS:
        return 1;
    case DESCRIPTOR_IF_EQUAL:
        return value == low || value == call->values >> 32;
    case DESCRIPTOR_IF_AMONG:
        return value < 64 && call->values >> (value & 63) & 1;
    default:
        return (value & call->values) != 0;
    }
}

/* A duplicate is what its original is, if that is known. */
static __always_inline u8 kind_of_original(struct session *now, u32 original) {
    u64 key = record_key(now, FD_SPACE, original);
    struct allocation *record = allocations.lookup(&key);

    if (!record || is_stale(now, record))
        return KIND_OF_ORIGINAL;
    return record->size >> DESCRIPTOR_KIND_SHIFT;
}

/* Find the descriptors that came with a message (SCM_RIGHTS). Returns 0 if there are none. */
static __always_inline int find_received(struct opening *opening, u64 message) {
    u64 control[2] = {}; /* msg_control, msg_controllen */
    struct {
        u64 length;
        s32 level;
        s32 type;
    } header = {};

    if (bpf_probe_read_user(control, sizeof(control), (void *)(message + 32)))
        return 0;
    u64 at = control[0], end = control[0] + control[1];
#pragma clang loop unroll(disable)
    for (int i = 0; i < CONTROL_MESSAGES; i++) {
        if (!at || at + sizeof(header) > end ||
            bpf_probe_read_user(&header, sizeof(header), (void *)at) ||
            header.length <= sizeof(header))
            return 0;
        if (header.level == SOL_SOCKET && header.type == SCM_RIGHTS) {
            opening->address = at + sizeof(header);
            opening->function = FUNCTION_DESCRIPTORS;
            opening->count = (header.length - sizeof(header)) / sizeof(u32);
            return 1;
        }
        at += (header.length + 7) & ~7ULL;
    }
    return 0;
}

/* What the call opened that returned `result`. Returns 0 if it opened nothing. */
static __always_inline int find_opened(struct session *now, struct descriptor_call *call,
                                       struct pt_regs *registers, u64 result,
                                       struct opening *opening) {
    opening->address = result;
    opening->function = FUNCTION_DESCRIPTOR;
    opening->count = 1;
    opening->kind = call->kind;
    switch (call->action) {
    case DESCRIPTOR_OPENS_TWO:
        opening->address = argument_of_call(registers, call->argument);
        opening->function = FUNCTION_DESCRIPTORS;
        opening->count = 2;
        return 1;
    case DESCRIPTOR_RECEIVES:
        return find_received(opening, registers->si);
    case DESCRIPTOR_MOVES:
        if ((u32)registers->di == (u32)registers->si)
            return 0; /* dup2 does nothing then */
        break;
    case DESCRIPTOR_OPENS:
        if (!has_opened(call, registers))
            return 0;
        break;
    default:
        return 0;
    }
    if (opening->kind == KIND_OF_ORIGINAL)
        opening->kind = kind_of_original(now, registers->di);
    return 1;
}

#if WALK_BY_TABLE
/* After an exec, until user space has read the new mappings, no stack can be walked. Most of what
 * is opened then the dynamic loader closes again: nothing is counted as lost. */
static __always_inline int can_walk(struct session *now) {
    struct unwind_list *list = list_in_force(now->slot);

    return list && list->generation == now->generation;
}

static __always_inline void store_without_walk(void *ctx, struct session *now,
                                               struct thread *thread, u64 ip) {
    struct stack *stack = &thread->stack;

    stack->frame_count = 1;
    stack->pc[0] = ip;
    stack->end = END_BROKEN;
    stack->result = WALK_NO_MAPPING;
    stack->view = stack->since = stack->epoch = stack->in_doubt = 0;
    thread->walk.is_known = 0;
    u64 id = mix(mix(mix(mix(1, image_of(now)), FD_SPACE), ip), END_BROKEN);
    store_descriptors(ctx, now, thread, id ? id : 1);
}
#endif

int at_sys_exit(struct bpf_raw_tracepoint_args *ctx) {
    u64 result = ctx->args[1], number = 0;

    if (result > 0x7fffffff) /* an error, or no descriptor */
        return 0;
    struct pt_regs *saved = (struct pt_regs *)ctx->args[0];
    if (read_kernel(&number, sizeof(number), &saved->orig_ax))
        return 0;
    u32 at = number;
    struct descriptor_call *call = descriptor_calls.lookup(&at);
    if (!call || !call->action || call->action >= DESCRIPTOR_CLOSES)
        return 0;
    struct session *now = session_of_caller();
    struct pt_regs registers = {};
    if (!now || read_registers(&registers, saved))
        return 0;
    struct opening opening = {};
    if (!find_opened(now, call, &registers, result, &opening))
        return 0;
    struct thread *thread = existing_thread(FD_SPACE);
    if (!thread)
        thread = new_thread(now, FD_SPACE);
    if (!thread)
        return 0;
    u64 size = opening.kind | (u64)opening.count << DESCRIPTOR_KIND_SHIFT |
               (u64)(call->action == DESCRIPTOR_MOVES) << HAS_CLOSED_SHIFT;
#if WALK_BY_TABLE
    if (!can_walk(now)) {
        thread->walk.address = opening.address;
        thread->walk.size = size;
        thread->walk.function = opening.function;
        thread->stack.generation = now->generation;
        store_without_walk(ctx, now, thread, registers.ip);
        return 0;
    }
#endif
    struct registers start = {.ip = registers.ip, .sp = registers.sp, .bp = registers.bp};
    record_as(ctx, now, thread, opening.function, opening.address, size, 0, start, 1);
    return 0;
}

#if WALK_BY_TABLE && WALK_PARTS > 1
int descriptor_walk_part(struct pt_regs *ctx) {
    walk_part_in(ctx, FD_SPACE, 1);
    return 0;
}
#endif

#endif
