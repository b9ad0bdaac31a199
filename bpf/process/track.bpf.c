/* The end of a call, where its result is recorded, and releases. */

/* The code of a function in a trace event. */
static __always_inline u8 function_in(u32 space, u16 function) {
    if (!space)
        return function;
    return (function == FUNCTION_PAIR ? FUNCTION_PAIR : FUNCTION_PAIR_RELEASE) + space;
}

/* The stack is known: store what the call allocated. Returns whether the stack has a site.
 * `is_descriptor`, here and below: it is a system call that opened file descriptors. It is constant
 * in each program. */
static __always_inline int store(struct pt_regs *ctx, struct session *now, struct thread *thread,
                                 u64 stack_id, int is_descriptor) {
    int has_site = 0;
    u64 address = thread->walk.address, size = thread->walk.size;
    u16 function = thread->walk.function;
    u32 space = space_of(&thread->walk);

#if FD_SPACE
    if (is_descriptor)
        return store_descriptors(ctx, now, thread, stack_id);
#endif
#if WATCH_RELEASES
    if (thread->walk.freed_site)
        count_release(thread, stack_id);
    if (function == FUNCTION_FREE)
        return 0;
#endif
    if (thread->walk.is_inside)
        return 0; /* an allocator calls itself */

    if (function == FUNCTION_FAULT) { /* no release of a page is seen: only the site counts */
        return count_allocated(thread, stack_id, size, 0, 0);
    }
    if (maps_memory(function)) {
        /* User space keeps the ranges, because one can be unmapped in part. */
        int kind = is_of_other_memory(function) ? OTHER_MEMORY : MAPPED_MEMORY;
        count_allocated(thread, stack_id, size, 0, kind);
        send_region(ctx, now, EVENT_REGION_ADD, function, address, size, stack_id);
    } else {
        struct allocation allocation = {
            .size = size, .time_ns = bpf_ktime_get_ns(), .stack_id = stack_id};
        if (put(now, space, address, &allocation))
            has_site = count_allocated(thread, stack_id, size, allocation.time_ns, 0);
    }
    trace(ctx, origin_of(now), EVENT_ALLOCATE, function_in(space, function), address, size,
          stack_id);
#if STOP_AT_RECORD
    bpf_send_signal_thread(SIGSTOP);
#endif
    return has_site;
}

#if WALK_BY_TABLE
/* The walk is over: store the call with its stack, and cache the stack if a site has it. */
static __always_inline void store_walked(struct pt_regs *ctx, struct session *now,
                                         struct thread *thread, int result, int is_descriptor) {
    u64 id = finish_walk(ctx, now, thread, result);

    count(TALLY_WALKED_STACKS);
    if (store(ctx, now, thread, id, is_descriptor) &&
        (thread->stack.end == END_COMPLETE || thread->stack.end == END_GO))
        keep_known(&thread->walk, id);
}
#endif

#if WALK_PARTS > 1
/* Continue the walk. The next program takes over until the walk is done or no part is left. */
static __always_inline void walk_on(struct pt_regs *ctx, struct session *now, struct thread *thread,
                                    int is_descriptor) {
    int result = walk_some(thread);

    if ((result == WALK_GOES_ON && ++thread->walk.parts < WALK_PARTS) ||
        (result == WALK_SWITCHES && ++thread->walk.switches <= MOST_SWITCHES)) {
#if FD_SPACE
        if (is_descriptor)
            descriptor_walk_parts.call(ctx, 0);
        else
#endif
            walk_parts.call(ctx, 0); /* returns only if it fails */
    }
    store_walked(ctx, now, thread, result, is_descriptor);
}

static __always_inline void walk_part_in(struct pt_regs *ctx, u32 space, int is_descriptor) {
    u64 key = thread_key_in(space);
    struct thread *thread = threads.lookup(&key);

    struct session *now = thread ? session_of(thread->walk.slot) : 0;

    if (!now)
        return;
    if (thread->walk.switch_row && step_into_go(&thread->walk) != WALK_GOES_ON)
        store_walked(ctx, now, thread, WALK_GO, is_descriptor);
    else
        walk_on(ctx, now, thread, is_descriptor);
}

int walk_part(struct pt_regs *ctx) {
    walk_part_in(ctx, space_of_probe(ctx), 0);
    return 0;
}
#endif

