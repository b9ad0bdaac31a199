"""Many threads at once, short-lived threads, and millions of calls: figures are exact."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_eight_threads_free_each_others_blocks(compiled: Compiler) -> None:
    traced = trace_work([compiled("threads.c")])
    sizes = [100 + thread for thread in range(8)]
    assert traced.report.outstanding == Total(500 * sum(sizes), 8 * 500)
    assert traced.report.under("work") == traced.report.outstanding
    assert traced.report.losses == {}


def test_ten_thousand_short_threads(compiled: Compiler) -> None:
    traced = trace_work([compiled("churn.c")])
    assert traced.report.under("leak_one") == Total(32 * 10_000, 10_000)
    assert traced.report.outstanding == traced.report.under("leak_one")
    assert traced.report.losses == {}


def test_two_million_random_calls(compiled: Compiler) -> None:
    """The target's own account of what is live, after 2,000,000 calls by four threads."""
    traced = trace_work([compiled("random.c")])
    assert traced.report.outstanding == Total(*traced.account)
    assert traced.report.losses == {}
