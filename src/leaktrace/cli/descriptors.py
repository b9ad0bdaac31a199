"""--fds: file descriptors, which are traced in addition to malloc, or instead of it."""

from __future__ import annotations

from typing import Any

from leaktrace.errors import UsageError
from leaktrace.options import MOST_PAIRS


def check_fds(asked: dict[str, Any]) -> None:
    """Raise UsageError if --fds contradicts other options."""
    if not asked["fds"]:
        return
    if asked["format_name"] == "memleak":
        raise UsageError(
            "-f memleak can't be combined with --fds: it has no place for file descriptors",
            "use -f text or -f json",
        )
    if asked["combined_only"]:
        raise UsageError(
            "--combined-only can't be combined with --fds: what a site has opened and not closed "
            "is known by each descriptor only",
            "leave out --combined-only",
        )
    if len(asked["pair"]) >= MOST_PAIRS:
        raise UsageError(
            f"--fds can be combined with {MOST_PAIRS - 1} pairs (--pair), but "
            f"{len(asked['pair'])} are given",
            "start another leaktrace for --fds",
        )
