/* What only the kernel side reads and writes. */

#define PAGE_BYTES 4096

/* --- stacks that were walked before: known_stacks.bpf.c --- */

#define KNOWN_STARTS 8192 /* a power of two, as is the next */
#define KNOWN_STACKS 8192
#define KNOWN_SLOTS 64   /* stack words that a cached walk may depend on; a power of two */
#define SELECTOR_SLOTS 8 /* of those, the ones that choose among stacks with the same start */

/* Stacks whose walks start with this ip and sp. */
struct known_start {
    u64 ip;
    u64 sp;
    u64 words; /* from sp: as many as their walks depend on */
    u16 places[SELECTOR_SLOTS];
};

/* A stack that was walked: which words of the stack the walk depended on. */
struct known_stack {
    u64 check;
    u64 ip; /* at the start of the walk */
    u64 sp;
    u64 id;
    u32 slot_count;
    u32 slot_words; /* from sp to the end of the last slot */
    u64 bp_counts;  /* whether the walk depended on the initial value of rbp */
    u16 places[KNOWN_SLOTS];
};

/* --- mappings and rows ----------------------------------------------------------------------- */

#define LATE_OBJECTS 16 /* a power of two */

/* An object that the dynamic loader has mapped since user space last read the mappings. */
struct late_object {
    struct unwind_mapping mapping; /* of its code; without rows where they aren't known */
    u64 epoch;                     /* when it was loaded; 0: the entry is free */
};

#define RECENT_ROWS 16384 /* a power of two */

/* A row that was found for a pc. `check` combines the pc, the row and the version of the list of
 * mappings. So an entry that two writers wrote at once, or that was made before the list changed,
 * matches nothing. */
struct recent_row {
    u64 check;
    u64 row;
};

/* --- calls ----------------------------------------------------------------------------------- */

/* The outermost allocation call that a thread is in. Calls that the allocator makes itself
 * (realloc to malloc, malloc to mmap…) start at a lower stack pointer and are part of it. */
struct call {
    u64 sp;   /* at the function's entry; 0: no call is open */
    u64 size; /* requested bytes; for munmap the length */
    union {
        u64 memptr;   /* OUTCOME_STATUS: the out parameter */
        u64 extra;    /* OUTCOME_NEW_SIZE: bytes that may be added */
        u64 released; /* bytes that mremap removes */
    };
    u64 address;        /* the block that realloc resizes, or 0 */
    u64 return_address; /* of a call followed by points: the word at sp while it is open */
    u64 outer;          /* sp of another open call that this one may be part of; else 0 */
    struct allocation old;
    u16 function;
    u8 has_old;            /* `old` was removed from the map at the entry */
    u8 skip;               /* filtered out: the result is not recorded */
    u8 by_point;           /* followed by points */
    u8 tail_calls;         /* with return probes: functions tail-called from this one, whose return
                              probes fire before its own */
    u8 tail_call_returned; /* one of them has fired */
    u8 outcome;            /* enum outcome */
    u32 entry_point;       /* the point at the function's entry that opened it, from 1; else 0 */
    u32 unseen_old;        /* there is an old block, which has no record */
};

#define OPENED_CALLS 1024 /* a power of two */

/* Which thread opened the call at this sp. Calls whose hashes are equal share an entry: the last
 * one has it. */
struct opened {
    u64 key;    /* record_key() */
    u64 thread; /* thread_key_in() */
};

/* --- threads --------------------------------------------------------------------------------- */

#define STACK_WINDOW_WORDS 512 /* of the user stack, kept in struct walk; a power of two */
#define STACK_COPY_WORDS 128   /* of those, copied at once by a walk */

/* Results that user space doesn't see: a step leads to another stack (go.bpf.c); the object at a pc
 * has a table that isn't here yet. */
#define WALK_SWITCHES 255
#define WALK_TO_COME 254
#define MOST_SWITCHES 12 /* in one walk */

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
    u64 cfa;       /* of the current frame */
    u64 word;      /* read from the stack */
    u64 saved[7];  /* registers of a signal frame, or two words at a frame pointer */
    u32 row;
    u32 key;     /* of the current map lookup */
    u64 address; /* what is recorded at the end: block, size, function */
    u64 size;
    u32 function;
    u32 mapping; /* the one that held the last pc */
    u32 first_mapping;
    u32 mapping_count;
    u32 late_since; /* objects loaded after this epoch are not in the list; 0: all are */
    u32 found;      /* new objects on the loader's list */
    u32 added;      /* how many of those were handled */
    u32 change;     /* CHANGE_… bits, in objects.bpf.c */
    u32 since;      /* the epoch of the list of mappings then */
    u32 frame_count;
    u32 slot;       /* of the process: stays the same */
    u32 first_late; /* the slot's first entry of late_objects */
    u32 sees_loads; /* code that is not mapped was made at run time */
    u32 unused_too;
    u64 frame; /* of a walk that starts inside a function: its CFA; else 0 */
    u64 outer; /* sp of an open call that this stack may contain */
    s32 rbp_offset;
    u32 is_inside;        /* the stack does contain that call */
    u8 is_return_address; /* whether ip is one: its row is that of the call before it */
    u8 bp_lost;
    u8 guessed;
    u8 parts;
    u8 is_known; /* the stack was found in the cache, not walked */
    /* For known_stacks.bpf.c: */
    u8 bp_counts;
    u8 switches; /* of stacks, by Go */
    u8 unused;
    u32 switch_row; /* of the function by which the walk goes on in Go code; 0: none */
    u32 space;      /* of the thread's records: stays the same; 0 without HAS_SPACES */
    u64 freed_site; /* of whose block this is the stack of the release; 0: of none */
    u32 stands_for; /* how many releases it stands for */
    u32 unused_yet;
    u64 callback_sp; /* of the thread's stack before its last callback to Go; 0: not known */
    u64 callback_of; /* by which Go: where a thread has its goroutine, from the thread pointer */
    u64 start;       /* hash of start_ip and start_sp */
    u64 start_ip;
    u64 start_sp;
    u64 start_bp;
    u64 chain;        /* hash of the words that the walk has depended on */
    u64 bp_at;        /* address that bp was read from; BP_NOTED, BP_AT_START */
    u32 known_at;     /* index in known_stacks; NO_ENTRY */
    u32 window_bytes; /* of the window that are filled */
    u32 slot_count;   /* in `places`; NOT_CACHEABLE */
    u32 slot_words;
    u16 places[KNOWN_SLOTS];
    u64 window[STACK_WINDOW_WORDS];
};

/* Per-thread state. The stack buffer is here and not per CPU, because another thread's program can
 * preempt a uprobe program on the same CPU. */
struct thread {
    u64 gap; /* bytes until the next sample, with SAMPLE_BYTES */
    struct call call;
    u64 suspended_sp; /* sp of the call that was suspended last; 0: none */
    struct walk walk;
    struct stack stack;
};
