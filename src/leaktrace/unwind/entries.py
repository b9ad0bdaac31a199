"""The records of .eh_frame and .debug_frame: CIEs and FDEs, as arrays of functions.

Sources: LSB Core, "DWARF Extensions" (the .eh_frame format and pointer encodings), DWARF 5 section
6.4.1 (.debug_frame). The two differ in how a CIE is recognized and found, and in how addresses are
encoded.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from leaktrace.abi.process import Rule
from leaktrace.unwind.cfi import (
    CommonInfo,
    MalformedCfiError,
    PackedRules,
    Program,
    interpret,
    interpret_common,
    read_sleb128,
    read_uleb128,
)
from leaktrace.unwind.rows import NoRule, pack_rule

# DW_EH_PE_*: the low four bits say how a pointer is stored, the next three what it is relative to.
_ENCODING_ABSOLUTE = 0x00
_ENCODING_PC_RELATIVE = 0x10
_ENCODING_INDIRECT = 0x80
_ENCODING_OMIT = 0xFF
_FORMATS = {
    0x00: struct.Struct("<Q"),  # absptr
    0x02: struct.Struct("<H"),  # udata2
    0x03: struct.Struct("<I"),  # udata4
    0x04: struct.Struct("<Q"),  # udata8
    0x0A: struct.Struct("<h"),  # sdata2
    0x0B: struct.Struct("<i"),  # sdata4
    0x0C: struct.Struct("<q"),  # sdata8
}
_FORMAT_ULEB128 = 0x01
_FORMAT_SLEB128 = 0x09
_PC_RELATIVE_SDATA4 = 0x1B  # what compilers emit for x86-64
_SIZE_MASK = 0x0F  # a function's size is stored in the same format, relative to nothing

_U32_PAIR = struct.Struct("<II")
_I32_U32 = struct.Struct("<iI")
_U64 = struct.Struct("<Q")
_EXTENDED_LENGTH = 0xFFFFFFFF
_ADDRESS_LIMIT = 1 << 63
_MAX_AUGMENTATION_BYTES = 16
# Bounds on the work that a hostile file can cause. The largest libraries in use have some 40 MB of
# .eh_frame, a million FDEs and ten million rows; their longest program has 100 kB.
MAX_SECTION_BYTES = 64 << 20
MAX_ROWS = 16 << 20
MAX_FUNCTIONS = 2 << 20
_MAX_PROGRAM_BYTES = 1 << 20
_MAX_KNOWN_PROGRAMS = 1 << 18  # kept; libLLVM and node have 30,000
_BYTES_BETWEEN_CHECKS = 1 << 16  # take hundredths of a second


class SectionKind(Enum):
    """Which of the two formats a section is in."""

    EH_FRAME = ".eh_frame"
    DEBUG_FRAME = ".debug_frame"


class Skipped(StrEnum):
    """Why the functions of a FDE are unknown, so that there isn't even a RULE_NONE for them."""

    TRUNCATED = "record runs past the end of the section"
    MALFORMED_RECORD = "malformed record"
    UNKNOWN_CIE = "refers to a CIE that is missing or not understood"
    OUTSIDE_CODE = "address outside the object's code"
    TOO_MANY = "more than a table may have"


@dataclass(frozen=True)
class FrameSection:
    """The bytes of a section, and their virtual address in the file."""

    kind: SectionKind
    data: bytes
    address: int


@dataclass
class Functions:
    """The functions that FDEs describe, and the rules of each.

    Function i is the `sizes[i]` bytes from the virtual address `begins[i]` on. It has the rules of
    program p = `program_of[i]`: for j from `starts[p]` to `starts[p + 1]`, `rules[j]` (the low half
    of a row) holds from byte `offsets[j]` of the function on. Functions share programs. `skipped`
    counts FDEs that are left out.
    """

    begins: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    program_of: array[int] = field(default_factory=lambda: array("I"))
    starts: array[int] = field(default_factory=lambda: array("I", [0]))
    offsets: array[int] = field(default_factory=lambda: array("I"))
    rules: array[int] = field(default_factory=lambda: array("I"))
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Cie:
    info: CommonInfo
    encoding: int
    has_augmentation_data: bool
    id_size: int  # bytes that the CIE pointer of its FDEs takes
    is_usable: bool = True  # False: initial instructions or encoding are not understood


def read_functions(section: FrameSection, check: Callable[[], None] = lambda: None) -> Functions:
    """Every function that the section describes.

    Raises only what `check` raises, which is called now and then. What can't be read is counted in
    `Functions.skipped`; a function whose instructions can't be decoded gets RULE_NONE.
    """
    return _Reader(section, check).read()


