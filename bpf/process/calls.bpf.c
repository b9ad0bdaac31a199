/* Open calls, one per thread.
 *
 * Only the outermost call counts. While a thread is in an allocation function, a probed function
 * that the allocator calls itself has a lower stack pointer and is ignored; only the outermost
 * call's end is recorded. An open call whose stack pointer is below that of a new one was left by
 * longjmp or an exception: it is dropped and counted. An open call on another stack belongs to a
 * coroutine and is suspended. */

#if SAMPLE_BYTES
/* Bytes until the next sample: exponentially distributed with mean SAMPLE_BYTES, by its quantiles
 * with linear interpolation. */
static __always_inline u64 draw_gap(void) {
    u32 random = bpf_get_prandom_u32(), index = random & (GAP_COUNT - 1);
    u64 *low = sample_gaps.lookup(&index);
    index++;
    u64 *high = sample_gaps.lookup(&index);

    if (!low || !high)
        return 0;
    return *low + (((*high - *low) * (random >> 16)) >> 16);
}
#endif

/* Memory that is neither a block nor what mmap returned: shared memory of SysV, the program break.
 * User space has all of its figures (process/region_account.py). */
static __always_inline int is_of_other_memory(u16 function) {
    return function >= FUNCTION_SHMAT && function <= FUNCTION_BRK;
}

static __always_inline int maps_memory(u16 function) {
    return function == FUNCTION_MMAP || function == FUNCTION_MREMAP || is_of_other_memory(function);
}

/* Where the program break of the current process is; 0: not known. */
static __always_inline u64 program_break(void) {
    u64 at = 0;
#if MM_BRK_OFFSET
    u64 mm = 0;

    if (read_kernel(&mm, sizeof(mm), (char *)bpf_get_current_task() + TASK_MM_OFFSET) ||
        read_kernel(&at, sizeof(at), (char *)mm + MM_BRK_OFFSET))
        return 0;
#endif
    return at;
}

static __always_inline void see_break(struct session *now) {
    now->program_break = program_break();
    now->break_seen = 1;
}

static __always_inline int is_filtered_out(struct thread *thread, u16 function, u64 size) {
    /* Few as well, and not all have sizes. */
    if (space_of(&thread->walk) || is_of_other_memory(function))
        return 0;
    if (size < MIN_SIZE || size > MAX_SIZE)
        return 1;
    /* Regions are few and large: sampling them would save nothing and cost the most precision. */
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

#if STOP_AT_START
/* Whether the command may be stopped: if leaktrace is allowed to continue it, and no debugger sees
 * its signals. */
static __always_inline int may_stop(void) {
#if CONTINUES_UID != ANY_USER
    if ((u32)bpf_get_current_uid_gid() != CONTINUES_UID)
        return 0;
#endif
#if TASK_PTRACE_OFFSET
    u32 tracing = 0;
    char *task = (char *)bpf_get_current_task();
    if (read_kernel(&tracing, sizeof(tracing), task + TASK_PTRACE_OFFSET) || tracing)
        return 0;
#endif
    return 1;
}

/* Stop it. Call this before the event is sent, because user space answers the event with SIGCONT,
 * which must not come first. */
static __always_inline void stop_at(struct session *now, u32 is_first_call) {
    if (now->slot != COMMAND_SLOT || !may_stop())
        return;
    now->stop = (u64)now->generation << STOP_GENERATION_SHIFT | is_first_call;
    bpf_send_signal(SIGSTOP);
}
#endif

/* Send an event when an executable image makes its first call: its libraries are mapped by now. */
static __always_inline void announce(void *ctx, struct session *now) {
    if (now->announced == now->generation + 1)
        return;
    now->announced = now->generation + 1;
#if STOP_AT_START
    /* Only after the exec that leaktrace waits for. The signal takes effect before the call goes
     * on. */
    if (now->generation)
        stop_at(now, 1);
#endif
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .kind = EVENT_STARTED,
                          .generation = now->generation,
                          .tid = thread_key(),
                          .slot = now->slot};
    send_event(ctx, &event);
}

/* Put back the record that realloc had removed: the call failed, or never returned. */
static __always_inline void restore_old_record(struct session *now, struct call *call) {
    if (!call->has_old)
        return;
    call->has_old = 0;
    struct allocation old = call->old;
    put(now, HEAP_SPACE, call->address, &old); /* of realloc, which is no pair's function */
}

/* Drop an open call that never returned. */
static __always_inline void abandon(struct session *now, struct call *call) {
    restore_old_record(now, call);
    call->sp = 0;
    if (call->function != FUNCTION_OPERATOR_NEW) /* it threw, so it has allocated nothing */
        lose(LOSS_STALE_CALLS, 1);
}

