/* The heart: how an allocation call begins and ends, and how a block is
 * released.
 *
 * The outermost call wins. While a thread is inside an allocation function,
 * whatever probed function the allocator calls itself is recognised by its
 * lower stack pointer and left alone; only the outermost end records. An open
 * call whose stack pointer lies below that of a new one was left by longjmp or
 * an exception: it is discarded and counted. One on another stack is that of a
 * coroutine, and put aside. */

static __always_inline u64 thread_key(void) {
    return bpf_get_current_pid_tgid();
}

/* --- sites ---------------------------------------------------------------------------------- */

struct weighed {
    u64 bytes;
    u64 count;
};

/* What one allocation of this size stands for. Sampled by bytes it was drawn with probability
 * p = 1 - exp(-x), x = size / SAMPLE_BYTES, so it stands for 1 / p of its kind, and for
 * size / p = SAMPLE_BYTES * x / (1 - exp(-x)) bytes: a table with a straight line between. */
static __always_inline struct weighed weigh(u64 size, u64 time_ns, int is_region) {
    struct weighed result = {.bytes = size, .count = 1};
#if THROTTLE
    struct throttle *now = this_throttle();
    if (now && now->rate > 1 && time_ns >= now->since_ns && !is_region) {
        result.bytes *= now->rate;
        result.count *= now->rate;
    }
#endif
#if SAMPLE_BYTES
    u64 scaled = size * 256, index64 = scaled / SAMPLE_BYTES;
    u32 index = index64;

    result.count = COUNT_UNIT;
    if (is_region || index64 >= SAMPLE_WEIGHTS || !size)
        return result;
    u64 *low = sample_weights.lookup(&index);
    index++;
    u64 *high = sample_weights.lookup(&index);
    if (!low || !high)
        return result;
    u64 rest = scaled - index64 * SAMPLE_BYTES;
    u64 weight = *low + (*high - *low) * rest / SAMPLE_BYTES;
    result.bytes = SAMPLE_BYTES * weight / WEIGHT_UNIT;
    result.count = result.bytes * COUNT_UNIT / size;
#endif
    return result;
}

/* Returns whether the site is there. */
static __always_inline int count_allocated(struct thread *thread, u64 stack_id, u64 size,
                                           u64 time_ns, int is_region) {
    struct weighed weighed = weigh(size, time_ns, is_region);
    struct site *site = sites.lookup(&stack_id);

    if (!site) {
        if (thread->walk.is_known) { /* can't be, and its stack isn't at hand */
            lose(LOSS_SITES, 1);
            return 0;
        }
        if (stack_id) {
            long error = stacks.insert(&stack_id, &thread->stack);
            if (error && error != -17) /* EEXIST: another thread was first */
                lose(LOSS_STACKS, 1);
        }
        struct site first = {.allocated_bytes = weighed.bytes,
                             .allocated_count = weighed.count,
                             .generation = thread->stack.generation,
                             .end = stack_id ? thread->stack.end : END_UNKNOWN,
                             .is_region = is_region};
        if (!sites.insert(&stack_id, &first))
            return 1;
        site = sites.lookup(&stack_id); /* another thread was first, or the map is full */
        if (!site) {
            lose(LOSS_SITES, 1);
            return 0;
        }
    }
    __sync_fetch_and_add(&site->allocated_bytes, weighed.bytes);
    __sync_fetch_and_add(&site->allocated_count, weighed.count);
    return 1;
}

static __always_inline void count_freed(struct allocation *allocation) {
#if COUNT_FREED
    struct weighed weighed = weigh(allocation->size, allocation->time_ns, 0);
    u64 stack_id = allocation->stack_id;
    struct site *site = sites.lookup(&stack_id);

    if (site) {
        __sync_fetch_and_add(&site->freed_bytes, weighed.bytes);
        __sync_fetch_and_add(&site->freed_count, weighed.count);
    }
#endif
}

/* --- records -------------------------------------------------------------------------------- */

/* Whether a record was made before the last exec: it says nothing of this image. */
static __always_inline int is_stale(struct allocation *allocation) {
    struct session *now = this_session();
    return now && allocation->time_ns < now->exec_time_ns;
}

