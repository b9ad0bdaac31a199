/* What the kernel side stores and user space reads. Plain C: compiled by bcc
 * into the program and by a test that compares every offset with
 * src/leaktrace/abi/process.py. Sizes are bytes as the program requested them, times
 * are nanoseconds of CLOCK_MONOTONIC. */
#ifndef LEAKTRACE_H
#define LEAKTRACE_H

#define SAMPLE_GAPS 65536   /* quantiles of the exponential distribution */
#define SAMPLE_WEIGHTS 4096 /* x / (1 - exp(-x)) for x = i / 256, times WEIGHT_UNIT */
#define WEIGHT_UNIT 65536
#define COUNT_UNIT 1024
#define STATUS_IS_KNOWN (1ULL << 32)
#define RECENT_ROWS 16384      /* a power of two */
#define STACK_WINDOW_WORDS 512 /* of the user stack, looked at together; a power of two */
#define STACK_COPY_WORDS 128   /* of those, copied at once by a walk */
#define KNOWN_STARTS 8192      /* a power of two, as are the next two */
#define KNOWN_STACKS 8192
#define KNOWN_SLOTS 64        /* words of the stack that decide a walk */
#define OPENED_CALLS 1024     /* a power of two */
#define TELLING_PLACES 8      /* of those, to tell stacks apart by that begin alike */
#define UNSEEN_RELEASES 4096  /* a power of two */
#define UNWIND_LISTS 9        /* of mappings: the one in force, and those before it */
#define LATE_OBJECTS 16       /* loaded since the last look at the mappings; a power of two */
#define FINGERPRINT_WORDS 128 /* of an object's file, from its start on */
#define OBJECT_PATH_BYTES 512

/* An outstanding allocation; the key of its map is its address. */
struct allocation {
    u64 size;
    u64 time_ns;
    u64 stack_id;
};

/* What was allocated and released from one stack since tracing began. */
struct site {
    u64 allocated_bytes;
    u64 allocated_count;
    u64 freed_bytes;
    u64 freed_count;
    u32 generation;
    u16 end;       /* enum stack_end: so that no stack need be read to count them */
    u16 is_region; /* mapped, not allocated: never sampled */
};

/* Why a walk ended. */
enum walk_result {
    WALK_GOES_ON = 0,
    WALK_COMPLETE = 1,
    WALK_NO_MAPPING = 2,    /* a pc outside the mappings known so far */
    WALK_NO_ROW = 3,        /* code without unwind information */
    WALK_NO_RULE = 4,       /* unwind information that no row can express */
    WALK_UNREADABLE = 5,    /* the stack could not be read */
    WALK_NOT_UPWARD = 6,    /* a frame at or below the one before it */
    WALK_FOREIGN_PROBE = 7, /* a return probe of somebody else hides the return address */
    WALK_TOO_DEEP = 8,
    WALK_GO = 9, /* not a loss */
    WALK_RESULTS = 10,
};

/* How a row of an unwind table finds the canonical frame address (CFA): see unwind/rows.py. */
enum rule {
    RULE_NONE = 0,
    RULE_RSP = 1,
    RULE_RBP = 2,
    RULE_PLT = 3,
    RULE_END = 4,
    RULE_RBP_DEREF = 5,
    RULE_RSP_DEREF = 6,
    RULE_SIGNAL = 7,
};

/* Executable memory and where the rows of its object are. */
struct unwind_mapping {
    u64 start;
    u64 end;
    u64 bias; /* rel = pc - bias is what rows and pages go by */
    u32 row_lo;
    u32 row_hi;
    u32 page_lo;
    u32 page_count;
    u64 fingerprint; /* of the object's file (objects.bpf.c); 0: it can't be told by one */
};

/* The list of mappings in force: written as a whole to an unused place, then switched to. */
struct unwind_list {
    u64 place;      /* first entry | count << 32, in one word so that a switch is never half seen */
    u64 generation; /* the executable image that it describes */
    u64 version;
    u64 trampoline; /* where pending return probes redirect to; 0: not known */
    u64 loader;     /* address of the dynamic loader's struct r_debug; 0: none, or not known */
    u32 epoch;      /* session's, when the mappings were read */
    u32 view;       /* number of the view of the code that they belong to: symbols/views.py */
};

/* A stack, leaf first: return addresses as they stand on the stack. */
struct stack {
    u32 generation;
    u16 frame_count;
    u8 end;
    u8 result;    /* enum walk_result */
    u32 view;     /* of the list of mappings that it was walked by */
    u32 since;    /* that list's epoch */
    u32 epoch;    /* session's: what was loaded after `since` up to then was there, too */
    u32 in_doubt; /* something may have been in the place of something else */
    u64 pc[MAX_FRAMES];
};

/* Functions that are hooked. */
enum function {
    FUNCTION_NONE = 0,
    FUNCTION_MALLOC = 1,
    FUNCTION_CALLOC = 2,
    FUNCTION_REALLOC = 3,
    FUNCTION_REALLOCARRAY = 4,
    FUNCTION_POSIX_MEMALIGN = 5,
    FUNCTION_ALIGNED_ALLOC = 6,
    FUNCTION_MEMALIGN = 7,
    FUNCTION_VALLOC = 8,
    FUNCTION_PVALLOC = 9,
    FUNCTION_FREE = 10,
    FUNCTION_MMAP = 11,
    FUNCTION_MUNMAP = 12,
    FUNCTION_MREMAP = 13,
    FUNCTION_FAULT = 14, /* not a function: a page that the process touched first */
    FUNCTION_OPERATOR_NEW = 15,
    FUNCTION_MALLOCX = 16,
    FUNCTION_RALLOCX = 17,
};

