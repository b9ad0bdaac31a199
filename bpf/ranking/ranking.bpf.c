/* How many pages each process of the machine touches for the first time. on_fault() runs at each
 * page fault of each CPU, so it does as little as possible: one lookup and one addition. The count
 * of a process goes over to that of its name when it ends, so a storm of short processes doesn't
 * fill the map. */

/* Running processes, by their id. Full: LOSS_FAULTS. */
BPF_HASH(touched, u32, struct touched, CAPACITY_LATER);

struct command_name {
    char text[COMMAND_BYTES];
};
/* Full: LOSS_COMMANDS; ended_total has them. */
BPF_HASH(ended, struct command_name, struct ended, ENDED_COMMANDS);
BPF_ARRAY(ended_total, struct ended, 1);

static __always_inline struct touched *this_process(u32 tgid) {
    struct touched *found = touched.lookup(&tgid);
    if (found)
        return found;
    struct touched nothing = {};
    touched.insert(&tgid, &nothing); /* it exists if another thread was first */
    return touched.lookup(&tgid);
}

int on_fault(void *ctx) {
    struct touched *process = this_process(bpf_get_current_pid_tgid() >> 32);

    if (process)
        __sync_fetch_and_add(&process->faults, 1);
    else
        lose(LOSS_FAULTS, 1);
    return 0;
}

int at_sched_process_exec(void *ctx) {
    struct touched *process = this_process(bpf_get_current_pid_tgid() >> 32);

    if (process)
        __sync_fetch_and_add(&process->executed, 1);
    return 0;
}

static __always_inline void add_ended(struct ended *to, u64 faults) {
    __sync_fetch_and_add(&to->processes, 1);
    __sync_fetch_and_add(&to->faults, faults);
}

/* The first thread stands for its process: /proc shows no memory of it any more either. */
int at_sched_process_exit(void *ctx) {
    u64 thread = bpf_get_current_pid_tgid();
    u32 tgid = thread >> 32, zero = 0;
    struct touched *process;

    if ((u32)thread != tgid)
        return 0;
    process = touched.lookup(&tgid);
    if (!process) /* a thread of the kernel */
        return 0;
    u64 faults = process->faults;
    touched.delete(&tgid);

    struct ended *total = ended_total.lookup(&zero);
    if (total)
        add_ended(total, faults);
    struct command_name name = {};
    bpf_get_current_comm(&name, sizeof(name));
    struct ended nothing = {}, *found = ended.lookup(&name);
    if (!found) {
        ended.insert(&name, &nothing);
        found = ended.lookup(&name);
    }
    if (found)
        add_ended(found, faults);
    else
        lose(LOSS_COMMANDS, 1);
    return 0;
}
