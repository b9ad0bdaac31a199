/* Which stacks release the blocks of chosen sites (struct watch). */

#if WATCH_RELEASES

/* The stack of a release is known. */
static __always_inline void count_release(struct thread *thread, u64 stack_id) {
    struct release release = {.site = thread->walk.freed_site, .stack_id = stack_id};
    u64 stands_for = thread->walk.stands_for, *count;

    thread->walk.freed_site = 0;
    count = releases.lookup(&release);
    if (!count) {
        if (stack_id && !thread->walk.is_known)
            store_stack(stack_id, &thread->stack);
        if (!releases.insert(&release, &stands_for))
            return;
        count = releases.lookup(&release); /* another thread was first, or the map is full */
        if (!count) {
            release.stack_id = 0;
            count = releases.lookup(&release);
        }
    }
    if (count)
        __sync_fetch_and_add(count, stands_for);
}

/* Walk the stack of a release, if it is its turn, at the entry of the function that does it.
 * Another program takes over then, and this doesn't return. */
static __always_inline void walk_release(struct pt_regs *ctx, struct session *now, u32 space,
                                         struct lifetimes *watched) {
    u64 site = watched->stack_id, caller = 0, sp = PT_REGS_SP(ctx);
    u32 stands_for = weight_of_release(watched);

    if (!stands_for)
        return;
    struct thread *thread = this_thread(ctx, now, space, FUNCTION_FREE);
    if (!thread)
        return;
    thread->walk.freed_site = site;
    thread->walk.stands_for = stands_for;
    thread->walk.function = FUNCTION_FREE;
    thread->walk.is_known = 0;
    thread->walk.is_inside = 0;
    thread->walk.outer = 0;
    thread->stack.generation = now->generation;
#if WALK_BY_TABLE
    if (bpf_probe_read_user(&caller, sizeof(caller), (void *)sp)) {
        count_release(thread, 0);
        return;
    }
    struct registers registers = {
        .ip = caller, .sp = sp + 8, .bp = PT_REGS_FP(ctx), .ip_is_return_address = 1};
    start_walk(&thread->walk, registers, now);
    prepare_walk(&thread->walk, &thread->stack, now);
    do_not_cache(&thread->walk);
    walk_parts.call(ctx, 0);
    count_release(thread, 0); /* it can't be called */
#else
    struct registers registers = {.frame = sp + 8, .bp = PT_REGS_FP(ctx)};
    start_walk(&thread->walk, registers, now);
    count_release(thread, stack_by_frame_pointers(ctx, thread));
#endif
}

#else

#define walk_release(...)

#endif
