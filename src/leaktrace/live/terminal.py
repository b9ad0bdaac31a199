"""The terminal while a live view is open: keys without Enter, a screen of its own, and all as it
was before when the view closes, however that happens. Sources: termios(3), xterm's control
sequences, console_codes(4).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
from types import FrameType
from typing import Any

from leaktrace.errors import OutputError
from leaktrace.report.delivery import Message, QueuedDestination

# The other screen, no cursor, no wrapping; and back.
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN_FRAME = "\x1b[?2026h\x1b[H"  # terminals that know it show the frame at once
_END_FRAME = "\x1b[?2026l"
# A terminal that doesn't take frames gets the newest ones later.
_MOST_WAITING_BYTES = 64 << 10
_WATCHED = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_DISABLED = b"\0"  # _POSIX_VDISABLE


class Terminal:
    """`keys`: the descriptor to read from; `screen`: the one to write to."""

    def __init__(self, keys: int, screen: int) -> None:
        self.keys = keys
        self._screen = screen
        self._before: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._is_stop_asked = False
        self._is_changed = False
        self._destination = QueuedDestination(
            "the terminal", screen, _MOST_WAITING_BYTES, is_quiet=True
        )

    def open(self) -> None:
        """Take the terminal. Raises OSError if it is none."""
        for number in _WATCHED:
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._take()

    def close(self) -> None:
        """Give it back. Does nothing the second time."""
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self._screen)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def paint(self, text: str, encoding: str) -> None:
        """Show a frame. It never waits long: a terminal that doesn't take it gets a later one."""
        if self._before is None:
            return
        # Each line is erased first: after one that fills the width, it would lose its last cell.
        framed = _BEGIN_FRAME + "\x1b[K" + text.replace("\n", "\r\n\x1b[K")
        if text.count("\n") + 1 < self.size()[1]:
            framed += "\r\n\x1b[J"  # what was below
        framed += _END_FRAME
        with contextlib.suppress(BrokenPipeError):
            self._destination.put(Message(framed.encode(encoding, "replace")))

    def read(self) -> bytes | None:
        """What was typed; b"": nothing, None: the terminal is gone."""
        try:
            if not select.select([self.keys], [], [], 0)[0]:
                return b""
            return os.read(self.keys, 4096) or None
        except OSError:
            return None

    def take_change(self) -> bool:
        """Do what signals asked for: stop (Ctrl-Z) with the terminal as it was, and go on later.
        Returns whether all has to be painted again."""
        if self._is_stop_asked:
            self._is_stop_asked = False
            self._stop()
            return True
        if self._is_changed:
            self._is_changed = False
            if self._before is not None:
                self._set_modes()  # after SIGCONT, a shell may have set others
                self._put(_ENTER)
            return True
        return False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self._is_stop_asked = True
        else:
            self._is_changed = True

    def _stop(self) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on.
        signal.signal(signal.SIGTSTP, self._on_signal)
        self._is_changed = False
        self._take()

    def _take(self) -> None:
        try:
            self._before = termios.tcgetattr(self.keys)
        except termios.error as error:
            raise OSError(*error.args) from error
        self._set_modes()
        self._put(_ENTER)

    def _set_modes(self) -> None:
        assert self._before is not None
        modes = [*self._before[:6], list(self._before[6])]
        modes[0] &= ~(termios.IXON | termios.ICRNL)
        # Ctrl-C and Ctrl-Z stay signals.
        modes[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        modes[6][termios.VQUIT] = _DISABLED  # it would end leaktrace without giving it back
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.keys, termios.TCSANOW, modes)

    def _give_back(self) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        self._put(_LEAVE)
        with contextlib.suppress(OutputError, BrokenPipeError):
            self._destination.finish(lambda: True)
        with contextlib.suppress(termios.error):  # it has been hung up
            termios.tcsetattr(self.keys, termios.TCSANOW, before)

    def _put(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._destination.put(Message(data))
