"""The harness's fixtures, and the two kinds of links.

LEAKTRACE_LENGTH=long runs every combination (make test-safety); otherwise it is a choice of them,
for `make test`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness.fixtures import compiled

from leaktrace.bpf import links, syscalls
from leaktrace.bpf.links import UprobeLinks

__all__ = ["compiled"]


@pytest.fixture(params=[UprobeLinks.TOGETHER, UprobeLinks.EVENTS])
def kind(request: pytest.FixtureRequest) -> UprobeLinks:
    """How probes are attached."""
    chosen: UprobeLinks = request.param
    if chosen is UprobeLinks.TOGETHER and not links.has_uprobe_multi():
        pytest.skip("this kernel has no uprobe_multi links")
    return chosen


@pytest.fixture
def counting() -> Iterator[None]:
    """The kernel counts how often programs run."""
    stats = syscalls.enable_run_time_stats()
    yield
    os.close(stats)
