/* What the process mode shares with user space. Plain C: tests/unit/abi/test_layouts.py compiles
 * it and compares every struct, enum and constant with src/leaktrace/abi/process.py. What user
 * space never sees is in state.h. Sizes are bytes as the program requested them, times are
 * nanoseconds of CLOCK_MONOTONIC. */
#ifndef LEAKTRACE_PROCESS_TYPES_H
#define LEAKTRACE_PROCESS_TYPES_H

/* --- traced processes ------------------------------------------------------------------------ */

/* Each traced process has a slot: an index of `session` and others, part of the keys of records. */
#define MAX_SLOTS 4096
#define NO_SLOT 0xffffffffU
#define COOKIE_SLOT_SHIFT 32 /* of a probe's cookie; below: which function or point was hit */

/* The key of a record: address | space << SPACE_SHIFT | slot << SLOT_SHIFT. User addresses have no
 * more than 47 bits, unless a program asks for others (mmap(2), 5-level page tables). */
#define SPACE_SHIFT 48
#define SLOT_SHIFT 52

/* A traced process, or a descendant of one. Its key is its tgid. */
struct process {
    u32 slot;    /* NO_SLOT: user space doesn't trace it, or not yet */
    u16 follows; /* whether its children are entered here, too */
    u16 execs;   /* while it is not traced */
};

/* --- records and sites ----------------------------------------------------------------------- */

/* An outstanding allocation. */
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
    u8 end;       /* enum stack_end: so that stacks can be counted without reading them */
    u8 is_region; /* mapped memory, or the program break: never sampled */
    u16 owner;    /* the upper 16 bits of its records' keys: space | slot << 4 */
};

/* How long the blocks of one site lived that were released. counts[0]: less than
 * 2**FIRST_LIFETIME_POWER ns; counts[i]: from half of 2**(FIRST_LIFETIME_POWER + i) ns up to that;
 * the last one: all that lived longer. A block is counted once, modulo 2**32. */
#define LIFETIME_SITES 32768 /* sites with such counts; a power of two */
#define LIFETIME_WAYS 8      /* entries in which a site may be */
#define FIRST_LIFETIME_POWER 8
#define LIFETIME_POWERS 46 /* the last one is 104 days */
struct lifetimes {
    u64 stack_id; /* of the site; 0: none */
    u32 counts[LIFETIME_POWERS];
    u32 watched; /* which watch is kept on its releases, from 1; 0: none. Set by user space */
    u32 claims;  /* how many sites have tried to take the entry: only the first one has it */
};

/* The releases of one site, of which some have their stack walked: each, as long as there are few,
 * else one in 2**shift, chosen at random. */
#define WATCHES 16
#define WATCH_WINDOW_SHIFT 27 /* 134 ms */
#define WATCH_WALKS 64        /* in one window; after so many, half as many are walked */
#define WATCH_MOST_SHIFT 24
struct watch {
    u64 site;     /* its stack id; 0: the watch is free */
    u64 since_ns; /* when the window began */
    u32 shift;
    u32 walked; /* in this window, with this shift */
};

/* A key: how many blocks of a site were released from a stack. */
struct release {
    u64 site;     /* a stack id */
    u64 stack_id; /* 0: all for whose stacks there is no room, or that can't be walked */
};

/* A block that was released and has no record. */
#define UNSEEN_RELEASES 4096 /* a power of two */
struct unseen_release {
    u64 key;    /* as of a record */
    u64 caller; /* where the last release returns to */
    u64 ip;     /* of the probe that the last release hit */
    u32 generation;
    u32 count;
};

/* A range of addresses that is backed by a file. */
#define MAX_FILE_MAPPINGS 4096
struct file_mapping {
    u64 start;
    u64 end;
};

/* --- sampling -------------------------------------------------------------------------------- */

#define GAP_COUNT 65536   /* quantiles of the exponential distribution */
#define WEIGHT_COUNT 4096 /* x / (1 - exp(-x)) at x = i / WEIGHT_STEP, times WEIGHT_UNIT */
#define WEIGHT_STEP 256
#define WEIGHT_UNIT 65536
#define COUNT_UNIT 1024

/* Sampling that is switched on while tracing. Written by user space only. */
struct throttle {
    u64 rate;     /* one allocation in this many is recorded; 0 or 1: all */
    u64 since_ns; /* each record made from then on stands for `rate` allocations */
};

/* --- walks and stacks ------------------------------------------------------------------------ */

