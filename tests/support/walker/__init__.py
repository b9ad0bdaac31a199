"""Runs the BPF programs in user space, to test and fuzz the stack walk without root.

The text is the one that bcc gets. `build` joins its fragments and compiles them as ordinary C
against `bpf.h`, which gives bcc's map macros and the kernel's helpers a body (`runtime.c`).
`machine` drives the result by ctypes: it fills maps and the interrupted process' memory, and runs a
program on a `struct pt_regs`. `walks` puts unwind tables in force and returns how a stack was
walked. `steps` has a child record real stacks, and `fuzz` makes up broken ones.

The same approach as tools/coredump of opentelemetry-ebpf-profiler. Not covered: the verifier and
its limits, code that LLVM's BPF backend generates, the real helpers and maps, page faults in the
middle of a copy, and several CPUs. Maps have one CPU, and nothing else runs during a walk; torn
cache entries are tested by splicing entries between walks.
"""
