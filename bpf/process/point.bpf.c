/* Points: probes inside functions, where the requested size is known, or the result, or both.
 * Unlike a return probe, a point leaves the return address unchanged. User space finds the points,
 * and where the values are, by analysing the code: src/leaktrace/process/probes/find_points.py. */

#if POINTS

/* One read per register: clang would merge them into one at a variable offset, which the verifier
 * refuses. */
#define REGISTER(name)                                                                             \
    do {                                                                                           \
        u64 held = ctx->name;                                                                      \
        asm volatile("" : "+r"(held));                                                             \
        return held;                                                                               \
    } while (0)

static __always_inline u64 register_at(struct pt_regs *ctx, u16 number) {
    switch (number) {
    case 0:
        REGISTER(ax);
    case 1:
        REGISTER(cx);
    case 2:
        REGISTER(dx);
    case 3:
        REGISTER(bx);
    case 4:
        REGISTER(sp);
    case 5:
        REGISTER(bp);
    case 6:
        REGISTER(si);
    case 7:
        REGISTER(di);
    case 8:
        REGISTER(r8);
    case 9:
        REGISTER(r9);
    case 10:
        REGISTER(r10);
    case 11:
        REGISTER(r11);
    case 12:
        REGISTER(r12);
    case 13:
        REGISTER(r13);
    case 14:
        REGISTER(r14);
    default:
        REGISTER(r15);
    }
}

static __always_inline u64 value_at(struct pt_regs *ctx, struct place *place, u64 frame) {
    u64 value = (s64)place->value;

    if (place->kind == PLACE_REGISTER)
        return register_at(ctx, place->number);
    if (place->kind == PLACE_SLOT) {
        u64 slot = frame + value;
        value = 0;
        bpf_probe_read_user(&value, sizeof(value), (void *)slot);
    }
    return value;
}

static __always_inline u64 size_at(struct pt_regs *ctx, struct point *point, u64 frame) {
    u64 size = value_at(ctx, &point->size, frame);

    if (point->count.kind)
        size = product(size, value_at(ctx, &point->count, frame));
    return size;
}

#define FLAG_CARRY 0x001
#define FLAG_PARITY 0x004
#define FLAG_ZERO 0x040
#define FLAG_SIGN 0x080
#define FLAG_OVERFLOW 0x800

/* Whether the condition of a jump holds (Intel SDM, volume 1, appendix B). The lowest bit of its
 * code negates it. */
static __always_inline int holds(u64 flags, u8 condition) {
    int is_less = !(flags & FLAG_SIGN) != !(flags & FLAG_OVERFLOW), yes;

    switch (condition >> 1) {
    case 0:
        yes = !!(flags & FLAG_OVERFLOW);
        break;
    case 1:
        yes = !!(flags & FLAG_CARRY);
        break;
    case 2:
        yes = !!(flags & FLAG_ZERO);
        break;
    case 3:
        yes = !!(flags & (FLAG_CARRY | FLAG_ZERO));
        break;
    case 4:
        yes = !!(flags & FLAG_SIGN);
        break;
    case 5:
        yes = !!(flags & FLAG_PARITY);
        break;
    case 6:
        yes = is_less;
        break;
    case 7:
        yes = is_less || (flags & FLAG_ZERO);
        break;
    default:
        return 1; /* POINT_ALWAYS */
    }
    return yes != (condition & 1);
}

/* Whether this is the end of the open call, after resuming a suspended one. */
static __always_inline int is_end_of_open(struct session *now, struct thread *thread,
                                          struct point *point, u64 sp) {
    struct call *call = &thread->call;

    return_to_stack(now, thread, sp);
    if (call->sp != sp && !resume(now, thread, sp)) {
        if (!call->sp && !(point->flags & POINT_MAY_BE_UNOPENED))
            lose(LOSS_MISSED_RETURNS, 1);
        return 0; /* a nested call, or other callers of the same code */
    }
    return call->by_point; /* otherwise its return probe ends it */
}

/* Size and result are known at the same point: open the call. Returns whether to record it. */
static __always_inline int open_ended_call(struct pt_regs *ctx, struct session *now,
                                           struct thread *thread, struct point *point, u64 frame) {
    struct call *call = &thread->call;
    u64 sp = frame - 8, size = size_at(ctx, point, frame), outer = 0;

    resume(now, thread, sp);
    int relation = relation_to_open(now, thread, sp, point->function, 0, &outer);
    if (relation == RELATION_INSIDE) {
        if (point->function == FUNCTION_BRK) /* of malloc */
            see_break(now);
        return 0;
    }
    if (relation == RELATION_SAME) {
        if (call->function == point->function)
            call->size = size; /* in case a jump has left the call that was open */
        return call->by_point;
    }
    open_call(thread, point->function, size, sp);
    call->outer = outer;
    if (call->skip)
        call->sp = 0;
    return !call->skip;
}

int at_point(struct pt_regs *ctx) {
    u64 cookie = bpf_get_attach_cookie(ctx);
    u32 index = cookie, space = PAIRS ? cookie >> COOKIE_SPACE_SHIFT : HEAP_SPACE;
    struct session *now = session_of((u16)(cookie >> COOKIE_SLOT_SHIFT));
    struct point *point = points.lookup(&index);

    if (!now || !point || !holds(ctx->flags, point->condition))
        return 0;
    u64 sp = ctx->sp, bp = ctx->bp;
    asm volatile("" : "+r"(sp), "+r"(bp)); /* as in register_at */
    u64 frame = (point->frame_register == 5 ? bp : sp) + (s64)point->frame_offset;
    if (point->action == POINT_BEGIN) {
        int by_arguments = point->flags & POINT_BY_ARGUMENTS;
        u64 size =
            by_arguments ? size_from_arguments(ctx, point->shape) : size_at(ctx, point, frame);
        struct start start = {.by_point = 1,
                              .space = space,
                              .entry_point = by_arguments ? index + 1 : 0,
                              .may_begin_again = !!(point->flags & POINT_MAY_BEGIN_AGAIN)};
        enter_call(ctx, now, point->function, point->shape, size, frame - 8, start);
        return 0;
    }
    struct thread *thread = point->action == POINT_BOTH
                                ? this_thread(ctx, now, space, point->function)
                                : existing_thread(space);
    if (!thread)
        return 0; /* under way when tracing began, or counted as LOSS_THREADS */
    if (point->action == POINT_BOTH ? !open_ended_call(ctx, now, thread, point, frame)
                                    : !is_end_of_open(now, thread, point, frame - 8))
        return 0;
#if PAIRS
    if (point->action == POINT_LEAVE) {
        thread->call.sp = 0;
        lose(LOSS_LEFT_CALLS, 1);
        return 0;
    }
#endif
    struct registers registers = {
        .ip = ctx->ip, .bp = ctx->bp, .frame = frame, .rbp_offset = point->rbp_offset};
    end_call(ctx, now, thread, &thread->call, value_at(ctx, &point->result, frame), registers);
    return 0;
}

#endif
