/* What both modes share with user space. Plain C: tests/unit/abi/test_layouts.py compiles it and
 * compares every struct, enum and constant with src/leaktrace/abi/common.py. Sizes are in bytes,
 * times in nanoseconds of CLOCK_MONOTONIC. */
#ifndef LEAKTRACE_SHARED_TYPES_H
#define LEAKTRACE_SHARED_TYPES_H

#define MAX_FRAMES 127

/* Multiplicative hashing: 2^64 divided by the golden ratio. See mix(). */
#define HASH_MULTIPLIER 0x9E3779B97F4A7C15ULL
#define HASH_SHIFT 29

/* The size of a block that has no record. */
#define UNKNOWN_SIZE (~0ULL)

/* How complete a stack is. */
enum stack_end {
    END_UNKNOWN = 0, /* a walk by frame pointers can't know */
    END_COMPLETE = 1,
    END_TRUNCATED = 2, /* deeper than MAX_FRAMES */
    END_GUESSED = 3,   /* complete, but some frames were found by frame pointer */
    END_BROKEN = 4,
    END_GO = 5, /* up to a switch of stacks by Go: go.bpf.c */
};

enum event_kind {
    EVENT_ALLOCATE = 1, /* these three with --trace only */
    EVENT_RELEASE = 2,
    EVENT_FAIL = 3,
    EVENT_REGION_ADD = 4,     /* mmap or mremap returned this range */
    EVENT_REGION_RELEASE = 5, /* munmap or mremap is about to remove this range */
    EVENT_REGION_RESTORE = 6, /* that call failed: the thread's last released range is back */
    EVENT_STARTED = 7,        /* the first allocation of an executable image */
    EVENT_EXEC = 8,
    EVENT_UNKNOWN_CODE = 9, /* a walk met code outside the known mappings */
    EVENT_FORKED = 10,
    EVENT_LOADED = 11, /* the dynamic loader loaded an object: struct load_event */
};

struct event {
    u64 time_ns;
    u64 address;
    u64 size; /* of a release: the recorded size, or UNKNOWN_SIZE */
    u64 stack_id;
    u32 tid;
    u32 generation;
    u8 kind;     /* enum event_kind */
    u8 function; /* enum function or enum kernel_function */
    u16 slot;    /* of the traced process */
    u32 epoch;   /* of EVENT_LOADED */
};

#endif
