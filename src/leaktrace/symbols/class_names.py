"""The C++ class of an object, from the vtable that its first word points to.

Every object with virtual functions begins with a pointer into the vtable of its class. The word
before that address points to the class's typeinfo, whose second word points to the mangled name
(Itanium C++ ABI, 2.5.2 and 2.9.5). dynamic_cast and exceptions need all this at run time, so it is
there in stripped binaries, too, unless they were compiled with -fno-rtti.

    object -> | vtable | …        …, offset to top, typeinfo, | functions …
                  └───────────────────────────────────────────┘
    typeinfo -> | vtable of __class_type_info | name | …

A typeinfo is an object with a vtable itself, of one of three classes. That is what tells it from
any other word.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.printable import printable
from leaktrace.symbols.demangle import MAX_NAME, demangle
from leaktrace.targets.file_memory import of_files
from leaktrace.targets.mappings import Mapping

WORD_BYTES = 8
MOST_CLASSES = 10_000  # by one call of `classes_of`
_MOST_KNOWN = 65_536  # addresses that are remembered
_PAGE_BYTES = 4096
# An object is not larger than that before the part that the vtable is for.
_MOST_TO_TOP = 1 << 30
# The classes of the typeinfo of a class: without bases, with one, with others.
_TYPEINFO_CLASSES = frozenset(
    f"N10__cxxabiv1{name}E"
    for name in ("17__class_type_info", "20__si_class_type_info", "21__vmi_class_type_info")
)
# A class: its length and name, or nested, local to a function, or of the standard library ("So" is
# std::ostream). "*" before it says that the name is compared by address. They may have UTF-8.
_NAME = re.compile(rb"\*?((?:[1-9NZ]|St[1-9]|S[absiod]I)[\w$.\x80-\xff]+|S[absiod])", re.ASCII)
_SAID_BEFORE = "typeinfo name for "


class ClassNames:
    """The classes of one process."""

    def __init__(self, read: Callable[[int, int], bytes], mappings: Sequence[Mapping]) -> None:
        """`read(address, size)`: at most `size` bytes of its memory within one page, b"" if there
        are none; `mappings`: by ascending address."""
        self._read = read
        # The linker may have copied the vtable of a library into .bss (R_X86_64_COPY).
        ranges = of_files(mappings)
        self._starts = np.array([start for start, _ in ranges], dtype=np.uint64)
        self._ends = np.array([end for _, end in ranges], dtype=np.uint64)
        self._known: dict[int, str | None] = {}

    def of_vtable(self, address: int) -> str | None:
        """The class whose vtable an object's first word points to, as it is written in source code,
        printable; None if it is not one."""
        if address not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[address] = self._class_at(address)
        return self._known[address]

    def classes_of(self, words: NDArray[np.uint64]) -> dict[int, str]:
        """The classes of objects with these first words, by word. If there are too many different
        ones, the most frequent are looked up."""
        words, counts = np.unique(words[self._are_in_files(words)], return_counts=True)
        words = words[np.argsort(-counts, kind="stable")[:MOST_CLASSES]]
        found = ((word, self.of_vtable(word)) for word in words.tolist())
        return {word: name for word, name in found if name is not None}

    def _class_at(self, vtable: int) -> str | None:
        to_top = self._word(vtable - 2 * WORD_BYTES)
        # Zero, but for the part of an object that is a base class: then where the object begins.
        if to_top is None or -to_top % (1 << 64) > _MOST_TO_TOP:
            return None
        mangled = self._mangled(vtable)
        if mangled is None:
            return None
        typeinfo = self._word(vtable - WORD_BYTES)
        of_typeinfo = None if typeinfo is None else self._word(typeinfo)
        if of_typeinfo is None or self._mangled(of_typeinfo) not in _TYPEINFO_CLASSES:
            return None
        name = demangle("_ZTS" + mangled)
        is_known = name.startswith(_SAID_BEFORE)
        return name.removeprefix(_SAID_BEFORE) if is_known else printable(mangled)

    def _mangled(self, vtable: int) -> str | None:
        typeinfo = self._word(vtable - WORD_BYTES)
        name = None if typeinfo is None else self._word(typeinfo + WORD_BYTES)
        if not name:
            return None
        match = _NAME.fullmatch(self._text(name))
        return None if match is None else match[1].decode("utf-8", "surrogateescape")

    def _word(self, address: int) -> int | None:
        """A word of a file's memory."""
        if address % WORD_BYTES or not self._is_in_file(address):
            return None
        data = self._read(address, WORD_BYTES)
        return struct.unpack("<Q", data)[0] if len(data) == WORD_BYTES else None

    def _text(self, address: int) -> bytes:
        """The bytes before the next zero; b"" if that is too far away, or in no file."""
        found = b""
        while len(found) < MAX_NAME and self._is_in_file(address):
            size = min(_PAGE_BYTES - address % _PAGE_BYTES, 256)
            data = self._read(address, size)
            text, zero, _ = data.partition(b"\0")
            found += text
            if zero:
                return found if len(found) < MAX_NAME - len("_ZTS") else b""
            if len(data) < size:
                break
            address += size
        return b""

    def _is_in_file(self, address: int) -> bool:
        if not 0 < address < 1 << 64:
            return False
        return bool(self._are_in_files(np.array([address], dtype=np.uint64))[0])

    def _are_in_files(self, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._starts):
            return np.zeros(len(addresses), dtype=np.bool_)
        at = np.searchsorted(self._starts, addresses, side="right") - 1
        is_in: NDArray[np.bool_] = (at >= 0) & (addresses < self._ends[at])
        return is_in
