"""How much memory this process may still take, without making others give up theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# The limit and the use of a cgroup: v2, v1.
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_bytes() -> int | None:
    """MemAvailable of the machine (proc_meminfo(5)), or what the cgroups of this process leave
    (memory.max; cgroups(7)), whichever is less. None: not known."""
    found = list(_left_by_cgroups())
    with suppress(OSError):
        text = Path("/proc/meminfo").read_text()
        if match := re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.M):
            found.append(int(match[1]) * 1024)
    return min(found, default=None)


def _left_by_cgroups() -> Iterator[int]:
    for folder in _folders():
        for limit, use in _FILES:
            with suppress(OSError, ValueError):  # "max", or no such file
                yield max(int((folder / limit).read_text()) - int((folder / use).read_text()), 0)


def _folders() -> Iterator[Path]:
    """The cgroups of this process, where they are usually mounted, and those above them."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(errors="surrogateescape").splitlines():
            hierarchy, controllers, path = line.split(":", 2)
            if hierarchy == "0":
                root = _CGROUPS
            elif "memory" in controllers.split(","):
                root = _CGROUPS / "memory"
            else:
                continue
            folder = root / path.lstrip("/")
            yield from (one for one in (folder, *folder.parents) if one.is_relative_to(root))