/* Take a record out of the map. The value is copied first: it is gone after the delete. */
static __always_inline int take(u64 address, struct allocation *allocation) {
    struct allocation *recorded = allocations.lookup(&address);

    if (!recorded)
        return 0;
    *allocation = *recorded;
    return allocations.delete(&address) == 0 && !is_stale(allocation);
}

static __always_inline int put(u64 address, struct allocation *allocation) {
    long error = allocations.insert(&address, allocation);

    if (error == -17) { /* EEXIST: its release was not seen, or it is from before an exec */
        struct allocation forgotten = {};
        if (take(address, &forgotten)) {
            count_freed(&forgotten);
            lose(LOSS_MISSED_FREES, 1);
        }
        error = allocations.update(&address, allocation);
    }
    if (error) {
        lose(LOSS_ALLOCATIONS, 1);
        lose(LOSS_ALLOCATION_BYTES, allocation->size);
    }
    return error == 0;
}

/* --- calls ---------------------------------------------------------------------------------- */

#if SAMPLE_BYTES
/* Bytes until the next sample: exponentially distributed with mean SAMPLE_BYTES, by its quantiles
 * and a straight line between them. */
static __always_inline u64 draw_gap(void) {
    u32 random = bpf_get_prandom_u32(), index = random & (SAMPLE_GAPS - 1);
    u64 *low = sample_gaps.lookup(&index);
    index++;
    u64 *high = sample_gaps.lookup(&index);

    if (!low || !high)
        return 0;
    return *low + (((*high - *low) * (random >> 16)) >> 16);
}
#endif

static __always_inline int filtered_out(struct thread *thread, u16 function, u64 size) {
    if (size < MIN_SIZE || size > MAX_SIZE)
        return 1;
    /* Regions are few and large: sampling them would save nothing and blur the most. */
    if (function == FUNCTION_MMAP || function == FUNCTION_MUNMAP || function == FUNCTION_MREMAP)
        return 0;
#if THROTTLE
    struct throttle *now = this_throttle();
    if (now && now->rate > 1 && bpf_get_prandom_u32() % (u32)now->rate)
        return 1;
#endif
#if SAMPLE_BYTES
    if (size < thread->gap) {
        thread->gap -= size;
        return 1;
    }
    thread->gap = draw_gap();
    return size == 0;
#elif SAMPLE_RATE > 1
    return bpf_get_prandom_u32() % SAMPLE_RATE != 0;
#else
    return 0;
#endif
}

/* Tell user space that an executable image makes its first call: its libraries are mapped now. */
static __always_inline void announce(void *ctx, struct session *now) {
    if (now->announced == now->generation + 1)
        return;
    now->announced = now->generation + 1;
#if STOP_AT_START
    /* Not before its exec, which leaktrace waits for. SIGSTOP takes effect before the call goes on.
     * It is sent before the event, whose answer is SIGCONT: that one must not come first. */
    if (now->generation)
        bpf_send_signal(19);
#endif
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .kind = EVENT_STARTED,
                          .generation = now->generation,
                          .tid = thread_key()};
    send_region_event(ctx, &event);
}

/* Put back what realloc had taken out: the call failed, or never returned. */
static __always_inline void restore_old(struct call *call) {
    if (!call->has_old)
        return;
    call->has_old = 0;
    struct allocation old = call->old;
    put(call->address, &old);
}

static __always_inline void abandon(struct call *call) {
    restore_old(call);
    call->sp = 0;
    if (call->function != FUNCTION_OPERATOR_NEW) /* it threw: then it has allocated nothing */
        lose(LOSS_STALE_CALLS, 1);
}

/* Whether an open call can still return. By return probes: while one waits, the kernel keeps the
 * address of its trampoline in place of the return address, and the trampoline starts a page
 * (kernel/events/uprobes.c: prepare_uretprobe, uprobe_get_trampoline_vaddr). By points: the return
 * address itself stands there. Anything else in that place was written after longjmp or an
 * exception left the call. The reverse doesn't hold: what such a call left on the stack may lie
 * there untouched. And a signal handler that allocates, run within the few instructions of the
 * trampoline, which pushes registers there, makes us give up a call that does return: counted as
 * stale, and as a missed return. */
static __always_inline int return_pending(struct call *call, u64 sp, u16 function) {
#if RETURN_SP_DELTA /* the return address is on the stack */
    u64 place = 0;

    if (bpf_probe_read_user(&place, sizeof(place), (void *)call->sp))
        return 0; /* its stack is gone */
    if (call->by_point && place == call->return_address)
        return 1;
    return (place & 4095) == 0 && place;
#else
    return sp < call->sp || function != call->function;
#endif
}

