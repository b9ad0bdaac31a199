/* Releases of blocks whose allocation was not seen. Such a block was allocated before leaktrace
 * attached, or by a function that is not hooked. If one address is released this way twice, the
 * second block was certainly allocated by a function that is not hooked: whatever was allocated at
 * the address in between has no record. Only releases without a record come here; others pay
 * next to nothing. src/leaktrace/process/unseen.py decides which releases count.
 *
 * What may be older than the trace is counted: a process may merely turn over what it held before.
 * If one address is released again, that is no such block. (A C library frees what a thread has
 * cached, with blocks that the program has released already, whenever a thread ends.) */

/* Note which block was released last. Returns whether it was this one already: operator delete may
 * call the free of the same allocator, and both are probed. */
static __always_inline int note_release(struct session *now, u64 address) {
#if RECORDS_ALL
    u32 zero = 0;
    u64 key = record_key(now, HEAP_SPACE, address), *last = last_release.lookup(&zero);

    if (!last)
        return 0;
    int is_same = *last == key;
    *last = key;
    return is_same;
#else
    return 0;
#endif
}

static __always_inline void count_unseen(struct session *now) {
    __sync_fetch_and_add(&now->unseen, 1);
}

static __always_inline void note_unseen_release(struct pt_regs *ctx, struct session *now,
                                                u64 address) {
    struct thread *thread = existing_thread(HEAP_SPACE);

    if (thread && thread->call.sp)
        return; /* realloc has removed the record already, or the allocator frees its own block */
    int is_same = note_release(now, address);
#if IS_X86_64
    u64 caller = 0, key = record_key(now, HEAP_SPACE, address);

    if (bpf_probe_read_user(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx)))
        return;
    u32 at = key * HASH_MULTIPLIER >> 32 & (UNSEEN_RELEASES - 1);
    struct unseen_release *entry = unseen_releases.lookup(&at);
    if (!entry)
        return;
    if (entry->key == key && entry->generation == now->generation) {
        entry->count++;
        entry->caller = caller;
        entry->ip = PT_REGS_IP(ctx);
        return;
    }
    if (!is_same)
        count_unseen(now);
    /* The key comes last: an entry that is being written has none. */
    entry->key = 0;
    entry->generation = now->generation;
    entry->count = 1;
    entry->caller = caller;
    entry->ip = PT_REGS_IP(ctx);
    asm volatile("" ::: "memory");
    entry->key = key;
#else
    if (!is_same)
        count_unseen(now);
#endif
}