class _Reader:
    """One pass over a section. Every record consumes at least four bytes of it."""

    def __init__(self, section: FrameSection, check: Callable[[], None]) -> None:
        self.check = check
        self.checked_at = 0
        self.data = section.data
        self.address = section.address
        self.is_eh = section.kind is SectionKind.EH_FRAME
        self.functions = Functions()
        self.cies: dict[int, _Cie | None] = {}
        self.program_numbers: dict[tuple[int, bytes], int] = {}
        self.rows_made = 0
        self.packed: PackedRules = {}

    def read(self) -> Functions:
        data, is_eh = self.data, self.is_eh
        limit = len(data)
        read_pair = _U32_PAIR.unpack_from
        position = 0
        deferred: list[tuple[int, int, int]] = []
        while position + 8 <= limit:
            if position - self.checked_at >= _BYTES_BETWEEN_CHECKS:
                self.check()
                self.checked_at = position
            if self._is_full():
                self._skip(Skipped.TOO_MANY)
                break
            length, identifier = read_pair(data, position)
            if length == 0:
                if is_eh:  # the terminator; .debug_frame has none
                    break
                position += 4
                continue
            body = position + 4
            id_size = 4
            if length == _EXTENDED_LENGTH:
                if position + 24 > limit:
                    self._skip(Skipped.TRUNCATED)
                    break
                (length,) = _U64.unpack_from(data, body)
                body += 8
                id_size, identifier = self._extended_identifier(body)
            end = body + length
            if end > limit:
                self._skip(Skipped.TRUNCATED)
                break
            if self._is_cie(identifier, id_size):
                self._cie(position, body + id_size, end, id_size)
            else:
                offset = body - identifier if is_eh else identifier
                if is_eh or offset <= position:
                    self._fde(offset, body + id_size, end)
                else:  # .debug_frame may have the CIE after its FDE
                    deferred.append((offset, body + id_size, end))
            position = end
        for number, record in enumerate(deferred):
            if number % (_BYTES_BETWEEN_CHECKS >> 6) == 0:
                self.check()
            if not self._is_full():
                self._fde(*record)
        return self.functions

    def _is_full(self) -> bool:
        return self.rows_made >= MAX_ROWS or len(self.functions.begins) >= MAX_FUNCTIONS

    def _skip(self, reason: Skipped) -> None:
        self.functions.skipped[reason] += 1

    def _extended_identifier(self, body: int) -> tuple[int, int]:
        """(size, value) of the CIE id or pointer of a record with a 64-bit length.

        .debug_frame has eight bytes. In .eh_frame the LSB says four and LLVM reads four, while
        binutils and gdb read eight. In a CIE the next byte is a version, which is never zero, so
        eight zero bytes are an id of eight. A FDE has the size of its CIE.
        """
        (wide,) = _U64.unpack_from(self.data, body)
        if not self.is_eh or wide == 0:
            return 8, wide
        narrow = wide & 0xFFFFFFFF
        cie = self.cies.get(body - narrow)
        return (8, wide) if cie is not None and cie.id_size == 8 else (4, narrow)

    def _is_cie(self, identifier: int, id_size: int) -> bool:
        if self.is_eh:
            return identifier == 0
        return identifier == (1 << 8 * id_size) - 1

    def _cie(self, offset: int, position: int, end: int, id_size: int) -> None:
        try:
            self.cies[offset] = _parse_cie(self.data[position:end], id_size, self.is_eh)
        except (MalformedCfiError, IndexError, ValueError):
            self.cies[offset] = None

    def _fde(self, cie_offset: int, position: int, end: int) -> None:
        cie = self.cies.get(cie_offset)
        if cie is None or not cie.is_usable:
            self._skip(Skipped.UNKNOWN_CIE)
            return
        data, functions = self.data, self.functions
        try:
            if cie.encoding == _PC_RELATIVE_SDATA4 and position + 8 <= end:
                begin, size = _I32_U32.unpack_from(data, position)
                begin += self.address + position
                position += 8
            else:
                begin, position = self._pointer(cie.encoding, position, end)
                size, position = self._pointer(cie.encoding & _SIZE_MASK, position, end)
            if cie.has_augmentation_data:
                extra = data[position]
                position += 1
                if extra >= 0x80:
                    extra, position = read_uleb128(data, position - 1)
                position += extra
            if position > end or not 0 <= begin < _ADDRESS_LIMIT or size < 0:
                raise MalformedCfiError("a FDE's header is cut off or its range impossible")
        except (MalformedCfiError, IndexError, struct.error):
            self._skip(Skipped.MALFORMED_RECORD)
            return
        if size == 0:
            return
        program = self._program(cie_offset, data[position:end], cie.info)
        self.rows_made += functions.starts[program + 1] - functions.starts[program]
        functions.begins.append(begin)
        functions.sizes.append(min(size, _ADDRESS_LIMIT - 1 - begin))
        functions.program_of.append(program)

    def _program(self, cie_offset: int, code: bytes, info: CommonInfo) -> int:
        """The number of the program for `code` with this CIE; each is interpreted once."""
        key = (cie_offset, code)
        number = self.program_numbers.get(key)
        if number is None:
            functions = self.functions
            if len(self.program_numbers) >= _MAX_KNOWN_PROGRAMS:
                self.program_numbers.clear()
            number = self.program_numbers[key] = len(functions.starts) - 1
            offsets, rules = self._interpret(code, info)
            functions.offsets.extend(offsets)
            functions.rules.extend(rules)
            functions.starts.append(len(functions.offsets))
        return number

    def _interpret(self, code: bytes, info: CommonInfo) -> Program:
        try:
            if len(code) <= _MAX_PROGRAM_BYTES:
                return interpret(code, info, self.packed)
        except (MalformedCfiError, IndexError):
            pass
        return Program([0], [pack_rule(Rule.RULE_NONE, NoRule.MALFORMED)])

    def _pointer(self, encoding: int, position: int, end: int) -> tuple[int, int]:
        """An encoded address and the position behind it."""
        form, relative = encoding & 0x0F, encoding & 0x70
        base = self.address + position if relative == _ENCODING_PC_RELATIVE else 0
        if form == _FORMAT_ULEB128:
            value, position = read_uleb128(self.data, position)
        elif form == _FORMAT_SLEB128:
            value, position = read_sleb128(self.data, position)
        else:
            stored = _FORMATS[form]
            if position + stored.size > end:
                raise MalformedCfiError("a pointer is cut off")
            (value,) = stored.unpack_from(self.data, position)
            position += stored.size
        if base:  # addresses wrap at 64 bits
            value = (base + value) & 0xFFFFFFFFFFFFFFFF
        return value, position