static __always_inline struct thread *known_thread(void) {
    u64 key = thread_key();
    return threads.lookup(&key);
}

/* The state of the thread that runs; NULL before tracing is armed, or when there is no room. */
static __always_inline struct thread *this_thread(void *ctx) {
    u64 key = thread_key();
    u32 zero = 0;
    struct thread *thread = threads.lookup(&key);

    if (thread)
        return thread;
    struct thread *blank = blank_thread.lookup(&zero);
    struct session *now = this_session();
    /* Until every probe is on, a block could be recorded whose release is not seen. No thread has
     * state before that, so a call under way when tracing begins is not tracked. */
    if (!blank || !now || !now->armed)
        return 0;
    if (!now->tgid)
        now->tgid = key >> 32;
    announce(ctx, now);
#if STOP_AT_START
    if (!now->generation)
        return 0; /* leaktrace's own child, which has not become the command yet */
#endif
    threads.insert(&key, blank);
    thread = threads.lookup(&key);
    if (!thread) {
        lose(LOSS_THREADS, 1);
        return 0;
    }
#if SAMPLE_BYTES
    thread->gap = draw_gap();
#endif
    return thread;
}

/* An allocator that calls itself hardly goes deeper than this (jemalloc's start takes 10 KiB). What
 * is farther away may be on another stack, a coroutine's or a signal handler's, or deep in a
 * new_handler: its own stack tells, once it is walked. */
#define NEAR_BYTES 16384
#define FAR_BYTES (1 << 20)

static __always_inline int is_near(u64 call_sp, u64 sp) {
    return call_sp - sp + NEAR_BYTES <= 2 * NEAR_BYTES;
}

#if POINTS
/* Put the open call aside: its thread is on another stack now. */
static __always_inline void suspend(struct thread *thread) {
    u64 key = thread->call.sp;
    struct session *now = this_session();

    if (now)
        now->suspended = 1;
    suspended.update(&key, &thread->call);
    thread->aside = key;
    thread->call.sp = 0;
}

static __always_inline struct opened *opened_at(u64 sp) {
    u32 at = sp * SPREAD >> 32 & (OPENED_CALLS - 1); /* stacks lie at regular distances */
    return opened.lookup(&at);
}

static __always_inline void note_opened(u64 sp) {
    struct opened *entry = opened_at(sp);
    struct session *now = this_session();

    if (now && now->suspended) /* what began here before was left by a jump */
        suspended.delete(&sp);

    if (entry) {
        entry->sp = sp;
        entry->thread = thread_key();
    }
}

/* The call that began at this sp, if another thread has it: a coroutine has changed threads. */
static __always_inline struct call *opened_elsewhere(u64 sp) {
    struct opened *entry = opened_at(sp);

    if (!entry || entry->sp != sp)
        return 0;
    u64 key = entry->thread;
    struct thread *owner = threads.lookup(&key);
    if (!owner || owner->call.sp != sp || !owner->call.by_point)
        return 0;
    return &owner->call;
}

/* Have the call that began at this sp as the thread's open one. Returns whether there is one. */
static __always_inline int resume(struct thread *thread, u64 sp) {
    struct session *now = this_session();
    struct call *call = 0;

    if (thread->call.sp == sp)
        return 1;
    if (now && now->suspended)
        call = suspended.lookup(&sp);
    if (call && !return_pending(call, sp, call->function)) { /* a jump has left it */
        abandon(call);
        suspended.delete(&sp);
        call = 0;
    }
    if (!call) {
        call = opened_elsewhere(sp);
        if (!call)
            return 0;
    }
    if (thread->call.sp)
        suspend(thread);
    thread->call = *call;
    call->sp = 0;
    if (now && now->suspended)
        suspended.delete(&sp);
    return 1;
}

/* A signal handler on a stack of its own may allocate while a call is open. Once it is done, what
 * that call calls is inside it again. */
static __always_inline void return_to_stack(struct thread *thread, u64 sp) {
    u64 aside = thread->aside;

    if (!aside || thread->call.sp || !is_near(aside, sp))
        return;
    thread->aside = 0;
    resume(thread, aside);
}
#else
static __always_inline void suspend(struct thread *thread) {
    abandon(&thread->call);
}

