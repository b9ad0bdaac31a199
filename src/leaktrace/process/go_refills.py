"""Samples what a Go program allocates, by probes where its allocator gets memory for more objects
(bpf/go/refills.bpf.c). Nothing but two breakpoints in its code is written to the process; the
keeper holds them, and removes them however leaktrace ends.

It shows what is allocated, and not what is still in use.
"""

from __future__ import annotations

import errno
import os
import time

from leaktrace.abi import common
from leaktrace.abi import refills as abi
from leaktrace.bpf import links, syscalls
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.links import UprobeLinks
from leaktrace.bpf.load import Loaded, ProgramKind, load
from leaktrace.bpf.maps import Map
from leaktrace.capabilities import enumerate_missing, missing_for_probes
from leaktrace.errors import (
    AS_ROOT_OR_DOCTOR,
    EnvironmentUnfitError,
    LeaktraceError,
    ProgramError,
    TargetError,
    reason,
)
from leaktrace.go_report import RefillKey, RefillLook, SeenRefills
from leaktrace.process.attach.keeper import Keeper
from leaktrace.runtimes.go.heap_variables import HeapVariables
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.runtimes.go.refill_code import RefillCode, find_refill_code
from leaktrace.tracing.opening import closed_on_failure

REFILL_FRAGMENTS = (
    "shared/types.h",
    "go/types.h",
    "shared/config.h",
    "shared/helpers.bpf.c",
    "go/refills.bpf.c",
)

STACKS_PER_SECOND = 5000  # a stack takes some microseconds of the process
_CAPACITY = 16_384  # sites, and stacks
_RUNTIME = ("runtime.", "internal/runtime/")
_AT_REFILL, _AT_LARGE = "at_refill", "at_large"


