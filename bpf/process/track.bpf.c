/* The heart: what is recorded when a call has its result, and how a block is
 * released. */

/* The stack is known: store what the call allocated. Returns whether its site is there. */
static __always_inline int store(struct pt_regs *ctx, struct thread *thread, u64 stack_id) {
    int has_site = 0;
    u64 address = thread->walk.address, size = thread->walk.size;
    u16 function = thread->walk.function;

    if (thread->walk.is_inside)
        return 0; /* an allocator calls itself */

    if (function == FUNCTION_FAULT) { /* nothing ever takes the page back: the site counts */
        return count_allocated(thread, stack_id, size, 0, 0);
    }
    if (function == FUNCTION_MMAP || function == FUNCTION_MREMAP) {
        /* A range can be unmapped in part: user space keeps the account of ranges. */
        count_allocated(thread, stack_id, size, 0, 1);
        send_region(ctx, EVENT_REGION_ADD, function, address, size, stack_id);
    } else {
        struct allocation allocation = {
            .size = size, .time_ns = bpf_ktime_get_ns(), .stack_id = stack_id};
        if (put(address, &allocation))
            has_site = count_allocated(thread, stack_id, size, allocation.time_ns, 0);
    }
    trace(ctx, EVENT_ALLOCATE, function, address, size, stack_id);
#if STOP_AT_RECORD
    bpf_send_signal_thread(19); /* SIGSTOP */
#endif
    return has_site;
}

#if WALK_BY_TABLE
/* The walk is over. Its stack can be known from now on, if there is a site that has it. */
static __always_inline void walked(struct pt_regs *ctx, struct thread *thread, int result) {
    u64 id = finish_walk(ctx, thread, result);

    count(TALLY_WALKED_STACKS);
    if (store(ctx, thread, id) &&
        (thread->stack.end == END_COMPLETE || thread->stack.end == END_GO))
        keep_known(&thread->walk, id);
}
#endif

#if WALK_PARTS > 1
/* The walk goes on in the next program, until it is done or has had all its parts. */
static __always_inline void walk_on(struct pt_regs *ctx, struct thread *thread) {
    int result = walk_some(thread);

    if (result == WALK_GOES_ON && ++thread->walk.parts < WALK_PARTS)
        walk_parts.call(ctx, 0); /* returns only if it fails */
    walked(ctx, thread, result);
}

int walk_part(struct pt_regs *ctx) {
    u64 key = thread_key();
    struct thread *thread = threads.lookup(&key);

    if (thread)
        walk_on(ctx, thread);
    return 0;
}
#endif

static __always_inline void record(void *ctx, struct thread *thread, u16 function, u64 address,
                                   u64 size, u64 outer, struct registers registers) {
    struct session *now = this_session();
    struct walk *walk = &thread->walk;

    if (!now)
        return;
    walk->address = address;
    walk->size = size;
    walk->function = function;
    thread->stack.generation = now->generation;
    start_walk(walk, registers, now->generation);
    walk->is_known = 0;
    walk->outer = outer;
    walk->is_inside = 0;
#if WALK_BY_TABLE
    prepare_walk(walk, &thread->stack, now);
    if (outer || function == FUNCTION_MMAP || function == FUNCTION_MREMAP) {
        never_know(walk); /* each is to be walked, or they are few */
    } else if (walk->slot_count == 0) {
        u64 id = find_known(walk);
        if (id) {
            walk->is_known = 1;
            count(TALLY_KNOWN_STACKS);
            store(ctx, thread, id);
            return;
        }
    }
#if POINTS
    if (walk->frame) {
        int result = step_out(walk);
        if (result != WALK_GOES_ON) {
            walked(ctx, thread, result);
            return;
        }
    }
#endif
#if WALK_PARTS > 1
    walk_on(ctx, thread);
#else
    walked(ctx, thread, walk_some(thread));
#endif
#else
    store(ctx, thread, stack_by_frame_pointers(ctx, thread));
#endif
}

