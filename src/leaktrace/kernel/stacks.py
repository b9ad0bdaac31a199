"""The stacks of the kernel, with names."""

from __future__ import annotations

from leaktrace.abi.common import StackEndCode
from leaktrace.analysis.builder import STACK_ENDS
from leaktrace.bpf.maps import Map
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.kernel.trim import without_allocator, without_probe
from leaktrace.site import Stack, StackEnd
from leaktrace.symbols.kallsyms import Kallsyms


def read_symbols() -> Kallsyms:
    """The kernel's symbols. Raises EnvironmentUnfitError when they can't be read."""
    try:
        return Kallsyms.read()
    except OSError as error:
        raise EnvironmentUnfitError(
            f"/proc/kallsyms can't be read: {error.strerror}",
            "it needs CONFIG_KALLSYMS=y, and root",
        ) from None


class KernelStacks:
    """Stacks by their ids; each is read and named once."""

    def __init__(self, stacks: Map, symbols: Kallsyms, *, full: bool) -> None:
        """`stacks` is the kernel side's map of stacks; `full`: keep the allocator's frames."""
        self._map = stacks
        self._symbols = symbols
        self._full = full
        self._are_fresh = True  # no module was loaded since the symbols were read, as far as known
        self._known: dict[int, Stack] = {}

    def expect_new_symbols(self) -> None:
        """Read the symbols again when a frame has no name: a module may have been loaded since."""
        self._are_fresh = False

    def stack_of(self, stack_id: int) -> Stack:
        """The stack behind an id, without the frames of leaktrace's own probes. Raises
        EnvironmentUnfitError when the symbols can't be read again."""
        known = self._known.get(stack_id)
        if known is None:
            known = self._known[stack_id] = self._read(stack_id)
        return known

    def _read(self, stack_id: int) -> Stack:
        stored = self._map.lookup(stack_id) if stack_id else None
        if stored is None:
            return Stack((), StackEnd.LOST)
        count, skipped = int(stored["frame_count"]), int(stored["skipped"])
        addresses = stored["pc"][:count].tolist()
        frames = [self._symbols.frame(a, is_return_address=True) for a in addresses]
        if any(frame.function is None for frame in frames) and not self._are_fresh:
            self._symbols = read_symbols()
            self._are_fresh = True
            frames = [self._symbols.frame(a, is_return_address=True) for a in addresses]
        if self._full:
            frames = without_probe(frames)
        elif skipped:
            frames = frames[skipped:]
        else:
            frames = without_allocator(without_probe(frames))
        return Stack(tuple(frames), STACK_ENDS[StackEndCode(int(stored["end"]))])
