"""Files for other tools, of a process that says itself what it holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import NEVER, Tracer, run_leaktrace
from read_exports import read_massif, read_pprof

pytestmark = pytest.mark.usefixtures("require_bpf")

PROGRAM = "../../examples/leak.c"
ROUNDS, BYTES, BLOCKS = 7, 40_960, 10  # of a round, as the comment on top of the program says


def test_all_that_a_command_leaks_is_in_the_file(compiled: Compiler, tmp_path: Path) -> None:
    file = tmp_path / "heap.pb.gz"
    command = f"{compiled(PROGRAM)} {ROUNDS}"
    outcome = run_leaktrace("-c", command, "-f", "pprof", "--output", file, NEVER)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr.count("the last report: process") == 1
    profile = read_pprof(file.read_bytes())
    assert sum(profile.figures["inuse_space"].values()) == ROUNDS * BYTES
    assert sum(profile.figures["inuse_objects"].values()) == ROUNDS * BLOCKS
    for stack in profile.figures["inuse_space"]:
        assert stack[-1] == "remember_request"


def test_the_file_is_written_after_ctrl_c(compiled: Compiler, tmp_path: Path) -> None:
    file = tmp_path / "massif.out"
    with Target([compiled(PROGRAM)]) as target:
        options = ("-f", "massif", "-o", "0", "--output", file)
        with Tracer("-p", str(target.pid), "0.2", *options) as tracer:
            tracer.await_armed()
            # How many reports there are by then, and what they hold, makes no difference.
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert re.search(r"^the last report: interrupted \(SIGINT\)$", outcome.stderr, re.MULTILINE)
    snapshots = read_massif(file.read_bytes())
    assert snapshots[-1].tree is not None
    assert snapshots[-1].bytes % (BYTES // BLOCKS) == 0