/* Why a walk ended. */
enum walk_result {
    WALK_GOES_ON = 0,
    WALK_COMPLETE = 1,
    WALK_NO_MAPPING = 2,    /* a pc outside the known mappings */
    WALK_NO_ROW = 3,        /* code without unwind information */
    WALK_NO_RULE = 4,       /* unwind information that no row can express */
    WALK_UNREADABLE = 5,    /* the stack could not be read */
    WALK_NOT_UPWARD = 6,    /* a frame at or below the previous one */
    WALK_FOREIGN_PROBE = 7, /* another tracer's return probe hides the return address */
    WALK_TOO_DEEP = 8,
    WALK_GO = 9,              /* Go code called; not a loss */
    WALK_GENERATED_CODE = 10, /* code made at run time, and no frame pointer there */
    WALK_RESULTS = 11,
};

/* A stack, leaf first. After the first frame they are return addresses, as the stack has them. */
struct stack {
    u32 generation;
    u16 frame_count;
    u8 end;       /* enum stack_end */
    u8 result;    /* enum walk_result */
    u32 view;     /* of the list of mappings that the walk used: symbols/views.py */
    u32 since;    /* that list's epoch */
    u32 epoch;    /* the session's: objects loaded after `since`, up to here, were mapped too */
    u16 in_doubt; /* one object may have replaced another at the same addresses */
    u16 slot;
    u64 pc[MAX_FRAMES];
};

/* How a row of an unwind table finds the canonical frame address (CFA). abi/process.py explains
 * each rule, unwind/rows.py the bits of a row. */
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

/* Special values of a row's saved-rbp byte. Any other value n means: at CFA - 8 * n. */
enum saved_rbp {
    SAVED_RBP_UNCHANGED = 0,
    SAVED_RBP_LOST = 254,
    SAVED_RBP_AT_RBP = 255,
};

/* What ends at a row with RULE_END; in the lowest bits of the place of the CFA offset. */
enum end_of {
    END_OF_STACK = 0,
    END_OF_C_CODE = 1,           /* its caller is Go, on another stack, which isn't followed */
    END_OF_C_OF_GOROUTINE = 2,   /* a goroutine is saved, and how deep its stack is */
    END_OF_C_BELOW_SAVED_SP = 3, /* the caller's stack pointer is saved */
    END_OF_SYSTEM_STACK = 4,     /* the goroutine has saved its stack pointer in itself */
    END_OF_CALLBACK = 5,         /* of a goroutine, called by C code on the thread's stack */
    /* The last two in a library, which loads from a word of its own where the goroutine is: */
    END_OF_SYSTEM_STACK_OF_LIBRARY = 6,
    END_OF_CALLBACK_OF_LIBRARY = 7,
};

/* The other bits of such a row (unwind/rows.py, GoSwitch): where two words are, the first one's
 * place or that of the current goroutine in the runtime's struct m; how much the caller's frame is
 * above the stack pointer that is found; how far the return address is from the function's entry.
 * Of END_OF_CALLBACK_OF_LIBRARY, the second one is how far behind the return address the code is
 * that loads where the goroutine is; of END_OF_SYSTEM_STACK_OF_LIBRARY, it is right there.
 */
#define END_KIND_MASK 0x7
#define GO_FIRST_SHIFT 3
#define GO_SECOND_SHIFT 7
#define GO_WORD_MASK 0xf
#define GO_CURG_MASK 0xff
#define GO_FRAME_SHIFT 11
#define GO_FRAME_MASK 0x1f
#define GO_ENTRY_SHIFT 19

/* Of the Go runtime: how far below the thread pointer a thread has its goroutine, and
 * members of struct g. The code of each program is compared with these. */
#define GO_G_BELOW_TLS 8
#define GO_G_STACK_HI 8
#define GO_G_M 48
#define GO_G_SCHED_SP 56
#define GO_LOAD_CODE 0x058b48 /* mov from memory relative to rip, to any register */
#define GO_LOAD_MASK 0xc7fffb
#define GO_LOAD_BYTES 7
#define GO_M_G0 0 /* in struct m: the goroutine of the thread's own stack */

/* The kernel's struct rt_sigframe: offsets from rsp, in bytes (step_over_signal). */
#define SIGNAL_RBP_OFFSET 120
#define SIGNAL_RSP_OFFSET 160
#define SIGNAL_RIP_OFFSET 168

