"""The registers of all threads of a process, read without stopping it, by a BPF program that the
kernel runs once for each thread (bpf/iterators.py).

A thread that enters the kernel leaves its registers on its kernel stack (struct pt_regs), and they
stay there while it waits or is preempted. Of a thread that is running they are those of its last
entry, so they are old. Vector registers are not there.

It needs bpf_task_pt_regs (Linux 5.15), and x86-64: another machine has other registers.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack, closing

import numpy as np

from leaktrace.abi import common
from leaktrace.abi import registers as abi
from leaktrace.arch.machines import this_machine
from leaktrace.bpf import support, syscalls
from leaktrace.bpf.btf import KernelTypes
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.iterators import TASK_ITERATOR, TRACE_ITER, link_iterator, run_iterator
from leaktrace.bpf.load import Loaded, ProgramKind, RefusedError, load
from leaktrace.bpf.maps import Map
from leaktrace.errors import EnvironmentUnfitError, ProgramError, not_permitted, reason
from leaktrace.process.task_offsets import Members, member_offsets
from leaktrace.targets.namespaces import pids_are_global
from leaktrace.targets.thread_registers import Registers
from leaktrace.tracing.opening import closed_on_failure

REGISTER_FRAGMENTS = (
    "shared/types.h",
    "registers/types.h",
    "shared/config.h",
    "registers/registers.bpf.c",
)

_PROGRAM = "on_task"
_EVERY_PROCESS = 0  # in the map `wanted`
_MEMBERS: Members = {
    "TASK_PID_OFFSET": (("task_struct", "pid"),),
    "TASK_TGID_OFFSET": (("task_struct", "tgid"),),
    "TASK_MM_OFFSET": (("task_struct", "mm"),),
    "TASK_FSBASE_OFFSET": (("task_struct", "thread"), ("thread_struct", "fsbase")),
}
# Kernels for one CPU lack it (CONFIG_SMP=n): while leaktrace reads, no other thread is running.
_OPTIONAL_MEMBERS: Members = {"TASK_ON_CPU_OFFSET": (("task_struct", "on_cpu"),)}


class RegisterReader:
    """Reads the registers of any process, one at a time. Any thread may do so. `close()` unloads
    the program."""

    def __init__(self) -> None:
        """Find the program in the cache or compile it, and load it.

        Raises EnvironmentUnfitError where this machine, the kernel (before Linux 5.15, without BTF;
        in a pid namespace before 6.1) or the privileges don't allow it; other LeaktraceErrors for
        what should not happen.
        """
        self._lock = threading.Lock()
        with closed_on_failure() as stack:
            loaded = _load(stack)
            self._program = loaded.programs[_PROGRAM]
            self._wanted = Map("wanted", loaded.maps["wanted"], common.U32, common.U32, 1)
            try:
                self._link = link_iterator(self._program)
                stack.callback(os.close, self._link)
                if not pids_are_global():
                    self._global_pid(os.getpid())  # whether it can be found
            except OSError as error:
                raise _failed(error) from None
            self._open = stack

    def close(self) -> None:
        """Unload the program."""
        self._open.close()

    def read(self, pid: int) -> Registers:
        """The registers of all threads of a process: of each that exists from begin to end of this
        call, and is not about to end. It takes about 0.2 µs per thread of the machine, and up to
        1 µs more per thread of the process.

        Raises EnvironmentUnfitError when a privilege has been given up, ProgramError when the
        kernel is out of memory or files.
        """
        try:
            wanted = pid if pids_are_global() else self._global_pid(pid)
            return Registers.from_records(self._run(self._link, wanted) if wanted else b"")
        except OSError as error:
            raise _failed(error) from None

    def _global_pid(self, pid: int) -> int:
        """The process's id in the initial pid namespace, 0 if it has ended. Inside another one only
        the kernel knows it. Raises OSError."""
        try:
            link = link_iterator(self._program, pid)
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.EINVAL):
                raise _hidden_by_namespace() from None
            raise
        try:
            data = self._run(link, _EVERY_PROCESS)
        finally:
            os.close(link)
        found = np.unique(np.frombuffer(data, dtype=abi.SAVED_THREAD)["tgid"])
        if len(found) > 1:
            raise _hidden_by_namespace()
        return int(found[0]) if len(found) else 0

    def _run(self, link: int, wanted: int) -> bytes:
        with self._lock:  # the program asks which process is wanted for each task
            self._wanted.update(0, np.array([wanted], dtype=common.U32))
            return run_iterator(link)


def _load(stack: ExitStack) -> Loaded:
    machine = this_machine()
    if machine is None or not machine.has_saved_registers:
        raise EnvironmentUnfitError(
            "leaktrace doesn't know where this machine keeps the registers of threads",
            "it can read them on x86_64",
        )
    iterator, knobs = _kernel_side()
    image = ImageRequest(REGISTER_FRAGMENTS, knobs)
    stack.callback(image.abandon)
    kind = ProgramKind(_PROGRAM, syscalls.PROG_TYPE_TRACING, TRACE_ITER, attach_btf_id=iterator)
    try:
        loaded = load(image.finish(), [kind], {})
    except RefusedError:
        if support.has_task_pt_regs():
            raise
        raise _too_old() from None
    stack.callback(loaded.close)
    return loaded


def _kernel_side() -> tuple[int, dict[str, int]]:
    """What the program is attached to, and its -D flags."""
    if support.declined("registers"):
        raise _too_old()
    try:
        types = KernelTypes()
    except EnvironmentUnfitError as error:
        raise EnvironmentUnfitError(
            f"the registers of threads can't be read: {error.message}",
            "it needs a kernel with CONFIG_DEBUG_INFO_BTF=y, Linux 5.15 or newer",
        ) from None
    with closing(types):
        iterator = types.function_id(TASK_ITERATOR)
        knobs = member_offsets(_MEMBERS, types.member_offset)
        if iterator is None or not knobs:
            raise _too_old()
        return iterator, knobs | member_offsets(_OPTIONAL_MEMBERS, types.member_offset)


def _too_old() -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        "this kernel can't say what registers the threads of a process have",
        "it needs Linux 5.15 or newer",
    )


def _hidden_by_namespace() -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        "leaktrace runs in a PID namespace, and before Linux 6.1 the kernel knows the threads of a "
        "process by the host's pids only",
        "run it on the host, or in a container with --pid=host",
    )


def _failed(error: OSError) -> EnvironmentUnfitError | ProgramError:
    if error.errno == errno.EPERM:
        return not_permitted()
    return ProgramError(
        f"the kernel can't read the registers of threads: {reason(error.errno or errno.EIO)}",
        "try again",
    )
