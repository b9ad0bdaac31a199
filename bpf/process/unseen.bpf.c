/* Releases of blocks that nobody saw allocated. Such a block is from before the attach, or came
 * past the hooked functions: the second time that one address is released so, it must have, for
 * what was handed out at the address in between has no record. Only releases without a record come
 * here; others cost nothing. src/leaktrace/process/unseen.py tells what counts. */

static __always_inline void note_unseen(struct pt_regs *ctx, u64 address) {
#if WORDS_OF_X86_64
    struct session *now = this_session();
    struct thread *thread = known_thread();
    u64 caller = 0;

    if (!now || !now->armed)
        return;
    if (thread && thread->call.sp)
        return; /* realloc has taken the record already, or the allocator frees for itself */
    if (bpf_probe_read_user(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx)))
        return;
    u32 at = address * SPREAD >> 32 & (UNSEEN_RELEASES - 1);
    struct unseen_release *entry = unseen_releases.lookup(&at);
    if (!entry)
        return;
    if (entry->address == address && entry->generation == now->generation) {
        entry->count++;
        entry->caller = caller;
        entry->ip = PT_REGS_IP(ctx);
        return;
    }
    /* Last: what is being written is nobody's. */
    entry->address = 0;
    entry->generation = now->generation;
    entry->count = 1;
    entry->caller = caller;
    entry->ip = PT_REGS_IP(ctx);
    asm volatile("" ::: "memory");
    entry->address = address;
#endif
}
