"""The harness's fixtures, for the tests in this directory."""

from __future__ import annotations

from harness.fixtures import compiled

__all__ = ["compiled"]
