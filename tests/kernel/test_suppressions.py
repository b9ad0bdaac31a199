"""--suppressions on a real process: known sites are left out, and the figures still add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Site, Total, total
from harness.tracer import run_leaktrace, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_matched_by_function_source_or_module(compiled: Compiler, tmp_path: Path) -> None:
    program, known = compiled("functions.c"), tmp_path / "known.txt"
    cases: dict[str, Callable[[Site], bool]] = {
        "leak:^scenario_calloc$": lambda site: "scenario_calloc" in site.functions,
        "leak:scenario_*realloc": lambda site: any(
            "_realloc" in (one or "") for one in site.functions
        ),
        f"leak:{program.name}": lambda _: True,
        "leak:/functions.c": lambda _: True,
        "leak:/other.c": lambda _: False,
    }
    all_sites = trace_work([program]).report.sites
    assert len(all_sites) > 5
    for line, matches in cases.items():
        known.write_text(f"# known\n{line}\n")
        report = trace_work([program], "--suppressions", str(known)).report
        hidden = tuple(site for site in all_sites if matches(site))
        suppressed = report.raw["suppressed"]
        assert suppressed["site_count"] == len(hidden), line
        assert Total(suppressed["bytes"], suppressed["count"]) == total(hidden)
        left = {site.raw["id"] for site in report.sites}
        assert left == {site.raw["id"] for site in all_sites if site not in hidden}
        assert report.outstanding == total(all_sites)


def test_the_text_says_what_is_left_out(compiled: Compiler, tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("leak:scenario_command_malloc\nleak:nothing_of_that_name\nthread:x\n")
    options = ["--suppressions", str(known), "-v", "-c", str(compiled("commands.c"))]
    outcome = run_leaktrace(*options, stdin="malloc 300 4096\n")
    assert outcome.exit_code == 0, outcome.stderr
    assert "scenario_command_malloc" not in outcome.stdout
    assert "suppressed: 1 site, 1.2 MiB in 300 allocations (1 pattern)" in outcome.stdout
    assert f"{known}, line 2: leak:nothing_of_that_name has matched no site" in outcome.stderr
    assert "line 1: leak" not in outcome.stderr
    assert "one line is for other sanitizers, and ignored (thread)" in outcome.stderr
