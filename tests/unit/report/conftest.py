"""Fixtures for all tests of reports."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """memleak's header shows local time."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