/* Whether an open call can still return. With return probes, the word at its sp is then the address
 * of the kernel's trampoline, which starts a page (kernel/events/uprobes.c: prepare_uretprobe,
 * uprobe_get_trampoline_vaddr). With points, it is the return address. Any other word was written
 * after longjmp or an exception left the call. The reverse doesn't hold: a call that was left may
 * leave its word on the stack untouched. There is one false negative: a signal handler that
 * allocates, while the thread executes the few instructions of the trampoline, which pushes
 * registers there. The call that does return is then counted as stale and as a missed return. */
static __always_inline int return_pending(struct call *call, u64 sp, u16 function) {
#if RETURN_SP_DELTA /* the return address is on the stack */
    u64 place = 0;

    if (bpf_probe_read_user(&place, sizeof(place), (void *)call->sp))
        return 0; /* its stack is unmapped */
    if (call->by_point && place == call->return_address)
        return 1;
    return (place & (PAGE_BYTES - 1)) == 0 && place;
#else
    return sp < call->sp || function != call->function;
#endif
}

/* The state of the current thread, if it has any. */
static __always_inline struct thread *existing_thread(u32 space) {
    u64 key = thread_key_in(space);
    return threads.lookup(&key);
}

/* New state for the current thread. NULL when there is no room. */
static __always_inline struct thread *new_thread(struct session *now, u32 space) {
    u64 key = thread_key_in(space);
    u32 zero = 0;
    struct thread *thread, *blank = blank_thread.lookup(&zero);

    if (!blank)
        return 0;
    threads.insert(&key, blank);
    thread = threads.lookup(&key);
    if (!thread) {
        lose(LOSS_THREADS, 1);
        return 0;
    }
    thread->walk.slot = thread->stack.slot = now->slot;
    thread->walk.first_late = now->slot * LATE_OBJECTS;
#if HAS_SPACES
    thread->walk.space = space;
#endif
#if SAMPLE_BYTES
    thread->gap = draw_gap();
#endif
    return thread;
}

/* The state of the current thread, made if needed. NULL before tracing is armed, or when there is
 * no room. */
static __always_inline struct thread *this_thread(void *ctx, struct session *now, u32 space,
                                                  u16 function) {
    struct thread *thread = existing_thread(space);

    if (thread)
        return thread;
    /* Until every probe is attached, a block could be recorded whose release is not seen. No thread
     * has state before that, so a call under way when tracing begins is not followed. */
    if (!now->armed)
        return 0;
#if IN_PID_NAMESPACE
    u32 tgid = thread_key() >> 32;
    if (!now->tgid) {
        struct process process = {.slot = now->slot};
        now->tgid = tgid;
        processes.update(&tgid, &process);
    }
#endif
    announce(ctx, now);
#if STOP_AT_START
    if (!now->generation && now->slot == COMMAND_SLOT)
        return 0; /* leaktrace's own child, before it executes the command */
#endif
    if (!now->break_seen && function != FUNCTION_BRK) /* of that function, it is the end */
        see_break(now);
    return new_thread(now, space);
}

/* An allocator that calls itself hardly goes deeper than this (jemalloc's start takes 10 KiB). A
 * call that is farther away may be on another stack (of a coroutine or a signal handler), or deep
 * in a new_handler: the walk of its stack decides. */
#define NEAR_BYTES 16384
#define FAR_BYTES (1 << 20)

static __always_inline int is_near(u64 call_sp, u64 sp) {
    return call_sp - sp + NEAR_BYTES <= 2 * NEAR_BYTES;
}

#if POINTS
/* Suspend the open call: its thread is on another stack now. */
static __always_inline void suspend(struct session *now, struct thread *thread) {
    u64 sp = thread->call.sp, key = record_key(now, space_of(&thread->walk), sp);

    now->suspended = 1;
    if (suspended.update(&key, &thread->call)) {
        abandon(now, &thread->call);
        return;
    }
    thread->suspended_sp = sp;
    thread->call.sp = 0;
}

static __always_inline void forget_suspended(struct session *now, u64 key) {
    if (now->suspended)
        suspended.delete(&key);
}

static __always_inline struct opened *opened_at(u64 key) {
    u32 at = key * HASH_MULTIPLIER >> 32 & (OPENED_CALLS - 1); /* stacks are at regular distances */
    return opened.lookup(&at);
}

static __always_inline void note_opened(struct session *now, u32 space, u64 sp) {
    u64 key = record_key(now, space, sp);
    struct opened *entry = opened_at(key);

    forget_suspended(now, key); /* a call with the same sp was left by a jump */
    if (entry) {
        entry->key = key;
        entry->thread = thread_key_in(space);
    }
}

/* The call that began at this sp, if another thread has it: a coroutine has changed threads. */
static __always_inline struct call *opened_elsewhere(u64 key, u64 sp) {
    struct opened *entry = opened_at(key);

    if (!entry || entry->key != key)
        return 0;
    u64 thread = entry->thread;
    struct thread *owner = threads.lookup(&thread);
    if (!owner || owner->call.sp != sp || !owner->call.by_point)
        return 0;
    return &owner->call;
}