/* Record what was allocated, with the stack that starts as `registers` say. */
static __always_inline void record_as(void *ctx, struct session *now, struct thread *thread,
                                      u16 function, u64 address, u64 size, u64 outer,
                                      struct registers registers, int is_descriptor) {
    struct walk *walk = &thread->walk;
    walk->address = address;
    walk->size = size;
    walk->function = function;
    thread->stack.generation = now->generation;
    start_walk(walk, registers, now);
    walk->is_known = 0;
    walk->outer = outer;
    walk->is_inside = 0;
#if WALK_BY_TABLE
    prepare_walk(walk, &thread->stack, now);
    if (outer || maps_memory(function)) {
        do_not_cache(walk); /* `outer` is searched for in each stack; regions are few */
    } else if (walk->slot_count == 0) {
        u64 id = find_known(walk);
        if (id) {
            walk->is_known = 1;
            count(TALLY_KNOWN_STACKS);
            store(ctx, now, thread, id, is_descriptor);
            return;
        }
    }
#if POINTS
    if (walk->frame && !is_descriptor) {
        int result = step_out(walk);
        if (result != WALK_GOES_ON) {
            store_walked(ctx, now, thread, result, 0);
            return;
        }
    }
#endif
#if WALK_PARTS > 1
    walk_on(ctx, now, thread, is_descriptor);
#else
    store_walked(ctx, now, thread, walk_some(thread), is_descriptor);
#endif
#else
    store(ctx, now, thread, stack_by_frame_pointers(ctx, thread), is_descriptor);
#endif
}

static __always_inline void record(void *ctx, struct session *now, struct thread *thread,
                                   u16 function, u64 address, u64 size, u64 outer,
                                   struct registers registers) {
    record_as(ctx, now, thread, function, address, size, outer, registers, 0);
}

/* Whether a call that has returned no block leaves the old one as it was. */
static __always_inline int keeps_old(struct call *call, u64 result) {
    if (call->outcome == OUTCOME_BLOCK)
        return call->size != 0; /* realloc(p, 0) returns NULL and has freed p */
    if (call->outcome == OUTCOME_STATUS)
        return (int)result != 0; /* reallocarr(&p, 0, …) returns 0 and has freed p */
    return call->outcome != OUTCOME_BLOCK_OR_FREED;
}

#if PAIRS
/* Whether a function that the user named returned nothing: NULL, or a negated errno, of which an
 * int may be extended to 64 bits by zeros. */
static __always_inline int is_no_object(u64 result) {
    u32 low = result;

    return !result || result >= -4095ULL || (result == low && low >= -4095U);
}
#endif

/* The outermost call has this result. Its caller's stack starts as `registers` say. */
static __always_inline void end_call(struct pt_regs *ctx, struct session *now,
                                     struct thread *thread, struct call *call, u64 result,
                                     struct registers registers) {
    u16 function = call->function;
    u64 address = result, size = call->size;
    int failed = result == 0;
#if WATCH_RELEASES
    u64 freed_site = 0;
    u32 stands_for = 0;
#endif

    call->sp = 0;
#if PAIRS
    if (function == FUNCTION_PAIR) {
        failed = is_no_object(result);
    }
#endif
    if (function == FUNCTION_BRK) { /* whatever it returned */
        u64 before = now->program_break;

        see_break(now);
        address = now->program_break;
        if (!before) {
            lose(LOSS_BREAKS, 1);
            return;
        }
        if (address <= before) {
            /* Only what the program has raised matters: free lowers it often. */
            u64 raised_to = now->raised_to;
            if (address < raised_to) {
                now->raised_to = address;
                size = raised_to - address;
                send_region(ctx, now, EVENT_REGION_RELEASE, function, address, size, 0);
                trace(ctx, origin_of(now), EVENT_RELEASE, function, address, size, 0);
            }
            return;
        }
        now->raised_to = address;
        size = address - before;
        address = before;
        failed = 0;
    } else if (function == FUNCTION_MUNMAP || function == FUNCTION_SHMDT) {
        if ((int)result != 0)
            send_region(ctx, now, EVENT_REGION_RESTORE, function, call->address, size, 0);
        trace(ctx, origin_of(now), (int)result ? EVENT_FAIL : EVENT_RELEASE, function,
              call->address, size, 0);
        return;
    } else if (maps_memory(function)) {
        /* MAP_FAILED, or, at a point, the negated errno that the system call returned */
        failed = result >= -4095ULL;
        if (function == FUNCTION_MREMAP) {
            if (failed)
                send_region(ctx, now, EVENT_REGION_RESTORE, function, call->address, size, 0);
            else if (call->released)
                trace(ctx, origin_of(now), EVENT_RELEASE, function, call->address, call->released,
                      0);
        }
    } else if (call->outcome == OUTCOME_NEW_SIZE) {
        u64 most = size + call->extra;
        failed = result < size;
        address = call->address;
        size = result < most || most < size ? result : most;
    } else if (call->outcome == OUTCOME_STATUS) {
        failed = (int)result != 0;
        if (!failed && bpf_probe_read_user(&address, sizeof(address), (void *)call->memptr)) {
            lose(LOSS_UNREAD_RESULTS, 1);
            return;
        }
        failed = failed || !address;
    }
    if (call->has_old) {
        if (failed && keeps_old(call, result)) {
            restore_old_record(now, call);
        } else {
            struct allocation old = call->old;
            call->has_old = 0;
            count_freed(HEAP_SPACE, &old);
#if WATCH_RELEASES
            struct lifetimes *watched = count_lifetime(&old);
            stands_for = watched ? weight_of_release(watched) : 0;
            if (stands_for)
                freed_site = old.stack_id;
#endif
            trace(ctx, origin_of(now), EVENT_RELEASE, function, call->address, old.size,
                  old.stack_id);
        }
    } else if (call->unseen_old && !(failed && keeps_old(call, result))) {
        count_unseen(now);
    }
    if (failed)
        trace(ctx, origin_of(now), EVENT_FAIL, function_in(space_of(&thread->walk), function), 0,
              size, 0);
#if WATCH_RELEASES
    thread->walk.freed_site = freed_site;
    thread->walk.stands_for = stands_for;
    if (failed || call->skip) {
        if (!freed_site)
            return;
        function = FUNCTION_FREE; /* the stack is only that of the release */
    }
#else
    if (failed || call->skip)
        return;
#endif
    record(ctx, now, thread, function, address, size, call->outer, registers);
}

