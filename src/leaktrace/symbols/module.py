"""One object of the target: names and lines for its addresses, read when they are first needed."""

from __future__ import annotations

from functools import cached_property

from leaktrace.arch.machines import OF_ELF
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols, SymbolTable
from leaktrace.errors import ObjectFileError
from leaktrace.printable import printable
from leaktrace.runtimes.go.code_table import CodeTable, read_code_table
from leaktrace.runtimes.go.object_file import is_go
from leaktrace.site import Frame, SourceLine
from leaktrace.symbols.debug_files import mini_symbols
from leaktrace.symbols.debug_information import DebugData, DebugInformation, LookupContext
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.lines import CodeLine
from leaktrace.symbols.lookups import Lookup
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.fingerprint import fingerprint

SIGNAL_FRAME = "<signal handler called>"  # as gdb shows it

# Sorting half a million symbols takes half a second, and a report waits for all objects.
_MANY_SYMBOL_BYTES = 8 << 20


class Module:
    """An object file, its symbols, its debug file and its lines.

    The object is open from the start. The rest is read when the first address is looked up in it;
    debug information is read in the background (debug_information.py), and frames contain what has
    arrived so far.
    """

    def __init__(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], context: LookupContext
    ) -> None:
        self.elf = elf
        self.path = path  # as the target sees it
        self.shown = printable(path)
        self.fingerprint = fingerprint(elf)
        self._context = context
        self._debug = DebugInformation(elf, path, roots, context)
        self._was_used = False  # an address was looked up
        self._symbol_problem = ""
        self._is_reading_symbols = False  # in another thread
        self._late_symbols: SymbolTable | None = None

    def frames(self, address: int, vaddr: int, is_return_address: bool) -> tuple[Frame, ...]:
        """The frames at a virtual address of the file, which is `address` in the process.

        Innermost inlined function first, the physical frame last. Raises ObjectFileError.
        """
        if self._is_signal_trampoline(vaddr):
            return (self._frame(address, vaddr, SIGNAL_FRAME, 0, None),)
        lookup_vaddr = vaddr - 1 if is_return_address else vaddr
        debug = self._debug_data()
        lines = debug.lines.lookup(lookup_vaddr) if debug and debug.lines else ()
        lines = lines or self._go_lines(lookup_vaddr)
        physical = lines[-1] if lines else None
        table = debug.symbols if debug and debug.symbols else self._own_symbols()
        symbol = table.lookup(lookup_vaddr) if table else None
        function, offset, unknown = None, 0, None
        if symbol is None and is_return_address and not lines:
            # Not after a call: makecontext(3) and others put the address of a function on the stack
            # for another function to return to.
            planted = table.lookup(vaddr) if table else None
            if planted and planted.offset == 0:
                symbol, lookup_vaddr = planted, vaddr
        if symbol:
            function = demangle(symbol.name)
            offset = symbol.offset + (vaddr - lookup_vaddr)
        elif physical and physical.function and physical.source:
            function = demangle(physical.function)
            offset = vaddr - physical.start if physical.start is not None else 0
        else:
            unknown = self._why_unknown(debug)
        inlined = [
            self._inlined_frame(address, vaddr, line)
            for line in lines[:-1]
            if self._context.options.inlines
        ]
        source = self._physical_source(lines)
        last = self._frame(address, vaddr, function, offset, source, unknown=unknown)
        return (*inlined, last)

    def look_ahead(self) -> None:
        """Begin to read, in the background, what a lookup will need."""
        if self._wants_debug:
            self._debug_data()
        if self.elf.has_symbol_table() and self._has_many_symbols:
            self._own_symbols()

    def _is_signal_trampoline(self, vaddr: int) -> bool:
        """Whether the kernel made a frame at this address to call a signal handler.

        The address is that of an instruction then, although it is in place of a return address.
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
        """The line of the call in the function itself; if inlined frames aren't shown, the line
        that the code comes from."""
        if not lines:
            return None
        return lines[-1].source if self._context.options.inlines else lines[0].source

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
            source=source if self._context.options.lines else None,
            inlined=inlined,
            unknown=unknown,
        )

    @cached_property
    def identity(self) -> tuple[str, int]:
        """Equal for the same file, whatever its path. Without a build ID, equal for files of the
        same layout at the same path."""
        return (self.build_id or self.path, self.fingerprint)

    @cached_property
    def build_id(self) -> str | None:
        return self.elf.build_id

    def _debug_data(self) -> DebugData | None:
        """The debug information so far; None when it isn't needed."""
        self._was_used = True
        return self._debug.so_far() if self._wants_debug else None

    @cached_property
    def _wants_debug(self) -> bool:
        options = self._context.options
        return options.lines or options.inlines or not self.elf.has_symbol_table()

    @property
    def problem(self) -> str:
        """Why there are no lines, or no names; "" if there are."""
        wants_lines = self._context.options.lines or self._context.options.inlines
        debug = self._debug.so_far() if self._was_used and wants_lines else None
        if debug and self._go_table:
            return self._symbol_problem
        return (debug.problem if debug else "") or self._symbol_problem

    def _own_symbols(self) -> SymbolTable | None:
        """The symbols of the object; None while a large table is being read."""
        if not self._has_many_symbols:
            return self._symbols
        if not self._is_reading_symbols:
            self._is_reading_symbols = True
            self._context.lookups.start(self._read_symbols)
        return self._late_symbols

    @cached_property
    def _has_many_symbols(self) -> bool:
        kinds = ("SHT_SYMTAB", "SHT_DYNSYM")
        tables = (one for one in self.elf.sections if one.type in kinds and one.has_contents)
        return sum(table.size for table in tables) > _MANY_SYMBOL_BYTES

    def _read_symbols(self, lookup: Lookup) -> None:
        """Runs in another thread."""
        self._context.lookups.may_take_long(lookup, f"the symbols of {self.shown}")
        try:
            self._late_symbols = self._symbols
        except ObjectFileError as error:
            self._symbol_problem = error.message

    @cached_property
    def _symbols(self) -> SymbolTable:
        """The function symbols of the object and, if it has no .symtab, of its .gnu_debugdata and
        of the table of the Go runtime.

        Raises ObjectFileError.
        """
        if fingerprint(self.elf) != self.fingerprint:
            raise ObjectFileError("its file has been overwritten")
        tables = [*self._tables_of(self.elf)]
        if not self.elf.has_symbol_table():
            tables += self._mini_symbols()
            tables += [self._go_table.functions.symbols()] if self._go_table else []
        return SymbolTable(tables, self.elf.code_ranges())

    @cached_property
    def _go_table(self) -> CodeTable | None:
        """The table of the Go runtime, None where there is none that can be read."""
        try:
            is_same = is_go(self.elf) and fingerprint(self.elf) == self.fingerprint
            return read_code_table(self.elf) if is_same else None
        except ObjectFileError:
            return None

    def _go_lines(self, vaddr: int) -> tuple[CodeLine, ...]:
        """The lines of Go code, which has them without debug information, too."""
        options = self._context.options
        if not (options.lines or options.inlines) or self._go_table is None:
            return ()
        function = self._go_table.function_at(vaddr)
        return tuple(
            CodeLine(
                function=line.function,
                source=SourceLine(printable(line.file), line.line) if line.file else None,
                start=function[1] if function and not line.is_inlined else None,
            )
            for line in self._go_table.lines(vaddr)
        )

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

    def _why_unknown(self, debug: DebugData | None) -> str:
        if self._has_many_symbols and self._late_symbols is None:
            return self._symbol_problem or "its symbols are being read"
        if self.elf.has_symbol_table():
            return "no symbol covers it"
        if debug and debug.file:
            return "no symbol of its debug file covers it"
        if debug and debug.is_pending:
            return "stripped, and its debug file is being looked up"
        return "stripped, and no debug file found"  # `problem` has the details
