/* What the ranking of processes (--all-processes) shares with user space. Plain C:
 * tests/unit/abi/test_layouts.py compiles it and compares every struct, enum and constant with
 * src/leaktrace/abi/ranking.py. */
#ifndef LEAKTRACE_RANKING_TYPES_H
#define LEAKTRACE_RANKING_TYPES_H

#define COMMAND_BYTES 16 /* TASK_COMM_LEN, include/linux/sched.h */
#define ENDED_COMMANDS 1024

/* A running process. */
struct touched {
    u64 faults;
    u64 executed; /* how many programs it has executed */
};

/* Processes that have ended, by the name that they had then. */
struct ended {
    u64 processes;
    u64 faults;
};

enum loss {
    LOSS_FAULTS = 0,   /* the map of processes is full */
    LOSS_COMMANDS = 1, /* ended processes without a name: the map of names is full */
    LOSS_KINDS,
};

#endif
