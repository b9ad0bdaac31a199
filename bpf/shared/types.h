/* What both modes store and user space reads. */
#ifndef LEAKTRACE_SHARED_TYPES_H
#define LEAKTRACE_SHARED_TYPES_H

#define MAX_FRAMES 127

/* How the walk of a stack ended. */
enum stack_end {
    END_UNKNOWN = 0, /* a frame-pointer walk can't tell */
    END_COMPLETE = 1,
    END_TRUNCATED = 2,
    END_GUESSED = 3,
    END_BROKEN = 4,
    END_GO = 5, /* called from Go code, whose stack lies elsewhere */
};

enum event_kind {
    EVENT_ALLOCATE = 1, /* trace */
    EVENT_RELEASE = 2,
    EVENT_FAIL = 3,
    EVENT_REGION_ADD = 4,     /* mmap or mremap returned this range */
    EVENT_REGION_RELEASE = 5, /* munmap or mremap is about to take this range away */
    EVENT_REGION_RESTORE = 6, /* …but failed: what this thread released last is back */
    EVENT_STARTED = 7,        /* the first allocation of an executable image */
    EVENT_EXEC = 8,
    EVENT_UNKNOWN_CODE = 9, /* a walk met code outside the known mappings */
    EVENT_FORKED = 10,
    EVENT_LOADED = 11, /* an object: its path follows, see objects.bpf.c */
};

struct event {
    u64 time_ns;
    u64 address;
    u64 size; /* of a release: what was recorded, or ~0 */
    u64 stack_id;
    u32 tid;
    u32 generation;
    u16 kind;
    u16 function;
    u32 epoch; /* of an object that was loaded */
};

#endif