static __always_inline void return_to_stack(struct thread *thread, u64 sp) {}
#endif

/* What a call that is about to begin is to the one that is open. */
enum relation {
    RELATION_NONE = 0,   /* none is open (any more) */
    RELATION_INSIDE = 1, /* the allocator calls itself */
    RELATION_SAME = 2,   /* it is the one that is open, tail-called functions included */
};

/* `entry_point`: by which a call begins that can't be the open one, met again; or 0. */
static __always_inline int relation_to_open(struct thread *thread, u64 sp, u16 function,
                                            u32 entry_point, u64 *outer) {
    struct call *call = &thread->call;

    return_to_stack(thread, sp);
    if (!call->sp)
        return RELATION_NONE;
    if (call->by_point && !is_near(call->sp, sp)) {
        if (call->sp - sp < FAR_BYTES && return_pending(call, sp, function))
            *outer = call->sp;
        suspend(thread);
        return RELATION_NONE;
    }
    if (sp <= call->sp && !call->echo_returned && return_pending(call, sp, function)) {
        if (sp < call->sp)
            return RELATION_INSIDE;
        if (!entry_point || call->entry_point != entry_point)
            return RELATION_SAME;
    }
    abandon(call);
    return RELATION_NONE;
}

static __always_inline void open_call(struct thread *thread, u16 function, u64 size, u64 sp) {
    struct call *call = &thread->call;

    call->skip = filtered_out(thread, function, size);
    call->sp = sp;
    call->size = size;
    call->function = function;
    call->address = 0;
    call->has_old = 0;
    call->by_point = 0;
    call->entry_point = 0;
    call->outer = 0;
    call->echoes = 0;
    call->echo_returned = 0;
}

/* How a call begins. */
struct beginning {
    u8 by_point;
    u32 entry_point; /* struct call; 0 of a point further on, where it may begin a second time */
};

/* Open a call whose return address is at sp. NULL when it is nested in one that is open already, or
 * nothing can be kept. */
static __always_inline struct call *begin(struct pt_regs *ctx, u16 function, u64 size, u64 sp,
                                          struct beginning how) {
    struct thread *thread = this_thread(ctx);
    u64 outer = 0;

    if (!thread)
        return 0;
    struct call *call = &thread->call;
    int relation = relation_to_open(thread, sp, function, how.entry_point, &outer);
    if (relation == RELATION_SAME) {
        if (!how.by_point && !call->by_point)
            call->echoes++; /* a tail call: reallocarray jumps to realloc */
        else if (how.by_point && !how.entry_point && call->function == function)
            call->size = size; /* should the one that was there be left by a jump */
    }
    if (relation != RELATION_NONE)
        return 0;
    open_call(thread, function, size, sp);
    call->outer = outer;
#if POINTS
    if (how.by_point) {
        call->by_point = 1;
        call->entry_point = how.entry_point;
        note_opened(sp);
        bpf_probe_read_user(&call->return_address, sizeof(u64), (void *)sp);
    }
#endif
    return call;
}

static __always_inline struct event make_event(u16 kind, u16 function, u64 address, u64 size,
                                               u64 stack_id) {
    struct session *now = this_session();
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .address = address,
                          .size = size,
                          .stack_id = stack_id,
                          .tid = thread_key(),
                          .kind = kind,
                          .function = function};
    if (now)
        event.generation = now->generation;
    return event;
}

#if TRACE
static __always_inline void trace(struct pt_regs *ctx, u16 kind, u16 function, u64 address,
                                  u64 size, u64 stack_id) {
    struct event event = make_event(kind, function, address, size, stack_id);
    send_trace_event(ctx, &event);
}
#else
#define trace(...)
#endif

static __always_inline void send_region(struct pt_regs *ctx, u16 kind, u16 function, u64 address,
                                        u64 size, u64 stack_id) {
    struct event event = make_event(kind, function, address, size, stack_id);
    send_region_event(ctx, &event);
}

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
    if (store(ctx, thread, id) && thread->stack.end == END_COMPLETE)
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
    prepare_walk(walk, now->generation);
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
    u64 key = thread_key(), sp = PT_REGS_SP(ctx) - RETURN_SP_DELTA;
    struct thread *thread = threads.lookup(&key);

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
