/* What the sampling of a Go program's allocations (leaktrace go --go-sample-refills) shares with
 * user space. Plain C: tests/unit/abi/test_layouts.py compiles it and compares every struct, enum
 * and constant with src/leaktrace/abi/refills.py. */
#ifndef LEAKTRACE_GO_TYPES_H
#define LEAKTRACE_GO_TYPES_H

#define REFILL_FRAMES 40 /* the stack of a BPF program has 512 bytes */
#define THINNED_BY 16    /* above the limit of stacks per second, one in so many is looked at */

/* A call path, the innermost return address first. */
struct refill_stack {
    u32 end; /* enum stack_end */
    u32 frame_count;
    u64 frames[REFILL_FRAMES];
};

/* What was allocated with one stack, in objects of one size. */
struct refill_site {
    u64 stack_id;     /* 0: the stack could not be read */
    u64 object_bytes; /* 0: large objects, of any size */
    u64 bytes;
    u64 objects;
    u64 seen; /* refills and large objects that were looked at */
};

/* How many stacks were looked at in a second. */
struct refill_window {
    u64 second;
    u64 stacks;
};

enum loss {
    LOSS_THINNED = 0,    /* above the limit: not looked at, others stand for them */
    LOSS_SPANS = 1,      /* refills whose span made no sense */
    LOSS_SITES = 2,      /* the map of sites is full */
    LOSS_SITE_BYTES = 3, /* bytes of these */
    LOSS_KINDS,
};

#endif
