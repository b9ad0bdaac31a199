"""What a terminal sends, as keys. Source: ECMA-48, and xterm's control sequences."""

from __future__ import annotations

import codecs
import re

_NAMES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "1~": "home",
    "4~": "end",
    "5~": "pageup",
    "6~": "pagedown",
    "7~": "home",
    "8~": "end",
}
_PLAIN = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\t": "tab"}
_SEQUENCE = re.compile(r"\x1b[\[O]([0-9;]*)([A-Za-z~])")
_BEGINNING = re.compile(r"\x1b[\[O][0-9;]{0,16}")


class KeyParser:
    """Turns bytes into keys: a visible character is itself, others have names ("up", "enter")."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._text = ""

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete. Unknown sequences are left out."""
        self._text += self._decoder.decode(data)
        keys = []
        while self._text:
            found = _SEQUENCE.match(self._text)
            if found is not None:
                number = found[1].partition(";")[0]
                key = _NAMES.get(number + "~" if found[2] == "~" else found[2], "")
                length = found.end()
            elif _BEGINNING.fullmatch(self._text):
                break  # the rest of it is still to come
            elif self._text[0] == "\x1b":
                key, length = "escape", 1
            else:
                char = self._text[0]
                key, length = _PLAIN.get(char, char if char.isprintable() else ""), 1
            self._text = self._text[length:]
            if key:
                keys.append(key)
        return keys