/* Make the call that began at this sp the thread's open one. Returns whether there is one. */
static __always_inline int resume(struct session *now, struct thread *thread, u64 sp) {
    struct call *call = 0;
    u64 key = record_key(now, space_of(&thread->walk), sp);

    if (thread->call.sp == sp)
        return 1;
    if (now->suspended)
        call = suspended.lookup(&key);
    if (call && !return_pending(call, sp, call->function)) { /* a jump has left it */
        abandon(now, call);
        suspended.delete(&key);
        call = 0;
    }
    if (!call) {
        call = opened_elsewhere(key, sp);
        if (!call)
            return 0;
    }
    if (thread->call.sp)
        suspend(now, thread);
    thread->call = *call;
    call->sp = 0;
    forget_suspended(now, key);
    return 1;
}

/* A signal handler on its own stack may allocate while a call is open. After it, calls near the
 * suspended call's stack pointer are part of that call again. */
static __always_inline void return_to_stack(struct session *now, struct thread *thread, u64 sp) {
    u64 suspended_sp = thread->suspended_sp;

    if (!suspended_sp || thread->call.sp || !is_near(suspended_sp, sp))
        return;
    thread->suspended_sp = 0;
    resume(now, thread, suspended_sp);
}
#else
static __always_inline void suspend(struct session *now, struct thread *thread) {
    abandon(now, &thread->call);
}

static __always_inline void return_to_stack(struct session *now, struct thread *thread, u64 sp) {}
#endif

/* How a call that is about to begin relates to the open one. */
enum relation {
    RELATION_NONE = 0,   /* no call is open, or not any more */
    RELATION_INSIDE = 1, /* the allocator calls itself */
    RELATION_SAME = 2,   /* it is the open call, or a function tail-called from it */
};

/* `entry_point`: of a point at a function's entry. If it is the open call's own, a new call begins
 * there, because a call doesn't pass its entry twice. 0: no such point. */
static __always_inline int relation_to_open(struct session *now, struct thread *thread, u64 sp,
                                            u16 function, u32 entry_point, u64 *outer) {
    struct call *call = &thread->call;

    return_to_stack(now, thread, sp);
    if (!call->sp)
        return RELATION_NONE;
    if (call->by_point && !is_near(call->sp, sp)) {
        if (call->sp - sp < FAR_BYTES && return_pending(call, sp, function))
            *outer = call->sp;
        suspend(now, thread);
        return RELATION_NONE;
    }
    if (sp <= call->sp && !call->tail_call_returned && return_pending(call, sp, function)) {
        if (sp < call->sp)
            return RELATION_INSIDE;
        if (!entry_point || call->entry_point != entry_point)
            return RELATION_SAME;
    }
    abandon(now, call);
    return RELATION_NONE;
}

static __always_inline void open_call(struct thread *thread, u16 function, u64 size, u64 sp) {
    struct call *call = &thread->call;

    call->skip = is_filtered_out(thread, function, size);
    call->sp = sp;
    call->size = size;
    call->function = function;
    call->address = 0;
    call->outcome = OUTCOME_BLOCK;
    call->has_old = 0;
    call->unseen_old = 0;
    call->by_point = 0;
    call->entry_point = 0;
    call->outer = 0;
    call->tail_calls = 0;
    call->tail_call_returned = 0;
}

/* What a probe knows about the call that it begins. */
struct start {
    u8 by_point;
    u32 entry_point;    /* struct call; 0 of a later point, which the same call may pass again */
    u8 may_begin_again; /* POINT_MAY_BEGIN_AGAIN */
    u32 space;
};

/* Open a call whose return address is at sp. NULL if it is part of a call that is already open, or
 * there is no room. */
static __always_inline struct call *begin_call(struct pt_regs *ctx, struct session *now,
                                               u16 function, u64 size, u64 sp, struct start start) {
    struct thread *thread = this_thread(ctx, now, start.space, function);
    u64 outer = 0;

    if (!thread)
        return 0;
    struct call *call = &thread->call;
    /* The open call calls the function again. Or a jump has left it, and the function is called
     * again at the same sp: dropping the call is right in that case, too. */
    if (start.may_begin_again && call->sp == sp && call->entry_point == start.entry_point) {
        restore_old_record(now, call);
        call->sp = 0;
    }
    int relation = relation_to_open(now, thread, sp, function, start.entry_point, &outer);
    if (relation == RELATION_SAME) {
        if (!start.by_point && !call->by_point)
            call->tail_calls++; /* reallocarray jumps to realloc */
        else if (start.by_point && !start.entry_point && call->function == function)
            call->size = size; /* in case a jump has left the call that was open */
    }
    if (relation != RELATION_NONE)
        return 0;
    open_call(thread, function, size, sp);
    call->outer = outer;
#if POINTS
    if (start.by_point) {
        call->by_point = 1;
        call->entry_point = start.entry_point;
        note_opened(now, start.space, sp);
        bpf_probe_read_user(&call->return_address, sizeof(u64), (void *)sp);
    }
#endif
    return call;
}
