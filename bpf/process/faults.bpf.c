/* Page faults: where resident memory grows. One program, run at each first access to a page (a
 * software perf event with a period of 1). Allocation calls are not probed. Each fault counts as
 * PAGE_BYTES, also that of a huge page. */

#define FILE_SEARCH_STEPS 12
_Static_assert(1 << FILE_SEARCH_STEPS >= MAX_FILE_MAPPINGS, "enough steps for a whole list");

/* struct bpf_perf_event_data, include/uapi/linux/bpf_perf_event.h */
struct fault {
    struct pt_regs regs;
    u64 sample_period;
    u64 address;
};

/* Mappings of files, by address: their pages belong to the page cache, not to the heap. */
BPF_ARRAY(file_mappings, struct file_mapping, CAPACITY_LATER);
/* The list in use: first entry | count << 32, one word so that a switch is atomic. */
BPF_ARRAY(file_list, u64, CAPACITY_LATER); /* by slot */
BPF_ARRAY(file_faults, u64, CAPACITY_LATER);

static __always_inline int is_file_backed(u32 slot, u64 address) {
    u32 base, count, half, middle;
    u64 *place = file_list.lookup(&slot);
    struct file_mapping *mapping;

    if (!place || !(*place >> 32))
        return 0;
    base = (u32)*place;
    count = *place >> 32;
#pragma clang loop unroll(disable)
    for (int i = 0; i < FILE_SEARCH_STEPS; i++) { /* the last one that starts at or below address */
        if (count <= 1)
            break;
        half = count >> 1;
        middle = base + half;
        mapping = file_mappings.lookup(&middle);
        if (!mapping)
            return 0;
        if (mapping->start <= address)
            base = middle;
        count -= half;
    }
    mapping = file_mappings.lookup(&base);
    return mapping && address >= mapping->start && address < mapping->end;
}

int on_fault(struct fault *ctx) {
    u32 tgid = thread_key() >> 32, slot = 0;
    struct process *process = processes.lookup(&tgid);

    if (process) /* else its tgid is not known yet, and there is only one */
        slot = process->slot;
    struct session *now = session_of(slot);
    u64 address = ctx->address;

    /* New threads inherit the event. So do children, on kernels without inherit_thread. */
    if (!now || (now->tgid && now->tgid != tgid))
        return 0;
    struct thread *thread = this_thread(ctx, now, HEAP_SPACE, FUNCTION_FAULT);
    if (!thread)
        return 0;
    if (is_file_backed(slot, address)) {
        u64 *count = file_faults.lookup(&slot);
        if (count)
            __sync_fetch_and_add(count, 1);
        return 0;
    }
    struct registers registers = {.ip = ctx->regs.ip, .sp = ctx->regs.sp, .bp = ctx->regs.bp};
#if HAS_TASK_PT_REGS
    /* The kernel touched the page, as for read(2): the walk starts where the process entered the
     * kernel. */
    if (!(ctx->regs.cs & 3)) {
        struct pt_regs user = {};
        void *saved = (void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());
        if (!saved || bpf_probe_read_kernel(&user, sizeof(user), saved))
            return 0;
        registers.ip = user.ip;
        registers.sp = user.sp;
        registers.bp = user.bp;
    }
#endif
    record(ctx, now, thread, FUNCTION_FAULT, address, PAGE_BYTES, 0, registers);
    return 0;
}
