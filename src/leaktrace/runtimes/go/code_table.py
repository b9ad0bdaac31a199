"""What the Go runtime's table says about an address: function, file and line, also of functions
that were inlined there, and how much the function has on the stack.

It has all of them in stripped programs, too. Addresses are virtual ones of the file. Sources:
runtime/symtab.go (funcInfo, pcvalue, funcline1), runtime/symtabinl.go (inlineUnwinder).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.go_report import GoLine
from leaktrace.runtimes.go.functions import FLAGS_AT, GoFlag, GoFunctions, functions_of
from leaktrace.runtimes.go.layouts import layout_of
from leaktrace.runtimes.go.object_file import MAGIC_1_18, GoObject
from leaktrace.runtimes.go.values import value_at
from leaktrace.runtimes.go.version import GoVersion, read_version

_MAX_INLINED = 64  # functions inlined into each other
_MAX_NAME_BYTES = 4096
_MAX_TABLES = 64  # of one function: there are about 5 kinds
_INLINE_INDEX = 2  # which of a function's tables says what was inlined where
_INLINE_TREE = 3  # which of its constants is about inlined functions
_NO_FILE = _NO_CONSTANT = 0xFFFFFFFF
_PREFIX = struct.Struct("<16xIIIII")  # pcsp, pcfile, pcln, npcdata, cuOffset
# struct inlinedCall up to Go 1.19, and since: its size, where funcname, parentPc and funcID are
_INLINED_1_18, _INLINED_1_20 = (20, 12, 16, 2), (16, 4, 8, 0)
_CACHED = 1 << 16


@dataclass(frozen=True)
class _Described:
    """A function, from its description (struct _func)."""

    start: int
    name: str
    files: int  # where its table of files is, and so on
    lines: int
    inline_indices: int
    inline_tree: int | None  # from where such data begins (gofunc)
    unit: int
    kind: int


class CodeTable:
    """The table of one object."""

    def __init__(
        self, found: GoObject, functions: GoFunctions, version: GoVersion, inlines_vaddr: int
    ) -> None:
        self.functions = functions
        self.version = version
        self.found = found
        self._inlines_vaddr = inlines_vaddr
        self._flags_at = FLAGS_AT[found.data[:4]]
        self._inlined_call = _INLINED_1_18 if found.data[:4] == MAGIC_1_18 else _INLINED_1_20
        # By address: goroutines have few different ones.
        self.lines = lru_cache(_CACHED)(self._lines)
        self.frame_size = lru_cache(_CACHED)(self._frame_size)
        self._described = lru_cache(_CACHED)(self._describe)

    @classmethod
    def of(cls, found: GoObject, version: GoVersion) -> CodeTable | None:
        """None where the table is damaged. Raises ObjectFileError."""
        try:
            functions = functions_of(found)
            if functions is None:
                return None
            inlines = 0
            if found.module_vaddr:
                inlines = found.module_word(layout_of(version.minor).module_inlines)
        except struct.error:
            return None
        return cls(found, functions, version, inlines)

    def named(self, name: str) -> tuple[int, int] | None:
        """The start and end of the function of a name; None if there is none."""
        index = self.functions.named(name)
        if index is None:
            return None
        start, end = self.functions.starts[index : index + 2].tolist()
        return start, end

    def function_at(self, vaddr: int) -> tuple[str, int] | None:
        """The name and start of the function at an address."""
        index = self.functions.index_of(vaddr)
        function = None if index is None else self._described(index)
        return (function.name, function.start) if function else None

    def _frame_size(self, vaddr: int) -> int | None:
        """How many bytes there are on the stack, at an instruction, above which the return address
        is: 0 where a stack ends, and None where that isn't known."""
        index = self.functions.index_of(vaddr)
        if index is None:
            return None
        start, at = int(self.functions.starts[index]), int(self.functions.stack_sizes[index])
        size = value_at(self.functions.tables, at, vaddr - start)
        return size if size is not None and size >= 0 and size % 8 == 0 else None

    def ends_stack(self, vaddr: int) -> bool:
        """Whether stacks end in the function at an address."""
        index = self.functions.index_of(vaddr)
        return index is None or bool(self.functions.flags[index] & GoFlag.TOP_FRAME)

    def _lines(self, vaddr: int) -> tuple[GoLine, ...]:
        """The lines of an instruction: the innermost inlined function first, the function that has
        the instruction last. () outside of functions."""
        index = self.functions.index_of(vaddr)
        function = None if index is None else self._described(index)
        if function is None:
            return ()
        distance, found = vaddr - function.start, []
        for _ in range(_MAX_INLINED):
            call = self._inlined(function, distance)
            if call is None:
                break
            name, parent_distance, kind = call
            line = GoLine(name, *self._source(function, distance), is_inlined=True)
            found.append(replace(line, is_wrapper=self._is_wrapper(kind)))
            distance = parent_distance
        last = GoLine(function.name, *self._source(function, distance))
        is_wrapper = self._is_wrapper(function.kind)
        return (*found, replace(last, is_wrapper=is_wrapper, start=function.start))

    def _is_wrapper(self, kind: int) -> bool:
        return kind > 0 and kind == self.functions.wrapper_kind

    def _describe(self, index: int) -> _Described | None:
        data, at = self.found.data, int(self.functions.described_at[index])
        try:
            _, files, lines, table_count, unit = _PREFIX.unpack_from(data, at)
            constant_count = data[at + self._flags_at + 2]
            if table_count > _MAX_TABLES:
                return None
            at += self._flags_at + 3
            tables = struct.unpack_from(f"<{table_count}I", data, at)
            constants = struct.unpack_from(f"<{constant_count}I", data, at + 4 * table_count)
        except (struct.error, IndexError):
            return None
        tree = constants[_INLINE_TREE] if constant_count > _INLINE_TREE else _NO_CONSTANT
        return _Described(
            start=int(self.functions.starts[index]),
            name=self._name(int(self.functions.name_offsets[index])),
            files=files,
            lines=lines,
            inline_indices=tables[_INLINE_INDEX] if table_count > _INLINE_INDEX else 0,
            inline_tree=None if tree == _NO_CONSTANT else tree,
            unit=unit,
            kind=int(self.functions.kinds[index]),
        )

    def _inlined(self, function: _Described, distance: int) -> tuple[str, int, int] | None:
        """The innermost inlined function at an instruction, the distance of an instruction whose
        line is that of the call, and the kind of the function."""
        if not self._inlines_vaddr or function.inline_tree is None:
            return None
        index = value_at(self.functions.tables, function.inline_indices, distance)
        if index is None or index < 0:
            return None
        size, name_at, parent_at, kind_at = self._inlined_call
        at = self._inlines_vaddr + function.inline_tree + index * size
        try:
            raw = self.found.elf.read_vaddr(at, size)
        except ObjectFileError:
            return None
        (name,), (parent,) = (
            struct.unpack_from("<i", raw, where) for where in (name_at, parent_at)
        )
        if name <= 0 or parent < 0:
            return None
        return self._name(name), parent, raw[kind_at]

    def _source(self, function: _Described, distance: int) -> tuple[str, int]:
        tables, header, data = self.functions.tables, self.found.header, self.found.data
        number = value_at(tables, function.files, distance)
        line = value_at(tables, function.lines, distance)
        if number is None or number < 0 or line is None or line <= 0:
            return "", 0
        at = header.units_at + 4 * (function.unit + number)
        if at + 4 > header.files_at:
            return "", 0
        (file_at,) = struct.unpack_from("<I", data, at)
        if file_at == _NO_FILE or header.files_at + file_at >= header.values_at:
            return "", 0
        name = _text(data, header.files_at + file_at, header.values_at)
        return (name, line) if name else ("", 0)

    def _name(self, offset: int) -> str:
        return _text(self.functions.names, offset, len(self.functions.names))


def read_code_table(elf: ElfObject) -> CodeTable | None:
    """The table of an object; None in one that isn't Go's, or is damaged. It reads from `elf`: keep
    that open. Raises ObjectFileError."""
    found = GoObject.find(elf)
    if found is None:
        return None
    return CodeTable.of(found, read_version(elf) or GoVersion("", None))


def _text(data: bytes, at: int, end: int) -> str:
    """A string that ends in a zero; "" outside of its part."""
    if not 0 <= at < end:
        return ""
    stop = data.find(b"\0", at, min(end, at + _MAX_NAME_BYTES))
    return data[at : stop if stop >= 0 else at].decode("utf-8", "surrogateescape")