#define ROW_PC_SHIFT 32
#define ROW_SAVED_RBP_SHIFT 24
#define ROW_FAR_SHIFT 19
#define ROW_FAR_MASK 0x1f
#define ROW_RULE_SHIFT 16
#define ROW_RULE_MASK 0x7
#define ROW_OFFSET_MASK 0xffff
#define CODE_PAGE_SHIFT 8 /* a page of code has an entry in the index of rows */

/* Executable memory, and where the rows of its object are. */
#define MAX_LISTED_MAPPINGS 4096
/* row_lo where there are no rows: */
#define GENERATED_CODE 1 /* of memory without a file */
#define TABLE_TO_COME 2  /* of an object whose table is still being made */
struct unwind_mapping {
    u64 start;
    u64 end;
    u64 bias; /* rows and pages are numbered by rel = pc - bias */
    u32 row_lo;
    u32 row_hi;
    u32 page_lo;
    u32 page_count;
    u64 fingerprint; /* of the object's file (objects.bpf.c); 0: it does not identify the file */
};

/* The list of mappings in use. A new list replaces the one before last as a whole, then is
 * switched to. */
#define UNWIND_LISTS 9 /* of each slot; the first one's `place` is the index of the one in use */
struct unwind_list {
    u64 place;      /* first mapping | count << 32: one word, so that a switch is atomic */
    u64 generation; /* the executable image that it describes */
    u64 version;
    u64 trampoline; /* where pending return probes redirect to; 0: not known */
    u64 loader;     /* address of the dynamic loader's struct r_debug; 0: none, or not known */
    u32 epoch;      /* the session's, when the mappings were read */
    u32 view;       /* number of the view of the code that they belong to: symbols/views.py */
    u32 sees_loads; /* the loader was followed when they were read: code in no mapping, and in no
                       object loaded since, was made at run time */
    u32 unused;
};

/* --- functions and points -------------------------------------------------------------------- */

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
    FUNCTION_FAULT = 14, /* not a function: the first access to a page */
    FUNCTION_OPERATOR_NEW = 15,
    FUNCTION_MALLOCX = 16,
    FUNCTION_RALLOCX = 17,
    FUNCTION_XALLOCX = 18,
    FUNCTION_START = 19, /* not recorded: where a program starts */
    FUNCTION_EXIT = 20,  /* not recorded: where it exits */
    FUNCTION_SHMAT = 21,
    FUNCTION_SHMDT = 22,
    FUNCTION_BRK = 23, /* sbrk calls it */
    /* Not functions either: system calls that return a file descriptor, or store several. */
    FUNCTION_DESCRIPTOR = 24,
    FUNCTION_DESCRIPTORS = 25,
    /* Functions that the user named; the cookie says of which pair. In trace events, the number of
     * the pair, its space, is added. */
    FUNCTION_PAIR = 64,
    FUNCTION_PAIR_RELEASE = 96,
};

/* How a function is called, its shape: three bits each for the numbers of four arguments (from 1;
 * 0: it has no such argument), and from SHAPE_OUTCOME_SHIFT on enum outcome. */
#define SHAPE_SIZE_SHIFT 0
#define SHAPE_COUNT_SHIFT 3 /* a factor of the size; with OUTCOME_NEW_SIZE: what may be added */
#define SHAPE_OLD_SHIFT 6   /* the block that the call takes over; the same as MEMPTR: at *memptr */
#define SHAPE_MEMPTR_SHIFT 9 /* where the call stores the address of the block */
#define SHAPE_OUTCOME_SHIFT 12
#define SHAPE_ARGUMENT_MASK 7
#define COOKIE_SHAPE_SHIFT 16 /* of a probe at an entry; below: enum function */

/* Of a probe on a function that the user named: the space of its records. The heap has space 0. */
#define COOKIE_SPACE_SHIFT 48
#define SPACES 16

/* Of a pair of functions that the user named: calls that its records can't explain. */
struct pair_calls {
    u64 other_releases; /* of what has no record */
    u64 returned_again; /* results that had a record */
};

/* --- file descriptors ------------------------------------------------------------------------ */

/* What a system call does with file descriptors. */
enum descriptor_action {
    DESCRIPTOR_NOTHING = 0,
    DESCRIPTOR_OPENS = 1,      /* it returns one */
    DESCRIPTOR_OPENS_TWO = 2,  /* it stores two in an array of the program */
    DESCRIPTOR_MOVES = 3,      /* dup2: what it returns may have been open */
    DESCRIPTOR_RECEIVES = 4,   /* recvmsg */
    DESCRIPTOR_CLOSES = 5,     /* from here on: looked at when they begin */
    DESCRIPTOR_CLOSES_ALL = 6, /* close_range */
};

