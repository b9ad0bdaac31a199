"""Names for groups of blocks: the class of C++ objects, the text that strings have in common, the
place in a file that others point to."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.contents.text import texts_in
from leaktrace.heap.beginnings import Beginning
from leaktrace.heap_report import GroupKind
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage

_MOST_SAMPLES = 200
_SAMPLE_BYTES = 80
_LEAST_COMMON = 4  # characters
# Characters, with a zero behind them: the bytes of an address make six by chance, and in random
# data any number follows each other.
_LEAST_FOUND = 8
_MOST_SEARCHED = 16  # blocks for a text
_SEARCHED_BYTES = 256  # of each

_KINDS = {
    Beginning.OTHER: GroupKind.OTHER,
    Beginning.ZERO: GroupKind.ZERO,
    Beginning.BLOCK: GroupKind.BLOCK,
    Beginning.FILE: GroupKind.FILE,
    Beginning.TEXT: GroupKind.TEXT,
}


class Namer:
    """Names groups, from what was read of the process."""

    def __init__(
        self,
        image: MemoryImage,
        mappings: Sequence[Mapping],
        class_of_vtable: Callable[[int], str | None],
    ) -> None:
        """`mappings` by ascending address."""
        self._image = image
        self._class_of_vtable = class_of_vtable
        self._mappings = mappings
        self._starts = [one.start for one in mappings]

    def name(self, kind: Beginning, key: int, blocks: NDArray[np.uint64]) -> tuple[GroupKind, str]:
        """What a group is, and its name. `key`: as of Grouped; `blocks`: the addresses of some."""
        if kind is Beginning.FILE:
            class_name = self._class_of_vtable(key)
            if class_name is not None:
                return GroupKind.CLASS, class_name
            return GroupKind.FILE, self._place(key)
        if kind is Beginning.TEXT:
            return GroupKind.TEXT, self._text(blocks)
        return _KINDS[kind], ""

    def text_in(self, blocks: NDArray[np.uint64], size: int) -> str:
        """A text that is in one of some blocks, of at most that size."""
        step = max(len(blocks) // _MOST_SEARCHED, 1)
        for address in blocks[::step].tolist()[:_MOST_SEARCHED]:
            data = self._image.read(address, min(size, _SEARCHED_BYTES))
            for found in texts_in(data):
                end = found.offset + found.size
                if len(found.text) >= _LEAST_FOUND and data[end : end + 1] == b"\0":
                    return found.text
        return ""

    def _place(self, address: int) -> str:
        """The file and the offset in it."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._mappings[at].end:
            return ""
        mapping = self._mappings[at]
        if mapping.is_file:
            offset = address - mapping.start + mapping.offset
            return f"{os.path.basename(mapping.path)}+{offset:#x}"  # noqa: PTH119 (bytes as they are)
        # The data behind that of a file, which has no contents there (.bss).
        before = next((one for one in reversed(self._mappings[:at]) if one.is_file), None)
        if before is None:
            return ""
        return f".bss of {os.path.basename(before.path)}+{address - mapping.start:#x}"  # noqa: PTH119

    def _text(self, blocks: NDArray[np.uint64]) -> str:
        """What texts begin with: of one all of it, of several what they have in common, or else the
        first of them."""
        step = max(len(blocks) // _MOST_SAMPLES, 1)
        texts = [self._text_at(one) for one in blocks[::step].tolist()[:_MOST_SAMPLES]]
        common = _common_start(min(texts, default=""), max(texts, default=""))
        if len(common) >= _LEAST_COMMON:
            return common
        return texts[0] if texts else ""

    def _text_at(self, address: int) -> str:
        data = self._image.read(address, _SAMPLE_BYTES)
        text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
        ends = (at for at, one in enumerate(text) if not (one.isprintable() or one in "\t\r\n"))
        return text[: next(ends, None)]


def _common_start(first: str, last: str) -> str:
    """What they have in common, and with them all that are between them in order."""
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]
