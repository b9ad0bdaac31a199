/* The maps of the process mode: what each one holds, and what happens when it is full. */

/* record_key() -> allocation. Full: the allocation is counted as lost, with its bytes. */
BPF_F_TABLE("hash", u64, struct allocation, allocations, CAPACITY_LATER, HASH_FLAGS);
typedef struct allocation record_type;

/* stack id -> counters. Full: the allocation is still recorded, its site has no totals. */
BPF_F_TABLE("hash", u64, struct site, sites, CAPACITY_LATER, HASH_FLAGS);

#if LIFETIMES
/* Found by the stack id of a site (flag 1024 is BPF_F_MMAPABLE). Full: the site has no lifetimes:
 * they are shown as unknown. */
BPF_F_TABLE("array", u32, struct lifetimes, lifetimes, LIFETIME_SITES, 1024);
#endif

#if WATCH_RELEASES
BPF_ARRAY(watches, struct watch, WATCHES);

/* struct release -> estimated number. Full: counted at stack id 0, which user space has entered. */
BPF_F_TABLE("hash", struct release, u64, releases, CAPACITY_LATER, HASH_FLAGS);
#endif

/* stack id -> frames, written once. Full: the site is reported without its stack. */
BPF_F_TABLE("hash", u64, struct stack, stacks, CAPACITY_LATER, HASH_FLAGS);
typedef struct stack stack_type;

/* tgid, tid and space -> the thread's state. Removed when the thread exits. Full: the call is not
 * recorded and counted as lost. */
BPF_F_TABLE("hash", u64, struct thread, threads, CAPACITY_LATER, HASH_FLAGS);
BPF_ARRAY(blank_thread, struct thread, 1);

#if WALK_BY_TABLE
/* Unwind tables of all objects, one after the other, written by user space through mmap (flag 1024
 * is BPF_F_MMAPABLE). An object for which there is no room is walked by frame pointers and
 * reported. */
BPF_F_TABLE("array", u32, u64, unwind_rows, CAPACITY_LATER, 1024);
BPF_F_TABLE("array", u32, u32, unwind_pages, CAPACITY_LATER, 1024);
BPF_ARRAY(unwind_mappings, struct unwind_mapping, CAPACITY_LATER);

/* UNWIND_LISTS for each slot: the first one's `place` says which of the others is in use. They are
 * written in turn, so that a list in use is never half old and half new. */
BPF_ARRAY(unwind_list, struct unwind_list, CAPACITY_LATER);

static __always_inline struct unwind_list *list_in_force(u32 slot) {
    u32 at = slot * UNWIND_LISTS;
    struct unwind_list *first = unwind_list.lookup(&at);

    if (!first)
        return 0;
    at = first->place;
    return unwind_list.lookup(&at);
}

/* Objects loaded since the list was made, LATE_OBJECTS for each slot. Full:
 * session->overflow_epoch. */
BPF_ARRAY(late_objects, struct late_object, CAPACITY_LATER);

/* fingerprint -> the code of an object that was seen before, at addresses relative to its load
 * address. Full: walks through a new object end there until user space has read the mappings. */
BPF_F_TABLE("hash", u64, struct unwind_mapping, known_objects, CAPACITY_LATER, 0);

/* hash of an object and its address -> the last epoch in which it was on the loader's list */
BPF_TABLE("lru_hash", u64, u32, loaded, CAPACITY_LATER);

/* hash of an object and its address: its path was sent to user space */
BPF_TABLE("lru_hash", u64, u8, sent_objects, CAPACITY_LATER);

/* Rows found recently, by pc: the same call sites are on the stack again and again. */
BPF_ARRAY(recent_rows, struct recent_row, RECENT_ROWS);

/* Stacks walked before. A new one replaces an older one with the same index. */
BPF_ARRAY(known_starts, struct known_start, KNOWN_STARTS);
BPF_ARRAY(known_stacks, struct known_stack, KNOWN_STACKS);

#if WALK_PARTS > 1
BPF_PROG_ARRAY(walk_parts, 1);
#if FD_SPACE /* a program can only call those of its own type */
BPF_PROG_ARRAY(descriptor_walk_parts, 1);
#endif
#endif
BPF_PROG_ARRAY(object_parts, 1);
#endif

#if THROTTLE
BPF_ARRAY(throttle, struct throttle, 1);

static __always_inline struct throttle *this_throttle(void) {
    u32 zero = 0;
    return throttle.lookup(&zero);
}
#endif

#if SAMPLE_BYTES
/* Written by user space through mmap (analysis/sampling.py). */
BPF_F_TABLE("array", u32, u64, sample_gaps, GAP_COUNT + 1, 1024);
BPF_F_TABLE("array", u32, u64, sample_weights, WEIGHT_COUNT + 1, 1024);
#endif

