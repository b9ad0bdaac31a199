"""Runs the BPF programs in user space, to test and fuzz the stack walk without root.

The text is the one that bcc gets. `build` joins its fragments and compiles them as ordinary C
against `bpf.h`, which gives bcc's map macros and the kernel's helpers a body (`runtime.c`).
`machine` drives the result by ctypes: it fills maps and the memory of the interrupted process, and
runs a program on a `struct pt_regs`. `walks` installs unwind tables and returns how a stack was
walked. `reference` is the same walk in Python. `steps` has a child record real stacks; `cases`
makes up processes, and `fuzz` says what must hold for each walk in them.

tools/coredump of opentelemetry-ebpf-profiler runs its programs in user space in the same way.

Not covered: the verifier and its limits, the code that LLVM generates for BPF, the real helpers and
maps, and what other CPUs do during a walk. The per-CPU map has one CPU. Cache entries that two CPUs
write at the same time are tested by splicing entries between walks. Objects that are loaded later
(objects.bpf.c) and page faults in the kernel are not driven.
"""
