"""What holds the blocks of a site, or of a group (--holders), in words and as JSON.

held by g_sessions [httpd] → list or tree of its blocks +0x8: 12,288 of 12,288
held by stack of thread 4711 (worker) → block of new_batch 6f1d2a +0x18: 12 of 12,288
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.heap_report import GroupKind
from leaktrace.printable import printable
from leaktrace.reach import Holder, HolderKind, HolderStep
from leaktrace.report.function_names import shorten_symbol
from leaktrace.report.layout import wrapped
from leaktrace.report.names import module_name
from leaktrace.report.site_ids import ShortIds, shown_id

_MOST_LINES = 3
_NAME_CELLS = 40


def holder_lines(
    holders: Sequence[Holder], width: int, ids: ShortIds | None, most: int = _MOST_LINES
) -> Iterator[Text]:
    """A line for each way that leads to some blocks, the most common first. `most`: how many.
    Without `ids`, ids of sites are whole."""
    for one in holders[:most]:
        count = f"{one.count:,} of {one.of_count:,}"
        yield from wrapped("    held by ", f"{_path(one, ids)}: {count}", width)
    rest = holders[most:]
    if holders:
        others = holders[0].of_count - sum(one.count for one in holders)
        others += sum(one.count for one in rest)
        if others > 0:
            yield from wrapped("    held by ", f"others: {units.number(others)}", width)


def holder_objects(holders: Sequence[Holder]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "count": one.count,
            "of_count": one.of_count,
            "bytes": one.bytes,
            "path": [_step_object(step) for step in one.path],
        }
        for one in holders
    ]


def _step_object(step: HolderStep) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": step.kind.value, "name": _name(step.name)}
    if step.module is not None:
        shown["module"] = printable(step.module)
    if step.module_offset is not None:
        shown["module_offset"] = f"{step.module_offset:#x}"
    if step.thread is not None:
        shown |= {"thread": step.thread, "thread_name": _name(step.thread_name)}
    if step.kind is HolderKind.BLOCK:
        shown |= {"site": step.site, "repeats": step.repeats}
    if step.kind is HolderKind.GROUP:
        shown |= {
            "group": step.group,
            "least_bytes": step.least_bytes,
            "most_bytes": step.most_bytes,
            "repeats": step.repeats,
        }
    if step.kind is HolderKind.UNTRACKED:
        shown["repeats"] = step.repeats
    shown |= {"offset": step.offset, "last_offset": step.last_offset}
    shown["to_middle"] = step.to_middle
    return shown


def _name(name: str | None) -> str | None:
    return None if name is None else printable(name)


def _path(holder: Holder, ids: ShortIds | None) -> str:
    if not holder.path:
        return "something unknown"
    *before, last = holder.path
    steps = [_step_in_words(step, ids) + _offsets(step) for step in before]
    if last.kind not in (HolderKind.BLOCK, HolderKind.GROUP):
        steps.append(_step_in_words(last, ids))
    elif last.repeats:
        steps.append(f"list or tree of its blocks{_offsets(last)}")
    return " → ".join(steps)


def _step_in_words(step: HolderStep, ids: ShortIds | None) -> str:
    name = None if step.name is None else shorten_symbol(printable(step.name), _NAME_CELLS)
    module = "" if step.module is None else f" [{module_name(step.module)}]"
    thread = f"thread {step.thread}"
    if step.thread_name:
        thread += f" ({printable(step.thread_name)})"
    match step.kind:
        case HolderKind.VARIABLE:
            return f"{name}{module}"
        case HolderKind.DATA:
            at = "" if step.module_offset is None else f" at {step.module_offset:#x}"
            return f"{name or 'data'}{at}{module}"
        case HolderKind.TLS if name is not None:
            return f"thread-local {name} of {thread}{module}"
        case HolderKind.TLS:
            return f"thread-local storage of {thread}"
        case HolderKind.STACK:
            return f"stack of {thread}" + (f" in {name}" if name else "")
        case HolderKind.REGISTER:
            return f"register of {thread}"
        case HolderKind.UNTRACKED if step.offset is None:
            return "malloc memory without a record"
        case HolderKind.UNTRACKED:
            kind = "block" if name is None else name
            what = f"a list or tree of {name or 'blocks'}" if step.repeats else f"a {kind}"
            return f"{what} without a record"
        case HolderKind.MAPPING:
            return f"mapped memory {name or ''}".rstrip()
        case HolderKind.SHARED:
            return f"shared memory {name or ''}".rstrip()
        case HolderKind.GROUP:
            return _group_in_words(step, name)
    what = "list or tree" if step.repeats else "block"
    of = name or "an unknown function"
    return f"{what} of {of} {shown_id(step.site or '', ids)}"


def _group_in_words(step: HolderStep, name: str | None) -> str:
    if step.group == GroupKind.CLASS and name:
        return f"list or tree of {name}" if step.repeats else f"a {name}"
    least, most = step.least_bytes or 0, step.most_bytes or 0
    size = units.number(most)
    if least != most:
        size = f"{units.number(least)} to {size}"
    of = f" of {size} B"
    if step.group == GroupKind.TEXT:
        of += f' (text "{name}")' if name else " (text)"
    elif name:
        of += f" ({name})"
    return f"list or tree of blocks{of}" if step.repeats else f"a block{of}"


def _offsets(step: HolderStep) -> str:
    """Where in the step the pointers are, if that says something."""
    if step.offset is None or step.last_offset is None:
        return ""
    if step.offset == step.last_offset:
        return f" +{step.offset:#x}" if step.offset else ""
    return f" +{step.offset:#x}…{step.last_offset:#x}"
