"""Unwind information built by hand: instructions, records and sections (DWARF 5, 6.4)."""

from __future__ import annotations

import struct

from leaktrace.unwind.entries import FrameSection, SectionKind
from leaktrace.unwind.table import CodeSegment, UnwindSource, UnwindTable, compile_source

RBX, RBP, RSP, R10, RIP = 3, 6, 7, 10, 16


BASE = 0x400000


CODE = BASE + 0x1000


SECTION = BASE + 0x9000


FUNCTION_BYTES = 0x100


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        if value == (-1 if byte & 0x40 else 0):
            return bytes([*out, byte])
        out.append(byte | 0x80)


# Call frame instructions. Offsets are factored by -8 where DWARF says so.
def advance(delta: int) -> bytes:
    return bytes([0x40 | delta])


def def_cfa(register: int, offset: int) -> bytes:
    return b"\x0c" + uleb(register) + uleb(offset)


def def_cfa_offset(offset: int) -> bytes:
    return b"\x0e" + uleb(offset)


def def_cfa_expression(expression: bytes) -> bytes:
    return b"\x0f" + uleb(len(expression)) + expression


def offset_of(register: int, factored: int) -> bytes:
    return bytes([0x80 | register]) + uleb(factored)


def expression_of(register: int, expression: bytes) -> bytes:
    return b"\x10" + uleb(register) + uleb(len(expression)) + expression


def breg(register: int, offset: int) -> bytes:
    return bytes([0x70 + register]) + sleb(offset)


REMEMBER, RESTORE_STATE = b"\x0a", b"\x0b"


ABI = def_cfa(RSP, 8) + offset_of(RIP, 1)  # how every function begins


PLT_EXPRESSION = bytes.fromhex("7708 8000 3f1a 3b 2a 33 24 22")  # lit11


class Section:
    """Records of a frame section, one behind the other."""

    def __init__(self, kind: SectionKind = SectionKind.EH_FRAME, *, extended: int = 0) -> None:
        self.kind = kind
        self.extended = extended  # 0: 32-bit lengths, else bytes of the CIE id
        self.data = bytearray()

    def _record(self, identifier: int, body: bytes) -> int:
        at = len(self.data)
        size = self.extended or 4
        content = identifier.to_bytes(size, "little") + body
        if self.extended:
            self.data += struct.pack("<IQ", 0xFFFFFFFF, len(content)) + content
        else:
            self.data += struct.pack("<I", len(content)) + content
        return at

    def cie(
        self,
        initial: bytes = ABI,
        *,
        version: int = 1,
        augmentation: bytes = b"zR",
        augmentation_data: bytes | None = b"\x1b",
        return_register: int = RIP,
        code_alignment: int = 1,
        data_alignment: int = -8,
        extra: bytes = b"",
    ) -> int:
        """Appends a CIE; returns its offset."""
        is_eh = self.kind is SectionKind.EH_FRAME
        identifier = 0 if is_eh else (1 << 8 * (self.extended or 4)) - 1
        body = bytes([version]) + augmentation + b"\0" + extra
        body += uleb(code_alignment) + sleb(data_alignment)
        body += bytes([return_register]) if version == 1 else uleb(return_register)
        if augmentation.startswith(b"z"):
            data = augmentation_data or b""
            body += uleb(len(data)) + data
        return self._record(identifier, body + initial)

    def fde(
        self,
        cie: int,
        code: bytes = b"",
        *,
        begin: int = CODE,
        size: int = FUNCTION_BYTES,
        encoding: int = 0x1B,
        augmentation_data: bytes | None = b"",
    ) -> int:
        """Appends a FDE; returns its offset."""
        body_at = len(self.data) + (12 if self.extended else 4)
        pointer_at = body_at + (self.extended or 4)
        identifier = body_at - cie if self.kind is SectionKind.EH_FRAME else cie
        relative = begin - (SECTION + pointer_at) if encoding & 0x70 == 0x10 else begin
        body = encode(encoding, relative) + encode(encoding & 0x0F, size)
        if augmentation_data is not None:
            body += uleb(len(augmentation_data)) + augmentation_data
        return self._record(identifier, body + code)

    def end(self) -> Section:
        self.data += bytes(4)
        return self

    @property
    def frames(self) -> FrameSection:
        return FrameSection(self.kind, bytes(self.data), SECTION)


def encode(encoding: int, value: int) -> bytes:
    match encoding & 0x0F:
        case 0x01:
            return uleb(value)
        case 0x09:
            return sleb(value)
        case form:
            size = {0x00: 8, 0x02: 2, 0x03: 4, 0x04: 8, 0x0A: 2, 0x0B: 4, 0x0C: 8}[form]
            return (value % (1 << 8 * size)).to_bytes(size, "little")


def compiled(*sections: FrameSection, code_bytes: int = 0x8000) -> UnwindTable:
    source = UnwindSource(
        shown="made by hand",
        sections=sections,
        base=BASE,
        segments=(CodeSegment(CODE - BASE, CODE, code_bytes),),
    )
    return compile_source(source)
