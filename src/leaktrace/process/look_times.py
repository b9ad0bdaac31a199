"""When the mappings of a process have to be read again."""

from __future__ import annotations

import time

# After an exec, the dynamic loader maps the libraries one at a time.
_AFTER_EXEC_S = (0.002, 0.01, 0.05, 0.2, 1.0)
# After an object was loaded that the process had loaded before.
_AFTER_LOAD_S = 0.2


class LookTimes:
    """Times of time.monotonic()."""

    def __init__(self) -> None:
        self._due_s: list[float] = []

    def __bool__(self) -> bool:
        """Whether a look is due at some time."""
        return bool(self._due_s)

    def after_exec(self) -> None:
        """The process executes a program."""
        now_s = time.monotonic()
        self._due_s = [now_s + delay for delay in _AFTER_EXEC_S]

    def after_load(self) -> None:
        """The process loads an object that is known. A look that is due anyway is enough."""
        if not self._due_s:
            self._due_s = [time.monotonic() + _AFTER_LOAD_S]

    def at_once(self) -> None:
        """An event requires a look now."""
        self._due_s.insert(0, time.monotonic())

    def next_s(self) -> float | None:
        """When the next look is due; None: none is."""
        return self._due_s[0] if self._due_s else None

    def take_due(self) -> bool:
        """Whether a look is due now. The times up to now are forgotten."""
        now_s = time.monotonic()
        if not self._due_s or self._due_s[0] > now_s:
            return False
        self._due_s = [due for due in self._due_s if due > now_s]
        return True
