"""bpf(2) and libbpf through ctypes: maps, programs and their statistics.

bcc compiles the program in a child process. The tracer itself needs only these few calls, so no
compiler is mapped into it. Sources: bpf(2), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import resource
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from leaktrace.bpf.probe_calls import bpf
from leaktrace.errors import EnvironmentUnfitError, system_error

# enum bpf_cmd
_BPF_MAP_CREATE = 0
_BPF_PROG_LOAD = 5
# enum bpf_prog_type
PROG_TYPE_KPROBE = 2
PROG_TYPE_PERF_EVENT = 7
PROG_TYPE_RAW_TRACEPOINT = 17
PROG_TYPE_TRACING = 26
# enum bpf_map_type
MAP_TYPE_PERF_EVENT_ARRAY = 4
MAP_TYPE_RINGBUF = 27
# enum bpf_stats_type
_BPF_STATS_RUN_TIME = 0


_INTERRUPTED_ATTEMPTS = 10
_PROGRAM_INFO_BYTES = 232  # the kernel fills as much of it as it knows


@cache
def libbpf() -> ctypes.CDLL:
    """The distribution's libbpf, on which libbcc itself depends.

    Raises EnvironmentUnfitError when it is not installed.
    """
    for name in ("libbpf.so.1", "libbpf.so.0", ctypes.util.find_library("bpf")):
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        with contextlib.suppress(AttributeError):
            library.libbpf_set_print(None)  # errors are reported in our words
        return library
    raise EnvironmentUnfitError(
        "libbpf is not installed", "install it (Debian, Ubuntu: apt-get install libbpf1)"
    )


def errno_of(result: int) -> int:
    """A libbpf 1.x result (minus errno) or a 0.x one (-1 and errno) as an errno, 0 for success."""
    if result >= 0:
        return 0
    return -result if result != -1 else (ctypes.get_errno() or errno.EPERM)


def possible_cpus() -> int:
    """How many CPUs the kernel keeps per-CPU memory for. The file says "0-3" or "0,2-5"."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return max(int(part.rpartition("-")[2]) for part in text.split(",")) + 1


# --- maps and programs ------------------------------------------------------------------------


@dataclass(frozen=True)
class MapDefinition:
    """What a map is created with."""

    name: str
    kind: int  # enum bpf_map_type
    key_bytes: int
    value_bytes: int
    capacity: int  # entries, or bytes of a ring buffer
    flags: int


def create_map(one: MapDefinition) -> int:
    """Create a map. Returns its file descriptor; raises OSError with the kernel's errno."""
    attributes = ctypes.create_string_buffer(128)
    sizes = (one.key_bytes, one.value_bytes, one.capacity, one.flags)
    struct.pack_into("<IIIII", attributes, 0, one.kind, *sizes)
    struct.pack_into("15s", attributes, 28, one.name.encode())
    return _created(_BPF_MAP_CREATE, attributes, one.name)


def load_program(
    name: str,
    kind: int,
    instructions: bytes,
    attach_type: int = 0,
    log: ctypes.Array[ctypes.c_char] | None = None,
    *,
    attach_btf_id: int = 0,
) -> int:
    """Load a program (enum bpf_prog_type; expected attach type; of a tracing program, the type of
    what it traces: KernelTypes.function_id). Returns its file descriptor.

    The verifier writes its log to `log`, terminated by a zero byte. Raises OSError with the
    kernel's errno: ENOSPC when the log is too small, EAGAIN when signals interrupted each attempt.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(128)
    struct.pack_into(
        "<IIQQ",
        attributes,
        0,
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
    )
    if log is not None:
        struct.pack_into("<IIQ", attributes, 24, 1, len(log), ctypes.addressof(log))
    struct.pack_into("15s", attributes, 48, name.encode())
    struct.pack_into("<I", attributes, 68, attach_type)
    struct.pack_into("<I", attributes, 108, attach_btf_id)
    return _created(_BPF_PROG_LOAD, attributes, name)


def _created(command: int, attributes: ctypes.Array[ctypes.c_char], name: str) -> int:
    result = bpf(command, attributes)
    for _ in range(_INTERRUPTED_ATTEMPTS):
        if result != -errno.EAGAIN:  # the verifier gives up when a signal is pending
            break
        result = bpf(command, attributes)
    if result == -errno.EPERM:
        # Before Linux 5.11 maps and programs count as locked memory, which has a limit.
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
            result = bpf(command, attributes)
    if result < 0:
        raise system_error(-result, name)
    return result


# --- what programs cost -----------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel knows about a loaded program.

    Run times and counts are since `enable_run_time_stats`. A program reached by a tail call counts
    for the program that called it.
    """

    name: str  # at most 15 characters
    run_time_ns: int  # of all runs together, without the trap before each
    run_count: int
    recursion_misses: int  # runs skipped because the program was running on that CPU


def program_info(fd: int) -> ProgramInfo:
    """A program's statistics (struct bpf_prog_info). Raises OSError."""
    info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    length = ctypes.c_uint32(len(info))
    code = errno_of(libbpf().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)))
    if code:
        raise system_error(code)
    run_time_ns, run_count, recursion_misses = struct.unpack_from("<QQQ", info, 192)
    name = struct.unpack_from("16s", info, 64)[0].split(b"\0", 1)[0].decode(errors="replace")
    return ProgramInfo(name, run_time_ns, run_count, recursion_misses)


def enable_run_time_stats() -> int:
    """Make the kernel measure every BPF program (Linux 5.8) until the returned descriptor is
    closed. This costs some tens of nanoseconds per run. Raises OSError."""
    result = int(libbpf().bpf_enable_stats(_BPF_STATS_RUN_TIME))
    code = errno_of(result)
    if code:
        raise system_error(code)
    return result
