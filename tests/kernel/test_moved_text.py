"""Code that a program has moved to anonymous memory counts as its file's code if it is
unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Site, total
from harness.target import Target
from harness.tracer import Traced, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

KEEPERS = 64
FIRST_BYTES = 1000
# Without frame pointers, so that only unwind tables lead to main.
FLAGS = ("-fomit-frame-pointer",)


def trace(compiled: Compiler, how: str, when: str) -> Traced:
    return trace_work([compiled("moved_text.c", *FLAGS), how, when])


def kept(traced: Traced) -> dict[int, Site]:
    """The site of each block, by its number."""
    sites = [s for s in traced.report.sites if s.total.count == 1 and s.total.bytes < 4096]
    assert total(tuple(sites)).__dict__ == dict(
        zip(("bytes", "count"), traced.account, strict=True)
    )
    return {site.total.bytes - FIRST_BYTES: site for site in sites}


def text_of(pid: int, program: Path) -> list[str]:
    """The permissions of what lies where the program's file does, code that no file backs among it;
    "file" or "memory"."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    of_file = [i for i, fields in enumerate(lines) if fields[-1] == str(program)]
    return [
        "file" if len(fields) > 5 else "memory"
        for fields in lines[of_file[0] : of_file[-1] + 1]
        if "x" in fields[1]
    ]


@pytest.mark.parametrize(
    ("how", "expected"), [("all", ["memory"]), ("part", ["file", "memory", "file"])]
)
def test_it_is_moved(how: str, expected: list[str], compiled: Compiler) -> None:
    program = compiled("moved_text.c", *FLAGS)
    with Target([program, how, "early"]) as target:
        target.await_ready()
        assert text_of(target.pid, program) == expected


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("how", ["all", "part"])
def test_moved_text(how: str, when: str, compiled: Compiler) -> None:
    traced = trace(compiled, how, when)
    sites = kept(traced)
    assert sorted(sites) == list(range(KEEPERS))
    for number, site in sites.items():
        assert site.functions[:2] == (f"keep_{number:03o}", "main")
        assert site.functions[-1] == "_start"
        assert site.raw["stack_end"] == "complete"
        assert (site.frames[0].file or "").endswith("moved_text.c")
    assert traced.report.losses == {}


def test_changed_text(compiled: Compiler) -> None:
    """It may be anything, so the file's names and unwind rules are not used."""
    sites = kept(trace(compiled, "changed", "early"))
    for site in sites.values():
        assert site.functions[0] is None
        assert names(site.frames[0].unknown or "", "run time")
        assert site.raw["stack_end"] in ("broken", "guessed")
