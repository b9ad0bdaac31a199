"""Child processes that run a module of leaktrace."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def child_environment() -> dict[str, str]:
    """An environment in which a child process imports what this process imports.

    The search order stays the same. This package is found even if nothing on sys.path leads to it.
    """
    paths = [path for path in sys.path if path]
    parent = str(Path(__file__).resolve().parents[2])
    if parent not in paths:
        paths.append(parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
