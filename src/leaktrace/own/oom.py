"""How likely the OOM killer is to choose leaktrace (proc_pid_oom_score_adj(5)).

The last report about a process that runs out of memory is the one that counts: leaktrace should
outlive it. Lowering the score takes CAP_SYS_RESOURCE. A child inherits it, and a command that
leaktrace starts must not: the process that leaks would be spared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_SCORE = Path("/proc/self/oom_score_adj")
_PROTECTED = -900  # -1000: never. Should leaktrace itself grow without bound, it may be killed.


class OomProtection:
    """The score at the start, and the lower one."""

    def __init__(self) -> None:
        self._at_start: str | None = None

    def begin(self) -> None:
        """Lower the score, where that is allowed."""
        with contextlib.suppress(OSError, ValueError):
            at_start = _SCORE.read_text()
            if int(at_start) > _PROTECTED:
                _SCORE.write_text(f"{_PROTECTED}\n")
                self._at_start = at_start

    def end(self) -> None:
        """Restore the score. Every process may raise its own."""
        if self._at_start is not None:
            with contextlib.suppress(OSError):
                _SCORE.write_text(self._at_start)


def be_the_first_victim() -> None:
    """If memory runs out by what leaktrace takes, it is killed, and not what it looks at."""
    with contextlib.suppress(OSError):  # /proc may be mounted read-only
        _SCORE.write_text("1000\n")


@contextlib.contextmanager
def first_victim() -> Iterator[None]:
    """The same for a while: as long as it holds a copy of a process's memory."""
    at_start = None
    with contextlib.suppress(OSError):
        at_start = _SCORE.read_text()
        be_the_first_victim()
    try:
        yield
    finally:
        if at_start is not None:
            with contextlib.suppress(OSError):
                _SCORE.write_text(at_start)


OWN_SCORE = OomProtection()
