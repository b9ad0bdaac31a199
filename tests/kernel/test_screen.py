"""A report is read in one look: with the default options it fits a screen of 50 lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
from harness.target import Target
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

LINES = 50

PYTHON = """
import ctypes, json, select, sys
kept, first, numbers = [], {}, list(range(200_000))
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    n = len(kept)
    kept.append([bytearray(2000), bytes(1500), "x" * 1200, [0] * 300, set(range(99))])
    kept.append([{str(i): i for i in range(60)}, ctypes.create_string_buffer(900)])
    kept.append([json.loads(json.dumps(list(range(99)))), bytearray(900).ljust(3000)])
    kept.append([b"-".join([b"y" * 99] * 30), ("z" * 800).encode() * 3])
    first[n] = sorted(numbers[:500], reverse=True)
"""

NODE = """
const kept = [];
setInterval(() => {
  kept.push(Buffer.alloc(20000, 1), new ArrayBuffer(3000), new Uint8Array(5000));
  kept.push(JSON.parse(JSON.stringify({a: Array(200).fill("text " + kept.length)})));
  kept.push(Buffer.from("x".repeat(6000)), new SharedArrayBuffer(2000), new Float64Array(700));
}, 2);
console.log("ready");
process.stdin.on("end", () => process.exit(0)).resume();
"""


@pytest.mark.parametrize(
    ("tool", "flag", "script"), [("python3", "-c", PYTHON), ("node", "-e", NODE)]
)
def test_a_report_fits_a_screen(
    tool: str, flag: str, script: str, require_tool: Callable[[str], str]
) -> None:
    program = sys.executable if tool == "python3" else require_tool(tool)
    with Target([program, flag, script]) as target:
        target.await_ready()
        outcome = run_leaktrace("-p", str(target.pid), "2", "4")
    assert outcome.exit_code == 0, outcome.stderr
    reports = outcome.stdout.split("\n\nleaktrace  ")
    assert len(reports) == 4
    assert "GROWING +" in outcome.stdout
    # All ten sites are there.
    sites = re.findall(r"  oldest +\S+  [0-9a-f]{6,16}$", reports[-1], re.MULTILINE)
    assert len(sites) == 10, reports[-1]
    assert [len(one.splitlines()) <= LINES for one in reports] == [True] * 4, outcome.stdout
