"""Where the allocator of a Go program gets memory for more objects, and can be watched there:
runtime.(*mcache).refill and allocLarge.

Nothing is probed in a version of Go whose structs and code aren't known to be as expected. Sources:
runtime/mcache.go; cmd/internal/obj/x86/obj6.go (how functions begin).
"""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.arch.x86_64 import INT3
from leaktrace.errors import TargetError
from leaktrace.printable import printable
from leaktrace.runtimes.go.heap_layouts import HeapLayout
from leaktrace.runtimes.go.layouts import G_M
from leaktrace.runtimes.go.program import GoProgram

_REFILL, _LARGE = "runtime.(*mcache).refill", "runtime.(*mcache).allocLarge"
# cmp rsp, [r14+0x10] and the beginning of jbe rel32: to a larger stack. The probe is on the jbe.
_CHECK_OF_STACK = bytes.fromhex("49 3b 66 10")
_BRANCH = bytes.fromhex("0f 86")
_BEGIN_BYTES = 10
_KNOWN_MINORS = frozenset({19, *range(21, 28)})
_LATER_SPANS_MINOR = 24  # from this one on, struct mcache has its spans 8 bytes later


@dataclass(frozen=True)
class RefillCode:
    """Where the probes are, as offsets in the file, and the knobs of bpf/go/refills.bpf.c."""

    refill: int
    large: int
    knobs: dict[str, int]


def find_refill_code(program: GoProgram, layout: HeapLayout) -> RefillCode:
    """Raises TargetError where the allocator can't be watched, and OSError as `GoMemory`."""
    minor = program.version.minor
    if minor is None or minor not in _KNOWN_MINORS:
        raise _refused(program, f"{printable(program.version.text)} is not known here")
    return RefillCode(
        refill=_probe(program, _REFILL),
        large=_probe(program, _LARGE),
        knobs={
            "CACHE_SPANS": 40 if minor < _LATER_SPANS_MINOR else 48,
            "SPAN_COUNTS": layout.span_alloc_count,
            "SPAN_ELEMENTS": layout.span_elements,
            "INDEX_BYTES": layout.index_bytes,
            "G_M": G_M,
            "M_CURRENT": program.layout.m_curg,
        },
    )


def _probe(program: GoProgram, name: str) -> int:
    """The offset in the file of the branch at the beginning of a function."""
    found = program.code_of(name, _BEGIN_BYTES)
    begin = b"" if found is None else found[1]
    if found is None or not begin.startswith(_CHECK_OF_STACK + _BRANCH):
        raise _refused(program, f"the code of {name} is not as expected")
    now = program.memory.read(found[0], len(begin)) or b""
    # Another tracer's breakpoint may be there. The kernel would execute the file's instruction.
    if len(now) < len(begin) or any(
        byte not in (of_file, INT3) for byte, of_file in zip(now, begin, strict=True)
    ):
        raise _refused(program, f"the process has changed the code of {name}")
    address = found[0] + len(_CHECK_OF_STACK)
    offset = program.file_offset(address)
    if offset is None:
        raise _refused(program, f"the code of {name} is not in its file")
    return offset


def _refused(program: GoProgram, reason: str) -> TargetError:
    return TargetError(
        f"the allocations of process {program.pid} can't be sampled: {reason}",
        "leave out --go-sample-refills; --go-enable-profile may work",
    )
