"""Recordings of the kernel, compared: what a program has made it allocate between two moments, and
in one run more than in another."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import Tracer, run_leaktrace

from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.features import require_kernel_mode

pytestmark = pytest.mark.alone("it sees what the whole machine allocates")

PIPES, SOCKETS, MORE_SOCKETS = 100, 50, 700
SOCKET = "sk_prot_alloc"  # net/core/sock.c: one for each socket

Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def require_kernel(require_root: None) -> None:
    """Skip unless the kernel can be traced on this machine."""
    try:
        require_kernel_mode()
    except EnvironmentUnfitError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture
def worker(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("kernel_work.c")]) as target:
        yield target.await_ready()


def recorded(path: Path, worker: Target, *steps: str, of_all: bool = False) -> Path:
    """A recording of the kernel with a mark after each step: step-0, step-1 …"""
    task = () if of_all else ("--task", str(worker.pid))
    with Tracer("--kernel", *task, "-o", "0", "-f", "json", "--record", path, "3600") as tracer:
        tracer.stderr.until(lambda line: "tracing the kernel" in line)
        for number, step in enumerate(steps):
            worker.do(step)
            marked = run_leaktrace("mark", f"step-{number}", "-p", str(tracer.pid))
            assert marked.exit_code == 0, marked.stderr
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    return path


def shown(path: Path, at: str) -> Json:
    """A report of a recording as `leaktrace show` has it."""
    outcome = run_leaktrace("show", path, "--at", at, "-f", "json", "-T", "100000")
    assert outcome.exit_code == 0, outcome.stderr
    found: Json = json.loads(outcome.stdout)
    assert found["target"]["kind"] == "kernel"
    return found


def compared(*words: str | Path) -> Json:
    outcome = run_leaktrace("diff", *words, "-f", "json", "-T", "100000")
    assert outcome.exit_code == 0, outcome.stderr
    found: Json = json.loads(outcome.stdout)
    return found


def parts(report: Json) -> dict[str, Json]:
    """Slab, and each other allocator."""
    return {"slab": report, **{one["section"]: one for one in report["sections"]}}


def held(sites: list[Json], side: str | None = None) -> Counter[tuple[str, str]]:
    """Bytes by site id; of one side of a diff."""
    sums: Counter[tuple[str, str]] = Counter()
    for site in sites:
        if side is None:
            sums[site["id"], "bytes"] += site["bytes"]
            sums[site["id"], "count"] += site["count"]
        else:
            (site_id,) = set(site["base_ids"] + site["new_ids"])  # in one build by id only
            sums[site_id, "bytes"] += site[side]["held"]["bytes"]
            sums[site_id, "count"] += site[side]["held"]["count"]
    return sums


def changes(base: Json, new: Json) -> Counter[tuple[str, str]]:
    """What two reports differ by, computed from these alone."""
    difference = held(new["sites"])
    difference.subtract(held(base["sites"]))
    return difference


def assert_agrees(diff: Json, base: Json, new: Json) -> None:
    """A diff says what both of its reports say, and leaves out nothing that has changed."""
    base_parts, new_parts = parts(base), parts(new)
    diff_parts = parts(diff)
    assert set(diff_parts) == set(base_parts) & set(new_parts)
    for name, part in diff_parts.items():
        one, other = base_parts[name], new_parts[name]
        assert part["base_total"] == one["outstanding"]["bytes"]
        assert part["new_total"] == other["outstanding"]["bytes"]
        assert one["site_count"] == len(one["sites"])
        assert other["site_count"] == len(other["sites"])
        in_diff = held(part["sites"], "new")
        in_diff.subtract(held(part["sites"], "base"))
        expected = changes(one, other)
        assert {key: n for key, n in in_diff.items() if n} == {
            key: n for key, n in expected.items() if n
        }
        for side, report in (("base", one), ("new", other)):
            listed, in_report = held(part["sites"], side), held(report["sites"])
            assert all(in_report[key] == n for key, n in listed.items()), (name, side)


def of_sockets(diff: Json) -> Json:
    """The site that allocates the sockets themselves."""
    found: list[Json] = diff["sites"]
    (site,) = [one for one in found if one["frames"][0]["function"] == SOCKET]
    return site


def cache_of(report: Json, ids: list[str]) -> str:
    (found,) = {site["cache"] for site in report["sites"] if site["id"] in ids}
    assert found in Path("/proc/slabinfo").read_text().split()
    return str(found)


def missed(*reports: Json) -> int:
    """Events that the kernel says it has skipped: each may be an object too many or too few."""
    return sum(int(one["losses"].get("recursion_misses", 0)) for one in reports)


def test_two_moments_of_one_run(worker: Target, tmp_path: Path) -> None:
    path = recorded(tmp_path / "run.rec.gz", worker, f"open {PIPES}", f"sockets {MORE_SOCKETS}")
    base, new = shown(path, "step-0"), shown(path, "step-1")
    diff = compared(f"{path}@step-0", f"{path}@step-1")
    assert diff["same_run"]
    assert_agrees(diff, base, new)
    site = of_sockets(diff)
    assert site["change"] == "came"
    assert abs(site["new"]["held"]["count"] - MORE_SOCKETS) <= missed(new)
    assert (site["cache"], site["context"]) == (cache_of(new, site["new_ids"]), "process")
    # The pipes were there before, and are there still.
    pipes = [one for one in diff["sites"] if one["frames"][0]["function"] == "alloc_pipe_info"]
    assert sum(one["new_value"] - one["base_value"] for one in pipes) == 0
    assert diff["unchanged"]["count"] > 0
    text = run_leaktrace("diff", f"{path}@step-0", path, "-T", "100000")
    assert text.exit_code == 0, text.stderr
    verdict = " ".join(text.stdout.split("sites matched")[0].split())
    assert re.search(rf"slab: MORE \+[0-9.]+ [KM]iB .* explains? .* of it, .*{SOCKET}", verdict)
    assert f"+{site['new']['held']['count']} blocks" in text.stdout
    assert site["cache"] in text.stdout


def test_two_runs(compiled: Compiler, tmp_path: Path) -> None:
    """The kernel is the same in both: sites are matched by id."""
    paths = []
    for number, sockets in enumerate((SOCKETS, MORE_SOCKETS)):
        with Target([compiled("kernel_work.c")]) as worker:
            worker.await_ready()
            path = tmp_path / f"run-{number}.rec"
            steps = (f"open {PIPES}", f"sockets {sockets}")
            paths.append(recorded(path, worker, *steps))
    base, new = (shown(path, "step-1") for path in paths)
    diff = compared(*(f"{path}@step-1" for path in paths))
    assert not diff["same_run"]
    assert_agrees(diff, base, new)
    site = of_sockets(diff)
    assert (site["change"], site["rule"]) == ("grew", "id")
    count = site["new"]["held"]["count"] - site["base"]["held"]["count"]
    assert abs(count - (MORE_SOCKETS - SOCKETS)) <= missed(base, new)
    # A socket's own object is the largest of those that come with it.
    assert diff["sites"][0] == site
    each = site["difference"] // count
    assert site["difference"] == each * count


def test_what_is_there_still(worker: Target, tmp_path: Path) -> None:
    steps = (f"open {PIPES}", f"sockets {MORE_SOCKETS}", "close")
    path = recorded(tmp_path / "run.rec", worker, *steps)
    words = (f"{path}@step-0", f"{path}@step-1", "--still-at", "step-2")
    still = compared(*words)
    (site,) = [one for one in still["sites"] if one["frames"][0]["function"] == SOCKET]
    assert site["exact"]
    assert abs(site["at_least"]["count"] - MORE_SOCKETS) <= missed(shown(path, "step-2"))
    assert site["cache"] == cache_of(shown(path, "last"), [site["id"]])
    # The pipes are from before, and have been closed.
    went = compared(f"{path}@step-1", f"{path}@step-2")
    assert_agrees(went, shown(path, "step-1"), shown(path, "step-2"))
    pipes = [one for one in went["sites"] if one["frames"][0]["function"] == "alloc_pipe_info"]
    assert pipes
    assert {one["change"] for one in pipes} == {"went"}


def test_the_whole_machine(worker: Target, tmp_path: Path) -> None:
    """Whatever else it allocates, the sockets are among what has grown, in their number."""
    steps = (f"sockets {SOCKETS}", f"sockets {MORE_SOCKETS}")
    path = recorded(tmp_path / "run.rec", worker, *steps, of_all=True)
    base, new = shown(path, "step-0"), shown(path, "step-1")
    diff = compared(f"{path}@step-0", f"{path}@step-1")
    assert_agrees(diff, base, new)
    grown = [
        site["new"]["held"]["count"] - site["base"]["held"]["count"]
        for site in diff["sites"]
        if site["frames"] and site["frames"][0]["function"] == SOCKET
    ]
    # Others may open a few, too.
    assert max(grown) >= MORE_SOCKETS - missed(new)
    assert max(grown) <= MORE_SOCKETS + MORE_SOCKETS // 2
