"""One object of the target with everything known about its addresses, found as it is needed."""

from __future__ import annotations

from functools import cached_property

from leaktrace.arch.machines import OF_ELF
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols, SymbolTable
from leaktrace.errors import ObjectFileError
from leaktrace.model import Frame, SourceLine
from leaktrace.printable import printable
from leaktrace.symbols.debug import mini_symbols
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.information import DebugInformation, Known, Means
from leaktrace.symbols.lines import CodeLine
from leaktrace.symbols.lookups import Lookup
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.fingerprint import fingerprint

SIGNAL_FRAME = "<signal handler called>"  # as gdb shows it

# Half a million symbols take half a second to be sorted; and a report waits for all objects.
_MANY_SYMBOL_BYTES = 8 << 20


class Module:
    """An object file, its symbols, its debug file and its lines.

    The object is open from the start; the rest is read at the first address looked up in it, its
    debug information beside (information.py): frames have what is known by then.
    """

    def __init__(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], means: Means
    ) -> None:
        self.elf = elf
        self.path = path  # as the target sees it
        self.shown = printable(path)
        self.fingerprint = fingerprint(elf)
        self._means = means
        self._debug = DebugInformation(elf, path, roots, means)
        self._is_asked = False
        self._symbol_problem = ""
        self._is_reading = False  # its own symbols, in another thread
        self._late_symbols: SymbolTable | None = None

    def frames(self, address: int, vaddr: int, is_return_address: bool) -> tuple[Frame, ...]:
        """The frames at a virtual address of the file, which lies at `address` in memory.

        Innermost inlined function first, the physical frame last.
        """
        if self._is_signal_trampoline(vaddr):
            return (self._frame(address, vaddr, SIGNAL_FRAME, 0, None),)
        wanted = vaddr - 1 if is_return_address else vaddr
        known = self._known()
        lines = known.lines.lookup(wanted) if known and known.lines else ()
        physical = lines[-1] if lines else None
        table = known.symbols if known and known.symbols else self._own_symbols()
        symbol = table.lookup(wanted) if table else None
        function, offset, unknown = None, 0, None
        if symbol is None and is_return_address and not lines:
            # No call: put on the stack for a function to end in, as makecontext(3) does.
            planted = table.lookup(vaddr) if table else None
            if planted and planted.offset == 0:
                symbol, wanted = planted, vaddr
        if symbol:
            function = demangle(symbol.name)
            offset = symbol.offset + (vaddr - wanted)
        elif physical and physical.function and physical.source:
            function = demangle(physical.function)
            offset = vaddr - physical.start if physical.start is not None else 0
        else:
            unknown = self._why_unknown(known)
        inlined = [
            self._inlined_frame(address, vaddr, line)
            for line in lines[:-1]
            if self._means.options.inlines
        ]
        source = self._physical_source(lines)
        last = self._frame(address, vaddr, function, offset, source, unknown=unknown)
        return (*inlined, last)

    def look_ahead(self) -> None:
        """Begin to look up, beside, what an address will be asked for."""
        if self._wants_debug:
            self._known()
        if self.elf.has_symbol_table() and self._has_many_symbols:
            self._own_symbols()

    def _is_signal_trampoline(self, vaddr: int) -> bool:
        """Whether a frame at this address was made by the kernel to call a signal handler.

        The address is that of an instruction then, although it stands where return addresses do.
        """
        machine = OF_ELF.get(self.elf.machine)
        code = machine.signal_trampoline if machine is not None else None
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
        return lines[-1].source if self._means.options.inlines else lines[0].source

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
    def identity(self) -> tuple[str, int]:
        """The same for the same file, whatever it is called; of one without a build-id, for one of
        the same layout at the same path."""
        return (self.build_id or self.path, self.fingerprint)

    @cached_property
    def build_id(self) -> str | None:
        return self.elf.build_id

    def _known(self) -> Known | None:
        """What debug information has to say so far; None where it isn't wanted."""
        self._is_asked = True
        return self._debug.known() if self._wants_debug else None

    @cached_property
    def _wants_debug(self) -> bool:
        asked = self._means.options
        return asked.lines or asked.inlines or not self.elf.has_symbol_table()

    @property
    def problem(self) -> str:
        """Why there are no lines, or names; "" where there are."""
        wants_lines = self._means.options.lines or self._means.options.inlines
        known = self._debug.known() if self._is_asked and wants_lines else None
        return (known.problem if known else "") or self._symbol_problem

    def _own_symbols(self) -> SymbolTable | None:
        """Those of the object; None while very many are being read."""
        if not self._has_many_symbols:
            return self._symbols
        if not self._is_reading:
            self._is_reading = True
            self._means.lookups.start(self._read_symbols)
        return self._late_symbols

    @cached_property
    def _has_many_symbols(self) -> bool:
        kinds = ("SHT_SYMTAB", "SHT_DYNSYM")
        tables = (one for one in self.elf.sections if one.type in kinds and one.has_contents)
        return sum(table.size for table in tables) > _MANY_SYMBOL_BYTES

    def _read_symbols(self, lookup: Lookup) -> None:
        """In another thread."""
        self._means.lookups.may_take_long(lookup, f"the symbols of {self.shown}")
        try:
            self._late_symbols = self._symbols
        except ObjectFileError as error:
            self._symbol_problem = error.message

    @cached_property
    def _symbols(self) -> SymbolTable:
        """Function symbols of the object and, where it has none of its own, of its
        .gnu_debugdata."""
        if fingerprint(self.elf) != self.fingerprint:
            raise ObjectFileError("its file has been written over")
        tables = [*self._tables_of(self.elf)]
        if not self.elf.has_symbol_table():
            tables += self._mini_symbols()
        return SymbolTable(tables, self.elf.code_ranges())

    def _tables_of(self, elf: ElfObject) -> tuple[RawSymbols, ...]:
        try:
            return elf.symbol_tables()
        except ObjectFileError as error:
            self._symbol_problem = self._symbol_problem or error.message
            return ()

    def _mini_symbols(self) -> tuple[RawSymbols, ...]:
        try:
            mini = mini_symbols(self.elf)
        except ObjectFileError as error:
            self._symbol_problem = self._symbol_problem or error.message
            return ()
        return self._tables_of(mini) if mini else ()

    def _why_unknown(self, known: Known | None) -> str:
        if self._has_many_symbols and self._late_symbols is None:
            return self._symbol_problem or "its symbols are being read"
        if self.elf.has_symbol_table():
            return "no symbol covers it"
        if known and known.file:
            return "no symbol of its debug file covers it"
        if known and known.is_sought:
            return "stripped, and its debug file is being looked for"
        return "stripped, and no debug file found"  # `problem` has the details
