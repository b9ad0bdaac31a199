"""Programs whose heaps are walked."""

from __future__ import annotations

from harness.fixtures import compiled

__all__ = ["compiled"]
