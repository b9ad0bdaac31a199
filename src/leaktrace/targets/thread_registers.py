"""The registers of all threads of a process, as values: read without stopping it
(leaktrace.process.registers), at an instant (instant.py), or from a core file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import registers as abi
from leaktrace.arch import x86_64


class OneThread(NamedTuple):
    """The registers of a thread that was stopped."""

    tid: int
    instruction_pointer: int
    stack_pointer: int
    frame_pointer: int
    thread_pointer: int
    words: NDArray[np.uint64]  # all others that may hold a pointer


@dataclass(frozen=True, eq=False)
class Registers:
    """The registers of a process, one row for each thread; no rows if it has ended.

    Thread ids are those of the initial pid namespace, which /proc shows unless leaktrace is in
    another one. They ascend.
    """

    tids: NDArray[np.uint32]
    # Whether it was on a CPU before or after its registers were read: then they may be old, or even
    # of two moments. Of any other thread they are those that it goes on with.
    is_running: NDArray[np.bool_]
    stack_pointers: NDArray[np.uint64]
    instruction_pointers: NDArray[np.uint64]
    frame_pointers: NDArray[np.uint64]  # rbp
    thread_pointers: NDArray[np.uint64]  # fs base: the end of its thread-local storage; 0: not set
    # By thread: rax to r15 in the order of SAVED_GENERAL, without rsp. Of a thread that was
    # stopped, the words of `OneThread`, and zeros if another thread has more.
    words: NDArray[np.uint64]

    @classmethod
    def from_records(cls, data: bytes) -> Self:
        """What the BPF program wrote (struct saved_thread)."""
        threads = np.frombuffer(data, dtype=abi.SAVED_THREAD)
        saved = threads["registers"]
        # A worker of io_uring is a thread of the process that never leaves the kernel, with copies
        # of another thread's registers; these two are 0 (copy_thread in arch/x86/kernel/process.c).
        is_user = (saved[:, x86_64.SAVED_IP] != 0) | (saved[:, x86_64.SAVED_SP] != 0)
        threads = threads[is_user]
        saved = threads["registers"]
        return cls(
            tids=threads["tid"].copy(),
            is_running=threads["is_running"] != 0,
            stack_pointers=saved[:, x86_64.SAVED_SP].copy(),
            instruction_pointers=saved[:, x86_64.SAVED_IP].copy(),
            frame_pointers=saved[:, x86_64.SAVED_RBP].copy(),
            thread_pointers=threads["fs_base"].copy(),
            words=saved[:, x86_64.SAVED_GENERAL].copy(),
        )

    @classmethod
    def of_stopped(cls, threads: Sequence[OneThread]) -> Self:
        """Of threads that were stopped: what each had at that instant."""
        ordered = sorted(threads, key=lambda one: one.tid)
        widest = max((len(one.words) for one in ordered), default=0)
        words = np.zeros((len(ordered), widest), dtype=np.uint64)
        for row, one in enumerate(ordered):
            words[row, : len(one.words)] = one.words

        def each(values: Sequence[int]) -> NDArray[np.uint64]:
            return np.array(values, dtype=np.uint64)

        return cls(
            tids=np.array([one.tid for one in ordered], dtype=np.uint32),
            is_running=np.zeros(len(ordered), dtype=bool),
            stack_pointers=each([one.stack_pointer for one in ordered]),
            instruction_pointers=each([one.instruction_pointer for one in ordered]),
            frame_pointers=each([one.frame_pointer for one in ordered]),
            thread_pointers=each([one.thread_pointer for one in ordered]),
            words=words,
        )
