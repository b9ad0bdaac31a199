"""Text in the bytes of a block, as strings(1) finds it."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from itertools import islice

from leaktrace.contents import Text
from leaktrace.printable import printable

LEAST_CHARACTERS = 4
MOST_TEXTS = 16
MOST_CHARACTERS = 256  # of a text that is shown
_WORD_BYTES = 8

# Well-formed UTF-8 without control characters of ASCII (RFC 3629, 4). A tab is text, as it is for
# strings(1).
_UTF8 = re.compile(
    rb"(?:[\t\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})+"
)
# Of UTF-16 only the characters of ASCII: any two bytes are some character.
_UTF16 = re.compile(rb"(?:[\t\x20-\x7e]\0){%d,}" % LEAST_CHARACTERS)

# std::string of libstdc++: the address of the text, its length, and room for 15 characters and a
# zero, which a short text is in.
_STRING_BYTES, _STRING_ROOM_AT, _SHORT_STRING_BYTES = 32, 16, 15


def texts_in(
    data: bytes,
    address: int | None = None,
    *,
    pointers: Collection[int] = (),
    most: int = MOST_TEXTS,
    longest: int = MOST_CHARACTERS,
) -> list[Text]:
    """The texts of at least four characters in the bytes of a block, the first `most` of them,
    each cut after `longest` characters.

    `address`: of the first byte; if it is given, a short std::string counts as text from two
    characters on. `pointers`: the offsets of words that are known to be pointers: what looks like
    text within one of them is chance.
    """
    strings = {} if address is None else dict(_short_strings(data, address))
    found = sorted(
        (start, end, encoding)
        for start, end, encoding in _runs(data)
        if not _is_in_one_of(pointers, start, end) and not _is_in_string(strings, start, end)
    )
    rooms = ((at + _STRING_ROOM_AT, size) for at, size in strings.items())
    found += [(at, at + size, "utf-8") for at, size in rooms]
    shown = (_text(data, *one, longest) for one in sorted(found))
    return list(islice(shown, most))


def _text(data: bytes, start: int, end: int, encoding: str, longest: int) -> Text:
    # A character has up to four bytes.
    text = data[start : min(end, start + 4 * (longest + 1))].decode(encoding, "replace")
    return Text(start, printable(text, longest), end - start, encoding)


def _runs(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Where text is: start, end and encoding."""
    for match in _UTF16.finditer(data):
        if match.start() % 2 == 0:
            yield match.start(), match.end(), "utf-16le"
    for match in _UTF8.finditer(data):
        if match.end() - match.start() >= LEAST_CHARACTERS:
            yield from _printable_parts(match.start(), match[0])


def _printable_parts(offset: int, text: bytes) -> Iterator[tuple[int, int, str]]:
    """The runs of characters that can be seen, of well-formed UTF-8."""
    if text.isascii():
        yield offset, offset + len(text), "utf-8"
        return
    count, start = 0, offset
    for character in text.decode("utf-8"):
        size = len(character.encode("utf-8"))
        if character.isprintable() or character == "\t":
            count += 1
        else:
            if count >= LEAST_CHARACTERS:
                yield start, offset, "utf-8"
            count, start = 0, offset + size
        offset += size
    if count >= LEAST_CHARACTERS:
        yield start, offset, "utf-8"


def _short_strings(data: bytes, address: int) -> Iterator[tuple[int, int]]:
    """Where a std::string with a text inside is, and the size of its text."""
    for at in range(0, len(data) - _STRING_BYTES + 1, _WORD_BYTES):
        pointer, size = struct.unpack_from("<QQ", data, at)
        room = at + _STRING_ROOM_AT
        if pointer != address + room or not 2 <= size <= _SHORT_STRING_BYTES:
            continue
        match = _UTF8.fullmatch(data, room, room + size)
        if match is not None and data[room + size] == 0:
            yield at, size


def _is_in_one_of(pointers: Collection[int], start: int, end: int) -> bool:
    word = start - start % _WORD_BYTES
    return word in pointers and end <= word + _WORD_BYTES


def _is_in_string(strings: Collection[int], start: int, end: int) -> bool:
    """Whether the bytes are in the room of a std::string: behind its text is what was there
    before."""
    word = start - start % _WORD_BYTES
    for room in (word, word - _WORD_BYTES):
        if room - _STRING_ROOM_AT in strings and end <= room + _STRING_BYTES - _STRING_ROOM_AT:
            return True
    return False
