/* Releases of blocks whose allocation was not seen. Such a block was allocated before leaktrace
 * attached, or by a function that is not hooked. If one address is released this way twice, the
 * second block was certainly allocated by a function that is not hooked: whatever was allocated at
 * the address in between has no record. Only releases without a record come here; others pay
 * nothing. src/leaktrace/process/unseen.py decides which releases count. */

static __always_inline void note_unseen_release(struct pt_regs *ctx, u64 address) {
#if IS_X86_64
    struct session *now = this_session();
    struct thread *thread = existing_thread(0);
    u64 caller = 0;

    if (!now || !now->armed)
        return;
    if (thread && thread->call.sp)
        return; /* realloc has removed the record already, or the allocator frees its own block */
    if (bpf_probe_read_user(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx)))
        return;
    u32 at = address * HASH_MULTIPLIER >> 32 & (UNSEEN_RELEASES - 1);
    struct unseen_release *entry = unseen_releases.lookup(&at);
    if (!entry)
        return;
    if (entry->address == address && entry->generation == now->generation) {
        entry->count++;
        entry->caller = caller;
        entry->ip = PT_REGS_IP(ctx);
        return;
    }
    /* The address comes last: an entry that is being written has none. */
    entry->address = 0;
    entry->generation = now->generation;
    entry->count = 1;
    entry->caller = caller;
    entry->ip = PT_REGS_IP(ctx);
    asm volatile("" ::: "memory");
    entry->address = address;
#endif
}
