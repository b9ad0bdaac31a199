"""Stacks as a tree of calls, in tables of numbers: what the HTML pages draw.

Each path from the outermost frame is stored once, each frame once, each text once. 10,000 stacks
of 30 frames become some megabytes of JSON. A node of the tree has a smaller number than its
callees, so that values are added up in one pass from the end.
"""

from __future__ import annotations

from leaktrace.printable import printable
from leaktrace.report.names import module_name
from leaktrace.report.runtimes import is_own
from leaktrace.site import Frame, Stack, StackEnd

ROOT = 0  # the node that stands for all stacks

_INLINED, _OWN, _UNNAMED, _REMARK = 1, 2, 4, 8  # flags of a frame

# What stands in place of the callers that are not known.
_ENDS = {
    StackEnd.TRUNCATED: "(callers not walked: the stack is too deep)",
    StackEnd.BROKEN: "(callers unknown: the stack is broken)",
    StackEnd.LOST: "(stack lost)",
}
_NO_STACK = "(stack unknown)"


class CallTree:
    """Grows by one path per stack.

    Frames are recognized by their identity before they are compared: whoever adds a stack keeps it
    as long as the tree is used.
    """

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._frames: dict[tuple[int, int, int, int, int, int], int] = {}
        self._known: dict[int, int] = {}  # frame of each Frame, by its id()
        # The same by what is shown of it: frames that were read from a file may be equal.
        self._equal: dict[tuple[object, ...], int] = {}
        self._nodes: dict[tuple[int, int], int] = {}
        self._parents = [ROOT]
        self._frame_of = [self._remark("all")]

    def node(self, stack: Stack) -> int:
        """The number of the node at which a stack ends: its leaf."""
        node = ROOT
        remark = _ENDS.get(stack.end, "" if stack.frames else _NO_STACK)
        if remark:
            node = self._child(node, self._remark(remark))
        for frame in reversed(stack.frames):
            node = self._child(node, self.frame(frame))
        return node

    def frame(self, frame: Frame) -> int:
        """The number of a frame. It is kept by the caller, as stacks are."""
        number = self._known.get(id(frame))
        if number is None:
            number = self._known[id(frame)] = self._by_value(frame)
        return number

    def table(self) -> dict[str, object]:
        """As JSON. `parent` and `frame` are columns of nodes; the others are columns of frames, of
        which `text` ones are indices into `strings`."""
        columns = list(zip(*self._frames, strict=True))
        names = ("function", "offset", "module", "file", "line", "flags")
        return {
            "strings": list(self._strings),
            "frames": dict(zip(names, map(list, columns), strict=True)),
            "parent": self._parents,
            "frame": self._frame_of,
        }

    def _child(self, node: int, frame: int) -> int:
        child = self._nodes.get((node, frame))
        if child is None:
            child = self._nodes[node, frame] = len(self._parents)
            self._parents.append(node)
            self._frame_of.append(frame)
        return child

    def _by_value(self, frame: Frame) -> int:
        place = (frame.module_offset, frame.address) if frame.function is None else None
        source = frame.source
        at = (source.file, source.line) if source is not None else None
        key = (frame.function, frame.offset, frame.module, at, frame.inlined, place)
        number = self._equal.get(key)
        if number is None:
            number = self._equal[key] = self._new_frame(frame)
        return number

    def _new_frame(self, frame: Frame) -> int:
        flags = (_INLINED if frame.inlined else 0) | (_OWN if is_own(frame) else 0)
        module = "" if frame.module is None else module_name(frame.module)
        name, offset = frame.function, frame.offset
        if name is None:
            flags |= _UNNAMED
            if module and frame.module_offset is not None:
                name, offset = f"[{module}+{frame.module_offset:#x}]", 0
            else:
                name, offset = f"{frame.address:#x}", 0
        file, line = "", 0
        if frame.source is not None:
            file, line = frame.source.file, frame.source.line
        text = self._text
        return self._row((text(name), offset, text(module), text(file), line, flags))

    def _remark(self, text: str) -> int:
        return self._row((self._text(text), 0, 0, 0, 0, _REMARK))

    def _row(self, row: tuple[int, int, int, int, int, int]) -> int:
        return self._frames.setdefault(row, len(self._frames))

    def _text(self, text: str) -> int:
        return self._strings.setdefault(printable(text), len(self._strings))
