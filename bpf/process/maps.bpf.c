/* All maps: what is kept, for how many, and what happens when one is full. */

/* address -> allocation. Full: the allocation is counted as lost, with its
 * bytes. */
BPF_F_TABLE("hash", u64, struct allocation, allocations, CAPACITY_LATER, HASH_FLAGS);

/* stack id -> counters. Full: the allocation is still recorded, its site has no
 * totals. */
BPF_F_TABLE("hash", u64, struct site, sites, CAPACITY_LATER, HASH_FLAGS);

/* stack id -> frames, written once. Full: the site is reported without its
 * stack. */
BPF_F_TABLE("hash", u64, struct stack, stacks, CAPACITY_LATER, HASH_FLAGS);

/* tgid and tid -> the thread's open call. Removed when the thread exits. Full:
 * the call is not recorded and counted as lost. */
BPF_F_TABLE("hash", u64, struct thread, threads, CAPACITY_LATER, HASH_FLAGS);
BPF_ARRAY(blank_thread, struct thread, 1);

#if WALK_BY_TABLE
/* Unwind tables of all objects, one behind the other, filled by user space through mmap (flag 1024
 * is BPF_F_MMAPABLE). An object that finds no room is walked by frame pointers, and named. */
BPF_F_TABLE("array", u32, u64, unwind_rows, CAPACITY_LATER, 1024);
BPF_F_TABLE("array", u32, u32, unwind_pages, CAPACITY_LATER, 1024);
BPF_ARRAY(unwind_mappings, struct unwind_mapping, CAPACITY_LATER);
/* The first entry says by `place` which of the others is in force: they are written in turn, so
 * that none that is in use is half old and half new. */
BPF_ARRAY(unwind_list, struct unwind_list, UNWIND_LISTS);

static __always_inline struct unwind_list *list_in_force(void) {
    u32 at = 0;
    struct unwind_list *first = unwind_list.lookup(&at);

    if (!first)
        return 0;
    at = first->place;
    return unwind_list.lookup(&at);
}

/* Objects loaded since the list was made. Full: session->crowded. */
BPF_ARRAY(late_objects, struct late_object, LATE_OBJECTS);
/* fingerprint -> the code of an object that was seen before, by addresses relative to where it is
 * loaded. Full: its next stacks break off until user space has looked. */
BPF_F_TABLE("hash", u64, struct unwind_mapping, known_objects, CAPACITY_LATER, 0);
/* An object's place -> the epoch in which it was last on the loader's list. */
BPF_TABLE("lru_hash", u64, u32, loaded, 4096);
/* Objects in their places whose paths user space was told. */
BPF_TABLE("lru_hash", u64, u8, told_objects, 4096);
/* Rows found lately, by pc: the same call sites are on the stack again and again. */
BPF_ARRAY(recent_rows, struct recent_row, RECENT_ROWS);
/* Stacks walked before. A new one takes the place of an older one. */
BPF_ARRAY(known_starts, struct known_start, KNOWN_STARTS);
BPF_ARRAY(known_stacks, struct known_stack, KNOWN_STACKS);
#if WALK_PARTS > 1
BPF_PROG_ARRAY(walk_parts, 1);
#endif
#endif

#if THROTTLE
BPF_ARRAY(throttle, struct throttle, 1);

static __always_inline struct throttle *this_throttle(void) {
    u32 zero = 0;
    return throttle.lookup(&zero);
}
#endif

#if SAMPLE_BYTES
/* Filled by user space through mmap (analysis/sampling.py). */
BPF_F_TABLE("array", u32, u64, sample_gaps, SAMPLE_GAPS + 1, 1024);
BPF_F_TABLE("array", u32, u64, sample_weights, SAMPLE_WEIGHTS + 1, 1024);
#endif

#if POINTS
/* What each point's cookie is the number of. */
BPF_ARRAY(points, struct point, CAPACITY_LATER);
/* sp at the entry -> a call that is open while its thread is on another stack: a coroutine switched
 * inside an allocator. Full: the one that was there longest is given up. */
BPF_TABLE("lru_hash", u64, struct call, suspended, CAPACITY_LATER);
/* Whose calls are open: a coroutine may go on in another thread. */
BPF_ARRAY(opened, struct opened, OPENED_CALLS);
#endif

/* Releases without a record, by their address. A new one takes the place of an older one. */
BPF_ARRAY(unseen_releases, struct unseen_release, UNSEEN_RELEASES);

BPF_ARRAY(session, struct session, 1);
/* Not exact: a program that is preempted while it counts may lose the count. */
BPF_PERCPU_ARRAY(tallies, u64, TALLIES);

static __always_inline void count(u32 tally) {
    u64 *counter = tallies.lookup(&tally);
    if (counter)
        *counter += 1;
}

/* mmap, munmap, mremap and the life of the process; and, with --trace, every
 * call. Two buffers, so that a flood of the second doesn't drown the first.
 * Full: counted, by kind. */
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(region_events, 256);
#if TRACE
BPF_RINGBUF_OUTPUT(trace_events, CAPACITY_LATER);
#endif
#else
BPF_PERF_OUTPUT(region_events);
#if TRACE
BPF_PERF_OUTPUT(trace_events);
#endif
#endif

/* The same helper under a name that bcc does not know: where it meets the well-known one, it reads
 * all of /proc/kallsyms to see whether the kernel has it, and that takes as long as compiling. */
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
#define bpf_probe_read_user read_user

static __always_inline struct session *this_session(void) {
    u32 zero = 0;
    return session.lookup(&zero);
}

static __always_inline u64 thread_key(void) {
    return bpf_get_current_pid_tgid();
}
