"""Load an image into the kernel: create its maps, load its programs."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from leaktrace.abi import common as abi
from leaktrace.bpf import syscalls
from leaktrace.bpf.image import LOAD_64_BITS, PSEUDO_MAP_FD, Image
from leaktrace.bpf.maps import Map
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, ProgramError, not_permitted
from leaktrace.own.interrupts import held_back

# struct bpf_insn (include/uapi/linux/bpf.h); `registers` holds the source in its upper half.
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("value", "<i4")])
_LOG_SIZES_BYTES = (1 << 20, 1 << 24)  # the second if the first is too small

# Errors of the verifier, or of a kernel without a feature.
_REFUSALS = {
    errno.EACCES,
    errno.EFAULT,  # "the sequence of jumps is too complex"
    errno.EINVAL,
    errno.E2BIG,
    errno.ENOSPC,
    errno.EOPNOTSUPP,
    524,  # ENOTSUPP, which only the kernel has
}
_LARGE_MAPS = {
    "allocations": "lower --max-allocs",
    "sites": "lower --max-stacks",
    "stacks": "lower --max-stacks",
    "threads": "lower --max-threads",
    "trace_events": "lower --event-buffer-size",
    "unwind_rows": "use --stack-walker fp, which needs no unwind tables",
    "unwind_pages": "use --stack-walker fp, which needs no unwind tables",
}


class RefusedError(ProgramError):
    """The verifier refuses a program. Another program for the same purpose may pass."""


@dataclass(frozen=True)
class ProgramKind:
    """How to load a program of an image."""

    name: str
    kind: int  # enum bpf_prog_type
    attach_type: int = 0  # enum bpf_attach_type
    attach_btf_id: int = 0  # of a tracing program: what it traces (KernelTypes.function_id)
    tail_of: str = ""  # the program array whose only entry it becomes


@dataclass
class Loaded:
    """File descriptors of maps and programs, by name."""

    maps: dict[str, int] = field(default_factory=dict)
    value_bytes: dict[str, int] = field(default_factory=dict)  # by map
    programs: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Close every descriptor: the kernel frees what nothing else holds."""
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)
        self.maps, self.programs = {}, {}


def load(image: Image, programs: Iterable[ProgramKind], capacities: Mapping[str, int]) -> Loaded:
    """Create the maps, with `capacities` by name, and load the programs in their order.

    Raises RefusedError when the verifier refuses a program, EnvironmentUnfitError when loading is
    not permitted, ProgramError when a map can't be created.
    """
    loaded = Loaded()
    try:
        for one in image.maps:
            capacity = capacities.get(one.name, one.capacity)
            if one.kind == syscalls.MAP_TYPE_PERF_EVENT_ARRAY:
                capacity = syscalls.possible_cpus()
            loaded.maps[one.name] = _create_map(replace(one, capacity=capacity))
            loaded.value_bytes[one.name] = one.value_bytes
        _load_programs(image, list(programs), loaded)
    except BaseException:
        loaded.close()
        raise
    return loaded


def _load_programs(image: Image, programs: Sequence[ProgramKind], loaded: Loaded) -> None:
    """Two at a time: the verifier takes tenths of a second, and callers with CAP_BPF don't wait for
    each other (bpf_check in kernel/bpf/verifier.c)."""
    left = deque(programs)
    errors: dict[str, BaseException] = {}

    def load_those_left() -> None:
        while True:
            try:
                one = left.popleft()
            except IndexError:
                return
            try:
                loaded.programs[one.name] = _load_program(image, one, loaded.maps)
            except BaseException as error:
                errors[one.name] = error
                left.clear()

    second = threading.Thread(target=load_those_left)
    with contextlib.suppress(RuntimeError), held_back():  # no thread can be started
        second.start()
    try:
        load_those_left()
    finally:
        left.clear()  # after an interrupt
        if second.ident is not None:
            second.join()
    for one in programs:
        if one.name in errors:
            raise errors[one.name]
    for one in programs:
        if one.tail_of:
            array = Map(one.tail_of, loaded.maps[one.tail_of], abi.U32, abi.U32, 1)
            array.update(0, np.array([loaded.programs[one.name]], dtype=abi.U32))


def _create_map(one: syscalls.MapDefinition) -> int:
    try:
        return syscalls.create_map(one)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise not_permitted() from None
        if error.errno == errno.EMFILE:
            raise _too_many_files() from None
        raise ProgramError(
            f"the kernel can't make the map {one.name}: {error.strerror}",
            _LARGE_MAPS.get(one.name, "please report this with the output of `leaktrace doctor`"),
        ) from None


def _load_program(image: Image, program: ProgramKind, maps: Mapping[str, int]) -> int:
    code = _with_descriptors(image, program.name, maps)
    try:
        return _load(program, code)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise not_permitted() from None
        if error.errno == errno.EMFILE:
            raise _too_many_files() from None
        if error.errno in _REFUSALS:
            raise _refused(program, code, error) from None
        raise ProgramError(
            f"the kernel can't load the BPF program {program.name}: {error.strerror}",
            "try again",
        ) from None


def _load(program: ProgramKind, code: bytes, log: ctypes.Array[ctypes.c_char] | None = None) -> int:
    return syscalls.load_program(
        program.name,
        program.kind,
        code,
        program.attach_type,
        log,
        attach_btf_id=program.attach_btf_id,
    )


def _too_many_files() -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        "too many open files for the maps and programs", "raise the limit: ulimit -n 4096"
    )


def _with_descriptors(image: Image, name: str, maps: Mapping[str, int]) -> bytes:
    """The instructions of a program, with the descriptors of the maps."""
    code = np.frombuffer(image.programs[name], dtype=_INSTRUCTION).copy()
    refers = (code["code"] == LOAD_64_BITS) & (code["registers"] >> 4 == PSEUDO_MAP_FD)
    descriptors = np.array([maps[one.name] for one in image.maps], dtype="<i4")
    code["value"][refers] = descriptors[code["value"][refers]]
    return code.tobytes()


def _refused(program: ProgramKind, code: bytes, error: OSError) -> LeaktraceError:
    """The reason: the program is loaded again, with a log for the verifier."""
    said = ""
    for size in _LOG_SIZES_BYTES:
        log = ctypes.create_string_buffer(size)
        try:
            os.close(_load(program, code, log))
        except OSError as again:
            said = log.value.decode(errors="replace")
            if again.errno != errno.ENOSPC:
                break
    return RefusedError(
        f"the kernel refused the BPF program {program.name}: "
        f"{verifier_line(said) or error.strerror}",
        "please report this with the output of `leaktrace doctor`",
    )


def verifier_line(output: str) -> str:
    """The verifier's objection: the last line before its statistics."""
    lines = [
        line
        for line in output.splitlines()
        if line.strip()
        and not re.match(r"(processed|verification time|stack depth|HINT:)", line.strip())
    ]
    return lines[-1].strip() if lines else ""
