/* What only the kernel side reads and writes. */

/* An object that the dynamic loader has mapped since user space last looked. */
struct late_object {
    struct unwind_mapping mapping; /* of its code; without rows where they aren't known */
    u64 epoch;                     /* when; 0: it is gone, or nothing is here */
};

/* A row that was found for a pc. `check` is the pc, mixed with the row and with the list of
 * mappings that was in force: so an entry that is half of one writer and half of another is none,
 * nor is one that was made before the list changed. */
struct recent_row {
    u64 check;
    u64 row;
};

/* Where stacks that begin with this ip and sp are told apart. See known.bpf.c. */
struct known_start {
    u64 ip;
    u64 sp;
    u64 words; /* from sp, as many as their walks go by */
    u16 places[TELLING_PLACES];
};

/* A stack that was walked: where the words stand that the walk went by. */
struct known_stack {
    u64 check;
    u64 ip; /* at the start of the walk */
    u64 sp;
    u64 id;
    u32 slot_count;
    u32 slot_words; /* from sp to behind the last one */
    u64 bp_counts;  /* whether the walk went by the value that rbp had at the start */
    u16 places[KNOWN_SLOTS];
};

/* The outermost allocation call that a thread is inside of. Calls that the
 * allocator makes to itself (realloc to malloc, malloc to mmap…) start at a
 * lower stack pointer and are part of it. */
struct call {
    u64 sp;   /* at the function's entry; 0: no call is open */
    u64 size; /* requested bytes; for munmap the length */
    union {
        u64 memptr;   /* posix_memalign's out parameter */
        u64 released; /* bytes that mremap takes away */
    };
    u64 address;        /* the block that realloc resizes, or 0 */
    u64 return_address; /* of a call by points: what stands at sp as long as it is open */
    u64 outer;          /* sp of another open call that it may be inside of; else 0 */
    struct allocation old;
    u16 function;
    u8 has_old;       /* `old` left the map when the call began */
    u8 skip;          /* filtered out: the result is not recorded */
    u8 by_point;      /* followed by points */
    u8 echoes;        /* of calls by return probes: functions tail-called from this one, whose
                         returns come first, together */
    u8 echo_returned; /* one of those returns was seen, so this call's own is next */
    u8 unused;
    u32 entry_point; /* the point at a function's entry that opened it, from 1; else 0 */
    u32 unused_too;
};

/* Which thread opened the call at this sp, last of those that share its place in the table. */
struct opened {
    u64 sp;
    u64 thread;
};

/* A walk under way. */
struct walk {
    u64 ip;
    u64 sp;
    u64 bp;
    u64 hash;
    u64 window_start;
    u64 trampoline;
    u64 list_mark; /* of the list of mappings in use, for struct recent_row */
    u64 version;   /* of that list */
    u64 cfa;       /* of the frame under way */
    u64 word;      /* read from the stack */
    u64 saved[7];  /* registers of a signal frame, or two words at a frame pointer */
    u32 row;
    u32 key;     /* of the lookup under way */
    u64 address; /* what is recorded at the end: block, size, function */
    u64 size;
    u32 function;
    u32 mapping; /* the one that held the last pc */
    u32 first_mapping;
    u32 mapping_count;
    u32 late_since; /* objects loaded after this epoch are not in the list; 0: all are */
    u32 found;      /* objects that are new on the loader's list */
    u32 frame_count;
    u64 frame; /* of a walk that starts within a function: its CFA; else 0 */
    u64 outer; /* sp of an open call that this stack may lead through */
    s32 rbp_offset;
    u32 is_inside;        /* it does */
    u8 is_return_address; /* whether ip is one: its row is that of the call before it */
    u8 bp_lost;
    u8 guessed;
    u8 parts;
    u8 is_known; /* it was not walked: known.bpf.c, to which what follows belongs */
    u8 bp_counts;
    u8 unused[6];
    u64 start; /* hash of start_ip and start_sp */
    u64 start_ip;
    u64 start_sp;
    u64 start_bp;
    u64 chain; /* hash of the words that the walk has gone by */
    u64 bp_at;
    u32 known_at;     /* which of the known stacks it may be */
    u32 window_bytes; /* of those copied */
    u32 slot_count;
    u32 slot_words;
    u16 places[KNOWN_SLOTS];
    u64 window[STACK_WINDOW_WORDS];
};

/* Per-thread state. The stack buffer lives here because a uprobe program can be
 * preempted by another thread's on the same CPU: a per-CPU buffer would be
 * overwritten. */
struct thread {
    u64 gap; /* bytes until the next sample, with SAMPLE_BYTES */
    struct call call;
    u64 aside; /* sp of the call that was put aside last, see suspend(); 0: none */
    struct walk walk;
    struct stack stack;
};