/* Where a value is at a point. */
enum place_kind {
    PLACE_NONE = 0,
    PLACE_REGISTER = 1, /* numbered as instructions do: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15 */
    PLACE_SLOT = 2,     /* eight bytes at CFA + value */
    PLACE_CONSTANT = 3,
};

struct place {
    u16 kind; /* enum place_kind */
    u16 number;
    s32 value;
};

enum point_action {
    POINT_BEGIN = 1, /* the size asked for is known: open the call */
    POINT_END = 2,   /* its result is known */
    POINT_BOTH = 3,  /* both are */
};

#define POINT_BY_ARGUMENTS 1    /* arguments are in their registers, as at the entry */
#define POINT_MAY_BE_UNOPENED 2 /* others come by there, too: no call need be open */
#define POINT_MAY_BEGIN_AGAIN 4 /* what the function jumps to may call it once more */
#define POINT_ALWAYS 16         /* in the place of a condition */
#define RBP_UNCHANGED 0         /* in the place of rbp_offset */
#define RBP_LOST 1

/* A probe inside a function: src/leaktrace/process/probes/points.py. */
struct point {
    u16 function;
    u8 action;         /* enum point_action */
    u8 condition;      /* of the jump it is on, as in its opcode: acts only where that holds */
    u8 flags;          /* POINT_* */
    u8 frame_register; /* 4 rsp, 5 rbp: with frame_offset, the CFA */
    u16 unused;
    s32 frame_offset;
    s32 rbp_offset; /* the caller's rbp is at CFA + this; or RBP_* */
    struct place size;
    struct place count; /* of calloc, where size is not the product yet */
    struct place result;
};

/* The traced process as the kernel side sees it. */
struct session {
    u32 generation;   /* counts execs; part of every stack id */
    u32 tgid;         /* in the initial pid namespace; 0 until the first probe hits */
    u32 announced;    /* the generation whose first allocation was announced, plus one */
    u32 armed;        /* set when every probe is on: nothing is recorded before */
    u64 suspended;    /* whether a call was ever put aside */
    u64 forked_ns;    /* when a fork was last told */
    u64 reported;     /* version of the list of mappings that was reported to be out of date */
    u64 reported_ns;  /* when that was */
    u64 exec_time_ns; /* of the last exec: what is older belongs to another image */
    u32 epoch;        /* counts how often the dynamic loader has changed its list of objects */
    u32 told;         /* the last epoch of which all objects were sent to user space */
    u32 crowded;      /* the last epoch in which more objects came than there was room for */
    u32 unloaded;     /* the last epoch in which objects may have gone */
    u32 marked;       /* the generation whose objects are known from the start, plus one */
    u32 changing;     /* the loader is about to change its list */
    u64 wait_status;  /* what wait(2) gives once it has ended, with STATUS_IS_KNOWN; else 0 */
};

/* A block that was released and has no record. */
struct unseen_release {
    u64 address;
    u64 caller; /* where the last release returns to */
    u64 ip;     /* of the probe that it met */
    u32 generation;
    u32 count;
};

/* A range of addresses that a file lies behind. */
struct file_mapping {
    u64 start;
    u64 end;
};

/* Written by user space alone: sampling that sets in while tracing. */
struct throttle {
    u64 rate;     /* one allocation in this many is recorded; 0 or 1: all */
    u64 since_ns; /* what was recorded from then on stands for `rate` of its kind */
};

/* What is sent of an object that is loaded; of one that was there before, the event alone. */
struct load_event {
    struct event event; /* address: where it is loaded; size: up to its dynamic section; stack_id:
                           what tells it from others in that place */
    u64 fingerprint;
    char path[OBJECT_PATH_BYTES];
};

/* What is counted for the account of cost, by CPU. */
enum tally {
    TALLY_KNOWN_STACKS = 0,  /* stacks that needed no walk */
    TALLY_WALKED_STACKS = 1, /* by unwind tables */
    TALLIES = 2,
};

/* Everything that can be lost has a counter. */
enum loss {
    LOSS_ALLOCATIONS = 0, /* the map of allocations took no more */
    LOSS_ALLOCATION_BYTES = 1,
    LOSS_STACKS = 2,          /* allocations whose stack could not be stored */
    LOSS_SITES = 3,           /* allocations without a site counter */
    LOSS_THREADS = 4,         /* calls without room for the thread's state */
    LOSS_STALE_CALLS = 5,     /* calls that never returned: longjmp, exception */
    LOSS_MISSED_RETURNS = 6,  /* returns whose entry was not seen */
    LOSS_MISSED_FREES = 7,    /* an address handed out again while still recorded */
    LOSS_EVENTS = 8,          /* trace events that found the buffer full */
    LOSS_REGION_EVENTS = 9,   /* the same for mmap, munmap, mremap */
    LOSS_UNREAD_RESULTS = 10, /* posix_memalign's result could not be read */
    LOSS_FAILED_STACKS = 11,  /* the walk returned no frame */
    LOSS_GUESSED_STACKS = 12, /* with a frame found by frame pointer, for want of better */
    LOSS_WALKS = 13,          /* from here on: walks by how they ended, enum walk_result */
    LOSS_KINDS = 23,
};

#endif
