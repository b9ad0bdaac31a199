"""What is in blocks (--contents), in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.contents import (
    BlockContents,
    ContentsInfo,
    Pointer,
    PointerKind,
    Shared,
    SharedKind,
    SiteContents,
)
from leaktrace.printable import printable
from leaktrace.report.hexdump import BYTES, hexdump, row_cells
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.site_ids import ShortIds, shown_id

_MOST_DUMPED = 64  # bytes of a block
_MOST_NAMED = 12  # pointers and texts of a block
_LONGEST_NAME = 120
_LONGEST_TEXT = 60
_ROWS = (BYTES, BYTES // 2, BYTES // 4)
_INDENT, _OFFSET = "      ", 7  # cells


def contents_lines(contents: SiteContents, width: int, ids: ShortIds) -> Iterator[Text]:
    """What the blocks of a site share, and the oldest of them: one is enough if they share
    something."""
    read = units.counted(contents.read_count, "block")
    text = f"the oldest {read}" if contents.read_count > 1 else read
    if contents.gone_count:
        text += f" ({contents.gone_count:,} freed while they were read, left out)"
    yield from wrapped("    contents of ", text, width)
    for one in contents.shared:
        yield from wrapped(_INDENT, sentence(one, ids), width)
    shown: list[BlockContents] = []
    for block in contents.blocks[: 1 if contents.shared else None]:
        yield from _head(block, width)
        same = next((one for one in shown if block.data and _content(one) == _content(block)), None)
        if same is not None:
            yield from wrapped(_INDENT, f"the same as in {same.address:#x}", width)
        else:
            yield from _block(block, width, ids)
        shown.append(block)


def contents_problems(info: ContentsInfo, width: int) -> Iterator[Text]:
    """What could not be read."""
    for problem in info.problems:
        yield from wrapped("contents: ", printable(problem), width, "yellow")


def _content(block: BlockContents) -> object:
    return block.data, block.texts, block.pointers


def _head(block: BlockContents, width: int) -> Iterator[Text]:
    fields = [
        f"    {block.address:#x}",
        units.counted(block.size_bytes, "byte"),
        f"{units.age(block.age_ns)} old",
        *([] if block.pid is None else [f"pid {block.pid}"]),
    ]
    yield from flowed([Text(one, "bold") for one in fields], width)


def _block(block: BlockContents, width: int, ids: ShortIds) -> Iterator[Text]:
    if not block.data and block.size_bytes:
        yield from wrapped(_INDENT, "not in memory: never touched, or swapped out", width)
    room = width - len(_INDENT) - _OFFSET
    row_bytes = next((one for one in _ROWS if row_cells(one) <= room), _ROWS[-1])
    for offset, text in hexdump(block.data[:_MOST_DUMPED], row_bytes):
        yield Text(f"{_INDENT}{_at(offset):{_OFFSET}}{text}")
    named = [(one.offset, pointer_in_words(one, ids)) for one in block.pointers]
    for one in block.texts:
        said = f"text {_quoted(one.text)}"
        named.append((one.offset, f"{said}, {one.size:,} bytes" if _is_long(one.text) else said))
    named.sort(key=lambda one: one[0])
    for offset, words in named[:_MOST_NAMED]:
        yield from wrapped(f"{_INDENT}{_at(offset):{_OFFSET}}", words, width)
    if len(named) > _MOST_NAMED:
        more = f"... {len(named) - _MOST_NAMED} more pointers and texts"
        yield from wrapped(_INDENT, more, width)


def sentence(one: Shared, ids: ShortIds | None = None) -> str:
    """What blocks share. Without `ids`, ids of sites are whole."""
    count = f"{one.count:,}" if one.count < one.of_count else "all"
    who = f"{count} {one.of_count:,}" if count == "all" else f"{count} of {one.of_count:,}"
    if one.kind is SharedKind.SIZE:
        return f"{who} have {units.counted(one.size_bytes or 0, 'byte')}"
    if one.kind is SharedKind.ABSENT:
        return f"{who} are not in memory: never touched, or swapped out"
    if one.kind is SharedKind.ZERO:
        return f"{who} are zero, as far as they were read ({one.size_bytes:,} bytes)"
    if one.kind is SharedKind.SAME:
        return f"{who} have the same first {one.size_bytes:,} bytes"
    if one.kind is SharedKind.TEXT:
        text = "text" if one.text is None else f"text that begins with {_quoted(one.text)}"
        if one.offset == 0:
            return f"{who} begin with {text if one.text is None else _quoted(one.text)}"
        return f"{who} hold at {_at(one.offset)} {text}"
    assert one.pointer is not None
    where = "begin with" if one.offset == 0 else f"hold at {_at(one.offset)}"
    return f"{who} {where} {pointer_in_words(one.pointer, ids)}"


def pointer_in_words(pointer: Pointer, ids: ShortIds | None = None) -> str:
    """What a word points to. Without `ids`, the id of a site is whole."""
    name = printable(pointer.name or "", _LONGEST_NAME)
    if pointer.kind is PointerKind.CLASS:
        return f"the vtable of {name}"
    if pointer.kind is PointerKind.FUNCTION:
        return f"a pointer to the function {name}"
    if pointer.kind is PointerKind.DATA:
        return f"a pointer to the data {name}"
    if pointer.kind is PointerKind.STACK:
        return f"a pointer to the {name}"
    into = f" at {_at(pointer.into_bytes)}" if pointer.into_bytes else ""
    if pointer.is_own:
        return f"a pointer to the block itself{into}"
    site = "" if pointer.site_id is None else f" of site {shown_id(pointer.site_id, ids)}"
    return f"a pointer to a {f'{name} ' if name else ''}block{site}{into}"


def contents_object(contents: SiteContents) -> dict[str, Any]:
    """The JSON object of the blocks of a site."""
    return {
        "read_count": contents.read_count,
        "gone_count": contents.gone_count,
        "shared": [_shared_object(one) for one in contents.shared],
        "blocks": [_block_object(one) for one in contents.blocks],
    }


def contents_info_object(info: ContentsInfo) -> dict[str, Any]:
    """The JSON object of how blocks were read."""
    return {"problems": [printable(one) for one in info.problems]}


def _shared_object(one: Shared) -> dict[str, Any]:
    return {
        "kind": one.kind.value,
        "count": one.count,
        "of_count": one.of_count,
        "sentence": sentence(one),
        "offset": one.offset if one.kind in (SharedKind.POINTER, SharedKind.TEXT) else None,
        "size": one.size_bytes,
        "text": None if one.text is None else printable(one.text),
        "pointer": None if one.pointer is None else _meaning_object(one.pointer),
    }


def _block_object(block: BlockContents) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "address": f"{block.address:#x}",
        "size": block.size_bytes,
        "age_ns": block.age_ns,
        "hex": block.data.hex(),
        "text": [
            {
                "offset": one.offset,
                "text": printable(one.text),
                "size": one.size,
                "encoding": one.encoding,
            }
            for one in block.texts
        ],
        "pointers": [
            {"offset": one.offset, "value": f"{one.value:#x}", **_meaning_object(one)}
            for one in block.pointers
        ],
    }
    if block.pid is not None:
        shown["pid"] = block.pid
    return shown


def _meaning_object(pointer: Pointer) -> dict[str, Any]:
    return {
        "kind": pointer.kind.value,
        "name": None if pointer.name is None else printable(pointer.name),
        "site": None if pointer.site_id is None else printable(pointer.site_id),
        "into": pointer.into_bytes if pointer.kind is PointerKind.BLOCK else None,
        "own": pointer.is_own,
    }


def _at(offset: int) -> str:
    return f"+{offset:#04x}"


def _is_long(text: str) -> bool:
    return len(text) > _LONGEST_TEXT


def _quoted(text: str) -> str:
    return f'"{printable(text, _LONGEST_TEXT)}"'