/* What an argument must be, so that the system call opens a descriptor. */
enum descriptor_condition {
    DESCRIPTOR_ALWAYS = 0,
    DESCRIPTOR_IF_EQUAL = 1, /* to the lower or upper half of `values` */
    DESCRIPTOR_IF_AMONG = 2, /* `values` has the bit of this number */
    DESCRIPTOR_IF_HAS = 3,   /* one of the bits of `values` */
};

/* A system call; by its number. */
#define SYSTEM_CALLS 512
struct descriptor_call {
    u8 action;    /* enum descriptor_action */
    u8 kind;      /* of the descriptors: user space numbers them */
    u8 condition; /* enum descriptor_condition */
    u8 argument;  /* of the condition, or that of the array; from 1 */
    u32 unused;
    u64 values;
};

#define DESCRIPTOR_KIND_SHIFT 8 /* of a record's `size`; below: 1 */
#define KIND_OF_ORIGINAL 1      /* of a duplicate */
#define MOST_RECEIVED 16        /* by one recvmsg; more are lost */

/* What close_range has closed: a descriptor within is closed, if its record is older. */
#define CLOSED_RANGES 8 /* of each slot */
struct closed_range {
    u64 time_ns; /* when that began; 0: the entry is free */
    u32 first;
    u32 last;
};

/* What a function returns, and what happens to the old block. */
enum outcome {
    OUTCOME_BLOCK = 0,    /* the block. NULL: failed, the old one stays unless the size is 0 */
    OUTCOME_STATUS = 1,   /* 0: the block is at *memptr. Else: failed, the old one stays */
    OUTCOME_IN_PLACE = 2, /* the old block, resized. NULL: failed, it stays as it was */
    OUTCOME_NEW_SIZE = 3, /* what the old block has now. Less than the size: failed */
    OUTCOME_BLOCK_OR_FREED = 4, /* the block. NULL: failed, and the old one is released */
};

/* Where a value is at a point. */
enum place_kind {
    PLACE_NONE = 0,
    PLACE_REGISTER = 1, /* numbered as in instructions: rax rcx rdx rbx rsp rbp rsi rdi r8 … r15 */
    PLACE_SLOT = 2,     /* eight bytes at CFA + value */
    PLACE_CONSTANT = 3,
};

struct place {
    u16 kind; /* enum place_kind */
    u16 number;
    s32 value;
};

enum point_action {
    POINT_BEGIN = 1, /* the requested size is known: open the call */
    POINT_END = 2,   /* the result is known */
    POINT_BOTH = 3,  /* both are */
    POINT_LEAVE = 4, /* of a pair: it jumps to unknown code, so the result won't be known */
};

#define POINT_BY_ARGUMENTS 1    /* arguments are in their registers, as at the entry */
#define POINT_MAY_BE_UNOPENED 2 /* other callers reach it too: possibly no call is open */
#define POINT_MAY_BEGIN_AGAIN 4 /* code that the function jumps to may call the function again */
#define POINT_ALWAYS 16         /* in `condition`: there is none */
#define RBP_UNCHANGED 0         /* in `rbp_offset`: rbp still has the caller's value */
#define RBP_LOST 1

/* A probe inside a function: src/leaktrace/process/probes/find_points.py. */
struct point {
    u16 function;
    u8 action;         /* enum point_action */
    u8 condition;      /* of the jump that it is on, as in its opcode: it acts if that holds */
    u8 flags;          /* POINT_* */
    u8 frame_register; /* 4: rsp, 5: rbp; the CFA is this register plus frame_offset */
    u16 shape;         /* of the function: SHAPE_* */
    s32 frame_offset;
    s32 rbp_offset; /* the caller's rbp is at CFA + this; or RBP_* */
    struct place size;
    struct place count; /* a factor, if size is not the product yet */
    struct place result;
};

/* --- the process ----------------------------------------------------------------------------- */

#define STATUS_IS_KNOWN (1ULL << 32)

/* A traced process. */
/* A stop of the command is named by the generation, from this bit on, and by whether it is at the
 * first call of its program, and not as that is executed. */
#define STOP_GENERATION_SHIFT 1