#if POINTS
/* The points; a probe's cookie is the index of its point. */
BPF_ARRAY(points, struct point, CAPACITY_LATER);

/* record_key() of sp at the entry -> a call that is open while its thread is on another stack: a
 * coroutine switched inside an allocator. Full: the oldest one is dropped. */
BPF_TABLE("lru_hash", u64, struct call, suspended, CAPACITY_LATER);

/* Which thread has which call open: a coroutine may continue in another thread. */
BPF_ARRAY(opened, struct opened, OPENED_CALLS);
#endif

/* Releases without a record, by their key. A new one replaces an older one with the same
 * index. */
BPF_ARRAY(unseen_releases, struct unseen_release, UNSEEN_RELEASES);

#if RECORDS_ALL
/* The key of the block that was released last on this CPU. */
BPF_PERCPU_ARRAY(last_release, u64, 1);
#endif

#if HAS_SPACES
/* By space. */
BPF_ARRAY(pair_calls, struct pair_calls, SPACES);
#endif

#if FD_SPACE
/* CLOSED_RANGES for each slot. Full: counted. */
BPF_ARRAY(closed_ranges, struct closed_range, CAPACITY_LATER);
#endif

/* One for each slot. */
BPF_ARRAY(session, struct session, CAPACITY_LATER);

static __always_inline struct session *session_of(u32 slot) {
    return session.lookup(&slot);
}

/* An executable image of a process, unlike that of any other. */
static __always_inline u64 image_of(struct session *now) {
    return now->generation | (u64)(now->slot | now->use << (64 - SLOT_SHIFT)) << 32;
}

/* tgid -> process. Full: the child isn't followed, which is counted. */
BPF_F_TABLE("hash", u32, struct process, processes, CAPACITY_LATER, HASH_FLAGS);

/* The process in which a probe was hit. Without cookies, one process is traced. */
static __always_inline struct session *session_of_probe(void *ctx) {
#if ENTER_BY_COOKIE
    return session_of((u16)(bpf_get_attach_cookie(ctx) >> COOKIE_SLOT_SHIFT));
#else
    return session_of(0);
#endif
}

#define HEAP_SPACE 0

/* The key of a record, or of an open call by its sp: a pair's object may be a block of the heap,
 * too, and a function that jumps to another one has its sp. */
static __always_inline u64 record_key(struct session *now, u32 space, u64 address) {
    return address | (u64)space << SPACE_SHIFT | (u64)now->slot << SLOT_SHIFT;
}

/* Whether an address is too large for a key. */
static __always_inline int is_far(u64 address) {
    return address >> SPACE_SHIFT != 0;
}

/* Not exact: a program that is preempted while it counts may lose the count. */
BPF_PERCPU_ARRAY(tallies, u64, TALLIES);

static __always_inline void count(u32 tally) {
    u64 *counter = tallies.lookup(&tally);
    if (counter)
        *counter += 1;
}

/* mmap, munmap, mremap and the life of the process. Not in the buffer of trace events, so that a
 * flood of those doesn't displace these. Full: counted. */
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(region_events, 256);
#else
BPF_PERF_OUTPUT(region_events);
#endif

/* bpf_probe_read_user under a name that bcc doesn't know. If bcc sees the well-known name, it reads
 * all of /proc/kallsyms to find out whether the kernel has it, which takes as long as compiling. */
static long (*read_user)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
#define bpf_probe_read_user read_user
/* The same for bpf_probe_read_kernel. */
static long (*read_kernel)(void *to, u32 size,
                           const void *from) = (void *)BPF_FUNC_probe_read_kernel;

/* tgid << 32 | tid */
static __always_inline u64 thread_key(void) {
    return bpf_get_current_pid_tgid();
}

#define THREAD_SPACE_SHIFT 56 /* above any tgid */

/* The key of the current thread's state for one space. A call of a pair and a call of an allocator
 * may be open at the same time, and neither is part of the other. */
static __always_inline u64 thread_key_in(u32 space) {
    return thread_key() | (u64)space << THREAD_SPACE_SHIFT;
}

static __always_inline u32 space_of(struct walk *walk) {
#if HAS_SPACES
    return walk->space;
#else
    return 0;
#endif
}

/* Which space the probe belongs to that was hit. */
static __always_inline u32 space_of_probe(void *ctx) {
#if PAIRS
    return bpf_get_attach_cookie(ctx) >> COOKIE_SPACE_SHIFT;
#else
    return 0;
#endif
}