class Refills:
    """The samples of one Go program, from the attachment of the probes to `close()`."""

    def __init__(
        self,
        program: GoProgram,
        variables: HeapVariables,
        *,
        stacks_per_second: int = STACKS_PER_SECOND,
        capacity: int = _CAPACITY,
    ) -> None:
        """Compile or find the BPF program, load it and attach the probes.

        Raises LeaktraceError where that isn't possible, and OSError as `GoMemory`.
        """
        code = find_refill_code(program, variables.layout)
        missing = missing_for_probes()
        if missing:
            raise EnvironmentUnfitError(
                f"--go-sample-refills sets probes; {enumerate_missing(missing)}", AS_ROOT_OR_DOCTOR
            )
        self._program, self._own = program, _OwnFrames(program)
        self._account = variables.controller + variables.layout.controller_total_alloc
        knobs = {**code.knobs, "STACKS_PER_SECOND": stacks_per_second}
        with closed_on_failure() as stack:
            self._keeper = _keeper()  # early: it starts on another core
            stack.callback(self._keeper.end)
            image = ImageRequest(REFILL_FRAGMENTS, knobs)
            stack.callback(image.abandon)
            way = links.uprobe_links()
            kinds = [
                ProgramKind(name, syscalls.PROG_TYPE_KPROBE, way.attach_type)
                for name in (_AT_REFILL, _AT_LARGE)
            ]
            loaded = load(image.finish(), kinds, {"sites": capacity, "stacks": capacity})
            stack.callback(loaded.close)
            maps, number = loaded.maps, common.U64
            self._sites = Map("sites", maps["sites"], number, abi.REFILL_SITE, capacity)
            self._stacks = Map("stacks", maps["stacks"], number, abi.REFILL_STACK, capacity)
            self._losses = Map("losses", maps["losses"], common.U32, number, abi.REFILL_LOSS_KINDS)
            self._attach(loaded, code, way)
            self._first_bytes = self._allocated()
            self._began_s = time.monotonic()
            self._open = stack

    def close(self) -> None:
        """Remove the probes, and return when that is done."""
        self._open.close()

    def _attach(self, loaded: Loaded, code: RefillCode, way: UprobeLinks) -> None:
        path = f"/proc/self/fd/{self._program.file}"
        pid = self._program.pid
        for name, offset in ((_AT_LARGE, code.large), (_AT_REFILL, code.refill)):
            try:
                if way is UprobeLinks.TOGETHER:
                    self._keeper.attach_uprobes(loaded.programs[name], path, [offset], [0], pid=pid)
                else:
                    self._keeper.attach_uprobe_event(
                        loaded.programs[name], path, offset, 0, pid=pid, is_return=False
                    )
            except OSError as error:
                raise _not_attached(pid, error) from None

    def look(self) -> RefillLook:
        """Everything since sampling began. Raises KeeperGoneError, ProgramError, and OSError as
        `GoMemory`."""
        if self._keeper.is_gone():
            raise self._keeper.gone()
        elapsed_s = time.monotonic() - self._began_s
        runtime_bytes = self._allocated() - self._first_bytes
        _, sites = self._sites.read_all()
        ids, stacks = self._stacks.read_all()
        lost = self._losses.read_all()[1]
        place = {number: index for index, number in enumerate(ids.tolist())}
        seen: dict[RefillKey, SeenRefills] = {}
        for site in sites:
            index = place.get(int(site["stack_id"]))
            frames: tuple[int, ...] = ()
            is_complete = False
            if index is not None:
                one = stacks[index]
                frames = self._own.of(one["frames"][: one["frame_count"]].tolist())
                is_complete = int(one["end"]) == common.StackEndCode.COMPLETE
            key = RefillKey(frames, int(site["object_bytes"]), is_complete)
            new = SeenRefills(int(site["seen"]), int(site["objects"]), int(site["bytes"]))
            # Several have no stack, or differ in the runtime's functions.
            old = seen.get(key, SeenRefills(0, 0, 0))
            seen[key] = SeenRefills(
                old.seen_count + new.seen_count,
                old.allocated_count + new.allocated_count,
                old.allocated_bytes + new.allocated_bytes,
            )
        kind = abi.RefillLossKind
        return RefillLook(
            elapsed_s=elapsed_s,
            sites=seen,
            runtime_bytes=runtime_bytes,
            thinned_count=int(lost[kind.THINNED]),
            unknown_count=int(lost[kind.SPANS]),
            lost_count=int(lost[kind.SITES]),
            lost_bytes=int(lost[kind.SITE_BYTES]),
        )

    def _allocated(self) -> int:
        """The runtime's own account of all that was allocated, which it makes at the same
        places."""
        number = self._program.memory.word(self._account)
        if number is None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return number


class _OwnFrames:
    """Stacks without the functions of the runtime that allocate."""

    def __init__(self, program: GoProgram) -> None:
        self._program = program
        self._known: dict[int, bool] = {}

    def of(self, frames: list[int]) -> tuple[int, ...]:
        """All of the stack if it has no others."""
        for index, address in enumerate(frames):
            if not self._is_of_runtime(address):
                return tuple(frames[index:])
        return tuple(frames)

    def _is_of_runtime(self, address: int) -> bool:
        if address not in self._known:
            lines = self._program.lines(address)
            self._known[address] = bool(lines) and lines[-1].function.startswith(_RUNTIME)
        return self._known[address]


def _keeper() -> Keeper:
    try:
        return Keeper()
    except OSError as error:
        raise EnvironmentUnfitError(
            f"the process that holds the probes can't be started: "
            f"{reason(error.errno or errno.EAGAIN)}",
            "raise the limit of processes or files: ulimit -u, ulimit -n",
        ) from None


def _not_attached(pid: int, error: OSError) -> LeaktraceError:
    code = error.errno or errno.EIO
    if code in (errno.EPERM, errno.EACCES):
        return EnvironmentUnfitError(
            f"the kernel doesn't permit probes on process {pid}", AS_ROOT_OR_DOCTOR
        )
    if code == errno.ESRCH:
        return TargetError(f"process {pid} has ended", "check the process id (pgrep NAME)")
    return ProgramError(
        f"can't attach a probe to the allocator of process {pid}: {reason(code)}",
        "please report this with the output of `leaktrace doctor`",
    )
