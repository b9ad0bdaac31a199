"""Fixtures that tests/kernel and tests/cli share."""

from __future__ import annotations

import pytest

from harness.compiling import Compiler


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Builds a program of tests/programs: `compiled("threads.c", "-static")`."""
    return Compiler(tmp_path_factory.mktemp("programs"))
