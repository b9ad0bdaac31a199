"""Probes that report libraries when they are loaded or unloaded, before their code runs.

The dynamic loader calls an empty function before and after each change of its list of objects, so
that debuggers can put a breakpoint there. A probe at the same address would be overwritten by their
breakpoint, and a debugger that removes its breakpoint later would write the probe's back. So these
probes are at the calls of that function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from leaktrace.abi.process import Function
from leaktrace.arch.machines import is_decoded
from leaktrace.arch.x86_64 import may_have_shadow_stacks
from leaktrace.arch.x86_64_code import CALL_OR_JUMP, Instruction, decode_from, may_carry_probe
from leaktrace.elf.headers import PF_X, LoadSegment
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.process.probes.allocators import Hook
from leaktrace.process.probes.object_plan import ObjectPlan, Probe
from leaktrace.process.probes.placement import Placement
from leaktrace.process.probes.shape import Shape
from leaktrace.targets.loader import LoaderInterface
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.unwind.extents import Extents

_HOOK = Hook("_dl_debug_state", Function.NONE, Shape(), has_return=False)
_MAX_CODE_BYTES = 4 << 20  # a loader has 200 KiB, musl's libc 500
_KNOWN: dict[tuple[object, ...], tuple[Probe, ...]] = {}
_MOST_KNOWN = 64  # loaders


def plan_loader(
    interface: LoaderInterface, pid: int, mappings: Sequence[Mapping]
) -> ObjectPlan | None:
    """A plan for the calls by which the dynamic loader reports changes, None where they can't be
    found. Its object stays open until it is attached."""
    address = interface.r_brk
    found = [m for m in mappings if m.start <= address < m.end and m.is_file and m.is_executable]
    if not found:
        return None
    mapping = found[0]
    try:
        elf = MappedFiles(pid).elf(mapping)
    except (TargetError, ObjectFileError):
        return None
    try:
        function = elf.offset_to_vaddr(address - mapping.start + mapping.offset)
        probes = () if function is None else _known_probes(elf, mapping, function)
    except ObjectFileError:
        probes = ()
    if not probes or not is_decoded(elf.machine):
        elf.close()
        return None
    identity = (mapping.device, mapping.inode)
    return ObjectPlan(mapping.path, elf, probes, (), (), identity=identity)


def _known_probes(elf: ElfObject, mapping: Mapping, function: int) -> tuple[Probe, ...]:
    """The probes of a loader, found once: most processes have the same one."""
    key = (mapping.device, mapping.inode, elf.file_stamp, function)
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = tuple(_probes(elf, function))
    return _KNOWN[key]


def _probes(elf: ElfObject, function: int) -> Iterator[Probe]:
    extents = Extents(elf)
    for segment in elf.load_segments:
        if segment.flags & PF_X and segment.file_size <= _MAX_CODE_BYTES:
            for vaddr in _calls(elf, segment, function):
                one = _carrier(elf, extents, vaddr)
                offset = elf.vaddr_to_offset(one.address) if one is not None else None
                if one is not None and offset is not None:
                    yield Probe(_HOOK, one.address, Placement(0, one.text, one.is_emulated), offset)


def _calls(elf: ElfObject, segment: LoadSegment, function: int) -> Iterator[int]:
    """Where bytes look like a call of the function."""
    code = elf.read(segment.offset, segment.file_size)
    for match in CALL_OR_JUMP.finditer(code, 0, max(len(code) - 4, 0)):
        end = match.end() + 4
        distance = int.from_bytes(code[match.end() : end], "little", signed=True)
        if segment.vaddr + end + distance == function:
            yield segment.vaddr + match.start()


def _carrier(elf: ElfObject, extents: Extents, vaddr: int) -> Instruction | None:
    """The instruction for the probe: the call, or, if it must not carry one, the next instruction.
    None where the function has no call at that address."""
    extent = extents.of(vaddr)
    if extent is None:
        return None
    code = elf.read_vaddr(extent.start, extent.end - extent.start)
    instructions = list(islice(decode_from(code, extent.start, vaddr), 2))
    if not instructions:
        return None
    shadow_stacks = may_have_shadow_stacks()
    if not instructions[0].is_call:
        instructions = instructions[:1]  # a jump doesn't return to the next instruction
    usable = [one for one in instructions if may_carry_probe(one, shadow_stacks=shadow_stacks)]
    return usable[0] if usable else None
