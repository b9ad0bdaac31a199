/* The registers with which the threads of one process last entered the kernel, by a task iterator
 * (Linux 5.8, Documentation/bpf/bpf_iterators.rst): on_task() runs once for each thread that there
 * is, and what it writes is read from a file. Nothing is stopped. */

_Static_assert(sizeof(struct pt_regs) == SAVED_REGISTERS * sizeof(u64), "struct pt_regs");

/* The process: its tgid, or 0 for every process. */
BPF_ARRAY(wanted, u32, 1);

/* Helpers under names that bcc doesn't know. If bcc sees a well-known one, it reads all of
 * /proc/kallsyms to find out whether the kernel has it, which takes as long as compiling. */
static long (*read_kernel)(void *to, u32 size,
                           const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static void *(*user_registers_of)(void *task) = (void *)BPF_FUNC_task_pt_regs;
static long (*write_record)(void *seq, const void *record, u32 size) = (void *)BPF_FUNC_seq_write;

/* A pointer to a struct of the kernel that the verifier knows by its type. bcc would replace an
 * ordinary dereference by a helper call, whose result has no type. */
static __always_inline void *pointer_at(void *place) {
    void *pointer;

    __builtin_memcpy(&pointer, __builtin_assume_aligned(place, 8), sizeof(pointer));
    return pointer;
}

static __always_inline u32 is_on_cpu(char *task) {
#if TASK_ON_CPU_OFFSET
    u32 on_cpu = 0;

    return read_kernel(&on_cpu, sizeof(on_cpu), task + TASK_ON_CPU_OFFSET) || on_cpu;
#else
    return 0; /* a kernel for one CPU, which is running this program */
#endif
}

/* ctx: struct bpf_iter__task {struct bpf_iter_meta *meta; struct task_struct *task;}. The first
 * member of struct bpf_iter_meta is the file (include/linux/bpf.h). */
int on_task(void *ctx) {
    char *task = pointer_at((char *)ctx + 8);
    struct saved_thread thread = {};
    u32 zero = 0;
    u64 memory = 0;

    if (!task) /* there is no other */
        return 0;
    u32 *process = wanted.lookup(&zero);
    if (!process || read_kernel(&thread.tgid, sizeof(thread.tgid), task + TASK_TGID_OFFSET) ||
        (*process && *process != thread.tgid))
        return 0;
    /* It may begin to run, or stop running, while it is read. */
    thread.is_running = is_on_cpu(task);
    long error = read_kernel(thread.registers, sizeof(thread.registers), user_registers_of(task));
    error |= read_kernel(&thread.fs_base, sizeof(thread.fs_base), task + TASK_FSBASE_OFFSET);
    error |= read_kernel(&thread.tid, sizeof(thread.tid), task + TASK_PID_OFFSET);
    thread.is_running |= is_on_cpu(task);
    /* Threads of the kernel have no memory, nor have those that have ended: they give it up before
     * the stack with their registers. So this comes last. */
    error |= read_kernel(&memory, sizeof(memory), task + TASK_MM_OFFSET);
    if (!error && memory)
        write_record(pointer_at(pointer_at(ctx)), &thread, sizeof(thread));
    return 0;
}