def _parse_cie(body: bytes, id_size: int, is_eh: bool) -> _Cie:
    """A CIE from its version byte on.

    Raises MalformedCfiError, IndexError or ValueError for one that can't be used.
    """
    version = body[0]
    if version not in ((1, 3) if is_eh else (1, 3, 4)):
        raise MalformedCfiError(f"CIE version {version}")
    name_end = body.index(b"\0", 1, 2 + _MAX_AUGMENTATION_BYTES)
    augmentation = body[1:name_end]
    position = name_end + 1
    if augmentation == b"eh":  # gcc 2: a pointer that nothing uses
        position += 8
    if version == 4:
        address_size, segment_size = body[position], body[position + 1]
        if (address_size, segment_size) != (8, 0):
            raise MalformedCfiError("addresses are not 64-bit and flat")
        position += 2
    code_alignment, position = read_uleb128(body, position)
    data_alignment, position = read_sleb128(body, position)
    if version == 1:
        return_register = body[position]
        position += 1
    else:
        return_register, position = read_uleb128(body, position)

    encoding = _ENCODING_ABSOLUTE
    has_augmentation_data = augmentation.startswith(b"z")
    if has_augmentation_data:
        size, position = read_uleb128(body, position)
        if size > len(body) - position:
            raise MalformedCfiError("augmentation data is cut off")
        encoding = _pointer_encoding(augmentation[1:], body[position : position + size])
        position += size
    elif augmentation not in (b"", b"eh"):
        raise MalformedCfiError("augmentation without a length")

    info = CommonInfo(code_alignment, data_alignment, return_register)
    initial = interpret_common(body[position:], info)
    return _Cie(
        info=CommonInfo(code_alignment, data_alignment, return_register, initial),
        encoding=encoding,
        has_augmentation_data=has_augmentation_data,
        id_size=id_size,
        is_usable=_is_understood(encoding),
    )


def _pointer_encoding(letters: bytes, data: bytes) -> int:
    """How the FDEs of a CIE store addresses, from its augmentation data.

    Raises MalformedCfiError at an unknown letter: what follows can't be located.
    """
    position = 0
    for letter in letters:
        match chr(letter):
            case "R":
                return data[position]
            case "L":
                position += 1
            case "P":  # the personality routine
                form = data[position] & 0x0F
                position += 1
                if form in (_FORMAT_ULEB128, _FORMAT_SLEB128):
                    _, position = read_uleb128(data, position)
                else:
                    position += _FORMATS[form].size if form in _FORMATS else len(data)
            case "S" | "B" | "G":  # signal frame; aarch64's pointer authentication and tagging
                pass
            case _:
                raise MalformedCfiError("unknown augmentation")
    return _ENCODING_ABSOLUTE


def _is_understood(encoding: int) -> bool:
    """Whether function addresses in this encoding can be read without a running process."""
    if encoding == _ENCODING_OMIT or encoding & _ENCODING_INDIRECT:
        return False
    form, relative = encoding & 0x0F, encoding & 0x70
    known_form = form in _FORMATS or form in (_FORMAT_ULEB128, _FORMAT_SLEB128)
    return known_form and relative in (_ENCODING_ABSOLUTE, _ENCODING_PC_RELATIVE)
