"""Where functions begin and end, and where exceptions land in them, from .eh_frame.

An object's exception tables contain this for every function that can be unwound through, also where
symbols were stripped. PT_GNU_EH_FRAME has a table of the functions sorted by address; each entry
leads to the function's FDE, which in C++ leads to the list of its landing pads (the LSDA).
Sources: LSB Core 5.0, 10.6 (.eh_frame, .eh_frame_hdr); Itanium C++ ABI, exception handling, 7
(layout of the LSDA in gcc's unwind-pe.h and except_tab.h).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.unwind.cfi import MalformedCfiError, read_sleb128, read_uleb128

_OMITTED = 0xFF
_PC_RELATIVE, _INDIRECT = 0x10, 0x80
_TABLE_FORM = 0x3B  # relative to the header, signed 4 bytes: what every linker writes
_FORMATS = {
    0x00: struct.Struct("<Q"),
    0x02: struct.Struct("<H"),
    0x03: struct.Struct("<I"),
    0x04: struct.Struct("<Q"),
    0x0A: struct.Struct("<h"),
    0x0B: struct.Struct("<i"),
    0x0C: struct.Struct("<q"),
}
_ULEB128, _SLEB128 = 0x01, 0x09
_MAX_RECORD_BYTES = 1 << 16
_MAX_TABLE_BYTES = 1 << 20
_WORD_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class LandingPad:
    """An exception from a call at start <= address < end goes on at `vaddr`."""

    start: int
    end: int
    vaddr: int


@dataclass(frozen=True)
class Extent:
    """A function, or a separate part of one: start <= address < end."""

    start: int
    end: int
    landing_pads: tuple[LandingPad, ...] = ()


class Extents:
    """The functions of one object, read as they are requested."""

    def __init__(self, elf: ElfObject) -> None:
        self._elf = elf
        self._known: dict[int, Extent | None] = {}

    def of(self, vaddr: int) -> Extent | None:
        """The function that contains an address, None where no FDE covers it.

        Raises ObjectFileError where the tables are damaged.
        """
        starts, fdes = self._table
        index = int(np.searchsorted(starts, vaddr, side="right")) - 1
        if index < 0:
            return None
        if index not in self._known:
            try:
                self._known[index] = self._read(int(fdes[index]))
            except (MalformedCfiError, IndexError, struct.error, KeyError, ValueError) as error:
                raise ObjectFileError(
                    f"{self._elf.shown}: the exception tables are damaged", "reinstall the file"
                ) from error
        extent = self._known[index]
        return extent if extent is not None and extent.start <= vaddr < extent.end else None

    @cached_property
    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start of each function and address of its FDE, by ascending start."""
        nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        header = self._elf.eh_frame_header()
        if header is None or header.size < 12:
            return nothing
        data = self._elf.read(header.offset, header.size)
        # version, then how the pointer to .eh_frame, the count and the table are encoded
        if data[0] != 1 or data[2] != 0x03 or data[3] != _TABLE_FORM or data[1] & 0x0F != 0x0B:
            return nothing
        (count,) = struct.unpack_from("<I", data, 8)
        count = min(count, (len(data) - 12) // 8)
        pairs = np.frombuffer(data, dtype="<i4", count=count * 2, offset=12).reshape(-1, 2)
        table = pairs.astype(np.int64) + header.vaddr
        return table[:, 0], table[:, 1]

    def _bytes(self, vaddr: int, most: int) -> bytes:
        """At most `most` bytes of the file at an address."""
        for segment in self._elf.load_segments:
            left = segment.vaddr + segment.file_size - vaddr
            if segment.vaddr <= vaddr and left > 0:
                return self._elf.read_vaddr(vaddr, min(most, left))
        raise ObjectFileError(f"{self._elf.shown} has no segment at {vaddr:#x}")

    def _read(self, fde: int) -> Extent | None:
        data = self._bytes(fde, _MAX_RECORD_BYTES)
        length, back = struct.unpack_from("<II", data)
        if length in (0, 0xFFFFFFFF) or back == 0:
            return None
        cie = self._cie(fde + 4 - back)
        if cie is None:
            return None
        reader = _Reader(data[: 4 + length], fde, 8)
        start = reader.pointer(cie.address_form)
        size = reader.pointer(cie.address_form & 0x0F)
        pads: tuple[LandingPad, ...] = ()
        has_list = cie.has_augmentation and reader.uleb128() and cie.lsda_form != _OMITTED
        # Zero means none, whatever the pointer is relative to.
        if has_list and any(data[reader.position : reader.position + 4]):
            pads = self._landing_pads(reader.pointer(cie.lsda_form), start)
        return Extent(start, start + size, pads)

    def _cie(self, vaddr: int) -> _Cie | None:
        data = self._bytes(vaddr, 256)
        length, identity, version = struct.unpack_from("<IIB", data)
        if identity != 0 or version not in (1, 3):
            return None
        end = data.index(b"\0", 9)
        augmentation = data[9:end].decode("ascii", "replace")
        reader = _Reader(data[: 4 + length], vaddr, end + 1)
        reader.uleb128()  # code alignment
        reader.uleb128()  # data alignment, signed: as long
        reader.uleb128()  # return address register
        if not augmentation.startswith("z"):
            return _Cie(0, _OMITTED, has_augmentation=False)
        reader.uleb128()
        address_form, lsda_form = 0, _OMITTED
        for letter in augmentation[1:]:
            if letter == "R":
                address_form = reader.byte()
            elif letter == "L":
                lsda_form = reader.byte()
            elif letter == "P":
                reader.pointer(reader.byte() & ~_INDIRECT)
            elif letter not in "SBG":
                return None
        return _Cie(address_form, lsda_form, has_augmentation=True)

    def _landing_pads(self, vaddr: int, function: int) -> tuple[LandingPad, ...]:
        reader = _Reader(self._bytes(vaddr, _MAX_TABLE_BYTES), vaddr, 0)
        form = reader.byte()
        base = function if form == _OMITTED else reader.pointer(form)
        if reader.byte() != _OMITTED:
            reader.uleb128()  # where the caught types are
        form = reader.byte()
        end = reader.uleb128()
        end += reader.position
        pads = []
        while reader.position < end:
            start, size = reader.pointer(form), reader.pointer(form)
            pad = reader.pointer(form)
            reader.uleb128()  # the action
            if pad:
                pads.append(LandingPad(function + start, function + start + size, base + pad))
        return tuple(pads)


@dataclass(frozen=True)
class _Cie:
    address_form: int
    lsda_form: int
    has_augmentation: bool


class _Reader:
    """Reads encoded numbers, within its data.

    Raises MalformedCfiError, IndexError or struct.error.
    """

    def __init__(self, data: bytes, vaddr: int, position: int) -> None:
        self._data = data
        self._vaddr = vaddr
        self.position = position

    def byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def uleb128(self) -> int:
        value, self.position = read_uleb128(self._data, self.position)
        return value

    def pointer(self, form: int) -> int:
        """A number encoded as DW_EH_PE_* says. Raises KeyError for forms of running processes."""
        at = self._vaddr + self.position
        kind = form & 0x0F
        if kind == _ULEB128:
            value = self.uleb128()
        elif kind == _SLEB128:
            value, self.position = read_sleb128(self._data, self.position)
        else:
            stored = _FORMATS[kind]
            (value,) = stored.unpack_from(self._data, self.position)
            self.position += stored.size
        if form & 0x70 == _PC_RELATIVE:
            value += at
        elif form & 0x70:
            raise KeyError(form)
        if form & _INDIRECT:
            raise KeyError(form)
        return value & _WORD_MASK