struct session {
    u32 generation;     /* counts execs; part of every stack id */
    u32 tgid;           /* in the initial pid namespace; 0 until the first probe hits */
    u32 announced;      /* the generation whose first allocation was announced, plus one */
    u32 armed;          /* set when every probe is attached: nothing is recorded before */
    u64 suspended;      /* whether a call was ever suspended */
    u64 forked_ns;      /* when a fork was last sent */
    u64 reported;       /* version of the list of mappings that was reported as out of date */
    u64 reported_ns;    /* when */
    u64 exec_time_ns;   /* of the last exec: older records belong to another image */
    u32 epoch;          /* counts the changes of the dynamic loader's list of objects */
    u32 sent_epoch;     /* the last epoch of which all objects were sent */
    u32 overflow_epoch; /* the last epoch in which there was no room for all new objects */
    u32 unload_epoch;   /* the last epoch in which objects may have been unloaded */
    u32 marked;         /* the generation whose first objects are in the map `loaded`, plus one */
    u32 changing;       /* the loader is about to change its list */
    u64 wait_status;    /* what wait(2) returns, with STATUS_IS_KNOWN; 0: not known */
    u64 children;       /* processes that it has forked */
    u32 slot;           /* its own */
    u32 use;            /* of the slot: counts the processes that had it */
    u64 oom_ns;         /* when the OOM killer chose it; 0: it has not */
    u64 stop;           /* the last one at an exec or a first call; 0: none */
    u64 exit_ns;        /* when it was stopped because it was about to exit; 0: it was not */
    u64 program_break;  /* where it was last; 0: not known */
    u64 break_seen; /* whether the kernel side has seen it; until then it is user space's guess */
    u64 raised_to;  /* where the program has raised it, other than its allocator */
    u64 unseen;     /* blocks released that have no record; not counted with sampling or filters */
};

/* What is sent when an object is loaded. An object that was sent before: the event alone. */
#define FINGERPRINT_WORDS 128 /* from the first byte of an object's file */
#define OBJECT_PATH_BYTES 512
struct load_event {
    struct event event; /* address: where it is loaded; size: up to its dynamic section; stack_id:
                           its identity, which differs from that of others at the same address */
    u64 fingerprint;
    char path[OBJECT_PATH_BYTES];
};

/* What is counted to compute the cost of tracing, per CPU. */
enum tally {
    TALLY_KNOWN_STACKS = 0,  /* stacks that needed no walk */
    TALLY_WALKED_STACKS = 1, /* by unwind tables */
    TALLIES = 2,
};

/* Everything that can be lost has a counter. */
enum loss {
    LOSS_ALLOCATIONS = 0, /* the map of allocations is full */
    LOSS_ALLOCATION_BYTES = 1,
    LOSS_STACKS = 2,          /* allocations whose stack could not be stored */
    LOSS_SITES = 3,           /* allocations without a site counter */
    LOSS_THREADS = 4,         /* calls without room for the thread's state */
    LOSS_STALE_CALLS = 5,     /* calls that never returned: longjmp, exception */
    LOSS_MISSED_RETURNS = 6,  /* returns whose entry was not seen */
    LOSS_MISSED_FREES = 7,    /* an address allocated again while still recorded */
    LOSS_EVENTS = 8,          /* trace events: the buffer was full */
    LOSS_REGION_EVENTS = 9,   /* the same for all other events */
    LOSS_UNREAD_RESULTS = 10, /* *memptr (posix_memalign) could not be read */
    LOSS_FAILED_STACKS = 11,  /* the walk returned no frame */
    LOSS_GUESSED_STACKS = 12, /* some frame was found by frame pointer, without unwind tables */
    LOSS_FAR_ADDRESSES = 13,  /* allocations at addresses that no key can hold */
    LOSS_CHILDREN = 14,       /* children that could not be followed: the map is full */
    LOSS_LEFT_CALLS = 15,     /* of pairs: calls that went on in unknown code */
    LOSS_BREAKS = 16,         /* calls of brk and sbrk: where the break was is not known */
    LOSS_SEGMENTS = 17,       /* of SysV shared memory, without a size; counted by user space */
    LOSS_DESCRIPTORS = 18,    /* file descriptors: the map of allocations is full */
    LOSS_CLOSED_RANGES = 19,  /* what close_range has closed: no room for another range */
    LOSS_UNREAD_FDS = 20,     /* stored by a call where they can't be read, or too many */
    LOSS_WALKS = 21,          /* from here on: walks by how they ended, enum walk_result */
    LOSS_KINDS = LOSS_WALKS + WALK_RESULTS,
};

#endif
