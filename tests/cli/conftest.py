"""The harness's fixtures, for the tests in this directory."""

from __future__ import annotations

from harness.fixtures import compiled
from harness.goroutines import go_heap, go_heap_profile, go_program, go_refills

__all__ = ["compiled", "go_heap", "go_heap_profile", "go_program", "go_refills"]
