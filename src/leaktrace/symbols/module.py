"""One object of the target with everything known about its addresses, found as it is needed."""

from __future__ import annotations

import os
from functools import cached_property

from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.model import Frame, SourceLine
from leaktrace.symbols.debug import DebugFile, find_debug_file, mini_symbols
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.lines import CodeLine, LineTable, has_debug_information, read_line_table
from leaktrace.symbols.names import printable
from leaktrace.symbols.options import SymbolOptions
from leaktrace.symbols.table import RawSymbols, SymbolTable
from leaktrace.target.root import TargetRoot
from leaktrace.unwind.fingerprint import fingerprint

SIGNAL_FRAME = "<signal handler called>"  # as gdb shows it

# What a signal handler returns to: rt_sigreturn(2) in libc or the vDSO. libgcc knows it by its
# instructions too (MD_FALLBACK_FRAME_STATE_FOR, libgcc/config/{i386,aarch64}/linux-unwind.h).
_SIGNAL_TRAMPOLINES = {
    "EM_X86_64": bytes.fromhex("48c7c00f000000 0f05"),  # mov $15, %rax; syscall
    "EM_AARCH64": bytes.fromhex("681180d2 010000d4"),  # mov x8, 139; svc 0
}


class Module:
    """An object file, its symbols, its debug file and its lines.

    The object is open from the start; the rest is read at the first address looked up in it.
    `problem` says why there are no lines, "" where there are.
    """

    def __init__(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], options: SymbolOptions
    ) -> None:
        self.elf = elf
        self.path = path  # as the target sees it
        self.shown = printable(path)
        self.problem = ""
        self.fingerprint = fingerprint(elf)
        self._roots = roots
        self._options = options

    def frames(self, address: int, vaddr: int, is_return_address: bool) -> tuple[Frame, ...]:
        """The frames at a virtual address of the file, which lies at `address` in memory.

        Innermost inlined function first, the physical frame last.
        """
        if self._is_signal_trampoline(vaddr):
            return (self._frame(address, vaddr, SIGNAL_FRAME, 0, None),)
        wanted = vaddr - 1 if is_return_address else vaddr
        lines = self._lines.lookup(wanted) if self._lines else ()
        physical = lines[-1] if lines else None
        symbol = self._symbols.lookup(wanted)
        function, offset, unknown = None, 0, None
        if symbol is None and is_return_address and not lines:
            # No call: put on the stack for a function to end in, as makecontext(3) does.
            planted = self._symbols.lookup(vaddr)
            if planted and planted.offset == 0:
                symbol, wanted = planted, vaddr
        if symbol:
            function = demangle(symbol.name)
            offset = symbol.offset + (vaddr - wanted)
        elif physical and physical.function and physical.source:
            function = demangle(physical.function)
            offset = vaddr - physical.start if physical.start is not None else 0
        else:
            unknown = self._why_unknown()
        inlined = [
            self._inlined_frame(address, vaddr, line)
            for line in lines[:-1]
            if self._options.inlines
        ]
        source = self._physical_source(lines)
        last = self._frame(address, vaddr, function, offset, source, unknown=unknown)
        return (*inlined, last)

    def _is_signal_trampoline(self, vaddr: int) -> bool:
        """Whether a frame at this address was made by the kernel to call a signal handler.

        The address is that of an instruction then, although it stands where return addresses do.
        """
        code = _SIGNAL_TRAMPOLINES.get(self.elf.machine)
        offset = self.elf.vaddr_to_offset(vaddr)
        if code is None or offset is None or offset + len(code) > self.elf.file_size:
            return False
        return self.elf.read(offset, len(code)) == code

    def _inlined_frame(self, address: int, vaddr: int, line: CodeLine) -> Frame:
        if line.function:
            name = demangle(line.function)
            return self._frame(address, vaddr, name, 0, line.source, inlined=True)
        unknown = "inlined; its debug information has no name for it"
        return self._frame(address, vaddr, None, 0, line.source, inlined=True, unknown=unknown)

    def _physical_source(self, lines: tuple[CodeLine, ...]) -> SourceLine | None:
        """The call in the function itself; without inlined frames, the line the code is from."""
        if not lines:
            return None
        return lines[-1].source if self._options.inlines else lines[0].source

    def _frame(
        self,
        address: int,
        vaddr: int,
        function: str | None,
        offset: int,
        source: SourceLine | None,
        *,
        inlined: bool = False,
        unknown: str | None = None,
    ) -> Frame:
        return Frame(
            address=address,
            function=function,
            offset=offset,
            module=self.shown,
            module_offset=vaddr,
            build_id=self.build_id,
            source=source,
            inlined=inlined,
            unknown=unknown,
        )

    @cached_property
    def build_id(self) -> str | None:
        return self.elf.build_id

    @cached_property
    def _debug_file(self) -> DebugFile:
        try:
            return find_debug_file(self.elf, self.path, self._roots, self._options)
        except ObjectFileError as error:
            return DebugFile(None, error.message)

    @cached_property
    def _symbols(self) -> SymbolTable:
        """Function symbols of the object, its .gnu_debugdata and its debug file together."""
        if fingerprint(self.elf) != self.fingerprint:
            raise ObjectFileError("its file has been written over")
        tables: list[RawSymbols] = []
        sources = [self.elf]
        if not self.elf.has_symbol_table():
            extra = self._debug_file.elf if self._debug_file.elf is not self.elf else None
            sources += [extra] if extra else self._mini_symbols()
        for source in sources:
            try:
                tables += source.symbol_tables()
            except ObjectFileError as error:
                self.problem = self.problem or error.message
        return SymbolTable(tables, self.elf.code_ranges())

    def _mini_symbols(self) -> list[ElfObject]:
        try:
            mini = mini_symbols(self.elf)
        except ObjectFileError as error:
            self.problem = error.message
            return []
        return [mini] if mini else []

    @cached_property
    def _lines(self) -> LineTable | None:
        if not self._options.lines and not self._options.inlines:
            return None
        debug = self._debug_file
        if debug.elf is None:
            self.problem = f"no debug information: {debug.problem}"
            return None
        if not has_debug_information(debug.elf):
            self.problem = f"no debug information in {debug.elf.shown}"
            return None
        try:
            self.problem = _missing_part(debug.elf)
            return read_line_table(debug.elf, self._options.debug_timeout_s)
        except ObjectFileError as error:
            self.problem = error.message
            return None

    def _why_unknown(self) -> str:
        if self.elf.has_symbol_table():
            return "no symbol covers it"
        if self._debug_file.elf and self._debug_file.elf is not self.elf:
            return "no symbol of its debug file covers it"
        return "stripped, and no debug file found"  # `problem` has the details


def _missing_part(elf: ElfObject) -> str:
    """What of its debug information is in files that aren't read; "" where nothing is."""
    link = elf.section(".gnu_debugaltlink")  # dwz(1), DWARF 5 "supplementary object file"
    if link:
        name = printable(os.fsdecode(link[0].split(b"\0", 1)[0]))
        return f"some inlined functions have no name: it is in {name} (dwz), which is not read"
    for name in (".debug_str", ".debug_line_str"):
        found = elf.section(name)
        if found and b".dwo\0" in found[0]:  # DW_AT_dwo_name; DWARF 5, 7.3.2
            return (
                "compiled with -gsplit-dwarf: inlined functions, which only the .dwo files name, "
                "are not shown; compile without it to see them"
            )
    return ""