/* A return probe was hit. */
static __always_inline void at_return(struct pt_regs *ctx, struct session *now) {
    u64 sp = PT_REGS_SP(ctx) - RETURN_SP_DELTA;
    struct thread *thread = existing_thread(space_of_probe(ctx));

    if (!thread)
        return; /* under way when tracing began, or counted as LOSS_THREADS at its entry */
    if (!thread->call.sp) {
        lose(LOSS_MISSED_RETURNS, 1);
        return;
    }
    struct call *call = &thread->call;
    if (sp < call->sp)
        return; /* a nested call */
    if (sp > call->sp || (call->by_point && !is_near(call->sp, sp))) {
        if (!call->by_point || is_near(call->sp, sp))
            abandon(now, call);
        lose(LOSS_MISSED_RETURNS, 1);
        return;
    }
    if (call->tail_calls) {
        call->tail_calls--;
        call->tail_call_returned = 1;
        return;
    }
    /* In a return probe ip is the return address: the first frame is the caller. */
    struct registers registers = {.ip = PT_REGS_IP(ctx),
                                  .sp = PT_REGS_SP(ctx),
                                  .bp = PT_REGS_FP(ctx),
                                  .ip_is_return_address = 1};
    end_call(ctx, now, thread, call, PT_REGS_RC(ctx), registers);
}

/* --- releases -------------------------------------------------------------------------------- */

/* At the entry, before the allocator can return the address again. */
static __always_inline void release(struct pt_regs *ctx, struct session *now, u64 address) {
    struct allocation allocation = {};

    if (!address || !now->armed)
        return;
    if (take(now, HEAP_SPACE, address, &allocation)) {
        count_freed(HEAP_SPACE, &allocation);
        struct lifetimes *watched = count_lifetime(&allocation);
        note_release(now, address);
        trace(ctx, origin_of(now), EVENT_RELEASE, FUNCTION_FREE, address, allocation.size,
              allocation.stack_id);
        if (watched)
            walk_release(ctx, now, HEAP_SPACE, watched);
        return;
    }
#if RECORDS_ALL
    note_unseen_release(ctx, now, address);
    trace(ctx, origin_of(now), EVENT_RELEASE, FUNCTION_FREE, address, UNKNOWN_SIZE, 0);
#endif
}

#if PAIRS
/* The same for an object of a pair. */
static __always_inline void release_object(struct pt_regs *ctx, struct session *now, u32 space,
                                           u64 object) {
    struct allocation allocation = {};

    if (!now->armed || is_no_object(object))
        return;
    if (take(now, space, object, &allocation)) {
        count_freed(space, &allocation);
        struct lifetimes *watched = count_lifetime(&allocation);
        trace(ctx, origin_of(now), EVENT_RELEASE, function_in(space, FUNCTION_FREE), object,
              allocation.size, allocation.stack_id);
        if (watched)
            walk_release(ctx, now, space, watched);
        return;
    }
    struct pair_calls *calls = pair_calls.lookup(&space);
    if (calls)
        __sync_fetch_and_add(&calls->other_releases, 1);
    trace(ctx, origin_of(now), EVENT_RELEASE, function_in(space, FUNCTION_FREE), object,
          UNKNOWN_SIZE, 0);
}
#endif

/* realloc: remove the old block's record at the entry, as free does. It comes back if the call
 * fails. */
static __always_inline void hold_old_record(struct session *now, struct call *call, u64 address) {
    struct allocation old = {};

    call->address = address;
    if (address && take(now, HEAP_SPACE, address, &old)) {
        call->old = old;
        call->has_old = 1;
    } else {
        call->unseen_old = !!address;
    }
}
