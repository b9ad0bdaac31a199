"""Fixtures for tests of language runtimes."""

from __future__ import annotations

from harness.goroutines import go_heap, go_heap_profile, go_program

__all__ = ["go_heap", "go_heap_profile", "go_program"]