/* The outermost call has this result; its caller's stack begins as `registers` say. */
static __always_inline void end(struct pt_regs *ctx, struct thread *thread, struct call *call,
                                u64 result, struct registers registers) {
    u16 function = call->function;
    u64 address = result, size = call->size;
    int failed = result == 0;

    call->sp = 0;
    if (function == FUNCTION_MUNMAP) {
        if ((int)result != 0)
            send_region(ctx, EVENT_REGION_RESTORE, function, call->address, size, 0);
        trace(ctx, (int)result ? EVENT_FAIL : EVENT_RELEASE, function, call->address, size, 0);
        return;
    }
    if (function == FUNCTION_MMAP || function == FUNCTION_MREMAP) {
        /* MAP_FAILED, or the system call's own result, which points return what they see of */
        failed = result >= -4095ULL;
        if (function == FUNCTION_MREMAP) {
            if (failed)
                send_region(ctx, EVENT_REGION_RESTORE, function, call->address, size, 0);
            else if (call->released)
                trace(ctx, EVENT_RELEASE, function, call->address, call->released, 0);
        }
    } else if (function == FUNCTION_POSIX_MEMALIGN) {
        failed = (int)result != 0;
        if (!failed && bpf_probe_read_user(&address, sizeof(address), (void *)call->memptr)) {
            lose(LOSS_UNREAD_RESULTS, 1);
            return;
        }
        failed = failed || !address;
    }
    if (call->has_old) {
        /* realloc(p, 0) returns NULL and has freed p; any other NULL leaves p as it
         * was. */
        if (failed && size) {
            restore_old(call);
        } else {
            struct allocation old = call->old;
            call->has_old = 0;
            count_freed(&old);
            trace(ctx, EVENT_RELEASE, function, call->address, old.size, old.stack_id);
        }
    }
    if (failed) {
        trace(ctx, EVENT_FAIL, function, 0, size, 0);
        return;
    }
    if (call->skip)
        return;
    record(ctx, thread, function, address, size, call->outer, registers);
}

/* Every return probe comes here. */
static __always_inline void leave(struct pt_regs *ctx) {
    u64 sp = PT_REGS_SP(ctx) - RETURN_SP_DELTA;
    struct thread *thread = known_thread();

    if (!thread)
        return; /* under way when tracing began, or counted as LOSS_THREADS at its
                   entry */
    if (!thread->call.sp) {
        lose(LOSS_MISSED_RETURNS, 1);
        return;
    }
    struct call *call = &thread->call;
    if (sp < call->sp)
        return; /* a nested call */
    if (sp > call->sp || (call->by_point && !is_near(call->sp, sp))) {
        if (!call->by_point || is_near(call->sp, sp))
            abandon(call);
        lose(LOSS_MISSED_RETURNS, 1);
        return;
    }
    if (call->echoes) {
        call->echoes--;
        call->echo_returned = 1;
        return;
    }
    /* In a return probe ip is the return address: the first frame is the caller. */
    struct registers registers = {.ip = PT_REGS_IP(ctx),
                                  .sp = PT_REGS_SP(ctx),
                                  .bp = PT_REGS_FP(ctx),
                                  .ip_is_return_address = 1};
    end(ctx, thread, call, PT_REGS_RC(ctx), registers);
}

/* --- releases ------------------------------------------------------------------------------- */

/* At entry, before the allocator can hand the address out again. */
static __always_inline void release(struct pt_regs *ctx, u64 address) {
    struct allocation allocation = {};

    if (!address)
        return;
    if (take(address, &allocation)) {
        count_freed(&allocation);
        trace(ctx, EVENT_RELEASE, FUNCTION_FREE, address, allocation.size, allocation.stack_id);
        return;
    }
#if SAMPLE_RATE <= 1 && !SAMPLE_BYTES && !THROTTLE && !SIZES_FILTERED
    note_unseen(ctx, address);
    trace(ctx, EVENT_RELEASE, FUNCTION_FREE, address, ~0ULL, 0);
#endif
}

/* realloc: the old record leaves now, as in free, and comes back if the call
 * fails. */
static __always_inline void hold_old(struct call *call, u64 address) {
    struct allocation old = {};

    call->address = address;
    if (address && take(address, &old)) {
        call->old = old;
        call->has_old = 1;
    }
}
