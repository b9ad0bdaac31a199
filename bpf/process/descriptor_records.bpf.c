/* File descriptors (--fds): their records, in a space of their own. The key of a record has the
 * descriptor in place of an address, its size has the kind: DESCRIPTOR_KIND_SHIFT. */

#if FD_SPACE

/* In struct walk, `size` is: the kind, how many there are, and whether the call has closed what was
 * open under the same number. */
#define HAS_CLOSED_SHIFT 32

static __always_inline struct closed_range *closed_range(struct session *now, u32 number) {
    u32 at = now->slot * CLOSED_RANGES + number;
    return closed_ranges.lookup(&at);
}

/* Whether close_range has closed a descriptor that was opened at this time. */
static __always_inline int is_in_closed_range(struct session *now, u32 descriptor, u64 time_ns) {
    for (u32 i = 0; i < CLOSED_RANGES; i++) {
        struct closed_range *range = closed_range(now, i);
        if (range && range->time_ns > time_ns && range->first <= descriptor &&
            descriptor <= range->last)
            return 1;
    }
    return 0;
}

/* Forget a descriptor that is closed. Returns whether it had a record of this image, which goes to
 * `old`. */
static __always_inline int take_descriptor(struct session *now, u32 descriptor,
                                           struct allocation *old) {
    if (!take(now, FD_SPACE, descriptor, old))
        return 0;
    old->size = 1;
    count_freed(FD_SPACE, old);
    return 1;
}

/* Store the record of a descriptor. One that is there already was closed without being seen, unless
 * this call has closed it (dup2). Returns whether there was room. */
static __always_inline int put_descriptor(struct session *now, u32 descriptor,
                                          struct allocation *allocation, int has_closed) {
    u64 key = record_key(now, FD_SPACE, descriptor);
    long error = allocations.insert(&key, allocation);

    if (error == -EEXIST) {
        struct allocation old = {};
        if (take_descriptor(now, descriptor, &old)) {
            if (has_closed)
                count_lifetime(&old);
            else if (!is_in_closed_range(now, descriptor, old.time_ns))
                note_forgotten(FD_SPACE);
        }
        error = allocations.update(&key, allocation);
    }
    if (error) {
        lose(LOSS_DESCRIPTORS, 1);
        return 0;
    }
    return 1;
}

static __always_inline int store_descriptor(void *ctx, struct session *now, struct thread *thread,
                                            u64 stack_id, u32 descriptor) {
    u64 kind = thread->walk.size & ((1 << DESCRIPTOR_KIND_SHIFT) - 1);
    struct allocation allocation = {.size = 1 | kind << DESCRIPTOR_KIND_SHIFT,
                                    .time_ns = bpf_ktime_get_ns(),
                                    .stack_id = stack_id};

    if (!put_descriptor(now, descriptor, &allocation, thread->walk.size >> HAS_CLOSED_SHIFT))
        return 0;
    trace(ctx, origin_of(now), EVENT_ALLOCATE, FUNCTION_PAIR + FD_SPACE, descriptor, 1, stack_id);
    return count_allocated(thread, stack_id, 1, allocation.time_ns, 0);
}

/* The stack is known: store what the system call opened. Returns whether the stack has a site. */
static __always_inline int store_descriptors(void *ctx, struct session *now, struct thread *thread,
                                             u64 stack_id) {
    u16 count = thread->walk.size >> DESCRIPTOR_KIND_SHIFT;
    int has_site = 0;

    if (thread->walk.function == FUNCTION_DESCRIPTOR)
        return store_descriptor(ctx, now, thread, stack_id, thread->walk.address);
    if (count > MOST_RECEIVED)
        lose(LOSS_UNREAD_FDS, count - MOST_RECEIVED);
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < MOST_RECEIVED; i++) {
        u32 descriptor = 0;
        if (i >= count)
            break;
        if (bpf_probe_read_user(&descriptor, sizeof(descriptor),
                                (void *)(thread->walk.address + i * sizeof(descriptor)))) {
            lose(LOSS_UNREAD_FDS, count - i);
            break;
        }
        has_site |= store_descriptor(ctx, now, thread, stack_id, descriptor);
        asm volatile("" ::: "memory");
    }
    return has_site;
}

#endif
